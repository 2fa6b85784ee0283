/*
 * net.c: see net.h. passt(1) gets one end of a socket pair and ends when the other is closed.
 */
#include "vmm/net.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "devices/net_port.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define PASST_ARGS 5 /* and two for each forward, and the end */

static int start_passt(const struct option_net *o, struct spawn *passt)
{
    const char *argv[PASST_ARGS + 2 * OPTIONS_FORWARD_MAX + 1] = {
        "passt", "--foreground", "--quiet", "--fd", SPAWN_FD_TEXT};
    char spec[OPTIONS_FORWARD_MAX][16];
    unsigned n = PASST_ARGS;
    int pair[2];
    for (unsigned i = 0; i < o->forwards; i++) {
        const struct option_forward *f = &o->forward[i];
        snprintf(spec[i], sizeof(spec[i]), "%u:%u", f->host, f->guest);
        argv[n++] = f->udp ? "-u" : "-t";
        argv[n++] = spec[i];
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair)) {
        int err = -errno;
        log_error("passt", "cannot make its socket: %s", strerror(-err));
        return err;
    }
    int err =
        spawn_start(passt, argv, pair[1], "apt install passt, or give a tap by --net tap=NAME");
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
