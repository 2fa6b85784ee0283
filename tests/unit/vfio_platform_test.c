/*
 * vfio_platform_test.c: platform devices as the guest has them: where their registers are, how
 * their interrupts are wired, what stays after resets, losses and failures.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "boot/acpi.h"
#include "devices/pci.h"
#include "tests/unit/fake_hv.h"
#include "tests/unit/fake_vfio.h"
#include "tests/unit/fake_vfio_kernel.h"
#include "vfio/vfio_platform.h"
#include "vmm/bus.h"
#include "vmm/log.h"
#include "vmm/loop.h"
#include "vmm/mem.h"
#include "vmm/passthrough.h"
#include "vmm/util.h"

#define BASE  LAYOUT_PLATFORM
#define LEVEL (VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED)
#define EDGE  0

enum { FIRST_GSI = 3, SECOND_GSI = 5 };

static struct fake_hv hv;
static struct fake_vfio vfio;
static struct bus mmio;
static struct vfio_platform_room room;
static struct vfio_platform_config config;
static struct vfio_platform *platform;

static void setup(void)
{
    log_set_level(LOG_ERROR);
    fake_hv_init(&hv);
    fake_vfio_platform(&vfio, &hv);
    cr_assert_eq(bus_init(&mmio), 0);
    room = (struct vfio_platform_room){.next = LAYOUT_PLATFORM, .gsis = LAYOUT_GSI_FREE};
    config =
        (struct vfio_platform_config){.hv = &hv.hv, .mmio = &mmio, .room = &room, .mmap = true};
}

/* Nothing is left, whatever the test did. */
static void teardown(void)
{
    vfio_platform_destroy(platform);
    cr_expect_eq(vfio.calls[FAKE_CLOSE], 1, "closed once");
    cr_expect_eq(fake_hv_live(&hv), 0);
    cr_expect_eq(hv.misuse, 0);
    cr_expect_eq(mmio.nr, 0);
    for (unsigned i = 0; i < FAKE_VFIO_IRQS; i++)
        cr_expect(vfio.dev.lost || vfio.line[i].fd <= 0, "interrupt %u is off", i);
    fake_vfio_fini(&vfio);
    bus_fini(&mmio);
}

TestSuite(vfio_platform, .init = setup, .fini = teardown);

static int create(void)
{
    return vfio_platform_create(&platform, &vfio.dev, &config);
}

/* Trapped registers, mappable memory, a level and an edge interrupt. */
static void add_usual(void)
{
    fake_vfio_region(&vfio, 0x100);
    fake_vfio_region(&vfio, MIB);
    fake_vfio_line(&vfio, LEVEL);
    fake_vfio_line(&vfio, EDGE);
}

static void create_usual(void)
{
    add_usual();
    cr_assert_eq(create(), 0);
    fake_vfio_forget(&vfio);
}

static uint64_t mmio_read(uint64_t addr, unsigned size)
{
    uint64_t value = 0;

    bus_read(&mmio, addr, &value, size);
    return value;
}

static void mmio_write(uint64_t addr, unsigned size, uint64_t value)
{
    bus_write(&mmio, addr, &value, size);
}

static uint64_t region_at(unsigned n)
{
    uint64_t gpa = 0, size;

    cr_assert(vfio_platform_region(platform, n, &gpa, &size));
    return gpa;
}

/* As vfio_user.c tells it: first all calls fail, then the main loop comes to it. */
static void lose(void)
{
    vfio.dev.lost = true;
    cr_expect_eq(mmio_read(BASE, 4), UINT32_MAX);
    cr_assert_not_null(vfio.dev.on_lost);
    vfio.dev.on_lost(vfio.dev.opaque);
}

/* ---- places ---- */

Test(vfio_platform, regions_are_naturally_aligned)
{
    static const uint64_t want[][2] = {{0x3, BASE},
                                       {0x1000, BASE + 0x1000},
                                       {MIB, BASE + MIB},
                                       {0x1001, BASE + 2 * MIB},
                                       {0x10, BASE + 2 * MIB + 0x2000}};
    uint64_t gpa, size;

    for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
        fake_vfio_region(&vfio, want[i][0]);
    cr_assert_eq(create(), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        cr_assert(vfio_platform_region(platform, i, &gpa, &size));
        cr_expect_eq(size, want[i][0]);
        cr_expect_eq(gpa, want[i][1], "region %u at 0x%lx", i, (unsigned long)gpa);
    }
    cr_expect_not(vfio_platform_region(platform, ARRAY_SIZE(want), &gpa, &size));
    cr_expect_eq(room.next, BASE + 2 * MIB + 0x3000);
}

