/*
 * rless-pasta PARENT PASTA [ARGUMENT...]: become pasta once its namespaces are there
 *
 * pasta must be begun in the host's network, as a child of the process that keeps the container,
 * before that one has entered other namespaces. So this program is begun, which waits for two lines on
 * standard input: the paths of the network and of the user namespace. If they don't come, it ends. In
 * place of a fork of Python, which copies the tables of its pages and 700 of these.
 *
 * PARENT: whose child this is, and with which it ends, whatever ends that one; 0: it stays. PASTA: the
 * program. Standard output gets what pasta writes to its "pid file", standard error what goes wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { NOT_BEGUN = 127 };

/* Read the two lines, and end each by a zero byte; return the second one, NULL: they don't come. */
static char *read_paths(char *text, size_t size)
{
	char *second = NULL;
	size_t used = 0;
	ssize_t got;

	while (used < size && (got = read(0, text + used, size - used)) > 0) {
		for (char *at = text + used; at < text + used + got; at++)
			if (*at == '\n') {
				*at = 0;
				if (second)
					return second;
				second = at + 1;
			}
		used += (size_t)got;
	}
	return NULL;
}

/*
 * Tell whether this is a distribution's pasta of 2023. Where AppArmor is on, it has the profile of passt,
 * which lets it read no other process, so none's namespaces in /proc; but it keeps what it inherits.
 * Later ones have a profile of their own, which lets them, and close what they inherit.
 */
static int keeps_inherited(const char *program)
{
	return (!strncmp(program, "/usr/bin/", 9) || !strncmp(program, "/bin/", 5)) &&
	       !access("/etc/apparmor.d/usr.bin.passt", F_OK) &&
	       access("/etc/apparmor.d/usr.bin.pasta", F_OK) < 0;
}

/* Open this path as fd, and return the path of that; if it cannot be, the same, as pasta says why. */
static char *inherited(char *path, int fd, char *other)
{
	int opened = open(path, O_RDONLY);

	if (opened < 0 || dup2(opened, fd) < 0)
		return path;
	if (opened != fd)
		close(opened);
	return other;
}

int main(int argc, char **argv)
{
	char paths[2 * PATH_MAX], *user, *words[argc + 3];
	char *net = paths;
	int used = 0, parent, null;

	if (argc < 3)
		return NOT_BEGUN;
	parent = (int)strtol(argv[1], NULL, 10);
	setsid(); /* a key of the terminal is not for it */
	/* If it had ended before, the kernel would not tell. */
	if (parent && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent))
		return NOT_BEGUN;
	user = read_paths(paths, sizeof(paths));
	if (!user)
		return NOT_BEGUN;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, 0) < 0 || chdir("/") < 0)
		return NOT_BEGUN;
	syscall(SYS_close_range, 3L, ~0UL, CLOSE_RANGE_CLOEXEC);
	if (keeps_inherited(argv[2])) {
		net = inherited(net, 3, "/proc/self/fd/3");
		user = inherited(user, 4, "/proc/self/fd/4");
	}
	words[used++] = "pasta";
	words[used++] = "--netns";
	words[used++] = net;
	words[used++] = "--userns";
	words[used++] = user;
	for (int i = 3; i <= argc; i++) /* with the NULL at their end */
		words[used++] = argv[i];
	execv(argv[2], words);
	dprintf(2, "%s: %s\n", argv[2], strerror(errno));
	return NOT_BEGUN;
}
