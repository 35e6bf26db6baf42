/*
 * The foreground process of a container: what launch.c and foreground.c have of each other.
 */
#ifndef FOREGROUND_H
#define FOREGROUND_H

/*
 * Fork the start process, and follow the container that it makes. Return in the child the descriptor
 * of its socket to us; in this process -1, and only if all is to be done as without a child.
 */
int fork_start_process(void);

/* Become the foreground process in Python, with these words; return the exit code if that fails. */
int become_foreground(char **words, int count);

#endif
