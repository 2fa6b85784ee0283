/*
 * pc.c: the chips of a PC, as far as the tiny guests drive them: 8254 PIT, 8259A PICs, RTC
 * (MC146818), IOAPIC (82093AA), local APIC, PCI configuration mechanism #1, ACPI's tables and
 * PM timer, and the start of the other processors.
 */
#include "lib.h"

/* --- time --- */

uint32_t pm_ticks(uint32_t ms)
{
    return (uint32_t)((uint64_t)ms * PM_HZ / 1000);
}

/* Differences are taken modulo 24 bits, which any PM timer has; that is 4.6 s. */
static uint32_t pm_since(uint32_t start)
{
    return (inl(PM_TIMER) - start) & 0xffffff;
}

void delay_ms(uint32_t ms)
{
    for (uint32_t start = inl(PM_TIMER); pm_since(start) < pm_ticks(ms);)
        cpu_relax();
}

bool wait_count(const volatile uint32_t *count, uint32_t value, uint32_t ms)
{
    for (uint32_t start = inl(PM_TIMER); *count < value && pm_since(start) < pm_ticks(ms);)
        cpu_relax();
    return *count >= value;
}

bool wait_irqs(const volatile uint32_t *count, uint32_t value, uint32_t ms)
{
    irq_enable();
    bool reached = wait_count(count, value, ms);
    irq_disable();
    return reached;
}

void wait_for_input(unsigned boot)
{
    print("boot %u\nwait\n", boot);
    for (unsigned i = 0; i < 20000 && !(inb(COM1 + 5) & 1); i++)
        delay_ms(1);
    inb(COM1);
}

void pit_periodic(uint32_t hz)
{
    uint32_t divisor = PIT_HZ / hz;

    outb(0x43, 0x34); /* channel 0, low then high byte, mode 2: rate generator */
    outb(0x40, (uint8_t)divisor);
    outb(0x40, (uint8_t)(divisor >> 8));
}

void pit_stop(void)
{
    outb(0x43, 0x30); /* mode 0 counts once, and not before it is given a number */
}

uint8_t cmos_read(uint8_t reg)
{
    outb(0x70, reg);
    return inb(0x71);
}

void cmos_write(uint8_t reg, uint8_t value)
{
    outb(0x70, reg);
    outb(0x71, value);
}

/* --- interrupts --- */

void pic_init(uint16_t enabled)
{
    static const uint16_t port[] = {0x20, 0xa0};

    for (unsigned i = 0; i < 2; i++) {
        outb(port[i], 0x11);                               /* ICW1: cascade, ICW4 follows */
        outb(port[i] + 1, (uint8_t)(PIC_VECTOR + 8 * i));  /* ICW2: vectors */
        outb(port[i] + 1, i ? 2 : 4);                      /* ICW3: the second is on IRQ 2 */
        outb(port[i] + 1, 1);                              /* ICW4: 8086 mode */
        outb(port[i] + 1, (uint8_t)(~enabled >> (8 * i))); /* OCW1: mask */
    }
}

