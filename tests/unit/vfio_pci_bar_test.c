/*
 * vfio_pci_bar_test.c: BARs as the guest sizes, moves and uses them: direct and trapped.
 */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

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

TestSuite(vfio_pci_bar, .init = setup, .fini = teardown);

static void expect_slot(uint64_t gpa, uint64_t size)
{
    const struct fake_slot *slot = fake_hv_slot_at(&w.hv, gpa);

    cr_assert_not_null(slot, "no slot at 0x%lx", (unsigned long)gpa);
    cr_expect_eq(slot->gpa, gpa);
    cr_expect_eq(slot->size, size);
}

Test(vfio_pci_bar, sizing_by_ones)
{
    cr_assert_eq(world_create(&w), 0);
    for (unsigned reg = PCI_BASE_ADDRESS_0; reg <= PCI_BASE_ADDRESS_5; reg += 4)
        cfg_write(&w, reg, 4, UINT32_MAX);
    cfg_write(&w, PCI_ROM_ADDRESS, 4, UINT32_MAX);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_0, 4), 0xff000000);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_1, 4), 0xffff000c);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_2, 4), 0xffffffff);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_3, 4), 0);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_4, 4), 0xffffff00);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_5, 4), 0xffffff81);
    cr_expect_eq(cfg_read(&w, PCI_ROM_ADDRESS, 4), 0xffff0001);
}

Test(vfio_pci_bar, the_hosts_addresses_do_not_show)
{
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_0, 4), 0);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_1, 4), 0xc);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_2, 4), 0);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_5, 4), 1);
    cr_expect_eq(cfg_read(&w, PCI_ROM_ADDRESS, 4), 0);
}

Test(vfio_pci_bar, a_bar_that_the_host_has_not_assigned_is_none)
{
    fake_vfio_bar(&w.vfio, 0, 0, 0);
    put_le32(w.vfio.config + PCI_BASE_ADDRESS_0, 0x5a00000c);
    fake_vfio_bar(&w.vfio, 6, 0, 0); /* the kernel could not read the ROM */
    cr_assert_eq(world_create(&w), 0);
    cfg_write(&w, PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
    cfg_write(&w, PCI_ROM_ADDRESS, 4, UINT32_MAX);
    cr_expect_eq(cfg_read(&w, PCI_BASE_ADDRESS_0, 4), 0);
    cr_expect_eq(cfg_read(&w, PCI_ROM_ADDRESS, 4), 0);
    cr_expect_eq(w.pci->dev.bar[1].size, 64 * KIB, "its neighbour is no upper half");
}

Test(vfio_pci_bar, sizing_with_decoding_on)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cfg_write(&w, PCI_BASE_ADDRESS_1, 4, UINT32_MAX);
    cfg_write(&w, PCI_BASE_ADDRESS_2, 4, UINT32_MAX);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 1, "only BAR0's");
    cfg_write(&w, PCI_BASE_ADDRESS_1, 4, (uint32_t)WORLD_BAR1);
    cfg_write(&w, PCI_BASE_ADDRESS_2, 4, WORLD_BAR1 >> 32);
    expect_slot(WORLD_BAR1, 0x2000);
}

Test(vfio_pci_bar, msix_pages_are_left_out)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    expect_slot(WORLD_BAR0, 16 * MIB);
    expect_slot(WORLD_BAR1, 0x2000);
    expect_slot(WORLD_BAR1 + 0x4000, 0xc000);
}

Test(vfio_pci_bar, guest_and_host_share_the_memory)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    uint32_t *at =
        (uint32_t *)((uint8_t *)fake_hv_slot_at(&w.hv, WORLD_BAR1 + 0x4000)->hva + 8);
    uint32_t seen = 0;
    *at = 0x12345678;
    cr_assert_eq(pread(w.vfio.memory[1], &seen, 4, 0x4008), 4);
    cr_expect_eq(seen, 0x12345678, "the area's offset in the BAR");
}

Test(vfio_pci_bar, host_addresses_are_aligned_for_huge_pages)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq((uintptr_t)fake_hv_slot_at(&w.hv, WORLD_BAR0)->hva % (16 * MIB), 0);
    cr_expect_eq((uintptr_t)fake_hv_slot_at(&w.hv, WORLD_BAR1 + 0x4000)->hva % (64 * KIB),
                 0x4000);
}

