/* SPDX-License-Identifier: MIT */
/*
 * The state that a program (libbb.so) and its host's daemon (bbd) share: one
 * sealed memfd a global region, made by the program, mapped by both.
 *
 * Trust: the program may write anything here at any time. bbd reads each word
 * once, checks it, and keeps its own record of all that concerns others (which
 * home extents it holds, budgets granted). A program can only hurt itself.
 *
 * Theory of operation
 * -------------------
 * The region is cut into extents (2 MiB) and pages (4 KiB). An extent is
 *	NONE	 not allocated
 *	LOCAL	 ordinary anonymous memory: kernel faults, no cost
 *	FRESH	 registered with userfaultfd, no page of it was ever touched
 *	SEALING	 on its way from LOCAL to MANAGED (the program seals it) or from
 *		 FRESH to LOCAL (bbd opens it); who set it finishes it
 *	MANAGED	 registered; the pages' words say where each page is
 * Only in a MANAGED extent do page words mean anything.
 *
 * A page's word holds its state, and the state names the one party that may
 * change the page. The three busy states are locks:
 *	EMPTY	 no content anywhere; reads as zeros
 *	RESIDENT mapped in the program
 *	STAGED	 content in a slot of the staging ring; unmapped
 *	REMOTE	 content at its home; unmapped
 *	FILLING	 bbd brings the content in	(owner: bbd)
 *	EVICTING the helper thread takes it out	(owner: the program's helper)
 *	DROPPING the program discards it	(owner: the program's thread)
 *	LOST	 its only copy is gone; access raises SIGBUS. With BB_PW_WAIT: it
 *		 will, once the helper has seen to it (no UFFDIO_POISON)
 * FILLING keeps in its word which state it came from, so that the program can
 * undo it where bbd was killed in the middle (preload/recover.c).
 * Every change is a compare-and-swap. Who finds a busy state sets BB_PW_WAIT
 * and goes away: the owner that leaves the busy state sees the bit in what it
 * swapped out and wakes the page (UFFDIO_WAKE), so that the access faults
 * again. No record of the waiter is kept anywhere, hence none can be lost with
 * a process.
 *
 * Staging ring: the helper takes a victim out of the program's view, copies it
 * to the next slot (FIFO), and publishes STAGED. bbd writes dirty slots back.
 * A fault meanwhile is served from the slot: the second chance. bbd frees
 * slots from the tail: STAGED becomes REMOTE once the home has acknowledged.
 *
 * Lock order: none; there are no locks here, only words.
 */
#ifndef BLUEBRIDGE_REGION_H
#define BLUEBRIDGE_REGION_H

#include <bluebridge/gptr.h>

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BB_REGION_MAGIC 0x62627267u /* "bbrg" */
#define BB_REGION_VERSION 4

/* --- extents ------------------------------------------------------------ */

enum bb_extent_state {
	BB_X_NONE = 0,
	BB_X_LOCAL,
	BB_X_FRESH,
	BB_X_SEALING,
	BB_X_MANAGED,
};

/* No home would take this extent: its pages stay here (set by bbd). */
#define BB_XF_HOMELESS 0x01
/* SEALING, if so: bbd is opening it. */
#define BB_XF_OPENING 0x02
/* What the program has said of it (madvise); for all of the extent. */
#define BB_XF_RANDOM 0x04     /* bbd fetches nothing ahead here */
#define BB_XF_SEQUENTIAL 0x08 /* bbd fetches much ahead from the first fault on */
/* The helper takes pages marked COLD first: when room is wanted; now. Not MANAGED yet: all of its pages will be. */
#define BB_XF_COLD 0x10
#define BB_XF_OUT 0x20
#define BB_XF_HINTS 0x3c

struct bb_extent {
	_Atomic uint8_t state;
	_Atomic uint8_t flags;
	_Atomic uint16_t resident;	/* pages RESIDENT in it: a hint for the clock */
	_Atomic uint32_t used;		/* pages allocated in it */
};

/* --- page words --------------------------------------------------------- */

enum bb_page_state {
	BB_P_EMPTY = 0,
	BB_P_RESIDENT,
	BB_P_STAGED,
	BB_P_REMOTE,
	BB_P_FILLING,
	BB_P_EVICTING,
	BB_P_DROPPING,
	BB_P_LOST,
};

