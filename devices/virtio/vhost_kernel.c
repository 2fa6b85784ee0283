/*
 * vhost_kernel.c: the kernel as the server of queues: /dev/vhost-net, /dev/vhost-vsock.
 *
 * linux/vhost.h. The kernel reads the guest's memory through this process's address space, in
 * threads of its own; taking the backend away waits for them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <sys/ioctl.h>

#include "devices/virtio/vhost.h"
#include "vmm/util.h"

static int call(struct vhost *v, unsigned long request, void *arg)
{
    return ioctl(v->fd, request, arg) < 0 ? -errno : 0;
}

static int run_net(struct vhost *v, bool on)
{
    int err = 0;
    for (unsigned i = 0; i < v->queues; i++) {
        struct vhost_vring_file file = {i, on ? v->backend : -1};
        int ret = call(v, VHOST_NET_SET_BACKEND, &file);
        err = err ? err : ret;
    }
    return err;
}

static int run_vsock(struct vhost *v, bool on)
{
    int running = on;
    return call(v, VHOST_VSOCK_SET_RUNNING, &running);
}

static int open_node(struct vhost *v, const char *path)
{
    v->queues = 2;
    v->err_fd = -1;
    v->fd = open(path, O_RDWR | O_CLOEXEC);
    return v->fd < 0 ? -errno : vhost_open(v);
}

int vhost_net_open(struct vhost *v, struct virtio *dev, struct loop *loop, unsigned first,
                   int tap)
{
    static const struct vhost_ops ops = {.request = call, .run = run_net};
    *v = (struct vhost){.ops = &ops, .dev = dev, .loop = loop, .first = first, .backend = tap};
    return open_node(v, "/dev/vhost-net");
}

int vhost_vsock_open(struct vhost *v, struct virtio *dev, struct loop *loop, uint64_t cid)
{
    static const struct vhost_ops ops = {.request = call, .run = run_vsock};
    *v = (struct vhost){.ops = &ops, .dev = dev, .loop = loop};
    int err = open_node(v, "/dev/vhost-vsock");
    return err ? err : call(v, VHOST_VSOCK_SET_GUEST_CID, &cid);
}
