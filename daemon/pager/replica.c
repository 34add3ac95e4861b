/* SPDX-License-Identifier: MIT */
/*
 * The second copy of home memory (--replicas 2): an extent of a program lies in
 * two home extents on different hosts, an rx and its twin.
 *
 * Theory of operation
 * -------------------
 * A page's word names one of the two. Writes go to both (writeback.c), and the
 * page is clean when both have it. Reads go to the one that is named, or to the
 * other where the first is bad or its host has just let a read wait (slow). A
 * copy is given up (bad) when its host refuses (it came back empty, or with
 * other memory: boot and generation tell), when it lets a write wait for
 * WRITE_TWIN_NS while the other copy takes it, or when its host has said no
 * HELLO for as long as that counts as dead. The bad one keeps its link: words
 * that name it are led to the other by that. So no access waits for a dead host
 * for longer than one short deadline.
 *
 * What has one copy only gets another, extent by extent: a spare on a third
 * host is linked as SYNCING, from when on writes go to both; then the pages
 * that have a clean home copy are read, held against their hashes, and written
 * to it. A page has WB set meanwhile, as in any write-back, so that no newer
 * version overtakes. SYNCING is never read. Then it is READY.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "clock.h"
#include "log.h"
#include "program.h"

#define SLOW_NS 2000000000ULL
#define LOOK_NS 500000000ULL
#define SYNC_DEADLINE_NS 1000000000ULL
#define HOPS 16
#define FRESH_HELLO_NS 3000000000ULL

/* --- which copy ------------------------------------------------------------ */

uint32_t bb_copy_other(const struct bb_program *p, uint32_t rx)
{
	uint32_t t = p->rx[rx].twin;

	return t && t < p->nrx && t != rx && p->rx[t].state == BB_RX_READY && p->rx[t].extent == p->rx[rx].extent ? t : 0;
}

/* One copy after another may have gone bad; each leads to the next. */
static uint32_t follow(const struct bb_program *p, uint32_t rx)
{
	for (int i = 0; i < HOPS && rx && rx < p->nrx && p->rx[rx].state == BB_RX_BAD; i++)
		rx = p->rx[rx].twin;
	return rx < p->nrx ? rx : 0;
}

bool bb_copy_leads(const struct bb_program *p, uint32_t named, uint32_t rx)
{
	named = follow(p, named);
	return named && (named == rx || p->rx[named].twin == rx);
}

uint32_t bb_copy_read(const struct bb_program *p, uint32_t rx, uint32_t page)
{
	uint32_t other;

	rx = follow(p, rx);
	if (!bb_rx_check(p, rx, page))
		return 0;
	if (p->pager->slow_until[p->rx[rx].node] <= p->pager->now)
		return rx;
	other = bb_copy_other(p, rx);
	return other ? other : rx;
}

uint32_t bb_copy_twin(const struct bb_program *p, uint32_t rx)
{
	uint32_t t = p->rx[rx].twin;

	if (!t || t >= p->nrx || p->rx[t].extent != p->rx[rx].extent)
		return 0;
	return p->rx[t].state == BB_RX_READY || p->rx[t].state == BB_RX_SYNCING ? t : 0;
}

void bb_node_slow(struct bb_pager *pg, uint16_t node)
{
	pg->slow_until[node] = bb_now_ns() + SLOW_NS;
}

void bb_node_dead(struct bb_pager *pg, uint16_t node)
{
	unsigned int i;

	pg->dead_until[node] = pg->slow_until[node] = bb_now_ns() + SLOW_NS;
	for (i = 0; i < 8 && pg->dead[i] != node; i++)
		;
	if (i == 8)
		pg->dead[pg->ndead++ % 8] = node;
}

bool bb_node_shunned(struct bb_pager *pg, uint16_t node)
{
	return pg->dead_until[node] > pg->now;
}

bool bb_node_alive(struct bb_pager *pg, uint16_t node)
{
	struct bb_peer peer;

	return node == bb_peers_config(pg->cfg.peers)->node ||
	       (bb_peers_get(pg->cfg.peers, node, &peer) && peer.alive);
}

/* --- giving up ------------------------------------------------------------- */

static bool is_given_up(const struct bb_program *p, uint32_t rx)
{
	struct bb_pager *pg = p->pager;
	const struct bb_rx *x = &p->rx[rx];
	struct bb_peer peer;

	if (bb_node_shunned(pg, x->node) || !bb_node_alive(pg, x->node))
		return true;
	/* It came back empty, so soon that it never counted as dead. */
	return bb_peers_get(pg->cfg.peers, x->node, &peer) && peer.boot && peer.boot != x->boot &&
	       bb_now_ns() - peer.last_hello < FRESH_HELLO_NS;
}

