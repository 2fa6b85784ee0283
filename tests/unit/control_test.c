/*
 * control_test.c: the control socket and minivmm ctl, each against a peer that does as it
 * likes. The server's loop runs in a thread of its own; the limit of 20 s on what a client
 * waits for is there to fail instead of to hang.
 */
#include "vmm/control.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm/ctl.h"
#include "vmm/json.h"
#include "vmm/loop.h"
#include "vmm/machine.h"
#include "vmm/util.h"

static struct loop *loop;
static struct control *control;
static pthread_t thread;
static char dir[] = "/tmp/minivmm-control.XXXXXX";
static char path[64];
static int runs; /* by the loop's thread */

static const char *run_count(void *opaque, struct json_text *out)
{
    cr_assert_eq(opaque, &runs);
    json_add(out, "{\"n\":%d}", ++runs);
    return NULL;
}

static const char *run_nothing(void *opaque, struct json_text *out)
{
    (void)opaque;
    (void)out;
    return NULL;
}

static const char *run_fail(void *opaque, struct json_text *out)
{
    (void)opaque;
    json_add(out, "{\"half");
    return "it is \"so\"";
}

/* Answers that fit, and that do not. */
static const char *add_many(struct json_text *out, unsigned n)
{
    json_add(out, "{\"x\":\"");
    for (unsigned i = 0; i < n; i++)
        json_add(out, "0123456789");
    json_add(out, "\"}");
    return NULL;
}

static const char *run_long(void *opaque, struct json_text *out)
{
    (void)opaque;
    return add_many(out, 6000);
}

static const char *run_too_long(void *opaque, struct json_text *out)
{
    (void)opaque;
    return add_many(out, 7000);
}

/* Each time a byte more, around what just fits. */
static const char *run_edge(void *opaque, struct json_text *out)
{
    static const char more[] = "01234567890123456789";
    (void)opaque;
    json_add(out, "{\"x\":\"");
    for (unsigned i = 0; i < 3275; i++)
        json_add(out, "%s", more);
    json_add(out, "%.*s\"}", runs++, more);
    return NULL;
}

static const struct control_command command[] = {
    {"count", run_count}, {"nothing", run_nothing},   {"fail", run_fail}, {"edge", run_edge},
    {"long", run_long},   {"too-long", run_too_long}, {NULL, NULL},
};

static void *run_loop(void *opaque)
{
    (void)opaque;
    loop_run(loop);
    return NULL;
}

static void set_up(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/socket", dir);
    cr_assert_eq(loop_create(&loop), 0);
    umask(0);
    cr_assert_eq(control_create(&control, path, loop, command, &runs), 0);
    cr_assert_eq(pthread_create(&thread, NULL, run_loop, NULL), 0);
}

static void stop(void)
{
    loop_stop(loop);
    pthread_join(thread, NULL);
    control_destroy(control);
    control = NULL;
}

static void tear_down(void)
{
    if (control)
        stop();
    loop_destroy(loop);
    cr_expect_eq(access(path, F_OK), -1, "the socket is gone");
    cr_expect_eq(rmdir(dir), 0);
}

TestSuite(control, .init = set_up, .fini = tear_down, .timeout = 60);

static int client(void)
{
    const struct timeval patience = {.tv_sec = 20};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0, "%s", strerror(errno));
    return fd;
}

