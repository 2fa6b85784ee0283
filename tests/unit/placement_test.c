/*
 * placement_test.c: vmm/placement.c on a sysfs and procfs made for each test.
 */
#include "vmm/placement.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <sys/resource.h>

#include "tests/unit/fake_vfio_kernel.h"
#include "vmm/options.h"
#include "vmm/util.h"

#define HUGE_2M "/sys/kernel/mm/hugepages/hugepages-2048kB"

static struct options opt;
static struct placement place;

static void set_up(void)
{
    fake_vfio_kernel_init();
    opt = (struct options){.memory = 512 * MIB, .cpus = 1, .numa = NUMA_NONE};
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
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(!place.memory.huge && !place.memory.populate && !place.memory.on_node);
    add_vfio("unix:/tmp/server");
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect_not(place.memory.populate);
    add_vfio("42:00.0");
    opt.memory = 2 * GIB - 4096;
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect_not(place.memory.populate);
    opt.memory = 2 * GIB;
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(place.memory.populate);
}

Test(placement, huge_pages_that_are_there)
{
    pages(HUGE_2M, "300", "256", "0");
    opt.hugepages = 2 * MIB;
    cr_expect_eq(placement_find(&opt, &place), 0);
    cr_expect_eq(place.memory.huge, 2 * MIB);
    fake_file(HUGE_2M "/free_hugepages", "100");
    fake_file(HUGE_2M "/nr_overcommit_hugepages", "160");
    fake_file(HUGE_2M "/surplus_hugepages", "4");
    cr_expect_eq(placement_find(&opt, &place), 0, "156 may be made");
    cr_expect_str_eq(fake_log(), "");
}

Test(placement, too_few_huge_pages)
{
    pages(HUGE_2M, "300", "256", "1");
    opt.hugepages = 2 * MIB;
    cr_expect_eq(placement_find(&opt, &place), -ENOMEM);
    cr_expect_str_eq(fake_log(),
                     "minivmm: --hugepages: cannot take 256 huge pages of 2 MiB: "
                     "255 are free, 1 more are needed; echo 301 > " HUGE_2M "/nr_hugepages\n");
    pages(HUGE_2M, "300", "10", "20"); /* as the kernel may say for a moment */
    cr_expect_eq(placement_find(&opt, &place), -ENOMEM);
    cr_expect_eq(fake_log_lines(fake_log(), "0 are free, 256 more"), 1);
}

Test(placement, default_size_is_the_hosts)
{
    pages("/sys/kernel/mm/hugepages/hugepages-1048576kB", "2", "2", "0");
    pages(HUGE_2M, "256", "256", "0");
    opt.memory = GIB / 2;
    opt.hugepages = HUGEPAGES_DEFAULT;
    cr_expect_eq(placement_find(&opt, &place), 0, "nothing known");
    cr_expect_eq(place.memory.huge, 2 * MIB);
    fake_file("/proc/meminfo", "MemTotal:  8 kB\nHugepagesize:    1048576 kB\nHugetlb: 0 kB\n");
    cr_expect_eq(placement_find(&opt, &place), 0);
    cr_expect_eq(place.memory.huge, GIB);
    fake_file("/proc/meminfo", "MemTotal:  8 kB\nHugepagesize:       2048 kB\nHugetlb: 0 kB\n");
    cr_expect_eq(placement_find(&opt, &place), 0);
    cr_expect_eq(place.memory.huge, 2 * MIB);
}

Test(placement, size_that_the_host_does_not_have)
{
    pages(HUGE_2M, "256", "256", "0");
    opt.hugepages = GIB;
    cr_expect_eq(placement_find(&opt, &place), -ENOTSUP);
    cr_expect_eq(fake_log_lines(fake_log(), "1024 MiB: this host has none of that size"), 1);
}

/* ---- RLIMIT_MEMLOCK ---- */

static void limit_memlock(uint64_t bytes)
{
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    limit.rlim_cur = bytes;
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
}

Test(placement, memlock_that_will_not_do)
{
    opt.memory = 4 * MIB;
    limit_memlock(opt.memory - 1);
    fake_file("/proc/self/status", "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n");
    cr_expect_eq(placement_find(&opt, &place), 0, "nothing is pinned");
    add_vfio("unix:/tmp/server");
    cr_expect_eq(placement_find(&opt, &place), 0);
    add_vfio("42:00.0");
    cr_expect_eq(placement_find(&opt, &place), -ENOMEM);
    cr_expect_str_eq(fake_log(),
                     "minivmm: 0000:42:00.0: cannot pin 4 MiB of RAM for its DMA: "
                     "RLIMIT_MEMLOCK is 3 MiB; raise it by 'ulimit -l 4096', memlock in "
                     "/etc/security/limits.conf or LimitMEMLOCK=4M in the systemd unit\n");
    fake_file("/proc/self/status", "CapPrm:\t0000000000004000\nCapEff:\t0000000000004000\n");
    cr_expect_eq(placement_find(&opt, &place), 0, "CAP_IPC_LOCK");
    fake_remove("/proc/self/status");
    cr_expect_eq(placement_find(&opt, &place), 0, "the kernel will tell");
    fake_file("/proc/self/status", "x\nCapEff:\t000001ffffffbfff\n");
    cr_expect_eq(placement_find(&opt, &place), -ENOMEM);
    add_vfio("44:00.0");
    opt.vfio[1] = opt.vfio[2];
    fake_log();
    cr_expect_lt(placement_find(&opt, &place), 0);
    cr_expect_eq(fake_log_lines(fake_log(), "0000:44:00.0: cannot find device"), 1);
    limit_memlock(opt.memory);
    cr_expect_eq(placement_find(&opt, &place), 0);
}

