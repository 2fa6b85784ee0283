/*
 * spawn_test.c: a helper program gets its socket and nothing else, and is gone afterwards
 * however it takes that, also when the one that started it is killed.
 */
#include "vmm/spawn.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int pair[2];
static struct spawn s;

static void setup(void)
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
}

TestSuite(spawn, .init = setup, .timeout = 30);

static int start(const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    return spawn_start(&s, argv, pair[1], "install a shell");
}

/* What comes until the end of the line, or of the file. */
static const char *line_from(int fd)
{
    static char line[256];
    size_t n = 0;
    while (n < sizeof(line) - 1 && read(fd, line + n, 1) == 1 && line[n] != '\n')
        n++;
    line[n] = 0;
    return line;
}

Test(spawn, its_socket_and_no_other_descriptor)
{
    cr_assert_geq(open("/dev/zero", O_RDONLY), 5); /* not close-on-exec */
    cr_assert_eq(start("echo $(ls /proc/self/fd) $(readlink /proc/self/fd/0) >&3"), 0);
    cr_expect_str_eq(line_from(pair[0]), "0 1 2 3 4 /dev/null", "4 is ls's own");
    spawn_stop(&s);
    cr_expect_eq(s.pid, 0);
}

Test(spawn, signals_and_group_are_its_own)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    cr_assert_eq(
        start("while read a b; do [ $a = SigBlk: ] && echo $b >&3; done </proc/self/status; "
              "sleep 1000"),
        0);
    cr_expect_str_eq(line_from(pair[0]), "0000000000000000");
    cr_expect_eq(getpgid(s.pid), s.pid);
    pid_t pid = s.pid;
    spawn_stop(&s);
    cr_expect(kill(pid, 0) && errno == ESRCH);
    close(pair[1]);
    cr_expect_str_eq(line_from(pair[0]), "", "the whole group is gone");
}

Test(spawn, one_that_does_not_want_to_end)
{
    cr_assert_eq(start("trap '' TERM; echo on >&3; sleep 1000 & wait; sleep 1000"), 0);
    cr_expect_str_eq(line_from(pair[0]), "on");
    pid_t pid = s.pid;
    spawn_stop(&s);
    cr_expect(kill(pid, 0) && errno == ESRCH);
    close(pair[1]);
    cr_expect_str_eq(line_from(pair[0]), "", "what it started is gone, too");
}

Test(spawn, one_that_leaves_its_group)
{
    signal(SIGTERM, SIG_IGN); /* inherited */
    pid_t pid = fork();       /* into our own group */
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
    }
    s.pid = pid;
    spawn_stop(&s);
    cr_expect(kill(pid, 0) && errno == ESRCH);
}

Test(spawn, one_that_has_ended_already)
{
    cr_assert_eq(start("exit 1"), 0);
    close(pair[1]);
    cr_expect_str_eq(line_from(pair[0]), "");
    spawn_stop(&s);
    spawn_stop(&s);
    cr_expect(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

static int start_ready(const char *script, int timeout_ms)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    return spawn_start_ready(&s, argv, pair[1], timeout_ms, "install a shell");
}

/* Its standard input is the pipe and can be opened by another user, as passt does it. */
Test(spawn, one_that_says_that_it_is_ready)
{
    cr_assert_eq(start_ready("echo $(stat -Lc %a /proc/self/fd/0) $(ls /proc/self/fd) >&3; "
                             "echo $$ >" SPAWN_READY "; read x <&3",
                             30000),
                 0);
    cr_expect_str_eq(line_from(pair[0]), "666 0 1 2 3 4");
    cr_expect_eq(kill(s.pid, 0), 0);
    spawn_stop(&s);
}

Test(spawn, one_that_never_gets_ready)
{
    cr_expect_eq(start_ready("exit 1", 30000), -ECHILD);
    spawn_stop(&s);
    cr_expect_eq(start_ready("exec sleep 1000", 10), -ETIMEDOUT);
    spawn_stop(&s);
    cr_expect_eq(start_ready("exec sleep 1000 0>&-", 30000), 0, "who knows");
    cr_expect_eq(kill(s.pid, 0), 0);
    spawn_stop(&s);
    cr_expect(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}

Test(spawn, a_kill_of_the_parent_kills_it)
{
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        start("echo on >&3; read x <&3");
        pause();
        _exit(0);
    }
    close(pair[1]);
    cr_expect_str_eq(line_from(pair[0]), "on");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    cr_expect_str_eq(line_from(pair[0]), "", "the end of the file");
}

Test(spawn, what_is_not_there)
{
    const char *const argv[] = {"no-such-program-of-minivmm", NULL};
    const char *const not_a_program[] = {"/dev/null", NULL};
    cr_expect_eq(spawn_start(&s, argv, pair[1], "install it: apt install it"), -ENOENT);
    cr_expect_eq(s.pid, 0);
    cr_expect_eq(spawn_start(&s, not_a_program, pair[1], "install it"), -EACCES);
    cr_expect_eq(s.pid, 0);
    cr_expect(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
}
