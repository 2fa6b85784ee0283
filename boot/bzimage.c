/*
 * bzimage.c: Linux's compressed kernel image, by its 64-bit entry point where it has one, else
 * by its 32-bit one. memtest86+ is such a file, too.
 *
 * Linux, Documentation/arch/x86/boot.rst, "The Linux/x86 Boot Protocol": "The Real-Mode Kernel
 * Header" for the fields, "64-bit Boot Protocol" and "32-bit Boot Protocol" for the entries:
 * boot parameters in (R/E)SI, CS 0x10, DS 0x18, interrupts off; identity-mapped pages, or
 * EBX, EBP and EDI 0. The real-mode setup code at the start of the file is not run; its header
 * is copied into the boot parameters.
 *
 * Left out: zImage, protocols before 2.02 (the command line is found by other means), kernels
 * that only a BIOS can start (iPXE), loading above 4 GiB, EFI handover.
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
#define HDR_BASE   0x208 /* up to here, every version is the same */
#define HDR_LIMIT  0x290 /* end of the room in the boot parameters */
#define SECTOR     512
#define PARAGRAPH  16 /* unit of syssize */
#define ENTRY_64   0x200
#define LINE_MAX_2 255        /* characters of command line before 2.06 */
#define INITRD_MAX 0x37ffffff /* before 2.03 */

_Static_assert(offsetof(struct boot_params, hdr) == HDR, "boot.rst: zero page");
_Static_assert(HDR + offsetof(struct setup_header, header) == HDR_MAGIC, "boot.rst: header");
_Static_assert(HDR + offsetof(struct setup_header, init_size) == 0x260, "boot.rst: init_size");
_Static_assert(HDR + offsetof(struct setup_header, syssize) + 4 == 0x1f8, "boot.rst: syssize");
_Static_assert(offsetof(struct boot_params, edd_mbr_sig_buffer) == HDR_LIMIT, "zero page");

/* Where the parts are: the code in the file, and the memory it runs in. */
struct image {
    uint64_t code, code_size;
    uint64_t load, init_size;
    bool is_64;
};

bool bzimage_probe(const struct boot_config *config)
{
    return range_within(HDR_MAGIC, 4, config->kernel_size) &&
           !memcmp(config->kernel + HDR_MAGIC, "HdrS", 4);
}

static int check_complete(const struct boot_config *config, const struct image *image)
{
    unsigned long long need = image->code + image->code_size;
    if (need < config->kernel_size + PARAGRAPH)
        return 0;
    log_error(config->kernel_name,
              "cannot load kernel: the file has %zu bytes, its header says %llu; get a "
              "complete copy",
              config->kernel_size, need);
    return -ENOEXEC;
}

/* Fills in what later versions say and this one cannot: the bytes there are not the header's,
 * or are 0. The memory that a kernel older than 2.10 needs for itself is not known; its initial
 * RAM disk is far above it. */
static void complete(struct setup_header *hdr, uint64_t code_size)
{
    if (hdr->version < 0x0203)
        hdr->initrd_addr_max = INITRD_MAX;
    if (hdr->version < 0x0206)
        hdr->cmdline_size = LINE_MAX_2;
    if (hdr->version < 0x020a) {
        hdr->relocatable_kernel = 0; /* it may be, and need not be moved: 1 MiB suits all */
        hdr->pref_address = LAYOUT_HIGH_START;
        hdr->init_size = (uint32_t)code_size;
    }
    if (hdr->version < 0x020c)
        hdr->xloadflags = 0;
}

static int check_protocol(const struct boot_config *config, const struct setup_header *hdr)
{
    if (!(hdr->loadflags & LOADED_HIGH))
        return boot_refuse(config, "it is a zImage, which is loaded below 1 MiB",
                           "give a bzImage");
    if (hdr->version < 0x0202) {
        log_error(config->kernel_name,
                  "cannot load kernel: it has boot protocol %u.%02u, 2.02 is needed; give a "
                  "bzImage of Linux 2.4 or later",
                  hdr->version >> 8, hdr->version & 0xff);
        return -ENOEXEC;
    }
    if (!(hdr->xloadflags & XLF_KERNEL_64) && !hdr->code32_start)
        return boot_refuse(config, "only a BIOS can start it (it has no 32-bit entry)",
                           "give a kernel that needs no BIOS");
    return 0;
}

/* The header, and where it says the parts are. */
static int read_header(const struct boot_config *config, struct boot_params *params,
                       struct image *image)
{
    struct setup_header *hdr = &params->hdr;
    uint64_t end = HDR_MAGIC + (uint64_t)config->kernel[HDR_MAGIC - 1];
    memcpy(hdr, config->kernel + HDR, MIN(HDR_BASE, config->kernel_size) - HDR);
    image->code = ((hdr->setup_sects ? hdr->setup_sects : 4U) + 1) * SECTOR;
    image->code_size = (uint64_t)hdr->syssize * PARAGRAPH;
    if (hdr->version < 0x0204) /* two bytes of it mean something else: it is the rest */
        image->code_size = config->kernel_size - MIN(image->code, config->kernel_size);
    int err = check_complete(config, image);
    if (err)
        return err;
    /* Complete: at least two sectors before the code, so END is inside the file. */
    memcpy((uint8_t *)params + HDR, config->kernel + HDR, MIN(end, HDR_LIMIT) - HDR);
    if (image->code_size) /* the last paragraph may be cut short */
        image->code_size = MIN(image->code_size, config->kernel_size - image->code);
    complete(hdr, image->code_size);
    err = check_protocol(config, hdr);
    if (err)
        return err;

    image->is_64 = hdr->xloadflags & XLF_KERNEL_64;
    image->load = MAX(hdr->pref_address, LAYOUT_HIGH_START);
    image->init_size = hdr->init_size;
    if (image->code_size <= (image->is_64 ? ENTRY_64 : 0) ||
        image->init_size < image->code_size || image->load > LAYOUT_LOW_RAM_END ||
        (hdr->relocatable_kernel && !is_pow2(hdr->kernel_alignment)))
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
    *entry = (struct boot_entry){.rip = image.load, .rsi = LAYOUT_BOOT_INFO};
    if (image.is_64) {
        entry->rip += ENTRY_64;
        boot_put_long(mem, entry);
    } else {
        boot_put_protected(mem, entry);
    }
    return 0;
}
