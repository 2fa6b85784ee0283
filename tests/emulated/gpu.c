/*
 * gpu.c: a PCI display device shaped like a large GPU: the BARs, capabilities and odd corners
 * that make real ones hard to pass through, and a copy engine with four channels. The registers
 * are in README.md. It shows no picture.
 *
 * Configuration space is that of PCI 3.0 section 6.1 with the PCI Express capability (PCIe 3.0
 * section 7.8): BARs can be sized, but their addresses mean nothing here, nor do the MSI and
 * MSI-X registers: interrupts go where the client says by SET_IRQS. Vendor and device number
 * are made up, so that no driver of Linux takes the device; with the option nvidia they are a
 * GeForce's, the host's addresses are in its configuration space, and an MSI has to be
 * acknowledged as there.
 */
#include <ctype.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "tests/emulated/emu.h"

enum { BAR0, BAR1, BAR3 = 3, BAR5 = 5, ROM, CONFIG };
enum { VENDOR_ID = 0x6d76, DEVICE_ID = 0x6770, NV_VENDOR_ID = 0x10de, NV_DEVICE_ID = 0x1b80 };

/* BAR0: a page of registers at the start; most of the rest is memory that may be mapped. */
enum {
    REG_ID = 0x00,
    REG_SCRATCH = 0x04,
    REG_INT_STATUS = 0x08,  /* a bit for each channel */
    REG_INT_ENABLE = 0x0c,  /* for INTx only */
    REG_MSI_WAITING = 0x10, /* bit 31: for an acknowledge; a bit for each message until then */
    REG_FW_CPU = 0x20,      /* what the driver found: CPUID 1, ECX */
    REG_FW_HV = 0x24,       /* CPUID 0x40000000, EBX */
    REG_FW_START = 0x28,
    REG_FW_STATUS = 0x2c,
    REG_CHANNEL = 0x100, /* 0x40 for each */
    CH_SRC = 0x00,
    CH_DST = 0x08,
    CH_LEN = 0x10,
    CH_FLAGS = 0x14,
    CH_VECTOR = 0x18,
    CH_STATUS = 0x1c,
    LEGACY_MIRROR = 0x1800, /* where NVIDIA's cards have them */
    CONFIG_MIRROR = 0x088000,
    MSIX_TABLE = 0xb90000,
    MSIX_PBA = 0xb91000,
    DOORBELL = 0xbb0000, /* a register for each channel */
};
enum { FW_OFF, FW_RUNNING, FW_REFUSED = 43 };
enum { FLAG_SRC_VRAM = 1, FLAG_DST_VRAM = 2 };
enum { CE_IDLE, CE_DONE, CE_BAD_LENGTH, CE_NO_MASTER, CE_BAD_SRC, CE_BAD_DST };

/* BAR5: a window to BAR0, as NVIDIA's cards have it. */
enum {
    WIN_MASTER = 0x00,
    WIN_ENABLE = 0x04,
    WIN_ADDRESS = 0x08,
    WIN_DATA = 0x0c,
    IO_ID = 0x10,
    IO_SCRATCH = 0x14
};

/* Configuration space. */
enum { CAP_PM = 0x60, CAP_MSI = 0x68, CAP_EXP = 0x78, CAP_MSIX = 0xc8, CAP_DSN = 0x100 };

#define COPY_MAX   (64U << 20)
#define COPY_CHUNK 65536U

#define MSI_UNACKNOWLEDGED (1U << 31)

/* ---- interrupts ---- */

/* The INTx line, from the status of the channels and the COMMAND register. */
static void update(struct emu *emu, const struct emu_reg *reg)
{
    uint64_t command = emu_get(emu, CONFIG, PCI_COMMAND, 2);
    bool pending =
        emu_get(emu, BAR0, REG_INT_STATUS, 4) & emu_get(emu, BAR0, REG_INT_ENABLE, 4);

    (void)reg;
    emu_put(emu, CONFIG, PCI_STATUS, 2,
            PCI_STATUS_CAP_LIST | (pending ? PCI_STATUS_INTERRUPT : 0));
    emu_line(emu, VFIO_PCI_INTX_IRQ_INDEX, pending && !(command & PCI_COMMAND_INTX_DISABLE));
}

