/* SPDX-License-Identifier: MIT */
/*
 * preload/malloc.c and real.c over a pretended region that refuses when it is
 * told to: blocks keep their bytes as they cross BB_MIN in both directions,
 * with room and without, and the real allocator gets what the region will not
 * take. The Nth allocation is refused, for every N.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#define malloc sh_malloc
#define calloc sh_calloc
#define realloc sh_realloc
#define reallocarray sh_reallocarray
#define free sh_free
#define cfree sh_cfree
#define posix_memalign sh_posix_memalign
#define aligned_alloc sh_aligned_alloc
#define memalign sh_memalign
#define valloc sh_valloc
#define pvalloc sh_pvalloc
#define malloc_usable_size sh_malloc_usable_size
/* The members of struct bb_real are renamed with them, in both files alike. */
#include "../../preload/malloc.c"
#include "../../preload/real.c"

#define MIN (128UL << 10)
#define REGION (256UL << 20)

uintptr_t bb_region_base, bb_region_size;
size_t bb_region_min = SIZE_MAX;

/* --- the pretended region: runs, never reused --------------------------------- */

struct bb_region bb_rg;

int bb_fork_init(void)
{
	return 0;
}
static uint32_t top;
static int countdown; /* allocations that succeed before one is refused; < 0: none is */
static unsigned int live, bad_frees;

static bool refuse(void)
{
	return countdown >= 0 && countdown-- == 0;
}

static size_t bytes_at(const void *p)
{
	return (size_t)bb_runs_len(&bb_rg.runs, bb_page_of((uintptr_t)p)) << BB_PAGE_SHIFT;
}

void *bb_region_alloc(size_t n, size_t align, unsigned int flags)
{
	uint32_t pages = (uint32_t)((n + 4095) >> 12), al = (uint32_t)(align >> 12);
	char *p;

	top = (top + al - 1) & ~(al - 1);
	if (refuse() || bb_runs_take(&bb_rg.runs, top, pages) < 0)
		return NULL;
	p = (char *)bb_addr_of(top);
	top += pages;
	live++;
	if (!(flags & BB_RA_ZERO))
		memset(p, 0xee, 4096);
	return p;
}

void bb_region_free(void *p)
{
	size_t n = bytes_at(p);

	if (!n) {
		bad_frees++;
		return;
	}
	memset(p, 0xdd, 4096);
	bb_runs_free(&bb_rg.runs, bb_page_of((uintptr_t)p), (uint32_t)(n >> 12));
	live--;
}

size_t bb_region_usable(const void *p)
{
	return bytes_at(p);
}

void *bb_region_realloc(void *p, size_t n)
{
	size_t old = bytes_at(p);
	char *q;

	n = (n + 4095) & ~4095UL;
	if (n <= old) {
		bb_runs_resize(&bb_rg.runs, bb_page_of((uintptr_t)p), (uint32_t)(n >> 12));
		return p;
	}
	q = bb_region_alloc(n, 4096, 0);
	if (q) {
		memcpy(q, p, old);
		bb_region_free(p);
	}
	return q;
}

/* --- helpers ---------------------------------------------------------------- */

/* What the compiler must not see through. */
static volatile size_t huge = SIZE_MAX - 4096;

static __attribute__((noipa)) void fill(char *p, size_t n, unsigned int tag)
{
	for (size_t i = 0; i < n; i += 61)
		p[i] = (char)(i * 7 + tag);
	p[n - 1] = (char)tag;
}

static void check(const char *p, size_t kept, unsigned int tag)
{
	for (size_t i = 0; i + 1 < kept; i += 61)
		assert_int_equal((unsigned char)p[i], (unsigned char)(i * 7 + tag));
}

static bool in_region(const void *p)
{
	return bb_region_has(p);
}

