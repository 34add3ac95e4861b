/* SPDX-License-Identifier: MIT */
/* See rdma_wire.h. Private data carries the cluster's tag: who has no key opens no queue pair. */
#include "net/rdma_wire.h"

#include <bluebridge/gptr.h>

#include <endian.h>
#include <errno.h>
#include <string.h>

/* Not a packet's: no version has this flag. */
#define TAG_FLAGS 0xff

static void put(uint8_t *p, uint64_t v, unsigned int bytes)
{
	while (bytes) {
		p[--bytes] = (uint8_t)v;
		v >>= 8;
	}
}

static uint64_t get(const uint8_t *p, unsigned int bytes)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

/* Of the first n bytes, from one of both ends to the other. */
static uint64_t tag(const struct bb_key *k, const struct bb_rdma_open *o, bool back, const uint8_t *data, size_t n)
{
	const struct bb_hdr h = { .version = BB_WIRE_VERSION, .flags = TAG_FLAGS };
	const struct bb_gptr asker = { .tenant = o->tenant, .node = o->node, .ptr = o->pager };
	const struct bb_gptr home = { .tenant = o->tenant, .node = o->home, .cmd = BB_CMD_CLOSE };
	struct in6_addr a, b;

	bb_gptr_encode(&asker, &a);
	bb_gptr_encode(&home, &b);
	return bb_tag(k, back ? &b : &a, back ? &a : &b, &h, bb_digest(k, data, n));
}

void bb_rdma_open_encode(const struct bb_key *k, const struct bb_rdma_open *o, uint8_t out[BB_RDMA_OPEN_BYTES])
{
	out[0] = BB_RDMA_VERSION;
	out[1] = o->pager;
	put(out + 2, o->tenant, 2);
	put(out + 4, o->node, 2);
	put(out + 6, o->home, 2);
	put(out + 8, o->boot, 4);
	put(out + 12, o->home_boot, 4);
	put(out + 16, o->number, 8);
	put(out + 24, tag(k, o, false, out, 24), 8);
}

int bb_rdma_open_decode(const struct bb_key *k, const void *data, size_t len, struct bb_rdma_open *out)
{
	const uint8_t *p = data;

	memset(out, 0, sizeof(*out));
	if (!p || !len)
		return -EBADMSG;
	if (p[0] != BB_RDMA_VERSION)
		return -EPROTO;
	if (len < BB_RDMA_OPEN_BYTES) /* the kernel pads what is longer */
		return -EBADMSG;
	*out = (struct bb_rdma_open){
		.pager = p[1],
		.tenant = (uint16_t)get(p + 2, 2),
		.node = (uint16_t)get(p + 4, 2),
		.home = (uint16_t)get(p + 6, 2),
		.boot = (uint32_t)get(p + 8, 4),
		.home_boot = (uint32_t)get(p + 12, 4),
		.number = get(p + 16, 8),
	};
	if (tag(k, out, false, p, 24) ^ get(p + 24, 8))
		return -EKEYREJECTED;
	return out->node && out->node != BB_NODE_ANY && out->number ? 0 : -EBADMSG;
}

void bb_rdma_accept_encode(const struct bb_key *k, const struct bb_rdma_open *o, const struct bb_rdma_accept *a,
			   uint8_t out[BB_RDMA_ACCEPT_BYTES])
{
	out[0] = BB_RDMA_VERSION;
	memset(out + 1, 0, 3);
	put(out + 4, a->boot, 4);
	put(out + 8, a->number, 8);
	put(out + 16, tag(k, o, true, out, 16), 8);
}

int bb_rdma_accept_decode(const struct bb_key *k, const struct bb_rdma_open *o, const void *data, size_t len,
			  struct bb_rdma_accept *out)
{
	const uint8_t *p = data;

	memset(out, 0, sizeof(*out));
	if (!p || len < 1)
		return -EBADMSG;
	if (p[0] != BB_RDMA_VERSION)
		return -EPROTO;
	if (len < BB_RDMA_ACCEPT_BYTES)
		return -EBADMSG;
	*out = (struct bb_rdma_accept){ .boot = (uint32_t)get(p + 4, 4), .number = get(p + 8, 8) };
	return tag(k, o, true, p, 16) ^ get(p + 16, 8) ? -EKEYREJECTED : 0;
}

/*
 *  0 version  1 cmd, 0x80 in an answer  2 status  3 flags  4 count:32
 *  8 id:64  16 ptr:64  24 rkey:32  28 reserved:32  32 addr:64  40 pointers
 */
size_t bb_rdma_msg_encode(const struct bb_rdma_msg *m, uint8_t *out)
{
	const uint32_t n = m->reply && m->cmd == BB_RDMA_CREATE && m->count <= BB_CREATE_MAX ? m->count : 0;

	out[0] = BB_RDMA_VERSION;
	out[1] = (uint8_t)(m->cmd | (m->reply ? BB_CMD_REPLY : 0));
	out[2] = m->status;
	out[3] = m->flags;
	put(out + 4, m->count, 4);
	put(out + 8, m->id, 8);
	put(out + 16, m->ptr, 8);
	put(out + 24, m->rkey, 4);
	put(out + 28, 0, 4);
	put(out + 32, m->addr, 8);
	for (uint32_t i = 0; i < n; i++)
		put(out + BB_RDMA_MSG_BYTES + 8 * i, m->ptrs[i], 8);
	return BB_RDMA_MSG_BYTES + 8 * (size_t)n;
}

bool bb_rdma_msg_decode(struct bb_rdma_msg *m, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t n = 0;

	if (len < BB_RDMA_MSG_BYTES || p[0] != BB_RDMA_VERSION)
		return false;
	m->cmd = p[1] & BB_CMD_MASK;
	m->reply = p[1] & BB_CMD_REPLY;
	m->status = p[2];
	m->flags = p[3];
	m->count = (uint32_t)get(p + 4, 4);
	m->id = get(p + 8, 8);
	m->ptr = get(p + 16, 8);
	m->rkey = (uint32_t)get(p + 24, 4);
	m->addr = get(p + 32, 8);
	if (!m->id || m->status >= BB_ST_MAX || (!m->reply && m->status))
		return false;
	switch (m->cmd) {
	case BB_RDMA_CREATE:
		if (m->count > BB_CREATE_MAX || (!m->reply && (!m->count || m->flags & ~BB_F_SHARED)))
			return false;
		n = m->reply ? m->count : 0;
		break;
	case BB_RDMA_WINDOW:
	case BB_RDMA_DELETE:
		if (m->ptr & (BB_EXTENT_SIZE - 1))
			return false;
		break;
	default:
		return false;
	}
	if (len != BB_RDMA_MSG_BYTES + 8 * (size_t)n)
		return false;
	for (uint32_t i = 0; i < n; i++)
		m->ptrs[i] = get(p + BB_RDMA_MSG_BYTES + 8 * i, 8);
	return true;
}
