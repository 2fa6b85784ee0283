/*
 * vfio_iommufd.c: the kernel's second way to its devices: a character device for each, all of
 * them attached to one I/O address space of an iommufd.
 *
 * Linux Documentation/driver-api/vfio.rst, "IOMMUFD and vfio_iommu_type1" and "VFIO Device
 * cdev"; Documentation/userspace-api/iommufd.rst; linux/iommufd.h. The order: iommufd, address
 * space (IOAS), and for every device: its node opened, KVM told of it, bound to the iommufd,
 * attached to the IOAS. RAM is mapped after the last of them, because each narrows the valid
 * addresses. A device can be used once it is bound; the file that KVM knows is the device's
 * own.
 *
 * Left out: dma-buf mappings (IOMMU_IOAS_MAP_FILE of VFIO_DEVICE_FEATURE_DMA_BUF, 6.19),
 * without which memory that is not RAM cannot be mapped (EFAULT); page tables of the guest's
 * own. Main thread only, but for mapping and unmapping: any thread.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vfio/vfio_kernel.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/uapi.h"
#include "vmm/util.h"

/* ---- DMA ---- */

static int iommu_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct uapi_iommu_ioas_iova_ranges ask = {
        .size = sizeof(ask),
        .ioas_id = kernel->ioas,
        .num_iovas = VFIO_IOVA_RANGES_MAX,
        .allowed_iovas = (uintptr_t)limits->range,
    };
    /* EMSGSIZE: there are more, and as many as there is room for are filled in. */
    if (ioctl(kernel->fd, UAPI_IOMMU_IOAS_IOVA_RANGES, &ask) < 0 && errno != EMSGSIZE)
        return -errno;
    limits->nr = ask.num_iovas;
    limits->page = ask.out_iova_alignment;
    return 0;
}

/* Without FIXED_IOVA the kernel would choose the address. FD: see vfio_container.c. */
static int iommu_map(struct vfio_iommu *iommu, uint64_t iova, uint64_t size, void *hva, int fd,
                     uint64_t fd_offset)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct uapi_iommu_ioas_map map = {
        .size = sizeof(map),
        .flags = UAPI_IOMMU_IOAS_MAP_FIXED_IOVA | UAPI_IOMMU_IOAS_MAP_WRITEABLE |
                 UAPI_IOMMU_IOAS_MAP_READABLE,
        .ioas_id = kernel->ioas,
        .user_va = (uintptr_t)hva,
        .length = size,
        .iova = iova,
    };
    (void)fd;
    (void)fd_offset;
    return ioctl(kernel->fd, UAPI_IOMMU_IOAS_MAP, &map) < 0 ? -errno : 0;
}

static int iommu_unmap(struct vfio_iommu *iommu, uint64_t iova, uint64_t size)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct uapi_iommu_ioas_unmap unmap = {
        .size = sizeof(unmap), .ioas_id = kernel->ioas, .iova = iova, .length = size};
    if (ioctl(kernel->fd, UAPI_IOMMU_IOAS_UNMAP, &unmap) < 0)
        return -errno;
    return unmap.length == size ? 0 : -ENOENT;
}

const struct vfio_iommu_ops vfio_iommufd_ops = {
    .limits = iommu_limits,
    .map = iommu_map,
    .unmap = iommu_unmap,
};

/* ---- iommufd and devices ---- */

int vfio_iommufd_open(struct vfio_kernel *kernel, const char *name)
{
    struct uapi_iommu_ioas_alloc ioas = {.size = sizeof(ioas)};
    int fd = vfio_kernel_open_node(name, VFIO_IOMMUFD,
                                   "the kernel has no iommufd; leave iommufd out, or run as "
                                   "root: modprobe iommufd");
    if (fd < 0)
        return fd;
    if (ioctl(fd, UAPI_IOMMU_IOAS_ALLOC, &ioas) < 0) {
        int err = -errno;
        log_error(name, "cannot use " VFIO_IOMMUFD ": %s; dmesg may tell more", strerror(-err));
        close(fd);
        return err;
    }
    kernel->fd = fd;
    kernel->ioas = ioas.out_ioas_id;
    return 0;
}

/* A node can be opened by several; who is first to bind it has it, and the next gets EINVAL.
 * EBUSY: somebody has its group. EPERM: a host's driver or another iommufd has a device of its
 * group, or interrupts are not remapped. */
static void refused(const char *sysfs, const char *name, const char *node, int err)
{
    struct vfio_sysfs_neighbours near;
    char who[160], group[VFIO_NODE_SIZE];
    int number = vfio_sysfs_group(sysfs);
    snprintf(group, sizeof(group), "/dev/vfio/%d", number);
    vfio_sysfs_neighbours(number, &near);
    if ((err == -EBUSY || err == -EPERM) && near.in_use[0])
        vfio_kernel_not_viable(sysfs, &near);
    else if ((err == -EBUSY || err == -EINVAL || err == -EPERM) &&
             (vfio_sysfs_holder(group, who, sizeof(who)) ||
              vfio_sysfs_holder(node, who, sizeof(who)) || err == -EBUSY))
        log_error(name, "cannot use %s: in use by %s; stop that first", node, who);
    else if (err == -EPERM)
        vfio_kernel_not_remapped(name, "iommufd");
    else
        vfio_kernel_not_opened(name, err);
}

int vfio_iommufd_attach(struct vfio_kernel *kernel, const char *sysfs, const char *name,
                        const char *node)
{
    struct uapi_vfio_device_bind_iommufd bind = {.argsz = sizeof(bind), .iommufd = kernel->fd};
    struct uapi_vfio_device_attach_iommufd_pt attach = {.argsz = sizeof(attach),
                                                        .pt_id = kernel->ioas};
    int fd = vfio_kernel_open_node(name, node,
                                   "there is no such node; let this container see it, or use "
                                   "a kernel (6.6) with CONFIG_VFIO_DEVICE_CDEV");
    if (fd < 0)
        return fd;
    int err = vfio_kernel_add(kernel, name, node, fd);
    if (err)
        return err;
    if (ioctl(fd, UAPI_VFIO_DEVICE_BIND_IOMMUFD, &bind) == 0 &&
        ioctl(fd, UAPI_VFIO_DEVICE_ATTACH_IOMMUFD_PT, &attach) == 0)
        return 0;
    err = -errno;
    vfio_kernel_release(kernel, kernel->files); /* before the question who has it open */
    refused(sysfs, name, node, err);
    return err;
}
