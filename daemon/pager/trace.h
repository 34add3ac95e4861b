/* SPDX-License-Identifier: MIT */
/*
 * The last faults of a program, one by one: what each of the five parts took,
 * where the page came from. The pager's thread writes them, without a lock, a
 * system call or a clock of its own; any thread may read them at any time. Who
 * reads too slowly misses some, and is told how many.
 */
#ifndef BB_DAEMON_TRACE_H
#define BB_DAEMON_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "pager.h"

#define BB_TRACE_RECORDS 4096u /* kept, a program: a power of two */

/* Where the page came from. */
enum bb_trace_kind {
	BB_TRACE_REMOTE,	/* a home was asked for it */
	BB_TRACE_PREFETCHED,	/* it was on its way already */
	BB_TRACE_STAGED,	/* out of the staging ring */
	BB_TRACE_ZERO,		/* it held nothing */
	BB_TRACE_OPENED,	/* its extent was handed to the kernel: never touched before */
	BB_TRACE_LOST,		/* from nowhere: the access raises SIGBUS */
	BB_TRACE_KINDS
};
extern const char *const bb_trace_kind_name[BB_TRACE_KINDS];

struct bb_trace_fault {
	uint64_t t_end;			/* CLOCK_MONOTONIC, ns: when it was over */
	uint64_t ptr;			/* at its home; 0 where node is 0 */
	uint32_t page;			/* of the region */
	uint32_t pages;			/* that came with it, itself included */
	uint16_t node;			/* home it came from; 0: none */
	enum bb_trace_kind kind;
	uint64_t part[BB_PART_TOTAL];	/* ns; the fault took their sum */
};

/*
 * A record is a cache line. seq is 2n+1 while fault n is written into it and
 * 2n+2 afterwards; the other words are as trace.c packs them.
 */
struct bb_trace_slot {
	_Alignas(64) _Atomic uint64_t seq;
	_Atomic uint64_t word[6];
};

struct bb_trace {
	_Atomic uint64_t head;		/* faults written so far */
	struct bb_trace_slot slot[BB_TRACE_RECORDS];
};

/* Its memory is there from the start: no page of it is missing later. Return: NULL where there is none. */
struct bb_trace *bb_trace_new(void);
void bb_trace_free(struct bb_trace *t);

/* The pager's thread alone. */
void bb_trace_add(struct bb_trace *t, const struct bb_trace_fault *f);
/* Where the next one goes will be needed soon. */
static inline void bb_trace_soon(struct bb_trace *t)
{
	__builtin_prefetch(&t->slot[atomic_load_explicit(&t->head, memory_order_relaxed) % BB_TRACE_RECORDS], 1);
}

/*
 * Copies faults from number *at on, oldest first, at most max; those that are
 * overwritten already are counted into *lost. *at goes on to the next.
 * Return: how many were copied.
 */
size_t bb_trace_read(const struct bb_trace *t, uint64_t *at, struct bb_trace_fault *out, size_t max, uint64_t *lost);

static inline uint64_t bb_trace_total(const struct bb_trace_fault *f)
{
	uint64_t sum = 0;

	for (int i = 0; i < BB_PART_TOTAL; i++)
		sum += f->part[i];
	return sum;
}

#endif
