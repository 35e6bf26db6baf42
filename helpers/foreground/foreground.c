/*
 * The foreground process of `rless run`: the caller waits for it, and it exits as the application.
 *
 * It forks. The child, the start process, becomes Python, makes the container, and then executes
 * its monitor. This process copies the streams and passes signals on, in 0.1 MB: it lives as long as
 * the container. If it ends, so does the container, by the link to the monitor, until it has sent
 * 'D'. It handles no terminal and words no error. Where that is wanted, it becomes Python:
 *
 *     rootless.cli.foreground LINK STDIN STDOUT STDERR PID STATE DETAIL FACTS
 *
 *     LINK, STDIN, STDOUT, STDERR: inheritable descriptors; -1: there is none, or not any more
 *     PID: the start process, our child, to be waited for
 *     STATE, DETAIL: what has happened
 *         attend       DETAIL empty: all is to be done; 'A' is answered, 'B' not read
 *         failed       DETAIL is what came with 'F'; the start process runs, the link may say more
 *         interrupted  DETAIL is the number of a signal that came before 'B'; LINK is -1
 *         gone         DETAIL empty: the start process ended before 'B'; it may have told why
 *         killed       DETAIL empty: the monitor was, after 'B'; the application's output is copied
 *     FACTS: what came with 'A'
 *
 * Blocked are then, beside what the caller had: SIGCHLD, SIGPIPE, and if signals are to be
 * forwarded, all that are. Those that came and were not forwarded yet are pending; SIGCHLD may be.
 *
 * Messages of the start process (by a socket made before the fork), one a datagram:
 *     'A' FLAGS(1) TEXT NUL FACTS, with descriptors: attend. Answer: 'a'; no signal to it follows
 *     'S': step aside: it ends, and this process becomes what it would have been without a child
 * Of the link, which comes with 'A': 'B' begun; 'F' DETAIL failed; 'X' CODE(4) ended. To the link:
 *     'K' NUMBER signal the application; 'K' NUMBER 1 its process group, too; 'D' let go
 */
#define _GNU_SOURCE
#include "foreground.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	BLOCK = 65536,
	PATIENCE = 3000, /* ms that a start may take to end */
	PACE = 4096, /* what poll(2) promises to fit into a writable pipe */
};
enum { DETACH = 8, FORWARD = 16, TO_PYTHON = 32, KEYS = 64 }; /* flags of 'A'; the lowest three: the streams */
enum { IN, OUT, ERR };

#define BIT(number) (1ULL << ((number) - 1))
#define AT_FIRST (~(BIT(SIGTTIN) | BIT(SIGTTOU))) /* blocked until 'A' */
#define ENDING (BIT(SIGTERM) | BIT(SIGINT) | BIT(SIGHUP) | BIT(SIGQUIT))
#define ALWAYS (BIT(SIGCHLD) | BIT(SIGPIPE)) /* writing tells of a closed pipe, too */
/* Not forwarded: they are about us. The last two the C library keeps for itself. */
#define OURS                                                                                      \
	(ALWAYS | BIT(SIGTSTP) | BIT(SIGTTIN) | BIT(SIGTTOU) | BIT(SIGURG) | BIT(SIGWINCH) |      \
	 BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGABRT) | BIT(SIGTRAP) |   \
	 BIT(SIGSYS) | BIT(32) | BIT(33))

/* One direction, with at most one block in between. */
static struct stream {
	int source, sink; /* the source is -1 once it has ended */
	bool paced;       /* regular files take what they get; others might make us wait */
	size_t at, end;   /* of its block */
} streams[3];
static char blocks[3][BLOCK];

static pid_t start_pid; /* of the start process */
static siginfo_t end;   /* si_pid 0: the start process has not ended */
static int start_fd = -1, link_fd = -1; /* sockets to the start process and to the monitor */
static int signals = -1;           /* a signalfd */
static uint64_t old_mask;
static int flags, code = -1;
static bool attending, begun, over;
static char message[BLOCK]; /* the last of the start process */
static char *text, *facts;

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void set_mask(uint64_t mask, uint64_t *old)
{
	syscall(SYS_rt_sigprocmask, (long)SIG_SETMASK, &mask, old, sizeof(mask), 0L, 0L);
}

