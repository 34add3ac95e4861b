/* SPDX-License-Identifier: MIT */
/*
 * Allocator of runs of pages: see runs.h.
 *
 * Theory of operation
 * -------------------
 * Pages [0, top) are tiled by runs, used and free in turn; two free runs never
 * touch, and none touches top (both would have been merged). All that is known
 * of a run lies at its first page, so that a run costs a few cache lines of
 * bookkeeping whatever its size:
 *	meta[p]	   length, and in the top bits whether it is used and marked;
 *		   0 where no run starts
 *	link[2p]   next and previous free run of the same class
 *	start[]	   a bit a page: a run starts here. 64 bits of one level are
 *		   summed up in one bit of the next, so that the run which a page
 *		   lies in, and the neighbour below, are found in a few steps.
 *
 * Sizes are classed two a power of two. A new free run goes to the head of its
 * list where its address is lower than the head's, else just behind: so the
 * head stays low and what was freed last is near it. An allocation looks at
 * the first few of a list only; all lists in full are looked at before failing.
 */
#include "runs.h"

#include <errno.h>
#include <string.h>

#define USED 0x80000000u
#define MARK 0x40000000u /* of used runs only: see bb_runs_marked */
#define NIL 0xffffffffu	 /* no page: npages is below 2^30 */
#define LOOK 4		 /* free runs of a class that an allocation looks at */

static inline uint32_t run_len(uint32_t tag)
{
	return tag & ~(USED | MARK);
}

static inline unsigned int class_of(uint32_t n)
{
	unsigned int b = 31 - (unsigned int)__builtin_clz(n);

	return b ? 2 * b + ((n >> (b - 1)) & 1) : 0;
}

/* --- the bits that say where runs start --------------------------------- */

static inline void start_set(struct bb_runs *r, uint32_t i)
{
	for (uint32_t k = 0; k < r->levels; k++, i >>= 6) {
		uint64_t *w = &r->start[k][i >> 6], old = *w;

		*w = old | 1ULL << (i & 63);
		if (old)
			return;
	}
}

static inline void start_clear(struct bb_runs *r, uint32_t i)
{
	for (uint32_t k = 0; k < r->levels; k++, i >>= 6) {
		uint64_t *w = &r->start[k][i >> 6];

		*w &= ~(1ULL << (i & 63));
		if (*w)
			return;
	}
}

/* The last start at or below i. */
static uint32_t start_prev(const struct bb_runs *r, uint32_t i)
{
	for (uint32_t k = 0; k < r->levels; k++) {
		uint64_t w = r->start[k][i >> 6] & (~0ULL >> (63 - (i & 63)));

		if (w) {
			i = (i & ~63u) | (63 - (uint32_t)__builtin_clzll(w));
			while (k--)
				i = i << 6 | (63 - (uint32_t)__builtin_clzll(r->start[k][i]));
			return i;
		}
		i >>= 6;
		if (!i--)
			break;
	}
	return NIL;
}

/* The first start at or above i. */
static uint32_t start_next(const struct bb_runs *r, uint32_t i)
{
	for (uint32_t k = 0; k < r->levels && i < r->nbits[k]; k++) {
		uint64_t w = r->start[k][i >> 6] & (~0ULL << (i & 63));

		if (w) {
			i = (i & ~63u) | (uint32_t)__builtin_ctzll(w);
			while (k--)
				i = i << 6 | (uint32_t)__builtin_ctzll(r->start[k][i]);
			return i;
		}
		i = (i >> 6) + 1;
	}
	return NIL;
}

/* --- lists of free runs ------------------------------------------------- */

#define NEXT(r, p) ((r)->link[2 * (size_t)(p)])
#define PREV(r, p) ((r)->link[2 * (size_t)(p) + 1])

static void list_add(struct bb_runs *r, uint32_t p, uint32_t n)
{
	unsigned int c = class_of(n);
	uint32_t head = r->head[c], next;

	r->meta[p] = n;
	start_set(r, p);
	r->classes |= 1ULL << c;
	if (head == NIL || p < head) {
		next = head;
		PREV(r, p) = NIL;
		r->head[c] = p;
	} else {
		next = NEXT(r, head);
		PREV(r, p) = head;
		NEXT(r, head) = p;
	}
	NEXT(r, p) = next;
	if (next != NIL)
		PREV(r, next) = p;
}

