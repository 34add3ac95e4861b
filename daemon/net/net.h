/* SPDX-License-Identifier: MIT */
/*
 * The client side of the memory of other hosts: asks homes for pages and gives
 * them pages back. One struct bb_net a pager thread; nothing in it is locked,
 * all calls come from that thread. Requests are asynchronous, every one ends
 * by its deadline, and ->done is called exactly once, from bb_net_poll() or
 * from bb_net_submit() itself (the local home answers at once).
 *
 * Transports stand behind struct bb_transport: udp.c (any NIC), local.c (the
 * home in this process), and loop.c (local, with faults injected, for tests).
 */
#ifndef BB_DAEMON_NET_H
#define BB_DAEMON_NET_H

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bb_home;
struct bb_peers;

/* One page of a WRITE. data must stay as it is until ->done. */
struct bb_net_page {
	uint64_t ptr;
	const void *data; /* BB_PAGE_SIZE bytes */
};

/*
 * Filled by the caller, owned by the net layer from submit to ->done, then the
 * caller's again. Embed it; the net layer allocates nothing on the data path.
 */
struct bb_net_req {
	uint8_t cmd;		/* READ, READ_RUN, WRITE, CREATE, ALLOC_WRITE, DELETE, UPDATE */
	uint8_t flags;		/* BB_F_SHARED for CREATE */
	uint16_t node;		/* CREATE, ALLOC_WRITE: BB_NODE_ANY lets the network choose */
	uint32_t boot;		/* incarnation expected of the home; 0 for CREATE */
	uint64_t ptr;		/* READ*, DELETE: the page or extent */
	uint32_t len;		/* READ*: bytes, a multiple of BB_PAGE_SIZE;
				 * CREATE: extents asked for (1..BB_CREATE_MAX);
				 * UPDATE: enum bb_update */
	uint32_t token;		/* UPDATE: of the move */
	uint64_t number, seen;	/* CLOSE: see struct bb_wire_close */
	uint32_t npages;	/* WRITE, ALLOC_WRITE: entries of pages[] */
	const struct bb_net_page *pages; /* all of the same node */
	uint64_t deadline;	/* bb_now_ns() time by which ->done comes */
	void (*done)(struct bb_net_req *req);
	void *user;

	/* Results, valid in ->done. */
	uint8_t status;		/* enum bb_status */
	uint8_t failed_node;
	uint16_t from;		/* who answered; for BB_NODE_ANY the one that was chosen */
	uint16_t failed;	/* WRITE: index of the first page refused */
	uint32_t new_boot;	/* the home's incarnation as it answered */
	const void *data;	/* READ*: len bytes, UPDATE: paylen; valid only within ->done */
	uint32_t paylen;
	uint32_t nptrs;		/* CREATE, ALLOC_WRITE: extents granted */
	uint64_t ptrs[BB_CREATE_MAX];

	/* Times of the fault breakdown, bb_now_ns(); 0 where not known. */
	uint64_t t_sent, t_recv;
	uint64_t looked_ns; /* it took to find out where the page is (directory.h) */

	/* The transport's own; do not touch. */
	struct {
		struct bb_net_req *next, *prev;
		uint64_t id, resend_at, rto;
		uint64_t got[4];	/* segments that have arrived */
		uint64_t version_at;	/* first refused as of another version; 0: never */
		uint16_t nseg, ngot, nsent;
		uint32_t tries, version_tries;
		void *buf;		/* reassembly */
		void *peer;
		uint8_t where;		/* which list it is in */
		bool asked;		/* WRITE: a PROBE waits for its answer */
		bool lz4;		/* asked for, or sent, compressed */
		bool plain;		/* it was tried in vain: not again */
		uint64_t packed;	/* WRITE, large segments: which were sent compressed */
		bool shrunk;		/* READ: small segments are asked for on a doubt */
		uint8_t none;		/* WRITE: so often nothing of it has arrived */
	} t;
	/* Of the RDMA transport, while another one has the request. */
	struct {
		void (*done)(struct bb_net_req *req);
		void *link;
		struct bb_net_req *next, *prev;
		uint64_t seq, floor; /* its number, and the lowest that was open when it began */
		bool noted;	/* WRITE: its extents know that it is open */
		bool maybe;	/* CREATE, DELETE: a connection that broke may have done it */
	} via;
};

struct bb_transport {
	const char *name;
	int (*submit)(struct bb_transport *t, struct bb_net_req *req);
	void (*flush)(struct bb_transport *t);	/* push what submit has queued */
	int (*poll)(struct bb_transport *t);	/* Return: replies handled */
	int (*fd)(struct bb_transport *t);	/* readable when poll has work; -1: none */
	uint64_t (*next)(struct bb_transport *t); /* ns time of the next timer, ~0: none */
	void (*enter)(struct bb_transport *t);	/* see bb_net_enter(); may be NULL */
	void (*free)(struct bb_transport *t);
};

struct bb_net;

/*
 * index: which pager thread (goes into the own address's pointer bits, so that
 * the network can steer replies). home may be NULL (nothing lent here).
 * Return: 0 or -errno.
 */
int bb_net_new(struct bb_net **out, struct bb_peers *peers, struct bb_home *home, unsigned int index);
/* By the thread that will use it, with its rights, before its system calls are filtered: opens what they may not. */
void bb_net_enter(void *net);
void bb_net_free(struct bb_net *net);	/* ends every open request with TIMEOUT */

/* Errors come by ->done, never by return. */
void bb_net_submit(struct bb_net *net, struct bb_net_req *req);
void bb_net_flush(struct bb_net *net);
int bb_net_poll(struct bb_net *net);	/* receive, time out, resend; Return: replies */
int bb_net_fd(struct bb_net *net);
uint64_t bb_net_next(struct bb_net *net);
unsigned int bb_net_inflight(const struct bb_net *net);

struct bb_net_stats {
	uint64_t tx_packets, rx_packets, tx_bytes, rx_bytes;
	uint64_t tx_xdp, rx_xdp; /* of these, by AF_XDP */
	uint64_t rdma_reads, rdma_writes; /* pages, one-sided */
	uint64_t rdma_links, rdma_breaks; /* connections made, and broken */
	uint64_t lz4_rx, lz4_tx, lz4_raw; /* segments that came and went compressed; that did not become shorter */
	uint64_t lz4_saved; /* bytes, both ways */
	uint64_t resent, again, timeouts, bad_tag, malformed, stale, nacks[BB_ST_MAX];
};
void bb_net_stats(const struct bb_net *net, struct bb_net_stats *out);

/* From or to what another thread looks at: a word at a time. */
static inline void bb_net_stats_copy(struct bb_net_stats *to, const struct bb_net_stats *from)
{
	for (size_t i = 0; i < sizeof(*to) / sizeof(uint64_t); i++)
		__atomic_store_n((uint64_t *)to + i, __atomic_load_n((const uint64_t *)from + i, __ATOMIC_RELAXED),
				 __ATOMIC_RELAXED);
}

#endif
