/* SPDX-License-Identifier: MIT */
/*
 * The locks of libbb.so, and what happens where they cannot be taken.
 *
 * Theory of operation
 * -------------------
 * mmap, munmap, madvise and mprotect are system calls to a program: its signal
 * handlers may call them at any point, also where the handler has interrupted
 * this very thread while it holds bb_rg.lock. To wait would be for ever. So a
 * thread notes that it is inside (before it takes the lock, until after it has
 * left it), and a call that finds itself there is served without the lock: new
 * memory comes from the kernel; memory that is given back is noted, and freed
 * by the interrupted call as soon as that has left the lock. To block signals
 * instead would cost two system calls for each allocation.
 *
 * A process that a clone(2) past the C library has made, or _Fork(), has none
 * of the paged memory, but thinks that it is attached. A page that the kernel
 * empties in every new process (MADV_WIPEONFORK) tells: see bb_orphan_check().
 */
#include <errno.h>
#include <sys/mman.h>

#include "clock.h"
#include "log.h"
#include "private.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#define LATER 16u
#define SECOND 1000000000ULL

/* Of this thread; its signal handlers see them, too. */
static __thread volatile int inside;
static __thread volatile bool draining;
static __thread volatile unsigned int later_head, later_tail;
static __thread struct {
	uint32_t first, n;
} later[LATER];

static _Atomic uint32_t *here; /* 1 in the process that set it, 0 in others */

bool bb_lock_inside(void)
{
	return inside;
}

bool bb_release_later(uint32_t first, uint32_t n)
{
	unsigned int head = later_head;

	if (head - later_tail == LATER) {
		bb_warn_once("a signal handler gives back more memory than can be noted: the rest stays allocated");
		return false;
	}
	later[head % LATER].first = first;
	later[head % LATER].n = n;
	atomic_signal_fence(memory_order_seq_cst);
	later_head = head + 1;
	return true;
}

static bool take_until(struct bb_lock *l, uint64_t deadline)
{
	uint32_t v = 0;

	if (atomic_compare_exchange_strong(&l->v, &v, 1))
		return true;
	while (atomic_exchange(&l->v, 2) != 0) {
		const uint64_t now = bb_now_ns();

		if (now >= deadline)
			return false;
		bb_futex_wait(&l->v, 2, deadline - now < SECOND ? deadline - now : SECOND);
	}
	return true;
}

static void take(struct bb_lock *l)
{
	(void)take_until(l, UINT64_MAX);
}

static void leave(struct bb_lock *l)
{
	if (atomic_exchange(&l->v, 0) == 2)
		bb_futex_wake(&l->v, 1);
}

void bb_lock(struct bb_lock *l)
{
	if (l == &bb_rg.lock) {
		inside++;
		atomic_signal_fence(memory_order_seq_cst);
	}
	take(l);
	if (l == &bb_rg.lock)
		bb_orphan_check();
}

bool bb_region_lock_for(uint64_t ns)
{
	inside++;
	atomic_signal_fence(memory_order_seq_cst);
	if (take_until(&bb_rg.lock, bb_now_ns() + ns)) {
		bb_orphan_check();
		return true;
	}
	atomic_signal_fence(memory_order_seq_cst);
	inside--;
	return false;
}

void bb_unlock(struct bb_lock *l)
{
	leave(l);
	if (l != &bb_rg.lock)
		return;
	atomic_signal_fence(memory_order_seq_cst);
	inside--;
	while (later_tail != later_head && !inside && !draining) {
		/* A handler may come in between and add to it; it does not drain. */
		draining = true;
		inside++;
		atomic_signal_fence(memory_order_seq_cst);
		take(l);
		while (later_tail != later_head) {
			unsigned int at = later_tail % LATER;

			if (bb_rg.attached != BB_CHILD)
				bb_region_release(later[at].first, later[at].n);
			later_tail++;
		}
		leave(l);
		atomic_signal_fence(memory_order_seq_cst);
		inside--;
		draining = false;
	}
}

/* --- processes that nobody told us of -------------------------------------- */

int bb_orphan_mark(void)
{
	void *p;

	if (!here) {
		p = bb_sys_mmap(NULL, BB_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return -ENOMEM;
		(void)bb_sys_madvise(p, BB_PAGE_SIZE, MADV_WIPEONFORK);
		here = p;
	}
	atomic_store(here, 1);
	return 0;
}

void bb_orphan_check(void)
{
	if (!here || atomic_load_explicit(here, memory_order_relaxed) ||
	    (bb_rg.attached != BB_ATTACHED && bb_rg.attached != BB_ALONE))
		return;
	bb_region_disown();
	bb_warn("this process was made past fork(): it does not see memory that is paged (SIGSEGV on access)");
}

void bb_region_forbid(void)
{
	struct bb_region *g = &bb_rg;

	for (uint32_t e = 0; e < g->rw_top; e++)
		if (bb_xstate(e) != BB_X_LOCAL)
			(void)bb_sys_mprotect((void *)bb_addr_of((uint64_t)e * BB_EXTENT_PAGES), BB_EXTENT_SIZE,
					      PROT_NONE);
}

void bb_region_disown(void)
{
	bb_rg.attached = BB_CHILD;
	bb_region_min = SIZE_MAX;
}
