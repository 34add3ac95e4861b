/* SPDX-License-Identifier: MIT */
/*
 * The staging ring, as bbd sees it: dirty slots are written to their homes in
 * batches, and slots are freed from the tail once their page is safe there.
 *
 * What makes this right:
 * - WB is set in a page's word while a write of it is under way, and no second
 *   write of it starts meanwhile: two versions never race on the wire.
 * - HASHED is cleared before the write leaves and set, with the hash of what
 *   was written, after the home has acknowledged it: the hash never speaks of
 *   bytes that may not be there.
 * - A slot is freed only if its page is clean and its home is in good standing;
 *   else the page is made dirty again and written elsewhere.
 */
#include <string.h>

#include "clock.h"
#include "log.h"
#include "program.h"
#include "usdt.h"

#define OPEN_BATCHES 8
#define WRITE_DEADLINE_NS 3000000000ULL
#define WRITE_TWIN_NS 700000000ULL /* faults that want credit wait for it: see replica.c */

static struct bb_slot *slot_at(struct bb_program *p, uint64_t pos, uint32_t *slot)
{
	*slot = (uint32_t)(pos & (p->nslots - 1));
	return &p->slots[*slot];
}

/* The page that the slot at pos holds. Return: 1 and word, or 0: nobody's any more. */
static int slot_page(struct bb_program *p, uint64_t pos, uint32_t *slot, uint32_t *page, bb_pw *w)
{
	uint64_t n = atomic_load_explicit(&slot_at(p, pos, slot)->page, memory_order_acquire);

	if (n >= p->npages)
		return 0;
	*page = (uint32_t)n;
	*w = atomic_load(&p->pw[n]);
	return bb_pw_state(*w) == BB_P_STAGED && bb_pw_slot(*w) == *slot;
}

/* What became of a copy of a batch. */
static bool failed(uint8_t status)
{
	return status != BB_ST_OK && status != BB_ST_BUSY && status != BB_ST_STALE;
}

static bool silent(uint8_t status)
{
	return status == BB_ST_TIMEOUT || status == BB_ST_UNREACH;
}

static void say_failed(const struct bb_wb *b, const struct bb_net_req *req)
{
	if (req->status != BB_ST_OK && req->status != BB_ST_BUSY)
		bb_warn("program %u (%s): host %u did not take %u pages (status %u): they go elsewhere", b->prog->pid,
			b->prog->comm, req->node, b->n, req->status);
}

/*
 * Both copies have answered, or have had their time. A page is clean when each
 * copy has it, or has been given up while the other has it. The last copy is
 * not given up for its silence alone while its host says HELLO; and it is the
 * last where the other is still in the making: there is what else the extent holds.
 */
static void finish(struct bb_wb *b)
{
	struct bb_program *p = b->prog;
	struct bb_pager *pg = p->pager;
	const bool two = b->req2.cmd != 0;
	const uint8_t st1 = b->req.status, st2 = two ? b->req2.status : BB_ST_OK;
	bool bad1 = failed(st1), bad2 = two && failed(st2), ok, alive1;

	if (!p->gone && (st1 != BB_ST_OK || st2 != BB_ST_OK)) {
		say_failed(b, &b->req);
		if (two)
			say_failed(b, &b->req2);
		if (silent(st1))
			bb_node_dead(pg, b->req.node);
		if (silent(st2))
			bb_node_dead(pg, b->req2.node);
	}
	if (!two && silent(st1))
		bad1 = false; /* what else is there may be read again when its host is back */
	if (two && silent(st1) && silent(st2)) {
		bad1 = !bb_node_alive(pg, b->req.node);
		bad2 = !bb_node_alive(pg, b->req2.node);
	}
	ok = (st1 == BB_ST_OK && (!two || st2 == BB_ST_OK || bad2)) || (two && st2 == BB_ST_OK && bad1);
	if (!ok)
		p->wb = p->tail; /* look at all of the ring again */
	alive1 = bb_node_alive(pg, b->req.node);
	for (uint32_t i = 0; i < b->n; i++) {
		uint32_t page = b->page[i], rx = st1 == BB_ST_OK ? b->rx[i] : b->twin[i];
		_Atomic bb_pw *pw = &p->pw[page];
		bool safe = ok, give_up = bad1;
		bb_pw w = atomic_load(pw), v;

		p->use[b->rx[i]].busy--;
		if (two)
			p->use[b->twin[i]].busy--;
		p->slot_busy[b->slot[i]] = 0;
		if (p->gone)
			continue;
		if (two && st1 != BB_ST_OK && p->rx[b->twin[i]].state != BB_RX_READY) {
			safe = false;
			give_up = bad1 && !(silent(st1) && alive1);
			p->wb = p->tail;
		}
		if (safe)
			p->hash[page] = b->hash[i]; /* nobody reads it while WB is set */
		if (give_up)
			bb_extent_bad(p, b->rx[i]);
		else if (!two && silent(st1))
			bb_extent_retire(p, b->rx[i]);
		if (bad2)
			bb_extent_bad(p, b->twin[i]);
		do {
			v = w & ~BB_PW_WB;
			if (!safe || bb_pw_state(w) == BB_P_EMPTY || bb_pw_state(w) == BB_P_DROPPING)
				continue;
			v = bb_pw_with_rx(v | BB_PW_HASHED, rx);
			if (bb_pw_state(w) == BB_P_STAGED && bb_pw_slot(w) == b->slot[i])
				v &= ~BB_PW_DIRTY;
		} while (!atomic_compare_exchange_weak(pw, &w, v));
	}
	BB_PROBE(writeback_done, p->pid, b->n, b->req.node, ok);
	if (ok)
		atomic_fetch_add_explicit(&p->ctl->n_writeback, b->n, memory_order_relaxed);
	p->refs--;
	b->next = pg->free_wbs;
	pg->free_wbs = b;
}

