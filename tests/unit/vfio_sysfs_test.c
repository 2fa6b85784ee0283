/*
 * vfio_sysfs_test.c: device names as users write them, drivers, groups, who holds a node.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "vfio/vfio.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/util.h"

static struct fake_vfio_kernel *k;

static void set_up(void)
{
    k = fake_vfio_kernel_init();
}

TestSuite(vfio_sysfs, .init = set_up, .fini = fake_vfio_kernel_fini);

#define REAL "/sys/devices/pci0000:40/0000:42:00.0"

Test(vfio_sysfs, finds_every_way_of_writing)
{
    static const char *const text[][2] = {
        {"0000:42:00.0", FAKE_SYSFS},
        {"42:00.0", FAKE_SYSFS},
        {FAKE_SYSFS, REAL},
        {FAKE_SYSFS "/", REAL},
        {REAL, REAL},
        {"0:42:0.0", FAKE_SYSFS},
    };
    char path[64];
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        cr_expect_eq(vfio_sysfs_find(text[i][0], path, sizeof(path)), 0, "%s", text[i][0]);
        cr_expect_str_eq(path, text[i][1]);
        cr_expect_str_eq(vfio_sysfs_name(path), FAKE_DEVICE);
    }
    cr_expect_str_eq(fake_log(), "");
}

Test(vfio_sysfs, long_domains_and_capital_digits)
{
    char path[64];
    fake_sysfs_device("10000:ab:1f.7", 3, NULL);
    cr_expect_eq(vfio_sysfs_find("10000:AB:1F.7", path, sizeof(path)), 0);
    cr_expect_str_eq(path, "/sys/bus/pci/devices/10000:ab:1f.7");
}

Test(vfio_sysfs, refuses_what_is_no_address)
{
    static const char *const text[] = {
        "",         "42",        "42:00",   "42:00.8",    "42:20.0",         "0x42:00.0",
        "42:00.0 ", " 42:00.0",  "-2:00.0", "10de:1b80",  "10de:1b80:2",     "42:00.0,x",
        "42:00.00", "00:42:00.", "::.",     "0000:42:00", "123456789:2:0.0", "gpu",
        "42.00.0",  "42:00:0",   "unix:/x", "+0:42:00.0", "42:00.0\n",
    };
    char path[64];
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        cr_expect_eq(vfio_sysfs_find(text[i], path, sizeof(path)), -EINVAL, "%s", text[i]);
        const char *log = fake_log();
        cr_expect_eq(fake_log_lines(log, "cannot"), 1, "%s", log);
        cr_expect_eq(fake_log_lines(log, ""), 1, "%s", log);
    }
}

Test(vfio_sysfs, names_a_device_that_is_not_there)
{
    char path[64];
    cr_expect_eq(vfio_sysfs_find("43:00.0", path, sizeof(path)), -ENOENT);
    cr_expect_str_eq(fake_log(), "minivmm: 0000:43:00.0: cannot find device: this machine has "
                                 "none there; minivmm host list shows them\n");
    cr_expect_eq(vfio_sysfs_find("/sys/bus/pci/devices/x", path, sizeof(path)), -ENOENT);
    cr_expect_eq(fake_log_lines(fake_log(), "No such file"), 1);
}

Test(vfio_sysfs, refuses_paths_that_are_no_device)
{
    static const char *const text[] = {"/", "/sys/bus/pci/devices", "/tmp",
                                       "/sys/kernel/iommu_groups/15"};
    char path[64], small[16];
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        cr_expect_eq(vfio_sysfs_find(text[i], path, sizeof(path)), -ENODEV, "%s", text[i]);
        cr_expect_eq(fake_log_lines(fake_log(), "cannot use"), 1);
    }
    /* Does not fit: refused, not cut to another name. */
    cr_expect_eq(vfio_sysfs_find(REAL, small, sizeof(small)), -ENODEV);
}

