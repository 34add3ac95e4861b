/* SPDX-License-Identifier: MIT */
/*
 * The maps of the BPF programs, as include/bluebridge/steer.h describes their
 * content. A program that includes this has all of them; bbload pins each once
 * for a device and gives it to all programs there.
 */
#ifndef BB_BPF_MAPS_H
#define BB_BPF_MAPS_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bluebridge/steer.h>

/* A switch has no memory to lend, and a first slab costs 64 MiB while it is loaded. */
#ifndef BB_MAPS_OF_SWITCH
struct bb_slab_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BB_SLAB_ENTRIES);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, BB_PAGE_SIZE);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, BB_STEER_SLABS_MAX);
	__type(key, __u32);
	__array(values, struct bb_slab_map);
} bb_slabs SEC(".maps");
#endif

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bb_steer_cfg);
} bb_cfg SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bb_dev);
} bb_dev SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, BB_POLICY_ENTRIES);
	__type(key, __u32);
	__type(value, struct bb_policy);
} bb_policy SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BB_OVER_MAX);
	__type(key, struct bb_over_key);
	__type(value, struct bb_over);
} bb_over SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BB_NODES_MAX);
	__type(key, __u16);
	__type(value, struct bb_node);
} bb_nodes SEC(".maps");

#ifndef BB_MAPS_OF_SWITCH
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, BB_OVER_MAX);
	__type(key, struct bb_adopted_key);
	__type(value, struct bb_adopted);
} bb_adopted SEC(".maps");
#endif

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BB_CNT_MAX);
	__type(key, __u32);
	__type(value, __u64);
} bb_count SEC(".maps");

/* The packet goes back by the device that it came from. */
static __always_inline int bb_send_back(struct xdp_md *ctx)
{
	const __u32 zero = 0;
	const struct bb_dev *dev = bpf_map_lookup_elem(&bb_dev, &zero);

	return dev && dev->flags & BB_DEV_REDIRECT ? (int)bpf_redirect(ctx->ingress_ifindex, 0) : XDP_TX;
}

static __always_inline void bb_count_one(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&bb_count, &which);

	if (n)
		++*n;
}

#endif
