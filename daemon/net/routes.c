/* SPDX-License-Identifier: MIT */
/*
 * Routes and neighbours by rtnetlink. One request at a time on one socket,
 * each with a deadline of a second; requests that find things set by hand
 * leave them as they are.
 *
 * A bbd that was killed leaves its routes behind. They are known by their
 * protocol number, and the next bbd of the same tenant takes them away.
 *
 * What others do to routes, neighbours and links is heard on a second socket;
 * when something of ours may have gone, all of it is looked at, else one hop a
 * tick. What is missing is set again and said, at most once a minute.
 */
#include "net/routes.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

#include "clock.h"
#include "log.h"

#define ANSWER_NS 1000000000ULL
#define SAY_NS 60000000000ULL
#define NEWS_MAX 256 /* messages looked at in one tick */

struct hop {
	uint16_t node;
	bool route_ours;	/* we added its route */
	bool neigh_ours;	/* and its permanent neighbour */
	bool complained;
	struct in6_addr via;
	uint32_t ifindex;
};

struct bb_routes {
	int fd, news; /* news -1: nothing is heard */
	uint32_t seq;
	uint64_t said_at;
	unsigned int repaired; /* and not said */
	uint16_t tenant, node;
	uint32_t lo;
	bool local_ours;
	bool flushed; /* an entry of ours was taken away */
	struct hop *hops;
	unsigned int nhops, turn;
};

struct request {
	struct nlmsghdr n;
	union {
		struct rtmsg r;
		struct ndmsg d;
	};
	uint8_t attrs[128];
};

static void add_attr(struct request *q, uint16_t type, const void *data, unsigned int len)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)q + NLMSG_ALIGN(q->n.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	q->n.nlmsg_len = NLMSG_ALIGN(q->n.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

static const void *find_attr(const struct rtattr *a, int len, uint16_t type, unsigned int want)
{
	for (; RTA_OK(a, len); a = RTA_NEXT(a, len))
		if (a->rta_type == type && RTA_PAYLOAD(a) >= want)
			return RTA_DATA(a);
	return NULL;
}

typedef void (*answer_fn)(const struct nlmsghdr *n, void *arg);

/*
 * Sends a request and reads until its acknowledgement, or the end of a dump.
 * each, where given, sees every answer before. Return: 0 or -errno.
 */
static int talk(struct bb_routes *r, struct request *q, answer_fn each, void *arg)
{
	const uint64_t end = bb_now_ns() + ANSWER_NS;
	_Alignas(struct nlmsghdr) uint8_t buf[16384];
	struct sockaddr_nl from;
	socklen_t fromlen;

	/* The bits of a dump mean REPLACE and EXCL in requests that change. */
	q->n.nlmsg_flags |= NLM_F_REQUEST | (q->n.nlmsg_flags == NLM_F_DUMP ? 0 : NLM_F_ACK);
	q->n.nlmsg_seq = ++r->seq;
	if (send(r->fd, q, q->n.nlmsg_len, 0) < 0)
		return -errno;
	while (bb_now_ns() < end) {
		ssize_t got;
		int len;

		fromlen = sizeof(from);
		got = recvfrom(r->fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &fromlen);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (from.nl_pid)
			continue; /* not the kernel */
		len = (int)got;
		for (struct nlmsghdr *n = (struct nlmsghdr *)buf; NLMSG_OK(n, (unsigned int)len);
		     n = NLMSG_NEXT(n, len)) {
			if (n->nlmsg_seq != r->seq)
				continue;
			if (n->nlmsg_type == NLMSG_DONE)
				return 0;
			if (n->nlmsg_type == NLMSG_ERROR) {
				if (n->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)))
					return -EBADMSG;
				return ((struct nlmsgerr *)NLMSG_DATA(n))->error;
			}
			if (each)
				each(n, arg);
		}
	}
	return -ETIMEDOUT;
}

static void prefix_of(const struct bb_routes *r, uint16_t node, struct in6_addr *a)
{
	const struct bb_gptr g = { .tenant = r->tenant, .node = node };

	bb_gptr_encode(&g, a);
}

/* --- routes ------------------------------------------------------------- */

