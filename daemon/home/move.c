/* SPDX-License-Identifier: MIT */
/*
 * Extents that move to another home.
 *
 * Theory of operation
 * -------------------
 * begin swaps LIVE for MOVING: the owner's WRITEs find that and are BUSY, so
 * what the mover reads from then on is what it will own. A lease bounds that:
 * a WRITE or DELETE that finds it at its end swaps MOVING back for LIVE, and then
 * commit, which wants MOVING with its own token, is refused. So either the mover
 * has every byte that was written here, or it does not get the extent.
 *
 * commit swaps MOVING for MOVED, in kept memory: from then on nobody here reads or
 * writes the extent, whose place and generation stay taken until the mover has
 * freed its copy (release), or its owner has ended (reclaim).
 *
 * A restart makes MOVING LIVE again, as if the lease had ended. Leases are not
 * kept: nothing depends on them but how long a WRITE waits.
 */
#include "home_impl.h"

#include <string.h>

#include "clock.h"

#define SPIN_ROUNDS 2000

/* Swaps the state, whatever the readers do. Return: false where it was another. */
static bool swap_state(struct extent *x, uint16_t gen, unsigned int from, unsigned int to)
{
	uint64_t w = atomic_load_explicit(&x->word, memory_order_acquire);

	do {
		if (word_state(w) != from || word_gen(w) != gen)
			return false;
	} while (!atomic_compare_exchange_weak(&x->word, &w, word_make(gen, to, word_readers(w))));
	return true;
}

static struct lease *lease_of(struct bb_home *h, uint32_t i)
{
	for (int k = 0; k < BB_HOME_MOVES; k++)
		if (h->lease[k].until && h->lease[k].i == i)
			return &h->lease[k];
	return NULL;
}

static struct lease *lease_free(struct bb_home *h)
{
	const uint64_t now = bb_now_ns();

	for (int k = 0; k < BB_HOME_MOVES; k++) {
		struct lease *l = &h->lease[k];
		uint64_t w;

		if (!l->until)
			return l;
		w = atomic_load(&h->extents[l->i].word);
		if (now < l->until && word_state(w) == X_MOVING)
			continue;
		swap_state(&h->extents[l->i], word_gen(w), X_MOVING, X_LIVE);
		l->until = 0;
		return l;
	}
	return NULL;
}

bool bb_home_move_over(struct bb_home *h, uint32_t i)
{
	struct extent *x = &h->extents[i];
	uint64_t w = atomic_load_explicit(&x->word, memory_order_acquire);
	struct lease *l;
	bool over;

	if (word_state(w) != X_MOVING)
		return true;
	pthread_mutex_lock(&h->lock);
	l = lease_of(h, i);
	over = !l || bb_now_ns() >= l->until;
	if (over) {
		swap_state(x, word_gen(w), X_MOVING, X_LIVE);
		if (l)
			l->until = 0;
	}
	pthread_mutex_unlock(&h->lock);
	return over;
}

/* Return: OK and *x, with the lock held; else a refusal. */
static uint8_t find(struct bb_home *h, struct bb_home_who mover, uint64_t ptr, struct extent **x, uint64_t *w)
{
	const uint64_t offset = bb_ptr_offset(ptr);

	if (!bb_home_exists(h, offset))
		return bb_home_refuse(h, BB_ST_BOUNDS);
	if (offset & (BB_EXTENT_SIZE - 1))
		return bb_home_refuse(h, BB_ST_MALFORMED);
	*x = &h->extents[offset >> BB_EXTENT_SHIFT];
	pthread_mutex_lock(&h->lock);
	*w = atomic_load_explicit(&(*x)->word, memory_order_acquire);
	if (word_gen(*w) == bb_ptr_gen(ptr) && (*x)->tenant == mover.tenant)
		return BB_ST_OK;
	pthread_mutex_unlock(&h->lock);
	return bb_home_refuse(h, word_gen(*w) == bb_ptr_gen(ptr) ? BB_ST_TENANT : BB_ST_GENERATION);
}

