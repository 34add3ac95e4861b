/* SPDX-License-Identifier: MIT */
/*
 * Bringing pages in: from zeros, from a staging slot, from a home. Owner of
 * the busy state FILLING. A page that comes from a home is held against the
 * hash of what was written there, so that bytes lost, torn or altered on any
 * way are found here and never reach the program.
 */
#include <errno.h>
#include <string.h>
#define XXH_INLINE_ALL /* the library's own is called by a table, and slower by a tenth of a microsecond */
#include <xxhash.h>

#include <bluebridge/kernel.h>

#include "clock.h"
#include "log.h"
#include "program.h"
#include "usdt.h"

#define AGAIN_MAX 100

#define TRIES 8
#define RAN_NS 3500 /* hash and install take half of that, unless the program was given the CPU */
#define FIRST_TRY_NS 300000000ULL

void bb_fill_wake(struct bb_program *p, uint32_t page, uint32_t n)
{
	struct uffdio_range r = { bb_prog_addr(p, page), (uint64_t)n << BB_PAGE_SHIFT };

	ioctl(p->uffd, UFFDIO_WAKE, &r);
}

void bb_word_leave(struct bb_program *p, uint32_t page, bb_pw set, bb_pw clear)
{
	_Atomic bb_pw *pw = &p->pw[page];
	bb_pw w = atomic_load(pw);

	while (!atomic_compare_exchange_weak(pw, &w, (w & ~(clear | BB_PW_STATE | BB_PW_WAIT | BB_PW_FROM)) | set))
		;
	if (w & BB_PW_WAIT)
		bb_fill_wake(p, page, 1);
}

/* FILLING to RESIDENT. */
static void arrived(struct bb_program *p, uint32_t page, uint32_t n, bb_pw set, bb_pw clear)
{
	struct bb_region_ctl *c = p->ctl;
	const unsigned int now = atomic_load_explicit(&c->gen, memory_order_relaxed);
	const bool used = !(set & BB_PW_PREFETCH);
	uint32_t i, fills;

	set |= bb_pw_with_gen(BB_P_RESIDENT, now);
	clear |= BB_PW_GEN | BB_PW_HEAT | BB_PW_SLOT | BB_PW_DIRTY | BB_PW_PREFETCH;
	for (i = 0; i < n; i++) {
		bb_pw w = atomic_load_explicit(&p->pw[page + i], memory_order_relaxed);

		bb_word_leave(p, page + i, bb_pw_with_heat(set, bb_heat_back(w, now, used)), clear);
	}
	atomic_fetch_add(&p->x[page / BB_EXTENT_PAGES].resident, (uint16_t)n);
	fills = atomic_fetch_add_explicit(&c->fills_in_gen, n, memory_order_relaxed) + n;
	if (fills > p->limit / 4) {
		atomic_store_explicit(&c->fills_in_gen, 0, memory_order_relaxed);
		atomic_fetch_add_explicit(&c->gen, 1, memory_order_relaxed);
	}
}

