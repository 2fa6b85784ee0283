/*
 * vfio_user.h: what vfio_user.c (the device), vfio_user_sock.c (the connection) and
 * vfio_user_json.c (the server's capabilities) share. Nobody else includes it.
 */
#pragma once

#include <pthread.h>

#include "vfio/vfio.h"
#include "vfio/vfio_user_proto.h"

/* ---- vfio_user_json.c ---- */

/* As the server says; holds the defaults before. */
struct vfio_user_caps {
    uint64_t max_msg_fds, max_data_xfer_size, max_dma_maps, pgsizes;
    bool write_multiple;
    bool twin;
    uint64_t twin_fd;    /* index among the reply's descriptors; UINT64_MAX: not said */
    char compatible[64]; /* our own extension, for platform devices; see struct vfio_device */
};

/* Reads TEXT of SIZE bytes, which need not end in a NUL. -EINVAL: it is no JSON, or something
 * that is known has the wrong type. */
int vfio_user_caps_read(struct vfio_user_caps *caps, const char *text, size_t size);

/* ---- vfio_user_sock.c ---- */

#define VFIO_USER_FDS_MAX  64         /* in a message to us */
#define VFIO_USER_XFER_MAX (1U << 20) /* bytes of data in a message to us */
#define VFIO_USER_MAPS_MAX 8
#define VFIO_USER_POSTED   16

struct vfio_user_fds {
    unsigned nr;
    int fd[VFIO_USER_FDS_MAX];
};
void vfio_user_fds_close(struct vfio_user_fds *fds);

/* The longest message that may come. */
struct vfio_user_message {
    struct vfio_user_header header;
    struct vfio_user_dma_access dma; /* in the server's commands; elsewhere data as well */
    uint8_t data[VFIO_USER_XFER_MAX];
};

/* A socket, and the message that is being received from it. */
struct vfio_user_channel {
    int fd; /* -1: none */
    struct vfio_user_message *in;
    size_t have;   /* bytes of it */
    bool complete; /* it is all there */
    bool serving;  /* ... and a command, whose reply is being built in its place */
    struct vfio_user_fds fds;
};

struct vfio_user_map {
    uint64_t iova, size;
    uint8_t *hva;
};

/*
 * LOCK is held while the sockets are used and a reply is awaited; it also protects the maps.
 * QUEUE_LOCK is taken inside of it or alone.
 */
struct vfio_user_conn {
    struct vfio_device *dev; /* its name, and who is to know of its loss */
    struct loop *loop;
    bool watched;        /* in the loop */
    bool write_multiple; /* understood by the server */

    pthread_mutex_t lock;
    struct vfio_user_channel main, twin;
    uint16_t id; /* of the last command */
    int64_t deadline_ns;
    struct vfio_user_map map[VFIO_USER_MAPS_MAX];
    unsigned maps;

    pthread_mutex_t queue_lock;
    struct vfio_user_write_multi queue[VFIO_USER_POSTED]; /* posted writes to be sent */
    unsigned queued;
};

/* A command and what is to come back. */
struct vfio_user_call {
    uint16_t command;
    const void *data; /* SIZE bytes of payload */
    size_t size;
    const int *fd; /* FDS descriptors go with it */
    unsigned fds;
    void *reply; /* room for the reply's payload, which has MIN to MAX bytes */
    size_t min, max;
    size_t got;
    struct vfio_user_fds *got_fds; /* NULL: the reply's descriptors are closed */
};

/* Connects to PATH; DEV has its name. Logs its own errors; vfio_user_conn_close() is due also
 * after a failure. */
int vfio_user_conn_open(struct vfio_user_conn *conn, struct vfio_device *dev, const char *path,
                        struct loop *loop);
void vfio_user_conn_close(struct vfio_user_conn *conn);
/* After the negotiation: FD (-1: none), owned from here on, is the server's socket for its own
 * commands; both are in the loop from now on. */
int vfio_user_conn_watch(struct vfio_user_conn *conn, int fd);
/* Logs why, once, and gives the server up. Returns -EIO. */
int vfio_user_conn_lose(struct vfio_user_conn *conn, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* 0, the server's errno negative, or -EIO when the server is lost. */
int vfio_user_call(struct vfio_user_conn *conn, struct vfio_user_call *call);
/* A write that needs no reply; ordered before all that this thread does later. */
int vfio_user_post(struct vfio_user_conn *conn, const struct vfio_user_write_multi *write);
/* What the server may reach by DMA_READ and DMA_WRITE. */
int vfio_user_conn_map(struct vfio_user_conn *conn, const struct vfio_user_map *map);
void vfio_user_conn_unmap(struct vfio_user_conn *conn, uint64_t iova, uint64_t size);
