/*
 * vfio_sysfs.c: which device is meant, who drives it, and with whom it shares its IOMMU group.
 *
 * From sysfs (Linux Documentation/ABI/testing/sysfs-bus-pci, sysfs-bus-platform and
 * sysfs-kernel-iommu_groups; Documentation/driver-api/vfio.rst, "Groups, Devices, and IOMMUs")
 * and, to name who has a node open, /proc (proc(5), /proc/pid/fd). Nothing is bound or unbound
 * here; names that stand for several devices are in vfio_name.c. No state; any thread.
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

static bool join(char *path, const char *dir, const char *name)
{
    return snprintf(path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX;
}

const char *vfio_sysfs_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int vfio_sysfs_link(const char *dir, const char *link, char *name, size_t size)
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

bool vfio_sysfs_pci_address(const char *text, unsigned addr[4])
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
    if (!vfio_sysfs_pci_address(text, addr)) {
        log_error(text,
                  "cannot find device: this is no PCI address; give one such as "
                  "0000:42:00.0, 42:00.0 or a path in /sys (minivmm host list shows them)");
        return -EINVAL;
    }
    snprintf(path, size, "/sys/bus/pci/devices/%04x:%02x:%02x.%x", addr[0], addr[1], addr[2],
             addr[3]);
    if (access(path, F_OK) < 0) {
        int err = -errno;
        log_error(
            vfio_sysfs_name(path),
            "cannot find device: this machine has none there; minivmm host list shows them");
        return err;
    }
    return 0;
}

void vfio_sysfs_bus(const char *path, char *bus, size_t size)
{
    bus[0] = '\0';
    vfio_sysfs_link(path, "subsystem", bus, size);
}

void vfio_sysfs_driver(const char *path, char *driver, size_t size)
{
    driver[0] = '\0';
    vfio_sysfs_link(path, "driver", driver, size);
}

int vfio_sysfs_group(const char *path)
{
    char name[16], *end;
    if (vfio_sysfs_link(path, "iommu_group", name, sizeof(name)))
        return -ENOENT;
    unsigned long number = strtoul(name, &end, 10);
    return end != name && !*end && number <= INT_MAX ? (int)number : -ENOENT;
}

int vfio_sysfs_cdev(const char *path, char *node, size_t size)
{
    char dir[PATH_MAX], name[32];
    if (!join(dir, path, "vfio-dev"))
        return -ENOENT;
    vfio_sysfs_names(dir, name, sizeof(name));
    snprintf(node, size, "/dev/vfio/devices/%s", name);
    return name[0] ? 0 : -ENOENT;
}

/* The name alone does not tell: NVIDIA's vGPU driver has a VFIO device and is called nvidia. */
bool vfio_sysfs_is_vfio(const char *path, const char *driver)
{
    return strstr(driver, "vfio") || vfio_sysfs_has(path, "vfio-dev");
}

void vfio_sysfs_line(const char *dir, const char *name, char *text, size_t size)
{
    char path[PATH_MAX];
    int fd = join(path, dir, name) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t len = fd < 0 ? 0 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[len < 0 ? 0 : len] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (strlen(text) == size - 1)
        text[0] = '\0';
}

unsigned vfio_sysfs_number(const char *dir, const char *name)
{
    char text[24];
    vfio_sysfs_line(dir, name, text, sizeof(text));
    return (unsigned)strtoul(text, NULL, 0);
}

bool vfio_sysfs_has(const char *dir, const char *name)
{
    char path[PATH_MAX];
    return join(path, dir, name) && access(path, F_OK) == 0;
}

char *vfio_sysfs_load(const char *path)
{
    enum { STEP = 1 << 16, MOST = 16 << 20 };
    char *text = NULL;
    size_t len = 0;
    ssize_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && len < MOST) {
        char *more = realloc(text, len + STEP + 1);
        if (!more)
            break;
        text = more;
        got = read(fd, text + len, STEP);
        if (got <= 0)
            break;
        len += (size_t)got;
    }
    if (fd >= 0)
        close(fd);
    if (text)
        text[len] = '\0';
    return text;
}

