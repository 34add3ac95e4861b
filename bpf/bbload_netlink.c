/* SPDX-License-Identifier: MIT */
/*
 * Rules, routes and neighbours by rtnetlink, features of devices by ethtool's
 * ioctl, in the namespace that we are in. A socket a request: these are few.
 */
#include "bbload.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/fib_rules.h>
#include <linux/net_namespace.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

/* --- rtnetlink ---------------------------------------------------------------- */

struct request {
	struct nlmsghdr n;
	union {
		struct rtmsg r;
		struct ndmsg d;
		struct fib_rule_hdr f;
		struct ifinfomsg i;
		struct rtgenmsg g;
		struct tcmsg t;
	};
	uint8_t attrs[128];
};

typedef void (*answer_fn)(const struct nlmsghdr *n, void *arg);

static void add_attr(struct request *q, uint16_t type, const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)q + NLMSG_ALIGN(q->n.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	q->n.nlmsg_len = (uint32_t)(NLMSG_ALIGN(q->n.nlmsg_len) + RTA_ALIGN(a->rta_len));
}

static const void *find_attr(const struct nlmsghdr *n, size_t head, uint16_t type, unsigned int want)
{
	const struct rtattr *a = (const void *)((const uint8_t *)NLMSG_DATA(n) + NLMSG_ALIGN(head));
	int len = (int)(n->nlmsg_len - NLMSG_LENGTH(NLMSG_ALIGN(head)));

	for (; RTA_OK(a, len); a = RTA_NEXT(a, len))
		if ((a->rta_type & NLA_TYPE_MASK) == type && RTA_PAYLOAD(a) >= want)
			return RTA_DATA(a);
	return NULL;
}

/* Sends and reads until the acknowledgement or the end of a dump. Return: 0 or -errno. */
static int talk(struct request *q, answer_fn each, void *arg)
{
	const struct timeval limit = { .tv_sec = 2 };
	_Alignas(struct nlmsghdr) uint8_t buf[32768];
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), ret = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	q->n.nlmsg_flags |= NLM_F_REQUEST | (q->n.nlmsg_flags == NLM_F_DUMP ? 0 : NLM_F_ACK);
	q->n.nlmsg_seq = 1;
	if (send(fd, q, q->n.nlmsg_len, 0) < 0)
		ret = -errno;
	while (ret > 0) {
		ssize_t got = recv(fd, buf, sizeof(buf), 0);
		int len = (int)got;

		if (got < 0)
			ret = errno == EINTR ? 1 : errno == EAGAIN ? -ETIMEDOUT : -errno;
		for (const struct nlmsghdr *n = (const void *)buf; ret > 0 && NLMSG_OK(n, (unsigned int)len);
		     n = NLMSG_NEXT(n, len)) {
			if (n->nlmsg_type == NLMSG_DONE)
				ret = 0;
			else if (n->nlmsg_type == NLMSG_ERROR)
				ret = ((const struct nlmsgerr *)NLMSG_DATA(n))->error;
			else if (each)
				each(n, arg);
		}
	}
	close(fd);
	return ret;
}

/* --- the rule and the route of adopted pages --------------------------------------- */

struct look {
	const char *dev;
	const struct in6_addr *via;
	unsigned int ifindex;
	struct neigh *neigh;
	int found;
};

static void see_rule(const struct nlmsghdr *n, void *arg)
{
	const struct fib_rule_hdr *h = NLMSG_DATA(n);
	struct look *l = arg;
	const char *iif = find_attr(n, sizeof(*h), FRA_IIFNAME, 1);
	const uint32_t *table = find_attr(n, sizeof(*h), FRA_TABLE, 4);

	if (n->nlmsg_type == RTM_NEWRULE && h->action == FR_ACT_TO_TBL && !h->src_len && !h->dst_len && iif &&
	    !strcmp(iif, l->dev) && (table ? *table : h->table) == BB_TABLE)
		l->found = 1;
}

int net_rule_there(const char *dev)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.f)), .nlmsg_type = RTM_GETRULE, .nlmsg_flags = NLM_F_DUMP },
		.f = { .family = AF_INET6 },
	};
	struct look l = { .dev = dev };
	int ret = talk(&q, see_rule, &l);

	return ret ? ret : l.found;
}

