/*
 * fake_hv.c: see fake_hv.h. Refusals follow KVM's: overlapping slots -EEXIST, unaligned ones
 * -EINVAL, an eventfd attached twice -EBUSY, a full routing table -ENOSPC.
 */
#include "tests/unit/fake_hv.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "vmm/util.h"

static struct fake_hv *fake_of(struct hv *hv)
{
    return container_of(hv, struct fake_hv, hv);
}

/* Counts the call; the errno it has to fail with, or 0. */
static int called(struct fake_hv *fake, enum fake_hv_op op)
{
    fake->calls[op]++;
    if (fake->fail_in && fake->fail_op == op && --fake->fail_in == 0)
        return -fake->fail_errno;
    return 0;
}

static int misused(struct fake_hv *fake, int err)
{
    fake->misuse++;
    return err;
}

static int slot_add(struct hv *hv, uint64_t gpa, void *hva, uint64_t size)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_SLOT_ADD);
    uint64_t end;
    int found = -ENOSPC;

    if (err)
        return err;
    if (!size || (gpa | size | (uintptr_t)hva) % LAYOUT_PAGE_SIZE ||
        __builtin_add_overflow(gpa, size - 1, &end))
        return -EINVAL;
    for (int i = FAKE_HV_MAX - 1; i >= 0; i--) {
        const struct fake_slot *s = &fake->slot[i];
        if (!s->used)
            found = i;
        else if (gpa <= s->gpa + (s->size - 1) && s->gpa <= end)
            return -EEXIST;
    }
    if (found >= 0)
        fake->slot[found] = (struct fake_slot){true, gpa, size, hva};
    return found;
}

static int slot_remove(struct hv *hv, int slot)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_SLOT_REMOVE);

    if (err)
        return err;
    if (slot < 0 || slot >= FAKE_HV_MAX || !fake->slot[slot].used)
        return misused(fake, -ENOENT);
    fake->slot[slot].used = false;
    return 0;
}

static void set_level(struct fake_hv *fake, uint32_t gsi, bool level)
{
    if (level && !fake->level[gsi])
        fake->raised[gsi]++;
    fake->level[gsi] = level;
}

static int irq_line(struct hv *hv, uint32_t gsi, bool level)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_IRQ_LINE);

    if (err)
        return err;
    if (gsi >= LAYOUT_GSI_COUNT)
        return misused(fake, -EINVAL);
    set_level(fake, gsi, level);
    return 0;
}

static struct fake_route *route_of(struct fake_hv *fake, uint32_t gsi)
{
    if (gsi < LAYOUT_GSI_COUNT || gsi - LAYOUT_GSI_COUNT >= FAKE_HV_ROUTES)
        return NULL;
    struct fake_route *route = &fake->route[gsi - LAYOUT_GSI_COUNT];
    return route->used ? route : NULL;
}

static int route_add(struct hv *hv, const struct hv_msi *msi)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_ROUTE_ADD);

    if (err)
        return err;
    for (unsigned i = 0; i < fake->route_limit; i++) {
        if (!fake->route[i].used) {
            fake->route[i] = (struct fake_route){true, *msi};
            return (int)(LAYOUT_GSI_COUNT + i);
        }
    }
    return -ENOSPC;
}

static int route_update(struct hv *hv, uint32_t gsi, const struct hv_msi *msi)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_ROUTE_UPDATE);
    struct fake_route *route = route_of(fake, gsi);

    if (err)
        return err;
    if (!route)
        return misused(fake, -ENOENT);
    route->msi = *msi;
    return 0;
}

static int route_remove(struct hv *hv, uint32_t gsi)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_ROUTE_REMOVE);
    struct fake_route *route = route_of(fake, gsi);

    if (err)
        return err;
    if (!route)
        return misused(fake, -ENOENT);
    if (fake_hv_irqfd_on(fake, gsi))
        misused(fake, 0);
    route->used = false;
    return 0;
}

static bool consume(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uint64_t count;

    return poll(&p, 1, 0) == 1 && read(fd, &count, sizeof(count)) == sizeof(count);
}

/* What KVM does as soon as an attached eventfd is signalled. */
static void pump(struct fake_hv *fake, const struct fake_irqfd *irqfd)
{
    if (!consume(irqfd->fd))
        return;
    fake->delivered[irqfd->gsi]++;
    if (irqfd->resample_fd >= 0)
        set_level(fake, irqfd->gsi, true);
}

