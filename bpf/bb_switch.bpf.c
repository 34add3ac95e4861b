/* SPDX-License-Identifier: MIT */
/*
 * At each port of the rack switch: bb_switch at XDP, or bb_switch_tc at tcx
 * ingress.
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
 *  - what goes to a node without an entry: the bridge may know its host;
 *  - a request for a node that this node's own host has sent: an extent of it has
 *    moved, and bb_host there sends it on to the new owner's link address.
 *
 * A steered packet has its hop limit lowered, so that two hosts that steer to
 * each other do not keep it for ever. Its IPv6 addresses stay as they are: the
 * tag covers them, and the new owner answers from the old address.
 *
 * Requests: the command's policy, then an override of the pointer, then REDIRECT
 * (whose page is known to be elsewhere is not sent after a policy), then node
 * "any" (CREATE and ALLOC_WRITE are placed, INVALIDATE and HELLO go to all).
 * A host's link address may change. Its HELLO to the link's group tells the new
 * one, once a second, if it comes in by the host's port: the switch believes what
 * a bridge would, and no more.
 *
 * REFUSE wants to be answered with a typed NACK, which only who knows the key can
 * tag: without one, or where a payload's digest would be needed, it drops.
 *
 * Which hook: XDP is for ports that are NICs, whose driver hands frames on without
 * making socket buffers of them. Behind a veth there is a socket buffer already:
 * XDP copies it, needs its checksum computed (checksum offload off at the sender)
 * and its segments cut before, where tcx hands it on as it is. Measured on veth,
 * round trip of a READ over that of a direct cable: tcx 1.12 at MTU 9000 and 1.11
 * at 1500, XDP 1.26 and 1.76, a plain bridge 1.18 and 1.20.
 *
 * COPY: XDP cannot clone a frame of several fragments, so the packet goes on
 * with a note in its metadata to bb_switch_tc behind it, which clones it. The
 * copy's host is an ordinary one that may hold the same extent; its answers, or
 * refusals, come from the home's address and are taken away here, known by the
 * port that they come in by.
 */
#include "switch.h"

/* What becomes of a packet. */
enum bb_fate {
	BB_PASS,	/* not ours */
	BB_LEFT,	/* to the bridge, as it came */
	BB_DROP,
	BB_TO,
	BB_ALL,
};

struct bb_verdict {
	const struct bb_node *n;	/* BB_TO: there */
	__u16 node;
	__u16 copy;			/* and a copy to this node; 0: none */
};

static __always_inline enum bb_fate drop(__u32 why)
{
	bb_count_one(why);
	return BB_DROP;
}

/*
 * The node that this request to any node goes to. Where there is none, or all
 * are full, the one that the asker's next hop belongs to can at least say so.
 */
static __always_inline enum bb_fate place(const struct bb_frame *f, __u16 *node)
{
	struct bb_pin_key key = { 0 };
	struct bb_gptr src;
	struct bb_hdr h;

	if (!bb_frame_hdr(f, &h) || !bb_gptr_decode(&f->ip->saddr, &src) || !src.node || src.node == BB_NODE_ANY)
		return drop(BB_CNT_DROP_MALFORMED);
	key.tenant = src.tenant;
	key.node = src.node;
	key.session = h.session;
	key.id = h.id;
	*node = bb_place(&key);
	return *node ? BB_TO : BB_LEFT;
}

