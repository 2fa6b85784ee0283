/*
 * vfio_pci_quirk_test.c: NVIDIA's configuration space in BARs, AMD's chips that do not stand a
 * reset.
 */
#include <unistd.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/vfio_pci_world.h"

#define MIRROR (WORLD_BAR0 + 0x88000)
#define LEGACY (WORLD_BAR0 + 0x1800)
#define MSI    0x50

static struct world w;

static void be(uint16_t vendor, uint16_t device, uint16_t class)
{
    put_le16(w.vfio.config + PCI_VENDOR_ID, vendor);
    put_le16(w.vfio.config + PCI_DEVICE_ID, device);
    put_le16(w.vfio.config + PCI_CLASS_DEVICE, class);
}

static void setup(void)
{
    world_init(&w);
    be(VFIO_PCI_NVIDIA, 0x1b80, VFIO_PCI_CLASS_VGA);
}

static void teardown(void)
{
    world_fini(&w);
}

TestSuite(vfio_pci_quirk, .init = setup, .fini = teardown);

static void start(void)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    fake_vfio_forget(&w.vfio);
}

/* What the device has in BAR0 at OFFSET, where it shows the host's side. */
static void device_has(uint64_t offset, uint32_t value)
{
    cr_assert_eq(pwrite(w.vfio.memory[0], &value, 4, (off_t)offset), 4);
}

static unsigned bar_writes(unsigned bar)
{
    unsigned n = 0;

    while (fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, bar, n))
        n++;
    return n;
}

Test(vfio_pci_quirk, mirrors_show_the_guests_view)
{
    device_has(0x88000 + PCI_BASE_ADDRESS_0, 0x5a000000);
    device_has(0x1800 + PCI_BASE_ADDRESS_0, 0x5a000000);
    start();
    for (unsigned i = 0; i < 4096; i += 4)
        cr_expect_eq(mmio_read(&w, MIRROR + i, 4), cfg_read(&w, i, 4), "register 0x%x", i);
    for (unsigned i = 0; i < 256; i += 4)
        cr_expect_eq(mmio_read(&w, LEGACY + i, 4), cfg_read(&w, i, 4), "register 0x%x", i);
    cr_expect_eq(mmio_read(&w, MIRROR + PCI_BASE_ADDRESS_0, 4), WORLD_BAR0);
    cr_expect_eq(mmio_read(&w, MIRROR + PCI_BASE_ADDRESS_0, 8), WORLD_BAR0 | (WORLD_BAR1 | 0xc)
                                                                                 << 32);
    cr_expect_eq(mmio_read(&w, MIRROR + PCI_DEVICE_ID, 2), 0x1b80);
    cr_expect_eq(mmio_read(&w, MIRROR + PCI_DEVICE_ID + 1, 1), 0x1b);
    cr_expect_eq(mmio_read(&w, LEGACY + PCI_BASE_ADDRESS_0, 4), WORLD_BAR0);
}

Test(vfio_pci_quirk, mirrors_take_writes)
{
    start();
    mmio_write(&w, MIRROR + PCI_INTERRUPT_LINE, 1, 7);
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_LINE, 1), 7);
    mmio_write(&w, LEGACY + PCI_BASE_ADDRESS_4, 8, 0xd1000000c4000000);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_4, 4), 0xc4000000);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_5, 4), 0xd1000001);
    cr_expect_eq(bar_writes(0), 0, "nothing reaches the device's mirror");
    /* The BAR moves away under the access, and decoding goes off. */
    mmio_write(&w, MIRROR + PCI_BASE_ADDRESS_0, 4, 0xc8000000);
    cr_expect_eq(mmio_read(&w, 0xc8088000 + PCI_BASE_ADDRESS_0, 4), 0xc8000000);
    mmio_write(&w, 0xc8088000 + PCI_COMMAND, 2, 0);
    cr_expect_eq(mmio_read(&w, 0xc8088000, 4), UINT32_MAX);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
}

