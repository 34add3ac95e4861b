/* SPDX-License-Identifier: MIT */
/*
 * The helper thread: keeps credit ready, so that a fault seldom waits for room.
 *
 * Theory of operation
 * -------------------
 * It sleeps on ctl->helper_bell until the free credit is below ctl->low, then
 * works until it is twice that. A hand goes round the extents. A LOCAL extent
 * that it meets is sealed: registered with userfaultfd, its pages given words.
 * Of a MANAGED extent it takes the RESIDENT pages that are old enough: each
 * fill stamps a page with the current epoch (5 bits), an epoch lasts for a
 * quarter of the budget, so age is counted in quarters of a full turnover. One
 * that came back soon after it was taken out is hot, and has longer.
 * When a whole round brings too little, younger pages will do.
 *
 * A batch: claim up to 64 victims (RESIDENT to EVICTING), move them to the
 * staging range (UFFDIO_MOVE: atomic, no copy; a store either comes before and
 * is in the page, or after and faults), hash, compare with the hash of the home
 * copy, copy to staging slots, publish STAGED, and give the memory back. Slots
 * are reserved before anything is claimed, so a claimed page never waits.
 *
 * Where the kernel has no UFFDIO_MOVE the pages are copied, and discarded if
 * nobody else has them: see discard.c.
 *
 * Pages that cannot be moved (pinned for I/O, or of another protection) stay
 * RESIDENT. Pages shared with a forked child are un-shared by one store of the
 * byte that is there, then move like any other.
 *
 * The helper touches only the staging range and the shared memory, neither of
 * which can fault into bbd; but for that one store, which bbd recognises by
 * this thread's id should it ever fault.
 *
 * Lock order: bb_rg.lock for sealing only, and never with pages EVICTING.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bluebridge/kernel.h>

#include "age.h"
#include "fds.h"
#include "log.h"
#include "private.h"
#include "usdt.h"

#define BATCH BB_DISCARD_MAX
#define PIECE 32 /* as many as a fault may wait for, where they need not be taken out in a hurry */
#define CLEAR 8 /* staging places at a time: 4 us */
#define IDLE_NS 100000000ULL /* so soon it sees that bbd has ended */
#define SLICE_NS 6000000ULL /* twice a program's, by default */
#define FORGET (BB_PW_HASHED | BB_PW_RX | BB_PW_PREFETCH | BB_PW_HEAT | BB_PW_SLOT)

struct victim {
	uint32_t page;
	bb_pw word; /* as claimed, state EVICTING */
	bool moved;
};

static struct {
	uint32_t hand;		/* extent */
	uint32_t hand_page;	/* page within it */
	int age;		/* how old a victim must be */
	unsigned int taken_in_round;
	struct victim v[BATCH];
	unsigned int nv;
} ev;

/* --- one batch ------------------------------------------------------------ */

static void release_busy(uint32_t page, bb_pw set, bb_pw clear)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw);

	while (!atomic_compare_exchange_weak(pw, &w, ((w & ~(clear | BB_PW_STATE | BB_PW_WAIT)) | set)))
		;
	if (w & BB_PW_WAIT)
		bb_pages_wake(page, 1);
}

/* Un-shares a page by storing what is there: what a store of the program would do. */
static void touch(uint32_t page)
{
	atomic_fetch_or((_Atomic unsigned char *)bb_addr_of(page), 0);
}

/* Empties staging places; mlockall may have filled and locked them. */
static void staging_clear(unsigned int i, unsigned int n)
{
	void *at = (void *)(bb_rg.staging + ((uintptr_t)i << BB_PAGE_SHIFT));

	if (bb_sys_madvise(at, (size_t)n << BB_PAGE_SHIFT, MADV_DONTNEED) < 0)
		(void)bb_sys_madvise(at, (size_t)n << BB_PAGE_SHIFT, MADV_DONTNEED_LOCKED);
}

/* Discarded behind our back, or the zero page: nothing to keep. */
static void is_empty(uint32_t page)
{
	atomic_fetch_sub(&bb_rg.x[page / BB_EXTENT_PAGES].resident, 1);
	release_busy(page, BB_P_EMPTY, FORGET);
	bb_credit_give(bb_rg.ctl, 1);
}

