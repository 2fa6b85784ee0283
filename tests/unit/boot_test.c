/* boot_test.c: tests of boot/boot.c and boot/e820.c: what is common to all kernel formats. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "boot/loader.h"
#include "boot_rig.h"
#include "vmm/layout.h"
#include "vmm/util.h"

static struct boot_rig rig;

static void setup(void)
{
    rig_init(&rig, 32 * MIB);
    rig_bzimage(&rig, 1, 0x400);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(boot, .init = setup, .fini = teardown);
TestSuite(e820);

Test(boot, empty_file)
{
    rig_file(&rig, NULL, 0);
    rig_refused(&rig, -ENOEXEC, "kernel.bin: cannot load kernel: the file is empty; give");
    rig.config.force = BOOT_LONG;
    rig.config.flat_addr = 0x100000;
    rig_refused(&rig, -ENOEXEC, "the file is empty");
}

Test(boot, less_than_a_mebibyte_of_ram)
{
    struct boot_rig small;
    rig_init(&small, MIB - 4096);
    rig_file(&small, "x", 1);
    rig_refused(&small, -ENOMEM, "give -m 1M or more");
    rig_fini(&small);
    rig_init(&small, MIB);
    rig_file(&small, "x", 1);
    cr_expect_eq(rig_load(&small), 0);
    rig_fini(&small);
}

Test(boot, force_beats_the_format)
{
    rig.config.force = BOOT_PROTECTED;
    rig.config.flat_addr = 0x200000;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, 0x200000);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
}

/* Walks the tables as the processor does (SDM 4.5.4), for each 2 MiB page of the first 4 GiB.
 */
Test(boot, first_four_gib_are_identity_mapped)
{
    cr_assert_eq(rig_load(&rig), 0);
    for (uint64_t addr = 0; addr < 4 * GIB; addr += 2 * MIB) {
        uint64_t entry = rig.entry.cr3;
        for (unsigned shift = 39; shift >= 21; shift -= 9) {
            const uint64_t *table = rig_at(&rig, entry & ~0xfffULL, 4096);
            entry = table[addr >> shift & 511];
            cr_assert_eq(entry & 3, 3, "present and writable");
            cr_assert_eq(entry >> 7 & 1, shift == 21, "a page in the last table only");
        }
        cr_assert_eq(entry & ~0x1fffffULL, addr);
    }
    const uint64_t *pml4 = rig_at(&rig, rig.entry.cr3, 4096);
    const uint64_t *pdpt = rig_at(&rig, pml4[0] & ~0xfffULL, 4096);
    cr_expect_eq(pml4[1] | pdpt[4], 0, "and nothing else is");
}

Test(boot, page_tables_do_not_depend_on_what_ram_held)
{
    memset(rig_at(&rig, 0, MIB), 0xff, MIB);
    cr_assert_eq(rig_load(&rig), 0);
    const uint64_t *pml4 = rig_at(&rig, rig.entry.cr3, 4096);
    cr_expect_eq(pml4[1] | pml4[511], 0);
    cr_expect_eq(rig_params(&rig)->tboot_addr, 0);
}

/* SDM vol. 3A, figure 3-8. */
static void check_descriptor(unsigned selector, unsigned type, unsigned long_mode)
{
    const uint64_t *gdt = rig_at(&rig, rig.entry.gdt, rig.entry.gdt_limit + 1U);
    uint64_t d = gdt[selector / 8];
    cr_expect_eq(d & 0xffff, 0xffff, "limit 15:0");
    cr_expect_eq(d >> 48 & 0xf, 0xf, "limit 19:16");
    cr_expect_eq(d >> 16 & 0xffffff, 0, "base 23:0");
    cr_expect_eq(d >> 56, 0, "base 31:24");
    cr_expect_eq(d >> 40 & 0xf, type);
    cr_expect_eq(d >> 44 & 0xf, 9, "code or data, DPL 0, present");
    cr_expect_eq(d >> 53 & 1, long_mode, "L");
    cr_expect_eq(d >> 54 & 1, !long_mode, "D/B");
    cr_expect_eq(d >> 55 & 1, 1, "granularity");
}

Test(boot, descriptors)
{
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.gdt_limit, 31);
    check_descriptor(rig.entry.code_selector, 11, 1);
    check_descriptor(rig.entry.data_selector, 3, 0);
    check_descriptor(8, 11, 0); /* on the way back to 32 bits */
    rig.config.force = BOOT_PROTECTED;
    rig.config.flat_addr = 0x100000;
    cr_assert_eq(rig_load(&rig), 0);
    check_descriptor(rig.entry.code_selector, 11, 0);
    check_descriptor(rig.entry.data_selector, 3, 0);
    cr_expect_eq(rig.entry.rsp % 16, 0);
}

