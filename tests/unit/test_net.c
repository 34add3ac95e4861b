/* SPDX-License-Identifier: MIT */
/*
 * Client and server over real UDP: every command, both segment sizes, what is
 * refused, and what becomes of lost, doubled and late packets.
 */
#include "net_world.h"

/* --- what works ---------------------------------------------------------- */

static void roundtrip(void)
{
	static uint8_t data[64][4096];
	struct bb_net_page pages[64];
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages };
	struct bb_net_stats st;
	uint64_t x;

	world_start(64 << 20, NULL);
	x = create_one(w.net);
	assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_OK);
	for (int i = 0; i < 4096; i++)
		assert_int_equal(page_read[i], 0);
	for (unsigned int i = 0; i < 64; i++) {
		fill(data[i], i + 1);
		pages[i] = (struct bb_net_page){ x + i * 4096, data[i] };
	}
	for (unsigned int n = 1; n <= 64; n = n < 4 ? n + 1 : n * 2) {
		r.npages = n;
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		assert_true(r.t_sent && r.t_recv >= r.t_sent);
	}
	for (unsigned int i = 0; i < 64; i++) {
		assert_int_equal(read_pages(w.net, x + i * 4096, 1, BOOT), BB_ST_OK);
		assert_memory_equal(page_read, data[i], 4096);
	}
	for (unsigned int n = 2; n <= BB_RUN_PAGES_MAX; n++) {
		assert_int_equal(read_pages(w.net, x + n * 4096, n, BOOT), BB_ST_OK);
		assert_memory_equal(page_read, data[n], n * 4096);
	}
	bb_net_stats(w.net, &st);
	assert_int_equal(st.bad_tag + st.malformed + st.timeouts, 0);
	assert_int_equal(bb_net_inflight(w.net), 0);
	world_stop();
}

static void test_large(void **state)
{
	world_mtu(9000);
	roundtrip();
}

static void test_small(void **state)
{
	world_mtu(1500);
	roundtrip();
}

/* One READ is one packet out, and one or four back. */
static void test_packets(void **state)
{
	for (int small = 0; small < 2; small++) {
		struct bb_net_stats a, b;
		uint64_t x;

		world_mtu(small ? 1500 : 9000);
		world_start(64 << 20, NULL);
		x = create_one(w.net);
		assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_OK);
		bb_net_stats(w.net, &a);
		assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_OK);
		bb_net_stats(w.net, &b);
		if (b.resent == a.resent) { /* on a busy machine an answer may be overdue */
			assert_int_equal(b.tx_packets - a.tx_packets, 1);
			assert_int_equal(b.rx_packets - a.rx_packets, small ? 4 : 1);
		}
		world_stop();
	}
	world_mtu(9000);
}

/* The path becomes narrower between two requests, before anybody has measured it again. */
static void test_narrow(void **state)
{
	static uint8_t data[8][4096];
	struct bb_net_page pages[8], first;
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages, .npages = 8 };
	struct bb_net_stats st;
	uint64_t x;

	for (int what = 0; what < 3; what++) {
		world_mtu(9000);
		world_start(64 << 20, NULL);
		x = create_one(w.net);
		for (unsigned int i = 0; i < 8; i++) {
			fill(data[i], 100 * (unsigned int)what + i + 1);
			pages[i] = (struct bb_net_page){ x + i * 4096, data[i] };
		}
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		world_mtu(1500);
		if (what == 0) { /* the asker finds out */
			fill(data[3], 9999);
			assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		} else if (what == 1) {
			struct bb_net_req a = { .cmd = BB_CMD_ALLOC_WRITE, .node = HOME, .pages = &first, .npages = 1 };

			first = (struct bb_net_page){ 0, data[5] };
			assert_int_equal(run_on(w.net, &a), BB_ST_OK);
			assert_int_equal(read_pages(w.net, a.ptrs[0], 1, BOOT), BB_ST_OK);
			assert_memory_equal(page_read, data[5], 4096);
		}
		assert_int_equal(read_pages(w.net, x, 8, BOOT), BB_ST_OK); /* the home finds out */
		assert_memory_equal(page_read, data, sizeof(data));
		assert_int_equal(read_pages(w.net, x + 4096, 1, BOOT), BB_ST_OK);
		assert_memory_equal(page_read, data[1], 4096);
		bb_net_stats(w.net, &st);
		assert_int_equal(st.malformed + st.timeouts, 0);
		world_stop();
	}
	world_mtu(9000);
}

