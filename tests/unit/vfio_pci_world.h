/*
 * vfio_pci_world.h: a guest's PCI bus with one fake VFIO device on it, for the vfio_pci tests.
 * Prepare world.vfio after world_init(), then world_create().
 */
#pragma once

#include <criterion/criterion.h>
#include <linux/pci_regs.h>

#include "devices/pci.h"
#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_vfio.h"
#include "vfio/vfio_pci_priv.h"
#include "vmm/bus.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define WORLD_DEVFN PCI_DEVFN(3, 0)
#define WORLD_BAR0  0xc1000000U
#define WORLD_BAR1  0xfe0000000ULL
#define WORLD_BAR4  0xc2000000U
#define WORLD_BAR5  0xd000U
#define WORLD_ROM   0xc3000000U

struct world {
    struct fake_hv hv;
    struct fake_vfio vfio;
    struct bus pio, mmio;
    struct pci_bus bus;
    struct loop *loop;
    struct vfio_pci_config config;
    struct vfio_pci *pci;
    unsigned gone, failed; /* calls of gone(), and with what */
};

static inline void world_gone(void *opaque, const char *name, bool failed)
{
    struct world *w = opaque;

    cr_expect_str_eq(name, "0000:42:00.0");
    w->gone++;
    w->failed += failed;
    loop_stop(w->loop);
}

static inline void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    log_set_level(LOG_ERROR);
    fake_hv_init(&w->hv);
    fake_vfio_init(&w->vfio, &w->hv);
    cr_assert_eq(bus_init(&w->pio), 0);
    cr_assert_eq(bus_init(&w->mmio), 0);
    cr_assert_eq(pci_bus_init(&w->bus, &w->pio, &w->mmio), 0);
    cr_assert_eq(loop_create(&w->loop), 0);
    w->config = (struct vfio_pci_config){.hv = &w->hv.hv,
                                         .bus = &w->bus,
                                         .loop = w->loop,
                                         .devfn = WORLD_DEVFN,
                                         .mmap = true,
                                         .reset = true,
                                         .clique = -1,
                                         .gone = world_gone,
                                         .opaque = w};
}

static inline int world_create(struct world *w)
{
    int err = vfio_pci_create(&w->pci, &w->vfio.dev, &w->config);

    if (!err)
        fake_vfio_forget(&w->vfio);
    return err;
}

/* Takes everything down and checks that nothing is left. */
static inline void world_fini(struct world *w)
{
    vfio_pci_destroy(w->pci);
    cr_expect_eq(w->vfio.calls[FAKE_CLOSE], 1, "closed once");
    cr_expect_eq(fake_hv_live(&w->hv), 0, "nothing left at the hypervisor");
    cr_expect_eq(w->hv.misuse, 0);
    cr_expect_eq(w->vfio.bar_writes, 0, "no guest address at the device");
    cr_expect_null(w->bus.dev[WORLD_DEVFN]);
    cr_expect_eq(w->pio.nr, 1, "only CF8 is left");
    cr_expect_eq(w->mmio.nr, 1, "only ECAM is left");
    fake_vfio_fini(&w->vfio);
    loop_destroy(w->loop);
    pci_bus_fini(&w->bus);
    bus_fini(&w->pio);
    bus_fini(&w->mmio);
}

static inline uint32_t cfg_read(struct world *w, unsigned offset, unsigned size)
{
    return (uint32_t)pci_bus_config_read(&w->bus, WORLD_DEVFN, offset, size);
}

static inline void cfg_write(struct world *w, unsigned offset, unsigned size, uint32_t value)
{
    pci_bus_config_write(&w->bus, WORLD_DEVFN, offset, size, value);
}

/* Addresses as firmware would give them, and decoding on. */
static inline void world_start_guest(struct world *w)
{
    cfg_write(w, PCI_BASE_ADDRESS_0, 4, WORLD_BAR0);
    cfg_write(w, PCI_BASE_ADDRESS_1, 4, (uint32_t)WORLD_BAR1);
    cfg_write(w, PCI_BASE_ADDRESS_2, 4, (uint32_t)(WORLD_BAR1 >> 32));
    cfg_write(w, PCI_BASE_ADDRESS_4, 4, WORLD_BAR4);
    cfg_write(w, PCI_BASE_ADDRESS_5, 4, WORLD_BAR5);
    cfg_write(w, PCI_ROM_ADDRESS, 4, WORLD_ROM | PCI_ROM_ADDRESS_ENABLE);
    cfg_write(w, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
}

static inline uint64_t mmio_read(struct world *w, uint64_t addr, unsigned size)
{
    uint64_t value = 0;

    bus_read(&w->mmio, addr, &value, size);
    return value;
}

static inline void mmio_write(struct world *w, uint64_t addr, unsigned size, uint64_t value)
{
    bus_write(&w->mmio, addr, &value, size);
}
