/* SPDX-License-Identifier: MIT */
/*
 * A transport in front of another that makes every Nth request go wrong, for
 * tests of what is above the net layer: lost, done twice, late, refused.
 */
#ifndef BB_DAEMON_LOOP_H
#define BB_DAEMON_LOOP_H

#include "net/net.h"

/* Each every: 0 never, 1 always, N every Nth request. The first that fits holds. */
struct bb_loop_config {
	unsigned int drop_every;   /* ends with TIMEOUT at its deadline, not done */
	unsigned int refuse_every; /* ends with refuse_status, not done */
	unsigned int delay_every;  /* is done after delay_ns */
	unsigned int dup_every;	   /* READ, READ_RUN, WRITE: is done twice, one after the other */
	uint8_t refuse_status;	   /* enum bb_status */
	uint64_t delay_ns;
};

/* Puts it in front of both transports of net. Before the first request. Return: 0 or -ENOMEM. */
int bb_net_loop(struct bb_net *net, const struct bb_loop_config *cfg);

/* For net.c: inner belongs to the new transport. */
struct bb_net_shared;
int bb_loop_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_transport *inner,
		const struct bb_loop_config *cfg);

#endif
