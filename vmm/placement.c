/*
 * placement.c: see placement.h. From sysfs and procfs: Linux Documentation/admin-guide/mm/
 * hugetlbpage.rst; Documentation/ABI/stable/sysfs-devices-node.
 */
#include "vmm/placement.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/options.h"
#include "vmm/util.h"

/* ---- huge pages ---- */

/* The one that the host's kernel was told (default_hugepagesz=), most often 2 MiB. */
static uint64_t default_huge(void)
{
    char *text = vfio_sysfs_load("/proc/meminfo");
    const char *at = text ? strstr(text, "\nHugepagesize:") : NULL;
    unsigned long kib = 0;
    if (at)
        sscanf(at, "\nHugepagesize: %lu kB", &kib);
    free(text);
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

/* ---- the whole ---- */

/* The kernel pins RAM for its devices; a server does not. */
static bool is_pinned(const struct options *o)
{
    for (unsigned i = 0; i < o->vfios; i++) {
        if (strncmp(o->vfio[i].device, "unix:", 5))
            return true;
    }
    return false;
}

int placement_memory(const struct options *o, struct mem_backing *out)
{
    *out = (struct mem_backing){.huge = o->hugepages, .populate = is_pinned(o)};
    if (out->huge == HUGEPAGES_DEFAULT)
        out->huge = default_huge();
    return out->huge ? check_huge(o->memory, out) : 0;
}