Test(vfio_sysfs, driver_and_group)
{
    char driver[16];
    fake_sysfs_device("0000:43:00.0", -1, NULL);
    vfio_sysfs_driver(FAKE_SYSFS, driver, sizeof(driver));
    cr_expect_str_eq(driver, "vfio-pci");
    cr_expect_eq(vfio_sysfs_group(FAKE_SYSFS), FAKE_GROUP);
    vfio_sysfs_driver("/sys/bus/pci/devices/0000:43:00.0", driver, sizeof(driver));
    cr_expect_str_eq(driver, "");
    cr_expect_eq(vfio_sysfs_group("/sys/bus/pci/devices/0000:43:00.0"), -ENOENT);
}

Test(vfio_sysfs, platform_devices)
{
    struct vfio_device dev = {.compatible = "?", .hid = "?"};
    char path[64], bus[16];
    fake_sysfs_platform("f0a00000.dma", 3, "vfio-platform", "vendor,dma-2");
    cr_expect_eq(vfio_sysfs_find("/sys/bus/platform/devices/f0a00000.dma", path, sizeof(path)),
                 0);
    cr_expect_str_eq(path, "/sys/devices/platform/f0a00000.dma");
    vfio_sysfs_bus(path, bus, sizeof(bus));
    cr_expect_str_eq(bus, "platform");
    vfio_sysfs_bus(FAKE_SYSFS, bus, sizeof(bus));
    cr_expect_str_eq(bus, "pci");
    cr_expect(vfio_sysfs_is_vfio(path, "vfio-platform"));
    vfio_sysfs_identify(path, &dev);
    cr_expect_str_eq(dev.compatible, "vendor,dma-2");
    cr_expect_str_eq(dev.hid, "", "no ACPI here");
}

/* As the kernel shows a property: strings with their NULs. And one too long for us. */
Test(vfio_sysfs, the_first_compatible_string)
{
    static const char list[] = "vendor,dma-2\0vendor,dma";
    struct vfio_device dev = {0};
    char name[128];
    fake_sysfs_platform("f0a00000.dma", 3, NULL, "");
    int fd =
        open("/sys/devices/platform/f0a00000.dma/of_node/compatible", O_WRONLY | O_CLOEXEC);
    cr_assert_eq(write(fd, list, sizeof(list)), (ssize_t)sizeof(list));
    close(fd);
    vfio_sysfs_identify("/sys/bus/platform/devices/f0a00000.dma", &dev);
    cr_expect_str_eq(dev.compatible, "vendor,dma-2");
    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    fake_sysfs_platform("f0a00000.dma", 3, NULL, name);
    vfio_sysfs_identify("/sys/bus/platform/devices/f0a00000.dma", &dev);
    cr_expect_str_eq(dev.compatible, "", "not cut to another name");
}

Test(vfio_sysfs, group_that_is_no_number)
{
    static const char *const text[] = {"x", "1x", "-1", "99999999999", ""};
    char target[64];
    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        snprintf(target, sizeof(target), "/sys/kernel/iommu_groups/%s", text[i]);
        fake_link(REAL "/iommu_group", target);
        cr_expect_eq(vfio_sysfs_group(FAKE_SYSFS), -ENOENT, "%s", text[i]);
    }
}

Test(vfio_sysfs, a_vendors_driver_is_accepted_by_what_it_offers)
{
    cr_expect(vfio_sysfs_is_vfio(FAKE_SYSFS, "vfio-pci"));
    cr_expect(vfio_sysfs_is_vfio(FAKE_SYSFS, "mlx5_vfio_pci"));
    cr_expect_not(vfio_sysfs_is_vfio(FAKE_SYSFS, "nvidia"));
    cr_expect_not(vfio_sysfs_is_vfio(FAKE_SYSFS, ""));
    fake_file(REAL "/vfio-dev", NULL);
    cr_expect(vfio_sysfs_is_vfio(FAKE_SYSFS, "nvidia"));
}

