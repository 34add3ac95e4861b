/* SPDX-License-Identifier: MIT */
/*
 * Many distinct pointers from one client: asks each of --count pages of a node
 * for an answer, by one datagram to its own address, and counts who answers.
 * What is on the way (neighbour discovery, routes, programs) is the test's.
 *
 *	bbpointers serve NODE		answers each datagram from the address that it came to
 *	bbpointers ask NODE COUNT DEV	prints JSON: {"sent", "answered", "first_lost", "neighbours_max"}
 *	bbpointers flood PREFIX DEV	keeps the neighbour table full: asks for new addresses of
 *					PREFIX::/64 on the link, until it is ended
 *
 * The asker waits for no address for longer than TRY_MS after a few tries, and
 * goes on with the next; so it ends whatever happens.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

#define PORT 48060 /* not bbd's */
#define BATCH 32
#define TRY_MS 300
#define TRIES 3
#define STOP_LOST 200 /* in a row: the rest is lost as well */

static int udp(uint16_t port)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1, bytes = 4 << 20;

	if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on)) ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on)) || bind(fd, (struct sockaddr *)&any, sizeof(any))) {
		perror("bbpointers: socket");
		exit(1);
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	return fd;
}

static void page_address(unsigned int node, uint64_t i, struct in6_addr *a)
{
	const struct bb_gptr g = { .node = (uint16_t)node, .cmd = BB_CMD_READ, .ptr = bb_ptr(7, i << BB_PAGE_SHIFT) };

	bb_gptr_encode(&g, a);
}

static _Noreturn void serve(void)
{
	int fd = udp(PORT);

	for (;;) {
		struct sockaddr_in6 from;
		char data[64], control[256];
		struct iovec iov = { data, sizeof(data) };
		struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1,
				    .msg_control = control, .msg_controllen = sizeof(control) };
		ssize_t n = recvmsg(fd, &m, 0);
		struct cmsghdr *c;

		if (n < 0)
			continue;
		/* The address that it came to is the one that we speak from. */
		for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
			if (c->cmsg_type == IPV6_PKTINFO)
				((struct in6_pktinfo *)CMSG_DATA(c))->ipi6_ifindex = 0;
		iov.iov_len = (size_t)n;
		sendmsg(fd, &m, MSG_DONTWAIT);
	}
}

static unsigned long neighbours(const char *dev)
{
	char cmd[128], line[256];
	unsigned long n = 0;
	FILE *f;

	snprintf(cmd, sizeof(cmd), "ip -6 neigh show nud all dev %s", dev);
	f = popen(cmd, "r");
	while (f && fgets(line, sizeof(line), f))
		n += !strstr(line, "NOARP"); /* groups */
	if (f)
		pclose(f);
	return n;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Asks for pages first to first + n - 1 until all have answered, or for so long. Return: bits of who did. */
static uint32_t ask_batch(int fd, unsigned int node, uint64_t first, unsigned int n)
{
	const uint32_t all = n == 32 ? ~0u : (1u << n) - 1;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(PORT) }, from;
	uint32_t got = 0;

	for (int try = 0; try < TRIES && got != all; try++) {
		const uint64_t end = now_ms() + TRY_MS;

		for (unsigned int i = 0; i < n; i++) {
			uint64_t id = first + i;

			if (got >> i & 1)
				continue;
			page_address(node, id, &to.sin6_addr);
			sendto(fd, &id, sizeof(id), MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to));
		}
		while (got != all && now_ms() < end && poll(&p, 1, (int)(end - now_ms())) > 0) {
			socklen_t len = sizeof(from);
			struct in6_addr want;
			uint64_t id;

			if (recvfrom(fd, &id, sizeof(id), MSG_DONTWAIT, (struct sockaddr *)&from, &len) != sizeof(id) ||
			    id < first || id >= first + n)
				continue;
			page_address(node, id, &want);
			if (!memcmp(&want, &from.sin6_addr, 16))
				got |= 1u << (id - first);
		}
	}
	return got;
}

static int ask(unsigned int node, uint64_t count, const char *dev)
{
	uint64_t answered = 0, lost_in_a_row = 0, sent = 0;
	long first_lost = -1;
	unsigned long most = 0, n;
	int fd = udp(0);

	for (uint64_t at = 0; at < count && lost_in_a_row < STOP_LOST; at += BATCH) {
		const unsigned int k = count - at < BATCH ? (unsigned int)(count - at) : BATCH;
		const uint32_t got = ask_batch(fd, node, at, k);

		for (unsigned int i = 0; i < k; i++) {
			sent++;
			if (got >> i & 1) {
				answered++;
				lost_in_a_row = 0;
				continue;
			}
			lost_in_a_row++;
			if (first_lost < 0)
				first_lost = (long)(at + i);
		}
		if (at % (BATCH * 128) == 0 && (n = neighbours(dev)) > most)
			most = n;
	}
	if ((n = neighbours(dev)) > most)
		most = n;
	printf("{\"sent\":%lu,\"answered\":%lu,\"first_lost\":%ld,\"neighbours_max\":%lu}\n", sent, answered, first_lost, most);
	return 0;
}

static int flood(const char *prefix, const char *dev)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_scope_id = if_nametoindex(dev) };
	int fd = udp(0);

	if (inet_pton(AF_INET6, prefix, &to.sin6_addr) != 1 || !to.sin6_scope_id)
		return 2;
	for (uint32_t i = 1;; i++) {
		memcpy(to.sin6_addr.s6_addr + 12, &i, 4);
		sendto(fd, "", 1, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to));
		if (i % 256 == 0)
			usleep(2000);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		serve();
	if (argc == 5 && !strcmp(argv[1], "ask"))
		return ask((unsigned int)atoi(argv[2]), strtoull(argv[3], NULL, 0), argv[4]);
	if (argc == 4 && !strcmp(argv[1], "flood"))
		return flood(argv[2], argv[3]);
	fprintf(stderr, "usage: bbpointers serve NODE | ask NODE COUNT DEV | flood PREFIX DEV\n");
	return 2;
}
