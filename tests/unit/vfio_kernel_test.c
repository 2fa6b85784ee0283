/*
 * vfio_kernel_test.c: container, groups and mappings, iommufd and devices' own nodes, against a
 * played kernel: the order of the calls, every way the host can refuse, and every call failing
 * once. BOTH tests are run for both ways, and expect the same of them.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "vfio/vfio.h"
#include "vfio/vfio_kernel.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/mem.h"
#include "vmm/util.h"

static struct fake_vfio_kernel *k;
static struct fake_hv hv;
static struct vfio_kernel *kernel;
static bool iommufd;

static void create(void)
{
    cr_assert_eq(vfio_kernel_create(&kernel, &hv.hv, iommufd), 0);
}

static void set_up(void)
{
    k = fake_vfio_kernel_init();
    fake_hv_init(&hv);
    k->hv = &hv;
    create();
}

static void set_up_iommufd(void)
{
    iommufd = true;
    set_up();
    fake_iommufd();
}

TestSuite(vfio_kernel, .init = set_up, .fini = fake_vfio_kernel_fini);
TestSuite(vfio_kernel_iommufd, .init = set_up_iommufd, .fini = fake_vfio_kernel_fini);

#define BOTH(name) FAKE_TEST_BOTH(vfio_kernel, name)

/* Nothing of ours is left, neither here nor in the hypervisor. */
static void expect_clean(void)
{
    vfio_kernel_destroy(kernel);
    cr_expect_eq(k->live, 0, "%u descriptors left\n%s", k->live, k->trace);
    cr_expect_eq(fake_hv_live(&hv), 0);
    cr_expect_eq(hv.misuse, 0);
    cr_expect_not(k->cloexec_missing);
    cr_expect_not(k->hv_missed, "KVM was told too late\n%s", k->trace);
}

static void refused(int err, const char *word)
{
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), err);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, ""), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, "minivmm: 0000:42:00.0: cannot "), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, word), 1, "%s", log);
    expect_clean();
}

/* ---- order ---- */

static const char container_order[] = "open vfio\n"
                                      "GET_API_VERSION\n"
                                      "CHECK_EXTENSION 3\n"
                                      "open 15\n"
                                      "GET_STATUS\n"
                                      "SET_CONTAINER\n"
                                      "SET_IOMMU 3\n"
                                      "GET_INFO\n"
                                      "MAP_DMA\n"
                                      "GET_DEVICE_FD 0000:42:00.0\n"
                                      "DEVICE_GET_INFO\n"
                                      "close device\n"
                                      "UNMAP_DMA\n"
                                      "UNSET_CONTAINER\n"
                                      "close group\n"
                                      "close container\n";

static const char iommufd_order[] = "open iommu\n"
                                    "IOAS_ALLOC\n"
                                    "open devices/vfio0\n"
                                    "BIND_IOMMUFD\n"
                                    "ATTACH_IOMMUFD_PT\n"
                                    "IOVA_RANGES\n"
                                    "IOAS_MAP\n"
                                    "DEVICE_GET_INFO\n"
                                    "close device\n"
                                    "IOAS_UNMAP\n"
                                    "close iommufd\n";

BOTH(calls_come_in_the_kernels_order)
{
    static const struct mem mem = {
        .fd = -1, .nr = 1, .size = MIB, .region = {{0, MIB, (uint8_t *)0x7f0000000000, 0}}};
    struct vfio_device *dev;
    struct vfio_iommu *iommu = vfio_kernel_iommu(kernel);
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    cr_assert_eq(vfio_dma_map_ram(iommu, &mem), 0);
    cr_assert_eq(vfio_kernel_open_device(kernel, FAKE_SYSFS, &dev), 0);
    cr_expect_str_eq(dev->name, FAKE_DEVICE);
    cr_expect_eq(dev->iommu, iommu);
    cr_expect_eq(dev->flags, k->device_flags);
    cr_expect_eq(dev->regions, FAKE_REGIONS);
    cr_expect_eq(dev->irqs, VFIO_PCI_NUM_IRQS);
    dev->ops->close(dev);
    vfio_dma_unmap_ram(iommu, &mem);
    expect_clean();
    cr_expect_str_eq(k->trace, iommufd ? iommufd_order : container_order);
    cr_expect_str_eq(fake_log(), iommufd ? "minivmm: /dev/iommu: DMA 0x0-0xfffff 1M\n"
                                         : "minivmm: /dev/vfio/vfio: DMA 0x0-0xfffff 1M\n");
}

