/*
 * i8042.h: the keyboard controller, as far as it resets a PC: command 0xFE at port 0x64. There
 * is no keyboard; ACPI says so (FADT boot flags).
 */
#pragma once

#include <stdint.h>

#include "devices/platform.h"

struct bus;
struct i8042;

int i8042_create(struct i8042 **out, struct bus *pio, struct power power);
void i8042_destroy(struct i8042 *dev); /* NULL is fine */
