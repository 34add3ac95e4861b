/* SPDX-License-Identifier: MIT */
/* The UDP transport: what comes back. Its theory of operation is in udp.h. */
#include "net/udp.h"

#include <string.h>

#include "clock.h"

static void measured(struct bb_udp_peer *p, uint64_t rtt)
{
	uint64_t off;

	if (!p->srtt) {
		p->srtt = rtt;
		p->rttvar = rtt / 2;
	} else {
		off = rtt > p->srtt ? rtt - p->srtt : p->srtt - rtt;
		p->rttvar = (3 * p->rttvar + off) / 4;
		p->srtt = (7 * p->srtt + rtt) / 8;
	}
	p->rto = p->srtt + 4 * p->rttvar;
	if (p->rto < BB_RTO_MIN_NS)
		p->rto = BB_RTO_MIN_NS;
	if (p->rto > BB_RTO_MAX_NS)
		p->rto = BB_RTO_MAX_NS;
}

static void acknowledged(struct bb_udp_peer *p, uint32_t segs)
{
	if (p->window < p->ssthresh) {
		p->window += segs;
	} else {
		p->acked += segs;
		if (p->acked >= p->window) {
			p->acked -= p->window;
			p->window++;
		}
	}
	if (p->window > BB_WINDOW_MAX)
		p->window = BB_WINDOW_MAX;
}

static void finish(struct bb_udp *u, struct bb_net_req *r, const struct bb_msg *m)
{
	struct bb_udp_peer *p = r->t.peer;

	r->t_recv = u->now;
	r->new_boot = m->boot;
	if (r->t.tries == 1) /* else nobody knows what was answered (Karn, 1987) */
		measured(p, u->now - r->t_sent);
	acknowledged(p, bb_udp_charge(r));
	u->replies++;
	bb_udp_finish(u, r, m->status);
}

/* --- by command --------------------------------------------------------- */

bool bb_udp_recut(struct bb_udp *u, struct bb_net_req *r, uint16_t nseg)
{
	struct bb_udp_peer *p = r->t.peer;

	if (nseg > 1 && !r->t.buf) {
		if (!u->nfree)
			return false;
		r->t.buf = u->free_buffer[--u->nfree];
	}
	p->inflight -= bb_udp_charge(r);
	memset(r->t.got, 0, sizeof(r->t.got));
	r->t.ngot = 0;
	r->t.nseg = r->t.nsent = nseg;
	p->inflight += nseg;
	return true;
}

/* Return: false where the home sent what is not lz4 of so many bytes: it is asked again, for plain ones. */
static bool unpack(struct bb_udp *u, struct bb_net_req *r, const struct bb_msg *m, void *to, uint32_t len)
{
	if (!bb_lz4_unpack(m->payload, m->length, to, len)) {
		u->sh->stats.malformed++;
		r->t.lz4 = false;
		bb_udp_no_lz4(u, r);
		return false;
	}
	u->sh->stats.lz4_rx++;
	u->sh->stats.lz4_saved += len - m->length;
	return true;
}

static void got_pages(struct bb_udp *u, struct bb_net_req *r, const struct bb_msg *m)
{
	struct bb_udp_peer *p = r->t.peer;
	const uint32_t plain = bb_wire_plain(m);
	uint64_t *word, bit;
	uint8_t *to;

	if (m->nseg / bb_wire_spp(plain) != r->len / BB_PAGE_SIZE || (m->flags & BB_F_LZ4 && !r->t.lz4)) {
		u->sh->stats.malformed++;
		return;
	}
	/* The home may have cut its answer otherwise than we asked. */
	if (m->nseg != r->t.nseg && !bb_udp_recut(u, r, m->nseg))
		return;
	if (m->length == BB_SEG_LARGE)
		bb_udp_passed(p, r, u->now);
	else if (r->t.shrunk && plain == BB_SEG_SMALL)
		bb_udp_small_came(u, r, u->now);
	if (m->nseg == 1) {
		r->data = m->flags & BB_F_LZ4 ? u->whole : m->payload;
		if (m->flags & BB_F_LZ4 && !unpack(u, r, m, u->whole, plain))
			return;
		finish(u, r, m);
		return;
	}
	word = &r->t.got[m->seg / 64];
	bit = 1ULL << (m->seg % 64);
	if (*word & bit) {
		u->sh->stats.stale++;
		return;
	}
	to = (uint8_t *)r->t.buf + (size_t)m->seg * plain;
	if (!(m->flags & BB_F_LZ4))
		memcpy(to, m->payload, plain);
	else if (!unpack(u, r, m, to, plain))
		return;
	if (r->t.ngot + 1 == r->t.nseg) {
		r->data = r->t.buf;
		finish(u, r, m);
		return;
	}
	*word |= bit;
	r->t.ngot++;
	p->inflight--;
	acknowledged(p, 1);
	/* The home answers: what is still missing is late by the path's own measure. */
	r->t.rto = p->rto;
	r->t.resend_at = u->now + p->rto;
	bb_udp_due(u, r->t.resend_at);
}

