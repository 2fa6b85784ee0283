/* multiboot_test.c: tests of boot/multiboot.c: kernels with a Multiboot 1 or 2 header. */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>

#include "boot/loader.h"
#include "boot_rig.h"
#include "vmm/layout.h"
#include "vmm/util.h"

#define SIZE 0x400 /* of the file */
#define AT   0x40  /* of the header in it */
#define LOAD 0x100000U
#define RSDP 0xe0000U

static struct boot_rig rig;

static void put(size_t at, const uint32_t *word, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++)
        put_le32(rig.file + at + 4 * i, word[i]);
}

/* Multiboot 1: magic, flags, checksum, then the address fields. */
static void header_1(uint32_t flags)
{
    const uint32_t word[] = {0x1badb002,    flags, 0U - 0x1badb002 - flags,
                             LOAD + AT,     /* header_addr */
                             LOAD,          /* load_addr */
                             LOAD + 0x300,  /* load_end_addr */
                             LOAD + 0x1000, /* bss_end_addr */
                             LOAD + 0x80U}; /* entry_addr */
    put(AT, word, ARRAY_SIZE(word));
}

/* Multiboot 2: magic, architecture, length, checksum; the tags are TAGS bytes. */
static void header_2(uint32_t tags)
{
    uint32_t length = 16 + tags;
    const uint32_t word[] = {0xe85250d6, 0, length, 0U - 0xe85250d6 - length};
    put(AT, word, ARRAY_SIZE(word));
}

/* One tag at offset OFFSET of the tags: type, flags, size, then VALUE. Where the next goes. */
static uint32_t tag(uint32_t offset, uint16_t type, uint16_t flags, const uint32_t *value,
                    unsigned nr)
{
    uint8_t *p = rig.file + AT + 16 + offset;
    put_le16(p, type);
    put_le16(p + 2, flags);
    put_le32(p + 4, 8 + 4 * nr);
    put(AT + 16 + offset + 8, value, nr);
    return offset + (uint32_t)align_up(8 + 4 * nr, 8);
}

/* Address tag, entry tag, one of TYPE (0: none), end. */
static void make_2(uint16_t type, uint16_t flags, const uint32_t *value, unsigned nr)
{
    static const uint32_t place[] = {LOAD + AT, LOAD, LOAD + 0x300, LOAD + 0x1000};
    static const uint32_t entry[] = {LOAD + 0x80};
    uint32_t end = tag(0, 2, 0, place, 4);
    end = tag(end, 3, 0, entry, 1);
    if (type)
        end = tag(end, type, flags, value, nr);
    header_2(tag(end, 0, 0, NULL, 0));
}

static void make_1(void)
{
    rig_file(&rig, NULL, SIZE);
    memset(rig.file, 0xc0, SIZE);
    header_1(0x10003);
}

static void make_elf(bool is_64)
{
    rig_file(&rig, NULL, SIZE);
    memset(rig.file + 0x200, 0xc0, 0x100);
    if (is_64) {
        *(Elf64_Ehdr *)rig.file = (Elf64_Ehdr){
            .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, 1},
            .e_type = ET_EXEC,
            .e_machine = EM_X86_64,
            .e_entry = 0xffffffff80100020,
            .e_phoff = 0x180,
            .e_phentsize = sizeof(Elf64_Phdr),
            .e_phnum = 1,
        };
        *(Elf64_Phdr *)(rig.file + 0x180) =
            (Elf64_Phdr){PT_LOAD, PF_X, 0x200, 0xffffffff80100000, LOAD, 0x100, 0x2000, 4096};
    } else {
        *(Elf32_Ehdr *)rig.file = (Elf32_Ehdr){
            .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32, ELFDATA2LSB, 1},
            .e_type = ET_EXEC,
            .e_machine = EM_386,
            .e_entry = LOAD + 0x20,
            .e_phoff = 0x180,
            .e_phentsize = sizeof(Elf32_Phdr),
            .e_phnum = 1,
        };
        *(Elf32_Phdr *)(rig.file + 0x180) =
            (Elf32_Phdr){PT_LOAD, 0x200, LOAD, LOAD, 0x100, 0x2000, PF_X, 4096};
    }
}

