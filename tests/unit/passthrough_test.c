/*
 * passthrough_test.c: where the functions of several cards land on the guest's bus; and the
 * whole start, from names to devices, over the played kernel and a played server, with every
 * system call failing once.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "devices/pci.h"
#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/fake_vfio_server.h"
#include "vfio/vfio_pci.h"
#include "vmm/bus.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/passthrough.h"
#include "vmm/util.h"

static struct passthrough p;
static struct option_vfio option[OPTIONS_VFIO_MAX];

/* Adds a device with a host address and, where not negative, the devfn of slot=. */
static void add(const char *addr, int devfn)
{
    option[p.config.nr] = (struct option_vfio){.devfn = devfn, .clique = -1, .reset = true};
    p.device[p.config.nr].addr = addr;
    p.config.option = option;
    p.config.nr++;
}

Test(passthrough, functions_of_one_card_share_a_slot)
{
    add("0000:42:00.0", -1);
    add("0000:43:00.0", -1);
    add("0000:42:00.1", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(2, 0));
    cr_expect_eq(p.device[2].devfn, PCI_DEVFN(1, 1));
}

Test(passthrough, order_does_not_matter)
{
    add("0000:42:00.3", -1);
    add("0000:42:00.0", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 3));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
}

Test(passthrough, without_function_0_the_lowest_takes_its_place)
{
    add("0000:42:00.3", -1);
    add("0000:42:00.1", -1);
    add("0000:42:10.5", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 3));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[2].devfn, PCI_DEVFN(2, 0));
}

Test(passthrough, domains_are_different_cards)
{
    add("0000:42:00.0", -1);
    add("0001:42:00.1", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(2, 0));
}

Test(passthrough, forced_slots_are_kept_free)
{
    add("0000:42:00.0", -1);
    add("0000:43:00.0", PCI_DEVFN(1, 0));
    add("0000:44:00.0", PCI_DEVFN(1, 2));
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(2, 0));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[2].devfn, PCI_DEVFN(1, 2));
}

Test(passthrough, forced_twice_is_refused)
{
    add("0000:42:00.0", PCI_DEVFN(5, 0));
    add("0000:43:00.0", PCI_DEVFN(5, 0));
    cr_expect_eq(passthrough_place(&p), -ENOSPC);
}

Test(passthrough, thirty_one_cards_and_no_more)
{
    static char addr[32][16];
    for (unsigned i = 0; i < 32; i++) {
        snprintf(addr[i], sizeof(addr[i]), "0000:%02x:00.0", i);
        add(addr[i], -1);
        cr_expect_eq(passthrough_place(&p), i < 31 ? 0 : -ENOSPC, "%u cards", i + 1);
    }
    cr_expect_eq(p.device[30].devfn, PCI_DEVFN(31, 0));
}

/* The virtio devices are there before. */
Test(passthrough, slots_of_others_are_left_alone)
{
    p.config.slots = 0xc0000002;
    add("0000:42:00.0", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(2, 0));
    add("0000:43:00.0", PCI_DEVFN(31, 1));
    cr_expect_eq(passthrough_place(&p), -ENOSPC);
    option[1].devfn = PCI_DEVFN(29, 1);
    cr_expect_eq(passthrough_place(&p), 0);
}

Test(passthrough, servers_are_cards_of_their_own)
{
    add("dev.0", -1);
    add("dev.1", -1);
    p.device[0].is_user = p.device[1].is_user = true;
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(2, 0));
}

Test(passthrough, platform_devices_take_no_slot)
{
    add("dma", -1);
    add("0000:42:00.0", -1);
    p.device[0].is_platform = true;
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
    option[0].devfn = PCI_DEVFN(2, 0);
    cr_expect_eq(passthrough_place(&p), -ENOSPC);
}

/* ---- the whole start ---- */

static struct fake_vfio_kernel *k;
static struct fake_server *server;
static struct fake_hv hv;
static struct bus pio, mmio;
static struct pci_bus bus;
static struct loop *loop;
static struct mem mem;
static unsigned files;

