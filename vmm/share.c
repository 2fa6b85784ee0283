/*
 * share.c: see share.h.
 *
 * virtiofsd (QEMU's in C, and its successor in Rust, which takes the same options) wants to be
 * root, to change its root directory into the shared one. An ordinary user is root in a user
 * namespace (unshare(1)): what the guest's root makes is the user's. It also wants to leave the
 * user's other groups, which the kernel allows only where newgidmap(1) made the namespace: then
 * it also knows the users that /etc/subuid gives to this one.
 *
 * It is handed a socket that listens, and accepts one connection, which must be ours: the
 * socket's name is in a directory that nobody else can enter, and gone before it starts.
 */
#include "vmm/share.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/options.h"
#include "vmm/spawn.h"
#include "vmm/util.h"

#define INSTALL "install virtiofsd (Debian 12: qemu-system-common)"

/* Returns our end. */
static int make_sockets(int *listener)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *tmp = getenv("TMPDIR");
    char dir[sizeof(addr.sun_path) - sizeof("/fs")];
    int fd = snprintf(dir, sizeof(dir), "%s/minivmm-XXXXXX", tmp ? tmp : "/tmp");
    if (fd >= (int)sizeof(dir))
        return -ENAMETOOLONG;
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener < 0 || !mkdtemp(dir))
        return -errno;
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/fs", dir);
    if (bind(*listener, (const struct sockaddr *)&addr, sizeof(addr)) || listen(*listener, 1))
        fd = -errno;
    else
        fd = spawn_connect(addr.sun_path);
    unlink(addr.sun_path);
    rmdir(dir);
    return fd;
}

static int start_server(struct spawn *server, const char *dir, int listener)
{
    static const char fd_option[] = "--fd=" SPAWN_FD_TEXT;
    char path[PATH_MAX], source[PATH_MAX + 8];
    bool user = geteuid() != 0, groups = getgroups(0, NULL) > 0;
    const char *const argv[] = {
        "unshare", "-r", groups ? "--map-auto" : "--", path, fd_option, "-o", source, NULL};
    int err = 0;
    if (user && groups) /* unshare(1) calls it */
        err = spawn_find("newuidmap", "apt install uidmap, or run as root", path, sizeof(path));
    if (!err)
        err = spawn_find("virtiofsd", INSTALL, path, sizeof(path));
    if (err)
        return err;
    snprintf(source, sizeof(source), "source=%s", dir);
    return spawn_start(server, user ? argv : argv + 3, listener, INSTALL);
}

/* WHOLE: QEMU's virtiofsd goes to / before it looks for it. */
static int find_directory(const char *dir, char whole[PATH_MAX])
{
    struct stat st;
    errno = 0;
    if (!realpath(dir, whole) || stat(whole, &st) || !S_ISDIR(st.st_mode)) {
        log_error(dir, "cannot share: %s; give DIR:TAG with one that there is",
                  errno == EACCES ? "no permission to go there" : "no such directory");
        return -ENOTDIR;
    }
    if (!strpbrk(whole, ",\\"))
        return 0;
    log_error(dir, "cannot share: virtiofsd takes no comma or backslash in %s; rename it",
              whole);
    return -EINVAL;
}

static int start(struct spawn *server, const char *dir)
{
    char whole[PATH_MAX];
    int listener = -1;
    int err = find_directory(dir, whole);
    if (err)
        return err;
    int fd = make_sockets(&listener);
    err = fd < 0 ? fd : start_server(server, whole, listener);
    if (fd < 0)
        log_error(dir, "cannot make a socket for its server: %s", strerror(-err));
    if (listener >= 0)
        close(listener);
    if (err && fd >= 0)
        close(fd);
    return err ? err : fd;
}

int share_connect(struct spawn *server, const struct option_share *share)
{
    static const char prefix[] = "unix:";
    if (strncmp(share->dir, prefix, strlen(prefix)) != 0)
        return start(server, share->dir);
    const char *path = share->dir + strlen(prefix);
    int fd = spawn_connect(path);
    if (fd < 0)
        log_error(share->dir, "cannot connect: %s; start virtiofsd first (--socket-path=%s)",
                  strerror(-fd), path);
    return fd;
}
