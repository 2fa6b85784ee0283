/* console_test.c: pipes, files and pseudo-terminals as the console's two ends; every way out of
 * the process; job control. */
#include "vmm/console.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "vmm/loop.h"

#define CTRL_A "\x01"
#define BUFFER 4096 /* what the console holds back */

/* The guest's receiver, which takes what it has room for. */
static struct {
    char data[65536];
    size_t len, room;
    unsigned quits;
    bool stop; /* the loop at the first input */
} guest = {.room = SIZE_MAX};

static struct loop *loop;
static struct console *console;
static int in[2], out[2];

static size_t receive(void *opaque, const uint8_t *data, size_t len)
{
    size_t n = len < guest.room ? len : guest.room;

    (void)opaque;
    cr_assert_leq(guest.len + n, sizeof(guest.data));
    memcpy(guest.data + guest.len, data, n);
    guest.len += n;
    guest.room -= n;
    if (guest.stop)
        loop_stop(loop);
    return n;
}

static void quit(void *opaque)
{
    (void)opaque;
    guest.quits++;
}

static const struct console_ops ops = {.receive = receive, .quit = quit};

static void setup(void)
{
    cr_assert_eq(loop_create(&loop), 0);
    cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
}

static void open_console(int in_fd, int out_fd)
{
    cr_assert_eq(console_create(&console, loop, in_fd, out_fd, &ops, NULL), 0);
}

static void teardown(void)
{
    console_destroy(console);
    loop_destroy(loop);
}

TestSuite(console, .init = setup, .fini = teardown);

/* Everything that is ready, some rounds of it. */
static void spin(void)
{
    for (int i = 0; i < 20; i++) {
        loop_stop(loop);
        cr_assert_eq(loop_run(loop), 0);
    }
}

static void type(const char *text)
{
    cr_assert_eq(write(in[1], text, strlen(text)), (ssize_t)strlen(text));
    spin();
}

static void expect_guest(const char *text)
{
    cr_expect_eq(guest.len, strlen(text), "%zu bytes", guest.len);
    cr_expect_eq(memcmp(guest.data, text, strlen(text)), 0);
}

static void ignore(void *opaque, uint32_t events)
{
    (void)opaque;
    (void)events;
}

static bool is_watched(int fd)
{
    int err = loop_add(loop, fd, EPOLLIN, ignore, NULL);

    if (err == 0)
        loop_remove(loop, fd);
    return err == -EEXIST;
}

/* ---- input ---- */

Test(console, input_goes_to_the_guest)
{
    open_console(in[0], out[1]);
    type("hello\r\n\x03\x04\x1a\xff");
    expect_guest("hello\r\n\x03\x04\x1a\xff");
    cr_expect_eq(guest.quits, 0);
}

Test(console, escape_key)
{
    open_console(in[0], out[1]);
    type("a" CTRL_A CTRL_A "b" CTRL_A "zc" CTRL_A "h");
    expect_guest("a" CTRL_A "bc");
    cr_expect_eq(guest.quits, 0);
    type(CTRL_A);
    type("x");
    cr_expect_eq(guest.quits, 1, "also in two reads");
    expect_guest("a" CTRL_A "bc");
    type("x");
    expect_guest("a" CTRL_A "bcx");
}

Test(console, help_is_a_line_on_standard_error)
{
    char line[256] = "";
    int err[2];

    cr_assert_eq(pipe2(err, O_CLOEXEC | O_NONBLOCK), 0);
    cr_assert_geq(dup2(err[1], STDERR_FILENO), 0);
    open_console(in[0], out[1]);
    type(CTRL_A "h");
    cr_assert_gt(read(err[0], line, sizeof(line) - 1), 0);
    cr_expect_not_null(strstr(line, "Ctrl-A x quits"));
    cr_expect_eq(strchr(line, '\n'), line + strlen(line) - 1);
}

/* Bytes in the order of their numbers, so that a loss or a swap shows; no escape key. */
static void pattern(char *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(2 + i % 251);
}

