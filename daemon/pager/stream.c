/* SPDX-License-Identifier: MIT */
/*
 * The table of streams.
 *
 * Theory of operation
 * -------------------
 * A fault belongs to the stream of its thread whose last page is nearest, if that
 * is near; one that falls exactly where a stream goes on is that stream's whoever
 * faults, for threads hand work to each other. Any other begins a stream, in the
 * place of the one not used for longest. A stream has a window once most of its
 * last faults had one stride. The window doubles when the program faults beyond
 * its end, halves when it faults within it, and closes when it faults beside it.
 *
 * Random access begins a stream a fault. It must not push those out that are
 * known to go somewhere and only rest for a window's length; and those must leave
 * room for new ones. So of either kind there are KNOWN_MAX and the rest.
 *
 * What is near no stream may still be a walk with a wide stride: all such faults
 * of a thread are a stream as well (far).
 */
#include "stream.h"

#include <stddef.h>

#define KNOWN_MAX (BB_STREAMS * 2 / 3)
#define ALL UINT32_MAX
#define AGE_MAX 0xffffffU
#define NONE UINT32_MAX /* no page: there are fewer */

static uint32_t distance(int32_t d)
{
	return d < 0 ? 0U - (uint32_t)d : (uint32_t)d;
}

/*
 * The stride of the last fault, if most had it: three of the last four, or five of
 * eight. Return: it, or 0.
 */
static int32_t majority(const struct bb_stream *s)
{
	const int32_t d = s->delta[(s->n - 1) % BB_STREAM_DELTAS];
	uint32_t same = 0, recent = 0;

	if (s->n < 3)
		return 0;
	for (uint32_t i = 1; i <= BB_STREAM_DELTAS && i <= s->n; i++) {
		same += s->delta[(s->n - i) % BB_STREAM_DELTAS] == d;
		if (i <= 4)
			recent = same;
	}
	return recent >= 3 || same > BB_STREAM_DELTAS / 2 ? d : 0;
}

static void set_window(struct bb_stream *s, int32_t stride, uint32_t window)
{
	const uint64_t reach = (uint64_t)distance(stride) * (window + 1);

	s->stride = stride;
	s->window = window;
	s->reach = reach > INT32_MAX ? INT32_MAX : (uint32_t)reach;
}

/* Nothing is known of it but that it is here. */
static void forget(struct bb_streams *t, struct bb_stream *s, uint32_t page, uint32_t reach)
{
	if (s->window)
		t->unused += s->ahead;
	s->ahead = 0;
	s->window = 0;
	s->n = 0;
	s->last = page;
	s->reach = reach;
}

/* A stream that has a window. Return: true where it goes on. */
static bool go_on(struct bb_streams *t, struct bb_stream *s, uint32_t page, uint32_t reach)
{
	const int32_t d = (int32_t)(page - s->last);
	const bool on = d % s->stride == 0 && distance(d / s->stride) <= s->window + 1;

	if (on && d / s->stride >= 1) {
		/* Pages in between were here all the while. */
		set_window(s, s->stride, s->window * 2 > BB_WINDOW_MAX ? BB_WINDOW_MAX : s->window * 2);
		return true;
	}
	if (on && s->window / 2 >= BB_WINDOW_MIN) {
		/* Within it: what was fetched is gone again, so it was too much. */
		const uint32_t back = distance(d / s->stride) + 1;

		t->unused += back < s->ahead ? back : s->ahead;
		s->ahead = 0;
		set_window(s, s->stride, s->window / 2);
		return true;
	}
	forget(t, s, page, reach);
	return false;
}

/* A stream that has none yet. Return: true where it has now. */
static bool learn(struct bb_stream *s, uint32_t page)
{
	int32_t stride;

	s->delta[s->n++ % BB_STREAM_DELTAS] = (int32_t)(page - s->last);
	s->last = page;
	if (s->n > 2 * BB_STREAM_DELTAS)
		s->n -= BB_STREAM_DELTAS;
	stride = majority(s);
	if (!stride)
		return false;
	s->ahead = 0;
	set_window(s, stride, BB_WINDOW_MIN);
	return true;
}

