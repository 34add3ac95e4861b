/* SPDX-License-Identifier: MIT */
/*
 * How long faults take. A remote fault has five parts: entering bbd, finding
 * the home (directory: none is asked, hence next to nothing), getting the data,
 * waking the program, and the rest. The bar is a part's share of the whole.
 */
#include <stdio.h>
#include <string.h>

#include "bbctl.h"

#define BAR 20

static const char *const quantiles[] = { "mean_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns" };

static double total_of(const json_t *h)
{
	return (double)num(h, "mean_ns") * (double)num(h, "count");
}

static void row(struct table *t, const char *name, const json_t *h, double whole)
{
	double share = whole > 0 ? total_of(h) / whole : 0;
	int n;

	if (share > 1)
		share = 1;
	n = (int)(share * BAR + 0.5);
	table_cell(t, "%s", name);
	table_number(t, json_object_get(h, "count"));
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
		table_cell(t, "%.1f", (double)num(h, quantiles[i]) / 1000.0);
	if (whole > 0)
		table_cell(t, "%3.0f %% %.*s", share * 100, n, "####################");
	else
		table_cell(t, "%s", "");
}

void print_faults(const json_t *faults)
{
	const json_t *remote = json_object_get(faults, "remote"), *local = json_object_get(faults, "local");
	const json_t *total = json_object_get(remote, "total");
	const char *part;
	struct table *t;
	json_t *h;

	if (!num(total, "count") && !num(local, "count")) {
		printf("faults: none\n");
		return;
	}
	t = table_new("FAULTS, µs|>COUNT|>MEAN|>50 %|>90 %|>99 %|>99.9 %|>MAX|SHARE");
	if (num(total, "count")) {
		row(t, "remote", total, 0);
		each_member((json_t *)remote, part, h) {
			char name[40];

			if (!strcmp(part, "total"))
				continue;
			snprintf(name, sizeof(name), "  %s", part);
			row(t, name, h, total_of(total));
		}
	}
	if (num(local, "count"))
		row(t, "local", local, 0);
	table_print(t);
}

int bbctl_fault_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "fault.show");

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	print_faults(r);
	json_decref(r);
	return BBCTL_OK;
}

int bbctl_fault_reset(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "fault.reset");

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	json_decref(r);
	return BBCTL_OK;
}
