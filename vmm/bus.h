/*
 * bus.h: which device answers at an address. One instance is the port space, one is MMIO.
 *
 * Ranges are kept sorted, so a lookup is a binary search. Accesses come from vCPU threads;
 * ranges are added and removed at any time, also from inside a handler (a configuration write
 * that moves a BAR): the lookup copies the range and calls its handler without holding the
 * lock. A handler may therefore still be called once after its range is removed: the owner must
 * live as long as the bus.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>

/* OFFSET is relative to the range, SIZE is 1, 2, 4 or 8, and the access lies inside the range.
 */
struct bus_ops {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
};

struct bus_range {
    uint64_t base;
    uint64_t size;
    const struct bus_ops *ops;
    void *opaque;
    const char *name; /* for counters; lives as long as the range */
};

struct bus_slot {
    struct bus_range range;
    uint64_t accesses; /* atomic */
};

struct bus {
    pthread_rwlock_t lock;
    struct bus_slot *slot; /* sorted by base, disjoint */
    unsigned nr, room;
};

int bus_init(struct bus *bus);
void bus_fini(struct bus *bus);

/* -EEXIST when RANGE overlaps another, -EINVAL when it is empty or wraps, -ENOMEM. */
int bus_add(struct bus *bus, const struct bus_range *range);
/* The range that begins at BASE; nothing happens when there is none. */
void bus_remove(struct bus *bus, uint64_t base);

/* Tells FN of each range and its accesses since it was added, in the order of addresses; FN
 * does not change the bus. */
typedef void bus_count_fn(void *opaque, const struct bus_range *range, uint64_t accesses);
void bus_count(struct bus *bus, bus_count_fn *fn, void *opaque);

/* An access of LEN bytes (1 to 8, any alignment) as the CPU made it. A length that is no power
 * of two, and one that crosses the end of a range, is split. What nobody claims reads as all
 * ones and swallows writes. */
void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len);
void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len);
