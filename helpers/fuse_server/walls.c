/*
 * The walls behind which an image is read: no capability, an allow list of system calls, and no file
 * but the image and what the program is made of.
 *
 * The program is another's: squashfuse with libfuse, a C library and five decompressors, as each
 * distribution builds them. So its list has what such a program may do by itself (memory, threads,
 * its own descriptors, reading files, time), not only the calls that one build was seen to make.
 *
 * Source: seccomp(2), capabilities(7), landlock(7), ld.so(8), Linux Documentation/userspace-api.
 */
#define _GNU_SOURCE
#include "walls.h"

#include "../common/walls.h"

#include <asm/ioctls.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#undef prlimit64 /* in musl a macro, and no part of the name of the call */

/* The first one of Linux 5.1. From here on all processors count alike. */
#define NO_SUCH_CALL 424
#define CLOSE_RANGE 436
#define OPENAT2 437
#define NAMESPACES 0x7e020000 /* CLONE_NEW*, all that clone(2) takes */
#define WRITING (O_ACCMODE | O_CREAT | O_TRUNC)
#define CLONE_FUSE 0x8004e500 /* FUSE_DEV_IOC_CLONE: a descriptor of the mount for each thread */
#define NAME_MEMORY 0x53564d41 /* PR_SET_VMA */

