/* SPDX-License-Identifier: MIT */
/*
 * What the kernel must know so that pointers travel: every address of this
 * host's /48 is ours (AnyIP), a peer's /48 is reached by the peer's own link
 * address, and that next hop needs no neighbour discovery. Routes carry
 * protocol number BB_ROUTE_PROTO; only what was added here is taken away.
 *
 * One thread at a time. Nothing here fails the daemon: what cannot be set is
 * said once, with the command that does it by hand.
 */
#ifndef BB_DAEMON_ROUTES_H
#define BB_DAEMON_ROUTES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#define BB_ROUTE_PROTO 178 /* nobody's; "ip -6 route show proto 178" lists ours */

struct bb_routes;

/* Sets the AnyIP route; takes away what a killed daemon has left of ours. Return: 0 or -errno. */
int bb_routes_new(struct bb_routes **out, uint16_t tenant, uint16_t node);
/* Takes away all that was added. */
void bb_routes_free(struct bb_routes *r);
/* The peer's prefix goes via this next hop from now on. Return: 0 or -errno. */
int bb_routes_peer(struct bb_routes *r, uint16_t node, const struct in6_addr *via, uint32_t ifindex);
/* The peer is gone or restarted: its link address may not be believed any more. */
void bb_routes_peer_lost(struct bb_routes *r, uint16_t node);
/* What is sent to it does not seem to arrive: its link address is asked for again. */
void bb_routes_peer_doubt(struct bb_routes *r, uint16_t node);
/* The next hop's Ethernet address, as the kernel knows it. Return: 0 or -errno. */
int bb_routes_link(struct bb_routes *r, uint16_t node, uint8_t mac[6], uint32_t *ifindex);
/*
 * Makes next hops that the kernel has found reachable permanent, sets again what is gone.
 * About once a second. Return: has an entry of ours been taken away? So it is where the
 * link address of this host's own interface changes.
 */
bool bb_routes_tick(struct bb_routes *r);

#endif
