/* SPDX-License-Identifier: MIT */
/*
 * What a fault means. The kernel tells us an address; the extent and the
 * page's word tell the rest. Every path either installs the page, or starts
 * what will, or leaves the access waiting for an owner that is bound to wake
 * it, or parks it until there is credit.
 */
#include <errno.h>
#include <unistd.h>

#include <bluebridge/kernel.h>

#include "clock.h"
#include "log.h"
#include "program.h"
#include "usdt.h"

#define MSGS 16
#define OPEN_MIN_LIMIT (16 * 1024) /* pages of budget from which opening whole extents pays */
#define STUCK_NS 20000000ULL
#define RING_NS 100000ULL

enum outcome {
	SERVED,
	PARK, /* no credit, or no request free: try again later */
	/* Served as well, and over: the page is there, or never will be. */
	OVER_ZERO,
	OVER_STAGED,
	OVER_OPENED,
	OVER_LOST,
};

static int64_t room(const struct bb_program *p)
{
	/* The program may have written anything there: unsigned, so that it may wrap. */
	return (int64_t)((uint64_t)atomic_load_explicit(&p->ctl->limit, memory_order_relaxed) -
			 (uint64_t)atomic_load_explicit(&p->ctl->resident, memory_order_relaxed));
}

/* Return: false where the fault is over for now, with *o as its outcome. */
static bool claim(struct bb_program *p, uint32_t page, bb_pw w, enum outcome *o)
{
	switch (bb_page_claim(p, page, w)) {
	case BB_CLAIMED:
		return true;
	case BB_CLAIM_CREDIT:
		*o = PARK;
		return false;
	default:
		bb_fill_wake(p, page, 1); /* it faults again, and finds what it is now */
		*o = SERVED;
		return false;
	}
}

/* FRESH: the program reaches memory that it never touched. */
static enum outcome serve_fresh(struct bb_program *p, uint32_t page)
{
	uint32_t e = page / BB_EXTENT_PAGES;
	uint64_t start = bb_prog_addr(p, e * BB_EXTENT_PAGES);
	struct uffdio_range r = { start, BB_EXTENT_SIZE };
	uint8_t fresh = BB_X_FRESH;

	if (p->limit < OPEN_MIN_LIMIT) {
		/* Two megabytes at a time would be too coarse for this budget. */
		if (atomic_compare_exchange_strong(&p->x[e].state, &fresh, BB_X_MANAGED)) {
			atomic_store(&p->x[e].resident, 0);
			bb_fill_wake(p, page, 1); /* faults again, as MANAGED */
		} else {
			bb_fill_wake(p, page, 1);
		}
		return SERVED;
	}
	bb_program_opens(p);
	if (!bb_credit_take(p->ctl, BB_EXTENT_PAGES))
		return PARK;
	atomic_fetch_or(&p->x[e].flags, BB_XF_OPENING);
	if (!atomic_compare_exchange_strong(&p->x[e].state, &fresh, BB_X_SEALING)) {
		atomic_fetch_and(&p->x[e].flags, (uint8_t)~BB_XF_OPENING);
		bb_credit_give(p->ctl, BB_EXTENT_PAGES);
		bb_fill_wake(p, page, 1);
		return SERVED;
	}
	/* From here the kernel fills it, at its own speed and with its own page size. */
	if (ioctl(p->uffd, UFFDIO_UNREGISTER, &r) < 0) {
		bb_warn_once("program %u (%s): cannot open an extent (error %d)", p->pid, p->comm, errno);
		atomic_store(&p->x[e].resident, 0);
		bb_credit_give(p->ctl, BB_EXTENT_PAGES);
		atomic_store(&p->x[e].state, BB_X_MANAGED);
	} else {
		atomic_store(&p->x[e].state, BB_X_LOCAL);
		atomic_fetch_add_explicit(&p->ctl->n_open, 1, memory_order_relaxed);
	}
	atomic_fetch_and(&p->x[e].flags, (uint8_t)~BB_XF_OPENING);
	bb_fill_wake(p, e * BB_EXTENT_PAGES, BB_EXTENT_PAGES);
	return OVER_OPENED;
}

