/*
 * pci.h: the guest's PCI bus: functions, type-0 configuration space, BARs, INTx routing.
 *
 * One root bus (0), 32 slots of 8 functions (PCI Local Bus 3.0, chapter 6). Configuration
 * accesses of all vCPUs are serialised by the bus's lock, which is held while config ops and
 * BAR ops run. A function embeds struct pci_dev and finds itself back by container_of.
 *
 * BARs: the guest writes them through configuration space; pci.c keeps the guest's values,
 * decides which BAR is decoded where (COMMAND bits, sane address, no overlap), and calls
 * bar_map/bar_unmap when that changes. A BAR that collides with something stays unmapped (reads
 * give all ones) and is tried again whenever any BAR of the bus changes.
 */
#pragma once

#include <linux/pci_regs.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/platform.h"
#include "vmm/log.h"

#define PCI_CONFIG_SIZE     4096
#define PCI_SLOTS           32
#define PCI_BARS            7 /* 0-5, and the expansion ROM */
#define PCI_BAR_ROM         6
#define PCI_DEVFN(slot, fn) ((uint8_t)((slot) << 3 | (fn)))

struct bus;
struct pci_bus;
struct pci_dev;

struct pci_dev_ops {
    /* Configuration access: OFFSET < 4096, SIZE 1, 2 or 4, naturally aligned. A function that
     * adds nothing has pci_config_read() and pci_config_write(); another calls these two from
     * its own. */
    uint32_t (*config_read)(struct pci_dev *dev, unsigned offset, unsigned size);
    void (*config_write)(struct pci_dev *dev, unsigned offset, unsigned size, uint32_t value);
    /* BAR is decoded at ADDR from now on (register it on its bus, add memory slots) or no
     * longer. A failure leaves it unmapped; -EEXIST (something is there already) is tried again
     * later. */
    int (*bar_map)(struct pci_dev *dev, unsigned bar, uint64_t addr);
    void (*bar_unmap)(struct pci_dev *dev, unsigned bar);
};

struct pci_bar {
    uint64_t size;  /* power of two; 0: not implemented, or the upper half of a 64-bit BAR */
    uint32_t flags; /* the low bits as the guest reads them: PCI_BASE_ADDRESS_SPACE_IO,
                       _MEM_TYPE_64, _MEM_PREFETCH */
    uint64_t addr;  /* where it is mapped */
    bool mapped;
};

struct pci_dev {
    const struct pci_dev_ops *ops;
    const char *name; /* for messages; the owner's */
    struct pci_bus *bus;
    uint8_t devfn;
    uint8_t config[PCI_CONFIG_SIZE]; /* what the guest reads */
    uint8_t wmask[PCI_CONFIG_SIZE];  /* 1: the guest may write this bit */
    struct pci_bar bar[PCI_BARS];
    uint16_t cap_end; /* where pci_dev_add_cap() goes on */
};

struct pci_bus {
    pthread_mutex_t lock;
    struct pci_dev *dev[PCI_SLOTS * 8];
    struct bus *pio;
    struct bus *mmio;
    _Atomic uint32_t config_address; /* the CF8 latch */
    /* MMIO above 4 GiB that BARs may lie in: pci_bus_set_mmio64(). Below 4 GiB it is
     * LAYOUT_MMIO32; ports are LAYOUT_PORT_BARS. A guest may still put a BAR anywhere that is
     * free. */
    uint64_t mmio64_base, mmio64_size;
    struct pci_dev host_bridge;
    _Atomic uint8_t reset_control; /* in the middle of CF8, at CF9 */
    struct power power;            /* who resets; set by the machine before the guest runs */
    struct log_limit complaints;   /* BARs that the guest put where they cannot be */
};

/* PIO and MMIO are where CF8/CFC and the ECAM window are registered (pci_host.c) and where
 * functions register their BARs. Adds the host bridge at 00.0. */
