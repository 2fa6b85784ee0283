/*
 * multiboot.c: kernels made for GRUB: Multiboot 1 and 2, an ELF file or any file whose header
 * has load addresses.
 *
 * Multiboot Specification 0.6.96 and Multiboot2 Specification 2.0, both with the same chapters:
 * 3.1 "OS image format" (the header), 3.2 "Machine state" (32-bit protected mode, EAX and EBX),
 * 3.3 and 3.6 "Boot information". A file with both headers is entered by Multiboot 2, which can
 * tell where ACPI's tables are; by 1, the kernel finds them where a BIOS has them.
 *
 * Xen puts its start-up code below the end of conventional memory as the BIOS data area has it,
 * so that is there, too.
 *
 * The initial RAM disk is the one module, in the first page above the kernel: kernels that map
 * only what is near them see it, and GRUB puts it there. It is named after its file.
 * Left out: relocation (an image that asks for it is told where it lies), video modes, section
 * headers, what only a BIOS or UEFI could tell.
 *
 * Pure functions over hostile bytes; any thread.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "boot/loader.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define MB1_MAGIC     0x1badb002
#define MB1_ENTERED   0x2badb002 /* EAX */
#define MB1_LIMIT     (8 * KIB)  /* the header lies in the first bytes of the file */
#define MB1_REQUIRED  0xffffU    /* flags that a loader must know */
#define MB1_KNOWN     0x0007U  /* modules page-aligned, memory map, video mode (if there is) */
#define MB1_ADDRESSES 0x10000U /* the header has load addresses */
#define MB1_HEADER    32       /* with them */

#define MB2_MAGIC      0xe85250d6
#define MB2_ENTERED    0x36d76289
#define MB2_LIMIT      (32 * KIB)
#define MB2_HEADER     16
#define MB2_TAG        8 /* header tag: type, flags, size; information tag: type, size */
#define MB2_TAG_ALIGN  8
#define MB2_OPTIONAL   1          /* flag of a header tag */
#define MB2_FROM_START UINT32_MAX /* load address: the file's first byte is loaded, too */
#define MB2_CONSOLE    1          /* of the console tag: there has to be a screen */

enum { /* types of header tags */
       MB2_END,
       MB2_REQUEST,
       MB2_ADDRESS,
       MB2_ENTRY,
       MB2_CONSOLES,
       MB2_RELOCATABLE = 10,
       MB2_TAGS /* the others between are about screens, alignment and UEFI */
};

enum { /* types of information tags */
       INFO_CMDLINE = 1,
       INFO_LOADER,
       INFO_MODULE,
       INFO_MEMORY,
       INFO_MAP = 6,
       INFO_RSDP = 15, /* of ACPI 2.0 and later */
       INFO_BASE = 21,
       INFO_TYPES
};

#define MEM_LOWER     ((uint32_t)(LAYOUT_EBDA / KIB)) /* KiB below 1 MiB */
#define LOADER_NAME   "minivmm"
#define RSDP_SIZE     36   /* ACPI 6.5, 5.2.5.3 "RSDP Structure" */
#define MB2_INFO_ROOM 1024 /* all tags but the command line's text, see put_info_2() */

/* What a header asks for. */
struct header {
    uint64_t at; /* in the file */
    bool second; /* Multiboot 2 */
    bool by_address, relocatable;
    uint32_t header, load, load_end, bss_end, entry; /* entry 0: not told */
};

struct info_1 { /* 3.3 "Boot information format" */
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t syms[4], mmap_length, mmap_addr, drives[2], config_table, boot_loader_name;
    uint32_t rest[12]; /* APM, VBE, frame buffer */
};
#define INFO_1_FLAGS   0x245U /* memory, command line, map, loader's name */
#define INFO_1_MODULES 0x008U

struct module_1 {
    uint32_t start, end, string, reserved;
};

struct map_1 {
    uint32_t size; /* of the rest */
    uint64_t base, length;
    uint32_t type; /* as in E820 */
} __attribute__((packed));

struct page_1 { /* all of it, at LAYOUT_BOOT_INFO */
    struct info_1 info;
    struct module_1 module;
    struct map_1 map[E820_MAX];
    char loader[sizeof(LOADER_NAME)];
    char name[NAME_MAX + 1];
};

_Static_assert(offsetof(struct info_1, boot_loader_name) == 64, "3.3");
_Static_assert(sizeof(struct info_1) == 116, "3.3");
_Static_assert(sizeof(struct map_1) == 24, "3.3");
_Static_assert(sizeof(struct page_1) <= LAYOUT_PAGE_SIZE, "layout.h");

