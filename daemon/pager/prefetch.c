/* SPDX-License-Identifier: MIT */
/*
 * Pages fetched ahead: those to which the program walks (stream.c), and those
 * that it has asked for (MADV_WILLNEED). Nobody waits for them, so they take no
 * more than what is there to be had: of the budget not the last pages that are
 * kept ready for faults, of the requests not the last ones.
 */
#include "clock.h"
#include "program.h"

#define WINDOWS 32	/* no window is more than one such part of the budget */
#define SPARE_FILLS 8u	/* requests left to faults */
#define WANT_PAGES 256u /* looked at in a round, of a range that was asked for */
#define UNSTAGE 8u	/* one that is copied in counts as so many that are only looked at */
#define WANT_NS 2000000000ULL
#define GAP 2 /* pages behind a walk that it may not be done with */

/* A run in the making: pages that are FILLING, one after the other, from one home extent. */
struct run {
	struct bb_program *p;
	uint32_t page, n, rx;
	uint32_t asked;	/* pages for which requests were sent */
	uint64_t now;
};

static bool has_room(const struct bb_program *p)
{
	const int64_t low = atomic_load_explicit(&p->ctl->low, memory_order_relaxed);

	return (int64_t)((uint64_t)atomic_load_explicit(&p->ctl->limit, memory_order_relaxed) -
			 (uint64_t)atomic_load_explicit(&p->ctl->resident, memory_order_relaxed)) >= low / 2 + 1;
}

static void run_end(struct run *r)
{
	if (r->n && bb_fill_remote(r->p, r->page, r->n, r->rx, NULL, r->now) < 0) {
		for (uint32_t i = 0; i < r->n; i++) {
			bb_word_leave(r->p, r->page + i, BB_P_REMOTE, 0);
			bb_credit_give(r->p->ctl, 1);
			bb_fill_wake(r->p, r->page + i, 1);
		}
	} else {
		r->asked += r->n;
	}
	r->n = 0;
}

/* Fetches the page if it is remote. Return: false where there is no room for more. */
static bool run_add(struct run *r, uint32_t page)
{
	struct bb_program *p = r->p;
	bb_pw w = atomic_load(&p->pw[page]);
	uint32_t rx = bb_pw_state(w) == BB_P_REMOTE ? bb_copy_read(p, bb_pw_rx(w), page) : 0;

	if (!rx)
		return true;
	if (!has_room(p))
		return false;
	if (r->n && (rx != r->rx || r->n == BB_RUN_PAGES_MAX || r->page + r->n != page))
		run_end(r);
	if (!r->n && p->pager->fills_due + SPARE_FILLS >= BB_FILLS)
		return false;
	switch (bb_page_claim(p, page, w)) {
	case BB_CLAIM_CREDIT:
		return false;
	case BB_CLAIM_CHANGED:
		return true;
	case BB_CLAIMED:
		break;
	}
	if (!r->n) {
		r->page = page;
		r->rx = rx;
	}
	r->n++;
	return true;
}

/* --- streams -------------------------------------------------------------- */

/* What the program has said of the page's extent. */
static uint8_t hints_at(const struct bb_program *p, uint32_t page)
{
	return atomic_load_explicit(&p->x[page / BB_EXTENT_PAGES].flags, memory_order_relaxed);
}

static bool is_managed(const struct bb_program *p, uint32_t page)
{
	return atomic_load_explicit(&p->x[page / BB_EXTENT_PAGES].state, memory_order_acquire) == BB_X_MANAGED;
}

static void fetch_ahead(struct bb_program *p, uint32_t page, struct bb_stream *s)
{
	struct run r = { .p = p, .now = bb_now_ns() };
	const int64_t most = p->limit / WINDOWS;
	uint32_t k, extent = page / BB_EXTENT_PAGES;

	for (k = 1; k <= s->window && k <= most; k++) {
		int64_t q = (int64_t)page + (int64_t)s->stride * k;

		if (q < 0 || q >= p->npages)
			break;
		if ((uint32_t)q / BB_EXTENT_PAGES != extent || k == 1) {
			extent = (uint32_t)q / BB_EXTENT_PAGES;
			if (!is_managed(p, (uint32_t)q) || (hints_at(p, (uint32_t)q) & BB_XF_RANDOM))
				break;
		}
		if (!run_add(&r, (uint32_t)q))
			break;
	}
	run_end(&r);
	bb_stream_covered(&p->pf.streams, s, page, k - 1, r.asked);
}

