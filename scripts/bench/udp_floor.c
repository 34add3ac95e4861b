/* SPDX-License-Identifier: MIT */
/*
 * The floor of asking another host for a page: a client sends 64 bytes of
 * payload over UDP and IPv6, a server answers with the page, a header of 40
 * bytes before it (MTU 9000: one datagram; MTU 1500: four, each with its
 * header). Nothing is looked up, checked or kept on the way.
 *
 * Both ends poll, yielding their CPU between empty looks, and sleep after
 * --spin microseconds without work: the same choices that bbd has. With --gso
 * the four datagrams leave in one send and arrive in one receive.
 *
 *	udp_floor --server [--cpu N] [--spin US] [--segments 4 [--gso]]
 *	udp_floor --to ADDR ...			 prints the round trips
 *
 * The client checks every byte: the page asked for is one of 64.
 */
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#include "bench.h"

#define HDR 40U
#define REQUEST 64U
#define PATTERNS 64U
#define DEADLINE_NS 2000000000ULL

const char *const bench_name = "udp_floor";

static int cpu = -1;
static bool server, gso;
static const char *to;
static uint64_t spin_us = 50, ops = 20000, port = 48058;
static unsigned int nseg = 1;

/* What stands in front of each segment, and of the request. */
struct head {
	uint64_t id;
	uint32_t page, seg;
};

/* Return: bytes received, or 0 where the deadline passed (deadline 0: none). */
static size_t receive(int fd, void *buf, size_t size, struct sockaddr_in6 *from, uint64_t deadline)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	uint64_t begin = bb_now_ns();

	for (;;) {
		socklen_t len = sizeof(*from);
		ssize_t n = recvfrom(fd, buf, size, MSG_DONTWAIT, (struct sockaddr *)from, from ? &len : NULL);
		uint64_t now;

		if (n > 0)
			return (size_t)n;
		if (n < 0 && errno != EAGAIN && errno != ECONNREFUSED && errno != EINTR)
			fail("receive: %s", strerror(errno));
		now = bb_now_ns();
		if (deadline && now > deadline)
			return 0;
		if (now - begin < spin_us * 1000)
			sched_yield();
		else
			poll(&pfd, 1, 100);
	}
}

static __attribute__((noreturn)) void serve(int fd)
{
	const unsigned int part = PAGE / nseg;
	uint8_t request[REQUEST], *out = own_alloc(PATTERNS * 4 * (HDR + PAGE));
	const size_t stride = nseg * (HDR + part);
	struct sockaddr_in6 from;

	/* Ready to send, but for the id: a home has its pages lying ready too. */
	for (unsigned int p = 0; p < PATTERNS; p++) {
		uint8_t page[PAGE];

		words_fill(page, WORDS, mix(p));
		for (unsigned int s = 0; s < nseg; s++)
			memcpy(out + p * stride + s * (HDR + part) + HDR, page + s * part, part);
	}
	for (;;) {
		struct head h;
		uint8_t *at;

		if (receive(fd, request, sizeof(request), &from, 0) != REQUEST)
			continue;
		memcpy(&h, request, sizeof(h));
		at = out + h.page % PATTERNS * stride;
		for (h.seg = 0; h.seg < nseg; h.seg++)
			memcpy(at + h.seg * (HDR + part), &h, sizeof(h));
		for (unsigned int s = 0; s < (gso ? 1 : nseg); s++)
			if (sendto(fd, at + s * (HDR + part), gso ? stride : HDR + part, 0, (struct sockaddr *)&from,
				   sizeof(from)) < 0)
				fail("send: %s", strerror(errno));
	}
}

static void check(const uint8_t *page, uint32_t want)
{
	if (words_differ(page, WORDS, mix(want)) != WORDS)
		fail("page %u came with other bytes than were sent", want);
}

