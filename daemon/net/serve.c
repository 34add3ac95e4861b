/* SPDX-License-Identifier: MIT */
/*
 * One packet at a home.
 *
 * Theory of operation
 * -------------------
 * Checks come in the order that doc/protocol.md gives, cheap and stateless
 * first. Nothing is answered to a packet whose tag is wrong, but for one of
 * another version, whose tag we cannot know. A request that changes something
 * then goes through its session's window (session.h), which makes duplicates
 * harmless; a READ needs no memory of it.
 *
 * Pages leave straight from the home's memory: the answer's iovec points there,
 * and the reference of bb_home_get() is held until it is sent.
 */
#include "net/serve.h"

#include <bluebridge/steer.h>

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "home/home.h"
#include "net/adopt.h"
#include "net/compress.h"
#include "net/hello.h"
#include "net/peers.h"
#include "net/serve_impl.h"
#include "wire.h"

int bb_serve_init(struct bb_serve *s, struct bb_peers *peers, struct bb_home *home, struct bb_keep *keep)
{
	const struct bb_peers_config *cfg = bb_peers_config(peers);

	memset(s, 0, sizeof(*s));
	s->key = &cfg->key;
	s->tenant = cfg->tenant;
	s->node = cfg->node;
	s->boot = cfg->boot;
	s->peers = peers;
	s->home = home;
	if (cfg->compress != BB_COMPRESS_OFF) {
		s->lz4 = bb_lz4_new();
		s->packed = malloc(BB_RUN_PAGES_MAX * BB_PAGE_SIZE);
		if (!s->lz4 || !s->packed) {
			bb_serve_fini(s);
			return -ENOMEM;
		}
	}
	return bb_sessions_new(&s->sessions, keep);
}

void bb_serve_fini(struct bb_serve *s)
{
	bb_sessions_free(s->sessions);
	bb_lz4_free(s->lz4);
	free(s->packed);
	s->lz4 = NULL;
	s->packed = NULL;
}

/* --- answers ------------------------------------------------------------ */

static void out_init(struct bb_serve *s, const struct bb_serve_request *q, struct bb_serve_out *o)
{
	struct bb_gptr src = q->dst, to = { .tenant = q->asker.tenant, .node = q->asker.node, .ptr = q->asker.ptr };

	src.cmd |= BB_CMD_REPLY;
	if (src.node == BB_NODE_ANY) /* who it was */
		src.node = s->node;
	to.cmd = src.cmd;
	*o = (struct bb_serve_out){ .to = q->p->from, .iov = s->iov };
	o->to.sin6_flowinfo = 0;
	o->to.sin6_scope_id = 0;
	bb_gptr_encode(&src, &o->src);
	bb_gptr_encode(&to, &o->to.sin6_addr);
}

static void out_segment(struct bb_serve *s, const struct bb_serve_request *q, struct bb_serve_out *o, struct bb_msg *m, void *data)
{
	const unsigned int i = o->nseg++;
	uint16_t len;

	m->version = BB_WIRE_VERSION;
	m->boot = q->boot;
	m->session = q->m.session;
	m->id = q->m.id;
	bb_wire_encode(&s->hdr[i], m);
	bb_wire_seal(s->key, &o->src, &o->to.sin6_addr, q->dst.cmd | BB_CMD_REPLY, &s->hdr[i], data, m->length);
	s->iov[2 * i] = (struct iovec){ &s->hdr[i], sizeof(s->hdr[i]) };
	s->iov[2 * i + 1] = (struct iovec){ data, m->length };
	len = (uint16_t)(sizeof(s->hdr[i]) + m->length);
	o->uneven |= i && len != o->size;
	o->size = len > o->size ? len : o->size;
}

static int out_send(struct bb_serve *s, const struct bb_serve_out *o)
{
	int ret = s->send(s->arg, o);

	if (!ret)
		bb_count(&s->stats.tx_packets, o->nseg);
	return ret;
}

/* An answer of one datagram; its payload, len bytes of s->payload, may be empty. */
void bb_serve_answer(struct bb_serve *s, const struct bb_serve_request *q, uint8_t status, size_t len)
{
	struct bb_msg m = { .status = status, .nseg = 1, .length = (uint32_t)len };
	struct bb_serve_out o;

	out_init(s, q, &o);
	out_segment(s, q, &o, &m, s->payload);
	out_send(s, &o);
}

