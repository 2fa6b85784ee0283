/*
 * vcpu.c: the vCPU threads: KVM_RUN, what to do with each exit, pause and resume.
 *
 * Interface: the kernel's Documentation/virt/kvm/api.rst, KVM_RUN and "The kvm_run structure".
 * What is in a vCPU is vcpu_state.c's.
 *
 * Stopping without a race: under LOCK, PAUSED is set, immediate_exit of every vCPU is set, and
 * every thread gets a signal whose handler does nothing. A vCPU in KVM_RUN comes out by the
 * signal; one on its way there comes out by immediate_exit; a device's handler is not disturbed
 * (SA_RESTART). A thread stops only when KVM_RUN gave EINTR, never right after it has served an
 * access: KVM completes an access at the next KVM_RUN, and would otherwise complete it on top
 * of registers loaded by a reset. Only the thread clears its immediate_exit, under LOCK and
 * when nothing is paused.
 *
 * LOCK protects the fields marked so; it is never held while a vCPU runs or a handler is
 * called.
 */
#include "vmm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vmm/bus.h"
#include "vmm/cpu_list.h"
#include "vmm/kvm.h"
#include "vmm/log.h"
#include "vmm/uapi.h"
#include "vmm/util.h"
#include "vmm/vcpu_state.h"

#define KICK SIGUSR1

struct vcpu {
    struct vcpus *all;
    unsigned index;
    uint32_t apic_id; /* KVM's vCPU id, too */
    char name[16];
    int fd;
    int stats; /* KVM's statistics of it; -1: none */
    struct kvm_run *run;
    pthread_t thread;
    bool started;
    bool ended;                 /* LOCK: after an event, until the next load */
    uint64_t exits[VCPU_EXITS]; /* atomic; written by its thread only */
};

struct vcpus {
    struct vcpus_config config;
    unsigned run_size;
    bool loaded; /* the vCPUs are no longer as KVM made them */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* any of the following */
    bool paused;            /* LOCK */
    bool quit;              /* LOCK */
    unsigned running;       /* LOCK: threads between enter() and leave() */

    struct vcpu vcpu[];
};

/* ---- exits ---- */

enum verdict { GO_ON, KICKED, SHUT_DOWN, FAILED };

/* String instructions come as one exit; each item is one access of the bus. */
static void exit_io(struct vcpu *v)
{
    const struct kvm_run *run = v->run;
    struct bus *pio = v->all->config.pio;
    uint8_t *data = (uint8_t *)v->run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            bus_write(pio, run->io.port, data, run->io.size);
        else
            bus_read(pio, run->io.port, data, run->io.size);
    }
}

