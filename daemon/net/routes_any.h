/* SPDX-License-Identifier: MIT */
/*
 * The address of "whichever node has room" (BB_NODE_ANY): what comes in for it
 * by the interface is this host's as well, while what goes out for it goes to
 * others. So it is a local route in a table of its own (BB_ROUTE_PROTO), which a
 * rule asks for packets from that interface alone. Where nobody may set that,
 * CREATEs to any node are not taken here, and nothing else is different.
 *
 * The same for a home whose extents have moved here (adopt.h).
 *
 * One thread at a time.
 */
#ifndef BB_DAEMON_ROUTES_ANY_H
#define BB_DAEMON_ROUTES_ANY_H

#include <stdint.h>

struct bb_routes_any;

/* node: BB_NODE_ANY, or that of a home. dev: name of the interface. Return: 0 or -errno. */
int bb_routes_any_new(struct bb_routes_any **out, uint16_t tenant, uint16_t node, const char *dev);
/* Takes away what was added. NULL is fine. */
void bb_routes_any_free(struct bb_routes_any *a);

#endif
