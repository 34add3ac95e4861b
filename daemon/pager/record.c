/* SPDX-License-Identifier: MIT */
/*
 * What a fault took, part by part, when it is over: into the histograms of all
 * and into the program's ring of single ones (trace.c).
 *
 * A fault may come for a page that is under way already, ahead of the program
 * or for another thread. Nothing is done for it, and it ends when the page is
 * here; so that it is seen nevertheless it is noted until then (late).
 */
#include "program.h"
#include "usdt.h"

/* Return: what remains of the fault between its message and t_end beside the parts that are known. */
static void rest_is_other(uint64_t part[BB_PART_TOTAL], uint64_t whole)
{
	uint64_t sum = part[BB_PART_DIRECTORY] + part[BB_PART_GET] + part[BB_PART_EXIT];

	part[BB_PART_OTHER] = whole > sum ? whole - sum : 0;
}

static void over(struct bb_program *p, const struct bb_trace_fault *f)
{
	bb_trace_add(p->trace, f);
	BB_PROBE(fault_done, p->pid, bb_prog_addr(p, f->page), bb_trace_total(f), f->kind, f->node, f->part);
}

void bb_record_local(struct bb_program *p, uint32_t page, uint32_t pages, enum bb_trace_kind kind,
		     const struct bb_fault_at *at, uint64_t t_end)
{
	struct bb_trace_fault f = {
		.t_end = t_end,
		.page = page,
		.pages = pages,
		.kind = kind,
		.part = {
			[BB_PART_ENTER] = at->enter_ns,
			[BB_PART_EXIT] = t_end - at->t_try,
			[BB_PART_OTHER] = at->t_try - at->t,
		},
	};

	over(p, &f);
}

static void whence(const struct bb_fill *f, struct bb_trace_fault *o, uint32_t page)
{
	const struct bb_rx *x = &f->prog->rx[f->rx];

	o->page = page;
	o->pages = f->n;
	o->node = x->node;
	o->ptr = x->ptr + ((uint64_t)(page % BB_EXTENT_PAGES) << BB_PAGE_SHIFT);
}

void bb_record_remote(struct bb_fill *f, enum bb_trace_kind kind, uint64_t t_got, uint64_t t_end)
{
	struct bb_hist *h = f->prog->pager->hist;
	uint64_t sent = f->req.t_sent ? f->req.t_sent : f->t_found;
	uint64_t got = f->req.t_recv ? f->req.t_recv : t_got;
	struct bb_trace_fault o = {
		.t_end = t_end,
		.kind = kind,
		.part = {
			[BB_PART_ENTER] = f->at.enter_ns,
			[BB_PART_DIRECTORY] = f->t_found - f->at.t_try + f->req.looked_ns,
			[BB_PART_GET] = got > sent ? got - sent : 0,
			[BB_PART_EXIT] = t_end - t_got,
		},
	};

	whence(f, &o, f->page);
	rest_is_other(o.part, t_end - f->at.t);
	over(f->prog, &o);
	if (kind != BB_TRACE_REMOTE)
		return;
	for (int i = 0; i < BB_PART_TOTAL; i++)
		bb_hist_add(&h[i], o.part[i]);
	bb_hist_add(&h[BB_PART_TOTAL], bb_trace_total(&o));
}

void bb_record_late(struct bb_program *p, uint32_t page, const struct bb_fault_at *at)
{
	if (p->late_n == BB_LATE)
		return; /* so many threads wait: they are like each other */
	p->late[p->late_n].page = page;
	p->late[p->late_n++].at = *at;
}

void bb_record_landed(struct bb_fill *f, uint32_t page, uint32_t n, uint64_t t_got, uint64_t t_end)
{
	struct bb_program *p = f->prog;
	unsigned int keep = 0;

	for (unsigned int i = 0; i < p->late_n; i++) {
		const struct bb_fault_at *at = &p->late[i].at;
		struct bb_trace_fault o = { .t_end = t_end, .kind = BB_TRACE_PREFETCHED };

		if (p->late[i].page < page || p->late[i].page - page >= n) {
			p->late[keep++] = p->late[i];
			continue;
		}
		if (!t_end)
			continue;
		whence(f, &o, p->late[i].page);
		o.part[BB_PART_ENTER] = at->enter_ns;
		o.part[BB_PART_GET] = t_got > at->t_try ? t_got - at->t_try : 0;
		o.part[BB_PART_EXIT] = t_end - t_got;
		rest_is_other(o.part, t_end - at->t);
		over(p, &o);
	}
	p->late_n = keep;
}
