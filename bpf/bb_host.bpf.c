/* SPDX-License-Identifier: MIT */
/*
 * XDP at a host: neighbour discovery for its memory, steering, policy.
 *
 * Theory of operation
 * -------------------
 * Answers to this host's own requests go to the thread that waits for them, where
 * it has an AF_XDP socket (client.h). A host that lends nothing has this program
 * alone, without bb_read.
 *
 * Other packets than IPv6, with VLAN tags, extension headers or fragments among
 * them, pass untouched, and so does what is not for a pointer. Solicitations for
 * addresses of the host's own /48 are answered (ndp.h).
 *
 * A request for a pointer is counted by its command. Where it carries no payload
 * its tag can be checked here, and one that is wrong is dropped: nobody sends or
 * refuses anything in its name. (READ's tag is bb_read's, which needs it itself.
 * What carries a payload has a digest in its tag, which is bbd's to make.) Then:
 *  - an override: its page lives elsewhere now. The packet goes on to that host
 *    with its addresses as they are, so that the new owner answers from the old
 *    one. Not where the asker is that very host: it speaks to the home itself.
 *  - the command's policy. COPY is the switch's, and forwards here. REFUSE, and a
 *    command that the protocol does not have, are answered with a typed NACK
 *    where the tag was right; with a payload they go up, for bbd to refuse.
 */
#include "client.h"
#include "maps.h"
#include "ndp.h"
#include "packet.h"
#include "policy.h"

#ifndef AF_INET6
#define AF_INET6 10
#endif

/* --- on to another host -------------------------------------------------------- */

static __always_inline int drop(__u32 why)
{
	bb_count_one(why);
	return XDP_DROP;
}

/* Where the kernel's own routes lead to the node. Return: 0 or -1. */
static __always_inline int route(struct xdp_md *ctx, const struct ipv6hdr *ip, __u16 node, struct bb_node *out)
{
	struct bpf_fib_lookup fib = { .family = AF_INET6, .ifindex = ctx->ingress_ifindex };

	__builtin_memcpy(fib.ipv6_src, &ip->saddr, sizeof(fib.ipv6_src));
	/* The node's own address: prefix and number. */
	fib.ipv6_dst[0] = ip->daddr.s6_addr32[0];
	fib.ipv6_dst[1] = bpf_htonl((__u32)node << 16);
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	out->ifindex = fib.ifindex;
	__builtin_memcpy(out->mac, fib.dmac, 6);
	__builtin_memcpy(out->smac, fib.smac, 6);
	return 0;
}

static __always_inline int to_node(struct xdp_md *ctx, __u16 node)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(eth + 1);
	const struct bb_node *n;
	struct bb_node to;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (ip->hop_limit <= 1)
		return drop(BB_CNT_DROP_HOPS);
	n = bpf_map_lookup_elem(&bb_nodes, &node);
	if (n)
		to = *n;
	else if (route(ctx, ip, node, &to))
		return drop(BB_CNT_DROP_NODE);
	__builtin_memcpy(eth->h_dest, to.mac, 6);
	__builtin_memcpy(eth->h_source, to.smac, 6);
	ip->hop_limit--;
	bb_count_one(BB_CNT_REDIRECTED);
	return to.ifindex == ctx->ingress_ifindex ? bb_send_back(ctx) : (int)bpf_redirect(to.ifindex, 0);
}

/* --- refusals -------------------------------------------------------------------- */

