/*
 * platform.c: a driver for the test server's platform device (tests/emulated/platform.c), found
 * by its entry in the ACPI tables: registers in every width, memory without exits, DMA to the
 * last page of RAM, interrupts counted exactly, reset.
 *
 * Words on the command line: `rounds=N` interrupts; `pages=N` of memory; `edge`: the interrupt
 * is to be edge-triggered; `reboots=N` resets the machine so often and looks whether the device
 * is as new each time; `faults=lost` or `=error` reads until the server has done what its
 * option fault= says, and tells what came of it.
 */
#include "lib.h"

enum { /* registers */
       REG_ID = 0x00,
       REG_VERSION = 0x04,
       REG_SCRATCH = 0x08,
       REG_STATUS = 0x0c,
       REG_IRQ_ENABLE = 0x10,
       REG_IRQ_STATUS = 0x14,
       REG_IRQ_RAISE = 0x18,
       REG_IRQ_COUNT = 0x1c,
       REG_DMA_SRC = 0x20,
       REG_DMA_DST = 0x28,
       REG_DMA_LEN = 0x30,
       REG_DMA_FILL = 0x34,
       REG_DMA_CMD = 0x38,
       REG_DMA_STATUS = 0x3c,
       REG_RESET = 0x40,
};
enum { ID = 0x70756d65, IRQ_RAISED = 1, IRQ_DMA = 2 };
enum { DMA_COPY = 1, DMA_FILL };
enum { DMA_IDLE, DMA_DONE, DMA_BAD_COMMAND, DMA_BAD_LENGTH, DMA_BAD_SRC, DMA_BAD_DST };
enum { VECTOR = 0x60, TICK_VECTOR = 0x61, CMOS_BOOTS = 0x70 };

static struct acpi_resources device;
static uint64_t regs, memory;
static volatile uint32_t irqs, causeless, causes, ticks;
static uint64_t page[512] __attribute__((aligned(4096)));
static volatile bool early; /* this KVM ends an interrupt when it delivers it */

static uint32_t get(unsigned reg)
{
    return mmio_read32(regs + reg);
}

static void put(unsigned reg, uint32_t value)
{
    mmio_write32(regs + reg, value);
}

static void fill(uint64_t seed)
{
    for (unsigned i = 0; i < 512; i++)
        page[i] = (seed << 32 | i) * 0x9e3779b97f4a7c15;
}

static void on_irq(struct trap *trap)
{
    uint32_t status = get(REG_IRQ_STATUS);

    (void)trap;
    early = !lapic_in_service(VECTOR);
    if (status)
        irqs++;
    else
        causeless++;
    causes |= status;
    put(REG_IRQ_STATUS, status); /* the device may raise the next at once */
    lapic_eoi();
}

static void on_tick(struct trap *trap)
{
    (void)trap;
    ticks++;
    lapic_eoi();
}

static bool find(void)
{
    if (!check(acpi_find_device("minivmm,emu-platform", &device), "the device is in the DSDT"))
        return false;
    regs = device.region[0].base;
    memory = device.region[1].base;
    return check(device.regions == 2 && device.region[0].size == 0x1000 &&
                     device.region[1].size == 0x10000 && device.irqs == 1 &&
                     device.irq[0].flags == (arg("edge") ? 0 : IOAPIC_LEVEL),
                 "registers at %lx, memory at %lx, %s interrupt at input %u", regs, memory,
                 device.irq[0].flags & IOAPIC_LEVEL ? "level" : "edge", device.irq[0].gsi);
}

/* ---- registers ---- */

static void registers(void)
{
    uint64_t at = regs + REG_SCRATCH;

    check(get(REG_ID) == ID && get(REG_VERSION) == 1, "identification %08x, version %u",
          get(REG_ID), get(REG_VERSION));
    put(REG_ID, 0);
    check(get(REG_ID) == ID, "it is read-only");
    MMIO(uint32_t, at) = 0x11223344;
    MMIO(uint8_t, at + 2) = 0xaa;
    MMIO(uint16_t, at) = 0xbbcc;
    check(MMIO(uint32_t, at) == 0x11aabbcc && MMIO(uint8_t, at + 3) == 0x11 &&
              MMIO(uint16_t, at + 2) == 0x11aa && MMIO(uint16_t, at + 1) == 0xaabb,
          "bytes and words of a register");
    check(MMIO(uint64_t, regs) == (1ULL << 32 | ID) && MMIO(uint64_t, at) == 0x11aabbcc,
          "two registers at once");
    MMIO(uint64_t, regs + REG_DMA_SRC) = 0x0123456789abcdef;
    check(MMIO(uint64_t, regs + REG_DMA_SRC) == 0x0123456789abcdef &&
              get(REG_DMA_SRC + 4) == 0x01234567,
          "a register of 64 bits");
    check(MMIO(uint64_t, regs + 0xff8) == 0, "nothing at the end of the page");
}

