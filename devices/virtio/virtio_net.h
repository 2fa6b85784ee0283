/*
 * virtio_net.h: a network card for the guest; what is behind it is net_port.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct mem;
struct net_port;
struct virtio;

struct virtio_net_setup {
    const char *name;      /* for messages; lives as long */
    struct net_port *port; /* the device's, also after a failure */
    uint8_t mac[6];
    bool vhost; /* PORT is a tap: the kernel serves the queues, if it can */
    struct loop *loop;
    const struct mem *mem;
};

/* Logs its own errors. */
int virtio_net_create(struct virtio **out, const struct virtio_net_setup *setup);
