/*
 * ctl.c: see ctl.h; the other side is control.c. The socket may be anybody's: what it answers
 * is bounded in length and time, and printed only when it is JSON.
 */
#include "vmm/ctl.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "vmm/json.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/machine.h"
#include "vmm/spawn.h"
#include "vmm/util.h"

#define REPLY_MAX     (128 * 1024)
#define PATIENCE_S    30
#define RETRY_MS      20
#define COMMAND_CHARS "abcdefghijklmnopqrstuvwxyz-"

struct answer {
    bool good;
    char desc[JSON_STRING_MAX];
};

static int64_t patience_ends(void)
{
    return loop_now(CLOCK_MONOTONIC) + PATIENCE_S * NS_PER_S;
}

/* A VM that is busy (-EAGAIN) takes the connection when it is not. */
static int connect_to(const char *path)
{
    int64_t until = patience_ends();
    int fd;
    while ((fd = spawn_connect(path)) == -EAGAIN && loop_now(CLOCK_MONOTONIC) < until)
        poll(NULL, 0, RETRY_MS);
    return fd;
}

/* A line, whose length is returned, without its newline. */
static int receive(int fd, char *reply, size_t room)
{
    int64_t until = patience_ends();
    size_t len = 0;
    while (len < room) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until - loop_now(CLOCK_MONOTONIC);
        int ready = left > 0 ? poll(&p, 1, (int)(left / 1000000) + 1) : 0;
        if (ready == 0)
            return -ETIMEDOUT;
        ssize_t n = ready < 0 ? -1 : recv(fd, reply + len, room - len, MSG_DONTWAIT);
        if (n == 0)
            return -ECONNRESET;
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        char *end = n > 0 ? memchr(reply + len, '\n', (size_t)n) : NULL;
        if (end)
            return (int)(end - reply);
        len += n > 0 ? (size_t)n : 0;
    }
    return -EMSGSIZE;
}

/* What the VM at PATH says to COMMAND. */
static int print_answer(const char *path, const char *command, const char *reply, int len)
{
    struct answer r = {.desc = "it gives no reason"};
    static const struct json_field field[] = {
        {"return", JSON_OBJECT, offsetof(struct answer, good), sizeof(r.good)},
        {"error.desc", JSON_STRING, offsetof(struct answer, desc), sizeof(r.desc)},
    };
    if (json_read(field, ARRAY_SIZE(field), &r, reply, (size_t)len))
        log_error(path, "cannot do %s: the answer is not understood; is it a VM's socket?",
                  command);
    else if (!r.good)
        log_error(path, "cannot do %s: %s", command, r.desc);
    else if (printf("%.*s\n", len, reply) > 0 && !fflush(stdout))
        return STATUS_OFF;
    else
        log_error(path, "cannot print the answer: %s; %s was done", strerror(errno), command);
    return STATUS_START;
}

static int ask(const char *path, const char *command)
{
    char reply[REPLY_MAX];
    char text[64];
    int len = snprintf(text, sizeof(text), "{\"execute\":\"%s\"}\n", command);
    int fd = connect_to(path);
    int err = fd;
    if (fd >= 0) {
        err = send(fd, text, (size_t)len, MSG_NOSIGNAL) == len ? 0 : -errno;
        if (!err)
            err = receive(fd, reply, sizeof(reply));
        close(fd);
    }
    if (err >= 0)
        return print_answer(path, command, reply, err);
    log_error(path, "cannot ask the VM: %s; is this the path that its --control has?",
              strerror(-err));
    return STATUS_START;
}

int ctl_main(int argc, char *const *argv)
{
    if (argc == 2 && !strcmp(argv[1], "--help")) {
        printf("Usage: minivmm ctl PATH COMMAND\n\n"
               "Sends COMMAND to the VM that was started with --control PATH, and prints its\n"
               "answer, which is JSON. COMMAND is one of:\n\n"
               "  status      what the VM is, and whether it runs\n"
               "  pause       stops its processors; devices go on\n"
               "  resume      lets them run again\n"
               "  powerdown   presses the power button\n"
               "  reset       resets it, as its reset button\n"
               "  quit        ends it at once, with status 0\n"
               "  counters    exits, accesses of devices, interrupts, memory mapped for DMA\n\n"
               "Exit status: 0 it was done, 2 bad command line, 4 it could not be done.\n");
        return STATUS_OFF;
    }
    if (argc != 3) {
        log_error("ctl", "cannot tell what to do: %s; see minivmm ctl --help",
                  argc < 3 ? "no PATH and COMMAND given" : "too many arguments");
        return STATUS_USAGE;
    }
    size_t len = strlen(argv[2]);
    if (len == 0 || len > 31 || argv[2][strspn(argv[2], COMMAND_CHARS)]) {
        log_error("ctl", "cannot use '%s': not a command; see minivmm ctl --help", argv[2]);
        return STATUS_USAGE;
    }
    return ask(argv[1], argv[2]);
}
