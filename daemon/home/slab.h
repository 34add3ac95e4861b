/* SPDX-License-Identifier: MIT */
/*
 * The memory behind the home: one reservation of address space, filled with
 * slabs from the start as they are needed. A slab is a memfd, an unlinked file
 * in a directory, or the values of a BPF map (bluebridge/steer.h), which the
 * kernel reads by itself. How a slab comes to be is known to slab.c alone, so
 * that it can be registered with a NIC.
 *
 * Slabs are kept (keep.h): a bbd that comes back finds all of them, also where
 * it lends more or less than before, or in another place.
 *
 * A map is made ahead of need, since that takes up to 0.2 s:
 *
 *	NONE --want--> WANTED --claim--> MAKING --made--> READY --grow--> NONE
 *						     \--> FAILED --grow--> NONE (a memfd)
 *
 * No locks: grow, want, claim and made are called by one thread at a time (the
 * home's lock); prepare by the one that claimed; back and discard on a range
 * only by the one who holds that range.
 */
#ifndef BB_DAEMON_SLAB_H
#define BB_DAEMON_SLAB_H

#include <bluebridge/steer.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BB_SLAB_SHIFT 26
#define BB_SLAB_SIZE (1ULL << BB_SLAB_SHIFT)

struct bb_keep;

enum bb_slab_kind {
	BB_SLAB_MEMFD,
	BB_SLAB_FILE,	/* in a store: needs room on the disk */
	BB_SLAB_MAP,
	BB_SLAB_KINDS
};

/* What lies behind the pages of a map: see bluebridge/steer.h. */
struct bb_slab_side {
	_Atomic uint64_t word[BB_PAGE_SIZE / sizeof(uint64_t)]; /* the first BB_SLAB_EXTENTS of them */
	_Atomic uint32_t seq[BB_SLAB_PAGES];
};

_Static_assert(BB_SLAB_SHIFT == BB_STEER_SLAB_SHIFT, "the kernel's slabs are ours");
_Static_assert(sizeof(struct bb_slab_side) == (BB_SLAB_ENTRIES - BB_SLAB_WORDS) * (uint64_t)BB_PAGE_SIZE,
	       "the layout of steer.h");

struct bb_slab {
	int fd;
	enum bb_slab_kind kind;
	struct bb_slab_side *side; /* of a map, else NULL */
	_Atomic bool pinned;	/* a NIC knows its pages: they must stay the same ones */
};

enum bb_ahead { BB_AHEAD_NONE, BB_AHEAD_WANTED, BB_AHEAD_MAKING, BB_AHEAD_READY, BB_AHEAD_FAILED };

struct bb_slabs {
	uint8_t *base;		/* offset 0; grown bytes are mapped */
	uint64_t size;		/* reserved */
	_Atomic uint64_t grown;
	struct bb_slab *slab;	/* one each */
	int dir;		/* the store, or -1 */
	struct bb_keep *keep;
	bool maps;		/* new slabs are maps */
	enum bb_ahead ahead;	/* of the next slab, if it is to be a map */
	_Atomic unsigned int punching;
};

/*
 * size: bytes; more where a predecessor has left more. store: directory, or
 * NULL for memory. keep may be NULL. Return: 0 or -errno, and then it has said why.
 */
int bb_slabs_init(struct bb_slabs *s, uint64_t size, const char *store, struct bb_keep *keep);
void bb_slabs_fini(struct bb_slabs *s);
/* Slabs that a predecessor left. */
unsigned int bb_slabs_kept(struct bb_keep *keep);
/*
 * The next slab. Return: 0; -ENOSPC where size is reached; -EAGAIN where it is
 * to be a map that is not ready yet (and is wanted now); -errno.
 */
int bb_slabs_grow(struct bb_slabs *s);

/* New slabs are maps from now on, or no longer; where slabs are files they stay so. */
void bb_slabs_maps(struct bb_slabs *s, bool on);
/* A map will be needed. Return: true where somebody has to be told. */
bool bb_slabs_want(struct bb_slabs *s);
/* Return: true: the caller makes the map of that number and says prepare and made. */
bool bb_slabs_claim(struct bb_slabs *s, uint64_t *index);
/* Maps it and has it kept; it is all zeros. Return: 0, and the descriptor is taken; or -errno. */
int bb_slabs_prepare(struct bb_slabs *s, uint64_t index, int fd);
void bb_slabs_made(struct bb_slabs *s, bool ok);
/* Maps, from index on: the next one, also one ahead. Return: its descriptor, or -1. */
int bb_slabs_next_map(const struct bb_slabs *s, uint64_t *index);

/*
 * What the kernel may serve. publish with a word of 0 before the extent's bytes
 * may become anything else than its owner's; with another one after all that it
 * says is so.
 */
void bb_slabs_publish(struct bb_slabs *s, uint64_t offset, uint64_t word);
/* After a restart: writers that were killed are forgotten. Before any thread writes. */
void bb_slabs_settle(struct bb_slabs *s);
/* Makes sure that the disk holds room for the range. Return: 0 or -errno (-ENOSPC). */
int bb_slabs_back(struct bb_slabs *s, uint64_t offset, uint64_t len);
/*
 * From now on, in any thread, the slab's pages are not given back, so that a NIC
 * may know them. Return: 0; -EOPNOTSUPP: files, whose pages the kernel may not pin.
 */
int bb_slabs_pin(struct bb_slabs *s, uint64_t index);
void bb_slabs_unpin(struct bb_slabs *s, uint64_t index);
/* Gives the range back to the kernel (a map only forgets it, so does what is pinned); it reads as zeros from then on. */
void bb_slabs_discard(struct bb_slabs *s, uint64_t offset, uint64_t len);

/*
 * A writer adds before its first byte and after its last, to each page that it
 * touches; who copies a page meanwhile sees it (steer.h). A locked addition is
 * a full barrier on x86-64; others need one behind the first.
 */
static inline void bb_slabs_seq(const struct bb_slabs *s, uint64_t offset, uint32_t len, uint32_t what)
{
	struct bb_slab_side *side = s->slab[offset >> BB_SLAB_SHIFT].side;
	uint32_t page, last;

	if (!side)
		return;
	page = (uint32_t)(offset & (BB_SLAB_SIZE - 1)) >> BB_PAGE_SHIFT;
	last = (uint32_t)((offset + len - 1) & (BB_SLAB_SIZE - 1)) >> BB_PAGE_SHIFT;
	for (; page <= last; page++)
		atomic_fetch_add(&side->seq[page], what);
#if !defined(__x86_64__)
	__sync_synchronize();
#endif
}

#endif
