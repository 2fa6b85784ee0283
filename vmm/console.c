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
 * from it, or the kernel stops it (SIGTTOU, SIGTTIN), and the guest with it. In the background
 * the console is deaf, and looks once a second whether it was brought to the foreground.
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
#include <sys/timerfd.h>
#include <termios.h>
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
    int wake_fd;  /* console_rx_ready() */
    int timer_fd; /* only in the background */

    bool file;     /* input is always ready and epoll does not take it: a file, /dev/null */
    bool watching; /* input is in the loop */
    bool ended;
    bool escape; /* the last byte was Ctrl-A */
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

/* With SIGTTOU blocked tcsetattr() goes through even if we lost the foreground just now. */
static void set_modes(int fd, const struct termios *modes)
{
    sigset_t ttou, old;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &old);
    tcsetattr(fd, TCSANOW, modes);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* In the background the terminal is the shell's, which has set its own modes already. */
static void restore_all(void)
{
    for (struct console *c = atomic_load(&raw_consoles); c; c = c->next) {
        if (!in_background(c->in_fd))
            set_modes(c->in_fd, &c->modes);
    }
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
    atexit(restore_all);
}

/*
 * Raw mode: every key goes to the guest. Output processing stays on, so that messages on
 * standard error still start at the left. Called again for every input: after a stop and a
 * return to the foreground the shell has changed the modes.
 */
static bool take_terminal(struct console *c)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct termios raw;

    if (in_background(c->in_fd))
        return false;
    if (!c->raw) {
        if (tcgetattr(c->in_fd, &c->modes) < 0)
            return true; /* no terminal: nothing to take */
        pthread_once(&once, install_restore);
        c->raw = true;
        c->next = atomic_load(&raw_consoles);
        atomic_store(&raw_consoles, c);
    }
    raw = c->modes;
    cfmakeraw(&raw);
    raw.c_oflag = c->modes.c_oflag;
    set_modes(c->in_fd, &raw);
    return true;
}

static void release_terminal(struct console *c)
{
    struct console *at = atomic_load(&raw_consoles);

    if (!c->raw)
        return;
    if (!in_background(c->in_fd))
        set_modes(c->in_fd, &c->modes);
    if (at == c) {
        atomic_store(&raw_consoles, c->next);
        return;
    }
    while (at->next != c)
        at = at->next;
    at->next = c->next;
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
    size_t taken;

    if (c->len == 0)
        return;
    taken = c->ops->receive(c->opaque, c->buffer + c->start, c->len);
    c->start += taken;
    c->len -= taken;
}

/* Reads once. SIGTTIN is blocked meanwhile: in the background read() fails instead. */
static ssize_t read_input(struct console *c, uint8_t *data, size_t room)
{
    sigset_t ttin, old;
    ssize_t n;
    int err;

    sigemptyset(&ttin);
    sigaddset(&ttin, SIGTTIN);
    pthread_sigmask(SIG_BLOCK, &ttin, &old);
    n = read(c->in_fd, data, room);
    err = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return n < 0 ? -err : n;
}

static void fill(struct console *c)
{
    ssize_t n;

    memmove(c->buffer, c->buffer + c->start, c->len);
    c->start = 0;
    n = read_input(c, c->buffer + c->len, sizeof(c->buffer) - c->len);
    if (n > 0)
        c->len += filter(c, c->buffer + c->len, (size_t)n);
    else if (n != -EAGAIN && n != -EINTR && !(n == -EIO && in_background(c->in_fd)))
        c->ended = true;
    deliver(c);
}

static void watch(struct console *c);

static void input_ready(void *opaque, uint32_t events)
{
    struct console *c = opaque;

    (void)events;
    if (take_terminal(c))
        fill(c);
    watch(c);
}

static void timer_expired(void *opaque, uint32_t events)
{
    struct console *c = opaque;

    (void)events;
    if (take_terminal(c)) {
        loop_remove(c->loop, c->timer_fd);
        close(c->timer_fd);
        c->timer_fd = -1;
    } else {
        uint64_t expirations;

        (void)!read(c->timer_fd, &expirations, sizeof(expirations));
    }
    watch(c);
}

static int wait_for_foreground(struct console *c)
{
    static const struct itimerspec every_second = {{.tv_sec = 1}, {.tv_sec = 1}};
    int err;

    c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (c->timer_fd < 0)
        return -errno;
    timerfd_settime(c->timer_fd, 0, &every_second, NULL);
    err = loop_add(c->loop, c->timer_fd, EPOLLIN, timer_expired, c);
    if (err) {
        close(c->timer_fd);
        c->timer_fd = -1;
    }
    return err;
}

/* Puts the input into the loop, or takes it out, as there is room for it and leave to read. */
static int try_watch(struct console *c)
{
    bool background = in_background(c->in_fd);
    bool wanted = !c->ended && !background && c->len < sizeof(c->buffer);
    int err = 0;

    if (background && !c->ended && c->timer_fd < 0)
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
    eventfd_t count;

    (void)events;
    eventfd_read(c->wake_fd, &count);
    deliver(c);
    if (c->file && !c->ended && c->len == 0) {
        fill(c);
        console_rx_ready(c);
    }
    watch(c);
}

void console_rx_ready(struct console *c)
{
    eventfd_write(c->wake_fd, 1);
}

/* ---- output ---- */

/*
 * Whether the reader of the output takes something now, or within a second when it has not
 * let us wait in vain before. All signals are blocked meanwhile: the kicks of a thread that
 * wants this vCPU to stop would start the wait anew each time.
 */
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
    int err = -ENOMEM;

    if (!c)
        goto report;
    *c = (struct console){.loop = loop,
                          .ops = ops,
                          .opaque = opaque,
                          .in_fd = in_fd,
                          .out_fd = out_fd,
                          .timer_fd = -1};
    signal(SIGPIPE, SIG_IGN);
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake_fd < 0) {
        err = -errno;
        goto free_console;
    }
    err = loop_add(loop, c->wake_fd, EPOLLIN, woken, c);
    if (err)
        goto close_wake;
    take_terminal(c);
    watch(c);
    *out = c;
    return 0;

close_wake:
    close(c->wake_fd);
free_console:
    free(c);
report:
    log_error("console", "cannot open console: %s; free some memory or descriptors",
              strerror(-err));
    return err;
}

void console_destroy(struct console *c)
{
    if (!c)
        return;
    if (c->watching)
        loop_remove(c->loop, c->in_fd);
    if (c->timer_fd >= 0) {
        loop_remove(c->loop, c->timer_fd);
        close(c->timer_fd);
    }
    loop_remove(c->loop, c->wake_fd);
    close(c->wake_fd);
    release_terminal(c);
    free(c);
}
