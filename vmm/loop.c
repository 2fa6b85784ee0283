/*
 * loop.c: the event loop: epoll(7), and an eventfd that stops it.
 *
 * Only the loop's thread touches the list of sources; loop_stop() touches nothing but the
 * eventfd. A source removed while a batch of events is worked off may still be named in that
 * batch: an event names it by a number that is never used again, and is nobody's then.
 */
#include "vmm/loop.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "vmm/util.h"

#define LOOP_BATCH 16

struct source {
    struct source *next;
    uint64_t number;
    int fd;
    bool counter; /* an eventfd or a timerfd: its count is taken before the call */
    loop_fn *fn;
    void *opaque;
};

struct loop {
    int epoll_fd;
    int stop_fd; /* an eventfd */
    bool stop;
    struct source *sources;
    uint64_t added; /* sources so far */
};

static int add(struct loop *loop, int fd, uint32_t events, bool counter, loop_fn *fn,
               void *opaque)
{
    struct source *source = malloc(sizeof(*source));
    struct epoll_event event = {.events = events, .data.u64 = ++loop->added};
    if (!source)
        return -ENOMEM;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int err = -errno;
        free(source);
        return err;
    }
    *source = (struct source){loop->sources, loop->added, fd, counter, fn, opaque};
    loop->sources = source;
    return 0;
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *opaque)
{
    return add(loop, fd, events, false, fn, opaque);
}

/* FD was just made, or could not be (errno). */
static int add_counter(struct loop *loop, int fd, loop_fn *fn, void *opaque)
{
    if (fd < 0)
        return -errno;
    int err = add(loop, fd, EPOLLIN, true, fn, opaque);
    if (!err)
        return fd;
    close(fd);
    return err;
}

int loop_add_eventfd(struct loop *loop, loop_fn *fn, void *opaque)
{
    return add_counter(loop, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), fn, opaque);
}

int loop_add_timer(struct loop *loop, int clock, loop_fn *fn, void *opaque)
{
    return add_counter(loop, timerfd_create(clock, TFD_CLOEXEC | TFD_NONBLOCK), fn, opaque);
}

int64_t loop_now(int clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

void loop_timer_set(int timer, int64_t ns)
{
    struct itimerspec at = {0}; /* off */
    if (ns != LOOP_NEVER)
        at.it_value = (struct timespec){ns / NS_PER_S, ns % NS_PER_S};
    timerfd_settime(timer, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &at, NULL);
}

void loop_remove(struct loop *loop, int fd)
{
    for (struct source **link = &loop->sources; *link; link = &(*link)->next) {
        struct source *source = *link;
        if (source->fd == fd) {
            epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
            *link = source->next;
            free(source);
            return;
        }
    }
}

void loop_close(struct loop *loop, int fd)
{
    if (fd < 0)
        return;
    loop_remove(loop, fd);
    close(fd);
}

static void stopped(void *opaque, uint32_t events)
{
    struct loop *loop = opaque;
    (void)events;
    loop->stop = true;
}

int loop_create(struct loop **out)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return -ENOMEM;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->stop_fd = loop->epoll_fd < 0 ? -errno : loop_add_eventfd(loop, stopped, loop);
    if (loop->stop_fd < 0) {
        int err = loop->stop_fd;
        loop_destroy(loop);
        return err;
    }
    *out = loop;
    return 0;
}

void loop_destroy(struct loop *loop)
{
    if (!loop)
        return;
    while (loop->sources) {
        struct source *source = loop->sources;
        loop->sources = source->next;
        free(source);
    }
    if (loop->stop_fd >= 0)
        close(loop->stop_fd);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    free(loop);
}

/* Its flags are of no use: an eventfd is shared with whoever signals it, and a vhost-user
 * server can take the count away and O_NONBLOCK, too. A timer, which Linux 6.1 cannot read so,
 * is ours. */
static void take_count(int fd)
{
    uint64_t count;
    const struct iovec iov = {&count, sizeof(count)};
    if (preadv2(fd, &iov, 1, -1, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP)
        (void)!read(fd, &count, sizeof(count)); /* may be 0 again by now */
}

static void dispatch(struct loop *loop, const struct epoll_event *event)
{
    const struct source *source = loop->sources;
    while (source && source->number != event->data.u64)
        source = source->next;
    if (!source)
        return;
    if (source->counter)
        take_count(source->fd);
    source->fn(source->opaque, event->events);
}

int loop_run(struct loop *loop)
{
    struct epoll_event event[LOOP_BATCH];
    loop->stop = false;
    while (!loop->stop) {
        int n = epoll_wait(loop->epoll_fd, event, LOOP_BATCH, -1);
        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++)
            dispatch(loop, &event[i]);
    }
    return 0;
}

void loop_stop(struct loop *loop)
{
    int saved_errno = errno; /* may run in a signal handler */
    eventfd_write(loop->stop_fd, 1);
    errno = saved_errno;
}
