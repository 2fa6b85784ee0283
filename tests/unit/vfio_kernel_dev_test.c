/*
 * vfio_kernel_dev_test.c: regions, interrupts and reset of a device whose answers may be lies.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "vfio/vfio.h"
#include "vmm/util.h"

#define PAGE  4096ULL
#define RW    (VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)
#define AREAS 100

static struct fake_vfio_kernel *k;
static struct fake_hv hv;
static struct vfio_kernel *kernel;
static struct vfio_device *dev;

/* A region's answer with a capability that does not matter and the sparse one. */
static struct {
    struct vfio_region_info info;
    struct vfio_region_info_cap_type type;
    struct { /* struct vfio_region_info_cap_sparse_mmap up to its array */
        struct vfio_info_cap_header header;
        uint32_t nr_areas, reserved;
    } cap;
    struct vfio_region_sparse_mmap_area area[AREAS];
} sparse;

static bool iommufd;

static void set_up(void)
{
    k = fake_vfio_kernel_init();
    fake_hv_init(&hv);
    k->hv = &hv;
    if (iommufd)
        fake_iommufd();
    cr_assert_eq(vfio_kernel_create(&kernel, &hv.hv, iommufd), 0);
    cr_assert_eq(vfio_kernel_attach(kernel, FAKE_SYSFS), 0);
    cr_assert_eq(vfio_kernel_open_device(kernel, FAKE_SYSFS, &dev), 0);
}

static void tear_down(void)
{
    dev->ops->close(dev);
    vfio_kernel_destroy(kernel);
    cr_expect_eq(k->live, 0);
    cr_expect_eq(fake_hv_live(&hv), 0);
    cr_expect_not(k->hv_missed);
    cr_expect_str_eq(fake_log(), "", "errors are the caller's to log");
    fake_vfio_kernel_fini();
}

static void set_up_iommufd(void)
{
    iommufd = true;
    set_up();
}

TestSuite(vfio_kernel_dev, .init = set_up, .fini = tear_down);
TestSuite(vfio_kernel_dev_iommufd, .init = set_up_iommufd, .fini = tear_down);

/* What a device does once it is open is the same for both of the kernel's ways. */
#define BOTH(name) FAKE_TEST_BOTH(vfio_kernel_dev, name)

static int ask(uint32_t index, uint32_t flags, uint64_t size, uint64_t offset,
               struct vfio_region *region)
{
    static struct vfio_region_info info;
    info = (struct vfio_region_info){
        .flags = flags, .index = index, .size = size, .offset = offset};
    k->region[index] = (struct fake_answer){&info, sizeof(info), 0};
    return dev->ops->region_info(dev, index, region);
}

/* ---- regions ---- */

BOTH(region_without_mmap)
{
    struct vfio_region r;
    cr_expect_eq(ask(2, RW, 0x10000, 2ULL << 40, &r), 0);
    cr_expect_eq(r.index, 2);
    cr_expect_eq(r.flags, RW);
    cr_expect_eq(r.size, 0x10000);
    cr_expect_eq(r.offset, 2ULL << 40);
    cr_expect_eq(r.areas, 0);
}

BOTH(whole_region_by_whole_pages)
{
    static const uint64_t size[][2] = {{0, 0},       {1, 0},           {PAGE - 1, 0},
                                       {PAGE, PAGE}, {PAGE + 1, PAGE}, {128 * GIB, 128 * GIB}};
    struct vfio_region r;
    for (size_t i = 0; i < ARRAY_SIZE(size); i++) {
        cr_expect_eq(ask(0, RW | VFIO_REGION_INFO_FLAG_MMAP, size[i][0], 0, &r), 0);
        cr_expect_eq(r.areas, size[i][1] != 0);
        cr_expect_eq(r.area[0].offset, 0);
        cr_expect_eq(r.area[0].size, size[i][1]);
    }
}

BOTH(region_that_is_not_there)
{
    struct vfio_region r;
    cr_expect_eq(dev->ops->region_info(dev, VFIO_PCI_VGA_REGION_INDEX, &r), -EINVAL);
    cr_expect_eq(dev->ops->region_info(dev, 1000, &r), -EINVAL);
}

