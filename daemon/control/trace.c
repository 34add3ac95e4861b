/* SPDX-License-Identifier: MIT */
/*
 * Single faults, for bbctl trace: which programs have some, and a piece of one
 * program's. A caller goes on from the number that it was given ("at"); what has
 * been overwritten since is counted in "lost".
 */
#include <arpa/inet.h>

#include "clock.h"
#include "control/control.h"
#include "pager/trace.h"

#define PIECE 256 /* faults looked at for one answer: some 40 KB, and less than a millisecond */

static json_t *number(uint64_t v)
{
	return json_integer((json_int_t)v);
}

json_t *bb_control_trace_list(struct bb_control *c, json_t *q)
{
	static struct bb_trace_program p[BB_PROGRAMS_MAX]; /* the control thread's alone */
	json_t *list = json_array();

	for (unsigned int k = 0; k < c->npagers; k++) {
		int n = bb_pager_traces(c->pagers[k], p, BB_PROGRAMS_MAX);

		for (int i = 0; i < n; i++) {
			json_t *comm = json_string(p[i].comm);

			json_array_append_new(list, json_pack("{s:I, s:I, s:o, s:I}", "region", (json_int_t)p[i].region, "pid",
							      (json_int_t)p[i].pid, "comm", comm ? comm : json_string("?"),
							      "head", (json_int_t)p[i].head));
		}
	}
	return json_pack("{s:I, s:i, s:o}", "now_ns", (json_int_t)bb_now_ns(), "kept", (int)BB_TRACE_RECORDS, "programs",
			 list);
}

static json_t *pointer(const struct bb_control *c, const struct bb_trace_fault *f)
{
	struct bb_gptr g = { .tenant = (uint16_t)c->cfg->tenant, .node = f->node, .ptr = f->ptr };
	char text[INET6_ADDRSTRLEN] = "";
	struct in6_addr a;

	if (f->node) {
		bb_gptr_encode(&g, &a);
		inet_ntop(AF_INET6, &a, text, sizeof(text));
	}
	return json_string(text);
}

/* [end, address, pages, kind, node, pointer, and the five parts], times in nanoseconds. */
static json_t *fault(const struct bb_control *c, const struct bb_trace_fault *f, uint64_t base)
{
	json_t *a = json_array();

	json_array_append_new(a, number(f->t_end));
	json_array_append_new(a, number(base + ((uint64_t)f->page << BB_PAGE_SHIFT)));
	json_array_append_new(a, number(f->pages));
	json_array_append_new(a, json_string(f->kind < BB_TRACE_KINDS ? bb_trace_kind_name[f->kind] : "?"));
	json_array_append_new(a, number(f->node));
	json_array_append_new(a, pointer(c, f));
	for (int i = 0; i < BB_PART_TOTAL; i++)
		json_array_append_new(a, number(f->part[i]));
	return a;
}

json_t *bb_control_trace_read(struct bb_control *c, json_t *q)
{
	static struct bb_trace_fault f[PIECE];
	json_int_t region, from, slower = 0;
	struct bb_trace_program what;
	uint64_t at, lost = 0;
	json_t *list;
	int n = -1;

	if (json_unpack(q, "{s:I, s:I, s?I}", "region", &region, "at", &from, "slower_ns", &slower) < 0 || region <= 0 ||
	    region > UINT32_MAX || from < 0 || slower < 0)
		return json_string("trace.read wants the numbers region and at, and perhaps slower_ns");
	at = (uint64_t)from;
	if ((region - 1) % BB_PAGERS_MAX < c->npagers)
		n = bb_pager_trace_read(c->pagers[(region - 1) % BB_PAGERS_MAX], (uint32_t)region, &at, f, PIECE, &lost,
					&what);
	if (n < 0)
		return json_string("there is no such region");
	list = json_array();
	for (int i = 0; i < n; i++)
		if (bb_trace_total(&f[i]) >= (uint64_t)slower)
			json_array_append_new(list, fault(c, &f[i], what.base));
	return json_pack("{s:I, s:I, s:I, s:o}", "at", (json_int_t)at, "head", (json_int_t)what.head, "lost",
			 (json_int_t)lost, "faults", list);
}