/*
 * 63      36 35  34 33      16 15  11 10     4 3   0
 * | rx:28   | heat | slot:18  | gen  | flags  |state|
 *
 * rx    which of the region's remote extents holds the home copy (0: none)
 * heat  here: how often it has come back soon after it was taken out (0 to 2); away:
 *	 the same and one more, or 0: it has been away for long
 * slot  staging slot, while STAGED; while RESIDENT its lowest bit is BB_PW_COLD
 * gen   when it came, or was taken out: in quarters of a turnover of the budget,
 *	 modulo 32
 */
typedef uint64_t bb_pw; /* one word by value; the arrays hold _Atomic bb_pw */

#define BB_PW_STATE 0x0fULL
#define BB_PW_WAIT 0x10ULL	/* somebody wants a wake when the busy state ends */
#define BB_PW_HASHED 0x20ULL	/* hash[] is that of the home copy */
#define BB_PW_WB 0x40ULL	/* a write-back of this page is under way */
#define BB_PW_DIRTY 0x80ULL	/* STAGED: the slot differs from the home copy */
#define BB_PW_PREFETCH 0x100ULL	/* filled ahead, not yet known to be used */
#define BB_PW_FROM_SHIFT 9	/* FILLING: the state it came from, one of the first four */
#define BB_PW_FROM 0x600ULL
#define BB_PW_FLAGS 0x7f0ULL
#define BB_PW_GEN_SHIFT 11
#define BB_PW_GEN 0xf800ULL
#define BB_PW_SLOT_SHIFT 16
#define BB_PW_SLOT_BITS 18
#define BB_PW_SLOT (((1ULL << BB_PW_SLOT_BITS) - 1) << BB_PW_SLOT_SHIFT)
#define BB_PW_COLD (1ULL << BB_PW_SLOT_SHIFT) /* RESIDENT: it goes before all others */
#define BB_PW_HEAT_SHIFT 34
#define BB_PW_HEAT (3ULL << BB_PW_HEAT_SHIFT)
#define BB_PW_RX_SHIFT 36
#define BB_PW_RX (~0ULL << BB_PW_RX_SHIFT)

static inline enum bb_page_state bb_pw_state(bb_pw w)
{
	return (enum bb_page_state)(w & BB_PW_STATE);
}

static inline bb_pw bb_pw_with(bb_pw w, enum bb_page_state s)
{
	return (w & ~BB_PW_STATE) | (bb_pw)s;
}

/* What a page's word becomes where bbd takes it to fill it. */
static inline bb_pw bb_pw_filling(bb_pw w)
{
	return (w & ~(BB_PW_STATE | BB_PW_WAIT | BB_PW_FROM)) | (w & 3) << BB_PW_FROM_SHIFT | BB_P_FILLING;
}

static inline enum bb_page_state bb_pw_from(bb_pw w)
{
	return (enum bb_page_state)((w & BB_PW_FROM) >> BB_PW_FROM_SHIFT);
}

static inline uint32_t bb_pw_slot(bb_pw w)
{
	return (uint32_t)((w & BB_PW_SLOT) >> BB_PW_SLOT_SHIFT);
}

static inline bb_pw bb_pw_with_slot(bb_pw w, uint32_t slot)
{
	return (w & ~BB_PW_SLOT) | ((bb_pw)slot << BB_PW_SLOT_SHIFT);
}

static inline unsigned int bb_pw_gen(bb_pw w)
{
	return (unsigned int)((w & BB_PW_GEN) >> BB_PW_GEN_SHIFT);
}

static inline bb_pw bb_pw_with_gen(bb_pw w, unsigned int gen)
{
	return (w & ~BB_PW_GEN) | ((bb_pw)(gen & 31) << BB_PW_GEN_SHIFT);
}

static inline unsigned int bb_pw_age(bb_pw w, unsigned int now)
{
	return (now - bb_pw_gen(w)) & 31;
}

static inline unsigned int bb_pw_heat(bb_pw w)
{
	return (unsigned int)((w & BB_PW_HEAT) >> BB_PW_HEAT_SHIFT);
}

static inline bb_pw bb_pw_with_heat(bb_pw w, unsigned int heat)
{
	return (w & ~BB_PW_HEAT) | ((bb_pw)heat << BB_PW_HEAT_SHIFT);
}

