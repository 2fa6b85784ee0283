/*
 * virtio_vsock.h: sockets between guest and host (AF_VSOCK), served by the kernel's
 * vhost-vsock.
 */
#pragma once

#include <stdint.h>

struct loop;
struct mem;
struct virtio;
struct virtio_vsock;

/* The guest's address is CID: 3 and up, and no other guest's. Logs its own errors. */
int virtio_vsock_create(struct virtio_vsock **out, uint32_t cid, struct loop *loop,
                        const struct mem *mem);
void virtio_vsock_destroy(struct virtio_vsock *vsock); /* after its transport; NULL is fine */
/* What a transport takes. */
struct virtio *virtio_vsock_device(struct virtio_vsock *vsock);
