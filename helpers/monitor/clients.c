/* Connections: who comes, what they ask, what they are told. */
#include "monitor.h"

struct client clients[CLIENTS];

bool is_open(const struct client *client)
{
	return client->fd >= 0;
}

void close_client(struct client *client)
{
	close_fd(&client->fd);
	close_fd(&client->in);
	close_sink(&client->sinks[OUT]);
	close_sink(&client->sinks[ERR]);
	client->attached = client->starter = client->stop_on_disconnect = false;
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

static void dispatch(struct client *client, const unsigned char *said, size_t size, int *fds, int count)
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
	case 'J':
		error = count == 1 ? join_rank(fds[0]) : EINVAL;
		answer(client, 'j', error);
		if (error)
			break;
		return;
	case 'W':
		window.ws_row = said[1] | said[2] << 8;
		window.ws_col = said[3] | said[4] << 8;
		if (size == 5 && me.pty_fd >= 0)
			ioctl(me.pty_fd, TIOCSWINSZ, &window);
		break;
	case 'K':
		answer(client, 'k', size == 3 && said[2] ? signal_group(said[1]) : signal_init(said[1]));
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
		client->stop_on_disconnect = false;
		close_fd(&client->in); /* its end means nothing any more */
		break;
	}
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

/* The other side has gone. If it was the command that started the container, that is the end. */
static void lose_client(struct client *client)
{
	if (client->stop_on_disconnect && !me.ended) {
		stop_restarts();
		give_up_start();
		signal_init(SIGKILL);
	}
	close_client(client);
}

void read_message(struct client *client)
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
	dispatch(client, said, size, fds, count);
}

struct client *free_place(void)
{
	for (int i = 0; i < CLIENTS; i++)
		if (!is_open(&clients[i]))
			return &clients[i];
	return NULL;
}

/* Take a new client: a process of the same user, who else could be in that directory? */
void accept_client(void)
{
	struct client *client = free_place();
	int fd = accept4(me.listener_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
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
void tell_end(void)
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
		close_fd(&client->in);
		for (int stream = OUT; stream <= ERR; stream++)
			if (client->sinks[stream].at == client->sinks[stream].end)
				close_sink(&client->sinks[stream]);
	}
}

/* Feed those who are slow to the end, however long it takes them; nothing else is left to do. */
void drain(void)
{
	for (bool left = true; left;) {
		left = false;
		for (struct client *client = clients; client < clients + CLIENTS; client++) {
			if (is_open(client) && !has_backlog(client))
				close_client(client);
			left |= is_open(client);
		}
		if (left)
			poll_once(true);
	}
}

/* Tell who started the container, if it is still there. */
void tell_starter(const char *said, size_t size)
{
	for (int i = 0; i < CLIENTS; i++)
		if (clients[i].starter &&
		    send(clients[i].fd, said, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
			return; /* it has gone */
}

void tell_begun(void)
{
	tell_starter("B", 1);
	for (int i = 0; i < CLIENTS && config.stop_on_disconnect == UNTIL_BEGUN; i++)
		clients[i].stop_on_disconnect = false;
}

/* The command that started the container is the first client, attached from the start. After a
 * restart there are those who waited for it. */
void begin_client(void)
{
	struct client *client = clients;

	for (int i = 0; i < CLIENTS; i++) {
		clients[i].fd = clients[i].in = -1;
		for (int stream = OUT; stream <= ERR; stream++)
			clients[i].sinks[stream].fd = clients[i].sinks[stream].spill = -1;
	}
	for (; client < clients + config.connection_fds.count; client++) {
		client->fd = (int)to_number(config.connection_fds.values[client - clients]);
		never_wait(client->fd);
	}
	if (client > clients)
		return;
	client->fd = config.client_fd;
	client->in = config.client_stdin_fd;
	client->sinks[OUT].fd = config.client_stdout_fd;
	client->sinks[ERR].fd = config.client_stderr_fd;
	client->attached = client->starter = client->fd >= 0;
	client->stop_on_disconnect = config.stop_on_disconnect;
	never_wait(client->fd);
	never_wait(client->in);
	never_wait(client->sinks[OUT].fd);
	never_wait(client->sinks[ERR].fd);
}
