/*
 * pci_test.c: devices/pci.c with functions that put their BARs on a real pair of buses.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "devices/pci.h"
#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define IO   PCI_BASE_ADDRESS_SPACE_IO
#define WIDE PCI_BASE_ADDRESS_MEM_TYPE_64
#define PREF PCI_BASE_ADDRESS_MEM_PREFETCH
#define MEM  0
#define ON   (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)
#define RAM  0x80000000ULL /* what the test devices call RAM: maps there are refused */
#define HIGH 0x4000000000ULL
#define BAR0 PCI_BASE_ADDRESS_0
#define BAR1 PCI_BASE_ADDRESS_1
#define BAR2 PCI_BASE_ADDRESS_2
#define FREE 0xd0000000U

struct fn {
    struct pci_dev dev;
    unsigned maps, unmaps;
    uint64_t where[PCI_BARS];
    int fail;
};

struct rig {
    struct bus pio, mmio;
    struct pci_bus bus;
    struct fn fn[8];
};

static uint64_t nothing_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque, (void)offset, (void)size;
    return 0;
}

static void nothing_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)opaque, (void)offset, (void)size, (void)value;
}

static const struct bus_ops nothing = {.read = nothing_read, .write = nothing_write};

static struct bus *space(struct pci_dev *dev, unsigned bar)
{
    return dev->bar[bar].flags & IO ? dev->bus->pio : dev->bus->mmio;
}

static int fn_map(struct pci_dev *dev, unsigned bar, uint64_t addr)
{
    struct fn *fn = container_of(dev, struct fn, dev);
    const struct bus_range range = {addr, dev->bar[bar].size, &nothing, fn, dev->name};

    cr_assert_eq(addr % dev->bar[bar].size, 0, "BAR %u at 0x%llx", bar,
                 (unsigned long long)addr);
    fn->maps++;
    if (fn->fail)
        return fn->fail;
    if (!(dev->bar[bar].flags & IO) && addr < RAM)
        return -EEXIST;
    fn->where[bar] = addr;
    return bus_add(space(dev, bar), &range);
}

static void fn_unmap(struct pci_dev *dev, unsigned bar)
{
    struct fn *fn = container_of(dev, struct fn, dev);

    fn->unmaps++;
    bus_remove(space(dev, bar), fn->where[bar]);
}

static const struct pci_dev_ops fn_ops = {.config_read = pci_config_read,
                                          .config_write = pci_config_write,
                                          .bar_map = fn_map,
                                          .bar_unmap = fn_unmap};

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));

    cr_assert(r);
    log_set_level(LOG_ERROR);
    cr_assert_eq(bus_init(&r->pio), 0);
    cr_assert_eq(bus_init(&r->mmio), 0);
    cr_assert_eq(pci_bus_init(&r->bus, &r->pio, &r->mmio), 0);
    r->bus.mmio64_base = HIGH;
    r->bus.mmio64_size = HIGH;
    return r;
}

static struct pci_dev *add(struct rig *r, unsigned n, uint8_t devfn)
{
    struct pci_dev *dev = &r->fn[n].dev;

    pci_dev_init(dev, &fn_ops, "fn");
    pci_dev_set_id(dev, 0x1234, (uint16_t)(0x1000 + n), 0x03000001);
    cr_assert_eq(pci_bus_add(&r->bus, dev, devfn), 0);
    return dev;
}

static void rig_free(struct rig *r)
{
    for (unsigned i = 0; i < ARRAY_SIZE(r->fn); i++)
        if (r->fn[i].dev.bus)
            pci_bus_remove(&r->bus, &r->fn[i].dev);
    pci_bus_fini(&r->bus);
    cr_assert_eq(r->mmio.nr, 0);
    cr_assert_eq(r->pio.nr, 0);
    bus_fini(&r->pio);
    bus_fini(&r->mmio);
    free(r);
}

static void wr(struct rig *r, const struct pci_dev *dev, unsigned offset, uint32_t value)
{
    pci_bus_config_write(&r->bus, dev->devfn, offset, 4, value);
}

static uint32_t rd(struct rig *r, const struct pci_dev *dev, unsigned offset)
{
    return (uint32_t)pci_bus_config_read(&r->bus, dev->devfn, offset, 4);
}

static void command(struct rig *r, const struct pci_dev *dev, uint16_t value)
{
    pci_bus_config_write(&r->bus, dev->devfn, PCI_COMMAND, 2, value);
}

static bool mapped_at(const struct pci_dev *dev, unsigned bar, uint64_t addr)
{
    return dev->bar[bar].mapped && dev->bar[bar].addr == addr;
}

/* ---- construction ---- */