static void setup(void)
{
    rig_init(&rig, 32 * MIB);
    memcpy(rig_at(&rig, RSDP, 8), "RSD PTR ", 8);
    make_1();
}

static void teardown(void)
{
    rig_fini(&rig);
}

TestSuite(multiboot, .init = setup, .fini = teardown);

static void expect_entry(unsigned version, uint64_t rip)
{
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_PROTECTED);
    cr_expect_eq(rig.entry.rip, rip);
    cr_expect_eq(rig.entry.rax, version == 1 ? 0x2badb002 : 0x36d76289);
}

/* ---- the header ---- */

Test(multiboot, header_anywhere_it_may_be)
{
    static const struct {
        size_t size, at, step;
        bool second, is;
    } t[] = {
        {8192, 8192 - 32, 1, false, true},   {8208, 8192 - 28, 1, false, false},
        {9000, 8192, 1, false, false},       {8192, 6, 1, false, false},
        {8192, 0, 1, false, true},           {32768, 32768 - 64, 8, true, true},
        {32776, 32768 - 56, 8, true, false}, {33000, 32768, 8, true, false},
        {32768, 12, 8, true, false},
    };
    uint8_t header[64];
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        make_1();
        if (t[i].second)
            make_2(0, 0, NULL, 0);
        memcpy(header, rig.file + AT, 64);
        rig_file(&rig, NULL, t[i].size);
        memcpy(rig.file + t[i].at, header, t[i].second ? 64 : 32);
        put_le32(rig.file + t[i].at + (t[i].second ? 24 : 12), LOAD + (uint32_t)t[i].at);
        bool taken = rig_load(&rig) == 0 && rig.entry.rax;
        cr_expect_eq(taken, t[i].is, "%u", i);
    }
}

Test(multiboot, wrong_checksum_is_no_header)
{
    rig.file[AT + 8]++;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_REAL, "it is a flat binary");
    make_2(0, 0, NULL, 0);
    rig.file[AT + 12]++;
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.mode, ENTRY_REAL);
}

Test(multiboot, second_version_goes_first)
{
    rig_file(&rig, NULL, SIZE);
    make_2(0, 0, NULL, 0);
    const uint32_t first[] = {0x1badb002, 0, 0U - 0x1badb002};
    put(0x10, first, 3);
    expect_entry(2, LOAD + 0x80);
}

Test(multiboot, features_that_are_demanded)
{
    header_1(0x10007);
    expect_entry(1, LOAD + 0x80); /* a video mode: told that there is none */
    header_1(0x10008);
    rig_refused(&rig, -ENOEXEC, "its Multiboot header demands feature 3");
    header_1(0x18003);
    rig_refused(&rig, -ENOEXEC, "demands feature 15");
    header_1(0xfffd0003);
    expect_entry(1, LOAD + 0x80); /* those need not be known */
}