int net_rule_change(const char *dev, bool add)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.f)),
		       .nlmsg_type = add ? RTM_NEWRULE : RTM_DELRULE,
		       .nlmsg_flags = add ? NLM_F_CREATE | NLM_F_EXCL : 0 },
		.f = { .family = AF_INET6, .table = BB_TABLE, .action = FR_ACT_TO_TBL },
	};

	add_attr(&q, FRA_IIFNAME, dev, strlen(dev) + 1);
	return talk(&q, NULL, NULL);
}

static void scope_prefix(struct in6_addr *a)
{
	*a = (struct in6_addr){ .s6_addr = { BB_SCOPE_PREFIX >> 8, BB_SCOPE_PREFIX & 0xff } };
}

static void see_route(const struct nlmsghdr *n, void *arg)
{
	const struct rtmsg *m = NLMSG_DATA(n);
	const struct in6_addr *dst = find_attr(n, sizeof(*m), RTA_DST, 16);
	struct look *l = arg;

	if (n->nlmsg_type == RTM_NEWROUTE && m->rtm_table == BB_TABLE && m->rtm_dst_len == 16 && m->rtm_type == RTN_LOCAL &&
	    dst && dst->s6_addr[0] == BB_SCOPE_PREFIX >> 8 && dst->s6_addr[1] == (BB_SCOPE_PREFIX & 0xff))
		l->found = 1;
}

int net_route_there(void)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.r)), .nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_DUMP },
		.r = { .rtm_family = AF_INET6 },
	};
	struct look l = { 0 };
	int ret = talk(&q, see_route, &l);

	return ret ? ret : l.found;
}

int net_route_change(bool add)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.r)),
		       .nlmsg_type = add ? RTM_NEWROUTE : RTM_DELROUTE,
		       .nlmsg_flags = add ? NLM_F_CREATE | NLM_F_EXCL : 0 },
		.r = { .rtm_family = AF_INET6,
		       .rtm_dst_len = 16,
		       .rtm_table = BB_TABLE,
		       .rtm_protocol = RTPROT_STATIC,
		       .rtm_scope = RT_SCOPE_UNIVERSE,
		       .rtm_type = RTN_LOCAL },
	};
	uint32_t lo = if_nametoindex("lo");
	struct in6_addr dst;

	scope_prefix(&dst);
	add_attr(&q, RTA_DST, &dst, sizeof(dst));
	add_attr(&q, RTA_OIF, &lo, sizeof(lo));
	return talk(&q, NULL, NULL);
}

/* --- neighbours --------------------------------------------------------------------------- */

static void see_neigh(const struct nlmsghdr *n, void *arg)
{
	const struct ndmsg *m = NLMSG_DATA(n);
	const struct in6_addr *dst = find_attr(n, sizeof(*m), NDA_DST, 16);
	const uint8_t *mac = find_attr(n, sizeof(*m), NDA_LLADDR, 6);
	struct look *l = arg;

	if (n->nlmsg_type != RTM_NEWNEIGH || m->ndm_ifindex != (int)l->ifindex || !dst || memcmp(dst, l->via, 16) ||
	    (m->ndm_flags & NTF_PROXY))
		return;
	l->neigh->state = m->ndm_state;
	if (mac)
		memcpy(l->neigh->mac, mac, 6);
}

int net_neigh_get(unsigned int ifindex, const struct in6_addr *via, struct neigh *n)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.d)), .nlmsg_type = RTM_GETNEIGH, .nlmsg_flags = NLM_F_DUMP },
		.d = { .ndm_family = AF_INET6 },
	};
	struct look l = { .via = via, .ifindex = ifindex, .neigh = n };

	*n = (struct neigh){ 0 };
	return talk(&q, see_neigh, &l);
}

int net_neigh_set(unsigned int ifindex, const struct in6_addr *via, const struct neigh *n)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.d)),
		       .nlmsg_type = RTM_NEWNEIGH,
		       .nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE },
		.d = { .ndm_family = AF_INET6, .ndm_ifindex = (int)ifindex, .ndm_state = n->state },
	};

	add_attr(&q, NDA_DST, via, sizeof(*via));
	add_attr(&q, NDA_LLADDR, n->mac, 6);
	return talk(&q, NULL, NULL);
}

