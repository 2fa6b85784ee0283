/*
 * device.c: what all devices of this server have in common: regions made of memory and of
 * registers, interrupts, access to the client's memory, reset.
 *
 * A region's bytes, registers included, are in one memfd, of which the client gets the
 * descriptor when a part of it may be mapped. Its size is sealed: a client that made the file
 * shorter would make this server's own accesses fail. (It could still map the trapped parts, as
 * with any vfio-user server: what is read back from a register is never trusted.)
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/emulated/emu.h"

/* ---- regions ---- */

uint64_t emu_get(const struct emu *emu, unsigned region, uint64_t offset, unsigned size)
{
    return get_le(emu->region[region].mem + offset, size);
}

void emu_put(struct emu *emu, unsigned region, uint64_t offset, unsigned size, uint64_t value)
{
    put_le(emu->region[region].mem + offset, size, value);
}

/* Bytes [AT, AT + N) of a register are written. */
static void reg_write(struct emu *emu, unsigned region, const struct emu_reg *reg, unsigned at,
                      const uint8_t *data, unsigned n)
{
    uint64_t written = all_ones(n) << (8 * at), value = get_le(data, n) << (8 * at);
    uint64_t old = emu_get(emu, region, reg->offset, reg->width);

    value = (old & ~(reg->rw & written) & ~(reg->w1c & value)) | (value & reg->rw);
    emu_put(emu, region, reg->offset, reg->width, value);
    if (reg->on_write)
        reg->on_write(emu, reg);
}

static void copy(bool write, uint8_t *mem, uint8_t *data, uint64_t n)
{
    if (write)
        memcpy(mem, data, n);
    else
        memcpy(data, mem, n);
}

/* The part of an access that lies in one area or register: returns its length. */
static uint64_t access_piece(struct emu *emu, bool write, unsigned index, uint64_t offset,
                             uint8_t *data, uint64_t count)
{
    const struct emu_region *region = &emu->device->region[index];
    uint8_t *mem = emu->region[index].mem + offset;

    if (region->memory) {
        copy(write, mem, data, count);
        return count;
    }
    for (unsigned i = 0; i < region->areas; i++) {
        const struct emu_area *a = &region->area[i];
        uint64_t at = offset - a->offset, n;

        if (at >= a->size) /* also when it is before the area */
            continue;
        n = MIN(count, a->size - at);
        if (a->kind == EMU_ALIAS)
            emu_region_access(emu, write, a->target, at, data, n);
        else
            copy(write, mem, data, n);
        return n;
    }
    for (unsigned i = 0; i < region->regs; i++) {
        const struct emu_reg *reg = &region->reg[i];
        uint64_t at = offset - reg->offset, n;

        if (at >= reg->width)
            continue;
        n = MIN(count, reg->width - at);
        if (write)
            reg_write(emu, index, reg, (unsigned)at, data, (unsigned)n);
        else
            copy(false, mem, data, n);
        return n;
    }
    if (!write)
        *data = 0;
    return 1;
}

int emu_region_access(struct emu *emu, bool write, uint32_t region, uint64_t offset, void *data,
                      uint64_t count)
{
    uint32_t need = write ? VFIO_REGION_INFO_FLAG_WRITE : VFIO_REGION_INFO_FLAG_READ;
    uint8_t *p = data;

    if (region >= emu->device->regions || !(emu->device->region[region].flags & need) ||
        !range_within(offset, count, emu->region[region].size))
        return -EINVAL;
    while (count) {
        uint64_t n = access_piece(emu, write, region, offset, p, count);

        p += n;
        offset += n;
        count -= n;
    }
    return 0;
}

/* ---- interrupts ---- */

void emu_irq_signal(int fd)
{
    if (fd >= 0)
        eventfd_write(fd, 1); /* does not block: see set_eventfds() */
}

static bool automasked(const struct emu *emu, unsigned index)
{
    return emu->config.automask && (emu->device->irq[index].flags & VFIO_IRQ_INFO_AUTOMASKED);
}

/* Called when something changed that may let a level interrupt through. */
void emu_irq_update(struct emu *emu, unsigned index)
{
    struct emu_irq_state *irq = &emu->irq[index];

    if (!automasked(emu, index) || !irq->high || irq->masked || irq->trigger[0] < 0)
        return;
    irq->masked = true; /* until the client says that the guest has dealt with it */
    emu_irq_signal(irq->trigger[0]);
}

void emu_line(struct emu *emu, unsigned index, bool high)
{
    struct emu_irq_state *irq = &emu->irq[index];
    bool rises = high && !irq->high;

    irq->high = high;
    if (rises && !automasked(emu, index))
        emu_irq_signal(irq->trigger[0]);
    emu_irq_update(emu, index);
}

unsigned emu_armed(const struct emu *emu, unsigned index)
{
    unsigned n = emu->device->irq[index].count;

    while (n && emu->irq[index].trigger[n - 1] < 0)
        n--;
    return n;
}

void emu_message(struct emu *emu, unsigned index, unsigned vector)
{
    if (vector < EMU_VECTORS_MAX)
        emu_irq_signal(emu->irq[index].trigger[vector]);
}

/* ---- DMA ---- */

