/*
 * vfio_pci_irq.c: the interrupts of a passed-through function: INTx, MSI, MSI-X; and its error
 * and removal events.
 *
 * PCI Local Bus 3.0, 2.2.6 "Interrupt Pins" and 6.8 "Message Signaled Interrupts". Every
 * interrupt is an eventfd that the host's handler signals and that raises the guest's interrupt
 * by irqfd, with no step in this program. INTx is a line (vfio_line.h).
 *
 * The device is in one mode at a time, `active`; VFIO refuses a second (VFIO_DEVICE_SET_IRQS).
 * What the guest does with the MSI and MSI-X enable bits is carried out by that call alone, so
 * their capabilities are emulated and never written to the device.
 *
 * Everything here runs under vfio_pci.lock, which the traps take, or before and after the guest
 * runs; the events run in the main loop.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vfio/vfio_pci_priv.h"
#include "vmm/hv.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define TRIGGER_FD   (VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER)
#define TRIGGER_NONE (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER)

static int set_irqs(struct vfio_pci *pci, uint32_t index, uint32_t flags, unsigned start,
                    unsigned count, const int *fds)
{
    return pci->vdev->ops->irq_set(pci->vdev, index, flags, start, count, fds);
}

/* ---- INTx ---- */

static void intx_off(struct vfio_pci *pci)
{
    vfio_line_off(&pci->intx);
    pci->active = VFIO_PCI_IRQ_NONE;
}

