/* fake_mem.c: see fake_mem.h. */
#include "tests/unit/fake_mem.h"

#include <errno.h>
#include <sched.h>
#include <sys/mman.h>

#include "tests/unit/fake_cond.h"

struct fake_mem fake_mem;

int __real_memfd_create(const char *name, unsigned flags);
int __wrap_memfd_create(const char *name, unsigned flags);
int __real_madvise(void *addr, size_t size, int advice);
int __wrap_madvise(void *addr, size_t size, int advice);

int __wrap_memfd_create(const char *name, unsigned flags)
{
    unsigned size = 63U << 26; /* MFD_HUGE_MASK << MFD_HUGE_SHIFT */
    fake_mem.memfd_flags = flags;
    return __real_memfd_create(name, flags & ~(MFD_HUGETLB | size));
}

int __wrap_madvise(void *addr, size_t size, int advice)
{
    if (advice != MADV_POPULATE_WRITE)
        return __real_madvise(addr, size, advice);
    unsigned n = ++fake_mem.populated;
    cpu_set_t cpus;
    fake_mem.bound += !sched_getaffinity(0, sizeof(cpus), &cpus) && CPU_COUNT(&cpus) == 1;
    fake_cond_await(fake_mem.waits);
    if (!fake_mem.fails_at || n < fake_mem.fails_at)
        return __real_madvise(addr, size, advice);
    errno = fake_mem.fails_with;
    return -1;
}
