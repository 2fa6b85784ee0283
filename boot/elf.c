/*
 * elf.c: an ELF executable: by its PVH entry point when it has one, else by its Multiboot
 * header (multiboot.c), else by its 64-bit entry with Linux's boot parameters. An uncompressed
 * vmlinux works the first and the last way.
 *
 * A Multiboot header goes before the 64-bit entry also in an ELF64 file: it is there on
 * purpose, and GRUB enters such a file in 32-bit mode whatever its class is, so that is what
 * its first instructions are.
 *
 * System V ABI, chapters 4 and 5 "Object Files", "Program Loading"; Xen, "x86/HVM direct boot
 * ABI" (docs/misc/pvh.pandoc): the note XEN_ELFNOTE_PHYS32_ENTRY gives a 32-bit entry point,
 * EBX holds the start info of xen/include/public/arch-x86/hvm/start_info.h, version 1.
 *
 * Segments go to p_paddr and may lie where boot_claim_free() allows a kernel. e_entry is
 * virtual by the ABI, but Linux's vmlinux has the physical address there: the segment decides
 * which. Left out: ET_DYN and relocation, more than 64 program headers.
 *
 * An ELF64 file for i386 is what EDK II's firmware for a virtual machine without flash has
 * around it (OvmfPkg/CloudHv; Debian's CLOUDHV.fd). It finds memory and ACPI by the start info,
 * but asks the host bridge which machine it is in, and knows its drivers for this one by that.
 *
 * Pure function over hostile bytes; any thread.
 */
#include <elf.h>
#include <errno.h>

#include "boot/loader.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/util.h"

#define SEGMENTS_MAX             64
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define HVM_START_MAGIC          0x336ec578
#define CLOUDHV_HOST_BRIDGE      0x0d57 /* OvmfPkg/Include/IndustryStandard/CloudHv.h */

struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};

struct hvm_modlist_entry {
    uint64_t paddr, size, cmdline_paddr, reserved;
};

/* All of it, in the page of the start info. */
struct start_page {
    struct hvm_start_info info;
    struct hvm_modlist_entry module;
    struct e820_entry map[E820_MAX]; /* hvm_memmap_table_entry */
};

_Static_assert(sizeof(struct hvm_start_info) == 56, "start_info.h, version 1");
_Static_assert(offsetof(struct hvm_start_info, memmap_entries) == 48, "start_info.h");
_Static_assert(sizeof(struct hvm_modlist_entry) == 32, "start_info.h");
_Static_assert(sizeof(struct start_page) <= LAYOUT_PAGE_SIZE, "layout.h");

/* What both classes come down to. */
struct elf {
    uint64_t entry;
    uint64_t base, end; /* lowest and highest physical address in use */
    uint64_t pvh;       /* what the note has, physical; 0: none */
    unsigned nr;
    Elf64_Phdr segment[SEGMENTS_MAX];
};

bool elf_probe(const struct boot_config *config)
{
    return config->kernel_size >= SELFMAG && !memcmp(config->kernel, ELFMAG, SELFMAG);
}

static int truncated(const struct boot_config *config)
{
    return boot_refuse(config, "the ELF file is shorter than its headers say",
                       "get a complete copy");
}

