/*
 * smp.c: the other processors: each that the MADT lists starts by INIT and start-up IPI, one
 * after another and all at once; has the APIC id the MADT says; sees the others' memory and
 * atomic operations; and interrupts travel both ways, none lost.
 *
 * The word `cpus=N` on the command line says how many there must be.
 */
#include "lib.h"

enum { PING_VECTOR = 0x50, PONG_VECTOR = 0x51, ADDS = 2000, ROUNDS = 50 };

static volatile uint32_t apic_ids[1 + AP_MAX], pings[1 + AP_MAX], pongs, ready, sum;
static unsigned boot_id;

static unsigned index_of(unsigned apic_id)
{
    unsigned i = 0;

    while (i < AP_MAX && apic_ids[i] != apic_id)
        i++;
    return i;
}

static void on_ping(struct trap *trap)
{
    (void)trap;
    pings[index_of(lapic_id())]++;
    lapic_eoi();
    lapic_ipi(boot_id, ICR_FIXED | PONG_VECTOR);
}

static void on_pong(struct trap *trap)
{
    (void)trap;
    pongs++;
    lapic_eoi();
}

static void other(unsigned cpu)
{
    apic_ids[cpu] = lapic_id();
    for (unsigned i = 0; i < ADDS; i++)
        __atomic_add_fetch(&sum, 1, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        irq_wait();
}

static bool listed(unsigned apic_id)
{
    for (const uint8_t *e = NULL; (e = acpi_madt_next(e));)
        if (e[0] == MADT_LAPIC && (e[4] & 1) && e[3] == apic_id)
            return true;
    return false;
}

static void start(unsigned others, bool all_at_once)
{
    sum = 0;
    ready = 0;
    unsigned came = smp_start(other, all_at_once);
    check(came == others, "%u of %u start, %s", came, others,
          all_at_once ? "all at once" : "one after another");
    bool all = wait_count(&ready, others, 4000);
    check(all && sum == others * ADDS, "%u atomic additions by them: %u", others * ADDS, sum);

    bool ids = true;
    for (unsigned i = 1; i <= others; i++) {
        ids &= listed(apic_ids[i]) && apic_ids[i] != boot_id;
        for (unsigned j = 1; j < i; j++)
            ids &= apic_ids[j] != apic_ids[i];
    }
    check(ids, "each has an APIC id of its own, as in the MADT");
}

/* One at a time: to be sure that none is merged with one still pending. */
static void ping_pong(unsigned others)
{
    bool exact = true;

    for (unsigned i = 1; i <= others; i++) {
        for (unsigned n = 1; n <= ROUNDS; n++) {
            uint32_t expect = pongs + 1;
            lapic_ipi(apic_ids[i], ICR_FIXED | PING_VECTOR);
            exact &= wait_irqs(&pongs, expect, 4000);
        }
        exact &= pings[i] == ROUNDS;
    }
    check(exact && pongs == others * ROUNDS, "%u interrupts there and back, each answered",
          others * ROUNDS);

    /* To all: answers may come at the same time and be merged, but each one was interrupted. */
    lapic_ipi(0, ICR_ALL_BUT_SELF | ICR_FIXED | PING_VECTOR);
    bool all = true;
    for (unsigned i = 1; i <= others; i++)
        all &= wait_irqs(&pings[i], ROUNDS + 1, 4000);
    check(all, "one interrupt to all but self reaches all");
}

int main(void)
{
    unsigned cpus = cpus_in_madt();

    boot_id = lapic_id();
    apic_ids[0] = boot_id;
    check(cpus == arg_number("cpus", cpus), "%u processors in the MADT", cpus);
    if (!check(cpus <= 1 + AP_MAX && listed(boot_id), "this one is there"))
        finish("smp");
    pic_init(0);
    on_trap(PING_VECTOR, on_ping);
    on_trap(PONG_VECTOR, on_pong);
    start(cpus - 1, false);
    if (cpus > 1) {
        ping_pong(cpus - 1);
        start(cpus - 1, true);
    }
    finish("smp");
}
