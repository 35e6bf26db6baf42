/*
 * rless-monitor: what stays with a container for as long as it runs.
 *
 * Usage: rless-monitor ORDERS
 *
 * ORDERS is the number of a descriptor: a memfd of KEY NUL VALUE NUL ..., written by
 * rootless/engine/hold.py, which also has this program's work in Python, for hosts without a C
 * compiler. The process was Python until init waited at its gate, and became this program by
 * execve: it is init's parent, root of the engine's user namespace by capabilities, and holds
 * the mount and network namespace.
 *
 * It copies what the application writes to the log and to every client, and what clients type to
 * the application. It waits for the end, notes it, and takes away what was made; or it waits a
 * while and has Python start the container again, in the same namespaces.
 *
 * Clients connect to the socket `monitor` in the container's directory; one message a datagram:
 *
 *   A flags [in] out err   attach: descriptors of pipes come with it; flag 1: `in` is one of them
 *   W rows columns         resize the terminal (u16, little endian)
 *   K number               signal init     answer: k errno; EAGAIN: once it is the application
 *   S                      the user stops it: no restart
 *   U {"restart": {...}}   another restart policy
 *   N name                 it has another name now
 *   D                      it leaves; the end of who started the container is else the end
 *   R                      (--explain) it has looked at the process, which may be reaped
 *
 * and every client gets X and the exit code (u32) at the end. A is answered by `a errno`.
 *
 * No byte of output is lost or doubled. A client that is slow holds the others up for GRACE;
 * after that its backlog goes to an unlinked file. Where that is full, the application waits if
 * there is no other reader, else the client is cut off.
 *
 * Static, without malloc and stdio: a thousand of these may idle on a login node.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
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

#ifdef BARE
#include "bare.h"
#endif

enum {
	CHUNK = 65536,      /* bytes read at once: the longest frame of a log */
	LINE = 16384,       /* bytes of the longest line of a log, as in Docker */
	CLIENTS = 64,       /* more wait to be accepted */
	STUCK = 5000,       /* ms without a word after which the journal is not waited for */
	GRACE = 100,        /* ms that a slow client may hold up all */
	CLEAN_UP = 2000,    /* ms that killed processes and helpers may take to end */
	FIRST_DELAY = 100,  /* ms before the first restart; each one doubles it */
	LONGEST_DELAY = 60000,
	LONGEST_POLL = 1 << 30, /* ms: poll(2) takes an int */
	LONG_RUN = 10000,   /* ms after which the delay begins anew */
	SEARCHING = 2,      /* exit status of the health runner: the application still starts */
};
#define BACKLOG (256LL << 20) /* bytes that are kept for a client that does not read */
#define LAST_WORDS (2LL << 20) /* bytes read of a stream after the end: all that a pipe holds */
#define HOLE (16LL << 20)     /* bytes of a backlog after which its space is given back */

enum { OUT, ERR };

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
	bool leash;        /* the command that started the container, which has not let go */
};

static struct {
	const char *id, *live, *names, *cgroup, *mount, *socket;
	char name[256];
	int dir;               /* the container's directory */
	int orders, listener;
	pid_t init, pasta, health;
	int init_fd, health_fd, oom_fd;
	int starting;          /* the pipe that init closes by execve; -1: it runs */
	int term_fd;           /* a signalfd of SIGTERM */
	int child_fd;          /* a signalfd of SIGCHLD, if orphans may come to us; else -1 */
	uint64_t asked;        /* signals that came before it runs, as bits */
	int in, pty;           /* the application's standard input, or its terminal */
	int sources[2];        /* what it writes; the terminal is OUT */
	int code;              /* the exit code, once `ended` */
	bool terminated, remove, stdin_once, ended, drained, done, may_reap, out_of_memory;
	long long begun, health_at, kill_at;
	rlim_t core;
} me;

static struct {
	char policy[16];
	long long most, count, delay, at; /* at: when it is due; 0: it is not */
} restart;

static struct {
	enum { LOG_NONE, LOG_LOCAL, LOG_JSON, LOG_JOURNAL } driver;
	int fd, files;
	long long limit, size, lost, buffered;
	bool stuck; /* the journal takes nothing */
} logs = { .fd = -1 };

static struct client clients[CLIENTS];

static struct {
	int stream;
	size_t size;
	long long since; /* when it was read */
	char data[CHUNK];
} chunk;

static struct {
	size_t at, end;
	char data[CHUNK];
} typed;

static char spare[CHUNK];

/* -- orders ------------------------------------------------------------------------------ */

static const char *orders, *orders_end;

/* The next value of `key` after the one at `last` (NULL: the first); NULL: there is none. */
static const char *next_order(const char *key, const char *last)
{
	const char *at = last ? last + strlen(last) + 1 : orders;

	while (at < orders_end) {
		const char *value = at + strlen(at) + 1;

		if (strcmp(at, key) == 0)
			return value;
		at = value + strlen(value) + 1;
	}
	return NULL;
}

static long long to_number(const char *text)
{
	return strtoll(text, NULL, 10);
}

static const char *text(const char *key)
{
	const char *value = next_order(key, NULL);

	return value ? value : "";
}

static long long number(const char *key, long long otherwise)
{
	const char *value = next_order(key, NULL);

	return value ? to_number(value) : otherwise;
}

static void read_orders(int fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0 || status.st_size == 0)
		_exit(70);
	orders = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (orders == MAP_FAILED)
		_exit(70);
	orders_end = orders + status.st_size;
}

/* -- small things ------------------------------------------------------------------------ */