static bool iommufd;

static void set_up_world(void)
{
    static struct vfio_region_info region[FAKE_REGIONS];
    static uint8_t config[256];
    k = fake_vfio_kernel_init();
    for (unsigned i = 0; i < FAKE_REGIONS; i++) {
        region[i] = (struct vfio_region_info){.argsz = sizeof(region[i]), .index = i};
        k->region[i] = (struct fake_answer){&region[i], sizeof(region[i]), 0};
    }
    region[0].size = 64 * KIB;
    region[0].flags =
        VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP;
    region[7].size = 256;
    region[7].offset = 7ULL << 40;
    region[7].flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    put_le32(config, 0x12345678);
    put_le16(config + PCI_STATUS, PCI_STATUS_CAP_LIST);
    config[PCI_CAPABILITY_LIST] = 0x50;
    config[PCI_INTERRUPT_PIN] = 1;
    put_le16(config + 0x50, PCI_CAP_ID_MSI | 0x60 << 8);
    put_le16(config + 0x60, PCI_CAP_ID_MSIX);
    put_le32(config + 0x64, 0x8000);
    put_le32(config + 0x68, 0x9000);
    k->config = config;
    fake_hv_init(&hv);
    k->hv = &hv;
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(bus_init(&mmio), 0);
    cr_assert_eq(pci_bus_init(&bus, &pio, &mmio), 0);
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(mem_init(&mem, 4 * MIB), 0);
    files = fake_open_files();
    server = fake_server_init();
}

static void set_up_iommufd(void)
{
    iommufd = true;
    set_up_world();
    fake_iommufd();
}

TestSuite(passthrough_start, .init = set_up_world, .fini = fake_vfio_kernel_fini);
TestSuite(passthrough_start_iommufd, .init = set_up_iommufd, .fini = fake_vfio_kernel_fini);

#define BOTH(name) FAKE_TEST_BOTH(passthrough_start, name)

static void name_devices(unsigned nr, const char *const *name)
{
    memset(&p, 0, sizeof(p));
    for (unsigned i = 0; i < nr; i++) {
        option[i] = (struct option_vfio){.devfn = -1,
                                         .clique = -1,
                                         .mmap = true,
                                         .reset = true,
                                         .iommufd = iommufd ? IOMMUFD_ON : IOMMUFD_AUTO};
        snprintf(option[i].device, sizeof(option[i].device), "%s", name[i]);
    }
}

static int open_all(unsigned nr)
{
    const struct passthrough_config config = {
        .option = option, .nr = nr, .hv = &hv.hv, .bus = &bus, .loop = loop, .mem = &mem};
    memset(&p, 0, sizeof(p));
    return passthrough_open(&p, &config);
}

/* Mappings of a device's memory. */
static unsigned mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    unsigned n = 0;
    while (fgets(line, sizeof(line), maps))
        n += strstr(line, "memfd:vfio") || strstr(line, "memfd:region");
    fclose(maps);
    return n;
}

static void expect_nothing_left(unsigned mapped, const char *what, unsigned call)
{
    cr_expect_eq(k->live, 0, "%s, call %u: %s", what, call, k->trace);
    cr_expect_eq(k->maps, 0, "%s, call %u", what, call);
    cr_expect_eq(fake_hv_live(&hv), 0, "%s, call %u", what, call);
    cr_expect_eq(hv.misuse, 0, "%s, call %u", what, call);
    cr_expect_not(k->hv_missed, "%s, call %u: %s", what, call, k->trace);
    cr_expect_eq(pio.nr + mmio.nr, 2, "%s, call %u", what, call);
    cr_expect_eq(mappings(), mapped, "%s, call %u", what, call);
    for (unsigned i = 1; i < PCI_SLOTS; i++)
        cr_expect_null(bus.dev[PCI_DEVFN(i, 0)], "%s, call %u", what, call);
}

