/*
 * fake_cond.c: see fake_cond.h.
 */
#include "tests/unit/fake_cond.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "tests/unit/fake_clock.h"
#include "vmm/util.h"

int __real_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock);
int __real_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *end);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *end);
int __real_pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock,
                                const struct timespec *end);
int __wrap_pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock,
                                const struct timespec *end);
int __real_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_join(pthread_t thread, void **result);

atomic_uint fake_cond_waits;
atomic_bool fake_cond_hurry;

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *lock)
{
    fake_cond_waits++;
    return __real_pthread_cond_wait(cond, lock);
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *lock,
                                  const struct timespec *end)
{
    fake_cond_waits++;
    if (!fake_cond_hurry || !fake_clock_ns)
        return __real_pthread_cond_timedwait(cond, lock, end);
    *fake_clock_ns = end->tv_sec * NS_PER_S + end->tv_nsec;
    return ETIMEDOUT;
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
    fake_cond_waits++;
    return __real_pthread_join(thread, result);
}

int __wrap_pthread_clockjoin_np(pthread_t thread, void **result, clockid_t clock,
                                const struct timespec *end)
{
    fake_cond_waits++;
    if (!fake_cond_hurry || !fake_clock_ns)
        return __real_pthread_clockjoin_np(thread, result, clock, end);
    if (!pthread_tryjoin_np(thread, result))
        return 0;
    *fake_clock_ns = end->tv_sec * NS_PER_S + end->tv_nsec;
    return ETIMEDOUT;
}

void fake_cond_await(unsigned n)
{
    while (fake_cond_waits < n)
        sched_yield();
}
