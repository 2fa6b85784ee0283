/*
 * host.c: the command line of `minivmm host`. Exit statuses are the program's: 0, 2 for a bad
 * command line, 4 for what could not be done, and for `check`: not ready.
 */
#include "vmm/host.h"

#include <stdio.h>

#include "vmm/log.h"
#include "vmm/machine.h"
#include "vmm/util.h"

static bool is_idle(const char *path, const void *opaque)
{
    struct host_use use;
    (void)opaque;
    return !host_in_use(path, &use);
}

static bool is_bound(const char *path, const void *opaque)
{
    char driver[64];
    vfio_sysfs_driver(path, driver, sizeof(driver));
    return vfio_sysfs_is_vfio(path, driver) && is_idle(path, opaque);
}

static const struct command {
    const char *name;
    int (*run)(const struct host_devices *named, bool option);
    const char *option; /* NULL: it has none */
    bool needs_device;
    vfio_name_filter *free; /* of several devices with one ID */
} command[] = {
    {"list", host_list, "--json", false, NULL},
    {"check", host_check, NULL, false, NULL},
    {"bind", host_bind, "--force", true, is_idle},
    {"unbind", host_unbind, "--force", true, is_bound},
};

static int help(void)
{
    printf(
        "Usage: minivmm host list [--json] [DEVICE...]     what this machine has\n"
        "       minivmm host check [DEVICE...]             ready for passthrough, or what to "
        "do\n"
        "       minivmm host bind [--force] DEVICE...      their whole groups to vfio-pci\n"
        "       minivmm host unbind [--force] DEVICE...    back to the drivers they had\n\n"
        "DEVICE: 0000:42:00.0, 42:00.0, 42:00 (all functions), 10de:1b80[:COUNT] (by ID),\n"
        "a sysfs path, a mediated device's UUID. bind refuses devices that are in use,\n"
        "unless forced.\n\n"
        "Exit status: 0 done or ready, 2 bad command line, 4 not done or not ready.\n");
    return 0;
}

static int usage(const char *what, const char *why)
{
    log_error(what, "cannot run host command: %s; see minivmm host --help", why);
    return STATUS_USAGE;
}

static int run(const struct command *c, int argc, char *const *argv)
{
    struct host_devices named = {0};
    bool option = false;
    for (int i = 0; i < argc; i++) {
        if (c->option && !strcmp(argv[i], c->option)) {
            option = true;
        } else if (argv[i][0] == '-') {
            return usage(argv[i], "unknown option");
        } else {
            int nr = vfio_name_find(argv[i], c->free, NULL, named.at + named.nr,
                                    HOST_DEVICES_MAX - named.nr);
            if (nr < 0)
                return STATUS_START;
            named.nr += (unsigned)nr;
        }
    }
    if (c->needs_device && !named.nr)
        return usage(c->name, "no device given");
    return c->run(&named, option) ? STATUS_START : 0;
}

int host_main(int argc, char *const *argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return help();
    }
    if (argc < 2)
        return usage("host", "none given");
    for (size_t i = 0; i < ARRAY_SIZE(command); i++) {
        if (!strcmp(argv[1], command[i].name))
            return run(&command[i], argc - 2, argv + 2);
    }
    return usage(argv[1], "unknown");
}
