/* SPDX-License-Identifier: MIT */
/*
 * What of bbd has to do with extents that move, put together: the server is told
 * where packets can be steered, the maps and the mover hear of what changes.
 */
#ifndef BB_DAEMON_MOVING_H
#define BB_DAEMON_MOVING_H

#include <stdint.h>

#include "net/server.h"

struct bb_adopt;
struct bb_home;
struct bb_keep;
struct bb_mover;
struct bb_peers;
struct bb_steer;

#define BB_MOVING_NODES 64

struct bb_moving {
	struct bb_adopt *adopt;
	struct bb_mover *mover;
	struct bb_peers *peers;
	struct bb_home *home;
	struct bb_steer *steer;
	/* The server's thread: incarnations of the nodes that extents went to, as they were last seen. */
	struct {
		uint16_t node;
		uint32_t boot;
	} seen[BB_MOVING_NODES];
};

/* Before the steering and the server, which get adopt. Return: 0 or -errno. */
int bb_moving_open(struct bb_moving *m, struct bb_peers *peers, struct bb_home *home, struct bb_keep *keep);
/* For the server; steer may be NULL. */
struct bb_server_moves bb_moving_hooks(struct bb_moving *m, struct bb_steer *steer);
/* Once the server is there. Return: 0 or -errno. */
int bb_moving_start(struct bb_moving *m, struct bb_server *server);
/* Before the server is stopped, which may still call. */
void bb_moving_stop(struct bb_moving *m);
/* When nobody is left that has adopt. */
void bb_moving_close(struct bb_moving *m);

#endif
