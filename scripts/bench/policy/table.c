/* SPDX-License-Identifier: MIT */
/* The policies that there are. */
#include "sim.h"

const struct pol_policy pol_policies[] = {
	{ "ours", false, pol_run_ours, "preload/evict.c" },
	{ "fifo", false, pol_run_fifo, "first in, first out" },
	{ "second", false, pol_run_second, "FIFO, a second chance for what came back" },
	{ "s3fifo", false, pol_run_s3fifo, "S3-FIFO, of faults alone" },
	{ "2q", false, pol_run_2q, "2Q, of faults alone" },
	{ "random", false, pol_run_random, "any" },
	{ "clock", true, pol_run_clock, "FIFO, a second chance for what was touched" },
	{ "s3fifo-sees", true, pol_run_s3fifo_sees, "S3-FIFO" },
	{ "2q-sees", true, pol_run_2q_sees, "2Q" },
	{ "lru", true, pol_run_lru, "least recently used" },
	{ "opt", true, pol_run_opt, "Belady: the fewest faults that there can be" },
};
const unsigned int pol_npolicies = sizeof(pol_policies) / sizeof(pol_policies[0]);
