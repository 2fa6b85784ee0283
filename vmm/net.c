/*
 * net.c: see net.h. passt(1) gets one end of a socket pair and ends when the other is closed.
 * It writes its PID file when it has taken its ports and shut itself in, which is all that can
 * go wrong: 20 to 50 ms, but seconds where clearing the huge pages of its buffers is slow.
 */
#include "vmm/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/virtio/net_port.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define PASST_ARGS     7 /* and two for each forward, and the end */
#define PASST_READY_MS 60000

static bool is_taken(bool udp, const void *addr, socklen_t len)
{
    const struct sockaddr *any = addr;
    const int on = 1;
    int fd = socket(any->sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false; /* the host knows no such addresses */
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)); /* not of IPv4 */
    if (!udp)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)); /* the dead do not count */
    bool taken = bind(fd, any, len) && errno == EADDRINUSE;
    close(fd);
    return taken;
}

/* passt is content with a port of IPv4 or IPv6 alone, and shares one of UDP with others: then
 * what is sent to it arrives somewhere else. */
static int check_ports(const struct option_net *o)
{
    for (unsigned i = 0; i < o->forwards; i++) {
        const struct option_forward *f = &o->forward[i];
        const struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(f->host)};
        const struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(f->host)};
        if (!is_taken(f->udp, &v4, sizeof(v4)) && !is_taken(f->udp, &v6, sizeof(v6)))
            continue;
        log_error(o->where,
                  "cannot use the host's %s port %u: another program has it; "
                  "end that, or give another",
                  f->udp ? "UDP" : "TCP", f->host);
        return -EADDRINUSE;
    }
    return 0;
}

static int start_passt(const struct option_net *o, struct spawn *passt)
{
    const char *argv[PASST_ARGS + 2 * OPTIONS_FORWARD_MAX + 1] = {
        "passt", "--foreground", "--quiet", "--fd", SPAWN_FD_TEXT, "--pid", SPAWN_READY};
    char spec[OPTIONS_FORWARD_MAX][16];
    unsigned n = PASST_ARGS;
    int pair[2], err = check_ports(o);
    if (err)
        return err;
    for (unsigned i = 0; i < o->forwards; i++) {
        const struct option_forward *f = &o->forward[i];
        snprintf(spec[i], sizeof(spec[i]), "%u:%u", f->host, f->guest);
        argv[n++] = f->udp ? "-u" : "-t";
        argv[n++] = spec[i];
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
        err = -errno;
        log_error("passt", "cannot make its socket: %s", strerror(-err));
        return err;
    }
    err = spawn_start_ready(passt, argv, pair[1], PASST_READY_MS,
                            "apt install passt, or give a tap by --net tap=NAME");
    close(pair[1]);
    if (!err)
        return pair[0];
    close(pair[0]);
    return err;
}

static int connect_passt(const char *path)
{
    int fd = spawn_connect(path);
    if (fd < 0)
        log_error(path, "cannot connect to passt: %s; start it: passt -f --socket %s",
                  strerror(-fd), path);
    return fd;
}

int net_open(struct net_port **out, const struct option_net *o, struct spawn *passt)
{
    const char *value = strchr(o->where, '=');
    if (value && o->where[0] == 't')
        return net_tap_open(out, value + 1, MAX(o->queues, 1U));
    int fd = value ? connect_passt(value + 1) : start_passt(o, passt);
    int err = fd < 0 ? fd : net_stream_open(out, fd);
    if (err == -ENOMEM)
        log_error(o->where, "cannot make network device: %s", strerror(-err));
    return err;
}

void net_address(const struct option_net *o, unsigned n, uint8_t mac[6])
{
    static const uint8_t none[6];
    char text[256 + sizeof(o->where)] = "";
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a: spread is all that is asked of it */
    memcpy(mac, o->mac, 6);
    if (memcmp(mac, none, 6))
        return;
    gethostname(text, 255);
    size_t len = strnlen(text, 255);
    snprintf(text + len, sizeof(text) - len, "/%s", o->where);
    for (const char *c = text; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3;
    put_le32(mac + 2, (uint32_t)(hash ^ hash >> 32));
    mac[0] = 0x52; /* locally administered, of one card: what hypervisors use */
    mac[1] = 0x54;
    mac[5] = (uint8_t)(mac[5] + n); /* two of the same name */
}
