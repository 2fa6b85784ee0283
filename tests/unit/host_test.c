/*
 * host_test.c: `minivmm host`: what it lists, what it finds missing, who it says uses a device,
 * and devices bound and given back in a played sysfs whose drivers come and go as the kernel's.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "vmm/host.h"
#include "vmm/util.h"

#define REAL   "/sys/devices/pci0000:40/"
#define CARD   REAL "0000:42:00.0"
#define SOUND  REAL "0000:42:00.1"
#define BRIDGE REAL "0000:40:01.0"

static struct fake_vfio_kernel *k;

/* ---- the kernel's part in binding ---- */

static char writes[2048];     /* "/sys/... = text\n", in order, those that bind and unbind */
static const char *unwilling; /* this device binds to nothing */

static void bind_to(const char *name, const char *driver)
{
    char path[128];
    snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s", driver);
    if (driver[0] && access(path, F_OK) == 0 && !(unwilling && !strcmp(unwilling, name)))
        fake_sysfs_driver(name, driver);
}

/* NAME is for the driver that its override says, else for its own, whose name is in own_driver.
 */
static void probe(const char *name)
{
    char dir[128], driver[64];
    snprintf(dir, sizeof(dir), REAL "%s", name);
    vfio_sysfs_driver(dir, driver, sizeof(driver));
    if (driver[0])
        return;
    vfio_sysfs_line(dir, "driver_override", driver, sizeof(driver));
    if (!driver[0])
        vfio_sysfs_line(dir, "own_driver", driver, sizeof(driver));
    bind_to(name, driver);
}

static void act(const char *path, const char *text)
{
    char dir[128], driver[64];
    size_t len = strlen(writes);
    const char *rest = strstr(path, "/drivers/");
    if (!strncmp(path, "/run/", 5))
        return;
    cr_expect_neq(text[0], '\0', "no write, the kernel hears nothing");
    snprintf(writes + len, sizeof(writes) - len, "%s = %s%s", path, text,
             strchr(text, '\n') ? "" : "\n");
    if (strstr(path, "/driver/unbind")) {
        snprintf(dir, sizeof(dir), REAL "%s/driver", text);
        cr_expect_eq(unlink(dir), 0);
    } else if (strstr(path, "/drivers_probe")) {
        probe(text);
    } else if (rest && sscanf(rest, "/drivers/%63[^/]/bind", driver) == 1) {
        bind_to(text, driver);
    }
}

/* Its own calls are not among those that fail. */
static void kernel_acts(const char *path, const char *text)
{
    unsigned calls = k->calls, fail_at = k->fail_at;
    k->fail_at = 0;
    act(path, text);
    k->fail_at = fail_at;
    k->calls = calls;
}

static void add_driver(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/unbind", name);
    fake_file(path, "");
    snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/bind", name);
    fake_file(path, "");
}

static void set(const char *name, const char *attribute, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), REAL "%s/%s", name, attribute);
    fake_file(path, text);
}

static void add_device(const char *name, int group, const char *driver, const char *class)
{
    fake_sysfs_device(name, group, driver);
    set(name, "driver_override", "");
    set(name, "own_driver", driver ? driver : "");
    set(name, "class", class);
}

/* A card of two functions behind a bridge, all in one group. */
static void set_up(void)
{
    k = fake_vfio_kernel_init();
    k->written = kernel_acts;
    writes[0] = '\0';
    unwilling = NULL;
    fake_file("/sys/bus/pci/drivers_probe", "");
    add_driver("vfio-pci");
    add_driver("nouveau");
    add_driver("snd_hda_intel");
    add_device("0000:42:00.0", FAKE_GROUP, "nouveau", "0x030000\n");
    add_device("0000:42:00.1", FAKE_GROUP, "snd_hda_intel", "0x040300\n");
    add_device("0000:40:01.0", FAKE_GROUP, "pcieport", "0x060400\n");
    fake_file("/run/x", "");
}

TestSuite(host, .init = set_up, .fini = fake_vfio_kernel_fini);

/* ---- running it ---- */

static char out[32768];

/* Blanks part the arguments. What it prints is left in `out`. */
static int host(const char *line)
{
    char words[256], *argv[16] = {"host"}, *rest;
    int argc = 1;
    snprintf(words, sizeof(words), "%s", line);
    for (char *w = strtok_r(words, " ", &rest); w; w = strtok_r(NULL, " ", &rest))
        argv[argc++] = w;
    int saved = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0), fd = memfd_create("out", MFD_CLOEXEC);
    fflush(stdout);
    dup2(fd, STDOUT_FILENO);
    int status = host_main(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    ssize_t len = pread(fd, out, sizeof(out) - 1, 0);
    out[len < 0 ? 0 : len] = '\0';
    close(fd);
    close(saved);
    return status;
}

static const char *driver_of(const char *name)
{
    static char driver[64];
    char path[128];
    snprintf(path, sizeof(path), REAL "%s", name);
    vfio_sysfs_driver(path, driver, sizeof(driver));
    return driver;
}

static const char *remembered(const char *name)
{
    static char text[64];
    if (!vfio_sysfs_has("/run/minivmm", name))
        return NULL;
    vfio_sysfs_line("/run/minivmm", name, text, sizeof(text));
    return text;
}

/* ---- command line ---- */

