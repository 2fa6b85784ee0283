/*
 * boot.h: from the bytes of a kernel file to guest memory and an entry state.
 *
 * The loaders are pure functions over bytes: they open nothing, keep nothing and set no
 * register. Everything in the file is hostile: sizes and addresses are checked against RAM and
 * against each other before a byte is copied.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/entry.h"

struct mem;

struct e820_entry { /* PVH's start info and Multiboot 2 have the same */
    uint64_t base, size;
    uint32_t type; /* E820_RAM, E820_RESERVED */
    uint32_t reserved;
};
#define E820_RAM      1
#define E820_RESERVED 2
#define E820_MAX      16

enum boot_force { BOOT_AUTO, BOOT_REAL, BOOT_PROTECTED, BOOT_LONG };

struct boot_config {
    const char *kernel_name; /* for messages */
    const uint8_t *kernel;
    size_t kernel_size;
    const char *initrd_name; /* NULL: none */
    int initrd_fd;           /* read with pread, straight into guest memory */
    uint64_t initrd_size;    /* as it was when the file was opened */
    const char *cmdline;
    enum boot_force force; /* --entry: load as a flat binary */
    uint64_t flat_addr;    /* with force */
    uint64_t rsdp;         /* gpa of ACPI's root pointer */
};

/* Finds the format, loads kernel, initrd, command line, boot parameters and page tables into
 * MEM and describes the entry. 0, or a negative errno after logging one line that says what is
 * wrong and what to give instead. */
int boot_load(const struct boot_config *config, struct mem *mem, struct boot_entry *entry);

/* The first SIZE bytes of the file FD to TO; WHAT is its role in messages. 0, or -EIO or what
 * the system says after logging one line. */
int boot_read(const char *name, const char *what, int fd, void *to, uint64_t size);

/* The map given to the guest: RAM without the legacy hole; ECAM and the platform devices' areas
 * reserved. Returns the number of entries written to MAP. */
unsigned boot_e820(const struct mem *mem, struct e820_entry map[E820_MAX]);
