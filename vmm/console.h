/*
 * console.h: the user's terminal (or pipe, or file) as the guest's serial line.
 *
 * On a terminal the program's escape key is Ctrl-A: x quits, h prints a line of help, a second
 * Ctrl-A sends Ctrl-A itself. It also works in piped input. The terminal is raw while the
 * console exists and gets its modes back on every way out of the process but SIGKILL.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct console;
struct loop;

/* Both are called from the loop's thread. */
struct console_ops {
    /* Input for the guest; returns how much it takes now. After it took less than it was given,
     * console_rx_ready() must follow when there is room again. */
    size_t (*receive)(void *opaque, const uint8_t *data, size_t len);
    void (*quit)(void *opaque);
};

/* The descriptors stay the caller's. SIGPIPE, and on a terminal SIGTTIN and SIGTTOU, are
 * ignored from now on in the whole process: a closed standard output is no reason to end the
 * guest. Logs its own errors. */
int console_create(struct console **out, struct loop *loop, int in_fd, int out_fd,
                   const struct console_ops *ops, void *opaque);
void console_destroy(struct console *console); /* NULL is fine */

/* Output. Waits for a slow reader, but not for one that has stopped: what cannot be written is
 * dropped. Any thread, one at a time. */
void console_write(struct console *console, const uint8_t *data, size_t len);
/* Any thread. */
void console_rx_ready(struct console *console);
