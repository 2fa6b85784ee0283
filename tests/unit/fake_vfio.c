/*
 * fake_vfio.c: see fake_vfio.h.
 */
#include "tests/unit/fake_vfio.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/unit/fake_hv.h"
#include "vmm/util.h"

static struct fake_vfio *fake_of(struct vfio_device *dev)
{
    return container_of(dev, struct fake_vfio, dev);
}

static bool is_platform(const struct fake_vfio *f)
{
    return f->dev.flags & VFIO_DEVICE_FLAGS_PLATFORM;
}

/* Records CALL; the errno it has to fail with, or 0. */
static int called(struct fake_vfio *f, struct fake_vfio_call call)
{
    call.slots = f->hv ? fake_hv_live_slots(f->hv) : 0;
    f->calls[call.op]++;
    if (f->nr < FAKE_VFIO_CALLS)
        f->call[f->nr++] = call;
    if (f->dev.lost)
        return -EIO;
    if (f->fail_in && f->fail_op == call.op && --f->fail_in == 0)
        return -f->fail_errno;
    return 0;
}

static int region_info(struct vfio_device *dev, uint32_t index, struct vfio_region *region)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(f, (struct fake_vfio_call){.op = FAKE_REGION_INFO, .index = index});

    if (err || index >= f->dev.regions)
        return err ? err : -EINVAL;
    *region = f->region[index];
    return 0;
}

/* As the kernel: -EIO while decoding is off, and in D3hot. */
static int access_check(const struct fake_vfio *f, const struct vfio_region *r, uint64_t offset,
                        size_t len)
{
    bool io = f->config[PCI_BASE_ADDRESS_0 + 4 * (r->index % 6)] & PCI_BASE_ADDRESS_SPACE_IO;

    if (!range_within(offset, len, f->region[r->index].size))
        return -EINVAL;
    bool asleep = (f->config[0x40 + PCI_PM_CTRL] & PCI_PM_CTRL_STATE_MASK) == 3;

    io &= r->index < VFIO_PCI_ROM_REGION_INDEX;
    if (!is_platform(f) && r->index <= VFIO_PCI_ROM_REGION_INDEX && !io &&
        (asleep || !(f->config[PCI_COMMAND] & PCI_COMMAND_MEMORY)))
        return -EIO;
    return 0;
}

static int region_read(struct vfio_device *dev, const struct vfio_region *r, uint64_t offset,
                       void *data, size_t len)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(
        f, (struct fake_vfio_call){
               .op = FAKE_REGION_READ, .index = r->index, .offset = offset, .size = len});
    if (!err)
        err = access_check(f, r, offset, len);
    if (err)
        return err;
    if (f->dead)
        memset(data, 0xff, len);
    else if (!is_platform(f) && r->index == VFIO_PCI_CONFIG_REGION_INDEX)
        memcpy(data, f->config + offset, len);
    else if (pread(f->memory[r->index], data, len, (off_t)offset) != (ssize_t)len)
        return -EIO;
    return 0;
}

static int config_write(struct fake_vfio *f, uint64_t offset, const void *data, size_t len)
{
    bool bar = (offset >= PCI_BASE_ADDRESS_0 && offset < PCI_BASE_ADDRESS_5 + 4) ||
               (offset >= PCI_ROM_ADDRESS && offset < PCI_ROM_ADDRESS + 4);

    f->bar_writes += bar;
    if (!bar && offset >= PCI_COMMAND)
        memcpy(f->config + offset, data, len);
    return 0;
}

static int region_write(struct vfio_device *dev, const struct vfio_region *r, uint64_t offset,
                        const void *data, size_t len)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(f, (struct fake_vfio_call){.op = FAKE_REGION_WRITE,
                                                .index = r->index,
                                                .offset = offset,
                                                .size = len,
                                                .value = get_le(data, (unsigned)len)});
    if (!err)
        err = access_check(f, r, offset, len);
    if (err)
        return err;
    if (!is_platform(f) && r->index == VFIO_PCI_CONFIG_REGION_INDEX)
        return config_write(f, offset, data, len);
    return pwrite(f->memory[r->index], data, len, (off_t)offset) == (ssize_t)len ? 0 : -EIO;
}

