/*
 * vfio_kernel_dev.c: one device of the kernel's VFIO, behind its descriptor: regions,
 * interrupts, reset.
 *
 * linux/vfio.h, "IOCTLs for DEVICE file descriptors". The kernel adds capabilities to an answer
 * when there is room and says in argsz how much it wants; vfio_info.c reads them.
 * No lock and no state that changes: any thread may read, write and set interrupts.
 */
#include <errno.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vfio/vfio_info.h"
#include "vfio/vfio_kernel.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/uapi.h"
#include "vmm/util.h"

#define IRQS_MAX      (PCI_MSIX_FLAGS_QSIZE + 1)
#define HOT_RESET_MAX 512 /* devices that one reset may affect */

struct kernel_device {
    struct vfio_device dev;
    struct vfio_kernel *kernel;
    int fd; /* with iommufd the kernel's own file of the device */
};

static int fd_of(struct vfio_device *dev)
{
    return container_of(dev, struct kernel_device, dev)->fd;
}

/* ---- answers with capabilities ---- */

int vfio_kernel_ask(int fd, unsigned long request, uint32_t size, void *m)
{
    uint32_t *argsz = m, room = size;
    /* Three times: a driver may want more for its capabilities once it sees some room. */
    for (int i = 0; i < 3 && room <= VFIO_KERNEL_ANSWER_MAX; i++) {
        *argsz = room;
        if (ioctl(fd, request, m) < 0)
            return -errno;
        if (*argsz <= room) {
            *argsz = room;
            return 0;
        }
        room = *argsz;
    }
    return -EMSGSIZE;
}

/* ---- regions ---- */

static int region_info(struct vfio_device *dev, uint32_t index, struct vfio_region *region)
{
    union {
        struct vfio_region_info info;
        char room[VFIO_KERNEL_ANSWER_MAX];
    } m = {.info.index = index};
    int err = vfio_kernel_ask(fd_of(dev), VFIO_DEVICE_GET_REGION_INFO, sizeof(m.info), &m);
    return err ? err : vfio_info_region(&m, index, region);
}

/* Of pread(2) or pwrite(2). */
static int whole(ssize_t done, size_t len)
{
    if (done < 0)
        return -errno;
    return (size_t)done == len ? 0 : -EIO;
}

static int region_read(struct vfio_device *dev, const struct vfio_region *region,
                       uint64_t offset, void *data, size_t len)
{
    if (!range_within(offset, len, region->size))
        return -EINVAL;
    return whole(pread(fd_of(dev), data, len, (off_t)(region->offset + offset)), len);
}

static int region_write(struct vfio_device *dev, const struct vfio_region *region,
                        uint64_t offset, const void *data, size_t len)
{
    if (!range_within(offset, len, region->size))
        return -EINVAL;
    return whole(pwrite(fd_of(dev), data, len, (off_t)(region->offset + offset)), len);
}

static int region_mmap(struct vfio_device *dev, const struct vfio_region *region,
                       const struct vfio_area *area, void *addr)
{
    return vfio_info_mmap(region, area, fd_of(dev), addr);
}

/* ---- interrupts ---- */

static int irq_info(struct vfio_device *dev, uint32_t index, struct vfio_irq_info *info)
{
    *info = (struct vfio_irq_info){.argsz = sizeof(*info), .index = index};
    return ioctl(fd_of(dev), VFIO_DEVICE_GET_IRQ_INFO, info) < 0 ? -errno : 0;
}

static int irq_set(struct vfio_device *dev, uint32_t index, uint32_t flags, uint32_t start,
                   uint32_t count, const int *fds)
{
    union {
        struct vfio_irq_set set;
        char room[sizeof(struct vfio_irq_set) + IRQS_MAX * sizeof(int)];
    } u;
    if (count > IRQS_MAX)
        return -EINVAL;
    size_t size = flags & VFIO_IRQ_SET_DATA_EVENTFD ? count * sizeof(int) : 0;
    u.set = (struct vfio_irq_set){
        .argsz = (uint32_t)(sizeof(u.set) + size),
        .flags = flags,
        .index = index,
        .start = start,
        .count = count,
    };
    if (size)
        memcpy(u.set.data, fds, size);
    int ret = ioctl(fd_of(dev), VFIO_DEVICE_SET_IRQS, &u.set);
    return ret < 0 ? -errno : ret;
}