/* The low half of an argument: what is compared here is an int, or has no bits above. */
#define ALLOW_WITHOUT(call, argument, bits)                                                        \
	IF(BPF_JEQ, SYS_##call, 0, 4), LOAD(args[argument]), IF(BPF_JSET, bits, 1, 0),             \
		ANSWER(SECCOMP_RET_ALLOW), LOAD(nr)

/*
 * Where systems have programs and libraries. Nobody but root writes there, and no user has secrets
 * there. That it is more than the program needs lets it come from any distribution.
 */
static const char *const system_places[] = {
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store",
	"/etc/ld.so.cache", "/etc/ld.so.preload", "/sys/devices/system/cpu",
};

/* Allow reading and executing beneath a path, if that exists. */
static const char *allow_path(int domain, const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	uint64_t accesses = FILE_READ | FILE_EXECUTE;
	const char *failed = NULL;
	struct stat status;

	if (fd < 0)
		return NULL;
	if (!fstat(fd, &status)) {
		if (S_ISDIR(status.st_mode))
			accesses |= FILE_LIST;
		failed = allow_beneath(domain, fd, accesses);
	}
	close(fd);
	return failed;
}

/* Allow what a program beside bin/ has in lib/, wherever a link of the system leads. */
static const char *allow_prefix(int domain, const char *program)
{
	char path[PATH_MAX];

	if (!realpath(program, path))
		return NULL; /* execve(2) says so */
	for (int cut = 0; cut < 2; cut++) {
		char *slash = strrchr(path, '/');

		if (slash == path)
			return NULL; /* not the whole system */
		*slash = 0;
	}
	return allow_path(domain, path);
}

static const char *read_only_files(const char *program, int image)
{
	int domain = new_domain();
	const char *failed = NULL;

	for (size_t i = 0; i < sizeof(system_places) / sizeof(*system_places) && !failed; i++)
		failed = allow_path(domain, system_places[i]);
	if (!failed)
		failed = allow_prefix(domain, program);
	if (!failed && image >= 0) /* the program opens it once more, by /dev/fd */
		failed = allow_beneath(domain, image, FILE_READ);
	return failed ? failed : enter_domain(domain);
}

static const char *allow_calls_of_server(void)
{
	struct sock_filter filter[] = {
		ONLY_OUR_ARCH,
		/*
		 * All that is newer is not there: every library gets on with Linux 5.0. Among it are
		 * clone3 and openat2, whose flags no filter sees, io_uring, and what comes yet.
		 */
		IF(BPF_JEQ, CLOSE_RANGE, 0, 1), ANSWER(SECCOMP_RET_ALLOW),
		IF(BPF_JGE, NO_SUCH_CALL, 0, 1), ERROR(ENOSYS),

		/* Descriptors that are there; splice(2) is how libfuse passes pages on. */
		ALLOW(read), ALLOW(readv), ALLOW(pread64), ALLOW(preadv), ALLOW(preadv2), ALLOW(write),
		ALLOW(writev), ALLOW(lseek), ALLOW(splice), ALLOW(vmsplice), ALLOW(tee), ALLOW(close),
		ALLOW(dup), ALLOW(dup3), ALLOW(pipe2), ALLOW(eventfd2), ALLOW(ppoll), ALLOW(pselect6),
		ALLOW(epoll_create1), ALLOW(epoll_ctl), ALLOW(epoll_pwait), ALLOW(fadvise64),
		ALLOW(readahead), ALLOW(getdents64), ALLOW(fsync),
		ALLOW_WITH(fcntl, 1, F_GETFD), ALLOW_WITH(fcntl, 1, F_SETFD),
		ALLOW_WITH(fcntl, 1, F_GETFL), ALLOW_WITH(fcntl, 1, F_SETFL),
		ALLOW_WITH(fcntl, 1, F_DUPFD), ALLOW_WITH(fcntl, 1, F_DUPFD_CLOEXEC),
		ALLOW_WITH(fcntl, 1, F_GETPIPE_SZ), ALLOW_WITH(fcntl, 1, F_SETPIPE_SZ),
		ALLOW_WITH(ioctl, 1, TCGETS), ALLOW_WITH(ioctl, 1, TIOCGWINSZ),
		ALLOW_WITH(ioctl, 1, FIONREAD), ALLOW_WITH(ioctl, 1, FIOCLEX),
		ALLOW_WITH(ioctl, 1, CLONE_FUSE),

		/* Files are read: which ones, Landlock says. */
		ALLOW_WITHOUT(openat, 2, WRITING), ALLOW(fstat), ALLOW(newfstatat), ALLOW(statx),
		ALLOW(statfs), ALLOW(fstatfs), ALLOW(faccessat), ALLOW(readlinkat), ALLOW(getcwd),
		ALLOW(chdir), ALLOW(fchdir), ALLOW(umask),

		/* Memory. */
		ALLOW(brk), ALLOW(mmap), ALLOW(munmap), ALLOW(mremap), ALLOW(mprotect), ALLOW(madvise),
		ALLOW(mincore), ALLOW(mlock), ALLOW(munlock), ALLOW(membarrier),

		/* Itself, its threads and its children. The program is executed behind these walls. */
		ALLOW(execve), ALLOW_WITHOUT(clone, 0, NAMESPACES), ALLOW(futex),
		ALLOW(set_tid_address), ALLOW(set_robust_list), ALLOW(get_robust_list), ALLOW(rseq),
		ALLOW(gettid), ALLOW(getpid), ALLOW(getppid), ALLOW(getpgid), ALLOW(getsid),
		ALLOW(setsid), ALLOW(getuid), ALLOW(geteuid), ALLOW(getgid), ALLOW(getegid),
		ALLOW(getresuid), ALLOW(getresgid), ALLOW(getgroups), ALLOW(capget), ALLOW(wait4),
		ALLOW(waitid), ALLOW(exit), ALLOW(exit_group), ALLOW_WITH(tgkill, 0, getpid()),
		ALLOW_WITH(prlimit64, 0, 0), ALLOW(getrusage), ALLOW(times),
		ALLOW(sched_yield), ALLOW(sched_getaffinity), ALLOW(sched_getparam),
		ALLOW(sched_getscheduler), ALLOW(getcpu), ALLOW(getpriority),
		ALLOW_WITH(prctl, 0, PR_SET_NAME), ALLOW_WITH(prctl, 0, PR_GET_NAME),
		ALLOW_WITH(prctl, 0, PR_SET_DUMPABLE), ALLOW_WITH(prctl, 0, PR_GET_DUMPABLE),
		ALLOW_WITH(prctl, 0, PR_SET_PDEATHSIG), ALLOW_WITH(prctl, 0, PR_CAPBSET_READ),
		ALLOW_WITH(prctl, 0, NAME_MEMORY),

		/* Signals, time, and what a library asks for once. */
		ALLOW(rt_sigaction), ALLOW(rt_sigprocmask), ALLOW(rt_sigreturn), ALLOW(rt_sigpending),
		ALLOW(rt_sigsuspend), ALLOW(rt_sigtimedwait), ALLOW(sigaltstack), ALLOW(setitimer),
		ALLOW(getitimer), ALLOW(restart_syscall), ALLOW(nanosleep), ALLOW(clock_nanosleep),
		ALLOW(clock_gettime), ALLOW(clock_getres), ALLOW(gettimeofday), ALLOW(getrandom),
		ALLOW(sysinfo), ALLOW(uname),

		/* The names that these had first, on processors that are old enough. */
#ifdef SYS_open
		ALLOW_WITHOUT(open, 1, WRITING), ALLOW(stat), ALLOW(lstat), ALLOW(access),
		ALLOW(readlink), ALLOW(getdents), ALLOW(dup2), ALLOW(pipe), ALLOW(eventfd), ALLOW(poll),
		ALLOW(select), ALLOW(epoll_create), ALLOW(epoll_wait), ALLOW(fork), ALLOW(vfork),
		ALLOW(getpgrp), ALLOW(pause), ALLOW(alarm), ALLOW(time),
#endif
#ifdef SYS_getrlimit
		ALLOW(getrlimit),
#endif
#ifdef SYS_arch_prctl
		ALLOW(arch_prctl),
#endif
#ifdef SYS_riscv_flush_icache
		ALLOW(riscv_flush_icache),
#endif
		ERROR(EPERM),
	};

	return load_filter(filter, sizeof(filter) / sizeof(*filter));
}

/* Confine what will be the program that serves an open image (-1: it opens none). */
const char *confine_server(const char *program, int image)
{
	const char *failed = keep_capabilities(0);

	if (!failed)
		failed = read_only_files(program, image);
	return failed ? failed : allow_calls_of_server();
}

/* Confine a process that only reads beneath the root of a mount. */
const char *confine_prefetch(int mount)
{
	struct sock_filter filter[] = {
		ONLY_OUR_ARCH,
		ALLOW(read), ALLOW(pread64), ALLOW(close), ALLOW(fstat), ALLOW(newfstatat), ALLOW(statx),
		ALLOW(readlinkat), ALLOW(fadvise64), ALLOW(clock_gettime), ALLOW(exit_group),
		ALLOW(exit), ALLOW(restart_syscall), ALLOW(rt_sigreturn),
		/* Its flags are in memory. It opens files to read them, which Landlock sees to. */
		IF(BPF_JEQ, OPENAT2, 0, 1), ANSWER(SECCOMP_RET_ALLOW),
		SANITIZERS
		ERROR(EPERM),
	};
	const char *failed = keep_capabilities(0);
	int domain = new_domain();

	if (!failed)
		failed = allow_beneath(domain, mount, FILE_READ | FILE_LIST);
	if (!failed)
		failed = enter_domain(domain);
	return failed ? failed : load_filter(filter, sizeof(filter) / sizeof(*filter));
}
