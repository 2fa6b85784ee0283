/*
 * acpi.c: the ACPI tables of a small PC: what the guest cannot find out by probing.
 *
 *   RSDP -> XSDT -> FADT -> DSDT (PCI host bridge, ISA and platform devices, processors)
 *                |       -> FACS
 *                -> MADT (local APICs, IOAPIC, ISA overrides)
 *                -> MCFG (ECAM)
 *
 * ACPI 6.5, 5.2 "ACPI System Description Tables", 4.8 "ACPI Register Model", chapter 6 for the
 * objects; PCI Firmware Specification 3.3, 4.1.2 (MCFG) and 4.5.1 (_OSC). Left out: RSDT (every
 * table pointer is 64-bit), general-purpose events, sleep states other than S5, NUMA.
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

struct header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum; /* of all */
    uint8_t reserved[3];
} __attribute__((packed));

struct facs {
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved[31];
} __attribute__((packed));

/* Generic Address Structure (5.2.3.2). Access size: 1 byte, 2 word, 3 dword. */
struct gas {
    uint8_t space, bit_width, bit_offset, access_size;
    uint64_t address;
} __attribute__((packed));
#define SYSTEM_IO 1

struct fadt {
    struct header header;
    uint32_t firmware_ctrl, dsdt;
    uint8_t reserved0, preferred_pm_profile;
    uint16_t sci_int;
    uint32_t smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
    uint32_t pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
    uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
    uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t x_firmware_ctrl, x_dsdt;
    struct gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk;
    struct gas x_pm2_cnt_blk, x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
    struct gas sleep_control_reg, sleep_status_reg;
    uint64_t hypervisor_vendor;
} __attribute__((packed));

/* Flags (table 5.10) and IA-PC boot architecture flags (table 5.11). */
#define FADT_WBINVD               (1 << 0)
#define FADT_PROC_C1              (1 << 2)
#define FADT_SLP_BUTTON           (1 << 5) /* set: no fixed-feature sleep button */
#define FADT_FIX_RTC              (1 << 6) /* set: no RTC wake status in PM1 */
#define FADT_TMR_VAL_EXT          (1 << 8) /* the timer has 32 bits */
#define FADT_RESET_REG_SUP        (1 << 10)
#define BOOT_ARCH_LEGACY_DEVICES  (1 << 0)
#define BOOT_ARCH_VGA_NOT_PRESENT (1 << 2) /* and 8042 (bit 1) clear: there is none */

_Static_assert(sizeof(struct header) == 36, "table 5.4");
_Static_assert(sizeof(struct rsdp) == 36, "table 5.3");
_Static_assert(sizeof(struct facs) == 64, "table 5.12");
_Static_assert(sizeof(struct gas) == 12, "table 5.1");
_Static_assert(offsetof(struct fadt, iapc_boot_arch) == 109, "table 5.9");
_Static_assert(offsetof(struct fadt, hypervisor_vendor) == 268, "table 5.9");
_Static_assert(sizeof(struct fadt) == 276, "table 5.9");

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

static void name_integer(struct aml *out, const char *name, uint64_t value)
{
    aml_op(out, AML_NAME);
    aml_path(out, name);
    aml_integer(out, value);
}

/* An EISA id where it has that form; others, and PRP0001, are strings. */
static void name_hid(struct aml *out, const char *name, const char *id)
{
    aml_op(out, AML_NAME);
    aml_path(out, name);
    if (strlen(id) == 7 && strcmp(id, "PRP0001"))
        aml_eisaid(out, id);
    else
        aml_string(out, id);
}

/*
 * _OSC: hands the guest what a bus without root ports has: power management events, error
 * reporting and the capability structures of its endpoints. Hot-plug stays ungranted: no slots.
 */
