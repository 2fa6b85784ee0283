/*
 * virtio_blk.c: the guest's disk: requests out of its queues, answers back.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 5.2 "Block Device": 5.2.3 features, 5.2.4 configuration,
 * 5.2.6 operation. A write is done when the host's page cache has it; what the guest has
 * flushed after that survives the host's fall (5.2.6.2). A driver that did not take FLUSH has
 * every write on the medium when it is done. Requests go to the file in the order of their
 * queue but may be done in any, as the specification has it.
 *
 * All requests under way are one of REQUESTS_MAX; when these are used up the queues wait for
 * one to be done. Left out: secure erase, lifetime, zones, a cache mode that the driver
 * switches.
 */
#include "devices/virtio/virtio_blk.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "devices/virtio/blk_file.h"
#include "devices/virtio/virtio.h"
#include "vmm/util.h"

#define REQUESTS_MAX 128
#define SEG_MAX      (VIRTQ_SEGS_MAX - 2)
#define DATA_MAX     (128 * MIB) /* of a request; its segments are MIB large at most */
#define ZERO_MAX     (2 * GIB)   /* of a discard or a write of zeros */

_Static_assert(sizeof(struct virtio_blk_outhdr) == 16, "request header");
_Static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == 16, "range");
_Static_assert(offsetof(struct virtio_blk_config, write_zeroes_may_unmap) == 56,
               "configuration");

struct request {
    struct blk_req io;
    struct request *next; /* free */
    unsigned queue;
    uint8_t *status;  /* the guest's last byte */
    uint32_t written; /* bytes of data, when all is well */
    bool then_flush;
    struct virtq_chain chain;
};

struct virtio_blk {
    struct virtio virtio;
    struct blk_file *file;
    struct virtio_blk_config config; /* what the driver reads */
    bool ro;
    struct request *free;
    unsigned busy;    /* with the file */
    unsigned turn;    /* the queue that is served first */
    uint32_t touched; /* queues with something used since their driver was told */
    struct request request[REQUESTS_MAX];
};

static bool agreed(const struct virtio_blk *blk, unsigned feature)
{
    return blk->virtio.accepted >> feature & 1;
}

static void release(struct virtio_blk *blk, struct request *req)
{
    req->next = blk->free;
    blk->free = req;
}

/* ---- the end of a request ---- */

static void answer(struct virtio_blk *blk, struct request *req, uint8_t status)
{
    uint32_t data = status == VIRTIO_BLK_S_OK ? req->written : 0;
    *req->status = status;
    virtio_push(&blk->virtio, req->queue, req->chain.head, data + 1);
    blk->touched |= 1U << req->queue;
    release(blk, req);
}

static void complain(struct virtio_blk *blk, const struct blk_req *io)
{
    static const char *const verb[] = {[BLK_READ] = "read",
                                       [BLK_WRITE] = "write",
                                       [BLK_FLUSH] = "flush",
                                       [BLK_ALLOCATE] = "discard or zero"};
    if (log_limit(&blk->virtio.complaints))
        log_error(blk->virtio.name, "cannot %s disk at byte %llu: %s; the guest is told",
                  verb[io->op], (unsigned long long)io->offset, strerror((int)-io->result));
}

static void queue_io(struct virtio_blk *blk, struct request *req)
{
    blk->busy++;
    blk_file_queue(blk->file, &req->io);
}

static void finish(struct virtio_blk *blk, struct request *req)
{
    struct blk_req *io = &req->io;
    uint8_t status = VIRTIO_BLK_S_OK;
    blk->busy--;
    if (!io->result && req->then_flush) {
        req->then_flush = false;
        io->op = BLK_FLUSH;
        queue_io(blk, req);
        blk_file_submit(blk->file);
        return;
    }
    if (io->result == -EOPNOTSUPP && io->op == BLK_ALLOCATE) {
        status = VIRTIO_BLK_S_UNSUPP; /* the driver does without from now on */
    } else if (io->result) {
        complain(blk, io);
        status = VIRTIO_BLK_S_IOERR;
    }
    answer(blk, req, status);
}

static void reap(struct virtio_blk *blk)
{
    struct blk_req *io;
    while ((io = blk_file_reap(blk->file)))
        finish(blk, container_of(io, struct request, io));
}

/* ---- the start ---- */

/* Whether [sector, sector + bytes) is whole sectors of the disk, and not nothing. */
static bool on_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes)
{
    return bytes && !(bytes % BLK_SECTOR) &&
           range_within(sector, bytes / BLK_SECTOR, blk->config.capacity);
}

