/* SPDX-License-Identifier: MIT */
/*
 * One batch: up to BB_BATCH pages that the helper has claimed (EVICTING) go out
 * of the program.
 *
 * Theory of operation
 * -------------------
 * Move them to the staging range (UFFDIO_MOVE: atomic, no copy; a store either
 * comes before and is in the page, or after and faults), hash, compare with the
 * hash of the home copy, copy to staging slots, publish STAGED, and give the
 * memory back. Slots are reserved before anything is claimed, so a claimed page
 * never waits.
 *
 * Where the kernel has no UFFDIO_MOVE the pages are copied, and discarded if
 * nobody else has them: see discard.c.
 *
 * Pages that cannot be moved (pinned for I/O, or of another protection) stay
 * RESIDENT. Pages shared with a forked child are un-shared by one store of the
 * byte that is there, then move like any other.
 *
 * Between two pages we look for threads that bbd has left to us to wake
 * (ctl->to_wake): they have this CPU before we go on.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bluebridge/kernel.h>

#include "age.h"
#include "private.h"
#include "usdt.h"

#define CLEAR 8 /* staging places at a time: 4 us */
#define FORGET (BB_PW_HASHED | BB_PW_RX | BB_PW_PREFETCH | BB_PW_HEAT | BB_PW_SLOT)

static void release_busy(uint32_t page, bb_pw set, bb_pw clear)
{
	_Atomic bb_pw *pw = &bb_rg.pw[page];
	bb_pw w = atomic_load(pw);

	while (!atomic_compare_exchange_weak(pw, &w, ((w & ~(clear | BB_PW_STATE | BB_PW_WAIT)) | set)))
		;
	if (w & BB_PW_WAIT)
		bb_pages_wake(page, 1);
}

/* Empties staging places; mlockall may have filled and locked them. */
static void staging_clear(unsigned int i, unsigned int n)
{
	void *at = (void *)(bb_rg.staging + ((uintptr_t)i << BB_PAGE_SHIFT));

	if (bb_sys_madvise(at, (size_t)n << BB_PAGE_SHIFT, MADV_DONTNEED) < 0)
		(void)bb_sys_madvise(at, (size_t)n << BB_PAGE_SHIFT, MADV_DONTNEED_LOCKED);
}

/* Discarded behind our back, or the zero page: nothing to keep. */
static void is_empty(uint32_t page)
{
	atomic_fetch_sub(&bb_rg.x[page / BB_EXTENT_PAGES].resident, 1);
	release_busy(page, BB_P_EMPTY, FORGET);
	bb_credit_give(bb_rg.ctl, 1);
}

/* Pinned, locked or protected: it stays, and is young again. */
static void stays(uint32_t page)
{
	unsigned int gen = atomic_load_explicit(&bb_rg.ctl->gen, memory_order_relaxed);

	release_busy(page, bb_pw_with_gen(BB_P_RESIDENT, gen), BB_PW_GEN | BB_PW_COLD);
	atomic_fetch_add_explicit(&bb_rg.ctl->n_evict_busy, 1, memory_order_relaxed);
}

/* Between two pages: wakes whom bbd has left to us, and lets them have this CPU. */
static void look(void)
{
	struct bb_region_ctl *c = bb_rg.ctl;
	uint64_t w;

	if (!atomic_load(&c->to_wake))
		return;
	w = atomic_exchange(&c->to_wake, 0);
	if (!w)
		return;
	bb_pages_wake((uint32_t)(w >> 32), (uint32_t)w);
	sched_yield();
}

/* From here on we look. Not where pages are discarded: a batch of that takes long. */
void bb_batch_look(void)
{
	if (bb_rg.features & UFFD_FEATURE_MOVE)
		atomic_store(&bb_rg.ctl->helper_wakes, 1);
}

void bb_batch_looked(void)
{
	atomic_store(&bb_rg.ctl->helper_wakes, 0);
	look();
}

/* Without UFFDIO_MOVE. */
static void discard_all(struct bb_batch *b)
{
	enum bb_discarded out[BB_BATCH];
	uintptr_t at[BB_BATCH];

	for (unsigned int i = 0; i < b->n; i++)
		at[i] = bb_addr_of(b->v[i].page);
	bb_discard(at, b->n, (uint8_t *)bb_rg.staging, out);
	for (unsigned int i = 0; i < b->n; i++) {
		b->v[i].moved = out[i] == BB_DISCARD_GONE;
		if (out[i] == BB_DISCARD_EMPTY)
			is_empty(b->v[i].page);
		else if (out[i] == BB_DISCARD_STAYS)
			stays(b->v[i].page);
	}
}

/*
 * UFFDIO_MOVE has failed: is the page in its staging place all the same? Linux
 * 6.18 says EEXIST of a page that it has moved, where it had to wait for a
 * swapped page on the way.
 */
static bool has_moved(const struct bb_batch *b, unsigned int i, int err)
{
	int src = bb_page_has_content(bb_addr_of(b->v[i].page));
	int dst = bb_page_has_content(bb_rg.staging + ((uintptr_t)i << BB_PAGE_SHIFT));

	/* Without /proc: staging places are empty before a batch. */
	return src < 0 || dst < 0 ? err == EEXIST : dst && !src;
}

