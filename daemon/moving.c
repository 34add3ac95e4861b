/* SPDX-License-Identifier: MIT */
/* See moving.h. */
#include "moving.h"

#include <stdbool.h>
#include <stddef.h>

#include "home/home.h"
#include "net/adopt.h"
#include "net/mover.h"
#include "net/peers.h"
#include "steer/steer.h"

int bb_moving_open(struct bb_moving *m, struct bb_peers *peers, struct bb_home *home, struct bb_keep *keep)
{
	*m = (struct bb_moving){ .peers = peers, .home = home };
	return home ? bb_adopt_new(&m->adopt, home, keep) : 0;
}

static bool link_to(struct bb_moving *m, uint16_t node)
{
	uint32_t ifindex;
	uint8_t mac[6];

	return !bb_peers_link(m->peers, node, mac, &ifindex) && bb_steer_node(m->steer, node, ifindex, mac);
}

static bool may_move(void *arg, uint16_t to)
{
	return link_to(arg, to);
}

static void moved(void *arg)
{
	struct bb_moving *m = arg;

	bb_steer_moved(m->steer);
	bb_mover_wake(__atomic_load_n(&m->mover, __ATOMIC_ACQUIRE));
}

static void changed(void *arg)
{
	struct bb_moving *m = arg;

	bb_steer_moved(m->steer);
}

/* One that has started anew has lost what went there: its owners are to hear that, and the place is free. */
static void look_at(struct bb_moving *m, uint16_t node)
{
	struct bb_peer peer;

	if (!bb_peers_get(m->peers, node, &peer) || !peer.boot)
		return;
	for (int i = 0; i < BB_MOVING_NODES; i++) {
		if (m->seen[i].node && m->seen[i].node != node)
			continue;
		if (m->seen[i].boot != peer.boot && bb_home_moved_lost(m->home, node, peer.boot))
			bb_steer_moved(m->steer);
		m->seen[i].node = node;
		m->seen[i].boot = peer.boot;
		break;
	}
}

/* Packets for their homes are to come up here. */
static void take_packets(struct bb_moving *m)
{
	uint16_t homes[BB_PEERS_ADOPT];
	struct bb_adopt_entry e;
	unsigned int n = 0, k;

	for (uint32_t i = 0; n < BB_PEERS_ADOPT && bb_adopt_next(m->adopt, &i, &e);) {
		for (k = 0; k < n && homes[k] != e.node; k++)
			;
		if (k == n)
			homes[n++] = e.node;
	}
	bb_peers_adopt(m->peers, homes, n);
}

static void tick(void *arg)
{
	uint16_t nodes[BB_MOVING_NODES];
	struct bb_moving *m = arg;
	unsigned int n = bb_steer_nodes(m->steer, nodes, BB_MOVING_NODES);

	take_packets(m);
	for (unsigned int i = 0; i < n; i++) {
		link_to(m, nodes[i]);
		look_at(m, nodes[i]);
	}
}

struct bb_server_moves bb_moving_hooks(struct bb_moving *m, struct bb_steer *steer)
{
	m->steer = steer;
	if (!m->home)
		return (struct bb_server_moves){ 0 };
	return (struct bb_server_moves){ .may_move = may_move, .moved = moved, .tick = tick, .arg = m };
}

int bb_moving_start(struct bb_moving *m, struct bb_server *server)
{
	const struct bb_mover_config mc = {
		.peers = m->peers,
		.home = m->home,
		.adopt = m->adopt,
		.server = server,
		.changed = changed,
		.arg = m,
	};

	struct bb_mover *mover;
	int ret = m->adopt ? bb_mover_start(&mover, &mc) : 0;

	/* The server may be about to wake it. */
	if (!ret && m->adopt)
		__atomic_store_n(&m->mover, mover, __ATOMIC_RELEASE);
	return ret;
}

void bb_moving_stop(struct bb_moving *m)
{
	bb_mover_stop(m->mover);
}

void bb_moving_close(struct bb_moving *m)
{
	bb_mover_free(m->mover);
	m->mover = NULL;
	bb_adopt_free(m->adopt);
	m->adopt = NULL;
}
