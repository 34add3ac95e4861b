/* SPDX-License-Identifier: MIT */
/* XDP at a host: neighbour discovery for its memory, steering, policy. */
#include "maps.h"

SEC("xdp.frags")
int bb_host(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