BOTH(kernel_and_servers)
{
    static const char *const name[] = {"42:00.0", "unix:one.sock", "42:00.1"};
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "vfio-pci");
    name_devices(3, name);
    cr_assert_eq(open_all(3), 0, "%s", fake_log());
    cr_expect_eq(k->maps, 1, "RAM once for both devices of the kernel");
    cr_expect_eq(server->maps, 1, "and once for the server");
    cr_expect_eq(p.iommus, 2);
    cr_expect_eq(passthrough_dma_bytes(&p), 2 * mem.size);
    cr_expect_not_null(bus.dev[PCI_DEVFN(1, 0)]);
    cr_expect_not_null(bus.dev[PCI_DEVFN(1, 1)]);
    cr_expect_not_null(bus.dev[PCI_DEVFN(2, 0)]);
    cr_expect_eq(fake_log_lines(fake_log(), "one.sock: DMA 0x0-0x3fffff 4M"), 1);
    passthrough_describe(&p);
    fake_log();
    unsigned resets = server->resets;
    passthrough_close(&p);
    cr_expect_eq(server->resets, resets + 1);
    cr_expect_eq(server->maps, 0);
    cr_expect_str_eq(fake_log(), "");
    fake_server_fini();
    expect_nothing_left(0, "all", 0);
    cr_expect_eq(fake_open_files(), files);
}

static void add_id(const char *name, const char *device)
{
    char path[128];
    snprintf(path, sizeof(path), "/sys/devices/pci0000:40/%s/vendor", name);
    fake_file(path, "0x10de\n");
    snprintf(path, sizeof(path), "/sys/devices/pci0000:40/%s/device", name);
    fake_file(path, device);
}

static void close_all(void)
{
    fake_log();
    passthrough_close(&p);
    fake_server_fini();
    expect_nothing_left(0, "closed", 0);
}

/* One name, all functions of the card; slot= is for all of them. */
BOTH(a_card)
{
    static const char *const name[] = {"42:00"};
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "vfio-pci");
    name_devices(1, name);
    option[0].devfn = PCI_DEVFN(5, 3);
    option[0].mmap = false;
    cr_assert_eq(open_all(1), 0, "%s", fake_log());
    cr_expect_eq(p.config.nr, 2);
    cr_expect_not_null(bus.dev[PCI_DEVFN(5, 0)]);
    cr_expect_not_null(bus.dev[PCI_DEVFN(5, 1)]);
    cr_expect_not(p.config.option[1].mmap, "what is said of the card is said of each");
    close_all();
}

BOTH(by_id_another_each_time)
{
    static const char *const name[] = {"10de:1b80", "10de:1b80", "10de:1b80"};
    fake_sysfs_device("0000:41:00.0", 14, "nouveau");
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    add_id("0000:41:00.0", "0x1b80\n");
    add_id("0000:42:00.0", "0x1b80\n");
    add_id("0000:43:00.0", "0x1b80\n");
    name_devices(3, name);
    cr_assert_eq(open_all(2), 0, "%s", fake_log());
    cr_expect_str_eq(p.device[0].addr, "0000:42:00.0");
    cr_expect_str_eq(p.device[1].addr, "0000:43:00.0");
    passthrough_close(&p);
    fake_log();
    cr_expect_eq(open_all(3), -EBUSY, "the third belongs to the host");
    cr_expect_eq(fake_log_lines(fake_log(), "1 of this ID wanted, 3 there, 0 of them free"), 1);
    passthrough_close(&p);
    int fd = open("/dev/vfio/15", O_RDWR | O_CLOEXEC); /* another VM */
    cr_assert_eq(open_all(1), 0, "%s", fake_log());
    cr_expect_str_eq(p.device[0].addr, "0000:43:00.0");
    close(fd);
    close_all();
}

