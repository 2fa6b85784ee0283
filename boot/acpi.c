/*
 * acpi.c: the ACPI tables of a small PC: what the guest cannot find out by probing.
 *
 *   RSDP -> XSDT -> FADT -> DSDT (PCI host bridge, ISA and platform devices, processors)
 *                |       -> FACS
 *                -> MADT (local APICs, IOAPIC, ISA overrides)
 *                -> MCFG (ECAM)
 *        RSDT, the same with 32-bit addresses: small kernels and GRUB read no other
 *
 * ACPI 6.5, 5.2 "ACPI System Description Tables", 4.8 "ACPI Register Model", chapter 6 for the
 * objects; PCI Firmware Specification 3.3, 4.1.2 (MCFG) and 4.5.1 (_OSC). Left out:
 * general-purpose events, sleep states other than S5, NUMA.
 *
 * Pure function of its description; any thread.
 */
#include <errno.h>
#include <stdio.h>

#include "boot/acpi.h"
#include "boot/aml.h"
#include "vmm/layout.h"
#include "vmm/util.h"

/* Facts of the devices, which boot/ does not include; acpi_test.c compares them with
 * devices/acpi_pm.h and pci_intx_gsi(). */
#define PM1_EVT     (LAYOUT_PORT_ACPI + 0x00)
#define PM1_CNT     (LAYOUT_PORT_ACPI + 0x04)
#define PM_TMR      (LAYOUT_PORT_ACPI + 0x08)
#define PM_SIZE     0x0c
#define S5_SLP_TYP  5
#define RESET_PORT  0xcf9
#define RESET_VALUE 0x06 /* full reset */
#define CENTURY     0x32 /* index in CMOS RAM */
#define PCI_SLOTS   32

_Static_assert(LAYOUT_PORT_BARS >= LAYOUT_PORT_PCI + 8, "pci_crs()");
_Static_assert(LAYOUT_PORT_BARS + LAYOUT_PORT_BARS_SIZE <= 0x10000, "pci_crs()");

struct header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

_Static_assert(sizeof(struct header) == 36, "table 5.4");

static const struct header header_template = {
    .oem_id = {'M', 'I', 'N', 'V', 'M', 'M'},
    .oem_table_id = {'M', 'I', 'N', 'I', 'V', 'M', 'M', ' '},
    .oem_revision = 1,
    .creator_id = {'M', 'V', 'M', 'M'},
    .creator_revision = 1,
};

/* ---- tables as such ---- */

static uint8_t checksum(const uint8_t *bytes, size_t len)
{
    uint8_t sum = 0;
    while (len--)
        sum = (uint8_t)(sum - *bytes++);
    return sum;
}

static void align(struct aml *out, size_t to)
{
    while (out->len % to && !out->overflow)
        aml_data(out, 1, 0);
}

/* Where the table begins: what table_end() and pointers to it need. */
static size_t table_begin(struct aml *out, const char *signature, uint8_t revision)
{
    struct header header = header_template;
    memcpy(header.signature, signature, sizeof(header.signature));
    header.revision = revision;
    align(out, 16);
    size_t at = out->len;
    aml_bytes(out, &header, sizeof(header));
    return at;
}

static void table_end(struct aml *out, size_t at)
{
    struct header *header = (struct header *)(out->buf + at);
    if (out->overflow)
        return;
    header->length = (uint32_t)(out->len - at);
    header->checksum = checksum(out->buf + at, header->length);
}

/* ---- DSDT ---- */

static void name_integer(struct aml *out, const char *path, uint64_t value)
{
    aml_name(out, path);
    aml_integer(out, value);
}

/* An EISA id where it has that form; others, and PRP0001, are strings. */
static void name_hid(struct aml *out, const char *path, const char *id)
{
    aml_name(out, path);
    if (strlen(id) == 7 && strcmp(id, "PRP0001"))
        aml_eisaid(out, id);
    else
        aml_string(out, id);
}

/* _OSC: hands the guest what a bus without root ports has: power management events (bit 2),
 * error reporting (3) and the capability structures of its endpoints (4). Hot-plug stays
 * ungranted: no slots. Beside each line of AML its ASL, for iasl. */
