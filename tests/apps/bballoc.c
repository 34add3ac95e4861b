/* SPDX-License-Identifier: MIT */
/*
 * bballoc: a torture of the allocation functions. Threads share a table of
 * blocks; each picks one and allocates, grows, shrinks, cuts or frees it, by
 * all functions of the malloc and mmap families, so that blocks are freed by
 * other threads than made them. Words of a pattern are spread over each block
 * and checked before and after every change; memory that must be zero is read
 * in full. Before that, the edges of each function are checked once (--edges
 * stops there). Exits 1 on the first mismatch and names the seed.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>

#include "app.h"

#define PAGE 4096UL
#define STEP 512UL /* bytes from one word of the pattern to the next */
#define SLOTS 64   /* a thread */

enum kind { NONE, HEAP, MAP };

struct block {
	pthread_mutex_t lock;
	enum kind kind;
	char *p;
	size_t len;	   /* bytes that are ours */
	uint64_t tag, off; /* the pattern's, and where in it the block begins */
};

static struct block *blocks;
static unsigned int nthreads = 2, nblocks;
static uint64_t seed, ops = 20000, max_size = 16 << 20, max_total = 256 << 20;
static double seconds;
static _Atomic bool stop;
static _Atomic uint64_t total, done, tags, refused;

/* --- the pattern ---------------------------------------------------------- */

static uint64_t word_at(const struct block *b, size_t at)
{
	return mix(b->tag + (b->off + at) * 0x9e3779b97f4a7c15UL);
}

/* Words at every STEP of the pattern, and the last bytes one by one. */
static size_t first_word(const struct block *b, size_t from)
{
	return (b->off + from + STEP - 1) / STEP * STEP - b->off;
}

static char byte_at(const struct block *b, size_t at)
{
	return (char)word_at(b, at);
}

static size_t tail_of(const struct block *b)
{
	return b->len > 16 ? b->len - 16 : 0;
}

static void fill(struct block *b, size_t from)
{
	for (size_t at = first_word(b, from); at + 8 <= b->len; at += STEP) {
		uint64_t w = word_at(b, at);

		memcpy(b->p + at, &w, 8);
	}
}

static void seal(struct block *b)
{
	for (size_t at = tail_of(b); at < b->len; at++)
		b->p[at] = byte_at(b, at);
}

/* The words below `upto`; those that the tail may cover are left to check_tail. */
static void check(const struct block *b, size_t from, size_t upto, const char *when)
{
	for (size_t at = first_word(b, from); at + 8 <= upto && at + 8 <= tail_of(b); at += STEP) {
		uint64_t w;

		memcpy(&w, b->p + at, 8);
		if (w != word_at(b, at))
			fail("seed %lu: %s block %p of %zu, byte %zu: have %016lx, want %016lx, %s", seed,
			     b->kind == MAP ? "mmap" : "heap", (void *)b->p, b->len, at, w, word_at(b, at), when);
	}
}

static void check_tail(const struct block *b, const char *when)
{
	for (size_t at = tail_of(b); at < b->len; at++)
		if (b->p[at] != byte_at(b, at))
			fail("seed %lu: %s block %p of %zu, byte %zu of the end: have %02x, want %02x, %s", seed,
			     b->kind == MAP ? "mmap" : "heap", (void *)b->p, b->len, at, (unsigned char)b->p[at],
			     (unsigned char)byte_at(b, at), when);
}

static void check_zero(const char *p, size_t len, const char *who)
{
	size_t at = 0;

	for (; at < len && (uintptr_t)(p + at) % 8; at++)
		if (p[at])
			goto bad;
	for (; at + 8 <= len; at += 8)
		if (*(const uint64_t *)(const void *)(p + at))
			goto bad;
	for (; at < len; at++)
		if (p[at])
			goto bad;
	return;
bad:
	fail("seed %lu: %s gave memory that is not zero: %p of %zu at %zu: %016lx", seed, who, (const void *)p, len, at,
	     *(const uint64_t *)(const void *)(p + (at & ~7UL)));
}

/* --- one block ------------------------------------------------------------ */

static size_t random_size(uint64_t *rng)
{
	size_t n = 1 + random_below(rng, 1UL << random_below(rng, 25));

	return n < max_size ? n : max_size;
}

static size_t pages(size_t n)
{
	return (n + PAGE - 1) & ~(PAGE - 1);
}

