/* aml_test.c: tests of boot/aml.c: bytes against the grammar of ACPI 6.5, chapter 20. */
#include <criterion/criterion.h>

#include "boot/aml.h"
#include "vmm/util.h"

static uint8_t room[2 * MIB];
static struct aml aml;

static void setup(void)
{
    aml = (struct aml){.buf = room, .size = sizeof(room)};
}

TestSuite(aml, .init = setup);

#define EXPECT(bytes)                                                   \
    do {                                                                \
        cr_expect(!aml.overflow);                                       \
        cr_assert_eq(aml.len, sizeof(bytes) - 1, "%zu bytes", aml.len); \
        cr_expect_arr_eq(room, bytes, sizeof(bytes) - 1);               \
    } while (0)

Test(aml, integers_have_their_shortest_form)
{
    static const uint64_t value[] = {0,      1,       2,          0xff,        0x100,
                                     0xffff, 0x10000, UINT32_MAX, 0x100000000, UINT64_MAX};
    for (unsigned i = 0; i < ARRAY_SIZE(value); i++)
        aml_integer(&aml, value[i]);
    EXPECT("\x00\x01\x0a\x02\x0a\xff\x0b\x00\x01\x0b\xff\xff\x0c\x00\x00\x01\x00"
           "\x0c\xff\xff\xff\xff\x0e\x00\x00\x00\x00\x01\x00\x00\x00"
           "\x0e\xff\xff\xff\xff\xff\xff\xff\xff");
}

Test(aml, paths)
{
    aml_path(&aml, "_CRS");
    aml_path(&aml, "\\_SB_");
    aml_path(&aml, "\\_SB_.PCI0");
    EXPECT("_CRS\\_SB_\\\x2e_SB_PCI0");
}

Test(aml, eisa_ids)
{
    aml_eisaid(&aml, "PNP0A08");
    aml_eisaid(&aml, "PNP0501");
    EXPECT("\x0c\x41\xd0\x0a\x08\x0c\x41\xd0\x05\x01");
}

Test(aml, string)
{
    aml_string(&aml, "ab");
    EXPECT("\x0d"
           "ab\0");
}

Test(aml, blocks_nest)
{
    size_t scope = aml_scope(&aml, "\\_SB_");
    size_t device = aml_device(&aml, "DEV0");
    size_t package = aml_package(&aml, 1);
    aml_integer(&aml, 1);
    aml_end(&aml, package);
    aml_end(&aml, device);
    aml_end(&aml, scope);
    EXPECT("\x10\x11\\_SB_\x5b\x82\x09"
           "DEV0\x12\x03\x01\x01");
}

/* Decodes a PkgLength as an interpreter does (20.2.4). */
static size_t package_length(const uint8_t *at, unsigned *bytes)
{
    *bytes = 1 + (at[0] >> 6);
    if (*bytes == 1)
        return at[0] & 0x3f;
    size_t len = at[0] & 0xf;
    for (unsigned i = 1; i < *bytes; i++)
        len |= (size_t)at[i] << (8 * i - 4);
    return len;
}

Test(aml, package_lengths)
{
    static const struct {
        size_t body; /* with the element count */
        unsigned bytes;
    } t[] = {{1, 1},    {62, 1},      {63, 2},      {4093, 2},
             {4094, 3}, {1048572, 3}, {1048573, 4}, {1500000, 4}};
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        unsigned bytes;
        setup();
        size_t mark = aml_package(&aml, 0x5a);
        for (size_t n = 1; n < t[i].body; n++)
            aml_data(&aml, 1, n);
        aml_end(&aml, mark);
        cr_expect_eq(package_length(room + 1, &bytes), aml.len - 1, "%zu", t[i].body);
        cr_expect_eq(bytes, t[i].bytes, "%zu", t[i].body);
        cr_expect_eq(aml.len, 1 + bytes + t[i].body);
        cr_expect_eq(room[1 + bytes], 0x5a, "the contents follow");
        cr_expect_eq(room[aml.len - 1], (uint8_t)(t[i].body > 1 ? t[i].body - 1 : 0x5a));
    }
}

Test(aml, resources)
{
    size_t crs = aml_crs(&aml);
    aml_io(&aml, 0x3f8, 8);
    aml_interrupt(&aml, 4, false);
    aml_interrupt(&aml, 20, true);
    aml_memory32_fixed(&aml, 0xf0000000, 0x1000);
    aml_end_crs(&aml, crs);
    EXPECT("\x08_CRS\x11\x2b\x0a\x28"
           "\x47\x01\xf8\x03\xf8\x03\x01\x08"
           "\x89\x06\x00\x03\x01\x04\x00\x00\x00"
           "\x89\x06\x00\x01\x01\x14\x00\x00\x00"
           "\x86\x09\x00\x01\x00\x00\x00\xf0\x00\x10\x00\x00"
           "\x79\x00");
}

Test(aml, resources_of_more_than_255_bytes)
{
    size_t crs = aml_crs(&aml);
    for (unsigned i = 0; i < 40; i++)
        aml_io(&aml, 0x3f8, 8);
    aml_end_crs(&aml, crs);
    cr_expect_arr_eq(room, "\x08_CRS\x11\x47\x14\x0b\x42\x01\x47", 11);
    cr_expect_eq(aml.len, 6 + 0x147);
}

Test(aml, windows)
{
    aml_window(&aml, AML_BUS_NUMBER, 2, 0, 0, 255);
    aml_window(&aml, AML_MEMORY, 4, 1, 0xc0000000, 0xdfffffff);
    aml_window(&aml, AML_MEMORY, 8, 3, 0x4000000000, 0x7fffffffff);
    EXPECT("\x88\x0d\x00\x02\x0c\x00\0\0\0\0\xff\0\0\0\0\x01"
           "\x87\x17\x00\x00\x0c\x01\0\0\0\0\0\0\0\xc0\xff\xff\xff\xdf\0\0\0\0\0\0\0\x20"
           "\x8a\x2b\x00\x00\x0c\x03\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0"
           "\xff\xff\xff\xff\x7f\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0");
}

/* With too little room, whatever the amount: nothing is written past it, and it is told. */
Test(aml, overflow)
{
    uint8_t buf[64];
    for (size_t size = 0; size < 32; size++) {
        memset(buf, 0xee, sizeof(buf));
        aml = (struct aml){.buf = buf, .size = size};
        size_t scope = aml_scope(&aml, "\\_SB_"), crs = aml_crs(&aml);
        aml_io(&aml, 1, 1);
        aml_end_crs(&aml, crs);
        aml_end(&aml, scope);
        cr_expect_eq(aml.overflow, size < 26, "%zu", size);
        cr_expect(aml.len <= size);
        for (size_t i = size; i < sizeof(buf); i++)
            cr_assert_eq(buf[i], 0xee);
    }
}
