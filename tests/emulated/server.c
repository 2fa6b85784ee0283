/*
 * server.c: the server's side of the vfio-user protocol, version 0.0
 * (docs/interop/vfio-user.rst in QEMU's tree): one handler for each command, in a table, and
 * the loop that calls them.
 *
 * The client is not trusted: whatever it sends gets an error reply, or ends its session where
 * the stream cannot be followed any more. Left out: migration, DEVICE_FEATURE. Beyond the
 * specification: platform devices (VFIO_DEVICE_FLAGS_PLATFORM), whose `compatible` string is a
 * capability of that name in the VERSION reply.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/emulated/emu.h"

#define QUEUE_MAX 64 /* commands that may arrive while a reply is awaited */

static uint32_t payload_size(const struct emu_msg *msg)
{
    return msg->header.size - (uint32_t)sizeof(msg->header);
}

static void reply_with(struct emu_msg *out, const void *payload, size_t size)
{
    memcpy(out->data + payload_size(out), payload, size);
    out->header.size += (uint32_t)size;
}

/* ---- session ---- */

/* The value of "KEY" in TEXT: a number, or 1 for true. No JSON parser: the first occurrence is
 * meant, whatever object it is in. */
static uint64_t json_number(const char *text, const char *key, uint64_t otherwise)
{
    char quoted[40];

    snprintf(quoted, sizeof(quoted), "\"%s\"", key);
    text = strstr(text, quoted);
    if (!text)
        return otherwise;
    text += strlen(quoted);
    text += strspn(text, " \t\r\n:");
    if (isdigit((unsigned char)*text))
        return strtoull(text, NULL, 10);
    return !strncmp(text, "true", 4);
}

static int open_twin(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    emu->twin = pair[0];
    out->fd[out->fds++] = pair[1];
    in->fd[in->fds++] = pair[1]; /* closed with the request, when it has been sent */
    return 0;
}

static int version(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    const struct emu_config *c = &emu->config;
    struct vfio_user_version v;
    uint32_t size = payload_size(in) - (uint32_t)sizeof(v);
    const char *json = size ? (const char *)in->data + sizeof(v) : "";
    char text[512];
    int n;

    memcpy(&v, in->data, sizeof(v));
    if (emu->negotiated || v.major != 0 || (size && json[size - 1]))
        return -EINVAL;
    emu->peer_fds = json_number(json, "max_msg_fds", VFIO_USER_DEFAULT_MSG_FDS);
    emu->peer_fds = MIN(emu->peer_fds, EMU_FDS_MAX);
    emu->peer_xfer = json_number(json, "max_data_xfer_size", VFIO_USER_DEFAULT_DATA_XFER);
    emu->peer_xfer = MIN(emu->peer_xfer, c->xfer); /* a DMA_READ's reply is received here */
    if (!emu->peer_xfer)
        return -EINVAL;
    v.minor = 0;
    n = snprintf(text, sizeof(text),
                 "{\"capabilities\":{\"max_msg_fds\":%lu,\"max_data_xfer_size\":%lu,"
                 "\"max_dma_maps\":%d,\"pgsizes\":4096",
                 c->fds, c->xfer, EMU_MAPS_MAX);
    if (json_number(json, "write_multiple", 0))
        n += snprintf(text + n, sizeof(text) - n, ",\"write_multiple\":true");
    json = strstr(json, "\"twin_socket\"");
    if (c->twin && emu->peer_fds && json && json_number(json, "supported", 0)) {
        int err = open_twin(emu, in, out);

        if (err)
            return err;
        n += snprintf(text + n, sizeof(text) - n,
                      ",\"twin_socket\":{\"supported\":true,\"fd_index\":0}");
    }
    if (emu->device->compatible)
        n += snprintf(text + n, sizeof(text) - n, ",\"compatible\":\"%s\"",
                      emu->device->compatible);
    n += snprintf(text + n, sizeof(text) - n, "}}");
    reply_with(out, &v, sizeof(v));
    reply_with(out, text, n + 1);
    emu->negotiated = true;
    return 0;
}

static int device_reset(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    (void)in;
    (void)out;
    emu_reset(emu);
    return 0;
}

/* ---- the client's memory ---- */

