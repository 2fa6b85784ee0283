/*
 * vfio_user.c: a device behind a vfio-user server: the negotiation, then struct vfio_device and
 * struct vfio_iommu by messages.
 *
 * docs/interop/vfio-user.rst in QEMU's tree, "Protocol Specification", version 0.0. The
 * server's limits bound what is sent; what it answers is checked here and in vfio_info.c, so
 * that users of vfio.h need not. It gets guest RAM's descriptor to map. Descriptors that it
 * gives for its regions are mapped only as far as their files reach; a file that is shortened
 * later makes KVM_RUN fail, which costs the guest the mapping.
 *
 * SET_IRQS with DATA_EVENTFD and ACTION_UNMASK means what it means to the kernel: the server
 * unmasks when the eventfd is signalled (the text has it the other way round, which is of no
 * use to a resampled interrupt). Left out: migration, dirty pages, ioregionfd, shadow
 * ioeventfds. Any thread; the locks are the connection's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vfio/vfio_info.h"
#include "vfio/vfio_user.h"
#include "vmm/layout.h"
#include "vmm/log.h"
#include "vmm/util.h"

#define ANSWER_MAX  (64 * KIB) /* the biggest one worth asking for */
#define REGIONS_MAX 16
#define IRQS_MAX    64
#define SEND_FDS    8 /* servers refuse more, whatever they say */

/* Proposed; both sides' numbers are those of vfio_user.h. */
#define CAPABILITIES                                         \
    "{\"capabilities\":{\"max_msg_fds\":64,"                 \
    "\"max_data_xfer_size\":1048576,\"max_dma_maps\":65535," \
    "\"pgsizes\":4096,\"write_multiple\":true,"              \
    "\"twin_socket\":{\"supported\":true}}}"
_Static_assert(VFIO_USER_FDS_MAX == 64 && VFIO_USER_XFER_MAX == 1048576, "in CAPABILITIES");

struct user_region {
    struct vfio_user_fds file; /* what can be mapped: one */
    struct vfio_user_fds io;   /* ioeventfds */
};

struct vfio_user {
    struct vfio_device dev;
    struct vfio_iommu iommu;
    struct vfio_user_conn conn;
    struct vfio_user_caps caps; /* the server's */
    unsigned send_fds;          /* descriptors that it takes in a message */
    bool bypassed;              /* the guest reaches it also past the socket */
    struct user_region region[REGIONS_MAX];
};

static struct vfio_user *to_user(struct vfio_device *dev)
{
    return container_of(dev, struct vfio_user, dev);
}

/* A command with SIZE bytes, which may be where its reply goes, of exactly REPLY_SIZE bytes. */
static int command(struct vfio_user *user, uint16_t command, const void *data, size_t size,
                   void *reply, size_t reply_size)
{
    struct vfio_user_call call = {
        .command = command,
        .data = data,
        .size = size,
        .reply = reply,
        .min = reply_size,
        .max = reply_size,
    };
    return vfio_user_call(&user->conn, &call);
}

/* An answer of a length that the server knows. */
union answer {
    uint32_t argsz;
    struct vfio_region_info region;
    struct vfio_user_region_io_fds io;
    uint8_t room[ANSWER_MAX];
};

/* SIZE bytes at the start of M are the question (its argsz is filled in), then the answer, its
 * true length at its start. */
static int ask(struct vfio_user *user, uint16_t command, union answer *m, uint32_t size,
               struct vfio_user_fds *fds)
{
    struct vfio_user_call call = {
        .command = command,
        .data = m,
        .size = size,
        .reply = m,
        .min = size,
        .max = sizeof(*m),
        .got_fds = fds,
    };
    m->argsz = sizeof(*m);
    int err = vfio_user_call(&user->conn, &call);
    if (!err && m->argsz > sizeof(*m))
        err = -EMSGSIZE;
    else if (!err && call.got > MAX(m->argsz, size))
        err =
            vfio_user_conn_lose(&user->conn, "sent %zu bytes and said %u", call.got, m->argsz);
    m->argsz = (uint32_t)call.got;
    if (err)
        vfio_user_fds_close(fds);
    return err;
}

/* ---- regions ---- */

/* The areas of REGION that lie in the file FD: the rest could not be touched. */
static void clip_areas(struct vfio_region *region, int fd)
{
    struct stat st;
    uint64_t size = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    size = size > region->offset ? align_down(size - region->offset, LAYOUT_PAGE_SIZE) : 0;
    unsigned n = 0;
    for (unsigned i = 0; i < region->areas; i++) {
        struct vfio_area area = region->area[i];
        if (area.offset >= size)
            break;
        area.size = MIN(area.size, size - area.offset);
        region->area[n++] = area;
    }
    region->areas = n;
}

