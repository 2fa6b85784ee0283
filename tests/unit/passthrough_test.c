/*
 * passthrough_test.c: where the functions of several cards land on the guest's bus.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "devices/pci.h"
#include "vmm/passthrough.h"
#include "vmm/util.h"

static struct passthrough p;
static struct option_vfio option[OPTIONS_VFIO_MAX];

/* Adds a device with a host address and, where not negative, the devfn of slot=. */
static void add(const char *addr, int devfn)
{
    option[p.config.nr] = (struct option_vfio){.devfn = devfn};
    p.device[p.config.nr].addr = addr;
    p.config.option = option;
    p.config.nr++;
}

Test(passthrough, functions_of_one_card_share_a_slot)
{
    add("0000:42:00.0", -1);
    add("0000:43:00.0", -1);
    add("0000:42:00.1", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(2, 0));
    cr_expect_eq(p.device[2].devfn, PCI_DEVFN(1, 1));
}

Test(passthrough, order_does_not_matter)
{
    add("0000:42:00.3", -1);
    add("0000:42:00.0", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 3));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
}

Test(passthrough, without_function_0_the_lowest_takes_its_place)
{
    add("0000:42:00.3", -1);
    add("0000:42:00.1", -1);
    add("0000:42:10.5", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(1, 3));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[2].devfn, PCI_DEVFN(2, 0));
}

Test(passthrough, domains_are_different_cards)
{
    add("0000:42:00.0", -1);
    add("0001:42:00.1", -1);
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(2, 0));
}

Test(passthrough, forced_slots_are_kept_free)
{
    add("0000:42:00.0", -1);
    add("0000:43:00.0", PCI_DEVFN(1, 0));
    add("0000:44:00.0", PCI_DEVFN(1, 2));
    cr_assert_eq(passthrough_place(&p), 0);
    cr_expect_eq(p.device[0].devfn, PCI_DEVFN(2, 0));
    cr_expect_eq(p.device[1].devfn, PCI_DEVFN(1, 0));
    cr_expect_eq(p.device[2].devfn, PCI_DEVFN(1, 2));
}

Test(passthrough, forced_twice_is_refused)
{
    add("0000:42:00.0", PCI_DEVFN(5, 0));
    add("0000:43:00.0", PCI_DEVFN(5, 0));
    cr_expect_eq(passthrough_place(&p), -ENOSPC);
}

Test(passthrough, thirty_one_cards_and_no_more)
{
    static char addr[32][16];
    for (unsigned i = 0; i < 32; i++) {
        snprintf(addr[i], sizeof(addr[i]), "0000:%02x:00.0", i);
        add(addr[i], -1);
        cr_expect_eq(passthrough_place(&p), i < 31 ? 0 : -ENOSPC, "%u cards", i + 1);
    }
    cr_expect_eq(p.device[30].devfn, PCI_DEVFN(31, 0));
}
