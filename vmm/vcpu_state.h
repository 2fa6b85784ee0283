/*
 * vcpu_state.h: what is in a vCPU: its power-on state, and a report of it for people. Used by
 * vcpu.c only, on a vCPU that is not running.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct boot_entry;
struct mem;

/* Loads the vCPU of this APIC id with its power-on state; that of id 0 at ENTRY. FIRST: it has
 * never run, so only what differs from KVM's own power-on state is loaded. Logs its own errors
 * under NAME. */
int vcpu_state_load(int fd, const char *name, uint32_t apic_id, const struct boot_entry *entry,
                    bool first);

/* Registers and the instruction at RIP (from MEM, NULL: not shown) as a dozen log lines. */
void vcpu_state_report(int fd, const char *name, const struct mem *mem);
