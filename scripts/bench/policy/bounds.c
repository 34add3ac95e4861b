/* SPDX-License-Identifier: MIT */
/*
 * OPT (Belady): of the pages that are here it takes out the one that is touched again
 * last, so no policy of this machine has fewer faults. And random, whose faults a
 * policy should be below.
 */
#include "sim.h"

#include <errno.h>
#include <stdlib.h>

#define NEVER UINT64_MAX

struct entry {
	uint64_t next; /* when it is touched again */
	uint32_t page;
};

static void sift_up(struct entry *h, size_t i)
{
	while (i && h[(i - 1) / 2].next < h[i].next) {
		const struct entry e = h[i];

		h[i] = h[(i - 1) / 2];
		h[(i - 1) / 2] = e;
		i = (i - 1) / 2;
	}
}

static void sift_down(struct entry *h, size_t n)
{
	for (size_t i = 0, c; (c = 2 * i + 1) < n; i = c) {
		const struct entry e = h[i];

		if (c + 1 < n && h[c + 1].next > h[c].next)
			c++;
		if (h[c].next <= e.next)
			return;
		h[i] = h[c];
		h[c] = e;
	}
}

int pol_run_opt(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	uint64_t *next = malloc((t->n + 1) * sizeof(*next)), *of = malloc((t->npages + 1) * sizeof(*of));
	uint8_t *state = calloc(t->npages + 1, 1); /* 1: was here, 2: is here */
	struct entry *heap = malloc((t->n + 1) * sizeof(*heap));
	int e = next && of && state && heap ? 0 : -ENOMEM;
	size_t n = 0;
	uint32_t here = 0;

	*r = (struct pol_result){ 0 };
	for (uint32_t p = 0; !e && p < t->npages; p++)
		of[p] = NEVER;
	for (size_t i = t->n; !e && i-- > 0;) {
		next[i] = of[t->page[i]];
		of[t->page[i]] = i;
	}
	/* From here of[] is when a page is touched next; entries of the heap that say otherwise are of before. */
	for (size_t i = 0; !e && i < t->n; i++) {
		const uint32_t p = t->page[i];

		if (state[p] != 2) {
			r->faults++;
			r->again += state[p] == 1;
			for (uint32_t gone = pol_excess(m, here); gone && here;) {
				const struct entry x = heap[0];

				heap[0] = heap[--n];
				sift_down(heap, n);
				if (state[x.page] != 2 || of[x.page] != x.next)
					continue;
				state[x.page] = 1;
				here--;
				gone--;
			}
			state[p] = 2;
			here++;
		}
		of[p] = next[i];
		heap[n] = (struct entry){ next[i], p };
		sift_up(heap, n++);
	}
	free(next);
	free(of);
	free(state);
	free(heap);
	return e;
}

int pol_run_random(const struct pol_trace *t, const struct pol_machine *m, struct pol_result *r)
{
	uint32_t *list = malloc((t->npages + 1) * sizeof(*list)), n = 0;
	uint8_t *state = calloc(t->npages + 1, 1);
	int e = list && state ? 0 : -ENOMEM;
	uint64_t rng = 1;

	*r = (struct pol_result){ 0 };
	for (size_t i = 0; !e && i < t->n; i++) {
		const uint32_t p = t->page[i];

		if (state[p] == 2)
			continue;
		r->faults++;
		r->again += state[p] == 1;
		for (uint32_t gone = pol_excess(m, n); gone && n; gone--) {
			rng = rng * 6364136223846793005ULL + 1442695040888963407ULL;
			const uint32_t k = (uint32_t)(((rng >> 32) * n) >> 32);

			state[list[k]] = 1;
			list[k] = list[--n];
		}
		state[p] = 2;
		list[n++] = p;
	}
	free(list);
	free(state);
	return e;
}
