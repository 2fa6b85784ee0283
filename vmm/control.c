/*
 * control.c: see control.h. unix(7), and QEMU's QMP for the form of the messages.
 *
 * Clients may send what they like, as slowly as they like, and read nothing: their number, a
 * line's length and a reply's length are bounded; nothing here waits. A client has one answer
 * at a time: as long as some of it has not gone out, nothing more is read from it, so what it
 * sends fills its own socket buffer.
 */
#include "vmm/control.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/json.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/spawn.h"
#include "vmm/util.h"

#define CLIENTS_MAX 4
#define LINE_MAX_IN 4096
#define REPLY_MAX   (64 * 1024)

struct client {
    struct control *control;
    int fd;
    char in[LINE_MAX_IN];
    size_t in_len;
    char out[REPLY_MAX];
    size_t out_len, out_done;
    bool closing; /* once its answer is out */
};

struct control {
    const char *path;
    struct loop *loop;
    const struct control_command *commands;
    void *opaque;
    int fd;
    struct stat made; /* the socket's file */
    struct client *client[CLIENTS_MAX];
};

/* ---- a line and its answer ---- */

static void add_error(struct json_text *out, const char *class, const char *desc)
{
    json_add(out, "{\"error\":{\"class\":\"%s\",\"desc\":", class);
    json_add_string(out, desc);
    json_add(out, "}}");
}

static void execute(const struct control *control, const char *name, struct json_text *out)
{
    const struct control_command *command = control->commands;
    while (command->name && strcmp(command->name, name) != 0)
        command++;
    if (!command->name)
        return add_error(out, "CommandNotFound",
                         "there is no such command; see minivmm ctl --help");
    json_add(out, "{\"return\":");
    size_t begin = out->len;
    const char *why = command->run(control->opaque, out);
    if (out->cut)
        why = "the answer is too long";
    if (why) {
        *out = (struct json_text){.at = out->at, .room = out->room};
        return add_error(out, "GenericError", why);
    }
    out->room++; /* that was kept for it */
    json_add(out, out->len == begin ? "{}}" : "}");
}

/* The answer has gone out or is in the buffer; TEXT is without its newline. */
static void answer(struct client *c, const char *text, size_t len)
{
    struct {
        char execute[32];
    } request = {""};
    static const struct json_field field[] = {
        {"execute", JSON_STRING, 0, sizeof(request.execute)}};
    struct json_text out = {.at = c->out, .room = sizeof(c->out) - 2}; /* "}" and "\n" */
    if (json_read(field, ARRAY_SIZE(field), &request, text, len) || !request.execute[0])
        add_error(&out, "GenericError", "not understood; send {\"execute\":\"COMMAND\"}");
    else
        execute(c->control, request.execute, &out);
    c->out[out.len++] = '\n';
    c->out_len = out.len;
    c->out_done = 0;
}

/* ---- clients ---- */

static void drop(struct client *c)
{
    struct control *control = c->control;
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (control->client[i] == c)
            control->client[i] = NULL;
    }
    loop_close(control->loop, c->fd);
    free(c);
}

/* 0: all is out; -EAGAIN: the client has to read first; else it is gone. */
static int flush(struct client *c)
{
    while (c->out_done < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_done, c->out_len - c->out_done,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return -errno;
        c->out_done += (size_t)n;
    }
    return c->closing ? -EPIPE : 0;
}

/* The lines in the buffer, until one's answer does not go out at once. */
static int serve(struct client *c)
{
    int err = flush(c);
    char *end;
    while (!err && (end = memchr(c->in, '\n', c->in_len))) {
        size_t len = (size_t)(end - c->in);
        answer(c, c->in, len);
        c->in_len -= len + 1;
        memmove(c->in, end + 1, c->in_len);
        err = flush(c);
    }
    if (!err && c->in_len == sizeof(c->in)) {
        c->closing = true;
        answer(c, "", 0); /* is not understood */
        err = flush(c);
    }
    return err;
}

static void on_client(void *opaque, uint32_t events);

static void watch(struct client *c, uint32_t events)
{
    loop_remove(c->control->loop, c->fd);
    if (loop_add(c->control->loop, c->fd, events, on_client, c))
        drop(c);
}

