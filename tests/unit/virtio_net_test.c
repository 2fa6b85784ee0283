/*
 * virtio_net_test.c: the network card against a driver that keeps the rules and one that does
 * not. The port is a pair of packet sockets, which keep, count and refuse as a tap does.
 */
#include "devices/virtio/virtio_net.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/net_port.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "tests/unit/virtio_rig.h"
#include "vmm/log.h"

#define WRITE VRING_DESC_F_WRITE
#define NEXT  VRING_DESC_F_NEXT
#define MERGE (1ULL << VIRTIO_NET_F_MRG_RXBUF)
#define MQ    (1ULL << VIRTIO_NET_F_MQ | 1ULL << VIRTIO_NET_F_CTRL_VQ)
#define CTRL  4 /* the queue of commands, with two pairs */

static struct {
    struct net_port port;
    int peer[2];
    unsigned pairs, starts;
    uint64_t features;
    int broken; /* what receive and send return, if not 0 */
} fake;

static struct vrig rig;
static struct virtio *net;
static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

static ssize_t fake_receive(struct net_port *port, unsigned pair, uint8_t *frame)
{
    if (fake.broken)
        return fake.broken;
    ssize_t n = recv(port->fd[pair], frame, NET_HDR + NET_FRAME_MAX, MSG_DONTWAIT);
    return n < 0 ? -errno : n ? n : -EPIPE;
}

static int fake_send(struct net_port *port, unsigned pair, const struct iovec *iov, unsigned nr)
{
    const struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = nr};
    if (fake.broken)
        return fake.broken;
    if (!nr)
        return 0;
    ssize_t n = sendmsg(port->fd[pair], &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : 0;
}

static void fake_start(struct net_port *port, uint64_t features)
{
    (void)port;
    fake.starts++;
    fake.pairs = 1;
    fake.features = features;
}

static int fake_set_pairs(struct net_port *port, unsigned pairs)
{
    (void)port;
    fake.pairs = pairs;
    return 0;
}

static void fake_close(struct net_port *port)
{
    close(port->fd[0]);
    close(port->fd[1]);
    port->pairs = 0;
}

static const struct net_port_ops fake_ops = {
    .receive = fake_receive,
    .send = fake_send,
    .start = fake_start,
    .set_pairs = fake_set_pairs,
    .close = fake_close,
};

static void plug(bool vhost)
{
    log_set_level(LOG_ERROR);
    vrig_init(&rig);
    fake.port = (struct net_port){
        .ops = &fake_ops, .pairs = 2, .features = 1ULL << VIRTIO_NET_F_GUEST_CSUM};
    for (unsigned i = 0; i < 2; i++) {
        int fd[2];
        cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, fd), 0);
        fake.port.fd[i] = fd[0];
        fake.peer[i] = fd[1];
    }
    struct virtio_net_setup config = {
        .name = "net", .port = &fake.port, .vhost = vhost, .loop = rig.loop, .mem = &rig.mem};
    memcpy(config.mac, mac, 6);
    cr_assert_eq(virtio_net_create(&net, &config), 0);
    vrig_plug(&rig, net);
}

static void setup(void)
{
    plug(false);
}

static void teardown(void)
{
    vrig_unplug(&rig);
    virtio_destroy(net);
    cr_expect_eq(fake.port.pairs, 0, "closed");
    vrig_fini(&rig);
}

TestSuite(virtio_net, .init = setup, .fini = teardown);

/* A frame whose bytes tell where they belong, LEN with the header in front. */
static uint8_t *pattern(size_t len, unsigned seed)
{
    static uint8_t frame[NET_HDR + NET_FRAME_MAX];
    memset(frame, 0, NET_HDR);
    for (size_t i = NET_HDR; i < len; i++)
        frame[i] = (uint8_t)(i * 7 + i / 256 + seed);
    return frame;
}

static void from_peer(unsigned pair, size_t len, unsigned seed)
{
    cr_assert_eq(send(fake.peer[pair], pattern(len, seed), len, MSG_DONTWAIT), (ssize_t)len);
}

static ssize_t to_peer(unsigned pair, uint8_t *frame)
{
    return recv(fake.peer[pair], frame, NET_HDR + NET_FRAME_MAX, MSG_DONTWAIT);
}

