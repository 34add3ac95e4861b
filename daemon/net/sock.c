/* SPDX-License-Identifier: MIT */
/* See sock.h. */
#include "net/sock.h"

#include <bluebridge/gptr.h>
#include <bluebridge/wire.h>

#include <endian.h>
#include <errno.h>
#include <linux/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void set_buffer(int fd, int force, int plain)
{
	const int bytes = BB_SOCK_BUFFER;

	if (setsockopt(fd, SOL_SOCKET, force, &bytes, sizeof(bytes)))
		setsockopt(fd, SOL_SOCKET, plain, &bytes, sizeof(bytes));
}

int bb_sock_open(uint16_t port)
{
	const struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htobe16(port) };
	const int on = 1, pmtu = IPV6_PMTUDISC_DO;
	int fd, ret;

	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on)) ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &pmtu, sizeof(pmtu)) ||
	    bind(fd, (const struct sockaddr *)&any, sizeof(any))) {
		ret = -errno;
		close(fd);
		return ret;
	}
	set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	return fd;
}

size_t bb_sock_source(struct bb_sock_control *c, const struct in6_addr *src, uint16_t segment)
{
	const struct in6_pktinfo pi = { .ipi6_addr = *src };
	struct cmsghdr *h = (struct cmsghdr *)c->buf;

	memset(c, 0, sizeof(*c));
	h->cmsg_level = IPPROTO_IPV6;
	h->cmsg_type = IPV6_PKTINFO;
	h->cmsg_len = CMSG_LEN(sizeof(pi));
	memcpy(CMSG_DATA(h), &pi, sizeof(pi));
	if (!segment)
		return CMSG_SPACE(sizeof(pi));
	h = (struct cmsghdr *)(c->buf + CMSG_SPACE(sizeof(pi)));
	h->cmsg_level = IPPROTO_UDP;
	h->cmsg_type = UDP_SEGMENT;
	h->cmsg_len = CMSG_LEN(sizeof(segment));
	memcpy(CMSG_DATA(h), &segment, sizeof(segment));
	return sizeof(c->buf);
}

/* --- receiving ---------------------------------------------------------- */

struct control_in {
	_Alignas(struct cmsghdr) uint8_t buf[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int))];
};

struct bb_sock_ring {
	unsigned int n, dirty;
	int more; /* the last look found a packet: there may be others */
	size_t size, stride, bytes;
	uint8_t *base;
	struct mmsghdr *msg;
	struct iovec *iov;
	struct sockaddr_in6 *from;
	struct control_in *control;
};

static uint8_t *buffer(struct bb_sock_ring *r, unsigned int i)
{
	return r->base + i * r->stride + BB_PAGE_SIZE - sizeof(struct bb_hdr);
}

int bb_sock_ring_new(struct bb_sock_ring **out, unsigned int n, size_t size)
{
	struct bb_sock_ring *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	r->n = n;
	r->size = size;
	r->stride = (size + 2 * BB_PAGE_SIZE - 1) & ~BB_PAGE_MASK;
	r->bytes = n * r->stride;
	r->msg = calloc(n, sizeof(*r->msg));
	r->iov = calloc(n, sizeof(*r->iov));
	r->from = calloc(n, sizeof(*r->from));
	r->control = calloc(n, sizeof(*r->control));
	r->base = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->base == MAP_FAILED)
		r->base = NULL;
	if (!r->msg || !r->iov || !r->from || !r->control || !r->base) {
		bb_sock_ring_free(r);
		return -ENOMEM;
	}
	r->dirty = n;
	*out = r;
	return 0;
}

void bb_sock_ring_free(struct bb_sock_ring *r)
{
	if (!r)
		return;
	if (r->base)
		munmap(r->base, r->bytes);
	free(r->msg);
	free(r->iov);
	free(r->from);
	free(r->control);
	free(r);
}

int bb_sock_recv(struct bb_sock_ring *r, int fd)
{
	int n;

	/* The kernel has changed the headers that it filled, and only these. */
	for (unsigned int i = 0; i < r->dirty; i++) {
		r->iov[i] = (struct iovec){ buffer(r, i), r->size };
		r->msg[i].msg_hdr = (struct msghdr){
			.msg_name = &r->from[i],
			.msg_namelen = sizeof(r->from[i]),
			.msg_iov = &r->iov[i],
			.msg_iovlen = 1,
			.msg_control = &r->control[i],
			.msg_controllen = sizeof(r->control[i]),
		};
	}
	r->dirty = 0;
	/*
	 * A lone packet is handed on before the kernel is asked for a second:
	 * finding nothing would cost it some hundred nanoseconds.
	 */
	if (r->more) {
		n = recvmmsg(fd, r->msg, r->n, MSG_DONTWAIT, NULL);
	} else {
		const ssize_t len = recvmsg(fd, &r->msg[0].msg_hdr, MSG_DONTWAIT);

		r->msg[0].msg_len = (unsigned int)len;
		n = len < 0 ? -1 : 1;
	}
	r->more = n > 0;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	r->dirty = (unsigned int)n;
	return n;
}

void bb_sock_packet(struct bb_sock_ring *r, unsigned int i, struct bb_sock_packet *out)
{
	struct msghdr *m = &r->msg[i].msg_hdr;
	struct in6_pktinfo pi;
	struct cmsghdr *c;
	int gro;

	*out = (struct bb_sock_packet){ .data = buffer(r, i), .from = r->from[i] };
	if (m->msg_namelen != sizeof(out->from) || (m->msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return;
	out->len = r->msg[i].msg_len;
	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO && c->cmsg_len >= CMSG_LEN(sizeof(pi))) {
			memcpy(&pi, CMSG_DATA(c), sizeof(pi));
			out->to = pi.ipi6_addr;
			out->ifindex = pi.ipi6_ifindex;
		} else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO && c->cmsg_len >= CMSG_LEN(sizeof(gro))) {
			memcpy(&gro, CMSG_DATA(c), sizeof(gro));
			if (gro > 0 && gro < 65536)
				out->gro = (uint16_t)gro;
		}
	}
}
