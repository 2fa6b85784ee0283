/*
 * console.c: the guest's serial line on the user's terminal: termios(3), job control
 * (POSIX.1-2017, base definitions, 11.1.4 "Terminal Access Control").
 *
 * Input is read in the loop's thread into a bounded buffer, from which the guest takes it at
 * its own pace; when the buffer is full, nothing is read. It holds more than a person types at
 * a guest that hangs, so that Ctrl-A x is still seen then. Output is written by vCPU threads,
 * and touches nothing that the loop's thread uses.
 *
 * Job control: a process of the background must neither change the terminal's modes nor read
 * from it. In the background the console is deaf, and looks once a second whether it was
 * brought to the foreground. The kernel would stop a process that was sent to the background
 * just now (SIGTTOU, SIGTTIN), and the guest with it: those signals are ignored.
 *
 * One global: the list of terminals in raw mode. A handler of fatal signals, and atexit(), can
 * be given no argument, and a terminal left raw is a terminal lost to most users.
 */
#include "vmm/console.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define CONSOLE_ESCAPE       0x01 /* Ctrl-A */
#define CONSOLE_BUFFER       4096
#define CONSOLE_WRITE_WAIT_S 1

struct console {
    struct loop *loop;
    const struct console_ops *ops;
    void *opaque;
    int in_fd, out_fd;
    int wake;  /* console_rx_ready() */
    int timer; /* only in the background, else -1 */

    bool file;     /* input is always ready and epoll does not take it: a file, /dev/null */
    bool watching; /* input is in the loop */
    bool ended;
    bool background; /* when take_terminal() looked last */
    bool escape;     /* the last byte was Ctrl-A */
    size_t start, len;
    uint8_t buffer[CONSOLE_BUFFER]; /* input that the guest has not taken */

    bool stalled; /* console_write(): the reader had its time */

    bool raw; /* in the list below, and MODES is what the terminal gets back */
    struct termios modes;
    struct console *next;
};

static struct console *_Atomic raw_consoles;

/* ---- terminal modes ---- */

/* A terminal that is not our controlling one has no job control for us. */
static bool in_background(int fd)
{
    pid_t foreground = tcgetpgrp(fd);
    return foreground > 0 && foreground != getpgrp();
}

/* In the background the terminal is the shell's, which has set its own modes already. */
static void restore(const struct console *c)
{
    if (!in_background(c->in_fd))
        tcsetattr(c->in_fd, TCSANOW, &c->modes);
}

static void restore_all(void)
{
    for (struct console *c = atomic_load(&raw_consoles); c; c = c->next)
        restore(c);
}

/* The default action, back in force by SA_RESETHAND, follows when the handler returns. */
static void fatal_signal(int sig)
{
    restore_all();
    raise(sig);
}

static void install_restore(void)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGQUIT};
    struct sigaction action = {.sa_handler = fatal_signal, .sa_flags = SA_RESETHAND}, old;
    sigfillset(&action.sa_mask);
    for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
        /* A sanitizer's own handler stays. */
        if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(fatal[i], &action, NULL);
    }
    signal(SIGTTIN, SIG_IGN);
    signal(SIGTTOU, SIG_IGN);
    atexit(restore_all);
}

/* Raw mode: every key goes to the guest. Output processing stays on, so that messages on
 * standard error still start at the left. Called again for every input: after a stop and a
 * return to the foreground the shell has changed the modes. */
static void take_terminal(struct console *c)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    c->background = in_background(c->in_fd);
    if (c->background)
        return;
    if (!c->raw) {
        if (tcgetattr(c->in_fd, &c->modes) < 0)
            return; /* no terminal: nothing to take */
        pthread_once(&once, install_restore);
        c->raw = true;
        c->next = atomic_load(&raw_consoles);
        atomic_store(&raw_consoles, c);
    }
    struct termios raw = c->modes;
    cfmakeraw(&raw);
    raw.c_oflag = c->modes.c_oflag;
    tcsetattr(c->in_fd, TCSANOW, &raw);
}

static void release_terminal(struct console *c)
{
    struct console *before = atomic_load(&raw_consoles);
    if (!c->raw)
        return;
    restore(c);
    if (before == c) {
        atomic_store(&raw_consoles, c->next);
        return;
    }
    while (before->next != c)
        before = before->next;
    before->next = c->next;
}

/* ---- input ---- */

/* Takes the escape key and what follows it out of LEN bytes; returns how many are left. */
static size_t filter(struct console *c, uint8_t *data, size_t len)
{
    size_t kept = 0;
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = data[i];
        if (!c->escape && byte != CONSOLE_ESCAPE)
            data[kept++] = byte;
        else if (!c->escape)
            c->escape = true;
        else {
            c->escape = false;
            if (byte == CONSOLE_ESCAPE)
                data[kept++] = byte;
            else if (byte == 'x')
                c->ops->quit(c->opaque);
            else if (byte == 'h')
                log_note(NULL, "Ctrl-A x quits, Ctrl-A Ctrl-A sends Ctrl-A, "
                               "Ctrl-A h prints this");
        }
    }
    return kept;
}

