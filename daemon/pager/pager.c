/* SPDX-License-Identifier: MIT */
/*
 * The pager's thread.
 *
 * Theory of operation
 * -------------------
 * One round of the loop (due.c) polls what there is to do: faults, parked faults,
 * the staging rings, the network. What the thread does between two rounds, look
 * again, give way or sleep, is rest.c's.
 *
 * Lock order: bb_pager.lock alone, for the list of programs.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "keep/keep.h"
#include "log.h"
#include "low.h"
#include "program.h"
#include "rights.h"

#define STOP_NS 3000000000ULL

const char *const bb_part_name[BB_PART_MAX] = {
	[BB_PART_ENTER] = "enter", [BB_PART_DIRECTORY] = "directory", [BB_PART_GET] = "get data",
	[BB_PART_EXIT] = "exit",   [BB_PART_OTHER] = "other",	      [BB_PART_TOTAL] = "total",
};

/* The program goes on when it has this. */
static void answer(struct bb_program *p)
{
	struct bb_attach_rep rep = {
		.magic = BB_ATTACH_MAGIC,
		.size = sizeof(rep),
		.budget = ((uint64_t)p->limit + p->nslots) << BB_PAGE_SHIFT,
		.keep_ms = bb_keep_ms(p->pager->cfg.keep),
	};

	if (p->again) {
		rep.error = bb_again_claim(p);
		if (rep.error) {
			bb_format(rep.message, sizeof(rep.message), "nothing is held for region %u", p->again);
			p->gone = true;
		}
	}
	rep.region = p->id;
	memcpy(rep.secret, p->secret, sizeof(rep.secret));
	if (send(p->sock, &rep, sizeof(rep), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(rep))
		p->gone = true;
	bb_info("program %u (%s) attached: region %u, budget %lu MiB", p->pid, p->comm, p->id,
		(unsigned long)(rep.budget >> 20));
}

static void take_inbox(struct bb_pager *pg)
{
	struct bb_program *p, *next, *later = NULL;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->inbox; p; p = next) {
		next = p->next;
		if (!bb_again_ready(p)) {
			p->next = later;
			later = p;
			continue;
		}
		answer(p);
		p->next = pg->programs;
		pg->programs = p;
		if (p->gone)
			pg->some_gone = true;
		else
			bb_due_watch(p);
	}
	pg->inbox = later;
	pthread_mutex_unlock(&pg->lock);
}

/* We end, it does not: it must not wait for another bbd. */
static void dismiss(struct bb_pager *pg, struct bb_program *p)
{
	struct bb_msg m = { .magic = BB_MSG_MAGIC, .op = BB_MSG_BYE };

	bb_due_part(p); /* first: it takes its pages in hand as soon as it hears of it */
	if (!bb_absent(p) && send(p->sock, &m, sizeof(m), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		bb_debug("program %u: not told that bbd ends (error %d)", p->pid, errno);
}

/* Programs that ended: once nothing of theirs is under way they are freed. */
static void bury(struct bb_pager *pg)
{
	struct bb_program **at = &pg->programs, *p;

	if (!pg->some_gone)
		return;
	pg->some_gone = false;
	while ((p = *at)) {
		pg->some_gone |= p->gone;
		if (!p->gone || (!pg->stop && bb_program_lives(p)) || !bb_extent_drain(p)) {
			at = &p->next;
			continue;
		}
		pthread_mutex_lock(&pg->lock);
		*at = p->next;
		pthread_mutex_unlock(&pg->lock);
		bb_info("program %u (%s) is gone", p->pid, p->comm);
		bb_due_forget(p);
		bb_relay_forget(p);
		bb_program_free(p, true);
	}
}

static void *loop(void *arg)
{
	struct bb_pager *pg = arg;
	uint64_t stop_at = 0;
	struct bb_program *p;

	prctl(PR_SET_NAME, "bb-pager");
	if (pg->cfg.cpu >= 0) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(pg->cfg.cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set) < 0)
			bb_warn("pager %u: cannot run on CPU %d (error %d)", pg->cfg.index, pg->cfg.cpu, errno);
	}
	bb_rights_thread_with(BB_ROLE_PAGER, bb_net_enter, pg->net);
	for (;;) {
		if (pg->inbox)
			take_inbox(pg);
		bb_rest(pg, bb_pager_round(pg));
		bury(pg);
		if (atomic_load_explicit(&pg->stop, memory_order_relaxed)) {
			if (pg->leave)
				break;
			if (!stop_at) {
				stop_at = pg->now + STOP_NS;
				for (p = pg->programs; p; p = p->next)
					if (!p->gone)
						dismiss(pg, p);
			}
			if (!pg->programs || pg->now > stop_at)
				break;
		}
	}
	bb_latency_end(&pg->latency);
	return NULL;
}

