/* SPDX-License-Identifier: MIT */
/*
 * A program as its pager sees it, and what the pager's files share. All of it
 * belongs to the pager's thread; the few fields that people look at are read
 * by others under bb_pager.lock, which the thread takes only to add and remove
 * programs.
 *
 *	pager.c	    the thread, the public calls
 *	due.c	    a round of it: which programs are polled
 *	rest.c	    what it does between two rounds
 *	program.c   attach, checks, the end of a program
 *	fault.c	    what a fault means, by the state of its page
 *	fill.c	    bringing pages in
 *	trace.c	    the last faults, one by one
 *	record.c    what goes there
 *	prefetch.c  pages fetched ahead: of streams, and because the program asked
 *	stream.c    which pages come next
 *	writeback.c the staging ring: writing back, freeing slots
 *	extent.c    home memory held for a program: creating, giving back
 *	rx.c	    the table of it, in memory that outlives bbd
 *	replica.c   the second copy: reading it, losing it, making it again
 *	again.c     programs that are to come: after a restart, after a fork
 */
#ifndef BB_DAEMON_PROGRAM_H
#define BB_DAEMON_PROGRAM_H

#include <bluebridge/region.h>

#include <pthread.h>

#include "latency.h"
#include "net/net.h"
#include "net/peers.h"
#include "pager.h"
#include "stream.h"
#include "trace.h"

/* --- home memory of a program --------------------------------------------- */

enum bb_rx_state {
	BB_RX_FREE = 0,
	BB_RX_READY,
	BB_RX_SYNCING,	/* a second copy in the making: written to, never read */
	BB_RX_BAD,	/* its home is gone or refuses: what was only there is lost */
	BB_RX_DELETING,
};

/* A home extent that several programs read: parent and children after fork. */
struct bb_rx_share {
	uint32_t refs;
};

/*
 * One extent at a home. Plain data: the table outlives bbd (rx.c), so each
 * store must leave it such that the next bbd can go on from there.
 */
struct bb_rx {
	uint64_t ptr;
	uint32_t boot;
	uint32_t extent;	/* of the region that it backs; ~0: spare */
	uint32_t twin;		/* the rx of the other copy; 0: there is none */
	uint16_t node;
	uint8_t state;
	bool old;		/* only read: its extent is written elsewhere since a fork */
};

/* What of it concerns this bbd alone. */
struct bb_rx_use {
	struct bb_rx_share *share; /* NULL: ours alone */
	uint32_t busy;		/* requests under way */
};

/* Head of a program's kept memory; the table follows on the next page. */
struct bb_kept {
	uint32_t magic, version;
	uint32_t region, pid;
	uint64_t secret[2];
	uint64_t base;
	uint32_t npages, nslots;
	uint32_t nrx;		/* entries that were ever used */
	uint16_t place, place_node;
	uint32_t no_prefetch;
	char comm[32];
};

#define BB_SPARE_MAX BB_CREATE_MAX
#define BB_NO_EXTENT UINT32_MAX

/* --- requests under way --------------------------------------------------- */

#define BB_FILLS 64	 /* remote fills under way, a pager */
#define BB_WBS 16	 /* write-back batches under way, a pager */
#define BB_PARKED 1024	 /* faults that wait for credit, a program */
#define BB_DELETES 16
#define BB_LATE 16		 /* faults on pages under way that are followed, a program */

struct bb_program;

/* When a fault came, all by the monotonic clock. */
struct bb_fault_at {
	uint64_t t;		/* its message was in hand */
	uint64_t t_try;		/* it was looked at; later where others went first or there was no credit */
	uint64_t enter_ns;	/* reading the message took */
	uint32_t thread;	/* whose; 0: not known */
	bool last;		/* of those in hand: its page is asked for before anything else is done */
};

struct bb_fill {
	struct bb_net_req req;
	struct bb_program *prog;
	struct bb_fill *next;
	uint32_t page, n;	/* n pages from page on, all FILLING */
	uint32_t rx;
	bool demand;		/* page is one that the program waits for */
	unsigned int tries;
	struct bb_fault_at at;
	uint64_t t_found;	/* place known */
};

