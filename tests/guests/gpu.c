/*
 * gpu.c: a driver for the test server's PCI device (tests/emulated/gpu.c): BARs sized, moved
 * and reached at their far ends, INTx, MSI, MSI-X on every vector, masking, a copy engine that
 * reaches the last page of RAM, doorbells, firmware that looks for a hypervisor, reset.
 *
 * Words on the command line: `vram=MIB` is what BAR1 should have, `rom=KIB` the expansion ROM
 * (64, the device's own; 8 is a file's, 0 none), `refused` says that the firmware will not
 * start, `nvidia` that the device has NVIDIA's ways, `clique=N` that it is to show one;
 * `reboots=N` and `faults=lost` are as in platform.c.
 */
#include "lib.h"

enum { /* BAR0 */
       REG_ID = 0x00,
       REG_SCRATCH = 0x04,
       REG_INT_STATUS = 0x08,
       REG_INT_ENABLE = 0x0c,
       REG_FW_CPU = 0x20,
       REG_FW_HV = 0x24,
       REG_FW_START = 0x28,
       REG_FW_STATUS = 0x2c,
       REG_CHANNEL = 0x100, /* 0x40 for each */
       CH_SRC = 0x00,
       CH_DST = 0x08,
       CH_LEN = 0x10,
       CH_FLAGS = 0x14,
       CH_VECTOR = 0x18,
       CH_STATUS = 0x1c,
       MEMORY = 0x2000,
       LEGACY_MIRROR = 0x1800,
       CONFIG_MIRROR = 0x88000,
       MSIX_TABLE = 0xb90000,
       MSIX_PBA = 0xb91000,
       DOORBELL = 0xbb0000,
};
enum { ID = 0x67756d65, IO_ID = 0x69756d65 };
enum { /* BAR5 */
       WIN_MASTER = 0x00,
       WIN_ENABLE = 0x04,
       WIN_ADDRESS = 0x08,
       WIN_DATA = 0x0c,
       IO_REG_ID = 0x10,
       IO_REG_SCRATCH = 0x14
};
enum { INTERRUPT_LINE = 0x3c, CAP_VENDOR = 9 };
enum { FW_RUNNING = 1, FW_REFUSED = 43 };
enum { FLAG_SRC_VRAM = 1, FLAG_DST_VRAM = 2 };
enum { CE_IDLE, CE_DONE, CE_BAD_LENGTH, CE_NO_MASTER, CE_BAD_SRC, CE_BAD_DST };
enum { CHANNELS = 4, MSIX_VECTORS = 64, MSI_VECTORS = 8 };
enum { DEVCTL = 8, DEVCTL_FLR = 0x8000, DEVCTL_DEFAULT = 0x2810 }; /* PCI Express capability */
enum { MSI_ENABLE = 1, MSI_ALL = 3 << 4, MSIX_ENABLE = 0x8000, MSIX_MASK_ALL = 0x4000 };
enum { COMMAND_ALL = COMMAND_IO | COMMAND_MEM | COMMAND_MASTER };
enum { VECTOR = 0x80, INTX_VECTOR = 0x60, CMOS_BOOTS = 0x70 };

static uint32_t bdf;
static unsigned msi, msix, express; /* capabilities */
static uint64_t bar[6], size[6];
static uint64_t regs;
static bool nvidia;
static uint64_t acknowledge; /* where a message has to be; 0: nowhere */
static volatile uint32_t irqs, count[MSIX_VECTORS], causeless;
static uint64_t source[512] __attribute__((aligned(4096))); /* a page */
static uint64_t target[CHANNELS][512] __attribute__((aligned(4096)));

static uint32_t get(unsigned reg)
{
    return mmio_read32(regs + reg);
}

static void put(unsigned reg, uint32_t value)
{
    mmio_write32(regs + reg, value);
}

static void command(uint16_t value)
{
    pci_write16(bdf, PCI_COMMAND, value);
}

