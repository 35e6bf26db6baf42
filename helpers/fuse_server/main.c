/*
 * rless-serve LINK HOLDER IMAGE FLAGS [NAME=VALUE]... PROGRAM NAME ARGUMENT...: mount an image, and
 * become the program that serves it, with these variables
 *
 * The program reads what a stranger has made. So it gets a mount namespace of its own, two
 * descriptors, and the walls of walls.c.
 *
 * This is done here and not in a fork of Python, which takes 2.5 ms of processor time more, most
 * of it for copies of pages and of their tables. And it begins before its caller is in the user
 * namespace that the mount must be made in (rootless/rootfs/fuse.py).
 *
 * LINK: a unix socket. A 'g' from it: the ids of the user namespace are mapped; its end ends us. It
 * gets the mount's descriptor, in a message of one byte. What comes by it later is for a child of
 * ours, which asks the image for what will be wanted (prefetch.c). HOLDER: the pidfd of a process in
 * the user namespace, or -1: we are in there, with CAP_SYS_ADMIN and CAP_SETPCAP as ambient ones.
 * IMAGE: a descriptor that the program gets beside 0 to 2, or -1. One more is /dev/fuse, with the
 * number of LINK: so the caller can name it in an ARGUMENT. FLAGS: MOUNT_ATTR_* of the mount.
 *
 * Source: fsopen(2), unix(7), seccomp(2), capabilities(7), landlock(7), Linux
 * Documentation/filesystems/fuse.rst and userspace-api.
 */
#define _GNU_SOURCE
#include "prefetch.h"
#include "walls.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FSOPEN 430
#define FSCONFIG 431
#define FSMOUNT 432
#define CLOSE_RANGE 436
#define MARK_CLOSE_ON_EXEC 4L /* CLOSE_RANGE_CLOEXEC */
#define SET_FLAG 0L /* FSCONFIG_*: the C library may be older than they are */
#define SET_STRING 1L
#define CREATE 6L
#define READ_ONLY 1L /* MOUNT_ATTR_RDONLY */
#define VARIABLES 8 /* at most */

static void fail(const char *what)
{
	char text[64];
	int size = snprintf(text, sizeof(text), "%s: error %d\n", what, errno);

	_exit(write(2, text, (size_t)size) < 0 ? 126 : 127);
}

static void check(const char *failed)
{
	if (failed)
		fail(failed);
}

/* Enter the user namespace, if we are not in it, and a mount namespace that no mount comes to. */
static void enter(int holder)
{
	if (holder >= 0 && syscall(SYS_setns, (long)holder, (long)CLONE_NEWUSER, 0L, 0L, 0L, 0L) < 0)
		fail("setns");
	if (syscall(SYS_unshare, (long)CLONE_NEWNS, 0L, 0L, 0L, 0L, 0L) < 0)
		fail("unshare");
	if (syscall(SYS_mount, NULL, "/", NULL, (long)(MS_REC | MS_PRIVATE), NULL, 0L) < 0)
		fail("mount(/)");
}

