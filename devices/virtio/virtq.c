/*
 * virtq.c: see virtq.h.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 2.7 "Split Virtqueues": 2.7.5 descriptor table, 2.7.5.3
 * indirect descriptors, 2.7.6 available ring, 2.7.7 used buffer notification suppression, 2.7.8
 * used ring, 2.7.10 available buffer notification suppression. The guest is little-endian, as
 * the host is. Left out: packed virtqueues, in-order use, queue reset.
 */
#include "devices/virtio/virtq.h"

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

#include "vmm/mem.h"
#include "vmm/util.h"

/* Sizes of rings with the event field at the end, which is there whether used or not. */
#define AVAIL_SIZE(n) (6 + 2ULL * (n))
#define USED_SIZE(n)  (6 + 8ULL * (n))

_Static_assert(sizeof(struct vring_desc) == 16 && offsetof(struct vring_desc, next) == 14,
               "descriptor");
_Static_assert(sizeof(struct vring_used_elem) == 8 && offsetof(struct vring_used, ring) == 4,
               "used ring");

void virtq_reset(struct virtq *vq)
{
    *vq = (struct virtq){.size = VIRTQ_SIZE_MAX};
}

int virtq_enable(struct virtq *vq, const struct mem *mem, uint64_t features)
{
    const uint64_t *addr = vq->addr;
    vq->desc_table = mem_at(mem, addr[VIRTQ_DESC], sizeof(struct vring_desc) * vq->size);
    vq->avail_ring = mem_at(mem, addr[VIRTQ_AVAIL], AVAIL_SIZE(vq->size));
    vq->used_ring = mem_at(mem, addr[VIRTQ_USED], USED_SIZE(vq->size));
    if (!vq->desc_table || !vq->avail_ring || !vq->used_ring ||
        addr[VIRTQ_DESC] % VRING_DESC_ALIGN_SIZE ||
        addr[VIRTQ_AVAIL] % VRING_AVAIL_ALIGN_SIZE || addr[VIRTQ_USED] % VRING_USED_ALIGN_SIZE)
        return -EINVAL;
    vq->mem = mem;
    vq->indirect = features >> VIRTIO_RING_F_INDIRECT_DESC & 1;
    vq->event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1;
    vq->next_avail = vq->next_used = vq->told = 0;
    vq->enabled = true;
    return 0;
}

/* The one time that a descriptor is read: no compiler may fetch it again after this. */
static struct vring_desc load_desc(const struct vring_desc *at)
{
    struct vring_desc desc;
    memcpy(&desc, at, sizeof(desc)); /* an indirect table has any alignment */
    atomic_signal_fence(memory_order_seq_cst);
    return desc;
}

/* 2.7.4.2: all that the device writes comes after all that it reads. */
static const char *add_buffer(const struct virtq *vq, struct virtq_chain *chain,
                              const struct vring_desc *desc)
{
    unsigned n = chain->out + chain->in;
    bool written = desc->flags & VRING_DESC_F_WRITE;
    if (!desc->len)
        return NULL;
    if (n == VIRTQ_SEGS_MAX)
        return "a chain is too long or a loop";
    if (!written && chain->in)
        return "a chain has a buffer to read behind one to write";
    void *at = mem_at(vq->mem, desc->addr, desc->len);
    if (!at)
        return "a buffer is not in RAM";
    chain->iov[n] = (struct iovec){at, desc->len};
    chain->out += !written;
    chain->in += written;
    return NULL;
}

static const char *walk(const struct virtq *vq, struct virtq_chain *chain)
{
    const struct vring_desc *table = vq->desc_table;
    unsigned size = vq->size, i = chain->head, steps = 0;
    bool indirect = false;
    const char *why = NULL;
    chain->out = chain->in = 0;
    while (!why) {
        if (i >= size)
            return "a descriptor's number is beyond the table";
        if (++steps > VIRTQ_SIZE_MAX)
            return "a chain is too long or a loop";
        struct vring_desc desc = load_desc(&table[i]);
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (!vq->indirect || indirect || desc.flags & VRING_DESC_F_NEXT)
                return "an indirect table is where none may be";
            table = mem_at(vq->mem, desc.addr, desc.len);
            if (!table || desc.len % sizeof(desc))
                return "an indirect table is not in RAM or has a wrong size";
            size = desc.len / sizeof(desc);
            i = 0;
            indirect = true;
            continue;
        }
        why = add_buffer(vq, chain, &desc);
        if (!(desc.flags & VRING_DESC_F_NEXT))
            break;
        i = desc.next;
    }
    return why;
}

