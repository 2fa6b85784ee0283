/*
 * machine.c: puts everything together. `step` is the ordered list of what a machine is made of:
 * each row brings one part up and takes it down again; a failure takes down what is up, in
 * reverse order, and so does the end of the VM. Nothing registers itself anywhere else.
 *
 * Threads: all of this runs in the main thread, which waits in the event loop while the vCPU
 * threads run the guest. What ends or resets the VM (a device's handler in a vCPU thread, a
 * signal, the console) sets the verdict and stops the loop; the main thread then acts on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "boot/acpi.h"
#include "boot/boot.h"
#include "devices/acpi_pm.h"
#include "devices/cmos.h"
#include "devices/debugport.h"
#include "devices/i8042.h"
#include "devices/pci.h"
#include "devices/uart16550.h"
#include "vmm/bus.h"
#include "vmm/console.h"
#include "vmm/control.h"
#include "vmm/cpuid.h"
#include "vmm/json.h"
#include "vmm/kvm.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/machine.h"
#include "vmm/mem.h"
#include "vmm/options.h"
#include "vmm/paravirt.h"
#include "vmm/passthrough.h"
#include "vmm/pidfile.h"
#include "vmm/placement.h"
#include "vmm/util.h"
#include "vmm/vcpu.h"

/* A kernel larger than this is no kernel. It is read whole, then freed. */
#define KERNEL_SIZE_MAX (2 * GIB)

/* The verdict: a status from enum machine_status or --debug-exit once the VM has to end, or: */
enum { VERDICT_NONE = -1, VERDICT_RESET = -2 };

struct machine {
    const struct options *opt;
    atomic_int verdict;
    int stopping; /* main thread: the signal that pressed the power button; 0: none */
    bool paused;  /* main thread: by a command */

    int pid_fd, kernel_fd, initrd_fd, signal_fd, stop_timer;
    uint64_t kernel_size, initrd_size;
    sigset_t old_signals;

    struct placement place;
    struct mem mem;
    struct kvm *kvm;
    struct power power; /* what devices may ask of it */
    struct bus pio, mmio;
    struct loop *loop;
    struct control *control;
    struct console *console;
    struct uart *uart;
    struct cmos *cmos;
    struct acpi_pm *acpi_pm;
    struct debugport *debugport;
    struct pci_bus pci;
    struct paravirt paravirt;
    struct passthrough pass;
    struct vcpus *vcpus;
};

/* ---- what ends or resets the VM (any thread) ---- */

/* The first reason to end the VM counts; a reset gives way to it. */
static void set_verdict(struct machine *m, int verdict)
{
    int v = atomic_load(&m->verdict);
    while (v < 0 && v != verdict && !atomic_compare_exchange_weak(&m->verdict, &v, verdict))
        ;
    vcpus_stop_async(m->vcpus);
    loop_stop(m->loop);
}

static void power_reset(void *opaque)
{
    set_verdict(opaque, VERDICT_RESET);
}

static void power_off(void *opaque)
{
    set_verdict(opaque, STATUS_OFF);
}

static void power_debug_exit(void *opaque, unsigned value)
{
    set_verdict(opaque, (int)((value << 1 | 1) & 0xff));
}

static const struct power_ops power_ops = {
    .reset = power_reset,
    .poweroff = power_off,
    .debug_exit = power_debug_exit,
};

static void vcpu_ended(void *opaque, enum vcpu_event event)
{
    if (event == VCPU_SHUTDOWN)
        log_error(NULL, "the guest crashed: triple fault");
    set_verdict(opaque, event == VCPU_SHUTDOWN ? STATUS_CRASH : STATUS_KVM);
}

static bool vcpu_faulted(void *opaque)
{
    struct machine *m = opaque;
    return passthrough_drop_slots(&m->pass);
}

static void device_gone(void *opaque, const char *name, bool failed)
{
    (void)name;
    (void)failed;
    set_verdict(opaque, STATUS_DEVICE);
}

