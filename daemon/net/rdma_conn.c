/* SPDX-License-Identifier: MIT */
/* The asker's side of RDMA: connections. Its theory of operation is in rdma_impl.h. */
#include "net/rdma_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>

#include "clock.h"
#include "log.h"

#define LOOK_NS 100000000ULL	  /* in the table of peers */
#define STEP_NS 4000000000ULL	  /* a step of rdma_cm */
#define STEP_MS 2000
#define WAIT_NS 500000000ULL	  /* before the next try, doubled from one to the next */
#define WAIT_MAX_NS 30000000000ULL
#define CLOSE_NS 1000000000ULL	  /* a CLOSE */
#define CLOSE_AGAIN_NS 50000000ULL
#define ACK_TIMEOUT 14		  /* 4.096 us << 14 = 67 ms; eight of them end a connection */
#define RETRIES 7
#define RNR_RETRIES 6
#define INLINE 64
#define MEMORY ((size_t)BB_RDMA_PAGES * BB_PAGE_SIZE + (size_t)BB_RDMA_RUNS * BB_RDMA_RUN_BYTES + \
		(size_t)2 * BB_RDMA_SLOTS * BB_RDMA_BUFFER)

static void set_state(const struct bb_rdma_link *l, enum bb_rdma_state s)
{
	bb_rdma_set_state(l->x->pager, l->node, s);
}

/* --- what all connections share --------------------------------------------------- */

int bb_rdma_watch(struct bb_rdma *x, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };

	return epoll_ctl(x->epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static int unblock(int fd)
{
	return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) ? -errno : 0;
}

int bb_rdma_channel(struct bb_rdma *x)
{
	if (x->cm)
		return 0;
	x->cm = rdma_create_event_channel();
	if (!x->cm)
		return -errno;
	if (unblock(x->cm->fd) || bb_rdma_watch(x, x->cm->fd)) {
		rdma_destroy_event_channel(x->cm);
		x->cm = NULL;
		return -errno;
	}
	return 0;
}

/* All or nothing. Return: 0 or -errno. */
static int make_means(struct bb_rdma *x)
{
	struct ibv_srq_init_attr a = { .attr = { .max_wr = BB_RDMA_SLOTS, .max_sge = 1 } };
	int cqes = 2 * BB_RDMA_WRS;

	if (cqes > x->dev->attr.max_cqe)
		cqes = x->dev->attr.max_cqe;
	x->max_wrs = (unsigned int)cqes / 2;
	x->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (x->memory == MAP_FAILED) {
		x->memory = NULL;
		return -errno;
	}
	x->pd = ibv_alloc_pd(x->dev->verbs);
	if (!x->pd)
		return -errno;
	x->mr = ibv_reg_mr(x->pd, x->memory, MEMORY, IBV_ACCESS_LOCAL_WRITE);
	if (!x->mr)
		return -errno;
	x->channel = ibv_create_comp_channel(x->dev->verbs);
	if (!x->channel || unblock(x->channel->fd) || bb_rdma_watch(x, x->channel->fd))
		return -errno;
	x->cq = ibv_create_cq(x->dev->verbs, cqes, NULL, x->channel, 0);
	if (!x->cq)
		return -errno;
	x->srq = ibv_create_srq(x->pd, &a);
	return x->srq ? 0 : -errno;
}

void bb_rdma_fini(struct bb_rdma *x)
{
	if (x->srq)
		ibv_destroy_srq(x->srq);
	if (x->cq)
		ibv_destroy_cq(x->cq);
	if (x->channel)
		ibv_destroy_comp_channel(x->channel);
	if (x->mr)
		ibv_dereg_mr(x->mr);
	if (x->pd)
		ibv_dealloc_pd(x->pd);
	if (x->memory)
		munmap(x->memory, MEMORY);
	x->srq = NULL;
	x->cq = NULL;
	x->channel = NULL;
	x->mr = NULL;
	x->pd = NULL;
	x->memory = NULL;
	x->ready = x->armed = false;
}

