/* SPDX-License-Identifier: MIT */
/* One packet at a home, as serve.c and serve_update.c share it. Nobody else includes this. */
#ifndef BB_DAEMON_SERVE_IMPL_H
#define BB_DAEMON_SERVE_IMPL_H

#include "net/serve.h"

#include "home/home.h"
#include "wire.h"

/* A request under way. */
struct bb_serve_request {
	const struct bb_sock_packet *p;
	struct bb_gptr dst, asker;
	struct bb_home_who who;
	struct bb_msg m;
	uint64_t ptr;	/* where it is in our own memory */
	uint32_t boot;	/* that the asker expects, and is answered with */
	uint16_t home;	/* of an extent that was taken over; 0: we */
};

/* An answer of one datagram; its payload, len bytes of s->payload, may be empty. */
void bb_serve_answer(struct bb_serve *s, const struct bb_serve_request *q, uint8_t status, size_t len);
void bb_serve_update(struct bb_serve *s, const struct bb_serve_request *q, struct bb_session_slot *slot);

#endif
