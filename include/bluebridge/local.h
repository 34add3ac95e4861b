/* SPDX-License-Identifier: MIT */
/*
 * The Unix socket between programs and their host's bbd: SOCK_STREAM, by
 * default /run/bluebridge/bbd.sock. The first byte tells who calls: '{' opens
 * a control session of JSON lines (bbctl, scripts), BB_ATTACH_MAGIC's first
 * byte a program that attaches its region.
 *
 * A program sends one struct bb_attach_req with three descriptors (SCM_RIGHTS,
 * in this order): userfaultfd, region memfd (sealed against shrink and grow),
 * eventfd (the program's kick to bbd). bbd answers one struct bb_attach_rep.
 * The socket then stays open for the life of the program: its end tells bbd
 * that the program is gone and the region's home memory may be freed.
 *
 * When the socket ends without BB_MSG_BYE, bbd was killed or is being
 * replaced. What it holds for the program outlives it (daemon/keep/). The
 * program undoes what was left half done (preload/recover.c) and attaches again
 * (BB_ATTACH_AGAIN, with the region's number and secret, and the same
 * descriptors) for as long as bbd said that it is kept.
 *
 * Before it forks, a program whose pages are paged sends BB_MSG_FREEZE on that
 * socket. bbd finishes the fills under way, starts nothing new for it, makes a
 * region for the child that holds all that the parent's holds, and answers with
 * its number and secret. The program takes a copy of its books, forks, and
 * sends BB_MSG_THAW. The child attaches to its region by BB_ATTACH_AGAIN, with
 * the copy. If THAW does not come bbd goes on after BB_FREEZE_MAX_MS. To a
 * program that says want_socket the answer brings a descriptor along
 * (SCM_RIGHTS): a connection to bbd, which the child attaches by.
 *
 * A program that only wants to know its budget sends the request with
 * BB_ATTACH_QUERY and no descriptors, and closes after the reply.
 */
#ifndef BLUEBRIDGE_LOCAL_H
#define BLUEBRIDGE_LOCAL_H

#include <stdint.h>

#define BB_SOCKET_DEFAULT "/run/bluebridge/bbd.sock"
#define BB_ATTACH_MAGIC 0x31414242u /* first byte on the wire: 'B' */
#define BB_ATTACH_QUERY 0x1
#define BB_ATTACH_AGAIN 0x2

#define BB_MSG_MAGIC 0x674d4242u
#define BB_MSG_FREEZE 1
#define BB_MSG_THAW 2
#define BB_MSG_BYE 3 /* bbd to program: what it held is given up */
#define BB_FREEZE_MAX_MS 5000

/* Program to bbd, and bbd's answer to FREEZE. */
struct bb_msg {
	uint32_t magic;
	uint32_t op;
	uint32_t region;	/* in the answer: the child's; 0: refused */
	uint32_t want_socket;	/* FREEZE: the path of the socket cannot be reached any more (chroot) */
	uint64_t secret[2];
};

enum bb_place {
	BB_PLACE_SPREAD = 0,	/* the hosts with most to lend, in turn */
	BB_PLACE_LOCAL,		/* this host's own home */
	BB_PLACE_NODE,		/* one host, if it has room */
};

struct bb_attach_req {
	uint32_t magic;
	uint32_t size;		/* sizeof(struct bb_attach_req) */
	uint32_t flags;
	uint32_t pid;
	uint64_t budget;	/* bytes wanted; 0: what bbd grants */
	uint64_t uffd_features;	/* as the kernel granted them */
	uint32_t user_mode_only;
	uint32_t staging_pages;	/* slots in the ring: part of the budget */
	uint16_t place;		/* enum bb_place */
	uint16_t place_node;	/* for BB_PLACE_NODE */
	uint32_t no_prefetch;
	uint32_t region;	/* BB_ATTACH_AGAIN: which, and what proves it */
	uint32_t pad;
	uint64_t secret[2];
	char comm[32];
};

struct bb_attach_rep {
	uint32_t magic;
	uint32_t size;
	int32_t error;		/* 0 or -errno */
	uint32_t region;	/* bbd's number for it */
	uint32_t keep_ms;	/* for so long it is worth while to attach again; 0: not */
	uint32_t pad;
	uint64_t secret[2];
	uint64_t budget;	/* bytes granted, staging included */
	uint64_t lent;		/* bytes that the known homes have free */
	char message[128];	/* for people, where error is not 0 */
};

#endif