static int means(struct bb_rdma *x)
{
	int r;

	if (x->ready)
		return 0;
	errno = 0;
	r = make_means(x);
	if (r) {
		bb_warn_once("rdma: queues and memory for them cannot be had (%s)%s: pages are asked for by UDP",
			     strerrordesc_np(-r), r == -ENOMEM ? "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK= "
								 "of the service)" : "");
		bb_rdma_fini(x);
		return r;
	}
	x->npages = x->nruns = x->nops = 0;
	for (uint16_t i = BB_RDMA_PAGES; i--;)
		x->free_page[x->npages++] = i;
	for (uint16_t i = BB_RDMA_RUNS; i--;)
		x->free_run[x->nruns++] = i;
	for (uint16_t i = BB_RDMA_OPS; i--;) {
		x->free_op[x->nops++] = i;
		x->op[i].serial |= 1; /* never 0, which is of what is not signalled */
	}
	x->ready = true;
	for (unsigned int i = 0; i < BB_RDMA_SLOTS; i++)
		bb_rdma_post_recv(x, i);
	return 0;
}

/* --- the end ------------------------------------------------------------------------- */

/* Return: whether the queue pair, if there was one, touches our memory no more. */
static bool destroy(struct bb_rdma_link *l)
{
	struct ibv_qp_attr error = { .qp_state = IBV_QPS_ERR };
	bool ok = true;

	if (!l->id)
		return true;
	if (l->id->qp) {
		ok = !ibv_modify_qp(l->id->qp, &error, IBV_QP_STATE);
		ok = !ibv_destroy_qp(l->id->qp) || ok;
		l->id->qp = NULL;
	}
	/* That tells the peer: not over a link that may be down. CLOSE is what counts. */
	if (l->step < BB_RDMA_CONNECT)
		rdma_destroy_id(l->id);
	else
		l->old = l->id;
	l->id = NULL;
	return ok;
}

static void say(struct bb_rdma_link *l, enum bb_rdma_state why, const char *detail)
{
	if (why == BB_RDMA_UNUSED || l->x->sh->closing)
		return;
	/* Once a connection; tries that fail, once until one succeeds. */
	if (l->step == BB_RDMA_OPEN || l->wait <= WAIT_NS)
		bb_warn("rdma: node %u: %s%s%s%s: its pages go by UDP, and the next connection is tried in %u ms", l->node,
			bb_rdma_reason(why), detail ? " (" : "", detail ? detail : "", detail ? ")" : "",
			(unsigned int)(l->wait / 1000000));
}

/* Out of what was posted, to be routed anew. Return: a list. */
static struct bb_net_req *take_back(struct bb_rdma_link *l, bool reuse)
{
	struct bb_rdma *x = l->x;
	struct bb_net_req *all = NULL, *r, *next;

	for (unsigned int i = 0; i < BB_RDMA_OPS; i++) {
		struct bb_rdma_op *op = &x->op[i];

		if (!op->req || op->link != l)
			continue;
		r = op->req;
		DL_APPEND2(all, r, t.prev, t.next);
		if (!reuse)
			op->npages = 0, op->run = -1; /* its memory is lost to us */
		bb_rdma_op_free(x, op);
	}
	for (unsigned int i = 0; i < BB_RDMA_ASKS; i++) {
		r = l->ask[i].id ? l->ask[i].req : NULL;
		l->ask[i].id = 0;
		if (!r)
			continue;
		r->via.maybe = true;
		DL_APPEND2(all, r, t.prev, t.next);
	}
	l->nasks = 0;
	DL_FOREACH_SAFE2(l->queue, r, next, t.next) {
		bb_rdma_unlist(l, r);
		DL_APPEND2(all, r, t.prev, t.next);
	}
	return all;
}