struct bb_wb {
	struct bb_net_req req, req2; /* req2: to the twins; its cmd is 0 where there are none */
	unsigned int pending;
	struct bb_net_page pages2[BB_BATCH_PAGES_MAX];
	uint32_t twin[BB_BATCH_PAGES_MAX];
	struct bb_program *prog;
	struct bb_wb *next;
	struct bb_net_page pages[BB_BATCH_PAGES_MAX];
	struct bb_hash hash[BB_BATCH_PAGES_MAX];
	uint32_t page[BB_BATCH_PAGES_MAX];
	uint32_t slot[BB_BATCH_PAGES_MAX];
	uint32_t rx[BB_BATCH_PAGES_MAX];
	uint32_t n;
};

struct bb_create {
	struct bb_net_req req;
	struct bb_program *prog;
	bool busy;
	uint16_t tried[8];	/* nodes that had no room this time */
	int ntried;
	uint64_t retry_at;	/* after nobody had room */
};

struct bb_delete {
	struct bb_net_req req;
	struct bb_program *prog;
	struct bb_delete *next;
	uint32_t rx;
};

/* A second copy in the making; one at a time, a program. */
struct bb_sync {
	struct bb_net_req req;
	struct bb_net_page pages[BB_RUN_PAGES_MAX];
	uint8_t *data;		/* BB_RUN_PAGES_MAX pages */
	uint32_t from, to;	/* rx; 0: nothing to do */
	uint32_t page, n;	/* under way: n pages from page on, WB set; n 0: none */
	uint32_t next;		/* of the extent */
	uint32_t put_off;	/* rx that could not be read last time */
	uint32_t left;		/* extents with one copy, when last looked */
	uint64_t look_at, copied, began;
	bool busy, told;
};

#define BB_WANTS 8u /* ranges that are fetched ahead because the program asked */

struct bb_prefetch {
	struct bb_streams streams;
	struct {
		uint32_t page, n;
		int64_t left;	/* pages: it must not drive out all else, and in the end itself */
		uint64_t until;
	} want[BB_WANTS];
	unsigned int nwant;	/* the first is the one in hand */
};

struct bb_program {
	struct bb_program *next;
	struct bb_pager *pager;
	uint32_t id;
	uint32_t pid;
	char comm[32];
	int sock, uffd, memfd, kick;
	_Atomic bool gone;	/* its end was seen; waits for requests to come home */
	uint64_t hung_up;	/* when its socket ended */
	uint64_t roused;	/* since then: when its threads were last woken, 0 not yet */
	bool want_socket;	/* for the child that it is making */
	unsigned int refs;	/* requests under way */
	unsigned int fills;	/* of them, pages on their way in */

	/* fork: see local.h */
	bool freezing, frozen;
	uint64_t frozen_until;

	/* again.c */
	uint32_t again;		/* it says that it is this one; 0: it is new */
	uint64_t absent_until;	/* it holds home memory but is not here yet; 0: it is */
	uint32_t parent;	/* absent: the fork child of that region */
	uint64_t secret[2];

	/* The shared memory; bounds are ours, not what the program writes there. */
	void *map;
	struct bb_region_layout lay;
	struct bb_region_ctl *ctl;
	struct bb_extent *x;
	_Atomic bb_pw *pw;
	struct bb_hash *hash;
	struct bb_slot *slots;
	uint8_t *stage;
	uint64_t base;
	uint32_t npages, nextents, nslots;
	_Atomic int64_t limit;	/* granted, staging excluded; the control thread sets it */
	uint64_t features;