/* Choose what we get to see of the blocked signals. The kernel keeps the others for later. */
static int listen_to(uint64_t set)
{
	signals = (int)syscall(SYS_signalfd4, (long)signals, &set, sizeof(set),
			       (long)(O_CLOEXEC | O_NONBLOCK), 0L, 0L);
	return signals;
}

/* See whether the start process has ended. Python may still wait for it, and its pid stays ours. */
static void look(int options)
{
	options |= WEXITED | WNOWAIT;
	syscall(SYS_waitid, (long)P_PID, (long)start_pid, &end, (long)options, NULL, 0L);
}

static void complain(const char *what, int error)
{
	static const struct {
		int number;
		const char *text;
	} reasons[] = {
		{ EBADF, "Bad file descriptor" }, { EDQUOT, "Disk quota exceeded" },
		{ EFBIG, "File too large" },      { EIO, "Input/output error" },
		{ EPIPE, "Broken pipe" },         { ENOSPC, "No space left on device" },
	};
	char number[24], whole[160];
	const char *why = number;

	snprintf(number, sizeof(number), "error %d", error);
	for (size_t i = 0; i < sizeof(reasons) / sizeof(*reasons); i++)
		if (reasons[i].number == error)
			why = reasons[i].text;
	snprintf(whole, sizeof(whole), "rless: %s: %s\n", what, why);
	if (write(2, whole, strlen(whole)) < 0)
		return; /* there is no other place to say it */
}

__attribute__((noreturn)) static void become(const char *state, const char *detail)
{
	int numbers[] = { link_fd, streams[IN].sink, streams[OUT].source, streams[ERR].source, start_pid };
	char texts[5][16];
	char *words[8] = { [5] = (char *)state, (char *)detail, facts };

	for (int i = 0; i < 5; i++) {
		if (i < 4 && numbers[i] >= 0)
			fcntl(numbers[i], F_SETFD, 0L);
		snprintf(texts[i], sizeof(texts[i]), "%d", numbers[i]);
		words[i] = texts[i];
	}
	_exit(become_foreground(words, 8));
}

/* -- the streams ------------------------------------------------------------------------------ */

static bool is_full(const struct stream *stream)
{
	return stream->at < stream->end;
}

/* End one: the other end of the source learns that nobody reads, the application of its input. */
static void finish(struct stream *stream)
{
	stream->at = stream->end = 0;
	if (stream == &streams[IN])
		close_fd(&stream->sink);
	if (stream->source > 2)
		close(stream->source);
	stream->source = -1;
}

static void begin_streams(const int *fds)
{
	for (int i = IN; i <= ERR; i++) {
		int fd = flags & 1 << i ? *fds++ : -1;
		struct stat about;

		streams[i].source = i == IN && fd >= 0 ? 0 : fd;
		streams[i].sink = i == IN ? fd : i;
		streams[i].paced = fstat(streams[i].sink, &about) < 0 || !S_ISREG(about.st_mode);
	}
}

/* Give on what fits of the block, or take the next one. */
static void copy(struct stream *stream)
{
	char *block = blocks[stream - streams];
	ssize_t size = (ssize_t)(stream->end - stream->at);

	if (is_full(stream)) {
		if (stream->paced && size > PACE)
			size = PACE;
		size = write(stream->sink, block + stream->at, (size_t)size);
		if (size >= 0) {
			stream->at += (size_t)size;
		} else if (errno != EAGAIN && errno != EINTR) {
			/* EPIPE, EIO: who reads has gone. Anything else nobody would hear of. */
			if (errno != EPIPE && errno != EIO && stream != &streams[IN])
				complain("warning: output of the container is lost", errno);
			finish(stream);
		}
	} else if (stream->source >= 0) {
		size = read(stream->source, block, BLOCK);
		if (size > 0) {
			stream->at = 0;
			stream->end = (size_t)size;
		} else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
			finish(stream);
		}
	}
}

