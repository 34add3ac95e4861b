/* SPDX-License-Identifier: MIT */
/*
 * Streams: faults of a thread that follow each other by one stride through one
 * neighbourhood of memory. Pure code: what comes of it is prefetch.c's.
 *
 * The stride is the majority of the last few faults' (after Leap, Al Maruf and
 * Chowdhury, USENIX ATC 2020); but of faults near each other, so that a thread
 * that walks several arrays at a time has one stream in each.
 */
#ifndef BB_DAEMON_STREAM_H
#define BB_DAEMON_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#define BB_STREAMS 24u
#define BB_STREAMS_FAR 4u    /* threads whose wide strides are looked for */
#define BB_STREAM_DELTAS 8u
#define BB_STREAM_NEAR 64	 /* pages: from further away a fault is of another stream */
#define BB_WINDOW_MIN 4u
#define BB_WINDOW_MAX 60u /* four runs of BB_RUN_PAGES_MAX */

struct bb_stream {
	uint32_t thread;
	uint32_t last;		/* the last page that was asked for, by the program or ahead of it */
	int32_t stride;		/* where window is not 0 */
	uint32_t window;	/* pages to fetch ahead; 0: where it goes is not known */
	uint32_t reach;		/* a fault so far from last may be its next */
	uint32_t used;		/* when, by bb_streams.tick; 0: never */
	uint32_t ahead;		/* pages of the last window that were fetched */
	uint32_t n;		/* deltas known */
	int32_t delta[BB_STREAM_DELTAS];
};

struct bb_streams {
	/* Of each what every fault is held against, in few cache lines. next: where it goes on, or none. */
	uint32_t last[BB_STREAMS], reach[BB_STREAMS], thread[BB_STREAMS], next[BB_STREAMS], used[BB_STREAMS];
	struct bb_stream s[BB_STREAMS];
	struct bb_stream far[BB_STREAMS_FAR];
	uint32_t tick;
	uint64_t unused;	/* pages fetched for a stream that then did not go on; the caller may reset it */
};

/*
 * A fault of the thread (0: not known) that had to go to a home. sequential: the
 * program has said that it walks upwards here. Return: the stream by which to
 * fetch ahead, window pages from page + stride on; or NULL.
 */
struct bb_stream *bb_stream_fault(struct bb_streams *t, uint32_t thread, uint32_t page, bool sequential);
/* So many strides beyond page have been looked at, so many pages of them fetched. */
void bb_stream_covered(struct bb_streams *t, struct bb_stream *s, uint32_t page, uint32_t strides, uint32_t fetched);

#endif
