/*
 * virtio_net.c: the guest's network card: frames between its queues and a port.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 5.1 "Network Device": 5.1.2 queues, 5.1.3 features, 5.1.4
 * configuration, 5.1.6 operation (5.1.6.4 mergeable buffers), 5.1.6.5.5 "Automatic receive
 * steering in multiqueue mode". The queues of a tap are the kernel's (vhost.h) where it can;
 * otherwise they are served here, in the loop's thread. Left out: filters, VLANs, RSS, the
 * driver's own changes of its address, announcements.
 *
 * Descriptors are waited for by edge: an event says that a port can be read or written again
 * and stays true until the port says otherwise, so that nothing spins while the guest has no
 * buffers. A frame goes out from the guest's memory; one that comes is read into a buffer here,
 * since how many of the guest's it needs is known only then, and waits there when the guest has
 * too few.
 */
#include "devices/virtio/virtio_net.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "devices/virtio/net_port.h"
#include "devices/virtio/vhost.h"
#include "devices/virtio/virtio.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define FRAMES_MAX   64 /* of a queue, in a turn */
#define COMMANDS_MAX 16
#define CHAINS_MAX   64 /* of a frame that comes: Linux's are 1.5 KiB each at least */

_Static_assert(2 * NET_PAIRS_MAX + 1 <= VIRTIO_QUEUES_MAX, "queues");
_Static_assert(sizeof(struct virtio_net_hdr_v1) == 12, "header");
_Static_assert(offsetof(struct virtio_net_config, max_virtqueue_pairs) == 8, "configuration");

struct pair {
    struct virtio_net *net;
    bool can_read, can_write; /* for all that is known */
    size_t frame_len;         /* 0: none waits */
    uint8_t frame[NET_HDR + NET_FRAME_MAX];
};

struct virtio_net {
    struct virtio virtio;
    struct net_port *port;
    struct loop *loop;
    struct virtio_net_config config; /* what the driver reads */
    unsigned active;                 /* pairs that the driver uses */
    bool started;                    /* the port knows of this driver */
    bool down;                       /* the port has failed */
    struct vhost vhost[NET_PAIRS_MAX];
    struct virtq_chain chain, first; /* at hand; the first of a frame that comes */
    struct pair pair[NET_PAIRS_MAX];
};

static struct virtio_net *from_virtio(struct virtio *dev)
{
    return container_of(dev, struct virtio_net, virtio);
}

/* The card stays, its cable is pulled: what the guest sends is dropped from now on. */
static void link_down(struct virtio_net *net, int err)
{
    if (net->down)
        return;
    net->down = true;
    log_warn(net->virtio.name, "cannot go on with network: %s; the guest's link is down",
             err == -EPIPE    ? "the program at the other end has ended"
             : err == -EPROTO ? "the program at the other end sends what is no frame"
             : err == -EBADFD ? "the tap is gone"
                              : strerror(-err));
    net->config.status = 0;
    virtio_config_changed(&net->virtio);
}

/* ---- to the guest ---- */

/* Returns how much of it there is room for. */
static size_t copy_in(const struct virtq_chain *chain, const void *from, size_t len)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->in && done < len; i++) {
        const struct iovec *iov = &chain->iov[chain->out + i];
        size_t n = MIN(iov->iov_len, len - done);
        memcpy(iov->iov_base, (const uint8_t *)from + done, n);
        done += n;
    }
    return done;
}

/* Several chains become used at once: a driver that sees the first takes the others (5.1.6.4).
 * False: there are too few; they stay where they are, and the frame. */
static bool deliver(struct virtio_net *net, unsigned pair)
{
    struct virtio *dev = &net->virtio;
    struct pair *p = &net->pair[pair];
    struct virtq *vq = &dev->queue[2 * pair];
    struct virtio_net_hdr_v1 header;
    struct {
        uint16_t head;
        uint32_t len;
    } used[CHAINS_MAX];
    bool merge = dev->accepted >> VIRTIO_NET_F_MRG_RXBUF & 1;
    unsigned most = merge ? MIN(CHAINS_MAX, vq->size) : 1, n = 0;
    size_t done = 0;
    while (done < p->frame_len && n < most) {
        struct virtq_chain *chain = n ? &net->chain : &net->first;
        if (!virtio_pop(dev, 2 * pair, chain)) {
            virtq_unpop(vq, n);
            return false;
        }
        size_t len = copy_in(chain, p->frame + done, p->frame_len - done);
        used[n].head = chain->head;
        used[n++].len = (uint32_t)len;
        done += len;
    }
    if (done < p->frame_len || !n || used[0].len < NET_HDR) {
        virtq_unpop(vq, n); /* larger than what the driver has room for: dropped */
        return true;
    }
    memcpy(&header, p->frame, sizeof(header));
    header.num_buffers = (uint16_t)n;
    copy_in(&net->first, &header, sizeof(header));
    for (unsigned i = 0; i < n; i++)
        virtq_put(vq, i, used[i].head, used[i].len);
    virtq_publish(vq, n);
    return true;
}

