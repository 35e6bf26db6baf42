/* What clients ask of a container's monitor: datagrams with descriptors, and what is brought to them. */
#include "../monitor/monitor.h"
#include "target.h"

enum { READ = 4, OUTPUT = 4, INPUT, FEED, LOSE, RANK, END, ACTIONS };
enum { ACTIONS_OF_ONE = 64 };

struct monitor me;
struct config config = { .join_timeout = 1000, .client_fd = -1, .client_stdin_fd = -1,
			 .client_stdout_fd = -1, .client_stderr_fd = -1,
			 .python_fd = -1, .stop_signal = SIGTERM, .stop_timeout = 10 };
struct logs logs = { .fd = -1 };

/* -- the rest of the monitor ------------------------------------------------------------------- */

long long to_number(const char *text)
{
	return strtoll(text, NULL, 10);
}

void become_python(const char *verb, bool keep)
{
	(void)verb, (void)keep;
}

void give_up_start(void) {}

void log_write(int stream, const char *data, size_t size)
{
	(void)stream, (void)data, (void)size;
}

void poll_once(bool block)
{
	(void)block;
}

void record_exit(bool again)
{
	(void)again;
}

/* -- the target -------------------------------------------------------------------------------- */

static void begin(void)
{
	me = (struct monitor){ .dir = open_fake(), .listener_fd = open_fake(), .config_fd = -1, .member_fd = -1,
			       .init_fd = open_fake(), .health_fd = -1, .oom_fd = -1, .status_fd = -1,
			       .release_fd = -1, .term_fd = -1, .child_fd = -1, .pty_fd = -1 };
	me.stdin_fd = open_fake();
	me.sources[OUT] = open_fake();
	me.sources[ERR] = open_fake();
	if (take_byte() % 2)
		me.pty_fd = me.sources[OUT];
	config.stdin_once = take_byte() % 2;
	begin_client();
	begin_ranks();
	chunk.size = 0;
	for (int i = 0; i < 3; i++)
		clients[i].fd = open_fake();
	clients[0].stop_on_disconnect = clients[0].starter = take_byte() % 2;
	faults = take_byte() % 2;
}

static void lose_ranks(void)
{
	for (int i = 0; i < RANKS; i++)
		if (ranks[i] >= 0)
			lose_rank(i);
	end_ranks();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int before = count_open();

	begin_input(data, size);
	begin();
	for (int i = 0; i < ACTIONS_OF_ONE && has_input(); i++) {
		unsigned action = take_byte() % ACTIONS;
		struct client *client = &clients[take_byte() % 4];
		int stream = (client - clients) % 2 ? ERR : OUT;

		if (action < READ && is_open(client))
			read_message(client);
		switch (action) {
		case OUTPUT:
			if (!chunk.size && me.sources[stream] >= 0)
				take(stream);
			else {
				milliseconds += take_byte();
				deliver();
			}
			break;
		case INPUT:
			if (client->in >= 0 && typed.at == typed.end)
				take_input(client);
			else
				pass_input();
			break;
		case FEED:
			if (is_open(client))
				give(client, stream);
			break;
		case LOSE:
			if (free_place())
				accept_client();
			break;
		case RANK:
			lose_ranks();
			break;
		case END:
			me.code = (int)take_byte();
			me.ended = true;
			tell_end();
			break;
		}
		if (strlen(me.name) >= sizeof(me.name) || strlen(restart.policy) >= sizeof(restart.policy))
			report("a text without an end");
	}
	faults = false;
	begin_input(NULL, 0);
	for (int i = 0; i < CLIENTS; i++)
		close_client(&clients[i]);
	lose_ranks();
	if (me.pty_fd >= 0)
		hang_up();
	close_fd(&me.sources[OUT]);
	close_fd(&me.sources[ERR]);
	close_fd(&me.stdin_fd);
	close_fd(&me.dir);
	close_fd(&me.listener_fd);
	close_fd(&me.init_fd);
	if (count_open() != before)
		report("a descriptor is left open");
	return 0;
}

/* -- seeds ------------------------------------------------------------------------------------- */

#define WORDS(text, fds) { text, sizeof(text) - 1, fds }

size_t fuzz_seed(unsigned number, uint8_t *data)
{
	static const struct { const char *text; size_t size; uint8_t fds; } said[] = {
		WORDS("A\1", 3), WORDS("A\0", 2), WORDS("A\1", 2), WORDS("J", 1), WORDS("W\x18\0\x50\0", 0),
		WORDS("K\x0f", 0), WORDS("S", 0), WORDS("U{\"name\":\"always\",\"max\":7}", 0),
		WORDS("Nnew-name", 0), WORDS("D", 0), WORDS("J", 2), WORDS("N", 8),
	};
	static const uint8_t ends[][10] = {
		{ OUTPUT, 0, 0, 3, 0, 'o', 'u', 't' },
		{ INPUT, 1, 0, 2, 0, 'i', 'n' },
		{ FEED, 1 }, { LOSE, 0 }, { RANK, 0 }, { END, 0, 7 },
	};
	enum { MESSAGES = sizeof(said) / sizeof(*said), ENDS = sizeof(ends) / sizeof(*ends) };
	size_t at = 4;

	if (number >= MESSAGES * ENDS)
		return 0;
	memcpy(data, (uint8_t[]){ (uint8_t)(number % 2), 1, 1, 0 }, 4);
	memcpy(data + at, (uint8_t[]){ 0, 1, 0, (uint8_t)said[number / ENDS].size, 0 }, 5);
	at += 5;
	memcpy(data + at, said[number / ENDS].text, said[number / ENDS].size);
	at += said[number / ENDS].size;
	data[at++] = said[number / ENDS].fds;
	memcpy(data + at, ends[number % ENDS], sizeof(*ends));
	return at + sizeof(*ends);
}
