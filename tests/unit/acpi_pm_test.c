/* acpi_pm_test.c: PM1 registers, the timer's arithmetic and interrupt, power-off, the button.
 */
#include "devices/acpi_pm.h"

#include <errno.h>

#include "tests/unit/device_test.h"
#include "tests/unit/fake_clock.h"
#include "vmm/layout.h"
#include "vmm/loop.h"

#define SCI    LAYOUT_GSI_SCI
#define STS    (LAYOUT_PORT_ACPI + ACPI_PM1_EVT)
#define EN     (LAYOUT_PORT_ACPI + ACPI_PM1_EVT + 2)
#define CNT    (LAYOUT_PORT_ACPI + ACPI_PM1_CNT)
#define TMR    (LAYOUT_PORT_ACPI + ACPI_PM_TMR)
#define TMR_EN 0x0001
#define GBL_EN 0x0020
#define PWRBTN 0x0100
#define SCI_EN 0x0001
#define SLP_EN 0x2000
#define TOGGLE 599932015941LL /* ns from one change of bit 31 to the next, rounded up */

static struct bus pio;
static struct fake_hv hv;
static struct loop *loop;
static struct test_power power;
static int64_t now = 123456789;
static struct acpi_pm *pm;

static void setup(void)
{
    struct irq_line sci = {.hv = &hv.hv, .gsi = SCI};

    fake_hv_init(&hv);
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(loop_create(&loop), 0);
    fake_clock_ns = &now;
    cr_assert_eq(acpi_pm_create(&pm, &pio, loop, sci, test_power(&power)), 0);
}

static void teardown(void)
{
    acpi_pm_destroy(pm);
    cr_expect_eq(pio.nr, 0);
    loop_destroy(loop);
    bus_fini(&pio);
}

TestSuite(acpi_pm, .init = setup, .fini = teardown);

Test(acpi_pm, power_on_state)
{
    cr_expect_eq(port_in(&pio, STS, 2), 0);
    cr_expect_eq(port_in(&pio, EN, 2), 0);
    cr_expect_eq(port_in(&pio, CNT, 2), SCI_EN);
    cr_expect_eq(port_in(&pio, TMR, 4), 0);
    cr_expect_not(hv.level[SCI]);
}

/* ACPICA enables an event and reads it back. */
Test(acpi_pm, enables_are_kept_where_they_exist)
{
    port_out(&pio, EN, 2, 0xffff);
    cr_expect_eq(port_in(&pio, EN, 2), 0x0721);
    port_out(&pio, EN, 1, 0);
    cr_expect_eq(port_in(&pio, EN, 2), 0x0700);
    port_out(&pio, EN + 1, 1, 0x01);
    cr_expect_eq(port_in(&pio, EN, 2), PWRBTN);
}

Test(acpi_pm, button_raises_sci_until_acknowledged)
{
    port_out(&pio, EN, 2, PWRBTN);
    cr_expect(acpi_pm_power_button(pm));
    cr_expect(hv.level[SCI]);
    cr_expect_eq(port_in(&pio, STS, 2), PWRBTN);
    port_out(&pio, STS, 2, 0);
    port_out(&pio, STS, 2, (uint16_t)~PWRBTN);
    cr_expect(hv.level[SCI], "only a 1 in its place clears it");
    port_out(&pio, STS, 2, PWRBTN);
    cr_expect_not(hv.level[SCI]);
    cr_expect_eq(port_in(&pio, STS, 2), 0);
}

Test(acpi_pm, button_without_a_listener)
{
    cr_expect_not(acpi_pm_power_button(pm));
    cr_expect_not(hv.level[SCI]);
    port_out(&pio, EN, 2, PWRBTN);
    cr_expect(hv.level[SCI], "the status was waiting");
    port_out(&pio, EN, 2, 0);
    cr_expect_not(hv.level[SCI]);
    cr_expect_eq(port_in(&pio, STS, 2), PWRBTN);
}

Test(acpi_pm, status_and_enable_in_one_access)
{
    acpi_pm_power_button(pm);
    port_out(&pio, STS, 4, (uint32_t)(GBL_EN | PWRBTN) << 16); /* clears nothing */
    cr_expect_eq(port_in(&pio, STS, 4), (uint32_t)(GBL_EN | PWRBTN) << 16 | PWRBTN);
    cr_expect(hv.level[SCI]);
    port_out(&pio, STS + 1, 1, PWRBTN >> 8);
    cr_expect_not(hv.level[SCI]);
    port_out(&pio, STS + 1, 2, 0x2001); /* high byte of status, low byte of enable */
    cr_expect_eq(port_in(&pio, EN, 2), PWRBTN | GBL_EN);
}