/* Pinned, locked or protected: it stays, and is young again. */
static void stays(uint32_t page)
{
	unsigned int gen = atomic_load_explicit(&bb_rg.ctl->gen, memory_order_relaxed);

	release_busy(page, bb_pw_with_gen(BB_P_RESIDENT, gen), BB_PW_GEN | BB_PW_COLD);
	atomic_fetch_add_explicit(&bb_rg.ctl->n_evict_busy, 1, memory_order_relaxed);
}

/* Between two pages: wakes whom bbd has left to us, and lets them have this CPU. */
static void look(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;
	uint64_t w;

	if (!atomic_load_explicit(&c->to_wake, memory_order_relaxed))
		return;
	w = atomic_exchange(&c->to_wake, 0);
	if (!w)
		return;
	bb_pages_wake((uint32_t)(w >> 32), (uint32_t)w);
	sched_yield();
}

/* From here on we look. Not where pages are discarded: a batch of that takes long. */
static void begin_looking(void)
{
	if (bb_rg.features & UFFD_FEATURE_MOVE)
		atomic_store(&bb_rg.ctl->helper_wakes, 1);
}

static void end_looking(void)
{
	atomic_store(&bb_rg.ctl->helper_wakes, 0);
	look();
}

/* Without UFFDIO_MOVE. */
static void discard_all(void)
{
	enum bb_discarded out[BATCH];
	uintptr_t at[BATCH];

	for (unsigned int i = 0; i < ev.nv; i++)
		at[i] = bb_addr_of(ev.v[i].page);
	bb_discard(at, ev.nv, (uint8_t *)bb_rg.staging, out);
	for (unsigned int i = 0; i < ev.nv; i++) {
		ev.v[i].moved = out[i] == BB_DISCARD_GONE;
		if (out[i] == BB_DISCARD_EMPTY)
			is_empty(ev.v[i].page);
		else if (out[i] == BB_DISCARD_STAYS)
			stays(ev.v[i].page);
	}
}

/*
 * UFFDIO_MOVE has failed: is the page in its staging place all the same? Linux
 * 6.18 says EEXIST of a page that it has moved, where it had to wait for a
 * swapped page on the way.
 */
static bool has_moved(unsigned int i, int err)
{
	int src = bb_page_has_content(bb_addr_of(ev.v[i].page));
	int dst = bb_page_has_content(bb_rg.staging + ((uintptr_t)i << BB_PAGE_SHIFT));

	/* Without /proc: staging places are empty before a batch. */
	return src < 0 || dst < 0 ? err == EEXIST : dst && !src;
}

/* Moves v[i..i+n) (contiguous pages) to the staging range. */
static void move_run(unsigned int i, unsigned int n)
{
	bool touched = false;
	unsigned int whole = n; /* how many are tried at a time */

	while (n) {
		unsigned int now = n < whole ? n : whole;
		struct uffdio_move m = {
			.dst = bb_rg.staging + ((uintptr_t)i << BB_PAGE_SHIFT),
			.src = bb_addr_of(ev.v[i].page),
			.len = (uint64_t)now << BB_PAGE_SHIFT,
			.mode = UFFDIO_MOVE_MODE_DONTWAKE,
		};
		int r = ioctl(bb_rg.uffd, UFFDIO_MOVE, &m);
		int err = r < 0 ? errno : 0;
		unsigned int done = r == 0 ? now : m.move > 0 ? (unsigned int)(m.move >> BB_PAGE_SHIFT) : 0;

		for (unsigned int k = 0; k < done; k++)
			ev.v[i + k].moved = true;
		if (done)
			touched = false;
		i += done;
		n -= done;
		if (!n)
			return;
		if (!err || done)
			continue; /* the next round tells what stopped it */
		if (err == EAGAIN)
			continue;
		if (has_moved(i, err)) {
			ev.v[i++].moved = true;
			n--;
			touched = false;
			continue;
		}
		if (err == EEXIST && !touched) {
			staging_clear(i, now);
			touched = true;
			continue;
		}
		if (now > 1 && err != EBUSY) {
			/* A run across two of the program's mappings is refused whole. */
			whole = 1;
			continue;
		}
		if (err == EBUSY && !touched) {
			touch(ev.v[i].page);
			touched = true;
			continue;
		}
		touched = false;
		if (err == ENOENT)
			is_empty(ev.v[i].page);
		else
			stays(ev.v[i].page);
		i++;
		n--;
	}
}

