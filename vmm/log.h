/*
 * log.h: one line on standard error, or in a file, for each thing worth saying.
 *
 * Grammar: `minivmm: WHERE: cannot VERB OBJECT: REASON; WHAT TO DO`. WHERE is a device or a
 * file; behind `minivmm` comes the VM's name where it has one. A message is written by one
 * write(2), so lines of several threads never mix; control characters (names come from files
 * and devices) are shown as '?'. Any thread may call these.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTE, LOG_DEBUG };

/* Messages above LEVEL are dropped; the start value is LOG_NOTE. */
void log_set_level(enum log_level level);
/* NAME outlives all messages; NULL: none. */
void log_set_name(const char *name);
/* All messages from now on are appended to PATH, for the rest of the process's life. Logs its
 * own error, where messages went until now. */
int log_set_file(const char *path);

/* WHERE may be NULL for a message about the program itself. */
void log_error(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_warn(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_note(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_debug(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A note of how far something is, called about once a second with one zeroed struct: on a
 * terminal each replaces the one before, elsewhere (a log) only calls 1, 2, 4, 8.. are lines.
 */
struct log_progress {
    unsigned calls;
};
void log_progress(struct log_progress *progress, const char *where, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* A budget for what a guest or a device can cause. log_limit() is true for the first 16 calls
 * with one budget and false afterwards: an untrusted party cannot fill the log. */
struct log_limit {
    atomic_uint used;
};
bool log_limit(struct log_limit *limit);