static void say(int fd, const char *text)
{
    cr_assert_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

/* The next line, "" at the end of the connection. */
static const char *hear(int fd)
{
    static char line[128 * 1024];
    size_t len = 0;
    while (len < sizeof(line) - 1) {
        ssize_t n = recv(fd, line + len, 1, 0);
        if (n <= 0) {
            cr_expect(n == 0 || errno == ECONNRESET, "no answer: %s", strerror(errno));
            len = 0;
            break;
        }
        if (line[len] == '\n')
            break;
        len++;
    }
    line[len] = '\0';
    return line;
}

#define ERROR(class, desc) "{\"error\":{\"class\":\"" class "\",\"desc\":\"" desc "\"}}"
#define NOT_UNDERSTOOD \
    ERROR("GenericError", "not understood; send {\\\"execute\\\":\\\"COMMAND\\\"}")

Test(control, answers)
{
    static const struct {
        const char *line, *answer;
    } row[] = {
        {"{\"execute\":\"count\"}", "{\"return\":{\"n\":1}}"},
        {" { \"id\" : [1, {}], \"execute\" : \"count\", \"arguments\" : {} } \r",
         "{\"return\":{\"n\":2}}"},
        {"{\"execute\":\"nothing\"}", "{\"return\":{}}"},
        {"{\"execute\":\"fail\"}", ERROR("GenericError", "it is \\\"so\\\"")},
        {"{\"execute\":\"too-long\"}", ERROR("GenericError", "the answer is too long")},
        {"{\"execute\":\"frobnicate\"}",
         ERROR("CommandNotFound", "there is no such command; see minivmm ctl --help")},
        {"{\"execute\":\"counter\"}",
         ERROR("CommandNotFound", "there is no such command; see minivmm ctl --help")},
        {"", NOT_UNDERSTOOD},
        {"count", NOT_UNDERSTOOD},
        {"{}", NOT_UNDERSTOOD},
        {"{\"execute\":7}", NOT_UNDERSTOOD},
        {"{\"execute\":\"\"}", NOT_UNDERSTOOD},
        {"{\"execute\":\"count\"", NOT_UNDERSTOOD},
        {"{\"execute\":\"count\"}}", NOT_UNDERSTOOD},
        {"{\"execute\":\"cou\\u006et\"}", NOT_UNDERSTOOD},
        {"{\"execute\":\"0123456789012345678901234567890123456789\"}", NOT_UNDERSTOOD},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[", NOT_UNDERSTOOD},
        {"{\"execute\":\"count\"}", "{\"return\":{\"n\":3}}"},
    };
    int fd = client();
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        say(fd, row[i].line);
        say(fd, "\n");
        cr_expect_str_eq(hear(fd), row[i].answer, "row %zu", i);
    }
    close(fd);
}

Test(control, an_answer_that_just_fits)
{
    static const char too_long[] = ERROR("GenericError", "the answer is too long");
    static const size_t fits = sizeof("{\"return\":{\"x\":\"\"}}") - 1 + 65500;
    unsigned cut = 0;
    int fd = client();
    for (unsigned i = 0; i < 20; i++) {
        say(fd, "{\"execute\":\"edge\"}\n");
        const char *line = hear(fd);
        size_t len = strlen(line);
        cut += !strcmp(line, too_long);
        cr_expect(cut || len == fits + i, "%u: %zu", i, len);
        cr_expect_str_eq(line + len - 2, "}}", "%u: %zu", i, len);
    }
    close(fd);
    cr_expect(cut > 0 && cut < 20, "%u", cut);
}

Test(control, in_pieces_and_together)
{
    static const char line[] = "{\"execute\":\"count\"}\n";
    int fd = client();
    for (const char *c = line; *c; c++)
        say(fd, (const char[]){*c, '\0'});
    cr_expect_str_eq(hear(fd), "{\"return\":{\"n\":1}}");
    say(fd,
        "{\"execute\":\"count\"}\n{\"execute\":\"fail\"}\n{\"execute\":\"count\"}\n{\"exec");
    cr_expect_str_eq(hear(fd), "{\"return\":{\"n\":2}}");
    cr_expect_str_eq(hear(fd), ERROR("GenericError", "it is \\\"so\\\""));
    cr_expect_str_eq(hear(fd), "{\"return\":{\"n\":3}}");
    say(fd, "ute\":\"count\"}\n{\"execute\":\"count\"}");
    cr_expect_str_eq(hear(fd), "{\"return\":{\"n\":4}}");
    shutdown(fd, SHUT_WR); /* half a line is none */
    cr_expect_str_eq(hear(fd), "");
    close(fd);
    stop();
    cr_expect_eq(runs, 4);
}

Test(control, a_line_without_an_end)
{
    static char noise[1 << 20];
    int fd = client(), other = client();
    memset(noise, ' ', sizeof(noise));
    ssize_t n = 0;
    while (n >= 0) /* until it is cut off */
        n = send(fd, noise, sizeof(noise), MSG_NOSIGNAL);
    cr_expect_eq(errno, EPIPE);
    cr_expect_str_eq(hear(fd), NOT_UNDERSTOOD);
    cr_expect_str_eq(hear(fd), "");
    say(other, "{\"execute\":\"count\"}\n");
    cr_expect_str_eq(hear(other), "{\"return\":{\"n\":1}}");

    /* The longest that is one. */
    char line[4096];
    memset(line, ' ', sizeof(line));
    memcpy(line, "{\"execute\":\"count\"}", 19);
    line[4095] = '\n';
    cr_assert_eq(send(other, line, sizeof(line), MSG_NOSIGNAL), (ssize_t)sizeof(line));
    cr_expect_str_eq(hear(other), "{\"return\":{\"n\":2}}");
    close(fd);
    close(other);
}

/* Who does not read is not read from, and gets what is due when it does. */
Test(control, a_client_that_does_not_read)
{
    static const char ask[] = "{\"execute\":\"long\"}\n{\"execute\":\"count\"}\n";
    int fd = client(), other = client();
    unsigned sent = 0;
    struct timeval patience = {.tv_usec = 300000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    while (sent < 1000000 && send(fd, ask, sizeof(ask) - 1, MSG_NOSIGNAL) == sizeof(ask) - 1)
        sent++;
    cr_assert_lt(sent, 1000000, "it is read from for ever");
    say(other, "{\"execute\":\"nothing\"}\n");
    cr_expect_str_eq(hear(other), "{\"return\":{}}");
    for (unsigned i = 0; i < MIN(sent, 100); i++) {
        char count[32];
        snprintf(count, sizeof(count), "{\"return\":{\"n\":%u}}", i + 1);
        cr_assert_eq(strlen(hear(fd)), 60000 + strlen("{\"return\":{\"x\":\"\"}}"));
        cr_assert_str_eq(hear(fd), count);
    }
    close(fd); /* with more to come */
    say(other, "{\"execute\":\"nothing\"}\n");
    cr_expect_str_eq(hear(other), "{\"return\":{}}");
    close(other);
}

/* Who has said all and hears nothing yet has not hung up: its end is read when its answers are
 * out, and not before. */
Test(control, a_client_that_has_said_all)
{
    static const char ask[] = "{\"execute\":\"long\"}\n", last[] = "{\"execute\":\"count\"}\n";
    const unsigned many = 50; /* more than its socket holds, in less than a line's room */
    int fd = client();
    for (unsigned i = 0; i < many; i++)
        say(fd, ask);
    say(fd, last);
    shutdown(fd, SHUT_WR);
    for (unsigned i = 0; i < many; i++)
        cr_assert_eq(strlen(hear(fd)), 60000 + strlen("{\"return\":{\"x\":\"\"}}"), "%u", i);
    cr_expect_str_eq(hear(fd), "{\"return\":{\"n\":1}}");
    cr_expect_str_eq(hear(fd), "");
    close(fd);
}

Test(control, many_clients)
{
    int fd[4], late = -1;
    const char *answer = "";
    for (int i = 0; i < 4; i++)
        fd[i] = client();
    for (int i = 0; i < 50; i++) {
        late = client();
        cr_expect_str_eq(hear(late), ERROR("GenericError", "too many connections; close one"));
        cr_expect_str_eq(hear(late), "");
        close(late);
    }
    for (int i = 0; i < 4; i++) {
        say(fd[i], "{\"execute\":\"nothing\"}\n");
        cr_expect_str_eq(hear(fd[i]), "{\"return\":{}}");
    }
    close(fd[2]);
    while (strcmp(answer, "{\"return\":{}}") != 0) { /* the loop may see the new one first */
        late = client();
        (void)!send(late, "{\"execute\":\"nothing\"}\n", 22, MSG_NOSIGNAL);
        answer = hear(late);
        close(late);
    }
    close(fd[0]);
    close(fd[1]);
    close(fd[3]);
}

Test(control, the_path)
{
    struct control *second = NULL;
    struct stat st;
    char long_path[200], link[80];
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';

    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_mode, S_IFSOCK | 0600, "%o", st.st_mode);
    cr_expect_eq(control_create(&second, path, loop, command, &runs), -EADDRINUSE,
                 "somebody listens");
    cr_expect_eq(control_create(&second, long_path, loop, command, &runs), -ENAMETOOLONG);
    cr_expect_eq(control_create(&second, "", loop, command, &runs), -ENAMETOOLONG);
    cr_expect_eq(control_create(&second, "/nowhere/x", loop, command, &runs), -ENOENT);
    cr_expect_null(second);
    stop();
    cr_expect_eq(access(path, F_OK), -1);

    /* A file is not taken for a socket, and neither is a link to one that is left over. */
    close(open(path, O_CREAT | O_WRONLY, 0600));
    cr_expect_eq(control_create(&second, path, loop, command, &runs), -EADDRINUSE);
    cr_expect_eq(access(path, F_OK), 0);
    unlink(path);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 0), 0); /* too busy to take connections: EAGAIN */
    int waiting = client();
    cr_expect_eq(control_create(&second, path, loop, command, &runs), -EADDRINUSE);
    close(waiting);
    close(fd);
    snprintf(link, sizeof(link), "%s/link", dir);
    cr_assert_eq(symlink(path, link), 0);
    cr_expect_eq(control_create(&second, link, loop, command, &runs), -EADDRINUSE);
    unlink(link);
    cr_assert_eq(control_create(&second, path, loop, command, &runs), 0, "left over");

    /* What another has put there since is that one's. */
    cr_assert_eq(unlink(path), 0);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    control_destroy(second);
    cr_expect_eq(unlink(path), 0);
    control_destroy(NULL);
}

