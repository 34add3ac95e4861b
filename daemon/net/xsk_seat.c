/* SPDX-License-Identifier: MIT */
/*
 * Seats: how sockets go from the thread that makes them to those that use them.
 *
 * Theory of operation
 * -------------------
 * A seat's state says whose it is. The user makes WANTED of FREE, USED of OFFERED,
 * LEFT of OFFERED, USED or ASKED, and FREE of WANTED; the maker makes OFFERED of
 * WANTED, ASKED of USED, and FREE of LEFT. So where both may act on a state
 * (WANTED, USED) the change is a compare-and-swap, and who fails looks again.
 * The pointer is written before OFFERED is, and read after it.
 */
#include "net/xsk.h"

#include <bluebridge/steer.h>

#include <stdatomic.h>
#include <stddef.h>

static struct seat {
	_Atomic int state;
	struct bb_xsk *x;
} seats[BB_XSK_MAX];

static _Atomic bool enabled;

static bool change(unsigned int user, int from, int to)
{
	return atomic_compare_exchange_strong(&seats[user].state, &from, to);
}

enum bb_seat bb_xsk_seat(unsigned int user)
{
	return user < BB_XSK_MAX ? (enum bb_seat)atomic_load_explicit(&seats[user].state, memory_order_acquire) : BB_SEAT_FREE;
}

void bb_xsk_enable(void)
{
	atomic_store(&enabled, true);
}

bool bb_xsk_enabled(void)
{
	return atomic_load(&enabled);
}

bool bb_xsk_want(unsigned int user)
{
	return user < BB_XSK_MAX && change(user, BB_SEAT_FREE, BB_SEAT_WANTED);
}

struct bb_xsk *bb_xsk_take(unsigned int user)
{
	return user < BB_XSK_MAX && change(user, BB_SEAT_OFFERED, BB_SEAT_USED) ? seats[user].x : NULL;
}

void bb_xsk_leave(unsigned int user)
{
	if (user >= BB_XSK_MAX)
		return;
	for (;;) {
		const int now = atomic_load(&seats[user].state);

		if (now == BB_SEAT_FREE || now == BB_SEAT_LEFT ||
		    change(user, now, now == BB_SEAT_WANTED ? BB_SEAT_FREE : BB_SEAT_LEFT))
			return;
	}
}

bool bb_xsk_offer(unsigned int user, struct bb_xsk *x)
{
	/* While it is WANTED the pointer is the maker's. */
	if (user >= BB_XSK_MAX || atomic_load(&seats[user].state) != BB_SEAT_WANTED)
		return false;
	seats[user].x = x;
	return change(user, BB_SEAT_WANTED, BB_SEAT_OFFERED);
}

void bb_xsk_ask(unsigned int user)
{
	if (user < BB_XSK_MAX)
		change(user, BB_SEAT_USED, BB_SEAT_ASKED);
}

struct bb_xsk *bb_xsk_collect(unsigned int user)
{
	struct bb_xsk *x;

	if (user >= BB_XSK_MAX || atomic_load(&seats[user].state) != BB_SEAT_LEFT)
		return NULL;
	x = seats[user].x;
	seats[user].x = NULL;
	atomic_store(&seats[user].state, BB_SEAT_FREE);
	return x;
}