static void exit_mmio(struct vcpu *v)
{
    struct kvm_run *run = v->run;
    struct bus *mmio = v->all->config.mmio;
    if (run->mmio.is_write)
        bus_write(mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        bus_read(mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

/* The exit reasons that run_once() does not handle, and why each is unexpected on x86. */
static const char *const unexpected[] = {
    [KVM_EXIT_UNKNOWN] = "UNKNOWN (an exit of the processor that KVM does not know)",
    [KVM_EXIT_HYPERCALL] = "HYPERCALL (not enabled)",
    [KVM_EXIT_DEBUG] = "DEBUG (not enabled)",
    [KVM_EXIT_HLT] = "HLT (with local APICs in the kernel, HLT waits there)",
    [KVM_EXIT_FAIL_ENTRY] = "FAIL_ENTRY (the processor refuses the guest's state)",
    [KVM_EXIT_TPR_ACCESS] = "TPR_ACCESS (not enabled)",
    [KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR (KVM cannot run this guest code)",
    [KVM_EXIT_SYSTEM_EVENT] = "SYSTEM_EVENT (Hyper-V's and SEV's, not offered)",
    [KVM_EXIT_IOAPIC_EOI] = "IOAPIC_EOI (the IOAPIC is in the kernel)",
    [KVM_EXIT_HYPERV] = "HYPERV (not enabled)",
    [KVM_EXIT_X86_RDMSR] = "X86_RDMSR (not enabled: an unknown MSR faults in the guest)",
    [KVM_EXIT_X86_WRMSR] = "X86_WRMSR (not enabled: an unknown MSR faults in the guest)",
    [KVM_EXIT_DIRTY_RING_FULL] = "DIRTY_RING_FULL (not enabled)",
    [KVM_EXIT_AP_RESET_HOLD] = "AP_RESET_HOLD (SEV-ES's, not offered)",
    [KVM_EXIT_X86_BUS_LOCK] = "X86_BUS_LOCK (not enabled)",
    [KVM_EXIT_XEN] = "XEN (not enabled)",
    [KVM_EXIT_NOTIFY] = "NOTIFY (not enabled)",
    [UAPI_KVM_EXIT_MEMORY_FAULT] = "MEMORY_FAULT (the memory behind a slot is gone)",
};

/* What the exit itself tells, as text. */
static void describe(const struct kvm_run *run, char *text, size_t room)
{
    static const char *const suberror[] = {
        [KVM_INTERNAL_ERROR_EMULATION] = "emulation failed",
        [KVM_INTERNAL_ERROR_SIMUL_EX] = "simultaneous exceptions",
        [KVM_INTERNAL_ERROR_DELIVERY_EV] = "exit while delivering an event",
        [KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "unexpected exit",
    };
    uint64_t fault[3]; /* flags, address, size */

    text[0] = 0;
    switch (run->exit_reason) {
    case KVM_EXIT_UNKNOWN:
        snprintf(text, room, ", hardware reason 0x%llx", run->hw.hardware_exit_reason);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(text, room, ", hardware reason 0x%llx on host CPU %u",
                 run->fail_entry.hardware_entry_failure_reason, run->fail_entry.cpu);
        break;
    case KVM_EXIT_INTERNAL_ERROR: {
        uint32_t n = run->internal.suberror;
        const char *name = n < ARRAY_SIZE(suberror) ? suberror[n] : NULL;
        snprintf(text, room, ", suberror %u (%s)", n, name ? name : "unknown");
        break;
    }
    case KVM_EXIT_SYSTEM_EVENT:
        snprintf(text, room, ", type %u", run->system_event.type);
        break;
    case UAPI_KVM_EXIT_MEMORY_FAULT:
        memcpy(fault, run->padding, sizeof(fault));
        snprintf(text, room, ", guest address 0x%" PRIx64 ", %" PRIu64 " bytes", fault[1],
                 fault[2]);
        break;
    default:
        break;
    }
}

/* ERR is what KVM_RUN gave: 0 when there is an exit to tell of. */
static enum verdict fail(const struct vcpu *v, int err)
{
    uint32_t reason = v->run->exit_reason;
    const char *name = reason < ARRAY_SIZE(unexpected) ? unexpected[reason] : NULL;
    char text[96];
    describe(v->run, text, sizeof(text));
    if (err && !(err == -EFAULT && reason == UAPI_KVM_EXIT_MEMORY_FAULT))
        log_error(v->name,
                  "cannot run the guest: KVM_RUN: %s; this is where it was:", strerror(-err));
    else
        log_error(v->name,
                  "cannot run the guest: exit %u KVM_EXIT_%s%s; this is where it was:", reason,
                  name ? name : "? (another architecture's, or newer than this program)", text);
    vcpu_state_report(v->fd, v->name, v->all->config.mem);
    return FAILED;
}

static void count(struct vcpu *v, enum vcpu_exit why)
{
    __atomic_store_n(&v->exits[why], v->exits[why] + 1, __ATOMIC_RELAXED);
}

static enum verdict run_once(struct vcpu *v)
{
    const struct vcpus_config *config = &v->all->config;
    if (ioctl(v->fd, KVM_RUN, 0)) {
        int err = -errno;
        count(v, err == -EINTR ? VCPU_EXIT_KICK : VCPU_EXIT_OTHER);
        if (err == -EINTR)
            return KICKED;
        if (err == -EAGAIN) /* woken up by INIT or SIPI */
            return GO_ON;
        if (err == -EFAULT && config->fault && config->fault(config->opaque))
            return GO_ON;
        return fail(v, err);
    }
    uint32_t reason = v->run->exit_reason;
    count(v, reason == KVM_EXIT_IO     ? VCPU_EXIT_PORT
             : reason == KVM_EXIT_MMIO ? VCPU_EXIT_MMIO
                                       : VCPU_EXIT_OTHER);
    switch (reason) {
    case KVM_EXIT_IO:
        exit_io(v);
        return GO_ON;
    case KVM_EXIT_MMIO:
        exit_mmio(v);
        return GO_ON;
    case KVM_EXIT_IRQ_WINDOW_OPEN: /* nothing to inject */
    case KVM_EXIT_SET_TPR:         /* local APICs in the kernel know */
    case KVM_EXIT_INTR:            /* a signal */
        return GO_ON;
    case KVM_EXIT_SHUTDOWN: /* triple fault */
        return SHUT_DOWN;
    default:
        return fail(v, 0);
    }
}

/* ---- counters ---- */

/* Where NAME is in the statistics that STATS shows (Documentation/virt/kvm/api.rst, 4.133
 * KVM_GET_STATS_FD): its offset, or -ENOENT. */
static off_t find_stat(int stats, const char *name)
{
    struct kvm_stats_header header;
    struct kvm_stats_desc desc;
    char text[sizeof(desc) + 64]; /* the same, and its name */
    if (pread(stats, &header, sizeof(header), 0) != sizeof(header))
        return -ENOENT;
    for (uint32_t i = 0; i < header.num_desc; i++) {
        off_t at = header.desc_offset + (off_t)i * (sizeof(desc) + header.name_size);
        memset(text, 0, sizeof(text));
        if (pread(stats, text, sizeof(text) - 1, at) <= (ssize_t)sizeof(desc))
            break;
        memcpy(&desc, text, sizeof(desc));
        if (!strcmp(text + sizeof(desc), name))
            return (off_t)header.data_offset + desc.offset;
    }
    return -ENOENT;
}

static bool read_stat(const struct vcpu *v, const char *name, off_t *where, uint64_t *value)
{
    if (v->stats < 0)
        return false;
    if (!*where) /* the same for all vCPUs */
        *where = find_stat(v->stats, name);
    return *where > 0 && pread(v->stats, value, sizeof(*value), *where) == sizeof(*value);
}

struct vcpus_counters vcpus_count(const struct vcpus *vcpus)
{
    struct vcpus_counters sum = {.knows_interrupts = true};
    off_t where = 0;
    for (unsigned i = 0; i < vcpus->config.count; i++) {
        const struct vcpu *v = &vcpus->vcpu[i];
        uint64_t interrupts = 0;
        for (unsigned k = 0; k < VCPU_EXITS; k++)
            sum.exits[k] += __atomic_load_n(&v->exits[k], __ATOMIC_RELAXED);
        if (!read_stat(v, "irq_injections", &where, &interrupts))
            sum.knows_interrupts = false;
        sum.interrupts += interrupts;
    }
    return sum;
}

/* ---- threads ---- */

static void set_immediate_exit(struct kvm_run *run, uint8_t value)
{
    __atomic_store_n(&run->immediate_exit, value, __ATOMIC_RELAXED); /* KVM reads it */
}

/* Waits until V may run; false when its thread has to end. */
static bool enter(struct vcpu *v)
{
    struct vcpus *all = v->all;
    pthread_mutex_lock(&all->lock);
    while (!all->quit && (all->paused || v->ended))
        pthread_cond_wait(&all->changed, &all->lock);
    bool go = !all->quit;
    if (go) {
        set_immediate_exit(v->run, 0);
        all->running++;
    }
    pthread_mutex_unlock(&all->lock);
    return go;
}

static void leave(struct vcpu *v, bool ended)
{
    struct vcpus *all = v->all;
    pthread_mutex_lock(&all->lock);
    v->ended = ended;
    all->running--;
    pthread_cond_broadcast(&all->changed);
    pthread_mutex_unlock(&all->lock);
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *v = opaque;
    const struct vcpus_config *config = &v->all->config;
    pthread_setname_np(pthread_self(), v->name);
    while (enter(v)) {
        enum verdict verdict;
        do
            verdict = run_once(v);
        while (verdict == GO_ON);
        if (verdict != KICKED)
            config->event(config->opaque, verdict == FAILED ? VCPU_ERROR : VCPU_SHUTDOWN);
        leave(v, verdict != KICKED);
    }
    return NULL;
}

/* With LOCK held. */
static void kick_all(struct vcpus *all)
{
    for (unsigned i = 0; i < all->config.count; i++) {
        struct vcpu *v = &all->vcpu[i];
        if (!v->started)
            continue;
        set_immediate_exit(v->run, 1);
        pthread_kill(v->thread, KICK);
    }
}

void vcpus_stop_async(struct vcpus *vcpus)
{
    if (!vcpus)
        return;
    pthread_mutex_lock(&vcpus->lock);
    vcpus->paused = true;
    kick_all(vcpus);
    pthread_mutex_unlock(&vcpus->lock);
}

void vcpus_pause(struct vcpus *vcpus)
{
    vcpus_stop_async(vcpus);
    pthread_mutex_lock(&vcpus->lock);
    while (vcpus->running)
        pthread_cond_wait(&vcpus->changed, &vcpus->lock);
    pthread_mutex_unlock(&vcpus->lock);
}

void vcpus_resume(struct vcpus *vcpus)
{
    pthread_mutex_lock(&vcpus->lock);
    vcpus->paused = false;
    pthread_cond_broadcast(&vcpus->changed);
    pthread_mutex_unlock(&vcpus->lock);
}

static void on_kick(int signo)
{
    (void)signo; /* that it came is all */
}

/* A node is a wish: what this process may use comes first. A CPU for each vCPU is an order. */
static int place(const struct vcpu *v)
{
    const struct vcpus_config *config = &v->all->config;
    const struct cpu_list *list = config->host_cpus;
    if (!list || !list->nr)
        return 0;
    int err = cpu_list_bind(list, config->pin ? (int)v->index : -1, v->thread);
    if (err && config->pin)
        log_error(
            v->name,
            "cannot run on the host's CPU %u: %s; give CPUs that are online and that this "
            "process may use (taskset -cp $$ shows them)",
            list->cpu[v->index], strerror(-err));
    else if (err && v->index == 0)
        log_warn("--numa", "cannot run the vCPUs on the node's CPUs: %s", strerror(-err));
    return config->pin ? err : 0;
}

/* The threads get no signal but the kick; all others are the main thread's. */
int vcpus_start(struct vcpus *vcpus)
{
    struct sigaction action = {.sa_handler = on_kick, .sa_flags = SA_RESTART};
    sigset_t others, old;
    int err = 0;
    sigaction(KICK, &action, NULL);
    sigfillset(&others);
    sigdelset(&others, KICK);
    pthread_sigmask(SIG_SETMASK, &others, &old);
    for (unsigned i = 0; i < vcpus->config.count && !err; i++) {
        struct vcpu *v = &vcpus->vcpu[i];
        err = -pthread_create(&v->thread, NULL, vcpu_thread, v);
        pthread_mutex_lock(&vcpus->lock);
        v->started = !err;
        pthread_mutex_unlock(&vcpus->lock);
        if (err)
            log_error(NULL,
                      "cannot start the vCPUs' threads: %s; give fewer --cpus, or raise the "
                      "limit (ulimit -u)",
                      strerror(-err));
        else
            err = place(v); /* it waits to be resumed */
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err;
}

/* ---- create, load, destroy ---- */

static int set_cpuid(const struct vcpu *v, const struct kvm_cpuid2 *supported,
                     const struct cpuid_policy *policy)
{
    union {
        struct kvm_cpuid2 cpuid;
        uint8_t room[sizeof(struct kvm_cpuid2) +
                     CPUID_ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
    } u = {.cpuid.nent = CPUID_ENTRIES_MAX};
    int err = cpuid_build(supported, policy, v->index, &u.cpuid);
    if (!err && ioctl(v->fd, KVM_SET_CPUID2, &u.cpuid))
        err = -errno;
    return err;
}

/* KVM's paravirtual MSRs fault unless the guest's CPUID lists them: nothing gives KVM away. */
static void enforce_pv_features(const struct vcpu *v)
{
    const struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args[0] = 1};
    if (ioctl(v->fd, KVM_ENABLE_CAP, &cap))
        log_debug(v->name, "cannot hide KVM's MSRs: %s; use Linux 5.10 or later",
                  strerror(errno));
}

static int create(struct vcpu *v, const struct kvm *kvm)
{
    struct vcpus *all = v->all;
    struct cpuid_policy *policy = &all->config.cpuid;
    v->fd = ioctl(kvm_vm_fd(kvm), KVM_CREATE_VCPU, (unsigned long)v->apic_id);
    if (v->fd < 0)
        return -errno;
    void *run = mmap(NULL, all->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    v->run = run;
    if (v->index == 0) {
        int khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
        policy->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    }
    /* Now: a vCPU's ioctl waits as long as it is in KVM_RUN, for ever while it halts. */
    v->stats = ioctl(v->fd, KVM_GET_STATS_FD, NULL);
    enforce_pv_features(v);
    return set_cpuid(v, kvm_supported_cpuid(kvm), policy);
}

int vcpus_create(struct vcpus **out, struct kvm *kvm, const struct vcpus_config *config)
{
    struct vcpus *all = calloc(1, sizeof(*all) + config->count * sizeof(all->vcpu[0]));
    if (!all) {
        log_error(NULL, "cannot create the vCPUs: out of memory; free some");
        return -ENOMEM;
    }
    all->config = *config;
    all->config.count = 0;
    all->config.cpuid.tsc_deadline =
        ioctl(kvm_vm_fd(kvm), KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    all->run_size = kvm_run_size(kvm);
    all->paused = true;
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->changed, NULL);

    for (unsigned i = 0; i < config->count; i++) {
        struct vcpu *v = &all->vcpu[i];
        *v = (struct vcpu){.all = all, .index = i, .fd = -1, .stats = -1};
        v->apic_id = topology_apic_id(&config->cpuid.topology, i);
        snprintf(v->name, sizeof(v->name), "vcpu%u", i);
        all->config.count++; /* destroy() takes down what there is of it */
        int err = create(v, kvm);
        if (err) {
            log_error(v->name,
                      "cannot create it: %s; give fewer --cpus, or see the kernel's "
                      "log (dmesg)",
                      strerror(-err));
            vcpus_destroy(all);
            return err;
        }
    }
    *out = all;
    return 0;
}

void vcpus_destroy(struct vcpus *vcpus)
{
    if (!vcpus)
        return;
    pthread_mutex_lock(&vcpus->lock);
    vcpus->quit = true;
    kick_all(vcpus);
    pthread_cond_broadcast(&vcpus->changed);
    pthread_mutex_unlock(&vcpus->lock);
    for (unsigned i = 0; i < vcpus->config.count; i++) {
        struct vcpu *v = &vcpus->vcpu[i];
        if (v->started)
            pthread_join(v->thread, NULL);
        if (v->run)
            munmap(v->run, vcpus->run_size);
        if (v->stats >= 0)
            close(v->stats);
        if (v->fd >= 0)
            close(v->fd);
    }
    pthread_cond_destroy(&vcpus->changed);
    pthread_mutex_destroy(&vcpus->lock);
    free(vcpus);
}

int vcpus_load(struct vcpus *vcpus, const struct boot_entry *entry)
{
    for (unsigned i = 0; i < vcpus->config.count; i++) {
        struct vcpu *v = &vcpus->vcpu[i];
        int err = vcpu_state_load(v->fd, v->name, v->apic_id, entry, !vcpus->loaded);
        if (err)
            return err;
        pthread_mutex_lock(&vcpus->lock);
        v->ended = false;
        pthread_mutex_unlock(&vcpus->lock);
    }
    vcpus->loaded = true;
    return 0;
}
