/* SPDX-License-Identifier: MIT */
/*
 * The UDP transport's packets over AF_XDP: READs and WRITEs leave as whole frames,
 * and all answers come past the kernel's stack, by about a microsecond of five sooner.
 *
 * Theory of operation
 * -------------------
 * It is a short cut, never the only way. The UDP socket stays, and has the port
 * that frames name as theirs: so an answer that the device's program does not lead
 * to us (none is attached, another queue, another device) comes there. By UDP goes
 *   - what is rare, or tries how long a segment may be: the kernel says so at once;
 *   - what is sent again, and all to that peer for a moment after it: where the
 *     short cut leads nowhere, the kernel's own traffic finds and repairs it;
 *   - all to a peer whose next hop is not at this device, or has no link address in
 *     the kernel's neighbours, which are asked once a second.
 * The socket is made, led answers to, and taken away again by another thread
 * (steer/sockets.c), once there are pages to move; see xsk.h.
 *
 * Looking: frames cost a look at memory, the UDP socket a system call. So the
 * latter is looked at once in EVERY looks, unless something came there lately.
 * Who sleeps waits for both, in an epoll of their own.
 */
#include "net/udp.h"

#include <bluebridge/steer.h>

#include <endian.h>
#include <errno.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"

#define EVERY 16U
#define PLAIN 64U
#define MAC_NS 1000000000ULL
#define OFF_NS 100000000ULL

void bb_udp_xsk_init(struct bb_udp *u)
{
	u->xsk.epoll = u->xsk.netlink = -1;
}

