/* The loop: wait for events, act, come to the end. */
#include "monitor.h"

#include <link.h>

extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

enum { LONGEST_POLL = 1 << 30 }; /* ms: poll(2) takes an int */
#define LAST_WORDS (2LL << 20) /* bytes read of a stream after the end: all that a pipe holds */

/* What is polled, and what each event is about: a client, a rank, a stream. */
static struct pollfd polls[11 + 4 * CLIENTS + RANKS];
static struct {
	enum { INIT, TERM, ORPHAN, LISTENER, MESSAGE, READER, TYPE, STATUS, SOURCE, INPUT, HEALTH, MEMORY,
	       RANK } what;
	int who, stream;
} topics[11 + 4 * CLIENTS + RANKS];
static int watched;

static void watch(int fd, short events, int what, int who, int stream)
{
	polls[watched] = (struct pollfd){ .fd = fd, .events = events };
	topics[watched].what = what;
	topics[watched].who = who;
	topics[watched++].stream = stream;
}

static void watch_client(int who)
{
	struct client *client = &clients[who];

	watch(client->fd, POLLIN, MESSAGE, who, 0); /* first: a farewell comes before its pipes end */
	for (int stream = OUT; stream <= ERR; stream++) {
		struct sink *sink = &client->sinks[stream];

		if (sink->fd >= 0) /* without events: poll tells when the reader has gone */
			watch(sink->fd, sink->at < sink->end || sink->todo ? POLLOUT : 0, READER,
			      who, stream);
	}
	if (client->in >= 0 && typed.at == typed.end && !me.ended) {
		if (me.pty_fd < 0 && me.stdin_fd < 0)
			close_fd(&client->in); /* nobody is there to read it: let that be known */
		else
			watch(client->in, POLLIN, TYPE, who, 0);
	}
}

static void watch_all(void)
{
	watched = 0;
	if (!me.ended && me.init_fd >= 0)
		watch(me.init_fd, POLLIN, INIT, 0, 0);
	if (me.term_fd >= 0)
		watch(me.term_fd, POLLIN, TERM, 0, 0);
	if (me.child_fd >= 0)
		watch(me.child_fd, POLLIN, ORPHAN, 0, 0);
	for (int i = 0; i < CLIENTS; i++)
		if (is_open(&clients[i]))
			watch_client(i);
	if (me.status_fd >= 0) /* after the clients: nothing starts for one that has gone */
		watch(me.status_fd, POLLIN, STATUS, 0, 0);
	for (int stream = OUT; stream <= ERR; stream++)
		if (me.sources[stream] >= 0 && chunk.size == 0)
			watch(me.sources[stream], POLLIN, SOURCE, 0, stream);
	if (typed.at < typed.end && (me.pty_fd >= 0 || me.stdin_fd >= 0))
		watch(me.pty_fd >= 0 ? me.pty_fd : me.stdin_fd, POLLOUT, INPUT, 0, 0);
	else if (me.stdin_fd >= 0)
		watch(me.stdin_fd, 0, INPUT, 0, 0);
	if (me.health_fd >= 0)
		watch(me.health_fd, POLLIN, HEALTH, 0, 0);
	if (me.oom_fd >= 0 && !me.out_of_memory)
		watch(me.oom_fd, POLLPRI, MEMORY, 0, 0);
	for (int i = 0; i < RANKS && has_joined(); i++)
		if (ranks[i] >= 0)
			watch(ranks[i], POLLIN, RANK, i, 0);
	if (me.listener_fd >= 0 && free_place())
		watch(me.listener_fd, POLLIN, LISTENER, 0, 0); /* last: it reuses places */
}