/* Main thread. What resets or ends the VM keeps the vCPUs where it stopped them. */
static void set_paused(struct machine *m, bool paused)
{
    if (paused && !m->paused)
        vcpus_pause(m->vcpus);
    else if (!paused && m->paused && atomic_load(&m->verdict) == VERDICT_NONE)
        vcpus_resume(m->vcpus);
    m->paused = paused;
}

/* The first signal presses the power button, where the guest listens to it; the next one ends
 * the VM, and so does the time that the guest has to power off. */
static void signalled(void *opaque, uint32_t events)
{
    struct machine *m = opaque;
    struct signalfd_siginfo info;
    (void)events;
    if (read(m->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    int signo = (int)info.ssi_signo;
    bool first = !m->stopping;
    m->stopping = signo;
    if (!first || !m->opt->stop_timeout || !acpi_pm_power_button(m->acpi_pm))
        return set_verdict(m, STATUS_SIGNAL + signo);
    set_paused(m, false); /* or it could not power off */
    log_note(NULL,
             "signal %d: pressed the guest's power button; it has %u s to power off, another "
             "signal ends it at once",
             signo, m->opt->stop_timeout);
    loop_timer_set(m->stop_timer, loop_now(CLOCK_MONOTONIC) + m->opt->stop_timeout * NS_PER_S);
}

static void stopped_too_late(void *opaque, uint32_t events)
{
    struct machine *m = opaque;
    (void)events;
    log_warn(NULL,
             "the guest did not power off within %u s of the signal and is ended; "
             "--stop-timeout gives it more",
             m->opt->stop_timeout);
    set_verdict(m, STATUS_SIGNAL + m->stopping);
}

/* ---- files ---- */

/* A regular file for reading; *SIZE is its size now. Logs its own error. */
static int open_file(const char *name, const char *what, uint64_t *size)
{
    struct stat st;
    int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int err = -errno;
        log_error(name, "cannot open %s: %s; give the path of a file that can be read", what,
                  strerror(-err));
        return err;
    }
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        log_error(name, "cannot use %s: not a regular file; give the path of a file", what);
        close(fd);
        return -EINVAL;
    }
    *size = (uint64_t)st.st_size;
    return fd;
}

static int pidfile_up(struct machine *m)
{
    if (!m->opt->pidfile)
        return 0;
    m->pid_fd = pidfile_open(m->opt->pidfile);
    return MIN(m->pid_fd, 0);
}

static void pidfile_down(struct machine *m)
{
    if (m->pid_fd >= 0)
        pidfile_close(m->opt->pidfile, m->pid_fd);
}

static int files_up(struct machine *m)
{
    m->kernel_fd = open_file(m->opt->kernel, "kernel", &m->kernel_size);
    if (m->kernel_fd < 0)
        return m->kernel_fd;
    if (m->kernel_size > KERNEL_SIZE_MAX) {
        log_error(m->opt->kernel, "cannot boot kernel: it has %llu MiB; give one below 2 GiB",
                  (unsigned long long)(m->kernel_size / MIB));
        return -EFBIG;
    }
    if (m->opt->initrd) {
        m->initrd_fd = open_file(m->opt->initrd, "initial RAM disk", &m->initrd_size);
        if (m->initrd_fd < 0)
            return m->initrd_fd;
    }
    return 0;
}

static void files_down(struct machine *m)
{
    if (m->initrd_fd >= 0)
        close(m->initrd_fd);
    if (m->kernel_fd >= 0)
        close(m->kernel_fd);
}

/* ---- memory and KVM ---- */

static int add_ram(struct machine *m, const struct mem_region *r, uint64_t start, uint64_t end)
{
    struct hv *hv = kvm_hv(m->kvm);
    unsigned long long gpa = r->gpa + start;
    int slot = hv->ops->slot_add(hv, gpa, r->hva + start, end - start);
    if (slot < 0)
        log_error("KVM", "cannot give the guest RAM at 0x%llx: %s; try a smaller --memory", gpa,
                  strerror(-slot));
    return MIN(slot, 0);
}

