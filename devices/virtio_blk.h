/*
 * virtio_blk.h: a disk for the guest; what is behind it is blk_file.h.
 */
#pragma once

#include <stdbool.h>

struct loop;
struct mem;
struct virtio;
struct virtio_blk;

struct virtio_blk_setup {
    const char *path;  /* raw file or block device; lives as long */
    bool ro, direct;   /* as in blk_file.h */
    unsigned queues;   /* cut to what a device may have */
    struct loop *loop; /* where completions are served */
    const struct mem *mem;
};

/* Errors as of blk_file_open(). */
int virtio_blk_create(struct virtio_blk **out, const struct virtio_blk_setup *setup);
void virtio_blk_destroy(struct virtio_blk *blk); /* after its transport; NULL is fine */
/* What a transport takes. */
struct virtio *virtio_blk_device(struct virtio_blk *blk);
