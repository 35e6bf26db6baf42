/*
 * A fuzzer for compilers that bring none: a target is that of libFuzzer, with seeds made by code.
 *
 *   TARGET SECONDS CRASH   run it so long; what it ends with is left in the file CRASH
 *   TARGET --seeds DIR     write the seeds, for libFuzzer
 *   TARGET FILE...         run it once with each file
 *
 * It keeps each input that comes to a place in the program that no other came to, as the compiler
 * tells (-fsanitize-coverage=trace-pc), and changes those it has. It does the same each time, as far
 * as the seconds go.
 */
#include "target.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { KEPT = 1 << 14, EDGES = 1 << 16, ROUND = 256, HANG = 30 /* s */ };

void __sanitizer_set_death_callback(void (*callback)(void));
const char *__asan_default_options(void);

static struct { size_t size; uint8_t *data; } kept[KEPT];
static unsigned kept_count;
static uint8_t seen[EDGES], now[SEED];
static size_t now_size;
static unsigned edges;
static bool is_new;
static uintptr_t last;
static const char *crash;

const char *__asan_default_options(void)
{
	return "handle_abort=1:detect_leaks=0:allocator_may_return_null=1";
}

void __sanitizer_cov_trace_pc(void)
{
	uintptr_t here = (uintptr_t)__builtin_return_address(0);
	unsigned edge = (unsigned)((here ^ last * 31) * 2654435761u >> 8) % EDGES;

	last = here;
	if (!seen[edge]) {
		seen[edge] = 1;
		edges++;
		is_new = true;
	}
}

static void leave_crash(void)
{
	int fd = crash ? open(crash, O_WRONLY | O_CREAT | O_TRUNC, 0600) : -1;

	if (fd >= 0 && write(fd, now, now_size) == (ssize_t)now_size)
		fprintf(stderr, "the input is in %s\n", crash);
}

static void hangs(int number)
{
	(void)number;
	fprintf(stderr, "found: it takes more than %d seconds\n", HANG);
	abort();
}

static void run(void)
{
	is_new = false;
	last = 0;
	LLVMFuzzerTestOneInput(now, now_size);
	if (!is_new || kept_count == KEPT)
		return;
	kept[kept_count].size = now_size;
	kept[kept_count].data = malloc(now_size + 1);
	memcpy(kept[kept_count++].data, now, now_size);
}

static uint32_t random_below(uint32_t limit)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32) % limit;
}

static void insert(size_t at, const uint8_t *data, size_t size)
{
	if (size > SEED - now_size)
		size = SEED - now_size;
	memmove(now + at + size, now + at, now_size - at);
	memmove(now + at, data, size);
	now_size += size;
}

static void change(void)
{
	static const uint8_t odd[] = { 0, 1, 2, 0x7f, 0x80, 0xc0, 0xfe, 0xff, '.', '\n', '"', '\\' };
	unsigned which = random_below(kept_count);
	uint8_t piece[64];
	size_t at, size;

	now_size = kept[which].size;
	memcpy(now, kept[which].data, now_size);
	for (unsigned times = 1 + random_below(6); times; times--) {
		at = random_below((uint32_t)now_size + 1);
		size = 1 + random_below(sizeof(piece));
		switch (random_below(7)) {
		case 0: /* a bit */
			if (at < now_size)
				now[at] ^= (uint8_t)(1 << random_below(8));
			break;
		case 1: /* a byte */
			if (at < now_size)
				now[at] = (uint8_t)random_below(256);
			break;
		case 2: /* one that programs look at */
			if (at < now_size)
				now[at] = odd[random_below(sizeof(odd))];
			break;
		case 3: /* less */
			size = at + size > now_size ? now_size - at : size;
			memmove(now + at, now + at + size, now_size - at - size);
			now_size -= size;
			break;
		case 4: /* more of the same */
			for (size_t i = 0; i < size; i++)
				piece[i] = now_size ? now[(at + i) % now_size] : 0;
			insert(at, piece, size);
			break;
		case 5: /* more of one byte */
			memset(piece, odd[random_below(sizeof(odd))], size);
			insert(at, piece, size);
			break;
		default: /* a part of another one */
			which = random_below(kept_count);
			if (kept[which].size) {
				size_t from = random_below((uint32_t)kept[which].size);

				insert(at, kept[which].data + from, kept[which].size - from);
			}
		}
	}
}

static int write_seeds(const char *directory)
{
	for (unsigned number = 0; (now_size = fuzz_seed(number, now)); number++) {
		char path[4096];
		FILE *file;

		snprintf(path, sizeof(path), "%s/seed-%u", directory, number);
		file = fopen(path, "w");
		if (!file || fwrite(now, 1, now_size, file) != now_size || fclose(file))
			return 1;
	}
	return 0;
}

static int run_files(char **paths)
{
	for (; *paths; paths++) {
		FILE *file = fopen(*paths, "r");

		if (!file)
			return 1;
		now_size = fread(now, 1, sizeof(now), file);
		fclose(file);
		run();
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long runs = 0;
	char *end;
	time_t until;

	if (argc < 2)
		return 64;
	if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
		return write_seeds(argv[2]);
	until = time(NULL) + strtol(argv[1], &end, 10);
	if (*end)
		return run_files(argv + 1);
	crash = argv[2];
	__sanitizer_set_death_callback(leave_crash);
	signal(SIGALRM, hangs);
	alarm(HANG);
	for (unsigned number = 0; (now_size = fuzz_seed(number, now)); number++, runs++)
		run();
	for (; runs % ROUND || time(NULL) < until; runs++) {
		if (runs % ROUND == 0)
			alarm(HANG);
		change();
		run();
	}
	printf("%lu runs, %u inputs, %u edges\n", runs, kept_count, edges);
	return 0;
}
