/*
 * edu.c: a driver for QEMU's teaching device (docs/specs/edu.rst of QEMU), found on bus 0: it
 * shows that a device passed through by VFIO works in every respect: registers, INTx (level,
 * shared-style acknowledge), MSI, and DMA both ways.
 *
 * The interrupt input is the one minivmm's ACPI tables would say, 16 + (slot + pin - 1) % 8;
 * the word `gsi=N` says another (under QEMU itself the routing differs). The device's 4096-byte
 * buffer is never used to its last byte: QEMU ends itself then.
 *
 * With the word `quick` it is only some MSI and DMA, for who starts it a hundred times. With
 * `peer` the device also reads and writes the memory of another one, a display card.
 *
 * With the word `reboot` all of it is done, the machine is reset with MSI and bus mastering
 * enabled, and all is done once more; CMOS RAM remembers which time it is.
 */
#include "lib.h"

enum { /* registers */
       EDU_ID = 0x00,
       EDU_LIVENESS = 0x04,
       EDU_FACTORIAL = 0x08,
       EDU_STATUS = 0x20,
       EDU_IRQ_STATUS = 0x24,
       EDU_IRQ_RAISE = 0x60,
       EDU_IRQ_ACK = 0x64,
       EDU_DMA_SRC = 0x80,
       EDU_DMA_DST = 0x88,
       EDU_DMA_COUNT = 0x90,
       EDU_DMA_CMD = 0x98,
       EDU_BUFFER = 0x40000,
};
enum { STATUS_COMPUTING = 0x01, STATUS_IRQ = 0x80 };
enum { DMA_START = 1, DMA_TO_RAM = 2, DMA_IRQ = 4, DMA_DONE = 0x100 };
enum { MSI_ENABLE = 1, MSI_64BIT = 0x80 };
enum { CMOS_REBOOTED = 0x50 };
enum {
    INTX_VECTOR = 0x60,
    MSI_VECTOR = 0x61,
    ROUNDS = 1000,
    QUICK_ROUNDS = 10,
    DMA_LEN = 2048
};

static uint32_t bdf, gsi, nr_rounds;
static uint64_t regs;
static volatile uint32_t irqs, wrong, causes;

static uint32_t edu_read(unsigned reg)
{
    return mmio_read32(regs + reg);
}

static void edu_write(unsigned reg, uint32_t value)
{
    mmio_write32(regs + reg, value);
}

static void on_irq(struct trap *trap)
{
    uint32_t status = edu_read(EDU_IRQ_STATUS);

    (void)trap;
    irqs++;
    wrong += !status;
    causes = status;
    edu_write(EDU_IRQ_ACK, status);
    edu_read(EDU_IRQ_STATUS); /* the line is low before the end of interrupt */
    lapic_eoi();
}

static bool find(void)
{
    for (unsigned devfn = 8; devfn < 256; devfn++) {
        if (pci_read32(devfn, 0) != 0x11e81234)
            continue;
        bdf = devfn;
        regs = pci_read32(bdf, PCI_BAR0) & ~0xfu;
        unsigned pin = pci_read8(bdf, PCI_IRQ_PIN);
        gsi = (uint32_t)arg_number("gsi", pci_intx_gsi(bdf));
        print("edu at 00:%02x.%x, registers at %lx, pin %u, line %u, input %u\n", devfn >> 3,
              devfn & 7, regs, pin, pci_read8(bdf, PCI_IRQ_LINE), gsi);
        return regs && pin == 1;
    }
    return false;
}

static void registers(void)
{
    uint32_t id = edu_read(EDU_ID);
    bool live = true, factorial = true;

    check((id & 0xff) == 0xed, "identification %08x", id);
    for (uint32_t v = 1; v; v <<= 1) {
        edu_write(EDU_LIVENESS, v);
        live &= edu_read(EDU_LIVENESS) == ~v;
    }
    check(live, "liveness register inverts");
    for (uint32_t n = 1, f = 1; n <= 12; f *= ++n) {
        edu_write(EDU_FACTORIAL, n);
        for (unsigned i = 0; i < 1000000 && (edu_read(EDU_STATUS) & STATUS_COMPUTING); i++)
            cpu_relax();
        factorial &= edu_read(EDU_FACTORIAL) == f;
    }
    check(factorial, "factorials up to 12!");
}

