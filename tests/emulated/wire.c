/*
 * wire.c: messages of the vfio-user protocol on a stream socket, with descriptors beside them
 * (SCM_RIGHTS), and the trace of them.
 *
 * The sockets are never waited on alone: the client may stop in the middle of a message, or
 * stop reading, and emu->stop still ends the session.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/emulated/emu.h"

union fd_control {
    char buf[CMSG_SPACE(sizeof(int) * EMU_FDS_MAX)];
    struct cmsghdr head;
};

int emu_wait(const struct emu *emu, int fd, short events)
{
    struct pollfd p[] = {{emu->stop, POLLIN, 0}, {fd, events, 0}};

    while (poll(p, ARRAY_SIZE(p), -1) < 0)
        if (errno != EINTR)
            return -errno;
    return p[0].revents ? -ECANCELED : 0;
}

void emu_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void emu_msg_free(struct emu_msg *msg)
{
    for (unsigned i = 0; i < msg->fds; i++)
        emu_close(&msg->fd[i]);
    free(msg);
}

/* ---- the trace ---- */

/* FIELDS is "name:bytes ...", and "text" for what is a string to its end. */
static void trace_payload(const char *fields, const uint8_t *data, size_t len)
{
    unsigned width;
    char name[16];
    int used;

    while (sscanf(fields, " %15[a-z_]:%u%n", name, &width, &used) == 2 && len >= width) {
        fprintf(stderr, " %s %#jx", name, (uintmax_t)get_le(data, width));
        fields += used;
        data += width;
        len -= width;
    }
    if (strstr(fields, "text")) {
        fprintf(stderr, " %.*s", (int)len, (const char *)data);
        return;
    }
    for (size_t i = 0; i < MIN(len, 16U); i++)
        fprintf(stderr, "%s %02x", i ? "" : " data", data[i]);
    if (len > 16)
        fprintf(stderr, " ... %zu bytes", len);
}

/* " (SCRATCH)" for an access to that register. */
static void trace_register(const struct emu *emu, const uint8_t *data)
{
    struct vfio_user_region_access a;

    memcpy(&a, data, sizeof(a));
    if (a.region >= emu->device->regions)
        return;
    const struct emu_region *r = &emu->device->region[a.region];
    for (unsigned i = 0; i < r->regs; i++)
        if (a.offset - r->reg[i].offset < r->reg[i].width)
            fprintf(stderr, " (%s)", r->reg[i].name);
}

static void trace(const struct emu *emu, const char *way, const struct emu_msg *msg, size_t len)
{
    const struct vfio_user_header *h = &msg->header;
    const struct emu_command *c = h->command < EMU_COMMANDS ? &emu_command[h->command] : NULL;

    if (!emu->config.trace)
        return;
    fprintf(stderr, "%s %u %s%s%s", way, h->msg_id, c && c->name ? c->name : "command?",
            h->flags & VFIO_USER_TYPE ? " reply" : "",
            h->flags & VFIO_USER_NO_REPLY ? " (no reply)" : "");
    if (h->flags & VFIO_USER_ERROR)
        fprintf(stderr, " error %u: %s", h->error, strerror((int)h->error));
    else if (len > sizeof(*h))
        trace_payload(c && c->fields ? c->fields : "", msg->data, len - sizeof(*h));
    if ((h->command == VFIO_USER_REGION_READ || h->command == VFIO_USER_REGION_WRITE) &&
        len >= sizeof(*h) + sizeof(struct vfio_user_region_access))
        trace_register(emu, msg->data);
    fprintf(stderr, msg->fds ? ", %u descriptors\n" : "\n", msg->fds);
}

/* ---- receiving ---- */

static void take_fds(struct emu_msg *msg, struct msghdr *m, uint64_t max)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (msg->fds < max)
                msg->fd[msg->fds++] = fd;
            else
                msg->too_many = (close(fd), true);
        }
    }
    if (m->msg_flags & MSG_CTRUNC)
        msg->too_many = true;
}

static int take(const struct emu *emu, int fd, void *buf, size_t len, struct emu_msg *msg)
{
    while (len) {
        union fd_control control;
        struct iovec iov = {buf, len};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = &control,
                           .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (n > 0) {
            take_fds(msg, &m, emu->config.fds);
            buf = (char *)buf + n;
            len -= (size_t)n;
        } else if (n == 0) {
            return -ECONNRESET;
        } else if (errno != EAGAIN) {
            return -errno;
        } else {
            int err = emu_wait(emu, fd, POLLIN);

            if (err)
                return err;
        }
    }
    return 0;
}

int emu_receive(struct emu *emu, int fd, struct emu_msg **out)
{
    struct emu_msg head = {0}, *msg = NULL;
    uint32_t size;
    int err = take(emu, fd, &head.header, sizeof(head.header), &head);

    size = head.header.size;
    if (!err && (size < sizeof(head.header) || size > EMU_REPLY_MAX(emu->config.xfer)))
        err = -EPROTO;
    if (!err && !(msg = malloc(sizeof(*msg) + size)))
        err = -ENOMEM;
    if (msg)
        *msg = head;
    if (!err)
        err = take(emu, fd, msg->data, size - sizeof(head.header), msg);
    if (err) {
        for (unsigned i = 0; !msg && i < head.fds; i++)
            close(head.fd[i]);
        if (msg)
            emu_msg_free(msg);
        return err;
    }
    if (fd == emu->fd)
        emu->bytes += size;
    trace(emu, "<-", msg, size);
    *out = msg;
    return 0;
}

/* ---- sending ---- */

int emu_send(struct emu *emu, int fd, struct emu_msg *msg, size_t len)
{
    union fd_control control;
    struct iovec iov = {&msg->header, len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    trace(emu, "->", msg, len);
    if (msg->fds) {
        control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(msg->fds * sizeof(int)),
                                        .cmsg_level = SOL_SOCKET,
                                        .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), msg->fd, msg->fds * sizeof(int));
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(msg->fds * sizeof(int));
    }
    while (iov.iov_len) {
        ssize_t n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        int err = 0;

        if (n >= 0) {
            iov.iov_base = (char *)iov.iov_base + n;
            iov.iov_len -= (size_t)n;
            m.msg_control = NULL; /* they went with the first byte */
            m.msg_controllen = 0;
        } else {
            err = errno == EPIPE ? -ECONNRESET
                                 : (errno == EAGAIN ? emu_wait(emu, fd, POLLOUT) : -errno);
        }
        if (err)
            return err;
    }
    return 0;
}
