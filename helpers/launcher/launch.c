/*
 * The commands rless and rless-oci: start Python on their module, as fast and as sealed as it goes.
 *
 * A program finds the interpreter in a fraction of a millisecond, where a console script of pip
 * spends 8. NAME, MODULE, SOURCE, PYTHON and VERSION come from setup.py. The package is imported,
 * never run as a script, so that its bytecode is used.
 *
 * For `rless run` it forks first, and stays as the foreground process (foreground.c).
 *
 * Called by the name of a front, by a link, it starts rootless.cli.fronts in place of MODULE. What a
 * front says to --version is compiled in (FRONTS, from rootless/cli/fronts/versions.py): programs ask
 * for it before everything that they do.
 *
 * -I: nothing from the current directory, PYTHON* variables or the user's site-packages is
 * imported; -S: no site, no sitecustomize.
 */
#define _GNU_SOURCE
#include "../foreground/foreground.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONGEST 4096

/* It executes launch.py from hot.bin, if that is whole and for this interpreter: to find a module is
 * 0.3 ms of a start. Names of flags would have to be looked up: 0x80000 is O_CLOEXEC. */
static const char CODE[] =
	"import sys\n"
	"from marshal import loads\n"
	"from posix import close, open, read\n"
	"del sys.argv[0]\n"
	"lib = sys.argv[0]\n"
	"sys.path.append(lib)\n"
	"try:\n"
	" from _frozen_importlib_external import MAGIC_NUMBER\n"
	" fd = open(lib + '/rootless/hot.bin', 0x80000)\n"
	" header = read(fd, 32)\n"
	" size = int.from_bytes(header[8:12], 'little')\n"
	" part = read(fd, size)\n"
	" close(fd)\n"
	" if header[:4] != MAGIC_NUMBER or len(part) != size:\n"
	"  raise ValueError\n"
	" launch = type(sys)('rootless.launch')\n"
	" launch.__file__ = lib + '/rootless/launch.py'\n"
	" launch.hot = header, part\n"
	" exec(loads(part), launch.__dict__)\n"
	" sys.modules['rootless.launch'] = launch\n"
	"except Exception:\n"
	" from rootless import launch\n"
	"launch.foreground_fd = int(sys.argv[1])\n"
	"launch.holder = sys.argv[2]\n"
	"launch.front = sys.argv[3]\n"
	"module = sys.argv[4]\n"
	"del sys.argv[:5]\n"
	"launch.start(module)";

static const struct front { /* the line of its version is `before`, the number, `after` */
	const char *name, *before, *number, *after;
} fronts[] = { FRONTS };

static const struct front *front; /* NULL: it is called by its own name */
static int count;
static char **words, **environment;
static char foreground_fd[16] = "-1"; /* the socket to the foreground process; -1: there is none */
static char holder[48] = "";	       /* the namespace holder: its pid, its pipes for status and release */
static const char *module = MODULE;
static bool wants_holder;
static char self[LONGEST], prefix[LONGEST];

struct entry { /* struct linux_dirent64, getdents64(2) */
	unsigned long inode, next;
	unsigned short size;
	unsigned char kind;
	char name[];
};

/* Begin the namespace holder, so that it works while Python starts. If its namespaces are not what
 * the container needs, or nothing is started, it ends (rootless/linux/namespace_holder.py). */
