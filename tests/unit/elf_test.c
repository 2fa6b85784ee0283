/* elf_test.c: tests of boot/elf.c, on small files put together here. */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>

#include "boot_rig.h"
#include "vmm/layout.h"
#include "vmm/util.h"

#define VIRT 0xffffffff81000000ULL
#define PHYS 0x1000000ULL
#define DATA 0x200 /* of the file: what the first segment loads */
#define NOTE 0x300

static struct boot_rig rig;

/* One file of 0x400 bytes: header, three program headers (PT_LOAD, PT_LOAD of bss, PT_NOTE),
 * 256 bytes of 0xc0 to load, a note that is not Xen's. */
static Elf64_Ehdr *ehdr(void)
{
    return (Elf64_Ehdr *)rig.file;
}

static Elf64_Phdr *phdr(unsigned i)
{
    return (Elf64_Phdr *)(rig.file + sizeof(Elf64_Ehdr)) + i;
}

static void put_note(size_t at, const char *name, uint32_t namesz, uint32_t type,
                     uint32_t descsz, uint64_t desc)
{
    put_le32(rig.file + at, namesz);
    put_le32(rig.file + at + 4, descsz);
    put_le32(rig.file + at + 8, type);
    memcpy(rig.file + at + 12, name, 4);
    put_le64(rig.file + at + 16, desc);
}

static void make_elf(void)
{
    rig_file(&rig, NULL, 0x400);
    *ehdr() = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = VIRT + 0x10,
        .e_phoff = sizeof(Elf64_Ehdr),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 3,
    };
    *phdr(0) = (Elf64_Phdr){PT_LOAD, PF_R | PF_X, DATA, VIRT, PHYS, 0x100, 0x1000, 4096};
    *phdr(1) = (Elf64_Phdr){PT_LOAD, PF_R | PF_W, 0, 0, PHYS + 0x1000, 0, 0x2000, 4096};
    *phdr(2) = (Elf64_Phdr){PT_NOTE, PF_R, NOTE, 0, 0, 0x40, 0x40, 4};
    memset(rig.file + DATA, 0xc0, 0x100);
    put_note(NOTE, "GNU", 4, 3, 8, 0);
}

/* The same as an ELF32 file for EM_386, with Xen's note second. */
static void make_elf32(void)
{
    rig_file(&rig, NULL, 0x400);
    Elf32_Phdr *p = (Elf32_Phdr *)(rig.file + sizeof(Elf32_Ehdr));
    *(Elf32_Ehdr *)rig.file = (Elf32_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_386,
        .e_entry = 0x100000,
        .e_phoff = sizeof(Elf32_Ehdr),
        .e_phentsize = sizeof(Elf32_Phdr),
        .e_phnum = 2,
    };
    p[0] = (Elf32_Phdr){PT_LOAD, DATA, 0x100000, 0x100000, 0x100, 0x200, PF_R, 4};
    p[1] = (Elf32_Phdr){PT_NOTE, NOTE, 0, 0, 0x40, 0x40, PF_R, 4};
    put_note(NOTE, "GNU", 4, 3, 4, 0);
    put_note(NOTE + 20, "Xen", 4, 18, 4, 0x100040);
}

static void setup(void)
{
    rig_init(&rig, 32 * MIB);
    make_elf();
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(elf, .init = setup, .fini = teardown);

/* ---- 64-bit entry ---- */

Test(elf, virtual_entry_is_translated_by_its_segment)
{
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_LONG);
    cr_expect_eq(rig.entry.rip, PHYS + 0x10);
    cr_expect_eq(rig.entry.rsi, 0x7000);
    cr_expect_eq(rig.entry.rbx, 0);
}

Test(elf, physical_entry_is_taken_as_linux_means_it)
{
    ehdr()->e_entry = PHYS + 0x20;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, PHYS + 0x20);
}

