/* SPDX-License-Identifier: MIT */
/*
 * An AF_XDP socket below the UDP transport: answers come from the device's
 * driver straight into our memory, small requests leave as whole frames. It
 * knows nothing of peers and messages. One thread at a time uses it.
 */
#ifndef BB_DAEMON_XSK_H
#define BB_DAEMON_XSK_H

#include <stdbool.h>

#include "net/sock.h"

struct bb_xsk;

/*
 * Of the device's queue 0, of which there can be one. mac: the device's. Needs
 * CAP_NET_RAW, and CAP_IPC_LOCK or room in RLIMIT_MEMLOCK for 4 MiB. Return: 0 or
 * -errno: -EBUSY where queue 0 has one, or the last one is not quite gone.
 */
int bb_xsk_new(struct bb_xsk **out, unsigned int ifindex, const uint8_t mac[6]);
void bb_xsk_free(struct bb_xsk *x);
int bb_xsk_fd(const struct bb_xsk *x); /* readable where packets have come */
unsigned int bb_xsk_ifindex(const struct bb_xsk *x);

/*
 * Packets that have come in, as bb_sock_recv() and bb_sock_packet() have them.
 * What is no whole UDP packet with the right checksum to that port has no length.
 */
int bb_xsk_recv(struct bb_xsk *x);
void bb_xsk_packet(struct bb_xsk *x, unsigned int i, uint16_t port, struct bb_sock_packet *out);

/* So many packets may come: there is room for them, up to 256 of a page. */
void bb_xsk_expect(struct bb_xsk *x, unsigned int packets);

/*
 * A packet from that address and port to the link address mac: head, a header of ours
 * at most, and data, a segment at most, both of even length. Return: 0; -ENOBUFS where
 * what was sent before has not left yet; -EMSGSIZE: not by this way.
 */
int bb_xsk_add(struct bb_xsk *x, const uint8_t mac[6], const struct in6_addr *from, uint16_t port,
	       const struct sockaddr_in6 *to, const void *head, size_t hlen, const void *data, size_t len);
/* Sends what was added. Return: 0 or -errno: the device does not send now, or is gone. */
int bb_xsk_kick(struct bb_xsk *x);

/* --- seats (xsk_seat.c) ----------------------------------------------------- */

/*
 * Who may make sockets is not who uses them: a pager has no rights. Each user,
 * by its number, has a seat, through which the maker (steer/sockets.c) hands it
 * a socket and asks for it back. All of these may be called by any thread.
 */
enum bb_seat {
	BB_SEAT_FREE,	 /* nobody wants one */
	BB_SEAT_WANTED,	 /* the user sends requests, and would like one */
	BB_SEAT_OFFERED, /* the maker has put one there */
	BB_SEAT_USED,	 /* the user has it: answers may be led there */
	BB_SEAT_ASKED,	 /* the maker wants it back */
	BB_SEAT_LEFT,	 /* the user is done with it */
};

enum bb_seat bb_xsk_seat(unsigned int user);

/* The user's side. */
void bb_xsk_enable(void); /* by main, before all: somebody makes sockets here */
bool bb_xsk_enabled(void);
bool bb_xsk_want(unsigned int user);	/* false: not yet, the last one was not collected */
struct bb_xsk *bb_xsk_take(unsigned int user); /* what is offered */
void bb_xsk_leave(unsigned int user);		/* the one that it has; or it wants none any more */

/* The maker's side. */
bool bb_xsk_offer(unsigned int user, struct bb_xsk *x); /* false: nobody wants one any more */
void bb_xsk_ask(unsigned int user);			 /* where it is used: soon LEFT */
struct bb_xsk *bb_xsk_collect(unsigned int user);	 /* what was left; the seat is free */

#endif