Test(vfio_platform, whole_pages_are_direct)
{
    create_usual();
    cr_expect_eq(fake_hv_live_slots(&hv), 1);
    const struct fake_slot *slot = fake_hv_slot_at(&hv, BASE + MIB);
    cr_assert_not_null(slot);
    cr_expect_eq(slot->size, MIB);
    cr_expect_eq((uintptr_t)slot->hva % MIB, 0, "as the guest's, for huge pages");
    *((uint8_t *)slot->hva + 0x1234) = 0x5a;
    uint8_t seen = 0;
    cr_assert_eq(pread(vfio.memory[1], &seen, 1, 0x1234), 1);
    cr_expect_eq(seen, 0x5a);
}

Test(vfio_platform, a_second_device_begins_where_the_first_ends)
{
    struct fake_vfio other;
    struct vfio_platform *second;
    uint32_t gsi;
    bool level;

    create_usual();
    fake_vfio_platform(&other, &hv);
    fake_vfio_region(&other, 0x20);
    fake_vfio_line(&other, LEVEL);
    cr_assert_eq(vfio_platform_create(&second, &other.dev, &config), 0);
    uint64_t gpa, size;
    cr_expect(vfio_platform_region(second, 0, &gpa, &size));
    cr_expect_eq(gpa, BASE + 2 * MIB);
    cr_expect(vfio_platform_irq(second, 0, &gsi, &level));
    cr_expect_eq(gsi, 6);
    vfio_platform_destroy(second);
    fake_vfio_fini(&other);
}

Test(vfio_platform, the_window_to_its_last_byte)
{
    fake_vfio_region(&vfio, 128 * MIB);
    fake_vfio_region(&vfio, 64 * MIB);
    fake_vfio_region(&vfio, 32 * MIB);
    fake_vfio_region(&vfio, 8 * MIB);
    fake_vfio_region(&vfio, 4 * MIB);
    config.mmap = false;
    cr_assert_eq(create(), 0);
    cr_expect_eq(room.next, LAYOUT_IOAPIC);
    struct fake_vfio other;
    struct vfio_platform *second;
    fake_vfio_platform(&other, &hv);
    fake_vfio_region(&other, 1);
    cr_expect_eq(vfio_platform_create(&second, &other.dev, &config), -ENOSPC);
    cr_expect_eq(other.calls[FAKE_CLOSE], 1);
    fake_vfio_fini(&other);
}

static void no_room(uint64_t size)
{
    fake_vfio_region(&vfio, 0x1000);
    fake_vfio_region(&vfio, size);
    cr_expect_eq(create(), -ENOSPC);
    cr_expect_eq(vfio.calls[FAKE_REGION_MMAP], 1, "only the one that had a place");
}

Test(vfio_platform, no_room_for_all_there_is)
{
    no_room(UINT64_MAX);
}

Test(vfio_platform, no_room_for_whole_pages_up_to_the_top)
{
    no_room(UINT64_MAX - 0xfff);
}

Test(vfio_platform, no_room_for_half_the_address_space)
{
    no_room(1ULL << 63);
}

Test(vfio_platform, no_room_for_4g)
{
    no_room(4 * GIB);
}

Test(vfio_platform, no_room_for_one_page_more_than_the_window)
{
    no_room(LAYOUT_PLATFORM_SIZE + 0x1000);
}

Test(vfio_platform, no_room_after_alignment)
{
    no_room(128 * MIB);
}

Test(vfio_platform, what_is_not_there_takes_no_room)
{
    fake_vfio_region(&vfio, 0);
    fake_vfio_region(&vfio, 0x1000);
    vfio.region[1].flags = 0; /* ports of the kernel's vfio-platform */
    vfio.region[1].areas = 0;
    fake_vfio_region(&vfio, 0x1000);
    cr_assert_eq(create(), 0);
    cr_expect_eq(region_at(0), BASE);
    cr_expect_eq(mmio.nr, 1);
    fake_vfio_forget(&vfio);
    mmio_read(BASE, 4);
    cr_expect_not_null(fake_vfio_find(&vfio, FAKE_REGION_READ, 2, 0), "the device's number");
}

