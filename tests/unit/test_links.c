/* SPDX-License-Identifier: MIT */
/*
 * A client and a home on a bad link: a small life of memory (made, written,
 * read, written again, read in runs, freed) in which the N-th packet is lost,
 * doubled, late, comes again much later, or is damaged, for N = 1, 2, 3 ...
 * until a run has no N-th packet. And paths on which large packets vanish.
 *
 * A page read whose bytes are others than were written is asked again, as the
 * pager does by its hash: READs carry no digest. Nothing else may differ.
 */
#include "net_world.h"

#include "net/inject.h"

#define PAGES 24
#define RUN 8

static uint8_t now_there[PAGES][4096];
static unsigned int reread, worst_ms;

/* --- the life ----------------------------------------------------------------- */

static void check_pages(uint64_t ptr, unsigned int first, unsigned int n)
{
	for (unsigned int i = 0;; i++) {
		assert_int_equal(read_pages(w.net, ptr + first * 4096, n, BOOT), BB_ST_OK);
		if (!memcmp(page_read, now_there[first], n * 4096))
			return;
		assert_int_equal(i, 0); /* only the one packet was damaged */
		reread++;
	}
}

/* Two messages at a time, so that one's loss meets the other's answers. */
static void write_all(uint64_t ptr, uint64_t version)
{
	static struct bb_net_page pages[PAGES];
	struct bb_net_req r[PAGES / RUN];
	unsigned int count = 0;

	memset(r, 0, sizeof(r));
	for (unsigned int i = 0; i < PAGES; i++) {
		fill(now_there[i], version * PAGES + i);
		pages[i] = (struct bb_net_page){ ptr + i * 4096, now_there[i] };
	}
	for (unsigned int i = 0; i < PAGES / RUN; i++) {
		r[i] = (struct bb_net_req){ .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages + i * RUN,
					    .npages = RUN, .deadline = bb_now_ns() + 10 * SECOND, .done = done,
					    .user = &count };
		bb_net_submit(w.net, &r[i]);
	}
	wait_for(w.net, &count, PAGES / RUN);
	for (unsigned int i = 0; i < PAGES / RUN; i++)
		assert_int_equal(r[i].status, BB_ST_OK);
}

static void life(uint64_t version)
{
	struct bb_net_req d = { .cmd = BB_CMD_DELETE, .node = HOME, .boot = BOOT };
	const uint64_t ptr = create_one(w.net), start = bb_now_ns();
	struct bb_home_stats hs;

	assert_int_equal(read_pages(w.net, ptr + 4096, 1, BOOT), BB_ST_OK);
	for (unsigned int i = 0; i < 4096; i++)
		if (page_read[i]) { /* damaged on its way: once */
			reread++;
			assert_int_equal(read_pages(w.net, ptr + 4096, 1, BOOT), BB_ST_OK);
			break;
		}
	for (unsigned int i = 0; i < 4096; i++)
		assert_int_equal(page_read[i], 0);
	write_all(ptr, 2 * version);
	for (unsigned int i = 0; i < 4; i++)
		check_pages(ptr, 5 * i, 1);
	write_all(ptr, 2 * version + 1);
	for (unsigned int i = 0; i < PAGES; i += RUN)
		check_pages(ptr, i, RUN);
	d.ptr = ptr;
	assert_int_equal(run_on(w.net, &d), BB_ST_OK);
	assert_int_equal(read_pages(w.net, ptr, 1, BOOT), BB_ST_GENERATION);
	bb_home_stats(w.home, &hs);
	assert_int_equal(hs.extents, 0);
	if ((bb_now_ns() - start) / 1000000 > worst_ms)
		worst_ms = (unsigned int)((bb_now_ns() - start) / 1000000);
}

static uint64_t injected(void)
{
	struct bb_inject_stats s;
	uint64_t n = 0;

	bb_inject_stats(&s);
	for (int i = 0; i < BB_INJECT_WHATS; i++)
		n += s.done[i];
	return n;
}

