/*
 * blk_aio.h: asynchronous input and output on files, by io_uring (blk_uring.c), or by a few
 * threads (blk_threads.c) where the kernel forbids that.
 *
 * One owner, who has a lock around all of this. Completions are seen by blk_aio_reap() only.
 */
#pragma once

#include <stdint.h>
#include <sys/uio.h>

#include "vmm/loop.h"

struct blk_aio;

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_ALLOCATE };

struct blk_req {
    enum blk_op op;
    int fd;
    int flags; /* BLK_WRITE: RWF_...; BLK_ALLOCATE: the mode of fallocate(2) */
    const struct iovec *iov;
    unsigned nr;
    uint64_t offset, len; /* LEN for BLK_ALLOCATE only */
    int64_t result;       /* bytes, or a negative errno */
    struct blk_req *next; /* blk_aio's while it has the request */
};

struct blk_aio_ops {
    void (*queue)(struct blk_aio *aio, struct blk_req *req);
    void (*submit)(struct blk_aio *aio);
    struct blk_req *(*reap)(struct blk_aio *aio);
    void (*wait)(struct blk_aio *aio);
    void (*destroy)(struct blk_aio *aio);
};

struct blk_aio {
    const struct blk_aio_ops *ops;
};

/* At most DEPTH requests at a time. READY is called in LOOP's thread when there may be
 * something to reap. Threads are made where io_uring is not to be had. */
int blk_aio_create(struct blk_aio **out, unsigned depth, struct loop *loop, loop_fn *ready,
                   void *opaque);
int blk_uring_create(struct blk_aio **out, unsigned depth, struct loop *loop, loop_fn *ready,
                     void *opaque);
int blk_threads_create(struct blk_aio **out, struct loop *loop, loop_fn *ready, void *opaque);

/* REQ (and what its iov names) is the other side's until it is reaped. It may begin now, and
 * does with the next submit, which is the loop's thread's. */
static inline void blk_aio_queue(struct blk_aio *aio, struct blk_req *req)
{
    aio->ops->queue(aio, req);
}

static inline void blk_aio_submit(struct blk_aio *aio)
{
    aio->ops->submit(aio);
}

/* The next request that is done, or NULL. */
static inline struct blk_req *blk_aio_reap(struct blk_aio *aio)
{
    return aio->ops->reap(aio);
}

/* Returns when all that was submitted can be reaped. */
static inline void blk_aio_wait(struct blk_aio *aio)
{
    aio->ops->wait(aio);
}

/* When nothing is under way; NULL is fine. */
static inline void blk_aio_destroy(struct blk_aio *aio)
{
    if (aio)
        aio->ops->destroy(aio);
}
