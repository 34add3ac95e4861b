/* SPDX-License-Identifier: MIT */
/* The text of BB_TEST_NET, see inject.h. */
#include "net/inject.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bluebridge/gptr.h>

const char *const bb_inject_name[BB_INJECT_WHATS] = {
	[BB_INJECT_DROP] = "drop",   [BB_INJECT_DUP] = "dup",	      [BB_INJECT_DELAY] = "delay",
	[BB_INJECT_AGAIN] = "again", [BB_INJECT_REORDER] = "reorder", [BB_INJECT_CORRUPT] = "corrupt",
};

struct word {
	const char *name;
	int value;
};

static const struct word dirs[] = {
	{ "request", BB_INJECT_REQUEST },
	{ "reply", BB_INJECT_REPLY },
	{ "hello", BB_INJECT_HELLO },
	{ NULL, 0 },
};

static const struct word cmds[] = {
	{ "HELLO", BB_CMD_HELLO }, { "CREATE", BB_CMD_CREATE },	    { "ALLOC_WRITE", BB_CMD_ALLOC_WRITE },
	{ "READ", BB_CMD_READ },   { "READ_RUN", BB_CMD_READ_RUN }, { "WRITE", BB_CMD_WRITE },
	{ "DELETE", BB_CMD_DELETE }, { NULL, 0 },
};

/* A piece of the text: name=value. */
struct piece {
	const char *name, *value;
	size_t namelen, len;
};

static bool is(const struct piece *p, const char *name)
{
	return strlen(name) == p->namelen && !strncmp(p->name, name, p->namelen);
}

static int word(const struct piece *p, const struct word *w, int *out)
{
	for (; w->name; w++)
		if (strlen(w->name) == p->len && !strncmp(p->value, w->name, p->len)) {
			*out = w->value;
			return 0;
		}
	return -EINVAL;
}

static int number(const struct piece *p, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	if (!p->len || p->len > 18)
		return -EINVAL;
	for (size_t i = 0; i < p->len; i++) {
		if (p->value[i] < '0' || p->value[i] > '9')
			return -EINVAL;
		v = v * 10 + (uint64_t)(p->value[i] - '0');
	}
	*out = v;
	return v <= max ? 0 : -EINVAL;
}

static int take(struct bb_inject_rules *all, struct bb_inject_rule *r, const struct piece *p)
{
	uint64_t v = 0;
	int ret, w = 0;

	for (int i = 0; i < BB_INJECT_WHATS; i++)
		if (is(p, bb_inject_name[i])) {
			ret = number(p, 100, &v);
			r->percent[i] = (uint8_t)v;
			return ret;
		}
	if (is(p, "dir")) {
		ret = word(p, dirs, &w);
		r->dir = (enum bb_inject_dir)w;
		return ret;
	}
	if (is(p, "cmd"))
		return word(p, cmds, &r->cmd);
	if (is(p, "node") || is(p, "over")) {
		ret = number(p, 65535, &v);
		*(is(p, "node") ? &r->node : &r->over) = (uint32_t)v;
		return ret;
	}
	if (is(p, "bit")) {
		ret = number(p, 65535, &v);
		r->bit = (int64_t)v;
		return ret;
	}
	if (is(p, "nth"))
		return number(p, ~0ULL, &r->nth);
	if (is(p, "seed"))
		return number(p, ~0ULL, &all->seed);
	if (is(p, "ms"))
		return number(p, 60000, &r->ms);
	if (is(p, "after"))
		return number(p, 3600000, &r->after_ms);
	if (is(p, "for"))
		return number(p, 3600000, &r->for_ms);
	return -EINVAL;
}

int bb_inject_parse(struct bb_inject_rules *out, const char *text)
{
	struct bb_inject_rule *r = NULL;
	int ret;

	*out = (struct bb_inject_rules){ .seed = 1 };
	if (strlen(text) >= BB_INJECT_TEXT)
		return -EINVAL;
	if (!strcmp(text, "off"))
		return 0;
	while (*text) {
		struct piece p = { .name = text, .namelen = strcspn(text, "=,;") };

		if (text[p.namelen] != '=')
			return -EINVAL;
		p.value = text + p.namelen + 1;
		p.len = strcspn(p.value, ",;");
		if (!r) {
			if (out->n == BB_INJECT_RULES)
				return -EINVAL;
			r = &out->rule[out->n++];
			*r = (struct bb_inject_rule){ .cmd = -1, .ms = 1, .bit = -1 };
		}
		ret = take(out, r, &p);
		if (ret)
			return ret;
		text = p.value + p.len;
		if (*text == ';')
			r = NULL;
		if (*text && !*++text)
			return -EINVAL; /* something should follow */
	}
	return 0;
}
