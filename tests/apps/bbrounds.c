/* SPDX-License-Identifier: MIT */
/*
 * bbrounds: full rounds of all operations against other hosts of a rack, by the
 * daemon's own client: CREATE, ALLOC_WRITE, WRITE, READ, READ_RUN, DELETE, with
 * every byte checked. It speaks from the host's own addresses; its answers find
 * it by its port.
 *
 *	bbrounds KEYFILE NODE NODES ROUNDS [any | read]
 *
 * NODE is the host that it runs on, NODES how many there are; the rounds go to
 * the others in turn. any: every second round's CREATE goes to any node. read:
 * instead one page of the next host is read as often, looking for the answer all
 * the time, and the median round trip printed. Prints one line of JSON. Exits 1 at the first byte or answer that is wrong.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <endian.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "clock.h"
#include "log.h"
#include "net/hello.h"
#include "net/net.h"
#include "net/peers.h"
#include "wire.h"

#define SECOND 1000000000ULL
#define RUN 5 /* pages of a READ_RUN */

static struct bb_net *net;
static struct bb_peers *peers;
static uint16_t own;
static uint8_t data[RUN * 4096], want[RUN * 4096];
static uint64_t requests, placed[1 << 16];
static int done_n;
static int spin;

#define die(...) (printf(__VA_ARGS__), printf("\n"), exit(1))

static void done(struct bb_net_req *r)
{
	if (r->status == BB_ST_OK && r->data)
		memcpy(data, r->data, r->len);
	done_n++;
}

static void ask(struct bb_net_req *r, const char *what)
{
	done_n = 0;
	requests++;
	r->done = done;
	r->deadline = bb_now_ns() + 20 * SECOND;
	bb_net_submit(net, r);
	bb_net_flush(net);
	while (!done_n) {
		struct pollfd p = { .fd = bb_net_fd(net), .events = POLLIN };
		const uint64_t now = bb_now_ns(), next = bb_net_next(net);

		if (spin)
			sched_yield();
		else if (next > now)
			poll(&p, 1, next - now > SECOND ? 1000 : (int)((next - now) / 1000000) + 1);
		bb_net_poll(net);
	}
	if (r->status)
		die("%s of node %u: status %u", what, r->node, r->status);
}

static void fill(uint8_t *page, uint64_t seed)
{
	for (unsigned int i = 0; i < 4096; i += 8) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		memcpy(page + i, &seed, 8);
	}
}

static void check(uint32_t len, const char *what, uint16_t node)
{
	if (memcmp(data, want, len))
		die("%s of node %u: wrong bytes", what, node);
}

/* A host is known by its HELLO: one that it could have said. */
static void know(uint16_t node, uint32_t boot)
{
	static uint64_t id;
	struct bb_hello h = { .node = node, .port = BB_UDP_PORT, .boot = boot, .lent = 1 << 30, .free = 1 << 30 };
	struct bb_hdr hdr = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES) };
	struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [14] = (uint8_t)(node >> 8), [15] = (uint8_t)node } };
	uint8_t b[BB_HELLO_BYTES];

	hdr.id = htobe64(++id);
	snprintf(h.name, sizeof(h.name), "h%u", node);
	bb_hello_encode(&h, b);
	bb_peers_input(peers, &src, 1, BB_UDP_PORT, &hdr, b, sizeof(b));
}

static void round_of(uint16_t node, uint64_t seed, int any)
{
	uint8_t pages[3][4096];
	struct bb_net_page w[2], first = { 0, pages[0] };
	struct bb_net_req c = { .cmd = BB_CMD_CREATE, .node = any ? BB_NODE_ANY : node, .len = 1 };
	struct bb_net_req a = { .cmd = BB_CMD_ALLOC_WRITE, .node = node, .npages = 1, .pages = &first }, r;
	uint64_t x;

	for (unsigned int i = 0; i < 3; i++)
		fill(pages[i], seed * 3 + i);
	ask(&c, "CREATE");
	if (c.nptrs != 1 || (!any && c.from != node) || c.from == own)
		die("CREATE of node %u: %u extents of node %u", c.node, c.nptrs, c.from);
	placed[c.from] += (uint64_t)any;
	x = c.ptrs[0];
	w[0] = (struct bb_net_page){ x + 4096, pages[1] };
	w[1] = (struct bb_net_page){ x + 3 * 4096, pages[2] };
	r = (struct bb_net_req){ .cmd = BB_CMD_WRITE, .node = c.from, .boot = c.new_boot, .npages = 2, .pages = w };
	ask(&r, "WRITE");
	r = (struct bb_net_req){ .cmd = BB_CMD_READ, .node = c.from, .boot = c.new_boot, .ptr = x + 4096, .len = 4096 };
	ask(&r, "READ");
	memcpy(want, pages[1], 4096);
	check(4096, "READ", c.from);
	r = (struct bb_net_req){ .cmd = BB_CMD_READ_RUN, .node = c.from, .boot = c.new_boot, .ptr = x, .len = RUN * 4096 };
	ask(&r, "READ_RUN");
	memset(want, 0, sizeof(want));
	memcpy(want + 4096, pages[1], 4096);
	memcpy(want + 3 * 4096, pages[2], 4096);
	check(RUN * 4096, "READ_RUN", c.from);
	ask(&a, "ALLOC_WRITE");
	r = (struct bb_net_req){ .cmd = BB_CMD_READ, .node = node, .boot = a.new_boot, .ptr = a.ptrs[0], .len = 4096 };
	ask(&r, "READ");
	memcpy(want, pages[0], 4096);
	check(4096, "READ after ALLOC_WRITE", node);
	r = (struct bb_net_req){ .cmd = BB_CMD_DELETE, .node = c.from, .boot = c.new_boot, .ptr = x };
	ask(&r, "DELETE");
	r = (struct bb_net_req){ .cmd = BB_CMD_DELETE, .node = node, .boot = a.new_boot, .ptr = a.ptrs[0] };
	ask(&r, "DELETE");
}

