/*
 * net_tap_test.c: a real tap in a network namespace of the test's own, whose other side is a
 * packet socket; skipped where the user may not make one.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/net_port.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define TYPE 0x88b5 /* for experiments: nobody else's */

static struct net_port *port;
static int wire, ifindex;
static uint8_t frame[NET_HDR + NET_FRAME_MAX];

/* A tap that stays while its namespace does. */
static int make_tap(const char *name, bool multi)
{
    struct ifreq ifr = {.ifr_flags =
                            (short)(IFF_TAP | IFF_NO_PI | (multi ? IFF_MULTI_QUEUE : 0))};
    int fd = open("/dev/net/tun", O_RDWR);
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    int err = fd < 0 || ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETPERSIST, 1);
    if (fd >= 0)
        close(fd);
    return err;
}

static void setup(void)
{
    log_set_level(LOG_ERROR);
    if (unshare(CLONE_NEWNET) || make_tap("one", false) || make_tap("many", true))
        cr_skip_test("no right to make a tap");
}

TestSuite(net_tap, .init = setup);

/* The host's side of the tap, up. */
static void attach(const char *name)
{
    struct sockaddr_ll addr = {.sll_family = AF_PACKET, .sll_protocol = htobe16(TYPE)};
    struct ifreq ifr = {.ifr_flags = IFF_UP};
    wire = socket(AF_PACKET, SOCK_RAW, htobe16(TYPE));
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    ifindex = addr.sll_ifindex = (int)if_nametoindex(name);
    cr_assert(!ioctl(wire, SIOCSIFFLAGS, &ifr));
    cr_assert(!bind(wire, (struct sockaddr *)&addr, sizeof(addr)));
}

static void make_frame(size_t len, uint8_t seed)
{
    memset(frame, 0, NET_HDR);
    memset(frame + NET_HDR, 0xff, 12);
    frame[NET_HDR + 12] = TYPE >> 8;
    frame[NET_HDR + 13] = TYPE & 0xff;
    memset(frame + NET_HDR + 14, seed, len - 14);
}

static int transmit(size_t len)
{
    const struct iovec iov[] = {
        {frame, NET_HDR}, {frame + NET_HDR, 14}, {frame + NET_HDR + 14, len - 14}};
    return port->ops->send(port, 0, iov, 3);
}

/* The next frame of ours: the kernel has things of its own to say on a new link. */
static ssize_t receive(unsigned pair)
{
    static const uint8_t ours[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    ssize_t n;
    do {
        n = port->ops->receive(port, pair, frame);
    } while (n > 0 && memcmp(frame + NET_HDR + 6, ours, 6));
    return n;
}

Test(net_tap, frames_both_ways)
{
    uint8_t got[2048];
    cr_assert_eq(net_tap_open(&port, "one", 1), 0);
    attach("one");
    port->ops->start(port, 0);
    make_frame(100, 7);
    cr_expect_eq(transmit(100), 0);
    cr_expect_eq(recv(wire, got, sizeof(got), 0), 100);
    cr_expect_arr_eq(got, frame + NET_HDR, 100);
    cr_expect_eq(port->ops->send(port, 0, NULL, 0), 0);

    cr_expect_eq(receive(0), -EAGAIN);
    cr_expect_eq(send(wire, got, 90, 0), 90);
    cr_expect_eq(receive(0), (ssize_t)NET_HDR + 90);
    cr_expect_arr_eq(frame + NET_HDR, got, 90);
    cr_expect_eq(receive(0), -EAGAIN);

    cr_expect_eq(send(wire, got, 90, 0), 90);
    port->ops->start(port, 0);
    cr_expect_eq(receive(0), -EAGAIN, "what was for another driver");

    frame[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    put_le16(frame + 6, 5000); /* csum_start: beyond the frame */
    cr_expect_eq(transmit(100), 0, "the kernel refuses it, it is dropped");
    cr_expect_lt(recv(wire, got, sizeof(got), MSG_DONTWAIT), 0);
    port->ops->close(port);
}

/* A flow of its own for each N. */
static void send_udp(uint8_t n)
{
    uint8_t out[64] = {0x02, 0, 0,    0, 0, 1,  0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                       0x08, 0, 0x45, 0, 0, 50, 0,    0,    0,    0,    64,   17,
                       0,    0, 10,   0, 0, 1,  10,   0,    0,    2};
    const struct sockaddr_ll to = {
        .sll_family = AF_PACKET, .sll_protocol = htobe16(ETHERTYPE_IP), .sll_ifindex = ifindex};
    out[35] = n;
    cr_assert_eq(sendto(wire, out, sizeof(out), 0, (const struct sockaddr *)&to, sizeof(to)),
                 sizeof(out));
}

Test(net_tap, queues)
{
    cr_assert_eq(net_tap_open(&port, "many", 4), 0);
    attach("many");
    for (unsigned pairs = 4; pairs >= 1; pairs--) {
        unsigned came[4] = {0};
        port->ops->start(port, 0);
        if (pairs > 1) { /* one is what there is at the start */
            cr_expect_eq(port->ops->set_pairs(port, pairs), 0);
            cr_expect_eq(port->ops->set_pairs(port, pairs), 0, "once more");
        }
        for (unsigned i = 0; i < 200; i++)
            send_udp((uint8_t)i);
        for (unsigned i = 0; i < 4; i++) {
            while (receive(i) > 0)
                came[i]++;
            cr_expect((came[i] > 0) == (i < pairs), "%u at queue %u of %u", came[i], i, pairs);
        }
        cr_expect_eq(came[0] + came[1] + came[2] + came[3], 200);
    }
    port->ops->close(port);
    cr_assert_eq(net_tap_open(&port, "many", 1), 0, "one that could have more");
    cr_expect_eq(port->ops->set_pairs(port, 1), 0);
    port->ops->close(port);
}

Test(net_tap, what_cannot_be_used)
{
    struct net_port *other;
    cr_expect_eq(net_tap_open(&port, "none", 1), -ENODEV);
    cr_expect_eq(net_tap_open(&port, "one", 2), -EINVAL);
    cr_expect_eq(net_tap_open(&port, "lo", 1), -EINVAL);
    cr_assert_eq(net_tap_open(&port, "one", 1), 0);
    cr_expect_eq(net_tap_open(&other, "one", 1), -EBUSY);
    port->ops->close(port);
    cr_assert_eq(net_tap_open(&port, "one", 1), 0);
    port->ops->close(port);
}
