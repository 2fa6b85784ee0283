/*
 * bzimage.c: Linux's compressed kernel image, by its 64-bit entry point.
 *
 * Linux, Documentation/arch/x86/boot.rst, "The Linux/x86 Boot Protocol": "The Real-Mode Kernel
 * Header" for the fields and "64-bit Boot Protocol" for the entry: boot parameters in RSI,
 * identity-mapped pages, CS 0x10, DS 0x18, interrupts off. The real-mode setup code at the
 * start of the file is not run; its header is copied into the boot parameters.
 *
 * Left out: protocols before 2.12 (no 64-bit entry), zImage, loading above 4 GiB, EFI handover.
 *
 * Pure function over hostile bytes; any thread.
 */
#include <errno.h>

#include "boot/loader.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define HDR        0x1f1 /* of struct setup_header in the file and in the boot parameters */
#define HDR_MAGIC  0x202 /* "HdrS"; the byte before, added to this, gives the header's end */
#define HDR_LIMIT  0x290 /* end of the room in the boot parameters */
#define SECTOR     512
#define PARAGRAPH  16 /* unit of syssize */
#define ENTRY_64   0x200
#define VERSION_64 0x020c /* the first with xloadflags */

_Static_assert(offsetof(struct boot_params, hdr) == HDR, "boot.rst: zero page");
_Static_assert(HDR + offsetof(struct setup_header, header) == HDR_MAGIC, "boot.rst: header");
_Static_assert(HDR + offsetof(struct setup_header, init_size) == 0x260, "boot.rst: init_size");
_Static_assert(offsetof(struct boot_params, edd_mbr_sig_buffer) == HDR_LIMIT, "zero page");

/* Where the parts are: the code in the file, and the memory it runs in. */
struct image {
    uint64_t code, code_size;
    uint64_t load, init_size;
};

bool bzimage_probe(const struct boot_config *config)
{
    return range_within(HDR_MAGIC, 4, config->kernel_size) &&
           !memcmp(config->kernel + HDR_MAGIC, "HdrS", 4);
}

static int check_complete(const struct boot_config *config, const struct image *image)
{
    unsigned long long need = image->code + image->code_size;
    if (need <= config->kernel_size)
        return 0;
    log_error(config->kernel_name,
              "cannot load kernel: the file has %zu bytes, its header says %llu; get a "
              "complete copy",
              config->kernel_size, need);
    return -ENOEXEC;
}

static int check_protocol(const struct boot_config *config, const struct setup_header *hdr)
{
    if (hdr->version < VERSION_64) {
        log_error(config->kernel_name,
                  "cannot load kernel: it has boot protocol %u.%02u, 2.12 is needed; give a "
                  "bzImage of Linux 3.8 or later for x86-64",
                  hdr->version >> 8, hdr->version & 0xff);
        return -ENOEXEC;
    }
    if (!(hdr->xloadflags & XLF_KERNEL_64) || !(hdr->loadflags & LOADED_HIGH))
        return boot_refuse(config, "it has no 64-bit entry (a 32-bit kernel)",
                           "give a bzImage for x86-64");
    return 0;
}

/* The header, and where it says the parts are. */
static int read_header(const struct boot_config *config, struct boot_params *params,
                       struct image *image)
{
    struct setup_header *hdr = &params->hdr;
    uint64_t end = HDR_MAGIC + (uint64_t)config->kernel[HDR_MAGIC - 1];
    memcpy(hdr, config->kernel + HDR, HDR_MAGIC + 4 - HDR); /* what every version has */
    image->code = ((hdr->setup_sects ? hdr->setup_sects : 4U) + 1) * SECTOR;
    image->code_size = (uint64_t)hdr->syssize * PARAGRAPH;
    int err = check_complete(config, image);
    if (err)
        return err;
    /* Complete: at least two sectors before the code, so END is inside the file. */
    memcpy((uint8_t *)params + HDR, config->kernel + HDR, MIN(end, HDR_LIMIT) - HDR);
    err = check_protocol(config, hdr);
    if (err)
        return err;

    image->load = MAX(hdr->pref_address, LAYOUT_HIGH_START);
    image->init_size = hdr->init_size;
    if (image->code_size <= ENTRY_64 || image->init_size < image->code_size ||
        !is_pow2(hdr->kernel_alignment) || image->load > LAYOUT_LOW_RAM_END)
        return boot_refuse(config, "its header contradicts itself", "get an undamaged copy");
    if (hdr->relocatable_kernel)
        image->load = align_up(image->load, hdr->kernel_alignment);
    return 0;
}

int bzimage_load(const struct boot_config *config, const struct mem *mem,
                 struct boot_entry *entry)
{
    struct boot_params params = {0};
    struct boot_range initrd = {0};
    struct image image;
    uint8_t *hva;
    int err = read_header(config, &params, &image);
    if (!err)
        err = boot_claim(config, mem, image.load, image.init_size, &hva);
    if (!err)
        err = boot_put_cmdline(config, mem, params.hdr.cmdline_size);
    if (!err)
        err = boot_put_initrd(config, mem, image.load + image.init_size,
                              params.hdr.initrd_addr_max + 1ULL, &initrd);
    if (err)
        return err;

    memcpy(hva, config->kernel + image.code, image.code_size);
    params.hdr.code32_start = (uint32_t)image.load;
    boot_put_params(config, mem, &params, &initrd);
    *entry = (struct boot_entry){.rip = image.load + ENTRY_64, .rsi = LAYOUT_BOOT_INFO};
    boot_put_long(mem, entry);
    return 0;
}
