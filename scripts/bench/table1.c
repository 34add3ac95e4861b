/* SPDX-License-Identifier: MIT */
/*
 * table1: how long CREATE, READ, UPDATE and DELETE of one page take at another
 * host, asked by the daemon's own client, one at a time, looking for the answer
 * all the time. The commands are those of Table 1 of the paper; UPDATE is a WRITE
 * of a page that is there. Every page that comes back is compared.
 *
 *	table1 udp|rdma KEYFILE NODE PEER BOOT DEV ROUNDS
 *
 * NODE is this host, whose bbd runs; PEER and BOOT are the other one and its bbd's
 * incarnation (bbctl -j node), DEV the interface to it. Prints one line of JSON:
 * medians. Exits 1 where a byte or an answer is wrong, and where pages that shall
 * travel by RDMA went another way; 77 where there is no RDMA.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <endian.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "clock.h"
#include "log.h"
#include "net/hello.h"
#include "net/net.h"
#include "net/peers.h"
#if __has_include("net/rdma.h")
#include "net/rdma.h"
#endif
#include "wire.h"

#define SECOND 1000000000ULL

#define die(...) (printf(__VA_ARGS__), printf("\n"), exit(1))

static struct bb_net *net;
static struct bb_peers *peers;
static uint8_t page[4096], back[4096];
static int answered;

static void done(struct bb_net_req *r)
{
	if (r->cmd == BB_CMD_READ && r->status == BB_ST_OK && r->data)
		memcpy(back, r->data, sizeof(back));
	answered = 1;
}

/* Return: ns. */
static uint64_t ask(struct bb_net_req *r, const char *what)
{
	const uint64_t t0 = bb_now_ns();

	answered = 0;
	r->done = done;
	r->deadline = t0 + 20 * SECOND;
	bb_net_submit(net, r);
	bb_net_flush(net);
	while (!answered) {
		bb_net_poll(net);
		if (!answered)
			sched_yield();
	}
	if (r->status)
		die("%s: status %u", what, r->status);
	return bb_now_ns() - t0;
}

/* The other host's HELLO goes to this one's bbd: what it said. */
static void know(uint16_t node, uint32_t boot)
{
	struct bb_hello h = { .node = node, .port = BB_UDP_PORT, .boot = boot, .lent = 1 << 30, .free = 1 << 30 };
	struct bb_hdr hdr = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES), .id = htobe64(1) };
	struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [14] = (uint8_t)(node >> 8), [15] = (uint8_t)node } };
	uint8_t b[BB_HELLO_BYTES];

#ifdef BB_HELLO_RDMA
	h.flags = BB_HELLO_RDMA;
#endif
	snprintf(h.name, sizeof(h.name), "peer");
	bb_hello_encode(&h, b);
	bb_peers_input(peers, &src, 1, BB_UDP_PORT, &hdr, b, sizeof(b));
}

static void rdma_open(const char *dev, uint16_t node)
{
#ifdef BB_HELLO_RDMA
	/* The address is bbd's own. */
	const struct bb_rdma_config cfg = { .dev = dev, .node = node };

	if (!bb_rdma_open(&cfg))
		return;
	printf("no RDMA at %s: %s\n", dev, bb_rdma_why());
#else
	printf("this build has no RDMA\n");
#endif
	exit(77);
}

/* Pages that went one-sided. */
static uint64_t one_sided(void)
{
#ifdef BB_HELLO_RDMA
	struct bb_net_stats st;

	bb_net_stats(net, &st);
	return st.rdma_reads + st.rdma_writes;
#else
	return 0;
#endif
}

