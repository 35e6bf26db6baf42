/* Lines as Docker's json-file has them. */
#include "monitor.h"

/* The bytes of the UTF-8 character at `data`; 0: it is none (Unicode, table 3-7). */
static int utf8_length(const unsigned char *data, size_t size)
{
	unsigned char first = data[0], low = 0x80, high = 0xbf;
	int length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 :
		     first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;

	if (length == 0 || (size_t)length > size)
		return 0;
	if (first == 0xe0) low = 0xa0;
	if (first == 0xed) high = 0x9f;
	if (first == 0xf0) low = 0x90;
	if (first == 0xf4) high = 0x8f;
	for (int i = 1; i < length; i++, low = 0x80, high = 0xbf)
		if (data[i] < low || data[i] > high)
			return 0;
	return length;
}

static struct {
	size_t size;
	char data[6 * LINE + 128 + CHUNK];
} json;

void json_flush(void)
{
	struct iovec part = { json.data, json.size };

	if (json.size && !log_append(&part, 1))
		logs.lost += logs.buffered;
	json.size = logs.buffered = 0;
}

static void json_text(const char *text)
{
	size_t size = strlen(text);

	memcpy(json.data + json.size, text, size);
	json.size += size;
}

/* Put one line into the buffer as Docker's json-file has it. Bytes that are no UTF-8 become lone
 * surrogates, as Python's surrogateescape has them, so that they come back as they were. */
void json_line(int stream, const char *bytes, size_t size)
{
	const unsigned char *data = (const unsigned char *)bytes;

	json_text("{\"log\":\"");
	for (size_t i = 0; i < size;) {
		int length = utf8_length(data + i, size - i);
		char escaped[8];

		if (length > 1 || (length && data[i] >= ' ' && data[i] != '"' && data[i] != '\\')) {
			memcpy(json.data + json.size, data + i, length);
			json.size += length;
			i += length;
			continue;
		}
		snprintf(escaped, sizeof(escaped), length ? "\\u%04x" : "\\udc%02x", data[i++]);
		json_text(escaped);
	}
	json_text("\",\"stream\":\"");
	json_text(stream == ERR ? "stderr" : "stdout");
	json_text("\",\"time\":\"");
	json_text(stamp());
	json_text("\"}\n");
	logs.buffered += size;
	if (json.size >= CHUNK)
		json_flush();
}
