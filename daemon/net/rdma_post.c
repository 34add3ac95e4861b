/* SPDX-License-Identifier: MIT */
/* The asker's side of RDMA: work requests and completions. Its theory of operation is in rdma_impl.h. */
#include "net/rdma_impl.h"

#include <string.h>

#include "clock.h"
#include "log.h"

#define RECV_BIT (1ULL << 63)
#define ASK_BIT (1ULL << 62)
#define WCS 32
#define AGAIN_NS 1000000000ULL	/* a window that was refused is asked for again */
#define BUSY_NS 20000000ULL

/* --- memory ---------------------------------------------------------------------------- */

static uint8_t *page_at(const struct bb_rdma *x, unsigned int i)
{
	return x->memory + (size_t)i * BB_PAGE_SIZE;
}

static uint8_t *run_at(const struct bb_rdma *x, unsigned int i)
{
	return page_at(x, BB_RDMA_PAGES) + (size_t)i * BB_RDMA_RUN_BYTES;
}

static uint8_t *send_at(const struct bb_rdma *x, unsigned int i)
{
	return run_at(x, BB_RDMA_RUNS) + (size_t)i * BB_RDMA_BUFFER;
}

static uint8_t *recv_at(const struct bb_rdma *x, unsigned int i)
{
	return send_at(x, BB_RDMA_SLOTS) + (size_t)i * BB_RDMA_BUFFER;
}

void bb_rdma_post_recv(struct bb_rdma *x, unsigned int slot)
{
	struct ibv_sge sge = { (uintptr_t)recv_at(x, slot), BB_RDMA_BUFFER, x->mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = RECV_BIT | slot, .sg_list = &sge, .num_sge = 1 }, *bad;

	if (ibv_post_srq_recv(x->srq, &wr, &bad))
		bb_warn_once("rdma: a buffer to receive into is lost (%m)");
}

/* The operation's extents: one more, or less, is under way. */
static void busy(const struct bb_rdma_op *op, int what)
{
	const struct bb_net_req *r = op->req;
	const uint32_t n = r->cmd == BB_CMD_WRITE ? r->npages : 1;

	for (uint32_t i = 0; i < n; i++) {
		struct bb_rdma_extent *e = bb_rdma_extent(op->link, r->cmd == BB_CMD_WRITE ? r->pages[i].ptr : r->ptr, false);

		if (e)
			e->busy += (uint32_t)what;
	}
}

void bb_rdma_op_free(struct bb_rdma *x, struct bb_rdma_op *op)
{
	busy(op, -1);
	if (op->link->held)
		op->link->recheck = true;
	for (unsigned int i = 0; i < op->npages; i++)
		x->free_page[x->npages++] = op->page[i];
	if (op->run >= 0)
		x->free_run[x->nruns++] = (uint16_t)op->run;
	op->req = NULL;
	op->serial++;
	x->free_op[x->nops++] = (uint16_t)(op - x->op);
}

/* --- the chain -------------------------------------------------------------------------- */

/* One more work request; the caller adds to wr->sg_list, up to num_sge. */
static struct ibv_send_wr *add(struct bb_rdma *x, enum ibv_wr_opcode opcode)
{
	struct ibv_send_wr *wr = &x->wr[x->nwr++];

	*wr = (struct ibv_send_wr){ .opcode = opcode, .sg_list = &x->sge[x->nsge] };
	if (x->nwr > 1)
		wr[-1].next = wr;
	return wr;
}

static void add_sge(struct bb_rdma *x, struct ibv_send_wr *wr, const void *at, uint32_t len)
{
	x->sge[x->nsge++] = (struct ibv_sge){ (uintptr_t)at, len, x->mr->lkey };
	wr->num_sge++;
}