/* --- READ --------------------------------------------------------------- */

/* The next segment's bytes, as short as they get. Return: where they are; m says how many. */
static void *pack(struct bb_serve *s, struct bb_msg *m, uint8_t *data, uint32_t seg, uint8_t **packed)
{
	uint8_t *to = *packed;
	uint32_t n;

	m->flags &= (uint8_t)~BB_F_LZ4;
	m->length = seg;
	if (!to)
		return data;
	n = bb_lz4_pack(s->lz4, data, seg, to);
	if (!n) {
		bb_count(&s->stats.lz4_raw, 1);
		return data;
	}
	m->flags |= BB_F_LZ4;
	m->length = n;
	*packed += n;
	bb_count(&s->stats.lz4_tx, 1);
	bb_count(&s->stats.lz4_saved, seg - n);
	return to;
}

static int send_pages(struct bb_serve *s, const struct bb_serve_request *q, uint8_t *data, bool small)
{
	const uint32_t seg = small ? BB_SEG_SMALL : BB_SEG_LARGE;
	uint8_t *packed = q->m.flags & BB_F_LZ4 ? s->packed : NULL;
	struct bb_msg m = {
		.flags = small ? BB_F_SMALL : 0,
		.nseg = (uint16_t)(q->m.length / seg),
	};
	struct bb_serve_out o;

	out_init(s, q, &o);
	for (; m.seg < m.nseg; m.seg++)
		out_segment(s, q, &o, &m, pack(s, &m, data + (size_t)m.seg * seg, seg, &packed));
	return out_send(s, &o);
}

static void serve_read(struct bb_serve *s, const struct bb_serve_request *q)
{
	const bool small = q->m.flags & BB_F_SMALL;
	void *data;
	uint8_t st;

	st = s->home ? bb_home_get(s->home, q->who, q->ptr, q->m.length, false, &data) : BB_ST_BOUNDS;
	if (st != BB_ST_OK) {
		bb_serve_answer(s, q, st, 0);
		return;
	}
	/* Our own path may be narrower than the asker knows. */
	if (send_pages(s, q, data, small) == -EMSGSIZE && !small)
		send_pages(s, q, data, true);
	bb_home_put(s->home, q->ptr, q->m.length, false);
}

/* --- WRITE -------------------------------------------------------------- */

static void answer_write(struct bb_serve *s, const struct bb_serve_request *q, const struct bb_session_slot *slot)
{
	size_t len;

	if (slot->status)
		len = bb_wire_failed(slot->failed, s->payload);
	else
		len = bb_wire_state(slot->got, slot->nseg, s->payload);
	bb_serve_answer(s, q, slot->status, len);
}

/* Applies a segment's bytes at ptr. Return: enum bb_status. */
static uint8_t apply(struct bb_serve *s, const struct bb_serve_request *q, uint64_t ptr)
{
	const uint32_t len = bb_wire_plain(&q->m);
	const void *from = q->m.payload;
	uint8_t whole[BB_SEG_LARGE];
	void *data;
	uint8_t st;

	/* Aside first: of what is not whole nothing is written. */
	if (q->m.flags & BB_F_LZ4) {
		if (!bb_lz4_unpack(q->m.payload, q->m.length, whole, len))
			return BB_ST_MALFORMED;
		from = whole;
		bb_count(&s->stats.lz4_rx, 1);
		bb_count(&s->stats.lz4_saved, len - q->m.length);
	}
	st = s->home ? bb_home_get(s->home, q->who, ptr, len, true, &data) : BB_ST_BOUNDS;
	if (st != BB_ST_OK)
		return st;
	memcpy(data, from, len);
	bb_home_put(s->home, ptr, len, true);
	return BB_ST_OK;
}

/* Marks the segment as arrived. Return: false where it had been before. */
static bool arrived(struct bb_session_slot *slot, uint16_t seg)
{
	uint64_t *word = &slot->got[seg / 64], bit = 1ULL << (seg % 64);

	if (*word & bit)
		return false;
	*word |= bit;
	slot->ngot++;
	if (slot->ngot == slot->nseg)
		slot->state = BB_SLOT_DONE;
	return true;
}