Test(pci, bars_that_pci_allows)
{
    static const struct {
        unsigned bar;
        uint64_t size;
        uint32_t flags;
        int err;
    } cases[] = {
        {0, 16, MEM, 0},
        {0, 8, MEM, -EINVAL},
        {0, 0, MEM, -EINVAL},
        {0, 0x3000, MEM, -EINVAL},
        {0, 2 * GIB, MEM, 0},
        {0, 4 * GIB, MEM, -EINVAL},
        {0, 4 * GIB, WIDE | PREF, 0},
        {0, 1ULL << 51, WIDE, 0},
        {0, 1ULL << 52, WIDE, -EINVAL},
        {0, 1ULL << 63, WIDE, -EINVAL},
        {4, 4 * GIB, WIDE, 0},
        {5, 4 * KIB, WIDE, -EINVAL},
        {5, 4 * KIB, MEM, 0},
        {0, 4 * KIB, 2, -EINVAL}, /* below 1 MiB: obsolete */
        {0, 4, IO, 0},
        {0, 2, IO, -EINVAL},
        {0, 0x20000, IO, -EINVAL},
        {0, 64, IO | PREF, -EINVAL},
        {6, 2 * KIB, 0, 0},
        {6, 1 * KIB, 0, -EINVAL},
        {6, 16 * MIB, 0, 0},
        {6, 32 * MIB, 0, -EINVAL},
        {6, 4 * KIB, WIDE, -EINVAL},
        {7, 4 * KIB, MEM, -EINVAL},
    };
    struct pci_dev *dev = calloc(1, sizeof(*dev));

    cr_assert(dev);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        pci_dev_init(dev, &fn_ops, "fn");
        cr_expect_eq(pci_dev_set_bar(dev, cases[i].bar, cases[i].size, cases[i].flags),
                     cases[i].err, "case %zu", i);
    }
    free(dev);
}

Test(pci, bars_do_not_share_registers)
{
    struct pci_dev *dev = calloc(1, sizeof(*dev));

    cr_assert(dev);
    pci_dev_init(dev, &fn_ops, "fn");
    cr_expect_eq(pci_dev_set_bar(dev, 1, MIB, WIDE), 0);
    cr_expect_eq(pci_dev_set_bar(dev, 2, MIB, MEM), -EINVAL, "upper half of 1");
    cr_expect_eq(pci_dev_set_bar(dev, 1, MIB, MEM), -EINVAL, "taken");
    cr_expect_eq(pci_dev_set_bar(dev, 0, MIB, WIDE), -EINVAL, "its upper half is 1");
    cr_expect_eq(pci_dev_set_bar(dev, 3, MIB, WIDE), 0, "64-bit at an odd index");
    cr_expect_eq(pci_dev_set_bar(dev, 6, MIB, 0), 0);
    cr_expect_eq(pci_dev_set_bar(dev, 5, MIB, MEM), 0);
    free(dev);
}

Test(pci, capabilities)
{
    struct pci_dev *dev = calloc(1, sizeof(*dev));

    cr_assert(dev);
    pci_dev_init(dev, &fn_ops, "fn");
    cr_expect_not(dev->config[PCI_STATUS] & PCI_STATUS_CAP_LIST);
    int a = pci_dev_add_cap(dev, PCI_CAP_ID_MSIX, 12);
    int b = pci_dev_add_cap(dev, PCI_CAP_ID_VNDR, 13);
    int c = pci_dev_add_cap(dev, PCI_CAP_ID_EXP, 60);
    cr_assert(a == 0x40 && b == 0x4c && c == 0x5c);
    unsigned pos = dev->config[PCI_CAPABILITY_LIST], seen = 0;
    for (; pos; pos = dev->config[pos + 1])
        seen |= 1U << dev->config[pos];
    cr_expect_eq(seen, 1U << PCI_CAP_ID_MSIX | 1U << PCI_CAP_ID_VNDR | 1U << PCI_CAP_ID_EXP);
    cr_expect(dev->config[PCI_STATUS] & PCI_STATUS_CAP_LIST);
    cr_expect_eq(pci_dev_add_cap(dev, 1, 0x69), -ENOSPC);
    cr_expect_eq(pci_dev_add_cap(dev, 1, 0x68), 0x98, "to the last byte");
    cr_expect_eq(pci_dev_add_cap(dev, 1, 2), -ENOSPC);
    free(dev);
}

/* ---- configuration access ---- */

Test(pci, header_bits_that_can_be_written)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i += 4)
        wr(r, dev, i, UINT32_MAX);
    cr_expect_eq(rd(r, dev, PCI_VENDOR_ID), 0x10001234);
    cr_expect_eq(rd(r, dev, PCI_CLASS_REVISION), 0x03000001);
    cr_expect_eq(rd(r, dev, PCI_COMMAND), 0x0547);
    cr_expect_eq(rd(r, dev, PCI_CACHE_LINE_SIZE), 0xff);
    cr_expect_eq(rd(r, dev, PCI_INTERRUPT_LINE), 0xff);
    cr_expect_eq(rd(r, dev, BAR0), 0, "no BAR");
    cr_expect_eq(rd(r, dev, PCI_ROM_ADDRESS), 0);
    cr_expect_eq(rd(r, dev, 0x100), 0);
    rig_free(r);
}

Test(pci, absent_functions_and_buses)
{
    struct rig *r = rig_new();

    cr_expect_eq(pci_bus_config_read(&r->bus, PCI_DEVFN(5, 0), 0, 4), UINT32_MAX);
    cr_expect_eq(pci_bus_config_read(&r->bus, 0x100, 0, 4), UINT32_MAX, "bus 1");
    cr_expect_eq(pci_bus_config_read(&r->bus, 0xffff, 0, 2), 0xffff);
    cr_expect_eq(pci_bus_config_read(&r->bus, UINT32_MAX, 0, 1), 0xff);
    pci_bus_config_write(&r->bus, 0xffff, 0, 4, 0);
    rig_free(r);
}

