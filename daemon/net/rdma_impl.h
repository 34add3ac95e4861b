/* SPDX-License-Identifier: MIT */
/*
 * The asker's side of RDMA, as its files share it: rdma.c (which way a request
 * goes, timers, the transport itself), rdma_conn.c (connections), rdma_post.c (work
 * requests, completions, windows). Nobody else includes this.
 *
 * Theory of operation
 * -------------------
 * The transport stands in front of UDP, and takes a request where there is a
 * connection to the node, its extents' windows are open, and nothing speaks against
 * it; whatever it does not take, or fails to do, goes by UDP, where every refusal
 * has its name. A connection is made in the background when requests come; they do
 * not wait for it. One queue pair a node; all share one completion queue and one
 * queue to receive into.
 *
 * Pages travel through registered memory of our own: a program's memory is never
 * registered. A READ of several pages is one work request, a WRITE one for each run of
 * neighbours, of which only the last is signalled. What one flush brings is posted
 * as one chain, one doorbell.
 *
 * What must not happen is that a WRITE lands on newer bytes, by whichever way:
 *   - By RDMA, late: a connection that broke, or on which a deadline passed, is
 *     destroyed here first, and then closed at the home by CLOSE (by UDP). Until that is
 *     answered all WRITEs to that node are held (->held). READs go on by UDP.
 *   - By UDP, late, after one by RDMA: a page goes by RDMA only when no WRITE by UDP to
 *     its extent is open. One that ended without being acknowledged may still be on its
 *     way; it is dead once the home has seen a higher floor (doc/protocol.md, section 6).
 *     So each request by UDP gets a number (via.seq) and notes the lowest that was open
 *     when it began; when it is acknowledged, all below that are dead (->clean).
 *
 * An extent is given up (DELETE) when none of its pages is under way by RDMA.
 */
#ifndef BB_DAEMON_RDMA_IMPL_H
#define BB_DAEMON_RDMA_IMPL_H

#include "net/rdma_dev.h"

#include <uthash.h>
#include <utlist.h>

#include "net/peers.h"
#include "net/rdma_wire.h"
#include "net/transport.h"

#define BB_RDMA_PEERS 64	/* connections at once */
#define BB_RDMA_PAGES 1024	/* pages under way */
#define BB_RDMA_RUNS 64		/* READ_RUNs under way */
#define BB_RDMA_RUN_BYTES (16 * BB_PAGE_SIZE)
#define BB_RDMA_OPS 1024
#define BB_RDMA_DEPTH 512	/* work requests of a queue pair */
#define BB_RDMA_WRS 4096	/* of all */
#define BB_RDMA_SGES 8		/* neighbours in one work request */
#define BB_RDMA_CHAIN 256
#define BB_RDMA_BUFFER 640
#define BB_RDMA_ASKED_NS 50000000ULL /* a window is asked for so long; then its pages go by UDP */
#define BB_RDMA_SLOTS (BB_RDMA_PEERS * BB_RDMA_ASKS)

_Static_assert(BB_RDMA_RUN_BYTES >= BB_RUN_PAGES_MAX * BB_PAGE_SIZE, "a run fits");
_Static_assert(BB_RDMA_BUFFER >= BB_RDMA_MSG_MAX, "a control message fits");
_Static_assert(BB_RDMA_CHAIN >= 2 * BB_BATCH_PAGES_MAX, "a WRITE and its questions fit a chain");

struct bb_rdma;
struct bb_rdma_link;

enum bb_rdma_where { BB_RDMA_NOWHERE, BB_RDMA_QUEUED, BB_RDMA_HELD };
enum bb_rdma_step { BB_RDMA_DOWN, BB_RDMA_ADDR, BB_RDMA_ROUTE, BB_RDMA_CONNECT, BB_RDMA_OPEN };
enum bb_rdma_wstate { BB_RDMA_W_NONE, BB_RDMA_W_ASKED, BB_RDMA_W_OPEN, BB_RDMA_W_REFUSED };

/* An extent of the node. */
struct bb_rdma_extent {
	uint64_t ptr;		/* of its start */
	uint8_t state;		/* enum bb_rdma_wstate; ASKED and OPEN hold for ->epoch alone */
	bool gone;		/* DELETE was asked for */
	uint32_t epoch, rkey;
	uint64_t addr;
	uint64_t at;		/* ASKED: since; REFUSED: until */
	uint32_t busy;		/* operations posted */
	uint32_t udp;		/* WRITEs by UDP that are open */
	uint64_t doubt;		/* up to this number some may be on their way */
	UT_hash_handle hh;
};

/* A READ, READ_RUN or WRITE that is posted. */
struct bb_rdma_op {
	struct bb_net_req *req;	/* NULL: free */
	struct bb_rdma_link *link;
	uint32_t serial;
	uint16_t wrs;		/* work requests */
	int16_t run;		/* buffer of a READ_RUN, or -1 */
	uint16_t npages;	/* else pages */
	uint16_t page[BB_BATCH_PAGES_MAX];
};

/* A control message without an answer. */
struct bb_rdma_ask {
	uint64_t id;		/* 0: free */
	uint8_t cmd;
	uint64_t ptr;
	struct bb_net_req *req;	/* CREATE, DELETE */
};

