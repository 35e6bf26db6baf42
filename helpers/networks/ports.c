/* Published ports: sockets that are bound in the host's network, for members of ours. */
#include "networks.h"

struct port ports[PORTS];
int port_count;
bool transparent;

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
