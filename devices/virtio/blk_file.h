/*
 * blk_file.h: a disk's image: a raw file or a block device, opened, locked, read and written
 * asynchronously. It knows nothing of virtio.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "devices/virtio/blk_aio.h"

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

/* Opens and locks: for this process alone, or for all readers where RO. Logs its own error, but
 * for -EAGAIN: another process has it. */
int blk_file_open(struct blk_file **out, const struct blk_file_config *config);
void blk_file_close(struct blk_file *file); /* nothing is under way; NULL is fine */
const struct blk_file_info *blk_file_info(const struct blk_file *file);

/* As in blk_aio.h. */
void blk_file_queue(struct blk_file *file, struct blk_req *req);
void blk_file_submit(struct blk_file *file);
struct blk_req *blk_file_reap(struct blk_file *file);
/* Returns when there may be something to reap of what is under way. Not when nothing is. */
void blk_file_wait(struct blk_file *file);