BOTH(region_beyond_every_offset)
{
    static const uint64_t lie[][2] = {
        {UINT64_MAX, 1}, {1, UINT64_MAX}, {UINT64_MAX, UINT64_MAX}, {INT64_MAX, 1}};
    struct vfio_region r;
    for (size_t i = 0; i < ARRAY_SIZE(lie); i++)
        cr_expect_eq(ask(0, RW, lie[i][0], lie[i][1], &r), -EIO);
    cr_expect_eq(ask(0, RW | VFIO_REGION_INFO_FLAG_MMAP, INT64_MAX, 0, &r), 0);
    cr_expect_eq(r.area[0].size, INT64_MAX - (PAGE - 1));
}

static void sparse_region(struct vfio_region *region, uint64_t size, uint32_t nr)
{
    sparse.info = (struct vfio_region_info){
        .flags = RW | VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS,
        .index = 1,
        .cap_offset = sizeof(sparse.info),
        .size = size,
    };
    sparse.type.header = (struct vfio_info_cap_header){
        VFIO_REGION_INFO_CAP_TYPE, 1, sizeof(sparse.info) + sizeof(sparse.type)};
    sparse.cap.header = (struct vfio_info_cap_header){VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0};
    sparse.cap.nr_areas = nr;
    k->region[1] = (struct fake_answer){&sparse, sizeof(sparse), 0};
    cr_assert_eq(dev->ops->region_info(dev, 1, region), 0);
    for (unsigned i = 0; i < region->areas; i++) {
        const struct vfio_area *a = &region->area[i];
        cr_expect_eq((a->offset | a->size) % PAGE, 0);
        cr_expect_gt(a->size, 0);
        cr_expect(range_within(a->offset, a->size, region->size));
        if (i > 0)
            cr_expect_leq(a[-1].offset + a[-1].size, a->offset);
    }
}

static void expect_areas(const struct vfio_region *r, unsigned nr, const uint64_t (*want)[2])
{
    cr_assert_eq(r->areas, nr, "%u areas", r->areas);
    for (unsigned i = 0; i < nr; i++) {
        cr_expect_eq(r->area[i].offset, want[i][0]);
        cr_expect_eq(r->area[i].size, want[i][1]);
    }
}

BOTH(sparse_areas_are_sorted)
{
    struct vfio_region r;
    static const uint64_t want[][2] = {{0, 0x2000}, {0x3000, 0x1000}, {0x8000, 0x8000}};
    sparse.area[0] = (struct vfio_region_sparse_mmap_area){0x8000, 0x8000};
    sparse.area[1] = (struct vfio_region_sparse_mmap_area){0x5000, 0}; /* empty ones exist */
    sparse.area[2] = (struct vfio_region_sparse_mmap_area){0, 0x2000};
    sparse.area[3] = (struct vfio_region_sparse_mmap_area){0x3000, 0x1000};
    sparse_region(&r, 0x10000, 4);
    expect_areas(&r, 3, want);
}

BOTH(no_sparse_area_means_none)
{
    struct vfio_region r;
    sparse_region(&r, 0x10000, 0);
    cr_expect_eq(r.areas, 0);
}

BOTH(sparse_areas_that_lie)
{
    struct vfio_region r;
    static const uint64_t want[][2] = {{0x1000, 0x1000}, {0x4000, 0x2000}, {0xf000, 0x1000}};
    static const struct vfio_region_sparse_mmap_area lie[] = {
        {0x4000, 0x2000},     {0x5000, 0x1000},  {0x3000, 0x2000},     {0x4000, 0x2000},
        {0xf000, UINT64_MAX}, {0x10000, 0x1000}, {UINT64_MAX, 2},      {0x20000, UINT64_MAX},
        {0x20000, 0x1000},    {0x800, 0x1fff},   {UINT64_MAX - 1, 16}, {0x2800, 0x800},
        {0, 0xfff},
    };
    memcpy(sparse.area, lie, sizeof(lie));
    sparse_region(&r, 0x10000, ARRAY_SIZE(lie));
    expect_areas(&r, 3, want);
}

BOTH(more_sparse_areas_than_room)
{
    struct vfio_region r;
    for (unsigned i = 0; i < AREAS; i++)
        sparse.area[i] = (struct vfio_region_sparse_mmap_area){2 * PAGE * i, PAGE};
    sparse_region(&r, GIB, AREAS);
    cr_expect_eq(r.areas, VFIO_AREAS_MAX);
    sparse_region(&r, GIB, UINT32_MAX); /* more than there are bytes for */
    cr_expect_eq(r.areas, VFIO_AREAS_MAX);
}

