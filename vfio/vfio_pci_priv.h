/*
 * vfio_pci_priv.h: what the vfio_pci*.c files share: one passed-through PCI function.
 *
 *   vfio_pci.c         life cycle, reset
 *   vfio_pci_config.c  configuration space: what passes, what is emulated, what is hidden
 *   vfio_pci_bar.c     BARs: memory slots, and trapped accesses
 *   vfio_pci_vga.c     the legacy VGA ranges
 *   vfio_pci_irq.c     INTx, MSI, MSI-X, and the device's error and removal events
 *   vfio_pci_rom.c     the expansion ROM: a copy in memory
 *   vfio_pci_quirk.c   tables of devices that need something of their own
 *
 * Locks, in this order: the PCI bus's lock (held in every configuration access and BAR change),
 * then vfio_pci.lock, which protects the interrupt and slot state because accesses to the MSI-X
 * table and vfio_pci_drop_slots() come from vCPU threads that do not hold the bus's lock; then
 * that of vfio_p2p.c.
 */
#pragma once

#include <pthread.h>

#include "devices/msi.h"
#include "devices/pci.h"
#include "vfio/vfio.h"
#include "vfio/vfio_line.h"
#include "vfio/vfio_pci.h"
#include "vfio/vfio_view.h"
#include "vmm/log.h"
#include "vmm/util.h"

/* PCI ids, which the UAPI headers do not have. */
#define VFIO_PCI_NVIDIA       0x10de
#define VFIO_PCI_AMD          0x1002
#define VFIO_PCI_BASE_DISPLAY 0x03
#define VFIO_PCI_CLASS_VGA    0x0300

struct vfio_pci;

struct vfio_pci_bar {
    struct vfio_pci *pci;
    struct vfio_view view;
    bool mapped; /* decoded at view.addr */
};

/*
 * A part of a BAR that this program answers instead of the device; its pages are trapped, the
 * rest of the BAR stays direct. The MSI-X table and PBA are two of these, quirks are others.
 * Called with no lock. OFFSET is relative to START.
 */
struct vfio_pci_trap {
    const char *label;
    unsigned bar;
    uint64_t start, size;
    uint64_t (*read)(struct vfio_pci *pci, const struct vfio_pci_trap *trap, uint32_t offset,
                     unsigned size);
    void (*write)(struct vfio_pci *pci, const struct vfio_pci_trap *trap, uint32_t offset,
                  unsigned size, uint64_t value); /* NULL: none of them has an effect */
};
#define VFIO_PCI_TRAPS_MAX 8

/* The expansion ROM as the guest reads it; under vfio_pci.lock once the guest runs. */
struct vfio_pci_rom {
    uint8_t *image; /* NULL: not read yet, or no good */
    uint64_t size;
    bool done; /* the device is not asked any more */
    bool complained;
};

/* MSI or MSI-X: the guest's view (msi) and what the device has been told. */
struct vfio_pci_vectors {
    struct vfio_pci *pci;
    uint32_t index; /* VFIO_PCI_MSI_IRQ_INDEX or VFIO_PCI_MSIX_IRQ_INDEX */
    unsigned pos;   /* the capability; 0: there is none */
    unsigned len;   /* of the MSI capability */
    bool dynamic;   /* vectors can be added while others are in use */
    unsigned armed; /* vectors [0, armed) exist at the device */
    int *fd;        /* their triggers, msi.nr of them; -1: none */
    struct msi msi;
};

/* A part of the legacy VGA region on the guest's buses. */
#define VFIO_PCI_VGA_RANGES 3
struct vfio_pci_vga_at {
    struct vfio_pci *pci;
    const struct vfio_pci_vga_range *range; /* NULL: not there */
};

/* ERR or REQ. */
struct vfio_pci_event {
    struct vfio_pci *pci;
    uint32_t index;
    int fd; /* eventfd in the main loop; -1: none */
};

#define VFIO_PCI_IRQ_NONE VFIO_PCI_NUM_IRQS

struct vfio_pci {
    struct pci_dev dev;
    struct vfio_device *vdev;
    struct vfio_pci_config wiring;
    uint16_t vendor, device, class; /* before the reset; class without interface */
    pthread_mutex_t lock;
    bool on_bus;

    /* Configuration space; under the bus's lock. */
    struct vfio_region config;         /* the region */
    uint8_t emulated[PCI_CONFIG_SIZE]; /* 1: read from dev.config, not from the device */
    uint8_t initial[PCI_CONFIG_SIZE];  /* dev.config as it was before the guest ran */
    unsigned pm, exp, af;              /* capabilities with side effects; 0: none */
    bool asleep;                       /* in D3hot: the memory BARs do not answer */

    struct vfio_pci_bar bar[PCI_BARS];
    struct vfio_pci_trap trap[VFIO_PCI_TRAPS_MAX];
    unsigned traps;
    struct vfio_pci_rom rom;
    uint8_t window[16]; /* what the guest wrote into NVIDIA's ports: see vfio_pci_quirk.c */
    struct log_limit complaints; /* about lost interrupts */
    struct log_limit accesses;   /* about failed ones to configuration space */

