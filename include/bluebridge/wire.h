/* SPDX-License-Identifier: MIT */
/*
 * What follows UDP in a BlueBridge packet. doc/protocol.md is the normative
 * text. Everything is in network byte order; the command is not here: it is
 * read from the IPv6 addresses alone (gptr.h).
 *
 * A request goes to the address of the page (node, cmd, pointer). The reply
 * comes from that same address with the reply bit set, to the asker's own
 * address with the same command and reply bit. Shared by C and BPF.
 */
#ifndef BLUEBRIDGE_WIRE_H
#define BLUEBRIDGE_WIRE_H

#include <linux/types.h>

#define BB_WIRE_VERSION 1
#define BB_UDP_PORT 48059 /* 0xbbbb: where a home listens */

/* A page travels in one segment where the path carries it, else in four. */
#define BB_SEG_SMALL 1024
#define BB_SEG_LARGE 4096
#define BB_WIRE_MTU_LARGE (40 + 8 + (int)sizeof(struct bb_hdr) + BB_SEG_LARGE)

/* What lz4 does not make shorter by an eighth goes as it is. */
#define BB_LZ4_MAX(seg) ((seg) - (seg) / 8)

#define BB_RUN_PAGES_MAX 15	/* READ_RUN: pages; a GSO send carries 64 KiB */
#define BB_BATCH_PAGES_MAX 64	/* WRITE: pages acknowledged at once */
#define BB_CREATE_MAX 64	/* CREATE: extents asked for at once */

#define BB_UPDATE_SESSIONS_MAX 340 /* that a reply to a commit can name */

/* UPDATE: what is asked for (doc/protocol.md, section 11) */
enum bb_update {
	BB_UPDATE_BEGIN = 1,	/* the asker is about to take the extent over */
	BB_UPDATE_COMMIT = 2,	/* it has all of it */
	BB_UPDATE_ABORT = 3,	/* it does not want it after all */
	BB_UPDATE_RELEASE = 4,	/* it has freed what it took over */
};

/* bb_hdr.flags */
#define BB_F_SMALL 0x01	/* READ: answer in segments of BB_SEG_SMALL; with LZ4: of such a segment */
#define BB_F_PROBE 0x02	/* WRITE: no data; say what has arrived of this id */
#define BB_F_SHARED 0x04	/* CREATE: other nodes may read */
#define BB_F_LZ4 0x08	/* READ: the answer may be compressed; with data: this segment is */

/* bb_hdr.status of a reply. Anything but OK is a refusal; nothing was done. */
enum bb_status {
	BB_ST_OK = 0,
	BB_ST_MALFORMED = 1,	/* length, segment or argument impossible */
	BB_ST_VERSION = 2,	/* another protocol version */
	BB_ST_COMMAND = 3,	/* unknown or refused by policy */
	BB_ST_BOUNDS = 4,	/* pointer outside of lent memory or its extent */
	BB_ST_GENERATION = 5,	/* the extent was freed since */
	BB_ST_RIGHTS = 6,	/* the asker does not own it */
	BB_ST_TENANT = 7,	/* another tenant's */
	BB_ST_NOSPACE = 8,	/* nothing left to lend, or quota */
	BB_ST_BOOT = 9,		/* the home restarted empty since (hdr.boot is new) */
	BB_ST_STALE = 10,	/* request id below the session's window */
	BB_ST_BUSY = 11,	/* try again later */
	BB_ST_TIMEOUT = 12,	/* never on the wire: the deadline passed */
	BB_ST_UNREACH = 13,	/* never on the wire: no such node known */
	BB_ST_MAX
};

struct bb_hdr {
	__u8 version;
	__u8 flags;
	__u8 status;	/* enum bb_status, 0 in requests */
	__u8 reserved;	/* 0 */
	__be16 seg;	/* this segment, from 0 */
	__be16 nseg;	/* segments in this message */
	__be32 length;	/* payload bytes that follow; READ*: bytes wanted */
	__be32 boot;	/* incarnation of the home; 0 where not known yet */
	__be32 session;	/* the asker's session, random a start of a client */
	__be32 floor;	/* WRITE, CREATE, DELETE: low half of the asker's oldest open id */
	__be64 id;	/* rises by one a message within a session */
	__be64 tag;	/* lib/tag.h: over addresses, header and written payload */
};

#endif
