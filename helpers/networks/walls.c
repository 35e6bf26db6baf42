/*
 * The walls behind which this program meets containers: one capability, an allow list of system
 * calls, and no file. What needs more is done before (sockets on port 53, of netlink), or by the
 * process of files.c.
 */
#include "networks.h"

#include "../common/walls.h"

#include <sys/ioctl.h>

#define REFUSED ERROR(EPERM)

/*
 * Take away all capabilities but CAP_NET_ADMIN: in our own network, to take interfaces away and to
 * show members the address of a client.
 */
const char *wall_of_capabilities(void)
{
	return keep_capabilities(1ULL << CAP_NET_ADMIN);
}

/*
 * Allow system calls on descriptors that are there, and new sockets of TCP and UDP only: netlink,
 * raw and packet sockets, and the options that change firewalls, are where the kernel has its holes.
 */
const char *wall_of_calls(void)
{
	struct sock_filter filter[] = {
		ONLY_OUR_ARCH,
		ALLOW(recvfrom), ALLOW(sendto), ALLOW(recvmsg), ALLOW(sendmsg), ALLOW(read),
		ALLOW(epoll_pwait),
#ifdef SYS_epoll_wait
		ALLOW(epoll_wait),
#endif
		ALLOW(epoll_ctl), ALLOW(clock_gettime), ALLOW(accept4), ALLOW(connect), ALLOW(close),
		ALLOW(shutdown), ALLOW(bind), ALLOW(listen), ALLOW(getsockname), ALLOW(getpeername),
		ALLOW(getrandom), ALLOW(getuid), ALLOW(exit_group), ALLOW(exit),
		ALLOW(restart_syscall), ALLOW(rt_sigreturn),
		ALLOW(pidfd_send_signal), /* of pidfds, there is only pasta's */
		ALLOW_WITH(fcntl, 1, F_SETFL),
		ALLOW_WITH(ioctl, 1, SIOCGIFINDEX),
		ALLOW_WITH(setsockopt, 2, SO_LINGER), ALLOW_WITH(setsockopt, 2, TCP_NODELAY),
		ALLOW_WITH(setsockopt, 2, IP_PKTINFO), ALLOW_WITH(setsockopt, 2, IP_TRANSPARENT),
		ALLOW_WITH(setsockopt, 2, IP_BIND_ADDRESS_NO_PORT),
		ALLOW_WITH(setsockopt, 2, IPV6_RECVPKTINFO), ALLOW_WITH(setsockopt, 2, IPV6_TRANSPARENT),
		ALLOW_WITH(getsockopt, 2, SO_TYPE), ALLOW_WITH(getsockopt, 2, SO_ERROR),
		ALLOW_WITH(getsockopt, 2, SO_DOMAIN), ALLOW_WITH(getsockopt, 2, SO_PEERCRED),
		SANITIZERS

		IF(BPF_JEQ, SYS_socket, 1, 0), REFUSED,
		LOAD(args[2]), IF(BPF_JEQ, 0, 1, 0), REFUSED, /* the protocol is that of the kind */
		LOAD(args[0]), IF(BPF_JEQ, AF_INET, 2, 0), IF(BPF_JEQ, AF_INET6, 1, 0), REFUSED,
		LOAD(args[1]),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, (uint32_t)~(SOCK_CLOEXEC | SOCK_NONBLOCK)),
		IF(BPF_JEQ, SOCK_STREAM, 1, 0), IF(BPF_JEQ, SOCK_DGRAM, 0, 1),
		ANSWER(SECCOMP_RET_ALLOW), REFUSED,
	};

	return load_filter(filter, sizeof(filter) / sizeof(*filter));
}

/* Forbid the whole file system, /proc with its processes among it. */
const char *wall_of_files(void)
{
	return enter_domain(new_domain());
}

const char *enter_walls(void)
{
	const char *failed = wall_of_capabilities();

	if (!failed)
		failed = wall_of_files();
	return failed ? failed : wall_of_calls();
}

/* The same for the process of files.c, which opens three names and is told nothing but a line. */
const char *walls_of_files_process(void)
{
	struct sock_filter filter[] = {
		ONLY_OUR_ARCH,
		ALLOW(recvfrom), ALLOW(sendto), ALLOW(openat), ALLOW(read), ALLOW(write), ALLOW(close),
		ALLOW(fstat), ALLOW(newfstatat), ALLOW(unlinkat), ALLOW(exit_group), ALLOW(exit),
		ALLOW(restart_syscall), ALLOW(rt_sigreturn),
		SANITIZERS
		REFUSED,
	};
	const char *failed = keep_capabilities(0);

	return failed ? failed : load_filter(filter, sizeof(filter) / sizeof(*filter));
}
