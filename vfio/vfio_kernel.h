/*
 * vfio_kernel.h: what vfio_kernel.c (container, groups, IOMMU) and vfio_kernel_dev.c (a
 * device's descriptor) share. Nobody else includes it.
 */
#pragma once

#include "vfio/vfio.h"

struct vfio_kernel_group {
    struct vfio_kernel_group *next;
    int number; /* /sys/kernel/iommu_groups/NUMBER, /dev/vfio/NUMBER */
    int fd;
};

struct vfio_kernel {
    struct vfio_iommu iommu;
    struct hv *hv;
    int container;                    /* -1 before the first group */
    struct vfio_kernel_group *groups; /* in the container; the first one set the IOMMU type */
};

const struct vfio_kernel_group *vfio_kernel_find_group(const struct vfio_kernel *kernel,
                                                       uint32_t number);

/*
 * The VFIO calls that answer with a fixed structure and a chain of capabilities: asks again
 * with more room as long as the kernel wants it. HEAD is the question (its argsz is filled in);
 * *OUT, which the caller frees, the answer (NULL when there is none). Its length is at its
 * start (argsz).
 */
int vfio_kernel_get_info(int fd, unsigned long request, const void *head, uint32_t size,
                         void **out);

/* The device behind FD, which it owns from here on, also when this fails. */
int vfio_kernel_device_create(struct vfio_kernel *kernel, int fd, const char *name,
                              struct vfio_device **out);