static int region_mmap(struct vfio_device *dev, const struct vfio_region *r,
                       const struct vfio_area *area, void *addr)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(f, (struct fake_vfio_call){.op = FAKE_REGION_MMAP,
                                                .index = r->index,
                                                .offset = area->offset,
                                                .size = area->size});
    if (err)
        return err;
    void *p = mmap(addr, area->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                   f->memory[r->index], (off_t)area->offset);
    return p == MAP_FAILED ? -errno : 0;
}

static int irq_info(struct vfio_device *dev, uint32_t index, struct vfio_irq_info *info)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(f, (struct fake_vfio_call){.op = FAKE_IRQ_INFO, .index = index});

    if (err || index >= f->dev.irqs)
        return err ? err : -EINVAL;
    info->flags = f->irq[index].flags;
    info->count = f->irq[index].count;
    return 0;
}

static int set_trigger(struct fake_vfio *f, uint32_t index, uint32_t start, uint32_t count,
                       const int *fds)
{
    unsigned end = start + count;

    if (f->active != index && f->active != VFIO_PCI_NUM_IRQS)
        return -EINVAL;
    if (!fds) {
        f->active = VFIO_PCI_NUM_IRQS;
        f->vectors = 0;
        memset(f->fd, 0xff, sizeof(f->fd));
        f->unmask_fd = -1;
        return 0;
    }
    if (end > MIN(f->irq[index].count, (unsigned)FAKE_VFIO_VECTORS))
        return -EINVAL;
    if (f->active == index && end > f->vectors && f->irq[index].flags & VFIO_IRQ_INFO_NORESIZE)
        return -EINVAL;
    if (f->active != index && f->vector_limit && end > f->vector_limit)
        return (int)f->vector_limit;
    f->active = index;
    f->vectors = MAX(f->vectors, end);
    memcpy(f->fd + start, fds, count * sizeof(*fds));
    return 0;
}

static int set_unmask(struct fake_vfio *f, const int *fds)
{
    if (f->active != VFIO_PCI_INTX_IRQ_INDEX)
        return -EINVAL;
    if (fds)
        f->unmask_fd = fds[0];
    else
        f->masked = false;
    return 0;
}

static int set_line(struct fake_vfio *f, uint32_t index, uint32_t flags, uint32_t count,
                    const int *fds)
{
    struct fake_vfio_line *line = &f->line[index];
    bool maskable = f->irq[index].flags & VFIO_IRQ_INFO_MASKABLE;

    if (index >= f->dev.irqs || count > 1)
        return -EINVAL;
    if (flags & VFIO_IRQ_SET_ACTION_TRIGGER) {
        line->fd = fds ? fds[0] : -1;
        return 0;
    }
    if (!maskable)
        return -EINVAL;
    if (!fds)
        line->masked = flags & VFIO_IRQ_SET_ACTION_MASK;
    else if (line->unmask_fd >= 0 && fds[0] >= 0)
        return -EBUSY;
    else
        line->unmask_fd = fds[0];
    return 0;
}

static int irq_set(struct vfio_device *dev, uint32_t index, uint32_t flags, uint32_t start,
                   uint32_t count, const int *fds)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(f, (struct fake_vfio_call){.op = FAKE_IRQ_SET,
                                                .index = index,
                                                .flags = flags,
                                                .start = start,
                                                .count = count,
                                                .fd = fds ? fds[0] : -2});
    if (err)
        return err;
    if (!!fds != !!(flags & VFIO_IRQ_SET_DATA_EVENTFD))
        return -EINVAL;
    if (is_platform(f))
        return set_line(f, index, flags, count, fds);
    if (index >= VFIO_PCI_ERR_IRQ_INDEX) {
        f->event_fd[index - VFIO_PCI_ERR_IRQ_INDEX] = fds ? fds[0] : -1;
        return 0;
    }
    if (flags & VFIO_IRQ_SET_ACTION_TRIGGER)
        return set_trigger(f, index, start, count, fds);
    if (flags & VFIO_IRQ_SET_ACTION_UNMASK)
        return set_unmask(f, fds);
    f->masked = true;
    return 0;
}

