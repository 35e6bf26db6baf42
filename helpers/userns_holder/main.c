/*
 * rless-userns-holder STATUS_FD RELEASE_FD FLAGS INSIDE: the namespace holder, which keeps new
 * namespaces until the caller has entered them
 *
 * newuidmap(1) writes the id maps of a process in a new user namespace, and must itself be outside
 * of it, as must be who finds out what a container is to be. So this process makes the namespaces,
 * and the caller enters them when they are mapped. In place of a fork of Python, whose pages and
 * their tables it would copy. The launcher begins it for `run`, while Python starts.
 *
 * STATUS_FD: a pipe that gets "+" when the namespaces are there, or the error number of the call that
 * failed, and its name, unless it is the one that makes the namespaces. RELEASE_FD: a pipe; this
 * process ends when it is closed. Before that it may bring "INTERFACE GUARD ADDRESS": the name of one
 * for pasta to be made (network.c), whether it drops what is sent to loopback addresses (0: no, 1: if
 * the kernel can, 2: yes), and its hardware address, 02:xx:xx:xx:xx:xx, or nothing for any; that is
 * answered in the same way. FLAGS: CLONE_NEW*, a mount namespace among them; in a network namespace
 * the loopback is brought up. INSIDE: the descriptor of a user namespace in which ours is made, or -1.
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
static const char *make(int inside, long flags)
{
	if ((inside >= 0 && syscall(SYS_setns, (long)inside, (long)CLONE_NEWUSER, 0L, 0L, 0L, 0L) < 0) ||
	    syscall(SYS_unshare, flags, 0L, 0L, 0L, 0L, 0L) < 0 ||
	    /* What the host mounts later still arrives; nothing goes back. */
	    syscall(SYS_mount, NULL, "/", NULL, (long)(MS_REC | MS_SLAVE), NULL, 0L) < 0)
		return "";
	return flags & CLONE_NEWNET ? loopback_up() : NULL;
}

/* Tell what became of a step; return whether it was done. */
static int say(int status_fd, const char *failed)
{
	char text[64] = "+";

	if (failed)
		snprintf(text, sizeof(text), "%d %s", errno, failed);
	return write(status_fd, text, strlen(text)) > 0 && !failed;
}

int main(int argc, char **argv)
{
	char text[64] = "", *guard, *address;
	int status_fd, release_fd;

	if (argc != 5)
		return 64;
	status_fd = (int)strtoll(argv[1], NULL, 10);
	release_fd = (int)strtoll(argv[2], NULL, 10);
	/* A key of the terminal is not for us. */
	syscall(SYS_setsid, 0L, 0L, 0L, 0L, 0L, 0L);
	if (!say(status_fd, make((int)strtoll(argv[4], NULL, 10), (long)strtoll(argv[3], NULL, 10))))
		return 70;
	if (read(release_fd, text, sizeof(text) - 1) <= 0)
		return 0;
	guard = strchr(text, ' ');
	address = guard ? strchr(guard + 1, ' ') : NULL;
	if (!address)
		return 64;
	*guard++ = *address++ = 0;
	if (!say(status_fd, make_interface(text, address, (enum guard)(*guard - '0'))))
		return 70;
	close(status_fd);
	return read(release_fd, text, 1) != 0;
}
