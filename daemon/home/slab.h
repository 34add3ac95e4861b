/* SPDX-License-Identifier: MIT */
/*
 * The memory behind the home: one reservation of address space, filled with
 * slabs from the start as they are needed. A slab is a memfd, or an unlinked
 * file in a directory. How a slab comes to be is known to slab.c alone, so
 * that it can become a BPF map's value or be registered with a NIC.
 *
 * Slabs are kept (keep.h): a bbd that comes back finds all of them, also where
 * it lends more or less than before, or in another place.
 *
 * No locks: grow is called by one thread at a time; back and discard on a
 * range only by the one who holds that range.
 */
#ifndef BB_DAEMON_SLAB_H
#define BB_DAEMON_SLAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define BB_SLAB_SHIFT 26
#define BB_SLAB_SIZE (1ULL << BB_SLAB_SHIFT)

struct bb_keep;

struct bb_slab {
	int fd;
	bool file;		/* in a store: needs room on the disk */
};

struct bb_slabs {
	uint8_t *base;		/* offset 0; grown bytes are mapped */
	uint64_t size;		/* reserved */
	_Atomic uint64_t grown;
	struct bb_slab *slab;	/* one each */
	int dir;		/* the store, or -1 */
	struct bb_keep *keep;
};

/*
 * size: bytes; more where a predecessor has left more. store: directory, or
 * NULL for memory. keep may be NULL. Return: 0 or -errno, and then it has said why.
 */
int bb_slabs_init(struct bb_slabs *s, uint64_t size, const char *store, struct bb_keep *keep);
void bb_slabs_fini(struct bb_slabs *s);
/* Maps the next slab. Return: 0; -ENOSPC where size is reached; -errno. */
int bb_slabs_grow(struct bb_slabs *s);
/* Makes sure that the disk holds room for the range. Return: 0 or -errno (-ENOSPC). */
int bb_slabs_back(struct bb_slabs *s, uint64_t offset, uint64_t len);
/* Gives the range back to the kernel; it reads as zeros from then on. */
void bb_slabs_discard(struct bb_slabs *s, uint64_t offset, uint64_t len);

#endif
