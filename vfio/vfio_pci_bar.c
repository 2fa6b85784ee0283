/*
 * vfio_pci_bar.c: the BARs of a passed-through function: direct where possible, else trapped.
 *
 * PCI Local Bus 3.0, 6.2.5 "Base Addresses". What is not direct (see vfio_view.h) is I/O BARs,
 * the expansion ROM, BARs smaller than a page, pages of the MSI-X table and PBA. The whole BAR
 * is registered on the bus. BAR values that the guest writes never reach the device.
 *
 * Map and unmap run under the bus's lock, slots and traps under vfio_pci.lock.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "vfio/vfio_p2p.h"
#include "vfio/vfio_pci_priv.h"
#include "vmm/bus.h"
#include "vmm/hv.h"
#include "vmm/layout.h"
#include "vmm/util.h"

/* ---- what there is ---- */

/* The kernel shows the BARs' type bits in their registers, as hardware does. */
static uint32_t bar_flags(uint32_t reg)
{
    if (reg & PCI_BASE_ADDRESS_SPACE_IO)
        return PCI_BASE_ADDRESS_SPACE_IO;
    return reg & (PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
}

/* PCI wants a power of two, and at least as much as the flag bits take; a vfio-user server may
 * have less. 0: no such size. */
static uint64_t bar_size(uint64_t region_size, unsigned bar, uint32_t flags)
{
    uint64_t size = (flags & PCI_BASE_ADDRESS_SPACE_IO) ? 4 : 16;
    if (bar == PCI_BAR_ROM)
        size = 2 * KIB;
    while (size && size < region_size)
        size <<= 1;
    return size;
}

/* An area needs whole pages, which ports, the ROM (a copy) and small BARs lack. */
static bool wants_mmap(const struct vfio_pci *pci, unsigned bar, uint32_t flags)
{
    const struct vfio_region *region = &pci->bar[bar].view.region;
    return pci->wiring.mmap && bar != PCI_BAR_ROM && !(flags & PCI_BASE_ADDRESS_SPACE_IO) &&
           region->flags & VFIO_REGION_INFO_FLAG_MMAP && region->size >= LAYOUT_PAGE_SIZE;
}

static int probe_bar(struct vfio_pci *pci, unsigned i, uint32_t flags)
{
    uint64_t region_size = pci->bar[i].view.region.size;
    uint64_t size = bar_size(region_size, i, flags);
    int err = region_size ? pci_dev_set_bar(&pci->dev, i, size, flags) : 0;
    if (err)
        log_error(pci->dev.name, "cannot set up BAR%u of 0x%" PRIx64 " bytes: %s", i,
                  region_size, strerror(-err));
    return err;
}

/* The ROM that the guest is to see takes the place of the device's. */
static int probe_rom(struct vfio_pci *pci)
{
    int err = 0;
    if (pci->wiring.rom_off)
        pci->rom.size = 0;
    else if (pci->wiring.rom && pci->wiring.rom[0])
        err = vfio_pci_rom_load(pci);
    else
        return 0;
    pci->bar[PCI_BAR_ROM].view.region.size = pci->rom.size;
    return err;
}

int vfio_pci_bars_probe(struct vfio_pci *pci)
{
    bool upper = false; /* half of the BAR before */
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct vfio_pci_bar *bar = &pci->bar[i];
        bool rom = i == PCI_BAR_ROM;
        uint8_t *reg = pci->dev.config + (rom ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + 4 * i);
        uint32_t flags = rom ? 0 : bar_flags(get_le32(reg));

        put_le32(reg, 0);
        int err = pci->vdev->ops->region_info(pci->vdev, i, &bar->view.region);
        if (err) {
            log_error(pci->dev.name, "cannot get the size of BAR%u: %s", i, strerror(-err));
            return err;
        }
        if (upper)
            bar->view.region.size = 0;
        upper = !upper && bar->view.region.size && flags & PCI_BASE_ADDRESS_MEM_TYPE_64;
        if (!wants_mmap(pci, i, flags))
            bar->view.region.areas = 0;
        if (!pci->wiring.mmap)
            bar->view.region.ioeventfds = 0;
        bar->view.pio = flags & PCI_BASE_ADDRESS_SPACE_IO;
        bar->view.region.posted = !bar->view.pio;
        if (rom)
            err = probe_rom(pci);
        if (!err)
            err = probe_bar(pci, i, flags);
        if (err)
            return err;
    }
    return 0;
}

/* ---- host mappings ---- */

/* Cuts [start, end) out of the direct areas. Where that makes too many, the last are trapped.
 */
static void exclude(struct vfio_region *region, uint64_t start, uint64_t end)
{
    const struct vfio_region old = *region;
    region->areas = 0;
    for (unsigned i = 0; i < old.areas; i++) {
        uint64_t first = old.area[i].offset, last = first + old.area[i].size;
        const uint64_t piece[2][2] = {{first, MIN(last, start)}, {MAX(first, end), last}};

        for (unsigned k = 0; k < 2; k++)
            if (piece[k][0] < piece[k][1] && region->areas < VFIO_AREAS_MAX)
                region->area[region->areas++] =
                    (struct vfio_area){piece[k][0], piece[k][1] - piece[k][0]};
    }
}

void vfio_pci_bars_mmap(struct vfio_pci *pci)
{
    for (unsigned i = 0; i < pci->traps; i++) {
        const struct vfio_pci_trap *trap = &pci->trap[i];
        exclude(&pci->bar[trap->bar].view.region, align_down(trap->start, LAYOUT_PAGE_SIZE),
                align_up(trap->start + trap->size, LAYOUT_PAGE_SIZE));
    }
    for (unsigned i = 0; i < PCI_BARS; i++)
        vfio_view_mmap(&pci->bar[i].view, pci->dev.bar[i].size);
}

