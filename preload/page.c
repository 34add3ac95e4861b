/* SPDX-License-Identifier: MIT */
/*
 * Discarding pages: what free, munmap and madvise(MADV_DONTNEED) mean for
 * MANAGED memory. See include/bluebridge/region.h for the words' protocol;
 * this file owns the busy state DROPPING.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "clock.h"
#include "log.h"
#include "private.h"

/* Longer than bbd's own deadline for a fault, so that bbd gives up first. */
#define SETTLE_NS 30000000000ULL

int bb_extents_register(uint32_t first, uint32_t n)
{
	return bb_pages_register(first * BB_EXTENT_PAGES, n * BB_EXTENT_PAGES);
}

int bb_pages_register(uint32_t first, uint32_t n)
{
	struct uffdio_register r = {
		.range = { bb_addr_of(first), (uint64_t)n << BB_PAGE_SHIFT },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int keep = errno;

	if (ioctl(bb_rg.uffd, UFFDIO_REGISTER, &r) < 0) {
		int e = errno;

		/*
		 * Some of its mappings may be registered already: nobody would serve
		 * them. Not so where the program has a userfaultfd of its own there.
		 */
		if (e == ENOMEM)
			ioctl(bb_rg.uffd, UFFDIO_UNREGISTER, &r.range);
		errno = keep;
		return -e;
	}
	/*
	 * A raw clone(2) that bypasses fork() would leave the child with our
	 * mapping but without its pager: zeros where data should be. Better
	 * that it has no mapping at all and fails loudly.
	 */
	(void)bb_sys_madvise((void *)(uintptr_t)r.range.start, r.range.len, MADV_DONTFORK);
	/* See discard.c. PR_SET_MEMORY_MERGE makes all memory mergeable. */
	if (!(bb_rg.features & UFFD_FEATURE_MOVE))
		(void)bb_sys_madvise((void *)(uintptr_t)r.range.start, r.range.len, MADV_UNMERGEABLE);
	errno = keep;
	return 0;
}

void bb_pages_wake(uint32_t first, uint32_t n)
{
	struct uffdio_range r = { bb_addr_of(first), (uint64_t)n << BB_PAGE_SHIFT };
	int keep = errno;

	ioctl(bb_rg.uffd, UFFDIO_WAKE, &r);
	errno = keep;
}

/* Takes the page into DROPPING. Return: 1 taken, 0 nothing to drop, -ETIMEDOUT. */
static int page_claim(uint32_t page, enum bb_page_state *was)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	uint64_t deadline = 0;
	bb_pw w = atomic_load(pw);
	unsigned int looks = 0;

	for (;;) {
		switch (bb_pw_state(w)) {
		case BB_P_EMPTY:
			return 0;
		case BB_P_RESIDENT:
		case BB_P_STAGED:
		case BB_P_REMOTE:
		case BB_P_LOST:
			*was = bb_pw_state(w);
			if (atomic_compare_exchange_weak(pw, &w, bb_pw_with(w, BB_P_DROPPING)))
				return 1;
			continue;
		case BB_P_FILLING:
		case BB_P_EVICTING:
		case BB_P_DROPPING:
			break;
		}
		if (!deadline)
			deadline = bb_now_ns() + SETTLE_NS;
		else if (bb_now_ns() > deadline)
			return -ETIMEDOUT;
		bb_sys_pause(&looks);
		w = atomic_load(pw);
	}
}

static void page_empty(uint32_t page)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw);

	/* bbd may clear WB meanwhile; nothing else changes under DROPPING. */
	while (!atomic_compare_exchange_weak(pw, &w, (w & BB_PW_WB) | BB_P_EMPTY))
		;
	if (w & BB_PW_WAIT)
		bb_pages_wake(page, 1);
}

bool bb_pages_zap(uint32_t first, uint32_t n, bool freed)
{
	void *at = (void *)bb_addr_of(first);
	size_t len = (size_t)n << BB_PAGE_SHIFT;

	if (bb_sys_madvise(at, len, MADV_DONTNEED) == 0)
		return true;
	/* Locked (mlock). The bytes go all the same; the lock goes with its owner. */
	if (freed && bb_sys_munlock(at, len) == 0 && bb_sys_madvise(at, len, MADV_DONTNEED) == 0)
		return true;
	if (bb_sys_madvise(at, len, MADV_DONTNEED_LOCKED) == 0)
		return true;
	/* Whoever gets it next has to clear it by hand. */
	for (uint32_t e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++)
		bb_rg.xp[e] |= BB_XP_DIRTY;
	return false;
}

/* One extent's worth at most, so that the claimed pages fit a bitmap. */
static int drop_some(uint32_t first, uint32_t n, bool freed)
{
	uint64_t claimed[BB_EXTENT_PAGES / 64] = { 0 }, lost[BB_EXTENT_PAGES / 64] = { 0 };
	const bool poison = bb_rg.features & UFFD_FEATURE_POISON;
	enum bb_page_state was = BB_P_EMPTY;
	int64_t resident = 0;
	int r = 0;
	uint32_t i;

	for (i = 0; i < n; i++) {
		r = page_claim(first + i, &was);
		if (r < 0)
			break;
		if (r)
			claimed[i / 64] |= 1ULL << (i % 64);
		if (r && was == BB_P_LOST && !poison)
			lost[i / 64] |= 1ULL << (i % 64);
		resident += r && was == BB_P_RESIDENT;
	}
	n = i;
	/*
	 * Whatever the words say: LOST pages hold a poison marker, and no word
	 * is worth old bytes in the next owner's hands. An EMPTY page may be
	 * filled with zeros by bbd meanwhile; it faults again, is found missing,
	 * and gets its zeros then.
	 */
	if (n)
		(void)bb_pages_zap(first, n, freed);
	for (i = 0; i < n; i++)
		if (lost[i / 64] >> (i % 64) & 1)
			bb_lost_undo(first + i);
	for (i = 0; i < n; i++)
		if (claimed[i / 64] >> (i % 64) & 1)
			page_empty(first + i);
	if (resident) {
		bb_credit_give(bb_rg.ctl, resident);
		atomic_fetch_sub(&bb_rg.x[first / BB_EXTENT_PAGES].resident, (uint16_t)resident);
	}
	atomic_fetch_add_explicit(&bb_rg.ctl->n_drop, n, memory_order_relaxed);
	return r < 0 ? r : 0;
}

int bb_pages_drop(uint32_t first, uint32_t n, bool freed)
{
	int ret = 0;

	while (n) {
		uint32_t room = BB_EXTENT_PAGES - first % BB_EXTENT_PAGES;
		uint32_t now = n < room ? n : room;
		int r = drop_some(first, now, freed);

		if (r < 0) {
			bb_error("pages of %lx+%lx stayed busy for %llu s: not freed (is bbd alive?)",
				 (unsigned long)bb_addr_of(first), (unsigned long)now << BB_PAGE_SHIFT,
				 SETTLE_NS / 1000000000ULL);
			ret = r;
		}
		first += now;
		n -= now;
	}
	return ret;
}