Test(vfio_pci_bar, a_huge_bar_is_aligned_to_a_gigabyte)
{
    fake_vfio_bar(&w.vfio, 2, 0, 0);
    fake_vfio_bar(&w.vfio, 1, 8 * GIB, PCI_BASE_ADDRESS_MEM_TYPE_64);
    w.vfio.config[PCI_CAPABILITY_LIST] = 0;
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cfg_write(&w, PCI_BASE_ADDRESS_2, 4, 0x10);
    expect_slot(0x1000000000, 8 * GIB);
    cr_expect_eq((uintptr_t)fake_hv_slot_at(&w.hv, 0x1000000000)->hva % GIB, 0);
}

Test(vfio_pci_bar, sparse_areas_keep_their_gaps_trapped)
{
    struct vfio_region *r = &w.vfio.region[1];

    r->areas = 3;
    r->area[0] = (struct vfio_area){0x0, 0x1000};
    r->area[1] = (struct vfio_area){0x2000, 0x3000}; /* begins with the table and PBA */
    r->area[2] = (struct vfio_area){0x8000, 0x8000};
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 4);
    expect_slot(WORLD_BAR1, 0x1000);
    expect_slot(WORLD_BAR1 + 0x4000, 0x1000);
    expect_slot(WORLD_BAR1 + 0x8000, 0x8000);
}

Test(vfio_pci_bar, more_pieces_than_there_is_room_for)
{
    struct vfio_region *r = &w.vfio.region[1];

    fake_vfio_bar(&w.vfio, 1, 1 * MIB, PCI_BASE_ADDRESS_MEM_TYPE_64);
    r->areas = VFIO_AREAS_MAX;
    for (unsigned i = 0; i < VFIO_AREAS_MAX; i++)
        r->area[i] = (struct vfio_area){i * 0x4000, 0x3000};
    put_le32(w.vfio.config + 0xb4, 0x1001); /* the middle of the first */
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 1 + VFIO_AREAS_MAX);
    cr_expect_null(fake_hv_slot_at(&w.hv, WORLD_BAR1 + 63 * 0x4000), "the last one is trapped");
}

Test(vfio_pci_bar, trapped_accesses_go_to_the_device)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    fake_vfio_forget(&w.vfio);
    mmio_write(&w, WORLD_BAR4 + 0x10, 2, 0xbeef);
    cr_expect_eq(mmio_read(&w, WORLD_BAR4 + 0x10, 2), 0xbeef);
    const struct fake_vfio_call *call = fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, 4, 0);
    cr_assert_not_null(call);
    cr_expect_eq(call->offset, 0x10);
    cr_expect_eq(call->size, 2);
    /* Ports. */
    uint32_t out = 0x01020304, in = 0;
    bus_write(&w.pio, WORLD_BAR5 + 4, &out, 4);
    bus_read(&w.pio, WORLD_BAR5 + 4, &in, 4);
    cr_expect_eq(in, out);
    /* What shares the table's page with the table. */
    mmio_write(&w, WORLD_BAR1 + 0x2800, 8, 0x1122334455667788);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x2800, 8), 0x1122334455667788);
    cr_expect_not_null(fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, 1, 0));
}

Test(vfio_pci_bar, table_and_pba_do_not_reach_the_device)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    fake_vfio_forget(&w.vfio);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x200c, 4), PCI_MSIX_ENTRY_CTRL_MASKBIT);
    mmio_write(&w, WORLD_BAR1 + 0x2070, 8, 0xfee00000);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x2070, 4), 0xfee00000);
    mmio_write(&w, WORLD_BAR1 + 0x3000, 8, UINT64_MAX);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x3000, 8), 0);
    cr_expect_eq(w.vfio.nr, 0);
}

Test(vfio_pci_bar, rom_is_read_only)
{
    const uint16_t signature = 0xaa55;

    cr_assert_eq(pwrite(w.vfio.memory[6], &signature, 2, 0), 2);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
    mmio_write(&w, WORLD_ROM, 2, 0);
    cr_expect_null(fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, 6, 0));
    cr_expect_eq(mmio_read(&w, WORLD_ROM, 2), 0xaa55);
}

