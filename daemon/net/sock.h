/* SPDX-License-Identifier: MIT */
/*
 * UDP sockets as both ends of the protocol use them: bound to any address,
 * able to speak from any pointer of this host, deep buffers. And the batch of
 * buffers that packets are received into.
 */
#ifndef BB_DAEMON_SOCK_H
#define BB_DAEMON_SOCK_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define BB_SOCK_BUFFER (8 << 20)

/* port 0: any. Return: descriptor or -errno. */
int bb_sock_open(uint16_t port);

/* Control data of a packet that goes out: its source, and GSO where asked for. */
struct bb_sock_control {
	_Alignas(struct cmsghdr) uint8_t buf[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))];
};
/* segment 0: no GSO. Return: length for msg_controllen. */
size_t bb_sock_source(struct bb_sock_control *c, const struct in6_addr *src, uint16_t segment);

/* --- receiving ---------------------------------------------------------- */

/* A packet that has come in; data lives until the next bb_sock_recv(). */
struct bb_sock_packet {
	const uint8_t *data;
	size_t len;
	struct sockaddr_in6 from;
	struct in6_addr to;	/* if the socket asks for it (IPV6_RECVPKTINFO) */
	uint32_t ifindex;
	uint16_t gro;		/* size of the datagrams that data is made of; 0: one */
};

struct bb_sock_ring;

/* n buffers of size bytes, placed so that what follows a packet's header is aligned as a page. */
int bb_sock_ring_new(struct bb_sock_ring **out, unsigned int n, size_t size);
void bb_sock_ring_free(struct bb_sock_ring *r);
/* Return: packets received (0: none there), or -errno. Never waits. */
int bb_sock_recv(struct bb_sock_ring *r, int fd);
/* The i-th of these. A packet that did not fit its buffer has len 0. */
void bb_sock_packet(struct bb_sock_ring *r, unsigned int i, struct bb_sock_packet *out);

#endif
