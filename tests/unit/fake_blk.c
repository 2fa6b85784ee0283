/* fake_blk.c: see fake_blk.h. */
#include "tests/unit/fake_blk.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "vmm/util.h"

struct fake_blk fake_blk;

long __real_syscall(long number, ...);
ssize_t __real_preadv(int fd, const struct iovec *iov, int nr, off_t offset);
ssize_t __real_pwritev2(int fd, const struct iovec *iov, int nr, off_t offset, int flags);
int __real_fdatasync(int fd);
int __real_fallocate(int fd, int mode, off_t offset, off_t len);
long __wrap_syscall(long number, ...);
ssize_t __wrap_preadv(int fd, const struct iovec *iov, int nr, off_t offset);
ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int nr, off_t offset, int flags);
int __wrap_fdatasync(int fd);
int __wrap_fallocate(int fd, int mode, off_t offset, off_t len);

static int fail(int err)
{
    errno = err;
    return -1;
}

long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list args;
    va_start(args, number);
    for (unsigned i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number == __NR_io_uring_setup && fake_blk.setup_errno)
        return fail(fake_blk.setup_errno);
    if (number == __NR_io_uring_enter && fake_blk.enter_errno)
        return fail(fake_blk.enter_errno);
    if (number == __NR_io_uring_enter && fake_blk.enter_by_one) {
        fake_blk.enter_by_one ^= 3;
        if (fake_blk.enter_by_one == 1)
            return fail(EAGAIN);
        a[1] = 1;
    }
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* The first of the buffers only, cut. */
static struct iovec cut(const struct iovec *iov)
{
    return (struct iovec){iov->iov_base, MIN(iov->iov_len, fake_blk.short_max)};
}

ssize_t __wrap_preadv(int fd, const struct iovec *iov, int nr, off_t offset)
{
    if (fake_blk.slow_ms)
        nanosleep(&(struct timespec){.tv_nsec = fake_blk.slow_ms * 1000000L}, NULL);
    if (!fake_blk.short_max)
        return __real_preadv(fd, iov, nr, offset);
    struct iovec one = cut(iov);
    return __real_preadv(fd, &one, 1, offset);
}

ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int nr, off_t offset, int flags)
{
    if (flags & RWF_DSYNC)
        fake_blk.dsyncs++;
    if (!fake_blk.short_max)
        return __real_pwritev2(fd, iov, nr, offset, flags);
    struct iovec one = cut(iov);
    return __real_pwritev2(fd, &one, 1, offset, flags);
}

int __wrap_fdatasync(int fd)
{
    fake_blk.syncs++;
    return __real_fdatasync(fd);
}

int __wrap_fallocate(int fd, int mode, off_t offset, off_t len)
{
    if (fake_blk.fallocate_errno)
        return fail(fake_blk.fallocate_errno);
    return __real_fallocate(fd, mode, offset, len);
}
