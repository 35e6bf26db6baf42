/* What the files of rless-serve share; main.c says what the program does. */
#ifndef AHEAD_H
#define AHEAD_H

/* Ask the file system at `root` for what comes by the socket `link`, and end. */
__attribute__((noreturn)) void look_ahead(int link, int root);

#endif