int net_neigh_del(unsigned int ifindex, const struct in6_addr *via)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.d)), .nlmsg_type = RTM_DELNEIGH },
		.d = { .ndm_family = AF_INET6, .ndm_ifindex = (int)ifindex },
	};

	add_attr(&q, NDA_DST, via, sizeof(*via));
	return talk(&q, NULL, NULL);
}

int net_neigh_resolve(unsigned int ifindex, const struct in6_addr *via, struct neigh *n)
{
	const struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_addr = *via, .sin6_scope_id = ifindex };
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret = -EHOSTUNREACH;

	if (fd < 0)
		return -errno;
	/* The discard port: what counts is that the kernel asks for the address. */
	if (sendto(fd, "", 0, MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof(to)) < 0)
		ret = -errno;
	for (int i = 0; i < 20 && ret == -EHOSTUNREACH; i++) {
		usleep(50000);
		if (!net_neigh_get(ifindex, via, n) && (n->state & (NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE | NUD_PERMANENT)))
			ret = 0;
	}
	close(fd);
	return ret;
}

/* --- the other end of a veth ------------------------------------------------------------------ */

struct link_look {
	uint32_t peer;
	int32_t nsid;
	bool far;
};

static void see_link(const struct nlmsghdr *n, void *arg)
{
	const uint32_t *peer = find_attr(n, sizeof(struct ifinfomsg), IFLA_LINK, 4);
	const int32_t *nsid = find_attr(n, sizeof(struct ifinfomsg), IFLA_LINK_NETNSID, 4);
	struct link_look *l = arg;

	if (n->nlmsg_type != RTM_NEWLINK || !peer)
		return;
	l->peer = *peer;
	l->far = nsid != NULL;
	l->nsid = nsid ? *nsid : -1;
}

static void see_nsid(const struct nlmsghdr *n, void *arg)
{
	const int32_t *id = find_attr(n, sizeof(struct rtgenmsg), NETNSA_NSID, 4);

	if (id)
		*(int32_t *)arg = *id;
}

/* Which named namespace has this number here? */
static int open_nsid(int32_t want)
{
	DIR *d = opendir("/run/netns");
	int found = -ENOENT;
	struct dirent *e;

	while (d && found < 0 && (e = readdir(d))) {
		struct request q = {
			.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.g)), .nlmsg_type = RTM_GETNSID },
		};
		int fd = e->d_name[0] == '.' ? -1 : openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
		int32_t id = -1;

		if (fd < 0)
			continue;
		add_attr(&q, NETNSA_FD, &fd, sizeof(fd));
		if (!talk(&q, see_nsid, &id) && id == want && id >= 0)
			found = fd;
		else
			close(fd);
	}
	if (d)
		closedir(d);
	return found;
}

int net_peer(unsigned int ifindex, unsigned int *peer, int *ns)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.i)), .nlmsg_type = RTM_GETLINK },
		.i = { .ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex },
	};
	struct link_look l = { 0 };
	int ret = talk(&q, see_link, &l);

	if (ret)
		return ret;
	if (!l.peer)
		return -ENOENT;
	*peer = l.peer;
	*ns = l.far ? open_nsid(l.nsid) : -1;
	return l.far && *ns < 0 ? -ENOENT : 0;
}

/* --- filters --- */

static void see_filter(const struct nlmsghdr *n, void *arg)
{
	/* A chain's head comes first, without a handle. */
	if (n->nlmsg_type == RTM_NEWTFILTER && ((const struct tcmsg *)NLMSG_DATA(n))->tcm_handle)
		++*(int *)arg;
}

static void see_qdisc(const struct nlmsghdr *n, void *arg)
{
	const struct tcmsg *t = NLMSG_DATA(n);
	struct look *l = arg;

	if (n->nlmsg_type == RTM_NEWQDISC && t->tcm_ifindex == (int)l->ifindex && t->tcm_parent == TC_H_CLSACT)
		l->found = 1;
}

int net_clsact_there(unsigned int ifindex)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.t)), .nlmsg_type = RTM_GETQDISC, .nlmsg_flags = NLM_F_DUMP },
		.t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = (int)ifindex },
	};
	struct look l = { .ifindex = ifindex };
	int ret = talk(&q, see_qdisc, &l);

	return ret ? ret : l.found;
}

