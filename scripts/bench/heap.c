/* SPDX-License-Identifier: MIT */
/*
 * A program that lives in malloc: a table of live objects, each step frees one
 * and allocates another. Sizes: 95 % small (16 bytes to 4 KiB), 5 % from
 * 128 KiB to 4 MiB; both as many of each power of two. One step in 64 grows a
 * large object by realloc, as a vector does. Every page of an object is
 * written when it comes to be and compared before it goes.
 *
 *	heap STEPS
 */
#include "bench.h"

#define LIVE 1024U
#define LARGE_MIN (128UL << 10)
#define LARGE_MAX (4UL << 20)
#define GROWN_MAX (8UL << 20)

const char *const bench_name = "heap";

static struct object {
	uint8_t *p;
	size_t size;
	uint64_t seed;
} object[LIVE];
static uint64_t rng = 11, steps, large, grown;

/* Between lo and hi, as many between 1x and 2x as between 2x and 4x. */
static size_t log_uniform(size_t lo, size_t hi)
{
	unsigned int octaves = (unsigned int)__builtin_ctzl(hi / lo);
	size_t base = lo << random_below(&rng, octaves);

	return base + random_below(&rng, base);
}

/* A word at the start of each page of the object, and one at its end. */
static void stamp(const struct object *o, size_t from)
{
	size_t at = (from + PAGE - 1) & ~(PAGE - 1);

	for (; at + 8 <= o->size; at += PAGE)
		memcpy(o->p + at, &(uint64_t){ o->seed + at }, 8);
	memcpy(o->p + o->size - 8, &(uint64_t){ ~o->seed }, 8);
}

static void compare(const struct object *o, size_t end)
{
	uint64_t v;

	for (size_t at = 0; at + 16 <= end; at += PAGE) {
		memcpy(&v, o->p + at, 8);
		if (v != o->seed + at || spoiled())
			fail("byte %zu of an object of %zu: other bytes than were written", at, o->size);
	}
	memcpy(&v, o->p + end - 8, 8);
	if (v != ~o->seed || spoiled())
		fail("the end of an object of %zu: other bytes than were written", o->size);
}

static void replace(struct object *o)
{
	if (o->p) {
		compare(o, o->size);
		free(o->p);
	}
	if (random_below(&rng, 100) < 5) {
		o->size = log_uniform(LARGE_MIN, LARGE_MAX);
		large++;
	} else {
		o->size = log_uniform(16, 4096);
	}
	o->seed = next_random(&rng);
	o->p = malloc(o->size);
	if (!o->p)
		fail("cannot allocate %zu bytes", o->size);
	stamp(o, 0);
}

static void grow(struct object *o)
{
	size_t old = o->size;
	uint8_t *p;

	if (!o->p || old < LARGE_MIN || old >= GROWN_MAX)
		return;
	p = realloc(o->p, old + old / 2);
	if (!p)
		fail("cannot grow to %zu bytes", old + old / 2);
	o->p = p;
	compare(o, old);
	o->size = old + old / 2;
	stamp(o, old - 8); /* over the end that was */
	grown++;
}

int main(int argc, char **argv)
{
	uint64_t t;

	if (argc != 2)
		bad_option("an argument", "expected STEPS");
	steps = arg_size("STEPS", argv[1]);
	t = bb_now_ns();
	for (uint64_t i = 0; i < steps; i++) {
		replace(&object[random_below(&rng, LIVE)]);
		if (i % 64 == 0)
			for (unsigned int k = 0; k < 32; k++)
				if (object[(i / 64 + k) % LIVE].size >= LARGE_MIN) {
					grow(&object[(i / 64 + k) % LIVE]);
					break;
				}
	}
	for (unsigned int i = 0; i < LIVE; i++)
		if (object[i].p) {
			compare(&object[i], object[i].size);
			free(object[i].p);
		}
	t = bb_now_ns() - t;
	printf("{\"ns\":%lu,\"large\":%lu,\"grown\":%lu,\"verified\":true}\n", t, large, grown);
	return 0;
}
