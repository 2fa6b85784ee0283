/* bus_test.c: lookup, splitting, overlap; changes from inside handlers and other threads. */
#include "vmm/bus.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "vmm/util.h"

/* A device that remembers its accesses, and answers with what names offset and size. */
struct probe {
    struct bus *bus;
    unsigned calls;
    struct {
        uint64_t offset, value;
        unsigned size;
    } call[16];
    uint64_t remove; /* base of a range to remove from inside the handler, 0: none */
};

static uint64_t probe_value(uint64_t offset, unsigned size)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(0x10 + offset + i);
    return get_le(bytes, size);
}

static void probe_note(struct probe *p, uint64_t offset, unsigned size, uint64_t value)
{
    cr_assert_lt(p->calls, ARRAY_SIZE(p->call));
    p->call[p->calls].offset = offset;
    p->call[p->calls].size = size;
    p->call[p->calls].value = value;
    p->calls++;
    if (p->remove)
        bus_remove(p->bus, p->remove);
}

static uint64_t probe_read(void *opaque, uint64_t offset, unsigned size)
{
    probe_note(opaque, offset, size, 0);
    return probe_value(offset, size);
}

static void probe_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    probe_note(opaque, offset, size, value);
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

static int add(struct bus *bus, struct probe *p, uint64_t base, uint64_t size)
{
    struct bus_range range = {
        .base = base, .size = size, .ops = &probe_ops, .opaque = p, .name = "probe"};

    p->bus = bus;
    return bus_add(bus, &range);
}

static void expect_call(const struct probe *p, unsigned i, uint64_t offset, unsigned size)
{
    cr_assert_lt(i, p->calls);
    cr_expect_eq(p->call[i].offset, offset, "call %u: offset %#lx", i, p->call[i].offset);
    cr_expect_eq(p->call[i].size, size, "call %u: size %u", i, p->call[i].size);
}

static uint64_t read_at(struct bus *bus, uint64_t addr, unsigned len)
{
    uint64_t value = 0;

    bus_read(bus, addr, &value, len);
    return value;
}

static struct bus bus;

static void setup(void)
{
    cr_assert_eq(bus_init(&bus), 0);
}

static void teardown(void)
{
    bus_fini(&bus);
}

TestSuite(bus, .init = setup, .fini = teardown);

Test(bus, empty_reads_all_ones)
{
    uint8_t byte[9];

    for (unsigned len = 1; len <= 8; len++) {
        memset(byte, 0, sizeof(byte));
        bus_read(&bus, 0xfffffffffffffffc, byte, len);
        for (unsigned i = 0; i < sizeof(byte); i++)
            cr_expect_eq(byte[i], i < len ? 0xff : 0);
        bus_write(&bus, 0, byte, len);
    }
}

Test(bus, finds_first_last_and_between)
{
    struct probe p[5] = {0};

    /* Added out of order; every second page, so that gaps are between. */
    static const unsigned order[] = {3, 0, 4, 2, 1};
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(add(&bus, &p[order[i]], 0x1000 + order[i] * 0x2000, 0x1000), 0);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t base = 0x1000 + i * 0x2000;

        cr_expect_eq(read_at(&bus, base, 1), 0x10);
        cr_expect_eq(read_at(&bus, base + 0xffc, 4), probe_value(0xffc, 4));
        cr_expect_eq(read_at(&bus, base - 1, 1), 0xff);
        cr_expect_eq(read_at(&bus, base + 0x1000, 1), 0xff);
        cr_expect_eq(p[i].calls, 2);
    }
}

Test(bus, many_ranges)
{
    static struct probe p[300];

    for (unsigned i = 0; i < 300; i++)
        cr_assert_eq(add(&bus, &p[i], ((i * 7) % 300) * 16, 16), 0);
    for (unsigned i = 0; i < 300; i++) {
        read_at(&bus, ((i * 7) % 300) * 16 + 15, 1);
        cr_assert_eq(p[i].calls, 1);
        expect_call(&p[i], 0, 15, 1);
    }
    for (unsigned i = 0; i < 300; i += 2)
        bus_remove(&bus, ((i * 7) % 300) * 16);
    for (unsigned i = 0; i < 300; i++) {
        read_at(&bus, ((i * 7) % 300) * 16, 1);
        cr_expect_eq(p[i].calls, i % 2 ? 2 : 1);
    }
}

Test(bus, overlap_is_refused)
{
    static const struct {
        uint64_t base, size;
        int err;
    } row[] = {
        {0x1000, 0x1000, -EEXIST},
        {0x0fff, 2, -EEXIST},
        {0x1fff, 1, -EEXIST},
        {0x0800, 0x4000, -EEXIST},
        {0x1800, 16, -EEXIST},
        {0, UINT64_MAX, -EEXIST},
        {0x0fff, 1, 0},
        {0x2000, 1, 0},
        {0x5000, 0, -EINVAL},
        {UINT64_MAX, 2, -EINVAL},
        {2, UINT64_MAX, -EINVAL},
        {UINT64_MAX, 1, 0},
    };
    struct probe p = {0};

    cr_assert_eq(add(&bus, &p, 0x1000, 0x1000), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(row); i++)
        cr_expect_eq(add(&bus, &p, row[i].base, row[i].size), row[i].err, "row %u", i);
    read_at(&bus, UINT64_MAX, 1);
    expect_call(&p, 0, 0, 1);
}

