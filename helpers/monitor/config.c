/* The config: the memfd KEY NUL VALUE NUL ... that this program is started with (config.h). */
#include "monitor.h"

enum kind { FD, NUMBER, FLAG, TEXT, LIST };

static const struct key {
	const char *name;
	enum kind kind;
	unsigned programs;
	size_t offset; /* of its member in struct config */
} keys[] = {
#define KEY(kind, name, programs) { #name, kind, programs, offsetof(struct config, name) },
	CONFIG_KEYS(KEY)
#undef KEY
};

enum { KEYS = sizeof(keys) / sizeof(*keys) };

struct config config;

/* Python has written it, and is of the same version. Nobody is there who could be told. */
static void refuse(void)
{
	_exit(70);
}

long long to_number(const char *text)
{
	return strtoll(text, NULL, 10);
}

static long long whole_number(const char *text)
{
	char *end;
	long long number = strtoll(text, &end, 10);

	if (end == text || *end)
		refuse();
	return number;
}

static void set(const struct key *key, const char *value)
{
	void *member = (char *)&config + key->offset;

	switch (key->kind) {
	case FD:
		*(int *)member = (int)whole_number(value);
		break;
	case NUMBER:
		*(long long *)member = whole_number(value);
		break;
	case FLAG:
		*(bool *)member = whole_number(value);
		break;
	case TEXT:
		*(const char **)member = value;
		break;
	case LIST: {
		struct list *list = member;

		if (list->count == LONGEST_LIST)
			refuse();
		list->values[list->count++] = value;
	}
	}
}

static int find_key(const char *name)
{
	for (int i = 0; i < KEYS; i++)
		if (strcmp(keys[i].name, name) == 0)
			return i;
	return -1;
}

/* Read the config; return whose it is. Each of its keys is there once, a list's any number of
 * times, and no other key. */
unsigned read_config(int fd)
{
	bool given[KEYS] = { false };
	unsigned program = MONITOR | KEEPER;
	const char *at, *end;
	struct stat status;

	if (fstat(fd, &status) < 0 || status.st_size == 0)
		refuse();
	at = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (at == MAP_FAILED || at[status.st_size - 1] != 0)
		refuse();
	for (end = at + status.st_size; at < end;) {
		const char *value = at + strlen(at) + 1;
		int i = find_key(at);

		if (i < 0 || value == end || (given[i] && keys[i].kind != LIST))
			refuse();
		set(&keys[i], value);
		given[i] = true;
		program &= keys[i].programs;
		at = value + strlen(value) + 1;
	}
	if (program != MONITOR && program != KEEPER)
		refuse();
	for (int i = 0; i < KEYS; i++)
		if (!given[i] && keys[i].kind != LIST && keys[i].programs & program)
			refuse();
	return program;
}
