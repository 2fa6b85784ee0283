/*
 * vfio_view.h: a region of a device as the guest sees it: memory slots over what can be mapped,
 * accesses that trap for the rest. The common part of PCI BARs and platform devices' regions.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vfio/vfio.h"
#include "vmm/log.h"

struct vfio_view {
    struct vfio_device *dev;
    struct hv *hv;
    const char *noun;          /* before the region's index in messages: "BAR" */
    struct vfio_region region; /* its areas are the direct ones: without what has to trap */
    uint8_t *va;               /* reservation of va_size bytes, the areas mapped in it */
    uint64_t va_size;
    uint64_t addr;            /* where the guest has it */
    bool pio;                 /* that is a port */
    bool direct;              /* the areas' slots are in place */
    int slot[VFIO_AREAS_MAX]; /* of each area, while direct */
    uint32_t ioeventfds;      /* of the region's, those in place: one bit each */
    struct log_limit complaints;
    struct log_limit accesses; /* about failed ones: the guest can cause any number */
};

/* Maps the areas, at an address aligned to ALIGN (a power of two). Where that fails the region
 * has none from then on: it is trapped. */
void vfio_view_mmap(struct vfio_view *view, uint64_t align);
void vfio_view_munmap(struct vfio_view *view);

/* The areas' slots at view->addr, and the ioeventfds. -EEXIST when something is there; any
 * other failure only costs speed. The owner's lock protects the slots. */
int vfio_view_add_slots(struct vfio_view *view);
/* True when there were slots. */
bool vfio_view_remove_slots(struct vfio_view *view);

/* A trapped access, at the device with the guest's size; one that fails, or lies beyond the
 * region, reads all ones and is dropped. Any thread. */
uint64_t vfio_view_read(struct vfio_view *view, uint64_t offset, unsigned size);
void vfio_view_write(struct vfio_view *view, uint64_t offset, unsigned size, uint64_t value);

/* What is trapped in [START, END), or NULL. */
typedef const char *vfio_view_label(const struct vfio_view *view, uint64_t start, uint64_t end);
/* Logs a note: "BAR1 0xfe0000000 64K direct, trapped 0x2000-0x2fff (MSI-X table)". LABEL may be
 * NULL. */
void vfio_view_describe(const struct vfio_view *view, uint64_t addr, uint64_t size,
                        vfio_view_label *label);
