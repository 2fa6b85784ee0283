/*
 * virtio_pci.c: see virtio_pci.h.
 *
 * Virtual I/O Device (VIRTIO) 1.2, 4.1 "Virtio Over PCI Bus": 4.1.4 "Virtio Structure PCI
 * Capabilities" (4.1.4.3 common configuration, 4.1.4.4 notification, 4.1.4.5 ISR status,
 * 4.1.4.6 device configuration, 4.1.4.9 access by configuration space), 4.1.5.3 and 4.1.5.4 for
 * interrupts. One BAR has it all, and MSI-X:
 *
 *   0x0000  common configuration      0x1000  notification
 *   0x0400  ISR status                0x2000  MSI-X table
 *   0x0800  device configuration      0x3000  MSI-X pending bits
 *
 * A notification is an ioeventfd that the loop waits for, with one address for all queues:
 * which it was for does not matter, since looking into an empty one costs little. A queue that
 * is served outside (virtio.h) has an address and an eventfd of its own behind that; what
 * signals its interrupts is the eventfd of its MSI-X vector, or where there is none, one in the
 * loop. Left out: the legacy interface, queue reset, notification data.
 *
 * The registers and MSI-X are under the device's lock (virtio.h), taken with the bus's lock
 * held or without, never the other way round; configuration space is under the bus's.
 */
#include "devices/virtio/virtio_pci.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/msi.h"
#include "devices/pci.h"
#include "devices/virtio/virtio.h"
#include "vmm/bus.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define VENDOR       0x1af4
#define DEVICE_BASE  0x1040 /* and the device's ID: 4.1.2 */
#define SUBSYS_BASE  0x0040
#define REVISION     1 /* of class_rev: no transitional device */
#define BAR_SIZE     0x4000
#define VECTORS      (VIRTIO_QUEUES_MAX + 1)
#define MSIX_CAP_LEN 12 /* 6.8.2: no UAPI name */

enum { COMMON = 0, ISR = 0x400, DEVICE = 0x800, NOTIFY = 0x1000, TABLE = 0x2000, PBA = 0x3000 };
enum { NOTIFY_SIZE = 2, NOTIFY_STEP = 4 }; /* of the driver's write; of the addresses */
enum { ISR_QUEUE = 1 };

_Static_assert(sizeof(struct virtio_pci_common_cfg) == VIRTIO_PCI_COMMON_Q_USEDHI + 4,
               "common configuration");

struct virtio_pci {
    struct pci_dev pci;
    struct virtio *dev;
    struct virtio_pci_config wiring;
    struct msi msi;
    /* Doorbells: 0 is the loop's, for all queues served here, N + 1 that of queue N. */
    int kick_fd[1 + VIRTIO_QUEUES_MAX];
    bool direct[1 + VIRTIO_QUEUES_MAX]; /* its ioeventfd is there */
    int call_fd;                        /* for interrupts by pin from outside */
    bool on_bus;
    uint8_t msix_pos, window_pos;

    /* under dev->lock */
    uint32_t device_select, driver_select;
    uint16_t queue_select;
    uint16_t vector[VECTORS]; /* of a queue; the last: of the configuration */
    uint8_t isr;
    bool intx_off; /* COMMAND */
    bool high;     /* what is said on the pin */
};

/* ---- interrupts ---- */

void virtio_intx_init(struct virtio_intx *intx, struct hv *hv)
{
    *intx = (struct virtio_intx){.lock = PTHREAD_MUTEX_INITIALIZER};
    for (uint32_t i = 0; i < LAYOUT_GSI_PCI_COUNT; i++)
        intx->input[i].line = (struct irq_line){.hv = hv, .gsi = LAYOUT_GSI_PCI + i};
}

static void intx_update(struct virtio_pci *vp)
{
    bool high = vp->isr && !vp->intx_off && !vp->msi.enabled;
    uint32_t gsi = pci_intx_gsi(vp->wiring.devfn, 1);
    struct virtio_intx *intx = vp->wiring.intx;
    if (high == vp->high)
        return;
    vp->high = high;
    pthread_mutex_lock(&intx->lock);
    unsigned *devices = &intx->input[gsi - LAYOUT_GSI_PCI].high;
    *devices = high ? *devices + 1 : *devices - 1;
    irq_line_set(&intx->input[gsi - LAYOUT_GSI_PCI].line, *devices);
    pthread_mutex_unlock(&intx->lock);
}

