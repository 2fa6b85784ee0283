/*
 * virtio_fs.c: see virtio_fs.h.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 5.11 "File System Device". What is in the queues is FUSE and
 * between guest and server: queue 0 for what must not wait, 1 for requests. Left out: the queue
 * of notifications, shared memory (DAX), more queues of requests (no server has them).
 */
#include "devices/virtio/virtio_fs.h"

#include <errno.h>
#include <linux/virtio_fs.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/virtio/vhost_user.h"
#include "vmm/util.h"

enum { REQUEST_QUEUES = 1, QUEUES = 1 + REQUEST_QUEUES };

struct virtio_fs {
    struct vhost_device dev;
    struct vhost_user server;
    struct virtio_fs_config config;
};

_Static_assert(sizeof(struct virtio_fs_config) == VIRTIO_FS_TAG_MAX + 4, "5.11.4");

int virtio_fs_create(struct virtio **out, const struct virtio_fs_setup *setup)
{
    struct virtio_fs *fs = calloc(1, sizeof(*fs));
    if (!fs) {
        log_error(setup->name, "cannot make device: %s", strerror(ENOMEM));
        close(setup->socket);
        return -ENOMEM;
    }
    fs->config.num_request_queues = REQUEST_QUEUES;
    memcpy(fs->config.tag, setup->tag, strnlen(setup->tag, VIRTIO_FS_TAG_MAX));
    fs->dev.server = &fs->server.vhost;
    fs->dev.virtio = (struct virtio){
        .ops = &vhost_device_ops,
        .name = setup->name,
        .mem = setup->mem,
        .id = VIRTIO_ID_FS,
        .queues = QUEUES,
        .outside = QUEUES,
        .config = &fs->config,
        .config_size = sizeof(fs->config),
    };
    virtio_init(&fs->dev.virtio);
    fs->server.group = setup->group;
    int err = vhost_user_open(&fs->server, &fs->dev.virtio, setup->loop, setup->socket);
    if (err) {
        virtio_destroy(&fs->dev.virtio);
        return err;
    }
    *out = &fs->dev.virtio;
    return 0;
}