static bool find(void)
{
    for (bdf = 8; bdf < 256 && pci_read32(bdf, PCI_CLASS) >> 16 != 0x0300;)
        bdf++;
    if (!check(bdf < 256, "a display controller on bus 0"))
        return false;
    msi = pci_capability(bdf, CAP_MSI);
    msix = pci_capability(bdf, CAP_MSIX);
    express = pci_capability(bdf, CAP_EXP);
    nvidia = arg("nvidia") != NULL;
    check(nvidia == ((pci_read32(bdf, 0) & 0xffff) == 0x10de), "the vendor as expected");
    return check(msi && msix && express, "00:%02x.%x %08x, MSI at %x, MSI-X at %x, PCIe at %x",
                 bdf >> 3, bdf & 7, pci_read32(bdf, 0), msi, msix, express);
}

/* ---- BARs ---- */

static uint64_t bar_read(unsigned n)
{
    uint64_t low = pci_read32(bdf, PCI_BAR0 + 4 * n);

    if ((low & 7) == 4)
        low |= (uint64_t)pci_read32(bdf, PCI_BAR0 + 4 * n + 4) << 32;
    return low;
}

static void bar_write(unsigned n, uint64_t value)
{
    bool wide = (pci_read32(bdf, PCI_BAR0 + 4 * n) & 7) == 4;

    pci_write32(bdf, PCI_BAR0 + 4 * n, (uint32_t)value);
    if (wide)
        pci_write32(bdf, PCI_BAR0 + 4 * n + 4, (uint32_t)(value >> 32));
}

static void size_bars(void)
{
    static const uint8_t kind[6] = {0x0, 0xc, 0, 0xc, 0, 0x1};
    uint64_t expect[6] = {16 << 20, arg_number("vram", 256) << 20, 0, 32 << 20, 0, 128};

    command(0);
    for (unsigned n = 0; n < 6; n++) {
        if (n == 2 || n == 4)
            continue; /* upper halves */
        uint64_t was = bar_read(n), flags = was & 1 ? 3 : 15;
        bar_write(n, UINT64_MAX);
        size[n] = bar_read(n) & ~flags;
        size[n] = -(was & 4 ? size[n] : size[n] | ~0xffffffffULL);
        bar_write(n, was);
        bar[n] = was & ~flags;
        check(size[n] == expect[n] && (was & flags) == kind[n] && !(bar[n] & (size[n] - 1)) &&
                  bar_read(n) == was,
              "BAR%u at %lx has %lu bytes", n, bar[n], size[n]);
    }
    pci_write32(bdf, PCI_ROM, 0xfffff800);
    check(-pci_read32(bdf, PCI_ROM) == arg_number("rom", 64) << 10,
          "the expansion ROM has %u bytes", -pci_read32(bdf, PCI_ROM));
    regs = bar[0];
    check(mmio_read32(regs) == UINT32_MAX && inl((uint16_t)bar[5]) == UINT32_MAX &&
              mmio_read32((uintptr_t)window(bar[1])) == UINT32_MAX,
          "nothing is decoded while COMMAND says so");
    command(COMMAND_ALL);
}

static void registers(void)
{
    check(get(REG_ID) == ID, "identification %08x", get(REG_ID));
    put(REG_SCRATCH, 0x12345678);
    MMIO(uint8_t, regs + REG_SCRATCH + 1) = 0xab;
    check(get(REG_SCRATCH) == 0x1234ab78 && MMIO(uint16_t, regs + REG_SCRATCH + 2) == 0x1234 &&
              MMIO(uint64_t, regs) == (0x1234ab78ULL << 32 | ID),
          "scratch register in all widths");
    bool same = true;
    for (unsigned at = MEMORY; at < 0x1000000; at += 0x10000)
        put(at, at + 1);
    for (unsigned at = MEMORY; at < 0x1000000; at += 0x10000)
        same &= get(at) == at + 1;
    check(same, "the memory around the registers");
    uint16_t port = (uint16_t)bar[5];
    outl((uint16_t)(port + IO_REG_SCRATCH), 0xcafef00d);
    outb((uint16_t)(port + IO_REG_SCRATCH + 1), 0x11);
    check(inl((uint16_t)(port + IO_REG_ID)) == IO_ID &&
              inl((uint16_t)(port + IO_REG_SCRATCH)) == 0xcafe110d &&
              inw((uint16_t)(port + IO_REG_SCRATCH + 2)) == 0xcafe &&
              inb((uint16_t)(port + 127)) == 0,
          "ports at %x", port);
}

