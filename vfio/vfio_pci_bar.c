/*
 * vfio_pci_bar.c: the BARs of a passed-through function: direct where possible, else trapped.
 *
 * PCI Local Bus 3.0, 6.2.5 "Base Addresses". What the provider lets us map becomes memory slots
 * of the guest, so that register accesses cost no exit; what is left (I/O BARs, the expansion
 * ROM, BARs smaller than a page, pages of the MSI-X table and PBA) exits and is carried out by
 * region_read and region_write with the guest's size. The whole BAR is registered on the bus;
 * slots lie over it and are nothing but a shortcut, so they can go at any time.
 *
 * This program never touches a BAR through its own mapping: the kernel takes the pages away
 * while memory decoding is off, and a touch would be a SIGBUS. BAR values that the guest writes
 * never reach the device.
 *
 * Map and unmap run under the bus's lock, slots and traps under vfio_pci.lock; trapped accesses
 * come from vCPU threads and need no lock, as a region access is one system call.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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

/* An area needs whole pages, which ports, the ROM (read by the kernel) and small BARs lack. */
static bool wants_mmap(const struct vfio_pci *pci, unsigned bar, uint32_t flags)
{
    const struct vfio_region *region = &pci->bar[bar].region;

    return pci->wiring.mmap && bar != PCI_BAR_ROM && !(flags & PCI_BASE_ADDRESS_SPACE_IO) &&
           region->flags & VFIO_REGION_INFO_FLAG_MMAP && region->size >= LAYOUT_PAGE_SIZE;
}

static int probe_bar(struct vfio_pci *pci, unsigned i, uint32_t flags)
{
    uint64_t region_size = pci->bar[i].region.size;
    uint64_t size = bar_size(region_size, i, flags);
    int err = region_size ? pci_dev_set_bar(&pci->dev, i, size, flags) : 0;

    if (err)
        log_error(pci->dev.name, "cannot set up BAR%u of 0x%" PRIx64 " bytes: %s", i,
                  region_size, strerror(-err));
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
        int err = pci->vdev->ops->region_info(pci->vdev, i, &bar->region);
        if (err) {
            log_error(pci->dev.name, "cannot get the size of BAR%u: %s", i, strerror(-err));
            return err;
        }
        if (upper)
            bar->region.size = 0;
        upper = !upper && bar->region.size && flags & PCI_BASE_ADDRESS_MEM_TYPE_64;
        if (!wants_mmap(pci, i, flags))
            bar->region.areas = 0;
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

/*
 * Address space for the whole BAR, aligned like the BAR up to 1 GiB: only then can the host and
 * the IOMMU use huge pages for it. What is not mapped later stays inaccessible.
 */
static uint8_t *reserve(uint64_t size, uint64_t align)
{
    uint64_t room = size + align - LAYOUT_PAGE_SIZE;
    uint8_t *p =
        mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    uint64_t head = align_up((uintptr_t)p, align) - (uintptr_t)p;
    if (head)
        munmap(p, head);
    if (room - head > size)
        munmap(p + head + size, room - head - size);
    return p + head;
}

static int mmap_bar(struct vfio_pci *pci, struct vfio_pci_bar *bar)
{
    const struct vfio_region *region = &bar->region;
    uint64_t align = MIN(pci->dev.bar[region->index].size, GIB);

    bar->va_size = align_up(region->size, LAYOUT_PAGE_SIZE);
    bar->va = reserve(bar->va_size, align);
    if (!bar->va)
        return -errno;
    for (unsigned i = 0; i < region->areas; i++) {
        const struct vfio_area *area = &region->area[i];
        int err = pci->vdev->ops->region_mmap(pci->vdev, region, area, bar->va + area->offset);
        if (err)
            return err;
    }
    return 0;
}

static void munmap_bar(struct vfio_pci_bar *bar)
{
    if (bar->va)
        munmap(bar->va, bar->va_size);
    bar->va = NULL;
}

void vfio_pci_bars_mmap(struct vfio_pci *pci)
{
    for (unsigned i = 0; i < pci->traps; i++) {
        const struct vfio_pci_trap *trap = &pci->trap[i];
        exclude(&pci->bar[trap->bar].region, align_down(trap->start, LAYOUT_PAGE_SIZE),
                align_up(trap->start + trap->size, LAYOUT_PAGE_SIZE));
    }
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct vfio_pci_bar *bar = &pci->bar[i];
        int err = bar->region.areas ? mmap_bar(pci, bar) : 0;
        if (!err)
            continue;
        log_note(pci->dev.name,
                 "cannot map BAR%u: %s; its registers are trapped, which is slow", i,
                 strerror(-err));
        munmap_bar(bar);
        bar->region.areas = 0;
    }
}

