/* SPDX-License-Identifier: MIT */
/*
 * The server of lent memory: one thread, one UDP socket on [::]:port, answers
 * requests from the home, and speaks HELLO with the peers.
 */
#ifndef BB_DAEMON_SERVER_H
#define BB_DAEMON_SERVER_H

#include <stdbool.h>
#include <stdint.h>

struct bb_adopt;
struct bb_home;
struct bb_keep;
struct bb_peers;
struct bb_policy;
struct bb_server;
struct bb_wire_seen;

struct bb_server_stats {
	uint64_t rx_packets, tx_packets;
	uint64_t bad_tag, malformed, bad_version, bad_command, foreign_tenant;
	uint64_t duplicates, stale;
	uint64_t adopted; /* for other homes' addresses */
	uint64_t lz4_rx, lz4_tx, lz4_raw; /* segments that came and went compressed; that did not become shorter */
	uint64_t lz4_saved; /* bytes, both ways */
	uint64_t policy; /* refused or dropped by one */
	uint64_t by_cmd[128];
};

/*
 * What has to be done elsewhere for extents to move; called in the server's
 * thread. Each may be NULL.
 */
struct bb_server_moves {
	bool (*may_move)(void *arg, uint16_t to);	/* see net/serve.h */
	void (*moved)(void *arg);
	void (*tick)(void *arg);			/* now and then */
	void *arg;
};

struct bb_server_config {
	int cpu;	/* pin to it; -1: no */
	uint32_t spin_us; /* poll that long after the last packet before sleeping */
	struct bb_keep *keep;
	const struct bb_policy *policy; /* see bb_steer_policy(); may be NULL */
	struct bb_adopt *adopt;	/* may be NULL */
	struct bb_server_moves moves;
	uint8_t (*close)(void *arg, uint16_t node, uint8_t pager, uint64_t number, uint64_t seen); /* see net/serve.h */
	void *close_arg;
};

int bb_server_start(struct bb_server **out, struct bb_peers *peers, struct bb_home *home, const struct bb_server_config *cfg);
/* leave: another bbd goes on; else it says goodbye to the peers. Joins. */
void bb_server_stop(struct bb_server *s, bool leave);
/* See bb_sessions_seed(). From any thread. */
int bb_server_seed(struct bb_server *s, uint16_t node, uint16_t home, const struct bb_wire_seen *seen, unsigned int n);
void bb_server_stats(const struct bb_server *s, struct bb_server_stats *out);

#endif
