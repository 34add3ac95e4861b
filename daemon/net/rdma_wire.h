/* SPDX-License-Identifier: MIT */
/*
 * What two hosts say to each other over RDMA: the private data of a connection
 * request and of its answers, and control messages. doc/protocol.md, section 12,
 * is the normative text. Total functions, as in lib/wire.h.
 */
#ifndef BB_DAEMON_RDMA_WIRE_H
#define BB_DAEMON_RDMA_WIRE_H

#include <bluebridge/wire.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tag.h"

#define BB_RDMA_VERSION 1
#define BB_RDMA_OPEN_BYTES 32
#define BB_RDMA_ACCEPT_BYTES 24
#define BB_RDMA_REJECT_BYTES 2
#define BB_RDMA_MSG_BYTES 40
#define BB_RDMA_MSG_MAX (BB_RDMA_MSG_BYTES + 8 * BB_CREATE_MAX)
#define BB_RDMA_ASKS 16 /* control messages of an asker without an answer */

struct bb_rdma_open {
	uint8_t pager;	   /* of the asker */
	uint16_t tenant, node, home;
	uint32_t boot, home_boot;
	uint64_t number;   /* of this connection; rises */
};

struct bb_rdma_accept {
	uint32_t boot; /* the home's */
	uint64_t number;
};

enum bb_rdma_reject { BB_RDMA_REJ_VERSION = 1, BB_RDMA_REJ_BOOT, BB_RDMA_REJ_NUMBER, BB_RDMA_REJ_FULL, BB_RDMA_REJ_MEANS };

void bb_rdma_open_encode(const struct bb_key *k, const struct bb_rdma_open *o, uint8_t out[BB_RDMA_OPEN_BYTES]);
/* Return: 0; -EPROTO: another version; -EBADMSG; -EKEYREJECTED: the tag is wrong. */
int bb_rdma_open_decode(const struct bb_key *k, const void *data, size_t len, struct bb_rdma_open *out);
void bb_rdma_accept_encode(const struct bb_key *k, const struct bb_rdma_open *o, const struct bb_rdma_accept *a,
			   uint8_t out[BB_RDMA_ACCEPT_BYTES]);
/* o: what was asked. */
int bb_rdma_accept_decode(const struct bb_key *k, const struct bb_rdma_open *o, const void *data, size_t len,
			  struct bb_rdma_accept *out);

enum bb_rdma_cmd { BB_RDMA_WINDOW = 1, BB_RDMA_CREATE = 2, BB_RDMA_DELETE = 7 };

/* A control message; an answer repeats cmd and id. */
struct bb_rdma_msg {
	uint8_t cmd, status, flags;
	bool reply;
	uint32_t count;	/* CREATE: extents wanted; its answer: pointers that follow */
	uint64_t id;	/* rises by one within a connection, from 1 */
	uint64_t ptr;	/* WINDOW, DELETE: start of the extent */
	uint32_t rkey;	/* answer to WINDOW */
	uint64_t addr;	/* the same: where the extent starts */
	uint64_t ptrs[BB_CREATE_MAX];
};

/* Return: bytes, at most BB_RDMA_MSG_MAX. */
size_t bb_rdma_msg_encode(const struct bb_rdma_msg *m, uint8_t *out);
/* Return: false where it cannot be one. */
bool bb_rdma_msg_decode(struct bb_rdma_msg *m, const void *data, size_t len);

#endif
