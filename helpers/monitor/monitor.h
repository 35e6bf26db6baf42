/*
 * What the files of rless-monitor share; main.c says what the program does.
 */
#ifndef MONITOR_H
#define MONITOR_H

#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <linux/fs.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config.h"

enum {
	CHUNK = 65536, /* bytes read at once: the longest frame of a log */
	LINE = 16384,  /* bytes of the longest line of a log, as in Docker */
	CLIENTS = 64,  /* more wait to be accepted */
	GRACE = 100,   /* ms that a slow client may hold up all */
	RANKS = 1024,  /* processes that have joined */
};

enum { OUT, ERR };

enum { UNTIL_BEGUN = 2 }; /* stop_on_disconnect: not for longer; 1: until it lets go */

_Static_assert(LONGEST_LIST >= CLIENTS, "their connections are a list");

struct sink {
	int fd;            /* the client's pipe; -1: none */
	int spill;         /* the file of its backlog; -1: none was needed yet */
	long long at, end; /* the backlog: offsets in that file */
	long long holes;   /* up to here its space was given back */
	size_t todo;       /* bytes of the chunk that it has not taken yet */
};

struct client {
	int fd;            /* its connection; -1: this place is free */
	int in;            /* its pipe for standard input; -1: none */
	struct sink sinks[2];
	bool attached;
	bool starter;      /* it has started the container, and is told whether that worked */
	bool stop_on_disconnect;        /* and its end is the container's */
};

extern struct monitor {
	char name[256];
	int dir;               /* the container's directory */
	int config_fd, listener_fd;
	int member_fd;         /* the connection that is its place in networks; -1: none */
	pid_t init, pasta, health;
	int init_fd, health_fd, oom_fd;
	int status_fd;         /* the pipe that init closes by execve; -1: it runs */
	int release_fd;        /* the pipe at which init waits to be released; -1: it was */
	int term_fd;           /* a signalfd of SIGTERM */
	int child_fd;          /* a signalfd of SIGCHLD, if orphans may come to us; else -1 */
	uint64_t asked;        /* signals that came before it runs, as bits */
	int stdin_fd, pty_fd;  /* the application's standard input, or its terminal */
	int sources[2];        /* what it writes; the terminal is OUT */
	int code;              /* the exit code, once `ended` */
	bool terminated, ended, drained, done, out_of_memory;
	bool ready, failed;    /* what became of the start */
	long long begun, health_at, kill_at;
	rlim_t core;
} me;

extern struct restart {
	char policy[16];
	long long most, count, delay, at; /* at: when it is due; 0: it is not */
} restart;

extern struct logs {
	enum { LOG_NONE, LOG_LOCAL, LOG_JSON, LOG_JOURNAL } driver;
	int fd, files;
	long long limit, size, lost, buffered;
	bool stuck; /* the journal takes nothing */
} logs;

extern struct client clients[CLIENTS];

/* What was read of a stream last, until all have it. */
extern struct chunk {
	int stream;
	size_t size;
	long long since; /* when it was read */
	char data[CHUNK];
} chunk;
extern ssize_t took; /* bytes of the last chunk */

/* What a client has typed, until the application takes it. */
extern struct typed {
	size_t at, end;
	char data[CHUNK];
} typed;

extern char spare[CHUNK];

/* config.c: what this program is told (config.h) */
long long to_number(const char *text);
unsigned read_config(int fd);

/* signals.c: signals to init, and those that come to us */
int signal_init(int number);
int signal_group(int number);
void begin_signals(void);
void block_signals(bool block);
void set_signal(int number, void (*handler)(int));
int signal_fd(int number);

/* start.c: what init says until it is the application */
void read_status(void);
void end_start(void);
void give_up_start(void);

/* log.c: the log: one record or none of it, whatever the disk says */
const char *stamp(void);
bool log_append(struct iovec *parts, int count);
void log_write(int stream, const char *data, size_t size);
void log_end(void);
void log_begin(void);

/* log_json.c: lines as Docker's json-file has them */
void json_flush(void);
void json_line(int stream, const char *bytes, size_t size);

/* log_journal.c: lines to the journal, by systemd's native protocol */
bool journal_line(int stream, const char *data, size_t size);

/* record.c: what is told: exit.json, the ends of processes of exec, events */
void record_exit(bool again);
void record_exec(void);
void event(const char *action);
void check_memory(void);

/* python.c: Python's work: health checks, anonymous volumes, starting again */
void become_python(const char *verb, bool keep);
void be_child(const char *verb);
void begin_health(void);
void end_health(void);

/* cleanup.c: taking away what was made */
void reap_orphans(void);
void end_cgroup(void);
void clean_up(void);

/* streams.c: what the application writes and reads, to and from the clients */
void close_sink(struct sink *sink);
bool has_backlog(const struct client *client);
void lose_reader(struct client *client, int stream);
void give(struct client *client, int stream);
bool deliver(void);
bool take(int stream);
void hang_up(void);
void pass_input(void);
void take_input(struct client *client);

/* clients.c: connections: who comes, what they ask, what they are told */
bool is_open(const struct client *client);
void close_client(struct client *client);
void read_message(struct client *client);
struct client *free_place(void);
void accept_client(void);
void tell_end(void);
void drain(void);
void tell_starter(const char *said, size_t size);
void tell_begun(void);
void begin_client(void);

/* ranks.c: the processes that have joined; -1: a free place */
extern int ranks[RANKS];
void begin_ranks(void);
bool has_joined(void);
int join_rank(int pidfd);
void lose_rank(int i);
void signal_ranks(int number);
void end_ranks(void);

/* restart.c: whether it is started again, and when */
void change_policy(const char *said);
void stop_restarts(void);
void terminate(void);
bool schedule_restart(void);
void start_again(void);

/* loop.c: the loop: wait for events, act, come to the end */
void poll_once(bool block);
void run(void);

/* -- small things ------------------------------------------------------------------------ */

static inline long long now(void) /* ms that never jump */
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A pipe or terminal of our own; it shares its description with nobody, so this hurts nobody. */
static inline void never_wait(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (fd >= 0 && flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static inline int pidfd_of(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

#endif
