/* SPDX-License-Identifier: MIT */
/*
 * The global pointer: a 128-bit name of a page that is an IPv6 address.
 *
 *  0        4      6   7   8                15
 *  | scope  | node |cmd|arg|     pointer      |   network byte order
 *  | 32 bit | 16   | 8 | 8 |     64 bit       |
 *
 * scope    fdbb:TTTT, TTTT the tenant
 * node     the host whose memory it is: one /48 a host
 * cmd      opcode in the low 7 bits; the high bit marks a reply
 * arg      epoch or view of the range, as the command defines it
 * pointer  {generation:16, offset:48}. The offset counts bytes in the host's
 *          lent memory; the generation is the extent's, so that a pointer
 *          that outlived its extent is refused, never served.
 *
 * This header is shared by C and BPF: no libc, no loops, no allocation.
 */
#ifndef BLUEBRIDGE_GPTR_H
#define BLUEBRIDGE_GPTR_H

#include <linux/in6.h>
#include <linux/types.h>

#define BB_PAGE_SHIFT 12
#define BB_PAGE_SIZE (1ULL << BB_PAGE_SHIFT)
#define BB_PAGE_MASK (BB_PAGE_SIZE - 1)
#define BB_EXTENT_SHIFT 21
#define BB_EXTENT_SIZE (1ULL << BB_EXTENT_SHIFT)
#define BB_EXTENT_PAGES (1u << (BB_EXTENT_SHIFT - BB_PAGE_SHIFT))

#define BB_SCOPE_PREFIX 0xfdbb
#define BB_NODE_ANY 0xffff /* "whichever host has room"; 0 is no node */

#define BB_CMD_REPLY 0x80
#define BB_CMD_MASK 0x7f

enum bb_cmd {
	BB_CMD_NONE = 0,	/* the address of a host or page itself */
	BB_CMD_HELLO = 1,
	BB_CMD_CREATE = 2,
	BB_CMD_ALLOC_WRITE = 3,
	BB_CMD_READ = 4,
	BB_CMD_WRITE = 5,
	BB_CMD_UPDATE = 6,
	BB_CMD_DELETE = 7,
	BB_CMD_INVALIDATE = 8,
	BB_CMD_NACK = 9,
	BB_CMD_INVOKE = 10,
	BB_CMD_READ_RUN = 11,	/* one pointer and a length of several pages */
	BB_CMD_CLOSE = 12,	/* the asker gives a queue pair up (RDMA) */
};

/* All fields in host byte order. */
struct bb_gptr {
	__u16 tenant;
	__u16 node;
	__u8 cmd;
	__u8 arg;
	__u64 ptr;
};

#define BB_PTR_OFFSET_BITS 48
#define BB_PTR_OFFSET_MASK ((1ULL << BB_PTR_OFFSET_BITS) - 1)

static inline __u64 bb_ptr(__u16 gen, __u64 offset)
{
	return ((__u64)gen << BB_PTR_OFFSET_BITS) | (offset & BB_PTR_OFFSET_MASK);
}

static inline __u64 bb_ptr_offset(__u64 ptr)
{
	return ptr & BB_PTR_OFFSET_MASK;
}

static inline __u16 bb_ptr_gen(__u64 ptr)
{
	return (__u16)(ptr >> BB_PTR_OFFSET_BITS);
}

static inline void bb_gptr_encode(const struct bb_gptr *g, struct in6_addr *a)
{
	__u8 *b = a->s6_addr;

	b[0] = BB_SCOPE_PREFIX >> 8;
	b[1] = BB_SCOPE_PREFIX & 0xff;
	b[2] = g->tenant >> 8;
	b[3] = g->tenant & 0xff;
	b[4] = g->node >> 8;
	b[5] = g->node & 0xff;
	b[6] = g->cmd;
	b[7] = g->arg;
	b[8] = g->ptr >> 56;
	b[9] = g->ptr >> 48;
	b[10] = g->ptr >> 40;
	b[11] = g->ptr >> 32;
	b[12] = g->ptr >> 24;
	b[13] = g->ptr >> 16;
	b[14] = g->ptr >> 8;
	b[15] = g->ptr;
}

/* Return: 1 and fills *g where the address is a global pointer, else 0. */
static inline int bb_gptr_decode(const struct in6_addr *a, struct bb_gptr *g)
{
	const __u8 *b = a->s6_addr;

	if (b[0] != (BB_SCOPE_PREFIX >> 8) || b[1] != (BB_SCOPE_PREFIX & 0xff))
		return 0;
	g->tenant = (__u16)(b[2] << 8 | b[3]);
	g->node = (__u16)(b[4] << 8 | b[5]);
	g->cmd = b[6];
	g->arg = b[7];
	g->ptr = (__u64)b[8] << 56 | (__u64)b[9] << 48 | (__u64)b[10] << 40 |
		 (__u64)b[11] << 32 | (__u64)b[12] << 24 | (__u64)b[13] << 16 |
		 (__u64)b[14] << 8 | b[15];
	return 1;
}

#endif
