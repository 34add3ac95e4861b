/* SPDX-License-Identifier: MIT */
/*
 * The table of BB_ variables and the scan of an environment block against it.
 * libbb.so runs this before the program's own constructors: no allocation, no
 * stdio, no locale, and a mistake in a value never stops the program.
 */
#include "options.h"

#include "log.h"

#include <errno.h>
#include <string.h>

const struct bb_opt_desc bb_opt_table[BB_OPT_MAX] = {
	[BB_OPT_LOCAL] = { "BB_LOCAL", BB_OPT_T_SIZE, "", "SIZE", NULL,
			   "local memory budget of the program's global region; default: what bbd grants" },
	[BB_OPT_MIN] = { "BB_MIN", BB_OPT_T_SIZE, "128K", "SIZE", NULL,
			 "smallest allocation that goes to the global region" },
	[BB_OPT_SOCKET] = { "BB_SOCKET", BB_OPT_T_STRING, "/run/bluebridge/bbd.sock", "PATH", NULL,
			    "Unix socket of this host's bbd" },
	[BB_OPT_LOG] = { "BB_LOG", BB_OPT_T_ENUM, "warn", "LEVEL", "error warn info debug",
			 "which messages appear on standard error" },
	[BB_OPT_ONLY] = { "BB_ONLY", BB_OPT_T_STRING, "", "NAME,...", NULL,
			  "use the global region in programs of these names only; children inherit LD_PRELOAD" },
	[BB_OPT_SKIP] = { "BB_SKIP", BB_OPT_T_STRING, "", "NAME,...", NULL,
			  "leave programs of these names alone" },
	[BB_OPT_PREFETCH] = { "BB_PREFETCH", BB_OPT_T_BOOL, "on", "on|off", "off on",
			      "fetch pages ahead along the stride of the faults" },
	[BB_OPT_PLACE] = { "BB_PLACE", BB_OPT_T_ENUM, "spread", "POLICY", "spread local NODE",
			   "where new memory goes: the emptiest host, this host, or the host of that number" },
	[BB_OPT_SITES] = { "BB_SITES", BB_OPT_T_STRING, "", "FILE", NULL,
			   "write a profile of the call sites that allocate" },
	[BB_OPT_SHARE] = { "BB_SHARE", BB_OPT_T_STRING, "", "PREFIX", NULL,
			   "path prefix of shared datasets" },
	[BB_OPT_STATS] = { "BB_STATS", BB_OPT_T_STRING, "", "FILE", NULL,
			   "write counters as JSON when the program exits" },
};

