/*
 * The part of the C library that the monitor uses, in 20 kB: compile with -DBARE -nostdlib.
 *
 * A static program of glibc takes 0.7 MB, most of it for what it never does (locales, dynamic
 * loading), and the kernel maps a file in large pieces. A monitor that idles beside each container
 * then takes ten times the memory of its own code. Only for processors whose calls are here;
 * elsewhere the program is linked with the C library and does the same.
 *
 * Source: syscall(2), Linux asm/unistd.h; types and constants are those of the C library's headers.
 */
#ifdef BARE
#include "monitor.h"

#include <stdarg.h>
#include <sys/syscall.h>

static int error_number;

int *__errno_location(void)
{
	return &error_number;
}

#if defined(__x86_64__)
static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall" : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call bare_start");

#elif defined(__aarch64__)
static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c, x3 __asm__("x3") = d, x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc 0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}

__asm__(".globl _start\n_start: mov x29, #0\n mov x0, sp\n and sp, x0, #-16\n bl bare_start");

#else
#error "no system calls for this processor: link with the C library"
#endif

static long sys(long number, long a, long b, long c, long d, long e, long f)
{
	long result = call(number, a, b, c, d, e, f);

	if (result < 0 && result > -4096) {
		error_number = (int)-result;
		return -1;
	}
	return result;
}

#define SYS0(name) sys(SYS_##name, 0, 0, 0, 0, 0, 0)
#define SYS1(name, a) sys(SYS_##name, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(name, a, b) sys(SYS_##name, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(name, a, b, c) sys(SYS_##name, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(name, a, b, c, d) sys(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS5(name, a, b, c, d, e) \
	sys(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* -- system calls, in the order of the alphabet --------------------------------------------- */

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
	return (int)SYS4(accept4, fd, address, size, flags);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	return (int)SYS2(clock_gettime, clock, time);
}

int close(int fd)
{
	return (int)SYS1(close, fd);
}

int execve(const char *path, char *const argv[], char *const environment[])
{
	return (int)SYS3(execve, path, argv, environment);
}

void _exit(int code)
{
	for (;;)
		SYS1(exit_group, code);
}

int fallocate(int fd, int mode, off_t offset, off_t size)
{
	return (int)SYS4(fallocate, fd, mode, offset, size);
}

int fcntl(int fd, int command, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, command);
	argument = va_arg(arguments, long);
	va_end(arguments);
	return (int)SYS3(fcntl, fd, command, argument);
}

pid_t fork(void)
{
	return (pid_t)SYS5(clone, SIGCHLD, 0, 0, 0, 0);
}

int fstat(int fd, struct stat *status)
{
	return (int)SYS2(fstat, fd, status);
}

int ftruncate(int fd, off_t size)
{
	return (int)SYS2(ftruncate, fd, size);
}

pid_t getpid(void)
{
	return (pid_t)SYS0(getpid);
}

int getrlimit(__rlimit_resource_t kind, struct rlimit *limit)
{
	return (int)SYS4(prlimit64, 0, kind, NULL, limit);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
{
	return (int)SYS5(getsockopt, fd, level, option, value, size);
}

uid_t getuid(void)
{
	return (uid_t)SYS0(getuid);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, request);
	argument = va_arg(arguments, long);
	va_end(arguments);
	return (int)SYS3(ioctl, fd, request, argument);
}

int kill(pid_t pid, int number)
{
	return (int)SYS2(kill, pid, number);
}

off_t lseek(int fd, off_t offset, int whence)
{
	return SYS3(lseek, fd, offset, whence);
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
	return (void *)sys(SYS_mmap, (long)address, (long)size, protection, flags, fd, offset);
}

int openat(int dir, const char *path, int flags, ...)
{
	va_list arguments;
	mode_t mode;

	va_start(arguments, flags);
	mode = va_arg(arguments, mode_t);
	va_end(arguments);
	return (int)SYS4(openat, dir, path, flags, mode);
}

int poll(struct pollfd *fds, nfds_t count, int timeout)
{
	struct timespec time = { timeout / 1000, timeout % 1000 * 1000000L };

	return (int)SYS5(ppoll, fds, count, timeout < 0 ? NULL : &time, NULL, 8);
}