/* --- the public calls ------------------------------------------------------ */

int bb_pager_start(struct bb_pager **out, const struct bb_pager_config *cfg)
{
	struct bb_pager *pg = calloc(1, sizeof(*pg));
	int i, r;

	if (!pg)
		return -ENOMEM;
	pg->cfg = *cfg;
	bb_due_init(pg);
	pg->started = bb_now_ns();
	pg->slow_until = calloc(1 << 16, sizeof(*pg->slow_until));
	pg->dead_until = calloc(1 << 16, sizeof(*pg->dead_until));
	pg->next_id = 1 + cfg->index;
	pthread_mutex_init(&pg->lock, NULL);
	pg->epoll = epoll_create1(EPOLL_CLOEXEC);
	pg->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pg->zeros = mmap(NULL, BB_ZERO_RUN * BB_PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (!pg->slow_until || !pg->dead_until) {
		r = -ENOMEM;
		goto fail;
	}
	if (pg->epoll < 0 || pg->wake < 0 || pg->zeros == MAP_FAILED) {
		r = -errno;
		goto fail;
	}
	r = bb_net_new(&pg->net, cfg->peers, cfg->home, cfg->index);
	if (r < 0)
		goto fail;
	for (i = 0; i < BB_FILLS; i++) {
		pg->fills[i].next = pg->free_fills;
		pg->free_fills = &pg->fills[i];
	}
	for (i = 0; i < BB_WBS; i++) {
		pg->wbs[i].next = pg->free_wbs;
		pg->free_wbs = &pg->wbs[i];
	}
	for (i = 0; i < BB_DELETES; i++) {
		pg->dels[i].next = pg->free_dels;
		pg->free_dels = &pg->dels[i];
	}
	bb_due_watch_own(pg, pg->wake);
	bb_due_watch_own(pg, bb_net_fd(pg->net));
	r = bb_again_load(pg);
	if (r < 0) {
		bb_net_free(pg->net);
		goto fail;
	}
	r = -bb_low_thread(&pg->thread, loop, pg);
	if (r < 0) {
		bb_net_free(pg->net);
		goto fail;
	}
	*out = pg;
	return 0;
fail:
	if (pg->epoll >= 0)
		close(pg->epoll);
	if (pg->wake >= 0)
		close(pg->wake);
	free(pg->slow_until);
	free(pg->dead_until);
	free(pg);
	return r;
}

static void wake(struct bb_pager *pg)
{
	uint64_t one = 1;

	if (write(pg->wake, &one, sizeof(one)) < 0)
		bb_debug("pager: wake (error %d)", errno);
}

void bb_pager_stop(struct bb_pager *pg, bool leave)
{
	struct bb_program *p;

	pg->leave = leave;
	atomic_store(&pg->stop, true);
	wake(pg);
	pthread_join(pg->thread, NULL);
	/* What is still under way ends now, and must not be taken for a failure. */
	for (p = pg->programs; p; p = p->next)
		p->gone = true;
	bb_net_free(pg->net);
	while ((p = pg->programs)) {
		pg->programs = p->next;
		bb_relay_forget(p);
		bb_program_free(p, !leave);
	}
	while ((p = pg->inbox)) {
		pg->inbox = p->next;
		bb_program_free(p, !p->again);
	}
	munmap(pg->zeros, BB_ZERO_RUN * BB_PAGE_SIZE);
	close(pg->epoll);
	close(pg->wake);
	pthread_mutex_destroy(&pg->lock);
	free(pg->slow_until);
	free(pg->dead_until);
	free(pg);
}

unsigned int bb_pager_count(struct bb_pager *pg)
{
	struct bb_program *p;
	unsigned int n = 0;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->programs; p; p = p->next)
		n += !p->gone;
	pthread_mutex_unlock(&pg->lock);
	return n;
}

