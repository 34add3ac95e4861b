/* SPDX-License-Identifier: MIT */
/*
 * bbd was killed, or is being replaced, under a program that goes on.
 *
 * Theory of operation
 * -------------------
 * The socket's end tells that no thread of the old bbd runs any more, so what
 * it owned is nobody's: pages FILLING, write-backs under way (WB), extents that
 * it was opening, credit that it took. The helper undoes all of that: a page
 * that had arrived is RESIDENT, another goes back to the state that it came
 * from; a write-back that was not acknowledged did not happen (its page is
 * still dirty, and a copy that arrives late is refused by its home, which knows
 * the request's number); the credit is counted anew. Then it attaches to the
 * next bbd, which has kept what the old one held at the homes, and wakes every
 * page: whoever faulted meanwhile faults again.
 *
 * Nothing is undone by the next bbd, so that nobody but the program itself
 * relies on what the program's own memory says.
 *
 * Lock order: undoing takes none, since a thread that holds bb_rg.lock may be
 * waiting for a page to leave FILLING. Counting and attaching take bb_rg.lock.
 */
#include <errno.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bluebridge/kernel.h>
#include <bluebridge/local.h>

#include "clock.h"
#include "log.h"
#include "private.h"

#define GRACE_MS 2000u /* to start, beyond the time that the memory is kept */

static _Atomic bool bye;

static void say_cut_off(void)
{
	bb_error("descriptors of libbb.so were closed past the C library: "
		 "what is paged cannot be reached any more (SIGSEGV on access)");
}

/*
 * Our descriptors were closed by a raw system call, as a child does that is
 * about to become another program. bbd keeps its userfaultfd for a while, so
 * that nothing reads as zeros before this is done. It is said first, since the
 * next access may be the end, unless stderr would keep us waiting.
 */
static void cut_off(void)
{
	struct bb_region *g = &bb_rg;
	struct pollfd err = { .fd = STDERR_FILENO, .events = POLLOUT };
	const bool first = poll(&err, 1, 0) != 0;

	if (first)
		say_cut_off();
	bb_region_forbid();
	bb_lock(&g->lock);
	bb_region_disown();
	bb_unlock(&g->lock);
	atomic_store(&g->ctl->closing, 1); /* the helper's end */
	if (!first)
		say_cut_off();
}

bool bb_bbd_ended(void)
{
	struct bb_msg m;
	int keep = errno;
	ssize_t n;

	if (bb_rg.attached == BB_ALONE || atomic_load(&bye))
		return true;
	n = recv(bb_rg.sock, &m, sizeof(m), MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && (errno == EBADF || errno == ENOTSOCK))
		cut_off();
	if (n == sizeof(m) && m.magic == BB_MSG_MAGIC && m.op == BB_MSG_BYE)
		atomic_store(&bye, true);
	else if (n > 0 || (n < 0 && errno != ECONNRESET && errno != ENOTCONN && errno != EBADF))
		n = -1; /* also where the kernel is out of memory: it will tell later */
	else
		n = 0;
	errno = keep;
	return n >= 0;
}

void bb_bbd_said_bye(void)
{
	atomic_store(&bye, true);
}

/* --- undoing --------------------------------------------------------------- */

/* Killed between the registration's end and LOCAL: what is in it stays. */
static void open_on(uint32_t e)
{
	struct uffdio_range r = { bb_addr_of((uint64_t)e * BB_EXTENT_PAGES), BB_EXTENT_SIZE };

	if (ioctl(bb_rg.uffd, UFFDIO_UNREGISTER, &r) < 0)
		bb_debug("extent %u was opened before (error %d)", e, errno);
	atomic_fetch_and(&bb_rg.x[e].flags, (uint8_t)~BB_XF_OPENING);
	atomic_store(&bb_rg.x[e].state, BB_X_LOCAL);
	bb_pages_wake(e * BB_EXTENT_PAGES, BB_EXTENT_PAGES);
}

static int move(uintptr_t to, uintptr_t from)
{
	struct uffdio_move m = { .dst = to, .src = from, .len = BB_PAGE_SIZE, .mode = UFFDIO_MOVE_MODE_DONTWAKE };

	while (ioctl(bb_rg.uffd, UFFDIO_MOVE, &m) < 0) {
		if (errno != EAGAIN)
			return -errno;
		m.move = 0;
	}
	return 0;
}

/* Has the page arrived? A page that can be taken out was there: it goes back. */
static bool has_arrived(uint32_t page)
{
	uintptr_t at = bb_addr_of(page);
	int r = bb_page_has_content(at);

	if (r >= 0)
		return r;
	/* Without /proc. */
	if (!(bb_rg.features & UFFD_FEATURE_MOVE))
		return bb_touch(at) == 0;
	/* EEXIST: it was moved (see batch.c). */
	r = move(bb_rg.staging, at);
	if (r == 0 || r == -EEXIST) {
		r = move(at, bb_rg.staging);
		if (r < 0) {
			/* By hand, then: nobody else fills it now. */
			struct uffdio_copy c = { .dst = at, .src = bb_rg.staging, .len = BB_PAGE_SIZE };

			r = ioctl(bb_rg.uffd, UFFDIO_COPY, &c) < 0 ? -errno : 0;
			if (r < 0)
				bb_error("page %lx cannot be put back (error %d)", (unsigned long)at, -r);
			(void)bb_sys_madvise((void *)bb_rg.staging, BB_PAGE_SIZE, MADV_DONTNEED);
		}
		return true;
	}
	return r == -EBUSY; /* there, and pinned */
}