static int irqfd_add(struct hv *hv, int fd, uint32_t gsi, int resample_fd)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_IRQFD_ADD);
    struct fake_irqfd *found = NULL;

    if (err)
        return err;
    if (gsi >= LAYOUT_GSI_COUNT && !route_of(fake, gsi))
        return misused(fake, -EINVAL);
    for (unsigned i = 0; i < ARRAY_SIZE(fake->irqfd); i++) {
        if (!fake->irqfd[i].used)
            found = found ? found : &fake->irqfd[i];
        else if (fake->irqfd[i].fd == fd)
            return -EBUSY;
    }
    if (!found)
        return -ENOSPC;
    *found = (struct fake_irqfd){true, fd, resample_fd, gsi};
    pump(fake, found);
    return 0;
}

static int irqfd_remove(struct hv *hv, int fd, uint32_t gsi)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_IRQFD_REMOVE);

    if (err)
        return err;
    for (unsigned i = 0; i < ARRAY_SIZE(fake->irqfd); i++) {
        struct fake_irqfd *irqfd = &fake->irqfd[i];
        if (irqfd->used && irqfd->fd == fd && irqfd->gsi == gsi) {
            pump(fake, irqfd);
            irqfd->used = false;
            const struct fake_irqfd *other = fake_hv_irqfd_on(fake, gsi);
            if (irqfd->resample_fd >= 0 && !other)
                set_level(fake, gsi, false);
            return 0;
        }
    }
    return misused(fake, -ENOENT);
}

static int ioeventfd_add(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_IOEVENTFD_ADD);
    struct fake_ioeventfd *found = NULL;

    if (err)
        return err;
    for (unsigned i = 0; i < ARRAY_SIZE(fake->ioeventfd); i++) {
        struct fake_ioeventfd *e = &fake->ioeventfd[i];
        if (!e->used)
            found = found ? found : e;
        else if (e->addr == addr && e->pio == pio && (e->len == len || !e->len || !len))
            return -EEXIST;
    }
    if (!found)
        return -ENOSPC;
    *found = (struct fake_ioeventfd){true, fd, addr, len, pio};
    return 0;
}

static int ioeventfd_remove(struct hv *hv, int fd, uint64_t addr, unsigned len, bool pio)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_IOEVENTFD_REMOVE);

    if (err)
        return err;
    for (unsigned i = 0; i < ARRAY_SIZE(fake->ioeventfd); i++) {
        struct fake_ioeventfd *e = &fake->ioeventfd[i];
        if (e->used && e->fd == fd && e->addr == addr && e->len == len && e->pio == pio) {
            e->used = false;
            return 0;
        }
    }
    return misused(fake, -ENOENT);
}

/* The entry that holds FD (-1: a free one), or NULL. */
static int *vfio_file_find(struct fake_hv *fake, int fd)
{
    for (unsigned i = 0; i < ARRAY_SIZE(fake->vfio_file); i++)
        if (fake->vfio_file[i] == fd)
            return &fake->vfio_file[i];
    return NULL;
}

static int vfio_file_add(struct hv *hv, int fd)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_VFIO_FILE_ADD);

    if (err)
        return err;
    if (vfio_file_find(fake, fd))
        return -EEXIST;
    int *entry = vfio_file_find(fake, -1);
    if (!entry)
        return -ENOSPC;
    *entry = fd;
    return 0;
}

static int vfio_file_remove(struct hv *hv, int fd)
{
    struct fake_hv *fake = fake_of(hv);
    int err = called(fake, FAKE_VFIO_FILE_REMOVE);

    if (err)
        return err;
    int *entry = vfio_file_find(fake, fd);
    if (!entry)
        return misused(fake, -ENOENT);
    *entry = -1;
    return 0;
}

static const struct hv_ops fake_ops = {
    .slot_add = slot_add,
    .slot_remove = slot_remove,
    .irq_line = irq_line,
    .route_add = route_add,
    .route_update = route_update,
    .route_remove = route_remove,
    .irqfd_add = irqfd_add,
    .irqfd_remove = irqfd_remove,
    .ioeventfd_add = ioeventfd_add,
    .ioeventfd_remove = ioeventfd_remove,
    .vfio_file_add = vfio_file_add,
    .vfio_file_remove = vfio_file_remove,
};

