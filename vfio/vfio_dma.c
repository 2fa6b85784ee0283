/*
 * vfio_dma.c: all guest RAM into the IOMMU, at the guest's own addresses.
 *
 * The guest programs its device with guest physical addresses, so IOVA = gpa. Every page is
 * pinned for the whole life of the VM (Linux Documentation/driver-api/vfio.rst, "VFIO Usage
 * Example"): the host cannot swap it, and the memory counts against RLIMIT_MEMLOCK. It is
 * mapped before the guest runs and unmapped after. What devices may reach of each other is
 * vfio_p2p.c. Main thread only.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/resource.h>

#include "vfio/vfio.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/util.h"

struct vfio_size_text vfio_size_text(uint64_t size)
{
    static const char unit[] = "\0KMGT";
    struct vfio_size_text text;
    unsigned i = 0;
    while (i < 4 && size && size % KIB == 0) {
        size /= KIB;
        i++;
    }
    snprintf(text.s, sizeof(text.s), "%" PRIu64 "%.1s", size, &unit[i]);
    return text;
}

struct vfio_memlock_text vfio_memlock_text(uint64_t size)
{
    struct vfio_memlock_text text;
    snprintf(text.s, sizeof(text.s),
             "raise it by 'ulimit -l %llu', memlock in /etc/security/limits.conf or "
             "LimitMEMLOCK=%s in the systemd unit",
             size / KIB, vfio_size_text(size).s);
    return text;
}

static uint64_t last(const struct mem_region *r)
{
    return r->gpa + r->size - 1;
}

int vfio_dma_get_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits)
{
    *limits = (struct vfio_dma_limits){.avail = UINT32_MAX};
    int err = iommu->ops->limits(iommu, limits);
    limits->page = limits->page ? limits->page & -limits->page : LAYOUT_PAGE_SIZE;
    if (err || limits->nr > VFIO_IOVA_RANGES_MAX)
        limits->nr = 0; /* more ranges than we have room for are the kernel's to check */
    return err;
}

bool vfio_dma_in_range(const struct vfio_dma_limits *limits, uint64_t iova, uint64_t size)
{
    for (unsigned i = 0; i < limits->nr; i++) {
        const struct vfio_iova_range *range = &limits->range[i];
        if (iova >= range->start && iova + size - 1 <= range->end)
            return true;
    }
    return limits->nr == 0;
}

uint64_t vfio_dma_end(const struct vfio_dma_limits *limits)
{
    uint64_t top = limits->nr ? 0 : UINT64_MAX;
    for (unsigned i = 0; i < limits->nr; i++)
        top = MAX(top, limits->range[i].end);
    return top == UINT64_MAX ? top : top + 1;
}

struct vfio_dma_text vfio_dma_ranges_text(const struct vfio_dma_limits *limits)
{
    struct vfio_dma_text text = {""};
    for (unsigned i = 0; i < limits->nr; i++) {
        size_t len = strlen(text.s);
        snprintf(text.s + len, sizeof(text.s) - len, "%s0x%" PRIx64 "-0x%" PRIx64,
                 i ? ", " : "", (uint64_t)limits->range[i].start,
                 (uint64_t)limits->range[i].end);
    }
    return text;
}

static int check(struct vfio_iommu *iommu, const struct mem *mem)
{
    struct vfio_dma_limits limits;
    int err = vfio_dma_get_limits(iommu, &limits);
    if (err) {
        log_error(iommu->name, "cannot ask for the IOMMU's limits: %s; dmesg may tell more",
                  strerror(-err));
        return err;
    }
    if (limits.avail < mem->nr) {
        log_error(
            iommu->name,
            "cannot map guest memory for DMA: %u mappings are left, %u are needed; raise "
            "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit, or a vfio-user server's "
            "max_dma_maps",
            limits.avail, mem->nr);
        return -ENOSPC;
    }
    for (unsigned i = 0; i < mem->nr; i++) {
        const struct mem_region *r = &mem->region[i];
        if (!vfio_dma_in_range(&limits, r->gpa, r->size)) {
            log_error(iommu->name,
                      "cannot map guest memory 0x%" PRIx64 "-0x%" PRIx64
                      " for DMA: the IOMMU takes only %s; give the guest less --memory",
                      r->gpa, last(r), vfio_dma_ranges_text(&limits).s);
            return -ERANGE;
        }
        if ((r->gpa | r->size | (uintptr_t)r->hva) & (limits.page - 1)) {
            log_error(iommu->name,
                      "cannot map guest memory 0x%" PRIx64 "-0x%" PRIx64
                      " for DMA: the IOMMU's smallest page is %s; give a multiple as --memory",
                      r->gpa, last(r), vfio_size_text(limits.page).s);
            return -EINVAL;
        }
    }
    return 0;
}

static void map_failed(const struct vfio_iommu *iommu, const struct mem *mem,
                       const struct mem_region *r, int err)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (err == -ENOMEM && limit.rlim_cur < mem->size)
        log_error(iommu->name,
                  "cannot map guest memory for DMA: RLIMIT_MEMLOCK is %s, %s is needed; %s",
                  vfio_size_text(limit.rlim_cur).s, vfio_size_text(mem->size).s,
                  vfio_memlock_text(mem->size).s);
    else
        log_error(iommu->name,
                  "cannot map guest memory 0x%" PRIx64 "-0x%" PRIx64 " for DMA: %s; %s", r->gpa,
                  last(r), strerror(-err),
                  err == -ENOMEM ? "free memory on the host or give less --memory"
                                 : "dmesg may tell more");
}

static void unmap(struct vfio_iommu *iommu, const struct mem *mem, unsigned nr)
{
    while (nr-- > 0)
        iommu->ops->unmap(iommu, mem->region[nr].gpa, mem->region[nr].size);
}

int vfio_dma_map_ram(struct vfio_iommu *iommu, const struct mem *mem)
{
    int err = check(iommu, mem);
    if (!err)
        err = mem_take(mem);
    if (err)
        return err;
    for (unsigned i = 0; i < mem->nr; i++) {
        const struct mem_region *r = &mem->region[i];
        err = iommu->ops->map(iommu, r->gpa, r->size, r->hva, mem->fd, r->fd_offset);
        if (err) {
            map_failed(iommu, mem, r, err);
            unmap(iommu, mem, i);
            return err;
        }
        log_note(iommu->name, "DMA 0x%" PRIx64 "-0x%" PRIx64 " %s", r->gpa, last(r),
                 vfio_size_text(r->size).s);
    }
    return 0;
}

void vfio_dma_unmap_ram(struct vfio_iommu *iommu, const struct mem *mem)
{
    unmap(iommu, mem, mem->nr);
}