static void test_loop(void **state)
{
	const struct bb_loop_config drop = { .drop_every = 2 }, refuse = { .refuse_every = 2, .refuse_status = BB_ST_BUSY };
	const struct bb_loop_config late = { .delay_every = 2, .delay_ns = 30000000 }, twice = { .dup_every = 1 };
	const struct bb_loop_config *const all[] = { &drop, &refuse, &late, &twice };
	static const uint8_t want[] = { BB_ST_TIMEOUT, BB_ST_BUSY, BB_ST_OK, BB_ST_OK };

	for (int i = 0; i < 4; i++) {
		struct bb_net_req r = { .cmd = BB_CMD_READ, .node = HOME, .boot = BOOT, .len = 4096 };
		uint64_t t;

		world_start(64 << 20, NULL);
		assert_int_equal(bb_net_loop(w.net, all[i]), 0);
		r.ptr = create_one(w.net);
		t = r.deadline = bb_now_ns();
		r.deadline += SECOND / 10;
		assert_int_equal(run_on(w.net, &r), want[i]);
		assert_true(i != 2 || bb_now_ns() - t >= 30000000);
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		assert_int_equal(bb_net_inflight(w.net), 0);
		one_done = 0;
		r.deadline = bb_now_ns() + SECOND;
		bb_net_submit(w.net, &r);
		bb_net_free(w.net); /* whatever was held or under way ends */
		w.net = NULL;
		assert_int_equal(one_done, 1);
		world_stop();
	}
}

static void test_create(void **state)
{
	struct bb_net_req r = { .cmd = BB_CMD_CREATE, .node = HOME, .len = 64 };
	uint8_t data[4096];
	struct bb_net_page page = { 0, data };
	uint64_t x;

	fill(data, 77);
	for (int small = 0; small < 2; small++) {
		world_mtu(small ? 1500 : 9000);
		world_start(64 << 20, NULL);
		memset(&r, 0, sizeof(r));
		r.cmd = BB_CMD_ALLOC_WRITE;
		r.node = HOME;
		r.pages = &page;
		r.npages = 1;
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		assert_int_equal(r.nptrs, 1);
		x = r.ptrs[0];
		assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_OK);
		assert_memory_equal(page_read, data, 4096);
		r.cmd = BB_CMD_CREATE;
		r.len = 64;
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		assert_int_equal(r.nptrs, 31); /* what was left of 32 */
		assert_int_equal(run_on(w.net, &r), BB_ST_NOSPACE);
		r.cmd = BB_CMD_ALLOC_WRITE;
		assert_int_equal(run_on(w.net, &r), BB_ST_NOSPACE);
		r.cmd = BB_CMD_DELETE;
		r.boot = BOOT;
		r.ptr = x;
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		assert_int_equal(run_on(w.net, &r), BB_ST_GENERATION);
		assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_GENERATION);
		world_stop();
	}
	world_mtu(9000);
}

/* --- what is refused ------------------------------------------------------ */

