/*
 * hostile.c: a guest that touches everything it should not: every I/O port, the holes of the
 * address map, registers with values, sizes and alignments that no driver would use. It must be
 * alive at the end, and so must the machine: the clock ticks, the host bridge answers.
 *
 * Left out is what ends a machine as it should: reset and power-off, INIT and SMI. What a wild
 * value does is not looked at, only that nothing comes of it. Random numbers start from the
 * word `seed=N`; of the ports above 0x400 every 61st is tried, or every Nth with `step=N`.
 */
#include "lib.h"

static uint32_t seed;

static uint32_t random(void) /* xorshift: Marsaglia 2003 */
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed;
}

static void ignore(struct trap *trap)
{
    (void)trap;
}

/* What a write of SIZE bytes at PORT must not touch: ports that end or leave the machine, the
 * console, and the interrupt controllers' command ports, which are dealt with on their own. */
static bool write_protected(uint32_t port, unsigned size)
{
    static const uint16_t protected[][2] = {
        {0x60, 0x64}, /* keyboard controller */
        {0x92, 0x92}, /* fast reset, where a PC has one */
        {0xb2, 0xb3}, /* SMI */
        {DEBUG_EXIT, DEBUG_EXIT},
        {COM1, COM1 + 7},
        {0x600, 0x60b}, /* ACPI */
        {0xcf8, 0xcff}, /* configuration space, reset control */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(protected); i++)
        if (port <= protected[i][1] && port + size > protected[i][0])
            return true;
    return false;
}

static void ports(void)
{
    uint32_t unclaimed = 0xff, step = (uint32_t)arg_number("step", 61);

    for (uint32_t port = 0; port < 0x10000; port += port < 0x400 ? 1 : step) {
        inb((uint16_t)port);
        inw((uint16_t)port);
        inl((uint16_t)port);
        if (!write_protected(port, 1))
            outb((uint16_t)port, 0x5a);
        if (!write_protected(port, 2))
            outw((uint16_t)port, 0xffff);
        if (!write_protected(port, 4))
            outl((uint16_t)port, random());
    }
    for (uint32_t port = 0x9000; port < 0xa000; port += 41)
        unclaimed &= inb((uint16_t)port);
    check(unclaimed == 0xff, "ports: read and written, nobody's read as all ones");
}

static void string_io(void)
{
    static uint8_t buffer[4096];
    static const uint16_t port[] = {0x9000, 0x40, 0x71, COM1 + 5, 0xcfc, 0x608, 0xffff};

    for (unsigned i = 0; i < ARRAY_SIZE(port); i++) {
        void *to = buffer;
        uint64_t n = 300;
        __asm__ volatile("rep insb" : "+D"(to), "+c"(n) : "d"(port[i]) : "memory");
        to = buffer, n = 100;
        __asm__ volatile("rep insl" : "+D"(to), "+c"(n) : "d"(port[i]) : "memory");
        const void *from = buffer;
        n = 200;
        if (!write_protected(port[i], 2))
            __asm__ volatile("rep outsw" : "+S"(from), "+c"(n) : "d"(port[i]) : "memory");
        to = buffer + 3999, n = 900; /* downwards, over a page's edge */
        __asm__ volatile("std; rep insl; cld" : "+D"(to), "+c"(n) : "d"(port[i]) : "memory");
    }
    check(true, "string input and output");
}

/* The chips that take wild values without ending anything. */
static void chips(void)
{
    static const uint16_t port[] = {0x20, 0x21, 0xa0, 0xa1,  0x40,  0x41,  0x42,  0x43,
                                    0x61, 0x70, 0x71, 0x4d0, 0x4d1, 0x600, 0x602, 0x608};

    for (unsigned i = 0; i < 2000; i++) {
        uint32_t value = random();
        uint16_t at = port[(value >> 16) % ARRAY_SIZE(port)];
        if (value & 0x100)
            outb(at, (uint8_t)value);
        else if (at < 0x600)
            inb(at);
        else
            outw(at, (uint16_t)random());
    }
    for (unsigned i = 0; i < 300; i++) {
        outw(PM1_CNT, (uint16_t)(random() & ~0x2000u)); /* all but SLP_EN */
        outb(0x64, (uint8_t)(random() % 0xd0));         /* all but output port and pulse */
        outb(0x60, (uint8_t)random());
        outb(0xcf9, (uint8_t)(random() & ~4u)); /* all but the reset itself */
        outb((uint16_t)(COM1 + 1 + random() % 7), (uint8_t)(random() | 0x10)); /* loopback */
        inb((uint16_t)(COM1 + random() % 8));
    }
    outb(COM1 + 3, 3);
    outb(COM1 + 1, 0);
    outb(COM1 + 2, 7);
    outb(COM1 + 4, 0);
    check(true, "wild values in PIC, PIT, RTC, PM1, keyboard controller and UART");
}