/* What of the configuration space the guest is shown as the device has it. */
static void config_mirror(void)
{
    const uint16_t fixed[] = {0x00, 0x08, 0x2c, (uint16_t)(express + 4), 0x104, 0x108};
    bool same = true;

    for (unsigned i = 0; i < ARRAY_SIZE(fixed); i++)
        same &=
            mmio_read32(acpi_ecam() + (bdf << 12) + fixed[i]) == get(CONFIG_MIRROR + fixed[i]);
    check(same && (uint16_t)get(CONFIG_MIRROR + PCI_COMMAND) == pci_read16(bdf, PCI_COMMAND),
          "the mirror of the configuration space in BAR0");
}

static uint32_t window_read(uint32_t address)
{
    outl((uint16_t)(bar[5] + WIN_ADDRESS), address);
    return inl((uint16_t)(bar[5] + WIN_DATA));
}

/* On NVIDIA's cards the guest finds in mirrors and window its own view, and reaches that alone:
 * the device's has the host's addresses. */
static void nvidia_mirrors(void)
{
    static const uint32_t mirror[] = {CONFIG_MIRROR, LEGACY_MIRROR};
    uint16_t port = (uint16_t)bar[5];
    unsigned wrong[3] = {0}; /* the last is the window's */

    outl((uint16_t)(port + WIN_MASTER), 1);
    outl((uint16_t)(port + WIN_ENABLE), 1);
    for (unsigned at = 0; at < 0x100; at += 4) {
        uint32_t want = pci_read32(bdf, at);
        for (unsigned i = 0; i < 2; i++) {
            wrong[i] += get(mirror[i] + at) != want;
            wrong[2] += window_read(mirror[i] + at) != want;
        }
    }
    check(!wrong[0] && !wrong[1] && !wrong[2] && get(CONFIG_MIRROR + PCI_BAR0) == bar[0],
          "configuration space in BAR0 and BAR5: %u, %u, %u wrong, BAR0 is at %x", wrong[0],
          wrong[1], wrong[2], get(CONFIG_MIRROR + PCI_BAR0));
    for (unsigned i = 0; i < 3; i++) {
        if (i < 2)
            MMIO(uint8_t, regs + mirror[i] + INTERRUPT_LINE) = (uint8_t)(0x50 + i);
        else
            window_read(CONFIG_MIRROR + INTERRUPT_LINE),
                outb((uint16_t)(port + WIN_DATA), 0x52);
        check((pci_read32(bdf, INTERRUPT_LINE) & 0xff) == 0x50 + i, "written by way %u", i);
    }
    put(CONFIG_MIRROR + PCI_BAR0 + 12, 0xd200000c); /* BAR3 moves */
    check((pci_read32(bdf, PCI_BAR0 + 12) & ~15U) == 0xd2000000 && get(REG_ID) == ID,
          "a BAR moved through it");
    bar_write(3, bar[3]);
    check(window_read(REG_ID) == ID, "the window's other registers are the device's");
    outl((uint16_t)(port + WIN_MASTER), 0);
}

static void clique(void)
{
    uint64_t n = arg_number("clique", 0);
    unsigned at = pci_capability(bdf, CAP_VENDOR);

    check(at == 0xd4 && pci_read32(bdf, at) == 0x50080009 &&
              pci_read32(bdf, at + 4) == (n << 19 | 0x5032),
          "clique %u at %x", (unsigned)n, at);
}