static uint32_t odd_read(struct pci_dev *dev, unsigned offset, unsigned size)
{
    cr_assert(size == 1 || size == 2 || size == 4);
    cr_assert(offset % size == 0 && offset + size <= PCI_CONFIG_SIZE);
    (void)dev;
    return 0xdeadbe00U + offset; /* more bits than asked for */
}

static void odd_write(struct pci_dev *dev, unsigned offset, unsigned size, uint32_t value)
{
    cr_assert(size == 1 || size == 2 || size == 4);
    cr_assert(offset % size == 0 && offset + size <= PCI_CONFIG_SIZE);
    cr_assert(value <= all_ones(size));
    put_le(&dev->config[offset], size, value);
}

Test(pci, accesses_are_split_to_aligned_ones)
{
    static const struct pci_dev_ops ops = {.config_read = odd_read, .config_write = odd_write};
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    dev->ops = &ops;
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0x40, 4), 0xdeadbe40);
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0x41, 4), 0x44be4241);
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0x42, 4), 0xbe44be42);
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0x43, 2), 0x4443);
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0xffe, 4), 0xffffcdfe);
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0x1000, 4), UINT32_MAX);
    cr_expect_eq(pci_bus_config_read(&r->bus, 8, 0x40, 64), 0xdeadbe44deadbe40);
    pci_bus_config_write(&r->bus, 8, 0x51, 4, 0x44332211);
    cr_expect_eq(get_le32(&dev->config[0x51]), 0x44332211);
    pci_bus_config_write(&r->bus, 8, 0xffe, 4, 0x44332211);
    pci_bus_config_write(&r->bus, 8, 0x1000, 4, 0x44332211);
    pci_bus_config_write(&r->bus, 8, 0x40, 64, 0x8877665544332211);
    cr_expect_eq(get_le64(&dev->config[0x40]), 0x8877665544332211);
    cr_expect_eq(get_le16(&dev->config[0xffe]), 0x2211);
    dev->ops = &fn_ops;
    rig_free(r);
}

Test(pci, multi_function_bit_follows_the_slot)
{
    struct rig *r = rig_new();
    struct pci_dev *f0 = add(r, 0, PCI_DEVFN(4, 0)), *f2;

    f0->config[PCI_HEADER_TYPE] = 0x80; /* as on the card it came from */
    cr_expect_eq(pci_bus_config_read(&r->bus, f0->devfn, PCI_HEADER_TYPE, 1), 0, "alone");
    add(r, 1, PCI_DEVFN(5, 1));
    cr_expect_eq(pci_bus_config_read(&r->bus, f0->devfn, PCI_HEADER_TYPE, 1), 0);
    f2 = add(r, 2, PCI_DEVFN(4, 2));
    cr_expect_eq(pci_bus_config_read(&r->bus, f0->devfn, PCI_HEADER_TYPE, 1), 0x80);
    cr_expect_eq(pci_bus_config_read(&r->bus, f0->devfn, PCI_HEADER_TYPE, 2), 0x80);
    cr_expect_eq(rd(r, f0, PCI_CACHE_LINE_SIZE), 0x800000);
    pci_bus_remove(&r->bus, f2);
    cr_expect_eq(rd(r, f0, PCI_CACHE_LINE_SIZE), 0);
    rig_free(r);
}

Test(pci, slots)
{
    struct rig *r = rig_new();
    struct pci_dev *more = calloc(PCI_SLOTS, sizeof(*more));

    cr_assert(more);
    add(r, 0, PCI_DEVFN(1, 7));
    for (unsigned i = 2; i < PCI_SLOTS; i++) {
        pci_dev_init(&more[i], &fn_ops, "fn");
        cr_expect_eq(pci_bus_add(&r->bus, &more[i], PCI_DEVFN(i, 0)), 0);
    }
    cr_expect_eq(pci_bus_add(&r->bus, &more[1], PCI_DEVFN(1, 7)), -EEXIST);
    cr_expect_eq(r->bus.dev[PCI_DEVFN(1, 7)], &r->fn[0].dev);
    for (unsigned i = 2; i < PCI_SLOTS; i++)
        pci_bus_remove(&r->bus, &more[i]);
    rig_free(r);
    free(more);
}

/* ---- BARs ---- */

Test(pci, sizing)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, PREF), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, 16 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 3, 32, IO), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 6, 64 * KIB, 0), 0);
    for (unsigned reg = BAR0; reg <= PCI_BASE_ADDRESS_5; reg += 4)
        wr(r, dev, reg, UINT32_MAX);
    wr(r, dev, PCI_ROM_ADDRESS, 0xfffff800);
    cr_expect_eq(rd(r, dev, BAR0), 0xfff00008);
    cr_expect_eq(rd(r, dev, BAR1), 0x0000000c);
    cr_expect_eq(rd(r, dev, BAR2), 0xfffffffc);
    cr_expect_eq(rd(r, dev, PCI_BASE_ADDRESS_3), 0xffffffe1);
    cr_expect_eq(rd(r, dev, PCI_BASE_ADDRESS_4), 0);
    cr_expect_eq(rd(r, dev, PCI_ROM_ADDRESS), 0xffff0000);
    cr_expect_eq(pci_bar_value(dev, 1), 0xfffffffc00000000ULL);
    cr_expect_eq(r->fn[0].maps, 0);
    rig_free(r);
}