Test(multiboot, tags_that_are_demanded)
{
    static const struct {
        uint16_t type, flags;
        uint32_t value;
        const char *refused; /* NULL: it boots */
    } t[] = {
        {1, 0, 4, NULL},
        {1, 0, 21, NULL},
        {1, 0, 22, "demands information of type 22"},
        {1, 1, 22, NULL},
        {4, 0, 2, NULL},
        {4, 0, 3, "demands a screen"},
        {4, 1, 3, NULL},
        {5, 0, 0, NULL},
        {6, 0, 0, NULL},
        {7, 0, 0, NULL},
        {9, 0, 0, NULL},
        {10, 0, 0, NULL},
        {11, 1, 0, NULL},
        {11, 0, 0, "demands what its tag says, type 11"},
        {0xffff, 0, 0, "type 65535"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        make_2(t[i].type, t[i].flags, &t[i].value, 1);
        if (t[i].refused)
            rig_refused(&rig, -ENOEXEC, t[i].refused);
        else
            expect_entry(2, LOAD + 0x80);
    }
}

Test(multiboot, for_another_architecture)
{
    const uint32_t word[] = {0xe85250d6, 4, 16, 0U - 0xe85250d6 - 4 - 16};
    put(AT, word, 4);
    rig_refused(&rig, -ENOEXEC, "another machine (not i386)");
}

Test(multiboot, tags_that_lie)
{
    static const struct {
        unsigned
            at; /* in the tags: size of the address tag, of the entry tag, of the request */
        uint32_t size;
    } t[] = {{4, 0},  {4, 7},   {4, 23},      {4, 0x4000}, {4, UINT32_MAX},
             {28, 8}, {28, 11}, {28, 0x4000}, {44, 17},    {44, 0x8000}};
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        make_2(1, 0, (uint32_t[]){4, 6}, 2);
        header_2(40 + 16); /* without the end tag, which is not needed */
        put_le32(rig.file + AT + 16 + t[i].at, t[i].size);
        rig_refused(&rig, -ENOEXEC, "Multiboot header contradicts itself");
    }
    make_2(0, 0, NULL, 0);
    header_2(SIZE - AT - 16 + 1);
    rig_refused(&rig, -ENOEXEC, "contradicts itself or the file's length");
    header_2(UINT32_MAX - 16);
    rig_refused(&rig, -ENOEXEC, "contradicts itself or the file's length");
    static const uint32_t place[] = {LOAD + AT, LOAD, 0, 0};
    header_2(tag(tag(0, 2, 0, place, 4), 0, 0, NULL, 0));
    rig_refused(&rig, -ENOEXEC, "contradicts itself"); /* addresses, but no entry */
}

/* ---- the kernel ---- */

Test(multiboot, load_addresses)
{
    memset(rig_at(&rig, LOAD, 0x1001), 0xee, 0x1001);
    expect_entry(1, LOAD + 0x80);
    const uint8_t *at = rig_at(&rig, LOAD, 0x1001);
    cr_expect_eq(memcmp(at, rig.file, 0x300), 0);
    for (unsigned i = 0x300; i < 0x1000; i++)
        cr_assert_eq(at[i], 0, "0x%x", i);
    cr_expect_eq(at[0x1000], 0xee);
}

Test(multiboot, load_addresses_that_are_left_open)
{
    put_le32(rig.file + AT + 20, 0); /* to the end of the file, no bss */
    put_le32(rig.file + AT + 24, 0);
    memset(rig_at(&rig, LOAD, 0x1000), 0xee, 0x1000);
    expect_entry(1, LOAD + 0x80);
    const uint8_t *at = rig_at(&rig, LOAD, 0x1000);
    cr_expect_eq(memcmp(at, rig.file, SIZE), 0);
    cr_expect_eq(at[SIZE], 0xee);
}

Test(multiboot, load_from_the_header_on)
{
    put_le32(rig.file + AT + 16, LOAD + AT); /* load_addr = header_addr */
    expect_entry(1, LOAD + 0x80);
    cr_expect_eq(memcmp(rig_at(&rig, LOAD + AT, 0x200), rig.file + AT, 0x200), 0);
}

Test(multiboot, load_from_the_start_of_the_file)
{
    make_2(0, 0, NULL, 0);
    put_le32(rig.file + AT + 16 + 12, UINT32_MAX);
    expect_entry(2, LOAD + 0x80);
    cr_expect_eq(memcmp(rig_at(&rig, LOAD, 0x300), rig.file, 0x300), 0);
    put_le32(rig.file + AT + 16 + 8, AT - 1);
    rig_refused(&rig, -ENOEXEC, "contradicts itself");
    make_1();
    put_le32(rig.file + AT + 16, UINT32_MAX); /* Multiboot 1 knows no such value */
    rig_refused(&rig, -ENOEXEC, "contradicts itself");
}