/* Their BARs are each other's DMA targets where the kernel has several cards. */
Test(passthrough_start, peers)
{
    static const char *const name[] = {"42:00.0", "42:00.1", "unix:one.sock", "43:00.0"};
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "vfio-pci");
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    name_devices(4, name);
    cr_assert_eq(open_all(1), 0, "%s", fake_log());
    cr_expect_null(p.p2p, "a single device");
    passthrough_close(&p);
    cr_assert_eq(open_all(3), 0, "%s", fake_log());
    cr_expect_null(p.p2p, "functions of one card; a server");
    passthrough_close(&p);
    cr_assert_eq(open_all(4), 0, "%s", fake_log());
    cr_expect_not_null(p.p2p);
    close_all();
}

Test(passthrough_start, where_dma_ends)
{
    static const char *const name[] = {"42:00.0"};
    static uint64_t answer[16];
    struct vfio_iommu_type1_info info = {.flags = VFIO_IOMMU_INFO_CAPS,
                                         .cap_offset = sizeof(info) + 8};
    struct vfio_iommu_type1_info_cap_iova_range cap = {
        {VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0}, 1, 0};
    struct vfio_iova_range range = {0, (1ULL << 39) - 1};
    uint8_t *at = (uint8_t *)answer;
    memcpy(at, &info, sizeof(info));
    memcpy(at + info.cap_offset, &cap, sizeof(cap));
    memcpy(at + info.cap_offset + sizeof(cap), &range, sizeof(range));
    name_devices(1, name);
    cr_assert_eq(open_all(0), 0);
    cr_expect_eq(passthrough_dma_end(&p), UINT64_MAX, "no device of the kernel");
    passthrough_close(&p);
    cr_assert_eq(open_all(1), 0, "%s", fake_log());
    k->iommu = (struct fake_answer){answer, sizeof(answer), 0};
    cr_expect_eq(passthrough_dma_end(&p), 1ULL << 39);
    close_all();
}

Test(passthrough_start, a_card_twice)
{
    static const char *const name[] = {"42:00.0", "42:00"};
    name_devices(2, name);
    cr_expect_eq(open_all(2), -EEXIST);
    cr_expect_eq(fake_log_lines(fake_log(), "0000:42:00.0: cannot pass device twice"), 1);
    close_all();
}

Test(passthrough_start, a_device_by_two_names)
{
    static const char *const path[] = {"/sys/bus/pci/devices/0000:42:00.0", "42:00.0"};
    static const char *const id[] = {"/sys/bus/pci/devices/0000:42:00.0", "10de:1b80"};
    add_id("0000:42:00.0", "0x1b80\n");
    name_devices(2, path);
    cr_expect_eq(open_all(2), -EEXIST);
    cr_expect_eq(fake_log_lines(fake_log(), "0000:42:00.0: cannot pass device twice"), 1);
    passthrough_close(&p);
    name_devices(2, id);
    cr_expect_eq(open_all(2), -EBUSY);
    cr_expect_eq(fake_log_lines(fake_log(), "1 of this ID wanted, 1 there, 0 of them free"), 1);
    close_all();
}

Test(passthrough_start, more_devices_than_there_is_room_for)
{
    static const char *name[OPTIONS_VFIO_MAX];
    char address[16];
    for (unsigned i = 0; i < 8; i++) {
        snprintf(address, sizeof(address), "0000:50:00.%u", i);
        fake_sysfs_device(address, 7, "vfio-pci");
    }
    for (unsigned i = 0; i < OPTIONS_VFIO_MAX; i++)
        name[i] = "unix:x";
    name[0] = "50:00";
    name_devices(OPTIONS_VFIO_MAX, name);
    for (unsigned i = 1; i < OPTIONS_VFIO_MAX; i++)
        snprintf(option[i].device, sizeof(option[i].device), "unix:%u", i);
    cr_expect_eq(open_all(OPTIONS_VFIO_MAX), -E2BIG);
    cr_expect_eq(fake_log_lines(fake_log(), "unix:57: cannot pass device"), 1);
    snprintf(option[57].device, sizeof(option[57].device), "42:00.0");
    snprintf(option[56].device, sizeof(option[56].device), "50:00");
    memset(&p, 0, sizeof(p));
    cr_expect_eq(open_all(57), -E2BIG);
    cr_expect_eq(fake_log_lines(fake_log(), "50:00: cannot use 8 more devices"), 1);
    close_all();
}

