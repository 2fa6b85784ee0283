/*
 * i8042.h: the keyboard controller, as far as it resets a PC: command 0xFE at port 0x64, and
 * the reset control register 0xCF9. There is no keyboard; ACPI says so (FADT boot flags).
 */
#pragma once

#include <stdint.h>

#include "devices/platform.h"

struct bus;
struct i8042;

int i8042_create(struct i8042 **out, struct bus *pio, struct power power);
void i8042_destroy(struct i8042 *dev); /* NULL is fine */

/* Port 0xCF9 lies among the PCI host bridge's ports, which hands it on here: DEV is the struct
 * i8042 (see pci_bus_set_reset_hook()). */
uint8_t i8042_reset_control_read(void *dev);
void i8042_reset_control_write(void *dev, uint8_t value);