BOTH(one_iommu_and_each_device_once)
{
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "vfio-pci");
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:42:00.1"), 0);
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:43:00.0"), 0);
    cr_expect_eq(fake_log_lines(k->trace, iommufd ? "open iommu" : "open vfio"), 1);
    cr_expect_eq(fake_log_lines(k->trace, iommufd ? "IOAS_ALLOC" : "SET_IOMMU"), 1);
    cr_expect_eq(fake_log_lines(k->trace, "open 1"), iommufd ? 0 : 2, "groups");
    cr_expect_eq(fake_log_lines(k->trace, "open devices/vfio"), iommufd ? 3 : 0);
    cr_expect_eq(hv.calls[FAKE_VFIO_FILE_ADD], iommufd ? 3 : 2);
    struct vfio_device *dev[2];
    cr_expect_eq(vfio_kernel_open_device(kernel, "/sys/bus/pci/devices/0000:43:00.0", &dev[0]),
                 0);
    cr_expect_eq(vfio_kernel_open_device(kernel, "/sys/bus/pci/devices/0000:42:00.1", &dev[1]),
                 0);
    dev[0]->ops->close(dev[0]);
    dev[1]->ops->close(dev[1]);
    cr_expect_str_eq(fake_log(), "");
    expect_clean();
}

Test(vfio_kernel, second_instance)
{
    struct vfio_kernel *other;
    cr_assert_eq(vfio_kernel_create(&other, &hv.hv, false), 0);
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    cr_expect_eq(vfio_kernel_attach(other, "/sys/bus/pci/devices/0000:43:00.0"), -EINVAL);
    /* The fake has one IOMMU; what counts is that the two do not share a container. */
    cr_expect_eq(fake_log_lines(k->trace, "open vfio"), 2);
    vfio_kernel_destroy(other);
    expect_clean();
}

BOTH(nothing_opened)
{
    vfio_kernel_destroy(NULL);
    expect_clean();
    cr_expect_str_eq(k->trace, "");
}

/* ---- refusals ---- */

BOTH(no_iommu_group)
{
    fake_sysfs_device("0000:43:00.0", -1, "nvme");
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:43:00.0"), -ENOENT);
    cr_expect_eq(fake_log_lines(fake_log(), "0000:43:00.0: cannot isolate device"), 1);
    expect_clean();
}

BOTH(noiommu_mode)
{
    fake_file("/dev/vfio/noiommu-15", "");
    refused(-ENOTSUP, "no-IOMMU mode");
}

Test(vfio_kernel, module_not_loaded)
{
    static const int err[] = {ENOENT, ENODEV, ENXIO};
    fake_sysfs_driver(FAKE_DEVICE, "nvme");
    for (size_t i = 0; i < ARRAY_SIZE(err); i++) {
        k->open_errno[0] = err[i];
        refused(-err[i], "the vfio module is not loaded; run as root: modprobe vfio-pci");
        create();
    }
}

Test(vfio_kernel_iommufd, no_iommufd)
{
    k->open_errno[0] = ENOENT;
    refused(-ENOENT, "open /dev/iommu: the kernel has no iommufd; leave iommufd out, or run as "
                     "root: modprobe iommufd");
}

BOTH(no_permission)
{
    k->open_errno[1] = EACCES;
    refused(-EACCES, iommufd ? FAKE_CDEV ": no permission; run as root: chown "
                             : "/dev/vfio/15: no permission; run as root: chown ");
    create();
    k->open_errno[0] = EACCES;
    refused(-EACCES, iommufd ? "/dev/iommu: no permission; run as root: chown "
                             : "/dev/vfio/vfio: no permission; run as root: chown ");
}

