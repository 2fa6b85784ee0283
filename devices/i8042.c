/*
 * i8042.c: the keyboard controller's pulse of the CPU's reset line (Intel 8042, as the IBM
 * PC/AT Technical Reference, "Keyboard Controller", programs it).
 *
 * The controller takes every command, is never busy and never answers: its status is always
 * "both buffers empty". So a guest that waits until a command may be written, or that drains
 * the output, goes on at once, and a driver that asks for an answer gives up after its time-out
 * and finds no keyboard. Absent hardware (all ones) would look busy for ever instead: Linux
 * spends 65536 reads on that before the reset. The data port 0x60 needs no device: a port of
 * nobody reads all ones and swallows what is written.
 *
 * Stateless, so there is no lock.
 */
#include "devices/i8042.h"

#include <errno.h>
#include <stdlib.h>

#include "vmm/bus.h"
#include "vmm/layout.h"

#define I8042_STATUS    (LAYOUT_PORT_I8042 + 4) /* when read; when written, commands */
#define I8042_CMD_RESET 0xfe                    /* pulse output bit 0, the CPU's reset */

struct i8042 {
    struct bus *pio;
    struct power power;
};

static uint64_t i8042_read_status(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    (void)size;
    return 0;
}

static void i8042_write_command(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    const struct i8042 *dev = opaque;
    (void)offset;
    (void)size;
    if ((uint8_t)value == I8042_CMD_RESET)
        dev->power.ops->reset(dev->power.opaque);
}

static const struct bus_ops i8042_ops = {.read = i8042_read_status,
                                         .write = i8042_write_command};

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
