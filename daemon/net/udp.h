/* SPDX-License-Identifier: MIT */
/*
 * The UDP transport, as its files share it: udp.c (peers, queues, timers, the
 * transport itself), udp_path.c (what a path carries), udp_tx.c (what goes out),
 * udp_rx.c (what comes back), udp_xsk.c (a faster way for both, where there is one).
 * Nobody else includes this.
 *
 * Theory of operation
 * -------------------
 * A request waits in one of its peer's two queues until the peer's window has
 * room: READs and the small ones before WRITEs. Then it gets an id, goes out,
 * and is open until its answer, or its deadline, comes. READs share one session
 * of the whole transport, that homes keep no record of. Requests that change
 * something have a session a peer, whose ids rise and span less than
 * BB_SESSION_OPEN_MAX from the oldest open one.
 *
 * Window: a count of segments in flight a peer. It grows with what is
 * acknowledged (doubling a round trip up to ssthresh, by one beyond it) and is
 * halved by a loss, at most once a round trip (Jacobson, "Congestion Avoidance
 * and Control", 1988; also the estimate of the round trip).
 *
 * A WRITE of many pages is acknowledged as a whole. Where the window ends in
 * the middle of one, and where an answer is overdue, a PROBE asks what has
 * arrived; just what is missing is sent again.
 */
#ifndef BB_DAEMON_UDP_H
#define BB_DAEMON_UDP_H

#include <netinet/in.h> /* the C library's IPv6 before the kernel's */
#include <sys/uio.h>
#include <utlist.h>

#include "net/compress.h"
#include "net/inject.h"
#include "net/peers.h"
#include "net/sock.h"
#include "net/transport.h"
#include "net/xsk.h"
#include "wire.h"

#define BB_UDP_READS 1024	/* READs open at once */
#define BB_UDP_BUFFERS 128	/* answers of several segments put together at once */
#define BB_UDP_BUFFER_BYTES (16 * BB_PAGE_SIZE)
#define BB_UDP_TX 64

#define BB_RTO_FIRST_NS 20000000ULL
#define BB_RTO_MIN_NS 2000000ULL
#define BB_RTO_MAX_NS 200000000ULL
#define BB_UDP_PLAIN_NS 5000000000ULL
#define BB_UDP_REPAIR_NS 20000000ULL
#define BB_WINDOW_FIRST 64u
#define BB_WINDOW_MIN 4u
#define BB_WINDOW_MAX 1024u

_Static_assert(BB_UDP_BUFFER_BYTES >= BB_RUN_PAGES_MAX * BB_PAGE_SIZE, "a run fits a buffer");

enum bb_udp_where { BB_UDP_NOWHERE = 0, BB_UDP_IN_READS, BB_UDP_IN_WRITES, BB_UDP_IN_OPEN };

/* Do large segments get through, in one direction? See udp_path.c. */
struct bb_udp_way {
	uint64_t passed_at;	/* one came through */
	uint64_t trial_at;	/* they vanish: one is tried from then on; 0: they pass */
	uint64_t wait;		/* from one trial to the next */
	struct bb_net_req *trial; /* under way */
};

struct bb_udp_peer {
	uint16_t node;
	bool small;		/* interfaces and routes carry small segments only */
	bool dirty;		/* has something that may be sent */
	bool lz4;		/* pages travel compressed */
	uint64_t plain_until;	/* it did not understand that */
	bool narrow;		/* a large segment did not fit just now */
	uint64_t seen_at;	/* in the table of peers */
	uint64_t mtu_at;	/* path MTU asked for; 0: to be asked again */
	struct bb_udp_way there, back; /* of WRITEs, of answers to READs */
	struct bb_net_req *reads, *writes; /* wait for the window */
	struct bb_net_req *open;

	uint32_t session;	/* of requests that change something */
	uint64_t next_id;
	uint64_t floor;		/* lowest id that may be open */
	struct bb_net_req *ring[BB_SESSION_WINDOW]; /* by id */