static bool is_zero(const void *page)
{
	const uint64_t *p = page;

	/* Most pages tell by their first words. */
	if (p[0] | p[1] | p[255] | p[511])
		return false;
	return !memcmp(p, p + 1, BB_PAGE_SIZE - sizeof(*p));
}

/* Publishes one moved page. Return: true where a slot was used. */
static bool stage(const struct victim *v, unsigned int i, uint64_t head)
{
	struct bb_region *g = &bb_rg;
	const void *from = (const void *)(g->staging + ((uintptr_t)i << BB_PAGE_SHIFT));
	uint32_t slot = (uint32_t)(head & (g->nslots - 1));
	struct bb_slot *s = &g->slots[slot];
	struct bb_hash hash;
	XXH128_hash_t h;
	bb_pw set;

	atomic_fetch_sub(&g->x[v->page / BB_EXTENT_PAGES].resident, 1);
	if (is_zero(from)) {
		/* Zeros need no home: the next touch makes them again. */
		release_busy(v->page, BB_P_EMPTY, FORGET);
		atomic_fetch_add_explicit(&g->ctl->n_evict_zero, 1, memory_order_relaxed);
		return false;
	}
	/* Hashed is what is kept: after MADV_FREE the kernel may clear the page at any time. */
	memcpy(g->stage + ((size_t)slot << BB_PAGE_SHIFT), from, BB_PAGE_SIZE);
	h = XXH3_128bits(g->stage + ((size_t)slot << BB_PAGE_SHIFT), BB_PAGE_SIZE);
	s->hash = hash = bb_hash_of(h.low64, h.high64);
	atomic_store_explicit(&s->page, v->page, memory_order_release);

	/* The hash of the home copy is stable while HASHED is set and WB is not. */
	set = bb_age_out(v->word, bb_pw_with_slot(BB_P_STAGED, slot), atomic_load_explicit(&g->ctl->gen, memory_order_relaxed));
	if ((v->word & BB_PW_HASHED) && !(v->word & BB_PW_WB) && bb_hash_same(g->hash[v->page], hash))
		atomic_fetch_add_explicit(&g->ctl->n_evict_clean, 1, memory_order_relaxed);
	else
		set |= BB_PW_DIRTY;
	/* The slot must be within [tail, head) before anybody can see its number. */
	atomic_store_explicit(&g->ctl->stage_head, head + 1, memory_order_release);
	release_busy(v->page, set, BB_PW_SLOT | BB_PW_DIRTY | BB_PW_PREFETCH | BB_PW_GEN | BB_PW_HEAT);
	return true;
}

static void kick(void)
{
	uint64_t one = 1;

	if (atomic_exchange(&bb_rg.ctl->bbd_wants, 0))
		if (write(bb_rg.kick, &one, sizeof(one)) < 0)
			return; /* a full counter wakes as well */
}

static unsigned int slots_free(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;
	uint64_t used = atomic_load(&c->stage_head) - atomic_load(&c->stage_tail);

	return used < bb_rg.nslots ? (unsigned int)(bb_rg.nslots - used) : 0;
}

/* Takes ev.v[0..nv) out of the program. Return: pages given back. */
static unsigned int run_batch(void)
{
	struct bb_region *g = &bb_rg;
	const bool move = g->features & UFFD_FEATURE_MOVE;
	unsigned int i, n, gone = 0;
	uint64_t head = atomic_load(&g->ctl->stage_head);

	BB_PROBE(batch_begin, ev.nv);
	if (move)
		staging_clear(0, ev.nv);
	else
		discard_all();
	for (i = 0; move && i < ev.nv; i += n) {
		n = 1;
		while (i + n < ev.nv && ev.v[i + n].page == ev.v[i].page + n)
			n++;
		move_run(i, n);
		look();
	}
	for (i = 0; i < ev.nv; i++) {
		if (!ev.v[i].moved)
			continue;
		if (stage(&ev.v[i], i, head))
			head++;
		gone++;
		look();
	}
	if (gone) {
		for (i = 0; move && i < ev.nv; i += n) {
			n = ev.nv - i < CLEAR ? ev.nv - i : CLEAR;
			staging_clear(i, n);
			look();
		}
		bb_credit_give(g->ctl, gone);
		atomic_fetch_add_explicit(&g->ctl->n_evict, gone, memory_order_relaxed);
		ev.taken_in_round += gone;
	}
	BB_PROBE(batch_end, ev.nv, gone);
	ev.nv = 0;
	kick();
	return gone;
}