/* So many interrupts, each with a cause of its own, each waited for. */
static void rounds(const char *kind)
{
    bool exact = true;

    irqs = 0;
    wrong = 0;
    for (uint32_t n = 1; n <= nr_rounds && exact; n++) {
        edu_write(EDU_IRQ_RAISE, n);
        exact = wait_irqs(&irqs, n, 3000) && irqs == n && causes == n;
    }
    irq_enable(); /* none may be left over */
    delay_ms(10);
    irq_disable();
    check(exact && irqs == nr_rounds && !wrong,
          "%u interrupts by %s: %u came, %u without a cause", nr_rounds, kind, irqs, wrong);
}

static void factorial_interrupt(void)
{
    irqs = 0;
    edu_write(EDU_STATUS, STATUS_IRQ);
    edu_write(EDU_FACTORIAL, 5);
    bool came = wait_irqs(&irqs, 1, 4000);
    edu_write(EDU_STATUS, 0);
    check(came && causes == 1 && edu_read(EDU_FACTORIAL) == 120, "interrupt when 5! is done");
}

static void intx(void)
{
    on_trap(INTX_VECTOR, on_irq);
    ioapic_route(gsi, INTX_VECTOR, IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
    rounds("INTx");
    factorial_interrupt();

    pci_write16(bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER | COMMAND_NO_INTX);
    irqs = 0;
    edu_write(EDU_IRQ_RAISE, 1);
    bool quiet = !wait_irqs(&irqs, 1, 50);
    check(quiet && (pci_read16(bdf, PCI_STATUS) & 8), "none while disabled, pending in STATUS");
    pci_write16(bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER);
    check(wait_irqs(&irqs, 1, 3000) && irqs == 1, "it comes when enabled again");
    ioapic_route(gsi, INTX_VECTOR, IOAPIC_MASKED);
}

static void msi(void)
{
    unsigned cap = pci_capability(bdf, CAP_MSI);

    if (!check(cap, "MSI capability at %x", cap))
        return;
    bool wide = pci_read16(bdf, cap + 2) & MSI_64BIT;
    pci_write32(bdf, cap + 4, LAPIC | lapic_id() << 12);
    if (wide)
        pci_write32(bdf, cap + 8, 0);
    pci_write16(bdf, cap + (wide ? 12 : 8), MSI_VECTOR);
    pci_write16(bdf, cap + 2, (uint16_t)(pci_read16(bdf, cap + 2) | MSI_ENABLE));
    on_trap(MSI_VECTOR, on_irq);
    rounds("MSI");
    factorial_interrupt();
}

static bool dma(uint64_t from, uint64_t to, uint32_t cmd)
{
    irqs = 0;
    MMIO(uint64_t, regs + EDU_DMA_SRC) = from;
    MMIO(uint64_t, regs + EDU_DMA_DST) = to;
    MMIO(uint64_t, regs + EDU_DMA_COUNT) = DMA_LEN;
    MMIO(uint64_t, regs + EDU_DMA_CMD) = DMA_START | DMA_IRQ | cmd;
    return wait_irqs(&irqs, 1, 4000) && causes == DMA_DONE &&
           !(MMIO(uint64_t, regs + EDU_DMA_CMD) & DMA_START);
}

static uint8_t pattern(unsigned i, uint64_t seed)
{
    return (uint8_t)(i * 7 + (i >> 8) + seed);
}

/* RAM to device and from there to another place in RAM, one byte off a page's edge. */
static void dma_at(uint64_t addr)
{
    uint8_t *out = window(addr), *in = out + 8192 - 1;
    bool same = true;

    for (unsigned i = 0; i < DMA_LEN; i++) {
        out[i] = pattern(i, addr >> 20);
        in[i] = 0;
    }
    in[DMA_LEN] = 0x77;
    bool done = dma(addr, EDU_BUFFER, 0) && dma(EDU_BUFFER, addr + 8192 - 1, DMA_TO_RAM);
    for (unsigned i = 0; i < DMA_LEN; i++)
        same &= in[i] == out[i];
    check(done && same && in[DMA_LEN] == 0x77, "DMA of %u bytes there and back at %lx", DMA_LEN,
          addr);
}

/* Through the device from RAM to another device's memory (OUT) or from there to RAM; the
 * processor writes and reads that memory through the BAR. */
static bool cross(uint64_t peer, bool out, uint8_t seed)
{
    static uint8_t ram[DMA_LEN];
    volatile uint8_t *there = window(peer), *from = out ? ram : there, *to = out ? there : ram;
    uint64_t here = (uintptr_t)ram;
    bool same = true;

    for (unsigned i = 0; i < DMA_LEN; i++) {
        from[i] = pattern(i, seed);
        to[i] = 0;
    }
    bool done =
        dma(out ? here : peer, EDU_BUFFER, 0) && dma(EDU_BUFFER, out ? peer : here, DMA_TO_RAM);
    for (unsigned i = 0; i < DMA_LEN; i++)
        same &= to[i] == pattern(i, seed);
    return done && same;
}

/* The mapping is made behind the guest's back, some time after the BAR was put there. */
static void reaches(uint64_t addr)
{
    unsigned tries = 1;

    while (!cross(addr, true, (uint8_t)tries) && tries < 100) {
        delay_ms(100);
        tries++;
    }
    check(tries < 100, "DMA to the other device's memory at %lx, at try %u", addr, tries);
}

static void peer(void)
{
    uint32_t other = 8, base = 0xd0000000; /* not where the BAR is at first */

    while (other < 256 && pci_read32(other, PCI_CLASS) >> 24 != 0x03)
        other++;
    if (!check(other < 256, "a display controller on bus 0"))
        return;
    pci_write32(other, PCI_BAR0, 0xffffffff);
    uint32_t size = -(pci_read32(other, PCI_BAR0) & ~0xfu);
    pci_write32(other, PCI_BAR0, base);
    pci_write16(other, PCI_COMMAND, COMMAND_MEM);
    reaches(base);
    check(cross(base + 0x1000, false, 3), "and from it");
    check(cross(base + size - DMA_LEN, true, 5) && cross(base + size - DMA_LEN, false, 7),
          "up to its end, %x bytes on", size);
    pci_write32(other, PCI_BAR0, base + size);
    reaches(base + size);
    check(!cross(base, true, 9) && cross(base + size, true, 11),
          "it is not at its old address any more");
}

/* 1 MiB below the end of the highest RAM below LIMIT. */
static uint64_t ram_top(uint64_t limit)
{
    return (ram_end(limit) - 0x100000) & ~0xfffULL;
}

static void reboot(void)
{
    if (!arg("reboot") || cmos_read(CMOS_REBOOTED) == 0xb1)
        return;
    cmos_write(CMOS_REBOOTED, 0xb1);
    outb(0xcf9, 0x02);
    outb(0xcf9, 0x06);
    for (;;)
        __asm__ volatile("hlt");
}

int main(void)
{
    uint64_t low = ram_top(1ULL << 32), high = ram_top(UINT64_MAX);

    pic_init(0);
    lapic_enable();
    if (!check(find(), "edu device on bus 0"))
        finish("edu");
    pci_write16(bdf, PCI_COMMAND, COMMAND_MEM | COMMAND_MASTER);
    /* No reset reaches QEMU's device: what raised an interrupt in a killed guest is still
     * there. */
    edu_write(EDU_IRQ_ACK, edu_read(EDU_IRQ_STATUS));
    nr_rounds = arg("quick") ? QUICK_ROUNDS : ROUNDS;
    if (!arg("quick")) {
        registers();
        intx();
    }
    msi();
    dma_at(low);
    if (!arg("quick")) {
        dma_at(0x1000000);
        if (high != low)
            dma_at(high);
    }
    if (arg("peer"))
        peer();
    reboot();
    finish("edu");
}