void vfio_pci_bars_fini(struct vfio_pci *pci)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        vfio_view_munmap(&pci->bar[i].view);
}

/* ---- slots, and with them the BAR's place in its peers' DMA; with vfio_pci.lock ---- */

static int add_slots(struct vfio_pci *pci, struct vfio_view *view)
{
    int err = vfio_view_add_slots(view);
    if (view->direct)
        vfio_p2p_add(pci->wiring.p2p, view);
    return err;
}

static bool remove_slots(struct vfio_pci *pci, struct vfio_view *view)
{
    vfio_p2p_remove(pci->wiring.p2p, view);
    return vfio_view_remove_slots(view);
}

bool vfio_pci_drop_slots(struct vfio_pci *pci)
{
    bool any = false;
    pthread_mutex_lock(&pci->lock);
    for (unsigned i = 0; i < PCI_BARS; i++)
        any |= remove_slots(pci, &pci->bar[i].view);
    pthread_mutex_unlock(&pci->lock);
    return any;
}

void vfio_pci_restore_slots(struct vfio_pci *pci)
{
    pthread_mutex_lock(&pci->lock);
    for (unsigned i = 0; i < PCI_BARS; i++)
        if (pci->bar[i].mapped && !pci->bar[i].view.direct)
            add_slots(pci, &pci->bar[i].view); /* what does not fit stays trapped */
    pthread_mutex_unlock(&pci->lock);
}

/* ---- trapped accesses ---- */

static const struct vfio_pci_trap *find_trap(const struct vfio_pci_bar *bar, uint64_t offset,
                                             unsigned size)
{
    const struct vfio_pci *pci = bar->pci;
    for (unsigned i = 0; i < pci->traps; i++) {
        const struct vfio_pci_trap *trap = &pci->trap[i];
        if (trap->bar == bar->view.region.index && offset >= trap->start &&
            range_within(offset - trap->start, size, trap->size))
            return trap;
    }
    return NULL;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vfio_pci_bar *bar = opaque;
    struct vfio_pci *pci = bar->pci;
    const struct vfio_pci_trap *trap = find_trap(bar, offset, size);
    if (vfio_pci_is_lost(pci))
        return all_ones(size);
    if (bar->view.region.index == PCI_BAR_ROM)
        return vfio_pci_rom_read(pci, offset, size);
    if (!trap)
        return vfio_view_read(&bar->view, offset, size);
    return trap->read(pci, trap, (uint32_t)(offset - trap->start), size);
}

static void bar_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct vfio_pci_bar *bar = opaque;
    const struct vfio_pci_trap *trap = find_trap(bar, offset, size);
    if (bar->view.region.index == PCI_BAR_ROM)
        return;
    if (!trap)
        vfio_view_write(&bar->view, offset, size, value);
    else if (trap->write)
        trap->write(bar->pci, trap, (uint32_t)(offset - trap->start), size, value);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

/* ---- decoding ---- */

static struct bus *bar_bus(const struct vfio_pci *pci, unsigned bar)
{
    return vfio_pci_bus(pci, pci->dev.bar[bar].flags & PCI_BASE_ADDRESS_SPACE_IO);
}

int vfio_pci_bar_map(struct pci_dev *dev, unsigned bar, uint64_t addr)
{
    struct vfio_pci *pci = to_vfio_pci(dev);
    struct vfio_pci_bar *b = &pci->bar[bar];
    const struct bus_range range = {addr, dev->bar[bar].size, &bar_ops, b, dev->name};
    int err = bus_add(bar_bus(pci, bar), &range);

    if (err)
        return err;
    pthread_mutex_lock(&pci->lock);
    b->view.addr = addr;
    err = pci->asleep ? 0 : add_slots(pci, &b->view);
    b->mapped = !err;
    pthread_mutex_unlock(&pci->lock);
    if (err)
        bus_remove(bar_bus(pci, bar), addr);
    return err;
}

void vfio_pci_bar_unmap(struct pci_dev *dev, unsigned bar)
{
    struct vfio_pci *pci = to_vfio_pci(dev);
    struct vfio_pci_bar *b = &pci->bar[bar];
    pthread_mutex_lock(&pci->lock);
    remove_slots(pci, &b->view);
    b->mapped = false;
    pthread_mutex_unlock(&pci->lock);
    bus_remove(bar_bus(pci, bar), b->view.addr);
}

/* ---- description ---- */

/* What this program answers itself in [START, END). */
static const char *trap_label(const struct vfio_view *view, uint64_t start, uint64_t end)
{
    const struct vfio_pci *pci = container_of(view, struct vfio_pci_bar, view)->pci;
    for (unsigned i = 0; i < pci->traps; i++) {
        const struct vfio_pci_trap *trap = &pci->trap[i];
        if (trap->bar == view->region.index && trap->start < end &&
            trap->start + trap->size > start)
            return trap->label;
    }
    return NULL;
}

void vfio_pci_bars_describe(const struct vfio_pci *pci)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        uint64_t addr = pci_bar_value(&pci->dev, i), size = pci->dev.bar[i].size;
        if (size && i != PCI_BAR_ROM)
            vfio_view_describe(&pci->bar[i].view, addr, size, trap_label);
        else if (size)
            log_note(pci->dev.name, "ROM 0x%" PRIx64 " %s", addr, vfio_size_text(size).s);
    }
}
