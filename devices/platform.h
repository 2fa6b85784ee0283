/*
 * platform.h: what the fixed devices of a PC ask of the machine they are in.
 */
#pragma once

/* Called from vCPU threads; each returns at once, the machine acts on it in the main thread. */
struct power_ops {
    void (*reset)(void *opaque);
    void (*poweroff)(void *opaque);
    void (*debug_exit)(void *opaque, unsigned value);
};

struct power {
    const struct power_ops *ops;
    void *opaque;
};
