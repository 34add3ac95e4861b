/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes what takes compressed segments apart: fuzz_lz4 [SECONDS [SEED]]. The
 * input is what our packer makes of a page, with bytes changed, cut or added, or
 * random bytes, in a block of exactly its size; the output has exactly the size of
 * a segment. Properties: nothing beyond either is touched (ASan; the bytes behind
 * the output here), what is accepted is deterministic, what was not changed comes
 * back whole, and what does not fit is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "net/compress.h"
#include "rnd.h"

static uint64_t inputs, accepted;

static void fail(const char *what)
{
	fprintf(stderr, "fuzz_lz4: %s after %lu inputs\n", what, inputs);
	abort();
}

static void any_page(uint8_t *p, uint32_t len)
{
	const uint64_t alphabet = 1 + rnd(rnd(2) ? 4 : 256), run = 1 + rnd(64);

	for (uint32_t i = 0; i < len; i++)
		p[i] = i % run ? p[i - 1] : (uint8_t)rnd(alphabet);
}

/* Return: whether n bytes at in were taken. */
static bool take(const uint8_t *in, uint32_t n, uint8_t *out, uint32_t len)
{
	uint8_t *exact = malloc(n ? n : 1), *whole = malloc(len), guard[16];
	bool ok;

	if (!exact || !whole)
		fail("no memory");
	memcpy(exact, in, n);
	ok = bb_lz4_unpack(exact, n, whole, len);
	if (ok && n > BB_LZ4_MAX(len))
		fail("one that is too long was taken");
	memset(out + len, 0xa5, sizeof(guard));
	memset(guard, 0xa5, sizeof(guard));
	if (bb_lz4_unpack(exact, n, out, len) != ok || (ok && memcmp(out, whole, len)))
		fail("the same came out differently");
	if (memcmp(out + len, guard, sizeof(guard)))
		fail("bytes behind the segment were written");
	free(exact);
	free(whole);
	inputs++;
	accepted += ok;
	return ok;
}

static void one(struct bb_lz4 *z)
{
	const uint32_t len = rnd(2) ? BB_SEG_LARGE : BB_SEG_SMALL;
	uint8_t page[BB_SEG_LARGE], out[BB_SEG_LARGE + 16], in[BB_SEG_LARGE + 64];
	uint32_t n;

	any_page(page, len);
	n = bb_lz4_pack(z, page, len, in);
	if (n > BB_LZ4_MAX(len))
		fail("packed into more than there may be");
	if (n && (!take(in, n, out, len) || memcmp(out, page, len)))
		fail("a page did not come back");
	for (int k = 0; k < 16; k++) {
		uint8_t bad[sizeof(in)];
		uint32_t m = n ? n : (uint32_t)rnd(sizeof(bad));

		memcpy(bad, in, sizeof(bad));
		for (uint64_t c = n ? 1 + rnd(6) : m; c && m; c--)
			bad[rnd(rnd(2) && m > 8 ? 8 : m)] = (uint8_t)(rnd(3) ? rnd(256) : 255);
		if (!rnd(4))
			m = (uint32_t)rnd(sizeof(bad));
		take(bad, m, out, rnd(8) ? len : BB_SEG_LARGE + BB_SEG_SMALL - len);
	}
}

int main(int argc, char **argv)
{
	const uint64_t seconds = argc > 1 ? strtoull(argv[1], NULL, 10) : 10;
	struct bb_lz4 *z = bb_lz4_new();
	uint64_t end;

	rng = argc > 2 ? strtoull(argv[2], NULL, 0) : bb_now_ns();
	printf("fuzz_lz4: %lu s, seed %lu\n", seconds, rng);
	fflush(stdout);
	if (!z)
		fail("no memory");
	end = bb_now_ns() + seconds * 1000000000ULL;
	do
		for (int i = 0; i < 64; i++)
			one(z);
	while (bb_now_ns() < end);
	bb_lz4_free(z);
	printf("fuzz_lz4: %lu inputs, %lu taken; nothing found\n", inputs, accepted);
	return 0;
}
