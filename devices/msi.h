/*
 * msi.h: MSI and MSI-X as the guest sees them, and the vectors behind; for virtio and vfio
 * alike.
 *
 * A vector is an eventfd. While the guest has it unmasked it is attached to a route by irqfd
 * and an interrupt goes from the device's eventfd to the guest without passing here. Masked, it
 * is detached: the eventfd then latches a pending interrupt, which is what the pending bit
 * reports and what the hypervisor delivers when the eventfd is attached again.
 *
 * Eventfds and routes are made when a vector comes into use, so a table of 2048 costs nothing
 * until then. A struct msi belongs to its device and is protected by the device's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vmm/hv.h"
#include "vmm/log.h"

#define MSIX_ENTRY_SIZE  16
#define MSIX_VECTORS_MAX 2048

struct msi_ops {
    /* The eventfds FDS[0..count) (-1: none) are the triggers of vectors START.. from now on, at
     * the device. Called with every vector that has just come into use. */
    int (*bind)(void *opaque, unsigned start, unsigned count, const int *fds);
    /* The mechanism is switched on (before the first bind) or off (all triggers are gone; they
     * are closed after this returns). */
    int (*enable)(void *opaque);
    void (*disable)(void *opaque);
};

struct msi_vector {
    int fd;            /* eventfd, -1: not used yet */
    int gsi;           /* route, -1: none */
    bool bound;        /* the device has fd */
    bool attached;     /* irqfd in place */
    bool masked;       /* by the vector's own mask bit */
    bool stale;        /* the route still has an older message */
    struct hv_msi msg; /* the guest's */
};

struct msi {
    struct hv *hv;
    const char *name; /* for messages */
    const struct msi_ops *ops;
    void *opaque;
    unsigned nr;
    bool enabled;       /* the guest's enable bit; false when the device refused */
    bool function_mask; /* MSI-X only */
    struct msi_vector *vector;
    uint8_t *table;  /* MSI-X: what the guest wrote, nr * MSIX_ENTRY_SIZE; NULL for MSI */
    bool complained; /* said what is wrong, once for each time it is enabled */
    struct log_limit complaints;
};

/* NR vectors (1 to 32 for MSI, to MSIX_VECTORS_MAX for MSI-X). OPS may be NULL: a device whose
 * only trigger is msi_signal(). */
int msi_init(struct msi *msi, struct hv *hv, const char *name, unsigned nr, bool msix,
             const struct msi_ops *ops, void *opaque);
/* Everything detached, closed and freed; ops->disable is called when it was enabled. A zeroed
 * struct is fine. */
void msi_fini(struct msi *msi);
/* Power-on state: disabled, every MSI-X entry zero and masked. */
void msi_reset(struct msi *msi);

/* MSI: the capability was written. CAP is the guest's view of it from its first byte on, so
 * that offsets are those of linux/pci_regs.h (PCI_MSI_FLAGS at CAP + 2). */
void msi_config_changed(struct msi *msi, const uint8_t *cap);
/* MSI: vectors with an interrupt latched while masked (PCI_MSI_PENDING). */
uint32_t msi_pending(const struct msi *msi);

/* MSI-X: the guest's new Message Control value. */
void msix_control_write(struct msi *msi, uint16_t control);
/* OFFSET is relative to the table or the PBA; SIZE 1 to 8 within it; out of range reads 0. */
uint64_t msix_table_read(const struct msi *msi, uint32_t offset, unsigned size);
void msix_table_write(struct msi *msi, uint32_t offset, unsigned size, uint64_t value);
uint64_t msix_pba_read(const struct msi *msi, uint32_t offset, unsigned size);

/* VECTOR's eventfd, for someone else to signal: it raises the vector, now or once it is
 * unmasked, until MSI or MSI-X is disabled. Stays the owner's; -1: there is none. */
int msi_eventfd(struct msi *msi, unsigned vector);
/* For emulated devices: raises VECTOR (a write to its eventfd). */
void msi_signal(struct msi *msi, unsigned vector);