/* --- the N-th packet ------------------------------------------------------------ */

static void nth(const char *what, int mtu)
{
	uint64_t version = 1, n = 0;
	char rule[80];

	world_mtu(mtu);
	world_start(16 << 20, "off");
	reread = worst_ms = 0;
	life(version++); /* the round trip becomes known */
	do {
		n++;
		snprintf(rule, sizeof(rule), "%s,nth=%lu,seed=%lu", what, n, n);
		assert_int_equal(bb_inject_set(rule), 0);
		life(version++);
		assert_true(n < 2000);
	} while (injected());
	print_message("%s, MTU %d: %lu packets, one each; %u pages read again, longest run %u ms\n", what, mtu, n - 1,
		      reread, worst_ms);
	assert_true(n > 50);
	assert_true(!strncmp(what, "corrupt", 7) == !!reread);
	world_stop();
	world_mtu(9000);
}

static void test_nth_lost(void **state)
{
	nth("drop=100", 9000);
	nth("drop=100", 1500);
}

static void test_nth_twice(void **state)
{
	nth("dup=100", 9000);
	nth("dup=100", 1500);
}

static void test_nth_late(void **state)
{
	nth("delay=100,ms=8", 9000);
	nth("delay=100,ms=8", 1500);
	nth("reorder=100", 9000);
}

/* A packet of the past, when the memory is other things' or free. */
static void test_nth_again(void **state)
{
	nth("again=100,ms=8", 9000);
	nth("again=100,ms=8", 1500);
}

static void test_nth_damaged(void **state)
{
	nth("corrupt=100", 9000);
	nth("corrupt=100", 1500);
}

/* --- every bit of the header, of every kind of packet ---------------------------- */

static void test_header_bits(void **state)
{
	static const char *const cmds[] = { "CREATE", "READ", "READ_RUN", "WRITE", "DELETE" };
	static const char *const dirs[] = { "request", "reply" };
	const unsigned int nbits = sizeof(struct bb_hdr) * 8;
	uint64_t runs = 0, version = 1000;
	char rule[120];

	world_mtu(9000);
	world_start(16 << 20, "off");
	life(version++);
	for (unsigned int bit = 0; bit < nbits; bit++) {
		/* Each bit with one command and direction in turn; the first byte, the version, with all. */
		for (unsigned int k = 0; k < 10; k++) {
			if (bit >= 8 && k != (bit + bit / 10) % 10)
				continue;
			snprintf(rule, sizeof(rule), "corrupt=100,bit=%u,nth=1,cmd=%s,dir=%s", bit, cmds[k % 5], dirs[k / 5]);
			assert_int_equal(bb_inject_set(rule), 0);
			life(version++);
			assert_int_equal(injected(), 1);
			runs++;
		}
	}
	print_message("%lu headers damaged, one bit each\n", runs);
	world_stop();
}

/* --- another version, or a damaged byte -------------------------------------------- */

/* One damaged request whose refusal comes twice is asked again; a home that says nothing else is believed. */
static void test_version(void **state)
{
	uint8_t data[4096] = { 7 };
	uint64_t ptr;

	world_start(16 << 20, "off");
	ptr = create_one(w.net);
	assert_int_equal(write_page(w.net, ptr, data, BOOT), BB_ST_OK);
	assert_int_equal(bb_inject_set("corrupt=100,bit=1,nth=1,dir=request;dup=100,dir=reply"), 0);
	assert_int_equal(read_pages(w.net, ptr, 1, BOOT), BB_ST_OK);
	assert_memory_equal(page_read, data, sizeof(data));
	assert_int_equal(bb_inject_set("corrupt=100,bit=1,nth=1,dir=request;dup=100,dir=reply"), 0);
	assert_int_equal(write_page(w.net, ptr, data, BOOT), BB_ST_OK);
	assert_int_equal(bb_inject_set("corrupt=100,bit=1,dir=request"), 0);
	assert_int_equal(read_pages(w.net, ptr, 1, BOOT), BB_ST_VERSION);
	assert_int_equal(write_page(w.net, ptr, data, BOOT), BB_ST_VERSION);
	world_stop();
}