static void add_ioeventfd(struct vfio_region *region, const struct vfio_user_io_fd *entry,
                          const struct vfio_user_fds *fds)
{
    bool size_ok = entry->size == 0 || (is_pow2(entry->size) && entry->size <= 8);
    if (entry->type != VFIO_USER_IO_FD_IOEVENTFD || !size_ok ||
        entry->flags & VFIO_USER_IO_FD_F_DATAMATCH || entry->fd_index >= fds->nr ||
        !range_within(entry->offset, MAX(entry->size, 1), region->size) ||
        region->ioeventfds == VFIO_IOEVENTFDS_MAX)
        return;
    region->ioeventfd[region->ioeventfds++] = (struct vfio_ioeventfd){
        .fd = fds->fd[entry->fd_index], .size = (unsigned)entry->size, .offset = entry->offset};
}

/*
 * Writes that may signal an eventfd instead. They are a shortcut: no failure counts. Only a
 * server with a later capability is asked, as there are others that do not skip the payload of
 * a command they do not know.
 */
static void find_ioeventfds(struct vfio_user *user, struct vfio_region *region,
                            struct vfio_user_fds *fds)
{
    union answer m = {.io.index = region->index};
    if (!region->size || !(user->caps.write_multiple || user->caps.twin) ||
        ask(user, VFIO_USER_DEVICE_GET_REGION_IO_FDS, &m, sizeof(m.io), fds))
        return;
    size_t entries = m.argsz - sizeof(m.io); /* bytes */
    size_t step = m.io.count ? entries / m.io.count : 0;
    for (size_t i = 0; step >= sizeof(struct vfio_user_io_fd) && i < m.io.count; i++) {
        struct vfio_user_io_fd entry;
        memcpy(&entry, m.room + sizeof(m.io) + i * step, sizeof(entry));
        add_ioeventfd(region, &entry, fds);
    }
}

static void forget_region(struct user_region *r)
{
    vfio_user_fds_close(&r->file);
    vfio_user_fds_close(&r->io);
}

static int region_info(struct vfio_device *dev, uint32_t index, struct vfio_region *region)
{
    struct vfio_user *user = to_user(dev);
    union answer m = {.region.index = index};
    if (index >= dev->regions)
        return -EINVAL;
    struct user_region *r = &user->region[index];
    forget_region(r);
    int err = ask(user, VFIO_USER_DEVICE_GET_REGION_INFO, &m, sizeof(m.region), &r->file);
    if (err)
        return err;
    err = vfio_info_region(&m, index, region);
    if (r->file.nr)
        clip_areas(region, r->file.fd[0]);
    else
        region->areas = 0;
    if (!err)
        find_ioeventfds(user, region, &r->io);
    user->bypassed |= region->areas || region->ioeventfds;
    return err;
}

static int region_mmap(struct vfio_device *dev, const struct vfio_region *region,
                       const struct vfio_area *area, void *addr)
{
    const struct vfio_user_fds *file = &to_user(dev)->region[region->index].file;
    return file->nr ? vfio_info_mmap(region, area, file->fd[0], addr) : -EINVAL;
}

/* What a REGION_READ and a REGION_WRITE have in common, one in its reply, one in its request.
 */
struct access_message {
    struct vfio_user_region_access head;
    uint8_t data[8];
};

static int check_access(const struct vfio_region *region, uint64_t offset, size_t len,
                        struct access_message *m)
{
    *m = (struct access_message){
        .head = {.offset = offset, .region = region->index, .count = (uint32_t)len}};
    return len <= sizeof(m->data) && range_within(offset, len, region->size) ? 0 : -EINVAL;
}

static int region_read(struct vfio_device *dev, const struct vfio_region *region,
                       uint64_t offset, void *data, size_t len)
{
    struct vfio_user *user = to_user(dev);
    struct access_message m;
    int err = check_access(region, offset, len, &m);
    if (!err)
        err =
            command(user, VFIO_USER_REGION_READ, &m, sizeof(m.head), &m, sizeof(m.head) + len);
    if (!err && m.head.count != len)
        err = vfio_user_conn_lose(&user->conn, "read %u bytes for %zu", m.head.count, len);
    if (!err)
        memcpy(data, m.data, len);
    return err;
}