static int reset(struct vfio_device *dev)
{
    struct fake_vfio *f = fake_of(dev);
    int err = called(f, (struct fake_vfio_call){.op = FAKE_RESET});

    f->dead |= f->dies_at_reset;
    return err;
}

static void close_device(struct vfio_device *dev)
{
    called(fake_of(dev), (struct fake_vfio_call){.op = FAKE_CLOSE});
}

static const struct vfio_device_ops ops = {
    .region_info = region_info,
    .region_read = region_read,
    .region_write = region_write,
    .region_mmap = region_mmap,
    .irq_info = irq_info,
    .irq_set = irq_set,
    .reset = reset,
    .close = close_device,
};

static struct vfio_region *set_region(struct fake_vfio *f, unsigned index, uint64_t size)
{
    struct vfio_region *r = &f->region[index];

    if (f->memory[index] >= 0)
        close(f->memory[index]);
    f->memory[index] = memfd_create("bar", MFD_CLOEXEC);
    /* A hostile size may be more than a file can have. */
    int none = ftruncate(f->memory[index], (off_t)MIN(size, GIB));
    (void)none;
    *r = (struct vfio_region){.index = index, .size = size, .offset = (uint64_t)index << 40};
    r->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    if (size && !(size % 4096)) {
        r->flags |= VFIO_REGION_INFO_FLAG_MMAP;
        r->areas = 1;
        r->area[0] = (struct vfio_area){0, size};
    }
    return r;
}

void fake_vfio_bar(struct fake_vfio *f, unsigned bar, uint64_t size, uint32_t flags)
{
    struct vfio_region *r = set_region(f, bar, size);

    if (bar == VFIO_PCI_ROM_REGION_INDEX)
        r->flags = VFIO_REGION_INFO_FLAG_READ;
    if (bar == VFIO_PCI_ROM_REGION_INDEX || flags & PCI_BASE_ADDRESS_SPACE_IO) {
        r->flags &= ~VFIO_REGION_INFO_FLAG_MMAP;
        r->areas = 0;
    }
    /* The host's own address, which a guest must never see. */
    if (bar != VFIO_PCI_ROM_REGION_INDEX)
        put_le32(f->config + PCI_BASE_ADDRESS_0 + 4 * bar, size ? 0x5a000000 | flags : 0);
    else
        put_le32(f->config + PCI_ROM_ADDRESS, 0x5b000000);
}

void fake_vfio_irq(struct fake_vfio *f, uint32_t index, uint32_t count, uint32_t flags)
{
    f->irq[index] = (struct vfio_irq_info){.index = index, .count = count, .flags = flags};
}

void fake_vfio_cap(struct fake_vfio *f, unsigned pos, uint8_t id, uint8_t next)
{
    f->config[pos + PCI_CAP_LIST_ID] = id;
    f->config[pos + PCI_CAP_LIST_NEXT] = next;
}

void fake_vfio_ext_cap(struct fake_vfio *f, unsigned pos, uint16_t id, unsigned next)
{
    put_le32(f->config + pos, id | 1 << 16 | (uint32_t)next << 20);
}

