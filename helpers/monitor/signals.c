/* Signals to init, and those that come to us. */
#include "monitor.h"

int signal_init(int number)
{
	if (me.ended || me.init_fd < 0)
		return ESRCH;
	if (has_joined() && number != SIGKILL) { /* the first process only holds what they use */
		signal_ranks(number);
		return 0;
	}
	/* Process 1 of a pid namespace loses what it has no handler for: it waits for who has one. */
	if (me.status_fd >= 0 && number != SIGKILL && number > 0 && number <= 64) {
		me.asked |= 1ULL << (number - 1);
		return EAGAIN; /* kept */
	}
	return syscall(SYS_pidfd_send_signal, me.init_fd, number, NULL, 0) < 0 ? errno : 0;
}

/* Signal the process group that init leads, if it does; else init alone. */
int signal_group(int number)
{
	/* It is our child that we have not waited for: the number is nobody else's. */
	if (me.ended || me.init <= 0 || me.status_fd >= 0 || has_joined() ||
	    syscall(SYS_getpgid, (long)me.init) != me.init)
		return signal_init(number);
	return syscall(SYS_kill, (long)-me.init, (long)number) < 0 ? errno : 0;
}

/* The application runs: now it gets what it was sent. */
void begin_signals(void)
{
	close_fd(&me.status_fd);
	for (int number = 1; me.asked; number++, me.asked >>= 1)
		if (me.asked & 1)
			signal_init(number);
}

/* Ignore a signal, or no longer: one of those too (32 to 34) that signal(3) keeps for the C library. */
void set_signal(int number, void (*handler)(int))
{
	struct { /* what the kernel takes; no handler of ours is ever called */
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} action = { handler, 0, NULL, 0 };

	syscall(SYS_rt_sigaction, number, &action, NULL, sizeof(action.mask));
}

/* Block what signalfds take, as they do only while it is blocked; or unblock it. */
void block_signals(bool block)
{
	uint64_t set = 1ULL << (SIGCHLD - 1) | 1ULL << (SIGTERM - 1);

	syscall(SYS_rt_sigprocmask, block ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL, sizeof(set));
}

int signal_fd(int number)
{
	uint64_t set = 1ULL << (number - 1);

	return (int)syscall(SYS_signalfd4, -1, &set, sizeof(set), O_CLOEXEC | O_NONBLOCK);
}
