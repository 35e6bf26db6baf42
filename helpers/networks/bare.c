/* The part of the C library that this program uses: the monitor's, and what only networks need. */
#include "../common/bare.c"

#include <sys/epoll.h>
#include <sys/random.h>

#ifdef BARE
int bind(int fd, const struct sockaddr *address, socklen_t size)
{
	return (int)SYS3(bind, fd, address, size);
}

int epoll_create1(int flags)
{
	return (int)SYS1(epoll_create1, flags);
}

int epoll_ctl(int fd, int operation, int target, struct epoll_event *event)
{
	return (int)SYS4(epoll_ctl, fd, operation, target, event);
}

int epoll_wait(int fd, struct epoll_event *events, int most, int timeout)
{
	return (int)SYS5(epoll_pwait, fd, events, most, timeout, NULL);
}

ssize_t getrandom(void *data, size_t size, unsigned flags)
{
	return SYS3(getrandom, data, size, flags);
}

int getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
	return (int)SYS3(getsockname, fd, address, size);
}

int listen(int fd, int backlog)
{
	return (int)SYS2(listen, fd, backlog);
}

ssize_t recv(int fd, void *data, size_t size, int flags)
{
	return sys(SYS_recvfrom, fd, (long)data, (long)size, flags, 0, 0);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
	return (int)SYS5(setsockopt, fd, level, option, value, size);
}
#endif