static __always_inline int same_link(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

static __always_inline enum bb_fate request(const struct bb_frame *f, const struct bb_gptr *dst, struct bb_verdict *v)
{
	const __u32 cmd = dst->cmd;
	const struct bb_policy *pol = bpf_map_lookup_elem(&bb_policy, &cmd);
	const __u8 act = pol ? pol->action : BB_ACT_FORWARD;
	__u16 node = dst->node, to;

	bb_count_one(BB_CNT_COMMANDS + cmd);
	if (act == BB_ACT_DROP || act == BB_ACT_REFUSE)
		return drop(BB_CNT_DROP_POLICY);
	if (act == BB_ACT_RATE && bb_rate_over(cmd, pol->rate))
		return drop(BB_CNT_DROP_RATE);
	to = bb_override(dst);
	if (!to && act == BB_ACT_REDIRECT)
		to = pol->node;
	if (to) {
		node = to;
	} else if (node == BB_NODE_ANY) {
		if (cmd == BB_CMD_INVALIDATE || cmd == BB_CMD_HELLO)
			return BB_ALL;
		if (cmd == BB_CMD_CREATE || cmd == BB_CMD_ALLOC_WRITE) {
			const enum bb_fate fate = place(f, &node);

			if (fate != BB_TO)
				return fate;
		}
	}
	v->node = node;
	v->n = bpf_map_lookup_elem(&bb_nodes, &node);
	if (!v->n)
		return node == dst->node && node != BB_NODE_ANY ? BB_LEFT : drop(BB_CNT_DROP_NODE);
	/* Its own host sends it on, by the new owner's link address: the bridge knows that one. */
	if (!to && node == dst->node && v->n->ifindex == f->ifindex && same_link(f->eth->h_source, v->n->mac))
		return BB_LEFT;
	if (to)
		bb_count_one(BB_CNT_REDIRECTED);
	else if (dst->node == BB_NODE_ANY)
		bb_count_one(BB_CNT_PLACED);
	if (act == BB_ACT_COPY && pol->node != node)
		v->copy = pol->node;
	return BB_TO;
}

/* Is it an answer to a copy, not of the page's home or owner? */
static __always_inline int of_copy(const struct bb_frame *f, const struct bb_gptr *src)
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
	return home && copy && home->ifindex != f->ifindex && copy->ifindex == f->ifindex;
}

static __always_inline enum bb_fate reply(const struct bb_frame *f, const struct bb_gptr *dst, struct bb_verdict *v)
{
	const __u8 cmd = dst->cmd & BB_CMD_MASK;
	struct bb_gptr src;
	struct bb_hdr h;

	if (bb_gptr_decode(&f->ip->saddr, &src)) {
		if (of_copy(f, &src))
			return drop(BB_CNT_DROP_ANSWER);
		if ((cmd == BB_CMD_CREATE || cmd == BB_CMD_ALLOC_WRITE) && bb_frame_hdr(f, &h) && h.status == BB_ST_NOSPACE)
			bb_full_note(src.node);
		bb_load_add(src.node, 0, f->len, 0);
	}
	v->node = dst->node;
	v->n = bpf_map_lookup_elem(&bb_nodes, &v->node);
	return v->n ? BB_TO : BB_LEFT;
}

/* A HELLO to the group: the link address that it comes from is its host's. */
static __always_inline void learn(const struct bb_frame *f)
{
	struct bb_node *n;
	__be16 said;
	__u16 node;

	if (!bb_frame_hello(f, &said))
		return;
	node = bpf_ntohs(said);
	n = bpf_map_lookup_elem(&bb_nodes, &node);
	if (n && n->ifindex == f->ifindex)
		__builtin_memcpy(n->mac, f->eth->h_source, sizeof(n->mac));
}

/* Where it is steered the frame is ready for its way when this returns. */
static __always_inline enum bb_fate steer(struct bb_frame *f, struct bb_verdict *v)
{
	enum bb_fate fate;
	struct bb_gptr dst;

	if (!bb_frame_is_ours(f))
		return BB_PASS;
	if (!bb_gptr_decode(&f->ip->daddr, &dst)) {
		learn(f);
		return BB_PASS;
	}
	if (f->ip->hop_limit <= 1)
		return drop(BB_CNT_DROP_HOPS);
	fate = dst.cmd & BB_CMD_REPLY ? reply(f, &dst, v) : request(f, &dst, v);
	if (fate == BB_TO) {
		__builtin_memcpy(f->eth->h_dest, v->n->mac, sizeof(v->n->mac));
		__builtin_memcpy(f->eth->h_source, v->n->smac, sizeof(v->n->smac));
		f->ip->hop_limit--;
		bb_load_add(v->node, 1, f->len, 0);
	} else if (fate == BB_ALL) {
		__builtin_memset(f->eth->h_dest, 0xff, sizeof(f->eth->h_dest));
		f->ip->hop_limit--;
		bb_count_one(BB_CNT_FANNED);
	}
	return fate;
}

