/*
 * placement_test.c: vmm/placement.c on a sysfs and procfs made for each test.
 */
#include "vmm/placement.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "vmm/mem.h"
#include "vmm/options.h"
#include "vmm/util.h"

#define HUGE_2M "/sys/kernel/mm/hugepages/hugepages-2048kB"

static struct options opt;
static struct mem_backing got;

static void set_up(void)
{
    fake_vfio_kernel_init();
    opt = (struct options){.memory = 512 * MIB, .cpus = 1};
}

TestSuite(placement, .init = set_up, .fini = fake_vfio_kernel_fini);

static void pages(const char *dir, const char *nr, const char *free, const char *reserved)
{
    char path[128];
    const char *const file[][2] = {
        {"nr_hugepages", nr}, {"free_hugepages", free}, {"resv_hugepages", reserved}};
    for (size_t i = 0; i < ARRAY_SIZE(file); i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, file[i][0]);
        fake_file(path, file[i][1]);
    }
}

static void add_vfio(const char *device)
{
    snprintf(opt.vfio[opt.vfios++].device, sizeof(opt.vfio[0].device), "%s", device);
}

Test(placement, ordinary_pages_are_taken_early_for_the_kernels_devices_only)
{
    cr_assert_eq(placement_memory(&opt, &got), 0);
    cr_expect(!got.huge && !got.populate && !got.on_node);
    add_vfio("unix:/tmp/server");
    cr_assert_eq(placement_memory(&opt, &got), 0);
    cr_expect_not(got.populate);
    add_vfio("42:00.0");
    cr_assert_eq(placement_memory(&opt, &got), 0);
    cr_expect(got.populate);
}

Test(placement, huge_pages_that_are_there)
{
    pages(HUGE_2M, "300", "256", "0");
    opt.hugepages = 2 * MIB;
    cr_expect_eq(placement_memory(&opt, &got), 0);
    cr_expect_eq(got.huge, 2 * MIB);
    fake_file(HUGE_2M "/free_hugepages", "100");
    fake_file(HUGE_2M "/nr_overcommit_hugepages", "160");
    fake_file(HUGE_2M "/surplus_hugepages", "4");
    cr_expect_eq(placement_memory(&opt, &got), 0, "156 may be made");
    cr_expect_str_eq(fake_log(), "");
}

Test(placement, too_few_huge_pages)
{
    pages(HUGE_2M, "300", "256", "1");
    opt.hugepages = 2 * MIB;
    cr_expect_eq(placement_memory(&opt, &got), -ENOMEM);
    cr_expect_str_eq(fake_log(),
                     "minivmm: --hugepages: cannot take 256 huge pages of 2 MiB: "
                     "255 are free, 1 more are needed; echo 301 > " HUGE_2M "/nr_hugepages\n");
    pages(HUGE_2M, "300", "10", "20"); /* as the kernel may say for a moment */
    cr_expect_eq(placement_memory(&opt, &got), -ENOMEM);
    cr_expect_eq(fake_log_lines(fake_log(), "0 are free, 256 more"), 1);
}

Test(placement, default_size_is_the_hosts)
{
    pages("/sys/kernel/mm/hugepages/hugepages-1048576kB", "2", "2", "0");
    pages(HUGE_2M, "256", "256", "0");
    opt.memory = GIB / 2;
    opt.hugepages = HUGEPAGES_DEFAULT;
    cr_expect_eq(placement_memory(&opt, &got), 0, "nothing known");
    cr_expect_eq(got.huge, 2 * MIB);
    fake_file("/proc/meminfo", "MemTotal:  8 kB\nHugepagesize:    1048576 kB\nHugetlb: 0 kB\n");
    cr_expect_eq(placement_memory(&opt, &got), 0);
    cr_expect_eq(got.huge, GIB);
    fake_file("/proc/meminfo", "MemTotal:  8 kB\nHugepagesize:       2048 kB\nHugetlb: 0 kB\n");
    cr_expect_eq(placement_memory(&opt, &got), 0);
    cr_expect_eq(got.huge, 2 * MIB);
}

Test(placement, size_that_the_host_does_not_have)
{
    pages(HUGE_2M, "256", "256", "0");
    opt.hugepages = GIB;
    cr_expect_eq(placement_memory(&opt, &got), -ENOTSUP);
    cr_expect_eq(fake_log_lines(fake_log(), "1024 MiB: this host has none of that size"), 1);
}
