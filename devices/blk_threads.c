/*
 * blk_threads.c: blk_aio.h by a few threads that make the blocking calls, for kernels where
 * io_uring is missing or forbidden (kernel.io_uring_disabled, a container's filter).
 *
 * LOCK guards both lists; a thread holds it but for the call itself.
 */
#include "devices/blk_aio.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/util.h"

#define THREADS 4

struct threads {
    struct blk_aio aio;
    struct loop *loop;
    int ready_fd;
    pthread_t thread[THREADS];
    unsigned nr;

    pthread_mutex_t lock;
    pthread_cond_t more, less; /* work; work under way */
    bool stop;
    unsigned busy; /* queued or under way */
    struct blk_req *first, **last;
    struct blk_req *finished;
};

static struct threads *threads_of(struct blk_aio *aio)
{
    return container_of(aio, struct threads, aio);
}

static int64_t perform(const struct blk_req *req)
{
    int64_t n = -1;
    switch (req->op) {
    case BLK_READ:
        n = preadv(req->fd, req->iov, (int)req->nr, (off_t)req->offset);
        break;
    case BLK_WRITE:
        n = pwritev2(req->fd, req->iov, (int)req->nr, (off_t)req->offset, req->flags);
        break;
    case BLK_FLUSH:
        n = fdatasync(req->fd);
        break;
    case BLK_ALLOCATE:
        n = fallocate(req->fd, req->flags, (off_t)req->offset, (off_t)req->len);
        break;
    }
    return n < 0 ? -errno : n;
}

static void *work(void *opaque)
{
    struct threads *t = opaque;
    pthread_mutex_lock(&t->lock);
    for (;;) {
        struct blk_req *req = t->first;
        if (!req && t->stop)
            break;
        if (!req) {
            pthread_cond_wait(&t->more, &t->lock);
            continue;
        }
        t->first = req->next;
        if (!t->first)
            t->last = &t->first;
        pthread_mutex_unlock(&t->lock);
        req->result = perform(req);
        pthread_mutex_lock(&t->lock);
        req->next = t->finished;
        t->finished = req;
        t->busy--;
        eventfd_write(t->ready_fd, 1);
        pthread_cond_signal(&t->less);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void threads_queue(struct blk_aio *aio, struct blk_req *req)
{
    struct threads *t = threads_of(aio);
    pthread_mutex_lock(&t->lock);
    req->next = NULL;
    *t->last = req;
    t->last = &req->next;
    t->busy++;
    pthread_cond_signal(&t->more);
    pthread_mutex_unlock(&t->lock);
}

static void threads_submit(struct blk_aio *aio)
{
    (void)aio; /* it has begun */
}

static struct blk_req *threads_reap(struct blk_aio *aio)
{
    struct threads *t = threads_of(aio);
    pthread_mutex_lock(&t->lock);
    struct blk_req *req = t->finished;
    if (req)
        t->finished = req->next;
    pthread_mutex_unlock(&t->lock);
    return req;
}

static void threads_wait(struct blk_aio *aio)
{
    struct threads *t = threads_of(aio);
    pthread_mutex_lock(&t->lock);
    while (t->busy)
        pthread_cond_wait(&t->less, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static void threads_destroy(struct blk_aio *aio)
{
    struct threads *t = threads_of(aio);
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->more);
    pthread_mutex_unlock(&t->lock);
    while (t->nr)
        pthread_join(t->thread[--t->nr], NULL);
    loop_close(t->loop, t->ready_fd);
    pthread_cond_destroy(&t->more);
    pthread_cond_destroy(&t->less);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct blk_aio_ops threads_ops = {
    .queue = threads_queue,
    .submit = threads_submit,
    .reap = threads_reap,
    .wait = threads_wait,
    .destroy = threads_destroy,
};

int blk_threads_create(struct blk_aio **out, struct loop *loop, loop_fn *ready, void *opaque)
{
    struct threads *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->aio.ops = &threads_ops;
    t->loop = loop;
    t->last = &t->first;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->more, NULL);
    pthread_cond_init(&t->less, NULL);
    t->ready_fd = loop_add_eventfd(loop, ready, opaque);
    int err = MIN(t->ready_fd, 0);
    while (!err && t->nr < THREADS) {
        err = -pthread_create(&t->thread[t->nr], NULL, work, t);
        t->nr += !err;
    }
    if (err) {
        threads_destroy(&t->aio);
        return err;
    }
    *out = &t->aio;
    return 0;
}
