/*
 * The interface that pasta will attach to, closed for loopback addresses
 *
 * rootless/network/loopback_guard.py says why.
 *
 * Source: netdevice(7), rtnetlink(7), tc-bpf(8), Linux Documentation/networking/tuntap.rst.
 */
#define _GNU_SOURCE
#include "network.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
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

/* What leaves by the interface is dropped if the header's destination is one of these, and 0.0.0.0/8,
 * which pasta takes for this host as well. It reads the same bytes of the frame. */
static const struct sock_filter drop_loopback[] = {
	BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IPV6, 4, 0),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETH_P_IP, 0, 10),
	BPF_STMT(BPF_LD | BPF_B | BPF_ABS, ETH_HLEN + 16),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 127, 7, 0),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, 7),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ETH_HLEN + 24), /* ::/80 has them all */
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5),
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ETH_HLEN + 28),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
	BPF_STMT(BPF_LD | BPF_H | BPF_ABS, ETH_HLEN + 32),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, TC_ACT_SHOT),
	BPF_STMT(BPF_RET | BPF_K, (unsigned)TC_ACT_UNSPEC),
};

/* A message to the kernel, which `add` extends. */
struct request {
	struct nlmsghdr header;
	union {
		struct rtmsg route;
		struct tcmsg control;
	};
	char rest[256];
};

static void add(struct request *request, unsigned short type, const void *value, size_t size)
{
	struct rtattr *attribute = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));

	attribute->rta_type = type;
	attribute->rta_len = (unsigned short)RTA_LENGTH(size);
	memcpy(RTA_DATA(attribute), value, size);
	request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(attribute->rta_len);
}

/* Return 0, or the error by which the kernel has answered. */
static int ask(int fd, const struct request *request)
{
	struct {
		struct nlmsghdr header;
		struct nlmsgerr what;
		char request[512];
	} answer;

	if (write(fd, request, request->header.nlmsg_len) < 0 ||
	    read(fd, &answer, sizeof(answer)) < (ssize_t)(sizeof(answer.header) + sizeof(int)))
		return errno ? errno : EPROTO;
	/* An acknowledgement is an error of 0. */
	return answer.header.nlmsg_type == NLMSG_ERROR ? -answer.what.error : EPROTO;
}

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
static const char *add_routes(int fd, int index)
{
	int error = 0;

	for (size_t i = 0; !error && i < ROUTES; i++) {
		struct request request = {
			.header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = RTM_NEWROUTE,
				    .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND },
			.route = { .rtm_family = loopback[i].family, .rtm_dst_len = loopback[i].length,
				   .rtm_table = RT_TABLE_LOCAL, .rtm_protocol = RTPROT_STATIC,
				   .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL },
		};

		add(&request, RTA_DST, loopback[i].address, loopback[i].family == AF_INET ? 4 : 16);
		add(&request, RTA_OIF, &index, sizeof(index));
		error = ask(fd, &request);
		if (is_done(error, loopback[i].family))
			error = 0;
	}
	errno = error;
	return error ? "netlink(RTM_NEWROUTE)" : NULL;
}

/* Drop what leaves by an interface to these addresses, whatever made it. */
static const char *add_guard(int fd, int index)
{
	const struct nlmsghdr header = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct tcmsg)),
					 .nlmsg_type = RTM_NEWQDISC,
					 .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE };
	struct request request = {
		.header = header,
		.control = { .tcm_ifindex = index, .tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0),
			     .tcm_parent = TC_H_CLSACT },
	};
	const unsigned flags = TCA_BPF_FLAG_ACT_DIRECT;
	const unsigned short length = sizeof(drop_loopback) / sizeof(*drop_loopback);
	struct rtattr *options;

	add(&request, TCA_KIND, "clsact", sizeof("clsact"));
	errno = ask(fd, &request);
	if (errno)
		return "netlink(RTM_NEWQDISC)";
	request.header = header;
	request.header.nlmsg_type = RTM_NEWTFILTER;
	request.control.tcm_handle = 1;
	request.control.tcm_parent = TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS);
	request.control.tcm_info = TC_H_MAKE(1U << 16, htons(ETH_P_ALL)); /* priority, protocol */
	add(&request, TCA_KIND, "bpf", sizeof("bpf"));
	options = (struct rtattr *)((char *)&request + request.header.nlmsg_len);
	add(&request, TCA_OPTIONS, "", 0);
	add(&request, TCA_BPF_OPS_LEN, &length, sizeof(length));
	add(&request, TCA_BPF_OPS, drop_loopback, sizeof(drop_loopback));
	add(&request, TCA_BPF_FLAGS, &flags, sizeof(flags));
	options->rta_len = (unsigned short)((char *)&request + request.header.nlmsg_len - (char *)options);
	errno = ask(fd, &request);
	return errno ? "netlink(RTM_NEWTFILTER)" : NULL;
}

const char *make_interface(const char *name, const char *address, enum guard guard)
{
	unsigned char bytes[ETH_ALEN];
	const char *failed;
	int index, fd;

	if (strlen(name) >= IFNAMSIZ) {
		errno = EINVAL;
		return "ioctl(TUNSETIFF)";
	}
	failed = make_tap(name);
	if (failed)
		return failed;
	if (*address && sscanf(address, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", bytes, bytes + 1, bytes + 2,
			      bytes + 3, bytes + 4, bytes + 5) != ETH_ALEN) {
		errno = EADDRNOTAVAIL;
		return "ioctl(SIOCSIFHWADDR)";
	}
	index = bring_up(name, *address ? bytes : NULL, IFF_UP);
	if (index < 0)
		return "ioctl(SIOCSIFFLAGS)";
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return "netlink(socket)";
	failed = add_routes(fd, index);
	if (!failed && guard != UNGUARDED) {
		failed = add_guard(fd, index);
		if (guard == TRY)
			failed = NULL;
	}
	close(fd);
	return failed;
}
