/* What an application writes, as each log driver has it: whole and in order, whatever it is. */
#include "../monitor/monitor.h"
#include "target.h"

enum { WRITES = 12, LONGEST = 3 * LINE, ALL = WRITES * LONGEST };

struct monitor me;
struct config config = { .log_files = 5, .journal = "/run/systemd/journal/socket",
			 .journal_fields = "CONTAINER_ID=abc\n" };

static struct {
	size_t size;
	uint8_t data[4 * ALL];
} log_text; /* of the driver local or json-file */
static struct {
	size_t size;
	uint8_t data[ALL];
} said[2], found[2]; /* what was written to each stream, and what the log has of it */

/* -- reading the log --------------------------------------------------------------------------- */

static void keep(int stream, const uint8_t *data, size_t size)
{
	if (size > sizeof(found->data) - found[stream].size)
		report("the log has more than was written");
	memcpy(found[stream].data + found[stream].size, data, size);
	found[stream].size += size;
}

static const uint8_t *expect(const uint8_t *at, const char *wanted)
{
	if (strncmp((const char *)at, wanted, strlen(wanted)))
		report("the log has another form");
	return at + strlen(wanted);
}

static int digit(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A reader of JSON refuses what is no UTF-8: too long a form, a surrogate, beyond Unicode. */
static void check_utf8(const uint8_t *at, const uint8_t *end)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };

	while (at < end) {
		int length = *at < 0x80 ? 1 : *at >> 5 == 6 ? 2 : *at >> 4 == 14 ? 3 : *at >> 3 == 30 ? 4 : 0;
		uint32_t value = length == 1 ? *at : *at & (0xff >> (length + 1));

		if (!length || length > end - at)
			report("a byte is no UTF-8");
		for (int i = 1; i < length; i++) {
			if (at[i] >> 6 != 2)
				report("a character is cut");
			value = value << 6 | (at[i] & 63);
		}
		if (value < least[length] || value >> 11 == 0x1b || value > 0x10ffff)
			report("a character is none of Unicode");
		at += length;
	}
}

/* TIME STREAM SIZE, a line, and as many bytes. */
static void read_frames(void)
{
	const uint8_t *at = log_text.data, *end = at + log_text.size;

	while (at < end) {
		int stream;
		long size;

		at = expect(at + 30, " std");
		stream = *at == 'e' ? ERR : OUT;
		at = expect(at, stream == ERR ? "err " : "out ");
		size = strtol((const char *)at, NULL, 10);
		at = (const uint8_t *)strchr((const char *)at, '\n');
		if (!at || size < 0 || at + 1 + size >= end)
			report("a frame is cut");
		keep(stream, at + 1, (size_t)size);
		at = expect(at + 1 + size, "\n");
	}
}

/* A JSON object a line, with escapes of which only \uXXXX is used; \udcXX is a byte. */
static void read_lines(void)
{
	static uint8_t line[LINE];
	const uint8_t *at = log_text.data, *end = at + log_text.size;

	check_utf8(at, end);
	while (at < end) {
		size_t used = 0;
		int stream;

		for (at = expect(at, "{\"log\":\""); *at != '"'; used++) {
			if (used == LINE || at >= end || *at < ' ')
				report("a line has no end");
			if (*at != '\\') {
				line[used] = *at++;
				continue;
			}
			at = expect(at, at[2] == 'd' ? "\\udc" : "\\u00");
			if (digit(at[0]) < 0 || digit(at[1]) < 0)
				report("an escape is none");
			line[used] = (uint8_t)(16 * digit(at[0]) + digit(at[1]));
			at += 2;
		}
		at = expect(at, "\",\"stream\":\"std");
		stream = *at == 'e' ? ERR : OUT;
		at = expect(at, stream == ERR ? "err\",\"time\":\"" : "out\",\"time\":\"");
		at = expect(at + 30, "\"}\n");
		keep(stream, line, used);
	}
}

