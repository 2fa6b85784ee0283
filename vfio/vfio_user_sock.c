/*
 * vfio_user_sock.c: the connection to a vfio-user server: messages, and what the server asks.
 *
 * docs/interop/vfio-user.rst in QEMU's tree, "Client/server interactions" and "Header". vCPU
 * threads (trapped accesses) and the main thread (set-up, reset) send commands, one at a time:
 * whoever holds the lock sends, then reads until the reply is there. In the meantime the server
 * may send commands of its own (DMA_READ, DMA_WRITE), on the twin socket if there is one; they
 * are carried out by the one who waits, else by the main thread's loop. Nobody waits for the
 * server longer than TIMEOUT_MS, whatever it sends meanwhile.
 *
 * Posted writes of other threads wait in a queue for the lock's holder to send them. They are
 * used for devices that have neither direct memory nor ioeventfds (vfio_user.c), and with a
 * twin socket only: without one, a server that waits for our reply to its DMA_READ
 * would find our write instead, and most cannot cope.
 *
 * The server is not trusted. What breaks the protocol ends the connection, once and for ever:
 * the device is lost (struct vfio_device). Left out: pipelining of commands that need a reply.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "vfio/vfio_user.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define NS_PER_MS     (NS_PER_S / 1000)
#define TIMEOUT_MS    10000
#define START_MS      1000 /* for the server to begin to listen, when both are started at once */
#define START_STEP_MS 10
/* The main thread has other duties: it waits so long for the lock, and serves so many commands
 * of the server, then the loop comes again. */
#define LOOP_WAIT_MS  10
#define LOOP_BURST    64

void vfio_user_fds_close(struct vfio_user_fds *fds)
{
    while (fds->nr)
        close(fds->fd[--fds->nr]);
}

static bool lost(const struct vfio_user_conn *conn)
{
    return atomic_load(&conn->dev->lost);
}

int vfio_user_conn_lose(struct vfio_user_conn *conn, const char *fmt, ...)
{
    char why[128];
    va_list args;
    va_start(args, fmt);
    /* As in log.c: clang-tidy 14 loses va_start() when it checks several files in one run. */
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized) */
    vsnprintf(why, sizeof(why), fmt, args);
    va_end(args);
    if (!atomic_exchange(&conn->dev->lost, true))
        log_error(conn->dev->name,
                  "cannot go on with the device: its server %s; from now on it reads as all "
                  "ones; see what the server says, and start both anew",
                  why);
    shutdown(conn->main.fd, SHUT_RDWR); /* wakes the loop */
    if (conn->twin.fd >= 0)
        shutdown(conn->twin.fd, SHUT_RDWR);
    return -EIO;
}

static int lose_errno(struct vfio_user_conn *conn)
{
    if (errno == EPIPE || errno == ECONNRESET)
        return vfio_user_conn_lose(conn, "closed the connection");
    return vfio_user_conn_lose(conn, "cannot be reached: %s", strerror(errno));
}

/* ---- receiving ---- */

/* False: there are more descriptors than we said we take. */
static bool keep_fds(struct vfio_user_fds *fds, struct msghdr *msg)
{
    bool fit = !(msg->msg_flags & MSG_CTRUNC);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t nr = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < nr; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (fds->nr < VFIO_USER_FDS_MAX) {
                fds->fd[fds->nr++] = fd;
            } else {
                close(fd);
                fit = false;
            }
        }
    }
    return fit;
}

/* Up to LEN more bytes of the message: how many, or a negative errno. */
static ssize_t receive(struct vfio_user_channel *ch, size_t len)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(ch->fds.fd))];
    } control;
    struct iovec iov = {.iov_base = (uint8_t *)ch->in + ch->have, .iov_len = len};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t n = recvmsg(ch->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    return keep_fds(&ch->fds, &msg) ? n : -E2BIG;
}

