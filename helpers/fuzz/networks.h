/* The rest of rless-networks, for the targets that run a part of it. */
#ifndef FUZZ_NETWORKS_H
#define FUZZ_NETWORKS_H

#include "../networks/networks.h"

/* Add a member with addresses and names to a network, as a command does; all numbers from 0. */
void add_member(int client, int network, const char *names);

/* Forget all members and networks. */
void forget_members(void);

#endif
