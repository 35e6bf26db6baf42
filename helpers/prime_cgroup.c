/*
 * rless-prime-cgroup FILE: ask for a move between control groups that is never made, and end.
 *
 * FILE is the cgroup.threads of a group in another domain than ours. A thread cannot leave its
 * domain (EOPNOTSUPP), but the kernel finds that out only when it has all locks, for which it waits
 * some milliseconds if nobody has had them for a while. See rootless/linux/cgroup.py,
 * `prime_migration`.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char text[24];
	int size = snprintf(text, sizeof(text), "%d", (int)getpid());
	int fd = argc == 2 ? openat(AT_FDCWD, argv[1], O_WRONLY | O_CLOEXEC) : -1;

	return fd < 0 || write(fd, text, (size_t)size) < 0;
}
