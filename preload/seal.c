/* SPDX-License-Identifier: MIT */
/*
 * Sealing: a LOCAL extent, ordinary memory until now, becomes MANAGED. It is
 * registered with userfaultfd, and each of its pages that has content gets a word
 * that says so. What the kernel's page tables say decides, see find_content().
 * A huge page is split first; one that is pinned keeps its extent LOCAL.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "fds.h"
#include "log.h"
#include "private.h"
#include "usdt.h"

bool bb_pagemap_look(uintptr_t at, uint64_t *entry, size_t n)
{
	off_t off = (off_t)((at >> BB_PAGE_SHIFT) * sizeof(*entry));

	/* Not the library's, which is a point of cancellation: there are locks held. */
	return bb_rg.pagemap >= 0 &&
	       syscall(SYS_pread64, bb_rg.pagemap, entry, n * sizeof(*entry), off) == (ssize_t)(n * sizeof(*entry));
}

int bb_page_has_content(uintptr_t at)
{
	uint64_t entry;

	return bb_pagemap_look(at, &entry, 1) ? !!(entry & BB_PM_CONTENT) : -1;
}

/*
 * Which pages of an extent have content: mapped, swapped out by the kernel, or
 * on their way between two places. mincore(2) would not do: it takes a page
 * that was swapped out for one that never was. Without /proc all count; those
 * that turn out to have none are EMPTY when the hand comes to them.
 */
static void find_content(uint32_t first, bool has[BB_EXTENT_PAGES])
{
	static uint64_t entry[BB_EXTENT_PAGES];
	bool known = bb_pagemap_look(bb_addr_of(first), entry, BB_EXTENT_PAGES);

	for (uint32_t i = 0; i < BB_EXTENT_PAGES; i++)
		has[i] = !known || (entry[i] & BB_PM_CONTENT);
}

/* Is it one huge page? Without /proc: not known, so no. */
static bool is_huge(uint32_t first)
{
	struct page_region found;
	struct pm_scan_arg a = {
		.size = sizeof(a),
		.start = bb_addr_of(first),
		.end = bb_addr_of(first + BB_EXTENT_PAGES),
		.vec = (uintptr_t)&found,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};

	return bb_rg.pagemap >= 0 && ioctl(bb_rg.pagemap, PAGEMAP_SCAN, &a) > 0;
}

/*
 * Asked for a small page of a huge one that is pinned UFFDIO_MOVE does not say
 * so, as of others: Linux 6.12 tries for ever, and nothing but SIGKILL ends it.
 * So huge pages are split before. Return: false where one cannot be, now.
 */
static bool is_small(uint32_t first)
{
	if (!is_huge(first))
		return true;
	bb_discard_split(bb_addr_of(first));
	return !is_huge(first);
}

/* The sealing is off: it is as it was. */
static int stays_local(uint32_t e, int error)
{
	atomic_store(&bb_rg.x[e].state, BB_X_LOCAL);
	bb_pages_wake(e * BB_EXTENT_PAGES, BB_EXTENT_PAGES);
	return error;
}

int bb_extent_seal(uint32_t e)
{
	struct bb_region *g = &bb_rg;
	uint32_t first = e * BB_EXTENT_PAGES, at = first, end = first + BB_EXTENT_PAGES, n = 0, i;
	static bool has[BB_EXTENT_PAGES]; /* the lock's; a handler's stack may be small */
	unsigned int gen;
	bb_pw cold;
	int64_t run, keep = 0;
	int r;

	/* Before parts of it are given back: split by that, it were huge still, and not seen to be. */
	if (g->xp[e] & BB_XP_FOREIGN || (g->features & UFFD_FEATURE_MOVE && !is_small(first)))
		return -EBUSY;
	/* What nobody owns need not be paged: give it back. */
	g->xp[e] &= (uint8_t)~BB_XP_DIRTY;
	while (at < end) {
		run = bb_runs_find(&g->runs, at);
		if (run >= 0) {
			at = (uint32_t)run + bb_runs_len(&g->runs, (uint32_t)run);
			continue;
		}
		run = bb_runs_next(&g->runs, at, &n);
		i = run < 0 || run > end ? end : (uint32_t)run;
		(void)bb_pages_zap(at, i - at, true);
		at = i;
	}
	if (!atomic_load(&g->x[e].used)) {
		g->cached -= g->cached < BB_EXTENT_PAGES ? g->cached : BB_EXTENT_PAGES;
		atomic_store(&g->x[e].state, BB_X_NONE);
		bb_credit_give(g->ctl, BB_EXTENT_PAGES);
		return 0;
	}

	/* A bbd that was killed may have left it; whoever recovers would take this sealing for that opening. */
	atomic_fetch_and(&g->x[e].flags, (uint8_t)~BB_XF_OPENING);
	atomic_store(&g->x[e].state, BB_X_SEALING);
	r = bb_extents_register(e, 1);
	if (r < 0)
		return stays_local(e, r);
	/*
	 * From here on a missing page faults into bbd, which leaves it alone
	 * while the extent is SEALING. So what is found now cannot grow.
	 */
	if (!(g->features & UFFD_FEATURE_MOVE)) {
		bb_discard_split(bb_addr_of(first));
	} else if (!is_small(first)) { /* the kernel has made it huge meanwhile */
		struct uffdio_range range = { bb_addr_of(first), BB_EXTENT_SIZE };

		ioctl(g->uffd, UFFDIO_UNREGISTER, &range);
		return stays_local(e, -EBUSY);
	}
	find_content(first, has);
	gen = atomic_load_explicit(&g->ctl->gen, memory_order_relaxed);
	cold = atomic_load(&g->x[e].flags) & BB_XF_COLD ? BB_PW_COLD : 0;
	for (i = 0; i < BB_EXTENT_PAGES; i++) {
		bb_pw w = atomic_load(&g->pw[first + i]), v;

		keep += has[i];
		/* The write of what was there before may end just now: WB must not come back. */
		do {
			v = w & BB_PW_WB;
			if (has[i])
				v = bb_pw_with_gen(bb_pw_with(v | cold, BB_P_RESIDENT), gen);
		} while (!atomic_compare_exchange_weak(&g->pw[first + i], &w, v));
	}
	atomic_store(&g->x[e].resident, (uint16_t)keep);
	atomic_fetch_and(&g->x[e].flags, BB_XF_HINTS);
	atomic_store(&g->x[e].state, BB_X_MANAGED);
	if (cold)
		atomic_store(&g->ctl->cold, 1);
	bb_pages_wake(first, BB_EXTENT_PAGES);
	bb_credit_give(g->ctl, BB_EXTENT_PAGES - keep);
	atomic_fetch_add_explicit(&g->ctl->n_seal, 1, memory_order_relaxed);
	BB_PROBE(extent_sealed, bb_addr_of(first), keep);
	return 0;
}

/* In a fork child it is the parent's still. Kept open: the program may lose sight of /proc. */
void bb_pagemap_open(void)
{
	struct bb_region *g = &bb_rg;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), r;

	bb_fd_close(g->pagemap);
	g->pagemap = -1;
	if (fd < 0)
		return;
	r = bb_fd_hide(fd);
	if (r < 0)
		close(fd);
	g->pagemap = r < 0 ? -1 : r;
}
