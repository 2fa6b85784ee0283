/*
 * acpi_test.c: tests of boot/acpi.c: the tables are found and summed as a guest does it, their
 * fields compared with the devices' headers, and the DSDT given to iasl.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "boot/acpi.h"
#include "devices/acpi_pm.h"
#include "devices/pci.h"
#include "vmm/layout.h"
#include "vmm/util.h"

#define GPA LAYOUT_ACPI

static const struct acpi_device devices[] = {
    {.name = "COM1",
     .hid = "PNP0501",
     .nr = 2,
     .resource = {{ACPI_RES_IO, 0x3f8, 8}, {ACPI_RES_IRQ_EDGE, 4, 0}}},
    {.name = "RTC_",
     .hid = "PNP0B00",
     .nr = 2,
     .resource = {{ACPI_RES_IO, 0x70, 2}, {ACPI_RES_IRQ_EDGE, 8, 0}}},
    {.name = "GPU0",
     .compatible = "vendor,thing-2",
     .uid = 7,
     .nr = 2,
     .resource = {{ACPI_RES_MEM32, 0xf0000000, 0x10000}, {ACPI_RES_IRQ_LEVEL, 20, 0}}},
    {.name = "BARE", .hid = "ACPI0010", .uid = 1},
};

static struct acpi_config config;
static uint8_t blob[LAYOUT_ACPI_SIZE];
static size_t size;

static void setup(void)
{
    config = (struct acpi_config){
        .topology = {1, 2, 1},
        .mmio64_base = 64 * GIB,
        .mmio64_size = 128 * GIB,
        .device = devices,
        .devices = ARRAY_SIZE(devices),
    };
    size = sizeof(blob);
    memset(blob, 0xee, sizeof(blob)); /* what an earlier boot left */
}

TestSuite(acpi, .init = setup);

static unsigned sum(const uint8_t *at, size_t len)
{
    unsigned total = 0;
    while (len--)
        total += *at++;
    return total & 0xff;
}

/* The table at gpa AT, checked: inside what was written, right length and sum. */
static const uint8_t *table(uint64_t at, const char *signature)
{
    cr_assert(at >= GPA && range_within(at - GPA, 36, size));
    const uint8_t *t = blob + (at - GPA);
    uint32_t len = get_le32(t + 4);
    cr_assert_eq(memcmp(t, signature, 4), 0, "%s", signature);
    cr_assert(range_within(at - GPA, len, size), "%s", signature);
    cr_assert_eq(sum(t, len), 0, "checksum of %s", signature);
    cr_expect_eq(memcmp(t + 10, "MINVMMMINIVMM ", 14), 0);
    return t;
}

/* Entry I of the XSDT. */
static const uint8_t *root(unsigned i, const char *signature)
{
    const uint8_t *xsdt = table(get_le64(blob + 24), "XSDT");
    cr_assert_eq(get_le32(xsdt + 4), 36 + 3 * 8);
    return table(get_le64(xsdt + 36 + 8 * i), signature);
}

static const uint8_t *dsdt(void)
{
    return table(get_le64(root(0, "FACP") + 140), "DSDT");
}

static bool contains(const uint8_t *t, const void *bytes, size_t len)
{
    return memmem(t, get_le32(t + 4), bytes, len) != NULL;
}

#define CONTAINS(t, text) contains(t, text, sizeof(text) - 1)

static void build(void)
{
    cr_assert_eq(acpi_build(&config, GPA, blob, &size), 0);
}

