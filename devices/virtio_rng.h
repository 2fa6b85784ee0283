/*
 * virtio_rng.h: random bytes of the host for the guest.
 */
#pragma once

struct mem;
struct virtio;
struct virtio_rng;

int virtio_rng_create(struct virtio_rng **out, const struct mem *mem);
void virtio_rng_destroy(struct virtio_rng *rng); /* after its transport; NULL is fine */
/* What a transport takes. */
struct virtio *virtio_rng_device(struct virtio_rng *rng);
