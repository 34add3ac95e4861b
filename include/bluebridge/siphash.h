/* SPDX-License-Identifier: MIT */
/*
 * SipHash-2-4 with 64 bits of output (Aumasson and Bernstein, "SipHash: a fast
 * short-input PRF", 2012) over whole 64-bit words, as the tag of a packet needs
 * it. Integer code with a constant bound, so that BPF programs compile it too.
 */
#ifndef BLUEBRIDGE_SIPHASH_H
#define BLUEBRIDGE_SIPHASH_H

#include <linux/types.h>

struct bb_sip {
	__u64 a, b, c, d;
};

static inline __u64 bb_sip_rotl(__u64 x, int n)
{
	return x << n | x >> (64 - n);
}

static inline __attribute__((always_inline)) void bb_sip_round(struct bb_sip *s)
{
	s->a += s->b;
	s->c += s->d;
	s->b = bb_sip_rotl(s->b, 13) ^ s->a;
	s->d = bb_sip_rotl(s->d, 16) ^ s->c;
	s->a = bb_sip_rotl(s->a, 32);
	s->c += s->b;
	s->a += s->d;
	s->b = bb_sip_rotl(s->b, 17) ^ s->c;
	s->d = bb_sip_rotl(s->d, 21) ^ s->a;
	s->c = bb_sip_rotl(s->c, 32);
}

static inline __attribute__((always_inline)) void bb_sip_word(struct bb_sip *s, __u64 m)
{
	s->d ^= m;
	bb_sip_round(s);
	bb_sip_round(s);
	s->a ^= m;
}

static inline __attribute__((always_inline)) void bb_sip_init(struct bb_sip *s, __u64 k0, __u64 k1)
{
	s->a = k0 ^ 0x736f6d6570736575ULL; /* "somepseudorandomlygeneratedbytes" */
	s->b = k1 ^ 0x646f72616e646f6dULL;
	s->c = k0 ^ 0x6c7967656e657261ULL;
	s->d = k1 ^ 0x7465646279746573ULL;
}

/* bytes: of the whole message, a multiple of 8. */
static inline __attribute__((always_inline)) __u64 bb_sip_end(struct bb_sip *s, unsigned int bytes)
{
	bb_sip_word(s, (__u64)(bytes & 0xff) << 56);
	s->c ^= 0xff;
	for (unsigned int i = 0; i < 4; i++)
		bb_sip_round(s);
	return s->a ^ s->b ^ s->c ^ s->d;
}

/* words: the message as little-endian 64-bit numbers, n of them. */
static inline __attribute__((always_inline)) __u64 bb_siphash(__u64 k0, __u64 k1, const __u64 *words, unsigned int n)
{
	struct bb_sip s;

	bb_sip_init(&s, k0, k1);
	for (unsigned int i = 0; i < n; i++)
		bb_sip_word(&s, words[i]);
	return bb_sip_end(&s, n * 8);
}

#endif
