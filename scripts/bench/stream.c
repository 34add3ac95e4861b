/* SPDX-License-Identifier: MIT */
/*
 * A loop over large arrays in the manner of STREAM (McCalpin 1995): copy,
 * scale, add and triad over three malloc'ed arrays. The values after each
 * round follow from those before it, so every element can be checked.
 *
 *	stream MIB ROUNDS	size of one array
 */
#include "bench.h"

const char *const bench_name = "stream";

static double *array(size_t n, double value)
{
	double *p = malloc(n * sizeof(*p));

	if (!p)
		fail("cannot allocate %zu bytes", n * sizeof(*p));
	for (size_t i = 0; i < n; i++)
		p[i] = value;
	return p;
}

static void check(const char *name, const double *p, size_t n, double want)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != want || spoiled())
			fail("%s[%zu] holds other bytes than were written: %.17g, not %.17g", name, i, p[i], want);
}

int main(int argc, char **argv)
{
	const double scalar = 0.42;
	double *a, *b, *c, x = 1, y = 2, z = 0;
	size_t n, rounds;
	uint64_t t;

	if (argc != 3)
		bad_option("an argument", "expected MIB ROUNDS");
	n = arg_size("MIB", argv[1]) * (1 << 20) / sizeof(*a);
	rounds = arg_size("ROUNDS", argv[2]);
	t = bb_now_ns();
	a = array(n, x);
	b = array(n, y);
	c = array(n, z);
	for (size_t r = 0; r < rounds; r++) {
		for (size_t i = 0; i < n; i++)
			c[i] = a[i];
		for (size_t i = 0; i < n; i++)
			b[i] = scalar * c[i];
		for (size_t i = 0; i < n; i++)
			c[i] = a[i] + b[i];
		for (size_t i = 0; i < n; i++)
			a[i] = b[i] + scalar * c[i];
		z = x;
		y = scalar * z;
		z = x + y;
		x = y + scalar * z;
	}
	t = bb_now_ns() - t;
	check("a", a, n, x);
	check("b", b, n, y);
	check("c", c, n, z);
	printf("{\"ns\":%lu,\"verified\":true}\n", t);
	free(a);
	free(b);
	free(c);
	return 0;
}