/* ---- the header ---- */

/* WORDS words of which the first is MAGIC and that sum to 0: at a multiple of STEP in the first
 * LIMIT bytes. */
static bool find_header(const struct boot_config *config, uint32_t magic, unsigned words,
                        unsigned step, uint64_t limit, uint64_t *at)
{
    limit = MIN(config->kernel_size, limit);
    for (*at = 0; range_within(*at, 4 * words, limit); *at += step) {
        const uint8_t *p = config->kernel + *at;
        uint32_t sum = 0;
        for (unsigned i = 0; i < words; i++)
            sum += get_le32(p + 4 * i);
        if (get_le32(p) == magic && !sum)
            return true;
    }
    return false;
}

/* Multiboot 2: magic, architecture, length, checksum; Multiboot 1: magic, flags, checksum. */
static bool find(const struct boot_config *config, struct header *h)
{
    *h = (struct header){0};
    h->second = find_header(config, MB2_MAGIC, 4, 8, MB2_LIMIT, &h->at);
    return h->second || find_header(config, MB1_MAGIC, 3, 4, MB1_LIMIT, &h->at);
}

bool multiboot_probe(const struct boot_config *config)
{
    struct header h;
    return find(config, &h);
}

static int damaged(const struct boot_config *config)
{
    return boot_refuse(config, "its Multiboot header contradicts itself or the file's length",
                       "link it anew, or get a complete copy");
}

static int unknown(const struct boot_config *config, const char *what, unsigned value)
{
    log_error(
        config->kernel_name,
        "cannot load kernel: its Multiboot header demands %s %u, which is not there; make "
        "it optional, or give a kernel with a PVH note",
        what, value);
    return -ENOEXEC;
}

static void set_addresses(struct header *h, const uint8_t *field)
{
    h->by_address = true;
    h->header = get_le32(field);
    h->load = get_le32(field + 4);
    h->load_end = get_le32(field + 8);
    h->bss_end = get_le32(field + 12);
}

static int read_1(const struct boot_config *config, struct header *h)
{
    const uint8_t *p = config->kernel + h->at;
    uint32_t flags = get_le32(p + 4), missing = flags & MB1_REQUIRED & ~MB1_KNOWN;
    if (missing)
        return unknown(config, "feature", (unsigned)__builtin_ctz(missing));
    if (!(flags & MB1_ADDRESSES))
        return 0;
    if (!range_within(h->at, MB1_HEADER, MIN(config->kernel_size, MB1_LIMIT)))
        return damaged(config);
    set_addresses(h, p + 12);
    h->entry = get_le32(p + 28);
    return 0;
}

/* One tag of SIZE bytes, with at least its own header. */
static int read_tag(const struct boot_config *config, struct header *h, const uint8_t *tag,
                    uint32_t size)
{
    static const uint8_t least[MB2_TAGS] = {
        [MB2_ADDRESS] = 24, [MB2_ENTRY] = 12, [MB2_CONSOLES] = 12};
    unsigned type = get_le16(tag);
    bool optional = get_le16(tag + 2) & MB2_OPTIONAL;
    if (type >= MB2_TAGS)
        return optional ? 0 : unknown(config, "what its tag says, type", type);
    if (size < least[type])
        return damaged(config);
    switch (type) {
    case MB2_REQUEST: /* what is known but is not there need not be told (3.1.4) */
        for (uint32_t i = MB2_TAG; !optional && i + 4 <= size; i += 4)
            if (get_le32(tag + i) >= INFO_TYPES)
                return unknown(config, "information of type", get_le32(tag + i));
        break;
    case MB2_ADDRESS:
        set_addresses(h, tag + MB2_TAG);
        break;
    case MB2_ENTRY:
        h->entry = get_le32(tag + MB2_TAG);
        break;
    case MB2_CONSOLES:
        if (!optional && get_le32(tag + MB2_TAG) & MB2_CONSOLE)
            return boot_refuse(config, "its Multiboot header demands a screen",
                               "give a kernel with a serial console");
        break;
    case MB2_RELOCATABLE:
        h->relocatable = true;
        break;
    }
    return 0;
}

