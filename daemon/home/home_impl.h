/* SPDX-License-Identifier: MIT */
/* What the files of daemon/home/ share: see home.c for how it works. */
#ifndef BB_DAEMON_HOME_IMPL_H
#define BB_DAEMON_HOME_IMPL_H

#include "home.h"

#include <pthread.h>
#include <stdatomic.h>

#include "slab.h"

enum { X_FREE, X_LIVE, X_DYING, X_DIRTY };

/* Kept: see BB_KEEP_LAYOUT (main.c). 0: never given out. */
struct extent {
	_Atomic uint64_t word;
	uint32_t boot;	/* incarnation of the node that created it; 0: not known */
	uint32_t next;	/* free or dirty list; made again after a restart */
	uint16_t tenant;
	uint16_t node;
	uint8_t shared;
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

	_Atomic uint64_t reads, writes, creates, deletes;
	_Atomic uint64_t refused[BB_ST_MAX];
};

/* grow.c: will the room that is there last while a map is made? now: no. Lock held. */
void bb_home_look_ahead(struct bb_home *h, bool now);

#endif
