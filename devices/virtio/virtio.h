/*
 * virtio.h: what all virtio devices have in common: features, status, queues; between a device
 * (virtio_rng.h, virtio_blk.h) that embeds struct virtio and a transport (virtio_pci.h).
 *
 * LOCK guards device and transport. vCPU threads come through the transport's registers; kicks
 * and completions run in the loop's thread, and nothing else touches the rings but a reset.
 * The queues that are served outside (by the kernel or another process, vhost.h) have an
 * eventfd of their own for kicks, and one for interrupts; neither passes here.
 */
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "devices/virtio/virtq.h"
#include "vmm/log.h"

#define VIRTIO_QUEUES_MAX 9
/* Offered by every device. */
#define VIRTIO_FEATURES_OF_ALL                                          \
    (1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_INDIRECT_DESC | \
     1ULL << VIRTIO_RING_F_EVENT_IDX)
#define VIRTIO_CONFIG (-1) /* in place of a queue: the configuration or the status changed */

struct virtio;

/* Called with the lock held. */
struct virtio_ops {
    /* There may be chains in any queue. Bounded work; true: there is more to do, call again.
     * The loop's thread. NULL: every queue is served outside. */
    bool (*kick)(struct virtio *dev);
    /* Nothing of the guest's memory is touched any more when this returns. Any thread. */
    void (*reset)(struct virtio *dev);
    /* virtio_is_live() or what call_fd() gives may have changed. NULL: nothing to do. Any
     * thread. */
    void (*update)(struct virtio *dev);
    /* Gives back all that the device has but its memory. NULL: nothing. Main thread. */
    void (*close)(struct virtio *dev);
};

struct virtio_transport_ops {
    void (*interrupt)(void *transport, int queue); /* a queue, or VIRTIO_CONFIG */
    void (*kick_again)(void *transport);
    /* Of a queue served outside: what the driver's kicks signal, for the device's life; and
     * what interrupts the driver, until the next update(). Both stay the transport's. */
    int (*kick_fd)(void *transport, unsigned queue);
    int (*call_fd)(void *transport, unsigned queue);
};

struct virtio {
    const struct virtio_ops *ops;
    const char *name;      /* for messages; the owner's */
    const struct mem *mem; /* guest RAM */
    uint16_t id;           /* VIRTIO_ID_... */
    unsigned queues;
    unsigned outside;   /* so many of them, the first ones, are served outside */
    uint64_t features;  /* offered */
    const void *config; /* the device's configuration */
    size_t config_size;

    pthread_mutex_t lock;
    uint64_t accepted; /* features that the driver chose */
    uint8_t status;
    uint8_t generation; /* of what CONFIG points to (4.1.4.3.1) */
    bool dma;           /* the transport lets the device at memory (PCI: bus master) */
    struct virtq queue[VIRTIO_QUEUES_MAX];
    const struct virtio_transport_ops *transport_ops;
    void *transport;
    struct log_limit complaints;
};

/* The fields above LOCK are set by the device; FEATURES without those of every device. */
void virtio_init(struct virtio *dev);
/* A device that one of the create functions made, after its transport: closed and freed, as the
 * first member of what was allocated. NULL is fine. */
void virtio_destroy(struct virtio *dev);

/* ---- for devices, with the lock held ---- */

/* The driver is done with its set-up, nothing is wrong, and the device may use memory. */
bool virtio_is_live(const struct virtio *dev);
/* The next chain of QUEUE; false: none, or the device does not run. */
bool virtio_pop(struct virtio *dev, unsigned queue, struct virtq_chain *chain);
void virtio_push(struct virtio *dev, unsigned queue, uint16_t head, uint32_t written);
/* The driver's interrupt for what was pushed, if it wants one. */
void virtio_notify(struct virtio *dev, unsigned queue);
/* What CONFIG points to is another now: the driver is told. */
void virtio_config_changed(struct virtio *dev);
/* The driver broke the rules, or the device cannot go on: DEVICE_NEEDS_RESET, and nothing more
 * until it does. WHY is for the message; NULL: there was one. */
void virtio_break(struct virtio *dev, const char *why);
/* Works on the queues, and again later when there is more than a turn of work. */
void virtio_kick(struct virtio *dev);

/* ---- for transports, with the lock held ---- */

void virtio_reset(struct virtio *dev);
void virtio_update(struct virtio *dev); /* bus mastering or an interrupt's way changed */
void virtio_set_status(struct virtio *dev, uint8_t status);
void virtio_set_accepted(struct virtio *dev, unsigned word, uint32_t value); /* of 32 bits */
void virtio_enable_queue(struct virtio *dev, unsigned queue);
