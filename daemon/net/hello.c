/* SPDX-License-Identifier: MIT */
/* The bytes of a HELLO; hello.h has the layout. */
#include "net/hello.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include <bluebridge/gptr.h>

static void put16(uint8_t *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

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

void bb_hello_encode(const struct bb_hello *in, uint8_t out[BB_HELLO_BYTES])
{
	memset(out, 0, BB_HELLO_BYTES);
	out[0] = BB_HELLO_VERSION;
	out[1] = in->flags;
	put16(out + 2, in->node);
	put32(out + 4, in->boot);
	put16(out + 8, in->port);
	put16(out + 10, in->tenant);
	put32(out + 12, in->mtu);
	put64(out + 16, in->lent);
	put64(out + 24, in->free);
	put64(out + 32, in->stamp);
	put64(out + 40, in->echo);
	memcpy(out + 64, in->name, strnlen(in->name, sizeof(in->name) - 1));
}

int bb_hello_decode(struct bb_hello *out, const void *data, size_t len)
{
	const uint8_t *p = data;

	memset(out, 0, sizeof(*out));
	if (len < 1)
		return -EBADMSG;
	if (p[0] != BB_HELLO_VERSION)
		return -EPROTO;
	if (len < BB_HELLO_BYTES)
		return -EBADMSG;
	out->flags = p[1] & (BB_HELLO_GOODBYE | BB_HELLO_WANTS_REPLY | BB_HELLO_RDMA);
	out->node = get16(p + 2);
	out->boot = get32(p + 4);
	out->port = get16(p + 8);
	out->tenant = get16(p + 10);
	out->mtu = get32(p + 12);
	out->lent = get64(p + 16);
	out->free = get64(p + 24);
	out->stamp = get64(p + 32);
	out->echo = get64(p + 40);
	if (!out->node || out->node == BB_NODE_ANY || !out->boot || !out->port || out->free > out->lent)
		return -EBADMSG;
	/* The name is printed and sent on as JSON: nothing but plain letters. */
	for (unsigned int i = 0; i < sizeof(out->name) - 1 && p[64 + i]; i++)
		out->name[i] = p[64 + i] > 0x20 && p[64 + i] < 0x7f && p[64 + i] != '"' && p[64 + i] != '\\' ?
				       (char)p[64 + i] :
				       '?';
	return 0;
}