/* --- the hand ------------------------------------------------------------- */

/* Claims victims of one MANAGED extent from hand_page on. Return: extent done. */
static bool pick(uint32_t e, unsigned int max)
{
	struct bb_region *g = &bb_rg;
	unsigned int now = atomic_load_explicit(&g->ctl->gen, memory_order_relaxed);
	uint32_t first = e * BB_EXTENT_PAGES;

	if (atomic_load_explicit(&g->x[e].flags, memory_order_relaxed) & BB_XF_HOMELESS)
		return true;
	for (; ev.hand_page < BB_EXTENT_PAGES; ev.hand_page++) {
		_Atomic bb_pw *pw = &g->pw[first + ev.hand_page];
		bb_pw w = atomic_load_explicit(pw, memory_order_relaxed);

		if (ev.nv == max)
			return false;
		if (bb_pw_state(w) != BB_P_RESIDENT) {
			if (bb_age_cools(w, now))
				atomic_compare_exchange_strong(pw, &w, bb_pw_with_heat(w, 0));
			continue;
		}
		if (!bb_age_enough(w, now, ev.age))
			continue;
		if (!atomic_compare_exchange_strong(pw, &w, bb_pw_with(w, BB_P_EVICTING)))
			continue;
		ev.v[ev.nv].page = first + ev.hand_page;
		ev.v[ev.nv].word = w;
		ev.v[ev.nv++].moved = false;
	}
	return true;
}

/* What the program said is not needed; now_only: what it wants out whether there is room or not. */
static void pick_hinted(bool now_only, uint32_t used_extents, unsigned int max)
{
	for (struct victim *v; ev.nv < max; ev.nv++) {
		v = &ev.v[ev.nv];
		v->moved = false;
		if (!bb_hints_claim(now_only, used_extents, &v->page, &v->word))
			return;
	}
}

static int64_t room(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;

	return atomic_load(&c->limit) - atomic_load(&c->resident);
}

/* Is there room for the faults to come? Then nobody waits for what we do. */
static bool unhurried(void)
{
	return room() > atomic_load_explicit(&bb_rg.ctl->low, memory_order_relaxed) / 2;
}

/* bbd is behind with writing back; it rings when a slot is free. Return: false where it has ended. */
static bool await_slot(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;
	uint32_t bell = atomic_load(&c->helper_bell);

	kick();
	atomic_store(&c->helper_sleeps, BB_HELPER_SLOT);
	if (!slots_free())
		bb_futex_wait(&c->helper_bell, bell, 2000000);
	atomic_store(&c->helper_sleeps, BB_HELPER_AWAKE);
	return slots_free() || !bb_bbd_ended();
}

/*
 * Works until target pages of credit are free. Return: false where a round at
 * the lowest age brought nothing (all pinned, homeless or busy).
 */
static bool make_room(int64_t target)
{
	struct bb_region *g = &bb_rg;
	unsigned int fruitless = 0;

	/* What mlockall locked stays: the kernel moves locked pages to a locked place only. */
	(void)bb_sys_munlock((void *)g->staging, BATCH * BB_PAGE_SIZE);
	while (room() < target && !atomic_load(&g->ctl->closing)) {
		unsigned int max = slots_free();
		uint32_t used_extents;

		bb_lost_look();
		if (max > BATCH)
			max = BATCH;
		if (max > PIECE && unhurried())
			max = PIECE;
		if (!max) {
			if (!await_slot())
				return false;
			continue;
		}
		bb_lock(&g->lock);
		used_extents = (g->runs.top + BB_EXTENT_PAGES - 1) / BB_EXTENT_PAGES;
		if (ev.hand >= used_extents) {
			ev.hand = 0;
			ev.hand_page = 0;
			if (!bb_age_round(&ev.age, ev.taken_in_round, (unsigned int)target))
				fruitless++;
			ev.taken_in_round = 0;
		}
		if (used_extents && bb_xstate(ev.hand) == BB_X_LOCAL) {
			if (bb_extent_seal(ev.hand) == 0)
				ev.taken_in_round++;
			ev.hand++;
			ev.hand_page = 0;
			bb_unlock(&g->lock);
			continue;
		}
		bb_unlock(&g->lock);
		if (fruitless > 1)
			return false;
		bb_lock(&g->evicting);
		begin_looking();
		pick_hinted(false, used_extents, max);
		while (ev.nv < max && ev.hand < used_extents && bb_xstate(ev.hand) != BB_X_LOCAL) {
			if (bb_xstate(ev.hand) == BB_X_MANAGED && !pick(ev.hand, max))
				break;
			ev.hand++;
			ev.hand_page = 0;
		}
		if (ev.nv)
			run_batch();
		bb_unlock(&g->evicting);
		end_looking();
		/* A thread that woke on this CPU meanwhile would wait for milliseconds, the scheduler's slice. */
		if (unhurried())
			sched_yield();
	}
	return true;
}

