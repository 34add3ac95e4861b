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
 * Victims are claimed up to 64 at a time (RESIDENT to EVICTING) and taken out by
 * batch.c.
 *
 * The helper touches only the staging range and the shared memory, neither of
 * which can fault into bbd; the one store that un-shares a page fails instead.
 *
 * Lock order: bb_rg.lock for sealing only, never with pages EVICTING, and never
 * without a deadline.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "age.h"
#include "log.h"
#include "private.h"

#define PIECE 32 /* as many as a fault may wait for, where they need not be taken out in a hurry */
#define SEAL_WAIT_NS 20000000ULL
#define IDLE_NS 100000000ULL /* so soon it sees that bbd has ended */
#define SLICE_NS 6000000ULL /* twice a program's, by default */

static struct {
	uint32_t hand;		/* extent */
	uint32_t hand_page;	/* page within it */
	int age;		/* how old a victim must be */
	unsigned int taken_in_round;
	struct bb_batch batch;
} ev;

static unsigned int slots_free(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;
	uint64_t used = atomic_load(&c->stage_head) - atomic_load(&c->stage_tail);

	return used < bb_rg.nslots ? (unsigned int)(bb_rg.nslots - used) : 0;
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

		if (ev.batch.n == max)
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
		ev.batch.v[ev.batch.n].page = first + ev.hand_page;
		ev.batch.v[ev.batch.n].word = w;
		ev.batch.v[ev.batch.n++].moved = false;
	}
	return true;
}

/* What the program said is not needed; now_only: what it wants out whether there is room or not. */
static void pick_hinted(bool now_only, uint32_t used_extents, unsigned int max)
{
	for (struct bb_victim *v; ev.batch.n < max; ev.batch.n++) {
		v = &ev.batch.v[ev.batch.n];
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

	bb_batch_kick();
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
	(void)bb_sys_munlock((void *)g->staging, BB_BATCH * BB_PAGE_SIZE);
	while (room() < target && !atomic_load(&g->ctl->closing)) {
		unsigned int max = slots_free();
		uint32_t used_extents;

		bb_lost_look();
		if (max > BB_BATCH)
			max = BB_BATCH;
		if (max > PIECE && unhurried())
			max = PIECE;
		if (!max) {
			if (!await_slot())
				return false;
			continue;
		}
		/* All that were ever used: free memory that is kept warm has its share of the budget, too. */
		used_extents = atomic_load(&g->rw_top);
		if (ev.hand >= used_extents) {
			ev.hand = 0;
			ev.hand_page = 0;
			if (!bb_age_round(&ev.age, ev.taken_in_round, (unsigned int)target))
				fruitless++;
			ev.taken_in_round = 0;
		}
		if (used_extents && bb_xstate(ev.hand) == BB_X_LOCAL) {
			/*
			 * Who has the lock may be waiting for us: on its stack, which is
			 * paged, or for a page that a bbd left behind when it was killed.
			 */
			if (bb_region_lock_for(SEAL_WAIT_NS)) {
				if (bb_xstate(ev.hand) == BB_X_LOCAL && bb_extent_seal(ev.hand) == 0)
					ev.taken_in_round++;
				bb_unlock(&g->lock);
			} else if (bb_bbd_ended()) {
				return false;
			}
			ev.hand++;
			ev.hand_page = 0;
			if (fruitless > 1)
				return false;
			continue;
		}
		if (fruitless > 1)
			return false;
		bb_lock(&g->evicting);
		bb_batch_look();
		pick_hinted(false, used_extents, max);
		while (ev.batch.n < max && ev.hand < used_extents && bb_xstate(ev.hand) != BB_X_LOCAL) {
			if (bb_xstate(ev.hand) == BB_X_MANAGED && !pick(ev.hand, max))
				break;
			ev.hand++;
			ev.hand_page = 0;
		}
		if (ev.batch.n)
			ev.taken_in_round += bb_batch_run(&ev.batch);
		bb_unlock(&g->evicting);
		bb_batch_looked();
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

	(void)bb_sys_munlock((void *)g->staging, BB_BATCH * BB_PAGE_SIZE);
	while (taken && !atomic_load(&g->ctl->closing)) {
		unsigned int max = slots_free();

		bb_lost_look();
		if (!max) {
			if (!await_slot())
				return;
			continue;
		}
		bb_lock(&g->evicting);
		bb_batch_look();
		pick_hinted(true, atomic_load(&g->rw_top), max > PIECE ? PIECE : max);
		taken = ev.batch.n;
		if (ev.batch.n)
			ev.taken_in_round += bb_batch_run(&ev.batch);
		bb_unlock(&g->evicting);
		bb_batch_looked();
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
			bb_batch_kick();
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
