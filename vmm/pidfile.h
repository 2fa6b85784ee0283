/*
 * pidfile.h: a file with the process's number, for scripts and service managers.
 *
 * The file is locked as long as the VM lives: one that is there and not locked is left over and
 * is taken over, one that is locked is another VM's. Main thread only.
 */
#pragma once

/* The file, locked and empty; made where it is missing. What is no pidfile is left alone. Logs
 * its own errors. */
int pidfile_open(const char *path);
int pidfile_write(const char *path, int fd);
/* Removes it, if it is still the one at PATH. */
void pidfile_close(const char *path, int fd);