	/* Home memory. Index 0 is never used. */
	struct bb_kept *kept;
	uint64_t kept_size;
	struct bb_rx *rx;
	struct bb_rx_use *use;
	uint32_t nrx, rx_cap, rx_free;
	uint32_t *xrx;		/* region extent -> rx, 0: none */
	uint32_t xtop;		/* extents below it may have one */
	uint32_t spare[BB_SPARE_MAX];
	unsigned int nspare;
	uint32_t wanted;	/* extents that wait for a spare */
	uint32_t given;		/* extents created so far: sizes the next request */
	struct bb_create create;
	bool forked;		/* some of it is shared, or was */
	bool homeless;		/* nobody has room: pages stay with the program */
	uint16_t place, place_node;
	bool no_prefetch;
	struct bb_sync sync;
	uint16_t avoid;		/* the next extents are wanted elsewhere; 0: anywhere */
	uint64_t no_second_until; /* nobody else has room: one copy has to do */
	uint64_t drain_until, drain_again; /* gone: until when, and when next, homes are asked */
	uint64_t sweep_at;	/* when to look for extents to give back */

	/* Staging ring: [tail, wb) is written or being written, [wb, head) is not. */
	uint64_t tail, wb;
	uint8_t *slot_busy;	/* the slot is in a batch under way: it must not change */

	/* due.c */
	struct bb_program *due_next;
	bool due;		/* it is in the list of those that are polled */
	bool ready;		/* it has said something since it was last polled */

	/* Faults that wait for credit, oldest first. */
	struct {
		uint32_t page;
		struct bb_fault_at at;
	} parked[BB_PARKED];
	uint32_t parked_head, parked_n;
	uint64_t rung_at;	/* for them */
	_Atomic uint64_t opens_until; /* it reaches new extents; 0: it does not */

	/* relay.c: wake-ups that are not left to the helper: after one that it came too late for, and still to come */
	uint8_t relay_pause, relay_paused;
	_Atomic uint64_t relayed, relay_late; /* for people */

	/* record.c */
	struct bb_trace *trace;
	struct {
		uint32_t page;
		struct bb_fault_at at;
	} late[BB_LATE];
	unsigned int late_n;

	struct bb_prefetch pf;

	/* Lost pages are told of once a second, with their number. */
	uint64_t lost_said_at, lost_unsaid;
};

/* How the thread waits for the next fault, see rest.c. */
enum bb_rest_way { BB_REST_SPIN, BB_REST_SLEEP, BB_REST_WAYS };
struct bb_resting {
	uint64_t worked_at;	/* the last round that found work */
	uint64_t said_at;	/* counters were handed to other threads */
	uint64_t since;		/* the thread has had nothing to do since; 0: it has */
	enum bb_rest_way way;	/* what it does now */
	bool spins;		/* that has been better */
	uint64_t took[BB_REST_WAYS]; /* until the next fault came: a mean of the last ones, ns */
	unsigned int turn;	/* faults waited for */
	bool shares_cpu;	/* somebody else runs on this thread's CPU */
	bool gave_way;		/* a program ran on it as soon as its page was there */
};

/* A wake-up that is left to the helper of a program, see relay.c. */
struct bb_relay {
	struct bb_program *prog; /* NULL: there is none */
	uint32_t page, n;
	uint64_t since;
};

struct bb_pager {
	struct bb_pager_config cfg;
	pthread_t thread;
	pthread_mutex_t lock;	/* programs list, inbox */
	struct bb_program *programs;
	struct bb_program *_Atomic inbox; /* attached, not yet seen by the thread */
	int epoll, wake;
	_Atomic bool stop;
	_Atomic bool leave;	/* set before stop */
	uint32_t next_id;
	struct bb_net *net;
	struct bb_fill fills[BB_FILLS], *free_fills;
	struct bb_wb wbs[BB_WBS], *free_wbs;
	struct bb_delete dels[BB_DELETES], *free_dels;
	uint8_t *zeros;		/* BB_ZERO_RUN pages */
	struct bb_hist hist[BB_PART_MAX], hist_local;
	struct bb_net_stats net_stats;
	uint64_t started;
	uint64_t now;		/* of this round of the loop */
	bool many;		/* programs: more than it pays to poll one by one */
	bool looked;		/* which of them are ready has just been asked */
	bool some_gone;		/* of the programs */
	struct bb_program *due, **due_end; /* of many: with something to do, or under way */
	uint64_t sweep_at;	/* when all of many are looked at */
	uint64_t look_at;	/* when epoll is asked, at the latest */
	struct bb_resting rest;
	struct bb_relay relay;
	struct bb_latency latency;
	unsigned int fills_due;	/* answers that pages wait for */
	uint16_t suspect;	/* the node that last let a deadline pass; 0: none */
	uint64_t *slow_until;	/* by node: reads go to the other copy; see replica.c */
	uint64_t *dead_until;	/* by node: writes do not wait for it */
	uint16_t dead[8];	/* the last such nodes */
	unsigned int ndead;
};

