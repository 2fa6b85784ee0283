/*
 * blk_aio.h: asynchronous input and output on files, by io_uring (blk_uring.c), or by a few
 * threads (blk_threads.c) where the kernel forbids that. For blk_file.c alone.
 *
 * One owner, who has a lock around all of this.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vmm/loop.h"

struct blk_aio;

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_ALLOCATE };

/* BLK_READ and BLK_WRITE consume iov; BLK_ALLOCATE makes LEN bytes zeros. All from OFFSET on,
 * within the file. */
struct blk_req {
    enum blk_op op;
    struct iovec *iov;
    unsigned nr;
    uint64_t offset, len; /* bytes; of iov, the sum */
    bool sync;            /* BLK_WRITE: on the medium before it is done */
    bool keep;            /* BLK_ALLOCATE: the file keeps the space */

    int64_t result;       /* bytes, or a negative errno. As blk_file_reap() gives it: 0 or the
                             latter; -EOPNOTSUPP: the file cannot */
    int fd, flags;        /* blk_file.c's: RWF_... or the mode of fallocate(2) */
    struct blk_req *next; /* the engine's while it has the request */
};

struct blk_aio_ops {
    /* REQ, and what its iov names, is the engine's until it is reaped. It may begin now, and
     * does with the next submit. */
    void (*queue)(struct blk_aio *aio, struct blk_req *req);
    void (*submit)(struct blk_aio *aio); /* NULL: all has begun */
    /* The next request that is done, or NULL. */
    struct blk_req *(*reap)(struct blk_aio *aio);
    void (*destroy)(struct blk_aio *aio); /* nothing is under way */
};

struct blk_aio {
    const struct blk_aio_ops *ops;
    struct loop *loop;
    int fd; /* can be read when there is something to reap, until reap() has given NULL */
};

/* At most DEPTH requests at a time. READY is called in LOOP's thread when there may be
 * something to reap. */
int blk_uring_create(struct blk_aio **out, unsigned depth, struct loop *loop, loop_fn *ready,
                     void *opaque);
int blk_threads_create(struct blk_aio **out, struct loop *loop, loop_fn *ready, void *opaque);