/* via NULL: the local route. */
static int route_change(struct bb_routes *r, uint16_t type, uint16_t flags, uint16_t node, const struct in6_addr *via,
			uint32_t ifindex)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = type, .nlmsg_flags = flags },
		.r = { .rtm_family = AF_INET6,
		       .rtm_dst_len = 48,
		       .rtm_table = via ? RT_TABLE_MAIN : RT_TABLE_LOCAL,
		       .rtm_protocol = BB_ROUTE_PROTO,
		       .rtm_scope = RT_SCOPE_UNIVERSE,
		       .rtm_type = via ? RTN_UNICAST : RTN_LOCAL },
	};
	struct in6_addr dst;

	prefix_of(r, node, &dst);
	add_attr(&q, RTA_DST, &dst, sizeof(dst));
	if (via)
		add_attr(&q, RTA_GATEWAY, via, sizeof(*via));
	if (ifindex)
		add_attr(&q, RTA_OIF, &ifindex, sizeof(ifindex));
	return talk(r, &q, NULL, NULL);
}

struct lookup {
	const struct in6_addr *via; /* NULL: is it local? */
	bool yes;
};

static void see_lookup(const struct nlmsghdr *n, void *arg)
{
	const struct rtmsg *m = NLMSG_DATA(n);
	struct lookup *l = arg;
	const void *gw;

	if (n->nlmsg_type != RTM_NEWROUTE || n->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
		return;
	gw = find_attr(RTM_RTA(m), (int)RTM_PAYLOAD(n), RTA_GATEWAY, 16);
	if (l->via)
		l->yes = gw && !memcmp(gw, l->via, sizeof(*l->via));
	else
		l->yes = m->rtm_type == RTN_LOCAL;
}

/* Does the kernel already send the node's pages there? Anyone may ask. */
static bool route_is(struct bb_routes *r, uint16_t node, const struct in6_addr *via)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = RTM_GETROUTE },
		.r = { .rtm_family = AF_INET6, .rtm_dst_len = 128 },
	};
	struct lookup l = { .via = via };
	struct in6_addr dst;

	prefix_of(r, node, &dst);
	dst.s6_addr[15] = 1;
	add_attr(&q, RTA_DST, &dst, sizeof(dst));
	return !talk(r, &q, see_lookup, &l) && l.yes;
}

struct stale {
	const struct bb_routes *r;
	struct {
		struct in6_addr dst;
		uint8_t type;
	} found[256];
	unsigned int n;
};

static void see_stale(const struct nlmsghdr *n, void *arg)
{
	const struct rtmsg *m = NLMSG_DATA(n);
	struct stale *s = arg;
	struct bb_gptr g;
	const void *dst;

	if (n->nlmsg_type != RTM_NEWROUTE || n->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
		return;
	if (m->rtm_protocol != BB_ROUTE_PROTO || m->rtm_dst_len != 48 || s->n == sizeof(s->found) / sizeof(s->found[0]))
		return;
	dst = find_attr(RTM_RTA(m), (int)RTM_PAYLOAD(n), RTA_DST, 16);
	if (!dst || !bb_gptr_decode(dst, &g) || g.tenant != s->r->tenant)
		return;
	memcpy(&s->found[s->n].dst, dst, 16);
	s->found[s->n++].type = m->rtm_type;
}

static void remove_stale(struct bb_routes *r)
{
	struct stale s;

	/* A dump that was too long for one pass is taken up again. */
	do {
		struct request q = {
			.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)),
			       .nlmsg_type = RTM_GETROUTE,
			       .nlmsg_flags = NLM_F_DUMP },
			.r = { .rtm_family = AF_INET6 },
		};
		unsigned int gone = 0;

		s.r = r;
		s.n = 0;
		if (talk(r, &q, see_stale, &s))
			return;
		for (unsigned int i = 0; i < s.n; i++) {
			struct request d = {
				.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = RTM_DELROUTE },
				.r = { .rtm_family = AF_INET6,
				       .rtm_dst_len = 48,
				       .rtm_table = s.found[i].type == RTN_LOCAL ? RT_TABLE_LOCAL : RT_TABLE_MAIN,
				       .rtm_protocol = BB_ROUTE_PROTO,
				       .rtm_type = s.found[i].type },
			};

			add_attr(&d, RTA_DST, &s.found[i].dst, 16);
			gone += !talk(r, &d, NULL, NULL);
		}
		if (!gone)
			return;
	} while (s.n == sizeof(s.found) / sizeof(s.found[0]));
}