/* Reads what is there of one message. 1: it is complete, 0: not yet. */
static int fill(struct vfio_user_conn *conn, struct vfio_user_channel *ch)
{
    const struct vfio_user_header *h = &ch->in->header;
    while (!ch->complete) {
        size_t want = ch->have < sizeof(*h) ? sizeof(*h) : h->size;
        ssize_t n = receive(ch, want - ch->have);
        if (n == -EAGAIN)
            return 0;
        if (n == -EINTR)
            continue;
        if (n == -E2BIG)
            return vfio_user_conn_lose(conn, "sent too many descriptors");
        if (n <= 0) {
            errno = n ? (int)-n : ECONNRESET;
            return lose_errno(conn);
        }
        ch->have += (size_t)n;
        if (ch->have == sizeof(*h) && (h->size < sizeof(*h) || h->size > sizeof(*ch->in)))
            return vfio_user_conn_lose(conn, "sent a message of %u bytes", h->size);
        ch->complete = ch->have >= sizeof(*h) && ch->have == h->size;
    }
    return 1;
}

/* Room for the next message. */
static void consume(struct vfio_user_channel *ch)
{
    vfio_user_fds_close(&ch->fds);
    ch->have = 0;
    ch->complete = ch->serving = false;
}

/* ---- sending ---- */

static int step(struct vfio_user_conn *conn, struct vfio_user_channel *out);

static ssize_t transmit(int fd, void *data, size_t size, const int *pass, unsigned nr)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nr) {
        memset(&control, 0, sizeof(control));
        control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                          .cmsg_type = SCM_RIGHTS,
                                          .cmsg_len = CMSG_LEN(nr * sizeof(int))};
        memcpy(CMSG_DATA(&control.header), pass, nr * sizeof(int));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
    }
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* While the server does not take it, what it sends is taken: it may be blocked likewise. */
static int send_message(struct vfio_user_conn *conn, struct vfio_user_channel *ch, void *data,
                        size_t size, const int *fd, unsigned fds)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = transmit(ch->fd, (char *)data + done, size - done, fd, done ? 0 : fds);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno == EAGAIN) {
            int err = step(conn, ch);
            if (err)
                return err;
        } else if (errno != EINTR) {
            return lose_errno(conn);
        }
    }
    return 0;
}

static int send_command(struct vfio_user_conn *conn, uint32_t flags,
                        const struct vfio_user_call *call)
{
    struct {
        struct vfio_user_header header;
        uint8_t data[512];
    } out = {
        .header = {.msg_id = ++conn->id,
                   .command = call->command,
                   .size = (uint32_t)(sizeof(out.header) + call->size),
                   .flags = VFIO_USER_REQUEST | flags},
    };
    if (call->size > sizeof(out.data) || call->fds > VFIO_USER_FDS_MAX)
        return -EMSGSIZE;
    if (call->size)
        memcpy(out.data, call->data, call->size);
    return send_message(conn, &conn->main, &out, out.header.size, call->fd, call->fds);
}

/* ---- the server's commands ---- */

int vfio_user_conn_map(struct vfio_user_conn *conn, const struct vfio_user_map *map)
{
    pthread_mutex_lock(&conn->lock);
    bool room = conn->maps < VFIO_USER_MAPS_MAX;
    if (room)
        conn->map[conn->maps++] = *map;
    pthread_mutex_unlock(&conn->lock);
    return room ? 0 : -ENOSPC;
}

void vfio_user_conn_unmap(struct vfio_user_conn *conn, uint64_t iova, uint64_t size)
{
    pthread_mutex_lock(&conn->lock);
    for (unsigned i = conn->maps; i-- > 0;) {
        if (conn->map[i].iova == iova && conn->map[i].size == size)
            conn->map[i] = conn->map[--conn->maps];
    }
    pthread_mutex_unlock(&conn->lock);
}

static uint8_t *find_map(const struct vfio_user_conn *conn, uint64_t iova, uint64_t len)
{
    for (unsigned i = 0; i < conn->maps; i++) {
        const struct vfio_user_map *map = &conn->map[i];
        if (iova >= map->iova && range_within(iova - map->iova, len, map->size))
            return map->hva + (iova - map->iova);
    }
    return NULL;
}

