/* SPDX-License-Identifier: MIT */
/* Buckets, quantiles and concurrent additions of the histogram. */
#include "hist.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void empty(void **state)
{
	static struct bb_hist h;

	assert_int_equal(bb_hist_quantile(&h, 500), 0);
	assert_int_equal(bb_hist_quantile(&h, 1000), 0);
}

/* A single value comes back within the width of its bucket, whatever its size. */
static void one_value_error(void **state)
{
	static struct bb_hist h;

	for (uint64_t v = 1; v < 1ULL << 40; v = v * 9 / 8 + 1) {
		uint64_t q, err;

		bb_hist_reset(&h);
		bb_hist_add(&h, v);
		q = bb_hist_quantile(&h, 500);
		err = q > v ? q - v : v - q;
		assert_true(err * 16 <= v);
		assert_true(q <= v); /* never above the maximum seen */
	}
}

static void huge_values_are_kept(void **state)
{
	static struct bb_hist h;

	bb_hist_add(&h, UINT64_MAX);
	assert_int_equal(h.count, 1);
	assert_int_equal(h.max, UINT64_MAX);
	assert_int_equal(h.bucket[BB_HIST_BUCKETS - 1], 1);
	assert_true(bb_hist_quantile(&h, 1000) > 1ULL << 39);
}

static void quantiles_rise(void **state)
{
	static struct bb_hist h;
	uint64_t last = 0;

	for (uint64_t v = 1; v <= 100000; v++)
		bb_hist_add(&h, v);
	for (unsigned int q = 0; q <= 1000; q++) {
		uint64_t ns = bb_hist_quantile(&h, q), want = (uint64_t)q * 100;

		assert_true(ns >= last);
		assert_true(ns + want / 16 + 16 >= want && ns <= want + want / 16 + 16);
		last = ns;
	}
	assert_int_equal(bb_hist_quantile(&h, 5000), last);
	assert_int_equal(h.count, 100000);
	assert_int_equal(h.sum, 100000ULL * 100001 / 2);
	assert_int_equal(h.max, 100000);
}

static struct bb_hist shared;

static void *adder(void *arg)
{
	for (uint64_t i = 0; i < 100000; i++)
		bb_hist_add(&shared, i % 5000);
	return NULL;
}

static void read_while_it_grows(void **state)
{
	pthread_t t;
	uint64_t total = 0, last = 0, n;

	assert_int_equal(pthread_create(&t, NULL, adder, NULL), 0);
	do {
		n = atomic_load(&shared.count);
		assert_true(n >= last);
		assert_true(bb_hist_quantile(&shared, 500) < 5000);
		last = n;
	} while (n < 100000);
	pthread_join(t, NULL);
	for (int i = 0; i < BB_HIST_BUCKETS; i++)
		total += shared.bucket[i];
	assert_int_equal(total, 100000);
	assert_int_equal(shared.max, 4999);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty),
		cmocka_unit_test(one_value_error),
		cmocka_unit_test(huge_values_are_kept),
		cmocka_unit_test(quantiles_rise),
		cmocka_unit_test(read_while_it_grows),
	};

	return cmocka_run_group_tests_name("hist", tests, NULL, NULL);
}