Test(vfio_platform, more_regions_than_supported)
{
    vfio.dev.regions = VFIO_PLATFORM_REGIONS_MAX + 1;
    cr_expect_eq(create(), -E2BIG);
    cr_expect_eq(vfio.calls[FAKE_REGION_INFO], 0);
}

Test(vfio_platform, any_number_of_regions)
{
    vfio.dev.regions = UINT32_MAX;
    cr_expect_eq(create(), -E2BIG);
}

Test(vfio_platform, any_number_of_interrupts)
{
    vfio.dev.irqs = UINT32_MAX;
    cr_expect_eq(create(), -E2BIG);
}

Test(vfio_platform, as_many_as_supported)
{
    for (unsigned i = 0; i < VFIO_PLATFORM_REGIONS_MAX; i++)
        fake_vfio_region(&vfio, 0x1000);
    for (unsigned i = 0; i < VFIO_PLATFORM_IRQS_MAX; i++)
        fake_vfio_line(&vfio, LEVEL);
    cr_assert_eq(create(), 0);
    cr_expect_eq(fake_hv_live_slots(&hv), VFIO_PLATFORM_REGIONS_MAX);
    cr_expect_eq(fake_hv_live_irqfds(&hv), VFIO_PLATFORM_IRQS_MAX);
}

Test(vfio_platform, a_place_that_is_taken)
{
    static const struct bus_ops none;

    fake_vfio_region(&vfio, 0x1000);
    cr_assert_eq(bus_add(&mmio, &(struct bus_range){BASE + 8, 8, &none, NULL, "x"}), 0);
    cr_expect_eq(create(), -EEXIST);
    bus_remove(&mmio, BASE + 8);
}

/* ---- accesses ---- */

Test(vfio_platform, sparse_areas_keep_their_gaps_trapped)
{
    fake_vfio_region(&vfio, 0x4000);
    vfio.region[0].areas = 2;
    vfio.region[0].area[0] = (struct vfio_area){0, 0x1000};
    vfio.region[0].area[1] = (struct vfio_area){0x2000, 0x1000};
    cr_assert_eq(create(), 0);
    cr_expect_eq(fake_hv_live_slots(&hv), 2);
    cr_expect_not_null(fake_hv_slot_at(&hv, BASE + 0x2000));
    cr_expect_null(fake_hv_slot_at(&hv, BASE + 0x1000));
    cr_expect_null(fake_hv_slot_at(&hv, BASE + 0x3000));
    mmio_write(BASE + 0x1ff8, 8, 42);
    cr_expect_eq(mmio_read(BASE + 0x1ff8, 8), 42);
}

Test(vfio_platform, accesses_keep_their_size)
{
    create_usual();
    for (unsigned size = 1; size <= 8; size *= 2) {
        fake_vfio_forget(&vfio);
        mmio_write(BASE + 0x40, size, 0x1122334455667788);
        cr_expect_eq(mmio_read(BASE + 0x40, size), 0x1122334455667788 & all_ones(size));
        cr_assert_eq(vfio.nr, 2);
        for (unsigned i = 0; i < 2; i++) {
            cr_expect_eq(vfio.call[i].index, 0);
            cr_expect_eq(vfio.call[i].offset, 0x40);
            cr_expect_eq(vfio.call[i].size, size);
        }
    }
}

Test(vfio_platform, beyond_the_region_is_nothing)
{
    create_usual();
    mmio_write(BASE + 0x100, 4, 0);
    cr_expect_eq(mmio_read(BASE + 0x100, 4), UINT32_MAX);
    cr_expect_eq(vfio.nr, 0);
    cr_expect_eq(mmio_read(BASE + 0xfc, 8), 0xffffffff00000000, "half of it is");
}

Test(vfio_platform, failed_accesses_read_all_ones)
{
    create_usual();
    fake_vfio_fail(&vfio, FAKE_REGION_READ, 1, EIO);
    cr_expect_eq(mmio_read(BASE, 2), 0xffff);
    fake_vfio_fail(&vfio, FAKE_REGION_WRITE, 1, EIO);
    mmio_write(BASE, 2, 0);
}

