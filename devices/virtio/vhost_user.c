/*
 * vhost_user.c: see vhost_user.h.
 *
 * docs/interop/vhost-user.rst in QEMU's tree, "Message specification" and "Communication". A
 * message is a header, a payload and perhaps descriptors; it stands for a request of
 * linux/vhost.h, and `message` says which. One at a time, under the device's lock; in between
 * the server has nothing to say, so the loop takes whatever comes as the end.
 *
 * Left out: the server's own requests, reconnection, more than 8 regions of memory, queues that
 * are taken away one by one.
 */
#include "devices/virtio/vhost_user.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/virtio.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define PATIENCE  (10 * NS_PER_S)
#define NS_PER_MS (NS_PER_S / 1000)

/* "Header": flags, among them the protocol's version. */
enum { FLAG_VERSION = 1, FLAG_REPLY = 1 << 2, FLAG_NEED_REPLY = 1 << 3 };
enum { FLAGS_CHECKED = 3 | FLAG_REPLY };
/* Feature bits of the connection: one beside the device's, the others its own. */
enum { F_PROTOCOL_FEATURES = 30, PROTOCOL_F_REPLY_ACK = 3 };
#define RING_NO_FD 0x100

/* Of "Front-end message types", those that linux/vhost.h has no request for. */
enum { GET_PROTOCOL_FEATURES = 15, SET_PROTOCOL_FEATURES = 16, SET_VRING_ENABLE = 18 };

struct header {
    uint32_t id, flags, size;
};

struct region {
    uint64_t gpa, size, user_addr, mmap_offset;
};

union payload {
    uint64_t number;
    struct vhost_vring_state state;
    struct vhost_vring_addr addr;
    struct {
        uint32_t nr, padding;
        struct region region[MEM_REGIONS_MAX];
    } memory;
};

struct packet {
    struct header header;
    union payload payload;
} __attribute__((packed));

_Static_assert(sizeof(struct header) == 12, "header");
_Static_assert(sizeof(struct vhost_vring_addr) == 40 &&
                   offsetof(struct vhost_vring_addr, log_guest_addr) == 32,
               "vring address description");

enum kind {
    TELL,      /* the argument is the payload */
    ASK,       /* the argument is the answer's payload */
    ASK_ABOUT, /* both */
    GIVE,      /* the argument is a struct vhost_vring_file */
    MEMORY     /* RAM, whatever the argument */
};

static const struct message {
    unsigned long request;
    uint32_t id;
    enum kind kind;
    uint32_t size; /* of the payload */
} message[] = {
    {VHOST_GET_FEATURES, 1, ASK, sizeof(uint64_t)},
    {VHOST_SET_FEATURES, 2, TELL, sizeof(uint64_t)},
    {VHOST_SET_OWNER, 3, TELL, 0},
    {VHOST_SET_MEM_TABLE, 5, MEMORY, 0},
    {VHOST_SET_VRING_NUM, 8, TELL, sizeof(struct vhost_vring_state)},
    {VHOST_SET_VRING_ADDR, 9, TELL, sizeof(struct vhost_vring_addr)},
    {VHOST_SET_VRING_BASE, 10, TELL, sizeof(struct vhost_vring_state)},
    {VHOST_GET_VRING_BASE, 11, ASK_ABOUT, sizeof(struct vhost_vring_state)},
    {VHOST_SET_VRING_KICK, 12, GIVE, sizeof(uint64_t)},
    {VHOST_SET_VRING_CALL, 13, GIVE, sizeof(uint64_t)},
    {VHOST_SET_VRING_ERR, 14, GIVE, sizeof(uint64_t)},
    {GET_PROTOCOL_FEATURES, 15, ASK, sizeof(uint64_t)},
    {SET_PROTOCOL_FEATURES, 16, TELL, sizeof(uint64_t)},
    {SET_VRING_ENABLE, 18, TELL, sizeof(struct vhost_vring_state)},
};

