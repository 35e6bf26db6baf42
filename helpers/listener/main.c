/*
 * rless-listener SOCKET FD COMMAND...: hold the socket of `rless service`, and start that on demand
 *
 * FD is a unix stream socket that is bound to SOCKET. When somebody connects, COMMAND is executed
 * with it as descriptor 3, as systemd does for a socket unit: LISTEN_FDS is 1, LISTEN_PID its pid (sd_listen_fds(3)).
 * Only after its end is the socket looked at again. So an idle service is this process alone, and the
 * socket outlives the service: a container that has it bound holds the inode.
 *
 * Standard output is closed once the socket listens. What it says goes to standard error, the log,
 * which is emptied when it is large. A service that fails FAILURES times within WITHIN is left alone
 * for QUIET; who connects meanwhile waits.
 *
 * It ends by SIGTERM, which the service gets too, and when SOCKET is no longer its own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LISTENER = 3, BACKLOG = 1024, LOG_MOST = 1 << 20 };
enum { FAILURES = 5, WITHIN = 10, QUIET = 60 }; /* seconds */

static const char *path;
static char **command, **environment;
static struct stat ours; /* the socket's file */
static int signals, changes;
static pid_t service;
static int64_t failures[FAILURES], quiet_until; /* seconds */
static int failed;

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec;
}

static void say(const char *what, int number)
{
	char line[160];
	int size = snprintf(line, sizeof(line), "rless-listener: %s %d\n", what, number);

	if (write(2, line, (size_t)size) < 0)
		return; /* the disk is full */
}

static void mask(int how)
{
	uint64_t set = 1ULL << (SIGCHLD - 1) | 1ULL << (SIGTERM - 1);

	syscall(SYS_rt_sigprocmask, (long)how, &set, NULL, sizeof(set));
}

/* Become the service, in the child. */
static void execute(void)
{
	char pid[32];
	size_t count = 0, used = 0;

	while (environment[count])
		count++;
	{
		char *given[count + 3];

		for (size_t i = 0; i < count; i++)
			if (strncmp(environment[i], "LISTEN_", 7) != 0)
				given[used++] = environment[i];
		snprintf(pid, sizeof(pid), "LISTEN_PID=%d", (int)getpid());
		given[used++] = pid;
		given[used++] = (char *)"LISTEN_FDS=1";
		given[used] = NULL;
		fcntl(LISTENER, F_SETFD, 0L);
		mask(SIG_UNBLOCK);
		execve(command[0], command, given);
	}
	say("the service cannot be executed: errno", errno);
	_exit(127);
}

static void note_failure(void)
{
	int64_t time = now();

	failures[failed % FAILURES] = time;
	failed++;
	if (failed < FAILURES || time - failures[failed % FAILURES] > WITHIN)
		return;
	say("the service fails again and again; the next attempt is in this many seconds:", QUIET);
	quiet_until = time + QUIET;
	failed = 0;
}

static void begin(void)
{
	struct stat log;

	if (fstat(2, &log) == 0 && log.st_size > LOG_MOST && ftruncate(2, 0) < 0)
		say("the log cannot be emptied: errno", errno);
	service = fork();
	if (service == 0)
		execute();
	if (service > 0)
		return;
	say("cannot fork: errno", errno);
	service = 0;
	note_failure();
}

/* Take the status of whoever has ended. */
static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != service)
			continue;
		service = 0;
		if (WIFSIGNALED(status))
			say("the service was ended by signal", WTERMSIG(status));
		else if (WEXITSTATUS(status))
			say("the service has ended with", WEXITSTATUS(status));
		if (status)
			note_failure();
	}
}

/* Tell whether it was a request to end. */
static bool hear_signal(void)
{
	unsigned char said[128]; /* struct signalfd_siginfo, whose first four bytes are the number */
	uint32_t number = 0;

	if (read(signals, said, sizeof(said)) != sizeof(said))
		return false;
	memcpy(&number, said, sizeof(number));
	if (number == SIGCHLD)
		reap();
	return number == SIGTERM;
}

static bool is_ours(void)
{
	struct stat there;

	return lstat(path, &there) == 0 && there.st_dev == ours.st_dev && there.st_ino == ours.st_ino;
}

static int end(void)
{
	if (is_ours())
		unlinkat(AT_FDCWD, path, 0);
	if (service > 0 && kill(service, SIGTERM) == 0)
		waitpid(service, NULL, 0);
	return 0;
}

static int run(void)
{
	struct pollfd fds[3] = { { .events = POLLIN }, { .events = POLLIN }, { .events = POLLIN } };

	fds[1].fd = signals;
	fds[2].fd = changes;
	for (;;) {
		int64_t left = quiet_until - now();
		bool quiet = left > 0;

		fds[0].fd = service > 0 || quiet ? -1 : LISTENER;
		if (poll(fds, 3, service <= 0 && quiet ? (int)left * 1000 : -1) < 0 && errno != EINTR)
			return 70;
		if (fds[1].revents && hear_signal())
			return end();
		if (fds[2].revents) {
			char events[4096];

			if (read(changes, events, sizeof(events)) < 0 && errno != EAGAIN)
				return 70;
			if (!is_ours())
				return end();
		}
		if (fds[0].fd >= 0 && fds[0].revents)
			begin();
	}
}

int main(int argc, char **argv)
{
	uint64_t set = 1ULL << (SIGCHLD - 1) | 1ULL << (SIGTERM - 1);
	int null, given;

	if (argc < 4)
		return 64;
	path = argv[1];
	given = (int)strtoll(argv[2], NULL, 10);
	command = argv + 3;
	environment = argv + argc + 1;
	mask(SIG_BLOCK);
	if (given != LISTENER && syscall(SYS_dup3, (long)given, (long)LISTENER, (long)O_CLOEXEC) < 0)
		return 70;
	if (given != LISTENER)
		close(given);
	fcntl(LISTENER, F_SETFD, (long)FD_CLOEXEC);
	/* Now a client is told by SO_PEERCRED who listens: this process (rootless/service/listener.py). */
	if (lstat(path, &ours) < 0 || listen(LISTENER, BACKLOG) < 0)
		return 70;
	signals = (int)syscall(SYS_signalfd4, -1L, &set, sizeof(set), (long)(SOCK_CLOEXEC | SOCK_NONBLOCK));
	changes = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (signals < 0 ||
	    (changes >= 0 && inotify_add_watch(changes, path, IN_ATTRIB | IN_MOVE_SELF) < 0))
		return 70;
	null = openat(AT_FDCWD, "/dev/null", O_WRONLY | O_CLOEXEC);
	if (null < 0 || syscall(SYS_dup3, (long)null, 1L, 0L) < 0)
		return 70;
	close(null);
	return run();
}
