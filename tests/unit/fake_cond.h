/*
 * fake_cond.h: tells that a thread has come as far as to wait for a condition, or for the end
 * of another: the linker puts this in place of pthread_cond_wait(), pthread_cond_timedwait(),
 * pthread_join() and pthread_clockjoin_np().
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Waits begun so far, by any thread; a mutex is still held when its wait is counted. */
extern atomic_uint fake_cond_waits;
/* With fake_clock_ns: a timed wait does not wait, it moves that clock to its end. */
extern atomic_bool fake_cond_hurry;

/* Returns when N waits have begun. */
void fake_cond_await(unsigned n);
