/*
 * cmos.c: MC146818 real-time clock plus RAM (Motorola data sheet, "Registers" and "Update
 * Cycle"), with the 128 bytes, the century and the memory sizes of a PC/AT.
 *
 * Nothing ticks: each access works out from the host's clock what has happened since the one
 * before, and a timer runs only for an interrupt that the guest has enabled and that is not
 * pending yet. The update cycle takes no time; UIP announces it, so that a guest which finds
 * UIP clear has the data sheet's 244 us to read a consistent time.
 *
 * Left out: stopping the divider chain, daylight saving, the square wave, and port 0x70's NMI
 * mask (bit 7). The lock guards everything: vCPU threads access ports, the loop's thread runs
 * the timer.
 */
#include "devices/cmos.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define S_PER_DAY  86400
#define UIP_BEFORE 244141 /* ns: t_BUC, 8 cycles of the 32768 Hz crystal */
#define CMOS_SIZE  128
#define ALARM_ANY  0xc0 /* and above: matches always */

enum cmos_port { CMOS_INDEX, CMOS_DATA, CMOS_PORTS };

enum cmos_register {
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_DAY_OF_WEEK,
    RTC_DAY_OF_MONTH,
    RTC_MONTH,
    RTC_YEAR,
    RTC_REG_A,
    RTC_REG_B,
    RTC_REG_C,
    RTC_REG_D,
    CMOS_BASE_MEMORY = 0x15,     /* KiB */
    CMOS_EXT_MEMORY = 0x17,      /* KiB above 1 MiB */
    CMOS_EXT_MEMORY_POST = 0x30, /* the same, as the firmware found it */
    CMOS_CENTURY = 0x32,
    CMOS_EXT2_MEMORY = 0x34, /* 64 KiB above 16 MiB */
    CMOS_HIGH_MEMORY = 0x5b, /* 64 KiB above 4 GiB */
};

enum {
    REG_A_RS = 0x0f,  /* rate of the periodic interrupt */
    REG_A_DV1 = 0x20, /* 32768 Hz crystal */
    REG_A_UIP = 0x80,

    REG_B_24H = 0x02,
    REG_B_DM = 0x04, /* binary, otherwise BCD */
    REG_B_SQWE = 0x08,
    REG_B_UIE = 0x10,
    REG_B_AIE = 0x20,
    REG_B_PIE = 0x40,
    REG_B_SET = 0x80, /* no updates: the guest writes the time */

    REG_C_UF = REG_B_UIE, /* flags, where B has their enables */
    REG_C_AF = REG_B_AIE,
    REG_C_PF = REG_B_PIE,
    REG_C_IRQF = 0x80,

    REG_D_VRT = 0x80, /* the battery is good */
};

struct cmos {
    pthread_mutex_t lock;
    struct bus *pio;
    struct loop *loop;
    struct irq_line irq;
    int timer;
    int64_t armed_ns; /* host time the timer is set to */

    /* The guest's second begins OFFSET_NS before the host's, and is numbered OFFSET_S more.
     * Two parts, as the nanoseconds of a year that the guest may choose do not fit 64 bits. */
    int64_t offset_ns, offset_s;
    int64_t last_ns; /* cmos_now() of the last cmos_update() */

    uint8_t index;
    uint8_t ram[CMOS_SIZE]; /* the time registers in it are current only while SET is on */
};

/* Nanoseconds in the guest's phase; numbered as seconds by guest_second(). */
static int64_t cmos_now(const struct cmos *c)
{
    return loop_now(CLOCK_REALTIME) + c->offset_ns;
}

static int64_t guest_second(const struct cmos *c, int64_t now)
{
    return now / NS_PER_S + c->offset_s;
}

/* ---- time registers ---- */

static uint8_t encode(const struct cmos *c, int value)
{
    if (c->ram[RTC_REG_B] & REG_B_DM)
        return (uint8_t)value;
    return (uint8_t)(value / 10 << 4 | value % 10);
}

static int decode(const struct cmos *c, uint8_t value)
{
    return c->ram[RTC_REG_B] & REG_B_DM ? value : (value >> 4) * 10 + (value & 0xf);
}

/* In 12-hour mode midnight is 12 AM, noon 12 PM, and PM is bit 7. */
static uint8_t encode_hours(const struct cmos *c, int hours)
{
    if (c->ram[RTC_REG_B] & REG_B_24H)
        return encode(c, hours);
    return encode(c, (hours + 11) % 12 + 1) | (hours >= 12 ? 0x80 : 0);
}