Test(bus, remove_names_the_base)
{
    struct probe p = {0};

    cr_assert_eq(add(&bus, &p, 0x1000, 0x1000), 0);
    bus_remove(&bus, 0x1001);
    bus_remove(&bus, 0xfff);
    bus_remove(&bus, 0);
    cr_expect_eq(read_at(&bus, 0x1000, 1), 0x10);
    bus_remove(&bus, 0x1000);
    bus_remove(&bus, 0x1000);
    cr_expect_eq(read_at(&bus, 0x1000, 1), 0xff);
    cr_expect_eq(add(&bus, &p, 0x1000, 1), 0);
}

Test(bus, odd_lengths_are_split_in_powers_of_two)
{
    struct probe p = {0};

    cr_assert_eq(add(&bus, &p, 0x100, 0x100), 0);
    cr_expect_eq(read_at(&bus, 0x101, 7), probe_value(1, 7));
    cr_assert_eq(p.calls, 3);
    expect_call(&p, 0, 1, 4);
    expect_call(&p, 1, 5, 2);
    expect_call(&p, 2, 7, 1);

    p.calls = 0;
    cr_expect_eq(read_at(&bus, 0x103, 8), probe_value(3, 8));
    expect_call(&p, 0, 3, 8);
    cr_expect_eq(p.calls, 1);
}

Test(bus, crossing_a_range_is_split)
{
    struct probe low = {0}, high = {0};
    uint64_t value = 0x8877665544332211;

    cr_assert_eq(add(&bus, &low, 0x100, 3), 0);
    cr_assert_eq(add(&bus, &high, 0x105, 0x10), 0);
    bus_write(&bus, 0x100, &value, 8); /* three bytes low, two nobody's, three high */
    cr_assert_eq(low.calls, 2);
    expect_call(&low, 0, 0, 2);
    expect_call(&low, 1, 2, 1);
    cr_expect_eq(low.call[0].value, 0x2211);
    cr_expect_eq(low.call[1].value, 0x33);
    cr_assert_eq(high.calls, 2);
    expect_call(&high, 0, 0, 2);
    expect_call(&high, 1, 2, 1);
    cr_expect_eq(high.call[0].value, 0x7766);
    cr_expect_eq(high.call[1].value, 0x88);

    cr_expect_eq(read_at(&bus, 0x100, 8), 0x121110ffff121110);
    cr_expect_eq(read_at(&bus, 0x0fe, 4), 0x1110ffff);
}

Test(bus, handler_may_remove_its_own_range)
{
    struct probe p = {.remove = 0x100};

    cr_assert_eq(add(&bus, &p, 0x100, 0x10), 0);
    cr_expect_eq(read_at(&bus, 0x100, 3), 0xff1110, "the second step finds it gone");
    cr_expect_eq(p.calls, 1);
}

Test(bus, two_buses_are_apart)
{
    struct probe p = {0};
    struct bus other;

    cr_assert_eq(bus_init(&other), 0);
    cr_assert_eq(add(&bus, &p, 0x100, 0x10), 0);
    cr_expect_eq(read_at(&other, 0x100, 1), 0xff);
    bus_fini(&other);
}

static atomic_bool stop_reading;
static pthread_barrier_t everybody;

static void *reader(void *opaque)
{
    (void)opaque;
    pthread_barrier_wait(&everybody);
    while (!atomic_load(&stop_reading)) {
        uint64_t value = read_at(&bus, 0x5000, 4);

        /* Either the device of the moment or nobody, never a mixture. */
        cr_assert(value == UINT32_MAX || value == probe_value(0, 4));
    }
    return NULL;
}

static uint64_t quiet_read(void *opaque, uint64_t offset, unsigned size)
{
    (void)opaque;
    return probe_value(offset, size);
}

Test(bus, lookups_go_on_while_ranges_move)
{
    static const struct bus_ops ops = {.read = quiet_read, .write = probe_write};
    struct bus_range range = {.base = 0x5000, .size = 4, .ops = &ops, .name = "moving"};
    struct bus_range below = {.base = 0x100, .size = 4, .ops = &ops, .name = "below"};
    pthread_t thread[2];

    pthread_barrier_init(&everybody, NULL, 3);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, reader, NULL), 0);
    pthread_barrier_wait(&everybody);
    for (int i = 0; i < 2000; i++) {
        cr_assert_eq(bus_add(&bus, &range), 0);
        cr_assert_eq(bus_add(&bus, &below), 0);
        bus_remove(&bus, range.base);
        bus_remove(&bus, below.base);
    }
    atomic_store(&stop_reading, true);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
}
