/*
 * device.c: a guest that measures the ways between it and the test server's platform device
 * (tests/emulated/platform.c): a register that is trapped, memory that is direct, an interrupt.
 * Prints a line each: NAME: median of N in nanoseconds, by the TSC, which is measured against
 * the PM timer. The registers are those of tests/guests/platform.c.
 */
#include "tests/guests/lib.h"

enum { REG_ID = 0x00, REG_IRQ_ENABLE = 0x10, REG_IRQ_STATUS = 0x14, REG_IRQ_RAISE = 0x18 };
enum { VECTOR = 0x60, ROUNDS = 201 };

static uint64_t regs, memory, khz;
static uint64_t took[ROUNDS];
static volatile uint64_t came; /* when the interrupt did */

static void on_irq(struct trap *trap)
{
    (void)trap;
    came = rdtsc();
    mmio_write32(regs + REG_IRQ_STATUS, 1);
    lapic_eoi();
}

static void report(const char *name, unsigned each)
{
    for (unsigned i = 1; i < ROUNDS; i++)
        for (unsigned k = i; k && took[k] < took[k - 1]; k--) {
            uint64_t t = took[k];
            took[k] = took[k - 1], took[k - 1] = t;
        }
    print("%s: %lu ns\n", name, took[ROUNDS / 2] * 1000000 / khz / each);
}

static void reads(const char *name, uint64_t at, unsigned each)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t begin = rdtsc();
        for (unsigned k = 0; k < each; k++)
            (void)mmio_read32(at);
        took[i] = rdtsc() - begin;
    }
    report(name, each);
}

/* From the write that raises it to the handler: out by the socket, back by two eventfds. */
static void interrupts(const struct acpi_resources *device)
{
    on_trap(VECTOR, on_irq);
    ioapic_route(device->irq[0].gsi, VECTOR, device->irq[0].flags);
    mmio_write32(regs + REG_IRQ_ENABLE, 1);
    for (unsigned i = 0; i < ROUNDS; i++) {
        came = 0;
        uint64_t begin = rdtsc();
        mmio_write32(regs + REG_IRQ_RAISE, 1);
        irq_wait();
        took[i] = came - begin;
        for (unsigned k = 0; k < 20; k++) { /* what comes again: platform.c */
            irq_enable();
            cpu_relax();
            irq_disable();
        }
    }
    report("write to interrupt", 1);
}

int main(void)
{
    struct acpi_resources device;

    pic_init(0);
    lapic_enable();
    if (!check(acpi_find_device("minivmm,emu-platform", &device), "platform device"))
        finish("device");
    regs = device.region[0].base;
    memory = device.region[1].base;
    uint64_t begin = rdtsc();
    delay_ms(100);
    khz = (rdtsc() - begin) / 100;
    static volatile uint32_t ram;
    reads("RAM read", (uintptr_t)&ram, 50);
    reads("direct read", memory, 50);
    reads("trapped read, by the socket", regs + REG_ID, 1);
    reads("trapped read, in this process (PCI)", acpi_ecam(), 1);
    interrupts(&device);
    finish("device");
}