/* The guest leaves decoding on while it sizes: nothing may be mapped at the sizes. */
Test(pci, sizing_with_decoding_on)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));
    static const unsigned order[][2] = {{0, 4}, {4, 0}};

    cr_assert_eq(pci_dev_set_bar(dev, 0, 16 * MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, 256 * MIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 3, 64 * KIB, WIDE), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 5, 64, IO), 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    command(r, dev, ON);
    cr_assert_eq(r->fn[0].maps, 4);
    for (size_t i = 0; i < 2; i++) {
        static const unsigned regs[] = {BAR1, PCI_BASE_ADDRESS_3};
        for (size_t j = 0; j < 2; j++) {
            uint32_t low = rd(r, dev, regs[j]), high = rd(r, dev, regs[j] + 4);
            wr(r, dev, regs[j] + order[i][0], UINT32_MAX);
            wr(r, dev, regs[j] + order[i][1], UINT32_MAX);
            cr_expect_not(dev->bar[1 + 2 * j].mapped);
            wr(r, dev, regs[j] + order[i][0], order[i][0] ? high : low);
            wr(r, dev, regs[j] + order[i][1], order[i][1] ? high : low);
            cr_expect(
                mapped_at(dev, (unsigned)(1 + 2 * j), (uint64_t)high << 32 | (low & ~15U)));
        }
    }
    static const unsigned narrow[] = {0, 5};
    for (size_t j = 0; j < 2; j++) {
        unsigned maps = r->fn[0].maps;
        uint32_t old = rd(r, dev, BAR0 + 4 * narrow[j]);
        wr(r, dev, BAR0 + 4 * narrow[j], UINT32_MAX);
        cr_expect_not(dev->bar[narrow[j]].mapped);
        cr_expect_eq(r->fn[0].maps, maps);
        wr(r, dev, BAR0 + 4 * narrow[j], old);
        cr_expect(dev->bar[narrow[j]].mapped);
    }
    rig_free(r);
}

Test(pci, command_gates_decoding)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, 64, IO), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 6, MIB, 0), 0);
    wr(r, dev, BAR0, FREE);
    wr(r, dev, BAR1, 0xd000);
    wr(r, dev, PCI_ROM_ADDRESS, FREE + MIB);
    cr_expect_eq(r->fn[0].maps, 0);
    command(r, dev, PCI_COMMAND_IO);
    cr_expect(mapped_at(dev, 1, 0xd000) && !dev->bar[0].mapped);
    command(r, dev, PCI_COMMAND_MEMORY);
    cr_expect(mapped_at(dev, 0, FREE) && !dev->bar[1].mapped && !dev->bar[6].mapped);
    wr(r, dev, PCI_ROM_ADDRESS, (FREE + MIB) | PCI_ROM_ADDRESS_ENABLE);
    cr_expect(mapped_at(dev, 6, FREE + MIB));
    pci_bus_config_write(&r->bus, dev->devfn, PCI_COMMAND + 1, 1, 4);
    cr_expect_eq(r->fn[0].unmaps, 1, "a byte beside it changes nothing");
    pci_bus_config_write(&r->bus, dev->devfn, PCI_COMMAND, 1, 0);
    cr_expect(!dev->bar[0].mapped && !dev->bar[6].mapped, "a byte is enough");
    command(r, dev, ON);
    unsigned maps = r->fn[0].maps;
    wr(r, dev, 0x2c, 0x12345678); /* nothing to do with decoding */
    command(r, dev, ON);
    cr_expect(r->fn[0].maps == maps, "no churn");
    rig_free(r);
}

Test(pci, insane_addresses_stay_unmapped)
{
    static const struct {
        unsigned bar;
        uint64_t addr;
        bool mapped;
    } cases[] = {
        {0, 0, false},
        {0, FREE, true},
        {0, 0xfeb00000, true},     /* last MiB below the IOAPIC */
        {0, LAYOUT_IOAPIC, false}, /* and on it */
        {0, LAYOUT_LAPIC, false},
        {0, 0xfff00000, false},  /* all ones */
        {0, LAYOUT_ECAM, false}, /* on the bus already */
        {0, 0x100000, false},    /* RAM */
        {1, 0x80000000, false},  /* 2 GiB up to 4 GiB, over everything */
        {1, 0x100000000, true},
        {1, HIGH, true},
        {1, (1ULL << 52) - 2 * GIB, true},
        {1, 1ULL << 52, false},
        {1, 1ULL << 63, false},
        {1, 0xffffffff80000000ULL, false},
        {3, 0, false},
        {3, 0x100, true},
        {3, 0xff00, true},
        {3, 0x10000, false},
        {3, 0xffffff00, false},
        {3, 0xc00, false}, /* 0xcf8 is in it */
    };
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, 2 * GIB, WIDE), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 3, 256, IO), 0);
    command(r, dev, ON);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned bar = cases[i].bar;
        wr(r, dev, BAR0 + 4 * bar, (uint32_t)cases[i].addr);
        if (bar == 1)
            wr(r, dev, BAR2, (uint32_t)(cases[i].addr >> 32));
        cr_expect_eq(pci_bar_value(dev, bar), cases[i].addr, "case %zu", i);
        cr_expect_eq(dev->bar[bar].mapped, cases[i].mapped, "case %zu", i);
        cr_expect(!dev->bar[bar].mapped || dev->bar[bar].addr == cases[i].addr, "case %zu", i);
    }
    rig_free(r);
}

