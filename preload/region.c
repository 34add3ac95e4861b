/* SPDX-License-Identifier: MIT */
/*
 * The global region: one reservation of address space from which all large
 * allocations of the program come, cut into extents that are LOCAL while they
 * fit the budget and paged by bbd beyond it.
 *
 * Theory of operation
 * -------------------
 * Until the extents in use exceed the budget every extent is LOCAL, nothing is
 * registered with userfaultfd, and no daemon was spoken to: a program that fits
 * pays nothing. The first extent beyond the budget makes us attach. From then
 * on new extents start FRESH, that is registered and never touched; bbd opens
 * them (LOCAL) two megabytes at a time as the program reaches them, against
 * credit, and the helper thread (evict.c) seals LOCAL extents and takes pages
 * out of MANAGED ones when credit runs low.
 *
 * Freed memory of LOCAL extents stays populated for the next allocation, up to
 * a cap, as the C library's own heap does. Freed memory of MANAGED extents is
 * discarded at once: it is not worth a network round trip.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "log.h"
#include "private.h"

#define RW_STEP 16 /* extents made accessible at a time: 32 MiB */
#define CACHE_MIN (64LL << (20 - BB_PAGE_SHIFT)) /* pages; what the C library's heap keeps, too */
#define REMAP_MIN 64u	  /* pages from which moving page tables beats copying to fresh memory */
#define REMAP_ALWAYS 8192u /* and from which copying would take twice too much memory */

uintptr_t bb_region_base, bb_region_size;
size_t bb_region_min = SIZE_MAX;
struct bb_region bb_rg = { .uffd = -1, .memfd = -1, .sock = -1, .kick = -1, .pagemap = -1, .uffd_dev = -1 };
struct bb_options bb_opts;