/* INTx follows COMMAND, and gives way to MSI and MSI-X. */
static int intx_update(struct vfio_pci *pci)
{
    bool on = pci->active == VFIO_PCI_INTX_IRQ_INDEX;
    bool want = pci->pin && !pci->quiet && (on || pci->active == VFIO_PCI_IRQ_NONE) &&
                !(get_le16(pci->dev.config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
    if (on && !want)
        intx_off(pci);
    if (on || !want)
        return 0;
    int err = vfio_line_on(&pci->intx);
    if (!err)
        pci->active = VFIO_PCI_INTX_IRQ_INDEX;
    return err;
}

static void intx_follow(struct vfio_pci *pci)
{
    int err = intx_update(pci);
    if (err && log_limit(&pci->complaints))
        log_error(pci->dev.name, "cannot switch INTx on: %s", strerror(-err));
}

static int intx_init(struct vfio_pci *pci)
{
    uint8_t *pin = &pci->dev.config[PCI_INTERRUPT_PIN];
    uint32_t flags = 0;
    if (*pin > 4 || !vfio_line_count(pci->vdev, VFIO_PCI_INTX_IRQ_INDEX, &flags))
        *pin = 0;
    pci->pin = *pin;
    if (!pci->pin)
        return 0;
    pci->intx = (struct vfio_line){.dev = pci->vdev,
                                   .hv = pci->wiring.hv,
                                   .index = VFIO_PCI_INTX_IRQ_INDEX,
                                   .gsi = pci_intx_gsi(pci->wiring.devfn, pci->pin),
                                   .level = vfio_line_is_level(flags),
                                   .loop = pci->wiring.loop};
    int err = vfio_line_init(&pci->intx);
    if (!err)
        err = intx_update(pci);
    if (!err)
        return 0;
    if (!pci->msi.pos && !pci->msix.pos) {
        log_error(pci->dev.name, "cannot set up INTx, the device's only interrupt: %s; %s",
                  strerror(-err),
                  err == -EBUSY ? "free the devices of the host that share its line"
                                : "it needs irqfd with resampling (full in-kernel irqchip)");
        return err;
    }
    log_warn(pci->dev.name, "cannot set up INTx: %s; the guest has to use MSI", strerror(-err));
    *pin = pci->pin = 0;
    return 0;
}

/* ---- MSI and MSI-X: at the device ---- */

static const char *vectors_name(const struct vfio_pci_vectors *v)
{
    return v->index == VFIO_PCI_MSIX_IRQ_INDEX ? "MSI-X" : "MSI";
}

/* NR vectors from none. The host may have fewer than asked for, and says how many. */
static int vectors_arm(struct vfio_pci_vectors *v, unsigned nr)
{
    int n = set_irqs(v->pci, v->index, TRIGGER_FD, 0, nr, v->fd);
    v->armed = 0;
    if (n > 0 && (unsigned)n < nr) {
        if (log_limit(&v->pci->complaints))
            log_warn(v->pci->dev.name,
                     "the host has %d of the %u %s vectors that the guest uses; the others "
                     "stay silent",
                     n, nr, vectors_name(v));
        nr = (unsigned)n;
        n = set_irqs(v->pci, v->index, TRIGGER_FD, 0, nr, v->fd);
    }
    if (n)
        return n < 0 ? n : -ENOSPC;
    v->armed = nr;
    return 0;
}

/*
 * Where vectors cannot be added one by one (MSI; MSI-X before Linux 6.4) they are all taken
 * away and set up anew. A message that the device sends in between is lost, and a driver may
 * wait for it for ever, whereas a spurious interrupt is harmless: so each vector that was live
 * fires once. If the host does not have that many, the former ones come back.
 */
static int vectors_rearm(struct vfio_pci_vectors *v, unsigned nr)
{
    unsigned live = v->armed;
    if (live)
        set_irqs(v->pci, v->index, TRIGGER_NONE, 0, 0, NULL);
    int err = vectors_arm(v, MAX(nr, live));
    if (err && live)
        vectors_arm(v, live);
    for (unsigned i = 0; i < live; i++)
        if (v->fd[i] >= 0)
            eventfd_write(v->fd[i], 1);
    return err;
}

static int vectors_bind(void *opaque, unsigned start, unsigned count, const int *fds)
{
    struct vfio_pci_vectors *v = opaque;
    unsigned end = start + count;
    if (v->pci->active != v->index)
        return -EBUSY;
    if (!range_within(start, count, v->msi.nr))
        return -EINVAL;
    for (unsigned i = 0; i < count; i++)
        if (fds[i] >= 0) /* a trigger in place stays until all are gone */
            v->fd[start + i] = fds[i];
    if (!v->armed || (end > v->armed && !v->dynamic))
        return vectors_rearm(v, end);
    int n = set_irqs(v->pci, v->index, TRIGGER_FD, start, count, v->fd + start);
    if (n)
        return n < 0 ? n : -ENOSPC;
    v->armed = MAX(v->armed, end);
    return 0;
}

/*
 * Drivers enable MSI-X long before they use a vector, and firmware of some devices watches for
 * it: so the device is switched at once, by a vector 0 that has no trigger. For MSI the first
 * call decides how many messages there are, so it has to wait for the first bind.
 */
static int vectors_enable(void *opaque)
{
    struct vfio_pci_vectors *v = opaque;
    struct vfio_pci *pci = v->pci;
    int err = 0;
    if (pci->active == VFIO_PCI_INTX_IRQ_INDEX)
        intx_off(pci);
    if (pci->active != VFIO_PCI_IRQ_NONE)
        return -EBUSY;
    pci->active = v->index;
    if (v->index == VFIO_PCI_MSIX_IRQ_INDEX)
        err = vectors_arm(v, 1);
    if (err) {
        pci->active = VFIO_PCI_IRQ_NONE;
        intx_follow(pci);
    }
    return err;
}

static void vectors_disable(void *opaque)
{
    struct vfio_pci_vectors *v = opaque;
    struct vfio_pci *pci = v->pci;
    if (pci->active != v->index)
        return;
    if (v->armed)
        set_irqs(pci, v->index, TRIGGER_NONE, 0, 0, NULL);
    v->armed = 0;
    memset(v->fd, 0xff, v->msi.nr * sizeof(*v->fd)); /* -1 */
    pci->active = VFIO_PCI_IRQ_NONE;
    intx_follow(pci);
}

static const struct msi_ops vectors_ops = {
    .bind = vectors_bind,
    .enable = vectors_enable,
    .disable = vectors_disable,
};

/* ---- MSI and MSI-X: at the guest ---- */

static bool vectors_init(struct vfio_pci *pci, struct vfio_pci_vectors *v, uint32_t index,
                         unsigned nr)
{
    bool msix = index == VFIO_PCI_MSIX_IRQ_INDEX;
    v->pci = pci;
    v->index = index;
    v->fd = malloc(nr * sizeof(*v->fd));
    int err = !v->fd
                  ? -ENOMEM
                  : msi_init(&v->msi, pci->wiring.hv, pci->dev.name, nr, msix, &vectors_ops, v);
    if (!err) {
        memset(v->fd, 0xff, nr * sizeof(*v->fd));
        return true;
    }
    log_warn(pci->dev.name, "cannot offer %s: %s; the guest has to do without", vectors_name(v),
             strerror(-err));
    free(v->fd);
    v->fd = NULL;
    return false;
}

static void vectors_fini(struct vfio_pci_vectors *v)
{
    msi_fini(&v->msi);
    free(v->fd);
}

static unsigned msi_cap_len(uint16_t flags)
{
    bool wide = flags & PCI_MSI_FLAGS_64BIT;
    if (flags & PCI_MSI_FLAGS_MASKBIT)
        return (wide ? PCI_MSI_PENDING_64 : PCI_MSI_PENDING_32) + 4;
    return (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32) + 2;
}

static void msi_set_wmask(struct vfio_pci *pci, unsigned pos, uint16_t flags, unsigned nr)
{
    uint8_t *wmask = pci->dev.wmask + pos;
    bool wide = flags & PCI_MSI_FLAGS_64BIT;
    put_le16(wmask + PCI_MSI_FLAGS, PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE);
    put_le32(wmask + PCI_MSI_ADDRESS_LO, ~3U);
    if (wide)
        put_le32(wmask + PCI_MSI_ADDRESS_HI, ~0U);
    put_le16(wmask + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32), 0xffff);
    if (flags & PCI_MSI_FLAGS_MASKBIT)
        put_le32(wmask + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32),
                 (uint32_t)((1ULL << nr) - 1));
}