/* One message, and the next when it has been acknowledged. */
static void msi(struct emu *emu, unsigned message)
{
    uint32_t waiting = (uint32_t)emu_get(emu, BAR0, REG_MSI_WAITING, 4);

    if (!emu->config.nvidia || !(waiting & MSI_UNACKNOWLEDGED)) {
        emu_message(emu, VFIO_PCI_MSI_IRQ_INDEX, message);
        waiting |= MSI_UNACKNOWLEDGED;
    } else {
        waiting |= 1U << message;
    }
    emu_put(emu, BAR0, REG_MSI_WAITING, 4, waiting);
}

/* A write to the capability's id, which is read-only: by the mirror, for drivers cannot do it
 * in configuration space. */
static void msi_acknowledge(struct emu *emu, const struct emu_reg *reg)
{
    uint32_t waiting = (uint32_t)emu_get(emu, BAR0, REG_MSI_WAITING, 4) & ~MSI_UNACKNOWLEDGED;
    unsigned next = (unsigned)__builtin_ffs((int)waiting);

    (void)reg;
    emu_put(emu, BAR0, REG_MSI_WAITING, 4, waiting & (waiting - 1));
    if (next)
        msi(emu, next - 1);
}

/* A device with fewer MSI messages than it wants uses their lowest bits; MSI-X has all or, as
 * far as it can tell, none of a vector. */
static void interrupt(struct emu *emu, unsigned channel, unsigned vector)
{
    uint64_t status = emu_get(emu, BAR0, REG_INT_STATUS, 4);
    unsigned messages = emu_armed(emu, VFIO_PCI_MSI_IRQ_INDEX);

    emu_put(emu, BAR0, REG_INT_STATUS, 4, status | 1U << channel);
    if (emu_armed(emu, VFIO_PCI_MSIX_IRQ_INDEX))
        emu_message(emu, VFIO_PCI_MSIX_IRQ_INDEX, vector);
    else if (messages)
        msi(emu, vector % messages);
    update(emu, NULL);
}

/* ---- copy engine ---- */

static bool transfer(struct emu *emu, bool vram, bool write, uint64_t addr, void *buf,
                     uint32_t n)
{
    if (vram)
        return !emu_region_access(emu, write, BAR1, addr, buf, n);
    return !emu_dma(emu, write, addr, buf, n);
}

static uint32_t copy(struct emu *emu, uint32_t channel)
{
    uint64_t src = emu_get(emu, BAR0, channel + CH_SRC, 8);
    uint64_t dst = emu_get(emu, BAR0, channel + CH_DST, 8);
    uint64_t len = emu_get(emu, BAR0, channel + CH_LEN, 4);
    uint64_t flags = emu_get(emu, BAR0, channel + CH_FLAGS, 4);
    uint8_t buf[COPY_CHUNK];

    if (!len || len > COPY_MAX)
        return CE_BAD_LENGTH;
    if (!(emu_get(emu, CONFIG, PCI_COMMAND, 2) & PCI_COMMAND_MASTER))
        return CE_NO_MASTER;
    for (uint32_t n; len; len -= n, src += n, dst += n) {
        n = (uint32_t)MIN(len, COPY_CHUNK);
        if (!transfer(emu, flags & FLAG_SRC_VRAM, false, src, buf, n))
            return CE_BAD_SRC;
        if (!transfer(emu, flags & FLAG_DST_VRAM, true, dst, buf, n))
            return CE_BAD_DST;
    }
    return CE_DONE;
}

static void ring(struct emu *emu, const struct emu_reg *reg)
{
    unsigned n = (reg->offset - DOORBELL) / 4;
    uint32_t channel = REG_CHANNEL + n * 0x40;

    emu_put(emu, BAR0, channel + CH_STATUS, 4, copy(emu, channel));
    interrupt(emu, n, (unsigned)emu_get(emu, BAR0, channel + CH_VECTOR, 4));
}