uint32_t bb_pager_attach(struct bb_pager *pg, const struct bb_attach_req *req, uint64_t granted, int sock, int uffd,
		     int memfd, int kick)
{
	struct bb_attach_rep rep = { .magic = BB_ATTACH_MAGIC, .size = sizeof(rep) };
	struct bb_program *p;
	uint32_t id;

	pthread_mutex_lock(&pg->lock);
	id = pg->next_id;
	if (!(req->flags & BB_ATTACH_AGAIN))
		pg->next_id += BB_PAGERS_MAX; /* numbers are unique over the pagers of a host */
	pthread_mutex_unlock(&pg->lock);
	p = bb_program_new(pg, req, id, granted, sock, uffd, memfd, kick, rep.message, sizeof(rep.message));
	if (!p) {
		rep.error = -EINVAL;
		bb_warn("program %u: attach refused: %s", req->pid, rep.message);
		(void)!send(sock, &rep, sizeof(rep), MSG_NOSIGNAL | MSG_DONTWAIT);
		close(sock);
		close(uffd);
		close(memfd);
		close(kick);
		return 0;
	}
	if (p->again)
		id = p->again;
	pthread_mutex_lock(&pg->lock);
	p->next = pg->inbox;
	pg->inbox = p;
	pthread_mutex_unlock(&pg->lock);
	wake(pg);
	return id;
}

static void count_pages(const struct bb_program *p, struct bb_program_info *o)
{
	for (uint32_t e = 0; e < p->nextents; e++) {
		uint32_t r = e < __atomic_load_n(&p->xtop, __ATOMIC_RELAXED) ?
				     __atomic_load_n(&p->xrx[e], __ATOMIC_RELAXED) : 0, i;
		uint64_t pages = 0;

		switch (atomic_load_explicit(&p->x[e].state, memory_order_relaxed)) {
		case BB_X_LOCAL:
			o->extents_local++;
			continue;
		case BB_X_FRESH:
			o->extents_fresh++;
			break;
		case BB_X_MANAGED:
			o->extents_managed++;
			break;
		default:
			if (e >= p->xtop && !atomic_load_explicit(&p->x[e].used, memory_order_relaxed) &&
			    ++o->idle > 4096)
				return; /* far beyond what was ever allocated */
		}
		if (!r || r >= p->nrx)
			continue;
		for (i = 0; i < BB_EXTENT_PAGES; i++)
			pages += bb_pw_state(atomic_load_explicit(&p->pw[e * BB_EXTENT_PAGES + i],
								  memory_order_relaxed)) == BB_P_REMOTE;
		for (i = 0; i < o->nnodes && o->node[i].node != p->rx[r].node; i++)
			;
		if (i == BB_PROGRAM_NODES)
			continue;
		if (i == o->nnodes)
			o->node[o->nnodes++].node = p->rx[r].node;
		o->node[i].extents++;
		o->node[i].pages += pages;
	}
}

int bb_pager_regions(struct bb_pager *pg, uint32_t *out, int max)
{
	struct bb_program *p;
	int n = 0;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->programs; p && n < max; p = p->next)
		if (!p->gone && !bb_absent(p))
			out[n++] = p->id;
	pthread_mutex_unlock(&pg->lock);
	return n;
}