/* The command in M becomes its reply, but for the flags. */
static int carry_out(const struct vfio_user_conn *conn, struct vfio_user_message *m)
{
    const size_t head = offsetof(struct vfio_user_message, data);
    bool reads = m->header.command == VFIO_USER_DMA_READ;
    if (!reads && m->header.command != VFIO_USER_DMA_WRITE)
        return -ENOTSUP;
    if (m->header.size < head)
        return -EINVAL;
    uint64_t count = m->dma.count;
    if (count > VFIO_USER_XFER_MAX || m->header.size - head != (reads ? 0 : count))
        return -EINVAL;
    uint8_t *hva = find_map(conn, m->dma.address, count);
    if (!hva)
        return -EFAULT;
    if (reads)
        memcpy(m->data, hva, count);
    else
        memcpy(hva, m->data, count);
    m->header.size = (uint32_t)(head + (reads ? count : 0));
    return 0;
}

/* The message in CH, which is complete, has to be a command. */
static int serve(struct vfio_user_conn *conn, struct vfio_user_channel *ch)
{
    struct vfio_user_header *h = &ch->in->header;
    bool quiet = h->flags & VFIO_USER_NO_REPLY;
    if ((h->flags & VFIO_USER_TYPE) != VFIO_USER_REQUEST)
        return vfio_user_conn_lose(conn, "replied to what was not asked");
    ch->serving = true;
    int err = carry_out(conn, ch->in);
    h->flags = VFIO_USER_REPLY;
    if (err) {
        h->flags |= VFIO_USER_ERROR;
        h->error = (uint32_t)-err;
        h->size = sizeof(*h);
    }
    err = quiet ? 0 : send_message(conn, ch, h, h->size, NULL, 0);
    consume(ch);
    return err;
}

/*
 * Waits until there is something to receive, or room to send on OUT (NULL: no need), and
 * receives up to a whole message from each socket. Commands on the twin socket are carried out
 * here, as nothing else comes that way; what comes on the other is the caller's.
 */
static int step(struct vfio_user_conn *conn, struct vfio_user_channel *out)
{
    struct vfio_user_channel *ch[] = {&conn->main, &conn->twin};
    struct pollfd pfd[ARRAY_SIZE(ch)];
    for (size_t i = 0; i < ARRAY_SIZE(ch); i++) {
        short events = (short)((ch[i]->complete ? 0 : POLLIN) | (ch[i] == out ? POLLOUT : 0));
        pfd[i] = (struct pollfd){.fd = events ? ch[i]->fd : -1, .events = events};
    }
    int64_t left_ms = (conn->deadline_ns - loop_now(CLOCK_MONOTONIC)) / NS_PER_MS;
    int n = left_ms > 0 ? poll(pfd, ARRAY_SIZE(pfd), (int)left_ms) : 0;
    if (n == 0)
        return vfio_user_conn_lose(conn, "has not answered for %d s", TIMEOUT_MS / 1000);
    if (n < 0)
        return errno == EINTR ? 0 : lose_errno(conn);
    for (size_t i = 0; i < ARRAY_SIZE(ch); i++) {
        int err = pfd[i].revents & ~POLLOUT && !ch[i]->complete ? fill(conn, ch[i]) : 0;
        if (err < 0)
            return err;
    }
    return conn->twin.complete && !conn->twin.serving ? serve(conn, &conn->twin) : 0;
}

/* ---- posted writes ---- */

/* Sends what is in the queue. */
static int flush(struct vfio_user_conn *conn)
{
    struct {
        uint64_t count;
        struct vfio_user_write_multi write[VFIO_USER_POSTED];
    } multi;
    pthread_mutex_lock(&conn->queue_lock);
    unsigned nr = conn->queued;
    memcpy(multi.write, conn->queue, nr * sizeof(multi.write[0]));
    conn->queued = 0;
    pthread_mutex_unlock(&conn->queue_lock);
    multi.count = nr;
    if (nr > 1 && conn->write_multiple) {
        const struct vfio_user_call call = {
            .command = VFIO_USER_REGION_WRITE_MULTI,
            .data = &multi,
            .size = sizeof(multi.count) + nr * sizeof(multi.write[0]),
        };
        return send_command(conn, VFIO_USER_NO_REPLY, &call);
    }
    int err = 0;
    for (unsigned i = 0; i < nr && !err; i++) {
        /* The same fields as a REGION_WRITE, but for the data's length. */
        const struct vfio_user_call call = {
            .command = VFIO_USER_REGION_WRITE,
            .data = &multi.write[i],
            .size = sizeof(struct vfio_user_region_access) + multi.write[i].count,
        };
        err = send_command(conn, VFIO_USER_NO_REPLY, &call);
    }
    return err;
}

