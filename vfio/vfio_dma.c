/*
 * vfio_dma.c: all guest RAM into the IOMMU, at the guest's own addresses.
 *
 * The guest programs its device with guest physical addresses, so IOVA = gpa. Every page is
 * pinned for the whole life of the VM (Linux Documentation/driver-api/vfio.rst, "VFIO Usage
 * Example"): the host cannot swap it, and the memory counts against RLIMIT_MEMLOCK. BARs are
 * not mapped (no peer-to-peer DMA), and nothing is mapped or unmapped while the guest runs.
 * Main thread only.
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

#define IOVA_RANGES_MAX 64

struct size_text {
    char s[24];
};

/* In the largest unit that leaves no remainder, as --memory takes it. */
static struct size_text size_text(uint64_t size)
{
    static const char unit[] = "\0KMGT";
    struct size_text text;
    unsigned i = 0;
    while (i < 4 && size && size % KIB == 0) {
        size /= KIB;
        i++;
    }
    snprintf(text.s, sizeof(text.s), "%" PRIu64 "%.1s", size, &unit[i]);
    return text;
}

static uint64_t last(const struct mem_region *r)
{
    return r->gpa + r->size - 1;
}

static bool in_ranges(const struct mem_region *r, const struct vfio_iova_range *range,
                      unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        if (r->gpa >= range[i].start && last(r) <= range[i].end)
            return true;
    }
    return nr == 0; /* no limit known */
}

static int outside(const struct vfio_iommu *iommu, const struct mem_region *r,
                   const struct vfio_iova_range *range, unsigned nr)
{
    char text[256] = "";
    for (unsigned i = 0; i < nr; i++) {
        size_t len = strlen(text);
        snprintf(text + len, sizeof(text) - len, "%s0x%" PRIx64 "-0x%" PRIx64, i ? ", " : "",
                 (uint64_t)range[i].start, (uint64_t)range[i].end);
    }
    log_error(iommu->name,
              "cannot map guest memory 0x%" PRIx64 "-0x%" PRIx64
              " for DMA: the IOMMU takes only %s; give the guest less --memory",
              r->gpa, last(r), text);
    return -ERANGE;
}

static int check(struct vfio_iommu *iommu, const struct mem *mem)
{
    struct vfio_iova_range range[IOVA_RANGES_MAX];
    uint64_t pgsizes = 0;
    uint32_t avail = UINT32_MAX;

    int nr = iommu->ops->info(iommu, range, IOVA_RANGES_MAX, &pgsizes, &avail);
    if (nr < 0) {
        log_error(iommu->name, "cannot ask for the IOMMU's limits: %s; dmesg may tell more",
                  strerror(-nr));
        return nr;
    }
    if (avail < mem->nr) {
        log_error(
            iommu->name,
            "cannot map guest memory for DMA: %u mappings are left, %u are needed; raise "
            "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit, or a vfio-user server's "
            "max_dma_maps",
            avail, mem->nr);
        return -ENOSPC;
    }
    uint64_t page = pgsizes ? pgsizes & -pgsizes : LAYOUT_PAGE_SIZE;
    for (unsigned i = 0; i < mem->nr; i++) {
        const struct mem_region *r = &mem->region[i];
        /* More ranges than we have room for: those beyond are the kernel's to check. */
        if (nr <= IOVA_RANGES_MAX && !in_ranges(r, range, (unsigned)nr))
            return outside(iommu, r, range, (unsigned)nr);
        if ((r->gpa | r->size | (uintptr_t)r->hva) & (page - 1)) {
            log_error(iommu->name,
                      "cannot map guest memory 0x%" PRIx64 "-0x%" PRIx64
                      " for DMA: the IOMMU's smallest page is %s; give a multiple as --memory",
                      r->gpa, last(r), size_text(page).s);
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
        log_error(
            iommu->name,
            "cannot map guest memory for DMA: RLIMIT_MEMLOCK is %s, %s is needed; raise it "
            "by 'ulimit -l %" PRIu64 "', memlock in /etc/security/limits.conf or "
            "LimitMEMLOCK=%s in the systemd unit",
            size_text(limit.rlim_cur).s, size_text(mem->size).s, (uint64_t)(mem->size / KIB),
            size_text(mem->size).s);
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
                 size_text(r->size).s);
    }
    return 0;
}

void vfio_dma_unmap_ram(struct vfio_iommu *iommu, const struct mem *mem)
{
    unmap(iommu, mem, mem->nr);
}
