/* SPDX-License-Identifier: MIT */
/*
 * Encoder and decoder of packets. Pure functions: the checks that need to know
 * who we are (tenant, node, tag, boot) are the server's and the client's.
 */
#include "wire.h"

#include <endian.h>
#include <string.h>

_Static_assert(sizeof(struct bb_hdr) == 40, "the header has 40 bytes");

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint64_t get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)(v >> 32));
	put32(p + 4, (uint32_t)v);
}

bool bb_wire_tracked(uint8_t cmd)
{
	return cmd == BB_CMD_WRITE || cmd == BB_CMD_CREATE || cmd == BB_CMD_ALLOC_WRITE || cmd == BB_CMD_DELETE ||
	       cmd == BB_CMD_UPDATE;
}

/* --- headers ------------------------------------------------------------ */

enum bb_status bb_wire_decode(const void *data, size_t len, struct bb_msg *m)
{
	struct bb_hdr h;

	memset(m, 0, sizeof(*m));
	if (len < sizeof(h))
		return BB_ST_MALFORMED;
	memcpy(&h, data, sizeof(h));
	m->version = h.version;
	m->flags = h.flags;
	m->status = h.status;
	m->seg = be16toh(h.seg);
	m->nseg = be16toh(h.nseg);
	m->length = be32toh(h.length);
	m->boot = be32toh(h.boot);
	m->session = be32toh(h.session);
	m->floor = be32toh(h.floor);
	m->id = be64toh(h.id);
	m->payload = (const uint8_t *)data + sizeof(h);
	m->paylen = len - sizeof(h) > UINT32_MAX ? UINT32_MAX : (uint32_t)(len - sizeof(h));
	if (m->version != BB_WIRE_VERSION)
		return BB_ST_VERSION;
	if (h.reserved || m->seg >= m->nseg || m->paylen > BB_SEG_LARGE)
		return BB_ST_MALFORMED;
	return BB_ST_OK;
}

void bb_wire_encode(struct bb_hdr *h, const struct bb_msg *m)
{
	*h = (struct bb_hdr){
		.version = m->version,
		.flags = m->flags,
		.status = m->status,
		.seg = htobe16(m->seg),
		.nseg = htobe16(m->nseg),
		.length = htobe32(m->length),
		.boot = htobe32(m->boot),
		.session = htobe32(m->session),
		.floor = htobe32(m->floor),
		.id = htobe64(m->id),
	};
}

/* --- requests ----------------------------------------------------------- */

static bool read_ok(const struct bb_gptr *dst, const struct bb_msg *m)
{
	const uint32_t max = dst->cmd == BB_CMD_READ ? BB_PAGE_SIZE : BB_RUN_PAGES_MAX * BB_PAGE_SIZE;

	return !m->paylen && m->nseg == 1 && !(m->flags & ~(BB_F_SMALL | BB_F_LZ4)) && m->length && m->length <= max &&
	       !(m->length & BB_PAGE_MASK) && !(dst->ptr & BB_PAGE_MASK);
}

/* Can a segment with data be so long? */
static bool length_ok(const struct bb_msg *m)
{
	const uint32_t plain = bb_wire_plain(m);

	if (m->flags & BB_F_LZ4)
		return m->length && m->length <= BB_LZ4_MAX(plain);
	return plain == BB_SEG_SMALL || plain == BB_SEG_LARGE;
}

/* The segment's place in its page is in the address. */
static bool data_ok(const struct bb_gptr *dst, const struct bb_msg *m)
{
	const uint32_t plain = bb_wire_plain(m);
	const unsigned int spp = bb_wire_spp(plain);

	if (m->length != m->paylen || !length_ok(m) || m->nseg % spp)
		return false;
	return (dst->ptr & BB_PAGE_MASK) == (uint64_t)(m->seg % spp) * plain;
}

