/*
 * FORTIFY for a C library that has none: musl, which the programs are linked with where it is
 *
 * Included before all else (helpers/programs.py). Where the compiler knows how large a buffer is, a
 * call that would write or read beyond its end ends the program. What the compiler can prove costs
 * nothing, what it knows nothing of is as before. glibc does the same by _FORTIFY_SOURCE.
 *
 * Source: GCC manual, "Object Size Checking"; gcc's __builtin___*_chk call what is defined here.
 */
#define _GNU_SOURCE
#include <features.h>
#ifndef __GLIBC__

#include <poll.h>
#include <sched.h> /* in musl it declares memcpy and others again */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FORTIFY_WEAK __attribute__((weak, unused))

#if defined(__clang__) || __GNUC__ >= 12
#define FORTIFY_ROOM(buffer) __builtin_dynamic_object_size(buffer, 0) /* bytes; SIZE_MAX: unknown */
#else
#define FORTIFY_ROOM(buffer) __builtin_object_size(buffer, 0)
#endif

static inline size_t fortify_size(size_t size, size_t room)
{
	if (size > room)
		__builtin_trap();
	return size;
}

/* What the compiler calls where only the run tells. */

FORTIFY_WEAK void *__memcpy_chk(void *to, const void *from, size_t size, size_t room)
{
	return memcpy(to, from, fortify_size(size, room));
}

FORTIFY_WEAK void *__memmove_chk(void *to, const void *from, size_t size, size_t room)
{
	return memmove(to, from, fortify_size(size, room));
}

FORTIFY_WEAK void *__memset_chk(void *to, int byte, size_t size, size_t room)
{
	return memset(to, byte, fortify_size(size, room));
}

FORTIFY_WEAK int __snprintf_chk(char *to, size_t size, int flag, size_t room, const char *format, ...)
{
	va_list arguments;
	int length;

	(void)flag; /* of %n, which musl takes from any string */
	va_start(arguments, format);
	length = vsnprintf(to, fortify_size(size, room), format, arguments);
	va_end(arguments);
	return length;
}

#define memcpy(to, from, size) __builtin___memcpy_chk(to, from, size, FORTIFY_ROOM(to))
#define memmove(to, from, size) __builtin___memmove_chk(to, from, size, FORTIFY_ROOM(to))
#define memset(to, byte, size) __builtin___memset_chk(to, byte, size, FORTIFY_ROOM(to))
#define snprintf(to, size, ...) __builtin___snprintf_chk(to, size, 0, FORTIFY_ROOM(to), __VA_ARGS__)

/* What the compiler does not know as functions of buffers. */

#define read(fd, to, size) read(fd, to, fortify_size(size, FORTIFY_ROOM(to)))
#define pread(fd, to, size, at) pread(fd, to, fortify_size(size, FORTIFY_ROOM(to)), at)
#define recv(fd, to, size, flags) recv(fd, to, fortify_size(size, FORTIFY_ROOM(to)), flags)
#define readlinkat(directory, path, to, size)                                                      \
	readlinkat(directory, path, to, fortify_size(size, FORTIFY_ROOM(to)))
#define poll(fds, count, wait)                                                                     \
	poll(fds, (nfds_t)(fortify_size((count) * sizeof(struct pollfd), FORTIFY_ROOM(fds)) /       \
			   sizeof(struct pollfd)), wait)

#endif
