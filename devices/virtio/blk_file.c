/*
 * blk_file.c: see blk_file.h.
 *
 * The lock is an open file description lock (fcntl(2)) over the whole file; a block device that
 * is to be written is opened with O_EXCL too, which the kernel refuses while it is mounted or
 * part of another one.
 *
 * With O_DIRECT a request whose buffers or place are not aligned as the file system wants it
 * goes through a second descriptor without: within one kernel both see the same data, since
 * direct access writes the page cache back and drops it first. A flush is fdatasync(2), of the
 * inode, so it covers both. Left out: resizing; formats other than raw.
 */
#include "devices/virtio/blk_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/util.h"

#define DIRECT_ALIGN 4096 /* where the file system does not say: enough for all */

struct blk_file {
    struct blk_file_config config;
    struct blk_file_info info;
    struct blk_aio *aio;
    int fd;
    int direct_fd;                   /* -1: none */
    uint32_t mem_align, place_align; /* of it */
};

/* ---- opening ---- */

static bool is_of_same_file(int a, int b)
{
    struct stat x, y;
    return !fstat(a, &x) && !fstat(b, &y) && is_same_file(&x, &y);
}

static int open_image(struct blk_file *file, bool is_device)
{
    const struct blk_file_config *c = &file->config;
    int flags = (c->ro ? O_RDONLY : O_RDWR) | O_CLOEXEC;
    file->fd = open(c->path, flags | (is_device && !c->ro ? O_EXCL : 0));
    if (file->fd < 0) {
        int err = -errno;
        bool denied = err == -EACCES || err == -EPERM || err == -EROFS;
        log_error(c->path, "cannot open disk: %s; %s", strerror(-err),
                  err == -EBUSY      ? "unmount it, or free it of what else uses it"
                  : denied && !c->ro ? "give a file that can be written, or add ,ro"
                                     : "give a file that can be read");
        return err;
    }
    if (!c->direct)
        return 0;
    file->direct_fd = open(c->path, flags | O_DIRECT);
    int err = file->direct_fd < 0 ? -errno : 0;
    if (!err && !is_of_same_file(file->fd, file->direct_fd))
        err = -ESTALE;
    if (err) {
        log_error(c->path, "cannot open disk with O_DIRECT: %s; leave out direct",
                  strerror(-err));
    }
    return err;
}

