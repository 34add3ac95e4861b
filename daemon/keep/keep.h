/* SPDX-License-Identifier: MIT */
/*
 * Memory that outlives bbd: what is lent to other hosts, and the books of what
 * is held for programs. All of it lies in memfds that a second process, the
 * keeper, holds as well. It does nothing else; when bbd is killed it waits for
 * the next bbd at the same socket and hands them over. If none comes in time it
 * ends, and the memory with it.
 *
 * Whoever keeps books here writes them so that they make sense at every
 * instruction: SIGKILL knows no other boundary.
 *
 * Threads: all calls but _open and _close may come from any thread.
 */
#ifndef BB_DAEMON_KEEP_H
#define BB_DAEMON_KEEP_H

#include <stdbool.h>
#include <stdint.h>

#define BB_KEEP_NAME 32 /* bytes of a name, with its end */

struct bb_keep;

/*
 * path: of the control socket; the keeper listens beside it. Takes over what a
 * predecessor left there, or starts a keeper (forks: before any thread).
 * keep_ms: how long the memory outlives us; 0: no keeper, plain memfds.
 * Return: 0 or -errno. Where no keeper can be had it warns once and goes on
 * without.
 */
int bb_keep_open(struct bb_keep **out, const char *path, unsigned int keep_ms);

/* leave: the keeper keeps it all for the next bbd; else it ends, and all is gone. */
void bb_keep_close(struct bb_keep *k, bool leave);

/* Will what is kept outlive us? Return: for how long, 0: no. */
unsigned int bb_keep_ms(const struct bb_keep *k);
/* The keeper's process; 0: there is none. */
int bb_keep_pid(const struct bb_keep *k);
/* Does the keeper still live? Says it once where it does not. Never waits. */
void bb_keep_check(struct bb_keep *k);

/*
 * The memfd of this name: the predecessor's (found: true) if it has this size,
 * else a new one, all zeros. k NULL: a plain memfd. The descriptor belongs to
 * the caller. The keeper has it before this returns. Return: fd or -errno.
 */
int bb_keep_memory(struct bb_keep *k, const char *name, uint64_t size, bool *found);

/* Puts a descriptor of the caller's own under a name (a file of a store). Return: 0 or -errno. */
int bb_keep_put(struct bb_keep *k, const char *name, int fd);
/* A duplicate of what lies under the name. Return: fd, or -ENOENT. */
int bb_keep_get(struct bb_keep *k, const char *name);

/* Forgets it: the memory is gone when its last descriptor is. */
void bb_keep_drop(struct bb_keep *k, const char *name);

/* Names that begin with prefix, at most max are copied. Return: how many there are. */
unsigned int bb_keep_list(struct bb_keep *k, const char *prefix, char (*names)[BB_KEEP_NAME], unsigned int max);

#endif
