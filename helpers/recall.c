/*
 * rless-recall.so: have the kernel recall what an image that cannot change has said once; for
 * LD_PRELOAD (rootless/rootfs/squashfs.py)
 *
 * squashfuse tells the kernel for how long names and attributes hold: for ever. But for where links
 * lead it is asked each time, and for extended attributes, too, where the image has none at all. On
 * the way of a dynamic program to its libraries (/lib is a link) these are half of all questions,
 * 40 us each.
 *
 * The two are said when the program sets its session up, by what libfuse 3 has for it: links may be
 * kept (FUSE_CAP_CACHE_SYMLINKS, Linux 4.20); who has no operation for extended attributes is not
 * asked again (ENOSYS). $RLESS_NO_XATTRS: the image has none. A program that sets up otherwise, or
 * by another libfuse, is as without us.
 *
 * It links to no library: whatever libc the program has brings the names that are used here.
 *
 * Source: fuse_lowlevel.h and fuse_common.h of libfuse 3.0 to 3.16; Linux uapi/linux/fuse.h.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#pragma weak dlsym /* in libdl before glibc 2.34; libfuse links to that */

enum { INIT = 0, GETXATTR = 26, LISTXATTR = 27, MOST = 64 }; /* in struct fuse_lowlevel_ops */
enum { CACHE_SYMLINKS = 1 << 23 };

/* The beginning of struct fuse_conn_info. */
struct connection {
	unsigned version[2], max_write, max_read, max_readahead, capable, want;
};

typedef void operation(void);
typedef void initialize(void *data, struct connection *connection);
typedef void *new_session(void *arguments, operation *const *operations, size_t size, void *data);

extern char *getenv(const char *);

static initialize *theirs;

static void init(void *data, struct connection *connection)
{
	if (theirs)
		theirs(data, connection);
	connection->want |= connection->capable & CACHE_SYMLINKS;
}

/* As libfuse's, of which it is the front. */
void *fuse_session_new(void *arguments, operation *const *operations, size_t size, void *data)
{
	static operation *changed[MOST];
	new_session *next = dlsym ? (new_session *)dlsym(RTLD_NEXT, "fuse_session_new") : NULL;
	size_t count = size / sizeof(*operations);

	if (!next)
		return NULL;
	if (count <= LISTXATTR || count > MOST)
		return next(arguments, operations, size, data);
	for (size_t i = 0; i < count; i++)
		changed[i] = operations[i];
	theirs = (initialize *)changed[INIT];
	changed[INIT] = (operation *)init;
	if (getenv("RLESS_NO_XATTRS"))
		changed[GETXATTR] = changed[LISTXATTR] = NULL;
	return next(arguments, changed, size, data);
}
