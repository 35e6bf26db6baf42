/* Datagrams to published ports: a socket for each who talks to one, while he does. */
#include "networks.h"

enum { SILENCE = 60000, BURST = 32 }; /* ms, datagrams */

static struct flow {
	int fd;                  /* connected to the member; -1: this place is free */
	int port;
	long long last;
	struct sockaddr_storage who;
	socklen_t who_size;
	/* The host's address that he talks to: what he hears comes from it. */
	_Alignas(struct cmsghdr) char to[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	size_t to_size;
} flows[FLOWS];
static int flow_count;

static int in_use;

static void end(int i)
{
	clients[ports[flows[i].port].member].flows--;
	in_use--;
	close(flows[i].fd);
	flows[i].fd = -1;
}

void udp_drop(int member)
{
	for (int i = 0; i < flow_count; i++)
		if (flows[i].fd >= 0 && ports[flows[i].port].member == member)
			end(i);
}

void udp_late(void)
{
	for (int i = 0; i < flow_count; i++)
		if (flows[i].fd >= 0 && now() - flows[i].last > SILENCE)
			end(i);
}

/* Return a free place; a member that has its share loses its oldest one. */
static int free_place(int member)
{
	bool full = !may_take(clients[member].flows, most_flows - in_use);
	int oldest = -1;

	for (int i = 0; i < flow_count; i++) {
		if (flows[i].fd < 0) {
			if (!full)
				return i;
		} else if (ports[flows[i].port].member == member &&
			   (oldest < 0 || flows[i].last < flows[oldest].last))
			oldest = i;
	}
	if (!full)
		return flow_count++;
	if (oldest >= 0)
		end(oldest);
	return oldest;
}

static int flow_of(int port, const struct sockaddr_storage *who, socklen_t size)
{
	struct address from = address_of(who), target;
	const struct place *place;
	struct sockaddr_storage to;
	socklen_t to_size;
	int i, fd, family;

	for (i = 0; i < flow_count; i++)
		if (flows[i].fd >= 0 && flows[i].port == port && flows[i].who_size == size &&
		    memcmp(&flows[i].who, who, size) == 0)
			return i;
	place = target_of(ports[port].member, from.size == 16);
	if (!place)
		return -1;
	family = place->addresses[from.size == 16].size ? from.size == 16 : from.size != 16;
	target = place->addresses[family];
	to_size = socket_address(&target, ports[port].target, 0, &to);
	fd = make_socket(to.ss_family, SOCK_DGRAM);
	if (fd < 0)
		return -1;
	show_client(fd, who, place, family);
	if (connect(fd, (struct sockaddr *)&to, to_size) < 0) {
		close(fd);
		return -1;
	}
	i = free_place(ports[port].member);
	if (i < 0) {
		close(fd);
		return -1;
	}
	clients[ports[port].member].flows++;
	in_use++;
	memset(&flows[i], 0, sizeof(flows[i]));
	flows[i].fd = fd;
	flows[i].port = port;
	memcpy(&flows[i].who, who, size);
	flows[i].who_size = size;
	watch(fd, FLOW, i, EPOLLIN);
	return i;
}

void udp_datagram(int port)
{
	for (int round = 0; round < BURST; round++) {
		struct sockaddr_storage who;
		struct iovec part = { spare, sizeof(spare) };
		union {
			struct cmsghdr header;
			char room[128];
		} control;
		struct msghdr message = { .msg_name = &who, .msg_namelen = sizeof(who),
					  .msg_iov = &part, .msg_iovlen = 1,
					  .msg_control = &control, .msg_controllen = sizeof(control) };
		ssize_t size;
		int i;

		memset(&who, 0, sizeof(who));
		size = recvmsg(ports[port].fd, &message, MSG_DONTWAIT);
		if (size < 0)
			return;
		i = flow_of(port, &who, message.msg_namelen);
		if (i < 0)
			continue;
		flows[i].to_size = 0;
		if (message.msg_controllen >= sizeof(struct cmsghdr) &&
		    control.header.cmsg_len <= sizeof(flows[i].to)) {
			memcpy(flows[i].to, &control, control.header.cmsg_len);
			flows[i].to_size = CMSG_SPACE(control.header.cmsg_len - CMSG_LEN(0));
			if (control.header.cmsg_type == IP_PKTINFO && control.header.cmsg_level == IPPROTO_IP)
				((struct in_pktinfo *)CMSG_DATA((struct cmsghdr *)flows[i].to))->ipi_ifindex = 0;
		}
		flows[i].last = now();
		send(flows[i].fd, spare, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}

void udp_reply(int i)
{
	for (int round = 0; round < BURST && flows[i].fd >= 0; round++) {
		struct flow *flow = &flows[i];
		ssize_t size = recv(flow->fd, spare, sizeof(spare), MSG_DONTWAIT);
		struct iovec part = { spare, size < 0 ? 0 : (size_t)size };
		struct msghdr message = { .msg_name = &flow->who, .msg_namelen = flow->who_size,
					  .msg_iov = &part, .msg_iovlen = 1,
					  .msg_control = flow->to_size ? flow->to : NULL,
					  .msg_controllen = flow->to_size };

		if (size < 0)
			return; /* nothing more, or nobody listens there */
		flow->last = now();
		sendmsg(ports[flow->port].fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
}
