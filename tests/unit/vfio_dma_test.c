/*
 * vfio_dma_test.c: RAM into an IOMMU that has limits.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/unit/fake_mem.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "vfio/vfio.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define LOW  (3 * GIB)
#define HIGH (1 * GIB)

static struct {
    struct vfio_iommu iommu;
    struct vfio_iova_range range[4];
    int nr;
    uint64_t pgsizes;
    uint32_t avail;
    int fail_at, err; /* the map call that fails, from 1 */
    int maps, mapped;
    uint64_t iova[4], size[4];
    void *hva[4];
    int fd;
    uint64_t fd_offset[4];
} io;

static int get_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits)
{
    (void)iommu;
    memcpy(limits->range, io.range, sizeof(io.range));
    limits->nr = (unsigned)MAX(io.nr, 0);
    limits->page = io.pgsizes;
    limits->avail = io.avail;
    return MIN(io.nr, 0);
}

static int map(struct vfio_iommu *iommu, uint64_t iova, uint64_t size, void *hva, int fd,
               uint64_t fd_offset)
{
    (void)iommu;
    if (++io.maps == io.fail_at)
        return io.err;
    int i = io.mapped++;
    io.iova[i] = iova;
    io.size[i] = size;
    io.hva[i] = hva;
    io.fd = fd;
    io.fd_offset[i] = fd_offset;
    return 0;
}

static int unmap(struct vfio_iommu *iommu, uint64_t iova, uint64_t size)
{
    (void)iommu;
    /* In reverse order, exactly as mapped. */
    io.mapped--;
    cr_expect_eq(io.iova[io.mapped], iova);
    cr_expect_eq(io.size[io.mapped], size);
    return 0;
}

static const struct vfio_iommu_ops ops = {get_limits, map, unmap};

/* Never touched, only their addresses are. */
static struct mem mem = {
    .fd = 42,
    .nr = 2,
    .size = LOW + HIGH,
    .region = {{0, LOW, (uint8_t *)0x7f0000000000, 0},
               {4 * GIB, HIGH, (uint8_t *)0x7f80c0000000, LOW}},
};

static void set_up(void)
{
    fake_vfio_kernel_init();
    io.iommu = (struct vfio_iommu){.ops = &ops, .name = "iommu0"};
    io.pgsizes = 0x40201000;
    io.avail = UINT32_MAX;
}

TestSuite(vfio_dma, .init = set_up, .fini = fake_vfio_kernel_fini);

static void refused(int err, const char *word)
{
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), err);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, "minivmm: iommu0: cannot "), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, word), 1, "%s", log);
    cr_expect_eq(io.mapped, 0);
}

Test(vfio_dma, maps_every_region_at_its_gpa)
{
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), 0);
    cr_expect_eq(io.mapped, 2);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(io.iova[i], mem.region[i].gpa);
        cr_expect_eq(io.size[i], mem.region[i].size);
        cr_expect_eq(io.hva[i], mem.region[i].hva);
        cr_expect_eq(io.fd_offset[i], mem.region[i].fd_offset);
    }
    cr_expect_eq(io.fd, 42);
    cr_expect_str_eq(fake_log(), "minivmm: iommu0: DMA 0x0-0xbfffffff 3G\n"
                                 "minivmm: iommu0: DMA 0x100000000-0x13fffffff 1G\n");
    vfio_dma_unmap_ram(&io.iommu, &mem);
    cr_expect_eq(io.mapped, 0);
}

Test(vfio_dma, ranges_are_inclusive)
{
    io.nr = 3;
    io.range[0] = (struct vfio_iova_range){0, LOW - 1};
    io.range[1] = (struct vfio_iova_range){0xfef00000, 0xffffffff};
    io.range[2] = (struct vfio_iova_range){4 * GIB, 5 * GIB - 1};
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), 0);
}

Test(vfio_dma, range_one_byte_short)
{
    io.nr = 2;
    io.range[0] = (struct vfio_iova_range){0, LOW - 1};
    io.range[1] = (struct vfio_iova_range){4 * GIB, 5 * GIB - 2};
    refused(-ERANGE, "0x100000000-0x13fffffff for DMA: the IOMMU takes only 0x0-0xbfffffff, "
                     "0x100000000-0x13ffffffe;");
}

Test(vfio_dma, range_that_begins_too_late)
{
    io.nr = 1;
    io.range[0] = (struct vfio_iova_range){1, UINT64_MAX};
    refused(-ERANGE, "0x0-0xbfffffff for DMA");
}

