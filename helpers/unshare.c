/*
 * rless-unshare SAID GO FLAGS INSIDE: hold new namespaces until the caller has entered them
 *
 * newuidmap(1) writes the id maps of a process in a new user namespace, and must itself be outside
 * of it, as must be who finds out what a container is to be. So this process makes the namespaces,
 * and the caller enters them when they are mapped. In place of a fork of Python, whose pages and
 * their tables it would copy.
 *
 * SAID: a pipe that gets "+", or the error number of the call that failed. GO: a pipe whose end is
 * ours. FLAGS: CLONE_NEW*, a mount namespace among them. INSIDE: the descriptor of a user namespace
 * in which ours is made, or -1.
 *
 * Source: unshare(2), setns(2), user_namespaces(7), mount_namespaces(7).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char text[16] = "+";
	int said, inside;

	if (argc != 5)
		return 64;
	said = (int)strtoll(argv[1], NULL, 10);
	inside = (int)strtoll(argv[4], NULL, 10);
	/* A key of the terminal is not for us. */
	syscall(SYS_setsid, 0L, 0L, 0L, 0L, 0L, 0L);
	if ((inside >= 0 && syscall(SYS_setns, (long)inside, (long)CLONE_NEWUSER, 0L, 0L, 0L, 0L) < 0) ||
	    syscall(SYS_unshare, (long)strtoll(argv[3], NULL, 10), 0L, 0L, 0L, 0L, 0L) < 0 ||
	    /* What the host mounts later still arrives; nothing goes back. */
	    syscall(SYS_mount, NULL, "/", NULL, (long)(MS_REC | MS_SLAVE), NULL, 0L) < 0)
		snprintf(text, sizeof(text), "%d", errno);
	if (write(said, text, text[0] == '+' ? 1 : 3) < 0 || text[0] != '+')
		return 70;
	close(said);
	return read((int)strtoll(argv[2], NULL, 10), text, 1) != 0;
}
