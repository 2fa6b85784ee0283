/*
 * share.h: the server behind a shared folder (--share): a virtiofsd of our own, or one that
 * runs.
 */
#pragma once

struct option_share;
struct spawn;

/* A connection to the server of SHARE, which is started where none is given; SERVER then has
 * it. Returns the socket, the caller's from now on. Logs its own errors. Main thread. */
int share_connect(struct spawn *server, const struct option_share *share);
