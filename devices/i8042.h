/*
 * i8042.h: the keyboard controller, as far as it resets a PC: command 0xFE at port 0x64. There
 * is no keyboard; ACPI says so (FADT boot flags).
 */
#pragma once

#include <stdint.h>

#include "devices/platform.h"

struct bus;

/* POWER is used as long as PIO. */
int i8042_add(struct bus *pio, struct power *power);