/* One way for all devices of the kernel. */
Test(passthrough_start_iommufd, a_word_for_one_is_for_all)
{
    static const char *const name[] = {"42:00.0", "43:00.0", "unix:one.sock"};
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    fake_server_fini();
    for (int way = IOMMUFD_ON; way <= IOMMUFD_OFF; way++) {
        server = fake_server_init();
        name_devices(3, name);
        option[0].iommufd = IOMMUFD_AUTO;
        option[1].iommufd = (enum option_iommufd)way;
        option[2].iommufd = IOMMUFD_AUTO;
        cr_assert_eq(open_all(3), 0, "%s", fake_log());
        bool on = way == IOMMUFD_ON;
        cr_expect_eq(fake_log_lines(k->trace, "open devices/vfio"), on ? 2 : 0);
        cr_expect_eq(fake_log_lines(fake_log(), "/dev/iommu: in use for the devices"), on);
        *k->trace = '\0';
        close_all();
    }
}

Test(passthrough_start_iommufd, contradiction)
{
    static const char *const name[] = {"42:00.0", "43:00.0"};
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    name_devices(2, name);
    option[1].iommufd = IOMMUFD_OFF;
    cr_expect_eq(open_all(2), -EINVAL);
    cr_expect_str_eq(fake_log(), "minivmm: 0000:42:00.0: cannot use iommufd for this device "
                                 "and not for 0000:43:00.0: one way is for all; leave out "
                                 "iommufd or iommufd=off\n");
    cr_expect_str_eq(k->trace, "");
    close_all();
}

/* By itself only where groups are not to be had, and not where they are asked for. */
Test(passthrough_start_iommufd, chosen)
{
    static const char *const name[] = {"42:00.0"};
    static const char *const want[] = {"open iommu", "open vfio", "open vfio"};
    fake_file("/dev/iommu", "");
    fake_file(FAKE_CDEV, "");
    fake_server_fini();
    for (int i = 0; i < 3; i++) {
        server = fake_server_init();
        name_devices(1, name);
        option[0].iommufd = i == 1 ? IOMMUFD_OFF : IOMMUFD_AUTO;
        cr_assert_eq(open_all(1), 0, "%s", fake_log());
        cr_expect_eq(fake_log_lines(k->trace, want[i]), 1, "%d: %s", i, k->trace);
        *k->trace = '\0';
        close_all();
        if (i == 0)
            continue;
        fake_file("/dev/vfio/vfio", "");
        fake_file("/dev/vfio/15", "");
    }
}

static char made[64], removed[128];

static void mdev_bus(const char *path, const char *text)
{
    char dir[128], real[128];
    if (strstr(path, "/remove"))
        snprintf(removed, sizeof(removed), "%s", path);
    if (!strstr(path, "/create"))
        return;
    snprintf(made, sizeof(made), "%s", text);
    snprintf(real, sizeof(real), "../../../devices/pci0000:40/%s", text);
    snprintf(dir, sizeof(dir), "/sys/bus/mdev/devices/%s", text);
    fake_sysfs_device(text, 20, "vfio_mdev");
    fake_link(dir, real);
    snprintf(dir, sizeof(dir), "/sys/devices/pci0000:40/%s/remove", text);
    fake_file(dir, "");
}