static void begin_holder(const char *lib)
{
	char path[2 * LONGEST + 32], status[12], release[12], flags[16];
	char *argv[] = { "rless-userns-holder", status, release, flags, "-1", NULL }, *nothing[] = { NULL };
	int status_pipe[2], release_pipe[2];
	volatile bool failed = false; /* the child shares our memory */
	pid_t pid;

	snprintf(path, sizeof(path), "%s/rootless/bin/%s", lib, argv[0]);
	if (syscall(SYS_faccessat, AT_FDCWD, path, X_OK) != 0 || pipe2(status_pipe, O_CLOEXEC) < 0 ||
	    pipe2(release_pipe, O_CLOEXEC) < 0)
		return;
	snprintf(status, sizeof(status), "%d", status_pipe[1]);
	snprintf(release, sizeof(release), "%d", release_pipe[0]);
	snprintf(flags, sizeof(flags), "%d", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET);
	pid = vfork();
	if (pid == 0) {
		/* What the caller left open is not for it. */
		syscall(SYS_close_range, 3L, ~0UL, CLOSE_RANGE_CLOEXEC);
		fcntl(status_pipe[1], F_SETFD, 0L);
		fcntl(release_pipe[0], F_SETFD, 0L);
		execve(path, argv, nothing);
		failed = true;
		_exit(127);
	}
	close(status_pipe[1]);
	close(release_pipe[0]);
	if (pid < 0 || failed) {
		close(status_pipe[0]);
		close(release_pipe[1]);
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return;
	}
	fcntl(status_pipe[0], F_SETFD, 0L);
	fcntl(release_pipe[1], F_SETFD, 0L);
	snprintf(holder, sizeof(holder), "%d %d %d", (int)pid, status_pipe[0], release_pipe[1]);
}

/* Become Python on the package in a directory; return if there is no such interpreter. */
static void start(const char *python, const char *lib)
{
	char *argv[count + 12];
	int used = 0;

	if (wants_holder && !*holder)
		begin_holder(lib);
	argv[used++] = (char *)python;
	argv[used++] = "-I";
	argv[used++] = "-S";
	argv[used++] = "-c";
	argv[used++] = (char *)CODE;
	argv[used++] = (char *)lib;
	argv[used++] = foreground_fd;
	argv[used++] = holder;
	argv[used++] = (char *)(front ? front->name : "");
	argv[used++] = (char *)module;
	argv[used++] = self;
	for (int i = 0; i < count; i++)
		argv[used++] = words[i];
	argv[used] = NULL;
	execve(python, argv, environment);
}

static int has_package(const char *lib)
{
	char path[2 * LONGEST + 32];

	snprintf(path, sizeof(path), "%s/rootless/launch.py", lib);
	return syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
}

/* The package lies beside bin/: in a virtual environment, ~/.local, /usr/local or /usr. Its
 * directory tells the version of Python that it was installed for. */
static void try_directory(const char *base, const char *name, const char *packages)
{
	char lib[2 * LONGEST], python[2 * LONGEST];

	snprintf(lib, sizeof(lib), "%s/%s/%s/%s", prefix, base, name, packages);
	if (!has_package(lib))
		return;
	snprintf(python, sizeof(python), "%s/bin/%s", prefix, name);
	start(python, lib);
	if (strcmp(name, "python" VERSION) == 0)
		start(PYTHON, lib);
	snprintf(python, sizeof(python), "/usr/bin/%s", name);
	start(python, lib);
	snprintf(python, sizeof(python), "/usr/local/bin/%s", name);
	start(python, lib);
}