/* All of it, and no server to see it: tests/emulated.sh counts the accesses that it saw. */
static void direct_memory(void)
{
    uint32_t wrong = 0;
    uint64_t end = memory + (arg_number("pages", 16) << 12);

    fill(1);
    for (uint64_t at = memory; at < end; at += sizeof(page)) {
        page[0] = at;
        memcpy((void *)at, page, sizeof(page));
    }
    for (uint64_t at = memory; at < end; at += sizeof(page)) {
        page[0] = at;
        for (unsigned i = 0; i < 512; i += 7)
            wrong += MMIO(uint64_t, at + 8 * i) != page[i];
    }
    check(!wrong, "%lu KiB of memory hold what is written", (end - memory) >> 10);
}

/* ---- interrupts ---- */

static void irq_on(void)
{
    ioapic_route(device.irq[0].gsi, VECTOR, device.irq[0].flags);
    put(REG_IRQ_ENABLE, IRQ_RAISED | IRQ_DMA);
    irqs = causeless = causes = ticks = 0;
}

static void irq_off(void)
{
    put(REG_IRQ_ENABLE, 0);
    ioapic_route(device.irq[0].gsi, VECTOR, IOAPIC_MASKED);
}

/*
 * The device raises the next one when the last is acknowledged: none may get lost, and none
 * come without a cause. Where KVM takes the end of a level interrupt to be its delivery (a
 * software KVM does), the line is still high then, so the last one comes again: that is
 * counted, no more.
 */
static void interrupts(const char *when, uint32_t rounds)
{
    irq_on();
    uint32_t before = get(REG_IRQ_COUNT);
    uint64_t begin = rdtsc();
    put(REG_IRQ_RAISE, rounds);
    pit_periodic(20); /* asleep, but for this */
    for (uint32_t seen = 0; irqs < rounds && ticks < 80; irq_wait()) {
        if (irqs != seen)
            ticks = 0;
        seen = irqs;
    }
    pit_stop();
    uint64_t took = (rdtsc() - begin) / rounds;
    wait_irqs(&irqs, rounds + 1, 20); /* one too many would come now */
    check(irqs == rounds && (!causeless || early) && causes == IRQ_RAISED &&
              get(REG_IRQ_COUNT) - before == rounds && !get(REG_IRQ_RAISE) && !get(REG_STATUS),
          "%u interrupts %s: %u came, and %u without a cause%s (%lu cycles each)", rounds, when,
          irqs, causeless, causeless && early ? ", as this KVM ends them early" : "", took);
    irq_off();
}

static void masked_interrupt(void)
{
    put(REG_IRQ_RAISE, 1);
    check(get(REG_IRQ_STATUS) == IRQ_RAISED && !get(REG_STATUS), "no line while not enabled");
    irq_on();
    check(wait_irqs(&irqs, 1, 4000) && irqs == 1, "it comes when enabled");
    irq_off();
}

/* ---- DMA ---- */

static uint32_t dma(uint32_t command, uint64_t src, uint64_t dst, uint32_t len)
{
    MMIO(uint64_t, regs + REG_DMA_SRC) = src;
    MMIO(uint64_t, regs + REG_DMA_DST) = dst;
    put(REG_DMA_LEN, len);
    irqs = causes = 0;
    put(REG_DMA_CMD, command);
    if (!wait_irqs(&irqs, 1, 4000) || irqs != 1 || causes != IRQ_DMA)
        return 1000;
    return get(REG_DMA_STATUS);
}

/* A page copied to the page at ADDR, half of it filled; the bytes around stay. */
static void dma_at(uint64_t addr)
{
    uint8_t *from = (uint8_t *)page, *to = window(addr);

    fill(addr);
    to[0] = 0x77;
    uint32_t status = dma(DMA_COPY, (uintptr_t)from + 1, addr + 1, sizeof(page) - 1);
    check(status == DMA_DONE && !memcmp(to + 1, from + 1, sizeof(page) - 1) && to[0] == 0x77,
          "a copy to %lx", addr);
    put(REG_DMA_FILL, 0x123456ab);
    status = dma(DMA_FILL, 0, addr + 0x800, 0x800);
    memset(from + 0x800, 0xab, 0x800);
    check(status == DMA_DONE && !memcmp(to + 1, from + 1, sizeof(page) - 1), "a fill there");
}

static void dma_errors(void)
{
    uint64_t here = (uintptr_t)page, end = ram_end(UINT64_MAX), sum = 0;

    memset(page, 0, sizeof(page));
    check(dma(DMA_COPY, end, here, 16) == DMA_BAD_SRC &&
              dma(DMA_COPY, end - 8, here, 16) == DMA_BAD_SRC &&
              dma(DMA_COPY, regs, here, 16) == DMA_BAD_SRC &&
              dma(DMA_COPY, UINT64_MAX - 7, here, 16) == DMA_BAD_SRC,
          "no copy from where there is no RAM");
    check(dma(DMA_COPY, here, LAPIC, 4) == DMA_BAD_DST &&
              dma(DMA_FILL, 0, 1ULL << 45, 16) == DMA_BAD_DST,
          "nor to there");
    check(dma(DMA_COPY, here, here, 0) == DMA_BAD_LENGTH &&
              dma(DMA_COPY, here, here, UINT32_MAX) == DMA_BAD_LENGTH &&
              dma(3, here, here, 16) == DMA_BAD_COMMAND,
          "wrong lengths and commands are refused");
    for (unsigned i = 0; i < 512; i++)
        sum |= page[i];
    check(!sum, "no byte of it came");
}