static void act(int index)
{
	int who = topics[index].who, stream = topics[index].stream;
	struct client *client = &clients[who < CLIENTS ? who : 0];

	switch (topics[index].what) {
	case INIT:
		me.ended = true;
		break;
	case TERM:
		terminate();
		break;
	case ORPHAN:
		reap_orphans();
		break;
	case MESSAGE:
		if (is_open(client))
			read_message(client);
		break;
	case READER:
		if (client->sinks[stream].fd != polls[index].fd)
			break;
		if (polls[index].revents & POLLERR)
			lose_reader(client, stream);
		else
			give(client, stream);
		break;
	case TYPE:
		if (client->in == polls[index].fd && typed.at == typed.end)
			take_input(client);
		break;
	case STATUS:
		read_status();
		break;
	case SOURCE:
		if (me.sources[stream] >= 0 && chunk.size == 0)
			take(stream);
		break;
	case INPUT:
		if (polls[index].revents & POLLERR && me.pty_fd < 0)
			close_fd(&me.stdin_fd);
		pass_input();
		break;
	case HEALTH:
		end_health();
		break;
	case MEMORY:
		check_memory();
		break;
	case RANK:
		lose_rank(who);
		break;
	case LISTENER:
		accept_client();
		break;
	}
}

static int sooner(int timeout, long long at)
{
	long long left = at - now();

	if (at == 0)
		return timeout;
	left = left < 0 ? 0 : left < LONGEST_POLL ? left : LONGEST_POLL;
	return timeout < 0 || left < timeout ? (int)left : timeout;
}

/* Give back the pages of this program that the start has needed; what is needed again comes back
 * from the page cache. With a libc of 0.7 MB (glibc's) an idle monitor takes 0.3 MB, not 0.75. */
static void release_pages(void)
{
	const ElfW(Phdr) *part = (const void *)((const char *)&__ehdr_start + __ehdr_start.e_phoff);

	while (part->p_type != PT_LOAD || !(part->p_flags & PF_W))
		part++; /* what is mapped before the first one to write to is as the file has it */
	madvise((void *)&__ehdr_start, part->p_vaddr & -(uintptr_t)sysconf(_SC_PAGESIZE),
		MADV_DONTNEED);
}

/* Wait for one round of events and handle them. */
void poll_once(bool block)
{
	static bool trimmed;
	int timeout = -1;

	watch_all();
	if (!trimmed && me.status_fd < 0) {
		trimmed = true;
		release_pages();
	}
	if (chunk.size && now() - chunk.since < GRACE)
		timeout = sooner(timeout, chunk.since + GRACE);
	timeout = sooner(timeout, restart.at);
	if (!me.ended)
		timeout = sooner(sooner(timeout, me.health_at), me.kill_at);
	if (poll(polls, watched, block ? timeout : 0) > 0)
		for (int i = 0; i < watched; i++)
			if (polls[i].revents)
				act(i);
	if (chunk.size)
		deliver();
}

/* Take what a stream still held at the end; false: that was all. Others may write for ever. */
static bool take_last(int stream)
{
	static long long taken[2];

	if (me.sources[stream] < 0 || taken[stream] >= LAST_WORDS || !take(stream))
		return false;
	taken[stream] += took;
	return true;
}

/* Give the last words to all, and note the end; then the choice: again, or never. */
static void end_run(void)
{
	int status = 0;

	if (me.init > 0) {
		waitpid(me.init, &status, 0);
		me.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	close_fd(&me.init_fd);
	end_start();
	check_memory();
	if (me.health_fd >= 0) {
		kill(me.health, SIGKILL);
		end_health();
	}
	bool again = schedule_restart();

	record_exit(again);
	event("die");
	/* What other processes that outlive it may still write is not waited for. */
	while (chunk.size || take_last(OUT) || take_last(ERR))
		if (chunk.size)
			poll_once(true);
	log_end();
	for (int stream = OUT; stream <= ERR; stream++)
		if (me.sources[stream] != me.pty_fd)
			close_fd(&me.sources[stream]);
	hang_up();
	close_fd(&me.stdin_fd);
	me.sources[OUT] = me.sources[ERR] = -1;
	me.done = !again;
}

void run(void)
{
	while (!me.done) {
		if (me.ended && !me.drained) {
			me.drained = true;
			end_run();
			if (!me.done) {
				end_cgroup();
				tell_end();
			}
			continue;
		}
		if (restart.at && now() >= restart.at)
			start_again();
		if (me.health_at && now() >= me.health_at && !me.ended)
			begin_health();
		if (me.kill_at && now() >= me.kill_at && !me.ended) {
			me.kill_at = 0;
			signal_init(SIGKILL);
		}
		if (!me.done)
			poll_once(true);
	}
	clean_up();
	close_fd(&me.listener_fd);
	tell_end();
	drain();
}
