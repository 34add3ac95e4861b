/* SPDX-License-Identifier: MIT */
/*
 * policy: replays recorded traces (tracer.c) under replacement policies.
 *
 *	policy [-j] TRACE...
 *
 * For local memory of 50 %, 25 % and 12.5 % of the pages that a trace touches it
 * prints how many faults of pages that had been here before each policy has, over
 * OPT's. First touches are the same for all, and cost no page's way.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bluebridge/region.h>

#include "policy/sim.h"

static const unsigned int shares[] = { 500, 250, 125 }; /* thousandths of the footprint */
#define NSHARES (sizeof(shares) / sizeof(shares[0]))

static int run_all(const struct pol_trace *t, struct pol_result (*got)[NSHARES])
{
	for (unsigned int p = 0; p < pol_npolicies; p++)
		for (unsigned int s = 0; s < NSHARES; s++) {
			const uint32_t cap = (uint32_t)((uint64_t)t->footprint * shares[s] / 1000);
			const struct pol_machine m = { cap, (uint32_t)bb_low_mark(cap) };
			int r = pol_policies[p].run(t, &m, &got[p][s]);

			if (r)
				return r;
		}
	return 0;
}

static double over_opt(struct pol_result (*got)[NSHARES], unsigned int p, unsigned int s)
{
	const uint64_t opt = got[pol_npolicies - 1][s].again;

	return opt ? (double)got[p][s].again / (double)opt : 0;
}

static void print_text(const char *name, const struct pol_trace *t, struct pol_result (*got)[NSHARES])
{
	printf("%s: %zu touches of %u pages, %.1f s\n%-14s", name, t->n, t->footprint, (double)t->us / 1e6, "");
	for (unsigned int s = 0; s < NSHARES; s++)
		printf(" %9.1f %%", shares[s] / 10.0);
	printf("   again/OPT\n");
	for (unsigned int p = 0; p < pol_npolicies; p++) {
		printf("%-14s", pol_policies[p].name);
		for (unsigned int s = 0; s < NSHARES; s++)
			printf(" %11.3f", over_opt(got, p, s));
		printf("   %s%s\n", pol_policies[p].what, pol_policies[p].sees ? "" : " (blind)");
	}
}

static void print_json(const char *name, const struct pol_trace *t, struct pol_result (*got)[NSHARES])
{
	printf("{\"trace\": \"%s\", \"touches\": %zu, \"pages\": %u, \"us\": %lu, \"policies\": {", name, t->n, t->footprint, t->us);
	for (unsigned int p = 0; p < pol_npolicies; p++) {
		printf("%s\"%s\": {\"sees\": %s, \"at\": [", p ? ", " : "", pol_policies[p].name,
		       pol_policies[p].sees ? "true" : "false");
		for (unsigned int s = 0; s < NSHARES; s++)
			printf("%s{\"local\": %.3f, \"faults\": %lu, \"again\": %lu}", s ? ", " : "", shares[s] / 1000.0,
			       got[p][s].faults, got[p][s].again);
		printf("]}");
	}
	printf("}}\n");
}

int main(int argc, char **argv)
{
	const bool json = argc > 1 && !strcmp(argv[1], "-j");
	struct pol_result (*got)[NSHARES] = calloc(pol_npolicies, sizeof(*got));
	int rc = 0;

	if (argc < 2 + json || argv[1 + json][0] == '-' || !got) {
		fprintf(stderr, "usage: policy [-j] TRACE...\n");
		free(got);
		return 2;
	}
	for (int i = 1 + json; i < argc; i++) {
		struct pol_trace t;
		int r = pol_trace_load(&t, argv[i]);

		if (!r && t.footprint < 512) {
			pol_trace_free(&t);
			r = -ENODATA;
		}
		if (!r) {
			r = run_all(&t, got);
			if (!r)
				(json ? print_json : print_text)(argv[i], &t, got);
			pol_trace_free(&t);
		}
		if (r) {
			fprintf(stderr, "policy: %s: %s\n", argv[i],
				r == -EOVERFLOW ? "the trace was longer than its file: record it with a longer one" :
				r == -ENODATA	? "it touches fewer than 512 pages: nothing to choose among" :
				r == -EINVAL	? "not a trace" :
						  strerror(-r));
			rc = 1;
		}
	}
	free(got);
	return rc;
}
