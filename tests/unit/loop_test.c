/* loop_test.c: dispatch, removal inside a batch, stopping from everywhere. */
#include "vmm/loop.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct peer {
    struct loop *loop;
    int fd;
    struct peer *other; /* removed by the handler */
    struct peer *again; /* added in the handler after OTHER went */
    unsigned calls;
    uint32_t events;
};

static void on_event(void *opaque, uint32_t events)
{
    struct peer *p = opaque;
    eventfd_t value;

    eventfd_read(p->fd, &value);
    p->calls++;
    p->events = events;
    if (p->other)
        loop_remove(p->loop, p->other->fd);
    if (p->again) {
        eventfd_read(p->again->fd, &value); /* what comes now is of the past */
        cr_assert_eq(loop_add(p->loop, p->again->fd, EPOLLIN, on_event, p->again), 0);
    }
    loop_stop(p->loop);
}

static struct loop *loop;

static void setup(void)
{
    cr_assert_eq(loop_create(&loop), 0);
}

static void teardown(void)
{
    loop_destroy(loop);
}

TestSuite(loop, .init = setup, .fini = teardown);

static struct peer peer_new(void)
{
    return (struct peer){.loop = loop, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
}

static void run_once(void)
{
    loop_stop(loop);
    cr_assert_eq(loop_run(loop), 0);
}

Test(loop, destroy_takes_null)
{
    loop_destroy(NULL);
}

/* One bit for each open descriptor below 64. */
static uint64_t open_descriptors(uint64_t *inherited)
{
    uint64_t open = 0;

    *inherited = 0;
    for (int fd = 0; fd < 64; fd++) {
        int flags = fcntl(fd, F_GETFD);

        if (flags >= 0)
            open |= 1ULL << fd;
        if (flags >= 0 && !(flags & FD_CLOEXEC))
            *inherited |= 1ULL << fd;
    }
    return open;
}

Test(loop, descriptors_are_closed_and_not_inherited)
{
    uint64_t inherited_before, inherited, before = open_descriptors(&inherited_before);
    struct loop *second;

    cr_assert_eq(loop_create(&second), 0);
    cr_expect_neq(open_descriptors(&inherited), before);
    cr_expect_eq(inherited, inherited_before);
    loop_destroy(second);
    cr_expect_eq(open_descriptors(&inherited), before);
}

Test(loop, calls_with_the_events)
{
    struct peer p = peer_new();

    cr_assert_eq(loop_add(loop, p.fd, EPOLLIN, on_event, &p), 0);
    run_once();
    cr_expect_eq(p.calls, 0);
    eventfd_write(p.fd, 1);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(p.calls, 1);
    cr_expect_eq(p.events, EPOLLIN);
}

Test(loop, errors_of_add)
{
    struct peer p = peer_new();
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    cr_expect_eq(loop_add(loop, -1, EPOLLIN, on_event, &p), -EBADF);
    cr_expect_eq(loop_add(loop, null, EPOLLIN, on_event, &p), -EPERM);
    cr_expect_eq(loop_add(loop, p.fd, EPOLLIN, on_event, &p), 0);
    cr_expect_eq(loop_add(loop, p.fd, EPOLLIN, on_event, &p), -EEXIST);
    loop_remove(loop, p.fd);
    loop_remove(loop, p.fd);
    loop_remove(loop, 12345);
    cr_expect_eq(loop_add(loop, p.fd, EPOLLIN, on_event, &p), 0);
}

/* Both are ready in one batch; whichever comes first removes the other. */
Test(loop, removed_source_is_not_called_from_the_same_batch)
{
    struct peer a = peer_new(), b = peer_new();

    a.other = &b;
    b.other = &a;
    cr_assert_eq(loop_add(loop, a.fd, EPOLLIN, on_event, &a), 0);
    cr_assert_eq(loop_add(loop, b.fd, EPOLLIN, on_event, &b), 0);
    eventfd_write(a.fd, 1);
    eventfd_write(b.fd, 1);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(a.calls + b.calls, 1);
    run_once();
    cr_expect_eq(a.calls + b.calls, 1);
}

/* The number of a removed descriptor is given to a new source while its old event waits. */
Test(loop, reused_descriptor_does_not_get_the_old_event)
{
    struct peer a = peer_new(), b = peer_new(), fresh = peer_new();
    struct peer a_again = fresh, b_again = fresh;

    a.other = &b;
    b.other = &a;
    a_again.fd = b.fd; /* b's descriptor, another source */
    b_again.fd = a.fd;
    a.again = &a_again;
    b.again = &b_again;
    cr_assert_eq(loop_add(loop, a.fd, EPOLLIN, on_event, &a), 0);
    cr_assert_eq(loop_add(loop, b.fd, EPOLLIN, on_event, &b), 0);
    eventfd_write(a.fd, 1);
    eventfd_write(b.fd, 1);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(a.calls + b.calls, 1);
    cr_expect_eq(a_again.calls + b_again.calls, 0);
    run_once();
    cr_expect_eq(a_again.calls + b_again.calls, 0);
    eventfd_write(a.calls ? a_again.fd : b_again.fd, 1);
    run_once();
    cr_expect_eq(a_again.calls + b_again.calls, 1);
}

static void remove_self(void *opaque, uint32_t events)
{
    struct peer *p = opaque;

    (void)events;
    p->calls++;
    loop_remove(p->loop, p->fd);
    loop_stop(p->loop);
}

Test(loop, source_may_remove_itself)
{
    struct peer p = peer_new();

    cr_assert_eq(loop_add(loop, p.fd, EPOLLIN, remove_self, &p), 0);
    eventfd_write(p.fd, 1); /* stays readable */
    cr_assert_eq(loop_run(loop), 0);
    run_once();
    cr_expect_eq(p.calls, 1);
}

/* More sources than a batch holds: none is forgotten. */
Test(loop, more_than_a_batch)
{
    struct peer p[40];
    unsigned calls = 0;

    for (int i = 0; i < 40; i++) {
        p[i] = peer_new();
        cr_assert_eq(loop_add(loop, p[i].fd, EPOLLIN, on_event, &p[i]), 0);
        eventfd_write(p[i].fd, 1);
    }
    for (int i = 0; i < 10; i++)
        run_once();
    for (int i = 0; i < 40; i++)
        calls += p[i].calls;
    cr_expect_eq(calls, 40);
}

static void pass_on(void *opaque, uint32_t events)
{
    const struct peer *p = opaque;

    (void)events;
    eventfd_write(p->fd, 1);
}

Test(loop, stop_before_run_ends_one_run)
{
    struct peer p = peer_new();
    int first = eventfd(0, EFD_CLOEXEC);

    loop_stop(loop);
    loop_stop(loop);
    cr_assert_eq(loop_run(loop), 0);
    /* The stops are used up: this run goes on until the second event. */
    cr_assert_eq(loop_add(loop, p.fd, EPOLLIN, on_event, &p), 0);
    cr_assert_eq(loop_add(loop, first, EPOLLIN, pass_on, &p), 0);
    eventfd_write(first, 1);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(p.calls, 1);
}

static void *stopper(void *opaque)
{
    loop_stop(opaque);
    return NULL;
}

Test(loop, stop_from_a_thread)
{
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, stopper, loop), 0);
    cr_expect_eq(loop_run(loop), 0);
    pthread_join(thread, NULL);
}

static void on_signal(int sig)
{
    (void)sig;
    errno = ERANGE;
    loop_stop(loop);
    if (errno != ERANGE)
        _exit(99);
}

static void *signaller(void *opaque)
{
    pthread_kill(*(pthread_t *)opaque, SIGUSR1);
    return NULL;
}

Test(loop, stop_from_a_signal_handler)
{
    struct sigaction action = {.sa_handler = on_signal};
    pthread_t thread, self = pthread_self();

    sigaction(SIGUSR1, &action, NULL);
    cr_assert_eq(pthread_create(&thread, NULL, signaller, &self), 0);
    cr_expect_eq(loop_run(loop), 0);
    pthread_join(thread, NULL);
}

Test(loop, two_loops_are_apart)
{
    struct loop *other;
    struct peer p = peer_new();

    cr_assert_eq(loop_create(&other), 0);
    loop_stop(other);
    cr_assert_eq(loop_add(loop, p.fd, EPOLLIN, on_event, &p), 0);
    eventfd_write(p.fd, 1);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(p.calls, 1);
    cr_expect_eq(loop_run(other), 0);
    loop_destroy(other);
}