Test(vfio_platform, read_only_and_write_only)
{
    fake_vfio_region(&vfio, 0x10);
    vfio.region[0].flags = VFIO_REGION_INFO_FLAG_READ;
    cr_assert_eq(create(), 0);
    fake_vfio_forget(&vfio);
    mmio_write(BASE, 4, 1);
    cr_expect_eq(vfio.nr, 0, "dropped");
    cr_expect_eq(mmio_read(BASE, 4), 0);
}

Test(vfio_platform, without_mmap_everything_is_trapped)
{
    config.mmap = false;
    create_usual();
    cr_expect_eq(hv.calls[FAKE_SLOT_ADD], 0);
    mmio_write(BASE + MIB + 0x100, 4, 42);
    cr_expect_eq(mmio_read(BASE + MIB + 0x100, 4), 42);
}

Test(vfio_platform, ioeventfds_are_registered)
{
    add_usual();
    vfio.region[0].ioeventfds = 1;
    vfio.region[0].ioeventfd[0] = (struct vfio_ioeventfd){.fd = 7, .size = 4, .offset = 0x20};
    cr_assert_eq(create(), 0);
    cr_expect_eq(hv.ioeventfd[0].addr, BASE + 0x20);
    cr_expect_eq(hv.ioeventfd[0].len, 4);
    cr_assert_eq(vfio_platform_reset(platform), 0);
    cr_expect_eq(hv.calls[FAKE_IOEVENTFD_ADD], 1, "it is still there");
    lose();
    cr_expect_eq(fake_hv_live(&hv), 0);
}

Test(vfio_platform, ioeventfds_go_with_mmap)
{
    fake_vfio_region(&vfio, 0x100);
    vfio.region[0].ioeventfds = 1;
    config.mmap = false;
    cr_assert_eq(create(), 0);
    cr_expect_eq(hv.calls[FAKE_IOEVENTFD_ADD], 0);
}

Test(vfio_platform, what_cannot_be_mapped_is_trapped)
{
    add_usual();
    fake_vfio_fail(&vfio, FAKE_REGION_MMAP, 1, EINVAL);
    cr_assert_eq(create(), 0);
    cr_expect_eq(fake_hv_live_slots(&hv), 0);
    mmio_write(BASE + MIB, 4, 42);
    cr_expect_eq(mmio_read(BASE + MIB, 4), 42);
}

Test(vfio_platform, no_slot_to_be_had_means_trapped)
{
    add_usual();
    fake_hv_fail(&hv, FAKE_SLOT_ADD, 1, ENOSPC);
    cr_assert_eq(create(), 0);
    mmio_write(BASE + MIB, 4, 42);
    cr_expect_eq(mmio_read(BASE + MIB, 4), 42);
}

/* ---- interrupts ---- */

static void expect_calls(uint32_t index, const uint32_t *flags, unsigned nr)
{
    for (unsigned i = 0; i < nr; i++) {
        const struct fake_vfio_call *call = fake_vfio_find(&vfio, FAKE_IRQ_SET, index, i);
        cr_assert_not_null(call, "call %u", i);
        cr_expect_eq(call->flags, flags[i], "call %u: 0x%x", i, call->flags);
    }
    cr_expect_null(fake_vfio_find(&vfio, FAKE_IRQ_SET, index, nr));
}

static const uint32_t level_on[] = {
    VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK,
};

Test(vfio_platform, level_is_arranged_while_masked)
{
    add_usual();
    cr_assert_eq(create(), 0);
    expect_calls(0, level_on, ARRAY_SIZE(level_on));
    const struct fake_irqfd *irqfd = fake_hv_irqfd_on(&hv, FIRST_GSI);
    cr_assert_not_null(irqfd);
    cr_expect_eq(irqfd->fd, vfio.line[0].fd);
    cr_expect_eq(irqfd->resample_fd, vfio.line[0].unmask_fd);
    cr_expect_geq(irqfd->resample_fd, 0);
}

Test(vfio_platform, edge_is_a_trigger_and_no_more)
{
    add_usual();
    cr_assert_eq(create(), 0);
    expect_calls(1, level_on, 1);
    cr_expect_eq(fake_hv_irqfd_on(&hv, SECOND_GSI)->resample_fd, -1);
    for (unsigned i = 0; i < 3; i++) {
        cr_expect(fake_vfio_fire(&vfio, 1));
        cr_expect(fake_hv_deliver(&hv, SECOND_GSI));
    }
    cr_expect_not(hv.level[SECOND_GSI], "a pulse");
}