/* ---- minivmm ctl ---- */

struct liar {
    int fd;
    const char *answer;
    size_t len;
};

static void *lie(void *opaque)
{
    const struct liar *liar = opaque;
    char line[64];
    int fd = accept(liar->fd, NULL, NULL);
    (void)!recv(fd, line, sizeof(line), 0);
    for (size_t done = 0; done < liar->len;) {
        ssize_t n = send(fd, liar->answer + done, liar->len - done, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    close(fd);
    return NULL;
}

Test(control, client_and_liars)
{
    static char flood[1 << 20];
    const struct {
        const char *answer;
        size_t len;
        int status;
    } row[] = {
#define ROW(text, status) {text, sizeof(text) - 1, status}
        ROW("{\"return\":{}}\n", STATUS_OFF),
        ROW("{\"return\":{\"a\":[{\"b\":7}]}}\nmore", STATUS_OFF),
        ROW("{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"}}\n", STATUS_START),
        ROW("{\"error\":{}}\n", STATUS_START),
        ROW("{}\n", STATUS_START),
        ROW("{\"return\":7}\n", STATUS_START),
        ROW("{\"return\":{}\n", STATUS_START),
        ROW("{\"return\":{\"\33[2J\":0}}\n", STATUS_START),
        ROW("\n", STATUS_START),
        ROW("{\"return\":{}}", STATUS_START),
        ROW("", STATUS_START),
        {flood, sizeof(flood), STATUS_START},
    };
    char *const argv[] = {"ctl", path, "status", NULL};
    memset(flood, ' ', sizeof(flood));
    stop();
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(fd, 1), 0);
    for (size_t i = 0; i < ARRAY_SIZE(row); i++) {
        struct liar liar = {fd, row[i].answer, row[i].len};
        cr_assert_eq(pthread_create(&thread, NULL, lie, &liar), 0);
        cr_expect_eq(ctl_main(3, argv), row[i].status, "row %zu", i);
        pthread_join(thread, NULL);
    }
    close(fd);
    cr_expect_eq(ctl_main(3, argv), STATUS_START, "nobody listens");
    unlink(path);
    cr_expect_eq(ctl_main(3, argv), STATUS_START, "nothing is there");
}

