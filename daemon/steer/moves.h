/* SPDX-License-Identifier: MIT */
/*
 * Extents that moved, as the kernel's programs need to know of them: at the old
 * home an override each and the link address of the new one, at the new home
 * where it lies. The maps follow the tables of home and adopt; nothing is
 * remembered here but the link addresses.
 */
#ifndef BB_DAEMON_STEER_MOVES_H
#define BB_DAEMON_STEER_MOVES_H

#include <stdbool.h>
#include <stdint.h>

#include "steer/pins.h"

#define BB_MOVE_NODES 64 /* that extents of this host may move to */

struct bb_adopt;
struct bb_home;

struct bb_move_node {
	uint16_t node;
	bool wanted;	/* an extent has moved there */
	bool known;	/* the rest holds */
	uint32_t ifindex;
	uint8_t mac[6];
};

/* The node's entry, or a new one; NULL: there is no room. */
struct bb_move_node *bb_move_node(struct bb_move_node *nodes, uint16_t node);

/* Can packets be sent on to other hosts? */
bool bb_moves_can(const struct bb_pins *p);

/*
 * Makes the maps as the tables say: an override only where its node is known.
 * home and adopt may be NULL. nodes: BB_MOVE_NODES, sets wanted.
 */
void bb_moves_sync(const struct bb_pins *p, struct bb_home *home, struct bb_adopt *adopt, uint16_t tenant, uint16_t own,
		   struct bb_move_node *nodes);

#endif
