/* SPDX-License-Identifier: MIT */
/*
 * preload/mmap.c over a pretended region: which calls go where, how ranges are
 * cut at the region's edges, and what is refused. Nothing is mapped: both the
 * region and the real functions write down what they were asked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define mmap test_mmap
#define mmap64 test_mmap64
#define munmap test_munmap
#define mremap test_mremap
#define madvise test_madvise
#define posix_madvise test_posix_madvise
#define mprotect test_mprotect
#include "../../preload/mmap.c"

#define BASE 0x100000000000UL
#define SIZE 0x000040000000UL
#define END (BASE + SIZE)
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define MIN (128UL << 10)

uintptr_t bb_region_base = BASE, bb_region_size = SIZE;
size_t bb_region_min = MIN;

static char said[512];
static bool full;
static int region_says, real_says;

/* "K mmap 0x1000+0x2000; R munmap ..." */
static void say(const char *who, const char *what, const void *p, size_t n, long more)
{
	size_t l = strlen(said);

	snprintf(said + l, sizeof(said) - l, "%s %s %lx+%lx %ld;", who, what, (unsigned long)(uintptr_t)p, n, more);
}

static int answer(int says)
{
	if (says) {
		errno = says;
		return -1;
	}
	return 0;
}

static void *k_mmap(void *a, size_t n, int prot, int flags, int fd, off_t off)
{
	say("K", "mmap", a, n, off);
	return real_says ? (errno = real_says, MAP_FAILED) : a;
}

static int k_munmap(void *a, size_t n)
{
	say("K", "munmap", a, n, 0);
	return answer(real_says);
}

static int k_madvise(void *a, size_t n, int advice)
{
	say("K", "madvise", a, n, advice);
	return answer(real_says);
}

static int k_mprotect(void *a, size_t n, int prot)
{
	say("K", "mprotect", a, n, prot);
	return answer(real_says);
}

static void *k_mremap(void *a, size_t o, size_t n, int flags, ...)
{
	say("K", "mremap", a, o, (long)n);
	return a;
}

struct bb_real bb_real = {
	.mmap = k_mmap, .munmap = k_munmap, .madvise = k_madvise, .mprotect = k_mprotect, .mremap = k_mremap};

void *bb_region_alloc(size_t n, size_t align, unsigned int flags)
{
	assert_int_equal(flags, BB_RA_ZERO | BB_RA_MMAP);
	say("R", "alloc", NULL, n, 0);
	return full ? NULL : (void *)BASE;
}

int bb_region_munmap(void *a, size_t n)
{
	say("R", "munmap", a, n, 0);
	return -region_says;
}

int bb_region_madvise(void *a, size_t n, int advice)
{
	say("R", "madvise", a, n, advice);
	return -region_says;
}

int bb_region_mprotect(void *a, size_t n, int prot)
{
	say("R", "mprotect", a, n, prot);
	return -region_says;
}

void *bb_region_mmap_fixed(void *a, size_t n, int prot, int flags, int fd, int64_t off)
{
	say("R", "fixed", a, n, off);
	return a;
}

void *bb_region_mremap(void *a, size_t o, size_t n, int flags, void *to)
{
	say("R", "mremap", a, o, (long)n);
	return a;
}

#define SAID(text)                                                                                                     \
	do {                                                                                                           \
		assert_string_equal(said, text);                                                                       \
		said[0] = 0;                                                                                           \
	} while (0)

static void test_new(void **state)
{
	/* Taken: the whole of MIN, no less; rounded up to pages. */
	test_mmap(NULL, MIN, RW, ANON, -1, 0);
	SAID("R alloc 0+20000 0;");
	test_mmap64(NULL, MIN + 1, RW, ANON | MAP_NORESERVE, -1, 0);
	SAID("R alloc 0+21000 0;");
	test_mmap((void *)0x700000000000, MIN, RW, ANON, -1, 0);
	SAID("R alloc 0+20000 0;");
	test_mmap(NULL, MIN, RW, ANON | MAP_POPULATE, -1, 0);
	SAID("R alloc 0+20000 0;R madvise 100000000000+20000 23;");
	full = true;
	test_mmap(NULL, MIN, RW, ANON, -1, 0);
	SAID("R alloc 0+20000 0;K mmap 0+20000 0;");
	full = false;
}

