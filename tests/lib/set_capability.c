/*
 * set-capability FILE: let whoever executes the file have CAP_NET_BIND_SERVICE, as setcap(8) does.
 */
#include <linux/capability.h>
#include <stdio.h>
#include <sys/xattr.h>

int main(int argc, char **argv)
{
	struct vfs_cap_data data = {
		.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
		.data[0].permitted = 1 << CAP_NET_BIND_SERVICE,
	};

	if (argc < 2)
		return 2;
	if (setxattr(argv[1], "security.capability", &data, sizeof data, 0)) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