Test(vfio_pci_bar, failed_accesses_read_all_ones)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    fake_vfio_fail(&w.vfio, FAKE_REGION_READ, 1, EIO);
    cr_expect_eq(mmio_read(&w, WORLD_BAR4, 4), UINT32_MAX);
    fake_vfio_fail(&w.vfio, FAKE_REGION_WRITE, 1, EIO);
    mmio_write(&w, WORLD_BAR4, 4, 1);
    for (unsigned i = 0; i < 100; i++) { /* a guest cannot fill the log */
        fake_vfio_fail(&w.vfio, FAKE_REGION_READ, 1, EIO);
        mmio_read(&w, WORLD_BAR4, 1);
    }
    cr_expect_eq(atomic_load(&w.pci->bar[4].view.accesses.used), 16);
}

Test(vfio_pci_bar, odd_sizes_are_rounded_up)
{
    fake_vfio_bar(&w.vfio, 0, 0x3000, 0);
    fake_vfio_bar(&w.vfio, 4, 8, 0);
    fake_vfio_bar(&w.vfio, 5, 1, PCI_BASE_ADDRESS_SPACE_IO);
    fake_vfio_bar(&w.vfio, 6, 512, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(w.pci->dev.bar[0].size, 0x4000);
    cr_expect_eq(w.pci->dev.bar[4].size, 16);
    cr_expect_eq(w.pci->dev.bar[5].size, 4);
    cr_expect_eq(w.pci->dev.bar[6].size, 2048);
    world_start_guest(&w);
    expect_slot(WORLD_BAR0, 0x3000);
    fake_vfio_forget(&w.vfio);
    cr_expect_eq(mmio_read(&w, WORLD_BAR0 + 0x3000, 4), UINT32_MAX, "beyond the region");
    cr_expect_eq(mmio_read(&w, WORLD_BAR4 + 8, 8), UINT64_MAX);
    cr_expect_eq(w.vfio.nr, 0);
}

Test(vfio_pci_bar, the_upper_half_is_no_bar)
{
    fake_vfio_bar(&w.vfio, 2, 4096, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(w.pci->dev.bar[2].size, 0);
    cr_expect_eq(w.pci->bar[2].view.region.size, 0);
}

Test(vfio_pci_bar, two_wide_bars_side_by_side)
{
    fake_vfio_bar(&w.vfio, 4, 0, 0);
    fake_vfio_bar(&w.vfio, 3, 32 * MIB, PCI_BASE_ADDRESS_MEM_TYPE_64);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(w.pci->dev.bar[1].size, 64 * KIB);
    cr_expect_eq(w.pci->dev.bar[3].size, 32 * MIB);
    cr_expect_eq(w.pci->dev.bar[3].flags, PCI_BASE_ADDRESS_MEM_TYPE_64);
}

Test(vfio_pci_bar, impossible_bars_are_refused)
{
    fake_vfio_bar(&w.vfio, 5, 4096, PCI_BASE_ADDRESS_MEM_TYPE_64);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_bar, a_size_that_wraps_is_refused)
{
    fake_vfio_bar(&w.vfio, 0, UINT64_MAX, 0);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_bar, a_32_bit_bar_of_4g_is_refused)
{
    fake_vfio_bar(&w.vfio, 0, 4 * GIB, 0);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_bar, without_mmap_everything_is_trapped)
{
    w.config.mmap = false;
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(w.hv.calls[FAKE_SLOT_ADD], 0);
    mmio_write(&w, WORLD_BAR0 + 0x100, 4, 42);
    cr_expect_eq(mmio_read(&w, WORLD_BAR0 + 0x100, 4), 42);
}

Test(vfio_pci_bar, a_bar_that_cannot_be_mapped_is_trapped)
{
    fake_vfio_fail(&w.vfio, FAKE_REGION_MMAP, 2, ENOMEM); /* BAR1's first area */
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 1);
    cr_expect_eq(w.pci->bar[1].view.va, NULL);
    mmio_write(&w, WORLD_BAR1 + 0x5000, 4, 42);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x5000, 4), 42);
}

Test(vfio_pci_bar, over_ram_it_stays_unmapped)
{
    static uint8_t page[4096] __attribute__((aligned(4096)));

    cr_assert_eq(world_create(&w), 0);
    int ram = w.hv.hv.ops->slot_add(&w.hv.hv, WORLD_BAR1 + 0x5000, page, 4096);
    cr_assert_geq(ram, 0);
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 2, "BAR0 and RAM; nothing of BAR1");
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x2000, 4), UINT32_MAX);
    w.hv.hv.ops->slot_remove(&w.hv.hv, ram);
    cfg_write(&w, PCI_BASE_ADDRESS_4, 4, WORLD_BAR4 + 0x1000); /* any BAR moves */
    expect_slot(WORLD_BAR1, 0x2000);
}