/* Takes the connection that is in the way after a while, in which the one behind it has been
 * turned away. */
static void *lie_late(void *opaque)
{
    const struct liar *liar = opaque;
    usleep(100000);
    close(accept(liar->fd, NULL, NULL));
    return lie(opaque);
}

Test(control, client_of_a_busy_server)
{
    char *const argv[] = {"ctl", path, "status", NULL};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    stop();
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    struct liar liar = {socket(AF_UNIX, SOCK_STREAM, 0), "{\"return\":{}}\n", 14};
    cr_assert_eq(bind(liar.fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(listen(liar.fd, 0), 0);
    int waiting = client();
    cr_assert_eq(pthread_create(&thread, NULL, lie_late, &liar), 0);
    cr_expect_eq(ctl_main(3, argv), STATUS_OFF);
    pthread_join(thread, NULL);
    close(waiting);
    close(liar.fd);
    unlink(path);
}

Test(control, client_and_server)
{
    char *const good[] = {"ctl", path, "count", NULL}, *const bad[] = {"ctl", path, "frob",
                                                                       NULL};
    char *const evil[] = {"ctl", path, "a\",\"b", NULL}, *const none[] = {"ctl", path, "",
                                                                          NULL};
    cr_expect_eq(ctl_main(3, good), STATUS_OFF);
    cr_expect_eq(ctl_main(3, bad), STATUS_START);
    cr_expect_eq(ctl_main(3, evil), STATUS_USAGE);
    cr_expect_eq(ctl_main(3, none), STATUS_USAGE);
    cr_expect_eq(ctl_main(2, good), STATUS_USAGE);
    stop();
    cr_expect_eq(runs, 1);
}

/* ---- json.c's other half ---- */

Test(json, writes)
{
    char room[64];
    struct json_text text = {.at = room, .room = sizeof(room)};
    json_add_string(&text, "a\"b\\c\n\x7f\xc3\xbc");
    json_add(&text, ":%d", 7);
    cr_expect_str_eq(room, "\"a\\\"b\\\\c\\u000a\\u007f\xc3\xbc\":7");
    cr_expect_not(text.cut);
    cr_expect_eq(text.len, strlen(room));
}

Test(json, what_does_not_fit_is_known)
{
    char room[10] = "xxxxxxxxx";
    struct json_text text = {.at = room, .room = 8};
    json_add(&text, "%s", "1234567");
    cr_expect_not(text.cut);
    json_add(&text, "%s", "8");
    cr_expect(text.cut);
    cr_expect_eq(text.len, 7);
    json_add(&text, "%s", "");
    cr_expect_eq(text.len, 7);
    cr_expect_eq(room[8], 'x', "beyond its end");
}