static int by_value(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static uint64_t median(uint64_t *v, unsigned int n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static uint64_t update(const struct bb_net_req *at, uint64_t ptr)
{
	struct bb_net_page p = { ptr, page };
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = at->node, .boot = at->new_boot, .npages = 1, .pages = &p };

	if (getrandom(page, 256, 0) != 256)
		die("no random bytes");
	return ask(&r, "UPDATE");
}

static uint64_t read_back(const struct bb_net_req *at, uint64_t ptr)
{
	struct bb_net_req r = { .cmd = BB_CMD_READ, .node = at->node, .boot = at->new_boot, .ptr = ptr, .len = sizeof(back) };
	uint64_t ns;

	memset(back, 0, sizeof(back));
	ns = ask(&r, "READ");
	if (memcmp(back, page, sizeof(back)))
		die("READ: wrong bytes");
	return ns;
}

static uint64_t delete(const struct bb_net_req *at)
{
	struct bb_net_req r = { .cmd = BB_CMD_DELETE, .node = at->node, .boot = at->new_boot, .ptr = at->ptrs[0] };

	return ask(&r, "DELETE");
}

int main(int argc, char **argv)
{
	struct bb_peers_config cfg = { .port = BB_UDP_PORT };
	struct bb_net_req at;
	uint64_t *ns[4], end, before;
	unsigned int n;
	uint16_t peer;
	int rdma;

	if (argc != 8 || (strcmp(argv[1], "udp") && strcmp(argv[1], "rdma")))
		die("usage: table1 udp|rdma KEYFILE NODE PEER BOOT DEV ROUNDS");
	rdma = *argv[1] == 'r';
	cfg.node = (uint16_t)atoi(argv[3]);
	peer = (uint16_t)atoi(argv[4]);
	n = (unsigned int)atoi(argv[7]);
	if (!cfg.node || !peer || !n || n > 1000000)
		die("NODE, PEER and ROUNDS are numbers");
	bb_log_init("table1", BB_LOG_WARN);
	if (rdma)
		rdma_open(argv[6], cfg.node);
	if (getrandom(&cfg.boot, sizeof(cfg.boot), 0) < 0 || bb_key_load(&cfg.key, argv[2]) < 0 || bb_peers_new(&peers, &cfg) ||
	    bb_net_new(&net, peers, NULL, 63))
		die("cannot start: is %s the key of this host's bbd?", argv[2]);
	know(peer, (uint32_t)strtoul(argv[5], NULL, 10));
	for (int i = 0; i < 4; i++)
		ns[i] = calloc(n, sizeof(*ns[i]));

	/* One extent whose page is written and read; both ways are warm, and one-sided, before the clock runs. */
	at = (struct bb_net_req){ .cmd = BB_CMD_CREATE, .node = peer, .len = 1 };
	ask(&at, "CREATE");
	end = bb_now_ns() + 20 * SECOND;
	for (int good = 0; good < 10 && bb_now_ns() < end;) {
		before = one_sided();
		update(&at, at.ptrs[0]);
		read_back(&at, at.ptrs[0]);
		good = !rdma || one_sided() - before == 2 ? good + 1 : 0;
	}
	before = one_sided();
	for (unsigned int i = 0; i < n; i++) {
		ns[2][i] = update(&at, at.ptrs[0]);
		ns[1][i] = read_back(&at, at.ptrs[0]);
	}
	if (rdma && one_sided() - before < 2ULL * n)
		die("%lu of %u pages only went by RDMA", one_sided() - before, 2 * n);
	delete (&at);
	for (unsigned int i = 0; i < n; i++) {
		at = (struct bb_net_req){ .cmd = BB_CMD_CREATE, .node = peer, .len = 1 };
		ns[0][i] = ask(&at, "CREATE");
		ns[3][i] = delete (&at);
	}
	printf("{\"transport\": \"%s\", \"rounds\": %u, \"one_sided\": %lu, \"create_ns\": %lu, \"read_ns\": %lu, \"update_ns\": %lu, "
	       "\"delete_ns\": %lu}\n", argv[1], n, one_sided(), median(ns[0], n), median(ns[1], n), median(ns[2], n), median(ns[3], n));
	bb_net_free(net);
	bb_peers_free(peers);
#ifdef BB_HELLO_RDMA
	if (rdma)
		bb_rdma_close(true);
#endif
	for (int i = 0; i < 4; i++)
		free(ns[i]);
	return 0;
}