/* One doorbell. Return: false: the link is broken. */
static bool post(struct bb_rdma_link *l)
{
	struct bb_rdma *x = l->x;
	struct ibv_send_wr *bad;
	int r;

	if (!x->nwr)
		return true;
	l->wrs += x->nwr;
	x->wrs += x->nwr;
	r = ibv_post_send(l->id->qp, x->wr, &bad);
	x->nwr = x->nsge = 0;
	if (!r)
		return true;
	bb_rdma_break(l, BB_RDMA_NO_MEANS, strerrordesc_np(r > 0 ? r : -r));
	return false;
}

static bool room(const struct bb_rdma_link *l, unsigned int wrs)
{
	const struct bb_rdma *x = l->x;

	return l->wrs + x->nwr + wrs <= l->depth && x->wrs + x->nwr + wrs <= x->max_wrs;
}

/* --- control messages -------------------------------------------------------------------- */

/* Into the chain. Return: false where there are too many without an answer. */
static bool add_ask(struct bb_rdma_link *l, uint8_t cmd, uint64_t ptr, struct bb_net_req *r)
{
	struct bb_rdma *x = l->x;
	struct bb_rdma_ask *a = l->ask;
	struct ibv_send_wr *wr;
	uint8_t *buffer;

	if (l->nasks == BB_RDMA_ASKS || x->nwr == BB_RDMA_CHAIN || !room(l, 1))
		return false;
	while (a->id)
		a++;
	*a = (struct bb_rdma_ask){ .id = ++l->last_id, .cmd = cmd, .ptr = ptr, .req = r };
	l->nasks++;
	buffer = send_at(x, l->index * BB_RDMA_ASKS + (unsigned int)(a - l->ask));
	x->msg = (struct bb_rdma_msg){ .cmd = cmd, .id = a->id, .ptr = ptr, .count = r && cmd == BB_RDMA_CREATE ? r->len : 0,
				       .flags = r && cmd == BB_RDMA_CREATE ? r->flags : 0 };
	wr = add(x, IBV_WR_SEND);
	add_sge(x, wr, buffer, (uint32_t)bb_rdma_msg_encode(&x->msg, buffer));
	wr->send_flags = IBV_SEND_SIGNALED | (x->sge[x->nsge - 1].length <= l->inlined ? IBV_SEND_INLINE : 0);
	wr->wr_id = ASK_BIT | (uint64_t)l->index << 32 | l->epoch;
	return true;
}

bool bb_rdma_ask(struct bb_rdma_link *l, struct bb_net_req *r)
{
	r->t_sent = bb_now_ns();
	if (!add_ask(l, r->cmd == BB_CMD_CREATE ? BB_RDMA_CREATE : BB_RDMA_DELETE, r->ptr, r))
		return false;
	bb_rdma_due(l->x, r->deadline);
	post(l); /* where that fails it has been taken back and sent another way */
	return true;
}

static void answered_window(struct bb_rdma_link *l, const struct bb_rdma_msg *m)
{
	struct bb_rdma_extent *e = bb_rdma_extent(l, m->ptr, false);

	if (!e || e->gone || e->state != BB_RDMA_W_ASKED || e->epoch != l->epoch)
		return;
	if (m->status == BB_ST_OK) {
		e->state = BB_RDMA_W_OPEN;
		e->rkey = m->rkey;
		e->addr = m->addr;
	} else {
		e->state = BB_RDMA_W_REFUSED;
		e->at = l->x->now + (m->status == BB_ST_BUSY ? BUSY_NS : AGAIN_NS);
	}
	l->dirty = true;
}