Test(acpi, root_pointer)
{
    build();
    cr_expect_eq(memcmp(blob, "RSD PTR ", 8), 0);
    cr_expect_eq(sum(blob, 20), 0);
    cr_expect_eq(sum(blob, 36), 0);
    cr_expect_eq(blob[15], 2, "revision");
    const uint8_t *rsdt = table(get_le32(blob + 16), "RSDT"); /* for kernels of ACPI 1.0 */
    const uint8_t *xsdt = table(get_le64(blob + 24), "XSDT");
    cr_assert_eq(get_le32(rsdt + 4), 36 + 3 * 4);
    for (unsigned i = 0; i < 3; i++)
        cr_expect_eq(get_le32(rsdt + 36 + 4 * i), get_le64(xsdt + 36 + 8 * i));
    cr_expect_eq(get_le32(blob + 20), 36);
    root(0, "FACP");
    root(1, "APIC");
    root(2, "MCFG");
}

/* Generic address structure at T + OFFSET. */
static void check_gas(const uint8_t *t, unsigned offset, uint64_t port, unsigned bits,
                      unsigned access)
{
    cr_expect_eq(t[offset], 1, "system I/O at %u", offset);
    cr_expect_eq(t[offset + 1], bits, "width at %u", offset);
    cr_expect_eq(t[offset + 2], 0);
    cr_expect_eq(t[offset + 3], access, "access size at %u", offset);
    cr_expect_eq(get_le64(t + offset + 4), port, "address at %u", offset);
}

Test(acpi, fixed_hardware_is_where_the_devices_are)
{
    build();
    const uint8_t *t = root(0, "FACP");
    cr_expect_eq(get_le32(t + 4), 276);
    cr_expect_eq(t[8], 6);
    cr_expect_eq(t[131], 5);
    cr_expect_eq(get_le16(t + 46), LAYOUT_GSI_SCI);
    cr_expect_eq(get_le32(t + 48), 0, "no SMI command");
    cr_expect_eq(get_le32(t + 56), LAYOUT_PORT_ACPI + ACPI_PM1_EVT);
    cr_expect_eq(get_le32(t + 64), LAYOUT_PORT_ACPI + ACPI_PM1_CNT);
    cr_expect_eq(get_le32(t + 76), LAYOUT_PORT_ACPI + ACPI_PM_TMR);
    cr_expect_eq(t[88], 4);
    cr_expect_eq(t[89], 2);
    cr_expect_eq(t[91], 4);
    check_gas(t, 148, LAYOUT_PORT_ACPI + ACPI_PM1_EVT, 32, 2);
    check_gas(t, 172, LAYOUT_PORT_ACPI + ACPI_PM1_CNT, 16, 2);
    check_gas(t, 208, LAYOUT_PORT_ACPI + ACPI_PM_TMR, 32, 3);
    check_gas(t, 116, 0xcf9, 8, 1);
    cr_expect_eq(t[128], 6, "reset value");
    cr_expect_eq(get_le16(t + 109), 1 | 4, "no 8042, no VGA; legacy devices, CMOS clock");
    uint32_t flags = get_le32(t + 112);
    cr_expect_eq(flags & (1 << 8 | 1 << 10), 1 << 8 | 1 << 10, "32-bit timer, reset register");
    cr_expect_eq(flags & (1 << 4), 0, "power button is fixed hardware");
    cr_expect_eq(flags & (1 << 20), 0, "not hardware-reduced");
}

Test(acpi, facs)
{
    build();
    const uint8_t *t = root(0, "FACP");
    uint64_t at = get_le32(t + 36) - GPA;
    cr_expect_eq(get_le64(t + 132), 0, "one of the two addresses only");
    cr_expect_eq(at % 64, 0);
    cr_assert(range_within(at, 64, size));
    cr_expect_eq(memcmp(blob + at, "FACS", 4), 0);
    cr_expect_eq(get_le32(blob + at + 4), 64);
    cr_expect_eq(get_le32(t + 40), get_le64(t + 140), "DSDT and X_DSDT agree");
}

/* Copies the entries of TYPE to OUT, LEN bytes each; returns how many. */
static unsigned madt(uint8_t type, uint8_t len, uint8_t *out)
{
    const uint8_t *t = root(1, "APIC");
    uint32_t end = get_le32(t + 4);
    unsigned nr = 0;
    for (uint32_t at = 44; at < end; at += t[at + 1]) {
        cr_assert(t[at + 1] >= 2 && t[at + 1] <= end - at);
        if (t[at] != type)
            continue;
        cr_assert_eq(t[at + 1], len);
        memcpy(out + len * nr++, t + at, len);
    }
    return nr;
}