/* The kernel copies: where the client has made its file shorter since it was mapped, that is an
 * error, and no SIGBUS as with memcpy(). */
static int dma_direct(bool write, void *mem, void *buf, uint64_t n)
{
    struct iovec local = {buf, n}, remote = {mem, n};
    ssize_t done = write ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                         : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

    return done == (ssize_t)n ? 0 : -EFAULT;
}

int emu_dma(struct emu *emu, bool write, uint64_t addr, void *buf, uint64_t len)
{
    uint32_t need = write ? VFIO_USER_DMA_F_WRITE : VFIO_USER_DMA_F_READ;
    uint8_t *p = buf;

    while (len) {
        const struct emu_map *map = emu->map;
        uint64_t n;
        int err;

        while (map < emu->map + EMU_MAPS_MAX && addr - map->address >= map->size)
            map++;
        if (map == emu->map + EMU_MAPS_MAX || !(map->flags & need))
            return -EFAULT;
        n = MIN(len, map->size - (addr - map->address));
        if (map->hva) {
            err = dma_direct(write, map->hva + (addr - map->address), p, n);
        } else {
            n = MIN(n, emu->peer_xfer);
            err = emu_dma_message(emu, write, addr, p, n);
        }
        if (err)
            return err;
        addr += n;
        p += n;
        len -= n;
    }
    return 0;
}

/* ---- life ---- */

void emu_reset(struct emu *emu)
{
    eventfd_t rings;

    for (unsigned i = 0; i < emu->device->regions; i++) {
        const struct emu_region *r = &emu->device->region[i];

        for (unsigned n = 0; n < r->regs; n++)
            emu_put(emu, i, r->reg[n].offset, r->reg[n].width, r->reg[n].reset);
    }
    for (unsigned i = 0; i < emu->doorbells; i++)
        eventfd_read(emu->doorbell[i].fd, &rings);
    for (unsigned i = 0; i < emu->device->irqs; i++)
        emu_line(emu, i, false);
    if (emu->device->reset)
        emu->device->reset(emu);
}

static int region_create(struct emu *emu, unsigned i)
{
    const struct emu_region *r = &emu->device->region[i];
    uint64_t size = r->vram ? emu->config.vram : r->size, room = align_up(size, 4096);
    int fd;

    if (!size)
        return 0;
    fd = emu->region[i].fd = memfd_create(r->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)room) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    uint8_t *mem = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (mem == MAP_FAILED)
        return -errno;
    emu->region[i].mem = mem;
    emu->region[i].size = size;
    for (unsigned n = 0; n < r->regs; n++) {
        if (!r->reg[n].doorbell || emu->doorbells == EMU_DOORBELLS_MAX)
            continue;
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
            return -errno;
        emu->doorbell[emu->doorbells++] = (struct emu_doorbell){i, &r->reg[n], fd};
    }
    return 0;
}

int emu_create(struct emu **out, const struct emu_device *device,
               const struct emu_config *config, int fd, int stop)
{
    struct emu *emu = calloc(1, sizeof(*emu));
    int err = -ENOMEM;

    if (!emu)
        return err;
    *emu = (struct emu){.device = device,
                        .config = *config,
                        .fd = fd,
                        .twin = -1,
                        .stop = stop,
                        .peer_fds = VFIO_USER_DEFAULT_MSG_FDS,
                        .peer_xfer = VFIO_USER_DEFAULT_DATA_XFER};
    for (unsigned i = 0; i < EMU_REGIONS_MAX; i++)
        emu->region[i].fd = -1;
    memset(emu->irq, -1, sizeof(emu->irq)); /* descriptors */
    for (unsigned i = 0; i < EMU_IRQS_MAX; i++)
        emu->irq[i].masked = emu->irq[i].high = false;
    emu->reply = calloc(1, sizeof(*emu->reply) + EMU_REPLY_MAX(config->xfer));
    if (emu->reply)
        err = 0;
    for (unsigned i = 0; !err && i < device->regions; i++)
        err = region_create(emu, i);
    if (err) {
        emu_destroy(emu);
        return err;
    }
    emu_reset(emu);
    *out = emu;
    return 0;
}

void emu_destroy(struct emu *emu)
{
    for (struct emu_msg *msg = emu->queue, *next; msg; msg = next) {
        next = msg->next;
        emu_msg_free(msg);
    }
    for (unsigned i = 0; i < EMU_MAPS_MAX; i++)
        if (emu->map[i].hva)
            munmap(emu->map[i].hva, emu->map[i].size);
    for (unsigned i = 0; i < emu->doorbells; i++)
        close(emu->doorbell[i].fd);
    for (unsigned i = 0; i < EMU_IRQS_MAX; i++) {
        for (unsigned v = 0; v < EMU_VECTORS_MAX; v++)
            emu_close(&emu->irq[i].trigger[v]);
        emu_close(&emu->irq[i].unmask);
    }
    for (unsigned i = 0; i < EMU_REGIONS_MAX; i++) {
        if (emu->region[i].mem)
            munmap(emu->region[i].mem, align_up(emu->region[i].size, 4096));
        emu_close(&emu->region[i].fd);
    }
    emu_close(&emu->twin);
    free(emu->reply);
    free(emu);
}
