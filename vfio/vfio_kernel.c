/*
 * vfio_kernel.c: the kernel's VFIO: container, groups, DMA mappings.
 *
 * Linux Documentation/driver-api/vfio.rst, "VFIO Usage Example", and linux/vfio.h. The kernel
 * dictates the order: container, group (viable: no device of it belongs to a host driver),
 * group into container, IOMMU type (once, type 1 v2), KVM told of the group, memory mapped,
 * device opened. One container serves all groups, so RAM is pinned and mapped once; a group is
 * opened once however many of its devices are passed through (a second open is EBUSY).
 *
 * What can be seen in sysfs is checked first: it gives better messages than an errno. Left out:
 * no-IOMMU mode (a guest's DMA would hit the host's memory), a VF token, iommufd.
 * Main thread only.
 */
#include "vfio/vfio_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vfio/vfio_info.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/hv.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define CONTAINER "/dev/vfio/vfio"

/* How to free DEVICES, of the same bus as SYSFS, from their host drivers: see sysfs-bus-pci and
 * sysfs-bus-platform. The buses' drivers are called vfio-pci, vfio-platform, vfio-amba. */
struct bind_command {
    char bus[16];
    char text[512];
};

static void bind_command(const char *sysfs, const char *devices, struct bind_command *out)
{
    vfio_sysfs_bus(sysfs, out->bus, sizeof(out->bus));
    snprintf(out->text, sizeof(out->text),
             "run as root: modprobe vfio-%s; for d in %s; do cd /sys/bus/%s/devices/$d; "
             "echo vfio-%s > driver_override; echo $d > driver/unbind; "
             "echo $d > /sys/bus/%s/drivers_probe; done",
             out->bus, devices, out->bus, out->bus, out->bus);
}

/* ---- DMA ---- */

static void read_ranges(const struct vfio_iommu_type1_info *info, struct vfio_iova_range *range,
                        unsigned room, unsigned *nr)
{
    struct vfio_iommu_type1_info_cap_iova_range cap;
    struct vfio_iova_range next;
    uint32_t at = vfio_info_find_cap(info, info->cap_offset,
                                     VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, &cap, sizeof(cap));
    *nr = 0;
    for (uint64_t i = 0; at && i < cap.nr_iovas; i++) {
        if (!vfio_info_read(info, at + sizeof(cap) + i * sizeof(next), &next, sizeof(next)))
            return;
        if (*nr < room)
            range[*nr] = next;
        ++*nr;
    }
}

static int iommu_info(struct vfio_iommu *iommu, struct vfio_iova_range *range, unsigned nr,
                      uint64_t *pgsizes, uint32_t *avail)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct vfio_iommu_type1_info head = {0}, *info;
    struct vfio_iommu_type1_info_dma_avail cap;
    unsigned found = 0;
    void *answer;

    int err = vfio_kernel_get_info(kernel->container, VFIO_IOMMU_GET_INFO, &head, sizeof(head),
                                   &answer);
    if (!answer)
        return err;
    info = answer;
    *pgsizes = info->flags & VFIO_IOMMU_INFO_PGSIZES ? info->iova_pgsizes : 0;
    *avail = UINT32_MAX;
    if (info->flags & VFIO_IOMMU_INFO_CAPS) {
        read_ranges(info, range, nr, &found);
        if (vfio_info_find_cap(info, info->cap_offset, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, &cap,
                               sizeof(cap)))
            *avail = cap.avail;
    }
    free(answer);
    return (int)found;
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
    return ioctl(kernel->container, VFIO_IOMMU_MAP_DMA, &map) < 0 ? -errno : 0;
}

static int iommu_unmap(struct vfio_iommu *iommu, uint64_t iova, uint64_t size)
{
    const struct vfio_kernel *kernel = container_of(iommu, struct vfio_kernel, iommu);
    struct vfio_iommu_type1_dma_unmap unmap = {
        .argsz = sizeof(unmap), .iova = iova, .size = size};
    if (ioctl(kernel->container, VFIO_IOMMU_UNMAP_DMA, &unmap) < 0)
        return -errno;
    return unmap.size == size ? 0 : -ENOENT;
}

static const struct vfio_iommu_ops iommu_ops = {
    .info = iommu_info,
    .map = iommu_map,
    .unmap = iommu_unmap,
};

/* ---- container and groups ---- */

int vfio_kernel_create(struct vfio_kernel **out, struct hv *hv)
{
    struct vfio_kernel *kernel = malloc(sizeof(*kernel));
    if (!kernel) {
        log_error(CONTAINER, "cannot open container: out of memory; free some on the host");
        return -ENOMEM;
    }
    *kernel = (struct vfio_kernel){
        .iommu = {.ops = &iommu_ops, .name = CONTAINER},
        .hv = hv,
        .container = -1,
    };
    *out = kernel;
    return 0;
}