void pic_eoi(unsigned irq)
{
    if (irq >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

void lapic_enable(void)
{
    lapic_write(LAPIC_TPR, 0);
    lapic_write(LAPIC_SVR, 0x1ff); /* enabled, spurious vector 0xff */
}

void lapic_ipi(unsigned apic_id, uint32_t icr)
{
    lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
    lapic_write(LAPIC_ICR, icr);
}

uint32_t ioapic_read(unsigned reg)
{
    mmio_write32(IOAPIC, reg);
    return mmio_read32(IOAPIC + 0x10);
}

void ioapic_write(unsigned reg, uint32_t value)
{
    mmio_write32(IOAPIC, reg);
    mmio_write32(IOAPIC + 0x10, value);
}

void ioapic_route(unsigned pin, unsigned vector, uint32_t flags)
{
    ioapic_write(IOAPIC_REDIRECT(pin) + 1, lapic_id() << 24);
    ioapic_write(IOAPIC_REDIRECT(pin), vector | flags);
}

/* --- PCI --- */

static uint16_t pci_select(uint32_t bdf, unsigned reg)
{
    outl(0xcf8, 0x80000000 | bdf << 8 | (reg & 0xfc));
    return (uint16_t)(0xcfc + (reg & 3));
}

uint32_t pci_read32(uint32_t bdf, unsigned reg)
{
    return inl(pci_select(bdf, reg));
}

void pci_write32(uint32_t bdf, unsigned reg, uint32_t value)
{
    outl(pci_select(bdf, reg), value);
}

uint16_t pci_read16(uint32_t bdf, unsigned reg)
{
    return inw(pci_select(bdf, reg));
}

void pci_write16(uint32_t bdf, unsigned reg, uint16_t value)
{
    outw(pci_select(bdf, reg), value);
}

uint8_t pci_read8(uint32_t bdf, unsigned reg)
{
    return inb(pci_select(bdf, reg));
}

unsigned pci_capability(uint32_t bdf, uint8_t id)
{
    unsigned at = pci_read8(bdf, PCI_CAPABILITIES) & 0xfc;

    for (unsigned i = 0; i < 48 && at; i++, at = pci_read8(bdf, at + 1) & 0xfc)
        if (pci_read8(bdf, at) == id)
            return at;
    return 0;
}

unsigned pci_intx_gsi(uint32_t bdf)
{
    return 16 + ((bdf >> 3) + pci_read8(bdf, PCI_IRQ_PIN) - 1) % 8;
}

/* --- ACPI --- */

uint8_t acpi_sum(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint8_t sum = 0;

    while (len-- > 0)
        sum = (uint8_t)(sum + *p++);
    return sum;
}

const struct acpi_rsdp *acpi_scan(void)
{
    for (uintptr_t at = 0xe0000; at < 0x100000; at += 16) {
        const struct acpi_rsdp *rsdp = (const void *)at;
        if (!memcmp(rsdp->signature, "RSD PTR ", 8) && !acpi_sum(rsdp, 20))
            return rsdp;
    }
    return NULL;
}

const struct acpi_rsdp *acpi_root(void)
{
    uint64_t given = start_info_get()->rsdp;

    return given ? (const void *)(uintptr_t)given : acpi_scan();
}

/* Entry I of the XSDT, or of the RSDT where there is no XSDT; NULL at the end. */
static const struct acpi_header *acpi_entry(unsigned i)
{
    const struct acpi_rsdp *rsdp = acpi_root();

    if (!rsdp)
        return NULL;
    unsigned size = rsdp->revision >= 2 ? 8 : 4;
    const struct acpi_header *root =
        (const void *)(uintptr_t)(size == 8 ? rsdp->xsdt : rsdp->rsdt);
    uint64_t entry = 0;
    if (sizeof(*root) + (i + 1) * size > root->length)
        return NULL;
    memcpy(&entry, (const uint8_t *)(root + 1) + i * size, size);
    return (const void *)(uintptr_t)entry;
}

const struct acpi_header *acpi_table(const char *signature)
{
    const struct acpi_header *table;

    for (unsigned i = 0; (table = acpi_entry(i)); i++)
        if (!memcmp(table->signature, signature, 4))
            return table;
    return NULL;
}

const struct acpi_header *acpi_dsdt(void)
{
    const struct acpi_header *fadt = acpi_table("FACP");

    return fadt ? (const void *)(uintptr_t)mmio_read32((uintptr_t)fadt + 40) : NULL;
}

uint64_t acpi_ecam(void)
{
    const struct acpi_header *mcfg = acpi_table("MCFG");
    uint64_t base;

    if (!mcfg || mcfg->length < 60)
        return 0;
    memcpy(&base, (const uint8_t *)mcfg + 44, sizeof(base));
    return base;
}

const uint8_t *acpi_madt_next(const uint8_t *entry)
{
    const struct acpi_madt *madt = (const void *)acpi_table("APIC");

    if (!madt)
        return NULL;
    const uint8_t *end = (const uint8_t *)madt + madt->header.length;
    entry = entry ? entry + entry[1] : madt->entries;
    return entry + 2 <= end && entry[1] >= 2 ? entry : NULL;
}

/* --- ACPI's language, as far as it takes to find a device's resources (ACPI 6.5, 20.2) --- */

/* A block at P, which begins with its length (20.2.4), that length included: where its content
 * begins is put into BODY. Returns its end; NULL when that is beyond END. */
static const uint8_t *aml_block(const uint8_t *p, const uint8_t *end, const uint8_t **body)
{
    unsigned more = *p >> 6;
    uint32_t length = more ? *p & 0xf : *p;

    for (unsigned i = 1; i <= more; i++)
        length |= (uint32_t)p[i] << (8 * i - 4);
    *body = p + 1 + more;
    return length <= (uint64_t)(end - p) ? p + length : NULL;
}

static const uint8_t *find(const uint8_t *p, const uint8_t *end, const void *what, size_t len)
{
    while (p + len <= end) {
        size_t left = (size_t)(end - p) - len + 1;
        bool found;
        __asm__ volatile("repne scasb"
                         : "+D"(p), "+c"(left), "=@cce"(found)
                         : "a"(*(const uint8_t *)what)
                         : "memory");
        if (found && !memcmp(p - 1, what, len))
            return p - 1;
    }
    return NULL;
}

/* Resource descriptors (6.4) between P and END. */
static void read_resources(const uint8_t *p, const uint8_t *end, struct acpi_resources *out)
{
    enum { MEMORY32_FIXED = 0x86, INTERRUPT = 0x89, END_TAG = 0x79, LARGE = 0x80 };
    enum { EDGE = 2, ACTIVE_LOW = 4 };

    out->regions = out->irqs = 0;
    while (p < end && *p != END_TAG) {
        if (*p == MEMORY32_FIXED && out->regions < ARRAY_SIZE(out->region)) {
            memcpy(&out->region[out->regions++], p + 4, 8);
        } else if (*p == INTERRUPT && out->irqs < ARRAY_SIZE(out->irq)) {
            memcpy(&out->irq[out->irqs].gsi, p + 5, 4);
            out->irq[out->irqs++].flags =
                (p[3] & EDGE ? 0 : IOAPIC_LEVEL) | (p[3] & ACTIVE_LOW ? IOAPIC_ACTIVE_LOW : 0);
        }
        p += *p & LARGE ? 3 + (p[1] | p[2] << 8) : 1 + (*p & 7);
    }
}

bool acpi_find_device(const char *compatible, struct acpi_resources *out)
{
    static const char device[] = "\x5b\x82", hid[] = "\x08_HID\x0dPRP0001",
                      crs[] = "\x08_CRS\x11";
    const struct acpi_header *dsdt = acpi_dsdt();
    const uint8_t *p = (const uint8_t *)(dsdt + 1), *end, *body, *stop;
    size_t len = 1;

    while (compatible[len - 1])
        len++;
    for (end = (const uint8_t *)dsdt + dsdt->length; (p = find(p, end, device, 2)); p += 2) {
        stop = aml_block(p + 2, end, &body);
        if (!stop || !find(body, stop, hid, sizeof(hid)) || !find(body, stop, compatible, len))
            continue;
        body = find(body, stop, crs, sizeof(crs) - 1);
        if (!body || !(stop = aml_block(body + sizeof(crs) - 1, stop, &body)))
            return false;
        body += *body == 0x0a ? 2 : 3; /* the buffer's size, in a byte or a word */
        read_resources(body, stop, out);
        return true;
    }
    return false;
}

/* --- the other processors --- */

#define AP_PAGE 0x8000 /* where the trampoline is copied to; vector 8 of the start-up IPI */

extern const uint8_t ap_trampoline[], ap_trampoline_end[];
void ap_c(unsigned ticket);
volatile uint32_t ap_tickets; /* taken by ap_start64 in start.S */
static volatile uint32_t ap_online;
static void (*ap_run)(unsigned cpu);

void ap_c(unsigned ticket)
{
    traps_load();
    lapic_enable();
    __atomic_add_fetch(&ap_online, 1, __ATOMIC_SEQ_CST);
    ap_run(ticket + 1);
    for (;;)
        __asm__ volatile("cli; hlt");
}

static bool madt_usable_cpu(const uint8_t *entry)
{
    return entry[0] == MADT_LAPIC && entry[4] & 1;
}

unsigned cpus_in_madt(void)
{
    unsigned n = 0;

    for (const uint8_t *e = NULL; (e = acpi_madt_next(e));)
        n += madt_usable_cpu(e);
    return n;
}

/* INIT, 10 ms, start-up, and a second one if the first was not enough (SDM volume 3, 9.4.4). */
static void ap_kick(unsigned apic_id, uint32_t to, unsigned expect)
{
    lapic_ipi(apic_id, to | ICR_INIT);
    delay_ms(10);
    lapic_ipi(apic_id, to | ICR_STARTUP | AP_PAGE >> 12);
    if (wait_count(&ap_online, expect, 100))
        return;
    lapic_ipi(apic_id, to | ICR_STARTUP | AP_PAGE >> 12);
    wait_count(&ap_online, expect, 4000);
}

unsigned smp_start(void (*run)(unsigned cpu), bool all_at_once)
{
    unsigned expect = cpus_in_madt() - 1;

    if (expect > AP_MAX)
        return 0; /* there are not as many stacks */
    memcpy((void *)AP_PAGE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    ap_run = run;
    ap_tickets = 0;
    ap_online = 0;
    lapic_enable();
    if (all_at_once)
        ap_kick(0, ICR_ALL_BUT_SELF, expect);
    for (const uint8_t *e = NULL; !all_at_once && (e = acpi_madt_next(e));)
        if (madt_usable_cpu(e) && e[3] != lapic_id())
            ap_kick(e[3], 0, ap_online + 1);
    return ap_online;
}
