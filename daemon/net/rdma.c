/* SPDX-License-Identifier: MIT */
/* The asker's side of RDMA: which way requests go. Its theory of operation is in rdma_impl.h. */
#include "net/rdma_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

#define EVENTS_NS 1000000ULL
#define PAGERS 64

static struct bb_rdma *rdma_of(struct bb_transport *t)
{
	return (struct bb_rdma *)t; /* its first member */
}

static bool is_read(const struct bb_net_req *r)
{
	return r->cmd == BB_CMD_READ || r->cmd == BB_CMD_READ_RUN;
}

/* --- lists ------------------------------------------------------------------------- */

static void list(struct bb_rdma_link *l, struct bb_net_req *r, enum bb_rdma_where where)
{
	struct bb_net_req **at = where == BB_RDMA_QUEUED ? &l->queue : &l->held;

	r->t.where = where;
	DL_APPEND2(*at, r, t.prev, t.next);
	if (where == BB_RDMA_QUEUED)
		l->dirty = true;
	bb_rdma_due(l->x, r->deadline);
}

void bb_rdma_unlist(struct bb_rdma_link *l, struct bb_net_req *r)
{
	struct bb_net_req **at = r->t.where == BB_RDMA_QUEUED ? &l->queue : &l->held;

	if (r->t.where != BB_RDMA_NOWHERE)
		DL_DELETE2(*at, r, t.prev, t.next);
	r->t.where = BB_RDMA_NOWHERE;
}

struct bb_rdma_extent *bb_rdma_extent(struct bb_rdma_link *l, uint64_t ptr, bool make)
{
	const uint64_t key = bb_rdma_extent_of(ptr);
	struct bb_rdma_extent *e;

	HASH_FIND(hh, l->extents, &key, sizeof(key), e);
	if (e || !make)
		return e;
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->ptr = key;
	HASH_ADD(hh, l->extents, ptr, sizeof(e->ptr), e);
	return e;
}

static void drop_extent(struct bb_rdma_link *l, struct bb_rdma_extent *e)
{
	e->gone = true;
	e->state = BB_RDMA_W_NONE;
	if (e->udp || e->busy)
		return;
	HASH_DEL(l->extents, e);
	free(e);
}

/* --- by UDP -------------------------------------------------------------------------- */

/* An extent's WRITE by UDP began (1) or ended (-1). ok: it was acknowledged. */
static void note_extents(struct bb_rdma_link *l, const struct bb_net_req *r, int what, bool ok)
{
	for (uint32_t i = 0; i < r->npages; i++) {
		struct bb_rdma_extent *e = bb_rdma_extent(l, r->pages[i].ptr, false);

		if (!e)
			continue;
		e->udp += (uint32_t)what;
		if (what < 0 && !ok)
			e->doubt = l->seq;
		if (what < 0 && e->gone)
			drop_extent(l, e);
	}
}

/* Do all of its extents have an entry, that can say that it is open? */
static bool can_note(struct bb_rdma_link *l, const struct bb_net_req *r)
{
	for (uint32_t i = 0; i < r->npages; i++)
		if (!bb_rdma_extent(l, r->pages[i].ptr, true))
			return false;
	return true;
}

static void passed_done(struct bb_net_req *r)
{
	struct bb_rdma_link *l = r->via.link;
	const bool ok = r->status == BB_ST_OK;

	DL_DELETE2(l->udp, r, via.prev, via.next);
	r->done = r->via.done;
	if (r->cmd == BB_CMD_WRITE && r->via.noted) {
		note_extents(l, r, -1, ok);
	} else if (r->cmd == BB_CMD_WRITE) {
		l->unnoted--;
		if (!ok)
			l->doubt = l->seq;
	}
	if (ok && r->via.floor - 1 > l->clean)
		l->clean = r->via.floor - 1;
	/* One that a connection that broke has done already. */
	if (r->cmd == BB_CMD_DELETE && r->status == BB_ST_GENERATION && r->via.maybe)
		r->status = BB_ST_OK;
	l->recheck = l->held;
	r->done(r);
}

