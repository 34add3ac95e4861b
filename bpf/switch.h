/* SPDX-License-Identifier: MIT */
/* What bb_switch.bpf.c is made of: its frame, its maps, who is least busy. */
#ifndef BB_BPF_SWITCH_H
#define BB_BPF_SWITCH_H

#define BB_MAPS_OF_SWITCH
#include "policy.h"

#include <linux/if_ether.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>

#define BB_TCX_NEXT (-1)
#define BB_TC_DROP 2

/* --- maps of the switch alone ------------------------------------------------ */

/* By the port's interface, not by node: what goes to all goes once by each port. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, BB_NODES_MAX);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} bb_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, BB_NODES_MAX);
	__type(key, __u16);
	__type(value, struct bb_load);
} bb_load SEC(".maps");

struct bb_pin_key {
	__u16 tenant, node;
	__u32 session;
	__u64 id;
};

struct bb_pin {
	__u64 at;
	__u16 node;
};

/* Where CREATEs to any node went. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct bb_pin_key);
	__type(value, struct bb_pin);
} bb_pins SEC(".maps");

/* Until when a host is thought to be full. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, BB_NODES_MAX);
	__type(key, __u16);
	__type(value, __u64);
} bb_full SEC(".maps");

/* From bb_switch to bb_switch_tc, in the metadata before the packet. */
#define BB_NOTE 0x62626370u /* "bbcp" */
struct bb_note {
	__u32 magic;
	__u32 ifindex;	/* where the packet itself goes */
	__u16 copy;	/* node; 0: none, the packet is left to the bridge */
	__u16 pad[3];
};

/* --- frames -------------------------------------------------------------------- */

struct bb_frame {
	struct ethhdr *eth;
	struct ipv6hdr *ip;
	void *end;		/* of the first part, which has all headers */
	struct __sk_buff *skb;	/* NULL in XDP */
	__u32 ifindex;		/* that it came in by */
	__u32 len;
};

/* What is read in place: addresses, and the type of ICMPv6. */
#define BB_FRAME_HEADERS (ETH_HLEN + 40 + 1)

/* IPv6, and not neighbour discovery? Sets ip. */
static __always_inline int bb_frame_is_ours(struct bb_frame *f)
{
	const __u8 *type;

	f->ip = (void *)(f->eth + 1);
	type = (void *)(f->ip + 1);
	if ((void *)(f->ip + 1) > f->end || f->eth->h_proto != bpf_htons(ETH_P_IPV6) || f->ip->version != 6)
		return 0;
	return f->ip->nexthdr != 58 || ((void *)(type + 1) <= f->end && (*type < 133 || *type > 137));
}

/* Return: 0 where it is no UDP, or shorter. */
static __always_inline int bb_frame_hdr(const struct bb_frame *f, struct bb_hdr *out)
{
	const struct bb_hdr *h = (void *)(f->ip + 1) + sizeof(struct udphdr);

	if (f->ip->nexthdr != 17)
		return 0;
	if ((void *)(h + 1) <= f->end) {
		__builtin_memcpy(out, h, sizeof(*out));
		return 1;
	}
	return f->skb && !bpf_skb_load_bytes(f->skb, ETH_HLEN + sizeof(*f->ip) + sizeof(struct udphdr), out, sizeof(*out));
}

/* Is it a HELLO to the link's group, ff12::bb? The node that says it. */
static __always_inline int bb_frame_hello(const struct bb_frame *f, __be16 *node)
{
	const __be32 *to = f->ip->daddr.s6_addr32;
	const __u32 at = ETH_HLEN + sizeof(*f->ip) + sizeof(struct udphdr) + sizeof(struct bb_hdr);
	const __u8 *hello = (void *)f->eth + at;

	if (to[0] != bpf_htonl(0xff120000) || to[1] || to[2] || to[3] != bpf_htonl(0xbb) || f->ip->nexthdr != 17)
		return 0;
	if ((void *)(hello + 4) > f->end)
		return f->skb && !bpf_skb_load_bytes(f->skb, at + 2, node, sizeof(*node));
	*node = (__be16)(hello[2] | hello[3] << 8);
	return hello[0] == 1;
}