BOTH(sparse_capability_outside_the_answer)
{
    struct vfio_region r;
    sparse_region(&r, 0x10000, 1);
    /* Without a capability that can be read the region has no holes that we know of. */
    sparse.info.cap_offset = UINT32_MAX;
    cr_expect_eq(dev->ops->region_info(dev, 1, &r), 0);
    cr_expect_eq(r.areas, 1);
    sparse.info.cap_offset = sizeof(sparse) - sizeof(struct vfio_info_cap_header) + 1;
    cr_expect_eq(dev->ops->region_info(dev, 1, &r), 0);
    cr_expect_eq(r.areas, 1);
    sparse.info.cap_offset = sizeof(sparse.info);
    sparse.type.header.next = sizeof(sparse.info); /* a circle */
    cr_expect_eq(dev->ops->region_info(dev, 1, &r), 0);
    cr_expect_eq(r.areas, 1);
}

BOTH(read_and_write_reach_the_regions_offset)
{
    struct vfio_region r, other;
    uint32_t value = 0x12345678, back = 0;
    uint8_t byte;
    cr_assert_eq(ask(3, RW, 0x1000, 3ULL << 40, &r), 0);
    cr_expect_eq(dev->ops->region_write(dev, &r, 0xffc, &value, 4), 0);
    cr_expect_eq(dev->ops->region_read(dev, &r, 0xffc, &back, 4), 0);
    cr_expect_eq(back, value);
    cr_expect_eq(dev->ops->region_read(dev, &r, 0xfff, &byte, 1), 0);
    cr_expect_eq(byte, 0x12);
    cr_assert_eq(ask(4, RW, 0x1000, (3ULL << 40) + 0xf00, &other), 0);
    cr_expect_eq(dev->ops->region_read(dev, &other, 0xfc, &back, 4), 0);
    cr_expect_eq(back, value);
}

BOTH(read_and_write_stay_in_the_region)
{
    static const uint64_t outside[][2] = {
        {0xffd, 4}, {0x1000, 1}, {UINT64_MAX, 1}, {UINT64_MAX - 1, 8}, {0, 0x1001}};
    struct vfio_region r;
    uint8_t buf[8] = {0};
    cr_assert_eq(ask(3, RW, 0x1000, 3ULL << 40, &r), 0);
    for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
        cr_expect_eq(dev->ops->region_read(dev, &r, outside[i][0], buf, outside[i][1]),
                     -EINVAL);
        cr_expect_eq(dev->ops->region_write(dev, &r, outside[i][0], buf, outside[i][1]),
                     -EINVAL);
    }
}

BOTH(short_transfer)
{
    struct vfio_region r;
    uint32_t value;
    /* The fake's file ends 256 bytes into region 7. */
    cr_assert_eq(ask(VFIO_PCI_CONFIG_REGION_INDEX, RW, 0x1000, 7ULL << 40, &r), 0);
    cr_expect_eq(dev->ops->region_read(dev, &r, 252, &value, 4), 0);
    cr_expect_eq(dev->ops->region_read(dev, &r, 254, &value, 4), -EIO);
    cr_expect_eq(dev->ops->region_read(dev, &r, 256, &value, 4), -EIO);
}

