/* SPDX-License-Identifier: MIT */
/* The UDP transport: what goes out. Its theory of operation is in udp.h. */
#include "net/udp.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "clock.h"

/* --- packets ------------------------------------------------------------ */

void bb_udp_tx_flush(struct bb_udp *u)
{
	struct bb_udp_tx *tx = &u->tx;
	unsigned int i = 0;

	if (u->xsk.x)
		bb_udp_xsk_kick(u);
	while (i < tx->n) {
		int n;

		if (tx->n == 1)
			n = sendmsg(u->fd, &tx->msg[0].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 1;
		else
			n = sendmmsg(u->fd, tx->msg + i, tx->n - i, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0) {
			u->sh->stats.tx_packets += (unsigned int)n;
			i += (unsigned int)n;
			continue;
		}
		/* Anything else is a loss like others: it is sent again in time. */
		if (errno == EMSGSIZE && tx->iov[i][1].iov_len > BB_SEG_SMALL && !tx->peer[i]->narrow) {
			tx->peer[i]->narrow = true;
			tx->peer[i]->small = true;
			tx->peer[i]->mtu_at = bb_now_ns();
			u->nnarrow++;
		}
		i++;
	}
	tx->n = 0;
}

/* May it leave as a frame (udp_xsk.c)? A WRITE's first time may last for several windows. */
static bool as_frame(const struct bb_udp_peer *p, const struct bb_net_req *r, size_t len)
{
	return len ? r->cmd == BB_CMD_WRITE && r->t.tries <= 1 && p->there.trial != r : !r->t.tries;
}

/* m: flags, seg, nseg and length are set. data may be NULL. */
static void tx_add(struct bb_udp *u, struct bb_net_req *r, uint64_t ptr, struct bb_msg *m, const void *data, size_t len)
{
	struct bb_udp_peer *p = r->t.peer;
	struct bb_udp_tx *tx = &u->tx;
	const struct bb_gptr g = { .tenant = u->cfg->tenant, .node = p->node, .cmd = r->cmd, .ptr = ptr };
	const bool tracked = bb_wire_tracked(r->cmd);
	unsigned int i;

	if (tx->n == BB_UDP_TX)
		bb_udp_tx_flush(u);
	i = tx->n++;
	m->version = BB_WIRE_VERSION;
	m->boot = r->boot;
	m->session = tracked ? p->session : u->session;
	m->floor = tracked ? (uint32_t)p->floor : 0;
	m->id = r->t.id;
	tx->to[i] = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htobe16(u->cfg->port) };
	bb_gptr_encode(&g, &tx->to[i].sin6_addr);
	bb_wire_encode(&tx->hdr[i], m);
	bb_wire_seal(&u->cfg->key, &u->self, &tx->to[i].sin6_addr, r->cmd, &tx->hdr[i], data, len);
	u->sh->stats.tx_bytes += sizeof(tx->hdr[i]) + len;
	if (u->xsk.x && as_frame(p, r, len) && bb_udp_xsk_add(u, p, &tx->to[i], &tx->hdr[i], data, len)) {
		tx->n--;
		return;
	}
	tx->iov[i][0] = (struct iovec){ &tx->hdr[i], sizeof(tx->hdr[i]) };
	tx->iov[i][1] = (struct iovec){ (void *)data, len };
	tx->msg[i].msg_hdr = (struct msghdr){
		.msg_name = &tx->to[i],
		.msg_namelen = sizeof(tx->to[i]),
		.msg_iov = tx->iov[i],
		.msg_iovlen = len ? 2 : 1,
		.msg_control = &u->control,
		.msg_controllen = u->control_len,
	};
	tx->peer[i] = p;
}

/* The segment's bytes, as short as they get. Return: where they are; m says how many. */
static const uint8_t *pack(struct bb_udp *u, struct bb_net_req *r, struct bb_msg *m, const uint8_t *data)
{
	uint8_t *to;
	uint32_t n;

	if (u->tx.n == BB_UDP_TX)
		bb_udp_tx_flush(u);
	to = u->packed + (size_t)u->tx.n * BB_SEG_LARGE; /* of the packet that it goes into */
	n = bb_lz4_pack(u->lz4, data, m->length, to);
	if (!n) {
		u->sh->stats.lz4_raw++;
		return data;
	}
	u->sh->stats.lz4_tx++;
	u->sh->stats.lz4_saved += m->length - n;
	m->flags = (uint8_t)(BB_F_LZ4 | (m->length == BB_SEG_SMALL ? BB_F_SMALL : 0));
	if (m->length == BB_SEG_LARGE)
		r->t.packed |= 1ULL << m->seg;
	m->length = n;
	return to;
}

