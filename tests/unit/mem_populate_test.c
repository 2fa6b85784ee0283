/*
 * mem_populate_test.c: vmm/mem_populate.c, and the kinds of pages that mem_init_backed() takes.
 * Whether a page is there is asked of the file: how many blocks it has.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/unit/fake_clock.h"
#include "tests/unit/fake_cond.h"
#include "tests/unit/fake_mem.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "vmm/cpu_list.h"
#include "vmm/mem.h"
#include "vmm/util.h"

static struct mem mem;

static void set_up(void)
{
    fake_vfio_kernel_init(); /* for fake_log() */
}

static void tear_down(void)
{
    mem_fini(&mem);
    fake_vfio_kernel_fini();
}

TestSuite(mem_populate, .init = set_up, .fini = tear_down);

static uint64_t present(void)
{
    struct stat st;
    cr_assert_eq(fstat(mem.fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static int init(uint64_t size, const struct mem_backing *backing)
{
    int err = mem_init_backed(&mem, size, backing);
    return err ? err : mem_take(&mem);
}

Test(mem_populate, nothing_is_taken_before_it_is_touched)
{
    cr_assert_eq(mem_init(&mem, 8 * MIB), 0);
    cr_expect_eq(present(), 0);
    cr_expect_eq(fake_mem.populated, 0);
    cr_expect_eq(fake_mem.memfd_flags & MFD_HUGETLB, 0);
}

Test(mem_populate, every_page_in_steps_that_do_not_divide_it)
{
    const struct mem_backing all = {.populate = true};
    cr_assert_eq(mem_init_backed(&mem, 130 * MIB + 4096, &all), 0);
    cr_expect_eq(present(), 0, "a device may still be refused");
    cr_assert_eq(mem_take(&mem), 0);
    cr_expect_geq(present(), 130 * MIB + 4096);
    cr_expect_eq(fake_mem.populated, 3);
    cr_expect_str_eq(fake_log(), "", "a short start says nothing");
}

Test(mem_populate, huge_pages_are_taken_at_once)
{
    const struct mem_backing huge = {.huge = 2 * MIB};
    cr_assert_eq(mem_init_backed(&mem, 6 * MIB, &huge), 0);
    cr_expect_eq(fake_mem.memfd_flags & ~3U, MFD_HUGETLB | 21U << 26);
    cr_expect_geq(present(), 6 * MIB);
    mem_fini(&mem);
    cr_assert_eq(init(7 * MIB, &huge), -EINVAL);
    cr_expect_eq(fake_log_lines(fake_log(), "--memory 8M"), 1);
}

Test(mem_populate, kernel_without_madvise_s_way)
{
    const struct mem_backing huge = {.huge = 2 * MIB};
    fake_mem.fails_at = 1;
    fake_mem.fails_with = EINVAL;
    cr_assert_eq(init(66 * MIB, &huge), 0);
    cr_expect_geq(present(), 66 * MIB);
}

Test(mem_populate, by_the_cpus_that_are_near)
{
    cpu_set_t before, after;
    struct cpu_list near = {.nr = 1};
    const struct mem_backing all = {.populate = true, .near = &near};
    cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
    if (CPU_COUNT(&before) < 2)
        cr_skip_test("this process has one CPU only");
    while (!CPU_ISSET(near.cpu[0], &before))
        near.cpu[0]++;
    cr_assert_eq(init(200 * MIB, &all), 0);
    cr_expect_eq(fake_mem.populated, 4);
    cr_expect_eq(fake_mem.bound, 4);
    mem_fini(&mem);
    near.cpu[0] = CPU_LIST_MAX - 1;
    cr_expect_eq(init(MIB, &all), 0, "a node is a wish");
    mem_fini(&mem);
    near.nr = 0;
    cr_expect_eq(init(MIB, &all), 0);
    cr_expect_eq(fake_mem.bound, 4);
    cr_assert_eq(sched_getaffinity(0, sizeof(after), &after), 0);
    cr_expect(CPU_EQUAL(&before, &after), "the main thread stays where it is");
}

/* EFAULT is what would have been a SIGBUS. */
Test(mem_populate, ends_at_the_first_failure)
{
    const struct mem_backing huge = {.huge = 2 * MIB}, all = {.populate = true};
    fake_mem.fails_at = 2;
    fake_mem.fails_with = EFAULT;
    cr_expect_eq(init(64 * 64 * MIB, &huge), -ENOMEM);
    cr_expect_lt(fake_mem.populated, 20, "the others stop");
    cr_expect_eq(mem.size, 0);
    const char *log = fake_log();
    cr_expect_eq(fake_log_lines(log, ""), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, "Cannot allocate memory after"), 1, "%s", log);
    cr_expect_eq(fake_log_lines(log, "of 4096 MiB; give less, or free huge pages"), 1, "%s",
                 log);

    fake_mem.fails_at = 1;
    fake_mem.fails_with = EHWPOISON;
    cr_expect_eq(init(4 * MIB, &all), -EHWPOISON);
    cr_expect_eq(fake_log_lines(fake_log(), "after 0 of 4 MiB"), 1);
}

/* Each of the two steps lasts until there were eight waits: seven seconds and more of the fake
 * clock. Standard error is no terminal: a line after 2, 3, 5 and 9 seconds. */
Test(mem_populate, says_how_far_it_is)
{
    const struct mem_backing all = {.populate = true};
    int64_t now = 5 * NS_PER_S;
    fake_clock_ns = &now;
    fake_cond_hurry = true;
    fake_mem.waits = 8;
    cr_assert_eq(init(4 * MIB, &all), 0);
    fake_clock_ns = NULL;
    const char *log = fake_log();
    cr_expect_geq(fake_log_lines(log, "minivmm: --memory: preparing RAM: 0 of 4 MiB"), 3, "%s",
                  log);
    cr_expect_geq(now, 5 * NS_PER_S + 9 * NS_PER_S);
}

/* What the kernel says of the page at HVA. */
static void expect_policy(const void *hva, int mode, unsigned long nodes)
{
    int got = -1;
    unsigned long mask[16] = {0};
    long err = syscall(SYS_get_mempolicy, &got, mask, 1025UL, hva, (unsigned long)MPOL_F_ADDR);
    cr_assert_eq(err, 0, "%s", strerror(errno));
    cr_expect_eq(got, mode);
    cr_expect_eq(mask[0], nodes);
}

Test(mem_populate, on_a_node)
{
    const struct mem_backing node = {.on_node = true},
                             huge = {.huge = 2 * MIB, .on_node = true};
    if (syscall(SYS_get_mempolicy, NULL, NULL, 0UL, NULL, 0UL))
        cr_skip_test("no memory policies: %s", strerror(errno));
    cr_assert_eq(mem_init(&mem, 4 * MIB), 0);
    expect_policy(mem.region[0].hva, MPOL_DEFAULT, 0);
    mem_fini(&mem);
    cr_assert_eq(init(4 * MIB, &node), 0);
    expect_policy(mem.region[0].hva + 4 * MIB - 1, MPOL_PREFERRED, 1);
    mem_fini(&mem);
    cr_assert_eq(init(4 * MIB, &huge), 0);
    expect_policy(mem.region[0].hva, MPOL_BIND, 1);
}

Test(mem_populate, node_that_is_not_there)
{
    const unsigned bad[] = {1023, 1024, UINT32_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        const struct mem_backing node = {.on_node = true, .node = bad[i]};
        cr_expect_eq(init(4 * MIB, &node), -EINVAL);
        const char *log = fake_log();
        cr_expect_eq(fake_log_lines(log, "has_memory"), 1, "%s", log);
        cr_expect_eq(mem.size, 0);
    }
}
