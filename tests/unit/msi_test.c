/*
 * msi_test.c: devices/msi.c over fake_hv and a device that records what it is told.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "devices/msi.h"
#include "tests/unit/fake_hv.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define ADDRESS 0xfee01000U
#define ENABLE  PCI_MSIX_FLAGS_ENABLE
#define MASKALL PCI_MSIX_FLAGS_MASKALL

struct call {
    unsigned start, count;
};

struct device {
    int trigger[MSIX_VECTORS_MAX]; /* what the device has; -1: nothing */
    bool enabled;
    unsigned enables, disables, binds;
    struct call call[64];
    int fail_enable, fail_bind;
};

struct rig {
    struct fake_hv fake;
    struct device device;
    struct msi msi;
};

static int device_enable(void *opaque)
{
    struct device *d = opaque;

    cr_assert_not(d->enabled);
    d->enables++;
    d->enabled = !d->fail_enable;
    return d->fail_enable;
}

static void device_disable(void *opaque)
{
    struct device *d = opaque;

    cr_assert(d->enabled);
    d->enabled = false;
    d->disables++;
    memset(d->trigger, 0xff, sizeof(d->trigger));
}

static int device_bind(void *opaque, unsigned start, unsigned count, const int *fds)
{
    struct device *d = opaque;

    cr_assert(d->enabled, "bind before enable");
    cr_assert(count && start + count <= MSIX_VECTORS_MAX);
    cr_assert(fds[0] >= 0 && fds[count - 1] >= 0, "the span is tight");
    d->call[d->binds++ % ARRAY_SIZE(d->call)] = (struct call){start, count};
    if (d->fail_bind)
        return d->fail_bind;
    for (unsigned i = 0; i < count; i++) {
        cr_assert_eq(d->trigger[start + i], -1, "vector %u is bound already", start + i);
        d->trigger[start + i] = fds[i];
    }
    return 0;
}

static const struct msi_ops device_ops = {
    .bind = device_bind,
    .enable = device_enable,
    .disable = device_disable,
};

static struct rig *rig_new(unsigned nr, bool msix)
{
    struct rig *r = calloc(1, sizeof(*r));

    cr_assert(r);
    fake_hv_init(&r->fake);
    memset(r->device.trigger, 0xff, sizeof(r->device.trigger));
    cr_assert_eq(msi_init(&r->msi, &r->fake.hv, "dev", nr, msix, &device_ops, &r->device), 0);
    return r;
}

static void rig_free(struct rig *r)
{
    msi_fini(&r->msi);
    cr_assert_not(r->device.enabled);
    cr_assert_eq(fake_hv_live(&r->fake), 0, "leaks in the hypervisor");
    cr_assert_eq(r->fake.misuse, 0, "wrong order of calls");
    free(r);
}

static unsigned open_files(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 4096; fd++)
        n += lseek(fd, 0, SEEK_CUR) >= 0 || errno != EBADF;
    return n;
}

/* The device raises VECTOR. */
static void raise_vector(struct rig *r, unsigned vector)
{
    const uint64_t one = 1;

    cr_assert(r->device.trigger[vector] >= 0, "vector %u is not bound", vector);
    cr_assert_eq(write(r->device.trigger[vector], &one, sizeof(one)), sizeof(one));
}

static void entry_message(struct rig *r, unsigned vector, uint32_t address, uint32_t data)
{
    uint32_t at = vector * MSIX_ENTRY_SIZE;

    msix_table_write(&r->msi, at + PCI_MSIX_ENTRY_LOWER_ADDR, 4, address);
    msix_table_write(&r->msi, at + PCI_MSIX_ENTRY_UPPER_ADDR, 4, 0);
    msix_table_write(&r->msi, at + PCI_MSIX_ENTRY_DATA, 4, data);
}

static void entry_mask(struct rig *r, unsigned vector, bool masked)
{
    msix_table_write(&r->msi, vector * MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL, 4, masked);
}

static void entry_set(struct rig *r, unsigned vector, uint32_t data)
{
    entry_message(r, vector, ADDRESS, data);
    entry_mask(r, vector, false);
}