void vfio_pci_bars_fini(struct vfio_pci *pci)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        munmap_bar(&pci->bar[i]);
}

/* ---- slots; with vfio_pci.lock ---- */

static void slots_remove(struct vfio_pci_bar *bar, unsigned nr)
{
    struct hv *hv = bar->pci->wiring.hv;

    while (nr--)
        hv->ops->slot_remove(hv, bar->slot[nr]);
    bar->direct = false;
}

/* -EEXIST when something is there. Any other failure only costs speed. */
static int slots_add(struct vfio_pci_bar *bar)
{
    struct vfio_pci *pci = bar->pci;
    struct hv *hv = pci->wiring.hv;

    for (unsigned i = 0; i < bar->region.areas; i++) {
        const struct vfio_area *area = &bar->region.area[i];
        int slot =
            hv->ops->slot_add(hv, bar->addr + area->offset, bar->va + area->offset, area->size);
        if (slot < 0) {
            slots_remove(bar, i);
            if (slot != -EEXIST && log_limit(&pci->complaints))
                log_warn(pci->dev.name,
                         "cannot give the guest BAR%u at 0x%" PRIx64
                         " directly: %s; its registers are trapped, which is slow",
                         bar->region.index, bar->addr, strerror(-slot));
            return slot == -EEXIST ? slot : 0;
        }
        bar->slot[i] = slot;
    }
    bar->direct = bar->region.areas > 0;
    return 0;
}

bool vfio_pci_slots_drop(struct vfio_pci *pci)
{
    bool any = false;

    pthread_mutex_lock(&pci->lock);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        any |= pci->bar[i].direct;
        if (pci->bar[i].direct)
            slots_remove(&pci->bar[i], pci->bar[i].region.areas);
    }
    pthread_mutex_unlock(&pci->lock);
    return any;
}

void vfio_pci_slots_restore(struct vfio_pci *pci)
{
    pthread_mutex_lock(&pci->lock);
    for (unsigned i = 0; i < PCI_BARS; i++)
        if (pci->bar[i].mapped && !pci->bar[i].direct)
            slots_add(&pci->bar[i]); /* what does not fit stays trapped */
    pthread_mutex_unlock(&pci->lock);
}

/* ---- trapped accesses ---- */

static const struct vfio_pci_trap *find_trap(const struct vfio_pci_bar *bar, uint64_t offset,
                                             unsigned size)
{
    const struct vfio_pci *pci = bar->pci;

    for (unsigned i = 0; i < pci->traps; i++) {
        const struct vfio_pci_trap *trap = &pci->trap[i];
        if (trap->bar == bar->region.index && offset >= trap->start &&
            range_within(offset - trap->start, size, trap->size))
            return trap;
    }
    return NULL;
}

static void complain(const struct vfio_pci_bar *bar, const char *verb, uint64_t offset, int err)
{
    if (log_limit(&bar->pci->accesses))
        log_debug(bar->pci->dev.name, "cannot %s BAR%u at 0x%" PRIx64 ": %s", verb,
                  bar->region.index, offset, strerror(-err));
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vfio_pci_bar *bar = opaque;
    struct vfio_pci *pci = bar->pci;
    const struct vfio_pci_trap *trap = find_trap(bar, offset, size);
    uint8_t bytes[8];
    int err = -ERANGE; /* the guest's BAR may be larger than the region */

    if (trap) {
        pthread_mutex_lock(&pci->lock);
        uint64_t value = trap->read(pci, (uint32_t)(offset - trap->start), size);
        pthread_mutex_unlock(&pci->lock);
        return value;
    }
    if (range_within(offset, size, bar->region.size))
        err = pci->vdev->ops->region_read(pci->vdev, &bar->region, offset, bytes, size);
    if (!err)
        return get_le(bytes, size);
    complain(bar, "read", offset, err);
    return all_ones(size);
}

