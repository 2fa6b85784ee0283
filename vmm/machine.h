/*
 * machine.h: the whole virtual machine, from options to exit status.
 */
#pragma once

struct options;

/* Exit statuses; even, so that they never collide with --debug-exit's odd ones. */
enum machine_status {
    STATUS_OFF = 0,      /* the guest powered off, or the user quit */
    STATUS_USAGE = 2,    /* bad command line */
    STATUS_START = 4,    /* could not start */
    STATUS_RESET = 6,    /* guest reset with --no-reboot */
    STATUS_CRASH = 8,    /* triple fault */
    STATUS_KVM = 10,     /* KVM could not go on */
    STATUS_DEVICE = 12,  /* a passed-through device failed or was asked back */
    STATUS_SIGNAL = 128, /* plus the signal's number */
};

/* Builds the machine, runs it until it ends, takes it apart. One call, in the main thread. */
int machine_run(const struct options *options);