static void interrupt(void *transport, int queue)
{
    struct virtio_pci *vp = transport;
    unsigned i = queue == VIRTIO_CONFIG ? VECTORS - 1 : (unsigned)queue;
    if (vp->msi.enabled) {
        msi_signal(&vp->msi, vp->vector[i]); /* VIRTIO_MSI_NO_VECTOR is none */
        return;
    }
    vp->isr |= queue == VIRTIO_CONFIG ? VIRTIO_PCI_ISR_CONFIG : ISR_QUEUE;
    intx_update(vp);
}

static void kick_again(void *transport)
{
    const struct virtio_pci *vp = transport;
    eventfd_write(vp->kick_fd[0], 1);
}

static int kick_fd(void *transport, unsigned queue)
{
    const struct virtio_pci *vp = transport;
    return vp->kick_fd[1 + queue];
}

static int call_fd(void *transport, unsigned queue)
{
    struct virtio_pci *vp = transport;
    int fd = msi_eventfd(&vp->msi, vp->vector[queue]);
    return fd >= 0 ? fd : vp->call_fd;
}

static const struct virtio_transport_ops transport_ops = {
    .interrupt = interrupt,
    .kick_again = kick_again,
    .kick_fd = kick_fd,
    .call_fd = call_fd,
};

/* Someone outside signalled the eventfd that stands in for a vector. The queue is not known,
 * nor whether the driver has chosen a vector since; an interrupt too many does no harm. */
static void called(void *opaque, uint32_t events)
{
    struct virtio_pci *vp = opaque;
    (void)events;
    pthread_mutex_lock(&vp->dev->lock);
    for (unsigned i = 0; i < vp->dev->outside && virtio_is_live(vp->dev); i++)
        interrupt(vp, (int)i);
    pthread_mutex_unlock(&vp->dev->lock);
}

static void kicked(void *opaque, uint32_t events)
{
    struct virtio_pci *vp = opaque;
    (void)events;
    pthread_mutex_lock(&vp->dev->lock);
    virtio_kick(vp->dev);
    pthread_mutex_unlock(&vp->dev->lock);
}

/* ---- the common configuration; with the lock ---- */

static struct virtq *selected(struct virtio_pci *vp)
{
    return vp->queue_select < vp->dev->queues ? &vp->dev->queue[vp->queue_select] : NULL;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select > 1 ? 0 : (uint32_t)(features >> 32 * select);
}

static unsigned doorbells(const struct virtio_pci *vp)
{
    return 1 + vp->dev->outside;
}

/* A picture of the registers; the queue's are 0 where there is none (4.1.4.3.1). */
static uint64_t common_read(struct virtio_pci *vp, uint64_t offset, unsigned size)
{
    const struct virtio *dev = vp->dev;
    const struct virtq *vq = selected(vp);
    struct virtio_pci_common_cfg cfg = {
        .device_feature_select = vp->device_select,
        .device_feature = feature_word(dev->features, vp->device_select),
        .guest_feature_select = vp->driver_select,
        .guest_feature = feature_word(dev->accepted, vp->driver_select),
        .msix_config = vp->vector[VECTORS - 1],
        .num_queues = (uint16_t)dev->queues,
        .device_status = dev->status,
        .config_generation = dev->generation,
        .queue_select = vp->queue_select,
    };
    if (vq) {
        cfg.queue_size = vq->size;
        cfg.queue_msix_vector = vp->vector[vp->queue_select];
        cfg.queue_enable = vq->enabled;
        if (vp->queue_select < dev->outside)
            cfg.queue_notify_off = vp->queue_select + 1;
        memcpy((uint8_t *)&cfg + VIRTIO_PCI_COMMON_Q_DESCLO, vq->addr, sizeof(vq->addr));
    }
    return get_le((const uint8_t *)&cfg + offset, size);
}

