/*
 * passthrough.c: see passthrough.h. The order is the kernel's: every device's group into the
 * container, RAM mapped for DMA, then the devices opened (each reset before the guest sees it).
 * Main thread only, but for passthrough_drop_slots().
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "boot/acpi.h"
#include "devices/pci.h"
#include "vfio/vfio.h"
#include "vfio/vfio_p2p.h"
#include "vfio/vfio_pci.h"
#include "vfio/vfio_platform.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/mem.h"
#include "vmm/passthrough.h"
#include "vmm/util.h"

/* Guests have placed their BARs when none was moved for so long. */
#define P2P_SETTLE NS_PER_S

/* Functions of one card: all but the function number is the same in "0000:42:00.1". A server
 * is a card of its own. */
static bool same_card(const struct passthrough_device *a, const struct passthrough_device *b)
{
    if (a->is_user || b->is_user)
        return false;
    size_t len = strcspn(a->addr, ".");
    return len == strcspn(b->addr, ".") && !strncmp(a->addr, b->addr, len);
}

static unsigned host_function(const struct passthrough_device *d)
{
    const char *dot = strchr(d->addr, '.');
    return !d->is_user && dot && dot[1] >= '0' && dot[1] <= '7' ? (unsigned)(dot[1] - '0') : 0;
}

static int no_place(const struct passthrough_device *d, const char *why)
{
    log_error(d->addr,
              "cannot place device on the guest's bus: %s; give fewer devices or another "
              "slot=S.F",
              why);
    return -ENOSPC;
}

/* slot= of every device that has it; USED gets a bit for each slot. */
static int place_forced(struct passthrough *p, uint32_t *used)
{
    for (unsigned i = 0; i < p->config.nr; i++) {
        int devfn = p->config.option[i].devfn;
        if (devfn < 0)
            continue;
        if (p->device[i].is_platform)
            return no_place(&p->device[i], "it is no PCI device and has no slot");
        for (unsigned j = 0; j < i; j++) {
            if (p->config.option[j].devfn == devfn)
                return no_place(&p->device[i], "an earlier device has the same slot=");
        }
        if (p->config.slots & 1U << (devfn >> 3))
            return no_place(&p->device[i], "a virtio device has that slot");
        p->device[i].devfn = (uint8_t)devfn;
        *used |= 1U << (devfn >> 3);
    }
    return 0;
}

/* The slot that an earlier function of the same card was given, or a free one; 0: none. */
static unsigned choose_slot(const struct passthrough *p, unsigned n, uint32_t used)
{
    for (unsigned i = 0; i < n; i++) {
        if (p->config.option[i].devfn < 0 && same_card(&p->device[i], &p->device[n]))
            return p->device[i].devfn >> 3;
    }
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        if (!(used & 1U << slot))
            return slot;
    }
    return 0;
}

static void fill_function_0(struct passthrough *p, unsigned slot)
{
    struct passthrough_device *lowest = NULL;
    for (unsigned i = 0; i < p->config.nr; i++) {
        struct passthrough_device *d = &p->device[i];
        if (!d->is_platform && d->devfn >> 3 == slot && (!lowest || d->devfn < lowest->devfn))
            lowest = d;
    }
    if (lowest)
        lowest->devfn = PCI_DEVFN(slot, 0);
}

int passthrough_place(struct passthrough *p)
{
    uint32_t used = 1 | p->config.slots; /* slot 0 is the host bridge's */
    int err = place_forced(p, &used);
    for (unsigned i = 0; i < p->config.nr && !err; i++) {
        if (p->config.option[i].devfn >= 0 || p->device[i].is_platform)
            continue;
        unsigned slot = choose_slot(p, i, used);
        if (!slot)
            return no_place(&p->device[i], "all slots are taken");
        p->device[i].devfn = PCI_DEVFN(slot, host_function(&p->device[i]));
        used |= 1U << slot;
    }
    for (unsigned slot = 1; slot < PCI_SLOTS && !err; slot++)
        fill_function_0(p, slot);
    return err;
}

