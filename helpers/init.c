/*
 * rless-init: process 1 of a container started with --init.
 *
 * Usage: init [--] PROGRAM [ARGUMENT...]
 *        init --hold
 *
 * --hold: run nothing; hold the namespaces that others join (run --join) until SIGTERM.
 *
 * A program that was never written to be process 1 misbehaves as one: the kernel delivers no
 * signal to it that it has no handler for, so `stop` waits for its timeout, and orphans that
 * end stay zombies. This program stands in front: it runs PROGRAM as its child, passes signals
 * on to it, reaps whatever ends, and exits as PROGRAM did (128+n if signal n ended it).
 * The semantics are those of docker-init (tini): signals go to the child, not to its group.
 *
 * It is static and needs no file of the image, nor /proc: images may have neither.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_TOOL = 125, EXIT_CANNOT_EXECUTE = 126, EXIT_NOT_FOUND = 127 };

/* A fault is a bug of this program: it must end it, and a blocked one would loop instead. */
static const int faults[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS };

/* Print one line, in one write: two processes share the stream. No stdio: it triples the size. */
static void complain(const char *what, const char *name, int error)
{
	const char *why = strerror(error);
	const char *parts[] = { "rless-init: ", what, name, ": ", why, "\n" };
	struct iovec line[6];

	for (size_t i = 0; i < 6; i++)
		line[i] = (struct iovec){ (void *)parts[i], strlen(parts[i]) };
	if (writev(STDERR_FILENO, line, 6) < 0)
		return; /* a closed standard error must not change the exit code */
}

static void run(char **argv, const sigset_t *mask)
{
	/* A group of its own, in the foreground where there is a terminal: ^C then reaches the
	 * program and its children but not us, and a shell gets job control. SIGTTOU is still
	 * blocked here: tcsetpgrp from the background would stop us. No terminal is no error. */
	if (setpgid(0, 0) == 0)
		tcsetpgrp(STDIN_FILENO, getpgrp());
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);

	int error = errno;

	complain("cannot run ", argv[0], error);
	_exit(error == ENOENT || error == ENOTDIR ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE);
}

/* Reap all that have ended. Return the child's exit code if it was among them, else -1. */
static int reap(pid_t child)
{
	int code = -1;

	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid < 0 && errno == EINTR)
			continue;
		if (pid <= 0) /* none has ended, or (ECHILD) none is left */
			return code;
		if (pid == child)
			code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	}
}

static int hold(void)
{
	sigset_t term;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_SETMASK, &term, NULL);
	while (sigwaitinfo(&term, NULL) < 0 && errno == EINTR)
		; /* stopped, and continued */
	return 0;
}

int main(int argc, char **argv)
{
	sigset_t all, old;
	pid_t child;

	argv++;
	if (argc == 2 && strcmp(*argv, "--hold") == 0)
		return hold();
	if (argc > 1 && strcmp(*argv, "--") == 0)
		argv++;
	if (argc < 2 || !*argv) {
		complain("no program to run", "", EINVAL);
		return EXIT_TOOL;
	}

	/* Blocked signals are queued for sigwaitinfo, for process 1 too, and none is lost between
	 * fork and exec. */
	memset(&all, 0xff, sizeof(all)); /* sigfillset leaves out what the C library uses */
	for (size_t i = 0; i < sizeof(faults) / sizeof(*faults); i++)
		sigdelset(&all, faults[i]);
	sigprocmask(SIG_SETMASK, &all, &old);
	/* Inherited SIG_IGN would let the kernel reap for us, and the exit code be lost. */
	signal(SIGCHLD, SIG_DFL);
	/* With the host's pid namespace we are not process 1: orphans come here all the same. */
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);

	child = fork();
	if (child < 0) {
		complain("fork", "", errno);
		return EXIT_TOOL;
	}
	if (child == 0)
		run(argv, &old);

	for (;;) {
		int signal = sigwaitinfo(&all, NULL);

		if (signal == SIGCHLD) {
			int code = reap(child);

			if (code >= 0)
				return code; /* the kernel ends the rest of the namespace */
		} else if (signal > 0 && signal != SIGTTIN && signal != SIGTTOU) {
			/* The terminal's complaints about us are not the program's. ESRCH: it has
			 * just ended, and SIGCHLD is waiting. */
			kill(child, signal);
		}
	}
}
