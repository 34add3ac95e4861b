/* SPDX-License-Identifier: MIT */
/*
 * What the pager's thread does between two rounds.
 *
 * Theory of operation
 * -------------------
 * Two ways to wait for the next fault, and which is better depends on where the
 * program runs:
 *
 *   spin   looks again and again, for spin_us, and gives way after each look. On a
 *          CPU of its own it needs no wake-up: right where the program runs
 *          on another.
 *   sleep  at once, in epoll. Right where the program runs on this CPU: it goes on
 *          at once, and its next fault switches to us at the price of a switch.
 *          To give way does not do that: sched_yield(2) chooses among the threads
 *          of this one's control group (or session, by autogroup), so that a program
 *          of another would wait until spin_us are over.
 *
 * Where a program runs cannot be asked cheaply. So the ways are measured: the time
 * from the last page that was installed to the next fault is the program's own and
 * the cost of waiting. The better way is used, the other now and then, a few times
 * in a row. Where the program faults so rarely that both are too late to matter,
 * sleeping is better: it costs nothing.
 *
 * While an answer of a home is due that a page waits for, or a wake-up has been left
 * to a helper (relay.c), the thread always spins.
 */
#include <sched.h>

#include "clock.h"
#include "program.h"

#define TICK_NS 100000000ULL /* longest sleep */
#define SAY_NS 10000000ULL
#define SHARED_NS 1500	/* a yield that finds nobody else takes a third of that */
#define LOOKS 8		/* at the network, between two rounds */
#define TRY_EVERY 512u	/* faults; a power of two */
#define TRIES 4u
#define LONG_NS 100000u	/* what takes longer is the program's own */
#define LEAD_NS 1000u	/* spinning has to be that much better: it costs CPU time */

/* What others ask the counters for. */
static void say(struct bb_pager *pg)
{
	bb_net_stats(pg->net, &pg->net_stats);
	pg->rest.said_at = pg->now;
}

/* fresh: a round that found work has just ended, there need be none before sleeping. */
static void sleep_until_work(struct bb_pager *pg, bool fresh)
{
	uint64_t next, wait;
	bool waits = false;

	if (!bb_due_ask(pg) || !fresh) {
		if (bb_pager_round(pg))
			return;
		waits = bb_due_waits(pg);
		say(pg);
	}
	next = bb_net_next(pg->net);
	wait = next <= pg->now ? 0 : next - pg->now;
	next = bb_latency_sleep(&pg->latency, pg->now);
	if (wait > next)
		wait = next;
	if (wait > TICK_NS)
		wait = TICK_NS;
	if (waits && wait > 1000000)
		wait = 1000000;
	if ((pg->some_gone || pg->inbox) && wait > 10000000)
		wait = 10000000;
	bb_pager_look(pg, (int)((wait + 999999) / 1000000));
	pg->now = bb_now_ns();
	bb_due_awake(pg);
}

/*
 * Lets others on this CPU run. How long it took tells whether there were any:
 * if so every empty round gives way, else looking again is the better use of
 * the time.
 */
static void breathe(struct bb_pager *pg)
{
	uint64_t t = bb_now_ns();

	sched_yield();
	pg->rest.shares_cpu = bb_now_ns() - t > SHARED_NS;
}

/* While a reply is due, the network is what matters. Return: replies handled. */
static int await_reply(struct bb_pager *pg)
{
	int n = 0;

	for (int i = 0; i < LOOKS && !n && !pg->rest.shares_cpu && bb_net_inflight(pg->net); i++)
		n = bb_net_poll(pg->net);
	if (n)
		bb_net_flush(pg->net);
	return n;
}

void bb_rest_fault(struct bb_pager *pg, uint64_t now)
{
	struct bb_resting *r = &pg->rest;
	uint64_t took = now - r->since, *mean = &r->took[r->way];
	bool tries;

	bb_latency_event(&pg->latency, now);
	if (!r->since)
		return;
	r->since = 0;
	if (took > LONG_NS)
		took = LONG_NS;
	*mean += r->turn++ % TRY_EVERY < TRIES ? took / TRIES : took / 8 - *mean / 8;
	if (r->turn % TRY_EVERY == TRIES)
		r->spins = r->took[BB_REST_SPIN] + LEAD_NS < r->took[BB_REST_SLEEP];
	/* The first that is tried is to spin: nothing is known of sleeping, which is used until there is. */
	tries = r->turn % TRY_EVERY < TRIES;
	r->way = r->spins != tries ? BB_REST_SPIN : BB_REST_SLEEP;
	if (r->turn % TRY_EVERY == 0)
		r->took[r->way] = 0;
}

void bb_rest(struct bb_pager *pg, int work)
{
	struct bb_resting *r = &pg->rest;
	const bool pending = bb_relay_pending(pg);
	const bool sleeps = r->way == BB_REST_SLEEP && !pg->fills_due && !pending;

	if (pg->now - r->said_at > SAY_NS)
		say(pg);
	if (pg->fills_due)
		r->since = 0;
	else if (work && !r->since)
		r->since = bb_now_ns();
	if (work) {
		r->worked_at = pg->now;
		if (r->gave_way) {
			/* The program has been on this CPU: its next fault may be there already. */
			r->gave_way = false;
		} else if (sleeps) {
			sleep_until_work(pg, true);
		} else {
			breathe(pg);
		}
	} else if (sleeps || (!pending && pg->now - r->worked_at > pg->cfg.spin_us * 1000ULL)) {
		sleep_until_work(pg, false);
	} else if (await_reply(pg)) {
		r->worked_at = pg->now;
		breathe(pg);
	} else {
		breathe(pg);
	}
}
