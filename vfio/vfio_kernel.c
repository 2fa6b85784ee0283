/*
 * vfio_kernel.c: the kernel's VFIO: what its two ways, groups in a container (vfio_container.c)
 * and an iommufd (vfio_iommufd.c), have in common.
 *
 * Linux Documentation/driver-api/vfio.rst. What can be seen in sysfs is checked first: it gives
 * better messages than an errno. Left out: no-IOMMU mode (a guest's DMA would hit the host's
 * memory), a VF token.
 * Main thread only.
 */
#include "vfio/vfio_kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vfio/vfio_sysfs.h"
#include "vmm/hv.h"
#include "vmm/log.h"
#include "vmm/util.h"

/* ---- files: groups, or devices' own nodes ---- */

int vfio_kernel_create(struct vfio_kernel **out, struct hv *hv, bool iommufd)
{
    const char *name = iommufd ? VFIO_IOMMUFD : VFIO_CONTAINER;
    struct vfio_kernel *kernel = malloc(sizeof(*kernel));
    if (!kernel) {
        log_error(name, "cannot open it: out of memory; free some on the host");
        return -ENOMEM;
    }
    *kernel = (struct vfio_kernel){
        .iommu = {.ops = iommufd ? &vfio_iommufd_ops : &vfio_container_ops, .name = name},
        .hv = hv,
        .is_iommufd = iommufd,
        .fd = -1,
    };
    *out = kernel;
    return 0;
}

/* The hypervisor's reference goes first: it would keep a device open, and a kernel before 6.0
 * counts it as a user of the group, which then cannot leave the container. */
void vfio_kernel_release(struct vfio_kernel *kernel, struct vfio_kernel_file *file)
{
    struct vfio_kernel_file **at = &kernel->files;
    while (*at != file)
        at = &(*at)->next;
    *at = file->next;
    kernel->hv->ops->vfio_file_remove(kernel->hv, file->fd);
    if (!kernel->is_iommufd)
        ioctl(file->fd, VFIO_GROUP_UNSET_CONTAINER);
    close(file->fd);
    free(file);
}

void vfio_kernel_destroy(struct vfio_kernel *kernel)
{
    if (!kernel)
        return;
    while (kernel->files)
        vfio_kernel_release(kernel, kernel->files);
    if (kernel->fd >= 0)
        close(kernel->fd);
    free(kernel);
}

struct vfio_iommu *vfio_kernel_iommu(struct vfio_kernel *kernel)
{
    return &kernel->iommu;
}

const struct vfio_kernel_file *vfio_kernel_find(const struct vfio_kernel *kernel,
                                                const char *node)
{
    const struct vfio_kernel_file *file = kernel->files;
    while (file && strcmp(file->node, node) != 0)
        file = file->next;
    return file;
}

int vfio_kernel_add(struct vfio_kernel *kernel, const char *name, const char *node, int fd)
{
    struct vfio_kernel_file *file = malloc(sizeof(*file));
    int err = file ? kernel->hv->ops->vfio_file_add(kernel->hv, fd) : -ENOMEM;
    if (err) {
        log_error(name, "cannot tell KVM of %s: %s; the kernel needs CONFIG_KVM_VFIO", node,
                  strerror(-err));
        free(file);
        close(fd);
        return err;
    }
    *file = (struct vfio_kernel_file){.next = kernel->files, .fd = fd};
    snprintf(file->node, sizeof(file->node), "%s", node);
    kernel->files = file;
    return 0;
}

void vfio_kernel_close_device(struct vfio_kernel *kernel, int fd)
{
    struct vfio_kernel_file *file = kernel->files;
    while (file && file->fd != fd)
        file = file->next;
    if (file)
        vfio_kernel_release(kernel, file);
    else
        close(fd);
}

int vfio_kernel_open_node(const char *name, const char *node, const char *missing)
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

/* ---- what stands in the way ---- */

/* Whether there is a way to isolate the device's DMA. A kernel without CONFIG_VFIO_GROUP gives
 * no group to a mediated device. */
