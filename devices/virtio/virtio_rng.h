/*
 * virtio_rng.h: random bytes of the host for the guest.
 */
#pragma once

struct mem;
struct virtio;

/* Logs its own errors. */
int virtio_rng_create(struct virtio **out, const struct mem *mem);