/* Captures standard error while FN runs. */
static void capture(struct rig *r, void (*fn)(struct rig *r), char *text, size_t size)
{
    FILE *file = tmpfile();
    int saved = dup(2);

    cr_assert(file && saved >= 0);
    dup2(fileno(file), 2);
    fn(r);
    dup2(saved, 2);
    close(saved);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static unsigned lines(const char *text)
{
    unsigned n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

Test(msi, init_limits)
{
    struct fake_hv *fake = calloc(1, sizeof(*fake));
    struct device d = {0};
    struct msi msi;

    cr_assert(fake);
    fake_hv_init(fake);
    cr_expect_eq(msi_init(&msi, &fake->hv, "d", 0, true, &device_ops, &d), -EINVAL);
    cr_expect_eq(msi_init(&msi, &fake->hv, "d", 2049, true, &device_ops, &d), -EINVAL);
    cr_expect_eq(msi_init(&msi, &fake->hv, "d", 33, false, &device_ops, &d), -EINVAL);
    msi_fini(&msi); /* after a failed init, and of a zeroed one */
    cr_expect_eq(msi_init(&msi, &fake->hv, "d", 2048, true, &device_ops, &d), 0);
    msi_fini(&msi);
    cr_expect_eq(msi_init(&msi, &fake->hv, "d", 32, false, &device_ops, &d), 0);
    msi_fini(&msi);
    msi_fini(&msi);
    free(fake);
}

/* ---- MSI-X ---- */

Test(msi, msix_power_on_table_is_masked_and_costs_nothing)
{
    unsigned before = open_files();
    struct rig *r = rig_new(2048, true);

    for (uint32_t i = 0; i < 2048; i++) {
        cr_assert_eq(msix_table_read(&r->msi, i * 16, 8), 0);
        cr_assert_eq(msix_table_read(&r->msi, i * 16 + 12, 4), 1);
    }
    msix_control_write(&r->msi, ENABLE);
    cr_expect_eq(r->device.enables, 1);
    cr_expect_eq(r->device.binds, 0);
    cr_expect_eq(open_files(), before);
    cr_expect_eq(fake_hv_live(&r->fake), 0);
    rig_free(r);
}

Test(msi, msix_interrupt_reaches_the_guest)
{
    struct rig *r = rig_new(4, true);

    entry_set(r, 2, 0x41);
    cr_expect_eq(r->device.enables, 0, "nothing happens before it is enabled");
    msix_control_write(&r->msi, ENABLE);
    cr_assert_eq(r->device.binds, 1);
    raise_vector(r, 2);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x41));
    cr_expect_not(fake_hv_deliver_data(&r->fake, 0x41), "once");
    const struct hv_msi *msg = fake_hv_route_of(&r->fake, (uint32_t)r->msi.vector[2].gsi);
    cr_assert(msg);
    cr_expect_eq(msg->address, ADDRESS);
    rig_free(r);
}

Test(msi, msix_masked_vector_latches_and_pba_shows_it)
{
    struct rig *r = rig_new(70, true);

    msix_control_write(&r->msi, ENABLE);
    entry_set(r, 65, 0x30);
    entry_mask(r, 65, true);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 0);
    raise_vector(r, 65);
    cr_expect_eq(msix_pba_read(&r->msi, 8, 8), 2);
    cr_expect_eq(msix_pba_read(&r->msi, 8, 8), 2, "reading does not consume");
    cr_expect_eq(msix_pba_read(&r->msi, 8, 1), 2);
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 0);
    cr_expect_eq(msix_pba_read(&r->msi, 4, 8), 2ULL << 32);
    cr_expect_not(fake_hv_deliver_data(&r->fake, 0x30));
    entry_mask(r, 65, false);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x30), "delivered when unmasked");
    cr_expect_eq(msix_pba_read(&r->msi, 8, 8), 0);
    rig_free(r);
}

Test(msi, msix_unmasked_vector_is_not_pending)
{
    struct rig *r = rig_new(1, true);

    msix_control_write(&r->msi, ENABLE);
    entry_set(r, 0, 0x30);
    raise_vector(r, 0);
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 0);
    rig_free(r);
}

