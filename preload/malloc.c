/* SPDX-License-Identifier: MIT */
/*
 * The malloc family. Sizes of at least BB_MIN go to the global region; what
 * the region will not take, and all that is smaller, goes to the allocator
 * that the program would have used without us.
 *
 * Whose a pointer is: outside of the region, the real allocator's. Inside, ours
 * if a run starts there that we marked; else it belongs to an allocator on top
 * (jemalloc, as in redis), whose chunks come from our mmap. A mark is read
 * without a lock: it cannot change while the block is in use.
 *
 * The small sizes are the hot ones: one compare, then a jump. Everything else
 * is kept out of line.
 *
 * What each function does at its edges is what glibc does: errno, alignment,
 * realloc(p, 0), sizes beyond PTRDIFF_MAX. Odd arguments go to the real
 * function, which knows best how to refuse them.
 */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "private.h"
#include "real.h"
#include "region.h"

#define EXPORT __attribute__((visibility("default")))
#define COLD __attribute__((noinline, cold))
#define ALIGN_MAX (1UL << 32)
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

EXPORT void cfree(void *p);

/* An allocator on top has its blocks in our region too; few begin a page. */
static inline bool maybe_ours(const void *p)
{
	return bb_region_has(p) && !((uintptr_t)p & BB_PAGE_MASK);
}

static inline bool ours(const void *p)
{
	return maybe_ours(p) &&
	       bb_runs_marked(&bb_rg.runs, bb_page_of((uintptr_t)p));
}

static void *mark(void *p)
{
	if (p)
		bb_runs_mark(&bb_rg.runs, bb_page_of((uintptr_t)p));
	return p;
}

/* NULL where the region has no place for it; the caller goes to the real function. */
static void *big_alloc(size_t size, size_t align, unsigned int flags)
{
	if (size > PTRDIFF_MAX || align & (align - 1) || align > ALIGN_MAX)
		return NULL;
	return mark(bb_region_alloc(size, align < BB_PAGE_SIZE ? BB_PAGE_SIZE : align, flags));
}

static COLD void *big_malloc(size_t size)
{
	void *p = big_alloc(size, 0, 0);

	return p ? p : bb_real.malloc(size);
}

EXPORT void *malloc(size_t size)
{
	if (likely(!bb_region_wants(size)))
		return bb_real.malloc(size);
	return big_malloc(size);
}

static COLD void other_free(void *p)
{
	if (ours(p))
		bb_region_free(p);
	else if (!bb_early_has(p)) /* the arena is never given back */
		bb_real.free(p);
}

EXPORT void free(void *p)
{
	if (likely(!maybe_ours(p) && !bb_early_has(p)))
		bb_real.free(p);
	else
		other_free(p);
}

EXPORT void cfree(void *p)
{
	free(p);
}

static COLD void *big_calloc(size_t n, size_t size)
{
	void *p = big_alloc(n * size, 0, BB_RA_ZERO);

	return p ? p : bb_real.calloc(n, size);
}

EXPORT void *calloc(size_t n, size_t size)
{
	size_t bytes;

	if (likely(__builtin_mul_overflow(n, size, &bytes) || !bb_region_wants(bytes)))
		return bb_real.calloc(n, size);
	return big_calloc(n, size);
}

/* p is ours and size > 0. */
static void *realloc_ours(void *p, size_t size)
{
	size_t old = bb_region_usable(p);
	void *q;

	if (size > PTRDIFF_MAX)
		goto no_memory;
	if (size >= bb_region_min / 2) {
		q = mark(bb_region_realloc(p, size));
		if (q)
			return q;
		if (size <= old)
			return p;
	}
	/*
	 * It became small and had better leave the region; or the region is
	 * full. Half of BB_MIN keeps a block whose size hovers around it from
	 * moving to and fro.
	 */
	q = bb_real.malloc(size);
	if (!q) {
		q = size <= old ? bb_region_realloc(p, size) : NULL;
		if (!q)
			goto no_memory;
		return q;
	}
	memcpy(q, p, size < old ? size : old);
	bb_region_free(p);
	return q;
no_memory:
	errno = ENOMEM;
	return NULL;
}

static COLD void *other_realloc(void *p, size_t size)
{
	size_t old;
	void *q;

	if (!p)
		return malloc(size);
	if (ours(p)) {
		if (size)
			return realloc_ours(p, size);
		bb_region_free(p);
		return NULL;
	}
	if (bb_early_has(p)) {
		if (!size)
			return NULL;
		old = bb_early_usable(p);
		q = malloc(size);
		if (q)
			memcpy(q, p, size < old ? size : old);
		return q;
	}
	if (!bb_region_wants(size))
		return bb_real.realloc(p, size);
	/*
	 * It became large. Where it was large already (the region refused it,
	 * or it is older than the region), the real realloc moves page tables
	 * where we would move bytes.
	 */
	old = bb_real.malloc_usable_size(p);
	if (old / 2 >= bb_region_min)
		return bb_real.realloc(p, size);
	q = big_alloc(size, 0, 0);
	if (!q)
		return bb_real.realloc(p, size);
	memcpy(q, p, size < old ? size : old);
	bb_real.free(p);
	return q;
}

EXPORT void *realloc(void *p, size_t size)
{
	if (likely(!bb_region_wants(size) && !maybe_ours(p) && !bb_early_has(p)))
		return bb_real.realloc(p, size);
	return other_realloc(p, size);
}

EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
	size_t bytes;

	if (unlikely(__builtin_mul_overflow(n, size, &bytes))) {
		errno = ENOMEM;
		return NULL;
	}
	return realloc(p, bytes);
}

EXPORT int posix_memalign(void **out, size_t align, size_t size)
{
	void *p;

	if (unlikely(bb_region_wants(size)) && align && align % sizeof(void *) == 0) {
		p = big_alloc(size, align, 0);
		if (p) {
			*out = p;
			return 0;
		}
	}
	return bb_real.posix_memalign(out, align, size);
}

/* Without a place in the region, and for odd alignments (glibc rounds some up), NULL. */
static COLD void *big_memalign(size_t align, size_t size)
{
	return align ? big_alloc(size, align, 0) : NULL;
}

EXPORT void *memalign(size_t align, size_t size)
{
	void *p = unlikely(bb_region_wants(size)) ? big_memalign(align, size) : NULL;

	return p ? p : bb_real.memalign(align, size);
}

EXPORT void *aligned_alloc(size_t align, size_t size)
{
	void *p = unlikely(bb_region_wants(size)) ? big_memalign(align, size) : NULL;

	return p ? p : bb_real.aligned_alloc(align, size);
}

EXPORT void *valloc(size_t size)
{
	void *p = unlikely(bb_region_wants(size)) ? big_memalign(BB_PAGE_SIZE, size) : NULL;

	return p ? p : bb_real.valloc(size);
}

EXPORT void *pvalloc(size_t size)
{
	/* The region deals in whole pages anyway. */
	void *p = unlikely(bb_region_wants(size)) ? big_memalign(BB_PAGE_SIZE, size) : NULL;

	return p ? p : bb_real.pvalloc(size);
}

EXPORT size_t malloc_usable_size(void *p)
{
	if (ours(p))
		return bb_region_usable(p);
	if (unlikely(bb_early_has(p)))
		return bb_early_usable(p);
	return bb_real.malloc_usable_size(p);
}
