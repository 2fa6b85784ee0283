/*
 * ends.c: the ways in which a virtual machine ends, one for each word on the command line: its
 * exit status is the test (tests/tiny.sh has the list). With `reboot` the machine is reset by
 * each way in turn, remembers the count in CMOS RAM, and must every time find its devices in
 * the state in which it found them after power-on.
 */
#include "lib.h"

enum { CMOS_BOOTS = 0x50, CMOS_BOOTS_MAGIC = 0x51, CMOS_STATE = 0x60, STATE_MAX = 0x1f };
enum { SLP_EN = 0x2000, PWRBTN = 0x100 };

/* The first number of the package \_S5 in the DSDT (ACPI 6.5, 7.4.2; AML: 20.2). */
static unsigned s5_sleep_type(void)
{
    const struct acpi_header *dsdt = acpi_dsdt();
    const uint8_t *end = (const uint8_t *)dsdt + dsdt->length;

    for (const uint8_t *p = (const uint8_t *)(dsdt + 1); p + 10 < end; p++) {
        if (memcmp(p, "_S5_\x12", 5) != 0)
            continue;
        p += 5;
        p += 1 + (*p >> 6); /* length of the package, */
        p += 1;             /* number of elements */
        return *p == 0x0a ? p[1] : *p;
    }
    check(false, "_S5 in the DSDT");
    return 0;
}

static void poweroff(void)
{
    unsigned type = s5_sleep_type();

    outw(PM1_CNT, (uint16_t)(type << 10));
    outw(PM1_CNT, (uint16_t)(type << 10 | SLP_EN));
}

static void reset_keyboard(void)
{
    outb(0x64, 0xfe);
}

static void reset_cf9(void)
{
    outb(0xcf9, 0x02);
    outb(0xcf9, 0x06);
}

static void reset_acpi(void)
{
    const uint8_t *fadt = (const uint8_t *)acpi_table("FACP");
    uint64_t port;

    memcpy(&port, fadt + 120, sizeof(port)); /* reset register and value, ACPI 6.5, 5.2.9 */
    outb((uint16_t)port, fadt[128]);
}

/* Enables the power button and waits until it is pressed (ACPI 6.5, 4.8.2.2.1). */
static void wait_for_button(void)
{
    outw(PM1_EN, PWRBTN);
    print("listening\n");
    while (!(inw(PM1_STS) & PWRBTN))
        ;
    print("pressed\n");
}

static void button_poweroff(void)
{
    wait_for_button();
    poweroff();
}

static void button_reset(void)
{
    wait_for_button();
    reset_cf9();
}

/* Knows that it was pressed, and does nothing about it. */
static void button_ignored(void)
{
    wait_for_button();
    for (;;)
        delay_ms(1000);
}

/* Runs on without ever having enabled it. */
static void button_unknown(void)
{
    print("listening\n");
    for (;;)
        delay_ms(1000);
}

/* There is no memory there, so nothing can be fetched: KVM has no answer to that. */
static void jump_to_nowhere(void)
{
    __asm__ volatile("jmp *%0" : : "r"(0xf0000000ULL));
}

static void debug_exit(void)
{
    outb(DEBUG_EXIT, (uint8_t)arg_number("exit", 0));
}

/* A 32-bit value in the 8 bits that CMOS has for it. */
static uint8_t fold(uint32_t v)
{
    v ^= v >> 16;
    return (uint8_t)(v ^ v >> 8);
}

static uint32_t msr_low(uint32_t msr)
{
    uint64_t value = 0;

    rdmsr(msr, &value);
    return (uint32_t)value;
}

static uint32_t debug_control(void)
{
    uint64_t value;

    __asm__ volatile("mov %%dr7, %0" : "=r"(value));
    return (uint32_t)value;
}

static uint32_t ioapic_masks(void)
{
    uint32_t masked = 0;

    for (unsigned pin = 0; pin < 24; pin++)
        masked |= (ioapic_read(IOAPIC_REDIRECT(pin)) >> 16 & 1) << pin;
    return masked;
}

static uint32_t pit_status(unsigned channel)
{
    outb(0x43, (uint8_t)(0xe0 | 2u << channel)); /* read-back: status only */
    return inb((uint16_t)(0x40 + channel)) & 0x3f;
}

static uint32_t uart(unsigned reg)
{
    return inb((uint16_t)(COM1 + reg));
}