Test(msi, msix_function_mask_holds_everything_back)
{
    struct rig *r = rig_new(2, true);

    msix_control_write(&r->msi, ENABLE | MASKALL);
    cr_expect_eq(r->device.enables, 1, "the device is switched at once");
    entry_set(r, 0, 0x30);
    entry_set(r, 1, 0x31);
    cr_expect_eq(r->device.binds, 0);
    msix_control_write(&r->msi, ENABLE);
    cr_expect_eq(r->device.binds, 1, "both in one call");
    msix_control_write(&r->msi, ENABLE | MASKALL);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 0);
    raise_vector(r, 0);
    raise_vector(r, 1);
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 3);
    msix_control_write(&r->msi, ENABLE);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x30));
    cr_expect(fake_hv_deliver_data(&r->fake, 0x31));
    cr_expect_eq(r->device.binds, 1, "nothing is bound twice");
    rig_free(r);
}

/* As Linux does it: messages first, every vector still masked, then vector by vector. */
Test(msi, msix_whole_enable_is_one_bind)
{
    struct rig *r = rig_new(128, true);

    msix_control_write(&r->msi, ENABLE | MASKALL);
    for (unsigned i = 3; i < 100; i++)
        if (i % 3 == 0)
            entry_message(r, i, ADDRESS, i);
    msix_control_write(&r->msi, ENABLE);
    cr_assert_eq(r->device.binds, 1);
    cr_expect_eq(r->device.call[0].start, 3);
    cr_expect_eq(r->device.call[0].count, 97);
    cr_expect(r->device.trigger[3] >= 0 && r->device.trigger[99] >= 0);
    cr_expect_eq(r->device.trigger[4], -1);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 0, "masked: not connected");
    cr_expect_eq(fake_hv_live_routes(&r->fake), 0, "no route before it is needed");
    entry_mask(r, 99, false);
    raise_vector(r, 99);
    cr_expect(fake_hv_deliver_data(&r->fake, 99));
    cr_expect_eq(r->device.binds, 1);
    entry_set(r, 4, 4);
    cr_expect_eq(r->device.binds, 2, "what was bridged is not bound");
    raise_vector(r, 4);
    cr_expect(fake_hv_deliver_data(&r->fake, 4));
    rig_free(r);
}

Test(msi, msix_later_vectors_leave_bound_ones_alone)
{
    struct rig *r = rig_new(8, true);

    msix_control_write(&r->msi, ENABLE);
    entry_set(r, 3, 0x33);
    cr_assert_eq(r->device.binds, 1);
    cr_expect(r->device.call[0].start == 3 && r->device.call[0].count == 1);
    msix_control_write(&r->msi, ENABLE | MASKALL);
    for (unsigned i = 0; i < 8; i += 2)
        entry_set(r, i, 0x40 + i);
    msix_control_write(&r->msi, ENABLE);
    cr_assert_eq(r->device.binds, 3, "one span on each side of vector 3");
    cr_expect(r->device.call[1].start == 0 && r->device.call[1].count == 3);
    cr_expect(r->device.call[2].start == 4 && r->device.call[2].count == 3);
    entry_set(r, 7, 0x47);
    cr_assert_eq(r->device.binds, 4);
    cr_expect(r->device.call[3].start == 7 && r->device.call[3].count == 1);
    rig_free(r);
}

Test(msi, msix_route_changes_only_with_the_message)
{
    struct rig *r = rig_new(1, true);

    msix_control_write(&r->msi, ENABLE);
    entry_set(r, 0, 0x30);
    for (int i = 0; i < 5; i++) {
        entry_mask(r, 0, true);
        entry_mask(r, 0, false);
    }
    cr_expect_eq(r->fake.calls[FAKE_ROUTE_ADD], 1);
    cr_expect_eq(r->fake.calls[FAKE_ROUTE_UPDATE], 0);
    entry_mask(r, 0, true);
    entry_message(r, 0, ADDRESS, 0x35);
    cr_expect_eq(r->fake.calls[FAKE_ROUTE_UPDATE], 0, "not while masked");
    entry_mask(r, 0, false);
    cr_expect_eq(r->fake.calls[FAKE_ROUTE_UPDATE], 1);
    raise_vector(r, 0);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x35));
    rig_free(r);
}

