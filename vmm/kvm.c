/*
 * kvm.c: the virtual machine of Linux's KVM and the services of hv.h on it.
 *
 * Interface: the kernel's Documentation/virt/kvm/api.rst. PIC, IOAPIC, local APICs and PIT are
 * KVM's own (KVM_CREATE_IRQCHIP): an irqfd with a resample eventfd, by which an INTx line runs
 * without user space, needs the IOAPIC in the kernel.
 *
 * KVM_CAP_X2APIC_API stays off. Its 32-bit ids would put an MSI's upper address word, which is
 * the guest's to write, to use as destination bits, and make KVM refuse the whole routing table
 * when the low byte of that word is not 0. vCPUs with ids above 254 need none of that: a guest
 * in x2APIC mode reaches them by IPI. A device's interrupt it cannot send there: that takes
 * interrupt remapping or KVM's extended destination ids, and this machine has neither (there is
 * no room for the latter in the kernel's IOAPIC). A message to 255 goes to all, as on a PC.
 *
 * LOCK protects slots, routes and the VFIO device, and is held during the KVM calls that change
 * them; nothing else is locked under it.
 */
#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm/cpuid.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/uapi.h"
#include "vmm/util.h"

#define KVM_NODE "/dev/kvm"

/* KVM puts the identity map here when it is not told otherwise. */
_Static_assert(LAYOUT_IDENTITY == 0xfffbc000, "KVM's default");
_Static_assert(LAYOUT_IOAPIC == 0xfec00000, "KVM's IOAPIC cannot be moved");

enum { LIMIT_SLOTS, LIMIT_ROUTES, LIMIT_VCPUS, LIMITS };

static const struct requirement {
    int cap;
    int minimum;
    const char *name;
    const char *purpose;
} required[] = {
    [LIMIT_SLOTS] = {KVM_CAP_NR_MEMSLOTS, 32, "NR_MEMSLOTS", "RAM and devices' memory"},
    [LIMIT_ROUTES] = {KVM_CAP_IRQ_ROUTING, 256, "IRQ_ROUTING", "message-signalled interrupts"},
    [LIMIT_VCPUS] = {KVM_CAP_MAX_VCPUS, 1, "MAX_VCPUS", "virtual CPUs"},
    {KVM_CAP_IRQCHIP, 1, "IRQCHIP", "interrupt controllers in the kernel"},
    {KVM_CAP_PIT2, 1, "PIT2", "the timer that guests calibrate their clocks with"},
    {KVM_CAP_REINJECT_CONTROL, 1, "REINJECT_CONTROL", "a timer that drops late ticks"},
    {KVM_CAP_SET_TSS_ADDR, 1, "SET_TSS_ADDR", "real mode on Intel processors"},
    {KVM_CAP_EXT_CPUID, 1, "EXT_CPUID", "choosing what the guest sees in CPUID"},
    {KVM_CAP_MP_STATE, 1, "MP_STATE", "guest resets with several CPUs"},
    {KVM_CAP_VCPU_EVENTS, 1, "VCPU_EVENTS", "guest resets"},
    {KVM_CAP_IRQFD_RESAMPLE, 1, "IRQFD_RESAMPLE", "interrupts of passed-through devices"},
    {KVM_CAP_IMMEDIATE_EXIT, 1, "IMMEDIATE_EXIT", "stopping virtual CPUs without a race"},
};

#define FIXED_ROUTES (15 + LAYOUT_GSI_COUNT - 1)
#define TABLE_MAX    4096U /* slots or routes; of KVM's that are more, the rest is not used */

struct kvm {
    struct hv hv;
    int dev_fd, vm_fd;
    int vfio_fd; /* KVM's VFIO device, -1: not needed yet */
    unsigned run_size;
    unsigned limit[LIMITS];
    struct kvm_cpuid2 *cpuid;

    pthread_mutex_t lock;
    bool slot_used[TABLE_MAX];
    union { /* as KVM takes it: the fixed routes, then those to MSIs, sorted by gsi */
        struct kvm_irq_routing routing;
        uint8_t routing_room[sizeof(struct kvm_irq_routing) +
                             TABLE_MAX * sizeof(struct kvm_irq_routing_entry)];
    };
};

static struct kvm *from_hv(struct hv *hv)
{
    return container_of(hv, struct kvm, hv);
}

/* An ioctl that gives a negative errno; its argument is a pointer or, for some, a number. */
static int call(int fd, unsigned long request, const void *arg)
{
    int ret = ioctl(fd, request, arg);
    return ret < 0 ? -errno : ret;
}