BOTH(mapping)
{
    struct vfio_region r;
    uint32_t value = 0xcafe;
    cr_assert_eq(ask(0, RW | VFIO_REGION_INFO_FLAG_MMAP, 0x4000, 0, &r), 0);
    uint8_t *at = mmap(NULL, 0x2000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(at, MAP_FAILED);
    const struct vfio_area area = {.offset = 0x3000, .size = 0x1000};
    cr_assert_eq(dev->ops->region_mmap(dev, &r, &area, at + 0x1000), 0);
    cr_expect_eq(dev->ops->region_write(dev, &r, 0x3010, &value, 4), 0);
    cr_expect_eq(get_le32(at + 0x1010), value);
    put_le32(at + 0x1020, 0xbeef);
    cr_expect_eq(dev->ops->region_read(dev, &r, 0x3020, &value, 4), 0);
    cr_expect_eq(value, 0xbeef);
    const struct vfio_area outside = {.offset = 0x3000, .size = 0x2000};
    cr_expect_eq(dev->ops->region_mmap(dev, &r, &outside, at), -EINVAL);
    const struct vfio_area odd = {.offset = 0x10, .size = 0x1000};
    cr_expect_eq(dev->ops->region_mmap(dev, &r, &odd, at), -EINVAL);
    munmap(at, 0x2000);
}

/* A guest's write to a read-only mapping would make KVM_RUN fail. */
BOTH(region_that_cannot_be_written_is_not_direct)
{
    static const uint32_t rights[] = {0, VFIO_REGION_INFO_FLAG_READ,
                                      VFIO_REGION_INFO_FLAG_WRITE};
    struct vfio_region r;
    for (size_t i = 0; i < ARRAY_SIZE(rights); i++) {
        cr_expect_eq(ask(0, rights[i] | VFIO_REGION_INFO_FLAG_MMAP, 0x1000, 0, &r), 0);
        cr_expect_eq(r.areas, 0);
    }
}

/* ---- interrupts ---- */

BOTH(irq_info)
{
    struct vfio_irq_info info;
    k->irq = (struct vfio_irq_info){.flags = VFIO_IRQ_INFO_EVENTFD, .count = 33};
    cr_expect_eq(dev->ops->irq_info(dev, VFIO_PCI_MSIX_IRQ_INDEX, &info), 0);
    cr_expect_eq(info.index, VFIO_PCI_MSIX_IRQ_INDEX);
    cr_expect_eq(info.count, 33);
    k->fail_at = k->calls + 1;
    k->fail_errno = EIO;
    cr_expect_eq(dev->ops->irq_info(dev, 0, &info), -EIO);
}

BOTH(irq_set_with_eventfds)
{
    const int fds[] = {5, -1, 7};
    uint32_t flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    cr_expect_eq(dev->ops->irq_set(dev, VFIO_PCI_MSIX_IRQ_INDEX, flags, 2, 3, fds), 0);
    cr_expect_eq(k->irq_argsz, sizeof(struct vfio_irq_set) + 12);
    cr_expect_eq(k->irq_flags, flags);
    cr_expect_eq(k->irq_index, VFIO_PCI_MSIX_IRQ_INDEX);
    cr_expect_eq(k->irq_start, 2);
    cr_expect_eq(k->irq_count, 3);
    cr_expect_arr_eq(k->irq_fd, fds, sizeof(fds));
}

BOTH(irq_set_without_data)
{
    uint32_t flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    cr_expect_eq(dev->ops->irq_set(dev, 0, flags, 0, 0, NULL), 0);
    cr_expect_eq(k->irq_argsz, sizeof(struct vfio_irq_set));
    flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK;
    cr_expect_eq(dev->ops->irq_set(dev, 0, flags, 0, 1, NULL), 0);
    cr_expect_eq(k->irq_argsz, sizeof(struct vfio_irq_set));
    cr_expect_eq(k->irq_count, 1);
}

BOTH(irq_set_of_every_msix_vector)
{
    static const int fds[2049];
    uint32_t flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    cr_expect_eq(dev->ops->irq_set(dev, 2, flags, 0, 2048, fds), 0);
    cr_expect_eq(k->irq_argsz, sizeof(struct vfio_irq_set) + 2048 * 4);
    cr_expect_eq(dev->ops->irq_set(dev, 2, flags, 0, 2049, fds), -EINVAL);
    cr_expect_eq(dev->ops->irq_set(dev, 2, flags, 0, UINT32_MAX, fds), -EINVAL);
    cr_expect_eq(k->irq_count, 2048);
}

BOTH(irq_set_result_is_handed_up)
{
    const int fds[4] = {0};
    k->irq_ret = 2; /* fewer MSI vectors are possible */
    cr_expect_eq(dev->ops->irq_set(dev, 1, VFIO_IRQ_SET_DATA_EVENTFD, 0, 4, fds), 2);
    k->irq_ret = -EINVAL;
    cr_expect_eq(dev->ops->irq_set(dev, 1, VFIO_IRQ_SET_DATA_EVENTFD, 0, 4, fds), -EINVAL);
}

/* ---- reset ---- */

BOTH(function_reset_is_preferred)
{
    k->affected_nr = 1;
    k->affected[0].group_id = FAKE_GROUP;
    cr_expect_eq(dev->ops->reset(dev), 0);
    cr_expect_eq(k->resets, 1);
    cr_expect_eq(k->hot_resets, 0);
    k->fail_at = k->calls + 1;
    k->fail_errno = EIO;
    cr_expect_eq(dev->ops->reset(dev), -EIO);
}

static void no_function_reset(void)
{
    dev->flags &= ~VFIO_DEVICE_FLAGS_RESET;
    for (int i = 0; i < 8; i++)
        k->affected[i].group_id = FAKE_GROUP;
}

Test(vfio_kernel_dev, hot_reset_names_each_group_once)
{
    no_function_reset();
    fake_sysfs_device("0000:42:00.1", 16, "vfio-pci");
    cr_assert_eq(vfio_kernel_attach(kernel, "/sys/bus/pci/devices/0000:42:00.1"), 0);
    k->affected_nr = 4;
    k->affected[1].group_id = 16;
    cr_expect_eq(dev->ops->reset(dev), 0);
    cr_expect_eq(k->resets, 0);
    cr_expect_eq(k->hot_reset_count, 2);
    cr_expect_eq(k->kind[k->hot_reset_fd[0]], FAKE_GROUP_FD);
    cr_expect_eq(k->number[k->hot_reset_fd[0]], FAKE_GROUP);
    cr_expect_eq(k->number[k->hot_reset_fd[1]], 16);
}

Test(vfio_kernel_dev, hot_reset_of_somebody_elses_device)
{
    no_function_reset();
    k->affected_nr = 2;
    k->affected[1].group_id = 16;
    cr_expect_eq(dev->ops->reset(dev), -ENOTTY);
    k->affected[1].group_id = UINT32_MAX;
    cr_expect_eq(dev->ops->reset(dev), -ENOTTY);
    cr_expect_eq(k->hot_resets, 0);
}

/* The kernel tells whether the card's other devices are of the same iommufd, or of nobody. */
Test(vfio_kernel_dev_iommufd, hot_reset_needs_no_groups)
{
    no_function_reset();
    k->affected_nr = 4;
    k->affected_owned = true;
    cr_expect_eq(dev->ops->reset(dev), 0);
    cr_expect_eq(k->resets, 0);
    cr_expect_eq(k->hot_resets, 1);
    cr_expect_eq(k->hot_reset_count, 0);
    cr_expect_eq(k->hot_reset_argsz, sizeof(struct vfio_pci_hot_reset));
}

Test(vfio_kernel_dev_iommufd, hot_reset_of_somebody_elses_device)
{
    no_function_reset();
    k->affected_nr = 2;
    cr_expect_eq(dev->ops->reset(dev), -ENOTTY);
    cr_expect_eq(k->hot_resets, 0);
}

BOTH(no_reset_at_all)
{
    no_function_reset();
    cr_expect_eq(dev->ops->reset(dev), -ENOTTY);
}

BOTH(hot_reset_that_fails)
{
    no_function_reset();
    k->affected_nr = 100000; /* more than one reset could affect */
    cr_expect_eq(dev->ops->reset(dev), -ENOSPC);
    k->affected_nr = 1;
    k->affected_owned = true;
    k->hot_reset_errno = EPERM;
    cr_expect_eq(dev->ops->reset(dev), -EPERM);
    k->hot_reset_errno = EINVAL; /* the kernel's word for a function without VFIO's driver */
    cr_expect_eq(dev->ops->reset(dev), -ENOTTY);
}

/* ---- opening ---- */

BOTH(no_info_no_device)
{
    static const char path[] = "/sys/bus/pci/devices/0000:42:00.1";
    struct vfio_device *other;
    unsigned live = k->live;
    fake_sysfs_device("0000:42:00.1", FAKE_GROUP, "vfio-pci");
    cr_assert_eq(vfio_kernel_attach(kernel, path), 0);
    /* The call after the device's descriptor, which one more call before it may make. */
    k->fail_at = k->calls + (iommufd ? 2 : 3);
    k->fail_errno = EIO;
    cr_expect_eq(vfio_kernel_open_device(kernel, path, &other), -EIO);
    cr_expect_eq(k->live, live);
    cr_expect_eq(fake_log_lines(fake_log(), "cannot open device: Input/output error"), 1);
}