static bool write_ok(const struct bb_gptr *dst, const struct bb_msg *m)
{
	if (m->flags == BB_F_PROBE)
		return !m->length && !m->paylen && !m->seg && m->nseg <= BB_WRITE_SEGS_MAX;
	if (m->flags & ~(BB_F_LZ4 | BB_F_SMALL) || m->flags == BB_F_SMALL)
		return false;
	return data_ok(dst, m) && m->nseg / bb_wire_spp(bb_wire_plain(m)) <= BB_BATCH_PAGES_MAX;
}

static bool create_ok(const struct bb_gptr *dst, const struct bb_msg *m)
{
	uint32_t n;

	if (m->flags & ~BB_F_SHARED)
		return false;
	if (dst->cmd == BB_CMD_ALLOC_WRITE)
		return data_ok(dst, m) && m->nseg == bb_wire_spp(m->length) && !(dst->ptr & ~BB_PAGE_MASK);
	if (m->length != 4 || m->paylen != 4 || m->nseg != 1 || dst->ptr)
		return false;
	n = get32(m->payload);
	return n >= 1 && n <= BB_CREATE_MAX;
}

static bool update_ok(const struct bb_gptr *dst, const struct bb_msg *m)
{
	uint32_t op;

	if (m->flags || m->length != BB_UPDATE_BYTES || m->paylen != BB_UPDATE_BYTES || m->nseg != 1 ||
	    dst->ptr & (BB_EXTENT_SIZE - 1))
		return false;
	op = get32(m->payload);
	return op >= BB_UPDATE_BEGIN && op <= BB_UPDATE_RELEASE;
}

enum bb_status bb_wire_request(const struct bb_gptr *dst, const struct bb_msg *m)
{
	bool ok;

	if (m->status)
		return BB_ST_MALFORMED;
	switch (dst->cmd) {
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		ok = read_ok(dst, m);
		break;
	case BB_CMD_WRITE:
		ok = write_ok(dst, m);
		break;
	case BB_CMD_CREATE:
	case BB_CMD_ALLOC_WRITE:
		ok = create_ok(dst, m);
		break;
	case BB_CMD_DELETE:
		ok = !m->flags && !m->length && !m->paylen && m->nseg == 1;
		break;
	case BB_CMD_UPDATE:
		ok = update_ok(dst, m);
		break;
	case BB_CMD_CLOSE:
		ok = !m->flags && m->length == BB_CLOSE_BYTES && m->paylen == BB_CLOSE_BYTES && m->nseg == 1 && !dst->ptr;
		break;
	default:
		return BB_ST_COMMAND;
	}
	if (ok && bb_wire_tracked(dst->cmd))
		ok = m->id && (uint32_t)m->id - m->floor < BB_SESSION_OPEN_MAX;
	return ok ? BB_ST_OK : BB_ST_MALFORMED;
}

/* --- replies ------------------------------------------------------------ */

static bool refusal_ok(uint8_t cmd, const struct bb_msg *m)
{
	if (m->status >= BB_ST_MAX || m->status == BB_ST_TIMEOUT || m->status == BB_ST_UNREACH)
		return false;
	return m->nseg == 1 && (!m->length || (cmd == BB_CMD_WRITE && m->length == 2));
}

enum bb_status bb_wire_reply(uint8_t cmd, const struct bb_msg *m)
{
	unsigned int spp;
	bool ok;

