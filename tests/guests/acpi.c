/*
 * acpi.c: the ACPI tables can be found in both ways, are intact (ACPI 6.5, chapter 5), and what
 * they promise is there: fixed hardware ports, interrupt controllers, configuration space.
 */
#include "lib.h"

#define FADT_RESET_SUPPORTED  (1u << 10)
#define FADT_HARDWARE_REDUCED (1u << 20)

/* Generic address structure, 5.2.3.2 */
struct gas {
    uint8_t space, bits, offset, access;
    uint64_t address;
} __attribute__((packed));

struct fadt { /* 5.2.9 */
    struct acpi_header header;
    uint32_t facs, dsdt;
    uint8_t int_model, profile;
    uint16_t sci;
    uint32_t smi_command;
    uint8_t acpi_enable, acpi_disable, s4bios, pstate;
    uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base;
    uint8_t cst_cnt;
    uint16_t c2_latency, c3_latency, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t boot_arch;
    uint8_t reserved;
    uint32_t flags;
    struct gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor;
    uint64_t x_facs, x_dsdt;
    struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr;
} __attribute__((packed));
_Static_assert(offsetof(struct fadt, flags) == 112, "FADT as in ACPI 5.2.9");
_Static_assert(offsetof(struct fadt, x_pm_tmr) == 208, "FADT as in ACPI 5.2.9");

static void root(void)
{
    const struct acpi_rsdp *scanned = acpi_scan(), *rsdp = acpi_root();

    if (!check(scanned, "RSDP between 0xE0000 and 0xFFFFF"))
        finish("acpi");
    check(!start_info_get()->rsdp || !memcmp(rsdp, scanned, 20), "the start info has the same");
    check(rsdp->revision >= 2 && rsdp->length >= 36 && !acpi_sum(rsdp, 36),
          "it is of ACPI 2.0 or later, with its second checksum");
}

static void intact(const struct acpi_header *table, const char *signature)
{
    char name[5] = "";

    if (!check(table && table->length >= sizeof(*table), "%s is there", signature))
        finish("acpi");
    memcpy(name, table->signature, 4);
    check(!memcmp(name, signature, 4) && !acpi_sum(table, table->length),
          "%s: signature and checksum, revision %u, %u bytes", name, table->revision,
          table->length);
}

static bool has_s5(const struct acpi_header *dsdt)
{
    const uint8_t *aml = (const uint8_t *)dsdt;

    for (uint32_t i = sizeof(*dsdt); i + 4 <= dsdt->length; i++)
        if (!memcmp(aml + i, "_S5_", 4))
            return true;
    return false;
}

static void fixed_hardware(const struct fadt *fadt)
{
    check(fadt->header.length >= offsetof(struct fadt, x_pm_tmr) + sizeof(struct gas),
          "FADT has the fields of ACPI 2.0");
    check(!(fadt->flags & FADT_HARDWARE_REDUCED), "fixed hardware is there");
    check(fadt->pm1a_evt == PM1_STS && fadt->pm1_evt_len == 4 && fadt->pm1a_cnt == PM1_CNT &&
              fadt->pm1_cnt_len == 2 && fadt->pm_tmr == PM_TIMER && fadt->pm_tmr_len == 4,
          "its ports: %x %x %x", fadt->pm1a_evt, fadt->pm1a_cnt, fadt->pm_tmr);
    check((!fadt->x_pm1a_evt.address || fadt->x_pm1a_evt.address == fadt->pm1a_evt) &&
              (!fadt->x_pm1a_cnt.address || fadt->x_pm1a_cnt.address == fadt->pm1a_cnt) &&
              (!fadt->x_pm_tmr.address || fadt->x_pm_tmr.address == fadt->pm_tmr),
          "the extended addresses say the same");
    check((fadt->flags & FADT_RESET_SUPPORTED) && fadt->reset_reg.space == 1 &&
              fadt->reset_reg.address == 0xcf9,
          "reset register: port %lx, value %x", fadt->reset_reg.address, fadt->reset_value);

    uint32_t before = inl(PM_TIMER);
    delay_ms(1);
    check(inl(PM_TIMER) != before, "the PM timer ticks");
    uint16_t enable = inw(PM1_EN);
    outw(PM1_EN, 0x100); /* power button */
    check(inw(PM1_EN) == 0x100, "PM1 enable register keeps a bit");
    outw(PM1_EN, enable);
    check(fadt->smi_command || (inw(PM1_CNT) & 1), "SCI_EN is set where no SMI would set it");
}

static void dsdt(const struct fadt *fadt)
{
    uint64_t at = fadt->dsdt;

    check(!fadt->x_dsdt || !at || fadt->x_dsdt == at,
          "both addresses of the DSDT are the same");
    if (!at)
        at = fadt->x_dsdt;
    const struct acpi_header *table = (const void *)(uintptr_t)at;
    intact(table, "DSDT");
    check(has_s5(table), "DSDT tells how to power off (_S5)");
}

static void madt(const struct fadt *fadt)
{
    unsigned ioapics = 0;
    bool pit = false, sci = false;

    for (const uint8_t *e = NULL; (e = acpi_madt_next(e));) {
        uint32_t where;
        if (e[0] == MADT_IOAPIC) {
            memcpy(&where, e + 4, sizeof(where));
            ioapics += where == IOAPIC && !e[8] && !e[9];
        } else if (e[0] == MADT_OVERRIDE) {
            memcpy(&where, e + 4, sizeof(where));
            pit |= e[3] == 0 && where == 2;
            sci |= e[3] == fadt->sci && (e[8] & 0xc) == 0xc; /* level */
        }
    }
    const struct acpi_madt *table = (const void *)acpi_table("APIC");
    uint64_t base = 0;
    check(rdmsr(0x1b, &base) && table->lapic == LAPIC && (base & 0xfffff000) == LAPIC,
          "local APIC is where MADT and processor say");
    check(ioapics == 1 && (ioapic_read(1) >> 16 & 0xff) == 23, "one IOAPIC with 24 inputs");
    check(pit, "the PIT's interrupt is input 2");
    check(sci, "the SCI is level-triggered");
    check(cpus_in_madt() == arg_number("cpus", cpus_in_madt()), "%u processors",
          cpus_in_madt());
}

static void ecam(void)
{
    const uint8_t *mcfg = (const uint8_t *)acpi_table("MCFG");
    uint64_t base = acpi_ecam();
    bool same = true;

    check(mcfg[52] == 0 && mcfg[53] == 0 && mcfg[54] == 0 && mcfg[55] == 0xff,
          "MCFG: segment 0, buses 0 to 255 at %lx", base);
    for (unsigned slot = 0; slot < 32; slot++)
        same &= mmio_read32(base + (slot << 15)) == pci_read32(PCI_BDF(0, slot, 0), 0);
    for (unsigned reg = 0; reg < 256; reg += 4)
        same &= mmio_read32(base + reg) == pci_read32(0, reg);
    check(same, "reads through it equal those through CF8 and CFC");
}

int main(void)
{
    root();
    const struct acpi_header *xsdt = (const void *)(uintptr_t)acpi_root()->xsdt;
    intact(xsdt, "XSDT");
    intact((const void *)(uintptr_t)acpi_root()->rsdt, "RSDT");
    const struct fadt *fadt = (const void *)acpi_table("FACP");
    intact(&fadt->header, "FACP");
    intact(acpi_table("APIC"), "APIC");
    intact(acpi_table("MCFG"), "MCFG");
    fixed_hardware(fadt);
    dsdt(fadt);
    madt(fadt);
    ecam();
    finish("acpi");
}