Test(host, command_line)
{
    static const char *const wrong[] = {
        "",       "frobnicate",   "list --force", "check --json",  "bind",
        "unbind", "bind --force", "list --jso",   "bind - 42:00.0"};
    for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
        cr_expect_eq(host(wrong[i]), 2, "%s", wrong[i]);
        cr_expect_str_eq(out, "");
        cr_expect_eq(fake_log_lines(fake_log(), "see minivmm host --help"), 1, "%s", wrong[i]);
    }
    cr_expect_eq(host("--help"), 0);
    cr_expect(strstr(out, "Usage: minivmm host list"));
    cr_expect_eq(host("bind -h"), 0);
    cr_expect_eq(host("list 42:00.9"), 4);
    cr_expect_eq(host("bind unix:/x"), 4);
    cr_expect_eq(host("bind mdev:a/b"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "cannot"), 3);
    cr_expect_eq(host_main(3, (char *const[]){"host", "check", ""}), 4, "an empty variable");
    cr_expect_eq(fake_log_lines(fake_log(), "cannot"), 1);
    cr_expect_str_eq(writes, "");
}

/* ---- list ---- */

static const char ids[] = "# comment\n"
                          "10dd  Other\n\t1b80  Not this\n"
                          "10de  NVIDIA Corporation\n"
                          "\t0020  NV4\n\t\t1043 1b80  Subsystem\n"
                          "# in between\n"
                          "\t1b80  GP104 [GeForce GTX 1080]\n"
                          "8086  Intel\n\t10f0  Not NVIDIA's\n"
                          "C 03  Display controller\n\t00  VGA compatible controller\n"
                          "\t\t00  VGA controller\n"
                          "C 04  Multimedia controller\n";

static void add_ids(void)
{
    set("0000:42:00.0", "vendor", "0x10de\n");
    set("0000:42:00.0", "device", "0x1b80\n");
    set("0000:42:00.1", "vendor", "0x10de\n");
    set("0000:42:00.1", "device", "0x10f0\n");
    fake_file("/usr/share/misc/pci.ids", ids);
}

Test(host, list)
{
    add_ids();
    set("0000:42:00.0", "reset_method", "flr bus\n");
    set("0000:42:00.0", "resource",
        "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"
        "0x0000004000000000 0x0000007fffffffff 0x000000000014220c\n"
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        "0x00000000f0000000 0x00000000f1ffffff 0x000000000014220c\n"
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        "0x000000000000e000 0x000000000000e07f 0x0000000000040101\n"
        "0x00000000f7000000 0x00000000f707ffff 0x0000000000046200\n"
        "0x00000000f8000000 0x00000000f8ffffff 0x0000000000040200\n");
    fake_file(CARD "/mdev_supported_types/nvidia-18", NULL);
    fake_file(CARD "/mdev_supported_types/nvidia-11", NULL);
    set("0000:42:00.1", "sriov_numvfs", "2\n");
    set("0000:42:00.1", "sriov_totalvfs", "7\n");
    fake_sysfs_platform("AMDI0010:00", 3, NULL, "");
    fake_sysfs_platform("not-isolated", -1, NULL, "");
    static const char *const row[][11] = {
        {"ADDRESS", "ID", "CLASS", "GROUP", "DRIVER", "RESET", "BARS", "VFS", "MOST",
         "MDEV TYPES", "NAME"},
        {"0000:40:01.0", "-", "0x060400", "15", "pcieport", "-", "-", "-", "-", "-", "-"},
        {"0000:42:00.0", "10de:1b80", "0x030000", "15", "nouveau", "flr bus",
         "0:16M/32 1:256G/64p 3:32M/64p 5:128/io rom:512K/32p", "-", "-", "nvidia-11 nvidia-18",
         "VGA compatible controller: NVIDIA Corporation GP104 [GeForce GTX 1080]"},
        {"0000:42:00.1", "10de:10f0", "0x040300", "15", "snd_hda_intel", "-", "-", "2", "7",
         "-", "Multimedia controller: NVIDIA Corporation"},
        {"AMDI0010:00", "-", "-", "3", "-", "-", "-", "-", "-", "-", "-"},
    };
    char want[2048] = "";
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        size_t len = strlen(want);
        snprintf(want + len, sizeof(want) - len,
                 "%-12s  %-9s  %-8s  %-5s  %-13s  %-7s  %-51s  %-3s  %-4s  %-19s  %s\n",
                 row[i][0], row[i][1], row[i][2], row[i][3], row[i][4], row[i][5], row[i][6],
                 row[i][7], row[i][8], row[i][9], row[i][10]);
    }
    cr_expect_eq(host("list"), 0);
    cr_expect_str_eq(out, want, "%s%s", out, want);
    cr_expect_str_eq(fake_log(), "");
}

/* The kernel's mtty sample is such a parent; one that is a PCI device is listed once. */
Test(host, list_has_parents_of_mediated_devices_that_are_on_no_bus)
{
    fake_file("/sys/class/mdev_bus/mtty/mdev_supported_types/mtty-2", NULL);
    fake_link("/sys/class/mdev_bus/mtty/subsystem", "../../class/mtty");
    fake_file("/sys/class/mdev_bus/0000:42:00.0/mdev_supported_types/nvidia-18", NULL);
    fake_link("/sys/class/mdev_bus/0000:42:00.0/subsystem", "../../bus/pci");
    cr_expect_eq(host("list"), 0);
    cr_expect(strstr(out, "\nmtty ") && strstr(strstr(out, "\nmtty "), " mtty-2\n"), "%s", out);
    cr_expect_not(strstr(out, "nvidia-18"), "%s", out);
}