static int decode_hours(const struct cmos *c, uint8_t value)
{
    if (c->ram[RTC_REG_B] & REG_B_24H)
        return decode(c, value);
    return decode(c, value & 0x7f) % 12 + (value & 0x80 ? 12 : 0);
}

static bool is_time(unsigned reg)
{
    static const uint8_t time[] = {RTC_SECONDS,      RTC_MINUTES, RTC_HOURS, RTC_DAY_OF_WEEK,
                                   RTC_DAY_OF_MONTH, RTC_MONTH,   RTC_YEAR,  CMOS_CENTURY};
    return memchr(time, (int)reg, sizeof(time));
}

/* The time NOW into its registers. */
static void load_time(struct cmos *c, int64_t now)
{
    time_t second = guest_second(c, now);
    struct tm tm;
    gmtime_r(&second, &tm);
    int year = tm.tm_year + 1900;
    c->ram[RTC_SECONDS] = encode(c, tm.tm_sec);
    c->ram[RTC_MINUTES] = encode(c, tm.tm_min);
    c->ram[RTC_HOURS] = encode_hours(c, tm.tm_hour);
    c->ram[RTC_DAY_OF_WEEK] = encode(c, tm.tm_wday + 1);
    c->ram[RTC_DAY_OF_MONTH] = encode(c, tm.tm_mday);
    c->ram[RTC_MONTH] = encode(c, tm.tm_mon + 1);
    c->ram[RTC_YEAR] = encode(c, year % 100);
    c->ram[CMOS_CENTURY] = encode(c, year / 100);
}

/* The time registers are what it is now. The next update comes half a second later, as after a
 * reset of the divider chain, which is what setting the clock to the second relies on. Fields
 * out of range carry over: whatever they hold is some time. */
static void store_time(struct cmos *c)
{
    int64_t host = loop_now(CLOCK_REALTIME);
    struct tm tm = {
        .tm_sec = decode(c, c->ram[RTC_SECONDS]),
        .tm_min = decode(c, c->ram[RTC_MINUTES]),
        .tm_hour = decode_hours(c, c->ram[RTC_HOURS]),
        .tm_mday = decode(c, c->ram[RTC_DAY_OF_MONTH]),
        .tm_mon = decode(c, c->ram[RTC_MONTH]) - 1,
        .tm_year = decode(c, c->ram[CMOS_CENTURY]) * 100 + decode(c, c->ram[RTC_YEAR]) - 1900,
    };

    c->offset_ns = (NS_PER_S + NS_PER_S / 2 - host % NS_PER_S) % NS_PER_S;
    c->last_ns = host + c->offset_ns;
    c->offset_s = timegm(&tm) - c->last_ns / NS_PER_S;
}

/* ---- events ---- */

/* Periodic interrupts a second, 0: none (table "Periodic Interrupt Rate", 32768 Hz). */
static int64_t periodic_hz(const struct cmos *c)
{
    unsigned rs = c->ram[RTC_REG_A] & REG_A_RS;
    if (rs == 0)
        return 0;
    return rs < 3 ? 512 >> rs : 65536 >> rs;
}

static int64_t period_at(int64_t now, int64_t hz)
{
    return now / NS_PER_S * hz + now % NS_PER_S * hz / NS_PER_S;
}

static int64_t period_start(int64_t period, int64_t hz)
{
    return period / hz * NS_PER_S + (period % hz * NS_PER_S + hz - 1) / hz;
}

static bool alarm_matches(const struct cmos *c, unsigned reg, int64_t value)
{
    uint8_t alarm = c->ram[reg];
    if (alarm >= ALARM_ANY)
        return true;
    return value == (reg == RTC_HOURS_ALARM ? decode_hours(c, alarm) : decode(c, alarm));
}

/* The second of the next alarm after SECOND; LOOP_NEVER when its fields are no time of day. The
 * steps are at most the rest of a minute, an hour and a day, and a minute and an hour again. */
static int64_t next_alarm(const struct cmos *c, int64_t second)
{
    second++;
    for (int steps = 60 + 60 + 24 + 60 + 60; steps >= 0; steps--) {
        int64_t in_day = (second % S_PER_DAY + S_PER_DAY) % S_PER_DAY;
        if (!alarm_matches(c, RTC_HOURS_ALARM, in_day / 3600))
            second += 3600 - in_day % 3600;
        else if (!alarm_matches(c, RTC_MINUTES_ALARM, in_day / 60 % 60))
            second += 60 - in_day % 60;
        else if (!alarm_matches(c, RTC_SECONDS_ALARM, in_day % 60))
            second++;
        else
            return second;
    }
    return LOOP_NEVER;
}