Test(vfio_pci_quirk, the_rest_of_the_bar_is_direct)
{
    start();
    cr_expect_null(fake_hv_slot_at(&w.hv, MIRROR));
    cr_expect_null(fake_hv_slot_at(&w.hv, LEGACY & ~0xfffU));
    const struct fake_slot *slot = fake_hv_slot_at(&w.hv, WORLD_BAR0);
    cr_assert_not_null(slot);
    cr_expect_eq(slot->size, 0x1000);
    slot = fake_hv_slot_at(&w.hv, WORLD_BAR0 + 0x2000);
    cr_assert_not_null(slot);
    cr_expect_eq(slot->size, 0x86000);
    slot = fake_hv_slot_at(&w.hv, WORLD_BAR0 + 0x89000);
    cr_assert_not_null(slot);
    cr_expect_eq(slot->size, 16 * MIB - 0x89000);
    /* Of the page of the small mirror, what is not the mirror is the device's. */
    device_has(0x17fc, 0x11111111);
    device_has(0x1900, 0x22222222);
    cr_expect_eq(mmio_read(&w, LEGACY - 4, 4), 0x11111111);
    cr_expect_eq(mmio_read(&w, LEGACY + 0x100, 4), 0x22222222);
    mmio_write(&w, LEGACY + 0x100, 4, 3);
    cr_expect_eq(bar_writes(0), 1);
}

Test(vfio_pci_quirk, acknowledging_msi_reaches_the_device)
{
    start();
    mmio_write(&w, MIRROR + MSI, 1, 0xff);
    const struct fake_vfio_call *ack = fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, 0, 0);
    cr_assert_not_null(ack);
    cr_expect_eq(ack->offset, 0x88000 + MSI);
    cr_expect_eq(ack->size, 1);
    cr_expect_eq(ack->value, 0xff);
    cr_expect_eq(cfg_read(&w, MSI, 1), PCI_CAP_ID_MSI);
    mmio_write(&w, MIRROR + MSI, 2, 0xffff);
    mmio_write(&w, LEGACY + MSI, 1, 0xff);
    cr_expect_eq(bar_writes(0), 3);
    mmio_write(&w, MIRROR + MSI, 4, 0xffffffff); /* the control word is the host's */
    mmio_write(&w, MIRROR + MSI - 1, 1, 0xff);
    mmio_write(&w, MIRROR + MSI + 2, 1, 0xff);
    cr_expect_eq(bar_writes(0), 3);
}

static uint32_t port_read(unsigned offset, unsigned size)
{
    uint32_t value = 0;

    bus_read(&w.pio, WORLD_BAR5 + offset, &value, size);
    return value;
}

static void port_write(unsigned offset, uint32_t value)
{
    bus_write(&w.pio, WORLD_BAR5 + offset, &value, 4);
}

static void open_window(uint32_t addr)
{
    port_write(0, 1);
    port_write(4, 1);
    port_write(8, addr);
}

Test(vfio_pci_quirk, window_shows_the_guests_view)
{
    start();
    open_window(0x88000 + PCI_BASE_ADDRESS_0);
    cr_expect_eq(bar_writes(5), 3, "the device knows, too");
    cr_expect_eq(port_read(12, 4), WORLD_BAR0);
    cr_expect_eq(port_read(15, 1), WORLD_BAR0 >> 24);
    open_window(0x1800 + PCI_INTERRUPT_LINE);
    port_write(12, 9);
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_LINE, 1), 9);
    cr_expect_eq(bar_writes(5), 6, "but not what it was not for");
    open_window(0x88ffc);
    cr_expect_eq(port_read(12, 4), cfg_read(&w, 0xffc, 4));
}

static void expect_device_data(void)
{
    uint32_t value = 0x5a5a5a5a;

    cr_assert_eq(pwrite(w.vfio.memory[5], &value, 4, 12), 4);
    cr_expect_eq(port_read(12, 4), value);
    port_write(12, 0x1234);
    cr_expect_eq(port_read(12, 4), 0x1234);
}

