/* SPDX-License-Identifier: MIT */
/*
 * Allocator of runs of pages in a fixed range: who owns which pages of the
 * global region. Best fit by size class with address order within a class,
 * immediate coalescing. Pure: it touches only the memory given at init, never
 * the pages it speaks of; no locks (the caller has one), no system calls.
 * O(1) but for partial frees, which are O(pages between run starts / 64).
 *
 * A used run begins where it was allocated and has a length. Any part of used
 * runs may be freed (munmap of the middle): the rest stays as one or two runs.
 */
#ifndef BB_LIB_RUNS_H
#define BB_LIB_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bb_runs {
	uint32_t npages;
	uint32_t *meta;		/* bb_runs_meta_size() bytes, zeroed, sparse */
	/* The rest is the allocator's own. */
	uint32_t top;		/* pages from here on were never allocated */
	uint64_t used;		/* pages */
	uint64_t classes;	/* bit set: class has free runs */
	uint32_t head[64];
};

/* Bytes of bookkeeping for npages (at most 2^31); touched sparsely. */
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
/* Grows or shrinks in place. Return: 0, or -ENOMEM where the next pages are used. */
int bb_runs_resize(struct bb_runs *r, uint32_t first, uint32_t n);
/* Makes one used run of [first, first + n), which must be free. For MAP_FIXED. Return: 0 or -EEXIST. */
int bb_runs_take(struct bb_runs *r, uint32_t first, uint32_t n);
/* Next used run at or after page. Return: its start and *n, or -ENOENT. */
int64_t bb_runs_next(const struct bb_runs *r, uint32_t page, uint32_t *n);

#endif
