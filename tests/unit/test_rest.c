/* SPDX-License-Identifier: MIT */
/* rest: which way of waiting the pager takes, for programs that cost one way or the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "pager/program.h"

#define FAULTS 4096u

static struct bb_pager *pg;
static uint64_t now = 1000000000;

static int setup(void **state)
{
	pg = calloc(1, sizeof(*pg));
	return pg ? 0 : -1;
}

static int teardown(void **state)
{
	bb_latency_end(&pg->latency);
	free(pg);
	return 0;
}

/* So many faults, which come that long after the last page was there. Return: waited for asleep. */
static unsigned int faults(unsigned int n, uint64_t spin_ns, uint64_t sleep_ns)
{
	unsigned int asleep = 0;

	for (unsigned int i = 0; i < n; i++) {
		const bool sleeps = pg->rest.way == BB_REST_SLEEP;

		asleep += sleeps;
		pg->rest.since = now;
		now += sleeps ? sleep_ns : spin_ns;
		bb_rest_fault(pg, now);
		assert_int_equal(pg->rest.since, 0);
	}
	return asleep;
}

/* The program is on the pager's CPU, in another session: it goes on when the spinning is over. */
static void sleeps_where_spinning_is_in_the_way(void **state)
{
	assert_in_range(faults(FAULTS, 52000, 6000), FAULTS * 98 / 100, FAULTS);
}

/* It is on another CPU, and to be woken takes long. */
static void spins_where_waking_is_dear(void **state)
{
	faults(512, 6000, 48000); /* sleeping is what it begins with */
	assert_in_range(faults(FAULTS, 6000, 48000), 0, FAULTS * 2 / 100);
}

static void sleeps_where_it_does_not_matter(void **state)
{
	assert_in_range(faults(FAULTS, 6000, 6300), FAULTS * 98 / 100, FAULTS);
	/* Nor where the program computes for longer than either takes. */
	assert_in_range(faults(FAULTS, 5000000, 5040000), FAULTS * 98 / 100, FAULTS);
}

static void changes_with_the_program(void **state)
{
	faults(FAULTS, 52000, 6000);
	faults(1024, 6000, 48000); /* it was moved to another CPU */
	assert_in_range(faults(FAULTS, 6000, 48000), 0, FAULTS * 2 / 100);
	faults(1024, 52000, 6000);
	assert_in_range(faults(FAULTS, 52000, 6000), FAULTS * 98 / 100, FAULTS);
}

static void faults_in_a_row_measure_nothing(void **state)
{
	faults(FAULTS, 52000, 6000);
	for (unsigned int i = 0; i < FAULTS; i++) /* nothing was waited for */
		bb_rest_fault(pg, now += 100);
	assert_false(pg->rest.spins);
	assert_in_range(pg->rest.took[BB_REST_SLEEP], 5000, 7000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(sleeps_where_spinning_is_in_the_way, setup, teardown),
		cmocka_unit_test_setup_teardown(spins_where_waking_is_dear, setup, teardown),
		cmocka_unit_test_setup_teardown(sleeps_where_it_does_not_matter, setup, teardown),
		cmocka_unit_test_setup_teardown(changes_with_the_program, setup, teardown),
		cmocka_unit_test_setup_teardown(faults_in_a_row_measure_nothing, setup, teardown),
	};

	return cmocka_run_group_tests_name("rest", tests, NULL, NULL);
}
