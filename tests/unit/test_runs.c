/* SPDX-License-Identifier: MIT */
/*
 * lib/runs against a naive model: one owner id a page. Every operation is
 * followed by a look at the pages around it, and often by a walk of all runs.
 */
#include "runs.h"
#include "clock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

static uint64_t rng = 88172645463325252ULL;

static uint32_t rnd(uint32_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 20) % below);
}

static struct bb_runs *runs_new(uint64_t npages)
{
	struct bb_runs *r = malloc(sizeof(*r));
	void *meta = mmap(NULL, bb_runs_meta_size(npages), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_non_null(r);
	assert_ptr_not_equal(meta, MAP_FAILED);
	assert_int_equal(bb_runs_init(r, meta, npages), 0);
	return r;
}

static void runs_free(struct bb_runs *r)
{
	munmap(r->meta, bb_runs_meta_size(r->npages));
	free(r);
}

/* --- model ---------------------------------------------------------------- */

#define MAX 4096

static uint32_t owner[MAX]; /* 0: free; else id of the run */
static uint32_t npages, next_id;
static bool marked[1 << 20]; /* by id; what is cut off a run gets a new one */

static bool model_free_range(uint32_t p, uint32_t n)
{
	if ((uint64_t)p + n > npages)
		return false;
	for (uint32_t i = p; i < p + n; i++)
		if (owner[i])
			return false;
	return true;
}

static bool model_room(uint32_t n, uint32_t align)
{
	for (uint32_t p = 0; p < npages; p += align)
		if (model_free_range(p, n))
			return true;
	return false;
}

static uint32_t model_len(uint32_t p)
{
	uint32_t n = 0;

	if (p >= npages || !owner[p] || (p && owner[p - 1] == owner[p]))
		return 0;
	while (p + n < npages && owner[p + n] == owner[p])
		n++;
	return n;
}

static void model_set(uint32_t p, uint32_t n, uint32_t id)
{
	for (uint32_t i = p; i < p + n; i++)
		owner[i] = id;
}

/* After a hole was cut, what follows it is a run of its own. */
static uint32_t model_free(uint32_t p, uint32_t n)
{
	uint64_t end = (uint64_t)p + n > npages ? npages : (uint64_t)p + n;
	uint32_t freed = 0, id;

	if (p >= end)
		return 0;
	id = end < npages ? owner[end] : 0;
	if (id && owner[end - 1] == id) {
		next_id++;
		for (uint32_t i = (uint32_t)end; i < npages && owner[i] == id; i++)
			owner[i] = next_id;
	}
	for (uint32_t i = p; i < end; i++) {
		freed += owner[i] != 0;
		owner[i] = 0;
	}
	return freed;
}

static void check_all(const struct bb_runs *r)
{
	uint32_t used = 0, n, p = 0;
	int64_t start = -1;

	for (uint32_t i = 0; i < npages; i++) {
		used += owner[i] != 0;
		if (owner[i] && (!i || owner[i - 1] != owner[i]))
			start = i;
		assert_int_equal(bb_runs_find(r, i), owner[i] ? start : -ENOENT);
		assert_int_equal(bb_runs_len(r, i), model_len(i));
		assert_int_equal(bb_runs_marked(r, i), model_len(i) && marked[owner[i]]);
	}
	assert_int_equal(r->used, used);
	for (;;) {
		int64_t at = bb_runs_next(r, p, &n);

		while (p < npages && !model_len(p))
			p++;
		if (p == npages) {
			assert_int_equal(at, -ENOENT);
			break;
		}
		assert_int_equal(at, p);
		assert_int_equal(n, model_len(p));
		p++;
	}
}

static void step(struct bb_runs *r, unsigned int big)
{
	uint32_t p = rnd(npages), n = rnd(2) ? 1 + rnd(8) : 1 + rnd(big), align = 1u << (rnd(3) ? 0 : rnd(8));
	uint32_t len, out;
	int64_t at;
	int ret;

	if (!rnd(4)) {
		bb_runs_mark(r, p);
		if (model_len(p))
			marked[owner[p]] = true;
	}
	switch (rnd(10)) {
	case 0:
	case 1:
	case 2:
	case 3:
		at = bb_runs_alloc(r, n, align);
		if (at < 0) {
			assert_int_equal(at, -ENOMEM);
			assert_false(model_room(n, align));
			break;
		}
		assert_int_equal(at % align, 0);
		assert_true(model_free_range((uint32_t)at, n));
		model_set((uint32_t)at, n, ++next_id);
		break;
	case 4:
	case 5:
	case 6: /* a whole run */
		at = bb_runs_next(r, p, &out);
		if (at < 0)
			break;
		assert_int_equal(bb_runs_free(r, (uint32_t)at, out), out);
		assert_int_equal(model_free((uint32_t)at, out), out);
		break;
	case 7: /* any range */
		if (!rnd(20))
			n = 0xfffffff0u;
		assert_int_equal(bb_runs_free(r, p, n), model_free(p, n));
		break;
	case 8:
		at = bb_runs_find(r, p);
		if (at < 0) {
			ret = bb_runs_resize(r, p, n);
			assert_int_equal(ret, -EINVAL);
			break;
		}
		p = (uint32_t)at;
		len = model_len(p);
		ret = bb_runs_resize(r, p, n);
		if (n <= len) {
			assert_int_equal(ret, 0);
			if (n < len)
				model_free(p + n, len - n);
		} else if (model_free_range(p + len, n - len)) {
			assert_int_equal(ret, 0);
			model_set(p, n, owner[p]);
		} else {
			assert_int_equal(ret, -ENOMEM);
		}
		break;
	case 9:
		ret = bb_runs_take(r, p, n);
		if ((uint64_t)p + n > npages) {
			assert_int_equal(ret, -EINVAL);
		} else if (model_free_range(p, n)) {
			assert_int_equal(ret, 0);
			model_set(p, n, ++next_id);
		} else {
			assert_int_equal(ret, -EEXIST);
		}
		break;
	}
}

static void random_ops(uint32_t pages, unsigned int big, unsigned int ops)
{
	struct bb_runs *r;

	npages = pages;
	next_id = 0;
	memset(owner, 0, sizeof(owner));
	memset(marked, 0, sizeof(marked));
	r = runs_new(npages);
	for (unsigned int i = 0; i < ops; i++) {
		step(r, big);
		if (npages <= 64 || !rnd(256))
			check_all(r);
	}
	check_all(r);
	/* All freed: one allocation takes everything. */
	bb_runs_free(r, 0, npages);
	assert_int_equal(r->used, 0);
	assert_int_equal(r->classes, 0);
	assert_int_equal(r->top, 0);
	assert_int_equal(bb_runs_alloc(r, npages, 1), 0);
	runs_free(r);
}

static void test_random_tiny(void **state)
{
	for (uint32_t n = 1; n <= 9; n++)
		random_ops(n, n, 3000);
	random_ops(64, 16, 20000);
	random_ops(65, 64, 20000);
}

static void test_random(void **state)
{
	random_ops(777, 40, 40000);
	random_ops(MAX, 64, 60000);
	random_ops(MAX, 700, 60000);
}

/* --- corners -------------------------------------------------------------- */

static void test_init(void **state)
{
	struct bb_runs r;
	uint64_t word[64] = {0};

	assert_int_equal(bb_runs_init(&r, word, 0), -EINVAL);
	assert_int_equal(bb_runs_init(&r, NULL, 8), -EINVAL);
	assert_int_equal(bb_runs_init(&r, word, 1ULL << 30), -EINVAL);
	assert_true(bb_runs_meta_size((1ULL << 30) - 1) > (12ULL << 30) - 12);
	assert_int_equal(bb_runs_init(&r, (char *)word + 4, 8), -EINVAL);
	assert_true(bb_runs_meta_size(8) <= sizeof(word));
	assert_int_equal(bb_runs_init(&r, word, 8), 0);
	assert_int_equal(bb_runs_alloc(&r, 0, 1), -EINVAL);
	assert_int_equal(bb_runs_alloc(&r, 1, 0), -EINVAL);
	assert_int_equal(bb_runs_alloc(&r, 1, 3), -EINVAL);
	assert_int_equal(bb_runs_alloc(&r, 9, 1), -ENOMEM);
	assert_int_equal(bb_runs_alloc(&r, 1, 1u << 31), 0);
	assert_int_equal(bb_runs_alloc(&r, 1, 1u << 31), -ENOMEM);
	assert_int_equal(bb_runs_len(&r, 0xffffffffu), 0);
	assert_int_equal(bb_runs_find(&r, 0xffffffffu), -ENOENT);
	assert_int_equal(bb_runs_free(&r, 0xffffffffu, 0xffffffffu), 0);
	assert_int_equal(bb_runs_free(&r, 0, 0), 0);
	assert_int_equal(bb_runs_take(&r, 0xffffffffu, 2), -EINVAL);
	assert_int_equal(bb_runs_take(&r, 1, 0), -EINVAL);
	assert_int_equal(bb_runs_resize(&r, 0, 0), -EINVAL);
	assert_int_equal(bb_runs_resize(&r, 5, 1), -EINVAL);
	assert_int_equal(bb_runs_resize(&r, 0, 0xffffffffu), -ENOMEM);
}

static void test_reuse(void **state)
{
	struct bb_runs *r = runs_new(1u << 20);
	uint32_t n;

	assert_int_equal(bb_runs_alloc(r, 10, 1), 0);
	assert_int_equal(bb_runs_alloc(r, 10, 1), 10);
	assert_int_equal(bb_runs_alloc(r, 10, 1), 20);
	assert_int_equal(bb_runs_alloc(r, 10, 1), 30);
	/* The lower of two equals; an exact one before a larger; the top last. */
	assert_int_equal(bb_runs_free(r, 20, 10), 10);
	assert_int_equal(bb_runs_free(r, 0, 10), 10);
	assert_int_equal(bb_runs_alloc(r, 10, 1), 0);
	assert_int_equal(bb_runs_alloc(r, 4, 1), 20);
	assert_int_equal(bb_runs_alloc(r, 6, 1), 24);
	assert_int_equal(bb_runs_alloc(r, 1, 1), 40);
	/* A hole in the middle. */
	assert_int_equal(bb_runs_free(r, 3, 4), 4);
	assert_int_equal(bb_runs_len(r, 0), 3);
	assert_int_equal(bb_runs_len(r, 7), 3);
	assert_int_equal(bb_runs_find(r, 9), 7);
	assert_int_equal(bb_runs_find(r, 4), -ENOENT);
	assert_int_equal(bb_runs_next(r, 1, &n), 7);
	assert_int_equal(n, 3);
	/* Grow into the hole, not over the next run. */
	assert_int_equal(bb_runs_resize(r, 0, 7), 0);
	assert_int_equal(bb_runs_resize(r, 0, 8), -ENOMEM);
	/* A free over several runs and holes. */
	assert_int_equal(bb_runs_free(r, 5, 20), 2 + 3 + 10 + 4 + 1);
	assert_int_equal(bb_runs_take(r, 4, 2), -EEXIST);
	assert_int_equal(bb_runs_take(r, 5, 21), -EEXIST);
	assert_int_equal(bb_runs_take(r, 5, 20), 0);
	assert_int_equal(bb_runs_take(r, 1000, 20), 0);
	assert_int_equal(bb_runs_take(r, 990, 11), -EEXIST);
	assert_int_equal(bb_runs_alloc(r, 64, 64), 64);
	runs_free(r);
}

/* A 1 TiB region: only the bookkeeping near run starts may be touched. */
static void test_sparse(void **state)
{
	const uint64_t pages = 1ULL << 28;
	struct bb_runs *r = runs_new(pages);
	size_t size = bb_runs_meta_size(pages), touched = 0;
	unsigned char *in = malloc(size >> 12);

	assert_int_equal(bb_runs_alloc(r, 1u << 27, 1u << 20), 0);
	assert_int_equal(bb_runs_alloc(r, 1u << 27, 1), 1u << 27);
	assert_int_equal(bb_runs_alloc(r, 1, 1), -ENOMEM);
	assert_int_equal(bb_runs_find(r, (1u << 28) - 1), 1u << 27);
	assert_int_equal(bb_runs_find(r, (1u << 27) - 1), 0);
	assert_int_equal(bb_runs_free(r, 1u << 26, 1u << 27), 1u << 27);
	assert_int_equal(bb_runs_len(r, 3u << 26), 1u << 26);
	assert_int_equal(bb_runs_free(r, 0, 1u << 28), 1u << 27);
	assert_int_equal(mincore(r->meta, size & ~4095UL, in), 0);
	for (size_t i = 0; i < size >> 12; i++)
		touched += in[i] & 1;
	/* Reads of the zero page do not show; a page table's worth at most does. */
	assert_true(touched < 100);
	free(in);
	runs_free(r);
}

/* malloc and free of 128 KiB to 64 MiB with 2,000 others alive. */
static void test_speed(void **state)
{
	struct bb_runs *r = runs_new(1ULL << 28);
	uint32_t live[2000][2], ops = 400000;
	uint64_t t;
	double ns;

	for (unsigned int i = 0; i < 2000; i++) {
		live[i][1] = 32 << rnd(10);
		live[i][0] = (uint32_t)bb_runs_alloc(r, live[i][1], 1);
	}
	t = bb_now_ns();
	for (unsigned int i = 0; i < ops; i++) {
		unsigned int k = rnd(2000);

		bb_runs_free(r, live[k][0], live[k][1]);
		live[k][1] = (32 + rnd(32)) << rnd(9);
		live[k][0] = (uint32_t)bb_runs_alloc(r, live[k][1], 1);
	}
	ns = (double)(bb_now_ns() - t) / ops;
	print_message("random replace: %.0f ns a free and alloc, %.0f %% of %.1f GiB used\n", ns,
		      100.0 * (double)r->used / r->top, r->top / 262144.0);
	t = bb_now_ns();
	for (unsigned int i = 0; i < ops; i++) {
		int64_t p = bb_runs_alloc(r, 32 << (i % 10), 1);

		bb_runs_free(r, (uint32_t)p, 32 << (i % 10));
	}
	ns = (double)(bb_now_ns() - t) / ops;
	print_message("alloc and free at once: %.0f ns a pair\n", ns);
	assert_true(ns < 2000); /* an order above what is expected of a busy machine */
	runs_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_init),   cmocka_unit_test(test_reuse),  cmocka_unit_test(test_random_tiny),
		cmocka_unit_test(test_random), cmocka_unit_test(test_sparse), cmocka_unit_test(test_speed),
	};

	return cmocka_run_group_tests_name("runs", tests, NULL, NULL);
}