/* Flags come up whether or not their interrupts are enabled. */
static uint8_t flags_between(const struct cmos *c, int64_t last, int64_t now)
{
    int64_t hz = periodic_hz(c);
    uint8_t flags = 0;
    if (now <= last)
        return 0; /* the host's clock was set back */
    if (hz && period_at(last, hz) != period_at(now, hz))
        flags |= REG_C_PF;
    if (!(c->ram[RTC_REG_B] & REG_B_SET) && last / NS_PER_S != now / NS_PER_S) {
        flags |= REG_C_UF;
        if (next_alarm(c, guest_second(c, last)) <= guest_second(c, now))
            flags |= REG_C_AF;
    }
    return flags;
}

/* When the next enabled interrupt that is not pending yet is due. */
static int64_t next_event(const struct cmos *c)
{
    uint8_t b = c->ram[RTC_REG_B];
    uint8_t wanted = b & (uint8_t)~c->ram[RTC_REG_C];
    int64_t now = c->last_ns, hz = periodic_hz(c), next = LOOP_NEVER;
    if ((wanted & REG_B_PIE) && hz)
        next = period_start(period_at(now, hz) + 1, hz);
    if (b & REG_B_SET)
        return next;
    if (wanted & REG_B_UIE)
        next = MIN(next, (now / NS_PER_S + 1) * NS_PER_S);
    if (wanted & REG_B_AIE) {
        int64_t alarm = next_alarm(c, guest_second(c, now));
        if (alarm != LOOP_NEVER)
            next = MIN(next, (alarm - c->offset_s) * NS_PER_S);
    }
    return next;
}

static void arm_timer(struct cmos *c)
{
    int64_t next = next_event(c);
    if (next != LOOP_NEVER)
        next -= c->offset_ns;
    if (next != c->armed_ns)
        loop_timer_set(c->timer, next);
    c->armed_ns = next;
}

/* The interrupt line and the timer follow registers B and C. */
static void cmos_follow(struct cmos *c)
{
    uint8_t *flags = &c->ram[RTC_REG_C];
    bool level = *flags & c->ram[RTC_REG_B] & (REG_C_PF | REG_C_AF | REG_C_UF);
    *flags = (uint8_t)((*flags & ~REG_C_IRQF) | (level ? REG_C_IRQF : 0));
    irq_line_set(&c->irq, level);
    arm_timer(c);
}

static void cmos_update(struct cmos *c)
{
    int64_t now = cmos_now(c);
    c->ram[RTC_REG_C] |= flags_between(c, c->last_ns, now);
    c->last_ns = now;
    cmos_follow(c);
}

/* Also when the host's clock was set: the timer is then armed anew. */
static void cmos_timer(void *opaque, uint32_t events)
{
    struct cmos *c = opaque;
    (void)events;
    pthread_mutex_lock(&c->lock);
    c->armed_ns = LOOP_NEVER;
    cmos_update(c);
    pthread_mutex_unlock(&c->lock);
}

/* ---- ports ---- */

static uint8_t cmos_read_register(struct cmos *c, unsigned reg)
{
    bool set = c->ram[RTC_REG_B] & REG_B_SET;
    if (is_time(reg) && !set)
        load_time(c, c->last_ns);
    uint8_t value = c->ram[reg];
    if (reg == RTC_REG_A && !set && c->last_ns % NS_PER_S >= NS_PER_S - UIP_BEFORE)
        value |= REG_A_UIP;
    if (reg == RTC_REG_C)
        c->ram[RTC_REG_C] = 0; /* cmos_follow() lowers the line */
    return value;
}

static void write_reg_b(struct cmos *c, uint8_t value)
{
    uint8_t old = c->ram[RTC_REG_B];
    if (value & REG_B_SET) {
        value &= (uint8_t)~REG_B_UIE;
        if (!(old & REG_B_SET))
            load_time(c, c->last_ns);
    }
    c->ram[RTC_REG_B] = value;
    if ((old & REG_B_SET) && !(value & REG_B_SET))
        store_time(c);
}

