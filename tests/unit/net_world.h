/* SPDX-License-Identifier: MIT */
/*
 * Two hosts in one process for the tests of the wire: node 1 asks, node 2 has
 * the home and the server. The network is the loopback of a namespace that the
 * test makes for itself; it ends with the process.
 */
/* Not every test that includes it needs all of it. */
#pragma GCC diagnostic ignored "-Wunused-function"

#ifndef BB_TEST_NET_WORLD_H
#define BB_TEST_NET_WORLD_H

#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <endian.h>
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "home/home.h"
#include "log.h"
#include "net/hello.h"
#include "net/loop.h"
#include "net/net.h"
#include "net/peers.h"
#include "net/server.h"
#include "wire.h"

#define PORT 48059
#define ASKER 1
#define HOME 2
#define BOOT 0xb007u
#define SECOND 1000000000ULL

struct world {
	struct bb_home *home;
	struct bb_peers *there, *here;
	struct bb_server *server;
	struct bb_net *net;
	struct bb_key key;
};

static struct world w;
static enum bb_compress world_compress[3]; /* by node */
static uint8_t world_flags;		 /* of HELLOs */

/* Return: 0, or 1 where this cannot be done here. */
static int world_namespace(void)
{
	if (unshare(CLONE_NEWNET) || system("ip link set lo up && ip -6 route add local fdbb::/16 dev lo")) {
		print_message("needs CAP_NET_ADMIN to make a network namespace (run it as root): skipped\n");
		return 1;
	}
	return 0;
}

static void world_mtu(int mtu)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_mtu = mtu };
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);

	assert_int_equal(ioctl(fd, SIOCSIFMTU, &ifr), 0);
	close(fd);
}

static void world_hear(struct bb_peers *p, uint16_t node, uint32_t boot, uint16_t tenant)
{
	static uint64_t id;
	struct bb_hello h = { .node = node, .port = PORT, .boot = boot, .tenant = tenant, .lent = 1 << 30, .free = 1 << 30,
			      .flags = world_flags };
	struct bb_hdr hdr = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES),
			      .id = htobe64(++id) };
	struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [15] = (uint8_t)node } };
	uint8_t b[BB_HELLO_BYTES];

	snprintf(h.name, sizeof(h.name), "host%u", node);
	bb_hello_encode(&h, b);
	assert_true(bb_peers_input(p, &src, 1, PORT, &hdr, b, sizeof(b)) >= 0);
}

static struct bb_peers *world_peers(uint16_t node, uint32_t boot, uint16_t tenant, const struct bb_key *key)
{
	struct bb_peers_config cfg = { .node = node, .tenant = tenant, .port = PORT, .boot = boot, .key = *key,
				       .compress = node < 3 ? world_compress[node] : BB_COMPRESS_OFF };
	struct bb_peers *p = NULL;

	assert_int_equal(bb_peers_new(&p, &cfg), 0);
	return p;
}

/* faults: BB_TEST_NET for both ends, or NULL. */
static void world_start(uint64_t lend, const char *faults)
{
	const struct bb_home_config hc = { .lend = lend };
	const struct bb_server_config sc = { .cpu = -1, .spin_us = 20 };

	if (faults)
		setenv("BB_TEST_NET", faults, 1);
	else
		unsetenv("BB_TEST_NET");
	memset(&w, 0, sizeof(w));
	memset(w.key.raw, 0x5a, sizeof(w.key.raw));
	assert_int_equal(bb_key_derive(&w.key), 0);
	assert_int_equal(bb_home_new(&w.home, &hc), 0);
	w.there = world_peers(HOME, BOOT, 0, &w.key);
	assert_int_equal(bb_server_start(&w.server, w.there, w.home, &sc), 0);
	w.here = world_peers(ASKER, 0xa11ce, 0, &w.key);
	world_hear(w.here, HOME, BOOT, 0);
	assert_int_equal(bb_net_new(&w.net, w.here, NULL, 0), 0);
}

static void world_stop(void)
{
	bb_net_free(w.net);
	bb_server_stop(w.server, false);
	bb_peers_free(w.here);
	bb_peers_free(w.there);
	bb_home_free(w.home);
}

static void done(struct bb_net_req *req)
{
	*(unsigned int *)req->user += 1;
}

static void wait_for(struct bb_net *net, const unsigned int *count, unsigned int n)
{
	const uint64_t end = bb_now_ns() + 60 * SECOND; /* whatever else runs on this machine */

	bb_net_flush(net);
	while (*count < n) {
		if (!bb_net_poll(net))
			sched_yield();
		assert_true(bb_now_ns() < end);
	}
}

static unsigned int one_done;
static uint8_t page_read[BB_RUN_PAGES_MAX * 4096];

static void done_copy(struct bb_net_req *req)
{
	if (req->status == BB_ST_OK && req->data)
		memcpy(page_read, req->data, req->len);
	one_done++;
}

/* One request, and its answer. Return: its status. */
static uint8_t run_on(struct bb_net *net, struct bb_net_req *r)
{
	one_done = 0;
	r->done = done_copy;
	if (!r->deadline)
		r->deadline = bb_now_ns() + 10 * SECOND;
	bb_net_submit(net, r);
	wait_for(net, &one_done, 1);
	r->deadline = 0;
	return r->status;
}

static uint64_t create_one(struct bb_net *net)
{
	struct bb_net_req r = { .cmd = BB_CMD_CREATE, .node = HOME, .len = 1 };

	assert_int_equal(run_on(net, &r), BB_ST_OK);
	assert_int_equal(r.nptrs, 1);
	assert_int_equal(r.new_boot, BOOT);
	return r.ptrs[0];
}

static uint8_t read_pages(struct bb_net *net, uint64_t ptr, uint32_t n, uint32_t boot)
{
	struct bb_net_req r = { .cmd = n == 1 ? BB_CMD_READ : BB_CMD_READ_RUN, .node = HOME, .ptr = ptr,
				.len = n * 4096, .boot = boot };

	memset(page_read, 0xee, sizeof(page_read));
	return run_on(net, &r);
}

static uint8_t write_page(struct bb_net *net, uint64_t ptr, const void *data, uint32_t boot)
{
	struct bb_net_page page = { ptr, data };
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .pages = &page, .npages = 1, .boot = boot };

	return run_on(net, &r);
}

static void fill(uint8_t *page, uint64_t seed)
{
	for (unsigned int i = 0; i < 4096; i += 8) {
		seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
		memcpy(page + i, &seed, 8);
	}
}

#endif
