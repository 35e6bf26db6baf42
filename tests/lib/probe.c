/*
 * probe: what a test runs inside a container. One verb prints one fact, read from the kernel.
 *
 * Usage: probe VERB [ARGUMENT...] [, VERB [ARGUMENT...]]...
 *
 * Static, so that a root with nothing but /probe in it will do. Facts are lines of words, the
 * first word naming the fact; a call that fails prints its error's name (EPERM) where the
 * result would stand, and the exit code stays 0: a refusal is a fact, too. Exit code 2: bad
 * usage. `probe verbs` lists the verbs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* --- printing ---------------------------------------------------------------------------- */

static const char *error_name(int error)
{
	static char number[32];
	const struct {
		int error;
		const char *name;
	} names[] = {
#define NAME(e) { e, #e }
		NAME(EPERM), NAME(ENOENT), NAME(ESRCH), NAME(EINTR), NAME(EIO), NAME(ENXIO),
		NAME(E2BIG), NAME(ENOEXEC), NAME(EBADF), NAME(ECHILD), NAME(EAGAIN), NAME(ENOMEM),
		NAME(EACCES), NAME(EFAULT), NAME(EBUSY), NAME(EEXIST), NAME(EXDEV), NAME(ENODEV),
		NAME(ENOTDIR), NAME(EISDIR), NAME(EINVAL), NAME(EMFILE), NAME(ENOTTY), NAME(ETXTBSY),
		NAME(EFBIG), NAME(ENOSPC), NAME(EROFS), NAME(EPIPE), NAME(ENOSYS), NAME(ELOOP),
		NAME(ENOTEMPTY), NAME(ENOKEY), NAME(EOPNOTSUPP), NAME(EAFNOSUPPORT),
		NAME(EADDRINUSE), NAME(EADDRNOTAVAIL), NAME(ENETUNREACH), NAME(ECONNRESET),
		NAME(EPROTONOSUPPORT), NAME(ESOCKTNOSUPPORT), NAME(ETIMEDOUT), NAME(ECONNREFUSED),
		NAME(EHOSTUNREACH), NAME(ENOBUFS), NAME(EDQUOT), NAME(EOVERFLOW), NAME(EUSERS),
#undef NAME
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (names[i].error == error)
			return names[i].name;
	snprintf(number, sizeof(number), "errno-%d", error);
	return number;
}

/* Print a system call's outcome: "ok" or the error's name. Takes its result and errno. */
static void outcome(const char *fact, long result)
{
	printf("%s %s\n", fact, result < 0 ? error_name(errno) : "ok");
}

static long number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 0);

	if (!*text || *end) {
		fprintf(stderr, "probe: not a number: %s\n", text);
		exit(2);
	}
	return (long)value;
}

/* Copy a file to standard output. */
static void dump(const char *fact, const char *path)
{
	char buffer[65536];
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		printf("%s %s\n", fact, error_name(errno));
		return;
	}
	while ((got = read(fd, buffer, sizeof(buffer))) > 0)
		fwrite(buffer, 1, (size_t)got, stdout);
	if (got < 0)
		printf("%s %s\n", fact, error_name(errno));
	close(fd);
}

static void link_fact(const char *fact, const char *path)
{
	char target[4096];
	ssize_t got = readlink(path, target, sizeof(target) - 1);

	if (got < 0)
		snprintf(target, sizeof(target), "%s", error_name(errno));
	else
		target[got] = 0;
	printf("%s %s\n", fact, target);
}

/* --- identity ---------------------------------------------------------------------------- */

static void verb_id(char **argv)
{
	uid_t r, e, s;
	gid_t gr, ge, gs, groups[1024];
	int count;

	(void)argv;
	getresuid(&r, &e, &s);
	getresgid(&gr, &ge, &gs);
	printf("uid %u %u %u %d\n", r, e, s, setfsuid((uid_t)-1));
	printf("gid %u %u %u %d\n", gr, ge, gs, setfsgid((gid_t)-1));
	count = getgroups(1024, groups);
	printf("groups");
	for (int i = 0; i < count; i++)
		printf(" %u", groups[i]);
	printf("\n");
}

static void verb_caps(char **argv)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { 0 };
	uint64_t bounding = 0, ambient = 0;

	(void)argv;
	syscall(SYS_capget, &head, data);
	for (int cap = 0; cap < 64; cap++) {
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			bounding |= UINT64_C(1) << cap;
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1)
			ambient |= UINT64_C(1) << cap;
	}
	printf("inheritable %08x%08x\n", data[1].inheritable, data[0].inheritable);
	printf("permitted %08x%08x\n", data[1].permitted, data[0].permitted);
	printf("effective %08x%08x\n", data[1].effective, data[0].effective);
	printf("bounding %016llx\n", (unsigned long long)bounding);
	printf("ambient %016llx\n", (unsigned long long)ambient);
	printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	printf("securebits %#x\n", (unsigned)prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	printf("dumpable %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
}

static void verb_seccomp(char **argv)
{
	(void)argv;
	printf("seccomp %d\n", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
}

static void verb_ns(char **argv)
{
	static const char *const kinds[] = { "user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time" };
	char path[64];

	(void)argv;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i]);
		link_fact(kinds[i], path);
	}
}