Test(host, list_without_pci_ids_and_of_one_device)
{
    cr_expect_eq(host("list 42:00.1 42:00.1"), 0);
    cr_expect_str_eq(out, "ADDRESS       CLASS     GROUP  DRIVER\n"
                          "0000:42:00.1  0x040300  15     snd_hda_intel\n");
}

Test(host, list_as_json)
{
    add_ids();
    fake_file("/usr/share/misc/pci.ids", "");
    set("0000:42:00.0", "reset_method", "device_specific flr\n");
    set("0000:42:00.0", "resource", "0xf6000000 0xf60fffff 0x40200\n");
    set("0000:42:00.0", "sriov_totalvfs", "8\n");
    set("0000:42:00.0", "sriov_numvfs", "-1\n");
    cr_expect_eq(host("list --json 42:00"), 0);
    cr_expect_str_eq(out,
                     "[\n {\"address\": \"0000:42:00.0\",\n"
                     "  \"id\": \"10de:1b80\",\n"
                     "  \"class\": \"0x030000\",\n"
                     "  \"iommu_group\": 15,\n"
                     "  \"driver\": \"nouveau\",\n"
                     "  \"reset_methods\": [\"device_specific\", \"flr\"],\n"
                     "  \"bars\": [\"0:1M/32\"],\n"
                     "  \"vfs\": null,\n"
                     "  \"vfs_max\": 8,\n"
                     "  \"physfn\": null,\n"
                     "  \"mdev_types\": [],\n"
                     "  \"name\": null},\n"
                     " {\"address\": \"0000:42:00.1\",\n"
                     "  \"id\": \"10de:10f0\",\n"
                     "  \"class\": \"0x040300\",\n"
                     "  \"iommu_group\": 15,\n"
                     "  \"driver\": \"snd_hda_intel\",\n"
                     "  \"reset_methods\": [],\n"
                     "  \"bars\": [],\n"
                     "  \"vfs\": null,\n"
                     "  \"vfs_max\": null,\n"
                     "  \"physfn\": null,\n"
                     "  \"mdev_types\": [],\n"
                     "  \"name\": null}\n]\n",
                     "%s", out);
}

/* Names that would end a string, drive a terminal, or are no UTF-8. */
Test(host, list_of_hostile_names)
{
    fake_sysfs_driver("0000:42:00.0", "a\"b\\c\033[2J\xff\x7f");
    fake_file(CARD "/mdev_supported_types/x\"y", NULL);
    set("0000:42:00.0", "reset_method", "\x01 \"\\\n");
    cr_expect_eq(host("list --json 42:00.0"), 0);
    cr_expect(strstr(out, "\"driver\": \"a\\\"b\\\\c?[2J??\""), "%s", out);
    cr_expect(strstr(out, "\"mdev_types\": [\"x\\\"y\"]"), "%s", out);
    cr_expect(strstr(out, "\"reset_methods\": [\"?\", \"\\\"\\\\\"]"), "%s", out);
    cr_expect_eq(host("list 42:00.0"), 0);
    cr_expect(strstr(out, "a\"b\\c?[2J??  "), "%s", out);
}

Test(host, list_of_broken_files)
{
    static const char *const resource[] = {"", "\n\n\n", "x y z\n", "0x1 0x2\n0x0 0xfff 0x200",
                                           "0x0 0xffffffffffffffff 0x200\n"};
    static const char *const bars[] = {"BARS", "BARS", "BARS", "1:4K/32", "0:0/32"};
    static const char *const ids_file[] = {
        "", "10de", "\n10de  ", "\n10de  A\n\t1b80", "\t1b80  B\n", "\n10de  A\n\t1b80  "};
    add_ids();
    for (size_t i = 0; i < ARRAY_SIZE(resource); i++) {
        set("0000:42:00.0", "resource", resource[i]);
        cr_expect_eq(host("list 42:00.0"), 0);
        cr_expect_eq(strstr(out, bars[i]) != NULL, i > 2, "%s: %s", resource[i], out);
    }
    for (size_t i = 0; i < ARRAY_SIZE(ids_file); i++) {
        fake_file("/usr/share/misc/pci.ids", ids_file[i]);
        cr_expect_eq(host("list 42:00.0"), 0);
    }
}

Test(host, list_of_a_machine_without_pci)
{
    fake_vfio_kernel_fini();
    k = fake_vfio_kernel_init();
    unlink(FAKE_SYSFS);
    cr_expect_eq(host("list"), 0);
    cr_expect_str_eq(out, "");
    cr_expect_eq(host("list --json"), 0);
    cr_expect_str_eq(out, "[\n]\n");
}

/* ---- in use ---- */

static struct host_use use;

static bool in_use(const char *path)
{
    use = (struct host_use){"", ""};
    return host_in_use(path, &use);
}

#define EXPECT_USE(path, user, command)      \
    do {                                     \
        cr_expect(in_use(path), "%s", user); \
        cr_expect_str_eq(use.who, user);     \
        cr_expect_str_eq(use.fix, command);  \
    } while (0)

static void add_class(const char *path, const char *class)
{
    char link[256], target[64];
    fake_file(path, NULL);
    snprintf(link, sizeof(link), "%s/subsystem", path);
    snprintf(target, sizeof(target), "../../../../../../class/%s", class);
    fake_link(link, target);
}

#define DISK CARD "/nvme/nvme0/nvme0n1"

