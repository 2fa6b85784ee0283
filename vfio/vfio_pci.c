/*
 * vfio_pci.c: a passed-through PCI function, from its provider to the guest's bus and back.
 *
 * The order of both ends is what matters here. Start: woken and quiet, then reset, so that
 * nothing of the device's past reaches the guest; see whether it still answers; read its
 * configuration space; BARs, then capabilities (the MSI-X table lies in a BAR), then mappings
 * around it, then interrupts; and on the bus last. End: off the bus, which takes the memory
 * slots away, interrupts off, bus mastering off, reset, unmapped, closed. A guest reset is the
 * end and the start without what lies between.
 *
 * PCI Local Bus 3.0, 6.2.2 "Device Control" for COMMAND. Left out: a reset of last resort over
 * a link or a power state of our own; the provider's reset() knows what there is.
 * Main thread, except vfio_pci_drop_slots().
 */
#include "vfio/vfio_pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vfio/vfio_pci_priv.h"
#include "vmm/util.h"

static const struct pci_dev_ops vfio_pci_ops = {
    .config_read = vfio_pci_config_read,
    .config_write = vfio_pci_config_write,
    .bar_map = vfio_pci_bar_map,
    .bar_unmap = vfio_pci_bar_unmap,
};

static int find_config(struct vfio_pci *pci)
{
    const struct vfio_device *vdev = pci->vdev;
    if (!(vdev->flags & VFIO_DEVICE_FLAGS_PCI) ||
        vdev->regions <= VFIO_PCI_CONFIG_REGION_INDEX) {
        log_error(vdev->name, "cannot pass through the device: it is not a PCI device");
        return -ENODEV;
    }
    int err = vdev->ops->region_info(pci->vdev, VFIO_PCI_CONFIG_REGION_INDEX, &pci->config);
    if (!err && pci->config.size < PCI_STD_HEADER_SIZEOF)
        err = -EINVAL;
    if (err)
        log_error(vdev->name, "cannot get the configuration space: %s", strerror(-err));
    return err;
}

static int reset_device(struct vfio_pci *pci)
{
    int err = pci->wiring.reset ? pci->vdev->ops->reset(pci->vdev) : 0;
    if (err == -ENOTTY)
        log_note(pci->vdev->name,
                 "the device keeps its state from before: it has no reset of its own, and that "
                 "of its slot takes all functions there; minivmm host bind binds them");
    else if (err) {
        log_error(pci->vdev->name,
                  "cannot reset the device: %s; dmesg may tell more, and reset=off leaves it "
                  "as it is",
                  strerror(-err));
        return err;
    }
    if (vfio_pci_hw_read(pci, PCI_VENDOR_ID, 2) == 0xffff) {
        log_error(pci->vdev->name, "cannot use the device: it does not answer; it may need a "
                                   "reboot of the host");
        return -EIO;
    }
    return 0;
}

/* Decodes nothing and raises nothing; with the bus's lock. */
static void silence(struct vfio_pci *pci)
{
    pci_config_write(&pci->dev, PCI_COMMAND, 2, 0); /* unmaps the BARs */
    vfio_pci_irq_quiesce(pci);
}

static void on_lost(void *opaque)
{
    struct vfio_pci *pci = opaque;
    pthread_mutex_lock(&pci->wiring.bus->lock);
    silence(pci);
    pthread_mutex_unlock(&pci->wiring.bus->lock);
}

static struct vfio_pci *alloc(struct vfio_device *dev, const struct vfio_pci_config *config)
{
    struct vfio_pci *pci = calloc(1, sizeof(*pci));
    if (!pci)
        return NULL;
    pci->vdev = dev;
    pci->wiring = *config;
    pci->active = VFIO_PCI_IRQ_NONE;
    pci->err.fd = pci->req.fd = -1;
    pthread_mutex_init(&pci->lock, NULL);
    dev->on_lost = on_lost;
    dev->opaque = pci;
    pci_dev_init(&pci->dev, &vfio_pci_ops, dev->name);
    for (unsigned i = 0; i < PCI_BARS; i++)
        pci->bar[i] = (struct vfio_pci_bar){
            .pci = pci, .view = {.dev = dev, .hv = config->hv, .noun = "BAR"}};
    return pci;
}

