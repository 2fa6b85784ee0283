/*
 * blk_uring.c: blk_aio.h by io_uring, with the kernel's own header.
 *
 * Two rings in memory shared with the kernel (io_uring(7), io_uring_setup(2)): what is to be
 * done goes in at the tail of one, what is done comes out at the head of the other; one call
 * submits all that has been queued. Each request has at most one entry, so neither can run
 * over. The loop waits for the ring's own descriptor. Left out: fixed files and buffers, kernel
 * polling.
 */
#include "devices/virtio/blk_aio.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm/util.h"

struct uring {
    struct blk_aio aio; /* its fd is the ring */
    void *map;          /* both rings */
    size_t map_size, sqes_size;
    struct io_uring_sqe *sqes;
    uint32_t *sq_head, *sq_tail, sq_mask, *sq_array;
    uint32_t *cq_head, *cq_tail, cq_mask;
    const struct io_uring_cqe *cqes;
    unsigned in_flight;     /* the kernel's */
    struct blk_req *failed; /* could not be submitted */
};

/* The kernel gives back what fill() gave it. */
static struct blk_req *request_of(uint64_t user_data)
{
    struct blk_req *req;
    _Static_assert(sizeof(uintptr_t) == sizeof(user_data), "a pointer fits");
    memcpy(&req, &user_data, sizeof(user_data));
    return req;
}

static void fill(struct io_uring_sqe *sqe, struct blk_req *req)
{
    static const uint8_t opcode[] = {
        [BLK_READ] = IORING_OP_READV,
        [BLK_WRITE] = IORING_OP_WRITEV,
        [BLK_FLUSH] = IORING_OP_FSYNC,
        [BLK_ALLOCATE] = IORING_OP_FALLOCATE,
    };
    *sqe = (struct io_uring_sqe){
        .opcode = opcode[req->op], .fd = req->fd, .user_data = (uintptr_t)req};
    switch (req->op) {
    case BLK_READ:
    case BLK_WRITE:
        sqe->addr = (uintptr_t)req->iov;
        sqe->len = req->nr;
        sqe->off = req->offset;
        sqe->rw_flags = req->flags;
        break;
    case BLK_FLUSH:
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        break;
    case BLK_ALLOCATE: /* where this one has its length and mode: io_uring_enter(2) */
        sqe->off = req->offset;
        sqe->addr = req->len;
        sqe->len = (uint32_t)req->flags;
        break;
    }
}

static void uring_queue(struct blk_aio *aio, struct blk_req *req)
{
    struct uring *u = container_of(aio, struct uring, aio);
    uint32_t tail = *u->sq_tail;
    fill(&u->sqes[tail & u->sq_mask], req);
    u->sq_array[tail & u->sq_mask] = tail & u->sq_mask;
    __atomic_store_n(u->sq_tail, tail + 1, __ATOMIC_RELEASE);
}

static uint32_t queued(const struct uring *u)
{
    return *u->sq_tail - __atomic_load_n(u->sq_head, __ATOMIC_ACQUIRE);
}

/* What the kernel, short of something, does not take waits for one that it has to be done;
 * where it has none, it will not be done. The kernel reads the queue during the call only, so
 * all can be taken back. */
static void uring_submit(struct blk_aio *aio)
{
    struct uring *u = container_of(aio, struct uring, aio);
    int err = 0;
    while (queued(u) && (!err || err == -EINTR)) {
        long n = syscall(__NR_io_uring_enter, aio->fd, queued(u), 0, 0, NULL, 0);
        err = n < 0 ? -errno : n == 0 ? -EAGAIN : 0;
        u->in_flight += (unsigned)MAX(n, 0);
    }
    while (queued(u) && !u->in_flight) {
        uint32_t tail = *u->sq_tail - 1;
        struct blk_req *req = request_of(u->sqes[tail & u->sq_mask].user_data);
        __atomic_store_n(u->sq_tail, tail, __ATOMIC_RELEASE);
        req->result = err;
        req->next = u->failed;
        u->failed = req;
    }
}

static uint32_t done(const struct uring *u)
{
    return __atomic_load_n(u->cq_tail, __ATOMIC_ACQUIRE) - *u->cq_head;
}

static struct blk_req *uring_reap(struct blk_aio *aio)
{
    struct uring *u = container_of(aio, struct uring, aio);
    if (!done(u) && !u->failed)
        uring_submit(aio);
    struct blk_req *req = u->failed;
    if (req) {
        u->failed = req->next;
        return req;
    }
    if (!done(u))
        return NULL;
    const struct io_uring_cqe *cqe = &u->cqes[*u->cq_head & u->cq_mask];
    req = request_of(cqe->user_data);
    req->result = cqe->res;
    __atomic_store_n(u->cq_head, *u->cq_head + 1, __ATOMIC_RELEASE);
    u->in_flight--;
    return req;
}

static void uring_destroy(struct blk_aio *aio)
{
    struct uring *u = container_of(aio, struct uring, aio);
    if (u->sqes)
        munmap(u->sqes, u->sqes_size);
    if (u->map)
        munmap(u->map, u->map_size);
    loop_close(aio->loop, aio->fd);
    free(u);
}

static const struct blk_aio_ops uring_ops = {
    .queue = uring_queue,
    .submit = uring_submit,
    .reap = uring_reap,
    .destroy = uring_destroy,
};

/* NULL with errno. */
static void *map_part(const struct uring *u, uint64_t offset, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, u->aio.fd,
                    (off_t)offset);
    return at == MAP_FAILED ? NULL : at;
}

static int map_rings(struct uring *u, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    u->map_size = MAX(sq, cq);
    u->sqes_size = p->sq_entries * sizeof(struct io_uring_sqe);
    u->map = map_part(u, IORING_OFF_SQ_RING, u->map_size);
    if (!u->map)
        return -errno;
    u->sqes = map_part(u, IORING_OFF_SQES, u->sqes_size);
    if (!u->sqes)
        return -errno;
    uint8_t *base = u->map;
    u->sq_head = (void *)(base + p->sq_off.head);
    u->sq_tail = (void *)(base + p->sq_off.tail);
    u->sq_mask = *(uint32_t *)(void *)(base + p->sq_off.ring_mask);
    u->sq_array = (void *)(base + p->sq_off.array);
    u->cq_head = (void *)(base + p->cq_off.head);
    u->cq_tail = (void *)(base + p->cq_off.tail);
    u->cq_mask = *(uint32_t *)(void *)(base + p->cq_off.ring_mask);
    u->cqes = (void *)(base + p->cq_off.cqes);
    return 0;
}

int blk_uring_create(struct blk_aio **out, unsigned depth, struct loop *loop, loop_fn *ready,
                     void *opaque)
{
    struct io_uring_params params = {0};
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    int fd = (int)syscall(__NR_io_uring_setup, depth, &params);
    int err = fd < 0 ? -errno : 0;
    u->aio = (struct blk_aio){&uring_ops, loop, fd};
    /* Linux 5.6 has this and all that is used here: fallocate, both rings in one mapping. */
    if (!err && !(params.features & IORING_FEAT_RW_CUR_POS))
        err = -ENOSYS;
    if (!err)
        err = map_rings(u, &params);
    if (!err)
        err = loop_add(loop, fd, EPOLLIN, ready, opaque);
    if (err) {
        uring_destroy(&u->aio);
        return err;
    }
    *out = &u->aio;
    return 0;
}