static void test_refusals(void **state)
{
	uint8_t data[4096] = { 1 };
	struct bb_net_page pages[3];
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages, .npages = 3 };
	struct bb_home_stats hs;
	uint64_t x;

	world_start(64 << 20, NULL);
	x = create_one(w.net);
	assert_int_equal(read_pages(w.net, x, 1, BOOT + 1), BB_ST_BOOT);
	assert_int_equal(write_page(w.net, x, data, BOOT + 1), BB_ST_BOOT);
	assert_int_equal(read_pages(w.net, x, 1, 0), BB_ST_BOOT);
	assert_int_equal(read_pages(w.net, x + (1ULL << 40), 1, BOOT), BB_ST_BOUNDS);
	assert_int_equal(read_pages(w.net, x + (1ULL << 48), 1, BOOT), BB_ST_GENERATION);
	assert_int_equal(read_pages(w.net, x + 2097152 - 4096, 2, BOOT), BB_ST_BOUNDS);
	assert_int_equal(write_page(w.net, x + (1ULL << 48), data, BOOT), BB_ST_GENERATION);
	pages[0] = (struct bb_net_page){ x, data };
	pages[1] = (struct bb_net_page){ x + 4096, data };
	pages[2] = (struct bb_net_page){ x + (1ULL << 40), data };
	assert_int_equal(run_on(w.net, &r), BB_ST_BOUNDS);
	assert_int_equal(r.failed, 2);
	/* Not ours: the home itself has given it to node 9. */
	{
		uint64_t other, shared;
		const struct bb_home_who nine = { .node = 9 };

		assert_int_equal(bb_home_create(w.home, nine, 0, &other), BB_ST_OK);
		assert_int_equal(bb_home_create(w.home, nine, BB_F_SHARED, &shared), BB_ST_OK);
		assert_int_equal(read_pages(w.net, other, 1, BOOT), BB_ST_RIGHTS);
		assert_int_equal(write_page(w.net, shared, data, BOOT), BB_ST_RIGHTS);
		assert_int_equal(read_pages(w.net, shared, 1, BOOT), BB_ST_OK);
	}
	/* What the client itself refuses. */
	r.cmd = BB_CMD_INVOKE;
	assert_int_equal(run_on(w.net, &r), BB_ST_COMMAND);
	r.cmd = BB_CMD_WRITE;
	r.npages = 65;
	assert_int_equal(run_on(w.net, &r), BB_ST_MALFORMED);
	assert_int_equal(read_pages(w.net, x + 1, 1, BOOT), BB_ST_MALFORMED);
	assert_int_equal(read_pages(w.net, x, 0, BOOT), BB_ST_MALFORMED);
	r.npages = 1;
	r.node = 77;
	assert_int_equal(run_on(w.net, &r), BB_ST_UNREACH);
	r.node = ASKER;
	r.boot = 0xa11ce;
	assert_int_equal(run_on(w.net, &r), BB_ST_BOUNDS); /* nothing is lent there */
	bb_home_stats(w.home, &hs);
	assert_int_equal(hs.extents, 3);
	world_stop();
}

static void test_dead(void **state)
{
	struct bb_net_req r = { .cmd = BB_CMD_READ, .node = HOME, .boot = BOOT, .len = 4096 };
	struct bb_net_stats st;
	uint64_t t;

	world_start(64 << 20, NULL);
	r.ptr = create_one(w.net);
	bb_server_stop(w.server, false);
	w.server = NULL;
	t = bb_now_ns();
	r.deadline = t + SECOND / 4;
	assert_int_equal(run_on(w.net, &r), BB_ST_TIMEOUT);
	t = bb_now_ns() - t;
	assert_true(t >= SECOND / 4 && t < SECOND);
	bb_net_stats(w.net, &st);
	assert_true(st.resent >= 2 && st.resent < 40);
	assert_int_equal(st.timeouts, 1);
	/* A deadline that has passed, and the end of the whole. */
	r.deadline = 1;
	assert_int_equal(run_on(w.net, &r), BB_ST_TIMEOUT);
	one_done = 0;
	r.deadline = bb_now_ns() + 100 * SECOND;
	bb_net_submit(w.net, &r);
	bb_net_flush(w.net);
	bb_net_free(w.net);
	w.net = NULL;
	assert_int_equal(one_done, 1);
	assert_int_equal(r.status, BB_ST_TIMEOUT);
	world_stop();
}

/* Another client than the world's. */
static uint8_t stranger(const struct bb_key *key, uint16_t tenant, uint64_t ptr, uint64_t *bad_tag, uint64_t *foreign)
{
	struct bb_peers *p = world_peers(3, 0xbad, tenant, key);
	struct bb_net_req r = { .cmd = BB_CMD_READ, .node = HOME, .boot = BOOT, .ptr = ptr, .len = 4096 };
	struct bb_server_stats st;
	struct bb_net *net;
	uint8_t status;

	world_hear(p, HOME, BOOT, tenant);
	assert_int_equal(bb_net_new(&net, p, NULL, 1), 0);
	r.deadline = bb_now_ns() + SECOND / 5;
	status = run_on(net, &r);
	bb_net_free(net);
	bb_peers_free(p);
	bb_server_stats(w.server, &st);
	*bad_tag = st.bad_tag;
	*foreign = st.foreign_tenant;
	return status;
}