Test(vfio_kernel, other_version)
{
    k->api_version = 1;
    refused(-ENOTSUP, "version 1 of the VFIO API, not 0");
}

Test(vfio_kernel, no_type1v2)
{
    k->type1v2 = false;
    refused(-ENOTSUP, "modprobe vfio_iommu_type1");
}

BOTH(bound_to_a_host_driver)
{
    fake_sysfs_driver(FAKE_DEVICE, "nvme");
    refused(-EBUSY, "bound to the host's driver nvme, not to vfio-pci; run as root: minivmm "
                    "host bind 0000:42:00.0");
}

BOTH(bound_to_nothing)
{
    fake_sysfs_device("0000:43:00.0", 16, NULL);
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:43:00.0"), -ENODEV);
    cr_expect_eq(fake_log_lines(fake_log(), "bound to no driver"), 1);
    expect_clean();
}

/* Also a second device of a group that is already open. */
BOTH(every_device_is_checked)
{
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "snd_hda_intel");
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:42:00.1"), -EBUSY);
    cr_expect_eq(fake_log_lines(fake_log(), "driver snd_hda_intel"), 1);
    expect_clean();
}

/* A virtual function of a GPU stays with its vendor's driver, whose name says nothing. */
BOTH(a_vendors_vfio_driver)
{
    fake_sysfs_driver(FAKE_DEVICE, "nvidia");
    refused(-EBUSY, "bound to the host's driver nvidia");
    create();
    fake_file(FAKE_SYSFS "/vfio-dev/vfio7", NULL);
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0, "%s", fake_log());
    cr_expect_eq(fake_log_lines(k->trace, iommufd ? "open devices/vfio7" : "open 15"), 1);
    expect_clean();
}

/* As a kernel without CONFIG_VFIO_GROUP has it for a mediated device. */
Test(vfio_kernel_iommufd, no_group_but_a_node)
{
    fake_sysfs_device("0000:43:00.0", -1, "vfio-pci");
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:43:00.0"), 0);
    expect_clean();
}

BOTH(node_missing)
{
    k->open_errno[1] = ENOENT;
    refused(-ENOENT, iommufd ? "open " FAKE_CDEV ": there is no such node; "
                             : "open /dev/vfio/15: there is no such node; ");
}

Test(vfio_kernel_iommufd, driver_without_a_node)
{
    fake_remove(FAKE_SYSFS "/vfio-dev/vfio0");
    refused(-ENOENT, "open /dev/vfio/devices/vfio*: there is no such node; ");
}

Test(vfio_kernel, group_in_use)
{
    k->open_errno[1] = EBUSY;
    fake_file("/proc/4711/comm", "qemu-system-x86\n");
    fake_link("/proc/4711/fd/9", "/dev/vfio/15");
    refused(-EBUSY, "/dev/vfio/15: in use by process 4711 (qemu-system-x86); stop that first");
}

/* The kernel says EINVAL of a device that is bound, EBUSY of one whose group is open. */
Test(vfio_kernel_iommufd, device_in_use)
{
    static const char *const node[] = {FAKE_CDEV, "/dev/vfio/15"};
    static const int err[] = {EINVAL, EBUSY};
    fake_file("/proc/4711/comm", "qemu-system-x86\n");
    for (size_t i = 0; i < ARRAY_SIZE(node); i++) {
        fake_link("/proc/4711/fd/9", node[i]);
        k->set_container_errno = err[i];
        refused(-err[i],
                FAKE_CDEV ": in use by process 4711 (qemu-system-x86); stop that first");
        create();
    }
    fake_remove("/proc/4711/fd/9");
    refused(-EBUSY, FAKE_CDEV ": in use by another process (root may see which: fuser ");
    create();
    k->set_container_errno = EINVAL;
    refused(-EINVAL, "cannot open device: Invalid argument; dmesg");
}

