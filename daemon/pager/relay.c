/* SPDX-License-Identifier: MIT */
/*
 * Wake-ups that are left to the program's helper.
 *
 * Theory of operation
 * -------------------
 * A thread that waits for a page leaves its CPU idle, and where there are few
 * that is where its helper takes pages out. To wake the thread from here means
 * an interrupt of that CPU: in a virtual machine 12 us until it arrives, and 5 us
 * of our own time to send it. The helper wakes it in 1 us, and gives way to it.
 * So where the helper says that it looks between two pages (helper_wakes), a page
 * is installed without waking, and to_wake says whom the helper shall wake.
 *
 * The helper may not come to it: the scheduler has taken it off its CPU, or it
 * shares ours. What it has not done after LATE_NS is done here, and the next
 * wake-ups are not left to it: 1, 3, 7, up to 255 while it stays late.
 *
 * One at a time, and only where faults come one by one: this thread has to have
 * the time to look, and where several threads fault at once the helper's CPU is
 * not idle anyway. While a wake-up is pending this thread does not sleep.
 *
 * The program can write what it likes there. It does not choose what is woken
 * here, nor how long that takes.
 */
#include "clock.h"
#include "program.h"

#define LATE_NS 15000 /* the helper looks every 1 to 6 us */
#define CROWDED 64 /* wake-ups that are not left to it, after faults that came together */

bool bb_relay_suits(struct bb_program *p)
{
	struct bb_pager *pg = p->pager;

	if (pg->fills_due > 1 && p->relay_paused < CROWDED)
		p->relay_paused = CROWDED;
	if (pg->relay.prog || !atomic_load_explicit(&p->ctl->helper_wakes, memory_order_relaxed))
		return false;
	if (p->relay_paused) {
		p->relay_paused--;
		return false;
	}
	return true;
}

/* Wakes them, unless the helper has taken it. */
static void take_back(struct bb_pager *pg)
{
	struct bb_relay *r = &pg->relay;

	if (atomic_exchange(&r->prog->ctl->to_wake, 0))
		bb_fill_wake(r->prog, r->page, r->n);
	r->prog = NULL;
}

void bb_relay(struct bb_program *p, uint32_t page, uint32_t n)
{
	p->pager->relay = (struct bb_relay){ .prog = p, .page = page, .n = n, .since = bb_now_ns() };
	atomic_store(&p->ctl->to_wake, (uint64_t)page << 32 | n);
	if (!atomic_load(&p->ctl->helper_wakes))
		take_back(p->pager);
}

bool bb_relay_pending(struct bb_pager *pg)
{
	struct bb_program *p = pg->relay.prog;

	if (!p)
		return false;
	if (!atomic_load_explicit(&p->ctl->to_wake, memory_order_relaxed)) {
		atomic_fetch_add_explicit(&p->relayed, 1, memory_order_relaxed);
		p->relay_pause = 0;
		pg->relay.prog = NULL;
	} else if (bb_now_ns() - pg->relay.since > LATE_NS) {
		p->relay_pause = (uint8_t)(p->relay_pause << 1 | 1);
		p->relay_paused = p->relay_pause;
		atomic_fetch_add_explicit(&p->relay_late, 1, memory_order_relaxed);
		take_back(pg);
	}
	return pg->relay.prog;
}

void bb_relay_forget(struct bb_program *p)
{
	if (p->pager->relay.prog == p)
		take_back(p->pager);
}