Test(multiboot, load_addresses_that_contradict)
{
    static const uint32_t bad[][5] = {
        {LOAD - 1, LOAD, 0, 0, LOAD},                       /* header before the load */
        {LOAD + AT + 1, LOAD, 0, 0, LOAD},                  /* begins before the file */
        {LOAD + AT, LOAD, LOAD, 0, LOAD},                   /* nothing */
        {LOAD + AT, LOAD, LOAD, LOAD + 0x1000, LOAD},       /* nothing but bss */
        {LOAD + AT, LOAD, LOAD - 1, 0, LOAD},               /* less than that */
        {LOAD + AT, LOAD, LOAD + SIZE + 1, 0, LOAD},        /* more than the file */
        {LOAD + AT, LOAD, UINT32_MAX, 0, LOAD},             /* much more */
        {LOAD + AT, LOAD, LOAD + 0x100, LOAD + 0xff, LOAD}, /* bss ends in the data */
        {LOAD + AT, LOAD, 0, 0, LOAD - 1},                  /* entry before it */
        {LOAD + AT, LOAD, 0, 0, LOAD + SIZE},               /* entry after it */
        {0, UINT32_MAX, 0, 0, 0},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        put(AT + 12, bad[i], 5);
        rig_refused(&rig, -ENOEXEC, "contradicts itself");
    }
}

Test(multiboot, load_addresses_outside_of_ram)
{
    static const struct {
        uint32_t load, bss_end;
        int err;
        const char *text;
    } t[] = {
        {LOAD, 32 * MIB, 0, NULL},
        {LOAD, 32 * MIB + 1, -ENOMEM, "give -m 33M or more"},
        {LOAD, UINT32_MAX, -ENOEXEC, "are not in RAM"},
        {0xa0000, 0, -ENOEXEC, "are not in RAM"},
        {0xfff00000, 0, -ENOEXEC, "are not in RAM"},
        {0xffffff00, 0, -ENOEXEC, "are not in RAM"},
        {0x7000, 0, -ENOEXEC, "lies on the boot parameters"},
        {0x9000, 0, 0, NULL},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        const uint32_t field[] = {t[i].load + AT, t[i].load, 0, t[i].bss_end, t[i].load};
        put(AT + 12, field, 5);
        if (t[i].text)
            rig_refused(&rig, t[i].err, t[i].text);
        else
            expect_entry(1, t[i].load);
    }
}

Test(multiboot, elf)
{
    for (unsigned is_64 = 0; is_64 < 2; is_64++) {
        make_elf(is_64);
        header_1(3);
        expect_entry(1, LOAD + 0x20); /* also of ELF64: GRUB's way, not 64-bit mode */
        cr_expect_eq(*(uint8_t *)rig_at(&rig, LOAD + 0xff, 1), 0xc0);
        header_1(0x10003);
        expect_entry(1, LOAD + 0x80); /* its addresses go before those of ELF */
        make_elf(is_64);
        header_2(tag(0, 0, 0, NULL, 0));
        expect_entry(2, LOAD + 0x20);
        const uint32_t entry[] = {LOAD + 0x40};
        header_2(tag(tag(0, 3, 0, entry, 1), 0, 0, NULL, 0));
        expect_entry(2, LOAD + 0x40);
        const uint32_t wrong[] = {LOAD + 0x2000};
        header_2(tag(tag(0, 3, 0, wrong, 1), 0, 0, NULL, 0));
        rig_refused(&rig, -ENOEXEC, "entry point lies in none of its segments");
    }
}

