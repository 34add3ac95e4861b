/* SPDX-License-Identifier: MIT */
/*
 * What a program says of its memory by madvise, where that is paged.
 *
 * Theory of operation
 * -------------------
 * RANDOM and SEQUENTIAL are remembered for whole extents, in their flags, until
 * NORMAL or until the extent's last allocation is gone; bbd looks there. WILLNEED
 * is handed to bbd by a few places in the control page. COLD and PAGEOUT mark
 * pages (BB_PW_COLD) and their extents; the helper, who takes pages out, looks
 * there before its hand goes on: for COLD when room is wanted, for PAGEOUT at once.
 *
 * Memory that is LOCAL is sealed for COLD and PAGEOUT. Where the program is not
 * attached yet a whole extent's flag stays, and marks its pages when it is sealed.
 * The kernel hears of all hints for memory that is not paged, but not of RANDOM
 * and SEQUENTIAL: they mean nothing to it in anonymous memory, and cut mappings.
 *
 * Nothing here waits, but for the lock, which is let go now and then: a handler
 * that has interrupted a holder of it goes without, hints are hints. And COLD and
 * PAGEOUT, for a moment, for pages that are landing: bbd installs a run of them, and may
 * lose the CPU to the program before it has said of each that it is here.
 *
 * Lock order: bb_rg.lock for the program's side, bb_rg.evicting for the helper's.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "clock.h"
#include "private.h"

#define HOLD 32u /* extents looked at before others may have the lock */
#define LAND_NS 2000000ULL /* a hint is worth no more */

bool bb_hint_is(int advice)
{
	switch (advice) {
	case MADV_NORMAL:
	case MADV_RANDOM:
	case MADV_SEQUENTIAL:
	case MADV_WILLNEED:
	case MADV_COLD:
	case MADV_PAGEOUT:
		return true;
	default:
		return false;
	}
}

/* --- the program's side ---------------------------------------------------- */

/* Is something else than the region's memory mapped over a part of it? */
static bool is_foreign(uint32_t e)
{
	return bb_rg.xp[e] & BB_XP_FOREIGN;
}

static void remember(uint32_t e, int advice)
{
	_Atomic uint8_t *flags = &bb_rg.x[e].flags;
	uint8_t set = advice == MADV_RANDOM ? BB_XF_RANDOM : advice == MADV_SEQUENTIAL ? BB_XF_SEQUENTIAL : 0;

	atomic_fetch_and(flags, (uint8_t)~(BB_XF_RANDOM | BB_XF_SEQUENTIAL));
	if (set)
		atomic_fetch_or(flags, set);
}

/* Pages of one MANAGED extent. Return: were any marked? */
static bool mark(uint32_t first, uint32_t n)
{
	bool any = false;

	for (uint32_t i = first; i < first + n; i++) {
		bb_pw w = atomic_load_explicit(&bb_rg.pw[i], memory_order_relaxed);

		while (bb_pw_state(w) == BB_P_RESIDENT) {
			if (atomic_compare_exchange_weak(&bb_rg.pw[i], &w, w | BB_PW_COLD)) {
				any = true;
				break;
			}
		}
	}
	return any;
}

/* Wanted: as if it had just come. */
static void unmark(uint32_t first, uint32_t n)
{
	const unsigned int gen = atomic_load_explicit(&bb_rg.ctl->gen, memory_order_relaxed);

	for (uint32_t i = first; i < first + n; i++) {
		bb_pw w = atomic_load_explicit(&bb_rg.pw[i], memory_order_relaxed);

		while (bb_pw_state(w) == BB_P_RESIDENT &&
		       !atomic_compare_exchange_weak(&bb_rg.pw[i], &w, bb_pw_with_gen(w & ~BB_PW_COLD, gen)))
			;
	}
}