/* One more device of those that OPTION names. slot= of several is the slot of all. */
static int add_device(struct passthrough *p, const struct option_vfio *option, const char *path,
                      bool several)
{
    struct option_vfio *o = &p->option[p->config.nr];
    struct passthrough_device *d = &p->device[p->config.nr];
    char bus[16] = "";
    snprintf(d->path, sizeof(d->path), "%s", path);
    d->addr = d->is_user ? d->path : vfio_sysfs_name(d->path);
    if (!d->is_user)
        vfio_sysfs_bus(d->path, bus, sizeof(bus));
    d->is_platform = !strcmp(bus, "platform") || !strcmp(bus, "amba");
    *o = *option;
    if (several && o->devfn >= 0)
        o->devfn = PCI_DEVFN(o->devfn >> 3, host_function(d));
    for (unsigned i = 0; i < p->config.nr; i++) {
        if (!strcmp(d->addr, p->device[i].addr)) { /* sysfs has several paths to a device */
            log_error(d->addr, "cannot pass device twice: an earlier --vfio names it too; "
                               "leave one out");
            return -EEXIST;
        }
    }
    p->config.nr++;
    return 0;
}

/* Of several devices with one ID: bound to a VFIO driver, and no VM has it. */
bool passthrough_is_free(const char *path, const void *opaque)
{
    const struct passthrough *p = opaque;
    char driver[64], who[160];
    for (unsigned i = 0; p && i < p->config.nr; i++) {
        if (!strcmp(p->device[i].addr, vfio_sysfs_name(path)))
            return false;
    }
    vfio_sysfs_driver(path, driver, sizeof(driver));
    return vfio_sysfs_is_vfio(path, driver) && !vfio_sysfs_held(path, who, sizeof(who));
}

static int find_named(struct passthrough *p, const struct option_vfio *option)
{
    struct vfio_path found[OPTIONS_VFIO_MAX];
    struct passthrough_device *next = &p->device[p->config.nr];
    const char *name = option->device;
    unsigned room = OPTIONS_VFIO_MAX - p->config.nr;
    if (!room) {
        log_error(name, "cannot pass device: there are %d before it; give fewer",
                  OPTIONS_VFIO_MAX);
        return -E2BIG;
    }
    next->is_user = !strncmp(name, "unix:", 5);
    if (next->is_user)
        return add_device(p, option, name + 5, false);
    if (!strncmp(name, "mdev:", 5)) {
        int err = vfio_mdev_create(name + 5, found);
        next->is_made = !err;
        return err ? err : add_device(p, option, found[0].text, false);
    }
    int nr = vfio_name_find(name, passthrough_is_free, p, found, room);
    int err = nr < 0 ? nr : 0;
    for (int i = 0; i < nr && !err; i++)
        err = add_device(p, option, found[i].text, nr > 1);
    return err;
}

/* From here on option[] and nr are those of the devices, not of the names. */
static int find_devices(struct passthrough *p)
{
    const struct option_vfio *option = p->config.option;
    unsigned nr = p->config.nr;
    int err = 0;
    p->config.option = p->option;
    p->config.nr = 0;
    for (unsigned i = 0; i < nr && !err; i++)
        err = find_named(p, &option[i]);
    return err;
}

/* A device may want up to 2048 vectors, an eventfd each. */
static void raise_nofile(void)
{
    struct rlimit lim;
    if (!getrlimit(RLIMIT_NOFILE, &lim) && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        setrlimit(RLIMIT_NOFILE, &lim);
    }
}

/* One way for all devices of the kernel: a word for one of them is for all. */
static int create_kernel(struct passthrough *p)
{
    const char *path[OPTIONS_VFIO_MAX], *who[] = {NULL, NULL, NULL};
    unsigned nr = 0;
    for (unsigned i = 0; i < p->config.nr; i++) {
        if (p->device[i].is_user)
            continue;
        who[p->config.option[i].iommufd] = p->device[i].addr;
        path[nr++] = p->device[i].path;
    }
    if (who[IOMMUFD_ON] && who[IOMMUFD_OFF]) {
        log_error(
            who[IOMMUFD_ON],
            "cannot use iommufd for this device and not for %s: one way is for all; leave "
            "out iommufd or iommufd=off",
            who[IOMMUFD_OFF]);
        return -EINVAL;
    }
    bool iommufd =
        who[IOMMUFD_ON] || (nr && !who[IOMMUFD_OFF] && vfio_kernel_prefers_iommufd(path, nr));
    if (iommufd)
        log_note("/dev/iommu", "in use for the devices, in place of /dev/vfio/vfio and groups");
    return nr ? vfio_kernel_create(&p->kernel, p->config.hv, iommufd) : 0;
}

