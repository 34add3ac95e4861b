/* SPDX-License-Identifier: MIT */
/* The injected network: what its rules mean, and that each does just that. */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#include "clock.h"
#include "log.h"
#include "net/hello.h"
#include "net/inject.h"

#define LEN 200

/* --- the text --------------------------------------------------------------- */

static void test_good(void **state)
{
	struct bb_inject_rules r;

	assert_int_equal(bb_inject_parse(&r, "off"), 0);
	assert_int_equal(r.n, 0);
	assert_int_equal(bb_inject_parse(&r, "drop=5,dup=6,delay=7,seed=8"), 0);
	assert_int_equal(r.n, 1);
	assert_int_equal(r.seed, 8);
	assert_int_equal(r.rule[0].percent[BB_INJECT_DROP], 5);
	assert_int_equal(r.rule[0].percent[BB_INJECT_DUP], 6);
	assert_int_equal(r.rule[0].percent[BB_INJECT_DELAY], 7);
	assert_int_equal(r.rule[0].cmd, -1);
	assert_int_equal(r.rule[0].ms, 1);
	assert_int_equal(bb_inject_parse(&r, "drop=100,over=1500,dir=reply,cmd=READ_RUN,node=65534;again=100,ms=50,nth=3;"
					     "reorder=1,corrupt=2,after=10,for=20"),
			 0);
	assert_int_equal(r.n, 3);
	assert_int_equal(r.rule[0].over, 1500);
	assert_int_equal(r.rule[0].dir, BB_INJECT_REPLY);
	assert_int_equal(r.rule[0].cmd, BB_CMD_READ_RUN);
	assert_int_equal(r.rule[0].node, 65534);
	assert_int_equal(r.rule[1].percent[BB_INJECT_AGAIN], 100);
	assert_int_equal(r.rule[1].nth, 3);
	assert_int_equal(r.rule[1].ms, 50);
	assert_int_equal(r.rule[2].after_ms, 10);
	assert_int_equal(r.rule[2].for_ms, 20);
}

static void test_bad(void **state)
{
	static const char *const bad[] = {
		"drop",	     "drop=",	   "drop=101",	   "drop=-1",	 "drop=5x",	    "drop=5,",	  "drop=5;",
		",drop=5",   ";drop=5",	   "dropp=5",	   "dro=5",	 "cmd=read",	    "cmd=",	  "dir=in",
		"node=65536", "over=65536", "on",	   "offf",	 "drop=5,,dup=5",   "drop=5;;dup=5", "nth=9999999999999999999",
		"ms=60001",  "=5",	   "drop=5 ",	   "drop==5",	 "drop=5dup=5",
		"drop=1;drop=1;drop=1;drop=1;drop=1;drop=1;drop=1;drop=1;drop=1",
	};
	char longer[BB_INJECT_TEXT + 1];
	struct bb_inject_rules r;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (bb_inject_parse(&r, bad[i]) != -EINVAL)
			fail_msg("\"%s\" was taken", bad[i]);
	memset(longer, '1', sizeof(longer));
	memcpy(longer, "seed=", 5);
	longer[BB_INJECT_TEXT] = 0;
	assert_int_equal(bb_inject_parse(&r, longer), -EINVAL);
}

/* --- packets ---------------------------------------------------------------- */

struct got {
	unsigned int n;
	uint32_t order[4096];
	uint8_t last[LEN];
};

static void take(void *arg, const struct bb_sock_packet *p)
{
	struct got *g = arg;

	memcpy(&g->order[g->n++], p->data + 8, 4);
	memcpy(g->last, p->data, LEN);
}

/* The k-th packet of its kind: to or from node, request or reply. */
static void packet(struct bb_inject *i, struct got *g, uint32_t k, uint16_t node, uint8_t cmd, size_t len)
{
	static uint8_t data[9000];
	struct bb_gptr far = { .node = node }, near = { .node = 1 };
	struct bb_sock_packet p = { .data = data, .len = len };

	memset(data, 0x55, sizeof(data));
	memcpy(data + 8, &k, 4);
	if (cmd & BB_CMD_REPLY)
		far.cmd = cmd;
	else
		near.cmd = cmd;
	bb_gptr_encode(&far, &p.from.sin6_addr);
	bb_gptr_encode(&near, &p.to);
	bb_inject_packet(i, &p, take, g);
}

static struct bb_inject *make(const char *text)
{
	struct bb_inject *i = NULL;

	setenv("BB_TEST_NET", "off", 1);
	assert_int_equal(bb_inject_new(&i, 1), 0);
	assert_non_null(i);
	assert_int_equal(bb_inject_set(text), 0);
	return i;
}

