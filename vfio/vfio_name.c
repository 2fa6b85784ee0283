/*
 * vfio_name.c: the names that users give devices, and the devices behind them.
 *
 * A name may stand for several devices: the functions of a card, or so many devices of one ID
 * (as an OpenStack PCI alias asks). Those of sysfs are in Linux Documentation/ABI/testing,
 * sysfs-bus-pci; mediated devices, which are made and removed by writing there, in
 * Documentation/driver-api/vfio-mediated-device.rst, "Mediated Device Management Interface
 * Through sysfs". unix:PATH is no business of this file. No state; any thread.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define PCI_DEVICES "/sys/bus/pci/devices"

struct wanted {
    char card[24]; /* "0000:42:00.", or "": by ID */
    unsigned vendor, device;
    vfio_name_filter *free;
    const void *opaque;
};

static bool matches(const struct wanted *w, const char *path)
{
    if (w->card[0])
        return !strncmp(vfio_sysfs_name(path), w->card, strlen(w->card)) &&
               !vfio_sysfs_has(path, "physfn");
    return vfio_sysfs_number(path, "vendor") == w->vendor &&
           vfio_sysfs_number(path, "device") == w->device &&
           (!w->free || w->free(path, w->opaque));
}

/* Stores the first ROOM that match; returns how many do, up to MOST. */
static unsigned collect(const struct wanted *w, unsigned most, struct vfio_path *out,
                        unsigned room)
{
    struct vfio_path path;
    struct dirent **entry;
    unsigned n = 0;
    int nr = scandir(PCI_DEVICES, &entry, NULL, alphasort);
    for (int i = 0; i < nr; i++) {
        snprintf(path.text, sizeof(path.text), PCI_DEVICES "/%s", entry[i]->d_name);
        if (n < most && entry[i]->d_name[0] != '.' && matches(w, path.text) && n++ < room)
            out[n - 1] = path;
        free(entry[i]);
    }
    if (nr >= 0)
        free(entry);
    return n;
}

static bool hex4(const char *text)
{
    return isxdigit((unsigned char)text[0]) && isxdigit((unsigned char)text[1]) &&
           isxdigit((unsigned char)text[2]) && isxdigit((unsigned char)text[3]);
}

/* "10de:1b80" or "10de:1b80:COUNT". */
static bool parse_id(const char *text, struct wanted *w, unsigned *count)
{
    *count = 1;
    if (!hex4(text) || text[4] != ':' || !hex4(text + 5) ||
        sscanf(text, "%4x:%4x", &w->vendor, &w->device) != 2)
        return false;
    const char *rest = text + 9;
    size_t digits = rest[0] == ':' ? strspn(rest + 1, "0123456789") : 0;
    if (digits == 0 || digits > 4 || rest[1 + digits])
        return !rest[0];
    *count = (unsigned)strtoul(rest + 1, NULL, 10);
    return *count > 0;
}

/* "42:00" or "0000:42:00". */
static bool parse_card(const char *text, struct wanted *w)
{
    char function[24];
    unsigned addr[4];
    if (strchr(text, '.') ||
        snprintf(function, sizeof(function), "%s.0", text) >= (int)sizeof(function) ||
        !vfio_sysfs_pci_address(function, addr))
        return false;
    snprintf(w->card, sizeof(w->card), "%04x:%02x:%02x.", addr[0], addr[1], addr[2]);
    return true;
}

static bool is_uuid(const char *text)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    for (size_t i = 0; i < sizeof(form); i++) {
        if (form[i] == 'x' ? !isxdigit((unsigned char)text[i]) : text[i] != form[i])
            return false;
    }
    return true;
}

static int find_by_id(const char *name, struct wanted *w, unsigned count, struct vfio_path *out,
                      unsigned room)
{
    unsigned n = collect(w, count, out, room);
    if (n == count)
        return (int)n;
    w->free = NULL;
    unsigned all = collect(w, UINT_MAX, NULL, 0);
    if (all)
        log_error(
            name,
            "cannot find devices: %u of this ID wanted, %u there, %u of them free; minivmm "
            "host check %04x:%04x:%u tells what each lacks",
            count, all, n, w->vendor, w->device, all);
    else
        log_error(name, "cannot find device: this machine has none of this ID; minivmm host "
                        "list shows them");
    return all ? -EBUSY : -ENOENT;
}

static int find_one(const char *name, struct vfio_path *out, unsigned room)
{
    struct vfio_path path = {""};
    int err = vfio_sysfs_find(name, path.text, sizeof(path.text));
    if (!err && room)
        *out = path;
    return err ? err : 1;
}

int vfio_name_find(const char *name, vfio_name_filter *free, const void *opaque,
                   struct vfio_path *out, unsigned room)
{
    struct wanted w = {.free = free, .opaque = opaque};
    char path[64];
    unsigned count;
    int nr;
    if (is_uuid(name)) {
        snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s", name);
        nr = find_one(path, out, room);
    } else if (parse_id(name, &w, &count)) {
        nr = find_by_id(name, &w, count, out, room);
    } else if (parse_card(name, &w)) {
        nr = (int)collect(&w, UINT_MAX, out, room);
        if (!nr) {
            log_error(name, "cannot find card: this machine has none there; minivmm host list "
                            "shows them");
            return -ENOENT;
        }
    } else {
        nr = find_one(name, out, room);
    }
    if (nr > (int)room) {
        log_error(name, "cannot use %d more devices: that is too many; name fewer", nr);
        return -E2BIG;
    }
    return nr;
}

/* ---- mediated devices ---- */

int vfio_mdev_create(const char *name, struct vfio_path *out)
{
    char parent[256], uuid[40];
    struct vfio_path dir;
    const char *type = vfio_sysfs_name(name);
    if (type == name || !type[0] || type - name > (int)sizeof(parent)) {
        log_error(name, "cannot make mediated device: this is not PARENT/TYPE; minivmm host "
                        "list shows parents and their types");
        return -EINVAL;
    }
    snprintf(parent, sizeof(parent), "%.*s", (int)(type - name - 1), name);
    snprintf(dir.text, sizeof(dir.text), "/sys/class/mdev_bus/%s", parent);
    int err = 0;
    if (strchr(parent, '/') || !vfio_sysfs_has(dir.text, ""))
        err = vfio_sysfs_find(parent, dir.text, sizeof(dir.text));
    if (err)
        return err;
    size_t len = strlen(dir.text);
    snprintf(dir.text + len, sizeof(dir.text) - len, "/mdev_supported_types/%s", type);
    vfio_sysfs_line("/proc/sys/kernel/random", "uuid", uuid, sizeof(uuid));
    err = vfio_sysfs_write(dir.text, "create", uuid);
    if (err)
        log_error(name,
                  "cannot make mediated device: %s; run as root, and see that %s is there and "
                  "its available_instances is not 0",
                  strerror(-err), dir.text);
    snprintf(out->text, sizeof(out->text), "/sys/bus/mdev/devices/%s", uuid);
    return err;
}

void vfio_mdev_remove(const char *path)
{
    int err = vfio_sysfs_write(path, "remove", "1");
    if (err)
        log_warn(vfio_sysfs_name(path), "cannot remove mediated device: %s; echo 1 > %s/remove",
                 strerror(-err), path);
}
