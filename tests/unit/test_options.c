/* SPDX-License-Identifier: MIT */
/* The option table, its parser, and the warnings that it earns. */
#include "options.h"

#include "log.h"

#include <bluebridge/local.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char said[8][512];
static int nsaid;

static void listen_to(const char *message, void *arg)
{
	assert_ptr_equal(arg, said);
	assert_true(nsaid < 8);
	snprintf(said[nsaid++], sizeof(said[0]), "%s", message);
}

static struct bb_options parse(const char *a, const char *b)
{
	char *env[] = { (char *)"PATH=/bin", (char *)a, (char *)b, NULL };
	struct bb_options o;

	nsaid = 0;
	bb_options_parse(&o, env, listen_to, said);
	return o;
}

static void sizes(void **state)
{
	static const struct {
		const char *s;
		int error;
		uint64_t v;
	} t[] = {
		{ "0", 0, 0 }, { "4096", 0, 4096 }, { "64K", 0, 65536 }, { "64k", 0, 65536 }, { "256M", 0, 256 << 20 },
		{ "256MB", 0, 256 << 20 }, { "256MiB", 0, 256 << 20 }, { "1.5G", 0, 3ULL << 29 }, { "2T", 0, 2ULL << 40 },
		{ "0.5K", 0, 512 }, { ".5K", 0, 512 }, { "1.0", 0, 1 }, { "10B", 0, 10 }, { "1.000000009G", 0, 1 << 30 },
		{ "18446744073709551615", 0, UINT64_MAX }, { "16777215T", 0, 16777215ULL << 40 },
		{ "18446744073709551616", -ERANGE, 0 }, { "16777216T", -ERANGE, 0 },
		{ "99999999999999999999999999", -ERANGE, 0 }, { "", -EINVAL, 0 }, { "K", -EINVAL, 0 },
		{ "-1", -EINVAL, 0 }, { "+1", -EINVAL, 0 }, { " 1", -EINVAL, 0 }, { "1 ", -EINVAL, 0 },
		{ "1.", -EINVAL, 0 }, { ".", -EINVAL, 0 }, { "1.5", -EINVAL, 0 }, { "1.5.5K", -EINVAL, 0 },
		{ "1KK", -EINVAL, 0 }, { "1Ki", -EINVAL, 0 }, { "0x10", -EINVAL, 0 }, { "1e3", -EINVAL, 0 },
		{ "1P", -EINVAL, 0 }, { "lots", -EINVAL, 0 },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		uint64_t v = 77;

		assert_int_equal(bb_size_parse(t[i].s, &v), t[i].error);
		assert_int_equal(v, t[i].error ? 77 : t[i].v);
	}
}

static void sizes_for_people(void **state)
{
	static const struct {
		uint64_t v;
		const char *s;
	} t[] = {
		{ 0, "0" }, { 1023, "1023" }, { 1024, "1K" }, { 1536, "1.5K" }, { 131072, "128K" }, { 3ULL << 29, "1.5G" },
		{ (1 << 20) - 1, "1M" }, { UINT64_MAX, "16E" }, { (1ULL << 40) + 1, "1T" }, { 5ULL << 50, "5P" },
	};
	char buf[32], tiny[3];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		assert_string_equal(bb_size_format(t[i].v, buf, sizeof(buf)), t[i].s);
	for (int shift = 0; shift < 44; shift++) { /* exact powers survive a round trip */
		uint64_t v;

		assert_int_equal(bb_size_parse(bb_size_format(1ULL << shift, buf, sizeof(buf)), &v), 0);
		assert_int_equal(v, 1ULL << shift);
	}
	assert_string_equal(bb_size_format(12345, tiny, sizeof(tiny)), "12");
}

static void defaults(void **state)
{
	struct bb_options o = parse(NULL, NULL);

	assert_int_equal(nsaid, 0);
	assert_int_equal(o.num[BB_OPT_LOCAL], 0);
	assert_int_equal(o.num[BB_OPT_MIN], 128 << 10);
	assert_int_equal(o.num[BB_OPT_LOG], BB_LOG_WARN);
	assert_int_equal(o.num[BB_OPT_PREFETCH], 1);
	assert_int_equal(o.num[BB_OPT_PLACE], 0);
	assert_string_equal(o.str[BB_OPT_SOCKET], BB_SOCKET_DEFAULT);
	for (int i = 0; i < BB_OPT_MAX; i++) {
		assert_false(o.set[i]);
		assert_non_null(o.str[i]);
	}
}

static void table_is_whole(void **state)
{
	for (int i = 0; i < BB_OPT_MAX; i++) {
		const struct bb_opt_desc *d = &bb_opt_table[i];

		assert_int_equal(strncmp(d->name, "BB_", 3), 0);
		assert_non_null(d->fallback);
		assert_true(d->metavar && *d->metavar);
		assert_true(d->help && strlen(d->help) > 10 && strlen(d->help) < 100);
		assert_int_equal(d->type == BB_OPT_T_ENUM || d->type == BB_OPT_T_BOOL, d->choices != NULL);
		if (*d->fallback) { /* every default is itself a good value */
			char entry[256];

			snprintf(entry, sizeof(entry), "%s=%s", d->name, d->fallback);
			parse(entry, NULL);
			assert_int_equal(nsaid, 0);
		}
	}
}