void bb_fill_install(struct bb_program *p, uint32_t page, uint32_t n, const void *data, enum bb_page_state from_state,
		     bb_pw set, bb_pw clear)
{
	const uint8_t *from = data ? data : p->pager->zeros;
	unsigned int again = 0;

	while (n) {
		/* Asked again for each part of a run: one part's wake-up may be left already. */
		const bool relay = !(set & BB_PW_PREFETCH) && bb_relay_suits(p);
		struct uffdio_copy c = {
			.dst = bb_prog_addr(p, page),
			.src = (uintptr_t)from,
			.len = (uint64_t)n << BB_PAGE_SHIFT,
			.mode = relay ? UFFDIO_COPY_MODE_DONTWAKE : 0,
		};
		uint32_t done;
		int err = 0;

		if (ioctl(p->uffd, UFFDIO_COPY, &c) < 0)
			err = errno;
		done = !err ? n : c.copy > 0 ? (uint32_t)(c.copy >> BB_PAGE_SHIFT) : 0;
		if (done) {
			BB_PROBE(page_placed, p->pid, c.dst, done, from_state);
			arrived(p, page, done, set, clear);
			if (relay && done == n)
				bb_relay(p, page, done);
			else if (relay)
				bb_fill_wake(p, page, done);
		}
		page += done;
		n -= done;
		from += (size_t)done << BB_PAGE_SHIFT;
		if (!n)
			return;
		switch (err) {
		case EEXIST:
			/* It is there: somebody was faster, or it never left. */
			arrived(p, page, 1, set, clear);
			bb_fill_wake(p, page, 1);
			break;
		case 0:
			continue;
		case EAGAIN:
			/*
			 * Its memory is changing. That may last as long as it
			 * likes (it asked for events that nobody reads while we
			 * are here), but not at the cost of others.
			 */
			if (done)
				again = 0;
			if (again++ < AGAIN_MAX)
				continue;
			/* fall through */
		default:
			/*
			 * A run may cross from one of the program's mappings to
			 * the next (madvise and mprotect split them): the kernel
			 * refuses it whole, but not page by page.
			 */
			if (n > 1) {
				bb_fill_install(p, page, 1, data ? from : NULL, from_state, set, clear);
				break;
			}
			/*
			 * No memory, or the mapping is gone (the program is
			 * ending). The content stays where it was: the access
			 * faults again, or does not come.
			 */
			bb_word_leave(p, page, from_state, 0);
			bb_credit_give(p->ctl, 1);
			bb_fill_wake(p, page, 1);
			break;
		}
		page++;
		n--;
		from += BB_PAGE_SIZE;
	}
}

void bb_fill_lost(struct bb_program *p, uint32_t page, const char *why, uint16_t node)
{
	uint64_t now = bb_now_ns();

	BB_PROBE(page_lost, p->pid, bb_prog_addr(p, page), node);
	p->lost_unsaid++;
	if (now - p->lost_said_at > 1000000000ULL) {
		bb_error("program %u (%s): %lu pages are lost, the last at %lx: host %u %s; access to them raises SIGBUS",
			 p->pid, p->comm, (unsigned long)p->lost_unsaid, (unsigned long)bb_prog_addr(p, page), node, why);
		p->lost_said_at = now;
		p->lost_unsaid = 0;
	}
	if (!(p->features & UFFD_FEATURE_POISON)) {
		/* Its helper maps what raises SIGBUS there, and wakes it. */
		bb_word_leave(p, page, BB_P_LOST | BB_PW_WAIT, 0);
		bb_credit_give(p->ctl, 1);
		atomic_fetch_add(&p->ctl->n_lost, 1);
		bb_program_ring(p);
		return;
	}
	atomic_fetch_add_explicit(&p->ctl->n_lost, 1, memory_order_relaxed);
	bb_word_leave(p, page, BB_P_LOST, 0);
	bb_credit_give(p->ctl, 1);
	bb_fill_poison(p, page);
}

void bb_fill_poison(struct bb_program *p, uint32_t page)
{
	struct uffdio_poison poison = {
		.range = { bb_prog_addr(p, page), BB_PAGE_SIZE },
	};

	if (p->features & UFFD_FEATURE_POISON && ioctl(p->uffd, UFFDIO_POISON, &poison) == 0)
		return;
	/* It faults again, and we try again; or it is there. */
	bb_fill_wake(p, page, 1);
}

/*
 * One access waits for the whole deadline; those that come after it, to a host
 * that is still silent, need not.
 */
bool bb_fill_hopeless(struct bb_pager *pg, uint16_t node)
{
	struct bb_peer peer;

	if (pg->suspect != node || node == bb_peers_config(pg->cfg.peers)->node)
		return false;
	if (!bb_peers_get(pg->cfg.peers, node, &peer))
		return true;
	if (!peer.alive && bb_now_ns() - peer.last_hello > pg->cfg.deadline_ns)
		return true;
	if (peer.alive)
		pg->suspect = 0;
	return false;
}

