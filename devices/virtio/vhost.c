/*
 * vhost.c: see vhost.h. One sequence for every server, in the words of linux/vhost.h:
 * features, memory, then for each queue its size, place, state and eventfds, then go.
 *
 * The server gets addresses of ours: the rings' (checked by virtq.c to be in RAM), and with the
 * memory table what the guest's are for us. What is in the rings it checks itself: it says so
 * by the error eventfd when it gives up.
 */
#include "devices/virtio/vhost.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/util.h"

static void set_deadline(struct vhost *v)
{
    v->deadline = loop_now(CLOCK_MONOTONIC) + v->patience;
}

static void failed(void *opaque, uint32_t events)
{
    struct vhost *v = opaque;
    (void)events;
    pthread_mutex_lock(&v->dev->lock);
    if (v->running)
        virtio_break(v->dev, "its queues make no sense");
    pthread_mutex_unlock(&v->dev->lock);
}

int vhost_open(struct vhost *v)
{
    v->err_fd = loop_add_eventfd(v->loop, failed, v);
    if (v->err_fd < 0)
        return v->err_fd;
    set_deadline(v);
    int err = v->ops->request(v, VHOST_SET_OWNER, NULL);
    if (!err)
        err = v->ops->request(v, VHOST_GET_FEATURES, &v->features);
    if (err)
        return err;
    v->dev->features &= v->features | ~VIRTIO_FEATURES_OF_ALL;
    return v->features >> VIRTIO_F_VERSION_1 & 1 ? 0 : -EPROTONOSUPPORT;
}

void vhost_close(struct vhost *v)
{
    if (!v->ops)
        return;
    loop_close(v->loop, v->err_fd);
    loop_close(v->loop, v->fd);
    *v = (struct vhost){0};
}

static int set_memory(struct vhost *v)
{
    const struct mem *mem = v->dev->mem;
    union {
        struct vhost_memory memory;
        uint8_t room[sizeof(struct vhost_memory) +
                     MEM_REGIONS_MAX * sizeof(struct vhost_memory_region)];
    } table = {.memory.nregions = mem->nr};
    for (unsigned i = 0; i < mem->nr; i++)
        table.memory.regions[i] = (struct vhost_memory_region){
            .guest_phys_addr = mem->region[i].gpa,
            .memory_size = mem->region[i].size,
            .userspace_addr = (uintptr_t)mem->region[i].hva,
        };
    return v->ops->request(v, VHOST_SET_MEM_TABLE, &table);
}

static int set_call(struct vhost *v, unsigned i)
{
    const struct virtio *dev = v->dev;
    struct vhost_vring_file call = {i,
                                    dev->transport_ops->call_fd(dev->transport, v->first + i)};
    return v->ops->request(v, VHOST_SET_VRING_CALL, &call);
}

static int set_queue(struct vhost *v, unsigned i)
{
    const struct virtio *dev = v->dev;
    const struct virtq *vq = &dev->queue[v->first + i];
    struct vhost_vring_state num = {i, vq->size}, base = {i, vq->next_avail};
    struct vhost_vring_addr addr = {
        .index = i,
        .desc_user_addr = (uintptr_t)vq->desc_table,
        .avail_user_addr = (uintptr_t)vq->avail_ring,
        .used_user_addr = (uintptr_t)vq->used_ring,
    };
    struct vhost_vring_file err = {i, v->err_fd};
    struct vhost_vring_file kick = {i,
                                    dev->transport_ops->kick_fd(dev->transport, v->first + i)};
    const struct {
        unsigned long request;
        void *arg;
    } step[] = {
        {VHOST_SET_VRING_NUM, &num},   {VHOST_SET_VRING_BASE, &base},
        {VHOST_SET_VRING_ADDR, &addr}, {VHOST_SET_VRING_ERR, &err},
        {VHOST_SET_VRING_KICK, &kick},
    };
    int ret = set_call(v, i);
    for (size_t n = 0; n < ARRAY_SIZE(step) && !ret; n++)
        ret = v->ops->request(v, step[n].request, step[n].arg);
    return ret;
}

static int start(struct vhost *v, const char **what)
{
    const struct virtio *dev = v->dev;
    uint64_t features = (dev->accepted & v->features) | v->extra;
    v->running = true; /* or half-way: to be stopped */
    *what = "features";
    int err = v->ops->request(v, VHOST_SET_FEATURES, &features);
    if (err)
        return err;
    *what = "memory";
    err = set_memory(v);
    *what = err ? *what : "queues";
    for (unsigned i = 0; i < v->queues && !err; i++)
        err = set_queue(v, i);
    if (err)
        return err;
    *what = "start";
    err = v->ops->run(v, true);
    /* What was made available before the server looked. */
    for (unsigned i = 0; i < v->queues; i++)
        eventfd_write(dev->transport_ops->kick_fd(dev->transport, v->first + i), 1);
    return err;
}

void vhost_stop(struct vhost *v)
{
    if (!v->running)
        return;
    v->running = false;
    set_deadline(v);
    v->ops->run(v, false);
    for (unsigned i = 0; i < v->queues; i++) {
        struct vhost_vring_state base = {.index = i};
        if (!v->ops->request(v, VHOST_GET_VRING_BASE, &base))
            v->dev->queue[v->first + i].next_avail = (uint16_t)base.num;
    }
}

/* 3.1.1: queues are set up before DRIVER_OK; one that is enabled later is not looked for. */
static bool all_enabled(const struct vhost *v)
{
    unsigned n = 0;
    while (n < v->queues && v->dev->queue[v->first + n].enabled)
        n++;
    return n == v->queues;
}

void vhost_update(struct vhost *v)
{
    bool run = virtio_is_live(v->dev) && all_enabled(v);
    const char *what = "interrupts";
    int err = 0;
    set_deadline(v);
    if (!run)
        vhost_stop(v);
    else if (!v->running)
        err = start(v, &what);
    else
        for (unsigned i = 0; i < v->queues && !err; i++)
            err = set_call(v, i);
    if (err) {
        char why[128];
        snprintf(why, sizeof(why), "vhost does not take its %s: %s", what, strerror(-err));
        virtio_break(v->dev, why); /* stops it */
    }
}

static struct vhost *server_of(struct virtio *dev)
{
    return container_of(dev, struct vhost_device, virtio)->server;
}

static void device_reset(struct virtio *dev)
{
    vhost_stop(server_of(dev));
}

static void device_update(struct virtio *dev)
{
    vhost_update(server_of(dev));
}

static void device_close(struct virtio *dev)
{
    vhost_close(server_of(dev));
}

const struct virtio_ops vhost_device_ops = {
    .reset = device_reset,
    .update = device_update,
    .close = device_close,
};
