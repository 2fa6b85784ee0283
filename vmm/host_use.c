/*
 * host_use.c: who uses a device that somebody wants to take away.
 *
 * A device's users are found by what its driver made of it: below its directory in sysfs are
 * its block devices, network interfaces, frame buffers, and everything that has a node in /dev
 * (Linux Documentation/ABI/stable/sysfs-devices and sysfs-block, testing/sysfs-class-net and
 * sysfs-bus-pci). A block device is mounted (proc(5), /proc/pid/mountinfo), swapped on, part of
 * another, or, which tells of ZFS and of other mount namespaces as well, refuses O_EXCL. That a
 * process has a node open is seen in /proc/pid/fd, as far as this user may look.
 * NVIDIA's own driver has no node in sysfs, but a file in /proc. Not seen: a process that has
 * mapped a BAR through sysfs, and a node made by hand under another name.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm/host.h"
#include "vmm/util.h"

struct search {
    char *mounts, *swaps; /* NULL: not readable */
    struct host_use *use;
};

/* A user, and the command FIX, whose argument is ON, that ends that. */
__attribute__((format(printf, 4, 5))) static bool found(struct search *s, const char *fix,
                                                        const char *on, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    /* As in log.c. NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized) */
    vsnprintf(s->use->who, sizeof(s->use->who), fmt, args);
    va_end(args);
    snprintf(s->use->fix, sizeof(s->use->fix), "%s %s", fix, on);
    return true;
}

static bool node_open(struct search *s, const char *node)
{
    char who[160];
    return vfio_sysfs_holder(node, who, sizeof(who)) &&
           found(s, "fuser -k", node, "%s has %s open", who, node);
}

/* A console of the kernel on such a driver ("frame buffer" or "VGA"), which is on NAME. */
static bool console_on(struct search *s, const char *driver, const char *name)
{
    char list[512], path[64], text[64], *rest;
    vfio_sysfs_names("/sys/class/vtconsole", list, sizeof(list));
    for (char *c = strtok_r(list, " ", &rest); c; c = strtok_r(NULL, " ", &rest)) {
        snprintf(path, sizeof(path), "/sys/class/vtconsole/%.32s", c);
        vfio_sysfs_line(path, "name", text, sizeof(text));
        if (!strstr(text, driver) || !vfio_sysfs_number(path, "bind"))
            continue;
        vfio_sysfs_append(path, sizeof(path), "/", "bind");
        return found(s, "echo 0 >", path, "the kernel's console (%s)", name);
    }
    return false;
}

/* NUMBER is "259:1", NODE "/dev/nvme0n1p1": a file system such as btrfs has a number of its own
 * and names the node. */
static bool mounted(struct search *s, const char *number, const char *node)
{
    char dev[24], where[200], source[64];
    for (const char *line = s->mounts; line && *line; line += *line == '\n') {
        const char *rest = line + strcspn(line, "\n"), *dash = strstr(line, " - ");
        source[0] = '\0';
        if (sscanf(line, "%*u %*u %23s %*s %199s", dev, where) != 2)
            dev[0] = '\0';
        if (dash && dash < rest)
            sscanf(dash, " - %*s %63s", source);
        if (dev[0] && (!strcmp(dev, number) || !strcmp(source, node)))
            return found(s, "umount", where, "mounted on %s (%s)", where, node);
        line = rest;
    }
    return false;
}

/* Names are padded with blanks, then a tab. */
static bool swapped_on(const struct search *s, const char *node)
{
    char blank[310], tab[310];
    snprintf(blank, sizeof(blank), "\n%s ", node);
    snprintf(tab, sizeof(tab), "\n%s\t", node);
    return s->swaps && (strstr(s->swaps, blank) || strstr(s->swaps, tab));
}

static bool walk(struct search *s, const char *dir);

/* An NVMe name space that could have several paths: nvme0c1n1 is this one, hidden, and the disk
 * is nvme0n1, elsewhere in sysfs. */
static bool multipath(struct search *s, const char *name)
{
    char dir[64];
    unsigned subsystem, controller, space;
    if (sscanf(name, "nvme%uc%un%u", &subsystem, &controller, &space) != 3)
        return false;
    snprintf(dir, sizeof(dir), "/sys/class/block/nvme%un%u", subsystem, space);
    return walk(s, dir);
}

