/* SPDX-License-Identifier: MIT */
/*
 * Policies made of queues: FIFO, FIFO with second chance, S3-FIFO, 2Q, LRU; and
 * random, which asks nothing.
 *
 * The blind ones have their sign of use from pages that come back: a queue of those
 * that were taken out (ghosts, no content) says which. What such a policy does at a
 * touch of a page that is here, it cannot do. S3-FIFO and 2Q forget what they take
 * out of their main queue; the blind ones keep it as a ghost too, or they would know
 * nothing of a page's second coming.
 *
 *	S3-FIFO	Yang et al., SOSP 2023, algorithm 1: a tenth for the small queue
 *	2Q	Johnson and Shasha, VLDB 1994, "full version": Kin 25 %, Kout 50 %
 */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>

#define NIL UINT32_MAX
#define FREQ_MAX 3

enum { NOWHERE, SMALL, MAIN, GHOST, QUEUES };

/* Every page is in one queue at most. */
struct world {
	const struct pol_trace *t;
	const struct pol_machine *m;
	struct pol_result *r;
	struct {
		uint32_t head, tail, n;
	} q[QUEUES];
	uint32_t *next, *prev;
	uint8_t *in, *freq, *seen;
};

static int world_init(struct world *w, const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	*w = (struct world){ .t = t, .m = m, .r = r };
	for (int i = 0; i < QUEUES; i++)
		w->q[i].head = w->q[i].tail = NIL;
	w->next = calloc(t->npages + 1, sizeof(*w->next));
	w->prev = calloc(t->npages + 1, sizeof(*w->prev));
	w->in = calloc(t->npages + 1, 1);
	w->freq = calloc(t->npages + 1, 1);
	w->seen = calloc(t->npages + 1, 1);
	*r = (struct pol_result){ 0 };
	return w->next && w->prev && w->in && w->freq && w->seen ? 0 : -ENOMEM;
}

static void world_fini(struct world *w)
{
	free(w->next);
	free(w->prev);
	free(w->in);
	free(w->freq);
	free(w->seen);
}

static void put(struct world *w, int q, uint32_t p)
{
	w->in[p] = (uint8_t)q;
	w->next[p] = NIL;
	w->prev[p] = w->q[q].tail;
	if (w->q[q].tail != NIL)
		w->next[w->q[q].tail] = p;
	else
		w->q[q].head = p;
	w->q[q].tail = p;
	w->q[q].n++;
}

static void leave(struct world *w, uint32_t p)
{
	const int q = w->in[p];

	if (w->prev[p] != NIL)
		w->next[w->prev[p]] = w->next[p];
	else
		w->q[q].head = w->next[p];
	if (w->next[p] != NIL)
		w->prev[w->next[p]] = w->prev[p];
	else
		w->q[q].tail = w->prev[p];
	w->q[q].n--;
	w->in[p] = NOWHERE;
}

/* The oldest of a queue that is not empty. */
static uint32_t take(struct world *w, int q)
{
	const uint32_t p = w->q[q].head;

	leave(w, p);
	return p;
}

static void ghost(struct world *w, uint32_t p, uint32_t most)
{
	put(w, GHOST, p);
	while (w->q[GHOST].n > most)
		w->freq[take(w, GHOST)] = 0;
}

static bool here(const struct world *w, uint32_t p)
{
	return w->in[p] == SMALL || w->in[p] == MAIN;
}

static void fault(struct world *w, uint32_t p)
{
	w->r->faults++;
	w->r->again += w->seen[p];
	w->seen[p] = 1;
}

typedef void evict_fn(struct world *w);

static void make_room(struct world *w, evict_fn *evict)
{
	for (uint32_t n = pol_excess(w->m, w->q[SMALL].n + w->q[MAIN].n); n && w->q[SMALL].n + w->q[MAIN].n; n--)
		evict(w);
}

/* --- FIFO, with and without a second chance ----------------------------------- */

static void fifo_evict(struct world *w)
{
	take(w, MAIN);
}

/* freq: it came back while it was a ghost, or (clock) was touched here. */
static void second_evict(struct world *w)
{
	uint32_t p;

	while (w->freq[p = take(w, MAIN)]) {
		w->freq[p] = 0;
		put(w, MAIN, p);
	}
	ghost(w, p, w->m->cap);
}

static void clock_evict(struct world *w)
{
	uint32_t p;

	while (w->freq[p = take(w, MAIN)]) {
		w->freq[p] = 0;
		put(w, MAIN, p);
	}
}

