/*
 * vfio_sysfs.c: which device is meant, who drives it, and with whom it shares its IOMMU group.
 *
 * Only reads sysfs (Linux Documentation/ABI/testing/sysfs-bus-pci, sysfs-bus-platform and
 * sysfs-kernel-iommu_groups; Documentation/driver-api/vfio.rst, "Groups, Devices, and IOMMUs")
 * and, to name who has a node open, /proc (proc(5), /proc/pid/fd). Nothing is bound or unbound
 * here. No state; any thread.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vfio/vfio.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define HEX_DIGITS "0123456789abcdefABCDEF"

/* Drivers that leave a group viable although they are not VFIO's: they start no DMA. */
static const char *const harmless[] = {"pci-stub", "pcieport"};

const char *vfio_sysfs_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The last part of what the symbolic link DIR/LINK points to; -errno when there is none. */
static int link_name(const char *dir, const char *link, char *name, size_t size)
{
    char path[PATH_MAX], target[PATH_MAX];
    snprintf(path, sizeof(path), "%s/%s", dir, link);
    ssize_t len = readlink(path, target, sizeof(target) - 1);
    if (len < 0)
        return -errno;
    target[len] = '\0';
    snprintf(name, size, "%s", vfio_sysfs_name(target));
    return 0;
}

/* "[DDDD:]BB:DD.F" in hexadecimal, nothing before or after; a missing domain is 0. */
static bool parse_pci_address(const char *text, unsigned addr[4])
{
    int end = 0;
    /* sscanf() alone would take signs, blanks and 0x. */
    if (text[strspn(text, HEX_DIGITS ":.")])
        return false;
    if (sscanf(text, "%8x:%2x:%2x.%1x%n", &addr[0], &addr[1], &addr[2], &addr[3], &end) != 4) {
        addr[0] = 0;
        if (sscanf(text, "%2x:%2x.%1x%n", &addr[1], &addr[2], &addr[3], &end) != 3)
            return false;
    }
    return !text[end] && addr[2] < 32 && addr[3] < 8;
}

static int find_by_path(const char *text, char *path, size_t size)
{
    char real[PATH_MAX], subsystem[PATH_MAX];
    if (!realpath(text, real)) {
        int err = -errno;
        log_error(text, "cannot find device: %s; ls -d /sys/bus/*/devices/* shows them",
                  strerror(-err));
        return err;
    }
    int len = snprintf(subsystem, sizeof(subsystem), "%s/subsystem", real);
    if (strncmp(real, "/sys/", 5) != 0 || len >= (int)sizeof(subsystem) ||
        access(subsystem, F_OK) < 0 || snprintf(path, size, "%s", real) >= (int)size) {
        log_error(text, "cannot use device: this is no device's directory in sysfs; give one "
                        "such as /sys/bus/pci/devices/0000:42:00.0");
        return -ENODEV;
    }
    return 0;
}

int vfio_sysfs_find(const char *text, char *path, size_t size)
{
    unsigned addr[4];
    if (text[0] == '/')
        return find_by_path(text, path, size);
    if (!parse_pci_address(text, addr)) {
        log_error(text, "cannot find device: this is no PCI address; give one such as "
                        "0000:42:00.0, 42:00.0 or a path in /sys (lspci -D lists them)");
        return -EINVAL;
    }
    snprintf(path, size, "/sys/bus/pci/devices/%04x:%02x:%02x.%x", addr[0], addr[1], addr[2],
             addr[3]);
    if (access(path, F_OK) < 0) {
        int err = -errno;
        log_error(vfio_sysfs_name(path),
                  "cannot find device: this machine has none there; lspci -D lists them");
        return err;
    }
    return 0;
}

void vfio_sysfs_bus(const char *path, char *bus, size_t size)
{
    bus[0] = '\0';
    link_name(path, "subsystem", bus, size);
}

void vfio_sysfs_driver(const char *path, char *driver, size_t size)
{
    driver[0] = '\0';
    link_name(path, "driver", driver, size);
}

int vfio_sysfs_group(const char *path)
{
    char name[16], *end;
    if (link_name(path, "iommu_group", name, sizeof(name)))
        return -ENOENT;
    unsigned long number = strtoul(name, &end, 10);
    return end != name && !*end && number <= INT_MAX ? (int)number : -ENOENT;
}