static void add_disk(void)
{
    add_class(CARD "/nvme/nvme0", "nvme");
    add_class(DISK, "block");
    add_class(DISK "/nvme0n1p1", "block");
    fake_file(DISK "/dev", "259:0\n");
    fake_file(DISK "/nvme0n1p1/dev", "259:1\n");
    fake_file(DISK "/holders", NULL);
    fake_file(DISK "/nvme0n1p1/holders", NULL);
}

Test(host, an_idle_device)
{
    add_disk();
    fake_file("/proc/self/mountinfo", "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n"
                                      "23 1 259:10 / /a rw - ext4 /dev/nvme0n1p10 rw\n");
    fake_file("/proc/swaps",
              "Filename Type Size Used Priority\n/dev/nvme0n1p10 partition 1 0 -2\n");
    cr_expect_not(in_use(CARD), "%s", use.who);
    cr_expect_not(in_use(FAKE_SYSFS), "%s", use.who);
}

Test(host, a_mounted_disk)
{
    add_disk();
    fake_file("/proc/self/mountinfo",
              "21 1 0:5 / /proc rw shared:1 - proc proc rw\n"
              "22 1 259:1 / /srv/a\\040b rw,x shared:1 - ext4 /dev/root rw\n");
    EXPECT_USE(FAKE_SYSFS, "mounted on /srv/a\\040b (/dev/nvme0n1p1)", "umount /srv/a\\040b");
    /* btrfs has a number of its own. */
    fake_file("/proc/self/mountinfo",
              "garbage\n\n22 1 0:30 / /srv rw - btrfs /dev/nvme0n1p1 rw");
    EXPECT_USE(CARD, "mounted on /srv (/dev/nvme0n1p1)", "umount /srv");
}

Test(host, a_disk_that_something_is_made_of)
{
    add_disk();
    fake_file("/proc/swaps", "Filename Type\n/dev/nvme0n1p1\tpartition\n");
    EXPECT_USE(CARD, "used for swapping (/dev/nvme0n1p1)", "swapoff /dev/nvme0n1p1");
    fake_file(DISK "/nvme0n1p1/holders/dm-0", NULL);
    fake_file("/proc/swaps", "");
    EXPECT_USE(CARD, "part of dm-0 (/dev/nvme0n1p1)", "close (dmsetup, mdadm, vgchange) dm-0");
}

/* ZFS, or mounted where this process does not see it. */
Test(host, a_disk_that_the_kernel_has_claimed)
{
    add_disk();
    k->busy = "/dev/nvme0n1p1";
    EXPECT_USE(CARD, "claimed by the kernel (/dev/nvme0n1p1)", "see lsblk /dev/nvme0n1p1");
}

Test(host, a_disk_with_several_paths)
{
    add_class(CARD "/nvme/nvme0", "nvme");
    add_class(CARD "/nvme/nvme0/nvme0c1n2", "block");
    add_class("/sys/devices/virtual/x/y/nvme0n2", "block");
    fake_file("/sys/devices/virtual/x/y/nvme0n2/dev", "259:7\n");
    fake_link("/sys/class/block/nvme0n2", "../../devices/virtual/x/y/nvme0n2");
    cr_expect_not(in_use(CARD));
    fake_file("/proc/self/mountinfo", "22 1 259:7 / / rw - ext4 /dev/root rw\n");
    EXPECT_USE(CARD, "mounted on / (/dev/nvme0n2)", "umount /");
}

Test(host, a_network_interface)
{
    add_class(CARD "/net/eth0", "net");
    fake_file(CARD "/net/eth0/flags", "0x1002\n");
    cr_expect_not(in_use(CARD));
    fake_file(CARD "/net/eth0/flags", "0x1003\n");
    EXPECT_USE(CARD, "the network interface eth0, which is up", "ip link set down eth0");
}

Test(host, the_console)
{
    add_class(CARD "/graphics/fb0", "graphics");
    fake_file("/sys/class/vtconsole/vtcon0/name", "(S) dummy device\n");
    fake_file("/sys/class/vtconsole/vtcon0/bind", "1\n");
    fake_file("/sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n");
    fake_file("/sys/class/vtconsole/vtcon1/bind", "0\n");
    cr_expect_not(in_use(CARD));
    fake_file("/sys/class/vtconsole/vtcon1/bind", "1\n");
    EXPECT_USE(CARD, "the kernel's console (fb0)", "echo 0 > /sys/class/vtconsole/vtcon1/bind");
    cr_expect_not(in_use(SOUND));
    /* The firmware's frame buffer is no child of the card. */
    set("0000:42:00.1", "boot_vga", "1\n");
    EXPECT_USE(SOUND, "the kernel's console (firmware)",
               "echo 0 > /sys/class/vtconsole/vtcon1/bind");
    fake_file("/sys/class/vtconsole/vtcon1/name", "(S) VGA+\n");
    cr_expect(in_use(SOUND));
    cr_expect_not(in_use(CARD));
}

