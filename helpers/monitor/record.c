/* What is told: exit.json, the ends of processes of exec, events. */
#include "monitor.h"

static bool write_file(const char *name, const char *data, size_t size)
{
	char temporary[128];
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
	close_fd(&fd);
	if (whole && renameat(me.dir, temporary, me.dir, name) == 0)
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
			me.code, *config.started ? config.started : "null",
			(long long)time.tv_sec, time.tv_nsec / 1000, *error ? error : "null",
			me.out_of_memory ? "true" : "false", restart.count, later);
}

/* Note how it ended. On a full disk the run record is overwritten, which needs no space. */
void record_exit(bool again)
{
	char said[8192], later[48] = "";
	struct timespec time;
	int size, fd;

	if (config.remove)
		return;
	clock_gettime(CLOCK_REALTIME, &time);
	if (again) {
		long long ms = time.tv_sec * 1000LL + time.tv_nsec / 1000000 + restart.delay;

		snprintf(later, sizeof(later), ",\"restart_at\":%lld.%03lld", ms / 1000, ms % 1000);
	}
	size = describe_exit(said, sizeof(said), config.error, later);
	if ((size_t)size >= sizeof(said)) /* the container chose the name in the reason */
		size = describe_exit(said, sizeof(said), "", later);
	if (write_file("exit.json", said, size))
		return;
	size = snprintf(said, sizeof(said), "{\"ended\":{\"code\":%d,\"finished\":%lld}}",
			me.code, (long long)time.tv_sec);
	fd = openat(AT_FDCWD, config.run_record, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return;
	if (write(fd, said, size) == size && ftruncate(fd, size) == 0)
		config.run_record = ""; /* it is the only witness now: the next command finds it there */
	close(fd);
}

/* Note how a process of exec ended, as rootless/engine/exec/records.py does. */
void record_exec(void)
{
	char name[96], said[96];
	struct timespec time;
	int size;

	clock_gettime(CLOCK_REALTIME, &time);
	snprintf(name, sizeof(name), "%s.end", config.exec);
	size = snprintf(said, sizeof(said), "{\"code\":%d,\"ended\":%lld}", me.code,
			(long long)time.tv_sec);
	write_file(name, said, size);
}

/* Append an event as rootless/engine/state/events.py does: one line by one write. */
void event(const char *action)
{
	static char said[1 << 15]; /* the labels of a container are of any length */
	char code[128] = "";
	struct timespec time;
	int size, fd;

	if (strcmp(action, "die") == 0)
		snprintf(code, sizeof(code), ",\"exitCode\":\"%d\"", me.code);
	if (strcmp(action, "exec_die") == 0)
		snprintf(code, sizeof(code), ",\"execID\":\"%s\",\"exitCode\":\"%d\"", config.exec,
			 me.code);
	clock_gettime(CLOCK_REALTIME, &time);
	size = snprintf(said, sizeof(said),
			"{\"time\":%lld%09ld,\"type\":\"container\",\"action\":\"%s\",\"id\":\"%s\","
			"\"attributes\":{%s,\"name\":\"%s\"%s}}\n",
			(long long)time.tv_sec, time.tv_nsec, action, config.id, config.attributes,
			me.name, code);
	if (size < 0 || (size_t)size >= sizeof(said))
		return;
	fd = openat(AT_FDCWD, config.events, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return; /* what it tells of has happened all the same */
	if (write(fd, said, size) < 0)
		size = 0;
	close(fd);
}

/* Tell whether the kernel has killed for want of memory, and say so the first time. */
void check_memory(void)
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