static void reset_registers(struct virtio_pci *vp)
{
    vp->device_select = vp->driver_select = vp->queue_select = 0;
    for (unsigned i = 0; i < VECTORS; i++)
        vp->vector[i] = VIRTIO_MSI_NO_VECTOR;
    vp->isr = 0;
    intx_update(vp);
}

static uint16_t vector_or_none(const struct virtio_pci *vp, uint32_t value)
{
    return value < vp->msi.nr ? (uint16_t)value : VIRTIO_MSI_NO_VECTOR;
}

/* The registers of a queue that is not enabled yet; the vector may change at any time. */
static void queue_write(struct virtio_pci *vp, uint64_t offset, uint32_t value)
{
    struct virtq *vq = selected(vp);
    if (!vq)
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
        vp->vector[vp->queue_select] = vector_or_none(vp, value);
        virtio_update(vp->dev);
    }
    if (vq->enabled)
        return;
    if (offset == VIRTIO_PCI_COMMON_Q_SIZE && is_pow2(value) && value <= VIRTQ_SIZE_MAX)
        vq->size = (uint16_t)value;
    else if (offset == VIRTIO_PCI_COMMON_Q_ENABLE && value == 1)
        virtio_enable_queue(vp->dev, vp->queue_select);
    else if (offset >= VIRTIO_PCI_COMMON_Q_DESCLO)
        put_le32((uint8_t *)vq->addr + (offset - VIRTIO_PCI_COMMON_Q_DESCLO), value);
}

static unsigned common_width(uint64_t offset)
{
    if (offset == VIRTIO_PCI_COMMON_STATUS)
        return 1;
    return offset >= VIRTIO_PCI_COMMON_MSIX && offset < VIRTIO_PCI_COMMON_Q_DESCLO ? 2 : 4;
}

/* 4.1.3.1: the driver uses each register's own width; what does not, does nothing. */
static void common_write(struct virtio_pci *vp, uint64_t offset, unsigned size, uint32_t value)
{
    if (size != common_width(offset) || offset % size)
        return;
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        vp->device_select = value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        vp->driver_select = value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        virtio_set_accepted(vp->dev, vp->driver_select, value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        vp->vector[VECTORS - 1] = vector_or_none(vp, value);
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        virtio_set_status(vp->dev, (uint8_t)value);
        if (!value)
            reset_registers(vp);
        kick_again(vp); /* what was made available before DRIVER_OK */
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        vp->queue_select = (uint16_t)value;
        break;
    default:
        queue_write(vp, offset, value);
        break;
    }
}

/* ---- the BAR ---- */

static uint64_t isr_read(struct virtio_pci *vp)
{
    uint8_t isr = vp->isr; /* 4.1.4.5: reading acknowledges */
    vp->isr = 0;
    intx_update(vp);
    return isr;
}

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_pci *vp = opaque;
    struct virtio *dev = vp->dev;
    uint64_t value = 0;
    pthread_mutex_lock(&dev->lock);
    if (range_within(offset, size, sizeof(struct virtio_pci_common_cfg)))
        value = common_read(vp, offset, size);
    else if (offset == ISR)
        value = isr_read(vp);
    else if (offset >= DEVICE && range_within(offset - DEVICE, size, dev->config_size))
        value = get_le((const uint8_t *)dev->config + (offset - DEVICE), size);
    else if (offset >= TABLE && offset < PBA)
        value = msix_table_read(&vp->msi, (uint32_t)offset - TABLE, size);
    else if (offset >= PBA)
        value = msix_pba_read(&vp->msi, (uint32_t)offset - PBA, size);
    pthread_mutex_unlock(&dev->lock);
    return value;
}

