/*
 * huge.c: 64-bit BARs of many GiB: sized, reached at both ends, moved.
 *
 * `far=GIB` says that there is QEMU's shared-memory device with so large a BAR2. Whoever has
 * its file left data in the first and in the last page (SEED_OUTSIDE, as
 * tests/host/guest/data.c writes it); here the pages beside them are written, and once more
 * from where the BAR moved to. `hole=GIB` says that there is QEMU's PCI test device, behind
 * whose BAR2 is nothing. All BARs have to end at or below `limit=GIB` (512), what the IOMMU
 * takes. `wait=S` waits before it reaches for them; `hold` waits in the end, to be stopped.
 */
#include "lib.h"

#define GIB (1UL << 30)

enum { FAR_ID = 0x11101af4, HOLE_ID = 0x00051b36, BAR2 = 0x18, PAGE = 4096 };
enum { SEED_OUTSIDE = 5, SEED_HERE, SEED_MOVED };

struct device {
    uint32_t bdf;
    uint64_t bar, size; /* of BAR2 */
};

static uint64_t mix(uint64_t x) /* splitmix64 */
{
    x += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static bool page(const struct device *d, uint64_t offset, uint64_t seed, bool write)
{
    volatile uint64_t *at = window(d->bar + offset);
    bool same = true;

    for (unsigned i = 0; i < PAGE / 8 && write; i++)
        at[i] = mix(mix(seed) ^ (offset + 8 * i));
    for (unsigned i = 0; i < PAGE / 8; i++)
        same &= at[i] == mix(mix(seed) ^ (offset + 8 * i));
    return same;
}

static uint64_t bar_read(const struct device *d)
{
    return pci_read32(d->bdf, BAR2) | (uint64_t)pci_read32(d->bdf, BAR2 + 4) << 32;
}

static void bar_write(const struct device *d, uint64_t value)
{
    pci_write32(d->bdf, BAR2, (uint32_t)value);
    pci_write32(d->bdf, BAR2 + 4, (uint32_t)(value >> 32));
}

static void decode(const struct device *d, bool on)
{
    pci_write16(d->bdf, PCI_COMMAND, on ? COMMAND_MEM : 0);
}

static bool reads_nothing(uint64_t addr)
{
    return MMIO(uint64_t, window(addr)) == UINT64_MAX;
}

/* Finds the device with this ID whose BAR2 is as large as the word NAME says. */
static bool find(struct device *d, uint32_t id, const char *name)
{
    uint64_t want = arg_number(name, 0) * GIB;

    for (d->bdf = 8; d->bdf < 256; d->bdf++) {
        if (pci_read32(d->bdf, 0) != id)
            continue;
        decode(d, false);
        uint64_t was = bar_read(d);
        bar_write(d, UINT64_MAX);
        d->size = -(bar_read(d) & ~15ULL);
        bar_write(d, was);
        d->bar = was & ~15ULL;
        uint64_t limit = arg_number("limit", 512) * GIB;
        check(d->size == want && (was & 7) == 4 && !(d->bar & (d->size - 1)),
              "%s: 00:%02x.%x, BAR2 of %lu GiB at %lx", name, d->bdf >> 3, d->bdf & 7,
              d->size / GIB, d->bar);
        check(d->bar && d->size <= limit && d->bar <= limit - d->size,
              "%s: it ends within %lu GiB", name, limit / GIB);
        check(reads_nothing(d->bar) && reads_nothing(d->bar + d->size - 8),
              "%s: not there while it is not decoded", name);
        decode(d, true);
        return true;
    }
    return check(false, "%s: a device %08x", name, id);
}

/* To where neither this nor OTHER is, nor RAM; and to its old place again, where nothing was.
 */
static void move(struct device *d, const struct device *other)
{
    struct device old = *d;

    for (d->bar = d->size;
         d->bar == old.bar || d->bar < ram_end(UINT64_MAX) ||
         (d->bar < other->bar + other->size && other->bar < d->bar + d->size);)
        d->bar += d->size;
    decode(d, false);
    bar_write(d, d->bar);
    decode(d, true);
    check(reads_nothing(old.bar) && reads_nothing(old.bar + d->size - 8),
          "far: moved to %lx, nothing is at its old place", d->bar);
    check(page(d, 0, SEED_OUTSIDE, false) && page(d, d->size - PAGE, SEED_OUTSIDE, false),
          "far: the first and the last page are as before");
    check(page(d, 2 * PAGE, SEED_MOVED, true) && page(d, d->size - 3 * PAGE, SEED_MOVED, true),
          "far: pages beside them written");
    uint64_t there = d->bar;
    bar_write(d, old.bar); /* decoded all the while */
    d->bar = old.bar;
    check(page(d, d->size - 3 * PAGE, SEED_MOVED, false) && reads_nothing(there),
          "far: and back");
}

static void sleep(uint32_t seconds)
{
    while (seconds--)
        delay_ms(1000); /* the PM timer comes round every 4.7 s */
}

int main(void)
{
    struct device far = {0}, hole = {0};

    check(true, "it runs");
    bool is_far = arg("far") && find(&far, FAR_ID, "far");
    bool is_hole = arg("hole") && find(&hole, HOLE_ID, "hole");
    sleep((uint32_t)arg_number("wait", 0));
    if (is_hole)
        check(!reads_nothing(hole.bar) && !reads_nothing(hole.bar + hole.size - 8),
              "hole: the device itself answers");
    if (is_far) {
        check(page(&far, 0, SEED_OUTSIDE, false) &&
                  page(&far, far.size - PAGE, SEED_OUTSIDE, false),
              "far: what was left in the first and in the last page");
        check(page(&far, PAGE, SEED_HERE, true) &&
                  page(&far, far.size - 2 * PAGE, SEED_HERE, true),
              "far: pages beside them written");
        move(&far, &hole);
    }
    if (arg("hold")) {
        print("held\n");
        sleep(60);
        check(false, "nobody stopped it for a minute");
    }
    finish("huge");
}
