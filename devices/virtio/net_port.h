/*
 * net_port.h: the other end of a network device: a tap of the host's, or a program (passt) at a
 * stream socket. The device (virtio_net.h) calls it with its lock held.
 */
#pragma once

#include <linux/virtio_net.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define NET_PAIRS_MAX 4
#define NET_HDR       sizeof(struct virtio_net_hdr_v1)
#define NET_FRAME_MIN 14             /* an Ethernet header */
#define NET_FRAME_MAX (0xffff + 18U) /* what IP can say, with that and a VLAN's tag */

struct net_port;

/* All return without waiting. */
struct net_port_ops {
    /* The next frame for PAIR with its header in front, into NET_HDR + NET_FRAME_MAX bytes: its
     * length; -EAGAIN: none now; another error: there will be none any more. */
    ssize_t (*receive)(struct net_port *port, unsigned pair, uint8_t *frame);
    /* A frame, its header being iov[0], NR at most VIRTQ_SEGS_MAX + 1. NR of 0: only what is
     * left of the one before. -EAGAIN: not now, give it again when the descriptor can be
     * written to; another error: never. What cannot be sent at all is dropped: 0. */
    int (*send)(struct net_port *port, unsigned pair, const struct iovec *iov, unsigned nr);
    /* The driver, new, has accepted FEATURES and uses the first pair. What came for the one
     * before is dropped. NULL: all that comes is good for any driver. */
    void (*start)(struct net_port *port, uint64_t features);
    /* In use: the first ones. NULL where there is one. */
    int (*set_pairs)(struct net_port *port, unsigned pairs);
    void (*close)(struct net_port *port);
};

struct net_port {
    const struct net_port_ops *ops;
    unsigned pairs;
    int fd[NET_PAIRS_MAX]; /* of each pair, to wait for */
    uint64_t features;     /* VIRTIO_NET_F_... that it can do */
};

/* The tap NAME, which exists, with PAIRS queues. Logs its own errors. */
int net_tap_open(struct net_port **out, const char *name, unsigned pairs);
/* QEMU's protocol for stream sockets, as passt speaks it: a frame behind its length in 4 bytes,
 * big-endian. FD, a connected socket, is the port's, also after a failure (-ENOMEM). */
int net_stream_open(struct net_port **out, int fd);