#define BB_ZERO_RUN 16u

static inline uint64_t bb_prog_addr(const struct bb_program *p, uint32_t page)
{
	return p->base + ((uint64_t)page << BB_PAGE_SHIFT);
}

/* --- program.c ------------------------------------------------------------ */

struct bb_program *bb_program_new(struct bb_pager *pg, const struct bb_attach_req *req, uint32_t id, uint64_t granted,
				  int sock, int uffd, int memfd, int kick, char *why, size_t whylen);
void bb_program_set_budget(struct bb_program *p, uint64_t bytes);
/* forget: what was kept for it goes too. */
void bb_program_free(struct bb_program *p, bool forget);
/* It reaches an extent that it never touched: the helper is to make room for whole ones, for a while. */
void bb_program_opens(struct bb_program *p);
void bb_program_opens_poll(struct bb_program *p);
/* Lets it go n pages over its budget, until there is room for them elsewhere. */
void bb_program_over(struct bb_program *p, int64_t n);
/* Rings the helper if it sleeps and has reason to work. */
void bb_program_ring(struct bb_program *p);
/* There are free slots again: that is what it may sleep for. */
void bb_program_ring_slots(struct bb_program *p);

/* Like read(2), but never waits, whatever the program has made of the descriptor that we share. */
ssize_t bb_program_read(int fd, void *buf, size_t len);

/* Messages on its socket. Return: false once it has ended. */
bool bb_program_hear(struct bb_program *p);
/*
 * Its socket has ended, but not its memory? Then our userfaultfd is the last,
 * and without it what is paged would read as zeros: it stays open, unserved,
 * until the program has seen to that itself (preload/recover.c), or 5 s.
 */
bool bb_program_lives(struct bb_program *p);
/* Answers a freeze that is waited for, ends one that lasts too long. */
void bb_program_freeze_poll(struct bb_program *p);

/* --- due.c ----------------------------------------------------------------- */

void bb_due_init(struct bb_pager *pg);
/* Descriptors: a program's, which is polled from now on, and the pager's own. */
void bb_due_watch(struct bb_program *p);
void bb_due_watch_own(struct bb_pager *pg, int fd);
/* It is gone: nothing of it is watched any more. */
void bb_due_part(struct bb_program *p);
/* It is about to be freed. */
void bb_due_forget(struct bb_program *p);
/* Looks at everything once. Return: how much there was to do. */
int bb_pager_round(struct bb_pager *pg);
/* Learns which descriptors can be read, waiting so long for one. */
void bb_pager_look(struct bb_pager *pg, int ms);
/*
 * Asks all programs to kick when something comes to their staging rings; all else
 * wakes the epoll by itself. Return: false where something has come already.
 */
bool bb_due_ask(struct bb_pager *pg);
/* They need not kick while they are polled anyway. */
void bb_due_awake(struct bb_pager *pg);
/* Does a program wait for what no event tells of? */
bool bb_due_waits(const struct bb_pager *pg);

/* --- relay.c -------------------------------------------------------------- */

/* Is the next wake-up of the program better left to its helper? */
bool bb_relay_suits(struct bb_program *p);
/* Leaves it to the helper: n pages from page on have been installed, without waking. */
void bb_relay(struct bb_program *p, uint32_t page, uint32_t n);
/* Is there one that the helper has not done yet? After a while we do it. */
bool bb_relay_pending(struct bb_pager *pg);
/* The program leaves. In the pager's thread, or after it has ended. */
void bb_relay_forget(struct bb_program *p);

/* --- rest.c ---------------------------------------------------------------- */