static void verb_idmap(char **argv)
{
	(void)argv;
	dump("uid_map", "/proc/self/uid_map");
	dump("gid_map", "/proc/self/gid_map");
	dump("setgroups", "/proc/self/setgroups");
}

static void verb_keyring(char **argv)
{
	(void)argv;
	/* KEYCTL_GET_KEYRING_ID of the session keyring, not created */
	long id = syscall(SYS_keyctl, 0, -3, 0);

	printf("keyring %s\n", id < 0 ? error_name(errno) : "ok");
}

/* --- the process's surroundings ---------------------------------------------------------- */

static void verb_cwd(char **argv)
{
	char path[8192];

	(void)argv;
	/* The system call, not libc's, which hides "(unreachable)". */
	long got = syscall(SYS_getcwd, path, sizeof(path));

	printf("cwd %s\n", got < 0 ? error_name(errno) : path);
}

static void verb_args(char **argv)
{
	for (int i = 0; argv[i]; i++)
		printf("arg %d %s\n", i, argv[i]);
}

static void verb_env(char **argv)
{
	(void)argv;
	for (char **entry = environ; *entry; entry++)
		printf("%s\n", *entry);
}

static void verb_fds(char **argv)
{
	char path[64], fact[64];

	(void)argv;
	/* Asked one by one: works without /proc, and opens no descriptor of its own. */
	for (int fd = 0; fd < 4096; fd++) {
		struct stat info;

		if (fcntl(fd, F_GETFD) < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		fstat(fd, &info);
		snprintf(fact, sizeof(fact), "fd %d %o", fd, info.st_mode & S_IFMT);
		link_fact(fact, path);
	}
}

static void verb_stat(char **argv)
{
	struct stat info;
	const char *kind;

	for (; *argv; argv++) {
		if (lstat(*argv, &info) < 0) {
			printf("stat %s %s\n", *argv, error_name(errno));
			continue;
		}
		kind = S_ISREG(info.st_mode)	? "file"
		       : S_ISDIR(info.st_mode)	? "dir"
		       : S_ISLNK(info.st_mode)	? "link"
		       : S_ISCHR(info.st_mode)	? "char"
		       : S_ISBLK(info.st_mode)	? "block"
		       : S_ISFIFO(info.st_mode) ? "fifo"
						: "socket";
		printf("stat %s %s %04o %u %u %lld %u:%u %lu\n", *argv, kind,
		       info.st_mode & 07777, info.st_uid, info.st_gid, (long long)info.st_size,
		       major(info.st_rdev), minor(info.st_rdev), (unsigned long)info.st_nlink);
	}
}

static void verb_readlink(char **argv)
{
	link_fact("readlink", argv[0]);
}

static void verb_ls(char **argv)
{
	DIR *directory = opendir(argv[0]);
	struct dirent *entry;

	if (!directory) {
		printf("ls %s\n", error_name(errno));
		return;
	}
	while ((entry = readdir(directory)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			printf("%s\n", entry->d_name);
	closedir(directory);
}

static void verb_pids(char **argv)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;

	(void)argv;
	printf("pids");
	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			printf(" %s", entry->d_name);
	printf(directory ? "\n" : " none\n");
	if (directory)
		closedir(directory);
}

static void verb_mounts(char **argv)
{
	(void)argv;
	dump("mounts", "/proc/self/mountinfo");
}

static void verb_cgroup(char **argv)
{
	(void)argv;
	dump("cgroup", "/proc/self/cgroup");
}

static void verb_rlimits(char **argv)
{
	static const struct {
		int limit;
		const char *name;
	} limits[] = {
		{ RLIMIT_AS, "as" }, { RLIMIT_CORE, "core" }, { RLIMIT_CPU, "cpu" },
		{ RLIMIT_DATA, "data" }, { RLIMIT_FSIZE, "fsize" }, { RLIMIT_LOCKS, "locks" },
		{ RLIMIT_MEMLOCK, "memlock" }, { RLIMIT_MSGQUEUE, "msgqueue" },
		{ RLIMIT_NICE, "nice" }, { RLIMIT_NOFILE, "nofile" }, { RLIMIT_NPROC, "nproc" },
		{ RLIMIT_RSS, "rss" }, { RLIMIT_RTPRIO, "rtprio" }, { RLIMIT_RTTIME, "rttime" },
		{ RLIMIT_SIGPENDING, "sigpending" }, { RLIMIT_STACK, "stack" },
	};

	(void)argv;
	for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++) {
		struct rlimit both;

		getrlimit(limits[i].limit, &both);
		/* -1 is no limit */
		printf("%s %lld %lld\n", limits[i].name, (long long)both.rlim_cur,
		       (long long)both.rlim_max);
	}
}

static void verb_hostname(char **argv)
{
	struct utsname name;

	(void)argv;
	uname(&name);
	printf("hostname %s\ndomainname %s\n", name.nodename, name.domainname);
}

static void verb_sysctl(char **argv)
{
	char path[512];

	snprintf(path, sizeof(path), "/proc/sys/%s", argv[0]);
	for (char *at = path + strlen("/proc/sys/"); *at; at++)
		if (*at == '.')
			*at = '/';
	dump("sysctl", path);
}

static void verb_umask(char **argv)
{
	(void)argv;
	printf("umask %04o\n", umask(0));
}

/* How the kernel treats it: scheduler, I/O priority, CPUs, execution domain, memory policy. */
static void verb_scheduling(char **argv)
{
	struct utsname name;
	unsigned long cpus = 0;
	int memory = -1;
	long io = syscall(SYS_ioprio_get, 1, 0);

	(void)argv;
	uname(&name);
	syscall(SYS_sched_getaffinity, 0, sizeof(cpus), &cpus);
	syscall(SYS_get_mempolicy, &memory, NULL, 0, NULL, 0);
	printf("policy %d\n", (int)syscall(SYS_sched_getscheduler, 0) /* musl has none */);
	printf("nice %d\n", (int)(20 - syscall(SYS_getpriority, 0, 0)));
	printf("io %ld %ld\n", io >> 13, io & 0x1fff);
	printf("cpus %#lx\n", cpus);
	printf("personality %#x\n", (unsigned)syscall(SYS_personality, 0xffffffff));
	printf("machine %s\n", name.machine);
	printf("mempolicy %#x\n", (unsigned)memory);
}

/* Seconds of the clocks that a time namespace has of its own. */
static void verb_clocks(char **argv)
{
	struct timespec monotonic, boottime;

	(void)argv;
	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	clock_gettime(CLOCK_BOOTTIME, &boottime);
	printf("monotonic %lld\nboottime %lld\n", (long long)monotonic.tv_sec,
	       (long long)boottime.tv_sec);
}

/* Say READY=1 and more to $NOTIFY_SOCKET, as sd_notify(3). */
static void verb_notify(char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path ? path : "");
	outcome("notify", sendto(fd, argv[0], strlen(argv[0]), 0, (struct sockaddr *)&address,
				 sizeof(address)));
	close(fd);
}

