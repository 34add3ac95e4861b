/* SPDX-License-Identifier: MIT */
/* What is attached, and what attach changed of the host, as JSON: one file a device. */
#include "bbload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

json_t *state_load(const struct place *p)
{
	json_error_t err;
	json_t *s;

	if (!*p->dev || access(p->state, F_OK))
		return NULL;
	s = json_load_file(p->state, 0, &err);
	if (json_is_object(s))
		return s;
	bb_warn("%s cannot be read (%s): what attach changed there is not known", p->state, err.text);
	json_decref(s);
	return NULL;
}

/* Under another name first: nobody ever reads a part of it. */
int state_save(const struct place *p, json_t *state)
{
	char tmp[PATH_BYTES + 8];

	snprintf(tmp, sizeof(tmp), "%s.new", p->state);
	if (!json_dump_file(state, tmp, JSON_INDENT(1)) && !rename(tmp, p->state))
		return 0;
	bb_error("cannot write %s: %m", p->state);
	unlink(tmp);
	return -1;
}

json_t *state_new(struct bbload *b, const struct place *p, enum kind kind)
{
	return json_pack("{s:s,s:s,s:I,s:s,s:I,s:I,s:[]}", "kind", kind_name[kind], "dev", p->dev, "ifindex",
			 (json_int_t)p->ifindex, "netns", b->netns ? b->netns : "", "netns_inode", (json_int_t)b->ns_inode,
			 "netns_cookie", (json_int_t)b->ns_cookie, "changes");
}

enum kind state_kind(const json_t *state)
{
	const char *s = json_string_value(json_object_get(state, "kind"));

	for (int k = 0; s && k < KIND_MAX; k++)
		if (!strcmp(s, kind_name[k]))
			return (enum kind)k;
	return KIND_HOST;
}

static uint64_t member(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

bool state_is_of(const struct bbload *b, const json_t *state, const struct place *p)
{
	return member(state, "netns_inode") == b->ns_inode && member(state, "netns_cookie") == b->ns_cookie &&
	       member(state, "ifindex") == p->ifindex;
}

json_t *state_find(json_t *state, const char *what)
{
	json_t *list = json_object_get(state, "changes"), *c;
	size_t i;

	for (i = 0; (c = json_array_get(list, i)); i++) {
		const char *s = json_string_value(json_object_get(c, "what"));

		if (s && !strcmp(s, what))
			return c;
	}
	return NULL;
}

int state_note(const struct place *p, json_t *state, json_t *change)
{
	if (!change || json_array_append_new(json_object_get(state, "changes"), change)) {
		bb_error("out of memory");
		return -1;
	}
	return state_save(p, state);
}

/*
 * The route in BB_TABLE serves all devices of the namespace; who needs it still,
 * takes it over. Return: has anyone?
 */
static bool hand_on(const struct place *p, json_t *change)
{
	struct place *list;
	unsigned int n = place_list(&list);
	bool done = false;

	for (unsigned int i = 0; i < n && !done; i++) {
		json_t *other;

		if (list[i].netns != p->netns || !strcmp(list[i].dev, p->dev))
			continue;
		other = state_load(&list[i]);
		if (other && state_find(other, "rule"))
			done = !state_note(&list[i], other, json_incref(change));
		json_decref(other);
	}
	free(list);
	return done;
}

void state_undo(const struct place *p, json_t *state, bool device)
{
	json_t *list = json_object_get(state, "changes");

	for (size_t i = json_array_size(list); i-- > 0;) {
		json_t *c = json_array_get(list, i);
		const char *what = json_string_value(json_object_get(c, "what"));

		if (what && (strcmp(what, "route") || !hand_on(p, c)) && host_undo(p, c, device))
			bb_warn("%s: what attach had changed (%s) could not be undone", p->dev, what);
		json_array_remove(list, i);
		state_save(p, state);
	}
}
