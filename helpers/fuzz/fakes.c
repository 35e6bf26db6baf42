/* A kernel made of the fuzzer's input; fakes.h says what for. */
#define FAKES_C
#include "fakes.h"

#include <stdarg.h>

enum { FIRST = 100, DESCRIPTORS = 4096, SHORTER = 16, FAILS = 32 };

bool faults, addresses;
long long milliseconds;
void (*written)(int fd, const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t left;
static bool is_open[DESCRIPTORS];

void report(const char *what)
{
	fprintf(stderr, "found: %s\n", what);
	abort();
}

/* -- the input --------------------------------------------------------------------------------- */

void begin_input(const uint8_t *data, size_t size)
{
	input = data;
	left = size;
}

bool has_input(void)
{
	return left > 0;
}

unsigned take_byte(void)
{
	if (!left)
		return 0;
	left--;
	return *input++;
}

size_t take_bytes(void *target, size_t room)
{
	size_t size = take_byte();

	size |= take_byte() << 8;
	if (size > left)
		size = left;
	if (size > room)
		size = room;
	if (!size)
		return 0;
	if (target)
		memcpy(target, input, size);
	input += size;
	left -= size;
	return size;
}

/* Whether a call fails now, with an errno of the input. */
static bool fails(void)
{
	static const int errors[] = { EAGAIN, EPIPE, ENOSPC, EINPROGRESS };
	unsigned byte = faults ? take_byte() : 255;

	if (byte >= FAILS)
		return false;
	errno = errors[byte % 4];
	return true;
}

/* -- descriptors ------------------------------------------------------------------------------- */

int open_fake(void)
{
	for (int i = 0; i < DESCRIPTORS; i++)
		if (!is_open[i]) {
			is_open[i] = true;
			return FIRST + i;
		}
	errno = EMFILE;
	return -1;
}

int count_open(void)
{
	int count = 0;

	for (int i = 0; i < DESCRIPTORS; i++)
		count += is_open[i];
	return count;
}

static bool is_fake(int fd)
{
	return fd >= FIRST && fd < FIRST + DESCRIPTORS && is_open[fd - FIRST];
}

/* Fail with EBADF for one that is not open, as after a close that was forgotten. */
static bool is_bad(int fd)
{
	if (is_fake(fd))
		return false;
	errno = EBADF;
	return true;
}

int fake_close(int fd)
{
	if (fd < 0)
		return is_bad(fd) ? -1 : 0;
	if (is_bad(fd))
		report("a descriptor is closed twice");
	is_open[fd - FIRST] = false;
	return 0;
}

int fake_openat(int directory, const char *path, int flags, ...)
{
	(void)directory, (void)flags;
	return strlen(path) > 4096 || fails() ? -1 : open_fake();
}

int fake_socket(int domain, int kind, int protocol)
{
	(void)domain, (void)kind, (void)protocol;
	return fails() ? -1 : open_fake();
}

int fake_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
	(void)address, (void)size, (void)flags;
	return is_bad(fd) || fails() ? -1 : open_fake();
}

/* -- what comes -------------------------------------------------------------------------------- */

/* A kind (the last two: nothing any more, and an error), a length, bytes. */
static ssize_t receive(int fd, void *data, size_t room)
{
	unsigned kind;

	if (is_bad(fd))
		return -1;
	if (!left) {
		errno = EAGAIN;
		return -1;
	}
	kind = take_byte();
	if (kind == 255)
		errno = ECONNREFUSED;
	return kind == 255 ? -1 : kind == 254 ? 0 : (ssize_t)take_bytes(data, room);
}

ssize_t fake_recv(int fd, void *data, size_t size, int flags)
{
	(void)flags;
	return receive(fd, data, size);
}

ssize_t fake_read(int fd, void *data, size_t size)
{
	return receive(fd, data, size);
}

ssize_t fake_pread(int fd, void *data, size_t size, off_t offset)
{
	(void)offset;
	if (is_bad(fd) || fails())
		return -1;
	memset(data, 'x', size);
	return (ssize_t)size;
}

