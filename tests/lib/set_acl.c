/*
 * set-acl FILE MODE [UID]: give a file the ACL of a mode, as cp -p does, and an entry for a user.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>

struct entry {
	uint16_t tag, permissions;
	uint32_t id;
};

int main(int argc, char **argv)
{
	struct {
		uint32_t version;
		struct entry entries[5];
	} acl = { .version = 2 };
	unsigned int count = 0, mode;

	if (argc < 3)
		return 2;
	mode = (unsigned int)strtoul(argv[2], NULL, 8);
	acl.entries[count++] = (struct entry){ 1, (uint16_t)(mode >> 6 & 7), UINT32_MAX };
	if (argc > 3)
		acl.entries[count++] = (struct entry){ 2, 4, (uint32_t)atoi(argv[3]) };
	acl.entries[count++] = (struct entry){ 4, (uint16_t)(mode >> 3 & 7), UINT32_MAX };
	if (argc > 3)
		acl.entries[count++] = (struct entry){ 16, (uint16_t)(mode >> 3 & 7), UINT32_MAX };
	acl.entries[count++] = (struct entry){ 32, (uint16_t)(mode & 7), UINT32_MAX };
	if (setxattr(argv[1], "system.posix_acl_access", &acl, 4 + count * sizeof(struct entry), 0)) {
		perror(argv[1]);
		return 1;
	}
	return 0;
}
