/*
 * host_bind.c: `minivmm host bind` and `unbind`: devices from their drivers to VFIO's, and
 * back.
 *
 * By driver_override, at run time, as Linux Documentation/ABI/testing/sysfs-bus-pci describes
 * (driver_override, unbind, drivers_probe) and sysfs-bus-platform alike. A group is taken
 * whole, for VFIO gives it away only whole; bridges between PCI buses stay with their driver,
 * which does no DMA. What driver a device had stands in /run/minivmm/ADDRESS, empty for none,
 * until it has it back. All or nothing: what was changed before something failed is changed
 * back.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/host.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define STATE_DIR "/run/minivmm"

/* PCI_BASE_CLASS_BRIDGE and PCI_CLASS_BRIDGE_PCI of linux/pci_ids.h, not part of the UAPI. */
#define CLASS_BRIDGE     0x06
#define CLASS_BRIDGE_PCI 0x0604

struct device {
    const char *path, *name; /* /sys/bus/pci/devices/0000:42:00.0, 0000:42:00.0 */
    char bus[64];            /* /sys/bus/pci */
    char vfio[24];           /* vfio-pci */
    char driver[64];         /* as it is now, "": none */
};

static void look_at(const char *path, struct device *d)
{
    char bus[16];
    d->path = path;
    d->name = vfio_sysfs_name(path);
    vfio_sysfs_bus(path, bus, sizeof(bus));
    snprintf(d->bus, sizeof(d->bus), "/sys/bus/%s", bus);
    snprintf(d->vfio, sizeof(d->vfio), "vfio-%s", bus);
    vfio_sysfs_driver(path, d->driver, sizeof(d->driver));
}

static int failed(const struct device *d, const char *what, int err, const char *hint)
{
    log_error(d->name, "cannot %s: %s; %s", what, strerror(-err), hint);
    return err;
}

/* ---- one device ---- */