static int region_write(struct vfio_device *dev, const struct vfio_region *region,
                        uint64_t offset, const void *data, size_t len)
{
    struct vfio_user *user = to_user(dev);
    struct access_message m;
    int err = check_access(region, offset, len, &m);
    if (err)
        return err;
    memcpy(m.data, data, len);
    /* A bus keeps the order of a processor's writes: none may be under way on the socket when
     * the next one takes another way to the server. */
    if (region->posted && user->caps.twin && !user->bypassed) {
        struct vfio_user_write_multi write = {
            .offset = offset, .region = region->index, .count = (uint32_t)len};
        memcpy(&write.data, data, len);
        return vfio_user_post(&user->conn, &write);
    }
    err = command(user, VFIO_USER_REGION_WRITE, &m, sizeof(m.head) + len, &m, sizeof(m.head));
    return !err && m.head.count != len ? -EIO : err;
}

/* ---- interrupts, reset ---- */

static int irq_info(struct vfio_device *dev, uint32_t index, struct vfio_irq_info *info)
{
    *info = (struct vfio_irq_info){.argsz = sizeof(*info), .index = index};
    return command(to_user(dev), VFIO_USER_DEVICE_GET_IRQ_INFO, info, sizeof(*info), info,
                   sizeof(*info));
}

static int irq_set(struct vfio_device *dev, uint32_t index, uint32_t flags, uint32_t start,
                   uint32_t count, const int *fds)
{
    struct vfio_user *user = to_user(dev);
    struct vfio_irq_set set = {
        .argsz = sizeof(set), .flags = flags, .index = index, .start = start, .count = count};
    struct vfio_user_call call = {
        .command = VFIO_USER_DEVICE_SET_IRQS, .data = &set, .size = sizeof(set)};
    if (!(flags & VFIO_IRQ_SET_DATA_EVENTFD))
        return vfio_user_call(&user->conn, &call);
    int err = user->send_fds ? 0 : -EOPNOTSUPP;
    for (uint32_t i = 0; i < count && !err; i += set.count) {
        bool none = fds[i] < 0;
        uint32_t n = 1;
        while (i + n < count && (fds[i + n] < 0) == none && (none || n < user->send_fds))
            n++;
        set.start = start + i;
        set.count = n;
        call.fd = fds + i;
        call.fds = none ? 0 : n;
        err = vfio_user_call(&user->conn, &call);
        /* Servers differ on whether one that has none may be taken away. */
        if (none && err == -EINVAL)
            err = 0;
    }
    return err;
}

static int device_reset(struct vfio_device *dev)
{
    if (!(dev->flags & VFIO_DEVICE_FLAGS_RESET))
        return -ENOTTY;
    return command(to_user(dev), VFIO_USER_DEVICE_RESET, NULL, 0, NULL, 0);
}

/* The server stays: RAM is still mapped there. */
static void device_close(struct vfio_device *dev)
{
    struct vfio_user *user = to_user(dev);
    dev->on_lost = NULL;
    for (unsigned i = 0; i < REGIONS_MAX; i++)
        forget_region(&user->region[i]);
}

static const struct vfio_device_ops device_ops = {
    .region_info = region_info,
    .region_read = region_read,
    .region_write = region_write,
    .region_mmap = region_mmap,
    .irq_info = irq_info,
    .irq_set = irq_set,
    .reset = device_reset,
    .close = device_close,
};

/* ---- DMA ---- */

static int iommu_limits(struct vfio_iommu *iommu, struct vfio_dma_limits *limits)
{
    const struct vfio_user *user = container_of(iommu, struct vfio_user, iommu);
    limits->page = user->caps.pgsizes;
    limits->avail = (uint32_t)MIN(user->caps.max_dma_maps, VFIO_USER_MAPS_MAX);
    return 0;
}

static int iommu_map(struct vfio_iommu *iommu, uint64_t iova, uint64_t size, void *hva, int fd,
                     uint64_t fd_offset)
{
    struct vfio_user *user = container_of(iommu, struct vfio_user, iommu);
    const struct vfio_user_map map = {.iova = iova, .size = size, .hva = hva};
    bool pass = fd >= 0 && user->send_fds;
    struct vfio_user_dma_map request = {
        .argsz = sizeof(request),
        .flags = VFIO_USER_DMA_F_READ | VFIO_USER_DMA_F_WRITE,
        .offset = pass ? fd_offset : 0,
        .address = iova,
        .size = size,
    };
    struct vfio_user_call call = {
        .command = VFIO_USER_DMA_MAP,
        .data = &request,
        .size = sizeof(request),
        .fd = &fd,
        .fds = pass,
    };
    int err = vfio_user_conn_map(&user->conn, &map);
    if (err)
        return err;
    err = vfio_user_call(&user->conn, &call);
    if (err)
        vfio_user_conn_unmap(&user->conn, iova, size);
    return err;
}

static int iommu_unmap(struct vfio_iommu *iommu, uint64_t iova, uint64_t size)
{
    struct vfio_user *user = container_of(iommu, struct vfio_user, iommu);
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .address = iova, .size = size};
    int err = command(user, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap), &unmap, sizeof(unmap));
    vfio_user_conn_unmap(&user->conn, iova, size);
    return err;
}