Test(msi, msix_disable_undoes_and_forgets_what_was_latched)
{
    unsigned before = open_files();
    struct rig *r = rig_new(4, true);

    msix_control_write(&r->msi, ENABLE);
    entry_set(r, 0, 0x30);
    entry_set(r, 1, 0x31);
    entry_mask(r, 1, true);
    raise_vector(r, 1);
    msix_control_write(&r->msi, 0);
    cr_expect_eq(r->device.disables, 1);
    cr_expect_eq(fake_hv_live(&r->fake), 0);
    cr_expect_eq(open_files(), before);
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 0);
    msix_control_write(&r->msi, 0);
    cr_expect_eq(r->device.disables, 1, "once");
    cr_expect_eq(msix_table_read(&r->msi, 8, 4), 0x30, "the table stays");
    msix_control_write(&r->msi, ENABLE);
    cr_expect_eq(r->device.enables, 2);
    entry_mask(r, 1, false);
    cr_expect_not(fake_hv_deliver_data(&r->fake, 0x31), "the old interrupt is gone");
    raise_vector(r, 1);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x31));
    rig_free(r);
    cr_expect_eq(open_files(), before);
}

Test(msi, msix_reset_is_power_on)
{
    struct rig *r = rig_new(2, true);

    msix_control_write(&r->msi, ENABLE | MASKALL);
    msix_control_write(&r->msi, ENABLE);
    entry_set(r, 1, 0x30);
    msix_control_write(&r->msi, ENABLE | MASKALL);
    msi_reset(&r->msi);
    cr_expect_not(r->msi.function_mask);
    cr_expect_eq(r->device.disables, 1);
    cr_expect_eq(fake_hv_live(&r->fake), 0);
    cr_expect_eq(msix_table_read(&r->msi, 16, 8), 0);
    cr_expect_eq(msix_table_read(&r->msi, 24, 8), 1ULL << 32);
    msix_control_write(&r->msi, ENABLE);
    cr_expect_eq(r->device.binds, 1, "nothing is in use after a reset");
    rig_free(r);
}

Test(msi, msix_partial_and_wide_writes)
{
    struct rig *r = rig_new(2, true);

    msix_table_write(&r->msi, 16, 8, ADDRESS | 3);
    msix_table_write(&r->msi, 24, 8, 0xffffffff00000000ULL | 0x1234);
    cr_expect_eq(msix_table_read(&r->msi, 24, 4), 0x1234);
    cr_expect_eq(msix_table_read(&r->msi, 28, 4), 1, "reserved bits of Vector Control");
    msix_control_write(&r->msi, ENABLE);
    msix_table_write(&r->msi, 28, 1, 0); /* a byte unmasks */
    cr_assert_eq(fake_hv_live_irqfds(&r->fake), 1);
    const struct hv_msi *msg = fake_hv_route_of(&r->fake, LAYOUT_GSI_COUNT);
    cr_assert(msg);
    cr_expect_eq(msg->address, ADDRESS, "the low two bits are no address");
    cr_expect_eq(msg->data, 0x1234);
    msix_table_write(&r->msi, 25, 2, 0xabcd);
    cr_expect_eq(msix_table_read(&r->msi, 24, 4), 0xabcd34);
    cr_expect_eq(fake_hv_route_of(&r->fake, LAYOUT_GSI_COUNT)->data, 0xabcd34);
    /* Across two entries: control of the first, address of the second. */
    msix_table_write(&r->msi, 12, 8, 0xfee0200000000000ULL);
    cr_expect_eq(msix_table_read(&r->msi, 12, 4), 0);
    cr_expect_eq(fake_hv_route_of(&r->fake, LAYOUT_GSI_COUNT)->address, 0xfee02000);
    rig_free(r);
}