static void answered(struct bb_rdma_link *l, const struct bb_rdma_msg *m)
{
	struct bb_rdma_ask *a = l->ask;
	struct bb_net_req *r;
	uint8_t st = m->status;

	while (a < l->ask + BB_RDMA_ASKS && a->id != m->id)
		a++;
	if (a == l->ask + BB_RDMA_ASKS || a->cmd != m->cmd || (m->cmd != BB_RDMA_CREATE && a->ptr != m->ptr) ||
	    (m->cmd == BB_RDMA_CREATE && m->status == BB_ST_OK && (!m->count || m->count > a->req->len))) {
		bb_rdma_break(l, BB_RDMA_BROKE, "an answer to nothing that was asked");
		return;
	}
	r = a->req;
	a->id = 0;
	l->nasks--;
	l->seen = m->id;
	if (m->cmd == BB_RDMA_WINDOW)
		return answered_window(l, m);
	if (m->cmd == BB_RDMA_DELETE && st == BB_ST_GENERATION && r->via.maybe)
		st = BB_ST_OK;
	if (st != BB_ST_OK) { /* UDP says it as it is, or waits until it is not */
		r->via.maybe = false;
		bb_rdma_pass(l, r);
		return;
	}
	r->nptrs = m->cmd == BB_RDMA_CREATE ? m->count : 0;
	memcpy(r->ptrs, m->ptrs, r->nptrs * sizeof(r->ptrs[0]));
	r->new_boot = l->boot;
	r->t_recv = bb_now_ns();
	l->x->replies++;
	bb_req_end(l->x->sh, r, BB_ST_OK);
}

/* --- READ and WRITE ------------------------------------------------------------------------ */

enum verdict { READY, WAIT, NO };

/* Asks for the extent's window where it has none. */
static enum verdict window(struct bb_rdma_link *l, uint64_t ptr)
{
	struct bb_rdma_extent *e = bb_rdma_extent(l, ptr, true);
	const uint64_t now = l->x->now;

	if (!e || e->gone)
		return NO;
	if (e->state == BB_RDMA_W_REFUSED && now < e->at)
		return NO;
	if (e->state != BB_RDMA_W_REFUSED && e->epoch == l->epoch) {
		if (e->state == BB_RDMA_W_OPEN)
			return READY;
		if (e->state == BB_RDMA_W_ASKED)
			return now - e->at < BB_RDMA_ASKED_NS ? WAIT : NO;
	}
	if (!add_ask(l, BB_RDMA_WINDOW, e->ptr, NULL))
		return WAIT;
	e->state = BB_RDMA_W_ASKED;
	e->epoch = l->epoch;
	e->at = now;
	bb_rdma_due(l->x, now + BB_RDMA_ASKED_NS);
	return WAIT;
}

static enum verdict windows(struct bb_rdma_link *l, const struct bb_net_req *r)
{
	enum verdict all = READY;

	if (r->cmd != BB_CMD_WRITE)
		return window(l, r->ptr);
	for (uint32_t i = 0; i < r->npages; i++) {
		const enum verdict v = i && bb_rdma_extent_of(r->pages[i].ptr) == bb_rdma_extent_of(r->pages[i - 1].ptr) ?
					       READY : window(l, r->pages[i].ptr);

		if (v > all)
			all = v;
	}
	return all;
}

static void target(struct bb_rdma_link *l, struct ibv_send_wr *wr, uint64_t ptr)
{
	const struct bb_rdma_extent *e = bb_rdma_extent(l, ptr, false);

	wr->wr.rdma.rkey = e->rkey;
	wr->wr.rdma.remote_addr = e->addr + (ptr & (BB_EXTENT_SIZE - 1));
}

static void add_read(struct bb_rdma_link *l, struct bb_rdma_op *op)
{
	struct bb_rdma *x = l->x;
	struct bb_net_req *r = op->req;
	struct ibv_send_wr *wr = add(x, IBV_WR_RDMA_READ);

	if (r->len > BB_PAGE_SIZE) {
		op->run = (int16_t)x->free_run[--x->nruns];
		add_sge(x, wr, run_at(x, (unsigned int)op->run), r->len);
	} else {
		op->page[op->npages++] = x->free_page[--x->npages];
		add_sge(x, wr, page_at(x, op->page[0]), BB_PAGE_SIZE);
	}
	target(l, wr, r->ptr);
	op->wrs = 1;
}