	if (m->length != m->paylen)
		return BB_ST_MALFORMED;
	if (m->status)
		return refusal_ok(cmd, m) ? BB_ST_OK : BB_ST_MALFORMED;
	switch (cmd) {
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		spp = bb_wire_spp(bb_wire_plain(m));
		ok = length_ok(m) && !(m->nseg % spp) &&
		     m->nseg / spp <= (cmd == BB_CMD_READ ? 1 : BB_RUN_PAGES_MAX);
		break;
	case BB_CMD_WRITE:
		ok = m->nseg == 1 && m->length > 2 && m->length <= BB_WRITE_STATE_MAX;
		break;
	case BB_CMD_CREATE:
	case BB_CMD_ALLOC_WRITE:
		ok = m->nseg == 1 && m->length >= 12 && m->length <= BB_CREATE_REPLY_MAX &&
		     m->length == 4 + 8 * (uint64_t)get32(m->payload);
		break;
	case BB_CMD_DELETE:
	case BB_CMD_CLOSE:
		ok = m->nseg == 1 && !m->length;
		break;
	case BB_CMD_UPDATE: /* of which kind only its asker knows */
		ok = m->nseg == 1 && (!m->length || m->length == BB_UPDATE_BYTES ||
				      (m->length >= 4 && m->length <= BB_UPDATE_REPLY_MAX &&
				       m->length == 4 + 12 * (uint64_t)get32(m->payload)));
		break;
	default:
		return BB_ST_COMMAND;
	}
	return ok ? BB_ST_OK : BB_ST_MALFORMED;
}

/* --- payloads ----------------------------------------------------------- */

size_t bb_wire_create_request(uint32_t n, uint8_t out[4])
{
	put32(out, n);
	return 4;
}

uint32_t bb_wire_create_count(const struct bb_msg *m)
{
	return m->paylen >= 4 ? get32(m->payload) : 0;
}

size_t bb_wire_create_reply(const uint64_t *ptrs, uint32_t n, uint8_t *out)
{
	if (n > BB_CREATE_MAX)
		n = BB_CREATE_MAX;
	put32(out, n);
	for (uint32_t i = 0; i < n; i++)
		put64(out + 4 + 8 * i, ptrs[i]);
	return 4 + 8 * (size_t)n;
}

uint32_t bb_wire_create_ptrs(const struct bb_msg *m, uint64_t *ptrs, uint32_t max)
{
	uint32_t n = bb_wire_create_count(m);

	if (n > max || n > BB_CREATE_MAX || m->paylen != 4 + 8 * n)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		ptrs[i] = get64(m->payload + 4 + 8 * i);
	return n;
}

void bb_wire_update_request(const struct bb_wire_update *u, uint8_t out[BB_UPDATE_BYTES])
{
	put32(out, u->op);
	put32(out + 4, u->token);
}

void bb_wire_update_decode(const struct bb_msg *m, struct bb_wire_update *out)
{
	*out = (struct bb_wire_update){ 0 };
	if (m->paylen < BB_UPDATE_BYTES)
		return;
	out->op = get32(m->payload);
	out->token = get32(m->payload + 4);
}

size_t bb_wire_owner_reply(const struct bb_wire_owner *o, uint8_t out[BB_UPDATE_BYTES])
{
	put16(out, o->node);
	put16(out + 2, 0);
	put32(out + 4, o->boot);
	return BB_UPDATE_BYTES;
}

bool bb_wire_owner_decode(const uint8_t *data, size_t len, struct bb_wire_owner *out)
{
	if (len != BB_UPDATE_BYTES)
		return false;
	*out = (struct bb_wire_owner){ .node = get16(data), .boot = get32(data + 4) };
	return out->node && out->node != BB_NODE_ANY;
}

size_t bb_wire_seen_reply(const struct bb_wire_seen *s, uint32_t n, uint8_t *out)
{
	if (n > BB_UPDATE_SESSIONS_MAX)
		n = BB_UPDATE_SESSIONS_MAX;
	put32(out, n);
	for (uint32_t i = 0; i < n; i++) {
		put32(out + 4 + 12 * i, s[i].session);
		put64(out + 8 + 12 * i, s[i].top);
	}
	return 4 + 12 * (size_t)n;
}