/* The hypervisor's reference goes first: a kernel before 6.0 counts it as a user of the group,
 * which then cannot leave the container. */
static void release_group(struct vfio_kernel *kernel, struct vfio_kernel_group *group)
{
    kernel->hv->ops->vfio_file_remove(kernel->hv, group->fd);
    ioctl(group->fd, VFIO_GROUP_UNSET_CONTAINER);
    close(group->fd);
    free(group);
}

void vfio_kernel_destroy(struct vfio_kernel *kernel)
{
    if (!kernel)
        return;
    while (kernel->groups) {
        struct vfio_kernel_group *group = kernel->groups;
        kernel->groups = group->next;
        release_group(kernel, group);
    }
    if (kernel->container >= 0)
        close(kernel->container);
    free(kernel);
}

struct vfio_iommu *vfio_kernel_iommu(struct vfio_kernel *kernel)
{
    return &kernel->iommu;
}

const struct vfio_kernel_group *vfio_kernel_find_group(const struct vfio_kernel *kernel,
                                                       uint32_t number)
{
    const struct vfio_kernel_group *group = kernel->groups;
    while (group && (uint32_t)group->number != number)
        group = group->next;
    return group;
}

/* Opens NODE on behalf of device NAME; MISSING says why it may not be there. */
static int open_node(const char *name, const char *node, const char *missing)
{
    char holder[160];
    int fd = open(node, O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    int err = -errno;
    switch (-err) {
    case ENOENT:
    case ENODEV: /* a node that udev made in advance, without a driver behind it */
    case ENXIO:
        log_error(name, "cannot open %s: %s", node, missing);
        break;
    case EACCES:
    case EPERM:
        log_error(name, "cannot open %s: no permission; run as root: chown %u %s", node,
                  getuid(), node);
        break;
    case EBUSY:
        vfio_sysfs_holder(node, holder, sizeof(holder));
        log_error(name, "cannot open %s: in use by %s; stop that first", node, holder);
        break;
    default:
        log_error(name, "cannot open %s: %s; dmesg may tell more", node, strerror(-err));
    }
    return err;
}

static int open_container(struct vfio_kernel *kernel, const char *name)
{
    int fd = open_node(name, CONTAINER,
                       "the vfio module is not loaded; run as root: modprobe "
                       "vfio-pci");
    if (fd < 0)
        return fd;
    int version = ioctl(fd, VFIO_GET_API_VERSION);
    if (version != VFIO_API_VERSION) {
        log_error(name,
                  "cannot use " CONTAINER ": it speaks version %d of the VFIO API, not "
                  "%d; use another kernel",
                  version, VFIO_API_VERSION);
        goto close_fd;
    }
    if (ioctl(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0) {
        log_error(name, "cannot use " CONTAINER ": it has no type 1 v2 IOMMU; run as root: "
                        "modprobe vfio_iommu_type1");
        goto close_fd;
    }
    kernel->container = fd;
    return 0;
close_fd:
    close(fd);
    return -ENOTSUP;
}

/* The group's number, or why there is no way to isolate the device's DMA. */
static int check_group(const char *sysfs, const char *name)
{
    char noiommu[32];
    int number = vfio_sysfs_group(sysfs);
    if (number < 0) {
        log_error(name,
                  "cannot isolate device: it is in no IOMMU group, so the IOMMU is off or "
                  "missing; turn VT-d or AMD-Vi on in the firmware and boot the host with "
                  "intel_iommu=on or amd_iommu=on");
        return number;
    }
    snprintf(noiommu, sizeof(noiommu), "/dev/vfio/noiommu-%d", number);
    if (access(noiommu, F_OK) == 0) {
        log_error(name,
                  "cannot isolate device: it is bound in no-IOMMU mode, which lets a guest "
                  "write to any memory of the host; turn the IOMMU on and "
                  "enable_unsafe_noiommu_mode off");
        return -ENOTSUP;
    }
    return number;
}

static int check_driver(const char *sysfs, const char *name)
{
    struct bind_command bind;
    char driver[64];
    vfio_sysfs_driver(sysfs, driver, sizeof(driver));
    if (vfio_sysfs_is_vfio(sysfs, driver))
        return 0;
    bind_command(sysfs, name, &bind);
    log_error(name, "cannot use device: it is bound to %s%s, not to vfio-%s; %s",
              driver[0] ? "the host's driver " : "no driver", driver, bind.bus, bind.text);
    return driver[0] ? -EBUSY : -ENODEV;
}

static int check_viable(const char *sysfs, const char *name, int number, int fd)
{
    struct bind_command bind;
    struct vfio_group_status status = {.argsz = sizeof(status)};
    struct vfio_sysfs_neighbours near;
    if (ioctl(fd, VFIO_GROUP_GET_STATUS, &status) < 0) {
        int err = -errno;
        log_error(name, "cannot use IOMMU group %d: %s; dmesg may tell more", number,
                  strerror(-err));
        return err;
    }
    if (status.flags & VFIO_GROUP_FLAGS_VIABLE)
        return 0;
    vfio_sysfs_neighbours(number, &near);
    bind_command(sysfs, near.in_use[0] ? near.in_use : name, &bind);
    log_error(name, "cannot use IOMMU group %d (%s): drivers of the host use it too; %s",
              number, near.all, bind.text);
    return -EPERM;
}

/* The first group brings the IOMMU with it; the kernel attaches later ones when they join. */
static int join_container(struct vfio_kernel *kernel, const char *name, int number, int fd)
{
    if (ioctl(fd, VFIO_GROUP_SET_CONTAINER, &kernel->container) == 0 &&
        (kernel->groups || ioctl(kernel->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0))
        return 0;
    int err = -errno;
    if (err == -EPERM)
        log_error(name,
                  "cannot attach IOMMU group %d: this machine does not remap interrupts "
                  "(dmesg may tell more); turn that on in the firmware, or trust the guest "
                  "and run as root: echo 1 > "
                  "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
                  number);
    else
        log_error(name, "cannot attach IOMMU group %d: %s; dmesg may tell more", number,
                  strerror(-err));
    return err;
}

static int add_group(struct vfio_kernel *kernel, const char *sysfs, int number)
{
    const char *name = vfio_sysfs_name(sysfs);
    char node[32];
    snprintf(node, sizeof(node), "/dev/vfio/%d", number);
    int fd = open_node(name, node,
                       "there is no such node; let this container see it, or use a "
                       "kernel with CONFIG_VFIO_GROUP");
    if (fd < 0)
        return fd;
    struct vfio_kernel_group *group = NULL;
    int err = check_viable(sysfs, name, number, fd);
    if (!err)
        err = join_container(kernel, name, number, fd);
    if (err)
        goto close_fd;
    group = malloc(sizeof(*group));
    err = group ? kernel->hv->ops->vfio_file_add(kernel->hv, fd) : -ENOMEM;
    if (err) {
        log_error(name,
                  "cannot tell KVM of IOMMU group %d: %s; the kernel needs CONFIG_KVM_VFIO",
                  number, strerror(-err));
        goto close_fd;
    }
    *group = (struct vfio_kernel_group){.next = kernel->groups, .number = number, .fd = fd};
    kernel->groups = group;
    return 0;
close_fd:
    free(group);
    close(fd); /* takes it out of the container as well */
    return err;
}

int vfio_kernel_open_group(struct vfio_kernel *kernel, const char *sysfs)
{
    const char *name = vfio_sysfs_name(sysfs);
    int number = check_group(sysfs, name);
    if (number < 0)
        return number;
    int err = kernel->container < 0 ? open_container(kernel, name) : 0;
    if (!err)
        err = check_driver(sysfs, name);
    if (err || vfio_kernel_find_group(kernel, (uint32_t)number))
        return err;
    return add_group(kernel, sysfs, number);
}

static const char *device_fd_hint(int err)
{
    switch (err) {
    case -ENODEV:
        return "its driver took it out of VFIO; bind it again";
    case -EACCES:
        return "it is a virtual function whose physical function has a VF token, which is not "
               "supported; bind that one to its own driver";
    case -EBUSY:
        return "somebody else uses it; stop that first";
    default:
        return "dmesg may tell more";
    }
}

int vfio_kernel_open_device(struct vfio_kernel *kernel, const char *sysfs,
                            struct vfio_device **out)
{
    const char *name = vfio_sysfs_name(sysfs);
    const struct vfio_kernel_group *group =
        vfio_kernel_find_group(kernel, (uint32_t)vfio_sysfs_group(sysfs));
    int fd = -1;
    errno = ENODEV;
    if (group)
        fd = ioctl(group->fd, VFIO_GROUP_GET_DEVICE_FD, name);
    if (fd < 0) {
        int err = -errno;
        log_error(name, "cannot open device: %s; %s", strerror(-err), device_fd_hint(err));
        return err;
    }
    int err = vfio_kernel_device_create(kernel, fd, name, out);
    if (!err && !((*out)->flags & VFIO_DEVICE_FLAGS_PCI))
        vfio_sysfs_identify(sysfs, *out);
    return err;
}