/* ---- firmware ---- */

/* With the option strict it starts only for a driver that found no hypervisor: neither the bit
 * that says so (CPUID 1, ECX bit 31) nor a name in 0x40000000, where processors without one
 * answer with numbers. */
static void fw_start(struct emu *emu, const struct emu_reg *reg)
{
    uint64_t ecx = emu_get(emu, BAR0, REG_FW_CPU, 4), ebx = emu_get(emu, BAR0, REG_FW_HV, 4);
    bool name = true;

    (void)reg;
    for (unsigned i = 0; i < 4; i++)
        name &= isalpha((int)(ebx >> 8 * i & 0xff)) != 0;
    bool refuse = emu->config.strict && (!ecx || ecx >> 31 || name);
    emu_put(emu, BAR0, REG_FW_STATUS, 4, refuse ? FW_REFUSED : FW_RUNNING);
}

/* ---- ports ---- */

static bool window_is_open(const struct emu *emu)
{
    return emu_get(emu, BAR5, WIN_MASTER, 4) & emu_get(emu, BAR5, WIN_ENABLE, 4) & 1;
}

/* What is at the address is in DATA from now on. */
static void window_select(struct emu *emu, const struct emu_reg *reg)
{
    uint8_t data[4] = {0};

    (void)reg;
    if (window_is_open(emu) &&
        emu_region_access(emu, false, BAR0, emu_get(emu, BAR5, WIN_ADDRESS, 4), data, 4))
        memset(data, 0xff, sizeof(data));
    emu_put(emu, BAR5, WIN_DATA, 4, get_le32(data));
}

static void window_write(struct emu *emu, const struct emu_reg *reg)
{
    uint8_t data[4];

    put_le32(data, (uint32_t)emu_get(emu, BAR5, reg->offset, 4));
    if (window_is_open(emu))
        emu_region_access(emu, true, BAR0, emu_get(emu, BAR5, WIN_ADDRESS, 4), data, 4);
}

/* ---- configuration space ---- */

/* A BAR keeps the bits above its size, and says what it is. The second half of a 64-bit one
 * belongs to the region before. */
static void bar_write(struct emu *emu, const struct emu_reg *reg)
{
    unsigned bar = reg->offset == PCI_ROM_ADDRESS ? ROM : (reg->offset - 0x10) / 4;
    bool high = !emu->region[bar].size;
    uint64_t mask = ~(emu->region[high ? bar - 1 : bar].size - 1), value;

    value = emu_get(emu, CONFIG, reg->offset, 4);
    if (bar == ROM)
        mask |= PCI_ROM_ADDRESS_ENABLE;
    value = (value & (high ? mask >> 32 : mask)) | reg->reset;
    emu_put(emu, CONFIG, reg->offset, 4, value);
}

static void devctl_write(struct emu *emu, const struct emu_reg *reg)
{
    uint64_t value = emu_get(emu, CONFIG, reg->offset, 2);

    emu_put(emu, CONFIG, reg->offset, 2, value & ~(uint64_t)PCI_EXP_DEVCTL_BCR_FLR);
    if (value & PCI_EXP_DEVCTL_BCR_FLR) /* of a bridge; of a device it is the FLR bit */
        emu_reset(emu);
}

#define BAR(n, kind)                                                            \
    {                                                                           \
        0x10 + 4 * (n), 4, .name = "BAR" #n, .reset = (kind), .rw = UINT32_MAX, \
                           .on_write = bar_write                                \
    }
#define MEM64 (PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH)