static void adopt(struct block *b, enum kind kind, void *p, size_t len)
{
	b->kind = kind;
	b->p = p;
	b->len = len;
	b->tag = mix(seed + atomic_fetch_add(&tags, 1));
	b->off = 0;
	fill(b, 0);
	seal(b);
	atomic_fetch_add(&total, len);
}

/* All that malloc_usable_size speaks of may be used. */
static size_t usable(void *p, size_t n, uint64_t *rng, const char *who)
{
	size_t u = malloc_usable_size(p);

	if (u < n)
		fail("seed %lu: malloc_usable_size of %s(%zu) is %zu", seed, who, n, u);
	return random_below(rng, 4) ? n : u;
}

static void make(struct block *b, uint64_t *rng)
{
	size_t n = random_size(rng), align = 0, k;
	const char *who;
	void *p = NULL;

	switch (random_below(rng, 8)) {
	case 0:
	case 1:
		who = "malloc";
		p = malloc(n);
		break;
	case 2:
		who = "calloc";
		k = 1 + random_below(rng, 64);
		n = (n + k - 1) / k * k;
		p = calloc(n / k, k);
		if (p)
			check_zero(p, n, who);
		break;
	case 3:
		who = "posix_memalign";
		align = 8UL << random_below(rng, 19);
		if (posix_memalign(&p, align, n))
			p = NULL;
		break;
	case 4:
		who = "aligned_alloc";
		align = 16UL << random_below(rng, 14);
		n = (n + align - 1) & ~(align - 1);
		p = aligned_alloc(align, n);
		break;
	case 5:
		switch (random_below(rng, 3)) {
		case 0:
			who = "memalign";
			align = 32UL << random_below(rng, 10);
			p = memalign(align, n);
			break;
		case 1:
			who = "valloc";
			align = PAGE;
			p = valloc(n);
			break;
		default:
			who = "reallocarray";
			k = 1 + random_below(rng, 16);
			n = (n + k - 1) / k * k;
			p = reallocarray(NULL, n / k, k);
		}
		break;
	default:
		n = pages(n);
		p = mmap(random_below(rng, 4) ? NULL : (void *)0x7e0000000000, n, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | (random_below(rng, 4) ? 0 : MAP_NORESERVE), -1, 0);
		if (p == MAP_FAILED)
			break;
		check_zero(p, n, "mmap");
		adopt(b, MAP, p, n);
		return;
	}
	if (!p || p == MAP_FAILED) {
		atomic_fetch_add(&refused, 1);
		return;
	}
	if (align && (uintptr_t)p % align)
		fail("seed %lu: %s(%zu, %zu) gave %p", seed, who, align, n, p);
	if ((uintptr_t)p % 16 && n >= 16)
		fail("seed %lu: %s(%zu) gave %p, not aligned to 16", seed, who, n, p);
	adopt(b, HEAP, p, usable(p, n, rng, who));
}

static void drop(struct block *b)
{
	check(b, 0, b->len, "before it was freed");
	check_tail(b, "before it was freed");
	errno = 77;
	if (b->kind == HEAP)
		free(b->p);
	else if (munmap(b->p, b->len) < 0)
		fail("seed %lu: munmap(%p, %zu): %s", seed, (void *)b->p, b->len, strerror(errno));
	if (errno != 77)
		fail("seed %lu: free changed errno to %d", seed, errno);
	b->kind = NONE;
	atomic_fetch_sub(&total, b->len);
}

/*
 * The block has a new place, n bytes were asked for, and len may be used: what
 * was below both n and the old length must still be there.
 */
static void moved(struct block *b, void *p, size_t n, size_t len, bool zeroed, const char *who)
{
	size_t old = b->len, keep = old > 16 ? old - 16 : 0;

	b->p = p;
	b->len = len;
	if (keep > n)
		keep = n;
	check(b, 0, keep, who);
	if (n >= old)
		for (size_t at = keep; at < old; at++)
			if (b->p[at] != byte_at(b, at))
				fail("seed %lu: byte %zu of %zu lost, %s to %zu", seed, at, old, who, n);
	if (zeroed && n > old)
		check_zero(b->p + old, n - old, who);
	fill(b, keep > 8 ? keep - 8 : 0); /* the old end may have cut a word */
	seal(b);
	atomic_fetch_add(&total, len - old);
}

