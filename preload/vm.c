/* SPDX-License-Identifier: MIT */
/*
 * The mmap family on ranges inside of the global region. What cannot be right
 * on paged memory is refused with the errno that the kernel would use for a
 * limit (ENOMEM), never done half.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include <bluebridge/kernel.h>

#include "log.h"
#include "private.h"

static bool range_ok(const void *addr, size_t len, uint32_t *first, uint32_t *n)
{
	uintptr_t a = (uintptr_t)addr;
	uint64_t pages = ((uint64_t)len + BB_PAGE_SIZE - 1) >> BB_PAGE_SHIFT;

	if ((a & BB_PAGE_MASK) || !pages || a < bb_rg.base || pages > bb_rg.npages ||
	    bb_page_of(a) + pages > bb_rg.npages)
		return false;
	*first = bb_page_of(a);
	*n = (uint32_t)pages;
	return true;
}

int bb_region_munmap(void *addr, size_t len)
{
	uint32_t first, n;

	if (!range_ok(addr, len, &first, &n))
		return -EINVAL;
	if (bb_lock_inside()) {
		(void)bb_release_later(first, n);
		return 0;
	}
	bb_lock(&bb_rg.lock);
	if (bb_rg.attached != BB_CHILD)
		bb_region_release(first, n);
	bb_unlock(&bb_rg.lock);
	return 0;
}

/* Each piece of [first, +n) within one extent, lock held. Return: of the last fn that failed. */
static int each_extent(uint32_t first, uint32_t n, int (*fn)(uint32_t first, uint32_t n, int arg), int arg)
{
	int ret = 0;

	while (n) {
		uint32_t room = BB_EXTENT_PAGES - first % BB_EXTENT_PAGES;
		uint32_t now = n < room ? n : room;
		int r = fn(first, now, arg);

		if (r < 0)
			ret = r;
		first += now;
		n -= now;
	}
	return ret;
}

static int discard(uint32_t first, uint32_t n, int advice)
{
	if (bb_rg.attached == BB_CHILD)
		return -EINVAL;
	switch (bb_xsettled(first / BB_EXTENT_PAGES)) {
	case BB_X_MANAGED:
		return bb_pages_drop(first, n, false);
	default:
		return bb_sys_madvise((void *)bb_addr_of(first), (size_t)n << BB_PAGE_SHIFT, advice);
	}
}

/* Without the lock: what counts is that it reads as zeros. Memory that may not be written to has to wait. */
static int zero_inside(void *addr, uint32_t first, uint32_t n)
{
	for (uint32_t e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++)
		if (bb_rg.xp[e] & (BB_XP_PROT | BB_XP_FOREIGN))
			return -EAGAIN;
	memset(addr, 0, (size_t)n << BB_PAGE_SHIFT);
	return 0;
}

int bb_region_madvise(void *addr, size_t len, int advice)
{
	uint32_t first, n;
	int r;

	if (!len)
		return (uintptr_t)addr & BB_PAGE_MASK ? -EINVAL : 0;
	if (!range_ok(addr, len, &first, &n))
		return -EINVAL;
	switch (advice) {
	case MADV_DONTNEED:
	case MADV_FREE:
		if (bb_lock_inside())
			return advice == MADV_FREE ? 0 : zero_inside(addr, first, n);
		/* Free pages may go now or later; for paged memory, now is cheapest. */
		bb_lock(&bb_rg.lock);
		r = each_extent(first, n, discard, advice);
		bb_unlock(&bb_rg.lock);
		return r == -ETIMEDOUT ? -EAGAIN : r;
	case MADV_DONTFORK:
	case MADV_DOFORK:
	case MADV_WIPEONFORK:
	case MADV_KEEPONFORK:
	case MADV_REMOVE:
		if (bb_lock_inside())
			return -EAGAIN;
		/* fork.c decides what a child sees; anything else would be silently wrong. */
		bb_lock(&bb_rg.lock);
		r = bb_rg.attached == BB_ATTACHED ? -EINVAL : bb_sys_madvise(addr, len, advice);
		bb_unlock(&bb_rg.lock);
		return r;
	case MADV_MERGEABLE:
		/* A hint as well, and one that discard.c cannot do with. */
		return bb_rg.features & UFFD_FEATURE_MOVE ? bb_sys_madvise(addr, len, advice) : 0;
	default:
		if (bb_hint_is(advice))
			return bb_hint(first, n, advice);
		/*
		 * POPULATE_* faults the pages in through bbd. Of huge pages the
		 * kernel knows: it makes them while memory is not paged.
		 */
		return bb_sys_madvise(addr, len, advice);
	}
}

