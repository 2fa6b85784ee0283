/*
 * fake_vfio_kernel.h: the kernel's VFIO for unit tests, put in place of the system calls.
 *
 * The test binary is linked with -Wl,--wrap for open, close, ioctl, access, readlink, realpath,
 * scandir, mkdir and unlink. Without fake_vfio_kernel_init() they are the real ones. With it,
 * /dev/vfio and /dev/iommu are played by the state below with the kernel's own rules of order
 * (linux/vfio.h), and /sys, /proc, /run, /usr/share and some of /dev are a temporary
 * directory's; what a test writes to standard error is caught. A device's descriptor is a
 * memfd, so reading, writing and mapping it are real.
 *
 * One at a time, one thread: a wrapped call has no handle to pass. Criterion runs each test in
 * its own process.
 */
#pragma once

#include <linux/vfio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fake_hv;

#define FAKE_FDS     1024
#define FAKE_REGIONS 9
#define FAKE_GROUP   15
#define FAKE_DEVICE  "0000:42:00.0"
#define FAKE_SYSFS   "/sys/bus/pci/devices/" FAKE_DEVICE
#define FAKE_CDEV    "/dev/vfio/devices/vfio0" /* of the first device, see fake_iommufd() */

enum fake_kind { FAKE_NONE, FAKE_CONTAINER, FAKE_GROUP_FD, FAKE_DEVICE_FD, FAKE_IOMMUFD };

/* A test that is run for both of the kernel's ways, by two suites with a set-up each. */
#define FAKE_TEST_BOTH(suite, name)        \
    static void suite##_both_##name(void); \
    Test(suite, name)                      \
    {                                      \
        suite##_both_##name();             \
    }                                      \
    Test(suite##_iommufd, name)            \
    {                                      \
        suite##_both_##name();             \
    }                                      \
    static void suite##_both_##name(void)

struct fake_answer {
    void *bytes; /* of a GET_INFO call, argsz at the start; NULL: EINVAL */
    uint32_t len;
    uint32_t grows; /* asks for so much more each time */
};

struct fake_vfio_kernel {
    /* What it answers; set up for one viable group with one device, everything succeeding. */
    int api_version;
    bool type1v2;
    int open_errno[2]; /* 0: container or iommufd, 1: group or device's node */
    uint32_t group_flags;
    int set_container_errno, set_iommu_errno; /* with iommufd: of binding, of attaching */
    int device_fd_errno, map_errno;
    bool cdevs; /* a VFIO driver's device gets its own node: see fake_iommufd() */
    unsigned cdev_nr;
    struct vfio_iova_range iova[65];
    uint32_t iovas;
    uint64_t iova_alignment;
    uint32_t device_flags, regions, irqs;
    struct fake_answer iommu;
    struct fake_answer region[FAKE_REGIONS];
    const void
        *config; /* 256 bytes, at offset 7 << 40 of the device's descriptor; NULL: zeroes */
    struct vfio_irq_info irq;
    int irq_ret;
    struct vfio_pci_dependent_device affected[8];
    uint32_t affected_nr;
    bool affected_owned; /* by the iommufd of the device */
    int hot_reset_errno;

    /* Called after a file was opened for writing and closed: what the kernel does upon it. */
    void (*written)(const char *path, const char *text);
    /* Of descriptors that are not VFIO's. NULL: the real one. */
    int (*other_ioctl)(int fd, unsigned long request, void *arg);
    const char *busy;   /* this file is refused with EBUSY */
    const char *denied; /* files whose names begin so are with EACCES, by access() */

    /* The Nth wrapped call (from 1) but close fails with fail_errno. */
    unsigned fail_at;
    int fail_errno;

    /* What happened. */
    char trace[4096]; /* one line for each VFIO call, in order */
    unsigned calls;
    enum fake_kind kind[FAKE_FDS];
    int number[FAKE_FDS];  /* of a group; of a device's group or node */
    bool joined[FAKE_FDS]; /* group to the container, device's node to the iommufd */
    bool is_cdev[FAKE_FDS], attached[FAKE_FDS];
    char writing[FAKE_FDS][128];
    unsigned live; /* descriptors open */
    bool iommu_set;
    bool cloexec_missing;
    const struct fake_hv *hv; /* a device opened before this knows its group is an error */
    bool hv_missed;           /* ... and so is a file closed that it knows */
    unsigned maps, resets, hot_resets;
    struct vfio_iommu_type1_dma_map map[8];
    uint32_t irq_argsz, irq_flags, irq_index, irq_start, irq_count; /* of the last SET_IRQS */
    int irq_fd[4];
    uint32_t hot_reset_count, hot_reset_argsz;
    int hot_reset_fd[8];
};

struct fake_vfio_kernel *fake_vfio_kernel_init(void);
void fake_vfio_kernel_fini(void);

/* From now on a device bound to a driver called vfio-something has a node of its own: the one
 * that is there vfio0, the next vfio1. */
void fake_iommufd(void);

/* A PCI device in sysfs; GROUP -1: none, DRIVER NULL: none. */
void fake_sysfs_device(const char *name, int group, const char *driver);
/* One of /sys/devices/platform, whose device tree node has COMPATIBLE. */
void fake_sysfs_platform(const char *name, int group, const char *driver,
                         const char *compatible);
void fake_sysfs_driver(const char *name, const char *driver);
/* A file, a directory (TEXT NULL) or a symbolic link, at PATH of the machine played. */
void fake_file(const char *path, const char *text);
void fake_link(const char *path, const char *target);
/* One of these, with all that is in it. */
void fake_remove(const char *path);

/* What was written to standard error since the last call. */
const char *fake_log(void);
/* Waits until another thread has logged a line with WORD, and leaves it there. */
void fake_log_await(const char *word);
/* The number of lines in LOG that have WORD. */
unsigned fake_log_lines(const char *log, const char *word);