/* Of two that open the same node the second may not bind it, and the first is not disturbed. */
Test(vfio_kernel_iommufd, bound_once)
{
    struct vfio_kernel *other;
    cr_assert_eq(vfio_kernel_create(&other, &hv.hv, true), 0);
    cr_expect_eq(vfio_kernel_attach(other, FAKE_SYSFS), 0);
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), -EINVAL);
    cr_expect_eq(fake_hv_live(&hv), 1);
    vfio_kernel_destroy(other);
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    expect_clean();
}

BOTH(not_viable)
{
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "snd_hda_intel");
    k->group_flags = 0;
    refused(iommufd ? -EBUSY : -EPERM,
            "group 15 (0000:42:00.0 vfio-pci, 0000:42:00.1 snd_hda_intel): drivers of the host "
            "use it too; run as root: minivmm host bind 0000:42:00.0");
    cr_expect_eq(fake_log_lines(k->trace, "SET_CONTAINER"), 0);
}

/* The line has to hold the command even when the group is full of devices. */
BOTH(not_viable_big_group)
{
    char name[16];
    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof(name), "0000:50:%02x.%d", i / 8, i % 8);
        fake_sysfs_device(name, FAKE_GROUP, "some_long_driver_name");
    }
    k->group_flags = 0;
    refused(iommufd ? -EBUSY : -EPERM,
            " ...): drivers of the host use it too; run as root: minivmm host bind "
            "0000:42:00.0");
}

BOTH(interrupts_not_remapped)
{
    const char *hint = iommufd ? "iommufd/parameters/allow_unsafe_interrupts"
                               : "vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    k->set_iommu_errno = EPERM;
    refused(-EPERM, hint);
    create();
    k->set_container_errno = EPERM;
    refused(-EPERM, hint);
}

BOTH(interrupts_not_remapped_for_a_second_device)
{
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    cr_expect_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    k->set_container_errno = EPERM;
    cr_expect_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:43:00.0"), -EPERM);
    cr_expect_eq(fake_log_lines(fake_log(), "allow_unsafe_interrupts"), 1);
    expect_clean();
}

Test(vfio_kernel, attach_refused_otherwise)
{
    k->set_container_errno = EINVAL;
    refused(-EINVAL, "attach /dev/vfio/15: Invalid argument; dmesg");
}

Test(vfio_kernel_iommufd, attach_refused_otherwise)
{
    k->set_container_errno = EACCES;
    refused(-EACCES, "VF token");
    create();
    k->set_container_errno = 0;
    k->set_iommu_errno = EIO;
    refused(-EIO, "cannot open device: Input/output error; dmesg");
}

BOTH(kvm_refuses)
{
    fake_hv_fail(&hv, FAKE_VFIO_FILE_ADD, 1, ENODEV);
    refused(-ENODEV, iommufd ? "tell KVM of " FAKE_CDEV ": No such device"
                             : "tell KVM of /dev/vfio/15: No such device");
}

static void device_refused(const char *word)
{
    struct vfio_device *dev;
    cr_expect_lt(vfio_kernel_open_device(kernel, FAKE_SYSFS, &dev), 0);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, ""), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, word), 1, "%s", log);
}

Test(vfio_kernel, device_refused)
{
    device_refused("0000:42:00.0: cannot open device: No such device; "); /* no group yet */
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    k->device_fd_errno = EACCES;
    device_refused("VF token");
    k->device_fd_errno = ENODEV;
    device_refused("took it out of VFIO; bind it again");
    k->device_fd_errno = EBUSY;
    device_refused("somebody else");
    k->device_fd_errno = EIO;
    device_refused("Input/output error; dmesg");
    expect_clean();
}

/* ---- which way ---- */

static bool prefers_iommufd(void)
{
    static const char *const path[] = {FAKE_SYSFS, "/sys/bus/pci/devices/0000:43:00.0"};
    return vfio_kernel_prefers_iommufd(path, ARRAY_SIZE(path));
}

static void make_nodes(const char *const *node, size_t nr)
{
    fake_remove("/dev");
    for (size_t i = 0; i < nr; i++)
        fake_file(node[i], "");
}