/* --- neighbours --------------------------------------------------------- */

struct neigh {
	uint16_t state;
	uint8_t lladdr[32];
	unsigned int len;
};

static void see_neigh(const struct nlmsghdr *n, void *arg)
{
	const struct ndmsg *m = NLMSG_DATA(n);
	struct neigh *out = arg;
	const struct rtattr *a;
	int len;

	if (n->nlmsg_type != RTM_NEWNEIGH || n->nlmsg_len < NLMSG_LENGTH(sizeof(*m)))
		return;
	out->state = m->ndm_state;
	a = (const struct rtattr *)((const uint8_t *)m + NLMSG_ALIGN(sizeof(*m)));
	len = (int)NLMSG_PAYLOAD(n, sizeof(*m));
	for (; RTA_OK(a, len); a = RTA_NEXT(a, len))
		if (a->rta_type == NDA_LLADDR && RTA_PAYLOAD(a) <= sizeof(out->lladdr)) {
			out->len = (unsigned int)RTA_PAYLOAD(a);
			memcpy(out->lladdr, RTA_DATA(a), out->len);
		}
}

static int neigh_talk(struct bb_routes *r, const struct hop *h, uint16_t type, uint16_t flags, struct neigh *set,
		      struct neigh *get)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ndmsg)), .nlmsg_type = type, .nlmsg_flags = flags },
		.d = { .ndm_family = AF_INET6, .ndm_ifindex = (int)h->ifindex },
	};

	add_attr(&q, NDA_DST, &h->via, sizeof(h->via));
	if (set) {
		q.d.ndm_state = set->state;
		add_attr(&q, NDA_LLADDR, set->lladdr, set->len);
	}
	return talk(r, &q, get ? see_neigh : NULL, get);
}

static void neigh_fix(struct bb_routes *r, struct hop *h)
{
	struct neigh n = { 0 };

	if (neigh_talk(r, h, RTM_GETNEIGH, 0, NULL, &n) || !n.len || n.state != NUD_REACHABLE)
		return; /* not known yet, or set by somebody else */
	n.state = NUD_PERMANENT;
	h->neigh_ours = !neigh_talk(r, h, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &n, NULL);
}

static void neigh_drop(struct bb_routes *r, struct hop *h)
{
	bool shared = false;

	if (!h->neigh_ours)
		return;
	h->neigh_ours = false;
	/* Two nodes behind one next hop: the other one still needs it. */
	for (unsigned int i = 0; i < r->nhops && !shared; i++)
		shared = &r->hops[i] != h && r->hops[i].neigh_ours && r->hops[i].ifindex == h->ifindex &&
			 !memcmp(&r->hops[i].via, &h->via, sizeof(h->via));
	if (!shared)
		neigh_talk(r, h, RTM_DELNEIGH, 0, NULL, NULL);
}

/* --- the whole ---------------------------------------------------------- */

static void set_local(struct bb_routes *r)
{
	int ret = route_change(r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, r->node, NULL, r->lo);

	if (!ret) {
		r->local_ours = true;
		return;
	}
	if (ret == -EEXIST || route_is(r, r->node, NULL))
		return;
	errno = -ret;
	bb_warn("cannot make the addresses of this host's memory its own: %m; pages of this host cannot be reached until "
		"somebody with CAP_NET_ADMIN runs: ip -6 route add local fdbb:%x:%x::/48 dev lo", r->tenant, r->node);
}

static void open_news(struct bb_routes *r)
{
	const struct sockaddr_nl me = {
		.nl_family = AF_NETLINK,
		.nl_groups = RTMGRP_IPV6_ROUTE | RTMGRP_NEIGH | RTMGRP_LINK,
	};

	r->news = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (r->news >= 0 && bind(r->news, (const struct sockaddr *)&me, sizeof(me))) {
		close(r->news);
		r->news = -1;
	}
}

