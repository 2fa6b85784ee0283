/*
 * platform.c: a device as vfio-platform has them: a page of registers that is trapped, 64 KiB
 * of memory that is mapped, one level interrupt, a DMA engine. Its registers are in README.md.
 *
 * The interrupt line is high while a bit is set in both IRQ_STATUS and IRQ_ENABLE. RAISE raises
 * it many times over, each time when the one before has been acknowledged: a driver that counts
 * must come to exactly that number.
 */
#include <string.h>

#include "tests/emulated/emu.h"

enum { REGS, MEMORY };
enum {
    REG_ID = 0x00,
    REG_VERSION = 0x04,
    REG_SCRATCH = 0x08,
    REG_STATUS = 0x0c, /* bit 0: the interrupt line is high */
    REG_IRQ_ENABLE = 0x10,
    REG_IRQ_STATUS = 0x14,
    REG_IRQ_RAISE = 0x18, /* so often still to go */
    REG_IRQ_COUNT = 0x1c, /* raised so often since the reset */
    REG_DMA_SRC = 0x20,
    REG_DMA_DST = 0x28,
    REG_DMA_LEN = 0x30,
    REG_DMA_FILL = 0x34,
    REG_DMA_CMD = 0x38,
    REG_DMA_STATUS = 0x3c,
    REG_RESET = 0x40,
};
enum { IRQ_RAISED = 1, IRQ_DMA = 2 };
enum { DMA_COPY = 1, DMA_FILL };
enum { DMA_IDLE, DMA_DONE, DMA_BAD_COMMAND, DMA_BAD_LENGTH, DMA_BAD_SRC, DMA_BAD_DST };

#define DMA_MAX   (16U << 20)
#define DMA_CHUNK 65536U

static uint32_t get(const struct emu *emu, uint32_t reg)
{
    return (uint32_t)emu_get(emu, REGS, reg, 4);
}

static void put(struct emu *emu, uint32_t reg, uint32_t value)
{
    emu_put(emu, REGS, reg, 4, value);
}

static void update(struct emu *emu)
{
    bool high = get(emu, REG_IRQ_STATUS) & get(emu, REG_IRQ_ENABLE);

    put(emu, REG_STATUS, high);
    emu_line(emu, 0, high);
}

static void irq_write(struct emu *emu, const struct emu_reg *reg)
{
    uint32_t left = get(emu, REG_IRQ_RAISE), status = get(emu, REG_IRQ_STATUS);

    (void)reg;
    update(emu); /* first, so that the line is seen to go low between two of them */
    if (left && !(status & IRQ_RAISED)) {
        put(emu, REG_IRQ_RAISE, left - 1);
        put(emu, REG_IRQ_COUNT, get(emu, REG_IRQ_COUNT) + 1);
        put(emu, REG_IRQ_STATUS, status | IRQ_RAISED);
        update(emu);
    }
}

static uint32_t dma(struct emu *emu)
{
    uint64_t src = emu_get(emu, REGS, REG_DMA_SRC, 8), dst = emu_get(emu, REGS, REG_DMA_DST, 8);
    uint32_t len = get(emu, REG_DMA_LEN), command = get(emu, REG_DMA_CMD);
    uint8_t buf[DMA_CHUNK];

    if (command != DMA_COPY && command != DMA_FILL)
        return DMA_BAD_COMMAND;
    if (!len || len > DMA_MAX)
        return DMA_BAD_LENGTH;
    memset(buf, (int)(get(emu, REG_DMA_FILL) & 0xff), sizeof(buf));
    for (uint32_t n; len; len -= n, src += n, dst += n) {
        n = MIN(len, DMA_CHUNK);
        if (command == DMA_COPY && emu_dma(emu, false, src, buf, n))
            return DMA_BAD_SRC;
        if (emu_dma(emu, true, dst, buf, n))
            return DMA_BAD_DST;
    }
    return DMA_DONE;
}

static void dma_write(struct emu *emu, const struct emu_reg *reg)
{
    put(emu, REG_DMA_STATUS, dma(emu));
    put(emu, REG_IRQ_STATUS, get(emu, REG_IRQ_STATUS) | IRQ_DMA);
    irq_write(emu, reg);
}

static void reset_write(struct emu *emu, const struct emu_reg *reg)
{
    (void)reg;
    emu_reset(emu);
}

static const struct emu_reg regs[] = {
    {REG_ID, 4, .name = "ID", .reset = 0x70756d65}, /* "emup" */
    {REG_VERSION, 4, .name = "VERSION", .reset = 1},
    {REG_SCRATCH, 4, .name = "SCRATCH", .rw = UINT32_MAX},
    {REG_STATUS, 4, .name = "STATUS"},
    {REG_IRQ_ENABLE, 4, .name = "IRQ_ENABLE", .rw = 3, .on_write = irq_write},
    {REG_IRQ_STATUS, 4, .name = "IRQ_STATUS", .w1c = 3, .on_write = irq_write},
    {REG_IRQ_RAISE, 4, .name = "IRQ_RAISE", .rw = UINT32_MAX, .on_write = irq_write},
    {REG_IRQ_COUNT, 4, .name = "IRQ_COUNT"},
    {REG_DMA_SRC, 8, .name = "DMA_SRC", .rw = UINT64_MAX},
    {REG_DMA_DST, 8, .name = "DMA_DST", .rw = UINT64_MAX},
    {REG_DMA_LEN, 4, .name = "DMA_LEN", .rw = UINT32_MAX},
    {REG_DMA_FILL, 4, .name = "DMA_FILL", .rw = UINT32_MAX},
    {REG_DMA_CMD, 4, .name = "DMA_CMD", .rw = UINT32_MAX, .on_write = dma_write},
    {REG_DMA_STATUS, 4, .name = "DMA_STATUS"},
    {REG_RESET, 4, .name = "RESET", .rw = UINT32_MAX, .on_write = reset_write},
};

const struct emu_device emu_platform = {
    .name = "platform",
    .help = "registers, memory, a level interrupt, DMA",
    .compatible = "minivmm,emu-platform",
    .flags = VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET,
    .regions = 2,
    .region = {[REGS] = {"regs", 0x1000, EMU_RW, .reg = regs, .regs = ARRAY_SIZE(regs)},
               [MEMORY] = {"memory", 0x10000, EMU_RW, .memory = true}},
    .irqs = 1,
    .irq = {{1, EMU_LEVEL}},
};
