/* foreign_test.c: tests of boot/foreign.c: what is refused, and what only looks like it. */
#include <criterion/criterion.h>
#include <errno.h>

#include "boot/loader.h"
#include "boot_rig.h"
#include "vmm/util.h"

static struct boot_rig rig;

static void setup(void)
{
    rig_init(&rig, 4 * MIB);
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(foreign, .init = setup, .fini = teardown);

/* SIZE zero bytes with MAGIC at OFFSET. */
static void make(size_t size, size_t offset, const void *magic, size_t len)
{
    rig_file(&rig, NULL, size);
    memcpy(rig.file + offset, magic, len);
}

Test(foreign, by_magic)
{
    static const struct {
        size_t offset, len;
        const char *magic, *text;
    } t[] = {
        {0, 3, "\x1f\x8b\x08", "compressed with gzip; uncompress it"},
        {0, 6,
         "\xfd"
         "7zXZ\0",
         "with xz"},
        {0, 4, "\x28\xb5\x2f\xfd", "with zstd"},
        {0, 10, "BZh91AY&SY", "with bzip2"},
        {0, 13, "\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", "with lzma"},
        {0, 13, "\x5d\0\0\0\4\xff\xff\xff\xff\xff\xff\xff\xff", "with lzma"},
        {0, 4, "\x02\x21\x4c\x18", "with lz4"},
        {0, 4, "\x04\x22\x4d\x18", "with lz4"},
        {0, 6, "070701", "initial RAM disk (cpio); give it with --initrd"},
        {0, 4, "QFI\xfb", "qcow2"},
        {0x8001, 5, "CD001", "ISO 9660"},
        {0, 8, "ANDROID!", "Android"},
        {0, 4, "\x27\x05\x19\x56", "U-Boot"},
        {0x38, 4, "ARM\x64", "arm64; give a kernel for x86-64"},
        {0x38, 4, "RSC\x05", "RISC-V"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        size_t end = t[i].offset + t[i].len;
        make(end, t[i].offset, t[i].magic, t[i].len);
        rig_refused(&rig, -ENOEXEC, t[i].text);
        rig_file(&rig, rig.file, end - 1); /* without its last byte it is anything */
        cr_expect_eq(foreign_refuse(&rig.config), 0, "%s", t[i].text);
        make(end, t[i].offset, t[i].magic, t[i].len);
        rig.file[t[i].offset] ^= 0x80;
        if (t[i].offset || t[i].len < 10)
            cr_expect_eq(foreign_refuse(&rig.config), 0, "%s", t[i].text);
    }
}

Test(foreign, force_skips_it)
{
    make(64, 0, "\x1f\x8b\x08", 3);
    rig.config.force = BOOT_LONG;
    rig.config.flat_addr = 0x100000;
    cr_assert_eq(rig_load(&rig), 0);
}

Test(foreign, efi_program)
{
    make(0x84, 0, "MZ", 2);
    cr_expect_eq(foreign_refuse(&rig.config), 0, "MZ alone are two instructions");
    put_le32(rig.file + 0x3c, 0x80);
    memcpy(rig.file + 0x80, "PE\0\0", 4);
    rig_refused(&rig, -ENOEXEC, "EFI or Windows program without a Linux setup header");
    put_le32(rig.file + 0x3c, UINT32_MAX);
    cr_expect_eq(foreign_refuse(&rig.config), 0);
    put_le32(rig.file + 0x3c, 0x81);
    cr_expect_eq(foreign_refuse(&rig.config), 0);
}

static void partition(unsigned i, uint8_t status, uint8_t type, uint32_t start,
                      uint32_t sectors)
{
    uint8_t *entry = rig.file + 446 + 16 * i;
    entry[0] = status;
    entry[4] = type;
    put_le32(entry + 8, start);
    put_le32(entry + 12, sectors);
}

Test(foreign, disk_image)
{
    make(512, 510, "\x55\xaa", 2);
    cr_expect_eq(foreign_refuse(&rig.config), 0, "a boot sector without partitions is flat");
    partition(0, 0x80, 0x83, 2048, 4096);
    partition(3, 0, 0xee, 1, UINT32_MAX);
    rig_refused(&rig, -ENOEXEC,
                "disk image; give the kernel file that is inside it (your own "
                "boot sector: --entry real@0x7c00)");
    partition(3, 1, 0xee, 1, 1);
    cr_expect_eq(foreign_refuse(&rig.config), 0, "status 1 is code");
    partition(3, 0, 0, 1, 1);
    cr_expect_eq(foreign_refuse(&rig.config), 0, "no type, but a place");
    partition(3, 0, 7, 0, 1);
    cr_expect_eq(foreign_refuse(&rig.config), 0, "begins at the table itself");
    rig_file(&rig, rig.file, 511);
    cr_expect_eq(foreign_refuse(&rig.config), 0);
}

/* GRUB's boot code on a disk has a Multiboot header of its own. */
Test(foreign, disk_image_with_a_multiboot_header)
{
    make(4096, 510, "\x55\xaa", 2);
    partition(0, 0x80, 0x83, 2048, 4096);
    put_le32(rig.file + 1024, 0x1badb002);
    put_le32(rig.file + 1032, 0U - 0x1badb002);
    rig_refused(&rig, -ENOEXEC, "disk image; give the kernel file");
}
