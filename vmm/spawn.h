/*
 * spawn.h: a helper program (passt, virtiofsd) that a device's other end lives in: started with
 * a socket, ended with the VM, and gone also when the VM is killed.
 */
#pragma once

#include <sys/types.h>

#define SPAWN_FD      3 /* the socket's number in the program, for its arguments */
#define SPAWN_FD_TEXT "3"
/* Of a program that says when it is ready: what it writes that to, for its arguments. */
#define SPAWN_READY   "/proc/self/fd/0"

/* Zeroed by the owner; owned by the main thread. */
struct spawn {
    pid_t pid; /* 0: none; also the number of its process group */
};

/* Where program NAME is: in PATH, /usr/libexec or /usr/lib/qemu; what has a '/' is a path
 * already. INSTALL says how one comes by it. Logs its own error. */
int spawn_find(const char *name, const char *install, char *out, size_t size);
/* Starts ARGV (NULL at its end); argv[0] is looked up as by spawn_find().
 * It gets FD as SPAWN_FD, no other descriptor, standard error for its words and nothing to
 * read. FD stays the caller's. INSTALL says how one comes by the program. Main thread only: the
 * program is killed when the thread that started it ends. Logs its own errors. */
int spawn_start(struct spawn *s, const char *const *argv, int fd, const char *install);
/* The same for a program that writes to SPAWN_READY when it is ready, which is waited for. It
 * has to be within TIMEOUT_MS. spawn_stop() is due also after an error. */
int spawn_start_ready(struct spawn *s, const char *const *argv, int fd, int timeout_ms,
                      const char *install);
/* The socket, non-blocking, of a helper, or another VM, that listens at PATH. -ENAMETOOLONG,
 * or what connect(2) says: -EAGAIN of one that has enough to do with others. */
int spawn_connect(const char *path);
/* Asks it to end, waits for a bounded time, kills it. Nothing is left of it then, but where the
 * kernel itself cannot end it, which is not waited for. */
void spawn_stop(struct spawn *s);
