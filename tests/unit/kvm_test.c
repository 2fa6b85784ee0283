/*
 * kvm_test.c: the services of vmm/kvm.c on this machine's /dev/kvm, without a guest (those are
 * in vcpu_test.c); skipped with a reason where it cannot be used. To see which calls reach KVM,
 * and what is left when KVM refuses one, the VM's descriptor is replaced by /dev/null's.
 */
#include "vmm/kvm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/cpuid.h"
#include "vmm/layout.h"
#include "vmm/util.h"

static struct kvm *kvm;
static struct hv *hv;
static uint8_t *page;
static int real_vm;

static void set_up(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        cr_skip_test("/dev/kvm is not usable: %s", strerror(errno));
    close(fd);
    cr_assert_eq(kvm_create(&kvm, 1), 0);
    cr_assert_eq(kvm_create_irqchip(kvm), 0);
    hv = kvm_hv(kvm);
    page = mmap(NULL, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(page, MAP_FAILED);
}

static void tear_down(void)
{
    kvm_destroy(kvm);
}

TestSuite(kvm, .init = set_up, .fini = tear_down);

/* From here every VM call fails with ENOTTY; until with_kvm(). */
static void without_kvm(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    real_vm = dup(kvm_vm_fd(kvm));
    cr_assert_geq(dup2(null, kvm_vm_fd(kvm)), 0);
    close(null);
}

static void with_kvm(void)
{
    cr_assert_geq(dup2(real_vm, kvm_vm_fd(kvm)), 0);
    close(real_vm);
}

Test(kvm, what_the_host_offers)
{
    cr_expect_gt(kvm_supported_cpuid(kvm)->nent, 4);
    cr_expect_leq(kvm_supported_cpuid(kvm)->nent, CPUID_ENTRIES_MAX);
    cr_expect_geq(cpuid_phys_bits(kvm_supported_cpuid(kvm)), 32);
    cr_expect_geq(kvm_run_size(kvm), 4096);
    cr_expect_eq(fcntl(kvm_vm_fd(kvm), F_GETFD), FD_CLOEXEC);
    kvm_destroy(NULL);
}

Test(kvm, slots)
{
    cr_expect_eq(hv->ops->slot_add(hv, 0, page, 4096), 0);
    cr_expect_eq(hv->ops->slot_add(hv, 0x10000, page, 8192), 1);
    cr_expect_eq(hv->ops->slot_add(hv, 0x11000, page, 4096), -EEXIST, "overlap");
    cr_expect_eq(hv->ops->slot_add(hv, 0x20000, page, 4096), 2);
    cr_expect_eq(hv->ops->slot_remove(hv, 1), 0);
    cr_expect_eq(hv->ops->slot_remove(hv, 1), -ENOENT);
    cr_expect_eq(hv->ops->slot_add(hv, 0x11000, page, 4096), 1, "lowest free, no overlap now");
    cr_expect_eq(hv->ops->slot_remove(hv, -1), -ENOENT);
    cr_expect_eq(hv->ops->slot_remove(hv, 1 << 30), -ENOENT);
}

Test(kvm, slots_that_cannot_be)
{
    cr_expect_eq(hv->ops->slot_add(hv, 0x1000, page, 0), -EINVAL);
    cr_expect_eq(hv->ops->slot_add(hv, 0x1001, page, 4096), -EINVAL);
    cr_expect_eq(hv->ops->slot_add(hv, 0x1000, page + 1, 4096), -EINVAL);
    cr_expect_eq(hv->ops->slot_add(hv, 0x1000, page, 4097), -EINVAL);
    cr_expect_lt(hv->ops->slot_add(hv, UINT64_MAX - 4095, page, 8192), 0);
    cr_expect_eq(hv->ops->slot_add(hv, 0x1000, page, 4096), 0, "a failure takes no slot");
}

Test(kvm, as_many_slots_as_a_few_cards_need)
{
    for (int i = 0; i < 64; i++)
        cr_expect_eq(hv->ops->slot_add(hv, (uint64_t)i << 20, page + i * 4096, 4096), i);
    for (int i = 63; i >= 0; i--)
        cr_expect_eq(hv->ops->slot_remove(hv, i), 0);
}

Test(kvm, slot_stays_when_kvm_does_not_remove_it)
{
    cr_assert_eq(hv->ops->slot_add(hv, 0, page, 4096), 0);
    without_kvm();
    cr_expect_eq(hv->ops->slot_remove(hv, 0), -ENOTTY);
    cr_expect_eq(hv->ops->slot_add(hv, 0x1000, page, 4096), -ENOTTY);
    with_kvm();
    cr_expect_eq(hv->ops->slot_add(hv, 0x1000, page, 4096), 1);
    cr_expect_eq(hv->ops->slot_remove(hv, 0), 0);
}

static const struct hv_msi msi = {.address = 0xfee00000, .data = 0x4041};
static const struct hv_msi other = {.address = 0xfee01000, .data = 0x4041};
/* KVM would refuse this one with 32-bit ids switched on; a guest may write it. */
static const struct hv_msi hostile = {.address = UINT64_MAX, .data = UINT32_MAX};

Test(kvm, routes)
{
    const int first = LAYOUT_GSI_COUNT;
    for (int i = 0; i < 100; i++)
        cr_expect_eq(hv->ops->route_add(hv, i % 2 ? &msi : &hostile), first + i);
    cr_expect_eq(hv->ops->route_remove(hv, first + 7), 0);
    cr_expect_eq(hv->ops->route_remove(hv, first + 50), 0);
    cr_expect_eq(hv->ops->route_remove(hv, first + 7), -ENOENT);
    cr_expect_eq(hv->ops->route_update(hv, first + 7, &other), -ENOENT);
    cr_expect_eq(hv->ops->route_update(hv, first + 8, &other), 0);
    cr_expect_eq(hv->ops->route_update(hv, first + 8, &hostile), 0);
    cr_expect_eq(hv->ops->route_add(hv, &msi), first + 7);
    cr_expect_eq(hv->ops->route_add(hv, &msi), first + 50);
    cr_expect_eq(hv->ops->route_add(hv, &msi), first + 100);
}

Test(kvm, fixed_routes_are_nobodys)
{
    for (uint32_t gsi = 0; gsi < LAYOUT_GSI_COUNT; gsi++) {
        cr_expect_eq(hv->ops->route_remove(hv, gsi), -ENOENT);
        cr_expect_eq(hv->ops->route_update(hv, gsi, &msi), -ENOENT);
    }
    cr_expect_eq(hv->ops->route_remove(hv, UINT32_MAX), -ENOENT);
}

Test(kvm, full_routing_table)
{
    int gsi, n = 0;
    while ((gsi = hv->ops->route_add(hv, &msi)) >= 0 && n < 100000)
        n++;
    cr_expect_eq(gsi, -ENOSPC);
    cr_expect_geq(n, 256 - 38);
    cr_expect_eq(hv->ops->route_remove(hv, LAYOUT_GSI_COUNT + 3), 0);
    cr_expect_eq(hv->ops->route_add(hv, &msi), LAYOUT_GSI_COUNT + 3);
    cr_expect_eq(hv->ops->route_add(hv, &msi), -ENOSPC);
}

Test(kvm, route_update_that_changes_nothing_makes_no_call)
{
    int gsi = hv->ops->route_add(hv, &msi);
    without_kvm();
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &msi), 0);
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &other), -ENOTTY);
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &msi), 0, "the old one is kept");
    cr_expect_eq(hv->ops->route_add(hv, &msi), -ENOTTY);
    cr_expect_eq(hv->ops->route_remove(hv, (uint32_t)gsi + 1), -ENOENT, "nothing was added");
    cr_expect_eq(hv->ops->route_remove(hv, (uint32_t)gsi), 0, "KVM hears of it later");
    with_kvm();
    cr_expect_eq(hv->ops->route_add(hv, &other), gsi);
}

