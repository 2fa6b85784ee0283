/*
 * virtio_rig.h: a machine with one virtio device on its PCI bus, and the driver's side:
 * registers by MMIO as a CPU reaches them, rings in guest memory that a test can also fill with
 * nonsense.
 *
 * Queue N has its table at VRIG_RINGS + N * 0x4000. Buffers are the test's from VRIG_DATA on.
 */
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include "devices/pci.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_pci.h"
#include "tests/unit/fake_hv.h"
#include "vmm/bus.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define VRIG_RAM   (8 * MIB)
#define VRIG_RINGS 0x10000ULL
#define VRIG_DATA  0x100000ULL
#define VRIG_SIZE  16 /* of the queues that vrig_start() makes */
#define VRIG_SLOT  31
#define VRIG_GSI   (LAYOUT_GSI_PCI + VRIG_SLOT % LAYOUT_GSI_PCI_COUNT)
#define VRIG_MSI   0x40 /* data of vector 0; the next ones follow */

#define VRIG_DRIVER \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)

struct vrig {
    struct fake_hv fake;
    struct mem mem;
    struct bus pio, mmio;
    struct pci_bus bus;
    struct loop *loop;
    struct virtio_intx intx;
    struct virtio *dev;
    struct virtio_pci *vp;
    uint64_t bar;
    unsigned multiplier; /* of notification addresses */
    unsigned common, isr, notify, device,
        pci_cfg;                      /* offsets in the BAR; the last in the config */
    uint16_t seen[VIRTIO_QUEUES_MAX]; /* used entries taken */
    uint16_t size;
};

/* Memory, buses, loop: what a device is made with. */
void vrig_init(struct vrig *rig);
/* DEV on the bus, its BAR assigned and decoded, its structures found. */
void vrig_plug(struct vrig *rig, struct virtio *dev);
void vrig_unplug(struct vrig *rig);
void vrig_fini(struct vrig *rig);

uint64_t vrig_read(struct vrig *rig, uint64_t offset, unsigned size); /* in the BAR */
void vrig_write(struct vrig *rig, uint64_t offset, unsigned size, uint64_t value);
uint32_t vrig_config_read(struct vrig *rig, unsigned reg, unsigned size);
void vrig_config_write(struct vrig *rig, unsigned reg, unsigned size, uint32_t value);
uint8_t vrig_status(struct vrig *rig);
void vrig_set_status(struct vrig *rig, unsigned status);

/* As a driver does it (3.1.1): FEATURES and version 1 agreed on, all queues enabled, running.
 */
void vrig_start(struct vrig *rig, uint64_t features);
void vrig_enable_queue(struct vrig *rig, unsigned queue);
/* MSI-X with vector N for queue N, and the last one for the configuration. */
void vrig_msix(struct vrig *rig);

void *vrig_at(struct vrig *rig, uint64_t gpa, size_t len);
struct vring_desc *vrig_desc(struct vrig *rig, unsigned queue, unsigned i);
struct vring_avail *vrig_avail(struct vrig *rig, unsigned queue);
struct vring_used *vrig_used_ring(struct vrig *rig, unsigned queue);
/* Descriptor I, followed by I + 1 when FLAGS say so. */
void vrig_set_desc(struct vrig *rig, unsigned queue, unsigned i, uint64_t gpa, uint32_t len,
                   unsigned flags);
/* Makes HEAD available. */
void vrig_offer(struct vrig *rig, unsigned queue, uint16_t head);
/* The offset of QUEUE's notification address in the BAR. */
uint64_t vrig_doorbell(struct vrig *rig, unsigned queue);
/* A write to the notification address; what it wakes is done when it returns. */
void vrig_kick(struct vrig *rig, unsigned queue);
/* One round of the loop over what is ready now. */
void vrig_pump(struct vrig *rig);
/* The next used chain; false: there is none. */
bool vrig_used(struct vrig *rig, unsigned queue, struct vring_used_elem *out);
/* The same, the loop run until it comes: some seconds at most. */
bool vrig_wait_used(struct vrig *rig, unsigned queue, struct vring_used_elem *out);
