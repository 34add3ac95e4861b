/* SPDX-License-Identifier: MIT */
/*
 * The home's side of RDMA: how connections begin and end. rdma_home.c has the
 * theory of operation.
 */
#include "net/rdma_home_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "net/peers.h"

#define INLINE 64
#define RNR_RETRIES 6

/* --- the end of a link ------------------------------------------------------------- */

/* Lock held. Return: false where its queue pair may still take something in. */
bool bb_rdma_hlink_end(struct bb_rdma_home *h, struct bb_rdma_hlink *l)
{
	struct ibv_qp_attr error = { .qp_state = IBV_QPS_ERR };

	if (l->ended)
		return true;
	if (l->up)
		h->stats.links--;
	l->up = false;
	if (l->id->qp)
		ibv_modify_qp(l->id->qp, &error, IBV_QP_STATE);
	bb_rdma_windows_end(h, l); /* where one stays, what it was bound to goes now */
	if (l->id->qp && ibv_destroy_qp(l->id->qp))
		return false;
	l->id->qp = NULL;
	l->ended = true;
	h->places &= ~(1ULL << l->place);
	h->stats.closed++;
	return true;
}

/* What is no longer needed, or all of it. The thread's. */
void bb_rdma_hlinks_reap(struct bb_rdma_home *h, bool all)
{
	struct bb_rdma_hlink *l, *next;
	struct rdma_cm_id *id;
	bool up = false;

	pthread_mutex_lock(&h->lock);
	DL_FOREACH(h->links, l) {
		up |= l->ended && l->id;
	}
	pthread_mutex_unlock(&h->lock);
	up = up && bb_rdma_port_up();
	DL_FOREACH_SAFE(h->links, l, next) {
		pthread_mutex_lock(&h->lock);
		if (all)
			bb_rdma_hlink_end(h, l);
		id = l->ended && (up || all) ? l->id : NULL;
		if (id)
			l->id = NULL;
		pthread_mutex_unlock(&h->lock);
		if (id) {
			rdma_disconnect(id);
			rdma_destroy_id(id);
		}
		pthread_mutex_lock(&h->lock);
		if (all || (l->forgotten && !l->id)) {
			DL_DELETE(h->links, l);
			h->nlinks--;
			free(l);
		}
		pthread_mutex_unlock(&h->lock);
	}
}

/* Of a pager that opens another or said CLOSE. Lock held. Return: whether all of them have ended. */
static bool end_before(struct bb_rdma_home *h, uint16_t node, uint8_t pager, uint64_t number, uint64_t seen, uint64_t *lost,
		       unsigned int *nlost)
{
	struct bb_rdma_hlink *l;
	bool ok = true;

	DL_FOREACH(h->links, l) {
		if (l->who.node != node || l->who.pager != pager || l->who.number > number || l->forgotten)
			continue;
		if (!l->ended && !bb_rdma_hlink_end(h, l)) {
			ok = false;
			continue;
		}
		l->forgotten = true;
		for (unsigned int i = 0; lost && l->who.number == number && i < l->ngiven && i < BB_RDMA_ASKS; i++) {
			const struct bb_rdma_given *g = &l->given[i];

			for (uint32_t k = 0; g->id > seen && k < g->n; k++)
				lost[(*nlost)++] = g->ptrs[k];
		}
	}
	return ok;
}

/* Raises it. Lock held. Return: false where that number has been used, or cannot be noted. */
static bool take_number(struct bb_rdma_home *h, uint16_t node, uint8_t pager, uint64_t number, bool again)
{
	const uint32_t key = (uint32_t)node << 8 | pager;
	struct bb_rdma_number *n;

	HASH_FIND(hh, h->numbers, &key, sizeof(key), n);
	if (!n) {
		n = calloc(1, sizeof(*n));
		if (!n)
			return false;
		n->key = key;
		HASH_ADD(hh, h->numbers, key, sizeof(n->key), n);
	}
	if (n->number > number || (n->number == number && !again))
		return again;
	n->number = number;
	return true;
}

