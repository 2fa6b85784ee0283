/*
 * cmos.h: MC146818 real-time clock and its RAM at ports 0x70-0x71, as in a PC/AT: the guest's
 * wall clock (host's UTC plus what the guest set), alarm and periodic interrupts on IRQ 8, and
 * the memory-size bytes.
 */
#pragma once

#include <stdint.h>

#include "vmm/hv.h"

struct bus;
struct loop;
struct cmos;

/* LOW_RAM and HIGH_RAM: bytes below and above 4 GiB. LOOP runs the alarm timer. */
int cmos_create(struct cmos **out, struct bus *pio, struct loop *loop, struct irq_line irq,
                uint64_t low_ram, uint64_t high_ram);
void cmos_destroy(struct cmos *cmos); /* NULL is fine */
/* A reset clears interrupt enables (data sheet, RESET pin); time and RAM stay. */
void cmos_reset(struct cmos *cmos);