static void good_values(void **state)
{
	struct bb_options o = parse("BB_LOCAL=256M", "BB_LOG=debug");

	assert_int_equal(o.num[BB_OPT_LOCAL], 256 << 20);
	assert_true(o.set[BB_OPT_LOCAL]);
	assert_int_equal(o.num[BB_OPT_LOG], BB_LOG_DEBUG);
	o = parse("BB_PREFETCH=off", "BB_PLACE=local");
	assert_int_equal(o.num[BB_OPT_PREFETCH], 0);
	assert_int_equal(o.num[BB_OPT_PLACE], 1);
	o = parse("BB_PREFETCH=1", "BB_PLACE=17");
	assert_int_equal(o.num[BB_OPT_PREFETCH], 1);
	assert_int_equal(o.num[BB_OPT_PLACE], 2);
	assert_string_equal(o.str[BB_OPT_PLACE], "17");
	o = parse("BB_STATS=/tmp/x=y.json", "BB_ONLY=redis-server,sort");
	assert_string_equal(o.str[BB_OPT_STATS], "/tmp/x=y.json");
	assert_true(bb_list_has(o.str[BB_OPT_ONLY], "sort"));
	o = parse("BB_LOCAL=1G", "BB_LOCAL=2G"); /* as getenv: the first */
	assert_int_equal(o.num[BB_OPT_LOCAL], 1 << 30);
	o = parse("BB_LOCAL=", "BB_LOG=");
	assert_false(o.set[BB_OPT_LOCAL]);
	assert_int_equal(o.num[BB_OPT_LOG], BB_LOG_WARN);
	assert_int_equal(nsaid, 0);
}

static void bad_values(void **state)
{
	static const struct {
		const char *entry;
		const char *message;
	} t[] = {
		{ "BB_MIN=lots",
		  "BB_MIN=lots: expected a size such as 64K, 256M or 1.5G; using the default 128K" },
		{ "BB_MIN=1", "BB_MIN=1: expected a size of at least 4K; using the default 128K" },
		{ "BB_LOCAL=-5", "BB_LOCAL=-5: expected a size such as 64K, 256M or 1.5G; using what bbd grants" },
		{ "BB_LOG=loud", "BB_LOG=loud: expected one of: error warn info debug; using the default warn" },
		{ "BB_PREFETCH=maybe", "BB_PREFETCH=maybe: expected on or off; using the default on" },
		{ "BB_PLACE=0",
		  "BB_PLACE=0: expected one of: spread local NODE (a host's number, 1 to 65534); using the default spread" },
		{ "BB_PLACE=65535",
		  "BB_PLACE=65535: expected one of: spread local NODE (a host's number, 1 to 65534); using the default spread" },
		{ "BB_SHARE=data", "BB_SHARE=data: expected a path that begins with /; using none" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct bb_options o = parse(t[i].entry, NULL);

		assert_int_equal(nsaid, 1);
		assert_string_equal(said[0], t[i].message);
		for (int j = 0; j < BB_OPT_MAX; j++)
			assert_false(o.set[j]);
		assert_int_equal(o.num[BB_OPT_MIN], 128 << 10);
		assert_int_equal(o.num[BB_OPT_LOCAL], 0);
	}
}

static void unknown_names(void **state)
{
	static const struct {
		const char *entry;
		const char *message;
	} t[] = {
		{ "BB_LOCL=1", "BB_LOCL is not a BlueBridge variable; did you mean BB_LOCAL?" },
		{ "BB_LCOAL=1", "BB_LCOAL is not a BlueBridge variable; did you mean BB_LOCAL?" },
		{ "BB_local=1", "BB_local is not a BlueBridge variable; did you mean BB_LOCAL?" },
		{ "BB_STAT=1", "BB_STAT is not a BlueBridge variable; did you mean BB_STATS?" },
		{ "BB_QQQQQQQQ=1", "BB_QQQQQQQQ is not a BlueBridge variable; bb(7) lists them" },
		{ "BB_=1", "BB_ is not a BlueBridge variable; bb(7) lists them" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		parse(t[i].entry, NULL);
		assert_int_equal(nsaid, 1);
		assert_string_equal(said[0], t[i].message);
	}
	parse("BB_TEST_X=1", "BB_NODE=3");
	assert_int_equal(nsaid, 0);
	parse("BB_RACK_DIR=/x", "BB_BENCH_N=3");
	assert_int_equal(nsaid, 0);
	parse("BB_WITHOUT_EQUALS", "XBB_LOCL=1");
	assert_int_equal(nsaid, 0);
}

static void monstrous_entries(void **state)
{
	static char big[70000];

	memset(big, 'A', sizeof(big) - 1);
	memcpy(big, "BB_", 3);
	big[60000] = '=';
	parse(big, NULL);
	assert_int_equal(nsaid, 1);
	memset(big, '9', sizeof(big) - 1);
	memcpy(big, "BB_LOCAL=", 9);
	parse(big, NULL);
	assert_int_equal(nsaid, 1);
	assert_true(strlen(said[0]) < 300);
	memcpy(big, "BB_SOCKET=", 10);
	assert_string_equal(parse(big, NULL).str[BB_OPT_SOCKET], BB_SOCKET_DEFAULT);
	assert_int_equal(nsaid, 1);
}

static void lists(void **state)
{
	assert_true(bb_list_has("a,bc,d", "bc"));
	assert_true(bb_list_has("bc", "bc"));
	assert_true(bb_list_has(" a , bc ", "bc"));
	assert_false(bb_list_has("a,bcd", "bc"));
	assert_false(bb_list_has("", "bc"));
	assert_false(bb_list_has(",,", ""));
	assert_false(bb_list_has(NULL, "a"));
	assert_true(bb_list_has(",,x,", "x"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes),	cmocka_unit_test(sizes_for_people), cmocka_unit_test(defaults),
		cmocka_unit_test(table_is_whole), cmocka_unit_test(good_values),    cmocka_unit_test(bad_values),
		cmocka_unit_test(unknown_names),  cmocka_unit_test(monstrous_entries), cmocka_unit_test(lists),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
