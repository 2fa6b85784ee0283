/*
 * paravirt.h: the machine's virtio devices: the disks of --disk and, behind them, a source of
 * random bytes, in the guest's last slots.
 */
#pragma once

#include <stdint.h>

#include "devices/virtio_pci.h"
#include "vmm/options.h"

struct hv;
struct loop;
struct mem;
struct pci_bus;
struct virtio_blk;
struct virtio_rng;

struct paravirt_config {
    const struct option_disk *disk;
    unsigned disks;
    unsigned cpus; /* a disk has a queue for each, up to a limit */
    struct hv *hv;
    struct pci_bus *bus;
    struct loop *loop;
    const struct mem *mem;
};

/* Zeroed by the owner before paravirt_open(); owned by the main thread. */
struct paravirt {
    struct virtio_intx intx;
    struct virtio_blk *disk[OPTIONS_DISK_MAX];
    struct virtio_rng *rng;
    struct virtio_pci *slot[OPTIONS_DISK_MAX + 1]; /* on the bus, from slot FIRST on */
    unsigned first, nr;
};

/* All of them, on the bus; nothing where no disk is asked for. Logs its own errors;
 * paravirt_close() is due also after a failure. */
int paravirt_open(struct paravirt *p, const struct paravirt_config *config);
void paravirt_close(struct paravirt *p);
/* For a guest reset, every vCPU paused, before pci_bus_reset(). */
void paravirt_reset(struct paravirt *p);
/* A bit for each slot that is theirs. */
uint32_t paravirt_slots(const struct paravirt *p);
