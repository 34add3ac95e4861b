/* SPDX-License-Identifier: MIT */
/* See loop.h. */
#include "net/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <utlist.h>

#include "clock.h"
#include "net/transport.h"

enum { HELD_LATE = 1, HELD_LOST };

struct loop {
	struct bb_transport t;
	struct bb_net_shared *sh;
	struct bb_transport *inner;
	struct bb_loop_config cfg;
	uint64_t count;
	struct bb_net_req *held; /* lost or late; t.resend_at: when it goes on */
	int replies;
};

/* The first of two: its end starts the second. */
struct twin {
	struct bb_net_req req;
	struct bb_net_req *second;
	struct loop *l;
};

static bool nth(const struct loop *l, unsigned int every)
{
	return every && l->count % every == 0;
}

static int pass_on(struct loop *l, struct bb_net_req *r)
{
	return l->inner->submit(l->inner, r);
}

static void first_done(struct bb_net_req *req)
{
	struct twin *w = (struct twin *)req; /* its first member */
	struct bb_net_req *r = w->second;
	struct loop *l = w->l;

	free(w);
	if (l->sh->closing)
		bb_req_end(l->sh, r, BB_ST_TIMEOUT);
	else if (pass_on(l, r))
		bb_req_end(l->sh, r, BB_ST_UNREACH);
}

static int pass_twice(struct loop *l, struct bb_net_req *r)
{
	struct twin *w = malloc(sizeof(*w));
	int ret;

	if (!w)
		return pass_on(l, r);
	w->req = *r;
	w->req.done = first_done;
	w->second = r;
	w->l = l;
	l->sh->inflight++;
	ret = pass_on(l, &w->req);
	if (ret) {
		l->sh->inflight--;
		free(w);
	}
	return ret;
}

static int submit(struct bb_transport *t, struct bb_net_req *r)
{
	struct loop *l = (struct loop *)t; /* its first member */

	l->count++;
	if (nth(l, l->cfg.refuse_every)) {
		bb_req_end(l->sh, r, l->cfg.refuse_status);
		return 0;
	}
	if (nth(l, l->cfg.drop_every) || nth(l, l->cfg.delay_every)) {
		uint64_t late = bb_now_ns() + l->cfg.delay_ns;
		bool lost = nth(l, l->cfg.drop_every) || late >= r->deadline;

		r->t.where = lost ? HELD_LOST : HELD_LATE;
		r->t.resend_at = lost ? r->deadline : late;
		DL_APPEND2(l->held, r, t.prev, t.next);
		return 0;
	}
	if (nth(l, l->cfg.dup_every) && (r->cmd == BB_CMD_READ || r->cmd == BB_CMD_READ_RUN || r->cmd == BB_CMD_WRITE))
		return pass_twice(l, r);
	return pass_on(l, r);
}

static void flush(struct bb_transport *t)
{
	struct loop *l = (struct loop *)t;

	l->inner->flush(l->inner);
}

static int poll_loop(struct bb_transport *t)
{
	struct loop *l = (struct loop *)t;
	struct bb_net_req *r, *next;
	const uint64_t now = l->held ? bb_now_ns() : 0;
	int n = 0;

	DL_FOREACH_SAFE2(l->held, r, next, t.next) {
		if (now < r->t.resend_at)
			continue;
		DL_DELETE2(l->held, r, t.prev, t.next);
		n++;
		if (r->t.where == HELD_LOST)
			bb_req_end(l->sh, r, BB_ST_TIMEOUT);
		else if (pass_on(l, r))
			bb_req_end(l->sh, r, BB_ST_UNREACH);
	}
	return n + l->inner->poll(l->inner);
}

static int fd_of(struct bb_transport *t)
{
	struct loop *l = (struct loop *)t;

	return l->inner->fd(l->inner);
}

static uint64_t next_timer(struct bb_transport *t)
{
	struct loop *l = (struct loop *)t;
	uint64_t next = l->inner->next(l->inner);
	struct bb_net_req *r;

	DL_FOREACH2(l->held, r, t.next)
		if (r->t.resend_at < next)
			next = r->t.resend_at;
	return next;
}

static void loop_free(struct bb_transport *t)
{
	struct loop *l = (struct loop *)t;

	while (l->held) {
		struct bb_net_req *r = l->held;

		DL_DELETE2(l->held, r, t.prev, t.next);
		bb_req_end(l->sh, r, BB_ST_TIMEOUT);
	}
	l->inner->free(l->inner);
	free(l);
}

int bb_loop_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_transport *inner,
		const struct bb_loop_config *cfg)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->t = (struct bb_transport){
		.name = "loop",
		.submit = submit,
		.flush = flush,
		.poll = poll_loop,
		.fd = fd_of,
		.next = next_timer,
		.free = loop_free,
	};
	l->sh = sh;
	l->inner = inner;
	l->cfg = *cfg;
	*out = &l->t;
	return 0;
}
