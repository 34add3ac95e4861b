/* SPDX-License-Identifier: MIT */
/*
 * Authentication of packets: SipHash-2-4 (Aumasson and Bernstein, 2012), 64
 * bits, under the cluster's key, over source address, destination address, the
 * header with a zero tag, and the 64-bit digest of the payload. The digest is
 * XXH3 with a secret derived from the key; it covers what is written (WRITE,
 * ALLOC_WRITE, CREATE, HELLO and their replies). A READ reply carries digest
 * 0: its page is checked end to end by the hash that the asker keeps.
 *
 * bb_siphash() is plain integer code on purpose: BPF programs compile it too.
 */
#ifndef BB_LIB_TAG_H
#define BB_LIB_TAG_H

#include <bluebridge/wire.h>

#include <linux/in6.h>
#include <stddef.h>
#include <stdint.h>

#define BB_KEY_BYTES 32

struct bb_key {
	uint8_t raw[BB_KEY_BYTES];	/* what the key file holds */
	uint64_t k0, k1;		/* SipHash key, derived */
	uint8_t secret[192];		/* XXH3 secret, derived */
};

/* Derives k0, k1 and secret from raw (crypto_kdf). */
int bb_key_derive(struct bb_key *k);

/*
 * Reads the key file, or makes it (mode 0600, random) where it is not there.
 * Refuses one that others may read. Return: 0, 1 where it was made, -errno.
 */
int bb_key_load(struct bb_key *k, const char *path);

/* 8 hexadecimal digits that name the key to people without giving it away. */
void bb_key_id(const struct bb_key *k, char out[9]);

uint64_t bb_digest(const struct bb_key *k, const void *payload, size_t len); /* len 0: 0 */
uint64_t bb_tag(const struct bb_key *k, const struct in6_addr *src, const struct in6_addr *dst, const struct bb_hdr *h, uint64_t digest);

#endif