/* Segment seg of a WRITE or ALLOC_WRITE. */
static void tx_data(struct bb_udp *u, struct bb_net_req *r, uint16_t seg)
{
	const unsigned int spp = r->t.nseg / r->npages;
	const uint32_t len = spp == 1 ? BB_SEG_LARGE : BB_SEG_SMALL, at = seg % spp * len;
	const struct bb_net_page *page = &r->pages[seg / spp];
	struct bb_msg m = { .flags = r->cmd == BB_CMD_ALLOC_WRITE ? r->flags : 0, .seg = seg, .nseg = r->t.nseg, .length = len };
	const uint8_t *data = (const uint8_t *)page->data + at;

	if (r->t.lz4)
		data = pack(u, r, &m, data);
	tx_add(u, r, (r->cmd == BB_CMD_ALLOC_WRITE ? 0 : page->ptr) + at, &m, data, m.length);
}

/*
 * Asks at the first page of which not all is known to have arrived: where pages
 * of one home have moved, each of those who have them now knows of its own.
 */
static void tx_probe(struct bb_udp *u, struct bb_net_req *r)
{
	struct bb_msg m = { .flags = BB_F_PROBE, .nseg = r->t.nseg };
	unsigned int seg = 0;

	while (seg + 1 < r->t.nseg && (r->t.got[seg / 64] >> (seg % 64) & 1))
		seg++;
	r->t.asked = true;
	if (r->t.tries == 1)
		r->t.tries = 2; /* its time says nothing about one round trip */
	tx_add(u, r, r->pages[seg / (r->t.nseg / r->npages)].ptr, &m, NULL, 0);
}

/* Room for the payload of the next packet. */
static uint8_t *small_payload(struct bb_udp *u)
{
	if (u->tx.n == BB_UDP_TX)
		bb_udp_tx_flush(u);
	return u->tx.small[u->tx.n];
}

/* A request that goes out in one go. */
static void tx_request(struct bb_udp *u, struct bb_net_req *r)
{
	struct bb_msg m = { .nseg = 1 };
	struct bb_wire_update update;
	uint8_t *small;

	switch (r->cmd) {
	case BB_CMD_ALLOC_WRITE:
		for (uint16_t i = 0; i < r->t.nseg; i++)
			tx_data(u, r, i);
		break;
	case BB_CMD_CREATE:
		small = small_payload(u);
		m.flags = r->flags;
		m.length = (uint32_t)bb_wire_create_request(r->len, small);
		tx_add(u, r, 0, &m, small, m.length);
		break;
	case BB_CMD_UPDATE:
		small = small_payload(u);
		update = (struct bb_wire_update){ .op = r->len, .token = r->token };
		bb_wire_update_request(&update, small);
		m.length = BB_UPDATE_BYTES;
		tx_add(u, r, r->ptr, &m, small, m.length);
		break;
	case BB_CMD_CLOSE:
		small = small_payload(u);
		bb_wire_close_request(&(struct bb_wire_close){ .number = r->number, .seen = r->seen }, small);
		m.length = BB_CLOSE_BYTES;
		tx_add(u, r, 0, &m, small, m.length);
		break;
	case BB_CMD_DELETE:
		tx_add(u, r, r->ptr, &m, NULL, 0);
		break;
	default:
		m.flags = (uint8_t)((r->t.nseg > r->len / BB_PAGE_SIZE ? BB_F_SMALL : 0) | (r->t.lz4 ? BB_F_LZ4 : 0));
		m.length = r->len;
		tx_add(u, r, r->ptr, &m, NULL, 0);
	}
}

/* --- the window --------------------------------------------------------- */

/* Into how many segments it is cut on this path. */
static uint16_t segments(struct bb_udp_peer *p, const struct bb_net_req *r, uint64_t now)
{
	const unsigned int spp = bb_udp_small(p, r, now) ? BB_SEGS_SMALL : 1;

	switch (r->cmd) {
	case BB_CMD_CREATE:
	case BB_CMD_DELETE:
	case BB_CMD_UPDATE:
	case BB_CMD_CLOSE:
		return 1;
	case BB_CMD_WRITE:
	case BB_CMD_ALLOC_WRITE:
		return (uint16_t)(r->npages * spp);
	default:
		return (uint16_t)(r->len / BB_PAGE_SIZE * spp);
	}
}

/* A trial whether large segments pass is no trial with shorter ones. */
static bool compressed(const struct bb_udp_peer *p, const struct bb_net_req *r)
{
	return p->lz4 && !r->t.plain && p->there.trial != r && p->back.trial != r;
}

