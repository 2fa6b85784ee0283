/*
 * cpuid.h: what the guest's CPUID says: the host's offer filtered by one table (cpuid.c).
 * Pure functions: no KVM call is made here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "vmm/topology.h"

struct kvm_cpuid2;

enum cpuid_signature {
    CPUID_HIDDEN, /* no hypervisor bit, leaves 0x40000000.. as on bare metal (default) */
    CPUID_KVM,    /* KVM's signature and features as KVM offers them */
    CPUID_VENDOR, /* another 12-character signature, no features */
};

struct cpuid_policy {
    enum cpuid_signature signature;
    char vendor[12]; /* CPUID_VENDOR: padded with NULs */
    struct topology topology;
    uint32_t tsc_khz; /* 0: unknown, leaves 0x15 and 0x16 stay as they are */
    /* The TSC-deadline timer works: KVM of before 6.15 has it without listing it. */
    bool tsc_deadline;
};

#define CPUID_ENTRIES_MAX 256

/* Fills OUT (room for OUT->nent entries at entry, CPUID_ENTRIES_MAX always suffices; nent is
 * set to what was used) with the leaves of vCPU INDEX, from SUPPORTED as KVM gave it.
 * -E2BIG when OUT is too small. */
int cpuid_build(const struct kvm_cpuid2 *supported, const struct cpuid_policy *policy,
                unsigned index, struct kvm_cpuid2 *out);

/* Width of the guest physical addresses that can really be mapped: leaf 0x80000008, the smaller
 * of MAXPHYADDR and GuestPhysBits where that is given (48 where it may be missing). */
unsigned cpuid_phys_bits(const struct kvm_cpuid2 *supported);