uint8_t bb_rdma_home_close(void *arg, uint16_t node, uint8_t pager, uint64_t number, uint64_t seen)
{
	const struct bb_peers_config *cfg;
	struct bb_rdma_home *h = arg;
	uint64_t lost[BB_RDMA_ASKS * BB_CREATE_MAX];
	unsigned int n = 0;
	bool ok;

	pthread_mutex_lock(&h->lock);
	/* One that asks for this number and comes late opens nothing. */
	ok = take_number(h, node, pager, number, true) && end_before(h, node, pager, number, seen, lost, &n);
	pthread_mutex_unlock(&h->lock);
	cfg = bb_peers_config(h->peers);
	for (unsigned int i = 0; i < n; i++)
		bb_home_delete(h->home, (struct bb_home_who){ .tenant = cfg->tenant, .node = node }, lost[i]);
	bb_rdma_home_wake(h);
	return ok ? BB_ST_OK : BB_ST_BUSY;
}

/* --- connections ---------------------------------------------------------------------- */

static void reject(struct bb_rdma_home *h, struct rdma_cm_id *id, uint8_t why)
{
	const uint8_t data[BB_RDMA_REJECT_BYTES] = { BB_RDMA_VERSION, why };

	pthread_mutex_lock(&h->lock);
	h->stats.rejected++;
	pthread_mutex_unlock(&h->lock);
	if (why)
		rdma_reject(id, data, sizeof(data));
	rdma_destroy_id(id);
}

/* Return: 0, or what it is rejected with; -1: nothing is said. */
static int admit(struct bb_rdma_home *h, const struct rdma_conn_param *p, struct bb_rdma_open *o)
{
	const struct bb_peers_config *cfg = bb_peers_config(h->peers);
	const int r = bb_rdma_open_decode(&cfg->key, p->private_data, p->private_data_len, o);

	if (r == -EPROTO)
		return BB_RDMA_REJ_VERSION;
	if (r || o->tenant != cfg->tenant || o->home != cfg->node)
		return -1;
	return o->home_boot == cfg->boot ? 0 : BB_RDMA_REJ_BOOT;
}

static int make_qp(struct bb_rdma_home *h, struct bb_rdma_hlink *l, struct rdma_cm_id *id)
{
	struct ibv_qp_init_attr a = {
		.qp_context = l, .send_cq = h->cq, .recv_cq = h->cq, .srq = h->srq, .qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = 2 * BB_RDMA_SENDS, .max_send_sge = 1, .max_recv_sge = 1, .max_inline_data = INLINE },
	};

	if (rdma_create_qp(id, h->pd, &a)) {
		a.cap.max_inline_data = 0; /* some have none */
		if (rdma_create_qp(id, h->pd, &a))
			return -errno;
	}
	l->inlined = a.cap.max_inline_data;
	return 0;
}

static int accept_link(struct bb_rdma_home *h, struct bb_rdma_hlink *l, struct rdma_cm_id *id, uint8_t resources)
{
	const struct bb_peers_config *cfg = bb_peers_config(h->peers);
	const struct bb_rdma_accept a = { .boot = cfg->boot, .number = l->who.number };
	uint8_t data[BB_RDMA_ACCEPT_BYTES];
	struct rdma_conn_param p = {
		.private_data = data, .private_data_len = sizeof(data),
		.responder_resources = resources < h->dev->rd_resp ? resources : h->dev->rd_resp,
		.initiator_depth = 1, .rnr_retry_count = RNR_RETRIES,
	};

	bb_rdma_accept_encode(&cfg->key, &l->who, &a, data);
	return rdma_accept(id, &p) ? -errno : 0;
}

/* Ended ones that wait for a CLOSE that may never come make room. Lock held. */
static bool make_room(struct bb_rdma_home *h)
{
	struct bb_rdma_hlink *l;

	if (h->nlinks < BB_RDMA_LINKS && ~h->places)
		return true;
	DL_FOREACH(h->links, l) {
		if (!l->ended)
			continue;
		l->forgotten = true;
		return true;
	}
	return false;
}