Test(vfio_platform, what_cannot_be_unmasked_is_a_pulse)
{
    fake_vfio_line(&vfio, VFIO_IRQ_INFO_AUTOMASKED);
    cr_assert_eq(create(), 0);
    expect_calls(0, level_on, 1);
    cr_expect_eq(fake_hv_irqfd_on(&hv, FIRST_GSI)->resample_fd, -1);
}

Test(vfio_platform, level_goes_round)
{
    create_usual();
    for (unsigned i = 0; i < 3; i++) {
        cr_expect(fake_vfio_fire(&vfio, 0));
        cr_expect(fake_hv_deliver(&hv, FIRST_GSI));
        cr_expect(hv.level[FIRST_GSI]);
        cr_expect_not(fake_vfio_fire(&vfio, 0), "masked until the guest's end of interrupt");
        fake_hv_eoi(&hv, FIRST_GSI);
        cr_expect_not(hv.level[FIRST_GSI]);
    }
}

Test(vfio_platform, interrupts_without_eventfd_are_left_out)
{
    uint32_t gsi;
    bool level;

    add_usual();
    vfio.irq[0].flags = LEVEL;
    fake_vfio_line(&vfio, EDGE);
    vfio.irq[2].count = 0;
    cr_assert_eq(create(), 0);
    cr_assert(vfio_platform_irq(platform, 0, &gsi, &level));
    cr_expect_eq(gsi, FIRST_GSI);
    cr_expect_not(level, "the device's number 1");
    cr_expect_not(vfio_platform_irq(platform, 1, &gsi, &level));
}

Test(vfio_platform, inputs_that_are_free_in_order)
{
    static const uint32_t want[] = {3, 5, 6, 7, 10, 11, 13, 14};
    uint32_t gsi;
    bool level;

    for (unsigned i = 0; i < ARRAY_SIZE(want); i++)
        fake_vfio_line(&vfio, LEVEL);
    cr_assert_eq(create(), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(want); i++) {
        cr_assert(vfio_platform_irq(platform, i, &gsi, &level));
        cr_expect_eq(gsi, want[i]);
    }
    cr_expect_eq(room.gsis, 1U << 15);
}

Test(vfio_platform, no_input_is_free)
{
    add_usual();
    room.gsis = 1U << 7;
    cr_expect_eq(create(), -ENOSPC);
    cr_expect_eq(room.gsis, 0);
}

/* ---- life ---- */

Test(vfio_platform, starts_with_a_reset)
{
    add_usual();
    cr_assert_eq(create(), 0);
    cr_expect_eq(vfio.call[0].op, FAKE_RESET);
}

Test(vfio_platform, one_that_cannot_be_reset_is_taken)
{
    add_usual();
    fake_vfio_fail(&vfio, FAKE_RESET, 1, ENOTTY);
    cr_expect_eq(create(), 0);
}

Test(vfio_platform, one_that_fails_to_reset_is_not)
{
    fake_vfio_fail(&vfio, FAKE_RESET, 1, EIO);
    cr_expect_eq(create(), -EIO);
}

/* Each call that may fail, and what it is for; the teardown sees that nothing is left. */
static void fails_at(enum fake_vfio_op op, unsigned nth)
{
    add_usual();
    fake_vfio_fail(&vfio, op, nth, EPERM);
    cr_expect_eq(create(), -EPERM);
}

Test(vfio_platform, fails_at_the_second_region)
{
    fails_at(FAKE_REGION_INFO, 2);
}

Test(vfio_platform, fails_at_the_trigger)
{
    fails_at(FAKE_IRQ_SET, 1);
}

Test(vfio_platform, fails_at_the_unmask_eventfd)
{
    fails_at(FAKE_IRQ_SET, 3);
}

Test(vfio_platform, fails_at_the_second_interrupt)
{
    fails_at(FAKE_IRQ_SET, 5);
}

Test(vfio_platform, fails_without_resampling)
{
    add_usual();
    fake_hv_fail(&hv, FAKE_IRQFD_ADD, 1, EINVAL);
    cr_expect_eq(create(), -EINVAL);
}

