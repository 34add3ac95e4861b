/* SPDX-License-Identifier: MIT */
/*
 * The table of a program's home extents, and who else reads them: parents and
 * children after a fork.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

int bb_rx_init(struct bb_program *p)
{
	p->nrx = p->rx_free = 1; /* 0 is "none" */
	p->rx_cap = 2 * p->nextents + 4 * BB_SPARE_MAX;
	p->rx = calloc(p->rx_cap, sizeof(*p->rx)); /* sparse: most is never touched */
	p->use = calloc(p->rx_cap, sizeof(*p->use));
	return p->rx && p->use ? 0 : -ENOMEM;
}

void bb_rx_fini(struct bb_program *p)
{
	free(p->rx);
	free(p->use);
}

/* The state comes last: without it the next bbd sees a free entry. */
static void set(struct bb_program *p, uint32_t rx, const struct bb_rx *what)
{
	struct bb_rx x = *what;

	x.state = BB_RX_FREE;
	p->rx[rx] = x;
	__atomic_store_n(&p->rx[rx].state, what->state, __ATOMIC_RELEASE);
}

/* The table never moves: others look at it while we work. */
uint32_t bb_rx_new(struct bb_program *p, const struct bb_rx *what)
{
	uint32_t i;

	for (i = p->rx_free; i < p->nrx; i++)
		if (p->rx[i].state == BB_RX_FREE)
			goto found;
	if (p->nrx == p->rx_cap)
		return 0;
	i = p->nrx++;
found:
	p->rx_free = i + 1;
	set(p, i, what);
	return i;
}

void bb_rx_put(struct bb_program *p, uint32_t rx)
{
	p->rx[rx].state = BB_RX_FREE;
	p->use[rx].share = NULL;
	if (rx < p->rx_free)
		p->rx_free = rx;
}

bool bb_rx_check(const struct bb_program *p, uint32_t rx, uint32_t page)
{
	return rx && rx < p->nrx && p->rx[rx].state == BB_RX_READY && p->rx[rx].extent == page / BB_EXTENT_PAGES;
}

/* --- sharing --------------------------------------------------------------- */

bool bb_rx_ours(const struct bb_program *p, uint32_t rx)
{
	return !p->use[rx].share || p->use[rx].share->refs == 1;
}

bool bb_rx_unshare(struct bb_program *p, uint32_t rx)
{
	struct bb_rx_share *share = p->use[rx].share;

	p->use[rx].share = NULL;
	if (share && --share->refs)
		return false;
	free(share);
	return true;
}

int bb_rx_share(struct bb_program *p, struct bb_program *q)
{
	if (p->rx_cap < q->nrx || p->nextents != q->nextents)
		return -EINVAL;
	for (uint32_t r = 1; r < q->nrx; r++) {
		struct bb_rx *x = &q->rx[r];
		struct bb_rx_use *u = &q->use[r];

		if (x->extent == BB_NO_EXTENT || (x->state != BB_RX_READY && x->state != BB_RX_BAD))
			continue;
		if (!u->share) {
			u->share = malloc(sizeof(*u->share));
			if (!u->share)
				return -ENOMEM;
			u->share->refs = 1;
		}
		u->share->refs++;
		set(p, r, x);
		p->use[r].share = u->share;
	}
	p->nrx = q->nrx;
	p->xtop = q->xtop;
	memcpy(p->xrx, q->xrx, q->xtop * sizeof(*p->xrx));
	p->forked = q->forked = true;
	return 0;
}
