/* SPDX-License-Identifier: MIT */
/*
 * Ours: the hand of preload/evict.c over the words of region.h. What is decided is
 * the very code (preload/age.h, bb_heat_back); what is written again here is the
 * walk, one extent after another, in batches, and who counts the epochs (arrived() in
 * daemon/pager/fill.c). Not here: write-back and staging, which choose nothing, and
 * time: the helper of a program has always done its work before the next fault.
 */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>

#include "../../../preload/age.h"

#define BATCH 64
#define PIECE 32

struct ours {
	const struct pol_machine *m;
	bb_pw *pw;
	uint32_t hand, top, here; /* top: pages below it are allocated */
	unsigned int gen, fills, taken;
	int age;
};

static void take_out(struct ours *o, uint32_t p)
{
	o->pw[p] = bb_age_out(o->pw[p], BB_P_REMOTE, o->gen);
	o->here--;
	o->taken++;
}

/* Return: false where it found none: a program would go over its budget then. */
static bool make_room(struct ours *o)
{
	const uint32_t low = o->m->low, target = low ? 2 * low : 1;
	unsigned int fruitless = 0;

	if (o->m->cap - o->here > low)
		return true;
	while (o->m->cap - o->here < target && fruitless < 2) {
		unsigned int max = o->m->cap - o->here > low / 2 ? PIECE : BATCH, n = 0;

		if (!low)
			max = 1;
		if (o->hand >= o->top) {
			o->hand = 0;
			if (!bb_age_round(&o->age, o->taken, target))
				fruitless++;
			o->taken = 0;
		}
		for (; o->hand < o->top && n < max; o->hand++) {
			const bb_pw w = o->pw[o->hand];

			if (bb_pw_state(w) == BB_P_RESIDENT && bb_age_enough(w, o->gen, o->age)) {
				take_out(o, o->hand);
				n++;
			} else if (bb_age_cools(w, o->gen)) {
				o->pw[o->hand] = bb_pw_with_heat(w, 0);
			}
		}
	}
	return o->here < o->m->cap;
}

int pol_run_ours(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	struct ours o = { .m = m, .age = BB_AGE_OLD };
	int e = 0;

	*r = (struct pol_result){ 0 };
	o.pw = calloc(t->npages + 1, sizeof(*o.pw));
	if (!o.pw)
		return -ENOMEM;
	for (size_t i = 0; i < t->n; i++) {
		const uint32_t p = t->page[i];
		const bb_pw w = o.pw[p];

		if (bb_pw_state(w) == BB_P_RESIDENT)
			continue;
		r->faults++;
		r->again += bb_pw_state(w) == BB_P_REMOTE;
		if (p >= o.top)
			o.top = (p / BB_EXTENT_PAGES + 1) * BB_EXTENT_PAGES;
		if (!make_room(&o)) {
			e = -ENOSPC;
			break;
		}
		o.pw[p] = bb_pw_with_heat(bb_pw_with_gen(BB_P_RESIDENT, o.gen), bb_heat_back(w, o.gen, true));
		o.here++;
		if (++o.fills > m->cap / 4) {
			o.fills = 0;
			o.gen++;
		}
	}
	free(o.pw);
	return e;
}
