/*
 * vfio_view.c: see vfio_view.h.
 *
 * What the provider lets us map becomes memory slots of the guest, so that register accesses
 * cost no exit; what is left exits and is carried out by region_read and region_write with the
 * guest's size. Slots lie over the range on the bus and are nothing but a shortcut, so they can
 * go at any time. This program never touches a region through its own mapping: the pages can be
 * taken away (by the kernel while memory decoding is off, by a server that shortens its file),
 * and a touch would be a SIGBUS.
 *
 * Slots are changed with the owner's lock. Trapped accesses come from vCPU threads and need
 * none: a region access is one call of the provider.
 */
#include "vfio/vfio_view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "vmm/hv.h"
#include "vmm/layout.h"
#include "vmm/util.h"

/* ---- host mappings ---- */

/*
 * Address space for the whole region, aligned as it is for the guest up to 1 GiB: only then can
 * the host and the IOMMU use huge pages for it. What is not mapped later stays inaccessible.
 */
static uint8_t *reserve(uint64_t size, uint64_t align)
{
    uint64_t room = size + align - LAYOUT_PAGE_SIZE;
    uint8_t *p =
        mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint64_t head = align_up((uintptr_t)p, align) - (uintptr_t)p;
    if (head)
        munmap(p, head);
    if (room - head > size)
        munmap(p + head + size, room - head - size);
    return p + head;
}

static int map_areas(struct vfio_view *view, uint64_t align)
{
    const struct vfio_region *region = &view->region;
    view->va_size = align_up(region->size, LAYOUT_PAGE_SIZE);
    view->va = reserve(view->va_size, MIN(align, GIB));
    if (!view->va)
        return -errno;
    for (unsigned i = 0; i < region->areas; i++) {
        const struct vfio_area *area = &region->area[i];
        int err = view->dev->ops->region_mmap(view->dev, region, area, view->va + area->offset);
        if (err)
            return err;
    }
    return 0;
}

void vfio_view_mmap(struct vfio_view *view, uint64_t align)
{
    int err = view->region.areas ? map_areas(view, align) : 0;
    if (!err)
        return;
    log_note(view->dev->name, "cannot map %s%u: %s; its registers are trapped, which is slow",
             view->noun, view->region.index, strerror(-err));
    vfio_view_munmap(view);
    view->region.areas = 0;
}

void vfio_view_munmap(struct vfio_view *view)
{
    if (view->va)
        munmap(view->va, view->va_size);
    view->va = NULL;
}

/* ---- slots, ioeventfds ---- */

/* What cannot be added is carried out by region_write. */
static void add_ioeventfds(struct vfio_view *view)
{
    for (unsigned i = 0; i < view->region.ioeventfds; i++) {
        const struct vfio_ioeventfd *e = &view->region.ioeventfd[i];
        if (!(view->ioeventfds & 1U << i) &&
            view->hv->ops->ioeventfd_add(view->hv, e->fd, view->addr + e->offset, e->size,
                                         view->pio) == 0)
            view->ioeventfds |= 1U << i;
    }
}

static void remove_ioeventfds(struct vfio_view *view)
{
    for (unsigned i = 0; i < view->region.ioeventfds; i++) {
        const struct vfio_ioeventfd *e = &view->region.ioeventfd[i];
        if (view->ioeventfds & 1U << i)
            view->hv->ops->ioeventfd_remove(view->hv, e->fd, view->addr + e->offset, e->size,
                                            view->pio);
    }
    view->ioeventfds = 0;
}

static void remove_slots(struct vfio_view *view, unsigned nr)
{
    while (nr--)
        view->hv->ops->slot_remove(view->hv, view->slot[nr]);
    view->direct = false;
}

int vfio_view_add_slots(struct vfio_view *view)
{
    struct hv *hv = view->hv;
    for (unsigned i = 0; i < view->region.areas; i++) {
        const struct vfio_area *area = &view->region.area[i];
        int slot = hv->ops->slot_add(hv, view->addr + area->offset, view->va + area->offset,
                                     area->size);
        if (slot < 0) {
            remove_slots(view, i);
            if (slot != -EEXIST && log_limit(&view->complaints))
                log_warn(view->dev->name,
                         "cannot give the guest %s%u at 0x%" PRIx64
                         " directly: %s; its registers are trapped, which is slow",
                         view->noun, view->region.index, view->addr, strerror(-slot));
            return slot == -EEXIST ? slot : 0;
        }
        view->slot[i] = slot;
    }
    view->direct = view->region.areas > 0;
    add_ioeventfds(view);
    return 0;
}

bool vfio_view_remove_slots(struct vfio_view *view)
{
    bool direct = view->direct;
    remove_ioeventfds(view);
    if (direct)
        remove_slots(view, view->region.areas);
    return direct;
}

/* ---- trapped accesses ---- */

static void complain(struct vfio_view *view, const char *verb, uint64_t offset, int err)
{
    if (log_limit(&view->accesses))
        log_debug(view->dev->name, "cannot %s %s%u at 0x%" PRIx64 ": %s", verb, view->noun,
                  view->region.index, offset, strerror(-err));
}

uint64_t vfio_view_read(struct vfio_view *view, uint64_t offset, unsigned size)
{
    uint8_t bytes[8];
    int err = -ERANGE; /* the guest's range may be larger than the region */
    if (range_within(offset, size, view->region.size))
        err = view->dev->ops->region_read(view->dev, &view->region, offset, bytes, size);
    if (!err)
        return get_le(bytes, size);
    complain(view, "read", offset, err);
    return all_ones(size);
}

void vfio_view_write(struct vfio_view *view, uint64_t offset, unsigned size, uint64_t value)
{
    uint8_t bytes[8];
    int err = -ERANGE;
    put_le(bytes, size, value);
    if (view->region.flags & VFIO_REGION_INFO_FLAG_WRITE && /* a ROM is not */
        range_within(offset, size, view->region.size))
        err = view->dev->ops->region_write(view->dev, &view->region, offset, bytes, size);
    if (err)
        complain(view, "write", offset, err);
}

/* ---- description ---- */

static void print_access(FILE *f, const struct vfio_view *view, vfio_view_label *label)
{
    const struct vfio_region *region = &view->region;
    const char *lead = ", trapped ";
    uint64_t start = 0; /* of the gap before area i, or behind the last */
    fputs(region->areas ? " direct" : " trapped", f);
    for (unsigned i = 0; region->areas && i <= region->areas; i++) {
        uint64_t end = i < region->areas ? region->area[i].offset : region->size;
        if (start < end) {
            const char *what = label ? label(view, start, end) : NULL;
            fprintf(f, "%s0x%" PRIx64 "-0x%" PRIx64, lead, start, end - 1);
            lead = ", ";
            if (what)
                fprintf(f, " (%s)", what);
        }
        start = i < region->areas ? end + region->area[i].size : end;
    }
}

void vfio_view_describe(const struct vfio_view *view, uint64_t addr, uint64_t size,
                        vfio_view_label *label)
{
    char *access = NULL;
    size_t len;
    FILE *f = open_memstream(&access, &len);
    if (!f)
        return;
    print_access(f, view, label);
    if (fclose(f) == 0)
        log_note(view->dev->name, "%s%u%s 0x%" PRIx64 " %s%s", view->noun, view->region.index,
                 view->pio ? " I/O" : "", addr, vfio_size_text(size).s, access);
    free(access);
}
