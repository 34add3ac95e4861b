/* SPDX-License-Identifier: MIT */
/*
 * The front of the net layer: refuses what cannot be, and gives each request
 * to the transport that leads to its node.
 */
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "log.h"
#include "net/directory.h"
#include "net/loop.h"
#include "net/peers.h"
#include "net/rdma.h"
#include "net/transport.h"

struct bb_net {
	uint16_t node;
	struct bb_net_shared sh;
	struct bb_transport *local;
	struct bb_transport *udp; /* with RDMA before it where there is a device; NULL: this host has no IPv6 */
};

int bb_net_new(struct bb_net **out, struct bb_peers *peers, struct bb_home *home, unsigned int index)
{
	struct bb_net *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return -ENOMEM;
	n->node = bb_peers_config(peers)->node;
	ret = bb_local_new(&n->local, &n->sh, peers, home);
	if (ret)
		goto err;
	ret = bb_udp_new(&n->udp, &n->sh, peers, index);
	if (ret == -EAFNOSUPPORT || ret == -EPROTONOSUPPORT) {
		bb_warn_once("this kernel has no IPv6: memory of other hosts cannot be reached, only this host's own");
		n->udp = NULL;
	} else if (ret) {
		goto err_local;
	}
	if (n->udp) {
		ret = bb_rdma_new(&n->udp, &n->sh, peers, n->udp, index);
		if (!ret)
			ret = bb_directory_new(&n->udp, &n->sh, n->udp);
		if (ret)
			goto err_udp;
	}
	*out = n;
	return 0;
err_udp:
	n->udp->free(n->udp);
err_local:
	n->local->free(n->local);
err:
	free(n);
	return ret;
}

void bb_net_free(struct bb_net *n)
{
	if (!n)
		return;
	n->sh.closing = true;
	if (n->udp)
		n->udp->free(n->udp);
	n->local->free(n->local);
	free(n);
}

void bb_net_enter(void *arg)
{
	struct bb_net *n = arg;

	if (n->udp && n->udp->enter)
		n->udp->enter(n->udp);
}

int bb_net_loop(struct bb_net *n, const struct bb_loop_config *cfg)
{
	struct bb_transport *local, *udp;
	int ret;

	ret = bb_loop_new(&local, &n->sh, n->local, cfg);
	if (ret)
		return ret;
	n->local = local;
	if (!n->udp)
		return 0;
	ret = bb_loop_new(&udp, &n->sh, n->udp, cfg);
	if (!ret)
		n->udp = udp;
	return ret;
}

static bool aligned(const struct bb_net_req *r)
{
	for (uint32_t i = 0; i < r->npages; i++)
		if (r->pages[i].ptr & BB_PAGE_MASK)
			return false;
	return true;
}

static uint8_t check(const struct bb_net_req *r)
{
	bool ok;

	if (r->node == BB_NODE_ANY && r->cmd != BB_CMD_CREATE && r->cmd != BB_CMD_ALLOC_WRITE)
		return BB_ST_BOUNDS;
	switch (r->cmd) {
	case BB_CMD_READ:
		ok = r->len == BB_PAGE_SIZE && !(r->ptr & BB_PAGE_MASK);
		break;
	case BB_CMD_READ_RUN:
		ok = r->len && r->len <= BB_RUN_PAGES_MAX * BB_PAGE_SIZE && !(r->len & BB_PAGE_MASK) &&
		     !(r->ptr & BB_PAGE_MASK);
		break;
	case BB_CMD_WRITE:
		ok = r->npages >= 1 && r->npages <= BB_BATCH_PAGES_MAX && aligned(r);
		break;
	case BB_CMD_ALLOC_WRITE:
		ok = r->npages == 1;
		break;
	case BB_CMD_CREATE:
		ok = r->len >= 1 && r->len <= BB_CREATE_MAX;
		break;
	case BB_CMD_UPDATE:
		ok = r->len >= BB_UPDATE_BEGIN && r->len <= BB_UPDATE_RELEASE && !(r->ptr & (BB_EXTENT_SIZE - 1));
		break;
	case BB_CMD_DELETE:
		ok = true;
		break;
	default:
		return BB_ST_COMMAND;
	}
	return ok ? BB_ST_OK : BB_ST_MALFORMED;
}

void bb_net_submit(struct bb_net *n, struct bb_net_req *r)
{
	struct bb_transport *t = r->node == n->node ? n->local : n->udp;
	uint8_t st;

	r->status = BB_ST_OK;
	r->failed = 0;
	r->new_boot = 0;
	r->from = r->node;
	r->data = NULL;
	r->paylen = 0;
	r->nptrs = 0;
	r->t_sent = r->t_recv = r->looked_ns = 0;
	n->sh.inflight++;
	st = n->sh.closing ? BB_ST_TIMEOUT : check(r);
	if (st != BB_ST_OK)
		bb_req_end(&n->sh, r, st);
	else if (!t || t->submit(t, r))
		bb_req_end(&n->sh, r, BB_ST_UNREACH);
}

void bb_net_flush(struct bb_net *n)
{
	n->local->flush(n->local);
	if (n->udp)
		n->udp->flush(n->udp);
}

int bb_net_poll(struct bb_net *n)
{
	int got = n->local->poll(n->local);

	return n->udp ? got + n->udp->poll(n->udp) : got;
}

int bb_net_fd(struct bb_net *n)
{
	return n->udp ? n->udp->fd(n->udp) : -1;
}

uint64_t bb_net_next(struct bb_net *n)
{
	uint64_t a = n->local->next(n->local), b = n->udp ? n->udp->next(n->udp) : ~0ULL;

	return a < b ? a : b;
}

unsigned int bb_net_inflight(const struct bb_net *n)
{
	return n->sh.inflight;
}

void bb_net_stats(const struct bb_net *n, struct bb_net_stats *out)
{
	bb_net_stats_copy(out, &n->sh.stats);
}
