/* SPDX-License-Identifier: MIT */
/*
 * Replacement policies, replayed over a trace.
 *
 * All of them live in one machine: cap pages of local memory, and a low mark. As in
 * libbb.so, pages are taken out ahead: where fewer than low are free, until twice as
 * many are (with low 0: when there is no room, one).
 *
 * What a policy knows: a blind one, as ours, is told of faults only, since userfaultfd
 * says nothing of pages that are here. Those that see are told of every touch.
 */
#ifndef POL_SIM_H
#define POL_SIM_H

#include <stdbool.h>

#include "trace.h"

struct pol_machine {
	uint32_t cap, low;
};

struct pol_result {
	uint64_t faults;
	uint64_t again; /* of them, those of pages that had been here before: these cost a page's way */
};

struct pol_policy {
	const char *name;
	bool sees;
	/* Return: 0 or -ENOMEM, -ENOSPC (it found nothing to take out). */
	int (*run)(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
	const char *what;
};

extern const struct pol_policy pol_policies[];
extern const unsigned int pol_npolicies;

/* How many must go before a page may come. */
static inline uint32_t pol_excess(const struct pol_machine *m, uint32_t here)
{
	const uint32_t room = m->cap - here;

	return room > m->low ? 0 : 2 * m->low + 1 - room;
}

int pol_run_random(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_fifo(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_second(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_s3fifo(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_2q(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_ours(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_clock(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_s3fifo_sees(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_2q_sees(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_lru(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);
int pol_run_opt(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);

#endif