/* ---- reset ---- */

/* Puts the groups of all AFFECTED devices into RESET, each once: the kernel refuses more groups
 * than devices. A device opened by its own node takes none: the kernel has looked whether all
 * are of the same iommufd. -ENOTTY when one is not ours: the reset would hit somebody else's
 * device. */
static int own_groups(const struct vfio_kernel *kernel,
                      const struct vfio_pci_hot_reset_info *affected,
                      struct vfio_pci_hot_reset *reset)
{
    char node[VFIO_NODE_SIZE];
    if (kernel->is_iommufd)
        return affected->flags & UAPI_VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED ? 0 : -ENOTTY;
    for (uint32_t i = 0; i < affected->count; i++) {
        snprintf(node, sizeof(node), "/dev/vfio/%u", affected->devices[i].group_id);
        const struct vfio_kernel_file *group = vfio_kernel_find(kernel, node);
        if (!group)
            return -ENOTTY;
        uint32_t n = 0;
        while (n < reset->count && reset->group_fds[n] != group->fd)
            n++;
        reset->group_fds[n] = group->fd;
        reset->count = MAX(reset->count, n + 1);
    }
    reset->argsz += reset->count * (uint32_t)sizeof(reset->group_fds[0]);
    return 0;
}

/* A reset of the slot or bus, and so of the card's other functions as well. */
static int hot_reset(const struct kernel_device *kd)
{
    union {
        struct vfio_pci_hot_reset_info info;
        char room[sizeof(struct vfio_pci_hot_reset_info) +
                  HOT_RESET_MAX * sizeof(struct vfio_pci_dependent_device)];
    } affected = {.info.argsz = sizeof(affected)};
    union {
        struct vfio_pci_hot_reset call;
        char room[sizeof(struct vfio_pci_hot_reset) + HOT_RESET_MAX * sizeof(__s32)];
    } reset = {.call.argsz = sizeof(reset.call)};

    if (ioctl(kd->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &affected) < 0)
        return errno == ENODEV ? -ENOTTY : -errno;
    if (!affected.info.count || affected.info.count > HOT_RESET_MAX)
        return -EIO;
    int err = own_groups(kd->kernel, &affected.info, &reset.call);
    if (!err && ioctl(kd->fd, VFIO_DEVICE_PCI_HOT_RESET, &reset) < 0)
        err = errno == EINVAL ? -ENOTTY : -errno; /* a function has no driver, so nor VFIO's */
    return err;
}

static int device_reset(struct vfio_device *dev)
{
    if (!(dev->flags & VFIO_DEVICE_FLAGS_RESET))
        return hot_reset(container_of(dev, struct kernel_device, dev));
    return ioctl(fd_of(dev), VFIO_DEVICE_RESET) < 0 ? -errno : 0;
}

static void device_close(struct vfio_device *dev)
{
    struct kernel_device *kd = container_of(dev, struct kernel_device, dev);
    vfio_kernel_close_device(kd->kernel, kd->fd);
    free(kd);
}

static const struct vfio_device_ops device_ops = {
    .region_info = region_info,
    .region_read = region_read,
    .region_write = region_write,
    .region_mmap = region_mmap,
    .irq_info = irq_info,
    .irq_set = irq_set,
    .reset = device_reset,
    .close = device_close,
};

int vfio_kernel_device_create(struct vfio_kernel *kernel, int fd, const char *name,
                              struct vfio_device **out)
{
    struct vfio_device_info info = {.argsz = sizeof(info)};
    struct kernel_device *kd = calloc(1, sizeof(*kd));
    int err = -ENOMEM;
    if (kd)
        err = ioctl(fd, VFIO_DEVICE_GET_INFO, &info) < 0 ? -errno : 0;
    if (err) {
        log_error(name, "cannot open device: %s; dmesg may tell more", strerror(-err));
        free(kd);
        vfio_kernel_close_device(kernel, fd);
        return err;
    }
    kd->kernel = kernel;
    kd->fd = fd;
    kd->dev.ops = &device_ops;
    kd->dev.flags = info.flags;
    kd->dev.regions = info.num_regions;
    kd->dev.irqs = info.num_irqs;
    kd->dev.iommu = &kernel->iommu;
    snprintf(kd->dev.name, sizeof(kd->dev.name), "%s", name);
    *out = &kd->dev;
    return 0;
}
