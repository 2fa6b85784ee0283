/*
 * virtio_fs.h: a directory of the host for the guest, served by a process (virtiofsd).
 */
#pragma once

struct loop;
struct mem;
struct virtio;
struct virtio_fs;

#define VIRTIO_FS_TAG_MAX 36

/* TAG, of 1 to 36 bytes, is what the guest mounts. SOCKET leads to the server (vhost_user.h)
 * and is taken over, whatever comes of it. NAME is for messages and lives as long. Logs its own
 * errors. */
int virtio_fs_create(struct virtio_fs **out, const char *name, const char *tag, int socket,
                     struct loop *loop, const struct mem *mem);
void virtio_fs_destroy(struct virtio_fs *fs); /* after its transport; NULL is fine */
/* What a transport takes. */
struct virtio *virtio_fs_device(struct virtio_fs *fs);
