/* SPDX-License-Identifier: MIT */
#include "net/routes_any.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

#include "log.h"
#include "net/routes.h"

#define TABLE BB_ROUTE_PROTO
#define PREFERENCE 178u /* after the local table, before all others */

struct bb_routes_any {
	int fd;
	uint32_t seq;
	struct in6_addr dst;
	char dev[IF_NAMESIZE];
};

struct request {
	struct nlmsghdr n;
	union {
		struct rtmsg r;
		struct fib_rule_hdr f;
	};
	uint8_t attrs[128];
};

static void add_attr(struct request *q, uint16_t type, const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)q + NLMSG_ALIGN(q->n.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	q->n.nlmsg_len = NLMSG_ALIGN(q->n.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

/* Sends it and waits for its acknowledgement, a second at most. Return: 0 or -errno. */
static int talk(struct bb_routes_any *a, struct request *q)
{
	_Alignas(struct nlmsghdr) uint8_t buf[4096];
	ssize_t got;

	q->n.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	q->n.nlmsg_seq = ++a->seq;
	if (send(a->fd, q, q->n.nlmsg_len, 0) < 0)
		return -errno;
	while ((got = recv(a->fd, buf, sizeof(buf), 0)) > 0 || (got < 0 && errno == EINTR)) {
		const struct nlmsghdr *n = (const struct nlmsghdr *)buf;

		if (got < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || n->nlmsg_seq != a->seq || n->nlmsg_type != NLMSG_ERROR)
			continue;
		return ((const struct nlmsgerr *)NLMSG_DATA(n))->error;
	}
	return errno == EAGAIN ? -ETIMEDOUT : -errno;
}

static int route(struct bb_routes_any *a, uint16_t type, uint16_t flags)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = type, .nlmsg_flags = flags },
		.r = { .rtm_family = AF_INET6, .rtm_dst_len = 48, .rtm_table = TABLE, .rtm_protocol = BB_ROUTE_PROTO,
		       .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_LOCAL },
	};
	const uint32_t lo = if_nametoindex("lo");

	add_attr(&q, RTA_DST, &a->dst, sizeof(a->dst));
	add_attr(&q, RTA_OIF, &lo, sizeof(lo));
	return talk(a, &q);
}

static int rule(struct bb_routes_any *a, uint16_t type, uint16_t flags)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct fib_rule_hdr)), .nlmsg_type = type, .nlmsg_flags = flags },
		.f = { .family = AF_INET6, .dst_len = 48, .table = TABLE, .action = FR_ACT_TO_TBL },
	};
	const uint32_t preference = PREFERENCE;
	const uint8_t proto = BB_ROUTE_PROTO;

	add_attr(&q, FRA_DST, &a->dst, sizeof(a->dst));
	add_attr(&q, FRA_IIFNAME, a->dev, strlen(a->dev) + 1);
	add_attr(&q, FRA_PRIORITY, &preference, sizeof(preference));
	add_attr(&q, FRA_PROTOCOL, &proto, sizeof(proto));
	return talk(a, &q);
}

int bb_routes_any_new(struct bb_routes_any **out, uint16_t tenant, uint16_t node, const char *dev)
{
	const struct bb_gptr g = { .tenant = tenant, .node = node };
	const struct timeval limit = { .tv_sec = 1 };
	struct bb_routes_any *a = calloc(1, sizeof(*a));
	int ret;

	if (!a)
		return -ENOMEM;
	bb_gptr_encode(&g, &a->dst);
	memcpy(a->dev, dev, strnlen(dev, sizeof(a->dev) - 1));
	a->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (a->fd < 0 || setsockopt(a->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))) {
		ret = -errno;
		goto err;
	}
	/* What a killed bbd has left is just what is wanted. */
	ret = route(a, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
	if (ret && ret != -EEXIST)
		goto err;
	ret = rule(a, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL);
	if (ret && ret != -EEXIST) {
		route(a, RTM_DELROUTE, 0);
		goto err;
	}
	*out = a;
	return 0;
err:
	bb_debug("packets for node %u are not taken: error %d of netlink", node, -ret);
	if (a->fd >= 0)
		close(a->fd);
	free(a);
	return ret;
}

void bb_routes_any_free(struct bb_routes_any *a)
{
	if (!a)
		return;
	rule(a, RTM_DELRULE, 0);
	route(a, RTM_DELROUTE, 0);
	close(a->fd);
	free(a);
}
