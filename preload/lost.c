/* SPDX-License-Identifier: MIT */
/*
 * A page that cannot be had, on kernels without UFFDIO_POISON (before 6.6): in
 * its place a page beyond the end of an empty file is mapped, so that the access
 * raises SIGBUS. Such pages merge with their neighbours of the same kind.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "fds.h"
#include "log.h"
#include "private.h"

static uint64_t seen; /* n_lost when we last looked */
static int nothing = -1; /* an empty memfd */

void bb_lost_put(uint32_t page)
{
	void *at = (void *)bb_addr_of(page);
	int r;

	if (nothing < 0) {
		nothing = memfd_create("bluebridge-lost", MFD_CLOEXEC);
		r = nothing < 0 ? -1 : bb_fd_hide(nothing);
		nothing = r < 0 ? nothing : r;
	}
	if (nothing < 0 || bb_sys_mmap(at, BB_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, nothing,
				       (int64_t)page << BB_PAGE_SHIFT) == MAP_FAILED) {
		/* Neither waiting for ever nor wrong bytes. */
		bb_error("the content of page %p is lost, and nothing can be mapped there to say so (%s): "
			 "the program ends (raise vm.max_map_count?)", at, strerrordesc_np(errno));
		abort();
	}
	(void)bb_sys_madvise(at, BB_PAGE_SIZE, MADV_DONTFORK);
}

void bb_lost_undo(uint32_t page)
{
	void *at = (void *)bb_addr_of(page);
	int r;

	if (bb_sys_mmap(at, BB_PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
		bb_error("lost page %p cannot be mapped anew (%s): SIGBUS on access", at, strerrordesc_np(errno));
		return;
	}
	r = bb_pages_register(page, 1);
	if (r < 0)
		bb_error("lost page %p cannot be paged again (error %d): it stays local", at, -r);
	/* What was stored before it was registered is a store to freed memory. */
	(void)bb_sys_madvise(at, BB_PAGE_SIZE, MADV_DONTNEED);
}

void bb_lost_begin(void)
{
	seen = UINT64_MAX; /* a fork child finds the books as they are */
}

/* bbd says LOST and WAIT; the rest is for us. EVICTING, so that nobody drops the page meanwhile. */
static void look_at(uint32_t page)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw);

	if (bb_pw_state(w) != BB_P_LOST || !(w & BB_PW_WAIT) ||
	    !atomic_compare_exchange_strong(pw, &w, bb_pw_with(w, BB_P_EVICTING)))
		return;
	bb_lost_put(page);
	w = atomic_load(pw);
	while (!atomic_compare_exchange_weak(pw, &w, bb_pw_with(w & ~BB_PW_WAIT, BB_P_LOST)))
		;
	bb_pages_wake(page, 1);
}

void bb_lost_look(void)
{
	struct bb_region *g = &bb_rg;
	uint64_t n = atomic_load(&g->ctl->n_lost);

	if (g->features & UFFD_FEATURE_POISON || n == seen)
		return;
	seen = n;
	bb_lock(&g->evicting);
	for (uint32_t e = 0; e < g->rw_top; e++)
		for (uint32_t i = 0; bb_xstate(e) == BB_X_MANAGED && i < BB_EXTENT_PAGES; i++)
			look_at(e * BB_EXTENT_PAGES + i);
	bb_unlock(&g->evicting);
}