static const char *machine_name(unsigned machine)
{
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = {
        {EM_AARCH64, "an arm64"}, {EM_ARM, "an arm"},      {EM_RISCV, "a RISC-V"},
        {EM_PPC64, "a ppc64"},    {EM_S390, "an s390"},    {EM_LOONGARCH, "a LoongArch"},
        {EM_MIPS, "a MIPS"},      {EM_SPARCV9, "a SPARC"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (names[i].machine == machine)
            return names[i].name;
    return "another";
}

/* The identification is the same in both classes up to e_version. */
static int check_kind(const struct boot_config *config)
{
    const uint8_t *ident = config->kernel;
    if (config->kernel_size < sizeof(Elf32_Ehdr))
        return truncated(config);
    unsigned type = get_le16(ident + offsetof(Elf64_Ehdr, e_type));
    unsigned machine = get_le16(ident + offsetof(Elf64_Ehdr, e_machine));
    bool is_64 = ident[EI_CLASS] == ELFCLASS64 && machine == EM_X86_64;
    bool is_32 = machine == EM_386; /* of either class */
    if (ident[EI_DATA] != ELFDATA2LSB || (!is_64 && !is_32)) {
        log_error(config->kernel_name,
                  "cannot load kernel: the ELF file is for %s machine (e_machine %u); give a "
                  "kernel for x86-64",
                  machine_name(machine), machine);
        return -ENOEXEC;
    }
    if (type != ET_EXEC)
        return boot_refuse(config,
                           type == ET_REL
                               ? "the ELF file is relocatable (an object or a module)"
                               : "the ELF file is a shared object or no executable",
                           "give a kernel linked to a fixed address (ET_EXEC), or the bzImage");
    return 0;
}

/* The descriptor of Xen's note in [note, end), or 0. Every step consumes a header at least. */
static uint64_t find_pvh(const uint8_t *note, const uint8_t *end, uint64_t align)
{
    Elf64_Nhdr hdr;
    while ((size_t)(end - note) >= sizeof(hdr)) {
        memcpy(&hdr, note, sizeof(hdr));
        uint64_t name = align_up(sizeof(hdr) + (uint64_t)hdr.n_namesz, align);
        uint64_t next = name + align_up(hdr.n_descsz, align);
        const uint8_t *text = note + sizeof(hdr);
        if (name + hdr.n_descsz > (uint64_t)(end - note))
            return 0;
        if (hdr.n_type == XEN_ELFNOTE_PHYS32_ENTRY && hdr.n_namesz == 4 &&
            !memcmp(text, "Xen", 4) && hdr.n_descsz >= 4)
            return get_le(note + name, hdr.n_descsz >= 8 ? 8 : 4);
        if (next > (uint64_t)(end - note))
            return 0;
        note += next;
    }
    return 0;
}

static uint64_t pvh_entry(const struct boot_config *config, const struct elf *elf)
{
    uint64_t entry = 0;
    for (unsigned i = 0; i < elf->nr && !entry; i++) {
        const Elf64_Phdr *p = &elf->segment[i];
        const uint8_t *note = config->kernel + p->p_offset;
        if (p->p_type == PT_NOTE)
            entry = find_pvh(note, note + p->p_filesz, p->p_align == 8 ? 8 : 4);
    }
    return entry;
}

/* Headers into ELF, whose segments are then inside the file; this is little-endian, as the host
 * is. */
static int read_headers(const struct boot_config *config, struct elf *elf)
{
    int err = check_kind(config);
    if (err)
        return err;
    bool is_64 = config->kernel[EI_CLASS] == ELFCLASS64;
    size_t size = is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    Elf64_Ehdr e64;
    Elf32_Ehdr e32;
    if (config->kernel_size < sizeof(e64))
        return truncated(config);
    memcpy(&e64, config->kernel, sizeof(e64));
    memcpy(&e32, config->kernel, sizeof(e32));
    uint64_t offset = is_64 ? e64.e_phoff : e32.e_phoff;
    elf->entry = is_64 ? e64.e_entry : e32.e_entry;
    elf->nr = is_64 ? e64.e_phnum : e32.e_phnum;
    if ((is_64 ? e64.e_phentsize : e32.e_phentsize) != size || !elf->nr ||
        elf->nr > SEGMENTS_MAX)
        return boot_refuse(config, "the ELF file has no usable program headers",
                           "give a linked kernel, at most 64 segments");
    if (!range_within(offset, elf->nr * size, config->kernel_size))
        return truncated(config);
    for (unsigned i = 0; i < elf->nr; i++) {
        const uint8_t *from = config->kernel + offset + i * size;
        Elf64_Phdr *p = &elf->segment[i];
        Elf32_Phdr p32;
        memcpy(&p32, from, sizeof(p32));
        *p = (Elf64_Phdr){
            .p_type = p32.p_type,
            .p_offset = p32.p_offset,
            .p_vaddr = p32.p_vaddr,
            .p_paddr = p32.p_paddr,
            .p_filesz = p32.p_filesz,
            .p_memsz = p32.p_memsz,
            .p_align = p32.p_align,
        };
        if (is_64)
            memcpy(p, from, sizeof(*p));
        if (!range_within(p->p_offset, p->p_filesz, config->kernel_size))
            return truncated(config);
    }
    elf->pvh = pvh_entry(config, elf);
    return 0;
}

/* Every PT_LOAD: inside RAM, off the boot areas; together not more than RAM, so that
 * overlapping ones cannot make the copying long. */
static int check_segments(const struct boot_config *config, const struct mem *mem,
                          struct elf *elf)
{
    uint64_t sum = 0;
    uint8_t *hva;
    elf->base = UINT64_MAX;
    for (unsigned i = 0; i < elf->nr; i++) {
        const Elf64_Phdr *p = &elf->segment[i];
        if (p->p_type != PT_LOAD || !p->p_memsz)
            continue;
        int err = boot_claim_free(config, mem, p->p_paddr, p->p_memsz, &hva);
        if (err)
            return err;
        sum += p->p_memsz;
        if (p->p_filesz > p->p_memsz || sum > mem->size)
            return boot_refuse(config, "its segments contradict each other",
                               "get an undamaged copy");
        elf->base = MIN(elf->base, p->p_paddr);
        elf->end = MAX(elf->end, p->p_paddr + p->p_memsz);
    }
    if (!elf->end)
        return boot_refuse(config, "the ELF file has nothing to load", "give a linked kernel");
    return 0;
}

/* The physical address of ADDR, which is virtual or (VIRTUAL false) physical; 0 when no
 * segment has it. */
static uint64_t locate(const struct elf *elf, uint64_t addr, bool virtual)
{
    for (unsigned i = 0; i < elf->nr; i++) {
        const Elf64_Phdr *p = &elf->segment[i];
        uint64_t offset = addr - (virtual ? p->p_vaddr : p->p_paddr);
        if (p->p_type == PT_LOAD && offset < p->p_memsz)
            return p->p_paddr + offset;
    }
    return 0;
}

/* Makes the entry point physical; PHYSICAL, when it is not 0, goes before the file's own. */
static int find_entry(const struct boot_config *config, struct elf *elf, uint64_t physical)
{
    uint64_t entry = physical ? 0 : locate(elf, elf->entry, true);
    elf->entry = entry ? entry : locate(elf, physical ? physical : elf->entry, false);
    return elf->entry ? 0
                      : boot_refuse(config, "its entry point lies in none of its segments",
                                    "get an undamaged copy");
}

static void copy_segments(const struct boot_config *config, const struct mem *mem,
                          const struct elf *elf)
{
    for (unsigned i = 0; i < elf->nr; i++) {
        const Elf64_Phdr *p = &elf->segment[i];
        if (p->p_type != PT_LOAD || !p->p_memsz)
            continue;
        uint8_t *hva = mem_at(mem, p->p_paddr, p->p_memsz);
        memcpy(hva, config->kernel + p->p_offset, p->p_filesz);
        memset(hva + p->p_filesz, 0, p->p_memsz - p->p_filesz);
    }
}

/* Copies the segments to where they belong, when all of them can be there. */
static int place(const struct boot_config *config, const struct mem *mem, uint64_t physical,
                 struct elf *elf)
{
    int err = check_segments(config, mem, elf);
    if (!err)
        err = find_entry(config, elf, physical);
    if (!err)
        copy_segments(config, mem, elf);
    return err;
}

static void put_start_info(const struct boot_config *config, const struct mem *mem,
                           const struct boot_range *initrd)
{
    struct start_page page = {
        .info = {.magic = HVM_START_MAGIC,
                 .version = 1,
                 .nr_modules = initrd->size ? 1 : 0,
                 .modlist_paddr = LAYOUT_BOOT_INFO + offsetof(struct start_page, module),
                 .cmdline_paddr = LAYOUT_CMDLINE,
                 .rsdp_paddr = config->rsdp,
                 .memmap_paddr = LAYOUT_BOOT_INFO + offsetof(struct start_page, map)},
        .module = {.paddr = initrd->base, .size = initrd->size},
    };
    page.info.memmap_entries = boot_e820(mem, page.map);
    memcpy(mem_at(mem, LAYOUT_BOOT_INFO, sizeof(page)), &page, sizeof(page));
}

int elf_place(const struct boot_config *config, const struct mem *mem, uint64_t entry,
              struct boot_image *image)
{
    struct elf elf = {0};
    int err = read_headers(config, &elf);
    if (!err)
        err = place(config, mem, entry, &elf);
    *image = (struct boot_image){elf.base, elf.end, elf.entry};
    return err;
}

int elf_load(const struct boot_config *config, const struct mem *mem, struct boot_entry *entry)
{
    struct elf elf = {0};
    struct boot_range initrd;
    struct boot_params params = {0};
    int err = read_headers(config, &elf);
    if (!err && !elf.pvh && multiboot_probe(config))
        return multiboot_load(config, mem, entry);
    bool i386 = !err && get_le16(config->kernel + offsetof(Elf64_Ehdr, e_machine)) == EM_386;
    if (i386 && !elf.pvh)
        err = boot_refuse(
            config, "a 32-bit ELF file without a PVH note or a Multiboot header",
            "link it with XEN_ELFNOTE_PHYS32_ENTRY or a Multiboot header, or give a bzImage");
    if (!err)
        err = place(config, mem, elf.pvh, &elf);
    if (!err)
        err = boot_put_cmdline(config, mem, UINT64_MAX);
    if (!err)
        err = boot_put_initrd(config, mem, MAX(elf.end, LAYOUT_HIGH_START), LAYOUT_HIGH_RAM,
                              &initrd);
    if (err)
        return err;

    *entry = (struct boot_entry){.rip = elf.entry};
    if (elf.pvh) {
        put_start_info(config, mem, &initrd);
        entry->rbx = LAYOUT_BOOT_INFO;
        if (i386 && config->kernel[EI_CLASS] == ELFCLASS64)
            entry->host_bridge = CLOUDHV_HOST_BRIDGE;
        boot_put_protected(mem, entry);
    } else {
        boot_put_params(config, mem, &params, &initrd);
        entry->rsi = LAYOUT_BOOT_INFO;
        boot_put_long(mem, entry);
    }
    return 0;
}
