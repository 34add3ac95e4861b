/* SPDX-License-Identifier: MIT */
/*
 * What the files of the region share among themselves (region.c, vm.c, page.c,
 * lock.c, evict.c, batch.c, attach.c, fork.c, init.c); the interposed functions see region.h.
 *
 * Lock order: bb_rg.lock, then bb_rg.evicting (fork takes both, so that no
 * page is between two places when the child is made). bb_rg.lock guards the run allocator, the
 * extents' states (as far as the program changes them) and the private flags.
 * The helper takes it to seal extents, never while pages are EVICTING; so a
 * thread that holds it may wait for a page to leave a busy state.
 * No page of the region is touched while it is held: the touch could fault.
 */
#ifndef BB_PRELOAD_PRIVATE_H
#define BB_PRELOAD_PRIVATE_H

#include <bluebridge/region.h>

#include <stdbool.h>

#include "options.h"
#include "region.h"
#include "runs.h"

/* --- a lock that fork and signals-blocked threads can live with ---------- */

struct bb_lock {
	_Atomic uint32_t v; /* 0 free, 1 held, 2 held and wanted */
};

/* lock.c. Of bb_rg.lock a thread knows whether it is inside; see there. */
void bb_lock(struct bb_lock *l);
void bb_unlock(struct bb_lock *l);
/* bb_rg.lock, for the helper: who holds it may be waiting for what only the helper does. Return: has it. */
bool bb_region_lock_for(uint64_t ns);
/* Has a signal handler interrupted this thread while it holds bb_rg.lock? Then nothing may take it. */
bool bb_lock_inside(void);
/* What bb_region_release() would do is done when the interrupted call leaves the lock. False: it stays. */
bool bb_release_later(uint32_t first, uint32_t n);

/*
 * Was this process made past fork() by an attached one? Then it is disowned,
 * with one warning. bb_lock() asks for bb_rg.lock.
 */
void bb_orphan_check(void);
/* This process is attached. Return: 0 or -ENOMEM. */
int bb_orphan_mark(void);

/* futex(2) on words shared with bbd. timeout_ns is relative. */
void bb_futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t timeout_ns);
void bb_futex_wake(_Atomic uint32_t *word, int n);

/* --- the region ---------------------------------------------------------- */

enum bb_attach_state {
	BB_DETACHED,	/* nobody was asked yet; all is local */
	BB_ATTACHED,
	BB_REFUSED,	/* no daemon, or not possible here: local for good */
	BB_ALONE,	/* bbd has ended: the helper serves what is still here */
	BB_CHILD,	/* a fork child of an attached program: see fork.c */
};

/* Private flags of an extent. */
#define BB_XP_REGISTERED 0x01	/* NONE: still registered with userfaultfd */
#define BB_XP_DIRTY 0x02	/* free pages in it may hold old bytes */
#define BB_XP_PROT 0x04		/* some of it has a protection of the user's */
#define BB_XP_FOREIGN 0x08	/* something else is mapped over part of it */

struct bb_region {
	struct bb_lock lock;
	struct bb_lock evicting;	/* the helper has pages EVICTING */
	enum bb_attach_state attached;
	uintptr_t base;
	uint32_t npages, nextents;
	_Atomic uint32_t rw_top;	/* extents below it are readable and writable; it only grows */
	struct bb_runs runs;
	uint8_t *xp;			/* private flags, an extent each */

	/* Until attached: private memory. Then: the shared memfd. */
	struct bb_region_ctl *ctl;
	struct bb_extent *x;
	_Atomic bb_pw *pw;
	struct bb_hash *hash;
	struct bb_slot *slots;
	uint8_t *stage;
	struct bb_region_layout lay;
	uint32_t nslots;

	uint64_t budget;		/* bytes; 0: whatever bbd grants */
	int64_t local_limit;		/* pages that may be LOCAL before we attach */
	uint64_t cached;		/* free pages kept populated in LOCAL extents */

	uintptr_t staging;		/* where victims are moved to */
	int uffd, memfd, sock, kick;
	int pagemap;			/* /proc/self/pagemap; -1: there is none */
	int uffd_dev;			/* /dev/userfaultfd, for fork children; -1: not allowed */
	uint64_t features;		/* of the userfaultfd */
	bool as_old;			/* for tests: as on Linux 6.1, without MOVE and POISON */
	bool user_only;			/* it sees no faults of the kernel's */
	uint32_t id;			/* bbd's number for this region */
	uint64_t secret[2];		/* what proves that it is ours */
	uint32_t keep_ms;		/* so long bbd's memory outlives bbd */
	bool helper_runs;
};

extern struct bb_region bb_rg;
extern struct bb_options bb_opts;

static inline uint32_t bb_page_of(uintptr_t addr)
{
	return (uint32_t)((addr - bb_rg.base) >> BB_PAGE_SHIFT);
}

static inline uintptr_t bb_addr_of(uint64_t page)
{
	return bb_rg.base + (page << BB_PAGE_SHIFT);
}