/* Chain I of a queue for what comes: one buffer of LEN bytes at VRIG_DATA + I * 64 KiB. */
static void offer_room(unsigned queue, unsigned i, uint32_t len)
{
    vrig_set_desc(&rig, queue, i, VRIG_DATA + 0x10000ULL * i, len, WRITE);
    vrig_offer(&rig, queue, (uint16_t)i);
}

static uint8_t *room_at(unsigned i)
{
    return vrig_at(&rig, VRIG_DATA + 0x10000ULL * i, 0x10000);
}

/* Chain I, one buffer of header and LEN bytes of frame. */
static void offer_frame(unsigned queue, unsigned i, uint32_t len, unsigned seed)
{
    memcpy(room_at(i), pattern(NET_HDR + len, seed), NET_HDR + len);
    vrig_set_desc(&rig, queue, i, VRIG_DATA + 0x10000ULL * i, NET_HDR + len, 0);
    vrig_offer(&rig, queue, (uint16_t)i);
}

static bool is_broken(void)
{
    return vrig_status(&rig) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static uint64_t offered(void)
{
    uint64_t features = 0;
    for (unsigned i = 0; i < 2; i++) {
        vrig_write(&rig, rig.common + VIRTIO_PCI_COMMON_DFSELECT, 4, i);
        features |= vrig_read(&rig, rig.common + VIRTIO_PCI_COMMON_DF, 4) << 32 * i;
    }
    return features;
}

Test(virtio_net, identity)
{
    cr_expect_eq(vrig_config_read(&rig, PCI_DEVICE_ID, 2), 0x1040 + VIRTIO_ID_NET);
    for (unsigned i = 0; i < 6; i++)
        cr_expect_eq(vrig_read(&rig, rig.device + i, 1), mac[i]);
    cr_expect_eq(vrig_read(&rig, rig.device + 6, 2), VIRTIO_NET_S_LINK_UP);
    cr_expect_eq(vrig_read(&rig, rig.device + 8, 2), 2);
    cr_expect_eq(offered() & ((1ULL << 24) - 1),
                 MERGE | MQ | 1ULL << VIRTIO_NET_F_GUEST_CSUM | 1ULL << VIRTIO_NET_F_MAC |
                     1ULL << VIRTIO_NET_F_STATUS,
                 "of the offloads only the port's");
}

Test(virtio_net, a_frame_goes_out)
{
    static uint8_t got[NET_HDR + NET_FRAME_MAX];
    struct vring_used_elem used;
    vrig_start(&rig, MERGE);
    offer_frame(1, 0, 60, 1);
    vrig_kick(&rig, 1);
    cr_expect_eq(to_peer(0, got), 72);
    cr_expect_arr_eq(got, pattern(72, 1), 72);
    cr_assert(vrig_used(&rig, 1, &used));
    cr_expect_eq(used.id, 0);
    cr_expect_eq(used.len, 0);
    /* In pieces, the header as well. */
    memcpy(room_at(1), pattern(2012, 2), 2012);
    vrig_set_desc(&rig, 1, 1, VRIG_DATA + 0x10000, 5, NEXT);
    vrig_set_desc(&rig, 1, 2, VRIG_DATA + 0x10005, 100, NEXT);
    vrig_set_desc(&rig, 1, 3, VRIG_DATA + 0x10069, 1907, 0);
    vrig_offer(&rig, 1, 1);
    vrig_kick(&rig, 1);
    cr_expect_eq(to_peer(0, got), 2012);
    cr_expect_arr_eq(got, pattern(2012, 2), 2012);
}

Test(virtio_net, what_is_no_frame_is_dropped)
{
    struct vring_used_elem used;
    uint8_t got[64];
    vrig_start(&rig, MERGE);
    vrig_set_desc(&rig, 1, 0, VRIG_DATA, 11, 0); /* no header */
    vrig_set_desc(&rig, 1, 1, VRIG_DATA, 12, 0); /* nothing else */
    vrig_set_desc(&rig, 1, 2, VRIG_DATA, 0, 0);  /* nothing */
    vrig_set_desc(&rig, 1, 3, VRIG_DATA, 100, WRITE);
    for (uint16_t i = 0; i < 4; i++)
        vrig_offer(&rig, 1, i);
    vrig_kick(&rig, 1);
    for (unsigned i = 0; i < 4; i++) {
        cr_assert(vrig_used(&rig, 1, &used), "%u", i);
        cr_expect_eq(used.id, i);
    }
    cr_expect_lt(recv(fake.peer[0], got, sizeof(got), MSG_DONTWAIT), 0);
    cr_expect_not(is_broken());
}

Test(virtio_net, a_loop_or_a_bad_address_breaks_it)
{
    for (unsigned queue = 0; queue < 2; queue++) {
        unsigned flag = queue ? 0 : WRITE;
        vrig_start(&rig, MERGE);
        from_peer(0, 100, 1);
        vrig_set_desc(&rig, queue, 0, VRIG_RAM - 50, 100, flag);
        vrig_offer(&rig, queue, 0);
        vrig_kick(&rig, queue);
        cr_expect(is_broken(), "outside RAM");

        vrig_start(&rig, MERGE);
        from_peer(0, 100, 1);
        vrig_set_desc(&rig, queue, 0, VRIG_DATA, 16, flag | NEXT);
        vrig_desc(&rig, queue, 0)->next = 0;
        vrig_offer(&rig, queue, 0);
        vrig_kick(&rig, queue);
        cr_expect(is_broken(), "a loop");

        vrig_start(&rig, MERGE);
        from_peer(0, 100, 1);
        vrig_offer(&rig, queue, VRIG_SIZE);
        vrig_kick(&rig, queue);
        cr_expect(is_broken(), "no such descriptor");
    }
}

Test(virtio_net, a_full_port_is_waited_for)
{
    static uint8_t got[NET_HDR + NET_FRAME_MAX];
    struct vring_used_elem used;
    unsigned offers = 0, done = 0, came = 0;
    vrig_start(&rig, MERGE);
    /* The socket takes some hundred KiB; nobody reads. */
    while (offers - done < 8 && offers < 64) {
        offer_frame(1, offers % 8, 60000, offers);
        offers++;
        vrig_kick(&rig, 1);
        while (vrig_used(&rig, 1, &used))
            done++;
    }
    cr_assert_lt(done, offers, "it never was full");
    unsigned stuck = done;
    vrig_pump(&rig);
    cr_expect_not(vrig_used(&rig, 1, &used), "and stays so");
    while (came < offers) {
        cr_assert_eq(to_peer(0, got), 60012, "frame %u", came);
        cr_expect_arr_eq(got, pattern(60012, came), 60012, "frame %u", came);
        came++;
        vrig_pump(&rig);
        while (vrig_used(&rig, 1, &used))
            done++;
    }
    cr_expect_gt(offers, stuck);
    cr_expect_eq(done, offers);
    cr_expect_lt(to_peer(0, got), 0);
}

Test(virtio_net, a_frame_comes_in)
{
    struct vring_used_elem used;
    vrig_start(&rig, MERGE);
    offer_room(0, 0, 2000);
    from_peer(0, 112, 1);
    vrig_pump(&rig);
    cr_assert(vrig_used(&rig, 0, &used));
    cr_expect_eq(used.len, 112);
    cr_expect_arr_eq(room_at(0) + 12, pattern(112, 1) + 12, 100);
    cr_expect_eq(get_le16(room_at(0) + 10), 1);
    cr_expect_eq(room_at(0)[112], 0, "and no more");
}

Test(virtio_net, a_large_one_takes_several_buffers)
{
    struct vring_used_elem used;
    uint8_t got[3000];
    vrig_start(&rig, MERGE);
    for (unsigned i = 0; i < 4; i++)
        offer_room(0, i, 1024);
    from_peer(0, 3000, 3);
    vrig_pump(&rig);
    for (unsigned i = 0, done = 0; i < 3; i++) {
        cr_assert(vrig_used(&rig, 0, &used));
        cr_expect_eq(used.id, i);
        cr_expect_eq(used.len, i < 2 ? 1024 : 3000 - 2048);
        memcpy(got + done, room_at(i), used.len);
        done += used.len;
    }
    cr_expect_eq(get_le16(got + 10), 3);
    cr_expect_arr_eq(got + 12, pattern(3000, 3) + 12, 2988);
    cr_expect_not(vrig_used(&rig, 0, &used), "the fourth is for the next");
    from_peer(0, 100, 4);
    vrig_pump(&rig);
    cr_assert(vrig_used(&rig, 0, &used));
    cr_expect_eq(used.id, 3);
}

Test(virtio_net, it_waits_for_buffers_and_then_shows_all_at_once)
{
    struct vring_used_elem used;
    vrig_start(&rig, MERGE);
    from_peer(0, 3000, 5);
    from_peer(0, 60, 6);
    vrig_pump(&rig);
    offer_room(0, 0, 2000);
    vrig_kick(&rig, 0);
    cr_expect_not(vrig_used(&rig, 0, &used));
    cr_expect_eq(vrig_used_ring(&rig, 0)->idx, 0);
    offer_room(0, 1, 2000);
    vrig_kick(&rig, 0);
    cr_expect_eq(vrig_used_ring(&rig, 0)->idx, 2);
    cr_expect_arr_eq(room_at(0) + 12, pattern(3000, 5) + 12, 1988);
    cr_expect_arr_eq(room_at(1), pattern(3000, 5) + 2000, 1000);
    offer_room(0, 2, 2000);
    vrig_kick(&rig, 0);
    cr_expect_eq(vrig_used_ring(&rig, 0)->idx, 3);
    cr_expect_arr_eq(room_at(2) + 12, pattern(60, 6) + 12, 48);
}

/* What never fits is dropped, and what comes after it is not. */
Test(virtio_net, larger_than_all_there_can_be)
{
    struct vring_used_elem used;
    vrig_start(&rig, 0); /* a chain for each frame */
    offer_room(0, 0, 1526);
    from_peer(0, 1527, 1);
    from_peer(0, 200, 2);
    vrig_pump(&rig);
    cr_assert(vrig_used(&rig, 0, &used));
    cr_expect_eq(used.len, 200);
    cr_expect_eq(get_le16(room_at(0) + 10), 1);
    cr_expect_arr_eq(room_at(0) + 12, pattern(200, 2) + 12, 188);

    vrig_start(&rig, MERGE);
    for (unsigned i = 0; i < VRIG_SIZE; i++)
        offer_room(0, i, 100);
    from_peer(0, 100 * VRIG_SIZE + 1, 3);
    from_peer(0, 100 * VRIG_SIZE, 4);
    vrig_pump(&rig);
    cr_expect_eq(vrig_used_ring(&rig, 0)->idx, VRIG_SIZE);
    cr_expect_arr_eq(room_at(15), pattern(1600, 4) + 1500, 100);

    rig.size = 128;
    vrig_start(&rig, MERGE);
    for (unsigned i = 0; i < 100; i++) {
        vrig_set_desc(&rig, 0, i, VRIG_DATA + 0x100ULL * i, 20, WRITE);
        vrig_offer(&rig, 0, (uint16_t)i);
    }
    from_peer(0, 20 * 64 + 1, 5);
    from_peer(0, 20 * 64, 6);
    vrig_pump(&rig);
    cr_expect_eq(vrig_used_ring(&rig, 0)->idx, 64);
    cr_expect_not(is_broken());
}

Test(virtio_net, no_room_for_the_header)
{
    struct vring_used_elem used;
    vrig_start(&rig, MERGE);
    offer_room(0, 0, 11);
    offer_room(0, 1, 2000);
    from_peer(0, 100, 1);
    vrig_pump(&rig);
    cr_expect_not(vrig_used(&rig, 0, &used));
    vrig_set_desc(&rig, 0, 2, VRIG_DATA, 100, 0); /* to read, not to write */
    vrig_start(&rig, MERGE);
    vrig_offer(&rig, 0, 2);
    from_peer(0, 100, 1);
    vrig_pump(&rig);
    cr_expect_not(vrig_used(&rig, 0, &used));
    cr_expect_not(is_broken());
}

/* The answer to a command of LEN bytes; 0x55: none came. */
static uint8_t command(const void *bytes, uint32_t len)
{
    memcpy(vrig_at(&rig, VRIG_DATA, len), bytes, len);
    memset(vrig_at(&rig, VRIG_DATA + 0x1000, 1), 0x55, 1);
    vrig_set_desc(&rig, CTRL, 0, VRIG_DATA, len, NEXT);
    vrig_set_desc(&rig, CTRL, 1, VRIG_DATA + 0x1000, 1, WRITE);
    vrig_offer(&rig, CTRL, 0);
    vrig_kick(&rig, CTRL);
    return *(uint8_t *)vrig_at(&rig, VRIG_DATA + 0x1000, 1);
}

Test(virtio_net, commands)
{
    static const uint8_t set[] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 0};
    static const uint8_t bad[][4] = {
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 0, 0},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 3, 0},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 1},
        {VIRTIO_NET_CTRL_MQ, 1, 2, 0},
        {VIRTIO_NET_CTRL_RX, 0, 1, 0},
    };
    struct vring_used_elem used;
    vrig_start(&rig, MERGE);
    cr_expect_eq(command(set, 4), 0x55, "not without MQ");
    vrig_start(&rig, MERGE | MQ);
    cr_expect_eq(fake.pairs, 1);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        cr_expect_eq(command(bad[i], 4), VIRTIO_NET_ERR, "%zu", i);
    for (uint32_t len = 1; len < 4; len++)
        cr_expect_eq(command(set, len), VIRTIO_NET_ERR, "%u", len);
    cr_expect_eq(fake.pairs, 1);
    offer_room(2, 2, 2000);
    from_peer(1, 100, 1);
    vrig_kick(&rig, CTRL);
    cr_expect_not(vrig_used(&rig, 2, &used), "not in use yet");
    cr_expect_eq(command(set, 4), VIRTIO_NET_OK);
    cr_expect_eq(fake.pairs, 2);
    vrig_pump(&rig);
    cr_expect(vrig_used(&rig, 2, &used));
    vrig_set_desc(&rig, CTRL, 0, VRIG_DATA, 4, 0);
    vrig_offer(&rig, CTRL, 0);
    vrig_kick(&rig, CTRL);
    cr_expect(is_broken(), "no room for the answer");
}