static bool queue_empty(struct vfio_user_conn *conn)
{
    pthread_mutex_lock(&conn->queue_lock);
    bool empty = !conn->queued;
    pthread_mutex_unlock(&conn->queue_lock);
    return empty;
}

static void set_deadline(struct vfio_user_conn *conn)
{
    conn->deadline_ns = loop_now(CLOCK_MONOTONIC) + TIMEOUT_MS * NS_PER_MS;
}

/*
 * Gives the lock back, with nothing left that the loop would not see (a command that was taken
 * in while sending) and no write that is queued because the lock was held.
 */
static void release(struct vfio_user_conn *conn)
{
    int err = lost(conn) ? -EIO : 0;
    for (;;) {
        if (!err)
            err = flush(conn);
        if (!err && conn->main.complete)
            err = serve(conn, &conn->main);
        pthread_mutex_unlock(&conn->lock);
        if (err || queue_empty(conn) || pthread_mutex_trylock(&conn->lock))
            return;
        set_deadline(conn);
    }
}

int vfio_user_post(struct vfio_user_conn *conn, const struct vfio_user_write_multi *write)
{
    bool queued = false;
    while (!queued) {
        if (lost(conn))
            return -EIO;
        pthread_mutex_lock(&conn->queue_lock);
        queued = conn->queued < VFIO_USER_POSTED;
        if (queued)
            conn->queue[conn->queued++] = *write;
        pthread_mutex_unlock(&conn->queue_lock);
        if (queued ? pthread_mutex_trylock(&conn->lock) : pthread_mutex_lock(&conn->lock))
            return 0; /* the holder sends it */
        set_deadline(conn);
        release(conn);
    }
    return 0;
}

/* ---- commands that are replied to ---- */

static int take_reply(struct vfio_user_conn *conn, struct vfio_user_call *call)
{
    struct vfio_user_channel *ch = &conn->main;
    const struct vfio_user_header *h = &ch->in->header;
    size_t size = h->size - sizeof(*h);
    if ((h->flags & VFIO_USER_TYPE) != VFIO_USER_REPLY || h->msg_id != conn->id ||
        h->command != call->command)
        return vfio_user_conn_lose(conn, "replied to what was not asked");
    if (h->flags & VFIO_USER_ERROR && !size) {
        int err = h->error && h->error < 4096 ? -(int)h->error : -EIO;
        consume(ch);
        return err;
    }
    if (h->flags & VFIO_USER_ERROR || size < call->min || size > call->max)
        return vfio_user_conn_lose(conn, "sent a reply of %zu bytes to command %u", size,
                                   h->command);
    if (size)
        memcpy(call->reply, &ch->in->dma, size);
    call->got = size;
    if (call->got_fds) {
        *call->got_fds = ch->fds;
        ch->fds.nr = 0;
    }
    consume(ch);
    return 0;
}

int vfio_user_call(struct vfio_user_conn *conn, struct vfio_user_call *call)
{
    pthread_mutex_lock(&conn->lock);
    set_deadline(conn);
    int err = lost(conn) ? -EIO : flush(conn);
    if (!err)
        err = send_command(conn, 0, call);
    bool replied = false;
    while (!err && !replied) {
        err = conn->main.complete ? 0 : step(conn, NULL);
        if (err || !conn->main.complete)
            continue;
        replied = (conn->main.in->header.flags & VFIO_USER_TYPE) != VFIO_USER_REQUEST;
        err = replied ? take_reply(conn, call) : serve(conn, &conn->main);
    }
    release(conn);
    return err;
}

/* ---- life ---- */

/* One command of the server from CH, if it is there. */
static bool serve_next(struct vfio_user_conn *conn, struct vfio_user_channel *ch)
{
    return ch->fd >= 0 && !lost(conn) && fill(conn, ch) > 0 && serve(conn, ch) == 0;
}

static void unwatch(struct vfio_user_conn *conn)
{
    if (!conn->watched)
        return;
    loop_remove(conn->loop, conn->main.fd);
    if (conn->twin.fd >= 0)
        loop_remove(conn->loop, conn->twin.fd);
    conn->watched = false;
}

