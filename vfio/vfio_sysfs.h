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
/* Whether TEXT is "[DDDD:]BB:DD.F" in hexadecimal, nothing before or after; a missing domain is
 * 0. */
bool vfio_sysfs_pci_address(const char *text, unsigned addr[4]);
/* "pci", "platform". */
void vfio_sysfs_bus(const char *path, char *bus, size_t size);
/* "vfio-pci", "" when no driver is bound. */
void vfio_sysfs_driver(const char *path, char *driver, size_t size);
/* IOMMU group number; -ENOENT when the device has none. */
int vfio_sysfs_group(const char *path);
/* The device's own VFIO node, /dev/vfio/devices/vfio0; -ENOENT when it has none: no VFIO
 * driver, or a kernel before 6.6 or without CONFIG_VFIO_DEVICE_CDEV. */
int vfio_sysfs_cdev(const char *path, char *node, size_t size);
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
/* Who has NODE open: "process 4711 (qemu)". False: nobody as far as this user may see, and then
 * WHO says that. */
bool vfio_sysfs_holder(const char *node, char *who, size_t size);
/* Whether a process has the group of the device at PATH or the device's own node, and who. */
bool vfio_sysfs_held(const char *path, char *who, size_t size);

/* The last part of what the symbolic link DIR/LINK points to; -errno when there is none. */
int vfio_sysfs_link(const char *dir, const char *link, char *name, size_t size);
/* The first line of the file DIR/NAME, or the first string of a list of them; "": there is
 * none, or it does not fit. */
void vfio_sysfs_line(const char *dir, const char *name, char *text, size_t size);
/* As a number, by its prefix hexadecimal; 0: there is none. */
unsigned vfio_sysfs_number(const char *dir, const char *name);
bool vfio_sysfs_has(const char *dir, const char *name);
/* A whole file, or the first 16 MiB of it, for free(); NULL: it cannot be read. */
char *vfio_sysfs_load(const char *path);
int vfio_sysfs_write(const char *dir, const char *name, const char *text);
/* The names of all in a directory, sorted, with blanks in between; as vfio_sysfs_append(). */
void vfio_sysfs_names(const char *dir, char *list, size_t size);
/* Adds to a list of words; one that is full ends in " ..." from then on. */
void vfio_sysfs_append(char *list, size_t size, const char *separator, const char *item);

/* ---- vfio_name.c: the names that users give ---- */

struct vfio_path {
    char text[512];
};

/* Whether the device at PATH is to be had, where any of several with one ID will do. */
typedef bool vfio_name_filter(const char *path, const void *opaque);

/*
 * The sysfs directories of all devices that NAME stands for: 0000:42:00.0, 42:00.0, 42:00 (all
 * functions of a card but virtual ones), 10de:1b80 or 10de:1b80:COUNT (by ID, the first that
 * FREE lets pass), a sysfs path, a mediated device's UUID. Returns how many, or a negative
 * errno after a message; that there are more than ROOM is an error, too.
 */
int vfio_name_find(const char *name, vfio_name_filter *free, const void *opaque,
                   struct vfio_path *out, unsigned room);

/* Makes a mediated device of PARENT/TYPE: TYPE as in PARENT's mdev_supported_types, PARENT a
 * PCI address, a path or a name in /sys/class/mdev_bus. Both log their own errors. */
int vfio_mdev_create(const char *name, struct vfio_path *out);
void vfio_mdev_remove(const char *path);