static const struct emu_reg config_regs[] = {
    {PCI_VENDOR_ID, 2, .name = "VENDOR_ID", .reset = VENDOR_ID},
    {PCI_DEVICE_ID, 2, .name = "DEVICE_ID", .reset = DEVICE_ID},
    {PCI_COMMAND, 2, .name = "COMMAND", .rw = 0x547, .on_write = update},
    {PCI_STATUS, 2, .name = "STATUS", .reset = PCI_STATUS_CAP_LIST},
    {PCI_CLASS_REVISION, 4, .name = "CLASS", .reset = 0x03000001},
    {PCI_CACHE_LINE_SIZE, 1, .name = "CACHE_LINE_SIZE", .rw = 0xff},
    BAR(0, 0),
    BAR(1, MEM64),
    BAR(2, 0),
    BAR(3, MEM64),
    BAR(4, 0),
    BAR(5, PCI_BASE_ADDRESS_SPACE_IO),
    {PCI_SUBSYSTEM_VENDOR_ID, 2, .name = "SUBSYSTEM_VENDOR", .reset = VENDOR_ID},
    {PCI_SUBSYSTEM_ID, 2, .name = "SUBSYSTEM_ID", .reset = 1},
    {PCI_ROM_ADDRESS, 4, .name = "ROM", .rw = UINT32_MAX, .on_write = bar_write},
    {PCI_CAPABILITY_LIST, 1, .name = "CAPABILITIES", .reset = CAP_PM},
    {PCI_INTERRUPT_LINE, 1, .name = "INTERRUPT_LINE", .rw = 0xff},
    {PCI_INTERRUPT_PIN, 1, .name = "INTERRUPT_PIN", .reset = 1},

    {CAP_PM, 4, .name = "PM", .reset = 0x00030000 | CAP_MSI << 8 | PCI_CAP_ID_PM},
    {CAP_PM + PCI_PM_CTRL, 2, .name = "PM_CTRL", .reset = PCI_PM_CTRL_NO_SOFT_RESET, .rw = 3},

    {CAP_MSI, 2, .name = "MSI", .reset = CAP_EXP << 8 | PCI_CAP_ID_MSI,
     .on_write = msi_acknowledge},
    {CAP_MSI + PCI_MSI_FLAGS, 2, .name = "MSI_FLAGS", /* 8 messages, 64-bit addresses */
     .reset = PCI_MSI_FLAGS_64BIT | 3 << 1, .rw = PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE},
    {CAP_MSI + PCI_MSI_ADDRESS_LO, 4, .name = "MSI_ADDRESS_LO", .rw = 0xfffffffc},
    {CAP_MSI + PCI_MSI_ADDRESS_HI, 4, .name = "MSI_ADDRESS_HI", .rw = UINT32_MAX},
    {CAP_MSI + PCI_MSI_DATA_64, 2, .name = "MSI_DATA", .rw = 0xffff},

    {CAP_EXP, 4, .name = "EXP", .reset = 0x00020000 | CAP_MSIX << 8 | PCI_CAP_ID_EXP},
    {CAP_EXP + PCI_EXP_DEVCAP, 4, .name = "DEVCAP",
     .reset = PCI_EXP_DEVCAP_FLR | PCI_EXP_DEVCAP_RBER | 1 /* payload of 256 bytes */},
    {CAP_EXP + PCI_EXP_DEVCTL, 2, .name = "DEVCTL", .reset = 0x2810, .rw = 0xffff,
     .on_write = devctl_write},
    {CAP_EXP + PCI_EXP_DEVSTA, 2, .name = "DEVSTA", .w1c = 0xf},
    {CAP_EXP + PCI_EXP_LNKCAP, 4, .name = "LNKCAP", .reset = 0x00000103}, /* 8 GT/s, x16 */
    {CAP_EXP + PCI_EXP_LNKCTL, 2, .name = "LNKCTL", .rw = 0x43},
    {CAP_EXP + PCI_EXP_LNKSTA, 2, .name = "LNKSTA", .reset = 0x1103},

    {CAP_MSIX, 2, .name = "MSIX", .reset = PCI_CAP_ID_MSIX},
    {CAP_MSIX + PCI_MSIX_FLAGS, 2, .name = "MSIX_FLAGS", .reset = EMU_VECTORS_MAX - 1,
     .rw = PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL},
    {CAP_MSIX + PCI_MSIX_TABLE, 4, .name = "MSIX_TABLE", .reset = MSIX_TABLE | BAR0},
    {CAP_MSIX + PCI_MSIX_PBA, 4, .name = "MSIX_PBA", .reset = MSIX_PBA | BAR0},

    {CAP_DSN, 4, .name = "DSN", .reset = 0x00010000 | PCI_EXT_CAP_ID_DSN},
    {CAP_DSN + 4, 8, .name = "DSN_NUMBER", .reset = 0x6d766d0000000001},
};

