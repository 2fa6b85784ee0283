/*
 * host_check.c: `minivmm host check`: is this machine ready, and these devices? One table of
 * questions for the machine, one for each device; to a "no" belongs the command that mends it.
 *
 * KVM is asked by making a virtual machine with all that minivmm needs; the rest is read from
 * sysfs and procfs (Linux Documentation/ABI/testing/sysfs-kernel-iommu_groups,
 * admin-guide/mm/hugetlbpage.rst and transhuge.rst; proc(5)). Whether interrupts are remapped
 * is seen in /proc/interrupts: the kernel calls such interrupt chips IR-something.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vmm/host.h"
#include "vmm/kvm.h"
#include "vmm/util.h"

#define NODE_KVM  "/dev/kvm"
#define CONTAINER "/dev/vfio/vfio"
#define IOMMUFD   "/dev/iommu"
#define HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-2048kB"
#define THP       "/sys/kernel/mm/transparent_hugepage"

enum verdict { NO, YES, NOTE };

struct answer {
    const char *path; /* of the device that is asked for */
    char what[512];   /* what was found */
    char fix[512];    /* what to do about it; "": nothing */
};

#define SAY(field, ...) snprintf(field, sizeof(field), __VA_ARGS__)

static bool file_has(const char *path, const char *word)
{
    char *text = vfio_sysfs_load(path);
    bool has = text && strstr(text, word);
    free(text);
    return has;
}

static bool cpu_has(const char *flag)
{
    char word[32];
    snprintf(word, sizeof(word), " %s ", flag);
    return file_has("/proc/cpuinfo", word);
}

/* ---- the machine ---- */

static enum verdict ask_kvm(struct answer *a)
{
    struct kvm *kvm;
    const char *module = cpu_has("svm") ? "kvm_amd" : cpu_has("vmx") ? "kvm_intel" : NULL;
    if (access(NODE_KVM, R_OK | W_OK) < 0) {
        SAY(a->what, NODE_KVM ": %s", strerror(errno));
        if (errno == EACCES)
            SAY(a->fix, "usermod -aG kvm $(id -un %u), and log in again", getuid());
        else if (module)
            SAY(a->fix, "modprobe %s", module);
        else if (cpu_has("hypervisor"))
            SAY(a->fix, "allow nested virtualisation on the host of this virtual machine");
        else
            SAY(a->fix, "turn virtualisation (VT-x, AMD-V or SVM) on in the firmware");
        return NO;
    }
    if (kvm_create(&kvm, 1)) {
        SAY(a->what, NODE_KVM " cannot be used, as the message above says");
        return NO;
    }
    kvm_destroy(kvm);
    SAY(a->what, NODE_KVM " has all that is needed");
    return YES;
}

/* Interrupts of devices reach a running guest without an exit only where the processor's APIC
 * emulation is on. AMD's comes switched off in many kernels. */
static enum verdict ask_apic(struct answer *a)
{
    static const struct {
        const char *module, *parameter, *flag;
    } vendor[] = {{"kvm_amd", "avic", "avic"}, {"kvm_intel", "enable_apicv", "vmx"}};
    SAY(a->what, "not known: KVM has no module parameters here");
    for (size_t i = 0; i < ARRAY_SIZE(vendor); i++) {
        const char *m = vendor[i].module, *p = vendor[i].parameter;
        char dir[64], on[8], nested[8];
        snprintf(dir, sizeof(dir), "/sys/module/%s/parameters", m);
        vfio_sysfs_line(dir, p, on, sizeof(on));
        vfio_sysfs_line(dir, "nested", nested, sizeof(nested));
        if (!on[0])
            continue;
        SAY(a->what, "%s: %s=%s nested=%s", m, p, on, nested);
        if ((on[0] == 'N' || on[0] == '0') && cpu_has(vendor[i].flag))
            SAY(a->fix, "for faster interrupts: modprobe -r %s; modprobe %s %s=1", m, m, p);
    }
    return NOTE;
}

static bool have_groups(void)
{
    char list[64];
    vfio_sysfs_names("/sys/kernel/iommu_groups", list, sizeof(list));
    return list[0];
}