Test(pci, two_step_move_of_a_64_bit_bar)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 3, GIB, WIDE), 0);
    wr(r, dev, PCI_BASE_ADDRESS_3, 0xc0000000);
    wr(r, dev, PCI_BASE_ADDRESS_4, 0x20);
    command(r, dev, ON);
    cr_expect(mapped_at(dev, 3, 0x20c0000000ULL));
    wr(r, dev, PCI_BASE_ADDRESS_4, 0); /* half way: over everything below 4 GiB */
    cr_expect_not(dev->bar[3].mapped);
    wr(r, dev, PCI_BASE_ADDRESS_3, 0x40000000); /* RAM */
    cr_expect_not(dev->bar[3].mapped);
    wr(r, dev, PCI_BASE_ADDRESS_4, 0x30);
    cr_expect(mapped_at(dev, 3, 0x3040000000ULL));
    cr_expect_eq(r->mmio.nr, 2, "nothing is left behind");
    rig_free(r);
}

Test(pci, colliding_bars)
{
    struct rig *r = rig_new();
    struct pci_dev *a = add(r, 0, PCI_DEVFN(1, 0)), *b = add(r, 1, PCI_DEVFN(2, 0));

    cr_assert_eq(pci_dev_set_bar(a, 0, MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(b, 0, MIB, MEM), 0);
    wr(r, a, BAR0, FREE);
    wr(r, b, BAR0, FREE + MIB);
    command(r, a, ON);
    command(r, b, ON);
    wr(r, b, BAR0, FREE);
    cr_expect(mapped_at(a, 0, FREE) && !b->bar[0].mapped, "the first one stays");
    wr(r, a, BAR0, FREE + MIB);
    cr_expect(mapped_at(a, 0, FREE + MIB) && mapped_at(b, 0, FREE), "tried again");
    wr(r, b, BAR0, FREE + MIB);
    pci_bus_remove(&r->bus, a);
    cr_expect(mapped_at(b, 0, FREE + MIB), "also when a function leaves");
    rig_free(r);
}

/* Two BARs that change places in one go: with decoding off, or through a function that writes
 * its registers itself. */
Test(pci, swap)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, MIB, MEM), 0);
    wr(r, dev, BAR0, FREE);
    wr(r, dev, BAR1, FREE + MIB);
    command(r, dev, ON);
    put_le32(&dev->config[BAR0], FREE + MIB);
    put_le32(&dev->config[BAR1], FREE);
    pci_bus_update(&r->bus);
    cr_expect(mapped_at(dev, 0, FREE + MIB) && mapped_at(dev, 1, FREE));
    wr(r, dev, BAR0, FREE);
    cr_expect_not(dev->bar[0].mapped, "with decoding on, one after the other");
    wr(r, dev, BAR1, FREE + MIB);
    cr_expect(mapped_at(dev, 0, FREE) && mapped_at(dev, 1, FREE + MIB));
    rig_free(r);
}

Test(pci, refusal_is_logged_within_bounds)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));
    FILE *file = tmpfile();
    int saved = dup(2);
    unsigned lines = 0;

    cr_assert(file);
    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, MEM), 0);
    wr(r, dev, BAR0, FREE);
    r->fn[0].fail = -ENOMEM;
    log_set_level(LOG_NOTE);
    dup2(fileno(file), 2);
    for (int i = 0; i < 1000; i++)
        command(r, dev, ON);
    dup2(saved, 2);
    close(saved);
    rewind(file);
    for (int c; (c = fgetc(file)) != EOF;)
        lines += c == '\n';
    cr_expect_eq(lines, 16);
    fclose(file);
    cr_expect_eq(r->fn[0].unmaps, 0);
    r->fn[0].fail = 0;
    command(r, dev, ON);
    cr_expect(mapped_at(dev, 0, FREE));
    rig_free(r);
}

Test(pci, reset_is_power_on)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 6, MIB, 0), 0);
    wr(r, dev, BAR0, FREE);
    wr(r, dev, PCI_ROM_ADDRESS, (FREE + MIB) | 1);
    command(r, dev, ON);
    wr(r, dev, PCI_INTERRUPT_LINE, 11);
    r->bus.config_address = 0x80000000;
    pci_bus_reset(&r->bus);
    cr_expect(!dev->bar[0].mapped && !dev->bar[6].mapped);
    cr_expect_eq(rd(r, dev, PCI_COMMAND), 0);
    cr_expect_eq(rd(r, dev, PCI_INTERRUPT_LINE), 0);
    cr_expect_eq(r->bus.config_address, 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    command(r, dev, ON);
    cr_expect(dev->bar[0].mapped && !dev->bar[6].mapped, "the ROM is off again");
    rig_free(r);
}