/* clang-format off */
static const char pci_osc[] =
    "\x14\x40\x06_OSC\x0c"                  /* Method (_OSC, 4, Serialized) {           */
    "\x8a\x6b\x00" "CDW1"                   /*   CreateDWordField (Arg3, 0, CDW1)       */
    "\xa0\x42\x04\x93\x68\x11\x13\x0a\x10"  /*   If (Arg0 == ToUUID (                   */
    "\x5b\x4d\xdb\x33\xf7\x1f\x1c\x40"      /*       "33db4d5b-1ff7-401c-               */
    "\x96\x57\x74\x41\xc0\x3d\xd7\x66"      /*       9657-7441c03dd766")) {             */
    "\x8a\x6b\x0a\x08" "CDW3"               /*     CreateDWordField (Arg3, 8, CDW3)     */
    "\x7b" "CDW3\x0a\x1c\x60"               /*     Local0 = CDW3 & 0x1c                 */
    "\xa0\x13\x92\x93" "CDW3\x60"           /*     If (CDW3 != Local0) {                */
    "\x7d" "CDW1\x0a\x10" "CDW1"            /*       CDW1 |= 0x10 } // masked           */
    "\x70\x60" "CDW3"                       /*     CDW3 = Local0 }                      */
    "\xa1\x0c\x7d" "CDW1\x0a\x04" "CDW1"    /*   Else { CDW1 |= 4 } // unknown UUID     */
    "\xa4\x6b";                             /*   Return (Arg3) }                        */
/* clang-format on */

/* What the bridge forwards: all ports but its own, and the windows for BARs. The 64-bit window
 * is not called prefetchable: Linux refuses a BAR that is not prefetchable in one that is, and
 * puts prefetchable BARs in either. */
static void pci_crs(struct aml *out, const struct acpi_config *config)
{
    enum { ENTIRE_RANGE = 3, READ_WRITE = 1, CACHEABLE = 1 << 1 };
    size_t crs = aml_crs(out);
    aml_window(out, AML_BUS_NUMBER, 2, 0, 0, 255);
    aml_io(out, LAYOUT_PORT_PCI, 8);
    aml_window(out, AML_IO, 2, ENTIRE_RANGE, 0, LAYOUT_PORT_PCI - 1);
    aml_window(out, AML_IO, 2, ENTIRE_RANGE, LAYOUT_PORT_PCI + 8, 0xffff);
    aml_window(out, AML_MEMORY, 4, READ_WRITE, LAYOUT_MMIO32,
               LAYOUT_MMIO32 + LAYOUT_MMIO32_SIZE - 1);
    if (config->mmio64_size)
        aml_window(out, AML_MEMORY, 8, READ_WRITE | CACHEABLE, config->mmio64_base,
                   config->mmio64_base + config->mmio64_size - 1);
    aml_end_crs(out, crs);
}

/* Pin P (1 to 4) of SLOT is wired to input LAYOUT_GSI_PCI + (SLOT + P - 1) % COUNT. */
static void pci_prt(struct aml *out)
{
    aml_name(out, "_PRT");
    size_t table = aml_package(out, PCI_SLOTS * 4);
    for (unsigned i = 0; i < PCI_SLOTS * 4; i++) {
        unsigned slot = i / 4, pin = i % 4; /* _PRT counts pins from 0 */
        size_t entry = aml_package(out, 4);
        aml_integer(out, slot << 16 | 0xffff); /* all functions */
        aml_integer(out, pin);
        aml_integer(out, 0); /* no link device: the input is fixed */
        aml_integer(out, LAYOUT_GSI_PCI + (slot + pin) % LAYOUT_GSI_PCI_COUNT);
        aml_end(out, entry);
    }
    aml_end(out, table);
}

static void pci_bridge(struct aml *out, const struct acpi_config *config)
{
    size_t device = aml_device(out, "PCI0");
    name_hid(out, "_HID", "PNP0A08");
    name_hid(out, "_CID", "PNP0A03");
    name_integer(out, "_UID", 0);
    name_integer(out, "_SEG", 0);
    name_integer(out, "_BBN", 0);
    pci_crs(out, config);
    pci_prt(out);
    aml_bytes(out, pci_osc, sizeof(pci_osc) - 1);
    aml_end(out, device);
}

