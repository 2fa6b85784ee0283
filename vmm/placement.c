/*
 * placement.c: see placement.h. From sysfs and procfs: Linux Documentation/admin-guide/mm/
 * hugetlbpage.rst; Documentation/ABI/stable/sysfs-devices-node; proc(5).
 */
#include "vmm/placement.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "vfio/vfio.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/options.h"
#include "vmm/passthrough.h"
#include "vmm/util.h"

#define POPULATE_MIN (2 * GIB)

/* The number behind KEY in a file of "Key: value" lines; OTHER when it is not there. */
static uint64_t proc_number(const char *path, const char *key, int base, uint64_t other)
{
    char *text = vfio_sysfs_load(path);
    const char *at = text ? strstr(text, key) : NULL;
    uint64_t number = at ? strtoull(at + strlen(key), NULL, base) : other;
    free(text);
    return number;
}

/* ---- huge pages ---- */

/* The one that the host's kernel was told (default_hugepagesz=), most often 2 MiB. */
static uint64_t default_huge(void)
{
    uint64_t kib = proc_number("/proc/meminfo", "\nHugepagesize:", 10, 0);
    return kib * KIB == GIB ? GIB : 2 * MIB;
}

/* Those that may be taken: free and not promised to others, and those that the kernel was
 * allowed to make when they are wanted. */
static uint64_t available(const char *dir, bool node)
{
    uint64_t free = vfio_sysfs_number(dir, "free_hugepages");
    uint64_t promised = vfio_sysfs_number(dir, "resv_hugepages");
    uint64_t more = vfio_sysfs_number(dir, "nr_overcommit_hugepages");
    uint64_t made = vfio_sysfs_number(dir, "surplus_hugepages");
    if (node) /* neither promises nor permissions are known by node */
        return free;
    return free - MIN(promised, free) + (more - MIN(made, more));
}

static int check_huge(uint64_t size, const struct mem_backing *b)
{
    char dir[128], where[48] = "/sys/kernel/mm";
    uint64_t need = size / b->huge;
    if (b->on_node)
        snprintf(where, sizeof(where), "/sys/devices/system/node/node%u", b->node);
    snprintf(dir, sizeof(dir), "%s/hugepages/hugepages-%llukB", where, b->huge / KIB);
    if (!vfio_sysfs_has(dir, "free_hugepages")) {
        log_error("--hugepages",
                  "cannot use huge pages of %llu MiB: this host has none of that size; ls "
                  "%s/hugepages shows its sizes",
                  b->huge / MIB, where);
        return -ENOTSUP;
    }
    uint64_t have = available(dir, b->on_node);
    if (need <= have)
        return 0;
    log_error("--hugepages",
              "cannot take %llu huge pages of %llu MiB: %llu are free%s, %llu more are needed; "
              "echo %llu > %s/nr_hugepages%s",
              (unsigned long long)need, b->huge / MIB, (unsigned long long)have,
              b->on_node ? " on that node" : "", (unsigned long long)(need - have),
              (unsigned long long)(vfio_sysfs_number(dir, "nr_hugepages") + need - have), dir,
              b->huge == GIB ? ", early after the host's start" : "");
    return -ENOMEM;
}

/* ---- NUMA ---- */

/* The sysfs directory of a device of OPTION; "": a server, which is none of the host's, or a
 * mediated device of a parent that is no PCI device. */
static int device_path(const struct option_vfio *option, struct vfio_path *out)
{
    const char *name = option->device;
    char parent[sizeof(option->device)];
    unsigned addr[4];
    struct vfio_path found[OPTIONS_VFIO_MAX];
    out->text[0] = '\0';
    if (!strncmp(name, "unix:", 5))
        return 0;
    if (!strncmp(name, "mdev:", 5)) { /* not made yet; it is where its parent is */
        snprintf(parent, sizeof(parent), "%.*s", (int)strcspn(name + 5, "/"), name + 5);
        return vfio_sysfs_pci_address(parent, addr)
                   ? vfio_sysfs_find(parent, out->text, sizeof(out->text))
                   : 0;
    }
    int nr = vfio_name_find(name, passthrough_is_free, NULL, found, ARRAY_SIZE(found));
    if (nr > 0)
        *out = found[0];
    return MIN(nr, 0);
}