/* ---- NUMA ---- */

#define NODES "/sys/devices/system/node"

static void two_nodes(void)
{
    fake_file(NODES "/node0/cpulist", "0-3\n");
    fake_file(NODES "/node1/cpulist", "4-5,12\n");
    pages(NODES "/node1/hugepages/hugepages-2048kB", "10", "10", "0");
}

Test(placement, node_by_its_number)
{
    two_nodes();
    opt.numa = 1;
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(place.memory.on_node && place.memory.node == 1 && !place.pin);
    cr_expect_eq(place.cpus->nr, 3);
    cr_expect_eq(place.cpus->cpu[2], 12);
    cr_expect_str_eq(fake_log(), "");
    opt.pin = (struct cpu_list){.nr = 1, .cpu = {3}};
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(place.memory.on_node && place.pin, "RAM on the node, vCPUs where they are told");
    cr_expect(place.cpus->nr == 1 && place.cpus->cpu[0] == 3);
    opt.numa = 2;
    cr_expect_eq(placement_find(&opt, &place), -ENOENT);
    cr_expect_eq(fake_log_lines(fake_log(), "--numa: cannot place the guest on node 2"), 1);
}

Test(placement, node_without_cpus)
{
    fake_file(NODES "/node3/cpulist", "\n");
    opt.numa = 3;
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(place.memory.on_node && place.cpus->nr == 0);
}

Test(placement, huge_pages_of_the_node)
{
    two_nodes();
    pages(HUGE_2M, "300", "300", "0");
    opt.numa = 1;
    opt.hugepages = 2 * MIB;
    opt.memory = 22 * MIB;
    cr_expect_eq(placement_find(&opt, &place), -ENOMEM);
    cr_expect_eq(fake_log_lines(fake_log(),
                                "10 are free on that node, 1 more are needed; echo 11 > " NODES
                                "/node1/hugepages/hugepages-2048kB/nr_hugepages"),
                 1);
    opt.memory = 20 * MIB;
    cr_expect_eq(placement_find(&opt, &place), 0);
}

Test(placement, node_of_the_first_device_that_has_one)
{
    two_nodes();
    fake_sysfs_device("0000:43:00.0", 16, "vfio-pci");
    fake_file(FAKE_SYSFS "/numa_node", "-1\n");
    fake_file("/sys/bus/pci/devices/0000:43:00.0/numa_node", "1\n");
    opt.numa = NUMA_AUTO;
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect_not(place.memory.on_node);
    cr_expect_eq(fake_log_lines(fake_log(), "no device says"), 1);
    add_vfio("unix:/tmp/server");
    add_vfio("42:00.0");
    add_vfio("43:00.0");
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(place.memory.on_node && place.memory.node == 1);
    cr_expect_str_eq(fake_log(), "minivmm: --numa: node 1, where 0000:43:00.0 is\n");
    fake_file(FAKE_SYSFS "/numa_node", "0\n");
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect_eq(place.memory.node, 0);
    add_vfio("44:00.0");
    fake_file(FAKE_SYSFS "/numa_node", "-1\n");
    fake_file("/sys/bus/pci/devices/0000:43:00.0/numa_node", "-1\n");
    fake_log();
    cr_expect_lt(placement_find(&opt, &place), 0);
    cr_expect_eq(fake_log_lines(fake_log(), "0000:44:00.0: cannot find device"), 1);
}

Test(placement, node_of_a_mediated_device_s_parent)
{
    two_nodes();
    fake_file(FAKE_SYSFS "/numa_node", "1\n");
    opt.numa = NUMA_AUTO;
    add_vfio("mdev:42:00.0/nvidia-18");
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect(place.memory.on_node && place.memory.node == 1);
    snprintf(opt.vfio[0].device, sizeof(opt.vfio[0].device), "mdev:mtty/mtty-1");
    cr_assert_eq(placement_find(&opt, &place), 0);
    cr_expect_not(place.memory.on_node, "its parent is no PCI device");
}

Test(placement, node_of_a_mediated_device_by_its_uuid)
{
#define UUID "2d76f3c0-7e4b-4d5e-9f0e-3c8e1b0e7a45"
#define CARD "/sys/devices/pci0000:80/0000:81:00.0"
    two_nodes();
    fake_file(CARD "/numa_node", "1\n");
    fake_file(CARD "/" UUID "/uevent", "");
    fake_link(CARD "/" UUID "/subsystem", "../../../../bus/mdev");
    fake_file("/sys/bus/mdev/devices", NULL);
    fake_link("/sys/bus/mdev/devices/" UUID, "../../../devices/pci0000:80/0000:81:00.0/" UUID);
    opt.numa = NUMA_AUTO;
    add_vfio(UUID);
    limit_memlock(MIB);
    fake_file("/proc/self/status", "x\nCapEff:\t0000000000000000\n");
    cr_assert_eq(placement_find(&opt, &place), 0, "it pins what it uses");
    cr_expect(place.memory.on_node && place.memory.node == 1);
}
