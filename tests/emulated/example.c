/*
 * example.c: the smallest useful device, as README.md explains it: an adder. Write A, then B:
 * the sum is in SUM, the interrupt is raised until a 1 is written to PENDING.
 */
#include "tests/emulated/emu.h"

enum { REGS }; /* regions */
enum { REG_A = 0x00, REG_B = 0x04, REG_SUM = 0x08, REG_PENDING = 0x0c };

static void update(struct emu *emu, const struct emu_reg *reg)
{
    (void)reg;
    emu_line(emu, 0, emu_get(emu, REGS, REG_PENDING, 4) != 0);
}

static void add(struct emu *emu, const struct emu_reg *reg)
{
    uint64_t sum = emu_get(emu, REGS, REG_A, 4) + emu_get(emu, REGS, REG_B, 4);

    emu_put(emu, REGS, REG_SUM, 4, sum);
    emu_put(emu, REGS, REG_PENDING, 4, 1);
    update(emu, reg);
}

static const struct emu_reg regs[] = {
    {REG_A, 4, .name = "A", .rw = UINT32_MAX},
    {REG_B, 4, .name = "B", .rw = UINT32_MAX, .on_write = add},
    {REG_SUM, 4, .name = "SUM"},
    {REG_PENDING, 4, .name = "PENDING", .w1c = 1, .on_write = update},
};

const struct emu_device emu_example = {
    .name = "example",
    .help = "an adder of a page of code, to start from",
    .compatible = "minivmm,emu-example",
    .flags = VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET,
    .regions = 1,
    .region = {[REGS] = {"regs", 0x1000, EMU_RW, .reg = regs, .regs = ARRAY_SIZE(regs)}},
    .irqs = 1,
    .irq = {{1, EMU_LEVEL}},
};
