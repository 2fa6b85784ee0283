/*
 * virtio_test.c: devices/virtio/virtio.c, virtq.c and virtio_pci.c with a device of two queues
 * that writes back what it reads, a good driver and hostile ones.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <sys/eventfd.h>

#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define RUNNING     (VRIG_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK)
#define OWN_FEATURE 5
#define INDIRECT    (1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_IDX   (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define NEXT        VRING_DESC_F_NEXT
#define WRITE       VRING_DESC_F_WRITE

/* A turn is TURN chains: what is read is written, as far as there is room. */
#define TURN 4
struct echo {
    struct virtio virtio;
    struct virtq_chain chain;
    unsigned kicks, resets, chains;
    unsigned out, in; /* of the last chain */
};

static uint32_t copy(struct virtq_chain *chain)
{
    uint32_t done = 0;
    struct iovec *in = &chain->iov[chain->out];
    uint8_t bytes[256] = {0};
    size_t have = 0;
    for (unsigned i = 0; i < chain->out; i++)
        have += chain->iov[i].iov_len;
    have = MIN(have, sizeof(bytes));
    unsigned out = chain->out, nr = chain->in;
    struct iovec keep[VIRTQ_SEGS_MAX];
    memcpy(keep, in, nr * sizeof(*in));
    cr_assert(virtq_read(chain, bytes, have));
    cr_assert_leq(chain->out, out);
    for (unsigned i = 0; i < nr && done < have; i++) {
        size_t n = MIN(keep[i].iov_len, have - done);
        memcpy(keep[i].iov_base, bytes + done, n);
        done += (uint32_t)n;
    }
    return done;
}

static bool echo_kick(struct virtio *dev)
{
    struct echo *e = container_of(dev, struct echo, virtio);
    unsigned n = 0;
    e->kicks++;
    for (unsigned q = 0; q < dev->queues; q++) {
        for (; n < TURN && virtio_pop(dev, q, &e->chain); n++) {
            e->chains++;
            e->out = e->chain.out;
            e->in = e->chain.in;
            virtio_push(dev, q, e->chain.head, copy(&e->chain));
        }
        virtio_notify(dev, q);
    }
    return n == TURN;
}

static void echo_reset(struct virtio *dev)
{
    container_of(dev, struct echo, virtio)->resets++;
}

static const struct virtio_ops echo_ops = {.kick = echo_kick, .reset = echo_reset};
static const uint8_t echo_config[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};

static struct vrig rig;
static struct echo echo;

static void setup(void)
{
    log_set_level(LOG_ERROR);
    vrig_init(&rig);
    echo = (struct echo){.virtio = {.ops = &echo_ops,
                                    .name = "echo",
                                    .mem = &rig.mem,
                                    .id = 42,
                                    .queues = 2,
                                    .features = 1ULL << OWN_FEATURE,
                                    .config = echo_config,
                                    .config_size = sizeof(echo_config)}};
    virtio_init(&echo.virtio);
    vrig_plug(&rig, &echo.virtio);
}

static void teardown(void)
{
    vrig_unplug(&rig);
    vrig_fini(&rig);
}

TestSuite(virtio, .init = setup, .fini = teardown);

static uint64_t common(unsigned reg, unsigned size)
{
    return vrig_read(&rig, rig.common + reg, size);
}

static void set_common(unsigned reg, unsigned size, uint64_t value)
{
    vrig_write(&rig, rig.common + reg, size, value);
}

static uint64_t features(unsigned select_reg, unsigned reg)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 2; i++) {
        set_common(select_reg, 4, i);
        value |= common(reg, 4) << 32 * i;
    }
    return value;
}

/* "hello" at VRIG_DATA, and room for an answer: descriptors I and I + 1. */
static void hello(unsigned queue, unsigned i)
{
    memcpy(vrig_at(&rig, VRIG_DATA, 5), "hello", 5);
    memset(vrig_at(&rig, VRIG_DATA + 0x1000, 8), 0, 8);
    vrig_set_desc(&rig, queue, i, VRIG_DATA, 5, NEXT);
    vrig_set_desc(&rig, queue, i + 1, VRIG_DATA + 0x1000, 8, WRITE);
}