struct bb_rdma_link {
	struct bb_rdma *x;
	uint16_t node;
	uint8_t index;
	uint8_t step;		/* enum bb_rdma_step */
	bool closing;		/* CLOSE has not been answered yet */
	bool asking;		/* it is under way */
	bool recheck;		/* what is held may go on */
	bool dirty;		/* something is queued */
	uint32_t boot, epoch;
	struct bb_rdma_open open;
	struct rdma_cm_id *id;
	struct rdma_cm_id *old;	/* of the connection that ended; to be destroyed when CLOSE is answered */
	uint32_t inlined;
	unsigned int depth, wrs, sges; /* sges: of a work request */
	uint64_t until;		/* of a step on the way; DOWN: not before */
	uint64_t look_at;	/* in the table of peers */
	uint64_t wait;		/* from one try to the next */
	uint64_t close_at;	/* CLOSE again */
	uint64_t last_id, seen;	/* control messages */
	unsigned int nasks;
	struct bb_rdma_ask ask[BB_RDMA_ASKS];
	struct bb_net_req *queue, *held;
	struct bb_net_req *udp;	/* by UDP, of those that change something; by via.seq */
	unsigned int unnoted;	/* of these, WRITEs whose extents do not know of them */
	uint64_t seq, clean, doubt; /* see above; doubt: of unnoted ones */
	struct bb_rdma_extent *extents;
	struct bb_net_req close;
};

struct bb_rdma {
	struct bb_transport t;
	struct bb_net_shared *sh;
	struct bb_peers *table;
	const struct bb_peers_config *cfg;
	const struct bb_rdma_dev *dev;
	struct bb_transport *inner;
	unsigned int pager;
	int epoll;
	uint64_t now, due, events_at, last_number;
	bool armed;		/* the next completion makes the channel readable */
	int replies;

	struct rdma_event_channel *cm;
	bool ready;		/* what follows is there */
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
	struct ibv_srq *srq;
	uint8_t *memory;	/* pages, runs, messages to send, messages to receive */
	struct ibv_mr *mr;
	unsigned int max_wrs, wrs;

	uint16_t free_page[BB_RDMA_PAGES], free_run[BB_RDMA_RUNS], free_op[BB_RDMA_OPS];
	unsigned int npages, nruns, nops;
	struct bb_rdma_op op[BB_RDMA_OPS];

	struct bb_rdma_link *link[BB_RDMA_PEERS];
	unsigned int nlinks;
	uint8_t index[1 << 16];	/* node: place in link + 1 */

	/* The chain in the making. */
	unsigned int nwr, nsge;
	struct ibv_send_wr wr[BB_RDMA_CHAIN];
	struct ibv_sge sge[BB_RDMA_CHAIN * BB_RDMA_SGES];
	struct bb_rdma_msg msg;
};

static inline uint64_t bb_rdma_extent_of(uint64_t ptr)
{
	return ptr & ~(uint64_t)(BB_EXTENT_SIZE - 1);
}

static inline void bb_rdma_due(struct bb_rdma *x, uint64_t at)
{
	if (at < x->due)
		x->due = at;
}

/* --- rdma.c --------------------------------------------------------------------- */

/* Which way it goes from here. Ends it where it cannot go. */
void bb_rdma_route(struct bb_rdma_link *l, struct bb_net_req *r);
/* The extent's entry, made where there is none; NULL: no memory. */
struct bb_rdma_extent *bb_rdma_extent(struct bb_rdma_link *l, uint64_t ptr, bool make);
void bb_rdma_unlist(struct bb_rdma_link *l, struct bb_net_req *r);
/* By UDP from here on. */
void bb_rdma_pass(struct bb_rdma_link *l, struct bb_net_req *r);

/* --- rdma_conn.c ------------------------------------------------------------------ */

/* Requests are there for it: connects where that is due, looks whether the peer is. */
void bb_rdma_consider(struct bb_rdma_link *l);
/*
 * It can be used no more: destroys the queue pair, and takes all that was under way the
 * other way. detail may be NULL.
 */
void bb_rdma_break(struct bb_rdma_link *l, enum bb_rdma_state why, const char *detail);
/* The identifier of a connection that has ended. */
void bb_rdma_forget(struct bb_rdma_link *l);
/* What rdma_cm says. */
void bb_rdma_events(struct bb_rdma *x);
/* Steps that take too long, CLOSE that is due. */
void bb_rdma_conn_timers(struct bb_rdma_link *l);
/* The thread's own way to rdma_cm, if it is not there yet. Return: 0 or -errno. */
int bb_rdma_channel(struct bb_rdma *x);
int bb_rdma_watch(struct bb_rdma *x, int fd);
void bb_rdma_fini(struct bb_rdma *x);

/* --- rdma_post.c -------------------------------------------------------------------- */

/* Posts what can be. */
void bb_rdma_push(struct bb_rdma_link *l);
/* CREATE, DELETE. Return: false where it cannot be asked now. */
bool bb_rdma_ask(struct bb_rdma_link *l, struct bb_net_req *r);
/* Return: completions. */
int bb_rdma_completions(struct bb_rdma *x);
/* Its buffers are free again; no queue pair knows them any more. */
void bb_rdma_op_free(struct bb_rdma *x, struct bb_rdma_op *op);
void bb_rdma_post_recv(struct bb_rdma *x, unsigned int slot);

#endif
