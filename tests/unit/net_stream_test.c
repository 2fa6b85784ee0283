/*
 * net_stream_test.c: frames behind their lengths over a socket whose other end does with them
 * what it likes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/virtio_net.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/net_port.h"
#include "vmm/util.h"

static struct net_port *port;
static int peer;
static uint8_t frame[NET_HDR + NET_FRAME_MAX], bytes[4 + NET_FRAME_MAX];

static void setup(void)
{
    int fd[2];
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    cr_assert_eq(net_stream_open(&port, fd[0]), 0);
    peer = fd[1];
}

static void teardown(void)
{
    char c;
    port->ops->close(port);
    cr_expect_eq(recv(peer, &c, 1, MSG_DONTWAIT), 0, "closed");
}

TestSuite(net_stream, .init = setup);

/* LEN bytes of a frame behind their length, in `bytes`. */
static void make(uint32_t len, unsigned seed)
{
    uint32_t be = htobe32(len);
    memcpy(bytes, &be, 4);
    for (uint32_t i = 0; i < len && i < NET_FRAME_MAX; i++)
        bytes[4 + i] = (uint8_t)(i * 3 + i / 256 + seed);
}

static ssize_t receive(void)
{
    return port->ops->receive(port, 0, frame);
}

static int transmit(uint32_t len)
{
    static uint8_t header[NET_HDR];
    const struct iovec iov[] = {
        {header, NET_HDR}, {bytes + 4, len / 2}, {bytes + 4 + len / 2, len - len / 2}};
    return port->ops->send(port, 0, iov, 3);
}

/* All that the port has sent, up to SIZE bytes. */
static size_t drain(uint8_t *to, size_t size)
{
    size_t n = 0;
    ssize_t got;
    while (n < size && (got = recv(peer, to + n, size - n, MSG_DONTWAIT)) > 0)
        n += (size_t)got;
    return n;
}

Test(net_stream, a_frame_in_single_bytes)
{
    make(64, 1);
    memset(frame, 0x55, sizeof(frame));
    for (unsigned i = 0; i < 68; i++) {
        cr_expect_eq(receive(), -EAGAIN);
        cr_assert_eq(write(peer, bytes + i, 1), 1);
    }
    cr_expect_eq(receive(), 76);
    cr_expect_arr_eq(frame + NET_HDR, bytes + 4, 64);
    static const uint8_t none[NET_HDR];
    cr_expect_arr_eq(frame, none, NET_HDR);
    cr_expect_eq(receive(), -EAGAIN);
    teardown();
}

/* What is behind a descriptor is a piece of its own to recv(2): nobody waits for it again. */
Test(net_stream, a_frame_in_pieces)
{
    make(1000, 1);
    for (unsigned i = 0; i < 4; i++) {
        union {
            struct cmsghdr header;
            uint8_t room[CMSG_SPACE(sizeof(int))];
        } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
        struct iovec iov = {bytes + 251 * i, 251};
        const struct msghdr msg = {.msg_iov = &iov,
                                   .msg_iovlen = 1,
                                   .msg_control = &control,
                                   .msg_controllen = sizeof(control)};
        memcpy(CMSG_DATA(&control.header), &peer, sizeof(int));
        cr_assert_eq(sendmsg(peer, &msg, 0), 251);
    }
    cr_expect_eq(receive(), NET_HDR + 1000);
    cr_expect_arr_eq(frame + NET_HDR, bytes + 4, 1000);
    teardown();
}

Test(net_stream, many_in_one_piece)
{
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 10; i++) {
            make(1500 + i, i);
            cr_assert_eq(write(peer, bytes, 1504 + i), 1504 + i);
        }
        for (unsigned i = 0; i < 10; i++) {
            make(1500 + i, i);
            cr_expect_eq(receive(), (ssize_t)NET_HDR + 1500 + i);
            cr_expect_arr_eq(frame + NET_HDR, bytes + 4, 1500 + i);
        }
        cr_expect_eq(receive(), -EAGAIN);
    }
    teardown();
}