/* Return: the copy that is left, 0 where there are two, or where none is to be had. */
static uint32_t lonely(struct bb_program *p, uint32_t r)
{
	uint32_t t = r ? bb_copy_twin(p, r) : 0;

	if (!r || p->rx[r].state != BB_RX_READY)
		return 0;
	if (t && p->rx[t].state == BB_RX_READY) {
		bool a = is_given_up(p, r), b = is_given_up(p, t);

		if (a == b)
			return 0;
		bb_extent_bad(p, a ? r : t);
		return a ? t : r;
	}
	return t || !bb_node_alive(p->pager, p->rx[r].node) ? 0 : r;
}

static void look(struct bb_program *p)
{
	struct bb_sync *s = &p->sync;
	uint32_t left = 0, first = 0;

	for (uint32_t e = 0; e < p->xtop; e++) {
		uint32_t r = lonely(p, p->xrx[e]);

		left += r != 0;
		first = first || r == s->put_off ? first : r;
	}
	/* What is only read since a fork. */
	for (uint32_t i = 1; p->forked && i < p->nrx; i++) {
		uint32_t r = p->rx[i].old ? lonely(p, i) : 0;

		left += r != 0;
		first = first || r == s->put_off ? first : r;
	}
	s->put_off = 0; /* another time */
	if (left && !s->told) {
		bb_warn("program %u (%s): %u extents have one copy only: they are copied to other hosts", p->pid, p->comm,
			left);
		s->told = true;
		s->began = s->copied;
	} else if (!left && s->told && !s->to) {
		bb_info("program %u (%s): all of it has two copies again (%lu pages were copied)", p->pid, p->comm,
			(unsigned long)(s->copied - s->began));
		s->told = false;
	}
	s->left = left + (s->to != 0);
	if (!first || s->to)
		return;
	s->from = first;
	s->to = bb_extent_spare(p, p->rx[first].node);
	if (!s->to)
		return;
	s->next = 0;
	/* SYNCING first: a kill must not leave an empty extent that seems to hold something. */
	__atomic_store_n(&p->rx[s->to].state, BB_RX_SYNCING, __ATOMIC_RELEASE);
	p->rx[s->to].extent = p->rx[first].extent;
	p->rx[s->to].old = p->rx[first].old;
	__atomic_store_n(&p->rx[s->to].twin, first, __ATOMIC_RELEASE);
	p->rx[first].twin = s->to;
}

/* --- making it again ------------------------------------------------------- */

static void release(struct bb_program *p)
{
	struct bb_sync *s = &p->sync;

	for (uint32_t i = 0; i < s->n; i++)
		atomic_fetch_and(&p->pw[s->page + i], ~BB_PW_WB);
	s->n = 0;
}

/* The copy in the making is of no use. */
static void give_up(struct bb_program *p)
{
	release(p);
	bb_extent_bad(p, p->sync.to);
	p->sync.to = 0;
}

/* It cannot be had from where it is, for now: what was to take it is a spare again. */
static void put_off(struct bb_program *p)
{
	struct bb_sync *s = &p->sync;

	if (p->use[s->to].busy || p->nspare == BB_SPARE_MAX) {
		give_up(p);
		return;
	}
	release(p);
	s->put_off = s->from; /* others first */
	if (p->rx[s->from].twin == s->to)
		p->rx[s->from].twin = 0;
	p->rx[s->to].twin = 0;
	p->rx[s->to].old = false;
	p->rx[s->to].extent = BB_NO_EXTENT;
	__atomic_store_n(&p->rx[s->to].state, BB_RX_READY, __ATOMIC_RELEASE);
	p->spare[p->nspare++] = s->to;
	s->to = 0;
}

static void end(struct bb_program *p)
{
	p->sync.busy = false;
	p->refs--;
	p->use[p->sync.from].busy--;
	p->use[p->sync.to].busy--;
}

static void begin(struct bb_program *p, uint8_t cmd, uint32_t rx, void (*done)(struct bb_net_req *))
{
	struct bb_sync *s = &p->sync;

	memset(&s->req, 0, sizeof(s->req));
	s->req.cmd = cmd;
	s->req.node = p->rx[rx].node;
	s->req.boot = p->rx[rx].boot;
	s->req.deadline = bb_now_ns() + SYNC_DEADLINE_NS;
	s->req.user = p;
	s->req.done = done;
	s->busy = true;
	p->refs++;
	p->use[s->from].busy++;
	p->use[s->to].busy++;
}

static uint64_t place(const struct bb_program *p, uint32_t rx, uint32_t page)
{
	return p->rx[rx].ptr + ((uint64_t)(page % BB_EXTENT_PAGES) << BB_PAGE_SHIFT);
}