static int start(void **state)
{
	void *m = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	void *meta = mmap(NULL, bb_runs_meta_size(REGION >> 12), PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(m, MAP_FAILED);
	assert_ptr_not_equal(meta, MAP_FAILED);
	assert_int_equal(bb_runs_init(&bb_rg.runs, meta, REGION >> 12), 0);
	bb_rg.base = (uintptr_t)m;
	bb_region_base = (uintptr_t)m;
	bb_region_size = REGION;
	bb_region_min = MIN;
	top = 0;
	live = 0;
	bad_frees = 0;
	countdown = -1;
	return 0;
}

static int end(void **state)
{
	assert_int_equal(live, 0);
	assert_int_equal(bad_frees, 0);
	munmap((void *)bb_region_base, REGION);
	munmap(bb_rg.runs.meta, bb_runs_meta_size(REGION >> 12));
	bb_region_min = SIZE_MAX;
	bb_region_base = bb_region_size = 0;
	return 0;
}

/* --- tests ------------------------------------------------------------------ */

static void test_where(void **state)
{
	void *p;

	p = sh_malloc(MIN - 1);
	assert_false(in_region(p));
	sh_free(p);
	p = sh_malloc(MIN);
	assert_true(in_region(p));
	assert_int_equal(sh_malloc_usable_size(p), MIN);
	sh_cfree(p);
	p = sh_calloc(MIN / 8 + 1, 8);
	assert_true(in_region(p));
	sh_free(p);
	p = sh_reallocarray(NULL, MIN / 8, 8);
	assert_true(in_region(p));
	sh_free(p);
	assert_int_equal(sh_posix_memalign(&p, 1 << 20, MIN), 0);
	assert_true(in_region(p) && ((uintptr_t)p - bb_region_base) % (1 << 20) == 0);
	sh_free(p);
	p = sh_memalign(64, MIN);
	assert_true(in_region(p));
	sh_free(p);
	p = sh_aligned_alloc(64, MIN);
	assert_true(in_region(p));
	sh_free(p);
	p = sh_valloc(MIN);
	assert_true(in_region(p));
	sh_free(p);
	p = sh_pvalloc(MIN);
	assert_true(in_region(p));
	sh_free(p);
	/* What cannot be is the real function's to refuse. */
	errno = 0;
	assert_null(sh_malloc(huge));
	assert_int_equal(errno, ENOMEM);
	assert_null(sh_calloc(huge / 2, 3));
	assert_null(sh_reallocarray(NULL, huge / 2, 3));
	assert_int_equal(sh_posix_memalign(&p, 3, MIN), EINVAL);
	assert_int_equal(sh_posix_memalign(&p, 0, MIN), EINVAL);
	assert_int_equal(sh_posix_memalign(&p, 4, MIN), EINVAL);
	p = sh_memalign(0, MIN);
	assert_non_null(p);
	assert_false(in_region(p));
	sh_free(p);
	sh_free(NULL);
	assert_int_equal(sh_malloc_usable_size(NULL), 0);
}

static const size_t sizes[] = {1, 5000, MIN / 2 - 1, MIN / 2, MIN - 1, MIN, MIN + 1, 3 * MIN, 1 << 20};
#define NSIZES (sizeof(sizes) / sizeof(*sizes))

/* From each size to each other, with the Nth allocation of the region refused. */
static void test_crossing(void **state)
{
	for (unsigned int a = 0; a < NSIZES; a++) {
		for (unsigned int b = 0; b < NSIZES; b++) {
			for (int n = -1; n < 3; n++) {
				size_t both = sizes[a] < sizes[b] ? sizes[a] : sizes[b];
				char *p, *q;

				top = 0;
				countdown = n;
				p = sh_malloc(sizes[a]);
				assert_non_null(p);
				fill(p, sizes[a], a);
				q = sh_realloc(p, sizes[b]);
				assert_non_null(q);
				check(q, both, a);
				assert_true(sh_malloc_usable_size(q) >= sizes[b]);
				if (n < 0 && sizes[b] >= MIN)
					assert_true(in_region(q));
				/* It hovers around BB_MIN: stays. */
				if (n < 0 && sizes[a] >= MIN && sizes[b] >= MIN / 2)
					assert_true(in_region(q));
				if (n < 0 && sizes[b] < MIN / 2)
					assert_false(in_region(q));
				fill(q, sizes[b], b);
				/* One that cannot be: the block stays. */
				errno = 0;
				assert_null(sh_realloc(q, huge));
				assert_int_equal(errno, ENOMEM);
				check(q, sizes[b], b);
				errno = 9;
				assert_null(sh_realloc(q, 0));
				assert_int_equal(errno, 9);
				assert_int_equal(live, 0);
			}
		}
	}
}

/* Every function with the region full: the real one serves. */
static void test_refused(void **state)
{
	for (int i = 0; i < 7; i++) {
		void *p = NULL;

		countdown = 0;
		switch (i) {
		case 0:
			p = sh_malloc(MIN);
			break;
		case 1:
			p = sh_calloc(2, MIN);
			assert_int_equal(((char *)p)[MIN], 0);
			break;
		case 2:
			assert_int_equal(sh_posix_memalign(&p, 8192, MIN), 0);
			assert_int_equal((uintptr_t)p % 8192, 0);
			break;
		case 3:
			p = sh_memalign(8192, MIN);
			break;
		case 4:
			p = sh_aligned_alloc(8192, MIN);
			break;
		case 5:
			p = sh_valloc(MIN);
			break;
		case 6:
			p = sh_pvalloc(MIN + 1);
			assert_true(sh_malloc_usable_size(p) >= MIN + 4096);
			break;
		}
		assert_non_null(p);
		assert_false(in_region(p));
		assert_int_equal(countdown, -1);
		fill(p, MIN, 1);
		sh_free(p);
	}
	countdown = -1;
}

/* --- an allocator on top, whose chunks lie in the region ---------------------- */

static void *seen[3];

static void top_free(void *p)
{
	seen[0] = p;
}

static void *top_realloc(void *p, size_t n)
{
	seen[1] = p;
	return p;
}

static size_t top_usable(void *p)
{
	seen[2] = p;
	return 1000;
}

static void test_on_top(void **state)
{
	const struct bb_real keep = bb_real;
	char *chunk = bb_region_alloc(8 * MIN, 4096, BB_RA_ZERO | BB_RA_MMAP), *mine = sh_malloc(MIN), *q;

	bb_real.free = top_free;
	bb_real.realloc = top_realloc;
	bb_real.malloc_usable_size = top_usable;
	/* At the chunk's start, on a page, and anywhere. */
	for (size_t at = 0; at < 8 * MIN; at += at ? at == 4096 ? 48 : 8 * MIN : 4096) {
		char *p = chunk + at;

		memset(p, 0x31, 1000);
		assert_int_equal(sh_malloc_usable_size(p), 1000);
		assert_ptr_equal(seen[2], p);
		assert_ptr_equal(sh_realloc(p, 500), p);
		assert_ptr_equal(seen[1], p);
		q = sh_realloc(p, MIN);
		assert_true(in_region(q) && q != p && q[999] == 0x31);
		assert_ptr_equal(seen[0], p);
		sh_free(q);
		sh_free(p + 0);
		assert_ptr_equal(seen[0], p);
		memset(seen, 0, sizeof(seen));
	}
	sh_free(mine);
	assert_null(seen[0]);
	bb_real = keep;
	bb_region_free(chunk);
}

static void test_early(void **state)
{
	char *a = bb_early_alloc(100, 16), *b = bb_early_alloc(10, 64), *p;

	assert_true(a && bb_early_has(a) && !((uintptr_t)a & 15));
	assert_true(b && bb_early_has(b) && !((uintptr_t)b & 63));
	assert_true(b >= a + 100);
	assert_int_equal(sh_malloc_usable_size(a), 100);
	for (int i = 0; i < 100; i++)
		assert_int_equal(a[i], 0);
	fill(a, 100, 3);
	sh_free(b);
	p = sh_realloc(a, 200000);
	assert_true(in_region(p));
	check(p, 100, 3);
	sh_free(p);
	p = sh_realloc(a, 10);
	assert_false(bb_early_has(p));
	assert_false(in_region(p));
	sh_free(p);
	assert_null(sh_realloc(a, 0));
	errno = 0;
	assert_null(bb_early_alloc(BB_EARLY_SIZE, 16));
	assert_int_equal(errno, ENOMEM);
	assert_null(bb_early_alloc(SIZE_MAX, 16));
	while (bb_early_alloc(1000, 16))
		;
	assert_false(bb_early_has(bb_early - 1));
	assert_false(bb_early_has(bb_early + BB_EARLY_SIZE));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_where, start, end),
		cmocka_unit_test_setup_teardown(test_crossing, start, end),
		cmocka_unit_test_setup_teardown(test_refused, start, end),
		cmocka_unit_test_setup_teardown(test_on_top, start, end),
		cmocka_unit_test_setup_teardown(test_early, start, end),
	};

	bb_real_init();
	return cmocka_run_group_tests_name("malloc", tests, NULL, NULL);
}
