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

/* A kernel that has been copied to [base, end). */
struct boot_image {
    uint64_t base, end;
    uint64_t entry; /* physical */
};

#define BOOT_CMDLINE_ROOM 0x10000ULL /* at LAYOUT_CMDLINE */

/* The formats. A probe looks at magic numbers only; its loader says what is wrong. */
bool bzimage_probe(const struct boot_config *config);
int bzimage_load(const struct boot_config *config, const struct mem *mem,
                 struct boot_entry *entry);
bool elf_probe(const struct boot_config *config);
int elf_load(const struct boot_config *config, const struct mem *mem, struct boot_entry *entry);
bool multiboot_probe(const struct boot_config *config);
int multiboot_load(const struct boot_config *config, const struct mem *mem,
                   struct boot_entry *entry);
int flat_load(const struct boot_config *config, const struct mem *mem,
              struct boot_entry *entry);

/* Logs that the kernel cannot be loaded, WHY, and what to GIVE instead. -ENOEXEC. */
int boot_refuse(const struct boot_config *config, const char *why, const char *give);

/* foreign.c: 0, or -ENOEXEC when the file is of a known kind that cannot be booted. */
int foreign_refuse(const struct boot_config *config);

/* elf.c, for Multiboot: copies the segments of an ELF file to where they belong. ENTRY, when it
 * is not 0, is a physical address to use instead of the file's. */
int elf_place(const struct boot_config *config, const struct mem *mem, uint64_t entry,
              struct boot_image *image);

/* A kernel may occupy low RAM that the memory map shows as usable. boot_claim() checks it and
 * gives the host address; boot_overlaps() tells whether a range touches what the loaders put
 * below 1 MiB (tables, boot parameters, command line, stack); boot_claim_free() refuses that.
 */
int boot_claim(const struct boot_config *config, const struct mem *mem, uint64_t gpa,
               uint64_t size, uint8_t **hva);
bool boot_overlaps(uint64_t gpa, uint64_t size);
int boot_claim_free(const struct boot_config *config, const struct mem *mem, uint64_t gpa,
                    uint64_t size, uint8_t **hva);

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
