/* flat_test.c: tests of boot/flat.c. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "boot_rig.h"
#include "vmm/layout.h"
#include "vmm/util.h"

static struct boot_rig rig;

static void setup(void)
{
    rig_init(&rig, 32 * MIB);
    rig_file(&rig, "\xf4\xeb\xfd", 3);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(flat, .init = setup, .fini = teardown);

static int load_at(enum boot_force mode, uint64_t addr)
{
    rig.config.force = mode;
    rig.config.flat_addr = addr;
    return rig_load(&rig);
}

Test(flat, default_is_real_mode_at_1000_0)
{
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_REAL);
    cr_expect_eq(rig.entry.rip, 0x10000);
    cr_expect_eq(rig.entry.rsi, 0x7000);
    cr_expect_eq(memcmp(rig_at(&rig, 0x10000, 3), "\xf4\xeb\xfd", 3), 0);
    cr_expect_str_eq(rig_at(&rig, 0x80000, 6), "quiet");
}

Test(flat, initrd_is_announced)
{
    rig_initrd(&rig, 4096);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig_params(&rig)->hdr.ramdisk_image, 32 * MIB - 4096);
    cr_expect_eq(rig_params(&rig)->hdr.ramdisk_size, 4096);
}

Test(flat, protected)
{
    cr_assert_eq(load_at(BOOT_PROTECTED, 0x100000), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
    cr_expect_eq(rig.entry.rip, 0x100000);
    cr_expect_eq(rig.entry.code_selector, 0x10);
    cr_expect_eq(rig.entry.cr3, 0);
    cr_expect_eq(*(uint8_t *)rig_at(&rig, 0x100000, 1), 0xf4);
}

Test(flat, long_mode)
{
    cr_assert_eq(load_at(BOOT_LONG, 0x100001), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_LONG);
    cr_expect_eq(rig.entry.rip, 0x100001);
    cr_expect_eq(rig.entry.rsi, 0x7000);
    cr_expect_eq(rig.entry.cr3, LAYOUT_BOOT_PGT);
    cr_assert_eq(load_at(BOOT_LONG, 0x10000), 0, "between the areas it is free");
}

Test(flat, a_boot_sector_wins_over_the_parameters)
{
    memset(rig_at(&rig, 0x7000, 0x1000), 0x55, 0x1000);
    cr_assert_eq(load_at(BOOT_REAL, 0x7c00), 0);
    cr_expect_eq(rig.entry.rip, 0x7c00);
    cr_expect_eq(rig.entry.rsi, 0);
    cr_expect_eq(*(uint8_t *)rig_at(&rig, 0x7c00, 1), 0xf4);
    cr_expect_eq(*(uint8_t *)rig_at(&rig, 0x7000, 1), 0x55, "no parameters were written");
    rig_initrd(&rig, 4096);
    rig_refused(&rig, -EINVAL, "lies over the boot parameters");
}

Test(flat, largest_real_mode_image)
{
    rig_file(&rig, NULL, 0x80000 - 0x10000);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rsi, 0x7000);
    rig_file(&rig, NULL, 0x80001 - 0x10000);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rsi, 0, "over the command line");
    rig_file(&rig, NULL, LAYOUT_EBDA - 0x10000);
    cr_assert_eq(rig_load(&rig), 0);
    rig_file(&rig, NULL, LAYOUT_EBDA - 0x10000 + 1);
    rig_refused(&rig, -ENOEXEC, "are not in RAM");
}

Test(flat, addresses_that_cannot_be)
{
    static const struct {
        enum boot_force mode;
        uint64_t addr;
        const char *text;
    } t[] = {
        {BOOT_REAL, 0x100000, "give an address below 0x100000"},
        {BOOT_REAL, 0x9fbfe, "are not in RAM"},
        {BOOT_REAL, UINT64_MAX, "give an address below"},
        {BOOT_PROTECTED, 0x7000, "the boot parameters and tables are there"},
        {BOOT_PROTECTED, 0x7fffe, "the boot parameters and tables are there"},
        {BOOT_LONG, 0x100000000, "give an address from 0x100000 up"},
        {BOOT_LONG, 0xfffffffe, "are not in RAM"},
        {BOOT_LONG, 0xa0000, "are not in RAM"},
        {BOOT_LONG, UINT64_MAX, "give an address from 0x100000 up"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        rig.config.force = t[i].mode;
        rig.config.flat_addr = t[i].addr;
        int err = strstr(t[i].text, "not in RAM") ? -ENOEXEC : -EINVAL;
        rig_refused(&rig, err, t[i].text);
    }
}

Test(flat, needs_more_ram)
{
    rig.config.force = BOOT_LONG;
    rig.config.flat_addr = 32 * MIB - 3;
    cr_assert_eq(rig_load(&rig), 0);
    rig.config.flat_addr++;
    rig_refused(&rig, -ENOMEM, "there are 32 MiB; give -m 33M or more");
}

/* Anything may be a flat binary: whatever three bytes it begins with, it is loaded or refused.
 */
Test(flat, arbitrary_beginnings)
{
    unsigned loaded = 0;
    for (unsigned i = 0; i < 65536; i++) {
        put_le16(rig.file, (uint16_t)i);
        loaded += rig_load(&rig) == 0;
    }
    cr_expect_eq(loaded, 65536);
}