/* --- paths on which large packets vanish ------------------------------------------ */

static uint64_t tx_packets(void)
{
	struct bb_net_stats s;

	bb_net_stats(w.net, &s);
	return s.tx_packets;
}

/* Until a page goes through in one packet again: the pages of a life are small in number. */
static bool one_packet_a_page(uint64_t ptr)
{
	const uint64_t end = bb_now_ns() + 20 * SECOND;
	struct bb_net_stats a, b;

	while (bb_now_ns() < end) {
		bb_net_stats(w.net, &a);
		assert_int_equal(read_pages(w.net, ptr, 1, BOOT), BB_ST_OK);
		bb_net_stats(w.net, &b);
		if (b.rx_packets - a.rx_packets == 1 && b.tx_packets - a.tx_packets == 1)
			return true;
		usleep(1000);
	}
	return false;
}

static void black_hole(const char *rule)
{
	uint64_t version = 1, ptr, before;
	struct bb_net_stats s;

	world_mtu(9000);
	world_start(16 << 20, "off");
	life(version++);
	assert_int_equal(bb_inject_set(rule), 0);
	worst_ms = 0;
	life(version++);
	print_message("%s: found out in %u ms", rule, worst_ms);
	assert_true(worst_ms < 5000);
	/* Once it is known it costs a try now and then. */
	before = tx_packets();
	worst_ms = 0;
	for (int i = 0; i < 30; i++)
		life(version++);
	print_message(", then at most %u ms, %lu packets sent a life", worst_ms, (tx_packets() - before) / 30);
	bb_net_stats(w.net, &s);
	assert_int_equal(s.timeouts + s.malformed + s.bad_tag, 0);
	/* And the end of it is noticed. */
	assert_int_equal(bb_inject_set("off"), 0);
	ptr = create_one(w.net);
	assert_true(one_packet_a_page(ptr));
	print_message(", its end is seen\n");
	world_stop();
}

static void test_black_holes(void **state)
{
	black_hole("drop=100,over=1500");
	black_hole("drop=100,over=1280");
	black_hole("drop=100,over=1500,dir=request");
	black_hole("drop=100,over=1500,dir=reply");
	black_hole("drop=100,over=1500;drop=5,dup=5,reorder=5");
}

/* Losses alone are not taken for one for long. */
static void test_no_black_hole(void **state)
{
	unsigned int small = 0;
	uint64_t ptr;

	world_mtu(9000);
	world_start(16 << 20, "drop=10,seed=3");
	ptr = create_one(w.net);
	for (int i = 0; i < 1000; i++) {
		struct bb_net_stats a, b;

		bb_net_stats(w.net, &a);
		assert_int_equal(read_pages(w.net, ptr, 1, BOOT), BB_ST_OK);
		bb_net_stats(w.net, &b);
		small += b.rx_packets - a.rx_packets >= 4;
	}
	assert_int_equal(bb_inject_set("off"), 0);
	assert_true(one_packet_a_page(ptr));
	assert_true(small < 700);
	print_message("10 %% lost: %u of 1000 reads in small segments\n", small);
	world_stop();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nth_lost),    cmocka_unit_test(test_nth_twice),	 cmocka_unit_test(test_nth_late),
		cmocka_unit_test(test_nth_again),   cmocka_unit_test(test_nth_damaged),	 cmocka_unit_test(test_header_bits),
		cmocka_unit_test(test_version),	    cmocka_unit_test(test_black_holes), cmocka_unit_test(test_no_black_hole),
	};

	bb_log_init("test_links", BB_LOG_ERROR);
	if (world_namespace())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