/* ---- assignment ---- */

static bool within(const struct pci_dev *dev, unsigned bar, uint64_t base, uint64_t size)
{
    uint64_t addr = pci_bar_value(dev, bar);

    return addr >= base && addr % dev->bar[bar].size == 0 &&
           range_within(addr - base, dev->bar[bar].size, size);
}

#define IN32(dev, bar) within(dev, bar, LAYOUT_MMIO32, LAYOUT_MMIO32_SIZE)
#define IN64(dev, bar) within(dev, bar, r->bus.mmio64_base, r->bus.mmio64_size)

/* The layouts of a GeForce (64-bit BARs at odd indices, I/O at 5), an NVMe disk, a NIC. */
Test(pci, assign_real_cards)
{
    struct rig *r = rig_new();
    struct pci_dev *gpu = add(r, 0, PCI_DEVFN(1, 0)), *audio = add(r, 1, PCI_DEVFN(1, 1));
    struct pci_dev *nvme = add(r, 2, PCI_DEVFN(2, 0));

    cr_assert_eq(pci_dev_set_bar(gpu, 0, 16 * MIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(gpu, 1, 32 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(gpu, 3, 32 * MIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(gpu, 5, 128, IO), 0);
    cr_assert_eq(pci_dev_set_bar(gpu, 6, 512 * KIB, 0), 0);
    cr_assert_eq(pci_dev_set_bar(audio, 0, 16 * KIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(nvme, 0, 16 * KIB, WIDE), 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    cr_expect(IN32(gpu, 0) && IN64(gpu, 1) && IN64(gpu, 3) && IN32(gpu, 6));
    cr_expect(within(gpu, 5, LAYOUT_PORT_BARS, LAYOUT_PORT_BARS_SIZE));
    cr_expect(IN32(audio, 0) && IN32(nvme, 0));
    cr_expect_eq(rd(r, gpu, BAR1) & 15, WIDE | PREF, "flags stay");
    cr_expect_eq(rd(r, gpu, PCI_BASE_ADDRESS_5) & 3, IO);
    cr_expect_eq(rd(r, gpu, PCI_COMMAND), 0);
    command(r, gpu, ON);
    command(r, audio, ON);
    command(r, nvme, ON);
    cr_expect_eq(r->fn[0].maps + r->fn[1].maps + r->fn[2].maps, 6, "no two overlap");
    cr_expect(gpu->bar[0].mapped && gpu->bar[1].mapped && gpu->bar[3].mapped &&
              gpu->bar[5].mapped && audio->bar[0].mapped && nvme->bar[0].mapped);
    rig_free(r);
}

Test(pci, assign_gives_each_memory_bar_its_pages)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    cr_assert_eq(pci_dev_set_bar(dev, 0, 16, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, 256, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 2, 4, IO), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 3, 4, IO), 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    cr_expect_eq(pci_bar_value(dev, 0) % LAYOUT_PAGE_SIZE, 0);
    cr_expect_eq(pci_bar_value(dev, 1) % LAYOUT_PAGE_SIZE, 0);
    cr_expect_neq(pci_bar_value(dev, 0), pci_bar_value(dev, 1));
    cr_expect_eq(pci_bar_value(dev, 3) - pci_bar_value(dev, 2), 4);
    rig_free(r);
}

Test(pci, assign_overflows_to_64_bit)
{
    struct rig *r = rig_new();
    struct pci_dev *dev[6];
    unsigned low = 0;

    for (unsigned i = 0; i < 6; i++) {
        dev[i] = add(r, i, PCI_DEVFN(i + 1, 0));
        cr_assert_eq(pci_dev_set_bar(dev[i], 0, 128 * MIB, WIDE), 0);
    }
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    for (unsigned i = 0; i < 6; i++) {
        low += IN32(dev[i], 0);
        cr_expect(IN32(dev[i], 0) || IN64(dev[i], 0));
    }
    cr_expect_eq(low, 4);
    rig_free(r);
}

Test(pci, assign_large_bars)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    r->bus.mmio64_base = 5 * GIB; /* no multiple of the BAR's size */
    cr_assert_eq(pci_dev_set_bar(dev, 0, 256 * MIB, WIDE), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 2, 16 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    cr_expect_eq(pci_bar_value(dev, 2), 16 * GIB);
    cr_expect(IN64(dev, 0), "larger than 128 MiB, if not prefetchable");
    rig_free(r);
}

Test(pci, assign_without_a_64_bit_window)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));

    r->bus.mmio64_base = r->bus.mmio64_size = 0;
    cr_assert_eq(pci_dev_set_bar(dev, 0, 256 * MIB, WIDE | PREF), 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    cr_expect(IN32(dev, 0));
    rig_free(r);
}

Test(pci, assign_failure_has_the_figures)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));
    FILE *file = tmpfile();
    int saved = dup(2);
    char text[2048];
    struct pci_mmio64_need need;

    cr_assert(file);
    cr_assert_eq(pci_dev_set_bar(dev, 0, GIB, MEM), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 1, MIB, MEM), 0);
    dup2(fileno(file), 2);
    int err = pci_bus_assign(&r->bus);
    cr_expect_eq(pci_bus_set_mmio64(&r->bus, 0, 1ULL << 40, &need), 0, "only counts");
    dup2(saved, 2);
    close(saved);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    cr_expect_eq(err, -ENOSPC);
    cr_expect(strstr(text, "minivmm: fn: cannot place BAR 0 of 1048576 KiB") &&
                  strstr(text, "32-bit memory window of 524288 KiB"),
              "%s", text);
    cr_expect(text[0] && strchr(text, '\n')[1] == '\0', "one line: %s", text);
    cr_expect_eq(pci_bar_value(dev, 0), 0, "not assigned");
    cr_expect(IN32(dev, 1), "the others are");
    rig_free(r);
}