static int by_value(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Round trips of one page, looked for all the time. */
static void reads(uint16_t node, unsigned int n)
{
	static uint8_t page[4096];
	struct bb_net_page first = { 0, page };
	struct bb_net_req a = { .cmd = BB_CMD_ALLOC_WRITE, .node = node, .npages = 1, .pages = &first }, r;
	uint64_t *ns = calloc(n, sizeof(*ns));

	spin = 1;
	fill(page, 42);
	ask(&a, "ALLOC_WRITE");
	memcpy(want, page, 4096);
	for (unsigned int i = 0; i < n; i++) {
		const uint64_t t0 = bb_now_ns();

		r = (struct bb_net_req){ .cmd = BB_CMD_READ, .node = node, .boot = a.new_boot, .ptr = a.ptrs[0], .len = 4096 };
		ask(&r, "READ");
		ns[i] = bb_now_ns() - t0;
		check(4096, "READ", node);
	}
	r = (struct bb_net_req){ .cmd = BB_CMD_DELETE, .node = node, .boot = a.new_boot, .ptr = a.ptrs[0] };
	ask(&r, "DELETE");
	qsort(ns, n, sizeof(*ns), by_value);
	printf("{\"reads\": %u, \"p50_ns\": %lu, \"p10_ns\": %lu, \"p90_ns\": %lu}\n", n, ns[n / 2], ns[n / 10], ns[n / 10 * 9]);
	free(ns);
}

int main(int argc, char **argv)
{
	struct bb_peers_config cfg = { .port = BB_UDP_PORT };
	struct bb_net_stats st;
	unsigned int nodes, rounds, hosts = 0;
	uint64_t t0;

	if (argc < 5)
		die("usage: bbrounds KEYFILE NODE NODES ROUNDS [any]");
	own = cfg.node = (uint16_t)atoi(argv[2]);
	nodes = (unsigned int)atoi(argv[3]);
	rounds = (unsigned int)atoi(argv[4]);
	if (!own || nodes < 2 || nodes > 65534 || own > nodes)
		die("there are nodes 1 to NODES, at least two, and NODE is one of them");
	bb_log_init("bbrounds", BB_LOG_ERROR);
	if (getrandom(&cfg.boot, sizeof(cfg.boot), 0) < 0 || bb_key_load(&cfg.key, argv[1]) < 0 || bb_peers_new(&peers, &cfg) ||
	    bb_net_new(&net, peers, NULL, 77))
		die("cannot start: is %s the rack's key?", argv[1]);
	for (unsigned int i = 1; i <= nodes; i++)
		if (i != own)
			know((uint16_t)i, i);
	if (argc > 5 && !strcmp(argv[5], "read")) {
		reads((uint16_t)(own % nodes + 1), rounds ? rounds : 1);
		return 0;
	}
	t0 = bb_now_ns();
	for (unsigned int i = 0; i < rounds; i++)
		round_of((uint16_t)((own + i % (nodes - 1)) % nodes + 1), (uint64_t)own << 32 | i, argc > 5 && i % 2);
	t0 = bb_now_ns() - t0;
	bb_net_stats(net, &st);
	for (unsigned int i = 1; i <= nodes; i++)
		hosts += placed[i] != 0;
	printf("{\"node\": %u, \"rounds\": %u, \"requests\": %lu, \"us\": %lu, \"resent\": %lu, \"placed_on\": %u}\n", own, rounds,
	       requests, t0 / 1000, st.resent, hosts);
	bb_net_free(net);
	bb_peers_free(peers);
	return 0;
}
