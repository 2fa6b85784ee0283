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
#include <stdarg.h>
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

/* FIX may be NULL, where there is none or A has it already. Returns V. */
__attribute__((format(printf, 4, 5))) static enum verdict say(struct answer *a, enum verdict v,
                                                              const char *fix, const char *fmt,
                                                              ...)
{
    va_list args;
    va_start(args, fmt);
    /* As in log.c. NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized) */
    vsnprintf(a->what, sizeof(a->what), fmt, args);
    va_end(args);
    if (fix)
        SAY(a->fix, "%s", fix);
    return v;
}

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
    SAY(word, " %s ", flag);
    return file_has("/proc/cpuinfo", word);
}

/* ---- the machine ---- */

static enum verdict ask_kvm(struct answer *a)
{
    struct kvm *kvm;
    if (access(NODE_KVM, R_OK | W_OK) < 0) {
        int err = errno;
        const char *fix = "turn virtualisation (VT-x, AMD-V or SVM) on in the firmware";
        if (cpu_has("svm"))
            fix = "modprobe kvm_amd";
        else if (cpu_has("vmx"))
            fix = "modprobe kvm_intel";
        else if (cpu_has("hypervisor"))
            fix = "allow nested virtualisation on the host of this virtual machine";
        if (err == EACCES) {
            SAY(a->fix, "usermod -aG kvm $(id -un %u), and log in again", getuid());
            fix = NULL;
        }
        return say(a, NO, fix, NODE_KVM ": %s", strerror(err));
    }
    if (kvm_create(&kvm, 1))
        return say(a, NO, NULL, NODE_KVM " cannot be used, as the message above says");
    kvm_destroy(kvm);
    return say(a, YES, NULL, NODE_KVM " has all that is needed");
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
        SAY(dir, "/sys/module/%s/parameters", m);
        vfio_sysfs_line(dir, p, on, sizeof(on));
        vfio_sysfs_line(dir, "nested", nested, sizeof(nested));
        if (on[0])
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
    const char *fix = "turn the IOMMU (VT-d, AMD-Vi) on in the firmware";
    if (have_groups())
        return say(a, YES, NULL, "on: there are IOMMU groups");
    if (vfio_sysfs_has("/sys/firmware/acpi/tables", "DMAR"))
        fix = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&intel_iommu=on /' /etc/default/grub; "
              "update-grub; reboot";
    else if (vfio_sysfs_has("/sys/firmware/acpi/tables", "IVRS"))
        fix = "take amd_iommu=off and iommu=off from GRUB_CMDLINE_LINUX in "
              "/etc/default/grub; update-grub; reboot";
    else if (cpu_has("hypervisor"))
        fix = "give this virtual machine an IOMMU; QEMU: -machine "
              "q35,kernel-irqchip=split -device intel-iommu,intremap=on";
    return say(a, NO, fix, "no IOMMU group in /sys/kernel/iommu_groups");
}

static enum verdict ask_remapping(struct answer *a)
{
    bool iommufd = access(CONTAINER, F_OK) < 0 && access(IOMMUFD, F_OK) == 0;
    char dir[64], unsafe[8];
    SAY(dir, "/sys/module/%s/parameters", iommufd ? "iommufd" : "vfio_iommu_type1");
    vfio_sysfs_line(dir, "allow_unsafe_interrupts", unsafe, sizeof(unsafe));
    if (file_has("/proc/interrupts", " IR-"))
        return say(a, YES, NULL, "on");
    if (unsafe[0] == 'Y')
        return say(a, NOTE, NULL, "off, and VFIO told to go without");
    if (!have_groups())
        return say(a, NO, "comes with the IOMMU", "off");
    SAY(a->fix,
        "turn it (x2APIC) on in the firmware; or, if guests are trusted: echo 1 > "
        "%s/allow_unsafe_interrupts",
        dir);
    return say(a, NO, NULL, "off");
}