/* Leaves meta and the start bit as they are: the caller says what comes there. */
static void list_del(struct bb_runs *r, uint32_t p)
{
	unsigned int c = class_of(r->meta[p]);
	uint32_t next = NEXT(r, p), prev = PREV(r, p);

	if (next != NIL)
		PREV(r, next) = prev;
	if (prev != NIL) {
		NEXT(r, prev) = next;
	} else {
		r->head[c] = next;
		if (next == NIL)
			r->classes &= ~(1ULL << c);
	}
}

static inline void forget(struct bb_runs *r, uint32_t p)
{
	r->meta[p] = 0;
	start_clear(r, p);
}

static inline void mark_used(struct bb_runs *r, uint32_t p, uint32_t n)
{
	r->meta[p] = n | USED;
	start_set(r, p);
}

/* Makes [p, p + n), a used run or a part of one, free. */
static void release(struct bb_runs *r, uint32_t p, uint32_t n)
{
	uint32_t end = p + n, at = p, q;

	r->used -= n;
	if (p) {
		q = start_prev(r, p - 1);
		if (!(r->meta[q] & USED)) {
			list_del(r, q);
			if (r->meta[p])
				forget(r, p);
			at = q;
		}
	}
	if (end == r->top) {
		if (r->meta[at])
			forget(r, at);
		r->top = at;
		return;
	}
	if (!(r->meta[end] & USED)) {
		uint32_t more = r->meta[end];

		list_del(r, end);
		forget(r, end);
		end += more;
	}
	list_add(r, at, end - at);
}

/* Makes a used run [p, p + n) out of the free run at q. */
static void carve(struct bb_runs *r, uint32_t q, uint32_t p, uint32_t n)
{
	uint32_t end = q + r->meta[q];

	list_del(r, q);
	if (q < p)
		list_add(r, q, p - q);
	mark_used(r, p, n);
	if (p + n < end)
		list_add(r, p + n, end - (p + n));
	r->used += n;
}

/* --- the contract ------------------------------------------------------- */

static size_t words_at(uint64_t *nbits)
{
	*nbits = (*nbits + 63) / 64;
	return *nbits;
}

size_t bb_runs_meta_size(uint64_t npages)
{
	uint64_t even = (npages + 1) & ~1ULL, n = npages;
	size_t size = even * 3 * sizeof(uint32_t);

	do {
		size += words_at(&n) * sizeof(uint64_t);
	} while (n > 1);
	return size;
}

int bb_runs_init(struct bb_runs *r, void *zeroed, uint64_t npages)
{
	uint64_t even = (npages + 1) & ~1ULL, n = npages;
	uint64_t *bits;

	if (!npages || npages >= MARK || !zeroed || (uintptr_t)zeroed % sizeof(uint64_t))
		return -EINVAL;
	memset(r, 0, sizeof(*r));
	memset(r->head, 0xff, sizeof(r->head));
	r->npages = (uint32_t)npages;
	r->meta = zeroed;
	r->link = r->meta + even;
	bits = (uint64_t *)(void *)(r->link + 2 * even);
	do {
		r->nbits[r->levels] = (uint32_t)n;
		r->start[r->levels++] = bits;
		bits += words_at(&n);
	} while (n > 1);
	return 0;
}

/* Where n aligned pages lie in the free run at p; NIL: they do not. */
static inline uint32_t fit(const struct bb_runs *r, uint32_t p, uint32_t n, uint32_t align)
{
	uint64_t at = ((uint64_t)p + align - 1) & ~((uint64_t)align - 1);

	return at + n <= (uint64_t)p + r->meta[p] ? (uint32_t)at : NIL;
}

static int64_t alloc_free(struct bb_runs *r, uint32_t n, uint32_t align, uint32_t look)
{
	uint64_t classes = r->classes & (~0ULL << class_of(n));

	for (; classes; classes &= classes - 1) {
		uint32_t from = NIL, best = NIL, left = look;

		for (uint32_t p = r->head[__builtin_ctzll(classes)]; p != NIL && left--; p = NEXT(r, p)) {
			uint32_t at = fit(r, p, n, align);

			if (at == NIL || (at > best && r->meta[p] != n))
				continue;
			from = p;
			best = at;
			if (r->meta[p] == n)
				break;
		}
		if (best != NIL) {
			carve(r, from, best, n);
			return best;
		}
	}
	return -ENOMEM;
}

