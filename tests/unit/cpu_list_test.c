/* cpu_list_test.c: tests of vmm/cpu_list.c, with this machine's CPUs. */
#include "vmm/cpu_list.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>

#include "vmm/util.h"

static struct cpu_list list;

static void expect_list(const char *text, unsigned nr, const uint16_t *cpu)
{
    cr_expect_eq(cpu_list_parse(text, &list), 0, "%s", text);
    cr_assert_eq(list.nr, nr, "%s", text);
    cr_expect(nr == 0 || !memcmp(list.cpu, cpu, nr * sizeof(*cpu)), "%s", text);
}

Test(cpu_list, forms)
{
    expect_list("", 0, NULL);
    expect_list("7", 1, (const uint16_t[]){7});
    expect_list("2-5:8", 5, (const uint16_t[]){2, 3, 4, 5, 8});
    expect_list("0-1,64-65", 4, (const uint16_t[]){0, 1, 64, 65});
    expect_list("9:3-3:9", 3, (const uint16_t[]){9, 3, 9});
    expect_list("8191", 1, (const uint16_t[]){8191});
    cr_expect_eq(cpu_list_parse("0-8191", &list), 0);
    cr_expect_eq(list.nr, CPU_LIST_MAX);
    cr_expect_eq(list.cpu[8191], 8191);
}

Test(cpu_list, refused)
{
    static const char *const text[] = {
        "x",   "-1",   "1-",  "1:",     ",1",         "5-2",
        "1 2", "8192", "+1",  " 1",     "0-8191:0",   "0x1",
        "1-x", "1--2", "1::", "0-8192", "4294967296", "99999999999999999999"};
    for (size_t i = 0; i < ARRAY_SIZE(text); i++)
        cr_expect_eq(cpu_list_parse(text[i], &list), -EINVAL, "%s", text[i]);
}

static unsigned allowed(int *last)
{
    cpu_set_t set;
    cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
    for (int i = 0; i < CPU_SETSIZE; i++) {
        if (CPU_ISSET(i, &set))
            *last = i;
    }
    return (unsigned)CPU_COUNT(&set);
}

Test(cpu_list, threads_are_bound)
{
    int last = -1, now = -1;
    unsigned before = allowed(&last);
    list = (struct cpu_list){.nr = 2, .cpu = {8191, (uint16_t)last}};
    cr_expect_eq(cpu_list_bind(&list, 0, pthread_self()), -EINVAL, "no such CPU");
    cr_expect_eq(allowed(&now), before);
    cr_expect_eq(cpu_list_bind(&list, 1, pthread_self()), 0);
    cr_expect(allowed(&now) == 1 && now == last);
    cr_expect_eq(cpu_list_bind(&list, -1, pthread_self()), 0, "one of them is there");
    cr_expect(allowed(&now) == 1 && now == last);
    list.nr = 1;
    cr_expect_eq(cpu_list_bind(&list, -1, pthread_self()), -EINVAL);
}