static void test_strangers(void **state)
{
	struct bb_key wrong;
	struct bb_peer info;
	uint64_t bad_tag, foreign, x;

	world_start(64 << 20, NULL);
	x = create_one(w.net);
	assert_int_equal(stranger(&w.key, 0, x, &bad_tag, &foreign), BB_ST_RIGHTS);
	assert_int_equal(bad_tag + foreign, 0);
	wrong = w.key;
	wrong.raw[0] ^= 1;
	bb_key_derive(&wrong);
	assert_int_equal(stranger(&wrong, 0, x, &bad_tag, &foreign), BB_ST_TIMEOUT);
	assert_true(bad_tag >= 1);
	assert_int_equal(foreign, 0);
	assert_int_equal(bb_peers_get(w.there, 3, &info), 1);
	assert_true(info.key_differs);
	assert_int_equal(stranger(&w.key, 7, x, &bad_tag, &foreign), BB_ST_TENANT);
	assert_true(foreign >= 1);
	world_stop();
}

/* --- loss, duplication, reordering ----------------------------------------- */

#define LOAD_PAGES 1024
#define LOAD_BATCHES 24

struct load {
	struct bb_net_req req;
	struct bb_net_page pages[64];
	uint32_t page[64];
};

static uint64_t version_of[LOAD_PAGES];
static uint8_t load_data[LOAD_BATCHES][64][4096];

/* Batches of writes and single reads under way at once, rounds of them; then all is compared. */
static void load(const char *faults, int mtu, unsigned int rounds)
{
	static struct load l[LOAD_BATCHES];
	struct bb_server_stats ss;
	struct bb_net_stats st;
	struct bb_home_stats hs;
	uint64_t x[2], rng = 1, t_start = bb_now_ns(), t_read;
	unsigned int n;

	world_mtu(mtu);
	world_start(64 << 20, faults);
	memset(version_of, 0, sizeof(version_of));
	x[0] = create_one(w.net);
	x[1] = create_one(w.net);
	for (unsigned int round = 0; round < rounds; round++) {
		unsigned int count = 0, at = 0;

		for (n = 0; n < LOAD_BATCHES && at < LOAD_PAGES; n++) {
			struct load *b = &l[n];

			memset(&b->req, 0, sizeof(b->req));
			b->req = (struct bb_net_req){ .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = b->pages,
						      .deadline = bb_now_ns() + 60 * SECOND, .done = done, .user = &count };
			rng = rng * 6364136223846793005ULL + 1;
			b->req.npages = 1 + (uint32_t)(rng >> 33) % 64;
			for (unsigned int i = 0; i < b->req.npages && at < LOAD_PAGES; i++, at++) {
				fill(load_data[n][i], (uint64_t)at << 32 | ++version_of[at]);
				b->pages[i].ptr = x[at / 512] + (at % 512) * 4096;
				b->pages[i].data = load_data[n][i];
				b->req.npages = i + 1 + (at + 1 < LOAD_PAGES && i + 1 < b->req.npages ? b->req.npages - i - 1 : 0);
			}
			bb_net_submit(w.net, &b->req);
		}
		wait_for(w.net, &count, n);
		for (unsigned int i = 0; i < n; i++)
			assert_int_equal(l[i].req.status, BB_ST_OK);
	}
	t_read = bb_now_ns();
	for (unsigned int at = 0; at < LOAD_PAGES; at += 8) {
		uint8_t want[4096];

		assert_int_equal(read_pages(w.net, x[at / 512] + (at % 512) * 4096, 8, BOOT), BB_ST_OK);
		for (unsigned int i = 0; i < 8; i++) {
			if (!version_of[at + i])
				continue;
			fill(want, (uint64_t)(at + i) << 32 | version_of[at + i]);
			assert_memory_equal(page_read + i * 4096, want, 4096);
		}
	}
	bb_net_stats(w.net, &st);
	bb_server_stats(w.server, &ss);
	bb_home_stats(w.home, &hs);
	print_message("faults %s, MTU %d: sent %lu, received %lu, sent again %lu, late or twice %lu; home: %lu writes, "
		      "duplicates %lu, stale %lu; %lu + %lu ms\n",
		      faults ? faults : "none", mtu, st.tx_packets, st.rx_packets, st.resent, st.stale, hs.writes,
		      ss.duplicates, ss.stale, (t_read - t_start) / 1000000, (bb_now_ns() - t_read) / 1000000);
	assert_int_equal(hs.extents, 2); /* a CREATE that came twice made one */
	assert_int_equal(st.timeouts + st.bad_tag + st.malformed + ss.bad_tag + ss.malformed, 0);
	if (faults)
		assert_true(st.resent > 0);
	world_stop();
}