/* Ask the HTTP server of a unix socket, and show the first line that it answers. */
static void verb_ask(char **argv)
{
	static const char question[] = "GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n";
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char answer[4096] = "";

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[0]);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		snprintf(answer, sizeof(answer), "%s", strerror(errno));
	else if (write(fd, question, sizeof(question) - 1) > 0)
		answer[read(fd, answer, sizeof(answer) - 1) > 0 ? sizeof(answer) - 1 : 0] = 0;
	answer[strcspn(answer, "\r\n")] = 0;
	printf("ask %s\n", answer);
	close(fd);
}

static void verb_oom_score_adj(char **argv)
{
	(void)argv;
	dump("oom_score_adj", "/proc/self/oom_score_adj");
}

static void verb_session(char **argv)
{
	(void)argv;
	printf("pid %d\nppid %d\npgid %d\nsid %d\n", getpid(), getppid(), getpgrp(), getsid(0));
}

static void verb_tty(char **argv)
{
	struct winsize size = { 0 };
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

	(void)argv;
	printf("isatty %d %d %d\n", isatty(0), isatty(1), isatty(2));
	printf("controlling %s\n", fd < 0 ? error_name(errno) : "ok");
	if (fd >= 0)
		close(fd);
	if (isatty(0)) {
		printf("foreground %d %d\n", tcgetpgrp(0), getpgrp());
		if (ioctl(0, TIOCGWINSZ, &size) == 0)
			printf("winsize %d %d\n", size.ws_row, size.ws_col);
	}
}