Test(elf, boot_parameters_say_linux)
{
    rig_initrd(&rig, 4097);
    cr_assert_eq(rig_load(&rig), 0);
    const struct boot_params *params = rig_params(&rig);
    cr_expect_eq(params->hdr.boot_flag, 0xaa55);
    cr_expect_eq(params->hdr.header, 0x53726448);
    cr_expect_eq(params->hdr.type_of_loader, 0xff);
    cr_expect_eq(params->hdr.cmd_line_ptr, 0x80000);
    cr_expect_eq(params->hdr.ramdisk_image, 32 * MIB - 8192);
    cr_expect_eq(params->hdr.ramdisk_size, 4097);
    cr_expect_eq(params->acpi_rsdp_addr, 0xe0000);
    cr_expect_gt(params->e820_entries, 4);
}

Test(elf, segments_are_copied_and_bss_is_zeroed)
{
    memset(rig_at(&rig, PHYS, 0x4000), 0xee, 0x4000);
    cr_assert_eq(rig_load(&rig), 0);
    const uint8_t *at = rig_at(&rig, PHYS, 0x4000);
    cr_expect_eq(at[0xff], 0xc0);
    for (unsigned i = 0x100; i < 0x3000; i++)
        cr_assert_eq(at[i], 0, "0x%x", i);
    cr_expect_eq(at[0x3000], 0xee);
}

Test(elf, initrd_stays_off_the_last_segment)
{
    rig_initrd(&rig, 0x1000);
    phdr(1)->p_memsz = 32 * MIB - PHYS - 0x2000;
    cr_assert_eq(rig_load(&rig), 0);
    phdr(1)->p_memsz++;
    rig_refused(&rig, -ENOMEM, "initrd.img: cannot load initial RAM disk");
}

/* ---- PVH ---- */

struct start_info { /* Xen, arch-x86/hvm/start_info.h */
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};

Test(elf, note_gives_32_bit_entry)
{
    put_note(NOTE + 24, "Xen", 4, 18, 8, PHYS + 0x40);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
    cr_expect_eq(rig.entry.rip, PHYS + 0x40);
    cr_expect_eq(rig.entry.rbx, 0x7000);
    cr_expect_eq(rig.entry.code_selector, 0x10);
}

Test(elf, elf32_with_note)
{
    make_elf32();
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
    cr_expect_eq(rig.entry.rip, 0x100040);
}

Test(elf, start_info)
{
    struct e820_entry map[E820_MAX];
    put_note(NOTE, "Xen", 4, 18, 4, PHYS);
    rig_initrd(&rig, 100);
    cr_assert_eq(rig_load(&rig), 0);
    const struct start_info *info = rig_at(&rig, rig.entry.rbx, sizeof(*info));
    cr_expect_eq(info->magic, 0x336ec578);
    cr_expect_eq(info->version, 1);
    cr_expect_eq(info->rsdp, 0xe0000);
    cr_expect_str_eq(rig_at(&rig, info->cmdline, 6), "quiet");
    cr_assert_eq(info->nr_modules, 1);
    const uint64_t *module = rig_at(&rig, info->modlist, 32);
    cr_expect_eq(module[0], 32 * MIB - 4096);
    cr_expect_eq(module[1], 100);
    cr_assert_eq(info->memmap_entries, boot_e820(&rig.mem, map));
    for (unsigned i = 0; i < info->memmap_entries; i++) {
        const uint64_t *entry = rig_at(&rig, info->memmap + i * 24, 24);
        cr_expect_eq(entry[0], map[i].base);
        cr_expect_eq(entry[1], map[i].size);
        cr_expect_eq(entry[2], map[i].type);
    }
}

Test(elf, start_info_without_initrd)
{
    put_note(NOTE, "Xen", 4, 18, 4, PHYS);
    cr_assert_eq(rig_load(&rig), 0);
    const struct start_info *info = rig_at(&rig, rig.entry.rbx, sizeof(*info));
    cr_expect_eq(info->nr_modules, 0);
}

Test(elf, note_alignment_of_eight)
{
    phdr(2)->p_align = 8;
    put_note(NOTE, "GNU", 4, 3, 4, 0);
    put_note(NOTE + 24, "Xen", 4, 18, 4, PHYS + 8);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, PHYS + 8);
}