static void *reserve(size_t len, int prot)
{
	void *p = bb_sys_mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int bb_region_reserve(void)
{
	struct bb_region *g = &bb_rg;
	size_t size, meta;
	uintptr_t raw = 0;
	void *m;

	if (g->base)
		return 0;
	/* As large as the limits of this process allow. */
	for (size = 1ULL << 40; size >= 1ULL << 32; size >>= 2) {
		raw = (uintptr_t)reserve(size + BB_EXTENT_SIZE, PROT_NONE);
		if (raw)
			break;
	}
	if (!raw)
		return -ENOMEM;
	g->npages = (uint32_t)(size >> BB_PAGE_SHIFT);
	g->nextents = g->npages / BB_EXTENT_PAGES;

	meta = bb_runs_meta_size(g->npages);
	m = reserve(meta, PROT_READ | PROT_WRITE);
	g->xp = reserve(g->nextents, PROT_READ | PROT_WRITE);
	g->x = reserve(g->nextents * sizeof(*g->x), PROT_READ | PROT_WRITE);
	g->ctl = reserve(sizeof(*g->ctl), PROT_READ | PROT_WRITE);
	if (!m || !g->xp || !g->x || !g->ctl || bb_runs_init(&g->runs, m, g->npages) < 0) {
		bb_sys_munmap((void *)raw, size + BB_EXTENT_SIZE);
		return -ENOMEM;
	}
	g->base = (raw + BB_EXTENT_SIZE - 1) & ~(BB_EXTENT_SIZE - 1);
	atomic_store(&g->ctl->limit, g->local_limit);
	bb_region_base = g->base;
	bb_region_size = size;
	return 0;
}

enum bb_extent_state bb_xsettled(uint32_t e)
{
	uint64_t deadline = bb_now_ns() + 5000000000ULL;
	uint8_t sealing = BB_X_SEALING;

	/* bbd opens an extent by one ioctl: this is short, unless it was killed there. */
	while (bb_xstate(e) == BB_X_SEALING) {
		if (bb_now_ns() > deadline) {
			/* Nothing was ever in it; start again. */
			if (bb_extents_register(e, 1) == 0)
				atomic_compare_exchange_strong(&bb_rg.x[e].state, &sealing, BB_X_FRESH);
			bb_pages_wake(e * BB_EXTENT_PAGES, BB_EXTENT_PAGES);
			break;
		}
		sched_yield();
	}
	return bb_xstate(e);
}

static bool make_accessible(uint32_t end)
{
	struct bb_region *g = &bb_rg;
	uint32_t top = (end + RW_STEP - 1) / RW_STEP * RW_STEP;
	uintptr_t at = g->base + ((uintptr_t)g->rw_top << BB_EXTENT_SHIFT);

	if (end <= g->rw_top)
		return true;
	if (top > g->nextents)
		top = g->nextents;
	if (bb_sys_mprotect((void *)at, (size_t)(top - g->rw_top) << BB_EXTENT_SHIFT, PROT_READ | PROT_WRITE) < 0)
		return false;
	if (g->attached == BB_ATTACHED) {
		int r = bb_extents_register(g->rw_top, top - g->rw_top);

		if (r < 0) {
			bb_warn_once("cannot register %u extents with userfaultfd (error %d): this memory stays local",
				     top - g->rw_top, -r);
		} else {
			for (uint32_t e = g->rw_top; e < top; e++)
				g->xp[e] |= BB_XP_REGISTERED;
		}
	}
	g->rw_top = top;
	return true;
}

/* How much free memory LOCAL extents may keep warm: it counts as used. */
static uint64_t cache_cap(void)
{
	int64_t cap = bb_rg.local_limit / 2;

	if (bb_rg.attached == BB_ATTACHED)
		return (uint64_t)cap / 4; /* others could use it */
	return (uint64_t)(cap > CACHE_MIN ? cap : CACHE_MIN);
}

/* Gives the warm free memory back. */
static void uncache(void)
{
	struct bb_region *g = &bb_rg;
	uint32_t top = g->rw_top, from;

	for (uint32_t e = 0; e < top; e++) {
		from = e;
		while (e < top && bb_xstate(e) == BB_X_LOCAL && !atomic_load(&g->x[e].used)) {
			g->xp[e] &= (uint8_t)~BB_XP_DIRTY;
			atomic_store(&g->x[e++].state, BB_X_NONE);
			bb_credit_give(g->ctl, BB_EXTENT_PAGES);
		}
		if (e > from)
			(void)bb_pages_zap(from * BB_EXTENT_PAGES, (e - from) * BB_EXTENT_PAGES, true);
	}
	g->cached = 0;
}

/* Over the budget for the first time: time to find a daemon. */
static void want_daemon(void)
{
	struct bb_region *g = &bb_rg;
	int cancel;

	if (g->attached != BB_DETACHED)
		return;
	/* It opens, connects and waits; whoever were cancelled there would keep the lock. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
	if (bb_attach() < 0)
		g->attached = BB_REFUSED;
	pthread_setcancelstate(cancel, NULL);
}

/* NONE to something: the first allocation in this extent. */
static void extent_begin(uint32_t e)
{
	struct bb_region *g = &bb_rg;
	struct bb_extent *x;

	if (g->attached == BB_DETACHED &&
	    atomic_load_explicit(&g->ctl->resident, memory_order_relaxed) + BB_EXTENT_PAGES > g->local_limit) {
		if (g->cached)
			uncache();
		if (atomic_load(&g->ctl->resident) + BB_EXTENT_PAGES > g->local_limit)
			want_daemon();
	}
	x = &g->x[e]; /* attaching moves the books */
	if (g->attached == BB_ATTACHED) {
		if (!(g->xp[e] & BB_XP_REGISTERED) && bb_extents_register(e, 1) == 0)
			g->xp[e] |= BB_XP_REGISTERED;
		if (g->xp[e] & BB_XP_REGISTERED) {
			g->xp[e] &= (uint8_t)~BB_XP_REGISTERED;
			atomic_store(&x->flags, 0);
			atomic_store(&x->state, BB_X_FRESH);
			return;
		}
	}
	atomic_fetch_add(&g->ctl->resident, BB_EXTENT_PAGES);
	atomic_store(&x->state, BB_X_LOCAL);
}

/* The last allocation in this extent is gone. */
static void extent_end(uint32_t e)
{
	struct bb_region *g = &bb_rg;
	struct bb_extent *x = &g->x[e];

	/* What was said of that memory does not hold for what comes there next. */
	atomic_fetch_and(&x->flags, (uint8_t)~BB_XF_HINTS);
	switch (bb_xsettled(e)) {
	case BB_X_LOCAL:
		if (g->cached + BB_EXTENT_PAGES <= cache_cap()) {
			/* Keep it as it is; the next allocation finds it warm. */
			return;
		}
		if (g->xp[e] & BB_XP_DIRTY) {
			g->xp[e] &= (uint8_t)~BB_XP_DIRTY;
			(void)bb_pages_zap(e * BB_EXTENT_PAGES, BB_EXTENT_PAGES, true);
		}
		atomic_store(&x->state, BB_X_NONE);
		bb_credit_give(g->ctl, BB_EXTENT_PAGES);
		break;
	case BB_X_MANAGED:
		/* bbd fills in clusters: pages that nobody owned may be resident. */
		if (atomic_load(&x->resident) && bb_pages_drop(e * BB_EXTENT_PAGES, BB_EXTENT_PAGES, true) < 0)
			break;
		/* Its pages are all EMPTY now; it can be FRESH the next time. */
		g->xp[e] |= BB_XP_REGISTERED;
		atomic_store(&x->state, BB_X_NONE);
		break;
	case BB_X_FRESH: {
		uint8_t fresh = BB_X_FRESH;

		/* bbd may be opening it at this very moment: then it is LOCAL. */
		if (atomic_compare_exchange_strong(&x->state, &fresh, BB_X_NONE))
			g->xp[e] |= BB_XP_REGISTERED;
		break;
	}
	default:
		break;
	}
}

/* Is content of freed pages kept in this extent? Then the next owner may see it. */
static void mark_used(uint32_t first, uint32_t n, int sign)
{
	struct bb_region *g = &bb_rg;
	uint32_t e = first / BB_EXTENT_PAGES, end = (first + n - 1) / BB_EXTENT_PAGES;

	for (; e <= end; e++) {
		uint32_t lo = e * BB_EXTENT_PAGES, hi = lo + BB_EXTENT_PAGES;
		uint32_t k = (first + n < hi ? first + n : hi) - (first > lo ? first : lo);
		uint32_t used = atomic_load_explicit(&g->x[e].used, memory_order_relaxed);
		enum bb_extent_state s = bb_xsettled(e);

		if (sign > 0) {
			if (!used && s == BB_X_LOCAL)
				g->cached -= g->cached < BB_EXTENT_PAGES ? g->cached : BB_EXTENT_PAGES;
			if (s == BB_X_NONE)
				extent_begin(e);
			atomic_store_explicit(&g->x[e].used, used + k, memory_order_relaxed);
		} else {
			used -= k;
			atomic_store_explicit(&g->x[e].used, used, memory_order_relaxed);
			if (s == BB_X_LOCAL)
				g->xp[e] |= BB_XP_DIRTY;
			if (!used) {
				extent_end(e);
				if (bb_xstate(e) == BB_X_LOCAL)
					g->cached += BB_EXTENT_PAGES;
			}
		}
	}
}

/*
 * Ranges that may hold a former owner's bytes. Found under the lock (sealing
 * an extent makes its free pages clean), cleared without it: an extent may be
 * sealed meanwhile, and then the store faults like any other.
 */
void bb_dirty_find(struct bb_dirty *d, uint32_t first, uint32_t n)
{
	uint32_t end = first + n;

	d->n = 0;
	while (first < end) {
		uint32_t e = first / BB_EXTENT_PAGES;
		uint32_t hi = (e + 1) * BB_EXTENT_PAGES < end ? (e + 1) * BB_EXTENT_PAGES : end;

		if (bb_rg.xp[e] & BB_XP_DIRTY) {
			if (d->n && (d->range[d->n - 1].end == first || d->n == BB_DIRTY_RANGES)) {
				d->range[d->n - 1].end = hi;
			} else {
				d->range[d->n].first = first;
				d->range[d->n++].end = hi;
			}
		}
		first = hi;
	}
}

void bb_dirty_clear(const struct bb_dirty *d)
{
	for (unsigned int i = 0; i < d->n; i++)
		memset((void *)bb_addr_of(d->range[i].first), 0,
		       (size_t)(d->range[i].end - d->range[i].first) << BB_PAGE_SHIFT);
}

void *bb_region_alloc(size_t bytes, size_t align, unsigned int flags)
{
	struct bb_region *g = &bb_rg;
	uint64_t n = (bytes + BB_PAGE_SIZE - 1) >> BB_PAGE_SHIFT;
	uint64_t al = align <= BB_PAGE_SIZE ? 1 : align >> BB_PAGE_SHIFT;
	int keep = errno;
	struct bb_dirty dirty = { 0 };
	int64_t first;

	if (!n || bytes > PTRDIFF_MAX || (align & (align - 1)))
		return NULL;
	/* Whole extents at extent boundaries: huge pages, and whole frees. */
	if (n >= BB_EXTENT_PAGES && al < BB_EXTENT_PAGES)
		al = BB_EXTENT_PAGES;

	if (bb_lock_inside())
		return NULL;
	bb_lock(&g->lock);
	if (g->attached == BB_CHILD || bb_region_reserve() < 0 || n > g->npages || al > g->npages)
		goto none;
	first = bb_runs_alloc(&g->runs, (uint32_t)n, (uint32_t)al);
	if (first < 0)
		goto none;
	if (!make_accessible((uint32_t)((first + n - 1) / BB_EXTENT_PAGES + 1))) {
		bb_runs_free(&g->runs, (uint32_t)first, (uint32_t)n);
		goto none;
	}
	if (flags & BB_RA_ZERO)
		bb_dirty_find(&dirty, (uint32_t)first, (uint32_t)n);
	mark_used((uint32_t)first, (uint32_t)n, 1);
	atomic_fetch_add_explicit(&g->ctl->alloc_bytes, n << BB_PAGE_SHIFT, memory_order_relaxed);
	bb_unlock(&g->lock);
	bb_dirty_clear(&dirty);
	errno = keep;
	return (void *)bb_addr_of((uint64_t)first);
none:
	bb_unlock(&g->lock);
	errno = keep;
	return NULL;
}

void bb_region_release(uint32_t first, uint32_t n)
{
	struct bb_region *g = &bb_rg;
	uint32_t at = first, end = first + n;

	while (at < end) {
		uint32_t len;
		int64_t run = bb_runs_find(&g->runs, at);
		uint32_t stop;

		if (run < 0) {
			run = bb_runs_next(&g->runs, at, &len);
			if (run < 0 || run >= end)
				return;
			at = (uint32_t)run;
		} else {
			len = bb_runs_len(&g->runs, (uint32_t)run);
		}
		stop = (uint32_t)run + len < end ? (uint32_t)run + len : end;
		/* Contents first: once free, the pages may be somebody else's. */
		for (uint32_t p = at; p < stop;) {
			uint32_t e = p / BB_EXTENT_PAGES;
			uint32_t hi = (e + 1) * BB_EXTENT_PAGES < stop ? (e + 1) * BB_EXTENT_PAGES : stop;
			bool stuck = bb_xsettled(e) == BB_X_MANAGED && bb_pages_drop(p, hi - p, true) < 0;

			if (g->xp[e] & BB_XP_FOREIGN) {
				void *a = (void *)bb_addr_of(p);

				(void)bb_sys_mmap(a, (size_t)(hi - p) << BB_PAGE_SHIFT, PROT_READ | PROT_WRITE,
						  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
				if (bb_xstate(e) == BB_X_MANAGED)
					(void)bb_extents_register(e, 1);
			} else if (g->xp[e] & BB_XP_PROT) {
				(void)bb_sys_mprotect((void *)bb_addr_of(p), (size_t)(hi - p) << BB_PAGE_SHIFT,
						      PROT_READ | PROT_WRITE);
			}
			if (!stuck) {
				bb_runs_free(&g->runs, p, hi - p);
				mark_used(p, hi - p, -1);
			}
			p = hi;
		}
		atomic_fetch_sub_explicit(&g->ctl->alloc_bytes, (uint64_t)(stop - at) << BB_PAGE_SHIFT,
					  memory_order_relaxed);
		at = stop;
	}
}

static uint32_t block_of(const void *p, const char *who)
{
	uint32_t first = bb_page_of((uintptr_t)p);
	uint32_t n = (uintptr_t)p & BB_PAGE_MASK ? 0 : bb_runs_len(&bb_rg.runs, first);

	if (!n) {
		bb_error("%s(%p): no allocation starts there", who, p);
		abort();
	}
	return n;
}

void bb_region_free(void *p)
{
	struct bb_region *g = &bb_rg;
	uint32_t n;

	if (bb_lock_inside()) {
		(void)bb_release_later(bb_page_of((uintptr_t)p), block_of(p, "free"));
		return;
	}
	bb_lock(&g->lock);
	n = block_of(p, "free");
	if (g->attached != BB_CHILD)
		bb_region_release(bb_page_of((uintptr_t)p), n);
	bb_unlock(&g->lock);
}

size_t bb_region_usable(const void *p)
{
	bool inside = bb_lock_inside(); /* the length of a block in use does not change */
	size_t n = 0;

	if (!inside)
		bb_lock(&bb_rg.lock);
	if (!((uintptr_t)p & BB_PAGE_MASK))
		n = bb_runs_len(&bb_rg.runs, bb_page_of((uintptr_t)p));
	if (!inside)
		bb_unlock(&bb_rg.lock);
	return n << BB_PAGE_SHIFT;
}

bool bb_region_grow(uint32_t first, uint32_t old, uint32_t n)
{
	struct bb_region *g = &bb_rg;

	if (bb_runs_resize(&g->runs, first, n) < 0)
		return false;
	if (!make_accessible((first + n - 1) / BB_EXTENT_PAGES + 1)) {
		bb_runs_resize(&g->runs, first, old);
		return false;
	}
	mark_used(first + old, n - old, 1);
	atomic_fetch_add_explicit(&g->ctl->alloc_bytes, (uint64_t)(n - old) << BB_PAGE_SHIFT, memory_order_relaxed);
	return true;
}

static bool all_local(uint32_t first, uint32_t n)
{
	for (uint32_t e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++)
		if (bb_xstate(e) != BB_X_LOCAL || (bb_rg.xp[e] & (BB_XP_PROT | BB_XP_FOREIGN)))
			return false;
	return true;
}

static bool is_warm(uint32_t first, uint32_t n)
{
	for (uint32_t e = first / BB_EXTENT_PAGES; e <= (first + n - 1) / BB_EXTENT_PAGES; e++)
		if (bb_rg.xp[e] & BB_XP_DIRTY)
			return true;
	return false;
}

/* The lock keeps the helper from sealing either end meanwhile. */
bool bb_region_move(uintptr_t to, uintptr_t from, uint32_t n)
{
	bool ok = false;

	if (n < REMAP_MIN)
		return false;
	bb_lock(&bb_rg.lock);
	/* Emptying warm memory and faulting it in again costs more than a copy. */
	if (n < REMAP_ALWAYS && is_warm(bb_page_of(to), n)) {
		bb_unlock(&bb_rg.lock);
		return false;
	}
	if (all_local(bb_page_of(to), n) && all_local(bb_page_of(from), n)) {
		size_t len = (size_t)n << BB_PAGE_SHIFT;

		ok = bb_sys_mremap((void *)from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
				   (void *)to) != MAP_FAILED;
	}
	bb_unlock(&bb_rg.lock);
	return ok;
}

void *bb_region_realloc(void *p, size_t newsize)
{
	struct bb_region *g = &bb_rg;
	uint32_t first = bb_page_of((uintptr_t)p), old;
	uint64_t n = (newsize + BB_PAGE_SIZE - 1) >> BB_PAGE_SHIFT;
	void *q;

	if (newsize > PTRDIFF_MAX || bb_lock_inside())
		return NULL;
	bb_lock(&g->lock);
	old = block_of(p, "realloc");
	if (g->attached == BB_CHILD) {
		bb_unlock(&g->lock);
		return n <= old ? p : NULL;
	}
	if (n < old)
		bb_region_release(first + (uint32_t)n, old - (uint32_t)n);
	if (n <= old || (n <= g->npages && bb_region_grow(first, old, (uint32_t)n))) {
		bb_unlock(&g->lock);
		return p;
	}
	bb_unlock(&g->lock);

	/* A block that grows once tends to grow again. */
	q = bb_region_alloc(n << BB_PAGE_SHIFT, 0, 0);
	if (!q)
		return NULL;
	if (!bb_region_move((uintptr_t)q, (uintptr_t)p, old))
		memcpy(q, p, (size_t)old << BB_PAGE_SHIFT);
	bb_region_free(p);
	return q;
}