static void verb_signals(char **argv)
{
	(void)argv;
	printf("ignored");
	for (int signal = 1; signal < NSIG; signal++) {
		struct sigaction action;

		if (sigaction(signal, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
			printf(" %d", signal);
	}
	printf("\nblocked");
	sigset_t mask;

	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int signal = 1; signal < NSIG; signal++)
		if (sigismember(&mask, signal) == 1)
			printf(" %d", signal);
	printf("\n");
}

/* --- files ------------------------------------------------------------------------------- */

static void verb_write(char **argv)
{
	int fd = open(argv[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	long result = fd;

	if (fd >= 0) {
		result = write(fd, argv[1], strlen(argv[1]));
		if (close(fd) < 0)
			result = -1;
	}
	outcome("write", result);
}

static void verb_read(char **argv)
{
	dump("read", argv[0]);
}

static void verb_mkdir(char **argv)
{
	outcome("mkdir", mkdir(argv[0], 0755));
}

static void verb_unlink(char **argv)
{
	outcome("unlink", unlink(argv[0]));
}

static void verb_chown(char **argv)
{
	outcome("chown", lchown(argv[0], (uid_t)number(argv[1]), (gid_t)number(argv[2])));
}

static void verb_cat(char **argv)
{
	char buffer[65536];
	ssize_t got;

	(void)argv;
	fflush(stdout);
	while ((got = read(0, buffer, sizeof(buffer))) > 0)
		for (ssize_t done = 0, put; done < got; done += put)
			if ((put = write(1, buffer + done, (size_t)(got - done))) < 0)
				exit(1);
}

/* Byte i is (i * 31 + i / 65536) mod 256: a lost, doubled or swapped block shows. */
static void verb_emit(char **argv)
{
	static unsigned char buffer[65536];
	uint64_t left = (uint64_t)number(argv[0]), block = 0;

	fflush(stdout);
	for (; left; block++) {
		size_t size = left < sizeof(buffer) ? (size_t)left : sizeof(buffer);

		for (size_t i = 0; i < size; i++)
			buffer[i] = (unsigned char)(i * 31 + block);
		for (size_t done = 0; done < size;) {
			ssize_t put = write(1, buffer + done, size - done);

			if (put < 0)
				exit(1);
			done += (size_t)put;
		}
		left -= size;
	}
}

static void verb_stderr(char **argv)
{
	fprintf(stderr, "%s\n", argv[0]);
}

/* --- processes and signals --------------------------------------------------------------- */

static void ready(void)
{
	printf("ready\n");
	fflush(stdout);
}

static void verb_sleep(char **argv)
{
	double wanted = strtod(argv[0], NULL);
	struct timespec left = { (time_t)wanted, (long)((wanted - (double)(time_t)wanted) * 1e9) };

	fflush(stdout);
	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static void verb_exit(char **argv)
{
	fflush(stdout);
	exit((int)number(argv[0]));
}

static void verb_kill_self(char **argv)
{
	fflush(stdout);
	kill(getpid(), (int)number(argv[0]));
}

static void verb_ignore_term(char **argv)
{
	(void)argv;
	signal(SIGTERM, SIG_IGN);
	ready();
	for (;;)
		pause();
}

static int trapped_code;

static void trap(int signal)
{
	(void)signal;
	_exit(trapped_code);
}

static void verb_trap_term(char **argv)
{
	trapped_code = (int)number(argv[0]);
	signal(SIGTERM, trap);
	ready();
	for (;;)
		pause();
}

/* Print each signal that arrives, until one of that number has. */
static void verb_wait_signal(char **argv)
{
	int last = (int)number(argv[0]), got;
	sigset_t all;

	memset(&all, 0xff, sizeof(all)); /* sigfillset leaves out what the C library uses */
	sigprocmask(SIG_BLOCK, &all, NULL);
	ready();
	do {
		got = sigwaitinfo(&all, NULL);
		printf("signal %d\n", got);
		fflush(stdout);
	} while (got != last);
}

/* Leave N orphans that end at once, then print how many of them nobody has reaped. */
static void verb_spawn_zombies(char **argv)
{
	long wanted = number(argv[0]), left = 0;
	pid_t *orphans = calloc((size_t)wanted, sizeof(*orphans));
	int ends[2];

	fflush(stdout);
	if (!orphans || pipe(ends) < 0)
		exit(2);
	for (long i = 0; i < wanted; i++) {
		pid_t middle = fork();

		if (middle == 0) {
			pid_t orphan = fork();

			if (orphan == 0)
				_exit(0);
			_exit(write(ends[1], &orphan, sizeof(orphan)) < 0);
		}
		waitpid(middle, NULL, 0);
		if (read(ends[0], &orphans[i], sizeof(*orphans)) < 0)
			exit(2);
	}
	/* A zombie still answers signal 0. Needs no /proc. Up to 2 s for a slow machine. */
	for (int tries = 0; tries < 40; tries++) {
		left = 0;
		for (long i = 0; i < wanted; i++)
			left += kill(orphans[i], 0) == 0;
		if (!left)
			break;
		usleep(50000);
	}
	printf("zombies %ld\n", left);
	free(orphans);
}

static void verb_fork_bomb(char **argv)
{
	long wanted = number(argv[0]), made = 0;

	fflush(stdout);
	for (; made < wanted; made++) {
		pid_t pid = fork();

		if (pid == 0) {
			pause();
			_exit(0);
		}
		if (pid < 0)
			break;
	}
	printf("forked %ld\n", made);
	fflush(stdout);
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
}

static void verb_memory(char **argv)
{
	size_t size = (size_t)number(argv[0]) << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		printf("memory %s\n", error_name(errno));
		return;
	}
	memset(memory, 1, size);
	printf("memory ok\n");
}

static void verb_exec(char **argv)
{
	fflush(stdout);
	execv(argv[0], argv);
	printf("exec %s\n", error_name(errno));
}

static void verb_setuid(char **argv)
{
	outcome("setuid", setuid((uid_t)number(argv[0])));
}

/* --- network ----------------------------------------------------------------------------- */

/* Fill an address from a numeric host and a port; return its size. */
static socklen_t address(struct sockaddr_storage *out, const char *host, const char *port)
{
	struct sockaddr_in *four = (struct sockaddr_in *)out;
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)out;

	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((uint16_t)number(port));
		return sizeof(*four);
	}
	if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons((uint16_t)number(port));
		return sizeof(*six);
	}
	fprintf(stderr, "probe: not a numeric address: %s\n", host);
	exit(2);
}