int bb_wire_seen_decode(const uint8_t *data, size_t len, struct bb_wire_seen *out)
{
	uint32_t n;

	if (len < 4)
		return -1;
	n = get32(data);
	if (n > BB_UPDATE_SESSIONS_MAX || len != 4 + 12 * (size_t)n)
		return -1;
	for (uint32_t i = 0; i < n; i++)
		out[i] = (struct bb_wire_seen){ .session = get32(data + 4 + 12 * i), .top = get64(data + 8 + 12 * i) };
	return (int)n;
}

void bb_wire_close_request(const struct bb_wire_close *c, uint8_t out[BB_CLOSE_BYTES])
{
	put64(out, c->number);
	put64(out + 8, c->seen);
}

void bb_wire_close_decode(const struct bb_msg *m, struct bb_wire_close *out)
{
	*out = (struct bb_wire_close){ 0 };
	if (m->paylen < BB_CLOSE_BYTES)
		return;
	out->number = get64(m->payload);
	out->seen = get64(m->payload + 8);
}

size_t bb_wire_state(const uint64_t got[4], uint16_t nseg, uint8_t *out)
{
	unsigned int n = 0;

	if (nseg > BB_WRITE_SEGS_MAX)
		nseg = BB_WRITE_SEGS_MAX;
	memset(out + 2, 0, (nseg + 7u) / 8);
	for (unsigned int i = 0; i < nseg; i++) {
		if (!(got[i / 64] >> (i % 64) & 1))
			continue;
		out[2 + i / 8] |= (uint8_t)(1 << (i % 8));
		n++;
	}
	put16(out, (uint16_t)n);
	return 2 + (nseg + 7u) / 8;
}

int bb_wire_state_decode(const struct bb_msg *m, uint16_t nseg, uint64_t got[4])
{
	unsigned int n = 0;

	memset(got, 0, 4 * sizeof(got[0]));
	if (nseg > BB_WRITE_SEGS_MAX || m->paylen != 2 + (nseg + 7u) / 8)
		return -1;
	for (unsigned int i = 0; i < (nseg + 7u) / 8 * 8; i++) {
		if (!(m->payload[2 + i / 8] >> (i % 8) & 1))
			continue;
		if (i >= nseg)
			return -1;
		got[i / 64] |= 1ULL << (i % 64);
		n++;
	}
	return get16(m->payload) == n ? (int)n : -1;
}

size_t bb_wire_failed(uint16_t page, uint8_t out[2])
{
	put16(out, page);
	return 2;
}

uint16_t bb_wire_failed_page(const struct bb_msg *m)
{
	return m->paylen >= 2 ? get16(m->payload) : 0;
}

/* --- tags --------------------------------------------------------------- */

uint64_t bb_wire_digest(const struct bb_key *k, uint8_t cmd, const struct bb_hdr *h, const void *payload, size_t len)
{
	if (h->status == BB_ST_OK && !(h->flags & BB_F_LZ4) &&
	    (cmd == (BB_CMD_READ | BB_CMD_REPLY) || cmd == (BB_CMD_READ_RUN | BB_CMD_REPLY)))
		return 0;
	return bb_digest(k, payload, len);
}

void bb_wire_seal(const struct bb_key *k, const struct in6_addr *src, const struct in6_addr *dst, uint8_t cmd,
		  struct bb_hdr *h, const void *payload, size_t len)
{
	h->tag = htobe64(bb_tag(k, src, dst, h, bb_wire_digest(k, cmd, h, payload, len)));
}

bool bb_wire_verify(const struct bb_key *k, const struct in6_addr *src, const struct in6_addr *dst, uint8_t cmd,
		    const void *data, size_t len)
{
	struct bb_hdr h;
	uint64_t tag;

	memcpy(&h, data, sizeof(h));
	tag = bb_tag(k, src, dst, &h,
		     bb_wire_digest(k, cmd, &h, (const uint8_t *)data + sizeof(h), len - sizeof(h)));
	/* One comparison of two registers: nothing to time. */
	return (tag ^ be64toh(h.tag)) == 0;
}
