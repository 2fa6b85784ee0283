/*
 * ram.c: the memory map of the start info is sane, and all memory it promises is there and is
 * nowhere twice: the first and last page of each region, and one in the middle, keep numbers of
 * their own.
 *
 * The word `mib=N` on the command line says how much there must be.
 */
#include "lib.h"

#define PAGES_MAX 64

static const struct memmap_entry *map;
static unsigned entries;

static bool overlaps(const struct memmap_entry *e, uint64_t base, uint64_t end)
{
    return e->base < end && base < e->base + e->size;
}

static void sane(void)
{
    bool empty = false, twice = false, hole = false;
    uint64_t sum = 0;

    for (unsigned i = 0; i < entries; i++) {
        const struct memmap_entry *e = &map[i];
        print("%016lx + %016lx type %u\n", e->base, e->size, e->type);
        empty |= !e->size || e->base + e->size < e->base;
        for (unsigned j = 0; j < i; j++)
            twice |= overlaps(&map[j], e->base, e->base + e->size);
        if (e->type != MEMMAP_RAM)
            continue;
        hole |= overlaps(e, 0xa0000, 0x100000) || overlaps(e, 0xc0000000, 0x100000000);
        sum += e->size;
    }
    check(!empty && !twice, "%u entries, none empty, none over another", entries);
    check(!hole, "no RAM from 0xA0000 to 0xFFFFF, none in the last GiB below 4 GiB");
    uint64_t mib = (sum + 0xfffff) >> 20; /* all but the hole of 384 KiB and a little */
    check(mib == arg_number("mib", mib), "%lu MiB of RAM", mib);
}

static bool reserved(uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < entries; i++)
        if (map[i].type == MEMMAP_RESERVED && map[i].base <= base &&
            base + size <= map[i].base + map[i].size)
            return true;
    return false;
}

/* The last word of the first, the middle and the last page of every region of RAM. */
static unsigned pages(uint64_t list[PAGES_MAX])
{
    unsigned n = 0;

    for (unsigned i = 0; i < entries && n + 3 <= PAGES_MAX; i++) {
        if (map[i].type != MEMMAP_RAM || map[i].size < 0x1000)
            continue;
        list[n++] = map[i].base + 0xff8;
        list[n++] = ((map[i].base + map[i].size / 2) & ~0xfffULL) + 0xff8;
        list[n++] = ((map[i].base + map[i].size) & ~0xfffULL) - 8;
    }
    return n;
}

static void touch(void)
{
    static uint64_t list[PAGES_MAX], saved[PAGES_MAX];
    unsigned n = pages(list);
    bool kept = true;

    for (unsigned i = 0; i < n; i++) {
        volatile uint64_t *word = window(list[i]);
        saved[i] = *word;
        *word = 0x0123456789abcdef ^ list[i];
    }
    for (unsigned i = 0; i < n; i++) {
        volatile uint64_t *word = window(list[i]);
        kept &= check(*word == (0x0123456789abcdef ^ list[i]), "%lx keeps its number", list[i]);
    }
    for (unsigned i = n; i-- > 0;)
        *(volatile uint64_t *)window(list[i]) = saved[i];
    check(kept && n >= 6, "%u pages touched", n);
}

int main(void)
{
    const struct start_info *info = start_info_get();

    if (!check(info->magic == START_INFO_MAGIC && info->version >= 1 && info->memmap_entries,
               "start info has a memory map"))
        finish("ram");
    map = (const void *)(uintptr_t)info->memmap;
    entries = info->memmap_entries;
    sane();
    check(acpi_ecam() && reserved(acpi_ecam(), 0x10000000), "ECAM is reserved");
    touch();
    finish("ram");
}