static socklen_t put_address(struct sockaddr_storage *to, unsigned number)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htobe16(4000) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htobe16(4000) };

	if (number % 2) {
		in.sin_addr.s_addr = htobe32(0x0a090100 | number / 2 % 128);
		memcpy(to, &in, sizeof(in));
		return sizeof(in);
	}
	memcpy(&in6.sin6_addr, (uint8_t[16]){ 0xfd, 9, 0, 1, [15] = (uint8_t)(number / 2) }, 16);
	memcpy(to, &in6, sizeof(in6));
	return sizeof(in6);
}

/* Bring an address, or up to nine descriptors, as the kernel does: as many as there is room for. */
ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags)
{
	ssize_t size = receive(fd, message->msg_iov[0].iov_base, message->msg_iov[0].iov_len);
	struct cmsghdr *header = message->msg_control;
	size_t room = message->msg_controllen;

	(void)flags;
	message->msg_controllen = 0;
	message->msg_flags = 0;
	if (size < 0)
		return size;
	if (addresses) {
		struct sockaddr_storage from = { 0 };

		message->msg_namelen = put_address(&from, take_byte());
		memcpy(message->msg_name, &from, message->msg_namelen);
		header->cmsg_len = CMSG_LEN(sizeof(struct in6_pktinfo));
		header->cmsg_level = IPPROTO_IPV6;
		header->cmsg_type = IPV6_PKTINFO;
		memset(CMSG_DATA(header), 1, sizeof(struct in6_pktinfo));
		message->msg_controllen = CMSG_SPACE(sizeof(struct in6_pktinfo));
	} else if (size > 0) {
		size_t count = take_byte() % 10, most = (room - CMSG_LEN(0)) / sizeof(int);
		int fds[16];

		if (count > most) {
			count = most;
			message->msg_flags = MSG_CTRUNC;
		}
		if (!count)
			return size;
		for (size_t i = 0; i < count; i++)
			fds[i] = open_fake();
		header->cmsg_len = CMSG_LEN(count * sizeof(int));
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		memcpy(CMSG_DATA(header), fds, count * sizeof(int));
		message->msg_controllen = CMSG_SPACE(count * sizeof(int));
	}
	return size;
}

/* -- what goes --------------------------------------------------------------------------------- */

/* Look at every byte, so that the sanitizers do. */
static ssize_t transmit(int fd, const struct iovec *parts, size_t count, bool whole_only)
{
	static uint8_t whole[1 << 20];
	size_t size = 0;

	if (is_bad(fd) || fails())
		return -1;
	for (size_t i = 0; i < count; i++) {
		if (size + parts[i].iov_len > sizeof(whole))
			report("more than a MiB is written at once");
		if (parts[i].iov_len)
			memcpy(whole + size, parts[i].iov_base, parts[i].iov_len);
		size += parts[i].iov_len;
	}
	if (faults && size && !whole_only && take_byte() < SHORTER)
		size = 1 + take_byte() % size;
	if (written)
		written(fd, whole, size);
	return (ssize_t)size;
}

ssize_t fake_write(int fd, const void *data, size_t size)
{
	return transmit(fd, &(struct iovec){ (void *)data, size }, 1, false);
}

ssize_t fake_pwrite(int fd, const void *data, size_t size, off_t offset)
{
	(void)offset;
	return fake_write(fd, data, size);
}

ssize_t fake_writev(int fd, const struct iovec *parts, int count)
{
	return transmit(fd, parts, (size_t)count, false);
}

ssize_t fake_send(int fd, const void *data, size_t size, int flags)
{
	(void)flags;
	return fake_write(fd, data, size);
}

ssize_t fake_sendmsg(int fd, const struct msghdr *message, int flags)
{
	(void)flags;
	return transmit(fd, message->msg_iov, message->msg_iovlen, true);
}

/* -- all else ---------------------------------------------------------------------------------- */

int fake_bind(int fd, const struct sockaddr *address, socklen_t size)
{
	(void)address, (void)size;
	return is_bad(fd) || fails() ? -1 : 0;
}

