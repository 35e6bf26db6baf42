/*
 * What this program is told, as rootless/engine/monitor/config.py has it.
 *
 * Made by scripts/monitor-config, and not to be edited; a test keeps it current.
 */
#ifndef CONFIG_H
#define CONFIG_H

#include <stdbool.h>

enum { MONITOR = 1, KEEPER = 2 }; /* whose config it is */

#define LONGEST_LIST 64

struct list {
	int count;
	const char *values[LONGEST_LIST + 1]; /* ends with NULL */
};

extern struct config {
	const char *log; /* local, json-file, journald, none */
	long long log_size; /* bytes */
	long long log_files;
	const char *journal; /* its socket */
	const char *journal_fields; /* lines NAME=VALUE */
	long long health_first; /* ms until the first check; 0: there is none */
	long long health_start_interval; /* ms between checks while the application starts */
	long long health_interval; /* ms */
	const char *id; /* of the container */
	const char *name;
	const char *directory; /* of the container */
	const char *attributes; /* of its events: JSON without the braces and the name */
	const char *run_record; /* its path */
	const char *names; /* the directory of names */
	const char *events; /* the file that events are appended to */
	const char *started; /* seconds since 1970; "": not yet */
	bool remove; /* the container, when it has ended */
	bool remove_volumes; /* its anonymous volumes, too */
	const char *cgroup; /* its directory; "": none */
	struct list mounts; /* where its root and its overlays are mounted */
	struct list lock_fds; /* held while the root is mounted */
	struct list helper_pids; /* children that serve the mounts */
	long long pasta; /* its pid; 0: none */
	bool wait_pasta; /* until it has ended: it holds published ports */
	int member_fd; /* the connection that is its place in networks */
	bool orphans; /* of the application come to the monitor */
	int listener_fd; /* where clients connect */
	int stdin_fd; /* the monitor's ends of the application's pipes */
	int stdout_fd;
	int stderr_fd;
	bool stdin_once; /* it ends with the first client's */
	int client_fd; /* the first client, which has started the container, and its pipes */
	int client_stdin_fd;
	int client_stdout_fd;
	int client_stderr_fd;
	long long stop_on_disconnect; /* that client's end is the container's: 1 always, 2 until it has begun */
	struct list connection_fds; /* clients that have waited for a restart */
	const char *restart; /* no, on-failure, always, unless-stopped */
	long long restart_max; /* restarts after a failure; 0: no limit */
	long long restarts; /* so far */
	long long restart_delay; /* ms before the last one */
	long long stop_signal;
	long long stop_timeout; /* seconds; -1: for ever */
	long long join_timeout; /* ms until the first process has joined (--join); 0: none may */
	struct list python; /* the words that start the interpreter */
	int python_fd; /* to execute it by; -1: by its path */
	struct list environment; /* of the interpreter */
	long long code; /* the exit code, where init is 0: it could not be started again */
	const char *error; /* the reason: a JSON string; "": none */
	long long init; /* its pid */
	int init_fd; /* its pidfd */
	int pty_fd; /* the application's terminal */
	int status_fd; /* the pipe by which init tells how it fares; execve closes it */
	int release_fd; /* a byte written here lets init go on; -1: that was done */
	bool begun; /* the application runs already (--explain) */
	long long child; /* the pid of that process; 0: it is another's child */
	int result_fd; /* the end of this pipe is that of the process; -1: nobody waits for it */
	const char *exec; /* the id of this exec */
} config;

/* KEY(kind, name, programs that have it) */
#define CONFIG_KEYS(KEY) \
	KEY(TEXT, log, MONITOR) \
	KEY(NUMBER, log_size, MONITOR) \
	KEY(NUMBER, log_files, MONITOR) \
	KEY(TEXT, journal, MONITOR) \
	KEY(TEXT, journal_fields, MONITOR) \
	KEY(NUMBER, health_first, MONITOR) \
	KEY(NUMBER, health_start_interval, MONITOR) \
	KEY(NUMBER, health_interval, MONITOR) \
	KEY(TEXT, id, MONITOR | KEEPER) \
	KEY(TEXT, name, MONITOR | KEEPER) \
	KEY(TEXT, directory, MONITOR | KEEPER) \
	KEY(TEXT, attributes, MONITOR | KEEPER) \
	KEY(TEXT, run_record, MONITOR) \
	KEY(TEXT, names, MONITOR) \
	KEY(TEXT, events, MONITOR | KEEPER) \
	KEY(TEXT, started, MONITOR) \
	KEY(FLAG, remove, MONITOR) \
	KEY(FLAG, remove_volumes, MONITOR) \
	KEY(TEXT, cgroup, MONITOR) \
	KEY(LIST, mounts, MONITOR) \
	KEY(LIST, lock_fds, MONITOR) \
	KEY(LIST, helper_pids, MONITOR) \
	KEY(NUMBER, pasta, MONITOR) \
	KEY(FLAG, wait_pasta, MONITOR) \
	KEY(FD, member_fd, MONITOR) \
	KEY(FLAG, orphans, MONITOR) \
	KEY(FD, listener_fd, MONITOR) \
	KEY(FD, stdin_fd, MONITOR) \
	KEY(FD, stdout_fd, MONITOR) \
	KEY(FD, stderr_fd, MONITOR) \
	KEY(FLAG, stdin_once, MONITOR) \
	KEY(FD, client_fd, MONITOR | KEEPER) \
	KEY(FD, client_stdin_fd, MONITOR) \
	KEY(FD, client_stdout_fd, MONITOR) \
	KEY(FD, client_stderr_fd, MONITOR) \
	KEY(NUMBER, stop_on_disconnect, MONITOR) \
	KEY(LIST, connection_fds, MONITOR) \
	KEY(TEXT, restart, MONITOR) \
	KEY(NUMBER, restart_max, MONITOR) \
	KEY(NUMBER, restarts, MONITOR) \
	KEY(NUMBER, restart_delay, MONITOR) \
	KEY(NUMBER, stop_signal, MONITOR) \
	KEY(NUMBER, stop_timeout, MONITOR) \
	KEY(NUMBER, join_timeout, MONITOR) \
	KEY(LIST, python, MONITOR) \
	KEY(FD, python_fd, MONITOR) \
	KEY(LIST, environment, MONITOR) \
	KEY(NUMBER, code, MONITOR) \
	KEY(TEXT, error, MONITOR) \
	KEY(NUMBER, init, MONITOR) \
	KEY(FD, init_fd, MONITOR | KEEPER) \
	KEY(FD, pty_fd, MONITOR | KEEPER) \
	KEY(FD, status_fd, MONITOR) \
	KEY(FD, release_fd, MONITOR) \
	KEY(FLAG, begun, MONITOR) \
	KEY(NUMBER, child, KEEPER) \
	KEY(FD, result_fd, KEEPER) \
	KEY(TEXT, exec, KEEPER)

#endif