/* Of the device or, where that is a mediated one, of its parent; -1: none. */
static int node_of(const char *path)
{
    static const char *const file[] = {"numa_node", "../numa_node"};
    for (size_t i = 0; i < ARRAY_SIZE(file); i++) {
        char text[16], *end;
        vfio_sysfs_line(path, file[i], text, sizeof(text));
        long node = strtol(text, &end, 10);
        if (end != text && node >= 0 && node < INT_MAX)
            return (int)node;
    }
    return -1;
}

/* The node of the first device that has one, -1 when none has. */
static int find_node(const struct options *o, int *node)
{
    int err = 0;
    *node = -1;
    for (unsigned i = 0; i < o->vfios && *node < 0 && !err; i++) {
        struct vfio_path path;
        err = device_path(&o->vfio[i], &path);
        if (!err && path.text[0])
            *node = node_of(path.text);
        if (!err && *node >= 0)
            log_note("--numa", "node %d, where %s is", *node, vfio_sysfs_name(path.text));
    }
    if (!err && *node < 0)
        log_note("--numa", "no device says what node it is on: RAM and vCPUs are anywhere");
    return err;
}

static int place_on_node(const struct options *o, struct placement *out)
{
    char dir[64], list[8192];
    int node = o->numa;
    int err = node == NUMA_AUTO ? find_node(o, &node) : 0;
    if (err || node < 0)
        return err;
    snprintf(dir, sizeof(dir), "/sys/devices/system/node/node%d", node);
    if (!vfio_sysfs_has(dir, "cpulist")) {
        log_error("--numa",
                  "cannot place the guest on node %d: this host has none of that number; ls "
                  "/sys/devices/system/node shows them",
                  node);
        return -ENOENT;
    }
    out->memory.on_node = true;
    out->memory.node = (unsigned)node;
    vfio_sysfs_line(dir, "cpulist", list, sizeof(list));
    if (cpu_list_parse(list, &out->near)) /* no harm: a node may have no CPUs at all */
        out->near.nr = 0;
    return 0;
}

/* ---- pinned RAM ---- */

/* For a device behind an IOMMU all of RAM is pinned, and counted unless this process may lock
 * what it likes. A mediated device pins what it uses; a server pins nothing. What cannot be
 * known here (user namespaces, what other VMs of the user have pinned) the kernel will tell. */
static int check_memlock(const struct options *o)
{
    uint64_t may = proc_number("/proc/self/status", "\nCapEff:", 16, UINT64_MAX);
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur >= o->memory || may >> CAP_IPC_LOCK & 1)
        return 0;
    for (unsigned i = 0; i < o->vfios; i++) {
        struct vfio_path path;
        char bus[16];
        int err = device_path(&o->vfio[i], &path);
        if (err)
            return err;
        vfio_sysfs_bus(path.text, bus, sizeof(bus));
        if (!path.text[0] || !strncmp(o->vfio[i].device, "mdev:", 5) || !strcmp(bus, "mdev"))
            continue;
        log_error(vfio_sysfs_name(path.text),
                  "cannot pin %llu MiB of RAM for its DMA: RLIMIT_MEMLOCK is %llu MiB; %s",
                  o->memory / MIB, limit.rlim_cur / MIB, vfio_memlock_text(o->memory).s);
        return -ENOMEM;
    }
    return 0;
}

/* ---- the whole ---- */

/* The kernel pins RAM for its devices; a server does not. Little RAM is pinned soon enough by
 * the one thread that does it. */
static bool is_pinned(const struct options *o)
{
    for (unsigned i = 0; i < o->vfios && o->memory >= POPULATE_MIN; i++) {
        if (strncmp(o->vfio[i].device, "unix:", 5))
            return true;
    }
    return false;
}

int placement_find(const struct options *o, struct placement *out)
{
    struct mem_backing *m = &out->memory;
    *m = (struct mem_backing){
        .huge = o->hugepages, .populate = is_pinned(o), .near = &out->near};
    out->near.nr = 0;
    int err = place_on_node(o, out);
    if (!err)
        err = check_memlock(o);
    if (err)
        return err;
    out->pin = o->pin.nr;
    out->cpus = out->pin ? &o->pin : &out->near;
    if (m->huge == HUGEPAGES_DEFAULT)
        m->huge = default_huge();
    return m->huge ? check_huge(o->memory, m) : 0;
}
