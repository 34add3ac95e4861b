/* SPDX-License-Identifier: MIT */
/* See moves.h. */
#include "steer/moves.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "home/home.h"
#include "log.h"
#include "net/adopt.h"

/* tenant, node, generation, and the offset's bits above an extent */
#define PREFIX (16 + 16 + 16 + BB_PTR_OFFSET_BITS - BB_EXTENT_SHIFT)

/* What is asked of an extent's owner. UPDATE is not: that is for the home itself. */
static const struct bb_over steered = {
	.cmds = { 1ULL << BB_CMD_READ | 1ULL << BB_CMD_WRITE | 1ULL << BB_CMD_DELETE | 1ULL << BB_CMD_READ_RUN },
	.flags = BB_OVER_MOVED,
};

static void over_key(struct bb_over_key *k, uint16_t tenant, uint16_t node, uint64_t ptr)
{
	const uint64_t be = htobe64(ptr);

	memset(k, 0, sizeof(*k));
	k->prefixlen = PREFIX;
	k->tenant = htobe16(tenant);
	k->node = htobe16(node);
	memcpy(k->ptr, &be, sizeof(be));
}

struct bb_move_node *bb_move_node(struct bb_move_node *nodes, uint16_t node)
{
	struct bb_move_node *spare = NULL;

	for (int i = 0; i < BB_MOVE_NODES; i++) {
		if (nodes[i].node == node)
			return &nodes[i];
		if (!nodes[i].node && !spare)
			spare = &nodes[i];
	}
	if (spare)
		spare->node = node;
	return spare;
}

static bool own_link(const struct bb_pins *p, struct bb_dev *dev)
{
	static const uint8_t none[6];

	return p->over >= 0 && !bb_pins_dev(p, dev) && memcmp(dev->mac, none, 6) != 0;
}

bool bb_moves_can(const struct bb_pins *p)
{
	struct bb_dev dev;

	return own_link(p, &dev);
}

/* Our own link address is asked for each time: bbload reads the device anew when it is told to. */
static void tell_nodes(const struct bb_pins *p, struct bb_move_node *nodes)
{
	struct bb_dev dev;

	if (!own_link(p, &dev)) {
		for (int i = 0; i < BB_MOVE_NODES; i++)
			nodes[i].known = false; /* not to be sent to */
		return;
	}
	for (int i = 0; i < BB_MOVE_NODES; i++) {
		struct bb_node n = { .ifindex = nodes[i].ifindex };

		if (!nodes[i].known)
			continue;
		memcpy(n.mac, nodes[i].mac, 6);
		memcpy(n.smac, dev.mac, 6);
		bb_pins_node(p, nodes[i].node, &n);
	}
}

static void sync_overrides(const struct bb_pins *p, struct bb_home *home, uint16_t tenant, uint16_t own,
			   struct bb_move_node *nodes)
{
	struct bb_over_key *keys, key;
	struct bb_home_extent x;
	struct bb_over *values;
	uint32_t n = bb_pins_overrides(p, &keys, &values), k;

	for (int i = 0; i < BB_MOVE_NODES; i++)
		nodes[i].wanted = false;
	for (uint32_t i = 0; home && bb_home_next(home, &i, &x);) {
		struct bb_over o = steered;
		struct bb_move_node *to;

		if (!x.moved)
			continue;
		to = bb_move_node(nodes, x.to);
		if (to)
			to->wanted = true;
		o.node = x.to;
		over_key(&key, tenant, own, x.ptr);
		for (k = 0; k < n; k++)
			if (!memcmp(&keys[k], &key, sizeof(key)))
				break;
		if (k < n && values[k].flags == BB_OVER_MOVED) {
			values[k].flags = 0; /* stays */
			if (values[k].node == o.node)
				continue;
		}
		if (to && to->known && bb_pins_override(p, &key, &o))
			bb_warn_once("steer: an override cannot be set (%m): what has moved cannot be reached");
	}
	for (k = 0; k < n; k++)
		if (values[k].flags == BB_OVER_MOVED)
			bb_pins_override(p, &keys[k], NULL);
	free(keys);
	free(values);
}

static void sync_adopted(const struct bb_pins *p, struct bb_adopt *adopt)
{
	struct bb_adopted_key *keys;
	struct bb_adopted *values;
	struct bb_adopt_entry e;
	uint32_t n = bb_pins_all_adopted(p, &keys, &values);

	/* First what is no longer so: an entry is only right with the table's own pointer and boot. */
	for (uint32_t k = 0; k < n; k++)
		if (!adopt || !bb_adopt_find(adopt, keys[k].node, keys[k].extent, &e) || e.state != BB_ADOPT_SERVING ||
		    e.local != values[k].ptr || e.boot != values[k].boot)
			bb_pins_adopted(p, &keys[k], NULL);
	for (uint32_t i = 0; adopt && bb_adopt_next(adopt, &i, &e);) {
		const struct bb_adopted_key key = { .node = e.node, .extent = e.ptr };
		const struct bb_adopted value = { .ptr = e.local, .boot = e.boot };

		if (e.state == BB_ADOPT_SERVING)
			bb_pins_adopted(p, &key, &value); /* else bbd serves it */
	}
	free(keys);
	free(values);
}

void bb_moves_sync(const struct bb_pins *p, struct bb_home *home, struct bb_adopt *adopt, uint16_t tenant, uint16_t own,
		   struct bb_move_node *nodes)
{
	if (p->over < 0)
		return;
	tell_nodes(p, nodes);
	sync_overrides(p, home, tenant, own, nodes);
	sync_adopted(p, adopt);
}
