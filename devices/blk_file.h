/*
 * blk_file.h: a disk's image: a raw file or a block device, opened, locked, read and written
 * asynchronously. It knows nothing of virtio.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "devices/blk_aio.h"

#define BLK_SECTOR 512 /* the unit of sizes and places, whatever the block size */
#define BLK_ID_MAX 20

struct blk_file;

struct blk_file_config {
    const char *path; /* lives as long */
    bool ro;
    bool direct;    /* around the host's page cache (O_DIRECT) */
    unsigned depth; /* most requests at a time */
    struct loop *loop;
    loop_fn *ready; /* blk_file_reap() may have something; the loop's thread */
    void *opaque;
};

struct blk_file_info {
    uint64_t sectors;
    uint32_t block;      /* of a block device; what is smaller is slower */
    uint32_t physical;   /* what is written at a time without reading first */
    char id[BLK_ID_MAX]; /* the file's name, its end where that is longer */
};

/* BLK_READ and BLK_WRITE consume REQ's iov; BLK_ALLOCATE makes LEN bytes zeros. All from OFFSET
 * on, within the file. */
struct blk_io {
    struct blk_req req; /* op, iov, nr, offset are the caller's to set, the rest is not */
    uint64_t len;       /* bytes; the sum of iov */
    bool sync;          /* BLK_WRITE: on the medium before it is done */
    bool keep;          /* BLK_ALLOCATE: the file keeps the space */
    int error; /* when it is reaped: 0 or a negative errno; -EOPNOTSUPP: the file cannot */
};

/* Opens and locks: for this process alone, or for all readers where RO. Logs its own error, but
 * for -EAGAIN: another process has it. */
int blk_file_open(struct blk_file **out, const struct blk_file_config *config);
void blk_file_close(struct blk_file *file); /* nothing is under way; NULL is fine */
const struct blk_file_info *blk_file_info(const struct blk_file *file);

/* As in blk_aio.h. */
void blk_file_queue(struct blk_file *file, struct blk_io *io);
void blk_file_submit(struct blk_file *file);
struct blk_io *blk_file_reap(struct blk_file *file);
/* Returns when there is something to reap of all that was submitted: what needs a second call
 * to the kernel goes on by reaping. */
void blk_file_wait(struct blk_file *file);