static int check_group(const struct vfio_kernel *kernel, const char *sysfs, const char *name)
{
    char noiommu[32];
    int number = vfio_sysfs_group(sysfs);
    if (number < 0 && !(kernel->is_iommufd && vfio_sysfs_has(sysfs, "vfio-dev"))) {
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
    return 0;
}

/* What `minivmm host` takes for the device: only PCI devices are found by their name. */
static const char *host_name(const char *sysfs)
{
    unsigned addr[4];
    const char *name = vfio_sysfs_name(sysfs);
    return vfio_sysfs_pci_address(name, addr) ? name : sysfs;
}

static int check_driver(const char *sysfs, const char *name)
{
    char driver[64], bus[16];
    vfio_sysfs_driver(sysfs, driver, sizeof(driver));
    if (vfio_sysfs_is_vfio(sysfs, driver))
        return 0;
    vfio_sysfs_bus(sysfs, bus, sizeof(bus));
    log_error(name,
              "cannot use device: it is bound to %s%s, not to vfio-%s; run as root: minivmm "
              "host bind %s",
              driver[0] ? "the host's driver " : "no driver", driver, bus, host_name(sysfs));
    return driver[0] ? -EBUSY : -ENODEV;
}

void vfio_kernel_not_viable(const char *sysfs, const struct vfio_sysfs_neighbours *near)
{
    log_error(vfio_sysfs_name(sysfs),
              "cannot use IOMMU group %d (%s): drivers of the host use it too; run as root: "
              "minivmm host bind %s",
              vfio_sysfs_group(sysfs), near->all, host_name(sysfs));
}

void vfio_kernel_not_remapped(const char *name, const char *module)
{
    log_error(name,
              "cannot attach device: this machine does not remap interrupts (dmesg may tell "
              "more); turn that on in the firmware, or trust the guest and run as root: echo "
              "1 > /sys/module/%s/parameters/allow_unsafe_interrupts",
              module);
}

void vfio_kernel_not_opened(const char *name, int err)
{
    const char *hint = "dmesg may tell more";
    if (err == -ENODEV)
        hint = "its driver took it out of VFIO; bind it again";
    else if (err == -EACCES)
        hint = "it is a virtual function whose physical function has a VF token, which is not "
               "supported; bind that one to its own driver";
    else if (err == -EBUSY)
        hint = "somebody else uses it; stop that first";
    log_error(name, "cannot open device: %s; %s", strerror(-err), hint);
}

/* ---- both ways ---- */

/* The file that stands for the device, also where it does not exist. */
static void node_of(const char *sysfs, bool iommufd, char *node, size_t size)
{
    if (!iommufd)
        snprintf(node, size, "/dev/vfio/%d", vfio_sysfs_group(sysfs));
    else if (vfio_sysfs_cdev(sysfs, node, size))
        snprintf(node, size, "/dev/vfio/devices/vfio*");
}

static bool reachable(const char *const *sysfs, unsigned nr, bool iommufd, int mode)
{
    char node[VFIO_NODE_SIZE];
    bool ok = access(iommufd ? VFIO_IOMMUFD : VFIO_CONTAINER, mode) == 0;
    for (unsigned i = 0; i < nr && ok; i++) {
        node_of(sysfs[i], iommufd, node, sizeof(node));
        ok = access(node, mode) == 0;
    }
    return ok;
}

bool vfio_kernel_prefers_iommufd(const char *const *sysfs, unsigned nr)
{
    static const int mode[] = {R_OK | W_OK, F_OK};
    for (size_t i = 0; i < ARRAY_SIZE(mode); i++) {
        if (reachable(sysfs, nr, false, mode[i]))
            return false;
        if (reachable(sysfs, nr, true, mode[i]))
            return true;
    }
    return false;
}

int vfio_kernel_attach(struct vfio_kernel *kernel, const char *sysfs)
{
    const char *name = vfio_sysfs_name(sysfs);
    char node[VFIO_NODE_SIZE];
    int err = check_group(kernel, sysfs, name);
    if (!err && kernel->fd < 0)
        err = kernel->is_iommufd ? vfio_iommufd_open(kernel, name)
                                 : vfio_container_open(kernel, name);
    if (!err)
        err = check_driver(sysfs, name);
    if (err)
        return err;
    node_of(sysfs, kernel->is_iommufd, node, sizeof(node));
    return kernel->is_iommufd ? vfio_iommufd_attach(kernel, sysfs, name, node)
                              : vfio_container_attach(kernel, sysfs, name, node);
}

int vfio_kernel_open_device(struct vfio_kernel *kernel, const char *sysfs,
                            struct vfio_device **out)
{
    const char *name = vfio_sysfs_name(sysfs);
    char node[VFIO_NODE_SIZE];
    node_of(sysfs, kernel->is_iommufd, node, sizeof(node));
    const struct vfio_kernel_file *file = vfio_kernel_find(kernel, node);
    int fd = -1;
    errno = ENODEV;
    if (file)
        fd = kernel->is_iommufd ? file->fd : ioctl(file->fd, VFIO_GROUP_GET_DEVICE_FD, name);
    if (fd < 0) {
        int err = -errno;
        vfio_kernel_not_opened(name, err);
        return err;
    }
    int err = vfio_kernel_device_create(kernel, fd, name, out);
    if (!err && !((*out)->flags & VFIO_DEVICE_FLAGS_PCI))
        vfio_sysfs_identify(sysfs, *out);
    return err;
}
