/* SPDX-License-Identifier: MIT */
/* Extents of lent memory, where they went and came from, and moving them. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/control.h"
#include "net/adopt.h"
#include "net/mover.h"

/* NODE:POINTER, as bbload has it: 3:1234000000200000 */
static json_t *name_of(uint16_t node, uint64_t ptr)
{
	return json_sprintf("%u:%016" PRIx64, node, ptr);
}

static bool parse(const char *s, uint16_t *node, uint64_t *ptr)
{
	unsigned long long p;
	unsigned int n;
	int end = 0;

	if (!s || sscanf(s, "%5u:%16llx%n", &n, &p, &end) != 2 || s[end] || n < 1 || n > 65534)
		return false;
	*node = (uint16_t)n;
	*ptr = p;
	return true;
}

static const char *const adopt_state[] = { "free", "copying", "committing", "serving", "leaving" };

json_t *bb_control_extent_show(struct bb_control *c, json_t *q)
{
	json_t *here = json_array(), *adopted = json_array();
	struct bb_home_extent x;
	struct bb_adopt_entry e;

	for (uint32_t i = 0; c->home && bb_home_next(c->home, &i, &x);) {
		if (!x.adopted)
			json_array_append_new(here, json_pack("{s:o, s:i, s:b, s:s, s:i}", "extent", name_of(c->cfg->node, x.ptr),
							      "owner", (int)x.owner.node, "shared", (int)x.shared, "state",
							      x.moved ? "moved" : x.moving ? "moving" : "here", "to", (int)x.to));
	}
	for (uint32_t i = 0; c->moving.adopt && bb_adopt_next(c->moving.adopt, &i, &e);)
		json_array_append_new(adopted, json_pack("{s:o, s:i, s:s, s:o}", "extent", name_of(e.node, e.ptr), "owner",
							 (int)e.owner, "state", adopt_state[e.state <= BB_ADOPT_LEAVING ? e.state : 0],
							 "lies", name_of(c->cfg->node, e.local)));
	return json_pack("{s:o, s:o}", "extents", here, "adopted", adopted);
}

json_t *bb_control_extent_move(struct bb_control *c, json_t *q)
{
	uint16_t node;
	uint64_t ptr;
	int r;

	if (!c->moving.mover)
		return json_string("this bbd lends no memory to other hosts: nothing can move here; start it with --lend");
	if (!parse(json_string_value(json_object_get(q, "extent")), &node, &ptr))
		return json_string("an extent is NODE:POINTER, such as 3:1234000000200000; see bbctl extent show at its home");
	if (node == c->cfg->node)
		return json_string("that extent's home is this host; move it at the host that it is to go to");
	r = bb_mover_move(c->moving.mover, node, ptr);
	if (r == -EBUSY)
		return json_string("another extent is on its way here; try again when it has come");
	if (r)
		return json_string("no extent begins at that pointer; see bbctl extent show at its home");
	return json_object();
}

json_t *bb_control_extent_moving(struct bb_control *c, json_t *q)
{
	static const char *const state[] = { "none", "runs", "done", "failed" };
	struct bb_move_info i = { 0 };

	if (c->moving.mover)
		bb_mover_info(c->moving.mover, &i);
	return json_pack("{s:s, s:o, s:I, s:s}", "state", state[i.state], "extent", name_of(i.node, i.ptr), "ns", (json_int_t)i.ns,
			 "why", i.why);
}
