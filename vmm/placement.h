/*
 * placement.h: where guest RAM and vCPUs are on the host, by --hugepages, --numa, pin= and the
 * devices. Main thread, before RAM is taken.
 */
#pragma once

#include "vmm/cpu_list.h"
#include "vmm/mem.h"

struct options;

struct placement {
    struct mem_backing memory;
    struct cpu_list near;        /* the node's CPUs; none: any */
    const struct cpu_list *cpus; /* for the vCPUs' threads: NEAR, or the user's own */
    bool pin;                    /* vCPU n has the nth of them, and no other */
};

/* Huge pages are counted here, so that too few are told with how many are missing and how they
 * are reserved, and RLIMIT_MEMLOCK is looked at: both before any RAM is waited for. OUT points
 * to parts of OPTIONS and of itself. Logs its own errors. */
int placement_find(const struct options *options, struct placement *out);