/* A stream has changed; one of the far ones is not looked for here. */
static void note(struct bb_streams *t, const struct bb_stream *s)
{
	const ptrdiff_t i = s - t->s;

	if (i < 0 || i >= (ptrdiff_t)BB_STREAMS)
		return;
	t->last[i] = s->last;
	t->reach[i] = s->reach;
	t->thread[i] = s->thread;
	t->next[i] = s->window ? s->last + (uint32_t)s->stride : NONE;
	t->used[i] = s->used;
}

/* Which place a new stream takes. */
static struct bb_stream *oldest(struct bb_streams *t)
{
	uint32_t known = 0, other = 0, nknown = 0;

	/* Age and place in one: nothing for the CPU to guess. Never used is as old as the tick. */
	for (uint32_t i = 0; i < BB_STREAMS; i++) {
		const uint32_t age = t->tick - t->used[i];
		const uint32_t key = (age < AGE_MAX ? age : AGE_MAX) << 8 | i;
		const uint32_t is_known = (t->next[i] != NONE) & (t->used[i] != 0) ? ALL : 0;

		nknown += is_known & 1;
		known = (key & is_known) > known ? key & is_known : known;
		other = (key & ~is_known) > other ? key & ~is_known : other;
	}
	return &t->s[(nknown > KNOWN_MAX || nknown == BB_STREAMS ? known : other) & 0xff];
}

static struct bb_stream *begin(struct bb_streams *t, uint32_t thread, uint32_t page)
{
	struct bb_stream *s = oldest(t);

	forget(t, s, page, BB_STREAM_NEAR);
	s->thread = thread;
	s->used = t->tick;
	return s;
}

/* Wide strides. Return: the stream that goes on, or NULL. */
static struct bb_stream *far_fault(struct bb_streams *t, uint32_t thread, uint32_t page)
{
	struct bb_stream *s = &t->far[0];

	for (unsigned int i = 0; i < BB_STREAMS_FAR; i++) {
		struct bb_stream *f = &t->far[i];

		if (f->used && f->thread == thread) {
			f->used = t->tick;
			return (f->window ? go_on(t, f, page, ALL) : learn(f, page)) ? f : NULL;
		}
		if (s->used && (!f->used || t->tick - f->used > t->tick - s->used))
			s = f;
	}
	forget(t, s, page, ALL);
	s->thread = thread;
	s->used = t->tick;
	return NULL;
}

struct bb_stream *bb_stream_fault(struct bb_streams *t, uint32_t thread, uint32_t page, bool sequential)
{
	struct bb_stream *s = NULL, *f;
	uint32_t best = ALL;
	unsigned int at = 0;

	if (!++t->tick)
		t->tick = 1;
	for (unsigned int i = 0; i < BB_STREAMS; i++) {
		const uint32_t far = distance((int32_t)(page - t->last[i]));
		const bool its = ((far <= t->reach[i]) & (thread == t->thread[i])) | (page == t->next[i]);
		const uint32_t key = its ? far : ALL;

		at = key < best ? i : at;
		best = key < best ? key : best;
	}
	if (best != ALL) {
		s = &t->s[at];
		s->thread = thread;
		s->used = t->tick;
		f = (s->window ? go_on(t, s, page, BB_STREAM_NEAR) : learn(s, page)) ? s : NULL;
	} else {
		f = sequential ? NULL : far_fault(t, thread, page);
		if (!f)
			s = begin(t, thread, page);
	}
	if (sequential) {
		/* Told, not found: all at once. */
		set_window(s, f ? f->stride : 1, BB_WINDOW_MAX);
		f = s;
	}
	if (s)
		note(t, s);
	return f;
}

void bb_stream_covered(struct bb_streams *t, struct bb_stream *s, uint32_t page, uint32_t strides, uint32_t fetched)
{
	s->last = page + (uint32_t)s->stride * strides;
	s->ahead = fetched;
	note(t, s);
}
