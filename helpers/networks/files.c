/*
 * A process beside this program that opens files for it, so that what meets containers needs none.
 *
 * It is a child, made before the walls, and ends with the program, by the end of their socket. It
 * reads what the program says, no byte of a container: E and a line to append to the events; R for
 * resolv.conf, answered by R and its text, or by = where it is as before; U: our socket goes.
 * It begins with H, once it has walls of its own.
 */
#include "networks.h"

enum { TEXT = 8192 };

static int beside = -1; /* the program's end of the socket */

/* Answer with the host's resolv.conf where it has changed: a laptop moves, a VPN comes and goes. */
static void send_resolv_conf(int fd)
{
	static struct timespec seen;
	static ino_t inode;
	static char text[1 + TEXT] = "R";
	struct stat status;
	int file = openat(AT_FDCWD, "/etc/resolv.conf", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t size = 0;

	if (file < 0)
		inode = 0;
	else if (fstat(file, &status) == 0) {
		if (status.st_ino == inode && status.st_mtim.tv_sec == seen.tv_sec &&
		    status.st_mtim.tv_nsec == seen.tv_nsec) {
			close(file);
			send(fd, "=", 1, MSG_NOSIGNAL);
			return;
		}
		seen = status.st_mtim;
		inode = status.st_ino;
		size = read(file, text + 1, TEXT);
	}
	if (file >= 0)
		close(file);
	send(fd, text, 1 + (size_t)(size < 0 ? 0 : size), MSG_NOSIGNAL);
}

/* Append one line by one write, as rootless/engine/state/events.py does. */
static void append(const char *line, size_t size)
{
	int fd = openat(AT_FDCWD, "../../../events",
			O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return;
	if (write(fd, line, size) < 0)
		size = 0; /* what it tells of has happened all the same */
	close(fd);
}

static void serve(int fd)
{
	static char said[1 + TEXT];
	ssize_t size;

	while ((size = recv(fd, said, sizeof(said), 0)) > 0 || (size < 0 && errno == EINTR))
		switch (size > 0 ? said[0] : 0) {
		case 'E':
			append(said + 1, (size_t)size - 1);
			break;
		case 'R':
			send_resolv_conf(fd);
			break;
		case 'U':
			unlinkat(AT_FDCWD, "networks", 0); /* we are in the directory of the socket */
			send(fd, "U", 1, MSG_NOSIGNAL);
			break;
		}
}

/* Begin the process; `title` is the program's, as `ps` shows it. Return NULL, or what failed. */
const char *begin_files(char *title, size_t size)
{
	int pair[2];
	char said;
	pid_t child;

	if (syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return "socketpair";
	child = fork();
	if (child < 0)
		return "fork";
	if (child) {
		close(pair[1]);
		beside = pair[0];
		return recv(beside, &said, 1, 0) == 1 ? NULL : "the process that opens files";
	}
	memset(title, 0, size);
	snprintf(title, size, "rless: files of networks");
	prctl(PR_SET_NAME, "rless-net-files", 0, 0, 0);
	/* Were one open here too, its end would be told to nobody. */
	if (dup2(pair[1], 3) < 0 || syscall(SYS_close_range, 4L, (long)~0U, 0L, 0L, 0L, 0L) < 0)
		_exit(70);
	if (!walls_of_files_process() && send(3, "H", 1, MSG_NOSIGNAL) == 1)
		serve(3);
	_exit(0);
}

void tell_event(const char *line, size_t size)
{
	char said[1 + TEXT] = "E";

	if (size > TEXT)
		return;
	memcpy(said + 1, line, size);
	send(beside, said, 1 + size, MSG_NOSIGNAL);
}

/* Read the host's resolv.conf; return its size, -1: as before, or it cannot be asked for. */
ssize_t read_resolv_conf(char *text, size_t room)
{
	static char said[1 + TEXT];
	ssize_t size;

	if (send(beside, "R", 1, MSG_NOSIGNAL) < 0)
		return -1;
	size = recv(beside, said, sizeof(said), 0);
	if (size < 1 || said[0] != 'R')
		return -1;
	size = size - 1 < (ssize_t)room ? size - 1 : (ssize_t)room;
	memcpy(text, said + 1, (size_t)size);
	return size;
}

/* Take our socket away, so that nobody can connect any more. */
void remove_socket(void)
{
	char said;

	if (send(beside, "U", 1, MSG_NOSIGNAL) == 1)
		recv(beside, &said, 1, 0);
}