static void transfer(struct virtio_blk *blk, struct request *req, bool write, uint64_t sector)
{
    struct virtq_chain *chain = &req->chain;
    struct iovec *iov = write ? chain->iov : chain->iov + chain->out;
    unsigned nr = write ? chain->out : chain->in;
    uint64_t bytes = 0;
    for (unsigned i = 0; i < nr; i++)
        bytes += iov[i].iov_len;
    if (bytes > DATA_MAX || !on_disk(blk, sector, bytes) || (write && blk->ro))
        return answer(blk, req, VIRTIO_BLK_S_IOERR);
    req->written = write ? 0 : (uint32_t)bytes;
    req->io = (struct blk_req){
        .op = write ? BLK_WRITE : BLK_READ,
        .iov = iov,
        .nr = nr,
        .offset = sector * BLK_SECTOR,
        .len = bytes,
        .sync = !agreed(blk, VIRTIO_BLK_F_FLUSH),
    };
    queue_io(blk, req);
}

/* DISCARD and WRITE_ZEROES; one range each, as the configuration says. */
static void zero(struct virtio_blk *blk, struct request *req, bool discard)
{
    unsigned feature = discard ? VIRTIO_BLK_F_DISCARD : VIRTIO_BLK_F_WRITE_ZEROES;
    struct virtio_blk_discard_write_zeroes range;
    if (!agreed(blk, feature))
        return answer(blk, req, VIRTIO_BLK_S_UNSUPP);
    if (!virtq_read(&req->chain, &range, sizeof(range)) || req->chain.out)
        return answer(blk, req, VIRTIO_BLK_S_IOERR);
    bool unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    if (range.flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (discard && unmap))
        return answer(blk, req, VIRTIO_BLK_S_UNSUPP); /* 5.2.6.2 */
    uint64_t bytes = (uint64_t)range.num_sectors * BLK_SECTOR;
    if (bytes > ZERO_MAX || !on_disk(blk, range.sector, bytes))
        return answer(blk, req, VIRTIO_BLK_S_IOERR);
    req->io = (struct blk_req){
        .op = BLK_ALLOCATE,
        .offset = range.sector * BLK_SECTOR,
        .len = bytes,
        .keep = !discard && !unmap,
    };
    req->then_flush = !agreed(blk, VIRTIO_BLK_F_FLUSH);
    queue_io(blk, req);
}

static void get_id(struct virtio_blk *blk, struct request *req)
{
    const char *id = blk_file_info(blk->file)->id;
    const struct iovec *iov = &req->chain.iov[req->chain.out];
    for (unsigned i = 0; i < req->chain.in && req->written < BLK_ID_MAX; i++) {
        size_t n = MIN(iov[i].iov_len, BLK_ID_MAX - req->written);
        memcpy(iov[i].iov_base, id + req->written, n);
        req->written += (uint32_t)n;
    }
    answer(blk, req, VIRTIO_BLK_S_OK);
}

static void start(struct virtio_blk *blk, struct request *req)
{
    struct virtq_chain *chain = &req->chain;
    struct virtio_blk_outhdr header;
    if (!chain->in || !virtq_read(chain, &header, sizeof(header))) {
        virtio_break(&blk->virtio, "a request has no header or no room for its status");
        release(blk, req);
        return;
    }
    struct iovec *last = &chain->iov[chain->out + chain->in - 1];
    req->status = (uint8_t *)last->iov_base + --last->iov_len;
    chain->in -= !last->iov_len;
    req->written = 0;
    req->then_flush = false;
    switch (header.type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_OUT:
        transfer(blk, req, header.type == VIRTIO_BLK_T_OUT, header.sector);
        break;
    case VIRTIO_BLK_T_FLUSH:
        req->io = (struct blk_req){.op = BLK_FLUSH};
        queue_io(blk, req);
        break;
    case VIRTIO_BLK_T_GET_ID:
        get_id(blk, req);
        break;
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        zero(blk, req, header.type == VIRTIO_BLK_T_DISCARD);
        break;
    default:
        answer(blk, req, VIRTIO_BLK_S_UNSUPP);
    }
}

/* True: it stopped with the queue not known to be empty. */
static bool take(struct virtio_blk *blk, unsigned queue)
{
    for (unsigned n = 0; n < VIRTQ_SIZE_MAX && blk->free; n++) {
        struct request *req = blk->free;
        if (!virtio_pop(&blk->virtio, queue, &req->chain))
            return false;
        blk->free = req->next;
        req->queue = queue;
        start(blk, req);
    }
    return true;
}