Test(kvm, routes_stay_when_kvm_takes_no_other)
{
    int gsi = hv->ops->route_add(hv, &msi);
    for (int i = 1; i < 4; i++)
        hv->ops->route_add(hv, &other);
    hv->ops->route_remove(hv, (uint32_t)gsi);
    without_kvm();
    cr_expect_eq(hv->ops->route_add(hv, &msi), -ENOTTY, "in front of the others");
    for (int i = 1; i < 4; i++)
        cr_expect_eq(hv->ops->route_update(hv, (uint32_t)(gsi + i), &other), 0);
    cr_expect_eq(hv->ops->route_update(hv, (uint32_t)gsi, &msi), -ENOENT);
    with_kvm();
}

Test(kvm, irqfds)
{
    int fd = eventfd(0, EFD_CLOEXEC), resample = eventfd(0, EFD_CLOEXEC);
    int gsi = hv->ops->route_add(hv, &msi);
    cr_expect_eq(hv->ops->irqfd_add(hv, fd, (uint32_t)gsi, -1), 0);
    cr_expect_eq(hv->ops->irqfd_add(hv, fd, (uint32_t)gsi, -1), -EBUSY);
    cr_expect_eq(hv->ops->irqfd_remove(hv, fd, (uint32_t)gsi), 0);
    cr_expect_eq(hv->ops->irqfd_add(hv, fd, LAYOUT_GSI_PCI, resample), 0);
    cr_expect_eq(hv->ops->irqfd_remove(hv, fd, LAYOUT_GSI_PCI), 0);
    cr_expect_lt(hv->ops->irqfd_add(hv, -1, (uint32_t)gsi, -1), 0);
    close(fd);
    close(resample);
}

