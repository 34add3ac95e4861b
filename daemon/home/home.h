/* SPDX-License-Identifier: MIT */
/*
 * The home: memory that this host lends, in slabs, cut into extents of 2 MiB.
 * Every call checks bounds, generation and rights, whoever asks. Reads and
 * writes of pages run concurrently from many threads without a lock (a free
 * raises the generation first and waits for readers of the extent to leave);
 * create and delete take a mutex.
 *
 * An extent that is freed is given back to the kernel (hole punched, or
 * MADV_DONTNEED), so it reads as zeros when it is created again: no owner ever
 * sees another's bytes.
 */
#ifndef BB_DAEMON_HOME_H
#define BB_DAEMON_HOME_H

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#include <stdbool.h>
#include <stdint.h>

struct bb_home;
struct bb_keep;

struct bb_home_config {
	uint64_t lend;		/* bytes lent at most; slabs grow towards it */
	const char *store;	/* directory to spill to; NULL: memory */
	uint64_t quota;		/* bytes an asking node may own; 0: no quota */
	struct bb_keep *keep;	/* what is lent outlives us there; may be NULL */
};

struct bb_home_stats {
	uint64_t lent, used;	/* bytes; lent is what can be had: less while the store is full, never less than used */
	uint64_t extents;
	uint64_t grown, mapped;	/* bytes of slabs, and of those that are maps */
	uint64_t reads, writes, creates, deletes;
	uint64_t refused[BB_ST_MAX];
};

/* Who asks. */
struct bb_home_who {
	uint16_t tenant;
	uint16_t node;
	uint32_t boot;	/* its incarnation: CREATE notes it (0: not known), nothing else looks at it */
};

/*
 * Starts a thread (it gives freed memory back): call it after any fork. Finds
 * what a predecessor has lent, if that was kept: every byte, generation and
 * owner. Return: 0 or -errno; -EUCLEAN where a part of it is missing.
 */
int bb_home_new(struct bb_home **out, const struct bb_home_config *cfg);
void bb_home_free(struct bb_home *h);

/*
 * Each returns an enum bb_status. *ptr is written before the extent can be
 * seen: if it lies in kept memory, no extent is without a name after a crash.
 */
uint8_t bb_home_create(struct bb_home *h, struct bb_home_who who, uint8_t flags, uint64_t *ptr);
#define BB_HOME_ADOPTED 0x80 /* in flags of a create: it is another node's extent, moved here */
/* ptr: the start of the extent. */
uint8_t bb_home_delete(struct bb_home *h, struct bb_home_who who, uint64_t ptr);

/*
 * A window on len bytes at ptr, within one extent; until the matching _put, with
 * the same ptr, len and write, the memory stays. write: for WRITE, else for READ.
 * Nobody writes but between the two: that is how the kernel, which serves
 * READs beside us, knows of it.
 */
uint8_t bb_home_get(struct bb_home *h, struct bb_home_who who, uint64_t ptr, uint32_t len, bool write, void **data);
void bb_home_put(struct bb_home *h, uint64_t ptr, uint32_t len, bool write);

/*
 * Frees what a node owns: what it created as who.boot, or all of it where that
 * is 0. Return: bytes freed.
 */
uint64_t bb_home_reclaim(struct bb_home *h, struct bb_home_who who);
/* Bytes that nodes other than this one own. */
uint64_t bb_home_lent_out(struct bb_home *h, uint16_t own);
/* Bytes that it owns. */
uint64_t bb_home_owned(struct bb_home *h, uint16_t node);

void bb_home_stats(struct bb_home *h, struct bb_home_stats *out);

/* --- extents that move to another home (move.c; doc/protocol.md, section 11) --- */

#define BB_HOME_MOVES 16		/* at once */
#define BB_HOME_LEASE_NS 5000000000ULL	/* a move that is not committed by then may be over */

/* ptr: the start of the extent. mover: the node that it goes to. Each returns an enum bb_status. */

/*
 * From now on, until commit, abort or the lease's end, WRITE and DELETE are BUSY, and
 * mover may READ. *owner: whose it is. Not for extents that are shared, the
 * mover's, this node's own or adopted: RIGHTS. token: of this move.
 */
