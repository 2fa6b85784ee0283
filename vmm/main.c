/*
 * main.c: parse, run, exit status. A first argument `host` or `ctl` is a command; a kernel file
 * of that name is given as ./host.
 */
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#include "vmm/ctl.h"
#include "vmm/host.h"
#include "vmm/log.h"
#include "vmm/machine.h"
#include "vmm/options.h"

int main(int argc, char **argv)
{
    struct options options;
    if (argc > 1 && !strcmp(argv[1], "host"))
        return host_main(argc - 1, argv + 1);
    if (argc > 1 && !strcmp(argv[1], "ctl"))
        return ctl_main(argc - 1, argv + 1);
    switch (options_parse(argc, argv, &options)) {
    case OPTIONS_BAD:
        return STATUS_USAGE;
    case OPTIONS_DONE:
        return STATUS_OFF;
    case OPTIONS_RUN:
        break;
    }
    log_set_level(options.log_level);
    log_set_name(options.name);
    if (options.name)
        prctl(PR_SET_NAME, options.name); /* its first 15 characters */
    if (options.log_file && log_set_file(options.log_file))
        return STATUS_START;
    signal(SIGXFSZ, SIG_IGN); /* beyond the user's limit (ulimit -f) a write is an error */
    return machine_run(&options);
}
