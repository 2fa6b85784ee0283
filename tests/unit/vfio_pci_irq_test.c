/*
 * vfio_pci_irq_test.c: interrupts from the device's side to the guest's.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "tests/unit/vfio_pci_world.h"

#define GSI    19 /* slot 3, INTA# */
#define MSI    0x50
#define MSIX   0xb0
#define TABLE  (WORLD_BAR1 + 0x2000)
#define NO_IRQ VFIO_PCI_NUM_IRQS

static struct world w;

static void setup(void)
{
    world_init(&w);
}

static void teardown(void)
{
    world_fini(&w);
}

TestSuite(vfio_pci_irq, .init = setup, .fini = teardown);

static void start(void)
{
    cr_assert_eq(world_create(&w), 0);
    world_start_guest(&w);
    fake_vfio_forget(&w.vfio);
}

static void set_msix(uint16_t control)
{
    cfg_write(&w, MSIX + PCI_MSIX_FLAGS, 2, control);
}

/* Vector I gets a message with DATA, masked or not. */
static void set_entry(unsigned i, uint32_t data, bool masked)
{
    mmio_write(&w, TABLE + 16 * i, 8, 0xfee00000);
    mmio_write(&w, TABLE + 16 * i + 8, 4, data);
    mmio_write(&w, TABLE + 16 * i + 12, 4, masked);
}

static void set_msi(unsigned order, bool enable)
{
    cfg_write(&w, MSI + PCI_MSI_ADDRESS_LO, 4, 0xfee00000);
    cfg_write(&w, MSI + PCI_MSI_DATA_64, 2, 0x40);
    cfg_write(&w, MSI + PCI_MSI_FLAGS, 2, order << 4 | enable);
}

/* The Nth SET_IRQS call, in text: comparisons then show what is wrong. */
static const struct fake_vfio_call *irq_call(uint32_t index, unsigned n)
{
    const struct fake_vfio_call *call = fake_vfio_find(&w.vfio, FAKE_IRQ_SET, index, n);

    cr_assert_not_null(call, "no call %u for interrupt index %u", n, index);
    return call;
}

static void expect_trigger(uint32_t index, unsigned n, unsigned first, unsigned count)
{
    const struct fake_vfio_call *call = irq_call(index, n);
    uint32_t data = count ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE;

    cr_expect_eq(call->flags, data | VFIO_IRQ_SET_ACTION_TRIGGER);
    cr_expect_eq(call->start, first, "start %u", call->start);
    cr_expect_eq(call->count, count, "count %u", call->count);
}

/* ---- INTx ---- */

Test(vfio_pci_irq, intx_is_arranged_while_masked)
{
    const uint32_t want[] = {
        VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
        VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK,
        VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK,
        VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
    };

    start();
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
    fake_vfio_forget(&w.vfio);
    cfg_write(&w, PCI_COMMAND, 2, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
        cr_expect_eq(irq_call(VFIO_PCI_INTX_IRQ_INDEX, i)->flags, want[i]);
}

Test(vfio_pci_irq, intx_is_masked_until_the_guests_end_of_interrupt)
{
    eventfd_t n;

    start();
    const struct fake_irqfd *irqfd = fake_hv_irqfd_on(&w.hv, GSI);
    cr_assert_not_null(irqfd);
    cr_expect_eq(irqfd->resample_fd, w.vfio.unmask_fd, "unmasked without a user-space hop");
    cr_expect(fake_vfio_fire(&w.vfio, 0));
    cr_expect(fake_hv_deliver(&w.hv, GSI));
    cr_expect(w.hv.level[GSI]);
    cr_expect_not(fake_vfio_fire(&w.vfio, 0), "masked");
    fake_hv_eoi(&w.hv, GSI);
    cr_expect_not(w.hv.level[GSI]);
    cr_expect_eq(eventfd_read(w.vfio.unmask_fd, &n), 0, "the host hears of it");
}

Test(vfio_pci_irq, intx_follows_the_disable_bit)
{
    start();
    cfg_write(&w, PCI_COMMAND + 1, 1, PCI_COMMAND_INTX_DISABLE >> 8);
    cr_expect_eq(w.vfio.active, NO_IRQ);
    cr_expect_null(fake_hv_irqfd_on(&w.hv, GSI));
    cfg_write(&w, PCI_COMMAND + 1, 1, PCI_COMMAND_INTX_DISABLE >> 8);
    cfg_write(&w, PCI_COMMAND, 4, 0);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
    cr_expect_not_null(fake_hv_irqfd_on(&w.hv, GSI));
}

Test(vfio_pci_irq, intx_without_automask_is_a_pulse)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_INTX_IRQ_INDEX, 1, VFIO_IRQ_INFO_EVENTFD);
    start();
    cr_expect_eq(fake_hv_irqfd_on(&w.hv, GSI)->resample_fd, -1);
    cr_expect_eq(w.vfio.unmask_fd, -1);
    cr_expect(fake_vfio_fire(&w.vfio, 0));
    cr_expect(fake_hv_deliver(&w.hv, GSI));
}