/* Moves v[i..i+n) (contiguous pages) to the staging range. */
static void move_run(struct bb_batch *b, unsigned int i, unsigned int n)
{
	bool touched = false;
	unsigned int whole = n; /* how many are tried at a time */

	while (n) {
		unsigned int now = n < whole ? n : whole;
		struct uffdio_move m = {
			.dst = bb_rg.staging + ((uintptr_t)i << BB_PAGE_SHIFT),
			.src = bb_addr_of(b->v[i].page),
			.len = (uint64_t)now << BB_PAGE_SHIFT,
			.mode = UFFDIO_MOVE_MODE_DONTWAKE,
		};
		int r = ioctl(bb_rg.uffd, UFFDIO_MOVE, &m);
		int err = r < 0 ? errno : 0;
		unsigned int done = r == 0 ? now : m.move > 0 ? (unsigned int)(m.move >> BB_PAGE_SHIFT) : 0;

		for (unsigned int k = 0; k < done; k++)
			b->v[i + k].moved = true;
		if (done)
			touched = false;
		i += done;
		n -= done;
		if (!n)
			return;
		if (!err || done)
			continue; /* the next round tells what stopped it */
		if (err == EAGAIN)
			continue;
		if (has_moved(b, i, err)) {
			b->v[i++].moved = true;
			n--;
			touched = false;
			continue;
		}
		if (err == EEXIST && !touched) {
			staging_clear(i, now);
			touched = true;
			continue;
		}
		if (now > 1 && err != EBUSY) {
			/* A run across two of the program's mappings is refused whole. */
			whole = 1;
			continue;
		}
		if (err == EBUSY && !touched) {
			/* What a store of the program would do; but if it is gone this fails, and does not fault. */
			(void)bb_touch(bb_addr_of(b->v[i].page));
			touched = true;
			continue;
		}
		touched = false;
		if (err == ENOENT)
			is_empty(b->v[i].page);
		else
			stays(b->v[i].page);
		i++;
		n--;
	}
}

static bool is_zero(const void *page)
{
	const uint64_t *p = page;

	/* Most pages tell by their first words. */
	if (p[0] | p[1] | p[255] | p[511])
		return false;
	return !memcmp(p, p + 1, BB_PAGE_SIZE - sizeof(*p));
}

/* Publishes one moved page. Return: true where a slot was used. */
static bool stage(const struct bb_victim *v, unsigned int i, uint64_t head)
{
	struct bb_region *g = &bb_rg;
	const void *from = (const void *)(g->staging + ((uintptr_t)i << BB_PAGE_SHIFT));
	uint32_t slot = (uint32_t)(head & (g->nslots - 1));
	struct bb_slot *s = &g->slots[slot];
	struct bb_hash hash;
	XXH128_hash_t h;
	bb_pw set;

	atomic_fetch_sub(&g->x[v->page / BB_EXTENT_PAGES].resident, 1);
	if (is_zero(from)) {
		/* Zeros need no home: the next touch makes them again. */
		release_busy(v->page, BB_P_EMPTY, FORGET);
		atomic_fetch_add_explicit(&g->ctl->n_evict_zero, 1, memory_order_relaxed);
		return false;
	}
	/* Hashed is what is kept: after MADV_FREE the kernel may clear the page at any time. */
	memcpy(g->stage + ((size_t)slot << BB_PAGE_SHIFT), from, BB_PAGE_SIZE);
	h = XXH3_128bits(g->stage + ((size_t)slot << BB_PAGE_SHIFT), BB_PAGE_SIZE);
	s->hash = hash = bb_hash_of(h.low64, h.high64);
	atomic_store_explicit(&s->page, v->page, memory_order_release);

	/* The hash of the home copy is stable while HASHED is set and WB is not. */
	set = bb_age_out(v->word, bb_pw_with_slot(BB_P_STAGED, slot), atomic_load_explicit(&g->ctl->gen, memory_order_relaxed));
	if ((v->word & BB_PW_HASHED) && !(v->word & BB_PW_WB) && bb_hash_same(g->hash[v->page], hash))
		atomic_fetch_add_explicit(&g->ctl->n_evict_clean, 1, memory_order_relaxed);
	else
		set |= BB_PW_DIRTY;
	/* The slot must be within [tail, head) before anybody can see its number. */
	atomic_store_explicit(&g->ctl->stage_head, head + 1, memory_order_release);
	release_busy(v->page, set, BB_PW_SLOT | BB_PW_DIRTY | BB_PW_PREFETCH | BB_PW_GEN | BB_PW_HEAT);
	return true;
}

void bb_batch_kick(void)
{
	uint64_t one = 1;

	if (atomic_exchange(&bb_rg.ctl->bbd_wants, 0))
		if (write(bb_rg.kick, &one, sizeof(one)) < 0)
			return; /* a full counter wakes as well */
}

unsigned int bb_batch_run(struct bb_batch *b)
{
	struct bb_region *g = &bb_rg;
	const bool move = g->features & UFFD_FEATURE_MOVE;
	unsigned int i, n, gone = 0;
	uint64_t head = atomic_load(&g->ctl->stage_head);

	BB_PROBE(batch_begin, b->n);
	if (move)
		staging_clear(0, b->n);
	else
		discard_all(b);
	for (i = 0; move && i < b->n; i += n) {
		n = 1;
		while (i + n < b->n && b->v[i + n].page == b->v[i].page + n)
			n++;
		move_run(b, i, n);
		look();
	}
	for (i = 0; i < b->n; i++) {
		if (!b->v[i].moved)
			continue;
		if (stage(&b->v[i], i, head))
			head++;
		gone++;
		look();
	}
	if (gone) {
		for (i = 0; move && i < b->n; i += n) {
			n = b->n - i < CLEAR ? b->n - i : CLEAR;
			staging_clear(i, n);
			look();
		}
		bb_credit_give(g->ctl, gone);
		atomic_fetch_add_explicit(&g->ctl->n_evict, gone, memory_order_relaxed);
	}
	BB_PROBE(batch_end, b->n, gone);
	b->n = 0;
	bb_batch_kick();
	return gone;
}
