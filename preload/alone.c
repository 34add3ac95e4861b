/* SPDX-License-Identifier: MIT */
/*
 * bbd has ended while the program lives. Nothing may hang: the helper serves
 * the faults from what is still in this process. Zeros and staged pages come
 * as ever; a page whose only copy was at a home raises SIGBUS, and one message
 * says so. New memory is local from then on.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "log.h"
#include "private.h"

bool bb_alone_check(void)
{
	char c;
	ssize_t n;
	int keep = errno;

	if (bb_rg.attached == BB_ALONE)
		return true;
	n = recv(bb_rg.sock, &c, 1, MSG_PEEK | MSG_DONTWAIT);
	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) {
		errno = keep;
		return false;
	}
	errno = keep;
	bb_error("bbd has ended: what it keeps on other hosts cannot be reached (SIGBUS on access); "
		 "new memory is local");
	return true;
}

static void poison(uint32_t page)
{
	struct uffdio_poison p = { .range = { bb_addr_of(page), BB_PAGE_SIZE } };

	if (ioctl(bb_rg.uffd, UFFDIO_POISON, &p) < 0)
		bb_pages_wake(page, 1);
	atomic_fetch_add_explicit(&bb_rg.ctl->n_lost, 1, memory_order_relaxed);
}

static void fill(uint32_t page, const void *data)
{
	struct uffdio_copy c = { .dst = bb_addr_of(page), .src = (uintptr_t)data, .len = BB_PAGE_SIZE };
	struct uffdio_zeropage z = { .range = { bb_addr_of(page), BB_PAGE_SIZE } };

	if ((data ? ioctl(bb_rg.uffd, UFFDIO_COPY, &c) : ioctl(bb_rg.uffd, UFFDIO_ZEROPAGE, &z)) < 0)
		bb_pages_wake(page, 1);
}

/* Is the page's latest content in this slot? */
static bool slot_holds(bb_pw w, uint32_t page)
{
	uint64_t head = atomic_load(&bb_rg.ctl->stage_head), tail = atomic_load(&bb_rg.ctl->stage_tail);
	uint32_t slot = bb_pw_slot(w);

	return slot < bb_rg.nslots && ((slot - tail) & (bb_rg.nslots - 1)) < head - tail &&
	       atomic_load(&bb_rg.slots[slot].page) == page;
}

static bool is_mapped(uint32_t page)
{
	unsigned char vec = 0;

	return syscall(SYS_mincore, bb_addr_of(page), BB_PAGE_SIZE, &vec) == 0 && (vec & 1);
}

static void serve(uint32_t page)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw);

	if (bb_xstate(page / BB_EXTENT_PAGES) != BB_X_MANAGED) {
		fill(page, NULL);
		return;
	}
	switch (bb_pw_state(w)) {
	case BB_P_FILLING: /* bbd ended in the middle */
		if (is_mapped(page)) {
			bb_pages_wake(page, 1);
			break;
		}
		if (slot_holds(w, page)) {
			fill(page, bb_rg.stage + ((size_t)bb_pw_slot(w) << BB_PAGE_SHIFT));
			break;
		}
		if (w & BB_PW_HASHED) {
			poison(page);
			atomic_store(pw, bb_pw_with(w, BB_P_LOST));
			return;
		}
		fill(page, NULL);
		break;
	case BB_P_STAGED:
		fill(page, bb_rg.stage + ((size_t)(bb_pw_slot(w) & (bb_rg.nslots - 1)) << BB_PAGE_SHIFT));
		break;
	case BB_P_REMOTE:
	case BB_P_LOST:
		poison(page);
		atomic_store(pw, bb_pw_with(w, BB_P_LOST));
		return;
	case BB_P_DROPPING:
	case BB_P_EVICTING:
		bb_pages_wake(page, 1);
		return;
	default:
		fill(page, NULL);
		break;
	}
	atomic_store(pw, bb_pw_with_gen(BB_P_RESIDENT, 0));
}

void bb_alone_serve(void)
{
	struct bb_region *g = &bb_rg;
	struct uffd_msg m;

	bb_lock(&g->lock);
	g->attached = BB_ALONE;
	bb_unlock(&g->lock);
	/* Whoever faulted while nobody listened is asked to fault again. */
	bb_pages_wake(0, (g->runs.top + BB_EXTENT_PAGES - 1) / BB_EXTENT_PAGES * BB_EXTENT_PAGES);
	while (!atomic_load(&g->ctl->closing)) {
		struct pollfd p = { .fd = g->uffd, .events = POLLIN };

		if (poll(&p, 1, 1000) <= 0)
			continue;
		while (read(g->uffd, &m, sizeof(m)) == sizeof(m)) {
			uint64_t addr = m.arg.pagefault.address & ~BB_PAGE_MASK;

			if (m.event == UFFD_EVENT_PAGEFAULT && bb_region_has((void *)(uintptr_t)addr))
				serve(bb_page_of(addr));
		}
	}
}