static __always_inline int refuse(struct xdp_md *ctx, struct ethhdr *eth, struct bb_packet *p, const struct bb_steer_cfg *cfg, __u8 status)
{
	const struct in6_addr home = p->ip.daddr;
	const __be16 port = p->udp.source;
	__u8 mac[6];

	__builtin_memcpy(mac, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
	p->ip.daddr = p->ip.saddr;
	p->ip.saddr = home;
	p->ip.saddr.s6_addr[6] |= BB_CMD_REPLY;
	p->ip.daddr.s6_addr[6] = p->ip.saddr.s6_addr[6];
	p->ip.daddr.s6_addr[7] = 0;
	p->ip.hop_limit = 64;
	p->udp.source = p->udp.dest;
	p->udp.dest = port;
	p->h.flags = 0;
	p->h.status = status;
	p->h.seg = 0;
	p->h.nseg = bpf_htons(1);
	p->h.length = 0;
	p->h.boot = bpf_htonl(cfg->boot);
	p->h.floor = 0;
	p->h.tag = bb_packet_tag(p, cfg->k0, cfg->k1);
	p->udp.check = 0;
	p->udp.check = (__sum16)~bb_fold(bb_sum(&p->udp, sizeof(p->udp) + sizeof(p->h), bb_pseudo(p)));
	if (!p->udp.check)
		p->udp.check = 0xffff;
	bb_count_one(BB_CNT_NACKED);
	return bb_send_back(ctx);
}

/* --- requests ------------------------------------------------------------------------ */

/* Is it one without a payload, so that its tag can be checked? */
static __always_inline int is_bare(struct xdp_md *ctx, const struct bb_packet *p)
{
	return bpf_xdp_get_buff_len(ctx) == BB_PACKET_BYTES && p->udp.source && p->udp.len == p->ip.payload_len &&
	       p->udp.len == bpf_htons(sizeof(p->udp) + sizeof(p->h)) && p->h.version == BB_WIRE_VERSION;
}

/* What cannot be is bbd's to refuse, as MALFORMED (doc/protocol.md, section 4). */
static __always_inline int is_sound(const struct bb_packet *p)
{
	return !p->h.reserved && !p->h.status && bpf_ntohs(p->h.seg) < bpf_ntohs(p->h.nseg);
}

static __always_inline int request(struct xdp_md *ctx, struct ethhdr *eth, struct bb_packet *p,
				   const struct bb_steer_cfg *cfg, const struct bb_gptr *dst)
{
	const __u32 cmd = dst->cmd;
	const struct bb_policy *pol;
	int bare = is_bare(ctx, p), known = cmd <= BB_CMD_CLOSE, reads = cmd == BB_CMD_READ || cmd == BB_CMD_READ_RUN;
	struct bb_gptr src;
	__u16 to;

	bb_count_one(BB_CNT_COMMANDS + cmd);
	pol = bpf_map_lookup_elem(&bb_policy, &cmd);
	if (!pol)
		return XDP_PASS;
	/* The new owner speaks to the home itself. */
	to = bb_override(dst);
	if (to == cfg->node || !bb_gptr_decode(&p->ip.saddr, &src) || src.node == to)
		to = 0;
	/* READ is looked at twice only where it is not to be served. */
	if (bare && (to || !reads || pol->action != BB_ACT_FORWARD || !(cfg->flags & BB_SC_SERVE)) &&
	    bb_packet_tag(p, cfg->k0, cfg->k1) != p->h.tag)
		return drop(BB_CNT_DROP_TAG);
	if (to)
		return to_node(ctx, to);
	if (dst->node != cfg->node)
		return XDP_PASS;
	switch (pol->action) {
	case BB_ACT_DROP:
		return drop(BB_CNT_DROP_POLICY);
	case BB_ACT_RATE:
		if (bb_rate_over(cmd, pol->rate))
			return drop(BB_CNT_DROP_RATE);
		break;
	case BB_ACT_REDIRECT:
		return pol->node == cfg->node ? XDP_PASS : to_node(ctx, pol->node);
	case BB_ACT_REFUSE:
		known = 0;
		break;
	}
	return known || !bare || !is_sound(p) ? XDP_PASS : refuse(ctx, eth, p, cfg, BB_ST_COMMAND);
}

SEC("xdp.frags")
int bb_host(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct bb_packet *p = (void *)(eth + 1);
	void *end = (void *)(long)ctx->data_end;
	struct bb_steer_cfg cfg;
	struct bb_gptr dst;

	if ((void *)(&p->ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IPV6) || p->ip.version != 6)
		return XDP_PASS;
	if (p->ip.nexthdr != IPPROTO_ICMPV6 && (p->ip.nexthdr != IPPROTO_UDP || p->ip.daddr.s6_addr[0] != BB_SCOPE_PREFIX >> 8))
		return XDP_PASS;
	if (bb_cfg_read(&cfg, BB_SC_KNOWN))
		return XDP_PASS;
	if (p->ip.nexthdr == IPPROTO_ICMPV6)
		return bb_nd(ctx, &cfg);
	if ((void *)(p + 1) > end || !bb_gptr_decode(&p->ip.daddr, &dst) || dst.tenant != cfg.tenant)
		return XDP_PASS;
	if (dst.cmd & BB_CMD_REPLY)
		return bb_client(ctx, p, &cfg, &dst);
	if (p->udp.dest != bpf_htons(cfg.port))
		return XDP_PASS;
	return request(ctx, eth, p, &cfg, &dst);
}

char _license[] SEC("license") = "Dual MIT/GPL";