static enum verdict ask_vfio(struct answer *a)
{
    bool iommufd = access(IOMMUFD, F_OK) == 0;
    if (!vfio_sysfs_has("/sys/bus/pci/drivers", "vfio-pci"))
        return say(a, NO, "modprobe vfio-pci", "vfio-pci is not loaded");
    if (!iommufd && access(CONTAINER, F_OK) < 0)
        return say(a, NO, "in a container: give it the host's (--device /dev/vfio)",
                   "there is no " CONTAINER " and no " IOMMUFD " here");
    return say(a, YES, NULL, "vfio-pci is loaded%s", iommufd ? "; there is iommufd" : "");
}

/* A guest's RAM is pinned for its devices. */
static enum verdict ask_memlock(struct answer *a)
{
    struct rlimit lim = {0, 0};
    getrlimit(RLIMIT_MEMLOCK, &lim);
    if (geteuid() == 0 || lim.rlim_cur == RLIM_INFINITY)
        return say(a, YES, NULL, "unlimited");
    SAY(a->fix,
        "echo ':%u - memlock unlimited' > /etc/security/limits.d/minivmm.conf, and log "
        "in again",
        getuid());
    return say(a, lim.rlim_cur < 512 * MIB ? NO : NOTE, NULL,
               "RLIMIT_MEMLOCK is %llu MiB, the most that a guest can have with a device",
               (unsigned long long)(lim.rlim_cur / MIB));
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
    const char *shown = driver[0] ? driver : "no driver";
    if (group < 0)
        return say(a, NO, "comes with the IOMMU", "%s; in no IOMMU group", shown);
    vfio_sysfs_neighbours(group, &near);
    bool ready = vfio_sysfs_is_vfio(a->path, driver) && !near.in_use[0];
    if (!ready)
        SAY(a->fix, "minivmm host bind %s", vfio_sysfs_name(a->path));
    return say(a, ready ? YES : NO, NULL, "%s; group %d: %s", shown, group, near.all);
}

static enum verdict ask_in_use(struct answer *a)
{
    struct host_use use;
    if (host_in_use(a->path, &use))
        return say(a, NO, use.fix, "%s", use.who);
    return say(a, YES, NULL, "by nobody");
}

/* By its group or, where that has no node or this user may not use it, by the device's own. */
static enum verdict ask_permission(struct answer *a)
{
    char group[64], own[64];
    SAY(group, "/dev/vfio/%d", vfio_sysfs_group(a->path));
    bool has_group = access(group, F_OK) == 0;
    bool has_own = !vfio_sysfs_cdev(a->path, own, sizeof(own)) && access(own, F_OK) == 0 &&
                   access(IOMMUFD, F_OK) == 0;
    if (has_group && access(group, R_OK | W_OK) == 0)
        return say(a, YES, NULL, "to use %s", group);
    if (has_own && access(own, R_OK | W_OK) == 0 && access(IOMMUFD, R_OK | W_OK) == 0)
        return say(a, YES, NULL, "to use %s", own);
    if (!has_group && !has_own)
        return say(a, NO, "comes with the driver", "the group has no node");
    SAY(a->fix, "chown %u %s%s", getuid(), has_group ? group : own,
        has_group ? "" : " " IOMMUFD);
    return say(a, NO, NULL, "none to use %s", has_group ? group : own);
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

int host_check(const struct host_devices *named, bool unused)
{
    (void)unused;
    printf("this machine\n");
    unsigned missing = ask(of_machine, ARRAY_SIZE(of_machine), NULL);
    for (unsigned i = 0; i < named->nr; i++) {
        printf("%s\n", vfio_sysfs_name(named->at[i].text));
        missing += ask(of_device, ARRAY_SIZE(of_device), named->at[i].text);
    }
    if (missing)
        printf("not ready: %u to mend\n", missing);
    else
        printf("ready\n");
    return missing ? -ENOTSUP : 0;
}
