/*
 * log.c: messages on standard error or in a file, in the grammar of log.h.
 *
 * A line is put together on the stack and written by one write(2), so there is no lock and
 * lines of several threads do not mix. What is longer than a line's room is cut. Not for signal
 * handlers (vsnprintf). What is said here, how and where to, are the only variables of the
 * program that are not in a struct: every layer logs, and none of them should have to carry a
 * handle for it.
 */
#include "vmm/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vmm/util.h"

#define LOG_LINE_MAX   1024
#define LOG_LIMIT_USES 16

static atomic_int log_max_level = LOG_NOTE;
static atomic_int log_fd = STDERR_FILENO;
static const char *_Atomic log_name; /* of the VM; NULL: none */

void log_set_level(enum log_level level)
{
    atomic_store(&log_max_level, (int)level);
}

void log_set_name(const char *name)
{
    atomic_store(&log_name, name);
}

/* O_NONBLOCK: nobody reads a FIFO, or not fast enough, and the VM does not wait for them. */
int log_set_file(const char *path)
{
    int fd =
        open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    if (fd < 0) {
        int err = -errno;
        log_error(path, "cannot open log file: %s; give the path of a file that can be written",
                  strerror(-err));
        return err;
    }
    atomic_store(&log_fd, fd);
    return 0;
}

/* C0, DEL and, in UTF-8, C1: the characters by which a name could drive the user's terminal. */
static void log_clean(char *line, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)line[i];
        bool c1 = c >= 0x80 && c < 0xa0 && i > 0 && (unsigned char)line[i - 1] == 0xc2;
        if (c < ' ' || c == 0x7f || c1)
            line[i] = '?';
    }
}

__attribute__((format(printf, 3, 0))) static void log_line(enum log_level level,
                                                           const char *where, const char *fmt,
                                                           va_list args)
{
    char line[LOG_LINE_MAX];
    int saved_errno = errno;
    size_t len;
    int n;

    if ((int)level > atomic_load(&log_max_level))
        return;
    const char *name = atomic_load(&log_name);
    if (where && !*where)
        where = "''"; /* a file without a name */
    n = snprintf(line, sizeof(line), "minivmm%s%s: %s%s", name ? " " : "", name ? name : "",
                 where ? where : "", where ? ": " : "");
    len = n < 0 ? 0 : (size_t)n;
    if (len < sizeof(line)) {
        errno = saved_errno; /* for %m */
        /* clang-tidy 14 loses va_start() when it checks several files in one run. */
        /* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized) */
        n = vsnprintf(line + len, sizeof(line) - len, fmt, args);
        len += n < 0 ? 0 : (size_t)n;
    }
    if (len > sizeof(line) - 1)
        len = sizeof(line) - 1; /* the newline takes the place of the final NUL */
    log_clean(line, len);
    line[len++] = '\n';
    /* Nothing can be said about a place that does not take it. */
    (void)!write(atomic_load(&log_fd), line, len);
    errno = saved_errno;
}

#define LOG_FUNCTION(name, level)                      \
    void name(const char *where, const char *fmt, ...) \
    {                                                  \
        va_list args;                                  \
        va_start(args, fmt);                           \
        log_line(level, where, fmt, args);             \
        va_end(args);                                  \
    }

LOG_FUNCTION(log_error, LOG_ERROR)
LOG_FUNCTION(log_warn, LOG_WARN)
LOG_FUNCTION(log_note, LOG_NOTE)
LOG_FUNCTION(log_debug, LOG_DEBUG)

void log_progress(struct log_progress *progress, const char *where, const char *fmt, ...)
{
    static const char up_and_clear[] = "\033[A\033[K"; /* ECMA-48: CUU, EL */
    unsigned n = ++progress->calls;
    int fd = atomic_load(&log_fd);
    bool terminal = isatty(fd);
    va_list args;
    if (atomic_load(&log_max_level) < LOG_NOTE || (!terminal && !is_pow2(n)))
        return;
    if (terminal && n > 1)
        (void)!write(fd, up_and_clear, sizeof(up_and_clear) - 1);
    va_start(args, fmt);
    log_line(LOG_NOTE, where, fmt, args);
    va_end(args);
}

bool log_limit(struct log_limit *limit)
{
    /* Checked before it is counted, so that the count cannot wrap to a fresh budget. */
    if (atomic_load(&limit->used) >= LOG_LIMIT_USES)
        return false;
    return atomic_fetch_add(&limit->used, 1) < LOG_LIMIT_USES;
}
