/* debugport_test.c: writes of every width end the VM with the right value. */
#include "devices/debugport.h"

#include <errno.h>

#include "tests/unit/device_test.h"

#define PORT 0xf4

static struct bus pio;
static struct test_power power;
static struct debugport *dev;

static void setup(void)
{
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(debugport_create(&dev, &pio, PORT, test_power(&power)), 0);
}

static void teardown(void)
{
    debugport_destroy(dev);
    cr_expect_eq(pio.nr, 0);
    bus_fini(&pio);
}

TestSuite(debugport, .init = setup, .fini = teardown);

Test(debugport, any_width_ends_once)
{
    for (unsigned size = 1; size <= 8; size *= 2) {
        power.debug_exits = 0;
        port_out(&pio, PORT, size, 0x21);
        cr_expect_eq(power.debug_exits, 1, "size %u", size);
        cr_expect_eq(power.value, 0x21);
    }
}

Test(debugport, reads_and_neighbours_do_nothing)
{
    cr_expect_eq(port_in(&pio, PORT, 1), 0xff);
    cr_expect_eq(port_in(&pio, PORT, 4), 0xffffffff);
    port_out(&pio, PORT - 1, 1, 1);
    port_out(&pio, PORT + 1, 4, 1);
    cr_expect_eq(power.debug_exits, 0);
}

Test(debugport, taken_port_is_refused)
{
    struct debugport *second = NULL;

    cr_expect_eq(debugport_create(&second, &pio, PORT, test_power(&power)), -EEXIST);
    cr_expect_null(second);
    cr_assert_eq(debugport_create(&second, &pio, 0xffff, test_power(&power)), 0);
    port_out(&pio, 0xffff, 1, 3);
    cr_expect_eq(power.value, 3);
    debugport_destroy(second);
    debugport_destroy(NULL);
}
