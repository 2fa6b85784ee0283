/*
 * main.c: vfio-emu: the command line and the socket (README.md). One client at a time; each
 * gets a device as new. One thread; SIGTERM and SIGINT are read from a signalfd, which ends
 * whatever waits, so that the socket is always removed.
 */
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/emulated/emu.h"

enum { STATUS_USAGE = 2, STATUS_START = 4 };

static const struct emu_device *const devices[] = {&emu_platform, &emu_gpu, &emu_example};

/* A device's options. A value is one of WORDS, which stand for 0, 1, ...; or, without words, a
 * number from MIN to MAX, with K, M or G. */
static const struct option {
    const char *name, *words[3], *help;
    size_t offset; /* of a uint64_t in struct emu_config */
    uint64_t preset, min, max;
} options[] = {
#define FIELD(name) offsetof(struct emu_config, name)
    {"fds", {0}, "descriptors taken in a message", FIELD(fds), 8, 1, EMU_FDS_MAX},
    {"xfer", {0}, "bytes read or written by a message", FIELD(xfer), 1 << 20, 8, 16 << 20},
    {"vram", {0}, "size of gpu's BAR1", FIELD(vram), 256 * MIB, MIB, 256 * GIB},
    {"automask",
     {"off", "on"},
     "off: level interrupts as libvfio-user",
     FIELD(automask),
     .preset = 1},
    {"mmap", {"off", "on"}, "off: every access is a message", FIELD(mmap), .preset = 1},
    {"twin", {"off", "on"}, "off: no second socket for DMA", FIELD(twin), .preset = 1},
    {"dma",
     {"map", "message"},
     "message: no use of memory descriptors",
     FIELD(message),
     .preset = 0},
    {"strict",
     {"off", "on"},
     "on: gpu's firmware wants no hypervisor",
     FIELD(strict),
     .preset = 0},
    {"nvidia",
     {"off", "on"},
     "on: gpu has NVIDIA's numbers and ways",
     FIELD(nvidia),
     .preset = 0},
};

static const char *const faults[] = {
    [FAULT_DIE] = "die",       [FAULT_HANG] = "hang", [FAULT_SHORT] = "short",
    [FAULT_LONG] = "long",     [FAULT_HUGE] = "huge", [FAULT_BADID] = "badid",
    [FAULT_BADCMD] = "badcmd", [FAULT_FDS] = "fds",   [FAULT_ERROR] = "error",
};

__attribute__((format(printf, 2, 3))) static int fail(int status, const char *fmt, ...)
{
    va_list args;

    fputs("vfio-emu: ", stderr);
    va_start(args, fmt);
    /* clang-tidy 14 loses va_start() when it checks several files in one run. */
    /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized) */
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    return status;
}

#define USAGE "--socket PATH [--once] [--trace] DEVICE[,option=value...]"

static void list(void)
{
    printf("Usage: vfio-emu " USAGE "\n\n");
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
        printf("%-10s %s\n", devices[i]->name, devices[i]->help);
    printf("\nOptions, as in gpu,vram=8G,fds=1:\n");
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        printf("%-10s %s\n", options[i].name, options[i].help);
    printf("%-10s KIND@N: spoils the answer to message N; KIND is", "fault");
    for (size_t i = FAULT_DIE; i < ARRAY_SIZE(faults); i++)
        printf(" %s", faults[i]);
    printf("\n");
}

/* ---- the command line ---- */

static bool number(const char *text, uint64_t *value)
{
    static const char suffix[] = "KMG";
    const char *s;
    char *end;

    errno = 0;
    *value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)*text) || errno)
        return false;
    s = *end ? strchr(suffix, toupper((unsigned char)*end)) : NULL;
    if (s) {
        unsigned shift = 10 * (unsigned)(s - suffix + 1);

        if (*value > UINT64_MAX >> shift)
            return false;
        *value <<= shift;
        end++;
    }
    return !*end;
}

static bool set_option(const struct option *o, const char *text, uint64_t *value)
{
    if (!o->words[0])
        return number(text, value) && *value >= o->min && *value <= o->max &&
               (o->offset != FIELD(vram) || is_pow2(*value));
    for (*value = 0; o->words[*value]; (*value)++)
        if (!strcmp(text, o->words[*value]))
            return true;
    return false;
}

static bool set_fault(struct emu_config *config, char *text)
{
    char *at = strchr(text, '@');

    if (!at || !number(at + 1, &config->fault_at) || !config->fault_at)
        return false;
    *at = '\0';
    for (size_t i = FAULT_DIE; i < ARRAY_SIZE(faults); i++)
        if (!strcmp(text, faults[i]))
            config->fault = i;
    *at = '@';
    return config->fault != FAULT_NONE;
}