/* --- from a home ---------------------------------------------------------- */

static const char *status_text(uint8_t status)
{
	static const char *const text[BB_ST_MAX] = {
		[BB_ST_MALFORMED] = "refused: malformed request",
		[BB_ST_VERSION] = "refused: speaks another protocol version",
		[BB_ST_COMMAND] = "refused the command",
		[BB_ST_BOUNDS] = "refused: outside of its memory",
		[BB_ST_GENERATION] = "refused: that memory was freed",
		[BB_ST_RIGHTS] = "refused: not ours",
		[BB_ST_TENANT] = "refused: another tenant's",
		[BB_ST_BOOT] = "was restarted and has lost what it held",
		[BB_ST_TIMEOUT] = "did not answer in time (dead, cut off, or with another key)",
		[BB_ST_UNREACH] = "is not known any more",
	};

	return status < BB_ST_MAX && text[status] ? text[status] : "failed";
}

static void done(struct bb_net_req *req);

static void submit(struct bb_fill *f)
{
	struct bb_program *p = f->prog;
	struct bb_rx *x = &p->rx[f->rx];

	memset(&f->req, 0, offsetof(struct bb_net_req, status));
	f->req.t_sent = f->req.t_recv = 0;
	f->req.cmd = f->n == 1 ? BB_CMD_READ : BB_CMD_READ_RUN;
	f->req.node = x->node;
	f->req.boot = x->boot;
	f->req.ptr = x->ptr + ((uint64_t)(f->page % BB_EXTENT_PAGES) << BB_PAGE_SHIFT);
	f->req.len = f->n << BB_PAGE_SHIFT;
	f->req.deadline = f->t_found + p->pager->cfg.deadline_ns;
	/* Where there is another copy nobody waits for one host alone. */
	if (bb_copy_other(p, f->rx)) {
		uint64_t soon = bb_now_ns() + FIRST_TRY_NS;

		if (soon < f->req.deadline)
			f->req.deadline = soon;
	}
	f->req.user = f;
	f->req.done = done;
	BB_PROBE(page_asked, p->pid, bb_prog_addr(p, f->page), f->n, x->node, f->req.ptr, f->demand);
	bb_net_submit(p->pager->net, &f->req);
}

static bool intact(struct bb_program *p, uint32_t page, const void *data)
{
	XXH128_hash_t h = XXH3_128bits(data, BB_PAGE_SIZE);

	return bb_hash_same(p->hash[page], bb_hash_of(h.low64, h.high64));
}

/* From the other copy then, if there is one, and time. */
static bool try_other(struct bb_fill *f, uint8_t status)
{
	struct bb_program *p = f->prog;
	uint32_t other = bb_copy_other(p, f->rx), rx = f->rx;

	if (!other || bb_now_ns() >= f->t_found + p->pager->cfg.deadline_ns)
		return false;
	if (status == BB_ST_TIMEOUT || status == BB_ST_UNREACH)
		bb_node_slow(p->pager, p->rx[rx].node);
	else if (status != BB_ST_OK)
		bb_extent_bad(p, rx);
	p->use[rx].busy--;
	p->use[other].busy++;
	f->rx = other;
	submit(f);
	return true;
}

/* Only the first n of its pages: the others are REMOTE again. Who waits for one asks for itself. */
static void shorten(struct bb_fill *f, uint32_t n)
{
	struct bb_program *p = f->prog;

	for (uint32_t i = n; i < f->n; i++) {
		bb_word_leave(p, f->page + i, BB_P_REMOTE, 0);
		bb_credit_give(p->ctl, 1);
		bb_fill_wake(p, f->page + i, 1);
	}
	bb_record_landed(f, f->page + n, f->n - n, 0, 0);
	f->n = n;
}

