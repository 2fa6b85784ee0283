/*
 * cpu_list.h: some of the host's CPUs, and threads that run on them only.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>

#define CPU_LIST_MAX 8192 /* as many as Linux can have */

struct cpu_list {
    unsigned nr; /* 0: none */
    uint16_t cpu[CPU_LIST_MAX];
};

/* Numbers and ranges in any order, with ':' (a user's, inside of suboptions) or ',' (the
 * kernel's) in between: 2-5:8. "" is no CPU. -EINVAL: not a list, or too long. */
int cpu_list_parse(const char *text, struct cpu_list *out);

/* THREAD runs on the Nth CPU of LIST, or for a negative N on any of them. -EINVAL: there is no
 * such CPU, or this process may not use it. */
int cpu_list_bind(const struct cpu_list *list, int n, pthread_t thread);