Test(vfio_platform, ends_off_the_bus_then_silent_then_reset)
{
    create_usual();
    vfio_platform_destroy(platform);
    platform = NULL;
    cr_assert_eq(vfio.nr, 5);
    for (unsigned i = 0; i < 3; i++) {
        cr_expect_eq(vfio.call[i].op, FAKE_IRQ_SET);
        cr_expect_eq(vfio.call[i].slots, 0);
    }
    cr_expect_eq(vfio.call[3].op, FAKE_RESET);
    cr_expect_eq(vfio.call[4].op, FAKE_CLOSE);
}

Test(vfio_platform, guest_reset)
{
    static const uint32_t off[] = {VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK,
                                   VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER};

    create_usual();
    cr_expect(fake_vfio_fire(&vfio, 0));
    cr_expect(fake_hv_deliver(&hv, FIRST_GSI));
    cr_assert_eq(vfio_platform_reset(platform), 0);
    cr_expect_not(hv.level[FIRST_GSI], "nothing of the past");
    for (unsigned i = 0; i < 2; i++)
        cr_expect_eq(vfio.call[i].flags, off[i]);
    cr_expect_eq(vfio.call[0].fd, -1, "the unmask eventfd is taken back");
    cr_expect_eq(vfio.call[3].op, FAKE_RESET);
    for (unsigned i = 0; i < 4; i++)
        cr_expect_eq(vfio.call[4 + i].flags, level_on[i]);
    cr_expect_eq(region_at(1), BASE + MIB);
    cr_expect_not_null(fake_hv_slot_at(&hv, BASE + MIB));
    cr_expect(fake_vfio_fire(&vfio, 0));
    cr_expect(fake_hv_deliver(&hv, FIRST_GSI));
}

Test(vfio_platform, guest_reset_that_fails)
{
    create_usual();
    fake_vfio_fail(&vfio, FAKE_RESET, 1, EIO);
    cr_expect_eq(vfio_platform_reset(platform), -EIO);
    cr_expect_eq(fake_hv_live_irqfds(&hv), 0);
    fake_vfio_fail(&vfio, FAKE_IRQ_SET, 2, EIO);
    cr_expect_eq(vfio_platform_reset(platform), -EIO);
}

Test(vfio_platform, dropped_slots_come_back_with_a_reset)
{
    create_usual();
    cr_expect(vfio_platform_drop_slots(platform));
    cr_expect_eq(fake_hv_live_slots(&hv), 0);
    cr_expect_not(vfio_platform_drop_slots(platform), "there is none to drop");
    mmio_write(BASE + MIB, 4, 42);
    cr_expect_eq(mmio_read(BASE + MIB, 4), 42, "trapped");
    cr_assert_eq(vfio_platform_reset(platform), 0);
    cr_expect_eq(fake_hv_live_slots(&hv), 1);
    cr_assert_eq(vfio_platform_reset(platform), 0);
    cr_expect_eq(fake_hv_live_slots(&hv), 1);
}

Test(vfio_platform, a_lost_device_is_silent_and_reads_all_ones)
{
    create_usual();
    cr_expect(fake_vfio_fire(&vfio, 0));
    cr_expect(fake_hv_deliver(&hv, FIRST_GSI));
    cr_expect(hv.level[FIRST_GSI]);
    lose();
    cr_expect_not(hv.level[FIRST_GSI], "no storm of an interrupt that nobody can calm");
    cr_expect_eq(fake_hv_live(&hv), 0);
    cr_expect_eq(mmio_read(BASE + MIB, 8), UINT64_MAX);
    mmio_write(BASE + MIB, 8, 0);
}

Test(vfio_platform, a_lost_device_stays_lost)
{
    create_usual();
    lose();
    cr_expect_eq(vfio_platform_reset(platform), 0, "the guest may go on without");
    cr_expect_eq(vfio.calls[FAKE_RESET], 0, "and hears of it once");
    cr_expect_eq(fake_hv_live(&hv), 0);
    cr_expect_not(vfio_platform_drop_slots(platform));
}

Test(vfio_platform, lost_in_the_middle_of_a_reset)
{
    create_usual();
    vfio.dev.lost = true; /* not told yet */
    cr_expect_eq(vfio_platform_reset(platform), 0);
    vfio.dev.on_lost(vfio.dev.opaque);
    cr_expect_eq(fake_hv_live(&hv), 0);
}

