/* Taking away what was made. */
#include "monitor.h"

enum { CLEAN_UP = 2000 }; /* ms that killed processes and helpers may take to end */

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
		if ((int)syscall(SYS_renameat2, dir, name, top, fresh, RENAME_NOREPLACE) == 0)
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
					close_fd(&child);
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
	int size = snprintf(path, sizeof(path), "%s/%s", config.names, me.name);

	if (size > 0 && (size_t)size < sizeof(path) &&
	    readlinkat(AT_FDCWD, path, owner, sizeof(owner)) == 64 && memcmp(owner, config.id, 64) == 0)
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
void reap_orphans(void)
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
	for (int i = 0; i < config.helper_pids.count; i++)
		if (to_number(config.helper_pids.values[i]) == pid)
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
		close_fd(&fd);
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

/* Kill what is left in the cgroup, and remove it, which takes until the kernel has ended them. A
 * restart makes it anew: what is cloned into a cgroup that was killed once may be killed too. */
void end_cgroup(void)
{
	long long deadline = now() + CLEAN_UP;
	int dir = *config.cgroup ? openat(AT_FDCWD, config.cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int kill = dir < 0 ? -1 : openat(dir, "cgroup.kill", O_WRONLY | O_CLOEXEC);

	end_orphans();
	close_fd(&me.oom_fd);
	if (kill >= 0 && write(kill, "1", 1) < 0)
		close_fd(&kill); /* the removal tells */
	close_fd(&kill);
	while (dir >= 0 && unlinkat(AT_FDCWD, config.cgroup, AT_REMOVEDIR) < 0 && errno != ENOENT &&
	       now() < deadline) {
		lseek(dir, 0, SEEK_SET);
		remove_cgroups(dir);
		if (unlinkat(AT_FDCWD, config.cgroup, AT_REMOVEDIR) == 0)
			break;
		rest(5);
	}
	close_fd(&dir);
}

/* Wait for a child's end. SIGCHLD is blocked: none is missed between the two calls. */
static void reap_until(pid_t pid, long long deadline)
{
	uint64_t child = 1ULL << (SIGCHLD - 1);
	long long left;

	while (waitpid(pid, NULL, WNOHANG) == 0 && (left = deadline - now()) > 0) {
		struct timespec most = { left / 1000, left % 1000 * 1000000L };

		syscall(SYS_rt_sigtimedwait, &child, NULL, &most, sizeof(child));
	}
}

/* Wait for children whose end matters: pasta if it holds a port, programs that serve mounts. */
static void reap_helpers(void)
{
	long long deadline = now() + CLEAN_UP;

	for (int i = 0; i < config.helper_pids.count; i++)
		reap_until((pid_t)to_number(config.helper_pids.values[i]), deadline);
	if (me.pasta > 0 && config.wait_pasta)
		reap_until(me.pasta, deadline);
}

/* Leave the networks, and wait until names and published ports are gone (helpers/networks). */
static void leave_networks(void)
{
	struct pollfd end = { .fd = me.member_fd, .events = POLLIN };
	char said[16];

	if (me.member_fd < 0)
		return;
	shutdown(me.member_fd, SHUT_WR);
	while (poll(&end, 1, CLEAN_UP) > 0 && read(me.member_fd, said, sizeof(said)) > 0)
		;
	close_fd(&me.member_fd);
}

/* Its AppArmor profile may take no signal of ours: it and its ports stay, and who watches is told. */
static void end_pasta(void)
{
	if (me.pasta <= 0 || kill(me.pasta, SIGKILL) == 0 || errno == ESRCH)
		return;
	for (int i = 0; i < CLIENTS; i++) {
		struct sink *sinks = clients[i].sinks;
		int fd = sinks[ERR].fd >= 0 ? sinks[ERR].fd : sinks[OUT].fd;

		if (fd >= 0)
			dprintf(fd,
				"rless: warning: pasta of container %s goes on and keeps its ports: "
				"process %d takes no signal from rless; docs/network.md says what "
				"AppArmor needs\n",
				me.name, (int)me.pasta);
	}
	me.pasta = 0; /* nobody waits for it */
}

/* Take away what was made, in the reverse order. What cannot be is left to the next command,
 * which finds the run record. */
void clean_up(void)
{
	int error = 0;
	pid_t child;

	end_ranks();
	end_pasta();
	end_cgroup();
	leave_networks();
	for (int i = 0; i < config.mounts.count; i++)
		umount2(config.mounts.values[i], MNT_DETACH | UMOUNT_NOFOLLOW);
	reap_helpers();
	if (config.remove_volumes) { /* anonymous ones; who else has them takes more to find out */
		child = fork();
		if (child == 0)
			be_child("volumes");
		if (child > 0)
			waitpid(child, NULL, 0);
	}
	if (config.remove) {
		forget_name();
		error = empty(me.dir, me.dir);
		if (error == 0 && unlinkat(AT_FDCWD, config.directory, AT_REMOVEDIR) < 0 && errno != ENOENT)
			error = errno;
		event("destroy");
	} else
		unlinkat(me.dir, "monitor", 0);
	if (error == 0 && *config.run_record)
		unlinkat(AT_FDCWD, config.run_record, 0);
}
