/*
 * acpi_pm.c: ACPI fixed hardware (ACPI 6.5, 4.8.2 "Fixed Hardware Features" and 4.8.3 "Fixed
 * Hardware Registers"): the PM1a blocks, the power management timer, the power button, S5.
 *
 * SCI_EN reads as set: there is no SMI and no legacy mode to leave. Sleep states other than S5
 * are not offered by \_Sx and ignored. Left out: the sleep button, general-purpose events, bus
 * master status and wake status (never set); their enable bits are kept for the guest.
 *
 * The timer's status (its top bit has changed) is worked out at each access; a timerfd runs
 * only while the guest wants to be interrupted by it. The lock guards everything: vCPU threads
 * access ports, the loop's thread runs the timer.
 */
#include "devices/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "vmm/bus.h"
#include "vmm/layout.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define PM_TMR_HZ   3579545
#define PM_TMR_HALF (1LL << 31) /* ticks between two changes of the top bit */

/* PM1 status and enable share their bits (tables 4.11 and 4.12). */
enum {
    PM1_TMR = 1 << 0,
    PM1_GBL = 1 << 5,
    PM1_PWRBTN = 1 << 8,
    PM1_SLPBTN = 1 << 9,
    PM1_RTC = 1 << 10,
    PM1_EN_MASK = PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC,
};

/* PM1 control (table 4.13). */
enum {
    PM1_CNT_SCI_EN = 1 << 0,
    PM1_CNT_BM_RLD = 1 << 1,
    PM1_CNT_SLP_TYP = 7 << 10,
    PM1_CNT_SLP_EN = 1 << 13, /* write-only */
};
#define PM1_CNT_SLP_TYP_SHIFT 10

struct acpi_pm {
    pthread_mutex_t lock;
    struct bus *pio;
    struct loop *loop;
    struct irq_line sci;
    struct power power;
    int timer;
    bool armed;

    int64_t start_ns;   /* the timer's 0: the host's uptime is not the guest's business */
    int64_t last_ticks; /* at the last pm_update() */

    uint16_t sts, en, cnt;
};

static int64_t pm_ticks(const struct acpi_pm *pm)
{
    int64_t ns = loop_now(CLOCK_MONOTONIC) - pm->start_ns;
    return ns / NS_PER_S * PM_TMR_HZ + ns % NS_PER_S * PM_TMR_HZ / NS_PER_S;
}

/* For the next change of the timer's top bit, when that is an interrupt not pending yet. */
static void pm_arm_timer(struct acpi_pm *pm)
{
    bool wanted = (pm->en & PM1_TMR) && !(pm->sts & PM1_TMR);
    int64_t ticks = (pm->last_ticks / PM_TMR_HALF + 1) * PM_TMR_HALF;
    int64_t ns = pm->start_ns + ticks / PM_TMR_HZ * NS_PER_S +
                 (ticks % PM_TMR_HZ * NS_PER_S + PM_TMR_HZ - 1) / PM_TMR_HZ;

    if (wanted != pm->armed)
        loop_timer_set(pm->timer, wanted ? ns : LOOP_NEVER);
    pm->armed = wanted;
}

/* The interrupt line, level-triggered, and the timer follow status and enable. */
static void pm_follow(struct acpi_pm *pm)
{
    irq_line_set(&pm->sci, pm->sts & pm->en);
    pm_arm_timer(pm);
}

static void pm_update(struct acpi_pm *pm)
{
    int64_t ticks = pm_ticks(pm);
    if (ticks / PM_TMR_HALF != pm->last_ticks / PM_TMR_HALF)
        pm->sts |= PM1_TMR;
    pm->last_ticks = ticks;
    pm_follow(pm);
}

static void pm_timer(void *opaque, uint32_t events)
{
    struct acpi_pm *pm = opaque;
    (void)events;
    pthread_mutex_lock(&pm->lock);
    pm->armed = false;
    pm_update(pm);
    pthread_mutex_unlock(&pm->lock);
}

bool acpi_pm_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->sts |= PM1_PWRBTN;
    bool enabled = pm->en & PM1_PWRBTN;
    pm_follow(pm);
    pthread_mutex_unlock(&pm->lock);
    return enabled;
}

