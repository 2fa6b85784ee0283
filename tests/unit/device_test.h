/*
 * device_test.h: what the tests of the fixed PC devices share: a port bus, port accesses as a
 * CPU makes them, and a machine that counts what is asked of it.
 */
#pragma once

#include <criterion/criterion.h>
#include <stdint.h>

#include "devices/platform.h"
#include "tests/unit/fake_hv.h"
#include "vmm/bus.h"

static inline uint64_t port_in(struct bus *pio, uint16_t port, unsigned size)
{
    uint64_t value = 0;

    bus_read(pio, port, &value, size);
    return value;
}

static inline void port_out(struct bus *pio, uint16_t port, unsigned size, uint64_t value)
{
    bus_write(pio, port, &value, size);
}

#define TEST_NS_PER_S 1000000000LL

struct test_power {
    unsigned resets, poweroffs, debug_exits;
    unsigned value; /* of the last debug exit */
};

static inline void test_power_reset(void *opaque)
{
    struct test_power *p = opaque;

    p->resets++;
}

static inline void test_power_off(void *opaque)
{
    struct test_power *p = opaque;

    p->poweroffs++;
}

static inline void test_power_debug_exit(void *opaque, unsigned value)
{
    struct test_power *p = opaque;

    p->debug_exits++;
    p->value = value;
}

static inline struct power test_power(struct test_power *power)
{
    static const struct power_ops ops = {
        .reset = test_power_reset,
        .poweroff = test_power_off,
        .debug_exit = test_power_debug_exit,
    };

    return (struct power){.ops = &ops, .opaque = power};
}