Test(console, slow_guest_loses_nothing)
{
    static char sent[30000];
    int unread = 0;

    open_console(in[0], out[1]);
    pattern(sent, sizeof(sent));
    guest.room = 16;
    cr_assert_eq(write(in[1], sent, sizeof(sent)), sizeof(sent));
    spin();
    cr_expect_eq(guest.len, 16);
    cr_expect_not(is_watched(in[0]), "full: not read any more");
    cr_assert_eq(ioctl(in[0], FIONREAD, &unread), 0);
    cr_expect_geq((size_t)unread, sizeof(sent) - 16 - BUFFER);

    for (int i = 0; guest.len < sizeof(sent) && i < 10000; i++) {
        guest.room = 16;
        console_rx_ready(console);
        spin();
    }
    cr_expect_eq(guest.len, sizeof(sent));
    cr_expect_eq(memcmp(guest.data, sent, sizeof(sent)), 0);
    cr_expect(is_watched(in[0]));
}

Test(console, quits_though_the_guest_takes_nothing)
{
    open_console(in[0], out[1]);
    guest.room = 0;
    type("is anybody there?");
    type(CTRL_A "x");
    cr_expect_eq(guest.quits, 1);
}

Test(console, end_of_input_is_no_end)
{
    open_console(in[0], out[1]);
    type("bye");
    close(in[1]);
    spin();
    expect_guest("bye");
    cr_expect_not(is_watched(in[0]), "a closed pipe is readable for ever");
    console_write(console, (const uint8_t *)"x", 1);
}

Test(console, dev_null)
{
    open_console(open("/dev/null", O_RDONLY | O_CLOEXEC), out[1]);
    spin();
    cr_expect_eq(guest.len, 0);
}

/* epoll refuses regular files: they are read as fast as the guest takes them. */
Test(console, regular_file)
{
    static char sent[30000];
    FILE *file = tmpfile();

    cr_assert_not_null(file);
    pattern(sent, sizeof(sent));
    cr_assert_eq(pwrite(fileno(file), sent, sizeof(sent), 0), sizeof(sent));
    guest.room = 0;
    open_console(fileno(file), out[1]);
    spin();
    cr_expect_eq(guest.len, 0);
    cr_expect_leq(lseek(fileno(file), 0, SEEK_CUR), BUFFER);
    for (int i = 0; guest.len < sizeof(sent) && i < 10000; i++) {
        guest.room = 1000;
        console_rx_ready(console);
        spin();
    }
    cr_expect_eq(guest.len, sizeof(sent));
    cr_expect_eq(memcmp(guest.data, sent, sizeof(sent)), 0);
    fclose(file);
}

Test(console, closed_input)
{
    open_console(1000, out[1]); /* says so, and goes on without */
    console_write(console, (const uint8_t *)"x", 1);
}

Test(console, create_fails_cleanly)
{
    struct rlimit none = {0};
    struct console *c = NULL;

    getrlimit(RLIMIT_NOFILE, &none);
    none.rlim_cur = 0;
    setrlimit(RLIMIT_NOFILE, &none);
    cr_expect_eq(console_create(&c, loop, in[0], out[1], &ops, NULL), -EMFILE);
    cr_expect_null(c);
    none.rlim_cur = none.rlim_max;
    setrlimit(RLIMIT_NOFILE, &none);
    console_destroy(NULL);
}

/* ---- output ---- */

Test(console, output_arrives)
{
    char got[8] = "";

    open_console(in[0], out[1]);
    console_write(console, (const uint8_t *)"out\n", 4);
    console_write(console, NULL, 0);
    cr_expect_eq(read(out[0], got, sizeof(got)), 4);
    cr_expect_str_eq(got, "out\n");
}

Test(console, output_nobody_reads_is_dropped)
{
    open_console(in[0], out[1]);
    close(out[0]);
    for (int i = 0; i < 3; i++)
        console_write(console, (const uint8_t *)"lost", 4); /* SIGPIPE would end the test */
}

/* The first write that finds no room waits its second, those after it do not (10000 of them
 * would run into the time limit of any test), and nobody waits for ever. */