/* connect HOST PORT: print the outcome, then what the other side says. */
static void verb_connect(char **argv)
{
	struct sockaddr_storage to;
	socklen_t size = address(&to, argv[0], argv[1]);
	struct timeval limit = { 5, 0 };
	char buffer[4096];
	ssize_t got;
	int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		outcome("connect", fd);
		return;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	int result = connect(fd, (struct sockaddr *)&to, size);

	outcome("connect", result);
	while (result == 0 && (got = read(fd, buffer, sizeof(buffer))) > 0)
		fwrite(buffer, 1, (size_t)got, stdout);
	close(fd);
}

/* listen HOST PORT COUNT TEXT: say TEXT and the caller's address to COUNT callers. */
static void verb_listen(char **argv)
{
	struct sockaddr_storage at;
	socklen_t size = address(&at, argv[0], argv[1]);
	int one = 1, fd = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&at, size) < 0 || listen(fd, 16) < 0) {
		printf("listen %s\n", error_name(errno));
		return;
	}
	ready();
	for (long left = number(argv[2]); left; left--) {
		struct sockaddr_storage from;
		char name[INET6_ADDRSTRLEN] = "?";

		size = sizeof(from);
		int caller = accept4(fd, (struct sockaddr *)&from, &size, SOCK_CLOEXEC);

		if (caller < 0)
			continue;
		inet_ntop(from.ss_family,
			  from.ss_family == AF_INET
				  ? (void *)&((struct sockaddr_in *)&from)->sin_addr
				  : (void *)&((struct sockaddr_in6 *)&from)->sin6_addr,
			  name, sizeof(name));
		dprintf(caller, "%s %s\n", argv[3], name);
		close(caller);
	}
	close(fd);
}

/* ping HOST: whether it answers an ICMP echo of an unprivileged socket, within 5 s. */
static void verb_ping(char **argv)
{
	struct sockaddr_storage to;
	socklen_t size = address(&to, argv[0], "0");
	int four = to.ss_family == AF_INET;
	struct timeval limit = { 5, 0 };
	char echo[16] = { four ? 8 : (char)128 };
	int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, four ? IPPROTO_ICMP : IPPROTO_ICMPV6);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (fd < 0 || sendto(fd, echo, sizeof(echo), 0, (struct sockaddr *)&to, size) < 0)
		outcome("ping", -1);
	else
		outcome("ping", recv(fd, echo, sizeof(echo), 0));
	close(fd);
}

/* send-raw HOST PORT TO: a datagram to HOST by its header, which the kernel is told to send to TO. */
static void verb_send_raw(char **argv)
{
	struct sockaddr_storage host, to;
	struct { /* RFC 791, RFC 768; the kernel fills in what is 0 here, but for UDP's checksum */
		uint8_t version, service;
		uint16_t size, number, fragment;
		uint8_t hops, protocol;
		uint16_t checksum;
		struct in_addr from, to;
		uint16_t source, target, length, sum;
	} packet = { 0x45, 0, htons(sizeof(packet)), 0, 0, 64, IPPROTO_UDP, 0, { 0 }, { 0 },
		     htons(4444), 0, htons(8), 0 };
	socklen_t size = address(&to, argv[2], "0");
	int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

	address(&host, argv[0], argv[1]);
	packet.to = ((struct sockaddr_in *)&host)->sin_addr;
	packet.target = ((struct sockaddr_in *)&host)->sin_port;
	outcome("send-raw", fd < 0 ? fd : sendto(fd, &packet, sizeof(packet), 0, (struct sockaddr *)&to, size));
	close(fd);
}

