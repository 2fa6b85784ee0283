/* pidfile.c: see pidfile.h. */
#include "vmm/pidfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/util.h"

/* The longest that a pidfile has: somebody else's file is not emptied by a slip of the hand. */
#define PIDFILE_SIZE_MAX 32

/* Whether FD is what PATH names: it may have been removed by the VM that held its lock. */
static bool is_at(const char *path, int fd)
{
    struct stat a, b;
    return !fstat(fd, &a) && !lstat(path, &b) && is_same_file(&a, &b);
}

static int refuse(const char *path, const char *why, const char *hint)
{
    log_error(path, "cannot use it as pidfile: %s; %s", why, hint);
    return -EINVAL;
}

/* FD is locked when this returns 0. */
static int take(const char *path, int fd)
{
    struct stat st;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > PIDFILE_SIZE_MAX)
        return refuse(path, "it is there and no pidfile", "give the path of a file to be made");
    if (flock(fd, LOCK_EX | LOCK_NB))
        return refuse(path, "another VM has it locked", "end that one, or give another path");
    return 0;
}

int pidfile_open(const char *path)
{
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    /* Once more where the VM before us removed it between our open and our lock. */
    for (int tries = 0; tries < 8; tries++) {
        int fd = open(path, flags, 0644);
        if (fd < 0) {
            int err = -errno;
            log_error(path, "cannot open pidfile: %s; give the path of a file to be made",
                      strerror(-err));
            return err;
        }
        int err = take(path, fd);
        if (!err && is_at(path, fd) && !ftruncate(fd, 0))
            return fd;
        close(fd);
        if (err)
            return err;
    }
    return refuse(path, "it changes all the time", "give another path");
}

int pidfile_write(const char *path, int fd)
{
    char text[PIDFILE_SIZE_MAX];
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    ssize_t done = pwrite(fd, text, (size_t)len, 0);
    if (done == len)
        return 0;
    int err = done < 0 ? -errno : -ENOSPC;
    log_error(path, "cannot write pidfile: %s; make room there", strerror(-err));
    return err;
}

void pidfile_close(const char *path, int fd)
{
    if (is_at(path, fd))
        unlink(path);
    close(fd); /* and the lock goes */
}