/* As the kernel's mtty sample: it masks itself, and answers an eventfd to unmask with ENOTTY.
 */
Test(vfio_pci_irq, intx_that_takes_no_unmask_eventfd_is_unmasked_by_the_loop)
{
    fake_vfio_fail(&w.vfio, FAKE_IRQ_SET, 3, ENOTTY);
    start();
    cr_expect_eq(w.vfio.unmask_fd, -1);
    for (unsigned i = 0; i < 2; i++) { /* the second time after it was off */
        cr_expect(fake_vfio_fire(&w.vfio, 0));
        cr_expect(fake_hv_deliver(&w.hv, GSI));
        cr_expect_not(fake_vfio_fire(&w.vfio, 0), "masked");
        fake_hv_eoi(&w.hv, GSI);
        cr_expect_eq(eventfd_write(w.vfio.event_fd[0], 1), 0); /* ends the loop */
        if (!i) {
            loop_run(w.loop);
            cr_expect_not(w.vfio.masked, "unmasked");
            cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
            cfg_write(&w, PCI_COMMAND, 2, 0);
            cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
        }
    }
}

Test(vfio_pci_irq, no_intx_no_pin)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_INTX_IRQ_INDEX, 0, VFIO_IRQ_INFO_EVENTFD);
    start();
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_PIN, 1), 0);
    cr_expect_eq(w.vfio.active, NO_IRQ);
}

Test(vfio_pci_irq, a_fifth_pin_is_none)
{
    w.vfio.config[PCI_INTERRUPT_PIN] = 5;
    start();
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_PIN, 1), 0);
    cr_expect_eq(fake_hv_live_irqfds(&w.hv), 0);
}

Test(vfio_pci_irq, refused_resampling_leaves_msi)
{
    fake_hv_fail(&w.hv, FAKE_IRQFD_ADD, 1, EINVAL);
    start();
    cr_expect_eq(cfg_read(&w, PCI_INTERRUPT_PIN, 1), 0);
    set_msi(0, true);
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSI_IRQ_INDEX);
    set_msi(0, false);
    cr_expect_eq(w.vfio.active, NO_IRQ);
}

Test(vfio_pci_irq, refused_resampling_without_msi_is_an_error)
{
    w.vfio.config[PCI_CAPABILITY_LIST] = 0;
    fake_hv_fail(&w.hv, FAKE_IRQFD_ADD, 1, EINVAL);
    cr_expect_eq(world_create(&w), -EINVAL);
}

Test(vfio_pci_irq, each_step_of_intx_is_undone)
{
    w.vfio.config[PCI_CAPABILITY_LIST] = 0;
    for (unsigned step = 1; step <= 4; step++) {
        fake_vfio_fail(&w.vfio, FAKE_IRQ_SET, step, EIO);
        w.vfio.calls[FAKE_CLOSE] = 0;
        cr_expect_eq(world_create(&w), -EIO);
        cr_expect_eq(fake_hv_live(&w.hv), 0);
        cr_expect_eq(w.vfio.active, NO_IRQ);
    }
}