Test(vfio_dma, adjacent_ranges_do_not_hold_one_region)
{
    io.nr = 2;
    io.range[0] = (struct vfio_iova_range){0, GIB - 1};
    io.range[1] = (struct vfio_iova_range){GIB, UINT64_MAX};
    refused(-ERANGE, "for DMA");
}

Test(vfio_dma, more_ranges_than_room_are_left_to_the_kernel)
{
    io.nr = 1000;
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), 0);
}

Test(vfio_dma, where_the_iommu_ends)
{
    struct vfio_dma_limits limits;
    cr_assert_eq(vfio_dma_get_limits(&io.iommu, &limits), 0);
    cr_expect_eq(vfio_dma_end(&limits), UINT64_MAX, "not known");
    io.nr = 2;
    io.range[0] = (struct vfio_iova_range){0xfef00000, (1ULL << 39) - 1};
    io.range[1] = (struct vfio_iova_range){0, LOW - 1};
    cr_assert_eq(vfio_dma_get_limits(&io.iommu, &limits), 0);
    cr_expect_eq(vfio_dma_end(&limits), 1ULL << 39);
    io.range[1].end = UINT64_MAX;
    cr_assert_eq(vfio_dma_get_limits(&io.iommu, &limits), 0);
    cr_expect_eq(vfio_dma_end(&limits), UINT64_MAX, "no wrap");
}

Test(vfio_dma, page_size)
{
    io.pgsizes = 0x40000000 | 0x200000;
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), 0);
    vfio_dma_unmap_ram(&io.iommu, &mem);
    fake_log();
    mem.region[1].size -= 0x1000;
    refused(-EINVAL, "smallest page is 2M");
    io.pgsizes = 0; /* unknown: 4 KiB */
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), 0);
    vfio_dma_unmap_ram(&io.iommu, &mem);
    fake_log();
    mem.region[1].hva += 0x800;
    refused(-EINVAL, "smallest page is 4K");
}

Test(vfio_dma, mappings_left)
{
    io.avail = 2;
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &mem), 0);
    vfio_dma_unmap_ram(&io.iommu, &mem);
    fake_log();
    io.avail = 1;
    refused(-ENOSPC, "1 mappings are left, 2 are needed");
}

Test(vfio_dma, no_limits_to_be_had)
{
    io.nr = -ENOTTY;
    refused(-ENOTTY, "Inappropriate ioctl");
}

Test(vfio_dma, failure_undoes_what_was_mapped)
{
    io.fail_at = 2;
    io.err = -EEXIST;
    refused(-EEXIST, "0x100000000-0x13fffffff for DMA: File exists");
}

static void limit_memlock(uint64_t bytes)
{
    struct rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

Test(vfio_dma, memlock_is_named_with_the_figure_needed)
{
    limit_memlock(8 * MIB);
    io.fail_at = 1;
    io.err = -ENOMEM;
    refused(-ENOMEM, "RLIMIT_MEMLOCK is 8M, 4G is needed; raise it by 'ulimit -l 4194304'");
}

Test(vfio_dma, enough_memlock_is_not_blamed)
{
    struct rlimit now;
    cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &now), 0);
    mem.nr = 1;
    mem.size = mem.region[0].size = now.rlim_max < 4 * MIB ? now.rlim_max & ~4095ULL : 4 * MIB;
    limit_memlock(mem.size);
    io.fail_at = 1;
    io.err = -ENOMEM;
    refused(-ENOMEM, "free memory on the host");
    limit_memlock(mem.size - 1);
    io.fail_at = 2;
    refused(-ENOMEM, "RLIMIT_MEMLOCK");
}

/* What keeps the device out is found before the time is spent. */
Test(vfio_dma, pages_are_taken_right_before_they_are_pinned)
{
    struct mem ram;
    cr_assert_eq(mem_init_backed(&ram, 2 * MIB, &(struct mem_backing){.populate = true}), 0);
    io.avail = 0;
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &ram), -ENOSPC);
    cr_expect_eq(fake_mem.populated, 0);
    io.avail = 65535;
    cr_expect_eq(vfio_dma_map_ram(&io.iommu, &ram), 0);
    cr_expect_eq(fake_mem.populated, 1);
    cr_expect_eq(io.mapped, 1);
    vfio_dma_unmap_ram(&io.iommu, &ram);
    mem_fini(&ram);
}
