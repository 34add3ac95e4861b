/* SPDX-License-Identifier: MIT */
/*
 * Allocator of runs of pages in a fixed range: who owns which pages of the
 * global region. Best fit by size class, within a class the lowest of the
 * first few (lists are kept roughly in address order), immediate coalescing.
 * Pure: it touches only the memory given at init, never the pages it speaks
 * of; no locks (the caller has one), no system calls. Every step is O(1) or
 * O(log64 npages), but for an allocation that is about to fail, which looks at
 * every free run once.
 *
 * A used run begins where it was allocated and has a length. Any part of used
 * runs may be freed (munmap of the middle): the rest stays as one or two runs.
 */
#ifndef BB_LIB_RUNS_H
#define BB_LIB_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BB_RUNS_LEVELS 6

struct bb_runs {
	uint32_t npages;
	uint32_t *meta; /* bb_runs_meta_size() bytes, zeroed, sparse */
	/* The rest is the allocator's own. */
	uint32_t top;	  /* pages from here on are free, and no run describes them */
	uint64_t used;	  /* pages */
	uint64_t classes; /* bit set: class has free runs */
	uint32_t head[64];
	uint32_t *link;			 /* next, previous: of free runs only */
	uint64_t *start[BB_RUNS_LEVELS]; /* bit set: a run, used or free, starts here */
	uint32_t nbits[BB_RUNS_LEVELS];
	uint32_t levels;
};

/* Bytes of bookkeeping for npages (below 2^30); touched sparsely. */
size_t bb_runs_meta_size(uint64_t npages);
int bb_runs_init(struct bb_runs *r, void *zeroed, uint64_t npages);

/*
 * align: in pages, a power of two, at least 1. Return: first page, or -ENOMEM.
 * Low addresses and recently freed runs first, so that the top grows last.
 */
int64_t bb_runs_alloc(struct bb_runs *r, uint32_t n, uint32_t align);
/* Frees [first, first + n), wherever used runs lie in it; holes are skipped. Return: pages freed. */
uint32_t bb_runs_free(struct bb_runs *r, uint32_t first, uint32_t n);
/* Length of the used run that starts at first; 0 where none starts there. */
uint32_t bb_runs_len(const struct bb_runs *r, uint32_t first);
/* Start of the used run that page lies in. Return: page number, or -ENOENT. */
int64_t bb_runs_find(const struct bb_runs *r, uint32_t page);
/* Grows or shrinks in place (n > 0). Return: 0, -ENOMEM where the next pages are used, -EINVAL: no run there. */
int bb_runs_resize(struct bb_runs *r, uint32_t first, uint32_t n);
/* Makes one used run of [first, first + n), which must be free. For MAP_FIXED. Return: 0 or -EEXIST. */
int bb_runs_take(struct bb_runs *r, uint32_t first, uint32_t n);
/*
 * One bit of the caller's on a used run. It stays with the run's first page:
 * through resize, and where a later part is freed; what follows a hole has it
 * not. bb_runs_marked needs no lock where the page belongs to a run that cannot
 * go away meanwhile; false where no used run starts there.
 */
void bb_runs_mark(struct bb_runs *r, uint32_t first);
static inline bool bb_runs_marked(const struct bb_runs *r, uint32_t first)
{
	return first < r->npages && __atomic_load_n(&r->meta[first], __ATOMIC_RELAXED) >> 30 == 3;
}
/* Next used run at or after page. Return: its start and *n, or -ENOENT. */
int64_t bb_runs_next(const struct bb_runs *r, uint32_t page, uint32_t *n);

#endif
