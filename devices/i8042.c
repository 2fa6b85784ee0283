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
#include "vmm/util.h"

/* Offsets from LAYOUT_PORT_I8042. Port 0x61 in between is the PIT's, and in the kernel. */
enum { I8042_DATA = 0, I8042_STATUS = 4 };

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

static uint64_t i8042_read_data(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    return all_ones(size);
}

static void i8042_write_data(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    (void)opaque;
    (void)offset;
    (void)size;
    (void)value;
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

static const struct bus_ops i8042_data_ops = {
    .read = i8042_read_data,
    .write = i8042_write_data,
};
static const struct bus_ops i8042_status_ops = {
    .read = i8042_read_status,
    .write = i8042_write_command,
};

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
    struct bus_range data = {.base = LAYOUT_PORT_I8042 + I8042_DATA,
                             .size = 1,
                             .ops = &i8042_data_ops,
                             .opaque = dev,
                             .name = "i8042-data"};
    struct bus_range status = {.base = LAYOUT_PORT_I8042 + I8042_STATUS,
                               .size = 1,
                               .ops = &i8042_status_ops,
                               .opaque = dev,
                               .name = "i8042-status"};
    int err = -ENOMEM;

    if (!dev)
        return err;
    dev->pio = pio;
    dev->power = power;
    err = bus_add(pio, &data);
    if (err)
        goto free_dev;
    err = bus_add(pio, &status);
    if (err)
        goto remove_data;
    *out = dev;
    return 0;

remove_data:
    bus_remove(pio, data.base);
free_dev:
    free(dev);
    return err;
}

void i8042_destroy(struct i8042 *dev)
{
    if (!dev)
        return;
    bus_remove(dev->pio, LAYOUT_PORT_I8042 + I8042_STATUS);
    bus_remove(dev->pio, LAYOUT_PORT_I8042 + I8042_DATA);
    free(dev);
}
