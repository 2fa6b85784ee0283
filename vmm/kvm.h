/*
 * kvm.h: one KVM virtual machine: capabilities, memory slots, irqchip, routes, irqfds.
 *
 * kvm.c, vcpu.c and vcpu_state.c are the only files that make KVM calls; the rest of the
 * program sees kvm_hv(), the table of hv.h. The order of start-up calls decides the start-up
 * time: a slot set after the irqchip exists waits for an SRCU grace period (milliseconds), so
 * RAM slots go in between kvm_create() and kvm_create_irqchip().
 */
#pragma once

#include <stdint.h>

#include "vmm/hv.h"

struct kvm;
struct kvm_cpuid2;

/* Opens /dev/kvm, checks the API version and every capability that is needed (a missing one is
 * named with its purpose), creates the VM, and places the TSS and the identity map
 * (layout.h). CPUS is checked against the host's limit. Logs its own errors. */
int kvm_create(struct kvm **out, unsigned cpus);
void kvm_destroy(struct kvm *kvm); /* NULL is fine; after the vCPUs */

/* PIC, IOAPIC, local APICs, and the PIT with its speaker port; after RAM, before the vCPUs.
 * Logs its own errors. */
int kvm_create_irqchip(struct kvm *kvm);

/* PIC, IOAPIC and PIT back to their power-on state; every vCPU paused, every line low. Routes
 * and irqfds stay. Logs its own errors. */
int kvm_reset_irqchip(struct kvm *kvm);

struct hv *kvm_hv(struct kvm *kvm);

/* What the host offers to guests; owned by KVM, fetched once. */
const struct kvm_cpuid2 *kvm_supported_cpuid(const struct kvm *kvm);

/* For vcpu.c: the VM's descriptor and the size of a vCPU's shared page. */
int kvm_vm_fd(const struct kvm *kvm);
unsigned kvm_run_size(const struct kvm *kvm);
