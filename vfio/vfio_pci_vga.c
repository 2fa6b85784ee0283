/*
 * vfio_pci_vga.c: the legacy VGA ranges of a passed-through display card, where asked for.
 *
 * Every VGA card decodes the same memory and ports, whatever its BARs say (PCI-to-PCI Bridge
 * 1.2, 12.1.1 "VGA Compatible Addressing"): text mode, a video BIOS and old drivers use them.
 * The kernel gives them as one region whose offsets are these addresses (linux/vfio.h,
 * VFIO_PCI_VGA_REGION_INDEX), and arbitrates with the host's other cards at each access; so
 * nothing of it is direct. The machine leaves RAM out of the memory range.
 *
 * Traps come from vCPU threads, and look at COMMAND with the bus's lock.
 */
#include <errno.h>

#include "vfio/vfio_pci_priv.h"
#include "vmm/bus.h"
#include "vmm/layout.h"

static const struct vfio_pci_vga_range {
    uint32_t base, size;
    uint16_t enable; /* in COMMAND */
} ranges[VFIO_PCI_VGA_RANGES] = {
    {LAYOUT_VGA, LAYOUT_VGA_SIZE, PCI_COMMAND_MEMORY},
    {0x3b0, 0xc, PCI_COMMAND_IO},
    {0x3c0, 0x20, PCI_COMMAND_IO},
};

static bool decoded(const struct vfio_pci_vga_at *at)
{
    struct vfio_pci *pci = at->pci;
    pthread_mutex_lock(&pci->wiring.bus->lock);
    uint16_t command = get_le16(pci->dev.config + PCI_COMMAND);
    pthread_mutex_unlock(&pci->wiring.bus->lock);
    return command & at->range->enable && !vfio_pci_is_lost(pci);
}

static uint64_t vga_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vfio_pci_vga_at *at = opaque;
    return decoded(at) ? vfio_view_read(&at->pci->vga, at->range->base + offset, size)
                       : all_ones(size);
}

static void vga_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    struct vfio_pci_vga_at *at = opaque;
    if (decoded(at))
        vfio_view_write(&at->pci->vga, at->range->base + offset, size, value);
}

static const struct bus_ops vga_ops = {.read = vga_read, .write = vga_write};

static struct bus *bus_of(const struct vfio_pci *pci, const struct vfio_pci_vga_range *range)
{
    return vfio_pci_bus(pci, range->enable == PCI_COMMAND_IO);
}

static int add_ranges(struct vfio_pci *pci)
{
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        struct vfio_pci_vga_at *at = &pci->vga_at[i];
        const struct bus_range range = {ranges[i].base, ranges[i].size, &vga_ops, at,
                                        pci->dev.name};
        *at = (struct vfio_pci_vga_at){pci, &ranges[i]};
        int err = bus_add(bus_of(pci, &ranges[i]), &range);
        if (err) {
            at->range = NULL;
            log_error(pci->dev.name, "cannot give the guest the card's VGA ranges: %s; %s",
                      strerror(-err),
                      err == -EEXIST ? "another device has them: give one card vga"
                                     : "free memory on the host");
            return err;
        }
    }
    return 0;
}

int vfio_pci_vga_init(struct vfio_pci *pci)
{
    struct vfio_device *vdev = pci->vdev;
    int err = -EINVAL;
    if (!pci->wiring.vga)
        return 0;
    pci->vga = (struct vfio_view){.dev = vdev, .noun = "VGA region "};
    if (vdev->regions > VFIO_PCI_VGA_REGION_INDEX)
        err = vdev->ops->region_info(vdev, VFIO_PCI_VGA_REGION_INDEX, &pci->vga.region);
    if (!err && pci->vga.region.size < LAYOUT_VGA + LAYOUT_VGA_SIZE)
        err = -EINVAL;
    if (err) {
        log_error(pci->dev.name,
                  "cannot give the guest the card's VGA ranges: it has none, or the host's "
                  "kernel lacks CONFIG_VFIO_PCI_VGA; leave vga out");
        return err;
    }
    return add_ranges(pci);
}

void vfio_pci_vga_fini(struct vfio_pci *pci)
{
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        if (pci->vga_at[i].range)
            bus_remove(bus_of(pci, &ranges[i]), ranges[i].base);
    }
}
