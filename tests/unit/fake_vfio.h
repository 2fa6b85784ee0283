/*
 * fake_vfio.h: a VFIO device for unit tests: struct vfio_device over plain memory. It records
 * every call, behaves like the kernel's vfio-pci where that matters (one interrupt mode at a
 * time, no BAR access with memory decoding off or in D3hot) or its vfio-platform (one unmask
 * eventfd until it is taken back), and fails a call on demand. One that is lost (vfio.h) fails
 * all of them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vfio/vfio.h"

struct fake_hv;

enum fake_vfio_op {
    FAKE_REGION_INFO,
    FAKE_REGION_READ,
    FAKE_REGION_WRITE,
    FAKE_REGION_MMAP,
    FAKE_IRQ_INFO,
    FAKE_IRQ_SET,
    FAKE_RESET,
    FAKE_CLOSE,
    FAKE_VFIO_OPS
};

struct fake_vfio_call {
    enum fake_vfio_op op;
    uint32_t index;               /* region or interrupt */
    uint64_t offset, size;        /* region calls */
    uint64_t value;               /* REGION_WRITE */
    uint32_t flags, start, count; /* IRQ_SET */
    int fd;                       /* IRQ_SET: the first; -2: none given */
    unsigned slots;               /* memory slots in place at that moment */
};

#define FAKE_VFIO_CALLS   512
#define FAKE_VFIO_VECTORS 2048
#define FAKE_VFIO_REGIONS 16
#define FAKE_VFIO_IRQS    8

struct fake_vfio {
    struct vfio_device dev;
    const struct fake_hv *hv; /* to look at the slots */

    uint8_t config[4096];
    struct vfio_region region[FAKE_VFIO_REGIONS];
    int memory[FAKE_VFIO_REGIONS]; /* memfd behind a BAR or region; -1: none */

    struct vfio_irq_info irq[FAKE_VFIO_IRQS];
    struct fake_vfio_line {
        int fd, unmask_fd;
        bool masked;
    } line[FAKE_VFIO_IRQS]; /* of a platform device */
    uint32_t active;        /* index of the interrupt mode; VFIO_PCI_NUM_IRQS: none */
    unsigned vectors;       /* of it */
    int fd[FAKE_VFIO_VECTORS];
    int unmask_fd, event_fd[2]; /* event: ERR, REQ */
    bool masked;                /* INTx */
    unsigned vector_limit;      /* what the host can give; 0: enough */

    bool dead; /* reads give all ones */
    bool dies_at_reset;
    unsigned bar_writes; /* to BAR registers: must never happen */

    unsigned calls[FAKE_VFIO_OPS];
    struct fake_vfio_call call[FAKE_VFIO_CALLS]; /* the first ones */
    unsigned nr;
    enum fake_vfio_op fail_op;
    unsigned fail_in; /* counts down; 0: nothing fails */
    int fail_errno;
};

/*
 * A PCIe card that has one of everything:
 *
 *   BAR0 16M            BAR1-2 64K, 64-bit: MSI-X table at 0x2000, PBA at 0x3000
 *   BAR4 256 bytes      BAR5 128 ports            ROM 64K
 *   0x40 PM  0x50 MSI (4 vectors, 64-bit, mask bits)  0x70 PCIe v2  0xb0 MSI-X (8)  0xc0 AF
 *   0xc8 HyperTransport  0xd0 vendor-specific
 *   0x100 AER  0x140 serial number  0x150 ARI  0x160 vendor-specific  0x180 SR-IOV
 */
void fake_vfio_init(struct fake_vfio *fake, const struct fake_hv *hv);
/* A platform device with no region and no interrupt yet. */
void fake_vfio_platform(struct fake_vfio *fake, const struct fake_hv *hv);
/* Adds one; it can be mapped as a whole where it is whole pages. */
void fake_vfio_region(struct fake_vfio *fake, uint64_t size);
/* Adds one; FLAGS besides VFIO_IRQ_INFO_EVENTFD. */
void fake_vfio_line(struct fake_vfio *fake, uint32_t flags);
/* The descriptors; after the device has been closed. */
void fake_vfio_fini(struct fake_vfio *fake);

/* FLAGS: the low bits of the BAR register. SIZE 0: no such BAR. */
void fake_vfio_bar(struct fake_vfio *fake, unsigned bar, uint64_t size, uint32_t flags);
void fake_vfio_irq(struct fake_vfio *fake, uint32_t index, uint32_t count, uint32_t flags);
/* A capability's first two bytes. */
void fake_vfio_cap(struct fake_vfio *fake, unsigned pos, uint8_t id, uint8_t next);
void fake_vfio_ext_cap(struct fake_vfio *fake, unsigned pos, uint16_t id, unsigned next);

/* The Nth call of OP from now on (1: the next) fails with -ERR. */
void fake_vfio_fail(struct fake_vfio *fake, enum fake_vfio_op op, unsigned nth, int err);
/* Forgets the recorded calls. */
void fake_vfio_forget(struct fake_vfio *fake);
/* The Nth recorded call (0: the first) of OP on INDEX, or NULL. */
const struct fake_vfio_call *fake_vfio_find(const struct fake_vfio *fake, enum fake_vfio_op op,
                                            uint32_t index, unsigned nth);
/* The device raises an interrupt of the active mode; false when nothing listens. INTx is masked
 * by it, as in the kernel. Of a platform device VECTOR is the index; one that masks itself does
 * not fire before it is unmasked. */
bool fake_vfio_fire(struct fake_vfio *fake, unsigned vector);