static void got_state(struct bb_udp *u, struct bb_net_req *r, const struct bb_msg *m)
{
	struct bb_udp_peer *p = r->t.peer;
	uint64_t got[4];
	int n = bb_wire_state_decode(m, r->t.nseg, got);

	if (n < 0) {
		u->sh->stats.malformed++;
		return;
	}
	/* What has once arrived has; and pages that have moved are known to others than the rest. */
	n = 0;
	for (unsigned int i = 0; i < 4; i++) {
		got[i] |= r->t.got[i];
		n += __builtin_popcountll(got[i]);
	}
	if (r->t.nseg == r->npages && got[0] & ~r->t.got[0] & ~r->t.packed)
		bb_udp_passed(p, r, u->now);
	if (n == r->t.nseg) {
		finish(u, r, m);
		return;
	}
	if (!r->t.asked) { /* of an older PROBE: what was sent since is not in it */
		u->sh->stats.stale++;
		return;
	}
	r->t.asked = false;
	p->inflight -= bb_udp_charge(r);
	if (n > r->t.ngot)
		acknowledged(p, (uint32_t)(n - r->t.ngot));
	else if (r->t.nseg == r->npages && bb_udp_charge(r))
		bb_udp_none_came(u, r, u->now);
	memcpy(r->t.got, got, sizeof(r->t.got));
	r->t.ngot = (uint16_t)n;
	if (bb_udp_charge(r)) {
		u->sh->stats.resent += bb_udp_charge(r);
		bb_udp_cut(p, u->now);
	}
	r->t.nsent = 0;
	if (r->t.where == BB_UDP_IN_OPEN) {
		DL_DELETE2(p->open, r, t.prev, t.next);
		bb_udp_link(u, r, BB_UDP_IN_WRITES, true);
	}
	bb_udp_dirty(u, p);
}

/*
 * VERSION is said of packets whose tag could not be looked at, damaged ones and
 * their duplicates among them. It is meant where the same is said of what was
 * sent again, and the home has said nothing else to anybody meanwhile.
 */
static bool is_meant(const struct bb_udp *u, struct bb_net_req *r)
{
	const struct bb_udp_peer *p = r->t.peer;

	if (r->t.version_at && p->good_at < r->t.version_at)
		return r->t.tries > r->t.version_tries;
	r->t.version_at = u->now;
	r->t.version_tries = r->t.tries;
	return false;
}

static void got_refusal(struct bb_udp *u, struct bb_net_req *r, const struct bb_msg *m)
{
	/* BUSY: until the deadline, when it is what is said. */
	if (m->status == BB_ST_BUSY || (m->status == BB_ST_VERSION && !is_meant(u, r))) {
		r->status = m->status;
		if (r->t.tries < 2)
			r->t.tries = 2;
		r->t.version_tries = r->t.tries;
		return;
	}
	/*
	 * What is open is never stale at its home. Where its extent has moved, the new
	 * home does not know what was done of it before: it takes no id that the old one
	 * has seen.
	 */
	if (m->status == BB_ST_STALE && (r->cmd == BB_CMD_WRITE || r->cmd == BB_CMD_DELETE)) {
		u->sh->stats.again++;
		bb_udp_again(u, r);
		return;
	}
	/* A bbd of before that one has its HELLO's place, or its lz4 is not ours. */
	if (m->status == BB_ST_MALFORMED && r->t.lz4) {
		u->sh->stats.nacks[m->status]++;
		bb_udp_plain(u, r);
		return;
	}
	if (r->cmd == BB_CMD_WRITE)
		r->failed = bb_wire_failed_page(m);
	finish(u, r, m);
}

/* --- packets ------------------------------------------------------------ */

/* The open request that it answers, or NULL. */
static struct bb_net_req *find(struct bb_udp *u, const struct bb_gptr *src, uint8_t cmd, const struct bb_msg *m)
{
	struct bb_udp_peer *p = bb_udp_find(u, src->node), *any;
	struct bb_net_req *r;

