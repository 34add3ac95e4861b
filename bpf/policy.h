/* SPDX-License-Identifier: MIT */
/* What hosts and switch do alike: overrides, and the rates of commands. */
#ifndef BB_BPF_POLICY_H
#define BB_BPF_POLICY_H

#include "maps.h"

#include <bpf/bpf_endian.h>

/* Of a command with a rate: when the next packet may come (ns). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BB_POLICY_ENTRIES);
	__type(key, __u32);
	__type(value, __u64);
} bb_rates SEC(".maps");


/* Who owns it now; 0: nothing is said of it. */
static __always_inline __u16 bb_override(const struct bb_gptr *g)
{
	struct bb_over_key key = { .prefixlen = 96 };
	const struct bb_steer_cfg *cfg;
	const struct bb_over *o;
	const __u32 zero = 0;
	__u64 ptr = bpf_cpu_to_be64(g->ptr);

	cfg = bpf_map_lookup_elem(&bb_cfg, &zero);
	if (!cfg || !cfg->overrides)
		return 0;
	key.tenant = bpf_htons(g->tenant);
	key.node = bpf_htons(g->node);
	__builtin_memcpy(key.ptr, &ptr, sizeof(ptr));
	o = bpf_map_lookup_elem(&bb_over, &key);
	if (!o || !(o->cmds[g->cmd >> 6 & 1] >> (g->cmd & 63) & 1))
		return 0;
	if (o->until && bpf_ktime_get_boot_ns() >= o->until)
		return 0;
	return o->node;
}

/*
 * More than rate a second, beyond a burst of an eighth of a second? The generic
 * cell rate algorithm (ITU-T I.371): one time a command, moved on by each packet.
 */
static __always_inline int bb_rate_over(__u32 cmd, __u32 rate)
{
	__u64 *at = bpf_map_lookup_elem(&bb_rates, &cmd);
	const __u64 now = bpf_ktime_get_ns();
	__u64 was, next, step;

	if (!at || !rate)
		return 1;
	step = 1000000000ULL / rate;
	was = *(volatile __u64 *)at;
	next = was > now ? was : now;
	if (next - now > 125000000ULL)
		return 1;
	/* Two CPUs at once: who loses lets its packet through and counts it not. */
	__sync_val_compare_and_swap(at, was, next + step);
	return 0;
}

#endif
