/* SPDX-License-Identifier: MIT */
/*
 * What a home remembers of requests that change something, so that none is
 * done twice: per session (asking node, session number) a window of the last
 * BB_SESSION_WINDOW ids with the state and result of each. An id below the
 * window, or below the oldest that the asker still has open (bb_hdr.floor), is
 * stale: a write that was delayed so long never lands on newer bytes.
 *
 * Sessions are forgotten after BB_SESSION_IDLE_NS without a packet, longer than
 * any packet lives, and never before: where there is no room for a new one the
 * asker hears BB_ST_BUSY.
 *
 * Requests for extents that were taken over from another home (adopt.h) are of
 * sessions of their own, by that home's number: an asker may use one session
 * number towards all homes. Such a session is seeded with what its asker has sent
 * to that home.
 *
 * Used by the server's thread alone, but for bb_sessions_seed().
 */
#ifndef BB_DAEMON_SESSION_H
#define BB_DAEMON_SESSION_H

#include <stdint.h>

#include "wire.h"

#define BB_SESSIONS_MAX 1024
#define BB_SESSION_IDLE_NS 60000000000ULL
#define BB_RESULTS_MAX (1u << 21) /* pointers remembered for CREATE, all sessions */

enum bb_slot_state {
	BB_SLOT_NEW = 0,	/* never seen before */
	BB_SLOT_OPEN,		/* segments are missing */
	BB_SLOT_DONE,		/* status and result hold */
};

struct bb_slot_result {
	uint32_t n;
	uint64_t ptrs[];
};

/* One id. */
struct bb_session_slot {
	uint64_t id;
	uint64_t got[4];	/* segments that have arrived */
	struct bb_slot_result *result; /* CREATE, ALLOC_WRITE */
	uint16_t nseg, ngot;
	uint16_t failed;	/* WRITE: page that was refused */
	uint8_t cmd;
	uint8_t state;		/* enum bb_slot_state */
	uint8_t status;		/* enum bb_status */
};

struct bb_keep;
struct bb_sessions;
struct bb_wire_seen;

/* keep may be NULL. Return: 0 or -errno. */
int bb_sessions_new(struct bb_sessions **out, struct bb_keep *keep);
void bb_sessions_free(struct bb_sessions *s);
/*
 * The slot of a request. home: whose extent was taken over; 0: it is ours. Return: OK and *out, which holds until the next call;
 * STALE; BUSY; MALFORMED where the id was used for another command or shape.
 */
enum bb_status bb_sessions_slot(struct bb_sessions *s, uint16_t node, uint16_t home, uint8_t cmd, const struct bb_msg *m, uint64_t now,
				struct bb_session_slot **out);
/* Room for n pointers in the slot's result. Return: 0 or -ENOMEM. */
int bb_sessions_result(struct bb_sessions *s, struct bb_session_slot *slot, uint32_t n);
/* Fewer than asked for came of it. */
void bb_sessions_shrink(struct bb_sessions *s, struct bb_session_slot *slot, uint32_t n);
/* The request was not taken on after all: forget that it came. */
void bb_sessions_undo(struct bb_sessions *s, struct bb_session_slot *slot);
/*
 * What a node has sent to us, of its sessions that are not idle: the highest id of each. Return:
 * how many there are; at most max are in out.
 */
unsigned int bb_sessions_seen(struct bb_sessions *s, uint16_t node, struct bb_wire_seen *out, unsigned int max);
/*
 * What a node has sent to the other home: none of it is done here any more, it is STALE. From
 * any thread. Return: 0; -EBUSY where there is no room for it now.
 */
int bb_sessions_seed(struct bb_sessions *s, uint16_t node, uint16_t home, const struct bb_wire_seen *seen, unsigned int n,
		     uint64_t now);
/* Forgets idle sessions. Call it every few seconds. */
void bb_sessions_sweep(struct bb_sessions *s, uint64_t now);
unsigned int bb_sessions_count(const struct bb_sessions *s);

#endif