/* ---- MSI-X ---- */

Test(vfio_pci_irq, msix_enable_switches_the_device_at_once)
{
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSIX_IRQ_INDEX);
    expect_trigger(VFIO_PCI_INTX_IRQ_INDEX, 1, 0, 0);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, 1);
    cr_expect_eq(irq_call(VFIO_PCI_MSIX_IRQ_INDEX, 0)->fd, -1);
    cr_expect_null(fake_hv_irqfd_on(&w.hv, GSI));
    set_msix(0);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX, "INTx is back");
}

Test(vfio_pci_irq, msix_vectors_are_added_one_by_one)
{
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    set_entry(0, 0x30, false);
    set_entry(5, 0x35, false);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 1, 0, 1);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 2, 5, 1);
    cr_expect_null(fake_vfio_find(&w.vfio, FAKE_IRQ_SET, VFIO_PCI_MSIX_IRQ_INDEX, 3));
    cr_expect(fake_vfio_fire(&w.vfio, 5));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x35));
    cr_expect_not(fake_hv_deliver_data(&w.hv, 0x30));
}

Test(vfio_pci_irq, msix_as_linux_does_it_is_one_call)
{
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    for (unsigned i = 0; i < 8; i++)
        set_entry(i, 0x30 + i, true);
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 1, 0, 8);
    for (unsigned i = 0; i < 8; i++)
        set_entry(i, 0x30 + i, false);
    cr_expect_null(fake_vfio_find(&w.vfio, FAKE_IRQ_SET, VFIO_PCI_MSIX_IRQ_INDEX, 2));
    cr_expect(fake_vfio_fire(&w.vfio, 7));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x37));
}

Test(vfio_pci_irq, msix_that_cannot_grow_is_set_up_anew_and_loses_nothing)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSIX_IRQ_INDEX, 8,
                  VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE);
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    set_entry(0, 0x30, false);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 1, 0, 1);
    set_entry(3, 0x33, false);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 2, 0, 0);
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 3, 0, 4);
    cr_expect(fake_hv_deliver_data(&w.hv, 0x30), "what may have been lost is made good");
    cr_expect_not(fake_hv_deliver_data(&w.hv, 0x33));
    cr_expect(fake_vfio_fire(&w.vfio, 0));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x30));
    cr_expect(fake_vfio_fire(&w.vfio, 3));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x33));
    set_entry(1, 0x31, false); /* within what there is */
    expect_trigger(VFIO_PCI_MSIX_IRQ_INDEX, 4, 1, 1);
    cr_expect_not(fake_hv_deliver_data(&w.hv, 0x30));
}

Test(vfio_pci_irq, msix_that_failed_to_grow_keeps_what_it_had)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSIX_IRQ_INDEX, 8,
                  VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE);
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    set_entry(0, 0x30, false);
    /* Mask 1; take all away is the next call, then setting up. */
    fake_vfio_fail(&w.vfio, FAKE_IRQ_SET, 2, ENOMEM);
    set_entry(3, 0x33, false);
    cr_expect_eq(w.vfio.vectors, 1);
    cr_expect(fake_hv_deliver_data(&w.hv, 0x30));
    cr_expect(fake_vfio_fire(&w.vfio, 0));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x30));
}

Test(vfio_pci_irq, fewer_vectors_than_asked_for)
{
    w.vfio.vector_limit = 2;
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    for (unsigned i = 0; i < 4; i++)
        set_entry(i, 0x30 + i, false);
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSIX_IRQ_INDEX, 8,
                  VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE);
    w.pci->msix.dynamic = false;
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    cr_expect_eq(w.vfio.vectors, 2);
    cr_expect(fake_vfio_fire(&w.vfio, 1));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x31));
    cr_expect_not(fake_vfio_fire(&w.vfio, 3));
}

