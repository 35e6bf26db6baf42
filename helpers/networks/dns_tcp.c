/* Names by TCP, for what is too long for a datagram: a length in two bytes, and the message. */
#include "networks.h"

enum { QUERY = 4096, IDLE = 10000, ANSWER = 5000 };
enum state { READING, ASKING, HEARING, WRITING };

int stream_fds[STREAMS];

static struct stream {
	int fd, up; /* the asker's connection, -1: this place is free; and that to the server */
	enum state state;
	int at, attempt;
	long long deadline;
	uint8_t query[2 + QUERY], answer[2 + LONGEST];
} streams[STREAMS];

static int listener;

static int length(const uint8_t *message)
{
	return message[0] << 8 | message[1];
}

static struct address asker(int fd)
{
	struct sockaddr_storage name;
	socklen_t size = sizeof(name);

	memset(&name, 0, sizeof(name));
	syscall(SYS_getpeername, fd, &name, &size);
	return address_of(&name);
}

static void leave_server(struct stream *stream)
{
	if (stream->up < 0)
		return;
	epoll_ctl(the_epoll, EPOLL_CTL_DEL, stream->up, NULL);
	if (stream->up == stream_fds[stream - streams])
		disconnect(stream->up);
	else
		close(stream->up);
	stream->up = -1;
}

static void end(struct stream *stream)
{
	leave_server(stream);
	close(stream->fd);
	stream->fd = -1;
}

static void expect(struct stream *stream, enum state state)
{
	stream->state = state;
	stream->at = 0;
	/* Without interest in it the kernel still tells that the asker has gone. */
	stream->deadline = now() + (state == ASKING || state == HEARING ? ANSWER : IDLE);
	watch(stream->fd, STREAM, (int)(stream - streams),
	      state == READING ? EPOLLIN : state == WRITING ? EPOLLOUT : 0);
}

/* Connect to the next server that is there. */
static void ask(struct stream *stream)
{
	int number = (int)(stream - streams);
	struct address from = asker(stream->fd);

	leave_server(stream);
	for (;; stream->attempt++) {
		struct server server = dns_server(&from, stream->attempt);
		struct sockaddr_storage to;
		socklen_t size = socket_address(&server.address, 53, server.scope, &to);

		if (!server.address.size) {
			end(stream);
			return;
		}
		stream->up = server.inside ? make_socket(to.ss_family, SOCK_STREAM) : stream_fds[number];
		if (!server.inside)
			size = host_address(stream->up, &server, &to);
		if (stream->up >= 0 && (connect(stream->up, (struct sockaddr *)&to, size) == 0 ||
					errno == EINPROGRESS))
			break;
		if (server.inside && stream->up >= 0)
			close(stream->up);
		stream->up = -1;
	}
	expect(stream, ASKING);
	watch(stream->up, STREAM_UP, number, EPOLLOUT);
}

static void read_query(struct stream *stream)
{
	int wanted = stream->at < 2 ? 2 : 2 + length(stream->query), size;
	ssize_t got;

	if (wanted > 2 + QUERY) {
		end(stream);
		return;
	}
	got = recv(stream->fd, stream->query + stream->at, (size_t)(wanted - stream->at), MSG_DONTWAIT);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		end(stream);
		return;
	}
	stream->at += (int)got;
	if (stream->at < 2 || stream->at < 2 + length(stream->query))
		return;
	struct address from = asker(stream->fd);

	size = dns_local(stream->query + 2, length(stream->query), &from, stream->answer + 2, 4096);
	stream->attempt = 0;
	if (size < 0)
		end(stream);
	else if (size == 0)
		ask(stream);
	else {
		stream->answer[0] = (uint8_t)(size >> 8);
		stream->answer[1] = (uint8_t)size;
		expect(stream, WRITING);
	}
}

static void send_query(struct stream *stream)
{
	int size = 2 + length(stream->query);

	/* A query is short, the connection fresh: it takes all of it. */
	if (send(stream->up, stream->query, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL) != size) {
		stream->attempt++;
		ask(stream);
		return;
	}
	expect(stream, HEARING);
	watch(stream->up, STREAM_UP, (int)(stream - streams), EPOLLIN);
}

static void read_answer(struct stream *stream)
{
	int wanted = stream->at < 2 ? 2 : 2 + length(stream->answer);
	ssize_t got = recv(stream->up, stream->answer + stream->at, (size_t)(wanted - stream->at),
			   MSG_DONTWAIT);

	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		stream->attempt++;
		ask(stream);
		return;
	}
	stream->at += (int)got;
	if (stream->at < 2 || stream->at < 2 + length(stream->answer))
		return;
	leave_server(stream);
	expect(stream, WRITING);
}

static void write_answer(struct stream *stream)
{
	int size = 2 + length(stream->answer);
	ssize_t sent = send(stream->fd, stream->answer + stream->at, (size_t)(size - stream->at),
			    MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0 && errno == EAGAIN)
		return;
	if (sent < 0) {
		end(stream);
		return;
	}
	stream->at += (int)sent;
	if (stream->at == size)
		expect(stream, READING);
}

void stream_event(int number, bool up)
{
	struct stream *stream = &streams[number];

	if (stream->fd < 0)
		return;
	switch (stream->state) {
	case READING: read_query(stream); break;
	case WRITING: write_answer(stream); break;
	case ASKING: case HEARING:
		if (!up)
			end(stream);
		else if (stream->state == ASKING)
			send_query(stream);
		else
			read_answer(stream);
		break;
	}
}

void stream_accept(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), place = -1, his = 0, free = 0;

	if (fd < 0)
		return;
	struct address from = asker(fd);

	for (int i = 0; i < STREAMS; i++) {
		struct address other;

		if (streams[i].fd < 0) {
			place = i;
			free++;
			continue;
		}
		other = asker(streams[i].fd);
		his += of_one_member(&from, &other);
	}
	if (!may_take(his, free)) {
		close(fd);
		return;
	}
	streams[place].fd = fd;
	streams[place].up = -1;
	expect(&streams[place], READING);
}

void stream_late(void)
{
	for (int i = 0; i < STREAMS; i++)
		if (streams[i].fd >= 0 && now() > streams[i].deadline) {
			if (streams[i].state == READING || streams[i].state == WRITING)
				end(&streams[i]);
			else {
				streams[i].attempt++;
				ask(&streams[i]);
			}
		}
}

void begin_dns_tcp(void)
{
	for (int i = 0; i < STREAMS; i++)
		streams[i].fd = -1;
	listener = dns_socket(SOCK_STREAM);
	if (listener >= 0 && listen(listener, 64) == 0)
		watch(listener, DNS_LISTENER, 0, EPOLLIN);
}