static void config_space(void)
{
    static const uint32_t wild[] = {0xffffffff, 0, 0x55555555, 0x80000000};
    uint64_t ecam = acpi_ecam();
    uint32_t id = pci_read32(0, 0);

    for (unsigned i = 0; i < ARRAY_SIZE(wild); i++)
        for (unsigned reg = 0; reg < 4096; reg += 4) {
            if (reg < 256 && i < 2)
                pci_write32(0, reg, wild[i]);
            if (reg < 512 || i == 0)
                mmio_write32(ecam + reg, wild[i]);
        }
    for (unsigned i = 0; i < 1000; i++) {
        uint32_t value = random(), where = random();
        switch (value & 3) {
        case 0:
            outl(0xcf8, where);
            outb((uint16_t)(0xcfc + (value >> 8 & 3)), (uint8_t)value);
            break;
        case 1: /* crosses the end of the data port's four bytes */
            outl(0xcf8, where | 0x80000000);
            inl((uint16_t)(0xcfc + (value >> 8 & 3)));
            inw((uint16_t)(0xcfc + (value >> 8 & 3)));
            break;
        case 2: /* any alignment */
            MMIO(uint64_t, ecam + (where & 0xfffffff)) = value;
            break;
        default:
            (void)MMIO(uint64_t, ecam + (where & 0x1ffff));
        }
    }
    check(pci_read32(0, 0) == id, "configuration space: wild writes, and the same host bridge");
    pci_write32(0, 4, 0);
}

static void mmio_all_sizes(uint64_t at)
{
    (void)MMIO(uint8_t, at);
    (void)MMIO(uint16_t, at + 1);
    (void)MMIO(uint32_t, at + 2);
    (void)MMIO(uint64_t, at + 5);
    MMIO(uint8_t, at) = 0xff;
    MMIO(uint16_t, at + 3) = 0x5aa5;
    MMIO(uint32_t, at + 1) = 0xffffffff;
    MMIO(uint64_t, at) = 0xa5a5a5a55a5a5a5a;
}

/* Instructions that read and write at once, and such that move between two holes. */
static void mmio_odd(uint64_t at)
{
    volatile uint32_t *p = (volatile uint32_t *)(uintptr_t)at;
    uint32_t v = 1, n = 40;
    const void *from = (const void *)(uintptr_t)at;
    void *to = (void *)(uintptr_t)(at + 0x800);

    __asm__ volatile("lock xaddl %0, %1" : "+r"(v), "+m"(*p));
    __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(*p));
    __asm__ volatile("lock cmpxchgl %2, %1" : "+a"(v), "+m"(*p) : "r"(n));
    __asm__ volatile("lock orl $1, %0; lock btsl $3, %0; incl %0" : "+m"(*p));
    __asm__ volatile("pushq %0; popq %0" : "+m"(*(volatile uint64_t *)p));
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void mmio(void)
{
    static const uint64_t holes[][3] = {
        /* from, to, step */
        {0xa0000, 0xc0000, 0x1000},            /* RAM here, the map does not say so */
        {0xc0000000, 0xe0000000, 0x400ffd},    /* PCI window */
        {0xe0000000, 0xf0000000, 0x200ffd},    /* ECAM */
        {0xf0000000, 0xfebf0000, 0x200ffb},    /* platform devices */
        {0xfec00020, 0xfec02000, 0x1f7},       /* IOAPIC, beside its registers */
        {0xfec10000, 0xfee00000, 0x10ff9},     /* HPET, TPM and more on a PC */
        {0xfee01000, 0xfff00000, 0x10ffd},     /* MSI's addresses, KVM's own pages */
        {0xfff00000, 0xfffffff0 - 16, 0x7ff3}, /* firmware */
    };

    for (unsigned i = 0; i < ARRAY_SIZE(holes); i++)
        for (uint64_t at = holes[i][0]; at < holes[i][1]; at += holes[i][2])
            mmio_all_sizes(at);
    mmio_odd(0xf0001000);
    mmio_odd(0xd0000000);
    mmio_all_sizes(0xc0000000 - 2); /* over the edges of RAM, window and ECAM */
    mmio_all_sizes(0xe0000000 - 2);
    mmio_all_sizes(0xf0000000 - 3);
    check(MMIO(uint64_t, 0xf0000000) == UINT64_MAX, "holes below 4 GiB read as all ones");
}

static void mmio_high(void)
{
    unsigned bits = cpuid(0x80000008, 0).eax & 0xff;
    bool ones = true;

    for (unsigned i = 36; i < bits; i++) {
        uint64_t at = (uint64_t)window((1ULL << i) + 0x1000);
        mmio_all_sizes(at);
        ones &= MMIO(uint32_t, at) == 0xffffffff;
    }
    mmio_all_sizes((uint64_t)window((1ULL << bits) - 16));
    check(ones, "so do those above, up to %u bits", bits);
}

