/*
 * vfio_pci_config_test.c: what of the device's configuration space the guest sees and reaches.
 */
#include <errno.h>

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

TestSuite(vfio_pci_config, .init = setup, .fini = teardown);

/* The capability list as a guest walks it: ids at positions; NR limits a loop. */
static unsigned walk(unsigned *pos, unsigned *id, unsigned nr)
{
    unsigned n = 0;

    if (!(cfg_read(&w, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST))
        return 0;
    for (unsigned p = cfg_read(&w, PCI_CAPABILITY_LIST, 1); p && n < nr; n++) {
        pos[n] = p;
        id[n] = cfg_read(&w, p, 1);
        p = cfg_read(&w, p + 1, 1);
    }
    return n;
}

static unsigned walk_ext(unsigned *pos, unsigned *id, unsigned nr)
{
    unsigned n = 0;

    for (unsigned p = 0x100; p >= 0x100 && n < nr; n++) {
        uint32_t header = cfg_read(&w, p, 4);
        if (!header || header == UINT32_MAX)
            break;
        pos[n] = p;
        id[n] = PCI_EXT_CAP_ID(header);
        p = PCI_EXT_CAP_NEXT(header);
    }
    return n;
}

Test(vfio_pci_config, identification_is_the_devices)
{
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, PCI_VENDOR_ID, 4), 0x1b801234);
    cr_expect_eq(cfg_read(&w, PCI_CLASS_REVISION, 4), 0x030000a1);
    cr_expect_eq(cfg_read(&w, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x12345678);
    /* Of what the host made of it: a lone function, no line yet, the guest's pin. */
    cr_expect_eq(cfg_read(&w, PCI_HEADER_TYPE, 1), 0);
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_LINE, 2), 0x0100);
    cfg_write(&w, PCI_INTERRUPT_LINE, 2, 0xffff);
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_LINE, 2), 0x01ff);
    cr_expect_eq(w.vfio.config[PCI_INTERRUPT_LINE], 11, "never at the device");
}

Test(vfio_pci_config, list_shows_what_the_table_says)
{
    const unsigned want_id[] = {PCI_CAP_ID_PM,   PCI_CAP_ID_MSI, PCI_CAP_ID_EXP,
                                PCI_CAP_ID_MSIX, PCI_CAP_ID_AF,  PCI_CAP_ID_VNDR};
    const unsigned want_pos[] = {0x40, 0x50, 0x70, 0xb0, 0xc0, 0xd0};
    unsigned pos[64], id[64];

    cr_assert_eq(world_create(&w), 0);
    cr_assert_eq(walk(pos, id, 64), ARRAY_SIZE(want_id));
    for (unsigned i = 0; i < ARRAY_SIZE(want_id); i++) {
        cr_expect_eq(id[i], want_id[i]);
        cr_expect_eq(pos[i], want_pos[i], "capabilities keep their places");
    }
}

Test(vfio_pci_config, first_extended_capability_stays_as_an_empty_head)
{
    unsigned pos[16], id[16];

    cr_assert_eq(world_create(&w), 0);
    cr_assert_eq(walk_ext(pos, id, 16), 3);
    cr_expect_eq(id[0], 0, "AER hidden");
    cr_expect_eq(pos[1], 0x140);
    cr_expect_eq(id[1], PCI_EXT_CAP_ID_DSN);
    cr_expect_eq(pos[2], 0x160, "ARI skipped");
    cr_expect_eq(cfg_read(&w, 0x160, 4) >> 20, 0, "SR-IOV cut off the end");
}

Test(vfio_pci_config, all_extended_capabilities_hidden_reads_as_none)
{
    fake_vfio_ext_cap(&w.vfio, 0x100, PCI_EXT_CAP_ID_SRIOV, 0x140);
    fake_vfio_ext_cap(&w.vfio, 0x140, PCI_EXT_CAP_ID_ARI, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, 0x100, 4), 0);
}

Test(vfio_pci_config, no_list_at_all)
{
    put_le16(w.vfio.config + PCI_STATUS, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, PCI_CAPABILITY_LIST, 1), 0);
    cr_expect_eq(w.pci->msi.pos, 0);
}

