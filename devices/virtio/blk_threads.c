/*
 * blk_threads.c: blk_aio.h by a few threads that make the blocking calls, for kernels where
 * io_uring is missing or forbidden (kernel.io_uring_disabled, a container's filter).
 *
 * LOCK guards both lists; a thread holds it but for the call itself. The eventfd's count is not
 * taken by the loop: it might be gone before who waits for it (blk_file_wait()) has looked.
 */
#include "devices/virtio/blk_aio.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vmm/util.h"

#define THREADS 4

struct threads {
    struct blk_aio aio; /* its fd is an eventfd, written and read under LOCK */
    pthread_t thread[THREADS];
    unsigned nr;

    pthread_mutex_t lock;
    pthread_cond_t more;
    bool stop;
    struct blk_req *first, **last;
    struct blk_req *finished;
};

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
        eventfd_write(t->aio.fd, 1);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void threads_queue(struct blk_aio *aio, struct blk_req *req)
{
    struct threads *t = container_of(aio, struct threads, aio);
    pthread_mutex_lock(&t->lock);
    req->next = NULL;
    *t->last = req;
    t->last = &req->next;
    pthread_cond_signal(&t->more);
    pthread_mutex_unlock(&t->lock);
}

static struct blk_req *threads_reap(struct blk_aio *aio)
{
    struct threads *t = container_of(aio, struct threads, aio);
    eventfd_t count;
    pthread_mutex_lock(&t->lock);
    struct blk_req *req = t->finished;
    if (req)
        t->finished = req->next;
    else /* all that it counts has been reaped */
        eventfd_read(t->aio.fd, &count);
    pthread_mutex_unlock(&t->lock);
    return req;
}

static void threads_destroy(struct blk_aio *aio)
{
    struct threads *t = container_of(aio, struct threads, aio);
    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_broadcast(&t->more);
    pthread_mutex_unlock(&t->lock);
    while (t->nr)
        pthread_join(t->thread[--t->nr], NULL);
    loop_close(aio->loop, aio->fd);
    pthread_cond_destroy(&t->more);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static const struct blk_aio_ops threads_ops = {
    .queue = threads_queue,
    .reap = threads_reap,
    .destroy = threads_destroy,
};

int blk_threads_create(struct blk_aio **out, struct loop *loop, loop_fn *ready, void *opaque)
{
    struct threads *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->last = &t->first;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->more, NULL);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = fd < 0 ? -errno : loop_add(loop, fd, EPOLLIN, ready, opaque);
    t->aio = (struct blk_aio){&threads_ops, loop, fd};
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
