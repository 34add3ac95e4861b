/* SPDX-License-Identifier: MIT */
/*
 * HELLO: how hosts find each other, as it follows struct bb_hdr. 96 bytes in
 * network byte order. Encoder and decoder are total: they look at nothing but
 * their arguments, and every input has an answer.
 *
 *   0  version:8   BB_HELLO_VERSION
 *   1  flags:8     BB_HELLO_*
 *   2  node:16     who speaks, 1..65534
 *   4  boot:32     incarnation of its home, not 0
 *   8  port:16     UDP port of its home, not 0
 *  10  tenant:16   scope that it belongs to
 *  12  mtu:32      of the interface that it speaks from; 0: not known
 *  16  lent:64     bytes that it lends at most
 *  24  free:64     bytes of these that are free, at most lent
 *  32  stamp:64    the speaker's clock, to be given back
 *  40  echo:64     stamp of the HELLO that this one answers, else 0
 *  48  reserved    16 bytes, 0
 *  64  name[32]    host name for people, printable ASCII, padded with 0
 *
 * Bytes that follow are of a later version and are ignored.
 */
#ifndef BB_DAEMON_HELLO_H
#define BB_DAEMON_HELLO_H

#include <stddef.h>
#include <stdint.h>

#define BB_HELLO_VERSION 1
#define BB_HELLO_BYTES 96

#define BB_HELLO_GOODBYE 0x01	/* the speaker leaves now */
#define BB_HELLO_WANTS_REPLY 0x02 /* answer with a HELLO at once */
#define BB_HELLO_RDMA 0x04	/* its home takes RDMA connections */
#define BB_HELLO_MOVED 0x08	/* the speaker's link address may be another: ask for it */
#define BB_HELLO_LZ4 0x10	/* understands compressed pages */
#define BB_HELLO_SLOW 0x20	/* and wants them: its link is slow */
#define BB_HELLO_FLAGS 0x3f

struct bb_hello {
	uint8_t flags;
	uint16_t node;
	uint16_t port;
	uint16_t tenant;
	uint32_t boot;
	uint32_t mtu;
	uint64_t lent, free;
	uint64_t stamp, echo;
	char name[32]; /* terminated; others' bytes come out printable */
};

void bb_hello_encode(const struct bb_hello *in, uint8_t out[BB_HELLO_BYTES]);
/* Return: 0, -EPROTO for another version, -EBADMSG for what cannot be. */
int bb_hello_decode(struct bb_hello *out, const void *data, size_t len);

#endif