Test(vfio_pci_config, only_hidden_capabilities_clear_the_status_bit)
{
    w.vfio.config[PCI_CAPABILITY_LIST] = 0x40;
    fake_vfio_cap(&w.vfio, 0x40, PCI_CAP_ID_EA, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, 0);
    cr_expect_eq(cfg_read(&w, PCI_CAPABILITY_LIST, 1), 0);
}

static void expect_bounded_lists(void)
{
    unsigned pos[600], id[600];

    cr_assert_eq(world_create(&w), 0);
    cr_expect_leq(walk(pos, id, 600), 48);
    cr_expect_leq(walk_ext(pos, id, 600), 480);
}

Test(vfio_pci_config, hostile_list_points_to_itself)
{
    fake_vfio_cap(&w.vfio, 0x40, PCI_CAP_ID_VNDR, 0x40);
    fake_vfio_ext_cap(&w.vfio, 0x100, PCI_EXT_CAP_ID_VNDR, 0x100);
    expect_bounded_lists();
}

Test(vfio_pci_config, hostile_list_is_a_ring)
{
    fake_vfio_cap(&w.vfio, 0xd0, PCI_CAP_ID_VNDR, 0x50);
    fake_vfio_ext_cap(&w.vfio, 0x180, PCI_EXT_CAP_ID_VNDR, 0x140);
    expect_bounded_lists();
}

Test(vfio_pci_config, hostile_list_is_a_ring_of_hidden_ones)
{
    fake_vfio_cap(&w.vfio, 0xc8, PCI_CAP_ID_EA, 0xd8);
    fake_vfio_cap(&w.vfio, 0xd8, PCI_CAP_ID_HT, 0xc8);
    fake_vfio_ext_cap(&w.vfio, 0x150, PCI_EXT_CAP_ID_ARI, 0x150);
    expect_bounded_lists();
}

Test(vfio_pci_config, hostile_list_points_into_the_header)
{
    fake_vfio_cap(&w.vfio, 0x40, PCI_CAP_ID_VNDR, 0x10);
    fake_vfio_ext_cap(&w.vfio, 0x100, PCI_EXT_CAP_ID_VNDR, 0x80);
    expect_bounded_lists();
    cr_expect_eq(cfg_read(&w, 0x41, 1), 0, "the list ends before");
    cr_expect_eq(cfg_read(&w, 0x100, 4) >> 20, 0);
}

Test(vfio_pci_config, unaligned_pointers_are_masked)
{
    unsigned pos[64], id[64];

    w.vfio.config[PCI_CAPABILITY_LIST] = 0x43;
    fake_vfio_cap(&w.vfio, 0x40, PCI_CAP_ID_PM, 0xd2);
    cr_assert_eq(world_create(&w), 0);
    cr_assert_eq(walk(pos, id, 64), 2);
    cr_expect_eq(pos[0], 0x40);
    cr_expect_eq(pos[1], 0xd0);
}

Test(vfio_pci_config, hostile_list_has_everything_everywhere)
{
    /* Capabilities of every kind, overlapping, up to the last byte. */
    for (unsigned pos = 0x40; pos < 0x100; pos += 4)
        fake_vfio_cap(&w.vfio, pos, (uint8_t)(pos / 4 % 0x16), (uint8_t)(pos + 4));
    for (unsigned pos = 0x100; pos < 0x1000; pos += 4)
        fake_vfio_ext_cap(&w.vfio, pos, (uint16_t)(pos / 4 % 0x30), (pos + 4) & 0xfff);
    expect_bounded_lists();
    /* And a guest that writes all over it. */
    for (unsigned pos = 0x40; pos < 0x1000; pos += 4)
        cfg_write(&w, pos, 4, pos * 0x9e3779b9U);
    cr_expect_leq(cfg_read(&w, PCI_CAPABILITY_LIST, 1), 0xfc);
}

Test(vfio_pci_config, a_capability_that_does_not_fit_is_hidden)
{
    unsigned pos[64], id[64];

    w.vfio.config[PCI_CAPABILITY_LIST] = 0xf8;
    fake_vfio_cap(&w.vfio, 0xf8, PCI_CAP_ID_MSIX, 0xfc);
    fake_vfio_cap(&w.vfio, 0xfc, PCI_CAP_ID_EXP, 0xf4);
    fake_vfio_cap(&w.vfio, 0xf4, PCI_CAP_ID_MSI, 0xec);
    put_le16(w.vfio.config + 0xf6, PCI_MSI_FLAGS_64BIT);
    fake_vfio_cap(&w.vfio, 0xec, PCI_CAP_ID_VNDR, 0);
    cr_assert_eq(world_create(&w), 0);
    cr_assert_eq(walk(pos, id, 64), 1);
    cr_expect_eq(pos[0], 0xec);
}