void bb_rdma_break(struct bb_rdma_link *l, enum bb_rdma_state why, const char *detail)
{
	struct bb_rdma *x = l->x;
	struct bb_net_req *all, *r, *next;
	const bool was = l->step >= BB_RDMA_CONNECT;
	bool gone;

	if (l->step == BB_RDMA_DOWN)
		return;
	if (!l->wait)
		l->wait = WAIT_NS;
	gone = destroy(l);
	say(l, why, detail);
	x->sh->stats.rdma_breaks += l->step == BB_RDMA_OPEN;
	l->step = BB_RDMA_DOWN;
	set_state(l, why);
	l->until = x->now + l->wait;
	l->wait = l->wait * 2 < WAIT_MAX_NS ? l->wait * 2 : WAIT_MAX_NS;
	/* The home may have a queue pair for us, into which a WRITE may still come. */
	l->closing |= was;
	l->close_at = 0;
	bb_rdma_due(x, x->now);
	x->wrs -= l->wrs;
	l->wrs = 0;
	l->recheck = l->held;
	all = take_back(l, gone);
	DL_FOREACH_SAFE2(all, r, next, t.next) {
		DL_DELETE2(all, r, t.prev, t.next);
		r->t.where = BB_RDMA_NOWHERE;
		bb_rdma_route(l, r);
	}
}

void bb_rdma_forget(struct bb_rdma_link *l)
{
	if (l->old)
		rdma_destroy_id(l->old);
	l->old = NULL;
}

/* --- CLOSE ----------------------------------------------------------------------------- */

static void closed(struct bb_net_req *r)
{
	struct bb_rdma_link *l = r->user;

	l->asking = false;
	l->close_at = l->x->now + CLOSE_AGAIN_NS;
	bb_rdma_due(l->x, l->close_at);
	/* Another incarnation has no queue pair of the one before. */
	if (r->status != BB_ST_OK && r->status != BB_ST_BOOT)
		return;
	l->closing = false;
	l->recheck = l->held;
	bb_rdma_forget(l);
}

static void send_close(struct bb_rdma_link *l)
{
	struct bb_rdma *x = l->x;

	if (!l->closing || l->asking || x->sh->closing)
		return;
	if (x->now < l->close_at) {
		bb_rdma_due(x, l->close_at);
		return;
	}
	memset(&l->close, 0, sizeof(l->close));
	l->close.cmd = BB_CMD_CLOSE;
	l->close.node = l->node;
	l->close.boot = l->boot;
	l->close.number = l->open.number;
	l->close.seen = l->seen;
	l->close.deadline = x->now + CLOSE_NS;
	l->close.done = closed;
	l->close.user = l;
	l->asking = true;
	x->sh->inflight++;
	if (x->inner->submit(x->inner, &l->close))
		bb_req_end(x->sh, &l->close, BB_ST_UNREACH);
}

void bb_rdma_conn_timers(struct bb_rdma_link *l)
{
	send_close(l);
	if (l->step == BB_RDMA_DOWN || l->step == BB_RDMA_OPEN)
		return;
	if (l->x->now >= l->until)
		bb_rdma_break(l, BB_RDMA_NO_ANSWER, NULL);
	else
		bb_rdma_due(l->x, l->until);
}

/* --- the beginning ------------------------------------------------------------------------ */

static void step(struct bb_rdma_link *l, enum bb_rdma_step s)
{
	l->step = (uint8_t)s;
	l->until = l->x->now + STEP_NS;
	bb_rdma_due(l->x, l->until);
}