/* True: there may be more. */
static bool receive(struct virtio_net *net, unsigned pair)
{
    struct pair *p = &net->pair[pair];
    unsigned n = 0;
    while (n < FRAMES_MAX && virtio_is_live(&net->virtio)) {
        if (!p->frame_len) {
            if (net->down || !p->can_read)
                break;
            ssize_t len = net->port->ops->receive(net->port, pair, p->frame);
            p->can_read = len > 0;
            if (len < 0 && len != -EAGAIN)
                link_down(net, (int)len);
            if (len <= (ssize_t)NET_HDR)
                break;
            p->frame_len = (size_t)len;
        }
        if (!deliver(net, pair))
            break;
        p->frame_len = 0;
        n++;
    }
    virtio_notify(&net->virtio, 2 * pair);
    return n == FRAMES_MAX;
}

/* ---- from the guest ---- */

/* -EAGAIN: the port does not take it now. What is no frame is dropped. */
static int send_chain(struct virtio_net *net, unsigned pair, struct virtq_chain *chain)
{
    struct virtio_net_hdr_v1 header; /* the driver cannot change what has been copied */
    struct iovec iov[VIRTQ_SEGS_MAX + 1] = {{&header, sizeof(header)}};
    if (net->down || !virtq_read(chain, &header, sizeof(header)) || !chain->out)
        return 0;
    memcpy(&iov[1], chain->iov, chain->out * sizeof(*iov));
    int err = net->port->ops->send(net->port, pair, iov, chain->out + 1);
    if (err && err != -EAGAIN)
        link_down(net, err);
    return err == -EAGAIN ? err : 0;
}

static bool transmit(struct virtio_net *net, unsigned pair)
{
    struct virtio *dev = &net->virtio;
    struct pair *p = &net->pair[pair];
    unsigned queue = 2 * pair + 1, n = 0;
    while (n < FRAMES_MAX && (p->can_write || net->down) &&
           virtio_pop(dev, queue, &net->chain)) {
        uint16_t head = net->chain.head;
        if (send_chain(net, pair, &net->chain)) {
            virtq_unpop(&dev->queue[queue], 1);
            p->can_write = false;
            break;
        }
        virtio_push(dev, queue, head, 0);
        n++;
    }
    virtio_notify(dev, queue);
    return n == FRAMES_MAX;
}

/* ---- commands: 5.1.6.5 ---- */

/* What is known of the ports is old: they are tried. */
static void try_again(struct virtio_net *net)
{
    for (unsigned i = 0; i < net->port->pairs; i++)
        net->pair[i].can_read = net->pair[i].can_write = true;
}

static uint8_t command(struct virtio_net *net, struct virtq_chain *chain)
{
    struct virtio_net_ctrl_hdr header;
    uint16_t pairs;
    if (!virtq_read(chain, &header, sizeof(header)) || header.class != VIRTIO_NET_CTRL_MQ ||
        header.cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET ||
        !virtq_read(chain, &pairs, sizeof(pairs)) || pairs < 1 || pairs > net->port->pairs ||
        net->port->ops->set_pairs(net->port, pairs))
        return VIRTIO_NET_ERR;
    net->active = pairs;
    try_again(net);
    return VIRTIO_NET_OK;
}

static bool obey(struct virtio_net *net)
{
    struct virtio *dev = &net->virtio;
    unsigned queue = 2 * net->port->pairs, n = 0;
    if (!(dev->accepted >> VIRTIO_NET_F_MQ & 1))
        return false;
    while (n < COMMANDS_MAX && virtio_pop(dev, queue, &net->chain)) {
        if (!net->chain.in) {
            virtio_break(dev, "a command has no room for its answer");
            break;
        }
        uint8_t ack = command(net, &net->chain);
        copy_in(&net->chain, &ack, sizeof(ack));
        virtio_push(dev, queue, net->chain.head, sizeof(ack));
        n++;
    }
    virtio_notify(dev, queue);
    return n == COMMANDS_MAX;
}

/* ---- the device ---- */

static bool net_kick(struct virtio *dev)
{
    struct virtio_net *net = from_virtio(dev);
    bool more = net->started && obey(net);
    for (unsigned i = 0; !dev->outside && net->started && i < net->active; i++) {
        more |= receive(net, i);
        more |= transmit(net, i);
    }
    return more;
}

/* The port can be read or written again, or has ended: a driver reads up to that; where there
 * is none, it is said now. Only the first pair tells: a tap's queue that is not in use looks
 * like one that has ended. */