static void answered(unsigned queue, unsigned head, unsigned len)
{
    struct vring_used_elem used = {0};
    cr_assert(vrig_used(&rig, queue, &used), "nothing used");
    cr_expect_eq(used.id, head);
    cr_expect_eq(used.len, len);
}

/* ---- what the driver finds ---- */

Test(virtio, identity_and_structures)
{
    cr_expect_eq(vrig_config_read(&rig, PCI_VENDOR_ID, 4), 0x106a1af4); /* 0x1040 + 42 */
    cr_expect_geq(vrig_config_read(&rig, PCI_REVISION_ID, 1), 1);
    cr_expect_eq(vrig_config_read(&rig, PCI_INTERRUPT_PIN, 1), 1);
    cr_expect_eq(vrig_read(&rig, rig.device + 4, 4), 0x08070605);
    cr_expect_eq(vrig_read(&rig, rig.device + 10, 4), 0, "not beyond the configuration");
    vrig_write(&rig, rig.device, 1, 99);
    cr_expect_eq(vrig_read(&rig, rig.device, 1), 1);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_NUMQ, 2), 2);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_STATUS, 1), 0);
    cr_expect_eq(features(VIRTIO_PCI_COMMON_DFSELECT, VIRTIO_PCI_COMMON_DF),
                 1ULL << OWN_FEATURE | INDIRECT | EVENT_IDX | 1ULL << VIRTIO_F_VERSION_1);
    set_common(VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_DF, 4), 0);
}

Test(virtio, features_that_were_not_offered_are_refused)
{
    vrig_set_status(&rig, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    set_common(VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    set_common(VIRTIO_PCI_COMMON_GF, 4, 1 | 4); /* packed queues, too */
    vrig_set_status(&rig, VRIG_DRIVER);
    cr_expect_not(vrig_status(&rig) & VIRTIO_CONFIG_S_FEATURES_OK);
    set_common(VIRTIO_PCI_COMMON_GF, 4, 0); /* not even version 1 */
    vrig_set_status(&rig, VRIG_DRIVER);
    cr_expect_not(vrig_status(&rig) & VIRTIO_CONFIG_S_FEATURES_OK);
    vrig_set_status(&rig, RUNNING);
    cr_expect_not(vrig_status(&rig) & VIRTIO_CONFIG_S_DRIVER_OK);
    set_common(VIRTIO_PCI_COMMON_GF, 4, 1);
    vrig_set_status(&rig, VRIG_DRIVER);
    cr_expect_eq(vrig_status(&rig), VRIG_DRIVER);
    set_common(VIRTIO_PCI_COMMON_GF, 4, 0); /* too late */
    cr_expect_eq(features(VIRTIO_PCI_COMMON_GFSELECT, VIRTIO_PCI_COMMON_GF),
                 1ULL << VIRTIO_F_VERSION_1);
}

Test(virtio, registers_of_a_queue)
{
    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), VIRTQ_SIZE_MAX);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    for (unsigned i = 0; i < 4; i++) {
        static const uint16_t bad[] = {0, 3, 2 * VIRTQ_SIZE_MAX, 0xffff};
        set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, bad[i]);
        cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), VIRTQ_SIZE_MAX);
    }
    set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 8);
    set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x1122334455667788);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x1122334455667788);
    set_common(VIRTIO_PCI_COMMON_Q_DESCHI, 4, 5);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x555667788);
    set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 2, 5); /* not its width */
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x555667788);
    set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
    set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 3);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);

    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 2); /* there is none */
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
    set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
    set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
    set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
}

Test(virtio, queue_is_fixed_while_enabled)
{
    vrig_start(&rig, 0);
    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
    set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, 4);
    set_common(VIRTIO_PCI_COMMON_Q_USEDLO, 8, 0);
    set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), VRIG_SIZE);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_USEDLO, 8), VRIG_RINGS + 0x2000);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

