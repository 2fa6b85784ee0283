/*
 * pci_host_test.c: devices/pci_host.c as a CPU sees it: port and memory accesses on the buses.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "devices/pci.h"
#include "tests/unit/device_test.h"
#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/util.h"

#define BRIDGE_ID    0x0e008086U
#define CF8          0xcf8
#define CFC          0xcfc
#define CONF1(fn, r) (0x80000000U | (unsigned)(fn) << 8 | (r))

struct rig {
    struct bus pio, mmio;
    struct pci_bus bus;
    struct pci_dev dev; /* at 00:03.1; 0x40.. is memory */
};

static const struct pci_dev_ops dev_ops = {.config_read = pci_config_read,
                                           .config_write = pci_config_write};

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof(*r));

    cr_assert(r);
    cr_assert_eq(bus_init(&r->pio), 0);
    cr_assert_eq(bus_init(&r->mmio), 0);
    cr_assert_eq(pci_bus_init(&r->bus, &r->pio, &r->mmio), 0);
    pci_dev_init(&r->dev, &dev_ops, "dev");
    pci_dev_set_id(&r->dev, 0x1234, 0x5678, 0x02000000);
    memset(r->dev.wmask + 0x40, 0xff, PCI_CONFIG_SIZE - 0x40);
    cr_assert_eq(pci_bus_add(&r->bus, &r->dev, PCI_DEVFN(3, 1)), 0);
    return r;
}

static void rig_free(struct rig *r)
{
    pci_bus_remove(&r->bus, &r->dev);
    pci_bus_fini(&r->bus);
    cr_assert_eq(r->pio.nr + r->mmio.nr, 0);
    bus_fini(&r->pio);
    bus_fini(&r->mmio);
    free(r);
}

static uint32_t in(struct rig *r, uint16_t port, unsigned size)
{
    uint8_t data[8] = {0};

    bus_read(&r->pio, port, data, size);
    return (uint32_t)get_le(data, size);
}

static void out(struct rig *r, uint16_t port, unsigned size, uint32_t value)
{
    bus_write(&r->pio, port, &value, size);
}

static uint64_t ecam_read(struct rig *r, uint64_t offset, unsigned size)
{
    uint8_t data[8] = {0};

    bus_read(&r->mmio, LAYOUT_ECAM + offset, data, size);
    return get_le(data, size);
}

static void ecam_write(struct rig *r, uint64_t offset, unsigned size, uint64_t value)
{
    bus_write(&r->mmio, LAYOUT_ECAM + offset, &value, size);
}

static uint64_t ecam(unsigned bus, unsigned devfn, unsigned reg)
{
    return (uint64_t)bus << 20 | devfn << 12 | reg;
}

Test(pci_host, bridge_looks_like_one)
{
    struct rig *r = rig_new();

    out(r, CF8, 4, CONF1(0, 0));
    cr_expect_eq(in(r, CFC, 4), BRIDGE_ID);
    out(r, CF8, 4, CONF1(0, PCI_CLASS_REVISION));
    cr_expect_eq(in(r, CFC, 4) >> 8, 0x060000);
    cr_expect_eq(ecam_read(r, PCI_HEADER_TYPE, 1), 0);
    pci_bus_set_host_bridge(&r->bus, 0x0d57);
    cr_expect_eq(ecam_read(r, PCI_VENDOR_ID, 4), 0x0d578086);
    cr_expect_eq(ecam_read(r, PCI_CLASS_REVISION, 4) >> 8, 0x060000);
    pci_bus_set_host_bridge(&r->bus, 0);
    cr_expect_eq(ecam_read(r, PCI_VENDOR_ID, 4), BRIDGE_ID);
    rig_free(r);
}

Test(pci_host, latch)
{
    struct rig *r = rig_new();

    cr_expect_eq(in(r, CF8, 4), 0);
    /* As Linux probes for mechanism 1. */
    out(r, 0xcfb, 1, 1);
    cr_expect_eq(in(r, CF8, 4), 0, "a byte does not reach the latch");
    out(r, CF8, 4, 0x80000000);
    cr_expect_eq(in(r, CF8, 4), 0x80000000);
    out(r, CF8, 2, 0x1234);
    out(r, CF8, 1, 0x12);
    out(r, 0xcfa, 2, 0x1234);
    cr_expect_eq(in(r, CF8, 4), 0x80000000);
    cr_expect_eq(in(r, CF8, 1), 0xff);
    cr_expect_eq(in(r, CF8, 2), 0xffff);
    cr_expect_eq(in(r, 0xcfa, 2), 0xffff);
    cr_expect_eq(in(r, 0xcfb, 1), 0xff);
    rig_free(r);
}

Test(pci_host, data_port_widths)
{
    struct rig *r = rig_new();

    out(r, CF8, 4, CONF1(PCI_DEVFN(3, 1), 0));
    cr_expect_eq(in(r, CFC, 4), 0x56781234);
    cr_expect_eq(in(r, CFC, 2), 0x1234);
    cr_expect_eq(in(r, CFC + 2, 2), 0x5678);
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(in(r, (uint16_t)(CFC + i), 1), 0x56781234U >> 8 * i & 0xff);
    cr_expect_eq(in(r, CFC + 1, 2), 0x7812, "unaligned");
    out(r, CF8, 4, CONF1(PCI_DEVFN(3, 1), 0x43)); /* the low two bits are not part of it */
    out(r, CFC, 4, 0x44332211);
    out(r, CFC + 3, 1, 0x55);
    out(r, CFC + 1, 2, 0x7766);
    cr_expect_eq(get_le32(&r->dev.config[0x40]), 0x55776611);
    cr_expect_eq(in(r, CFC, 4), 0x55776611);
    out(r, CF8, 4, CONF1(PCI_DEVFN(3, 1), 0x48));
    cr_expect_eq(get_le32(&r->dev.config[0x44]), 0, "the latch is not data");
    rig_free(r);
}

