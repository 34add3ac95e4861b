/* SPDX-License-Identifier: MIT */
/*
 * A directory server, for the figure of what one would cost: a hash table of
 * {home, page} to owner, asked by one datagram a page (daemon/net/directory.h).
 * It polls, yields and sleeps as bbd does.
 *
 *	directory PORT [--cpu N] [--spin US]	prints its counts when it ends
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include "bench.h"
#include "../../daemon/net/directory.h"

#define ENTRIES (1UL << 22)

const char *const bench_name = "directory";

struct entry {
	uint64_t ptr;
	uint16_t home, owner;
};

static struct entry *table;
static uint64_t questions, entered;
static volatile sig_atomic_t stop;

static void on_stop(int sig)
{
	stop = sig;
}

/* The entry of that name, or the free one where it belongs. */
static struct entry *find(uint64_t ptr, uint16_t home)
{
	uint64_t at = mix(ptr ^ (uint64_t)home << 48);

	for (uint64_t i = 0; i < ENTRIES; i++) {
		struct entry *e = &table[(at + i) % ENTRIES];

		if (!e->owner || (e->ptr == ptr && e->home == home))
			return e;
	}
	fail("the table of %lu entries is full", ENTRIES);
}

static void serve(int fd, uint64_t spin_ns)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t last = bb_now_ns();

	while (!stop) {
		struct bb_directory_msg m;
		struct sockaddr_in6 from;
		socklen_t len = sizeof(from);
		struct entry *e;

		if (recvfrom(fd, &m, sizeof(m), MSG_DONTWAIT, (struct sockaddr *)&from, &len) != sizeof(m)) {
			if (bb_now_ns() - last < spin_ns)
				sched_yield();
			else
				poll(&pfd, 1, 100);
			continue;
		}
		last = bb_now_ns();
		questions++;
		e = find(m.ptr, m.home);
		if (!e->owner && m.owner) {
			*e = (struct entry){ .ptr = m.ptr, .home = m.home, .owner = m.owner };
			entered++;
		}
		m.owner = e->owner;
		if (sendto(fd, &m, sizeof(m), 0, (struct sockaddr *)&from, len) < 0 && errno != ECONNREFUSED)
			fail("send: %s", strerror(errno));
	}
}

int main(int argc, char **argv)
{
	static const struct option table_of[] = { { "cpu", 1, NULL, 'c' }, { "spin", 1, NULL, 's' }, { 0 } };
	struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	struct sigaction sa = { .sa_handler = on_stop };
	uint64_t spin_us = 50;
	int c, fd, cpu = -1;

	while ((c = getopt_long(argc, argv, "", table_of, NULL)) != -1) {
		if (c == 'c')
			cpu = atoi(optarg);
		else if (c == 's')
			spin_us = arg_size("--spin", optarg);
		else
			return 2;
	}
	if (optind != argc - 1 || atoi(argv[optind]) <= 0)
		bad_option("an argument", "expected a port");
	any.sin6_port = htons((uint16_t)atoi(argv[optind]));
	table = own_alloc(ENTRIES * sizeof(*table));
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	pin(cpu);
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0)
		fail("port %s: %s", argv[optind], strerror(errno));
	serve(fd, spin_us * 1000);
	printf("{\"questions\":%lu,\"entered\":%lu}\n", questions, entered);
	return 0;
}