Test(acpi, interrupt_controllers)
{
    uint8_t out[256];
    build();
    const uint8_t *t = root(1, "APIC");
    cr_expect_eq(get_le32(t + 36), LAYOUT_LAPIC);
    cr_expect_eq(get_le32(t + 40), 1);
    cr_assert_eq(madt(0, 8, out), 2);
    cr_expect_arr_eq(out, "\0\x08\0\0\x01\0\0\0\0\x08\x01\x01\x01\0\0\0", 16);
    cr_assert_eq(madt(1, 12, out), 1);
    cr_expect_arr_eq(out, "\x01\x0c\0\0\0\0\xc0\xfe\0\0\0\0", 12);
    cr_assert_eq(madt(2, 10, out), 2);
    cr_expect_arr_eq(out, "\x02\x0a\0\0\x02\0\0\0\0\0\x02\x0a\0\x09\x09\0\0\0\x0d\0", 20);
    cr_assert_eq(madt(4, 6, out), 1);
    cr_expect_arr_eq(out, "\x04\x06\xff\0\0\x01", 6);
    cr_expect_eq(madt(9, 16, out) + madt(10, 12, out), 0);
}

Test(acpi, more_processors_than_an_xapic_can_name)
{
    static uint8_t out[8192];
    config.topology.cores = 257;
    build();
    cr_assert_eq(madt(0, 8, out), 255);
    cr_expect_eq(out[8 * 254 + 3], 254);
    cr_assert_eq(madt(9, 16, out), 2);
    cr_expect_arr_eq(out + 16, "\x09\x10\0\0\0\x01\0\0\x01\0\0\0\0\x01\0\0", 16);
    cr_assert_eq(madt(10, 12, out), 1);
    cr_expect_arr_eq(out, "\x0a\x0c\0\0\xff\xff\xff\xff\x01\0\0\0", 12);
    cr_expect(contains(dsdt(), "C100\x08_HID", 9), "processor 256");
}

/* Two sockets of three cores: ids 0-2 and 4-6, for processors 0 to 5. */
Test(acpi, ids_that_skip)
{
    uint8_t out[8 * 6];
    config.topology = (struct topology){2, 3, 1};
    build();
    cr_assert_eq(madt(0, 8, out), 6);
    for (uint8_t i = 0; i < 6; i++) {
        cr_expect_eq(out[8 * i + 2], i);
        cr_expect_eq(out[8 * i + 3], i < 3 ? i : i + 1);
    }
    cr_expect(contains(dsdt(), "C005\x08_HID", 9) && !contains(dsdt(), "C006\x08_HID", 9));

    /* The last one's id is what decides on the x2APIC's entries: 252 processors, id 335. */
    static uint8_t all[8192];
    config.topology = (struct topology){42, 3, 2};
    size = sizeof(blob);
    build();
    cr_assert_eq(madt(9, 16, all), 60);
    cr_expect_arr_eq(all + 16 * 59, "\x09\x10\0\0\x4d\x01\0\0\x01\0\0\0\xfb\0\0\0", 16);
    cr_assert_eq(madt(10, 12, all), 1);
}

Test(acpi, ecam)
{
    build();
    const uint8_t *t = root(2, "MCFG");
    cr_expect_eq(get_le32(t + 4), 60);
    cr_expect_eq(get_le64(t + 44), LAYOUT_ECAM);
    cr_expect_eq(get_le16(t + 52), 0);
    cr_expect_eq(t[54], 0);
    cr_expect_eq(t[55], 255);
    uint8_t fixed[12] = {0x86, 9, 0, 1};
    put_le32(fixed + 4, LAYOUT_ECAM);
    put_le32(fixed + 8, LAYOUT_ECAM_SIZE);
    cr_expect(contains(dsdt(), fixed, sizeof(fixed)), "reserved by PNP0C02");
}