int fake_connect(int fd, const struct sockaddr *address, socklen_t size)
{
	(void)address, (void)size;
	return is_bad(fd) || fails() ? -1 : 0;
}

int fake_listen(int fd, int backlog)
{
	(void)backlog;
	return is_bad(fd) || fails() ? -1 : 0;
}

int fake_shutdown(int fd, int how)
{
	(void)how;
	return is_bad(fd) ? -1 : 0;
}

int fake_clock_gettime(clockid_t clock, struct timespec *time)
{
	(void)clock;
	time->tv_sec = milliseconds / 1000;
	time->tv_nsec = milliseconds % 1000 * 1000000;
	return 0;
}

int fake_epoll_ctl(int fd, int operation, int target, struct epoll_event *event)
{
	(void)fd, (void)operation, (void)event;
	return is_bad(target) ? -1 : 0;
}

int fake_fallocate(int fd, int mode, off_t offset, off_t size)
{
	(void)mode, (void)offset, (void)size;
	return is_bad(fd) || fails() ? -1 : 0;
}

int fake_fcntl(int fd, int command, ...)
{
	(void)command;
	return is_bad(fd) || fails() ? -1 : 0;
}

pid_t fake_fork(void)
{
	return -1;
}

int fake_fstat(int fd, struct stat *status)
{
	if (is_bad(fd) || fails())
		return -1;
	memset(status, 0, sizeof(*status));
	status->st_mode = faults && take_byte() < SHORTER ? S_IFREG : S_IFIFO;
	return 0;
}

int fake_ftruncate(int fd, off_t size)
{
	(void)size;
	return is_bad(fd) || fails() ? -1 : 0;
}

ssize_t fake_getrandom(void *data, size_t size, unsigned flags)
{
	(void)flags;
	memset(data, 0x5a, size);
	return (ssize_t)size;
}

int fake_getsockname(int fd, struct sockaddr *address, socklen_t *size)
{
	struct sockaddr_storage name = { 0 };

	if (is_bad(fd))
		return -1;
	*size = put_address(&name, (unsigned)fd);
	memcpy(address, &name, *size);
	return 0;
}

int fake_getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
	struct ucred peer = { 1, fake_getuid(), 0 };
	int number = option == SO_TYPE ? (fd % 2 ? SOCK_STREAM : SOCK_DGRAM) :
		     option == SO_DOMAIN ? AF_INET6 : 0;

	(void)level;
	if (is_bad(fd) || fails())
		return -1;
	if (option == SO_PEERCRED)
		memcpy(value, &peer, *size < sizeof(peer) ? *size : sizeof(peer));
	else
		memcpy(value, &number, *size < sizeof(number) ? *size : sizeof(number));
	return 0;
}

int fake_setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
	(void)level, (void)option, (void)value, (void)size;
	return is_bad(fd) ? -1 : 0;
}

uid_t fake_getuid(void)
{
	return 1000;
}

int fake_ioctl(int fd, unsigned long request, ...)
{
	(void)request;
	return is_bad(fd) ? -1 : 0;
}

int fake_poll(struct pollfd *fds, nfds_t count, int timeout)
{
	(void)fds, (void)count;
	milliseconds += timeout > 0 ? timeout : 0;
	return 0;
}

int fake_renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
	(void)from, (void)to, (void)flags;
	return strlen(old) && strlen(new) && !fails() ? 0 : -1;
}

int fake_unlinkat(int directory, const char *path, int flags)
{
	(void)directory, (void)flags;
	return strlen(path) && !fails() ? 0 : -1;
}

/* Calls that go by their numbers: the address of who is connected, and what does nothing here. */
long fake_syscall(long number, ...)
{
	va_list arguments;
	int fd;
	void *first;
	socklen_t *second;

	if (number != SYS_getpeername)
		return 0;
	va_start(arguments, number);
	fd = va_arg(arguments, int);
	first = va_arg(arguments, void *);
	second = va_arg(arguments, socklen_t *);
	va_end(arguments);
	return fake_getsockname(fd, first, second);
}
