/* SPDX-License-Identifier: MIT */
/* UPDATE at a home: an extent moves to another host (doc/protocol.md, section 11). */
#include "net/serve_impl.h"

#include <string.h>

#include "clock.h"
#include "net/peers.h"

/* Whose it is; what is remembered of a BEGIN. */
static uint8_t move_begin(struct bb_serve *s, const struct bb_serve_request *q, struct bb_home_who mover, struct bb_session_slot *slot,
			  uint32_t token)
{
	struct bb_wire_owner o;
	struct bb_home_who owner;
	uint8_t st;

	/* Where nobody would steer its owner's packets, its bytes must not go. */
	if (!s->may_move || !s->may_move(s->move_arg, mover.node))
		return BB_ST_COMMAND;
	if (bb_sessions_result(s->sessions, slot, 1))
		return BB_ST_BUSY;
	st = bb_home_move_begin(s->home, mover, s->node, q->ptr, token, bb_now_ns(), &owner);
	if (st == BB_ST_OK) {
		o = (struct bb_wire_owner){ .node = owner.node, .boot = owner.boot };
		bb_wire_owner_reply(&o, (uint8_t *)&slot->result->ptrs[0]);
	}
	return st;
}

/*
 * What the owner has sent to us: after the commit, so that no WRITE to the extent
 * is done here that is not among it. Asked again, there may be more of it.
 */
static uint8_t move_commit(struct bb_serve *s, const struct bb_serve_request *q, struct bb_home_who mover, uint32_t token, size_t *len)
{
	static struct bb_wire_seen seen[BB_UPDATE_SESSIONS_MAX]; /* one server */
	struct bb_home_who owner;
	unsigned int n;
	uint8_t st;

	st = bb_home_move_commit(s->home, mover, q->ptr, token, &owner);
	if (st != BB_ST_OK)
		return st;
	if (s->moved)
		s->moved(s->move_arg);
	n = bb_sessions_seen(s->sessions, owner.node, seen, BB_UPDATE_SESSIONS_MAX);
	if (n > BB_UPDATE_SESSIONS_MAX) /* until some are idle */
		return BB_ST_BUSY;
	*len = bb_wire_seen_reply(seen, n, s->payload);
	return st;
}

void bb_serve_update(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot)
{
	const bool again = slot->state == BB_SLOT_DONE;
	struct bb_wire_update u;
	uint8_t st = slot->status;
	size_t len = 0;

	struct bb_home_who mover = q->who;
	struct bb_peer peer;

	bb_wire_update_decode(&q->m, &u);
	if (bb_peers_get(s->peers, mover.node, &peer))
		mover.boot = peer.boot;
	if (again)
		bb_count(&s->stats.duplicates, 1);
	if (!s->home) {
		st = BB_ST_BOUNDS;
	} else if (again) {
		if (st == BB_ST_OK && u.op == BB_UPDATE_COMMIT)
			st = move_commit(s, q, mover, u.token, &len);
	} else {
		switch (u.op) {
		case BB_UPDATE_BEGIN:
			st = move_begin(s, q, mover, slot, u.token);
			break;
		case BB_UPDATE_COMMIT:
			st = move_commit(s, q, mover, u.token, &len);
			break;
		case BB_UPDATE_ABORT:
			st = bb_home_move_abort(s->home, mover, q->ptr, u.token);
			break;
		default:
			st = bb_home_move_release(s->home, mover, q->ptr);
			if (st == BB_ST_OK && s->moved)
				s->moved(s->move_arg);
		}
	}
	if (!again && st == BB_ST_BUSY) {
		bb_sessions_undo(s->sessions, slot);
		bb_serve_answer(s, q, st, 0);
		return;
	}
	if (!again) {
		slot->status = st;
		slot->state = BB_SLOT_DONE;
	}
	if (st == BB_ST_OK && u.op == BB_UPDATE_BEGIN && slot->result) {
		memcpy(s->payload, &slot->result->ptrs[0], BB_UPDATE_BYTES);
		len = BB_UPDATE_BYTES;
	}
	bb_serve_answer(s, q, st, st == BB_ST_OK ? len : 0);
}