/* Neighbours go together; what is acknowledged is the last. */
static void add_write(struct bb_rdma_link *l, struct bb_rdma_op *op)
{
	struct bb_rdma *x = l->x;
	const struct bb_net_req *r = op->req;
	struct ibv_send_wr *wr = NULL;

	for (uint32_t i = 0; i < r->npages; i++) {
		const uint16_t page = x->free_page[--x->npages];

		memcpy(page_at(x, page), r->pages[i].data, BB_PAGE_SIZE);
		op->page[op->npages++] = page;
		if (!wr || (unsigned int)wr->num_sge == l->sges || r->pages[i].ptr != r->pages[i - 1].ptr + BB_PAGE_SIZE ||
		    !(r->pages[i].ptr & (BB_EXTENT_SIZE - 1))) {
			wr = add(x, IBV_WR_RDMA_WRITE);
			target(l, wr, r->pages[i].ptr);
			op->wrs++;
		}
		add_sge(x, wr, page_at(x, page), BB_PAGE_SIZE);
	}
}

/* Return: false where there is no room now. */
static bool add_op(struct bb_rdma_link *l, struct bb_net_req *r)
{
	struct bb_rdma *x = l->x;
	const bool write = r->cmd == BB_CMD_WRITE;
	const unsigned int pages = write ? r->npages : r->len == BB_PAGE_SIZE ? 1 : 0, wrs = write ? r->npages : 1;
	struct bb_rdma_op *op;

	if (!x->nops || x->npages < pages || (!pages && !x->nruns) || !room(l, wrs) || x->nwr + wrs > BB_RDMA_CHAIN)
		return false;
	op = &x->op[x->free_op[--x->nops]];
	*op = (struct bb_rdma_op){ .req = r, .link = l, .serial = op->serial, .run = -1 };
	if (write)
		add_write(l, op);
	else
		add_read(l, op);
	x->wr[x->nwr - 1].send_flags = IBV_SEND_SIGNALED;
	x->wr[x->nwr - 1].wr_id = (uint64_t)(op - x->op) << 32 | op->serial;
	busy(op, 1);
	if (!r->t_sent)
		r->t_sent = x->now;
	return true;
}

void bb_rdma_push(struct bb_rdma_link *l)
{
	struct bb_rdma *x = l->x;
	struct bb_net_req *r, *next, *other = NULL;

	l->dirty = false;
	if (l->step != BB_RDMA_OPEN)
		return;
	DL_FOREACH_SAFE2(l->queue, r, next, t.next) {
		enum verdict v;

		/* A WRITE and the questions before it fit into what is left of a chain, or begin another. */
		if (x->nwr + 2 * BB_BATCH_PAGES_MAX > BB_RDMA_CHAIN && !post(l))
			break;
		v = windows(l, r);
		if (v == WAIT || (v == READY && !add_op(l, r)))
			continue;
		bb_rdma_unlist(l, r);
		if (v == NO) {
			DL_APPEND2(other, r, t.prev, t.next);
			continue;
		}
		bb_rdma_due(x, r->deadline);
	}
	post(l);
	DL_FOREACH_SAFE2(other, r, next, t.next) {
		DL_DELETE2(other, r, t.prev, t.next);
		bb_rdma_route(l, r); /* its refusal is noted now */
	}
	x->inner->flush(x->inner);
}

/* --- completions ------------------------------------------------------------------------------ */

static struct bb_rdma_link *by_qp(struct bb_rdma *x, uint32_t qpn)
{
	for (unsigned int i = 0; i < x->nlinks; i++)
		if (x->link[i]->id && x->link[i]->id->qp && x->link[i]->id->qp->qp_num == qpn)
			return x->link[i];
	return NULL;
}