/* Rises over restarts of ours too. */
static uint64_t number(struct bb_rdma *x)
{
	struct timespec t;
	uint64_t n;

	clock_gettime(CLOCK_REALTIME, &t);
	n = (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
	if (n <= x->last_number)
		n = x->last_number + 1;
	x->last_number = n;
	return n;
}

static void connect_to(struct bb_rdma_link *l)
{
	const struct bb_peers_config *cfg = l->x->cfg;
	struct sockaddr_in6 from = bb_rdma_address(cfg->tenant, cfg->node, 0);
	struct sockaddr_in6 to = bb_rdma_address(cfg->tenant, l->node, cfg->port);

	step(l, BB_RDMA_ADDR);
	set_state(l, BB_RDMA_CONNECTING);
	if (bb_rdma_channel(l->x) || means(l->x) || rdma_create_id(l->x->cm, &l->id, l, RDMA_PS_TCP)) {
		l->id = NULL;
		bb_rdma_break(l, BB_RDMA_NO_MEANS, strerrordesc_np(errno));
		return;
	}
	l->open = (struct bb_rdma_open){ .pager = (uint8_t)l->x->pager, .tenant = cfg->tenant, .node = cfg->node,
					 .home = l->node, .boot = cfg->boot, .home_boot = l->boot, .number = number(l->x) };
	l->seen = l->last_id = 0;
	if (rdma_resolve_addr(l->id, (struct sockaddr *)&from, (struct sockaddr *)&to, STEP_MS))
		bb_rdma_break(l, BB_RDMA_NO_ROUTE, strerrordesc_np(errno));
}

void bb_rdma_consider(struct bb_rdma_link *l)
{
	struct bb_rdma *x = l->x;
	struct bb_peer p;

	if (x->now < l->look_at)
		return;
	l->look_at = x->now + LOOK_NS;
	if (!bb_peers_get(x->table, l->node, &p))
		return;
	/* One that says no HELLO may be stopped: its memory is served all the same. */
	if (l->step != BB_RDMA_DOWN && p.boot != l->boot) {
		bb_rdma_break(l, BB_RDMA_HUNG_UP, "it has restarted");
		return;
	}
	if (l->step != BB_RDMA_DOWN || l->closing || x->now < l->until || x->sh->closing)
		return;
	if (!p.alive || !p.rdma) {
		set_state(l, BB_RDMA_PEER_WITHOUT);
		return;
	}
	if (!bb_rdma_port_up()) {
		set_state(l, BB_RDMA_PORT_DOWN);
		return;
	}
	l->boot = p.boot;
	connect_to(l);
}

static void resolved(struct bb_rdma_link *l)
{
	uint8_t timeout = ACK_TIMEOUT;

	if (l->id->verbs != l->x->dev->verbs) {
		bb_rdma_break(l, BB_RDMA_NO_ROUTE, "it leads over another device");
		return;
	}
	/* Kernels and devices that cannot take it have one of their own. */
	rdma_set_option(l->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
	if (rdma_resolve_route(l->id, STEP_MS))
		bb_rdma_break(l, BB_RDMA_NO_ROUTE, strerrordesc_np(errno));
	else
		step(l, BB_RDMA_ROUTE);
}

static int make_qp(struct bb_rdma_link *l)
{
	struct bb_rdma *x = l->x;
	const int most = x->dev->attr.max_qp_wr, sges = x->dev->attr.max_sge;
	struct ibv_qp_init_attr a = {
		.send_cq = x->cq, .recv_cq = x->cq, .srq = x->srq, .qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = most < BB_RDMA_DEPTH ? (uint32_t)most : BB_RDMA_DEPTH,
			 .max_send_sge = sges < BB_RDMA_SGES ? (uint32_t)sges : BB_RDMA_SGES,
			 .max_recv_sge = 1, .max_inline_data = INLINE },
	};

	if (rdma_create_qp(l->id, x->pd, &a)) {
		a.cap.max_inline_data = 0; /* some have none */
		if (rdma_create_qp(l->id, x->pd, &a))
			return -errno;
	}
	l->inlined = a.cap.max_inline_data;
	l->depth = a.cap.max_send_wr < BB_RDMA_DEPTH ? a.cap.max_send_wr : BB_RDMA_DEPTH;
	l->sges = sges < BB_RDMA_SGES ? (unsigned int)sges : BB_RDMA_SGES;
	return 0;
}

static void routed(struct bb_rdma_link *l)
{
	uint8_t data[BB_RDMA_OPEN_BYTES];
	struct rdma_conn_param p = {
		.private_data = data, .private_data_len = sizeof(data), .responder_resources = 1,
		.initiator_depth = l->x->dev->rd_atom, .retry_count = RETRIES, .rnr_retry_count = RNR_RETRIES,
	};

	if (make_qp(l)) {
		bb_rdma_break(l, BB_RDMA_NO_MEANS, strerrordesc_np(errno));
		return;
	}
	bb_rdma_open_encode(&l->x->cfg->key, &l->open, data);
	step(l, BB_RDMA_CONNECT);
	if (rdma_connect(l->id, &p))
		bb_rdma_break(l, BB_RDMA_NO_MEANS, strerrordesc_np(errno));
}

static void established(struct bb_rdma_link *l, const struct rdma_conn_param *p)
{
	struct bb_rdma_accept a;

	if (l->step != BB_RDMA_CONNECT)
		return;
	if (bb_rdma_accept_decode(&l->x->cfg->key, &l->open, p->private_data, p->private_data_len, &a) ||
	    a.boot != l->boot || a.number != l->open.number) {
		bb_rdma_break(l, BB_RDMA_REFUSED, "its answer is not one of this cluster's");
		return;
	}
	l->step = BB_RDMA_OPEN;
	l->epoch++;
	l->wait = 0;
	l->x->sh->stats.rdma_links++;
	set_state(l, BB_RDMA_UP);
	bb_info("rdma: node %u: connected by %s", l->node, bb_rdma_why());
}

static const char *reject_text(const struct rdma_conn_param *p)
{
	const uint8_t *d = p->private_data;

	if (!d || p->private_data_len < BB_RDMA_REJECT_BYTES || d[0] != BB_RDMA_VERSION)
		return NULL;
	switch (d[1]) {
	case BB_RDMA_REJ_VERSION:
		return "it speaks another version";
	case BB_RDMA_REJ_BOOT:
		return "it has restarted";
	case BB_RDMA_REJ_NUMBER:
		return "this host's clock was set back";
	case BB_RDMA_REJ_FULL:
		return "it has no room for another";
	case BB_RDMA_REJ_MEANS:
		return "it could not make a queue pair";
	default:
		return NULL;
	}
}

/* e: acknowledged already, its private data copied. */
static void on_event(struct bb_rdma_link *l, const struct rdma_cm_event *e)
{
	switch (e->event) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		if (l->step == BB_RDMA_ADDR)
			resolved(l);
		return;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		if (l->step == BB_RDMA_ROUTE)
			routed(l);
		return;
	case RDMA_CM_EVENT_ESTABLISHED:
		return established(l, &e->param.conn);
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
		return bb_rdma_break(l, BB_RDMA_NO_ROUTE, strerrordesc_np(-e->status));
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_CONNECT_ERROR:
		return bb_rdma_break(l, BB_RDMA_NO_ANSWER, NULL);
	case RDMA_CM_EVENT_REJECTED:
		return bb_rdma_break(l, BB_RDMA_REFUSED, reject_text(&e->param.conn));
	case RDMA_CM_EVENT_DISCONNECTED:
		return bb_rdma_break(l, BB_RDMA_HUNG_UP, NULL);
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		return bb_rdma_break(l, BB_RDMA_GONE, NULL);
	default: /* nothing ends by TIMEWAIT_EXIT, ADDR_CHANGE */
		return;
	}
}

void bb_rdma_events(struct bb_rdma *x)
{
	uint8_t data[BB_RDMA_PRIVATE];
	struct bb_rdma_link *l;
	struct rdma_cm_event e;

	while (x->cm && bb_rdma_next_event(x->cm, &e, data)) {
		l = e.id->context;
		if (e.id == l->id) /* and not of one that has ended */
			on_event(l, &e);
	}
}
