/* log_test.c: what really arrives at standard error, and in how many writes. */
#include "vmm/log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A sequenced socket keeps the writes apart. */
static int capture(void)
{
    int pair[2];

    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
    cr_assert_geq(dup2(pair[1], STDERR_FILENO), 0);
    close(pair[1]);
    return pair[0];
}

/* The next write, or "" when there was none. */
static const char *captured(int fd)
{
    static char line[4096];
    ssize_t n = read(fd, line, sizeof(line) - 1);

    line[n < 0 ? 0 : n] = '\0';
    return line;
}

Test(log, says_where)
{
    int fd = capture();

    log_error("0000:42:00.0", "cannot open %s: %d", "group", 7);
    cr_expect_str_eq(captured(fd), "minivmm: 0000:42:00.0: cannot open group: 7\n");
    log_error(NULL, "cannot start");
    cr_expect_str_eq(captured(fd), "minivmm: cannot start\n");
    log_error("a", "%s", "");
    cr_expect_str_eq(captured(fd), "minivmm: a: \n");
    log_error("", "cannot open"); /* a file without a name */
    cr_expect_str_eq(captured(fd), "minivmm: '': cannot open\n");
}

Test(log, says_whose)
{
    int fd = capture();

    log_set_name("vm-1");
    log_error("disk", "cannot open");
    cr_expect_str_eq(captured(fd), "minivmm vm-1: disk: cannot open\n");
    log_error(NULL, "cannot start");
    cr_expect_str_eq(captured(fd), "minivmm vm-1: cannot start\n");
    log_set_name(NULL);
    log_error(NULL, "cannot start");
    cr_expect_str_eq(captured(fd), "minivmm: cannot start\n");
}

Test(log, goes_to_a_file_from_then_on)
{
    char path[] = "/tmp/minivmm-log.XXXXXX", text[64] = "";
    int file = mkstemp(path), fd = capture();

    cr_assert_eq(write(file, "old\n", 4), 4);
    cr_expect_eq(log_set_file("/nowhere/log"), -ENOENT);
    cr_expect(strstr(captured(fd), "/nowhere/log: cannot open log file: No such file"));
    cr_assert_eq(log_set_file(path), 0);
    log_error("a", "1");
    log_error("a", "2");
    cr_expect_str_eq(captured(fd), "");
    cr_expect_gt(pread(file, text, sizeof(text) - 1, 0), 0);
    cr_expect_str_eq(text, "old\nminivmm: a: 1\nminivmm: a: 2\n");
    unlink(path);
    close(file);
}

Test(log, level_drops_what_is_above)
{
    int fd = capture();

    log_debug(NULL, "no");
    cr_expect_str_eq(captured(fd), "");
    log_note(NULL, "yes");
    cr_expect_str_eq(captured(fd), "minivmm: yes\n");
    log_set_level(LOG_ERROR);
    log_warn(NULL, "no");
    cr_expect_str_eq(captured(fd), "");
    log_error(NULL, "yes");
    cr_expect_str_eq(captured(fd), "minivmm: yes\n");
    log_set_level(LOG_DEBUG);
    log_debug(NULL, "yes");
    cr_expect_str_eq(captured(fd), "minivmm: yes\n");
}

Test(log, control_characters_do_not_reach_the_terminal)
{
    int fd = capture();

    log_error("evil\n\x1b[2J\x7f\r", "tab\there, C1 \xc2\x9b");
    cr_expect_str_eq(captured(fd), "minivmm: evil??[2J??: tab?here, C1 \xc2?\n");
    log_error("\xc3\xbc\xe2\x82\x9b.bin", "UTF-8 stays");
    cr_expect_str_eq(captured(fd), "minivmm: \xc3\xbc\xe2\x82\x9b.bin: UTF-8 stays\n");
}

