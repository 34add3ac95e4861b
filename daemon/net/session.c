/* SPDX-License-Identifier: MIT */
/* See session.h. */
#include "net/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

struct key {
	uint32_t session;
	uint32_t node;
};

struct session {
	struct key key;
	UT_hash_handle hh;
	uint64_t last;	/* when a packet of it came */
	uint64_t top;	/* highest id seen */
	uint64_t floor; /* ids below are done with */
	struct bb_session_slot slot[BB_SESSION_WINDOW];
};

struct bb_sessions {
	struct session *all;
	struct session *hot; /* of the last packet: most come in rows */
	uint64_t results;    /* pointers held */
};

int bb_sessions_new(struct bb_sessions **out)
{
	*out = calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

static void slot_clear(struct bb_sessions *s, struct bb_session_slot *slot)
{
	if (slot->result) {
		s->results -= slot->result->n;
		free(slot->result);
	}
	memset(slot, 0, sizeof(*slot));
}

static void forget(struct bb_sessions *s, struct session *e)
{
	for (unsigned int i = 0; i < BB_SESSION_WINDOW; i++)
		if (e->slot[i].result)
			slot_clear(s, &e->slot[i]);
	HASH_DEL(s->all, e);
	if (s->hot == e)
		s->hot = NULL;
	free(e);
}

void bb_sessions_free(struct bb_sessions *s)
{
	if (!s)
		return;
	while (s->all)
		forget(s, s->all);
	free(s);
}

void bb_sessions_sweep(struct bb_sessions *s, uint64_t now)
{
	struct session *e, *next;

	HASH_ITER(hh, s->all, e, next) {
		if (now - e->last > BB_SESSION_IDLE_NS)
			forget(s, e);
	}
}

unsigned int bb_sessions_count(const struct bb_sessions *s)
{
	return HASH_COUNT(s->all);
}

static struct session *find(struct bb_sessions *s, const struct key *key, uint64_t now)
{
	struct session *e = s->hot;

	if (e && e->key.session == key->session && e->key.node == key->node)
		return e;
	HASH_FIND(hh, s->all, key, sizeof(*key), e);
	if (e)
		goto out;
	if (HASH_COUNT(s->all) >= BB_SESSIONS_MAX) {
		bb_sessions_sweep(s, now);
		if (HASH_COUNT(s->all) >= BB_SESSIONS_MAX)
			return NULL;
	}
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->key = *key;
	HASH_ADD(hh, s->all, key, sizeof(e->key), e);
out:
	s->hot = e;
	return e;
}

enum bb_status bb_sessions_slot(struct bb_sessions *s, uint16_t node, uint8_t cmd, const struct bb_msg *m, uint64_t now,
				struct bb_session_slot **out)
{
	const struct key key = { .session = m->session, .node = node };
	const uint64_t behind = (uint32_t)m->id - m->floor;
	struct session *e = find(s, &key, now);
	struct bb_session_slot *slot;

	if (!e)
		return BB_ST_BUSY;
	e->last = now;
	if (m->id > e->top)
		e->top = m->id;
	if (behind < m->id && m->id - behind > e->floor)
		e->floor = m->id - behind;
	if (m->id < e->floor || (e->top >= BB_SESSION_WINDOW && m->id <= e->top - BB_SESSION_WINDOW))
		return BB_ST_STALE;
	slot = &e->slot[m->id % BB_SESSION_WINDOW];
	if (slot->id != m->id) {
		slot_clear(s, slot);
		slot->id = m->id;
		slot->cmd = cmd;
		slot->nseg = m->nseg;
	} else if (slot->cmd != cmd || slot->nseg != m->nseg) {
		return BB_ST_MALFORMED;
	}
	*out = slot;
	return BB_ST_OK;
}

int bb_sessions_result(struct bb_sessions *s, struct bb_session_slot *slot, uint32_t n)
{
	if (s->results + n > BB_RESULTS_MAX)
		return -ENOMEM;
	slot->result = calloc(1, sizeof(*slot->result) + n * sizeof(slot->result->ptrs[0]));
	if (!slot->result)
		return -ENOMEM;
	slot->result->n = n;
	s->results += n;
	return 0;
}

void bb_sessions_shrink(struct bb_sessions *s, struct bb_session_slot *slot, uint32_t n)
{
	s->results -= slot->result->n - n;
	slot->result->n = n;
}

void bb_sessions_undo(struct bb_sessions *s, struct bb_session_slot *slot)
{
	slot_clear(s, slot);
}
