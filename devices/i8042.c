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
 * Stateless, so there is no lock, and nothing to destroy.
 */
#include "devices/i8042.h"

#include "vmm/bus.h"
#include "vmm/layout.h"

#define I8042_STATUS    (LAYOUT_PORT_I8042 + 4) /* when read; when written, commands */
#define I8042_CMD_RESET 0xfe                    /* pulse output bit 0, the CPU's reset */

static uint64_t i8042_read_status(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    (void)offset;
    (void)size;
    return 0;
}

static void i8042_write_command(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    const struct power *power = opaque;
    (void)offset;
    (void)size;
    if ((uint8_t)value == I8042_CMD_RESET)
        power->ops->reset(power->opaque);
}

static const struct bus_ops i8042_ops = {.read = i8042_read_status,
                                         .write = i8042_write_command};

int i8042_add(struct bus *pio, struct power *power)
{
    const struct bus_range range = {I8042_STATUS, 1, &i8042_ops, power, "i8042"};
    return bus_add(pio, &range);
}