/* TEXT is DEVICE[,option=value...]. */
static int parse_device(char *text, const struct emu_device **device, struct emu_config *config)
{
    char *save, *word = strtok_r(text, ",", &save);

    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        *(uint64_t *)((char *)config + options[i].offset) = options[i].preset;
    *device = NULL;
    for (size_t i = 0; word && i < ARRAY_SIZE(devices); i++)
        if (!strcmp(word, devices[i]->name))
            *device = devices[i];
    if (!*device)
        return fail(STATUS_USAGE, "%s: cannot find this device; --list shows all",
                    word ? word : "''");
    while ((word = strtok_r(NULL, ",", &save))) {
        char *value = strchr(word, '=');
        bool ok = value && !strncmp(word, "fault=", 6) && set_fault(config, value + 1);

        for (size_t i = 0; value && i < ARRAY_SIZE(options); i++) {
            const struct option *o = &options[i];

            if (strlen(o->name) == (size_t)(value - word) &&
                !strncmp(word, o->name, strlen(o->name)))
                ok = set_option(o, value + 1, (uint64_t *)((char *)config + o->offset));
        }
        if (!ok)
            return fail(STATUS_USAGE,
                        "%s: cannot use '%s': unknown option or bad value; "
                        "--list shows all",
                        (*device)->name, word);
    }
    return 0;
}

/* ---- the socket ---- */

/* Whether a server answers at ADDR. */
static bool answers(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool yes =
        connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno != ECONNREFUSED;

    close(fd);
    return yes;
}

/* A socket at PATH for its owner only, in place of one that a dead server left behind. */
static int listen_at(const char *path, int *out)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const struct sockaddr *sa = (const struct sockaddr *)&addr;
    int fd, err;
    struct stat st;
    mode_t mask;

    if (strlen(path) >= sizeof(addr.sun_path))
        return fail(STATUS_START,
                    "%s: cannot make a socket: the name is too long; "
                    "give at most %zu characters",
                    path, sizeof(addr.sun_path) - 1);
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    mask = umask(0177);
    err = bind(fd, sa, sizeof(addr)) < 0 ? errno : 0;
    if (err == EADDRINUSE && lstat(path, &st) == 0 && S_ISSOCK(st.st_mode) && !answers(&addr))
        err = unlink(path) < 0 || bind(fd, sa, sizeof(addr)) < 0 ? errno : 0;
    umask(mask);
    if (!err && listen(fd, 4) < 0)
        err = errno;
    if (err) {
        close(fd);
        return fail(STATUS_START, "%s: cannot make a socket: %s; give a name that is free",
                    path, strerror(err));
    }
    *out = fd;
    return 0;
}

/* Serves one client, and returns whether to go on to the next. One that says nothing (another
 * vfio-emu that wants to know whether this one lives) is none. */
static bool serve(const struct emu_device *device, const struct emu_config *config, int fd,
                  int stop, bool once)
{
    struct emu *emu;
    int err = emu_create(&emu, device, config, fd, stop);
    bool more;

    if (err) {
        fail(0, "%s: cannot make a device: %s", device->name, strerror(-err));
        return true;
    }
    err = emu_serve(emu);
    if (err && err != -ECANCELED)
        fail(0, "client: cannot be served further: %s; --trace shows the messages",
             strerror(-err));
    more = err != -ECANCELED && !(once && emu->negotiated);
    emu_destroy(emu);
    return more;
}

int main(int argc, char **argv)
{
    struct emu_config config = {0};
    const struct emu_device *device = NULL;
    const char *path = NULL;
    bool once = false, more = true;
    int status, listener = -1, stop;
    sigset_t signals;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--list") || !strcmp(argv[i], "--help"))
            return list(), 0;
        if (!strcmp(argv[i], "--once"))
            once = true;
        else if (!strcmp(argv[i], "--trace"))
            config.trace = true;
        else if (!strcmp(argv[i], "--socket") && i + 1 < argc)
            path = argv[++i];
        else if (argv[i][0] == '-' || device)
            return fail(STATUS_USAGE, "%s: cannot use this argument; give " USAGE, argv[i]);
        else if ((status = parse_device(argv[i], &device, &config)))
            return status;
    }
    if (!path || !device)
        return fail(STATUS_USAGE,
                    "cannot start without %s; give --socket PATH DEVICE, or --list",
                    path ? "a device" : "a socket");
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN); /* a client may give a pipe for an eventfd */
    stop = signalfd(-1, &signals, SFD_CLOEXEC);
    status = listen_at(path, &listener);
    if (status)
        return status;
    printf("vfio-emu: %s on %s\n", device->name, path);
    fflush(stdout);
    while (more) {
        struct pollfd p[] = {{stop, POLLIN, 0}, {listener, POLLIN, 0}};
        int fd;

        if (poll(p, ARRAY_SIZE(p), -1) < 0)
            continue;
        if (p[0].revents)
            break;
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        more = serve(device, &config, fd, stop, once);
        close(fd);
    }
    unlink(path);
    return 0;
}