static void written(struct bb_net_req *req)
{
	struct bb_wb *b = req->user;

	if (!--b->pending)
		finish(b);
}

/* --- writing back ---------------------------------------------------------- */

struct open {
	struct bb_wb *b;
};

static void send_batch(struct open *o)
{
	struct bb_wb *b = o->b;
	struct bb_program *p = b->prog;

	b->req.npages = b->n;
	b->req2.npages = b->n;
	p->refs++;
	BB_PROBE(writeback_sent, p->pid, b->n, b->req.node, b->req2.cmd ? b->req2.node : 0);
	o->b = NULL;
	/* The second may be done before submit returns: then b is used again. */
	b->pending = b->req2.cmd ? 2 : 1;
	if (b->req2.cmd)
		bb_net_submit(p->pager->net, &b->req2);
	bb_net_submit(p->pager->net, &b->req);
}

static bool same_home(const struct bb_program *p, const struct bb_net_req *req, uint32_t rx)
{
	return rx ? req->cmd && req->node == p->rx[rx].node && req->boot == p->rx[rx].boot : !req->cmd;
}

static void begin(struct bb_wb *b, struct bb_net_req *req, struct bb_net_page *pages, uint32_t rx, uint64_t deadline)
{
	memset(req, 0, sizeof(*req));
	if (!rx)
		return;
	req->cmd = BB_CMD_WRITE;
	req->node = b->prog->rx[rx].node;
	req->boot = b->prog->rx[rx].boot;
	req->pages = pages;
	req->deadline = deadline;
	req->done = written;
	req->user = b;
}

static struct bb_wb *batch_for(struct bb_program *p, struct open *open, uint32_t rx, uint32_t twin)
{
	struct bb_pager *pg = p->pager;
	struct open *o = NULL;
	struct bb_wb *b;
	uint64_t deadline;

	for (int i = 0; i < OPEN_BATCHES; i++) {
		if (open[i].b && same_home(p, &open[i].b->req, rx) && same_home(p, &open[i].b->req2, twin)) {
			if (open[i].b->n < BB_BATCH_PAGES_MAX)
				return open[i].b;
			send_batch(&open[i]);
		}
		if (!open[i].b && !o)
			o = &open[i];
	}
	if (!o) {
		send_batch(&open[0]);
		o = &open[0];
	}
	if (!pg->free_wbs)
		return NULL;
	b = o->b = pg->free_wbs;
	pg->free_wbs = b->next;
	b->prog = p;
	b->n = 0;
	deadline = bb_now_ns() + (twin ? WRITE_TWIN_NS : WRITE_DEADLINE_NS);
	begin(b, &b->req, b->pages, rx, deadline);
	begin(b, &b->req2, b->pages2, twin, deadline);
	return b;
}

/* No host has room: the page goes back to the program and its extent stays. */
static void unstage(struct bb_program *p, uint32_t page, uint32_t slot, bb_pw w)
{
	atomic_fetch_or(&p->x[page / BB_EXTENT_PAGES].flags, BB_XF_HOMELESS);
	if (page / BB_EXTENT_PAGES >= p->xtop)
		p->xtop = page / BB_EXTENT_PAGES + 1;
	if (!atomic_compare_exchange_strong(&p->pw[page], &w, bb_pw_filling(w)))
		return;
	if (!bb_credit_take(p->ctl, 1)) {
		bb_program_over(p, 1);
		atomic_fetch_add(&p->ctl->resident, 1);
	}
	bb_fill_install(p, page, 1, p->stage + ((size_t)slot << BB_PAGE_SHIFT), BB_P_STAGED, 0, 0);
}