/* What can be told before RAM is mapped: the kernel's groups, the servers' devices. */
static int reach_providers(struct passthrough *p)
{
    int err = create_kernel(p);
    for (unsigned i = 0; i < p->config.nr && !err; i++) {
        struct passthrough_device *d = &p->device[i];
        if (!d->is_user) {
            err = vfio_kernel_attach(p->kernel, d->path);
            continue;
        }
        err = vfio_user_connect(&d->user, d->path, p->config.loop);
        d->is_platform = !err && vfio_user_device(d->user)->flags & VFIO_DEVICE_FLAGS_PLATFORM;
    }
    return err;
}

static int map_ram_in(struct passthrough *p, struct vfio_iommu *iommu)
{
    int err = vfio_dma_map_ram(iommu, p->config.mem);
    if (!err)
        p->mapped[p->iommus++] = iommu;
    return err;
}

/* RAM into each IOMMU once: the kernel's is common to its devices, a server has its own. */
static int map_ram(struct passthrough *p)
{
    int err = p->kernel ? map_ram_in(p, vfio_kernel_iommu(p->kernel)) : 0;
    for (unsigned i = 0; i < p->config.nr && !err; i++) {
        if (p->device[i].user)
            err = map_ram_in(p, vfio_user_device(p->device[i].user)->iommu);
    }
    return err;
}

/*
 * Peer-to-peer DMA takes two cards: functions of one have no need of each other's BARs, and a
 * graphics card with its audio function is the most common case of all. Servers are in no IOMMU
 * of the kernel. Without it devices still work, so it is no error.
 */
static void start_p2p(struct passthrough *p)
{
    const struct passthrough_device *first = NULL;
    bool several = false;
    for (unsigned i = 0; i < p->config.nr; i++) {
        const struct passthrough_device *d = &p->device[i];
        if (d->is_user || d->is_platform)
            continue;
        several |= first && !same_card(first, d);
        first = first ? first : d;
    }
    int err = several ? vfio_p2p_create(&p->p2p, vfio_kernel_iommu(p->kernel), P2P_SETTLE) : 0;
    if (err)
        log_note(NULL,
                 "cannot map BARs for peers' DMA: %s; devices reach each other's memory "
                 "by RAM only",
                 strerror(-err));
}

static int create_pci(struct passthrough *p, unsigned n, struct vfio_device *dev)
{
    struct passthrough_device *d = &p->device[n];
    const struct option_vfio *option = &p->config.option[n];
    struct vfio_pci_config config = {
        .hv = p->config.hv,
        .bus = p->config.bus,
        .loop = p->config.loop,
        .devfn = d->devfn,
        .mmap = option->mmap,
        .rom = option->rom,
        .rom_off = option->rom_off,
        .reset = option->reset,
        .clique = option->clique,
        .vga = option->vga,
        .p2p = d->is_user ? NULL : p->p2p,
        .gone = p->config.gone,
        .opaque = p->config.opaque,
    };
    return vfio_pci_create(&d->pci, dev, &config);
}

static int create_platform(struct passthrough *p, unsigned n, struct vfio_device *dev)
{
    struct vfio_platform_config config = {
        .hv = p->config.hv,
        .mmio = p->config.bus->mmio,
        .room = &p->room,
        .mmap = p->config.option[n].mmap,
    };
    return vfio_platform_create(&p->device[n].platform, dev, &config);
}

static int open_device(struct passthrough *p, unsigned n)
{
    const struct passthrough_device *d = &p->device[n];
    struct vfio_device *dev;
    int err = 0;
    if (d->user)
        dev = vfio_user_device(d->user);
    else
        err = vfio_kernel_open_device(p->kernel, d->path, &dev);
    if (!err)
        err = d->is_platform ? create_platform(p, n, dev) : create_pci(p, n, dev);
    return !err && dev->lost ? -EIO : err; /* a guest need not begin with a lost device */
}

