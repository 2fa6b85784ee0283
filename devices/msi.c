/*
 * msi.c: MSI and MSI-X as the guest sees them, and the eventfds and routes behind.
 *
 * PCI Local Bus 3.0, 6.8.1 "MSI Capability Structure", 6.8.2 "MSI-X Capability and Table
 * Structures", 6.8.3 "MSI and MSI-X Operation" (6.8.3.5 for masks and pending bits). Both
 * mechanisms decode what the guest wrote into a message and a mask bit for each vector;
 * update() then makes the eventfds, tells the device, and connects or disconnects.
 *
 * Not done here: the capabilities themselves (they are the function's configuration space) and
 * TPH steering tags. A vector's pending bit is whether its eventfd is signalled; nothing reads
 * that eventfd but the hypervisor, so a masked interrupt waits there and none is lost.
 *
 * Runs under the device's lock, in vCPU threads mostly.
 */
#include "devices/msi.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "vmm/util.h"

#define MSI_VECTORS_MAX 32
_Static_assert(MSIX_ENTRY_SIZE == PCI_MSIX_ENTRY_SIZE, "MSI-X table entry");

/* Interrupt messages are writes to 0xFEExxxxx (Intel SDM volume 3, APIC chapter, "Message
 * Address Register Format"); a write elsewhere is none, and KVM could make nothing of it. */
#define MSI_ADDRESS_MASK 0xfffffffffff00000ULL
#define MSI_ADDRESS_BASE 0x00000000fee00000ULL

static bool is_interrupt(const struct hv_msi *msg)
{
    return (msg->address & MSI_ADDRESS_MASK) == MSI_ADDRESS_BASE;
}

/* One message each time the guest enables the mechanism: what fails for one vector fails for
 * all of them. */
static bool may_complain(struct msi *msi)
{
    if (msi->complained || !log_limit(&msi->complaints))
        return false;
    msi->complained = true;
    return true;
}

static void complain(struct msi *msi, const char *what, unsigned vector, int err)
{
    if (may_complain(msi))
        log_error(msi->name, "cannot %s interrupt vector %u of %u: %s", what, vector, msi->nr,
                  strerror(-err));
}

static void complain_no_file(struct msi *msi, unsigned vector)
{
    struct rlimit limit = {0};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (may_complain(msi))
        log_error(msi->name,
                  "cannot make an eventfd for interrupt vector %u: the %llu open files that "
                  "RLIMIT_NOFILE allows are in use; raise it (ulimit -n) by %u",
                  vector, (unsigned long long)limit.rlim_cur, msi->nr);
}

static void complain_no_route(struct msi *msi, unsigned vector)
{
    unsigned routed = 0;
    for (unsigned i = 0; i < msi->nr; i++)
        routed += msi->vector[i].gsi >= 0;
    if (may_complain(msi))
        log_error(
            msi->name,
            "cannot route interrupt vector %u: the routing table is full, with %u of this "
            "device's %u vectors in it; pass fewer devices",
            vector, routed, msi->nr);
}

static uint64_t table_size(const struct msi *msi)
{
    return (uint64_t)msi->nr * MSIX_ENTRY_SIZE;
}

static uint8_t *table_entry(const struct msi *msi, unsigned i)
{
    return msi->table + (size_t)i * MSIX_ENTRY_SIZE;
}

/* ---- one vector ---- */

static void vector_detach(struct msi *msi, struct msi_vector *v)
{
    if (v->attached)
        msi->hv->ops->irqfd_remove(msi->hv, v->fd, (uint32_t)v->gsi);
    v->attached = false;
}

/* The route is brought up to date before the eventfd is connected to it: an irqfd whose route
 * is missing drops the interrupt. */
static int vector_route(struct msi *msi, struct msi_vector *v)
{
    if (v->gsi < 0) {
        int gsi = msi->hv->ops->route_add(msi->hv, &v->msg);
        if (gsi < 0)
            return gsi;
        v->gsi = gsi;
    } else if (v->stale) {
        int err = msi->hv->ops->route_update(msi->hv, (uint32_t)v->gsi, &v->msg);
        if (err)
            return err;
    }
    v->stale = false;
    return 0;
}

static void vector_attach(struct msi *msi, unsigned i)
{
    struct msi_vector *v = &msi->vector[i];
    int err = vector_route(msi, v);
    if (err) {
        vector_detach(msi, v);
        if (err == -ENOSPC)
            complain_no_route(msi, i);
        else
            complain(msi, "route", i, err);
        return;
    }
    if (v->attached)
        return;
    err = msi->hv->ops->irqfd_add(msi->hv, v->fd, (uint32_t)v->gsi, -1);
    if (err)
        complain(msi, "connect", i, err);
    else
        v->attached = true;
}

static void vector_connect(struct msi *msi, unsigned i)
{
    struct msi_vector *v = &msi->vector[i];
    bool unmasked = v->fd >= 0 && !v->masked && !msi->function_mask;
    if (unmasked && is_interrupt(&v->msg)) {
        vector_attach(msi, i);
        return;
    }
    vector_detach(msi, v);
    if (unmasked && log_limit(&msi->complaints))
        log_debug(msi->name, "interrupt vector %u has the address 0x%llx, which is none", i,
                  (unsigned long long)v->msg.address);
}