Test(vfio_pci_quirk, window_to_elsewhere_is_the_devices)
{
    const uint32_t addr[] = {0, 0x17ff, 0x1900, 0x87fff, 0x89000, 0xffffffff};

    start();
    for (unsigned i = 0; i < ARRAY_SIZE(addr); i++) {
        open_window(addr[i]);
        expect_device_data();
    }
    open_window(0x88000);
    port_write(4, 0);
    expect_device_data();
    open_window(0x88000);
    cr_expect_eq(port_read(8, 4), 0x88000);
    port_write(0, 0);
    expect_device_data();
    cr_expect_eq(port_read(16, 4), 0, "ports beyond the window");
}

Test(vfio_pci_quirk, window_is_shut_by_a_reset)
{
    start();
    open_window(0x88000);
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    world_start_guest(&w);
    expect_device_data();
    open_window(0x88000);
    cfg_write(&w, 0x70 + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
    expect_device_data();
}

/* Slots answer in KVM, so there is nobody on the bus of this test. */
static void expect_untouched(void)
{
    start();
    const struct fake_slot *slot = fake_hv_slot_at(&w.hv, WORLD_BAR0);
    cr_assert_not_null(slot);
    cr_expect_eq(slot->size, 16 * MIB);
    open_window(0x88000);
    expect_device_data();
}

Test(vfio_pci_quirk, not_for_cards_of_data_centres)
{
    be(VFIO_PCI_NVIDIA, 0x20b0, 0x0302);
    expect_untouched();
}

Test(vfio_pci_quirk, not_for_other_vendors)
{
    be(VFIO_PCI_AMD, 0x744c, VFIO_PCI_CLASS_VGA);
    expect_untouched();
}

Test(vfio_pci_quirk, not_beyond_a_bar)
{
    fake_vfio_bar(&w.vfio, 0, 0x88000, 0);
    fake_vfio_bar(&w.vfio, 5, 8, PCI_BASE_ADDRESS_SPACE_IO);
    start();
    cr_expect_null(fake_hv_slot_at(&w.hv, LEGACY), "the small one fits");
    cr_expect_eq(w.pci->traps, 3, "that, MSI-X table and PBA");
}

Test(vfio_pci_quirk, no_window_in_memory)
{
    fake_vfio_bar(&w.vfio, 5, 4096, 0);
    start();
    cr_expect_eq(w.pci->traps, 4);
}

/* ---- AMD ---- */

static void be_amd(uint16_t device)
{
    fake_vfio_kernel_init();
    log_set_level(LOG_WARN);
    be(VFIO_PCI_AMD, device, VFIO_PCI_CLASS_VGA);
}

static unsigned warnings(const char *chip)
{
    cr_assert_eq(world_create(&w), 0);
    const char *log = fake_log();
    unsigned n = fake_log_lines(log, "vendor-reset");
    cr_expect_eq(fake_log_lines(log, chip), n, "%s", log);
    fake_vfio_kernel_fini();
    return n;
}

Test(vfio_pci_quirk, a_chip_that_does_not_stand_a_reset)
{
    be_amd(0x687f);
    cr_expect_eq(warnings("Vega 10"), 1);
}

Test(vfio_pci_quirk, it_is_told_before_the_reset)
{
    be_amd(0x731f);
    w.vfio.dies_at_reset = true;
    cr_expect_neq(world_create(&w), 0);
    cr_expect_eq(fake_log_lines(fake_log(), "Navi 10"), 1);
    fake_vfio_kernel_fini();
}

Test(vfio_pci_quirk, with_the_module_it_does)
{
    be_amd(0x687f);
    fake_file(FAKE_SYSFS "/reset_method", "device_specific bus\n");
    cr_expect_eq(warnings("Vega"), 0);
}

Test(vfio_pci_quirk, with_the_kernels_methods_it_does_not)
{
    be_amd(0x687f);
    fake_file(FAKE_SYSFS "/reset_method", "pm bus\n");
    cr_expect_eq(warnings("Vega"), 1);
}

Test(vfio_pci_quirk, a_later_chip)
{
    be_amd(0x744c);
    cr_expect_eq(warnings("Navi"), 0);
}