/* What no other device may be given. Linux trusts MCFG only when ECAM is listed here. */
static void motherboard(struct aml *out)
{
    size_t device = aml_device(out, "MRES");
    name_hid(out, "_HID", "PNP0C02");
    name_integer(out, "_UID", 0);
    size_t crs = aml_crs(out);
    aml_memory32_fixed(out, LAYOUT_ECAM, LAYOUT_ECAM_SIZE);
    aml_io(out, LAYOUT_PORT_ACPI, PM_SIZE);
    aml_end_crs(out, crs);
    aml_end(out, device);
}

static void resource(struct aml *out, const struct acpi_resource *res)
{
    switch (res->type) {
    case ACPI_RES_IO:
        aml_io(out, (uint16_t)res->base, (uint8_t)res->size);
        break;
    case ACPI_RES_MEM32:
        aml_memory32_fixed(out, res->base, res->size);
        break;
    case ACPI_RES_IRQ_EDGE:
    case ACPI_RES_IRQ_LEVEL:
        aml_interrupt(out, res->base, res->type == ACPI_RES_IRQ_LEVEL);
        break;
    }
}

/* _DSD, "Device Properties UUID For _DSD": how Linux matches PRP0001 by a compatible string. */
static void compatible(struct aml *out, const char *text)
{
    static const char uuid[] = "\x11\x13\x0a\x10" /* daffd814-6eba-4d8c-8a91-bc9bbf4aa301 */
                               "\x14\xd8\xff\xda\xba\x6e\x8c\x4d"
                               "\x8a\x91\xbc\x9b\xbf\x4a\xa3\x01";
    aml_name(out, "_DSD");
    size_t dsd = aml_package(out, 2);
    aml_bytes(out, uuid, sizeof(uuid) - 1);
    size_t properties = aml_package(out, 1);
    size_t property = aml_package(out, 2);
    aml_string(out, "compatible");
    aml_string(out, text);
    aml_end(out, property);
    aml_end(out, properties);
    aml_end(out, dsd);
}

static void platform_device(struct aml *out, const struct acpi_device *dev)
{
    size_t device = aml_device(out, dev->name);
    name_hid(out, "_HID", dev->compatible ? "PRP0001" : dev->hid);
    name_integer(out, "_UID", dev->uid);
    size_t crs = aml_crs(out);
    for (unsigned i = 0; i < dev->nr && i < ACPI_RESOURCES_MAX; i++)
        resource(out, &dev->resource[i]);
    aml_end_crs(out, crs);
    if (dev->compatible)
        compatible(out, dev->compatible);
    aml_end(out, device);
}

static void processors(struct aml *out, unsigned cpus)
{
    for (unsigned i = 0; i < cpus && !out->overflow; i++) {
        char name[8];
        snprintf(name, sizeof(name), "C%03X", i & 0xfff);
        size_t device = aml_device(out, name);
        name_hid(out, "_HID", "ACPI0007");
        name_integer(out, "_UID", i);
        aml_end(out, device);
    }
}

static size_t dsdt(struct aml *out, const struct acpi_config *config)
{
    size_t table = table_begin(out, "DSDT", 2);
    aml_name(out, "\\_S5_");
    size_t s5 = aml_package(out, 4);
    aml_integer(out, S5_SLP_TYP); /* PM1a_CNT.SLP_TYP; there is no PM1b */
    for (unsigned i = 1; i < 4; i++)
        aml_integer(out, 0);
    aml_end(out, s5);

    size_t scope = aml_scope(out, "\\_SB_");
    pci_bridge(out, config);
    motherboard(out);
    for (unsigned i = 0; i < config->devices; i++)
        platform_device(out, &config->device[i]);
    processors(out, topology_cpus(&config->topology));
    aml_end(out, scope);
    table_end(out, table);
    return table;
}

/* ---- the other tables ---- */

#define FADT_SIZE 276

/* Flags (table 5.10) and IA-PC boot architecture flags (table 5.11). */
#define FADT_WBINVD               (1 << 0)
#define FADT_PROC_C1              (1 << 2)
#define FADT_SLP_BUTTON           (1 << 5) /* set: no fixed-feature sleep button */
#define FADT_FIX_RTC              (1 << 6) /* set: no RTC wake status in PM1 */
#define FADT_TMR_VAL_EXT          (1 << 8) /* the timer has 32 bits */
#define FADT_RESET_REG_SUP        (1 << 10)
#define BOOT_ARCH_LEGACY_DEVICES  (1 << 0)
#define BOOT_ARCH_VGA_NOT_PRESENT (1 << 2) /* and 8042 (bit 1) clear: there is none */