static int vector_open(struct msi *msi, unsigned i)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) {
        int err = -errno;
        if (err == -EMFILE)
            complain_no_file(msi, i);
        else
            complain(msi, "make an eventfd for", i, err);
        return err;
    }
    msi->vector[i].fd = fd;
    return 0;
}

static void vector_close(struct msi *msi, struct msi_vector *v)
{
    if (v->gsi >= 0)
        msi->hv->ops->route_remove(msi->hv, (uint32_t)v->gsi);
    if (v->fd >= 0)
        close(v->fd);
    v->gsi = -1;
    v->fd = -1;
    v->bound = false;
}

static void vector_set(struct msi_vector *v, struct hv_msi msg, bool masked)
{
    if (v->msg.address != msg.address || v->msg.data != msg.data)
        v->stale = true;
    v->msg = msg;
    v->masked = masked;
}

/* ---- all vectors ---- */

static void bind_run(struct msi *msi, unsigned start, unsigned count, const int *fds)
{
    int err = msi->ops ? msi->ops->bind(msi->opaque, start, count, fds) : 0;
    if (err) {
        complain(msi, "set the trigger of", start, err);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        msi->vector[start + i].bound = fds[i] >= 0;
}

/* Gives the device every eventfd that it does not have yet. Vectors not in use are bridged by
 * -1: each call is expensive at a real device, and where vectors cannot be added one by one the
 * first call decides how many there are. Those that it has are left alone. */
static void bind_new(struct msi *msi)
{
    int fds[MSIX_VECTORS_MAX];
    unsigned i = 0;
    while (i < msi->nr) {
        unsigned start = i, end = i;
        for (; i < msi->nr && !msi->vector[i].bound; i++) {
            int fd = msi->vector[i].fd;
            fds[i - start] = fd;
            if (fd >= 0)
                end = i + 1;
            else if (start == end)
                start = end = i + 1;
        }
        if (start < end)
            bind_run(msi, start, end - start, fds);
        while (i < msi->nr && msi->vector[i].bound)
            i++;
    }
}

/* Brings vectors [FIRST, END) to what the guest wants. With FORESIGHT a masked vector that has
 * a message is given to the device too: the guest is about to use it, and devices that cannot
 * take a vector more later are spared the interruption. */
static void update(struct msi *msi, unsigned first, unsigned end, bool foresight)
{
    bool fresh = false;
    if (!msi->enabled)
        return;
    for (unsigned i = first; i < end && !msi->function_mask; i++) {
        struct msi_vector *v = &msi->vector[i];
        bool used = !v->masked || (foresight && v->msg.address);
        if (used && v->fd < 0 && vector_open(msi, i))
            break;
        fresh |= v->fd >= 0 && !v->bound;
    }
    if (fresh)
        bind_new(msi);
    for (unsigned i = first; i < end; i++)
        vector_connect(msi, i);
}

static void disable(struct msi *msi)
{
    if (!msi->enabled)
        return;
    for (unsigned i = 0; i < msi->nr; i++)
        vector_detach(msi, &msi->vector[i]);
    if (msi->ops)
        msi->ops->disable(msi->opaque);
    for (unsigned i = 0; i < msi->nr; i++)
        vector_close(msi, &msi->vector[i]);
    msi->enabled = false;
}

static void set_enabled(struct msi *msi, bool enabled)
{
    if (enabled == msi->enabled)
        return;
    if (!enabled) {
        disable(msi);
        return;
    }
    msi->complained = false;
    int err = msi->ops ? msi->ops->enable(msi->opaque) : 0;
    if (!err)
        msi->enabled = true;
    else if (may_complain(msi))
        log_error(msi->name, "cannot enable %s: %s", msi->table ? "MSI-X" : "MSI",
                  strerror(-err));
}

int msi_init(struct msi *msi, struct hv *hv, const char *name, unsigned nr, bool msix,
             const struct msi_ops *ops, void *opaque)
{
    *msi = (struct msi){.hv = hv, .name = name, .ops = ops, .opaque = opaque};
    if (!nr || nr > (msix ? MSIX_VECTORS_MAX : MSI_VECTORS_MAX))
        return -EINVAL;
    msi->vector = calloc(nr, sizeof(*msi->vector));
    msi->table = msix ? calloc(nr, MSIX_ENTRY_SIZE) : NULL;
    if (!msi->vector || (msix && !msi->table)) {
        msi_fini(msi);
        return -ENOMEM;
    }
    msi->nr = nr;
    for (unsigned i = 0; i < nr; i++) {
        msi->vector[i].fd = -1;
        msi->vector[i].gsi = -1;
    }
    msi_reset(msi);
    return 0;
}

void msi_fini(struct msi *msi)
{
    disable(msi);
    free(msi->vector);
    free(msi->table);
    *msi = (struct msi){0};
}

void msi_reset(struct msi *msi)
{
    disable(msi);
    msi->function_mask = false;
    for (unsigned i = 0; i < msi->nr; i++) {
        vector_set(&msi->vector[i], (struct hv_msi){0}, true);
        if (!msi->table)
            continue;
        uint8_t *entry = table_entry(msi, i);
        memset(entry, 0, MSIX_ENTRY_SIZE);
        put_le32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL, PCI_MSIX_ENTRY_CTRL_MASKBIT);
    }
}

