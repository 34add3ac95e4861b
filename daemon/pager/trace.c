/* SPDX-License-Identifier: MIT */
/*
 * A ring of the last faults: one writer, any readers, no lock.
 *
 * Theory of operation
 * -------------------
 * The writer makes a slot's number odd, stores its words, and makes the number
 * even. Each word is stored with release and loaded with acquire (plain moves on
 * x86): a reader that has seen a word of a later fault sees that fault's number
 * as well when it looks at it again, and knows that it was overtaken.
 */
#include <sys/mman.h>

#include "trace.h"

const char *const bb_trace_kind_name[BB_TRACE_KINDS] = {
	[BB_TRACE_REMOTE] = "remote", [BB_TRACE_PREFETCHED] = "prefetched", [BB_TRACE_STAGED] = "staged",
	[BB_TRACE_ZERO] = "zero",     [BB_TRACE_OPENED] = "opened",	    [BB_TRACE_LOST] = "lost",
};

_Static_assert(sizeof(struct bb_trace_slot) == 64, "a fault dirties one cache line");
_Static_assert(BB_PART_TOTAL == 5, "the five parts are packed by hand");

struct bb_trace *bb_trace_new(void)
{
	void *t = mmap(NULL, sizeof(struct bb_trace), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return t == MAP_FAILED ? NULL : t;
}

void bb_trace_free(struct bb_trace *t)
{
	if (t)
		munmap(t, sizeof(*t));
}

/* Where a part does not fit 32 bits of nanoseconds (4.3 s) all are kept in steps of 2^shift. */
static unsigned int shift_for(const uint64_t part[BB_PART_TOTAL])
{
	uint64_t all = 0;
	unsigned int shift = 0;

	for (int i = 0; i < BB_PART_TOTAL; i++)
		all |= part[i];
	while (all >> shift > UINT32_MAX)
		shift++;
	return shift;
}

static void put(_Atomic uint64_t *to, uint64_t v)
{
	atomic_store_explicit(to, v, memory_order_release);
}

void bb_trace_add(struct bb_trace *t, const struct bb_trace_fault *f)
{
	uint64_t n = atomic_load_explicit(&t->head, memory_order_relaxed);
	struct bb_trace_slot *s = &t->slot[n % BB_TRACE_RECORDS];
	const unsigned int shift = shift_for(f->part);

	atomic_store_explicit(&s->seq, 2 * n + 1, memory_order_relaxed);
	put(&s->word[0], f->t_end);
	put(&s->word[1], f->ptr);
	put(&s->word[2], (uint64_t)f->pages << 32 | f->page);
	put(&s->word[3], (f->part[0] >> shift) << 32 | (uint64_t)shift << 24 | (uint64_t)f->kind << 16 | f->node);
	put(&s->word[4], (f->part[1] >> shift) << 32 | f->part[2] >> shift);
	put(&s->word[5], (f->part[3] >> shift) << 32 | f->part[4] >> shift);
	put(&s->seq, 2 * n + 2);
	put(&t->head, n + 1);
}

static void unpack(const uint64_t w[6], struct bb_trace_fault *f)
{
	const unsigned int shift = w[3] >> 24 & 0xff;

	f->t_end = w[0];
	f->ptr = w[1];
	f->page = (uint32_t)w[2];
	f->pages = (uint32_t)(w[2] >> 32);
	f->node = (uint16_t)w[3];
	f->kind = (enum bb_trace_kind)(w[3] >> 16 & 0xff);
	f->part[0] = w[3] >> 32 << shift;
	f->part[1] = w[4] >> 32 << shift;
	f->part[2] = (w[4] & UINT32_MAX) << shift;
	f->part[3] = w[5] >> 32 << shift;
	f->part[4] = (w[5] & UINT32_MAX) << shift;
}

/* Fault n. Return: false where it has been overwritten, or is just being. */
static bool get(const struct bb_trace *t, uint64_t n, struct bb_trace_fault *f)
{
	const struct bb_trace_slot *s = &t->slot[n % BB_TRACE_RECORDS];
	uint64_t w[6];

	if (atomic_load_explicit(&s->seq, memory_order_acquire) != 2 * n + 2)
		return false;
	for (int i = 0; i < 6; i++)
		w[i] = atomic_load_explicit(&s->word[i], memory_order_acquire);
	if (atomic_load_explicit(&s->seq, memory_order_relaxed) != 2 * n + 2)
		return false;
	unpack(w, f);
	return true;
}

size_t bb_trace_read(const struct bb_trace *t, uint64_t *at, struct bb_trace_fault *out, size_t max, uint64_t *lost)
{
	uint64_t head = atomic_load_explicit(&t->head, memory_order_acquire);
	size_t n = 0;

	if (*at > head)
		*at = head; /* of another ring */
	if (head - *at > BB_TRACE_RECORDS) {
		*lost += head - *at - BB_TRACE_RECORDS;
		*at = head - BB_TRACE_RECORDS;
	}
	for (; *at < head && n < max; ++*at) {
		if (get(t, *at, &out[n]))
			n++;
		else
			++*lost;
	}
	return n;
}