/* 4.1.4.9: a driver without MMIO. */
Test(virtio, registers_by_configuration_space)
{
    unsigned window = rig.pci_cfg, data = window + 16;
    cr_assert(window);
    vrig_config_write(&rig, window + VIRTIO_PCI_CAP_BAR, 1, 0);
    vrig_config_write(&rig, window + VIRTIO_PCI_CAP_OFFSET, 4,
                      rig.common + VIRTIO_PCI_COMMON_NUMQ);
    vrig_config_write(&rig, window + VIRTIO_PCI_CAP_LENGTH, 4, 2);
    cr_expect_eq(vrig_config_read(&rig, data, 2), 2);
    vrig_config_write(&rig, window + VIRTIO_PCI_CAP_OFFSET, 4,
                      rig.common + VIRTIO_PCI_COMMON_STATUS);
    vrig_config_write(&rig, window + VIRTIO_PCI_CAP_LENGTH, 4, 1);
    vrig_config_write(&rig, data, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    cr_expect_eq(vrig_status(&rig), VIRTIO_CONFIG_S_ACKNOWLEDGE);
    static const uint32_t bad[][3] = {{1, 0x14, 1},         {0, 0x4000, 1}, {0, 0x14, 0},
                                      {0, 0x14, 8},         {0, 0x15, 2},   {0, 0xfffffffc, 4},
                                      {0, 0x14, 0x80000000}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        vrig_config_write(&rig, window + VIRTIO_PCI_CAP_BAR, 1, bad[i][0]);
        vrig_config_write(&rig, window + VIRTIO_PCI_CAP_OFFSET, 4, bad[i][1]);
        vrig_config_write(&rig, window + VIRTIO_PCI_CAP_LENGTH, 4, bad[i][2]);
        vrig_config_write(&rig, data, 4, 3);
        vrig_config_read(&rig, data, 4);
        cr_expect_eq(vrig_status(&rig), VIRTIO_CONFIG_S_ACKNOWLEDGE, "%zu", i);
    }
}

/* ---- a good driver ---- */

Test(virtio, chains_there_and_back)
{
    vrig_start(&rig, 0);
    for (unsigned n = 0; n < 3 * VRIG_SIZE; n++) { /* around the ring, on both queues */
        hello(n % 2, 3);
        vrig_offer(&rig, n % 2, 3);
        vrig_kick(&rig, n % 2);
        answered(n % 2, 3, 5);
        cr_expect_arr_eq(vrig_at(&rig, VRIG_DATA + 0x1000, 5), "hello", 5);
    }
    cr_expect_eq(echo.chains, 3 * VRIG_SIZE);
    cr_expect_eq(vrig_status(&rig), RUNNING);
}

Test(virtio, available_before_the_driver_is_ready)
{
    vrig_start(&rig, 0);
    vrig_set_status(&rig, 0);
    vrig_set_status(&rig, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    set_common(VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
    set_common(VIRTIO_PCI_COMMON_GF, 4, 1);
    vrig_set_status(&rig, VRIG_DRIVER);
    set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
    vrig_enable_queue(&rig, 0);
    hello(0, 0);
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_expect_eq(echo.chains, 0);
    vrig_set_status(&rig, RUNNING);
    vrig_pump(&rig);
    answered(0, 0, 5);
}

Test(virtio, no_dma_without_bus_master)
{
    vrig_start(&rig, 0);
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    hello(0, 0);
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_expect_eq(echo.chains, 0);
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    vrig_pump(&rig);
    answered(0, 0, 5);
}

Test(virtio, zero_length_buffers_are_skipped)
{
    vrig_start(&rig, 0);
    hello(0, 0);
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 5, NEXT);
    vrig_set_desc(&rig, 0, 1, UINT64_MAX, 0, NEXT);
    vrig_set_desc(&rig, 0, 2, VRIG_DATA + 0x1000, 2, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 3, VRIG_DATA + 0x1002, 6, WRITE);
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    answered(0, 0, 5);
    cr_expect_eq(echo.out, 1);
    cr_expect_eq(echo.in, 2);
    cr_expect_arr_eq(vrig_at(&rig, VRIG_DATA + 0x1000, 5), "hello", 5);
}

Test(virtio, indirect_table_of_any_alignment)
{
    for (unsigned odd = 0; odd < 2; odd++) {
        vrig_start(&rig, INDIRECT);
        hello(0, 0);
        uint64_t table = VRIG_DATA + 0x2000 + odd;
        memcpy(vrig_at(&rig, table, 32), vrig_desc(&rig, 0, 0), 32);
        vrig_set_desc(&rig, 0, 0, table, 32, VRING_DESC_F_INDIRECT);
        vrig_offer(&rig, 0, 0);
        vrig_kick(&rig, 0);
        answered(0, 0, 5);
    }
}

/* A turn of the device is shorter than what is there: it goes on by itself. */
Test(virtio, more_than_one_turn_of_work)
{
    vrig_start(&rig, 0);
    hello(0, 0);
    for (unsigned i = 0; i < 3 * TURN; i++)
        vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_expect_eq(echo.chains, TURN, "bounded");
    for (unsigned i = 0; i < 4; i++)
        vrig_pump(&rig);
    cr_expect_eq(echo.chains, 3 * TURN);
}

Test(virtio, kicks_come_by_ioeventfd)
{
    const struct fake_ioeventfd *io = &rig.fake.ioeventfd[0];
    vrig_start(&rig, 0);
    cr_assert(io->used);
    cr_expect_eq(io->addr, rig.bar + rig.notify);
    cr_expect_eq(io->len, 2);
    cr_expect_not(io->pio);
    hello(1, 0);
    vrig_offer(&rig, 1, 0);
    eventfd_write(io->fd, 1);
    vrig_pump(&rig);
    answered(1, 0, 5);
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    cr_expect_not(io->used, "gone with the BAR");
    fake_hv_fail(&rig.fake, FAKE_IOEVENTFD_ADD, 1, ENOSPC);
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    vrig_offer(&rig, 1, 0);
    vrig_kick(&rig, 1); /* by an exit */
    answered(1, 0, 5);
}

/* ---- interrupts ---- */

static bool line(void)
{
    return rig.fake.level[VRIG_GSI];
}

static void one_chain(unsigned queue)
{
    hello(queue, 0);
    vrig_offer(&rig, queue, 0);
    vrig_kick(&rig, queue);
    answered(queue, 0, 5);
}

Test(virtio, intx_until_isr_is_read)
{
    vrig_start(&rig, 0);
    cr_expect_not(line());
    one_chain(0);
    cr_expect(line());
    cr_expect(vrig_config_read(&rig, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    cr_expect_eq(vrig_read(&rig, rig.isr, 1), 1);
    cr_expect_not(line());
    cr_expect_not(vrig_config_read(&rig, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    cr_expect_eq(vrig_read(&rig, rig.isr, 1), 0);

    vrig_config_write(&rig, PCI_COMMAND, 2,
                      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    one_chain(0);
    cr_expect_not(line());
    cr_expect(vrig_config_read(&rig, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT);
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    cr_expect(line());
    vrig_set_status(&rig, 0);
    cr_expect_not(line(), "a reset acknowledges");
}

/* Another device's input is the same one. */
Test(virtio, intx_is_shared)
{
    struct echo other = {
        .virtio = {.ops = &echo_ops, .name = "other", .mem = &rig.mem, .queues = 1}};
    struct virtio_pci *vp;
    const struct virtio_pci_config config = {
        .hv = &rig.fake.hv,
        .bus = &rig.bus,
        .loop = rig.loop,
        .intx = &rig.intx,
        .devfn = PCI_DEVFN(VRIG_SLOT - LAYOUT_GSI_PCI_COUNT, 0),
    };
    virtio_init(&other.virtio);
    cr_assert_eq(virtio_pci_create(&vp, &other.virtio, &config), 0);
    vrig_start(&rig, 0);
    one_chain(0);
    pthread_mutex_lock(&other.virtio.lock);
    other.virtio.transport_ops->interrupt(vp, VIRTIO_CONFIG);
    pthread_mutex_unlock(&other.virtio.lock);
    cr_expect_eq(rig.fake.raised[VRIG_GSI], 1);
    vrig_read(&rig, rig.isr, 1);
    cr_expect(line(), "the other's");
    virtio_pci_destroy(vp);
    cr_expect_not(line());
}

Test(virtio, msix_vector_of_each_queue)
{
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    for (unsigned q = 0; q < 2; q++) {
        one_chain(q);
        cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + q));
        cr_expect_not(fake_hv_deliver_data(&rig.fake, VRIG_MSI + !q));
    }
    cr_expect_not(line());
    cr_expect_eq(vrig_read(&rig, rig.isr, 1), 0);
    set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
    set_common(VIRTIO_PCI_COMMON_Q_MSIX, 2, VIRTIO_MSI_NO_VECTOR);
    one_chain(0);
    cr_expect_not(fake_hv_deliver_data(&rig.fake, VRIG_MSI));
}

Test(virtio, no_interrupt_where_none_is_wanted)
{
    vrig_start(&rig, 0);
    vrig_avail(&rig, 0)->flags = VRING_AVAIL_F_NO_INTERRUPT;
    one_chain(0);
    cr_expect_not(line());
    vrig_avail(&rig, 0)->flags = 0;
    vrig_kick(&rig, 0);
    cr_expect_not(line(), "no interrupt for nothing");
    one_chain(0);
    cr_expect(line());
}

Test(virtio, event_index_both_ways)
{
    vrig_start(&rig, EVENT_IDX);
    struct vring_avail *avail = vrig_avail(&rig, 0);
    uint16_t *avail_event = (void *)&vrig_used_ring(&rig, 0)->ring[VRIG_SIZE];
    avail->flags = VRING_AVAIL_F_NO_INTERRUPT; /* not looked at */
    for (unsigned round = 0; round < 3; round++) {
        uint16_t first = avail->idx;
        avail->ring[VRIG_SIZE] = (uint16_t)(first + 2); /* after the third */
        for (unsigned i = 0; i < 4; i++) {
            one_chain(0);
            cr_expect_eq(line(), i == 2, "%u", i);
            cr_expect_eq(*avail_event, avail->idx, "kick for the next one");
            vrig_read(&rig, rig.isr, 1);
        }
    }
}

/* ---- hostile drivers ---- */

struct hostile {
    const char *name;
    void (*fill)(void);
};

static void offer_0(void)
{
    vrig_offer(&rig, 0, 0);
}

static void head_beyond_table(void)
{
    vrig_offer(&rig, 0, VRIG_SIZE);
}

static void next_beyond_table(void)
{
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 5, NEXT);
    vrig_desc(&rig, 0, 0)->next = VRIG_SIZE;
    offer_0();
}

static void loop_of_one(void)
{
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 5, NEXT);
    vrig_desc(&rig, 0, 0)->next = 0;
    offer_0();
}

static void loop_of_empty_ones(void)
{
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 0, NEXT);
    vrig_set_desc(&rig, 0, 1, VRIG_DATA, 0, NEXT);
    vrig_desc(&rig, 0, 1)->next = 0;
    offer_0();
}

static void beyond_ram(void)
{
    vrig_set_desc(&rig, 0, 0, VRIG_RAM - 4, 5, 0);
    offer_0();
}

static void around_the_end(void)
{
    vrig_set_desc(&rig, 0, 0, UINT64_MAX - 2, 0x1000, WRITE);
    offer_0();
}

static void huge(void)
{
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, UINT32_MAX, WRITE);
    offer_0();
}

static void read_behind_write(void)
{
    vrig_set_desc(&rig, 0, 0, VRIG_DATA, 5, NEXT | WRITE);
    vrig_set_desc(&rig, 0, 1, VRIG_DATA, 5, 0);
    offer_0();
}

static void too_many_available(void)
{
    vrig_avail(&rig, 0)->idx = VRIG_SIZE + 1;
}

static void index_backwards(void)
{
    vrig_avail(&rig, 0)->idx = UINT16_MAX;
}

/* An indirect table of LEN bytes with NR chained descriptors of a byte each. */
static void table(uint32_t len, unsigned nr, unsigned flags)
{
    for (unsigned i = 0; i < nr; i++) {
        struct vring_desc d = {VRIG_DATA, 1, (uint16_t)(flags | (i + 1 < nr ? NEXT : 0)),
                               (uint16_t)(i + 1)};
        memcpy(vrig_at(&rig, VRIG_DATA + 0x2000 + 16 * i, 16), &d, 16);
    }
    vrig_set_desc(&rig, 0, 0, VRIG_DATA + 0x2000, len, VRING_DESC_F_INDIRECT);
    offer_0();
}

static void table_too_long(void)
{
    table(16 * (VIRTQ_SEGS_MAX + 1), VIRTQ_SEGS_MAX + 1, 0);
}

static void table_odd_size(void)
{
    table(17, 1, 0);
}

static void table_empty(void)
{
    table(0, 1, 0);
}

static void table_beyond_ram(void)
{
    table(16, 1, 0);
    vrig_desc(&rig, 0, 0)->addr = VRIG_RAM - 8;
}

static void table_in_table(void)
{
    struct vring_desc inner = {VRIG_DATA + 0x3000, 16, VRING_DESC_F_INDIRECT, 0};
    table(16, 1, 0);
    memcpy(vrig_at(&rig, VRIG_DATA + 0x3000, 16), vrig_at(&rig, VRIG_DATA + 0x2000, 16), 16);
    memcpy(vrig_at(&rig, VRIG_DATA + 0x2000, 16), &inner, 16);
}

static void table_and_next(void)
{
    table(16, 1, 0);
    vrig_desc(&rig, 0, 0)->flags |= NEXT;
}

static void table_runs_out(void)
{
    table(16, 2, 0);
}

static const struct hostile hostiles[] = {
    {"head_beyond_table", head_beyond_table},
    {"next_beyond_table", next_beyond_table},
    {"loop_of_one", loop_of_one},
    {"loop_of_empty_ones", loop_of_empty_ones},
    {"beyond_ram", beyond_ram},
    {"around_the_end", around_the_end},
    {"huge", huge},
    {"read_behind_write", read_behind_write},
    {"too_many_available", too_many_available},
    {"index_backwards", index_backwards},
    {"table_too_long", table_too_long},
    {"table_odd_size", table_odd_size},
    {"table_empty", table_empty},
    {"table_beyond_ram", table_beyond_ram},
    {"table_in_table", table_in_table},
    {"table_and_next", table_and_next},
    {"table_runs_out", table_runs_out},
};

/* The device ends, says so by a configuration interrupt, and works again after a reset. */
Test(virtio, hostile_rings)
{
    for (size_t i = 0; i < ARRAY_SIZE(hostiles); i++) {
        const struct hostile *h = &hostiles[i];
        struct vring_used_elem used;
        vrig_start(&rig, INDIRECT);
        echo.chains = 0;
        h->fill();
        vrig_kick(&rig, 0);
        cr_expect_eq(vrig_status(&rig), RUNNING | NEEDS_RESET, "%s", h->name);
        cr_expect_eq(echo.chains, 0, "%s", h->name);
        cr_expect_eq(vrig_read(&rig, rig.isr, 1), VIRTIO_PCI_ISR_CONFIG, "%s", h->name);
        vrig_set_status(&rig, RUNNING);
        cr_expect(vrig_status(&rig) & NEEDS_RESET, "%s: not the driver's to clear", h->name);
        hello(1, 0);
        vrig_offer(&rig, 1, 0);
        vrig_kick(&rig, 1);
        cr_expect_not(vrig_used(&rig, 1, &used), "%s: all of it has ended", h->name);
        vrig_set_status(&rig, 0);
        cr_expect_eq(vrig_status(&rig), 0);
        vrig_start(&rig, 0);
        one_chain(0);
    }
}

Test(virtio, end_is_told_by_msix)
{
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    loop_of_one();
    vrig_kick(&rig, 0);
    cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 2));
}

