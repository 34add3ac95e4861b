/* SPDX-License-Identifier: MIT */
/*
 * Random environment blocks and sizes against lib/options.c. Properties: no
 * crash (run it under ASan and UBSan), at most one warning an entry, a value
 * that is refused leaves the default, and a size that is accepted is what a
 * slow computation says.
 *
 *	fuzz_options [SECONDS [SEED]]
 */
#include "options.h"

#include "clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng;
static unsigned int warnings;

static uint32_t rnd(uint32_t below)
{
	rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(rng >> 33) % below;
}

static void count(const char *message, void *arg)
{
	warnings++;
	if (!*message || strlen(message) > 400)
		abort();
}

/* A text made of what the parser looks for, with some noise. */
static void make_value(char *out, unsigned int max)
{
	static const char *const bit[] = { "on",   "off", "spread", "local", "warn", "128", "1.5", "G", "k", "M", "iB",
					   ".",	   "-",	  "0",	    "65535", ",",    "/",   "=",   " ", "T", "9999999999" };
	unsigned int len = 0, n = rnd(6);

	for (unsigned int i = 0; i < n; i++) {
		const char *b = bit[rnd(sizeof(bit) / sizeof(bit[0]))];
		char noise[2] = { (char)(1 + rnd(255)), 0 };

		if (!rnd(8))
			b = noise;
		if (len + strlen(b) + 1 > max)
			break;
		len += (unsigned int)strlen(strcpy(out + len, b));
	}
	out[len] = '\0';
}

static void make_entry(char *out, unsigned int max)
{
	char name[40];
	unsigned int n;

	snprintf(name, sizeof(name), "%s", bb_opt_table[rnd(BB_OPT_MAX)].name);
	n = (unsigned int)strlen(name);
	if (!rnd(3))
		name[rnd(n)] = (char)(1 + rnd(255));
	if (!rnd(6))
		name[rnd(n)] = '\0';
	if (!rnd(6))
		strcat(name, name[rnd(n)] ? "X" : "_LONG_TAIL");
	n = (unsigned int)snprintf(out, max, "%s%s", name, rnd(20) ? "=" : "");
	make_value(out + n, max - n);
}

/* Accepted sizes are checked by long double, which holds 64 bits. */
static void check_size(const char *s)
{
	uint64_t v = 0;
	long double want;
	char *end;

	if (bb_size_parse(s, &v))
		return;
	want = strtold(s, &end);
	switch (*end | 32) {
	case 't':
		want *= 1024;
		/* fall through */
	case 'g':
		want *= 1024;
		/* fall through */
	case 'm':
		want *= 1024;
		/* fall through */
	case 'k':
		want *= 1024;
	}
	/* Six digits after the point are taken, of at most 1T. */
	if (fabsl(want - (long double)v) > 1 + ((*end | 32) == 't' ? 1.1e6L : 1100))
		abort();
}

int main(int argc, char **argv)
{
	const uint64_t seconds = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : bb_now_ns();
	const uint64_t end = bb_now_ns() + seconds * 1000000000ULL;
	static char text[8][160];
	uint64_t rounds = 0;

	rng = seed;
	printf("fuzz_options: seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	do {
		char *env[9] = { NULL };
		struct bb_options o;
		unsigned int n = rnd(9);
		uint64_t v;
		char buf[32], size[64];

		for (unsigned int i = 0; i < n; i++)
			make_entry(env[i] = text[i], sizeof(text[i]));
		warnings = 0;
		bb_options_parse(&o, env, count, NULL);
		if (warnings > n)
			abort();
		for (int i = 0; i < BB_OPT_MAX; i++)
			if (!o.str[i] || (!o.set[i] && strcmp(o.str[i], bb_opt_table[i].fallback)))
				abort();
		if (o.num[BB_OPT_MIN] < 4096 || o.num[BB_OPT_PREFETCH] > 1)
			abort();
		make_value(size, sizeof(size));
		check_size(size);
		v = ((uint64_t)rnd(1u << 31) << 33 | rnd(1u << 31)) >> rnd(64);
		if (bb_size_parse(bb_size_format(v, buf, sizeof(buf)), &v) && strcmp(buf + strlen(buf) - 1, "P") &&
		    strcmp(buf + strlen(buf) - 1, "E"))
			abort();
		if (n)
			bb_list_has(text[0], size);
	} while ((++rounds & 255) || bb_now_ns() < end);
	printf("fuzz_options: %llu rounds\n", (unsigned long long)rounds);
	return 0;
}