static struct bb_home_who owner_of(const struct extent *x)
{
	return (struct bb_home_who){ .tenant = x->tenant, .node = x->node, .boot = x->boot };
}

uint8_t bb_home_move_begin(struct bb_home *h, struct bb_home_who mover, uint16_t own, uint64_t ptr, uint32_t token,
			   uint64_t now, struct bb_home_who *owner)
{
	uint8_t st = BB_ST_OK;
	struct lease *l;
	struct extent *x;
	uint64_t w;

	if (bb_home_exists(h, bb_ptr_offset(ptr)))
		bb_home_move_over(h, (uint32_t)(bb_ptr_offset(ptr) >> BB_EXTENT_SHIFT));
	st = find(h, mover, ptr, &x, &w);
	if (st != BB_ST_OK)
		return st;
	if (word_state(w) == X_MOVING)
		st = BB_ST_BUSY;
	else if (word_state(w) == X_MOVED || x->flags || x->node == mover.node || x->node == own || mover.node == own)
		st = BB_ST_RIGHTS;
	else if (word_state(w) != X_LIVE)
		st = BB_ST_GENERATION;
	l = st == BB_ST_OK ? lease_free(h) : NULL;
	if (!l)
		goto out;
	x->to = mover.node;
	x->next = token;
	if (!swap_state(x, bb_ptr_gen(ptr), X_LIVE, X_MOVING)) {
		st = BB_ST_GENERATION;
		goto out;
	}
	*l = (struct lease){ .i = (uint32_t)(x - h->extents), .until = now + BB_HOME_LEASE_NS };
	if (!bb_home_shut(h, (uint32_t)(x - h->extents))) {
		swap_state(x, bb_ptr_gen(ptr), X_MOVING, X_LIVE);
		l->until = 0;
		l = NULL;
		goto out;
	}
	/* A writer that came before may still be at it. */
	for (int n = 0; n < SPIN_ROUNDS && word_readers(atomic_load(&x->word)); n++)
		bb_cpu_relax();
	if (word_readers(atomic_load(&x->word))) {
		swap_state(x, bb_ptr_gen(ptr), X_MOVING, X_LIVE);
		l->until = 0;
		l = NULL;
	}
	*owner = owner_of(x);
out:
	pthread_mutex_unlock(&h->lock);
	if (st == BB_ST_OK && !l)
		st = BB_ST_BUSY;
	return st == BB_ST_OK ? st : bb_home_refuse(h, st);
}

uint8_t bb_home_move_commit(struct bb_home *h, struct bb_home_who mover, uint64_t ptr, uint32_t token,
			    struct bb_home_who *owner)
{
	struct extent *x;
	struct lease *l;
	uint64_t w;
	uint8_t st = find(h, mover, ptr, &x, &w);
	bool fresh = false;

	if (st != BB_ST_OK)
		return st;
	if (x->to != mover.node)
		st = BB_ST_GENERATION;
	else if (word_state(w) == X_MOVING && x->next == token)
		fresh = true;
	else if (word_state(w) != X_MOVED)
		st = BB_ST_GENERATION;
	if (fresh) {
		bb_home_unpublish(h, (uint32_t)(x - h->extents));
		x->next = mover.boot; /* first: a kill in between makes it LIVE again, which needs no token */
		swap_state(x, bb_ptr_gen(ptr), X_MOVING, X_MOVED);
		l = lease_of(h, (uint32_t)(x - h->extents));
		if (l)
			l->until = 0;
		/* Nobody comes to read any more. Who is there may go on: then the bytes stay until release. */
		if (!word_readers(atomic_load(&x->word)))
			bb_slabs_discard(&h->slabs, bb_ptr_offset(ptr), BB_EXTENT_SIZE);
	}
	*owner = owner_of(x);
	pthread_mutex_unlock(&h->lock);
	return st == BB_ST_OK ? st : bb_home_refuse(h, st);
}

