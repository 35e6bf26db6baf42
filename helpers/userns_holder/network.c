/*
 * The interface that pasta will attach to, closed for loopback addresses
 *
 * rootless/network/loopback_guard.py says why.
 *
 * Source: netdevice(7), rtnetlink(7), Linux Documentation/networking/tuntap.rst.
 */
#define _GNU_SOURCE
#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct {
	unsigned char family, length, address[16];
} loopback[] = {
	{ AF_INET, 8, { 127 } },
	{ AF_INET6, 96, { 0 } }, /* ::, ::1 and the old IPv4-compatible addresses */
	{ AF_INET6, 96, { [10] = 0xff, [11] = 0xff } }, /* ::ffff:0:0/96 */
};

enum { ROUTES = sizeof(loopback) / sizeof(*loopback) };

struct request {
	struct nlmsghdr header;
	struct rtmsg route;
	struct rtattr to; /* RTA_DST, whose value is of 4 or 16 bytes; then RTA_OIF */
	char rest[16 + sizeof(struct rtattr) + sizeof(int)];
};

/* Bring an interface up, with a hardware address where one is given; return its number, or -1. */
static int bring_up(const char *name, const unsigned char *address, short flags)
{
	struct ifreq request = { .ifr_hwaddr.sa_family = ARPHRD_ETHER };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), failed;

	if (fd < 0)
		return -1;
	memcpy(request.ifr_name, name, strlen(name));
	if (address)
		memcpy(request.ifr_hwaddr.sa_data, address, ETH_ALEN);
	failed = address && ioctl(fd, SIOCSIFHWADDR, &request) < 0; /* before it is up: it speaks at once */
	request.ifr_flags = flags;
	failed = failed || ioctl(fd, SIOCSIFFLAGS, &request) < 0 || ioctl(fd, SIOCGIFINDEX, &request) < 0;
	close(fd);
	return failed ? -1 : request.ifr_ifindex;
}

const char *loopback_up(void)
{
	return bring_up("lo", NULL, IFF_UP | IFF_RUNNING) < 0 ? "ioctl(lo, SIOCSIFFLAGS)" : NULL;
}

/* Make a tap device, which stays until its namespace ends; one that is in use is no error. */
static const char *make_tap(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = openat(AT_FDCWD, "/dev/net/tun", O_RDWR | O_CLOEXEC), failed;

	if (fd < 0)
		return "open(/dev/net/tun)";
	memcpy(request.ifr_name, name, strlen(name));
	failed = ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETPERSIST, 1L) < 0;
	close(fd);
	return failed && errno != EBUSY ? "ioctl(TUNSETIFF)" : NULL;
}

/* Whether the answer to a request for a route means that there is nothing to do. */
static int is_done(int error, int family)
{
	if (error == 0 || error == EEXIST)
		return 1;
	/* A kernel without IPv6, or it is off for the interface. */
	return family == AF_INET6 && (error == EAFNOSUPPORT || error == EOPNOTSUPP || error == EACCES);
}

/* Deliver here what is sent by way of an interface to these addresses. */
static int add_routes(int index)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), error = 0;
	struct {
		struct nlmsghdr header;
		struct nlmsgerr what;
		char request[256];
	} answer;

	for (size_t i = 0; fd >= 0 && !error && i < ROUTES; i++) {
		size_t bytes = loopback[i].family == AF_INET ? 4 : 16;
		struct rtattr by = { sizeof(by) + sizeof(index), RTA_OIF };
		struct request request = {
			.header = { .nlmsg_type = RTM_NEWROUTE,
				    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND },
			.route = { .rtm_family = loopback[i].family, .rtm_dst_len = loopback[i].length,
				   .rtm_table = RT_TABLE_LOCAL, .rtm_protocol = RTPROT_STATIC,
				   .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL },
			.to = { (unsigned short)(sizeof(by) + bytes), RTA_DST },
		};
		char *end = request.rest;

		memcpy(end, loopback[i].address, bytes);
		memcpy(end + bytes, &by, sizeof(by));
		memcpy(end + bytes + sizeof(by), &index, sizeof(index));
		end += bytes + sizeof(by) + sizeof(index);
		request.header.nlmsg_len = (unsigned)(end - (char *)&request);
		if (write(fd, &request, request.header.nlmsg_len) < 0 ||
		    read(fd, &answer, sizeof(answer)) < (ssize_t)(sizeof(answer.header) + sizeof(int)))
			error = errno ? errno : EPROTO;
		else if (answer.header.nlmsg_type != NLMSG_ERROR)
			error = EPROTO; /* an acknowledgement is an error of 0 */
		else if (!is_done(-answer.what.error, loopback[i].family))
			error = -answer.what.error;
	}
	if (fd < 0)
		return -1;
	close(fd);
	errno = error;
	return -(error != 0);
}

const char *make_interface(const char *name, const char *address)
{
	unsigned char bytes[ETH_ALEN];
	const char *failed;
	int index;

	if (strlen(name) >= IFNAMSIZ) {
		errno = EINVAL;
		return "ioctl(TUNSETIFF)";
	}
	failed = make_tap(name);
	if (failed)
		return failed;
	if (address && sscanf(address, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", bytes, bytes + 1, bytes + 2,
			      bytes + 3, bytes + 4, bytes + 5) != ETH_ALEN) {
		errno = EADDRNOTAVAIL;
		return "ioctl(SIOCSIFHWADDR)";
	}
	index = bring_up(name, address ? bytes : NULL, IFF_UP);
	if (index < 0)
		return "ioctl(SIOCSIFFLAGS)";
	return add_routes(index) < 0 ? "netlink(RTM_NEWROUTE)" : NULL;
}