static void resize_heap(struct block *b, uint64_t *rng)
{
	size_t n = random_below(rng, 3) ? random_size(rng) : 1 + random_below(rng, 2 * b->len), k;
	void *p;

	if (n > max_size)
		n = max_size;
	check_tail(b, "before realloc");
	if (random_below(rng, 4)) {
		p = realloc(b->p, n);
	} else {
		k = 1 + random_below(rng, 16);
		n = (n + k - 1) / k * k;
		p = reallocarray(b->p, n / k, k);
	}
	if (!p) {
		atomic_fetch_add(&refused, 1);
		check_tail(b, "after realloc failed");
		return;
	}
	moved(b, p, n, usable(p, n, rng, "realloc"), false, "after realloc");
}

static void resize_map(struct block *b, uint64_t *rng)
{
	size_t n = random_below(rng, 3) ? pages(random_size(rng)) : pages(1 + random_below(rng, 2 * b->len));
	int flags = random_below(rng, 4) ? MREMAP_MAYMOVE : 0;
	void *p;

	if (n > max_size)
		n = pages(max_size);
	check_tail(b, "before mremap");
	p = mremap(b->p, b->len, n, flags);
	if (p == MAP_FAILED) {
		if (errno != ENOMEM || n <= b->len)
			fail("seed %lu: mremap(%p, %zu, %zu, %d): %s", seed, (void *)b->p, b->len, n, flags,
			     strerror(errno));
		check_tail(b, "after mremap failed");
		return;
	}
	if (!flags && p != b->p)
		fail("seed %lu: mremap moved %p to %p unasked", seed, (void *)b->p, p);
	moved(b, p, n, n, true, "after mremap");
}

/* Unmaps whole pages at the start, at the end, or in the middle (the rest goes too, in a second call). */
static void cut_map(struct block *b, uint64_t *rng)
{
	size_t n = b->len / PAGE, from, count;
	struct block rest = *b;

	if (n < 3)
		return;
	count = 1 + random_below(rng, n - 2);
	from = random_below(rng, 3);
	from = from == 0 ? 0 : from == 1 ? n - count : random_below(rng, n - count);
	check_tail(b, "before a part was unmapped");
	if (munmap(b->p + from * PAGE, count * PAGE) < 0)
		fail("seed %lu: munmap of a part: %s", seed, strerror(errno));
	check(b, 0, from * PAGE, "below a part that was unmapped");
	atomic_fetch_sub(&total, count * PAGE);
	if (from + count == n) {
		b->len = from * PAGE;
		seal(b);
		return;
	}
	rest.p += (from + count) * PAGE;
	rest.off += (from + count) * PAGE;
	rest.len -= (from + count) * PAGE;
	check(&rest, 0, rest.len, "above a part that was unmapped");
	check_tail(&rest, "above a part that was unmapped");
	if (from) {
		if (munmap(b->p, from * PAGE) < 0)
			fail("seed %lu: munmap of the start: %s", seed, strerror(errno));
		atomic_fetch_sub(&total, from * PAGE);
		check(&rest, 0, rest.len, "after what was below it was unmapped");
	}
	b->p = rest.p;
	b->off = rest.off;
	b->len = rest.len;
}

static void discard(struct block *b, uint64_t *rng)
{
	size_t lead = (PAGE - (uintptr_t)b->p % PAGE) % PAGE, n, from, count;

	if (b->len < lead + PAGE)
		return;
	n = (b->len - lead) / PAGE;
	from = random_below(rng, n);
	count = 1 + random_below(rng, n - from);
	check(b, 0, b->len, "before madvise");
	if (madvise(b->p + lead + from * PAGE, count * PAGE, MADV_DONTNEED) < 0)
		fail("seed %lu: madvise(DONTNEED): %s", seed, strerror(errno));
	check_zero(b->p + lead + from * PAGE, count * PAGE, "madvise(DONTNEED)");
	check(b, 0, lead + from * PAGE, "below what madvise discarded");
	check(b, lead + (from + count) * PAGE, b->len, "above what madvise discarded");
	fill(b, 0);
	seal(b);
}

