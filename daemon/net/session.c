/* SPDX-License-Identifier: MIT */
/*
 * See session.h. The floor of each session lies in kept memory as well: a bbd
 * that goes on with its predecessor's memory still refuses what was closed
 * before, however late it comes. What was open is applied once more, which
 * changes nothing: its asker has not written anything newer.
 */
#include "net/session.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define HASH_NONFATAL_OOM 1 /* else it ends the process, and says nothing */
#include <uthash.h>

#include "clock.h"
#include "keep/keep.h"

struct key {
	uint32_t session;
	uint16_t node, home;
};

/* Kept. 0: free. */
struct kept {
	uint64_t floor;
	uint32_t session;
	uint16_t node, home;
};

struct session {
	struct key key;
	struct kept *kept;
	UT_hash_handle hh;
	uint64_t last;	/* when a packet of it came */
	uint64_t top;	/* highest id seen */
	uint64_t before; /* ids that a predecessor may have seen are at most this */
	uint64_t floor; /* ids below are done with */
	struct bb_session_slot slot[BB_SESSION_WINDOW];
};

struct bb_sessions {
	pthread_mutex_t lock; /* but what lies in slots, which is the server's thread's */
	struct session *all;
	struct session *hot; /* of the last packet: most come in rows */
	uint64_t results;    /* pointers held */
	struct kept *kept;   /* BB_SESSIONS_MAX */
};

#define KEPT_BYTES (BB_SESSIONS_MAX * sizeof(struct kept))

static struct session *add(struct bb_sessions *s, const struct key *key, struct kept *kept, uint64_t now)
{
	struct session *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->key = *key;
	e->kept = kept;
	e->last = now;
	e->floor = kept->floor;
	HASH_ADD(hh, s->all, key, sizeof(e->key), e);
	if (!e->hh.tbl) {
		free(e);
		return NULL;
	}
	return e;
}