static void serve_write(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot)
{
	const bool probe = q->m.flags & BB_F_PROBE, known = slot->got[q->m.seg / 64] >> (q->m.seg % 64) & 1;
	uint8_t st;

	if (slot->state == BB_SLOT_NEW)
		slot->state = BB_SLOT_OPEN;
	if (probe || known || slot->state == BB_SLOT_DONE) {
		if (!probe)
			bb_count(&s->stats.duplicates, 1);
		if (probe || slot->status || slot->state == BB_SLOT_DONE)
			answer_write(s, q, slot);
		return;
	}
	if (!slot->status) {
		st = apply(s, q, q->ptr);
		if (st == BB_ST_BUSY) {
			bb_serve_answer(s, q, st, 0);
			return;
		}
		if (st) {
			slot->status = st;
			slot->failed = (uint16_t)(q->m.seg / bb_wire_spp(bb_wire_plain(&q->m)));
			answer_write(s, q, slot);
		}
	}
	arrived(slot, q->m.seg);
	if (slot->state == BB_SLOT_DONE && !slot->status)
		answer_write(s, q, slot);
}

/* --- CREATE, DELETE ------------------------------------------------------ */

static void answer_create(struct bb_serve *s, const struct bb_serve_request *q, const struct bb_session_slot *slot)
{
	size_t len = slot->status ? 0 : bb_wire_create_reply(slot->result->ptrs, slot->result->n, s->payload);

	bb_serve_answer(s, q, slot->status, len);
}

/* Return: false where it could not be taken on. */
static bool create(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot, uint32_t want)
{
	uint64_t ptrs[BB_CREATE_MAX];
	uint8_t st = BB_ST_NOSPACE;
	uint32_t n;

	/* Room for the result first: what is done must be remembered. */
	if (bb_sessions_result(s->sessions, slot, want)) {
		bb_sessions_undo(s->sessions, slot);
		bb_serve_answer(s, q, BB_ST_BUSY, 0);
		return false;
	}
	for (n = 0; s->home && n < want; n++) {
		st = bb_home_create(s->home, q->who, q->m.flags, &ptrs[n]);
		if (st != BB_ST_OK)
			break;
	}
	/* More memory is on its way: the asker comes again. */
	if (!n && st == BB_ST_BUSY) {
		bb_sessions_undo(s->sessions, slot);
		bb_serve_answer(s, q, st, 0);
		return false;
	}
	bb_sessions_shrink(s->sessions, slot, n);
	slot->status = n ? BB_ST_OK : st;
	if (n)
		memcpy(slot->result->ptrs, ptrs, n * sizeof(ptrs[0]));
	return true;
}

static void serve_create(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot)
{
	if (slot->state == BB_SLOT_DONE)
		bb_count(&s->stats.duplicates, 1);
	else if (!create(s, q, slot, bb_wire_create_count(&q->m)))
		return;
	slot->state = BB_SLOT_DONE;
	answer_create(s, q, slot);
}

static void serve_alloc_write(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot)
{
	if (slot->state == BB_SLOT_NEW) {
		if (!create(s, q, slot, 1))
			return;
		slot->state = slot->status ? BB_SLOT_DONE : BB_SLOT_OPEN;
	} else if (slot->state == BB_SLOT_DONE || (slot->got[0] >> q->m.seg & 1)) {
		bb_count(&s->stats.duplicates, 1);
	}
	if (slot->state == BB_SLOT_OPEN && !(slot->got[0] >> q->m.seg & 1)) {
		slot->status = apply(s, q, slot->result->ptrs[0] + q->dst.ptr);
		if (slot->status)
			slot->state = BB_SLOT_DONE;
		else
			arrived(slot, q->m.seg);
	}
	if (slot->state == BB_SLOT_DONE)
		answer_create(s, q, slot);
}

