/*
 * e820.c: the memory map that the guest is told, once for all entry protocols.
 *
 * ACPI 6.5, section 15.1 "INT 15H, E820H - Query System Address Map" defines the types; the
 * boot parameters and PVH's start info carry the same entries. What is in no entry is free for
 * devices: the PCI windows (ACPI's _CRS tells them). ECAM must be reserved here or in the
 * namespace, or Linux does not use it (it is in both). The entries are not sorted: the
 * specification does not ask for it, and kernels sort.
 *
 * Pure function; any thread.
 */
#include "boot/boot.h"
#include "vmm/layout.h"
#include "vmm/mem.h"
#include "vmm/util.h"

static const struct e820_entry fixed[] = {
    {0, LAYOUT_EBDA, E820_RAM, 0},
    {LAYOUT_EBDA, LAYOUT_HOLE_START - LAYOUT_EBDA, E820_RESERVED, 0},
    {LAYOUT_ACPI, LAYOUT_ACPI_SIZE, E820_RESERVED, 0},
    {LAYOUT_ECAM, LAYOUT_ECAM_SIZE, E820_RESERVED, 0},
    {LAYOUT_PLATFORM, LAYOUT_PLATFORM_SIZE, E820_RESERVED, 0},
    {LAYOUT_IDENTITY, 4 * LAYOUT_PAGE_SIZE, E820_RESERVED, 0}, /* KVM's page and TSS */
};

_Static_assert(sizeof(struct e820_entry) == 24, "start_info.h; Multiboot 2, 3.6.8 Memory map");
_Static_assert(ARRAY_SIZE(fixed) + MEM_REGIONS_MAX <= E820_MAX, "the map always fits");

unsigned boot_e820(const struct mem *mem, struct e820_entry map[E820_MAX])
{
    unsigned nr = ARRAY_SIZE(fixed);
    memcpy(map, fixed, sizeof(fixed));
    for (unsigned i = 0; i < mem->nr && i < MEM_REGIONS_MAX; i++) {
        uint64_t end = mem->region[i].gpa + mem->region[i].size;
        uint64_t base = MAX(mem->region[i].gpa, LAYOUT_HIGH_START);
        if (end > base)
            map[nr++] = (struct e820_entry){base, end - base, E820_RAM, 0};
    }
    return nr;
}