/* Generic Address Structure (5.2.3.2), its first four bytes: a port of BITS, accessed by bytes
 * (1), words (2) or dwords (3). The address follows. */
#define GAS_PORT(bits, access) (1 | (bits) << 8 | (access) << 24)

/* Table 5.9: byte offset, length and value of each field that is not 0. SMI_CMD is: ACPI mode
 * is always on. FACS has one address: X_FIRMWARE_CTRL must then be 0. */
static size_t fadt(struct aml *out, uint64_t facs_gpa, uint64_t dsdt_gpa)
{
    const struct {
        unsigned offset, length;
        uint64_t value;
    } field[] = {
        {36, 4, facs_gpa},       /* FIRMWARE_CTRL */
        {40, 4, dsdt_gpa},       /* DSDT */
        {46, 2, LAYOUT_GSI_SCI}, /* SCI_INT */
        {56, 4, PM1_EVT},        /* PM1a_EVT_BLK */
        {64, 4, PM1_CNT},        /* PM1a_CNT_BLK */
        {76, 4, PM_TMR},         /* PM_TMR_BLK */
        {88, 1, 4},              /* PM1_EVT_LEN */
        {89, 1, 2},              /* PM1_CNT_LEN */
        {91, 1, 4},              /* PM_TMR_LEN */
        {96, 2, 101},            /* P_LVL2_LAT, above 100: no C2 */
        {98, 2, 1001},           /* P_LVL3_LAT, above 1000: no C3 */
        {108, 1, CENTURY},
        {109, 2, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_VGA_NOT_PRESENT},
        {112, 4,
         FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC | FADT_TMR_VAL_EXT |
             FADT_RESET_REG_SUP},
        {116, 4, GAS_PORT(8, 1)}, /* RESET_REG */
        {120, 8, RESET_PORT},
        {128, 1, RESET_VALUE},
        {131, 1, 5},               /* minor version */
        {140, 8, dsdt_gpa},        /* X_DSDT */
        {148, 4, GAS_PORT(32, 2)}, /* X_PM1a_EVT_BLK: status and enable are words */
        {152, 8, PM1_EVT},
        {172, 4, GAS_PORT(16, 2)}, /* X_PM1a_CNT_BLK */
        {176, 8, PM1_CNT},
        {208, 4, GAS_PORT(32, 3)}, /* X_PM_TMR_BLK */
        {212, 8, PM_TMR},
    };
    uint8_t bytes[FADT_SIZE] = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(field); i++)
        put_le(&bytes[field[i].offset], field[i].length, field[i].value);
    size_t table = table_begin(out, "FACP", 6);
    aml_bytes(out, bytes + sizeof(struct header), sizeof(bytes) - sizeof(struct header));
    table_end(out, table);
    return table;
}

/* Entry types of the MADT (table 5.21). */
enum { LOCAL_APIC, IO_APIC, OVERRIDE, LOCAL_NMI = 4, LOCAL_X2APIC = 9, LOCAL_X2APIC_NMI };

static void madt_cpu(struct aml *out, unsigned uid, uint32_t id)
{
    bool x2apic = id >= 0xff; /* 0xff is the broadcast id of an xAPIC */
    aml_data(out, 1, x2apic ? LOCAL_X2APIC : LOCAL_APIC);
    aml_data(out, 1, x2apic ? 16 : 8);
    aml_data(out, x2apic ? 2 : 1, x2apic ? 0 : uid); /* reserved, or the processor's _UID */
    aml_data(out, x2apic ? 4 : 1, id);               /* APIC id */
    aml_data(out, 4, 1);                             /* enabled */
    if (x2apic)
        aml_data(out, 4, uid);
}

/* An ISA interrupt that is not the input of the same number, edge-triggered and active high. */
static void madt_override(struct aml *out, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    const uint8_t head[] = {OVERRIDE, 10, 0 /* bus: ISA */, irq};
    aml_bytes(out, head, sizeof(head));
    aml_data(out, 4, gsi);
    aml_data(out, 2, flags);
}

