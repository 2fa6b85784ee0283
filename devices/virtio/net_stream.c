/*
 * net_stream.c: a program at a stream socket as a net_port.h: each frame behind its length in 4
 * bytes, big-endian. No header and so no offloads: the guest sends whole packets with their
 * checksums and gets such.
 *
 * The other end is not trusted: a length that no frame has, the end of the file and an error
 * end the port; one that does not read is what the guest waits for, as for a slow network.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/net_port.h"
#include "devices/virtio/virtq.h"
#include "vmm/util.h"

#define LENGTH   4
#define IN_SIZE  (128 * KIB) /* several frames, or one of the largest */
#define OUT_SIZE (LENGTH + NET_FRAME_MAX)

struct stream {
    struct net_port port;
    size_t in_start, in_end;   /* what has come and was not taken */
    size_t out_start, out_end; /* what is left of the last frame */
    uint8_t in[IN_SIZE], out[OUT_SIZE];
};

/* The frame at the front: its length, 0 where it is not all there, or -EPROTO. */
static ssize_t front(const struct stream *s)
{
    uint32_t len;
    size_t have = s->in_end - s->in_start;
    if (have < LENGTH)
        return 0;
    memcpy(&len, s->in + s->in_start, LENGTH);
    len = be32toh(len);
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
        return -EPROTO;
    return have - LENGTH < len ? 0 : (ssize_t)len;
}

/* More of what comes. There is room for all of a frame when what was taken makes way. */
static int fill(struct stream *s)
{
    memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
    s->in_end -= s->in_start;
    s->in_start = 0;
    ssize_t n = recv(s->port.fd[0], s->in + s->in_end, IN_SIZE - s->in_end, MSG_DONTWAIT);
    if (n <= 0)
        return n ? -errno : -EPIPE;
    s->in_end += (size_t)n;
    return 0;
}

static ssize_t stream_receive(struct net_port *port, unsigned pair, uint8_t *frame)
{
    struct stream *s = container_of(port, struct stream, port);
    ssize_t len;
    (void)pair;
    while (!(len = front(s))) {
        int err = fill(s);
        if (err)
            return err;
    }
    if (len < 0)
        return len;
    memset(frame, 0, NET_HDR);
    memcpy(frame + NET_HDR, s->in + s->in_start + LENGTH, (size_t)len);
    s->in_start += LENGTH + (size_t)len;
    return (ssize_t)NET_HDR + len;
}

/* How much of IOV the socket took, or a negative errno. */
static ssize_t put(const struct stream *s, struct iovec *iov, unsigned nr)
{
    const struct msghdr msg = {.msg_iov = iov, .msg_iovlen = nr};
    ssize_t n = sendmsg(s->port.fd[0], &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

/* What is left of the frame before. */
static int flush(struct stream *s)
{
    struct iovec left = {s->out + s->out_start, s->out_end - s->out_start};
    if (!left.iov_len)
        return 0;
    ssize_t n = put(s, &left, 1);
    if (n < 0)
        return (int)n;
    s->out_start += (size_t)n;
    return s->out_start == s->out_end ? 0 : -EAGAIN;
}

/* Keeps what follows the first DONE bytes of IOV. */
static void keep(struct stream *s, const struct iovec *iov, unsigned nr, size_t done)
{
    s->out_start = s->out_end = 0;
    for (unsigned i = 0; i < nr; i++) {
        size_t skip = MIN(done, iov[i].iov_len);
        size_t n = iov[i].iov_len - skip;
        memcpy(s->out + s->out_end, (const uint8_t *)iov[i].iov_base + skip, n);
        s->out_end += n;
        done -= skip;
    }
}

static int stream_send(struct net_port *port, unsigned pair, const struct iovec *iov,
                       unsigned nr)
{
    struct stream *s = container_of(port, struct stream, port);
    struct iovec out[VIRTQ_SEGS_MAX + 1];
    uint64_t len = 0;
    (void)pair;
    int err = flush(s);
    if (err || !nr)
        return err;
    for (unsigned i = 1; i < nr; i++)
        len += iov[i].iov_len;
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
        return 0;
    uint32_t length = htobe32((uint32_t)len);
    memcpy(out, iov, nr * sizeof(*iov));
    out[0] = (struct iovec){&length, LENGTH}; /* in place of the header */
    ssize_t n = put(s, out, nr);
    if (n < 0)
        return (int)n;
    keep(s, out, nr, (size_t)n);
    return 0;
}

static void stream_close(struct net_port *port)
{
    close(port->fd[0]);
    free(container_of(port, struct stream, port));
}

static const struct net_port_ops stream_ops = {
    .receive = stream_receive,
    .send = stream_send,
    .close = stream_close,
};

int net_stream_open(struct net_port **out, int fd)
{
    struct stream *s = calloc(1, sizeof(*s));
    if (!s) {
        close(fd);
        return -ENOMEM;
    }
    s->port = (struct net_port){.ops = &stream_ops, .pairs = 1, .fd = {fd}};
    *out = &s->port;
    return 0;
}
