/*
 * vfio_pci_quirk.c: devices that need something of their own: data in a table, and a function.
 *
 * NVIDIA's cards show their configuration space a second time in BAR0, and by a window of
 * address and data in BAR5. There the guest's driver would find what belongs to the host:
 * addresses of BARs, messages of MSI. So these parts answer with the guest's own configuration
 * space. The tables' rows say where each fact comes from.
 *
 * Left out: the same window by legacy VGA's ports 3d0 and 3d4 (GeForce 7 and before); mirrors
 * of the card's other functions, which lie elsewhere; acknowledging MSI without an exit.
 *
 * A trap that reaches configuration space takes the bus's lock, before any other.
 */
#include <stdio.h>
#include <string.h>

#include "vfio/vfio_pci_priv.h"
#include "vfio/vfio_sysfs.h"
#include "vmm/util.h"

/* Which devices a row is about: [FIRST, LAST] of a vendor, of one class where it is not 0. */
struct quirk_match {
    uint16_t vendor, first, last, class;
};

static bool matches(const struct vfio_pci *pci, const struct quirk_match *m)
{
    return pci->vendor == m->vendor && pci->device >= m->first && pci->device <= m->last &&
           (!m->class || pci->class == m->class);
}

/* ---- NVIDIA: configuration space in BARs ---- */

#define NV_MIRROR      0x88000 /* of all of it */
#define NV_MIRROR_SIZE PCI_CONFIG_SIZE
#define NV_LEGACY      0x1800 /* of the first 256 bytes, as older cards have it */
#define NV_LEGACY_SIZE PCI_CFG_SPACE_SIZE
#define NV_WINDOW_SIZE 16

enum { WINDOW_MASTER = 0, WINDOW_ENABLE = 4, WINDOW_ADDRESS = 8, WINDOW_DATA = 12 };

static uint64_t config_get(struct vfio_pci *pci, unsigned offset, unsigned size)
{
    return pci_bus_config_read(pci->wiring.bus, pci->wiring.devfn, offset, size);
}

static void config_put(struct vfio_pci *pci, unsigned offset, unsigned size, uint64_t value)
{
    pci_bus_config_write(pci->wiring.bus, pci->wiring.devfn, offset, size, value);
}

static uint64_t mirror_read(struct vfio_pci *pci, const struct vfio_pci_trap *trap,
                            uint32_t offset, unsigned size)
{
    (void)trap;
    return config_get(pci, offset, size);
}

/* Drivers acknowledge an MSI by a write to the id of its capability, in the mirror. It is
 * read-only, so nothing of the host's is at stake, and without it no further MSI comes. */
static void mirror_write(struct vfio_pci *pci, const struct vfio_pci_trap *trap,
                         uint32_t offset, unsigned size, uint64_t value)
{
    unsigned msi = pci->msi.pos;
    config_put(pci, offset, size, value);
    if (msi && offset >= msi && range_within(offset - msi, size, PCI_MSI_FLAGS))
        vfio_view_write(&pci->bar[trap->bar].view, trap->start + offset, size, value);
}

/* Where in configuration space an access to the window's data goes, or -1: somewhere else. */
static int window_target(struct vfio_pci *pci, uint32_t offset)
{
    const uint8_t *reg = pci->window;
    pthread_mutex_lock(&pci->lock);
    bool open = reg[WINDOW_MASTER] & reg[WINDOW_ENABLE] & 1;
    uint32_t addr = get_le32(reg + WINDOW_ADDRESS);
    pthread_mutex_unlock(&pci->lock);
    if (!open || offset < WINDOW_DATA)
        return -1;
    if (addr >= NV_MIRROR && addr - NV_MIRROR < NV_MIRROR_SIZE)
        addr -= NV_MIRROR;
    else if (addr >= NV_LEGACY && addr - NV_LEGACY < NV_LEGACY_SIZE)
        addr -= NV_LEGACY;
    else
        return -1;
    return (int)(addr + offset - WINDOW_DATA);
}

static uint64_t window_read(struct vfio_pci *pci, const struct vfio_pci_trap *trap,
                            uint32_t offset, unsigned size)
{
    int target = window_target(pci, offset);
    if (target >= 0)
        return config_get(pci, (unsigned)target, size);
    return vfio_view_read(&pci->bar[trap->bar].view, offset, size);
}

static void window_write(struct vfio_pci *pci, const struct vfio_pci_trap *trap,
                         uint32_t offset, unsigned size, uint64_t value)
{
    int target = window_target(pci, offset);
    if (target >= 0) {
        config_put(pci, (unsigned)target, size, value);
        return;
    }
    pthread_mutex_lock(&pci->lock);
    put_le(pci->window + offset, size, value);
    pthread_mutex_unlock(&pci->lock);
    vfio_view_write(&pci->bar[trap->bar].view, offset, size, value);
}

