/*
 * vfio_info.c: see vfio_info.h. Offsets and sizes come from a device, its driver or a server:
 * they are checked here, once, so that users of vfio.h need not.
 *
 * VFIO_REGION_INFO_CAP_MSIX_MAPPABLE is ignored: the MSI-X table is never given to the guest.
 */
#include "vfio/vfio_info.h"

#include <errno.h>
#include <sys/mman.h>

#include "vmm/layout.h"
#include "vmm/util.h"

#define INFO_CAPS_MAX 64

bool vfio_info_read(const void *info, uint64_t at, void *dst, size_t size)
{
    uint32_t len;
    memcpy(&len, info, sizeof(len));
    if (!range_within(at, size, len))
        return false;
    memcpy(dst, (const char *)info + at, size);
    return true;
}

uint32_t vfio_info_find_cap(const void *info, uint32_t first, uint16_t id, void *cap,
                            size_t size)
{
    struct vfio_info_cap_header header;
    uint32_t at = first;
    for (int i = 0; i < INFO_CAPS_MAX && at; i++) {
        if (!vfio_info_read(info, at, &header, sizeof(header)))
            return 0;
        if (header.id == id)
            return vfio_info_read(info, at, cap, size) ? at : 0;
        at = header.next;
    }
    return 0;
}

/* Adds the whole pages of [offset, offset + size) that lie in the region. What is not added
 * (an overlap, more than there is room for) is trapped: slower, never wrong. */
static void add_area(struct vfio_region *region, uint64_t offset, uint64_t size)
{
    if (offset >= region->size)
        return;
    uint64_t end = align_down(offset + MIN(size, region->size - offset), LAYOUT_PAGE_SIZE);
    offset = align_up(offset, LAYOUT_PAGE_SIZE);
    if (offset >= end || region->areas == VFIO_AREAS_MAX)
        return;
    unsigned i = region->areas;
    while (i > 0 && region->area[i - 1].offset > offset)
        i--;
    struct vfio_area *area = &region->area[i];
    if ((i > 0 && area[-1].offset + area[-1].size > offset) ||
        (i < region->areas && area->offset < end))
        return;
    memmove(area + 1, area, (region->areas - i) * sizeof(*area));
    *area = (struct vfio_area){.offset = offset, .size = end - offset};
    region->areas++;
}

static void add_areas(struct vfio_region *region, const struct vfio_region_info *info)
{
    struct vfio_region_info_cap_sparse_mmap cap;
    struct vfio_region_sparse_mmap_area area;
    uint32_t at = 0;
    if (info->flags & VFIO_REGION_INFO_FLAG_CAPS)
        at = vfio_info_find_cap(info, info->cap_offset, VFIO_REGION_INFO_CAP_SPARSE_MMAP, &cap,
                                sizeof(cap));
    if (!at)
        add_area(region, 0, region->size);
    for (uint64_t i = 0; at && i < cap.nr_areas; i++) {
        if (!vfio_info_read(info, at + sizeof(cap) + i * sizeof(area), &area, sizeof(area)))
            return;
        add_area(region, area.offset, area.size);
    }
}

int vfio_info_region(const void *answer, uint32_t index, struct vfio_region *region)
{
    /* A guest's write to a mapping without that right would make KVM_RUN fail. */
    const uint32_t direct =
        VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    const struct vfio_region_info *info = answer;
    uint64_t end;
    *region = (struct vfio_region){
        .index = index, .flags = info->flags, .size = info->size, .offset = info->offset};
    /* An offset of the region is an off_t of the descriptor. */
    if (__builtin_add_overflow(info->offset, info->size, &end) || end > INT64_MAX)
        return -EIO;
    if ((info->flags & direct) == direct)
        add_areas(region, info);
    return 0;
}

int vfio_info_mmap(const struct vfio_region *region, const struct vfio_area *area, int fd,
                   void *addr)
{
    if (!range_within(area->offset, area->size, region->size))
        return -EINVAL;
    void *at = mmap(addr, area->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                    (off_t)(region->offset + area->offset));
    return at == MAP_FAILED ? -errno : 0;
}
