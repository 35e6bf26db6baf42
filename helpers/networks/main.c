/*
 * rless-networks: what holds the bridge networks of one user, while they have members.
 *
 * Usage: rless-networks LISTENER FIRST PASTA READY QUESTIONS STREAMS TRANSPARENT
 *
 * All but the last are numbers of descriptors. The process was Python (rootless/network/hub.py) until it had a
 * user and a network namespace of its own, and became this program by execve. In that network, the
 * hub, are the bridges. The program answers questions for names, carries the connections of
 * published ports, and ends with the last member: pasta, its child, and the bridges go with it.
 *
 *   LISTENER  commands connect to it; FIRST is the connection of the one that made the hub
 *   PASTA     a pidfd of pasta, -1: none; READY: what pasta writes to when it is
 *   QUESTIONS the first of 64 UDP sockets, STREAMS the first of 16 TCP ones, made in the host's
 *             network: for the host's name servers, on its loopback too. They are connected, used,
 *             and disconnected.
 *   TRANSPARENT 1: what members send to the address of a client outside comes to a socket of ours
 *             that has this address (rootless/network/firewall.py)
 *
 * Messages are datagrams of a SOCK_SEQPACKET, words that end in NUL, the first of one letter.
 * Addresses are hexadecimal, "" for none. Each message is answered by its letter and an errno,
 * W by its letter and a text. A member is its connection: when that ends, it is in no network.
 *
 *   J id bridge network-id network-name internal outside gateway4/prefix gateway6/prefix
 *     address4 address6 name...   join; outside: the end of its pair of interfaces on the bridge
 *   L id bridge                   leave a network
 *   N id bridge name...           other names
 *   S address...                  the name servers of --dns, instead of the host's
 *   P port                        with a descriptor: a port of the host, bound, for this one inside
 *   W                             answered when there is a way out; "" or why there is none
 *   O                             with a pidfd of pasta and its pipe: the way out, after its end
 *
 * The first connection is sent H once all of it is there, or else the reason.
 *
 * Hostile containers send to it: DNS messages, and bytes that it does not look into. Nothing
 * allocates; what is full is refused. It serves behind walls (walls.c): with CAP_NET_ADMIN in the
 * hub's network, 28 system calls, and no file. A process beside it opens those (files.c).
 */
#include "networks.h"

#include <stdlib.h>

int the_epoll;
char spare[2 * LONGEST];

static int listener, pasta, ready;
static const char *no_way_out; /* why; "": there is one; NULL: not known yet */

void watch(int fd, enum kind kind, int number, uint32_t events)
{
	struct epoll_event event = { events, { .u64 = (uint64_t)kind << 32 | (uint32_t)number } };

	if (epoll_ctl(the_epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno == EEXIST)
		epoll_ctl(the_epoll, EPOLL_CTL_MOD, fd, &event);
}

void answer_waiting(void)
{
	if (!no_way_out)
		return;
	for (int i = 0; i < client_count; i++)
		if (clients[i].fd >= 0 && clients[i].waits) {
			char said[256];
			int size = snprintf(said, sizeof(said), "W%s", no_way_out);

			send(clients[i].fd, said, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
			clients[i].waits = false;
		}
}

void new_pasta(int process, int pipe)
{
	if (pasta >= 0)
		close(pasta);
	if (ready >= 0)
		close(ready);
	pasta = process;
	ready = pipe;
	no_way_out = pasta < 0 ? "there is no pasta" : NULL;
	if (pasta >= 0)
		watch(pasta, PASTA, 0, EPOLLIN);
	if (ready >= 0)
		watch(ready, READY, 0, EPOLLIN);
}

static void pasta_ready(void)
{
	char said[32];

	if (read(ready, said, sizeof(said)) > 0)
		no_way_out = "";
	close(ready);
	ready = -1;
	answer_waiting();
}

static void pasta_ended(void)
{
	close(pasta);
	pasta = -1;
	no_way_out = "pasta has ended";
	answer_waiting();
}

static void act(struct epoll_event *event)
{
	int number = (int)(uint32_t)event->data.u64;

	switch ((enum kind)(event->data.u64 >> 32)) {
	case LISTENER: accept_client(listener); break;
	case CLIENT: read_message(number); break;
	case READY: pasta_ready(); break;
	case PASTA: pasta_ended(); break;
	case DNS: dns_datagram(); break;
	case DNS_LISTENER: stream_accept(); break;
	case QUESTION: dns_reply(number); break;
	case STREAM: stream_event(number, false); break;
	case STREAM_UP: stream_event(number, true); break;
	case PORT:
		if (ports[number].udp)
			udp_datagram(number);
		else
			tcp_accept(number);
		break;
	case CONNECTION: tcp_event(number); break;
	case FLOW: udp_reply(number); break;
	}
}

static bool has_clients(void)
{
	for (int i = 0; i < client_count; i++)
		if (clients[i].fd >= 0)
			return true;
	return false;
}

static void run(void)
{
	struct epoll_event events[64];
	long long late = now();

	while (has_clients()) {
		int count = epoll_wait(the_epoll, events, 64, 500);

		for (int i = 0; i < count; i++)
			act(&events[i]);
		if (now() - late >= 250) {
			late = now();
			dns_late();
			stream_late();
			udp_late();
		}
	}
}

/* Nobody can connect any more; who just has is told so by the end of the connection. */
static void end(void)
{
	remove_socket();
	close(listener);
	if (pasta >= 0)
		syscall(SYS_pidfd_send_signal, pasta, 9, NULL, 0);
}

/* Enter the walls, and tell who made the hub that it is there, or what has failed. */
static void begin_to_serve(const char *failed)
{
	char said[64] = "H";
	int size = 1;

	if (!failed)
		failed = enter_walls();
	if (failed)
		size = snprintf(said, sizeof(said), "rless-networks: %s: error %d", failed, errno);
	send(clients[0].fd, said, (size_t)size, MSG_NOSIGNAL);
	if (failed)
		_exit(1);
}

static int number_of(const char *text)
{
	return (int)strtoll(text, NULL, 10);
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	const char *failed;

	if (argc != 8)
		return 70;
	prctl(PR_SET_NAME, "rless-networks", 0, 0, 0);
	limit.rlim_cur = limit.rlim_max = 0;
	setrlimit(RLIMIT_CORE, &limit);
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
		share_descriptors(limit.rlim_cur);
	}
	clients[0].fd = number_of(argv[2]);
	client_count = 1;
	the_epoll = epoll_create1(EPOLL_CLOEXEC);
	listener = number_of(argv[1]);
	watch(listener, LISTENER, 0, EPOLLIN);
	pasta = ready = -1;
	new_pasta(number_of(argv[3]), number_of(argv[4]));
	for (int i = 0; i < QUESTIONS; i++)
		question_fds[i] = number_of(argv[5]) + i;
	for (int i = 0; i < STREAMS; i++)
		stream_fds[i] = number_of(argv[6]) + i;
	transparent = number_of(argv[7]) == 1;
	begin_dns();
	begin_dns_tcp();
	failed = begin_links();
	if (!failed)
		failed = begin_files(argv[0], (size_t)(argv[7] + strlen(argv[7]) - argv[0]));
	begin_to_serve(failed);
	watch(clients[0].fd, CLIENT, 0, EPOLLIN);
	run();
	end();
	return 0;
}