static void search(const char *base, const char *packages)
{
	static char buffer[16384] __attribute__((aligned(8)));
	char path[LONGEST + 8];
	long size;
	int fd;

	try_directory(base, "python" VERSION, packages); /* nearly always; else whatever is there */
	snprintf(path, sizeof(path), "%s/%s", prefix, base);
	fd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	while ((size = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < size;) {
			struct entry *entry = (struct entry *)(buffer + at);

			if (strstr(entry->name, "python3") == entry->name)
				try_directory(base, entry->name, packages);
			at += entry->size;
		}
	close(fd);
}

/* After `pip install --target DIR` the package lies in DIR itself, and the version of Python that it
 * was installed for is known only from then. */
static void start_beside(void)
{
	if (!has_package(prefix))
		return;
	start(PYTHON, prefix);
	start("/usr/bin/python" VERSION, prefix);
	start("/usr/local/bin/python" VERSION, prefix);
}

static int become_python(void)
{
	char text[2 * LONGEST];
	int size;

	if (*SOURCE) {
		snprintf(text, sizeof(text), "%s/bin/python3", prefix);
		if (has_package(SOURCE)) {
			start(text, SOURCE);
			start(PYTHON, SOURCE);
		}
	} else if (*self) {
		search("lib", "site-packages");
		search("lib", "dist-packages");
		search("lib64", "site-packages");
		start_beside();
	}
	size = snprintf(text, sizeof(text),
			NAME ": the installation of %s is broken: no Python or no package rootless "
			     "was found %s%s%sfor it; install rless again\n",
			self, *SOURCE ? "in " : "", SOURCE, *SOURCE ? " " : "");
	if (write(2, text, size < (int)sizeof(text) ? (size_t)size : sizeof(text) - 1) < 0)
		return 125;
	return 125;
}

int become_foreground(char **more, int size)
{
	module = "rootless.cli.foreground";
	words = more;
	count = size;
	return become_python();
}

static bool is_hpc(void)
{
	return front && (strcmp(front->name, "apptainer") == 0 || strstr(front->name, "singularity"));
}

/* Tell whether a word before the verb is a flag whose value is the next one, in any front. */
static bool takes_value(const char *word)
{
	static const char *const flags[] = { "--storage", "--cgroup-manager", "-c", "--config",
					     "-H",	  "--host",	      "-l", "--log-level",
					     "--context", "--root" };

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (strcmp(word, flags[i]) == 0)
			return true;
	return false;
}

/* Return the place of the verb among the words; `count`: there is none. */
static int find_verb(void)
{
	int at = 0;

	for (; at < count && *words[at] == '-'; at++)
		if (takes_value(words[at]))
			at++;
	if (at < count && strcmp(words[at], "container") == 0)
		at++;
	return at < count && strcmp(NAME, "rless") == 0 ? at : count;
}

static bool is_verb(const char *verb)
{
	int at = find_verb();

	return at < count && strcmp(words[at], verb) == 0;
}

/* Tell whether a container is to be run. With --join there may be no process of ours in it, and
 * `instance://NAME` is one that runs. */
static bool is_run(void)
{
	if (!is_verb("run") && !(is_hpc() && (is_verb("exec") || is_verb("shell") || is_verb("test"))))
		return false;
	for (int at = find_verb() + 1; at < count; at++)
		if (strstr(words[at], is_hpc() ? "--sharens" : "--join") == words[at] ||
		    (is_hpc() && strstr(words[at], "instance://") == words[at]))
			return false;
	return true;
}

/* Tell whether we are in a log-in session of a user with a systemd, so that systemd has to move us. */
static bool is_in_session(void)
{
	char text[4096];
	int fd = openat(AT_FDCWD, "/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	ssize_t size = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[size < 0 ? 0 : size] = 0;
	return strstr(text, "0::/user.slice/") && !strstr(text, "/user@");
}

/*
 * Have the kernel prepare for a move of a process between control groups by systemd, while Python
 * starts: of a start into its scope, of `exec` out of a session into the container's.
 *
 * The first move after a while waits for an RCU grace period, 4 to 20 ms; those in the next 15 ms do
 * not. So a process that nobody waits for asks for a move that is never made, that of itself as a
 * thread into another domain. The kernel finds that out when it has the lock that takes so long.
 *
 * Source: kernel/cgroup/cgroup.c, cgroup_attach_lock; Admin Guide, Control Group v2, Threads.
 */
static void prime_migration(void)
{
	char text[128];
	unsigned long user = (unsigned long)getuid();
	pid_t pid;
	int fd;

	snprintf(text, sizeof(text),
		 "/sys/fs/cgroup/user.slice/user-%lu.slice/user@%lu.service/cgroup.threads", user, user);
	fd = openat(AT_FDCWD, text, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			/* Who reads our output must not wait for us. */
			syscall(SYS_close_range, 0L, (long)fd - 1, 0L);
			syscall(SYS_close_range, (long)fd + 1, ~0UL, 0L);
			snprintf(text, sizeof(text), "%d", (int)getpid());
			_exit(write(fd, text, strlen(text)) < 0);
		}
		_exit(0);
	}
	close(fd);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

/* Guess whether the container gets a network of its own; Python knows, this only saves a process. */
static bool has_own_network(void)
{
	if (is_hpc())
		return false;
	for (int at = 0; at < count; at++)
		if (strcmp(words[at], "--hpc") == 0 || strcmp(words[at], "host") == 0 ||
		    strstr(words[at], "=host"))
			return false;
	return true;
}

/* Keep the words in `room`, and leave in `ps` of each what comes before its value: every user of the
 * host can read `-e NAME=SECRET` there. Python does so too (cli/main.py). */
static void hide_values(char *room)
{
	char *to = words[0], *end = words[count - 1] + strlen(words[count - 1]) + 1;

	for (int i = 0; i < count; i++) {
		size_t size = strlen(words[i]) + 1;
		const char *value = strchr(words[i], '=');
		size_t shown = value ? (size_t)(value - words[i]) + 1 : size - 1;

		memcpy(room, words[i], size);
		memmove(to, words[i], shown);
		to += shown;
		*to++ = 0;
		words[i] = room;
		room += size;
	}
	memset(to, 0, (size_t)(end - to));
}

/* Find the front that we are called by, before any link is resolved. */
static const struct front *find_front(const char *name)
{
	const char *slash = strrchr(name, '/');

	for (size_t i = 0; strcmp(NAME, "rless") == 0 && i < sizeof(fronts) / sizeof(*fronts); i++)
		if (strcmp(slash ? slash + 1 : name, fronts[i].name) == 0)
			return &fronts[i];
	return NULL;
}

/* Say the version of a front, if that is all that is asked; false also if it cannot be written. */
static bool says_version(void)
{
	static const char variable[] = "RLESS_FRONT_VERSION=";
	bool bare = is_hpc() && count == 1 && strcmp(words[0], "version") == 0;
	const char *number = front->number;
	char line[512];
	int size;

	if (!bare && (count == 0 || (strcmp(words[0], "--version") != 0 &&
				     (is_hpc() || strcmp(words[0], "-v") != 0))))
		return false;
	for (char **entry = environment; *entry; entry++)
		if (strstr(*entry, variable) == *entry && (*entry)[sizeof(variable) - 1])
			number = *entry + sizeof(variable) - 1;
	size = snprintf(line, sizeof(line), "%s%s%s\n", bare ? "" : front->before, number,
			bare ? "" : front->after);
	return size < (int)sizeof(line) && write(1, line, (size_t)size) == size;
}

static int begin(void)
{
	uint64_t interrupt = 1ULL << (SIGINT - 1);

	/* Python would word Ctrl-C as a fault of ours until `main` is there to catch it. */
	syscall(SYS_rt_sigprocmask, (long)SIG_BLOCK, &interrupt, NULL, sizeof(interrupt));
	return become_python();
}

static int run(void)
{
	char room[words[count - 1] + strlen(words[count - 1]) + 1 - words[0]];

	hide_values(room);
	snprintf(foreground_fd, sizeof(foreground_fd), "%d", fork_start_process());
	wants_holder = *foreground_fd != '-' && has_own_network();
	return begin();
}

int main(int argc, char **argv)
{
	ssize_t size = readlinkat(AT_FDCWD, "/proc/self/exe", self, sizeof(self) - 1);
	int slashes = 0;

	count = argc > 0 ? argc - 1 : 0;
	words = argv + argc - count;
	environment = argv + argc + 1;
	self[size < 0 ? 0 : size] = 0;
	snprintf(prefix, sizeof(prefix), "%s", self);
	for (char *at = prefix + strlen(prefix); at > prefix && slashes < 2;)
		if (*--at == '/') {
			*at = 0;
			slashes++;
		}
	front = find_front(argc > 0 ? argv[0] : "");
	if (front) {
		module = FRONT_MODULE;
		if (says_version())
			return 0;
	}
	if (is_run() || is_verb("run") || is_verb("start") ||
	    (is_verb("exec") && is_in_session()))
		prime_migration();
	return is_run() ? run() : begin();
}