Test(acpi_pm, only_s5_powers_off)
{
    for (unsigned type = 0; type < 8; type++) {
        port_out(&pio, CNT, 2, type << 10);
        cr_expect_eq(power.poweroffs, 0, "without SLP_EN");
        if (type != ACPI_S5_SLP_TYP)
            port_out(&pio, CNT, 2, SLP_EN | type << 10);
        cr_expect_eq(power.poweroffs, 0, "type %u", type);
        cr_expect_eq(port_in(&pio, CNT, 2), SCI_EN | type << 10, "SLP_EN reads 0");
    }
    port_out(&pio, CNT, 2, SLP_EN | ACPI_S5_SLP_TYP << 10);
    cr_expect_eq(power.poweroffs, 1);
    port_out(&pio, CNT + 1, 1, (SLP_EN | ACPI_S5_SLP_TYP << 10) >> 8);
    cr_expect_eq(power.poweroffs, 2);
    port_out(&pio, CNT, 4, SLP_EN | ACPI_S5_SLP_TYP << 10);
    cr_expect_eq(power.poweroffs, 3);
    port_out(&pio, CNT, 2, 0);
    cr_expect_eq(port_in(&pio, CNT, 2), SCI_EN, "there is no way out of ACPI mode");
}

Test(acpi_pm, timer_counts_at_its_rate)
{
    now += TEST_NS_PER_S;
    cr_expect_eq(port_in(&pio, TMR, 4), 3579545);
    now += 500000000;
    cr_expect_eq(port_in(&pio, TMR, 4), 5369317);
    cr_expect_eq(port_in(&pio, TMR, 2), 5369317 & 0xffff);
    cr_expect_eq(port_in(&pio, TMR + 1, 1), 5369317 >> 8 & 0xff);
    port_out(&pio, TMR, 4, 0);
    cr_expect_eq(port_in(&pio, TMR, 4), 5369317, "read-only");

    now += 100LL * 365 * 86400 * TEST_NS_PER_S; /* a century does not overflow */
    cr_expect_eq(port_in(&pio, TMR, 4), (uint32_t)(100LL * 365 * 86400 * 3579545 + 5369317));
    acpi_pm_reset(pm);
    cr_expect_neq(port_in(&pio, TMR, 4), 0, "a reset does not touch it");
}

Test(acpi_pm, timer_status_at_every_change_of_the_top_bit)
{
    int64_t start = now;

    for (int i = 1; i <= 4; i++) {
        now = start + i * TOGGLE - 300;
        cr_expect_eq(port_in(&pio, STS, 2), 0, "change %d", i);
        now = start + i * TOGGLE;
        cr_expect_eq(port_in(&pio, STS, 2), TMR_EN, "change %d", i);
        cr_expect_eq(port_in(&pio, TMR, 4) >> 31, i & 1);
        port_out(&pio, STS, 2, TMR_EN);
        cr_expect_eq(port_in(&pio, STS, 2), 0);
    }
    cr_expect_eq(hv.raised[SCI], 0, "not enabled");
}

static int stop_on_line(struct hv *h, uint32_t gsi, bool level)
{
    (void)h;
    hv.level[gsi] = level;
    loop_stop(loop);
    return 0;
}

/* The device's own timer is due in the real past as soon as the test's clock gets there. */
Test(acpi_pm, timer_interrupt_comes_from_the_loop)
{
    struct irq_line sci = {.hv = &hv.hv, .gsi = SCI};
    struct hv_ops ops = *hv.hv.ops;

    ops.irq_line = stop_on_line;
    hv.hv.ops = &ops;
    now = -TOGGLE + 1;
    acpi_pm_destroy(pm);
    cr_assert_eq(acpi_pm_create(&pm, &pio, loop, sci, test_power(&power)), 0);
    port_out(&pio, EN, 2, TMR_EN); /* armed for 1 ns after boot */
    loop_stop(loop);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_not(hv.level[SCI], "too early: armed again");
    now = 1;
    cr_assert_eq(loop_run(loop), 0);
    cr_expect(hv.level[SCI]);
    cr_expect_eq(port_in(&pio, STS, 2), TMR_EN);
    port_out(&pio, STS, 2, TMR_EN);
    cr_expect_not(hv.level[SCI]);
}

Test(acpi_pm, reset_disables_everything)
{
    port_out(&pio, EN, 2, 0xffff);
    port_out(&pio, CNT, 2, 7 << 10);
    acpi_pm_power_button(pm);
    cr_expect(hv.level[SCI]);
    acpi_pm_reset(pm);
    cr_expect_not(hv.level[SCI]);
    cr_expect_eq(port_in(&pio, STS, 4), 0);
    cr_expect_eq(port_in(&pio, CNT, 2), SCI_EN);
}

Test(acpi_pm, every_access_fits)
{
    for (unsigned at = 0; at < ACPI_PM_SIZE + 2; at++) {
        for (unsigned size = 1; size <= 8; size++) {
            port_out(&pio, (uint16_t)(LAYOUT_PORT_ACPI + at), size, 0);
            port_in(&pio, (uint16_t)(LAYOUT_PORT_ACPI + at), size);
        }
    }
    cr_expect_eq(port_in(&pio, LAYOUT_PORT_ACPI + 6, 2), 0, "the gap reads 0");
    cr_expect_eq(port_in(&pio, TMR, 8), 0xffffffff00000000);
}

Test(acpi_pm, taken_ports_are_refused)
{
    struct irq_line sci = {.hv = &hv.hv, .gsi = SCI};
    struct acpi_pm *second = NULL;

    cr_expect_eq(acpi_pm_create(&second, &pio, loop, sci, test_power(&power)), -EEXIST);
    cr_expect_null(second);
    acpi_pm_destroy(NULL);
}