Test(vfio_pci_irq, msix_refused_by_the_device)
{
    start();
    fake_vfio_fail(&w.vfio, FAKE_IRQ_SET, 2, EBUSY); /* INTx off, then this */
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX, "INTx comes back");
    set_entry(0, 0x30, false);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
    set_msix(0);
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSIX_IRQ_INDEX, "and it may try again");
}

Test(vfio_pci_irq, msix_table_size_is_what_the_host_has)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSIX_IRQ_INDEX, 3, VFIO_IRQ_INFO_EVENTFD);
    start();
    cr_expect_eq(cfg_read(&w, MSIX + PCI_MSIX_FLAGS, 2), 2);
    mmio_write(&w, TABLE + 7 * 16, 4, 0xfee00000);
    cr_expect_eq(mmio_read(&w, TABLE + 7 * 16, 4), 0, "no such entry");
    cr_expect_null(fake_vfio_find(&w.vfio, FAKE_REGION_WRITE, 1, 0), "nor a real one");
}

static void expect_no_msix(void)
{
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(w.pci->msix.pos, 0);
    cr_expect_eq(w.pci->traps, 0);
    cr_expect_eq(cfg_read(&w, 0x71, 1), 0xc0, "unlinked");
    cfg_write(&w, MSIX + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
}

Test(vfio_pci_irq, hostile_table_beyond_its_bar)
{
    put_le32(w.vfio.config + MSIX + PCI_MSIX_TABLE, 0xff88 | 1);
    expect_no_msix();
}

Test(vfio_pci_irq, hostile_pba_far_away)
{
    put_le32(w.vfio.config + MSIX + PCI_MSIX_PBA, 0xfffffff8 | 1);
    expect_no_msix();
}

Test(vfio_pci_irq, hostile_table_in_no_bar)
{
    put_le32(w.vfio.config + MSIX + PCI_MSIX_TABLE, 2); /* the upper half of BAR1 */
    expect_no_msix();
}

Test(vfio_pci_irq, hostile_table_in_bar_7)
{
    put_le32(w.vfio.config + MSIX + PCI_MSIX_TABLE, 7);
    expect_no_msix();
}

Test(vfio_pci_irq, hostile_table_in_ports)
{
    put_le32(w.vfio.config + MSIX + PCI_MSIX_TABLE, 5);
    expect_no_msix();
}

Test(vfio_pci_irq, hostile_table_of_2048_in_a_small_bar)
{
    put_le16(w.vfio.config + MSIX + PCI_MSIX_FLAGS, 0x7ff);
    put_le32(w.vfio.config + MSIX + PCI_MSIX_TABLE, 0x8008 | 1);
    expect_no_msix();
}

/* As many as there can be: put to use one by one, then masked one by one. */
static void use_2048(uint32_t flags)
{
    struct rlimit limit;
    uint32_t lost[3] = {0};

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    put_le16(w.vfio.config + MSIX + PCI_MSIX_FLAGS, 0x7ff);
    put_le32(w.vfio.config + MSIX + PCI_MSIX_PBA, 0xb001);
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSIX_IRQ_INDEX, 2048, VFIO_IRQ_INFO_EVENTFD | flags);
    start();
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    for (unsigned i = 0; i < 2048; i++) {
        if (i > 0) /* while another is under way */
            lost[0] += !fake_vfio_fire(&w.vfio, i - 1);
        set_entry(i, i, false);
        lost[0] += i > 0 && !fake_hv_deliver_data(&w.hv, i - 1);
    }
    for (unsigned i = 0; i < 2048; i++)
        fake_hv_deliver_data(&w.hv, i); /* those that came once more when it was set up anew */
    for (unsigned i = 0; i < 2048; i++) {
        set_entry(i, i, true);
        lost[1] += !fake_vfio_fire(&w.vfio, i) || fake_hv_deliver_data(&w.hv, i);
        lost[1] += !(mmio_read(&w, WORLD_BAR1 + 0xb000 + i / 64 * 8, 8) >> i % 64 & 1);
    }
    for (unsigned i = 2048; i-- > 0;) {
        set_entry(i, i, false);
        lost[2] += !fake_hv_deliver_data(&w.hv, i) || fake_hv_deliver_data(&w.hv, i);
    }
    cr_expect_eq(lost[0] + lost[1] + lost[2], 0, "%u while added, %u masked, %u unmasked",
                 lost[0], lost[1], lost[2]);
    cr_expect_eq(w.vfio.vectors, 2048);
}