Test(virtio_net, a_new_driver_finds_nothing_of_the_old_one)
{
    static const uint8_t set[] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 0};
    struct vring_used_elem used;
    vrig_start(&rig, MERGE | MQ | 1ULL << VIRTIO_NET_F_GUEST_CSUM);
    cr_expect_eq(fake.starts, 1);
    cr_expect(fake.features >> VIRTIO_NET_F_GUEST_CSUM & 1);
    cr_expect_eq(command(set, 4), VIRTIO_NET_OK);
    from_peer(0, 100, 1);
    vrig_pump(&rig); /* waits in the device */
    vrig_set_status(&rig, 0);
    vrig_start(&rig, MERGE);
    cr_expect_eq(fake.starts, 2);
    cr_expect_not(fake.features >> VIRTIO_NET_F_GUEST_CSUM & 1);
    cr_expect_eq(fake.pairs, 1);
    offer_room(0, 0, 2000);
    vrig_kick(&rig, 0);
    cr_expect_not(vrig_used(&rig, 0, &used));
    from_peer(0, 101, 1);
    vrig_pump(&rig);
    cr_assert(vrig_used(&rig, 0, &used));
    cr_expect_eq(used.len, 101);
}

Test(virtio_net, a_port_that_fails_is_a_cable_pulled)
{
    struct vring_used_elem used;
    vrig_start(&rig, MERGE);
    vrig_msix(&rig);
    offer_room(0, 0, 2000);
    vrig_kick(&rig, 0);
    cr_expect_eq(vrig_read(&rig, rig.device + 6, 2), VIRTIO_NET_S_LINK_UP);
    uint64_t generation = vrig_read(&rig, rig.common + VIRTIO_PCI_COMMON_CFGGENERATION, 1);
    fake_hv_deliver_data(&rig.fake, VRIG_MSI + 5);
    close(fake.peer[0]);
    vrig_pump(&rig);
    cr_expect_eq(vrig_read(&rig, rig.device + 6, 2), 0);
    cr_expect(fake_hv_deliver_data(&rig.fake, VRIG_MSI + 5), "the driver hears of it");
    cr_expect_neq(vrig_read(&rig, rig.common + VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);
    cr_expect_not(is_broken());
    for (unsigned i = 1; i < 4; i++) {
        offer_frame(1, i, 60, 1);
        vrig_kick(&rig, 1);
        cr_expect(vrig_used(&rig, 1, &used), "what is sent is dropped, not kept");
    }
}

Test(virtio_net, a_port_that_fails_before_there_is_a_driver)
{
    struct vring_used_elem used;
    close(fake.peer[0]);
    vrig_pump(&rig);
    cr_expect_eq(vrig_read(&rig, rig.device + 6, 2), 0);
    vrig_start(&rig, MERGE);
    offer_frame(1, 0, 60, 1);
    vrig_kick(&rig, 1);
    cr_expect(vrig_used(&rig, 1, &used));
}

/* A tap's queue that was detached. */
Test(virtio_net, a_pair_that_is_not_in_use_has_not_failed)
{
    close(fake.peer[1]);
    vrig_pump(&rig);
    cr_expect_eq(vrig_read(&rig, rig.device + 6, 2), VIRTIO_NET_S_LINK_UP);
}

Test(virtio_net, a_turn_is_bounded)
{
    static uint8_t got[NET_HDR + NET_FRAME_MAX];
    struct vring_used_elem used;
    unsigned done = 0;
    rig.size = 128;
    vrig_start(&rig, MERGE);
    memcpy(room_at(0), pattern(72, 1), 72);
    vrig_set_desc(&rig, 1, 0, VRIG_DATA, 72, 0);
    for (unsigned i = 0; i < 100; i++)
        vrig_offer(&rig, 1, 0);
    vrig_kick(&rig, 1);
    while (vrig_used(&rig, 1, &used))
        done++;
    cr_expect_eq(done, 64);
    vrig_pump(&rig);
    while (vrig_used(&rig, 1, &used))
        done++;
    cr_expect_eq(done, 100);
    for (unsigned i = 0; i < 100; i++)
        cr_expect_eq(to_peer(0, got), 72);
}

/* ---- vhost-net: a kernel that agrees to all, or has none ---- */

static struct {
    int set[8]; /* backends, in their order */
    unsigned nr, starts;
} kernel;

static int kernel_ioctl(int fd, unsigned long request, void *arg)
{
    (void)fd;
    if (request == VHOST_GET_FEATURES)
        *(uint64_t *)arg = ~0ULL;
    if (request == VHOST_NET_SET_BACKEND && kernel.nr < 8) {
        kernel.set[kernel.nr++] = ((struct vhost_vring_file *)arg)->fd;
        kernel.starts = fake.starts;
    }
    return 0;
}

static void with_kernel(bool vhost_net)
{
    fake_vfio_kernel_init()->other_ioctl = kernel_ioctl;
    if (vhost_net)
        fake_file("/dev/vhost-net", "");
    plug(true);
}

static void end(void)
{
    teardown();
    fake_vfio_kernel_fini();
}

Test(virtio_net_vhost, the_kernel_has_the_queues_and_we_the_commands)
{
    static const uint8_t set[] = {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, 0};
    struct vring_used_elem used;
    with_kernel(true);
    for (unsigned i = 0; i <= CTRL; i++)
        cr_expect_eq(vrig_doorbell(&rig, i) - rig.notify, i < CTRL ? (i + 1) * 4 : 0);
    vrig_start(&rig, MERGE | MQ);
    cr_assert_eq(kernel.nr, 4);
    cr_expect_eq(kernel.starts, 1, "the tap heard of the driver before");
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(kernel.set[i], fake.port.fd[i / 2]);
    offer_room(0, 2, 2000);
    from_peer(0, 100, 1);
    vrig_kick(&rig, 0);
    cr_expect_eq(command(set, 4), VIRTIO_NET_OK);
    cr_expect_not(vrig_used(&rig, 0, &used), "nobody else reads the tap");
    kernel.nr = 0;
    vrig_set_status(&rig, 0);
    cr_assert_eq(kernel.nr, 4);
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(kernel.set[i], -1);
    end();
}

Test(virtio_net_vhost, a_kernel_without_it)
{
    struct vring_used_elem used;
    with_kernel(false);
    cr_expect_eq(vrig_doorbell(&rig, 0), rig.notify);
    vrig_start(&rig, MERGE);
    offer_room(0, 0, 2000);
    from_peer(0, 100, 1);
    vrig_kick(&rig, 0);
    cr_expect(vrig_used(&rig, 0, &used));
    end();
}
