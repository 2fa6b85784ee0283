/*
 * vhost.h: queues of a virtio device that are served outside: by the kernel (vhost-net,
 * vhost-vsock) or by another process (vhost-user).
 *
 * The device embeds a struct vhost for each set of queues that one server has, calls
 * vhost_update() and vhost_stop() as its update and reset, and has nothing else to do: kicks
 * and interrupts are eventfds between the guest and the server. Under the device's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "devices/virtio/virtio.h"

struct loop;
struct vhost;

struct vhost_ops {
    /* A request of linux/vhost.h with its argument. */
    int (*request)(struct vhost *v, unsigned long request, void *arg);
    /* All queues are set up: serve them, or (ON false) no more. Stopped when this returns, at
     * the latest when VHOST_GET_VRING_BASE does. */
    int (*run)(struct vhost *v, bool on);
};

struct vhost {
    const struct vhost_ops *ops;
    struct virtio *dev;
    struct loop *loop;
    unsigned first, queues; /* of the device's queues; within its `outside` */
    uint64_t features;      /* the server's, of the device and of the rings */
    uint64_t extra;         /* features between us and the server, which it always gets */
    int64_t patience;       /* ns for the answers to a start, or to a stop; the kernel's: any */
    int64_t deadline;       /* for those to what is asked now, by CLOCK_MONOTONIC */

    int fd;      /* /dev/vhost-..., or the socket; owned */
    int backend; /* net: the tap's; its owner's */
    int err_fd;  /* the server signals it when a ring makes no sense to it */
    bool running;
};

/* V has its server, and the fields up to EXTRA but FEATURES: makes the acquaintance, and takes
 * from DEV those features of its rings that the server has not. 0 or a negative errno
 * (-EPROTONOSUPPORT: it is of before version 1); vhost_close() is due in both cases. Main
 * thread, before DEV is on a bus. */
int vhost_open(struct vhost *v);
void vhost_close(struct vhost *v); /* a zeroed struct is fine */

/* The kernel's: two queues of DEV from FIRST on. TAP is the file of a tap with a header of 12
 * bytes (IFF_VNET_HDR), which stays its owner's. -ENOENT, -ENODEV: the kernel has no such
 * thing; -EADDRINUSE: someone has the CID. No message; vhost_close() is due after a failure as
 * well. */
int vhost_net_open(struct vhost *v, struct virtio *dev, struct loop *loop, unsigned first,
                   int tap);
int vhost_vsock_open(struct vhost *v, struct virtio *dev, struct loop *loop, uint64_t cid);

/* Starts, stops or rewires what has to be; a start that fails breaks the device (virtio.h),
 * with a message. Queues that the driver has not all enabled are left alone. */
void vhost_update(struct vhost *v);
/* When it returns, the server touches no memory of the guest any more. */
void vhost_stop(struct vhost *v);

/* A device of which nothing is served here, and its operations. */
struct vhost_device {
    struct virtio virtio; /* what a transport takes */
    struct vhost *server;
};
extern const struct virtio_ops vhost_device_ops;