static int map_fd(struct emu_map *map, uint64_t offset, int fd)
{
    int prot = (map->flags & VFIO_USER_DMA_F_READ ? PROT_READ : 0) |
               (map->flags & VFIO_USER_DMA_F_WRITE ? PROT_WRITE : 0);
    struct stat st;
    void *hva;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISREG(st.st_mode) && !range_within(offset, map->size, (uint64_t)st.st_size))
        return -EINVAL;
    hva = mmap(NULL, map->size, prot, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);
    if (hva == MAP_FAILED)
        return -errno;
    map->hva = hva;
    return 0;
}

static int dma_map(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_user_dma_map req;
    struct emu_map new, *slot = NULL;
    int err = 0;

    (void)out;
    memcpy(&req, in->data, sizeof(req));
    new = (struct emu_map){req.address, req.size, req.flags, NULL};
    if (req.argsz < sizeof(req) || (req.flags & ~3U) || !req.size ||
        ((req.address | req.size | req.offset) & 0xfff) || req.address > UINT64_MAX - req.size)
        return -EINVAL;
    for (struct emu_map *m = emu->map; m < emu->map + EMU_MAPS_MAX; m++) {
        if (!m->size)
            slot = m;
        else if (req.address < m->address + m->size && m->address < req.address + req.size)
            return -EEXIST;
    }
    if (!slot)
        return -ENOSPC;
    if (in->fds && !emu->config.message)
        err = map_fd(&new, req.offset, in->fd[0]);
    if (!err)
        *slot = new;
    return err;
}

static int dma_unmap(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_user_dma_unmap req;

    memcpy(&req, in->data, sizeof(req));
    if (req.flags || !req.size)
        return -EINVAL;
    for (struct emu_map *m = emu->map; m < emu->map + EMU_MAPS_MAX; m++) {
        if (m->address != req.address || m->size != req.size)
            continue;
        if (m->hva)
            munmap(m->hva, m->size);
        *m = (struct emu_map){0};
        reply_with(out, &req, sizeof(req));
        return 0;
    }
    return -ENOENT;
}

/* What the client answered to COMMAND, with commands of its own put aside until later. */
static int await_reply(struct emu *emu, int fd, const struct vfio_user_header *request,
                       struct emu_msg **out)
{
    unsigned queued = 0;
    int err;

    for (;;) {
        struct emu_msg *msg, **end = &emu->queue;

        err = emu_receive(emu, fd, &msg);
        if (err)
            return err;
        if ((msg->header.flags & VFIO_USER_TYPE) == VFIO_USER_REPLY &&
            msg->header.msg_id == request->msg_id && msg->header.command == request->command) {
            *out = msg;
            return 0;
        }
        if ((msg->header.flags & VFIO_USER_TYPE) != VFIO_USER_REQUEST || fd == emu->twin ||
            ++queued > QUEUE_MAX) {
            emu_msg_free(msg);
            return -EPROTO;
        }
        while (*end)
            end = &(*end)->next;
        *end = msg;
    }
}

int emu_dma_message(struct emu *emu, bool write, uint64_t addr, void *data, uint64_t count)
{
    struct vfio_user_dma_access access = {addr, count};
    int fd = emu->twin >= 0 ? emu->twin : emu->fd;
    size_t len = sizeof(access) + (write ? count : 0);
    struct emu_msg *msg = calloc(1, sizeof(*msg) + len), *reply = NULL;

    if (!msg)
        return -ENOMEM;
    msg->header =
        (struct vfio_user_header){.msg_id = emu->next_id++,
                                  .command = write ? VFIO_USER_DMA_WRITE : VFIO_USER_DMA_READ,
                                  .size = (uint32_t)sizeof(msg->header),
                                  .flags = VFIO_USER_REQUEST};
    reply_with(msg, &access, sizeof(access));
    if (write)
        reply_with(msg, data, count);
    if (!emu->broken)
        emu->broken = emu_send(emu, fd, msg, msg->header.size);
    if (!emu->broken)
        emu->broken = await_reply(emu, fd, &msg->header, &reply);
    free(msg);
    if (emu->broken)
        return emu->broken;

    int err = 0;
    if (reply->header.flags & VFIO_USER_ERROR)
        err = -EFAULT;
    /* The specification gives the count in DMA_WRITE's reply 4 bytes, everybody sends 8. */
    else if (payload_size(reply) < (write ? 12 : sizeof(access) + count) ||
             memcmp(reply->data, &access, 12) != 0)
        err = emu->broken = -EPROTO;
    else if (!write)
        memcpy(data, reply->data + sizeof(access), count);
    emu_msg_free(reply);
    return err;
}