static size_t madt(struct aml *out, const struct topology *t)
{
    enum { CONFORMS = 0, LEVEL_ACTIVE_HIGH = 0xd };
    static const uint8_t ioapic[] = {IO_APIC, 12, 0 /* id */, 0};
    /* type, length, all processors and flags (in the other order for x2APIC), LINT1 */
    static const uint8_t lint1_nmi[] = {LOCAL_NMI, 6, 0xff, 0, 0, 1};
    static const uint8_t x2apic_lint1_nmi[] = {
        LOCAL_X2APIC_NMI, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0};
    unsigned cpus = topology_cpus(t);
    size_t table = table_begin(out, "APIC", 5);
    aml_data(out, 4, LAYOUT_LAPIC);
    aml_data(out, 4, 1); /* PCAT_COMPAT: there is a pair of 8259s, too */
    for (unsigned i = 0; i < cpus && !out->overflow; i++)
        madt_cpu(out, i, topology_apic_id(t, i));
    aml_bytes(out, ioapic, sizeof(ioapic));
    aml_data(out, 4, LAYOUT_IOAPIC);
    aml_data(out, 4, 0); /* first gsi */
    madt_override(out, LAYOUT_GSI_PIT, 2, CONFORMS);
    madt_override(out, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, LEVEL_ACTIVE_HIGH);
    aml_bytes(out, lint1_nmi, sizeof(lint1_nmi));
    if (topology_apic_id(t, cpus - 1) >= 0xff)
        aml_bytes(out, x2apic_lint1_nmi, sizeof(x2apic_lint1_nmi));
    table_end(out, table);
    return table;
}

static size_t mcfg(struct aml *out)
{
    size_t table = table_begin(out, "MCFG", 1);
    aml_data(out, 8, 0); /* reserved */
    aml_data(out, 8, LAYOUT_ECAM);
    aml_data(out, 8, 255U << 24); /* segment 0, buses 0 to 255 */
    table_end(out, table);
    return table;
}

#define RSDP_SIZE 36

/* Table 5.3. The first checksum is that of ACPI 1.0's 20 bytes, the other one of all. */
static void rsdp(uint8_t *at, uint64_t rsdt, uint64_t xsdt)
{
    static const char signature[8] = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
    memset(at, 0, RSDP_SIZE);
    memcpy(at, signature, sizeof(signature));
    memcpy(at + 9, header_template.oem_id, sizeof(header_template.oem_id));
    at[15] = 2; /* revision */
    put_le32(at + 16, (uint32_t)rsdt);
    put_le32(at + 20, RSDP_SIZE);
    put_le64(at + 24, xsdt);
    at[8] = checksum(at, 20);
    at[32] = checksum(at, RSDP_SIZE);
}

int acpi_build(const struct acpi_config *config, uint64_t gpa, uint8_t *buf, size_t *size)
{
    static const uint8_t facs[64] = {'F', 'A', 'C', 'S', sizeof(facs), [32] = 2 /* version */};
    static const uint8_t room[64]; /* for the RSDP, up to the alignment of the FACS */
    struct aml out = {.buf = buf, .size = *size};
    if (!range_within(gpa, *size, UINT32_MAX))
        return -EINVAL; /* addresses in the FADT */
    aml_bytes(&out, room, sizeof(room));
    aml_bytes(&out, facs, sizeof(facs));
    uint64_t dsdt_gpa = gpa + dsdt(&out, config);
    uint64_t entry[3];
    entry[0] = gpa + fadt(&out, gpa + sizeof(room), dsdt_gpa);
    entry[1] = gpa + madt(&out, &config->topology);
    entry[2] = gpa + mcfg(&out);
    size_t xsdt = table_begin(&out, "XSDT", 1);
    aml_bytes(&out, entry, sizeof(entry));
    table_end(&out, xsdt);
    size_t rsdt = table_begin(&out, "RSDT", 1);
    for (unsigned i = 0; i < ARRAY_SIZE(entry); i++)
        aml_data(&out, 4, entry[i]);
    table_end(&out, rsdt);
    if (out.overflow)
        return -ENOSPC;
    rsdp(buf, gpa + rsdt, gpa + xsdt);
    *size = out.len;
    return 0;
}