static void bar_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct vfio_pci_bar *bar = opaque;
    struct vfio_pci *pci = bar->pci;
    const struct vfio_pci_trap *trap = find_trap(bar, offset, size);
    uint8_t bytes[8];
    int err = -ERANGE;

    if (trap) {
        pthread_mutex_lock(&pci->lock);
        trap->write(pci, (uint32_t)(offset - trap->start), size, value);
        pthread_mutex_unlock(&pci->lock);
        return;
    }
    put_le(bytes, size, value);
    if (bar->region.flags & VFIO_REGION_INFO_FLAG_WRITE && /* the ROM is not */
        range_within(offset, size, bar->region.size))
        err = pci->vdev->ops->region_write(pci->vdev, &bar->region, offset, bytes, size);
    if (err)
        complain(bar, "write", offset, err);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

/* ---- decoding ---- */

static struct bus *bar_bus(const struct vfio_pci *pci, unsigned bar)
{
    bool io = pci->dev.bar[bar].flags & PCI_BASE_ADDRESS_SPACE_IO;

    return io ? pci->wiring.bus->pio : pci->wiring.bus->mmio;
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
    b->addr = addr;
    err = pci->asleep ? 0 : slots_add(b);
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
    if (b->direct)
        slots_remove(b, b->region.areas);
    b->mapped = false;
    pthread_mutex_unlock(&pci->lock);
    bus_remove(bar_bus(pci, bar), b->addr);
}

/* ---- description ---- */

/* 16M, 4K, 128: the largest unit that gives a whole number. */
static void print_size(FILE *f, uint64_t size)
{
    static const char unit[][2] = {"", "K", "M", "G", "T"};
    unsigned i = 0;

    while (i + 1 < ARRAY_SIZE(unit) && size && !(size % KIB)) {
        size /= KIB;
        i++;
    }
    fprintf(f, " %" PRIu64 "%s", size, unit[i]);
}

/* ", trapped 0x2000-0x2fff (MSI-X table)" for what lies between two direct areas. */
static void print_gap(FILE *f, const struct vfio_pci_bar *bar, uint64_t start, uint64_t end,
                      const char **lead)
{
    const struct vfio_pci *pci = bar->pci;

    if (start >= end)
        return;
    fprintf(f, "%s0x%" PRIx64 "-0x%" PRIx64, *lead, start, end - 1);
    *lead = ", ";
    for (unsigned i = 0; i < pci->traps; i++) {
        const struct vfio_pci_trap *trap = &pci->trap[i];
        if (trap->bar == bar->region.index && trap->start < end &&
            trap->start + trap->size > start) {
            fprintf(f, " (%s)", trap->label);
            return;
        }
    }
}

static void print_access(FILE *f, const struct vfio_pci_bar *bar)
{
    const struct vfio_region *region = &bar->region;
    const char *lead = ", trapped ";
    uint64_t end = 0; /* of the area before */

    fputs(region->areas ? " direct" : " trapped", f);
    for (unsigned i = 0; i < region->areas; i++) {
        print_gap(f, bar, end, region->area[i].offset, &lead);
        end = region->area[i].offset + region->area[i].size;
    }
    if (region->areas)
        print_gap(f, bar, end, region->size, &lead);
}

static void print_bar(FILE *f, const struct vfio_pci *pci, unsigned i)
{
    const struct pci_bar *bar = &pci->dev.bar[i];

    if (i == PCI_BAR_ROM)
        fputs("ROM", f);
    else
        fprintf(f, "BAR%u%s", i, (bar->flags & PCI_BASE_ADDRESS_SPACE_IO) ? " I/O" : "");
    fprintf(f, " 0x%" PRIx64, pci_bar_value(&pci->dev, i));
    print_size(f, bar->size);
    if (i != PCI_BAR_ROM)
        print_access(f, &pci->bar[i]);
}

void vfio_pci_bars_describe(const struct vfio_pci *pci)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        char *line = NULL;
        size_t size;
        FILE *f = pci->dev.bar[i].size ? open_memstream(&line, &size) : NULL;

        if (!f)
            continue;
        print_bar(f, pci, i);
        if (fclose(f) == 0)
            log_note(pci->dev.name, "%s", line);
        free(line);
    }
}