static int remember(const struct device *d)
{
    if (mkdir(STATE_DIR, 0755) < 0 && errno != EEXIST)
        return -errno;
    char path[PATH_MAX];
    snprintf(path, sizeof(path), STATE_DIR "/%s", d->name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    int err = write(fd, d->driver, strlen(d->driver)) < 0 ? -errno : 0;
    close(fd);
    return err;
}

static int to_vfio(const char *path)
{
    struct device d;
    look_at(path, &d);
    int err = remember(&d);
    if (err)
        return failed(&d, "note the driver in " STATE_DIR, err, "see that it can be written");
    err = vfio_sysfs_write(path, "driver_override", d.vfio);
    if (!err && d.driver[0])
        err = vfio_sysfs_write(path, "driver/unbind", d.name);
    if (!err)
        err = vfio_sysfs_write(d.bus, "drivers_probe", d.name);
    char now[64];
    vfio_sysfs_driver(path, now, sizeof(now));
    if (!err && strcmp(now, d.vfio))
        err = -ENODEV;
    if (err)
        return failed(&d, "bind device to VFIO", err, "dmesg may tell more");
    log_note(d.name, "bound to %s (was: %s)", d.vfio, d.driver[0] ? d.driver : "no driver");
    return 0;
}

/* To the driver that is remembered, or else to whichever the kernel chooses. */
static int to_host(const char *path)
{
    struct device d;
    char had[64], file[PATH_MAX];
    look_at(path, &d);
    bool known = vfio_sysfs_has(STATE_DIR, d.name);
    vfio_sysfs_line(STATE_DIR, d.name, had, sizeof(had));
    int err = vfio_sysfs_write(path, "driver_override", "\n");
    if (!err && vfio_sysfs_is_vfio(path, d.driver))
        err = vfio_sysfs_write(path, "driver/unbind", d.name);
    if (err)
        return failed(&d, "take device from VFIO", err, "dmesg may tell more");
    vfio_sysfs_driver(path, d.driver, sizeof(d.driver));
    snprintf(file, sizeof(file), "drivers/%s/bind", had);
    if (!known)
        vfio_sysfs_write(d.bus, "drivers_probe", d.name);
    else if (had[0] && !d.driver[0])
        err = vfio_sysfs_write(d.bus, file, d.name);
    if (err) {
        log_error(d.name,
                  "cannot bind device to its driver %s: %s; run as root: modprobe %s; minivmm "
                  "host unbind %s",
                  had, strerror(-err), had, d.name);
        return err;
    }
    vfio_sysfs_driver(path, d.driver, sizeof(d.driver));
    snprintf(file, sizeof(file), STATE_DIR "/%s", d.name);
    unlink(file);
    log_note(d.name, "given back to %s", d.driver[0] ? d.driver : "no driver");
    return 0;
}

/* ---- whole groups ---- */

static bool is_bridge(const char *path)
{
    return vfio_sysfs_number(path, "class") >> 16 == CLASS_BRIDGE;
}

/* A bridge to ISA with a driver is as much in VFIO's way as any other device. */
static bool wants_vfio(const char *path)
{
    char driver[64];
    bool is_pci = vfio_sysfs_number(path, "class") >> 8 == CLASS_BRIDGE_PCI;
    vfio_sysfs_driver(path, driver, sizeof(driver));
    return !vfio_sysfs_is_vfio(path, driver) && !(is_bridge(path) && (is_pci || !driver[0]));
}

static bool wants_host(const char *path)
{
    return vfio_sysfs_has(STATE_DIR, vfio_sysfs_name(path));
}

static int add_target(struct host_devices *t, const char *path)
{
    for (unsigned i = 0; i < t->nr; i++) {
        if (!strcmp(vfio_sysfs_name(t->at[i].text), vfio_sysfs_name(path)))
            return 0;
    }
    if (t->nr == HOST_DEVICES_MAX) {
        log_error(path, "cannot use device: it is one of more than %d; name fewer",
                  HOST_DEVICES_MAX);
        return -E2BIG;
    }
    snprintf(t->at[t->nr++].text, sizeof(t->at[0].text), "%s", path);
    return 0;
}

/* Those of PATH's group that are WANTED. */
static int add_group(struct host_devices *t, const char *path, bool (*wanted)(const char *path))
{
    char dir[64], list[8192], member[320], *rest;
    int group = vfio_sysfs_group(path), err = 0;
    if (group < 0) {
        log_error(vfio_sysfs_name(path), "cannot isolate device: it is in no IOMMU group; "
                                         "minivmm host check says what to do");
        return group;
    }
    snprintf(dir, sizeof(dir), "/sys/kernel/iommu_groups/%d/devices", group);
    vfio_sysfs_names(dir, list, sizeof(list));
    for (char *c = strtok_r(list, " ", &rest); c && !err; c = strtok_r(NULL, " ", &rest)) {
        snprintf(member, sizeof(member), "%s/%.255s", dir, c);
        if (wanted(member))
            err = add_target(t, member);
    }
    return err;
}

/* Only those that are about to lose the driver they have. */
static int refuse_used(const struct host_devices *t, bool on_vfio)
{
    struct host_use use;
    char driver[64];
    for (unsigned i = 0; i < t->nr; i++) {
        const char *path = t->at[i].text;
        vfio_sysfs_driver(path, driver, sizeof(driver));
        if (vfio_sysfs_is_vfio(path, driver) == on_vfio && host_in_use(path, &use)) {
            log_error(vfio_sysfs_name(path),
                      "cannot take device: in use: %s; %s, or say --force", use.who, use.fix);
            return -EBUSY;
        }
    }
    return 0;
}

static int check_permission(void)
{
    if (access("/sys/bus/pci/drivers_probe", W_OK) == 0)
        return 0;
    int err = -errno;
    log_error("host", "cannot change drivers: %s; run it as root, where /sys can be written",
              strerror(-err));
    return err;
}

/* What can be known before anything is changed. */
static int check_bindable(const char *path)
{
    struct device d;
    look_at(path, &d);
    if (is_bridge(path)) {
        log_error(d.name, "cannot bind device: it is a bridge; name a device behind it");
        return -EINVAL;
    }
    if (vfio_sysfs_is_vfio(path, d.driver)) {
        log_note(d.name, "bound to %s already", d.driver);
        return 0;
    }
    char driver[32];
    snprintf(driver, sizeof(driver), "drivers/%s", d.vfio);
    if (vfio_sysfs_has(d.bus, driver))
        return 0;
    log_error(d.name,
              "cannot bind device: the driver %s is not there; run as root: modprobe %s",
              d.vfio, d.vfio);
    return -ENODEV;
}

int host_bind(const struct host_devices *named, bool force)
{
    struct host_devices t = {.nr = 0};
    int err = check_permission();
    for (unsigned i = 0; i < named->nr && !err; i++) {
        const char *path = named->at[i].text;
        err = check_bindable(path);
        if (!err && wants_vfio(path))
            err = add_target(&t, path);
        if (!err)
            err = add_group(&t, path, wants_vfio);
    }
    if (!err && !force)
        err = refuse_used(&t, false);
    for (unsigned i = 0; i < t.nr && !err; i++) {
        err = to_vfio(t.at[i].text);
        for (unsigned n = i + 1; n-- && err;)
            to_host(t.at[n].text);
    }
    return err;
}

int host_unbind(const struct host_devices *named, bool force)
{
    struct host_devices t = {.nr = 0};
    int err = check_permission();
    for (unsigned i = 0; i < named->nr && !err; i++) {
        err = add_target(&t, named->at[i].text);
        if (!err)
            err = add_group(&t, named->at[i].text, wants_host);
    }
    if (!err && !force)
        err = refuse_used(&t, true);
    if (err)
        return err;
    for (unsigned i = 0; i < t.nr; i++)
        err = to_host(t.at[i].text) ? -EIO : err;
    return err;
}
