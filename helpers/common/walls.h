/*
 * The walls around a program that reads what a stranger sends: no capabilities, a filter of system
 * calls, a Landlock domain. Each function returns NULL, or the name of the call that failed.
 *
 * Source: capabilities(7), seccomp(2), landlock(7), Linux Documentation/userspace-api.
 */
#ifndef WALLS_H
#define WALLS_H

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__) && !defined(__ILP32__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define OUR_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define OUR_ARCH AUDIT_ARCH_RISCV64
#else
#error "no filter of system calls for this processor"
#endif

/* -- system calls ------------------------------------------------------------------------------ */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, value)
#define ERROR(number) ANSWER(SECCOMP_RET_ERRNO | (number))
#define IF(test, value, yes, no) BPF_JUMP(BPF_JMP | (test) | BPF_K, value, yes, no)

#ifdef __x86_64__ /* the calls of x32 have this bit */
#define ONLY_OUR_BITS , IF(BPF_JGE, 0x40000000, 0, 1), ANSWER(SECCOMP_RET_KILL_PROCESS)
#else
#define ONLY_OUR_BITS
#endif

/* What a filter begins with: calls of another architecture end the process. */
#define ONLY_OUR_ARCH                                                                              \
	LOAD(arch), IF(BPF_JEQ, OUR_ARCH, 1, 0), ANSWER(SECCOMP_RET_KILL_PROCESS), LOAD(nr) ONLY_OUR_BITS

/* For an allow list; the number of the call is loaded before and after each. The low half of an
 * argument is compared: only for an int. */
#define ALLOW(call) IF(BPF_JEQ, SYS_##call, 0, 1), ANSWER(SECCOMP_RET_ALLOW)
#define ALLOW_WITH(call, argument, value)                                                          \
	IF(BPF_JEQ, SYS_##call, 0, 4), LOAD(args[argument]), IF(BPF_JEQ, value, 0, 1),             \
		ANSWER(SECCOMP_RET_ALLOW), LOAD(nr)

/* What the sanitizers' runtime does, in a build for tests. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZERS                                                                                 \
	ALLOW(mmap), ALLOW(munmap), ALLOW(mprotect), ALLOW(madvise), ALLOW(futex), ALLOW(write),   \
		ALLOW(sigaltstack), ALLOW(gettid), ALLOW(getpid), ALLOW(rt_sigprocmask),           \
		ALLOW(readlinkat), ALLOW(sched_yield),
#else
#define SANITIZERS
#endif

static inline const char *load_filter(struct sock_filter *filter, size_t count)
{
	struct sock_fprog program = { (unsigned short)count, filter };

	if (syscall(SYS_seccomp, (long)SECCOMP_SET_MODE_FILTER, 0L, &program, 0L, 0L, 0L) < 0)
		return "seccomp";
	return NULL;
}

/* -- capabilities ------------------------------------------------------------------------------ */

/* Keep only the capabilities of a mask (1 << CAP_*), and let no execve bring others. */
static inline const char *keep_capabilities(uint64_t kept)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {
		{ (uint32_t)kept, (uint32_t)kept, 0 },
		{ (uint32_t)(kept >> 32), (uint32_t)(kept >> 32), 0 },
	};

	for (long number = 0; prctl(PR_CAPBSET_READ, number, 0L, 0L, 0L) >= 0; number++)
		if (prctl(PR_CAPBSET_DROP, number, 0L, 0L, 0L) < 0)
			return "prctl(PR_CAPBSET_DROP)";
	/* Without the inheritable ones there are no ambient ones either. */
	if (syscall(SYS_capset, &header, sets, 0L, 0L, 0L, 0L) < 0)
		return "capset";
	if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
		return "prctl(PR_SET_NO_NEW_PRIVS)";
	return NULL;
}

/* -- files ------------------------------------------------------------------------------------- */

/* The numbers are ours: the headers of the C library may be older than the kernel. */
enum { LANDLOCK_CREATE_RULESET = 444, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF };
enum { LANDLOCK_VERSION = 1, LANDLOCK_BENEATH = 1 };
enum { FILE_ACCESS = 0xffff }; /* LANDLOCK_ACCESS_FS_*: all of them, of Linux 6.10 */
enum { FILE_EXECUTE = 1 << 0, FILE_READ = 1 << 2, FILE_LIST = 1 << 3 };
enum { NO_DOMAIN = -1, BROKEN_DOMAIN = -2 };

/*
 * Make a Landlock domain that forbids all access to files, and return it. What this kernel does not
 * know of that is left out. Before Linux 5.13 there is no Landlock, others have it off: NO_DOMAIN,
 * and the other walls have to do.
 */
static inline int new_domain(void)
{
	long version = syscall(LANDLOCK_CREATE_RULESET, NULL, 0L, (long)LANDLOCK_VERSION, 0L, 0L, 0L);
	uint64_t known = version >= 5 ? 0xffff : version >= 3 ? 0x7fff : version == 2 ? 0x3fff : 0x1fff;
	uint64_t handled = FILE_ACCESS & known;
	long rules;

	if (version < 1)
		return NO_DOMAIN;
	rules = syscall(LANDLOCK_CREATE_RULESET, &handled, sizeof(handled), 0L, 0L, 0L, 0L);
	return rules < 0 ? BROKEN_DOMAIN : (int)rules;
}

/* Allow these accesses to a file, or to all that is beneath a directory, by a descriptor of it. */
static inline const char *allow_beneath(int domain, int fd, uint64_t accesses)
{
	struct {
		uint64_t accesses;
		int32_t fd;
	} __attribute__((packed)) rule = { accesses, fd }; /* struct landlock_path_beneath_attr */

	if (domain < 0)
		return NULL;
	if (syscall(LANDLOCK_ADD_RULE, (long)domain, (long)LANDLOCK_BENEATH, &rule, 0L, 0L, 0L) < 0)
		return "landlock_add_rule";
	return NULL;
}

/* Enter the domain; nothing leads out of it. */
static inline const char *enter_domain(int domain)
{
	long result = 0;

	if (domain == NO_DOMAIN)
		return NULL;
	if (domain == BROKEN_DOMAIN)
		return "landlock_create_ruleset";
	result = syscall(LANDLOCK_RESTRICT_SELF, (long)domain, 0L, 0L, 0L, 0L, 0L);
	close(domain);
	return result < 0 ? "landlock_restrict_self" : NULL;
}

#endif
