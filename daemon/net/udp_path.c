/* SPDX-License-Identifier: MIT */
/*
 * The UDP transport: what a path carries, a page in one segment or in four.
 *
 * Theory of operation
 * -------------------
 * Interfaces and routes say what they carry, here and (by HELLO) at the other
 * end. What lies between may carry less and say nothing: packets over a size
 * vanish, smaller ones pass. So each direction is watched. Large segments are
 * taken to vanish
 *   - where a READ was asked twice, no large segment has come from that host
 *     meanwhile, and small ones come as soon as they are asked for;
 *   - where of a WRITE nothing arrived twice, though PROBEs are answered.
 * From then on all is cut small, and one request at a time is tried as large
 * segments (of a WRITE one of them, then a PROBE), at first soon, for it may
 * have been mere loss, then ever less often. RFC 4821 and RFC 8899 search
 * likewise; two sizes need no search. The first large segment that arrives ends
 * it.
 */
#include "net/udp.h"

#include <endian.h>

#include "clock.h"

#define MTU_NS 2000000000ULL
#define TRIAL_FIRST_NS 4000000ULL
#define TRIAL_MAX_NS 10000000000ULL

#define MTU_SMALL_ONLY 1

void bb_udp_measure(struct bb_udp *u, struct bb_udp_peer *p, uint64_t now)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htobe16(u->cfg->port) };
	const struct bb_gptr g = { .tenant = u->cfg->tenant, .node = p->node };
	socklen_t len = sizeof(int);
	struct bb_peer info;
	int mtu = 0;

	if (p->mtu_at && now - p->mtu_at < MTU_NS)
		return;
	p->mtu_at = now;
	bb_gptr_encode(&g, &to.sin6_addr);
	if (connect(u->probe_fd, (const struct sockaddr *)&to, sizeof(to)) ||
	    getsockopt(u->probe_fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &len))
		mtu = MTU_SMALL_ONLY;
	/* What the other end has measured counts as well. */
	if (bb_peers_get(u->table, p->node, &info) && info.mtu && info.mtu < (uint32_t)mtu)
		mtu = (int)info.mtu;
	p->small = mtu < BB_WIRE_MTU_LARGE;
}

/* NULL: it has no pages. */
static struct bb_udp_way *way_of(struct bb_udp_peer *p, const struct bb_net_req *r)
{
	switch (r->cmd) {
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		return &p->back;
	case BB_CMD_WRITE:
	case BB_CMD_ALLOC_WRITE:
		return &p->there;
	default:
		return NULL;
	}
}

bool bb_udp_small(struct bb_udp_peer *p, const struct bb_net_req *r, uint64_t now)
{
	const struct bb_udp_way *w = way_of(p, r);

	return p->small || (w && w->trial_at && (w->trial || now < w->trial_at));
}

static bool is_large(const struct bb_net_req *r)
{
	if (r->cmd == BB_CMD_READ || r->cmd == BB_CMD_READ_RUN)
		return r->t.nseg == r->len / BB_PAGE_SIZE;
	return (r->cmd == BB_CMD_WRITE || r->cmd == BB_CMD_ALLOC_WRITE) && r->t.nseg == r->npages;
}

void bb_udp_large(struct bb_udp_peer *p, struct bb_net_req *r)
{
	struct bb_udp_way *w = way_of(p, r);

	if (w && w->trial_at && is_large(r))
		w->trial = r;
}

void bb_udp_passed(struct bb_udp_peer *p, const struct bb_net_req *r, uint64_t now)
{
	struct bb_udp_way *w = way_of(p, r);

	w->passed_at = now;
	w->trial_at = 0;
	w->trial = NULL;
}

void bb_udp_untried(struct bb_udp_peer *p, const struct bb_net_req *r)
{
	struct bb_udp_way *w = way_of(p, r);

	if (w && w->trial == r)
		w->trial = NULL;
}

/* They vanish, or still do. */
static void closed(struct bb_udp_way *w, uint64_t now)
{
	if (!w->trial_at)
		w->wait = TRIAL_FIRST_NS;
	else
		w->wait = w->wait * 2 < TRIAL_MAX_NS ? w->wait * 2 : TRIAL_MAX_NS;
	w->trial = NULL;
	w->trial_at = now + w->wait;
}

void bb_udp_doubt(struct bb_udp *u, struct bb_net_req *r, uint64_t now)
{
	struct bb_udp_peer *p = r->t.peer;
	struct bb_udp_way *w = way_of(p, r);

	if (w != &p->back || !is_large(r))
		return;
	if (w->trial == r)
		closed(w, now);
	else if (!w->trial_at && (r->t.tries < 2 || w->passed_at > now - r->t.rto))
		return;
	r->t.shrunk = bb_udp_recut(u, r, (uint16_t)(r->t.nseg * BB_SEGS_SMALL));
}

void bb_udp_small_came(struct bb_udp *u, struct bb_net_req *r, uint64_t now)
{
	struct bb_udp_peer *p = r->t.peer;
	struct bb_udp_way *w = &p->back;

	r->t.shrunk = false;
	if (!w->trial_at && w->passed_at < r->t.resend_at - r->t.rto)
		closed(w, now);
}

void bb_udp_none_came(struct bb_udp *u, struct bb_net_req *r, uint64_t now)
{
	struct bb_udp_peer *p = r->t.peer;
	struct bb_udp_way *w = &p->there;

	r->t.none += r->t.none < 255;
	if (!w->trial_at && (r->t.none < 2 || w->passed_at > now - p->rto))
		return;
	if (!w->trial_at || w->trial == r)
		closed(w, now);
	/* All of its WRITEs, from their beginning. */
	u->nnarrow += !p->narrow;
	p->narrow = true;
}