Test(host, a_process)
{
    fake_file("/proc/12/comm", "Xorg\n");
    fake_link("/proc/12/fd/5", "/dev/dri/card1");
    add_class(CARD "/drm/card0", "drm");
    fake_file(CARD "/drm/card0/dev", "226:0\n");
    fake_file(CARD "/drm/card0/uevent", "MAJOR=226\nMINOR=0\nDEVNAME=dri/card0\nDEVTYPE=x\n");
    cr_expect_not(in_use(CARD));
    fake_link("/proc/12/fd/6", "/dev/dri/card0");
    EXPECT_USE(CARD, "process 12 (Xorg) has /dev/dri/card0 open", "fuser -k /dev/dri/card0");
    fake_file(CARD "/drm/card0/uevent", "");
    cr_expect_not(in_use(CARD));
    fake_file("/proc/driver/nvidia/gpus/0000:42:00.0/information",
              "Model: \t\t NVIDIA\nDevice Minor: \t 3\n");
    fake_link("/proc/12/fd/7", "/dev/nvidia3");
    EXPECT_USE(CARD, "process 12 (Xorg) has /dev/nvidia3 open", "fuser -k /dev/nvidia3");
}

Test(host, virtual_functions)
{
    set("0000:42:00.0", "sriov_numvfs", "0\n");
    cr_expect_not(in_use(CARD));
    set("0000:42:00.0", "sriov_numvfs", "4\n");
    EXPECT_USE(CARD, "its 4 virtual functions", "echo 0 > " CARD "/sriov_numvfs");
}

Test(host, a_virtual_machine)
{
    int fd = open("/dev/vfio/15", O_RDWR | O_CLOEXEC);
    fake_file("/proc/77/comm", "minivmm\n");
    fake_link("/proc/77/fd/3", "/dev/vfio/15");
    EXPECT_USE(CARD, "process 77 (minivmm)", "fuser -k /dev/vfio/15");
    close(fd);
    cr_expect_not(in_use(CARD));
    k->cdevs = true;
    fake_sysfs_driver("0000:42:00.0", "vfio-pci");
    cr_expect_not(in_use(CARD));
    fake_link("/proc/77/fd/3", FAKE_CDEV);
    EXPECT_USE(CARD, "process 77 (minivmm) has " FAKE_CDEV " open", "fuser -k " FAKE_CDEV);
}

/* ---- bind, unbind ---- */

Test(host, bind_and_unbind)
{
    cr_assert_eq(host("bind 42:00.0"), 0, "%s", fake_log());
    cr_expect_str_eq(driver_of("0000:42:00.0"), "vfio-pci");
    cr_expect_str_eq(driver_of("0000:42:00.1"), "vfio-pci", "the whole group");
    cr_expect_str_eq(driver_of("0000:40:01.0"), "pcieport", "but bridges");
    cr_expect_str_eq(remembered("0000:42:00.0"), "nouveau");
    cr_expect_str_eq(remembered("0000:42:00.1"), "snd_hda_intel");
    cr_expect_str_eq(fake_log(),
                     "minivmm: 0000:42:00.0: bound to vfio-pci (was: nouveau)\n"
                     "minivmm: 0000:42:00.1: bound to vfio-pci (was: snd_hda_intel)\n");
#define GROUP "/sys/kernel/iommu_groups/15/devices/"
    cr_expect_str_eq(writes, FAKE_SYSFS "/driver_override = vfio-pci\n" FAKE_SYSFS
                                        "/driver/unbind = 0000:42:00.0\n"
                                        "/sys/bus/pci/drivers_probe = 0000:42:00.0\n" GROUP
                                        "0000:42:00.1/driver_override = vfio-pci\n" GROUP
                                        "0000:42:00.1/driver/unbind = 0000:42:00.1\n"
                                        "/sys/bus/pci/drivers_probe = 0000:42:00.1\n");

    cr_expect_eq(host("bind 42:00"), 0, "again");
    cr_expect_eq(fake_log_lines(fake_log(), "bound to vfio-pci already"), 2);
    cr_expect_str_eq(remembered("0000:42:00.0"), "nouveau", "still");

    writes[0] = '\0';
    cr_expect_eq(host("unbind 42:00.1"), 0);
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
    cr_expect_str_eq(driver_of("0000:42:00.1"), "snd_hda_intel");
    cr_expect_null(remembered("0000:42:00.0"));
    cr_expect_null(remembered("0000:42:00.1"));
    cr_expect_str_eq(fake_log(), "minivmm: 0000:42:00.1: given back to snd_hda_intel\n"
                                 "minivmm: 0000:42:00.0: given back to nouveau\n");
    cr_expect(strstr(writes, "0000:42:00.1/driver_override = \n"), "%s", writes);
    cr_expect(strstr(writes, "/drivers/nouveau/bind = 0000:42:00.0\n"), "%s", writes);
}

/* Chipsets have sound beside the bridge to ISA, whose driver VFIO does not leave there. */
Test(host, bind_takes_a_bridge_to_isa_from_its_driver)
{
    add_driver("lpc_ich");
    add_device("0000:40:1f.0", FAKE_GROUP, "lpc_ich", "0x060100\n");
    add_device("0000:40:00.0", FAKE_GROUP, NULL, "0x060000\n");
    cr_expect_eq(host("bind 40:1f.0"), 4, "not by its name");
    cr_assert_eq(host("bind 42:00.0"), 0, "%s", fake_log());
    cr_expect_str_eq(driver_of("0000:40:1f.0"), "vfio-pci");
    cr_expect_str_eq(driver_of("0000:40:01.0"), "pcieport");
    cr_expect_str_eq(driver_of("0000:40:00.0"), "", "in nobody's way");
    cr_expect_eq(host("unbind 42:00.0"), 0);
    cr_expect_str_eq(driver_of("0000:40:1f.0"), "lpc_ich");
}

