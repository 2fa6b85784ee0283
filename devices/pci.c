/*
 * pci.c: functions on the guest's PCI bus: type-0 configuration space, BARs, where they decode.
 *
 * PCI Local Bus 3.0, chapter 6 "Configuration Space": 6.1 organisation, 6.2.2 Command register,
 * 6.2.5 "Base Addresses" (sizing by writing ones; a 64-bit BAR is two registers), 6.7
 * "Capabilities List". What the guest may write is data, one mask bit for each register bit;
 * sizing needs no code of its own, since the size bits of a BAR cannot be written.
 *
 * Left out: bridges, so there is one bus; write-1-to-clear status bits, since an emulated
 * function never sets one; latency and grant timers, which read as zero as in PCI Express.
 *
 * Everything here runs under the bus's lock, or before the guest does.
 */
#include "devices/pci.h"

#include <errno.h>
#include <string.h>

#include "vmm/layout.h"
#include "vmm/uapi.h"
#include "vmm/util.h"

#define PCI_COMMAND_WRITABLE                                                         \
    (PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | \
     PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE)

/* The widest guest address that x86 defines, and with it the largest BAR that can be of use;
 * the sum of all BARs of a bus stays far below 64 bits. */
#define PCI_ADDRESS_MAX  (1ULL << 52)
#define PCI_BAR_SIZE_MAX (PCI_ADDRESS_MAX / 2)
#define PCI_ROM_SIZE_MAX (16 * MIB)
#define PCI_BAR32_MAX    (2 * GIB)
#define PCI_PORTS        0x10000ULL

/* Non-prefetchable 64-bit BARs up to this size go below 4 GiB, as firmware does it. */
#define PCI_BAR32_PREFER (128 * MIB)

static bool bar_is_io(const struct pci_bar *bar)
{
    return bar->flags & PCI_BASE_ADDRESS_SPACE_IO;
}

static bool bar_is_64(const struct pci_bar *bar)
{
    return bar->flags & PCI_BASE_ADDRESS_MEM_TYPE_64;
}

static unsigned bar_register(unsigned bar)
{
    return bar == PCI_BAR_ROM ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS_0 + 4 * bar;
}

static uint64_t bar_address_mask(const struct pci_dev *dev, unsigned bar)
{
    if (bar == PCI_BAR_ROM)
        return PCI_ROM_ADDRESS_MASK;
    if (bar_is_io(&dev->bar[bar]))
        return PCI_BASE_ADDRESS_IO_MASK;
    return PCI_BASE_ADDRESS_MEM_MASK;
}

/* ---- construction ---- */

void pci_dev_init(struct pci_dev *dev, const struct pci_dev_ops *ops, const char *name)
{
    memset(dev, 0, sizeof(*dev));
    dev->ops = ops;
    dev->name = name;
    dev->cap_end = PCI_STD_HEADER_SIZEOF;
    put_le16(&dev->wmask[PCI_COMMAND], PCI_COMMAND_WRITABLE);
    dev->wmask[PCI_CACHE_LINE_SIZE] = 0xff;
    dev->wmask[PCI_INTERRUPT_LINE] = 0xff;
}

void pci_dev_set_id(struct pci_dev *dev, uint16_t vendor, uint16_t device, uint32_t class_rev)
{
    put_le16(&dev->config[PCI_VENDOR_ID], vendor);
    put_le16(&dev->config[PCI_DEVICE_ID], device);
    put_le32(&dev->config[PCI_CLASS_REVISION], class_rev);
}

/* 6.2.5.1 "Address Maps", 6.2.5.2 "Expansion ROM Base Address Register". */
static bool bar_allowed(unsigned bar, uint64_t size, uint32_t flags)
{
    const uint32_t memory = PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH;
    if (!is_pow2(size))
        return false;
    if (bar == PCI_BAR_ROM)
        return !flags && size >= 2 * KIB && size <= PCI_ROM_SIZE_MAX;
    if (flags == PCI_BASE_ADDRESS_SPACE_IO)
        return size >= 4 && size <= PCI_PORTS;
    if (flags & ~memory || size < 16)
        return false;
    if (flags & PCI_BASE_ADDRESS_MEM_TYPE_64)
        return bar < PCI_BAR_ROM - 1 && size <= PCI_BAR_SIZE_MAX;
    return size <= PCI_BAR32_MAX;
}