int bb_routes_new(struct bb_routes **out, uint16_t tenant, uint16_t node)
{
	const struct timeval limit = { .tv_sec = 1 };
	struct bb_routes *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return -ENOMEM;
	r->tenant = tenant;
	r->node = node;
	r->lo = if_nametoindex("lo");
	r->news = -1;
	r->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (r->fd < 0 || setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))) {
		ret = -errno;
		bb_warn("cannot speak to the kernel of routes: %m; routes to peers have to be set by hand");
		bb_routes_free(r);
		return ret;
	}
	remove_stale(r);
	set_local(r);
	open_news(r);
	*out = r;
	return 0;
}

void bb_routes_free(struct bb_routes *r)
{
	if (!r)
		return;
	for (unsigned int i = 0; i < r->nhops; i++) {
		struct hop *h = &r->hops[i];

		if (h->route_ours)
			route_change(r, RTM_DELROUTE, 0, h->node, &h->via, h->ifindex);
		neigh_drop(r, h);
	}
	if (r->local_ours)
		route_change(r, RTM_DELROUTE, 0, r->node, NULL, r->lo);
	if (r->fd >= 0)
		close(r->fd);
	if (r->news >= 0)
		close(r->news);
	free(r->hops);
	free(r);
}

static struct hop *hop_of(struct bb_routes *r, uint16_t node, bool make)
{
	struct hop *h;

	for (unsigned int i = 0; i < r->nhops; i++)
		if (r->hops[i].node == node)
			return &r->hops[i];
	if (!make)
		return NULL;
	h = reallocarray(r->hops, r->nhops + 1, sizeof(*h));
	if (!h)
		return NULL;
	r->hops = h;
	h += r->nhops++;
	memset(h, 0, sizeof(*h));
	h->node = node;
	return h;
}

int bb_routes_peer(struct bb_routes *r, uint16_t node, const struct in6_addr *via, uint32_t ifindex)
{
	char dev[IF_NAMESIZE] = "?", addr[INET6_ADDRSTRLEN];
	struct hop *h = hop_of(r, node, true);
	int ret;

	if (!h)
		return -ENOMEM;
	if (ifindex == r->lo || (h->ifindex == ifindex && !memcmp(&h->via, via, sizeof(*via))))
		return 0;
	neigh_drop(r, h);
	/* A route of ours is replaced at once; one that somebody set by hand stays. */
	if (h->route_ours)
		ret = route_change(r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, node, via, ifindex);
	else
		ret = route_change(r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, node, via, ifindex);
	if (ret && h->route_ours) {
		/* The old one leads nowhere now. */
		route_change(r, RTM_DELROUTE, 0, node, &h->via, h->ifindex);
		h->route_ours = false;
	}
	h->via = *via;
	h->ifindex = ifindex;
	if (!ret) {
		h->route_ours = true;
		return 0;
	}
	if (ret == -EEXIST || route_is(r, node, via))
		return 0;
	if (!h->complained) {
		h->complained = true;
		if_indextoname(ifindex, dev);
		inet_ntop(AF_INET6, via, addr, sizeof(addr));
		errno = -ret;
		bb_warn("cannot set the route to node %u: %m; its memory cannot be reached until somebody with "
			"CAP_NET_ADMIN runs: ip -6 route replace fdbb:%x:%x::/48 via %s dev %s",
			node, r->tenant, node, addr, dev);
	}
	return ret;
}

void bb_routes_peer_lost(struct bb_routes *r, uint16_t node)
{
	struct hop *h = hop_of(r, node, false);

	if (!h)
		return;
	neigh_drop(r, h);
	h->ifindex = 0; /* set the route again when it is back */
}

void bb_routes_peer_doubt(struct bb_routes *r, uint16_t node)
{
	struct hop *h = hop_of(r, node, false);

	if (h)
		neigh_drop(r, h);
}

int bb_routes_link(struct bb_routes *r, uint16_t node, uint8_t mac[6], uint32_t *ifindex)
{
	struct hop *h = hop_of(r, node, false);
	struct neigh n = { 0 };

	if (!h || neigh_talk(r, h, RTM_GETNEIGH, 0, NULL, &n) || n.len != 6)
		return -ENOENT;
	memcpy(mac, n.lladdr, 6);
	*ifindex = h->ifindex;
	return 0;
}

