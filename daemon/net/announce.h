/* SPDX-License-Identifier: MIT */
/*
 * Sends HELLOs: to the multicast group of a link, to the addresses given by
 * --peer, to a single host. Knows how to find source addresses (the tag covers
 * them) and how to resolve names without holding up its caller. Used by
 * peers.c alone, from the server's thread.
 */
#ifndef BB_DAEMON_ANNOUNCE_H
#define BB_DAEMON_ANNOUNCE_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/hello.h"
#include "net/peers.h"

struct bb_announce;

int bb_announce_new(struct bb_announce **out, const struct bb_peers_config *cfg);
void bb_announce_free(struct bb_announce *a);
/* The interface of discovery; 0: none. */
uint32_t bb_announce_ifindex(const struct bb_announce *a);

/* Joins the group on this socket, once. */
void bb_announce_join(struct bb_announce *a, int sock);
/* Return: 0 or -errno; -EADDRNOTAVAIL while the link has no usable address yet. */
int bb_announce_group(struct bb_announce *a, int sock, struct bb_hello *hello);
/* Sends to one host. Return: MTU of the path as the kernel knows it, or -errno. */
int bb_announce_to(struct bb_announce *a, int sock, const struct sockaddr_in6 *to, struct bb_hello *hello);
/* Sends to every --peer that has an address by now; says once what is wrong with one. */
void bb_announce_configured(struct bb_announce *a, int sock, struct bb_hello *hello);
/* Starts and collects name lookups. Return: whether an address is new. */
bool bb_announce_resolve(struct bb_announce *a, uint64_t now);

#endif