/* Print the container's id, or what else there is to print; return the exit code. */
static int print(void)
{
	/* What is to be closed by execve is ours: the caller has closed it. */
	int out = fcntl(1, F_GETFD, 0L) & FD_CLOEXEC ? -1 : 1;
	struct pollfd writable = { out, POLLOUT, 0 };
	size_t size = strlen(text);

	if (size)
		text[size++] = '\n';
	while (size) {
		ssize_t given = write(out, text, size);

		if (given >= 0) {
			text += given;
			size -= (size_t)given;
		} else if (errno == EAGAIN || errno == EINTR) {
			poll(&writable, 1, -1);
		} else if (errno == EPIPE) {
			return 128 + SIGPIPE;
		} else {
			complain("cannot write to standard output", errno);
			return 125;
		}
	}
	return 0;
}

/* -- what happens ----------------------------------------------------------------------------- */

static void attend(const int *fds)
{
	flags = message[1];
	text = message + 2;
	facts = text + strlen(text) + 1;
	link_fd = fds[0];
	begin_streams(fds + 1);
	send(start_fd, "a", 1, MSG_NOSIGNAL);
	close_fd(&start_fd);
	attending = true;
	set_mask(old_mask | ALWAYS | (flags & FORWARD ? ~OURS : 0), NULL);
	listen_to(ALWAYS | (flags & FORWARD ? ENDING : 0));
	if (flags & TO_PYTHON)
		become("attend", "");
}

/* Read a message of the start process; false: it steps aside. */
static bool read_start_message(void)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec part = { message, sizeof(message) - 2 };
	struct msghdr header = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fds[4] = { -1, -1, -1, -1 };
	ssize_t size = recvmsg(start_fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *rights = size > 0 ? CMSG_FIRSTHDR(&header) : NULL;

	if (rights && rights->cmsg_type == SCM_RIGHTS)
		memcpy(fds, CMSG_DATA(rights), rights->cmsg_len - CMSG_LEN(0));
	if (size == 0)
		close_fd(&start_fd);
	else if (size > 0 && message[0] == 'A')
		attend(fds);
	else if (size > 0 && message[0] == 'S')
		return false;
	return true;
}

static void read_link_message(void)
{
	static char event[BLOCK];
	ssize_t size = read(link_fd, event, sizeof(event) - 1);

	if (size < 0)
		return; /* ECONNRESET comes once, before what the monitor has said last */
	if (size == 0) {
		close_fd(&link_fd);
		over |= begun; /* else the end of the start process tells more */
		return;
	}
	event[size] = 0;
	switch (event[0]) {
	case 'B':
		if (flags & DETACH) {
			send(link_fd, "D", 1, MSG_NOSIGNAL);
			_exit(print());
		}
		begun = true;
		if (flags & FORWARD)
			listen_to(ALWAYS | ~OURS);
		break;
	case 'F':
		become("failed", event + 1);
	case 'X':
		code = (unsigned char)event[1];
		over = true;
		finish(&streams[IN]); /* nobody is there any more */
		break;
	}
}

/* The start process has ended, and all its messages are read. */
static void handle_start_exit(void)
{
	if (!attending) { /* it has told why */
		waitpid(start_pid, NULL, 0);
		_exit(end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status);
	}
	if (!begun)
		become("gone", "");
	over = true;
}

/* End a start. The monitor would wait for us to read what is left in the pipes. A start process that
 * takes too long, or until the next signal, is killed: Python removes what it leaves. */
__attribute__((noreturn)) static void interrupt(int number)
{
	struct pollfd more = { signals, POLLIN, 0 };
	struct signalfd_siginfo info;
	char detail[16];

	shutdown(link_fd, SHUT_RDWR);
	close_fd(&link_fd);
	for (int i = IN; i <= ERR; i++)
		finish(&streams[i]);
	for (look(WNOHANG); end.si_pid == 0; look(WNOHANG)) {
		bool late = poll(&more, 1, PATIENCE) <= 0;

		if (late || (read(signals, &info, sizeof(info)) == sizeof(info) && info.ssi_signo != SIGCHLD))
			kill(start_pid, SIGKILL);
	}
	snprintf(detail, sizeof(detail), "%d", number);
	become("interrupted", detail);
}

/* Stop with the start process. By SIGTSTP: the kernel disobeys where nobody could continue us. */
static void stop(void)
{
	kill(start_pid, SIGSTOP);
	kill(getpid(), SIGTSTP);
	set_mask(AT_FIRST & ~BIT(SIGTSTP), NULL);
	set_mask(AT_FIRST, NULL);
	kill(start_pid, SIGCONT);
}

