/*
 * vcpu.h: the vCPU threads: load, run, dispatch exits, pause, stop.
 *
 * One thread per vCPU. A vCPU thread only dispatches: port and MMIO accesses go to the buses,
 * whatever ends or resets the VM goes to config.event. All functions below are called by the
 * main thread, except vcpus_stop_async().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vmm/cpuid.h"

struct kvm;
struct bus;
struct mem;
struct boot_entry;
struct cpu_list;
struct vcpus;

enum vcpu_event {
    VCPU_SHUTDOWN, /* triple fault */
    VCPU_ERROR,    /* KVM cannot go on; reported with the vCPU's state before this call */
};

/* Why vCPUs leave the guest for user space. */
enum vcpu_exit { VCPU_EXIT_PORT, VCPU_EXIT_MMIO, VCPU_EXIT_KICK, VCPU_EXIT_OTHER, VCPU_EXITS };

/* Of all vCPUs, since they were created. */
struct vcpus_counters {
    uint64_t exits[VCPU_EXITS];
    uint64_t interrupts;   /* injected by KVM */
    bool knows_interrupts; /* Linux 5.14 */
};

struct vcpus_config {
    unsigned count;
    struct cpuid_policy cpuid; /* tsc_khz and tsc_deadline are filled in from KVM */
    struct bus *pio;
    struct bus *mmio;
    /* Where the threads run: PIN: each vCPU on its own of these, the first on the first; else
     * all on any of them. An empty list or NULL: anywhere. */
    const struct cpu_list *host_cpus;
    bool pin;
    const struct mem *mem; /* for the instruction bytes of a report; may be NULL */
    void *opaque;
    /* From a vCPU thread, which stays stopped afterwards until vcpus_load() and vcpus_resume().
     */
    void (*event)(void *opaque, enum vcpu_event event);
    /* KVM_RUN failed with EFAULT: a mapping behind a memory slot is gone (a BAR whose memory
     * decoding was switched off behind our back). Returns true when something was changed so
     * that the vCPU may try again. From a vCPU thread; may be NULL. */
    bool (*fault)(void *opaque);
};

/* Creates the vCPUs with their CPUID, none running. Logs its own errors. */
int vcpus_create(struct vcpus **out, struct kvm *kvm, const struct vcpus_config *config);
void vcpus_destroy(struct vcpus *vcpus); /* stops them first; NULL is fine */

/* Power-on state: vCPU 0 at ENTRY and runnable, the others waiting for INIT/SIPI. The same code
 * serves the first start and every guest reset, so that nothing of an earlier boot survives.
 * The vCPUs are paused or not started yet. */
int vcpus_load(struct vcpus *vcpus, const struct boot_entry *entry);

/* Starts the threads, paused; vcpus_resume() lets them run. */
int vcpus_start(struct vcpus *vcpus);
/* On return of vcpus_pause() no vCPU is in the guest or in a device's handler. */
void vcpus_pause(struct vcpus *vcpus);
void vcpus_resume(struct vcpus *vcpus);
/* While they run, too. */
struct vcpus_counters vcpus_count(const struct vcpus *vcpus);
/* Any thread, also from a device's handler in a vCPU thread: no vCPU gets any further than to
 * the end of the access it is making, until vcpus_resume(). Does not wait; NULL is fine. */
void vcpus_stop_async(struct vcpus *vcpus);
