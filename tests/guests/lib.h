/*
 * lib.h: what the tiny guests share: output on COM1, verdicts, traps, and the chips of a PC.
 *
 * A guest is one C file with a main() that ends in finish(); start.S brings it there in 64-bit
 * mode with the first 4 GiB identity-mapped (from 3 GiB on uncached) and interrupts off. lib.c
 * needs nothing but a processor and a serial port, pc.c drives the PC's chips. Nothing here is
 * specific to minivmm but the debug-exit port; the rest also runs on QEMU.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* --- lib.c: output and verdict --- */

/* %s %c %d %u %x, with `l` for 64 bits, and widths such as %02x. */
void print(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* One line `ok   TEXT` or `FAIL TEXT`; finish() counts them. Returns OK. */
bool check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints the sum and ends the virtual machine by the debug-exit port: 0 pass, 1 fail; where that
 * is off, by power-off or a crash. */
_Noreturn void finish(const char *name);

void *memset(void *to, int value, size_t len);
void *memcpy(void *to, const void *from, size_t len);
int memcmp(const void *a, const void *b, size_t len);

/* --- lib.c: how we were started (PVH start info, Xen's arch-x86/hvm/start_info.h) --- */

struct start_info {
    uint32_t magic; /* START_INFO_MAGIC */
    uint32_t version;
    uint32_t flags;
    uint32_t nr_modules;
    uint64_t modules;
    uint64_t cmdline;
    uint64_t rsdp;
    uint64_t memmap; /* struct memmap_entry, from version 1 on */
    uint32_t memmap_entries;
    uint32_t reserved;
};
#define START_INFO_MAGIC 0x336ec578

struct memmap_entry {
    uint64_t base, size;
    uint32_t type; /* MEMMAP_RAM, ... as in E820 */
    uint32_t reserved;
};
#define MEMMAP_RAM      1
#define MEMMAP_RESERVED 2

const struct start_info *start_info_get(void);
/* The command line is words: a word `NAME` or `NAME=VALUE`. Returns what follows NAME ("" or
 * "=VALUE ..."), NULL when there is none. */
const char *arg(const char *name);
uint64_t arg_number(const char *name, uint64_t otherwise);

/* Where the highest RAM that begins below LIMIT ends. */
uint64_t ram_end(uint64_t limit);

/* Maps the 2 MiB around physical ADDR at a fixed place (one window, one processor). */
void *window(uint64_t addr);

/* --- lib.c: traps --- */

struct trap { /* as trap_common in start.S pushes it */
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};
void on_trap(unsigned vector, void (*handler)(struct trap *trap));
void triple_fault(void);
void traps_load(void); /* on each processor; start.S's callees do it */

/* An instruction at label FROM that traps is skipped: execution goes on at label TO. */
#define FIXUP(from, to) ".pushsection .fixup, \"a\"; .quad " from ", " to "; .popsection\n"

/* --- instructions --- */

#define PORT_ACCESSORS(type, suffix)                                                     \
    static inline void out##suffix(uint16_t port, type value)                            \
    {                                                                                    \
        __asm__ volatile("out" #suffix " %0, %1" : : "a"(value), "Nd"(port) : "memory"); \
    }                                                                                    \
    static inline type in##suffix(uint16_t port)                                         \
    {                                                                                    \
        type value;                                                                      \
        __asm__ volatile("in" #suffix " %1, %0" : "=a"(value) : "Nd"(port) : "memory");  \
        return value;                                                                    \
    }
PORT_ACCESSORS(uint8_t, b)
PORT_ACCESSORS(uint16_t, w)
PORT_ACCESSORS(uint32_t, l)

#define MMIO(type, addr)  (*(volatile type *)(uintptr_t)(addr))
#define mmio_read32(addr) MMIO(uint32_t, addr)

static inline void mmio_write32(uintptr_t addr, uint32_t value)
{
    MMIO(uint32_t, addr) = value;
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* False when it traps. */
static inline bool rdmsr(uint32_t msr, uint64_t *value)
{
    uint32_t low = 0, high = 0, ok = 0;
    __asm__ volatile("1: rdmsr; movl $1, %0; 2:\n" FIXUP("1b", "2b")
                     : "+r"(ok), "+a"(low), "+d"(high)
                     : "c"(msr)
                     : "memory");
    *value = (uint64_t)high << 32 | low;
    return ok;
}

static inline bool wrmsr(uint32_t msr, uint64_t value)
{
    uint32_t ok = 0;
    __asm__ volatile("1: wrmsr; movl $1, %0; 2:\n" FIXUP("1b", "2b")
                     : "+r"(ok)
                     : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
    return ok;
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid"
                     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
                     : "a"(leaf), "c"(subleaf));
    return r;
}

static inline void irq_enable(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void irq_disable(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void cpu_relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* Sleeps until an interrupt has been taken; interrupts are off before and after. */
static inline void irq_wait(void)
{
    __asm__ volatile("sti; hlt; cli" : : : "memory");
}

/* --- pc.c: ports and addresses --- */

#define DEBUG_EXIT 0xf4
#define COM1       0x3f8
#define PM1_STS    0x600 /* ACPI fixed hardware: where minivmm and QEMU's q35 have it */
#define PM1_EN     0x602
#define PM1_CNT    0x604
#define PM_TIMER   0x608
#define PM_HZ      3579545
#define IOAPIC     0xfec00000
#define LAPIC      0xfee00000

/* --- pc.c: time --- */

uint32_t pm_ticks(uint32_t ms);
void delay_ms(uint32_t ms);
/* Waits until *COUNT has reached VALUE, at most MS; returns whether it has. Interrupts stay as
 * they are. */
bool wait_count(const volatile uint32_t *count, uint32_t value, uint32_t ms);
/* The same with interrupts on meanwhile. */
bool wait_irqs(const volatile uint32_t *count, uint32_t value, uint32_t ms);

/* Prints `boot BOOT` and `wait`, then waits for a byte on COM1, some seconds at most. */
void wait_for_input(unsigned boot);

#define PIT_HZ 1193182
void pit_periodic(uint32_t hz); /* channel 0, mode 2 */
void pit_stop(void);
uint8_t cmos_read(uint8_t reg);
void cmos_write(uint8_t reg, uint8_t value);

/* --- pc.c: interrupts --- */

#define PIC_VECTOR 0x20          /* IRQ 0; IRQ 15 is 0x2f */
void pic_init(uint16_t enabled); /* a bit for each IRQ */
void pic_eoi(unsigned irq);

enum { /* local APIC registers, Intel SDM volume 3, table 11-1 */
       LAPIC_ID = 0x20,
       LAPIC_VERSION = 0x30,
       LAPIC_TPR = 0x80,
       LAPIC_EOI = 0xb0,
       LAPIC_LDR = 0xd0,
       LAPIC_DFR = 0xe0,
       LAPIC_SVR = 0xf0,
       LAPIC_ISR = 0x100, /* 8 of 32 bits */
       LAPIC_ESR = 0x280,
       LAPIC_ICR = 0x300,
       LAPIC_ICR_HIGH = 0x310,
       LAPIC_LVT_TIMER = 0x320,
       LAPIC_LVT_LINT0 = 0x350,
       LAPIC_LVT_LINT1 = 0x360,
       LAPIC_TIMER_INITIAL = 0x380,
       LAPIC_TIMER_CURRENT = 0x390,
       LAPIC_TIMER_DIVIDE = 0x3e0,
};
#define LVT_MASKED         0x10000
#define LVT_TSC_DEADLINE   0x40000
#define ICR_INIT           0x4500 /* INIT, assert */
#define ICR_STARTUP        0x4600
#define ICR_FIXED          0x4000
#define ICR_ALL_BUT_SELF   0xc0000
#define IOAPIC_LEVEL       0x8000
#define IOAPIC_ACTIVE_LOW  0x2000
#define IOAPIC_MASKED      0x10000
#define IOAPIC_REDIRECT(n) (0x10 + 2 * (n))

static inline uint32_t lapic_read(unsigned reg)
{
    return mmio_read32(LAPIC + reg);
}

static inline void lapic_write(unsigned reg, uint32_t value)
{
    mmio_write32(LAPIC + reg, value);
}

static inline void lapic_eoi(void)
{
    lapic_write(LAPIC_EOI, 0);
}

static inline unsigned lapic_id(void)
{
    return lapic_read(LAPIC_ID) >> 24;
}

/* False in VECTOR's own handler: this KVM does not wait for the end of interrupt. */
static inline bool lapic_in_service(unsigned vector)
{
    return lapic_read(LAPIC_ISR + vector / 32 * 0x10) >> vector % 32 & 1;
}

void lapic_enable(void);
void lapic_ipi(unsigned apic_id, uint32_t icr);
uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t value);
/* Input PIN interrupts this processor with VECTOR; FLAGS: IOAPIC_LEVEL, ... */
void ioapic_route(unsigned pin, unsigned vector, uint32_t flags);

/* --- pc.c: PCI configuration space, mechanism #1 (bus 0 to 255, by CF8 and CFC) --- */

#define PCI_BDF(bus, slot, fn) ((uint32_t)((bus) << 8 | (slot) << 3 | (fn)))
uint32_t pci_read32(uint32_t bdf, unsigned reg);
void pci_write32(uint32_t bdf, unsigned reg, uint32_t value);
uint16_t pci_read16(uint32_t bdf, unsigned reg);
void pci_write16(uint32_t bdf, unsigned reg, uint16_t value);
uint8_t pci_read8(uint32_t bdf, unsigned reg);
/* Where the capability ID is, or 0. */
unsigned pci_capability(uint32_t bdf, uint8_t id);
/* The input of the IOAPIC, as minivmm's ACPI tables have it. */
unsigned pci_intx_gsi(uint32_t bdf);

enum { /* registers of every function */
       PCI_COMMAND = 0x04,
       PCI_STATUS = 0x06,
       PCI_CLASS = 0x08,
       PCI_BAR0 = 0x10,
       PCI_ROM = 0x30,
       PCI_CAPABILITIES = 0x34,
       PCI_IRQ_LINE = 0x3c,
       PCI_IRQ_PIN = 0x3d,
};
enum { COMMAND_IO = 1, COMMAND_MEM = 2, COMMAND_MASTER = 4, COMMAND_NO_INTX = 0x400 };
enum { CAP_PM = 1, CAP_MSI = 5, CAP_EXP = 0x10, CAP_MSIX = 0x11 };

/* --- pc.c: ACPI tables --- */

struct acpi_header {
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision, creator_id, creator_revision;
} __attribute__((packed));

struct acpi_rsdp {
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct acpi_madt {
    struct acpi_header header;
    uint32_t lapic, flags;
    uint8_t entries[];
} __attribute__((packed));

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2 };

uint8_t acpi_sum(const void *data, size_t len);
const struct acpi_rsdp *acpi_scan(void); /* in 0xE0000-0xFFFFF, as firmware leaves it */
const struct acpi_rsdp *acpi_root(void); /* the start info's, else the one found */
const struct acpi_header *acpi_table(const char *signature);
const struct acpi_header *acpi_dsdt(void);
uint64_t acpi_ecam(void); /* of bus 0, from MCFG; 0: none */
/* The entry of the MADT after ENTRY (NULL: the first); NULL at the end. */
const uint8_t *acpi_madt_next(const uint8_t *entry);

/* What _CRS of a device says. */
struct acpi_resources {
    unsigned regions, irqs;
    struct {
        uint32_t base, size;
    } region[8];
    struct {
        uint32_t gsi, flags; /* IOAPIC_LEVEL, ... */
    } irq[8];
};
/* Finds the device with the _HID PRP0001 and this `compatible` property in the DSDT. */
bool acpi_find_device(const char *compatible, struct acpi_resources *out);

/* --- pc.c: the other processors --- */

#define AP_MAX 63
unsigned cpus_in_madt(void);
/* Starts the other processors one after another (or ALL_AT_ONCE); each calls RUN with its own
 * number from 1 up and, when RUN returns, halts for ever. Returns how many have come up. */
unsigned smp_start(void (*run)(unsigned cpu), bool all_at_once);
