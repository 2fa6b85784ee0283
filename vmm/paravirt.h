/*
 * paravirt.h: the machine's virtio devices: those that options ask for and, behind them, a
 * source of random bytes, in the guest's last slots.
 */
#pragma once

#include <stdint.h>

#include "devices/pci.h"
#include "devices/virtio/virtio_pci.h"
#include "vmm/options.h"
#include "vmm/spawn.h"

struct hv;
struct loop;
struct mem;
struct virtio;

struct paravirt_config {
    const struct options *opt; /* outlives the devices, which are named after it */
    struct hv *hv;
    struct pci_bus *bus;
    struct loop *loop;
    const struct mem *mem;
};

#define PARAVIRT_MAX (PCI_SLOTS - 1) /* slot 0 is the host bridge's */

/* Zeroed by the owner before paravirt_open(); owned by the main thread. */
struct paravirt {
    struct virtio_intx intx;
    struct paravirt_slot {
        struct virtio *dev;
        struct virtio_pci *pci; /* NULL: not on the bus */
        struct spawn helper;    /* that its other end lives in */
    } slot[PARAVIRT_MAX];       /* from the bus's slot FIRST on */
    unsigned first, nr;
};

/* All of them, on the bus; nothing where no option asks for one. Logs its own errors;
 * paravirt_close() is due also after a failure. */
int paravirt_open(struct paravirt *p, const struct paravirt_config *config);
void paravirt_close(struct paravirt *p);
/* For a guest reset, every vCPU paused, before pci_bus_reset(). */
void paravirt_reset(struct paravirt *p);
/* A bit for each slot that is theirs. */
uint32_t paravirt_slots(const struct paravirt *p);