	if (cmd == BB_CMD_CREATE || cmd == BB_CMD_ALLOC_WRITE) {
		any = bb_udp_find(u, BB_NODE_ANY);
		if (any && any->session == m->session)
			p = any;
	}
	if (!p)
		return NULL;
	if (!bb_wire_tracked(cmd)) {
		r = m->session == u->session ? u->read_ring[m->id % BB_UDP_READS] : NULL;
		if (r && r->ptr != src->ptr)
			return NULL;
	} else {
		r = m->session == p->session ? p->ring[m->id % BB_SESSION_WINDOW] : NULL;
	}
	return r && r->t.id == m->id && r->t.peer == p && r->cmd == cmd ? r : NULL;
}

static void datagram(void *arg, const struct bb_sock_packet *pkt)
{
	const struct in6_addr *src = &pkt->from.sin6_addr;
	struct bb_udp *u = arg;
	struct bb_net_stats *st = &u->sh->stats;
	struct in6_addr dst = u->self;
	struct bb_udp_peer *p;
	struct bb_gptr g;
	struct bb_net_req *r;
	struct bb_msg m;
	uint8_t cmd;

	st->rx_packets++;
	st->rx_bytes += pkt->len;
	if (!bb_gptr_decode(src, &g) || !(g.cmd & BB_CMD_REPLY) || g.tenant != u->cfg->tenant) {
		st->malformed++;
		return;
	}
	cmd = g.cmd & BB_CMD_MASK;
	if (bb_wire_decode(pkt->data, pkt->len, &m) != BB_ST_OK || bb_wire_reply(cmd, &m) != BB_ST_OK) {
		st->malformed++;
		return;
	}
	r = find(u, &g, cmd, &m);
	if (!r) { /* late, or a duplicate */
		st->stale++;
		return;
	}
	dst.s6_addr[6] = g.cmd;
	if (!bb_wire_verify(&u->cfg->key, src, &dst, g.cmd, pkt->data, pkt->len)) {
		st->bad_tag++;
		return;
	}
	p = r->t.peer;
	p->heard_at = u->now;
	if (m.status != BB_ST_VERSION)
		p->good_at = u->now;
	r->from = g.node;
	if (m.status)
		return got_refusal(u, r, &m);
	switch (cmd) {
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		got_pages(u, r, &m);
		break;
	case BB_CMD_WRITE:
		got_state(u, r, &m);
		break;
	case BB_CMD_CREATE:
	case BB_CMD_ALLOC_WRITE:
		r->nptrs = bb_wire_create_ptrs(&m, r->ptrs, r->cmd == BB_CMD_CREATE ? r->len : 1);
		if (!r->nptrs) {
			st->malformed++;
			return;
		}
		finish(u, r, &m);
		break;
	default:
		r->data = m.payload;
		r->paylen = m.paylen;
		finish(u, r, &m);
	}
}

static void one(struct bb_udp *u, const struct bb_sock_packet *p)
{
	if (__builtin_expect(!u->inject, 1))
		datagram(u, p);
	else
		bb_inject_packet(u->inject, p, datagram, u);
}

static int receive_xsk(struct bb_udp *u)
{
	const int n = bb_udp_xsk_recv(u);

	if (n > 0 || u->inject)
		u->now = bb_now_ns();
	for (int i = 0; i < n; i++) {
		struct bb_sock_packet p;

		bb_xsk_packet(u->xsk.x, (unsigned int)i, u->xsk.port, &p);
		u->sh->stats.rx_xdp++;
		one(u, &p);
	}
	return n;
}

static int receive_udp(struct bb_udp *u)
{
	int n = bb_sock_recv(u->ring, u->fd);

	if (n > 0 || u->inject)
		u->now = bb_now_ns();
	for (int i = 0; i < n; i++) {
		struct bb_sock_packet p;
		size_t left;

		bb_sock_packet(u->ring, (unsigned int)i, &p);
		if (!p.gro || p.gro >= p.len) {
			one(u, &p);
			continue;
		}
		for (left = p.len; left; left -= p.len, p.data += p.len) {
			p.len = left < p.gro ? left : p.gro;
			one(u, &p);
		}
	}
	return n;
}

int bb_udp_receive(struct bb_udp *u)
{
	int n = u->xsk.epoll >= 0 ? receive_xsk(u) : -1, udp = 0;

	if (n < 0 || bb_udp_xsk_both(u))
		udp = receive_udp(u);
	if (udp > 0 && n >= 0)
		bb_udp_xsk_came(u);
	if (u->inject)
		bb_inject_poll(u->inject, datagram, u);
	return (n > 0 ? n : 0) + (udp > 0 ? udp : 0);
}