Test(elf, notes_that_do_not_count)
{
    static const struct {
        const char *name;
        uint32_t namesz, type, descsz;
    } t[] = {
        {"Xem", 4, 18, 8},          {"Xen", 5, 18, 8},    {"Xen", 4, 17, 8},
        {"Xen", 4, 18, 3},          {"Xen", 4, 18, 0x31}, {"Xen", UINT32_MAX, 18, 8},
        {"Xen", 4, 18, UINT32_MAX}, {"Xen", 0, 18, 8},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        make_elf();
        put_note(NOTE, t[i].name, t[i].namesz, t[i].type, t[i].descsz, PHYS);
        cr_assert_eq(rig_load(&rig), 0, "%u", i);
        cr_expect_eq(rig.entry.mode, ENTRY_LONG, "%u", i);
    }
}

Test(elf, note_at_the_very_end)
{
    put_note(NOTE + 0x40 - 20, "Xen", 4, 18, 4, PHYS);
    put_note(NOTE, "GNU", 4, 3, 0x40 - 20 - 16, 0);
    phdr(2)->p_filesz = 0x40;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
}

Test(elf, firmware_that_asks_the_host_bridge)
{
    put_note(NOTE, "Xen", 4, 18, 4, PHYS + 0x30);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.host_bridge, 0);
    ehdr()->e_machine = EM_386;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
    cr_expect_eq(rig.entry.rip, PHYS + 0x30);
    cr_expect_eq(rig.entry.host_bridge, 0x0d57);
    put_note(NOTE, "Xen", 4, 17, 4, PHYS + 0x30);
    rig_refused(&rig, -ENOEXEC, "32-bit ELF file without a PVH note");

    make_elf32();
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.host_bridge, 0);
}

Test(elf, pvh_entry_outside_of_the_segments)
{
    put_note(NOTE, "Xen", 4, 18, 8, PHYS - 1);
    rig_refused(&rig, -ENOEXEC, "entry point lies in none of its segments");
    put_note(NOTE, "Xen", 4, 18, 8, PHYS + 0x3000);
    rig_refused(&rig, -ENOEXEC, "entry point lies in none of its segments");
}

/* ---- what is refused ---- */

Test(elf, other_machines)
{
    ehdr()->e_machine = EM_AARCH64;
    rig_refused(&rig, -ENOEXEC,
                "for an arm64 machine (e_machine 183); give a kernel for x86-64");
    ehdr()->e_machine = 0x1234;
    rig_refused(&rig, -ENOEXEC, "for another machine (e_machine 4660)");
    ehdr()->e_machine = EM_X86_64;
    ehdr()->e_ident[EI_DATA] = ELFDATA2MSB;
    rig_refused(&rig, -ENOEXEC, "machine");
    ehdr()->e_ident[EI_DATA] = ELFDATA2LSB;
    ehdr()->e_ident[EI_CLASS] = ELFCLASS32; /* x32 */
    rig_refused(&rig, -ENOEXEC, "machine");
}

Test(elf, other_types)
{
    ehdr()->e_type = ET_REL;
    rig_refused(&rig, -ENOEXEC, "relocatable (an object or a module); give a kernel linked");
    ehdr()->e_type = ET_DYN;
    rig_refused(&rig, -ENOEXEC, "shared object");
}

Test(elf, elf32_without_note)
{
    make_elf32();
    put_le32(rig.file + NOTE + 20 + 8, 17);
    rig_refused(&rig, -ENOEXEC,
                "32-bit ELF file without a PVH note or a Multiboot header; link it with");
}

Test(elf, program_headers)
{
    ehdr()->e_phnum = 0;
    rig_refused(&rig, -ENOEXEC, "no usable program headers");
    ehdr()->e_phnum = PN_XNUM;
    rig_refused(&rig, -ENOEXEC, "no usable program headers");
    ehdr()->e_phnum = 3;
    ehdr()->e_phentsize = 55;
    rig_refused(&rig, -ENOEXEC, "no usable program headers");
    ehdr()->e_phentsize = sizeof(Elf64_Phdr);
    ehdr()->e_phoff = 0x400 - 3 * sizeof(Elf64_Phdr) + 1;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say; get a complete copy");
    ehdr()->e_phoff = UINT64_MAX;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say");
}