/* Every row of _PRT as bytes, from the wiring that the PCI bus implements. */
Test(acpi, interrupt_routing_is_the_bus_s)
{
    build();
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        for (unsigned pin = 0; pin < 4; pin++) {
            uint8_t row[16] = {0x12, 0, 4};
            unsigned n = 3;
            if (slot) { /* DWordConst, else WordConst */
                row[n++] = 0x0c;
                put_le32(row + n, slot << 16 | 0xffff);
                n += 4;
            } else {
                memcpy(row + n, "\x0b\xff\xff", 3);
                n += 3;
            }
            if (pin > 1)
                row[n++] = 0x0a;
            row[n++] = (uint8_t)pin;
            row[n++] = 0; /* no link device */
            row[n++] = 0x0a;
            row[n++] = (uint8_t)pci_intx_gsi(PCI_DEVFN(slot, 0), (uint8_t)(pin + 1));
            row[1] = (uint8_t)(n - 1);
            cr_expect(contains(dsdt(), row, n), "slot %u pin %u", slot, pin);
        }
    }
}

Test(acpi, sleep_state)
{
    uint8_t s5[] = {8, '\\', '_', 'S', '5', '_', 0x12, 7, 4, 0x0a, ACPI_S5_SLP_TYP, 0, 0, 0};
    build();
    cr_expect(contains(dsdt(), s5, sizeof(s5)));
}

static bool has_window64(void)
{
    uint8_t window[46] = {0x8a, 43, 0, 0, 0x0c, 3};
    put_le64(window + 14, 64 * GIB);
    put_le64(window + 22, 192 * GIB - 1);
    put_le64(window + 38, 128 * GIB);
    return contains(dsdt(), window, sizeof(window));
}

Test(acpi, windows)
{
    build();
    cr_expect(has_window64());
    cr_expect(contains(dsdt(), "\x87\x17\0\0\x0c\x01\0\0\0\0\0\0\0\xc0\xff\xff\xff\xdf", 18));
    cr_expect(contains(dsdt(), "\x88\x0d\0\x01\x0c\x03\0\0\0\0\xf7\x0c\0\0\xf8\x0c", 16));
    cr_expect(contains(dsdt(), "\x88\x0d\0\x01\x0c\x03\0\0\0\x0d\xff\xff\0\0\0\xf3", 16));
    config.mmio64_size = 0;
    size = sizeof(blob);
    build();
    cr_expect(!contains(dsdt(), "\x8a\x2b\0", 3), "no 64-bit window");
}

Test(acpi, platform_devices)
{
    build();
    const uint8_t *t = dsdt();
    cr_expect(CONTAINS(t, "COM1\x08_HID\x0c\x41\xd0\x05\x01\x08_UID\0\x08_CRS"));
    cr_expect(CONTAINS(t, "GPU0\x08_HID\x0dPRP0001\0\x08_UID\x0a\x07"));
    cr_expect(CONTAINS(t,
                       "\x08_CRS\x11\x1a\x0a\x17" /* ReadWrite; Level, ActiveHigh, Exclusive */
                       "\x86\x09\0\x01\0\0\0\xf0\0\0\x01\0"
                       "\x89\x06\0\x01\x01\x14\0\0\0\x79\0"));
    cr_expect(CONTAINS(t, "\x08_DSD\x12\x38\x02\x11\x13\x0a\x10"
                          "\x14\xd8\xff\xda\xba\x6e\x8c\x4d\x8a\x91\xbc\x9b\xbf\x4a\xa3\x01"
                          "\x12\x21\x01\x12\x1e\x02\x0d"
                          "compatible\0\x0dvendor,thing-2\0"));
    cr_expect(CONTAINS(t, "BARE\x08_HID\x0d"
                          "ACPI0010\0\x08_UID\x01\x08_CRS\x11\x05\x0a\x02\x79"));
}