void bb_rdma_pass(struct bb_rdma_link *l, struct bb_net_req *r)
{
	struct bb_transport *inner = l->x->inner;

	if (!is_read(r) && r->cmd != BB_CMD_CLOSE) {
		r->via.done = r->done;
		r->via.link = l;
		r->via.seq = ++l->seq;
		r->via.floor = l->udp ? l->udp->via.seq : r->via.seq;
		/* Before there is a connection one number does for all. */
		r->via.noted = r->cmd == BB_CMD_WRITE && l->step == BB_RDMA_OPEN && can_note(l, r);
		if (r->via.noted)
			note_extents(l, r, 1, true);
		else
			l->unnoted += r->cmd == BB_CMD_WRITE;
		r->done = passed_done;
		DL_APPEND2(l->udp, r, via.prev, via.next);
	}
	if (inner->submit(inner, r))
		bb_req_end(l->x->sh, r, BB_ST_UNREACH);
}

/* --- which way ------------------------------------------------------------------------- */

static bool usable(const struct bb_rdma_link *l, const struct bb_net_req *r)
{
	return l->step == BB_RDMA_OPEN && !l->closing && l->boot == r->boot;
}

/* Does its extent have a window, or may it get one now? */
static bool open_to(const struct bb_rdma_link *l, const struct bb_rdma_extent *e)
{
	if (e->gone)
		return false;
	if (e->state == BB_RDMA_W_REFUSED)
		return l->x->now >= e->at;
	return e->state != BB_RDMA_W_ASKED || e->epoch != l->epoch || l->x->now - e->at < BB_RDMA_ASKED_NS;
}

static void route_read(struct bb_rdma_link *l, struct bb_net_req *r)
{
	struct bb_rdma_extent *e = usable(l, r) ? bb_rdma_extent(l, r->ptr, true) : NULL;

	if (e && open_to(l, e) && bb_rdma_extent_of(r->ptr + r->len - 1) == e->ptr)
		list(l, r, BB_RDMA_QUEUED);
	else
		bb_rdma_pass(l, r);
}

static void route_write(struct bb_rdma_link *l, struct bb_net_req *r)
{
	bool by_udp = !usable(l, r) || l->doubt > l->clean, wait = l->unnoted;

	if (l->closing)
		return list(l, r, BB_RDMA_HELD);
	for (uint32_t i = 0; !by_udp && i < r->npages; i++) {
		const struct bb_rdma_extent *e = bb_rdma_extent(l, r->pages[i].ptr, true);

		by_udp = !e || !open_to(l, e) || e->doubt > l->clean;
		wait |= e && e->udp;
	}
	if (by_udp)
		bb_rdma_pass(l, r);
	else
		list(l, r, wait ? BB_RDMA_HELD : BB_RDMA_QUEUED);
}

static void route_delete(struct bb_rdma_link *l, struct bb_net_req *r)
{
	struct bb_rdma_extent *e = bb_rdma_extent(l, r->ptr, false);

	if (l->closing || (e && e->busy))
		return list(l, r, BB_RDMA_HELD);
	if (e)
		drop_extent(l, e);
	if (!usable(l, r) || !bb_rdma_ask(l, r))
		bb_rdma_pass(l, r);
}

void bb_rdma_route(struct bb_rdma_link *l, struct bb_net_req *r)
{
	switch (r->cmd) {
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		return route_read(l, r);
	case BB_CMD_WRITE:
		return route_write(l, r);
	case BB_CMD_DELETE:
		return route_delete(l, r);
	case BB_CMD_CREATE:
		/* One that may have been done on a connection that broke: what it gave is freed by CLOSE. */
		if (l->closing && r->via.maybe)
			return list(l, r, BB_RDMA_HELD);
		if (l->step == BB_RDMA_OPEN && !l->closing && (!r->boot || r->boot == l->boot) && bb_rdma_ask(l, r))
			return;
	}
	bb_rdma_pass(l, r);
}

static struct bb_rdma_link *link_of(struct bb_rdma *x, uint16_t node)
{
	struct bb_rdma_link *l;

