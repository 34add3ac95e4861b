/* SPDX-License-Identifier: MIT */
/*
 * Extents of other homes that live here now, and answer from their old address
 * (doc/protocol.md, section 11). The table lies in kept memory:
 *
 *	FREE --add--> COPYING --complete--> COMMITTING --serve--> SERVING --leave--> LEAVING --remove--> FREE
 *	                  \-----------------------\--remove--> FREE
 *
 * and each state says what a bbd that finds it has to do: COPYING, forget it;
 * COMMITTING, ask the home again whether it is ours; SERVING, serve it; LEAVING,
 * tell the home that it is freed. The mover's thread (mover.h) does that; the
 * server's looks extents up and lets them go.
 */
#ifndef BB_DAEMON_ADOPT_H
#define BB_DAEMON_ADOPT_H

#include <stdbool.h>
#include <stdint.h>

#define BB_ADOPTED_MAX 16384 /* 32 GiB */

enum bb_adopt_state { BB_ADOPT_FREE = 0, BB_ADOPT_COPYING, BB_ADOPT_COMMITTING, BB_ADOPT_SERVING, BB_ADOPT_LEAVING };

struct bb_adopt_entry {
	uint64_t ptr;	/* at its home, with generation: the extent's start */
	uint64_t local;	/* here */
	uint32_t boot;	/* of its home */
	uint32_t token;	/* of the move */
	uint16_t node;	/* its home */
	uint16_t owner; /* whose it is */
	uint32_t state; /* enum bb_adopt_state */
};

struct bb_adopt;
struct bb_home;
struct bb_keep;

/*
 * Finds what a predecessor has left, frees what it was copying, and extents of
 * home that are marked as adopted but in no entry. Return: 0 or -errno.
 */
int bb_adopt_new(struct bb_adopt **out, struct bb_home *home, struct bb_keep *keep);
void bb_adopt_free(struct bb_adopt *a);

/* From any thread. ptr: anywhere in the extent. Return: false where there is no such extent. */
bool bb_adopt_find(struct bb_adopt *a, uint16_t node, uint64_t ptr, struct bb_adopt_entry *out);
/* Return: 0; -EEXIST; -ENOSPC. */
int bb_adopt_add(struct bb_adopt *a, const struct bb_adopt_entry *e);
void bb_adopt_set(struct bb_adopt *a, uint16_t node, uint64_t ptr, enum bb_adopt_state state);
void bb_adopt_remove(struct bb_adopt *a, uint16_t node, uint64_t ptr);
/* The next entry from number *i on, which is moved on. Return: whether there is one. */
bool bb_adopt_next(struct bb_adopt *a, uint32_t *i, struct bb_adopt_entry *out);
unsigned int bb_adopt_count(struct bb_adopt *a);

#endif