Test(virtio, indirect_that_was_not_agreed_on)
{
    vrig_start(&rig, 0);
    table(16, 1, 0);
    vrig_kick(&rig, 0);
    cr_expect(vrig_status(&rig) & NEEDS_RESET);
}

Test(virtio, rings_outside_ram_or_unaligned)
{
    static const struct {
        unsigned reg;
        uint64_t addr;
    } bad[] = {
        {VIRTIO_PCI_COMMON_Q_DESCLO, VRIG_RAM - 16 * VRIG_SIZE + 16},
        {VIRTIO_PCI_COMMON_Q_DESCLO, UINT64_MAX - 15},
        {VIRTIO_PCI_COMMON_Q_DESCLO, VRIG_RINGS + 8},
        {VIRTIO_PCI_COMMON_Q_AVAILLO, VRIG_RAM - 2 * VRIG_SIZE - 4},
        {VIRTIO_PCI_COMMON_Q_AVAILLO, VRIG_RINGS + 1},
        {VIRTIO_PCI_COMMON_Q_USEDLO, VRIG_RAM - 8 * VRIG_SIZE - 4},
        {VIRTIO_PCI_COMMON_Q_USEDLO, VRIG_RINGS + 2},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        vrig_start(&rig, 0);
        vrig_set_status(&rig, 0);
        set_common(VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
        set_common(VIRTIO_PCI_COMMON_GF, 4, 1);
        vrig_set_status(&rig, VRIG_DRIVER);
        set_common(VIRTIO_PCI_COMMON_Q_SIZE, 2, VRIG_SIZE);
        set_common(VIRTIO_PCI_COMMON_Q_DESCLO, 8, VRIG_RINGS);
        set_common(VIRTIO_PCI_COMMON_Q_AVAILLO, 8, VRIG_RINGS);
        set_common(VIRTIO_PCI_COMMON_Q_USEDLO, 8, VRIG_RINGS);
        set_common(bad[i].reg, 8, bad[i].addr);
        set_common(VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
        cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0, "%zu", i);
        cr_expect(vrig_status(&rig) & NEEDS_RESET, "%zu", i);
    }
}

/* Every address of the BAR in every width: nothing happens that would end the program. */
Test(virtio, wild_accesses)
{
    unsigned seed = 1;
    vrig_start(&rig, 0);
    for (unsigned round = 0; round < 20; round++) {
        for (uint64_t offset = 0; offset < 0x4000; offset++) {
            unsigned size = 1U << (seed >> 16) % 4;
            seed = seed * 1103515245 + 12345;
            if (offset + size > 0x4000)
                continue;
            vrig_read(&rig, offset, size);
            vrig_write(&rig, offset, size, round % 2 ? seed : UINT64_MAX);
            offset += offset > 0x900 ? 7 : 0;
        }
        vrig_pump(&rig);
    }
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    one_chain(0);
}

/* ---- reset ---- */

Test(virtio, reset_by_the_driver)
{
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    unsigned resets = echo.resets;
    vrig_set_status(&rig, 0);
    cr_expect_eq(echo.resets, resets + 1);
    cr_expect_eq(vrig_status(&rig), 0);
    cr_expect_eq(common(VIRTIO_PCI_COMMON_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    for (unsigned q = 0; q < 2; q++) {
        set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
        cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
        cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_SIZE, 2), VIRTQ_SIZE_MAX);
        cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0);
        cr_expect_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), VIRTIO_MSI_NO_VECTOR);
    }
    hello(0, 0);
    vrig_offer(&rig, 0, 0);
    vrig_kick(&rig, 0);
    cr_expect_eq(echo.chains, 0);
}

