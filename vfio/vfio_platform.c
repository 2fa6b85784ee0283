/*
 * vfio_platform.c: a passed-through platform device (VFIO_DEVICE_FLAGS_PLATFORM): of the
 * kernel's vfio-platform, or of a vfio-user server, where the flag is an extension of ours.
 *
 * Linux Documentation/driver-api/vfio.rst and linux/vfio.h. Regions and interrupts are numbered
 * as the device has them and mean what its driver knows. Nothing moves: each region is placed
 * once, naturally aligned, so that the guest's page tables and the host's agree on huge pages.
 *
 * Start: reset, regions, interrupts last. End: off the bus, interrupts off, reset, closed. A
 * lost device (vfio.h) reads all ones until the end, and its inputs are low. Left out: ports,
 * which vfio-platform does not carry out, and more than one interrupt per index.
 *
 * Main thread; the lock protects the slots, which vfio_platform_drop_slots() takes away from a
 * vCPU thread.
 */
#include "vfio/vfio_platform.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "vfio/vfio.h"
#include "vfio/vfio_line.h"
#include "vfio/vfio_view.h"
#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

struct vfio_platform {
    struct vfio_device *dev;
    struct vfio_platform_config wiring;
    pthread_mutex_t lock;
    unsigned views, lines;
    struct vfio_view view[VFIO_PLATFORM_REGIONS_MAX];
    struct vfio_line line[VFIO_PLATFORM_IRQS_MAX];
};

/* ---- regions ---- */

static uint64_t view_read(void *opaque, uint64_t offset, unsigned size)
{
    return vfio_view_read(opaque, offset, size);
}

static void view_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    vfio_view_write(opaque, offset, size, value);
}

static const struct bus_ops view_ops = {.read = view_read, .write = view_write};

/* The size may be anything. */
static int place(struct vfio_platform *p, struct vfio_view *view, uint64_t *align)
{
    struct vfio_platform_room *room = p->wiring.room;
    uint64_t size = view->region.size;
    *align = LAYOUT_PAGE_SIZE;
    while (*align < size && *align < LAYOUT_PLATFORM_SIZE)
        *align *= 2;
    view->addr = align_up(room->next, *align);
    if (!range_within(view->addr, size, LAYOUT_PLATFORM + LAYOUT_PLATFORM_SIZE)) {
        log_error(p->dev->name,
                  "cannot place region %u of 0x%" PRIx64 " bytes: the platform window has no "
                  "room for it; pass fewer or smaller devices",
                  view->region.index, size);
        return -ENOSPC;
    }
    room->next = align_up(view->addr + size, LAYOUT_PAGE_SIZE);
    return 0;
}

static int add_region(struct vfio_platform *p, uint32_t index)
{
    struct vfio_view *view = &p->view[p->views];
    uint64_t align;
    *view = (struct vfio_view){.dev = p->dev, .hv = p->wiring.hv, .noun = "region "};
    int err = p->dev->ops->region_info(p->dev, index, &view->region);
    if (err) {
        log_error(p->dev->name, "cannot get the size of region %u: %s", index, strerror(-err));
        return err;
    }
    if (!view->region.size ||
        !(view->region.flags & (VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)))
        return 0; /* not there, or ports */
    if (!p->wiring.mmap)
        view->region.areas = view->region.ioeventfds = 0;
    err = place(p, view, &align);
    if (err)
        return err;
    vfio_view_mmap(view, align);
    const struct bus_range range = {view->addr, view->region.size, &view_ops, view,
                                    p->dev->name};
    err = bus_add(p->wiring.mmio, &range);
    if (err) {
        log_error(p->dev->name, "cannot put region %u at 0x%" PRIx64 ": %s", index, view->addr,
                  strerror(-err));
        vfio_view_munmap(view);
        return err;
    }
    p->views++;
    vfio_view_add_slots(view); /* what does not fit is trapped */
    return 0;
}

bool vfio_platform_drop_slots(struct vfio_platform *p)
{
    bool any = false;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < p->views; i++)
        any |= vfio_view_remove_slots(&p->view[i]);
    pthread_mutex_unlock(&p->lock);
    return any;
}

/* ---- interrupts ---- */

static int add_irq(struct vfio_platform *p, uint32_t index)
{
    uint32_t *gsis = &p->wiring.room->gsis, flags = 0;
    struct vfio_line *line = &p->line[p->lines];
    if (!vfio_line_count(p->dev, index, &flags)) {
        log_note(p->dev->name,
                 "interrupt %u is left out: the device does not give it by eventfd", index);
        return 0;
    }
    if (!*gsis) {
        log_error(p->dev->name,
                  "cannot wire interrupt %u: every input of the guest's IOAPIC is taken; pass "
                  "fewer devices",
                  index);
        return -ENOSPC;
    }
    *line = (struct vfio_line){.dev = p->dev,
                               .hv = p->wiring.hv,
                               .index = index,
                               .gsi = (uint32_t)__builtin_ctz(*gsis),
                               .level = vfio_line_is_level(flags)};
    *gsis &= *gsis - 1;
    p->lines++;
    int err = vfio_line_init(line);
    if (!err)
        err = vfio_line_on(line);
    if (err)
        log_error(p->dev->name, "cannot wire interrupt %u: %s", index, strerror(-err));
    return err;
}