int bb_region_mprotect(void *addr, size_t len, int prot)
{
	bool inside = bb_lock_inside(); /* flags are only added, and the kernel has locks of its own */
	uint32_t first, n;
	int r;

	if (!len)
		return (uintptr_t)addr & BB_PAGE_MASK ? -EINVAL : 0;
	if (!range_ok(addr, len, &first, &n))
		return (uintptr_t)addr & BB_PAGE_MASK ? -EINVAL : -ENOMEM;
	if (!inside)
		bb_lock(&bb_rg.lock);
	/* Pages that are not writable cannot be moved out: they stay until they are. */
	if (prot != (PROT_READ | PROT_WRITE))
		for (uint32_t e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++)
			bb_rg.xp[e] |= BB_XP_PROT;
	/* A page that the helper discards (discard.c) must be one that it can write to. */
	if (!inside)
		bb_lock(&bb_rg.evicting);
	r = bb_sys_mprotect(addr, len, prot);
	if (!inside) {
		bb_unlock(&bb_rg.evicting);
		bb_unlock(&bb_rg.lock);
	}
	return r;
}

void *bb_region_mmap_fixed(void *addr, size_t len, int prot, int flags, int fd, int64_t off)
{
	struct bb_region *g = &bb_rg;
	bool plain = (flags & MAP_ANONYMOUS) && (flags & MAP_PRIVATE) && prot == (PROT_READ | PROT_WRITE);
	uint32_t first, n, e;
	int64_t run;
	void *p;

	if (!range_ok(addr, len, &first, &n) || bb_lock_inside()) {
		errno = bb_lock_inside() ? ENOMEM : EINVAL;
		return MAP_FAILED;
	}
	bb_lock(&g->lock);
	/* Only over what the program holds: the rest of the region is ours. */
	run = g->attached == BB_CHILD ? -ENOENT : bb_runs_find(&g->runs, first);
	if (run < 0 || (uint64_t)run + bb_runs_len(&g->runs, (uint32_t)run) < (uint64_t)first + n) {
		bb_unlock(&g->lock);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	for (e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++) {
		uint8_t fresh = BB_X_FRESH;

		/* bbd must not open an extent that something else lies in. */
		if (!plain && bb_xsettled(e) == BB_X_FRESH)
			atomic_compare_exchange_strong(&g->x[e].state, &fresh, BB_X_MANAGED);
	}
	if (each_extent(first, n, discard, MADV_DONTNEED) < 0) {
		bb_unlock(&g->lock);
		errno = ENOMEM;
		return MAP_FAILED;
	}
	if (plain) {
		/* Zeros, readable and writable: that is what is there now. */
		p = addr;
		if (bb_sys_mprotect(addr, (size_t)n << BB_PAGE_SHIFT, prot) < 0)
			p = MAP_FAILED;
	} else {
		p = (void *)bb_sys_mmap(addr, len, prot, flags, fd, off);
		if (p != MAP_FAILED)
			for (e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++)
				g->xp[e] |= BB_XP_FOREIGN;
	}
	bb_unlock(&g->lock);
	if (p == MAP_FAILED)
		errno = ENOMEM;
	return p;
}

void *bb_region_mremap(void *old, size_t oldlen, size_t newlen, int flags, void *newaddr)
{
	struct bb_region *g = &bb_rg;
	uint64_t n = ((uint64_t)newlen + BB_PAGE_SIZE - 1) >> BB_PAGE_SHIFT;
	struct bb_dirty dirty = { 0 };
	uint32_t first, o;
	int64_t run;
	void *q;

	if (!range_ok(old, oldlen, &first, &o) || !n || newlen > PTRDIFF_MAX || (flags & ~(MREMAP_MAYMOVE)) ||
	    newaddr || bb_lock_inside()) {
		/* MREMAP_FIXED and MREMAP_DONTUNMAP are not for paged memory. */
		errno = !newlen || ((uintptr_t)old & BB_PAGE_MASK) ? EINVAL : ENOMEM;
		return MAP_FAILED;
	}
	bb_lock(&g->lock);
	run = g->attached == BB_CHILD ? -ENOENT : bb_runs_find(&g->runs, first);
	if (run < 0 || (uint64_t)run + bb_runs_len(&g->runs, (uint32_t)run) < (uint64_t)first + o) {
		bb_unlock(&g->lock);
		errno = EFAULT;
		return MAP_FAILED;
	}
	if (n < o)
		bb_region_release(first + (uint32_t)n, o - (uint32_t)n);
	if (n > o && n <= g->npages && (uint64_t)run + bb_runs_len(&g->runs, (uint32_t)run) == (uint64_t)first + o) {
		uint32_t whole = bb_runs_len(&g->runs, (uint32_t)run);

		if (bb_region_grow((uint32_t)run, whole, whole + (uint32_t)n - o)) {
			bb_dirty_find(&dirty, first + o, (uint32_t)n - o);
			n = o; /* done */
		}
	}
	bb_unlock(&g->lock);
	if (n <= o) {
		bb_dirty_clear(&dirty);
		return old;
	}
	if (!(flags & MREMAP_MAYMOVE)) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	q = bb_region_alloc(n << BB_PAGE_SHIFT, 0, BB_RA_ZERO | BB_RA_MMAP);
	if (!q) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	if (!bb_region_move((uintptr_t)q, (uintptr_t)old, o))
		memcpy(q, old, (size_t)o << BB_PAGE_SHIFT);
	(void)bb_region_munmap(old, oldlen);
	return q;
}
