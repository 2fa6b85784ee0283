/*
 * virtio_rng.c: the smallest virtio device, and the one to read first: one queue, whose buffers
 * are filled with what getrandom(2) gives.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 5.4 "Entropy Device". A buffer may come back with less than
 * it has room for (5.4.6.2), so a kick is a bounded amount of work whatever the guest offers.
 */
#include "devices/virtio/virtio_rng.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "devices/virtio/virtio.h"
#include "vmm/util.h"

#define BYTES_MAX  4096 /* for a chain */
#define CHAINS_MAX 16   /* in a turn */

struct virtio_rng {
    struct virtio virtio;
    struct virtq_chain chain; /* the one at hand */
};

/* Returns how many bytes were written. */
static uint32_t fill(const struct virtq_chain *chain)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->in; i++) {
        const struct iovec *iov = &chain->iov[chain->out + i];
        ssize_t n = getrandom(iov->iov_base, MIN(iov->iov_len, BYTES_MAX - done), 0);
        if (n < 0)
            break;
        done += (size_t)n;
        if ((size_t)n < iov->iov_len)
            break; /* what was written is one piece from the start */
    }
    return (uint32_t)done;
}

static bool rng_kick(struct virtio *dev)
{
    struct virtio_rng *rng = container_of(dev, struct virtio_rng, virtio);
    unsigned chains = 0;
    while (chains < CHAINS_MAX && virtio_pop(dev, 0, &rng->chain)) {
        virtio_push(dev, 0, rng->chain.head, fill(&rng->chain));
        chains++;
    }
    virtio_notify(dev, 0);
    return chains == CHAINS_MAX;
}

/* Nothing is ever under way between two kicks. */
static void rng_reset(struct virtio *dev)
{
    (void)dev;
}

static const struct virtio_ops rng_ops = {.kick = rng_kick, .reset = rng_reset};

int virtio_rng_create(struct virtio **out, const struct mem *mem)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));
    if (!rng) {
        log_error("virtio-rng", "cannot make device: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    rng->virtio = (struct virtio){
        .ops = &rng_ops, .name = "virtio-rng", .mem = mem, .id = VIRTIO_ID_RNG, .queues = 1};
    virtio_init(&rng->virtio);
    *out = &rng->virtio;
    return 0;
}
