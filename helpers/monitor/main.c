/*
 * rless-monitor: what stays with a container for as long as it runs.
 *
 * Usage: rless-monitor ORDERS
 *
 * ORDERS is the number of a descriptor: a memfd of KEY NUL VALUE NUL ..., written by
 * rootless/engine/monitor/execute.py. The process was Python until init was on its way, and became
 * this program by execve: it is init's parent, root of the engine's user namespace by
 * capabilities, and holds the mount and network namespace.
 *
 * It hears by `status` that init is ready, notes the start and opens the `gate`, unless the process
 * has done so before it became this program (`ready`); what comes by `status` after that tells
 * whether the application runs.
 *
 * It copies what the application writes to the log and to every client, and what clients type to
 * the application. It waits for the end, notes it, and takes away what was made; or it waits a
 * while and has Python start the container again, in the same namespaces.
 *
 * Clients connect to the socket `monitor` in the container's directory; one message a datagram:
 *
 *   A flags [in] out err   attach: descriptors of pipes come with it; flag 1: `in` is one of them
 *   J pidfd                (--join) a process that has joined: it is signalled in place of init,
 *                          and the container ends with the last one   answer: j errno
 *   W rows columns         resize the terminal (u16, little endian)
 *   K number               signal init     answer: k errno; EAGAIN: once it is the application
 *   S                      the user stops it: no restart
 *   U {"restart": {...}}   another restart policy
 *   N name                 it has another name now
 *   D                      it leaves; the end of who started the container is else the end,
 *                          always (leash 1) or until the application runs (leash 2)
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

/* The keeper of a process of `exec -d`: wait for it, and note its end. Or (keep is 0) hold its
 * terminal, which the kernel hangs up with its last master, and take what is written to it. */
static void keep(pid_t pid)
{
	struct pollfd fds[2] = { { .fd = me.init_fd, .events = POLLIN },
				 { .fd = me.pty, .events = POLLIN } };
	int status = 0;

	while (!fds[0].revents && poll(fds, 2, -1) >= 0)
		if (fds[1].revents && read(me.pty, spare, CHUNK) <= 0)
			fds[1].fd = -1;
	if (pid <= 0 || waitpid(pid, &status, 0) < 0)
		return;
	me.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	event("exec_die");
}

static void begin(int fd)
{
	struct rlimit core;
	const char *cgroup;

	for (int number_ = 1; number_ < NSIG; number_++)
		set_signal(number_, number_ == SIGCHLD ? SIG_DFL : SIG_IGN);
	syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
	prctl(PR_SET_NAME, "rless-monitor", 0, 0, 0);
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		me.core = core.rlim_cur;
		core.rlim_cur = 0;
		setrlimit(RLIMIT_CORE, &core);
	}
	read_orders(fd);
	me.orders = fd;
	me.id = text("id");
	me.live = text("live");
	me.names = text("names");
	me.cgroup = cgroup = text("cgroup");
	me.mount = text("mount");
	snprintf(me.name, sizeof(me.name), "%s", text("name"));
	me.dir = openat(AT_FDCWD, text("directory"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	me.listener = (int)number("listener", -1);
	me.member = (int)number("member", -1);
	me.init = (pid_t)number("init", 0);
	me.init_fd = (int)number("init_fd", -1);
	me.pasta = (pid_t)number("pasta", 0);
	me.in = (int)number("in", -1);
	me.pty = (int)number("pty", -1);
	me.sources[OUT] = me.pty >= 0 ? me.pty : (int)number("out", -1);
	me.sources[ERR] = (int)number("err", -1);
	me.code = (int)number("code", 0);
	me.remove = number("remove", 0);
	me.stdin_once = number("stdin_once", 0);
	me.ended = me.init == 0;
	me.begun = now();
	me.ready = number("ready", 0); /* who became us has waited for the network, and let init go */
	me.starting = (int)number("status", -1);
	me.gate = (int)number("gate", -1);
	me.health_fd = me.oom_fd = -1;
	block_signals(true);
	me.term_fd = signal_fd(SIGTERM);
	me.child_fd = number("orphans", 0) ? signal_fd(SIGCHLD) : -1;
	if (next_order("health_interval", NULL))
		me.health_at = now() + number("health_first", number("health_interval", 30000));
	snprintf(restart.policy, sizeof(restart.policy), "%s", text("restart"));
	restart.most = number("restart_most", 0);
	restart.count = number("restarts", 0);
	restart.delay = number("delay", 0);
	log_begin();
	never_wait(me.starting);
	never_wait(me.in);
	never_wait(me.pty);
	never_wait(me.sources[OUT]);
	never_wait(me.sources[ERR]);
	if (*me.cgroup) {
		char path[4096];

		snprintf(path, sizeof(path), "%s/memory.events", cgroup);
		me.oom_fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 70;
	begin((int)to_number(argv[1]));
	if (next_order("keep", NULL)) {
		keep((pid_t)number("keep", 0));
		return 0;
	}
	begin_client();
	begin_ranks();
	if (number("begun", 0)) /* --explain: Python has opened the gate itself, to look */
		tell_begun();
	run();
	return me.code; /* systemd's Restart=on-failure looks at it */
}