static void test_load(void **state)
{
	load(NULL, 9000, 20);
	load(NULL, 1500, 20);
	load("drop=1,seed=9", 1500, 10);
}

static void test_faults(void **state)
{
	load("drop=5,dup=5,delay=5,seed=1", 9000, 4);
	load("drop=5,dup=5,delay=5,seed=2", 1500, 3);
	load("drop=30,dup=30,delay=30,seed=3", 9000, 1);
	load("drop=20,dup=20,delay=20,seed=4", 1500, 1);
	load("delay=80,seed=5,drop=1", 1500, 1);
	load("dup=100,seed=6,drop=1", 9000, 4);
}

/* Whichever host has room is asked; who answered is known, and from then on asked by its own name. */
static void test_any(void **state)
{
	static const char *const faults[] = { NULL, "drop=20,dup=20,delay=20,seed=6" };

	for (size_t i = 0; i < 2; i++) {
		uint8_t page[4096];
		struct bb_net_page pg = { 0, page };
		struct bb_net_req r = { .cmd = BB_CMD_CREATE, .node = BB_NODE_ANY, .len = 3 };
		struct bb_net_req a = { .cmd = BB_CMD_ALLOC_WRITE, .node = BB_NODE_ANY, .npages = 1, .pages = &pg };
		struct bb_home_stats st;

		world_start(64 << 20, faults[i]);
		fill(page, 5 + i);
		for (int k = 0; k < 5; k++) {
			assert_int_equal(run_on(w.net, &a), BB_ST_OK);
			assert_int_equal(a.from, HOME);
			assert_int_equal(a.new_boot, BOOT);
			assert_int_equal(a.nptrs, 1);
			assert_int_equal(read_pages(w.net, a.ptrs[0], 1, BOOT), BB_ST_OK);
			assert_memory_equal(page_read, page, 4096);
			/* Both sessions of this asker are open there, each with its own ids. */
			fill(page, 100 + (uint64_t)k);
			assert_int_equal(write_page(w.net, a.ptrs[0] + 4096, page, BOOT), BB_ST_OK);
			assert_int_equal(create_one(w.net) != 0, true);
		}
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		assert_int_equal(r.from, HOME);
		assert_int_equal(r.nptrs, 3);
		bb_home_stats(w.home, &st);
		assert_int_equal(st.extents, 13); /* each done once */
		r = (struct bb_net_req){ .cmd = BB_CMD_READ, .node = BB_NODE_ANY, .len = 4096 };
		assert_int_equal(run_on(w.net, &r), BB_ST_BOUNDS);
		world_stop();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_large),	 cmocka_unit_test(test_small), cmocka_unit_test(test_packets),
		cmocka_unit_test(test_narrow),	 cmocka_unit_test(test_loop),	cmocka_unit_test(test_create), cmocka_unit_test(test_any),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_dead),
		cmocka_unit_test(test_strangers), cmocka_unit_test(test_load), cmocka_unit_test(test_faults),
	};

	bb_log_init("test_net", BB_LOG_ERROR);
	if (world_namespace())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
