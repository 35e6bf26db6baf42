/* What this program was told: the memfd KEY NUL VALUE NUL .... */
#include "monitor.h"

static const char *orders, *orders_end;

/* The next value of `key` after the one at `last` (NULL: the first); NULL: there is none. */
const char *next_order(const char *key, const char *last)
{
	const char *at = last ? last + strlen(last) + 1 : orders;

	while (at < orders_end) {
		const char *value = at + strlen(at) + 1;

		if (strcmp(at, key) == 0)
			return value;
		at = value + strlen(value) + 1;
	}
	return NULL;
}

long long to_number(const char *text)
{
	return strtoll(text, NULL, 10);
}

const char *text(const char *key)
{
	const char *value = next_order(key, NULL);

	return value ? value : "";
}

long long number(const char *key, long long otherwise)
{
	const char *value = next_order(key, NULL);

	return value ? to_number(value) : otherwise;
}

void read_orders(int fd)
{
	struct stat status;

	if (fstat(fd, &status) < 0 || status.st_size == 0)
		_exit(70);
	orders = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (orders == MAP_FAILED)
		_exit(70);
	orders_end = orders + status.st_size;
}