Test(elf, segments_outside_of_the_file)
{
    phdr(0)->p_filesz = 0x201;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say");
    phdr(0)->p_filesz = UINT64_MAX;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say");
    phdr(0)->p_offset = UINT64_MAX;
    phdr(0)->p_filesz = 2;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say");
    make_elf();
    phdr(2)->p_offset = 0x3c1;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say");
}

Test(elf, segments_outside_of_ram)
{
    static const struct {
        uint64_t paddr, memsz;
        int err;
        const char *text;
    } t[] = {
        {PHYS, 16 * MIB + 1, -ENOMEM, "there are 32 MiB; give -m 33M or more"},
        {VIRT, 0x1000, -ENOEXEC, "are not in RAM"},
        {UINT64_MAX, 0x1000, -ENOEXEC, "are not in RAM"},
        {PHYS, UINT64_MAX, -ENOEXEC, "are not in RAM"},
        {0xa0000, 0x1000, -ENOEXEC, "are not in RAM"},
        {0xff000, 0x2000, -ENOEXEC, "are not in RAM"},
        {LAYOUT_LOW_RAM_END, 0x1000, -ENOEXEC, "are not in RAM"},
        {0x7000, 0x1000, -ENOEXEC, "a segment lies on the boot parameters"},
        {0x8f000, 0x1000, -ENOEXEC, "a segment lies on the boot parameters"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        phdr(1)->p_paddr = t[i].paddr;
        phdr(1)->p_memsz = t[i].memsz;
        rig_refused(&rig, t[i].err, t[i].text);
    }
    phdr(1)->p_paddr = 0x30000; /* low memory that is free may be used */
    phdr(1)->p_memsz = 0x1000;
    cr_expect_eq(rig_load(&rig), 0);
}

Test(elf, segments_that_contradict)
{
    phdr(0)->p_memsz = 0xff;
    rig_refused(&rig, -ENOEXEC, "contradict each other");
    phdr(0)->p_memsz = 12 * MIB; /* each fits, together they are more than there is */
    phdr(1)->p_paddr = MIB;
    phdr(1)->p_memsz = 21 * MIB;
    rig_refused(&rig, -ENOEXEC, "contradict each other");
}

Test(elf, nothing_to_load)
{
    phdr(0)->p_type = phdr(1)->p_type = PT_NULL;
    rig_refused(&rig, -ENOEXEC, "nothing to load");
}

Test(elf, entry_outside_of_the_segments)
{
    ehdr()->e_entry = VIRT + 0x1000;
    phdr(1)->p_memsz = 0;
    rig_refused(&rig, -ENOEXEC, "entry point lies in none of its segments");
}

/* ---- hostile ---- */

Test(elf, every_truncation)
{
    uint8_t whole[0x400];
    memcpy(whole, rig.file, sizeof(whole));
    for (size_t len = SELFMAG; len < 0x340; len++) {
        rig_file(&rig, whole, len);
        cr_assert_eq(rig_load(&rig), -ENOEXEC, "%zu bytes", len);
    }
}

static void every_value_of_every_byte(size_t size)
{
    for (size_t at = 0; at < size; at++) {
        uint8_t saved = rig.file[at];
        for (unsigned value = 0; value < 256; value++) {
            rig.file[at] = (uint8_t)value;
            if (!rig_load(&rig))
                cr_assert_lt(rig.entry.rip, 32 * MIB);
        }
        rig.file[at] = saved;
    }
}

Test(elf, every_value_of_every_header_byte)
{
    every_value_of_every_byte(sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr));
}

Test(elf, every_value_of_every_header_byte_32)
{
    make_elf32();
    every_value_of_every_byte(sizeof(Elf32_Ehdr) + 2 * sizeof(Elf32_Phdr));
}

Test(elf, random_notes)
{
    srand(1);
    for (unsigned round = 0; round < 20000; round++) {
        for (unsigned i = 0; i < 0x40; i++)
            rig.file[NOTE + i] = (uint8_t)(rand() % 4 ? rand() % 20 : rand());
        put_note(NOTE + (unsigned)rand() % 0x29, "Xen", 4, 18, (uint32_t)rand() % 12, PHYS);
        phdr(2)->p_align = rand() % 2 ? 8 : 4;
        rig_load(&rig);
    }
}