/* Other parts of the project read these. */
static const char *const foreign[] = { "BB_TEST_", "BB_BENCH_", "BB_RACK_", "BB_NODE" };

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool same_word(const char *word, size_t len, const char *s)
{
	size_t i;

	for (i = 0; i < len && s[i]; i++)
		if (lower(word[i]) != lower(s[i]))
			return false;
	return i == len && !s[i];
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

int bb_size_parse(const char *s, uint64_t *out)
{
	uint64_t whole = 0, frac = 0, scale = 1, v;
	unsigned int shift = 0, digits = 0;

	for (; is_digit(*s); s++, digits++)
		if (__builtin_mul_overflow(whole, 10, &whole) || __builtin_add_overflow(whole, *s - '0', &whole))
			return -ERANGE;
	if (*s == '.') {
		for (s++; is_digit(*s); s++, digits++) {
			/* Six digits of 1T are below 2^60; more would not matter. */
			if (scale < 1000000) {
				frac = frac * 10 + (uint64_t)(*s - '0');
				scale *= 10;
			}
		}
		if (scale == 1)
			return -EINVAL;
	}
	if (!digits)
		return -EINVAL;
	switch (lower(*s)) {
	case 't':
		shift += 10;
		/* fall through */
	case 'g':
		shift += 10;
		/* fall through */
	case 'm':
		shift += 10;
		/* fall through */
	case 'k':
		shift += 10;
		s++;
		if (s[0] == 'i' && lower(s[1]) == 'b')
			s++;
		break;
	default:
		if (frac)
			return -EINVAL; /* no parts of a byte */
	}
	if (lower(*s) == 'b')
		s++;
	if (*s)
		return -EINVAL;
	if (whole > UINT64_MAX >> shift)
		return -ERANGE;
	if (__builtin_add_overflow(whole << shift, (frac << shift) / scale, &v))
		return -ERANGE;
	*out = v;
	return 0;
}

char *bb_size_format(uint64_t bytes, char *buf, size_t len)
{
	static const char unit[] = "KMGTPE";
	unsigned int n = 0, tenths;
	uint64_t whole, rest;

	while (n < sizeof(unit) - 1 && bytes >> (10 * n) >= 1024)
		n++;
	whole = bytes >> (10 * n);
	rest = n ? bytes & ((1ULL << (10 * n)) - 1) : 0;
	tenths = n ? (unsigned int)(((rest >> (10 * (n - 1))) * 10 + 512) / 1024) : 0;
	if (tenths == 10) {
		tenths = 0;
		whole++;
	}
	if (whole == 1024 && n < sizeof(unit) - 1) {
		whole = 1;
		n++;
	}
	if (!n)
		bb_format(buf, (unsigned int)len, "%llu", (unsigned long long)whole);
	else if (tenths)
		bb_format(buf, (unsigned int)len, "%llu.%u%c", (unsigned long long)whole, tenths, unit[n - 1]);
	else
		bb_format(buf, (unsigned int)len, "%llu%c", (unsigned long long)whole, unit[n - 1]);
	return buf;
}

bool bb_list_has(const char *list, const char *name)
{
	const size_t n = strlen(name);

	if (!list || !n)
		return false;
	while (*list) {
		const char *end = list + strcspn(list, ",");
		const char *next = *end ? end + 1 : end;

		while (list < end && *list == ' ')
			list++;
		while (end > list && end[-1] == ' ')
			end--;
		if ((size_t)(end - list) == n && !memcmp(list, name, n))
			return true;
		list = next;
	}
	return false;
}

/* Return: the index of the word in choices, or -1. NODE stands for a host's number. */
static int choice_index(const char *choices, const char *v)
{
	int i = 0;

	for (const char *w = choices; *w; i++) {
		const size_t n = strcspn(w, " ");
		uint64_t node;

		if (n == 4 && !memcmp(w, "NODE", 4)) {
			size_t d = 0;

			for (node = 0; is_digit(v[d]) && d < 6; d++)
				node = node * 10 + (uint64_t)(v[d] - '0');
			if (d && !v[d] && node > 0 && node < 0xffff)
				return i;
		} else if (same_word(w, n, v)) {
			return i;
		}
		w += n;
		while (*w == ' ')
			w++;
	}
	return -1;
}

static int bool_value(const char *v)
{
	static const char *const no[] = { "off", "0", "no", "false" };
	static const char *const yes[] = { "on", "1", "yes", "true" };

	for (int i = 0; i < 4; i++) {
		if (same_word(no[i], strlen(no[i]), v))
			return 0;
		if (same_word(yes[i], strlen(yes[i]), v))
			return 1;
	}
	return -1;
}

/* Return: NULL where the value is good (*num is set then), else what was expected. */
static const char *check(enum bb_opt opt, const char *v, uint64_t *num, char *buf, unsigned int size)
{
	const struct bb_opt_desc *d = &bb_opt_table[opt];
	int i;

	*num = 0;
	switch (d->type) {
	case BB_OPT_T_SIZE:
		if (bb_size_parse(v, num))
			return "expected a size such as 64K, 256M or 1.5G";
		/* 0 would mean "not set", and a page is the least that can be moved. */
		return *num >= 4096 ? NULL : "expected a size of at least 4K";
	case BB_OPT_T_ENUM:
		i = choice_index(d->choices, v);
		if (i < 0) {
			bb_format(buf, size, "expected one of: %s%s", d->choices,
				  opt == BB_OPT_PLACE ? " (a host's number, 1 to 65534)" : "");
			return buf;
		}
		*num = (uint64_t)i;
		return NULL;
	case BB_OPT_T_BOOL:
		i = bool_value(v);
		if (i < 0)
			return "expected on or off";
		*num = (uint64_t)i;
		return NULL;
	case BB_OPT_T_STRING:
		if (opt == BB_OPT_SOCKET && strlen(v) > 107)
			return "expected a path of at most 107 characters";
		if (opt == BB_OPT_SHARE && *v != '/')
			return "expected a path that begins with /";
		return NULL;
	}
	return NULL;
}

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

/* Edit distance with swaps of neighbours (optimal string alignment). */
static unsigned int distance(const char *a, size_t na, const char *b)
{
	enum { MAX = 24 };
	unsigned int row[3][MAX + 1];
	const size_t nb = strlen(b);

	if (na > MAX || nb > MAX)
		return MAX;
	for (size_t j = 0; j <= nb; j++)
		row[0][j] = (unsigned int)j;
	for (size_t i = 1; i <= na; i++) {
		unsigned int *cur = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];

		cur[0] = (unsigned int)i;
		for (size_t j = 1; j <= nb; j++) {
			unsigned int cost = lower(a[i - 1]) != lower(b[j - 1]);

			cur[j] = least(least(up[j], cur[j - 1]) + 1, up[j - 1] + cost);
			if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]))
				cur[j] = least(cur[j], up2[j - 2] + 1);
		}
	}
	return row[na % 3][nb];
}

