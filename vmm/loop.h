/*
 * loop.h: the main thread's event loop (epoll). vCPU threads run the guest; everything that
 * waits for the outside (the terminal, signals, a device's error interrupts, timers) waits
 * here.
 */
#pragma once

#include <stdint.h>

#define LOOP_NEVER INT64_MAX

struct loop;
typedef void loop_fn(void *opaque, uint32_t events);

int loop_create(struct loop **out);
void loop_destroy(struct loop *loop); /* NULL is fine; descriptors added stay their owners' */

/* Calls FN(OPAQUE, events) in the loop's thread when FD has any of EVENTS (EPOLLIN, ...).
 * Add and remove from the loop's thread only (or before it runs). A source that is removed is
 * not called again, not even for an event already fetched. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_fn *fn, void *opaque);
void loop_remove(struct loop *loop, int fd);

/* The same for a descriptor made here, whose count is taken before FN is called: an eventfd, or
 * a timer of CLOCK. Return it, or a negative errno; loop_close() takes it back. */
int loop_add_eventfd(struct loop *loop, loop_fn *fn, void *opaque);
int loop_add_timer(struct loop *loop, int clock, loop_fn *fn, void *opaque);
void loop_close(struct loop *loop, int fd); /* what is negative is ignored */
/* TIMER fires when its clock shows NS, once, and whenever that clock is set. Any thread. */
void loop_timer_set(int timer, int64_t ns);
/* What CLOCK shows, in nanoseconds. */
int64_t loop_now(int clock);

/* Runs until loop_stop(); returns at once when that was called since the last return (one
 * return answers all stops so far; a stop that comes later ends the next run). Any thread may
 * stop it, also a signal handler. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