Test(acpi, room)
{
    size_t need, given;
    build();
    need = size;
    for (given = 0; given <= need; given++) {
        memset(blob, 0xee, sizeof(blob));
        size = given;
        int err = acpi_build(&config, GPA, blob, &size);
        cr_assert_eq(err, given < need ? -ENOSPC : 0, "%zu of %zu", given, need);
        cr_assert_eq(blob[given], 0xee, "wrote past %zu bytes", given);
    }
    config.topology.cores = 100000;
    size = sizeof(blob);
    cr_expect_eq(acpi_build(&config, GPA, blob, &size), -ENOSPC);
}

/* The largest machine that KVM allows fits into its place. */
Test(acpi, a_thousand_processors)
{
    config.topology.cores = 1024;
    build();
}

Test(acpi, descriptions_that_cannot_be)
{
    cr_expect_eq(acpi_build(&config, LAYOUT_HIGH_RAM, blob, &size), -EINVAL);
}

/* ---- iasl ---- */

/* Output of COMMAND in a shell, the first bytes of it. */
static void run(const char *command, char *out, size_t room)
{
    FILE *p = popen(command, "r"); /* a fixed command, on files of this test's own */
    cr_assert_not_null(p);
    size_t len = fread(out, 1, room - 1, p);
    out[len] = '\0';
    pclose(p);
}

static void write_table(const char *name, const uint8_t *t)
{
    FILE *f = fopen(name, "we");
    cr_assert_not_null(f);
    cr_assert_eq(fwrite(t, 1, get_le32(t + 4), f), get_le32(t + 4));
    fclose(f);
}

Test(acpi, iasl_has_nothing_to_say)
{
    static char out[65536];
    char dir[] = "/tmp/minivmm-acpi-XXXXXX";
    if (system("command -v iasl >/dev/null 2>&1"))
        cr_skip_test("iasl is missing (apt-get install acpica-tools)");
    build();
    cr_assert_not_null(mkdtemp(dir));
    cr_assert_eq(chdir(dir), 0);
    write_table("dsdt.dat", dsdt());
    write_table("facp.dat", root(0, "FACP"));
    write_table("apic.dat", root(1, "APIC"));
    write_table("mcfg.dat", root(2, "MCFG"));
    run("for t in *.dat; do iasl -d $t; done 2>&1", out, sizeof(out));
    cr_expect(!strcasestr(out, "error") && !strcasestr(out, "warning"), "%s", out);
    run("grep -A 30 _OSC dsdt.dsl | tr -d ' \\n'", out,
        sizeof(out)); /* _OSC is written as bytes */
    cr_expect_not_null(strstr(
        out, "CreateDWordField(Arg3,Zero,CDW1)If((Arg0==ToUUID(\"33db4d5b-1ff7-401c-9657-"
             "7441c03dd766\")/*PCIHostBridgeDevice*/)){CreateDWordField(Arg3,0x08,CDW3)"
             "Local0=(CDW3&0x1C)If((CDW3!=Local0)){CDW1|=0x10}CDW3=Local0}Else{CDW1|=0x04}"
             "Return(Arg3)"));
    run("iasl -oa dsdt.dsl 2>&1", out, sizeof(out));
    cr_expect_not_null(strstr(out, "0 Errors, 0 Warnings, 0 Remarks"), "%s", out);
    run("cat dsdt.aml", out, sizeof(out)); /* iasl encodes all after the header as we do */
    cr_expect_eq(get_le32(out + 4), get_le32(dsdt() + 4));
    cr_expect_eq(memcmp(out + 36, dsdt() + 36, get_le32(dsdt() + 4) - 36), 0);
    cr_assert_eq(chdir("/"), 0);
    snprintf(out, sizeof(out), "rm -r %s", dir);
    cr_expect_eq(system(out), 0);
}
