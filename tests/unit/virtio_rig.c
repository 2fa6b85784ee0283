/* virtio_rig.c: see virtio_rig.h. */
#include "tests/unit/virtio_rig.h"

#include <criterion/criterion.h>
#include <time.h>

void vrig_init(struct vrig *rig)
{
    *rig = (struct vrig){.size = VRIG_SIZE};
    fake_hv_init(&rig->fake);
    cr_assert_eq(mem_init(&rig->mem, VRIG_RAM), 0);
    cr_assert_eq(bus_init(&rig->pio), 0);
    cr_assert_eq(bus_init(&rig->mmio), 0);
    cr_assert_eq(loop_create(&rig->loop), 0);
    cr_assert_eq(pci_bus_init(&rig->bus, &rig->pio, &rig->mmio), 0);
    virtio_intx_init(&rig->intx, &rig->fake.hv);
}

static void find_structures(struct vrig *rig)
{
    unsigned pos = vrig_config_read(rig, PCI_CAPABILITY_LIST, 1);
    for (unsigned n = 0; pos && n < 48; n++) {
        if (vrig_config_read(rig, pos, 1) == PCI_CAP_ID_VNDR) {
            unsigned offset = vrig_config_read(rig, pos + VIRTIO_PCI_CAP_OFFSET, 4);
            switch (vrig_config_read(rig, pos + VIRTIO_PCI_CAP_CFG_TYPE, 1)) {
            case VIRTIO_PCI_CAP_COMMON_CFG:
                rig->common = offset;
                break;
            case VIRTIO_PCI_CAP_ISR_CFG:
                rig->isr = offset;
                break;
            case VIRTIO_PCI_CAP_NOTIFY_CFG:
                rig->notify = offset;
                rig->multiplier = vrig_config_read(rig, pos + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
                break;
            case VIRTIO_PCI_CAP_DEVICE_CFG:
                rig->device = offset;
                break;
            case VIRTIO_PCI_CAP_PCI_CFG:
                rig->pci_cfg = pos;
                break;
            }
        }
        pos = vrig_config_read(rig, pos + PCI_CAP_LIST_NEXT, 1);
    }
}

void vrig_plug(struct vrig *rig, struct virtio *dev)
{
    const struct virtio_pci_config config = {
        .hv = &rig->fake.hv,
        .bus = &rig->bus,
        .loop = rig->loop,
        .intx = &rig->intx,
        .devfn = PCI_DEVFN(VRIG_SLOT, 0),
        .class_rev = 0x00ff0000,
    };
    rig->dev = dev;
    cr_assert_eq(virtio_pci_create(&rig->vp, dev, &config), 0);
    cr_assert_eq(pci_bus_assign(&rig->bus), 0);
    vrig_config_write(rig, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    rig->bar = vrig_config_read(rig, PCI_BASE_ADDRESS_0, 4) & ~0xfU;
    find_structures(rig);
}

void vrig_unplug(struct vrig *rig)
{
    virtio_pci_destroy(rig->vp);
    rig->vp = NULL;
    cr_expect_eq(rig->fake.misuse, 0);
    cr_expect_eq(fake_hv_live(&rig->fake), 0);
}

void vrig_fini(struct vrig *rig)
{
    pci_bus_fini(&rig->bus);
    loop_destroy(rig->loop);
    cr_expect_eq(rig->mmio.nr, 0);
    bus_fini(&rig->mmio);
    bus_fini(&rig->pio);
    mem_fini(&rig->mem);
}

uint64_t vrig_read(struct vrig *rig, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    bus_read(&rig->mmio, rig->bar + offset, &value, size);
    return value;
}

void vrig_write(struct vrig *rig, uint64_t offset, unsigned size, uint64_t value)
{
    bus_write(&rig->mmio, rig->bar + offset, &value, size);
}

uint32_t vrig_config_read(struct vrig *rig, unsigned reg, unsigned size)
{
    return (uint32_t)pci_bus_config_read(&rig->bus, PCI_DEVFN(VRIG_SLOT, 0), reg, size);
}

void vrig_config_write(struct vrig *rig, unsigned reg, unsigned size, uint32_t value)
{
    pci_bus_config_write(&rig->bus, PCI_DEVFN(VRIG_SLOT, 0), reg, size, value);
}

uint8_t vrig_status(struct vrig *rig)
{
    return (uint8_t)vrig_read(rig, rig->common + VIRTIO_PCI_COMMON_STATUS, 1);
}

void vrig_set_status(struct vrig *rig, unsigned status)
{
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_STATUS, 1, status);
}

static uint64_t rings(unsigned queue)
{
    return VRIG_RINGS + 0x4000ULL * queue;
}

void vrig_enable_queue(struct vrig *rig, unsigned queue)
{
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_SIZE, 2, rig->size);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_DESCLO, 8, rings(queue));
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_AVAILLO, 4, rings(queue) + 0x1000);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_AVAILHI, 4, 0);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_USEDLO, 8, rings(queue) + 0x2000);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void vrig_start(struct vrig *rig, uint64_t features)
{
    features |= 1ULL << VIRTIO_F_VERSION_1;
    vrig_set_status(rig, 0);
    vrig_set_status(rig, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_GFSELECT, 4, i);
        vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> 32 * i));
    }
    vrig_set_status(rig, VRIG_DRIVER);
    cr_assert_eq(vrig_status(rig), VRIG_DRIVER);
    memset(vrig_at(rig, VRIG_RINGS, 0x4000 * VIRTIO_QUEUES_MAX), 0, 0x4000 * VIRTIO_QUEUES_MAX);
    memset(rig->seen, 0, sizeof(rig->seen));
    for (unsigned i = 0; i < rig->dev->queues; i++)
        vrig_enable_queue(rig, i);
    vrig_set_status(rig, VRIG_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
    cr_assert_eq(vrig_status(rig), VRIG_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
    vrig_pump(rig);
}

void vrig_msix(struct vrig *rig)
{
    unsigned pos = vrig_config_read(rig, PCI_CAPABILITY_LIST, 1);
    while (pos && vrig_config_read(rig, pos, 1) != PCI_CAP_ID_MSIX)
        pos = vrig_config_read(rig, pos + PCI_CAP_LIST_NEXT, 1);
    cr_assert(pos);
    unsigned nr = (vrig_config_read(rig, pos + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1;
    unsigned table = vrig_config_read(rig, pos + PCI_MSIX_TABLE, 4);
    cr_assert_eq(nr, rig->dev->queues + 1);
    vrig_config_write(rig, pos + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    for (unsigned i = 0; i < nr; i++) {
        vrig_write(rig, table + 16 * i, 8, 0xfee00000);
        vrig_write(rig, table + 16 * i + 8, 8, VRIG_MSI + i); /* and unmasked */
    }
    for (unsigned i = 0; i < nr - 1; i++) {
        vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
        vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_MSIX, 2, i);
    }
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_MSIX, 2, nr - 1);
}

void *vrig_at(struct vrig *rig, uint64_t gpa, size_t len)
{
    void *at = mem_at(&rig->mem, gpa, len);
    cr_assert(at);
    return at;
}

struct vring_desc *vrig_desc(struct vrig *rig, unsigned queue, unsigned i)
{
    return vrig_at(rig, rings(queue) + 16ULL * i, 16);
}

struct vring_avail *vrig_avail(struct vrig *rig, unsigned queue)
{
    return vrig_at(rig, rings(queue) + 0x1000, 6 + 2 * VIRTQ_SIZE_MAX);
}

struct vring_used *vrig_used_ring(struct vrig *rig, unsigned queue)
{
    return vrig_at(rig, rings(queue) + 0x2000, 6 + 8 * VIRTQ_SIZE_MAX);
}

void vrig_set_desc(struct vrig *rig, unsigned queue, unsigned i, uint64_t gpa, uint32_t len,
                   unsigned flags)
{
    *vrig_desc(rig, queue, i) = (struct vring_desc){
        .addr = gpa, .len = len, .flags = (uint16_t)flags, .next = (uint16_t)(i + 1)};
}

void vrig_offer(struct vrig *rig, unsigned queue, uint16_t head)
{
    struct vring_avail *avail = vrig_avail(rig, queue);
    avail->ring[avail->idx % rig->size] = head;
    __atomic_store_n(&avail->idx, (uint16_t)(avail->idx + 1), __ATOMIC_RELEASE);
}

uint64_t vrig_doorbell(struct vrig *rig, unsigned queue)
{
    uint64_t selected = vrig_read(rig, rig->common + VIRTIO_PCI_COMMON_Q_SELECT, 2);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, queue);
    uint64_t n = vrig_read(rig, rig->common + VIRTIO_PCI_COMMON_Q_NOFF, 2);
    vrig_write(rig, rig->common + VIRTIO_PCI_COMMON_Q_SELECT, 2, selected);
    return rig->notify + n * rig->multiplier;
}

void vrig_kick(struct vrig *rig, unsigned queue)
{
    vrig_write(rig, vrig_doorbell(rig, queue), 2, queue);
    vrig_pump(rig);
}

void vrig_pump(struct vrig *rig)
{
    loop_stop(rig->loop);
    cr_assert_eq(loop_run(rig->loop), 0);
}

bool vrig_used(struct vrig *rig, unsigned queue, struct vring_used_elem *out)
{
    struct vring_used *used = vrig_used_ring(rig, queue);
    if (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == rig->seen[queue])
        return false;
    *out = used->ring[rig->seen[queue]++ % rig->size];
    return true;
}

bool vrig_wait_used(struct vrig *rig, unsigned queue, struct vring_used_elem *out)
{
    for (unsigned i = 0; i < 20000; i++) {
        if (vrig_used(rig, queue, out))
            return true;
        vrig_pump(rig);
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return false;
}