/* One page by one request. Return: false where an answer was lost. */
static bool ask(int fd, uint64_t id, uint32_t want, uint8_t *page)
{
	const unsigned int part = PAGE / nseg;
	static uint8_t buf[65536];
	uint8_t request[REQUEST] = { 0 };
	struct head h = { .id = id, .page = want };
	uint64_t deadline = bb_now_ns() + 100000000ULL;
	unsigned int got = 0;

	memcpy(request, &h, sizeof(h));
	if (send(fd, request, sizeof(request), 0) < 0 && errno != ECONNREFUSED)
		fail("send: %s", strerror(errno));
	while (got != (1U << nseg) - 1) {
		size_t n = receive(fd, buf, sizeof(buf), NULL, deadline);

		if (!n)
			return false;
		for (size_t at = 0; at + HDR + part <= n; at += HDR + part) {
			memcpy(&h, buf + at, sizeof(h));
			if (h.id != id || h.seg >= nseg)
				continue;
			memcpy(page + h.seg * part, buf + at + HDR, part);
			got |= 1U << h.seg;
		}
	}
	return true;
}

static void measure(int fd)
{
	uint64_t rng = 1, id = bb_now_ns(), lost = 0, give_up = bb_now_ns() + DEADLINE_NS;
	uint8_t page[PAGE];
	struct samples s;

	samples_init(&s, ops);
	/* The server may not have bound its port yet. */
	while (!ask(fd, ++id, 0, page))
		if (bb_now_ns() > give_up)
			fail("no answer from %s", to);
	for (uint64_t i = 0; i < ops; i++) {
		uint32_t want = (uint32_t)random_below(&rng, PATTERNS);
		uint64_t t = bb_now_ns(), took;

		if (!ask(fd, ++id, want, page)) {
			if (++lost > 10)
				fail("%s stopped answering", to);
			continue;
		}
		took = bb_now_ns() - t;
		if (i >= ops / 20) /* the first are warm-up */
			samples_add(&s, took);
		check(page, want);
	}
	printf("{");
	samples_print("round_trip", &s);
	printf(",\"lost\":%lu,\"verified\":true}\n", lost);
}

static void options(int argc, char **argv)
{
	static const struct option table[] = {
		{ "server", 0, NULL, 'S' }, { "to", 1, NULL, 't' },	  { "cpu", 1, NULL, 'c' },
		{ "spin", 1, NULL, 's' },   { "ops", 1, NULL, 'o' },	  { "port", 1, NULL, 'p' },
		{ "gso", 0, NULL, 'g' },    { "segments", 1, NULL, 'n' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 'S':
			server = true;
			break;
		case 't':
			to = optarg;
			break;
		case 'c':
			cpu = atoi(optarg);
			break;
		case 's':
			spin_us = arg_size("--spin", optarg);
			break;
		case 'o':
			ops = arg_size("--ops", optarg);
			break;
		case 'p':
			port = arg_size("--port", optarg);
			break;
		case 'g':
			gso = true;
			break;
		case 'n':
			nseg = (unsigned int)arg_size("--segments", optarg);
			break;
		default:
			exit(2);
		}
	}
	if (nseg != 1 && nseg != 4)
		bad_option("--segments", "expected 1 or 4");
	if (optind < argc || server == !!to || !ops)
		bad_option("an argument", "expected --server or --to ADDR");
}

int main(int argc, char **argv)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6 };
	int fd, one = 1, size, buf = 4 << 20;

	options(argc, argv);
	a.sin6_port = htons((uint16_t)port);
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		fail("socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buf, sizeof(buf));
	size = (int)(HDR + PAGE / nseg);
	if (gso && server && setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) < 0)
		fail("UDP_SEGMENT: %s", strerror(errno));
	if (gso && !server && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one)) < 0)
		fail("UDP_GRO: %s", strerror(errno));
	pin(cpu);
	if (server) {
		if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
			fail("bind: %s", strerror(errno));
		serve(fd);
	}
	if (inet_pton(AF_INET6, to, &a.sin6_addr) != 1)
		bad_option("--to", to);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		fail("connect to %s: %s", to, strerror(errno));
	measure(fd);
	return 0;
}