static void cmos_write_register(struct cmos *c, unsigned reg, uint8_t value)
{
    bool set = c->ram[RTC_REG_B] & REG_B_SET;
    if (reg == RTC_REG_C || reg == RTC_REG_D)
        return; /* for reading */
    if (reg == RTC_REG_B)
        return write_reg_b(c, value);
    if (is_time(reg) && !set)
        load_time(c, c->last_ns);
    c->ram[reg] = reg == RTC_REG_A ? value & (uint8_t)~REG_A_UIP : value;
    if (is_time(reg) && !set)
        store_time(c);
}

static uint64_t cmos_read(void *opaque, uint64_t offset, unsigned size)
{
    struct cmos *c = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&c->lock);
    cmos_update(c);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = offset + i == CMOS_DATA ? cmos_read_register(c, c->index) : 0xff;
        value |= (uint64_t)byte << 8 * i;
    }
    cmos_follow(c);
    pthread_mutex_unlock(&c->lock);
    return value;
}

static void cmos_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct cmos *c = opaque;
    pthread_mutex_lock(&c->lock);
    cmos_update(c);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> 8 * i);
        if (offset + i == CMOS_DATA)
            cmos_write_register(c, c->index, byte);
        else
            c->index = byte % CMOS_SIZE;
    }
    cmos_follow(c);
    pthread_mutex_unlock(&c->lock);
}

static const struct bus_ops cmos_ops = {.read = cmos_read, .write = cmos_write};

/* ---- life ---- */

/* SIZE - ABOVE in UNITs, as much of it as BYTES bytes can say. */
static void put_memory_size(struct cmos *c, unsigned reg, unsigned bytes, uint64_t size,
                            uint64_t above, uint64_t unit)
{
    uint64_t units = size > above ? (size - above) / unit : 0;
    put_le(&c->ram[reg], bytes, MIN(units, all_ones(bytes)));
}

static void cmos_power_on(struct cmos *c, uint64_t low_ram, uint64_t high_ram)
{
    c->ram[RTC_REG_A] = REG_A_DV1 | 6; /* 1024 Hz, as firmware leaves it */
    c->ram[RTC_REG_B] = REG_B_24H;
    c->ram[RTC_REG_D] = REG_D_VRT;
    put_memory_size(c, CMOS_BASE_MEMORY, 2, 640 * KIB, 0, KIB);
    put_memory_size(c, CMOS_EXT_MEMORY, 2, low_ram, MIB, KIB);
    put_memory_size(c, CMOS_EXT_MEMORY_POST, 2, low_ram, MIB, KIB);
    put_memory_size(c, CMOS_EXT2_MEMORY, 2, low_ram, 16 * MIB, 64 * KIB);
    put_memory_size(c, CMOS_HIGH_MEMORY, 3, high_ram, 0, 64 * KIB);
}

/* The RESET pin clears SQWE, the interrupts' enables and flags. SET would stay: firmware, which
 * the next kernel takes to have run, ends it. */
void cmos_reset(struct cmos *c)
{
    pthread_mutex_lock(&c->lock);
    cmos_update(c);
    c->ram[RTC_REG_B] &=
        (uint8_t) ~(REG_B_SET | REG_B_PIE | REG_B_AIE | REG_B_UIE | REG_B_SQWE);
    c->ram[RTC_REG_C] = 0;
    cmos_follow(c);
    pthread_mutex_unlock(&c->lock);
}

int cmos_create(struct cmos **out, struct bus *pio, struct loop *loop, struct irq_line irq,
                uint64_t low_ram, uint64_t high_ram)
{
    struct cmos *c = calloc(1, sizeof(*c));
    const struct bus_range range = {LAYOUT_PORT_CMOS, CMOS_PORTS, &cmos_ops, c, "cmos"};
    if (!c)
        return -ENOMEM;
    *c = (struct cmos){.lock = PTHREAD_MUTEX_INITIALIZER,
                       .pio = pio,
                       .loop = loop,
                       .irq = irq,
                       .armed_ns = LOOP_NEVER};
    c->last_ns = cmos_now(c);
    cmos_power_on(c, low_ram, high_ram);
    c->timer = loop_add_timer(loop, CLOCK_REALTIME, cmos_timer, c);
    int err = c->timer < 0 ? c->timer : bus_add(pio, &range);
    if (err) {
        loop_close(loop, c->timer);
        free(c);
        return err;
    }
    *out = c;
    return 0;
}

void cmos_destroy(struct cmos *c)
{
    if (!c)
        return;
    bus_remove(c->pio, LAYOUT_PORT_CMOS);
    loop_close(c->loop, c->timer);
    free(c);
}
