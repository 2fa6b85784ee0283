/* bzimage_test.c: tests of boot/bzimage.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "boot/loader.h"
#include "boot_rig.h"
#include "vmm/layout.h"
#include "vmm/util.h"

static struct boot_rig rig;

static void setup(void)
{
    rig_init(&rig, 64 * MIB);
    rig_bzimage(&rig, 3, 0x1000);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(bzimage, .init = setup, .fini = teardown);

Test(bzimage, entry_is_64_bit_with_boot_parameters_in_rsi)
{
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_LONG);
    cr_expect_eq(rig.entry.rip, 0x1000200);
    cr_expect_eq(rig.entry.rsi, 0x7000);
    cr_expect_eq(rig.entry.cr3, LAYOUT_BOOT_PGT);
    cr_expect_eq(rig.entry.code_selector, 0x10);
    cr_expect_eq(rig.entry.data_selector, 0x18);
}

Test(bzimage, code_is_copied_whole_and_nothing_after_it)
{
    size_t size = rig.config.kernel_size;
    uint8_t *more = calloc(1, size + 64); /* what a signature appends is not code */
    memcpy(more, rig.file, size);
    memset(more + size, 0xee, 64);
    rig_file(&rig, more, size + 64);
    free(more);
    cr_assert_eq(rig_load(&rig), 0);
    const uint8_t *code = rig_at(&rig, 0x1000000, 0x1001);
    for (unsigned i = 0; i < 0x1000; i++)
        cr_assert_eq(code[i], 0xc0);
    cr_expect_eq(code[0x1000], 0);
}

Test(bzimage, parameters_are_the_header_and_our_fields)
{
    memset(rig.file, 0xff, 0x1f1); /* the sentinel and its neighbours must not come along */
    cr_assert_eq(rig_load(&rig), 0);
    const struct boot_params *params = rig_params(&rig);
    cr_expect_eq(params->hdr.version, 0x020f);
    cr_expect_eq(params->hdr.kernel_info_offset, 0x1234);
    cr_expect_eq(params->hdr.type_of_loader, 0xff);
    cr_expect_eq(params->hdr.vid_mode, 0xffff);
    cr_expect_eq(params->hdr.code32_start, 0x1000000);
    cr_expect_eq(params->hdr.cmd_line_ptr, 0x80000);
    cr_expect_eq(params->hdr.ramdisk_size, 0);
    cr_expect_eq(params->acpi_rsdp_addr, 0xe0000);
    cr_expect_eq(params->sentinel, 0);
    cr_expect_eq(params->screen_info.orig_video_isVGA, 0);
    cr_expect_str_eq(rig_at(&rig, 0x80000, 6), "quiet");
}

Test(bzimage, parameters_have_the_memory_map)
{
    struct e820_entry map[E820_MAX];
    unsigned nr = boot_e820(&rig.mem, map);
    cr_assert_eq(rig_load(&rig), 0);
    const struct boot_params *params = rig_params(&rig);
    cr_assert_eq(params->e820_entries, nr);
    for (unsigned i = 0; i < nr; i++) {
        cr_expect_eq(params->e820_table[i].addr, map[i].base);
        cr_expect_eq(params->e820_table[i].size, map[i].size);
        cr_expect_eq(params->e820_table[i].type, map[i].type);
    }
}

/* Only as much of the header as the file says it has: the rest of the page stays zero. */
Test(bzimage, header_length_is_the_files)
{
    rig.file[0x201] = 0x268 - 0x202;
    memset(rig.file + 0x268, 0xaa, 0x40);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig_params(&rig)->hdr.init_size, 0x100000);
    cr_expect_eq(rig_params(&rig)->hdr.kernel_info_offset, 0);
}

Test(bzimage, header_never_leaves_its_room)
{
    rig.file[0x201] = 0xff;
    memset(rig.file + 0x26c, 0xaa, 0x95);
    cr_assert_eq(rig_load(&rig), 0);
    const uint8_t *page = rig_at(&rig, 0x7000, 0x1000);
    cr_expect_eq(page[0x28f], 0xaa);
    cr_expect_eq(page[0x290], 0);
}

Test(bzimage, no_setup_sectors_means_four)
{
    rig_bzimage(&rig, 0, 0x400);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(*(uint8_t *)rig_at(&rig, 0x1000000, 1), 0xc0);
    cr_expect_eq(rig_params(&rig)->hdr.setup_sects, 0);
}

Test(bzimage, load_address_is_aligned_unless_fixed)
{
    rig_header(&rig)->pref_address = 0x1000001;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, 0x1200200);
    rig_header(&rig)->relocatable_kernel = 0;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, 0x1000201);
    rig_header(&rig)->pref_address = 0;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, 0x100200, "never below 1 MiB");
}

/* ---- 32-bit entry ---- */