Test(vfio_sysfs, neighbours_and_those_in_the_way)
{
    struct vfio_sysfs_neighbours near;
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "snd_hda_intel");
    fake_sysfs_device("0000:42:00.2", FAKE_GROUP, NULL);
    fake_sysfs_device("0000:41:00.0", FAKE_GROUP, "pcieport");
    fake_sysfs_device("0000:42:00.3", FAKE_GROUP, "xhci_hcd");
    vfio_sysfs_neighbours(FAKE_GROUP, &near);
    cr_expect_str_eq(near.all, "0000:41:00.0 pcieport, 0000:42:00.0 vfio-pci, "
                               "0000:42:00.1 snd_hda_intel, 0000:42:00.2 (no driver), "
                               "0000:42:00.3 xhci_hcd");
    cr_expect_str_eq(near.in_use, "0000:42:00.1 0000:42:00.3");
    vfio_sysfs_neighbours(99, &near);
    cr_expect_str_eq(near.all, "");
}

Test(vfio_sysfs, neighbours_of_a_big_group_are_cut_at_a_name)
{
    struct vfio_sysfs_neighbours near;
    char name[16], driver[32] = "", end[40];
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof(name), "0000:50:%02x.%d", i / 8, i % 8);
        fake_sysfs_device(name, 7, NULL);
    }
    /* Every length of an item, so that it fits in all possible ways. */
    for (size_t len = 1; len < 20; len++) {
        memset(driver, 'x', len);
        snprintf(end, sizeof(end), " %s ...", driver);
        for (int i = 0; i < 64; i++) {
            snprintf(name, sizeof(name), "0000:50:%02x.%d", i / 8, i % 8);
            fake_sysfs_driver(name, driver);
        }
        vfio_sysfs_neighbours(7, &near);
        cr_expect_gt(strlen(near.all), sizeof(near.all) - 48);
        cr_expect_str_eq(near.all + strlen(near.all) - strlen(end), end);
        cr_expect_gt(strlen(near.in_use), sizeof(near.in_use) - 20);
        cr_expect_str_eq(near.in_use + strlen(near.in_use) - 4, " ...");
    }
}

Test(vfio_sysfs, holder_is_named)
{
    char text[128];
    fake_link("/proc/12/fd/5", "/dev/vfio/1");
    fake_link("/proc/abc/fd/5", "/dev/vfio/15");
    fake_file("/proc/4711/comm", "qemu\n");
    fake_link("/proc/4711/fd/3", "/dev/null");
    fake_link("/proc/4711/fd/4", "/dev/vfio/15");
    vfio_sysfs_holder("/dev/vfio/15", text, sizeof(text));
    cr_expect_str_eq(text, "process 4711 (qemu)");
}

Test(vfio_sysfs, holder_that_may_not_be_seen)
{
    char text[128];
    fake_link("/proc/12/fd/5", "/dev/vfio/150");
    vfio_sysfs_holder("/dev/vfio/15", text, sizeof(text));
    cr_expect_str_eq(text, "another process (root may see which: fuser /dev/vfio/15)");
}

Test(vfio_sysfs, holder_without_a_name)
{
    char text[128];
    fake_link("/proc/12/fd/5", "/dev/vfio/15");
    vfio_sysfs_holder("/dev/vfio/15", text, sizeof(text));
    cr_expect_str_eq(text, "process 12 ()");
}

Test(vfio_sysfs, a_line_of_a_file)
{
    char text[8];
    static const char *const row[][2] = {
        {"abc\n", "abc"}, {"abc", "abc"},       {"a\nb\n", "a"}, {"", ""},
        {"\nb\n", ""},    {"123456", "123456"}, {"1234567", ""}, /* it might go on */
    };
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        fake_file("/sys/file", row[i][0]);
        vfio_sysfs_line("/sys", "file", text, sizeof(text));
        cr_expect_str_eq(text, row[i][1], "%s", row[i][0]);
    }
    vfio_sysfs_line("/sys", "nowhere", text, sizeof(text));
    cr_expect_str_eq(text, "");
    fake_file("/sys/file", "0x1b80\n");
    cr_expect_eq(vfio_sysfs_number("/sys", "file"), 0x1b80);
    cr_expect_eq(vfio_sysfs_number("/sys", "nowhere"), 0);
    cr_expect(vfio_sysfs_has("/sys", "file"));
    cr_expect_not(vfio_sysfs_has("/sys", "nowhere"));
}