static void bar_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_pci *vp = opaque;
    pthread_mutex_lock(&vp->dev->lock);
    if (range_within(offset, size, sizeof(struct virtio_pci_common_cfg))) {
        common_write(vp, offset, MIN(size, 4U), (uint32_t)value);
        if (size == 8) /* an address in one piece */
            common_write(vp, offset + 4, 4, (uint32_t)(value >> 32));
    } else if (offset >= NOTIFY && offset < NOTIFY + doorbells(vp) * NOTIFY_STEP) {
        /* as a rule the ioeventfd's */
        eventfd_write(vp->kick_fd[(offset - NOTIFY) / NOTIFY_STEP], 1);
    } else if (offset >= TABLE && offset < PBA) {
        msix_table_write(&vp->msi, (uint32_t)offset - TABLE, size, value);
    }
    pthread_mutex_unlock(&vp->dev->lock);
}

static const struct bus_ops bar_ops = {.read = bar_read, .write = bar_write};

static int bar_map(struct pci_dev *pci, unsigned bar, uint64_t addr)
{
    struct virtio_pci *vp = container_of(pci, struct virtio_pci, pci);
    const struct bus_range range = {addr, BAR_SIZE, &bar_ops, vp, vp->dev->name};
    struct hv *hv = vp->wiring.hv;
    (void)bar;
    int err = bus_add(pci->bus->mmio, &range);
    if (err)
        return err;
    /* Without them the writes come here by an exit. */
    for (unsigned i = 0; i < doorbells(vp); i++)
        vp->direct[i] = !hv->ops->ioeventfd_add(
            hv, vp->kick_fd[i], addr + NOTIFY + i * NOTIFY_STEP, NOTIFY_SIZE, false);
    return 0;
}

static void bar_unmap(struct pci_dev *pci, unsigned bar)
{
    struct virtio_pci *vp = container_of(pci, struct virtio_pci, pci);
    struct hv *hv = vp->wiring.hv;
    uint64_t addr = pci->bar[bar].addr;
    for (unsigned i = 0; i < doorbells(vp); i++) {
        if (vp->direct[i])
            hv->ops->ioeventfd_remove(hv, vp->kick_fd[i], addr + NOTIFY + i * NOTIFY_STEP,
                                      NOTIFY_SIZE, false);
        vp->direct[i] = false;
    }
    bus_remove(pci->bus->mmio, addr);
}

/* ---- configuration space; with the bus's lock ---- */

/* 4.1.4.9: the BAR through configuration space. Whether what the driver set makes sense. */
static bool window_is_sane(const struct virtio_pci *vp, uint32_t *offset, uint32_t *len)
{
    const uint8_t *cap = vp->pci.config + vp->window_pos;
    *offset = get_le32(cap + VIRTIO_PCI_CAP_OFFSET);
    *len = get_le32(cap + VIRTIO_PCI_CAP_LENGTH);
    return !cap[VIRTIO_PCI_CAP_BAR] && is_pow2(*len) && *len <= 4 && !(*offset % *len) &&
           range_within(*offset, *len, BAR_SIZE);
}