/* The state once nobody is changing it. Lock held, so only bbd can be. */
enum bb_extent_state bb_xsettled(uint32_t e);

static inline enum bb_extent_state bb_xstate(uint32_t e)
{
	return (enum bb_extent_state)atomic_load_explicit(&bb_rg.x[e].state, memory_order_acquire);
}

/* --- region.c, lock.c ----------------------------------------------------- */

/* The region is another process's: nothing of its books may be touched (BB_CHILD). */
void bb_region_disown(void);
/* What is paged and is here without a pager becomes inaccessible: better than zeros. */
void bb_region_forbid(void);

int bb_region_reserve(void);		/* lock held; idempotent */
/* Frees pages [first, first + n) of used runs, contents and all. Lock held. */
void bb_region_release(uint32_t first, uint32_t n);

/* In place, if the pages that follow are free. Lock held. */
bool bb_region_grow(uint32_t first, uint32_t old, uint32_t n);
/*
 * Moves the pages themselves where both ends are plain memory: what the C
 * library's realloc does by mremap. The old place stays mapped and is empty.
 * Return: false where the caller has to copy. Lock not held.
 */
bool bb_region_move(uintptr_t to, uintptr_t from, uint32_t n);

#define BB_DIRTY_RANGES 8
struct bb_dirty {
	unsigned int n;
	struct {
		uint32_t first, end;
	} range[BB_DIRTY_RANGES];
};

/* Which pages of a run that is being allocated need clearing. Lock held. */
void bb_dirty_find(struct bb_dirty *d, uint32_t first, uint32_t n);
/* Clears them. Lock not held: this touches pages. */
void bb_dirty_clear(const struct bb_dirty *d);

/* --- page.c -------------------------------------------------------------- */

/*
 * Discards the content of pages in MANAGED extents; they read as zeros then.
 * Waits for pages in a busy state. Return: 0, or -ETIMEDOUT where a page stayed
 * busy (its content stays, and it must not be used again).
 */
int bb_pages_drop(uint32_t first, uint32_t n, bool freed);
/*
 * Takes the memory itself away, whatever it holds; locked memory (mlock) too,
 * and where the range is freed it is unlocked, as munmap does. Lock held.
 * Return: false where that cannot be: the extents are then marked DIRTY.
 */
bool bb_pages_zap(uint32_t first, uint32_t n, bool freed);
void bb_pages_wake(uint32_t first, uint32_t n);
int bb_extents_register(uint32_t first, uint32_t n);
int bb_pages_register(uint32_t first, uint32_t n);

/* --- evict.c ------------------------------------------------------------- */

int bb_evict_start(void);

/* --- hints.c -------------------------------------------------------------- */

/* Is it one of those that bb_hint() takes? */
bool bb_hint_is(int advice);
/* Lock not held. Return: 0, or -errno from the kernel for what is not paged of it. */
int bb_hint(uint32_t first, uint32_t n, int advice);
/* Is something to go at once? */
bool bb_hints_out(void);
/*
 * A page that the program wants out (now_only: not only when there is no room),
 * of the first used extents; it is EVICTING then. The helper only, with
 * bb_rg.evicting held. Return: false where there is none.
 */
bool bb_hints_claim(bool now_only, uint32_t used, uint32_t *page, bb_pw *word);

/* --- seal.c -------------------------------------------------------------- */

/* Is anything at this address, swapped out or not? Return: 1, 0, or -1: not to be told. */
int bb_page_has_content(uintptr_t at);
/* LOCAL to MANAGED. Lock held. Return: 0 or -errno. */
int bb_extent_seal(uint32_t e);
/* Before sealing, and again in a fork child. */
void bb_pagemap_open(void);
/* The kernel's page table entries of n pages (/proc/PID/pagemap). Return: false where /proc is not to be had. */
bool bb_pagemap_look(uintptr_t at, uint64_t *entry, size_t n);
#define BB_PM_PRESENT (1ULL << 63)
#define BB_PM_SWAPPED (1ULL << 62) /* as which pages count that the kernel is moving */
#define BB_PM_CONTENT (BB_PM_PRESENT | BB_PM_SWAPPED)

/* --- discard.c: without UFFDIO_MOVE ---------------------------------------- */

#define BB_DISCARD_MAX 64u

enum bb_discarded {
	BB_DISCARD_STAYS, /* pinned, locked, or stored to meanwhile */
	BB_DISCARD_GONE,  /* and its last content is in its place of the copies */
	BB_DISCARD_EMPTY, /* nothing was there */
};

/* In each process once. Return: 0, or -errno where it does not work here. */
int bb_discard_start(void);
/* Copies pages at these addresses (rising, EVICTING) to to[], and discards those that nobody else holds. */
void bb_discard(const uintptr_t *page, unsigned int n, uint8_t *to, enum bb_discarded *out);
/* Only small pages are discarded one by one. */
void bb_discard_split(uintptr_t extent);
/*
 * A store of what is there: un-shares a page, makes it dirty. Never waits for
 * a pager. Return: 0, or -EFAULT: missing, or not to be written to.
 */
