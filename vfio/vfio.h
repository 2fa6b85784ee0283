/*
 * vfio.h: one interface to a passed-through device, whoever provides it.
 *
 * A provider (vfio_kernel.c: the kernel, by group and container or by iommufd; vfio_user.c: a
 * server behind a socket) opens devices; the PCI logic (vfio_pci*.c) and the platform logic are
 * written once, over these calls. Only providers make VFIO system calls. Sizes, flags and
 * offsets that a provider hands up come from a device that is not trusted: the provider has
 * checked that they are consistent (areas inside the region, no wrap).
 *
 * Flags are those of linux/vfio.h: VFIO_REGION_INFO_FLAG_*, VFIO_IRQ_INFO_*, VFIO_IRQ_SET_*.
 */
#pragma once

#include <linux/vfio.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hv;
struct loop;
struct mem;
struct vfio_device;
struct vfio_dma_limits;

/* A part of a region that may be mapped; page-aligned, ascending, disjoint. */
struct vfio_area {
    uint64_t offset, size;
};

/* A write of SIZE bytes (0: any number) at OFFSET may signal FD instead of region_write(). The
 * descriptor is the provider's, and gone when region_info() is called again for the region. */
struct vfio_ioeventfd {
    int fd;
    unsigned size;
    uint64_t offset;
};

#define VFIO_AREAS_MAX      64
#define VFIO_IOEVENTFDS_MAX 16

struct vfio_region {
    uint32_t index;
    uint32_t flags;
    uint64_t size;   /* 0: not there */
    uint64_t offset; /* the provider's own */
    /* Set by the user of the region: a write need not have arrived when region_write() returns
     * (PCI memory writes are posted: PCI 3.0, 3.2.5), but it precedes all later accesses of the
     * same thread. */
    bool posted;
    unsigned areas; /* mappable parts, for reading and writing */
    struct vfio_area area[VFIO_AREAS_MAX];
    unsigned ioeventfds;
    struct vfio_ioeventfd ioeventfd[VFIO_IOEVENTFDS_MAX];
};

/*
 * Where a device's DMA goes: one for all devices of the kernel, one for each
 * vfio-user server. IOVA = gpa: the guest's view is the device's.
 */
struct vfio_iommu {
    const struct vfio_iommu_ops *ops;
    const char *name; /* for messages */
};

struct vfio_iommu_ops {
    /* For vfio_dma_get_limits(): fills in what is known. NR may be more than there is room for,
     * and PAGE have a bit for each of several sizes. */
    int (*limits)(struct vfio_iommu *iommu, struct vfio_dma_limits *limits);
    /* [HVA, HVA + SIZE) is FD at FD_OFFSET where the provider wants a descriptor (-1: none). */
    int (*map)(struct vfio_iommu *iommu, uint64_t iova, uint64_t size, void *hva, int fd,
               uint64_t fd_offset);
    /* Exactly what was mapped. Of the kernel's IOMMU, map and unmap may come from any thread
     * (vfio_p2p.c), of a server's from the main thread only. */
    int (*unmap)(struct vfio_iommu *iommu, uint64_t iova, uint64_t size);
};

struct vfio_device_ops {
    int (*region_info)(struct vfio_device *dev, uint32_t index, struct vfio_region *region);
    /* LEN bytes at OFFSET of REGION in one access (1, 2, 4 or 8 for a BAR). 0 or negative
     * errno; a short transfer is -EIO. */
    int (*region_read)(struct vfio_device *dev, const struct vfio_region *region,
                       uint64_t offset, void *data, size_t len);
    int (*region_write)(struct vfio_device *dev, const struct vfio_region *region,
                        uint64_t offset, const void *data, size_t len);
    /* Maps AREA of REGION at ADDR (MAP_FIXED over the caller's own reservation). */
    int (*region_mmap)(struct vfio_device *dev, const struct vfio_region *region,
                       const struct vfio_area *area, void *addr);
    int (*irq_info)(struct vfio_device *dev, uint32_t index, struct vfio_irq_info *info);
    /* VFIO_DEVICE_SET_IRQS: FDS has COUNT entries with VFIO_IRQ_SET_DATA_EVENTFD, else NULL.
     * Returns 0, a positive count where fewer vectors are possible, or a negative errno. */
    int (*irq_set)(struct vfio_device *dev, uint32_t index, uint32_t flags, uint32_t start,
                   uint32_t count, const int *fds);
    /* Function reset, else hot reset where every affected device is ours. -ENOTTY: neither. */
    int (*reset)(struct vfio_device *dev);
    /* Releases it. Its group and its mappings stay the provider's. */
    void (*close)(struct vfio_device *dev);
};

struct vfio_device {
    const struct vfio_device_ops *ops;
    char name[128]; /* as in messages: 0000:42:00.0, a socket's path */
    uint32_t flags; /* VFIO_DEVICE_FLAGS_* */
    uint32_t regions, irqs;
    struct vfio_iommu *iommu; /* the provider's; shared by devices */
    char compatible[64];      /* of a platform device, as in a device tree; "": not known */
    char hid[16];             /* ... or its ACPI hardware id */

