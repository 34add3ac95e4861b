/* SPDX-License-Identifier: MIT */
/*
 * What stands between net.c and the transports. A transport whose submit()
 * returns 0 owns the request until it calls bb_req_end(); one that returns
 * -errno has not taken it, and net.c ends it as unreachable.
 */
#ifndef BB_DAEMON_TRANSPORT_H
#define BB_DAEMON_TRANSPORT_H

#include "net/net.h"

/* Of one struct bb_net: counted by all of its transports. */
struct bb_net_shared {
	struct bb_net_stats stats;
	unsigned int inflight;
	bool closing; /* requests end at once with TIMEOUT */
};

static inline void bb_req_end(struct bb_net_shared *sh, struct bb_net_req *req, uint8_t status)
{
	sh->inflight--;
	if (status == BB_ST_TIMEOUT)
		sh->stats.timeouts++;
	else if (status != BB_ST_OK && status < BB_ST_MAX)
		sh->stats.nacks[status]++;
	req->status = status;
	req->failed_node = 0;
	req->done(req);
}

int bb_udp_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_peers *peers, unsigned int index);
/* home NULL: everything is refused as out of bounds or without space. */
int bb_local_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_peers *peers, struct bb_home *home);

#endif