/* resolve NAME: ask the first name server of /etc/resolv.conf for an IPv4 address. By hand: a
 * static getaddrinfo needs the shared libraries of the libc that it was built with. */
static void verb_resolve(char **argv)
{
	unsigned char packet[1500] = { 0x12, 0x34, 1, 0, 0, 1 };
	size_t length = 12;
	char line[512], server[128] = "";
	struct sockaddr_storage to;
	struct timeval limit = { 5, 0 };
	FILE *conf = fopen("/etc/resolv.conf", "re");

	while (conf && !*server && fgets(line, sizeof(line), conf))
		if (sscanf(line, "nameserver %127s", server) != 1)
			*server = 0;
	if (conf)
		fclose(conf);
	if (!*server || strlen(argv[0]) > 250) {
		printf("resolve no-server\n");
		return;
	}
	for (const char *at = argv[0]; *at;) {
		size_t label = strcspn(at, ".");

		packet[length++] = (unsigned char)label;
		memcpy(packet + length, at, label);
		length += label;
		at += label + (at[label] == '.');
	}
	memcpy(packet + length, "\0\0\1\0\1", 5); /* root, type A, class IN */
	length += 5;

	socklen_t size = address(&to, server, "53");
	int fd = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&to, size) < 0 || send(fd, packet, length, 0) < 0) {
		printf("resolve %s\n", error_name(errno));
		return;
	}
	ssize_t got = recv(fd, packet, sizeof(packet), 0);

	close(fd);
	if (got < 12)
		printf("resolve %s\n", error_name(errno));
	else
		printf("resolve rcode-%d answers-%d\n", packet[3] & 15, packet[6] << 8 | packet[7]);
}

/* --- system calls, allowed or not -------------------------------------------------------- */

/* Make an i386 call from this 64-bit program, as a hostile one would. */
static long call_i386(long nr, long a, long b, long c)
{
#ifdef __x86_64__
	long result;

	/* int $0x80 clobbers r8 to r11 on older kernels; pointers must be below 4 GiB. */
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(nr), "b"(a), "c"(b), "d"(c)
			 : "r8", "r9", "r10", "r11", "memory");
	result = (int)result;
	if (result < 0 && result > -4096) {
		errno = (int)-result;
		return -1;
	}
	return result;
#else
	(void)nr, (void)a, (void)b, (void)c;
	errno = ENOSYS;
	return -1;
#endif
}

/* Print what a call does. In a child: it may succeed, or be answered by a signal. */
static void attempt(const char *fact, long (*call)(const long *), const long *args)
{
	int status;

	fflush(stdout);
	pid_t child = fork();

	if (child == 0) {
		outcome(fact, call(args));
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		printf("%s signal-%d\n", fact, WTERMSIG(status));
}

static long native(const long *a)
{
	return syscall(a[0], a[1], a[2], a[3], a[4], a[5], a[6]);
}

static long x32(const long *a)
{
	return syscall(a[0] | 0x40000000, a[1], a[2], a[3], a[4], a[5], a[6]);
}

static long i386(const long *a)
{
	return call_i386(a[0], a[1], a[2], a[3]);
}

static long parse(char **argv, long *args)
{
	long count = 0;

	for (; argv[count] && count < 7; count++)
		args[count] = number(argv[count]);
	return count;
}

/* Three raw verbs: any number, any arguments. */
static void verb_syscall(char **argv)
{
	long args[7] = { 0 };

	parse(argv, args);
	attempt("syscall", native, args);
}

static void verb_syscall_x32(char **argv)
{
	long args[7] = { 0 };

	parse(argv, args);
	attempt("syscall-x32", x32, args);
}

static void verb_syscall_i386(char **argv)
{
	long args[7] = { 0 };

	parse(argv, args);
	attempt("syscall-i386", i386, args);
}

static long try_clone3(const long *a)
{
	struct clone_args wanted = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &wanted, sizeof(wanted));

	(void)a;
	if (pid == 0)
		_exit(0);
	return pid;
}

static long try_clone_user(const long *a)
{
	long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);

	(void)a;
	if (pid == 0)
		_exit(0);
	return pid;
}

static long try_i386_vsock(const long *a)
{
	/* The arguments of socketcall must lie where 32 bits can point. */
	int *args = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
#ifdef MAP_32BIT
			 MAP_32BIT |
#endif
				 MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);

	if (args == MAP_FAILED)
		return -1;
	args[0] = (int)a[0];
	args[1] = SOCK_STREAM;
	args[2] = 0;
	return call_i386(102, 1, (long)args, 0); /* socketcall(SYS_SOCKET) */
}