	uint32_t window, ssthresh, acked, inflight; /* segments */
	uint64_t srtt, rttvar, rto;
	uint64_t cut_at;	/* window halved */
	uint64_t heard_at;	/* an answer came */
	uint64_t good_at;	/* one came that was not VERSION */

	uint8_t mac[6];		/* of the next hop */
	bool mac_known;
	uint64_t mac_at;	/* the kernel is asked for it again then */
	uint64_t udp_until;	/* something was lost: by UDP, whose ways the kernel repairs */
};

/* See udp_xsk.c. */
struct bb_udp_xsk {
	struct bb_xsk *x;	/* NULL: all goes by UDP */
	int epoll, netlink;	/* -1: nobody makes sockets here */
	uint16_t port;		/* of our UDP socket */
	uint32_t seq;
	unsigned int looks;
	unsigned int plain;	/* so many more looks at the UDP socket too */
	uint64_t off_until;	/* the device did not send */
	bool asked;		/* one was asked for, or is there */
};

/* Packets that leave together. */
struct bb_udp_tx {
	unsigned int n;
	struct mmsghdr msg[BB_UDP_TX];
	struct iovec iov[BB_UDP_TX][2];
	struct sockaddr_in6 to[BB_UDP_TX];
	struct bb_hdr hdr[BB_UDP_TX];
	uint8_t small[BB_UDP_TX][BB_CLOSE_BYTES]; /* payload of CREATE, UPDATE, CLOSE */
	struct bb_udp_peer *peer[BB_UDP_TX];
};

struct bb_udp {
	struct bb_transport t;
	struct bb_net_shared *sh;
	struct bb_peers *table;
	const struct bb_peers_config *cfg;
	int fd, probe_fd;
	struct bb_sock_ring *ring;
	struct bb_udp_xsk xsk;
	struct bb_inject *inject;
	struct in6_addr self;
	struct bb_sock_control control;
	size_t control_len;

	unsigned int pager;	/* whose this is */
	uint32_t session;	/* of READs */
	uint64_t next_read;
	struct bb_net_req *read_ring[BB_UDP_READS];
	unsigned int nreads;

	struct bb_lz4 *lz4;	/* NULL: never compressed */
	uint8_t *packed;	/* what leaves so, a page for each of tx */
	uint8_t whole[BB_SEG_LARGE]; /* what has come so */

	uint8_t *buffers;
	void *free_buffer[BB_UDP_BUFFERS];
	unsigned int nfree;

	struct bb_udp_peer **peer;
	unsigned int npeers, ndirty, nnarrow;
	uint16_t index[1 << 16]; /* node: place in peer + 1 */

	uint64_t due;		/* no timer fires before */
	uint64_t now;		/* of this poll */
	int replies;		/* of this poll */
	struct bb_udp_tx tx;
};

/* --- udp.c ---------------------------------------------------------------- */

static inline struct bb_udp_peer *bb_udp_find(struct bb_udp *u, uint16_t node)
{
	return u->index[node] ? u->peer[u->index[node] - 1] : NULL;
}

static inline void bb_udp_dirty(struct bb_udp *u, struct bb_udp_peer *p)
{
	u->ndirty += !p->dirty;
	p->dirty = true;
}

static inline void bb_udp_due(struct bb_udp *u, uint64_t at)
{
	if (at < u->due)
		u->due = at;
}

/* Segments of it that are in flight. */
uint32_t bb_udp_charge(const struct bb_net_req *r);
/* Out of all lists and rings; its charge is given back. */
void bb_udp_unlink(struct bb_udp *u, struct bb_net_req *r);
void bb_udp_link(struct bb_udp *u, struct bb_net_req *r, enum bb_udp_where where, bool first);
/* Unlinks it and calls ->done; the buffer is free after that. */
void bb_udp_finish(struct bb_udp *u, struct bb_net_req *r, uint8_t status);
/* A loss was seen: halves the window, at most once a round trip. */
void bb_udp_cut(struct bb_udp_peer *p, uint64_t now);
/*
 * An answer will come in nseg segments: of what has come until now nothing
 * counts. Return: false where there is no buffer for them.
 */