uint8_t bb_home_move_begin(struct bb_home *h, struct bb_home_who mover, uint16_t own, uint64_t ptr, uint32_t token,
			   uint64_t now, struct bb_home_who *owner);
/* It is mover's now; its bytes are gone from here. Any number of times. GENERATION: there is no such move any more. */
uint8_t bb_home_move_commit(struct bb_home *h, struct bb_home_who mover, uint64_t ptr, uint32_t token,
			    struct bb_home_who *owner);
/* It stays here after all. OK also where there is no such move. */
uint8_t bb_home_move_abort(struct bb_home *h, struct bb_home_who mover, uint64_t ptr, uint32_t token);
/* The mover has freed it, so it is free here as well. */
uint8_t bb_home_move_release(struct bb_home *h, struct bb_home_who mover, uint64_t ptr);

/* Frees what went to a node that has started anew since, as boot: it is lost. Return: how many. */
unsigned int bb_home_moved_lost(struct bb_home *h, uint16_t node, uint32_t boot);
/* Frees an extent, whoever owns it (adopted ones, whose place in a table is lost). */
void bb_home_drop(struct bb_home *h, uint64_t ptr);

/* What people and tables want to know. */
struct bb_home_extent {
	uint64_t ptr;
	struct bb_home_who owner;
	bool shared, adopted, moving, moved;
	uint16_t to; /* moving, moved */
};

/* The next extent in use, from number *i on, which is moved on. Return: whether there is one. */
bool bb_home_next(struct bb_home *h, uint32_t *i, struct bb_home_extent *out);
/* Is it there, in this generation? */
bool bb_home_alive(struct bb_home *h, uint64_t ptr);

/* --- slabs that the kernel reads as well (daemon/steer/) ---------------------- */

/*
 * Who makes the maps for new slabs: it is told to by wake(), in any thread, with
 * the home's lock held; it claims one, makes a map as bluebridge/steer.h has
 * it, and gives that. Until then a CREATE that needs it is BUSY.
 */
struct bb_home_maker {
	void (*wake)(void *arg);
	void *arg;
};

/* From now on new slabs are maps; NULL: no longer. What is there stays. */
void bb_home_maps(struct bb_home *h, const struct bb_home_maker *maker);
/* Return: true: the caller makes slab number *index. */
bool bb_home_claim(struct bb_home *h, uint64_t *index);
/*
 * The map that was claimed, all zeros; negative: it could not be made, and the
 * slab will be one that bbd alone serves. Return: 0, and the descriptor is the
 * home's; or -errno, and it counts as not made.
 */
int bb_home_give(struct bb_home *h, uint64_t index, int fd);
/* The next slab from *index on that is a map. Return: its descriptor, the home's; -1: none. */
int bb_home_next_map(struct bb_home *h, uint64_t *index);

/* --- windows of NICs into extents (daemon/net/rdma_home.c) --------------------- */

/*
 * Closes all windows on the extent of that number: what comes in for one once this
 * has returned does not touch the memory. In any thread, with the home's lock held.
 * Return: false where that cannot be said.
 */
struct bb_home_windows {
	bool (*shut)(void *arg, uint32_t extent);
	void *arg;
};

/* Before any window is asked for; NULL: there are none any more. */
void bb_home_windows(struct bb_home *h, const struct bb_home_windows *w);
/*
 * May it have a window on the extent that starts at ptr, to read and write? Only its
 * owner, where nobody else may read. OK: *mem are its 2 MiB, which stay until
 * bb_home_put(h, ptr, BB_EXTENT_SIZE, false). Who has opened one looks at
 * bb_home_alive() then: where that fails nobody else closes it.
 */
uint8_t bb_home_window(struct bb_home *h, struct bb_home_who who, uint64_t ptr, void **mem);
/* Slab number index has its memory at *mem, and keeps these pages. Return: 0 or -errno. */
int bb_home_pin(struct bb_home *h, uint64_t index, void **mem);
void bb_home_unpin(struct bb_home *h, uint64_t index);

#endif