static long try_tiocsti(const long *a)
{
	return syscall(SYS_ioctl, 0, TIOCSTI | a[0], "x");
}

static long try_mknod(const long *a)
{
	(void)a;
	return mknod("/probe-node", S_IFCHR | 0600, makedev(1, 3));
}

static long try_mount(const long *a)
{
	(void)a;
	return syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL);
}

static long try_add_key(const long *a)
{
	(void)a;
	return syscall(SYS_add_key, "user", "probe", "x", 1, -3);
}

static long try_request_key(const long *a)
{
	(void)a;
	return syscall(SYS_request_key, "user", "probe", NULL, 0);
}

#define HIGH (1L << 32) /* in the half of an argument that the kernel does not look at */

static const struct attempt {
	const char *name;
	long (*call)(const long *);
	long args[7];
} attempts[] = {
	{ "unshare-user", native, { SYS_unshare, CLONE_NEWUSER } },
	{ "unshare-net", native, { SYS_unshare, CLONE_NEWNET } },
	{ "setns", native, { SYS_setns, 0, 0 } },
	{ "clone-user", try_clone_user, { 0 } },
	{ "clone3", try_clone3, { 0 } },
	{ "tiocsti", try_tiocsti, { 0 } },
	{ "tiocsti-high", try_tiocsti, { HIGH } },
	{ "tioclinux", native, { SYS_ioctl, 0, TIOCLINUX, 0 } },
	{ "keyctl", native, { SYS_keyctl, 0, -3, 0 } },
	{ "add_key", try_add_key, { 0 } },
	{ "request_key", try_request_key, { 0 } },
	{ "bpf", native, { SYS_bpf, 0, 0, 0 } },
	{ "userfaultfd", native, { SYS_userfaultfd, 1 } },
	{ "io_uring", native, { 425, 1, 0 } },
	{ "perf", native, { SYS_perf_event_open, 0, 0, -1, -1, 0 } },
	{ "vsock", native, { SYS_socket, 40, SOCK_STREAM, 0 } },
	{ "vsock-high", native, { SYS_socket, 40 | HIGH, SOCK_STREAM, 0 } },
	{ "audit", native, { SYS_socket, 16, SOCK_RAW, 9 } },
	{ "audit-high", native, { SYS_socket, 16 | HIGH, SOCK_RAW, 9 | HIGH } },
	{ "netlink", native, { SYS_socket, 16, SOCK_RAW, 0 } },
	{ "packet", native, { SYS_socket, 17, SOCK_RAW, 0 } },
	{ "packet-old", native, { SYS_socket, AF_INET, 10 | SOCK_CLOEXEC, 0 } },
	{ "xdp", native, { SYS_socket, 44, SOCK_RAW, 0 } },
	{ "packet-bypass", native, { SYS_setsockopt, -1, 263, 20, 0, 0 } },
	{ "raw", native, { SYS_socket, AF_INET, SOCK_RAW, IPPROTO_ICMP } },
	{ "alg", native, { SYS_socket, 38, SOCK_SEQPACKET, 0 } },
	{ "socket", native, { SYS_socket, AF_INET, SOCK_STREAM, 0 } },
	{ "ptrace", native, { SYS_ptrace, 0, 0, 0, 0 } },
	{ "mount", try_mount, { 0 } },
	{ "mknod", try_mknod, { 0 } },
	{ "kexec", native, { SYS_kexec_load, 0, 0, 0, 0 } },
	{ "open-by-handle", native, { SYS_open_by_handle_at, -1, 0, 0 } },
	{ "personality", native, { SYS_personality, 0x0040000 } },
	{ "unknown", native, { 599 } },
	{ "x32-getpid", x32, { 39 } },
	{ "i386-getpid", i386, { 20 } },
	{ "i386-unshare", i386, { 310, CLONE_NEWUSER } },
	{ "i386-keyctl", i386, { 288, 0, -3, 0 } },
	{ "i386-tiocsti", i386, { 54, 0, TIOCSTI, 0 } },
	{ "i386-vsock", i386, { 359, 40, SOCK_STREAM, 0 } },
	{ "i386-audit", i386, { 359, 16, SOCK_RAW, 9 } },
	{ "i386-socket", i386, { 359, AF_INET, SOCK_STREAM, 0 } },
	{ "i386-socketcall-vsock", try_i386_vsock, { 40 } },
	{ "i386-socketcall-setsockopt", i386, { 102, 14, 0 } },
	{ "i386-unknown", i386, { 599 } },
};