static bool wants_vga(const struct options *o)
{
    for (unsigned i = 0; i < o->vfios; i++) {
        if (o->vfio[i].vga)
            return true;
    }
    return false;
}

/* RAM slots before the irqchip: see kvm.h. Where a card has the VGA ranges, no RAM lies there.
 */
static int kvm_up(struct machine *m)
{
    const uint64_t vga_end = LAYOUT_VGA + LAYOUT_VGA_SIZE;
    int err = placement_find(m->opt, &m->place);
    if (!err)
        err = kvm_create(&m->kvm, m->opt->cpus);
    if (!err) /* this can take a while */
        err = mem_init_backed(&m->mem, m->opt->memory, &m->place.memory);
    if (err)
        return err;
    for (unsigned i = 0; i < m->mem.nr && !err; i++) {
        const struct mem_region *r = &m->mem.region[i];
        bool hole = i == 0 && wants_vga(m->opt) && r->size > vga_end;
        err = add_ram(m, r, hole ? vga_end : 0, r->size);
        if (!err && hole)
            err = add_ram(m, r, 0, LAYOUT_VGA);
    }
    return err ? err : kvm_create_irqchip(m->kvm);
}

static void kvm_down(struct machine *m)
{
    kvm_destroy(m->kvm);
    mem_fini(&m->mem);
}

/* ---- buses and the event loop ---- */

static int buses_up(struct machine *m)
{
    int err = bus_init(&m->pio);
    if (!err)
        err = bus_init(&m->mmio);
    if (!err)
        err = loop_create(&m->loop);
    return err;
}

static void buses_down(struct machine *m)
{
    loop_destroy(m->loop);
    bus_fini(&m->mmio);
    bus_fini(&m->pio);
}

/* ---- signals: blocked in every thread, read by the loop ---- */

static int signals_up(struct machine *m)
{
    struct sigaction hangup;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    if (!sigaction(SIGHUP, NULL, &hangup) && hangup.sa_handler != SIG_IGN) /* nohup(1) */
        sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, &m->old_signals);
    m->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (m->signal_fd < 0)
        return -errno;
    m->stop_timer = loop_add_timer(m->loop, CLOCK_MONOTONIC, stopped_too_late, m);
    if (m->stop_timer < 0)
        return m->stop_timer;
    return loop_add(m->loop, m->signal_fd, EPOLLIN, signalled, m);
}

static void signals_down(struct machine *m)
{
    loop_close(m->loop, m->stop_timer);
    loop_close(m->loop, m->signal_fd);
    pthread_sigmask(SIG_SETMASK, &m->old_signals, NULL);
}

/* ---- commands by the control socket: main thread ---- */

static const char *command_status(void *opaque, struct json_text *out)
{
    struct machine *m = opaque;
    json_add(out, "{\"status\":\"%s\",\"name\":",
             m->paused     ? "paused"
             : m->stopping ? "stopping"
                           : "running");
    if (m->opt->name)
        json_add_string(out, m->opt->name);
    else
        json_add(out, "null");
    json_add(out, ",\"pid\":%ld,\"cpus\":%u,\"memory\":%llu,\"devices\":[", (long)getpid(),
             m->opt->cpus, (unsigned long long)m->opt->memory);
    for (unsigned i = 0; i < m->pass.config.nr; i++) {
        json_add(out, i ? "," : "");
        json_add_string(out, m->pass.device[i].addr);
    }
    json_add(out, "]}");
    return NULL;
}

static const char *command_pause(void *opaque, struct json_text *out)
{
    (void)out;
    set_paused(opaque, true);
    return NULL;
}

static const char *command_resume(void *opaque, struct json_text *out)
{
    (void)out;
    set_paused(opaque, false);
    return NULL;
}

static const char *command_powerdown(void *opaque, struct json_text *out)
{
    struct machine *m = opaque;
    (void)out;
    return acpi_pm_power_button(m->acpi_pm)
               ? NULL
               : "the guest does not listen to its power button; quit ends it";
}

