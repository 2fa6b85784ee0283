/*
 * vfio_sysfs.h: what the host says about its devices: names as users write them, drivers, IOMMU
 * groups, attributes. For --vfio and for `minivmm host`.
 *
 * Everything read is data of bounded size; a name is never handed to a shell. No state; any
 * thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct vfio_device;

/* The sysfs directory of a device given as 0000:42:00.0, 42:00.0 or a sysfs path; logs its own
 * error when there is no such device. */
int vfio_sysfs_find(const char *text, char *path, size_t size);
/* "pci", "platform". */
void vfio_sysfs_bus(const char *path, char *bus, size_t size);
/* "vfio-pci", "" when no driver is bound. */
void vfio_sysfs_driver(const char *path, char *driver, size_t size);
/* IOMMU group number; -ENOENT when the device has none. */
int vfio_sysfs_group(const char *path);
/* The device's own name, the last part of PATH: 0000:42:00.0. */
const char *vfio_sysfs_name(const char *path);
/* Whether DRIVER, bound to PATH, gives devices to user space: vfio-pci or a vendor's own. */
bool vfio_sysfs_is_vfio(const char *path, const char *driver);

/* What the firmware calls the platform device at PATH: its compatible string or hardware id. */
void vfio_sysfs_identify(const char *path, struct vfio_device *dev);

/* The devices of an IOMMU group, as text for messages. */
struct vfio_sysfs_neighbours {
    char all[384];    /* "0000:42:00.0 vfio-pci, 0000:42:00.1 snd_hda_intel" */
    char in_use[192]; /* held by drivers of the host: "0000:42:00.1 0000:42:00.2" */
};
void vfio_sysfs_neighbours(int group, struct vfio_sysfs_neighbours *out);
/* Who has NODE open: "process 4711 (qemu)", as far as this user may see. */
void vfio_sysfs_holder(const char *node, char *text, size_t size);