int bb_touch(uintptr_t at);

/* --- batch.c ------------------------------------------------------------- */

#define BB_BATCH BB_DISCARD_MAX
struct bb_victim {
	uint32_t page;
	bb_pw word; /* as claimed, state EVICTING */
	bool moved;
};
struct bb_batch {
	struct bb_victim v[BB_BATCH];
	unsigned int n;
};

/* Takes v[0..n) out of the program; n is 0 then. bb_rg.evicting held. Return: pages given back. */
unsigned int bb_batch_run(struct bb_batch *b);
/* Wakes bbd if it waits for credit or slots. */
void bb_batch_kick(void);
/* From now on we look between two pages whom bbd has left to us to wake; and no longer. */
void bb_batch_look(void);
void bb_batch_looked(void);

/* --- lost.c: without UFFDIO_POISON ----------------------------------------- */

/* An access to the page raises SIGBUS from now on; until it is undone, and the page missing. */
void bb_lost_put(uint32_t page);
/* Does so for what bbd has marked since the last time. The helper only, and first of all bb_lost_begin. */
void bb_lost_begin(void);
void bb_lost_look(void);
void bb_lost_undo(uint32_t page);

/* --- recover.c ----------------------------------------------------------- */

/* The helper asks now and then. Return: true once bbd has ended. */
bool bb_bbd_ended(void);
/* Somebody else has read its BYE. */
void bb_bbd_said_bye(void);
/*
 * Undoes what bbd left half done, and attaches to the next bbd. The helper
 * only. Return: 0, or -errno where none came in time or bbd has said goodbye.
 */
int bb_recover(void);

/* --- last.c --------------------------------------------------------------- */

/* Is the helper all that is left of the program? Then it must return. */
bool bb_last_thread(void);

/* --- alone.c ------------------------------------------------------------- */

/* Serves faults from what is left until the program ends. */
void bb_alone_serve(void);

/* --- books.c ------------------------------------------------------------- */

struct bb_books {
	int fd; /* hidden (fds.h) */
	struct bb_region_ctl *ctl;
	struct bb_extent *x;
	_Atomic bb_pw *pw;
	struct bb_hash *hash;
	struct bb_slot *slots;
	uint8_t *stage;
};

/* New books, with the extents' states as they are. Lock held. */
int bb_books_new(struct bb_books *b);
void bb_books_free(struct bb_books *b);
/*
 * The words as they are now. Both locks held and bbd frozen, so that no page is
 * in a busy state. A write-back that is under way is the old books'; in the new
 * ones the page counts as not written.
 */
void bb_books_copy(struct bb_books *b);
/* The old ones are unmapped, not closed. A process made past fork() does not have these. */
void bb_books_use(const struct bb_books *b);
/* bbd would not have us: books of our own again, which forks do not share. Return: 0 or -ENOMEM. */
int bb_books_own(void);

/* --- attach.c ------------------------------------------------------------ */

/* Asks bbd to page for us. Lock held. Return: 0 or -errno; sets bb_rg.attached. */
int bb_attach(void);
/* To the region that bbd holds for us already. Lock held. Return: 0 or -errno, silently. */
int bb_attach_again(void);
/*
 * In a fork child: to the region that bbd made for it, with these books, by
 * sock (a hidden connection that is consumed; -1: by the socket's path). Lock
 * held. Return: 0 or -errno; the books are then gone.
 */
int bb_attach_child(const struct bb_books *b, uint32_t region, const uint64_t secret[2], int sock);
/* May the next bbd answer where this one did not? */
bool bb_attach_retry(int error);
/* Reads exactly len bytes within the socket's deadline. Return: 0 or -errno. */
int bb_sock_read(int sock, void *buf, size_t len);

/* --- fork.c -------------------------------------------------------------- */

/* Idempotent. Before any other library can register its own handlers. */
int bb_fork_init(void);
/* Before the first attach; lock held. */
int bb_fork_init_late(void);

/* --- sys.c --------------------------------------------------------------- */

/* mmap and friends straight to the kernel: bookkeeping never meets the interposed ones. */
void *bb_sys_mmap(void *addr, size_t len, int prot, int flags, int fd, int64_t off);
int bb_sys_munmap(void *addr, size_t len);
void bb_sys_close(int fd);
int bb_sys_madvise(void *addr, size_t len, int advice);
int bb_sys_munlock(void *addr, size_t len);
int bb_sys_mprotect(void *addr, size_t len, int prot);
/* How long this thread runs in one go, if others want its CPU. */
void bb_sys_slice(uint64_t ns);
/* Between two looks at what somebody else is about to change; looks: so far, 0 at first. */
void bb_sys_pause(unsigned int *looks);
void *bb_sys_mremap(void *old, size_t oldlen, size_t newlen, int flags, void *newaddr);

#endif