static void rom(void)
{
    uint32_t at = 0xd0000000;

    pci_write32(bdf, PCI_ROM, at | 1);
    uint32_t pcir = at + MMIO(uint16_t, at + 0x18);
    if (arg_number("rom", 64) == 64)
        check(MMIO(uint16_t, at) == 0xaa55 &&
                  !memcmp((const void *)(uintptr_t)pcir, "PCIR", 4) &&
                  mmio_read32(pcir + 4) == pci_read32(bdf, 0),
              "the expansion ROM: signature and PCI data structure");
    else if (arg_number("rom", 64)) /* 5000 bytes, the last of them marked */
        check(MMIO(uint16_t, at) == 0xaa55 && MMIO(uint8_t, at + 4998) == 0 &&
                  MMIO(uint16_t, at + 4999) == 0xff77 && mmio_read32(at + 8188) == UINT32_MAX,
              "the expansion ROM is the file's");
    else
        check(mmio_read32(at) == UINT32_MAX && !pci_read32(bdf, PCI_ROM),
              "there is no expansion ROM");
    pci_write32(bdf, PCI_ROM, at);
    check(mmio_read32(at) == UINT32_MAX, "it goes when it is disabled");
}

static uint64_t vram_mark(uint64_t offset)
{
    return offset * 0x9e3779b97f4a7c15 + 1;
}

/* Marks at both ends of every 2 MiB page that is at a power of two, and of the last. */
static bool vram_marks(uint64_t base, bool write)
{
    bool same = true;

    for (uint64_t page = 0, next = 1 << 21; page < size[1]; page = next, next *= 2) {
        if (next >= size[1] && page + (1 << 21) < size[1])
            page = size[1] - (1 << 21), next = size[1];
        uint8_t *at = window(base + page);
        for (unsigned i = 0; i < 1 << 21; i += (1 << 21) - 8) {
            volatile uint64_t *p = (volatile uint64_t *)(at + i);
            if (write)
                *p = vram_mark(page + i);
            same &= *p == vram_mark(page + i);
        }
    }
    return same;
}

static void far_end(void)
{
    check(vram_marks(bar[1], true) && vram_marks(bar[1], false),
          "BAR1 up to its end, %lu MiB on", size[1] >> 20);
    volatile uint64_t *last = window(bar[1] + size[1] - (1 << 21));
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < 1 << 18; i += 127)
        last[i] = vram_mark(i);
    for (uint32_t i = 0; i < 1 << 18; i += 127)
        wrong += last[i] != vram_mark(i);
    check(!wrong, "its last 2 MiB hold what is written");
    vram_marks(bar[1], true);
}

/* BAR1 goes behind everything, or where there is no room below 4 GiB; BAR3 goes below 4 GiB. */
static void move(unsigned n, uint64_t to)
{
    uint64_t mark = vram_mark(n) & UINT32_MAX, was = bar[n];

    MMIO(uint32_t, window(was + 0x1000)) = (uint32_t)mark;
    command(0);
    bar_write(n, to);
    command(COMMAND_ALL);
    check((bar_read(n) & ~15ULL) == to && MMIO(uint32_t, window(to + 0x1000)) == mark &&
              (n != 1 || vram_marks(to, false)) &&
              MMIO(uint32_t, window(was + 0x1000)) == UINT32_MAX,
          "BAR%u moved to %lx: contents there, nothing at %lx", n, to, was);
    MMIO(uint32_t, window(to + 0x1008)) = ~(uint32_t)mark;
    bar_write(n, was); /* and back, decoded all the while */
    check(MMIO(uint32_t, window(was + 0x1008)) == (uint32_t)~mark &&
              MMIO(uint32_t, window(to + 0x1000)) == UINT32_MAX,
          "and back");
}

static void move_bars(void)
{
    uint64_t end = bar[1] + size[1] > bar[3] + size[3] ? bar[1] + size[1] : bar[3] + size[3];
    uint64_t to = (end + size[1] - 1) & -size[1];

    if (to + size[1] <= 1ULL << (cpuid(0x80000008, 0).eax & 0xff))
        move(1, to);
    else
        print("no room to move BAR1 of %lu MiB\n", size[1] >> 20);
    move(3, 0xd2000000);
}

