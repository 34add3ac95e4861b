/* SPDX-License-Identifier: MIT */
/*
 * RoCE through rdma-core: pages of other hosts by one-sided READs and WRITEs.
 * rdma_dev.c finds the device, rdma.c is the asker's transport (in front of UDP,
 * which takes whatever it does not), rdma_home.c the home's side.
 * doc/protocol.md, section 12, has what is said over it.
 */
#ifndef BB_DAEMON_RDMA_H
#define BB_DAEMON_RDMA_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bb_home;
struct bb_net_shared;
struct bb_peers;
struct bb_policy;
struct bb_rdma_home;
struct bb_transport;

/* --- the device ----------------------------------------------------------- */

struct bb_rdma_config {
	const char *dev; /* the network interface; NULL: none */
	uint16_t tenant, node;
	bool addresses;	 /* set the node's base address on it, take it away again */
};

/*
 * Before rights are dropped, and before any thread that uses it. Return: 0, or
 * -errno and bb_rdma_why() says what is missing.
 */
int bb_rdma_open(const struct bb_rdma_config *cfg);
/* leave: another bbd goes on, the address stays. */
void bb_rdma_close(bool leave);
/* Sets the address again if somebody, or a link that went down, took it away. Now and then; with CAP_NET_ADMIN. */
void bb_rdma_keep_address(void);
bool bb_rdma_on(void);
/* "rxe0 port 1", or why there is none. */
const char *bb_rdma_why(void);
/* From now on there is none, and this is why ("--transport udp"). */
void bb_rdma_off(const char *why);

/* --- the asker's side ------------------------------------------------------- */

/* *out: a transport in front of inner, which is its own then; inner itself where there is no device. */
int bb_rdma_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_peers *peers, struct bb_transport *inner,
		unsigned int index);

/* How requests to a node travel now, and why. */
enum bb_rdma_state {
	BB_RDMA_UNUSED,		/* nothing was asked of it yet */
	BB_RDMA_PEER_WITHOUT,	/* it does not say that it takes connections */
	BB_RDMA_CONNECTING,
	BB_RDMA_UP,
	BB_RDMA_PORT_DOWN,
	BB_RDMA_NO_ROUTE,	/* no RDMA path to its address */
	BB_RDMA_REFUSED,	/* by it */
	BB_RDMA_NO_ANSWER,
	BB_RDMA_BROKE,		/* a completion with an error */
	BB_RDMA_LATE,		/* a request's deadline passed */
	BB_RDMA_HUNG_UP,	/* the peer ended it */
	BB_RDMA_GONE,		/* the device */
	BB_RDMA_NO_MEANS,	/* a queue pair or memory could not be had here */
	BB_RDMA_STATES
};
/* From any thread: what the pager that spoke of it last has to say. */
enum bb_rdma_state bb_rdma_peer(uint16_t node);
/* For people; "" for UP. */
const char *bb_rdma_reason(enum bb_rdma_state s);

/* --- the home's side ---------------------------------------------------------- */

struct bb_rdma_home_stats {
	uint64_t links;	  /* queue pairs that are open */
	uint64_t windows; /* on extents, open */
	uint64_t slabs, refused; /* registered, and those that could not be */
	uint64_t accepted, rejected, asked, closed;
	char why[96];	  /* a slab was refused; else "" */
};

/* policy: see bb_steer_policy(), may be NULL. Starts a thread. Return: 0 or -errno. */
int bb_rdma_home_start(struct bb_rdma_home **out, struct bb_peers *peers, struct bb_home *home, const struct bb_policy *policy);
/* Before the home is freed. Nobody has a window after it. */
void bb_rdma_home_stop(struct bb_rdma_home *h);
/* struct bb_serve's close. In any thread. */
uint8_t bb_rdma_home_close(void *arg, uint16_t node, uint8_t pager, uint64_t number, uint64_t seen);
void bb_rdma_home_stats(struct bb_rdma_home *h, struct bb_rdma_home_stats *out);

#endif