static bool write_back(struct bb_program *p, uint64_t head)
{
	struct open open[OPEN_BATCHES] = { 0 };
	bool any = false;

	for (; p->wb < head; p->wb++) {
		uint32_t slot, page, rx, twin;
		struct bb_wb *b;
		bb_pw w;

		if (!slot_page(p, p->wb, &slot, &page, &w) || !(w & BB_PW_DIRTY))
			continue;
		if (w & BB_PW_WB)
			break; /* an older version is on its way: after it */
		rx = bb_extent_home(p, page);
		if (!rx && p->homeless) {
			unstage(p, page, slot, w);
			any = true;
			continue;
		}
		if (!rx)
			break;
		twin = bb_copy_twin(p, rx);
		b = batch_for(p, open, rx, twin);
		if (!b)
			break;
		if (!atomic_compare_exchange_strong(&p->pw[page], &w,
						    bb_pw_with_rx((w & ~BB_PW_HASHED) | BB_PW_WB, rx)))
			continue; /* rescued or dropped this very moment */
		b->page[b->n] = page;
		b->slot[b->n] = slot;
		b->rx[b->n] = rx;
		b->hash[b->n] = p->slots[slot].hash;
		b->pages[b->n].ptr = p->rx[rx].ptr + ((uint64_t)(page % BB_EXTENT_PAGES) << BB_PAGE_SHIFT);
		b->pages[b->n].data = p->stage + ((size_t)slot << BB_PAGE_SHIFT);
		b->twin[b->n] = twin;
		p->use[rx].busy++;
		if (twin) {
			b->pages2[b->n] = b->pages[b->n];
			b->pages2[b->n].ptr = p->rx[twin].ptr + ((uint64_t)(page % BB_EXTENT_PAGES) << BB_PAGE_SHIFT);
			p->use[twin].busy++;
		}
		b->n++;
		p->slot_busy[slot] = 1;
		any = true;
	}
	for (int i = 0; i < OPEN_BATCHES; i++) {
		if (!open[i].b)
			continue;
		if (open[i].b->n) {
			send_batch(&open[i]);
		} else {
			open[i].b->next = p->pager->free_wbs;
			p->pager->free_wbs = open[i].b;
		}
	}
	return any;
}

/* --- freeing slots --------------------------------------------------------- */

static bool free_slots(struct bb_program *p, uint64_t head)
{
	uint64_t keep = p->nslots - p->nslots / 4, from = p->tail;

	/*
	 * A slot in a batch under way must stay as it is, even if its page was
	 * rescued meanwhile: the transport may have to send it again. The newest
	 * slots are never passed: the helper counts a slot in before the page's
	 * word speaks of it, so that it looks like nobody's for a moment.
	 */
	while (p->tail < p->wb && head - p->tail > keep) {
		uint32_t slot, page;
		bb_pw w;

		if (slot_page(p, p->tail, &slot, &page, &w)) {
			if (w & (BB_PW_DIRTY | BB_PW_WB)) {
				if (!(w & BB_PW_WB))
					p->wb = p->tail;
				break;
			}
			if (!(w & BB_PW_HASHED) || !bb_copy_read(p, bb_pw_rx(w), page)) {
				/* Its home has gone bad since: this slot is the only copy. */
				atomic_compare_exchange_strong(&p->pw[page], &w, w | BB_PW_DIRTY);
				p->wb = p->tail;
				break;
			}
			if (!atomic_compare_exchange_strong(&p->pw[page], &w,
							    bb_pw_with_slot(bb_pw_with(w, BB_P_REMOTE), 0)))
				continue;
		} else if (p->slot_busy[slot]) {
			break;
		}
		p->tail++;
	}
	if (p->tail == from)
		return false;
	atomic_store(&p->ctl->stage_tail, p->tail);
	bb_program_ring_slots(p);
	return true;
}

bool bb_writeback_poll(struct bb_program *p)
{
	uint64_t head = atomic_load_explicit(&p->ctl->stage_head, memory_order_acquire);
	bool any = false;

	if (head == p->wb && head - p->tail <= p->nslots - p->nslots / 4)
		return false;
	if (head - p->tail > p->nslots) {
		bb_error("program %u (%s): its staging ring is damaged: it is served no more", p->pid, p->comm);
		bb_due_part(p);
		return true;
	}
	if (p->wb < head)
		any = write_back(p, head);
	return free_slots(p, head) || any;
}