static bool block_in_use(struct search *s, const char *dir)
{
    const char *name = vfio_sysfs_name(dir);
    char number[24], node[300], holders[128] = "", path[PATH_MAX];
    snprintf(node, sizeof(node), "/dev/%s", name);
    vfio_sysfs_line(dir, "dev", number, sizeof(number));
    if (mounted(s, number, node))
        return true;
    if (swapped_on(s, node))
        return found(s, "swapoff", node, "used for swapping (%s)", node);
    if (snprintf(path, sizeof(path), "%s/holders", dir) < PATH_MAX)
        vfio_sysfs_names(path, holders, sizeof(holders));
    if (holders[0])
        return found(s, "close (dmsetup, mdadm, vgchange)", holders, "part of %s (%s)", holders,
                     node);
    return multipath(s, name);
}

/* After its partitions, whose users have names. */
static bool claimed(struct search *s, const char *dir)
{
    char node[300];
    snprintf(node, sizeof(node), "/dev/%s", vfio_sysfs_name(dir));
    int fd = open(node, O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd < 0 && errno == EBUSY &&
           found(s, "see lsblk", node, "claimed by the kernel (%s)", node);
}

/* What stands after KEY in its line of the file at PATH. */
static bool value_of(const char *path, const char *key, char *value, size_t size)
{
    char *text = vfio_sysfs_load(path);
    const char *at = text ? strstr(text, key) : NULL;
    bool is_there = at != NULL;
    if (is_there) {
        at += strlen(key);
        snprintf(value, size, "%.*s", (int)strcspn(at, "\n"), at);
    }
    free(text);
    return is_there;
}

static bool has_node_open(struct search *s, const char *dir)
{
    char path[PATH_MAX], name[256], node[300];
    snprintf(path, sizeof(path), "%s/uevent", dir);
    if (!vfio_sysfs_has(dir, "dev") || !value_of(path, "DEVNAME=", name, sizeof(name)))
        return false;
    snprintf(node, sizeof(node), "/dev/%s", name);
    return node_open(s, node);
}

/* NVIDIA's driver: /proc/driver/nvidia/gpus/ADDRESS/information says which node is whose. */
static bool nvidia_open(struct search *s, const char *path)
{
    char file[600], minor[16], node[32];
    snprintf(file, sizeof(file), "/proc/driver/nvidia/gpus/%s/information",
             vfio_sysfs_name(path));
    if (!value_of(file, "Device Minor:", minor, sizeof(minor)))
        return false;
    snprintf(node, sizeof(node), "/dev/nvidia%lu", strtoul(minor, NULL, 10));
    return node_open(s, node);
}

static bool look(struct search *s, const char *dir, const char *class)
{
    const char *name = vfio_sysfs_name(dir);
    if (!strcmp(class, "block") && block_in_use(s, dir))
        return true;
    /* IFF_UP of linux/if.h */
    if (!strcmp(class, "net") && vfio_sysfs_number(dir, "flags") & 1)
        return found(s, "ip link set down", name, "the network interface %s, which is up",
                     name);
    if (!strcmp(class, "graphics") && console_on(s, "frame buffer", name))
        return true;
    return has_node_open(s, dir);
}

static int is_dir(const struct dirent *entry)
{
    return entry->d_type == DT_DIR && entry->d_name[0] != '.';
}

static bool walk(struct search *s, const char *dir)
{
    struct dirent **entry;
    char path[PATH_MAX], class[32] = "";
    vfio_sysfs_bus(dir, class, sizeof(class));
    bool used = look(s, dir, class);
    int nr = used ? -1 : scandir(dir, &entry, is_dir, alphasort);
    for (int i = 0; i < nr; i++) {
        if (!used && snprintf(path, sizeof(path), "%s/%s", dir, entry[i]->d_name) < PATH_MAX)
            used = walk(s, path);
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
    return used || (!strcmp(class, "block") && claimed(s, dir));
}

bool host_in_use(const char *path, struct host_use *use)
{
    struct search s = {.use = use};
    char node[600], who[160];
    unsigned vfs = vfio_sysfs_number(path, "sriov_numvfs");
    snprintf(node, sizeof(node), "%s/sriov_numvfs", path);
    if (vfs)
        return found(&s, "echo 0 >", node, "its %u virtual functions", vfs);
    if (!vfio_sysfs_cdev(path, node, sizeof(node)) && node_open(&s, node))
        return true;
    snprintf(node, sizeof(node), "/dev/vfio/%d", vfio_sysfs_group(path));
    if (vfio_sysfs_held(path, who, sizeof(who)))
        return found(&s, "fuser -k", node, "%s", who);
    if (vfio_sysfs_number(path, "boot_vga") &&
        (console_on(&s, "VGA", "firmware") || console_on(&s, "frame buffer", "firmware")))
        return true;
    s.mounts = vfio_sysfs_load("/proc/self/mountinfo");
    s.swaps = vfio_sysfs_load("/proc/swaps");
    bool used = nvidia_open(&s, path) || walk(&s, path);
    free(s.mounts);
    free(s.swaps);
    return used;
}
