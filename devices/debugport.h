/*
 * debugport.h: --debug-exit PORT: a write of V ends the VM with status (V << 1) | 1, as QEMU's
 * isa-debug-exit does. Gives student kernels and CI a verdict.
 */
#pragma once

#include <stdint.h>

#include "devices/platform.h"

struct bus;
struct debugport;

int debugport_create(struct debugport **out, struct bus *pio, uint16_t port,
                     struct power power);
void debugport_destroy(struct debugport *dev);