static void try_one(const struct attempt *one)
{
	char fact[64];

	snprintf(fact, sizeof(fact), "try-%s", one->name);
	attempt(fact, one->call, one->args);
}

static void verb_try_all(char **argv)
{
	(void)argv;
	for (size_t i = 0; i < sizeof(attempts) / sizeof(*attempts); i++)
		try_one(&attempts[i]);
}

/* --- verbs ------------------------------------------------------------------------------- */

static void verb_verbs(char **argv);

static const struct verb {
	const char *name;
	int arguments; /* at least so many */
	void (*run)(char **argv);
} verbs[] = {
	{ "id", 0, verb_id },
	{ "caps", 0, verb_caps },
	{ "seccomp", 0, verb_seccomp },
	{ "ns", 0, verb_ns },
	{ "idmap", 0, verb_idmap },
	{ "keyring", 0, verb_keyring },
	{ "cwd", 0, verb_cwd },
	{ "args", 0, verb_args },
	{ "env", 0, verb_env },
	{ "fds", 0, verb_fds },
	{ "stat", 1, verb_stat },
	{ "readlink", 1, verb_readlink },
	{ "ls", 1, verb_ls },
	{ "pids", 0, verb_pids },
	{ "mounts", 0, verb_mounts },
	{ "cgroup", 0, verb_cgroup },
	{ "rlimits", 0, verb_rlimits },
	{ "hostname", 0, verb_hostname },
	{ "sysctl", 1, verb_sysctl },
	{ "umask", 0, verb_umask },
	{ "oom_score_adj", 0, verb_oom_score_adj },
	{ "scheduling", 0, verb_scheduling },
	{ "clocks", 0, verb_clocks },
	{ "notify", 1, verb_notify },
	{ "session", 0, verb_session },
	{ "tty", 0, verb_tty },
	{ "signals", 0, verb_signals },
	{ "write", 2, verb_write },
	{ "read", 1, verb_read },
	{ "mkdir", 1, verb_mkdir },
	{ "unlink", 1, verb_unlink },
	{ "chown", 3, verb_chown },
	{ "cat", 0, verb_cat },
	{ "emit", 1, verb_emit },
	{ "stderr", 1, verb_stderr },
	{ "sleep", 1, verb_sleep },
	{ "exit", 1, verb_exit },
	{ "kill-self", 1, verb_kill_self },
	{ "ignore-term", 0, verb_ignore_term },
	{ "trap-term", 1, verb_trap_term },
	{ "wait-signal", 1, verb_wait_signal },
	{ "spawn-zombies", 1, verb_spawn_zombies },
	{ "fork-bomb", 1, verb_fork_bomb },
	{ "memory", 1, verb_memory },
	{ "exec", 1, verb_exec },
	{ "setuid", 1, verb_setuid },
	{ "connect", 2, verb_connect },
	{ "listen", 4, verb_listen },
	{ "ping", 1, verb_ping },
	{ "send-raw", 3, verb_send_raw },
	{ "resolve", 1, verb_resolve },
	{ "ask", 1, verb_ask },
	{ "syscall", 1, verb_syscall },
	{ "syscall-x32", 1, verb_syscall_x32 },
	{ "syscall-i386", 1, verb_syscall_i386 },
	{ "try-all", 0, verb_try_all },
	{ "verbs", 0, verb_verbs },
};

static void verb_verbs(char **argv)
{
	(void)argv;
	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		printf("%s %d\n", verbs[i].name, verbs[i].arguments);
	for (size_t i = 0; i < sizeof(attempts) / sizeof(*attempts); i++)
		printf("try-%s 0\n", attempts[i].name);
}

static void run(char **words, int count)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
		if (strcmp(verbs[i].name, words[0]) == 0 && count > verbs[i].arguments) {
			verbs[i].run(words + 1);
			return;
		}
	for (size_t i = 0; i < sizeof(attempts) / sizeof(*attempts); i++)
		if (strncmp(words[0], "try-", 4) == 0 && strcmp(attempts[i].name, words[0] + 4) == 0) {
			try_one(&attempts[i]);
			return;
		}
	fprintf(stderr, "probe: no such verb, or too few arguments: %s\n", words[0]);
	exit(2);
}

int main(int argc, char **argv)
{
	int first = 1;

	if (argc < 2) {
		fprintf(stderr, "usage: probe VERB [ARGUMENT...] [, VERB [ARGUMENT...]]...\n");
		return 2;
	}
	for (int at = 1; at <= argc; at++) {
		if (at < argc && strcmp(argv[at], ",") != 0)
			continue;
		argv[at] = NULL; /* argv[argc] is NULL already */
		if (at > first)
			run(argv + first, at - first);
		first = at + 1;
	}
	return fflush(stdout) == 0 ? 0 : 1;
}
