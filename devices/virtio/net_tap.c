/*
 * net_tap.c: a tap of the host's as a net_port.h: its file takes and gives frames behind the
 * header that virtio has (linux/Documentation/networking/tuntap.rst; linux/if_tun.h).
 *
 * The tap was made before, by someone who may, for the user who runs the VM: a new one would
 * have neither an address nor a bridge, and be gone with the VM.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "devices/virtio/net_port.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define STALE_MAX 1024 /* frames: what a tap's queue holds */

static ssize_t tap_receive(struct net_port *port, unsigned pair, uint8_t *frame)
{
    ssize_t n = read(port->fd[pair], frame, NET_HDR + NET_FRAME_MAX);
    return n < 0 ? -errno : n;
}

/* The kernel checks header and length. An error is the frame's (or the tap is down). */
static int tap_send(struct net_port *port, unsigned pair, const struct iovec *iov, unsigned nr)
{
    return nr && writev(port->fd[pair], iov, (int)nr) < 0 && errno == EAGAIN ? -EAGAIN : 0;
}

static unsigned offloads(uint64_t features)
{
    static const struct {
        unsigned feature, flag;
    } row[] = {
        {VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
        {VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
        {VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
    };
    unsigned flags = TUN_F_CSUM;
    if (!(features >> VIRTIO_NET_F_GUEST_CSUM & 1))
        return 0; /* the others need it (5.1.3.1) */
    for (size_t i = 0; i < ARRAY_SIZE(row); i++)
        flags |= features >> row[i].feature & 1 ? row[i].flag : 0;
    return flags;
}

/* What is attached already is refused with EINVAL. */
static int tap_set_pairs(struct net_port *port, unsigned pairs)
{
    int err = 0;
    for (unsigned i = 0; port->pairs > 1 && i < port->pairs; i++) {
        struct ifreq ifr = {.ifr_flags = i < pairs ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
        if (ioctl(port->fd[i], TUNSETQUEUE, &ifr) && errno != EINVAL)
            err = -errno;
    }
    return err;
}

static void tap_start(struct net_port *port, uint64_t features)
{
    uint8_t frame[128]; /* the rest of a longer one is dropped */
    ioctl(port->fd[0], TUNSETOFFLOAD, offloads(features)); /* tried when it was opened */
    for (unsigned i = 0; i < port->pairs; i++) {
        for (unsigned n = 0; n < STALE_MAX && read(port->fd[i], frame, sizeof(frame)) > 0; n++)
            ;
    }
    tap_set_pairs(port, 1);
}

static void tap_close(struct net_port *port)
{
    for (unsigned i = 0; i < port->pairs; i++) {
        if (port->fd[i] >= 0)
            close(port->fd[i]);
    }
    free(port);
}

static const struct net_port_ops tap_ops = {
    .receive = tap_receive,
    .send = tap_send,
    .start = tap_start,
    .set_pairs = tap_set_pairs,
    .close = tap_close,
};

static int complain(const char *name, unsigned pairs, int err)
{
    if (err == -EINVAL && pairs > 1)
        log_error(name,
                  "cannot use tap with %u queues: it has one; make it anew: ip tuntap add %s "
                  "mode tap multi_queue user \"$USER\"",
                  pairs, name);
    else if (err == -EBUSY)
        log_error(name, "cannot use tap: another program has it; end that, or give another");
    else if (err == -EPERM)
        log_error(name,
                  "cannot use tap: it is another user's; as root: ip tuntap add %s mode tap "
                  "user NAME",
                  name);
    else
        log_error(name, "cannot use tap: %s; is it a tap? as root: ip tuntap add %s mode tap",
                  strerror(-err), name);
    return err;
}

/* A tap that was made for several queues wants to be told so by one who takes one, too. */
static int open_queue(const char *name, bool multi)
{
    const unsigned offload = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    int size = NET_HDR, little = 1;
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    ifr.ifr_flags = (short)(ifr.ifr_flags | (multi ? IFF_MULTI_QUEUE : 0));
    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    if (!ioctl(fd, TUNSETIFF, &ifr) && !ioctl(fd, TUNSETVNETHDRSZ, &size) &&
        !ioctl(fd, TUNSETVNETLE, &little) && !ioctl(fd, TUNSETOFFLOAD, offload))
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

int net_tap_open(struct net_port **out, const char *name, unsigned pairs)
{
    if (access("/dev/net/tun", F_OK)) {
        log_error("/dev/net/tun", "cannot use taps: %s; modprobe tun", strerror(errno));
        return -ENODEV;
    }
    if (!if_nametoindex(name)) {
        log_error(name,
                  "cannot use tap: there is none of this name; as root: ip tuntap add %s mode "
                  "tap%s user NAME && ip link set %s up",
                  name, pairs > 1 ? " multi_queue" : "", name);
        return -ENODEV;
    }
    struct net_port *port = calloc(1, sizeof(*port));
    if (!port) {
        log_error(name, "cannot use tap: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    *port = (struct net_port){.ops = &tap_ops, .pairs = pairs, .fd = {-1, -1, -1, -1}};
    port->features = 1ULL << VIRTIO_NET_F_CSUM | 1ULL << VIRTIO_NET_F_GUEST_CSUM |
                     1ULL << VIRTIO_NET_F_HOST_TSO4 | 1ULL << VIRTIO_NET_F_HOST_TSO6 |
                     1ULL << VIRTIO_NET_F_HOST_ECN | 1ULL << VIRTIO_NET_F_GUEST_TSO4 |
                     1ULL << VIRTIO_NET_F_GUEST_TSO6 | 1ULL << VIRTIO_NET_F_GUEST_ECN;
    int err = 0;
    for (unsigned i = 0; i < pairs && !err; i++) {
        port->fd[i] = open_queue(name, pairs > 1);
        if (port->fd[i] == -EINVAL && pairs == 1)
            port->fd[i] = open_queue(name, true);
        err = MIN(port->fd[i], 0);
    }
    if (err) {
        tap_close(port);
        return complain(name, pairs, err);
    }
    *out = port;
    return 0;
}