int64_t bb_runs_alloc(struct bb_runs *r, uint32_t n, uint32_t align)
{
	int64_t p;
	uint64_t at;

	if (!n || !align || align & (align - 1))
		return -EINVAL;
	if (n > r->npages)
		return -ENOMEM;
	p = alloc_free(r, n, align, LOOK);
	if (p >= 0)
		return p;
	at = ((uint64_t)r->top + align - 1) & ~((uint64_t)align - 1);
	if (at + n > r->npages)
		return alloc_free(r, n, align, NIL);
	if (at > r->top)
		list_add(r, r->top, (uint32_t)at - r->top);
	mark_used(r, (uint32_t)at, n);
	r->top = (uint32_t)at + n;
	r->used += n;
	return (int64_t)at;
}

void bb_runs_mark(struct bb_runs *r, uint32_t first)
{
	if (first < r->npages && r->meta[first] & USED)
		r->meta[first] |= MARK;
}

uint32_t bb_runs_len(const struct bb_runs *r, uint32_t first)
{
	return first < r->npages && r->meta[first] & USED ? run_len(r->meta[first]) : 0;
}

int64_t bb_runs_find(const struct bb_runs *r, uint32_t page)
{
	uint32_t p;

	if (page >= r->top)
		return -ENOENT;
	p = start_prev(r, page);
	return r->meta[p] & USED ? (int64_t)p : -ENOENT;
}

int64_t bb_runs_next(const struct bb_runs *r, uint32_t page, uint32_t *n)
{
	uint32_t p;

	if (page >= r->top)
		return -ENOENT;
	p = start_next(r, page);
	/* A used run follows every free one. */
	if (p != NIL && !(r->meta[p] & USED))
		p += r->meta[p];
	if (p == NIL)
		return -ENOENT;
	*n = run_len(r->meta[p]);
	return p;
}

uint32_t bb_runs_free(struct bb_runs *r, uint32_t first, uint32_t n)
{
	uint64_t end = (uint64_t)first + n;
	uint32_t freed = 0, len;
	int64_t p;

	if (n && bb_runs_len(r, first) == n) {
		release(r, first, n);
		return n;
	}
	if (end > r->top)
		end = r->top;
	if (first >= end)
		return 0;
	p = bb_runs_find(r, first);
	if (p >= 0)
		len = run_len(r->meta[p]);
	else
		p = bb_runs_next(r, first, &len);
	while (p >= 0 && p < (int64_t)end) {
		uint32_t run = (uint32_t)p, run_end = run + len;
		uint32_t a = run < first ? first : run;
		uint32_t b = run_end > end ? (uint32_t)end : run_end;

		if (b < run_end)
			mark_used(r, b, run_end - b);
		if (run < a)
			r->meta[run] = (a - run) | (r->meta[run] & ~(MARK - 1));
		release(r, a, b - a);
		freed += b - a;
		p = bb_runs_next(r, b, &len);
	}
	return freed;
}

int bb_runs_resize(struct bb_runs *r, uint32_t first, uint32_t n)
{
	uint32_t len = bb_runs_len(r, first), end, have;

	if (!len || !n)
		return -EINVAL;
	if (n <= len) {
		if (n < len)
			bb_runs_free(r, first + n, len - n);
		return 0;
	}
	end = first + len;
	if (end == r->top) {
		if (n - len > r->npages - r->top)
			return -ENOMEM;
		r->top += n - len;
	} else {
		have = r->meta[end];
		if (have & USED || have < n - len)
			return -ENOMEM;
		list_del(r, end);
		forget(r, end);
		if (have > n - len)
			list_add(r, first + n, have - (n - len));
	}
	r->meta[first] = n | (r->meta[first] & ~(MARK - 1));
	r->used += n - len;
	return 0;
}

int bb_runs_take(struct bb_runs *r, uint32_t first, uint32_t n)
{
	uint64_t end = (uint64_t)first + n;
	uint32_t p;

	if (!n || end > r->npages)
		return -EINVAL;
	if (first >= r->top) {
		if (first > r->top)
			list_add(r, r->top, first - r->top);
		mark_used(r, first, n);
		r->top = (uint32_t)end;
		r->used += n;
		return 0;
	}
	p = start_prev(r, first);
	if (r->meta[p] & USED || end > (uint64_t)p + r->meta[p])
		return -EEXIST;
	carve(r, p, first, n);
	return 0;
}
