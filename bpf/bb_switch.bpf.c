/* SPDX-License-Identifier: MIT */
/*
 * XDP at each port of the rack switch.
 *
 * Theory of operation
 * -------------------
 * A packet whose destination is a pointer is steered by that address alone: by
 * its node, and where it is a request also by its command and pointer. One entry
 * a host is enough (bb_nodes, and bb_ports by the port's interface), however
 * many pages it lends. Everything else is left as it came to what lies behind
 * the port, a Linux bridge or a router:
 *  - what is no IPv6, or not to a pointer (HELLO to the link's group: the bridge
 *    floods it);
 *  - neighbour discovery, whose hop limit says that no one steered it;
 *  - what goes to a node without an entry: the bridge may know its host.
 *
 * A steered packet has its hop limit lowered, so that two hosts that steer to
 * each other do not keep it for ever. Its IPv6 addresses stay as they are: the
 * tag covers them, and the new owner answers from the old address.
 *
 * Requests: the command's policy, then an override of the pointer, then REDIRECT
 * (whose page is known to be elsewhere is not sent after a policy), then node
 * "any" (CREATE and ALLOC_WRITE are placed, INVALIDATE and HELLO go to all).
 * REFUSE wants to be answered with a typed NACK, which only who knows the key can
 * tag: without one, or where a payload's digest would be needed, it drops.
 *
 * COPY: XDP cannot clone a frame of several fragments, so the packet goes on
 * with a note in its metadata to bb_switch_copy, at the port's tcx ingress. The
 * copy's host is an ordinary one that may hold the same extent; its answers, or
 * refusals, come from the home's address and are taken away here, known by the
 * port that they come in by.
 */
#include "switch.h"

static __always_inline int fan_out(struct xdp_md *ctx, struct bb_frame *f)
{
	const __u64 len = (__u64)(f->end - (void *)f->eth);

	__builtin_memset(f->eth->h_dest, 0xff, sizeof(f->eth->h_dest));
	f->ip->hop_limit--;
	bb_count_one(BB_CNT_FANNED);
	/* A frame of several fragments is not cloned right: the bridge floods it. */
	if (bpf_xdp_get_buff_len(ctx) != len)
		return XDP_PASS;
	return bpf_redirect_map(&bb_ports, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
}

static __always_inline int to_node(struct xdp_md *ctx, struct bb_frame *f, __u16 node, const struct bb_node *n)
{
	__builtin_memcpy(f->eth->h_dest, n->mac, sizeof(n->mac));
	__builtin_memcpy(f->eth->h_source, n->smac, sizeof(n->smac));
	f->ip->hop_limit--;
	bb_load_add(node, 1, bpf_xdp_get_buff_len(ctx), 0);
	/* A port that is none of ours: the bridge knows the address. */
	return bpf_redirect_map(&bb_ports, n->ifindex, XDP_PASS);
}

/* The note for bb_switch_copy. */
static __always_inline int to_node_and(struct xdp_md *ctx, struct bb_frame *f, __u16 node, const struct bb_node *n, __u16 copy)
{
	const struct bb_note note = { .magic = BB_NOTE, .ifindex = n->ifindex, .copy = copy };
	struct bb_note *to;
	int act;

	act = to_node(ctx, f, node, n);
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(note)))
		return act;
	to = (void *)(long)ctx->data_meta;
	if ((void *)(to + 1) > (void *)(long)ctx->data)
		return act;
	*to = note;
	return XDP_PASS;
}

/* The node that this request goes to, 0 where it is dropped. */
static __always_inline __u16 place(struct bb_frame *f, const struct bb_gptr *dst)
{
	struct bb_pin_key key = { 0 };
	struct bb_gptr src;
	struct bb_hdr *h;
	__u16 node;

	h = bb_frame_hdr(f);
	if (!h || !bb_gptr_decode(&f->ip->saddr, &src) || !src.node || src.node == BB_NODE_ANY) {
		bb_count_one(BB_CNT_DROP_MALFORMED);
		return 0;
	}
	key.tenant = src.tenant;
	key.node = src.node;
	key.session = h->session;
	key.id = h->id;
	node = bb_place(&key);
	if (!node)
		bb_count_one(BB_CNT_DROP_NODE);
	return node;
}

