/*
 * fake_mem.h: the kernel's side of guest RAM: the linker puts this in place of memfd_create()
 * and madvise(). Huge pages are ordinary ones here, so that no machine has to reserve any.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

struct fake_mem {
    unsigned memfd_flags;  /* of the last memfd_create() */
    atomic_uint populated; /* calls with MADV_POPULATE_WRITE */
    atomic_uint bound;     /* those by threads that run on one CPU only */
    /* Those from the Nth on (1: the first) give this error; 0: none does. */
    unsigned fails_at;
    int fails_with;
    unsigned waits; /* each first waits until so many waits of others have begun: fake_cond.h */
};

extern struct fake_mem fake_mem;