/* End the command as Docker's, for a user who cannot end the application by a key. */
__attribute__((noreturn)) static void give_up(void)
{
	static const char why[] = "rless: the third SIGINT or SIGTERM ends the command\n";

	_exit(write(2, why, sizeof(why) - 1) < 0 ? 125 : 1);
}

/* Pass a signal on. With KEYS the application is as a child of the caller: a key of the terminal is
 * for all processes of its group, or a shell waits for its program, which has heard nothing. */
static void forward(const struct signalfd_siginfo *info)
{
	bool key = flags & KEYS && info->ssi_code == SI_KERNEL;

	send(link_fd, (char[]){ 'K', (char)info->ssi_signo, 1 }, key ? 3 : 2,
	     MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void take_signal(void)
{
	struct signalfd_siginfo info;
	static int given_up; /* signals by which a user wants the end */
	int number;

	if (read(signals, &info, sizeof(info)) != sizeof(info))
		return;
	number = (int)info.ssi_signo;
	if (number == SIGCHLD)
		look(WNOHANG);
	else if (number == SIGPIPE)
		return;
	else if (begun && (number == SIGINT || number == SIGTERM) && ++given_up == 3)
		give_up();
	else if (begun)
		forward(&info);
	else if (attending)
		interrupt(number);
	else if (number == SIGTSTP)
		stop();
	else if (number != SIGWINCH && number != SIGURG)
		kill(start_pid, number);
}

/* Follow the start process and the container; return if the start process steps aside. */
static void follow(void)
{
	while (!over || streams[OUT].source >= 0 || streams[ERR].source >= 0) {
		struct pollfd fds[6] = { { link_fd, POLLIN, 0 }, { start_fd, POLLIN, 0 },
					 { signals, POLLIN, 0 } };
		int ready;

		for (int i = IN; i <= ERR; i++) {
			fds[3 + i].fd = is_full(&streams[i]) ? streams[i].sink : streams[i].source;
			fds[3 + i].events = is_full(&streams[i]) ? POLLOUT : POLLIN;
		}
		ready = poll(fds, 6, end.si_pid && !over ? 0 : -1);
		if (ready == 0)
			handle_start_exit();
		if (ready <= 0)
			continue;
		if (fds[0].revents)
			read_link_message();
		if (fds[1].revents && !read_start_message())
			return;
		if (fds[2].revents)
			take_signal();
		for (int i = IN; i <= ERR; i++)
			if (fds[3 + i].revents)
				copy(&streams[i]);
	}
	if (code < 0)
		become("killed", "");
	waitpid(start_pid, NULL, 0); /* not only looked at: its processor time is ours to show */
	_exit(code);
}

int fork_start_process(void)
{
	pid_t self = getpid();
	int pair[2], fd;

	/* Nothing of ours gets the number of a standard descriptor; Python finds them closed. */
	do
		fd = openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= 2);
	if (fd < 0 || syscall(SYS_socketpair, (long)AF_UNIX,
			      (long)(SOCK_SEQPACKET | SOCK_CLOEXEC), 0L, pair, 0L, 0L) < 0)
		return -1;
	close(fd);
	for (int i = IN; i <= ERR; i++)
		streams[i].source = streams[i].sink = -1;
	signal(SIGCHLD, SIG_DFL); /* ignored, it would take the exit code with it */
	set_mask(AT_FIRST, &old_mask);
	if (listen_to(AT_FIRST) >= 0 && (start_pid = fork()) >= 0) {
		if (start_pid == 0) {
			syscall(SYS_setsid, 0L, 0L, 0L, 0L, 0L, 0L);
			prctl(PR_SET_PDEATHSIG, (long)SIGKILL);
			if (syscall(SYS_getppid, 0L, 0L, 0L, 0L, 0L, 0L) != self)
				_exit(125);
			set_mask(old_mask | BIT(SIGINT), NULL); /* as `main` of the launcher */
			fcntl(pair[1], F_SETFD, 0L);
			return pair[1];
		}
		close(pair[1]);
		start_fd = pair[0];
		follow();
		waitpid(start_pid, NULL, 0);
	}
	set_mask(old_mask, NULL);
	return -1;
}