#define BB_HEAT_MAX 2u
#define BB_NEAR 4u /* to come back within a turnover is soon */

/* The heat of a page that was away and is touched; used is false where it is only fetched ahead. */
static inline unsigned int bb_heat_back(bb_pw w, unsigned int now, bool used)
{
	const unsigned int away = bb_pw_heat(w);

	if (!away || !used)
		return away ? away - 1 : 0;
	if (bb_pw_age(w, now) > BB_NEAR)
		return away > 2 ? away - 2 : 0;
	return away < BB_HEAT_MAX ? away : BB_HEAT_MAX;
}

static inline uint32_t bb_pw_rx(bb_pw w)
{
	return (uint32_t)(w >> BB_PW_RX_SHIFT);
}

static inline bb_pw bb_pw_with_rx(bb_pw w, uint32_t rx)
{
	return (w & ~BB_PW_RX) | ((bb_pw)rx << BB_PW_RX_SHIFT);
}

/*
 * XXH3 of a page's 4096 bytes: 96 of its 128 bits. Each managed page has one, and
 * all that we keep of a page is to be less than 24 bytes. No two versions of a page
 * that differ are taken for one more often than once in 2^96 times.
 */
struct bb_hash {
	uint32_t w[3];
};

static inline struct bb_hash bb_hash_of(uint64_t lo, uint64_t hi)
{
	return (struct bb_hash){ { (uint32_t)lo, (uint32_t)(lo >> 32), (uint32_t)hi } };
}

static inline bool bb_hash_same(struct bb_hash a, struct bb_hash b)
{
	return !((a.w[0] ^ b.w[0]) | (a.w[1] ^ b.w[1]) | (a.w[2] ^ b.w[2]));
}

/* --- staging ring ------------------------------------------------------- */

struct bb_slot {
	_Atomic uint64_t page;	/* page number in the region */
	struct bb_hash hash;	/* of the slot's content */
	uint32_t unused[3];
};

/* What the helper sleeps for. Who has nothing of that for it lets it sleep. */
enum bb_helper {
	BB_HELPER_AWAKE = 0,
	BB_HELPER_IDLE,	/* whatever comes */
	BB_HELPER_SLOT,	/* a free slot: without one it can do nothing */
};

/* --- control page ------------------------------------------------------- */

#define BB_ASKS 16u

/*
 * Counts are pages. resident + reserved never exceeds limit by design: who
 * brings a page in takes credit first (bb_credit_take), who takes one out
 * gives it back after the memory is gone.
 */
struct bb_region_ctl {
	/* Fixed by the program before it attaches. */
	uint32_t magic;
	uint32_t version;
	uint64_t base;		/* address of the region in the program */
	uint64_t npages;	/* multiple of BB_EXTENT_PAGES */
	uint32_t nslots;	/* power of two, at most 1 << BB_PW_SLOT_BITS */
	uint32_t pad0;

	/* Budget. limit already excludes the staging slots. */
	_Alignas(64) _Atomic int64_t limit;	/* bbd sets it (grant) */
	_Atomic int64_t resident;		/* all that is charged */
	_Atomic int64_t low;	/* helper works while limit - resident < low */
	_Atomic uint32_t gen;	/* epoch stamp for fills */
	_Atomic uint32_t fills_in_gen;

	/* Staging: slots [tail, head) are in use; both only rise. */
	_Alignas(64) _Atomic uint64_t stage_head;	/* program */
	_Alignas(64) _Atomic uint64_t stage_tail;	/* bbd */

	/* Doorbells. */
	_Alignas(64) _Atomic uint32_t helper_bell;	/* futex: bbd rings, helper sleeps */
	_Atomic uint32_t helper_sleeps;	/* enum bb_helper */
	_Atomic uint32_t bbd_wants;	/* bbd wants a kick (eventfd) when credit or a slot appears */
	_Atomic uint32_t closing;
	_Atomic uint32_t stuck;		/* helper: a full round found nothing to take out */
	_Atomic uint32_t cold, out;	/* some extents are COLD, OUT: the helper looks for them */

