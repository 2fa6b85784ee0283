/*
 * foreign.c: files that are known and cannot be booted: what they are, and what to give.
 *
 * A flat binary may begin with any bytes, so only magic numbers of at least three bytes that
 * make no sense as the start of a program count. --entry skips all of this.
 *
 * Formats: RFC 1952 (gzip), the xz, zstd, lz4 and bzip2 file formats, ECMA-119 (ISO 9660), the
 * PC partition table, Microsoft's PE, Android's boot image.
 *
 * Pure functions over hostile bytes; any thread.
 */
#include <errno.h>

#include "boot/loader.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define UNPACK  "uncompress it, or give the bzImage (an initial RAM disk goes with --initrd)"
#define EXTRACT "give the kernel file that is inside it"
#define X86_64  "give a kernel for x86-64"

static const struct foreign {
    unsigned offset;
    unsigned len;
    const char *magic;
    const char *what;
    const char *give;
} foreign[] = {
    {0, 3, "\x1f\x8b\x08", "compressed with gzip", UNPACK},
    {0, 6, "\xfd\x37zXZ\0", "compressed with xz", UNPACK},
    {0, 4, "\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK},
    {0, 4, "\x04\x22\x4d\x18", "compressed with lz4", UNPACK},
    {0, 4, "\x02\x21\x4c\x18", "compressed with lz4 (legacy format)", UNPACK},
    {4, 6, "1AY&SY", "compressed with bzip2", UNPACK},
    /* LZMA has no magic: 8 and 64 MiB are the dictionaries of levels 6 and 9. */
    {0, 13, "\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", "compressed with lzma", UNPACK},
    {0, 13, "\x5d\0\0\0\x04\xff\xff\xff\xff\xff\xff\xff\xff", "compressed with lzma", UNPACK},
    {0, 6, "070701", "an initial RAM disk (cpio)", "give it with --initrd, and a kernel"},
    {0, 4, "QFI\xfb", "a qcow2 disk image", EXTRACT},
    {0x8001, 5, "CD001", "an ISO 9660 image", EXTRACT},
    {0, 8, "ANDROID!", "an Android boot image", EXTRACT},
    {0, 4, "\x27\x05\x19\x56", "a U-Boot image", EXTRACT},
    {0x38, 4, "ARM\x64", "a Linux kernel for arm64", X86_64},
    {0x38, 4, "RSC\x05", "a Linux kernel for RISC-V", X86_64},
};

static bool has(const struct boot_config *config, uint64_t offset, const void *magic,
                unsigned len)
{
    return range_within(offset, len, config->kernel_size) &&
           !memcmp(config->kernel + offset, magic, len);
}

/* A master boot record: the signature, every entry plausible and at least one in use. */
static bool is_disk(const struct boot_config *config)
{
    static const uint8_t unused[16];
    unsigned used = 0;
    if (!has(config, 510, "\x55\xaa", 2))
        return false;
    for (unsigned i = 0; i < 4; i++) {
        const uint8_t *entry = config->kernel + 446 + 16 * i; /* status, CHS, type, CHS, LBA */
        if (!memcmp(entry, unused, sizeof(unused)))
            continue;
        if ((entry[0] & 0x7f) || !entry[4] || !get_le32(entry + 8) || !get_le32(entry + 12))
            return false;
        used++;
    }
    return used > 0;
}

static bool is_pe(const struct boot_config *config)
{
    return has(config, 0, "MZ", 2) && config->kernel_size >= 0x40 &&
           has(config, get_le32(config->kernel + 0x3c), "PE\0\0", 4);
}

static const struct foreign *identify(const struct boot_config *config)
{
    static const struct foreign disk = {
        .what = "a disk image",
        .give = EXTRACT " (your own boot sector: --entry real@0x7c00)",
    };
    static const struct foreign pe = {
        .what = "an EFI or Windows program without a Linux setup header",
        .give = "give a bzImage, or an ELF vmlinux",
    };
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++)
        if (has(config, foreign[i].offset, foreign[i].magic, foreign[i].len))
            return &foreign[i];
    return is_pe(config) ? &pe : is_disk(config) ? &disk : NULL;
}

int foreign_refuse(const struct boot_config *config)
{
    const struct foreign *kind = identify(config);
    if (!kind)
        return 0;
    log_error(config->kernel_name, "cannot load kernel: the file is %s; %s", kind->what,
              kind->give);
    return -ENOEXEC;
}