static void ready(void *opaque, uint32_t events)
{
    struct pair *p = opaque;
    struct virtio_net *net = p->net;
    unsigned pair = (unsigned)(p - net->pair);
    bool ended = events & (EPOLLHUP | EPOLLERR);
    pthread_mutex_lock(&net->virtio.lock);
    p->can_read |= ended || events & EPOLLIN;
    if (ended && !pair && !virtio_is_live(&net->virtio))
        link_down(net, events & EPOLLHUP ? -EPIPE : -EBADFD);
    if ((ended || events & EPOLLOUT) && !net->down) {
        int err = net->port->ops->send(net->port, pair, NULL, 0);
        p->can_write = !err;
        if (err && err != -EAGAIN)
            link_down(net, err);
    }
    virtio_kick(&net->virtio);
    pthread_mutex_unlock(&net->virtio.lock);
}

static void net_reset(struct virtio *dev)
{
    struct virtio_net *net = from_virtio(dev);
    for (unsigned i = 0; i < net->port->pairs; i++) {
        vhost_stop(&net->vhost[i]);
        net->pair[i].frame_len = 0;
    }
    net->active = 1;
    net->started = false;
}

/* The port hears of the driver before its queues are served. */
static void net_update(struct virtio *dev)
{
    struct virtio_net *net = from_virtio(dev);
    if (!net->started && virtio_is_live(dev)) {
        net->started = true;
        if (net->port->ops->start)
            net->port->ops->start(net->port, dev->accepted);
        try_again(net);
    }
    for (unsigned i = 0; dev->outside && i < net->port->pairs; i++)
        vhost_update(&net->vhost[i]);
}

/* ---- creation ---- */

static uint64_t features(const struct net_port *port)
{
    uint64_t all = port->features | 1ULL << VIRTIO_NET_F_MAC | 1ULL << VIRTIO_NET_F_STATUS |
                   1ULL << VIRTIO_NET_F_MRG_RXBUF;
    if (port->pairs > 1)
        all |= 1ULL << VIRTIO_NET_F_CTRL_VQ | 1ULL << VIRTIO_NET_F_MQ;
    return all;
}

/* All pairs, or none. */
static void open_vhost(struct virtio_net *net)
{
    int err = 0;
    unsigned pairs = net->port->pairs;
    for (unsigned i = 0; i < pairs && !err; i++)
        err = vhost_net_open(&net->vhost[i], &net->virtio, net->loop, 2 * i, net->port->fd[i]);
    for (unsigned i = 0; i < pairs && err; i++)
        vhost_close(&net->vhost[i]);
    if (err)
        log_debug(net->virtio.name,
                  "cannot use /dev/vhost-net: %s; minivmm moves the packets itself",
                  strerror(-err));
    else
        net->virtio.outside = 2 * pairs;
}

static int watch(struct virtio_net *net)
{
    const uint32_t events = EPOLLIN | EPOLLOUT | EPOLLET;
    int err = 0;
    for (unsigned i = 0; i < net->port->pairs && !err; i++) {
        net->pair[i].net = net;
        err = loop_add(net->loop, net->port->fd[i], events, ready, &net->pair[i]);
    }
    if (err)
        log_error(net->virtio.name, "cannot wait for network: %s", strerror(-err));
    return err;
}

static void net_close(struct virtio *dev)
{
    struct virtio_net *net = from_virtio(dev);
    for (unsigned i = 0; i < net->port->pairs; i++) {
        vhost_close(&net->vhost[i]);
        loop_remove(net->loop, net->port->fd[i]);
    }
    net->port->ops->close(net->port);
}

static const struct virtio_ops net_ops = {
    .kick = net_kick,
    .reset = net_reset,
    .update = net_update,
    .close = net_close,
};

int virtio_net_create(struct virtio **out, const struct virtio_net_setup *setup)
{
    struct net_port *port = setup->port;
    struct virtio_net *net = calloc(1, sizeof(*net));
    if (!net) {
        log_error(setup->name, "cannot make network device: %s", strerror(ENOMEM));
        port->ops->close(port);
        return -ENOMEM;
    }
    net->port = port;
    net->loop = setup->loop;
    net->active = 1;
    net->config.status = VIRTIO_NET_S_LINK_UP;
    net->config.max_virtqueue_pairs = (uint16_t)port->pairs;
    memcpy(net->config.mac, setup->mac, sizeof(net->config.mac));
    net->virtio = (struct virtio){
        .ops = &net_ops,
        .name = setup->name,
        .mem = setup->mem,
        .id = VIRTIO_ID_NET,
        .queues = 2 * port->pairs + (port->pairs > 1),
        .features = features(port),
        .config = &net->config,
        .config_size = offsetof(struct virtio_net_config, mtu),
    };
    virtio_init(&net->virtio);
    if (setup->vhost)
        open_vhost(net);
    int err = net->virtio.outside ? 0 : watch(net);
    if (err) {
        virtio_destroy(&net->virtio);
        return err;
    }
    *out = &net->virtio;
    return 0;
}
