/* SPDX-License-Identifier: MIT */
/* The ring of the last faults: what is written is read, whole or not at all, and what is missed is counted. */
#include "pager/trace.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "clock.h"

/* Every field follows from the number, so that a mixture of two is seen. */
static struct bb_trace_fault made(uint64_t n)
{
	struct bb_trace_fault f = {
		.t_end = n * 0x9e3779b97f4a7c15ULL,
		.ptr = ~n,
		.page = (uint32_t)n,
		.pages = (uint32_t)(n ^ 0x5a5a5a5a),
		.node = (uint16_t)(n * 7),
		.kind = (enum bb_trace_kind)(n % BB_TRACE_KINDS),
	};

	for (unsigned int i = 0; i < BB_PART_TOTAL; i++)
		f.part[i] = (uint32_t)(n * (i + 3));
	return f;
}

static bool same(const struct bb_trace_fault *a, const struct bb_trace_fault *b)
{
	return a->t_end == b->t_end && a->ptr == b->ptr && a->page == b->page && a->pages == b->pages &&
	       a->node == b->node && a->kind == b->kind && !memcmp(a->part, b->part, sizeof(a->part));
}

static int ring(void **state)
{
	*state = bb_trace_new();
	return *state ? 0 : -1;
}

static int unring(void **state)
{
	bb_trace_free(*state);
	return 0;
}

static void what_is_written_is_read(void **state)
{
	struct bb_trace_fault f[8];
	struct bb_trace *t = *state;
	uint64_t at = 0, lost = 0;

	assert_int_equal(bb_trace_read(t, &at, f, 8, &lost), 0);
	for (uint64_t n = 0; n < 11; n++) {
		struct bb_trace_fault m = made(n);

		bb_trace_add(t, &m);
	}
	assert_int_equal(bb_trace_read(t, &at, f, 8, &lost), 8);
	assert_int_equal(at, 8);
	for (uint64_t n = 0; n < 8; n++) {
		struct bb_trace_fault m = made(n);

		assert_true(same(&f[n], &m));
	}
	assert_int_equal(bb_trace_read(t, &at, f, 8, &lost), 3);
	assert_int_equal(bb_trace_read(t, &at, f, 8, &lost), 0);
	assert_int_equal(at, 11);
	assert_int_equal(lost, 0);
}

static void what_is_missed_is_counted(void **state)
{
	static struct bb_trace_fault f[BB_TRACE_RECORDS + 1];
	struct bb_trace *t = *state;
	uint64_t at = 5, lost = 0;

	for (uint64_t n = 0; n < BB_TRACE_RECORDS + 100; n++) {
		struct bb_trace_fault m = made(n);

		bb_trace_add(t, &m);
	}
	assert_int_equal(bb_trace_read(t, &at, f, BB_TRACE_RECORDS + 1, &lost), BB_TRACE_RECORDS);
	assert_int_equal(lost, 95);
	for (uint64_t n = 0; n < BB_TRACE_RECORDS; n++) {
		struct bb_trace_fault m = made(n + 100);

		assert_true(same(&f[n], &m));
	}
}

/* A number of another ring, or of somebody's fancy. */
static void a_number_to_come(void **state)
{
	uint64_t at = UINT64_MAX, lost = 0;
	struct bb_trace_fault f, m = made(1);

	bb_trace_add(*state, &m);
	assert_int_equal(bb_trace_read(*state, &at, &f, 1, &lost), 0);
	assert_int_equal(at, 1);
	assert_int_equal(lost, 0);
}

/* Minutes fit as well, in coarser steps; the sum is that of the parts in any case. */
static void long_parts(void **state)
{
	struct bb_trace_fault f, m = { .part = { 100, 0, 3600ULL * 1000000000, 5000000000ULL, UINT32_MAX } };
	uint64_t at = 0, lost = 0;

	bb_trace_add(*state, &m);
	assert_int_equal(bb_trace_read(*state, &at, &f, 1, &lost), 1);
	for (int i = 0; i < BB_PART_TOTAL; i++) {
		assert_true(f.part[i] <= m.part[i]);
		assert_true(m.part[i] - f.part[i] < 1024);
	}
	assert_int_equal(bb_trace_total(&f), f.part[0] + f.part[1] + f.part[2] + f.part[3] + f.part[4]);
}

#define RACE 2000000ULL

static void *writer(void *arg)
{
	for (uint64_t n = 0; n < RACE; n++) {
		struct bb_trace_fault m = made(n);

		bb_trace_add(arg, &m);
	}
	return NULL;
}

/* One writes as fast as it can: every fault is read as it was written, in order, or counted as missed. */
static void while_it_is_written(void **state)
{
	struct bb_trace_fault f[64];
	struct bb_trace *t = *state;
	uint64_t at = 0, lost = 0, seen = 0, deadline = bb_now_ns() + 60000000000ULL;
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, writer, t), 0);
	while (at < RACE && bb_now_ns() < deadline) {
		uint64_t from = at;
		size_t n = bb_trace_read(t, &at, f, 64, &lost);

		for (size_t i = 0; i < n; i++) {
			struct bb_trace_fault m = made(~f[i].ptr);

			assert_true(same(&f[i], &m));
			assert_true(~f[i].ptr >= from && ~f[i].ptr < at);
			from = ~f[i].ptr + 1;
		}
		seen += n;
	}
	pthread_join(thread, NULL);
	assert_int_equal(at, RACE);
	assert_int_equal(seen + lost, RACE);
	assert_true(seen > 0);
}

/* What a fault pays. A bound so wide that no machine misses it; the figure is printed. */
static void cost(void **state)
{
	struct bb_trace_fault m = made(1);
	uint64_t best = UINT64_MAX;

	for (int turn = 0; turn < 20; turn++) {
		uint64_t t = bb_now_ns();

		for (int i = 0; i < 20000; i++) {
			m.t_end = t;
			bb_trace_add(*state, &m);
		}
		t = (bb_now_ns() - t) / 20000;
		if (t < best)
			best = t;
	}
	print_message("# a record costs %lu ns\n", (unsigned long)best);
	assert_true(best < 2000);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, ring, unring)
	const struct CMUnitTest tests[] = {
		TEST(what_is_written_is_read), TEST(what_is_missed_is_counted), TEST(a_number_to_come),
		TEST(long_parts),	       TEST(while_it_is_written),	 TEST(cost),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