/* ---- what the device is ---- */

static int get_info(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    const uint32_t info[] = {16, emu->device->flags, emu->device->regions, emu->device->irqs};

    if (get_le32(in->data) < sizeof(info))
        return -EINVAL;
    reply_with(out, info, sizeof(info));
    return 0;
}

static int get_region_info(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_region_info_cap_sparse_mmap cap = {
        .header = {VFIO_REGION_INFO_CAP_SPARSE_MMAP, 1, 0}};
    struct vfio_region_info info;
    const struct emu_region *region;
    uint32_t room;

    memcpy(&info, in->data, sizeof(info));
    room = info.argsz;
    if (room < sizeof(info) || info.index >= emu->device->regions)
        return -EINVAL;
    region = &emu->device->region[info.index];
    info = (struct vfio_region_info){.argsz = sizeof(info),
                                     .flags = region->flags,
                                     .index = info.index,
                                     .size = emu->region[info.index].size};
    for (unsigned i = 0; i < region->areas; i++)
        cap.nr_areas += region->area[i].kind == EMU_MAPPABLE;
    if (emu->config.mmap && emu->peer_fds && (region->memory || cap.nr_areas)) {
        info.flags |= VFIO_REGION_INFO_FLAG_MMAP;
        out->fd[out->fds++] = emu->region[info.index].fd;
        if (cap.nr_areas) {
            info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
            info.argsz += (uint32_t)(sizeof(cap) + cap.nr_areas * sizeof(cap.areas[0]));
        }
    }
    if (info.argsz > sizeof(info) && info.argsz <= room)
        info.cap_offset = sizeof(info); /* else the client asks again, with room for all */
    reply_with(out, &info, sizeof(info));
    if (!info.cap_offset)
        return 0;
    reply_with(out, &cap, sizeof(cap));
    for (unsigned i = 0; i < region->areas; i++) {
        const struct emu_area *a = &region->area[i];

        if (a->kind == EMU_MAPPABLE)
            reply_with(out, (uint64_t[]){a->offset, a->size}, sizeof(cap.areas[0]));
    }
    return 0;
}

static int get_io_fds(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_user_region_io_fds r;
    struct vfio_user_io_fd entry[EMU_DOORBELLS_MAX] = {0};
    uint32_t argsz, n = 0;

    memcpy(&r, in->data, sizeof(r));
    if (r.argsz < sizeof(r) || r.flags || r.index >= emu->device->regions)
        return -EINVAL;
    argsz = r.argsz;
    for (unsigned i = 0; i < emu->doorbells && n < emu->peer_fds; i++) {
        const struct emu_doorbell *d = &emu->doorbell[i];

        if (d->region != r.index)
            continue;
        out->fd[n] = d->fd;
        entry[n] = (struct vfio_user_io_fd){.offset = d->reg->offset,
                                            .size = d->reg->width,
                                            .fd_index = n,
                                            .type = VFIO_USER_IO_FD_IOEVENTFD};
        n++;
    }
    r.count = n;
    r.argsz = (uint32_t)(sizeof(r) + n * sizeof(entry[0]));
    reply_with(out, &r, sizeof(r));
    if (r.argsz <= argsz) {
        reply_with(out, entry, n * sizeof(entry[0]));
        out->fds = n;
    }
    return 0;
}

/* ---- interrupts ---- */

static int get_irq_info(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_irq_info info;

    memcpy(&info, in->data, sizeof(info));
    if (info.argsz < sizeof(info) || info.index >= emu->device->irqs)
        return -EINVAL;
    info.argsz = sizeof(info);
    info.flags = emu->device->irq[info.index].flags;
    if (!emu->config.automask)
        info.flags &= VFIO_IRQ_INFO_EVENTFD;
    info.count = emu->device->irq[info.index].count;
    reply_with(out, &info, sizeof(info));
    return 0;
}

