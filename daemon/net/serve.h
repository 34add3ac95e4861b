/* SPDX-License-Identifier: MIT */
/*
 * What the server does with one packet: checks it, asks the home, answers.
 * No socket and no thread in here: packets come in by bb_serve_packet(), and
 * answers leave by ->send, so that tests and fuzzers call it directly.
 */
#ifndef BB_DAEMON_SERVE_H
#define BB_DAEMON_SERVE_H

#include <stdbool.h>
#include <sys/uio.h>

#include "net/sock.h" /* the C library's IPv6 before the kernel's */

#include "net/server.h"
#include "net/session.h"

struct bb_home;
struct bb_keep;
struct bb_lz4;
struct bb_peers;

/*
 * An answer of nseg datagrams, of one size unless it is uneven: each is a header, iov[2 * i], and
 * its payload, iov[2 * i + 1].
 */
struct bb_serve_out {
	struct in6_addr src;
	struct sockaddr_in6 to;
	struct iovec *iov;
	unsigned int nseg;
	uint16_t size; /* bytes of a datagram, at most */
	bool uneven;   /* they are not all of that size */
};

struct bb_serve {
	const struct bb_key *key;
	uint16_t tenant, node;
	uint32_t boot;
	struct bb_home *home; /* NULL: nothing is lent here */
	struct bb_peers *peers;
	struct bb_sessions *sessions;
	struct bb_adopt *adopt; /* extents of other homes; NULL: none */
	/* May an extent move to that node: can its packets be steered there? NULL: no. */
	bool (*may_move)(void *arg, uint16_t to);
	/* An extent has moved, or one that was taken over was freed: steering and mover look. May be NULL. */
	void (*moved)(void *arg);
	void *move_arg;
	/* CLOSE: ends connections of a node's pager up to a number. Return: enum bb_status. NULL: there are none. */
	uint8_t (*close)(void *arg, uint16_t node, uint8_t pager, uint64_t number, uint64_t seen);
	void *close_arg;
	const struct bb_policy *policy; /* BB_POLICY_ENTRIES, by command; NULL: none */
	/* Return: 0 or -errno; -EMSGSIZE makes it try smaller segments. */
	int (*send)(void *arg, const struct bb_serve_out *out);
	void *arg;
	bool hello_due; /* set where a HELLO should be sent at once */
	struct bb_server_stats stats;

	struct bb_lz4 *lz4; /* NULL: pages leave as they are */
	uint8_t *packed;    /* pages of an answer, compressed */

	/* The answer in the making. */
	struct bb_hdr hdr[BB_RUN_SEGS_MAX];
	struct iovec iov[2 * BB_RUN_SEGS_MAX];
	uint8_t payload[BB_UPDATE_REPLY_MAX];
};

int bb_serve_init(struct bb_serve *s, struct bb_peers *peers, struct bb_home *home, struct bb_keep *keep);
void bb_serve_fini(struct bb_serve *s);
/* p->to must be known. Never blocks, whatever the bytes. */
void bb_serve_packet(struct bb_serve *s, const struct bb_sock_packet *p);

/* Counters have one writer and readers in other threads. */
static inline void bb_count(uint64_t *c, uint64_t n)
{
	__atomic_store_n(c, *c + n, __ATOMIC_RELAXED);
}

#endif
