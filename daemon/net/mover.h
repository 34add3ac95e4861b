/* SPDX-License-Identifier: MIT */
/*
 * Takes extents over from other homes (doc/protocol.md, section 11), one at a time, and
 * keeps the table of what was taken over (adopt.h) true: what a bbd that was killed
 * left half done is ended, a home hears of what is freed here, and what its
 * home or its owner no longer knows is let go.
 */
#ifndef BB_DAEMON_MOVER_H
#define BB_DAEMON_MOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bb_adopt;
struct bb_home;
struct bb_mover;
struct bb_peers;
struct bb_server;

struct bb_mover_config {
	struct bb_peers *peers;
	struct bb_home *home;
	struct bb_adopt *adopt;
	struct bb_server *server;
	void (*changed)(void *arg); /* the table is another than before; in the mover's thread */
	void *arg;
};

enum bb_move_state { BB_MOVE_NONE, BB_MOVE_RUNS, BB_MOVE_DONE, BB_MOVE_FAILED };

struct bb_move_info {
	enum bb_move_state state;
	uint16_t node;
	uint64_t ptr;
	uint64_t ns;	/* DONE: how long it took */
	char why[200];	/* FAILED */
};

/* Starts a thread. Return: 0 or -errno. */
int bb_mover_start(struct bb_mover **out, const struct bb_mover_config *cfg);
/* Ends the thread; the rest of the calls still work. */
void bb_mover_stop(struct bb_mover *m);
void bb_mover_free(struct bb_mover *m);

/* From any thread. The extent at ptr of that node is to come here. Return: 0; -EBUSY: another is on its way; -EINVAL. */
int bb_mover_move(struct bb_mover *m, uint16_t node, uint64_t ptr);
/* The last one, and how far it is. */
void bb_mover_info(struct bb_mover *m, struct bb_move_info *out);
/* Something was freed: the home that it came from should hear of it. m may be NULL. */
void bb_mover_wake(struct bb_mover *m);

#endif
