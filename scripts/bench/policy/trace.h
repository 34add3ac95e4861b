/* SPDX-License-Identifier: MIT */
/* A trace of pages touched: as it lies in a file, and as the policies are given it. */
#ifndef POL_TRACE_H
#define POL_TRACE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define POL_MAGIC 0x62627472u /* "bbtr" */

struct pol_file {
	uint32_t magic;
	uint32_t unused;
	_Atomic uint64_t n;
	uint64_t lost; /* touches for which the file was too short */
	struct {
		uint32_t page; /* of the region */
		uint32_t us;
	} at[];
};

/*
 * Pages lie in the order of their addresses, which a hand goes by; extents that
 * were never touched are left out.
 */
struct pol_trace {
	uint32_t *page;
	size_t n;
	uint32_t npages;    /* page[] is below it */
	uint32_t footprint; /* different pages */
	uint64_t us;	    /* from the first touch to the last */
};

/* One touch right after another of the same page is one. Return: 0 or -errno; pol_trace_free ends it. */
int pol_trace_make(struct pol_trace *t, const uint32_t *page, size_t n);
int pol_trace_load(struct pol_trace *t, const char *path);
void pol_trace_free(struct pol_trace *t);

#endif