static void step(struct block *b, uint64_t *rng)
{
	uint64_t what = random_below(rng, 10);

	if (b->kind == NONE) {
		if (atomic_load(&total) + max_size <= max_total)
			make(b, rng);
		return;
	}
	if (atomic_load(&total) + 2 * max_size > max_total && what > 4)
		what = 0;
	if (what < 4) {
		drop(b);
	} else if (what == 4) {
		check(b, 0, b->len, "at rest");
		check_tail(b, "at rest");
	} else if (what == 5) {
		discard(b, rng);
	} else if (b->kind == HEAP) {
		resize_heap(b, rng);
	} else if (what < 8) {
		resize_map(b, rng);
	} else {
		cut_map(b, rng);
	}
}

static void *work(void *arg)
{
	uint64_t rng = mix(seed + 7919 * ((uintptr_t)arg + 1)), i;

	for (i = 0; seconds > 0 ? !atomic_load_explicit(&stop, memory_order_relaxed) : i < ops; i++) {
		struct block *b = &blocks[random_below(&rng, nblocks)];

		if (pthread_mutex_trylock(&b->lock))
			continue;
		step(b, &rng);
		pthread_mutex_unlock(&b->lock);
	}
	atomic_fetch_add(&done, i);
	return NULL;
}

#include "bballoc_edges.h"

/* --- start and end -------------------------------------------------------- */

static void run(void)
{
	pthread_t *threads = calloc(nthreads, sizeof(*threads));

	nblocks = nthreads * SLOTS;
	blocks = calloc(nblocks, sizeof(*blocks));
	if (!threads || !blocks)
		fail("out of memory");
	for (unsigned int i = 0; i < nblocks; i++)
		pthread_mutex_init(&blocks[i].lock, NULL);
	for (uintptr_t t = 0; t < nthreads; t++) {
		errno = pthread_create(&threads[t], NULL, work, (void *)t);
		if (errno)
			fail("cannot start a thread: %s", strerror(errno));
	}
	if (seconds > 0) {
		struct timespec ts = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (time_t)seconds) * 1e9)};

		nanosleep(&ts, NULL);
		atomic_store(&stop, true);
	}
	for (unsigned int t = 0; t < nthreads; t++)
		pthread_join(threads[t], NULL);
	for (unsigned int i = 0; i < nblocks; i++)
		if (blocks[i].kind != NONE)
			drop(&blocks[i]);
	if (total)
		fail("seed %lu: %lu bytes are not accounted for", seed, total);
}

static void usage(void)
{
	puts("usage: bballoc [--threads N] [--ops N | --seconds S] [--total SIZE] [--max SIZE] [--seed N] [--edges | "
	     "--no-edges]\n"
	     "--ops counts a thread. --edges checks only what each function does at its edges; --no-edges leaves that\n"
	     "out, for allocators whose edges are not glibc's.\n"
	     "Default: --threads 2 --ops 20000 --total 256M --max 16M, seed by the clock");
	exit(0);
}

int main(int argc, char **argv)
{
	static const struct option table[] = {
		{"threads", 1, NULL, 't'}, {"ops", 1, NULL, 'o'},
		{"seconds", 1, NULL, 's'}, {"total", 1, NULL, 'm'},
		{"max", 1, NULL, 'x'},	   {"seed", 1, NULL, 'r'},
		{"edges", 0, NULL, 'e'},   {"no-edges", 0, NULL, 'n'},
		{"help", 0, NULL, 'h'},	   {0},
	};
	bool only_edges = false, edges = true;
	uint64_t v;
	int c;

	app_name = "bballoc";
	seed = now_ns() % 1000000;
	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 't':
			v = parse_size("--threads", optarg);
			if (!v || v > 256)
				bad_option("--threads", optarg);
			nthreads = (unsigned int)v;
			break;
		case 'o':
			ops = parse_size("--ops", optarg);
			break;
		case 's':
			seconds = parse_double("--seconds", optarg);
			break;
		case 'm':
			max_total = parse_size("--total", optarg);
			break;
		case 'x':
			max_size = parse_size("--max", optarg);
			if (!max_size)
				bad_option("--max", optarg);
			break;
		case 'r':
			seed = parse_size("--seed", optarg);
			break;
		case 'e':
			only_edges = true;
			break;
		case 'n':
			edges = false;
			break;
		case 'h':
			usage();
			break;
		default:
			exit(2);
		}
	}
	if (optind < argc)
		bad_option("an argument", argv[optind]);
	if (edges) {
		edges_malloc();
		edges_mmap();
	}
	if (!only_edges)
		run();
	printf("bballoc: seed %lu, %lu steps, %lu refused, all as it must be\n", seed, done, refused);
	return 0;
}
