/*
 * acpi_pm.h: ACPI fixed hardware (ACPI 6.5, 4.8): PM1a event and control blocks, the power
 * management timer, S5. The reset register is 0xCF9 (pci_host.c).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "devices/platform.h"
#include "vmm/hv.h"

/* Offsets from LAYOUT_PORT_ACPI; boot/acpi.c puts them in the FADT. */
#define ACPI_PM1_EVT    0x00 /* status (2 bytes), enable (2 bytes) */
#define ACPI_PM1_CNT    0x04 /* 2 bytes */
#define ACPI_PM_TMR     0x08 /* 4 bytes, 3.579545 MHz, 32 bits */
#define ACPI_PM_SIZE    0x0c
#define ACPI_S5_SLP_TYP 5 /* the value in \_S5 */

struct bus;
struct loop;
struct acpi_pm;

int acpi_pm_create(struct acpi_pm **out, struct bus *pio, struct loop *loop,
                   struct irq_line sci, struct power power);
void acpi_pm_destroy(struct acpi_pm *pm); /* NULL is fine */
void acpi_pm_reset(struct acpi_pm *pm);
/* Presses the power button: PWRBTN_STS, and SCI where the guest enabled it. Any thread.
 * False when the guest has not enabled it (no ACPI driver is listening). */
bool acpi_pm_power_button(struct acpi_pm *pm);