Test(multiboot, pvh_note_goes_first)
{
    make_elf(true);
    header_1(3);
    ((Elf64_Ehdr *)rig.file)->e_phnum = 2;
    *(Elf64_Phdr *)(rig.file + 0x180 + sizeof(Elf64_Phdr)) =
        (Elf64_Phdr){PT_NOTE, 0, 0x380, 0, 0, 24, 24, 4};
    const uint32_t note[] = {4, 4, 18, 0x6e6558 /* "Xen" */, LOAD + 0x60};
    put(0x380, note, 5);
    cr_assert_eq(rig_load(&rig), 0);
    cr_expect_eq(rig.entry.rip, LOAD + 0x60);
    cr_expect_eq(rig.entry.rax, 0);
}

Test(multiboot, neither_elf_nor_addresses)
{
    header_1(3);
    rig_refused(&rig, -ENOEXEC, "without load addresses, and no ELF file; link it as ELF");
}

Test(multiboot, damaged_elf)
{
    make_elf(false);
    header_1(3);
    ((Elf32_Phdr *)(rig.file + 0x180))->p_filesz = 0x2001;
    rig_refused(&rig, -ENOEXEC, "shorter than its headers say");
}

/* ---- the boot information ---- */

static uint32_t word_at(uint64_t gpa)
{
    return get_le32(rig_at(&rig, gpa, 4));
}

static void expect_module(uint64_t start, uint64_t end, uint64_t name)
{
    cr_expect_eq(start, LOAD + 0x1000, "in the first page above the kernel");
    cr_expect_eq(end, LOAD + 0x1000 + 5000);
    cr_expect_str_eq(rig_at(&rig, name, 8), "init.img");
    const uint8_t *at = rig_at(&rig, start, 5000);
    for (unsigned i = 0; i < 5000; i++)
        cr_assert_eq(at[i], i % 251);
}

/* Multiboot 0.6.96, 3.3 "Boot information format". */
Test(multiboot, information_1)
{
    struct e820_entry map[E820_MAX];
    rig_initrd(&rig, 5000);
    rig.config.initrd_name = "/some/where/init.img";
    expect_entry(1, LOAD + 0x80);
    const uint64_t info = rig.entry.rbx;
    cr_expect_eq(word_at(info), 0x24d, "memory, command line, modules, map, loader");
    cr_expect_eq(word_at(info + 4), 639);
    cr_expect_eq(word_at(info + 8), 31 * 1024);
    cr_expect_str_eq(rig_at(&rig, word_at(info + 16), 6), "quiet");
    cr_assert_eq(word_at(info + 20), 1);
    const uint64_t module = word_at(info + 24);
    expect_module(word_at(module), word_at(module + 4), word_at(module + 8));
    cr_expect_str_eq(rig_at(&rig, word_at(info + 64), 8), "minivmm");
    unsigned nr = boot_e820(&rig.mem, map);
    uint64_t at = word_at(info + 48), end = at + word_at(info + 44);
    for (unsigned i = 0; i < nr; i++, at += 4 + word_at(at)) {
        cr_assert_eq(word_at(at), 20);
        cr_expect_eq(get_le64(rig_at(&rig, at + 4, 8)), map[i].base);
        cr_expect_eq(get_le64(rig_at(&rig, at + 12, 8)), map[i].size);
        cr_expect_eq(word_at(at + 20), map[i].type);
    }
    cr_expect_eq(at, end);
}

Test(multiboot, information_1_without_initrd)
{
    expect_entry(1, LOAD + 0x80);
    cr_expect_eq(word_at(rig.entry.rbx), 0x245);
    cr_expect_eq(word_at(rig.entry.rbx + 20), 0);
}

/* The information tag of TYPE; 0: there is none. All of them are well-formed. */
static uint64_t find_tag(uint32_t type)
{
    const uint64_t info = rig.entry.rbx, end = info + word_at(info);
    uint64_t found = 0, at = info + 8;
    for (; word_at(at); at = align_up(at + word_at(at + 4), 8)) {
        cr_assert_geq(word_at(at + 4), 8);
        cr_assert_lt(at, end);
        if (word_at(at) == type) {
            cr_expect_eq(found, 0, "tag %u is there twice", type);
            found = at;
        }
    }
    cr_expect_eq(at + 8, end, "the end tag is the end");
    return found;
}

