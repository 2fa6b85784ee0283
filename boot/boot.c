/*
 * boot.c: finds the kernel's format, and holds what the loaders share: where a kernel may lie,
 * command line, initial RAM disk, boot parameters, descriptors and page tables.
 *
 * Linux, Documentation/arch/x86/zero-page.rst (boot parameters); Intel SDM vol. 3A, 3.4.5
 * "Segment Descriptors" and 4.5 "4-Level Paging and 5-Level Paging".
 *
 * Rule for kernels: a part of a kernel lies in [0, 0x9fc00) or in low RAM from 1 MiB up, and
 * below 1 MiB not on the areas of boot_overlaps(). RAM above 4 GiB is never used for loading.
 *
 * Pure functions; any thread. RAM may hold what an earlier boot left there.
 */
#include <errno.h>
#include <unistd.h>

#include "boot/loader.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define PAGE_TABLES   6 /* PML4, PDPT, four page directories */
#define PAGE_ENTRIES  512
#define HUGE_PAGE     (2 * MIB)
#define PTE_TABLE     0x03ULL /* present, writable */
#define PTE_HUGE_PAGE 0x83ULL /* present, writable, page size */

/* Selectors 0x10 and 0x18 are what Linux asks for (boot.rst, "32-bit Boot Protocol" and "64-bit
 * Boot Protocol"). */
#define CODE_32 0x00cf9b000000ffffULL /* flat 32-bit code, present, accessed, readable */
#define CODE_64 0x00af9b000000ffffULL
#define DATA    0x00cf93000000ffffULL /* flat data, writable */
enum { GDT_CODE_32 = 1, GDT_CODE, GDT_DATA, GDT_ENTRIES };

static uint64_t low_ram(const struct mem *mem)
{
    return mem->region[0].size;
}

bool boot_overlaps(uint64_t gpa, uint64_t size)
{
    static const struct boot_range area[] = {
        {LAYOUT_BOOT_GDT, LAYOUT_BOOT_INFO + LAYOUT_PAGE_SIZE - LAYOUT_BOOT_GDT},
        {LAYOUT_CMDLINE, LAYOUT_BOOT_PGT + PAGE_TABLES * LAYOUT_PAGE_SIZE - LAYOUT_CMDLINE},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(area); i++)
        if (gpa < area[i].base + area[i].size && size > 0 &&
            (gpa >= area[i].base || size > area[i].base - gpa))
            return true;
    return false;
}

int boot_refuse(const struct boot_config *config, const char *why, const char *give)
{
    log_error(config->kernel_name, "cannot load kernel: %s; %s", why, give);
    return -ENOEXEC;
}

/* In MiB, what -m has to be at least. */
static unsigned long long mib(uint64_t bytes)
{
    return (bytes + MIB - 1) / MIB;
}

int boot_claim(const struct boot_config *config, const struct mem *mem, uint64_t gpa,
               uint64_t size, uint8_t **hva)
{
    bool high = gpa >= LAYOUT_HIGH_START;
    if (!range_within(gpa, size, high ? LAYOUT_LOW_RAM_END : LAYOUT_EBDA)) {
        log_error(config->kernel_name,
                  "cannot load kernel: its %llu bytes at 0x%llx are not in RAM (0-0x%llx, "
                  "0x%llx-0x%llx); link it for 0x100000 or above",
                  (unsigned long long)size, (unsigned long long)gpa, LAYOUT_EBDA - 1,
                  LAYOUT_HIGH_START, LAYOUT_LOW_RAM_END - 1);
        return -ENOEXEC;
    }
    *hva = mem_at(mem, gpa, size);
    if (*hva)
        return 0;
    unsigned long long end = gpa + size;
    log_error(
        config->kernel_name,
        "cannot load kernel: it needs RAM up to 0x%llx, there are %llu MiB; give -m %lluM "
        "or more",
        end, mib(low_ram(mem)), mib(end + (config->initrd_name ? config->initrd_size : 0)));
    return -ENOMEM;
}

int boot_claim_free(const struct boot_config *config, const struct mem *mem, uint64_t gpa,
                    uint64_t size, uint8_t **hva)
{
    int err = boot_claim(config, mem, gpa, size, hva);
    if (err || !boot_overlaps(gpa, size))
        return err;
    return boot_refuse(config,
                       "a segment lies on the boot parameters (0x6000-0x7fff, 0x80000-0x96fff)",
                       "link it for 0x100000 or above");
}

int boot_put_cmdline(const struct boot_config *config, const struct mem *mem, uint64_t max)
{
    size_t len = strlen(config->cmdline);
    max = MIN(max, BOOT_CMDLINE_ROOM - 1);
    if (len > max) {
        log_error("--cmdline",
                  "cannot pass command line: it has %zu characters, the kernel takes %llu; "
                  "shorten it",
                  len, (unsigned long long)max);
        return -E2BIG;
    }
    memcpy(mem_at(mem, LAYOUT_CMDLINE, BOOT_CMDLINE_ROOM), config->cmdline, len + 1);
    return 0;
}

int boot_read(const char *name, const char *what, int fd, void *to, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, (uint8_t *)to + done, size - done, (off_t)done);
        if (n > 0) {
            done += (uint64_t)n;
        } else if (n == 0) {
            log_error(
                name,
                "cannot read %s: it became shorter (%llu of %llu bytes); give a file that "
                "stays as it is",
                what, (unsigned long long)done, (unsigned long long)size);
            return -EIO;
        } else if (errno != EINTR) {
            int err = -errno;
            log_error(name, "cannot read %s: %s; check the file", what, strerror(-err));
            return err;
        }
    }
    return 0;
}