Test(host, a_device_that_had_no_driver_has_none_again)
{
    unlink(CARD "/driver");
    cr_assert_eq(host("bind 42:00.0"), 0);
    cr_expect_str_eq(remembered("0000:42:00.0"), "");
    cr_expect_eq(host("unbind 42:00.0"), 0);
    cr_expect_str_eq(driver_of("0000:42:00.0"), "", "its own driver would have taken it");
    cr_expect_eq(fake_log_lines(fake_log(), "given back to no driver"), 1);
}

/* Bound by hand or at boot: the kernel chooses. */
Test(host, unbind_what_is_not_remembered)
{
    fake_sysfs_driver("0000:42:00.0", "vfio-pci");
    set("0000:42:00.0", "driver_override", "vfio-pci\n");
    cr_expect_eq(host("unbind 42:00.0"), 0);
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
    cr_expect_str_eq(driver_of("0000:42:00.1"), "snd_hda_intel");
    cr_expect_eq(host("unbind 42:00.0"), 0, "it has its driver");
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
}

Test(host, unbind_without_the_drivers_module)
{
    cr_assert_eq(host("bind 42:00.0"), 0);
    fake_log();
    unlink("/sys/bus/pci/drivers/nouveau/bind");
    cr_expect_eq(host("unbind 42:00.0"), 4);
    cr_expect_eq(
        fake_log_lines(fake_log(), "modprobe nouveau; minivmm host unbind 0000:42:00.0"), 1);
    cr_expect_str_eq(driver_of("0000:42:00.1"), "snd_hda_intel", "the others all the same");
    cr_expect_str_eq(remembered("0000:42:00.0"), "nouveau");
    add_driver("nouveau");
    cr_expect_eq(host("unbind 42:00.0"), 0, "as it said");
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
    cr_expect_null(remembered("0000:42:00.0"));
}

Test(host, bind_refuses_what_is_in_use)
{
    add_class(SOUND "/net/eth0", "net");
    fake_file(SOUND "/net/eth0/flags", "0x1003\n");
    cr_expect_eq(host("bind 42:00.0"), 4);
    cr_expect_str_eq(fake_log(),
                     "minivmm: 0000:42:00.1: cannot take device: in use: the network interface "
                     "eth0, which is up; ip link set down eth0, or say --force\n");
    cr_expect_str_eq(writes, "");
    cr_expect_null(remembered("0000:42:00.0"));
    cr_expect_eq(host("bind --force 42:00.0"), 0);
    cr_expect_str_eq(driver_of("0000:42:00.1"), "vfio-pci");
}

Test(host, unbind_refuses_what_a_vm_has)
{
    cr_assert_eq(host("bind 42:00.0"), 0);
    int fd = open("/dev/vfio/15", O_RDWR | O_CLOEXEC);
    writes[0] = '\0';
    fake_log();
    cr_expect_eq(host("unbind 42:00.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "in use: another process"), 1);
    cr_expect_str_eq(writes, "");
    cr_expect_eq(host("unbind --force 42:00.0"), 0);
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
    close(fd);
}

Test(host, bind_puts_back_what_it_changed)
{
    unwilling = "0000:42:00.1";
    add_device("0000:42:00.2", FAKE_GROUP, "nouveau", "0x0c0330\n");
    cr_expect_eq(host("bind 42:00.0"), 4);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, "0000:42:00.1: cannot bind device to VFIO"), 1, "%s", log);
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
    cr_expect_str_eq(driver_of("0000:42:00.2"), "nouveau");
    cr_expect_not(strstr(writes, "0000:42:00.2"), "not reached");
    cr_expect_null(remembered("0000:42:00.0"));
    cr_expect_null(remembered("0000:42:00.2"));
    char text[16];
    vfio_sysfs_line(CARD, "driver_override", text, sizeof(text));
    cr_expect_str_eq(text, "");
}

/* Each call failing once: a bind that fails leaves every driver where it was. */
Test(host, bind_each_call_fails)
{
    unsigned failed = 0;
    bool reached = true;
    for (unsigned n = 1; reached; n++) {
        k->calls = 0;
        k->fail_at = n;
        k->fail_errno = EIO;
        int status = host("bind 42:00.0");
        reached = k->calls >= n;
        k->fail_at = 0;
        failed += status != 0;
        /* Reading whether a device has a driver and the way back may be what failed. */
        cr_expect(!status || fake_log_lines(fake_log(), "cannot") > 0, "call %u", n);
        if (!status)
            cr_expect_str_eq(driver_of("0000:42:00.0"), "vfio-pci", "call %u", n);
        else
            cr_expect_str_neq(driver_of("0000:42:00.0"), "vfio-pci", "call %u", n);
        cr_assert_eq(host("unbind 42:00.0"), 0, "call %u", n);
        fake_sysfs_driver("0000:42:00.0", "nouveau");
        fake_sysfs_driver("0000:42:00.1", "snd_hda_intel");
        fake_log();
        cr_assert_lt(n, 500);
    }
    cr_expect_gt(failed, 5);
}

