/*
 * i8042.c: two ways to reset a PC: the keyboard controller's pulse of the CPU's reset line
 * (Intel 8042, as the IBM PC/AT Technical Reference, "Keyboard Controller", programs it), and
 * the reset control register (Intel ICH10 datasheet, 13.7.5 "RST_CNT - Reset Control
 * Register").
 *
 * The controller takes every command, is never busy and never answers: its status is always
 * "both buffers empty". So a guest that waits until a command may be written, or that drains
 * the output, goes on at once, and a driver that asks for an answer gives up after its time-out
 * and finds no keyboard. Absent hardware (all ones) would look busy for ever instead: Linux
 * spends 65536 reads on that before the reset.
 *
 * The only state is one byte, atomic: there is no lock.
 */
#include "devices/i8042.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "vmm/bus.h"
#include "vmm/layout.h"

/* Status when read, commands when written. The data port 0x60 needs no device: a port of nobody
 * reads all ones and swallows what is written. */
#define I8042_STATUS    (LAYOUT_PORT_I8042 + 4)
#define I8042_CMD_RESET 0xfe /* pulse output bit 0, the CPU's reset */

/* Reset control: 0 to 1 of RST_CPU resets, of the kind that SYS_RST and FULL_RST choose; the
 * whole machine is reset here in any case. */
#define RST_CNT_SYS_RST  0x02
#define RST_CNT_RST_CPU  0x04
#define RST_CNT_FULL_RST 0x08

struct i8042 {
    struct bus *pio;
    struct power power;
    _Atomic uint8_t reset_control;
};

static void i8042_reset_machine(struct i8042 *dev)
{
    dev->power.ops->reset(dev->power.opaque);
}

static uint64_t i8042_read_status(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    (void)size;
    return 0;
}

static void i8042_write_command(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)offset;
    (void)size;
    if ((uint8_t)value == I8042_CMD_RESET)
        i8042_reset_machine(opaque);
}

static const struct bus_ops i8042_ops = {.read = i8042_read_status,
                                         .write = i8042_write_command};

uint8_t i8042_reset_control_read(void *dev)
{
    struct i8042 *i8042 = dev;
    return atomic_load(&i8042->reset_control);
}

/* The reset puts this register back to 0, too: RST_CPU never stays set, each 1 is an edge. */
void i8042_reset_control_write(void *dev, uint8_t value)
{
    struct i8042 *i8042 = dev;
    bool reset = value & RST_CNT_RST_CPU;
    atomic_store(&i8042->reset_control,
                 reset ? 0 : value & (RST_CNT_SYS_RST | RST_CNT_FULL_RST));
    if (reset)
        i8042_reset_machine(i8042);
}

int i8042_create(struct i8042 **out, struct bus *pio, struct power power)
{
    struct i8042 *dev = calloc(1, sizeof(*dev));
    const struct bus_range range = {I8042_STATUS, 1, &i8042_ops, dev, "i8042"};
    if (!dev)
        return -ENOMEM;
    dev->pio = pio;
    dev->power = power;
    int err = bus_add(pio, &range);
    if (err) {
        free(dev);
        return err;
    }
    *out = dev;
    return 0;
}

void i8042_destroy(struct i8042 *dev)
{
    if (!dev)
        return;
    bus_remove(dev->pio, I8042_STATUS);
    free(dev);
}
