/*
 * rless-userns-holder STATUS_FD RELEASE_FD FLAGS INSIDE [INTERFACE [ADDRESS]]: the namespace holder,
 * which keeps new namespaces until the caller has entered them
 *
 * newuidmap(1) writes the id maps of a process in a new user namespace, and must itself be outside
 * of it, as must be who finds out what a container is to be. So this process makes the namespaces,
 * and the caller enters them when they are mapped. In place of a fork of Python, whose pages and
 * their tables it would copy.
 *
 * STATUS_FD: a pipe that gets "+", or the error number of the call that failed, and its name, unless
 * it is the one that makes the namespaces. RELEASE_FD: a pipe; this process ends when it is closed.
 * FLAGS: CLONE_NEW*, a mount namespace among them; in a network namespace the loopback is brought up.
 * INSIDE: the descriptor of a user namespace in which ours is made, or -1. INTERFACE: the name of one
 * for pasta to be made there (network.c). ADDRESS: its hardware address, 02:xx:xx:xx:xx:xx.
 *
 * Source: unshare(2), setns(2), user_namespaces(7), mount_namespaces(7).
 */
#define _GNU_SOURCE
#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Return NULL, or the call that failed, with errno; "": that by which the namespaces are made. */
static const char *make(int inside, long flags, const char *interface, const char *address)
{
	const char *failed = NULL;

	if ((inside >= 0 && syscall(SYS_setns, (long)inside, (long)CLONE_NEWUSER, 0L, 0L, 0L, 0L) < 0) ||
	    syscall(SYS_unshare, flags, 0L, 0L, 0L, 0L, 0L) < 0 ||
	    /* What the host mounts later still arrives; nothing goes back. */
	    syscall(SYS_mount, NULL, "/", NULL, (long)(MS_REC | MS_SLAVE), NULL, 0L) < 0)
		return "";
	if (flags & CLONE_NEWNET)
		failed = loopback_up();
	if (!failed && interface)
		failed = make_interface(interface, address);
	return failed;
}

int main(int argc, char **argv)
{
	char text[64] = "+";
	const char *failed;
	int status_fd;

	if (argc < 5 || argc > 7)
		return 64;
	status_fd = (int)strtoll(argv[1], NULL, 10);
	/* A key of the terminal is not for us. */
	syscall(SYS_setsid, 0L, 0L, 0L, 0L, 0L, 0L);
	failed = make((int)strtoll(argv[4], NULL, 10), (long)strtoll(argv[3], NULL, 10), argv[5],
		      argc > 6 ? argv[6] : NULL);
	if (failed)
		snprintf(text, sizeof(text), "%d %s", errno, failed);
	if (write(status_fd, text, strlen(text)) < 0 || failed)
		return 70;
	close(status_fd);
	return read((int)strtoll(argv[2], NULL, 10), text, 1) != 0;
}