/* One queue; sees: a touch of a page that is here counts. moves: it makes the page the youngest. */
static int one_queue(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r, evict_fn *evict, bool sees,
		     bool moves)
{
	struct world w;
	int e = world_init(&w, t, m, r);

	for (size_t i = 0; !e && i < t->n; i++) {
		const uint32_t p = t->page[i];
		const bool back = w.in[p] == GHOST;

		if (here(&w, p)) {
			w.freq[p] |= sees;
			if (moves) {
				leave(&w, p);
				put(&w, MAIN, p);
			}
			continue;
		}
		fault(&w, p);
		if (back)
			leave(&w, p);
		make_room(&w, evict);
		w.freq[p] = back;
		put(&w, MAIN, p);
	}
	world_fini(&w);
	return e;
}

int pol_run_fifo(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return one_queue(t, m, r, fifo_evict, false, false);
}

int pol_run_second(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return one_queue(t, m, r, second_evict, false, false);
}

int pol_run_clock(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return one_queue(t, m, r, clock_evict, true, false);
}

int pol_run_lru(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return one_queue(t, m, r, fifo_evict, false, true);
}

/* --- S3-FIFO -------------------------------------------------------------------- */

static void s3_main(struct world *w, bool blind)
{
	uint32_t p;

	while (w->freq[p = take(w, MAIN)]) {
		w->freq[p]--;
		put(w, MAIN, p);
	}
	if (blind)
		ghost(w, p, w->m->cap - w->m->cap / 10);
}

static void s3_evict(struct world *w, bool blind)
{
	while (w->q[SMALL].n && (w->q[SMALL].n > w->m->cap / 10 || !w->q[MAIN].n)) {
		const uint32_t p = take(w, SMALL);

		if (w->freq[p] < 2) {
			ghost(w, p, w->m->cap - w->m->cap / 10);
			return;
		}
		w->freq[p] = 0;
		put(w, MAIN, p);
	}
	s3_main(w, blind);
}

static void s3_evict_blind(struct world *w)
{
	s3_evict(w, true);
}

static void s3_evict_sees(struct world *w)
{
	s3_evict(w, false);
}

/* Blind, freq of a ghost that comes back says how often it has. */
static int s3fifo(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r, bool sees)
{
	uint8_t *came = calloc(t->npages + 1, 1);
	struct world w;
	int e = world_init(&w, t, m, r);

	if (!came)
		e = -ENOMEM;
	for (size_t i = 0; !e && i < t->n; i++) {
		const uint32_t p = t->page[i];
		const bool back = w.in[p] == GHOST;

		if (here(&w, p)) {
			if (sees && w.freq[p] < FREQ_MAX)
				w.freq[p]++;
			continue;
		}
		fault(&w, p);
		if (back)
			leave(&w, p);
		make_room(&w, sees ? s3_evict_sees : s3_evict_blind);
		came[p] = !back ? 0 : came[p] < FREQ_MAX ? came[p] + 1 : FREQ_MAX;
		w.freq[p] = sees ? 0 : came[p];
		put(&w, back ? MAIN : SMALL, p);
	}
	free(came);
	world_fini(&w);
	return e;
}

int pol_run_s3fifo(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return s3fifo(t, m, r, false);
}

int pol_run_s3fifo_sees(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return s3fifo(t, m, r, true);
}

/* --- 2Q ------------------------------------------------------------------------- */

static void q2_evict(struct world *w, bool blind)
{
	if (w->q[SMALL].n > w->m->cap / 4 || !w->q[MAIN].n) {
		ghost(w, take(w, SMALL), w->m->cap / 2);
		return;
	}
	const uint32_t p = take(w, MAIN);

	if (blind)
		ghost(w, p, w->m->cap / 2);
}

static void q2_evict_blind(struct world *w)
{
	q2_evict(w, true);
}

static void q2_evict_sees(struct world *w)
{
	q2_evict(w, false);
}

static int q2(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r, bool sees)
{
	struct world w;
	int e = world_init(&w, t, m, r);

	for (size_t i = 0; !e && i < t->n; i++) {
		const uint32_t p = t->page[i];
		const bool back = w.in[p] == GHOST;

		if (here(&w, p)) {
			if (sees && w.in[p] == MAIN) {
				leave(&w, p);
				put(&w, MAIN, p);
			}
			continue;
		}
		fault(&w, p);
		if (back)
			leave(&w, p);
		make_room(&w, sees ? q2_evict_sees : q2_evict_blind);
		put(&w, back ? MAIN : SMALL, p);
	}
	world_fini(&w);
	return e;
}

int pol_run_2q(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return q2(t, m, r, false);
}

int pol_run_2q_sees(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	return q2(t, m, r, true);
}
