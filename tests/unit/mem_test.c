/*
 * mem_test.c: tests of vmm/mem.c. RAM is touched in single pages, so large sizes cost nothing.
 */
#include "vmm/mem.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

/* Stands in for libc's: a host with as much RAM as a test likes (0: the real one). */
static uint64_t host_ram;

int sysinfo(struct sysinfo *info)
{
    int ret = (int)syscall(SYS_sysinfo, info);
    if (host_ram) {
        info->totalram = host_ram;
        info->totalswap = 0;
        info->mem_unit = 1;
    }
    return ret;
}

static uint64_t host_size(void)
{
    struct sysinfo info;
    cr_assert_eq(sysinfo(&info), 0);
    return ((uint64_t)info.totalram + info.totalswap) * info.mem_unit;
}

Test(mem, sizes_that_cannot_be)
{
    const uint64_t bad[] = {0,
                            1,
                            4095,
                            4097,
                            (1 << 20) + 512,
                            UINT64_MAX,
                            UINT64_MAX - 4095,
                            1ULL << 60,
                            align_up(host_size() + 1, 4096)};

    log_set_level((enum log_level) - 1);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct mem mem = {.fd = 77, .nr = 2};
        int want = bad[i] && bad[i] % 4096 == 0 ? -ENOMEM : -EINVAL;
        cr_expect_eq(mem_init(&mem, bad[i]), want, "size %#llx", (unsigned long long)bad[i]);
        cr_expect_eq(mem.nr, 0);
        mem_fini(&mem); /* nothing to do, and nothing closed */
    }
}

Test(mem, fini_of_a_zeroed_struct_leaves_descriptor_0)
{
    struct mem mem = {0};
    int before = fcntl(0, F_GETFD);
    mem_fini(&mem);
    cr_expect_eq(fcntl(0, F_GETFD), before);
}

Test(mem, one_region)
{
    struct mem mem;
    cr_assert_eq(mem_init(&mem, 6 * MIB), 0);
    cr_expect_eq(mem.nr, 1);
    cr_expect_eq(mem.size, 6 * MIB);
    cr_expect_eq(mem.region[0].gpa, 0);
    cr_expect_eq(mem.region[0].size, 6 * MIB);
    cr_expect_eq((uintptr_t)mem.region[0].hva % (2 * MIB), 0);
    cr_expect(fcntl(mem.fd, F_GETFD) & FD_CLOEXEC);
    cr_expect_eq(lseek(mem.fd, 0, SEEK_END), 6 * MIB);

    /* Zeroed, and shared with the descriptor. */
    uint8_t *last = mem_at(&mem, 6 * MIB - 1, 1);
    uint8_t byte = 0;
    cr_assert_not_null(last);
    cr_expect_eq(*last, 0);
    *last = 0x5a;
    cr_expect_eq(pread(mem.fd, &byte, 1, 6 * MIB - 1), 1);
    cr_expect_eq(byte, 0x5a);

    int fd = mem.fd;
    mem_fini(&mem);
    cr_expect_eq(fcntl(fd, F_GETFD), -1);
    cr_expect_eq(mem.nr, 0);
    mem_fini(&mem);
}

Test(mem, at_checks_both_ends)
{
    struct mem mem;
    cr_assert_eq(mem_init(&mem, 2 * MIB), 0);
    uint8_t *hva = mem.region[0].hva;
    cr_expect_eq(mem_at(&mem, 0, 2 * MIB), hva);
    cr_expect_eq(mem_at(&mem, 5, 7), hva + 5);
    cr_expect_null(mem_at(&mem, 0, 2 * MIB + 1));
    cr_expect_null(mem_at(&mem, 2 * MIB - 1, 2));
    cr_expect_null(mem_at(&mem, 2 * MIB, 1));
    cr_expect_null(mem_at(&mem, 1, UINT64_MAX));
    cr_expect_null(mem_at(&mem, UINT64_MAX, 1));
    cr_expect_null(mem_at(&mem, UINT64_MAX, UINT64_MAX));
    mem_fini(&mem);
}

static void check_split(uint64_t size, uint64_t high_gpa)
{
    struct mem mem;

    host_ram = 2 * TIB;
    cr_assert_eq(mem_init(&mem, size), 0);
    cr_assert_eq(mem.nr, 2);
    cr_expect_eq(mem.region[0].size, LAYOUT_LOW_RAM_END);
    cr_expect_eq(mem.region[1].gpa, high_gpa);
    cr_expect_eq(mem.region[1].size, size - LAYOUT_LOW_RAM_END);
    cr_expect_eq(mem.region[1].fd_offset, LAYOUT_LOW_RAM_END);
    for (unsigned i = 0; i < mem.nr; i++)
        cr_expect_eq(((uintptr_t)mem.region[i].hva - mem.region[i].gpa) % GIB, 0);

    cr_expect_null(mem_at(&mem, LAYOUT_LOW_RAM_END - 1, 2), "across the hole");
    cr_expect_null(mem_at(&mem, LAYOUT_LOW_RAM_END, 1), "in the hole");
    cr_expect_null(mem_at(&mem, high_gpa - 1, 2));
    uint8_t *first = mem_at(&mem, high_gpa, size - LAYOUT_LOW_RAM_END);
    uint8_t byte = 0;
    cr_assert_not_null(first);
    *first = 0xa5;
    cr_expect_eq(pread(mem.fd, &byte, 1, (off_t)mem.region[1].fd_offset), 1);
    cr_expect_eq(byte, 0xa5);
    mem_fini(&mem);
}

Test(mem, split_around_the_hole)
{
    check_split(LAYOUT_LOW_RAM_END + 4096, LAYOUT_HIGH_RAM);
}

Test(mem, split_around_the_hypertransport_range)
{
    const uint64_t fits = 0xfd00000000 - (LAYOUT_HIGH_RAM - LAYOUT_LOW_RAM_END);
    check_split(fits, LAYOUT_HIGH_RAM);
    check_split(fits + 4096, TIB);
}

Test(mem, all_that_the_host_has_and_no_more)
{
    struct mem mem;
    host_ram = 4 * MIB;
    log_set_level((enum log_level) - 1);
    cr_expect_eq(mem_init(&mem, 4 * MIB + 4096), -ENOMEM);
    cr_expect_eq(mem_init(&mem, 4 * MIB), 0);
    mem_fini(&mem);
}

Test(mem, nobody_can_shorten_it)
{
    struct mem mem;
    cr_assert_eq(mem_init(&mem, 2 * MIB), 0);
    cr_expect_lt(ftruncate(mem.fd, MIB), 0);
    cr_expect_lt(ftruncate(mem.fd, 4 * MIB), 0);
    cr_expect_lt(fcntl(mem.fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    mem_fini(&mem);
}