/* ---- copy engine ---- */

static void ring(unsigned channel, uint64_t src, uint64_t dst, uint32_t len, uint32_t flags,
                 unsigned vector)
{
    uint64_t at = regs + REG_CHANNEL + 0x40 * channel;

    MMIO(uint64_t, at + CH_SRC) = src;
    MMIO(uint64_t, at + CH_DST) = dst;
    mmio_write32(at + CH_LEN, len);
    mmio_write32(at + CH_FLAGS, flags);
    mmio_write32(at + CH_VECTOR, vector);
    put(DOORBELL + 4 * channel, 1);
}

static uint32_t status(unsigned channel)
{
    return get(REG_CHANNEL + 0x40 * channel + CH_STATUS);
}

/* Few instructions: a software KVM has a few million a second. */
static void fill_source(uint64_t seed, unsigned len)
{
    for (unsigned i = 0; i < len / 8; i++)
        source[i] = (seed << 32 | i) * 0x9e3779b97f4a7c15;
}

static bool arrived(const volatile uint64_t *at, unsigned len)
{
    bool same = true;

    for (unsigned i = 0; i < len / 8; i++)
        same &= at[i] == source[i];
    return same;
}

static void forget(void)
{
    irqs = causeless = 0;
    for (unsigned i = 0; i < MSIX_VECTORS; i++)
        count[i] = 0;
}

static void on_message(struct trap *trap)
{
    irqs++;
    count[trap->vector - VECTOR]++;
    if (acknowledge)
        MMIO(uint8_t, acknowledge) = 0xff;
    lapic_eoi();
}

static void on_intx(struct trap *trap)
{
    uint32_t pending = get(REG_INT_STATUS);

    (void)trap;
    if (pending)
        irqs++;
    else
        causeless++;
    put(REG_INT_STATUS, pending);
    get(REG_INT_STATUS); /* the line is low before the end of interrupt */
    lapic_eoi();
}

/* N copies, each with an interrupt that has to be the one of VECTOR(I), and no other. */
static void copies(const char *by, unsigned n, unsigned vectors)
{
    bool exact = true, same = true;

    forget();
    for (unsigned i = 0; i < n && exact; i++) {
        unsigned channel = i % CHANNELS;
        fill_source(i, 256);
        ring(channel, (uintptr_t)source, (uintptr_t)target[channel], 256, 0, i);
        exact = wait_irqs(&irqs, i + 1, 4000) && irqs == i + 1 &&
                (!vectors || count[i % vectors] == i / vectors + 1) &&
                status(channel) == CE_DONE;
        same &= arrived(target[channel], 256);
    }
    wait_irqs(&irqs, n + 1, 20); /* one too many would come now */
    check(exact && same && irqs == n, "%u copies, %u interrupts by %s", n, irqs, by);
}

