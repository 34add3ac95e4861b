/* SPDX-License-Identifier: MIT */
/*
 * What bbd (keep.c) and its keeper (keeper.c) say to each other: one message a
 * packet of a SOCK_SEQPACKET Unix socket, descriptors beside it. Nobody else
 * includes this.
 *
 * Theory of operation
 * -------------------
 * The first packet of a bbd is TAKE. The keeper's answer says how many names it
 * holds; packets of up to BB_KEEP_BATCH names follow, each with as many
 * descriptors in the same order. After that every request has one answer.
 * The keeper serves one bbd at a time and answers BUSY to another. A connection
 * that ends without END leaves everything to the next bbd that comes in time.
 */
#ifndef BB_DAEMON_KEEP_MSG_H
#define BB_DAEMON_KEEP_MSG_H

#include <stdint.h>

#include "keep/keep.h"

#define BB_KEEP_MAGIC 0xbb6b6565u
#define BB_KEEP_VERSION 1
#define BB_KEEP_BATCH 64u	     /* names and descriptors a packet */
#define BB_KEEP_NAMES_MAX (1u << 20)
#define BB_KEEP_ANSWER_MS 5000u	     /* a peer that says nothing for so long is taken for dead */

enum bb_keep_op {
	BB_KEEP_TAKE = 1, /* value: how long to wait for the next bbd, ms */
	BB_KEEP_PUT,	  /* name and a descriptor */
	BB_KEEP_GET,	  /* name; the answer brings a descriptor */
	BB_KEEP_DROP,	  /* name */
	BB_KEEP_END,	  /* all of it may go */
};

struct bb_keep_msg {
	uint32_t magic;
	uint16_t version;
	uint16_t op;
	int32_t status; /* answers: 0 or -errno */
	uint32_t value; /* answers to TAKE: how many names follow */
	uint32_t pid;	/* answers: the keeper's */
	char name[BB_KEEP_NAME];
};

/* Sends len bytes and nfds descriptors. Waits as long as the socket's own limit says. Return: 0 or -errno. */
int bb_keep_send(int sock, const void *data, uint32_t len, const int *fds, unsigned int nfds);
/*
 * Receives a packet. nfds: room, then what came. What there is no room for is
 * closed by the kernel. Return: bytes, 0 at the end, -errno (-EMFILE: descriptors were lost).
 */
int bb_keep_recv(int sock, void *data, uint32_t len, int *fds, unsigned int *nfds);

/*
 * The keeper's whole life. listener: bound to path. ms: until a first bbd comes.
 * Never returns. Called in a child that has nothing else to do.
 */
__attribute__((noreturn)) void bb_keeper_run(int listener, const char *path);

#endif