static int lock_image(const struct blk_file *file)
{
    struct flock lock = {.l_type = file->config.ro ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (!fcntl(file->fd, F_OFD_SETLK, &lock))
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return -EAGAIN;
    log_warn(file->config.path,
             "cannot lock disk: %s; see to it yourself that nobody else writes to it",
             strerror(errno));
    return 0;
}

/* Alignment of direct access, which for a block device is its block size (Linux 6.1). */
static void find_alignment(struct blk_file *file, bool is_device)
{
    struct statx st;
    bool known = !statx(file->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) &&
                 st.stx_mask & STATX_DIOALIGN && is_pow2(st.stx_dio_mem_align) &&
                 is_pow2(st.stx_dio_offset_align);
    file->mem_align = known ? st.stx_dio_mem_align : DIRECT_ALIGN;
    file->place_align = known ? st.stx_dio_offset_align : DIRECT_ALIGN;
    if (is_device && known)
        file->info.block = MAX(BLK_SECTOR, st.stx_dio_offset_align);
}

static int measure(struct blk_file *file, bool is_device)
{
    const char *path = file->config.path;
    off_t size = lseek(file->fd, 0, SEEK_END); /* a block device's, too */
    file->info.block = BLK_SECTOR;
    if (is_device || file->direct_fd >= 0)
        find_alignment(file, is_device);
    uint64_t blocks = (uint64_t)MAX(size, 0) / file->info.block;
    if (!blocks) {
        log_error(path, "cannot use disk: it is empty; make it as large as the guest is to see "
                        "it (truncate -s 10G)");
        return -EINVAL;
    }
    if ((uint64_t)size % file->info.block)
        log_warn(path,
                 "the disk's last %llu bytes are no whole block: the guest does not see "
                 "them",
                 (unsigned long long)((uint64_t)size % file->info.block));
    /* A guest may have written that, too: it is no error. */
    char magic[4];
    if (pread(file->fd, magic, 4, 0) == 4 && !memcmp(magic, "QFI\xfb", 4))
        log_warn(path,
                 "cannot be sure that disk is raw: it begins as a qcow2 image does; if it "
                 "is one, convert it (qemu-img convert -O raw)");
    file->info.sectors = blocks * (file->info.block / BLK_SECTOR);
    file->info.physical = MAX(file->info.block, 4096U);

    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t len = strlen(name);
    size_t kept = MIN(len, sizeof(file->info.id));
    memcpy(file->info.id, name + len - kept, kept);
    return 0;
}

/* Before it is opened: that of a FIFO would wait, of a tape move it. */
static int check_kind(const char *path, bool *is_device)
{
    struct stat st;
    *is_device = false;
    if (stat(path, &st))
        return 0; /* opening says why */
    *is_device = S_ISBLK(st.st_mode);
    if (*is_device || S_ISREG(st.st_mode))
        return 0;
    log_error(path, "cannot use disk: it is neither a regular file nor a block device; give a "
                    "raw image");
    return -EINVAL;
}

static int start_aio(struct blk_file *file)
{
    const struct blk_file_config *c = &file->config;
    int err = blk_uring_create(&file->aio, c->depth, c->loop, c->ready, c->opaque);
    if (err)
        err = blk_threads_create(&file->aio, c->loop, c->ready, c->opaque);
    if (err)
        log_error(c->path,
                  "cannot prepare I/O on disk: %s; give fewer disks, or raise the "
                  "limits (ulimit -n, -u, -v)",
                  strerror(-err));
    return err;
}

int blk_file_open(struct blk_file **out, const struct blk_file_config *config)
{
    bool is_device;
    struct blk_file *file = calloc(1, sizeof(*file));
    if (!file) {
        log_error(config->path, "cannot open disk: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    file->config = *config;
    file->fd = file->direct_fd = -1;
    int err = check_kind(config->path, &is_device);
    if (!err)
        err = open_image(file, is_device);
    if (!err)
        err = lock_image(file);
    if (!err)
        err = measure(file, is_device);
    if (!err)
        err = start_aio(file);
    if (err)
        blk_file_close(file);
    else
        *out = file;
    return err;
}

void blk_file_close(struct blk_file *file)
{
    if (!file)
        return;
    if (file->aio)
        file->aio->ops->destroy(file->aio);
    if (file->direct_fd >= 0)
        close(file->direct_fd);
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

const struct blk_file_info *blk_file_info(const struct blk_file *file)
{
    return &file->info;
}

/* ---- requests ---- */

static bool is_aligned(const struct blk_file *file, const struct blk_req *req)
{
    uint64_t place = req->offset, mem = 0;
    for (unsigned i = 0; i < req->nr; i++) {
        place |= req->iov[i].iov_len;
        mem |= (uintptr_t)req->iov[i].iov_base;
    }
    return !(place & (file->place_align - 1)) && !(mem & (file->mem_align - 1));
}

void blk_file_queue(struct blk_file *file, struct blk_req *req)
{
    bool transfer = req->op == BLK_READ || req->op == BLK_WRITE;
    bool direct = transfer && file->direct_fd >= 0 && is_aligned(file, req);
    req->fd = direct ? file->direct_fd : file->fd;
    if (req->op == BLK_ALLOCATE)
        req->flags =
            FALLOC_FL_KEEP_SIZE | (req->keep ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
    else
        req->flags = req->op == BLK_WRITE && req->sync ? RWF_DSYNC : 0;
    file->aio->ops->queue(file->aio, req);
}

void blk_file_submit(struct blk_file *file)
{
    if (file->aio->ops->submit)
        file->aio->ops->submit(file->aio);
}

/* Takes what is done off the front of REQ; true: there is more to do. */
static bool advance(struct blk_req *req, uint64_t bytes)
{
    req->offset += bytes;
    req->len -= bytes;
    for (; req->nr && bytes >= req->iov->iov_len; req->nr--)
        bytes -= req->iov++->iov_len;
    if (req->nr) {
        req->iov->iov_base = (uint8_t *)req->iov->iov_base + bytes;
        req->iov->iov_len -= bytes;
    }
    return req->len;
}

struct blk_req *blk_file_reap(struct blk_file *file)
{
    struct blk_req *req;
    while ((req = file->aio->ops->reap(file->aio))) {
        bool again = req->result == -EINTR;
        if (req->op == BLK_READ || req->op == BLK_WRITE) {
            if (!req->result) /* the file has become shorter */
                req->result = -EIO;
            else if (req->result > 0)
                again = advance(req, MIN((uint64_t)req->result, req->len));
        }
        req->result = MIN(req->result, 0);
        if (!again)
            return req;
        blk_file_queue(file, req);
        blk_file_submit(file);
    }
    return NULL;
}

void blk_file_wait(struct blk_file *file)
{
    struct pollfd pfd = {.fd = file->aio->fd, .events = POLLIN};
    poll(&pfd, 1, -1);
}