/* Puts pages back that could not be had: REMOTE again, or lost if waited for. */
static void failed(struct bb_fill *f, const char *why, uint64_t t_got)
{
	if (f->demand) {
		bb_fill_lost(f->prog, f->page, why, f->prog->rx[f->rx].node);
		bb_record_remote(f, BB_TRACE_LOST, t_got, bb_now_ns());
		bb_record_landed(f, f->page, 1, 0, 0);
	}
	shorten(f, f->demand ? 1 : 0);
}

static void done(struct bb_net_req *req)
{
	struct bb_fill *f = req->user;
	struct bb_program *p = f->prog;
	struct bb_pager *pg = p->pager;
	const uint8_t *data = req->data;
	uint64_t t_got = bb_now_ns(), t_end = t_got;
	uint32_t i;

	if (p->gone)
		goto out;
	BB_PROBE(data_received, p->pid, bb_prog_addr(p, f->page), f->n, req->node, req->status);
	if (req->status == BB_ST_BUSY || (req->status == BB_ST_OK && !data)) {
		if (t_got < req->deadline) {
			submit(f);
			return;
		}
		req->status = BB_ST_TIMEOUT;
	}
	if (req->status != BB_ST_OK && try_other(f, req->status))
		return;
	if (req->status == BB_ST_TIMEOUT)
		pg->suspect = req->node;
	if (req->status != BB_ST_OK) {
		if (f->demand || req->status == BB_ST_BOOT)
			bb_debug("fill of %u pages from host %u: %s", f->n, req->node, status_text(req->status));
		failed(f, status_text(req->status), t_got);
		goto out;
	}
	for (i = 0; i < f->n; i++)
		if (!intact(p, f->page + i, data + ((size_t)i << BB_PAGE_SHIFT)))
			break;
	if (i < f->n) {
		bb_warn("program %u (%s): host %u gave other bytes than were written to page %lx (try %u of %u)", p->pid,
			p->comm, req->node, (unsigned long)bb_prog_addr(p, f->page + i), f->tries + 1, TRIES);
		/* What came before it is good. The page that is waited for is asked for again, alone. */
		shorten(f, i ? i : f->demand);
		if (!i && f->demand && ++f->tries < TRIES && t_got < f->t_found + pg->cfg.deadline_ns) {
			if (!try_other(f, BB_ST_OK))
				submit(f);
			return;
		}
		if (!i) {
			failed(f, "gave other bytes than were written", t_got);
			goto out;
		}
	}
	bb_fill_install(p, f->page, f->n, data, BB_P_REMOTE, f->demand ? 0 : BB_PW_PREFETCH, 0);
	if (f->demand) {
		atomic_fetch_add_explicit(&p->ctl->n_fill_remote, 1, memory_order_relaxed);
		t_end = bb_now_ns();
		bb_record_remote(f, BB_TRACE_REMOTE, t_got, t_end);
		pg->rest.gave_way = t_end - t_got > RAN_NS;
	}
	if (p->late_n)
		bb_record_landed(f, f->page, f->n, t_got, f->demand ? t_end : bb_now_ns());
	if (f->n > 1 || !f->demand)
		atomic_fetch_add_explicit(&p->ctl->n_prefetch, f->demand ? f->n - 1 : f->n, memory_order_relaxed);
out:
	p->use[f->rx].busy--;
	p->refs--;
	p->fills--;
	pg->fills_due--;
	f->next = pg->free_fills;
	pg->free_fills = f;
}

int bb_fill_remote(struct bb_program *p, uint32_t page, uint32_t n, uint32_t rx, const struct bb_fault_at *at,
		   uint64_t t_found)
{
	struct bb_fill *f = p->pager->free_fills;

	if (!f)
		return -EAGAIN;
	p->pager->free_fills = f->next;
	f->prog = p;
	f->page = page;
	f->n = n;
	f->rx = rx;
	f->demand = at;
	f->tries = 0;
	if (at)
		f->at = *at;
	f->t_found = t_found;
	p->use[rx].busy++;
	p->refs++;
	p->fills++;
	p->pager->fills_due++;
	submit(f);
	return 0;
}