static uint64_t bar_end(const struct pci_dev *dev, unsigned bar)
{
    return pci_bar_value(dev, bar) + MAX(dev->bar[bar].size, LAYOUT_PAGE_SIZE);
}

/* Whatever the mix: all fit, none overlaps another, the window is right, and a second time all
 * is the same. */
Test(pci, window_is_enough_for_assign)
{
    unsigned seed = 1;

    for (unsigned round = 0; round < 200; round++) {
        struct rig *r = rig_new();
        uint64_t ram = LAYOUT_HIGH_RAM + rand_r(&seed) % 64 * (GIB / 4), end = 0;
        for (unsigned i = 0; i < 8; i++) {
            struct pci_dev *dev = add(r, i, PCI_DEVFN(i + 1, 0));
            for (unsigned bar = 0; bar < 6; bar += 2)
                pci_dev_set_bar(dev, bar, 1ULL << (4 + rand_r(&seed) % 35),
                                WIDE | (rand_r(&seed) & 1 ? PREF : 0));
        }
        struct pci_mmio64_need need;
        cr_assert_eq(pci_bus_set_mmio64(&r->bus, ram, 1ULL << 46, &need), 0);
        cr_assert_eq(r->bus.mmio64_base % GIB, 0);
        cr_assert_geq(r->bus.mmio64_base, ram);
        cr_assert_eq(pci_bus_assign(&r->bus), 0, "round %u", round);
        for (unsigned i = 0; i < 8; i++) {
            struct pci_dev *dev = &r->fn[i].dev;
            command(r, dev, ON); /* would fail where two overlap */
            for (unsigned bar = 0; bar < 6; bar += 2) {
                cr_assert(dev->bar[bar].mapped && (IN32(dev, bar) || IN64(dev, bar)),
                          "round %u", round);
                end = MAX(end, bar_end(dev, bar));
            }
        }
        cr_assert(!need.dev || end == need.end, "round %u", round);
        uint64_t before = pci_bar_value(&r->fn[7].dev, 4);
        pci_bus_reset(&r->bus);
        cr_assert_eq(pci_bus_assign(&r->bus), 0);
        cr_assert_eq(pci_bar_value(&r->fn[7].dev, 4), before, "round %u", round);
        rig_free(r);
    }
}

/* An IOMMU of 39 bits: the largest first from an address that suits it, with all others behind
 * it, would end at 576 GiB. */
Test(pci, small_ones_fill_the_gap_below_the_largest)
{
    struct rig *r = rig_new();
    struct pci_dev *a = add(r, 0, PCI_DEVFN(1, 0)), *b = add(r, 1, PCI_DEVFN(2, 0));
    struct pci_mmio64_need need;

    cr_assert_eq(pci_dev_set_bar(a, 0, 64 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(a, 2, 32 * MIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(b, 0, 256 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(b, 2, 16, WIDE | PREF), 0);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 5 * GIB, 1ULL << 39, &need), 0,
                 "both fit below 512 GiB");
    cr_expect_eq(need.end, 512 * GIB);
    cr_expect(need.dev == b && need.bar == 0, "the largest");
    cr_expect_eq(r->bus.mmio64_base, 5 * GIB);
    cr_expect_eq(r->bus.mmio64_size, 507 * GIB, "no room above the limit");
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    cr_expect_eq(pci_bar_value(b, 0), 256 * GIB);
    cr_expect_eq(pci_bar_value(a, 0), 64 * GIB);
    cr_expect_eq(pci_bar_value(a, 2), 5 * GIB);
    cr_expect_eq(pci_bar_value(b, 2), 5 * GIB + 32 * MIB);
    rig_free(r);
}

/* 1 to 128 GiB, two of each, above 129 GiB of RAM: one of each size goes into the gap below the
 * largest until that is full to the last GiB, the other one behind it. */
Test(pci, every_gap_is_filled)
{
    struct rig *r = rig_new();
    struct pci_mmio64_need need;

    for (unsigned i = 0; i < 8; i++) {
        struct pci_dev *dev = add(r, i, PCI_DEVFN(i + 1, 0));
        cr_assert_eq(pci_dev_set_bar(dev, 0, GIB << i, WIDE | PREF), 0);
        cr_assert_eq(pci_dev_set_bar(dev, 2, GIB << i, WIDE | PREF), 0);
    }
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 129 * GIB, 1ULL << 46, &need), 0);
    cr_assert_eq(pci_bus_assign(&r->bus), 0);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t size = GIB << i;
        uint64_t first = align_up(129 * GIB, size);
        cr_expect_eq(pci_bar_value(&r->fn[i].dev, 0), first, "%u", i);
        cr_expect_eq(pci_bar_value(&r->fn[i].dev, 2),
                     i < 7 ? 640 * GIB - 2 * size : first + size);
    }
    rig_free(r);
}

