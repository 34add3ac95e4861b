/* SPDX-License-Identifier: MIT */
/*
 * The home's side of RDMA, as its files share it: rdma_home.c (the thread,
 * connections, control messages) and rdma_window.c (what of the lent memory
 * others' NICs may touch). Nobody else includes this.
 */
#ifndef BB_DAEMON_RDMA_HOME_IMPL_H
#define BB_DAEMON_RDMA_HOME_IMPL_H

#include "net/rdma_dev.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <uthash.h>
#include <utlist.h>

#include "home/home.h"
#include "net/rdma_wire.h"

#define BB_RDMA_LINKS 64	/* that are open at once */
#define BB_RDMA_RECVS 1024	/* as many as all of them may send */
#define BB_RDMA_SENDS 32	/* answers under way, of one */
#define BB_RDMA_BUCKETS 4096

_Static_assert(BB_RDMA_LINKS == 64, "bits of ->places");
_Static_assert(BB_RDMA_RECVS >= BB_RDMA_LINKS * BB_RDMA_ASKS, "a control message always finds a buffer");

struct bb_rdma_hlink;

/* One window, of one link on one extent. */
struct bb_rdma_opening {
	struct bb_rdma_hlink *link; /* NULL: it could not be closed */
	uint32_t extent;
	uint32_t rkey;
	struct ibv_mw *mw; /* or, where the device has no windows, */
	struct ibv_mr *mr;
	struct bb_rdma_opening *prev, *next; /* of the link */
	struct bb_rdma_opening *bprev, *bnext; /* of the bucket */
};

/* What a CREATE has given that its asker may not have heard of. */
struct bb_rdma_given {
	uint64_t id;
	uint32_t n;
	uint64_t ptrs[BB_CREATE_MAX];
};

struct bb_rdma_hlink {
	struct rdma_cm_id *id;	/* NULL: only ->given is left */
	struct bb_rdma_open who;
	uint32_t serial;
	bool up, ended;		/* ended: without queue pair and windows */
	bool forgotten;		/* nothing of it is needed any more */
	struct bb_rdma_opening *openings;
	uint32_t sends;		/* bits of slots in use */
	uint8_t place;		/* its part of the buffers to send from, until it has ended */
	uint32_t inlined;	/* bytes that may be sent inline */
	struct bb_rdma_given given[BB_RDMA_ASKS];
	unsigned int ngiven;
	struct bb_rdma_hlink *prev, *next;
};

/* The highest number that a pager has used for a connection. */
struct bb_rdma_number {
	uint32_t key; /* node << 8 | pager */
	uint64_t number;
	UT_hash_handle hh;
};

struct bb_rdma_slab {
	struct ibv_mr *mr; /* NULL: ready without, as there are no windows */
	bool ready, refused;
};

struct bb_rdma_home {
	const struct bb_rdma_dev *dev;
	struct bb_peers *peers;
	struct bb_home *home;
	const struct bb_policy *policy;
	pthread_t thread;
	int wake;
	atomic_bool stop;
	sem_t started;
	int listening;		/* 0 or -errno, then */

	struct rdma_event_channel *cm;
	struct rdma_cm_id *listener;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_srq *srq;
	uint8_t *buffers;	/* BB_RDMA_RECVS to receive, BB_RDMA_LINKS * BB_RDMA_SENDS to send */
	struct ibv_mr *buffers_mr;
	struct bb_rdma_msg msg, answer;

	/* The thread's own. */
	struct bb_rdma_slab *slab;
	uint64_t nslabs;
	uint32_t next_serial;

	pthread_mutex_t lock;	/* after the home's: of what follows */
	struct bb_rdma_hlink *links;
	unsigned int nlinks;
	struct bb_rdma_number *numbers;
	uint64_t places;	/* bits of those in use */
	struct bb_rdma_opening *bucket[BB_RDMA_BUCKETS];
	struct bb_rdma_home_stats stats;
};

/* --- rdma_home.c ------------------------------------------------------------- */

void bb_rdma_home_wake(struct bb_rdma_home *h);

/* --- rdma_link.c --------------------------------------------------------------- */

/*
 * Once it returns true nothing comes in by it any more, and it has no windows. Lock
 * held, any thread. False: its queue pair may still take something in.
 */
bool bb_rdma_hlink_end(struct bb_rdma_home *h, struct bb_rdma_hlink *l);
/* Frees what has ended and is no longer needed, or ends and frees all. The thread's. */
void bb_rdma_hlinks_reap(struct bb_rdma_home *h, bool all);
/* What rdma_cm says. The thread's. */
void bb_rdma_hlinks_events(struct bb_rdma_home *h);

/* --- rdma_window.c ---------------------------------------------------------- */

/*
 * A window on the extent at m->ptr, for the link; the thread's. *bind: to be posted
 * before the answer; its opcode is IBV_WR_SEND where nothing has to be. Return: enum
 * bb_status; OK: m->rkey and m->addr are set, and the extent is held until
 * bb_rdma_window_given().
 */
uint8_t bb_rdma_window_open(struct bb_rdma_home *h, struct bb_rdma_hlink *l, struct bb_rdma_msg *m, struct ibv_send_wr *bind);
void bb_rdma_window_given(struct bb_rdma_home *h, const struct bb_rdma_msg *m);
/* All of a link. Lock held. */
void bb_rdma_windows_end(struct bb_rdma_home *h, struct bb_rdma_hlink *l);
/* For struct bb_home_windows. */
bool bb_rdma_windows_shut(void *arg, uint32_t extent);
/* All slabs; nobody has a window any more. */
void bb_rdma_slabs_release(struct bb_rdma_home *h);

#endif