static struct vhost_user *from_vhost(struct vhost *v)
{
    return container_of(v, struct vhost_user, vhost);
}

/* ---- the end ---- */

static int lose(struct vhost_user *vu, const char *why)
{
    struct virtio *dev = vu->vhost.dev;
    if (vu->lost)
        return -EPIPE;
    vu->lost = true;
    log_error(
        dev->name,
        "cannot go on with the device: its server %s; see what the server says, and start "
        "both anew",
        why);
    shutdown(vu->vhost.fd, SHUT_RDWR); /* wakes the loop */
    if (vu->group)
        kill(-vu->group, SIGKILL);
    virtio_break(dev, NULL);
    return -EPIPE;
}

static void readable(void *opaque, uint32_t events)
{
    struct vhost_user *vu = opaque;
    char byte;
    (void)events;
    pthread_mutex_lock(&vu->vhost.dev->lock);
    ssize_t n = recv(vu->vhost.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0)
        lose(vu, "said something that it was not asked");
    else if (n == 0 || errno != EAGAIN) /* an answer that another thread has taken by now */
        lose(vu, "closed the connection");
    if (vu->lost)
        loop_remove(vu->vhost.loop, vu->vhost.fd);
    pthread_mutex_unlock(&vu->vhost.dev->lock);
}

/* ---- messages ---- */

static int send_packet(struct vhost_user *vu, struct packet *p, const int *fds, unsigned nr)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int[MEM_REGIONS_MAX]))];
    } control = {0};
    struct iovec iov = {p, sizeof(p->header) + p->header.size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nr) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
        control.head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(nr * sizeof(int)),
            .cmsg_level = SOL_SOCKET,
            .cmsg_type = SCM_RIGHTS,
        };
        memcpy(CMSG_DATA(&control.head), fds, nr * sizeof(int));
    }
    ssize_t n = sendmsg(vu->vhost.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        return lose(vu, "closed the connection");
    if (n != (ssize_t)iov.iov_len) /* the socket is full of what it did not read */
        return lose(vu, "does not listen");
    return 0;
}