Test(pci, room_for_one_more_of_the_largest)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));
    struct pci_mmio64_need need;

    cr_assert_eq(pci_dev_set_bar(dev, 0, MIB, WIDE), 0);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 0, 1ULL << 46, &need), 0);
    cr_expect(!need.dev && !need.end && !r->bus.mmio64_size, "it goes below 4 GiB");
    cr_assert_eq(pci_dev_set_bar(dev, 2, 128 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 4, 32 * MIB, WIDE | PREF), 0);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 0, 1ULL << 46, &need), 0);
    cr_expect_eq(need.end, 256 * GIB);
    cr_expect_eq(r->bus.mmio64_base, 4 * GIB);
    cr_expect_eq(r->bus.mmio64_size, 380 * GIB);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 0, 256 * GIB, &need), 0);
    cr_expect_eq(r->bus.mmio64_size, 252 * GIB);
    cr_expect_eq(pci_bus_set_mmio64(&r->bus, 0, 256 * GIB - 1, &need), -ENOSPC);
    cr_expect(need.end == 256 * GIB && need.dev == dev && need.bar == 2);
    cr_expect_eq(r->bus.mmio64_size, 0);
    rig_free(r);
}

/* 0xFD_0000_0000-0xFF_FFFF_FFFF: the window ends below it, or begins above it. */
Test(pci, window_leaves_amds_hole_out)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = add(r, 0, PCI_DEVFN(1, 0));
    struct pci_mmio64_need need;

    cr_assert_eq(pci_dev_set_bar(dev, 0, 256 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_dev_set_bar(dev, 2, 256 * GIB, WIDE | PREF), 0);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 0, 1ULL << 46, &need), 0);
    cr_expect_eq(need.end, 768 * GIB);
    cr_expect_eq(r->bus.mmio64_base + r->bus.mmio64_size, 0xfd00000000);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, 257 * GIB, 1ULL << 46, &need), 0);
    cr_expect_eq(r->bus.mmio64_base, TIB);
    cr_expect_eq(need.end, TIB + 512 * GIB);
    cr_expect_eq(pci_bus_set_mmio64(&r->bus, 257 * GIB, TIB, &need), -ENOSPC);
    cr_assert_eq(pci_bus_set_mmio64(&r->bus, TIB + GIB, 1ULL << 46, &need), 0, "RAM is there");
    cr_expect_eq(r->bus.mmio64_base, TIB + GIB);
    cr_expect_eq(need.end, TIB + 768 * GIB);
    rig_free(r);
}

/* Every function with the largest BARs there are: the sums do not wrap. */
Test(pci, need_does_not_overflow)
{
    struct rig *r = rig_new();
    struct pci_dev *dev = calloc(248, sizeof(*dev));
    struct pci_mmio64_need need;

    cr_assert(dev);
    for (unsigned i = 0; i < 248; i++) {
        pci_dev_init(&dev[i], &fn_ops, "fn");
        for (unsigned bar = 0; bar < 6; bar += 2)
            cr_assert_eq(pci_dev_set_bar(&dev[i], bar, 1ULL << 51, WIDE), 0);
        cr_assert_eq(pci_bus_add(&r->bus, &dev[i], (uint8_t)(8 + i)), 0);
    }
    cr_expect_eq(pci_bus_set_mmio64(&r->bus, 0, 1ULL << 52, &need), -ENOSPC);
    cr_expect_eq(need.end, 745ULL << 51);
    cr_expect_eq(need.dev, &dev[0]);
    for (unsigned i = 0; i < 248; i++)
        pci_bus_remove(&r->bus, &dev[i]);
    rig_free(r);
    free(dev);
}

Test(pci, intx_wiring)
{
    cr_expect_eq(pci_intx_gsi(PCI_DEVFN(0, 0), 1), 16);
    cr_expect_eq(pci_intx_gsi(PCI_DEVFN(1, 0), 1), 17);
    cr_expect_eq(pci_intx_gsi(PCI_DEVFN(1, 3), 2), 18, "the function does not count");
    cr_expect_eq(pci_intx_gsi(PCI_DEVFN(31, 7), 4), 16 + (31 + 3) % 8);
    for (unsigned devfn = 0; devfn < 256; devfn++)
        for (unsigned pin = 0; pin < 256; pin++)
            cr_assert(pci_intx_gsi((uint8_t)devfn, (uint8_t)pin) >= 16 &&
                      pci_intx_gsi((uint8_t)devfn, (uint8_t)pin) < LAYOUT_GSI_COUNT);
}