Test(vfio_pci_irq, msix_with_2048_vectors)
{
    use_2048(0);
}

Test(vfio_pci_irq, msix_with_2048_vectors_that_cannot_be_added)
{
    use_2048(VFIO_IRQ_INFO_NORESIZE);
}

Test(vfio_pci_irq, no_msix_vectors_at_the_host)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSIX_IRQ_INDEX, 0, VFIO_IRQ_INFO_EVENTFD);
    expect_no_msix();
}

/* ---- MSI ---- */

Test(vfio_pci_irq, msi_is_set_up_by_one_call)
{
    start();
    set_msi(2, true);
    expect_trigger(VFIO_PCI_INTX_IRQ_INDEX, 1, 0, 0);
    expect_trigger(VFIO_PCI_MSI_IRQ_INDEX, 0, 0, 4);
    cr_expect_null(fake_vfio_find(&w.vfio, FAKE_IRQ_SET, VFIO_PCI_MSI_IRQ_INDEX, 1));
    cr_expect(fake_vfio_fire(&w.vfio, 3));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x43));
    set_msi(2, false);
    expect_trigger(VFIO_PCI_MSI_IRQ_INDEX, 1, 0, 0);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
}

Test(vfio_pci_irq, msi_masked_is_pending)
{
    start();
    set_msi(1, true);
    cfg_write(&w, MSI + PCI_MSI_MASK_64, 4, UINT32_MAX);
    cr_expect_eq(cfg_read(&w, MSI + PCI_MSI_MASK_64, 4), 0xf, "as many bits as vectors");
    cr_expect(fake_vfio_fire(&w.vfio, 1));
    cr_expect_not(fake_hv_deliver_data(&w.hv, 0x41));
    cr_expect_eq(cfg_read(&w, MSI + PCI_MSI_PENDING_64, 4), 2);
    cr_expect_eq(cfg_read(&w, MSI + PCI_MSI_PENDING_64, 1), 2);
    cfg_write(&w, MSI + PCI_MSI_MASK_64, 4, 0);
    cr_expect(fake_hv_deliver_data(&w.hv, 0x41));
    cr_expect_eq(cfg_read(&w, MSI + PCI_MSI_PENDING_64, 4), 0);
}

Test(vfio_pci_irq, msi_gets_fewer_than_asked_for)
{
    w.vfio.vector_limit = 1;
    start();
    set_msi(2, true);
    cr_expect_eq(w.vfio.vectors, 1);
    cr_expect(fake_vfio_fire(&w.vfio, 0));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x40));
}

Test(vfio_pci_irq, msi_offers_what_the_host_has)
{
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSI_IRQ_INDEX, 3, VFIO_IRQ_INFO_EVENTFD);
    start();
    cr_expect_eq((cfg_read(&w, MSI + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_QMASK) >> 1, 1);
    cr_expect_eq(w.pci->msi.msi.nr, 2);
}

Test(vfio_pci_irq, msi_reserved_number_of_messages)
{
    put_le16(w.vfio.config + MSI + PCI_MSI_FLAGS, 7 << 1);
    fake_vfio_irq(&w.vfio, VFIO_PCI_MSI_IRQ_INDEX, 1000, VFIO_IRQ_INFO_EVENTFD);
    start();
    cr_expect_eq(w.pci->msi.msi.nr, 32);
    cfg_write(&w, MSI + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_QSIZE); /* 128 messages */
    set_msi(7, true);
}

