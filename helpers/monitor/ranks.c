/*
 * The processes that have joined (run --join): they are nobody's children here, but known by
 * pidfd. The first process only holds the namespaces; the last one of these to end ends it.
 */
#include "monitor.h"

enum { CLEAN_UP = 2000 }; /* ms that killed processes may take to end */

int ranks[RANKS];
static int joined;
static int mount_ns = -1; /* of the container, held: its number is its own */

static bool same_mount_ns(const char *pid, const struct stat *wanted)
{
	char path[64];
	struct stat found;
	int fd;
	bool same;

	snprintf(path, sizeof(path), "/proc/%s/ns/mnt", pid);
	fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	same = fd >= 0 && fstat(fd, &found) == 0 && found.st_ino == wanted->st_ino &&
	       found.st_dev == wanted->st_dev;
	close_fd(&fd);
	return same;
}

/* Wait for who joins; not for ever: who made it may have been killed. */
void begin_ranks(void)
{
	for (int i = 0; i < RANKS; i++)
		ranks[i] = -1;
	if (config.join_timeout)
		me.kill_at = now() + config.join_timeout;
}

bool has_joined(void)
{
	return joined > 0;
}

/* Take one in hand; return an errno. */
int join_rank(int pidfd)
{
	if (!config.join_timeout)
		return EINVAL;
	if (me.ended || me.terminated || me.status_fd >= 0 || (joined == 0 && mount_ns >= 0))
		return ESRCH; /* it is ending, or has not begun */
	for (int i = 0; i < RANKS; i++) {
		char path[64];

		if (ranks[i] >= 0)
			continue;
		if (mount_ns < 0) {
			snprintf(path, sizeof(path), "/proc/%d/ns/mnt", me.init);
			mount_ns = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
			if (mount_ns < 0)
				return errno;
			me.kill_at = 0;
		}
		ranks[i] = pidfd;
		joined++;
		return 0;
	}
	return ENOSPC;
}

/* One has ended. After the last one nothing is left to hold. */
void lose_rank(int i)
{
	close_fd(&ranks[i]);
	if (--joined == 0 && !me.ended) {
		signal_init(SIGTERM);
		me.kill_at = now() + CLEAN_UP;
	}
}

void signal_ranks(int number)
{
	for (int i = 0; i < RANKS; i++)
		if (ranks[i] >= 0)
			syscall(SYS_pidfd_send_signal, ranks[i], number, NULL, 0);
}

/* Kill what is still in the container's mount namespace; tell whether there was something. */
static bool kill_inside(const struct stat *inside)
{
	struct entry {
		uint64_t inode, offset;
		uint16_t size;
		uint8_t type;
		char name[];
	};
	char block[4096];
	bool found = false;
	int dir = openat(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long size;

	while (dir >= 0 && (size = syscall(SYS_getdents64, dir, block, sizeof(block))) > 0)
		for (long at = 0; at < size; at += ((struct entry *)(block + at))->size) {
			const char *name = ((struct entry *)(block + at))->name;
			int fd;

			if (*name < '0' || *name > '9' || !same_mount_ns(name, inside))
				continue;
			fd = pidfd_of((pid_t)to_number(name));
			if (fd >= 0 && same_mount_ns(name, inside) &&
			    syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0)
				found = true;
			close_fd(&fd);
		}
	close_fd(&dir);
	return found;
}

/* End those who have joined, and what they have left in there. */
void end_ranks(void)
{
	long long deadline = now() + CLEAN_UP;
	struct stat inside;

	if (mount_ns < 0)
		return;
	signal_ranks(SIGKILL);
	for (int i = 0; i < RANKS; i++) {
		struct pollfd one = { .fd = ranks[i], .events = POLLIN };

		if (ranks[i] >= 0 && now() < deadline)
			poll(&one, 1, (int)(deadline - now()));
		close_fd(&ranks[i]);
	}
	/* Never our own one, whatever we were told. */
	if (fstat(mount_ns, &inside) == 0 && !same_mount_ns("self", &inside))
		while (kill_inside(&inside) && now() < deadline)
			poll(NULL, 0, 2);
	close_fd(&mount_ns);
}