static void serve_delete(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot)
{
	if (slot->state == BB_SLOT_DONE) {
		bb_count(&s->stats.duplicates, 1);
	} else {
		slot->status = s->home ? bb_home_delete(s->home, q->who, q->ptr) : BB_ST_BOUNDS;
		if (slot->status == BB_ST_BUSY) { /* it moves */
			bb_sessions_undo(s->sessions, slot);
			bb_serve_answer(s, q, BB_ST_BUSY, 0);
			return;
		}
		if (q->home && slot->status == BB_ST_OK) {
			bb_adopt_set(s->adopt, q->home, q->dst.ptr, BB_ADOPT_LEAVING);
			if (s->moved)
				s->moved(s->move_arg);
		}
	}
	slot->state = BB_SLOT_DONE;
	bb_serve_answer(s, q, slot->status, 0);
}

static void serve_tracked(struct bb_serve *s, const struct bb_serve_request *q)
{
	struct bb_session_slot *slot;
	enum bb_status st;

	st = bb_sessions_slot(s->sessions, q->asker.node, q->home, q->dst.cmd, &q->m, bb_now_ns(), &slot);
	if (st != BB_ST_OK) {
		if (st == BB_ST_STALE)
			bb_count(&s->stats.stale, 1);
		bb_serve_answer(s, q, st, 0);
		return;
	}
	switch (q->dst.cmd) {
	case BB_CMD_WRITE:
		serve_write(s, q, slot);
		break;
	case BB_CMD_CREATE:
		serve_create(s, q, slot);
		break;
	case BB_CMD_ALLOC_WRITE:
		serve_alloc_write(s, q, slot);
		break;
	case BB_CMD_UPDATE:
		bb_serve_update(s, q, slot);
		break;
	default:
		serve_delete(s, q, slot);
	}
}

static void serve_close(struct bb_serve *s, const struct bb_serve_request *q)
{
	struct bb_wire_close c;

	bb_wire_close_decode(&q->m, &c);
	bb_serve_answer(s, q, s->close ? s->close(s->close_arg, q->asker.node, (uint8_t)q->asker.ptr, c.number, c.seen) : BB_ST_OK, 0);
}

/* --- packets ------------------------------------------------------------ */

static void hello(struct bb_serve *s, const struct bb_sock_packet *p)
{
	const struct in6_addr *src = &p->from.sin6_addr;
	struct bb_hello claims;
	struct bb_hdr h;
	struct bb_msg m;
	int ret;

	switch (bb_wire_decode(p->data, p->len, &m)) {
	case BB_ST_OK:
		break;
	case BB_ST_VERSION:
		bb_count(&s->stats.bad_version, 1);
		return;
	default:
		bb_count(&s->stats.malformed, 1);
		return;
	}
	if (!bb_wire_verify(s->key, src, &p->to, BB_CMD_HELLO, p->data, p->len)) {
		bb_count(&s->stats.bad_tag, 1);
		ret = bb_hello_decode(&claims, m.payload, m.paylen);
		bb_peers_key_differs(s->peers, src, ret ? 0 : claims.node);
		return;
	}
	memcpy(&h, p->data, sizeof(h));
	bb_count(&s->stats.by_cmd[BB_CMD_HELLO], 1);
	ret = bb_peers_input(s->peers, src, p->ifindex, be16toh(p->from.sin6_port), &h, m.payload, m.paylen);
	if (ret > 0)
		s->hello_due = true;
	else if (ret < 0)
		bb_count(&s->stats.malformed, 1);
}

static void refuse(struct bb_serve *s, const struct bb_serve_request *q, enum bb_status st, uint64_t *counter)
{
	if (counter)
		bb_count(counter, 1);
	bb_serve_answer(s, q, st, 0);
}

/*
 * The policy that the kernel's programs have, so that it does not matter who of
 * us sees a request. Rates are theirs alone. Return: whether the request ends here.
 */
static bool by_policy(struct bb_serve *s, const struct bb_serve_request *q)
{
	switch (__atomic_load_n(&s->policy[q->dst.cmd].action, __ATOMIC_RELAXED)) {
	case BB_ACT_DROP:
		bb_count(&s->stats.policy, 1);
		return true;
	case BB_ACT_REFUSE:
		refuse(s, q, BB_ST_COMMAND, &s->stats.policy);
		return true;
	default:
		return false;
	}
}

/*
 * A request to another home's address: is it for an extent that lives here now?
 * Return: OK, and q says where; or what is answered.
 */