Test(kvm, ioeventfds)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    for (int pio = 0; pio < 2; pio++) {
        cr_expect_eq(hv->ops->ioeventfd_add(hv, fd, 0x1000, 4, pio), 0);
        cr_expect_eq(hv->ops->ioeventfd_add(hv, fd, 0x1000, 4, pio), -EEXIST);
        cr_expect_eq(hv->ops->ioeventfd_remove(hv, fd, 0x1000, 2, pio), -ENOENT);
        cr_expect_eq(hv->ops->ioeventfd_remove(hv, fd, 0x1000, 4, pio), 0);
        cr_expect_eq(hv->ops->ioeventfd_add(hv, fd, 0x1000, 0, pio), 0);
        cr_expect_eq(hv->ops->ioeventfd_remove(hv, fd, 0x1000, 0, pio), 0);
    }
    close(fd);
}

Test(kvm, a_file_that_is_not_vfios)
{
    cr_expect_lt(hv->ops->vfio_file_add(hv, STDERR_FILENO), 0);
    cr_expect_lt(hv->ops->vfio_file_add(hv, -1), 0);
    cr_expect_lt(hv->ops->vfio_file_remove(hv, STDERR_FILENO), 0);
}

Test(kvm, lines)
{
    for (uint32_t gsi = 0; gsi < LAYOUT_GSI_COUNT; gsi++) {
        cr_expect_eq(hv->ops->irq_line(hv, gsi, true), 0);
        cr_expect_eq(hv->ops->irq_line(hv, gsi, false), 0);
    }
}

struct chips {
    struct kvm_irqchip chip[3];
    struct kvm_pit_state2 pit;
};

static void get_chips(struct chips *c)
{
    memset(c, 0, sizeof(*c));
    for (uint32_t i = 0; i < 3; i++) {
        c->chip[i].chip_id = i;
        cr_assert_eq(ioctl(kvm_vm_fd(kvm), KVM_GET_IRQCHIP, &c->chip[i]), 0);
    }
    cr_assert_eq(ioctl(kvm_vm_fd(kvm), KVM_GET_PIT2, &c->pit), 0);
    for (size_t i = 0; i < ARRAY_SIZE(c->pit.channels); i++)
        c->pit.channels[i].count_load_time = 0;
}

