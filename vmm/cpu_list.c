/*
 * cpu_list.c: see cpu_list.h. The list is written as in cpuset(7), "List format". Any thread.
 */
#include "vmm/cpu_list.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>

/* At *TEXT, which moves behind it. */
static bool number(const char **text, unsigned *out)
{
    char *end;
    if (!isdigit((unsigned char)**text))
        return false;
    errno = 0;
    unsigned long value = strtoul(*text, &end, 10);
    *text = end;
    *out = (unsigned)value;
    return !errno && value < CPU_LIST_MAX;
}

int cpu_list_parse(const char *text, struct cpu_list *out)
{
    out->nr = 0;
    if (!*text)
        return 0;
    for (;;) {
        unsigned first, last;
        if (!number(&text, &first))
            return -EINVAL;
        last = first;
        if (*text == '-' && (text++, !number(&text, &last)))
            return -EINVAL;
        if (last < first || last - first >= CPU_LIST_MAX - out->nr)
            return -EINVAL;
        while (first <= last)
            out->cpu[out->nr++] = (uint16_t)first++;
        if (!*text)
            return 0;
        if (*text != ':' && *text != ',')
            return -EINVAL;
        text++;
    }
}

int cpu_list_bind(const struct cpu_list *list, int n, pthread_t thread)
{
    cpu_set_t set[CPU_LIST_MAX / CPU_SETSIZE];
    CPU_ZERO_S(sizeof(set), set);
    for (unsigned i = 0; i < list->nr; i++) {
        if (n < 0 || (unsigned)n == i)
            CPU_SET_S(list->cpu[i], sizeof(set), set);
    }
    return -pthread_setaffinity_np(thread, sizeof(set), set);
}