Test(net_stream, the_smallest_and_the_largest)
{
    make(NET_FRAME_MIN, 1);
    cr_assert_eq(write(peer, bytes, 4 + NET_FRAME_MIN), 4 + NET_FRAME_MIN);
    make(NET_FRAME_MAX, 2);
    cr_assert_eq(write(peer, bytes, 4 + NET_FRAME_MAX), 4 + NET_FRAME_MAX);
    cr_expect_eq(receive(), (ssize_t)NET_HDR + NET_FRAME_MIN);
    ssize_t n;
    while ((n = receive()) == -EAGAIN)
        ;
    cr_expect_eq(n, (ssize_t)(NET_HDR + NET_FRAME_MAX));
    cr_expect_arr_eq(frame + NET_HDR, bytes + 4, NET_FRAME_MAX);
    teardown();
}

Test(net_stream, lengths_that_no_frame_has)
{
    static const uint32_t row[] = {0,          1,          NET_FRAME_MIN - 1, NET_FRAME_MAX + 1,
                                   0x7fffffff, 0xfffffffc, 0xffffffff};
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        if (i)
            setup();
        make(64, 1);
        cr_assert_eq(write(peer, bytes, 68), 68);
        make(row[i], 1);
        cr_assert_eq(write(peer, bytes, 100), 100);
        cr_expect_eq(receive(), (ssize_t)NET_HDR + 64, "what came before is good");
        cr_expect_eq(receive(), -EPROTO, "%u", row[i]);
        cr_expect_eq(receive(), -EPROTO, "%u", row[i]);
        teardown();
    }
}

Test(net_stream, the_end_of_the_file)
{
    make(64, 1);
    cr_assert_eq(write(peer, bytes, 68), 68);
    cr_assert_eq(write(peer, bytes, 20), 20);
    shutdown(peer, SHUT_WR);
    cr_expect_eq(receive(), (ssize_t)NET_HDR + 64);
    ssize_t n;
    while ((n = receive()) == -EAGAIN)
        ;
    cr_expect_eq(n, -EPIPE, "half a frame is none");
    close(peer);
    cr_expect_eq(transmit(64), -EPIPE, "and no signal");
    port->ops->close(port);
}

Test(net_stream, a_frame_goes_out)
{
    static uint8_t got[sizeof(bytes)];
    make(100, 1);
    cr_expect_eq(transmit(100), 0);
    cr_expect_eq(drain(got, sizeof(got)), 104);
    cr_expect_arr_eq(got, bytes, 104);
    cr_expect_eq(transmit(NET_FRAME_MIN - 1), 0);
    cr_expect_eq(drain(got, sizeof(got)), 0, "too short");
    const struct iovec large[] = {{frame, NET_HDR}, {bytes, sizeof(bytes)}};
    cr_expect_eq(port->ops->send(port, 0, large, 2), 0);
    cr_expect_eq(drain(got, sizeof(got)), 0, "too long");
    teardown();
}

/* What the socket takes half of is kept, whatever becomes of the guest's memory, and comes
 * before the next. */
Test(net_stream, an_end_that_does_not_read)
{
    static uint8_t got[64 * sizeof(bytes)], want[64 * sizeof(bytes)];
    size_t sent = 0, came = 0;
    unsigned n = 0;
    for (; n < 64; n++) {
        make(50001, n);
        int err = transmit(50001);
        cr_assert(!err || err == -EAGAIN);
        if (err)
            break;
        memcpy(want + sent, bytes, 50005);
        sent += 50005;
    }
    cr_assert_lt(n, 64, "it never was full");
    cr_expect_eq(port->ops->send(port, 0, NULL, 0), -EAGAIN);
    memset(bytes, 0, sizeof(bytes));
    for (unsigned tries = 0; came < sent && tries < 100; tries++) {
        came += drain(got + came, sizeof(got) - came);
        port->ops->send(port, 0, NULL, 0);
    }
    cr_expect_eq(came, sent);
    cr_expect_eq(memcmp(got, want, sent), 0);
    make(60, 1);
    for (unsigned i = 0; i < 2; i++) {
        cr_expect_eq(transmit(60), 0);
        cr_expect_eq(drain(got, sizeof(got)), 64);
        cr_expect_arr_eq(got, bytes, 64);
    }
    teardown();
}