/* Multiboot2 2.0, 3.6 "Boot information". */
Test(multiboot, information_2)
{
    struct e820_entry map[E820_MAX];
    rig_initrd(&rig, 5000);
    rig.config.initrd_name = "init.img";
    memset(rig_at(&rig, LAYOUT_CMDLINE, 0x10000), 0xee,
           0x10000); /* what an earlier boot left */
    make_2(10, 0, (uint32_t[]){0, UINT32_MAX, 4096, 0}, 4);
    expect_entry(2, LOAD + 0x80);
    cr_expect_eq(rig.entry.rbx % 8, 0);
    cr_expect_eq(word_at(rig.entry.rbx + 4), 0);
    cr_expect_str_eq(rig_at(&rig, find_tag(1) + 8, 6), "quiet");
    cr_expect_eq(word_at(find_tag(1) + 4), 8 + 6);
    cr_expect_str_eq(rig_at(&rig, find_tag(2) + 8, 8), "minivmm");
    const uint64_t module = find_tag(3), memory = find_tag(4), all = find_tag(6);
    expect_module(word_at(module + 8), word_at(module + 12), module + 16);
    cr_expect_eq(word_at(memory + 8), 639);
    cr_expect_eq(word_at(memory + 12), 31 * 1024);
    unsigned nr = boot_e820(&rig.mem, map);
    cr_assert_eq(word_at(all + 4), 16 + 24 * nr);
    cr_expect_eq(word_at(all + 8), 24);
    cr_expect_eq(word_at(all + 12), 0);
    for (unsigned i = 0; i < nr; i++) {
        cr_expect_eq(get_le64(rig_at(&rig, all + 16 + 24 * i, 8)), map[i].base);
        cr_expect_eq(get_le64(rig_at(&rig, all + 24 + 24 * i, 8)), map[i].size);
        cr_expect_eq(word_at(all + 32 + 24 * i), map[i].type);
    }
    cr_expect_eq(word_at(find_tag(15) + 4), 8 + 36);
    cr_expect_eq(memcmp(rig_at(&rig, find_tag(15) + 8, 8), "RSD PTR ", 8), 0);
    cr_expect_eq(word_at(find_tag(21) + 8), LOAD);
}

Test(multiboot, information_2_has_only_what_there_is)
{
    rig.config.rsdp = UINT64_MAX;
    make_2(0, 0, NULL, 0);
    expect_entry(2, LOAD + 0x80);
    cr_expect_eq(find_tag(3) | find_tag(15) | find_tag(21), 0);
}

Test(multiboot, longest_command_line)
{
    char *text = calloc(1, 0x10000);
    memset(text, 'x', 0x10000 - 1 - 1024);
    rig.config.cmdline = text;
    rig_initrd(&rig, 1);
    char name[300];
    memset(name, 'n', sizeof(name));
    name[299] = 0;
    rig.config.initrd_name = name;
    make_2(10, 0, (uint32_t[]){0, UINT32_MAX, 4096, 0}, 4);
    memset(rig_at(&rig, LAYOUT_CMDLINE + 0x10000, 16), 0xee, 16);
    expect_entry(2, LOAD + 0x80);
    cr_expect_leq(word_at(rig.entry.rbx), 0x10000);
    cr_expect_eq(word_at(find_tag(3) + 4), 16 + 256, "a name has 255 characters");
    cr_expect_eq(word_at(LAYOUT_CMDLINE + 0x10000), 0xeeeeeeee);
    text[0x10000 - 1 - 1024] = 'x';
    rig_refused(&rig, -E2BIG, "shorten it");
    free(text);
}

Test(multiboot, module_that_does_not_fit)
{
    put_le32(rig.file + AT + 24, 32 * MIB - 0x1000);
    rig_initrd(&rig, 0x1000);
    cr_assert_eq(rig_load(&rig), 0);
    rig_initrd(&rig, 0x1001);
    rig_refused(&rig, -ENOMEM, "give -m 33M or more");
    rig.config.initrd_size = UINT64_MAX;
    rig_refused(&rig, -ENOMEM, "bytes do not fit");
}