    /*
     * A device behind a socket can be lost, and for ever: like a card that fell off the bus.
     * LOST is set by any thread, after a message; all calls fail with -EIO from then on. Then,
     * once, the main thread calls ON_LOST (set by who uses the device, NULL: nobody), with no
     * lock held: the device's memory slots have to go, and its interrupts to fall silent.
     */
    atomic_bool lost;
    void (*on_lost)(void *opaque);
    void *opaque;
    /* The device looks at the MSI and MSI-X control words in its configuration space: after
     * SET_IRQS the guest's value is written there. The kernel does that by itself. */
    bool wants_msi_control;
};

/* ---- vfio_kernel.c: /dev/vfio, /dev/iommu ---- */

struct vfio_kernel;

/*
 * The kernel has two ways to its devices: by groups in a container, and by a node of each
 * device and an iommufd (Linux 6.6). One is for all devices of a VM; which, is not seen
 * afterwards. Opens nothing yet. HV is told of every group or device (KVM_VFIO) before a device
 * is opened.
 */
int vfio_kernel_create(struct vfio_kernel **out, struct hv *hv, bool iommufd);
/*
 * Which one, where the user does not care, for the NR devices at SYSFS: groups where this user
 * may have them, else iommufd where he may have that, else what is there at all. Groups first:
 * iommufd cannot map a device's memory for another device's DMA (before Linux 6.19, and then in
 * another manner).
 */
bool vfio_kernel_prefers_iommufd(const char *const *sysfs, unsigned nr);
/* After all its devices are closed: releases the groups and the container, or the iommufd. NULL
 * is fine. */
void vfio_kernel_destroy(struct vfio_kernel *kernel);

/*
 * Attaches the device SYSFS (a path such as /sys/bus/pci/devices/0000:42:00.0) to the IOMMU:
 * its group, if viable, to the container, or itself to the iommufd. Every device first
 * (vfio_kernel_attach), then RAM is mapped (vfio_dma_map_ram), then the devices are opened.
 * Errors are logged with every device of the group, its driver and the command that frees it.
 */
int vfio_kernel_attach(struct vfio_kernel *kernel, const char *sysfs);
struct vfio_iommu *vfio_kernel_iommu(struct vfio_kernel *kernel);
int vfio_kernel_open_device(struct vfio_kernel *kernel, const char *sysfs,
                            struct vfio_device **out);

/* ---- vfio_user.c: a vfio-user server, which is one device ---- */

struct vfio_user;

/*
 * Connects to the server at the socket PATH, agrees with it on the protocol, and asks for its
 * device. Its descriptors are watched in LOOP. Then RAM is mapped (vfio_dma_map_ram), then the
 * device is used and closed, then RAM unmapped. Logs its own errors.
 */
int vfio_user_connect(struct vfio_user **out, const char *path, struct loop *loop);
void vfio_user_destroy(struct vfio_user *user); /* NULL is fine */
struct vfio_device *vfio_user_device(struct vfio_user *user);

/* ---- vfio_dma.c ---- */

/* What an IOMMU can map. */
#define VFIO_IOVA_RANGES_MAX 64

struct vfio_dma_limits {
    unsigned nr; /* valid ranges of IOVAs, inclusive; 0: not known */
    struct vfio_iova_range range[VFIO_IOVA_RANGES_MAX];
    uint64_t page;  /* the smallest */
    uint32_t avail; /* mappings left */
};

/* 0 or negative errno. */
int vfio_dma_get_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits);
/* Whether all of [IOVA, IOVA + SIZE) is in one range. */
bool vfio_dma_in_range(const struct vfio_dma_limits *limits, uint64_t iova, uint64_t size);
/* The first address above all ranges; UINT64_MAX where there is no such thing. */
uint64_t vfio_dma_end(const struct vfio_dma_limits *limits);
/* The ranges as text, cut where there are many. */
struct vfio_dma_text {
    char s[256];
};
struct vfio_dma_text vfio_dma_ranges_text(const struct vfio_dma_limits *limits);

/* "16M", "4K", "128": the largest unit that leaves no remainder, as --memory takes it. */
struct vfio_size_text {
    char s[24];
};
struct vfio_size_text vfio_size_text(uint64_t size);

/* "raise it by 'ulimit -l 4096', ...": how RLIMIT_MEMLOCK comes to be SIZE bytes. */
struct vfio_memlock_text {
    char s[160];
};
struct vfio_memlock_text vfio_memlock_text(uint64_t size);

/*
 * Maps all RAM for the device's DMA, after checking every region against the IOMMU's page
 * sizes, its valid IOVA ranges and the mappings left; undoes everything on failure. Logs its
 * own errors (RLIMIT_MEMLOCK with the figure needed) and one note per mapping.
 */
int vfio_dma_map_ram(struct vfio_iommu *iommu, const struct mem *mem);
void vfio_dma_unmap_ram(struct vfio_iommu *iommu, const struct mem *mem);