	if (x->index[node])
		return x->link[x->index[node] - 1];
	if (node == BB_NODE_ANY || x->nlinks == BB_RDMA_PEERS)
		return NULL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->x = x;
	l->node = node;
	l->index = (uint8_t)x->nlinks;
	x->link[x->nlinks++] = l;
	x->index[node] = (uint8_t)x->nlinks;
	return l;
}

static int submit(struct bb_transport *t, struct bb_net_req *r)
{
	struct bb_rdma *x = rdma_of(t);
	struct bb_rdma_link *l = link_of(x, r->node);

	if (!l || r->cmd == BB_CMD_CLOSE)
		return x->inner->submit(x->inner, r);
	x->now = bb_now_ns();
	memset(&r->t, 0, sizeof(r->t));
	memset(&r->via, 0, sizeof(r->via));
	bb_rdma_consider(l);
	bb_rdma_route(l, r);
	return 0;
}

/* --- timers ------------------------------------------------------------------------------- */

/* ->done may submit more, at the end of a list; it never takes another request out. */
static void overdue(struct bb_rdma_link *l, struct bb_net_req *from)
{
	struct bb_net_req *r, *next;

	DL_FOREACH_SAFE2(from, r, next, t.next) {
		if (l->x->now < r->deadline) {
			bb_rdma_due(l->x, r->deadline);
			continue;
		}
		bb_rdma_unlist(l, r);
		bb_req_end(l->x->sh, r, BB_ST_TIMEOUT);
	}
}

/* What is posted may be done late: then the connection goes, so that nothing comes after its end. */
static void overdue_ops(struct bb_rdma *x)
{
	for (unsigned int i = 0; i < BB_RDMA_OPS; i++) {
		const struct bb_rdma_op *op = &x->op[i];

		if (op->req && x->now >= op->req->deadline)
			bb_rdma_break(op->link, BB_RDMA_LATE, NULL);
		if (op->req)
			bb_rdma_due(x, op->req->deadline);
	}
}

static void overdue_asks(struct bb_rdma_link *l)
{
	for (unsigned int i = 0; i < BB_RDMA_ASKS; i++) {
		const struct bb_net_req *r = l->ask[i].id ? l->ask[i].req : NULL;

		if (r && l->x->now >= r->deadline) {
			bb_rdma_break(l, BB_RDMA_LATE, NULL);
			return;
		}
		if (r)
			bb_rdma_due(l->x, r->deadline);
	}
}

static void timers(struct bb_rdma *x)
{
	if (x->now < x->due)
		return;
	x->due = ~0ULL;
	overdue_ops(x);
	for (unsigned int i = 0; i < x->nlinks; i++) {
		struct bb_rdma_link *l = x->link[i];

		bb_rdma_conn_timers(l);
		overdue_asks(l);
		overdue(l, l->queue);
		overdue(l, l->held);
		if (l->queue) {
			l->dirty = true; /* a window that does not come, a refusal that is over */
			bb_rdma_due(x, x->now + BB_RDMA_ASKED_NS);
		}
	}
}

/* What waited for something that has happened. */
static void recheck(struct bb_rdma_link *l)
{
	struct bb_net_req *r, *next, *all = l->held;

	l->recheck = false;
	l->held = NULL;
	DL_FOREACH_SAFE2(all, r, next, t.next) {
		DL_DELETE2(all, r, t.prev, t.next);
		r->t.where = BB_RDMA_NOWHERE;
		bb_rdma_route(l, r);
	}
}

/* --- the transport ----------------------------------------------------------------------------- */

static void push_all(struct bb_rdma *x)
{
	for (unsigned int i = 0; i < x->nlinks; i++) {
		struct bb_rdma_link *l = x->link[i];

		if (l->recheck)
			recheck(l);
		if (l->dirty)
			bb_rdma_push(l);
	}
}

static void flush(struct bb_transport *t)
{
	struct bb_rdma *x = rdma_of(t);

	push_all(x);
	x->inner->flush(x->inner);
}