uint8_t bb_home_move_abort(struct bb_home *h, struct bb_home_who mover, uint64_t ptr, uint32_t token)
{
	struct extent *x;
	struct lease *l;
	uint64_t w;
	uint8_t st = find(h, mover, ptr, &x, &w);

	if (st != BB_ST_OK)
		return st;
	if (word_state(w) == X_MOVING && x->to == mover.node && x->next == token) {
		swap_state(x, bb_ptr_gen(ptr), X_MOVING, X_LIVE);
		l = lease_of(h, (uint32_t)(x - h->extents));
		if (l)
			l->until = 0;
	}
	pthread_mutex_unlock(&h->lock);
	return BB_ST_OK;
}

uint8_t bb_home_move_release(struct bb_home *h, struct bb_home_who mover, uint64_t ptr)
{
	struct extent *x;
	uint64_t w;
	uint8_t st = find(h, mover, ptr, &x, &w);

	if (st != BB_ST_OK)
		return st;
	if (x->to != mover.node || !bb_home_kill(h, x, bb_ptr_gen(ptr), 1u << X_MOVED))
		st = BB_ST_GENERATION;
	pthread_mutex_unlock(&h->lock);
	if (st != BB_ST_OK)
		return bb_home_refuse(h, st);
	bb_home_release(h, (uint32_t)(x - h->extents));
	return BB_ST_OK;
}

void bb_home_drop(struct bb_home *h, uint64_t ptr)
{
	const uint64_t offset = bb_ptr_offset(ptr);
	bool dead;

	if (!bb_home_exists(h, offset))
		return;
	pthread_mutex_lock(&h->lock);
	dead = bb_home_kill(h, &h->extents[offset >> BB_EXTENT_SHIFT], bb_ptr_gen(ptr), 1u << X_LIVE);
	pthread_mutex_unlock(&h->lock);
	if (dead)
		bb_home_release(h, (uint32_t)(offset >> BB_EXTENT_SHIFT));
}

unsigned int bb_home_moved_lost(struct bb_home *h, uint16_t node, uint32_t boot)
{
	unsigned int n = 0;
	bool dead;

	for (uint32_t i = 0;; i++) {
		struct extent *x = &h->extents[i];
		uint64_t w;

		pthread_mutex_lock(&h->lock);
		if (i >= h->next_new) {
			pthread_mutex_unlock(&h->lock);
			return n;
		}
		w = atomic_load(&x->word);
		dead = word_state(w) == X_MOVED && x->to == node && x->next && x->next != boot &&
		       bb_home_kill(h, x, word_gen(w), 1u << X_MOVED);
		pthread_mutex_unlock(&h->lock);
		if (dead) {
			n++;
			bb_home_release(h, i);
		}
	}
}

/* --- what is where ----------------------------------------------------------- */

bool bb_home_next(struct bb_home *h, uint32_t *i, struct bb_home_extent *out)
{
	bool found = false;

	pthread_mutex_lock(&h->lock);
	for (; !found && *i < h->next_new; ++*i) {
		const struct extent *x = &h->extents[*i];
		const uint64_t w = atomic_load(&x->word);
		const unsigned int state = word_state(w);

		if (state != X_LIVE && state != X_MOVING && state != X_MOVED)
			continue;
		*out = (struct bb_home_extent){
			.ptr = bb_ptr(word_gen(w), (uint64_t)*i << BB_EXTENT_SHIFT),
			.owner = owner_of(x),
			.shared = x->flags & BB_X_SHARED,
			.adopted = x->flags & BB_X_ADOPTED,
			.moving = state == X_MOVING,
			.moved = state == X_MOVED,
			.to = state == X_LIVE ? 0 : x->to,
		};
		found = true;
	}
	pthread_mutex_unlock(&h->lock);
	return found;
}

bool bb_home_alive(struct bb_home *h, uint64_t ptr)
{
	const uint64_t offset = bb_ptr_offset(ptr);
	uint64_t w;

	if (!bb_home_exists(h, offset))
		return false;
	w = atomic_load(&h->extents[offset >> BB_EXTENT_SHIFT].word);
	return word_gen(w) == bb_ptr_gen(ptr) && word_state(w) == X_LIVE;
}
