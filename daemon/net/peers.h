/* SPDX-License-Identifier: MIT */
/*
 * Which hosts there are. A peer is known from its HELLO, which comes by
 * --peer (unicast), from the configuration file, or by discovery (multicast
 * on the link). The table is written by one thread (the server's) and read by
 * all: readers get a copy of an entry under a lock that is never held across
 * a system call.
 */
#ifndef BB_DAEMON_PEERS_H
#define BB_DAEMON_PEERS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include <stddef.h>

#include "net/compress.h"
#include "tag.h"

struct bb_peers;

struct bb_peer {
	uint16_t node;
	bool self;		/* this host's own home */
	bool alive;		/* a HELLO within the last BB_PEER_DEAD_NS */
	bool key_differs;	/* its packets fail authentication */
	bool rdma;		/* its home takes RDMA connections */
	bool lz4, slow;		/* understands compressed pages; wants them */
	uint32_t boot;		/* incarnation of its home */
	uint64_t lent, free;	/* bytes, as it last said */
	uint64_t last_hello;	/* bb_now_ns() */
	uint64_t rtt_ns;	/* smoothed; 0: not measured */
	uint32_t mtu;		/* of the path; 0: not measured */
	struct in6_addr via;	/* next hop: source of its HELLO */
	uint32_t ifindex;
	char name[32];		/* host name */
};

#define BB_PEER_HELLO_NS 1000000000ULL
#define BB_PEER_DEAD_NS 3500000000ULL

struct bb_peers_config {
	uint16_t node;		/* own number, 1..65534 */
	uint16_t tenant;
	uint16_t port;		/* UDP port of homes */
	uint32_t boot;		/* own incarnation, random, not 0 */
	const char *dev;	/* interface for discovery and routes; NULL: none */
	bool discover;
	enum bb_compress compress;
	bool routes;		/* install AnyIP and peer routes (needs CAP_NET_ADMIN) */
	struct bb_key key;
	const char **peers;	/* addresses given by --peer, NULL-terminated */
};

int bb_peers_new(struct bb_peers **out, const struct bb_peers_config *cfg);
void bb_peers_free(struct bb_peers *p);	/* takes back the routes it set */
const struct bb_peers_config *bb_peers_config(const struct bb_peers *p);

/* Return: 1 and a copy in *out where the node is known, else 0. */
int bb_peers_get(struct bb_peers *p, uint16_t node, struct bb_peer *out);
/* Return: how many were copied to out[0..max). */
int bb_peers_list(struct bb_peers *p, struct bb_peer *out, int max);
/*
 * The node that a new extent of bytes should go to: alive, with room, the one
 * with the most free memory, own home last unless it is the only one; nodes in
 * skip[] are left out. The choice is charged against its free count until its
 * next HELLO, so that a burst spreads. Return: node, or 0 where none has room.
 */
uint16_t bb_peers_place(struct bb_peers *p, uint64_t bytes, const uint16_t *skip, int nskip);

/*
 * What follows is for the server's thread alone.
 *
 * A packet is a HELLO where its destination is no page's address (the
 * multicast group, or an address of this host outside of fdbb::/16), or where
 * that address says BB_CMD_HELLO. sock is the server's UDP socket on
 * [::]:port; the first tick makes it join the group.
 */
#define BB_HELLO_GROUP "ff12::bb"

/*
 * A HELLO whose tag is right, from src, that came in by ifindex. Return: 1
 * where a HELLO to that peer is due at once (call bb_peers_tick() soon), 0,
 * or -EBADMSG.
 */
int bb_peers_input(struct bb_peers *p, const struct in6_addr *src, uint32_t ifindex, uint16_t sport,
		   const struct bb_hdr *h, const void *payload, size_t len);
/*
 * A packet from src failed authentication. node: which it claims to be, 0 if
 * that is not known. Says it once a source and marks the peer.
 */
void bb_peers_key_differs(struct bb_peers *p, const struct in6_addr *src, uint16_t node);
/* Its link address, for who sends frames by himself. Return: 0 or -errno. */
int bb_peers_link(struct bb_peers *p, uint16_t node, uint8_t mac[6], uint32_t *ifindex);
#define BB_PEERS_ADOPT 64
/* Homes that extents have come here from: what comes in for them is ours to answer. The others no longer. */
void bb_peers_adopt(struct bb_peers *p, const uint16_t *nodes, unsigned int n);
/* What the next HELLO announces: that the home takes RDMA connections. */
void bb_peers_rdma(struct bb_peers *p, bool on);
/* Do pages to and from that peer travel compressed, where they become shorter? */
bool bb_peers_compress(const struct bb_peers *p, const struct bb_peer *to);
/* What our own link says of its speed, in megabits a second; 0: nothing. */
uint32_t bb_peers_link_speed(const struct bb_peers *p);
/* What the next HELLO announces: bytes. */
void bb_peers_own(struct bb_peers *p, uint64_t lent, uint64_t free_bytes);
/* Sends what is due, finds who is dead. Return: bb_now_ns() time of the next call. */
uint64_t bb_peers_tick(struct bb_peers *p, int sock, uint64_t now);
/* Says goodbye, so that the others need not wait for BB_PEER_DEAD_NS. */
void bb_peers_bye(struct bb_peers *p, int sock);

#endif