/* Just over the end of RAM: half of the access is memory. */
static void mmio_ram_end(void)
{
    uint64_t end = ram_end(0xc0000000);

    MMIO(uint32_t, end - 4) = 0x11223344;
    MMIO(uint64_t, end - 4) = 0x5566778899aabbcc;
    check(MMIO(uint64_t, end - 4) >> 32 == 0xffffffff && mmio_read32(end - 4) == 0x99aabbcc,
          "an access over the end of RAM is half memory, half nothing");
}

static void interrupt_controllers(void)
{
    for (unsigned reg = 0; reg < 0x1000; reg += 4) {
        (void)MMIO(uint8_t, LAPIC + reg);
        (void)MMIO(uint64_t, LAPIC + reg);
        (void)lapic_read(reg);
        /* ICR would send INIT or SMI, LVTs may be given NMI, which is ignored here. */
        if ((reg & ~0x1f) != LAPIC_ICR)
            lapic_write(reg, random() & ~0x600u);
    }
    for (unsigned reg = 0x40; reg < 0x100; reg++) {
        ioapic_write(reg, random());
        ioapic_read(reg);
    }
    for (unsigned i = 0; i < 200; i++) { /* masked, whatever else it is */
        ioapic_write(IOAPIC_REDIRECT(random() % 24), random() | IOAPIC_MASKED);
        ioapic_write(IOAPIC_REDIRECT(random() % 24) + 1, random());
    }
    for (unsigned i = 0; i < 0x40; i++) {
        (void)MMIO(uint8_t, IOAPIC + i);
        (void)MMIO(uint64_t, IOAPIC + i);
    }
    check(ioapic_read(1) >> 16 == 23, "local APIC and IOAPIC: wild values");
    lapic_write(LAPIC_TIMER_INITIAL, 0);
    for (unsigned pin = 0; pin < 24; pin++)
        ioapic_route(pin, 0, IOAPIC_MASKED);
}

static void msrs(void)
{
    static const uint32_t from[] = {0,          0x2ff,      0x400,      0x600,
                                    0xd90,      0x40000000, 0x4b564d00, 0xc0000080,
                                    0xc0000100, 0xc0010000, 0xc0011020, 0xfffffff0};
    unsigned there = 0;
    uint64_t value;

    for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
        for (uint32_t n = 0; n < 16; n++)
            there += rdmsr(from[i] + n, &value);
    check(true, "MSRs, whether they exist (%u) or not", there);
}

static volatile uint32_t stop, stopped;

/* What the other processors do all the while: the same holes and configuration space, at the
 * same time. CF8 with its latch is left to the first. */
static void other(unsigned cpu)
{
    uint64_t ecam = acpi_ecam();
    uint32_t x = seed + cpu;

    while (!stop) {
        x = x * 1664525 + 1013904223; /* the upper bits are the random ones */
        uint32_t where = x >> 4;
        mmio_all_sizes(ecam + (where & 0x7fff000));
        mmio_all_sizes(ecam + (where & 0xff8));
        mmio_all_sizes(0xc0000000 + where);
        mmio_all_sizes(IOAPIC + 0x20 + (where & 0xff));
        inl((uint16_t)(where >> 8));
        outw((uint16_t)(0x9000 + (where & 0xfff)), (uint16_t)x);
    }
    __atomic_add_fetch(&stopped, 1, __ATOMIC_SEQ_CST);
}

static volatile uint32_t ticks;

static void on_tick(struct trap *trap)
{
    (void)trap;
    ticks++;
    lapic_eoi();
}

static void still_alive(void)
{
    pic_init(0);
    lapic_enable();
    on_trap(0x40, on_tick);
    ioapic_route(2, 0x40, 0);
    pit_periodic(1000);
    check(wait_irqs(&ticks, 5, 4000), "the clock still interrupts");
    pit_stop();
    check(pci_read32(0, 8) >> 8 == 0x060000, "the host bridge still answers");
}

int main(void)
{
    seed = (uint32_t)arg_number("seed", 0x2545f491);
    print("seed=%u\n", seed);
    for (unsigned vector = 32; vector < 256; vector++)
        on_trap(vector, ignore);
    on_trap(2, ignore); /* NMI */
    mmio_ram_end();
    unsigned others = smp_start(other, false);
    ports();
    string_io();
    chips();
    config_space();
    mmio();
    mmio_high();
    interrupt_controllers();
    msrs();
    stop = 1;
    if (others)
        check(wait_count(&stopped, others, 4000), "%u other processors did the like", others);
    still_alive();
    finish("hostile");
}
