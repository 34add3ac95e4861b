/* SPDX-License-Identifier: MIT */
/*
 * What each allocation function does at its edges, as the manual and glibc have
 * it: errno, alignment, sizes that cannot be, size 0. Part of bballoc.c.
 */
#ifndef BB_TESTS_BBALLOC_EDGES_H
#define BB_TESTS_BBALLOC_EDGES_H

/* What the compiler must not see through. */
static volatile size_t huge = SIZE_MAX - 4096, zero;

#define EXPECT(cond)                                                                                                   \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			fail("line %d: %s (errno %d)", __LINE__, #cond, errno);                                        \
	} while (0)

static void edges_malloc(void)
{
	static const size_t sizes[] = {1, 100, 65536, 131071, 131072, 131073, 200000, 5 << 20};
	const unsigned int n = sizeof(sizes) / sizeof(*sizes);
	void *p = &p;
	char *q;

	errno = 0;
	EXPECT(!malloc(huge) && errno == ENOMEM);
	errno = 0;
	EXPECT(!malloc((size_t)PTRDIFF_MAX + 1 + zero) && errno == ENOMEM);
	errno = 0;
	EXPECT(!calloc(huge / 8, 16) && errno == ENOMEM);
	errno = 0;
	EXPECT(!reallocarray(NULL, huge / 8, 16) && errno == ENOMEM);
	EXPECT(posix_memalign(&p, 24 + zero, 1 << 20) == EINVAL && p == &p);
	EXPECT(posix_memalign(&p, 4 + zero, 1 << 20) == EINVAL && p == &p);
	EXPECT(posix_memalign(&p, zero, 1 << 20) == EINVAL && p == &p);
	EXPECT(posix_memalign(&p, 64, huge) == ENOMEM);
	errno = 0;
	EXPECT(!aligned_alloc(64, huge) && errno == ENOMEM);
	EXPECT((q = malloc(zero)) != NULL);
	free(q);
	EXPECT((q = calloc(zero, 8)) != NULL);
	free(q);
	EXPECT(malloc_usable_size(NULL) == 0);
	errno = 5;
	free(NULL);
	EXPECT(errno == 5);
	for (unsigned int i = 0; i < n; i++) {
		q = malloc(sizes[i]);
		EXPECT(q && (uintptr_t)q % 16 == 0 && malloc_usable_size(q) >= sizes[i]);
		memset(q, 0x5a, sizes[i]);
		errno = 0;
		EXPECT(!realloc(q, huge) && errno == ENOMEM && q[sizes[i] - 1] == 0x5a);
		for (unsigned int j = 0; j < n; j++) {
			size_t both = sizes[j] < sizes[i] ? sizes[j] : sizes[i];

			q = realloc(q, sizes[j]);
			EXPECT(q && q[0] == 0x5a && q[both - 1] == 0x5a);
			memset(q, 0x5a, sizes[j]);
			q = realloc(q, sizes[i]);
			EXPECT(q && q[0] == 0x5a && q[both - 1] == 0x5a);
			memset(q, 0x5a, sizes[i]);
		}
		errno = 5;
		EXPECT(!realloc(q, zero) && errno == 5);
	}
	EXPECT((q = realloc(NULL, 1 << 20)) != NULL);
	free(q);
	EXPECT((q = pvalloc((1 << 20) + 1)) && (uintptr_t)q % PAGE == 0 && malloc_usable_size(q) >= (1 << 20) + PAGE);
	free(q);
}

static void edges_mmap(void)
{
	const int rw = PROT_READ | PROT_WRITE, anon = MAP_PRIVATE | MAP_ANONYMOUS;
	const size_t n = 4 << 20;
	char *p, *q;

	EXPECT(mmap(NULL, zero, rw, anon, -1, 0) == MAP_FAILED && errno == EINVAL);
	EXPECT(mmap(NULL, huge, rw, anon, -1, 0) == MAP_FAILED && errno == ENOMEM);
	EXPECT((p = mmap(NULL, n, rw, anon, -1, 0)) != MAP_FAILED && (uintptr_t)p % PAGE == 0);
	memset(p, 1, n);
	EXPECT(munmap(p + 1, PAGE) == -1 && errno == EINVAL);
	EXPECT(munmap(p, zero) == -1 && errno == EINVAL);
	EXPECT(madvise(p + 1, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
	EXPECT(madvise(p, PAGE, 9999) == -1 && errno == EINVAL);
	errno = 5;
	EXPECT(posix_madvise(p, n, POSIX_MADV_DONTNEED) == 0 && posix_madvise(p, n, 9999) == EINVAL && errno == 5);
	EXPECT(p[0] == 1 && p[n - 1] == 1);
	EXPECT(mremap(p, n, zero, MREMAP_MAYMOVE) == MAP_FAILED && errno == EINVAL);
	EXPECT(mremap(p, n, n, MREMAP_FIXED, p) == MAP_FAILED && errno == EINVAL);
	EXPECT(mprotect(p + PAGE, PAGE, PROT_READ) == 0 && p[PAGE] == 1);
	EXPECT(mprotect(p + PAGE, PAGE, rw) == 0);
	p[PAGE] = 2;
	/* Fresh memory over the middle. */
	EXPECT(mmap(p + n / 2, PAGE, rw, anon | MAP_FIXED, -1, 0) == p + n / 2 && p[n / 2] == 0 && p[n / 2 - 1] == 1 &&
	       p[n / 2 + PAGE] == 1);
	EXPECT(mmap(p, PAGE, rw, anon | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
	EXPECT((q = mremap(p, n, 2 * n, MREMAP_MAYMOVE)) != MAP_FAILED && q[0] == 1 && q[PAGE] == 2 && q[n - 1] == 1 &&
	       q[n] == 0 && q[2 * n - 1] == 0);
	EXPECT(munmap(q + n, n) == 0 && q[n - 1] == 1);
	EXPECT(munmap(q, n) == 0);
	EXPECT((p = mmap(NULL, n, rw, anon | MAP_POPULATE, -1, 0)) != MAP_FAILED);
	check_zero(p, n, "mmap(MAP_POPULATE)");
	EXPECT(munmap(p, n) == 0);
}

#endif