static void deliver(struct console *c)
{
    if (c->len == 0)
        return;
    size_t taken = c->ops->receive(c->opaque, c->buffer + c->start, c->len);
    c->start += taken;
    c->len -= taken;
}

static void fill(struct console *c)
{
    memmove(c->buffer, c->buffer + c->start, c->len);
    c->start = 0;
    ssize_t n = read(c->in_fd, c->buffer + c->len, sizeof(c->buffer) - c->len);
    bool later = n < 0 && (errno == EAGAIN || errno == EINTR ||
                           (errno == EIO && in_background(c->in_fd)));
    if (n > 0)
        c->len += filter(c, c->buffer + c->len, (size_t)n);
    else
        c->ended = !later;
    deliver(c);
}

static void watch(struct console *c);

static void input_ready(void *opaque, uint32_t events)
{
    struct console *c = opaque;
    (void)events;
    take_terminal(c);
    if (!c->background)
        fill(c);
    watch(c);
}

static void timer_expired(void *opaque, uint32_t events)
{
    struct console *c = opaque;
    (void)events;
    loop_close(c->loop, c->timer);
    c->timer = -1;
    take_terminal(c);
    watch(c);
}

static int wait_for_foreground(struct console *c)
{
    if (c->timer >= 0)
        return 0;
    c->timer = loop_add_timer(c->loop, CLOCK_MONOTONIC, timer_expired, c);
    if (c->timer < 0)
        return c->timer;
    loop_timer_set(c->timer, loop_now(CLOCK_MONOTONIC) + NS_PER_S);
    return 0;
}

/* Puts the input into the loop, or takes it out, as there is room for it and leave to read. */
static int try_watch(struct console *c)
{
    bool wanted = !c->ended && !c->background && c->len < sizeof(c->buffer);
    int err = 0;
    if (c->background && !c->ended)
        err = wait_for_foreground(c);
    if (err || c->file || wanted == c->watching)
        return err;
    if (wanted)
        err = loop_add(c->loop, c->in_fd, EPOLLIN, input_ready, c);
    else
        loop_remove(c->loop, c->in_fd);
    if (err == -EPERM) {
        c->file = true;
        console_rx_ready(c);
        return 0;
    }
    c->watching = wanted && !err;
    return err;
}

static void watch(struct console *c)
{
    int err = try_watch(c);
    if (err) {
        c->ended = true;
        log_error("console", "cannot wait for input: %s; the guest goes on without it",
                  strerror(-err));
    }
}

/* The guest has room; a file is read here, as fast as the guest takes it. */
static void woken(void *opaque, uint32_t events)
{
    struct console *c = opaque;
    (void)events;
    deliver(c);
    if (c->file && !c->ended && c->len == 0) {
        fill(c);
        console_rx_ready(c);
    }
    watch(c);
}

void console_rx_ready(struct console *c)
{
    eventfd_write(c->wake, 1);
}

/* ---- output ---- */

/* Whether the reader of the output takes something now, or within a second when it has not
 * let us wait in vain before. All signals are blocked meanwhile: the kicks of a thread that
 * wants this vCPU to stop would start the wait anew each time. */
static bool wait_writable(struct console *c)
{
    struct timespec wait = {.tv_sec = c->stalled ? 0 : CONSOLE_WRITE_WAIT_S};
    struct pollfd out = {.fd = c->out_fd, .events = POLLOUT};
    sigset_t all;
    sigfillset(&all);
    c->stalled = ppoll(&out, 1, &wait, &all) <= 0;
    return !c->stalled;
}

void console_write(struct console *c, const uint8_t *data, size_t len)
{
    /* Byte by byte: a terminal or pipe that has room for one byte may not have it for two. */
    while (len > 0 && wait_writable(c)) {
        if (write(c->out_fd, data, 1) == 1) {
            data++;
            len--;
        } else if (errno != EINTR) {
            return;
        }
    }
}

/* ---- life ---- */

int console_create(struct console **out, struct loop *loop, int in_fd, int out_fd,
                   const struct console_ops *ops, void *opaque)
{
    struct console *c = calloc(1, sizeof(*c));
    int wake = c ? loop_add_eventfd(loop, woken, c) : -ENOMEM;
    if (wake < 0) {
        log_error("console", "cannot open console: %s; free some memory or descriptors",
                  strerror(-wake));
        free(c);
        return wake;
    }
    *c = (struct console){.loop = loop,
                          .ops = ops,
                          .opaque = opaque,
                          .in_fd = in_fd,
                          .out_fd = out_fd,
                          .wake = wake,
                          .timer = -1};
    signal(SIGPIPE, SIG_IGN);
    take_terminal(c);
    watch(c);
    *out = c;
    return 0;
}

void console_destroy(struct console *c)
{
    if (!c)
        return;
    if (c->watching)
        loop_remove(c->loop, c->in_fd);
    loop_close(c->loop, c->timer);
    loop_close(c->loop, c->wake);
    release_terminal(c);
    free(c);
}