int bb_pager_programs(struct bb_pager *pg, struct bb_program_info *out, int max)
{
	struct bb_program *p;
	int n = 0;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->programs; p && n < max; p = p->next) {
		struct bb_program_info *o = &out[n];
		const struct bb_region_ctl *c;

		if (p->gone || bb_absent(p))
			continue;
		c = p->ctl;
		memset(o, 0, sizeof(*o));
		o->region = p->id;
		o->pid = p->pid;
		memcpy(o->comm, p->comm, sizeof(o->comm));
		o->base = p->base;
		o->length = (uint64_t)p->npages << BB_PAGE_SHIFT;
		o->budget = ((uint64_t)p->limit + p->nslots) << BB_PAGE_SHIFT;
		o->charged = ((uint64_t)atomic_load(&c->resident) + p->nslots) << BB_PAGE_SHIFT;
		o->allocated = atomic_load(&c->alloc_bytes);
		o->faults = atomic_load(&c->n_fault);
		o->fill_zero = atomic_load(&c->n_fill_zero);
		o->fill_staged = atomic_load(&c->n_fill_staged);
		o->fill_remote = atomic_load(&c->n_fill_remote);
		o->prefetched = atomic_load(&c->n_prefetch);
		o->unused = atomic_load(&c->n_unused);
		o->evicted = atomic_load(&c->n_evict);
		o->evicted_clean = atomic_load(&c->n_evict_clean);
		o->evicted_zero = atomic_load(&c->n_evict_zero);
		o->evict_busy = atomic_load(&c->n_evict_busy);
		o->written_back = atomic_load(&c->n_writeback);
		o->lost = atomic_load(&c->n_lost);
		o->relayed = atomic_load(&p->relayed);
		o->relay_late = atomic_load(&p->relay_late);
		o->single = p->sync.left;
		o->copied = p->sync.copied;
		count_pages(p, o);
		n++;
	}
	pthread_mutex_unlock(&pg->lock);
	return n;
}

static void describe(const struct bb_program *p, struct bb_trace_program *o)
{
	o->region = p->id;
	o->pid = p->pid;
	memcpy(o->comm, p->comm, sizeof(o->comm));
	o->base = p->base;
	o->head = atomic_load_explicit(&p->trace->head, memory_order_relaxed);
}

int bb_pager_traces(struct bb_pager *pg, struct bb_trace_program *out, int max)
{
	struct bb_program *p;
	int n = 0;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->programs; p && n < max; p = p->next)
		if (!p->gone && !bb_absent(p))
			describe(p, &out[n++]);
	pthread_mutex_unlock(&pg->lock);
	return n;
}

int bb_pager_trace_read(struct bb_pager *pg, uint32_t region, uint64_t *at, struct bb_trace_fault *out, size_t max,
			uint64_t *lost, struct bb_trace_program *what)
{
	struct bb_program *p;
	int n = -ENOENT;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->programs; p && n < 0; p = p->next)
		if (p->id == region && !bb_absent(p)) {
			n = (int)bb_trace_read(p->trace, at, out, max, lost);
			describe(p, what);
		}
	pthread_mutex_unlock(&pg->lock);
	return n;
}

int bb_pager_set_budget(struct bb_pager *pg, uint32_t region, uint64_t bytes)
{
	struct bb_program *p;
	int r = -ENOENT;

	pthread_mutex_lock(&pg->lock);
	for (p = pg->programs; p; p = p->next)
		if (p->id == region && !p->gone && !bb_absent(p)) {
			bb_program_set_budget(p, bytes);
			r = 0;
		}
	pthread_mutex_unlock(&pg->lock);
	return r;
}

const struct bb_hist *bb_pager_hist(const struct bb_pager *pg, enum bb_part part)
{
	return &pg->hist[part];
}

const struct bb_hist *bb_pager_hist_local(const struct bb_pager *pg)
{
	return &pg->hist_local;
}

void bb_pager_hist_reset(struct bb_pager *pg)
{
	for (int i = 0; i < BB_PART_MAX; i++)
		bb_hist_reset(&pg->hist[i]);
	bb_hist_reset(&pg->hist_local);
}

void bb_pager_net_stats(struct bb_pager *pg, struct bb_net_stats *out)
{
	bb_net_stats_copy(out, &pg->net_stats);
}
