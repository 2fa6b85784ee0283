/*
 * bus.c: finds the device at an address by binary search in a sorted array.
 *
 * The array changes seldom (a BAR moves) and is read at every exit, hence the reader-writer
 * lock. It is held for the search only: a handler may change the bus it was called from.
 * Writers go first, so that vCPUs which never stop looking up cannot starve one of them that
 * moves a BAR.
 */
#include "vmm/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/util.h"

int bus_init(struct bus *bus)
{
    pthread_rwlockattr_t attr;
    memset(bus, 0, sizeof(*bus));
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    int err = pthread_rwlock_init(&bus->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    return -err;
}

void bus_fini(struct bus *bus)
{
    pthread_rwlock_destroy(&bus->lock);
    free(bus->slot);
}

/* How many ranges begin at or below ADDR: the last of them is the only one that can hold it. */
static unsigned bus_search(const struct bus *bus, uint64_t addr)
{
    unsigned low = 0, high = bus->nr;
    while (low < high) {
        unsigned mid = low + (high - low) / 2;
        if (bus->slot[mid].range.base <= addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* Sizes and distances are compared, never sums: a range may end at the top of the space. */
static bool bus_is_free(const struct bus *bus, unsigned at, uint64_t base, uint64_t size)
{
    const struct bus_range *below = at > 0 ? &bus->slot[at - 1].range : NULL;
    const struct bus_range *above = at < bus->nr ? &bus->slot[at].range : NULL;
    return !(below && base - below->base < below->size) &&
           !(above && above->base - base < size);
}

int bus_add(struct bus *bus, const struct bus_range *range)
{
    int err = 0;
    if (range->size == 0 || range->size - 1 > UINT64_MAX - range->base)
        return -EINVAL;

    pthread_rwlock_wrlock(&bus->lock);
    unsigned at = bus_search(bus, range->base);
    if (!bus_is_free(bus, at, range->base, range->size)) {
        err = -EEXIST;
        goto unlock;
    }
    if (bus->nr == bus->room) {
        unsigned room = bus->room ? 2 * bus->room : 16;
        struct bus_slot *bigger = reallocarray(bus->slot, room, sizeof(*bigger));
        if (!bigger) {
            err = -ENOMEM;
            goto unlock;
        }
        bus->slot = bigger;
        bus->room = room;
    }
    memmove(&bus->slot[at + 1], &bus->slot[at], (bus->nr - at) * sizeof(*bus->slot));
    bus->slot[at] = (struct bus_slot){.range = *range};
    bus->nr++;
unlock:
    pthread_rwlock_unlock(&bus->lock);
    return err;
}

void bus_remove(struct bus *bus, uint64_t base)
{
    pthread_rwlock_wrlock(&bus->lock);
    unsigned at = bus_search(bus, base);
    if (at > 0 && bus->slot[at - 1].range.base == base) {
        memmove(&bus->slot[at - 1], &bus->slot[at], (bus->nr - at) * sizeof(*bus->slot));
        bus->nr--;
    }
    pthread_rwlock_unlock(&bus->lock);
}

/* One step of an access: copies what is at ADDR, which may be nobody (no ops), and returns how
 * many of LEN bytes go there in one piece. */
static unsigned bus_step(struct bus *bus, uint64_t addr, unsigned len, struct bus_range *out)
{
    uint64_t left = len;
    unsigned at, piece = 8;
    *out = (struct bus_range){0};
    pthread_rwlock_rdlock(&bus->lock);
    at = bus_search(bus, addr);
    if (at > 0 && addr - bus->slot[at - 1].range.base < bus->slot[at - 1].range.size) {
        struct bus_slot *slot = &bus->slot[at - 1];
        __atomic_fetch_add(&slot->accesses, 1, __ATOMIC_RELAXED); /* others read, too */
        *out = slot->range;
        left = MIN(left, out->size - (addr - out->base));
    } else if (at < bus->nr) {
        left = MIN(left, bus->slot[at].range.base - addr);
    }
    pthread_rwlock_unlock(&bus->lock);

    while (piece > left)
        piece /= 2;
    return piece;
}

void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len)
{
    uint8_t *out = data;
    struct bus_range range;
    while (len > 0) {
        unsigned size = bus_step(bus, addr, len, &range);
        uint64_t value = UINT64_MAX;
        if (range.ops)
            value = range.ops->read(range.opaque, addr - range.base, size);
        put_le(out, size, value);
        out += size;
        addr += size;
        len -= size;
    }
}

void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len)
{
    const uint8_t *in = data;
    struct bus_range range;
    while (len > 0) {
        unsigned size = bus_step(bus, addr, len, &range);
        if (range.ops)
            range.ops->write(range.opaque, addr - range.base, size, get_le(in, size));
        in += size;
        addr += size;
        len -= size;
    }
}

void bus_count(struct bus *bus, bus_count_fn *fn, void *opaque)
{
    pthread_rwlock_rdlock(&bus->lock);
    for (unsigned i = 0; i < bus->nr; i++)
        fn(opaque, &bus->slot[i].range,
           __atomic_load_n(&bus->slot[i].accesses, __ATOMIC_RELAXED));
    pthread_rwlock_unlock(&bus->lock);
}