int pci_dev_set_bar(struct pci_dev *dev, unsigned bar, uint64_t size, uint32_t flags)
{
    if (bar >= PCI_BARS || !bar_allowed(bar, size, flags))
        return -EINVAL;
    /* Neither half of a 64-bit BAR may lie on a register that is taken. */
    bool wide = flags & PCI_BASE_ADDRESS_MEM_TYPE_64;
    if (dev->bar[bar].size || (wide && dev->bar[bar + 1].size) ||
        (bar > 0 && bar < PCI_BAR_ROM && bar_is_64(&dev->bar[bar - 1])))
        return -EINVAL;

    uint64_t mask = ~(size - 1);
    unsigned reg = bar_register(bar);
    dev->bar[bar] = (struct pci_bar){.size = size, .flags = flags};
    if (bar == PCI_BAR_ROM)
        mask |= PCI_ROM_ADDRESS_ENABLE;
    put_le32(&dev->config[reg], flags);
    put_le32(&dev->wmask[reg], (uint32_t)mask);
    if (wide) {
        put_le32(&dev->config[reg + 4], 0);
        put_le32(&dev->wmask[reg + 4], (uint32_t)(mask >> 32));
    }
    return 0;
}

int pci_dev_add_cap(struct pci_dev *dev, uint8_t id, uint8_t len)
{
    unsigned pos = dev->cap_end;
    if (pos + len > PCI_CFG_SPACE_SIZE)
        return -ENOSPC;
    memset(&dev->config[pos], 0, len);
    dev->config[pos + PCI_CAP_LIST_ID] = id;
    dev->config[pos + PCI_CAP_LIST_NEXT] = dev->config[PCI_CAPABILITY_LIST];
    dev->config[PCI_CAPABILITY_LIST] = (uint8_t)pos;
    dev->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    dev->cap_end = (uint16_t)align_up(pos + len, 4);
    return (int)pos;
}

/* ---- what is decoded ---- */

uint64_t pci_bar_value(const struct pci_dev *dev, unsigned bar)
{
    unsigned reg = bar_register(bar);
    uint64_t value = get_le32(&dev->config[reg]);
    if (bar_is_64(&dev->bar[bar]))
        value |= (uint64_t)get_le32(&dev->config[reg + 4]) << 32;
    return value & bar_address_mask(dev, bar);
}

/* Whether a BAR with the value ADDR can be decoded. Guests size BARs with decoding left on and
 * move 64-bit ones in two steps: neither may put a device over the interrupt controllers or
 * where no address is. All ones in a 32-bit BAR, or in the lower half of a 64-bit one, is the
 * range that ends at 4 GiB; all ones in the upper half is far beyond 52 bits. */
static bool bar_address_sane(const struct pci_bar *bar, uint64_t addr)
{
    if (!addr)
        return false;
    if (bar_is_io(bar))
        return range_within(addr, bar->size, PCI_PORTS);
    bool chipset =
        addr < LAYOUT_HIGH_RAM && bar->size > LAYOUT_IOAPIC - MIN(addr, LAYOUT_IOAPIC);
    return !chipset && range_within(addr, bar->size, PCI_ADDRESS_MAX);
}

