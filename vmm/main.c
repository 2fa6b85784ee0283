/*
 * main.c: parse, run, exit status. A first argument `host` or `ctl` is a command; a kernel file
 * of that name is given as ./host.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm/ctl.h"
#include "vmm/host.h"
#include "vmm/log.h"
#include "vmm/machine.h"
#include "vmm/options.h"

/* A file that is opened while one of the standard three is closed gets its number, and what is
 * meant for the console or for messages. */
static void fill_standard_files(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    struct options options;
    fill_standard_files();
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
    signal(SIGXFSZ, SIG_IGN); /* the write that RLIMIT_FSIZE refuses has an error to tell */
    log_set_level(options.log_level);
    log_set_name(options.name);
    if (options.name)
        prctl(PR_SET_NAME, options.name); /* its first 15 characters */
    if (options.log_file && log_set_file(options.log_file))
        return STATUS_START;
    return machine_run(&options);
}
