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
    const struct fake_vfio_call *command =
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0);
    cr_expect_eq(command->offset, PCI_COMMAND);
    cr_expect_eq(command->value, 0, "no DMA even before");
    cr_expect_lt(position(command), position_of(FAKE_RESET, 0));
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
    w.vfio.region[VFIO_PCI_CONFIG_REGION_INDEX].size = 63;
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
    fail_each(FAKE_REGION_READ, 90);
}

Test(vfio_pci, region_write_fails)
{
    fail_each(FAKE_REGION_WRITE, 4);
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

/* ---- as the device is found ---- */

#define PMCSR (0x40 + PCI_PM_CTRL)

Test(vfio_pci, a_sleeping_device_is_woken_before_its_reset)
{
    put_le16(w.vfio.config + PMCSR, 0x8103); /* D3hot, PME enabled and pending */
    cr_assert_eq(vfio_pci_create(&w.pci, &w.vfio.dev, &w.config), 0);
    const struct fake_vfio_call *wake =
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 1);
    cr_expect_eq(wake->offset, PMCSR);
    cr_expect_lt(position(wake), position_of(FAKE_RESET, 0));
    cr_expect_eq(get_le16(w.vfio.config + PMCSR), 0);
    cr_expect_not(w.pci->asleep);
}

Test(vfio_pci, one_that_is_awake_is_left_alone)
{
    put_le16(w.vfio.config + PMCSR, PCI_PM_CTRL_NO_SOFT_RESET);
    cr_assert_eq(vfio_pci_create(&w.pci, &w.vfio.dev, &w.config), 0);
    for (unsigned i = 0; i < w.vfio.nr; i++)
        cr_expect(w.vfio.call[i].op != FAKE_REGION_WRITE || w.vfio.call[i].offset != PMCSR);
}

Test(vfio_pci, a_list_without_end_has_no_power_management)
{
    fake_vfio_cap(&w.vfio, 0x40, PCI_CAP_ID_VNDR, 0x40);
    put_le16(w.vfio.config + PMCSR, 3);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(get_le16(w.vfio.config + PMCSR), 3);
}

/* The device keeps what it has, but does no DMA and raises nothing. */
Test(vfio_pci, without_reset)
{
    w.config.reset = false;
    put_le16(w.vfio.config + PMCSR, 3);
    cr_assert_eq(vfio_pci_create(&w.pci, &w.vfio.dev, &w.config), 0);
    cr_expect_eq(get_le16(w.vfio.config + PCI_COMMAND), 0);
    cr_expect_eq(get_le16(w.vfio.config + PMCSR), 0, "but awake");
    use_everything();
    cr_expect_eq(get_le16(w.vfio.config + PMCSR), 3);
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    cr_expect_eq(get_le16(w.vfio.config + PMCSR), 0, "the next boot finds it awake");
    cr_expect_eq(get_le16(w.vfio.config + PCI_COMMAND), 0);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    vfio_pci_destroy(w.pci);
    w.pci = NULL;
    cr_expect_eq(get_le16(w.vfio.config + PCI_COMMAND), 0);
    cr_expect_eq(w.vfio.active, VFIO_PCI_NUM_IRQS);
    cr_expect_eq(w.vfio.calls[FAKE_RESET], 0);
}

Test(vfio_pci, without_reset_a_dead_device_is_refused)
{
    w.config.reset = false;
    w.vfio.dead = true;
    cr_expect_eq(world_create(&w), -EIO);
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

/* ---- a vfio-user server's device ---- */

static unsigned irqfds(void)
{
    return fake_hv_live_irqfds(&w.hv);
}

Test(vfio_pci, lost_device_is_off_the_bus)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cfg_write(&w, 0xb0 + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    mmio_write(&w, WORLD_BAR1 + 0x2000, 8, 0xfee00000);
    mmio_write(&w, WORLD_BAR1 + 0x2008, 8, 0x30);
    cr_expect_eq(irqfds(), 1);
    w.vfio.dev.lost = true;
    /* At once: also what is emulated. */
    cr_expect_eq(cfg_read(&w, PCI_VENDOR_ID, 4), UINT32_MAX);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_0, 4), UINT32_MAX);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x2008, 4), UINT32_MAX);
    cfg_write(&w, PCI_BASE_ADDRESS_0, 4, 0xc4000000);
    cr_expect_eq(get_le32(w.pci->dev.config + PCI_BASE_ADDRESS_0), WORLD_BAR0);
    /* When the main thread hears of it. */
    w.vfio.dev.on_lost(w.vfio.dev.opaque);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
    cr_expect_eq(irqfds(), 0);
    cr_expect_eq(w.mmio.nr + w.pio.nr, 2);
    cr_expect_eq(mmio_read(&w, WORLD_BAR0, 4), UINT32_MAX);
}

