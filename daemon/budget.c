/* SPDX-License-Identifier: MIT */
/* The host's local memory, shared among its programs: see budget.h. */
#include <errno.h>
#include <string.h>

#include "budget.h"

void bb_budget_init(struct bb_budget *b, uint64_t total)
{
	memset(b, 0, sizeof(*b));
	b->total = total;
}

static uint64_t share(uint64_t total, uint64_t named, unsigned int unnamed)
{
	uint64_t left = total > named ? total - named : 0;
	uint64_t s = unnamed ? left / unnamed : left;

	return s < BB_BUDGET_MIN ? BB_BUDGET_MIN : s & ~4095ULL;
}

static uint64_t at_least(uint64_t wanted)
{
	return wanted < BB_BUDGET_MIN ? BB_BUDGET_MIN : wanted;
}

static void divide(struct bb_budget *b)
{
	uint64_t named = 0;
	unsigned int unnamed = 0, i;

	for (i = 0; i < b->n; i++) {
		if (b->program[i].wanted)
			named += at_least(b->program[i].wanted);
		else
			unnamed++;
	}
	for (i = 0; i < b->n; i++)
		b->program[i].granted = b->program[i].wanted ? at_least(b->program[i].wanted) :
							       share(b->total, named, unnamed);
}

uint64_t bb_budget_quote(const struct bb_budget *b, uint64_t wanted)
{
	uint64_t named = 0;
	unsigned int unnamed = 1;

	if (wanted)
		return at_least(wanted);
	for (unsigned int i = 0; i < b->n; i++) {
		if (b->program[i].wanted)
			named += at_least(b->program[i].wanted);
		else
			unnamed++;
	}
	return share(b->total, named, unnamed);
}

int bb_budget_add(struct bb_budget *b, uint32_t region, uint64_t wanted)
{
	if (b->n == BB_BUDGET_PROGRAMS)
		return -ENOSPC;
	b->program[b->n].region = region;
	b->program[b->n++].wanted = wanted;
	divide(b);
	return 0;
}

void bb_budget_remove(struct bb_budget *b, uint32_t region)
{
	for (unsigned int i = 0; i < b->n; i++)
		if (b->program[i].region == region) {
			b->program[i] = b->program[--b->n];
			divide(b);
			return;
		}
}

int bb_budget_set(struct bb_budget *b, uint32_t region, uint64_t wanted)
{
	for (unsigned int i = 0; i < b->n; i++)
		if (b->program[i].region == region) {
			b->program[i].wanted = wanted;
			divide(b);
			return 0;
		}
	return -ENOENT;
}
