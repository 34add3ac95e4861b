/* SPDX-License-Identifier: MIT */
/*
 * How a host's local memory is shared among its programs. A program that names
 * a budget (BB_LOCAL) gets it; what remains is shared evenly among those that
 * named none, and shares move as programs come and go. Pure: no threads, no
 * system calls.
 */
#ifndef BB_DAEMON_BUDGET_H
#define BB_DAEMON_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#define BB_BUDGET_MIN (4ULL << 20)
#define BB_BUDGET_PROGRAMS 1024

struct bb_budget {
	uint64_t total; /* bytes of the host for all of its programs */
	unsigned int n;
	struct {
		uint32_t region;
		uint64_t wanted; /* 0: a fair share */
		uint64_t granted;
	} program[BB_BUDGET_PROGRAMS];
};

void bb_budget_init(struct bb_budget *b, uint64_t total);
/* What a program that comes now would get. */
uint64_t bb_budget_quote(const struct bb_budget *b, uint64_t wanted);
/* Return: 0 or -ENOSPC. Shares of others may have changed: see granted. */
int bb_budget_add(struct bb_budget *b, uint32_t region, uint64_t wanted);
void bb_budget_remove(struct bb_budget *b, uint32_t region);
/* The operator's word for one program, from now on. Return: 0 or -ENOENT. */
int bb_budget_set(struct bb_budget *b, uint32_t region, uint64_t wanted);

#endif
