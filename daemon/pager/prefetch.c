/* SPDX-License-Identifier: MIT */
/*
 * Which pages come next: the majority stride of the last remote faults (after
 * Leap, Al Maruf and Chowdhury, USENIX ATC 2020). The window doubles each time
 * the program faults right where the last window ended, and halves when it
 * does not; random access soon has none.
 */
#include <string.h>

#include "clock.h"
#include "program.h"

#define HISTORY 8
#define WINDOW_MIN 4u
#define WINDOW_MAX 60u /* four runs of BB_RUN_PAGES_MAX */

/* Boyer and Moore's majority vote. Return: the stride, 0 where none has it. */
static int32_t majority(const struct bb_prefetch *f)
{
	int32_t m = 0;
	int votes = 0, i;

	for (i = 0; i < HISTORY; i++) {
		if (!votes) {
			m = f->delta[i];
			votes = 1;
		} else {
			votes += f->delta[i] == m ? 1 : -1;
		}
	}
	for (votes = 0, i = 0; i < HISTORY; i++)
		votes += f->delta[i] == m;
	return votes > HISTORY / 2 ? m : 0;
}

/* Makes page FILLING if it is remote and there is ample room. Return: its rx, or 0. */
static uint32_t claim(struct bb_program *p, uint32_t page)
{
	bb_pw w = atomic_load(&p->pw[page]);
	uint32_t rx = bb_copy_read(p, bb_pw_rx(w), page);
	int64_t low = atomic_load_explicit(&p->ctl->low, memory_order_relaxed);

	if (bb_pw_state(w) != BB_P_REMOTE || !rx)
		return 0;
	if ((int64_t)((uint64_t)atomic_load(&p->ctl->limit) - (uint64_t)atomic_load(&p->ctl->resident)) < low / 2 + 1)
		return 0;
	return bb_page_claim(p, page, w) == BB_CLAIMED ? rx : 0;
}

static void unclaim(struct bb_program *p, uint32_t page, uint32_t n)
{
	while (n--) {
		bb_word_leave(p, page, BB_P_REMOTE, 0);
		bb_credit_give(p->ctl, 1);
		bb_fill_wake(p, page++, 1);
	}
}

static void fetch_ahead(struct bb_program *p, uint32_t page, int32_t stride, uint32_t window)
{
	uint32_t run = 0, n = 0, run_rx = 0;
	uint64_t now = bb_now_ns();

	for (uint32_t k = 1; k <= window; k++) {
		int64_t q = (int64_t)page + (int64_t)stride * k;
		uint32_t rx;

		if (q < 0 || q >= p->npages ||
		    atomic_load_explicit(&p->x[q / BB_EXTENT_PAGES].state, memory_order_acquire) != BB_X_MANAGED)
			break;
		rx = claim(p, (uint32_t)q);
		if (n && (!rx || rx != run_rx || n == BB_RUN_PAGES_MAX || run + n != (uint32_t)q)) {
			if (bb_fill_remote(p, run, n, run_rx, NULL, now) < 0) {
				unclaim(p, run, n);
				n = 0;
				if (rx)
					unclaim(p, (uint32_t)q, 1);
				return;
			}
			n = 0;
		}
		if (!rx)
			continue;
		if (!n) {
			run = (uint32_t)q;
			run_rx = rx;
		}
		n++;
	}
	if (n && bb_fill_remote(p, run, n, run_rx, NULL, now) < 0)
		unclaim(p, run, n);
}

void bb_prefetch_fault(struct bb_program *p, uint32_t page)
{
	struct bb_prefetch *f = &p->pf;
	int32_t stride;

	f->delta[f->at++ % HISTORY] = (int32_t)(page - f->last);
	f->last = page;
	if (f->window && page == f->expect) {
		f->window = f->window * 2 > WINDOW_MAX ? WINDOW_MAX : f->window * 2;
		stride = f->stride;
	} else {
		stride = majority(f);
		f->window /= 2;
		if (!stride || (stride != f->stride && f->stride && f->window)) {
			f->stride = stride;
			if (f->window < WINDOW_MIN)
				f->window = 0;
			if (!f->window)
				return;
		}
		if (stride && f->window < WINDOW_MIN)
			f->window = WINDOW_MIN;
	}
	if (!stride)
		return;
	f->stride = stride;
	f->expect = page + (uint32_t)(stride * (int32_t)(f->window + 1));
	fetch_ahead(p, page, stride, f->window);
	/*
	 * The next fault will be a whole window away. Let the history say that
	 * the stride went on, so that one more fault does not undo it.
	 */
	f->last = f->expect - (uint32_t)stride;
}
