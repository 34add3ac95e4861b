/* SPDX-License-Identifier: MIT */
/*
 * The pager: resolves the page faults of this host's programs. One thread a
 * struct bb_pager; a program belongs to one of them for its life. Programs are
 * handed over by the control thread (bb_pager_attach) and leave when their
 * socket ends. Numbers for people are read from other threads at any time.
 */
#ifndef BB_DAEMON_PAGER_H
#define BB_DAEMON_PAGER_H

#include <bluebridge/local.h>

#include <stdbool.h>
#include <stdint.h>

#include "hist.h"

struct bb_home;
struct bb_keep;
struct bb_peers;
struct bb_pager;

/* The paper's five parts of a fault, and the whole. */
enum bb_part {
	BB_PART_ENTER,		/* ready to read, until the message is in hand */
	BB_PART_DIRECTORY,	/* finding out where the page is */
	BB_PART_GET,		/* asking for it, until its bytes are here */
	BB_PART_EXIT,		/* installing it and waking the program */
	BB_PART_OTHER,		/* everything else: credit, queueing, books */
	BB_PART_TOTAL,
	BB_PART_MAX
};
extern const char *const bb_part_name[BB_PART_MAX];

struct bb_pager_config {
	unsigned int index;
	int cpu;		/* pin to it; -1: no */
	uint32_t spin_us;	/* poll that long after the last work before sleeping */
	bool prefetch;
	unsigned int replicas;	/* copies of each page at different homes: 1 or 2 */
	uint64_t deadline_ns;	/* a fault that takes longer fails with SIGBUS */
	struct bb_peers *peers;
	struct bb_home *home;	/* own home; NULL: nothing is lent here */
	struct bb_keep *keep;	/* NULL: nothing outlives us */
	const char *socket;	/* the path that programs come by */
};

/* Region numbers tell the pager: number % BB_PAGERS_MAX is index + 1. */
#define BB_PAGERS_MAX 64

int bb_pager_start(struct bb_pager **out, const struct bb_pager_config *cfg);
/*
 * leave: all stays as it is for the next bbd, programs wait for it; else all
 * home memory is given back.
 */
void bb_pager_stop(struct bb_pager *p, bool leave);
/* What is kept for programs (keep.h): names begin with it. */
#define BB_KEPT_PROGRAMS "prog."
/* Programs that are here or are waited for. */
unsigned int bb_pager_count(struct bb_pager *p);
/* Pagers that there must be to go on where the last bbd ended. */
unsigned int bb_pagers_kept(struct bb_keep *keep);

/*
 * Takes over the socket and descriptors of a program that asked to attach
 * (all are closed by the pager in the end, also on error), answers it, and
 * serves it. granted: its budget in bytes. Called from the control thread.
 * Return: the region's number, or 0 where it was refused.
 */
uint32_t bb_pager_attach(struct bb_pager *p, const struct bb_attach_req *req, uint64_t granted, int sock, int uffd, int memfd, int kick);

#define BB_PROGRAM_NODES 64

struct bb_program_info {
	uint32_t region;
	uint32_t pid;
	char comm[32];
	uint64_t base, length;	/* of the region, in the program's addresses */
	uint64_t budget;	/* bytes, staging included */
	uint64_t charged;	/* bytes charged against it now */
	uint64_t allocated;	/* bytes of live allocations in the region */
	uint64_t extents_local, extents_managed, extents_fresh;
	uint32_t idle;		/* of the count's own */
	uint64_t faults, fill_zero, fill_staged, fill_remote, prefetched, unused;
	uint64_t single, copied; /* extents with one copy where two are wanted; pages copied again */
	uint64_t evicted, evicted_clean, evicted_zero, evict_busy, written_back, lost;
	uint64_t relayed, relay_late; /* wake-ups that its helper did for us; was asked to, and came too late for */
	unsigned int nnodes;	/* home memory held, by node */
	struct {
		uint16_t node;
		uint64_t extents;
		uint64_t pages;	/* pages whose only or latest copy is there */
	} node[BB_PROGRAM_NODES];
};

/* The regions that it serves; cheap. Return: how many were filled in. */
int bb_pager_regions(struct bb_pager *p, uint32_t *out, int max);
/* All about them; looks at every page. Return: how many were filled in. */
int bb_pager_programs(struct bb_pager *p, struct bb_program_info *out, int max);
/* Sets a program's budget at run time. Return: 0 or -ENOENT. */
int bb_pager_set_budget(struct bb_pager *p, uint32_t region, uint64_t bytes);
/* Histograms of remote faults (those that went to a home), nanoseconds. */
const struct bb_hist *bb_pager_hist(const struct bb_pager *p, enum bb_part part);
/* Total time of faults that stayed on this host (zero fill, staged). */
const struct bb_hist *bb_pager_hist_local(const struct bb_pager *p);
void bb_pager_hist_reset(struct bb_pager *p);

/* Programs whose last faults can be read (trace.h). */
struct bb_trace_program {
	uint32_t region;
	uint32_t pid;
	char comm[32];
	uint64_t base;		/* of the region */
	uint64_t head;		/* faults so far */
};
/* Cheap. Return: how many were filled in. */
int bb_pager_traces(struct bb_pager *p, struct bb_trace_program *out, int max);
struct bb_trace_fault;
/* As bb_trace_read, of one region; what: the region as of now. Return: faults copied, or -ENOENT. */
int bb_pager_trace_read(struct bb_pager *p, uint32_t region, uint64_t *at, struct bb_trace_fault *out, size_t max,
			uint64_t *lost, struct bb_trace_program *what);

struct bb_net_stats;
void bb_pager_net_stats(struct bb_pager *p, struct bb_net_stats *out);

#endif