bool vfio_pci_msi_init(struct vfio_pci *pci, unsigned pos)
{
    uint8_t *cap = pci->dev.config + pos;
    uint32_t info = 0;
    unsigned count = vfio_line_count(pci->vdev, VFIO_PCI_MSI_IRQ_INDEX, &info);
    uint16_t flags = get_le16(cap + PCI_MSI_FLAGS) &
                     (PCI_MSI_FLAGS_QMASK | PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT);
    unsigned order = (flags & PCI_MSI_FLAGS_QMASK) >> 1U;
    unsigned len = msi_cap_len(flags);

    order = MIN(order, 5U); /* 6 and 7 are reserved */
    while (order && 1U << order > count)
        order--;
    if (!count || pci->msi.pos || pos + len > PCI_CFG_SPACE_SIZE ||
        !vectors_init(pci, &pci->msi, VFIO_PCI_MSI_IRQ_INDEX, 1U << order))
        return false;
    memset(cap + PCI_MSI_FLAGS, 0, len - PCI_MSI_FLAGS);
    flags = (uint16_t)((flags & ~PCI_MSI_FLAGS_QMASK) | order << 1);
    put_le16(cap + PCI_MSI_FLAGS, flags);
    vfio_pci_emulate(pci, pos + PCI_MSI_FLAGS, len - PCI_MSI_FLAGS);
    msi_set_wmask(pci, pos, flags, 1U << order);
    pci->msi.pos = pos;
    pci->msi.len = len;
    return true;
}

static uint64_t table_read(struct vfio_pci *pci, const struct vfio_pci_trap *trap,
                           uint32_t offset, unsigned size)
{
    (void)trap;
    pthread_mutex_lock(&pci->lock);
    uint64_t value = msix_table_read(&pci->msix.msi, offset, size);
    pthread_mutex_unlock(&pci->lock);
    return value;
}

static void table_write(struct vfio_pci *pci, const struct vfio_pci_trap *trap, uint32_t offset,
                        unsigned size, uint64_t value)
{
    (void)trap;
    pthread_mutex_lock(&pci->lock);
    msix_table_write(&pci->msix.msi, offset, size, value);
    pthread_mutex_unlock(&pci->lock);
}

static uint64_t pba_read(struct vfio_pci *pci, const struct vfio_pci_trap *trap,
                         uint32_t offset, unsigned size)
{
    (void)trap;
    pthread_mutex_lock(&pci->lock);
    uint64_t value = msix_pba_read(&pci->msix.msi, offset, size);
    pthread_mutex_unlock(&pci->lock);
    return value;
}