static void test_not_ours(void **state)
{
	static const int flags[] = {MAP_STACK, MAP_GROWSDOWN,	    MAP_HUGETLB, MAP_LOCKED,
				    MAP_32BIT, MAP_FIXED_NOREPLACE, MAP_FIXED,	 1 << 27};
	static const int prots[] = {PROT_NONE, PROT_READ, PROT_WRITE, RW | PROT_EXEC};

	for (unsigned int i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		test_mmap((void *)0x200000000000, MIN, RW, ANON | flags[i], -1, 0);
		SAID("K mmap 200000000000+20000 0;");
	}
	for (unsigned int i = 0; i < sizeof(prots) / sizeof(*prots); i++) {
		test_mmap(NULL, MIN, prots[i], ANON, -1, 0);
		SAID("K mmap 0+20000 0;");
	}
	test_mmap(NULL, MIN - 1, RW, ANON, -1, 0);
	SAID("K mmap 0+1ffff 0;");
	test_mmap(NULL, MIN, RW, MAP_PRIVATE, 5, 4096);
	SAID("K mmap 0+20000 4096;");
	test_mmap(NULL, MIN, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	SAID("K mmap 0+20000 0;");
	test_mmap(NULL, MIN, RW, ANON, -1, 1);
	SAID("K mmap 0+20000 1;");
	test_mmap(NULL, SIZE_MAX, RW, ANON, -1, 0);
	SAID("K mmap 0+ffffffffffffffff 0;");
	/* Low memory was asked for. */
	test_mmap((void *)0x40000000, MIN, RW, ANON, -1, 0);
	SAID("K mmap 40000000+20000 0;");
	/* Reserved: the kernel answers EEXIST. */
	test_mmap((void *)BASE, MIN, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
	SAID("K mmap 100000000000+20000 0;");
	/* Before there is a region. */
	bb_region_min = SIZE_MAX;
	bb_region_base = bb_region_size = 0;
	test_mmap(NULL, 1UL << 30, RW, ANON, -1, 0);
	test_munmap(NULL, 4096);
	test_mmap((void *)BASE, 4096, RW, ANON | MAP_FIXED, -1, 0);
	SAID("K mmap 0+40000000 0;K munmap 0+1000 0;K mmap 100000000000+1000 0;");
	bb_region_min = MIN;
	bb_region_base = BASE;
	bb_region_size = SIZE;
}

static void test_fixed(void **state)
{
	void *before = (void *)(BASE - 8192);

	assert_ptr_equal(test_mmap((void *)(BASE + 4096), 4097, RW, MAP_PRIVATE | MAP_FIXED, 5, 8192),
			 (void *)(BASE + 4096));
	SAID("R fixed 100000001000+2000 8192;");
	assert_ptr_equal(test_mmap(before, 12288, RW, MAP_PRIVATE | MAP_FIXED, 5, 4096), before);
	SAID("K mmap fffffffe000+2000 4096;R fixed 100000000000+1000 12288;");
	test_mmap((void *)(END - 4096), 8192, RW, ANON | MAP_FIXED, -1, 0);
	SAID("K mmap 100040000000+1000 4096;R fixed 10003ffff000+1000 0;");
	test_mmap(before, SIZE + 16384, RW, MAP_PRIVATE | MAP_FIXED, 5, 0);
	SAID("K mmap fffffffe000+2000 0;K mmap 100040000000+2000 1073750016;R fixed 100000000000+40000000 8192;");
	/* Just beside it. */
	test_mmap(before, 8192, RW, ANON | MAP_FIXED, -1, 0);
	test_mmap((void *)END, 8192, RW, ANON | MAP_FIXED, -1, 0);
	SAID("K mmap fffffffe000+2000 0;K mmap 100040000000+2000 0;");
	real_says = ENOMEM;
	assert_ptr_equal(test_mmap(before, 12288, RW, ANON | MAP_FIXED, -1, 0), MAP_FAILED);
	SAID("K mmap fffffffe000+2000 0;");
	real_says = 0;
}

static void test_ranges(void **state)
{
	errno = 5;
	assert_int_equal(test_munmap((void *)(BASE - 4096), SIZE + 8192), 0);
	SAID("K munmap ffffffff000+1000 0;R munmap 100000000000+40000000 0;K munmap 100040000000+1000 0;");
	assert_int_equal(test_madvise((void *)(BASE + 4096), 1, MADV_DONTNEED), 0);
	SAID("R madvise 100000001000+1000 4;");
	assert_int_equal(errno, 5);
	assert_int_equal(test_mprotect((void *)(END - 4096), 8192, PROT_READ), 0);
	SAID("R mprotect 10003ffff000+1000 1;K mprotect 100040000000+1000 1;");
	test_munmap((void *)END, 4096);
	test_munmap((void *)(BASE - 4096), 4096);
	SAID("K munmap 100040000000+1000 0;K munmap ffffffff000+1000 0;");
	/* Malformed: the kernel refuses. */
	test_munmap((void *)(BASE + 1), 4096);
	test_munmap((void *)BASE, 0);
	test_munmap((void *)BASE, SIZE_MAX);
	SAID("K munmap 100000000001+1000 0;K munmap 100000000000+0 0;K munmap 100000000000+ffffffffffffffff 0;");
	/* The first error is reported, the other part is done all the same. */
	real_says = ENOMEM;
	region_says = EINVAL;
	assert_int_equal(test_madvise((void *)(BASE - 4096), 8192, 3), -1);
	assert_int_equal(errno, ENOMEM);
	SAID("K madvise ffffffff000+1000 3;R madvise 100000000000+1000 3;");
	assert_int_equal(test_madvise((void *)(END - 4096), 8192, 3), -1);
	assert_int_equal(errno, EINVAL);
	said[0] = 0;
	errno = 5;
	assert_int_equal(test_posix_madvise((void *)BASE, 4096, POSIX_MADV_WILLNEED), EINVAL);
	assert_int_equal(test_posix_madvise((void *)BASE, 4096, POSIX_MADV_DONTNEED), 0);
	assert_int_equal(errno, 5);
	SAID("R madvise 100000000000+1000 3;");
	real_says = region_says = 0;
}

static int mremap_errno(void *old, size_t o, size_t n, int flags, void *to)
{
	said[0] = 0;
	errno = 0;
	if (test_mremap(old, o, n, flags, to) != MAP_FAILED)
		return 0;
	assert_string_equal(said, "");
	return errno;
}

static void test_remap(void **state)
{
	void *in = (void *)(BASE + 4096), *out = (void *)0x200000000000;
	const int may = MREMAP_MAYMOVE, fixed = MREMAP_MAYMOVE | MREMAP_FIXED;

	test_mremap(out, 4096, 8192, may);
	SAID("K mremap 200000000000+1000 8192;");
	test_mremap(in, 4096, 8192, may);
	SAID("R mremap 100000001000+1000 8192;");
	test_mremap(in, 1, 8193, fixed, BASE + 65536);
	SAID("R mremap 100000001000+1000 12288;");
	assert_int_equal(mremap_errno(in, 4096, 4096, fixed, out), ENOMEM);
	assert_int_equal(mremap_errno(out, 4096, 4096, fixed, in), ENOMEM);
	assert_int_equal(mremap_errno(out, 4096, 8192, fixed, (void *)(BASE - 4096)), ENOMEM);
	assert_int_equal(mremap_errno((void *)(END - 4096), 8192, 4096, may, NULL), ENOMEM);
	assert_int_equal(mremap_errno((void *)(BASE + 1), 4096, 4096, may, NULL), EINVAL);
	assert_int_equal(mremap_errno(in, 0, 4096, may, NULL), EINVAL);
	assert_int_equal(mremap_errno(in, 4096, 0, may, NULL), EINVAL);
	assert_int_equal(mremap_errno(in, 4096, 4096, MREMAP_FIXED, in), EINVAL);
	assert_int_equal(mremap_errno(in, 4096, 4096, may | 64, NULL), EINVAL);
	assert_int_equal(mremap_errno(in, 4096, 4096, fixed, (void *)(BASE + 1)), EINVAL);
	assert_int_equal(mremap_errno(in, 4096, SIZE_MAX, may, NULL), EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new),    cmocka_unit_test(test_not_ours), cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_ranges), cmocka_unit_test(test_remap),
	};

	return cmocka_run_group_tests_name("mmap", tests, NULL, NULL);
}
