/*
 * aml.h: appends ACPI Machine Language, named after the ASL that it stands for.
 *
 * Bytes go to a fixed buffer; what does not fit is dropped and remembered in OVERFLOW, so only
 * the end of a long list of calls has to be checked. A block (scope, device, package) is opened
 * by a call that returns a mark, and closed by aml_end() with that mark: its length is known
 * only then. Also used for the tables around the AML.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *buf;
    size_t len, size;
    bool overflow;
};

/* Raw little-endian data. */
void aml_bytes(struct aml *aml, const void *data, size_t len);
void aml_data(struct aml *aml, unsigned size, uint64_t value); /* SIZE 1 to 8 */

/* Terms. A path is [\](SEG_.)*SEG_ with full four-character segments, two at most. */
void aml_path(struct aml *aml, const char *path);
void aml_integer(struct aml *aml, uint64_t value); /* the shortest encoding */
void aml_string(struct aml *aml, const char *text);
void aml_eisaid(struct aml *aml, const char *id); /* EisaId("PNP0A08") */
void aml_name(struct aml *aml, const char *path); /* Name(PATH, the term that follows) */

/* Blocks. */
size_t aml_scope(struct aml *aml, const char *path);
size_t aml_device(struct aml *aml, const char *name);
size_t aml_package(struct aml *aml, uint8_t elements);
void aml_end(struct aml *aml, size_t mark);

/* Name(_CRS, ResourceTemplate() {...}) (ACPI 6.5, 6.4 "Resource Data Types for ACPI"). */
size_t aml_crs(struct aml *aml);
void aml_end_crs(struct aml *aml, size_t mark);
void aml_io(struct aml *aml, uint16_t port, uint8_t size);
void aml_memory32_fixed(struct aml *aml, uint32_t base, uint32_t size);
void aml_interrupt(struct aml *aml, uint32_t gsi, bool level);

/* WordIO(), DWordMemory(), QWordMemory() and WordBusNumber() of a bridge: [MIN, MAX], which has
 * to fit in WIDTH (2, 4 or 8) bytes. */
enum aml_window { AML_MEMORY, AML_IO, AML_BUS_NUMBER };
void aml_window(struct aml *aml, enum aml_window type, unsigned width, uint8_t flags,
                uint64_t min, uint64_t max);