int vfio_sysfs_write(const char *dir, const char *name, const char *text)
{
    char path[PATH_MAX];
    int fd = join(path, dir, name) ? open(path, O_WRONLY | O_TRUNC | O_CLOEXEC) : -1;
    if (fd < 0)
        return -errno;
    int err = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return err;
}

/* sysfs-firmware-ofw and sysfs-bus-acpi in Documentation/ABI/testing. */
void vfio_sysfs_identify(const char *path, struct vfio_device *dev)
{
    /* A list of strings, each with its NUL: the first. */
    vfio_sysfs_line(path, "of_node/compatible", dev->compatible, sizeof(dev->compatible));
    vfio_sysfs_line(path, "firmware_node/hid", dev->hid, sizeof(dev->hid));
}

static bool holds_group(const char *path, const char *driver)
{
    for (size_t i = 0; i < ARRAY_SIZE(harmless); i++) {
        if (!strcmp(driver, harmless[i]))
            return false;
    }
    return driver[0] && !vfio_sysfs_is_vfio(path, driver);
}

void vfio_sysfs_append(char *list, size_t size, const char *separator, const char *item)
{
    static const char more[] = " ...";
    size_t len = strlen(list), tail = sizeof(more) - 1;
    if (!item[0] || (len >= tail && !strcmp(list + len - tail, more)))
        return;
    if (len + strlen(separator) + strlen(item) + sizeof(more) > size)
        snprintf(list + len, size - len, "%s", more);
    else
        snprintf(list + len, size - len, "%s%s", len ? separator : "", item);
}

void vfio_sysfs_names(const char *dir, char *list, size_t size)
{
    struct dirent **entry;
    list[0] = '\0';
    int nr = scandir(dir, &entry, NULL, alphasort);
    for (int i = 0; i < nr; i++) {
        if (entry[i]->d_name[0] != '.')
            vfio_sysfs_append(list, size, " ", entry[i]->d_name);
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
}

static void add_neighbour(struct vfio_sysfs_neighbours *out, const char *path)
{
    const char *name = vfio_sysfs_name(path);
    char driver[64], item[128];
    vfio_sysfs_driver(path, driver, sizeof(driver));
    snprintf(item, sizeof(item), "%.60s %s", name, driver[0] ? driver : "(no driver)");
    vfio_sysfs_append(out->all, sizeof(out->all), ", ", item);
    if (holds_group(path, driver))
        vfio_sysfs_append(out->in_use, sizeof(out->in_use), " ", name);
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

bool vfio_sysfs_holder(const char *node, char *text, size_t size)
{
    struct dirent **entry;
    char dir[300], comm[32];
    bool found = false;
    snprintf(text, size, "another process (root may see which: fuser %s)", node);
    int nr = scandir("/proc", &entry, NULL, NULL);
    for (int i = 0; i < nr; i++) {
        const char *pid = entry[i]->d_name;
        if (!found && strspn(pid, "0123456789") == strlen(pid) && has_open(pid, node)) {
            snprintf(dir, sizeof(dir), "/proc/%s", pid);
            vfio_sysfs_line(dir, "comm", comm, sizeof(comm));
            snprintf(text, size, "process %s (%s)", pid, comm);
            found = true;
        }
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
    return found;
}

/* The kernel refuses a group while one of its devices is open by its own node; of a node it
 * says nothing before the device is bound to an iommufd. */
bool vfio_sysfs_held(const char *path, char *who, size_t size)
{
    char node[64];
    snprintf(node, sizeof(node), "/dev/vfio/%d", vfio_sysfs_group(path));
    int fd = open(node, O_RDWR | O_CLOEXEC);
    bool held = fd < 0 && errno == EBUSY;
    if (fd >= 0)
        close(fd);
    if (held && vfio_sysfs_holder(node, who, size))
        return true;
    if (!vfio_sysfs_cdev(path, node, sizeof(node)) && vfio_sysfs_holder(node, who, size))
        return true;
    return held;
}