Test(vfio_kernel_iommufd, which_way)
{
    static const char *const node[] = {"/dev/vfio/vfio", "/dev/vfio/15",
                                       "/dev/vfio/16",   "/dev/iommu",
                                       FAKE_CDEV,        "/dev/vfio/devices/vfio1"};
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    cr_expect_not(prefers_iommufd(), "nothing is there");
    make_nodes(node, 6);
    cr_expect_not(prefers_iommufd(), "both are there");
    k->denied = "/dev/vfio/devices/vfio1";
    cr_expect_not(prefers_iommufd());
    k->denied = "/dev/vfio/16";
    cr_expect(prefers_iommufd(), "this user may not open the group");
    k->denied = "/dev/";
    cr_expect_not(prefers_iommufd(), "this user may open nothing");
    make_nodes(node + 1, 5);
    cr_expect(prefers_iommufd(), "... and there is no container");
    k->denied = NULL;
    cr_expect(prefers_iommufd(), "no container");
    make_nodes(node, 5);
    cr_expect_not(prefers_iommufd(), "a device has no node");
    fake_remove("/dev/vfio/15");
    cr_expect_not(prefers_iommufd(), "a device has no node, another no group");
    make_nodes(node + 3, 3);
    cr_expect(prefers_iommufd(), "no groups");
    fake_remove("/sys/devices/pci0000:40/0000:43:00.0/vfio-dev");
    cr_expect_not(prefers_iommufd());
}

/* ---- the IOMMU's limits ---- */

struct iommu_blob {
    struct vfio_iommu_type1_info info;
    struct vfio_iommu_type1_info_dma_avail avail; /* 12 bytes: what follows is unaligned */
    struct { /* struct vfio_iommu_type1_info_cap_iova_range up to its array */
        struct vfio_info_cap_header header;
        uint32_t nr_iovas, reserved;
    } cap;
    uint32_t range[8];
} __attribute__((packed));

static struct iommu_blob *iommu_answer(void)
{
    static struct iommu_blob blob;
    static const struct vfio_iova_range range[] = {{0, 0xfedfffff}, {0xfef00000, UINT64_MAX}};
    blob = (struct iommu_blob){
        .info = {.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
                 .iova_pgsizes = 0x1000,
                 .cap_offset = offsetof(struct iommu_blob, avail)},
        .avail = {{VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, offsetof(struct iommu_blob, cap)},
                  65535},
        .cap = {{VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0}, 2, 0},
    };
    memcpy(blob.range, range, sizeof(range));
    k->iommu = (struct fake_answer){&blob, sizeof(blob), 0};
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    return &blob;
}

/* How many ranges there are, or an error. */
static int ask(struct vfio_dma_limits *limits)
{
    int err = vfio_dma_get_limits(vfio_kernel_iommu(kernel), limits);
    if (!err)
        cr_expect_eq(limits->page, 0x1000);
    return err ? err : (int)limits->nr;
}

Test(vfio_kernel, iommu_limits)
{
    struct vfio_dma_limits limits;
    iommu_answer();
    cr_expect_eq(ask(&limits), 2);
    cr_expect_eq(limits.avail, 65535);
    cr_expect_eq(limits.range[0].end, 0xfedfffff);
    cr_expect_eq(limits.range[1].start, 0xfef00000);
    cr_expect_eq(limits.range[1].end, UINT64_MAX);
    expect_clean();
}

Test(vfio_kernel, more_iova_ranges_than_room)
{
    static struct {
        struct iommu_blob blob;
        struct vfio_iova_range more[VFIO_IOVA_RANGES_MAX];
    } __attribute__((packed)) big;
    struct {
        struct vfio_dma_limits limits;
        uint64_t behind;
    } m = {.behind = 1};
    big.blob = *iommu_answer();
    big.blob.cap.nr_iovas = VFIO_IOVA_RANGES_MAX;
    k->iommu = (struct fake_answer){&big, sizeof(big), 0};
    cr_expect_eq(ask(&m.limits), VFIO_IOVA_RANGES_MAX);
    big.blob.cap.nr_iovas++;
    cr_expect_eq(ask(&m.limits), 0, "the kernel has to check");
    cr_expect_eq(m.limits.avail, 65535, "not overwritten");
    cr_expect_eq(m.behind, 1);
    expect_clean();
}