Test(virtio, reset_of_the_machine)
{
    vrig_start(&rig, 0);
    vrig_msix(&rig);
    one_chain(0);
    virtio_pci_reset(rig.vp);
    pci_bus_reset(&rig.bus);
    cr_expect_eq(fake_hv_live(&rig.fake), 0, "no route, no eventfd of the guest that was");
    cr_assert_eq(pci_bus_assign(&rig.bus), 0);
    vrig_config_write(&rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    cr_expect_eq(vrig_status(&rig), 0);
    vrig_start(&rig, 0);
    one_chain(1);
    cr_expect(line(), "MSI-X is off again");
    cr_expect_eq(vrig_read(&rig, 0x2000, 8), 0, "and its table as after power-on");
    cr_expect_eq(vrig_read(&rig, 0x2008, 8), 1ULL << 32);
}

Test(virtio, place_that_is_taken)
{
    struct echo other = {
        .virtio = {.ops = &echo_ops, .name = "other", .mem = &rig.mem, .queues = 1}};
    struct virtio_pci *vp = NULL;
    const struct virtio_pci_config config = {
        .hv = &rig.fake.hv,
        .bus = &rig.bus,
        .loop = rig.loop,
        .intx = &rig.intx,
        .devfn = PCI_DEVFN(VRIG_SLOT, 0),
    };
    virtio_init(&other.virtio);
    cr_expect_eq(virtio_pci_create(&vp, &other.virtio, &config), -EEXIST);
    cr_expect_null(vp);
    virtio_pci_destroy(NULL);
}