/* Until no page of these is on its way in, the program's own among them; but not for long. */
static void await_landing(uint32_t first, uint32_t n)
{
	uint64_t until = 0;
	unsigned int looks = 0;

	for (uint32_t i = first; i < first + n; i++) {
		/* Words of what was never paged are not in memory, and stay so. */
		if (bb_xstate(i / BB_EXTENT_PAGES) != BB_X_MANAGED) {
			i |= BB_EXTENT_PAGES - 1;
			continue;
		}
		while (bb_pw_state(atomic_load_explicit(&bb_rg.pw[i], memory_order_relaxed)) == BB_P_FILLING) {
			if (!until)
				until = bb_now_ns() + LAND_NS;
			else if (bb_now_ns() > until)
				return;
			bb_sys_pause(&looks);
		}
	}
}

/* COLD, PAGEOUT for a part of an extent, lock held. Return: does the kernel have to know? */
static bool cool(uint32_t first, uint32_t n, int advice)
{
	struct bb_region *g = &bb_rg;
	uint32_t e = first / BB_EXTENT_PAGES;
	uint8_t flag = advice == MADV_PAGEOUT ? BB_XF_OUT : BB_XF_COLD;

	if (g->attached == BB_ATTACHED && g->helper_runs && bb_xsettled(e) == BB_X_LOCAL && atomic_load(&g->x[e].used))
		(void)bb_extent_seal(e); /* else it is the kernel's */
	if (bb_xsettled(e) == BB_X_MANAGED) {
		if (!mark(first, n))
			return false;
		atomic_fetch_or(&g->x[e].flags, flag);
		atomic_store(flag == BB_XF_OUT ? &g->ctl->out : &g->ctl->cold, 1);
		return false;
	}
	if (bb_xstate(e) == BB_X_LOCAL && n == BB_EXTENT_PAGES) {
		atomic_fetch_or(&g->x[e].flags, BB_XF_COLD);
		atomic_store(&g->ctl->cold, 1);
	}
	return bb_xstate(e) == BB_X_LOCAL;
}

/* Asks bbd for a range; where it has been asked for too much already, for nothing. */
static void ask(uint32_t first, uint32_t n)
{
	struct bb_region_ctl *c = bb_rg.ctl;
	const uint64_t want = (uint64_t)first << 32 | n;
	const uint64_t one = 1;

	for (unsigned int i = 0; i < BB_ASKS; i++) {
		uint64_t none = 0;

		if (!atomic_compare_exchange_strong(&c->ask[i], &none, want))
			continue;
		atomic_store(&c->asked, 1);
		/* Not the library's, which is a point of cancellation: the lock is held. */
		if (syscall(SYS_write, bb_rg.kick, &one, sizeof(one)) < 0)
			return; /* a full counter wakes as well */
		return;
	}
}

/* The part [first, +n) of one extent, lock held. Return: does the kernel have to know? */
static bool hint_extent(uint32_t first, uint32_t n, int advice)
{
	struct bb_region *g = &bb_rg;
	uint32_t e = first / BB_EXTENT_PAGES;

	switch (advice) {
	case MADV_NORMAL:
	case MADV_RANDOM:
	case MADV_SEQUENTIAL:
		if (atomic_load(&g->x[e].used))
			remember(e, advice);
		return is_foreign(e);
	case MADV_WILLNEED:
		if (bb_xsettled(e) == BB_X_MANAGED)
			unmark(first, n);
		else if (bb_xstate(e) == BB_X_LOCAL)
			atomic_fetch_and(&g->x[e].flags, (uint8_t)~BB_XF_COLD);
		return is_foreign(e) || bb_xstate(e) == BB_X_LOCAL;
	default:
		return cool(first, n, advice) || is_foreign(e);
	}
}

/*
 * The first extents of [first, end), lock held. *next: how far it came; the
 * kernel has to know of [*told, *next). Told apart for one run of those at a time.
 */
static void hint_some(uint32_t first, uint32_t end, int advice, uint32_t *told, uint32_t *next)
{
	uint32_t at = first;

	*told = first;
	for (unsigned int i = 0; i < HOLD && at < end; i++) {
		uint32_t to = (at / BB_EXTENT_PAGES + 1) * BB_EXTENT_PAGES;

		if (to > end)
			to = end;
		if (!hint_extent(at, to - at, advice)) {
			if (*told < at)
				break; /* once more, for the next run */
			*told = to;
		}
		at = to;
	}
	*next = at;
}

