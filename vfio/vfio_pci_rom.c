/*
 * vfio_pci_rom.c: the expansion ROM of a passed-through function, which the guest reads from a
 * copy in memory.
 *
 * PCI Firmware 3.0, 5.1 "PCI Expansion ROM Contents": an image begins with 55 AA. The copy is
 * the user's file, read before the guest runs, or the device's own ROM, read when the guest
 * first looks: that may take a good part of a second from a flash chip, and most guests never
 * look. The guest's memory decoding is on then, which the read needs. Once it is there the
 * device is not asked again: its ROM may share an address decoder with the BARs (PCI 3.0,
 * 6.2.5.2), and it may be gone when the guest's driver has run.
 *
 * Left out: any change to the image, as of the identification in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vfio/vfio_pci_priv.h"
#include "vmm/loop.h"
#include "vmm/util.h"

#define ROM_SIZE_MAX (16 * MIB)      /* PCI 3.0, 6.2.5.2 */
#define READ_TIME_NS (10 * NS_PER_S) /* for the device's: a vCPU waits, others for its lock */

static bool has_signature(const uint8_t *image, uint64_t size)
{
    return size >= 2 && image[0] == 0x55 && image[1] == 0xaa;
}

/* ---- the user's file ---- */

static int read_all(int fd, uint8_t *image, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = read(fd, image + done, size - done);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (uint64_t)n;
    }
    return 0;
}

static int read_file(struct vfio_pci_rom *rom, int fd, const char *path)
{
    struct stat st;
    if (fstat(fd, &st))
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size <= 0 || (uint64_t)st.st_size > ROM_SIZE_MAX) {
        log_error(path, "cannot use it as an expansion ROM: it is no file of 1 byte to 16 MiB; "
                        "give the image as read from the card, or rom=off");
        return -EINVAL;
    }
    rom->size = (uint64_t)st.st_size;
    rom->image = malloc(rom->size);
    int err = rom->image ? read_all(fd, rom->image, rom->size) : -ENOMEM;
    if (err) {
        log_error(path, "cannot read the expansion ROM: %s", strerror(-err));
        return err;
    }
    if (has_signature(rom->image, rom->size))
        return 0;
    log_error(path, "cannot use it as an expansion ROM: it does not begin with 55 AA; give an "
                    "image without a vendor's header in front (all from 55 AA on), or rom=off");
    return -EINVAL;
}

int vfio_pci_rom_load(struct vfio_pci *pci)
{
    const char *path = pci->wiring.rom;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* it might be a pipe */
    if (fd < 0) {
        int err = -errno;
        log_error(path, "cannot open the expansion ROM: %s", strerror(-err));
        return err;
    }
    int err = read_file(&pci->rom, fd, path);
    close(fd);
    pci->rom.done = true;
    return err;
}

void vfio_pci_rom_fini(struct vfio_pci *pci)
{
    free(pci->rom.image);
}

/* ---- the device's own; with vfio_pci.lock ---- */

static void complain(struct vfio_pci *pci, const char *why)
{
    if (!pci->rom.complained)
        log_note(
            pci->dev.name,
            "cannot read the device's expansion ROM: %s; the guest sees none, give an image "
            "with rom=FILE if it needs one",
            why);
    pci->rom.complained = true;
}

/* A kernel's device gives pages; a vfio-user server's, registers. */
static int read_device(struct vfio_pci *pci, uint8_t *image, uint64_t size)
{
    const struct vfio_region *region = &pci->bar[PCI_BAR_ROM].view.region;
    int64_t end = loop_now(CLOCK_MONOTONIC) + READ_TIME_NS;
    uint64_t step = 4 * KIB, done = 0;
    while (done < size) {
        if (loop_now(CLOCK_MONOTONIC) > end)
            return -ETIMEDOUT;
        uint64_t n = MIN(step, size - done);
        int err = pci->vdev->ops->region_read(pci->vdev, region, done, image + done, n);
        if (err == -EINVAL && step > 8)
            step = 8;
        else if (err)
            return err;
        else
            done += n;
    }
    return 0;
}

/* A device that does not let itself be read (it is in D3hot, say) is asked again next time, but
 * for one that takes too long. */
static void shadow(struct vfio_pci *pci)
{
    uint64_t size = pci->bar[PCI_BAR_ROM].view.region.size;
    uint8_t *image = malloc(size);
    int err = image ? read_device(pci, image, size) : -ENOMEM;
    pci->rom.done = !err || err == -ETIMEDOUT;
    if (!err && has_signature(image, size)) {
        pci->rom.image = image;
        pci->rom.size = size;
        return;
    }
    free(image);
    if (!vfio_pci_is_lost(pci)) /* of which the user has been told */
        complain(pci, err ? strerror(-err) : "it does not begin with 55 AA");
}

uint64_t vfio_pci_rom_read(struct vfio_pci *pci, uint64_t offset, unsigned size)
{
    const struct vfio_pci_rom *rom = &pci->rom;
    uint8_t bytes[8];
    memset(bytes, 0xff, sizeof(bytes));
    pthread_mutex_lock(&pci->lock);
    if (!rom->done)
        shadow(pci);
    if (rom->image && offset < rom->size)
        memcpy(bytes, rom->image + offset, MIN(size, rom->size - offset));
    pthread_mutex_unlock(&pci->lock);
    return get_le(bytes, size);
}
