/*
 * rless-monitor: what stays with a container for as long as it runs.
 *
 * Usage: rless-monitor FD
 *
 * FD is a memfd with the config (config.h), which rootless/engine/monitor/execute.py has written.
 * The process was Python until init had been cloned, and became this program by execve: it is
 * init's parent, root of the engine's user namespace by capabilities, and holds the mount and
 * network namespaces. With the config of a keeper it is the parent of a process of `exec`.
 *
 * It reads from status_fd that init is ready, records the start and releases init by release_fd,
 * unless Python has done so. What status_fd brings then tells whether the application runs.
 *
 * It copies what the application writes to the log and to every client, and what clients type to
 * the application. It waits for the end, records it, and takes away what was made; or it waits a
 * while and has Python start the container again, in the same namespaces.
 *
 * Clients connect to the socket `monitor` in the container's directory; one message a datagram:
 *
 *   A flags [in] out err   attach: descriptors of pipes come with it; flag 1: `in` is one of them
 *   J pidfd                (--join) a process that has joined: it is signalled in place of init,
 *                          and the container ends with the last one   answer: j errno
 *   W rows columns         resize the terminal (u16, little endian)
 *   K number [1]           signal init, or (1) its process group
 *                          answer: k errno; EAGAIN: once it is the application
 *   S                      the user stops it: no restart
 *   U {"restart": {...}}   another restart policy
 *   N name                 it has another name now
 *   D                      it leaves. Else the end of who started the container is the
 *                          container's: always, or until the application runs
 *
 * and every client gets X and the exit code (u32) at the end. A is answered by `a errno`. Who
 * started the container is its first client, and before that is told once:
 *
 *   B                      begun: the application runs
 *   F [message,hint,code]  (JSON) the start has failed: no restart comes after it
 *
 * No byte of output is lost or doubled. A client that is slow holds the others up for GRACE;
 * after that its backlog goes to an unlinked file. Where that is full, the application waits if
 * there is no other reader, else the client is cut off.
 *
 * Static, without malloc and stdio: a thousand of these may idle on a login node.
 */
#include "monitor.h"

struct monitor me;

/* The keeper of a process of `exec`: wait for it, and record its end. Or (pid is 0) hold its
 * terminal, which the kernel hangs up with its last master, and take what is written to it once
 * nobody else does. */
static void keep(pid_t pid)
{
	struct pollfd fds[2] = { { .fd = config.init_fd, .events = POLLIN },
				 { .fd = config.client_fd, .events = POLLIN } };
	int status = 0;

	if (fds[1].fd < 0)
		fds[1].fd = config.pty_fd;
	while (!fds[0].revents && poll(fds, 2, -1) >= 0)
		if (fds[1].revents && read(fds[1].fd, spare, CHUNK) <= 0)
			fds[1].fd = fds[1].fd == config.pty_fd ? -1 : config.pty_fd;
	if (pid <= 0 || waitpid(pid, &status, 0) < 0)
		return;
	me.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (*config.directory) {
		me.dir = openat(AT_FDCWD, config.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		record_exec();
	}
	event("exec_die");
}

/* Forget the caller, and read the config; return whose it is. */
static unsigned begin(int fd)
{
	struct rlimit core;

	for (int number = 1; number < NSIG; number++)
		set_signal(number, number == SIGCHLD ? SIG_DFL : SIG_IGN);
	syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
	prctl(PR_SET_NAME, "rless-monitor", 0, 0, 0);
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		me.core = core.rlim_cur;
		core.rlim_cur = 0;
		setrlimit(RLIMIT_CORE, &core);
	}
	me.config_fd = fd;
	return read_config(fd);
}

static void begin_monitor(void)
{
	me.dir = openat(AT_FDCWD, config.directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	me.listener_fd = config.listener_fd;
	me.member_fd = config.member_fd;
	me.init = (pid_t)config.init;
	me.init_fd = config.init_fd;
	me.pasta = (pid_t)config.pasta;
	me.stdin_fd = config.stdin_fd;
	me.pty_fd = config.pty_fd;
	me.sources[OUT] = me.pty_fd >= 0 ? me.pty_fd : config.stdout_fd;
	me.sources[ERR] = config.stderr_fd;
	me.code = (int)config.code;
	me.ended = me.init == 0;
	me.begun = now();
	me.status_fd = config.status_fd;
	me.release_fd = config.release_fd;
	me.ready = me.release_fd < 0;
	me.health_fd = me.oom_fd = -1;
	block_signals(true);
	me.term_fd = signal_fd(SIGTERM);
	me.child_fd = config.orphans ? signal_fd(SIGCHLD) : -1;
	if (config.health_first)
		me.health_at = now() + config.health_first;
	snprintf(restart.policy, sizeof(restart.policy), "%s", config.restart);
	restart.most = config.restart_max;
	restart.count = config.restarts;
	restart.delay = config.restart_delay;
	log_begin();
	never_wait(me.status_fd);
	never_wait(me.stdin_fd);
	never_wait(me.pty_fd);
	never_wait(me.sources[OUT]);
	never_wait(me.sources[ERR]);
	if (*config.cgroup) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/memory.events", config.cgroup);
		me.oom_fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	}
}

int main(int argc, char **argv)
{
	unsigned program;

	if (argc != 2)
		return 70;
	program = begin((int)to_number(argv[1]));
	snprintf(me.name, sizeof(me.name), "%s", config.name);
	if (program == KEEPER) {
		keep((pid_t)config.child);
		return 0;
	}
	begin_monitor();
	begin_client();
	begin_ranks();
	if (config.begun) /* --explain: Python has let init go itself, to look */
		tell_begun();
	run();
	return me.code; /* systemd's Restart=on-failure looks at it */
}
