/* SPDX-License-Identifier: MIT */
/*
 * A log-linear histogram: each power of two is cut into BB_HIST_SUB buckets of
 * equal width, the values below BB_HIST_SUB have one each. Finding a bucket is
 * a count of leading zeros and a shift, so it can stand on the fault path.
 */
#include "hist.h"

#define SUB_BITS 4
_Static_assert(BB_HIST_SUB == 1 << SUB_BITS, "the bucket search shifts by SUB_BITS");

static unsigned int bucket_of(uint64_t ns)
{
	unsigned int e, i;

	if (ns < BB_HIST_SUB)
		return (unsigned int)ns;
	e = 63 - (unsigned int)__builtin_clzll(ns);
	i = (e - SUB_BITS + 1) * BB_HIST_SUB + (unsigned int)((ns >> (e - SUB_BITS)) & (BB_HIST_SUB - 1));
	return i < BB_HIST_BUCKETS ? i : BB_HIST_BUCKETS - 1;
}

static uint64_t bucket_middle(unsigned int i)
{
	unsigned int shift;

	if (i < 2 * BB_HIST_SUB)
		return i;
	shift = i / BB_HIST_SUB - 1;
	return ((uint64_t)(BB_HIST_SUB + i % BB_HIST_SUB) << shift) + (1ULL << shift) / 2;
}

/* One thread adds: no read-modify-write, which would take five times as long. */
#define add(to, n) \
	atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + (n), memory_order_relaxed)

void bb_hist_add(struct bb_hist *h, uint64_t ns)
{
	add(&h->bucket[bucket_of(ns)], 1);
	add(&h->count, 1);
	add(&h->sum, ns);
	if (ns > atomic_load_explicit(&h->max, memory_order_relaxed))
		atomic_store_explicit(&h->max, ns, memory_order_relaxed);
}

void bb_hist_reset(struct bb_hist *h)
{
	atomic_store_explicit(&h->count, 0, memory_order_relaxed);
	atomic_store_explicit(&h->sum, 0, memory_order_relaxed);
	atomic_store_explicit(&h->max, 0, memory_order_relaxed);
	for (unsigned int i = 0; i < BB_HIST_BUCKETS; i++)
		atomic_store_explicit(&h->bucket[i], 0, memory_order_relaxed);
}

uint64_t bb_hist_quantile(const struct bb_hist *h, unsigned int permille)
{
	const uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);
	uint64_t total = 0, rank, seen = 0, ns;
	unsigned int i;

	/* Not ->count: others add meanwhile, and the walk must find its rank. */
	for (i = 0; i < BB_HIST_BUCKETS; i++)
		total += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
	if (!total)
		return 0;
	if (permille > 1000)
		permille = 1000;
	rank = (total * permille + 999) / 1000;
	if (!rank)
		rank = 1;
	for (i = 0; i < BB_HIST_BUCKETS - 1; i++) {
		seen += atomic_load_explicit(&h->bucket[i], memory_order_relaxed);
		if (seen >= rank)
			break;
	}
	ns = bucket_middle(i);
	return max && ns > max ? max : ns;
}
