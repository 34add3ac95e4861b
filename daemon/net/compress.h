/* SPDX-License-Identifier: MIT */
/*
 * lz4 on the wire (doc/protocol.md, section 13): segments of pages made shorter
 * and whole again, and whether the link is one where that pays. Nothing is kept
 * compressed anywhere.
 */
#ifndef BB_DAEMON_COMPRESS_H
#define BB_DAEMON_COMPRESS_H

#include <bluebridge/wire.h>

#include <stdbool.h>
#include <stdint.h>

enum bb_compress { BB_COMPRESS_OFF = 0, BB_COMPRESS_AUTO, BB_COMPRESS_ON };
extern const char *const bb_compress_name[];

/* auto: links of so many megabits a second or less (make bench ONLY=compress). */
#define BB_COMPRESS_MBIT 500

/*
 * Of the interface, in megabits a second; sock: any socket of the same network
 * namespace. Return: 0 where the device does not say.
 */
uint32_t bb_link_speed(int sock, const char *dev);

struct bb_lz4; /* a thread's own */

struct bb_lz4 *bb_lz4_new(void); /* NULL: no memory */
void bb_lz4_free(struct bb_lz4 *z);
/*
 * data: len bytes, BB_SEG_SMALL or BB_SEG_LARGE, that others may be changing
 * meanwhile. Return: how many bytes out has got, at most BB_LZ4_MAX(len); 0 where
 * it does not become shorter by an eighth.
 */
uint32_t bb_lz4_pack(struct bb_lz4 *z, const void *data, uint32_t len, void *out);
/* Return: false where these are not lz4 of exactly len bytes; out may have been written to. */
bool bb_lz4_unpack(const void *data, uint32_t n, void *out, uint32_t len);

#endif
