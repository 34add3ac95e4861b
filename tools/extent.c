/* SPDX-License-Identifier: MIT */
/* Extents of lent memory, and taking them over from their homes. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bbctl.h"
#include "clock.h"
#include "log.h"

#define MOVE_NS 30000000000ULL

int bbctl_extent_show(struct bbctl *b, int argc, char **argv)
{
	json_t *o = bbctl_get(b, "extent.show"), *x;
	struct table *t;
	size_t i;

	if (!o)
		return BBCTL_FAILED;
	if (b->json)
		return bbctl_print_json(o);
	t = table_new("EXTENT|>OWNER|STATE|WHERE");
	each_item(json_object_get(o, "extents"), i, x) {
		table_cell(t, "%s", str(x, "extent"));
		table_number(t, json_object_get(x, "owner"));
		table_cell(t, "%s%s", str(x, "state"), flag(x, "shared") ? ", shared" : "");
		if (num(x, "to"))
			table_cell(t, "node %u", (unsigned int)num(x, "to"));
		else
			table_cell(t, "here");
	}
	each_item(json_object_get(o, "adopted"), i, x) {
		table_cell(t, "%s", str(x, "extent"));
		table_number(t, json_object_get(x, "owner"));
		table_cell(t, "adopted, %s", str(x, "state"));
		table_cell(t, "%s", str(x, "lies"));
	}
	table_print(t);
	json_decref(o);
	return BBCTL_OK;
}

/* Begins it, and waits until it has ended. */
int bbctl_extent_move(struct bbctl *b, int argc, char **argv)
{
	const struct timespec pause = { .tv_nsec = 5000000 };
	const uint64_t end = bb_now_ns() + MOVE_NS;
	json_t *o = NULL;
	char err[256];

	if (argc != 1) {
		bb_error("extent move wants NODE:POINTER, such as 3:1234000000200000; see bbctl extent show at its home");
		return BBCTL_USAGE;
	}
	if (bbctl_ask(b, json_pack("{s:s, s:s}", "cmd", "extent.move", "extent", argv[0]), &o, NULL, err) < 0) {
		bb_error("%s", err);
		return BBCTL_FAILED;
	}
	for (;;) {
		json_decref(o);
		o = bbctl_get(b, "extent.moving");
		if (!o)
			return BBCTL_FAILED;
		if (strcmp(str(o, "state"), "runs") != 0)
			break;
		if (bb_now_ns() >= end) {
			bb_error("extent %s: still on its way; see bbctl extent show", argv[0]);
			json_decref(o);
			return BBCTL_FAILED;
		}
		nanosleep(&pause, NULL);
	}
	if (strcmp(str(o, "state"), "done") != 0) {
		bb_error("extent %s has not moved: %s", argv[0], str(o, "why"));
		json_decref(o);
		return BBCTL_FAILED;
	}
	if (b->json)
		return bbctl_print_json(o);
	printf("extent %s is here now (%.1f ms)\n", str(o, "extent"), (double)num(o, "ns") / 1e6);
	json_decref(o);
	return BBCTL_OK;
}
