/*
 * virtio_blk.h: a disk for the guest; what is behind it is blk_file.h.
 */
#pragma once

#include <stdbool.h>

struct loop;
struct mem;
struct virtio;

struct virtio_blk_setup {
    const char *path;  /* raw file or block device; lives as long */
    bool ro, direct;   /* as in blk_file.h */
    unsigned queues;   /* cut to what a device may have */
    struct loop *loop; /* where completions are served */
    const struct mem *mem;
};

/* Errors as of blk_file_open(). */
int virtio_blk_create(struct virtio **out, const struct virtio_blk_setup *setup);