/* Xen looks there; a kernel that is loaded over it wins. */
Test(multiboot, bios_data_area)
{
    expect_entry(1, LOAD + 0x80);
    cr_expect_eq(get_le16(rig_at(&rig, 0x40e, 2)) << 4, LAYOUT_EBDA);
    cr_expect_eq(get_le16(rig_at(&rig, 0x413, 2)) * 1024, LAYOUT_EBDA);
    put(AT + 12, (uint32_t[]){0x400 + AT, 0x400, 0, 0, 0x400}, 5);
    expect_entry(1, 0x400);
    cr_expect_eq(get_le16(rig_at(&rig, 0x413, 2)), 0xc0c0);
}

/* ---- hostile ---- */

static void every_truncation(size_t least)
{
    uint8_t whole[SIZE];
    memcpy(whole, rig.file, SIZE);
    for (size_t len = 0; len <= SIZE; len++) {
        rig_file(&rig, whole, len);
        int err = rig_load(&rig);
        if (len >= AT + 16)
            cr_assert_eq(err, len < least ? -ENOEXEC : 0, "%zu bytes", len);
    }
    rig_file(&rig, whole, SIZE);
}

Test(multiboot, every_truncation_1)
{
    every_truncation(0x300);
}

Test(multiboot, every_truncation_2)
{
    make_2(1, 0, (uint32_t[]){4, 6}, 2);
    every_truncation(0x300);
}

static void every_value_of_every_byte(size_t from, size_t to)
{
    for (size_t at = from; at < to; at++) {
        uint8_t saved = rig.file[at];
        for (unsigned value = 0; value < 256; value++) {
            rig.file[at] = (uint8_t)value;
            if (!rig_load(&rig) && rig.entry.mode == ENTRY_PROTECTED)
                cr_assert_lt(rig.entry.rip, 32 * MIB);
        }
        rig.file[at] = saved;
    }
}

/* The checksum follows, so that what is behind it is seen. */
static void random_words(unsigned words, unsigned summed)
{
    static const uint32_t odd[] = {
        0, 1, 7, 8, 9, LOAD, LOAD - 1, LOAD + AT, 0x300, SIZE, UINT32_MAX, 0x80000000, 0x10003};
    uint8_t whole[SIZE];
    memcpy(whole, rig.file, SIZE);
    srand(1);
    for (unsigned round = 0; round < 50000; round++) {
        memcpy(rig.file, whole, SIZE);
        for (unsigned n = 0; n < 3; n++) {
            unsigned i = 1 + (unsigned)rand() % (words - 1);
            put_le32(rig.file + AT + 4 * i, odd[(unsigned)rand() % ARRAY_SIZE(odd)]);
        }
        uint32_t sum = 0;
        for (unsigned i = 0; i + 1 < summed; i++)
            sum += get_le32(rig.file + AT + 4 * i);
        put_le32(rig.file + AT + 4 * (summed - 1), 0U - sum);
        if (!rig_load(&rig))
            cr_assert_lt(rig.entry.rip, 32 * MIB);
    }
    memcpy(rig.file, whole, SIZE);
}

Test(multiboot, hostile_headers_1)
{
    every_value_of_every_byte(AT, AT + 32);
    random_words(8, 3);
}

Test(multiboot, hostile_headers_2)
{
    make_2(1, 0, (uint32_t[]){4, 6}, 2);
    every_value_of_every_byte(AT, AT + 80);
    random_words(20, 4);
}

Test(multiboot, hostile_elf)
{
    make_elf(false);
    header_1(3);
    every_value_of_every_byte(0, sizeof(Elf32_Ehdr));
    every_value_of_every_byte(0x180, 0x180 + sizeof(Elf32_Phdr));
}
