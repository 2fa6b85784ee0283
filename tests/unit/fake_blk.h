/*
 * fake_blk.h: the system calls below a disk, as they are but for what a test asks for. One test
 * is one process, so the one instance is each test's own.
 */
#pragma once

struct fake_blk {
    int setup_errno;       /* io_uring_setup() fails: threads are used */
    int enter_errno;       /* io_uring_enter() does */
    unsigned enter_by_one; /* 1: it takes one request, then fails with EAGAIN, and so on */
    int fallocate_errno;   /* by threads */
    unsigned short_max;    /* preadv(), pwritev2() do no more at a time; 0: all */
    unsigned slow_ms;      /* preadv() takes this long */
    /* by threads */
    _Atomic unsigned syncs, dsyncs; /* fdatasync(), pwritev2() with RWF_DSYNC */
};

extern struct fake_blk fake_blk;
