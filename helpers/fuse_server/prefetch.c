/*
 * What a start will want of an image, asked for beside the start's own work
 *
 * Each look at an image that a program serves waits for that program, 5 to 80 us, and each page of
 * a file until its block is unpacked. Asked ahead, the kernel knows the answers, and has the pages,
 * when the container's init and the application want them. This alone buys 11 to 17 ms of a start of
 * a dynamic program (docs/bench.md, "What was removed, and what it cost").
 *
 * By the link comes, as words that end with a NUL each: paths that may be the program, in the order
 * of $PATH; an empty word; what will be mounted on; an empty word. Of the program, of what the
 * kernel starts it with (PT_INTERP), and of the C library beside that, the first 2 MB are read: so
 * much as squashfuse unpacks while init is at work. No more is asked for after a while, where the
 * storage is slow: until we end, the image cannot.
 *
 * What is read here a stranger has made. Nothing of it is executed, no link of it leads out of it
 * (openat2), and we have no capability, and can change no file where the kernel has Landlock.
 *
 * Source: openat2(2), posix_fadvise(2), elf(5).
 */
#define _GNU_SOURCE
#include "prefetch.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define OPENAT2 437
#define IN_ROOT (0x10 | 0x02) /* RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS */
#define WILL_NEED 3L          /* POSIX_FADV_WILLNEED */

enum {
	MOST = 16384,   /* bytes of words */
	PATH = 4096,    /* bytes of a path, with its NUL */
	STEP = 131072,  /* bytes: the kernel reads no more for one posix_fadvise(2) */
	STEPS = 16,     /* of one file */
	ENOUGH = 100,   /* ms, after which nothing more is asked for */
};

static const char libc[] = "libc.so.6";
static char interpreter[PATH]; /* its path */

static int open_in(int root, const char *path, unsigned long long flags)
{
	unsigned long long how[3] = { flags | O_CLOEXEC, 0, IN_ROOT }; /* struct open_how */

	return (int)syscall(OPENAT2, (long)root, path, how, (long)sizeof(how), 0L, 0L);
}

/* Open a regular file, with any of the bits `some` in its mode if there are some; -1: none. */
static int open_file(int root, const char *path, unsigned some)
{
	int fd = open_in(root, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	struct stat status;

	if (fd < 0)
		return -1;
	if (!fstat(fd, &status) && S_ISREG(status.st_mode) && (!some || status.st_mode & some))
		return fd;
	close(fd);
	return -1;
}

/* Find by what the kernel starts a program: "" for nothing, and where it is no program of ours. */
static void find_interpreter(int program)
{
	static char head[PATH];
	Elf64_Ehdr file;
	Elf64_Phdr part;
	ssize_t size = pread(program, head, sizeof(head), 0);

	if (size < (ssize_t)sizeof(file) || memcmp(head, ELFMAG, SELFMAG) || head[EI_CLASS] != ELFCLASS64)
		return;
	memcpy(&file, head, sizeof(file));
	for (size_t i = 0; i < file.e_phnum; i++) {
		size_t at = i * sizeof(part);

		if (file.e_phoff > (size_t)size || at + sizeof(part) > (size_t)size - file.e_phoff)
			return;
		memcpy(&part, head + file.e_phoff + at, sizeof(part));
		if (part.p_type != PT_INTERP)
			continue;
		if (part.p_filesz < sizeof(interpreter) && /* which then ends, whatever comes */
		    pread(program, interpreter, part.p_filesz, (off_t)part.p_offset) < 0)
			*interpreter = 0;
		return;
	}
}

static char *after_last_slash(char *path)
{
	char *end = path;

	for (; *path; path++)
		if (*path == '/')
			end = path + 1;
	return end;
}

/*
 * Open the C library beside the interpreter; -1: there is none. That is a link, on most systems, to
 * where the libraries are.
 */
static int open_libc(int root)
{
	static char path[2 * PATH + sizeof(libc)];
	char *name = path, *end;
	int link = open_in(root, interpreter, O_PATH | O_NOFOLLOW);
	ssize_t size;

	if (link < 0)
		return -1;
	memcpy(path, interpreter, strlen(interpreter));
	end = after_last_slash(path);
	size = readlinkat(link, "", end, PATH - 1);
	close(link);
	if (size > 0) {
		end[size] = 0;
		name = *end == '/' ? end : path;
	}
	memcpy(after_last_slash(name), libc, sizeof(libc));
	return open_file(root, name, 0);
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

/*
 * Have the kernel read the head of an open file, a step at a time: others ask as well, and wait
 * behind us. Return whether there is one, and time for more.
 */
static int read_ahead(int fd, long long until)
{
	char last;

	for (off_t at = 0; fd >= 0 && at < (off_t)STEP * STEPS && now() < until; at += STEP) {
		syscall(SYS_fadvise64, (long)fd, (long)at, (long)STEP, WILL_NEED, 0L, 0L);
		if (pread(fd, &last, 1, at + STEP - 1) != 1)
			break;
	}
	return fd >= 0 && now() < until;
}

void look_ahead(int link, int root)
{
	static char words[MOST + 3]; /* they end, and both lists, whatever came */
	const char *word = words;
	size_t used = 0;
	ssize_t size;
	int program = -1;
	long long until;

	while (used < MOST && (size = read(link, words + used, MOST - used)) > 0) {
		used += (size_t)size;
		if (used > 1 && !words[used - 1] && !words[used - 2])
			break;
	}
	close(link);
	for (; *word; word += strlen(word) + 1)
		if (program < 0)
			program = open_file(root, word, 0111);
	while (*++word) {
		int fd = open_in(root, word, O_PATH);

		if (fd >= 0)
			close(fd);
		word += strlen(word);
	}
	until = now() + ENOUGH; /* the program that serves has begun by now */
	if (read_ahead(program, until))
		find_interpreter(program);
	if (*interpreter && read_ahead(open_file(root, interpreter, 0), until))
		read_ahead(open_libc(root), until);
	_exit(0);
}
