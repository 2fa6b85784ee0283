/*
 * passthrough.h: the devices named by --vfio: found, placed in the guest's slots, opened in the
 * kernel's order, released in reverse. Behind a device is the kernel or a vfio-user server.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vfio/vfio_platform.h"
#include "vmm/options.h"

struct acpi_device;
struct hv;
struct loop;
struct mem;
struct pci_bus;
struct vfio_iommu;
struct vfio_kernel;
struct vfio_p2p;
struct vfio_pci;
struct vfio_platform;
struct vfio_user;

struct passthrough_config {
    const struct option_vfio *option;
    unsigned nr;
    struct hv *hv;
    struct pci_bus *bus;
    struct loop *loop;
    const struct mem *mem;
    uint32_t slots; /* a bit for each slot that other devices have */
    /* A device failed or the host asks for it back; see vfio_pci.h. */
    void (*gone)(void *opaque, const char *name, bool failed);
    void *opaque;
};

struct passthrough_device {
    char path[512];   /* sysfs directory, or socket */
    const char *addr; /* for messages: 0000:42:00.0, the socket's path */
    bool is_user;     /* behind a socket */
    bool is_made;     /* a mediated device that ends with the VM */
    bool is_platform; /* no PCI device: no place on the bus */
    uint8_t devfn;    /* in the guest */
    struct vfio_user *user;
    struct vfio_pci *pci; /* one of the two */
    struct vfio_platform *platform;
};

/* Zeroed by the owner before passthrough_open(); owned by the main thread. */
struct passthrough {
    struct passthrough_config config;
    struct vfio_kernel *kernel;
    struct option_vfio
        option[OPTIONS_VFIO_MAX]; /* of each device; a name may stand for several */
    struct passthrough_device device[OPTIONS_VFIO_MAX];
    struct vfio_iommu *mapped[OPTIONS_VFIO_MAX]; /* RAM is mapped there */
    unsigned iommus;
    struct vfio_p2p *p2p; /* of the kernel's PCI devices, where there is more than one card */
    struct vfio_platform_room room;
};

/* All of them, on the bus but with no BAR assigned; nothing when config.nr is 0. Logs its own
 * errors; passthrough_close() is due also after a failure. */
int passthrough_open(struct passthrough *p, const struct passthrough_config *config);
void passthrough_close(struct passthrough *p);
/* For a guest reset, every vCPU paused. */
int passthrough_reset(struct passthrough *p);
/* See vfio_pci_drop_slots(); from a vCPU thread. */
bool passthrough_drop_slots(struct passthrough *p);
/* The first address that the kernel's IOMMU cannot map; UINT64_MAX: none, or not known. */
uint64_t passthrough_dma_end(const struct passthrough *p);
/* Guest memory mapped for DMA now, and BARs for that of other devices: bytes, counted once for
 * each IOMMU. */
uint64_t passthrough_dma_bytes(const struct passthrough *p);
/* Notes of what the guest got and where, once BARs are assigned. */
void passthrough_describe(const struct passthrough *p);
/* Those that a guest finds in its ACPI tables only; OUT has room for all devices and lives
 * shorter than P. Returns how many. */
unsigned passthrough_acpi(const struct passthrough *p, struct acpi_device *out);

/* A filter for vfio_name_find(): OPAQUE is a struct passthrough whose devices are not free any
 * more, or NULL. */
bool passthrough_is_free(const char *path, const void *opaque);

/*
 * Gives every PCI device of device[0..nr) its devfn: what slot= says; else the slot of another
 * function of the same card, functions kept; else a free slot. A guest looks at a slot's other
 * functions only where function 0 answers: of a card whose function 0 stays on the host, the
 * lowest passed one takes its place. -ENOSPC after a message.
 */
int passthrough_place(struct passthrough *p);
