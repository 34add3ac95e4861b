/* SPDX-License-Identifier: MIT */
/*
 * XDP at a host that asks: answers go straight to the thread that waits for
 * them, by an AF_XDP socket of its own. bb_xsk holds these sockets by the
 * thread's number, which is the pointer of the address that it speaks from. While
 * it is empty, and for whom it has no entry, packets pass, to the UDP socket that
 * each of these threads has too.
 */
#ifndef BB_BPF_CLIENT_H
#define BB_BPF_CLIENT_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include <bluebridge/steer.h>

#include "packet.h"

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, BB_XSK_MAX);
	__type(key, __u32);
	__type(value, __u32);
} bb_xsk SEC(".maps");

/* p: to an address with the reply bit, of this host. A socket takes of one queue only. */
static __always_inline int bb_client(struct xdp_md *ctx, const struct bb_packet *p, const struct bb_steer_cfg *cfg,
				     const struct bb_gptr *dst)
{
	if (dst->node != cfg->node || dst->ptr >= BB_XSK_MAX || ctx->rx_queue_index || p->udp.source != bpf_htons(cfg->port))
		return XDP_PASS;
	return (int)bpf_redirect_map(&bb_xsk, (__u32)dst->ptr, XDP_PASS);
}

#endif
