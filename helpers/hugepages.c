/*
 * rless-hugepages.so: large pages for pasta's buffers, for LD_PRELOAD (rootless/network/pasta.py).
 *
 * pasta of 2023 begins by writing to 28 MB of static buffers, page after page: 7000 page faults,
 * and half the time of its start. On a host that gives large pages to who asks (madvise, the
 * kernel's default), these are 14 faults.
 *
 * It links to no library: whatever libc the program has brings the names that are used here.
 * Source: madvise(2), dl_iterate_phdr(3).
 */
#define _GNU_SOURCE
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LEAST = 4 << 20 }; /* bytes; less is not worth it */

static int advise(struct dl_phdr_info *program, size_t size, void *unused)
{
	unsigned long page = (unsigned long)sysconf(_SC_PAGESIZE);

	(void)size, (void)unused;
	for (int i = 0; i < program->dlpi_phnum; i++) {
		const ElfW(Phdr) *part = &program->dlpi_phdr[i];
		unsigned long start = program->dlpi_addr + part->p_vaddr;

		/* What is in memory and not in the file: static variables that begin as zero. */
		if (part->p_type != PT_LOAD || part->p_memsz - part->p_filesz < LEAST)
			continue;
		unsigned long from = (start + part->p_filesz + page - 1) & -page;

		madvise((void *)from, start + part->p_memsz - from, MADV_HUGEPAGE);
	}
	return 1; /* the first one is the program; no more */
}

__attribute__((constructor)) static void prepare(void)
{
	dl_iterate_phdr(advise, NULL);
}