Test(vfio_pci, lost_device_with_its_line_high)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    uint32_t gsi = w.pci->intx.gsi;
    cr_assert(fake_vfio_fire(&w.vfio, 0));
    cr_assert(fake_hv_deliver(&w.hv, gsi));
    cr_expect(w.hv.level[gsi]);
    w.vfio.dev.lost = true;
    w.vfio.dev.on_lost(w.vfio.dev.opaque);
    cr_expect_not(w.hv.level[gsi]);
}

Test(vfio_pci, guest_reset_of_a_lost_device)
{
    cr_assert_eq(world_create(&w), 0);
    use_everything();
    w.vfio.dev.lost = true;
    fake_vfio_forget(&w.vfio);
    cr_expect_eq(vfio_pci_reset(w.pci), 0);
    cr_expect_eq(w.vfio.calls[FAKE_RESET], 0);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
    cr_expect_eq(cfg_read(&w, PCI_VENDOR_ID, 2), 0xffff);
    world_start_guest(&w);
    cr_expect_eq(w.mmio.nr, 1, "and it stays so");
}

static int lose_it(struct vfio_device *dev)
{
    dev->lost = true;
    return -EIO;
}

Test(vfio_pci, lost_during_a_guest_reset)
{
    static struct vfio_device_ops ops; /* teardown needs it, too */
    cr_assert_eq(world_create(&w), 0);
    ops = *w.vfio.dev.ops;
    ops.reset = lose_it;
    w.vfio.dev.ops = &ops;
    cr_expect_eq(vfio_pci_reset(w.pci), 0);
}

Test(vfio_pci, memory_bars_are_posted)
{
    cr_assert_eq(world_create(&w), 0);
    cr_expect(w.pci->bar[0].view.region.posted);
    cr_expect(w.pci->bar[4].view.region.posted);
    cr_expect_not(w.pci->bar[5].view.region.posted, "ports");
    cr_expect_not(w.pci->config.posted);
}

Test(vfio_pci, ioeventfds_follow_the_bar)
{
    for (unsigned i = 4; i <= 5; i++) {
        w.vfio.region[i].ioeventfds = 1;
        w.vfio.region[i].ioeventfd[0] =
            (struct vfio_ioeventfd){.fd = 99, .size = 4, .offset = 0x10};
    }
    cr_assert_eq(world_create(&w), 0);
    cr_expect_not(w.hv.ioeventfd[0].used);
    world_start_guest(&w);
    cr_expect_eq(w.hv.ioeventfd[0].addr, WORLD_BAR4 + 0x10);
    cr_expect_eq(w.hv.ioeventfd[0].len, 4);
    cr_expect_not(w.hv.ioeventfd[0].pio);
    cr_expect_eq(w.hv.ioeventfd[1].addr, WORLD_BAR5 + 0x10);
    cr_expect(w.hv.ioeventfd[1].pio);
    cfg_write(&w, PCI_COMMAND, 2, 0);
    cr_expect_not(w.hv.ioeventfd[0].used);
    cr_expect_not(w.hv.ioeventfd[1].used);
    cfg_write(&w, PCI_BASE_ADDRESS_4, 4, 0xc5000000);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cr_expect_eq(w.hv.ioeventfd[0].addr, 0xc5000010);
}

Test(vfio_pci, no_ioeventfds_with_mmap_off)
{
    w.vfio.region[4].ioeventfds = 1;
    w.config.mmap = false;
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(w.hv.calls[FAKE_IOEVENTFD_ADD], 0);
}

/* The value that reaches the device's control word at POS, and after how many calls. */
static const struct fake_vfio_call *control_write(unsigned pos)
{
    for (unsigned i = 0; i < w.vfio.nr; i++) {
        const struct fake_vfio_call *c = &w.vfio.call[i];
        if (c->op == FAKE_REGION_WRITE && c->index == VFIO_PCI_CONFIG_REGION_INDEX &&
            c->offset == pos)
            return c;
    }
    return NULL;
}

Test(vfio_pci, control_words_for_a_device_that_looks_at_them)
{
    cr_assert_eq(world_create(&w), 0);
    cfg_write(&w, 0xb0 + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    cr_expect_null(control_write(0xb0 + PCI_MSIX_FLAGS), "the kernel does it");
    cfg_write(&w, 0xb0 + PCI_MSIX_FLAGS, 2, 0);
    w.vfio.dev.wants_msi_control = true;
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, 0xb0 + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    const struct fake_vfio_call *c = control_write(0xb0 + PCI_MSIX_FLAGS);
    cr_assert(c);
    cr_expect_eq(c->value & 0xffff, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL | 7);
    cr_expect_gt(position(c), position_of(FAKE_IRQ_SET, VFIO_PCI_MSIX_IRQ_INDEX));
    cfg_write(&w, 0xb0 + PCI_MSIX_FLAGS, 2, 0);
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, 0x50 + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE);
    c = control_write(0x50 + PCI_MSI_FLAGS);
    cr_assert(c);
    cr_expect_eq(c->value & PCI_MSI_FLAGS_ENABLE, PCI_MSI_FLAGS_ENABLE);
}
