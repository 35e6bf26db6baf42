/*
 * rless-zeros.so: zeros for pasta's buffers after its start, not in it; for LD_PRELOAD
 * (rootless/network/pasta.py).
 *
 * pasta of 2023 begins by setting 20 MB of static buffers to zero, by 5700 page faults: half the
 * time until it is ready. They are zero already, pages that nobody has written to are (.bss).
 *
 * The memset below leaves alone what the kernel says was never written to (pagemap), and writes
 * the rest. What it has left is brought in at one go once pasta is ready: when it limits its system
 * calls (seccomp), after which nothing is asked here any more. So what traffic finds is as without
 * us. All else is libc's.
 *
 * It links to no library: whatever libc the program has brings the names that are used here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14; before that, pages come one by one, as they are used */
#endif

enum { BATCH = 512 };			/* pages that are asked for at a time */
enum { RANGES = 1024 };			/* that can be left out */
enum { PRESENT_OR_SWAPPED = 62 };	/* bits 62 and 63 of an entry; kernel doc: pagemap */

#pragma weak dlsym /* in libdl before glibc 2.34, and nobody may have loaded that */

static void *(*libc_memset)(void *, int, size_t);
static uintptr_t begin, end, page; /* the program's memory that is no part of its file (.bss) */
static int pagemap = -1;

static struct { uintptr_t from, to; } left[RANGES]; /* whole pages, by their numbers */
static int lefts;

static void set(void *memory, int byte, size_t size)
{
	if (libc_memset)
		libc_memset(memory, byte, size);
	else
		for (volatile char *at = memory; size--; at++)
			*at = (char)byte;
}

static int find_bss(struct dl_phdr_info *program, size_t size, void *unused)
{
	(void)size, (void)unused;
	for (int i = 0; i < program->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &program->dlpi_phdr[i];
		uintptr_t start = program->dlpi_addr + part->p_vaddr;

		if (part->p_type == PT_LOAD && part->p_memsz > part->p_filesz) {
			begin = start + part->p_filesz;
			end = start + part->p_memsz;
		}
	}
	return 1; /* the first one is the program; no more */
}

__attribute__((constructor)) static void prepare(void)
{
	page = (uintptr_t)sysconf(_SC_PAGESIZE);
	if (dlsym)
		libc_memset = (void *(*)(void *, int, size_t))dlsym(RTLD_NEXT, "memset");
	dl_iterate_phdr(find_bss, NULL);
}

static void stop(void)
{
	if (pagemap >= 0)
		close(pagemap);
	pagemap = -1;
	end = 0; /* nothing is between begin and end now */
	for (int i = 0; i < lefts; i++)
		madvise((void *)(left[i].from * page), (left[i].to - left[i].from) * page,
			MADV_POPULATE_WRITE);
	lefts = 0;
}

/* Whether the system tells about our pages. Not asked before main: it may close what it inherits. */
static int can_ask(void)
{
	if (pagemap < 0)
		pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		stop();
	return pagemap >= 0;
}

/* Set whole pages to zero, but for those that are. */
static void set_pages(uintptr_t at, uintptr_t last)
{
	uint64_t entries[BATCH];

	while (at < last) {
		size_t count = last - at < BATCH ? last - at : BATCH, wanted = count * sizeof *entries;
		ssize_t got = pread(pagemap, entries, wanted, (off_t)(at * sizeof *entries));

		for (size_t i = 0; i < count; i++)
			if (got != (ssize_t)wanted || entries[i] >> PRESENT_OR_SWAPPED)
				set((void *)((at + i) * page), 0, page);
		at += count;
	}
}

/* memset(3). */
void *memset(void *memory, int byte, size_t size)
{
	uintptr_t from = (uintptr_t)memory, to = from + size;

	if (byte || size < 2 * page || from < begin || to > end || lefts == RANGES || !can_ask()) {
		set(memory, byte, size);
		return memory;
	}
	uintptr_t first = (from + page - 1) / page, last = to / page;

	set(memory, 0, first * page - from);
	set((void *)(last * page), 0, to - last * page);
	set_pages(first, last);
	left[lefts].from = first;
	left[lefts++].to = last;
	return memory;
}

/* prctl(2). */
int prctl(int operation, ...)
{
	unsigned long words[4];
	va_list list;

	va_start(list, operation);
	for (int i = 0; i < 4; i++)
		words[i] = va_arg(list, unsigned long);
	va_end(list);
	if (operation == PR_SET_NO_NEW_PRIVS || operation == PR_SET_SECCOMP)
		stop();
	return (int)syscall(SYS_prctl, operation, words[0], words[1], words[2], words[3]);
}
