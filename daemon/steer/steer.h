/* SPDX-License-Identifier: MIT */
/*
 * bbd's side of the BPF programs that bbload attaches to its device: tells them
 * who this host is, gives them the lent memory as maps and the pagers AF_XDP sockets,
 * and reads their counters and policies. Where nothing is attached it does nothing but look again; what
 * bbload attaches, replaces or detaches meanwhile is seen within BB_STEER_LOOK_MS.
 *
 * The maps outlive bbd: READs are answered of one that was killed. Only a
 * bbd that starts with nothing kept, or ends for good, takes that away.
 */
#ifndef BB_DAEMON_STEER_H
#define BB_DAEMON_STEER_H

#include <bluebridge/steer.h>

#include <stdbool.h>
#include <stdint.h>

#define BB_STEER_LOOK_MS 500

struct bb_adopt;
struct bb_home;
struct bb_steer;

struct bb_steer_config {
	const char *fs;		/* where the pins are; NULL: BB_STEER_FS */
	const char *dev;
	uint16_t tenant, node, port;
	uint32_t boot;
	uint64_t k0, k1;
	struct bb_home *home;	/* NULL: nothing is lent */
	struct bb_adopt *adopt;	/* extents of other homes; may be NULL */
	bool sockets;		/* AF_XDP, for pagers that ask for pages */
	const char *store;	/* its slabs are files, which the kernel cannot serve */
};

enum bb_steer_state {
	BB_STEER_OFF,		/* nothing is attached */
	BB_STEER_REFUSED,	/* what is there cannot be used, see why */
	BB_STEER_KNOWN,		/* attached, but no READ can be answered, see why */
	BB_STEER_SERVES,
};

struct bb_steer_stats {
	enum bb_steer_state state;
	char why[256];
	uint64_t slabs;			/* that the kernel reads */
	uint64_t count[BB_CNT_MAX];	/* bb_count, all CPUs together; zeros while nothing is attached */
};

/*
 * Looks once, so that what an earlier bbd left is served no more when this
 * returns, and starts a thread. home must outlive it. Return: 0 or -errno.
 */
int bb_steer_start(struct bb_steer **out, const struct bb_steer_config *cfg);
/* leave: another bbd goes on, and the kernel meanwhile. */
void bb_steer_stop(struct bb_steer *s, bool leave);

/*
 * BB_POLICY_ENTRIES of them: as bbload set them, at the moment of the look; all
 * zeros while nothing is attached. Good until bb_steer_stop(), in any thread.
 */
const struct bb_policy *bb_steer_policy(const struct bb_steer *s);

/* --- extents that move. From any thread; s may be NULL. --- */

/* What moved is another than before: the maps follow. */
void bb_steer_moved(struct bb_steer *s);
/* The link address of a node that extents go to. Return: whether packets can be steered there. */
bool bb_steer_node(struct bb_steer *s, uint16_t node, uint32_t ifindex, const uint8_t mac[6]);
/* Nodes that extents of ours have gone to. Return: how many of at most max. */
unsigned int bb_steer_nodes(struct bb_steer *s, uint16_t *out, unsigned int max);

/* From any thread; as of now, or where that takes too long as of a moment ago. s may be NULL. */
void bb_steer_stats(struct bb_steer *s, struct bb_steer_stats *out);

#endif