static bool bar_wanted(const struct pci_dev *dev, unsigned i)
{
    const struct pci_bar *bar = &dev->bar[i];
    uint16_t command = get_le16(&dev->config[PCI_COMMAND]);
    if (!bar->size || !(command & (bar_is_io(bar) ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return false;
    if (i == PCI_BAR_ROM && !(dev->config[PCI_ROM_ADDRESS] & PCI_ROM_ADDRESS_ENABLE))
        return false;
    return bar_address_sane(bar, pci_bar_value(dev, i));
}

static void bar_unmap(struct pci_dev *dev, unsigned i)
{
    if (dev->bar[i].mapped) {
        dev->ops->bar_unmap(dev, i);
        dev->bar[i].mapped = false;
    }
}

static void bar_map(struct pci_dev *dev, unsigned i)
{
    struct pci_bar *bar = &dev->bar[i];
    uint64_t addr = pci_bar_value(dev, i);
    int err = dev->ops->bar_map(dev, i, addr);
    if (!err) {
        bar->addr = addr;
        bar->mapped = true;
    } else if (log_limit(&dev->bus->complaints)) {
        log_warn(dev->name, "cannot map BAR %u at 0x%llx: %s; it reads as all ones there", i,
                 (unsigned long long)addr, err == -EEXIST ? "taken" : strerror(-err));
    }
}

/* First everything that goes, then everything that comes: two BARs can change places. */
void pci_bus_update(struct pci_bus *bus)
{
    for (unsigned n = 0; n < ARRAY_SIZE(bus->dev); n++) {
        struct pci_dev *dev = bus->dev[n];
        for (unsigned i = 0; dev && i < PCI_BARS; i++)
            if (!bar_wanted(dev, i) || dev->bar[i].addr != pci_bar_value(dev, i))
                bar_unmap(dev, i);
    }
    for (unsigned n = 0; n < ARRAY_SIZE(bus->dev); n++) {
        struct pci_dev *dev = bus->dev[n];
        for (unsigned i = 0; dev && i < PCI_BARS; i++)
            if (!dev->bar[i].mapped && bar_wanted(dev, i))
                bar_map(dev, i);
    }
}

/* ---- configuration access ---- */

uint32_t pci_config_read(struct pci_dev *dev, unsigned offset, unsigned size)
{
    return (uint32_t)get_le(&dev->config[offset], size);
}

void pci_config_write(struct pci_dev *dev, unsigned offset, unsigned size, uint32_t value)
{
    uint64_t mask = get_le(&dev->wmask[offset], size);
    uint64_t old = get_le(&dev->config[offset], size);
    put_le(&dev->config[offset], size, (old & ~mask) | (value & mask));
    if (dev->bus && (ranges_overlap(offset, size, PCI_COMMAND, 2) ||
                     ranges_overlap(offset, size, PCI_BASE_ADDRESS_0, 6 * 4) ||
                     ranges_overlap(offset, size, PCI_ROM_ADDRESS, 4)))
        pci_bus_update(dev->bus);
}

/* The function at BDF, or NULL; there is only bus 0. */
static struct pci_dev *find(const struct pci_bus *bus, unsigned bdf)
{
    return bdf < ARRAY_SIZE(bus->dev) ? bus->dev[bdf] : NULL;
}

/* How much of LEFT bytes at OFFSET one aligned access can do. */
static unsigned step(unsigned offset, unsigned left)
{
    unsigned size = 4;
    while (offset % size || size > left)
        size /= 2;
    return size;
}

/* Header Type bit 7 (6.2.1): system software looks for functions 1-7 of a slot only when
 * function 0 has it, and a function that came from a card of several may be alone here. */
static uint32_t fix_header_type(const struct pci_dev *dev, unsigned offset, unsigned size,
                                uint32_t value)
{
    if (!ranges_overlap(offset, size, PCI_HEADER_TYPE, 1))
        return value;

    struct pci_dev *const *slot = &dev->bus->dev[dev->devfn & ~7U];
    uint32_t bit = UAPI_PCI_HEADER_TYPE_MFD << 8 * (PCI_HEADER_TYPE - offset);
    value &= ~bit;
    for (unsigned fn = 1; fn < 8; fn++)
        if (slot[fn])
            value |= bit;
    return value;
}

static uint32_t read_aligned(struct pci_dev *dev, unsigned offset, unsigned size)
{
    uint32_t value = dev->ops->config_read(dev, offset, size);
    return fix_header_type(dev, offset, size, value) & (uint32_t)all_ones(size);
}

uint64_t pci_bus_config_read(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size)
{
    uint64_t value = 0;
    size = MIN(size, 8U);
    pthread_mutex_lock(&bus->lock);
    struct pci_dev *dev = find(bus, bdf);
    for (unsigned done = 0, n; done < size; done += n) {
        n = step(offset + done, size - done);
        uint64_t part = all_ones(n);
        if (dev && offset + done < PCI_CONFIG_SIZE)
            part = read_aligned(dev, offset + done, n);
        value |= part << 8 * done;
    }
    pthread_mutex_unlock(&bus->lock);
    return value;
}

void pci_bus_config_write(struct pci_bus *bus, unsigned bdf, unsigned offset, unsigned size,
                          uint64_t value)
{
    size = MIN(size, 8U);
    pthread_mutex_lock(&bus->lock);
    struct pci_dev *dev = find(bus, bdf);
    for (unsigned done = 0, n; dev && done < size; done += n) {
        n = step(offset + done, size - done);
        if (offset + done < PCI_CONFIG_SIZE)
            dev->ops->config_write(dev, offset + done, n,
                                   (uint32_t)(value >> 8 * done & all_ones(n)));
    }
    pthread_mutex_unlock(&bus->lock);
}

/* ---- the bus ---- */

int pci_bus_add(struct pci_bus *bus, struct pci_dev *dev, uint8_t devfn)
{
    int err = -EEXIST;
    pthread_mutex_lock(&bus->lock);
    if (!bus->dev[devfn]) {
        bus->dev[devfn] = dev;
        dev->bus = bus;
        dev->devfn = devfn;
        err = 0;
    }
    pthread_mutex_unlock(&bus->lock);
    return err;
}

void pci_bus_remove(struct pci_bus *bus, struct pci_dev *dev)
{
    pthread_mutex_lock(&bus->lock);
    for (unsigned i = 0; i < PCI_BARS; i++)
        bar_unmap(dev, i);
    bus->dev[dev->devfn] = NULL;
    dev->bus = NULL;
    pci_bus_update(bus);
    pthread_mutex_unlock(&bus->lock);
}

void pci_bus_reset(struct pci_bus *bus)
{
    pthread_mutex_lock(&bus->lock);
    bus->config_address = 0;
    for (unsigned n = 0; n < ARRAY_SIZE(bus->dev); n++) {
        struct pci_dev *dev = bus->dev[n];
        if (!dev)
            continue;
        put_le16(&dev->config[PCI_COMMAND], 0);
        dev->config[PCI_INTERRUPT_LINE] = 0;
        for (unsigned i = 0; i < PCI_BARS; i++)
            bar_unmap(dev, i);
    }
    pthread_mutex_unlock(&bus->lock);
}

/* ---- assignment ---- */

/* Address space that is free; END is not part of it. */
struct gap {
    uint64_t start, end;
};

/*
 * The gaps are in ascending order. Only what lies below a BAR at the window's very start adds
 * one: BARs come largest first, so the end of one suits all later ones, and the start of a gap
 * behind it is used as it is. That is one more gap for each size at most.
 */
struct window {
    const char *name;
    uint64_t base, size;
    uint64_t grain; /* nothing smaller than this is handed out */
    unsigned gaps;
    struct gap gap[64 + 1];
};

struct plan {
    struct window pio, mmio32, mmio64;
};

static struct window window(const char *name, uint64_t base, uint64_t size, uint64_t grain)
{
    return (struct window){name, base, size, grain, 1, {{base, base + size}}};
}

static void plan_init(struct plan *plan, uint64_t mmio64_base, uint64_t mmio64_size)
{
    /* A page for each memory BAR at least: what is mapped straight into the guest must not
     * share its page with what is trapped. */
    plan->pio = window("I/O", LAYOUT_PORT_BARS, LAYOUT_PORT_BARS_SIZE, 4);
    plan->mmio32 = window("32-bit memory", LAYOUT_MMIO32, LAYOUT_MMIO32_SIZE, LAYOUT_PAGE_SIZE);
    plan->mmio64 = window("64-bit memory", mmio64_base, mmio64_size, LAYOUT_PAGE_SIZE);
}

/* Takes [START, START + SIZE) out of gap I. */
static void gap_cut(struct window *w, unsigned i, uint64_t start, uint64_t size)
{
    struct gap *gap = &w->gap[i];
    const struct gap above = {start + size, gap->end};

    gap->end = start;
    if (gap->start == start) { /* nothing below it */
        *gap = above;
    } else if (above.start < above.end && w->gaps < ARRAY_SIZE(w->gap)) {
        memmove(gap + 2, gap + 1, (w->gaps - i - 1) * sizeof(*gap));
        gap[1] = above;
        w->gaps++;
    }
}

/* The lowest place that suits SIZE. */
static bool window_take(struct window *w, uint64_t size, uint64_t *addr)
{
    size = MAX(size, w->grain);
    for (unsigned i = 0; i < w->gaps; i++) {
        uint64_t start = align_up(w->gap[i].start, size);
        if (start < w->gap[i].start || !range_within(start, size, w->gap[i].end))
            continue;
        gap_cut(w, i, start, size);
        *addr = start;
        return true;
    }
    return false;
}

static uint64_t window_left(const struct window *w)
{
    uint64_t left = 0;
    for (unsigned i = 0; i < w->gaps; i++)
        left += w->gap[i].end - w->gap[i].start;
    return left;
}

/* The window it should lie in; a 64-bit BAR takes the other one when that is full. */
static struct window *window_of(struct plan *plan, const struct pci_bar *bar)
{
    if (bar_is_io(bar))
        return &plan->pio;
    if (bar_is_64(bar) &&
        (bar->flags & PCI_BASE_ADDRESS_MEM_PREFETCH || bar->size > PCI_BAR32_PREFER))
        return &plan->mmio64;
    return &plan->mmio32;
}

static struct window *plan_place(struct plan *plan, const struct pci_bar *bar, uint64_t *addr)
{
    struct window *w = window_of(plan, bar);
    if (window_take(w, bar->size, addr))
        return w;
    w = w == &plan->mmio32 ? &plan->mmio64 : &plan->mmio32;
    return bar_is_64(bar) && window_take(w, bar->size, addr) ? w : NULL;
}

static void bar_store(struct pci_dev *dev, unsigned i, uint64_t addr)
{
    unsigned reg = bar_register(i);
    put_le32(&dev->config[reg], (uint32_t)addr | dev->bar[i].flags);
    if (bar_is_64(&dev->bar[i]))
        put_le32(&dev->config[reg + 4], (uint32_t)(addr >> 32));
}

static void log_misfit(struct plan *plan, const struct pci_dev *dev, unsigned i)
{
    const struct window *w = window_of(plan, &dev->bar[i]);
    log_error(dev->name,
              "cannot place BAR %u of %llu KiB: the %s window of %llu KiB has %llu KiB left, "
              "none of it so large and aligned; pass fewer devices",
              i, (unsigned long long)(dev->bar[i].size / KIB), w->name,
              (unsigned long long)(w->size / KIB), (unsigned long long)(window_left(w) / KIB));
}

/* BAR N of the bus, counted by function. False: there is none, or not of SIZE. */
static bool nth_bar(const struct pci_bus *bus, unsigned n, uint64_t size, struct pci_dev **dev,
                    unsigned *bar)
{
    *dev = bus->dev[n / PCI_BARS];
    *bar = n % PCI_BARS;
    return *dev && (*dev)->bar[*bar].size == size;
}

/* Largest first, in the order of the functions among equals, each at the lowest place that is
 * free: smaller ones fill what the alignment of larger ones leaves. NEED (or NULL) is told what
 * goes above 4 GiB; without it addresses are written down, and misfits complained of. */
static int plan_fill(struct plan *plan, const struct pci_bus *bus, struct pci_mmio64_need *need)
{
    int err = 0;
    for (uint64_t size = PCI_BAR_SIZE_MAX; size; size /= 2) {
        for (unsigned n = 0; n < ARRAY_SIZE(bus->dev) * PCI_BARS; n++) {
            struct pci_dev *dev;
            unsigned i;
            uint64_t addr = 0;
            if (!nth_bar(bus, n, size, &dev, &i))
                continue;
            const struct window *w = plan_place(plan, &dev->bar[i], &addr);
            if (need && w == &plan->mmio64) {
                if (!need->dev)
                    *need = (struct pci_mmio64_need){.dev = dev, .bar = i};
                need->end = MAX(need->end, addr + MAX(size, w->grain));
            } else if (!need) {
                bar_store(dev, i, addr);
            }
            if (w)
                continue;
            err = -ENOSPC;
            if (!need)
                log_misfit(plan, dev, i);
        }
    }
    return err;
}

int pci_bus_assign(struct pci_bus *bus)
{
    struct plan plan;
    plan_init(&plan, bus->mmio64_base, bus->mmio64_size);
    pthread_mutex_lock(&bus->lock);
    int err = plan_fill(&plan, bus, NULL);
    pthread_mutex_unlock(&bus->lock);
    return err;
}

static void find_need(const struct pci_bus *bus, uint64_t base, struct pci_mmio64_need *need)
{
    struct plan plan;
    *need = (struct pci_mmio64_need){0};
    plan_init(&plan, base, UINT64_MAX - base);
    plan_fill(&plan, bus, need);
}

/*
 * The window begins at BASE even where the first BAR does not, and has room behind the last for
 * one more of the largest, where LIMIT allows it: a guest that places BARs itself (Linux with
 * pci=realloc or pci=resource_alignment=) may put others into it than we did, and a BAR into
 * its new place before the old one is free.
 */
int pci_bus_set_mmio64(struct pci_bus *bus, uint64_t base, uint64_t limit,
                       struct pci_mmio64_need *need)
{
    base = align_up(MAX(base, LAYOUT_HIGH_RAM), GIB); /* for huge pages, in RAM as well */
    find_need(bus, base, need);
    if (need->end > LAYOUT_HT && base < LAYOUT_HT_END) {
        base = LAYOUT_HT_END;
        find_need(bus, base, need);
    }
    bus->mmio64_base = bus->mmio64_size = 0;
    if (!need->dev)
        return 0;
    if (need->end > limit)
        return -ENOSPC;
    if (base < LAYOUT_HT)
        limit = MIN(limit, LAYOUT_HT);
    uint64_t room = need->dev->bar[need->bar].size;
    bus->mmio64_base = base;
    bus->mmio64_size = MIN(align_up(need->end, GIB) + room, limit) - base;
    return 0;
}

uint32_t pci_intx_gsi(uint8_t devfn, uint8_t pin)
{
    return LAYOUT_GSI_PCI + ((devfn >> 3) + pin - 1U) % LAYOUT_GSI_PCI_COUNT;
}