static void init_header(struct fake_vfio *f)
{
    put_le16(f->config + PCI_VENDOR_ID, 0x1234); /* no quirks */
    put_le16(f->config + PCI_DEVICE_ID, 0x1b80);
    put_le16(f->config + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    put_le16(f->config + PCI_STATUS, PCI_STATUS_CAP_LIST);
    put_le32(f->config + PCI_CLASS_REVISION, 0x030000a1);
    f->config[PCI_HEADER_TYPE] = 0x80;
    put_le32(f->config + PCI_SUBSYSTEM_VENDOR_ID, 0x12345678);
    f->config[PCI_CAPABILITY_LIST] = 0x40;
    f->config[PCI_INTERRUPT_LINE] = 11;
    f->config[PCI_INTERRUPT_PIN] = 1;
}

static void init_caps(struct fake_vfio *f)
{
    fake_vfio_cap(f, 0x40, PCI_CAP_ID_PM, 0x50);
    fake_vfio_cap(f, 0x50, PCI_CAP_ID_MSI, 0x70);
    put_le16(f->config + 0x52, PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT | 2 << 1);
    put_le32(f->config + 0x54, 0xfee12340); /* the host's */
    fake_vfio_cap(f, 0x70, PCI_CAP_ID_EXP, 0xb0);
    put_le16(f->config + 0x70 + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_LEG_END << 4);
    put_le32(f->config + 0x70 + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_FLR);
    put_le32(f->config + 0x70 + PCI_EXP_LNKCAP, 0x00437d03);
    put_le16(f->config + 0x70 + PCI_EXP_LNKSTA, 0x1083);
    put_le32(f->config + 0x70 + PCI_EXP_LNKCAP2, 0xe);
    fake_vfio_cap(f, 0xb0, PCI_CAP_ID_MSIX, 0xc0);
    put_le16(f->config + 0xb2, 7);
    put_le32(f->config + 0xb4, 0x2001);
    put_le32(f->config + 0xb8, 0x3001);
    fake_vfio_cap(f, 0xc0, PCI_CAP_ID_AF, 0xc8);
    fake_vfio_cap(f, 0xc8, PCI_CAP_ID_HT, 0xd0);
    fake_vfio_cap(f, 0xd0, PCI_CAP_ID_VNDR, 0);
    f->config[0xd2] = 16;
    fake_vfio_ext_cap(f, 0x100, PCI_EXT_CAP_ID_ERR, 0x140);
    fake_vfio_ext_cap(f, 0x140, PCI_EXT_CAP_ID_DSN, 0x150);
    fake_vfio_ext_cap(f, 0x150, PCI_EXT_CAP_ID_ARI, 0x160);
    fake_vfio_ext_cap(f, 0x160, PCI_EXT_CAP_ID_VNDR, 0x180);
    fake_vfio_ext_cap(f, 0x180, PCI_EXT_CAP_ID_SRIOV, 0);
}

static void init_common(struct fake_vfio *f, const struct fake_hv *hv)
{
    memset(f, 0, sizeof(*f));
    f->dev.ops = &ops;
    f->hv = hv;
    f->active = VFIO_PCI_NUM_IRQS;
    f->unmask_fd = f->event_fd[0] = f->event_fd[1] = -1;
    memset(f->fd, 0xff, sizeof(f->fd));
    memset(f->memory, 0xff, sizeof(f->memory));
}

void fake_vfio_platform(struct fake_vfio *f, const struct fake_hv *hv)
{
    init_common(f, hv);
    strcpy(f->dev.name, "f0a00000.dma");
    f->dev.flags = VFIO_DEVICE_FLAGS_PLATFORM | VFIO_DEVICE_FLAGS_RESET;
}

void fake_vfio_region(struct fake_vfio *f, uint64_t size)
{
    set_region(f, f->dev.regions++, size);
}

void fake_vfio_line(struct fake_vfio *f, uint32_t flags)
{
    uint32_t index = f->dev.irqs++;

    fake_vfio_irq(f, index, 1, VFIO_IRQ_INFO_EVENTFD | flags);
    f->line[index] = (struct fake_vfio_line){.fd = -1, .unmask_fd = -1};
}

void fake_vfio_init(struct fake_vfio *f, const struct fake_hv *hv)
{
    const uint32_t eventfd_flag = VFIO_IRQ_INFO_EVENTFD;

    init_common(f, hv);
    strcpy(f->dev.name, "0000:42:00.0");
    f->dev.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
    f->dev.regions = VFIO_PCI_NUM_REGIONS;
    f->dev.irqs = VFIO_PCI_NUM_IRQS;
    f->region[VFIO_PCI_CONFIG_REGION_INDEX] =
        (struct vfio_region){.index = VFIO_PCI_CONFIG_REGION_INDEX, .size = sizeof(f->config)};
    init_header(f);
    init_caps(f);
    fake_vfio_bar(f, 0, 16 * MIB, 0);
    fake_vfio_bar(f, 2, 0, 0);
    fake_vfio_bar(f, 1, 64 * KIB, PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH);
    put_le32(f->config + PCI_BASE_ADDRESS_2, 0x38); /* its upper half */
    fake_vfio_bar(f, 4, 256, 0);
    fake_vfio_bar(f, 5, 128, PCI_BASE_ADDRESS_SPACE_IO);
    fake_vfio_bar(f, VFIO_PCI_ROM_REGION_INDEX, 64 * KIB, 0);
    fake_vfio_irq(f, VFIO_PCI_INTX_IRQ_INDEX, 1,
                  eventfd_flag | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED);
    fake_vfio_irq(f, VFIO_PCI_MSI_IRQ_INDEX, 4, eventfd_flag | VFIO_IRQ_INFO_NORESIZE);
    fake_vfio_irq(f, VFIO_PCI_MSIX_IRQ_INDEX, 8, eventfd_flag);
    fake_vfio_irq(f, VFIO_PCI_ERR_IRQ_INDEX, 1, eventfd_flag | VFIO_IRQ_INFO_NORESIZE);
    fake_vfio_irq(f, VFIO_PCI_REQ_IRQ_INDEX, 1, eventfd_flag | VFIO_IRQ_INFO_NORESIZE);
}

void fake_vfio_fini(struct fake_vfio *f)
{
    for (unsigned i = 0; i < FAKE_VFIO_REGIONS; i++)
        if (f->memory[i] >= 0)
            close(f->memory[i]);
}

void fake_vfio_fail(struct fake_vfio *f, enum fake_vfio_op op, unsigned nth, int err)
{
    f->fail_op = op;
    f->fail_in = nth;
    f->fail_errno = err;
}

void fake_vfio_forget(struct fake_vfio *f)
{
    f->nr = 0;
    memset(f->calls, 0, sizeof(f->calls));
}

const struct fake_vfio_call *fake_vfio_find(const struct fake_vfio *f, enum fake_vfio_op op,
                                            uint32_t index, unsigned nth)
{
    for (unsigned i = 0; i < f->nr; i++)
        if (f->call[i].op == op && f->call[i].index == index && nth-- == 0)
            return &f->call[i];
    return NULL;
}

static bool fire_line(struct fake_vfio_line *line, bool automasked)
{
    eventfd_t n;

    if (line->unmask_fd >= 0 && eventfd_read(line->unmask_fd, &n) == 0)
        line->masked = false;
    if (line->fd < 0 || line->masked)
        return false;
    line->masked = automasked;
    return eventfd_write(line->fd, 1) == 0;
}

bool fake_vfio_fire(struct fake_vfio *f, unsigned vector)
{
    bool intx = f->active == VFIO_PCI_INTX_IRQ_INDEX;

    if (is_platform(f))
        return fire_line(&f->line[vector], f->irq[vector].flags & VFIO_IRQ_INFO_AUTOMASKED);
    if (vector >= f->vectors || f->fd[vector] < 0 || (intx && f->masked))
        return false;
    f->masked = intx;
    return eventfd_write(f->fd[vector], 1) == 0;
}
