/* SPDX-License-Identifier: MIT */
/*
 * A request as a host's programs see it: Ethernet, IPv6, UDP and our header, 102
 * bytes, with nothing between them. And its tag, as lib/tag.c makes it.
 */
#ifndef BB_BPF_PACKET_H
#define BB_BPF_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <bluebridge/siphash.h>
#include <bluebridge/steer.h>

/* Without Ethernet, whose 14 bytes would leave nothing in its place. */
struct bb_packet {
	struct ipv6hdr ip;
	struct udphdr udp;
	struct bb_hdr h;
};

_Static_assert(sizeof(struct bb_packet) == 88, "no room between the headers");

#define BB_PACKET_BYTES (ETH_HLEN + sizeof(struct bb_packet))

/*
 * The tag of a packet whose digest is 0. The loads are of whole words at odd
 * places, which every machine that has a JIT for BPF can do.
 */
static __always_inline __u64 bb_packet_tag(const struct bb_packet *p, __u64 k0, __u64 k1)
{
	const __u64 *a = (const void *)&p->ip.saddr, *h = (const void *)&p->h;
	struct bb_sip s;

	/* As bb_siphash(), without an array on the stack. */
	bb_sip_init(&s, k0, k1);
	bb_sip_word(&s, a[0]);
	bb_sip_word(&s, a[1]);
	bb_sip_word(&s, a[2]);
	bb_sip_word(&s, a[3]);
	bb_sip_word(&s, h[0]);
	bb_sip_word(&s, h[1]);
	bb_sip_word(&s, h[2]);
	bb_sip_word(&s, h[3]);
	bb_sip_word(&s, 0); /* the tag itself */
	bb_sip_word(&s, 0); /* the digest */
	return bpf_cpu_to_be64(bb_sip_end(&s, 80));
}

static __always_inline __u32 bb_fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32 & 0xffff) + (sum >> 48);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u32)((sum & 0xffff) + (sum >> 16));
}

/* Sum of n bytes at p, n a multiple of 4, added to sum. */
static __always_inline __u64 bb_sum(const void *p, unsigned int n, __u64 sum)
{
	const __u32 *w = p;

	for (unsigned int i = 0; i < n / 4; i++)
		sum += w[i];
	return sum;
}

/* What the checksum of UDP begins with: addresses, length, protocol. */
static __always_inline __u64 bb_pseudo(const struct bb_packet *p)
{
	return bb_sum(&p->ip.saddr, 32, 0) + p->udp.len + bpf_htons(IPPROTO_UDP);
}

#endif
