/*
 * files_process RESOLV: run the process that opens files for rless-networks, with RESOLV mounted as
 * /etc/resolv.conf, and print what it reads: before and after RESOLV changes, and with no change.
 */
#include "../../helpers/networks/files.c"
#include "../../helpers/networks/walls.c"

#include <sched.h>
#include <sys/mount.h>

static void show(void)
{
	char text[8192];
	ssize_t size = read_resolv_conf(text, sizeof(text));

	if (size < 0)
		printf("as before\n");
	else
		printf("%.*s", (int)size, text);
}

static int replace(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	return !file || fputs(text, file) < 0 || fclose(file);
}

int main(int argc, char **argv)
{
	char title[64] = "";
	const char *failed;

	if (argc != 2 || unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 ||
	    mount(argv[1], "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0) {
		perror("mount");
		return 70;
	}
	failed = begin_files(title, sizeof(title));
	if (failed) {
		perror(failed);
		return 70;
	}
	show();
	show();
	if (replace(argv[1], "nameserver 192.0.2.2\n"))
		return 70;
	show();
	tell_event("{\"one\": 1}\n", 11);
	tell_event("{\"two\": 2}\n", 11);
	remove_socket();
	return 0;
}
