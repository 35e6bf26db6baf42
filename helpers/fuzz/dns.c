/* Names: queries of members, by UDP and TCP, answers of servers, and the host's resolv.conf. */
#include "networks.h"
#include "target.h"

enum { DATAGRAM, REPLY, ACCEPT, STREAM_EVENT, WAIT, LOCAL, RESOLV, ACTIONS };
enum { ACTIONS_OF_ONE = 48, ROOM = 4096 };

static int first_datagram = -1; /* the socket for names, the first that begin_dns makes */

/* What goes out is a DNS message. */
static void look(int fd, const uint8_t *data, size_t size)
{
	if (fd == first_datagram && (size < 12 || !(data[2] & 0x80)))
		report("what members are sent is no answer");
}

static void begin(void)
{
	for (int i = 0; i < QUESTIONS; i++)
		question_fds[i] = open_fake();
	for (int i = 0; i < STREAMS; i++)
		stream_fds[i] = open_fake();
	addresses = true;
	written = look;
	first_datagram = open_fake(); /* the lowest free number, so that of the next one too */
	close(first_datagram);
	begin_dns();
	begin_dns_tcp();
}

/* Ask for a name directly, with memory of just the size, so that a byte beyond is found. */
static void ask_locally(void)
{
	struct address from = { 4, { 10, 9, 1, (uint8_t)(5 + take_byte() % 4) } };
	uint8_t *query = malloc(ROOM), *answer;
	int size = (int)take_bytes(query, ROOM), room = take_byte() % 2 ? 1124 : 4096, given;

	query = realloc(query, (size_t)size + !size);
	answer = malloc((size_t)room);
	given = dns_local(query, size, &from, answer, room);
	if (given > room || (given > 0 && (given < 12 || memcmp(answer, query, 2))))
		report("an answer of no such size, or of another question");
	free(query);
	free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[8192];
	int before;

	if (first_datagram < 0)
		begin();
	begin_input(data, size);
	add_member(0, 0, "web\0www.shop\0");
	add_member(1, 0, "db\0");
	add_member(2, 1, "inner\0web\0");
	before = count_open();
	faults = take_byte() % 2;
	if (take_byte() % 2) { /* by a server that is a member, and one that is not */
		clients[0].server_count = 2;
		clients[0].servers[0] = (struct server){ places[1].addresses[0], 0, true };
		clients[0].servers[1] = (struct server){ { 4, { 192, 0, 2, 1 } }, 0, false };
	}
	for (int i = 0; i < ACTIONS_OF_ONE && has_input(); i++)
		switch (take_byte() % ACTIONS) {
		case DATAGRAM: dns_datagram(); break;
		case REPLY: dns_reply((int)(take_byte() % QUESTIONS)); break;
		case ACCEPT: stream_accept(); break;
		case STREAM_EVENT: stream_event((int)(take_byte() % STREAMS), take_byte() % 2); break;
		case WAIT:
			milliseconds += take_byte() * 20;
			dns_late();
			stream_late();
			break;
		case LOCAL: ask_locally(); break;
		case RESOLV: read_servers(text, take_bytes(text, sizeof(text) - 1)); break;
		}
	faults = false;
	begin_input(NULL, 0);
	for (int i = 0; i < 5; i++) { /* as many attempts as there are for a question */
		milliseconds += 11000;
		dns_late();
		stream_late();
	}
	if (count_open() != before)
		report("a question or connection stays for ever");
	forget_members();
	return 0;
}

/* -- seeds ------------------------------------------------------------------------------------- */

static size_t put_query(uint8_t *to, const char *name, int type)
{
	static const uint8_t header[12] = { 0x12, 0x34, 1, 0, 0, 1 };
	size_t at = sizeof(header);

	memcpy(to, header, sizeof(header));
	while (*name) {
		size_t length = strcspn(name, ".");

		to[at++] = (uint8_t)length;
		memcpy(to + at, name, length);
		at += length;
		name += length + (name[length] == '.');
	}
	memcpy(to + at, (uint8_t[]){ 0, 0, (uint8_t)type, 0, 1 }, 5);
	return at + 5;
}

/* Put a message: its length in two bytes, and itself; `reply`: as if the server had answered. */
static size_t put_message(uint8_t *to, const char *name, int type, bool reply)
{
	size_t size = put_query(to + 2, name, type);

	if (reply)
		memcpy(to + 2, (uint8_t[]){ 0x5a, 0x5a, 0x81, 0x80 }, 4);
	to[0] = (uint8_t)size;
	to[1] = (uint8_t)(size >> 8);
	return 2 + size;
}

size_t fuzz_seed(unsigned number, uint8_t *data)
{
	static const struct { const char *name; int type; } asked[] = {
		{ "web", 1 }, { "WEB", 28 }, { "www.shop", 1 }, { "nobody", 1 }, { "example.org", 1 },
		{ "5.1.9.10.in-addr.arpa", 12 }, { "web", 255 },
		{ "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.9.0.d.f.ip6.arpa", 12 },
	};
	static const char *const texts[] = {
		"nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a\nnameserver ::ffff:1.2.3.4\n",
		"# none\nnameserver\t2001:db8::1\nnameserver 1.2.3\nnameserver 1::2::3\n",
	};
	enum { NAMES_ASKED = sizeof(asked) / sizeof(*asked) };
	size_t at = 0, size;

	data[at++] = 0;
	data[at++] = (uint8_t)(number % 2);
	if (number < NAMES_ASKED) { /* locally, by UDP from 10.9.1.5, the answer of a server */
		data[at++] = LOCAL;
		data[at++] = 0;
		at += put_message(data + at, asked[number].name, asked[number].type, false);
		data[at++] = 1;
		data[at++] = DATAGRAM;
		data[at++] = 0;
		at += put_message(data + at, asked[number].name, asked[number].type, false);
		data[at++] = 11;
		data[at++] = REPLY;
		data[at++] = 0;
		data[at++] = 0;
		return at + put_message(data + at, asked[number].name, asked[number].type, true);
	}
	if (number < 2 * NAMES_ASKED) { /* by TCP: the length and the message, as the program reads them */
		number -= NAMES_ASKED;
		data[at++] = ACCEPT;
		for (int turn = 0; turn < 2; turn++) {
			uint8_t message[512];

			size = put_message(message, asked[number].name, asked[number].type, turn);
			memcpy(data + at, (uint8_t[]){ STREAM_EVENT, 0, 0, 2, 0, 0, (uint8_t)(size - 2) }, 7);
			at += 7;
			memcpy(data + at, (uint8_t[]){ STREAM_EVENT, 0, 0 }, 3);
			at += 3;
			memcpy(data + at, message, size);
			at += size;
			data[at++] = STREAM_EVENT; /* the query goes on, or the answer back */
			data[at++] = 0;
		}
		return at;
	}
	number -= 2 * NAMES_ASKED;
	if (number >= sizeof(texts) / sizeof(*texts))
		return 0;
	size = strlen(texts[number]);
	memcpy(data + at, (uint8_t[]){ RESOLV, (uint8_t)size, (uint8_t)(size >> 8) }, 3);
	memcpy(data + at + 3, texts[number], size);
	return at + 3 + size;
}