static void intx(void)
{
    unsigned gsi = pci_intx_gsi(bdf);

    on_trap(INTX_VECTOR, on_intx);
    ioapic_route(gsi, INTX_VECTOR, IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
    put(REG_INT_STATUS, 0xf);
    put(REG_INT_ENABLE, 0xf);
    copies("INTx", 20, 0);
    command(COMMAND_ALL | COMMAND_NO_INTX);
    ring(0, (uintptr_t)source, (uintptr_t)target[0], 16, 0, 0);
    bool pending = false; /* once the device has got so far */
    for (unsigned i = 0; i < 200 && !pending && !wait_irqs(&irqs, 21, 20); i++)
        pending = pci_read16(bdf, PCI_STATUS) & 8;
    check(pending && !wait_irqs(&irqs, 21, 20), "none while disabled, pending in STATUS");
    command(COMMAND_ALL);
    check(wait_irqs(&irqs, 21, 4000) && irqs == 21, "it comes when enabled again");
    put(REG_INT_ENABLE, 0);
    wait_irqs(&causeless, 1, 20); /* where KVM ends them early, one comes again: platform.c */
    ioapic_route(gsi, INTX_VECTOR, IOAPIC_MASKED);
}

static void msi_on(void)
{
    acknowledge = nvidia ? regs + CONFIG_MIRROR + msi : 0;
    pci_write32(bdf, msi + 4, LAPIC | lapic_id() << 12);
    pci_write32(bdf, msi + 8, 0);
    pci_write16(bdf, msi + 12, VECTOR);
    pci_write16(bdf, msi + 2, (uint16_t)(pci_read16(bdf, msi + 2) | MSI_ALL | MSI_ENABLE));
}

static void msi_off(void)
{
    acknowledge = 0;
    pci_write16(bdf, msi + 2, 0);
}

static void msix_entry(unsigned n, bool masked)
{
    uint64_t at = regs + MSIX_TABLE + 16 * n;

    mmio_write32(at, LAPIC | lapic_id() << 12);
    mmio_write32(at + 4, 0);
    mmio_write32(at + 8, VECTOR + n);
    mmio_write32(at + 12, masked);
}

static void msix_on(void)
{
    pci_write16(bdf, msix + 2, MSIX_ENABLE | MSIX_MASK_ALL);
    for (unsigned i = 0; i < MSIX_VECTORS; i++)
        msix_entry(i, false);
    pci_write16(bdf, msix + 2, MSIX_ENABLE);
}

static bool msix_pending(unsigned n)
{
    return get(MSIX_PBA + n / 32 * 4) >> n % 32 & 1;
}

/* A copy whose interrupt is masked by MASK: pending, delivered when UNMASK is called. */
static void masked(const char *how, unsigned vector, void (*mask)(bool masked))
{
    forget();
    mask(true);
    ring(1, (uintptr_t)source, (uintptr_t)target[1], 256, 0, vector);
    for (unsigned i = 0; i < 4000 && !msix_pending(vector); i++)
        delay_ms(1);
    check(msix_pending(vector) && !wait_irqs(&irqs, 1, 20), "%s: pending, not delivered", how);
    mask(false);
    check(wait_irqs(&irqs, 1, 4000) && irqs == 1 && count[vector] == 1 && !msix_pending(vector),
          "delivered when unmasked");
}

static void mask_vector(bool masked)
{
    mmio_write32(regs + MSIX_TABLE + 16 * 37 + 12, masked);
}

static void mask_function(bool masked)
{
    pci_write16(bdf, msix + 2, MSIX_ENABLE | (masked ? MSIX_MASK_ALL : 0));
}

/* Copies as fast as they go on all vectors; every second one finds its vector masked, which is
 * unmasked when the copy is done: none is lost, none comes twice. */
static void storm(void)
{
    enum { ROUNDS = 4 * MSIX_VECTORS };
    bool exact = true;

    forget();
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned vector = i * 7 % MSIX_VECTORS, channel = i % CHANNELS;
        uint64_t control = regs + MSIX_TABLE + 16 * vector + 12;
        /* Two of one vector at a time would be one. */
        exact &= wait_irqs(&count[vector], i / MSIX_VECTORS, 4000);
        irq_enable();
        if (i & 1)
            mmio_write32(control, 1);
        put(REG_INT_STATUS, 1U << channel);
        ring(channel, (uintptr_t)source, (uintptr_t)target[channel], 16, 0, vector);
        for (unsigned n = 0; n < 1000000 && !(get(REG_INT_STATUS) >> channel & 1);)
            n++; /* the message has been sent, too */
        if (i & 1)
            mmio_write32(control, 0);
        irq_disable();
    }
    wait_irqs(&irqs, ROUNDS, 4000);
    wait_irqs(&irqs, ROUNDS + 1, 20);
    for (unsigned i = 0; i < MSIX_VECTORS; i++)
        exact &= count[i] == ROUNDS / MSIX_VECTORS && !msix_pending(i);
    check(exact && irqs == ROUNDS, "a storm of %u on 64 vectors, half of them masked: %u",
          (unsigned)ROUNDS, irqs);
}

