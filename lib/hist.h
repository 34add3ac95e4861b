/* SPDX-License-Identifier: MIT */
/*
 * A histogram of durations: log-linear buckets (16 a power of two, so about
 * 6 % wide), from 1 ns to about 70 s. One thread adds, any may read at any time.
 */
#ifndef BB_LIB_HIST_H
#define BB_LIB_HIST_H

#include <stdatomic.h>
#include <stdint.h>

#define BB_HIST_SUB 16
#define BB_HIST_BUCKETS (37 * BB_HIST_SUB)

struct bb_hist {
	_Atomic uint64_t count, sum, max;
	_Atomic uint32_t bucket[BB_HIST_BUCKETS];
};

void bb_hist_add(struct bb_hist *h, uint64_t ns);
void bb_hist_reset(struct bb_hist *h);
/* q in 0..1000 (500 is the median). Return: ns, the bucket's middle; 0 if empty. */
uint64_t bb_hist_quantile(const struct bb_hist *h, unsigned int permille);

#endif