/* --- XDP -------------------------------------------------------------------------- */

/* Passes it with a note for bb_switch_tc: a copy, or that there is nothing left to do. */
static __always_inline int pass(struct xdp_md *ctx, __u32 ifindex, __u16 copy)
{
	struct bb_note *to;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*to)))
		return XDP_PASS;
	to = (void *)(long)ctx->data_meta;
	if ((void *)(to + 1) <= (void *)(long)ctx->data)
		*to = (struct bb_note){ .magic = BB_NOTE, .ifindex = ifindex, .copy = copy };
	return XDP_PASS;
}

SEC("xdp.frags")
int bb_switch(struct xdp_md *ctx)
{
	struct bb_frame f = {
		.eth = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
		.ifindex = ctx->ingress_ifindex,
		.len = (__u32)bpf_xdp_get_buff_len(ctx),
	};
	struct bb_verdict v = { 0 };

	switch (steer(&f, &v)) {
	case BB_DROP:
		return XDP_DROP;
	case BB_TO:
		if (v.copy)
			return pass(ctx, v.n->ifindex, v.copy);
		/* A port that is none of ours: the bridge knows the address. */
		return (int)bpf_redirect_map(&bb_ports, v.n->ifindex, XDP_PASS);
	case BB_ALL:
		/* A frame of several fragments is not cloned right: the bridge floods it. */
		if (f.len != ctx->data_end - ctx->data)
			return pass(ctx, 0, 0);
		return (int)bpf_redirect_map(&bb_ports, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
	case BB_LEFT:
		return pass(ctx, 0, 0);
	default:
		return XDP_PASS;
	}
}

/* --- tcx --------------------------------------------------------------------------- */

/* A copy to that node, then the packet itself to the port it is meant for. */
static __always_inline int copy_and_send(struct __sk_buff *skb, __u16 copy, __u32 ifindex)
{
	const struct bb_node *n = bpf_map_lookup_elem(&bb_nodes, &copy);
	__u8 macs[12], back[12];

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

/* Instead of bb_switch, or after it: then it does what bb_switch has noted. */
SEC("tc")
int bb_switch_tc(struct __sk_buff *skb)
{
	const struct bb_note *n = (void *)(long)skb->data_meta;
	struct bb_frame f = { .skb = skb, .ifindex = skb->ifindex, .len = skb->len };
	struct bb_verdict v = { 0 };

	if (skb->vlan_present)
		return BB_TCX_NEXT;
	if ((void *)(n + 1) <= (void *)(long)skb->data && n->magic == BB_NOTE)
		return n->copy ? copy_and_send(skb, n->copy, n->ifindex) : BB_TCX_NEXT;
	/* Not every sender has the addresses in the first part. */
	if (skb->data_end - skb->data < BB_FRAME_HEADERS && skb->data_end - skb->data < skb->len)
		bpf_skb_pull_data(skb, skb->len < BB_FRAME_HEADERS ? skb->len : BB_FRAME_HEADERS);
	f.eth = (void *)(long)skb->data;
	f.end = (void *)(long)skb->data_end;
	switch (steer(&f, &v)) {
	case BB_DROP:
		return BB_TC_DROP;
	case BB_TO:
		return v.copy ? copy_and_send(skb, v.copy, v.n->ifindex) : (int)bpf_redirect(v.n->ifindex, 0);
	default:
		return BB_TCX_NEXT; /* to all: the bridge floods it */
	}
}

char _license[] SEC("license") = "Dual MIT/GPL";