static void messages(void)
{
    msi_on();
    copies("8 messages of MSI", 3 * MSI_VECTORS, MSI_VECTORS);
    msi_off();
    msix_on();
    copies("64 vectors of MSI-X", 2 * MSIX_VECTORS, MSIX_VECTORS);
    masked("a masked vector", 37, mask_vector);
    masked("a masked function", 63, mask_function);
    storm();
}

/* Four channels at once; the last page of RAM is where they go. */
static void dma(uint64_t page)
{
    static const uint8_t vector[CHANNELS] = {5, 17, 42, 63};
    uint64_t *to = window(page);
    bool done = true;

    fill_source(page >> 12, sizeof(source));
    memset(to, 0, sizeof(source));
    forget();
    for (unsigned i = 0; i < CHANNELS; i++)
        ring(i, (uintptr_t)source + i * 0x400, page + i * 0x400, 0x400, 0, vector[i]);
    done &= wait_irqs(&irqs, CHANNELS, 4000) && irqs == CHANNELS;
    for (unsigned i = 0; i < CHANNELS; i++)
        done &= status(i) == CE_DONE && count[vector[i]] == 1;
    check(done && arrived(to, sizeof(source)), "four copies at once to %lx", page);
}

static uint32_t try(uint64_t src, uint64_t dst, uint32_t len, uint32_t flags)
{
    forget();
    ring(2, src, dst, len, flags, 9);
    return wait_irqs(&irqs, 1, 4000) && count[9] == 1 ? status(2) : 1000;
}

static void copy_engine(void)
{
    uint64_t here = (uintptr_t)source, there = (uintptr_t)target[0], end = ram_end(UINT64_MAX);
    uint64_t last_low = ram_end(1ULL << 32) - 0x1000;

    dma(last_low);
    if (end - 0x1000 != last_low)
        dma(end - 0x1000);
    fill_source(77, sizeof(source));
    memset(target[0], 0, sizeof(target[0]));
    check(try(here, size[1] - 0x1000, 0x1000, FLAG_DST_VRAM) == CE_DONE &&
              arrived(window(bar[1] + size[1] - 0x1000), 0x1000) &&
              try(size[1] - 0x1000, there, 0x1000, FLAG_SRC_VRAM) == CE_DONE &&
              arrived(target[0], 0x1000),
          "to the end of BAR1 and back");
    check(try(end, there, 16, 0) == CE_BAD_SRC && try(here, end - 8, 16, 0) == CE_BAD_DST &&
              try(size[1] - 8, there, 16, FLAG_SRC_VRAM) == CE_BAD_SRC &&
              try(here, there, 0, 0) == CE_BAD_LENGTH,
          "its errors");
    command(COMMAND_IO | COMMAND_MEM);
    check(try(here, there, 16, 0) == CE_NO_MASTER, "no DMA while not bus master");
    command(COMMAND_ALL);
}

/* ---- firmware, reset ---- */

static void firmware(void)
{
    uint32_t expect = arg("refused") ? FW_REFUSED : FW_RUNNING;

    put(REG_FW_CPU, cpuid(1, 0).ecx);
    put(REG_FW_HV, cpuid(0x40000000, 0).ebx);
    put(REG_FW_START, 1);
    check(get(REG_FW_STATUS) == expect, "firmware: status %u", get(REG_FW_STATUS));
}

static bool as_new(void)
{
    return get(REG_ID) == ID && !get(REG_SCRATCH) && !get(REG_INT_STATUS) &&
           !get(REG_INT_ENABLE) && !get(REG_FW_STATUS) && !get(REG_CHANNEL + CH_LEN) &&
           !status(0) && !status(2) && inl((uint16_t)(bar[5] + IO_REG_SCRATCH)) == 0;
}

static void disturb(void)
{
    put(REG_SCRATCH, 0x5a5a5a5a);
    put(REG_INT_ENABLE, 0xf);
    outl((uint16_t)(bar[5] + IO_REG_SCRATCH), 1);
    ring(0, (uintptr_t)source, (uintptr_t)target[0], 256, 0, 0);
    get(REG_ID);
}

