/*
 * wild.c: a guest that does to passed-through devices what no driver would: registers accessed
 * across their edges, in wrong sizes and beyond the end of regions; configuration space and
 * base addresses overwritten; memory decoding switched off while another processor reads the
 * memory; resets in the middle. The machine must be alive at the end, and the devices answer
 * after a reset. It takes the test server's devices (tests/emulated/), one or both.
 *
 * What a wild value does is not looked at. No value is 1 or 2, which would start the platform
 * device's DMA engine, and the PCI device is no bus master: RAM is not to be overwritten.
 * Random numbers start from the word `seed=N`.
 */
#include "lib.h"

enum { PLATFORM_ID = 0x70756d65, PLATFORM_RESET = 0x40, GPU_ID = 0x67756d65 };
enum { DEVCTL = 8, DEVCTL_FLR = 0x8000 };

static struct acpi_resources platform;
static bool has_platform;
static uint32_t bdf; /* 0: no PCI device */
static uint64_t bar[6];
static uint32_t seed;
static volatile uint32_t stop, stopped, reads;

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
    lapic_eoi();
}

/* ---- accesses ---- */

static void all_sizes(uint64_t at)
{
    (void)MMIO(uint8_t, at + 3);
    (void)MMIO(uint16_t, at + 1);
    (void)MMIO(uint32_t, at + 2);
    (void)MMIO(uint64_t, at + 5);
    MMIO(uint8_t, at + 1) = 0xff;
    MMIO(uint16_t, at + 3) = 0x5aa5;
    MMIO(uint32_t, at + 1) = 0xffffffff;
    MMIO(uint64_t, at + 4) = 0xa5a5a5a55a5a5a5a;
}