/* Longer than any path: refused, not cut to another. */
Test(vfio_sysfs, a_file_whose_path_does_not_fit)
{
    static char longest[PATH_MAX + 1];
    char text[8] = "?";
    memset(longest, 'x', PATH_MAX);
    vfio_sysfs_line("/sys", longest, text, sizeof(text));
    cr_expect_str_eq(text, "");
    cr_expect_not(vfio_sysfs_has("/sys", longest));
    cr_expect_lt(vfio_sysfs_write("/sys", longest, "1"), 0);
}

Test(vfio_sysfs, whole_files)
{
    static char text[200000];
    memset(text, 'x', sizeof(text) - 1);
    fake_file("/proc/big", text);
    char *got = vfio_sysfs_load("/proc/big");
    cr_expect_str_eq(got, text);
    free(got);
    fake_file("/proc/big", "");
    got = vfio_sysfs_load("/proc/big");
    cr_expect_str_eq(got, "");
    free(got);
    cr_expect_null(vfio_sysfs_load("/proc/nowhere"));
    /* One that has no end. */
    fake_link("/proc/endless", "/dev/zero");
    got = vfio_sysfs_load("/proc/endless");
    cr_expect_not_null(got);
    free(got);
}

Test(vfio_sysfs, names_in_a_directory)
{
    char list[16];
    fake_file("/sys/dir/b", "");
    fake_file("/sys/dir/a", "");
    fake_file("/sys/dir/.c", "");
    vfio_sysfs_names("/sys/dir", list, sizeof(list));
    cr_expect_str_eq(list, "a b");
    fake_file("/sys/dir/cccccccccccc", "");
    vfio_sysfs_names("/sys/dir", list, sizeof(list));
    cr_expect_str_eq(list, "a b ...");
    vfio_sysfs_names("/sys/nowhere", list, sizeof(list));
    cr_expect_str_eq(list, "");
}

Test(vfio_sysfs, held_is_what_the_kernel_says)
{
    char who[128] = "?";
    cr_expect_not(vfio_sysfs_held(FAKE_SYSFS, who, sizeof(who)));
    cr_expect_eq(k->live, 0);
    int fd = open("/dev/vfio/15", O_RDWR | O_CLOEXEC);
    cr_expect(vfio_sysfs_held(FAKE_SYSFS, who, sizeof(who)));
    cr_expect_str_eq(who, "another process (root may see which: fuser /dev/vfio/15)");
    close(fd);
    k->open_errno[1] = EACCES;
    cr_expect_not(vfio_sysfs_held(FAKE_SYSFS, who, sizeof(who)));
}

Test(vfio_sysfs, held_by_its_own_node)
{
    char who[128] = "?", node[64];
    cr_expect_eq(vfio_sysfs_cdev(FAKE_SYSFS, node, sizeof(node)), -ENOENT);
    fake_iommufd();
    cr_assert_eq(vfio_sysfs_cdev(FAKE_SYSFS, node, sizeof(node)), 0);
    cr_expect_str_eq(node, FAKE_CDEV);
    fake_link("/proc/77/fd/3", node);
    cr_expect(vfio_sysfs_held(FAKE_SYSFS, who, sizeof(who)));
    cr_expect_str_eq(who, "process 77 ()");
    fake_remove("/proc/77");
    cr_expect_not(vfio_sysfs_held(FAKE_SYSFS, who, sizeof(who)));
    k->open_errno[1] = EBUSY;
    cr_expect(vfio_sysfs_held(FAKE_SYSFS, who, sizeof(who)));
    cr_expect_str_eq(who, "another process (root may see which: fuser " FAKE_CDEV ")");
}
