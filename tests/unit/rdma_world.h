/* SPDX-License-Identifier: MIT */
/* net_world.h's two hosts, with an RDMA device between them: a real one, or rdma_mock.h's. */
#ifndef BB_TEST_RDMA_WORLD_H
#define BB_TEST_RDMA_WORLD_H

#include "net_world.h"

#include "net/rdma.h"
#include "net/rdma_wire.h"

static struct bb_rdma_home *there;
static const char *rdma_dev = "lo";
static bool rdma_addresses;
static const struct bb_policy *rdma_policy; /* the home's */

static void hear(uint8_t flags, uint32_t boot)
{
	static uint64_t id = 1000000;
	struct bb_hello h = { .flags = flags, .node = HOME, .port = PORT, .boot = boot, .lent = 1 << 30, .free = 1 << 30 };
	struct bb_hdr hdr = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES),
			      .id = htobe64(++id) };
	struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [15] = HOME } };
	uint8_t b[BB_HELLO_BYTES];

	snprintf(h.name, sizeof(h.name), "host%u", HOME);
	bb_hello_encode(&h, b);
	assert_true(bb_peers_input(w.here, &src, 1, PORT, &hdr, b, sizeof(b)) >= 0);
}

/* The home's side, and then the asker's. Return: whether there is a device. */
static bool rdma_start(uint64_t lend)
{
	const struct bb_home_config hc = { .lend = lend };
	const struct bb_rdma_config rc = { .dev = rdma_dev, .node = ASKER, .addresses = rdma_addresses };
	struct bb_server_config sc = { .cpu = -1, .spin_us = 20 };
	bool on;

	unsetenv("BB_TEST_NET");
	memset(&w, 0, sizeof(w));
	there = NULL;
	memset(w.key.raw, 0x5a, sizeof(w.key.raw));
	assert_int_equal(bb_key_derive(&w.key), 0);
	assert_int_equal(bb_home_new(&w.home, &hc), 0);
	w.there = world_peers(HOME, BOOT, 0, &w.key);
	w.here = world_peers(ASKER, 0xa11ce, 0, &w.key);
	on = !bb_rdma_open(&rc);
	if (on)
		bb_rdma_home_start(&there, w.there, w.home, rdma_policy);
	sc.close = there ? bb_rdma_home_close : NULL;
	sc.close_arg = there;
	assert_int_equal(bb_server_start(&w.server, w.there, w.home, &sc), 0);
	hear(there ? BB_HELLO_RDMA : 0, BOOT);
	assert_int_equal(bb_net_new(&w.net, w.here, NULL, 0), 0);
	return on;
}

static void rdma_end(void)
{
	bb_net_free(w.net);
	bb_server_stop(w.server, false);
	bb_rdma_home_stop(there);
	bb_peers_free(w.here);
	bb_peers_free(w.there);
	bb_home_free(w.home);
	bb_rdma_close(false);
}

static struct bb_net_stats stats(void)
{
	struct bb_net_stats s;

	bb_net_stats(w.net, &s);
	return s;
}

static struct bb_rdma_home_stats home_stats(void)
{
	struct bb_rdma_home_stats s;

	bb_rdma_home_stats(there, &s);
	return s;
}

/* Polls for so long, or until there is a connection. Return: whether there is. */
static bool connected(unsigned int ms)
{
	const uint64_t end = bb_now_ns() + ms * 1000000ULL;

	while (bb_rdma_peer(HOME) != BB_RDMA_UP && bb_now_ns() < end) {
		bb_net_poll(w.net);
		usleep(200);
	}
	return bb_rdma_peer(HOME) == BB_RDMA_UP;
}

/* A page of an extent, by the means that are there. */
static void put_page(uint64_t ptr, uint64_t seed)
{
	uint8_t page[4096];

	fill(page, seed);
	assert_int_equal(write_page(w.net, ptr, page, BOOT), BB_ST_OK);
}

static void expect_page(uint64_t ptr, uint64_t seed)
{
	uint8_t page[4096];

	fill(page, seed);
	assert_int_equal(read_pages(w.net, ptr, 1, BOOT), BB_ST_OK);
	assert_memory_equal(page_read, page, 4096);
}

static uint8_t delete_one(uint64_t ptr)
{
	struct bb_net_req r = { .cmd = BB_CMD_DELETE, .node = HOME, .ptr = ptr, .boot = BOOT };

	return run_on(w.net, &r);
}

/* What the home's memory holds, whoever asks. */
static void expect_home(uint64_t ptr, uint64_t seed)
{
	const struct bb_home_who who = { .node = ASKER };
	uint8_t page[4096];
	void *data;

	fill(page, seed);
	assert_int_equal(bb_home_get(w.home, who, ptr, 4096, false, &data), BB_ST_OK);
	assert_memory_equal(data, page, 4096);
	bb_home_put(w.home, ptr, 4096, false);
}

#endif
