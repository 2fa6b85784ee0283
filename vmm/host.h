/*
 * host.h: `minivmm host`: what this machine has to pass through, what it still lacks, and
 * devices taken from their drivers and given back.
 *
 * host.c reads the command line, host_list.c, host_check.c and host_bind.c carry it out,
 * host_use.c finds who uses a device. One thread; nothing stays in memory between them.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "vfio/vfio_sysfs.h"

#define HOST_DEVICES_MAX 64

struct host_devices {
    unsigned nr;
    struct vfio_path at[HOST_DEVICES_MAX];
};

/* ARGV[0] is "host". Returns the exit status: 0, 2 (bad command line) or 4. */
int host_main(int argc, char *const *argv);

/* Each returns 0, or a negative errno when it has said what it could not do. */
int host_list(const struct host_devices *named, bool json);
int host_check(const struct host_devices *named, bool unused);
int host_bind(const struct host_devices *named, bool force);
int host_unbind(const struct host_devices *named, bool force);

struct host_use {
    char who[256]; /* "mounted on /home (/dev/nvme0n1p2)" */
    char fix[256]; /* "umount /home" */
};

/* Whether the device at PATH is in use and must not be taken away. */
bool host_in_use(const char *path, struct host_use *use);