int net_filters(unsigned int ifindex)
{
	static const uint32_t parents[] = { TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS), TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS) };
	int n = 0, ret = 0;

	for (int i = 0; i < 2 && !ret; i++) {
		struct request q = {
			.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.t)), .nlmsg_type = RTM_GETTFILTER, .nlmsg_flags = NLM_F_DUMP },
			.t = { .tcm_family = AF_UNSPEC, .tcm_ifindex = (int)ifindex, .tcm_parent = parents[i] },
		};

		ret = talk(&q, see_filter, &n);
	}
	return ret ? ret : n;
}

/* --- features ----------------------------------------------------------------------------------- */

static int ethtool(const char *dev, void *cmd)
{
	struct ifreq q = { .ifr_data = cmd };
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret = 0;

	if (fd < 0)
		return -errno;
	snprintf(q.ifr_name, sizeof(q.ifr_name), "%s", dev);
	if (ioctl(fd, SIOCETHTOOL, &q) < 0) /* above 0: what of it was only wished */
		ret = -errno;
	close(fd);
	return ret;
}

/* Return: names of all features, each of ETH_GSTRING_LEN, to be freed; NULL with -errno in *n. */
static struct ethtool_gstrings *feature_names(const char *dev, int *n)
{
	struct {
		struct ethtool_sset_info info;
		uint32_t count;
	} s = { .info = { .cmd = ETHTOOL_GSSET_INFO, .sset_mask = 1ULL << ETH_SS_FEATURES } };
	struct ethtool_gstrings *g;
	int ret = ethtool(dev, &s);

	if (ret || !s.info.sset_mask) {
		*n = ret ? ret : -EOPNOTSUPP;
		return NULL;
	}
	*n = (int)s.count;
	g = calloc(1, sizeof(*g) + (size_t)s.count * ETH_GSTRING_LEN);
	if (!g) {
		*n = -ENOMEM;
		return NULL;
	}
	g->cmd = ETHTOOL_GSTRINGS;
	g->string_set = ETH_SS_FEATURES;
	g->len = s.count;
	ret = ethtool(dev, g);
	if (ret) {
		free(g);
		*n = ret;
		return NULL;
	}
	return g;
}

static const char *name_at(const struct ethtool_gstrings *g, int i)
{
	return (const char *)g->data + i * ETH_GSTRING_LEN;
}

int net_features_on(const char *dev, const char *begin, json_t *names)
{
	struct {
		struct ethtool_gfeatures g;
		struct ethtool_get_features_block b[8];
	} f = { .g = { .cmd = ETHTOOL_GFEATURES, .size = 8 } };
	struct ethtool_gstrings *g;
	int n, ret;

	g = feature_names(dev, &n);
	if (!g)
		return n;
	ret = ethtool(dev, &f);
	for (int i = 0; !ret && i < n && i < 8 * 32; i++) {
		const struct ethtool_get_features_block *b = &f.b[i / 32];

		if (strncmp(name_at(g, i), begin, strlen(begin)) || !(b->active >> (i % 32) & 1) || !(b->available >> (i % 32) & 1))
			continue;
		json_array_append_new(names, json_string(name_at(g, i)));
	}
	free(g);
	return ret;
}

int net_features_set(const char *dev, const json_t *names, bool on)
{
	struct {
		struct ethtool_sfeatures s;
		struct ethtool_set_features_block b[8];
	} f = { .s = { .cmd = ETHTOOL_SFEATURES } };
	struct ethtool_gstrings *g;
	int n, ret;

	g = feature_names(dev, &n);
	if (!g)
		return n;
	f.s.size = (uint32_t)(n + 31) / 32;
	for (int i = 0; i < n && i < 8 * 32; i++)
		for (size_t k = 0; k < json_array_size(names); k++) {
			const char *name = json_string_value(json_array_get(names, k));

			if (!name || strncmp(name, name_at(g, i), ETH_GSTRING_LEN))
				continue;
			f.b[i / 32].valid |= 1u << (i % 32);
			f.b[i / 32].requested |= on ? 1u << (i % 32) : 0;
		}
	free(g);
	if (f.s.size > 8)
		return -EOPNOTSUPP;
	ret = ethtool(dev, &f);
	return ret;
}