/* ---- description ---- */

/* Standard error of vfio_platform_describe(). */
static const char *described(void)
{
    static char text[4096];
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);

    log_set_level(LOG_NOTE);
    dup2(fileno(file), STDERR_FILENO);
    vfio_platform_describe(platform);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    return text;
}

Test(vfio_platform, description)
{
    add_usual();
    fake_vfio_region(&vfio, 0x3000);
    vfio.region[2].area[0] = (struct vfio_area){0x1000, 0x1000};
    strcpy(vfio.dev.compatible, "vendor,thing");
    cr_assert_eq(create(), 0);
    cr_expect_str_eq(described(),
                     "minivmm: f0a00000.dma: region 0 0xf0000000 256 trapped\n"
                     "minivmm: f0a00000.dma: region 1 0xf0100000 1M direct\n"
                     "minivmm: f0a00000.dma: region 2 0xf0200000 12K direct, trapped "
                     "0x0-0xfff, 0x2000-0x2fff\n"
                     "minivmm: f0a00000.dma: interrupt 0 gsi 3 level\n"
                     "minivmm: f0a00000.dma: interrupt 1 gsi 5 edge\n");
}

Test(vfio_platform, description_of_one_that_no_driver_would_find)
{
    cr_assert_eq(create(), 0);
    cr_expect_str_eq(described(),
                     "minivmm: f0a00000.dma: the ACPI tables leave the device out: "
                     "it has no compatible string, by which a driver would find "
                     "it\n");
    strcpy(vfio.dev.hid, "QCOM0604");
    cr_expect_str_eq(described(), "");
}

/* ---- the kernel's vfio-platform, from its sysfs path to the guest's ACPI tables ---- */

#define NODE "/sys/bus/platform/devices/f0a00000.dma"
#define RW   (VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE)

static struct fake_vfio_kernel *k;
static struct vfio_region_info info[2] = {
    {.index = 0, .flags = RW, .size = 0x800},
    {.index = 1,
     .flags = RW | VFIO_REGION_INFO_FLAG_MMAP,
     .size = 0x10000,
     .offset = 1LL << 40},
};
static struct option_vfio option = {.device = NODE, .devfn = -1, .mmap = true};
static struct passthrough pass;
static struct passthrough_config pass_config;
static struct mem mem;
static struct bus pio;
static struct pci_bus pci;
static struct loop *loop;

static void kernel_setup(void)
{
    log_set_level(LOG_ERROR);
    fake_hv_init(&hv);
    cr_assert_eq(bus_init(&mmio), 0);
    cr_assert_eq(bus_init(&pio), 0);
    cr_assert_eq(pci_bus_init(&pci, &pio, &mmio), 0);
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(mem_init(&mem, 4 * MIB), 0);
    pass_config = (struct passthrough_config){
        .option = &option, .nr = 1, .hv = &hv.hv, .bus = &pci, .loop = loop, .mem = &mem};
    k = fake_vfio_kernel_init();
    fake_sysfs_platform("f0a00000.dma", 16, "vfio-platform", "vendor,dma-2");
    k->device_flags = VFIO_DEVICE_FLAGS_PLATFORM;
    k->regions = ARRAY_SIZE(info);
    k->irqs = 1;
    k->irq.flags |= LEVEL;
    for (unsigned i = 0; i < ARRAY_SIZE(info); i++)
        k->region[i] = (struct fake_answer){&info[i], sizeof(info[i]), 0};
}

static void kernel_teardown(void)
{
    passthrough_close(&pass);
    cr_expect_eq(k->live, 0);
    cr_expect_eq(fake_hv_live(&hv), 0);
    cr_expect_eq(hv.misuse, 0);
    cr_expect_eq(mmio.nr, 1, "only ECAM is left");
    fake_vfio_kernel_fini();
    mem_fini(&mem);
    loop_destroy(loop);
    pci_bus_fini(&pci);
    bus_fini(&pio);
    bus_fini(&mmio);
}

TestSuite(vfio_platform_kernel, .init = kernel_setup, .fini = kernel_teardown);

static void expect_resource(const struct acpi_resource *r, enum acpi_resource_type type,
                            uint32_t base, uint32_t size)
{
    cr_expect_eq(r->type, type);
    cr_expect_eq(r->base, base);
    cr_expect_eq(r->size, size);
}