static int read_2(const struct boot_config *config, struct header *h)
{
    const uint8_t *p = config->kernel + h->at;
    uint32_t architecture = get_le32(p + 4), length = get_le32(p + 8), size;
    if (architecture)
        return boot_refuse(config, "its Multiboot header is for another machine (not i386)",
                           "give a kernel for x86");
    if (!range_within(h->at, length, MIN(config->kernel_size, MB2_LIMIT)))
        return damaged(config);
    for (uint64_t at = MB2_HEADER; range_within(at, MB2_TAG, length);
         at += align_up(size, MB2_TAG_ALIGN)) {
        size = get_le32(p + at + 4);
        if (size < MB2_TAG || !range_within(at, size, length))
            return damaged(config);
        if (get_le16(p + at) == MB2_END)
            break;
        int err = read_tag(config, h, p + at, size);
        if (err)
            return err;
    }
    return 0;
}

/* ---- the kernel ---- */

/* By the header's addresses, which are physical (3.1.3 "The address fields"; in Multiboot 2,
 * 3.1.5 "The address tag"). */
static int place_by_address(const struct boot_config *config, const struct mem *mem,
                            const struct header *h, struct boot_image *image)
{
    uint64_t load = h->load;
    uint8_t *hva;
    if (h->second && h->load == MB2_FROM_START && h->header >= h->at)
        load = h->header - h->at;
    if (h->header < load || h->header - load > h->at)
        return damaged(config);
    uint64_t from = h->at - (h->header - load);
    uint64_t load_end = h->load_end ? h->load_end : load + config->kernel_size - from;
    uint64_t end = h->bss_end ? h->bss_end : load_end;
    if (load_end <= load || end < load_end ||
        !range_within(from, load_end - load, config->kernel_size) || h->entry < load ||
        h->entry >= end)
        return damaged(config);
    int err = boot_claim_free(config, mem, load, end - load, &hva);
    if (err)
        return err;
    memcpy(hva, config->kernel + from, load_end - load);
    memset(hva + (load_end - load), 0, end - load_end);
    *image = (struct boot_image){load, end, h->entry};
    return 0;
}

static int place(const struct boot_config *config, const struct mem *mem,
                 const struct header *h, struct boot_image *image)
{
    if (h->by_address)
        return place_by_address(config, mem, h, image);
    if (elf_probe(config))
        return elf_place(config, mem, h->entry, image);
    return boot_refuse(config, "a Multiboot kernel without load addresses, and no ELF file",
                       "link it as ELF, or fill in the header's addresses");
}

/* ---- the boot information ---- */

/* What is asked for without asking the BIOS: the segment of the extended BIOS data area, which
 * is empty, and the KiB below it. */
static void put_bda(const struct mem *mem)
{
    uint8_t *bda = mem_at(mem, LAYOUT_BDA, 0x100);
    put_le16(bda + 0x0e, LAYOUT_EBDA >> 4);
    put_le16(bda + 0x13, MEM_LOWER);
}

/* In KiB, from 1 MiB to the first hole. */
static uint32_t mem_upper(const struct mem *mem)
{
    return (uint32_t)((mem->region[0].size - LAYOUT_HIGH_START) / KIB);
}

static void module_name(const struct boot_config *config, char name[NAME_MAX + 1])
{
    const char *slash = config->initrd_name ? strrchr(config->initrd_name, '/') : NULL;
    const char *last = slash ? slash + 1 : config->initrd_name;
    snprintf(name, NAME_MAX + 1, "%s", last ? last : "");
}

#define IN_PAGE(field) ((uint32_t)(LAYOUT_BOOT_INFO + offsetof(struct page_1, field)))

static void put_info_1(const struct boot_config *config, const struct mem *mem,
                       const struct boot_range *module)
{
    struct e820_entry map[E820_MAX];
    unsigned nr = boot_e820(mem, map);
    struct page_1 page = {
        .info = {.flags = INFO_1_FLAGS | (module->size ? INFO_1_MODULES : 0),
                 .mem_lower = MEM_LOWER,
                 .mem_upper = mem_upper(mem),
                 .cmdline = (uint32_t)LAYOUT_CMDLINE,
                 .mods_count = module->size ? 1 : 0,
                 .mods_addr = IN_PAGE(module),
                 .mmap_length = (uint32_t)(nr * sizeof(struct map_1)),
                 .mmap_addr = IN_PAGE(map),
                 .boot_loader_name = IN_PAGE(loader)},
        .module = {(uint32_t)module->base, (uint32_t)(module->base + module->size),
                   IN_PAGE(name), 0},
        .loader = LOADER_NAME,
    };
    for (unsigned i = 0; i < nr; i++)
        page.map[i] = (struct map_1){sizeof(page.map[i]) - sizeof(page.map[i].size),
                                     map[i].base, map[i].size, map[i].type};
    module_name(config, page.name);
    memcpy(mem_at(mem, LAYOUT_BOOT_INFO, sizeof(page)), &page, sizeof(page));
}

