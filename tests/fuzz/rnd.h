/* SPDX-License-Identifier: MIT */
/* The fuzzers' random numbers (splitmix64). rng is the seed; below 0: any. */
#ifndef BB_FUZZ_RND_H
#define BB_FUZZ_RND_H

#include <stdint.h>

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	uint64_t z = rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	z ^= z >> 31;
	return below ? z % below : z;
}

#endif