/* ---- ports ---- */

/* All registers are laid out as the guest sees them, so that any width and offset is the same
 * case, and four bytes of the timer are of one moment. */
static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint8_t registers[ACPI_PM_SIZE] = {0};
    pthread_mutex_lock(&pm->lock);
    pm_update(pm);
    put_le16(&registers[ACPI_PM1_EVT], pm->sts);
    put_le16(&registers[ACPI_PM1_EVT + 2], pm->en);
    put_le16(&registers[ACPI_PM1_CNT], pm->cnt | PM1_CNT_SCI_EN);
    put_le32(&registers[ACPI_PM_TMR], (uint32_t)pm->last_ticks);
    pthread_mutex_unlock(&pm->lock);
    return get_le(&registers[offset], size);
}

/* One byte of a write: BITS are in place in the 16-bit register, MASK is where they are. True
 * when it asks for power-off. */
static bool pm_write_byte(struct acpi_pm *pm, unsigned reg, uint16_t mask, uint16_t bits)
{
    switch (reg) {
    case ACPI_PM1_EVT:
        pm->sts &= (uint16_t)~bits; /* a 1 clears */
        return false;
    case ACPI_PM1_EVT + 2:
        pm->en = ((pm->en & (uint16_t)~mask) | bits) & PM1_EN_MASK;
        return false;
    case ACPI_PM1_CNT:
        pm->cnt = ((pm->cnt & (uint16_t)~mask) | bits) & (PM1_CNT_BM_RLD | PM1_CNT_SLP_TYP);
        return (bits & PM1_CNT_SLP_EN) &&
               (bits & PM1_CNT_SLP_TYP) >> PM1_CNT_SLP_TYP_SHIFT == ACPI_S5_SLP_TYP;
    default:
        return false;
    }
}

static void pm_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct acpi_pm *pm = opaque;
    bool poweroff = false;
    pthread_mutex_lock(&pm->lock);
    pm_update(pm);
    for (unsigned i = 0; i < size; i++) {
        unsigned at = (unsigned)offset + i, shift = 8 * (at & 1);
        uint16_t bits = (uint16_t)((value >> 8 * i & 0xff) << shift);
        poweroff |= pm_write_byte(pm, at & ~1U, (uint16_t)(0xff << shift), bits);
    }
    pm_follow(pm);
    pthread_mutex_unlock(&pm->lock);
    if (poweroff)
        pm->power.ops->poweroff(pm->power.opaque);
}

static const struct bus_ops pm_ops = {.read = pm_read, .write = pm_write};

/* ---- life ---- */

/* The timer runs on: it has no reset. */
void acpi_pm_reset(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm_update(pm);
    pm->sts = pm->en = pm->cnt = 0;
    pm_follow(pm);
    pthread_mutex_unlock(&pm->lock);
}

int acpi_pm_create(struct acpi_pm **out, struct bus *pio, struct loop *loop,
                   struct irq_line sci, struct power power)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    const struct bus_range range = {LAYOUT_PORT_ACPI, ACPI_PM_SIZE, &pm_ops, pm, "acpi-pm"};
    if (!pm)
        return -ENOMEM;
    *pm = (struct acpi_pm){.lock = PTHREAD_MUTEX_INITIALIZER,
                           .pio = pio,
                           .loop = loop,
                           .sci = sci,
                           .power = power,
                           .start_ns = loop_now(CLOCK_MONOTONIC)};
    pm->timer = loop_add_timer(loop, CLOCK_MONOTONIC, pm_timer, pm);
    int err = pm->timer < 0 ? pm->timer : bus_add(pio, &range);
    if (err) {
        loop_close(loop, pm->timer);
        free(pm);
        return err;
    }
    *out = pm;
    return 0;
}

void acpi_pm_destroy(struct acpi_pm *pm)
{
    if (!pm)
        return;
    bus_remove(pm->pio, LAYOUT_PORT_ACPI);
    loop_close(pm->loop, pm->timer);
    free(pm);
}
