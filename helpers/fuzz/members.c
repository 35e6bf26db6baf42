/* What members and commands tell rless-networks: words in datagrams, with descriptors. */
#include "networks.h"
#include "target.h"

enum { MESSAGE, ACCEPT = 5, LOOK, LEAVE, ACTIONS };
enum { ACTIONS_OF_ONE = 48, LISTENING = 100 };

/* Ask for what the messages have set. */
static void look(void)
{
	struct address address = { take_byte() % 2 ? 16 : 4, { 0 } };
	struct sockaddr_storage who = { .ss_family = AF_INET };

	for (int i = 0; i < address.size; i++)
		address.bytes[i] = (uint8_t)take_byte();
	place_of(&address);
	is_inside(&address);
	memcpy(&((struct sockaddr_in *)&who)->sin_addr, address.bytes, 4);
	for (int i = 0; i < client_count; i++)
		for (int family = 0; family < 2; family++) {
			const struct place *place = target_of(i, family);

			if (place)
				show_client(-1, &who, place, family);
		}
	for (int i = 0; i < place_count; i++) {
		uint8_t query[] = { 1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'w', 0, 0, 1, 0, 1 }, said[4096];

		if (places[i].network < 0)
			continue;
		if (places[i].names[NAMES - 1])
			report("names without an end");
		dns_local(query, sizeof(query), &places[i].addresses[0], said, sizeof(said));
		query[16] = 12;
		dns_local(query, sizeof(query), &places[i].addresses[1], said, sizeof(said));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int listener = -1;
	int before;

	if (listener < 0)
		listener = open_fake();
	before = count_open();
	begin_input(data, size);
	transparent = true;
	for (int i = 0; i < 3; i++)
		clients[i] = (struct client){ .fd = open_fake() };
	client_count = 3;
	faults = take_byte() % 2;
	for (int i = 0; i < ACTIONS_OF_ONE && has_input(); i++) {
		unsigned action = take_byte() % ACTIONS;
		int number = (int)(action % 5) < client_count ? (int)(action % 5) : 0;

		if (action < ACCEPT)
			read_message(number);
		else if (action == ACCEPT)
			accept_client(listener);
		else if (action == LOOK)
			look();
		else
			drop_client(take_byte() % 3);
	}
	faults = false;
	begin_input(NULL, 0);
	forget_members();
	if (count_open() != before)
		report("a descriptor is left open");
	return 0;
}

/* -- seeds ------------------------------------------------------------------------------------- */

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define NETWORK "br-one\0" ID "\0one\0" "0\0v1-5\0" "0a090101/24\0fd090001000000000000000000000001/64\0"
#define WORDS(text, fds) { text, sizeof(text) - 1, fds }

size_t fuzz_seed(unsigned number, uint8_t *data)
{
	static const struct { const char *text; size_t size; uint8_t fds; } said[] = {
		WORDS("J\0" ID "\0" NETWORK "0a090105\0fd090001000000000000000000000005\0w\0web\0", 0),
		WORDS("J\0" ID "\0" NETWORK "\0\0w\0", 0),
		WORDS("N\0" ID "\0br-one\0other\0", 0),
		WORDS("L\0" ID "\0br-one\0", 0),
		WORDS("S\0" "0a090106\0" "c0000201\0", 0),
		WORDS("P\0" "8080\0", 1),
		WORDS("O\0", 2),
		WORDS("W\0", 0),
		WORDS("W\0", 1), /* found: its descriptor stayed open */
		WORDS("J\0" ID "\0br-two\0" ID "\0two\0" "0\0v2-5\0" "0a090201/200\0\0" "\0\0w\0", 0), /* found */
	};
	enum { MESSAGES = sizeof(said) / sizeof(*said) };
	size_t at = 1;

	if (number >= MESSAGES)
		return 0;
	data[0] = 0;
	for (unsigned i = 0; i < 3; i++) { /* a join, then each of them, and by who has not joined */
		unsigned which = i ? number : 0;

		memcpy(data + at, (uint8_t[]){ MESSAGE + i / 2, 0, (uint8_t)said[which].size,
					       (uint8_t)(said[which].size >> 8) }, 4);
		memcpy(data + at + 4, said[which].text, said[which].size);
		at += 4 + said[which].size;
		data[at++] = said[which].fds;
	}
	memcpy(data + at, (uint8_t[]){ LOOK, 0, 10, 9, 2, 5 }, 6);
	return at + 6;
}