int boot_put_initrd(const struct boot_config *config, const struct mem *mem, uint64_t floor,
                    uint64_t limit, struct boot_range *initrd)
{
    uint64_t size = config->initrd_size;
    uint64_t most = MIN(limit, LAYOUT_LOW_RAM_END), top = MIN(most, low_ram(mem));
    *initrd = (struct boot_range){0};
    if (!config->initrd_name)
        return 0;
    if (!size) {
        log_error(config->initrd_name,
                  "cannot load initial RAM disk: the file is empty; leave --initrd out");
        return -EINVAL;
    }
    if (size <= top && align_down(top - size, LAYOUT_PAGE_SIZE) >= floor) {
        *initrd = (struct boot_range){align_down(top - size, LAYOUT_PAGE_SIZE), size};
        return boot_read(config->initrd_name, "initial RAM disk", config->initrd_fd,
                         mem_at(mem, initrd->base, size), size);
    }
    floor = align_up(floor, LAYOUT_PAGE_SIZE);
    if (floor <= most && size <= most - floor)
        log_error(
            config->initrd_name,
            "cannot load initial RAM disk: its %llu bytes do not fit above the kernel's end "
            "at 0x%llx; give -m %lluM or more",
            (unsigned long long)size, (unsigned long long)floor, mib(floor + size));
    else
        log_error(
            config->initrd_name,
            "cannot load initial RAM disk: its %llu bytes do not fit between the kernel's "
            "end at 0x%llx and the highest address it may have, 0x%llx; give a smaller one",
            (unsigned long long)size, (unsigned long long)floor, (unsigned long long)most);
    return -ENOMEM;
}

void boot_put_params(const struct boot_config *config, const struct mem *mem,
                     struct boot_params *params, const struct boot_range *initrd)
{
    struct e820_entry map[E820_MAX];
    params->hdr.boot_flag = 0xaa55;
    params->hdr.header = 0x53726448; /* "HdrS" */
    params->hdr.vid_mode = 0xffff;   /* normal */
    params->hdr.type_of_loader = 0xff;
    params->hdr.cmd_line_ptr = (uint32_t)LAYOUT_CMDLINE;
    params->hdr.ramdisk_image = (uint32_t)initrd->base;
    params->hdr.ramdisk_size = (uint32_t)initrd->size;
    params->acpi_rsdp_addr = config->rsdp;
    params->e820_entries = (uint8_t)boot_e820(mem, map);
    for (unsigned i = 0; i < params->e820_entries; i++)
        params->e820_table[i] = (struct boot_e820_entry){map[i].base, map[i].size, map[i].type};
    memcpy(mem_at(mem, LAYOUT_BOOT_INFO, sizeof(*params)), params, sizeof(*params));
}

static void put_descriptors(const struct mem *mem, uint64_t code, struct boot_entry *entry)
{
    const uint64_t gdt[GDT_ENTRIES] = {
        [GDT_CODE_32] = CODE_32, [GDT_CODE] = code, [GDT_DATA] = DATA};
    memcpy(mem_at(mem, LAYOUT_BOOT_GDT, sizeof(gdt)), gdt, sizeof(gdt));
    entry->rsp = LAYOUT_BOOT_STACK;
    entry->gdt = LAYOUT_BOOT_GDT;
    entry->gdt_limit = sizeof(gdt) - 1;
    entry->code_selector = GDT_CODE * sizeof(gdt[0]);
    entry->data_selector = GDT_DATA * sizeof(gdt[0]);
}

void boot_put_protected(const struct mem *mem, struct boot_entry *entry)
{
    put_descriptors(mem, CODE_32, entry);
    entry->mode = ENTRY_PROTECTED;
}

/* Pages: PML4, PDPT, then four page directories that map 4 GiB by 2 MiB pages. */
void boot_put_long(const struct mem *mem, struct boot_entry *entry)
{
    uint64_t size = PAGE_TABLES * LAYOUT_PAGE_SIZE;
    uint64_t *pml4 = mem_at(mem, LAYOUT_BOOT_PGT, size);
    uint64_t *pdpt = pml4 + PAGE_ENTRIES, *pd = pdpt + PAGE_ENTRIES;
    memset(pml4, 0, size);
    pml4[0] = (LAYOUT_BOOT_PGT + LAYOUT_PAGE_SIZE) | PTE_TABLE;
    for (unsigned i = 0; i < PAGE_TABLES - 2; i++)
        pdpt[i] = (LAYOUT_BOOT_PGT + (2 + i) * LAYOUT_PAGE_SIZE) | PTE_TABLE;
    for (unsigned i = 0; i < (PAGE_TABLES - 2) * PAGE_ENTRIES; i++)
        pd[i] = i * HUGE_PAGE | PTE_HUGE_PAGE;

    put_descriptors(mem, CODE_64, entry);
    entry->mode = ENTRY_LONG;
    entry->cr3 = LAYOUT_BOOT_PGT;
}

int boot_load(const struct boot_config *config, struct mem *mem, struct boot_entry *entry)
{
    if (!config->kernel_size)
        return boot_refuse(config, "the file is empty",
                           "give a bzImage, an ELF file or a flat binary");
    if (low_ram(mem) < LAYOUT_HIGH_START) {
        log_error("--memory", "cannot boot: a guest needs 1 MiB of RAM; give -m 1M or more");
        return -ENOMEM;
    }
    if (config->force != BOOT_AUTO)
        return flat_load(config, mem, entry);
    if (bzimage_probe(config))
        return bzimage_load(config, mem, entry);
    if (elf_probe(config))
        return elf_load(config, mem, entry);
    int err = foreign_refuse(config); /* a disk image may have GRUB's Multiboot header in it */
    if (err)
        return err;
    if (multiboot_probe(config))
        return multiboot_load(config, mem, entry);
    return flat_load(config, mem, entry);
}
