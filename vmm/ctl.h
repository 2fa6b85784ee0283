/* ctl.h: `minivmm ctl`: one command to a running VM's control socket. */
#pragma once

/* ARGV[0] is "ctl". Prints the answer; returns an exit status of enum machine_status. */
int ctl_main(int argc, char *const *argv);
