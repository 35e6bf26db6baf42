/* Python's work: health checks, anonymous volumes, starting again. */
#include "monitor.h"

enum { SEARCHING = 2 }; /* exit status of the health runner: the application still starts */

/* Become Python for `verb`; with `keep` the connections stay, since what clients have said but we
 * have not heard is said to whoever comes back. */
void become_python(const char *verb, bool keep)
{
	char *argv[LONGEST_LIST + 7];
	char *const *environment = (char *const *)config.environment.values;
	char fd[16], count[24], delay[24], connections[8 * CLIENTS] = "";
	int used = 0;
	size_t size = 0;
	struct rlimit core;

	for (; used < config.python.count; used++)
		argv[used] = (char *)config.python.values[used];
	snprintf(fd, sizeof(fd), "%d", me.config_fd);
	snprintf(count, sizeof(count), "%lld", restart.count);
	snprintf(delay, sizeof(delay), "%lld", restart.delay);
	argv[used++] = (char *)verb;
	argv[used++] = (char *)config.id;
	argv[used++] = fd;
	argv[used++] = count;
	argv[used++] = delay;
	argv[used++] = connections;
	argv[used] = NULL;
	for (int i = 0; keep && i < CLIENTS; i++)
		if (clients[i].fd >= 0 && fcntl(clients[i].fd, F_SETFD, 0) == 0)
			size += snprintf(connections + size, sizeof(connections) - size, "%d,",
					 clients[i].fd);
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		core.rlim_cur = me.core; /* ours is 0, the container's is not */
		setrlimit(RLIMIT_CORE, &core);
	}
	if (!keep) /* else a SIGTERM waits for who comes back, too */
		block_signals(false);
	syscall(SYS_execveat, config.python_fd, "", argv, environment, AT_EMPTY_PATH);
	execve(argv[0], argv, environment); /* no descriptor: it is not ours to write */
}

/* Become Python in a child, which ends with us. */
void be_child(const char *verb)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	for (int sign = 1; sign < NSIG; sign++)
		set_signal(sign, SIG_DFL);
	fcntl(me.config_fd, F_SETFD, 0);
	become_python(verb, false);
	_exit(127);
}

void begin_health(void)
{
	me.health = fork();
	if (me.health == 0)
		be_child("health");
	me.health_at = 0;
	me.health_fd = me.health > 0 ? pidfd_of(me.health) : -1;
	if (me.health_fd < 0)
		me.health_at = now() + config.health_interval;
}

void end_health(void)
{
	int status = 0;

	waitpid(me.health, &status, 0);
	close_fd(&me.health_fd);
	me.health_at = now() + (WIFEXITED(status) && WEXITSTATUS(status) == SEARCHING ?
				config.health_start_interval :
				config.health_interval);
}
