/* SPDX-License-Identifier: MIT */
/* latency: when the request is made and withdrawn, seen through a pipe in place of the device. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "latency.h"

#define US 1000ULL
#define MS 1000000ULL
#define ANY 2000000000

static int fds[2];

static int setup(void **state)
{
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return -1;
	bb_latency_start_at(fds[1], 2);
	return 0;
}

static int teardown(void **state)
{
	bb_latency_start_at(-1, 0);
	close(fds[0]);
	close(fds[1]);
	return 0;
}

/* What was asked for since; -1: nothing. */
static int32_t asked(void)
{
	int32_t v;

	return read(fds[0], &v, sizeof(v)) == sizeof(v) ? v : -1;
}

static uint64_t storm(struct bb_latency *l, uint64_t now, unsigned int n, uint64_t apart)
{
	for (unsigned int i = 0; i < n; i++, now += apart)
		bb_latency_event(l, now);
	return now;
}

static void rare_events_ask_for_nothing(void **state)
{
	struct bb_latency l = { 0 };

	storm(&l, 1000 * MS, 1000, 600 * US);
	assert_int_equal(asked(), -1);
	assert_true(bb_latency_sleep(&l, 2000 * MS) == ~0ULL);
	assert_string_equal(bb_latency_state(), "ready");
}

static void a_few_are_not_many(void **state)
{
	struct bb_latency l = { 0 };
	uint64_t now = 1000 * MS;

	for (int i = 0; i < 50; i++)
		now = storm(&l, now + MS, 8, 10 * US);
	assert_int_equal(asked(), -1);
	storm(&l, now + MS, 9, 10 * US);
	assert_int_equal(asked(), 2);
	bb_latency_end(&l);
}

static void held_until_quiet(void **state)
{
	struct bb_latency l = { 0 };
	uint64_t now = storm(&l, 1000 * MS, 100, 10 * US), wait;

	assert_int_equal(asked(), 2);
	assert_int_equal(asked(), -1); /* once */
	assert_string_equal(bb_latency_state(), "held");
	wait = bb_latency_sleep(&l, now);
	assert_in_range(wait, 1, 20 * MS);
	assert_int_equal(asked(), -1);
	/* More come meanwhile: longer. */
	now = storm(&l, now + wait - 1, 1, 0);
	assert_in_range(bb_latency_sleep(&l, now + 1), 1, 20 * MS);
	assert_int_equal(asked(), -1);
	assert_true(bb_latency_sleep(&l, now + 20 * MS) == ~0ULL);
	assert_int_equal(asked(), ANY);
	assert_string_equal(bb_latency_state(), "ready");
	/* And again. */
	storm(&l, now + 40 * MS, 20, 10 * US);
	assert_int_equal(asked(), 2);
	bb_latency_end(&l);
	assert_int_equal(asked(), ANY);
}

static void of_two_threads_the_last(void **state)
{
	struct bb_latency a = { 0 }, b = { 0 };

	storm(&a, 1000 * MS, 20, US);
	storm(&b, 1000 * MS, 20, US);
	assert_int_equal(asked(), 2);
	bb_latency_end(&a);
	bb_latency_end(&a);
	assert_int_equal(asked(), -1);
	bb_latency_end(&b);
	assert_int_equal(asked(), ANY);
	assert_int_equal(asked(), -1);
}

static void *storms(void *arg)
{
	struct bb_latency l = { 0 };
	uint64_t now = 1000 * MS;

	for (int i = 0; i < 200; i++) {
		now = storm(&l, now, 20, US);
		if (i % 3)
			bb_latency_end(&l);
		else
			bb_latency_sleep(&l, now += 30 * MS);
	}
	bb_latency_end(&l);
	return NULL;
}

static void threads(void **state)
{
	pthread_t t[4];
	int32_t v, last = ANY;

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, storms, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	/* Asked for and withdrawn in turns, and withdrawn at the end. */
	while ((v = asked()) != -1) {
		assert_int_not_equal(v, last);
		last = v;
	}
	assert_int_equal(last, ANY);
	assert_string_equal(bb_latency_state(), "ready");
}

static void without_the_device(void **state)
{
	struct bb_latency l = { 0 };

	bb_latency_start_at(-1, 0);
	storm(&l, 1000 * MS, 100, US);
	assert_false(l.holds);
	assert_true(bb_latency_sleep(&l, 1001 * MS) == ~0ULL);
	assert_int_equal(asked(), -1);
	assert_string_equal(bb_latency_state(), "not asked for");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(rare_events_ask_for_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_few_are_not_many, setup, teardown),
		cmocka_unit_test_setup_teardown(held_until_quiet, setup, teardown),
		cmocka_unit_test_setup_teardown(of_two_threads_the_last, setup, teardown),
		cmocka_unit_test_setup_teardown(threads, setup, teardown),
		cmocka_unit_test_setup_teardown(without_the_device, setup, teardown),
	};

	return cmocka_run_group_tests_name("latency", tests, NULL, NULL);
}
