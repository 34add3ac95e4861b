/* SPDX-License-Identifier: MIT */
/*
 * The table of hosts, as peers.c (the table, for every thread), peers_in.c
 * (HELLOs that come in) and peers_out.c (those that go out) share it. Nobody
 * else includes this.
 */
#ifndef BB_DAEMON_PEERS_IMPL_H
#define BB_DAEMON_PEERS_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/announce.h"
#include "net/hello.h"
#include "net/peers.h"
#include "net/routes.h"
#include "net/routes_any.h"

#define BB_PEERS_MAX 4096
#define BB_GHOSTS_MAX 16 /* known by packets that fail authentication only */
#define BB_BAD_SOURCES_MAX 64
#define BB_PEER_ADDRS 4
#define BB_PEER_OLD_BOOTS 8

struct bb_peer_entry {
	struct bb_peer pub;
	uint64_t charged;	/* placed there since its last HELLO */
	/* The server's thread's own. */
	uint32_t session;
	uint64_t last_id;
	uint32_t old_boot[BB_PEER_OLD_BOOTS];
	unsigned int nold;
	struct in6_addr addr[BB_PEER_ADDRS]; /* that it has spoken from */
	unsigned int naddr;
	uint64_t via_seen;
	uint64_t told_at;	/* when we last said HELLO to it */
	uint64_t echo;		/* its stamp to give back */
	uint64_t pinged_at;	/* asked for an answer that has not come; 0: none is due */
	uint32_t refused_boot;	/* of the second host of this number */
	uint32_t local_mtu, said_mtu;
	bool ghost, reply_due, told_port;
	struct sockaddr_in6 at;
};

struct bb_peers {
	struct bb_peers_config cfg;
	struct bb_announce *announce;
	struct bb_routes *routes;
	struct bb_routes_any *any;
	struct {
		uint16_t node;
		struct bb_routes_any *routes;
	} adopt[BB_PEERS_ADOPT];
	uint16_t any_by;	/* node whose next hop packets to any node take; 0: none */
	uint64_t next_round, next_fix, started;
	unsigned int round;
	unsigned int moved; /* HELLOs that still say so */
	uint32_t conflict_boot;
	uint32_t dev_mtu;	/* of the link of discovery; another one: paths are measured anew */
	bool group_failed;
	_Atomic bool rdma;
	_Atomic bool slow;	/* compressed pages are wanted */
	_Atomic uint32_t speed;
	uint64_t next_speed;
	unsigned int rng;

	struct in6_addr bad[BB_BAD_SOURCES_MAX];
	unsigned int nbad;

	pthread_mutex_t lock;
	struct bb_peer_entry *tab;
	unsigned int n, nghosts;
	uint16_t index[1 << 16]; /* node: place in tab + 1 */
};

/* NULL: not known. */
static inline struct bb_peer_entry *bb_peer_find(struct bb_peers *p, uint16_t node)
{
	return p->index[node] ? &p->tab[p->index[node] - 1] : NULL;
}

/* Adds a node that is not known. Lock held. Return: NULL where there is no room. */
struct bb_peer_entry *bb_peer_add(struct bb_peers *p, uint16_t node);
/* Asks our own link for its speed. sock: any. */
void bb_peers_measure_link(struct bb_peers *p, int sock);
/* What the path to it carries, from what both ends know. */
uint32_t bb_peer_path_mtu(const struct bb_peer_entry *e);

#endif