/* Between two rounds; work: what the last one found. */
void bb_rest(struct bb_pager *pg, int work);
/* A fault has come. */
void bb_rest_fault(struct bb_pager *pg, uint64_t now);

/* --- again.c --------------------------------------------------------------- */

/* Programs of the bbd before us. Before the thread starts. */
int bb_again_load(struct bb_pager *pg);
bool bb_again_ready(const struct bb_program *p);
/* Gives p what is held for it. Return: 0, or -ENOENT where nothing is. */
int bb_again_claim(struct bb_program *p);
/* A child that will come, with all that its parent holds. Return: NULL where that cannot be. */
struct bb_program *bb_again_child(struct bb_program *parent);
/* It has been waited for long enough. */
void bb_again_poll(struct bb_program *p);
static inline bool bb_absent(const struct bb_program *p)
{
	return p->absent_until;
}

/* Takes a page, if its word is still w, from there to FILLING, and the credit that it will need. */
enum bb_claim { BB_CLAIMED, BB_CLAIM_CREDIT, BB_CLAIM_CHANGED };
static inline enum bb_claim bb_page_claim(struct bb_program *p, uint32_t page, bb_pw w)
{
	if (!bb_credit_take(p->ctl, 1))
		return BB_CLAIM_CREDIT;
	if (atomic_compare_exchange_strong(&p->pw[page], &w, bb_pw_filling(w)))
		return BB_CLAIMED;
	bb_credit_give(p->ctl, 1);
	return BB_CLAIM_CHANGED;
}

/* --- fault.c -------------------------------------------------------------- */

/* Reads and serves faults. Return: messages read. */
int bb_fault_poll(struct bb_program *p);
/* Tries parked faults again. Return: how many went on. */
int bb_fault_unpark(struct bb_program *p);

/* --- fill.c --------------------------------------------------------------- */

/*
 * Installs n pages that are FILLING from data (NULL: zeros), wakes, and makes
 * them RESIDENT. Credit was taken. A page that cannot be installed goes back to
 * from_state, and its credit too. set, clear: flags for the words.
 */
void bb_fill_install(struct bb_program *p, uint32_t page, uint32_t n, const void *data, enum bb_page_state from_state,
		     bb_pw set, bb_pw clear);
/*
 * Starts a fetch of n pages (FILLING, one rx). at: of the fault that wants page; NULL: none does
 * yet. Return: 0, or -EAGAIN where no request is free.
 */
int bb_fill_remote(struct bb_program *p, uint32_t page, uint32_t n, uint32_t rx, const struct bb_fault_at *at,
		   uint64_t t_found);
void bb_fill_wake(struct bb_program *p, uint32_t page, uint32_t n);
/* The page's only copy is gone. */
void bb_fill_lost(struct bb_program *p, uint32_t page, const char *why, uint16_t node);
/* Access to it raises SIGBUS; where that cannot be said now, whoever waits faults again. */
void bb_fill_poison(struct bb_program *p, uint32_t page);
/* Leaves a busy state of ours: sets the new state, keeps the rest but for clear. */
void bb_word_leave(struct bb_program *p, uint32_t page, bb_pw set, bb_pw clear);
/* Has the node been silent for longer than a fault may wait? */
bool bb_fill_hopeless(struct bb_pager *pg, uint16_t node);
static inline bb_pw bb_word_age(struct bb_program *p)
{
	return bb_pw_with_gen(0, atomic_load_explicit(&p->ctl->gen, memory_order_relaxed));
}

/* --- record.c ------------------------------------------------------------- */

/* A fault that stayed on this host is over, at t_end: all that it took here is one part. */
void bb_record_local(struct bb_program *p, uint32_t page, uint32_t pages, enum bb_trace_kind kind,
		     const struct bb_fault_at *at, uint64_t t_end);
/* One whose page a home gave, or did not (LOST), is over; its parts go to the histograms as well. */
void bb_record_remote(struct bb_fill *f, enum bb_trace_kind kind, uint64_t t_got, uint64_t t_end);
/* A fault on a page that is under way. */
void bb_record_late(struct bb_program *p, uint32_t page, const struct bb_fault_at *at);
/* The n pages from page on are there (t_end), or are not (0): those who waited fault again. */
void bb_record_landed(struct bb_fill *f, uint32_t page, uint32_t n, uint64_t t_got, uint64_t t_end);

