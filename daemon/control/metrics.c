/* SPDX-License-Identifier: MIT */
/* bbd's numbers in Prometheus' text format. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "control/control.h"
#include "net/net.h"

static void family(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP bluebridge_%s %s\n# TYPE bluebridge_%s %s\n", name, help, name, type);
}

static void programs(struct bb_control *c, FILE *f, const char *name, const char *type, const char *help,
		     size_t offset)
{
	family(f, name, type, help);
	for (unsigned int k = 0; k < c->npagers; k++) {
		int n = bb_pager_programs(c->pagers[k], c->info, BB_PROGRAMS_MAX);

		for (int i = 0; i < n; i++) {
			const uint64_t *v = (const uint64_t *)((const char *)&c->info[i] + offset);

			fprintf(f, "bluebridge_%s{region=\"%u\",pid=\"%u\"} %llu\n", name, c->info[i].region,
				c->info[i].pid, (unsigned long long)*v);
		}
	}
}

static void faults(struct bb_control *c, FILE *f)
{
	static const unsigned int permille[] = { 500, 900, 990, 999 };

	family(f, "remote_fault_seconds", "summary", "remote page faults, by part");
	for (unsigned int k = 0; k < c->npagers; k++)
		for (int p = 0; p < BB_PART_MAX; p++) {
			const struct bb_hist *h = bb_pager_hist(c->pagers[k], (enum bb_part)p);

			for (size_t q = 0; q < sizeof(permille) / sizeof(permille[0]); q++)
				fprintf(f, "bluebridge_remote_fault_seconds{pager=\"%u\",part=\"%s\",quantile=\"%g\"} %.9f\n",
					k, bb_part_name[p], permille[q] / 1000.0,
					(double)bb_hist_quantile(h, permille[q]) / 1e9);
			fprintf(f, "bluebridge_remote_fault_seconds_sum{pager=\"%u\",part=\"%s\"} %.9f\n", k,
				bb_part_name[p], (double)atomic_load(&h->sum) / 1e9);
			fprintf(f, "bluebridge_remote_fault_seconds_count{pager=\"%u\",part=\"%s\"} %llu\n", k,
				bb_part_name[p], (unsigned long long)atomic_load(&h->count));
		}
}

json_t *bb_control_metrics(struct bb_control *c)
{
	struct bb_home_stats h = { 0 };
	char *text = NULL;
	size_t len = 0;
	json_t *r;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	if (c->home)
		bb_home_stats(c->home, &h);
	family(f, "home_lent_bytes", "gauge", "memory lent at most");
	fprintf(f, "bluebridge_home_lent_bytes %llu\n", (unsigned long long)h.lent);
	family(f, "home_used_bytes", "gauge", "memory that others hold");
	fprintf(f, "bluebridge_home_used_bytes %llu\n", (unsigned long long)h.used);
#define PROGRAM(field, type, help) \
	programs(c, f, "program_" #field, type, help, offsetof(struct bb_program_info, field))
	PROGRAM(budget, "gauge", "local memory granted, bytes");
	PROGRAM(charged, "gauge", "local memory charged, bytes");
	PROGRAM(allocated, "gauge", "live allocations, bytes");
	PROGRAM(faults, "counter", "faults");
	PROGRAM(fill_remote, "counter", "faults that went to a home");
	PROGRAM(fill_staged, "counter", "faults served from the staging ring");
	PROGRAM(prefetched, "counter", "pages fetched ahead");
	PROGRAM(evicted, "counter", "pages taken out");
	PROGRAM(written_back, "counter", "pages written to homes");
	PROGRAM(lost, "counter", "pages whose only copy is gone");
#undef PROGRAM
	faults(c, f);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	r = json_pack("{s:s}", "text", text);
	free(text);
	return r;
}