Test(boot, areas)
{
    static const struct {
        uint64_t base, size;
        bool hit;
    } t[] = {
        {0, 0x6000, false},       {0, 0x6001, true},
        {0x6000, 0, false},       {0x7fff, 1, true},
        {0x8000, 0x78000, false}, {0x8000, 0x78001, true},
        {0x96fff, 1, true},       {0x97000, UINT64_MAX, false},
        {0, UINT64_MAX, true},    {UINT64_MAX, UINT64_MAX, false},
        {0x7c00, 512, true},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        cr_expect_eq(boot_overlaps(t[i].base, t[i].size), t[i].hit, "%u", i);
}

Test(boot, claim_edges)
{
    static const struct {
        uint64_t gpa, size;
        int err;
    } t[] = {
        {0, LAYOUT_EBDA, 0},
        {0, LAYOUT_EBDA + 1, -ENOEXEC},
        {LAYOUT_EBDA - 1, 2, -ENOEXEC},
        {LAYOUT_HOLE_START, 1, -ENOEXEC},
        {LAYOUT_HIGH_START - 1, 1, -ENOEXEC},
        {LAYOUT_HIGH_START, 31 * MIB, 0},
        {LAYOUT_HIGH_START, 31 * MIB + 1, -ENOMEM},
        {LAYOUT_HIGH_START, LAYOUT_LOW_RAM_END - MIB, -ENOMEM},
        {LAYOUT_HIGH_START, LAYOUT_LOW_RAM_END, -ENOEXEC},
        {LAYOUT_HIGH_RAM, 1, -ENOEXEC},
        {UINT64_MAX, 2, -ENOEXEC},
        {LAYOUT_HIGH_START, UINT64_MAX, -ENOEXEC},
    };
    uint8_t *hva;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        cr_expect_eq(boot_claim(&rig.config, &rig.mem, t[i].gpa, t[i].size, &hva), t[i].err,
                     "%u", i);
}

Test(boot, command_line_has_64_kib)
{
    char *text = calloc(1, 0x10001);
    memset(text, 'x', 0xffff);
    rig.config.cmdline = text;
    cr_assert_eq(boot_put_cmdline(&rig.config, &rig.mem, UINT64_MAX), 0);
    const char *at = rig_at(&rig, LAYOUT_CMDLINE, 0x10000);
    cr_expect_eq(at[0xfffe], 'x');
    cr_expect_eq(at[0xffff], 0);
    text[0xffff] = 'x';
    rig_header(&rig)->cmdline_size = UINT32_MAX;
    rig_refused(&rig, -E2BIG, "it has 65536 characters, the kernel takes 65535");
    free(text);
}

Test(boot, initrd_that_is_empty)
{
    rig_initrd(&rig, 0);
    rig_refused(&rig, -EINVAL, "initrd.img: cannot load initial RAM disk: the file is empty");
}

Test(boot, initrd_that_became_shorter)
{
    rig_initrd(&rig, 5000);
    cr_assert_eq(ftruncate(rig.config.initrd_fd, 4999), 0);
    rig_refused(&rig, -EIO, "it became shorter (4999 of 5000 bytes)");
}

Test(boot, initrd_that_cannot_be_read)
{
    rig_initrd(&rig, 5000);
    close(rig.config.initrd_fd);
    rig.config.initrd_fd = -1;
    rig_refused(&rig, -EBADF, "Bad file descriptor");
}

Test(boot, initrd_of_absurd_size)
{
    rig_initrd(&rig, 1);
    rig.config.initrd_size = UINT64_MAX;
    rig_refused(&rig, -ENOMEM, "18446744073709551615 bytes do not fit");
    rig.config.initrd_size = 3 * GIB;
    rig_refused(&rig, -ENOMEM, "give a smaller one");
}

/* ---- e820.c ---- */

static uint32_t type_at(const struct e820_entry *map, unsigned nr, uint64_t gpa)
{
    uint32_t type = 0;
    for (unsigned i = 0; i < nr; i++)
        if (gpa >= map[i].base && gpa - map[i].base < map[i].size) {
            cr_expect_eq(type, 0, "0x%llx is in two entries", (unsigned long long)gpa);
            type = map[i].type;
        }
    return type;
}

Test(e820, every_edge)
{
    static const struct {
        uint64_t gpa;
        uint32_t type;
    } t[] = {
        {0, E820_RAM},
        {LAYOUT_EBDA - 1, E820_RAM},
        {LAYOUT_EBDA, E820_RESERVED},
        {LAYOUT_HOLE_START - 1, E820_RESERVED},
        {LAYOUT_HOLE_START, 0},
        {LAYOUT_ACPI, E820_RESERVED},
        {LAYOUT_HIGH_START - 1, E820_RESERVED},
        {LAYOUT_HIGH_START, E820_RAM},
        {LAYOUT_LOW_RAM_END - 1, E820_RAM},
        {LAYOUT_MMIO32, 0},
        {LAYOUT_ECAM - 1, 0},
        {LAYOUT_ECAM, E820_RESERVED},
        {LAYOUT_PLATFORM, E820_RESERVED},
        {LAYOUT_IOAPIC - 1, E820_RESERVED},
        {LAYOUT_IOAPIC, 0},
        {LAYOUT_TSS + 0x2fff, E820_RESERVED},
        {LAYOUT_HIGH_RAM - 1, 0},
        {LAYOUT_HIGH_RAM, E820_RAM},
        {LAYOUT_HIGH_RAM + GIB - 1, E820_RAM},
        {LAYOUT_HIGH_RAM + GIB, 0},
    };
    const struct mem mem = {.nr = 2,
                            .size = LAYOUT_LOW_RAM_END + GIB,
                            .region = {{.gpa = 0, .size = LAYOUT_LOW_RAM_END},
                                       {.gpa = LAYOUT_HIGH_RAM, .size = GIB}}};
    struct e820_entry map[E820_MAX];
    unsigned nr = boot_e820(&mem, map);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        cr_expect_eq(type_at(map, nr, t[i].gpa), t[i].type, "0x%llx",
                     (unsigned long long)t[i].gpa);
}

Test(e820, one_mebibyte_has_no_high_entry)
{
    const struct mem mem = {.nr = 1, .size = MIB, .region = {{.size = MIB}}};
    struct e820_entry map[E820_MAX];
    unsigned nr = boot_e820(&mem, map);
    cr_expect_eq(type_at(map, nr, LAYOUT_HIGH_START), 0);
    for (unsigned i = 0; i < nr; i++)
        cr_expect_gt(map[i].size, 0);
}