Test(vfio_pci_config, the_second_of_a_kind_is_hidden)
{
    unsigned pos[64], id[64];

    fake_vfio_cap(&w.vfio, 0xc8, PCI_CAP_ID_MSIX, 0xd8);
    fake_vfio_cap(&w.vfio, 0xd8, PCI_CAP_ID_PM, 0xe0);
    fake_vfio_cap(&w.vfio, 0xe0, PCI_CAP_ID_MSI, 0xd0);
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(walk(pos, id, 64), 6);
    cr_expect_eq(w.pci->msix.pos, 0xb0);
    cr_expect_eq(w.pci->pm, 0x40);
    cr_expect_eq(w.pci->msi.pos, 0x50);
}

Test(vfio_pci_config, pcie_without_a_link)
{
    cr_assert_eq(world_create(&w), 0);
    uint32_t flags = cfg_read(&w, 0x72, 2);
    cr_expect_eq((flags & PCI_EXP_FLAGS_TYPE) >> 4, PCI_EXP_TYPE_RC_END);
    cr_expect_eq(flags & PCI_EXP_FLAGS_VERS, 2);
    cr_expect_eq(cfg_read(&w, 0x70 + PCI_EXP_LNKCAP, 4), 0);
    cr_expect_eq(cfg_read(&w, 0x70 + PCI_EXP_LNKCTL, 4), 0);
    cr_expect_eq(cfg_read(&w, 0x70 + PCI_EXP_LNKCAP2, 4), 0);
    cr_expect_eq(cfg_read(&w, 0x70 + PCI_EXP_DEVCAP, 4), PCI_EXP_DEVCAP_FLR);
    cfg_write(&w, 0x70 + PCI_EXP_LNKCTL, 2, 0x40);
    cr_expect_eq(fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0),
                 NULL, "the real link is the host's");
}

Test(vfio_pci_config, writes_pass_with_the_guests_size)
{
    cr_assert_eq(world_create(&w), 0);
    cfg_write(&w, 0xd4, 4, 0xcafe1234);
    cfg_write(&w, 0xd9, 1, 0x77);
    const struct fake_vfio_call *call =
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0);
    cr_assert_not_null(call);
    cr_expect_eq(call->offset, 0xd4);
    cr_expect_eq(call->size, 4);
    cr_expect_eq(call->value, 0xcafe1234);
    cr_expect_eq(w.vfio.config[0xd9], 0x77);
    cr_expect_eq(cfg_read(&w, 0xd4, 4), 0xcafe1234);
    /* Beside emulated bytes, those keep what the device has. */
    cfg_write(&w, 0xd0, 4, 0xffffffff);
    cr_expect_eq(get_le32(w.vfio.config + 0xd0), 0xffff0009);
    cr_expect_eq(cfg_read(&w, 0xd0, 1), PCI_CAP_ID_VNDR);
}

Test(vfio_pci_config, message_capabilities_never_reach_the_device)
{
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, 0x54, 4), 0, "the host's address does not show");
    for (unsigned pos = 0x54; pos < 0x68; pos += 4)
        cfg_write(&w, pos, 4, 0xfee00000);
    cfg_write(&w, 0xb0, 4, 0xc0000000);
    cfg_write(&w, 0xb4, 4, 0xffffffff);
    cr_expect_eq(w.vfio.calls[FAKE_REGION_WRITE], 0);
    cr_expect_eq(get_le32(w.vfio.config + 0x54), 0xfee12340);
    cr_expect_eq(cfg_read(&w, 0xb4, 4), 0x2001, "where the table is cannot be moved");
}

