/* SPDX-License-Identifier: MIT */
/*
 * Home memory held for a program: which extents of which hosts back its
 * region. A few spare ones are kept, so that a write-back seldom waits for a
 * CREATE; what the program frees becomes spare again, or is given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "program.h"

#define SPARE_LOW 4u
#define RETRY_NS 1000000000ULL
#define SWEEP_NS 1000000000ULL
#define CREATE_DEADLINE_NS 2000000000ULL
#define DELETE_DEADLINE_NS 1000000000ULL
#define DRAIN_NS 15000000000ULL
#define DRAIN_AGAIN_NS 300000000ULL

/* --- creating ------------------------------------------------------------- */

static void set_homeless(struct bb_program *p, bool on)
{
	/* Better over its budget than crawling: what is missing is room, not speed. */
	if (on && !p->homeless) {
		bb_program_over(p, p->npages);
		bb_warn("program %u (%s): no host has memory left to lend: what is beyond its budget stays in local memory; "
			"add a host, or raise --lend on one", p->pid, p->comm);
	}
	if (!on && p->homeless) {
		atomic_store(&p->ctl->limit, p->limit);
		for (uint32_t e = 0; e < p->nextents && e < p->xtop; e++)
			atomic_fetch_and(&p->x[e].flags, (uint8_t)~BB_XF_HOMELESS);
	}
	p->homeless = on;
}

static void created(struct bb_net_req *req)
{
	struct bb_create *c = (struct bb_create *)((char *)req - offsetof(struct bb_create, req));
	struct bb_program *p = c->prog;

	c->busy = false;
	p->refs--;
	if (req->status != BB_ST_OK || !req->nptrs) {
		/* Full, gone or unwilling: another one is asked. */
		if (c->ntried < (int)(sizeof(c->tried) / sizeof(c->tried[0])))
			c->tried[c->ntried++] = req->node;
		else
			c->retry_at = bb_now_ns() + RETRY_NS;
		return;
	}
	for (uint32_t i = 0; i < req->nptrs; i++) {
		struct bb_rx x = {
			.ptr = req->ptrs[i],
			.boot = req->new_boot,
			.extent = BB_NO_EXTENT,
			.node = req->node,
			.state = BB_RX_READY,
		};
		uint32_t r = p->nspare < BB_SPARE_MAX ? bb_rx_new(p, &x) : 0;

		if (!r)
			break; /* the home gives it back when we detach from it */
		p->spare[p->nspare++] = r;
		p->given++;
	}
	c->ntried = 0;
	c->retry_at = 0;
	set_homeless(p, false);
}

static void ask(struct bb_program *p)
{
	struct bb_create *c = &p->create;
	uint32_t n = p->given / 8;
	uint16_t node;

	if (n < SPARE_LOW)
		n = SPARE_LOW;
	if (n > BB_SPARE_MAX - p->nspare)
		n = BB_SPARE_MAX - p->nspare;
	if (n > 32)
		n = 32;
	switch (p->place) {
	case BB_PLACE_LOCAL:
		node = c->ntried ? 0 : bb_peers_config(p->pager->cfg.peers)->node;
		break;
	case BB_PLACE_NODE:
		node = c->ntried ? 0 : p->place_node;
		break;
	default:
		/* What little is left is still good for one extent. */
		node = bb_peers_place(p->pager->cfg.peers, (uint64_t)n << BB_EXTENT_SHIFT, c->tried, c->ntried);
		if (!node) {
			n = 1;
			node = bb_peers_place(p->pager->cfg.peers, BB_EXTENT_SIZE, c->tried, c->ntried);
		}
	}
	if (!node) {
		set_homeless(p, true);
		c->ntried = 0;
		c->retry_at = bb_now_ns() + RETRY_NS;
		return;
	}
	memset(&c->req, 0, sizeof(c->req));
	c->req.cmd = BB_CMD_CREATE;
	c->req.node = node;
	c->req.len = n;
	c->req.deadline = bb_now_ns() + CREATE_DEADLINE_NS;
	c->req.done = created;
	c->prog = p;
	c->busy = true;
	p->refs++;
	bb_net_submit(p->pager->net, &c->req);
}

uint32_t bb_extent_home(struct bb_program *p, uint32_t page)
{
	uint32_t e = page / BB_EXTENT_PAGES, r = p->xrx[e];

	if (r && p->rx[r].state == BB_RX_READY && bb_rx_ours(p, r))
		return r;
	if (!p->nspare) {
		p->wanted = 1;
		return 0;
	}
	if (r)
		p->rx[r].old = true; /* parent or child still read it: leave it as it is */
	r = p->spare[--p->nspare];
	p->rx[r].extent = e;
	p->xrx[e] = r;
	if (e >= p->xtop)
		p->xtop = e + 1;
	return r;
}

