/* What the application writes and reads, to and from the clients. */
#include "monitor.h"

#define BACKLOG (256LL << 20) /* bytes that are kept for a client that does not read */
#define HOLE (16LL << 20)     /* bytes of a backlog after which its space is given back */

struct chunk chunk;
struct typed typed;
char spare[CHUNK];

void close_sink(struct sink *sink)
{
	close_fd(&sink->fd);
	close_fd(&sink->spill);
	sink->at = sink->end = sink->holes = 0;
	sink->todo = 0;
}

/* Tell whether nobody else reads, so that the application may be made to wait for this one. */
static bool is_alone(const struct client *client)
{
	for (int i = 0; i < CLIENTS; i++)
		if (&clients[i] != client && is_open(&clients[i]) && clients[i].attached)
			return false;
	return client->stop_on_disconnect || logs.driver == LOG_NONE;
}

bool has_backlog(const struct client *client)
{
	return client->sinks[OUT].at < client->sinks[OUT].end ||
	       client->sinks[ERR].at < client->sinks[ERR].end;
}

/* Its reader has gone away. The command's own is passed on: the application gets SIGPIPE. */
void lose_reader(struct client *client, int stream)
{
	close_sink(&client->sinks[stream]);
	if (client->stop_on_disconnect && is_alone(client) && me.pty_fd < 0)
		close_fd(&me.sources[stream]);
}

/* Give a client what its pipe takes: the backlog first, then the chunk. */
void give(struct client *client, int stream)
{
	struct sink *sink = &client->sinks[stream];

	while (sink->fd >= 0 && (sink->at < sink->end || sink->todo)) {
		const char *data = chunk.data + chunk.size - sink->todo;
		ssize_t size = sink->todo, given;

		if (sink->at < sink->end) {
			long long left = sink->end - sink->at;

			data = spare;
			size = pread(sink->spill, spare, left < CHUNK ? left : CHUNK, sink->at);
			if (size <= 0) {
				close_client(client); /* it must not miss something and go on */
				return;
			}
		}
		given = write(sink->fd, data, size);
		if (given < 0) {
			if (errno != EAGAIN && errno != EINTR)
				lose_reader(client, stream);
			return;
		}
		if (data != spare) {
			sink->todo -= given;
			continue;
		}
		sink->at += given;
		if (sink->at == sink->end && ftruncate(sink->spill, 0) == 0)
			sink->at = sink->end = sink->holes = 0;
		else if (sink->at - sink->holes > HOLE &&
			 fallocate(sink->spill, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   sink->holes, sink->at - sink->holes) == 0)
			sink->holes = sink->at;
	}
}

static int open_spill(void)
{
	char name[32];
	int fd = openat(me.dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	snprintf(name, sizeof(name), ".backlog-%d", getpid()); /* NFS has no O_TMPFILE */
	fd = openat(me.dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	unlinkat(me.dir, name, 0);
	return fd;
}

/* Keep for later what a client has not taken of the chunk; false: there is no room. */
static bool spill(struct sink *sink)
{
	if (sink->end - sink->at + (long long)sink->todo > BACKLOG)
		return false;
	if (sink->spill < 0)
		sink->spill = open_spill();
	while (sink->todo && sink->spill >= 0) {
		ssize_t size = pwrite(sink->spill, chunk.data + chunk.size - sink->todo,
				      sink->todo, sink->end);

		if (size <= 0)
			return false;
		sink->end += size;
		sink->todo -= size;
	}
	return sink->todo == 0;
}

/* Bring the chunk to those who have not had all of it; true: it is still wanted by somebody. */
bool deliver(void)
{
	bool late = now() - chunk.since >= GRACE, wanted = false;

	for (struct client *client = clients; client < clients + CLIENTS; client++) {
		struct sink *sink = &client->sinks[chunk.stream];

		if (!is_open(client) || sink->todo == 0)
			continue;
		if (sink->at == sink->end)
			give(client, chunk.stream);
		if (sink->todo && (late || sink->at < sink->end) && !spill(sink) &&
		    !is_alone(client))
			close_client(client);
		wanted |= sink->todo > 0;
	}
	if (!wanted)
		chunk.size = 0;
	return wanted;
}

ssize_t took; /* bytes of the last chunk */

/* Take what the application has written on a stream; false: there is nothing now. */
bool take(int stream)
{
	ssize_t size = read(me.sources[stream], chunk.data, CHUNK);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (size <= 0) { /* a terminal says EIO when its last writer has gone */
		if (me.sources[stream] != me.pty_fd)
			close_fd(&me.sources[stream]);
		me.sources[stream] = -1;
		return false;
	}
	chunk.stream = stream;
	chunk.size = took = size;
	chunk.since = now();
	log_write(stream, chunk.data, size);
	for (int i = 0; i < CLIENTS; i++)
		if (clients[i].sinks[stream].fd >= 0)
			clients[i].sinks[stream].todo = size;
	deliver();
	return true;
}

void hang_up(void)
{
	if (me.sources[OUT] == me.pty_fd)
		me.sources[OUT] = -1;
	close_fd(&me.pty_fd);
}

/* Write to the application what was typed; it may have closed its standard input. */
void pass_input(void)
{
	int fd = me.pty_fd >= 0 ? me.pty_fd : me.stdin_fd;

	while (fd >= 0 && typed.at < typed.end) {
		ssize_t size = write(fd, typed.data + typed.at, typed.end - typed.at);

		if (size < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (size < 0) {
			close_fd(&me.stdin_fd);
			break;
		}
		typed.at += size;
	}
	typed.at = typed.end = 0;
}

/* Read what a client types. Its end is the application's where the command asked for that. */
void take_input(struct client *client)
{
	ssize_t size = read(client->in, typed.data, CHUNK);

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (size > 0) {
		typed.end = size;
		pass_input();
		return;
	}
	close_fd(&client->in);
	if (me.pty_fd < 0 && config.stdin_once)
		close_fd(&me.stdin_fd);
	if (client->stop_on_disconnect)
		hang_up(); /* a terminal without keys: its window was closed, its connection broke */
}