#define CHANNEL(n)                                                                     \
    {REG_CHANNEL + 0x40 * (n) + CH_SRC, 8, .name = "SRC" #n, .rw = UINT64_MAX},        \
        {REG_CHANNEL + 0x40 * (n) + CH_DST, 8, .name = "DST" #n, .rw = UINT64_MAX},    \
        {REG_CHANNEL + 0x40 * (n) + CH_LEN, 4, .name = "LEN" #n, .rw = UINT32_MAX},    \
        {REG_CHANNEL + 0x40 * (n) + CH_FLAGS, 4, .name = "FLAGS" #n, .rw = 3},         \
        {REG_CHANNEL + 0x40 * (n) + CH_VECTOR, 4, .name = "VECTOR" #n,                 \
         .rw = EMU_VECTORS_MAX - 1},                                                   \
        {REG_CHANNEL + 0x40 * (n) + CH_STATUS, 4, .name = "STATUS" #n},                \
    {                                                                                  \
        DOORBELL + 4 * (n), 4, true, "DOORBELL" #n, .rw = UINT32_MAX, .on_write = ring \
    }

static const struct emu_reg bar0_regs[] = {
    {REG_ID, 4, .name = "ID", .reset = 0x67756d65}, /* "emug" */
    {REG_SCRATCH, 4, .name = "SCRATCH", .rw = UINT32_MAX},
    {REG_INT_STATUS, 4, .name = "INT_STATUS", .w1c = 0xf, .on_write = update},
    {REG_INT_ENABLE, 4, .name = "INT_ENABLE", .rw = 0xf, .on_write = update},
    {REG_MSI_WAITING, 4, .name = "MSI_WAITING"},
    {REG_FW_CPU, 4, .name = "FW_CPU", .rw = UINT32_MAX},
    {REG_FW_HV, 4, .name = "FW_HV", .rw = UINT32_MAX},
    {REG_FW_START, 4, .name = "FW_START", .rw = UINT32_MAX, .on_write = fw_start},
    {REG_FW_STATUS, 4, .name = "FW_STATUS"},
    CHANNEL(0),
    CHANNEL(1),
    CHANNEL(2),
    CHANNEL(3),
};

static const struct emu_area bar0_areas[] = {
    {LEGACY_MIRROR, 0x100, EMU_ALIAS, CONFIG},
    {0x002000, CONFIG_MIRROR - 0x002000, .kind = EMU_MAPPABLE},
    {CONFIG_MIRROR, 0x1000, EMU_ALIAS, CONFIG},
    {0x089000, MSIX_TABLE - 0x089000, .kind = EMU_MAPPABLE},
    {MSIX_TABLE, 0x2000, .kind = EMU_TRAPPED},
    {0xb92000, DOORBELL - 0xb92000, .kind = EMU_MAPPABLE},
    {0xbb1000, 0x1000000 - 0xbb1000, .kind = EMU_MAPPABLE},
};

static const struct emu_reg bar5_regs[] = {
    {WIN_MASTER, 4, .name = "MASTER", .rw = 1},
    {WIN_ENABLE, 4, .name = "ENABLE", .rw = 1},
    {WIN_ADDRESS, 4, .name = "ADDRESS", .rw = UINT32_MAX, .on_write = window_select},
    {WIN_DATA, 4, .name = "DATA", .rw = UINT32_MAX, .on_write = window_write},
    {IO_ID, 4, .name = "ID", .reset = 0x69756d65}, /* "emui" */
    {IO_SCRATCH, 4, .name = "SCRATCH", .rw = UINT32_MAX},
};

static const struct emu_area rom_area = {0, 0x10000, .kind = EMU_TRAPPED};

/* What a client must not see of a card in a host: its addresses there. */
static void be_nvidia(struct emu *emu)
{
    static const uint32_t host[] = {0xf6000000, 0xe000000c, 0x00000038,
                                    0xf000000c, 0,          0x0000e001};

    emu_put(emu, CONFIG, PCI_VENDOR_ID, 2, NV_VENDOR_ID);
    emu_put(emu, CONFIG, PCI_DEVICE_ID, 2, NV_DEVICE_ID);
    for (unsigned i = 0; i < ARRAY_SIZE(host); i++)
        emu_put(emu, CONFIG, PCI_BASE_ADDRESS_0 + 4 * i, 4, host[i]);
    emu_put(emu, CONFIG, CAP_MSI + PCI_MSI_ADDRESS_LO, 4, 0xfee0f00c);
    emu_put(emu, CONFIG, CAP_MSI + PCI_MSI_DATA_64, 2, 0x4021);
    emu_put(emu, CONFIG, PCI_INTERRUPT_LINE, 1, 11);
}

/* The image begins with 55 AA and its length; what it is stands in a PCI data structure (PCI
 * Firmware 3.0, section 5.1.2); its bytes add up to 0. */
static void reset(struct emu *emu)
{
    static const uint8_t image[] = {0x55, 0xaa, 0x80, 0xcb /* retf */, [0x18] = 0x20};
    static const uint8_t pcir[] = {'P',         'C',       'I',
                                   'R',         [10] = 24, [15] = 3 /* class */,
                                   [16] = 0x80, [18] = 1,  [21] = 0x80 /* the last image */,
                                   [23] = 0};
    uint8_t *rom = emu->region[ROM].mem, sum = 0;

    if (emu->config.nvidia)
        be_nvidia(emu);
    memcpy(rom, image, sizeof(image));
    memcpy(rom + 0x20, pcir, sizeof(pcir));
    put_le32(rom + 0x24, (uint32_t)emu_get(emu, CONFIG, PCI_VENDOR_ID, 4));
    rom[0xffff] = 0;
    for (unsigned i = 0; i < 0x10000; i++)
        sum = (uint8_t)(sum + rom[i]);
    rom[0xffff] = (uint8_t)-sum;
}

const struct emu_device emu_gpu = {
    .name = "gpu",
    .help = "a PCI display device with large BARs, MSI-X, FLR, a copy engine",
    .flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
    .regions = 8,
    .region = {[BAR0] = {"BAR0", 0x1000000, EMU_RW, .area = bar0_areas,
                         .areas = ARRAY_SIZE(bar0_areas), .reg = bar0_regs,
                         .regs = ARRAY_SIZE(bar0_regs)},
               [BAR1] = {"BAR1", 0, EMU_RW, .memory = true, .vram = true},
               [BAR3] = {"BAR3", 0x2000000, EMU_RW, .memory = true},
               [BAR5] = {"BAR5", 128, EMU_RW, .reg = bar5_regs, .regs = ARRAY_SIZE(bar5_regs)},
               [ROM] = {"ROM", 0x10000, VFIO_REGION_INFO_FLAG_READ, .area = &rom_area,
                        .areas = 1},
               [CONFIG] = {"config", 0x1000, EMU_RW, .reg = config_regs,
                           .regs = ARRAY_SIZE(config_regs)}},
    .irqs = 5,
    .irq = {[VFIO_PCI_INTX_IRQ_INDEX] = {1, EMU_LEVEL},
            [VFIO_PCI_MSI_IRQ_INDEX] = {8, VFIO_IRQ_INFO_EVENTFD},
            [VFIO_PCI_MSIX_IRQ_INDEX] = {EMU_VECTORS_MAX, VFIO_IRQ_INFO_EVENTFD}},
    .reset = reset,
};