static void lines_off(struct vfio_platform *p)
{
    for (unsigned i = 0; i < p->lines; i++)
        vfio_line_off(&p->line[i]);
}

/* ---- life cycle ---- */

static void on_lost(void *opaque)
{
    struct vfio_platform *p = opaque;
    vfio_platform_drop_slots(p);
    lines_off(p);
}

static int reset_device(struct vfio_platform *p)
{
    int err = p->dev->ops->reset(p->dev);
    if (err == -ENOTTY) {
        log_note(p->dev->name,
                 "the device has no reset method; it keeps its state from before");
        return 0;
    }
    if (err)
        log_error(p->dev->name, "cannot reset the device: %s", strerror(-err));
    return err;
}

static int set_up(struct vfio_platform *p)
{
    if (p->dev->regions > VFIO_PLATFORM_REGIONS_MAX || p->dev->irqs > VFIO_PLATFORM_IRQS_MAX) {
        log_error(p->dev->name,
                  "cannot pass through the device: it has %u regions and %u interrupts, and at "
                  "most %u and %u are supported",
                  p->dev->regions, p->dev->irqs, VFIO_PLATFORM_REGIONS_MAX,
                  VFIO_PLATFORM_IRQS_MAX);
        return -E2BIG;
    }
    int err = reset_device(p);
    for (uint32_t i = 0; i < p->dev->regions && !err; i++)
        err = add_region(p, i);
    for (uint32_t i = 0; i < p->dev->irqs && !err; i++)
        err = add_irq(p, i);
    return err;
}

int vfio_platform_create(struct vfio_platform **out, struct vfio_device *dev,
                         const struct vfio_platform_config *config)
{
    struct vfio_platform *p = calloc(1, sizeof(*p));
    if (!p) {
        log_error(dev->name, "cannot pass through the device: %s", strerror(ENOMEM));
        dev->ops->close(dev);
        return -ENOMEM;
    }
    p->dev = dev;
    p->wiring = *config;
    pthread_mutex_init(&p->lock, NULL);
    dev->on_lost = on_lost;
    dev->opaque = p;
    int err = set_up(p);
    if (err) {
        vfio_platform_destroy(p);
        return err;
    }
    *out = p;
    return 0;
}

void vfio_platform_destroy(struct vfio_platform *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < p->views; i++) {
        bus_remove(p->wiring.mmio, p->view[i].addr);
        vfio_view_remove_slots(&p->view[i]);
        vfio_view_munmap(&p->view[i]);
    }
    for (unsigned i = 0; i < p->lines; i++)
        vfio_line_fini(&p->line[i]);
    p->dev->ops->reset(p->dev);
    p->dev->ops->close(p->dev);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static int start_again(struct vfio_platform *p)
{
    int err = reset_device(p);
    for (unsigned i = 0; i < p->lines && !err; i++) {
        err = vfio_line_on(&p->line[i]);
        if (err)
            log_error(p->dev->name, "cannot switch interrupt %u on: %s", p->line[i].index,
                      strerror(-err));
    }
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < p->views && !err; i++)
        if (!p->view[i].direct)
            vfio_view_add_slots(&p->view[i]);
    pthread_mutex_unlock(&p->lock);
    return err;
}

int vfio_platform_reset(struct vfio_platform *p)
{
    lines_off(p);
    int err = p->dev->lost ? 0 : start_again(p);
    return p->dev->lost ? 0 : err; /* the guest may go on without it */
}

/* ---- description ---- */

bool vfio_platform_region(const struct vfio_platform *p, unsigned n, uint64_t *gpa,
                          uint64_t *size)
{
    if (n >= p->views)
        return false;
    *gpa = p->view[n].addr;
    *size = p->view[n].region.size;
    return true;
}

bool vfio_platform_irq(const struct vfio_platform *p, unsigned n, uint32_t *gsi, bool *level)
{
    if (n >= p->lines)
        return false;
    *gsi = p->line[n].gsi;
    *level = p->line[n].level;
    return true;
}

const struct vfio_device *vfio_platform_device(const struct vfio_platform *p)
{
    return p->dev;
}

void vfio_platform_describe(const struct vfio_platform *p)
{
    for (unsigned i = 0; i < p->views; i++)
        vfio_view_describe(&p->view[i], p->view[i].addr, p->view[i].region.size, NULL);
    for (unsigned i = 0; i < p->lines; i++)
        log_note(p->dev->name, "interrupt %u gsi %u %s", p->line[i].index, p->line[i].gsi,
                 p->line[i].level ? "level" : "edge");
    if (!p->dev->compatible[0] && !p->dev->hid[0])
        log_note(p->dev->name, "the ACPI tables leave the device out: it has no compatible "
                               "string, by which a driver would find it");
}