static enum verdict ask_iommu(struct answer *a)
{
    if (have_groups()) {
        SAY(a->what, "on: there are IOMMU groups");
        return YES;
    }
    SAY(a->what, "no IOMMU group in /sys/kernel/iommu_groups");
    if (vfio_sysfs_has("/sys/firmware/acpi/tables", "DMAR"))
        SAY(a->fix, "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub; "
                    "update-grub; reboot");
    else if (vfio_sysfs_has("/sys/firmware/acpi/tables", "IVRS"))
        SAY(a->fix, "take amd_iommu=off and iommu=off from GRUB_CMDLINE_LINUX in "
                    "/etc/default/grub; update-grub; reboot");
    else if (cpu_has("hypervisor"))
        SAY(a->fix, "give this virtual machine an IOMMU; QEMU: -machine "
                    "q35,kernel-irqchip=split -device intel-iommu,intremap=on");
    else
        SAY(a->fix, "turn the IOMMU (VT-d, AMD-Vi) on in the firmware");
    return NO;
}

static enum verdict ask_remapping(struct answer *a)
{
    char unsafe[8];
    bool iommufd = access(CONTAINER, F_OK) < 0 && access(IOMMUFD, F_OK) == 0;
    const char *dir =
        iommufd ? "/sys/module/iommufd/parameters" : "/sys/module/vfio_iommu_type1/parameters";
    vfio_sysfs_line(dir, "allow_unsafe_interrupts", unsafe, sizeof(unsafe));
    bool on = file_has("/proc/interrupts", " IR-");
    SAY(a->what, "%s",
        on                 ? "on"
        : unsafe[0] == 'Y' ? "off, and VFIO told to go without"
                           : "off");
    if (on || unsafe[0] == 'Y')
        return on ? YES : NOTE;
    if (have_groups())
        SAY(a->fix,
            "turn it (x2APIC) on in the firmware; or, if guests are trusted: echo 1 > "
            "%s/allow_unsafe_interrupts",
            dir);
    else
        SAY(a->fix, "comes with the IOMMU");
    return NO;
}

static enum verdict ask_vfio(struct answer *a)
{
    bool driver = vfio_sysfs_has("/sys/bus/pci/drivers", "vfio-pci");
    bool iommufd = !access(IOMMUFD, F_OK), node = iommufd || !access(CONTAINER, F_OK);
    SAY(a->what, "vfio-pci is %sloaded%s", driver ? "" : "not ",
        iommufd ? "; there is iommufd" : "");
    if (!driver)
        SAY(a->fix, "modprobe vfio-pci");
    else if (!node)
        SAY(a->what, "there is no " CONTAINER " and no " IOMMUFD " here");
    return driver && node ? YES : NO;
}

/* A guest's RAM is pinned for its devices. */
static enum verdict ask_memlock(struct answer *a)
{
    struct rlimit lim = {0, 0};
    getrlimit(RLIMIT_MEMLOCK, &lim);
    if (geteuid() == 0 || lim.rlim_cur == RLIM_INFINITY) {
        SAY(a->what, "unlimited");
        return YES;
    }
    SAY(a->what, "RLIMIT_MEMLOCK is %llu MiB, the most that a guest can have with a device",
        (unsigned long long)(lim.rlim_cur / MIB));
    SAY(a->fix,
        "echo ':%u - memlock unlimited' > /etc/security/limits.d/minivmm.conf, and log "
        "in again",
        getuid());
    return lim.rlim_cur < 512 * MIB ? NO : NOTE;
}

/* They make the start faster and a device's translations fewer. Guest RAM is shared memory: the
 * word for transparent ones is shmem_enabled's. */
static enum verdict ask_hugepages(struct answer *a)
{
    char thp[64];
    vfio_sysfs_line(THP, "shmem_enabled", thp, sizeof(thp));
    SAY(a->what, "transparent: %s; reserved: %u of 2 MiB, %u free", thp[0] ? thp : "no",
        vfio_sysfs_number(HUGEPAGES, "nr_hugepages"),
        vfio_sysfs_number(HUGEPAGES, "free_hugepages"));
    if (strstr(thp, "[never]") || strstr(thp, "[deny]"))
        SAY(a->fix, "for a faster start: echo advise > " THP "/shmem_enabled");
    return NOTE;
}