/* In the loop. Where another thread has the lock, it serves the sockets; the loop comes again.
 */
static void ready(void *opaque, uint32_t events)
{
    struct vfio_user_conn *conn = opaque;
    int64_t until = loop_now(CLOCK_MONOTONIC) + LOOP_WAIT_MS * NS_PER_MS;
    struct timespec t = {.tv_sec = until / NS_PER_S, .tv_nsec = until % NS_PER_S};
    (void)events;
    if (pthread_mutex_clocklock(&conn->lock, CLOCK_MONOTONIC, &t))
        return;
    set_deadline(conn);
    bool more = true;
    for (int i = 0; i < LOOP_BURST && more; i++) {
        more = serve_next(conn, &conn->main);
        more |= serve_next(conn, &conn->twin);
    }
    release(conn);
    if (!lost(conn) || !conn->watched)
        return;
    unwatch(conn);
    if (conn->dev->on_lost)
        conn->dev->on_lost(conn->dev->opaque);
}

int vfio_user_conn_watch(struct vfio_user_conn *conn, int fd)
{
    conn->twin.fd = fd;
    conn->watched = true;
    int err = loop_add(conn->loop, conn->main.fd, EPOLLIN, ready, conn);
    if (!err && fd >= 0)
        err = loop_add(conn->loop, fd, EPOLLIN, ready, conn);
    if (err)
        log_error(conn->dev->name, "cannot watch the server's socket: %s", strerror(-err));
    return err;
}

static const char *connect_hint(int err)
{
    switch (err) {
    case -ENOENT:
        return "there is no such socket; start the device's server first";
    case -ECONNREFUSED:
        return "nobody listens there; start the device's server anew";
    case -ENOTSOCK:
        return "it is not a socket; give the path of a vfio-user server's";
    case -EPROTOTYPE:
        return "it is not a stream socket; give the path of a vfio-user server's";
    case -EACCES:
        return "no permission; give this user write access to it";
    case -EAGAIN:
        return "its server is busy with another client; end that first";
    default:
        return strerror(-err);
    }
}

static int try_connect(int fd, const struct sockaddr_un *addr)
{
    struct stat st;
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0)
        return 0;
    int err = -errno;
    bool file = err == -ECONNREFUSED && stat(addr->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode);
    return file ? -ENOTSOCK : err;
}

int vfio_user_conn_open(struct vfio_user_conn *conn, struct vfio_device *dev, const char *path,
                        struct loop *loop)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    int err = -ENOMEM;
    *conn = (struct vfio_user_conn){.dev = dev, .loop = loop, .main.fd = -1, .twin.fd = -1};
    pthread_mutex_init(&conn->lock, NULL);
    pthread_mutex_init(&conn->queue_lock, NULL);
    if (!len || len >= sizeof(addr.sun_path)) {
        log_error(path, "cannot connect: a socket's path has 1 to %zu characters; give one",
                  sizeof(addr.sun_path) - 1);
        return -ENAMETOOLONG;
    }
    memcpy(addr.sun_path, path, len);
    conn->main.in = malloc(sizeof(*conn->main.in));
    conn->twin.in = malloc(sizeof(*conn->twin.in));
    if (conn->main.in && conn->twin.in) {
        conn->main.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        err = conn->main.fd < 0 ? -errno : try_connect(conn->main.fd, &addr);
    }
    for (int ms = 0; (err == -ENOENT || err == -ECONNREFUSED) && ms < START_MS;
         ms += START_STEP_MS) {
        poll(NULL, 0, START_STEP_MS);
        err = try_connect(conn->main.fd, &addr);
    }
    if (err)
        log_error(path, "cannot connect: %s", connect_hint(err));
    return err;
}

void vfio_user_conn_close(struct vfio_user_conn *conn)
{
    struct vfio_user_channel *ch[] = {&conn->main, &conn->twin};
    unwatch(conn);
    for (size_t i = 0; i < ARRAY_SIZE(ch); i++) {
        consume(ch[i]);
        free(ch[i]->in);
        if (ch[i]->fd >= 0)
            close(ch[i]->fd);
    }
    pthread_mutex_destroy(&conn->queue_lock);
    pthread_mutex_destroy(&conn->lock);
}
