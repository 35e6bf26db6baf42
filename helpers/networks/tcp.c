/*
 * Connections to published ports: two sockets each, and no buffer.
 *
 * What has come is looked at (MSG_PEEK), given to the other side, and only then taken away, as much
 * as that side took: so data wait where the kernel has room for them, and a sender is held up as
 * by the application itself.
 */
#include "networks.h"

enum { ROUNDS = 16 };

static struct connection {
	int fds[2];      /* the client's, the member's; -1: this place is free */
	int port;
	bool connected, tried_other;
	bool ended[2];   /* this side has sent its end */
} connections[CONNECTIONS];
static int connection_count, first_free, in_use;

static void set(int fd, int level, int option, int value)
{
	setsockopt(fd, level, option, &value, sizeof(value));
}

static void drop(int i, bool reset)
{
	struct linger at_once = { 1, 0 };

	for (int side = 0; side < 2; side++) {
		int fd = connections[i].fds[side];

		if (fd < 0)
			continue;
		if (reset)
			setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		close(fd);
		connections[i].fds[side] = -1;
	}
	clients[ports[connections[i].port].member].connections--;
	in_use--;
	if (i < first_free)
		first_free = i;
	resume_ports();
}

void tcp_drop(int member)
{
	for (int i = 0; i < connection_count; i++)
		if (connections[i].fds[0] >= 0 && ports[connections[i].port].member == member)
			drop(i, true);
}

static bool reach(int i, int family)
{
	const struct place *place = target_of(ports[connections[i].port].member, family);
	struct address target = { 0 };
	struct sockaddr_storage to, client;
	socklen_t client_size = sizeof(client);

	if (place) {
		family = place->addresses[family].size ? family : !family;
		target = place->addresses[family];
	}
	socklen_t size = socket_address(&target, ports[connections[i].port].target, 0, &to);
	int fd = target.size ? make_socket(to.ss_family, SOCK_STREAM) : -1;

	if (fd < 0)
		return false;
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	memset(&client, 0, sizeof(client));
	if (syscall(SYS_getpeername, connections[i].fds[0], &client, &client_size) == 0)
		show_client(fd, &client, place, family);
	if (connect(fd, (struct sockaddr *)&to, size) < 0 && errno != EINPROGRESS) {
		close(fd);
		return false;
	}
	connections[i].fds[1] = fd;
	watch(fd, CONNECTION, 2 * i + 1, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	return true;
}

static int family_of_client(int i)
{
	struct sockaddr_storage name;
	socklen_t size = sizeof(name);

	memset(&name, 0, sizeof(name));
	getsockname(connections[i].fds[0], (struct sockaddr *)&name, &size);
	return address_of(&name).size == 16;
}

static void begin(int port, int fd)
{
	int i = first_free;

	while (i < connection_count && connections[i].fds[0] >= 0)
		i++;
	first_free = i + 1;
	in_use++;
	clients[ports[port].member].connections++;
	if (i == connection_count)
		connection_count++;
	connections[i] = (struct connection){ { fd, -1 }, port, false, false, { false, false } };
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (!reach(i, family_of_client(i)))
		drop(i, true);
}

void tcp_accept(int port)
{
	const struct client *member = &clients[ports[port].member];

	for (int round = 0; round < 4 * ROUNDS; round++) {
		bool full = !may_take(member->connections, most_connections - in_use);
		int fd = full ? -1 : accept4(ports[port].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0)
			begin(port, fd);
		else if (full || errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			ports[port].paused = true; /* until one of ours has ended */
			epoll_ctl(the_epoll, EPOLL_CTL_DEL, ports[port].fd, NULL);
			return;
		} else if (errno != ECONNABORTED && errno != EINTR)
			return;
	}
}

/* Pass on what one side has sent; false: the connection is broken. */
static bool pass(int i, int side)
{
	struct connection *one = &connections[i];
	int from = one->fds[side], to = one->fds[!side];

	for (int round = 0; round < ROUNDS; round++) {
		ssize_t size, sent;

		if (one->ended[side])
			return true;
		size = recv(from, spare, sizeof(spare), MSG_PEEK | MSG_DONTWAIT);
		if (size < 0)
			return errno == EAGAIN || errno == EINTR;
		if (size == 0) {
			one->ended[side] = true;
			shutdown(to, SHUT_WR);
			return true;
		}
		sent = send(to, spare, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0)
			return errno == EAGAIN || errno == EINTR || errno == ENOBUFS;
		recv(from, NULL, (size_t)sent, MSG_TRUNC | MSG_DONTWAIT);
	}
	/* The others' turn; the kernel tells again of what is there. */
	struct epoll_event event = { EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				     { .u64 = (uint64_t)CONNECTION << 32 | (uint32_t)(2 * i + side) } };

	epoll_ctl(the_epoll, EPOLL_CTL_MOD, from, &event);
	return true;
}

/* Tell whether the member has answered; it may have the other family only. */
static bool is_connected(int i)
{
	struct connection *one = &connections[i];
	int error = 0;
	socklen_t size = sizeof(error);
	struct sockaddr_storage name;
	socklen_t name_size = sizeof(name);

	getsockopt(one->fds[1], SOL_SOCKET, SO_ERROR, &error, &size);
	if (error) {
		bool again = !one->tried_other;

		one->tried_other = true;
		close(one->fds[1]);
		one->fds[1] = -1;
		if (!again || !reach(i, !family_of_client(i)))
			drop(i, true);
		return false;
	}
	memset(&name, 0, sizeof(name));
	if (syscall(SYS_getpeername, one->fds[1], &name, &name_size) < 0)
		return false; /* not yet */
	one->connected = true;
	watch(one->fds[0], CONNECTION, 2 * i, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	return true;
}

void tcp_event(int number)
{
	int i = number / 2;
	struct connection *one = &connections[i];

	if (one->fds[0] < 0 || one->fds[1] < 0)
		return; /* it has just ended */
	if (!one->connected && !is_connected(i))
		return;
	if (!pass(i, 0) || !pass(i, 1))
		drop(i, true);
	else if (one->ended[0] && one->ended[1])
		drop(i, false);
}