void bb_extent_bad(struct bb_program *p, uint32_t rx)
{
	if (rx >= p->nrx || p->rx[rx].state != BB_RX_READY)
		return;
	p->rx[rx].state = BB_RX_BAD;
	if (p->rx[rx].extent != BB_NO_EXTENT && p->xrx[p->rx[rx].extent] == rx)
		p->xrx[p->rx[rx].extent] = 0;
}

/* --- giving back ---------------------------------------------------------- */

static void deleted(struct bb_net_req *req)
{
	struct bb_delete *d = (struct bb_delete *)((char *)req - offsetof(struct bb_delete, req));
	struct bb_program *p = d->prog;
	struct bb_pager *pg = p->pager;

	/*
	 * A home that does not answer is asked again when the program has ended,
	 * for a while: one that was just started is not known yet. A home that is
	 * gone for good has no use for it.
	 */
	if ((req->status == BB_ST_UNREACH || req->status == BB_ST_TIMEOUT) && (!p->gone || pg->now < p->drain_until)) {
		p->rx[d->rx].state = BB_RX_BAD;
		p->drain_again = pg->now + DRAIN_AGAIN_NS;
	} else if (!pg->leave) { /* else the next bbd asks again */
		bb_rx_put(p, d->rx);
	}
	p->refs--;
	d->next = pg->free_dels;
	pg->free_dels = d;
}

static bool give_back(struct bb_program *p, uint32_t rx)
{
	struct bb_delete *d = p->pager->free_dels;

	if (!d)
		return false;
	if (!bb_rx_unshare(p, rx)) {
		bb_rx_put(p, rx);
		return true;
	}
	p->pager->free_dels = d->next;
	memset(&d->req, 0, sizeof(d->req));
	d->prog = p;
	d->rx = rx;
	d->req.cmd = BB_CMD_DELETE;
	d->req.node = p->rx[rx].node;
	d->req.boot = p->rx[rx].boot;
	d->req.ptr = p->rx[rx].ptr;
	d->req.deadline = bb_now_ns() + DELETE_DEADLINE_NS;
	d->req.done = deleted;
	p->rx[rx].state = BB_RX_DELETING;
	p->refs++;
	bb_net_submit(p->pager->net, &d->req);
	return true;
}

static bool is_read(struct bb_program *p, uint32_t rx)
{
	uint32_t first = p->rx[rx].extent * BB_EXTENT_PAGES;

	if (atomic_load(&p->x[p->rx[rx].extent].state) != BB_X_MANAGED)
		return false;
	for (uint32_t i = 0; i < BB_EXTENT_PAGES; i++) {
		bb_pw w = atomic_load_explicit(&p->pw[first + i], memory_order_relaxed);

		if (bb_pw_rx(w) == rx && (w & BB_PW_HASHED))
			return true;
	}
	return false;
}

/* What a fork left behind, once all of its pages have been written elsewhere. */
static void sweep_old(struct bb_program *p)
{
	for (uint32_t r = 1; r < p->nrx; r++)
		if (p->rx[r].old && p->rx[r].state == BB_RX_READY && !p->use[r].busy && !is_read(p, r) &&
		    !give_back(p, r))
			return;
}

/* Extents that the program has freed: their home copies mean nothing any more. */
static void sweep(struct bb_program *p)
{
	for (uint32_t e = 0; e < p->xtop; e++) {
		uint32_t r = p->xrx[e];
		uint8_t s;

		if (!r || p->use[r].busy)
			continue;
		s = atomic_load(&p->x[e].state);
		if (s != BB_X_NONE && s != BB_X_FRESH)
			continue;
		if (p->nspare < 2 * SPARE_LOW && p->rx[r].state == BB_RX_READY && !p->use[r].share) {
			p->rx[r].extent = BB_NO_EXTENT;
			p->spare[p->nspare++] = r;
		} else if (!give_back(p, r)) {
			return;
		}
		p->xrx[e] = 0;
	}
}

bool bb_extent_poll(struct bb_program *p)
{
	struct bb_pager *pg = p->pager;

	if (pg->now >= p->sweep_at) {
		p->sweep_at = pg->now + SWEEP_NS;
		sweep(p);
		if (p->forked)
			sweep_old(p);
	}
	if (p->create.busy || (p->nspare >= SPARE_LOW && !p->wanted) || pg->now < p->create.retry_at)
		return false;
	p->wanted = 0;
	ask(p);
	return true;
}

bool bb_extent_drain(struct bb_program *p)
{
	const uint64_t now = p->pager->now;

	if (!p->drain_until)
		p->drain_until = now + DRAIN_NS;
	if (now < p->drain_again && now < p->drain_until)
		return false;
	for (uint32_t r = 1; r < p->nrx; r++) {
		if (p->rx[r].state == BB_RX_FREE || p->rx[r].state == BB_RX_DELETING)
			continue;
		if (p->use[r].busy)
			return false;
		if (!give_back(p, r))
			return false;
	}
	return !p->refs;
}