static int set_up(struct vfio_pci *pci)
{
    int err = find_config(pci);
    if (err)
        return err;
    pci->vendor = (uint16_t)vfio_pci_hw_read(pci, PCI_VENDOR_ID, 2);
    pci->device = (uint16_t)vfio_pci_hw_read(pci, PCI_DEVICE_ID, 2);
    pci->class = (uint16_t)vfio_pci_hw_read(pci, PCI_CLASS_DEVICE, 2);
    vfio_pci_quirks_warn(pci);
    vfio_pci_calm(pci);
    if (!pci->wiring.reset)
        log_note(pci->dev.name,
                 "the device is not reset and keeps its state, as reset=off says");
    err = reset_device(pci);
    if (!err)
        err = vfio_pci_config_read_all(pci);
    if (err)
        return err;
    vfio_pci_hw_write(pci, PCI_COMMAND, 2, 0);
    err = vfio_pci_bars_probe(pci);
    if (!err)
        err = vfio_pci_config_init(pci);
    if (err)
        return err;
    vfio_pci_quirks_init(pci);
    vfio_pci_bars_mmap(pci);
    err = vfio_pci_vga_init(pci);
    if (!err)
        err = vfio_pci_irq_init(pci);
    if (err)
        return err;
    memcpy(pci->initial, pci->dev.config, sizeof(pci->initial));
    err = pci_bus_add(pci->wiring.bus, &pci->dev, pci->wiring.devfn);
    if (err)
        log_error(pci->dev.name, "cannot put the device at %02x.%x on the guest's bus: %s",
                  pci->wiring.devfn >> 3, pci->wiring.devfn & 7, strerror(-err));
    pci->on_bus = !err;
    return err;
}

int vfio_pci_create(struct vfio_pci **out, struct vfio_device *dev,
                    const struct vfio_pci_config *config)
{
    struct vfio_pci *pci = alloc(dev, config);
    if (!pci) {
        log_error(dev->name, "cannot pass through the device: %s", strerror(ENOMEM));
        dev->ops->close(dev);
        return -ENOMEM;
    }
    int err = set_up(pci);
    if (err) {
        vfio_pci_destroy(pci);
        return err;
    }
    *out = pci;
    return 0;
}

void vfio_pci_destroy(struct vfio_pci *pci)
{
    if (!pci)
        return;
    if (pci->on_bus)
        pci_bus_remove(pci->wiring.bus, &pci->dev);
    vfio_pci_irq_fini(pci);
    vfio_pci_vga_fini(pci);
    vfio_pci_hw_write(pci, PCI_COMMAND, 2, 0); /* no DMA while memory is unmapped */
    if (pci->on_bus && pci->wiring.reset)
        pci->vdev->ops->reset(pci->vdev);
    vfio_pci_bars_fini(pci);
    vfio_pci_rom_fini(pci);
    pci->vdev->ops->close(pci->vdev);
    pthread_mutex_destroy(&pci->lock);
    free(pci);
}

/* The kernel keeps over a reset what it has filtered (payload size, power state D0); what the
 * guest wrote into registers of the device's own is for the reset to undo. */
static int start_again(struct vfio_pci *pci)
{
    vfio_pci_calm(pci);
    int err = reset_device(pci);
    vfio_pci_hw_write(pci, PCI_COMMAND, 2, 0); /* the kernel restores what was before */
    vfio_pci_config_reset(pci);
    return err ? err : vfio_pci_irq_resume(pci);
}

/* A lost device fails nothing: it stays as it is. */
int vfio_pci_reset(struct vfio_pci *pci)
{
    int err = 0;
    pthread_mutex_lock(&pci->wiring.bus->lock);
    silence(pci);
    if (!vfio_pci_is_lost(pci))
        err = start_again(pci);
    pthread_mutex_unlock(&pci->wiring.bus->lock);
    return vfio_pci_is_lost(pci) ? 0 : err;
}

void vfio_pci_describe(const struct vfio_pci *pci)
{
    vfio_pci_bars_describe(pci);
    vfio_pci_irq_describe(pci);
}