static void pci_osc(struct aml *out)
{
    enum { PME = 1 << 2, AER = 1 << 3, PCIE_CAPABILITY = 1 << 4 };
    enum { UNRECOGNIZED_UUID = 1 << 2, CAPABILITIES_MASKED = 1 << 4 }; /* in the first dword */
    enum { ARG_UUID = AML_ARG0, ARG_BUFFER = AML_ARG0 + 3 };

    size_t method = aml_method(out, "_OSC", 4);
    aml_op(out, AML_CREATE_DWORD_FIELD);
    aml_op(out, ARG_BUFFER);
    aml_integer(out, 0);
    aml_path(out, "CDW1");

    size_t known = aml_if(out);
    aml_op(out, AML_LEQUAL);
    aml_op(out, ARG_UUID);
    aml_uuid(out, "33db4d5b-1ff7-401c-9657-7441c03dd766");
    aml_op(out, AML_CREATE_DWORD_FIELD);
    aml_op(out, ARG_BUFFER);
    aml_integer(out, 8);
    aml_path(out, "CDW3");
    aml_op(out, AML_AND); /* Local0 = CDW3 & what is granted */
    aml_path(out, "CDW3");
    aml_integer(out, PME | AER | PCIE_CAPABILITY);
    aml_op(out, AML_LOCAL0);
    size_t masked = aml_if(out);
    aml_op(out, AML_LNOT);
    aml_op(out, AML_LEQUAL);
    aml_path(out, "CDW3");
    aml_op(out, AML_LOCAL0);
    aml_op(out, AML_OR);
    aml_path(out, "CDW1");
    aml_integer(out, CAPABILITIES_MASKED);
    aml_path(out, "CDW1");
    aml_end(out, masked);
    aml_op(out, AML_STORE);
    aml_op(out, AML_LOCAL0);
    aml_path(out, "CDW3");
    aml_end(out, known);

    size_t unknown = aml_else(out);
    aml_op(out, AML_OR);
    aml_path(out, "CDW1");
    aml_integer(out, UNRECOGNIZED_UUID);
    aml_path(out, "CDW1");
    aml_end(out, unknown);
    aml_op(out, AML_RETURN);
    aml_op(out, ARG_BUFFER);
    aml_end(out, method);
}

/*
 * What the bridge forwards: all ports but its own, and the windows for BARs. The 64-bit window
 * is not called prefetchable: Linux refuses a BAR that is not prefetchable in one that is, and
 * puts prefetchable BARs in either.
 */
static void pci_crs(struct aml *out, const struct acpi_config *config)
{
    enum { ENTIRE_RANGE = 3, READ_WRITE = 1, CACHEABLE = 1 << 1 };
    size_t crs = aml_crs(out);
    aml_window(out, AML_BUS_NUMBER, 2, 0, 0, 255);
    aml_io(out, LAYOUT_PORT_PCI, 8);
    aml_window(out, AML_IO, 2, ENTIRE_RANGE, 0, LAYOUT_PORT_PCI - 1);
    aml_window(out, AML_IO, 2, ENTIRE_RANGE, LAYOUT_PORT_PCI + 8, 0xffff);
    aml_window(out, AML_MEMORY, 4, READ_WRITE, config->mmio32_base,
               (uint64_t)config->mmio32_base + config->mmio32_size - 1);
    if (config->mmio64_size)
        aml_window(out, AML_MEMORY, 8, READ_WRITE | CACHEABLE, config->mmio64_base,
                   config->mmio64_base + config->mmio64_size - 1);
    aml_end_crs(out, crs);
}

