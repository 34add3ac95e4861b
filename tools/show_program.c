/* SPDX-License-Identifier: MIT */
/* Programs and their regions: budgets, faults, and which hosts hold the pages. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bbctl.h"
#include "log.h"
#include "options.h"

static int region_number(const char *s, uint32_t *out)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(s, &end, 10);
	if (*s < '0' || *s > '9' || *end || errno || !n || n > UINT32_MAX) {
		bb_error("%s: wants the number of a region, as bbctl program shows it", s);
		return -EINVAL;
	}
	*out = (uint32_t)n;
	return 0;
}

void print_programs(const json_t *programs)
{
	struct table *t;
	json_t *p;
	size_t i;

	if (!json_array_size(programs)) {
		printf("programs: none\n");
		return;
	}
	t = table_new("REGION|>PID|PROGRAM|>BUDGET|>LOCAL|>ALLOCATED|>FAULTS|>REMOTE|>EVICTED|>WRITTEN|>LOST");
	each_item(programs, i, p) {
		table_number(t, json_object_get(p, "region"));
		table_number(t, json_object_get(p, "pid"));
		table_cell(t, "%s", str(p, "comm"));
		table_size(t, json_object_get(p, "budget"));
		table_size(t, json_object_get(p, "charged"));
		table_size(t, json_object_get(p, "allocated"));
		table_number(t, json_object_get(p, "faults"));
		table_number(t, json_object_get(p, "fill_remote"));
		table_number(t, json_object_get(p, "evicted"));
		table_number(t, json_object_get(p, "written_back"));
		table_number(t, json_object_get(p, "lost"));
	}
	table_print(t);
}

static void print_homes(const json_t *nodes)
{
	json_t *n;
	size_t i;

	each_item(nodes, i, n)
		printf("%snode %llu: %llu pages in %llu extents", i ? ", " : "", (unsigned long long)num(n, "node"),
		       (unsigned long long)num(n, "pages"), (unsigned long long)num(n, "extents"));
	if (!json_array_size(nodes))
		printf("on no other host");
}

static void line(const json_t *p, const char *const (*keys)[2])
{
	for (int i = 0; keys[i][0]; i++)
		printf("%s%s %llu", i ? ", " : "", keys[i][1], (unsigned long long)num(p, keys[i][0]));
	putchar('\n');
}

static void print_program(const json_t *p)
{
	static const char *const faults[][2] = { { "faults", "all" },
						 { "fill_zero", "zero" },
						 { "fill_staged", "staged" },
						 { "fill_remote", "remote" },
						 { "prefetched", "pages ahead" },
						 { "unused", "of them unused" },
						 { NULL, NULL } };
	static const char *const evicted[][2] = { { "evicted", "all" },
						  { "evicted_clean", "clean" },
						  { "evicted_zero", "zero" },
						  { "evict_busy", "busy" },
						  { "written_back", "written back" },
						  { "lost", "lost" },
						  { NULL, NULL } };
	static const char *const extents[][2] = { { "local", "local" },
						  { "fresh", "fresh" },
						  { "managed", "managed" },
						  { NULL, NULL } };
	char budget[32], charged[32], allocated[32];

	printf("region %llu: pid %llu, ", (unsigned long long)num(p, "region"), (unsigned long long)num(p, "pid"));
	print_clean(str(p, "comm"));
	printf("\n  memory   budget %s, local %s, allocated %s\n",
	       bb_size_format(num(p, "budget"), budget, sizeof(budget)),
	       bb_size_format(num(p, "charged"), charged, sizeof(charged)),
	       bb_size_format(num(p, "allocated"), allocated, sizeof(allocated)));
	printf("  extents  ");
	line(json_object_get(p, "extents"), extents);
	printf("  faults   ");
	line(p, faults);
	printf("  evicted  ");
	line(p, evicted);
	printf("  homes    ");
	print_homes(json_object_get(p, "nodes"));
	putchar('\n');
}

int bbctl_program_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r, *list, *p;
	uint32_t region = 0;
	size_t i;

	if (argc > 1 || (argc && region_number(argv[0], &region) < 0)) {
		if (argc > 1)
			bb_error("usage: bbctl program show [REGION]");
		return BBCTL_USAGE;
	}
	r = bbctl_get(b, "program.show");
	if (!r)
		return BBCTL_FAILED;
	list = json_object_get(r, "programs");
	for (i = json_array_size(list); region && i > 0; i--)
		if (num(json_array_get(list, i - 1), "region") != region)
			json_array_remove(list, i - 1);
	if (region && !json_array_size(list)) {
		bb_error("there is no region %u; bbctl program shows all", region);
		json_decref(r);
		return BBCTL_FAILED;
	}
	if (b->json)
		return bbctl_print_json(r);
	if (!json_array_size(list))
		printf("programs: none\n");
	each_item(list, i, p)
		print_program(p);
	json_decref(r);
	return BBCTL_OK;
}

int bbctl_program_set(struct bbctl *b, int argc, char **argv)
{
	char err[256], size[32];
	json_t *result = NULL;
	uint32_t region;
	uint64_t bytes;

	if (argc != 3 || !*argv[1] || strncmp(argv[1], "budget", strlen(argv[1]))) {
		bb_error("usage: bbctl program set REGION budget SIZE");
		return BBCTL_USAGE;
	}
	if (region_number(argv[0], &region) < 0)
		return BBCTL_USAGE;
	if (bb_size_parse(argv[2], &bytes) < 0 || bytes > INT64_MAX) {
		bb_error("%s: wants a size like 256M or 4G", argv[2]);
		return BBCTL_USAGE;
	}
	if (bbctl_ask(b, json_pack("{s:s, s:I, s:I}", "cmd", "program.set", "region", (json_int_t)region, "budget",
				   (json_int_t)bytes),
		      &result, NULL, err) < 0) {
		bb_error("%s", err);
		return BBCTL_FAILED;
	}
	if (b->json)
		return bbctl_print_json(result);
	json_decref(result);
	printf("region %u: budget %s\n", region, bb_size_format(bytes, size, sizeof(size)));
	return BBCTL_OK;
}

int bbctl_region_show(struct bbctl *b, int argc, char **argv)
{
	json_t *r = bbctl_get(b, "region.show"), *p;
	size_t i;

	if (!r)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(r);
	if (!json_array_size(json_object_get(r, "regions")))
		printf("regions: none\n");
	each_item(json_object_get(r, "regions"), i, p) {
		char length[32];

		printf("region %llu: ", (unsigned long long)num(p, "region"));
		print_clean(str(p, "comm"));
		printf(", %s at 0x%llx\n  ", bb_size_format(num(p, "length"), length, sizeof(length)),
		       (unsigned long long)num(p, "base"));
		print_homes(json_object_get(p, "nodes"));
		putchar('\n');
	}
	json_decref(r);
	return BBCTL_OK;
}
