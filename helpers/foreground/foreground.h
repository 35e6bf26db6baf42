/*
 * The process in front of a container: what launch.c and front.c have of each other.
 */
#ifndef FRONT_H
#define FRONT_H

/*
 * Fork, and follow the container that the child makes. Return in the child the descriptor of its
 * socket to us; in this process -1, and only if all is to be done as without a child.
 */
int stay_in_front(void);

/* Become Python's process in front, with these words; return the exit code if there is none. */
int become_front(char **words, int count);

#endif
