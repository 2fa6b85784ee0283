/*
 * vfio_kernel.h: what vfio_kernel.c, its two ways (vfio_container.c: groups; vfio_iommufd.c:
 * devices' own nodes) and vfio_kernel_dev.c (a device's descriptor) share. Nobody else includes
 * it.
 */
#pragma once

#include "vfio/vfio.h"

#define VFIO_CONTAINER "/dev/vfio/vfio"
#define VFIO_IOMMUFD   "/dev/iommu"
#define VFIO_NODE_SIZE 64

/* A group; with iommufd a device, which stays its owner's until it is closed. */
struct vfio_kernel_file {
    struct vfio_kernel_file *next;
    char node[VFIO_NODE_SIZE]; /* /dev/vfio/15, /dev/vfio/devices/vfio0 */
    int fd;
};

struct vfio_kernel {
    struct vfio_iommu iommu;
    struct hv *hv;
    bool is_iommufd;
    int fd;                         /* container or iommufd; -1 before the first device */
    uint32_t ioas;                  /* the iommufd's address space */
    struct vfio_kernel_file *files; /* attached, and known to HV */
};

const struct vfio_kernel_file *vfio_kernel_find(const struct vfio_kernel *kernel,
                                                const char *node);
/* Opens NODE on behalf of device NAME; MISSING says why it may not be there. */
int vfio_kernel_open_node(const char *name, const char *node, const char *missing);
/* FD of NODE is KERNEL's from here on, also when this fails, and HV is told of it. */
int vfio_kernel_add(struct vfio_kernel *kernel, const char *name, const char *node, int fd);
void vfio_kernel_release(struct vfio_kernel *kernel, struct vfio_kernel_file *file);

/* Messages that both ways have use for. */
struct vfio_sysfs_neighbours;
void vfio_kernel_not_viable(const char *sysfs, const struct vfio_sysfs_neighbours *near);
void vfio_kernel_not_remapped(const char *name, const char *module);
void vfio_kernel_not_opened(const char *name, int err);

/* ---- vfio_container.c, vfio_iommufd.c: the first device opens it; each is attached ---- */

extern const struct vfio_iommu_ops vfio_container_ops, vfio_iommufd_ops;
int vfio_container_open(struct vfio_kernel *kernel, const char *name);
int vfio_container_attach(struct vfio_kernel *kernel, const char *sysfs, const char *name,
                          const char *node);
int vfio_iommufd_open(struct vfio_kernel *kernel, const char *name);
int vfio_iommufd_attach(struct vfio_kernel *kernel, const char *sysfs, const char *name,
                        const char *node);

/* ---- vfio_kernel_dev.c ---- */

#define VFIO_KERNEL_ANSWER_MAX 65536U /* the biggest one worth asking for */
/*
 * The VFIO calls that answer with a fixed structure and a chain of capabilities: asks again
 * with more room as long as the kernel wants it. The first SIZE bytes of M, which has room for
 * the biggest, are the question (its argsz is filled in), then the answer, its length at its
 * start (argsz).
 */
int vfio_kernel_ask(int fd, unsigned long request, uint32_t size, void *m);

/* The device behind FD, which it owns from here on, also when this fails. */
int vfio_kernel_device_create(struct vfio_kernel *kernel, int fd, const char *name,
                              struct vfio_device **out);
/* Its end; one of the files above is released. */
void vfio_kernel_close_device(struct vfio_kernel *kernel, int fd);
