/*
 * boot_rig.h: what the tests of boot/ share: guest RAM, a kernel file of exactly its size (so
 * that the sanitizer sees a read past its end), and what was written to standard error.
 */
#pragma once

#include <asm/bootparam.h>
#include <stdint.h>

#include "boot/boot.h"
#include "vmm/mem.h"

struct boot_rig {
    struct mem mem;
    struct boot_config config;
    struct boot_entry entry;
    uint8_t *file; /* config.kernel */
};

/* RAM bytes of guest memory, RSDP 0xe0000, command line "quiet", no kernel yet.
 * From here on standard error goes nowhere. */
void rig_init(struct boot_rig *rig, uint64_t ram);
void rig_fini(struct boot_rig *rig);

/* A zeroed kernel file of SIZE bytes, or a copy of the first SIZE bytes of FROM. */
void rig_file(struct boot_rig *rig, const void *from, size_t size);

/* A bzImage as Linux makes it, reduced: protocol 2.15, relocatable, 1 MiB runtime size at its
 * preferred 16 MiB, SECTS setup sectors, CODE bytes of code that are 0xc0. */
void rig_bzimage(struct boot_rig *rig, unsigned sects, size_t code);
struct setup_header *rig_header(struct boot_rig *rig);

/* Makes an initial RAM disk of SIZE bytes (byte i is i % 251) and announces it. */
void rig_initrd(struct boot_rig *rig, size_t size);

int rig_load(struct boot_rig *rig);
/* Loading fails with ERR and exactly one line that has TEXT in it and says what to do. */
void rig_refused(struct boot_rig *rig, int err, const char *text);

/* Guest memory, which must be there. */
void *rig_at(const struct boot_rig *rig, uint64_t gpa, uint64_t size);
const struct boot_params *rig_params(const struct boot_rig *rig);