int pci_bus_init(struct pci_bus *bus, struct bus *pio, struct bus *mmio);
void pci_bus_fini(struct pci_bus *bus);
/* The host bridge's device ID, which some firmware tells machines by; 0: the usual one. Before
 * the guest runs, and while it is paused for a reset. */
void pci_bus_set_host_bridge(struct pci_bus *bus, uint16_t device);

/* Sets identification, class and the writable bits common to all type-0 functions. */
void pci_dev_init(struct pci_dev *dev, const struct pci_dev_ops *ops, const char *name);
void pci_dev_set_id(struct pci_dev *dev, uint16_t vendor, uint16_t device, uint32_t class_rev);
/* BAR of SIZE bytes (a power of two, >= 16 for memory and >= 4 for I/O; the ROM 2 KiB to
 * 16 MiB) with FLAGS as in struct pci_bar. -EINVAL for what PCI does not allow. */
int pci_dev_set_bar(struct pci_dev *dev, unsigned bar, uint64_t size, uint32_t flags);
/* A zeroed capability of LEN bytes (header included) linked into the list; returns its offset,
 * -ENOSPC when there is no room. For emulated devices; vfio keeps the device's own layout. */
int pci_dev_add_cap(struct pci_dev *dev, uint8_t id, uint8_t len);

/* -EEXIST when DEVFN is taken. Bit 7 of function 0's header type follows what is on the slot.
 */
int pci_bus_add(struct pci_bus *bus, struct pci_dev *dev, uint8_t devfn);
/* Unmaps its BARs. */
void pci_bus_remove(struct pci_bus *bus, struct pci_dev *dev);

/* Gives every BAR of every function an address, as firmware would: largest first, each at the
 * lowest naturally aligned place that is free, 64-bit BARs in the 64-bit window when they are
 * prefetchable or larger than 128 MiB or the 32-bit window is full. The same devices get the
 * same addresses each time. Decoding stays off. One that does not fit is a logged error with
 * the figures, and -ENOSPC. */
int pci_bus_assign(struct pci_bus *bus);

/* The BARs that have to go above 4 GiB end at END (0: there are none, and no DEV); the largest
 * is number BAR of DEV. */
struct pci_mmio64_need {
    uint64_t end;
    const struct pci_dev *dev;
    unsigned bar;
};
/* Sets the bus's 64-bit window, above BASE (or 4 GiB), below LIMIT and not in AMD's hole (see
 * layout.h), to what pci_bus_assign() needs and some room. -ENOSPC: they would end above LIMIT.
 */
int pci_bus_set_mmio64(struct pci_bus *bus, uint64_t base, uint64_t limit,
                       struct pci_mmio64_need *need);

/* Power-on: decoding off, all BARs unmapped, COMMAND 0, interrupt line 0. Before
 * pci_bus_assign() of the next boot; every vCPU paused. */
void pci_bus_reset(struct pci_bus *bus);

/* The guest's value of a BAR (the address bits only). */
uint64_t pci_bar_value(const struct pci_dev *dev, unsigned bar);

/* The emulated configuration space: CONFIG, WMASK, BARs and what they decode. */
uint32_t pci_config_read(struct pci_dev *dev, unsigned offset, unsigned size);
void pci_config_write(struct pci_dev *dev, unsigned offset, unsigned size, uint32_t value);

/* Decides again what is decoded; for a function that changed COMMAND or BAR behaviour itself.
 * With the bus's lock held. */
void pci_bus_update(struct pci_bus *bus);

/* Configuration access by address: used by CF8/CFC and ECAM, takes the lock. SIZE is up to 8;
 * unaligned accesses and those of more than 32 bits are split; a missing function reads as all
 * ones. */
uint64_t pci_bus_config_read(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size);
void pci_bus_config_write(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size,
                          uint64_t value);

/* The IOAPIC input of an interrupt pin (1 = INTA#): fixed wiring, also told in ACPI's _PRT. */
uint32_t pci_intx_gsi(uint8_t devfn, uint8_t pin);
