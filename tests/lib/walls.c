/*
 * walls WALL...: enter walls of rless-networks ("capabilities", "files", "calls", "all"), or those of
 * the process beside it ("beside"), then try what they forbid; print a line NAME ERRNO for each try.
 *
 * Before, it takes all capabilities of a user and network namespace of its own.
 */
#include "../../helpers/networks/walls.c"

#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

static char report[4096];
static size_t used;

static void note(const char *name, long result)
{
	int error = result < 0 ? errno : 0;

	used += (size_t)snprintf(report + used, sizeof(report) - used, "%s %d\n", name, error);
}

static long set(int fd, int level, int option)
{
	int on = 1;

	return setsockopt(fd, level, option, &on, sizeof(on));
}

static void enter(const char *wall)
{
	const char *failed = strcmp(wall, "capabilities") == 0 ? wall_of_capabilities() :
			     strcmp(wall, "files") == 0 ? wall_of_files() :
			     strcmp(wall, "calls") == 0 ? wall_of_calls() :
			     strcmp(wall, "all") == 0 ? enter_walls() :
			     strcmp(wall, "beside") == 0 ? walls_of_files_process() : "no such wall";

	if (failed) {
		dprintf(2, "%s: %s\n", failed, strerror(errno));
		_exit(70);
	}
}

/* The tries' order is that of their danger for those that follow. */
int main(int argc, char **argv)
{
	struct sockaddr_in low = { .sin_family = AF_INET, .sin_port = htobe16(53) };
	int out = socket(AF_UNIX, SOCK_DGRAM, 0), pair[2], udp;
	char *none[] = { NULL };
	pid_t child;

	close(out);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
		return 70;
	child = fork(); /* what is said goes by send(2): the walls of calls have no write(2) */
	if (child) {
		char said[4096];
		ssize_t size;
		int status;

		close(pair[1]);
		while ((size = read(pair[0], said, sizeof(said))) > 0)
			if (write(1, said, (size_t)size) != size)
				return 70;
		waitpid(child, &status, 0);
		return WIFEXITED(status) ? WEXITSTATUS(status) : 70;
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return 70;
	for (int i = 1; i < argc; i++)
		enter(argv[i]);

	/* What it needs. */
	udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	note("udp", udp);
	note("tcp", socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0));
	note("transparent", set(udp, IPPROTO_IP, IP_TRANSPARENT));

	/* Capabilities. */
	note("low port", bind(udp, (struct sockaddr *)&low, sizeof(low)));
	note("raw", socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
	note("chroot", chroot("/"));

	/* Files. */
	note("open", syscall(SYS_openat, AT_FDCWD, "/etc/passwd", O_RDONLY));
	note("directory", syscall(SYS_openat, AT_FDCWD, "/etc", O_RDONLY | O_DIRECTORY));
	note("create", syscall(SYS_openat, AT_FDCWD, "made", O_WRONLY | O_CREAT, 0600));
	note("append", syscall(SYS_openat, AT_FDCWD, "there", O_WRONLY | O_APPEND));
	note("unlink", syscall(SYS_unlinkat, AT_FDCWD, "gone", 0));

	/* System calls. */
	note("netlink", socket(AF_NETLINK, SOCK_RAW, 12 /* NETLINK_NETFILTER */));
	note("unix", socket(AF_UNIX, SOCK_STREAM, 0));
	note("packet", socket(AF_PACKET, SOCK_DGRAM, 0));
	note("mptcp", socket(AF_INET, SOCK_STREAM, 262 /* IPPROTO_MPTCP */));
	note("firewall", set(udp, IPPROTO_IP, 64 /* IPT_SO_SET_REPLACE */));
	note("memory", syscall(SYS_process_vm_readv, 0, NULL, 0L, NULL, 0L, 0L));
	note("ptrace", syscall(SYS_ptrace, (long)PTRACE_ATTACH, 0L, NULL, NULL));
	note("kill", syscall(SYS_kill, (long)getpid(), 0L));
	note("mmap", syscall(SYS_mmap, NULL, 4096L, 7L, 0x22L, -1L, 0L));
	note("mount", syscall(SYS_mount, NULL, "/nothing-such", NULL, (long)MS_PRIVATE, NULL));
	note("unshare", syscall(SYS_unshare, (long)CLONE_NEWNET));
	note("fcntl", fcntl(udp, F_SETOWN, 1));
	note("execve", syscall(SYS_execve, "/nothing-such", none, none));
	child = (pid_t)syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
	if (child == 0)
		_exit(0);
	note("fork", child);
	return send(pair[1], report, used, 0) == (ssize_t)used ? 0 : 70;
}
