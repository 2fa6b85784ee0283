/* cmos_test.c: the clock's registers in all modes, setting it, its interrupts, the RAM. */
#include "devices/cmos.h"

#include <errno.h>
#include <stdbool.h>
#include <time.h>

#include "tests/unit/device_test.h"
#include "tests/unit/fake_clock.h"
#include "vmm/layout.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define IRQ LAYOUT_GSI_RTC

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WDAY,
    DAY,
    MONTH,
    YEAR
};
enum { A = 10, B, C, D, SHUTDOWN = 0x0f, CENTURY = 0x32 };
enum { H24 = 0x02, BINARY = 0x04, UIE = 0x10, AIE = 0x20, PIE = 0x40, SET = 0x80, IRQF = 0x80 };

/* Saturday, 2024-02-24 21:59:58.25 UTC */
#define START (1708811998LL * TEST_NS_PER_S + 250000000)

static struct bus pio;
static struct fake_hv hv;
static struct loop *loop;
static int64_t now = START;
static struct cmos *cmos;

static uint8_t get(unsigned reg)
{
    port_out(&pio, 0x70, 1, reg);
    return (uint8_t)port_in(&pio, 0x71, 1);
}

static void put(unsigned reg, unsigned value)
{
    port_out(&pio, 0x70, 1, reg);
    port_out(&pio, 0x71, 1, value);
}

static void pass(int64_t ns)
{
    now += ns;
}

static struct cmos *create(uint64_t low_ram, uint64_t high_ram)
{
    struct irq_line irq = {.hv = &hv.hv, .gsi = IRQ};
    struct cmos *c;

    cr_assert_eq(cmos_create(&c, &pio, loop, irq, low_ram, high_ram), 0);
    return c;
}

static void setup(void)
{
    fake_hv_init(&hv);
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(loop_create(&loop), 0);
    fake_clock_ns = &now;
    cmos = create(512 * MIB, 0);
}

static void teardown(void)
{
    cmos_destroy(cmos);
    cr_expect_eq(pio.nr, 0);
    loop_destroy(loop);
    bus_fini(&pio);
}

TestSuite(cmos, .init = setup, .fini = teardown);

static void expect_time(unsigned century, unsigned year, unsigned month, unsigned day,
                        unsigned hours, unsigned minutes, unsigned seconds)
{
    cr_expect_eq(get(CENTURY), century, "century %#x", get(CENTURY));
    cr_expect_eq(get(YEAR), year, "year %#x", get(YEAR));
    cr_expect_eq(get(MONTH), month, "month %#x", get(MONTH));
    cr_expect_eq(get(DAY), day, "day %#x", get(DAY));
    cr_expect_eq(get(HOURS), hours, "hours %#x", get(HOURS));
    cr_expect_eq(get(MINUTES), minutes, "minutes %#x", get(MINUTES));
    cr_expect_eq(get(SECONDS), seconds, "seconds %#x", get(SECONDS));
}

Test(cmos, power_on_state)
{
    cr_expect_eq(get(A), 0x26);
    cr_expect_eq(get(B), H24);
    cr_expect_eq(get(C), 0);
    cr_expect_eq(get(D), 0x80);
    cr_expect_eq(get(SHUTDOWN), 0);
    cr_expect_eq(port_in(&pio, 0x70, 1), 0xff);
}

Test(cmos, tells_utc_in_bcd)
{
    expect_time(0x20, 0x24, 0x02, 0x24, 0x21, 0x59, 0x58);
    cr_expect_eq(get(WDAY), 7, "Saturday");
    pass(2 * TEST_NS_PER_S);
    expect_time(0x20, 0x24, 0x02, 0x24, 0x22, 0x00, 0x00);
    pass(5 * 86400 * TEST_NS_PER_S);
    expect_time(0x20, 0x24, 0x02, 0x29, 0x22, 0x00, 0x00);
    pass(86400 * TEST_NS_PER_S);
    expect_time(0x20, 0x24, 0x03, 0x01, 0x22, 0x00, 0x00);
}

