/*
 * vfio_pci_test.c: the life of a passed-through function: start, guest reset, end, failures.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/unit/vfio_pci_world.h"

static struct world w;

static void setup(void)
{
    world_init(&w);
}

static void teardown(void)
{
    world_fini(&w);
}

TestSuite(vfio_pci, .init = setup, .fini = teardown);

static unsigned open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* Mappings of the fake device's BARs. */
static unsigned bar_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    unsigned n = 0;

    while (fgets(line, sizeof(line), maps))
        n += strstr(line, "memfd:bar") != NULL;
    fclose(maps);
    return n;
}

/* Position of a call among all recorded; the number of calls when there is none. */
static unsigned position(const struct fake_vfio_call *call)
{
    return call ? (unsigned)(call - w.vfio.call) : w.vfio.nr;
}

static unsigned position_of(enum fake_vfio_op op, uint32_t index)
{
    return position(fake_vfio_find(&w.vfio, op, index, 0));
}

Test(vfio_pci, starts_with_a_reset_and_no_bus_mastering)
{
    cr_assert_eq(vfio_pci_create(&w.pci, &w.vfio.dev, &w.config), 0);
    cr_expect_lt(position_of(FAKE_RESET, 0),
                 position_of(FAKE_REGION_READ, VFIO_PCI_CONFIG_REGION_INDEX));
    cr_expect_eq(w.vfio.calls[FAKE_RESET], 1);
    cr_expect_eq(get_le16(w.vfio.config + PCI_COMMAND), 0);
    cr_expect_eq(w.bus.dev[WORLD_DEVFN], &w.pci->dev);
}

Test(vfio_pci, not_pci)
{
    w.vfio.dev.flags = VFIO_DEVICE_FLAGS_PLATFORM;
    cr_expect_eq(world_create(&w), -ENODEV);
}

Test(vfio_pci, too_few_regions)
{
    w.vfio.dev.regions = VFIO_PCI_CONFIG_REGION_INDEX;
    cr_expect_eq(world_create(&w), -ENODEV);
}

Test(vfio_pci, configuration_space_too_small)
{
    w.vfio.region[VFIO_PCI_CONFIG_REGION_INDEX].size = 64;
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci, no_reset_method_is_no_error)
{
    fake_vfio_fail(&w.vfio, FAKE_RESET, 1, ENOTTY);
    cr_expect_eq(world_create(&w), 0);
}

Test(vfio_pci, failed_reset_is)
{
    fake_vfio_fail(&w.vfio, FAKE_RESET, 1, EAGAIN);
    cr_expect_eq(world_create(&w), -EAGAIN);
}

Test(vfio_pci, does_not_answer_after_reset)
{
    w.vfio.dies_at_reset = true;
    cr_expect_eq(world_create(&w), -EIO);
}

Test(vfio_pci, place_on_the_bus_is_taken)
{
    struct pci_dev other;

    pci_dev_init(&other, NULL, "other");
    cr_assert_eq(pci_bus_add(&w.bus, &other, WORLD_DEVFN), 0);
    cr_expect_eq(world_create(&w), -EEXIST);
    pci_bus_remove(&w.bus, &other);
}

/*
 * Every call that the device answers may fail, at any time: either the start fails and nothing
 * is left, or the device is usable with less. world_fini() checks the hypervisor's side.
 */
static void fail_each(enum fake_vfio_op op, unsigned limit)
{
    unsigned files = open_files();

    for (unsigned nth = 1; nth <= limit; nth++) {
        fake_vfio_fail(&w.vfio, op, nth, EIO);
        w.vfio.calls[FAKE_CLOSE] = 0;
        if (world_create(&w) == 0) {
            world_start_guest(&w);
            vfio_pci_destroy(w.pci);
        }
        w.pci = NULL;
        cr_expect_eq(w.vfio.calls[FAKE_CLOSE], 1);
        cr_expect_eq(fake_hv_live(&w.hv), 0);
        cr_expect_eq(w.pio.nr + w.mmio.nr, 2);
        cr_expect_eq(open_files(), files, "call %u of %d leaves a file open", nth, (int)op);
    }
}

Test(vfio_pci, region_info_fails)
{
    fail_each(FAKE_REGION_INFO, 9);
}

Test(vfio_pci, region_read_fails)
{
    fail_each(FAKE_REGION_READ, 70);
}

Test(vfio_pci, region_write_fails)
{
    fail_each(FAKE_REGION_WRITE, 3);
}

Test(vfio_pci, region_mmap_fails)
{
    fail_each(FAKE_REGION_MMAP, 4);
}

Test(vfio_pci, irq_info_fails)
{
    fail_each(FAKE_IRQ_INFO, 6);
}

Test(vfio_pci, irq_set_fails)
{
    fail_each(FAKE_IRQ_SET, 12);
}

Test(vfio_pci, region_info_failure_is_told)
{
    fake_vfio_fail(&w.vfio, FAKE_REGION_INFO, 3, EPERM);
    cr_expect_eq(world_create(&w), -EPERM);
}