/* EMPTY: zeros, and the next ones too where the program walks upwards. */
static enum outcome serve_empty(struct bb_program *p, uint32_t page, bb_pw w, uint32_t *pages)
{
	uint32_t n = 1, max = 1, end = (page / BB_EXTENT_PAGES + 1) * BB_EXTENT_PAGES;
	int64_t low = atomic_load_explicit(&p->ctl->low, memory_order_relaxed);
	enum outcome o;

	if (!claim(p, page, w, &o))
		return o;
	if (page % BB_EXTENT_PAGES && bb_pw_state(atomic_load(&p->pw[page - 1])) == BB_P_RESIDENT &&
	    room(p) > low / 2)
		max = BB_ZERO_RUN;
	for (; n < max && page + n < end; n++) {
		bb_pw v = atomic_load(&p->pw[page + n]);

		if (bb_pw_state(v) != BB_P_EMPTY || bb_page_claim(p, page + n, v) != BB_CLAIMED)
			break;
	}
	bb_fill_install(p, page, n, NULL, BB_P_EMPTY, 0, BB_PW_HASHED | BB_PW_RX);
	atomic_fetch_add_explicit(&p->ctl->n_fill_zero, n, memory_order_relaxed);
	*pages = n;
	return OVER_ZERO;
}

/* STAGED: the second chance. */
static enum outcome serve_staged(struct bb_program *p, uint32_t page, bb_pw w)
{
	uint32_t slot = bb_pw_slot(w);
	enum outcome o;

	if (slot >= p->nslots) {
		bb_fill_lost(p, page, "(damaged page table)", 0);
		return OVER_LOST;
	}
	if (!claim(p, page, w, &o))
		return o;
	bb_fill_install(p, page, 1, p->stage + ((size_t)slot << BB_PAGE_SHIFT), BB_P_STAGED, 0, 0);
	atomic_fetch_add_explicit(&p->ctl->n_fill_staged, 1, memory_order_relaxed);
	return OVER_STAGED;
}

static enum outcome serve_remote(struct bb_program *p, uint32_t page, bb_pw w, const struct bb_fault_at *at)
{
	uint32_t said = bb_pw_rx(w), rx = bb_copy_read(p, said, page);
	enum outcome o;

	if (!p->pager->free_fills)
		return PARK;
	if (!claim(p, page, w, &o))
		return o;
	if (!rx) {
		bb_fill_lost(p, page, "is gone, and with it what it held", said < p->nrx ? p->rx[said].node : 0);
		return OVER_LOST;
	}
	if (!bb_copy_other(p, rx) && bb_fill_hopeless(p->pager, p->rx[rx].node)) {
		bb_fill_lost(p, page, "has been silent for longer than a fault may wait", p->rx[rx].node);
		return OVER_LOST;
	}
	bb_fill_remote(p, page, 1, rx, at, bb_now_ns());
	if (at->last)
		bb_net_flush(p->pager->net);
	if (p->pager->cfg.prefetch && !p->no_prefetch)
		bb_prefetch_fault(p, page, at->thread);
	return SERVED;
}

/* RESIDENT, yet missing: a late message, or discarded behind our back. */
static enum outcome serve_resident(struct bb_program *p, uint32_t page, bb_pw w)
{
	if (!atomic_compare_exchange_strong(&p->pw[page], &w, bb_pw_filling(w))) {
		bb_fill_wake(p, page, 1);
		return SERVED;
	}
	/* Its credit is taken already; install counts it in again. */
	atomic_fetch_sub(&p->x[page / BB_EXTENT_PAGES].resident, 1);
	bb_fill_install(p, page, 1, NULL, BB_P_EMPTY, 0, 0);
	return OVER_ZERO;
}