static uint32_t config_read(struct pci_dev *pci, unsigned offset, unsigned size)
{
    struct virtio_pci *vp = container_of(pci, struct virtio_pci, pci);
    unsigned data = vp->window_pos + sizeof(struct virtio_pci_cap);
    uint32_t at, len;
    if (ranges_overlap(offset, size, data, 4) && window_is_sane(vp, &at, &len))
        put_le(pci->config + data, len, bar_read(vp, at, len));
    pthread_mutex_lock(&vp->dev->lock);
    /* PCI 3.0, 6.2.3: asserted or not, disabled or not. */
    uint8_t pending = vp->isr && !vp->msi.enabled ? PCI_STATUS_INTERRUPT : 0;
    pthread_mutex_unlock(&vp->dev->lock);
    pci->config[PCI_STATUS] =
        (uint8_t)((pci->config[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) | pending);
    return pci_config_read(pci, offset, size);
}

/* COMMAND and MSI-X's Message Control as they are now. */
static void follow_config(struct virtio_pci *vp)
{
    uint16_t command = get_le16(vp->pci.config + PCI_COMMAND);
    uint16_t control = get_le16(vp->pci.config + vp->msix_pos + PCI_MSIX_FLAGS);
    pthread_mutex_lock(&vp->dev->lock);
    vp->dev->dma = command & PCI_COMMAND_MASTER;
    vp->intx_off = command & PCI_COMMAND_INTX_DISABLE;
    msix_control_write(&vp->msi, control);
    intx_update(vp);
    virtio_update(vp->dev);
    kick_again(vp); /* what was made available while there was no DMA */
    pthread_mutex_unlock(&vp->dev->lock);
}

static void config_write(struct pci_dev *pci, unsigned offset, unsigned size, uint32_t value)
{
    struct virtio_pci *vp = container_of(pci, struct virtio_pci, pci);
    unsigned data = vp->window_pos + sizeof(struct virtio_pci_cap);
    uint32_t at, len;
    pci_config_write(pci, offset, size, value);
    if (ranges_overlap(offset, size, PCI_COMMAND, 2) ||
        ranges_overlap(offset, size, vp->msix_pos + PCI_MSIX_FLAGS, 2))
        follow_config(vp);
    if (ranges_overlap(offset, size, data, 4) && window_is_sane(vp, &at, &len))
        bar_write(vp, at, len, get_le(pci->config + data, len));
}

static const struct pci_dev_ops pci_ops = {
    .config_read = config_read,
    .config_write = config_write,
    .bar_map = bar_map,
    .bar_unmap = bar_unmap,
};

/* One of the five structures; EXTRA bytes follow the common part. */
static int add_structure(struct virtio_pci *vp, uint8_t type, uint32_t offset, size_t size,
                         uint8_t extra)
{
    uint8_t len = (uint8_t)(sizeof(struct virtio_pci_cap) + extra);
    int pos = pci_dev_add_cap(&vp->pci, PCI_CAP_ID_VNDR, len);
    if (pos < 0)
        return pos;
    uint8_t *cap = vp->pci.config + pos;
    cap[VIRTIO_PCI_CAP_LEN] = len;
    cap[VIRTIO_PCI_CAP_CFG_TYPE] = type;
    put_le32(cap + VIRTIO_PCI_CAP_OFFSET, offset);
    put_le32(cap + VIRTIO_PCI_CAP_LENGTH, (uint32_t)size);
    return pos;
}

/* The structures that a driver needs come first in the list, so last here. */
static int add_capabilities(struct virtio_pci *vp)
{
    const struct {
        uint8_t type;
        uint32_t offset;
        size_t size;
        uint8_t extra; /* bytes: notify_off_multiplier, the data of the window */
    } structure[] = {
        {VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE, vp->dev->config_size, 0},
        {VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY, doorbells(vp) * NOTIFY_STEP, 4},
        {VIRTIO_PCI_CAP_ISR_CFG, ISR, 1, 0},
        {VIRTIO_PCI_CAP_COMMON_CFG, COMMON, sizeof(struct virtio_pci_common_cfg), 0},
    };
    int pos = pci_dev_add_cap(&vp->pci, PCI_CAP_ID_MSIX, MSIX_CAP_LEN);
    if (pos < 0)
        return pos;
    vp->msix_pos = (uint8_t)pos;
    put_le16(vp->pci.config + pos + PCI_MSIX_FLAGS, (uint16_t)(vp->msi.nr - 1));
    put_le16(vp->pci.wmask + pos + PCI_MSIX_FLAGS,
             PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
    put_le32(vp->pci.config + pos + PCI_MSIX_TABLE, TABLE);
    put_le32(vp->pci.config + pos + PCI_MSIX_PBA, PBA);

    pos = add_structure(vp, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);
    if (pos < 0)
        return pos;
    vp->window_pos = (uint8_t)pos;
    vp->pci.wmask[pos + VIRTIO_PCI_CAP_BAR] = 0xff;
    memset(vp->pci.wmask + pos + VIRTIO_PCI_CAP_OFFSET, 0xff, 12); /* offset, length, data */
    for (size_t i = 0; i < ARRAY_SIZE(structure) && pos >= 0; i++) {
        if (structure[i].size)
            pos = add_structure(vp, structure[i].type, structure[i].offset, structure[i].size,
                                structure[i].extra);
        if (pos >= 0 && structure[i].type == VIRTIO_PCI_CAP_NOTIFY_CFG)
            put_le32(vp->pci.config + pos + sizeof(struct virtio_pci_cap), NOTIFY_STEP);
    }
    return MIN(pos, 0);
}

static int make_eventfds(struct virtio_pci *vp)
{
    vp->kick_fd[0] = loop_add_eventfd(vp->wiring.loop, kicked, vp);
    if (vp->kick_fd[0] < 0)
        return vp->kick_fd[0];
    for (unsigned i = 1; i < doorbells(vp); i++) {
        vp->kick_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (vp->kick_fd[i] < 0)
            return -errno;
    }
    if (vp->dev->outside)
        vp->call_fd = loop_add_eventfd(vp->wiring.loop, called, vp);
    return vp->dev->outside ? MIN(vp->call_fd, 0) : 0;
}

static int set_up(struct virtio_pci *vp)
{
    const struct virtio_pci_config *wiring = &vp->wiring;
    uint8_t *config = vp->pci.config;
    int err =
        msi_init(&vp->msi, wiring->hv, vp->dev->name, vp->dev->queues + 1, true, NULL, NULL);
    if (err)
        return err;
    pci_dev_init(&vp->pci, &pci_ops, vp->dev->name);
    pci_dev_set_id(&vp->pci, VENDOR, (uint16_t)(DEVICE_BASE + vp->dev->id),
                   wiring->class_rev | REVISION);
    put_le16(config + PCI_SUBSYSTEM_VENDOR_ID, VENDOR);
    put_le16(config + PCI_SUBSYSTEM_ID, (uint16_t)(SUBSYS_BASE + vp->dev->id));
    config[PCI_INTERRUPT_PIN] = 1;
    err = pci_dev_set_bar(&vp->pci, 0, BAR_SIZE, 0);
    if (!err)
        err = add_capabilities(vp);
    reset_registers(vp);
    if (!err)
        err = make_eventfds(vp);
    if (err)
        return err;
    err = pci_bus_add(wiring->bus, &vp->pci, wiring->devfn);
    vp->on_bus = !err;
    return err;
}

int virtio_pci_create(struct virtio_pci **out, struct virtio *dev,
                      const struct virtio_pci_config *config)
{
    struct virtio_pci *vp = calloc(1, sizeof(*vp));
    if (!vp)
        return -ENOMEM;
    vp->dev = dev;
    vp->wiring = *config;
    vp->call_fd = -1;
    for (unsigned i = 0; i < ARRAY_SIZE(vp->kick_fd); i++)
        vp->kick_fd[i] = -1;
    dev->transport_ops = &transport_ops;
    dev->transport = vp;
    int err = set_up(vp);
    if (err) {
        virtio_pci_destroy(vp);
        return err;
    }
    *out = vp;
    return 0;
}

void virtio_pci_destroy(struct virtio_pci *vp)
{
    if (!vp)
        return;
    if (vp->on_bus)
        pci_bus_remove(vp->wiring.bus, &vp->pci);
    pthread_mutex_lock(&vp->dev->lock);
    virtio_reset(vp->dev);
    reset_registers(vp);
    msi_fini(&vp->msi);
    pthread_mutex_unlock(&vp->dev->lock);
    loop_close(vp->wiring.loop, vp->call_fd);
    loop_close(vp->wiring.loop, vp->kick_fd[0]);
    for (unsigned i = 1; i < doorbells(vp); i++) {
        if (vp->kick_fd[i] >= 0)
            close(vp->kick_fd[i]);
    }
    free(vp);
}

void virtio_pci_reset(struct virtio_pci *vp)
{
    for (unsigned i = PCI_STD_HEADER_SIZEOF; i < PCI_CFG_SPACE_SIZE; i++)
        vp->pci.config[i] &= (uint8_t)~vp->pci.wmask[i];
    put_le16(vp->pci.config + PCI_COMMAND, 0);
    pthread_mutex_lock(&vp->dev->lock);
    virtio_reset(vp->dev);
    msi_reset(&vp->msi);
    reset_registers(vp);
    pthread_mutex_unlock(&vp->dev->lock);
    follow_config(vp);
}
