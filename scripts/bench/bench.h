/* SPDX-License-Identifier: MIT */
/*
 * What the measuring programs share: failing, content of pages that can be
 * checked, and samples. They know nothing of BlueBridge; what is measured is
 * the time that a program sees.
 *
 * Memory of the programs' own books comes from own_alloc(): shared anonymous
 * mappings, which the preload library leaves to the kernel.
 */
#ifndef BB_BENCH_H
#define BB_BENCH_H

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "options.h"

#define PAGE 4096UL
#define WORDS (PAGE / sizeof(uint64_t))

extern const char *const bench_name;

/* One line on stderr and exit 1: other bytes than were written, or a call that must not fail. */
static inline __attribute__((noreturn, format(printf, 1, 2))) void fail(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", bench_name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(1);
}

static inline __attribute__((noreturn)) void bad_option(const char *name, const char *value)
{
	fprintf(stderr, "%s: bad value for %s: %s\n", bench_name, name, value);
	exit(2);
}

static inline uint64_t arg_size(const char *name, const char *s)
{
	uint64_t v;

	if (bb_size_parse(s, &v))
		bad_option(name, s);
	return v;
}

static inline void *own_alloc(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		fail("cannot map %zu bytes: %s", bytes, strerror(errno));
	return p;
}

/* cpu < 0: wherever the scheduler likes. */
static inline void pin(int cpu)
{
	cpu_set_t set;

	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		fail("cannot run on CPU %d: %s", cpu, strerror(errno));
}

/* --- content --------------------------------------------------------------- */

/* splitmix64: a mixer of one number, and a stream of them. */
static inline uint64_t mix(uint64_t z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

static inline uint64_t next_random(uint64_t *state)
{
	return mix(*state += 0x9e3779b97f4a7c15ULL);
}

static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	return (uint64_t)((unsigned __int128)next_random(state) * n >> 64);
}

static inline void words_fill(void *to, unsigned int n, uint64_t seed)
{
	uint64_t *w = to;

	for (unsigned int i = 0; i < n; i++)
		w[i] = seed + i * 0x9e3779b97f4a7c15ULL;
}

/*
 * BENCH_SPOIL=N in the environment: the Nth comparison expects something else than
 * was written. So the bench's own test sees that comparisons are made, and that
 * one which fails ends the bench.
 */
static long spoil;

static inline __attribute__((constructor)) void spoil_init(void)
{
	const char *s = getenv("BENCH_SPOIL");

	spoil = s ? strtol(s, NULL, 10) : 0;
}

static inline bool spoiled(void)
{
	return __builtin_expect(spoil != 0, 0) && __atomic_sub_fetch(&spoil, 1, __ATOMIC_RELAXED) == 0;
}

/*
 * Word i of a page as a compressor would have it: the second half zeros, or a
 * text of 256 words of eight letters, which lz4 makes half as long.
 */
static inline uint64_t compressible_word(bool text, unsigned int i, uint64_t seed)
{
	const uint64_t z = (seed + i * 0x9e3779b97f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL;

	if (!text)
		return i < WORDS / 2 ? seed + i * 0x9e3779b97f4a7c15ULL : 0;
	return (mix((z >> 56) + 1) & 0x0f0f0f0f0f0f0f0fULL) + 0x6161616161616161ULL;
}

/* Return: index of the first word that differs, or n. */
static inline unsigned int words_differ(const void *at, unsigned int n, uint64_t seed)
{
	const uint64_t *w = at;
	uint64_t bad = 0;

	if (spoiled())
		return 0;
	for (unsigned int i = 0; i < n; i++)
		bad |= w[i] ^ (seed + i * 0x9e3779b97f4a7c15ULL);
	if (bad)
		for (unsigned int i = 0; i < n; i++)
			if (w[i] != seed + i * 0x9e3779b97f4a7c15ULL)
				return i;
	return n;
}

/* --- samples --------------------------------------------------------------- */

struct samples {
	uint32_t *ns;
	uint64_t n, max;
};

static inline void samples_init(struct samples *s, uint64_t max)
{
	s->ns = own_alloc(max * sizeof(*s->ns));
	s->n = 0;
	s->max = max;
}

static inline void samples_add(struct samples *s, uint64_t ns)
{
	if (s->n < s->max)
		s->ns[s->n++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static inline int samples_cmp(const void *a, const void *b)
{
	const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Prints "NAME":{...} of the samples in nanoseconds; sorts them. */
static inline void samples_print(const char *name, struct samples *s)
{
	static const unsigned int permille[] = { 100, 500, 900, 950, 990 };
	uint64_t sum = 0;

	qsort(s->ns, s->n, sizeof(*s->ns), samples_cmp);
	for (uint64_t i = 0; i < s->n; i++)
		sum += s->ns[i];
	printf("\"%s\":{\"n\":%lu", name, s->n);
	if (s->n) {
		for (unsigned int i = 0; i < sizeof(permille) / sizeof(permille[0]); i++)
			printf(",\"p%u\":%u", permille[i] / 10, s->ns[(s->n - 1) * permille[i] / 1000]);
		printf(",\"mean\":%.1f,\"max\":%u", (double)sum / (double)s->n, s->ns[s->n - 1]);
	}
	printf("}");
}

#endif