Test(cmos, binary_and_twelve_hours)
{
    static const struct {
        unsigned hour;
        uint8_t bcd, binary;
    } row[] = {{0, 0x12, 12},         {1, 0x01, 1},         {11, 0x11, 11},
               {12, 0x92, 0x80 | 12}, {13, 0x81, 0x80 | 1}, {23, 0x91, 0x80 | 11}};

    put(B, H24 | BINARY);
    expect_time(20, 24, 2, 24, 21, 59, 58);
    for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
        now = row[i].hour * 3600 * TEST_NS_PER_S;
        put(B, 0);
        cr_expect_eq(get(HOURS), row[i].bcd, "hour %u", row[i].hour);
        put(B, BINARY);
        cr_expect_eq(get(HOURS), row[i].binary, "hour %u", row[i].hour);
    }
}

/* As Linux's mc146818_set_time() does it. */
static void set_time(unsigned b, unsigned century, unsigned year, unsigned month, unsigned day,
                     unsigned hours, unsigned minutes, unsigned seconds)
{
    put(B, b | SET);
    put(A, 0x70 | 6);
    put(YEAR, year);
    put(MONTH, month);
    put(DAY, day);
    put(HOURS, hours);
    put(MINUTES, minutes);
    put(SECONDS, seconds);
    put(CENTURY, century);
    put(B, b);
    put(A, 0x26);
}