/* ---- reset ---- */

static bool as_new(void)
{
    return get(REG_ID) == ID && !get(REG_SCRATCH) && !get(REG_STATUS) && !get(REG_IRQ_ENABLE) &&
           !get(REG_IRQ_STATUS) && !get(REG_IRQ_RAISE) && !get(REG_IRQ_COUNT) &&
           !MMIO(uint64_t, regs + REG_DMA_SRC) && !get(REG_DMA_STATUS);
}

/* Registers set, and the interrupt line high when nobody listens. */
static void disturb(void)
{
    put(REG_SCRATCH, 0x5a5a5a5a);
    put(REG_IRQ_RAISE, 5);
    put(REG_IRQ_ENABLE, IRQ_RAISED);
    MMIO(uint64_t, regs + REG_DMA_SRC) = 1;
}

static void device_reset(void)
{
    disturb();
    bool high = get(REG_STATUS);
    put(REG_RESET, 1);
    check(high && as_new(), "reset: registers as new, the line is low");
    irq_on(); /* the interrupt of before is still on its way */
    wait_irqs(&causeless, 1, 20);
    irq_off();
}

/* The files of minivmm and of the server are counted while we wait: tests/emulated.sh. */
static void reboots(uint32_t last)
{
    uint8_t boot = cmos_read(CMOS_BOOTS);
    uint32_t id = get(REG_ID);

    if (!arg("faults"))
        check(as_new(), "boot %u: the device is as new", boot);
    else
        print("boot %u: identification %08x\n", boot, id);
    if (!arg("faults") && (boot == 1 || boot == last))
        wait_for_input(boot);
    if (boot == last) {
        check(!arg("faults") || id == UINT32_MAX, "%u resets", last);
        cmos_write(CMOS_BOOTS, 0);
        finish("platform");
    }
    cmos_write(CMOS_BOOTS, (uint8_t)(boot + 1));
    if (!arg("faults")) {
        check(MMIO(uint64_t, memory) != UINT64_MAX, "its memory");
        interrupts("after it", 10);
    }
    for (unsigned i = 0; i < 50; i++) /* with `faults`, it goes away in one of these */
        get(REG_ID);
    disturb();
    outb(0xcf9, 6);
    delay_ms(4000);
    check(false, "no reset");
    finish("platform");
}

/* ---- a server that goes wrong ---- */

static bool all_gone(void)
{
    bool gone = true;

    for (unsigned reg = 0; reg <= REG_RESET; reg += 4)
        gone &= get(reg) == UINT32_MAX;
    for (uint64_t at = memory; at < memory + device.region[1].size; at += 0x800)
        gone &= MMIO(uint64_t, at) == UINT64_MAX;
    return gone;
}

static void faults(const char *expect)
{
    uint32_t id = ID, reads = 0;

    irq_on();
    MMIO(uint64_t, memory) = 1;
    while (id == ID && reads < 200) {
        id = get(REG_ID);
        reads++;
    }
    print("read %08x after %u reads\n", id, reads);
    if (expect[1] == 'e') {
        check(id == UINT32_MAX && get(REG_ID) == ID, "it read all ones once");
        interrupts("after it", 100);
    } else {
        bool gone = false;
        for (unsigned i = 0; i < 400 && !gone; i++) { /* the memory goes a moment later */
            gone = all_gone();
            delay_ms(10);
        }
        check(id == UINT32_MAX && gone, "registers and memory read all ones");
        put(REG_SCRATCH, 1);
        put(REG_DMA_CMD, DMA_COPY);
        MMIO(uint64_t, memory) = 0;
        irqs = 0;
        check(all_gone() && !wait_irqs(&irqs, 1, 20), "and take no writes; no interrupt comes");
    }
}

int main(void)
{
    uint64_t last_low = ram_end(1ULL << 32) - 0x1000, last = ram_end(UINT64_MAX) - 0x1000;

    pic_init(0);
    lapic_enable();
    on_trap(VECTOR, on_irq);
    on_trap(TICK_VECTOR, on_tick);
    ioapic_route(2, TICK_VECTOR, 0);
    if (!find())
        finish("platform");
    if (arg("reboots"))
        reboots((uint32_t)arg_number("reboots", 1));
    if (arg("faults")) {
        faults(arg("faults"));
        finish("platform");
    }
    registers();
    direct_memory();
    masked_interrupt();
    interrupts("acknowledged in the handler", (uint32_t)arg_number("rounds", 10000));
    irq_on();
    dma_at(0x1000000);
    dma_at(last_low);
    if (last != last_low)
        dma_at(last);
    dma_errors();
    device_reset();
    interrupts("after a reset", 100);
    finish("platform");
}