/* The name alone does not tell: NVIDIA's vGPU driver has a VFIO device and is called nvidia. */
bool vfio_sysfs_is_vfio(const char *path, const char *driver)
{
    char dir[PATH_MAX + 16];
    snprintf(dir, sizeof(dir), "%s/vfio-dev", path);
    return strstr(driver, "vfio") || access(dir, F_OK) == 0;
}

/* The file's first line or, where it is a list of strings, the first of them; "": there is
 * none, or it does not fit. */
static void read_first(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? 0 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[len < 0 ? 0 : len] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (strlen(text) == size - 1)
        text[0] = '\0';
}

/* sysfs-firmware-ofw and sysfs-bus-acpi in Documentation/ABI/testing. */
void vfio_sysfs_identify(const char *path, struct vfio_device *dev)
{
    char file[PATH_MAX];
    snprintf(file, sizeof(file), "%s/of_node/compatible", path);
    read_first(file, dev->compatible, sizeof(dev->compatible));
    snprintf(file, sizeof(file), "%s/firmware_node/hid", path);
    read_first(file, dev->hid, sizeof(dev->hid));
}

static bool holds_group(const char *path, const char *driver)
{
    for (size_t i = 0; i < ARRAY_SIZE(harmless); i++) {
        if (!strcmp(driver, harmless[i]))
            return false;
    }
    return driver[0] && !vfio_sysfs_is_vfio(path, driver);
}

/* Adds to a list; one that is full ends in "..." from then on. */
static void append(char *list, size_t size, const char *separator, const char *item)
{
    static const char more[] = " ...";
    size_t len = strlen(list), tail = sizeof(more) - 1;
    if (len >= tail && !strcmp(list + len - tail, more))
        return;
    if (len + strlen(separator) + strlen(item) + sizeof(more) > size)
        snprintf(list + len, size - len, "%s", more);
    else
        snprintf(list + len, size - len, "%s%s", len ? separator : "", item);
}

static void add_neighbour(struct vfio_sysfs_neighbours *out, const char *path)
{
    const char *name = vfio_sysfs_name(path);
    char driver[64], item[128];
    vfio_sysfs_driver(path, driver, sizeof(driver));
    snprintf(item, sizeof(item), "%.60s %s", name, driver[0] ? driver : "(no driver)");
    append(out->all, sizeof(out->all), ", ", item);
    if (holds_group(path, driver))
        append(out->in_use, sizeof(out->in_use), " ", name);
}

void vfio_sysfs_neighbours(int group, struct vfio_sysfs_neighbours *out)
{
    struct dirent **entry;
    char dir[64], path[PATH_MAX];

    out->all[0] = out->in_use[0] = '\0';
    snprintf(dir, sizeof(dir), "/sys/kernel/iommu_groups/%d/devices", group);
    int nr = scandir(dir, &entry, NULL, alphasort);
    for (int i = 0; i < nr; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.')
            add_neighbour(out, path);
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
}

static bool has_open(const char *pid, const char *node)
{
    struct dirent **entry;
    char dir[300], path[600], target[PATH_MAX];
    bool found = false;

    snprintf(dir, sizeof(dir), "/proc/%s/fd", pid);
    int nr = scandir(dir, &entry, NULL, NULL);
    for (int i = 0; i < nr; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, entry[i]->d_name);
        ssize_t len = readlink(path, target, sizeof(target));
        found |= len == (ssize_t)strlen(node) && !memcmp(target, node, strlen(node));
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
    return found;
}

static void process_name(const char *pid, char *text, size_t size)
{
    char path[300], comm[32];
    snprintf(path, sizeof(path), "/proc/%s/comm", pid);
    read_first(path, comm, sizeof(comm));
    snprintf(text, size, "process %s (%s)", pid, comm);
}

void vfio_sysfs_holder(const char *node, char *text, size_t size)
{
    struct dirent **entry;
    bool found = false;

    snprintf(text, size, "another process (root may see which: fuser %s)", node);
    int nr = scandir("/proc", &entry, NULL, NULL);
    for (int i = 0; i < nr; i++) {
        const char *pid = entry[i]->d_name;
        if (!found && strspn(pid, "0123456789") == strlen(pid) && has_open(pid, node)) {
            process_name(pid, text, size);
            found = true;
        }
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
}