    uint32_t active; /* the index in use: of INTx, MSI and MSI-X at most one can be */
    bool quiet;      /* INTx stays off: during reset and at the end */
    uint8_t pin;     /* 1 = INTA#; 0: no INTx */
    struct vfio_line intx;
    struct vfio_pci_vectors msi, msix;
    struct vfio_pci_event err, req;
    struct vfio_view vga; /* the legacy region, where asked for */
    struct vfio_pci_vga_at vga_at[VFIO_PCI_VGA_RANGES];
};

static inline struct vfio_pci *to_vfio_pci(struct pci_dev *dev)
{
    return container_of(dev, struct vfio_pci, dev);
}

/* As when a card falls off the bus: reads all ones, takes no writes. See vfio.h. */
static inline bool vfio_pci_is_lost(const struct vfio_pci *pci)
{
    return atomic_load(&pci->vdev->lost);
}

/* Where ports, or else memory, of the guest go. */
static inline struct bus *vfio_pci_bus(const struct vfio_pci *pci, bool io)
{
    return io ? pci->wiring.bus->pio : pci->wiring.bus->mmio;
}

/* ---- vfio_pci_config.c ---- */

/* Reads the device's first 256 bytes of configuration space; of the rest, config_init() reads
 * the capabilities' headers. Logs its own errors, as all of the create-time functions below do.
 */
int vfio_pci_config_read_all(struct vfio_pci *pci);
/* Applies the policy to it; after the BARs are known (MSI-X lies in one). */
int vfio_pci_config_init(struct vfio_pci *pci);
/* Everything as at the start; with the bus's lock, the BARs unmapped. */
void vfio_pci_config_reset(struct vfio_pci *pci);
/* Marks [pos, pos + len) as emulated, with no bit writable. */
void vfio_pci_emulate(struct vfio_pci *pci, unsigned pos, unsigned len);
/* No DMA, no decoding, and out of D3hot (which takes 10 ms). */
void vfio_pci_calm(struct vfio_pci *pci);
/* The device's own registers, of 1, 2 or 4 bytes: all ones where it does not answer. */
uint32_t vfio_pci_hw_read(struct vfio_pci *pci, unsigned offset, unsigned size);
void vfio_pci_hw_write(struct vfio_pci *pci, unsigned offset, unsigned size, uint32_t value);
uint32_t vfio_pci_config_read(struct pci_dev *dev, unsigned offset, unsigned size);
void vfio_pci_config_write(struct pci_dev *dev, unsigned offset, unsigned size, uint32_t value);

/* ---- vfio_pci_bar.c ---- */

/* Finds the BARs; the device's flags are taken from dev.config. */
int vfio_pci_bars_probe(struct vfio_pci *pci);
/* Maps what can be mapped, when all traps are known. Never fails: the rest is trapped. */
void vfio_pci_bars_mmap(struct vfio_pci *pci);
void vfio_pci_bars_fini(struct vfio_pci *pci);
int vfio_pci_bar_map(struct pci_dev *dev, unsigned bar, uint64_t addr);
void vfio_pci_bar_unmap(struct pci_dev *dev, unsigned bar);
/* After vfio_pci_drop_slots(): the slots of all mapped BARs. */
void vfio_pci_restore_slots(struct vfio_pci *pci);
void vfio_pci_bars_describe(const struct vfio_pci *pci);

/* ---- vfio_pci_vga.c ---- */

/* Where the wiring asks for it: the legacy ranges, on the buses until fini. */
int vfio_pci_vga_init(struct vfio_pci *pci);
void vfio_pci_vga_fini(struct vfio_pci *pci);

/* ---- vfio_pci_irq.c ---- */

/* The capability at POS becomes emulated; false: it is unusable and has to be hidden. */
bool vfio_pci_msi_init(struct vfio_pci *pci, unsigned pos);
bool vfio_pci_msix_init(struct vfio_pci *pci, unsigned pos);
/* INTx, and the events; after the capabilities. */
int vfio_pci_irq_init(struct vfio_pci *pci);
void vfio_pci_irq_fini(struct vfio_pci *pci);
/* The guest wrote [OFFSET, OFFSET + SIZE) of configuration space, dev.config is up to date. */
void vfio_pci_irq_config_written(struct vfio_pci *pci, unsigned offset, unsigned size);
/* The guest is about to read there. */
void vfio_pci_irq_config_read(struct vfio_pci *pci, unsigned offset, unsigned size);
/* All interrupts off and the guest's state as at power-on; INTx comes back with resume. */
void vfio_pci_irq_quiesce(struct vfio_pci *pci);
int vfio_pci_irq_resume(struct vfio_pci *pci);
void vfio_pci_irq_describe(const struct vfio_pci *pci);

/* ---- vfio_pci_rom.c ---- */

/* Reads the image that the user gave. */
int vfio_pci_rom_load(struct vfio_pci *pci);
void vfio_pci_rom_fini(struct vfio_pci *pci);
/* A guest's read, of at most 8 bytes. Any thread. */
uint64_t vfio_pci_rom_read(struct vfio_pci *pci, uint64_t offset, unsigned size);

/* ---- vfio_pci_quirk.c ---- */

/* Warns of what the device is known not to stand. */
void vfio_pci_quirks_warn(const struct vfio_pci *pci);
/* Adds its traps; after the BARs and capabilities. */
void vfio_pci_quirks_init(struct vfio_pci *pci);
/* After a reset of the function; with the bus's lock. */
void vfio_pci_quirks_reset(struct vfio_pci *pci);
