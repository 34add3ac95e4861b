/* SPDX-License-Identifier: MIT */
/*
 * A large block whose every word says where it is and in which version: what
 * the torture programs hold while they do things that memory should survive.
 */
#ifndef BB_TESTS_HELD_H
#define BB_TESTS_HELD_H

#include "app.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define HELD_WORDS 512u /* in a page */
#define HELD_NONE SIZE_MAX

struct held {
	uint64_t *mem;
	size_t pages;
	unsigned char *version; /* of each page */
	_Atomic size_t writing; /* what a signal handler must not judge: half a page may be new */
};

static inline uint64_t held_word(size_t page, unsigned int version, unsigned int word)
{
	return (page * HELD_WORDS + word) * 0x9e3779b97f4a7c15ULL ^ (uint64_t)version << 56;
}

static inline void held_put(struct held *h, size_t page, unsigned int version)
{
	atomic_store_explicit(&h->writing, page, memory_order_relaxed);
	atomic_signal_fence(memory_order_seq_cst);
	for (unsigned int w = 0; w < HELD_WORDS; w++)
		h->mem[page * HELD_WORDS + w] = held_word(page, version, w);
	h->version[page] = (unsigned char)version;
	atomic_signal_fence(memory_order_seq_cst);
	atomic_store_explicit(&h->writing, HELD_NONE, memory_order_relaxed);
}

/* Every step-th page from first on. */
static inline void held_write(struct held *h, size_t first, size_t step, unsigned int version)
{
	for (size_t p = first; p < h->pages; p += step)
		held_put(h, p, version);
}

/* Return: the first page that is wrong, or -1. */
static inline long held_wrong(const struct held *h, size_t first, size_t step)
{
	for (size_t p = first; p < h->pages; p += step)
		for (unsigned int w = 0; w < HELD_WORDS; w++)
			if (h->mem[p * HELD_WORDS + w] != held_word(p, h->version[p], w))
				return (long)p;
	return -1;
}

static inline void held_check(const struct held *h, const char *when)
{
	long p = held_wrong(h, 0, 1);

	if (p >= 0)
		fail("%s: page %ld is wrong (begins with %llx, should be version %u)", when, p,
		     (unsigned long long)h->mem[(size_t)p * HELD_WORDS], h->version[p]);
}

static inline void held_new(struct held *h, size_t mib, unsigned int version)
{
	h->pages = mib * 256;
	h->mem = aligned_alloc(4096, h->pages * 4096); /* for mprotect */
	h->version = calloc(h->pages, 1);
	h->writing = HELD_NONE;
	if (!h->mem || !h->version)
		fail("no memory");
	held_write(h, 0, 1, version);
}

#endif