Test(vfio_pci_irq, msi_narrow_without_mask_bits_leaves_what_follows)
{
    put_le16(w.vfio.config + MSI + PCI_MSI_FLAGS, 0);
    put_le32(w.vfio.config + MSI + 12, 0xabcd1234); /* no longer part of it */
    start();
    cr_expect_eq(w.pci->msi.len, 10);
    cr_expect_eq(cfg_read(&w, MSI + 12, 4), 0xabcd1234);
    cfg_write(&w, MSI + PCI_MSI_ADDRESS_LO, 4, 0xfee00003);
    cr_expect_eq(cfg_read(&w, MSI + PCI_MSI_ADDRESS_LO, 4), 0xfee00000);
    cfg_write(&w, MSI + PCI_MSI_DATA_32, 2, 0x55);
    cfg_write(&w, MSI + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_ENABLE);
    cr_expect(fake_vfio_fire(&w.vfio, 0));
    cr_expect(fake_hv_deliver_data(&w.hv, 0x55));
}

Test(vfio_pci_irq, msi_and_msix_together_are_not_possible)
{
    start();
    set_msi(0, true);
    set_msix(PCI_MSIX_FLAGS_ENABLE);
    set_entry(0, 0x30, false);
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSI_IRQ_INDEX, "the first stays");
    set_msix(0);
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSI_IRQ_INDEX);
    set_msi(0, false);
    cr_expect_eq(w.vfio.active, VFIO_PCI_INTX_IRQ_INDEX);
}

Test(vfio_pci_irq, intx_disabled_stays_off_after_msi)
{
    start();
    set_msi(0, true);
    cfg_write(&w, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE | PCI_COMMAND_MEMORY);
    cr_expect_eq(w.vfio.active, VFIO_PCI_MSI_IRQ_INDEX);
    set_msi(0, false);
    cr_expect_eq(w.vfio.active, NO_IRQ);
}

/* ---- events ---- */

Test(vfio_pci_irq, an_error_ends_the_vm_once)
{
    cr_assert_eq(world_create(&w), 0);
    eventfd_write(w.vfio.event_fd[0], 1);
    loop_run(w.loop);
    cr_expect_eq(w.gone, 1);
    cr_expect_eq(w.failed, 1);
    /* A descriptor that stays readable, and signalled again, is not looked at any more. */
    eventfd_write(w.vfio.event_fd[0], 1);
    eventfd_write(w.vfio.event_fd[1], 1);
    loop_run(w.loop);
    cr_expect_eq(w.gone, 2, "the second for the request");
    cr_expect_eq(w.failed, 1);
}

Test(vfio_pci_irq, a_request_for_the_device)
{
    cr_assert_eq(world_create(&w), 0);
    eventfd_write(w.vfio.event_fd[1], 1);
    loop_run(w.loop);
    cr_expect_eq(w.gone, 1);
    cr_expect_eq(w.failed, 0);
}

Test(vfio_pci_irq, events_are_taken_back_at_the_end)
{
    cr_assert_eq(world_create(&w), 0);
    vfio_pci_destroy(w.pci);
    w.pci = NULL;
    cr_expect_eq(w.vfio.event_fd[0], -1);
    cr_expect_eq(w.vfio.event_fd[1], -1);
}

Test(vfio_pci_irq, events_are_optional)
{
    w.vfio.dev.irqs = VFIO_PCI_ERR_IRQ_INDEX;
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(w.pci->err.fd, -1);
    cr_expect_eq(w.pci->req.fd, -1);
}

Test(vfio_pci_irq, an_event_that_cannot_be_had_is_no_error)
{
    fake_vfio_fail(&w.vfio, FAKE_IRQ_SET, 5, ENOMEM); /* after INTx's four */
    cr_assert_eq(world_create(&w), 0);
    cr_expect_eq(w.pci->err.fd, -1);
    cr_expect_neq(w.pci->req.fd, -1);
}