/* What is latched of vectors FIRST.., at most 64: a signalled eventfd that nobody consumes. */
static uint64_t pending(const struct msi *msi, unsigned first)
{
    struct pollfd p[64];
    nfds_t count = 0;
    uint64_t bits = 0;

    for (unsigned i = first; i < msi->nr && count < ARRAY_SIZE(p); i++) {
        const struct msi_vector *v = &msi->vector[i];
        p[count++] = (struct pollfd){.fd = v->attached ? -1 : v->fd, .events = POLLIN};
    }
    if (poll(p, count, 0) <= 0)
        return 0;
    for (unsigned i = 0; i < count; i++)
        if (p[i].revents & POLLIN)
            bits |= 1ULL << i;
    return bits;
}

/* ---- MSI ---- */

void msi_config_changed(struct msi *msi, const uint8_t *cap)
{
    uint16_t flags = get_le16(cap + PCI_MSI_FLAGS);
    bool wide = flags & PCI_MSI_FLAGS_64BIT;
    uint64_t address = get_le32(cap + PCI_MSI_ADDRESS_LO) & ~3U;
    uint16_t data = get_le16(cap + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32));
    uint32_t mask = 0;
    unsigned enabled = 1U << ((flags & PCI_MSI_FLAGS_QSIZE) >> 4);

    if (wide)
        address |= (uint64_t)get_le32(cap + PCI_MSI_ADDRESS_HI) << 32;
    if (flags & PCI_MSI_FLAGS_MASKBIT)
        mask = get_le32(cap + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32));
    /* The function owns the low bits of the data, as many as the vectors take (6.8.1.6). */
    for (unsigned i = 0; i < msi->nr; i++) {
        struct hv_msi msg = {address, (data & ~(enabled - 1)) | i};
        if (i < enabled)
            vector_set(&msi->vector[i], msg, mask >> i & 1);
        else
            vector_set(&msi->vector[i], (struct hv_msi){0}, true);
    }
    set_enabled(msi, flags & PCI_MSI_FLAGS_ENABLE);
    update(msi, 0, msi->nr, true);
}

uint32_t msi_pending(const struct msi *msi)
{
    return (uint32_t)pending(msi, 0);
}

/* ---- MSI-X ---- */

void msix_control_write(struct msi *msi, uint16_t control)
{
    msi->function_mask = control & PCI_MSIX_FLAGS_MASKALL;
    set_enabled(msi, control & PCI_MSIX_FLAGS_ENABLE);
    update(msi, 0, msi->nr, true);
}

uint64_t msix_table_read(const struct msi *msi, uint32_t offset, unsigned size)
{
    if (size > 8 || !range_within(offset, size, table_size(msi)))
        return 0;
    return get_le(msi->table + offset, size);
}

void msix_table_write(struct msi *msi, uint32_t offset, unsigned size, uint64_t value)
{
    if (!size || size > 8 || !range_within(offset, size, table_size(msi)))
        return;
    put_le(msi->table + offset, size, value);

    unsigned first = offset / MSIX_ENTRY_SIZE;
    unsigned end = (offset + size - 1) / MSIX_ENTRY_SIZE + 1;
    for (unsigned i = first; i < end; i++) {
        uint8_t *entry = table_entry(msi, i);
        uint8_t *control = entry + PCI_MSIX_ENTRY_VECTOR_CTRL;
        put_le32(control, get_le32(control) & PCI_MSIX_ENTRY_CTRL_MASKBIT);
        struct hv_msi msg = {get_le64(entry + PCI_MSIX_ENTRY_LOWER_ADDR) & ~3ULL,
                             get_le32(entry + PCI_MSIX_ENTRY_DATA)};
        vector_set(&msi->vector[i], msg, get_le32(control));
    }
    update(msi, first, end, false);
}

uint64_t msix_pba_read(const struct msi *msi, uint32_t offset, unsigned size)
{
    if (size > 8 || !range_within(offset, size, align_up(msi->nr, 64) / 8))
        return 0;
    return pending(msi, offset * 8) & all_ones(size);
}

int msi_eventfd(struct msi *msi, unsigned vector)
{
    if (!msi->enabled || vector >= msi->nr)
        return -1;
    /* The first signal of a vector that is still masked is kept, too. */
    if (msi->vector[vector].fd < 0)
        vector_open(msi, vector);
    return msi->vector[vector].fd;
}

void msi_signal(struct msi *msi, unsigned vector)
{
    int fd = msi_eventfd(msi, vector);
    if (fd >= 0)
        eventfd_write(fd, 1); /* fails only with 2^64 - 2 of them pending */
}