static int make_mount(int fuse, const char *name, long flags)
{
	char fd[16], user[16], group[16], what[40];
	const struct {
		const char *key, *value;
	} options[] = {
		{ "source", name }, { "subtype", name }, { "fd", fd }, { "rootmode", "40000" },
		{ "user_id", user }, { "group_id", group },
		/* For others than who mounts: the container's users. The kernel checks modes itself. */
		{ "default_permissions", NULL }, { "allow_other", NULL },
		{ "ro", NULL },
	};
	size_t count = sizeof(options) / sizeof(*options) - !(flags & READ_ONLY);
	long context = syscall(FSOPEN, "fuse", 1L, 0L, 0L, 0L, 0L);
	long mount;

	if (context < 0)
		fail("fsopen(fuse)");
	snprintf(fd, sizeof(fd), "%d", fuse);
	snprintf(user, sizeof(user), "%u", (unsigned)syscall(SYS_geteuid, 0L, 0L, 0L, 0L, 0L, 0L));
	snprintf(group, sizeof(group), "%u", (unsigned)syscall(SYS_getegid, 0L, 0L, 0L, 0L, 0L, 0L));
	for (size_t i = 0; i < count; i++)
		if (syscall(FSCONFIG, context, options[i].value ? SET_STRING : SET_FLAG, options[i].key,
			    options[i].value, 0L, 0L) < 0) {
			snprintf(what, sizeof(what), "fsconfig(%s)", options[i].key);
			fail(what);
		}
	if (syscall(FSCONFIG, context, CREATE, NULL, NULL, 0L, 0L) < 0)
		fail("fsconfig(create)");
	mount = syscall(FSMOUNT, context, 1L, flags, 0L, 0L, 0L);
	if (mount < 0)
		fail("fsmount");
	close((int)context); /* with it the file system would outlive its mount */
	return (int)mount;
}

static void send_descriptor(int link, int fd)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(fd))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(fd)), .cmsg_level = SOL_SOCKET,
				  .cmsg_type = SCM_RIGHTS } };
	struct iovec part = { (char[]){ '+' }, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	if (sendmsg(link, &message, MSG_NOSIGNAL) < 0)
		fail("sendmsg");
}

/*
 * Begin who asks the image ahead. The program must not have a child that it does not know, so it is
 * left to who takes orphans. It has the mount and the link, and the end of each is soon.
 */
static void begin_to_ask(int link, int mount, int fuse, int image, char *words, size_t size)
{
	pid_t child = fork();

	if (child > 0)
		waitpid(child, NULL, 0);
	if (child)
		return; /* without one nothing is asked ahead */
	if (fork())
		_exit(0);
	/* Were it open here too, nobody would be told when the program has ended. */
	close(fuse);
	if (image >= 0)
		close(image);
	memset(words, 0, size); /* so that we do not look like the program */
	check(confine_prefetch(mount));
	look_ahead(link, mount);
}

static int descriptor(const char *text)
{
	return (int)strtoll(text, NULL, 10);
}

int main(int argc, char **argv)
{
	static char *environment[VARIABLES + 1];
	int link, image, fuse, mount, given = 0;
	char **program = argv + 5;
	char word = 0;

	for (; argc > 6 && *program && **program != '/' && given < VARIABLES; program++)
		environment[given++] = *program;
	if (argc < 7 || !program[0] || !program[1])
		return 64;
	link = descriptor(argv[1]);
	image = descriptor(argv[3]);
	/* A key of the terminal must not end it. */
	syscall(SYS_setsid, 0L, 0L, 0L, 0L, 0L, 0L);
	if (syscall(CLOSE_RANGE, 3L, (long)~0U, MARK_CLOSE_ON_EXEC, 0L, 0L, 0L) < 0)
		fail("close_range");
	if (image >= 0 && fcntl(image, F_SETFD, 0L) < 0)
		fail("fcntl");
	if (read(link, &word, 1) != 1 || word != 'g')
		return 70; /* who was to show it has ended */
	enter(descriptor(argv[2]));
	if (syscall(SYS_chdir, "/", 0L, 0L, 0L, 0L, 0L) < 0)
		fail("chdir");
	fuse = openat(AT_FDCWD, "/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0)
		fail("open(/dev/fuse)");
	mount = make_mount(fuse, program[1], strtoll(argv[4], NULL, 10));
	send_descriptor(link, mount);
	begin_to_ask(link, mount, fuse, image, argv[1],
		     (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[1]));
	/* The caller's is the last one that stays: when it is gone, whatever ends it, we end. */
	close(mount);
	if (syscall(SYS_dup3, (long)fuse, (long)link, 0L, 0L, 0L, 0L) < 0)
		fail("dup3");
	check(confine_server(program[0], image));
	execve(program[0], program + 1, environment);
	fail(program[0]);
}
