/*
 * The start: what init says until it is the application.
 *
 * It comes by a pipe in frames of rootless/runtime/sync.py: a letter, four bytes of length, and a
 * JSON list of one. READY: it waits to be released. FAILED: why it gives up. The end: execve has
 * closed the pipe, or init was killed. Whoever started the container is told B or F.
 */
#include "monitor.h"

enum { HEAD = 5, LONGEST = 4096 /* bytes of a body: its readers have no room for more */ };

static struct {
	size_t got;                /* bytes of the frame that have come */
	unsigned number;           /* the last one in it: of FAILED the exit code */
	char data[HEAD + LONGEST]; /* READY may have more, which is for others */
} frame;

static void release_init(void)
{
	me.ready = true;
	event("start"); /* before there can be an end to tell of */
	if (me.release_fd >= 0 && write(me.release_fd, "s", 1) < 0)
		errno = 0; /* init was killed: the end of its pipe tells */
	close_fd(&me.release_fd);
}

static void fail(const char *said, size_t size)
{
	me.failed = true;
	tell_starter(said, size);
}

static void fail_briefly(const char *reason, unsigned code)
{
	char said[128];

	fail(said, snprintf(said, sizeof(said), "F[\"runtime: %s\",null,%u]", reason, code));
}

static void end_frame(size_t size)
{
	char *body = frame.data + HEAD;

	if (frame.data[0] == 'R' && !me.ready)
		release_init();
	if (frame.data[0] != 'F' || me.failed)
		return;
	if (size < 2 || size > LONGEST) {
		fail_briefly("the start failed, with a reason too long to be told", frame.number);
		return;
	}
	body[0] = 'F'; /* in place of the bracket of the list around it */
	fail(body, size - 1);
}

static void take_byte(char byte)
{
	uint32_t size;

	if (frame.got < sizeof(frame.data))
		frame.data[frame.got] = byte;
	frame.got++;
	if (byte >= '0' && byte <= '9')
		frame.number = 10 * frame.number + (unsigned)(byte - '0');
	else if (byte == ',')
		frame.number = 0;
	memcpy(&size, frame.data + 1, sizeof(size));
	size = le32toh(size);
	if (frame.got < HEAD || frame.got - HEAD < size)
		return;
	end_frame(size);
	frame.got = frame.number = 0;
}

void read_status(void)
{
	ssize_t size = me.status_fd < 0 ? -1 : read(me.status_fd, spare, CHUNK);

	for (ssize_t i = 0; i < size; i++)
		take_byte(spare[i]);
	if (size == 0)
		end_start();
}

/* Init is the application now, or has ended. */
void end_start(void)
{
	if (me.status_fd < 0)
		return;
	if (!me.ready && !me.failed)
		fail_briefly("init was killed before it was ready", 125);
	if (!me.failed)
		tell_begun();
	close_fd(&me.release_fd);
	begin_signals();
}

/* Nobody wants it any more: init is not released. */
void give_up_start(void)
{
	close_fd(&me.status_fd);
	close_fd(&me.release_fd);
}