#define NVIDIA_VGA                                     \
    {                                                  \
        VFIO_PCI_NVIDIA, 0, 0xffff, VFIO_PCI_CLASS_VGA \
    }
#define TRAP(what, n, at, len, how)                                                    \
    {                                                                                  \
        .label = (what), .bar = (n), .start = (at), .size = (len), .read = how##_read, \
        .write = how##_write                                                           \
    }

/*
 * Source of all three: QEMU, hw/vfio/pci-quirks.c, vfio_probe_nvidia_bar0_quirk() and
 * vfio_probe_nvidia_bar5_quirk(), with the registers from envytools (hwdocs/bus/pci.rst). Cards
 * for data centres (class 0302) work without, and are spared the exits. QEMU has the second and
 * the third only where legacy VGA is passed through; nothing that is often accessed lies there.
 */
static const struct {
    struct quirk_match who;
    struct vfio_pci_trap trap;
} quirk_traps[] = {
    {NVIDIA_VGA, TRAP("NVIDIA configuration mirror", 0, NV_MIRROR, NV_MIRROR_SIZE, mirror)},
    {NVIDIA_VGA, TRAP("NVIDIA legacy mirror", 0, NV_LEGACY, NV_LEGACY_SIZE, mirror)},
    {NVIDIA_VGA, TRAP("NVIDIA window", 5, 0, NV_WINDOW_SIZE, window)},
};

_Static_assert(ARRAY_SIZE(quirk_traps) + 2 <= VFIO_PCI_TRAPS_MAX, "beside MSI-X table and PBA");
_Static_assert(sizeof(((struct vfio_pci *)NULL)->window) == NV_WINDOW_SIZE, "window");

/* BAR0 is memory, BAR5 has ports; newer cards have no BAR5. */
static bool has_place(const struct vfio_pci *pci, const struct vfio_pci_trap *trap)
{
    bool io = pci->dev.bar[trap->bar].flags & PCI_BASE_ADDRESS_SPACE_IO;
    return io == (trap->bar == 5) &&
           range_within(trap->start, trap->size, pci->bar[trap->bar].view.region.size);
}

void vfio_pci_quirks_init(struct vfio_pci *pci)
{
    for (size_t i = 0; i < ARRAY_SIZE(quirk_traps); i++)
        if (matches(pci, &quirk_traps[i].who) && has_place(pci, &quirk_traps[i].trap))
            pci->trap[pci->traps++] = quirk_traps[i].trap;
}

void vfio_pci_quirks_reset(struct vfio_pci *pci)
{
    pthread_mutex_lock(&pci->lock);
    memset(pci->window, 0, sizeof(pci->window));
    pthread_mutex_unlock(&pci->lock);
}

/* ---- AMD: resets ---- */

/*
 * Chips that come up from the kernel's resets once, and then not before the host is started
 * again, unless the vendor-reset module has taken over. Source: its src/device-db.h
 * (github.com/gnif/vendor-reset); the ranges are those of the chips in pci.ids.
 */
static const struct {
    struct quirk_match who;
    const char *chip;
} quirk_resets[] = {
    {{VFIO_PCI_AMD, 0x67c0, 0x67df, 0}, "Polaris 10"},
    {{VFIO_PCI_AMD, 0x6fdf, 0x6fdf, 0}, "Polaris 10"},
    {{VFIO_PCI_AMD, 0x67e0, 0x67ff, 0}, "Polaris 11"},
    {{VFIO_PCI_AMD, 0x6980, 0x699f, 0}, "Polaris 12"},
    {{VFIO_PCI_AMD, 0x6860, 0x687f, 0}, "Vega 10"},
    {{VFIO_PCI_AMD, 0x66a0, 0x66af, 0}, "Vega 20"},
    {{VFIO_PCI_AMD, 0x7310, 0x731f, 0}, "Navi 10"},
    {{VFIO_PCI_AMD, 0x7340, 0x734f, 0}, "Navi 14"},
    {{VFIO_PCI_AMD, 0x7360, 0x7362, 0}, "Navi 12"},
};

/* With the module loaded, the kernel has a way to reset the device that is named so. */
static bool has_own_reset(const char *name)
{
    char path[160], methods[64];
    unsigned addr[4];
    if (!vfio_sysfs_pci_address(name, addr))
        return true; /* a server's: its own affair */
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", name);
    vfio_sysfs_line(path, "reset_method", methods, sizeof(methods));
    return strstr(methods, "device_specific") != NULL;
}

void vfio_pci_quirks_warn(const struct vfio_pci *pci)
{
    for (size_t i = 0; i < ARRAY_SIZE(quirk_resets); i++)
        if (matches(pci, &quirk_resets[i].who) && !has_own_reset(pci->vdev->name))
            log_warn(pci->vdev->name,
                     "AMD %s may not work any more after a reset, until the host is restarted; "
                     "load the vendor-reset module and write device_specific to the device's "
                     "reset_method in sysfs",
                     quirk_resets[i].chip);
}