static enum bb_status find_adopted(struct bb_serve *s, struct bb_serve_request *q)
{
	struct bb_adopt_entry e;

	if (!s->adopt || (q->dst.cmd != BB_CMD_READ && q->dst.cmd != BB_CMD_READ_RUN && q->dst.cmd != BB_CMD_WRITE &&
			  q->dst.cmd != BB_CMD_DELETE) ||
	    !bb_adopt_find(s->adopt, q->dst.node, q->dst.ptr, &e) || e.state == BB_ADOPT_COPYING)
		return BB_ST_BOUNDS;
	q->home = e.node;
	q->boot = e.boot;
	q->ptr = e.local + (q->dst.ptr & (BB_EXTENT_SIZE - 1));
	bb_count(&s->stats.adopted, 1);
	/* Its home says that we may have it; what its owner has sent there we are about to learn. */
	return e.state == BB_ADOPT_COMMITTING ? BB_ST_BUSY : BB_ST_OK;
}

void bb_serve_packet(struct bb_serve *s, const struct bb_sock_packet *p)
{
	const struct in6_addr *src = &p->from.sin6_addr;
	struct bb_serve_request q = { .p = p };
	enum bb_status st, kind;

	bb_count(&s->stats.rx_packets, 1);
	if (p->len < BB_WIRE_HDR || !p->from.sin6_port) {
		bb_count(&s->stats.malformed, 1);
		return;
	}
	if (!bb_gptr_decode(&p->to, &q.dst) || q.dst.cmd == BB_CMD_HELLO) {
		hello(s, p);
		return;
	}
	if (q.dst.cmd & BB_CMD_REPLY) { /* answering it could go on for ever */
		bb_count(&s->stats.bad_command, 1);
		return;
	}
	if (!bb_gptr_decode(src, &q.asker) || !q.asker.node || q.asker.node == BB_NODE_ANY) {
		bb_count(&s->stats.malformed, 1);
		return;
	}
	q.who = (struct bb_home_who){ .tenant = q.asker.tenant, .node = q.asker.node };
	q.ptr = q.dst.ptr;
	q.boot = s->boot;
	st = bb_wire_decode(p->data, p->len, &q.m);
	if (st == BB_ST_VERSION) {
		refuse(s, &q, st, &s->stats.bad_version);
		return;
	}
	kind = bb_wire_request(&q.dst, &q.m);
	if (st == BB_ST_OK && kind == BB_ST_MALFORMED)
		st = kind;
	if (!bb_wire_verify(s->key, src, &p->to, q.dst.cmd, p->data, p->len)) {
		bb_count(&s->stats.bad_tag, 1);
		bb_peers_key_differs(s->peers, src, q.asker.tenant == s->tenant ? q.asker.node : 0);
		return;
	}
	if (st != BB_ST_OK)
		return refuse(s, &q, st, &s->stats.malformed);
	if (q.dst.tenant != s->tenant || q.asker.tenant != s->tenant)
		return refuse(s, &q, BB_ST_TENANT, &s->stats.foreign_tenant);
	if (q.dst.node != s->node && !(q.dst.node == BB_NODE_ANY && (q.dst.cmd == BB_CMD_CREATE || q.dst.cmd == BB_CMD_ALLOC_WRITE))) {
		st = find_adopted(s, &q);
		if (st != BB_ST_OK)
			return refuse(s, &q, st, NULL);
	}
	if (s->policy && by_policy(s, &q))
		return;
	if (kind == BB_ST_COMMAND)
		return refuse(s, &q, BB_ST_COMMAND, &s->stats.bad_command);
	bb_count(&s->stats.by_cmd[q.dst.cmd], 1);
	if (q.m.boot != q.boot && (q.m.boot || (q.dst.cmd != BB_CMD_CREATE && q.dst.cmd != BB_CMD_ALLOC_WRITE)))
		return refuse(s, &q, BB_ST_BOOT, NULL);
	if (q.dst.cmd == BB_CMD_READ || q.dst.cmd == BB_CMD_READ_RUN)
		serve_read(s, &q);
	else if (q.dst.cmd == BB_CMD_CLOSE)
		serve_close(s, &q);
	else
		serve_tracked(s, &q);
}