/* What a boot loader has to leave in the registers: boot.rst, "32-bit Boot Protocol". */
static void expect_32(uint64_t at)
{
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
    cr_expect_eq(rig.entry.rip, at, "0x%llx", (unsigned long long)rig.entry.rip);
    cr_expect_eq(rig.entry.rsi, 0x7000);
    cr_expect_eq(rig.entry.rbx, 0);
    cr_expect_eq(rig.entry.code_selector, 0x10);
    cr_expect_eq(rig.entry.data_selector, 0x18);
    cr_expect_eq(*(uint8_t *)rig_at(&rig, at, 1), 0xc0);
    cr_expect_eq(rig_params(&rig)->hdr.code32_start, at);
}

Test(bzimage, kernel_without_64_bit_entry)
{
    rig_header(&rig)->xloadflags = (uint16_t)~XLF_KERNEL_64;
    expect_32(0x1000000);
}

Test(bzimage, flags_of_later_protocols_do_not_count)
{
    rig_header(&rig)->version = 0x020b; /* bytes where 2.12 has XLF_KERNEL_64 */
    expect_32(0x1000000);
    rig_header(&rig)->version = 0x0209; /* before pref_address: always at 1 MiB */
    rig_header(&rig)->init_size = 0;
    expect_32(0x100000);
    rig_header(&rig)->version = 0x020a;
    rig_refused(&rig, -ENOEXEC, "contradicts itself");
}

/* What older protocols do not say has a fixed value: boot.rst, "Details of header fields". */
Test(bzimage, limits_of_old_protocols)
{
    static const struct {
        uint16_t version;
        unsigned line;
        uint32_t initrd_max;
    } t[] = {
        {0x0206, 300, 0x1ffffff},
        {0x0205, 255, 0x1ffffff},
        {0x0203, 255, 0x1ffffff},
        {0x0202, 255, 0x37ffffff},
    };
    char text[400] = "";
    rig.config.cmdline = text;
    rig_initrd(&rig, 0x1000);
    rig_header(&rig)->cmdline_size = 300;
    rig_header(&rig)->initrd_addr_max = 0x1ffffff;
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        rig_header(&rig)->version = t[i].version;
        memset(text, 'x', t[i].line);
        text[t[i].line] = 0;
        expect_32(0x100000);
        cr_expect_eq(rig_params(&rig)->hdr.ramdisk_image,
                     MIN(t[i].initrd_max + 1ULL, 64 * MIB) - 0x1000, "%u", i);
        memset(text, 'x', t[i].line + 1);
        text[t[i].line + 1] = 0;
        rig_refused(&rig, -E2BIG, "shorten it");
    }
}

/* Before 2.04, syssize has two bytes and cannot be trusted; the file's length can. */
Test(bzimage, code_of_an_old_kernel_is_the_rest_of_the_file)
{
    rig_header(&rig)->version = 0x0203;
    rig_header(&rig)->syssize = UINT32_MAX;
    expect_32(0x100000);
    const uint8_t *code = rig_at(&rig, 0x100000, 0x1001);
    cr_expect_eq(code[0xfff], 0xc0);
    cr_expect_eq(code[0x1000], 0);
    rig_header(&rig)->version = 0x0204;
    rig_refused(&rig, -ENOEXEC, "get a complete copy");
}

Test(bzimage, protocols_that_are_too_old)
{
    rig_header(&rig)->version = 0x0202;
    expect_32(0x100000);
    rig_header(&rig)->version = 0x0201;
    rig_refused(&rig, -ENOEXEC, "protocol 2.01, 2.02 is needed; give");
}

/* iPXE: setup code that a BIOS has to run. */
Test(bzimage, kernel_without_any_entry)
{
    rig_header(&rig)->code32_start = 0;
    cr_assert_eq(rig_load(&rig), 0, "the 64-bit entry does not need it");
    rig_header(&rig)->xloadflags = 0;
    rig_refused(&rig, -ENOEXEC, "only a BIOS can start it");
}

Test(bzimage, zimage)
{
    rig_header(&rig)->loadflags = 0;
    rig_refused(&rig, -ENOEXEC, "it is a zImage");
}

static void shorten(size_t by)
{
    size_t size = rig.config.kernel_size - by;
    uint8_t *copy = malloc(size);
    memcpy(copy, rig.file, size);
    rig_file(&rig, copy, size);
    free(copy);
}

/* syssize counts paragraphs: memtest86+ ends within its last one. */
Test(bzimage, truncated)
{
    shorten(15);
    cr_assert_eq(rig_load(&rig), 0);
    const uint8_t *code = rig_at(&rig, 0x1000000, 0x1000);
    cr_expect_eq(code[0xff0], 0xc0);
    cr_expect_eq(code[0xff1], 0);
    shorten(1);
    rig_refused(&rig, -ENOEXEC, "has 6128 bytes, its header says 6144; get a complete copy");
}

Test(bzimage, needs_more_ram)
{
    rig_header(&rig)->init_size = 48 * MIB;
    cr_assert_eq(rig_load(&rig), 0, "16 + 48 MiB fit exactly");
    rig_header(&rig)->init_size++;
    rig_refused(&rig, -ENOMEM, "there are 64 MiB; give -m 65M or more");
}

