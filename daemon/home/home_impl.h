/* SPDX-License-Identifier: MIT */
/* What the files of daemon/home/ share: see home.c for how it works. */
#ifndef BB_DAEMON_HOME_IMPL_H
#define BB_DAEMON_HOME_IMPL_H

#include "home.h"

#include <pthread.h>
#include <stdatomic.h>

#include "slab.h"

enum { X_FREE, X_LIVE, X_DYING, X_DIRTY, X_MOVING, X_MOVED };

/* Kept: see BB_KEEP_LAYOUT (main.c). 0: never given out. */
struct extent {
	_Atomic uint64_t word;
	uint32_t boot;	/* incarnation of the node that created it; 0: not known */
	uint32_t next;	/* free or dirty list; made again after a restart. MOVING: the move's token; MOVED: boot of to */
	uint16_t tenant;
	uint16_t node;
	uint8_t flags;	/* BB_X_* */
	uint16_t to;	/* MOVING, MOVED: the node that it goes, or went, to */
};

#define BB_X_SHARED 0x1u
#define BB_X_ADOPTED 0x2u /* an extent of another node, see adopt.h: it does not move on */

/* A move that has begun, and until when its owner's WRITEs wait for it. */
struct lease {
	uint32_t i;
	uint64_t until; /* 0: none */
};

struct bb_home {
	struct bb_slabs slabs;
	struct extent *extents;
	uint32_t nextents; /* that may be created */
	uint32_t bound;	   /* that may exist: a predecessor may have lent more */
	uint64_t quota;	   /* extents a node; 0: none */

	pthread_mutex_t lock;
	pthread_cond_t dirt;	  /* there is something to scrub, or the end */
	pthread_cond_t clean;	  /* an extent was scrubbed */
	pthread_t scrubber;
	bool stop;
	struct bb_home_maker maker; /* of maps; wake NULL: none */
	uint32_t free_head, dirty_head;
	uint32_t scrubbing;	  /* extents between the two lists */
	uint32_t next_new;	  /* extents from here on were never given out */
	uint64_t live;
	uint64_t taken;		  /* live and dying: not to be had by a create */
	uint32_t owned[1 << 16];  /* extents, by node */
	uint64_t full_until;
	struct lease lease[BB_HOME_MOVES];
	struct bb_home_windows windows; /* shut NULL: none */

	_Atomic uint64_t reads, writes, creates, deletes;
	_Atomic uint64_t refused[BB_ST_MAX];
};

static inline uint64_t word_make(uint16_t gen, unsigned int state, uint32_t readers)
{
	return (uint64_t)gen << 48 | (uint64_t)state << 32 | readers;
}

static inline uint16_t word_gen(uint64_t w)
{
	return (uint16_t)(w >> 48);
}

static inline unsigned int word_state(uint64_t w)
{
	return (unsigned int)(w >> 32) & 0xffff;
}

static inline uint32_t word_readers(uint64_t w)
{
	return (uint32_t)w;
}

/* home.c */
uint8_t bb_home_refuse(struct bb_home *h, uint8_t status);
bool bb_home_exists(const struct bb_home *h, uint64_t offset);
void bb_home_unpublish(struct bb_home *h, uint32_t i);
/* To DYING in the next generation, out of one of the states (bits). Lock held. Return: whether it was. */
bool bb_home_kill(struct bb_home *h, struct extent *x, uint16_t gen, unsigned int states);
/* Spins for the readers of a DYING extent to leave; who is still there then frees it. */
void bb_home_release(struct bb_home *h, uint32_t i);

/*
 * window.c: closes the windows on an extent that has just left LIVE, with the lock
 * held. Return: false where one may be open still: then the memory must stay as it is.
 */
bool bb_home_shut(struct bb_home *h, uint32_t i);

/* move.c: is a move of the extent over? Then it is LIVE again. Lock not held. */
bool bb_home_move_over(struct bb_home *h, uint32_t i);

/* grow.c: will the room that is there last while a map is made? now: no. Lock held. */
void bb_home_look_ahead(struct bb_home *h, bool now);

#endif