static void ring_helper(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;

	atomic_fetch_add(&c->helper_bell, 1);
	if (atomic_exchange(&c->helper_sleeps, 0))
		bb_futex_wake(&c->helper_bell, 1);
}

int bb_hint(uint32_t first, uint32_t n, int advice)
{
	struct bb_region *g = &bb_rg;
	uint32_t at = first, end = first + n, told, next;
	int ret = 0, r, keep = errno;

	if (bb_lock_inside())
		return 0;
	if (g->attached == BB_ATTACHED && (advice == MADV_COLD || advice == MADV_PAGEOUT))
		await_landing(first, n);
	while (at < end) {
		told = at;
		next = end;
		bb_lock(&g->lock);
		if (g->attached != BB_CHILD)
			hint_some(at, end, advice, &told, &next);
		if (g->attached == BB_ATTACHED && next == end) {
			if (advice == MADV_WILLNEED)
				ask(first, n);
			if (advice == MADV_PAGEOUT && atomic_load(&g->ctl->out))
				ring_helper();
		}
		bb_unlock(&g->lock);
		/* Not with the lock: it may take its time. */
		if (told < next) {
			r = bb_sys_madvise((void *)bb_addr_of(told), (size_t)(next - told) << BB_PAGE_SHIFT, advice);
			ret = r < 0 ? r : ret;
		}
		at = next;
	}
	errno = keep;
	return ret;
}

/* --- the helper's side ------------------------------------------------------ */

/* The extent that the helper is in, and the next page of it; all done: beyond it. */
static struct {
	uint32_t extent, page;
} at = { 0, BB_EXTENT_PAGES };

bool bb_hints_out(void)
{
	return atomic_load_explicit(&bb_rg.ctl->out, memory_order_relaxed);
}

/* The next extent with that flag, which it then has no more. Return: false where there is none. */
static bool next_extent(uint8_t flag, uint32_t used)
{
	struct bb_region *g = &bb_rg;
	_Atomic uint32_t *some = flag == BB_XF_OUT ? &g->ctl->out : &g->ctl->cold;

	/* First: who marks another one meanwhile is seen the next time. */
	if (!atomic_load_explicit(some, memory_order_relaxed) || !atomic_exchange(some, 0))
		return false;
	for (uint32_t i = 1; i <= used; i++) {
		uint32_t e = (at.extent + i) % used;

		if (!(atomic_load_explicit(&g->x[e].flags, memory_order_relaxed) & flag) ||
		    bb_xstate(e) != BB_X_MANAGED)
			continue;
		atomic_store(some, 1); /* there may be more */
		atomic_fetch_and(&g->x[e].flags, (uint8_t)~flag);
		at.extent = e;
		at.page = 0;
		return true;
	}
	return false;
}

bool bb_hints_claim(bool now_only, uint32_t used, uint32_t *page, bb_pw *word)
{
	struct bb_region *g = &bb_rg;

	do {
		const uint32_t first = at.extent * BB_EXTENT_PAGES;

		if (at.extent >= used ||
		    (atomic_load_explicit(&g->x[at.extent].flags, memory_order_relaxed) & BB_XF_HOMELESS))
			at.page = BB_EXTENT_PAGES;
		for (; at.page < BB_EXTENT_PAGES; at.page++) {
			_Atomic bb_pw *pw = &g->pw[first + at.page];
			bb_pw w = atomic_load_explicit(pw, memory_order_relaxed);

			if (bb_pw_state(w) != BB_P_RESIDENT || !(w & BB_PW_COLD))
				continue;
			if (bb_xstate(at.extent) != BB_X_MANAGED ||
			    !atomic_compare_exchange_strong(pw, &w, bb_pw_with(w, BB_P_EVICTING)))
				continue;
			*page = first + at.page++;
			*word = w;
			return true;
		}
	} while (next_extent(BB_XF_OUT, used) || (!now_only && next_extent(BB_XF_COLD, used)));
	return false;
}
