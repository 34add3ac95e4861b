/* SPDX-License-Identifier: MIT */
/*
 * A round of the pager's loop: which programs are polled.
 *
 * Theory of operation
 * -------------------
 * One or two programs: each is read of in every round, which costs less than to
 * ask which of them can be read. They kick only while the thread sleeps.
 *
 * Many: what a fault costs must not depend on how many others there are, so a
 * round touches nothing of a program that has nothing to do; a look at two cache
 * lines of each of 64 programs cost a fault one and a half microseconds. Epoll
 * says who has something to say, and that program is due. It is polled in each
 * round until nothing of it is under way any more. All have leave to kick at all
 * times: a helper that has staged pages takes it and kicks, and gets it again when
 * the kick is seen, before its ring is looked at. So none is missed. What nothing
 * tells of (timers, programs that are still to come) is seen to by a sweep over
 * all of them every SWEEP_NS.
 *
 * Each turn of a program is bounded: 16 faults (fault.c), as many write-backs as
 * there are batches. Who is due is polled in the order in which it became so.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "log.h"
#include "clock.h"
#include "program.h"

#define EVENTS 64
#define FEW 2 /* programs */
#define SWEEP_NS 10000000ULL

/* What an event's data says of a descriptor, beside the program that it is of. */
enum { OF_UFFD, OF_KICK, OF_SOCK, OF_ALL = 3 };

void bb_due_init(struct bb_pager *pg)
{
	pg->due_end = &pg->due;
}

