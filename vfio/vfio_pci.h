/*
 * vfio_pci.h: a passed-through PCI function on the guest's PCI bus.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct hv;
struct loop;
struct pci_bus;
struct vfio_device;
struct vfio_p2p;
struct vfio_pci;

struct vfio_pci_config {
    struct hv *hv;
    struct pci_bus *bus;
    struct loop *loop;    /* error and removal-request interrupts are handled here */
    uint8_t devfn;        /* the guest's slot and function */
    bool mmap;            /* BARs straight into the guest where possible */
    bool vga;             /* the legacy VGA ranges as well */
    struct vfio_p2p *p2p; /* BARs are targets of peers' DMA; NULL: not */
    const char *rom;      /* file with its expansion ROM; NULL or "": the device's own */
    bool rom_off;         /* it has none */
    bool reset; /* at the start, with the guest and at the end; else it keeps its state */
    int clique; /* NVIDIA's GPUDirect, 0 to 15; -1: none */
    /* The device failed (true) or the host asks for it back: the VM has to end. Main thread. */
    void (*gone)(void *opaque, const char *name, bool failed);
    void *opaque;
};

/*
 * Wakes and resets DEV, reads its configuration space, sets up BARs, capabilities and
 * interrupts, and puts it on the bus. Owns DEV from here on, also when it fails (DEV is closed
 * then). Logs its own errors.
 */
int vfio_pci_create(struct vfio_pci **out, struct vfio_device *dev,
                    const struct vfio_pci_config *config);
/* Interrupts off, bus mastering off, reset, unmapped, closed. NULL is fine. */
void vfio_pci_destroy(struct vfio_pci *pci);
/* For a guest reset, every vCPU paused: interrupts off, BARs unmapped, device reset, the
 * configuration space as at the start. */
int vfio_pci_reset(struct vfio_pci *pci);
/* Removes the BARs' memory slots, as after KVM_RUN failed on one; accesses then trap and read
 * all ones. Any thread. True when there was one to remove. */
bool vfio_pci_drop_slots(struct vfio_pci *pci);
/* Logs one note per BAR, and the interrupts. */
void vfio_pci_describe(const struct vfio_pci *pci);