Test(vfio_kernel, iommu_without_capabilities)
{
    struct vfio_dma_limits limits;
    iommu_answer()->info.flags = VFIO_IOMMU_INFO_PGSIZES;
    cr_expect_eq(ask(&limits), 0);
    cr_expect_eq(limits.avail, UINT32_MAX);
    expect_clean();
}

Test(vfio_kernel, iommu_capabilities_that_lie)
{
    struct vfio_dma_limits limits;
    struct iommu_blob *blob = iommu_answer();
    blob->cap.nr_iovas = UINT32_MAX;
    cr_expect_eq(ask(&limits), 2, "no more than there are bytes for");
    blob->cap.header.id = 2;
    blob->cap.header.next = blob->info.cap_offset; /* a circle */
    cr_expect_eq(ask(&limits), 0);
    blob->avail.header.next = UINT32_MAX;
    cr_expect_eq(ask(&limits), 0);
    cr_expect_eq(limits.avail, 65535);
    blob->avail.header.next = sizeof(*blob) - 4; /* cut in its header */
    cr_expect_eq(ask(&limits), 0);
    blob->info.cap_offset = sizeof(*blob) - 8; /* cut behind its header */
    ((struct vfio_info_cap_header *)(void *)((char *)blob + sizeof(*blob) - 8))->id =
        VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL;
    cr_expect_eq(ask(&limits), 0);
    cr_expect_eq(limits.avail, UINT32_MAX);
    expect_clean();
}

Test(vfio_kernel, iommu_answer_that_keeps_growing)
{
    struct vfio_dma_limits limits;
    iommu_answer();
    k->iommu.grows = 8;
    cr_expect_eq(ask(&limits), -EMSGSIZE);
    cr_expect_leq(fake_log_lines(k->trace, "GET_INFO"), 4);
    k->iommu.grows = 0x80000000;
    cr_expect_eq(ask(&limits), -EMSGSIZE);
    k->iommu.bytes = NULL;
    cr_expect_eq(ask(&limits), -EINVAL);
    expect_clean();
}

Test(vfio_kernel_iommufd, iova_ranges)
{
    struct vfio_dma_limits limits;
    struct vfio_iommu *iommu = vfio_kernel_iommu(kernel);
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    k->iova[0].end = 0xfedfffff;
    k->iova[1] = (struct vfio_iova_range){0xfef00000, 0x7fffffffff};
    k->iovas = 2;
    k->iova_alignment = 0x10000;
    cr_expect_eq(vfio_dma_get_limits(iommu, &limits), 0);
    cr_expect_eq(limits.nr, 2);
    cr_expect_eq(limits.page, 0x10000);
    cr_expect_eq(limits.avail, UINT32_MAX);
    cr_expect_eq(limits.range[0].end, 0xfedfffff);
    cr_expect_eq(limits.range[1].start, 0xfef00000);
    cr_expect_eq(limits.range[1].end, 0x7fffffffff);
    k->iovas = VFIO_IOVA_RANGES_MAX + 1;
    cr_expect_eq(vfio_dma_get_limits(iommu, &limits), 0);
    cr_expect_eq(limits.nr, 0, "no room for all: the kernel has to check");
    k->fail_at = k->calls + 1;
    k->fail_errno = EIO;
    cr_expect_eq(vfio_dma_get_limits(iommu, &limits), -EIO);
    expect_clean();
}

