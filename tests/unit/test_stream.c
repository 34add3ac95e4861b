/* SPDX-License-Identifier: MIT */
/*
 * stream: walks of one thread and many, one array and several, and what random
 * access makes of them. The world here is what prefetch.c makes of the answers:
 * a page that was fetched does not fault.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "pager/stream.h"

#define PAGES (1u << 20)

static struct bb_streams *t;
static unsigned char *here;
static unsigned int faults, fetched;

static int setup(void **state)
{
	t = calloc(1, sizeof(*t));
	here = calloc(1, PAGES);
	faults = fetched = 0;
	return t && here ? 0 : -1;
}

static int teardown(void **state)
{
	free(t);
	free(here);
	return 0;
}

static void hinted(uint32_t thread, uint32_t page, bool sequential)
{
	struct bb_stream *s;
	uint32_t k, n = 0;

	assert_true(page < PAGES);
	if (here[page])
		return;
	here[page] = 1;
	faults++;
	s = bb_stream_fault(t, thread, page, sequential);
	if (!s)
		return;
	assert_true(s->stride && s->window >= BB_WINDOW_MIN && s->window <= BB_WINDOW_MAX);
	for (k = 1; k <= s->window; k++) {
		int64_t q = (int64_t)page + (int64_t)s->stride * k;

		if (q < 0 || q >= PAGES)
			break;
		n += !here[q];
		here[q] = 1;
	}
	fetched += n;
	bb_stream_covered(t, s, page, k - 1, n);
}

static void touch(uint32_t thread, uint32_t page)
{
	hinted(thread, page, false);
}

static void one_walk(void **state)
{
	for (uint32_t i = 0; i < 6000; i++)
		touch(1, 1000 + i);
	assert_in_range(faults, 90, 115); /* one of 61, and the beginning */
	assert_in_range(fetched, 6000 - faults, 6000 - faults + BB_WINDOW_MAX);
	assert_int_equal(t->unused, 0);
}

static void downwards_and_by_steps(void **state)
{
	static const int32_t strides[] = { -1, 3, -17, 64, 200, -1000 };

	for (unsigned int s = 0; s < sizeof(strides) / sizeof(strides[0]); s++) {
		memset(here, 0, PAGES);
		faults = 0;
		for (int32_t i = 0; i < 500; i++)
			touch(1, (uint32_t)(PAGES / 2 + strides[s] * i));
		assert_in_range(faults, 8, 25);
	}
}

/* a[i] += b[i] * c[i], and more arrays than that, also small ones. */
static void several_arrays(void **state)
{
	for (uint32_t arrays = 2; arrays <= 14; arrays += 3) {
		for (uint32_t size = 300; size <= 4800; size *= 4) {
			memset(t, 0, sizeof(*t));
			memset(here, 0, PAGES);
			faults = 0;
			for (uint32_t i = 0; i < size; i++)
				for (uint32_t a = 0; a < arrays; a++)
					touch(1, a * size + i);
			assert_in_range(faults, arrays * (size / 61), arrays * (size / 61 + 13));
		}
	}
}

/* Each in its part, and all in the same one, page by page. */
static void threads(void **state)
{
	for (uint32_t i = 0; i < 3000; i++)
		for (uint32_t th = 1; th <= 12; th++)
			touch(th, th * 4000 + (i + th * 7) % 4000);
	assert_in_range(faults, 12 * 49, 12 * 62);
	memset(here, 0, PAGES);
	memset(t, 0, sizeof(*t));
	faults = 0;
	for (uint32_t i = 0; i < 8000; i++)
		touch(1 + i % 4, 100000 + i);
	assert_in_range(faults, 30, 200);
}

/* One goes on where another left off. */
static void work_is_handed_on(void **state)
{
	for (uint32_t i = 0; i < 6100; i++)
		touch(1 + i / 610 % 5, i);
	assert_in_range(faults, 90, 140);
}

static void random_access(void **state)
{
	uint64_t x = 88172645463325252ULL;

	/* Of much memory and of little; one thread and eight. */
	for (uint32_t pages = PAGES; pages >= 4096; pages /= 16) {
		unsigned int n = 0;

		memset(t, 0, sizeof(*t));
		fetched = 0;
		for (uint32_t i = 0; i < 400000; i++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			if (i % 512 == 0)
				memset(here, 0, PAGES);
			touch(1 + i % 8, (uint32_t)(x >> 20) % pages);
			n++;
		}
		assert_in_range(fetched, 0, n / 500);
	}
}