/* Made for the VM, whose end is its end, also where the start fails. */
BOTH(a_mediated_device)
{
    static const char *const name[] = {"mdev:42:00.0/nvidia-18"};
    char want[128];
    fake_file("/sys/devices/pci0000:40/0000:42:00.0/mdev_supported_types/nvidia-18/create", "");
    k->written = mdev_bus;
    name_devices(1, name);
    for (int i = 0; i < 2; i++) {
        removed[0] = '\0';
        k->set_container_errno = i ? EINVAL : 0;
        cr_assert_eq(open_all(1) != 0, i != 0, "%s", fake_log());
        cr_expect_str_eq(p.device[0].addr, made);
        cr_expect_str_eq(removed, "");
        snprintf(want, sizeof(want), "/sys/bus/mdev/devices/%s/remove", made);
        passthrough_close(&p);
        cr_expect_str_eq(removed, want);
    }
    fake_server_fini();
    expect_nothing_left(0, "closed", 0);
}

Test(passthrough_start, the_same_server_twice)
{
    static const char *const name[] = {"unix:one.sock", "unix:one.sock"};
    name_devices(2, name);
    cr_expect_eq(open_all(2), -EEXIST);
    cr_expect_eq(fake_log_lines(fake_log(), "one.sock: cannot pass device twice"), 1);
    passthrough_close(&p);
    cr_expect_eq(server->connects, 0);
}

/*
 * The start is run once for each system call that it makes, this one failing, and taken down
 * again: with an error that says so in one line, or without what was not to be had.
 */
static void sweep(const char *name, bool played_kernel, uint32_t flags, int err)
{
    unsigned failed = 0, before = fake_open_files();
    bool reached = true;
    name_devices(1, &name);
    for (unsigned n = 1; reached; n++) {
        server = fake_server_init();
        server->info.flags = k->device_flags = flags | VFIO_DEVICE_FLAGS_RESET;
        *k->trace = '\0';
        k->calls = k->resets = 0;
        k->fail_at = played_kernel ? n : 0;
        server->fail_at = played_kernel ? 0 : n;
        k->fail_errno = server->fail_errno = err;
        server->counting = true;
        int ret = open_all(1);
        server->counting = false;
        k->fail_at = 0;
        reached = (played_kernel ? k->calls : server->calls) >= n;
        failed += ret != 0;
        const char *log = fake_log();
        /* A lost server is told of before what that prevents. */
        unsigned lost = fake_log_lines(log, "cannot go on with the device: its server ");
        unsigned lines = fake_log_lines(log, "cannot ") - lost;
        cr_expect(lost <= 1 && lines <= 1 && (!ret || lost || lines),
                  "%s, call %u, errno %d: %s", name, n, err, log);
        bool opened = fake_log_lines(k->trace, "DEVICE_GET_INFO");
        unsigned resets = k->resets + server->resets;
        passthrough_close(&p);
        cr_expect(ret || k->resets + server->resets == resets + 1, "%s, call %u", name, n);
        cr_expect(!opened || fake_log_lines(k->trace, "close device"), "%s, call %u", name, n);
        fake_log();
        fake_server_fini();
        expect_nothing_left(0, name, n);
        cr_expect_eq(fake_open_files(), before, "%s, call %u, errno %d", name, n, err);
        cr_assert_lt(n, 2000);
    }
    cr_expect_gt(failed, 3, "%s: %u", name, failed);
}

static const int errors[] = {EIO, ENOMEM, EMFILE, EINVAL, ECONNRESET};

BOTH(kernel_each_vfio_call_fails)
{
    fake_server_fini();
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        sweep("42:00.0", true, VFIO_DEVICE_FLAGS_PCI, errors[i]);
}

BOTH(kernel_each_other_call_fails)
{
    fake_server_fini();
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        sweep("42:00.0", false, VFIO_DEVICE_FLAGS_PCI, errors[i]);
}

Test(passthrough_start, server_each_call_fails)
{
    fake_server_fini();
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        sweep("unix:dev.sock", false, VFIO_DEVICE_FLAGS_PCI, errors[i]);
}

Test(passthrough_start, platform_server_each_call_fails)
{
    fake_server_fini();
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
        sweep("unix:dev.sock", false, VFIO_DEVICE_FLAGS_PLATFORM, errors[i]);
}
