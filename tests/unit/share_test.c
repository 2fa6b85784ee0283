/*
 * share_test.c: where a shared folder's server comes from: a socket that is given, or a program
 * called virtiofsd, here a script that writes down how it was called.
 */
#include "vmm/share.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/options.h"
#include "vmm/spawn.h"

static char dir[] = "/tmp/minivmm-share-XXXXXX";
static char old_path[PATH_MAX];
static struct spawn server;
static struct option_share share;

static const char *in_dir(const char *name)
{
    static char path[64];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void script(const char *name, const char *text)
{
    FILE *f = fopen(in_dir(name), "w");
    cr_assert(f);
    fprintf(f, "#!/bin/sh\n%s\n", text);
    fclose(f);
    chmod(in_dir(name), 0755);
}

static void setup(void)
{
    char path[2 * PATH_MAX];
    log_set_level(LOG_ERROR);
    cr_assert(mkdtemp(dir));
    cr_assert_eq(chmod(dir, 0755), 0);
    snprintf(old_path, sizeof(old_path), "%s", getenv("PATH"));
    snprintf(path, sizeof(path), "%s:%s", dir, old_path);
    setenv("PATH", path, 1);
    setenv("TMPDIR", dir, 1);
    snprintf(share.dir, sizeof(share.dir), "%s", dir);
}

static void teardown(void)
{
    char command[128];
    spawn_stop(&server);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    cr_expect_eq(system(command), 0);
}

TestSuite(share, .init = setup, .fini = teardown);

/* The name that we connected to leads nowhere any more, and its directory is gone. */
static void expect_gone(int fd)
{
    struct sockaddr_un addr = {0};
    socklen_t len = sizeof(addr);
    cr_assert_eq(getpeername(fd, (struct sockaddr *)&addr, &len), 0);
    char *slash = strrchr(addr.sun_path, '/');
    cr_assert(slash, "%s", addr.sun_path);
    cr_expect_eq(access(addr.sun_path, F_OK), -1);
    *slash = '\0';
    cr_expect_eq(access(addr.sun_path, F_OK), -1);
}

/* What the script wrote; it ends with the connection that it was given. */
static void expect_called(const char *wanted)
{
    char text[PATH_MAX * 2] = "", byte;
    int fd = share_connect(&server, &share);
    cr_assert_geq(fd, 0);
    expect_gone(fd);
    cr_expect_eq(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1), 1);
    cr_expect_eq(recv(fd, &byte, 1, 0), -1, "closed with the listener: it was in its queue");
    cr_expect_eq(errno, ECONNRESET);
    close(fd);
    fd = open(in_dir("called"), O_RDONLY | O_CLOEXEC);
    cr_assert_geq(fd, 0);
    cr_assert_gt(read(fd, text, sizeof(text) - 1), 0);
    close(fd);
    cr_expect_str_eq(text, wanted);
}

Test(share, starts_the_server)
{
    char wanted[PATH_MAX];
    script("virtiofsd", "cd \"${0%/*}\"; test -S /proc/self/fd/3 && echo \"$*\" >called");
    snprintf(wanted, sizeof(wanted), "--fd=3 -o source=%s\n", dir);
    expect_called(wanted);
}

static void refused(const char *where, int err)
{
    log_set_level(LOG_ERROR);
    snprintf(share.dir, sizeof(share.dir), "%s", where);
    cr_expect_eq(share_connect(&server, &share), err, "%s", where);
    cr_expect_eq(server.pid, 0);
}

/* Who is not root, becomes it in a namespace; who has more groups, with newgidmap's help. */
static void as_a_user(size_t groups)
{
    static const gid_t group[1] = {20};
    char wanted[PATH_MAX];
    if (geteuid() == 0) {
        cr_assert_eq(setgroups(groups, group), 0);
        cr_assert_eq(chown(dir, 1000, 1000), 0);
        cr_assert_eq(seteuid(1000), 0);
    }
    script("virtiofsd", "exit 1");
    script("unshare", "cd \"${0%/*}\"; echo \"$*\" >called");
    setenv("PATH", dir, 1);
    if (groups)
        refused(dir, -ENOENT);
    script("newuidmap", "exit 1");
    const char *how = getgroups(0, NULL) > 0 ? "--map-auto" : "--";
    snprintf(wanted, sizeof(wanted), "-r %s %s/virtiofsd --fd=3 -o source=%s\n", how, dir, dir);
    expect_called(wanted);
    setenv("PATH", old_path, 1);
}

Test(share, as_a_user)
{
    as_a_user(0);
}

Test(share, as_a_user_with_groups)
{
    as_a_user(1);
}

static int listen_at(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(addr.sun_path, path, strlen(path));
    cr_assert_eq(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 1), 0);
    return fd;
}

Test(share, a_server_that_runs)
{
    char byte;
    int listener = listen_at(in_dir("s"));
    snprintf(share.dir, sizeof(share.dir), "unix:%s", in_dir("s"));
    int fd = share_connect(&server, &share);
    cr_assert_geq(fd, 0);
    cr_expect_eq(server.pid, 0);
    int peer = accept(listener, NULL, NULL);
    cr_assert_eq(write(peer, "x", 1), 1);
    cr_expect_eq(read(fd, &byte, 1), 1);
    close(peer);
    close(fd);
    for (unsigned n = 0; n < 10 && fd >= 0; n++)
        fd = share_connect(&server, &share);
    cr_expect_eq(fd, -EAGAIN, "it does not accept them, and is not waited for");
    close(listener);
}

Test(share, refused)
{
    char longest[1024];
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "unix:", 5);
    longest[5 + sizeof(((struct sockaddr_un *)0)->sun_path)] = '\0';
    refused(longest, -ENAMETOOLONG);
    refused("unix:/nowhere/at/all", -ENOENT);
    refused("/nowhere/at/all", -ENOTDIR);
    refused("/dev/null", -ENOTDIR);
    cr_assert_eq(mkdir(in_dir("a,sandbox=none"), 0755), 0);
    cr_assert_eq(symlink("a,sandbox=none", in_dir("link")), 0);
    refused(in_dir("link"), -EINVAL); /* virtiofsd would share another one */
    setenv("PATH", "/nowhere", 1);
    script("virtiofsd", "exit 1");
    if (access("/usr/libexec/virtiofsd", X_OK) && access("/usr/lib/qemu/virtiofsd", X_OK))
        refused(dir, -ENOENT);
    setenv("PATH", old_path, 1);
}
