/* SPDX-License-Identifier: MIT */
/* Seats: how a socket goes from the thread that may make it to the one that uses it, and back. */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <bluebridge/steer.h>

#include "net/xsk.h"

static char something; /* nobody looks into the socket */

static void test_seats(void **state)
{
	struct bb_xsk *const one = (struct bb_xsk *)&something;

	assert_false(bb_xsk_offer(3, one));
	assert_true(bb_xsk_want(3));
	assert_false(bb_xsk_want(3));
	assert_int_equal(bb_xsk_seat(3), BB_SEAT_WANTED);
	assert_null(bb_xsk_take(3));
	assert_true(bb_xsk_offer(3, one));
	assert_false(bb_xsk_offer(3, one));
	bb_xsk_ask(3); /* not before it is used */
	assert_int_equal(bb_xsk_seat(3), BB_SEAT_OFFERED);
	assert_ptr_equal(bb_xsk_take(3), one);
	assert_null(bb_xsk_take(3));
	assert_null(bb_xsk_collect(3));
	bb_xsk_ask(3);
	assert_int_equal(bb_xsk_seat(3), BB_SEAT_ASKED);
	bb_xsk_leave(3);
	bb_xsk_leave(3);
	assert_false(bb_xsk_want(3)); /* not before the last one was collected */
	assert_ptr_equal(bb_xsk_collect(3), one);
	assert_null(bb_xsk_collect(3));
	/* Its user ends before it was made, and before it was taken. */
	bb_xsk_want(3);
	bb_xsk_leave(3);
	assert_false(bb_xsk_offer(3, one));
	bb_xsk_want(3);
	assert_true(bb_xsk_offer(3, one));
	bb_xsk_leave(3);
	assert_ptr_equal(bb_xsk_collect(3), one);
	assert_int_equal(bb_xsk_seat(3), BB_SEAT_FREE);
	bb_xsk_want(BB_XSK_MAX);
	assert_int_equal(bb_xsk_seat(BB_XSK_MAX), BB_SEAT_FREE);
	assert_false(bb_xsk_offer(BB_XSK_MAX, one));
}

#define TURNS 20000

static int token; /* whoever has the socket adds to it */
static bool finished;

static void *user(void *arg)
{
	unsigned int had = 0;
	bool has = false;

	while (had < TURNS) {
		const enum bb_seat s = bb_xsk_seat(4);

		if (s == BB_SEAT_FREE)
			bb_xsk_want(4);
		if (!has && bb_xsk_take(4))
			has = true;
		if (has)
			token++;
		if (has && (s == BB_SEAT_ASKED || had % 3 == 0)) {
			has = false;
			had++;
			bb_xsk_leave(4);
		}
	}
	bb_xsk_leave(4);
	__atomic_store_n(&finished, true, __ATOMIC_RELEASE);
	return NULL;
}

static void test_seats_from_two_threads(void **state)
{
	bool out = false; /* with the user */
	unsigned int n = 0;
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, user, NULL), 0);
	while (!__atomic_load_n(&finished, __ATOMIC_ACQUIRE) || out) {
		if (!out) {
			token = (int)n;
			out = bb_xsk_offer(4, (struct bb_xsk *)&something);
		} else {
			bb_xsk_ask(4);
			if (bb_xsk_collect(4)) {
				assert_true(token >= (int)n);
				out = false;
				n++;
			} else {
				sched_yield();
			}
		}
	}
	pthread_join(t, NULL);
	assert_in_range(n, TURNS, TURNS + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_seats),
		cmocka_unit_test(test_seats_from_two_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
