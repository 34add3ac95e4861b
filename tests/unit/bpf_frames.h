/* SPDX-License-Identifier: MIT */
/* Frames for the tests of the BPF programs. */
#pragma GCC diagnostic ignored "-Wunused-function"

#ifndef BB_TEST_BPF_FRAMES_H
#define BB_TEST_BPF_FRAMES_H

#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <endian.h>
#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stddef.h>
#include <string.h>

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#define FRAME_MAX 9014
#define AT_IP 14
#define AT_UDP 54
#define AT_HDR 62

/* Placed so that what follows Ethernet is aligned. */
struct frame {
	_Alignas(8) unsigned int len;
	uint8_t pad[6];
	uint8_t b[FRAME_MAX];
};

_Static_assert((offsetof(struct frame, b) + AT_HDR) % 8 == 0, "headers lie as they like to");

static struct bb_gptr ptr_of(uint16_t node, uint8_t cmd, uint64_t ptr)
{
	return (struct bb_gptr){ .node = node, .cmd = cmd, .ptr = ptr };
}

/* UDP from src to dst with a header and len bytes of payload. */
static void frame_make(struct frame *f, struct bb_gptr src, struct bb_gptr dst, uint64_t id, unsigned int len)
{
	struct ipv6hdr ip = { .version = 6, .nexthdr = 17, .hop_limit = 64, .payload_len = htobe16((uint16_t)(48 + len)) };
	struct udphdr udp = { .source = htobe16(4711), .dest = htobe16(BB_UDP_PORT), .len = ip.payload_len };
	struct bb_hdr h = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(len), .id = htobe64(id),
			    .session = htobe32(77) };
	static const uint8_t eth[14] = { 2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 0xfd, 0x86, 0xdd };

	bb_gptr_encode(&src, &ip.saddr);
	bb_gptr_encode(&dst, &ip.daddr);
	memset(f, 0, sizeof(*f));
	memcpy(f->b, eth, sizeof(eth));
	memcpy(f->b + AT_IP, &ip, sizeof(ip));
	memcpy(f->b + AT_UDP, &udp, sizeof(udp));
	memcpy(f->b + AT_HDR, &h, sizeof(h));
	for (unsigned int i = 0; i < len; i++)
		f->b[AT_HDR + sizeof(h) + i] = (uint8_t)(i * 31 + 7);
	f->len = AT_HDR + (unsigned int)sizeof(h) + len;
}

#endif