Test(vfio_pci, end_unmaps)
{
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(bar_mappings(), 3);
    vfio_pci_destroy(w.pci);
    w.pci = NULL;
    cr_expect_eq(bar_mappings(), 0);
}

Test(vfio_pci, end_stops_dma_before_anything_is_unmapped)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    fake_vfio_forget(&w.vfio);
    vfio_pci_destroy(w.pci);
    w.pci = NULL;
    unsigned irqs_off = position_of(FAKE_IRQ_SET, VFIO_PCI_INTX_IRQ_INDEX);
    unsigned command = position_of(FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX);
    unsigned reset = position_of(FAKE_RESET, 0);
    cr_expect_lt(irqs_off, command);
    cr_expect_lt(command, reset);
    cr_expect_lt(reset, position_of(FAKE_CLOSE, 0));
    cr_expect_eq(w.vfio.call[command].value, 0);
    cr_expect_eq(w.vfio.call[command].slots, 0, "memory decoding off without slots");
    cr_expect_eq(w.vfio.active, VFIO_PCI_NUM_IRQS);
}

/* What a guest leaves behind. */
static void use_everything(void)
{
    world_start_guest(&w);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    cfg_write(&w, PCI_INTERRUPT_LINE, 1, 9);
    cfg_write(&w, 0xb0 + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    mmio_write(&w, WORLD_BAR1 + 0x2000, 8, 0xfee00000);
    mmio_write(&w, WORLD_BAR1 + 0x2008, 8, 0x30);
    cfg_write(&w, 0x50 + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
    cfg_write(&w, 0x40 + PCI_PM_CTRL, 2, 3);
}

Test(vfio_pci, guest_reset_brings_back_the_start)
{
    uint32_t before[1024];

    cr_assert_eq(world_create(&w), 0);
    for (unsigned i = 0; i < 1024; i++)
        before[i] = cfg_read(&w, 4 * i, 4);
    use_everything();
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSIX_IRQ_INDEX);
    fake_vfio_forget(&w.vfio);
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    cr_expect_eq(w.vfio.calls[FAKE_RESET], 1);
    cr_expect_eq(fake_vfio_find(&w.vfio, FAKE_RESET, 0, 0)->slots, 0);
    w.vfio.config[0x40 + PCI_PM_CTRL] = 0; /* what a reset does at the device */
    for (unsigned i = 0; i < 1024; i++)
        cr_expect_eq(cfg_read(&w, 4 * i, 4), before[i], "register 0x%x", 4 * i);
    cr_expect_eq(w.mmio.nr, 1);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
    cr_expect_eq(get_le16(w.vfio.config + PCI_COMMAND), 0);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3, "awake again");
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x2000, 4), 0);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x200c, 4), 1);
}

Test(vfio_pci, guest_reset_does_not_bring_intx_up_in_between)
{
    cr_assert_eq(world_create(&w), 0);
    use_everything();
    fake_vfio_forget(&w.vfio);
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    cr_expect_gt(position_of(FAKE_IRQ_SET, VFIO_PCI_INTX_IRQ_INDEX),
                 position_of(FAKE_RESET, 0));
}

Test(vfio_pci, guest_reset_of_a_device_that_dies)
{
    cr_assert_eq(world_create(&w), 0);
    use_everything();
    w.vfio.dies_at_reset = true;
    cr_expect_eq(vfio_pci_reset(w.pci), -EIO);
}

Test(vfio_pci, guest_reset_without_interrupt)
{
    cr_assert_eq(world_create(&w), 0);
    use_everything();
    fake_vfio_fail(&w.vfio, FAKE_IRQ_SET, 2, EIO); /* MSI-X off, then INTx on */
    cr_expect_eq(vfio_pci_reset(w.pci), -EIO);
}

Test(vfio_pci, destroy_takes_null)
{
    cr_assert_eq(world_create(&w), 0);
    vfio_pci_destroy(NULL);
}

Test(vfio_pci, two_functions_on_one_slot)
{
    struct vfio_pci_config config = w.config;
    static struct fake_vfio second;
    struct vfio_pci *pci;

    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    fake_vfio_init(&second, &w.hv);
    config.devfn = WORLD_DEVFN + 1;
    cr_assert_eq(vfio_pci_create(&pci, &second.dev, &config), 0);
    cr_expect_eq(cfg_read(&w, PCI_HEADER_TYPE, 1), 0x80, "multi-function now");
    pci_bus_config_write(&w.bus, config.devfn, PCI_BASE_ADDRESS_0, 4, 0xc8000000);
    pci_bus_config_write(&w.bus, config.devfn, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 4);
    mmio_write(&w, WORLD_BAR4, 4, 7);
    cr_expect_null(fake_vfio_find(&second, FAKE_REGION_WRITE, 4, 0));
    vfio_pci_destroy(pci);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    fake_vfio_fini(&second);
}