/* --- prefetch.c ----------------------------------------------------------- */

/* The thread (0: not known) waits for this page, which is on its way. */
void bb_prefetch_fault(struct bb_program *p, uint32_t page, uint32_t thread);
/* Ranges that the program has asked for. Return: how much there was to do. */
int bb_prefetch_poll(struct bb_program *p);
static inline bool bb_prefetch_asked(const struct bb_program *p)
{
	return p->pf.nwant || atomic_load_explicit(&p->ctl->asked, memory_order_relaxed);
}

/* --- writeback.c ---------------------------------------------------------- */

/* Return: true where something was done. */
bool bb_writeback_poll(struct bb_program *p);

/* --- replica.c ------------------------------------------------------------- */

/* Where page's home copy, that its word says is at rx, is best read. Return: rx, or 0: nowhere. */
uint32_t bb_copy_read(const struct bb_program *p, uint32_t rx, uint32_t page);
/* Is a page whose word names this one kept at rx? (Or will be, where rx is in the making.) */
bool bb_copy_leads(const struct bb_program *p, uint32_t named, uint32_t rx);
/* The other copy, if it can be read. Return: rx, or 0. */
uint32_t bb_copy_other(const struct bb_program *p, uint32_t rx);
/* What a write of rx goes to as well. Return: rx, or 0. */
uint32_t bb_copy_twin(const struct bb_program *p, uint32_t rx);
/* The node has let a read, a write, wait for too long. */
void bb_node_slow(struct bb_pager *pg, uint16_t node);
void bb_node_dead(struct bb_pager *pg, uint16_t node);
/* Nothing new is put there for now. */
bool bb_node_shunned(struct bb_pager *pg, uint16_t node);
bool bb_node_alive(struct bb_pager *pg, uint16_t node);
/* Gives up copies at hosts that are dead, makes new ones. Return: true where something was done. */
bool bb_copies_poll(struct bb_program *p);

/* --- rx.c ------------------------------------------------------------------ */

/* For p->id, p->npages: finds the table that was kept, or makes one. */
int bb_rx_init(struct bb_program *p);
void bb_rx_fini(struct bb_program *p, bool forget);
/* What follows from a table that was found: spares, and which extent lies where. */
void bb_rx_load(struct bb_program *p);
/* Who of the programs in the list reads the same home extents. */
int bb_rx_load_shares(struct bb_program *list);
/* A new entry. Return: its number, 0 where the table is full. */
uint32_t bb_rx_new(struct bb_program *p, const struct bb_rx *what);
void bb_rx_put(struct bb_program *p, uint32_t rx);
/* May this page be read from there? */
bool bb_rx_check(const struct bb_program *p, uint32_t rx, uint32_t page);
/* May it be written in place? Not while another program reads it. */
bool bb_rx_ours(const struct bb_program *p, uint32_t rx);
/* One reader less. Return: true where it was the last, and the home's extent can go. */
bool bb_rx_unshare(struct bb_program *p, uint32_t rx);
/* p, new, reads what q has; both write elsewhere from now on. */
int bb_rx_share(struct bb_program *p, struct bb_program *q);

/* --- extent.c ------------------------------------------------------------- */

/* The home extent that page is to be written to. Return: rx, or 0: not yet. */
uint32_t bb_extent_home(struct bb_program *p, uint32_t page);
void bb_extent_bad(struct bb_program *p, uint32_t rx);
/* Its host is silent: nothing more is written there, but what is there is not given up. */
void bb_extent_retire(struct bb_program *p, uint32_t rx);
/* A spare on another node than this (0: any). Return: rx, or 0: one has been asked for. */
uint32_t bb_extent_spare(struct bb_program *p, uint16_t not_on);
bool bb_extent_poll(struct bb_program *p);
/* Starts giving everything back. Return: true where nothing is left. */
bool bb_extent_drain(struct bb_program *p);

#endif