Test(console, stopped_reader_of_a_pipe)
{
    static char got[65536];
    size_t filled = 0;
    ssize_t n;

    open_console(in[0], out[1]);
    fcntl(out[1], F_SETFL, fcntl(out[1], F_GETFL) | O_NONBLOCK);
    while ((n = write(out[1], got, sizeof(got))) > 0)
        filled += (size_t)n;
    for (int i = 0; i < 10000; i++)
        console_write(console, (const uint8_t *)"dropped", 7);
    while (filled > 0 && (n = read(out[0], got, sizeof(got))) > 0)
        filled -= (size_t)n;
    console_write(console, (const uint8_t *)"back", 4);
    cr_assert_eq(read(out[0], got, sizeof(got)), 4);
    cr_expect_eq(memcmp(got, "back", 4), 0);
}

/* ---- terminals ---- */

/* A pseudo-terminal; the master stays with the test. */
static int open_terminal(int *terminal)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

    cr_assert_geq(master, 0);
    cr_assert_eq(grantpt(master), 0);
    cr_assert_eq(unlockpt(master), 0);
    *terminal = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_geq(*terminal, 0);
    return master;
}

/* What is typed takes its time through the kernel. */
static void type_at(int master, int terminal, const char *text)
{
    struct pollfd arrived = {.fd = terminal, .events = POLLIN};

    cr_assert_eq(write(master, text, strlen(text)), (ssize_t)strlen(text));
    poll(&arrived, 1, -1);
    spin();
}

static bool is_raw(int fd)
{
    struct termios modes;

    cr_assert_eq(tcgetattr(fd, &modes), 0);
    return !(modes.c_lflag & ICANON);
}

/* Field by field: the struct has padding. */
static bool same_modes(int fd, const struct termios *expected)
{
    struct termios modes;

    cr_assert_eq(tcgetattr(fd, &modes), 0);
    return modes.c_iflag == expected->c_iflag && modes.c_oflag == expected->c_oflag &&
           modes.c_cflag == expected->c_cflag && modes.c_lflag == expected->c_lflag &&
           memcmp(modes.c_cc, expected->c_cc, sizeof(modes.c_cc)) == 0;
}

Test(console, terminal_is_raw_and_restored)
{
    struct termios before, raw;
    int terminal, master = open_terminal(&terminal);

    cr_assert_eq(tcgetattr(terminal, &before), 0);
    cr_assert(before.c_lflag & ICANON);
    open_console(terminal, terminal);
    cr_assert_eq(tcgetattr(terminal, &raw), 0);
    cr_expect_eq(raw.c_lflag & (ICANON | ECHO | ISIG | IEXTEN), 0);
    cr_expect_eq(raw.c_iflag & (IXON | ICRNL), 0);
    cr_expect(raw.c_oflag & OPOST);
    cr_expect_eq(raw.c_oflag, before.c_oflag);

    type_at(master, terminal, "\x03\r" CTRL_A "x");
    expect_guest("\x03\r");
    cr_expect_eq(guest.quits, 1);
    console_destroy(console);
    console = NULL;
    cr_expect(same_modes(terminal, &before));
}

/* What a shell does to the modes while we are stopped lasts until the next key. */
Test(console, terminal_is_taken_again_at_a_key)
{
    struct termios before;
    int terminal, master = open_terminal(&terminal);

    cr_assert_eq(tcgetattr(terminal, &before), 0);
    open_console(terminal, terminal);
    cr_assert_eq(tcsetattr(terminal, TCSANOW, &before), 0);
    type_at(master, terminal, "\n");
    cr_expect(is_raw(terminal));
    console_destroy(console);
    console = NULL;
    cr_expect(same_modes(terminal, &before));
}

Test(console, hangup_ends_the_input)
{
    int terminal, master = open_terminal(&terminal);

    open_console(terminal, terminal);
    close(master);
    spin();
    cr_expect_not(is_watched(terminal));
    console_write(console, (const uint8_t *)"x", 1);
}

Test(console, two_terminals)
{
    int terminal[3], master[3];
    struct console *c[3];
    struct termios before;

    for (int i = 0; i < 3; i++) {
        master[i] = open_terminal(&terminal[i]);
        cr_assert_eq(tcgetattr(terminal[i], &before), 0);
        cr_assert_eq(console_create(&c[i], loop, terminal[i], out[1], &ops, NULL), 0);
    }
    for (int i = 0; i < 3; i++) {
        static const int order[] = {0, 2, 1}; /* of the list: last, first, the one between */

        cr_expect(is_raw(terminal[order[i]]));
        console_destroy(c[order[i]]);
        cr_expect(same_modes(terminal[order[i]], &before));
        close(master[order[i]]);
    }
}