/* FIELD=VALUE lines, and MESSAGE with its size in eight bytes. */
static void read_datagram(const uint8_t *data, size_t size)
{
	static const char fields[] = "CONTAINER_ID=abc\n", partial[] = "CONTAINER_PARTIAL_MESSAGE=true\n";
	static uint8_t copy[2 * LINE + 256];
	const uint8_t *at = copy;
	bool is_partial;
	uint64_t length;
	int stream;

	if (size >= sizeof(copy))
		report("a datagram is too long");
	memcpy(copy, data, size);
	copy[size] = 0;
	at = expect(at, fields);
	is_partial = *at == 'C';
	if (is_partial)
		at = expect(at, partial);
	stream = at[9] == '3' ? ERR : OUT;
	at = expect(at, stream == ERR ? "PRIORITY=3\nMESSAGE\n" : "PRIORITY=6\nMESSAGE\n");
	memcpy(&length, at, 8);
	at += 8;
	if (at + le64toh(length) + 1 != copy + size || at[le64toh(length)] != '\n')
		report("a message is cut");
	keep(stream, at, le64toh(length) + !is_partial);
}

static void look(int fd, const uint8_t *data, size_t size)
{
	(void)fd;
	if (logs.driver == LOG_JOURNAL) {
		read_datagram(data, size);
		return;
	}
	if (size > sizeof(log_text.data) - 1 - log_text.size)
		report("the log is far longer than what was written");
	memcpy(log_text.data + log_text.size, data, size);
	log_text.size += size;
	log_text.data[log_text.size] = 0;
}

/* -- the target -------------------------------------------------------------------------------- */

/* Write a part of the input; `is_long`: as often as the input says, for lines that are cut. */
static void write_once(bool is_long)
{
	static uint8_t data[LONGEST];
	int stream = take_byte() % 2;
	size_t size = take_bytes(data, sizeof(data));
	size_t times = is_long ? 1 + take_byte() * take_byte() / 16 : 1;

	if (size * times > sizeof(data))
		times = sizeof(data) / (size + !size);
	for (size_t i = size; i < size * times; i++)
		data[i] = data[i - size];
	size *= times;
	memcpy(said[stream].data + said[stream].size, data, size);
	said[stream].size += size;
	log_write(stream, (const char *)data, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const drivers[] = { "local", "json-file", "journald", "none" };
	bool failing, is_long;
	int before = count_open();

	begin_input(data, size);
	log_text.size = said[OUT].size = said[ERR].size = found[OUT].size = found[ERR].size = 0;
	logs = (struct logs){ .fd = -1 };
	config.log = drivers[take_byte() % 4];
	config.log_size = take_byte() * 1000;
	is_long = take_byte() % 8 == 7;
	milliseconds = 1000LL * (take_byte() << 24 | take_byte() << 16);
	failing = faults = take_byte() % 2;
	log_begin();
	written = failing && logs.driver != LOG_JOURNAL ? NULL : look;
	for (int i = 0; i < WRITES && has_input(); i++)
		write_once(is_long);
	faults = false;
	log_end();
	if (!failing && logs.driver == LOG_LOCAL)
		read_frames();
	if (!failing && logs.driver == LOG_JSON)
		read_lines();
	for (int stream = OUT; stream <= ERR && !failing && logs.driver != LOG_NONE; stream++)
		if (said[stream].size != found[stream].size ||
		    memcmp(said[stream].data, found[stream].data, said[stream].size))
			report("the log is not what was written");
	if (count_open() != before)
		report("a descriptor is left open");
	return 0;
}

/* -- seeds ------------------------------------------------------------------------------------- */

size_t fuzz_seed(unsigned number, uint8_t *data)
{
	static const char *const texts[] = {
		"a line\nand a second one\n", "without an end", "\"quotes\" and \\\t\r\n\x01\x7f",
		"\xc3\xa4\xe2\x82\xac\xf0\x9f\x99\x82\n", "\xc3\n\xe2\x82\n\xff\xfe\xed\xa0\x80\xf5\n",
	};
	enum { TEXTS = sizeof(texts) / sizeof(*texts) };
	size_t at = 0, size;
	bool is_long;

	if (number >= 8 * TEXTS)
		return 0;
	is_long = number % 3 == 0;
	memcpy(data, (uint8_t[]){ (uint8_t)(number % 4), 255, is_long ? 7 : 0, 0x5e, 3,
				  (uint8_t)(number / 4 % 2) }, 6);
	at += 6;
	size = strlen(texts[number / 8]);
	for (int turn = 0; turn < 3; turn++) {
		memcpy(data + at, (uint8_t[]){ (uint8_t)(turn % 2), (uint8_t)size, 0 }, 3);
		memcpy(data + at + 3, texts[number / 8], size);
		at += 3 + size;
		if (is_long) {
			data[at++] = turn == 2 ? 120 : 0;
			data[at++] = 160;
		}
	}
	return at;
}
