/* SPDX-License-Identifier: MIT */
/*
 * Packets taken apart and put together: what doc/protocol.md says, as total
 * functions. Nothing here reads beyond the length that it is given, and every
 * input has an answer, an enum bb_status.
 */
#ifndef BB_LIB_WIRE_H
#define BB_LIB_WIRE_H

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tag.h"

#define BB_WIRE_HDR sizeof(struct bb_hdr)
#define BB_SEGS_SMALL ((unsigned int)(BB_PAGE_SIZE / BB_SEG_SMALL)) /* a page in small segments */
#define BB_WRITE_SEGS_MAX (BB_BATCH_PAGES_MAX * BB_SEGS_SMALL)
#define BB_RUN_SEGS_MAX (BB_RUN_PAGES_MAX * BB_SEGS_SMALL)
#define BB_WRITE_STATE_MAX (2 + BB_WRITE_SEGS_MAX / 8)
#define BB_CREATE_REPLY_MAX (4 + 8 * BB_CREATE_MAX)
#define BB_UPDATE_BYTES 8	 /* of a request, and of a reply to BEGIN */
#define BB_CLOSE_BYTES 16
#define BB_UPDATE_REPLY_MAX (4 + 12 * BB_UPDATE_SESSIONS_MAX)

/* Ids of a session that a home remembers; an asker keeps to half of it. */
#define BB_SESSION_WINDOW 1024u
#define BB_SESSION_OPEN_MAX (BB_SESSION_WINDOW / 2)

/* A header in host byte order, and where the payload lies. */
struct bb_msg {
	uint8_t version, flags, status;
	uint16_t seg, nseg;
	uint32_t length, boot, session, floor;
	uint64_t id;
	const uint8_t *payload;
	uint32_t paylen;
};

/* Commands that change something: they go through the session's window. */
bool bb_wire_tracked(uint8_t cmd);

/*
 * Takes header and payload apart and checks what every packet must fulfil.
 * m is filled as far as there are BB_WIRE_HDR bytes. Return: OK, MALFORMED, VERSION.
 */
enum bb_status bb_wire_decode(const void *data, size_t len, struct bb_msg *m);
/* Is it a request that can be? dst: where it was sent. Return: OK, MALFORMED, COMMAND. */
enum bb_status bb_wire_request(const struct bb_gptr *dst, const struct bb_msg *m);
/*
 * Is it a reply that can be? cmd: of its source, without the reply bit. Return:
 * OK, MALFORMED, COMMAND; m->status is what the home says.
 */
enum bb_status bb_wire_reply(uint8_t cmd, const struct bb_msg *m);

void bb_wire_encode(struct bb_hdr *h, const struct bb_msg *m); /* tag 0 */

/* Of a segment with data: how many bytes of memory it stands for. */
static inline uint32_t bb_wire_plain(const struct bb_msg *m)
{
	if (!(m->flags & BB_F_LZ4))
		return m->length;
	return m->flags & BB_F_SMALL ? BB_SEG_SMALL : BB_SEG_LARGE;
}

/* length: bb_wire_plain() of a segment with data. Return: segments a page, 1 or BB_SEGS_SMALL. */
static inline unsigned int bb_wire_spp(uint32_t length)
{
	return length == BB_SEG_SMALL ? BB_SEGS_SMALL : 1;
}

/* CREATE. The request's payload is the count; its decoder has been checked by bb_wire_request(). */
size_t bb_wire_create_request(uint32_t n, uint8_t out[4]);
uint32_t bb_wire_create_count(const struct bb_msg *m);
size_t bb_wire_create_reply(const uint64_t *ptrs, uint32_t n, uint8_t *out); /* out: BB_CREATE_REPLY_MAX */
/* Return: how many of at most max; 0 where the payload cannot be. */
uint32_t bb_wire_create_ptrs(const struct bb_msg *m, uint64_t *ptrs, uint32_t max);

/* UPDATE. The request's decoder has been checked by bb_wire_request(). */
struct bb_wire_update {
	uint32_t op;	/* enum bb_update */
	uint32_t token;	/* of the move: the same from BEGIN to its end */
};

/* Reply to BEGIN: whose extent it is. */
struct bb_wire_owner {
	uint16_t node;
	uint32_t boot;
};

/* Reply to COMMIT: the highest id that the home has seen of a session of the owner. */
struct bb_wire_seen {
	uint32_t session;
	uint64_t top;
};

void bb_wire_update_request(const struct bb_wire_update *u, uint8_t out[BB_UPDATE_BYTES]);
void bb_wire_update_decode(const struct bb_msg *m, struct bb_wire_update *out);
size_t bb_wire_owner_reply(const struct bb_wire_owner *o, uint8_t out[BB_UPDATE_BYTES]);
/* data, len: a reply's payload. Return: false where it cannot be one. */
bool bb_wire_owner_decode(const uint8_t *data, size_t len, struct bb_wire_owner *out);
size_t bb_wire_seen_reply(const struct bb_wire_seen *s, uint32_t n, uint8_t *out); /* out: BB_UPDATE_REPLY_MAX */
/* out: BB_UPDATE_SESSIONS_MAX. Return: how many, or -1 where it cannot be one. */
int bb_wire_seen_decode(const uint8_t *data, size_t len, struct bb_wire_seen *out);

/* CLOSE. The request's decoder has been checked by bb_wire_request(). */
struct bb_wire_close {
	uint64_t number; /* of the asker's connection: it and all before it end */
	uint64_t seen;	 /* the last answer that the asker has got on it; 0: none */
};

void bb_wire_close_request(const struct bb_wire_close *c, uint8_t out[BB_CLOSE_BYTES]);
void bb_wire_close_decode(const struct bb_msg *m, struct bb_wire_close *out);

/* State of a WRITE: which of its nseg segments have arrived. */
size_t bb_wire_state(const uint64_t got[4], uint16_t nseg, uint8_t *out); /* out: BB_WRITE_STATE_MAX */
/* Return: how many have arrived, or -1 where the payload cannot be of nseg segments. */
int bb_wire_state_decode(const struct bb_msg *m, uint16_t nseg, uint64_t got[4]);
/* Refused WRITE: the page. */
size_t bb_wire_failed(uint16_t page, uint8_t out[2]);
uint16_t bb_wire_failed_page(const struct bb_msg *m);

/*
 * The digest that the tag covers: of the payload, but 0 for pages read, unless
 * they are compressed. cmd: of the packet's own addresses, reply bit included.
 */
uint64_t bb_wire_digest(const struct bb_key *k, uint8_t cmd, const struct bb_hdr *h, const void *payload, size_t len);
/* cmd is that of dst where it is a pointer; HELLO outside of it. */
void bb_wire_seal(const struct bb_key *k, const struct in6_addr *src, const struct in6_addr *dst, uint8_t cmd,
		  struct bb_hdr *h, const void *payload, size_t len);
/* data: at least BB_WIRE_HDR bytes. Takes the same time whether the tag is right or not. */
bool bb_wire_verify(const struct bb_key *k, const struct in6_addr *src, const struct in6_addr *dst, uint8_t cmd,
		    const void *data, size_t len);

#endif