static void received(struct bb_rdma *x, const struct ibv_wc *wc)
{
	const unsigned int slot = (unsigned int)(wc->wr_id & ~RECV_BIT);
	struct bb_rdma_link *l = by_qp(x, wc->qp_num);
	const size_t len = wc->byte_len < BB_RDMA_BUFFER ? wc->byte_len : BB_RDMA_BUFFER;
	const bool ok = l && wc->status == IBV_WC_SUCCESS && bb_rdma_msg_decode(&x->msg, recv_at(x, slot), len) && x->msg.reply;

	bb_rdma_post_recv(x, slot);
	if (ok) {
		struct bb_rdma_msg m = x->msg; /* what it brings may make us say something */

		answered(l, &m);
	} else if (l) {
		bb_rdma_break(l, BB_RDMA_BROKE, wc->status == IBV_WC_SUCCESS ? "an answer that cannot be" :
									       ibv_wc_status_str(wc->status));
	}
}

/* The last of its work requests: those before it are done as well. */
static void done(struct bb_rdma *x, struct bb_rdma_op *op)
{
	struct bb_rdma_link *l = op->link;
	struct bb_net_req *r = op->req;
	const bool write = r->cmd == BB_CMD_WRITE;
	struct bb_rdma_op mine = *op;

	l->wrs -= op->wrs;
	x->wrs -= op->wrs;
	if (write)
		x->sh->stats.rdma_writes += r->npages;
	else
		x->sh->stats.rdma_reads += r->len / BB_PAGE_SIZE;
	r->data = write ? NULL : mine.run >= 0 ? run_at(x, (unsigned int)mine.run) : page_at(x, mine.page[0]);
	r->new_boot = l->boot;
	r->t_recv = bb_now_ns();
	x->replies++;
	/* Its buffers hold the data until ->done has returned, which may use the request anew. */
	busy(op, -1);
	op->req = NULL;
	op->serial++;
	bb_req_end(x->sh, r, BB_ST_OK);
	for (unsigned int i = 0; i < mine.npages; i++)
		x->free_page[x->npages++] = mine.page[i];
	if (mine.run >= 0)
		x->free_run[x->nruns++] = (uint16_t)mine.run;
	x->free_op[x->nops++] = (uint16_t)(op - x->op);
	if (l->held)
		l->recheck = true;
	if (l->queue)
		l->dirty = true;
}

static void completion(struct bb_rdma *x, const struct ibv_wc *wc)
{
	const bool ok = wc->status == IBV_WC_SUCCESS;
	struct bb_rdma_link *l = NULL;
	struct bb_rdma_op *op;

	if (wc->wr_id & RECV_BIT)
		return received(x, wc);
	if (wc->wr_id & ASK_BIT) {
		l = x->link[wc->wr_id >> 32 & 0xff];
		if (l->step != BB_RDMA_OPEN || (uint32_t)wc->wr_id != l->epoch)
			return; /* of a connection that has ended */
		if (ok) {
			l->wrs--;
			x->wrs--;
			return;
		}
	} else {
		op = &x->op[wc->wr_id >> 32 & (BB_RDMA_OPS - 1)];
		if (op->req && op->serial == (uint32_t)wc->wr_id)
			l = op->link;
		else
			l = ok ? NULL : by_qp(x, wc->qp_num); /* one that is not signalled */
		if (l && ok) {
			done(x, op);
			return;
		}
	}
	if (l)
		bb_rdma_break(l, BB_RDMA_BROKE, ibv_wc_status_str(wc->status));
}

int bb_rdma_completions(struct bb_rdma *x)
{
	struct ibv_wc wc[WCS];
	int n = ibv_poll_cq(x->cq, WCS, wc);

	for (int i = 0; i < n; i++)
		completion(x, &wc[i]);
	if (n < 0)
		for (unsigned int i = 0; i < x->nlinks; i++)
			bb_rdma_break(x->link[i], BB_RDMA_BROKE, "completions cannot be had");
	return n;
}