/* The program walks, and has said that it will not come back soon: what it has passed goes first. */
static void leave_behind(struct bb_program *p, uint32_t page, int32_t stride)
{
	bool any = false;

	for (int64_t k = GAP; k < GAP + (int64_t)BB_WINDOW_MAX; k++) {
		const int64_t q = (int64_t)page - stride * k;
		bb_pw w;

		if (q < 0 || q >= p->npages || !is_managed(p, (uint32_t)q) ||
		    !(hints_at(p, (uint32_t)q) & BB_XF_SEQUENTIAL))
			break;
		w = atomic_load_explicit(&p->pw[q], memory_order_relaxed);
		if (bb_pw_state(w) != BB_P_RESIDENT || (w & BB_PW_COLD) ||
		    !atomic_compare_exchange_strong(&p->pw[q], &w, w | BB_PW_COLD))
			continue;
		if (!(hints_at(p, (uint32_t)q) & BB_XF_COLD))
			atomic_fetch_or(&p->x[q / BB_EXTENT_PAGES].flags, BB_XF_COLD);
		any = true;
	}
	if (any && !atomic_load_explicit(&p->ctl->cold, memory_order_relaxed))
		atomic_store(&p->ctl->cold, 1);
}

void bb_prefetch_fault(struct bb_program *p, uint32_t page, uint32_t thread)
{
	const uint8_t hints = hints_at(p, page);
	struct bb_stream *s;

	if (hints & BB_XF_RANDOM)
		return;
	s = bb_stream_fault(&p->pf.streams, thread, page, hints & BB_XF_SEQUENTIAL);
	if (p->pf.streams.unused) {
		atomic_fetch_add_explicit(&p->ctl->n_unused, p->pf.streams.unused, memory_order_relaxed);
		p->pf.streams.unused = 0;
	}
	if (!s)
		return;
	fetch_ahead(p, page, s);
	if (hints & BB_XF_SEQUENTIAL)
		leave_behind(p, page, s->stride);
}

/* --- what was asked for ---------------------------------------------------- */

static void take_asked(struct bb_program *p)
{
	struct bb_prefetch *f = &p->pf;
	const bool off = !p->pager->cfg.prefetch || p->no_prefetch;

	atomic_store(&p->ctl->asked, 0);
	for (unsigned int i = 0; i < BB_ASKS && f->nwant < BB_WANTS; i++) {
		/* Anything may stand there. */
		const uint64_t v = atomic_exchange(&p->ctl->ask[i], 0);
		const uint32_t page = (uint32_t)(v >> 32);
		uint32_t n = (uint32_t)v;

		if (!v || off || page >= p->npages)
			continue;
		if (n > p->npages - page)
			n = p->npages - page;
		f->want[f->nwant].page = page;
		f->want[f->nwant].n = n;
		f->want[f->nwant].left = p->limit / 2;
		f->want[f->nwant++].until = p->pager->now + WANT_NS;
	}
	/* There may be more than is taken at a time. */
	if (f->nwant == BB_WANTS)
		atomic_store(&p->ctl->asked, 1);
}

/* STAGED: it is on its way out, and comes back from the ring. */
static void unstage(struct bb_program *p, uint32_t page, bb_pw w)
{
	const uint32_t slot = bb_pw_slot(w);

	if (slot >= p->nslots || bb_page_claim(p, page, w) != BB_CLAIMED)
		return;
	bb_fill_install(p, page, 1, p->stage + ((size_t)slot << BB_PAGE_SHIFT), BB_P_STAGED, BB_PW_PREFETCH, 0);
	atomic_fetch_add_explicit(&p->ctl->n_prefetch, 1, memory_order_relaxed);
}

int bb_prefetch_poll(struct bb_program *p)
{
	struct bb_prefetch *f = &p->pf;
	struct run r = { .p = p, .now = p->pager->now };
	uint32_t page, n, looked = 0;
	bool room = true;

	if (f->nwant < BB_WANTS)
		take_asked(p);
	if (!f->nwant)
		return 0;
	page = f->want[0].page;
	n = f->want[0].n;
	while (n && looked++ < WANT_PAGES && room) {
		bb_pw w;

		if (!is_managed(p, page)) {
			const uint32_t rest = BB_EXTENT_PAGES - page % BB_EXTENT_PAGES;

			page += rest < n ? rest : n;
			n -= rest < n ? rest : n;
			continue;
		}
		w = atomic_load(&p->pw[page]);
		if (bb_pw_state(w) == BB_P_STAGED) {
			room = has_room(p);
			if (room)
				unstage(p, page, w);
			looked += UNSTAGE - 1;
		} else {
			room = run_add(&r, page);
		}
		if (room) {
			page++;
			n--;
		}
	}
	run_end(&r);
	f->want[0].page = page;
	f->want[0].n = n;
	/* What there is no room for within that time was asked for in vain. */
	f->want[0].left -= r.asked;
	for (unsigned int i = 0; r.asked && i < f->nwant; i++)
		f->want[i].until = p->pager->now + WANT_NS;
	if (!n || f->want[0].left <= 0 || p->pager->now > f->want[0].until) {
		f->nwant--;
		for (unsigned int i = 0; i < f->nwant; i++)
			f->want[i] = f->want[i + 1];
	}
	if (!room && !has_room(p))
		bb_program_ring(p);
	return (int)r.asked + (looked > WANT_PAGES);
}