Test(msi, msix_accesses_out_of_range)
{
    struct rig *r = rig_new(3, true);

    msix_control_write(&r->msi, ENABLE);
    msix_table_write(&r->msi, 44, 8, UINT64_MAX);
    msix_table_write(&r->msi, 48, 4, UINT64_MAX);
    msix_table_write(&r->msi, UINT32_MAX, 8, UINT64_MAX);
    msix_table_write(&r->msi, 0, 0, UINT64_MAX);
    msix_table_write(&r->msi, 0, 9, UINT64_MAX);
    cr_expect_eq(msix_table_read(&r->msi, 40, 8), 1ULL << 32);
    cr_expect_eq(msix_table_read(&r->msi, 0, 8), 0);
    cr_expect_eq(msix_table_read(&r->msi, 44, 8), 0);
    cr_expect_eq(msix_table_read(&r->msi, UINT32_MAX, 8), 0);
    cr_expect_eq(msix_pba_read(&r->msi, 8, 4), 0);
    cr_expect_eq(msix_pba_read(&r->msi, 0x20000000, 8), 0);
    cr_expect_eq(msix_pba_read(&r->msi, UINT32_MAX, 8), 0);
    rig_free(r);
}

/* A write of the guest that names no interrupt address must not become a route. */
Test(msi, msix_hostile_address_stays_latched)
{
    struct rig *r = rig_new(2, true);
    static const uint64_t bad[] = {0, 0x1000, 0xfed00000, 0xfef00000, 0x1fee00000ULL};

    msix_control_write(&r->msi, ENABLE);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        msix_table_write(&r->msi, 0, 8, bad[i]);
        entry_mask(r, 0, false);
        cr_expect_eq(fake_hv_live_routes(&r->fake), 0, "0x%llx", (unsigned long long)bad[i]);
    }
    raise_vector(r, 0);
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 1);
    entry_set(r, 0, 0x30);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x30), "the real address arrives late");
    msix_table_write(&r->msi, 0, 8, 0x1000);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 0, "and leaves again");
    rig_free(r);
}

static void unmask_all(struct rig *r)
{
    for (unsigned i = 0; i < r->msi.nr; i++)
        entry_set(r, i, i);
}

Test(msi, msix_full_routing_table)
{
    struct rig *r = rig_new(64, true);
    char text[4096];

    r->fake.route_limit = 10;
    msix_control_write(&r->msi, ENABLE);
    capture(r, unmask_all, text, sizeof(text));
    cr_expect_eq(lines(text), 1, "%s", text);
    cr_expect(strstr(text, "minivmm: dev: cannot route interrupt vector 10") &&
                  strstr(text, "10 of this device's 64"),
              "%s", text);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 10);
    raise_vector(r, 9);
    cr_expect(fake_hv_deliver_data(&r->fake, 9));
    raise_vector(r, 10);
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 1 << 10, "it waits");
    /* Room has come: the next time it is unmasked. */
    r->fake.route_limit = 11;
    entry_mask(r, 10, true);
    entry_mask(r, 10, false);
    cr_expect(fake_hv_deliver_data(&r->fake, 10));
    rig_free(r);
}

Test(msi, msix_no_files_left)
{
    struct rig *r = rig_new(256, true);
    struct rlimit limit;
    char text[4096];

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = open_files() + 40;
    setrlimit(RLIMIT_NOFILE, &limit);
    msix_control_write(&r->msi, ENABLE);
    capture(r, unmask_all, text, sizeof(text));
    cr_expect_eq(lines(text), 1, "%s", text);
    cr_expect(strstr(text, "minivmm: dev: cannot make an eventfd") &&
                  strstr(text, "RLIMIT_NOFILE"),
              "%s", text);
    cr_expect(fake_hv_live_irqfds(&r->fake) > 30);
    raise_vector(r, 5);
    cr_expect(fake_hv_deliver_data(&r->fake, 5));
    rig_free(r);
}

static void toggle(struct rig *r)
{
    for (unsigned i = 0; i < 1000; i++) {
        msix_control_write(&r->msi, ENABLE);
        msix_control_write(&r->msi, 0);
    }
}

Test(msi, msix_log_is_bounded)
{
    struct rig *r = rig_new(2, true);
    char text[65536];

    entry_set(r, 0, 0x30);
    r->fake.route_limit = 0;
    capture(r, toggle, text, sizeof(text));
    cr_expect(lines(text) >= 1 && lines(text) <= 16, "%u lines", lines(text));
    rig_free(r);
}

