/* SPDX-License-Identifier: MIT */
/* The policies of scripts/bench/policy, on traces whose faults were counted by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <bluebridge/gptr.h>

#include "../../scripts/bench/policy/sim.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

typedef int run_fn(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r);

static void expect(run_fn *run, const uint32_t *page, size_t n, uint32_t cap, uint64_t faults, uint64_t again)
{
	const struct pol_machine m = { cap, 0 };
	struct pol_result r;
	struct pol_trace t;

	assert_int_equal(pol_trace_make(&t, page, n), 0);
	assert_int_equal(run(&t, &m, &r), 0);
	assert_int_equal(r.faults, faults);
	assert_int_equal(r.again, again);
	pol_trace_free(&t);
}

/* Belady's own: FIFO has more faults with more memory. */
static const uint32_t belady[] = { 1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5 };

static void test_fifo(void **state)
{
	(void)state;
	expect(pol_run_fifo, belady, COUNT(belady), 3, 9, 4);
	expect(pol_run_fifo, belady, COUNT(belady), 4, 10, 5);
}

static void test_lru(void **state)
{
	(void)state;
	expect(pol_run_lru, belady, COUNT(belady), 3, 10, 5);
	expect(pol_run_lru, belady, COUNT(belady), 4, 8, 3);
}

static void test_opt(void **state)
{
	(void)state;
	expect(pol_run_opt, belady, COUNT(belady), 3, 7, 2);
	expect(pol_run_opt, belady, COUNT(belady), 4, 6, 1);
}

static void test_clock(void **state)
{
	/* 1 and 2 are touched here: 3 takes 5's place, and then there are no more chances. */
	(void)state;
	expect(pol_run_clock, belady, COUNT(belady), 3, 10, 5);
}

static void test_second(void **state)
{
	/* 1 came back, so it is passed over once: 4 and not 1 makes room for 5. */
	static const uint32_t page[] = { 1, 2, 3, 1, 4, 5, 1 };

	(void)state;
	expect(pol_run_second, page, COUNT(page), 2, 6, 1);
	expect(pol_run_fifo, page, COUNT(page), 2, 7, 2);
}

static void test_2q(void **state)
{
	/* 1 came back while it was a ghost, and is in the main queue; 6 to 10 go through the other. */
	static const uint32_t page[] = { 1, 2, 3, 4, 5, 1, 6, 7, 8, 9, 10, 1 };

	(void)state;
	expect(pol_run_2q, page, COUNT(page), 4, 11, 1);
	expect(pol_run_2q_sees, page, COUNT(page), 4, 11, 1);
	expect(pol_run_fifo, page, COUNT(page), 4, 12, 2);
}

static void test_s3fifo(void **state)
{
	/* 1 to 11, 1 once more, and a scan of 18 others. */
	uint32_t page[31];

	(void)state;
	for (uint32_t i = 0; i < 11; i++)
		page[i] = i + 1;
	page[11] = 1;
	for (uint32_t i = 12; i < 30; i++)
		page[i] = i;
	page[30] = 1;
	expect(pol_run_s3fifo, page, COUNT(page), 10, 30, 1);
	expect(pol_run_fifo, page, COUNT(page), 10, 31, 2);
}

static void test_s3fifo_sees(void **state)
{
	/* 1 and 2 are touched twice more while they are new, and pass to the main queue. */
	static const uint32_t page[] = { 1, 2, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1, 2 };

	(void)state;
	expect(pol_run_s3fifo_sees, page, COUNT(page), 10, 12, 0);
	expect(pol_run_s3fifo, page, COUNT(page), 10, 14, 2); /* who is blind has not seen it */
	expect(pol_run_fifo, page, COUNT(page), 10, 14, 2);
}

static void test_ours(void **state)
{
	/*
	 * An epoch is two fills. 0 goes first and comes back within the epoch, so it is
	 * hot: 5 goes for 8, though it came later.
	 */
	static const uint32_t page[] = { 0, 1, 2, 3, 4, 0, 5, 6, 7, 8, 0, 5 };

	(void)state;
	expect(pol_run_ours, page, COUNT(page), 4, 11, 2);
	expect(pol_run_ours, page, COUNT(page) - 1, 4, 10, 1);
	expect(pol_run_fifo, page, COUNT(page) - 1, 4, 11, 2);
}