static void warn_unknown(const char *name, size_t len, bb_opt_warn_fn warn, void *arg)
{
	const int shown = len > 48 ? 48 : (int)len;
	unsigned int best = ~0u, d;
	char text[256];
	int nearest = 0;

	for (int i = 0; i < BB_OPT_MAX; i++) {
		d = distance(name, len, bb_opt_table[i].name);
		if (d < best) {
			best = d;
			nearest = i;
		}
	}
	/* BB_ is common to all; beyond three slips it is another word. */
	if (best <= 3 && best + 4 <= len)
		bb_format(text, sizeof(text), "%.*s is not a BlueBridge variable; did you mean %s?", shown, name,
			  bb_opt_table[nearest].name);
	else
		bb_format(text, sizeof(text), "%.*s%s is not a BlueBridge variable; bb(7) lists them", shown, name,
			  (size_t)shown < len ? "..." : "");
	warn(text, arg);
}

static void parse_one(struct bb_options *o, enum bb_opt opt, const char *v, bb_opt_warn_fn warn, void *arg)
{
	const struct bb_opt_desc *d = &bb_opt_table[opt];
	char buf[128], text[384];
	const char *expected;
	uint64_t num;

	expected = check(opt, v, &num, buf, sizeof(buf));
	if (!expected) {
		o->num[opt] = num;
		o->str[opt] = v;
		o->set[opt] = true;
		return;
	}
	if (!warn)
		return;
	bb_format(text, sizeof(text), "%s=%.64s%s: %s; using %s%s", d->name, v, strlen(v) > 64 ? "..." : "", expected,
		  *d->fallback ? "the default " : opt == BB_OPT_LOCAL ? "what bbd grants" : "none", d->fallback);
	warn(text, arg);
}

void bb_options_parse(struct bb_options *o, char *const *env, bb_opt_warn_fn warn, void *arg)
{
	bool seen[BB_OPT_MAX] = { false };
	char buf[128];

	memset(o, 0, sizeof(*o));
	for (int i = 0; i < BB_OPT_MAX; i++) {
		o->str[i] = bb_opt_table[i].fallback;
		if (*o->str[i])
			check(i, o->str[i], &o->num[i], buf, sizeof(buf));
	}
	for (; env && *env; env++) {
		const char *name = *env, *eq;
		size_t len;
		int i;

		if (strncmp(name, "BB_", 3))
			continue;
		eq = strchr(name, '=');
		if (!eq)
			continue;
		len = (size_t)(eq - name);
		for (i = 0; i < BB_OPT_MAX; i++)
			if (strlen(bb_opt_table[i].name) == len && !memcmp(bb_opt_table[i].name, name, len))
				break;
		if (i < BB_OPT_MAX) {
			/* The first of several holds, as with getenv; empty is not set. */
			if (!seen[i] && eq[1])
				parse_one(o, i, eq + 1, warn, arg);
			seen[i] = true;
			continue;
		}
		for (i = 0; i < 4; i++)
			if (!strncmp(name, foreign[i], strlen(foreign[i])))
				break;
		if (i == 4 && warn)
			warn_unknown(name, len, warn, arg);
	}
}