	/*
	 * Wake-ups that bbd leaves to the helper. Taking pages out it is often on
	 * the CPU of the thread whose page has come, and can wake that thread
	 * without the interrupt that bbd needs. bbd installs the page, leaves those
	 * who wait for it asleep, puts it here (page << 32 | number of pages), and
	 * looks at helper_wakes once more. The helper looks here between two pages,
	 * and after it has cleared helper_wakes. Who takes it out wakes them; what
	 * the helper leaves lying, bbd takes back.
	 */
	_Atomic uint32_t helper_wakes;
	_Atomic uint64_t to_wake;	/* 0: none */

	/*
	 * WILLNEED: ranges that bbd is asked to fetch, page << 32 | number of
	 * pages, 0: free. The program puts them there, then sets asked.
	 */
	_Alignas(64) _Atomic uint32_t asked;
	_Atomic uint64_t ask[BB_ASKS];

	/* Counters, for people. */
	_Alignas(64) _Atomic uint64_t n_evict;		/* victims staged */
	_Atomic uint64_t n_evict_clean;
	_Atomic uint64_t n_evict_zero;
	_Atomic uint64_t n_evict_busy;	/* pinned or shared: left alone */
	_Atomic uint64_t n_seal;	/* LOCAL to MANAGED */
	_Atomic uint64_t n_drop;	/* pages discarded by the program */
	_Atomic uint64_t alloc_bytes;	/* live allocations in the region */
	_Alignas(64) _Atomic uint64_t n_fault;
	_Atomic uint64_t n_fill_zero;
	_Atomic uint64_t n_fill_staged;
	_Atomic uint64_t n_fill_remote;
	_Atomic uint64_t n_prefetch;
	_Atomic uint64_t n_unused;	/* of them, those of a stream that did not go on */
	_Atomic uint64_t n_open;	/* FRESH to LOCAL */
	_Atomic uint64_t n_writeback;
	_Atomic uint64_t n_lost;
};

/* Where each array starts in the memfd; a function of npages and nslots. */
struct bb_region_layout {
	uint64_t extents, words, hashes, slots, data, size;
};

#define BB_REGION_NPAGES_MAX (1ULL << 34) /* 64 TiB */

/*
 * The page words' rx field cannot be trusted by bbd, but the natural place of
 * page n of the region in a home extent is fixed: page (n % BB_EXTENT_PAGES).
 */
static inline struct bb_region_layout bb_region_layout(uint64_t npages, uint32_t nslots)
{
	const uint64_t m = BB_PAGE_SIZE - 1;
	struct bb_region_layout l;

	l.extents = (sizeof(struct bb_region_ctl) + m) & ~m;
	l.words = l.extents + ((npages / BB_EXTENT_PAGES * sizeof(struct bb_extent) + m) & ~m);
	l.hashes = l.words + ((npages * sizeof(bb_pw) + m) & ~m);
	l.slots = l.hashes + ((npages * sizeof(struct bb_hash) + m) & ~m);
	l.data = l.slots + ((nslots * sizeof(struct bb_slot) + m) & ~m);
	l.size = l.data + (uint64_t)nslots * BB_PAGE_SIZE;
	return l;
}

/*
 * Take n pages of credit. Return: 1, or 0 where the budget has no room now;
 * below the low mark it is the caller's duty to ring the helper.
 */
static inline int bb_credit_take(struct bb_region_ctl *c, int64_t n)
{
	int64_t r = atomic_load_explicit(&c->resident, memory_order_relaxed);

	do {
		/* bbd cannot trust r: no sum of it may overflow. */
		if (r > (int64_t)((uint64_t)atomic_load_explicit(&c->limit, memory_order_relaxed) - (uint64_t)n))
			return 0;
	} while (!atomic_compare_exchange_weak(&c->resident, &r, (int64_t)((uint64_t)r + (uint64_t)n)));
	return 1;
}

static inline void bb_credit_give(struct bb_region_ctl *c, int64_t n)
{
	atomic_fetch_sub(&c->resident, n);
}

/*
 * The low mark of a budget of so many pages. What is kept free holds no page, so it
 * is only what the helper needs to be ahead of faults: a wake-up and a batch. Where
 * a program reaches new extents bbd raises it to one of those.
 */
#define BB_LOW_MIN 32
#define BB_LOW_MAX BB_EXTENT_PAGES
static inline int64_t bb_low_mark(int64_t limit)
{
	const int64_t low = limit / 128;

	return low < BB_LOW_MIN ? BB_LOW_MIN : low > BB_LOW_MAX ? BB_LOW_MAX : low;
}

#endif