static const struct vfio_iommu_ops iommu_ops = {
    .limits = iommu_limits,
    .map = iommu_map,
    .unmap = iommu_unmap,
};

/* ---- negotiation ---- */

/* *TWIN: the socket for the server's commands, or -1. */
static int negotiate(struct vfio_user *user, int *twin)
{
    struct vfio_user_conn *conn = &user->conn;
    struct vfio_user_caps *caps = &user->caps;
    struct vfio_user_fds fds = {0};
    struct {
        struct vfio_user_version version;
        char json[2048];
    } m = {.json = CAPABILITIES};
    struct vfio_user_call call = {
        .command = VFIO_USER_VERSION,
        .data = &m,
        .size = sizeof(m.version) + sizeof(CAPABILITIES),
        .reply = &m,
        .min = sizeof(m.version),
        .max = sizeof(m),
        .got_fds = &fds,
    };
    int err = vfio_user_call(conn, &call);
    if (err)
        return vfio_user_conn_lose(conn, "refused the protocol: %s", strerror(-err));
    size_t size = call.got - sizeof(m.version);
    if (m.version.major != 0 || m.version.minor != 0)
        err = vfio_user_conn_lose(conn, "speaks version %u.%u of vfio-user, not 0.0",
                                  m.version.major, m.version.minor);
    else if (size && (m.json[size - 1] || vfio_user_caps_read(caps, m.json, size - 1)))
        err = vfio_user_conn_lose(conn, "sent capabilities that make no sense");
    else if (caps->max_data_xfer_size < sizeof(uint64_t))
        err = vfio_user_conn_lose(conn, "takes only %u bytes at a time",
                                  (unsigned)caps->max_data_xfer_size);
    else if (caps->twin && caps->twin_fd >= fds.nr)
        err = vfio_user_conn_lose(conn, "sent no twin socket where it promised one");
    if (!err && caps->twin) {
        *twin = fds.fd[caps->twin_fd];
        fds.fd[caps->twin_fd] = fds.fd[--fds.nr];
    }
    vfio_user_fds_close(&fds);
    conn->write_multiple = caps->write_multiple;
    user->send_fds = (unsigned)MIN(caps->max_msg_fds, SEND_FDS);
    snprintf(user->dev.compatible, sizeof(user->dev.compatible), "%s", caps->compatible);
    return err;
}

static int get_info(struct vfio_user *user)
{
    struct vfio_user_device_info info = {.argsz = sizeof(info)};
    int err =
        command(user, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info), &info, sizeof(info));
    if (err)
        return vfio_user_conn_lose(&user->conn, "does not tell what its device is: %s",
                                   strerror(-err));
    user->dev.flags = info.flags;
    user->dev.regions = MIN(info.num_regions, REGIONS_MAX);
    user->dev.irqs = MIN(info.num_irqs, IRQS_MAX);
    return 0;
}

int vfio_user_connect(struct vfio_user **out, const char *path, struct loop *loop)
{
    struct vfio_user *user = calloc(1, sizeof(*user));
    int twin = -1;
    if (!user) {
        log_error(path, "cannot connect: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    snprintf(user->dev.name, sizeof(user->dev.name), "%s", path);
    user->dev.ops = &device_ops;
    user->dev.wants_msi_control = true;
    user->dev.iommu = &user->iommu;
    user->iommu = (struct vfio_iommu){.ops = &iommu_ops, .name = user->dev.name};
    user->caps = (struct vfio_user_caps){
        .max_msg_fds = VFIO_USER_DEFAULT_MSG_FDS,
        .max_data_xfer_size = VFIO_USER_DEFAULT_DATA_XFER,
        .max_dma_maps = VFIO_USER_DEFAULT_DMA_MAPS,
        .pgsizes = VFIO_USER_DEFAULT_PGSIZES,
        .twin_fd = UINT64_MAX,
    };
    int err = vfio_user_conn_open(&user->conn, &user->dev, path, loop);
    if (!err)
        err = negotiate(user, &twin);
    if (!err)
        err = vfio_user_conn_watch(&user->conn, twin);
    if (!err)
        err = get_info(user);
    if (err) {
        vfio_user_destroy(user);
        return err;
    }
    *out = user;
    return 0;
}

void vfio_user_destroy(struct vfio_user *user)
{
    if (!user)
        return;
    device_close(&user->dev);
    vfio_user_conn_close(&user->conn);
    free(user);
}

struct vfio_device *vfio_user_device(struct vfio_user *user)
{
    return &user->dev;
}