int passthrough_open(struct passthrough *p, const struct passthrough_config *config)
{
    p->config = *config;
    p->room = (struct vfio_platform_room){.next = LAYOUT_PLATFORM, .gsis = LAYOUT_GSI_FREE};
    if (!config->nr)
        return 0;
    raise_nofile();
    int err = find_devices(p);
    if (!err)
        err = reach_providers(p);
    if (!err)
        err = passthrough_place(p);
    if (!err)
        err = map_ram(p);
    if (!err)
        start_p2p(p);
    for (unsigned i = 0; i < p->config.nr && !err; i++)
        err = open_device(p, i);
    return err;
}

void passthrough_close(struct passthrough *p)
{
    vfio_p2p_stop(p->p2p); /* no chunk more, whatever is being mapped */
    for (unsigned i = 0; i < p->config.nr; i++) {
        vfio_platform_destroy(p->device[i].platform);
        vfio_pci_destroy(p->device[i].pci);
    }
    vfio_p2p_destroy(p->p2p);
    while (p->iommus)
        vfio_dma_unmap_ram(p->mapped[--p->iommus], p->config.mem);
    for (unsigned i = 0; i < p->config.nr; i++)
        vfio_user_destroy(p->device[i].user);
    vfio_kernel_destroy(p->kernel);
    for (unsigned i = 0; i < p->config.nr; i++) {
        if (p->device[i].is_made)
            vfio_mdev_remove(p->device[i].path);
    }
}

int passthrough_reset(struct passthrough *p)
{
    int err = 0;
    for (unsigned i = 0; i < p->config.nr && !err; i++) {
        const struct passthrough_device *d = &p->device[i];
        err = d->pci ? vfio_pci_reset(d->pci) : vfio_platform_reset(d->platform);
    }
    return err;
}

bool passthrough_drop_slots(struct passthrough *p)
{
    bool dropped = false;
    for (unsigned i = 0; i < p->config.nr; i++) {
        const struct passthrough_device *d = &p->device[i];
        dropped |= d->pci ? vfio_pci_drop_slots(d->pci) : vfio_platform_drop_slots(d->platform);
    }
    return dropped;
}

uint64_t passthrough_dma_end(const struct passthrough *p)
{
    struct vfio_dma_limits limits;
    if (!p->kernel || vfio_dma_get_limits(vfio_kernel_iommu(p->kernel), &limits))
        return UINT64_MAX;
    return vfio_dma_end(&limits);
}

uint64_t passthrough_dma_bytes(const struct passthrough *p)
{
    return p->iommus * p->config.mem->size + vfio_p2p_bytes(p->p2p);
}

void passthrough_describe(const struct passthrough *p)
{
    for (unsigned i = 0; i < p->config.nr; i++) {
        const struct passthrough_device *d = &p->device[i];
        if (d->pci)
            vfio_pci_describe(d->pci);
        else
            vfio_platform_describe(d->platform);
    }
}

_Static_assert(VFIO_PLATFORM_REGIONS_MAX + VFIO_PLATFORM_IRQS_MAX <= ACPI_RESOURCES_MAX,
               "a device's resources fit");

/* The Nth one. False: no driver could find it by what is known of it. */
static bool describe_acpi(const struct vfio_platform *platform, unsigned n,
                          struct acpi_device *out)
{
    const struct vfio_device *dev = vfio_platform_device(platform);
    uint64_t gpa, size;
    uint32_t gsi;
    bool level;

    *out = (struct acpi_device){
        .hid = dev->hid, .compatible = dev->compatible[0] ? dev->compatible : NULL, .uid = n};
    snprintf(out->name, sizeof(out->name), "VP%02u", n % 100);
    for (unsigned i = 0; vfio_platform_region(platform, i, &gpa, &size); i++)
        out->resource[out->nr++] =
            (struct acpi_resource){ACPI_RES_MEM32, (uint32_t)gpa, (uint32_t)size};
    for (unsigned i = 0; vfio_platform_irq(platform, i, &gsi, &level); i++)
        out->resource[out->nr++] =
            (struct acpi_resource){level ? ACPI_RES_IRQ_LEVEL : ACPI_RES_IRQ_EDGE, gsi, 0};
    return out->compatible || out->hid[0];
}

unsigned passthrough_acpi(const struct passthrough *p, struct acpi_device *out)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->config.nr; i++) {
        const struct vfio_platform *platform = p->device[i].platform;
        n += platform && describe_acpi(platform, n, &out[n]);
    }
    return n;
}
