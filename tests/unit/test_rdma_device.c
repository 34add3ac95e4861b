/* SPDX-License-Identifier: MIT */
/*
 * The same over a real device: BB_TEST_RDMA names an interface that has one (soft-RoCE
 * in a guest: tests/vm). Both hosts are in this process, and both their addresses at it,
 * so it changes the machine's addresses and routes; skipped elsewhere.
 */
#include "rdma_world.h"

#include <poll.h>

#define LEND (128ULL << 20)

static int sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int sh(const char *fmt, ...)
{
	char cmd[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static uint64_t begin(void)
{
	uint64_t x;

	if (!rdma_start(LEND))
		fail_msg("%s", bb_rdma_why());
	assert_non_null(there);
	x = create_one(w.net);
	assert_true(connected(20000));
	/* To register a slab takes its time, in a guest the more. */
	for (int i = 0; i < 2000 && !stats().rdma_writes; i++) {
		put_page(x, 1);
		usleep(5000);
	}
	assert_true(stats().rdma_writes);
	expect_page(x, 1);
	return x;
}

static void pages_go_one_sided(void **state)
{
	struct bb_net_page pages[64];
	static uint8_t data[64][4096];
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages, .npages = 64 };
	uint64_t x = begin();
	struct bb_home_stats before, after;

	bb_home_stats(w.home, &before);
	for (unsigned int round = 0; round < 8; round++) {
		for (unsigned int i = 0; i < 64; i++) {
			pages[i] = (struct bb_net_page){ x + (i + i / 4) * 4096ULL, data[i] };
			fill(data[i], 1000 * round + i);
		}
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		for (unsigned int i = 0; i < 64; i++)
			expect_page(pages[i].ptr, 1000 * round + i);
		for (unsigned int i = 0; i < 60; i += 4) {
			assert_int_equal(read_pages(w.net, pages[i].ptr, 4, BOOT), BB_ST_OK);
			assert_memory_equal(page_read, data[i], 4 * 4096);
		}
	}
	bb_home_stats(w.home, &after);
	assert_int_equal(after.reads, before.reads);
	assert_int_equal(after.writes, before.writes);
	assert_true(stats().rdma_writes >= 512 && stats().rdma_reads >= 512);
	assert_int_equal(home_stats().refused, 0);
	print_message("# %lu pages read, %lu written, home slept; windows %lu of type %s\n", stats().rdma_reads, stats().rdma_writes,
		      home_stats().windows, home_stats().slabs ? "2" : "regions");
	assert_int_equal(delete_one(x), BB_ST_OK);
	assert_int_equal(home_stats().windows, 0);
	rdma_end();
}

/* Freed at the home behind the asker's back: neither its WRITE nor its READ reaches what comes after it. */
static void old_keys_are_dead(void **state)
{
	uint8_t zeros[4096] = { 0 }, page[4096];
	uint64_t x = begin(), y = 0;
	void *data;

	assert_int_equal(bb_home_delete(w.home, (struct bb_home_who){ .node = ASKER }, x), BB_ST_OK);
	do {
		usleep(1000);
		assert_int_equal(bb_home_create(w.home, (struct bb_home_who){ .node = 3 }, 0, &y), BB_ST_OK);
	} while (bb_ptr_offset(y) != bb_ptr_offset(x));
	fill(page, 9);
	assert_int_equal(write_page(w.net, x, page, BOOT), BB_ST_GENERATION);
	assert_int_equal(read_pages(w.net, x, 1, BOOT), BB_ST_GENERATION);
	assert_true(stats().rdma_breaks >= 1);
	assert_int_equal(bb_home_get(w.home, (struct bb_home_who){ .node = 3 }, y, 4096, false, &data), BB_ST_OK);
	assert_memory_equal(data, zeros, 4096);
	bb_home_put(w.home, y, 4096, false);
	/* And a connection comes again. */
	x = create_one(w.net);
	for (int i = 0; i < 200 && bb_rdma_peer(HOME) != BB_RDMA_UP; i++) {
		put_page(x, 3);
		connected(100);
	}
	assert_int_equal(bb_rdma_peer(HOME), BB_RDMA_UP);
	expect_page(x, 3);
	rdma_end();
}

/* The link goes down in the middle, and comes again. */
static void the_link_goes_down(void **state)
{
	uint64_t x = begin();

	for (unsigned int i = 0; i < 3; i++) {
		put_page(x, 10 + i);
		sh("ip link set %s down", rdma_dev);
		expect_page(x, 10 + i); /* by UDP, which takes the loopback here */
		put_page(x, 20 + i);
		expect_page(x, 20 + i);
		sh("ip link set %s up; ip -6 addr add fdbb:0:1::/128 dev %s nodad 2>/dev/null; ip -6 addr add fdbb:0:2::/128 dev %s "
		   "nodad 2>/dev/null", rdma_dev, rdma_dev, rdma_dev);
		expect_page(x, 20 + i);
	}
	rdma_end();
}

static void messages(void **state)
{
	struct bb_net_req r = { .cmd = BB_CMD_CREATE, .node = HOME, .len = 20 };
	uint64_t ptrs[20];

	begin();
	assert_int_equal(run_on(w.net, &r), BB_ST_OK);
	assert_int_equal(r.nptrs, 20);
	memcpy(ptrs, r.ptrs, sizeof(ptrs));
	for (int i = 0; i < 20; i++)
		assert_int_equal(delete_one(ptrs[i]), BB_ST_OK);
	assert_true(home_stats().asked >= 21);
	rdma_end();
}

/* The thread that waits for a completion sleeps, and is woken by it. */
static void completions_wake(void **state)
{
	unsigned int n = 0;
	uint64_t x = begin(), t;
	struct bb_net_req r = { .cmd = BB_CMD_READ, .node = HOME, .boot = BOOT, .ptr = x, .len = 4096, .done = done, .user = &n };

	for (unsigned int i = 1; i <= 20; i++) {
		r.deadline = bb_now_ns() + 10 * SECOND;
		bb_net_submit(w.net, &r);
		while (bb_net_next(w.net) == 0)
			bb_net_poll(w.net);
		bb_net_flush(w.net);
		t = bb_now_ns();
		while (n < i && bb_now_ns() - t < 5 * SECOND) {
			struct pollfd p = { .fd = bb_net_fd(w.net), .events = POLLIN };

			bb_net_next(w.net);
			poll(&p, 1, 3000);
			bb_net_poll(w.net);
		}
		assert_int_equal(n, i);
		assert_int_equal(r.status, BB_ST_OK);
		assert_true(bb_now_ns() - t < 2 * SECOND);
	}
	rdma_end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_go_one_sided),
		cmocka_unit_test(old_keys_are_dead),
		cmocka_unit_test(messages),
		cmocka_unit_test(completions_wake),
		cmocka_unit_test(the_link_goes_down),
	};

	bb_log_init("test", BB_LOG_INFO);
	rdma_dev = getenv("BB_TEST_RDMA");
	if (!rdma_dev) {
		print_message("no RDMA device to test with (BB_TEST_RDMA names its interface): skipped\n");
		return 77;
	}
	rdma_addresses = true;
	sh("ip -6 addr add fdbb:0:2::/128 dev %s nodad; ip -6 route add local fdbb::/16 dev lo", rdma_dev);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