bool bb_udp_recut(struct bb_udp *u, struct bb_net_req *r, uint16_t nseg);

/* Neither this request nor, for a while, others to its peer ask for lz4 or carry it. */
void bb_udp_no_lz4(struct bb_udp *u, struct bb_net_req *r);
/* Was refused because of what lz4 made of it: once more as it is, and others to that peer for a while. */
void bb_udp_plain(struct bb_udp *u, struct bb_net_req *r);
/* A WRITE or DELETE begins again under another id, and WRITEs with lower ids do too. */
void bb_udp_again(struct bb_udp *u, struct bb_net_req *r);

/* --- udp_path.c ----------------------------------------------------------- */

/* Path MTU of the peer, if the last answer is old. */
void bb_udp_measure(struct bb_udp *u, struct bb_udp_peer *p, uint64_t now);
/* How is it to be cut now? */
bool bb_udp_small(struct bb_udp_peer *p, const struct bb_net_req *r, uint64_t now);
/* It goes out as large segments. */
void bb_udp_large(struct bb_udp_peer *p, struct bb_net_req *r);
/* A large segment of it has arrived. */
void bb_udp_passed(struct bb_udp_peer *p, const struct bb_net_req *r, uint64_t now);
/* It is no longer under way. */
void bb_udp_untried(struct bb_udp_peer *p, const struct bb_net_req *r);
/* A READ that is overdue: asks for small segments where large ones seem to vanish. */
void bb_udp_doubt(struct bb_udp *u, struct bb_net_req *r, uint64_t now);
/* Small segments of it have come. */
void bb_udp_small_came(struct bb_udp *u, struct bb_net_req *r, uint64_t now);
/* Of the large segments of a WRITE none has arrived. */
void bb_udp_none_came(struct bb_udp *u, struct bb_net_req *r, uint64_t now);

/* --- udp_tx.c ------------------------------------------------------------- */

/* Sends what the window allows. */
void bb_udp_push(struct bb_udp *u, struct bb_udp_peer *p, uint64_t now);
/* An answer is overdue. */
void bb_udp_resend(struct bb_udp *u, struct bb_net_req *r, uint64_t now);
void bb_udp_tx_flush(struct bb_udp *u);

/* --- udp_xsk.c ------------------------------------------------------------ */

void bb_udp_xsk_init(struct bb_udp *u);
/* Where somebody makes AF_XDP sockets; before rights are dropped. Return: 0 or -errno. */
int bb_udp_xsk_open(struct bb_udp *u);
void bb_udp_xsk_close(struct bb_udp *u);
/* Something goes out to the peer: asks for a socket, and for the next hop. */
void bb_udp_xsk_prepare(struct bb_udp *u, struct bb_udp_peer *p, uint64_t now);
/* A message that goes out for the first time; data may be NULL. Return: false: by UDP. */
bool bb_udp_xsk_add(struct bb_udp *u, const struct bb_udp_peer *p, const struct sockaddr_in6 *to, const struct bb_hdr *h,
		    const void *data, size_t len);
void bb_udp_xsk_kick(struct bb_udp *u);
/* Takes or gives back a socket. Return: packets that have come to it, or -1 where there is none. */
int bb_udp_xsk_recv(struct bb_udp *u);
/* Is the UDP socket to be looked at too? */
bool bb_udp_xsk_both(struct bb_udp *u);
/* Something was there. */
void bb_udp_xsk_came(struct bb_udp *u);

/* --- udp_rx.c ------------------------------------------------------------- */

/* Return: packets that came in. */
int bb_udp_receive(struct bb_udp *u);

#endif