/* Appends a tag: WORDS, then SIZE bytes of DATA. Returns where the next one goes. */
static uint8_t *put_tag(uint8_t *to, uint32_t type, const uint32_t words[2], unsigned nr,
                        const void *data, size_t size)
{
    size_t all = MB2_TAG + 4 * nr + size;
    memset(to + align_down(all, MB2_TAG_ALIGN), 0, MB2_TAG_ALIGN);
    put_le32(to, type);
    put_le32(to + 4, (uint32_t)all);
    for (unsigned i = 0; i < nr; i++)
        put_le32(to + MB2_TAG + 4 * i, words[i]);
    if (size)
        memcpy(to + MB2_TAG + 4 * nr, data, size);
    return to + align_up(all, MB2_TAG_ALIGN);
}

/* In place of the command line, which is a part of it. Beside its text: 8 bytes before, then
 * 9 + 8 + 16 + 16 + 16 + 256 + 16 + 24 * E820_MAX + 44 + 12 + 8 and what aligns the tags. */
static void put_info_2(const struct boot_config *config, const struct mem *mem,
                       const struct header *h, const struct boot_image *image,
                       const struct boot_range *module)
{
    struct e820_entry map[E820_MAX];
    char name[NAME_MAX + 1];
    const unsigned nr = boot_e820(mem, map);
    const void *rsdp = mem_at(mem, config->rsdp, RSDP_SIZE);
    const uint32_t memory[] = {MEM_LOWER, mem_upper(mem)};
    const uint32_t place[] = {(uint32_t)module->base, (uint32_t)(module->base + module->size)};
    const uint32_t base[] = {(uint32_t)image->base, 0};
    const uint32_t kind[] = {sizeof(map[0]), 0}; /* size and version of an entry */
    uint8_t *info = mem_at(mem, LAYOUT_CMDLINE, BOOT_CMDLINE_ROOM);
    uint8_t *to = info + 8; /* total size, reserved */

    module_name(config, name);
    to = put_tag(to, INFO_CMDLINE, NULL, 0, config->cmdline, strlen(config->cmdline) + 1);
    to = put_tag(to, INFO_LOADER, NULL, 0, LOADER_NAME, sizeof(LOADER_NAME));
    to = put_tag(to, INFO_MEMORY, memory, 2, NULL, 0);
    if (module->size)
        to = put_tag(to, INFO_MODULE, place, 2, name, strlen(name) + 1);
    to = put_tag(to, INFO_MAP, kind, 2, map, nr * sizeof(map[0]));
    if (rsdp)
        to = put_tag(to, INFO_RSDP, NULL, 0, rsdp, RSDP_SIZE);
    if (h->relocatable)
        to = put_tag(to, INFO_BASE, base, 1, NULL, 0);
    to = put_tag(to, MB2_END, NULL, 0, NULL, 0);
    put_le32(info, (uint32_t)(to - info));
    put_le32(info + 4, 0);
}

int multiboot_load(const struct boot_config *config, const struct mem *mem,
                   struct boot_entry *entry)
{
    struct header h;
    struct boot_image image = {0};
    struct boot_range module;
    if (!find(config, &h))
        return damaged(config);
    int err = h.second ? read_2(config, &h) : read_1(config, &h);
    if (err)
        return err;
    put_bda(mem);
    err = place(config, mem, &h, &image);
    if (!err)
        err = boot_put_cmdline(config, mem, BOOT_CMDLINE_ROOM - 1 - MB2_INFO_ROOM);
    if (err)
        return err;
    uint64_t above = align_up(MAX(image.end, LAYOUT_HIGH_START), LAYOUT_PAGE_SIZE);
    err = boot_put_initrd(config, mem, above, above + config->initrd_size, &module);
    if (err)
        return err;

    *entry = (struct boot_entry){.rip = image.entry};
    if (h.second) {
        put_info_2(config, mem, &h, &image, &module);
        entry->rax = MB2_ENTERED;
        entry->rbx = LAYOUT_CMDLINE;
    } else {
        put_info_1(config, mem, &module);
        entry->rax = MB1_ENTERED;
        entry->rbx = LAYOUT_BOOT_INFO;
    }
    boot_put_protected(mem, entry);
    return 0;
}