/* Instructions that read and write at once, and such that move many bytes. */
static void odd(uint64_t at)
{
    static uint8_t buffer[64];
    volatile uint32_t *p = (volatile uint32_t *)(uintptr_t)at;
    uint32_t v = 0x5a5a5a5a;
    const void *from = (const void *)(uintptr_t)(at + 3);
    void *to = buffer;
    uint64_t n = sizeof(buffer);

    __asm__ volatile("lock xaddl %0, %1" : "+r"(v), "+m"(*p));
    __asm__ volatile("xchgl %0, %1" : "+r"(v), "+m"(*p));
    __asm__ volatile("lock orl $0x50, %0; notl %0" : "+m"(*p));
    __asm__ volatile("pushq %0; popq %0" : "+m"(*(volatile uint64_t *)p));
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* The edges of a region, and some places in it. */
static void region(uint64_t base, uint64_t size)
{
    for (uint64_t at = base - 8; at < base + 0x60; at += 7)
        all_sizes(at);
    for (uint64_t at = base + size - 16; at < base + size + 8; at += 5)
        all_sizes(at);
    for (unsigned i = 0; i < 30; i++)
        all_sizes(base + random() % size);
    odd(base + 0x20);
    odd(base + size - 4);
}

/* ---- the platform device ---- */

static void platform_wild(void)
{
    uint64_t regs = platform.region[0].base;

    for (unsigned i = 0; i < platform.regions; i++)
        region(platform.region[i].base, platform.region[i].size);
    MMIO(uint32_t, regs + PLATFORM_RESET) = 5;
    check(mmio_read32(regs) == PLATFORM_ID, "platform device: alive after a reset");
}

/* ---- the PCI device ---- */

static void command(uint16_t value)
{
    pci_write16(bdf, PCI_COMMAND, value);
}

static void config_space(void)
{
    static const uint32_t wild[] = {0xffffffff, 0, 0x55555555, 0xaaaaaaaa};
    uint64_t config = acpi_ecam() + (bdf << 12);
    uint32_t id = pci_read32(bdf, 0);

    for (unsigned i = 0; i < ARRAY_SIZE(wild); i++)
        for (unsigned reg = 0; reg < 4096; reg += reg < 256 ? 4 : 0x74) {
            mmio_write32(config + reg, wild[i]);
            MMIO(uint16_t, config + reg + 1) = (uint16_t)wild[i];
            (void)mmio_read32(config + reg);
        }
    for (unsigned i = 0; i < 200; i++) {
        uint32_t value = random(), at = random() & 0xff;
        if (value & 1)
            MMIO(uint8_t, config + at) = (uint8_t)(value >> 8);
        else
            MMIO(uint64_t, config + (at | 4)) = value;
    }
    check(pci_read32(bdf, 0) == id, "configuration space: wild writes, the same device");
    command(0);
    mmio_write32(config + pci_capability(bdf, CAP_EXP) + DEVCTL, DEVCTL_FLR);
    command(COMMAND_MEM | COMMAND_IO);
}

/* Wherever they point: on RAM, on each other, on the interrupt controllers, on nothing. */
static void base_addresses(void)
{
    static const uint32_t low[] = {0, 0x200000, 0xc0000000, 0xfec00000, 0xfee00000, 0xffffffff};
    static const uint32_t high[] = {0, 1, 0x40, 0xffffffff};

    for (unsigned i = 0; i < 60; i++) {
        pci_write32(bdf, PCI_BAR0 + 4 * (random() % 6), low[random() % ARRAY_SIZE(low)]);
        pci_write32(bdf, PCI_BAR0 + 8, high[random() % ARRAY_SIZE(high)]);
        pci_write32(bdf, PCI_BAR0 + 16, high[random() % ARRAY_SIZE(high)]);
        pci_write32(bdf, PCI_ROM, low[random() % ARRAY_SIZE(low)] | 1);
        (void)mmio_read32(0xc0000000);
        command(random() & (COMMAND_MEM | COMMAND_IO));
    }
    command(0);
    for (unsigned i = 0; i < 6; i++)
        pci_write32(bdf, PCI_BAR0 + 4 * i, (uint32_t)bar[i]);
    pci_write32(bdf, PCI_ROM, 0);
    command(COMMAND_MEM | COMMAND_IO);
    check(mmio_read32(bar[0]) == GPU_ID, "base addresses: anywhere, and back");
}

/* After writes that may have reached configuration space: by the mirrors of NVIDIA's cards. */
static void restore(void)
{
    pci_write16(bdf, pci_capability(bdf, CAP_PM) + 4, 0);
    command(0);
    for (unsigned i = 0; i < 6; i++)
        pci_write32(bdf, PCI_BAR0 + 4 * i, (uint32_t)bar[i]);
    pci_write32(bdf, PCI_ROM, 0);
    command(COMMAND_MEM | COMMAND_IO);
}

static void gpu_regions(void)
{
    uint64_t regs = bar[0];
    static const uint32_t trapped[] = {0, 0x100, 0x1000, 0x88000, 0xb90000, 0xb91000, 0xbb0000};

    for (unsigned i = 0; i < ARRAY_SIZE(trapped); i++) {
        region(regs + trapped[i], 0x1000);
        restore();
    }
    region(regs, 0x1000000);
    for (uint32_t port = (uint32_t)(bar[5] & ~3u) - 4; port < (bar[5] & ~3u) + 132; port += 3) {
        outl((uint16_t)port, random());
        outw((uint16_t)port, 0xffff);
        inl((uint16_t)port);
        inb((uint16_t)port);
    }
    restore();
    check(mmio_read32(regs) == GPU_ID, "registers and ports: across edges, beyond the end");
}

/* The other processor. */
static void reader(unsigned cpu)
{
    uint64_t direct = (bar[3] & ~15ULL) | (uint64_t)bar[4] << 32;

    (void)cpu;
    direct = (uint64_t)window(direct + 0x1000);
    while (!stop) {
        for (unsigned i = 0; i < 20; i++) {
            (void)MMIO(uint64_t, direct + 8 * i);
            MMIO(uint32_t, direct + 8 * i) = reads;
            (void)mmio_read32(bar[0] + 0x2000);
        }
        (void)mmio_read32(bar[0]);
        mmio_write32(bar[0] + 4, reads++);
    }
    stopped = 1;
}

static void decode_off(void)
{
    unsigned express = pci_capability(bdf, CAP_EXP), power = pci_capability(bdf, CAP_PM) + 4;

    if (!smp_start(reader, false)) {
        print("one processor: memory decoding is not switched off while another reads\n");
        return;
    }
    uint32_t before = reads;
    for (unsigned i = 0; i < 100; i++) {
        command(0);
        cpu_relax();
        command(COMMAND_MEM);
        if (i % 10 == 0)
            pci_write16(bdf, express + DEVCTL, DEVCTL_FLR);
        if (i % 10 == 5)
            pci_write16(bdf, power, 3); /* D3hot */
        if (i % 10 == 6)
            pci_write16(bdf, power, 0);
    }
    command(COMMAND_MEM);
    wait_count(&reads, before + 10, 4000);
    stop = 1;
    check(wait_count(&stopped, 1, 4000),
          "memory decoding off and on, resets; %u reads meanwhile", reads - before);
}

static void gpu_wild(void)
{
    for (unsigned i = 0; i < 6; i++)
        bar[i] = pci_read32(bdf, PCI_BAR0 + 4 * i);
    command(COMMAND_MEM | COMMAND_IO);
    config_space();
    base_addresses();
    gpu_regions();
    decode_off();
    pci_write16(bdf, pci_capability(bdf, CAP_EXP) + DEVCTL, DEVCTL_FLR);
    command(COMMAND_MEM);
    check(mmio_read32(bar[0]) == GPU_ID && !mmio_read32(bar[0] + 4), "alive after a reset");
}

/* ---- */

static volatile uint32_t ticks;

static void on_tick(struct trap *trap)
{
    (void)trap;
    ticks++;
    lapic_eoi();
}

int main(void)
{
    seed = (uint32_t)arg_number("seed", 0x2545f491);
    print("seed=%u\n", seed);
    for (unsigned vector = 32; vector < 256; vector++)
        on_trap(vector, ignore);
    pic_init(0);
    lapic_enable();
    has_platform = acpi_find_device("minivmm,emu-platform", &platform);
    for (bdf = 255; bdf && pci_read32(bdf, PCI_CLASS) >> 16 != 0x0300;)
        bdf--;
    if (!check(has_platform || bdf, "platform device: %u, PCI device: 00:%02x.0", has_platform,
               bdf >> 3))
        finish("wild");
    if (has_platform)
        platform_wild();
    if (bdf)
        gpu_wild();
    on_trap(0x40, on_tick);
    ioapic_route(2, 0x40, 0);
    pit_periodic(1000);
    check(wait_irqs(&ticks, 5, 4000), "the clock still interrupts");
    finish("wild");
}