Test(msi, msix_device_refuses)
{
    struct rig *r = rig_new(2, true);

    log_set_level(LOG_ERROR);
    entry_set(r, 0, 0x30);
    r->device.fail_enable = -EIO;
    msix_control_write(&r->msi, ENABLE);
    cr_expect_eq(r->device.binds, 0);
    cr_expect_eq(fake_hv_live(&r->fake), 0);
    msix_control_write(&r->msi, 0);
    cr_expect_eq(r->device.disables, 0);
    r->device.fail_enable = 0;
    r->device.fail_bind = -EINVAL;
    msix_control_write(&r->msi, ENABLE);
    cr_expect_eq(r->device.binds, 1);
    r->device.fail_bind = 0;
    entry_set(r, 1, 0x31);
    cr_expect_eq(r->device.binds, 2, "tried again, together");
    cr_expect(r->device.call[1].start == 0 && r->device.call[1].count == 2);
    raise_vector(r, 0);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x30));
    rig_free(r);
}

/* Whatever the hypervisor refuses, everything is undone in the end. */
Test(msi, msix_every_hypervisor_call_may_fail)
{
    static const enum fake_hv_op ops[] = {FAKE_ROUTE_ADD, FAKE_ROUTE_UPDATE, FAKE_IRQFD_ADD};

    log_set_level(LOG_ERROR);
    for (size_t op = 0; op < ARRAY_SIZE(ops); op++) {
        for (unsigned nth = 1; nth < 4; nth++) {
            struct rig *r = rig_new(3, true);
            fake_hv_fail(&r->fake, ops[op], nth, EIO);
            msix_control_write(&r->msi, ENABLE);
            for (unsigned i = 0; i < 3; i++)
                entry_set(r, i, 0x20 + i);
            for (unsigned i = 0; i < 3; i++)
                entry_set(r, i, 0x30 + i);
            for (unsigned i = 0; i < 3; i++) {
                entry_mask(r, i, true);
                entry_mask(r, i, false);
                raise_vector(r, i);
                cr_expect(fake_hv_deliver_data(&r->fake, 0x30 + i), "op %zu nth %u", op, nth);
            }
            rig_free(r);
        }
    }
}

Test(msi, two_instances)
{
    struct rig *a = rig_new(2, true), *b = rig_new(2, true);
    struct msi other;
    struct device d;

    memset(&d, 0, sizeof(d));
    memset(d.trigger, 0xff, sizeof(d.trigger));
    cr_assert_eq(msi_init(&other, &a->fake.hv, "other", 2, true, &device_ops, &d), 0);
    msix_control_write(&a->msi, ENABLE);
    msix_control_write(&other, ENABLE);
    entry_set(a, 0, 0x30);
    msix_table_write(&other, 0, 8, ADDRESS);
    msix_table_write(&other, 8, 8, 0x50);
    raise_vector(a, 0);
    cr_expect_not(fake_hv_deliver_data(&a->fake, 0x50));
    cr_expect(fake_hv_deliver_data(&a->fake, 0x30));
    msi_fini(&other);
    rig_free(a);
    rig_free(b);
}

/* ---- MSI ---- */

static void cap_init(uint8_t cap[24], uint16_t flags, uint64_t address, uint16_t data)
{
    bool wide = flags & PCI_MSI_FLAGS_64BIT;

    memset(cap, 0, 24);
    cap[0] = PCI_CAP_ID_MSI;
    put_le16(cap + PCI_MSI_FLAGS, flags);
    put_le32(cap + PCI_MSI_ADDRESS_LO, (uint32_t)address);
    if (wide)
        put_le32(cap + PCI_MSI_ADDRESS_HI, (uint32_t)(address >> 32));
    put_le16(cap + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), data);
}

#define QSIZE(log) ((log) << 4)

Test(msi, msi_single_32_bit)
{
    struct rig *r = rig_new(1, false);
    uint8_t cap[24];

    cap_init(cap, 0, ADDRESS, 0x4041);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(r->device.enables, 0);
    cap_init(cap, PCI_MSI_FLAGS_ENABLE, ADDRESS, 0x4041);
    msi_config_changed(&r->msi, cap);
    raise_vector(r, 0);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x4041));
    cap_init(cap, PCI_MSI_FLAGS_ENABLE, ADDRESS, 0x4042);
    msi_config_changed(&r->msi, cap);
    raise_vector(r, 0);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x4042), "moved while enabled");
    cap_init(cap, 0, ADDRESS, 0x4042);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(r->device.disables, 1);
    cr_expect_eq(fake_hv_live(&r->fake), 0);
    rig_free(r);
}