Test(vfio_pci_config, slots_are_gone_before_decoding_is_off)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cr_assert_eq(fake_hv_live_slots(&w.hv), 3);
    const struct fake_vfio_call *on =
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0);
    cr_expect_eq(on->value, PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    cr_expect_eq(on->slots, 0, "and come after it is on");
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_IO);
    const struct fake_vfio_call *off =
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0);
    cr_expect_eq(off->slots, 0);
    cr_expect_eq(w.vfio.config[PCI_COMMAND], PCI_COMMAND_IO);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
}

Test(vfio_pci_config, command_by_bytes_and_with_status)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    cfg_write(&w, PCI_COMMAND + 1, 1, PCI_COMMAND_INTX_DISABLE >> 8);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3, "the upper byte has no MEM bit");
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, PCI_COMMAND, 1, PCI_COMMAND_MASTER);
    cr_expect_eq(
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0)->slots, 0);
    cfg_write(&w, PCI_COMMAND, 4, PCI_COMMAND_MEMORY);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    cr_expect_eq(cfg_read(&w, PCI_COMMAND, 2), PCI_COMMAND_MEMORY);
}

static void expect_interrupted(unsigned offset, unsigned size, uint32_t value)
{
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, offset, size, value);
    const struct fake_vfio_call *call =
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0);
    cr_assert_not_null(call);
    cr_expect_eq(call->slots, 0, "slots in place at a write of 0x%x to 0x%x", value, offset);
}

Test(vfio_pci_config, slots_are_gone_during_a_function_reset)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    expect_interrupted(0x70 + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR | 0x10);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    expect_interrupted(0x70 + PCI_EXP_DEVCTL, 4, PCI_EXP_DEVCTL_BCR_FLR);
    expect_interrupted(0x70 + PCI_EXP_DEVCTL + 1, 1, 0x80);
    expect_interrupted(0xc0 + PCI_AF_CTRL, 1, PCI_AF_CTRL_FLR);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    /* Another write of the same registers is no reset. */
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, 0x70 + PCI_EXP_DEVCTL, 2, 0x2810);
    cr_expect_eq(
        fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, VFIO_PCI_CONFIG_REGION_INDEX, 0)->slots, 3);
}

Test(vfio_pci_config, slots_are_gone_in_d3hot)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    expect_interrupted(0x40 + PCI_PM_CTRL, 2, 3);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
    /* Moving a BAR in D3 brings none back. */
    cfg_write(&w, PCI_BASE_ADDRESS_0, 4, WORLD_BAR0 + 0x4000000);
    cfg_write(&w, 0xd4, 4, 0);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
    expect_interrupted(0x40 + PCI_PM_CTRL, 2, 0);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
    cr_expect_not_null(fake_hv_slot_at(&w.hv, WORLD_BAR0 + 0x4000000));
}

Test(vfio_pci_config, power_management_without_a_change_of_state)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    unsigned added = w.hv.calls[FAKE_SLOT_ADD];
    cfg_write(&w, 0x40 + PCI_PM_CTRL, 2, PCI_PM_CTRL_PME_ENABLE);
    cfg_write(&w, 0x40 + PCI_PM_CTRL, 2, 1); /* D1: the BARs answer */
    cr_expect_eq(w.hv.calls[FAKE_SLOT_ADD], added, "slots are costly to change");
    cr_expect_eq(fake_hv_live_slots(&w.hv), 3);
}

Test(vfio_pci_config, d3hot_while_decoding_is_off_maps_nothing_later)
{
    cr_assert_eq(world_create(&w), 0);
    expect_interrupted(0x40 + PCI_PM_CTRL, 2, 3);
    expect_interrupted(0x40 + PCI_PM_CTRL, 2, 0);
    cr_expect_eq(fake_hv_live_slots(&w.hv), 0);
}

Test(vfio_pci_config, conventional_device_has_256_bytes)
{
    w.vfio.region[VFIO_PCI_CONFIG_REGION_INDEX].size = 256;
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(cfg_read(&w, 0x100, 4), UINT32_MAX);
    cfg_write(&w, 0x100, 4, 1);
    cr_expect_eq(w.vfio.calls[FAKE_REGION_WRITE], 0);
    cr_expect_eq(cfg_read(&w, 0xfc, 4), 0);
}

