#ifndef FUSE_SERVER_WALLS_H
#define FUSE_SERVER_WALLS_H

/* Each returns NULL, or what failed. */
const char *confine_server(const char *program, int image);
const char *confine_prefetch(int mount);

#endif
