/* i8042_test.c: what resets, what must not, and that no guest waits for ever. */
#include "devices/i8042.h"

#include <errno.h>

#include "tests/unit/device_test.h"

static struct bus pio;
static struct test_power asked;
static struct power power;

static void setup(void)
{
    cr_assert_eq(bus_init(&pio), 0);
    power = test_power(&asked);
    cr_assert_eq(i8042_add(&pio, &power), 0);
}

static void teardown(void)
{
    bus_fini(&pio);
}

TestSuite(i8042, .init = setup, .fini = teardown);

Test(i8042, only_command_fe_resets)
{
    for (unsigned command = 0; command < 0xfe; command++)
        port_out(&pio, 0x64, 1, command);
    port_out(&pio, 0x64, 1, 0xff);
    for (unsigned data = 0; data < 0x100; data++)
        port_out(&pio, 0x60, 1, data);
    cr_expect_eq(asked.resets, 0);
    port_out(&pio, 0x64, 1, 0xfe);
    cr_expect_eq(asked.resets, 1);
    port_out(&pio, 0x64, 4, 0xfe);
    cr_expect_eq(asked.resets, 2);
}

/* Linux's kb_wait() waits for bit 1 to be clear, boot loaders drain while bit 0 is set. */
Test(i8042, never_busy_and_never_has_data)
{
    cr_expect_eq(port_in(&pio, 0x64, 1), 0);
    port_out(&pio, 0x64, 1, 0x20); /* a command with an answer */
    cr_expect_eq(port_in(&pio, 0x64, 1), 0);
    cr_expect_eq(port_in(&pio, 0x60, 1), 0xff);
}

/* The kernel's PIT owns the speaker port in between. */
Test(i8042, port_61_is_not_taken)
{
    struct bus_range range = {.base = 0x61, .size = 3};

    cr_expect_eq(bus_add(&pio, &range), 0);
    bus_remove(&pio, 0x61);
}

Test(i8042, taken_ports_are_refused)
{
    cr_expect_eq(i8042_add(&pio, &power), -EEXIST);
}