static long long now(void) /* ms that never jump */
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static void let_go(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A pipe or terminal of our own; it shares its description with nobody, so this hurts nobody. */
static void never_wait(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (fd >= 0 && flags >= 0)
		fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

static int pidfd_of(pid_t pid)
{
	return (int)syscall(SYS_pidfd_open, pid, 0);
}

static int signal_init(int number)
{
	if (me.ended || me.init_fd < 0)
		return ESRCH;
	/* Process 1 of a pid namespace loses what it has no handler for: it waits for who has one. */
	if (me.starting >= 0 && number != SIGKILL && number > 0 && number <= 64) {
		me.asked |= 1ULL << (number - 1);
		return EAGAIN; /* kept */
	}
	return syscall(SYS_pidfd_send_signal, me.init_fd, number, NULL, 0) < 0 ? errno : 0;
}

/* The application runs: now it gets what it was sent. */
static void begin_signals(void)
{
	let_go(&me.starting);
	for (int number = 1; me.asked; number++, me.asked >>= 1)
		if (me.asked & 1)
			signal_init(number);
}

/* The time as RFC 3339 has it, UTC, nine digits. gmtime(3) would read files and allocate. */
static const char *stamp(void)
{
	static char shown[] = "YYYY-MM-DDTHH:MM:SS.nnnnnnnnnZ";
	static time_t last = -1;
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	if (time.tv_sec != last) {
		/* days_from_civil the other way round: years begin in March, eras have 400 */
		long long days = time.tv_sec / 86400 + 719468;
		unsigned second = time.tv_sec % 86400;
		unsigned era = days / 146097, of_era = days % 146097;
		unsigned year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
		unsigned of_year = of_era - (365 * year + year / 4 - year / 100);
		unsigned month = (5 * of_year + 2) / 153;
		unsigned day = of_year - (153 * month + 2) / 5 + 1;

		month = month < 10 ? month + 3 : month - 9;
		year += era * 400 + (month <= 2);
		snprintf(shown, sizeof(shown), "%04u-%02u-%02uT%02u:%02u:%02u.", year % 10000,
			 month % 100, day % 100, second / 3600 % 100, second / 60 % 60, second % 60);
		last = time.tv_sec;
	}
	snprintf(shown + 20, sizeof(shown) - 20, "%09ldZ", time.tv_nsec);
	return shown;
}

/* -- the log: one record or none of it, whatever the disk says ------------------------------ */

static void log_name(char *name, int number)
{
	snprintf(name, 16, number ? "log.%d" : "log", number);
}

static bool log_open(void)
{
	struct stat status;

	logs.fd = openat(me.dir, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW,
			 0600);
	logs.size = logs.fd >= 0 && fstat(logs.fd, &status) == 0 ? status.st_size : 0;
	return logs.fd >= 0;
}

static void log_rotate(void)
{
	char from[16], to[16];

	if (logs.files <= 1)
		unlinkat(me.dir, "log", 0);
	for (int number = logs.files - 1; number > 0; number--) {
		log_name(from, number - 1);
		log_name(to, number);
		renameat2(me.dir, from, me.dir, to, 0); /* ENOENT: so many there are not yet */
	}
	let_go(&logs.fd);
}

static bool log_append(struct iovec *parts, int count)
{
	long long size = 0;

	for (int i = 0; i < count; i++)
		size += parts[i].iov_len;
	if (logs.fd < 0 && !log_open())
		return false;
	if (logs.size && logs.size + size > logs.limit) {
		log_rotate();
		if (!log_open())
			return false;
	}
	ssize_t done = writev(logs.fd, parts, count);

	if (done == size) {
		logs.size += size;
		return true;
	}
	if (done > 0 && ftruncate(logs.fd, logs.size) < 0)
		logs.size += done; /* a reader meets a frame that is cut */
	return false;
}

/* What is said in the log of what a full disk has swallowed. */
static size_t say_lost(char *said, size_t room)
{
	return snprintf(said, room, "rless: %lld bytes of output are missing here: the log could "
			"not be written\n", logs.lost);
}

static int add_frame(struct iovec *parts, char *head, size_t room, int stream, const char *data,
		     size_t size)
{
	parts[0].iov_base = head;
	parts[0].iov_len = snprintf(head, room, "%s %s %zu\n", stamp(),
				    stream == ERR ? "stderr" : "stdout", size);
	parts[1] = (struct iovec){ (void *)data, size };
	parts[2] = (struct iovec){ "\n", 1 };
	return 3;
}

/* Append a frame of the driver local, after the word of what is missing before it, if any. */
static void frame(int stream, const char *data, size_t size)
{
	char lost[128], lost_head[64], head[64];
	struct iovec parts[6];
	int count = 0;

	if (logs.lost)
		count = add_frame(parts, lost_head, sizeof(lost_head), ERR, lost,
				  say_lost(lost, sizeof(lost)));
	if (size)
		count += add_frame(parts + count, head, sizeof(head), stream, data, size);
	logs.lost = log_append(parts, count) ? 0 : logs.lost + (long long)size;
}

/* The bytes of the UTF-8 character at `data`; 0: it is none (Unicode, table 3-7). */
static int utf8_length(const unsigned char *data, size_t size)
{
	unsigned char first = data[0], low = 0x80, high = 0xbf;
	int length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 :
		     first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;

	if (length == 0 || (size_t)length > size)
		return 0;
	if (first == 0xe0) low = 0xa0;
	if (first == 0xed) high = 0x9f;
	if (first == 0xf0) low = 0x90;
	if (first == 0xf4) high = 0x8f;
	for (int i = 1; i < length; i++, low = 0x80, high = 0xbf)
		if (data[i] < low || data[i] > high)
			return 0;
	return length;
}

static struct {
	size_t size;
	char data[6 * LINE + 128 + CHUNK];
} json;

static void json_flush(void)
{
	struct iovec part = { json.data, json.size };

	if (json.size && !log_append(&part, 1))
		logs.lost += logs.buffered;
	json.size = logs.buffered = 0;
}

static void json_text(const char *text)
{
	size_t size = strlen(text);

	memcpy(json.data + json.size, text, size);
	json.size += size;
}

/* Put one line into the buffer as Docker's json-file has it. Bytes that are no UTF-8 become lone
 * surrogates, as Python's surrogateescape has them, so that they come back as they were. */
static void json_line(int stream, const char *bytes, size_t size)
{
	const unsigned char *data = (const unsigned char *)bytes;

	json_text("{\"log\":\"");
	for (size_t i = 0; i < size;) {
		int length = utf8_length(data + i, size - i);
		char escaped[8];

		if (length > 1 || (length && data[i] >= ' ' && data[i] != '"' && data[i] != '\\')) {
			memcpy(json.data + json.size, data + i, length);
			json.size += length;
			i += length;
			continue;
		}
		snprintf(escaped, sizeof(escaped), length ? "\\u%04x" : "\\udc%02x", data[i++]);
		json_text(escaped);
	}
	json_text("\",\"stream\":\"");
	json_text(stream == ERR ? "stderr" : "stdout");
	json_text("\",\"time\":\"");
	json_text(stamp());
	json_text("\"}\n");
	logs.buffered += size;
	if (json.size >= CHUNK)
		json_flush();
}

static bool journal_connect(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", text("journal"));
	let_go(&logs.fd);
	logs.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (logs.fd >= 0 && connect(logs.fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		let_go(&logs.fd);
	return logs.fd >= 0;
}

/* Send a message to the journal, whose queue is short: who writes fast waits for it. One that
 * takes nothing for a while is not waited for again until it does. */
static bool journal_send(const struct msghdr *message)
{
	for (bool again = false;;) {
		if (logs.fd < 0 && !journal_connect())
			return false;
		if (sendmsg(logs.fd, message, MSG_NOSIGNAL) >= 0)
			return !(logs.stuck = false);
		if (errno == EAGAIN && !logs.stuck) {
			struct pollfd queue = { .fd = logs.fd, .events = POLLOUT };

			logs.stuck = poll(&queue, 1, STUCK) <= 0;
		} else if (errno == EAGAIN || again)
			return false;
		else {
			again = true; /* it was started anew */
			let_go(&logs.fd);
		}
	}
}

/* Send one line by systemd's native protocol. */
static bool journal_line(int stream, const char *data, size_t size)
{
	static const char partial[] = "CONTAINER_PARTIAL_MESSAGE=true\n";
	bool whole = size && data[size - 1] == '\n';
	uint64_t length = htole64(size - whole);
	const char *fields = text("journal_fields");
	struct iovec parts[] = {
		{ (void *)fields, strlen(fields) },
		{ (void *)partial, whole ? 0 : sizeof(partial) - 1 },
		{ stream == ERR ? "PRIORITY=3\nMESSAGE\n" : "PRIORITY=6\nMESSAGE\n", 19 },
		{ &length, 8 },
		{ (void *)data, size - whole },
		{ "\n", 1 },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 6 };

	return journal_send(&message);
}

static void log_line(int stream, const char *data, size_t size)
{
	if (logs.driver == LOG_JSON)
		json_line(stream, data, size);
	else if (!journal_line(stream, data, size))
		logs.lost += size;
}

static struct {
	size_t size;
	char data[LINE];
} lines[2];

static void end_line(int stream)
{
	if (lines[stream].size)
		log_line(stream, lines[stream].data, lines[stream].size);
	lines[stream].size = 0;
}

/* Cut into lines; what has no end yet waits for it, or for LINE bytes, or for the end of all. */
static void log_lines(int stream, const char *data, size_t size)
{
	while (size) {
		size_t room = LINE - lines[stream].size;
		size_t most = size < room ? size : room;
		const char *newline = memchr(data, '\n', most);
		size_t taken = newline ? (size_t)(newline - data) + 1 : most;

		memcpy(lines[stream].data + lines[stream].size, data, taken);
		lines[stream].size += taken;
		data += taken;
		size -= taken;
		if (newline || lines[stream].size == LINE)
			end_line(stream);
	}
}

/* Say in lines what is missing; where that fails too, it is missing still. */
static void tell_lost(void)
{
	char said[128];
	size_t size = say_lost(said, sizeof(said));
	long long lost = logs.lost;

	logs.lost = 0;
	if (logs.driver == LOG_JOURNAL) {
		if (!journal_line(ERR, said, size))
			logs.lost = lost;
		return;
	}
	json_line(ERR, said, size);
	logs.buffered += lost - (long long)size;
}

static void log_write(int stream, const char *data, size_t size)
{
	if (logs.driver == LOG_LOCAL)
		frame(stream, data, size);
	else if (logs.driver != LOG_NONE) {
		if (logs.lost)
			tell_lost();
		log_lines(stream, data, size);
		json_flush();
	}
}

static void log_end(void)
{
	if (logs.driver == LOG_LOCAL && logs.lost)
		frame(ERR, "", 0);
	else if (logs.driver > LOG_LOCAL) {
		if (logs.lost)
			tell_lost();
		for (int stream = OUT; stream <= ERR; stream++)
			end_line(stream);
		json_flush();
	}
	let_go(&logs.fd);
}

static void log_begin(void)
{
	const char *driver = text("log");

	logs.driver = strcmp(driver, "local") == 0 ? LOG_LOCAL :
		      strcmp(driver, "json-file") == 0 ? LOG_JSON :
		      strcmp(driver, "journald") == 0 ? LOG_JOURNAL : LOG_NONE;
	logs.limit = number("log_size", 20 << 20);
	logs.files = (int)number("log_files", 5);
}

/* -- what is told: exit.json, events -------------------------------------------------------- */

static bool write_file(const char *name, const char *data, size_t size)
{
	char temporary[64];
	int fd;

	snprintf(temporary, sizeof(temporary), "%s.%d.tmp", name, getpid());
	fd = openat(me.dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	bool whole = write(fd, data, size) == (ssize_t)size;

	close(fd);
	/* ext4 takes care of data before a rename only where that replaces a file: else there
	 * would be an empty one after a power cut. */
	fd = whole ? openat(me.dir, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;
	let_go(&fd);
	if (whole && renameat2(me.dir, temporary, me.dir, name, 0) == 0)
		return true;
	unlinkat(me.dir, temporary, 0);
	return false;
}

/* Write the text of exit.json; return its length, as snprintf(3). */
static int describe_exit(char *said, size_t room, const char *error, const char *later)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME, &time);
	return snprintf(said, room,
			"{\"code\":%d,\"started\":%s,\"finished\":%lld.%06ld,\"error\":%s,"
			"\"oom\":%s,\"restarts\":%lld%s}",
			me.code, *text("started") ? text("started") : "null",
			(long long)time.tv_sec, time.tv_nsec / 1000, *error ? error : "null",
			me.out_of_memory ? "true" : "false", restart.count, later);
}

/* Note how it ended. On a full disk the entry in `live` is overwritten, which needs no space. */
static void record_exit(bool again)
{
	char said[8192], later[48] = "";
	struct timespec time;
	int size, fd;

	if (me.remove)
		return;
	clock_gettime(CLOCK_REALTIME, &time);
	if (again) {
		long long ms = time.tv_sec * 1000LL + time.tv_nsec / 1000000 + restart.delay;

		snprintf(later, sizeof(later), ",\"restart_at\":%lld.%03lld", ms / 1000, ms % 1000);
	}
	size = describe_exit(said, sizeof(said), text("error"), later);
	if ((size_t)size >= sizeof(said)) /* the container chose the name in the reason */
		size = describe_exit(said, sizeof(said), "", later);
	if (write_file("exit.json", said, size))
		return;
	size = snprintf(said, sizeof(said), "{\"ended\":{\"code\":%d,\"finished\":%lld}}",
			me.code, (long long)time.tv_sec);
	fd = openat(AT_FDCWD, me.live, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (write(fd, said, size) == size && ftruncate(fd, size) == 0)
		me.live = ""; /* it is the only witness now: the next command finds it there */
	close(fd);
}

/* Append an event as rootless/engine/events.py does: one line by one write. */
static void event(const char *action)
{
	static char said[1 << 15]; /* the labels of a container are of any length */
	char code[128] = "";
	struct timespec time;
	int size, fd;

	if (strcmp(action, "die") == 0)
		snprintf(code, sizeof(code), ",\"exitCode\":\"%d\"", me.code);
	if (strcmp(action, "exec_die") == 0)
		snprintf(code, sizeof(code), ",\"execID\":\"%s\",\"exitCode\":\"%d\"", text("exec"),
			 me.code);
	clock_gettime(CLOCK_REALTIME, &time);
	size = snprintf(said, sizeof(said),
			"{\"time\":%lld%09ld,\"type\":\"container\",\"action\":\"%s\",\"id\":\"%s\","
			"\"attributes\":{%s,\"name\":\"%s\"%s}}\n",
			(long long)time.tv_sec, time.tv_nsec, action, me.id, text("attributes"),
			me.name, code);
	if (size < 0 || (size_t)size >= sizeof(said))
		return;
	fd = openat(AT_FDCWD, text("events"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return; /* what it tells of has happened all the same */
	if (write(fd, said, size) < 0)
		size = 0;
	close(fd);
}

/* Tell whether the kernel has killed for want of memory, and say so the first time. */
static void check_memory(void)
{
	char said[512];
	ssize_t size = me.oom_fd < 0 ? -1 : pread(me.oom_fd, said, sizeof(said) - 1, 0);
	char *kills;

	if (size <= 0)
		return;
	said[size] = 0;
	kills = strstr(said, "oom_kill ");
	if (kills && to_number(kills + 9) > 0 && !me.out_of_memory) {
		me.out_of_memory = true;
		event("oom");
	}
}

/* -- Python's work ---------------------------------------------------------------------------- */

/* Block what signalfds take, as they do only while it is blocked; or unblock it. */
static void block_signals(bool block)
{
	uint64_t set = 1ULL << (SIGCHLD - 1) | 1ULL << (SIGTERM - 1);

	syscall(SYS_rt_sigprocmask, block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL, sizeof(set));
}

static int signal_fd(int number)
{
	uint64_t set = 1ULL << (number - 1);

	return (int)syscall(SYS_signalfd4, -1, &set, sizeof(set), O_CLOEXEC | O_NONBLOCK);
}

/* Become Python for `verb`; with `keep` the connections stay, since what clients have said but we
 * have not heard is said to whoever comes back. */
static void become_python(const char *verb, bool keep)
{
	char *argv[32], *environment[8];
	char fd[16], count[24], delay[24], connections[8 * CLIENTS] = "";
	int used = 0, variables = 0;
	size_t size = 0;
	struct rlimit core;

	for (const char *word = NULL; (word = next_order("python", word)) && used < 20;)
		argv[used++] = (char *)word;
	for (const char *word = NULL; (word = next_order("environment", word)) && variables < 7;)
		environment[variables++] = (char *)word;
	environment[variables] = NULL;
	snprintf(fd, sizeof(fd), "%d", me.orders);
	snprintf(count, sizeof(count), "%lld", restart.count);
	snprintf(delay, sizeof(delay), "%lld", restart.delay);
	argv[used++] = (char *)verb;
	argv[used++] = (char *)me.id;
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
	syscall(SYS_execveat, (int)number("python_fd", -1), "", argv, environment, AT_EMPTY_PATH);
	execve(argv[0], argv, environment); /* no descriptor: it is not ours to write */
}

/* Become Python in a child, which ends with us. */
static void be_child(const char *verb)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	for (int sign = 1; sign < NSIG; sign++)
		signal(sign, SIG_DFL);
	fcntl(me.orders, F_SETFD, 0);
	become_python(verb, false);
	_exit(127);
}

/* -- cleaning up ----------------------------------------------------------------------------- */

struct entry { /* struct linux_dirent64 of getdents64(2) */
	uint64_t inode, offset;
	uint16_t size;
	uint8_t type;
	char name[];
};

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Remove one name: a file, an empty directory, nothing. ENOTEMPTY: a full one. */
static int remove_name(int dir, const char *name)
{
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	return errno == EEXIST ? ENOTEMPTY : errno;
}

/* Move a full directory up to `top`, under a name that is free there. */
static int lift(int dir, const char *name, int top)
{
	static unsigned count;
	char fresh[32];

	do {
		snprintf(fresh, sizeof(fresh), ".rless-%u", count++);
		if (renameat2(dir, name, top, fresh, RENAME_NOREPLACE) == 0)
			return 0;
	} while (errno == EEXIST);
	return errno;
}

/* Empty a directory: `top`, or one in it. What is full in that one moves up to `top` first: so a
 * tree of any depth, with paths of any length, takes no memory and never a step upwards. */
static int empty(int dir, int top)
{
	char block[4096];
	bool found = true;
	long size = 0;

	while (found) { /* until a look finds nothing: to remove while looking may hide names */
		found = false;
		lseek(dir, 0, SEEK_SET);
		while ((size = syscall(SYS_getdents64, dir, block, sizeof(block))) > 0)
			for (long at = 0; at < size; at += ((struct entry *)(block + at))->size) {
				const char *name = ((struct entry *)(block + at))->name;
				int error, child;

				if (is_dots(name))
					continue;
				found = true;
				error = remove_name(dir, name);
				if (error == ENOTEMPTY && dir != top)
					error = lift(dir, name, top);
				else if (error == ENOTEMPTY) {
					child = openat(top, name, O_RDONLY | O_DIRECTORY |
						       O_NOFOLLOW | O_CLOEXEC);
					error = child < 0 ? errno : empty(child, top);
					let_go(&child);
				}
				if (error)
					return error;
			}
	}
	return size < 0 ? errno : 0;
}

/* Give the name back: the link `names`/`name`, if it is ours. */
static void forget_name(void)
{
	char path[4096], owner[65];
	int size = snprintf(path, sizeof(path), "%s/%s", me.names, me.name);

	if (size > 0 && (size_t)size < sizeof(path) &&
	    readlinkat(AT_FDCWD, path, owner, sizeof(owner)) == 64 && memcmp(owner, me.id, 64) == 0)
		unlinkat(AT_FDCWD, path, 0);
}

static void rest(int ms)
{
	poll(NULL, 0, ms);
}

/* Remove the cgroups below `dir`; its files are the kernel's. */
static void remove_cgroups(int dir)
{
	char block[1024];
	long size;

	while ((size = syscall(SYS_getdents64, dir, block, sizeof(block))) > 0)
		for (long at = 0; at < size; at += ((struct entry *)(block + at))->size) {
			struct entry *entry = (struct entry *)(block + at);
			int child;

			if (entry->type != DT_DIR || is_dots(entry->name) ||
			    unlinkat(dir, entry->name, AT_REMOVEDIR) == 0)
				continue;
			child = openat(dir, entry->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			if (child < 0)
				continue;
			remove_cgroups(child);
			close(child);
			unlinkat(dir, entry->name, AT_REMOVEDIR);
		}
}

/* Reap the orphans that have ended. Others of our children are waited for where they are asked. */
static void reap_orphans(void)
{
	char said[128]; /* struct signalfd_siginfo */

	while (read(me.child_fd, said, sizeof(said)) > 0)
		;
	for (;;) {
		siginfo_t info = { 0 };

		if (syscall(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT, NULL) < 0 ||
		    info.si_pid == 0 || info.si_pid == me.init || info.si_pid == me.health)
			return;
		waitpid(info.si_pid, NULL, 0);
		if (info.si_pid == me.pasta)
			me.pasta = 0;
	}
}

static bool is_helper(long long pid)
{
	for (const char *one = NULL; (one = next_order("helper", one));)
		if (to_number(one) == pid)
			return true;
	return pid == me.pasta;
}

/* Kill what the application has left in a pid namespace that is not its own: orphans come to us,
 * a child subreaper, and so do the children of those that we kill. */
static void end_orphans(void)
{
	long long deadline = now() + CLEAN_UP;
	char path[64], said[4096], *at;
	bool found = me.child_fd >= 0;

	while (found && now() < deadline) {
		int fd;
		ssize_t size;

		reap_orphans();
		snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
		fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
		size = fd < 0 ? -1 : read(fd, said, sizeof(said) - 1);
		let_go(&fd);
		said[size < 0 ? 0 : size] = 0;
		found = false;
		for (at = said; *at >= '0' && *at <= '9'; at++) {
			long long pid = to_number(at);

			while (*at >= '0' && *at <= '9')
				at++;
			if (*at != ' ')
				break; /* cut short: the next look has it whole */
			if (!is_helper(pid)) {
				kill((pid_t)pid, SIGKILL);
				found = true;
			}
		}
		if (found)
			rest(2);
	}
}

/* Kill what is left in the cgroup; to `remove` it takes until the kernel has ended them. */
static void end_cgroup(bool remove)
{
	long long deadline = now() + CLEAN_UP;
	int dir = *me.cgroup ? openat(AT_FDCWD, me.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int kill = dir < 0 ? -1 : openat(dir, "cgroup.kill", O_WRONLY | O_CLOEXEC);

	end_orphans();
	if (kill >= 0 && write(kill, "1", 1) < 0)
		remove = remove; /* the removal tells */
	let_go(&kill);
	while (dir >= 0 && remove && unlinkat(AT_FDCWD, me.cgroup, AT_REMOVEDIR) < 0 && errno != ENOENT && now() < deadline) {
		lseek(dir, 0, SEEK_SET);
		remove_cgroups(dir);
		if (unlinkat(AT_FDCWD, me.cgroup, AT_REMOVEDIR) == 0)
			break;
		rest(5);
	}
	let_go(&dir);
}

/* Wait for children whose end matters: pasta if it holds a port, programs that serve mounts. */
static void reap_helpers(void)
{
	long long deadline = now() + CLEAN_UP;

	while (number("wait_helpers", 0) && waitpid(-1, NULL, WNOHANG) == 0 && now() < deadline)
		rest(2);
}

/* Take away what was made, in the reverse order. What cannot be is left to the next command,
 * which finds the entry in `live`. */
static void clean_up(void)
{
	int error = 0;
	pid_t child;

	if (me.pasta > 0)
		kill(me.pasta, SIGKILL);
	end_cgroup(true);
	if (*me.mount)
		umount2(me.mount, MNT_DETACH | UMOUNT_NOFOLLOW);
	reap_helpers();
	if (number("volumes", 0)) { /* anonymous ones; who else has them takes more to find out */
		child = fork();
		if (child == 0)
			be_child("volumes");
		if (child > 0)
			waitpid(child, NULL, 0);
	}
	if (me.remove) {
		forget_name();
		error = empty(me.dir, me.dir);
		if (error == 0 && unlinkat(AT_FDCWD, text("directory"), AT_REMOVEDIR) < 0 && errno != ENOENT)
			error = errno;
		event("destroy");
	} else
		unlinkat(me.dir, "monitor", 0);
	if (error == 0 && *me.live)
		unlinkat(AT_FDCWD, me.live, 0);
}

/* -- clients --------------------------------------------------------------------------------- */

static bool is_open(const struct client *client)
{
	return client->fd >= 0;
}

static void close_sink(struct sink *sink)
{
	let_go(&sink->fd);
	let_go(&sink->spill);
	sink->at = sink->end = sink->holes = 0;
	sink->todo = 0;
}

static void close_client(struct client *client)
{
	let_go(&client->fd);
	let_go(&client->in);
	close_sink(&client->sinks[OUT]);
	close_sink(&client->sinks[ERR]);
	client->attached = client->leash = false;
}

/* Tell whether nobody else reads, so that the application may be made to wait for this one. */
static bool is_alone(const struct client *client)
{
	for (int i = 0; i < CLIENTS; i++)
		if (&clients[i] != client && is_open(&clients[i]) && clients[i].attached)
			return false;
	return client->leash || logs.driver == LOG_NONE;
}

static bool has_backlog(const struct client *client)
{
	return client->sinks[OUT].at < client->sinks[OUT].end ||
	       client->sinks[ERR].at < client->sinks[ERR].end;
}

/* Its reader has gone away. The command's own is passed on: the application gets SIGPIPE. */
static void lose_reader(struct client *client, int stream)
{
	close_sink(&client->sinks[stream]);
	if (client->leash && is_alone(client) && me.pty < 0)
		let_go(&me.sources[stream]);
}

/* Give a client what its pipe takes: the backlog first, then the chunk. */
static void give(struct client *client, int stream)
{
	struct sink *sink = &client->sinks[stream];

	while (sink->fd >= 0 && (sink->at < sink->end || sink->todo)) {
		const char *data = chunk.data + chunk.size - sink->todo;
		ssize_t size = sink->todo, given;

		if (sink->at < sink->end) {
			long long left = sink->end - sink->at;

			data = spare;
			size = pread(sink->spill, spare, left < CHUNK ? left : CHUNK, sink->at);
			if (size <= 0) {
				close_client(client); /* it must not miss something and go on */
				return;
			}
		}
		given = write(sink->fd, data, size);
		if (given < 0) {
			if (errno != EAGAIN && errno != EINTR)
				lose_reader(client, stream);
			return;
		}
		if (data != spare) {
			sink->todo -= given;
			continue;
		}
		sink->at += given;
		if (sink->at == sink->end && ftruncate(sink->spill, 0) == 0)
			sink->at = sink->end = sink->holes = 0;
		else if (sink->at - sink->holes > HOLE &&
			 fallocate(sink->spill, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   sink->holes, sink->at - sink->holes) == 0)
			sink->holes = sink->at;
	}
}

static int open_spill(void)
{
	char name[32];
	int fd = openat(me.dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	snprintf(name, sizeof(name), ".backlog-%d", getpid()); /* NFS has no O_TMPFILE */
	fd = openat(me.dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	unlinkat(me.dir, name, 0);
	return fd;
}

/* Keep for later what a client has not taken of the chunk; false: there is no room. */
static bool spill(struct sink *sink)
{
	if (sink->end - sink->at + (long long)sink->todo > BACKLOG)
		return false;
	if (sink->spill < 0)
		sink->spill = open_spill();
	while (sink->todo && sink->spill >= 0) {
		ssize_t size = pwrite(sink->spill, chunk.data + chunk.size - sink->todo,
				      sink->todo, sink->end);

		if (size <= 0)
			return false;
		sink->end += size;
		sink->todo -= size;
	}
	return sink->todo == 0;
}

/* Bring the chunk to those who have not had all of it; true: it is still wanted by somebody. */
static bool deliver(void)
{
	bool late = now() - chunk.since >= GRACE, wanted = false;

	for (struct client *client = clients; client < clients + CLIENTS; client++) {
		struct sink *sink = &client->sinks[chunk.stream];

		if (!is_open(client) || sink->todo == 0)
			continue;
		if (sink->at == sink->end)
			give(client, chunk.stream);
		if (sink->todo && (late || sink->at < sink->end) && !spill(sink) &&
		    !is_alone(client))
			close_client(client);
		wanted |= sink->todo > 0;
	}
	if (!wanted)
		chunk.size = 0;
	return wanted;
}

static ssize_t took; /* bytes of the last chunk */

/* Take what the application has written on a stream; false: there is nothing now. */
static bool take(int stream)
{
	ssize_t size = read(me.sources[stream], chunk.data, CHUNK);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (size <= 0) { /* a terminal says EIO when its last writer has gone */
		if (me.sources[stream] != me.pty)
			let_go(&me.sources[stream]);
		me.sources[stream] = -1;
		return false;
	}
	chunk.stream = stream;
	chunk.size = took = size;
	chunk.since = now();
	log_write(stream, chunk.data, size);
	for (int i = 0; i < CLIENTS; i++)
		if (clients[i].sinks[stream].fd >= 0)
			clients[i].sinks[stream].todo = size;
	deliver();
	return true;
}

static void hang_up(void)
{
	if (me.sources[OUT] == me.pty)
		me.sources[OUT] = -1;
	let_go(&me.pty);
}

/* Write to the application what was typed; it may have closed its standard input. */
static void pass_input(void)
{
	int fd = me.pty >= 0 ? me.pty : me.in;

	while (fd >= 0 && typed.at < typed.end) {
		ssize_t size = write(fd, typed.data + typed.at, typed.end - typed.at);

		if (size < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (size < 0) {
			let_go(&me.in);
			break;
		}
		typed.at += size;
	}
	typed.at = typed.end = 0;
}

/* Read what a client types. Its end is the application's where the command asked for that. */
static void take_input(struct client *client)
{
	ssize_t size = read(client->in, typed.data, CHUNK);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size > 0) {
		typed.end = size;
		pass_input();
		return;
	}
	let_go(&client->in);
	if (me.pty < 0 && me.stdin_once)
		let_go(&me.in);
	if (client->leash)
		hang_up(); /* a terminal without keys: its window was closed, its connection broke */
}

static void answer(struct client *client, char kind, int error)
{
	char said[] = { kind, (char)error };

	if (send(client->fd, said, sizeof(said), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return; /* it has gone, or does not read: its own loss */
}

static int attach(struct client *client, int flags, const int *fds, int count)
{
	bool with_input = flags & 1;

	if (me.ended)
		return ESRCH;
	if (client->attached || count != 2 + with_input)
		return EINVAL;
	for (int i = 0; i < count; i++) {
		struct stat status;

		/* Made not to wait, and so never a file or terminal that others write to. */
		if (fstat(fds[i], &status) < 0 || !S_ISFIFO(status.st_mode))
			return EINVAL;
		never_wait(fds[i]);
	}
	client->attached = true;
	client->in = with_input ? fds[0] : -1;
	client->sinks[OUT].fd = fds[with_input];
	client->sinks[ERR].fd = fds[with_input + 1];
	return 0;
}

/* Set the restart policy that a JSON object of ours names. */
static void change_policy(const char *said)
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
static void stop_restarts(void)
{
	snprintf(restart.policy, sizeof(restart.policy), "no");
	if (restart.at) {
		restart.at = 0;
		record_exit(false);
		me.done = true;
	}
}

/* systemd ends the session, or the machine: stop the container, but not as the user does. */
static void terminate(void)
{
	char said[128];
	long long limit = number("stop_timeout", 10);

	if (read(me.term_fd, said, sizeof(said)) < 0)
		return;
	me.terminated = true;
	stop_restarts();
	signal_init((int)number("stop_signal", SIGTERM));
	if (limit >= 0)
		me.kill_at = now() + limit * 1000;
}

static void obey(struct client *client, const unsigned char *said, size_t size, int *fds, int count)
{
	struct winsize window = { 0 };
	int error;

	switch (said[0]) {
	case 'A':
		error = size == 2 ? attach(client, said[1], fds, count) : EINVAL;
		for (int i = 0; error && i < count; i++)
			close(fds[i]);
		answer(client, 'a', error);
		return;
	case 'W':
		window.ws_row = said[1] | said[2] << 8;
		window.ws_col = said[3] | said[4] << 8;
		if (size == 5 && me.pty >= 0)
			ioctl(me.pty, TIOCSWINSZ, &window);
		break;
	case 'K':
		answer(client, 'k', signal_init(said[1]));
		break;
	case 'S':
		stop_restarts();
		break;
	case 'U':
		change_policy((const char *)said + 1);
		break;
	case 'N':
		snprintf(me.name, sizeof(me.name), "%.*s", 255, (const char *)said + 1);
		break;
	case 'D':
		client->leash = false;
		let_go(&client->in); /* its end means nothing any more */
		break;
	case 'R':
		me.may_reap = true;
		break;
	}
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

/* The other side has gone. If it was the command that started the container, that is the end. */
static void lose_client(struct client *client)
{
	if (client->leash && !me.ended) {
		stop_restarts();
		signal_init(SIGKILL);
	}
	me.may_reap |= client->leash;
	close_client(client);
}

static void hear(struct client *client)
{
	unsigned char said[4096];
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(8 * sizeof(int))];
	} control;
	struct iovec part = { said, sizeof(said) - 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };
	int fds[8], count = 0;
	ssize_t size = recvmsg(client->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	for (struct cmsghdr *it = size < 0 ? NULL : CMSG_FIRSTHDR(&message); it;
	     it = CMSG_NXTHDR(&message, it))
		if (it->cmsg_level == SOL_SOCKET && it->cmsg_type == SCM_RIGHTS) {
			count = (int)((it->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(it), count * sizeof(int));
		}
	if (size <= 0) {
		for (int i = 0; i < count; i++)
			close(fds[i]);
		lose_client(client);
		return;
	}
	memset(said + size, 0, size < 5 ? 5 - size + 1 : 1);
	obey(client, said, size, fds, count);
}

static struct client *free_place(void)
{
	for (int i = 0; i < CLIENTS; i++)
		if (!is_open(&clients[i]))
			return &clients[i];
	return NULL;
}

/* Take a new client: a process of the same user, who else could be in that directory? */
static void admit(void)
{
	struct client *client = free_place();
	int fd = accept4(me.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != getuid())
		close(fd);
	else
		client->fd = fd;
}

/* Tell all clients of the end. What a slow one has not read yet comes by its pipes. */
static void tell_end(void)
{
	unsigned char said[5] = { 'X', me.code & 255, me.code >> 8 & 255 };

	for (struct client *client = clients; client < clients + CLIENTS; client++) {
		if (!is_open(client))
			continue;
		if (send(client->fd, said, sizeof(said), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ||
		    !has_backlog(client)) {
			if (!has_backlog(client))
				close_client(client);
			continue;
		}
		let_go(&client->in);
		for (int stream = OUT; stream <= ERR; stream++)
			if (client->sinks[stream].at == client->sinks[stream].end)
				close_sink(&client->sinks[stream]);
	}
}

/* -- the health check, and starting again --------------------------------------------------- */

static void begin_health(void)
{
	me.health = fork();
	if (me.health == 0)
		be_child("health");
	me.health_at = 0;
	me.health_fd = me.health > 0 ? pidfd_of(me.health) : -1;
	if (me.health_fd < 0)
		me.health_at = now() + number("health_interval", 30000);
}

static void end_health(void)
{
	int status = 0;

	waitpid(me.health, &status, 0);
	let_go(&me.health_fd);
	me.health_at = now() + (WIFEXITED(status) && WEXITSTATUS(status) == SEARCHING ?
				number("health_start_interval", 5000) :
				number("health_interval", 30000));
}

/* Tell whether the policy starts it again; if so, when. */
static bool schedule_restart(void)
{
	bool wanted = strcmp(restart.policy, "always") == 0 ||
		      strcmp(restart.policy, "unless-stopped") == 0 ||
		      (strcmp(restart.policy, "on-failure") == 0 && me.code != 0 &&
		       (restart.most == 0 || restart.count < restart.most));

	if (!wanted || me.remove || me.terminated)
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

/* -- the loop ---------------------------------------------------------------------------------- */

/* An event of poll(2): what to do then, and about whom. */
static struct pollfd polls[11 + 4 * CLIENTS];
static struct {
	enum { INIT, STARTED, TERM, ORPHAN, ADMIT, HEAR, READER, TYPE, SOURCE, INPUT, HEALTH, MEMORY } what;
	int who, stream;
} topics[11 + 4 * CLIENTS];
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

	watch(client->fd, POLLIN, HEAR, who, 0); /* first: a farewell comes before its pipes end */
	for (int stream = OUT; stream <= ERR; stream++) {
		struct sink *sink = &client->sinks[stream];

		if (sink->fd >= 0) /* without events: poll tells when the reader has gone */
			watch(sink->fd, sink->at < sink->end || sink->todo ? POLLOUT : 0, READER,
			      who, stream);
	}
	if (client->in >= 0 && typed.at == typed.end && !me.ended) {
		if (me.pty < 0 && me.in < 0)
			let_go(&client->in); /* nobody is there to read it: let that be known */
		else
			watch(client->in, POLLIN, TYPE, who, 0);
	}
}

static void watch_all(void)
{
	watched = 0;
	if (!me.ended && me.init_fd >= 0)
		watch(me.init_fd, POLLIN, INIT, 0, 0);
	if (me.starting >= 0) /* without events: what is in there is for the command */
		watch(me.starting, 0, STARTED, 0, 0);
	if (me.term_fd >= 0)
		watch(me.term_fd, POLLIN, TERM, 0, 0);
	if (me.child_fd >= 0)
		watch(me.child_fd, POLLIN, ORPHAN, 0, 0);
	for (int i = 0; i < CLIENTS; i++)
		if (is_open(&clients[i]))
			watch_client(i);
	for (int stream = OUT; stream <= ERR; stream++)
		if (me.sources[stream] >= 0 && chunk.size == 0)
			watch(me.sources[stream], POLLIN, SOURCE, 0, stream);
	if (typed.at < typed.end && (me.pty >= 0 || me.in >= 0))
		watch(me.pty >= 0 ? me.pty : me.in, POLLOUT, INPUT, 0, 0);
	else if (me.in >= 0)
		watch(me.in, 0, INPUT, 0, 0);
	if (me.health_fd >= 0)
		watch(me.health_fd, POLLIN, HEALTH, 0, 0);
	if (me.oom_fd >= 0 && !me.out_of_memory)
		watch(me.oom_fd, POLLPRI, MEMORY, 0, 0);
	if (me.listener >= 0 && free_place())
		watch(me.listener, POLLIN, ADMIT, 0, 0); /* last: it reuses places */
}

static void act(int index)
{
	int who = topics[index].who, stream = topics[index].stream;
	struct client *client = &clients[who];

	switch (topics[index].what) {
	case INIT:
		me.ended = true;
		break;
	case STARTED:
		begin_signals();
		break;
	case TERM:
		terminate();
		break;
	case ORPHAN:
		reap_orphans();
		break;
	case HEAR:
		if (is_open(client))
			hear(client);
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
	case SOURCE:
		if (me.sources[stream] >= 0 && chunk.size == 0)
			take(stream);
		break;
	case INPUT:
		if (polls[index].revents & POLLERR && me.pty < 0)
			let_go(&me.in);
		pass_input();
		break;
	case HEALTH:
		end_health();
		break;
	case MEMORY:
		check_memory();
		break;
	case ADMIT:
		admit();
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

/* Wait for one round of events and handle them. */
static void turn(bool block)
{
	int timeout = -1;

	watch_all();
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
	let_go(&me.init_fd);
	let_go(&me.starting);
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
			turn(true);
	log_end();
	for (int stream = OUT; stream <= ERR; stream++)
		if (me.sources[stream] != me.pty)
			let_go(&me.sources[stream]);
	hang_up();
	let_go(&me.in);
	me.sources[OUT] = me.sources[ERR] = -1;
	me.done = !again;
}

/* Feed those who are slow to the end, however long it takes them; nothing else is left to do. */
static void linger(void)
{
	for (bool left = true; left;) {
		left = false;
		for (struct client *client = clients; client < clients + CLIENTS; client++) {
			if (is_open(client) && !has_backlog(client))
				close_client(client);
			left |= is_open(client);
		}
		if (left)
			turn(true);
	}
}

static void start_again(void)
{
	bool slow = false;

	for (int i = 0; i < CLIENTS; i++)
		slow |= is_open(&clients[i]) && has_backlog(&clients[i]);
	if (slow && fork() == 0) {
		let_go(&me.listener);
		restart.at = 0;
		linger();
		_exit(0);
	}
	for (int i = 0; i < CLIENTS; i++)
		if (is_open(&clients[i]) && has_backlog(&clients[i]))
			close_client(&clients[i]); /* they are the child's now */
	fcntl(me.orders, F_SETFD, 0);
	fcntl(me.listener, F_SETFD, 0);
	fcntl((int)number("lock", -1), F_SETFD, 0);
	fcntl((int)number("python_fd", -1), F_SETFD, 0);
	become_python("restart", true);
	stop_restarts(); /* there is no interpreter any more */
}

static void run(void)
{
	while (!me.done) {
		if (me.ended && me.may_reap && !me.drained) {
			me.drained = true;
			end_run();
			if (!me.done) {
				end_cgroup(false);
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
			turn(true);
	}
	clean_up();
	let_go(&me.listener);
	tell_end();
	linger();
}

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
		signal(number_, number_ == SIGCHLD ? SIG_DFL : SIG_IGN);
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
	me.may_reap = !number("hold", 0);
	me.ended = me.init == 0;
	me.begun = now();
	me.starting = (int)number("status", -1);
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

/* The command that started the container is the first client, attached from the start. After a
 * restart there are those who waited for it. */
static void begin_client(void)
{
	struct client *client = clients;

	for (int i = 0; i < CLIENTS; i++) {
		clients[i].fd = clients[i].in = -1;
		for (int stream = OUT; stream <= ERR; stream++)
			clients[i].sinks[stream].fd = clients[i].sinks[stream].spill = -1;
	}
	for (const char *fd = NULL; (fd = next_order("connection", fd)) && client < clients + CLIENTS;
	     client++) {
		client->fd = (int)to_number(fd);
		never_wait(client->fd);
	}
	if (client > clients)
		return;
	client->fd = (int)number("client", -1);
	client->in = (int)number("client_in", -1);
	client->sinks[OUT].fd = (int)number("client_out", -1);
	client->sinks[ERR].fd = (int)number("client_err", -1);
	client->attached = client->fd >= 0;
	client->leash = number("leash", 0);
	never_wait(client->fd);
	never_wait(client->in);
	never_wait(client->sinks[OUT].fd);
	never_wait(client->sinks[ERR].fd);
}

/* Tell the command that the container is in good hands: a frame of rootless/runtime/sync.py. */
static void say_hello(void)
{
	static const char hello[] = "R\6\0\0\0[null]";
	int fd = (int)number("hello", -1);

	if (fd >= 0 && write(fd, hello, sizeof(hello) - 1) < 0)
		errno = 0; /* it has gone, and with it the container, if it keeps that */
	let_go(&fd);
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
	say_hello();
	run();
	return me.code; /* systemd's Restart=on-failure looks at it */
}
