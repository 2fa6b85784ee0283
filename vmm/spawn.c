/*
 * spawn.c: see spawn.h.
 *
 * fork(2) and execv(2): the child calls nothing but what signal-safety(7) allows, and tells
 * over a pipe that closes itself when the program runs.
 *
 * It is in a process group of its own, so that Ctrl-C at the terminal is the VM's alone.
 * PR_SET_PDEATHSIG ends it when the VM is killed; a program that changes its user loses that
 * again, so it also has to end when its socket does (both do).
 */
#include "vmm/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm/log.h"
#include "vmm/util.h"

#define STOP_POLL_NS   (NS_PER_S / 100)
#define STOP_POLLS_MAX 200

/* PATH is :-separated; an empty part, which is the current directory, is not taken. */
int spawn_find(const char *name, const char *install, char *out, size_t size)
{
    char dirs[2 * PATH_MAX];
    const char *path = getenv("PATH");
    snprintf(dirs, sizeof(dirs), "%s:/usr/libexec:/usr/lib/qemu", path ? path : "");
    char *save = NULL;
    bool found = strchr(name, '/') && snprintf(out, size, "%s", name) < (int)size;
    for (char *d = strtok_r(dirs, ":", &save); d && !found; d = strtok_r(NULL, ":", &save)) {
        int n = snprintf(out, size, "%s/%s", d, name);
        found = n > 0 && (size_t)n < size && !access(out, X_OK);
    }
    if (found)
        return 0;
    log_error(name, "cannot start program: not in PATH, /usr/libexec or /usr/lib/qemu; %s",
              install);
    return -ENOENT;
}

/* In the child; DUP_FD is above the numbers that are given a meaning here. */
static int become(const char *path, char *const *argv, int dup_fd, int ready, pid_t parent)
{
    sigset_t none;
    int in = ready < 0 ? open("/dev/null", O_RDWR) : fcntl(ready, F_DUPFD, SPAWN_FD + 1);
    /* IN may be standard input itself. */
    if (in < 0 || dup2(in, STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0 ||
        dup2(dup_fd, SPAWN_FD) < 0 || setpgid(0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return errno;
    if (getppid() != parent) /* which ended before it was said that it matters */
        return ESRCH;
    close_range(SPAWN_FD + 1, UINT_MAX, CLOSE_RANGE_CLOEXEC);
    signal(SIGPIPE, SIG_DFL); /* what is ignored stays so in the program */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(path, argv);
    return errno;
}

/* 0 when the program runs, else the errno that kept it from that. */
static int run(struct spawn *s, const char *path, char *const *argv, int dup_fd, int ready)
{
    int status[2], err = 0;
    pid_t parent = getpid();
    if (pipe2(status, O_CLOEXEC) < 0)
        return errno;
    s->pid = fork();
    if (s->pid == 0) {
        int pipe_fd = fcntl(status[1], F_DUPFD_CLOEXEC, SPAWN_FD + 1);
        err = become(path, argv, dup_fd, ready, parent);
        (void)!write(pipe_fd, &err, sizeof(err));
        _exit(127);
    }
    if (s->pid < 0) {
        err = errno;
        s->pid = 0;
    }
    close(status[1]);
    if (!err && read(status[0], &err, sizeof(err)) == sizeof(err)) {
        waitpid(s->pid, NULL, 0);
        s->pid = 0;
    }
    close(status[0]);
    return err;
}

/* PATH is where the program is; READY, or -1, becomes its standard input. */
static int start(struct spawn *s, char path[PATH_MAX], const char *const *argv, int fd,
                 int ready, const char *install)
{
    int err = spawn_find(argv[0], install, path, PATH_MAX);
    if (err)
        return err;
    int dup_fd = fcntl(fd, F_DUPFD_CLOEXEC, SPAWN_FD + 1);
    err = dup_fd < 0 ? errno : run(s, path, (char *const *)argv, dup_fd, ready);
    if (dup_fd >= 0)
        close(dup_fd);
    if (err)
        log_error(path, "cannot start program: %s; run it by hand to see why", strerror(err));
    return -err;
}

int spawn_start(struct spawn *s, const char *const *argv, int fd, const char *install)
{
    char path[PATH_MAX];
    return start(s, path, argv, fd, -1, install);
}

int spawn_connect(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0)
        return fd;
    int err = -errno;
    close(fd);
    return err;
}

/* Whether it has ended, or does so within a bounded time. It is a zombie then: its number is
 * still its own, and its group's. */
static bool ends(pid_t pid)
{
    for (unsigned n = 0;; n++) {
        siginfo_t info = {0};
        if (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT | WNOHANG) < 0 || info.si_pid)
            return true;
        if (n == STOP_POLLS_MAX)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = STOP_POLL_NS}, NULL);
    }
}

/* The end of the file is the program's, as a rule. One that lives on has lost the pipe to a
 * policy of the host's (SELinux): it is taken for ready. */
static int wait_ready(const struct spawn *s, int pipe_fd, int timeout_ms, const char *path)
{
    struct pollfd p = {.fd = pipe_fd, .events = POLLIN};
    char line[16];
    if (poll(&p, 1, timeout_ms) <= 0) {
        log_error(path, "cannot start program: it is not ready after %d ms; run it by hand",
                  timeout_ms);
        return -ETIMEDOUT;
    }
    if (read(pipe_fd, line, sizeof(line)) > 0 || !ends(s->pid))
        return 0;
    log_error(path,
              "cannot start program: it has ended; what it says on standard error is why");
    return -ECHILD;
}

int spawn_start_ready(struct spawn *s, const char *const *argv, int fd, int timeout_ms,
                      const char *install)
{
    char path[PATH_MAX];
    int ready[2];
    if (pipe2(ready, O_CLOEXEC) < 0) {
        int err = -errno;
        log_error(argv[0], "cannot make a pipe for program: %s", strerror(-err));
        return err;
    }
    fchmod(ready[1], 0666); /* it may be another user by the time it opens it */
    int err = start(s, path, argv, fd, ready[1], install);
    close(ready[1]);
    if (!err)
        err = wait_ready(s, ready[0], timeout_ms, path);
    close(ready[0]);
    return err;
}

void spawn_stop(struct spawn *s)
{
    if (!s->pid)
        return;
    kill(-s->pid, SIGTERM);
    ends(s->pid);
    kill(-s->pid, SIGKILL); /* and what it has started itself */
    kill(s->pid, SIGKILL);  /* also where it has left its group */
    ends(s->pid);           /* a disk that hangs may keep it for ever */
    waitpid(s->pid, NULL, WNOHANG);
    s->pid = 0;
}