/* Gives it an id, and a buffer where its answer needs one. Return: false where it must wait. */
static bool start(struct bb_udp *u, struct bb_udp_peer *p, struct bb_net_req *r, uint64_t now)
{
	const bool tracked = bb_wire_tracked(r->cmd);

	r->t.nseg = segments(p, r, now);
	if (tracked) {
		if (p->next_id - p->floor >= BB_SESSION_OPEN_MAX)
			return false;
		r->t.id = p->next_id++;
		p->ring[r->t.id % BB_SESSION_WINDOW] = r;
		bb_udp_large(p, r);
		r->t.lz4 = r->cmd == BB_CMD_WRITE && compressed(p, r);
		return true;
	}
	if (u->nreads == BB_UDP_READS || (r->t.nseg > 1 && !r->t.buf && !u->nfree))
		return false;
	if (r->t.nseg > 1 && !r->t.buf)
		r->t.buf = u->free_buffer[--u->nfree];
	while (u->read_ring[u->next_read % BB_UDP_READS])
		u->next_read++;
	r->t.id = u->next_read++;
	u->read_ring[r->t.id % BB_UDP_READS] = r;
	u->nreads++;
	bb_udp_large(p, r);
	r->t.lz4 = (r->cmd == BB_CMD_READ || r->cmd == BB_CMD_READ_RUN) && compressed(p, r);
	return true;
}

static void sent(struct bb_udp *u, struct bb_udp_peer *p, struct bb_net_req *r, uint64_t now)
{
	if (!r->t_sent)
		r->t_sent = now;
	if (!r->t.tries)
		r->t.tries = 1;
	r->t.rto = p->rto;
	r->t.resend_at = now + r->t.rto;
	bb_udp_due(u, r->t.resend_at);
}

/* Return: false where the window ends before it does. */
static bool push_write(struct bb_udp *u, struct bb_udp_peer *p, struct bb_net_req *r, uint64_t now)
{
	bool some = false;

	for (; r->t.nsent < r->t.nseg; r->t.nsent++) {
		if (r->t.got[r->t.nsent / 64] >> (r->t.nsent % 64) & 1)
			continue;
		if (p->inflight >= p->window || (some && p->there.trial == r))
			break;
		tx_data(u, r, r->t.nsent);
		p->inflight++;
		some = true;
	}
	if (some)
		sent(u, p, r, now);
	if (r->t.nsent == r->t.nseg)
		return true;
	/* It will not be acknowledged before it is whole: ask, to see room again. */
	if (bb_udp_charge(r))
		tx_probe(u, r);
	return false;
}

void bb_udp_push(struct bb_udp *u, struct bb_udp_peer *p, uint64_t now)
{
	struct bb_net_req *r, *next;

	if (p->reads || p->writes)
		bb_udp_measure(u, p, now);
	if (u->xsk.epoll >= 0 && (p->reads || p->writes))
		bb_udp_xsk_prepare(u, p, now);
	DL_FOREACH_SAFE2(p->reads, r, next, t.next) {
		if (p->inflight && p->inflight + segments(p, r, now) > p->window)
			break;
		if (!start(u, p, r, now))
			continue;
		DL_DELETE2(p->reads, r, t.prev, t.next);
		bb_udp_link(u, r, BB_UDP_IN_OPEN, false);
		r->t.nsent = r->t.nseg;
		p->inflight += r->t.nseg;
		tx_request(u, r);
		sent(u, p, r, now);
	}
	while ((r = p->writes) && !r->t.asked) {
		if (!r->t.id && (p->inflight >= p->window || !start(u, p, r, now)))
			break;
		if (!push_write(u, p, r, now))
			break;
		DL_DELETE2(p->writes, r, t.prev, t.next);
		bb_udp_link(u, r, BB_UDP_IN_OPEN, false);
	}
}

/* --- losses ------------------------------------------------------------- */

void bb_udp_cut(struct bb_udp_peer *p, uint64_t now)
{
	if (now - p->cut_at <= p->srtt)
		return;
	p->cut_at = now;
	p->ssthresh = p->window / 2 > BB_WINDOW_MIN ? p->window / 2 : BB_WINDOW_MIN;
	p->window = p->ssthresh;
	p->acked = 0;
}

void bb_udp_resend(struct bb_udp *u, struct bb_net_req *r, uint64_t now)
{
	struct bb_udp_peer *p = r->t.peer;

	if (r->status != BB_ST_BUSY)
		bb_udp_cut(p, now);
	p->udp_until = now + BB_UDP_REPAIR_NS;
	bb_udp_doubt(u, r, now);
	r->t.tries++;
	/* Backs off from who is silent; the window is what yields to a full path. */
	if (p->heard_at > r->t.resend_at - r->t.rto)
		r->t.rto = p->rto;
	else
		r->t.rto = r->t.rto * 2 < BB_RTO_MAX_NS ? r->t.rto * 2 : BB_RTO_MAX_NS;
	r->t.resend_at = now + r->t.rto;
	u->sh->stats.resent++;
	if (r->cmd == BB_CMD_WRITE)
		tx_probe(u, r);
	else
		tx_request(u, r);
}