static int watch(const struct bb_udp *u, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };

	return epoll_ctl(u->xsk.epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

int bb_udp_xsk_open(struct bb_udp *u)
{
	struct sockaddr_in6 a = { 0 };
	socklen_t len = sizeof(a);

	if (!bb_xsk_enabled() || u->pager >= BB_XSK_MAX)
		return 0;
	u->xsk.netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	u->xsk.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (u->xsk.netlink < 0 || u->xsk.epoll < 0)
		return -errno;
	if (getsockname(u->fd, (struct sockaddr *)&a, &len))
		return -errno;
	if (!a.sin6_port)
		return -EINVAL;
	u->xsk.port = be16toh(a.sin6_port);
	return watch(u, u->fd);
}

static void let_go(struct bb_udp *u)
{
	if (u->xsk.x)
		epoll_ctl(u->xsk.epoll, EPOLL_CTL_DEL, bb_xsk_fd(u->xsk.x), NULL);
	u->xsk.x = NULL;
	u->xsk.asked = false;
	bb_xsk_leave(u->pager);
}

void bb_udp_xsk_close(struct bb_udp *u)
{
	if (u->xsk.epoll >= 0) {
		let_go(u);
		close(u->xsk.epoll);
	}
	if (u->xsk.netlink >= 0)
		close(u->xsk.netlink);
	bb_udp_xsk_init(u);
}

/* --- the next hop ----------------------------------------------------------- */

struct question {
	struct nlmsghdr n;
	struct ndmsg d;
	struct rtattr a;
	struct in6_addr dst;
};

/* Return: 1 and the link address; 0 where there is none that can be used; -1: another message. */
static int neigh_answer(const struct nlmsghdr *n, size_t len, uint32_t seq, uint8_t mac[6])
{
	const uint16_t good = NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE;
	const struct ndmsg *d = NLMSG_DATA(n);
	const struct rtattr *a;
	int left;

	if (!NLMSG_OK(n, len) || n->nlmsg_seq != seq)
		return -1;
	if (n->nlmsg_type != RTM_NEWNEIGH || n->nlmsg_len < NLMSG_LENGTH(sizeof(*d)) || !(d->ndm_state & good))
		return 0;
	left = (int)NLMSG_PAYLOAD(n, sizeof(*d));
	for (a = (const void *)((const uint8_t *)d + NLMSG_ALIGN(sizeof(*d))); RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == NDA_LLADDR && RTA_PAYLOAD(a) == 6) {
			memcpy(mac, RTA_DATA(a), 6);
			return 1;
		}
	return 0;
}

static bool neigh_of(struct bb_udp *u, const struct in6_addr *via, unsigned int ifindex, uint8_t mac[6])
{
	struct question q = {
		.n = { .nlmsg_len = sizeof(q), .nlmsg_type = RTM_GETNEIGH, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = ++u->xsk.seq },
		.d = { .ndm_family = AF_INET6, .ndm_ifindex = (int)ifindex },
		.a = { .rta_len = RTA_LENGTH(sizeof(q.dst)), .rta_type = NDA_DST },
		.dst = *via,
	};
	_Alignas(struct nlmsghdr) uint8_t buf[1024];
	int ret;

	_Static_assert(sizeof(q) == NLMSG_SPACE(sizeof(q.d)) + RTA_SPACE(sizeof(q.dst)), "no room between");
	if (send(u->xsk.netlink, &q, sizeof(q), MSG_DONTWAIT) < 0)
		return false;
	/* It is answered within send(2). */
	do {
		ssize_t n = recv(u->xsk.netlink, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0)
			return false;
		ret = neigh_answer((const struct nlmsghdr *)buf, (size_t)n, u->xsk.seq, mac);
	} while (ret < 0);
	return ret;
}

void bb_udp_xsk_prepare(struct bb_udp *u, struct bb_udp_peer *p, uint64_t now)
{
	struct bb_peer info;

	if (!u->xsk.asked)
		u->xsk.asked = bb_xsk_want(u->pager);
	if (!u->xsk.x)
		return;
	if (now >= p->udp_until)
		p->udp_until = 0;
	if (now >= u->xsk.off_until)
		u->xsk.off_until = 0;
	if (now < p->mac_at)
		return;
	p->mac_at = now + MAC_NS;
	p->mac_known = p->node != BB_NODE_ANY && bb_peers_get(u->table, p->node, &info) &&
		       info.ifindex == bb_xsk_ifindex(u->xsk.x) && neigh_of(u, &info.via, info.ifindex, p->mac);
}

/* --- sending ---------------------------------------------------------------- */

void bb_udp_xsk_kick(struct bb_udp *u)
{
	unsigned int expected = 0;

	for (unsigned int i = 0; i < u->npeers; i++)
		expected += u->peer[i]->inflight;
	bb_xsk_expect(u->xsk.x, expected);
	if (bb_xsk_kick(u->xsk.x))
		u->xsk.off_until = bb_now_ns() + OFF_NS;
}

bool bb_udp_xsk_add(struct bb_udp *u, const struct bb_udp_peer *p, const struct sockaddr_in6 *to, const struct bb_hdr *h,
		    const void *data, size_t len)
{
	int r = -ENOBUFS;

	for (int i = 0; i < 2 && r == -ENOBUFS; i++) {
		if (i)
			bb_udp_xsk_kick(u);
		if (!p->mac_known || p->udp_until || u->xsk.off_until)
			return false;
		r = bb_xsk_add(u->xsk.x, p->mac, &u->self, u->xsk.port, to, h, sizeof(*h), data, len);
	}
	if (r)
		return false;
	u->sh->stats.tx_packets++;
	u->sh->stats.tx_xdp++;
	return true;
}

/* --- receiving -------------------------------------------------------------- */

/* What was known of next hops was of another device. */
static void take(struct bb_udp *u)
{
	struct bb_xsk *x = bb_xsk_take(u->pager);

	if (!x)
		return;
	if (watch(u, bb_xsk_fd(x))) {
		let_go(u);
		return;
	}
	u->xsk.x = x;
	u->xsk.off_until = 0;
	u->xsk.plain = PLAIN;
	for (unsigned int i = 0; i < u->npeers; i++) {
		u->peer[i]->mac_known = false;
		u->peer[i]->mac_at = 0;
	}
}

int bb_udp_xsk_recv(struct bb_udp *u)
{
	const enum bb_seat seat = bb_xsk_seat(u->pager);
	int n;

	if (!u->xsk.x && seat == BB_SEAT_OFFERED)
		take(u);
	if (!u->xsk.x)
		return -1;
	n = bb_xsk_recv(u->xsk.x);
	if (!n && seat == BB_SEAT_ASKED) { /* what had come is handed on first */
		let_go(u);
		return -1;
	}
	return n;
}

bool bb_udp_xsk_both(struct bb_udp *u)
{
	if (u->xsk.plain) {
		u->xsk.plain--;
		return true;
	}
	return ++u->xsk.looks % EVERY == 0;
}

void bb_udp_xsk_came(struct bb_udp *u)
{
	u->xsk.plain = PLAIN;
}
