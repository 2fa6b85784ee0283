/*
 * paravirt.c: see paravirt.h.
 *
 * A guest names disks in the order of their slots, so the first has the lowest.
 *
 * The random bytes come only with another of these: a guest that is given nothing but real
 * devices finds nothing but those (a processor has RDRAND), and starts no later for it.
 */
#include "vmm/paravirt.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "devices/virtio/vhost.h"
#include "devices/virtio/virtio_blk.h"
#include "devices/virtio/virtio_fs.h"
#include "devices/virtio/virtio_net.h"
#include "devices/virtio/virtio_rng.h"
#include "devices/virtio/virtio_vsock.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/log.h"
#include "vmm/net.h"
#include "vmm/share.h"
#include "vmm/util.h"

#define CLASS_STORAGE       0x01800000 /* of no other kind; and the revision, which is the bus's */
#define CLASS_NETWORK       0x02000000 /* Ethernet */
#define CLASS_COMMUNICATION 0x07800000
#define CLASS_OTHER         0x00ff0000

static bool name_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return !stat(a, &x) && !stat(b, &y) && is_same_file(&x, &y);
}

static void log_held(const struct options *opt, unsigned n)
{
    const struct option_disk *o = &opt->disk[n];
    char path[PATH_MAX], who[160];
    const char *what = "end that, or give another";
    vfio_sysfs_holder(realpath(o->path, path) ? path : o->path, who, sizeof(who));
    for (unsigned i = 0; i < n; i++) {
        if (name_same_file(opt->disk[i].path, o->path)) {
            snprintf(who, sizeof(who), "another --disk of this guest");
            what = "leave one out";
        }
    }
    log_error(o->path, "cannot use disk: %s has it; %s%s", who, what,
              o->ro ? "" : " (several can read one, each with ,ro)");
}

static int open_disk(struct paravirt_slot *slot, const struct paravirt_config *config,
                     unsigned n)
{
    const struct option_disk *o = &config->opt->disk[n];
    const struct virtio_blk_setup setup = {
        .path = o->path,
        .ro = o->ro,
        .direct = o->direct,
        .queues = config->opt->cpus, /* cut to what a disk may have */
        .loop = config->loop,
        .mem = config->mem,
    };
    int err = virtio_blk_create(&slot->dev, &setup);
    if (err == -EAGAIN)
        log_held(config->opt, n);
    return err;
}

static int open_net(struct paravirt_slot *slot, const struct paravirt_config *config,
                    unsigned n)
{
    const struct option_net *o = &config->opt->net[n];
    struct virtio_net_setup setup = {
        .name = o->where,
        .vhost = o->where[0] == 't' && !o->no_vhost,
        .loop = config->loop,
        .mem = config->mem,
    };
    net_address(o, n, setup.mac);
    int err = net_open(&setup.port, o, &slot->helper);
    return err ? err : virtio_net_create(&slot->dev, &setup);
}

static int open_share(struct paravirt_slot *slot, const struct paravirt_config *config,
                      unsigned n)
{
    const struct option_share *o = &config->opt->share[n];
    int socket = share_connect(&slot->helper, o);
    if (socket < 0)
        return socket;
    const struct virtio_fs_setup setup = {
        .name = o->dir,
        .tag = o->tag,
        .socket = socket,
        .group = slot->helper.pid,
        .loop = config->loop,
        .mem = config->mem,
    };
    return virtio_fs_create(&slot->dev, &setup);
}

static int open_vsock(struct paravirt_slot *slot, const struct paravirt_config *config,
                      unsigned n)
{
    (void)n;
    return virtio_vsock_create(&slot->dev, config->opt->vsock_cid, config->loop, config->mem);
}

static int open_rng(struct paravirt_slot *slot, const struct paravirt_config *config,
                    unsigned n)
{
    (void)n;
    return virtio_rng_create(&slot->dev, config->mem);
}

/* In the order of their slots. Each logs its own errors. */
struct kind {
    unsigned nr;
    uint32_t class_rev;
    int (*open)(struct paravirt_slot *slot, const struct paravirt_config *config, unsigned n);
};

/* The N-th of its kind into the next slot, the device's own parts first. */
static int add(struct paravirt *p, const struct paravirt_config *config,
               const struct kind *kind, unsigned n)
{
    const struct virtio_pci_config wiring = {
        .hv = config->hv,
        .bus = config->bus,
        .loop = config->loop,
        .intx = &p->intx,
        .devfn = PCI_DEVFN(p->first + p->nr, 0),
        .class_rev = kind->class_rev,
    };
    struct paravirt_slot *slot = &p->slot[p->nr++];
    *slot = (struct paravirt_slot){0};
    int err = kind->open(slot, config, n);
    if (err)
        return err;
    err = virtio_pci_create(&slot->pci, slot->dev, &wiring);
    if (err)
        log_error(slot->dev->name, "cannot put device on the guest's bus: %s", strerror(-err));
    return err;
}

int paravirt_open(struct paravirt *p, const struct paravirt_config *config)
{
    const struct options *opt = config->opt;
    const struct kind kind[] = {
        {opt->disks, CLASS_STORAGE, open_disk},
        {opt->nets, CLASS_NETWORK, open_net},
        {opt->shares, CLASS_STORAGE, open_share},
        {opt->vsock_cid != 0, CLASS_COMMUNICATION, open_vsock},
        {1, CLASS_OTHER, open_rng},
    };
    unsigned count = 0;
    int err = 0;
    for (size_t k = 0; k < ARRAY_SIZE(kind); k++)
        count += kind[k].nr;
    if (count == 1)
        return 0; /* nothing but random bytes */
    if (count > PARAVIRT_MAX) {
        log_error(NULL,
                  "cannot place %u virtio devices (one is the source of random bytes): the "
                  "bus has %u slots; give fewer",
                  count, PARAVIRT_MAX);
        return -ENOSPC;
    }
    virtio_intx_init(&p->intx, config->hv);
    p->first = PCI_SLOTS - count;
    for (size_t k = 0; k < ARRAY_SIZE(kind); k++) {
        for (unsigned i = 0; i < kind[k].nr && !err; i++)
            err = add(p, config, &kind[k], i);
    }
    return err;
}

void paravirt_close(struct paravirt *p)
{
    while (p->nr) {
        struct paravirt_slot *slot = &p->slot[--p->nr];
        virtio_pci_destroy(slot->pci);
        virtio_destroy(slot->dev); /* a helper whose connection ends, ends */
        spawn_stop(&slot->helper);
    }
}

void paravirt_reset(struct paravirt *p)
{
    for (unsigned i = 0; i < p->nr; i++)
        virtio_pci_reset(p->slot[i].pci);
}

uint32_t paravirt_slots(const struct paravirt *p)
{
    uint32_t slots = 0;
    for (unsigned i = 0; i < p->nr; i++)
        slots |= 1U << (p->first + i);
    return slots;
}
