/* Lines to the journal, by systemd's native protocol. */
#include "monitor.h"

enum { STUCK = 5000 }; /* ms without a word after which the journal is not waited for */

static bool journal_connect(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", config.journal);
	close_fd(&logs.fd);
	logs.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (logs.fd >= 0 && connect(logs.fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		close_fd(&logs.fd);
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
			close_fd(&logs.fd);
		}
	}
}

/* Send one line by systemd's native protocol. */
bool journal_line(int stream, const char *data, size_t size)
{
	static const char partial[] = "CONTAINER_PARTIAL_MESSAGE=true\n";
	bool whole = size && data[size - 1] == '\n';
	uint64_t length = htole64(size - whole);
	const char *fields = config.journal_fields;
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