/* A walk that rests for hundreds of random faults of others goes on as if there had been none. */
static void a_walk_among_random_access(void **state)
{
	uint64_t x = 88172645463325252ULL;
	unsigned int before, mine = 0;

	for (uint32_t i = 0; i < 6000; i++) {
		before = faults;
		touch(1, i);
		mine += faults - before;
		for (unsigned int k = 0; k < 5; k++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			touch(2 + k % 3, 10000 + (uint32_t)(x >> 20) % (PAGES - 10000));
		}
	}
	assert_in_range(mine, 90, 130);
}

/* New walks find room beside many that have ended. */
static void walks_end(void **state)
{
	for (uint32_t w = 0; w < 200; w++) {
		unsigned int before = faults;

		for (uint32_t i = 0; i < 1000; i++)
			touch(1, w * 5000 + i);
		assert_in_range(faults - before, 16, 30);
	}
	/* Each had a window that reached beyond its end. */
	assert_in_range(t->unused, 150 * 1, 200 * BB_WINDOW_MAX);
	assert_in_range(fetched, 200 * 900, 200 * (1000 + BB_WINDOW_MAX));
}

/* Pages that are here do not break a walk; pages that are gone again make its window less. */
static void a_window_grows_and_shrinks(void **state)
{
	struct bb_stream *s = NULL;

	for (uint32_t i = 0; i < 300; i++)
		here[i] = i * 2654435761u >> 30 == 1; /* some are here already */
	for (uint32_t i = 0; i < 6000; i++)
		touch(1, i);
	assert_in_range(faults, 80, 125);
	memset(t, 0, sizeof(*t));
	for (uint32_t i = 0; i < 4; i++)
		s = bb_stream_fault(t, 1, 5000 + i, false);
	assert_non_null(s);
	assert_int_equal(s->window, BB_WINDOW_MIN);
	bb_stream_covered(t, s, 5003, 4, 4);
	s = bb_stream_fault(t, 1, 5008, false);
	assert_int_equal(s->window, 8);
	bb_stream_covered(t, s, 5008, 8, 8);
	s = bb_stream_fault(t, 1, 5012, false); /* of 5009 to 5016 */
	assert_int_equal(s->window, 4);
	assert_int_equal(t->unused, 5);
	bb_stream_covered(t, s, 5012, 4, 4);
	assert_null(bb_stream_fault(t, 1, 5013, false)); /* and again: that was the least */
	assert_int_equal(t->unused, 9);
}

static void told_that_it_is_sequential(void **state)
{
	for (uint32_t i = 0; i < 610; i++)
		hinted(1, 7000 + i, true);
	assert_int_equal(faults, 10);
	/* Also where it begins beside another walk. */
	faults = 0;
	for (uint32_t i = 0; i < 610; i++) {
		hinted(1, 20000 + i, true);
		touch(1, 30000 + i);
	}
	assert_in_range(faults, 20, 35);
}

/* The table is small and looked through for every remote fault. */
static void costs_little(void **state)
{
	struct timespec a, b;
	uint64_t x = 88172645463325252ULL, ns;
	const unsigned int n = 1000000;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (unsigned int i = 0; i < n; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		bb_stream_fault(t, 1 + i % 2, (uint32_t)(x >> 20) % PAGES, false);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	ns = (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000ULL + (uint64_t)b.tv_nsec - (uint64_t)a.tv_nsec;
	print_message("# %lu ns a random fault\n", ns / n);
	assert_in_range(ns / n, 0, 3000);
}

/* Numbers at the ends of their ranges, from a program that may say anything. */
static void any_pages(void **state)
{
	static const uint32_t odd[] = { 0, INT32_MAX, 1, INT32_MAX - 1, 0, INT32_MAX, 0, INT32_MAX, 7, 0, INT32_MAX / 2 };
	uint64_t x = 88172645463325252ULL;

	for (unsigned int i = 0; i < 300000; i++) {
		uint32_t page;
		struct bb_stream *s;

		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		page = i % 3 ? odd[(x >> 20) % (sizeof(odd) / sizeof(odd[0]))] : (uint32_t)(x >> 33);
		if (i % 97 < 30)
			page = (i % 97) * 70000000u & INT32_MAX;
		s = bb_stream_fault(t, (uint32_t)(x >> 60), page, i % 11 == 0);
		if (s) {
			uint32_t k;

			for (k = 1; k <= s->window; k++)
				if ((int64_t)page + (int64_t)s->stride * k < 0 || (int64_t)page + (int64_t)s->stride * k > INT32_MAX)
					break;
			bb_stream_covered(t, s, page, k - 1, k - 1);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(one_walk),
		T(downwards_and_by_steps),
		T(several_arrays),
		T(threads),
		T(work_is_handed_on),
		T(random_access),
		T(a_walk_among_random_access),
		T(walks_end),
		T(a_window_grows_and_shrinks),
		T(told_that_it_is_sequential),
		T(costs_little),
		T(any_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