static void was_written(struct bb_net_req *req)
{
	struct bb_program *p = req->user;
	struct bb_sync *s = &p->sync;

	end(p);
	if (p->gone)
		return;
	if (req->status != BB_ST_OK && req->status != BB_ST_BUSY && req->status != BB_ST_STALE) {
		give_up(p);
		return;
	}
	if (req->status == BB_ST_OK) {
		s->copied += s->n;
		s->next += s->n;
	}
	release(p);
}

static void was_read(struct bb_net_req *req)
{
	struct bb_program *p = req->user;
	struct bb_sync *s = &p->sync;
	uint32_t n = s->n;

	end(p);
	if (p->gone)
		return;
	if (req->status != BB_ST_OK || !req->data || p->rx[s->to].state != BB_RX_SYNCING) {
		put_off(p);
		return;
	}
	memcpy(s->data, req->data, (size_t)n << BB_PAGE_SHIFT);
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *data = s->data + ((size_t)i << BB_PAGE_SHIFT);
		XXH128_hash_t h = XXH3_128bits(data, BB_PAGE_SIZE);

		if (!bb_hash_same(p->hash[s->page + i], bb_hash_of(h.low64, h.high64))) {
			bb_warn("program %u (%s): host %u gave other bytes than were written: they are not copied", p->pid,
				p->comm, p->rx[s->from].node);
			put_off(p);
			return;
		}
		s->pages[i].ptr = place(p, s->to, s->page + i);
		s->pages[i].data = data;
	}
	begin(p, BB_CMD_WRITE, s->to, was_written);
	s->req.pages = s->pages;
	s->req.npages = n;
	bb_net_submit(p->pager->net, &s->req);
}

/* Has it a home copy that must be in both? Return: 1 yes, and WB is set; 0 no; -1 not now. */
static int claim(struct bb_program *p, uint32_t page)
{
	bb_pw w = atomic_load(&p->pw[page]);

	switch (bb_pw_state(w)) {
	case BB_P_RESIDENT:
	case BB_P_STAGED:
	case BB_P_REMOTE:
		break;
	case BB_P_FILLING:
	case BB_P_EVICTING:
	case BB_P_DROPPING:
		return -1;
	default:
		return 0;
	}
	if (w & BB_PW_WB)
		return -1;
	if (!(w & BB_PW_HASHED) || !bb_copy_leads(p, bb_pw_rx(w), p->sync.from))
		return 0;
	return atomic_compare_exchange_strong(&p->pw[page], &w, w | BB_PW_WB) ? 1 : -1;
}

/* The next run of pages. Return: true where something was done. */
static bool step(struct bb_program *p)
{
	struct bb_sync *s = &p->sync;
	uint32_t first = p->rx[s->to].extent * BB_EXTENT_PAGES;
	int got = 0;

	if (atomic_load(&p->x[first / BB_EXTENT_PAGES].state) != BB_X_MANAGED) {
		/* The program has freed it: nothing to copy, and both go. */
		s->next = BB_EXTENT_PAGES;
	}
	s->n = 0;
	for (; s->next + s->n < BB_EXTENT_PAGES && s->n < BB_RUN_PAGES_MAX; s->n++) {
		got = claim(p, first + s->next + s->n);
		if (got == 1)
			continue;
		if (got < 0 || s->n)
			break;
		s->next++;
		s->n--; /* looked at, not taken */
	}
	if (!s->n) {
		if (s->next < BB_EXTENT_PAGES)
			return false; /* busy: soon */
		p->rx[s->to].state = BB_RX_READY;
		s->to = 0;
		s->look_at = 0;
		return true;
	}
	s->page = first + s->next;
	begin(p, s->n == 1 ? BB_CMD_READ : BB_CMD_READ_RUN, s->from, was_read);
	s->req.ptr = place(p, s->from, s->page);
	s->req.len = s->n << BB_PAGE_SHIFT;
	bb_net_submit(p->pager->net, &s->req);
	return true;
}

bool bb_copies_poll(struct bb_program *p)
{
	struct bb_sync *s = &p->sync;

	if (s->busy)
		return false;
	if (s->to && (p->rx[s->to].state != BB_RX_SYNCING || p->rx[s->from].state != BB_RX_READY)) {
		release(p);
		if (p->rx[s->to].state == BB_RX_SYNCING)
			bb_extent_bad(p, s->to);
		s->to = 0;
	}
	if (p->pager->now >= s->look_at) {
		s->look_at = p->pager->now + LOOK_NS;
		look(p);
	}
	if (!s->to)
		return false;
	if (!s->data)
		s->data = malloc(BB_RUN_PAGES_MAX * BB_PAGE_SIZE);
	return s->data && step(p);
}