/* Of long traces: nobody is better than OPT, none loses count, and what fits faults once. */
static void test_bounds(void **state)
{
	enum { N = 60000, PAGES = 1500 };
	uint32_t *page = malloc(N * sizeof(*page));
	uint64_t rng = 7;
	struct pol_trace t;

	(void)state;
	assert_non_null(page);
	for (int i = 0; i < N; i++) {
		rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
		page[i] = i % 3 ? (uint32_t)(rng >> 33) % (PAGES / 8) : (uint32_t)i / 3 % PAGES;
	}
	assert_int_equal(pol_trace_make(&t, page, N), 0);
	assert_int_equal(t.footprint, PAGES);
	for (uint32_t cap = 300; cap <= PAGES + 2 * 40; cap += 320) {
		const struct pol_machine m = { cap, cap > PAGES ? 0 : 40 };
		struct pol_result opt, r;

		assert_int_equal(pol_run_opt(&t, &m, &opt), 0);
		for (unsigned int p = 0; p < pol_npolicies; p++) {
			assert_int_equal(pol_policies[p].run(&t, &m, &r), 0);
			assert_int_equal(r.faults, r.again + PAGES);
			assert_true(r.again >= opt.again);
			if (cap > PAGES)
				assert_int_equal(r.again, 0);
			else
				assert_true(r.again > 0);
		}
	}
	assert_string_equal(pol_policies[pol_npolicies - 1].name, "opt");
	pol_trace_free(&t);
	free(page);
}

static void test_trace(void **state)
{
	/* Twice the same is one touch; the extent between is left out. */
	const uint32_t page[] = { 3, 3, 2 * BB_EXTENT_PAGES + 1, 3, 3 };
	const uint32_t wild[] = { UINT32_MAX };
	struct pol_trace t;

	(void)state;
	assert_int_equal(pol_trace_make(&t, page, COUNT(page)), 0);
	assert_int_equal(t.n, 3);
	assert_int_equal(t.footprint, 2);
	assert_int_equal(t.npages, 2 * BB_EXTENT_PAGES);
	assert_int_equal(t.page[0], 3);
	assert_int_equal(t.page[1], BB_EXTENT_PAGES + 1);
	pol_trace_free(&t);
	assert_int_equal(pol_trace_make(&t, wild, 1), -EINVAL);
	assert_int_equal(pol_trace_make(&t, page, 0), 0);
	assert_int_equal(t.n, 0);
	pol_trace_free(&t);
}

static void test_file(void **state)
{
	struct {
		struct pol_file head;
		uint32_t at[3][2];
	} f = { .head = { .magic = POL_MAGIC, .n = 3 }, .at = { { 7, 10 }, { 8, 20 }, { 7, 45 } } };
	struct pol_trace t;
	char path[64];
	int fd = memfd_create("trace", 0);

	(void)state;
	assert_true(fd >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	assert_int_equal(pwrite(fd, &f, sizeof(f), 0), sizeof(f));
	assert_int_equal(pol_trace_load(&t, path), 0);
	assert_int_equal(t.n, 3);
	assert_int_equal(t.us, 35);
	pol_trace_free(&t);
	f.head.lost = 1;
	assert_int_equal(pwrite(fd, &f, sizeof(f), 0), sizeof(f));
	assert_int_equal(pol_trace_load(&t, path), -EOVERFLOW);
	f.head.lost = 0;
	f.head.n = 4; /* more than there are */
	assert_int_equal(pwrite(fd, &f, sizeof(f), 0), sizeof(f));
	assert_int_equal(pol_trace_load(&t, path), -EINVAL);
	f.head.magic = 1;
	assert_int_equal(pwrite(fd, &f, sizeof(f), 0), sizeof(f));
	assert_int_equal(pol_trace_load(&t, path), -EINVAL);
	assert_int_equal(ftruncate(fd, 5), 0);
	assert_int_equal(pol_trace_load(&t, path), -EINVAL);
	close(fd);
	assert_int_equal(pol_trace_load(&t, path), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fifo),
		cmocka_unit_test(test_lru),
		cmocka_unit_test(test_opt),
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_second),
		cmocka_unit_test(test_2q),
		cmocka_unit_test(test_s3fifo),
		cmocka_unit_test(test_s3fifo_sees),
		cmocka_unit_test(test_ours),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_trace),
		cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
