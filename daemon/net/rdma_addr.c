/* SPDX-License-Identifier: MIT */
/*
 * The node's base address on the RDMA device's interface: that puts it into the
 * device's table of GIDs, so that others reach it by what they compute. It is
 * never preferred, lest the kernel speak from it of its own accord, and has no
 * prefix and no duplicate address detection: its routes are routes.c's.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "net/rdma_dev.h"

struct request {
	struct nlmsghdr n;
	struct ifaddrmsg a;
	uint8_t attrs[128];
};

static void add(struct request *q, uint16_t type, const void *data, size_t len)
{
	struct rtattr *a = (struct rtattr *)((uint8_t *)q + NLMSG_ALIGN(q->n.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (uint16_t)RTA_LENGTH(len);
	memcpy(RTA_DATA(a), data, len);
	q->n.nlmsg_len = NLMSG_ALIGN(q->n.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

/* Return: 0 or -errno, as the kernel says. */
static int talk(const struct request *q)
{
	const struct timeval second = { .tv_sec = 1 };
	struct {
		struct nlmsghdr n;
		struct nlmsgerr e;
		uint8_t rest[256];
	} answer;
	ssize_t got;
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), ret;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof(second));
	if (send(fd, q, q->n.nlmsg_len, 0) < 0) {
		ret = -errno;
		goto out;
	}
	got = recv(fd, &answer, sizeof(answer), 0);
	if (got < 0)
		ret = errno == EAGAIN ? -ETIMEDOUT : -errno;
	else if (got < (ssize_t)NLMSG_LENGTH(sizeof(answer.e)) || answer.n.nlmsg_type != NLMSG_ERROR)
		ret = -EPROTO;
	else
		ret = answer.e.error;
out:
	close(fd);
	return ret;
}

static struct request request(uint16_t type, uint16_t flags, uint32_t ifindex, const struct in6_addr *a)
{
	struct request q = {
		.n = { .nlmsg_len = NLMSG_LENGTH(sizeof(q.a)), .nlmsg_type = type,
		       .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags), .nlmsg_seq = 1 },
		.a = { .ifa_family = AF_INET6, .ifa_prefixlen = 128, .ifa_scope = RT_SCOPE_UNIVERSE, .ifa_index = ifindex },
	};

	add(&q, IFA_LOCAL, a, sizeof(*a));
	add(&q, IFA_ADDRESS, a, sizeof(*a));
	return q;
}

int bb_rdma_addr_set(uint32_t ifindex, const struct in6_addr *a)
{
	const struct ifa_cacheinfo life = { .ifa_prefered = 0, .ifa_valid = UINT32_MAX };
	const uint32_t flags = IFA_F_NODAD | IFA_F_NOPREFIXROUTE;
	struct request q = request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, ifindex, a);
	int ret;

	add(&q, IFA_CACHEINFO, &life, sizeof(life));
	add(&q, IFA_FLAGS, &flags, sizeof(flags));
	ret = talk(&q);
	return ret == -EEXIST ? 1 : ret;
}

int bb_rdma_addr_clear(uint32_t ifindex, const struct in6_addr *a)
{
	struct request q = request(RTM_DELADDR, 0, ifindex, a);

	return talk(&q);
}