/* Also when something is done, which makes room for more. What the page cache has is done
 * within the submission. */
static bool blk_kick(struct virtio *dev)
{
    struct virtio_blk *blk = container_of(dev, struct virtio_blk, virtio);
    bool stopped = false;
    for (unsigned i = 0; i < dev->queues; i++)
        stopped |= take(blk, (blk->turn + i) % dev->queues);
    blk->turn++;
    blk_file_submit(blk->file);
    reap(blk);
    for (unsigned i = 0; i < dev->queues; i++) {
        if (blk->touched >> i & 1)
            virtio_notify(dev, i);
    }
    blk->touched = 0;
    return stopped && blk->free;
}

static void ready(void *opaque, uint32_t events)
{
    struct virtio_blk *blk = opaque;
    (void)events;
    pthread_mutex_lock(&blk->virtio.lock);
    virtio_kick(&blk->virtio);
    pthread_mutex_unlock(&blk->virtio.lock);
}

/* A request cannot be taken back from the kernel: it is waited for. */
static void blk_reset(struct virtio *dev)
{
    struct virtio_blk *blk = container_of(dev, struct virtio_blk, virtio);
    while (blk->busy) {
        blk_file_wait(blk->file);
        reap(blk);
    }
    blk->touched = 0;
}

static void blk_close(struct virtio *dev)
{
    blk_reset(dev);
    blk_file_close(container_of(dev, struct virtio_blk, virtio)->file);
}

static const struct virtio_ops blk_ops = {
    .kick = blk_kick,
    .reset = blk_reset,
    .close = blk_close,
};

/* ---- creation ---- */

static uint64_t describe(struct virtio_blk *blk)
{
    const struct blk_file_info *info = blk_file_info(blk->file);
    uint32_t per_physical = info->physical / info->block;
    blk->config = (struct virtio_blk_config){
        .capacity = info->sectors,
        .size_max = MIB,
        .seg_max = SEG_MAX,
        .blk_size = info->block,
        .physical_block_exp = (uint8_t)__builtin_ctz(per_physical),
        .min_io_size = (uint16_t)per_physical,
        .num_queues = (uint16_t)blk->virtio.queues,
        .max_discard_sectors = ZERO_MAX / BLK_SECTOR,
        .max_discard_seg = 1,
        .discard_sector_alignment = info->physical / BLK_SECTOR,
        .max_write_zeroes_sectors = ZERO_MAX / BLK_SECTOR,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = 1,
    };
    uint64_t features = 1ULL << VIRTIO_BLK_F_SIZE_MAX | 1ULL << VIRTIO_BLK_F_SEG_MAX |
                        1ULL << VIRTIO_BLK_F_BLK_SIZE | 1ULL << VIRTIO_BLK_F_TOPOLOGY |
                        1ULL << VIRTIO_BLK_F_FLUSH;
    if (blk->virtio.queues > 1)
        features |= 1ULL << VIRTIO_BLK_F_MQ;
    if (blk->ro)
        return features | 1ULL << VIRTIO_BLK_F_RO;
    return features | 1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
}

int virtio_blk_create(struct virtio **out, const struct virtio_blk_setup *setup)
{
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    if (!blk) {
        log_error(setup->path, "cannot make disk: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    const struct blk_file_config config = {
        .path = setup->path,
        .ro = setup->ro,
        .direct = setup->direct,
        .depth = REQUESTS_MAX,
        .loop = setup->loop,
        .ready = ready,
        .opaque = blk,
    };
    int err = blk_file_open(&blk->file, &config);
    if (err) {
        free(blk);
        return err;
    }
    blk->ro = setup->ro;
    for (unsigned i = 0; i < REQUESTS_MAX; i++)
        release(blk, &blk->request[i]);
    blk->virtio = (struct virtio){
        .ops = &blk_ops,
        .name = setup->path,
        .mem = setup->mem,
        .id = VIRTIO_ID_BLOCK,
        .queues = MIN(MAX(setup->queues, 1U), VIRTIO_QUEUES_MAX),
        .config = &blk->config,
        .config_size = sizeof(blk->config),
    };
    blk->virtio.features = describe(blk);
    virtio_init(&blk->virtio);
    *out = &blk->virtio;
    return 0;
}
