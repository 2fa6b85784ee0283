/*
 * virtio.c: see virtio.h.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 2.1 "Device Status Field", 2.2 "Feature Bits", 2.4 "Device
 * Reset", 3.1 "Device Initialization". Only devices of version 1 (no legacy interface), only
 * split virtqueues.
 */
#include "devices/virtio/virtio.h"

#include <stdlib.h>

#include "vmm/util.h"

static void clear(struct virtio *dev)
{
    dev->status = 0;
    dev->accepted = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        virtq_reset(&dev->queue[i]);
}

void virtio_init(struct virtio *dev)
{
    pthread_mutex_init(&dev->lock, NULL);
    dev->features |= VIRTIO_FEATURES_OF_ALL;
    clear(dev);
}

void virtio_destroy(struct virtio *dev)
{
    if (!dev)
        return;
    if (dev->ops->close)
        dev->ops->close(dev);
    pthread_mutex_destroy(&dev->lock);
    free(dev);
}

bool virtio_is_live(const struct virtio *dev)
{
    const uint8_t ends = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
    return dev->dma && dev->status & VIRTIO_CONFIG_S_DRIVER_OK && !(dev->status & ends);
}

bool virtio_pop(struct virtio *dev, unsigned queue, struct virtq_chain *chain)
{
    struct virtq *vq = &dev->queue[queue];
    const char *why;
    if (!virtio_is_live(dev) || !vq->enabled)
        return false;
    int got = virtq_pop(vq, chain, &why);
    if (got < 0)
        virtio_break(dev, why);
    return got > 0;
}

void virtio_push(struct virtio *dev, unsigned queue, uint16_t head, uint32_t written)
{
    virtq_push(&dev->queue[queue], head, written);
}

void virtio_notify(struct virtio *dev, unsigned queue)
{
    if (dev->queue[queue].enabled && virtq_wants_interrupt(&dev->queue[queue]))
        dev->transport_ops->interrupt(dev->transport, (int)queue);
}

void virtio_config_changed(struct virtio *dev)
{
    dev->generation++;
    if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK)
        dev->transport_ops->interrupt(dev->transport, VIRTIO_CONFIG);
}

void virtio_break(struct virtio *dev, const char *why)
{
    if (dev->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    dev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (why && log_limit(&dev->complaints))
        log_warn(dev->name,
                 "cannot serve the guest's driver: %s; the device waits until the "
                 "driver resets it",
                 why);
    if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK) /* 2.1.2 */
        dev->transport_ops->interrupt(dev->transport, VIRTIO_CONFIG);
    virtio_update(dev);
}

void virtio_kick(struct virtio *dev)
{
    if (dev->ops->kick && dev->ops->kick(dev))
        dev->transport_ops->kick_again(dev->transport);
}

void virtio_reset(struct virtio *dev)
{
    dev->ops->reset(dev);
    clear(dev);
}

void virtio_update(struct virtio *dev)
{
    if (dev->ops->update)
        dev->ops->update(dev);
}

/* 2.2.2: only what was offered, and not without version 1. */
static bool features_ok(const struct virtio *dev)
{
    return !(dev->accepted & ~dev->features) && dev->accepted >> VIRTIO_F_VERSION_1 & 1;
}

void virtio_set_status(struct virtio *dev, uint8_t status)
{
    uint8_t fresh = status & ~dev->status;
    if (!status) {
        virtio_reset(dev);
        return;
    }
    if (fresh & VIRTIO_CONFIG_S_FEATURES_OK && !features_ok(dev))
        status &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
    if (!(status & VIRTIO_CONFIG_S_FEATURES_OK))
        status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
    /* The device's own bit is not the driver's to set or clear. */
    dev->status = (uint8_t)((status & ~VIRTIO_CONFIG_S_NEEDS_RESET) |
                            (dev->status & VIRTIO_CONFIG_S_NEEDS_RESET));
    virtio_update(dev);
}

void virtio_set_accepted(struct virtio *dev, unsigned word, uint32_t value)
{
    if (word > 1 || dev->status & VIRTIO_CONFIG_S_FEATURES_OK)
        return;
    dev->accepted &= ~(0xffffffffULL << 32 * word);
    dev->accepted |= (uint64_t)value << 32 * word;
}

void virtio_enable_queue(struct virtio *dev, unsigned queue)
{
    struct virtq *vq = &dev->queue[queue];
    if (vq->enabled || !(dev->status & VIRTIO_CONFIG_S_FEATURES_OK))
        return;
    if (virtq_enable(vq, dev->mem, dev->accepted))
        virtio_break(dev, "a queue's rings are not aligned or not in RAM");
}
