/*
 * mem_populate.c: every page of guest RAM taken before the guest starts, by several threads.
 *
 * For a passed-through device the kernel pins all of RAM, page by page and in one thread; what
 * it then finds in place costs it a look instead of the clearing of a page. MADV_POPULATE_WRITE
 * (madvise(2), Linux 5.14) reports what a touch would make a SIGBUS. Before, fallocate(2) does,
 * without the page tables.
 *
 * Where a page comes from is RAM's policy (bind_node()), whoever touches it. The threads run on
 * the node's CPUs all the same: from elsewhere, clearing it goes over the link between nodes.
 *
 * Called by the main thread, which waits and reports; the threads are gone at return.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "vmm/cpu_list.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define THREADS_MAX 8          /* more wait for the same memory */
#define STEP        (64 * MIB) /* or one page: some hundredths of a second */
#define QUIET_NS    (2 * NS_PER_S)
#define REPORT_NS   NS_PER_S

struct populate {
    const struct mem *mem;
    uint64_t step;
    atomic_ullong next; /* offset of the first byte that no thread has taken on */
    atomic_ullong done; /* bytes */
    atomic_int err;     /* the first one */
};

static int take(const struct populate *p, uint64_t offset, uint64_t len)
{
    if (!madvise(p->mem->region[0].hva + offset, len, MADV_POPULATE_WRITE))
        return 0;
    if (errno == EINVAL) /* before 5.14 */
        return fallocate(p->mem->fd, 0, (off_t)offset, (off_t)len) ? -errno : 0;
    /* What would be a SIGBUS: no page is left of those that may be taken. */
    return errno == EFAULT ? -ENOMEM : -errno;
}

static void populate(struct populate *p)
{
    uint64_t offset;
    while ((offset = atomic_fetch_add(&p->next, p->step)) < p->mem->size) {
        uint64_t len = MIN(p->step, p->mem->size - offset);
        int err = take(p, offset, len), none = 0;
        if (!err) {
            p->done += len;
            continue;
        }
        atomic_compare_exchange_strong(&p->err, &none, err);
        p->next = p->mem->size; /* no other begins anything */
    }
}

static void *populate_thread(void *opaque)
{
    struct populate *p = opaque;
    const struct cpu_list *near = p->mem->backing.near;
    if (near && near->nr)
        cpu_list_bind(near, -1, pthread_self()); /* a wish */
    populate(p);
    return NULL;
}

/* Until the threads have ended; says how far they are, no more often than once a second. */
static void wait_and_report(struct populate *p, const pthread_t *thread, unsigned nr)
{
    struct log_progress progress = {0};
    int64_t next = loop_now(CLOCK_MONOTONIC) + QUIET_NS;
    while (nr > 0) {
        const struct timespec end = {.tv_sec = next / NS_PER_S, .tv_nsec = next % NS_PER_S};
        if (pthread_clockjoin_np(thread[nr - 1], NULL, CLOCK_MONOTONIC, &end) != ETIMEDOUT) {
            nr--;
            continue;
        }
        log_progress(&progress, "--memory", "preparing RAM: %llu of %llu MiB", p->done / MIB,
                     p->mem->size / MIB);
        next = loop_now(CLOCK_MONOTONIC) + REPORT_NS;
    }
}

static unsigned threads_for(const struct populate *p)
{
    const struct cpu_list *near = p->mem->backing.near;
    long cpus = near && near->nr ? (long)near->nr : sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t steps = (p->mem->size + p->step - 1) / p->step;
    return (unsigned)MIN(steps, (uint64_t)MIN(MAX(cpus, 1), THREADS_MAX));
}

int mem_populate(const struct mem *mem)
{
    struct populate p = {.mem = mem, .step = MAX(mem->backing.huge, STEP)};
    pthread_t thread[THREADS_MAX];
    unsigned nr = threads_for(&p), started = 0;
    while (started < nr && !pthread_create(&thread[started], NULL, populate_thread, &p))
        started++;
    if (!started) /* fewer will do, and none as well */
        populate(&p);
    wait_and_report(&p, thread, started);
    if (p.err)
        log_error("--memory",
                  "cannot get all of RAM: %s after %llu of %llu MiB; give less, or free %s",
                  strerror(-p.err), p.done / MIB, mem->size / MIB,
                  mem->backing.huge ? "huge pages" : "memory");
    return p.err;
}