/* Return: what there is to record of it in the end. */
static enum outcome handle(struct bb_program *p, uint32_t page, const struct bb_fault_at *at, uint32_t *pages)
{
	uint32_t e = page / BB_EXTENT_PAGES;
	bb_pw w;

	switch (atomic_load_explicit(&p->x[e].state, memory_order_acquire)) {
	case BB_X_MANAGED:
		break;
	case BB_X_FRESH:
		return serve_fresh(p, page);
	case BB_X_SEALING:
		return SERVED; /* the helper wakes the whole extent when it is done */
	case BB_X_LOCAL:
		bb_fill_wake(p, page, 1);
		return SERVED;
	default: {
		/* Not allocated: a stray access. It sees zeros, as in any arena. */
		struct uffdio_zeropage z = { .range = { bb_prog_addr(p, page), BB_PAGE_SIZE } };

		if (ioctl(p->uffd, UFFDIO_ZEROPAGE, &z) < 0)
			bb_fill_wake(p, page, 1);
		return SERVED;
	}
	}
	for (;;) {
		w = atomic_load(&p->pw[page]);
		switch (bb_pw_state(w)) {
		case BB_P_EMPTY:
			return serve_empty(p, page, w, pages);
		case BB_P_STAGED:
			return serve_staged(p, page, w);
		case BB_P_REMOTE:
			return serve_remote(p, page, w, at);
		case BB_P_RESIDENT:
			return serve_resident(p, page, w);
		case BB_P_FILLING:
			bb_record_late(p, page, at);
			return SERVED; /* our own fill wakes it */
		case BB_P_EVICTING:
		case BB_P_DROPPING:
			if (!atomic_compare_exchange_strong(&p->pw[page], &w, w | BB_PW_WAIT))
				continue;
			return SERVED;
		case BB_P_LOST:
			if (w & BB_PW_WAIT)
				return SERVED; /* the helper is about to map it, and wakes */
			/* Without the mark: a bbd that was killed in between, or the kernel had no memory. */
			bb_fill_poison(p, page);
			return SERVED;
		default:
			bb_fill_lost(p, page, "(damaged page table)", 0);
			return OVER_LOST;
		}
	}
}

static enum outcome serve(struct bb_program *p, uint32_t page, const struct bb_fault_at *at)
{
	static const enum bb_trace_kind kind[] = {
		[OVER_ZERO] = BB_TRACE_ZERO,
		[OVER_STAGED] = BB_TRACE_STAGED,
		[OVER_OPENED] = BB_TRACE_OPENED,
		[OVER_LOST] = BB_TRACE_LOST,
	};
	uint32_t pages = 1;
	enum outcome o = handle(p, page, at, &pages);
	uint64_t t_end;

	if (o == SERVED || o == PARK)
		return o;
	t_end = bb_now_ns();
	if (o == OVER_OPENED)
		pages = BB_EXTENT_PAGES;
	else if (o != OVER_LOST)
		bb_hist_add(&p->pager->hist_local, t_end - at->t);
	bb_record_local(p, page, pages, kind[o], at, t_end);
	return SERVED;
}

static void park(struct bb_program *p, uint32_t page, const struct bb_fault_at *at)
{
	uint32_t to = (p->parked_head + p->parked_n) % BB_PARKED;

	p->parked[to].page = page;
	p->parked[to].at = *at;
	p->parked_n++;
	BB_PROBE(fault_parked, p->pid, bb_prog_addr(p, page), p->parked_n);
	bb_program_ring(p);
}

