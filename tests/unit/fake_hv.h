/*
 * fake_hv.h: a hypervisor for unit tests. It records what is asked of hv.h in arrays that a
 * test looks at, refuses what KVM refuses, and fails a call on demand.
 *
 * Entries are live while `used`; a removed one is free again. For one thread only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vmm/hv.h"
#include "vmm/layout.h"

#define FAKE_HV_MAX    128
/* Big enough for a device with every MSI-X vector in use. */
#define FAKE_HV_ROUTES 2200

enum fake_hv_op {
    FAKE_SLOT_ADD,
    FAKE_SLOT_REMOVE,
    FAKE_IRQ_LINE,
    FAKE_ROUTE_ADD,
    FAKE_ROUTE_UPDATE,
    FAKE_ROUTE_REMOVE,
    FAKE_IRQFD_ADD,
    FAKE_IRQFD_REMOVE,
    FAKE_IOEVENTFD_ADD,
    FAKE_IOEVENTFD_REMOVE,
    FAKE_VFIO_FILE_ADD,
    FAKE_VFIO_FILE_REMOVE,
    FAKE_HV_OPS
};

struct fake_slot {
    bool used;
    uint64_t gpa, size;
    void *hva;
};

struct fake_route {
    bool used;
    struct hv_msi msi;
};

struct fake_irqfd {
    bool used;
    int fd, resample_fd;
    uint32_t gsi;
};

struct fake_ioeventfd {
    bool used;
    int fd;
    uint64_t addr;
    unsigned len;
    bool pio;
};

struct fake_hv {
    struct hv hv;

    struct fake_slot slot[FAKE_HV_MAX];      /* the index is the slot's number */
    struct fake_route route[FAKE_HV_ROUTES]; /* gsi - LAYOUT_GSI_COUNT */
    struct fake_irqfd irqfd[FAKE_HV_ROUTES];
    struct fake_ioeventfd ioeventfd[FAKE_HV_MAX];
    int vfio_file[FAKE_HV_MAX]; /* -1: free */

    bool level[LAYOUT_GSI_COUNT];
    unsigned raised[LAYOUT_GSI_COUNT];                     /* low to high */
    unsigned delivered[LAYOUT_GSI_COUNT + FAKE_HV_ROUTES]; /* by irqfd, not yet reported */

    unsigned route_limit;        /* -ENOSPC beyond; FAKE_HV_ROUTES at first */
    unsigned calls[FAKE_HV_OPS]; /* also those that failed */
    unsigned misuse; /* irqfd without a route, route removed under an irqfd, removal of what
                        is not there: KVM may say nothing, a caller should never do it */

    enum fake_hv_op fail_op;
    unsigned fail_in; /* counts down; 0: nothing fails */
    int fail_errno;
};

void fake_hv_init(struct fake_hv *fake);

/* The Nth call of OP from now on (1: the next) fails with -ERR. */
void fake_hv_fail(struct fake_hv *fake, enum fake_hv_op op, unsigned nth, int err);

/* What is live: slots, routes, irqfds, ioeventfds and VFIO files. 0 when all was undone. */
unsigned fake_hv_live(const struct fake_hv *fake);
unsigned fake_hv_live_slots(const struct fake_hv *fake);
unsigned fake_hv_live_routes(const struct fake_hv *fake);
unsigned fake_hv_live_irqfds(const struct fake_hv *fake);

/* The slot that contains GPA, or NULL. */
const struct fake_slot *fake_hv_slot_at(const struct fake_hv *fake, uint64_t gpa);
/* The irqfd on GSI, or NULL. */
const struct fake_irqfd *fake_hv_irqfd_on(const struct fake_hv *fake, uint32_t gsi);
/* The message GSI stands for, or NULL. */
const struct hv_msi *fake_hv_route_of(const struct fake_hv *fake, uint32_t gsi);

/*
 * Whether an interrupt has arrived at GSI by irqfd since the last call: an attached eventfd was
 * signalled, before or after it was attached. Consumes the signal. With a resample descriptor
 * the line goes up.
 */
bool fake_hv_deliver(struct fake_hv *fake, uint32_t gsi);
/* The same for the route that stands for a message with DATA; false when there is none. */
bool fake_hv_deliver_data(struct fake_hv *fake, uint32_t data);
/* The guest's end of interrupt at a resampled line: it falls, the resample eventfds are
 * signalled. */
void fake_hv_eoi(struct fake_hv *fake, uint32_t gsi);
