/*
 * virtq.h: one split virtqueue, the device's side: chains of buffers out of the guest's rings
 * and back.
 *
 * The rings are the guest's memory and may change at any time: every index, length and address
 * is copied once, checked against guest RAM, then used. What cannot be is an error that ends
 * the queue's device until the guest resets it (virtio.h). Protected by the device's lock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define VIRTQ_SIZE_MAX 256
/* Buffers in a chain: 128 of data, a header, a status. */
#define VIRTQ_SEGS_MAX 130

struct mem;
struct vring_avail;
struct vring_desc;
struct vring_used;

/* In the order of the registers that say where they are. */
enum virtq_part { VIRTQ_DESC, VIRTQ_AVAIL, VIRTQ_USED, VIRTQ_PARTS };

struct virtq {
    uint16_t size;              /* the driver's choice, up to VIRTQ_SIZE_MAX */
    uint64_t addr[VIRTQ_PARTS]; /* in guest memory */
    bool enabled;               /* the rest holds */

    const struct mem *mem;
    bool indirect, event_idx; /* features agreed on */
    const struct vring_desc *desc_table;
    const struct vring_avail *avail_ring;
    struct vring_used *used_ring;
    uint16_t next_avail, next_used;
    uint16_t told; /* next_used when the driver was last considered for an interrupt */
};

/* iov[0..out) is what the device reads, the IN after them what it writes; none is empty. */
struct virtq_chain {
    uint16_t head; /* its name in the rings */
    unsigned out, in;
    struct iovec iov[VIRTQ_SEGS_MAX];
};

/* Not enabled, no addresses, the largest size. */
void virtq_reset(struct virtq *vq);
/* Begins to use the rings at the addresses set, with the FEATURES agreed on. -EINVAL when they
 * are not aligned or not in RAM as a whole. */
int virtq_enable(struct virtq *vq, const struct mem *mem, uint64_t features);

/* The next chain. 1: CHAIN is filled; 0: there is none, and the driver has been asked to kick
 * for the next; -EPROTO: what is in the ring makes no sense, and *WHY says so. */
int virtq_pop(struct virtq *vq, struct virtq_chain *chain, const char **why);
/* Gives the last N chains back as if they had not been taken. */
void virtq_unpop(struct virtq *vq, unsigned n);
/* Gives the chain HEAD back with WRITTEN bytes in it. */
void virtq_push(struct virtq *vq, uint16_t head, uint32_t written);
/* The same for several that the driver has to see at once: each put at its place I from 0 on,
 * then N of them published. */
void virtq_put(struct virtq *vq, unsigned i, uint16_t head, uint32_t written);
void virtq_publish(struct virtq *vq, unsigned n);
/* Whether the driver wants an interrupt for what was pushed since the last call. */
bool virtq_wants_interrupt(struct virtq *vq);

/* Takes LEN bytes off the front of what the device reads. False when there are fewer. */
bool virtq_read(struct virtq_chain *chain, void *to, size_t len);