static void on_request(struct bb_rdma_home *h, struct rdma_cm_id *id, const struct rdma_conn_param *param)
{
	struct bb_rdma_open o;
	struct bb_rdma_hlink *l;
	int why = admit(h, param, &o);
	bool room, fresh;

	if (why)
		return reject(h, id, why < 0 ? 0 : (uint8_t)why);
	if (id->verbs != h->dev->verbs)
		return reject(h, id, BB_RDMA_REJ_MEANS);
	pthread_mutex_lock(&h->lock);
	fresh = take_number(h, o.node, o.pager, o.number, false);
	if (fresh)
		end_before(h, o.node, o.pager, o.number - 1, 0, NULL, NULL);
	room = make_room(h);
	pthread_mutex_unlock(&h->lock);
	if (!fresh)
		return reject(h, id, BB_RDMA_REJ_NUMBER);
	bb_rdma_hlinks_reap(h, false);
	l = room ? calloc(1, sizeof(*l)) : NULL;
	if (!l)
		return reject(h, id, BB_RDMA_REJ_FULL);
	l->who = o;
	l->serial = ++h->next_serial;
	if (make_qp(h, l, id)) {
		bb_warn_once("rdma: no queue pair can be had for node %u (%m): its pages go by UDP", o.node);
		free(l);
		return reject(h, id, BB_RDMA_REJ_MEANS);
	}
	id->context = l;
	l->id = id;
	pthread_mutex_lock(&h->lock);
	l->place = (uint8_t)__builtin_ctzll(~h->places); /* there are as many as links */
	h->places |= 1ULL << l->place;
	DL_APPEND(h->links, l);
	h->nlinks++;
	pthread_mutex_unlock(&h->lock);
	pthread_mutex_lock(&h->lock);
	if (!l->ended && accept_link(h, l, id, param->responder_resources)) {
		bb_warn_once("rdma: a connection of node %u cannot be accepted (%m): its pages go by UDP", o.node);
		bb_rdma_hlink_end(h, l);
		l->forgotten = true;
	}
	pthread_mutex_unlock(&h->lock);
}

static void on_event(struct bb_rdma_home *h, const struct rdma_cm_event *e)
{
	struct bb_rdma_hlink *l = e->id == h->listener ? NULL : e->id->context;

	switch (e->event) {
	case RDMA_CM_EVENT_ESTABLISHED:
		pthread_mutex_lock(&h->lock);
		if (l && !l->ended && !l->up) {
			l->up = true;
			h->stats.links++;
			h->stats.accepted++;
		}
		pthread_mutex_unlock(&h->lock);
		return;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		bb_warn_once("rdma: the device is gone: pages go by UDP until bbd is started anew");
		if (!l && h->listener) { /* the kernel waits for it */
			rdma_destroy_id(h->listener);
			h->listener = NULL;
			bb_peers_rdma(h->peers, false);
		}
		break;
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
	case RDMA_CM_EVENT_DISCONNECTED:
		break;
	default: /* TIMEWAIT_EXIT, ADDR_CHANGE: nothing ends by these */
		return;
	}
	if (!l)
		return;
	pthread_mutex_lock(&h->lock);
	bb_rdma_hlink_end(h, l);
	pthread_mutex_unlock(&h->lock);
}

void bb_rdma_hlinks_events(struct bb_rdma_home *h)
{
	uint8_t data[BB_RDMA_PRIVATE];
	struct rdma_cm_event e;

	while (bb_rdma_next_event(h->cm, &e, data)) {
		if (e.event == RDMA_CM_EVENT_CONNECT_REQUEST) {
			e.id->context = NULL;
			on_request(h, e.id, &e.param.conn);
		} else {
			on_event(h, &e);
		}
	}
}
