/*
 * vhost_user.h: another process as the server of a device's queues, by a socket.
 *
 * The process is not trusted with more than the guest's memory, all of which it gets: what it
 * answers is checked, and what is not an answer, or does not come in time, ends the connection
 * and with it the device, not the VM. A process of our own is then killed, as it may have been
 * stopped in the middle of a request, with memory that the guest has for something else by now;
 * someone else's has to see the connection's end.
 *
 * Not kept from it: the flags of an eventfd are shared. Where it fills one for kicks and makes
 * it block, the thread that kicks waits, and the VM can only be killed.
 */
#pragma once

#include <sys/types.h>

#include "devices/virtio/vhost.h"

struct vhost_user {
    struct vhost vhost;
    pid_t group; /* of processes of our own that are the server; 0: it is someone else's */
    bool acks;   /* the server says whether it did what it was told */
    bool lost;   /* for ever */
};

/* Takes SOCKET over, whatever comes of it, for all queues of DEV. Logs its own errors;
 * vhost_close() is due after a failure as well. VU is zeroed but for GROUP. */
int vhost_user_open(struct vhost_user *vu, struct virtio *dev, struct loop *loop, int socket);
