/*
 * virtio_pci.h: puts a virtio device on the guest's PCI bus (modern interface only).
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm/hv.h"
#include "vmm/layout.h"

struct loop;
struct pci_bus;
struct virtio;
struct virtio_pci;

/* The interrupt pins' inputs, which several devices share: high while one of them is. */
struct virtio_intx {
    pthread_mutex_t lock;
    struct {
        struct irq_line line;
        unsigned high; /* devices */
    } input[LAYOUT_GSI_PCI_COUNT];
};

void virtio_intx_init(struct virtio_intx *intx, struct hv *hv);

struct virtio_pci_config {
    struct hv *hv;
    struct pci_bus *bus;
    struct loop *loop; /* where kicks are served */
    struct virtio_intx *intx;
    uint8_t devfn;
    uint32_t class_rev;
};

/* DEV on the bus, with no BAR assigned; DEV lives longer. -EEXIST when the place is taken. */
int virtio_pci_create(struct virtio_pci **out, struct virtio *dev,
                      const struct virtio_pci_config *config);
void virtio_pci_destroy(struct virtio_pci *vp); /* NULL is fine; resets DEV */
/* Power-on state, for a guest reset; every vCPU paused, before pci_bus_reset(). */
void virtio_pci_reset(struct virtio_pci *vp);