/* How many chains the driver has made available; its entries are read after this. */
static uint16_t waiting(const struct virtq *vq)
{
    uint16_t idx = __atomic_load_n(&vq->avail_ring->idx, __ATOMIC_ACQUIRE);
    return (uint16_t)(idx - vq->next_avail);
}

/* 2.7.10: the driver's next kick is for the entry after the last one seen. The fence pairs with
 * the driver's between its index and its look at this: one of both sees the other's. */
static void ask_for_kick(struct virtq *vq)
{
    if (!vq->event_idx)
        return;
    uint16_t *event = (uint16_t *)(void *)&vq->used_ring->ring[vq->size];
    __atomic_store_n(event, vq->next_avail, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_seq_cst);
}

int virtq_pop(struct virtq *vq, struct virtq_chain *chain, const char **why)
{
    uint16_t nr = waiting(vq);
    if (!nr) {
        ask_for_kick(vq);
        nr = waiting(vq);
    }
    if (!nr)
        return 0;
    if (nr > vq->size) {
        *why = "there are more chains available than the queue has room for";
        return -EPROTO;
    }
    const uint16_t *entry = &vq->avail_ring->ring[vq->next_avail % vq->size];
    chain->head = __atomic_load_n(entry, __ATOMIC_RELAXED);
    vq->next_avail++;
    *why = walk(vq, chain);
    return *why ? -EPROTO : 1;
}

void virtq_unpop(struct virtq *vq, unsigned n)
{
    vq->next_avail = (uint16_t)(vq->next_avail - n);
}

void virtq_put(struct virtq *vq, unsigned i, uint16_t head, uint32_t written)
{
    vq->used_ring->ring[(uint16_t)(vq->next_used + i) % vq->size] =
        (struct vring_used_elem){.id = head, .len = written};
}

void virtq_publish(struct virtq *vq, unsigned n)
{
    vq->next_used = (uint16_t)(vq->next_used + n);
    __atomic_store_n(&vq->used_ring->idx, vq->next_used, __ATOMIC_RELEASE);
}

void virtq_push(struct virtq *vq, uint16_t head, uint32_t written)
{
    virtq_put(vq, 0, head, written);
    virtq_publish(vq, 1);
}

bool virtq_wants_interrupt(struct virtq *vq)
{
    uint16_t old = vq->told;
    vq->told = vq->next_used;
    /* The index is out before the driver's wish is read: pairs with the driver's fence between
     * its wish and its last look at the index. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!vq->event_idx) {
        uint16_t flags = __atomic_load_n(&vq->avail_ring->flags, __ATOMIC_RELAXED);
        return old != vq->told && !(flags & VRING_AVAIL_F_NO_INTERRUPT);
    }
    uint16_t event = __atomic_load_n(&vq->avail_ring->ring[vq->size], __ATOMIC_RELAXED);
    return vring_need_event(event, vq->told, old);
}

bool virtq_read(struct virtq_chain *chain, void *to, size_t len)
{
    uint8_t *out = to;
    unsigned done = 0;
    while (len && done < chain->out) {
        struct iovec *iov = &chain->iov[done];
        size_t n = MIN(len, iov->iov_len);
        memcpy(out, iov->iov_base, n);
        out += n;
        len -= n;
        iov->iov_base = (uint8_t *)iov->iov_base + n;
        iov->iov_len -= n;
        done += !iov->iov_len;
    }
    chain->out -= done;
    memmove(chain->iov, &chain->iov[done], (chain->out + chain->in) * sizeof(*chain->iov));
    return !len;
}