/* --- load ------------------------------------------------------------------------- */

static __always_inline __u64 bb_load_busy(const struct bb_load *l, __u64 now)
{
	const __u64 halves = now > l->busy_at ? (now - l->busy_at) >> BB_LOAD_SHIFT : 0;

	return halves < 64 ? l->busy >> halves : 0;
}

static __always_inline void bb_load_add(__u16 node, __u64 packets, __u64 bytes, __u64 creates)
{
	struct bb_load *l = bpf_map_lookup_elem(&bb_load, &node);
	const __u64 now = bpf_ktime_get_coarse_ns();

	if (!l) {
		const struct bb_load none = { .busy_at = now };

		/* Hosts that the switch has an entry for, and no made-up ones. */
		if (!bpf_map_lookup_elem(&bb_nodes, &node))
			return;
		bpf_map_update_elem(&bb_load, &node, &none, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&bb_load, &node);
		if (!l)
			return;
	}
	if ((now - l->busy_at) >> BB_LOAD_SHIFT) {
		l->busy = bb_load_busy(l, now);
		l->busy_at = now;
	}
	l->busy += bytes + creates * BB_LOAD_CREATE;
	l->creates += creates;
	l->packets += packets;
	if (packets)
		l->bytes += bytes;
}

static __always_inline void bb_full_note(__u16 node)
{
	const __u64 until = bpf_ktime_get_coarse_ns() + BB_FULL_NS;

	bpf_map_update_elem(&bb_full, &node, &until, BPF_ANY);
}

struct bb_choice {
	__u64 now;
	__u64 busy, creates;
	__u16 asker, node;
};

struct bb_sum {
	__u64 now, busy, creates;
	__u16 node;
};

/* bpf_loop: an unrolled loop over so many CPUs takes the verifier a second. */
static long bb_add_cpu(__u32 cpu, struct bb_sum *sum)
{
	const struct bb_load *l = bpf_map_lookup_percpu_elem(&bb_load, &sum->node, cpu);

	if (!l)
		return 1;
	sum->busy += bb_load_busy(l, sum->now);
	sum->creates += l->creates;
	return 0;
}

static long bb_choose(void *map, const __u16 *key, const struct bb_node *n, struct bb_choice *c)
{
	const __u64 *full = bpf_map_lookup_elem(&bb_full, key);
	struct bb_sum sum = { .now = c->now, .node = *key };
	__u64 busy;

	if (*key == c->asker || (full && *full > c->now))
		return 0;
	bpf_loop(4096, bb_add_cpu, &sum, 0);
	busy = sum.busy >> 20;
	if (c->node && (busy > c->busy || (busy == c->busy && (sum.creates > c->creates ||
								 (sum.creates == c->creates && *key > c->node)))))
		return 0;
	c->node = *key;
	c->busy = busy;
	c->creates = sum.creates;
	return 0;
}

/* Return: node, or 0 where there is none. */
static __always_inline __u16 bb_place(const struct bb_pin_key *key)
{
	struct bb_choice c = { .now = bpf_ktime_get_coarse_ns(), .asker = key->node };
	struct bb_pin *pin = bpf_map_lookup_elem(&bb_pins, key), made = { .at = c.now };
	__u16 node;

	if (pin && c.now - pin->at < BB_PIN_NS)
		return pin->node;
	bpf_for_each_map_elem(&bb_nodes, bb_choose, &c, 0);
	if (!c.node)
		return 0;
	made.node = c.node;
	if (pin)
		bpf_map_update_elem(&bb_pins, key, &made, BPF_ANY);
	else if (bpf_map_update_elem(&bb_pins, key, &made, BPF_NOEXIST)) {
		/* Another CPU has placed it just now. */
		pin = bpf_map_lookup_elem(&bb_pins, key);
		return pin ? pin->node : 0;
	}
	node = c.node;
	bb_load_add(node, 0, 0, 1);
	return node;
}

#endif
