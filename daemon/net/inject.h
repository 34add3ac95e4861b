/* SPDX-License-Identifier: MIT */
/*
 * Faults of the network, for tests: BB_TEST_NET="drop=5,dup=5,delay=5,seed=1"
 * makes both ends lose, receive twice, or receive late (after others) so many
 * percent of the packets that come in. Read once a socket; where it is not set
 * there is no struct bb_inject and nothing on the data path but a test of a
 * pointer.
 */
#ifndef BB_DAEMON_INJECT_H
#define BB_DAEMON_INJECT_H

#include <stdint.h>

#include "net/sock.h"

struct bb_inject;

typedef void (*bb_inject_fn)(void *arg, const struct bb_sock_packet *p);

/* salt: tells sockets of one seed apart. *out NULL: nothing asked for. Return: 0 or -ENOMEM. */
int bb_inject_new(struct bb_inject **out, uint32_t salt);
void bb_inject_free(struct bb_inject *i);
/* Passes p on to fn: now, twice, later, or never. */
void bb_inject_packet(struct bb_inject *i, const struct bb_sock_packet *p, bb_inject_fn fn, void *arg);
/* Passes on what has been held long enough. Call it at every poll. */
void bb_inject_poll(struct bb_inject *i, bb_inject_fn fn, void *arg);
/* Time at which something held is due, ~0 for none. */
uint64_t bb_inject_next(const struct bb_inject *i);

#endif
