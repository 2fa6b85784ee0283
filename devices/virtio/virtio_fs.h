/*
 * virtio_fs.h: a directory of the host for the guest, served by a process (virtiofsd).
 */
#pragma once

#include <sys/types.h>

struct loop;
struct mem;
struct virtio;

#define VIRTIO_FS_TAG_MAX 36

struct virtio_fs_setup {
    const char *name; /* for messages; lives as long */
    const char *tag;  /* what the guest mounts: 1 to 36 bytes */
    int socket;       /* leads to the server; taken over, whatever comes of it */
    pid_t group;      /* vhost_user.h */
    struct loop *loop;
    const struct mem *mem;
};

/* Logs its own errors. */
int virtio_fs_create(struct virtio **out, const struct virtio_fs_setup *setup);