Test(host, bind_what_cannot_be)
{
    cr_expect_eq(host("bind 40:01.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "it is a bridge"), 1);
    add_device("0000:50:00.0", -1, NULL, "0x020000\n");
    cr_expect_eq(host("bind 50:00.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "in no IOMMU group"), 1);
    fake_remove("/sys/bus/pci/drivers/vfio-pci");
    cr_expect_eq(host("bind 42:00.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "run as root: modprobe vfio-pci"), 1);
    fake_remove("/sys/bus/pci/drivers_probe");
    cr_expect_eq(host("bind 42:00.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "host: cannot change drivers"), 1);
    cr_expect_eq(host("unbind 42:00.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "host: cannot change drivers"), 1);
    cr_expect_str_eq(writes, "");
}

Test(host, bind_without_the_driver)
{
    fake_sysfs_platform("f0a00000.dma", 3, NULL, "");
    cr_expect_eq(host("bind /sys/bus/platform/devices/f0a00000.dma"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "modprobe vfio-platform"), 1);
}

Test(host, bind_more_than_there_is_room_for)
{
    char name[16];
    for (int i = 0; i < 65; i++) {
        snprintf(name, sizeof(name), "0000:50:%02x.%d", i / 8, i % 8);
        add_device(name, 7, NULL, "0x020000\n");
    }
    cr_expect_eq(host("bind 50:00.0"), 4);
    cr_expect_eq(fake_log_lines(fake_log(), "more than 64"), 1);
    cr_expect_str_eq(writes, "");
}

Test(host, bind_by_id_takes_one_that_is_idle)
{
    add_device("0000:43:00.0", 16, "nouveau", "0x030000\n");
    add_ids();
    set("0000:43:00.0", "vendor", "0x10de\n");
    set("0000:43:00.0", "device", "0x1b80\n");
    set("0000:42:00.0", "sriov_numvfs", "1\n");
    cr_expect_eq(host("bind 10de:1b80"), 0);
    cr_expect_str_eq(driver_of("0000:43:00.0"), "vfio-pci");
    cr_expect_str_eq(driver_of("0000:42:00.0"), "nouveau");
    cr_expect_eq(host("bind 10de:1b80:2"), 4);
    cr_expect_eq(host("unbind 10de:1b80"), 0);
    cr_expect_str_eq(driver_of("0000:43:00.0"), "nouveau");
}

/* ---- check ---- */

/* The answer to a question and what is to be done about it. */
static void expect_answer(const char *line, const char *fix)
{
    const char *at = strstr(out, line);
    cr_expect(at, "no '%s' in: %s", line, out);
    if (!at)
        return;
    at += strcspn(at, "\n") + 1;
    const char *arrow = strstr(at, "-> ");
    bool has_fix = arrow && arrow - at == 30;
    cr_expect_eq(has_fix, fix != NULL, "%s: %s", line, out);
    if (has_fix && fix)
        cr_expect_eq(strncmp(arrow + 3, fix, strlen(fix)), 0, "%s: %.100s", line, arrow);
}

Test(host, check_without_an_iommu)
{
    fake_remove("/sys/kernel/iommu_groups");
    fake_remove("/sys/bus/pci/drivers/vfio-pci");
    cr_expect_eq(host("check"), 4);
    expect_answer("no    IOMMU                 no IOMMU group in /sys/kernel/iommu_groups",
                  "turn the IOMMU (VT-d, AMD-Vi) on in the firmware\n");
    expect_answer("no    interrupt remapping   off", "comes with the IOMMU\n");
    expect_answer("no    VFIO                  vfio-pci is not loaded", "modprobe vfio-pci\n");
    cr_expect(strstr(out, "\nnot ready: 4 to mend\n"), "%s", out);
    fake_file("/proc/cpuinfo", "flags : hypervisor x\n");
    host("check");
    expect_answer("no    IOMMU ", "give this virtual machine an IOMMU;");
    fake_file("/sys/firmware/acpi/tables/IVRS", "");
    host("check");
    expect_answer("no    IOMMU ", "take amd_iommu=off");
    fake_file("/sys/firmware/acpi/tables/DMAR", "");
    host("check");
    expect_answer("no    IOMMU ", "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /'");
}

Test(host, check_kvm)
{
    cr_expect_eq(host("check"), 4);
    expect_answer("no    KVM                   /dev/kvm: No such file or directory",
                  "turn virtualisation (VT-x, AMD-V or SVM) on in the firmware\n");
    fake_file("/proc/cpuinfo", "flags\t\t: fpu vme hypervisor lahf_lm\n");
    host("check");
    expect_answer("no    KVM ", "allow nested virtualisation");
    fake_file("/proc/cpuinfo", "flags\t\t: fpu svm avic lahf_lm\n");
    host("check");
    expect_answer("no    KVM ", "modprobe kvm_amd\n");
    expect_answer("note  APIC emulation        not known", NULL);
    fake_file("/sys/module/kvm_amd/parameters/avic", "N\n");
    fake_file("/sys/module/kvm_amd/parameters/nested", "1\n");
    host("check");
    expect_answer("note  APIC emulation        kvm_amd: avic=N nested=1",
                  "for faster interrupts: modprobe -r kvm_amd; modprobe kvm_amd avic=1\n");
    fake_file("/proc/cpuinfo", "flags\t\t: fpu vmx lahf_lm\n");
    fake_file("/dev/kvm", "no KVM\n");
    k->denied = "/dev/kvm";
    host("check");
    expect_answer("no    KVM                   /dev/kvm: Permission denied",
                  "usermod -aG kvm $(");
    k->denied = NULL;
    host("check");
    expect_answer("no    KVM                   /dev/kvm cannot be used", NULL);
    expect_answer("note  APIC emulation        kvm_amd: avic=N nested=1", NULL);
    cr_expect_eq(fake_log_lines(fake_log(), "/dev/kvm: cannot use KVM"), 1);
}

Test(host, check_iommu_and_interrupts)
{
    fake_file("/proc/interrupts", "  1: 0 IO-APIC   1-edge  i8042\n");
    host("check");
    expect_answer("yes   IOMMU ", NULL);
    expect_answer("no    interrupt remapping   off", "turn it (x2APIC) on");
    fake_file("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
    host("check");
    expect_answer("note  interrupt remapping   off, and VFIO told to go without", NULL);
    fake_file("/proc/interrupts", " 26: 0 IR-PCI-MSIX-0000:00:01.0  0-edge  x\n");
    host("check");
    expect_answer("yes   interrupt remapping   on", NULL);
}

Test(host, check_vfio_and_memory)
{
    host("check");
    expect_answer("no    VFIO                  there is no /dev/vfio/vfio", "in a container: ");
    fake_file("/dev/vfio/vfio", "");
    host("check");
    expect_answer("yes   VFIO                  vfio-pci is loaded", NULL);
    expect_answer("note  huge pages            transparent: no; reserved: 0 of 2 MiB, 0 free",
                  NULL);
    fake_remove("/dev/vfio/vfio");
    fake_file("/dev/iommu", "");
    host("check");
    expect_answer("yes   VFIO                  vfio-pci is loaded; there is iommufd\n", NULL);
    fake_file("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    fake_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
              "always within_size advise [never] deny force\n");
    fake_file("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "512\n");
    fake_file("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "12\n");
    host("check");
    expect_answer(
        "note  huge pages            transparent: always within_size advise [never] deny "
        "force; reserved: 512 of 2 MiB, 12 free",
        "for a faster start: echo advise > "
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled\n");
}

Test(host, check_a_device)
{
    cr_expect_eq(host("check 42:00.0"), 4);
    expect_answer("no    driver and group      nouveau; group 15: 0000:40:01.0 pcieport, "
                  "0000:42:00.0 nouveau, 0000:42:00.1 snd_hda_intel",
                  "minivmm host bind 0000:42:00.0\n");
    expect_answer("yes   in use                by nobody", NULL);
    expect_answer("no    permission            the group has no node",
                  "comes with the driver\n");
    set("0000:42:00.0", "sriov_numvfs", "4\n");
    fake_file("/dev/vfio/15", "");
    host("check 42:00.0");
    expect_answer("no    in use                its 4 virtual functions",
                  "echo 0 > /sys/bus/pci");
    expect_answer("yes   permission            to use /dev/vfio/15", NULL);
    k->denied = "/dev/vfio/15";
    host("check 42:00.0");
    expect_answer("no    permission            none to use /dev/vfio/15", "chown ");
    fake_sysfs_driver("0000:42:00.0", "vfio-pci");
    host("check 42:00.0");
    expect_answer("no    driver and group      vfio-pci", "minivmm host bind 0000:42:00.0\n");
    fake_sysfs_driver("0000:42:00.1", "vfio-pci");
    host("check 42:00.0");
    expect_answer("yes   driver and group      vfio-pci", NULL);
    add_device("0000:50:00.0", -1, NULL, "0x020000\n");
    host("check 50:00.0");
    expect_answer("no    driver and group      no driver; in no IOMMU group",
                  "comes with the IOMMU\n");
}

/* Without CONFIG_VFIO_GROUP, or where the user may have the device alone. */
Test(host, check_of_a_devices_own_node)
{
    char fix[64];
    snprintf(fix, sizeof(fix), "chown %u " FAKE_CDEV " /dev/iommu\n", getuid());
    k->cdevs = true;
    fake_sysfs_driver("0000:42:00.0", "vfio-pci");
    fake_file(FAKE_CDEV, "");
    host("check 42:00.0");
    expect_answer("no    permission            the group has no node",
                  "comes with the driver\n");
    fake_file("/dev/iommu", "");
    host("check 42:00.0");
    expect_answer("yes   permission            to use " FAKE_CDEV "\n", NULL);
    k->denied = "/dev/iommu";
    host("check 42:00.0");
    expect_answer("no    permission            none to use " FAKE_CDEV, fix);
    k->denied = "/dev/vfio/";
    host("check 42:00.0");
    expect_answer("no    permission            none to use " FAKE_CDEV, fix);
    fake_file("/dev/vfio/15", "");
    k->denied = "/dev/vfio/15";
    host("check 42:00.0");
    expect_answer("yes   permission            to use " FAKE_CDEV "\n", NULL);
    fake_file("/proc/interrupts", "  1: 0 IO-APIC   1-edge  i8042\n");
    host("check");
    expect_answer("no    interrupt remapping   off", "turn it (x2APIC) on");
    fake_file("/sys/module/iommufd/parameters/allow_unsafe_interrupts", "Y\n");
    host("check");
    expect_answer("note  interrupt remapping   off, and VFIO told to go without", NULL);
}

/* With this machine's own KVM. */
Test(host, check_of_what_is_ready)
{
    fake_vfio_kernel_fini();
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        cr_skip_test("/dev/kvm is not usable: %s", strerror(errno));
    close(fd);
    set_up();
    fake_link("/dev/kvm", "/dev/kvm");
    fake_file("/dev/vfio/vfio", "");
    fake_file("/dev/vfio/15", "");
    fake_file("/proc/interrupts", " IR-IO-APIC\n");
    cr_assert_eq(host("bind 42:00.0"), 0);
    setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){1 << 30, 1 << 30});
    cr_expect_eq(host("check 42:00.0"), 0, "%s%s", out, fake_log());
    cr_expect(strstr(out, "\nready\n"), "%s", out);
}