void fake_hv_init(struct fake_hv *fake)
{
    memset(fake, 0, sizeof(*fake));
    fake->hv.ops = &fake_ops;
    fake->route_limit = FAKE_HV_ROUTES;
    memset(fake->vfio_file, 0xff, sizeof(fake->vfio_file));
}

void fake_hv_fail(struct fake_hv *fake, enum fake_hv_op op, unsigned nth, int err)
{
    fake->fail_op = op;
    fake->fail_in = nth;
    fake->fail_errno = err;
}

#define COUNT_USED(array)                                   \
    ({                                                      \
        unsigned count_ = 0;                                \
        for (unsigned i_ = 0; i_ < ARRAY_SIZE(array); i_++) \
            count_ += (array)[i_].used;                     \
        count_;                                             \
    })

unsigned fake_hv_live_slots(const struct fake_hv *fake)
{
    return COUNT_USED(fake->slot);
}

unsigned fake_hv_live_routes(const struct fake_hv *fake)
{
    return COUNT_USED(fake->route);
}

unsigned fake_hv_live_irqfds(const struct fake_hv *fake)
{
    return COUNT_USED(fake->irqfd);
}

unsigned fake_hv_live(const struct fake_hv *fake)
{
    unsigned files = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(fake->vfio_file); i++)
        files += fake->vfio_file[i] >= 0;
    return files + fake_hv_live_slots(fake) + fake_hv_live_routes(fake) +
           fake_hv_live_irqfds(fake) + COUNT_USED(fake->ioeventfd);
}

const struct fake_slot *fake_hv_slot_at(const struct fake_hv *fake, uint64_t gpa)
{
    for (unsigned i = 0; i < ARRAY_SIZE(fake->slot); i++) {
        const struct fake_slot *s = &fake->slot[i];
        if (s->used && gpa >= s->gpa && gpa - s->gpa < s->size)
            return s;
    }
    return NULL;
}

const struct fake_irqfd *fake_hv_irqfd_on(const struct fake_hv *fake, uint32_t gsi)
{
    for (unsigned i = 0; i < ARRAY_SIZE(fake->irqfd); i++)
        if (fake->irqfd[i].used && fake->irqfd[i].gsi == gsi)
            return &fake->irqfd[i];
    return NULL;
}

const struct hv_msi *fake_hv_route_of(const struct fake_hv *fake, uint32_t gsi)
{
    if (gsi < LAYOUT_GSI_COUNT || gsi - LAYOUT_GSI_COUNT >= FAKE_HV_ROUTES)
        return NULL;
    const struct fake_route *route = &fake->route[gsi - LAYOUT_GSI_COUNT];
    return route->used ? &route->msi : NULL;
}

bool fake_hv_deliver(struct fake_hv *fake, uint32_t gsi)
{
    if (gsi >= ARRAY_SIZE(fake->delivered))
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(fake->irqfd); i++)
        if (fake->irqfd[i].used && fake->irqfd[i].gsi == gsi)
            pump(fake, &fake->irqfd[i]);
    bool any = fake->delivered[gsi] > 0;
    fake->delivered[gsi] = 0;
    return any;
}

bool fake_hv_deliver_data(struct fake_hv *fake, uint32_t data)
{
    for (unsigned i = 0; i < ARRAY_SIZE(fake->route); i++)
        if (fake->route[i].used && fake->route[i].msi.data == data)
            return fake_hv_deliver(fake, LAYOUT_GSI_COUNT + i);
    return false;
}

void fake_hv_eoi(struct fake_hv *fake, uint32_t gsi)
{
    const uint64_t one = 1;

    if (gsi >= LAYOUT_GSI_COUNT)
        return;
    set_level(fake, gsi, false);
    for (unsigned i = 0; i < ARRAY_SIZE(fake->irqfd); i++) {
        const struct fake_irqfd *irqfd = &fake->irqfd[i];
        if (irqfd->used && irqfd->gsi == gsi && irqfd->resample_fd >= 0 &&
            write(irqfd->resample_fd, &one, sizeof(one)) != sizeof(one))
            misused(fake, 0);
    }
}
