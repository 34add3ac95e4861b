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
 * A program that only wants to know its budget sends the request with
 * BB_ATTACH_QUERY and no descriptors, and closes after the reply.
 */
#ifndef BLUEBRIDGE_LOCAL_H
#define BLUEBRIDGE_LOCAL_H

#include <stdint.h>

#define BB_SOCKET_DEFAULT "/run/bluebridge/bbd.sock"
#define BB_ATTACH_MAGIC 0x31414242u /* first byte on the wire: 'B' */
#define BB_ATTACH_QUERY 0x1

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
	char comm[32];
};

struct bb_attach_rep {
	uint32_t magic;
	uint32_t size;
	int32_t error;		/* 0 or -errno */
	uint32_t region;	/* bbd's number for it */
	uint64_t budget;	/* bytes granted, staging included */
	uint64_t lent;		/* bytes that the known homes have free */
	char message[128];	/* for people, where error is not 0 */
};

#endif