/* LEN bytes. Descriptors that come with them are not asked for, so the kernel drops them. */
static int receive(struct vhost_user *vu, void *to, size_t len)
{
    size_t done = 0;
    while (done < len) {
        struct pollfd p = {.fd = vu->vhost.fd, .events = POLLIN};
        int64_t left = (vu->vhost.deadline - loop_now(CLOCK_MONOTONIC)) / NS_PER_MS;
        if (left < 0 || !poll(&p, 1, (int)left))
            return lose(vu, "does not answer");
        ssize_t n = recv(vu->vhost.fd, (uint8_t *)to + done, len - done, MSG_DONTWAIT);
        if (!n || (n < 0 && errno != EAGAIN && errno != EINTR))
            return lose(vu, "closed the connection");
        done += n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

static int receive_answer(struct vhost_user *vu, uint32_t id, void *to, uint32_t size)
{
    struct header header = {0};
    int err = receive(vu, &header, sizeof(header));
    if (err)
        return err;
    if (header.id != id || header.size != size ||
        (header.flags & FLAGS_CHECKED) != (FLAG_VERSION | FLAG_REPLY))
        return lose(vu, "gave an answer that is none");
    return receive(vu, to, size);
}

/* What goes into a message besides numbers; returns how many descriptors. */
static unsigned put_memory(const struct mem *mem, struct packet *p, int *fds)
{
    p->payload.memory.nr = mem->nr;
    p->payload.memory.padding = 0;
    for (unsigned i = 0; i < mem->nr; i++) {
        const struct mem_region *r = &mem->region[i];
        p->payload.memory.region[i] = (struct region){
            .gpa = r->gpa,
            .size = r->size,
            .user_addr = (uintptr_t)r->hva,
            .mmap_offset = r->fd_offset,
        };
        fds[i] = mem->fd;
    }
    p->header.size =
        (uint32_t)(offsetof(union payload, memory.region) + mem->nr * sizeof(struct region));
    return mem->nr;
}

static unsigned put_file(const void *arg, struct packet *p, int *fds)
{
    struct vhost_vring_file file;
    memcpy(&file, arg, sizeof(file));
    p->payload.number = file.index | (file.fd < 0 ? RING_NO_FD : 0);
    fds[0] = file.fd;
    return file.fd >= 0;
}

static int exchange(struct vhost_user *vu, const struct message *m, void *arg)
{
    struct packet p = {.header = {m->id, FLAG_VERSION, m->size}};
    int fds[MEM_REGIONS_MAX];
    unsigned nr = 0;
    uint64_t failed = 0;
    if (m->kind == MEMORY)
        nr = put_memory(vu->vhost.dev->mem, &p, fds);
    else if (m->kind == GIVE)
        nr = put_file(arg, &p, fds);
    else if (m->kind == ASK)
        p.header.size = 0;
    else if (m->size)
        memcpy(&p.payload, arg, m->size);
    bool ask = m->kind == ASK || m->kind == ASK_ABOUT;
    bool ack = vu->acks && !ask;
    if (ack)
        p.header.flags |= FLAG_NEED_REPLY;
    int err = send_packet(vu, &p, fds, nr);
    if (err)
        return err;
    if (ask)
        return receive_answer(vu, m->id, arg, m->size);
    err = ack ? receive_answer(vu, m->id, &failed, sizeof(failed)) : 0;
    return err || !ack || !failed ? err : -EIO;
}

/* ---- vhost.h ---- */

static int user_request(struct vhost *v, unsigned long request, void *arg)
{
    struct vhost_user *vu = from_vhost(v);
    unsigned i = 0;
    if (vu->lost) {
        virtio_break(v->dev, NULL);
        return -EPIPE;
    }
    while (i < ARRAY_SIZE(message) && message[i].request != request)
        i++;
    return i < ARRAY_SIZE(message) ? exchange(vu, &message[i], arg) : -ENOTTY;
}

/* "Ring states": with the extra features a ring has to be enabled as well. It stops with
 * GET_VRING_BASE. */
static int user_run(struct vhost *v, bool on)
{
    int err = 0;
    for (unsigned i = 0; i < v->queues && on && v->extra && !err; i++) {
        struct vhost_vring_state enable = {i, 1};
        err = user_request(v, SET_VRING_ENABLE, &enable);
    }
    return err;
}

static const struct vhost_ops user_ops = {.request = user_request, .run = user_run};

static int make_acquaintance(struct vhost_user *vu)
{
    struct vhost *v = &vu->vhost;
    uint64_t protocol = 0;
    int err = vhost_open(v);
    v->extra = v->features & 1ULL << F_PROTOCOL_FEATURES;
    if (!err && v->extra)
        err = user_request(v, GET_PROTOCOL_FEATURES, &protocol);
    protocol &= 1ULL << PROTOCOL_F_REPLY_ACK;
    if (!err && v->extra)
        err = user_request(v, SET_PROTOCOL_FEATURES, &protocol);
    vu->acks = protocol;
    return err;
}

int vhost_user_open(struct vhost_user *vu, struct virtio *dev, struct loop *loop, int socket)
{
    vu->vhost = (struct vhost){
        .ops = &user_ops,
        .dev = dev,
        .loop = loop,
        .queues = dev->queues,
        .patience = PATIENCE,
        .fd = socket,
        .err_fd = -1,
    };
    int err = make_acquaintance(vu);
    if (!err)
        err = loop_add(loop, socket, EPOLLIN, readable, vu);
    if (err && !vu->lost)
        log_error(dev->name, "cannot use its server: %s; give one that serves such a device",
                  strerror(-err));
    return err;
}