/* What a reset has to put back, in the order it is looked at. */
static unsigned state(const char *names[STATE_MAX], uint32_t values[STATE_MAX])
{
    unsigned n = 0;
#define STATE(name, value) (names[n] = (name), values[n] = (value), n++)
    STATE("UART IER", uart(1));
    STATE("UART IIR", uart(2));
    STATE("UART LCR", uart(3));
    STATE("UART MCR", uart(4));
    STATE("LAPIC SVR", lapic_read(LAPIC_SVR));
    STATE("LAPIC TPR", lapic_read(LAPIC_TPR));
    STATE("LAPIC ID", lapic_read(LAPIC_ID));
    STATE("LAPIC LDR", lapic_read(LAPIC_LDR));
    STATE("LAPIC DFR", lapic_read(LAPIC_DFR));
    STATE("LAPIC timer", lapic_read(LAPIC_LVT_TIMER));
    STATE("LAPIC LINT0", lapic_read(LAPIC_LVT_LINT0));
    STATE("LAPIC LINT1", lapic_read(LAPIC_LVT_LINT1));
    STATE("LAPIC count", lapic_read(LAPIC_TIMER_INITIAL));
    STATE("APIC base", msr_low(0x1b));
    STATE("PIC 1 mask", inb(0x21));
    STATE("PIC 2 mask", inb(0xa1));
    STATE("IOAPIC masks", ioapic_masks());
    STATE("PIT 0", pit_status(0));
    STATE("PIT 1", pit_status(1));
    STATE("PIT 2", pit_status(2));
    STATE("port 61", inb(0x61) & 3);
    STATE("PM1 enable", inw(PM1_EN));
    STATE("PM1 control", inw(PM1_CNT));
    STATE("RTC B", cmos_read(0x0b) & 0x78); /* interrupt enables, square wave */
    STATE("host bridge", pci_read16(0, 4));
    STATE("MTRR type", msr_low(0x2ff));
    STATE("PAT", msr_low(0x277));
    STATE("SYSENTER", msr_low(0x175));
    STATE("STAR", msr_low(0xc0000082));
    STATE("KERNEL_GS", msr_low(0xc0000102));
    STATE("DR7", debug_control());
#undef STATE
    return n;
}

/* Leaves nothing as it was. */
static void disturb(void)
{
    irq_disable();
    lapic_enable();
    lapic_write(LAPIC_TPR, 0x20);
    lapic_write(LAPIC_LDR, 0x55000000);
    lapic_write(LAPIC_DFR, 0x0fffffff);
    lapic_write(LAPIC_LVT_TIMER, 0x20000 | 0x99);
    lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
    lapic_write(LAPIC_LVT_LINT1, LVT_MASKED | 0x98);
    lapic_write(LAPIC_TIMER_INITIAL, 0xffffffff);
    pic_init(0x1234);
    for (unsigned pin = 0; pin < 24; pin += 2)
        ioapic_route(pin, 0x40 + pin, IOAPIC_LEVEL);
    pit_periodic(100);
    outb(0x43, 0xb6);
    outb(0x61, 0x01);
    outw(PM1_EN, 0x0121);
    cmos_write(0x0b, cmos_read(0x0b) | 0x10);
    pci_write16(0, 4, 0x0507);
    wrmsr(0x2ff, 0xc06);
    wrmsr(0x277, 0x0007010600070106);
    wrmsr(0x175, 0x1234);
    wrmsr(0xc0000082, 0x5678);
    wrmsr(0xc0000102, 0x9abc);
    __asm__ volatile("mov %0, %%dr7" : : "r"(0x700UL));
    outb(COM1 + 1, 0x05);
    outb(COM1 + 2, 0x01);
    outb(COM1 + 4, 0x0b);
    outb(COM1 + 3, 0x1b);
}

static void reboot(void)
{
    static void (*const ways[])(void) = {reset_cf9, reset_keyboard, reset_acpi};
    static const char *names[STATE_MAX];
    static uint32_t values[STATE_MAX];
    static volatile uint32_t fresh = 1; /* the file is loaded again: .data is as it was */
    bool first = cmos_read(CMOS_BOOTS_MAGIC) != 0xb0;
    unsigned boots = first ? 0 : cmos_read(CMOS_BOOTS);
    unsigned n = state(names, values);

    check(fresh == 1, "boot %u: memory is loaded afresh", boots);
    fresh = 2;
    for (unsigned i = 0; i < n; i++) {
        uint8_t now = fold(values[i]);
        if (first)
            cmos_write((uint8_t)(CMOS_STATE + i), now);
        else if (now != cmos_read((uint8_t)(CMOS_STATE + i)))
            check(false, "boot %u: %s is %x, not as after power-on", boots, names[i],
                  values[i]);
    }
    if (boots == ARRAY_SIZE(ways)) {
        cmos_write(CMOS_BOOTS_MAGIC, 0);
        check(true, "%u resets, %u registers as after power-on", boots, n);
        finish("ends");
    }
    cmos_write(CMOS_BOOTS_MAGIC, 0xb0);
    cmos_write(CMOS_BOOTS, (uint8_t)(boots + 1));
    disturb();
    ways[boots]();
}

int main(void)
{
    static const struct {
        const char *word;
        void (*end)(void);
    } ends[] = {
        {"poweroff", poweroff},
        {"reset-keyboard", reset_keyboard},
        {"reset-cf9", reset_cf9},
        {"reset-acpi", reset_acpi},
        {"triple", triple_fault},
        {"nowhere", jump_to_nowhere},
        {"exit", debug_exit},
        {"reboot", reboot},
        {"button", button_poweroff},
        {"button-reset", button_reset},
        {"button-ignored", button_ignored},
        {"button-unknown", button_unknown},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++) {
        if (!arg(ends[i].word))
            continue;
        ends[i].end();
        delay_ms(2000); /* it may take a moment to reach us */
        check(false, "still here after %s", ends[i].word);
        finish("ends");
    }
    check(false, "no such end");
    finish("ends");
}
