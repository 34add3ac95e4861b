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
		node = 0;
	}
	if (p->avoid || (p->place != BB_PLACE_LOCAL && p->place != BB_PLACE_NODE)) {
		const struct bb_pager *pg = p->pager;
		uint16_t skip[sizeof(c->tried) / sizeof(c->tried[0]) + 1 + sizeof(pg->dead) / sizeof(pg->dead[0])];
		int nskip = c->ntried;

		memcpy(skip, c->tried, sizeof(c->tried));
		if (p->avoid)
			skip[nskip++] = p->avoid;
		for (unsigned int i = 0; i < sizeof(pg->dead) / sizeof(pg->dead[0]); i++)
			if (pg->dead_until[pg->dead[i]] > pg->now)
				skip[nskip++] = pg->dead[i];
		/* What little is left is still good for one extent. */
		node = bb_peers_place(p->pager->cfg.peers, (uint64_t)n << BB_EXTENT_SHIFT, skip, nskip);
		if (!node) {
			n = 1;
			node = bb_peers_place(p->pager->cfg.peers, BB_EXTENT_SIZE, skip, nskip);
		}
	}
	if (!node && p->avoid) {
		/* There are spares, but all on one host. */
		p->avoid = 0;
		p->no_second_until = p->pager->now + 2 * RETRY_NS;
		c->ntried = 0;
		c->retry_at = p->pager->now + RETRY_NS;
		return;
	}
	p->avoid = 0;
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

uint32_t bb_extent_spare(struct bb_program *p, uint16_t not_on)
{
	for (unsigned int i = p->nspare; i--;) {
		uint32_t r = p->spare[i];

		if (p->rx[r].node == not_on || bb_node_shunned(p->pager, p->rx[r].node))
			continue;
		p->spare[i] = p->spare[--p->nspare];
		return r;
	}
	p->wanted = 1;
	p->avoid = not_on;
	return 0;
}

/* Where a second copy is wanted: r's, on another host. Return: rx; 0 where one has to do, or -1: later. */
static int64_t second(struct bb_program *p, uint32_t r)
{
	uint32_t t;

	if (p->pager->cfg.replicas < 2)
		return 0;
	t = bb_extent_spare(p, p->rx[r].node);
	if (t)
		return t;
	if (p->pager->now >= p->no_second_until)
		return -1;
	bb_warn_once("program %u (%s): no second host has memory to lend: some of its pages have one copy only for now",
		     p->pid, p->comm);
	return 0;
}

uint32_t bb_extent_home(struct bb_program *p, uint32_t page)
{
	uint32_t e = page / BB_EXTENT_PAGES, r = p->xrx[e], new;
	int64_t twin;

	if (r && p->rx[r].state == BB_RX_READY && bb_rx_ours(p, r))
		return r;
	new = bb_extent_spare(p, 0);
	if (!new)
		return 0;
	twin = second(p, new);
	if (twin < 0) {
		p->spare[p->nspare++] = new;
		return 0;
	}
	if (r) {
		/* Parent or child still read it: leave it as it is. */
		p->rx[r].old = true;
		if (p->rx[r].twin)
			p->rx[p->rx[r].twin].old = true;
	}
	r = new;
	if (twin) {
		p->rx[twin].twin = r;
		p->rx[twin].extent = e;
	}
	p->rx[r].twin = (uint32_t)twin;
	p->rx[r].extent = e;
	p->xrx[e] = r;
	if (e >= p->xtop)
		p->xtop = e + 1;
	return r;
}

void bb_extent_bad(struct bb_program *p, uint32_t rx)
{
	uint32_t other;

	if (rx >= p->nrx || (p->rx[rx].state != BB_RX_READY && p->rx[rx].state != BB_RX_SYNCING))
		return;
	other = bb_copy_other(p, rx);
	p->rx[rx].state = BB_RX_BAD;
	/* Its own link stays: pages whose words name it are found by that. */
	if (p->rx[rx].twin && p->rx[p->rx[rx].twin].twin == rx)
		p->rx[p->rx[rx].twin].twin = 0;
	if (p->rx[rx].extent != BB_NO_EXTENT && p->xrx[p->rx[rx].extent] == rx)
		p->xrx[p->rx[rx].extent] = other;
}

void bb_extent_retire(struct bb_program *p, uint32_t rx)
{
	uint32_t e = p->rx[rx].extent;

	if (p->rx[rx].state != BB_RX_READY || p->rx[rx].twin || e == BB_NO_EXTENT)
		return;
	p->rx[rx].old = true;
	p->forked = true; /* what is old is looked after */
	if (p->xrx[e] == rx)
		p->xrx[e] = 0;
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

/* Nobody must be led to an entry that is free, or another's by then. */
static void unlink_twin(struct bb_program *p, uint32_t rx)
{
	uint32_t t = p->rx[rx].twin;

	p->rx[rx].twin = 0;
	if (t && p->rx[t].twin == rx)
		p->rx[t].twin = 0;
}

static bool give_back(struct bb_program *p, uint32_t rx)
{
	struct bb_delete *d = p->pager->free_dels;

	if (!d)
		return false;
	unlink_twin(p, rx);
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

		if ((w & BB_PW_HASHED) && bb_copy_leads(p, bb_pw_rx(w), rx))
			return true;
	}
	return false;
}

/* What a fork left behind, once all of its pages have been written elsewhere. */
static void sweep_old(struct bb_program *p)
{
	for (uint32_t r = 1; r < p->nrx; r++)
		if (p->rx[r].old && p->rx[r].state == BB_RX_READY && !p->use[r].busy && p->rx[r].extent != BB_NO_EXTENT &&
		    !is_read(p, r) && !give_back(p, r))
			return;
}

/* Extents that the program has freed: their home copies mean nothing any more. */
static void sweep(struct bb_program *p)
{
	for (uint32_t e = 0; e < p->xtop; e++) {
		uint32_t r = p->xrx[e], t = r ? p->rx[r].twin : 0;
		uint8_t s;

		if (!r || p->use[r].busy || (t && (p->use[t].busy || p->rx[t].state == BB_RX_SYNCING)))
			continue;
		s = atomic_load(&p->x[e].state);
		if (s != BB_X_NONE && s != BB_X_FRESH)
			continue;
		if (t && p->rx[t].state == BB_RX_READY && !give_back(p, t))
			return;
		p->rx[r].twin = 0;
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