/* Takes the request's descriptors, or those given before away when it has none. They are made
 * non-blocking: what kind of file a client sends is its own affair. */
static int set_eventfds(struct emu_msg *in, int *slot, uint32_t count)
{
    if (in->fds && in->fds != count)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++) {
        emu_close(&slot[i]);
        if (!in->fds)
            continue;
        slot[i] = in->fd[i];
        in->fd[i] = -1;
        fcntl(slot[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

static int irq_trigger(struct emu_irq_state *irq, const struct vfio_irq_set *set,
                       struct emu_msg *in)
{
    if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD)
        return set_eventfds(in, irq->trigger + set->start, set->count);
    if (!set->count) { /* the whole index off */
        for (uint32_t i = 0; i < EMU_VECTORS_MAX; i++)
            emu_close(&irq->trigger[i]);
        emu_close(&irq->unmask);
        irq->masked = false;
    }
    for (uint32_t i = 0; i < set->count; i++)
        if ((set->flags & VFIO_IRQ_SET_DATA_NONE) || in->data[sizeof(*set) + i])
            emu_irq_signal(irq->trigger[set->start + i]);
    return 0;
}

static int irq_mask(struct emu_irq_state *irq, const struct vfio_irq_set *set,
                    struct emu_msg *in)
{
    bool mask = set->flags & VFIO_IRQ_SET_ACTION_MASK;

    if (set->flags & VFIO_IRQ_SET_DATA_EVENTFD)
        return mask ? -EINVAL : set_eventfds(in, &irq->unmask, set->count);
    if (set->count && ((set->flags & VFIO_IRQ_SET_DATA_NONE) || in->data[sizeof(*set)]))
        irq->masked = mask;
    return 0;
}

static int set_irqs(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_irq_set set;
    uint32_t action, data, room = payload_size(in) - (uint32_t)sizeof(set);
    int err;

    (void)out;
    memcpy(&set, in->data, sizeof(set));
    action = set.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK;
    data = set.flags & VFIO_IRQ_SET_DATA_TYPE_MASK;
    if (set.argsz < sizeof(set) || set.argsz > payload_size(in) || !is_pow2(action) ||
        !is_pow2(data) || (action | data) != set.flags || set.index >= emu->device->irqs ||
        !range_within(set.start, set.count, emu->device->irq[set.index].count))
        return -EINVAL;
    if (!set.count &&
        (action != VFIO_IRQ_SET_ACTION_TRIGGER || set.start || data != VFIO_IRQ_SET_DATA_NONE))
        return -EINVAL;
    if (data == VFIO_IRQ_SET_DATA_BOOL && room < set.count)
        return -EINVAL;
    if (action == VFIO_IRQ_SET_ACTION_TRIGGER)
        err = irq_trigger(&emu->irq[set.index], &set, in);
    else if (!emu->config.automask)
        return 0; /* as libvfio-user: no error, no effect */
    else if (emu->device->irq[set.index].flags & VFIO_IRQ_INFO_MASKABLE)
        err = irq_mask(&emu->irq[set.index], &set, in);
    else
        return -EINVAL;
    emu_irq_update(emu, set.index);
    return err;
}

/* ---- regions ---- */

static int region_read(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_user_region_access req;

    memcpy(&req, in->data, sizeof(req));
    if (req.count > emu->config.xfer)
        return -EINVAL;
    reply_with(out, &req, sizeof(req));
    out->header.size += req.count;
    return emu_region_access(emu, false, req.region, req.offset, out->data + sizeof(req),
                             req.count);
}

static int region_write(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    struct vfio_user_region_access req;

    memcpy(&req, in->data, sizeof(req));
    if (req.count > emu->config.xfer || payload_size(in) != sizeof(req) + req.count)
        return -EINVAL;
    reply_with(out, &req, sizeof(req));
    return emu_region_access(emu, true, req.region, req.offset, in->data + sizeof(req),
                             req.count);
}

static int region_write_multi(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    uint64_t count = get_le64(in->data), room = payload_size(in) - sizeof(count);

    if (count != room / sizeof(struct vfio_user_write_multi) ||
        room % sizeof(struct vfio_user_write_multi))
        return -EINVAL;
    for (uint64_t i = 0; i < count; i++) {
        struct vfio_user_write_multi w;
        int err = -EINVAL;

        memcpy(&w, in->data + sizeof(count) + i * sizeof(w), sizeof(w));
        if (w.count <= sizeof(w.data))
            err = emu_region_access(emu, true, w.region, w.offset, &w.data, w.count);
        if (err)
            return err;
    }
    reply_with(out, &count, sizeof(count));
    return 0;
}

/* ---- the loop ---- */

#define COMMAND(name, min, fds, handle, fields) \
    [VFIO_USER_##name] = {#name, fields, min, fds, handle}

const struct emu_command emu_command[EMU_COMMANDS] = {
    COMMAND(VERSION, 4, 0, version, "major:2 minor:2 text"),
    COMMAND(DMA_MAP, 32, 1, dma_map, "argsz:4 flags:4 offset:8 address:8 size:8"),
    COMMAND(DMA_UNMAP, 24, 0, dma_unmap, "argsz:4 flags:4 address:8 size:8"),
    COMMAND(DEVICE_GET_INFO, 16, 0, get_info, "argsz:4 flags:4 regions:4 irqs:4"),
    COMMAND(DEVICE_GET_REGION_INFO, 32, 0, get_region_info,
            "argsz:4 flags:4 index:4 cap:4 size:8 offset:8"),
    COMMAND(DEVICE_GET_REGION_IO_FDS, 16, 0, get_io_fds, "argsz:4 flags:4 index:4 count:4"),
    COMMAND(DEVICE_GET_IRQ_INFO, 16, 0, get_irq_info, "argsz:4 flags:4 index:4 count:4"),
    COMMAND(DEVICE_SET_IRQS, 20, EMU_FDS_MAX, set_irqs,
            "argsz:4 flags:4 index:4 start:4 count:4"),
    COMMAND(REGION_READ, 16, 0, region_read, "offset:8 region:4 count:4"),
    COMMAND(REGION_WRITE, 16, 0, region_write, "offset:8 region:4 count:4"),
    COMMAND(DMA_READ, 0, 0, NULL, "address:8 count:8"), /* the server's own */
    COMMAND(DMA_WRITE, 0, 0, NULL, "address:8 count:8"),
    COMMAND(DEVICE_RESET, 0, 0, device_reset, ""),
    COMMAND(REGION_WRITE_MULTI, 8, 0, region_write_multi, "writes:8"),
};

static int handle(struct emu *emu, struct emu_msg *in, struct emu_msg *out)
{
    const struct emu_command *c =
        in->header.command < EMU_COMMANDS ? &emu_command[in->header.command] : NULL;

    if (!c || !c->handle)
        return -ENOTSUP;
    if (payload_size(in) < c->min || in->too_many || in->fds > c->fds ||
        (!emu->negotiated && in->header.command != VFIO_USER_VERSION))
        return -EINVAL;
    return c->handle(emu, in, out);
}

/* Spoils a reply as the option fault= asks; what is sent is LEN bytes of it. */
static void spoil(struct emu *emu, struct emu_msg *out, size_t *len)
{
    struct vfio_user_header *h = &out->header;

    switch (emu->config.fault) {
    case FAULT_SHORT:
        *len = h->size -= 4;
        break;
    case FAULT_LONG:
        memset(out->data + payload_size(out), 0x5a, EMU_PADDING);
        *len = h->size += EMU_PADDING;
        break;
    case FAULT_HUGE:
        h->size = UINT32_MAX;
        break;
    case FAULT_BADID:
        h->msg_id ^= 1;
        break;
    case FAULT_BADCMD:
        h->command ^= 1;
        break;
    case FAULT_FDS:
        while (out->fds < EMU_FDS_MAX)
            out->fd[out->fds++] = emu->region[0].fd;
        break;
    case FAULT_ERROR:
        *len = h->size = sizeof(*h);
        h->flags |= VFIO_USER_ERROR;
        h->error = EIO;
        break;
    default:
        break;
    }
    emu->config.fault = FAULT_NONE;
}

/* Carries out a command, and answers it. */
static int serve_message(struct emu *emu, struct emu_msg *in)
{
    struct emu_msg *out = emu->reply;
    bool fault = ++emu->commands >= emu->config.fault_at;
    size_t len;
    int err;

    if ((in->header.flags & VFIO_USER_TYPE) != VFIO_USER_REQUEST)
        return -EPROTO; /* a reply to nothing */
    if (fault && emu->config.fault == FAULT_DIE)
        return -ECANCELED;
    if (fault && emu->config.fault == FAULT_HANG) {
        err = emu_wait(emu, emu->fd, POLLRDHUP);
        return err ? err : -ECONNRESET;
    }
    out->header = (struct vfio_user_header){.msg_id = in->header.msg_id,
                                            .command = in->header.command,
                                            .size = sizeof(out->header),
                                            .flags = VFIO_USER_REPLY};
    out->fds = 0;
    err = handle(emu, in, out);
    if (emu->broken)
        return emu->broken;
    if (err) {
        out->header.size = sizeof(out->header);
        out->header.flags |= VFIO_USER_ERROR;
        out->header.error = (uint32_t)-err;
        out->fds = 0;
    }
    len = out->header.size;
    if (in->header.flags & VFIO_USER_NO_REPLY)
        return 0;
    if (fault)
        spoil(emu, out, &len);
    err = emu_send(emu, emu->fd, out, len);
    return err || emu->negotiated ? err : -EPROTO;
}

static int next_message(struct emu *emu)
{
    struct emu_msg *in = emu->queue;
    int err = 0;

    if (in)
        emu->queue = in->next;
    else
        err = emu_receive(emu, emu->fd, &in);
    if (err)
        return err;
    err = serve_message(emu, in);
    emu_msg_free(in);
    return err;
}

/* The guest has dealt with a level interrupt: KVM says so by the client's eventfd. */
static void unmask_event(struct emu *emu, unsigned index)
{
    struct emu_irq_state *irq = &emu->irq[index];
    eventfd_t value;

    if (irq->unmask < 0)
        return;
    errno = 0;
    if (eventfd_read(irq->unmask, &value) == 0) {
        irq->masked = false;
        emu_irq_update(emu, index);
    } else if (errno != EAGAIN) {
        emu_close(&irq->unmask); /* no eventfd at all */
    }
}

static void doorbell_event(struct emu *emu, const struct emu_doorbell *d)
{
    eventfd_t rings;

    if (eventfd_read(d->fd, &rings) == 0)
        d->reg->on_write(emu, d->reg);
}

/* Waits, then does what is due: first the messages that had come when the wait was over, so
 * that a write without reply that acknowledges an interrupt is not overtaken by the unmasking
 * that the guest does next; then unmasking and doorbells. */
static int step(struct emu *emu)
{
    struct pollfd p[1 + EMU_IRQS_MAX + EMU_DOORBELLS_MAX + 1], *next = p;
    const struct pollfd *doorbells, *socket;
    int available = 0, err = 0;
    uint64_t until;

    *next++ = (struct pollfd){emu->stop, POLLIN, 0};
    for (unsigned i = 0; i < EMU_IRQS_MAX; i++)
        *next++ = (struct pollfd){emu->irq[i].unmask, POLLIN, 0};
    doorbells = next;
    for (unsigned i = 0; i < emu->doorbells; i++)
        *next++ = (struct pollfd){emu->doorbell[i].fd, POLLIN, 0};
    socket = next;
    *next++ = (struct pollfd){emu->fd, POLLIN, 0};
    if (poll(p, (nfds_t)(next - p), emu->queue ? 0 : -1) < 0)
        return errno == EINTR ? 0 : -errno;
    if (p[0].revents)
        return -ECANCELED;
    if (socket->revents && (ioctl(emu->fd, FIONREAD, &available) < 0 || !available))
        available = 1; /* the end of the stream */
    until = emu->bytes + (uint64_t)available;
    while (!err && (emu->queue || emu->bytes < until))
        err = next_message(emu);
    for (unsigned i = 0; !err && i < EMU_IRQS_MAX; i++)
        if (p[1 + i].revents)
            unmask_event(emu, i);
    for (unsigned i = 0; !err && i < emu->doorbells; i++)
        if (doorbells[i].revents)
            doorbell_event(emu, &emu->doorbell[i]);
    return err ? err : emu->broken;
}

int emu_serve(struct emu *emu)
{
    int err;

    do
        err = step(emu);
    while (!err);
    return err == -ECONNRESET ? 0 : err;
}
