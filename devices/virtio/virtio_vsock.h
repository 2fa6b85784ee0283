/*
 * virtio_vsock.h: sockets between guest and host (AF_VSOCK), served by the kernel's
 * vhost-vsock.
 */
#pragma once

#include <stdint.h>

struct loop;
struct mem;
struct virtio;

/* The guest's address is CID: 3 and up, and no other guest's. Logs its own errors. */
int virtio_vsock_create(struct virtio **out, uint32_t cid, struct loop *loop,
                        const struct mem *mem);