Test(cmos, guest_sets_the_clock)
{
    set_time(H24, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
    expect_time(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
    pass(499999999);
    expect_time(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
    pass(1);
    expect_time(0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    cr_expect_eq(get(WDAY), 7, "Saturday");
    cmos_reset(cmos);
    expect_time(0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    pass(3600 * TEST_NS_PER_S);
    expect_time(0x20, 0x00, 0x01, 0x01, 0x01, 0x00, 0x00);
}

Test(cmos, guest_sets_the_clock_in_other_modes)
{
    set_time(BINARY, 20, 38, 1, 19, 0x80 | 12, 14, 7);
    expect_time(20, 38, 1, 19, 0x80 | 12, 14, 7);
    put(B, H24);
    expect_time(0x20, 0x38, 0x01, 0x19, 0x12, 0x14, 0x07);
    set_time(0, 0x20, 0x38, 0x01, 0x19, 0x12, 0x14, 0x07);
    put(B, H24);
    expect_time(0x20, 0x38, 0x01, 0x19, 0x00, 0x14, 0x07);
}

Test(cmos, far_years_do_not_overflow)
{
    set_time(H24, 0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
    expect_time(0x99, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59);
    put(B, H24 | UIE | AIE);
    put(HOURS_ALARM, 0);
    put(MINUTES_ALARM, 0);
    put(SECONDS_ALARM, 0);
    pass(TEST_NS_PER_S);
    cr_expect_eq(get(C), IRQF | PIE | AIE | UIE);
    set_time(H24, 0x00, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    expect_time(0x00, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    put(B, H24 | AIE);
    put(HOURS_ALARM, 0x12);
    put(MINUTES_ALARM, 0x30);
    put(SECONDS_ALARM, 0x15);
    pass(86400 * TEST_NS_PER_S);
    cr_expect_eq(get(C) & AIE, AIE, "before 1970 as well");
}

Test(cmos, nonsense_is_some_time)
{
    for (unsigned b = 0; b < 8; b += 2) {
        for (unsigned v = 0; v < 0x100; v++) {
            set_time(b, v, v, v, v, v, v, v);
            for (unsigned reg = 0; reg < 10; reg++)
                get(reg);
            pass(1);
            put(B, b | AIE | UIE | PIE);
            put(HOURS_ALARM, v);
            put(MINUTES_ALARM, v ^ 0x40);
            put(SECONDS_ALARM, v ^ 0x80);
            pass(TEST_NS_PER_S);
            get(C);
        }
    }
}

Test(cmos, set_without_set_bit)
{
    put(MINUTES, 0x30);
    expect_time(0x20, 0x24, 0x02, 0x24, 0x21, 0x30, 0x58);
    put(YEAR, 0x30);
    expect_time(0x20, 0x30, 0x02, 0x24, 0x21, 0x30, 0x58);
}

Test(cmos, set_stops_updates)
{
    put(B, H24 | UIE);
    put(B, H24 | SET | UIE);
    cr_expect_eq(get(B), H24 | SET, "SET takes UIE away");
    pass(10 * TEST_NS_PER_S);
    expect_time(0x20, 0x24, 0x02, 0x24, 0x21, 0x59, 0x58);
    cr_expect_eq(get(C) & UIE, 0);
    put(B, H24);
    expect_time(0x20, 0x24, 0x02, 0x24, 0x21, 0x59, 0x58);
    pass(TEST_NS_PER_S);
    cr_expect_eq(get(SECONDS), 0x59);
}

Test(cmos, reset_ends_set)
{
    put(B, H24 | SET | PIE | AIE | 0x08);
    put(SECONDS, 0x00);
    cmos_reset(cmos);
    cr_expect_eq(get(B), H24);
    expect_time(0x20, 0x24, 0x02, 0x24, 0x21, 0x59, 0x58);
}

Test(cmos, uip_announces_the_update)
{
    cr_expect_eq(get(A), 0x26);
    pass(750000000 - 244142); /* 244.142 us before the second ends */
    cr_expect_eq(get(A), 0x26);
    pass(1);
    cr_expect_eq(get(A), 0xa6);
    put(B, H24 | SET);
    cr_expect_eq(get(A), 0x26, "SET inhibits it");
    put(B, H24);
    pass(500000000 - 1);
    cr_expect_eq(get(A), 0xa6);
    pass(1);
    cr_expect_eq(get(A), 0x26);
    put(A, 0xff);
    cr_expect_eq(get(A), 0x7f, "read-only");
}

Test(cmos, flags_come_without_enables)
{
    cr_expect_eq(get(C), 0);
    pass(TEST_NS_PER_S);
    cr_expect_eq(get(C), PIE | UIE, "no IRQF");
    cr_expect_eq(get(C), 0, "reading clears");
    cr_expect_eq(hv.raised[IRQ], 0);
    put(C, 0xff);
    put(D, 0);
    cr_expect_eq(get(C), 0);
    cr_expect_eq(get(D), 0x80);
}

Test(cmos, update_interrupt_is_a_level_until_c_is_read)
{
    put(B, H24 | UIE);
    pass(749999999);
    cr_expect_eq(get(C) & UIE, 0);
    pass(1);
    cr_expect_eq(get(D), 0x80); /* any access finds it */
    cr_expect(hv.level[IRQ]);
    pass(5 * TEST_NS_PER_S);
    cr_expect_eq(get(C) & (IRQF | UIE), IRQF | UIE);
    cr_expect_not(hv.level[IRQ]);
    cr_expect_eq(hv.raised[IRQ], 1);
    pass(TEST_NS_PER_S);
    get(D);
    cr_expect_eq(hv.raised[IRQ], 2);
    put(B, H24);
    cr_expect_not(hv.level[IRQ]);
    put(B, H24 | UIE);
    cr_expect(hv.level[IRQ], "the flag is still up");
}

Test(cmos, periodic_rates)
{
    static const unsigned hz[16] = {0,   256, 128, 8192, 4096, 2048, 1024, 512,
                                    256, 128, 64,  32,   16,   8,    4,    2};

    for (unsigned rs = 1; rs < 16; rs++) {
        int64_t period = (TEST_NS_PER_S + hz[rs] - 1) / hz[rs];

        now = START - 250000000;
        put(A, 0x20 | rs);
        get(C);
        pass(period - 1);
        cr_expect_eq(get(C) & PIE, 0, "rate %u", rs);
        pass(1);
        cr_expect_eq(get(C) & PIE, PIE, "rate %u", rs);
    }
    put(A, 0x20);
    get(C);
    pass(TEST_NS_PER_S);
    cr_expect_eq(get(C) & PIE, 0, "rate 0 is none");
}

static void set_alarm(unsigned hours, unsigned minutes, unsigned seconds)
{
    put(HOURS_ALARM, hours);
    put(MINUTES_ALARM, minutes);
    put(SECONDS_ALARM, seconds);
    get(C);
}

/* Seconds until the alarm, looking once a second. */
static int until_alarm(int limit)
{
    for (int s = 1; s <= limit; s++) {
        pass(TEST_NS_PER_S);
        if (get(C) & AIE)
            return s;
    }
    return -1;
}

Test(cmos, alarms)
{
    static const struct {
        uint8_t hours, minutes, seconds;
        int first, second;
    } row[] = {
        {0x21, 0x59, 0x59, 1, 86400},     {0x22, 0x00, 0x00, 2, 86400},
        {0x21, 0x59, 0x58, 86400, 86400}, /* this second is over */
        {0xc0, 0xff, 0xc5, 1, 1},         {0xc0, 0xc0, 0x10, 12, 60},
        {0xc0, 0x05, 0x00, 302, 3600},    {0x23, 0xc0, 0xc0, 3602, 1},
        {0x22, 0xc0, 0x00, 2, 60},        {0x24, 0x00, 0x00, -1, -1},
        {0x00, 0x60, 0x00, -1, -1},       {0x00, 0x00, 0x61, -1, -1},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
        now = START;
        set_alarm(row[i].hours, row[i].minutes, row[i].seconds);
        cr_expect_eq(until_alarm(90000), row[i].first, "row %u", i);
        if (row[i].second > 0)
            cr_expect_eq(until_alarm(90000), row[i].second, "row %u, again", i);
    }
}

Test(cmos, alarm_in_twelve_hour_mode)
{
    put(B, 0);
    set_alarm(0x92, 0x00, 0x00); /* noon: 14 hours and 2 seconds */
    cr_expect_eq(until_alarm(86400), 14 * 3600 + 2);
}

/* After a long pause of the VM the alarm is late, not lost; the search is bounded. */
Test(cmos, alarm_within_a_long_gap)
{
    set_alarm(0x12, 0x00, 0x00);
    pass(40LL * 365 * 86400 * TEST_NS_PER_S);
    cr_expect_eq(get(C) & AIE, AIE);
    cr_expect_eq(get(C) & AIE, 0);
}

Test(cmos, host_clock_set_back)
{
    put(B, H24 | UIE | AIE | PIE);
    get(C);
    pass(-86400 * TEST_NS_PER_S);
    cr_expect_eq(get(C), 0);
    expect_time(0x20, 0x24, 0x02, 0x23, 0x21, 0x59, 0x58);
    pass(TEST_NS_PER_S);
    cr_expect_eq(get(C) & (UIE | PIE), UIE | PIE);
}

static int stop_on_line(struct hv *h, uint32_t gsi, bool level)
{
    (void)h;
    hv.level[gsi] = level;
    loop_stop(loop);
    return 0;
}

/* The timer is set in the test's time, which is in the real past: it is due when the loop
 * runs, and the device then asks the test's clock what has happened. */
Test(cmos, interrupts_come_from_the_loop)
{
    static const struct {
        uint8_t enable;
        int64_t ns;
    } row[] = {{UIE, 750000000}, {PIE, 976563}, {AIE, 2 * TEST_NS_PER_S}};
    struct hv_ops ops = *hv.hv.ops;

    ops.irq_line = stop_on_line;
    hv.hv.ops = &ops;
    set_alarm(0x22, 0x00, 0x00);
    for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
        now = START;
        get(C);
        put(B, H24 | row[i].enable);
        loop_stop(loop);
        cr_assert_eq(loop_run(loop), 0);
        cr_expect_not(hv.level[IRQ], "too early: armed again");
        pass(row[i].ns);
        cr_assert_eq(loop_run(loop), 0);
        cr_expect(hv.level[IRQ], "row %u", i);
        cr_expect_eq(get(C) & row[i].enable, row[i].enable);
        put(B, H24);
        cr_expect_not(hv.level[IRQ]);
        loop_stop(loop);
        cr_assert_eq(loop_run(loop), 0);
    }
}

Test(cmos, ram_survives_a_reset)
{
    for (unsigned reg = 0x0e; reg < 0x80; reg++) {
        if (reg != CENTURY)
            put(reg, reg ^ 0x5a);
    }
    put(0x80 | SHUTDOWN, 0x0a); /* bit 7 is the NMI mask */
    cmos_reset(cmos);
    cr_expect_eq(get(SHUTDOWN), 0x0a);
    for (unsigned reg = 0x10; reg < 0x80; reg++) {
        if (reg != CENTURY)
            cr_expect_eq(get(reg), reg ^ 0x5a, "register %#x", reg);
    }
}

Test(cmos, wide_accesses)
{
    port_out(&pio, 0x70, 2, 0x5a << 8 | SHUTDOWN); /* index and data at once */
    cr_expect_eq(get(SHUTDOWN), 0x5a);
    cr_expect_eq(port_in(&pio, 0x70, 2), 0x5aff);
    cr_expect_eq(port_in(&pio, 0x71, 4), 0xffffff5a);
}

static unsigned get_number(unsigned reg, unsigned bytes)
{
    unsigned value = 0;

    while (bytes-- > 0)
        value = value << 8 | get(reg + bytes);
    return value;
}

Test(cmos, memory_sizes)
{
    static const struct {
        uint64_t low, high;
        unsigned ext, ext2, above;
    } row[] = {
        {512 * MIB, 0, 0xffff, 0x1f00, 0},
        {16 * MIB, 0, 15 * 1024, 0, 0},
        {MIB, 0, 0, 0, 0},
        {64 * KIB, 0, 0, 0, 0},
        {3 * GIB, 5 * GIB, 0xffff, 0xbf00, 0x14000},
        {3 * GIB, 4 * TIB, 0xffff, 0xbf00, 0xffffff},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(row); i++) {
        cmos_destroy(cmos);
        cmos = create(row[i].low, row[i].high);
        cr_expect_eq(get_number(0x15, 2), 640);
        cr_expect_eq(get_number(0x17, 2), row[i].ext, "row %u", i);
        cr_expect_eq(get_number(0x30, 2), row[i].ext, "row %u", i);
        cr_expect_eq(get_number(0x34, 2), row[i].ext2, "row %u", i);
        cr_expect_eq(get_number(0x5b, 3), row[i].above, "row %u", i);
    }
}

Test(cmos, follows_the_real_clock)
{
    struct irq_line irq = {.hv = &hv.hv, .gsi = IRQ};
    time_t before, after;
    struct tm tm = {0};
    struct cmos *c;

    cmos_destroy(cmos);
    fake_clock_ns = NULL;
    cr_assert_eq(cmos_create(&c, &pio, loop, irq, 0, 0), 0);
    cmos = c;
    put(B, H24 | BINARY);
    do {
        before = time(NULL);
        tm.tm_year = get(CENTURY) * 100 + get(YEAR) - 1900;
        tm.tm_mon = get(MONTH) - 1;
        tm.tm_mday = get(DAY);
        tm.tm_hour = get(HOURS);
        tm.tm_min = get(MINUTES);
        tm.tm_sec = get(SECONDS);
        after = time(NULL);
    } while (before != after);
    cr_expect_leq(before - timegm(&tm), 1);
    cr_expect_geq(before - timegm(&tm), -1);
}

Test(cmos, taken_ports_are_refused)
{
    struct irq_line irq = {.hv = &hv.hv, .gsi = IRQ};
    struct cmos *second = NULL;

    cr_expect_eq(cmos_create(&second, &pio, loop, irq, 0, 0), -EEXIST);
    cr_expect_null(second);
    cmos_destroy(NULL);
}