Test(console, every_way_out_restores)
{
    static const int way[] = {0, SIGABRT, SIGQUIT, SIGFPE};
    struct termios before;
    int terminal, master = open_terminal(&terminal);

    cr_assert_eq(tcgetattr(terminal, &before), 0);
    for (unsigned i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
        int status, ready[2];
        char c;
        pid_t child;

        cr_assert_eq(pipe(ready), 0);
        child = fork();
        cr_assert_geq(child, 0);
        if (child == 0) {
            loop_destroy(loop); /* what epoll watches is shared by parent and child */
            loop_create(&loop);
            signal(way[i] ? way[i] : SIGABRT, SIG_DFL);
            console_create(&console, loop, terminal, terminal, &ops, NULL);
            c = is_raw(terminal);
            (void)!write(ready[1], &c, 1);
            if (way[i])
                raise(way[i]);
            exit(3);
        }
        cr_assert_eq(read(ready[0], &c, 1), 1);
        cr_expect_eq(c, 1, "way %u: was raw", i);
        cr_assert_eq(waitpid(child, &status, 0), child);
        if (way[i])
            cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == way[i], "status %#x", status);
        else
            cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 3, "status %#x", status);
        cr_expect(same_modes(terminal, &before), "way %u", i);
    }
    close(master);
}

/* ---- job control: a session of its own, in which the console is not in the foreground ---- */

/* In the background: nothing may stop it, and the modes stay. Then it is brought to the
 * foreground, and hears what is typed. */
static int background_job(int terminal, int told)
{
    struct pollfd key = {.fd = terminal, .events = POLLIN};
    char c;

    if (console_create(&console, loop, terminal, terminal, &ops, NULL))
        return 1;
    if (is_raw(terminal) || is_watched(terminal))
        return 2;
    spin();
    console_destroy(console);
    if (console_create(&console, loop, terminal, terminal, &ops, NULL))
        return 3;
    (void)!write(told, "b", 1);
    guest.stop = true;
    if (loop_run(loop)) /* ends when the guest has input */
        return 4;
    if (!is_raw(terminal) || guest.len != 1 || guest.data[0] != 'k')
        return 5;
    guest.stop = false;
    (void)!write(told, "f", 1); /* put in the background again, and a key typed */
    if (read(in[0], &c, 1) != 1 || poll(&key, 1, -1) != 1)
        return 6;
    spin();
    if (guest.len != 1 || is_watched(terminal))
        return 7;
    console_destroy(console); /* the shell's modes are not ours to change */
    return is_raw(terminal) ? 0 : 8;
}

static int session_leader(int master, int terminal)
{
    int told[2], status;
    pid_t job;
    char c;

    if (setsid() < 0 || ioctl(terminal, TIOCSCTTY, 0))
        return 20;
    if (tcgetpgrp(terminal) != getpgrp() || pipe(told))
        return 21;
    signal(SIGTTOU, SIG_IGN); /* as a shell: it hands the terminal around */
    job = fork();
    if (job == 0) {
        signal(SIGTTOU, SIG_DFL);
        setpgid(0, 0);
        _exit(background_job(terminal, told[1]));
    }
    close(told[1]);
    if (read(told[0], &c, 1) == 1) {
        tcsetpgrp(terminal, job);
        (void)!write(master, "k", 1);
    }
    if (read(told[0], &c, 1) == 1) {
        tcsetpgrp(terminal, getpgrp());
        (void)!write(master, "z", 1);
        (void)!write(in[1], "g", 1);
    }
    if (waitpid(job, &status, WUNTRACED) != job || WIFSTOPPED(status)) {
        kill(job, SIGKILL);
        return 22;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 23;
}

Test(console, background)
{
    /* Opened here: Criterion's macros are not for a forked child, a failed one hangs in it. */
    int status, terminal, master = open_terminal(&terminal);
    pid_t child = fork();

    cr_assert_geq(child, 0);
    if (child == 0)
        _exit(session_leader(master, terminal));
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFEXITED(status));
    cr_expect_eq(WEXITSTATUS(status), 0, "step %d", WEXITSTATUS(status));
}