static uint64_t done(enum bb_inject_what what)
{
	struct bb_inject_stats s;

	bb_inject_stats(&s);
	return s.done[what];
}

static struct got g;

static void test_not_enabled(void **state)
{
	struct bb_inject *i = (void *)1;

	unsetenv("BB_TEST_NET");
	assert_int_equal(bb_inject_new(&i, 1), 0);
	assert_null(i);
	assert_false(bb_inject_enabled());
	assert_int_equal(bb_inject_set("drop=5"), -ENOENT);
	setenv("BB_TEST_NET", "nonsense", 1);
	assert_int_equal(bb_inject_new(&i, 1), 0);
	assert_null(i);
	assert_false(bb_inject_enabled());
}

static void test_percent(void **state)
{
	struct bb_inject *i = make("drop=10,dup=10");
	struct bb_inject_stats s;
	unsigned int n[2];

	for (int round = 0; round < 2; round++) {
		memset(&g, 0, sizeof(g));
		for (uint32_t k = 0; k < 2000; k++)
			packet(i, &g, k, 2, BB_CMD_READ, LEN);
		bb_inject_stats(&s);
		assert_int_equal(s.seen, 2000);
		assert_in_range(s.done[BB_INJECT_DROP], 100, 320);
		assert_in_range(s.done[BB_INJECT_DUP], 100, 320);
		assert_int_equal(g.n, 2000 - s.done[BB_INJECT_DROP] + s.done[BB_INJECT_DUP]);
		n[round] = (unsigned int)s.done[BB_INJECT_DROP];
		assert_int_equal(bb_inject_set("drop=10,dup=10"), 0);
	}
	assert_int_equal(n[0], n[1]); /* the same seed, the same faults */
	assert_int_equal(bb_inject_set("drop=10,seed=2"), 0);
	assert_int_equal(bb_inject_set("droop=10"), -EINVAL); /* and what was set stays */
	bb_inject_stats(&s);
	assert_string_equal(s.text, "drop=10,seed=2");
	bb_inject_free(i);
}

static void test_nth(void **state)
{
	struct bb_inject *i = make("drop=100,nth=3"), *j = NULL;

	memset(&g, 0, sizeof(g));
	for (uint32_t k = 1; k <= 5; k++)
		packet(i, &g, k, 2, BB_CMD_READ, LEN);
	assert_int_equal(g.n, 4);
	assert_int_equal(g.order[2], 4);
	/* Counted over all sockets; only what the rule is for. */
	assert_int_equal(bb_inject_set("drop=100,nth=3,cmd=WRITE,dir=reply"), 0);
	setenv("BB_TEST_NET", "drop=100,nth=3,cmd=WRITE,dir=reply", 1);
	assert_int_equal(bb_inject_new(&j, 2), 0);
	memset(&g, 0, sizeof(g));
	for (uint32_t k = 1; k <= 4; k++) {
		packet(i, &g, k, 2, BB_CMD_WRITE, LEN);
		packet(j, &g, k + 10, 2, BB_CMD_READ | BB_CMD_REPLY, LEN);
		packet(k % 2 ? i : j, &g, k + 20, 2, BB_CMD_WRITE | BB_CMD_REPLY, LEN);
	}
	assert_int_equal(g.n, 11);
	assert_int_equal(done(BB_INJECT_DROP), 1);
	for (unsigned int k = 0; k < g.n; k++)
		assert_int_not_equal(g.order[k], 23);
	bb_inject_free(i);
	bb_inject_free(j);
}

static void test_which(void **state)
{
	struct bb_inject *i = make("drop=100,over=1500;drop=100,node=3");

	memset(&g, 0, sizeof(g));
	packet(i, &g, 1, 2, BB_CMD_READ, 1452);
	packet(i, &g, 2, 2, BB_CMD_READ, 1453);
	packet(i, &g, 3, 3, BB_CMD_READ, LEN);
	packet(i, &g, 4, 3, BB_CMD_READ | BB_CMD_REPLY, LEN);
	packet(i, &g, 5, 2, BB_CMD_READ | BB_CMD_REPLY, LEN);
	assert_int_equal(g.n, 2);
	assert_int_equal(g.order[1], 5);
	bb_inject_free(i);
}

