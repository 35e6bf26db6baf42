/* Whether it is started again, and when. */
#include "monitor.h"

enum {
	FIRST_DELAY = 100, /* ms before the first restart; each one doubles it */
	LONGEST_DELAY = 60000,
	LONG_RUN = 10000,  /* ms after which the delay begins anew */
};

struct restart restart;

/* Set the restart policy that a JSON object of ours names. */
void change_policy(const char *said)
{
	const char *name = strstr(said, "\"name\":"), *most = strstr(said, "\"max\":"), *end;

	if (!name)
		return;
	name += 7;
	while (*name == ' ' || *name == '"')
		name++;
	for (end = name; *end && *end != '"';)
		end++;
	snprintf(restart.policy, sizeof(restart.policy), "%.*s", (int)(end - name), name);
	restart.most = most ? to_number(most + 6) : 0;
}

/* No restart any more: the one that was due will not be. */
void stop_restarts(void)
{
	snprintf(restart.policy, sizeof(restart.policy), "no");
	if (restart.at) {
		restart.at = 0;
		record_exit(false);
		me.done = true;
	}
}

/* systemd ends the session, or the machine: stop the container, but not as the user does. */
void terminate(void)
{
	char said[128];
	long long limit = config.stop_timeout;

	if (read(me.term_fd, said, sizeof(said)) < 0)
		return;
	me.terminated = true;
	stop_restarts();
	signal_init((int)config.stop_signal);
	if (limit >= 0)
		me.kill_at = now() + limit * 1000;
}

/* Tell whether the policy starts it again; if so, when. */
bool schedule_restart(void)
{
	bool wanted = strcmp(restart.policy, "always") == 0 ||
		      strcmp(restart.policy, "unless-stopped") == 0 ||
		      (strcmp(restart.policy, "on-failure") == 0 && me.code != 0 &&
		       (restart.most == 0 || restart.count < restart.most));

	if (!wanted || config.remove || me.terminated || me.failed)
		return false;
	if (restart.delay == 0 || now() - me.begun >= LONG_RUN)
		restart.delay = FIRST_DELAY;
	else
		restart.delay = restart.delay * 2 < LONGEST_DELAY ? restart.delay * 2
								  : LONGEST_DELAY;
	restart.count++;
	restart.at = now() + restart.delay;
	return true;
}

void start_again(void)
{
	bool slow = false;

	for (int i = 0; i < CLIENTS; i++)
		slow |= is_open(&clients[i]) && has_backlog(&clients[i]);
	if (slow && fork() == 0) {
		close_fd(&me.listener_fd);
		close_fd(&me.member_fd);
		restart.at = 0;
		drain();
		_exit(0);
	}
	for (int i = 0; i < CLIENTS; i++)
		if (is_open(&clients[i]) && has_backlog(&clients[i]))
			close_client(&clients[i]); /* they are the child's now */
	fcntl(me.config_fd, F_SETFD, 0);
	fcntl(me.listener_fd, F_SETFD, 0);
	for (int i = 0; i < config.lock_fds.count; i++)
		fcntl((int)to_number(config.lock_fds.values[i]), F_SETFD, 0);
	fcntl(me.member_fd, F_SETFD, 0);
	fcntl(config.python_fd, F_SETFD, 0);
	become_python("restart", true);
	stop_restarts(); /* there is no interpreter any more */
}