Test(msi, msi_several_messages_64_bit)
{
    struct rig *r = rig_new(4, false);
    uint8_t cap[24];

    /* The low bits of the data are the function's, whatever the guest wrote there. */
    cap_init(cap, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_64BIT | QSIZE(2), ADDRESS, 0x4047);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(r->device.binds, 1);
    cr_expect(r->device.call[0].start == 0 && r->device.call[0].count == 4);
    for (unsigned i = 0; i < 4; i++) {
        raise_vector(r, i);
        cr_expect(fake_hv_deliver_data(&r->fake, 0x4044 + i), "%u", i);
    }
    rig_free(r);
}

Test(msi, msi_fewer_messages_than_offered)
{
    struct rig *r = rig_new(8, false);
    uint8_t cap[24];

    cap_init(cap, PCI_MSI_FLAGS_ENABLE | QSIZE(1), ADDRESS, 0x4040);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 2);
    cr_expect_eq(r->device.trigger[2], -1);
    rig_free(r);
}

Test(msi, msi_hostile_message_count)
{
    struct rig *r = rig_new(2, false);
    uint8_t cap[24];

    cap_init(cap, PCI_MSI_FLAGS_ENABLE | QSIZE(7), ADDRESS, 0xffff);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(fake_hv_live_irqfds(&r->fake), 2);
    cr_expect_eq(r->device.binds, 1);
    rig_free(r);
}

static void msi_masked(uint16_t wide, unsigned mask_at)
{
    struct rig *r = rig_new(2, false);
    uint16_t flags = wide | PCI_MSI_FLAGS_MASKBIT | PCI_MSI_FLAGS_ENABLE | QSIZE(1);
    uint8_t cap[24];

    cap_init(cap, flags, ADDRESS, 0x4040);
    put_le32(cap + mask_at, 2);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(r->device.binds, 1, "both, masked or not");
    raise_vector(r, 0);
    raise_vector(r, 1);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x4040));
    cr_expect_not(fake_hv_deliver_data(&r->fake, 0x4041));
    cr_expect_eq(msi_pending(&r->msi), 2);
    cr_expect_eq(msi_pending(&r->msi), 2, "reading does not consume");
    put_le32(cap + mask_at, 0);
    msi_config_changed(&r->msi, cap);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x4041));
    cr_expect_eq(msi_pending(&r->msi), 0);
    rig_free(r);
}

Test(msi, msi_masks_32_bit)
{
    msi_masked(0, PCI_MSI_MASK_32);
}

Test(msi, msi_masks_64_bit)
{
    msi_masked(PCI_MSI_FLAGS_64BIT, PCI_MSI_MASK_64);
}

Test(msi, msi_address_above_4g_is_no_interrupt)
{
    struct rig *r = rig_new(1, false);
    uint8_t cap[24];

    cap_init(cap, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_64BIT, 0x100000000ULL | ADDRESS, 0x40);
    msi_config_changed(&r->msi, cap);
    cr_expect_eq(fake_hv_live_routes(&r->fake), 0);
    raise_vector(r, 0);
    cr_expect_eq(msi_pending(&r->msi), 1);
    rig_free(r);
}

/* ---- emulated devices ---- */

Test(msi, signal)
{
    struct rig *r = rig_new(3, true);

    msi_signal(&r->msi, 0); /* off: nowhere to go */
    msix_control_write(&r->msi, ENABLE);
    msi_signal(&r->msi, 3);
    msi_signal(&r->msi, UINT32_MAX);
    entry_set(r, 0, 0x30);
    cr_expect_not(fake_hv_deliver_data(&r->fake, 0x30));
    msi_signal(&r->msi, 0);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x30));
    msi_signal(&r->msi, 2); /* masked ever since */
    cr_expect_eq(msix_pba_read(&r->msi, 0, 8), 4);
    entry_set(r, 2, 0x32);
    cr_expect(fake_hv_deliver_data(&r->fake, 0x32));
    cr_expect(r->device.trigger[2] >= 0, "the device has it too");
    rig_free(r);
}