Test(vfio_platform_kernel, reaches_the_guest)
{
    struct acpi_device acpi;

    cr_assert_eq(passthrough_open(&pass, &pass_config), 0, "%s", fake_log());
    cr_assert_eq(passthrough_acpi(&pass, &acpi), 1);
    cr_expect_str_eq(acpi.name, "VP00");
    cr_expect_str_eq(acpi.compatible, "vendor,dma-2");
    cr_assert_eq(acpi.nr, 3);
    expect_resource(&acpi.resource[0], ACPI_RES_MEM32, 0xf0000000, 0x800);
    expect_resource(&acpi.resource[1], ACPI_RES_MEM32, 0xf0010000, 0x10000);
    expect_resource(&acpi.resource[2], ACPI_RES_IRQ_LEVEL, FIRST_GSI, 0);
    mmio_write(BASE + 0x10, 4, 0x12345678);
    cr_expect_eq(mmio_read(BASE + 0x10, 4), 0x12345678);
    cr_assert_not_null(fake_hv_slot_at(&hv, 0xf0010000));
    *(uint8_t *)fake_hv_slot_at(&hv, 0xf0010000)->hva = 0x5a;
    cr_expect_eq(passthrough_reset(&pass), 0);
    cr_expect(passthrough_drop_slots(&pass));
    cr_expect_eq(mmio_read(0xf0010000, 1), 0x5a, "trapped and direct are the same");
    cr_expect_eq(k->irq_index, 0);
    cr_expect_eq(k->resets, 0, "there is none");
}

Test(vfio_platform_kernel, is_known_by_its_acpi_id)
{
    struct acpi_device acpi;

    fake_sysfs_platform("f0a00000.dma", 16, "vfio-platform", "");
    fake_file("/sys/devices/platform/f0a00000.dma/firmware_node/hid", "QCOM0604\n");
    cr_assert_eq(passthrough_open(&pass, &pass_config), 0, "%s", fake_log());
    cr_assert_eq(passthrough_acpi(&pass, &acpi), 1);
    cr_expect_null(acpi.compatible);
    cr_expect_str_eq(acpi.hid, "QCOM0604");
}

Test(vfio_platform_kernel, is_not_known)
{
    struct acpi_device acpi;

    fake_sysfs_platform("f0a00000.dma", 16, "vfio-platform", "");
    cr_assert_eq(passthrough_open(&pass, &pass_config), 0, "%s", fake_log());
    cr_expect_eq(passthrough_acpi(&pass, &acpi), 0);
}

Test(vfio_platform_kernel, the_command_that_binds_it)
{
    fake_sysfs_platform("f0a00000.dma", 16, "dma-pl330", "vendor,dma-2");
    cr_expect_eq(passthrough_open(&pass, &pass_config), -EBUSY);
    cr_expect_str_eq(
        fake_log(),
        "minivmm: f0a00000.dma: cannot use device: it is bound to the host's driver dma-pl330, "
        "not to vfio-platform; run as root: minivmm host bind "
        "/sys/devices/platform/f0a00000.dma\n");
}

Test(vfio_platform_kernel, has_no_slot)
{
    option.devfn = PCI_DEVFN(3, 0);
    cr_expect_eq(passthrough_open(&pass, &pass_config), -ENOSPC);
    option.devfn = -1;
    cr_expect_eq(fake_log_lines(fake_log(), "no PCI device and has no slot"), 1);
}

/* Start-up once for each call of the kernel that may fail: one message, nothing left. */
Test(vfio_platform_kernel, start_fails_at_every_call)
{
    unsigned failed = 0;

    k->fail_errno = EIO;
    for (unsigned n = 1;; n++) {
        k->calls = 0;
        k->fail_at = n;
        fake_log();
        int err = passthrough_open(&pass, &pass_config);
        bool done = k->calls < n;
        const char *log = fake_log();
        k->fail_at = 0;
        cr_expect_eq(fake_log_lines(log, "cannot"), err ? 1 : 0, "call %u: %s", n, log);
        passthrough_close(&pass);
        pass = (struct passthrough){0};
        cr_expect_eq(k->live, 0, "call %u", n);
        cr_expect_eq(fake_hv_live(&hv), 0, "call %u", n);
        failed += err != 0;
        if (done)
            break;
    }
    cr_expect_gt(failed, 12);
}