static void on_client(void *opaque, uint32_t events)
{
    struct client *c = opaque;
    bool was_full = c->out_done < c->out_len;
    int err = 0;
    (void)events;
    if (!was_full) {
        ssize_t n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);
        if (n > 0)
            c->in_len += (size_t)n;
        else
            err = n == 0 ? -EPIPE : -errno;
        if (err == -EAGAIN || err == -EINTR)
            return;
    }
    if (!err)
        err = serve(c);
    if (err && err != -EAGAIN && err != -EINTR)
        drop(c);
    else if (!!err != was_full)
        watch(c, err ? EPOLLOUT : EPOLLIN);
}

/* FD becomes a client's, or is told that there are too many of them. */
static void admit(struct control *control, int fd)
{
    static const char full[] = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"too many "
                               "connections; close one\"}}\n";
    unsigned i = 0;
    while (i < CLIENTS_MAX && control->client[i])
        i++;
    struct client *c = i < CLIENTS_MAX ? calloc(1, sizeof(*c)) : NULL;
    if (!c) {
        (void)!send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(fd);
        return;
    }
    c->control = control;
    c->fd = fd;
    control->client[i] = c;
    if (loop_add(control->loop, fd, EPOLLIN, on_client, c))
        drop(c);
}

/* Edge-triggered: where no more descriptors are to be had, the next connection is the next
 * attempt, and the loop does not spin meanwhile. */
static void on_connection(void *opaque, uint32_t events)
{
    struct control *control = opaque;
    (void)events;
    for (unsigned i = 0; i < 4 * CLIENTS_MAX; i++) {
        int fd = accept4(control->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0)
            return;
        admit(control, fd);
    }
}

/* ---- the socket ---- */

/* Whether a socket is at PATH that nobody listens at. A file of another kind refuses
 * connections, too. */
static bool is_left_over(const char *path)
{
    struct stat st;
    int fd = spawn_connect(path);
    if (fd >= 0)
        close(fd);
    return fd == -ECONNREFUSED && !lstat(path, &st) && S_ISSOCK(st.st_mode);
}

static int listen_at(struct control *control)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const struct sockaddr *any = (const struct sockaddr *)&addr;
    size_t len = strlen(control->path);
    if (len == 0 || len >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, control->path, len);
    control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (control->fd < 0)
        return -errno;
    /* The file gets the mode that the socket has at bind(): there is no moment at which others
     * may connect, and the process's umask stays. */
    if (fchmod(control->fd, 0600))
        return -errno;
    int err = bind(control->fd, any, sizeof(addr)) ? -errno : 0;
    if (err == -EADDRINUSE && is_left_over(control->path) && !unlink(control->path))
        err = bind(control->fd, any, sizeof(addr)) ? -errno : 0;
    if (err)
        return err;
    if (lstat(control->path, &control->made) || listen(control->fd, CLIENTS_MAX))
        return -errno;
    return loop_add(control->loop, control->fd, EPOLLIN | EPOLLET, on_connection, control);
}

int control_create(struct control **out, const char *path, struct loop *loop,
                   const struct control_command *commands, void *opaque)
{
    struct control *control = calloc(1, sizeof(*control));
    int err = -ENOMEM;
    if (control) {
        *control = (struct control){
            .path = path, .loop = loop, .commands = commands, .opaque = opaque, .fd = -1};
        err = listen_at(control);
    }
    if (err) {
        log_error(path, "cannot make the control socket: %s; %s", strerror(-err),
                  err == -EADDRINUSE     ? "it is another VM's, or no socket: give another path"
                  : err == -ENAMETOOLONG ? "give a path of 1 to 107 bytes"
                  : err == -EMFILE       ? "raise the limit of files (ulimit -n)"
                                         : "give a path in a directory that can be written");
        control_destroy(control);
        return err;
    }
    *out = control;
    return 0;
}

void control_destroy(struct control *control)
{
    struct stat st;
    if (!control)
        return;
    for (unsigned i = 0; i < CLIENTS_MAX; i++) {
        if (control->client[i])
            drop(control->client[i]);
    }
    /* Another VM may have taken the path. */
    if (control->made.st_ino && !lstat(control->path, &st) && is_same_file(&st, &control->made))
        unlink(control->path);
    loop_close(control->loop, control->fd);
    free(control);
}