Test(vfio_pci_config, a_device_that_dies_reads_all_ones)
{
    cr_assert_eq(world_create(&w), 0);
    w.vfio.dead = true;
    cr_expect_eq(cfg_read(&w, PCI_VENDOR_ID, 4), UINT32_MAX);
    w.vfio.dead = false;
    fake_vfio_fail(&w.vfio, FAKE_REGION_READ, 1, EIO);
    cr_expect_eq(cfg_read(&w, PCI_VENDOR_ID, 2), 0xffff);
    fake_vfio_fail(&w.vfio, FAKE_REGION_WRITE, 1, EIO);
    cfg_write(&w, 0xd4, 4, 1);
}

Test(vfio_pci_config, bridges_are_refused)
{
    w.vfio.config[PCI_HEADER_TYPE] = PCI_HEADER_TYPE_BRIDGE;
    cr_expect_eq(world_create(&w), -EINVAL);
}

/* ---- clique ---- */

static void be_nvidia(uint16_t class)
{
    put_le16(w.vfio.config + PCI_VENDOR_ID, VFIO_PCI_NVIDIA);
    put_le16(w.vfio.config + PCI_CLASS_DEVICE, class);
    w.config.clique = 5;
}

static void expect_clique(unsigned at)
{
    unsigned pos[64], id[64], n;

    cr_assert_eq(world_create(&w), 0);
    n = walk(pos, id, 64);
    cr_assert_gt(n, 0);
    cr_expect_eq(pos[n - 1], at, "the last of the list");
    /* cap id, no next, 8 bytes, "P2P"; version 0 in bits 18:16, clique in bits 22:19. */
    cr_expect_eq(cfg_read(&w, at, 4), 0x50080009);
    cr_expect_eq(cfg_read(&w, at + 4, 4), 5 << 19 | 0x5032);
    cfg_write(&w, at, 4, 0xffffffff);
    cfg_write(&w, at + 4, 4, 0);
    cr_expect_eq(cfg_read(&w, at + 4, 4), 5 << 19 | 0x5032, "read-only");
    cr_expect_eq(w.vfio.calls[FAKE_REGION_WRITE], 0, "the device hears nothing");
    cr_assert_eq(vfio_pci_reset(w.pci), 0);
    cr_expect_eq(cfg_read(&w, at + 4, 4), 5 << 19 | 0x5032);
}

Test(vfio_pci_config, clique_at_its_first_place)
{
    be_nvidia(0x0302);
    fake_vfio_cap(&w.vfio, 0xc0, PCI_CAP_ID_AF, 0xd0);
    expect_clique(0xc8);
}

Test(vfio_pci_config, clique_beside_msix)
{
    be_nvidia(VFIO_PCI_CLASS_VGA);
    fake_vfio_cap(&w.vfio, 0x70, PCI_CAP_ID_EXP, 0xc8);
    memcpy(w.vfio.config + 0xc8, w.vfio.config + 0xb0, 12);
    fake_vfio_cap(&w.vfio, 0xc8, PCI_CAP_ID_MSIX, 0);
    expect_clique(0xd4);
    cr_expect_eq(w.pci->msix.pos, 0xc8);
}

Test(vfio_pci_config, clique_beside_the_end_of_another)
{
    be_nvidia(0x0302);
    fake_vfio_cap(&w.vfio, 0x70, PCI_CAP_ID_EXP, 0xc0);
    memcpy(w.vfio.config + 0xc0, w.vfio.config + 0xb0, 12);
    fake_vfio_cap(&w.vfio, 0xc0, PCI_CAP_ID_MSIX, 0);
    expect_clique(0xd4);
}

Test(vfio_pci_config, clique_as_the_only_capability)
{
    be_nvidia(0x0302);
    put_le16(w.vfio.config + PCI_STATUS, 0);
    expect_clique(0xc8);
}

Test(vfio_pci_config, clique_without_a_place)
{
    be_nvidia(0x0302);
    fake_vfio_cap(&w.vfio, 0xd0, PCI_CAP_ID_VNDR, 0xd8);
    fake_vfio_cap(&w.vfio, 0xd8, PCI_CAP_ID_VNDR, 0);
    cr_expect_eq(world_create(&w), -ENOSPC);
}

Test(vfio_pci_config, clique_is_for_nvidia)
{
    w.config.clique = 0;
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_config, clique_is_for_display_devices)
{
    be_nvidia(0x0403); /* a card's sound */
    cr_expect_eq(world_create(&w), -EINVAL);
}
