/*
 * vfio_pci_vga_test.c: the legacy VGA ranges of a card that was passed with them.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/vfio_pci_world.h"
#include "vmm/layout.h"

#define VGA_REGION VFIO_PCI_VGA_REGION_INDEX
#define VGA_TEXT   0xb8000U
#define VGA_PORT   0x3c0U

static struct world w;

static void setup(void)
{
    world_init(&w);
    w.config.vga = true;
    w.vfio.memory[VGA_REGION] = memfd_create("vga", 0);
    cr_assert_eq(ftruncate(w.vfio.memory[VGA_REGION], 0xc0000), 0);
    w.vfio.region[VGA_REGION] =
        (struct vfio_region){.index = VGA_REGION,
                             .flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE,
                             .size = 0xc0000};
}

static void teardown(void)
{
    world_fini(&w);
}

TestSuite(vfio_pci_vga, .init = setup, .fini = teardown);

Test(vfio_pci_vga, accesses_go_to_the_card)
{
    uint8_t at_card = 0, port = 0x5a;

    cr_assert_eq(world_create(&w), 0);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    mmio_write(&w, VGA_TEXT + 6, 1, 'M');
    cr_expect_eq(pread(w.vfio.memory[VGA_REGION], &at_card, 1, VGA_TEXT + 6), 1);
    cr_expect_eq(at_card, 'M', "an address of the region is the guest's");
    cr_expect_eq(mmio_read(&w, VGA_TEXT + 6, 1), 'M');
    bus_write(&w.pio, VGA_PORT + 4, &port, 1);
    cr_expect_eq(pread(w.vfio.memory[VGA_REGION], &at_card, 1, VGA_PORT + 4), 1);
    cr_expect_eq(at_card, 0x5a);
}

Test(vfio_pci_vga, command_decides_about_memory_and_ports)
{
    uint8_t port = 0x11;

    cr_assert_eq(world_create(&w), 0);
    mmio_write(&w, VGA_TEXT, 2, 0x1234);
    cr_expect_eq(mmio_read(&w, VGA_TEXT, 2), 0xffff, "nothing is decoded");
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cr_expect_eq(mmio_read(&w, VGA_TEXT, 2), 0, "the write went nowhere");
    bus_read(&w.pio, VGA_PORT, &port, 1);
    cr_expect_eq(port, 0xff);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_IO);
    bus_read(&w.pio, VGA_PORT, &port, 1);
    cr_expect_eq(port, 0);
    cr_expect_eq(mmio_read(&w, VGA_TEXT, 2), 0xffff);
}

Test(vfio_pci_vga, a_card_without_them_is_refused)
{
    w.vfio.region[VGA_REGION].size = 0;
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_vga, a_second_card_is_refused_and_leaves_the_first_alone)
{
    static const struct bus_ops none;
    const struct bus_range taken = {0x3c0, 1, &none, NULL, "another card"};

    cr_assert_eq(bus_add(&w.pio, &taken), 0);
    cr_expect_eq(world_create(&w), -EEXIST);
    cr_expect_eq(w.pio.nr, 2, "CF8 and the other card's");
    bus_remove(&w.pio, 0x3c0);
}

Test(vfio_pci_vga, not_asked_for_there_are_none)
{
    w.config.vga = false;
    cr_assert_eq(world_create(&w), 0);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    mmio_write(&w, VGA_TEXT, 2, 0x1234);
    cr_expect_eq(mmio_read(&w, VGA_TEXT, 2), 0xffff);
    cr_expect_null(fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VGA_REGION, 0));
}
