/*
 * A kernel made of the fuzzer's input, for the programs that are fuzzed: included before each of
 * their files (cc -include), it puts fakes.c in place of the system calls that they make.
 *
 * What a program reads comes from the input, what it writes is looked at. Descriptors are numbers
 * that are counted: one that is closed twice, or left open, is a finding.
 */
#ifndef FAKES_H
#define FAKES_H

#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* -- the input --------------------------------------------------------------------------------- */

void begin_input(const uint8_t *data, size_t size);
bool has_input(void);
unsigned take_byte(void);                     /* 0 where nothing is left */
size_t take_bytes(void *target, size_t room); /* a length in two bytes, little end first, and these */

/* -- the kernel -------------------------------------------------------------------------------- */

extern bool faults;      /* whether calls may fail: each takes a byte more of the input */
extern bool addresses;   /* whether datagrams come from an address, not with descriptors */
extern long long milliseconds; /* of all clocks */
extern void (*written)(int fd, const uint8_t *data, size_t size); /* told what is written; NULL: nobody */

int open_fake(void);
int count_open(void);
__attribute__((noreturn)) void report(const char *what);

#ifndef FAKES_C
#define accept4 fake_accept4
#define bind fake_bind
#define clock_gettime fake_clock_gettime
#define close fake_close
#define connect fake_connect
#define epoll_ctl fake_epoll_ctl
#define fallocate fake_fallocate
#define fcntl fake_fcntl
#define fork fake_fork
#define fstat fake_fstat
#define ftruncate fake_ftruncate
#define getrandom fake_getrandom
#define getsockname fake_getsockname
#define getsockopt fake_getsockopt
#define getuid fake_getuid
#define ioctl fake_ioctl
#define listen fake_listen
#define openat fake_openat
#define poll fake_poll
#define pread fake_pread
#define pwrite fake_pwrite
#define read fake_read
#define recv fake_recv
#define recvmsg fake_recvmsg
#define renameat2 fake_renameat2
#define send fake_send
#define sendmsg fake_sendmsg
#define setsockopt fake_setsockopt
#define shutdown fake_shutdown
#define socket fake_socket
#define syscall fake_syscall
#define unlinkat fake_unlinkat
#define write fake_write
#define writev fake_writev
#endif

int fake_accept4(int fd, struct sockaddr *address, socklen_t *size, int flags);
int fake_bind(int fd, const struct sockaddr *address, socklen_t size);
int fake_clock_gettime(clockid_t clock, struct timespec *time);
int fake_close(int fd);
int fake_connect(int fd, const struct sockaddr *address, socklen_t size);
int fake_epoll_ctl(int fd, int operation, int target, struct epoll_event *event);
int fake_fallocate(int fd, int mode, off_t offset, off_t size);
int fake_fcntl(int fd, int command, ...);
pid_t fake_fork(void);
int fake_fstat(int fd, struct stat *status);
int fake_ftruncate(int fd, off_t size);
ssize_t fake_getrandom(void *data, size_t size, unsigned flags);
int fake_getsockname(int fd, struct sockaddr *address, socklen_t *size);
int fake_getsockopt(int fd, int level, int option, void *value, socklen_t *size);
uid_t fake_getuid(void);
int fake_ioctl(int fd, unsigned long request, ...);
int fake_listen(int fd, int backlog);
int fake_openat(int directory, const char *path, int flags, ...);
int fake_poll(struct pollfd *fds, nfds_t count, int timeout);
ssize_t fake_pread(int fd, void *data, size_t size, off_t offset);
ssize_t fake_pwrite(int fd, const void *data, size_t size, off_t offset);
ssize_t fake_read(int fd, void *data, size_t size);
ssize_t fake_recv(int fd, void *data, size_t size, int flags);
ssize_t fake_recvmsg(int fd, struct msghdr *message, int flags);
int fake_renameat2(int from, const char *old, int to, const char *new, unsigned flags);
ssize_t fake_send(int fd, const void *data, size_t size, int flags);
ssize_t fake_sendmsg(int fd, const struct msghdr *message, int flags);
int fake_setsockopt(int fd, int level, int option, const void *value, socklen_t size);
int fake_shutdown(int fd, int how);
int fake_socket(int domain, int kind, int protocol);
long fake_syscall(long number, ...);
int fake_unlinkat(int directory, const char *path, int flags);
ssize_t fake_write(int fd, const void *data, size_t size);
ssize_t fake_writev(int fd, const struct iovec *parts, int count);

#endif
