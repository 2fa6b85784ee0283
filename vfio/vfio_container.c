/*
 * vfio_container.c: the kernel's first way to its devices: groups in a container.
 *
 * Linux Documentation/driver-api/vfio.rst, "VFIO Usage Example", and linux/vfio.h. The kernel
 * dictates the order: container, group (viable: no device of it belongs to a host driver),
 * group into container, IOMMU type (once, type 1 v2), KVM told of the group, memory mapped,
 * device opened. One container serves all groups, so RAM is pinned and mapped once; a group is
 * opened once however many of its devices are passed through (a second open is EBUSY).
 * Main thread only, but for mapping and unmapping: any thread.
 */
#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vfio/vfio_info.h"
#include "vfio/vfio_kernel.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/util.h"

/* ---- DMA ---- */

static void read_ranges(const struct vfio_iommu_type1_info *info,
                        struct vfio_dma_limits *limits)
{
    struct vfio_iommu_type1_info_cap_iova_range cap;
    struct vfio_iova_range next;
    uint32_t at = vfio_info_find_cap(info, info->cap_offset,
                                     VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, &cap, sizeof(cap));
    for (uint64_t i = 0; at && i < cap.nr_iovas; i++) {
        if (!vfio_info_read(info, at + sizeof(cap) + i * sizeof(next), &next, sizeof(next)))
            return;
        if (limits->nr < VFIO_IOVA_RANGES_MAX)
            limits->range[limits->nr] = next;
        limits->nr++;
    }
}

static int iommu_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    union {
        struct vfio_iommu_type1_info info;
        char room[VFIO_KERNEL_ANSWER_MAX];
    } m = {0};
    struct vfio_iommu_type1_info_dma_avail cap;
    int err = vfio_kernel_ask(kernel->fd, VFIO_IOMMU_GET_INFO, sizeof(m.info), &m);
    if (err)
        return err;
    if (m.info.flags & VFIO_IOMMU_INFO_PGSIZES)
        limits->page = m.info.iova_pgsizes;
    if (!(m.info.flags & VFIO_IOMMU_INFO_CAPS))
        return 0;
    read_ranges(&m.info, limits);
    if (vfio_info_find_cap(&m, m.info.cap_offset, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, &cap,
                           sizeof(cap)))
        limits->avail = cap.avail;
    return 0;
}

/* FD is for providers in another process; the kernel sees our memory. */
static int iommu_map(struct vfio_iommu *iommu, uint64_t iova, uint64_t size, void *hva, int fd,
                     uint64_t fd_offset)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct vfio_iommu_type1_dma_map map = {
        .argsz = sizeof(map),
        .flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        .vaddr = (uintptr_t)hva,
        .iova = iova,
        .size = size,
    };
    (void)fd;
    (void)fd_offset;
    return ioctl(kernel->fd, VFIO_IOMMU_MAP_DMA, &map) < 0 ? -errno : 0;
}

static int iommu_unmap(struct vfio_iommu *iommu, uint64_t iova, uint64_t size)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct vfio_iommu_type1_dma_unmap unmap = {
        .argsz = sizeof(unmap), .iova = iova, .size = size};
    if (ioctl(kernel->fd, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0)
        return -errno;
    return unmap.size == size ? 0 : -ENOENT;
}

const struct vfio_iommu_ops vfio_container_ops = {
    .limits = iommu_limits,
    .map = iommu_map,
    .unmap = iommu_unmap,
};

/* ---- container and groups ---- */

int vfio_container_open(struct vfio_kernel *kernel, const char *name)
{
    int fd = vfio_kernel_open_node(name, VFIO_CONTAINER,
                                   "the vfio module is not loaded; run as root: modprobe "
                                   "vfio-pci");
    if (fd < 0)
        return fd;
    int version = ioctl(fd, VFIO_GET_API_VERSION);
    if (version != VFIO_API_VERSION) {
        log_error(name,
                  "cannot use " VFIO_CONTAINER ": it speaks version %d of the VFIO API, not "
                  "%d; use another kernel",
                  version, VFIO_API_VERSION);
        goto close_fd;
    }
    if (ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0) {
        log_error(name,
                  "cannot use " VFIO_CONTAINER ": it has no type 1 v2 IOMMU; run as root: "
                  "modprobe vfio_iommu_type1");
        goto close_fd;
    }
    kernel->fd = fd;
    return 0;
close_fd:
    close(fd);
    return -ENOTSUP;
}

static int check_viable(const char *sysfs, const char *name, int fd)
{
    struct vfio_group_status status = {.argsz = sizeof(status)};
    struct vfio_sysfs_neighbours near;
    int number = vfio_sysfs_group(sysfs);
    if (ioctl(fd, VFIO_GROUP_GET_STATUS, &status) < 0) {
        int err = -errno;
        log_error(name, "cannot use IOMMU group %d: %s; dmesg may tell more", number,
                  strerror(-err));
        return err;
    }
    if (status.flags & VFIO_GROUP_FLAGS_VIABLE)
        return 0;
    vfio_sysfs_neighbours(number, &near);
    vfio_kernel_not_viable(sysfs, &near);
    return -EPERM;
}

/* The first group brings the IOMMU with it; the kernel attaches later ones when they join. */
static int join_container(struct vfio_kernel *kernel, const char *name, const char *node,
                          int fd)
{
    if (ioctl(fd, VFIO_GROUP_SET_CONTAINER, &kernel->fd) == 0 &&
        (kernel->files || ioctl(kernel->fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0))
        return 0;
    int err = -errno;
    if (err == -EPERM)
        vfio_kernel_not_remapped(name, "vfio_iommu_type1");
    else
        log_error(name, "cannot attach %s: %s; dmesg may tell more", node, strerror(-err));
    return err;
}

int vfio_container_attach(struct vfio_kernel *kernel, const char *sysfs, const char *name,
                          const char *node)
{
    if (vfio_kernel_find(kernel, node))
        return 0;
    int fd = vfio_kernel_open_node(name, node,
                                   "there is no such node; let this container see it, or use "
                                   "a kernel with CONFIG_VFIO_GROUP");
    if (fd < 0)
        return fd;
    int err = check_viable(sysfs, name, fd);
    if (!err)
        err = join_container(kernel, name, node, fd);
    if (!err)
        return vfio_kernel_add(kernel, name, node, fd);
    close(fd); /* takes it out of the container as well */
    return err;
}