Test(pci_host, enable_bit)
{
    struct rig *r = rig_new();

    out(r, CF8, 4, CONF1(PCI_DEVFN(3, 1), 0x40) & ~0x80000000U);
    out(r, CFC, 4, 0x44332211);
    cr_expect_eq(get_le32(&r->dev.config[0x40]), 0);
    cr_expect_eq(in(r, CFC, 4), UINT32_MAX);
    cr_expect_eq(in(r, CFC, 1), 0xff);
    rig_free(r);
}

Test(pci_host, other_buses_are_empty)
{
    struct rig *r = rig_new();

    out(r, CF8, 4, CONF1(1 << 8 | PCI_DEVFN(3, 1), 0));
    cr_expect_eq(in(r, CFC, 4), UINT32_MAX);
    cr_expect_eq(ecam_read(r, ecam(1, PCI_DEVFN(3, 1), 0), 4), UINT32_MAX);
    cr_expect_eq(ecam_read(r, ecam(255, 255, 0xffc), 4), UINT32_MAX);
    rig_free(r);
}

Test(pci_host, ecam_reaches_all_of_a_function)
{
    struct rig *r = rig_new();
    unsigned fn = PCI_DEVFN(3, 1);

    cr_expect_eq(ecam_read(r, ecam(0, fn, 0), 4), 0x56781234);
    ecam_write(r, ecam(0, fn, 0xffc), 4, 0x11223344);
    cr_expect_eq(get_le32(&r->dev.config[0xffc]), 0x11223344);
    cr_expect_eq(ecam_read(r, ecam(0, fn, 0xffe), 2), 0x1122);
    ecam_write(r, ecam(0, fn, 0x101), 1, 0xaa);
    cr_expect_eq(r->dev.config[0x101], 0xaa);
    rig_free(r);
}

Test(pci_host, ecam_splits_wide_and_crossing_accesses)
{
    struct rig *r = rig_new();
    unsigned fn = PCI_DEVFN(3, 1);

    ecam_write(r, ecam(0, fn, 0x40), 8, 0x8877665544332211ULL);
    cr_expect_eq(get_le64(&r->dev.config[0x40]), 0x8877665544332211ULL);
    cr_expect_eq(ecam_read(r, ecam(0, fn, 0x40), 8), 0x8877665544332211ULL);
    cr_expect_eq(ecam_read(r, ecam(0, fn, 0x41), 4), 0x55443322);
    /* Across the end of the function: the rest is nowhere, not in the next one. */
    ecam_write(r, ecam(0, PCI_DEVFN(3, 0), 0xffe), 4, 0);
    ecam_write(r, ecam(0, fn, 0xffc), 8, 0x8877665544332211ULL);
    cr_expect_eq(ecam_read(r, ecam(0, fn, 0xffc), 8), 0xffffffff44332211ULL);
    cr_expect_eq(ecam_read(r, ecam(0, PCI_DEVFN(3, 0), 0xffe), 4), UINT32_MAX);
    rig_free(r);
}

Test(pci_host, reset_control_resets_on_the_rising_edge)
{
    struct rig *r = rig_new();
    struct test_power power = {0};

    r->bus.power = test_power(&power);
    out(r, 0xcf9, 1, 0x02);
    cr_expect_eq(in(r, 0xcf9, 1), 0x02);
    out(r, 0xcf9, 1, 0xf1);
    cr_expect_eq(in(r, 0xcf9, 1), 0, "only three bits exist");
    out(r, 0xcf9, 1, 0x08);
    cr_expect_eq(power.resets, 0);
    out(r, 0xcf9, 1, 0x06);
    cr_expect_eq(power.resets, 1);
    cr_expect_eq(in(r, 0xcf9, 1), 0, "after the reset, a new edge is possible");
    out(r, 0xcf9, 1, 0x0e);
    cr_expect_eq(power.resets, 2);

    out(r, 0xcf9, 1, 0x0a);
    out(r, CF8, 4, 0x80000600); /* the latch's second byte is none of it */
    out(r, 0xcf9, 2, 6);
    out(r, 0xcf8, 2, 0x600);
    cr_expect_eq(in(r, 0xcf9, 2), 0xffff);
    cr_expect_eq(in(r, CF8, 4), 0x80000600);
    cr_expect_eq(in(r, 0xcf9, 1), 0x0a);
    cr_expect_eq(power.resets, 2);
    rig_free(r);
}

Test(pci_host, init_undoes_what_it_did)
{
    const struct bus_ops none = {NULL, NULL};
    struct bus pio, mmio;
    struct pci_bus *bus = calloc(1, sizeof(*bus));

    cr_assert(bus);
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(bus_init(&mmio), 0);
    cr_assert_eq(bus_add(&mmio, &(struct bus_range){LAYOUT_ECAM, 1, &none, NULL, "x"}), 0);
    cr_expect_eq(pci_bus_init(bus, &pio, &mmio), -EEXIST);
    cr_expect_eq(pio.nr, 0);
    bus_remove(&mmio, LAYOUT_ECAM);
    cr_assert_eq(bus_add(&pio, &(struct bus_range){CFC, 1, &none, NULL, "x"}), 0);
    cr_expect_eq(pci_bus_init(bus, &pio, &mmio), -EEXIST);
    cr_expect_eq(mmio.nr, 0);
    bus_fini(&pio);
    bus_fini(&mmio);
    free(bus);
}
