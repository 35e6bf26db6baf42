/* Published ports: sockets that are bound in the host's network, for members of ours. */
#include "networks.h"

struct port ports[PORTS];
int port_count, most_connections = CONNECTIONS, most_flows = FLOWS;
bool transparent;

/* Give half of the descriptors to connections, two each, and an eighth to flows, where these are too
 * few for all: members and the servers of names need some, too. */
void share_descriptors(unsigned long limit)
{
	if (limit / 4 < CONNECTIONS)
		most_connections = (int)(limit / 4);
	if (limit / 8 < FLOWS)
		most_flows = (int)(limit / 8);
}

/* Take a bound socket for a port of a member. The socket stays in the network that it was made in. */
int add_port(int member, int fd, uint16_t target)
{
	int kind = 0, i;
	socklen_t size = sizeof(kind);

	if (!target || getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) < 0)
		return EINVAL;
	for (i = 0; i < port_count && ports[i].fd >= 0; i++)
		;
	if (i == PORTS)
		return ENOSPC;
	if (i == port_count)
		port_count++;
	ports[i] = (struct port){ fd, member, target, kind == SOCK_DGRAM, false };
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || (kind == SOCK_STREAM && listen(fd, 4096) < 0)) {
		ports[i].fd = -1;
		return errno;
	}
	if (ports[i].udp) {
		int on = 1;

		setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on));
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	}
	watch(fd, PORT, i, EPOLLIN);
	return 0;
}

void drop_ports(int member)
{
	for (int i = 0; i < port_count; i++)
		if (ports[i].fd >= 0 && ports[i].member == member) {
			close(ports[i].fd);
			ports[i].fd = -1;
		}
	tcp_drop(member);
	udp_drop(member);
}

/* There were no descriptors left; now there are some. */
void resume_ports(void)
{
	for (int i = 0; i < port_count; i++)
		if (ports[i].fd >= 0 && ports[i].paused) {
			ports[i].paused = false;
			watch(ports[i].fd, PORT, i, EPOLLIN);
		}
}

/* Return the place of a member where it is to be reached: with an address of this family, and of
 * its networks the one that is its way out, where there are such. NULL: it is nowhere. */
const struct place *target_of(int member, int family)
{
	const struct place *best = NULL;
	int worth = 0;

	for (int i = 0; i < place_count; i++) {
		const struct place *place = &places[i];
		int here;

		if (place->network < 0 || place->member != member)
			continue;
		here = 1 + 2 * (place->addresses[family].size != 0) + !networks[place->network].internal;
		if (here > worth) {
			best = place;
			worth = here;
		}
	}
	return best;
}

/* Give a socket the address of a client, so that the member sees who it is (firewall.py brings the
 * answers back); not one that only this host has, or that would not come back by us. The gateway's
 * address has to do then. */
void show_client(int fd, const struct sockaddr_storage *who, const struct place *place, int family)
{
	struct address client = address_of(who);
	struct sockaddr_storage name;
	socklen_t size = socket_address(&client, 0, 0, &name);
	int on = 1;

	if (!transparent || networks[place->network].internal || client.size != (family ? 16 : 4) ||
	    is_inside(&client) || (client.size == 4 && client.bytes[0] == 127) ||
	    (client.size == 16 && (client.bytes[0] & 0xe0) != 0x20 && (client.bytes[0] & 0xfe) != 0xfc))
		return; /* of IPv6 only global and unique local ones */
	setsockopt(fd, family ? IPPROTO_IPV6 : IPPROTO_IP, family ? IPV6_TRANSPARENT : IP_TRANSPARENT,
		   &on, sizeof(on));
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	syscall(SYS_bind, fd, &name, size);
}