/* ---- a device ---- */

static enum verdict ask_driver(struct answer *a)
{
    struct vfio_sysfs_neighbours near;
    char driver[64];
    int group = vfio_sysfs_group(a->path);
    vfio_sysfs_driver(a->path, driver, sizeof(driver));
    vfio_sysfs_neighbours(group, &near);
    SAY(a->what, "%s; group %d: %s", driver[0] ? driver : "no driver", group, near.all);
    if (vfio_sysfs_is_vfio(a->path, driver) && group >= 0 && !near.in_use[0])
        return YES;
    SAY(a->fix, "minivmm host bind %s", vfio_sysfs_name(a->path));
    if (group < 0) {
        SAY(a->what, "%s; in no IOMMU group", driver[0] ? driver : "no driver");
        SAY(a->fix, "comes with the IOMMU");
    }
    return NO;
}

static enum verdict ask_in_use(struct answer *a)
{
    struct host_use use;
    bool is_used = host_in_use(a->path, &use);
    SAY(a->what, "%s", is_used ? use.who : "by nobody");
    if (is_used)
        SAY(a->fix, "%s", use.fix);
    return is_used ? NO : YES;
}

/* By its group or, where that has no node or this user may not use it, by the device's own. */
static enum verdict ask_permission(struct answer *a)
{
    static const int mode[] = {R_OK | W_OK, F_OK};
    char node[2][64];
    snprintf(node[0], sizeof(node[0]), "/dev/vfio/%d", vfio_sysfs_group(a->path));
    if (vfio_sysfs_cdev(a->path, node[1], sizeof(node[1])))
        node[1][0] = '\0';
    for (unsigned i = 0; i < 4; i++) {
        const char *own = node[i % 2];
        bool iommufd = i % 2, found = i / 2;
        if (access(own, mode[found]) < 0 || (iommufd && access(IOMMUFD, mode[found]) < 0))
            continue;
        SAY(a->what, "%sto use %s", found ? "none " : "", own);
        if (found)
            SAY(a->fix, "chown %u %s%s", getuid(), own, iommufd ? " " IOMMUFD : "");
        return found ? NO : YES;
    }
    SAY(a->what, "the group has no node");
    SAY(a->fix, "comes with the driver");
    return NO;
}

static const struct question {
    const char *name;
    enum verdict (*ask)(struct answer *answer);
} of_machine[] =
    {
        {"KVM", ask_kvm},
        {"APIC emulation", ask_apic},
        {"IOMMU", ask_iommu},
        {"interrupt remapping", ask_remapping},
        {"VFIO", ask_vfio},
        {"locked memory", ask_memlock},
        {"huge pages", ask_hugepages},
},
  of_device[] = {
      {"driver and group", ask_driver},
      {"in use", ask_in_use},
      {"permission", ask_permission},
};

/* Returns how often the answer was no. */
static unsigned ask(const struct question *q, size_t nr, const char *path)
{
    static const char *const word[] = {[NO] = "no", [YES] = "yes", [NOTE] = "note"};
    unsigned missing = 0;
    for (size_t i = 0; i < nr; i++) {
        struct answer a = {.path = path};
        enum verdict v = q[i].ask(&a);
        printf("  %-4s  %-20s  %s\n", word[v], q[i].name, a.what);
        if (a.fix[0])
            printf("  %-4s  %-20s  -> %s\n", "", "", a.fix);
        missing += v == NO;
    }
    return missing;
}

int host_check(const struct host_args *args)
{
    printf("this machine\n");
    unsigned missing = ask(of_machine, ARRAY_SIZE(of_machine), NULL);
    for (unsigned i = 0; i < args->nr; i++) {
        printf("%s\n", vfio_sysfs_name(args->device[i].text));
        missing += ask(of_device, ARRAY_SIZE(of_device), args->device[i].text);
    }
    if (missing)
        printf("not ready: %u to mend\n", missing);
    else
        printf("ready\n");
    return missing ? -ENOTSUP : 0;
}