Test(kvm, reset_is_as_at_power_on)
{
    struct chips fresh, dirty, after;
    get_chips(&fresh);
    dirty = fresh;
    for (uint32_t i = 0; i < 2; i++) {
        dirty.chip[i].chip.pic.imr = 0xef;
        dirty.chip[i].chip.pic.irq_base = 0x20;
        dirty.chip[i].chip.pic.elcr = 0x08;
    }
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        dirty.chip[2].chip.ioapic.redirtbl[i].bits = 0x40 + i;
    dirty.chip[2].chip.ioapic.id = 3;
    for (size_t i = 0; i < ARRAY_SIZE(dirty.pit.channels); i++) {
        dirty.pit.channels[i].mode = 2;
        dirty.pit.channels[i].count = 0x1000;
        dirty.pit.channels[i].gate = i == 2;
    }
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(ioctl(kvm_vm_fd(kvm), KVM_SET_IRQCHIP, &dirty.chip[i]), 0);
    cr_assert_eq(ioctl(kvm_vm_fd(kvm), KVM_SET_PIT2, &dirty.pit), 0);
    get_chips(&after);
    cr_assert_arr_neq(&after, &fresh, sizeof(fresh));

    cr_expect_eq(kvm_reset_irqchip(kvm), 0);
    get_chips(&after);
    for (size_t i = 0; i < 3; i++)
        cr_expect_arr_eq(&after.chip[i], &fresh.chip[i], sizeof(fresh.chip[i]), "chip %zu", i);
    cr_expect_arr_eq(&after.pit, &fresh.pit, sizeof(fresh.pit), "PIT");
}

/* ---- errors of the start: each its one line ---- */

static char text[2048];

static int create_with_stderr(unsigned cpus)
{
    struct kvm *made = NULL;
    int file = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO);

    dup2(file, STDERR_FILENO);
    int err = kvm_create(&made, cpus);
    dup2(saved, STDERR_FILENO);
    ssize_t n = pread(file, text, sizeof(text) - 1, 0);
    text[MAX(n, 0)] = 0;
    close(file);
    close(saved);
    kvm_destroy(made);
    return err;
}

static void expect_line(const char *part)
{
    cr_expect_not_null(strstr(text, part), "%s", text);
    cr_expect_eq(strchr(text, '\n'), strrchr(text, '\n'), "%s", text);
}

Test(kvm, too_many_cpus)
{
    unsigned most = (unsigned)ioctl(kvm_vm_fd(kvm), KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    char want[64];
    snprintf(want, sizeof(want), "minivmm: --cpus: cannot give the guest %u CPUs: ", most + 1);
    cr_expect_eq(create_with_stderr(most + 1), -EINVAL);
    expect_line(want);
}

/* What kvm_create() gives where /dev/kvm is an empty file of MODE (-1: missing) and the user is
 * nobody special (SUPER: root). */
static int create_in_a_root_with(int mode, bool super)
{
    char dir[] = "/tmp/kvm_test.XXXXXX", node[64];

    if (geteuid() != 0 || chroot("/"))
        cr_skip_test("cannot hide /dev/kvm by chroot(): %s", strerror(errno ? errno : EPERM));
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert_not_null(mkdtemp(dir));
    snprintf(node, sizeof(node), "%s/dev", dir);
    cr_assert_eq(chmod(dir, 0755) | mkdir(node, 0755), 0);
    snprintf(node, sizeof(node), "%s/dev/kvm", dir);
    if (mode >= 0)
        close(open(node, O_CREAT | O_WRONLY | O_CLOEXEC, (mode_t)mode));
    cr_assert_eq(chroot(dir), 0);
    cr_assert_eq(super ? 0 : seteuid(65534), 0);
    int err = create_with_stderr(1);
    cr_assert_eq(seteuid(0) | fchdir(root) | chroot("."), 0);
    close(root);
    unlink(node);
    *strrchr(node, '/') = 0;
    rmdir(node);
    rmdir(dir);
    return err;
}

Test(kvm_node, missing)
{
    cr_expect_eq(create_in_a_root_with(-1, true), -ENOENT);
    expect_line("minivmm: /dev/kvm: cannot open it: No such file or directory; enable");
    cr_expect_not_null(strstr(text, "modprobe kvm_intel"));
}

Test(kvm_node, forbidden)
{
    cr_expect_eq(create_in_a_root_with(0, false), -EACCES);
    expect_line("minivmm: /dev/kvm: cannot open it: Permission denied; join the group");
}

Test(kvm_node, not_kvm)
{
    cr_expect_eq(create_in_a_root_with(0600, true), -ENOTSUP);
    expect_line("minivmm: /dev/kvm: cannot use KVM: ");
}