/* --- what others do ------------------------------------------------------- */

/* The next hop's entry is no longer what we made it. */
static void neigh_news(struct bb_routes *r, const struct nlmsghdr *n)
{
	const struct ndmsg *m = NLMSG_DATA(n);
	const struct rtattr *a = (const struct rtattr *)((const uint8_t *)m + NLMSG_ALIGN(sizeof(*m)));
	const void *dst;

	if (n->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || m->ndm_family != AF_INET6 ||
	    (n->nlmsg_type == RTM_NEWNEIGH && m->ndm_state & NUD_PERMANENT))
		return;
	dst = find_attr(a, (int)NLMSG_PAYLOAD(n, sizeof(*m)), NDA_DST, 16);
	for (unsigned int i = 0; dst && i < r->nhops; i++)
		if (r->hops[i].ifindex == (uint32_t)m->ndm_ifindex && !memcmp(&r->hops[i].via, dst, 16)) {
			r->flushed |= r->hops[i].neigh_ours && n->nlmsg_type == RTM_DELNEIGH;
			r->hops[i].neigh_ours = false;
		}
}

/* Return: may something of ours be gone? */
static bool hear(struct bb_routes *r)
{
	_Alignas(struct nlmsghdr) uint8_t buf[16384];
	bool gone = false;

	for (unsigned int i = 0; i < NEWS_MAX; i++) {
		ssize_t got = recv(r->news, buf, sizeof(buf), MSG_DONTWAIT);
		int len = (int)got;

		if (got < 0 && errno == EAGAIN)
			return gone;
		if (got < 0) /* more than there was room for */
			return true;
		for (struct nlmsghdr *n = (struct nlmsghdr *)buf; NLMSG_OK(n, (unsigned int)len); n = NLMSG_NEXT(n, len)) {
			const struct rtmsg *m = NLMSG_DATA(n);

			if (n->nlmsg_type == RTM_NEWNEIGH || n->nlmsg_type == RTM_DELNEIGH)
				neigh_news(r, n);
			else if (n->nlmsg_type == RTM_DELROUTE && n->nlmsg_len >= NLMSG_LENGTH(sizeof(*m)))
				gone |= m->rtm_protocol == BB_ROUTE_PROTO;
			else if (n->nlmsg_type == RTM_NEWLINK)
				gone = true;
		}
	}
	return true;
}

/* --- now and then --------------------------------------------------------- */

static bool check_local(struct bb_routes *r)
{
	return r->local_ours && !route_is(r, r->node, NULL) &&
	       !route_change(r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, r->node, NULL, r->lo);
}

static bool check_hop(struct bb_routes *r, struct hop *h)
{
	const struct in6_addr via = h->via;
	const uint32_t dev = h->ifindex;

	if (!dev || route_is(r, h->node, &via))
		return false;
	neigh_drop(r, h);
	h->ifindex = 0;
	return !bb_routes_peer(r, h->node, &via, dev) && route_is(r, h->node, &via);
}

/* An interface that went down and up has lost its routes. */
static void check(struct bb_routes *r, bool all)
{
	unsigned int n = all ? r->nhops + 1 : 1;

	while (n--) {
		if (r->turn >= r->nhops) {
			r->turn = 0;
			r->repaired += check_local(r);
		} else {
			r->repaired += check_hop(r, &r->hops[r->turn++]);
		}
	}
}

bool bb_routes_tick(struct bb_routes *r)
{
	const uint64_t now = bb_now_ns();

	r->flushed = false;
	check(r, r->news >= 0 && hear(r));
	/* The next hop of any node is that of another, whose entry it is. */
	for (unsigned int i = 0; i < r->nhops; i++)
		if (r->hops[i].node != BB_NODE_ANY && r->hops[i].ifindex && r->hops[i].route_ours && !r->hops[i].neigh_ours)
			neigh_fix(r, &r->hops[i]);
	if (r->repaired && (!r->said_at || now - r->said_at > SAY_NS)) {
		bb_warn("%u of our routes were gone (deleted, or their interface went down): set again", r->repaired);
		r->said_at = now;
		r->repaired = 0;
	}
	return r->flushed;
}