static void watch(struct bb_pager *pg, int fd, uint32_t how, uint64_t data)
{
	struct epoll_event ev = { .events = EPOLLIN | how, .data.u64 = data };

	if (fd >= 0 && epoll_ctl(pg->epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
		bb_error("pager: cannot watch a descriptor (error %d)", errno);
}

void bb_due_watch_own(struct bb_pager *pg, int fd)
{
	watch(pg, fd, 0, fd == pg->wake);
}

static void is_due(struct bb_program *p)
{
	struct bb_pager *pg = p->pager;

	if (p->due)
		return;
	p->due = true;
	p->due_next = NULL;
	*pg->due_end = p;
	pg->due_end = &p->due_next;
}

void bb_due_watch(struct bb_program *p)
{
	const uint64_t at = (uintptr_t)p;

	watch(p->pager, p->uffd, 0, at | OF_UFFD);
	/* A kick wakes us once, whatever its count says afterwards (EFD_SEMAPHORE). */
	watch(p->pager, p->kick, EPOLLET, at | OF_KICK);
	watch(p->pager, p->sock, 0, at | OF_SOCK);
	atomic_store(&p->ctl->bbd_wants, 1);
	is_due(p);
}

/* To close them would not do: the program has them as well. */
static void unwatch(struct bb_program *p)
{
	const int fd[] = { p->uffd, p->kick, p->sock };

	for (int i = 0; i < 3; i++)
		if (fd[i] >= 0)
			epoll_ctl(p->pager->epoll, EPOLL_CTL_DEL, fd[i], NULL);
}

void bb_due_part(struct bb_program *p)
{
	p->gone = true;
	p->pager->some_gone = true;
	if (bb_absent(p))
		return;
	unwatch(p);
	p->parked_n = 0;
}

void bb_due_forget(struct bb_program *p)
{
	struct bb_pager *pg = p->pager;
	struct bb_program **at = &pg->due;

	unwatch(p);
	if (!p->due)
		return;
	while (*at != p)
		at = &(*at)->due_next;
	*at = p->due_next;
	if (pg->due_end == &p->due_next)
		pg->due_end = at;
	p->due = false;
}

static void handle(struct bb_pager *pg, const struct epoll_event *ev)
{
	struct bb_program *p = (struct bb_program *)(uintptr_t)(ev->data.u64 & ~(uint64_t)OF_ALL);
	uint64_t count;

	if (!p) {
		if (ev->data.u64)
			(void)!read(pg->wake, &count, sizeof(count));
		return;
	}
	if (p->gone) /* by an event that came with this one; it is freed after the round */
		return;
	switch (ev->data.u64 & OF_ALL) {
	case OF_UFFD:
		if (ev->events & (EPOLLERR | EPOLLHUP)) {
			/* It would wake us for ever. */
			bb_warn("program %u (%s): its userfaultfd cannot be read any more: it is served no more", p->pid,
				p->comm);
			bb_due_part(p);
			return;
		}
		p->ready = true;
		break;
	case OF_KICK:
		(void)!bb_program_read(p->kick, &count, sizeof(count));
		/* Before its ring is looked at. */
		if (pg->many)
			atomic_store(&p->ctl->bbd_wants, 1);
		break;
	default:
		if (!bb_program_hear(p)) {
			bb_due_part(p);
			p->hung_up = pg->now;
			return;
		}
	}
	is_due(p);
}

void bb_pager_look(struct bb_pager *pg, int ms)
{
	struct epoll_event ev[EVENTS];
	int n = epoll_wait(pg->epoll, ev, EVENTS, ms);

	for (int i = 0; i < n; i++)
		handle(pg, &ev[i]);
	pg->looked = true;
	pg->look_at = pg->now + SWEEP_NS;
}

static int poll_program(struct bb_program *p, bool faults)
{
	int work = 0;

	if (p->gone)
		return 0;
	if (bb_absent(p)) {
		bb_again_poll(p);
		return 0;
	}
	if (p->freezing) {
		bb_program_freeze_poll(p);
		if (p->freezing)
			return 0;
	}
	if (faults)
		work = bb_fault_poll(p);
	if (p->parked_n)
		work += bb_fault_unpark(p);
	if (bb_prefetch_asked(p))
		work += bb_prefetch_poll(p);
	work += bb_writeback_poll(p);
	bb_extent_poll(p);
	if (p->pager->cfg.replicas > 1)
		work += bb_copies_poll(p);
	return work;
}

/* Does its second copy go on without anything that would wake us? */
static bool copies_wait(const struct bb_program *p)
{
	return p->pager->cfg.replicas > 1 && !p->sync.busy && (p->sync.to || p->pager->now >= p->sync.look_at);
}

static bool ring_waits(const struct bb_program *p)
{
	return atomic_load(&p->ctl->stage_head) != p->wb;
}

/* Has it something to do, or under way, that the next round has to see to? */
static bool is_busy(const struct bb_program *p)
{
	return !p->gone && !bb_absent(p) &&
	       (p->ready || p->refs || p->parked_n || p->freezing || p->wanted || p->sync.to || copies_wait(p) ||
		bb_prefetch_asked(p) || ring_waits(p));
}

static int poll_all(struct bb_pager *pg)
{
	struct bb_program *p;
	unsigned int n = 0;
	int work = 0;

	for (p = pg->programs; p; p = p->next, n++) {
		if (pg->many && !p->gone && !bb_absent(p))
			atomic_store(&p->ctl->bbd_wants, 1);
		work += poll_program(p, !pg->many || p->ready);
		pg->some_gone |= p->gone;
		if (pg->many && is_busy(p))
			is_due(p);
	}
	pg->sweep_at = pg->now + SWEEP_NS;
	if (n > FEW && !pg->many)
		pg->sweep_at = 0; /* once more: now they are to have leave to kick */
	pg->many = n > FEW;
	return work;
}

static int poll_due(struct bb_pager *pg)
{
	struct bb_program *p = pg->due, *next;
	int work = 0;

	pg->due = NULL;
	pg->due_end = &pg->due;
	for (; p; p = next) {
		next = p->due_next;
		p->due = false;
		work += poll_program(p, p->ready);
		pg->some_gone |= p->gone;
		if (is_busy(p))
			is_due(p);
	}
	return work;
}

int bb_pager_round(struct bb_pager *pg)
{
	int work;

	/* Few are read of without being asked; but who hangs up, or forks, is seen to however much there is to do. */
	if (!pg->looked && (pg->many || pg->now >= pg->look_at))
		bb_pager_look(pg, 0);
	pg->looked = false;
	pg->now = bb_now_ns();
	work = !pg->many || pg->now >= pg->sweep_at ? poll_all(pg) : poll_due(pg);
	bb_net_flush(pg->net);
	work += bb_net_poll(pg->net);
	bb_net_flush(pg->net);
	return work;
}

/* --- before and after sleep ------------------------------------------------- */

/* It has something to do that the next round does, and no event tells of. */
static bool goes_on(const struct bb_program *p)
{
	return p->parked_n || p->freezing || bb_prefetch_asked(p) || copies_wait(p) || ring_waits(p);
}

bool bb_due_ask(struct bb_pager *pg)
{
	struct bb_program *p;
	bool quiet = !pg->some_gone && !pg->inbox && (!pg->many || pg->sweep_at);

	for (p = pg->due; p && pg->many; p = p->due_next)
		quiet &= !p->gone && !p->ready && (bb_absent(p) || !goes_on(p));
	for (p = pg->programs; p && !pg->many; p = p->next) {
		if (p->gone || bb_absent(p))
			continue;
		if (!atomic_load_explicit(&p->ctl->bbd_wants, memory_order_relaxed))
			atomic_store(&p->ctl->bbd_wants, 1);
		quiet &= !goes_on(p);
	}
	return quiet;
}

void bb_due_awake(struct bb_pager *pg)
{
	for (struct bb_program *p = pg->programs; p && !pg->many; p = p->next)
		if (!bb_absent(p))
			atomic_store(&p->ctl->bbd_wants, 0);
}

bool bb_due_waits(const struct bb_pager *pg)
{
	const struct bb_program *p;
	bool waits = false;

	for (p = pg->many ? pg->due : pg->programs; p; p = pg->many ? p->due_next : p->next)
		waits |= !bb_absent(p) && !p->gone && (p->parked_n || p->pf.nwant || p->freezing || (p->sync.to && !p->sync.busy));
	return waits;
}
