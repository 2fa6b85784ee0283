/*
 * loader.h: what the loaders share; nothing outside boot/ includes it.
 *
 * A loader checks its file, claims the guest addresses it will use, copies, and describes the
 * entry. Each function here that returns an error has logged its one line.
 */
#pragma once

#include <asm/bootparam.h>
#include <stdbool.h>
#include <stdint.h>

#include "boot/boot.h"

struct mem;

struct boot_range {
    uint64_t base, size; /* size 0: none */
};

/* The formats. A probe looks at magic numbers only; its loader says what is wrong. */
bool bzimage_probe(const struct boot_config *config);
int bzimage_load(const struct boot_config *config, const struct mem *mem,
                 struct boot_entry *entry);
bool elf_probe(const struct boot_config *config);
int elf_load(const struct boot_config *config, const struct mem *mem, struct boot_entry *entry);
int flat_load(const struct boot_config *config, const struct mem *mem,
              struct boot_entry *entry);

/* Logs that the kernel cannot be loaded, WHY, and what to GIVE instead. -ENOEXEC. */
int boot_refuse(const struct boot_config *config, const char *why, const char *give);

/* foreign.c: 0, or -ENOEXEC when the file is of a known kind that cannot be booted. */
int foreign_refuse(const struct boot_config *config);
/* Whether the file carries a Multiboot or Multiboot2 header with a right checksum. */
bool foreign_multiboot(const struct boot_config *config);

/* A kernel may occupy low RAM that the memory map shows as usable. boot_claim() checks it and
 * gives the host address; boot_overlaps() tells whether a range touches what the loaders put
 * below 1 MiB (tables, boot parameters, command line, stack). */
int boot_claim(const struct boot_config *config, const struct mem *mem, uint64_t gpa,
               uint64_t size, uint8_t **hva);
bool boot_overlaps(uint64_t gpa, uint64_t size);

/* The command line to LAYOUT_CMDLINE; MAX is the kernel's limit, without the NUL. */
int boot_put_cmdline(const struct boot_config *config, const struct mem *mem, uint64_t max);

/* The initial RAM disk as high as possible in low RAM, page-aligned, inside [floor, limit). */
int boot_put_initrd(const struct boot_config *config, const struct mem *mem, uint64_t floor,
                    uint64_t limit, struct boot_range *initrd);

/* Completes PARAMS (a copied setup header, or zeroes) and puts it to LAYOUT_BOOT_INFO. */
void boot_put_params(const struct boot_config *config, const struct mem *mem,
                     struct boot_params *params, const struct boot_range *initrd);

/* Descriptors, and for 64-bit mode page tables, with the matching fields of ENTRY. */
void boot_put_protected(const struct mem *mem, struct boot_entry *entry);
void boot_put_long(const struct mem *mem, struct boot_entry *entry);
