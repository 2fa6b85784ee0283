/*
 * entry.h: the state in which the first vCPU enters the guest. boot/ describes it, vcpu.c loads
 * it; neither knows the other.
 */
#pragma once

#include <stdint.h>

enum entry_mode {
    ENTRY_REAL,      /* 16-bit real mode at cs:ip, all segments = cs */
    ENTRY_PROTECTED, /* flat 32-bit, paging off, interrupts off */
    ENTRY_LONG,      /* 64-bit, first 4 GiB identity-mapped by the tables at cr3 */
};

struct boot_entry {
    enum entry_mode mode;
    uint64_t rip; /* ENTRY_REAL: the linear address; cs = rip >> 4, ip = rip & 0xf */
    uint64_t rsp;
    uint64_t rax; /* Multiboot: its magic number */
    uint64_t rbx; /* PVH: gpa of the start info; Multiboot: of its boot information */
    uint64_t rsi; /* bzImage: gpa of the boot parameters */
    uint64_t cr3; /* ENTRY_LONG: gpa of the PML4 */
    uint64_t gdt; /* gpa of a GDT of gdt_limit + 1 bytes (not for ENTRY_REAL) */
    uint16_t gdt_limit;
    uint16_t code_selector; /* flat code and data descriptors in that GDT */
    uint16_t data_selector;
    uint16_t host_bridge; /* the device ID that firmware looks for at 00:00.0; 0: any */
};