static const char *command_reset(void *opaque, struct json_text *out)
{
    (void)out;
    power_reset(opaque);
    return NULL;
}

static const char *command_quit(void *opaque, struct json_text *out)
{
    (void)out;
    set_verdict(opaque, STATUS_OFF);
    return NULL;
}

struct count_to {
    struct json_text *out;
    const char *space;
    const char *separator;
};

static void add_count(void *opaque, const struct bus_range *range, uint64_t accesses)
{
    struct count_to *to = opaque;
    if (!accesses)
        return;
    json_add(to->out, "%s{\"name\":", to->separator);
    json_add_string(to->out, range->name);
    json_add(to->out, ",\"space\":\"%s\",\"base\":%llu,\"accesses\":%llu}", to->space,
             (unsigned long long)range->base, (unsigned long long)accesses);
    to->separator = ",";
}

static const char *command_counters(void *opaque, struct json_text *out)
{
    static const char *const exit_name[VCPU_EXITS] = {
        [VCPU_EXIT_PORT] = "port",
        [VCPU_EXIT_MMIO] = "memory",
        [VCPU_EXIT_KICK] = "kick",
        [VCPU_EXIT_OTHER] = "other",
    };
    struct machine *m = opaque;
    struct vcpus_counters c = vcpus_count(m->vcpus);
    struct count_to to = {out, "port", ""};
    for (unsigned i = 0; i < VCPU_EXITS; i++)
        json_add(out, "%s\"%s\":%llu", i ? "," : "{\"exits\":{", exit_name[i],
                 (unsigned long long)c.exits[i]);
    json_add(out, "},\"devices\":[");
    bus_count(&m->pio, add_count, &to);
    to.space = "memory";
    bus_count(&m->mmio, add_count, &to);
    json_add(out, "],\"interrupts\":");
    if (c.knows_interrupts)
        json_add(out, "%llu", (unsigned long long)c.interrupts);
    else
        json_add(out, "null");
    json_add(out, ",\"dma_mapped\":%llu}", (unsigned long long)passthrough_dma_bytes(&m->pass));
    return NULL;
}

static int control_up(struct machine *m)
{
    static const struct control_command command[] = {
        {"status", command_status},     {"pause", command_pause},
        {"resume", command_resume},     {"powerdown", command_powerdown},
        {"reset", command_reset},       {"quit", command_quit},
        {"counters", command_counters}, {NULL, NULL},
    };
    return m->opt->control ? control_create(&m->control, m->opt->control, m->loop, command, m)
                           : 0;
}

static void control_down(struct machine *m)
{
    control_destroy(m->control);
}

/* ---- the fixed devices of a PC ---- */

static struct irq_line line(struct machine *m, uint32_t gsi)
{
    return (struct irq_line){.hv = kvm_hv(m->kvm), .gsi = gsi};
}

static size_t console_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;
    return uart_receive(m->uart, data, len);
}

static void uart_transmit(void *opaque, const uint8_t *data, size_t len)
{
    struct machine *m = opaque;
    console_write(m->console, data, len);
}

static void uart_rx_ready(void *opaque)
{
    struct machine *m = opaque;
    console_rx_ready(m->console);
}

static int console_up(struct machine *m)
{
    static const struct console_ops ops = {
        .receive = console_receive,
        .quit = power_off,
    };
    return console_create(&m->console, m->loop, STDIN_FILENO, STDOUT_FILENO, &ops, m);
}

static void console_down(struct machine *m)
{
    console_destroy(m->console);
}