Test(vfio_pci_bar, no_slot_to_be_had_means_trapped)
{
    cr_assert_eq(world_create(&w), 0);
    fake_hv_fail(&w.hv, FAKE_SLOT_ADD, 3, ENOSPC); /* BAR1's second area */
    world_start_guest(&w);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 1);
    mmio_write(&w, WORLD_BAR1 + 0x5000, 4, 42);
    cr_expect_eq(mmio_read(&w, WORLD_BAR1 + 0x5000, 4), 42);
}

Test(vfio_pci_bar, dropped_slots_come_back_with_decoding)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect(vfio_pci_drop_slots(w.pci));
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
    cr_expect_not(vfio_pci_drop_slots(w.pci), "there is none to drop");
    w.vfio.config[PCI_COMMAND] = 0; /* what made KVM_RUN fail */
    cr_expect_eq(mmio_read(&w, WORLD_BAR0, 4), UINT32_MAX);
    cfg_write(&w, 0xd4, 4, 0);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0, "not by just any write");
    cfg_write(&w, PCI_COMMAND, 2, 0);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
}

Test(vfio_pci_bar, two_bars_change_places)
{
    fake_vfio_bar(&w.vfio, 4, 16 * MIB, 0);
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    const void *bar0 = fake_hv_slot_at(&w.hv, WORLD_BAR0)->hva;
    const void *bar4 = fake_hv_slot_at(&w.hv, WORLD_BAR4)->hva;
    cfg_write(&w, PCI_BASE_ADDRESS_0, 4, WORLD_BAR4); /* collides: unmapped for a moment */
    cfg_write(&w, PCI_BASE_ADDRESS_4, 4, WORLD_BAR0);
    cr_expect_eq(fake_hv_slot_at(&w.hv, WORLD_BAR4)->hva, bar0);
    cr_expect_eq(fake_hv_slot_at(&w.hv, WORLD_BAR0)->hva, bar4);
}

/* Standard error of vfio_pci_describe(). */
static const char *described(void)
{
    static char text[4096];
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);

    log_set_level(LOG_NOTE);
    dup2(fileno(file), STDERR_FILENO);
    vfio_pci_describe(w.pci);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

Test(vfio_pci_bar, description)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_expect_str_eq(
        described(),
        "minivmm: 0000:42:00.0: BAR0 0xc1000000 16M direct\n"
        "minivmm: 0000:42:00.0: BAR1 0xfe0000000 64K direct, trapped 0x2000-0x3fff (MSI-X "
        "table)\n"
        "minivmm: 0000:42:00.0: BAR4 0xc2000000 256 trapped\n"
        "minivmm: 0000:42:00.0: BAR5 I/O 0xd000 128 trapped\n"
        "minivmm: 0000:42:00.0: ROM 0xc3000000 64K\n"
        "minivmm: 0000:42:00.0: interrupts: INTx gsi 19, MSI 4, MSI-X 8\n");
}

Test(vfio_pci_bar, description_of_separate_gaps)
{
    fake_vfio_bar(&w.vfio, 0, 0, 0);
    fake_vfio_bar(&w.vfio, 4, 0, 0);
    fake_vfio_bar(&w.vfio, 5, 0, 0);
    fake_vfio_bar(&w.vfio, 6, 0, 0);
    put_le32(w.vfio.config + 0xb8, 0xf001);
    w.vfio.region[1].areas = 2;
    w.vfio.region[1].area[0] = (struct vfio_area){0x1000, 0x4000};
    w.vfio.region[1].area[1] = (struct vfio_area){0x6000, 0xa000};
    fake_vfio_irq(&w.vfio, VFIO_PCI_INTX_IRQ_INDEX, 0, 0);
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSI_IRQ_INDEX, 0, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_str_eq(described(), "minivmm: 0000:42:00.0: BAR1 0x0 64K direct, trapped "
                                  "0x0-0xfff, 0x2000-0x2fff (MSI-X table), 0x5000-0x5fff, "
                                  "0xf000-0xffff (MSI-X PBA)\n"
                                  "minivmm: 0000:42:00.0: interrupts: MSI-X 8\n");
}
