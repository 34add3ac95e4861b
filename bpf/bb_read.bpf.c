/* SPDX-License-Identifier: MIT */
/* tc ingress at a host: READ is answered from the slabs. */
#include "maps.h"

SEC("tc")
int bb_read(struct __sk_buff *skb)
{
	return -1; /* TCX_NEXT, and TC_ACT_UNSPEC */
}

char _license[] SEC("license") = "Dual MIT/GPL";
