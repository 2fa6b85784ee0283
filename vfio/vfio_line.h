/*
 * vfio_line.h: one interrupt of a device on an input of the guest's IOAPIC: INTx of a PCI
 * function, an interrupt of a platform device.
 */
#pragma once

#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>

struct hv;
struct loop;
struct vfio_device;

struct vfio_line {
    struct vfio_device *dev; /* NULL: nothing to undo */
    struct hv *hv;
    uint32_t index; /* the device's */
    uint32_t gsi;   /* the guest's */
    bool level;     /* masked by the host when it fires, until the guest's EOI; else a pulse */
    struct loop *loop; /* for a device that cannot be unmasked by an eventfd */
    bool on, by_hand;  /* the loop unmasks it */
    int fd, unmask_fd; /* eventfds */
};

/* How many interrupts INDEX has that can be had by eventfd; *FLAGS only when there are some. */
unsigned vfio_line_count(struct vfio_device *dev, uint32_t index, uint32_t *flags);

/* Whether one with FLAGS masks itself when it fires, and can be unmasked. */
static inline bool vfio_line_is_level(uint32_t flags)
{
    return flags & VFIO_IRQ_INFO_AUTOMASKED && flags & VFIO_IRQ_INFO_MASKABLE;
}

/* After the first six fields: makes the eventfds. */
int vfio_line_init(struct vfio_line *line);
int vfio_line_on(struct vfio_line *line);
/* At the device and at the hypervisor, where the input falls. Fine when it is off. */
void vfio_line_off(struct vfio_line *line);
void vfio_line_fini(struct vfio_line *line); /* also of a zeroed struct */