int bb_fault_unpark(struct bb_program *p)
{
	bool raised = false;
	int went = 0;

	while (p->parked_n) {
		uint32_t page = p->parked[p->parked_head].page;
		struct bb_fault_at *at = &p->parked[p->parked_head].at;

		at->t_try = bb_now_ns();
		if (serve(p, page, at) == PARK) {
			uint64_t age = at->t_try - at->t, missing;
			int64_t n = atomic_load(&p->x[page / BB_EXTENT_PAGES].state) == BB_X_FRESH ? BB_EXTENT_PAGES
												   : 1;

			/* It may have fallen asleep just before it could be rung; but not in each round. */
			if (p->pager->now - p->rung_at > RING_NS) {
				p->rung_at = p->pager->now;
				bb_program_ring(p);
			}
			/*
			 * Nothing can be taken out: everything is pinned, or no
			 * host has room. Better over the budget than stuck.
			 */
			if (!(atomic_load(&p->ctl->stuck) && age > STUCK_NS) && age < p->pager->cfg.deadline_ns)
				return went;
			bb_warn_once("program %u (%s): nothing of its memory can be moved out: it goes over its budget",
				     p->pid, p->comm);
			/* By steps: a program that locks its memory would crawl page by page. */
			missing = BB_EXTENT_PAGES - (uint64_t)room(p);
			if (room(p) >= n || raised)
				return went;
			raised = true; /* once a call: what it says it has may change meanwhile */
			bb_program_over(p, (int64_t)missing);
			continue;
		}
		p->parked_head = (p->parked_head + 1) % BB_PARKED;
		p->parked_n--;
		went++;
	}
	return went;
}

int bb_fault_poll(struct bb_program *p)
{
	struct uffd_msg msg[MSGS];
	uint64_t t0 = p->pager->now;
	struct bb_fault_at at;
	ssize_t n;
	int i, got;

	/* Leave messages with the kernel while there is nowhere to park them. */
	if (p->parked_n > BB_PARKED - MSGS)
		return 0;
	n = bb_program_read(p->uffd, msg, sizeof(msg));
	p->ready = n == (ssize_t)sizeof(msg); /* there may be more */
	if (n <= 0)
		return 0;
	at.t = at.t_try = bb_now_ns();
	at.enter_ns = at.t - t0;
	p->pager->now = at.t;
	bb_rest_fault(p->pager, at.t);
	bb_trace_soon(p->trace);
	got = (int)((size_t)n / sizeof(msg[0]));
	for (i = 0; i < got; i++) {
		uint64_t addr, off;
		uint32_t page;

		/* It asked for events that we have no use for; a fork brings a descriptor. */
		if (msg[i].event == UFFD_EVENT_FORK)
			close((int)msg[i].arg.fork.ufd);
		if (msg[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		addr = msg[i].arg.pagefault.address & ~BB_PAGE_MASK;
		off = addr - p->base;
		if (addr < p->base || off >= (uint64_t)p->npages << BB_PAGE_SHIFT) {
			/* The helper's staging range: nobody has business there. */
			struct uffdio_zeropage z = { .range = { addr, BB_PAGE_SIZE } };

			ioctl(p->uffd, UFFDIO_ZEROPAGE, &z);
			continue;
		}
		page = (uint32_t)(off >> BB_PAGE_SHIFT);
		/* Cold, all of them, and needed one after the other. */
		__builtin_prefetch(&p->pw[page], 1);
		__builtin_prefetch(&p->hash[page]);
		__builtin_prefetch(&p->x[page / BB_EXTENT_PAGES], 1);
		atomic_fetch_add_explicit(&p->ctl->n_fault, 1, memory_order_relaxed);
		at.thread = msg[i].arg.pagefault.feat.ptid;
		at.last = i == got - 1;
		BB_PROBE(fault_received, p->pid, addr, at.enter_ns);
		/* Parked ones go first, or a storm could starve them. */
		if (i)
			at.t_try = bb_now_ns();
		if (p->parked_n || serve(p, page, &at) == PARK)
			park(p, page, &at);
	}
	bb_program_opens_poll(p);
	if (room(p) < atomic_load_explicit(&p->ctl->low, memory_order_relaxed))
		bb_program_ring(p);
	return got;
}