/* Where the capability says that the table or the PBA is. False: there is no such place. */
static bool msix_place(const struct vfio_pci *pci, uint32_t reg, uint64_t size,
                       struct vfio_pci_trap *trap)
{
    trap->bar = reg & PCI_MSIX_TABLE_BIR;
    trap->start = reg & PCI_MSIX_TABLE_OFFSET;
    trap->size = size;
    return trap->bar < PCI_BAR_ROM && pci->dev.bar[trap->bar].size &&
           !(pci->dev.bar[trap->bar].flags & PCI_BASE_ADDRESS_SPACE_IO) &&
           range_within(trap->start, size, pci->bar[trap->bar].view.region.size);
}

bool vfio_pci_msix_init(struct vfio_pci *pci, unsigned pos)
{
    struct vfio_pci_trap table = {
        .label = "MSI-X table", .read = table_read, .write = table_write};
    /* A write of pending bits has no effect (PCI 3.0, 6.8.2.10). */
    struct vfio_pci_trap pba = {.label = "MSI-X PBA", .read = pba_read};
    uint8_t *cap = pci->dev.config + pos;
    uint32_t info = 0;
    unsigned count = vfio_line_count(pci->vdev, VFIO_PCI_MSIX_IRQ_INDEX, &info);

    if (!count || pci->msix.pos || pos + PCI_CAP_MSIX_SIZEOF > PCI_CFG_SPACE_SIZE)
        return false;
    unsigned nr = (get_le16(cap + PCI_MSIX_FLAGS) & PCI_MSIX_FLAGS_QSIZE) + 1;
    if (!msix_place(pci, get_le32(cap + PCI_MSIX_TABLE), nr * MSIX_ENTRY_SIZE, &table) ||
        !msix_place(pci, get_le32(cap + PCI_MSIX_PBA), align_up(nr, 64) / 8, &pba)) {
        log_warn(pci->dev.name, "cannot offer MSI-X: its table or its pending bits lie outside "
                                "of the device's BARs; the guest has to do without");
        return false;
    }
    nr = MIN(nr, count);
    if (!vectors_init(pci, &pci->msix, VFIO_PCI_MSIX_IRQ_INDEX, nr))
        return false;
    put_le16(cap + PCI_MSIX_FLAGS, (uint16_t)(nr - 1));
    vfio_pci_emulate(pci, pos + PCI_MSIX_FLAGS, PCI_CAP_MSIX_SIZEOF - PCI_MSIX_FLAGS);
    put_le16(pci->dev.wmask + pos + PCI_MSIX_FLAGS,
             PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    pci->trap[pci->traps++] = table;
    pci->trap[pci->traps++] = pba;
    pci->msix.pos = pos;
    pci->msix.dynamic = !(info & VFIO_IRQ_INFO_NORESIZE);
    return true;
}

/* The control word is the second one of both capabilities. */
static void pass_control(struct vfio_pci *pci, unsigned pos)
{
    _Static_assert(PCI_MSI_FLAGS == PCI_MSIX_FLAGS, "MSI and MSI-X control");
    if (pci->vdev->wants_msi_control)
        vfio_pci_hw_write(pci, pos + PCI_MSI_FLAGS, 2,
                          get_le16(pci->dev.config + pos + PCI_MSI_FLAGS));
}

void vfio_pci_irq_config_written(struct vfio_pci *pci, unsigned offset, unsigned size)
{
    const uint8_t *config = pci->dev.config;
    const struct vfio_pci_vectors *msi = &pci->msi, *msix = &pci->msix;
    pthread_mutex_lock(&pci->lock);
    if (msi->pos && ranges_overlap(offset, size, msi->pos, msi->len)) {
        msi_config_changed(&pci->msi.msi, config + msi->pos);
        pass_control(pci, msi->pos);
    }
    if (msix->pos && ranges_overlap(offset, size, msix->pos + PCI_MSIX_FLAGS, 2)) {
        msix_control_write(&pci->msix.msi, get_le16(config + msix->pos + PCI_MSIX_FLAGS));
        pass_control(pci, msix->pos);
    }
    if (ranges_overlap(offset, size, PCI_COMMAND, 2))
        intx_follow(pci);
    pthread_mutex_unlock(&pci->lock);
}

void vfio_pci_irq_config_read(struct vfio_pci *pci, unsigned offset, unsigned size)
{
    const struct vfio_pci_vectors *msi = &pci->msi;
    uint8_t *pending = pci->dev.config + msi->pos + msi->len - 4; /* the last register */
    if (!msi->pos ||
        !(pci->initial[msi->pos + PCI_MSI_FLAGS + 1] & PCI_MSI_FLAGS_MASKBIT >> 8) ||
        !ranges_overlap(offset, size, msi->pos + msi->len - 4, 4))
        return;
    pthread_mutex_lock(&pci->lock);
    put_le32(pending, msi_pending(&pci->msi.msi));
    pthread_mutex_unlock(&pci->lock);
}

/* ---- error and removal events ---- */

static void event_fired(void *opaque, uint32_t events)
{
    struct vfio_pci_event *event = opaque;
    struct vfio_pci *pci = event->pci;
    bool failed = event->index == VFIO_PCI_ERR_IRQ_INDEX;
    (void)events;
    loop_remove(pci->wiring.loop, event->fd); /* once is enough */
    if (failed)
        log_error(pci->dev.name,
                  "cannot go on: the device reported an uncorrectable error; see "
                  "the host's kernel log");
    else
        log_note(pci->dev.name, "the host asks for the device back");
    pci->wiring.gone(pci->wiring.opaque, pci->vdev->name, failed);
}

static void event_fini(struct vfio_pci *pci, struct vfio_pci_event *event)
{
    if (event->fd < 0)
        return;
    set_irqs(pci, event->index, TRIGGER_NONE, 0, 0, NULL);
    loop_remove(pci->wiring.loop, event->fd);
    close(event->fd);
    event->fd = -1;
}

/* Not having one is no reason to refuse the device: the kernel has ERR for PCIe only. */
static void event_init(struct vfio_pci *pci, struct vfio_pci_event *event, uint32_t index)
{
    uint32_t flags = 0;
    event->pci = pci;
    event->index = index;
    if (!vfio_line_count(pci->vdev, index, &flags))
        return;
    event->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = event->fd < 0 ? -errno : set_irqs(pci, index, TRIGGER_FD, 0, 1, &event->fd);
    if (!err)
        err = loop_add(pci->wiring.loop, event->fd, EPOLLIN, event_fired, event);
    if (!err)
        return;
    event_fini(pci, event);
    log_warn(pci->dev.name, "cannot watch for %s: %s",
             index == VFIO_PCI_ERR_IRQ_INDEX ? "device errors" : "removal requests",
             strerror(-err));
}

/* ---- all of them ---- */

int vfio_pci_irq_init(struct vfio_pci *pci)
{
    int err = intx_init(pci);
    if (err)
        return err;
    event_init(pci, &pci->err, VFIO_PCI_ERR_IRQ_INDEX);
    event_init(pci, &pci->req, VFIO_PCI_REQ_IRQ_INDEX);
    return 0;
}

void vfio_pci_irq_quiesce(struct vfio_pci *pci)
{
    pthread_mutex_lock(&pci->lock);
    pci->quiet = true;
    if (pci->msi.pos)
        msi_reset(&pci->msi.msi);
    if (pci->msix.pos)
        msi_reset(&pci->msix.msi);
    intx_follow(pci);
    pthread_mutex_unlock(&pci->lock);
}

int vfio_pci_irq_resume(struct vfio_pci *pci)
{
    pthread_mutex_lock(&pci->lock);
    pci->quiet = false;
    int err = intx_update(pci);
    pthread_mutex_unlock(&pci->lock);
    if (err)
        log_error(pci->dev.name, "cannot switch INTx on: %s", strerror(-err));
    return err;
}

void vfio_pci_irq_fini(struct vfio_pci *pci)
{
    event_fini(pci, &pci->err);
    event_fini(pci, &pci->req);
    vfio_pci_irq_quiesce(pci);
    vectors_fini(&pci->msi);
    vectors_fini(&pci->msix);
    vfio_line_fini(&pci->intx);
}

void vfio_pci_irq_describe(const struct vfio_pci *pci)
{
    const struct vfio_pci_vectors *both[] = {&pci->msi, &pci->msix};
    char text[96] = "none";
    size_t len = 0;
    if (pci->pin)
        len += (size_t)snprintf(text, sizeof(text), "INTx gsi %u", pci->intx.gsi);
    for (unsigned i = 0; i < ARRAY_SIZE(both); i++)
        if (both[i]->pos)
            len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%s %u", len ? ", " : "",
                                    vectors_name(both[i]), both[i]->msi.nr);
    log_note(pci->dev.name, "interrupts: %s", text);
}
