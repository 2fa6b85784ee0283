/*
 * hv.h: the seam between the machine and the hypervisor underneath.
 *
 * devices/ and vfio/ ask for memory slots, interrupt lines and message routes through this
 * table and never see KVM. vmm/kvm.c fills it; tests/unit/fake_hv.c records the calls instead.
 * All calls return 0 (or what they say) or a negative errno, and may come from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct hv;

/* A message-signalled interrupt: a write of DATA to ADDRESS (PCI 3.0, 6.8.1). */
struct hv_msi {
    uint64_t address;
    uint32_t data;
};

struct hv_ops {
    /* Guest memory [gpa, gpa + size) is HVA; everything page-aligned. Returns the slot (>= 0);
     * -EEXIST when it overlaps another. The memory stays the caller's. */
    int (*slot_add)(struct hv *hv, uint64_t gpa, void *hva, uint64_t size);
    int (*slot_remove)(struct hv *hv, int slot);

    /* Level of an interrupt input; an edge-triggered one is pulsed by 1 then 0. */
    int (*irq_line)(struct hv *hv, uint32_t gsi, bool level);

    /* A route from a new gsi (>= LAYOUT_GSI_COUNT) to MSI. Returns the gsi; -ENOSPC when the
     * routing table is full. */
    int (*route_add)(struct hv *hv, const struct hv_msi *msi);
    int (*route_update)(struct hv *hv, uint32_t gsi, const struct hv_msi *msi);
    int (*route_remove)(struct hv *hv, uint32_t gsi);

    /* Eventfd FD raises GSI without a user-space hop. RESAMPLE_FD >= 0 makes the line level
     * triggered: it falls at the guest's EOI, and RESAMPLE_FD is signalled then. An FD that is
     * already signalled is delivered at once. Remove needs the same pair. */
    int (*irqfd_add)(struct hv *hv, int fd, uint32_t gsi, int resample_fd);
    int (*irqfd_remove)(struct hv *hv, int fd, uint32_t gsi);

    /* A guest write of LEN (0: any length) bytes at ADDR signals FD without an exit to user
     * space. */
    int (*ioeventfd_add)(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio);
    int (*ioeventfd_remove)(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio);

    /* Tells the hypervisor about a VFIO group or device file, before the device is opened. */
    int (*vfio_file_add)(struct hv *hv, int fd);
    int (*vfio_file_remove)(struct hv *hv, int fd);
};

struct hv {
    const struct hv_ops *ops;
};

/* An interrupt line as a device sees it: raise it without knowing what is behind. Protected by
 * the device's lock. */
struct irq_line {
    struct hv *hv;
    uint32_t gsi;
    bool level;
};

static inline void irq_line_set(struct irq_line *irq, bool level)
{
    if (level == irq->level)
        return;
    irq->level = level;
    irq->hv->ops->irq_line(irq->hv, irq->gsi, level);
}
