/* SPDX-License-Identifier: MIT */
/*
 * Faults of the network, for tests: BB_TEST_NET="drop=5,dup=5,delay=5,seed=1"
 * makes both ends of a bbd lose, receive twice, or receive late so many percent
 * of the packets that come in. Where it is not set there is no struct bb_inject
 * and nothing on the data path but a test of a pointer. A bbd that was started
 * with it ("off" injects nothing) takes other faults while it runs, by the
 * control command net.faults.
 *
 * The text is one or more rules, with ';' between them, each of names and
 * values with ',' between them. What happens to a packet, in percent (100):
 *
 *	drop	it never comes		dup	it comes twice
 *	delay	it comes ms later	again	it comes now, and once more ms later
 *	reorder	one to eight others overtake it, or ms pass
 *	corrupt	one of its bits is another (bit=N: this one, from 0; else any)
 *
 * To which, all that are given:
 *
 *	dir=request|reply|hello		cmd=READ|WRITE|...	node=N (the sender)
 *	over=N	longer than N bytes, as an MTU counts them	nth=N (the N-th of them only)
 *	after=MS, for=MS		a window of time, from when the rule was set
 *
 * and ms=N (1) and seed=N (1). The first rule that takes a packet away is the
 * last that sees it.
 */
#ifndef BB_DAEMON_INJECT_H
#define BB_DAEMON_INJECT_H

#include <stdbool.h>
#include <stdint.h>

#include "net/sock.h"

/* --- rules (inject_rules.c) ------------------------------------------------- */

#define BB_INJECT_RULES 8
#define BB_INJECT_TEXT 512

enum bb_inject_what {
	BB_INJECT_DROP,
	BB_INJECT_DUP,
	BB_INJECT_DELAY,
	BB_INJECT_AGAIN,
	BB_INJECT_REORDER,
	BB_INJECT_CORRUPT,
	BB_INJECT_WHATS
};
extern const char *const bb_inject_name[BB_INJECT_WHATS];

enum bb_inject_dir { BB_INJECT_ANY, BB_INJECT_REQUEST, BB_INJECT_REPLY, BB_INJECT_HELLO };

struct bb_inject_rule {
	uint8_t percent[BB_INJECT_WHATS];
	enum bb_inject_dir dir;
	int cmd;		/* -1: any */
	uint32_t node, over;	/* 0: any */
	uint64_t nth;		/* 0: all */
	int64_t bit;		/* -1: any */
	uint64_t ms, after_ms, for_ms; /* for_ms 0: without end */
};

struct bb_inject_rules {
	unsigned int n;
	uint64_t seed;
	struct bb_inject_rule rule[BB_INJECT_RULES];
};

/* Return: 0 or -EINVAL. out may have been written to even then. */
int bb_inject_parse(struct bb_inject_rules *out, const char *text);

/* --- of the whole process --------------------------------------------------- */

/* Was this bbd started with BB_TEST_NET? */
bool bb_inject_enabled(void);
/* Other rules, for all sockets; counters begin at 0. Return: 0, -EINVAL, or -ENOENT where not enabled. */
int bb_inject_set(const char *text);

struct bb_inject_stats {
	char text[BB_INJECT_TEXT];
	uint64_t seen, done[BB_INJECT_WHATS];
};
void bb_inject_stats(struct bb_inject_stats *out);

/* --- of a socket ------------------------------------------------------------ */

struct bb_inject;

typedef void (*bb_inject_fn)(void *arg, const struct bb_sock_packet *p);

/* salt: tells sockets of one seed apart. *out NULL: nothing asked for. Return: 0 or -ENOMEM. */
int bb_inject_new(struct bb_inject **out, uint32_t salt);
void bb_inject_free(struct bb_inject *i);
/* Passes p on to fn: now, twice, later, changed, or never. */
void bb_inject_packet(struct bb_inject *i, const struct bb_sock_packet *p, bb_inject_fn fn, void *arg);
/* Passes on what has been held long enough. Call it at every poll. */
void bb_inject_poll(struct bb_inject *i, bb_inject_fn fn, void *arg);
/* Time at which something held is due, ~0 for none. */
uint64_t bb_inject_next(const struct bb_inject *i);

#endif
