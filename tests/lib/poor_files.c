/* A file system as poor as some NFS, for LD_PRELOAD: no O_TMPFILE, no locks, no user.* attributes,
 * no devices; with POOR_FILES=squash no owner but the caller either, with quota no room. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/xattr.h>
#include <unistd.h>

static int fail(int number)
{
	errno = number;
	return -1;
}

#define OPEN(NAME)                                                            \
	int NAME(const char *path, int flags, ...)                            \
	{                                                                     \
		int (*real)(const char *, int, mode_t) = dlsym(RTLD_NEXT, #NAME); \
		va_list list;                                                 \
		va_start(list, flags);                                        \
		mode_t mode = va_arg(list, mode_t);                           \
		va_end(list);                                                 \
		if ((flags & O_TMPFILE) == O_TMPFILE)                         \
			return fail(EOPNOTSUPP);                              \
		return real(path, flags, mode);                               \
	}
OPEN(open)
OPEN(open64)

#define OPENAT(NAME)                                                          \
	int NAME(int dir, const char *path, int flags, ...)                   \
	{                                                                     \
		int (*real)(int, const char *, int, mode_t) = dlsym(RTLD_NEXT, #NAME); \
		va_list list;                                                 \
		va_start(list, flags);                                        \
		mode_t mode = va_arg(list, mode_t);                           \
		va_end(list);                                                 \
		if ((flags & O_TMPFILE) == O_TMPFILE)                         \
			return fail(EOPNOTSUPP);                              \
		return real(dir, path, flags, mode);                          \
	}
OPENAT(openat)
OPENAT(openat64)

int flock(int fd, int kind)
{
	(void)fd, (void)kind;
	return fail(ENOLCK);
}

int setxattr(const char *path, const char *name, const void *value, size_t size, int flags)
{
	(void)path, (void)name, (void)value, (void)size, (void)flags;
	return fail(ENOTSUP);
}

int lsetxattr(const char *path, const char *name, const void *value, size_t size, int flags)
{
	return setxattr(path, name, value, size, flags);
}

int fsetxattr(int fd, const char *name, const void *value, size_t size, int flags)
{
	(void)fd;
	return setxattr("", name, value, size, flags);
}

int mknodat(int dir, const char *path, mode_t mode, dev_t device)
{
	int (*real)(int, const char *, mode_t, dev_t) = dlsym(RTLD_NEXT, "mknodat");
	if (S_ISCHR(mode) || S_ISBLK(mode))
		return fail(EPERM);
	return real(dir, path, mode, device);
}

int mknod(const char *path, mode_t mode, dev_t device)
{
	return mknodat(AT_FDCWD, path, mode, device);
}

static int is(const char *kind)
{
	const char *how = getenv("POOR_FILES");
	return how && !strcmp(how, kind);
}

static int is_squashed(void)
{
	return is("squash");
}

/* A quota that is used up: nothing new. */
int mkdir(const char *path, mode_t mode)
{
	int (*real)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
	return is("quota") && access(path, F_OK) ? fail(EDQUOT) : real(path, mode);
}

int symlink(const char *target, const char *path)
{
	int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "symlink");
	return is("quota") ? fail(EDQUOT) : real(target, path);
}

ssize_t write(int fd, const void *data, size_t size)
{
	ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
	struct stat status;
	if (is("quota") && fd > 2 && !fstat(fd, &status) && S_ISREG(status.st_mode))
		return fail(EDQUOT);
	return real(fd, data, size);
}

int fchown(int fd, uid_t user, gid_t group)
{
	int (*real)(int, uid_t, gid_t) = dlsym(RTLD_NEXT, "fchown");
	return is_squashed() ? fail(EPERM) : real(fd, user, group);
}

int fchownat(int dir, const char *path, uid_t user, gid_t group, int flags)
{
	int (*real)(int, const char *, uid_t, gid_t, int) = dlsym(RTLD_NEXT, "fchownat");
	return is_squashed() ? fail(EPERM) : real(dir, path, user, group, flags);
}

int chown(const char *path, uid_t user, gid_t group)
{
	return fchownat(AT_FDCWD, path, user, group, 0);
}

int lchown(const char *path, uid_t user, gid_t group)
{
	return fchownat(AT_FDCWD, path, user, group, AT_SYMLINK_NOFOLLOW);
}
