/*
 * main.c: parse, run, exit status.
 */
#include "vmm/log.h"
#include "vmm/machine.h"
#include "vmm/options.h"

int main(int argc, char **argv)
{
    struct options options;
    switch (options_parse(argc, argv, &options)) {
    case OPTIONS_BAD:
        return STATUS_USAGE;
    case OPTIONS_DONE:
        return STATUS_OFF;
    case OPTIONS_RUN:
        break;
    }
    log_set_level(options.log_level);
    return machine_run(&options);
}
