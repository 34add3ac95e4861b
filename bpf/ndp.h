/* SPDX-License-Identifier: MIT */
/*
 * Neighbour discovery for all addresses of a host's own memory: RFC 4861, 7.1.1
 * says which solicitations are valid, 7.2.4 what is answered; RFC 4862, 5.4.3
 * what is answered to one who only asks whether the address is free.
 */
#ifndef BB_BPF_NDP_H
#define BB_BPF_NDP_H

#include "maps.h"
#include "packet.h"

#define ND_SOLICIT 135
#define ND_ADVERT 136
#define ND_SOURCE_LL 1
#define ND_TARGET_LL 2
#define ND_OPTIONS_MAX 8 /* in solicitations that are answered: more is nobody's */

struct bb_nd {
	__u8 type, code;
	__sum16 check;
	__u32 flags;
	struct in6_addr target;
};

struct bb_nd_option {
	__u8 type, words; /* of 8 bytes */
	__u8 mac[6];
};

_Static_assert(sizeof(struct bb_nd) == 24 && sizeof(struct bb_nd_option) == 8, "as on the wire");

#define ND_ADVERT_BYTES (ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct bb_nd) + sizeof(struct bb_nd_option))

static __always_inline int bb_in6_is_any(const struct in6_addr *a)
{
	const __u32 *w = a->s6_addr32;

	return !(w[0] | w[1] | w[2] | w[3]);
}

/* Of the addresses, length and next header; what it begins with. */
static __always_inline __u64 bb_nd_pseudo(const struct ipv6hdr *ip)
{
	return bb_sum(&ip->saddr, 32, 0) + ip->payload_len + bpf_htons(IPPROTO_ICMPV6);
}

/*
 * Return: 0 where it is no valid solicitation, else 1, and *ll is the asker's
 * own address on the link, all zeros where it did not say.
 */
static __always_inline int bb_nd_valid(const struct ipv6hdr *ip, const struct bb_nd *nd, void *end, __u8 ll[6])
{
	const __u32 len = bpf_ntohs(ip->payload_len);
	const struct bb_nd_option *o = (void *)(nd + 1);
	const int probe = bb_in6_is_any(&ip->saddr);
	__u64 sum = bb_nd_pseudo(ip);
	__u32 skip = 0;

	if (ip->hop_limit != 255 || nd->code || len < sizeof(*nd) || (len - sizeof(*nd)) % sizeof(*o) ||
	    len > sizeof(*nd) + ND_OPTIONS_MAX * sizeof(*o))
		return 0;
	/* One who has no address yet asks all that may have it. */
	if (probe && (ip->daddr.s6_addr32[0] != bpf_htonl(0xff020000) || ip->daddr.s6_addr32[1] ||
		      ip->daddr.s6_addr32[2] != bpf_htonl(1) || ip->daddr.s6_addr[12] != 0xff))
		return 0;
	sum = bb_sum(nd, sizeof(*nd), sum);
	for (__u32 i = 0; i < ND_OPTIONS_MAX; i++, o++) {
		if (i >= (len - sizeof(*nd)) / sizeof(*o))
			break;
		if ((void *)(o + 1) > end)
			return 0;
		sum = bb_sum(o, sizeof(*o), sum);
		if (skip) {
			skip--;
			continue;
		}
		if (!o->words)
			return 0;
		skip = o->words - 1;
		if (o->type == ND_SOURCE_LL) {
			if (probe || o->words != 1)
				return 0;
			__builtin_memcpy(ll, o->mac, 6);
		}
	}
	return !skip && bb_fold(sum) == 0xffff;
}

/* Answers a solicitation for an address of this host's memory. Return: XDP_PASS for all others. */
static __always_inline int bb_nd(struct xdp_md *ctx, const struct bb_steer_cfg *cfg)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct bb_nd *nd = (void *)(ip + 1);
	void *end = (void *)(long)ctx->data_end;
	struct in6_addr asker, target;
	struct bb_nd_option *o;
	const struct bb_dev *dev;
	const __u32 zero = 0;
	__u8 ll[6] = { 0 };
	struct bb_gptr g;
	int probe, diff;

	if ((void *)(nd + 1) > end || nd->type != ND_SOLICIT || !bb_gptr_decode(&nd->target, &g) ||
	    g.tenant != cfg->tenant || g.node != cfg->node)
		return XDP_PASS;
	/* Nothing behind it, as on a link that pads: the stack may have it. */
	if (end - (void *)nd != bpf_ntohs(ip->payload_len) || !bb_nd_valid(ip, nd, end, ll))
		return XDP_PASS;
	dev = bpf_map_lookup_elem(&bb_dev, &zero);
	if (!dev)
		return XDP_PASS;
	probe = bb_in6_is_any(&ip->saddr);
	asker = ip->saddr;
	target = nd->target;
	if (!(ll[0] | ll[1] | ll[2] | ll[3] | ll[4] | ll[5]))
		__builtin_memcpy(ll, eth->h_source, 6);
	diff = (int)ND_ADVERT_BYTES - (int)(end - (void *)eth);
	if (diff && bpf_xdp_adjust_tail(ctx, diff))
		return XDP_PASS;
	eth = (void *)(long)ctx->data;
	ip = (void *)(eth + 1);
	nd = (void *)(ip + 1);
	o = (void *)(nd + 1);
	if ((void *)(o + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (probe) {
		static const __u8 all[6] = { 0x33, 0x33, 0, 0, 0, 1 };

		__builtin_memcpy(eth->h_dest, all, 6);
		__builtin_memset(&asker, 0, sizeof(asker));
		asker.s6_addr[0] = 0xff;
		asker.s6_addr[1] = 2;
		asker.s6_addr[15] = 1;
	} else {
		__builtin_memcpy(eth->h_dest, ll, 6);
	}
	__builtin_memcpy(eth->h_source, dev->mac, 6);
	ip->payload_len = bpf_htons(sizeof(*nd) + sizeof(*o));
	ip->hop_limit = 255;
	ip->daddr = asker;
	ip->saddr = target;
	nd->type = ND_ADVERT;
	nd->code = 0;
	nd->check = 0;
	nd->flags = bpf_htonl(probe ? 0x20000000 : 0x60000000); /* override; and solicited */
	o->type = ND_TARGET_LL;
	o->words = 1;
	__builtin_memcpy(o->mac, dev->mac, 6);
	nd->check = (__sum16)~bb_fold(bb_sum(nd, sizeof(*nd) + sizeof(*o), bb_nd_pseudo(ip)));
	bb_count_one(BB_CNT_NDP);
	return bb_send_back(ctx);
}

#endif
