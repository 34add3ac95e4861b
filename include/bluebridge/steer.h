/* SPDX-License-Identifier: MIT */
/*
 * What the BPF programs, bbload and bbd share: the layout of the pinned maps.
 * Everything in host byte order but the keys of the overrides.
 *
 * Who writes what
 * ---------------
 * bb_cfg      bbd, through its mapping: who this host is, and the tag's key
 * bb_slabs    bbd: each slab of lent memory, as a memory-mapped array map
 * bb_dev      bbload: the device that the programs are attached to
 * bb_policy   bbload (bbd reads it, so that both paths refuse the same)
 * bb_over     bbload and bbd: overrides, whose pages went elsewhere
 * bb_nodes    bbload: at a switch its hosts, one entry each; at a host those that
 *             overrides lead to (bbd those that its own do)
 * bb_adopted  bbd: extents of other nodes that live here now
 * bb_xsk      bbd: the AF_XDP sockets of its pagers
 * bb_count, bb_load  the programs
 *
 * A slab's map has BB_SLAB_ENTRIES values of a page each: the pages, then one
 * with the extents' words, then the pages' sequence counts.
 *
 * Theory of operation: a page without a lock
 * ------------------------------------------
 * Who answers READ in the kernel takes no reference. It reads the extent's word
 * and the page's sequence count, copies the page into the answer, and reads
 * both again; where one has changed, or a writer was at work, the packet is left
 * to bbd. So
 *  - bbd clears the word before it lets an extent die, and sets it when a create
 *    is done: a generation is served only between the two;
 *  - a writer adds BB_SEQ_BEGIN before its first byte and BB_SEQ_END after its
 *    last: the low byte counts writers at work, the rest completed writes. Both
 *    are atomic additions that order the copy between them.
 *
 * How busy a host is
 * ------------------
 * The switch counts for each host the bytes that it sends there and those of
 * the answers that come from there, halved about every second (2^30 ns), and
 * BB_LOAD_CREATE for each CREATE that it has placed there, so that a burst of
 * them spreads before its traffic comes. A CREATE to any node goes to the host
 * with the least of it, counted in whole MiB; of those that are equal, to the
 * one with the fewest CREATEs placed so far. Left out are the asker itself and,
 * for BB_FULL_NS, who answered one with NOSPACE. What a host has free only its
 * HELLO says, which the switch does not read.
 *
 * Where a CREATE to any node went is remembered by {asker's node, session, id}
 * for BB_PIN_NS, longer than its asker asks again: all of its packets go there.
 */
#ifndef BLUEBRIDGE_STEER_H
#define BLUEBRIDGE_STEER_H

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

/* --- where the pins are ---------------------------------------------------- */

/*
 * A bpffs of our own. In it a directory for each network namespace (the inode
 * of its file) and device: nINODE:DEV (bb_steer_dir() of lib/steer_names.h; bpffs
 * allows no dot, so that of a device is a colon), in it maps/ and links/. The ports
 * of a namespace's switch share the maps in nINODE/maps. What attach changed of the
 * host, so that detach undoes just that, is in BB_STEER_STATE/nINODE:DEV.json.
 */
#define BB_STEER_FS "/run/bluebridge/bpf"
#define BB_STEER_STATE "/run/bluebridge/bpf.state"

#define BB_STEER_VERSION 2

/* --- slabs ------------------------------------------------------------------ */

#define BB_STEER_SLAB_SHIFT 26	/* as BB_SLAB_SHIFT of daemon/home/slab.h */
#define BB_SLAB_PAGES (1u << (BB_STEER_SLAB_SHIFT - BB_PAGE_SHIFT))
#define BB_SLAB_EXTENTS (1u << (BB_STEER_SLAB_SHIFT - BB_EXTENT_SHIFT))
#define BB_SLAB_WORDS BB_SLAB_PAGES		/* entry: __u64[BB_SLAB_EXTENTS] */
#define BB_SLAB_SEQS (BB_SLAB_PAGES + 1)	/* first entry: __u32[1024] each */
#define BB_SEQS_A_PAGE (unsigned int)(BB_PAGE_SIZE / sizeof(__u32))
#define BB_SLAB_ENTRIES (BB_SLAB_SEQS + BB_SLAB_PAGES / BB_SEQS_A_PAGE)
#define BB_STEER_SLABS_MAX 16384u	/* 1 TiB */

/* An extent's word; 0 where it is not to be served. */
#define BB_XW_LIVE 0x1ULL
#define BB_XW_SHARED 0x2ULL	/* other nodes of the tenant may read */

static inline __u64 bb_xw(__u16 gen, __u16 tenant, __u16 owner, int shared)
{
	return (__u64)gen << 48 | (__u64)owner << 32 | (__u64)tenant << 16 | (shared ? BB_XW_SHARED : 0) | BB_XW_LIVE;
}

static inline __u16 bb_xw_gen(__u64 w) { return (__u16)(w >> 48); }
static inline __u16 bb_xw_owner(__u64 w) { return (__u16)(w >> 32); }
static inline __u16 bb_xw_tenant(__u64 w) { return (__u16)(w >> 16); }

#define BB_SEQ_BEGIN 1u
#define BB_SEQ_END (256u - 1u)
#define BB_SEQ_WRITERS 0xffu

/* --- bb_cfg: one value ------------------------------------------------------ */

struct bb_steer_cfg {
	__u32 version;		/* BB_STEER_VERSION, written by bbload */
	__u32 flags;		/* BB_SC_*; 0 until bbd has filled in the rest */
	__u16 tenant, node;
	__u16 port;		/* UDP, host byte order */
	__u16 overrides;	/* entries in bb_over: none is looked for while it is 0 */
	__u32 boot;
	__u32 serial;		/* rises when bbd changes the rest; odd while it does */
	__u64 k0, k1;		/* SipHash key of the tags */
	/*
	 * No slab of bb_slabs ends beyond it, at any instant, whoever is killed: raised
	 * before one is put in, lowered after those beyond were taken out. For bbd alone.
	 */
	__u64 bytes;
};

