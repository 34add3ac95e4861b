/* SPDX-License-Identifier: MIT */
/*
 * bbd has ended for good while the program lives, and recover.c has undone what
 * it left half done. Nothing may hang: the helper serves the faults from what
 * is still in this process. Zeros and staged pages come as ever; a page whose
 * only copy was at a home raises SIGBUS, and one message says so. New memory is
 * local from then on.
 */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "log.h"
#include "private.h"

static void poison(uint32_t page)
{
	struct uffdio_poison p = { .range = { bb_addr_of(page), BB_PAGE_SIZE } };

	if (!(bb_rg.features & UFFD_FEATURE_POISON)) {
		bb_lost_put(page);
		bb_pages_wake(page, 1);
	} else if (ioctl(bb_rg.uffd, UFFDIO_POISON, &p) < 0)
		bb_pages_wake(page, 1);
	atomic_fetch_add_explicit(&bb_rg.ctl->n_lost, 1, memory_order_relaxed);
}

/* Return: the page is there, and who waits for it is woken. */
static bool fill(uint32_t page, const void *data)
{
	struct uffdio_copy c = { .dst = bb_addr_of(page), .src = (uintptr_t)data, .len = BB_PAGE_SIZE };
	struct uffdio_zeropage z = { .range = { bb_addr_of(page), BB_PAGE_SIZE } };

	if ((data ? ioctl(bb_rg.uffd, UFFDIO_COPY, &c) : ioctl(bb_rg.uffd, UFFDIO_ZEROPAGE, &z)) == 0)
		return true;
	if (errno != EEXIST)
		return false;
	/* It came without a wake-up (see daemon/pager/relay.c), or by somebody else. */
	bb_pages_wake(page, 1);
	return true;
}

/* FILLING while it is in our hands: threads of the program may drop it. */
static void serve(uint32_t page)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw);
	const void *data = NULL;

	if (bb_xstate(page / BB_EXTENT_PAGES) != BB_X_MANAGED) {
		if (!fill(page, NULL))
			bb_pages_wake(page, 1);
		return;
	}
	switch (bb_pw_state(w)) {
	case BB_P_FILLING: /* recover.c has left none */
	case BB_P_DROPPING:
	case BB_P_EVICTING:
		goto again;
	default:
		break;
	}
	if (!atomic_compare_exchange_strong(pw, &w, bb_pw_filling(w)))
		goto again;
	if (bb_pw_state(w) == BB_P_REMOTE || bb_pw_state(w) == BB_P_LOST) {
		poison(page);
		atomic_store(pw, bb_pw_with(w, BB_P_LOST));
		return;
	}
	if (bb_pw_state(w) == BB_P_STAGED)
		data = bb_rg.stage + ((size_t)(bb_pw_slot(w) & (bb_rg.nslots - 1)) << BB_PAGE_SHIFT);
	if (fill(page, data)) {
		atomic_store(pw, bb_pw_with_gen(BB_P_RESIDENT, 0));
		return;
	}
	atomic_store(pw, w); /* no memory now: what it holds is still there */
again:
	bb_pages_wake(page, 1);
}

void bb_alone_serve(void)
{
	struct bb_region *g = &bb_rg;
	struct uffd_msg m;

	if (g->attached == BB_CHILD)
		return;
	bb_error("bbd has ended: what it keeps on other hosts cannot be reached (SIGBUS on access); "
		 "new memory is local");
	bb_lock(&g->lock);
	g->attached = BB_ALONE;
	bb_unlock(&g->lock);
	/* Whoever faulted while nobody listened is asked to fault again. */
	bb_pages_wake(0, g->rw_top * BB_EXTENT_PAGES);
	while (!atomic_load(&g->ctl->closing)) {
		struct pollfd p = { .fd = g->uffd, .events = POLLIN };

		if (poll(&p, 1, 1000) <= 0) {
			if (bb_last_thread())
				return;
			continue;
		}
		while (read(g->uffd, &m, sizeof(m)) == sizeof(m)) {
			uint64_t addr = m.arg.pagefault.address & ~BB_PAGE_MASK;

			if (m.event == UFFD_EVENT_PAGEFAULT && bb_region_has((void *)(uintptr_t)addr))
				serve(bb_page_of(addr));
		}
	}
}
