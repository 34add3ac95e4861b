/* SPDX-License-Identifier: MIT */
/* XDP at each port of the rack switch. */
#include "maps.h"

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

SEC("xdp.frags")
int bb_switch(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