static __always_inline int request(struct xdp_md *ctx, struct bb_frame *f, const struct bb_gptr *dst)
{
	const __u32 cmd = dst->cmd;
	const struct bb_policy *pol = bpf_map_lookup_elem(&bb_policy, &cmd);
	__u8 act = pol ? pol->action : BB_ACT_FORWARD;
	const struct bb_node *n;
	__u16 node = dst->node, to;

	bb_count_one(BB_CNT_COMMANDS + cmd);
	switch (act) {
	case BB_ACT_DROP:
		bb_count_one(BB_CNT_DROP_POLICY);
		return XDP_DROP;
	case BB_ACT_RATE:
		if (bb_rate_over(cmd, pol->rate)) {
			bb_count_one(BB_CNT_DROP_RATE);
			return XDP_DROP;
		}
		break;
	case BB_ACT_REFUSE:
		bb_count_one(BB_CNT_DROP_POLICY);
		return XDP_DROP;
	}
	to = bb_override(dst);
	if (!to && act == BB_ACT_REDIRECT)
		to = pol->node;
	if (to) {
		node = to;
	} else if (node == BB_NODE_ANY) {
		if (cmd == BB_CMD_INVALIDATE || cmd == BB_CMD_HELLO)
			return fan_out(ctx, f);
		if (cmd == BB_CMD_CREATE || cmd == BB_CMD_ALLOC_WRITE) {
			node = place(f, dst);
			if (!node)
				return XDP_DROP;
		}
	}
	n = bpf_map_lookup_elem(&bb_nodes, &node);
	if (!n) {
		if (node == dst->node && node != BB_NODE_ANY)
			return XDP_PASS;
		bb_count_one(BB_CNT_DROP_NODE);
		return XDP_DROP;
	}
	if (to)
		bb_count_one(BB_CNT_REDIRECTED);
	else if (dst->node == BB_NODE_ANY)
		bb_count_one(BB_CNT_PLACED);
	if (act == BB_ACT_COPY && pol->node != node)
		return to_node_and(ctx, f, node, n, pol->node);
	return to_node(ctx, f, node, n);
}

/* Is it an answer to a copy, not of the page's home or owner? */
static __always_inline int of_copy(struct xdp_md *ctx, const struct bb_gptr *src)
{
	const __u32 cmd = src->cmd & BB_CMD_MASK;
	const struct bb_policy *pol = bpf_map_lookup_elem(&bb_policy, &cmd);
	const struct bb_node *home, *copy;
	struct bb_gptr asked = *src;
	__u16 node;

	if (!pol || pol->action != BB_ACT_COPY)
		return 0;
	asked.cmd = (__u8)cmd;
	node = bb_override(&asked);
	if (!node)
		node = src->node;
	home = bpf_map_lookup_elem(&bb_nodes, &node);
	node = pol->node;
	copy = bpf_map_lookup_elem(&bb_nodes, &node);
	return home && copy && home->ifindex != ctx->ingress_ifindex && copy->ifindex == ctx->ingress_ifindex;
}

static __always_inline int reply(struct xdp_md *ctx, struct bb_frame *f, const struct bb_gptr *dst)
{
	const __u8 cmd = dst->cmd & BB_CMD_MASK;
	const struct bb_node *n;
	struct bb_gptr src;
	struct bb_hdr *h;
	__u16 node = dst->node;

	if (bb_gptr_decode(&f->ip->saddr, &src)) {
		if (of_copy(ctx, &src)) {
			bb_count_one(BB_CNT_DROP_ANSWER);
			return XDP_DROP;
		}
		if (cmd == BB_CMD_CREATE || cmd == BB_CMD_ALLOC_WRITE) {
			h = bb_frame_hdr(f);
			if (h && h->status == BB_ST_NOSPACE)
				bb_full_note(src.node);
		}
		bb_load_add(src.node, 0, bpf_xdp_get_buff_len(ctx), 0);
	}
	n = bpf_map_lookup_elem(&bb_nodes, &node);
	return n ? to_node(ctx, f, node, n) : XDP_PASS;
}

SEC("xdp.frags")
int bb_switch(struct xdp_md *ctx)
{
	struct bb_frame f;
	struct bb_gptr dst;

	if (!bb_frame_parse(ctx, &f) || !bb_gptr_decode(&f.ip->daddr, &dst) || bb_frame_is_nd(&f))
		return XDP_PASS;
	if (f.ip->hop_limit <= 1) {
		bb_count_one(BB_CNT_DROP_HOPS);
		return XDP_DROP;
	}
	return dst.cmd & BB_CMD_REPLY ? reply(ctx, &f, &dst) : request(ctx, &f, &dst);
}

/* Sends the copy that bb_switch has noted, then the packet itself on its way. */
SEC("tc")
int bb_switch_copy(struct __sk_buff *skb)
{
	const struct bb_note *note = (void *)(long)skb->data_meta;
	const struct bb_node *n;
	__u8 macs[12], back[12];
	__u32 ifindex;
	__u16 copy;

	if ((void *)(note + 1) > (void *)(long)skb->data || note->magic != BB_NOTE)
		return BB_TCX_NEXT;
	ifindex = note->ifindex;
	copy = note->copy;
	n = bpf_map_lookup_elem(&bb_nodes, &copy);
	if (!n || bpf_skb_load_bytes(skb, 0, back, sizeof(back)))
		goto out;
	__builtin_memcpy(macs, n->mac, 6);
	__builtin_memcpy(macs + 6, n->smac, 6);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		goto out;
	if (!bpf_clone_redirect(skb, n->ifindex, 0)) {
		bb_count_one(BB_CNT_COPIED);
		bb_load_add(copy, 1, skb->len, 0);
	}
	if (bpf_skb_store_bytes(skb, 0, back, sizeof(back), 0))
		return BB_TC_DROP;
out:
	return (int)bpf_redirect(ifindex, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