/* What a driver does: settle, configuration space restored, everything set up anew. */
static void function_level_reset(void)
{
    forget();
    disturb();
    wait_irqs(&irqs, 1, 4000);
    pci_write16(bdf, express + DEVCTL, 0x10);
    pci_write16(bdf, express + DEVCTL, DEVCTL_FLR);
    delay_ms(1);
    check(!pci_read16(bdf, PCI_COMMAND) && pci_read16(bdf, express + DEVCTL) == DEVCTL_DEFAULT,
          "function-level reset: COMMAND %x, DEVCTL %x", pci_read16(bdf, PCI_COMMAND),
          pci_read16(bdf, express + DEVCTL));
    for (unsigned n = 0; n < 6; n++)
        if (size[n])
            bar_write(n, bar[n]);
    pci_write16(bdf, msix + 2, 0);
    command(COMMAND_ALL);
    check(as_new(), "registers as new");
    msix_on();
    copies("MSI-X after it", MSIX_VECTORS, MSIX_VECTORS);
    check(mmio_read32((uintptr_t)window(bar[1] + 0x1000)) != UINT32_MAX, "BAR1 is there");
}

static void reboots(uint32_t last)
{
    uint8_t boot = cmos_read(CMOS_BOOTS);

    check(as_new() && !(pci_read16(bdf, msix + 2) & MSIX_ENABLE) &&
              !(pci_read16(bdf, msi + 2) & MSI_ENABLE),
          "boot %u: the device is as new", boot);
    if (boot == 1 || boot == last)
        wait_for_input(boot);
    if (boot == last) {
        cmos_write(CMOS_BOOTS, 0);
        finish("gpu");
    }
    cmos_write(CMOS_BOOTS, (uint8_t)(boot + 1));
    msix_on();
    copies("MSI-X", 8, MSIX_VECTORS);
    disturb();
    outb(0xcf9, 6);
    delay_ms(4000);
    check(false, "no reset");
    finish("gpu");
}

/* ---- a server that goes away ---- */

static bool all_gone(void)
{
    bool gone = pci_read32(bdf, 0) == UINT32_MAX &&
                pci_read16(bdf, PCI_COMMAND) == UINT16_MAX &&
                inl((uint16_t)bar[5]) == UINT32_MAX &&
                MMIO(uint64_t, window(bar[1] + size[1] - 8)) == UINT64_MAX;

    for (unsigned at = 0; at < 0x1000000; at += 0x1000)
        gone &= get(at) == UINT32_MAX;
    return gone;
}

static void lost(void)
{
    bool gone = false;

    msix_on();
    MMIO(uint64_t, window(bar[1] + size[1] - 8)) = 1;
    for (unsigned i = 0; i < 400 && get(REG_ID) == ID; i++)
        put(REG_SCRATCH, i);
    for (unsigned i = 0; i < 400 && !gone; i++) { /* the memory goes a moment later */
        gone = all_gone();
        delay_ms(10);
    }
    check(gone, "configuration space, registers, ports and memory read all ones");
    command(0);
    command(COMMAND_ALL);
    bar_write(1, bar[1]);
    forget();
    ring(0, (uintptr_t)source, (uintptr_t)target[0], 256, 0, 0);
    check(all_gone() && !wait_irqs(&irqs, 1, 20), "and take no writes; no interrupt comes");
    finish("gpu");
}

int main(void)
{
    pic_init(0);
    lapic_enable();
    for (unsigned i = 0; i < MSIX_VECTORS; i++)
        on_trap(VECTOR + i, on_message);
    if (!find())
        finish("gpu");
    size_bars();
    if (arg("reboots"))
        reboots((uint32_t)arg_number("reboots", 1));
    if (arg("faults"))
        lost();
    registers();
    if (nvidia)
        nvidia_mirrors();
    else
        config_mirror();
    if (arg("clique"))
        clique();
    rom();
    far_end();
    move_bars();
    firmware();
    intx();
    messages();
    copy_engine();
    function_level_reset();
    finish("gpu");
}
