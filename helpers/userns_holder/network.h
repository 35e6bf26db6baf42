/* What the files of the namespace holder share; main.c says what the program does. */
#ifndef NETWORK_H
#define NETWORK_H

/* Whether the interface drops what is sent to loopback addresses; TRY: where the kernel can. */
enum guard { UNGUARDED, TRY, REQUIRE };

/* Each returns NULL, or the call that failed, with errno. In the network namespace, by its root. */
const char *loopback_up(void);
const char *make_interface(const char *name, const char *address, enum guard guard);

#endif