static int devices_up(struct machine *m)
{
    static const struct uart_ops uart_ops = {
        .tx = uart_transmit,
        .rx_ready = uart_rx_ready,
    };
    uint64_t high_ram = m->mem.nr > 1 ? m->mem.region[1].size : 0;
    int err = uart_create(&m->uart, &m->pio, LAYOUT_PORT_COM1, line(m, LAYOUT_GSI_COM1),
                          &uart_ops, m);
    if (!err)
        err = cmos_create(&m->cmos, &m->pio, m->loop, line(m, LAYOUT_GSI_RTC),
                          m->mem.region[0].size, high_ram);
    if (!err)
        err = i8042_add(&m->pio, &m->power);
    if (!err)
        err = acpi_pm_create(&m->acpi_pm, &m->pio, m->loop, line(m, LAYOUT_GSI_SCI), m->power);
    return err;
}

static void devices_down(struct machine *m)
{
    acpi_pm_destroy(m->acpi_pm);
    cmos_destroy(m->cmos);
    uart_destroy(m->uart);
}

static int pci_up(struct machine *m)
{
    int err = pci_bus_init(&m->pci, &m->pio, &m->mmio);
    m->pci.power = m->power;
    return err;
}

static void pci_down(struct machine *m)
{
    pci_bus_fini(&m->pci);
}

static int debugport_up(struct machine *m)
{
    if (m->opt->debug_exit < 0)
        return 0;
    int err = debugport_create(&m->debugport, &m->pio, (uint16_t)m->opt->debug_exit, m->power);
    if (err)
        log_error("--debug-exit", "cannot use port 0x%x: %s; give a port that no device has",
                  m->opt->debug_exit, strerror(-err));
    return err;
}

static void debugport_down(struct machine *m)
{
    debugport_destroy(m->debugport);
}

/* ---- virtio devices ---- */

static int virtio_up(struct machine *m)
{
    const struct paravirt_config config = {
        .opt = m->opt,
        .hv = kvm_hv(m->kvm),
        .bus = &m->pci,
        .loop = m->loop,
        .mem = &m->mem,
    };
    return paravirt_open(&m->paravirt, &config);
}

static void virtio_down(struct machine *m)
{
    paravirt_close(&m->paravirt);
}

/* ---- passed-through devices ---- */

static int vfio_up(struct machine *m)
{
    struct passthrough_config config = {
        .option = m->opt->vfio,
        .nr = m->opt->vfios,
        .hv = kvm_hv(m->kvm),
        .bus = &m->pci,
        .loop = m->loop,
        .mem = &m->mem,
        .slots = paravirt_slots(&m->paravirt),
        .gone = device_gone,
        .opaque = m,
    };
    return passthrough_open(&m->pass, &config);
}

static void vfio_down(struct machine *m)
{
    passthrough_close(&m->pass);
}

/* The 64-bit window lies right above RAM: the lowest place is within most IOMMUs' width. */
static int window_up(struct machine *m)
{
    const struct mem_region *last = &m->mem.region[m->mem.nr - 1];
    unsigned bits = cpuid_phys_bits(kvm_supported_cpuid(m->kvm));
    uint64_t dma_end = passthrough_dma_end(&m->pass);
    struct pci_mmio64_need need;
    int err = pci_bus_set_mmio64(&m->pci, last->gpa + last->size, 1ULL << bits, &need);
    if (err)
        log_error(
            need.dev->name,
            "cannot place BAR%u of %llu MiB: with all other 64-bit BARs the last one ends "
            "at 0x%llx, and what processor and KVM can map (%u bits) ends at 0x%llx; pass "
            "fewer devices or give less --memory",
            need.bar, need.dev->bar[need.bar].size / MIB, (unsigned long long)need.end, bits,
            1ULL << bits);
    else if (need.end > dma_end)
        /* No error: it works for the guest's processors, and a lone card needs no more. */
        log_note(
            need.dev->name,
            "cannot place all BARs below 0x%llx, where the IOMMU's addresses end: they end "
            "at 0x%llx; other devices' DMA does not reach those above",
            (unsigned long long)dma_end, (unsigned long long)need.end);
    return err;
}

/* ---- vCPUs ---- */