static void disarm(struct bb_rdma *x)
{
	struct ibv_cq *cq;
	void *context;

	if (ibv_get_cq_event(x->channel, &cq, &context))
		return;
	ibv_ack_cq_events(cq, 1);
	x->armed = false;
}

static int poll_rdma(struct bb_transport *t)
{
	struct bb_rdma *x = rdma_of(t);
	int n;

	x->replies = 0;
	if (!x->nlinks)
		return x->inner->poll(x->inner);
	x->now = bb_now_ns();
	if (x->ready) {
		while (bb_rdma_completions(x) > 0)
			;
		if (x->armed)
			disarm(x);
	}
	if (x->now >= x->events_at) {
		x->events_at = x->now + EVENTS_NS;
		bb_rdma_events(x);
	}
	timers(x);
	push_all(x);
	n = x->replies;
	n += x->inner->poll(x->inner);
	push_all(x); /* what a WRITE by UDP kept waiting */
	x->inner->flush(x->inner);
	return n;
}

static int fd_of(struct bb_transport *t)
{
	return rdma_of(t)->epoll;
}

/* Asked before the thread sleeps: from then on the next completion wakes it. */
static uint64_t next_timer(struct bb_transport *t)
{
	struct bb_rdma *x = rdma_of(t);
	uint64_t next = x->inner->next(x->inner);

	x->events_at = 0;
	if (x->ready && !x->armed) {
		x->armed = !ibv_req_notify_cq(x->cq, 0);
		return 0; /* what came before that is looked for once more */
	}
	return x->due < next ? x->due : next;
}

static void end_all(struct bb_rdma_link *l, struct bb_net_req **from)
{
	while (*from) {
		struct bb_net_req *r = *from;

		bb_rdma_unlist(l, r);
		bb_req_end(l->x->sh, r, BB_ST_TIMEOUT);
	}
}

static void rdma_free(struct bb_transport *t)
{
	struct bb_rdma *x = rdma_of(t);

	x->sh->closing = true;
	for (unsigned int i = 0; i < x->nlinks; i++) {
		bb_rdma_break(x->link[i], BB_RDMA_UNUSED, NULL);
		bb_rdma_forget(x->link[i]);
		end_all(x->link[i], &x->link[i]->queue);
		end_all(x->link[i], &x->link[i]->held);
	}
	x->inner->free(x->inner); /* ends what went there, which tells the links */
	for (unsigned int i = 0; i < x->nlinks; i++) {
		struct bb_rdma_link *l = x->link[i];
		struct bb_rdma_extent *e, *next;

		HASH_ITER(hh, l->extents, e, next) {
			HASH_DEL(l->extents, e);
			free(e);
		}
		bb_rdma_set_state(x->pager, l->node, BB_RDMA_UNUSED);
		free(l);
	}
	bb_rdma_fini(x);
	if (x->cm)
		rdma_destroy_event_channel(x->cm);
	if (x->epoll >= 0)
		close(x->epoll);
	free(x);
}

static void enter(struct bb_transport *t)
{
	bb_rdma_channel(rdma_of(t));
}

int bb_rdma_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_peers *peers, struct bb_transport *inner,
		unsigned int index)
{
	struct bb_rdma *x;

	*out = inner;
	/* The mover asks for what others own, into which it gets no window. */
	if (!bb_rdma_dev() || index >= PAGERS)
		return 0;
	x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	x->t = (struct bb_transport){
		.name = "rdma", .submit = submit, .flush = flush, .poll = poll_rdma, .fd = fd_of, .next = next_timer,
		.enter = enter, .free = rdma_free,
	};
	x->sh = sh;
	x->table = peers;
	x->cfg = bb_peers_config(peers);
	x->dev = bb_rdma_dev();
	x->inner = inner;
	x->pager = index;
	x->due = ~0ULL;
	x->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (x->epoll < 0 || bb_rdma_watch(x, inner->fd(inner))) {
		bb_warn_once("rdma: pages are asked for by UDP alone (%m)");
		if (x->epoll >= 0)
			close(x->epoll);
		free(x);
		return 0;
	}
	*out = &x->t;
	return 0;
}
