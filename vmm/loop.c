/*
 * loop.c: the event loop: epoll(7), and an eventfd that stops it.
 *
 * Only the loop's thread touches the list of sources; loop_stop() touches nothing but the
 * eventfd. A source removed while a batch of events is worked off may still be named in that
 * batch: it is only marked then (no function), and freed when the batch is done.
 */
#include "vmm/loop.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define LOOP_BATCH 16

struct source {
    struct source *next;
    int fd;
    loop_fn *fn; /* NULL: removed */
    void *opaque;
};

struct loop {
    int epoll_fd;
    int stop_fd; /* an eventfd; its events carry no source */
    struct source *sources;
};

int loop_create(struct loop **out)
{
    struct epoll_event event = {.events = EPOLLIN};
    struct loop *loop = calloc(1, sizeof(*loop));
    int err;

    if (!loop)
        return -ENOMEM;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        err = -errno;
        goto free_loop;
    }
    loop->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->stop_fd < 0) {
        err = -errno;
        goto close_epoll;
    }
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->stop_fd, &event) < 0) {
        err = -errno;
        goto close_stop;
    }
    *out = loop;
    return 0;

close_stop:
    close(loop->stop_fd);
close_epoll:
    close(loop->epoll_fd);
free_loop:
    free(loop);
    return err;
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
    close(loop->stop_fd);
    close(loop->epoll_fd);
    free(loop);
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *opaque)
{
    struct source *source = malloc(sizeof(*source));
    struct epoll_event event = {.events = events, .data.ptr = source};

    if (!source)
        return -ENOMEM;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        int err = -errno;

        free(source);
        return err;
    }
    *source = (struct source){.next = loop->sources, .fd = fd, .fn = fn, .opaque = opaque};
    loop->sources = source;
    return 0;
}

void loop_remove(struct loop *loop, int fd)
{
    for (struct source *source = loop->sources; source; source = source->next) {
        if (source->fd == fd) {
            epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
            source->fn = NULL;
            return;
        }
    }
}

static void loop_free_removed(struct loop *loop)
{
    struct source **link = &loop->sources;

    while (*link) {
        struct source *source = *link;

        if (source->fn) {
            link = &source->next;
        } else {
            *link = source->next;
            free(source);
        }
    }
}

int loop_run(struct loop *loop)
{
    struct epoll_event event[LOOP_BATCH];
    eventfd_t stops;
    bool stop = false;

    while (!stop) {
        int n = epoll_wait(loop->epoll_fd, event, LOOP_BATCH, -1);

        if (n < 0 && errno != EINTR)
            return -errno;
        for (int i = 0; i < n; i++) {
            const struct source *source = event[i].data.ptr;

            if (!source)
                stop = eventfd_read(loop->stop_fd, &stops) == 0;
            else if (source->fn)
                source->fn(source->opaque, event[i].events);
        }
        loop_free_removed(loop);
    }
    return 0;
}

void loop_stop(struct loop *loop)
{
    int saved_errno = errno; /* may run in a signal handler */

    eventfd_write(loop->stop_fd, 1);
    errno = saved_errno;
}