#define BB_SC_KNOWN 0x1u	/* tenant, node, port, key are valid: NDP, policy, tags */
#define BB_SC_SERVE 0x2u	/* READs of the slabs are answered */

/* --- bb_dev: one value, of the device (bbload) ------------------------------- */

struct bb_dev {
	__u8 mac[6];		/* what neighbour solicitations are answered with */
	__u16 flags;		/* BB_DEV_* */
	__u32 mtu;
	__u32 ifindex;
};

/*
 * Answers go back by a redirect to the device that asked: what XDP_TX gives to a
 * veth waits there for the next packet unless its other end has an XDP program;
 * what is redirected needs only GRO at that end.
 */
#define BB_DEV_REDIRECT 0x1u

/* --- bb_policy: BB_POLICY_ENTRIES values, by command ------------------------- */

#define BB_POLICY_ENTRIES 128

enum bb_action {
	BB_ACT_FORWARD = 0,	/* as if there were no policy */
	BB_ACT_REDIRECT,	/* to node */
	BB_ACT_COPY,		/* forward, and a copy to node */
	BB_ACT_DROP,
	BB_ACT_RATE,		/* at most rate packets a second; the rest is dropped */
	BB_ACT_REFUSE,		/* typed NACK: status COMMAND */
	BB_ACT_MAX
};

struct bb_policy {
	__u8 action;
	__u8 pad;
	__u16 node;
	__u32 rate;
};

/* --- bb_over: LPM trie, BPF_F_NO_PREALLOC ------------------------------------ */

/* The key's bits are {tenant, node, pointer}: an extent of node n has 32 + 16 + 27 of them. */
struct bb_over_key {
	__u32 prefixlen;	/* at most 96 */
	__be16 tenant, node;
	__u8 ptr[8];		/* as in the address */
};

struct bb_over {
	__u64 cmds[2];		/* bit c: command c is steered; replies never are */
	__u16 node;		/* who owns it now */
	__u16 flags;		/* BB_OVER_* */
	__u32 epoch;		/* of the change: for people and for replacing */
	__u64 until;		/* CLOCK_BOOTTIME ns; 0: for ever */
};

#define BB_OVER_MOVED 0x1u	/* bbd's: an extent that it gave away (doc/protocol.md, section 11) */

#define BB_OVER_MAX 65536

/* --- bb_nodes: hash, key __u16 node ------------------------------------------ */

struct bb_node {
	__u32 ifindex;		/* of the port that leads there */
	__u8 mac[6];		/* of the host */
	__u8 smac[6];		/* of the port */
};

#define BB_NODES_MAX 4096

/* --- bb_adopted: hash -------------------------------------------------------- */

struct bb_adopted_key {
	__u16 node;		/* whose number it has in its pointer */
	__u16 pad[3];
	__u64 extent;		/* pointer with its generation, start of the extent */
};

struct bb_adopted {
	__u64 ptr;		/* where it is in our own lent memory, with generation */
	__u32 boot;		/* of the home that it comes from: what its askers expect */
	__u32 pad;
};

/* --- bb_xsk: XSKMAP ------------------------------------------------------------- */

/* Sockets by the number of their thread, which is the pointer that it speaks from. */
#define BB_XSK_MAX 64

/* --- counters ----------------------------------------------------------------- */

/*
 * bb_count: per-CPU array of __u64. First the requests seen, by command, then
 * those of enum bb_steer_count.
 */
enum bb_steer_count {
	BB_CNT_COMMANDS = 0,		/* + command, 128 of them */
	BB_CNT_NDP = 128,		/* solicitations answered */
	BB_CNT_SERVED,			/* READs answered in the kernel */
	BB_CNT_SEGMENTS,		/* packets of these answers */
	BB_CNT_TORN,			/* left to bbd: a writer was at work */
	BB_CNT_UP,			/* of ours, left to bbd */
	BB_CNT_REDIRECTED,		/* by an override or a policy */
	BB_CNT_COPIED,
	BB_CNT_PLACED,			/* CREATEs to any node, placed by the switch */
	BB_CNT_FANNED,			/* packets sent to all */
	BB_CNT_NACKED,			/* refused with a typed answer */
	/* Dropped, by reason. */
	BB_CNT_DROP_TAG,		/* wrong tag */
	BB_CNT_DROP_POLICY,
	BB_CNT_DROP_RATE,
	BB_CNT_DROP_HOPS,		/* hop limit at its end: a loop */
	BB_CNT_DROP_NODE,		/* no such node, or no way to it */
	BB_CNT_DROP_MALFORMED,		/* of ours, but no request can look so */
	BB_CNT_DROP_SEND,		/* the kernel could not send the answer */
	BB_CNT_DROP_ANSWER,		/* an answer to a copy: the asker has one from the home */
	BB_CNT_MAX
};

/* bb_load: per-CPU hash by node, of the switch (how busy a host is). */
struct bb_load {
	__u64 packets, bytes;	/* towards the host */
	__u64 creates;		/* placed there */
	__u64 busy, busy_at;	/* see above; busy as it was at busy_at (CLOCK_MONOTONIC ns) */
};

#define BB_LOAD_SHIFT 30	/* ns to the half */
#define BB_LOAD_CREATE (1ULL << 20)
#define BB_FULL_NS 1000000000ULL
#define BB_PIN_NS 60000000000ULL

#endif