static int vcpus_up(struct machine *m)
{
    struct vcpus_config config = {
        .count = m->opt->cpus,
        .cpuid = {.signature = m->opt->signature, .topology = m->opt->topology},
        .pio = &m->pio,
        .mmio = &m->mmio,
        .mem = &m->mem,
        .host_cpus = m->place.cpus,
        .pin = m->place.pin,
        .opaque = m,
        .event = vcpu_ended,
        .fault = vcpu_faulted,
    };
    memcpy(config.cpuid.vendor, m->opt->vendor, sizeof(config.cpuid.vendor));
    return vcpus_create(&m->vcpus, m->kvm, &config);
}

static void vcpus_down(struct machine *m)
{
    vcpus_destroy(m->vcpus);
    m->vcpus = NULL;
}

/* ---- boot and reset ---- */

static const struct acpi_device acpi_devices[] = {
    {.name = "COM1",
     .hid = "PNP0501",
     .nr = 2,
     .resource = {{ACPI_RES_IO, LAYOUT_PORT_COM1, 8}, {ACPI_RES_IRQ_EDGE, LAYOUT_GSI_COM1, 0}}},
    {.name = "RTC_",
     .hid = "PNP0B00",
     .nr = 2,
     .resource = {{ACPI_RES_IO, LAYOUT_PORT_CMOS, 2}, {ACPI_RES_IRQ_EDGE, LAYOUT_GSI_RTC, 0}}},
};

static int write_acpi(struct machine *m)
{
    struct acpi_device device[ARRAY_SIZE(acpi_devices) + OPTIONS_VFIO_MAX];
    unsigned fixed = ARRAY_SIZE(acpi_devices);
    struct acpi_config config = {
        .topology = m->opt->topology,
        .mmio64_base = m->pci.mmio64_base,
        .mmio64_size = m->pci.mmio64_size,
        .device = device,
        .devices = fixed + passthrough_acpi(&m->pass, device + fixed),
    };
    size_t size = LAYOUT_ACPI_SIZE;
    uint8_t *at = mem_at(&m->mem, LAYOUT_ACPI, size);
    memcpy(device, acpi_devices, sizeof(acpi_devices));
    if (!at) {
        log_error("--memory",
                  "cannot place the ACPI tables: RAM ends below 1 MiB; give 2M or more");
        return -ENOSPC;
    }
    int err = acpi_build(&config, LAYOUT_ACPI, at, &size);
    if (err)
        log_error(NULL, "cannot build the ACPI tables: %s; give fewer --cpus", strerror(-err));
    return err;
}

/* Everything as after power-on, the first vCPU at the kernel's entry. The kernel is read anew:
 * a reset may be days later. */
static int boot(struct machine *m)
{
    struct boot_entry entry = {0};
    int err = pci_bus_assign(&m->pci);
    if (!err)
        err = write_acpi(m);
    if (err)
        return err;
    uint8_t *kernel = malloc(MAX(m->kernel_size, 1));
    if (!kernel) {
        log_error(m->opt->kernel, "cannot read kernel: no memory for %llu bytes; free some",
                  (unsigned long long)m->kernel_size);
        return -ENOMEM;
    }
    struct boot_config config = {
        .kernel_name = m->opt->kernel,
        .kernel = kernel,
        .kernel_size = m->kernel_size,
        .initrd_name = m->opt->initrd,
        .initrd_fd = m->initrd_fd,
        .initrd_size = m->initrd_size,
        .cmdline = m->opt->cmdline,
        .force = m->opt->force,
        .flat_addr = m->opt->flat_addr,
        .rsdp = LAYOUT_ACPI,
    };
    err = boot_read(m->opt->kernel, "kernel", m->kernel_fd, kernel, m->kernel_size);
    if (!err)
        err = boot_load(&config, &m->mem, &entry);
    free(kernel);
    pci_bus_set_host_bridge(&m->pci, entry.host_bridge);
    return err ? err : vcpus_load(m->vcpus, &entry);
}

/* Every vCPU is paused. RAM keeps its contents, as on a warm reset of a real machine. Returns
 * the status to end with where it fails, which has been logged. */