Test(log, long_lines_are_cut_and_still_end)
{
    char name[3000], text[3000];
    const char *line;
    int fd = capture();

    memset(name, 'n', sizeof(name));
    memset(text, 't', sizeof(text));
    name[sizeof(name) - 1] = text[sizeof(text) - 1] = '\0';

    log_error("w", "%s", text);
    line = captured(fd);
    cr_expect_eq(strlen(line), 1024);
    cr_expect_str_eq(line + 1020, "ttt\n");
    log_error(name, "%s", text);
    line = captured(fd);
    cr_expect_eq(strlen(line), 1024);
    cr_expect_str_eq(line + 1020, "nnn\n");

    /* The last length that fits, and the first that does not. */
    text[1024 - strlen("minivmm: ")] = '\0';
    log_error(NULL, "%s", text);
    cr_expect_eq(strlen(captured(fd)), 1024);
    text[1023 - strlen("minivmm: ")] = '\0';
    log_error(NULL, "%s", text);
    line = captured(fd);
    cr_expect_eq(strlen(line), 1024);
    cr_expect_str_eq(line + 1020, "ttt\n");
    cr_expect_str_eq(captured(fd), "");
}

Test(log, keeps_errno)
{
    int fd = capture();

    errno = ENOENT;
    log_error("x", "%m");
    cr_expect_eq(errno, ENOENT);
    cr_expect_str_eq(captured(fd), "minivmm: x: No such file or directory\n");
    close(STDERR_FILENO);
    log_error("x", "nobody listens");
    cr_expect_eq(errno, ENOENT);
}

Test(log, limit_is_a_budget)
{
    struct log_limit limit = {0}, other = {0};

    for (int i = 0; i < 16; i++)
        cr_expect(log_limit(&limit), "call %d", i);
    for (int i = 0; i < 100; i++)
        cr_expect_not(log_limit(&limit));
    cr_expect(log_limit(&other));

    atomic_store(&limit.used, UINT_MAX);
    cr_expect_not(log_limit(&limit));
    cr_expect_not(log_limit(&limit), "the count has wrapped");
}

static atomic_uint granted;

static void *spend(void *opaque)
{
    for (int i = 0; i < 1000; i++) {
        if (log_limit(opaque))
            atomic_fetch_add(&granted, 1);
    }
    return NULL;
}

Test(log, limit_holds_across_threads)
{
    struct log_limit limit = {0};
    pthread_t thread[4];

    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, spend, &limit), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    cr_expect_eq(atomic_load(&granted), 16);
}

Test(log, progress_in_a_file_becomes_rarer)
{
    struct log_progress progress = {0};
    int fd = capture();

    for (unsigned i = 1; i <= 9; i++)
        log_progress(&progress, "x", "%u", i);
    cr_expect_str_eq(captured(fd), "minivmm: x: 1\n");
    cr_expect_str_eq(captured(fd), "minivmm: x: 2\n");
    cr_expect_str_eq(captured(fd), "minivmm: x: 4\n");
    cr_expect_str_eq(captured(fd), "minivmm: x: 8\n");
    cr_expect_str_eq(captured(fd), "");
    log_set_level(LOG_WARN);
    progress.calls = 0;
    log_progress(&progress, "x", "no");
    cr_expect_str_eq(captured(fd), "");
}

/* What a terminal gets: each line goes up over the one before. */
Test(log, progress_on_a_terminal_is_one_line)
{
    struct log_progress progress = {0};
    char got[128];
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

    cr_assert(master >= 0 && !grantpt(master) && !unlockpt(master));
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_geq(dup2(slave, STDERR_FILENO), 0);
    for (unsigned i = 1; i <= 3; i++)
        log_progress(&progress, NULL, "%u", i);
    close(slave);
    close(capture()); /* nobody has the terminal any more: its last byte is the end */
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len<sizeof(got) - 1; len += n> 0 ? (size_t)n : 0)
        n = read(master, got + len, sizeof(got) - 1 - len);
    got[len] = '\0';
    cr_expect_str_eq(got, "minivmm: 1\r\n\033[A\033[Kminivmm: 2\r\n\033[A\033[Kminivmm: 3\r\n");
}