/* Takes out what the program wants out now (MADV_PAGEOUT). */
static void take_hinted(void)
{
	struct bb_region *g = &bb_rg;
	unsigned int taken = 1;

	(void)bb_sys_munlock((void *)g->staging, BATCH * BB_PAGE_SIZE);
	while (taken && !atomic_load(&g->ctl->closing)) {
		unsigned int max = slots_free();

		bb_lost_look();
		if (!max) {
			if (!await_slot())
				return;
			continue;
		}
		bb_lock(&g->lock);
		taken = (g->runs.top + BB_EXTENT_PAGES - 1) / BB_EXTENT_PAGES;
		bb_unlock(&g->lock);
		bb_lock(&g->evicting);
		begin_looking();
		pick_hinted(true, taken, max > PIECE ? PIECE : max);
		taken = ev.nv;
		if (ev.nv)
			run_batch();
		bb_unlock(&g->evicting);
		end_looking();
		sched_yield();
	}
}

static void *helper(void *new)
{
	struct bb_region *g = &bb_rg;
	struct bb_region_ctl *c = g->ctl;

	prctl(PR_SET_NAME, "bb-helper");
	/*
	 * Whoever wakes with a shorter slice has the CPU at once: the thread whose page
	 * has come does not wait for the end of a batch. A fork child in a sandbox may
	 * not ask for it.
	 */
	if (new)
		bb_sys_slice(SLICE_NS);
	atomic_store(&c->stuck, 0);
	ev.age = BB_AGE_OLD;
	bb_lost_begin();
	while (!atomic_load(&c->closing)) {
		uint32_t bell = atomic_load(&c->helper_bell);
		int64_t low = atomic_load(&c->low);

		bb_lost_look();
		if (bb_hints_out())
			take_hinted();
		if (room() < low) {
			bool ok = make_room(2 * low);

			atomic_store(&c->stuck, !ok);
			if (ok)
				continue;
			kick();
		}
		atomic_store(&c->helper_sleeps, BB_HELPER_IDLE);
		if (!bb_hints_out() && (room() >= low || atomic_load(&c->helper_bell) == bell))
			bb_futex_wait(&c->helper_bell, bell, room() < low ? 5000000 : IDLE_NS);
		atomic_store(&c->helper_sleeps, BB_HELPER_AWAKE);
		if (bb_last_thread()) {
			/* The program's exit handlers come, and nobody takes pages out. */
			atomic_store(&c->stuck, 1);
			break;
		}
		if (bb_bbd_ended() && bb_recover() < 0)
			bb_alone_serve();
	}
	return NULL;
}

int bb_evict_start(void)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t t;
	int r;

	if (bb_rg.helper_runs)
		return 0;
	bb_pagemap_open();
	if (!(bb_rg.features & UFFD_FEATURE_MOVE)) {
		r = bb_discard_start();
		/* A fork child in a sandbox still wants its helper, though that takes nothing out. */
		if (r < 0 && bb_rg.attached != BB_ATTACHED)
			return r;
		if (r < 0)
			bb_warn("fork: its pages cannot be discarded any more (a seccomp filter?): nothing of the child's memory is paged out, "
				"it goes over its budget");
	}
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, 128 * 1024);
	r = pthread_create(&t, &attr, helper, bb_rg.attached == BB_ATTACHED ? NULL : &bb_rg);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	bb_rg.helper_runs = true;
	return 0;
}
