/* The log: one record or none of it, whatever the disk says. */
#include "monitor.h"

struct logs logs = { .fd = -1 };

/* The time as RFC 3339 has it, UTC, nine digits. gmtime(3) would read files and allocate. */
const char *stamp(void)
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
		renameat(me.dir, from, me.dir, to); /* ENOENT: so many there are not yet */
	}
	close_fd(&logs.fd);
}

bool log_append(struct iovec *parts, int count)
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

void log_write(int stream, const char *data, size_t size)
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

void log_end(void)
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
	close_fd(&logs.fd);
}

void log_begin(void)
{
	const char *driver = config.log;

	logs.driver = strcmp(driver, "local") == 0 ? LOG_LOCAL :
		      strcmp(driver, "json-file") == 0 ? LOG_JSON :
		      strcmp(driver, "journald") == 0 ? LOG_JOURNAL : LOG_NONE;
	logs.limit = config.log_size;
	logs.files = (int)config.log_files;
}