/* A device later than the first may take less: RAM is looked at when all are attached. */
Test(vfio_kernel_iommufd, memory_that_a_device_cannot_reach)
{
    static const struct mem mem = {
        .fd = -1, .nr = 1, .size = MIB, .region = {{0, MIB, (uint8_t *)0x7f0000000000, 0}}};
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    k->iova[0].end = MIB - 2;
    cr_expect_eq(vfio_dma_map_ram(vfio_kernel_iommu(kernel), &mem), -ERANGE);
    cr_expect_eq(fake_log_lines(fake_log(), "/dev/iommu: cannot map guest memory"), 1);
    cr_expect_eq(fake_log_lines(k->trace, "IOAS_MAP"), 0);
    expect_clean();
}

/* Memory that is not RAM, such as another device's BAR: the caller knows what to make of it. */
BOTH(map_refused)
{
    struct vfio_iommu *iommu = vfio_kernel_iommu(kernel);
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    k->map_errno = EFAULT;
    cr_expect_eq(iommu->ops->map(iommu, 0xe0000000, 0x1000, &hv, -1, 0), -EFAULT);
    cr_expect_str_eq(fake_log(), "");
    expect_clean();
}

BOTH(map_and_unmap)
{
    struct vfio_iommu *iommu = vfio_kernel_iommu(kernel);
    cr_expect_eq(iommu->ops->map(iommu, 0, 0x1000, NULL, -1, 0), -EBADF); /* no container yet */
    cr_expect_eq(iommu->ops->unmap(iommu, 0, 0x1000), -EBADF);
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    cr_expect_eq(iommu->ops->map(iommu, 0x100000000, 0x2000, &hv, 7, 0x5000), 0);
    cr_expect_eq(k->map[0].flags, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
    cr_expect_eq(k->map[0].vaddr, (uintptr_t)&hv);
    cr_expect_eq(k->map[0].iova, 0x100000000);
    cr_expect_eq(k->map[0].size, 0x2000);
    cr_expect_eq(iommu->ops->unmap(iommu, 0x100000000, 0x1000), -ENOENT);
    cr_expect_eq(iommu->ops->unmap(iommu, 0x100000000, 0x2000), 0);
    cr_expect_eq(k->maps, 0);
    cr_expect_eq(iommu->ops->map(iommu, 0x100000000, 0x2000, &hv, 7, 0x5000), 0);
    cr_expect_eq(iommu->ops->unmap(iommu, 0x100000000, 0x3000), -ENOENT, "not that much");
    k->map_errno = ENOMEM;
    cr_expect_eq(iommu->ops->map(iommu, 0, 0x1000, &hv, -1, 0), -ENOMEM);
    expect_clean();
}

/* ---- every call fails once ---- */

static int open_everything(void)
{
    static const struct mem mem = {
        .fd = -1, .nr = 1, .size = MIB, .region = {{0, MIB, (uint8_t *)0x7f0000000000, 0}}};
    struct vfio_device *dev;
    char path[64];
    int err = vfio_sysfs_find("42:00.0", path, sizeof(path));
    if (!err)
        err = vfio_kernel_attach(kernel, path);
    if (!err)
        err = vfio_dma_map_ram(vfio_kernel_iommu(kernel), &mem);
    if (!err)
        err = vfio_kernel_open_device(kernel, path, &dev);
    if (!err)
        dev->ops->close(dev);
    return err;
}

BOTH(every_call_fails_once)
{
    static const int errors[] = {EIO, EPERM, EBUSY, ENOMEM, ENODEV, EINVAL, EMFILE};
    unsigned failed = 0;
    for (size_t e = 0; e < ARRAY_SIZE(errors); e++) {
        bool reached = true;
        for (unsigned n = 1; reached; n++) {
            *k->trace = '\0';
            k->calls = 0;
            k->fail_at = n;
            k->fail_errno = errors[e];
            int err = open_everything();
            reached = k->calls >= n;
            const char *log = fake_log();
            cr_expect_eq(fake_log_lines(log, "cannot "), err ? 1 : 0, "call %u, errno %d: %s",
                         n, errors[e], log);
            failed += err != 0;
            expect_clean();
            create();
        }
    }
    cr_expect_geq(failed, ARRAY_SIZE(errors) * 9, "%u", failed);
    vfio_kernel_destroy(kernel);
}