static int reset(struct machine *m)
{
    if (passthrough_reset(&m->pass))
        return STATUS_DEVICE;
    paravirt_reset(&m->paravirt);
    pci_bus_reset(&m->pci);
    uart_reset(m->uart);
    cmos_reset(m->cmos);
    acpi_pm_reset(m->acpi_pm);
    if (kvm_reset_irqchip(m->kvm))
        return STATUS_KVM;
    return boot(m) ? STATUS_START : VERDICT_NONE;
}

static int start(struct machine *m)
{
    int err = boot(m);
    if (err)
        return err;
    passthrough_describe(&m->pass);
    err = vcpus_start(m->vcpus);
    if (!err && m->pid_fd >= 0)
        err = pidfile_write(m->opt->pidfile, m->pid_fd);
    return err;
}

/* Until the VM ends; returns the verdict. */
static int run(struct machine *m)
{
    for (;;) {
        if (!m->paused)
            vcpus_resume(m->vcpus);
        if (loop_run(m->loop))
            return STATUS_START;
        vcpus_pause(m->vcpus);
        int verdict = VERDICT_RESET;
        if (atomic_compare_exchange_strong(&m->verdict, &verdict, VERDICT_NONE)) {
            if (m->stopping) /* who wants it to end does not want it to start again */
                return STATUS_SIGNAL + m->stopping;
            verdict = m->opt->no_reboot ? STATUS_RESET : reset(m);
        }
        if (verdict != VERDICT_NONE) /* none: it was reset, now or before this stop */
            return verdict;
    }
}

/* ---- the list ---- */

static const struct step {
    int (*up)(struct machine *m);
    void (*down)(struct machine *m); /* also after an up that failed half-way */
    const char *what;                /* NULL: up logs its own errors */
} step[] = {
    {pidfile_up, pidfile_down, NULL},             /* only one VM of that name */
    {files_up, files_down, NULL},                 /* all is opened before the guest starts */
    {kvm_up, kvm_down, NULL},                     /* RAM, the VM, RAM slots, then the irqchip */
    {buses_up, buses_down, "the event loop"},     /* and ports, MMIO */
    {signals_up, signals_down, "signals"},        /* before any thread: all inherit the mask */
    {control_up, control_down, NULL},             /* goes when all devices are released */
    {console_up, console_down, NULL},             /* the other end of the UART's line */
    {devices_up, devices_down, "a PC's devices"}, /* UART, RTC, reset, power */
    {pci_up, pci_down, "the PCI bus"},            /* that the next ones sit on */
    {debugport_up, debugport_down, NULL},         /* at a port that no device has */
    {virtio_up, virtio_down, NULL},               /* opened before the devices are taken */
    {vfio_up, vfio_down, NULL},                   /* groups, DMA, devices */
    {window_up, NULL, NULL},                      /* room for their 64-bit BARs */
    {vcpus_up, vcpus_down, NULL}, /* last up, first down: no vCPU runs while a device goes */
};

static int step_up(struct machine *m, const struct step *s)
{
    int err = s->up(m);
    if (err && s->what)
        log_error(NULL,
                  "cannot set up %s: %s; free memory or raise the limit of files (ulimit -n)",
                  s->what, strerror(-err));
    return err;
}

int machine_run(const struct options *options)
{
    struct machine *m = calloc(1, sizeof(*m));
    if (!m) {
        log_error(NULL, "cannot start: out of memory; free some");
        return STATUS_START;
    }
    m->opt = options;
    m->power = (struct power){.ops = &power_ops, .opaque = m};
    m->verdict = VERDICT_NONE;
    m->pid_fd = m->kernel_fd = m->initrd_fd = m->signal_fd = m->stop_timer = -1;

    int status = STATUS_START;
    unsigned n = 0;
    int err = 0;
    while (n < ARRAY_SIZE(step) && !err)
        err = step_up(m, &step[n++]);
    if (!err && !start(m))
        status = run(m);
    while (n-- > 0) {
        if (step[n].down)
            step[n].down(m);
    }
    free(m);
    return status;
}
