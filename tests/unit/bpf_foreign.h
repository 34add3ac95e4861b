/* SPDX-License-Identifier: MIT */
/* Frames that are nobody's business of the BPF programs, each around a request that would be. */
#pragma GCC diagnostic ignored "-Wunused-function"

#ifndef BB_TEST_BPF_FOREIGN_H
#define BB_TEST_BPF_FOREIGN_H

#include "bpf_frames.h"

/* n bytes more at a place. */
static void frame_insert(struct frame *f, unsigned int at, const void *bytes, unsigned int n)
{
	memmove(f->b + at + n, f->b + at, f->len - at);
	memcpy(f->b + at, bytes, n);
	f->len += n;
}

/* An extension header of type next between IPv6 and UDP. */
static void frame_extend(struct frame *f, uint8_t next, const uint8_t bytes[8])
{
	uint16_t len;

	f->b[AT_IP + 6] = next;
	frame_insert(f, AT_UDP, bytes, 8);
	f->b[AT_UDP] = 17;
	memcpy(&len, f->b + AT_IP + 4, 2);
	len = htobe16((uint16_t)(be16toh(len) + 8));
	memcpy(f->b + AT_IP + 4, &len, 2);
}

/* good: a request that is acted on as it is. max: of a frame, in bytes. */
static void foreign_frames(const struct frame *good, unsigned int max, void (*each)(const struct frame *f))
{
	static const uint8_t vlan[4] = { 0x81, 0x00, 0x00, 0x05 }, qinq[8] = { 0x88, 0xa8, 0, 5, 0x81, 0, 0, 6 };
	static const uint8_t ipv4[20] = { 0x45, 0, 0, 116, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2 };
	static const uint8_t tunnel[20] = { 0x45, 0, 0, 108, 0, 1, 0, 0, 64, 41, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2 };
	static const uint8_t arp[28] = { 0, 1, 8, 0, 6, 4, 0, 1, 2, 0xbb, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2 };
	/* next header, its length in 8 bytes beyond the first, then options or a routing type or an offset */
	static const struct { uint8_t type, bytes[8]; } ext[] = {
		{ 0, { 0, 0, 1, 4 } },	 /* hop by hop, padding */
		{ 60, { 0, 0, 1, 4 } },	 /* for the destination */
		{ 43, { 0, 0, 4, 0 } },	 /* routing */
		{ 44, { 0, 0, 0, 1, 0, 0, 0, 9 } },	/* first fragment */
		{ 44, { 0, 0, 0, 0x10, 0, 0, 0, 9 } }, /* last fragment */
		{ 44, { 0, 0, 0, 0, 0, 0, 0, 9 } },	/* a fragment that is all */
		{ 51, { 0, 0, 0, 0, 0, 0, 0, 1 } },	/* authentication */
	};
	struct frame f;

	for (unsigned int i = 0; i < sizeof(ext) / sizeof(ext[0]); i++) {
		f = *good;
		frame_extend(&f, ext[i].type, ext[i].bytes);
		each(&f);
	}
	f = *good;
	frame_insert(&f, 12, vlan, sizeof(vlan));
	each(&f);
	f = *good;
	frame_insert(&f, 12, qinq, sizeof(qinq));
	each(&f);
	f = *good; /* IPv4 in place of IPv6; and IPv6 in IPv4 */
	memcpy(f.b + 12, "\x08\x00", 2);
	memmove(f.b + AT_IP + 20, f.b + AT_UDP, f.len - AT_UDP);
	memcpy(f.b + AT_IP, ipv4, sizeof(ipv4));
	f.len -= 20;
	each(&f);
	f = *good;
	memcpy(f.b + 12, "\x08\x00", 2);
	frame_insert(&f, AT_IP, tunnel, sizeof(tunnel));
	each(&f);
	memset(f.b + 12, 0, sizeof(f.b) - 12);
	memcpy(f.b + 12, "\x08\x06", 2);
	memcpy(f.b + AT_IP, arp, sizeof(arp));
	f.len = 60;
	each(&f);
	/* Long ones, to a neighbour of our prefix and in UDP. */
	for (unsigned int len = 1000; len <= max; len += 997) {
		f = *good;
		f.b[AT_IP + 25] ^= 1;
		f.len = len;
		f.b[AT_IP + 4] = f.b[AT_UDP + 4] = (uint8_t)((len - AT_UDP) >> 8);
		f.b[AT_IP + 5] = f.b[AT_UDP + 5] = (uint8_t)(len - AT_UDP);
		for (unsigned int i = good->len; i < len; i++)
			f.b[i] = (uint8_t)(i * 7);
		each(&f);
	}
	f = *good;
	f.b[AT_IP + 6] = 6;
	each(&f);
}

#endif
