/*
 * virtio_vsock.c: see virtio_vsock.h.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 5.10 "Socket Device". The queues of packets (0: to the
 * guest, 1: from it) are the kernel's. The third, for events, is never written to: the only
 * event says that the guest was moved to another host (5.10.6.7).
 */
#include "devices/virtio/virtio_vsock.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdlib.h>

#include "devices/virtio/vhost.h"
#include "vmm/util.h"

enum { QUEUES = 3, QUEUES_OUTSIDE = 2 };

struct virtio_vsock {
    struct vhost_device dev;
    struct vhost vhost;
    struct virtio_vsock_config config;
};

static void complain(uint32_t cid, int err)
{
    if (err == -EADDRINUSE)
        log_error("--vsock", "cannot use CID %u: another guest has it; choose another", cid);
    else
        log_error("--vsock", "cannot use /dev/vhost-vsock: %s; %s", strerror(-err),
                  err == -EACCES ? "run as root or as a user who may open it"
                                 : "load the kernel's module (modprobe vhost_vsock)");
}

int virtio_vsock_create(struct virtio **out, uint32_t cid, struct loop *loop,
                        const struct mem *mem)
{
    struct virtio_vsock *vsock = calloc(1, sizeof(*vsock));
    if (!vsock) {
        log_error("--vsock", "cannot make device: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    vsock->config.guest_cid = cid;
    vsock->dev.server = &vsock->vhost;
    vsock->dev.virtio = (struct virtio){
        .ops = &vhost_device_ops,
        .name = "virtio-vsock",
        .mem = mem,
        .id = VIRTIO_ID_VSOCK,
        .queues = QUEUES,
        .outside = QUEUES_OUTSIDE,
        .config = &vsock->config,
        .config_size = sizeof(vsock->config),
    };
    virtio_init(&vsock->dev.virtio);
    int err = vhost_vsock_open(&vsock->vhost, &vsock->dev.virtio, loop, cid);
    if (err) {
        complain(cid, err);
        virtio_destroy(&vsock->dev.virtio);
        return err;
    }
    vsock->dev.virtio.features |= vsock->vhost.features & 1ULL << VIRTIO_VSOCK_F_SEQPACKET;
    *out = &vsock->dev.virtio;
    return 0;
}