static int call_number(int fd, unsigned long request, unsigned long arg)
{
    int ret = ioctl(fd, request, arg);
    return ret < 0 ? -errno : ret;
}

/* ---- start ---- */

static int open_node(void)
{
    int fd = open(KVM_NODE, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int err = -errno;
    const char *hint = "see the kernel's log (dmesg)";
    if (err == -ENOENT || err == -ENODEV || err == -ENXIO)
        hint = "enable virtualisation (VT-x, AMD-V) in the firmware and load the module: "
               "modprobe kvm_intel, or modprobe kvm_amd";
    else if (err == -EACCES || err == -EPERM)
        hint = "join the group that may use it (usermod -aG kvm USER) and log in again";
    log_error(KVM_NODE, "cannot open it: %s; %s", strerror(-err), hint);
    return err;
}

static int check_host(struct kvm *kvm, unsigned cpus)
{
    int version = call_number(kvm->dev_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        log_error(KVM_NODE,
                  "cannot use KVM: its API version is %d, not %d; use Linux 5.10 or later",
                  version, KVM_API_VERSION);
        return -ENOTSUP;
    }
    for (size_t i = 0; i < ARRAY_SIZE(required); i++) {
        const struct requirement *r = &required[i];
        int value = call_number(kvm->dev_fd, KVM_CHECK_EXTENSION, (unsigned long)r->cap);
        if (value < r->minimum) {
            log_error(KVM_NODE,
                      "cannot use KVM: capability KVM_CAP_%s is %d, not %d or more, but needed "
                      "for %s; use a newer kernel",
                      r->name, MAX(value, 0), r->minimum, r->purpose);
            return -ENOTSUP;
        }
        if (i < LIMITS)
            kvm->limit[i] = MIN((unsigned)value, TABLE_MAX);
    }
    if (cpus > kvm->limit[LIMIT_VCPUS]) {
        log_error(
            "--cpus",
            "cannot give the guest %u CPUs: %u is the most that this host's KVM has; give "
            "less",
            cpus, kvm->limit[LIMIT_VCPUS]);
        return -EINVAL;
    }
    return 0;
}

/* Inputs 0-15 at the PIC but 2, its cascade; 0-23 at the IOAPIC but 2, which gets input 0: the
 * PIT always raises input 0, which the tables given to the guest (an interrupt source override
 * in the MADT) place at the IOAPIC's pin 2, as on every PC. KVM's own default is pin 0; a PC's
 * wiring has to be in place before the guest looks. */
static void set_fixed_routes(struct kvm_irq_routing *routing)
{
    struct kvm_irq_routing_entry *e = routing->entries;
    for (uint32_t gsi = 0; gsi < LAYOUT_GSI_COUNT; gsi++) {
        if (gsi == 2)
            continue;
        if (gsi < 16) {
            *e++ = (struct kvm_irq_routing_entry){
                .gsi = gsi,
                .type = KVM_IRQ_ROUTING_IRQCHIP,
                .u.irqchip = {gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                              gsi % 8},
            };
        }
        *e++ = (struct kvm_irq_routing_entry){
            .gsi = gsi,
            .type = KVM_IRQ_ROUTING_IRQCHIP,
            .u.irqchip = {KVM_IRQCHIP_IOAPIC, gsi == LAYOUT_GSI_PIT ? 2 : gsi},
        };
    }
    routing->nr = FIXED_ROUTES;
}

static int create_vm(struct kvm *kvm)
{
    const char *what = "create a virtual machine";
    int err = kvm->vm_fd = call_number(kvm->dev_fd, KVM_CREATE_VM, 0);
    if (err >= 0) {
        what = "place the TSS";
        err = call_number(kvm->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_TSS);
    }
    if (err >= 0) {
        what = "get the size of a CPU's shared page";
        err = call_number(kvm->dev_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
        kvm->run_size = (unsigned)MAX(err, 0);
    }
    if (err >= 0) {
        what = "get the host's CPUID";
        err = call(kvm->dev_fd, KVM_GET_SUPPORTED_CPUID, kvm->cpuid);
    }
    if (err >= 0)
        return 0;
    log_error(KVM_NODE, "cannot %s: %s; %s", what, strerror(-err),
              err == -EBUSY ? "stop the other hypervisor that holds the processor"
                            : "free memory, or see the kernel's log (dmesg)");
    return err;
}

static const struct hv_ops kvm_hv_ops;

int kvm_create(struct kvm **out, unsigned cpus)
{
    struct kvm *kvm = calloc(1, sizeof(*kvm));
    struct kvm_cpuid2 *cpuid =
        calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
    if (!kvm || !cpuid) {
        log_error(KVM_NODE, "cannot use KVM: out of memory; free some");
        free(kvm);
        free(cpuid);
        return -ENOMEM;
    }
    kvm->hv.ops = &kvm_hv_ops;
    kvm->vm_fd = kvm->vfio_fd = -1;
    pthread_mutex_init(&kvm->lock, NULL);
    set_fixed_routes(&kvm->routing);
    kvm->cpuid = cpuid;
    cpuid->nent = CPUID_ENTRIES_MAX;
    int err = kvm->dev_fd = open_node();
    if (err >= 0)
        err = check_host(kvm, cpus);
    if (err >= 0)
        err = create_vm(kvm);
    if (err < 0) {
        kvm_destroy(kvm);
        return err;
    }
    *out = kvm;
    return 0;
}

void kvm_destroy(struct kvm *kvm)
{
    if (!kvm)
        return;
    const int fds[] = {kvm->vfio_fd, kvm->vm_fd, kvm->dev_fd};
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    free(kvm->cpuid);
    free(kvm);
}

struct hv *kvm_hv(struct kvm *kvm)
{
    return &kvm->hv;
}

const struct kvm_cpuid2 *kvm_supported_cpuid(const struct kvm *kvm)
{
    return kvm->cpuid;
}

int kvm_vm_fd(const struct kvm *kvm)
{
    return kvm->vm_fd;
}

unsigned kvm_run_size(const struct kvm *kvm)
{
    return kvm->run_size;
}

/* ---- interrupt controllers ---- */

int kvm_create_irqchip(struct kvm *kvm)
{
    const struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY}; /* port 0x61 too */
    /* A tick that finds the one before it undelivered is dropped, as on a PC. KVM's default, to
     * deliver it later, keeps a guest that is slower than its ticks busy with them for ever,
     * and forbids AMD's AVIC. */
    const struct kvm_reinject_control reinject = {.pit_reinject = 0};
    const struct {
        unsigned long request;
        const void *arg;
        const char *what;
    } step[] = {
        {KVM_CREATE_IRQCHIP, NULL, "create the interrupt controllers"},
        {KVM_SET_GSI_ROUTING, &kvm->routing, "route the interrupts"},
        {KVM_CREATE_PIT2, &pit, "create the timer (PIT)"},
        {KVM_REINJECT_CONTROL, &reinject, "make the timer drop late ticks"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(step); i++) {
        int err = call(kvm->vm_fd, step[i].request, step[i].arg);
        if (err) {
            log_error(KVM_NODE, "cannot %s: %s; see the kernel's log (dmesg)", step[i].what,
                      strerror(-err));
            return err;
        }
    }
    return 0;
}

/* Every register zero, but: the PICs' inputs whose trigger mode the chipset lets nobody choose,
 * 0 to 2, 8 and 13 (Intel 82371AB, edge/level control registers); every pin of the IOAPIC
 * masked (82093AA, 3.2.4 "IOREDTBL"); no counter of the PIT runs until it is programmed, KVM's
 * mode 0xff, and gates 0 and 1 are wired high. */
int kvm_reset_irqchip(struct kvm *kvm)
{
    struct kvm_irqchip chip[] = {
        {.chip_id = KVM_IRQCHIP_PIC_MASTER, .chip.pic.elcr_mask = 0xf8},
        {.chip_id = KVM_IRQCHIP_PIC_SLAVE, .chip.pic.elcr_mask = 0xde},
        {.chip_id = KVM_IRQCHIP_IOAPIC, .chip.ioapic.base_address = LAYOUT_IOAPIC},
    };
    struct kvm_pit_state2 pit = {.flags = 0};
    for (size_t i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        chip[2].chip.ioapic.redirtbl[i].fields.mask = 1;
    for (size_t i = 0; i < ARRAY_SIZE(pit.channels); i++)
        pit.channels[i] =
            (struct kvm_pit_channel_state){.count = 0x10000, .mode = 0xff, .gate = i != 2};

    int err = call(kvm->vm_fd, KVM_SET_PIT2, &pit); /* first: it raises the others' input 0 */
    for (size_t i = 0; i < ARRAY_SIZE(chip) && !err; i++)
        err = call(kvm->vm_fd, KVM_SET_IRQCHIP, &chip[i]);
    if (err)
        log_error(KVM_NODE, "cannot reset the interrupt controllers: %s; start anew",
                  strerror(-err));
    return err;
}

/* ---- hv.h: memory slots ---- */

static int set_slot(const struct kvm *kvm, unsigned slot, uint64_t gpa, const void *hva,
                    uint64_t size)
{
    const struct kvm_userspace_memory_region region = {
        .slot = slot,
        .guest_phys_addr = gpa,
        .memory_size = size,
        .userspace_addr = (uintptr_t)hva,
    };
    return call(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

static int slot_add(struct hv *hv, uint64_t gpa, void *hva, uint64_t size)
{
    struct kvm *kvm = from_hv(hv);
    unsigned slot = 0;
    int ret = -ENOSPC;
    pthread_mutex_lock(&kvm->lock);
    while (slot < kvm->limit[LIMIT_SLOTS] && kvm->slot_used[slot])
        slot++;
    if (slot < kvm->limit[LIMIT_SLOTS])
        ret = set_slot(kvm, slot, gpa, hva, size);
    if (!ret) {
        kvm->slot_used[slot] = true;
        ret = (int)slot;
    }
    pthread_mutex_unlock(&kvm->lock);
    return ret;
}

static int slot_remove(struct hv *hv, int slot)
{
    struct kvm *kvm = from_hv(hv);
    int err = -ENOENT;
    pthread_mutex_lock(&kvm->lock);
    if (slot >= 0 && (unsigned)slot < kvm->limit[LIMIT_SLOTS] && kvm->slot_used[slot]) {
        err = set_slot(kvm, (unsigned)slot, 0, NULL, 0);
        kvm->slot_used[slot] = err != 0;
    }
    pthread_mutex_unlock(&kvm->lock);
    return err;
}

/* ---- hv.h: interrupts ---- */

static int irq_line(struct hv *hv, uint32_t gsi, bool level)
{
    const struct kvm_irq_level line = {.irq = gsi, .level = level};
    return call(from_hv(hv)->vm_fd, KVM_IRQ_LINE, &line);
}

static void set_msi(struct kvm_irq_routing_entry *e, uint32_t gsi, const struct hv_msi *msi)
{
    *e = (struct kvm_irq_routing_entry){
        .gsi = gsi,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = {.address_lo = (uint32_t)msi->address,
                  .address_hi = (uint32_t)(msi->address >> 32),
                  .data = msi->data},
    };
}

/* The first gsi that no route has: the entries are sorted, so it is where the numbers skip. */
static int add_route_locked(struct kvm *kvm, const struct hv_msi *msi)
{
    struct kvm_irq_routing *r = &kvm->routing;
    uint32_t at = FIXED_ROUTES;
    if (r->nr >= kvm->limit[LIMIT_ROUTES])
        return -ENOSPC;
    while (at < r->nr && r->entries[at].gsi == LAYOUT_GSI_COUNT + at - FIXED_ROUTES)
        at++;
    struct kvm_irq_routing_entry *e = &r->entries[at];
    size_t after = (r->nr - at) * sizeof(*e);
    memmove(e + 1, e, after);
    set_msi(e, LAYOUT_GSI_COUNT + at - FIXED_ROUTES, msi);
    r->nr++;
    int err = call(kvm->vm_fd, KVM_SET_GSI_ROUTING, r);
    if (!err)
        return (int)e->gsi;
    memmove(e, e + 1, after);
    r->nr--;
    return err;
}

static int route_add(struct hv *hv, const struct hv_msi *msi)
{
    struct kvm *kvm = from_hv(hv);
    pthread_mutex_lock(&kvm->lock);
    int ret = add_route_locked(kvm, msi);
    pthread_mutex_unlock(&kvm->lock);
    return ret;
}

static struct kvm_irq_routing_entry *find_route(struct kvm *kvm, uint32_t gsi)
{
    struct kvm_irq_routing *r = &kvm->routing;
    for (uint32_t i = FIXED_ROUTES; i < r->nr; i++) {
        if (r->entries[i].gsi == gsi)
            return &r->entries[i];
    }
    return NULL;
}

/* A change costs an SRCU grace period in the kernel; guests write the same message often. */
static int route_update(struct hv *hv, uint32_t gsi, const struct hv_msi *msi)
{
    struct kvm *kvm = from_hv(hv);
    int err = -ENOENT;
    pthread_mutex_lock(&kvm->lock);
    struct kvm_irq_routing_entry *e = find_route(kvm, gsi);
    if (e) {
        const struct kvm_irq_routing_entry old = *e;
        set_msi(e, gsi, msi);
        bool same = !memcmp(&e->u.msi, &old.u.msi, sizeof(old.u.msi));
        err = same ? 0 : call(kvm->vm_fd, KVM_SET_GSI_ROUTING, &kvm->routing);
        if (err)
            *e = old;
    }
    pthread_mutex_unlock(&kvm->lock);
    return err;
}

/* KVM is told with the next change: until then it keeps a route that no irqfd uses. */
static int route_remove(struct hv *hv, uint32_t gsi)
{
    struct kvm *kvm = from_hv(hv);
    pthread_mutex_lock(&kvm->lock);
    struct kvm_irq_routing_entry *e = find_route(kvm, gsi);
    if (e) {
        struct kvm_irq_routing *r = &kvm->routing;
        memmove(e, e + 1, (size_t)(&r->entries[r->nr] - (e + 1)) * sizeof(*e));
        r->nr--;
    }
    pthread_mutex_unlock(&kvm->lock);
    return e ? 0 : -ENOENT;
}

static int irqfd_add(struct hv *hv, int fd, uint32_t gsi, int resample_fd)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = gsi};
    if (resample_fd >= 0) {
        irqfd.flags = KVM_IRQFD_FLAG_RESAMPLE;
        irqfd.resamplefd = (uint32_t)resample_fd;
    }
    return call(from_hv(hv)->vm_fd, KVM_IRQFD, &irqfd);
}

static int irqfd_remove(struct hv *hv, int fd, uint32_t gsi)
{
    const struct kvm_irqfd irqfd = {
        .fd = (uint32_t)fd, .gsi = gsi, .flags = KVM_IRQFD_FLAG_DEASSIGN};
    return call(from_hv(hv)->vm_fd, KVM_IRQFD, &irqfd);
}

/* ---- hv.h: doorbells ---- */

static int ioeventfd(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio,
                     uint32_t flags)
{
    const struct kvm_ioeventfd io = {
        .addr = addr,
        .len = len,
        .fd = fd,
        .flags = flags | (pio ? KVM_IOEVENTFD_FLAG_PIO : 0),
    };
    return call(from_hv(hv)->vm_fd, KVM_IOEVENTFD, &io);
}

static int ioeventfd_add(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio)
{
    return ioeventfd(hv, fd, addr, len, pio, 0);
}

static int ioeventfd_remove(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio)
{
    return ioeventfd(hv, fd, addr, len, pio, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

/* ---- hv.h: VFIO files (Documentation/virt/kvm/devices/vfio.rst) ---- */

static int vfio_file(struct hv *hv, int fd, uint64_t attribute)
{
    struct kvm *kvm = from_hv(hv);
    const int32_t file = fd;
    const struct kvm_device_attr attr = {
        .group = UAPI_KVM_DEV_VFIO_FILE,
        .attr = attribute,
        .addr = (uintptr_t)&file,
    };
    struct kvm_create_device device = {.type = KVM_DEV_TYPE_VFIO};
    int err = 0;

    pthread_mutex_lock(&kvm->lock);
    if (kvm->vfio_fd < 0) {
        err = call(kvm->vm_fd, KVM_CREATE_DEVICE, &device);
        if (!err)
            kvm->vfio_fd = (int)device.fd;
    }
    if (!err)
        err = call(kvm->vfio_fd, KVM_SET_DEVICE_ATTR, &attr);
    pthread_mutex_unlock(&kvm->lock);
    return err;
}

static int vfio_file_add(struct hv *hv, int fd)
{
    return vfio_file(hv, fd, UAPI_KVM_DEV_VFIO_FILE_ADD);
}

static int vfio_file_remove(struct hv *hv, int fd)
{
    return vfio_file(hv, fd, UAPI_KVM_DEV_VFIO_FILE_DEL);
}

static const struct hv_ops kvm_hv_ops = {
    .slot_add = slot_add,
    .slot_remove = slot_remove,
    .irq_line = irq_line,
    .route_add = route_add,
    .route_update = route_update,
    .route_remove = route_remove,
    .irqfd_add = irqfd_add,
    .irqfd_remove = irqfd_remove,
    .ioeventfd_add = ioeventfd_add,
    .ioeventfd_remove = ioeventfd_remove,
    .vfio_file_add = vfio_file_add,
    .vfio_file_remove = vfio_file_remove,
};
