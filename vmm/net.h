/*
 * net.h: what a network card of --net is connected to: the tap, or passt, started if need be.
 */
#pragma once

#include "vmm/options.h"
#include "vmm/spawn.h"

struct net_port;

/* The other end that O names; PASST, zeroed, is the program where one is started. Logs its own
 * errors; spawn_stop() is due also after one. */
int net_open(struct net_port **out, const struct option_net *o, struct spawn *passt);
/* O's address, or one made from its name, its number N and the host's name: the same at each
 * start, so that the guest keeps what DHCP gave it. */
void net_address(const struct option_net *o, unsigned n, uint8_t mac[6]);