static void test_hello(void **state)
{
	struct bb_inject *i = make("drop=100,dir=hello,node=3");
	uint8_t data[sizeof(struct bb_hdr) + BB_HELLO_BYTES + LEN] = { 0 };
	struct bb_hello h = { .port = 1, .boot = 1 };
	struct bb_sock_packet p = { .data = data, .len = sizeof(data) };

	p.from.sin6_addr = (struct in6_addr){ .s6_addr = { 0xfe, 0x80, [15] = 9 } };
	p.to = (struct in6_addr){ .s6_addr = { 0xff, 0x12, [15] = 0xbb } };
	for (uint16_t node = 2; node <= 4; node++) {
		memset(&g, 0, sizeof(g));
		h.node = node;
		bb_hello_encode(&h, data + sizeof(struct bb_hdr));
		bb_inject_packet(i, &p, take, &g);
		assert_int_equal(g.n, node != 3);
	}
	bb_inject_free(i);
}

static void test_corrupt(void **state)
{
	struct bb_inject *i = make("corrupt=100,nth=2");
	uint8_t before[LEN];
	unsigned int bits = 0;

	memset(&g, 0, sizeof(g));
	packet(i, &g, 7, 2, BB_CMD_READ, LEN);
	memcpy(before, g.last, LEN);
	packet(i, &g, 7, 2, BB_CMD_READ, LEN);
	for (unsigned int k = 0; k < LEN; k++)
		bits += (unsigned int)__builtin_popcount((unsigned int)(before[k] ^ g.last[k]));
	assert_int_equal(bits, 1);
	packet(i, &g, 7, 2, BB_CMD_READ, LEN);
	assert_memory_equal(before, g.last, LEN);
	bb_inject_free(i);
}

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

static void test_late(void **state)
{
	struct bb_inject *i = make("delay=100,ms=40,nth=1;again=100,ms=40,nth=1");
	const uint64_t before = bb_now_ns();

	memset(&g, 0, sizeof(g));
	assert_true(bb_inject_next(i) == ~0ULL);
	packet(i, &g, 1, 2, BB_CMD_READ, LEN); /* later */
	packet(i, &g, 2, 2, BB_CMD_READ, LEN); /* now and later */
	packet(i, &g, 3, 2, BB_CMD_READ, LEN);
	bb_inject_poll(i, take, &g);
	if (bb_now_ns() < before + 40000000) {
		assert_int_equal(g.n, 2);
		assert_int_equal(g.order[1], 3);
	}
	assert_in_range(bb_inject_next(i), before + 40000000, bb_now_ns() + 40000000);
	/* They come even where the rules have changed meanwhile. */
	assert_int_equal(bb_inject_set("off"), 0);
	sleep_ms(60);
	bb_inject_poll(i, take, &g);
	assert_int_equal(g.n, 4);
	assert_int_equal(g.order[g.n - 1] + g.order[g.n - 2], 3);
	assert_true(bb_inject_next(i) == ~0ULL);
	bb_inject_free(i);
}

static void test_reorder(void **state)
{
	struct bb_inject *i = make("reorder=20,ms=10000");
	static bool had[1000];
	unsigned int behind = 0;

	memset(&g, 0, sizeof(g));
	memset(had, 0, sizeof(had));
	for (uint32_t k = 0; k < 1000; k++)
		packet(i, &g, k, 2, BB_CMD_READ, LEN);
	assert_in_range(g.n, 1000 - 8, 1000); /* some are still to be overtaken */
	for (unsigned int k = 0; k < g.n; k++) {
		assert_false(had[g.order[k]]);
		had[g.order[k]] = true;
		behind += k && g.order[k] < g.order[k - 1];
		assert_true(g.order[k] <= k + 8 && k <= g.order[k] + 16);
	}
	assert_in_range(behind, 50, 300);
	bb_inject_free(i);
}

static void test_window(void **state)
{
	struct bb_inject *i = make("drop=100,after=30,for=30");
	uint64_t set = bb_now_ns(), now;

	memset(&g, 0, sizeof(g));
	packet(i, &g, 1, 2, BB_CMD_READ, LEN);
	if (bb_now_ns() < set + 30000000)
		assert_int_equal(g.n, 1);
	sleep_ms(40);
	g.n = 0;
	packet(i, &g, 2, 2, BB_CMD_READ, LEN);
	now = bb_now_ns();
	if (now < set + 59000000)
		assert_int_equal(g.n, 0);
	sleep_ms(30);
	g.n = 0;
	packet(i, &g, 3, 2, BB_CMD_READ, LEN);
	assert_int_equal(g.n, 1);
	bb_inject_free(i);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),   cmocka_unit_test(test_bad),    cmocka_unit_test(test_not_enabled),
		cmocka_unit_test(test_percent), cmocka_unit_test(test_nth),   cmocka_unit_test(test_which),
		cmocka_unit_test(test_hello),  cmocka_unit_test(test_corrupt), cmocka_unit_test(test_late),
		cmocka_unit_test(test_reorder), cmocka_unit_test(test_window),
	};

	bb_log_init("test_inject", BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