static void undo_page(uint32_t page)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw), v;
	bool there = bb_pw_state(w) == BB_P_FILLING && has_arrived(page);

	do {
		v = w & ~BB_PW_WB;
		if (bb_pw_state(w) != BB_P_FILLING)
			continue;
		v &= ~(BB_PW_WAIT | BB_PW_FROM);
		if (there)
			v = bb_pw_with_slot(bb_pw_with(v & ~BB_PW_DIRTY, BB_P_RESIDENT), 0);
		else if (bb_pw_from(w) == BB_P_RESIDENT)
			v = BB_P_EMPTY; /* it was found missing: zeros */
		else
			v = bb_pw_with(v, bb_pw_from(w));
	} while (!atomic_compare_exchange_weak(pw, &w, v));
}

/*
 * Pages that were freed while a write-back of them was under way keep WB in
 * their words, and whoever uses the extent next would wait for its end.
 */
static void undo_writes(uint32_t e)
{
	for (uint32_t i = 0; i < BB_EXTENT_PAGES; i++) {
		_Atomic bb_pw *pw = &bb_rg.pw[e * BB_EXTENT_PAGES + i];

		if (atomic_load_explicit(pw, memory_order_relaxed) & BB_PW_WB)
			atomic_fetch_and(pw, ~BB_PW_WB);
	}
}

static void undo(void)
{
	/* All that were ever used: the last of them may be free now. */
	for (uint32_t e = 0; e < bb_rg.rw_top; e++) {
		/* In this order: a thread of the program that seals clears the flag first. */
		if (bb_xstate(e) == BB_X_SEALING && (atomic_load(&bb_rg.x[e].flags) & BB_XF_OPENING))
			open_on(e);
		if (bb_xstate(e) != BB_X_MANAGED) {
			undo_writes(e);
			continue;
		}
		atomic_fetch_and(&bb_rg.x[e].flags, (uint8_t)~BB_XF_HOMELESS);
		for (uint32_t i = 0; i < BB_EXTENT_PAGES; i++)
			undo_page(e * BB_EXTENT_PAGES + i);
	}
}

/* What is really charged, free memory that is kept warm too. Lock held, and nothing EVICTING, for we are the helper. */
static void count(void)
{
	int64_t sum = 0;

	for (uint32_t e = 0; e < bb_rg.rw_top; e++) {
		uint16_t n = 0;

		if (bb_xstate(e) == BB_X_LOCAL)
			sum += BB_EXTENT_PAGES;
		if (bb_xstate(e) != BB_X_MANAGED)
			continue;
		for (uint32_t i = 0; i < BB_EXTENT_PAGES; i++)
			n += bb_pw_state(atomic_load(&bb_rg.pw[e * BB_EXTENT_PAGES + i])) == BB_P_RESIDENT;
		atomic_store(&bb_rg.x[e].resident, n);
		sum += n;
	}
	atomic_store(&bb_rg.ctl->resident, sum);
}

/* --- attaching ------------------------------------------------------------- */

/* The program has no descriptor left, or the kernel no memory: that passes, what is lost would not come back. */
static bool short_of_means(int r)
{
	return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS || r == -ETOOMANYREFS;
}

int bb_recover(void)
{
	struct bb_region *g = &bb_rg;
	uint64_t deadline = bb_now_ns() + (g->keep_ms + GRACE_MS) * 1000000ULL;
	struct timespec pause = { 0, 10000000 };
	bool touched = true; /* by a bbd that is no more */
	int r;

	for (;;) {
		if (touched) {
			undo();
			/* Whose page has arrived need not wait for the next bbd. */
			bb_pages_wake(0, g->rw_top * BB_EXTENT_PAGES);
		}
		bb_lock(&g->lock);
		if (touched)
			count();
		r = atomic_load(&bye) || !g->keep_ms ? -ESHUTDOWN : bb_attach_again();
		bb_unlock(&g->lock);
		if (r == 0)
			break;
		if (!(bb_attach_retry(r) || short_of_means(r)) || bb_now_ns() > deadline || atomic_load(&g->ctl->closing))
			return r;
		bb_warn_once("bbd has gone away: for %u s accesses to what it holds wait for the next one",
			     g->keep_ms / 1000);
		touched = r != -ECONNREFUSED && r != -ENOENT && r != -EMFILE && r != -ENFILE;
		nanosleep(&pause, NULL);
	}
	bb_pages_wake(0, g->rw_top * BB_EXTENT_PAGES);
	bb_lost_begin(); /* bbd may have marked a page and not have said so */
	bb_info("attached again as region %u", g->id);
	return 0;
}