/* Each of these would make a careless loader add, align or copy wrongly. */
Test(bzimage, contradictions)
{
    static const struct {
        uint64_t pref;
        uint32_t alignment, init_size, syssize;
    } bad[] = {
        {0x1000000, 0, 0x100000, 0x100},
        {0x1000000, 0x300000, 0x100000, 0x100},
        {0x1000000, 0x200000, 0xfff, 0x100},
        {0x1000000, 0x200000, 0x100000, 0x20}, /* the entry is past the code */
        {0x1000000, 0x200000, 0x100000, 0},
        {UINT64_MAX, 0x200000, 0x100000, 0x100},
        {UINT64_MAX, 0x200000, 0x1000, 0x100}, /* rounds up to 0 */
        {UINT64_MAX - 0x100000, 1, 0x200000, 0x100},
        {LAYOUT_LOW_RAM_END, 0x80000000, 0x100000, 0x100},
        {0x1000000, 0x200000, UINT32_MAX, 0x100},
        {0x1000000, 0x200000, 0x100000, 0x101},
        {0x1000000, 0x200000, 0x100000, UINT32_MAX},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        rig_header(&rig)->pref_address = bad[i].pref;
        rig_header(&rig)->kernel_alignment = bad[i].alignment;
        rig_header(&rig)->init_size = bad[i].init_size;
        rig_header(&rig)->syssize = bad[i].syssize;
        rig_refused(&rig, -ENOEXEC, "cannot load kernel");
    }
}

Test(bzimage, command_line_limit_is_the_kernels)
{
    char text[2050] = "";
    memset(text, 'x', 2047);
    rig.config.cmdline = text;
    cr_assert_eq(rig_load(&rig), 0);
    text[2047] = 'x';
    rig_refused(&rig, -E2BIG, "it has 2048 characters, the kernel takes 2047; shorten it");
}

Test(bzimage, initrd_is_as_high_as_possible)
{
    rig_initrd(&rig, 5000);
    cr_assert_eq(rig_load(&rig), 0);
    const struct boot_params *params = rig_params(&rig);
    cr_expect_eq(params->hdr.ramdisk_image, 64 * MIB - 0x2000);
    cr_expect_eq(params->hdr.ramdisk_size, 5000);
    const uint8_t *at = rig_at(&rig, 64 * MIB - 0x2000, 5000);
    for (unsigned i = 0; i < 5000; i++)
        cr_assert_eq(at[i], i % 251);
}

Test(bzimage, initrd_stays_below_the_kernels_limit)
{
    rig_initrd(&rig, 0x1000);
    rig_header(&rig)->initrd_addr_max = 0x2000fff;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig_params(&rig)->hdr.ramdisk_image, 0x2000000);
    rig_header(&rig)->initrd_addr_max = 0x2000ffe;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig_params(&rig)->hdr.ramdisk_image, 0x1fff000);
    rig_header(&rig)->initrd_addr_max = UINT32_MAX;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig_params(&rig)->hdr.ramdisk_image, 64 * MIB - 0x1000);
}

Test(bzimage, initrd_does_not_fit_above_the_kernel)
{
    rig_initrd(&rig, 0x1000);
    rig_header(&rig)->init_size = 48 * MIB - 0x1000;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig_params(&rig)->hdr.ramdisk_image, 64 * MIB - 0x1000);
    rig_header(&rig)->init_size++;
    rig_refused(&rig, -ENOMEM,
                "its 4096 bytes do not fit above the kernel's end at 0x4000000; "
                "give -m 65M or more");
    rig_header(&rig)->initrd_addr_max = 0x1100fff; /* more memory would not help */
    rig_header(&rig)->init_size = 0x100001;
    rig_refused(&rig, -ENOMEM, "give a smaller one");
}

/* ---- hostile ---- */

Test(bzimage, every_truncation)
{
    size_t size = rig.config.kernel_size;
    uint8_t *whole = malloc(size);
    memcpy(whole, rig.file, size);
    for (size_t len = 0; len < size; len++) {
        rig_file(&rig, whole, len);
        int err = rig_load(&rig);
        if (len >= 0x206)
            cr_assert_eq(err, size - len < 16 ? 0 : -ENOEXEC, "%zu bytes", len);
    }
    free(whole);
}

/* Whatever a header byte becomes: refused, or loaded inside RAM. */
Test(bzimage, every_value_of_every_header_byte)
{
    rig_initrd(&rig, 100);
    for (unsigned at = 0x1f1; at < 0x270; at++) {
        uint8_t saved = rig.file[at];
        for (unsigned value = 0; value < 256; value++) {
            rig.file[at] = (uint8_t)value;
            if (!rig_load(&rig))
                cr_assert(rig.entry.mode != ENTRY_LONG || rig.entry.rip < 64 * MIB);
        }
        rig.file[at] = saved;
    }
}

Test(bzimage, random_headers)
{
    srand(1);
    for (unsigned round = 0; round < 20000; round++) {
        rig_bzimage(&rig, 1, 0x400);
        rig_header(&rig)->version = (uint16_t)(0x0200 + round % 16);
        for (unsigned i = 0; i < 4; i++)
            rig.file[0x1f1 + (unsigned)rand() % 0x90] = (uint8_t)rand();
        rig_load(&rig);
    }
}