int bb_sessions_new(struct bb_sessions **out, struct bb_keep *keep)
{
	struct bb_sessions *s = calloc(1, sizeof(*s));
	bool found;
	int fd, r;

	if (!s)
		return -ENOMEM;
	fd = bb_keep_memory(keep, "net.sessions", KEPT_BYTES, &found);
	if (fd < 0) {
		free(s);
		return fd;
	}
	pthread_mutex_init(&s->lock, NULL);
	s->kept = mmap(NULL, KEPT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	r = s->kept == MAP_FAILED ? -errno : 0;
	close(fd);
	if (r < 0) {
		free(s);
		return r;
	}
	for (unsigned int i = 0; i < BB_SESSIONS_MAX; i++) {
		struct key key = { .session = s->kept[i].session, .node = s->kept[i].node, .home = s->kept[i].home };

		struct session *e;

		if (!key.node)
			continue;
		e = add(s, &key, &s->kept[i], bb_now_ns());
		if (!e) {
			bb_sessions_free(s);
			return -ENOMEM;
		}
		/* What the predecessor saw last is gone; it was less than that above its floor. */
		e->before = e->floor + BB_SESSION_OPEN_MAX;
	}
	*out = s;
	return 0;
}

static struct kept *kept_new(struct bb_sessions *s, const struct key *key)
{
	for (unsigned int i = 0; i < BB_SESSIONS_MAX; i++) {
		struct kept *k = &s->kept[i];

		if (k->node)
			continue;
		k->floor = 0;
		k->session = key->session;
		k->home = key->home;
		__atomic_store_n(&k->node, key->node, __ATOMIC_RELEASE);
		return k;
	}
	return NULL;
}

static void slot_clear(struct bb_sessions *s, struct bb_session_slot *slot)
{
	if (slot->result) {
		s->results -= slot->result->n;
		free(slot->result);
	}
	memset(slot, 0, sizeof(*slot));
}

static void drop(struct bb_sessions *s, struct session *e)
{
	for (unsigned int i = 0; i < BB_SESSION_WINDOW; i++)
		if (e->slot[i].result)
			slot_clear(s, &e->slot[i]);
	HASH_DEL(s->all, e);
	if (s->hot == e)
		s->hot = NULL;
	free(e);
}

static void forget(struct bb_sessions *s, struct session *e)
{
	__atomic_store_n(&e->kept->node, 0, __ATOMIC_RELEASE);
	drop(s, e);
}

void bb_sessions_free(struct bb_sessions *s)
{
	if (!s)
		return;
	/* The kept ones stay: whether they are needed again is for keep.h to say. */
	while (s->all)
		drop(s, s->all);
	munmap(s->kept, KEPT_BYTES);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static void sweep(struct bb_sessions *s, uint64_t now)
{
	struct session *e, *next;

	HASH_ITER(hh, s->all, e, next) {
		if (now > e->last && now - e->last > BB_SESSION_IDLE_NS)
			forget(s, e);
	}
}

void bb_sessions_sweep(struct bb_sessions *s, uint64_t now)
{
	pthread_mutex_lock(&s->lock);
	sweep(s, now);
	pthread_mutex_unlock(&s->lock);
}

unsigned int bb_sessions_count(const struct bb_sessions *s)
{
	return HASH_COUNT(s->all);
}

static struct session *find(struct bb_sessions *s, const struct key *key, uint64_t now)
{
	struct session *e = s->hot;
	struct kept *kept;

	if (e && e->key.session == key->session && e->key.node == key->node && e->key.home == key->home)
		return e;
	HASH_FIND(hh, s->all, key, sizeof(*key), e);
	if (e)
		goto out;
	if (HASH_COUNT(s->all) >= BB_SESSIONS_MAX) {
		sweep(s, now);
		if (HASH_COUNT(s->all) >= BB_SESSIONS_MAX)
			return NULL;
	}
	kept = kept_new(s, key);
	e = kept ? add(s, key, kept, now) : NULL;
	if (!e) {
		if (kept)
			kept->node = 0;
		return NULL;
	}
out:
	s->hot = e;
	return e;
}

static enum bb_status find_slot(struct bb_sessions *s, const struct key *key, uint8_t cmd, const struct bb_msg *m,
				uint64_t now, struct bb_session_slot **out)
{
	const uint64_t behind = (uint32_t)m->id - m->floor;
	struct session *e = find(s, key, now);
	struct bb_session_slot *slot;

	if (!e)
		return BB_ST_BUSY;
	e->last = now;
	if (m->id > e->top)
		e->top = m->id;
	if (behind < m->id && m->id - behind > e->floor)
		e->floor = e->kept->floor = m->id - behind;
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

enum bb_status bb_sessions_slot(struct bb_sessions *s, uint16_t node, uint16_t home, uint8_t cmd, const struct bb_msg *m,
				uint64_t now, struct bb_session_slot **out)
{
	const struct key key = { .session = m->session, .node = node, .home = home };
	enum bb_status st;

	pthread_mutex_lock(&s->lock);
	st = find_slot(s, &key, cmd, m, now, out);
	pthread_mutex_unlock(&s->lock);
	return st;
}

unsigned int bb_sessions_seen(struct bb_sessions *s, uint16_t node, struct bb_wire_seen *out, unsigned int max)
{
	struct session *e, *next;
	unsigned int n = 0;

	pthread_mutex_lock(&s->lock);
	HASH_ITER(hh, s->all, e, next) {
		if (e->key.node != node || e->key.home)
			continue;
		if (n < max)
			out[n] = (struct bb_wire_seen){ .session = e->key.session, .top = e->top > e->before ? e->top : e->before };
		n++;
	}
	pthread_mutex_unlock(&s->lock);
	return n;
}

int bb_sessions_seed(struct bb_sessions *s, uint16_t node, uint16_t home, const struct bb_wire_seen *seen, unsigned int n,
		     uint64_t now)
{
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < n; i++) {
		const struct key key = { .session = seen[i].session, .node = node, .home = home };
		struct session *e = find(s, &key, now);

		if (!e) {
			ret = -EBUSY;
			break;
		}
		e->last = now;
		if (e->floor <= seen[i].top)
			e->floor = e->kept->floor = seen[i].top + 1;
	}
	pthread_mutex_unlock(&s->lock);
	return ret;
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