int prctl(int option, ...)
{
	va_list arguments;
	long argument;

	va_start(arguments, option);
	argument = va_arg(arguments, long);
	va_end(arguments);
	return (int)SYS5(prctl, option, argument, 0, 0, 0);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
	return SYS4(pread64, fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
	return SYS4(pwrite64, fd, data, size, offset);
}

ssize_t read(int fd, void *data, size_t size)
{
	return SYS3(read, fd, data, size);
}

ssize_t readlinkat(int dir, const char *path, char *target, size_t size)
{
	return SYS4(readlinkat, dir, path, target, size);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	return SYS3(recvmsg, fd, message, flags);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
	return (int)SYS5(renameat2, from_dir, from, to_dir, to, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
	return SYS5(sendto, fd, data, size, flags, NULL);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
	return SYS3(sendmsg, fd, message, flags);
}

int shutdown(int fd, int how)
{
	return (int)SYS2(shutdown, fd, how);
}

int setrlimit(__rlimit_resource_t kind, const struct rlimit *limit)
{
	return (int)SYS4(prlimit64, 0, kind, limit, NULL);
}

/* Only to ignore, or no longer: a handler would need a way back. */
__sighandler_t signal(int number, __sighandler_t handler)
{
	struct {
		__sighandler_t handler;
		unsigned long flags;
		void (*restorer)(void);
		unsigned long mask;
	} action = { handler, 0, NULL, 0 };

	return SYS4(rt_sigaction, number, &action, NULL, 8) < 0 ? SIG_ERR : SIG_DFL;
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
	return (int)SYS3(connect, fd, address, size);
}

int socket(int domain, int kind, int protocol)
{
	return (int)SYS3(socket, domain, kind, protocol);
}

long syscall(long number, ...)
{
	va_list arguments;
	long given[6];

	va_start(arguments, number);
	for (int i = 0; i < 6; i++)
		given[i] = va_arg(arguments, long);
	va_end(arguments);
	return sys(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

int umount2(const char *path, int flags)
{
	return (int)SYS2(umount2, path, flags);
}

int unlinkat(int dir, const char *path, int flags)
{
	return (int)SYS3(unlinkat, dir, path, flags);
}

pid_t waitpid(pid_t pid, int *status, int options)
{
	return (pid_t)SYS4(wait4, pid, status, options, NULL);
}

ssize_t write(int fd, const void *data, size_t size)
{
	return SYS3(write, fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
	return SYS3(writev, fd, parts, count);
}

/* -- strings ------------------------------------------------------------------------------------ */

void *memcpy(void *restrict target, const void *restrict source, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((char *)target)[i] = ((const char *)source)[i];
	return target;
}

void *memset(void *target, int value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((char *)target)[i] = (char)value;
	return target;
}

int memcmp(const void *one, const void *other, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const unsigned char *)one)[i] != ((const unsigned char *)other)[i])
			return ((const unsigned char *)one)[i] - ((const unsigned char *)other)[i];
	return 0;
}

void *memchr(const void *data, int value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const unsigned char *)data)[i] == (unsigned char)value)
			return (char *)data + i;
	return NULL;
}

size_t strlen(const char *text)
{
	size_t size = 0;

	while (text[size])
		size++;
	return size;
}

int strcmp(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return (unsigned char)*one - (unsigned char)*other;
}

char *strstr(const char *text, const char *wanted)
{
	for (size_t size = strlen(wanted); *text; text++)
		if (strlen(text) >= size && memcmp(text, wanted, size) == 0)
			return (char *)text;
	return NULL;
}

long long strtoll(const char *text, char **end, int base)
{
	bool minus = *text == '-';
	long long value = 0;

	for (text += minus; *text >= '0' && *text <= '9'; text++)
		value = value * base + *text - '0';
	if (end)
		*end = (char *)text;
	return minus ? -value : value;
}

/* Format as printf does: %s %d %u %x with l, ll, z, a width padded by 0, a precision by .* */
int vsnprintf(char *target, size_t room, const char *format, va_list arguments)
{
	size_t used = 0;

	for (; *format; format++) {
		char digits[24];
		const char *text = format;
		size_t size = 1, width = 0;
		int longs = 0, precision = -1;

		if (*format == '%' && *++format != '%') {
			for (; *format >= '0' && *format <= '9'; format++)
				width = 10 * width + *format - '0';
			if (format[0] == '.' && format[1] == '*') {
				precision = va_arg(arguments, int);
				format += 2;
			}
			for (; *format == 'l' || *format == 'z'; format++)
				longs++;
			if (*format == 's') {
				text = va_arg(arguments, const char *);
				for (size = 0; size != (size_t)precision && text[size];)
					size++;
			} else {
				unsigned base = *format == 'x' ? 16 : 10;
				long value = longs ? va_arg(arguments, long) :
					     *format == 'd' ? va_arg(arguments, int)
							    : (long)va_arg(arguments, unsigned);
				bool minus = *format == 'd' && value < 0;
				unsigned long rest = minus ? -(unsigned long)value : (unsigned long)value;
				char *at = digits + sizeof(digits);

				do
					*--at = "0123456789abcdef"[rest % base];
				while (rest /= base);
				while ((size_t)(digits + sizeof(digits) - at) < width)
					*--at = '0';
				if (minus)
					*--at = '-';
				text = at;
				size = digits + sizeof(digits) - at;
			}
		}
		for (size_t i = 0; i < size; i++, used++)
			if (used + 1 < room)
				target[used] = text[i];
	}
	if (room)
		target[used < room ? used : room - 1] = 0;
	return (int)used;
}

int snprintf(char *target, size_t room, const char *format, ...)
{
	va_list arguments;
	int size;

	va_start(arguments, format);
	size = vsnprintf(target, room, format, arguments);
	va_end(arguments);
	return size;
}

int main(int argc, char **argv);

__attribute__((noreturn, used)) static void bare_start(long *stack)
{
	_exit(main((int)stack[0], (char **)(stack + 1)));
}

#endif
