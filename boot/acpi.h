/*
 * acpi.h: the ACPI tables (ACPI 6.5, chapter 5) from a plain description of the machine.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "vmm/topology.h"

enum acpi_resource_type { ACPI_RES_IO, ACPI_RES_MEM32, ACPI_RES_IRQ_EDGE, ACPI_RES_IRQ_LEVEL };

struct acpi_resource {
    enum acpi_resource_type type;
    uint32_t base; /* port, address or gsi */
    uint32_t size; /* ports or bytes */
};

#define ACPI_RESOURCES_MAX 24

/* A device of the DSDT. With COMPATIBLE the _HID is PRP0001 and _DSD carries the string. */
struct acpi_device {
    char name[5]; /* ACPI name segment: four characters [A-Z_][A-Z0-9_]* */
    const char *hid;
    const char *compatible;
    unsigned uid;
    unsigned nr;
    struct acpi_resource resource[ACPI_RESOURCES_MAX];
};

struct acpi_config {
    struct topology topology;
    uint64_t mmio64_base, mmio64_size; /* size 0: none */
    const struct acpi_device *device;
    unsigned devices;
};

/* Writes all tables to BUF, which the guest sees at GPA (the RSDP is first); *SIZE is the room
 * at entry and what was used at return. -ENOSPC when it does not fit. */
int acpi_build(const struct acpi_config *config, uint64_t gpa, uint8_t *buf, size_t *size);