/* Pin P (1 to 4) of SLOT is wired to input LAYOUT_GSI_PCI + (SLOT + P - 1) % COUNT. */
static void pci_prt(struct aml *out)
{
    aml_op(out, AML_NAME);
    aml_path(out, "_PRT");
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
    pci_osc(out);
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
    aml_op(out, AML_NAME);
    aml_path(out, "_DSD");
    size_t dsd = aml_package(out, 2);
    aml_uuid(out, "daffd814-6eba-4d8c-8a91-bc9bbf4aa301");
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

static void dsdt(struct aml *out, const struct acpi_config *config)
{
    size_t table = table_begin(out, "DSDT", 2);
    aml_op(out, AML_NAME);
    aml_path(out, "\\_S5_");
    size_t s5 = aml_package(out, 4);
    aml_integer(out, S5_SLP_TYP); /* PM1a_CNT.SLP_TYP; there is no PM1b */
    aml_integer(out, 0);
    aml_integer(out, 0);
    aml_integer(out, 0);
    aml_end(out, s5);

    size_t scope = aml_scope(out, "\\_SB_");
    pci_bridge(out, config);
    motherboard(out);
    for (unsigned i = 0; i < config->devices; i++)
        platform_device(out, &config->device[i]);
    processors(out, config->cpus);
    aml_end(out, scope);
    table_end(out, table);
}

/* ---- the other tables ---- */

static struct gas port(uint16_t address, uint8_t bytes)
{
    return (struct gas){
        .space = SYSTEM_IO,
        .bit_width = (uint8_t)(bytes * 8),
        .access_size = bytes == 4 ? 3 : bytes,
        .address = address,
    };
}

/* SMI_CMD 0: ACPI mode is always on. FACS has one address: X_FIRMWARE_CTRL must then be 0. */
static void fadt(struct aml *out, uint32_t facs_gpa, uint32_t dsdt_gpa)
{
    struct fadt fields = {
        .firmware_ctrl = facs_gpa,
        .dsdt = dsdt_gpa,
        .x_dsdt = dsdt_gpa,
        .sci_int = LAYOUT_GSI_SCI,
        .pm1a_evt_blk = PM1_EVT,
        .x_pm1a_evt_blk = port(PM1_EVT, 4),
        .pm1_evt_len = 4,
        .pm1a_cnt_blk = PM1_CNT,
        .x_pm1a_cnt_blk = port(PM1_CNT, 2),
        .pm1_cnt_len = 2,
        .pm_tmr_blk = PM_TMR,
        .x_pm_tmr_blk = port(PM_TMR, 4),
        .pm_tmr_len = 4,
        .p_lvl2_lat = 101,  /* above 100: no C2 */
        .p_lvl3_lat = 1001, /* above 1000: no C3 */
        .century = CENTURY,
        .iapc_boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_VGA_NOT_PRESENT,
        .flags = FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
                 FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP,
        .reset_reg = port(RESET_PORT, 1),
        .reset_value = RESET_VALUE,
        .minor_version = 5,
    };
    fields.x_pm1a_evt_blk.access_size = 2; /* status and enable are words */
    size_t table = table_begin(out, "FACP", 6);
    aml_bytes(out, (const uint8_t *)&fields + sizeof(struct header),
              sizeof(fields) - sizeof(struct header));
    table_end(out, table);
}

/* Entry types of the MADT (table 5.21). */
enum { LOCAL_APIC, IO_APIC, OVERRIDE, LOCAL_NMI = 4, LOCAL_X2APIC = 9, LOCAL_X2APIC_NMI };

static void madt_cpu(struct aml *out, unsigned id)
{
    bool x2apic = id >= 0xff; /* 0xff is the broadcast id of an xAPIC */
    aml_data(out, 1, x2apic ? LOCAL_X2APIC : LOCAL_APIC);
    aml_data(out, 1, x2apic ? 16 : 8);
    aml_data(out, x2apic ? 2 : 1, x2apic ? 0 : id); /* reserved, or the processor's _UID */
    aml_data(out, x2apic ? 4 : 1, id);              /* APIC id */
    aml_data(out, 4, 1);                            /* enabled */
    if (x2apic)
        aml_data(out, 4, id); /* _UID */
}

/* An ISA interrupt that is not the input of the same number, edge-triggered and active high. */
static void madt_override(struct aml *out, uint8_t irq, uint32_t gsi, uint16_t flags)
{
    aml_data(out, 1, OVERRIDE);
    aml_data(out, 1, 10);
    aml_data(out, 1, 0); /* bus: ISA */
    aml_data(out, 1, irq);
    aml_data(out, 4, gsi);
    aml_data(out, 2, flags);
}

static void madt(struct aml *out, unsigned cpus)
{
    enum { CONFORMS = 0, LEVEL_ACTIVE_HIGH = 0xd };
    /* type, length, all processors and flags (in the other order for x2APIC), LINT1 */
    static const uint8_t lint1_nmi[] = {LOCAL_NMI, 6, 0xff, 0, 0, 1};
    static const uint8_t x2apic_lint1_nmi[] = {
        LOCAL_X2APIC_NMI, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0};
    size_t table = table_begin(out, "APIC", 5);
    aml_data(out, 4, LAYOUT_LAPIC);
    aml_data(out, 4, 1); /* PCAT_COMPAT: there is a pair of 8259s, too */
    for (unsigned i = 0; i < cpus && !out->overflow; i++)
        madt_cpu(out, i);
    aml_data(out, 1, IO_APIC);
    aml_data(out, 1, 12);
    aml_data(out, 2, 0); /* id, reserved */
    aml_data(out, 4, LAYOUT_IOAPIC);
    aml_data(out, 4, 0); /* first gsi */
    madt_override(out, LAYOUT_GSI_PIT, 2, CONFORMS);
    madt_override(out, LAYOUT_GSI_SCI, LAYOUT_GSI_SCI, LEVEL_ACTIVE_HIGH);
    aml_bytes(out, lint1_nmi, sizeof(lint1_nmi));
    if (cpus > 0xff)
        aml_bytes(out, x2apic_lint1_nmi, sizeof(x2apic_lint1_nmi));
    table_end(out, table);
}

static void mcfg(struct aml *out)
{
    size_t table = table_begin(out, "MCFG", 1);
    aml_data(out, 8, 0); /* reserved */
    aml_data(out, 8, LAYOUT_ECAM);
    aml_data(out, 2, 0); /* segment */
    aml_data(out, 1, 0); /* buses 0 to 255 */
    aml_data(out, 1, 255);
    aml_data(out, 4, 0);
    table_end(out, table);
}

static void rsdp(uint8_t *at, uint64_t xsdt)
{
    struct rsdp fields = {
        .signature = {'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '},
        .revision = 2,
        .length = sizeof(fields),
        .xsdt = xsdt,
    };
    memcpy(fields.oem_id, header_template.oem_id, sizeof(fields.oem_id));
    fields.checksum = checksum((const uint8_t *)&fields, offsetof(struct rsdp, length));
    fields.extended_checksum = checksum((const uint8_t *)&fields, sizeof(fields));
    memcpy(at, &fields, sizeof(fields));
}

int acpi_build(const struct acpi_config *config, uint64_t gpa, uint8_t *buf, size_t *size)
{
    static const struct facs facs = {
        .signature = {'F', 'A', 'C', 'S'}, .length = sizeof(facs), .version = 2};
    static const uint8_t room[64]; /* for the RSDP, up to the alignment of the FACS */
    struct aml out = {.buf = buf, .size = *size};
    uint64_t entry[3], facs_gpa, dsdt_gpa;

    /* What _CRS says about ports is fixed; the tables' own addresses have 32 bits in the FADT.
     */
    if (config->pio_base < LAYOUT_PORT_PCI + 8 ||
        config->pio_base + config->pio_size > 0x10000 || !range_within(gpa, *size, UINT32_MAX))
        return -EINVAL;
    aml_bytes(&out, room, sizeof(room));
    facs_gpa = gpa + out.len;
    aml_bytes(&out, &facs, sizeof(facs));
    dsdt_gpa = gpa + out.len;
    dsdt(&out, config);
    align(&out, 16);
    entry[0] = gpa + out.len;
    fadt(&out, (uint32_t)facs_gpa, (uint32_t)dsdt_gpa);
    align(&out, 16);
    entry[1] = gpa + out.len;
    madt(&out, config->cpus);
    align(&out, 16);
    entry[2] = gpa + out.len;
    mcfg(&out);
    size_t xsdt = table_begin(&out, "XSDT", 1);
    aml_bytes(&out, entry, sizeof(entry));
    table_end(&out, xsdt);
    if (out.overflow)
        return -ENOSPC;
    rsdp(buf, gpa + xsdt);
    *size = out.len;
    return 0;
}
