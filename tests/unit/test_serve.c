/* SPDX-License-Identifier: MIT */
/*
 * Packets put into the server by hand, in orders that the network seldom makes:
 * late, twice, forged. And the session window itself.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <bluebridge/steer.h>

#include "net_world.h"

#include "net/compress.h"
#include "net/serve.h"

static struct bb_serve serve;
static struct bb_msg last; /* answer */
static uint8_t last_payload[4096];
static struct in6_addr last_src;
static uint16_t home_node = HOME; /* that requests are sent to */
static unsigned int answers;

static int take(void *arg, const struct bb_serve_out *o)
{
	uint8_t whole[40 + 4096];

	memcpy(whole, o->iov[0].iov_base, 40);
	memcpy(whole + 40, o->iov[1].iov_base, o->iov[1].iov_len);
	assert_int_equal(bb_wire_decode(whole, 40 + o->iov[1].iov_len, &last), BB_ST_OK);
	memcpy(last_payload, whole + 40, o->iov[1].iov_len);
	last.payload = last_payload;
	last_src = o->src;
	answers++;
	return 0;
}

/* Return: status of the answer, or -1 where there was none. */
static int put_from(uint16_t node, uint8_t cmd, uint64_t ptr, struct bb_msg m, const void *data, size_t len, bool forge)
{
	const struct bb_gptr src = { .node = node }, dst = { .node = home_node, .cmd = cmd, .ptr = ptr };
	struct bb_sock_packet p = { .len = 40 + len, .from = { .sin6_family = AF_INET6, .sin6_port = 7 } };
	uint8_t whole[40 + 4096];
	struct bb_hdr h;

	m.version = m.version ? m.version : BB_WIRE_VERSION;
	m.nseg = m.nseg ? m.nseg : 1;
	m.boot = BOOT;
	bb_gptr_encode(&src, &p.from.sin6_addr);
	bb_gptr_encode(&dst, &p.to);
	bb_wire_encode(&h, &m);
	bb_wire_seal(&w.key, &p.from.sin6_addr, &p.to, cmd, &h, data, len);
	if (forge)
		h.tag ^= 1;
	memcpy(whole, &h, 40);
	if (len)
		memcpy(whole + 40, data, len);
	p.data = whole;
	answers = 0;
	bb_serve_packet(&serve, &p);
	return answers ? last.status : -1;
}

static int put(uint8_t cmd, uint64_t ptr, struct bb_msg m, const void *data, size_t len)
{
	return put_from(ASKER, cmd, ptr, m, data, len, false);
}

#define MSG(...) ((struct bb_msg){ __VA_ARGS__ })

static uint64_t create(uint64_t id)
{
	uint8_t count[4] = { 0, 0, 0, 1 };
	uint64_t x;

	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = id, .floor = (uint32_t)id, .length = 4), count, 4), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, &x, 1), 1);
	return x;
}

static uint8_t byte_at(uint64_t ptr)
{
	assert_int_equal(put(BB_CMD_READ, ptr & ~0xfffULL, MSG(.length = 4096), NULL, 0), BB_ST_OK);
	return last_payload[ptr & 0xfff];
}

static int set_up(void **state)
{
	const struct bb_home_config hc = { .lend = 64 << 20 };

	memset(&w, 0, sizeof(w));
	bb_key_derive(&w.key);
	if (bb_home_new(&w.home, &hc))
		return 1;
	w.there = world_peers(HOME, BOOT, 0, &w.key);
	serve.send = NULL;
	if (bb_serve_init(&serve, w.there, w.home, NULL))
		return 1;
	serve.send = take;
	return 0;
}

static int tear_down(void **state)
{
	bb_serve_fini(&serve);
	bb_peers_free(w.there);
	bb_home_free(w.home);
	return 0;
}

/* Compressed segments: of what is not lz4 of just so many bytes nothing is written. */
static void test_compressed(void **state)
{
	struct bb_lz4 *z = bb_lz4_new();
	uint8_t one[4096], packed[4096], bad[4096];
	uint64_t x = create(1), id = 2;
	uint32_t n, small;

	memset(one, 1, sizeof(one));
	memset(bad, 2, sizeof(bad));
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = id, .floor = 2, .length = 4096), one, 4096), BB_ST_OK);
	small = bb_lz4_pack(z, bad, 1024, packed);
	/* Of a shorter segment; of a longer one; random bytes; the length of an empty page. */
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = ++id, .floor = 2, .length = small, .flags = BB_F_LZ4), packed, small),
			 BB_ST_MALFORMED);
	n = bb_lz4_pack(z, bad, 4096, packed);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = ++id, .floor = 2, .nseg = 4, .length = n, .flags = BB_F_LZ4 | BB_F_SMALL),
			     packed, n),
			 BB_ST_MALFORMED);
	for (unsigned int k = 1; k < 3585; k += 97) {
		fill(bad, k);
		assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = ++id, .floor = 2, .length = k, .flags = BB_F_LZ4), bad, k),
				 BB_ST_MALFORMED);
		for (unsigned int i = 0; i < 4096; i += 1023)
			assert_int_equal(byte_at(x + i), 1);
	}
	/* The good one, once; its id is done then. */
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = ++id, .floor = 2, .length = n, .flags = BB_F_LZ4), packed, n), BB_ST_OK);
	assert_int_equal(byte_at(x + 4095), 2);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = id, .floor = 2, .length = 4096), one, 4096), BB_ST_OK);
	assert_int_equal(byte_at(x), 2);
	/* This home's --compress is off: it may be asked, and answers plainly. */
	assert_int_equal(put(BB_CMD_READ, x, MSG(.length = 4096, .flags = BB_F_LZ4), NULL, 0), BB_ST_OK);
	assert_int_equal(last.flags, 0);
	assert_int_equal(last.length, 4096);
	bb_lz4_free(z);
}

static void test_late_write(void **state)
{
	uint8_t one[4096], two[4096];
	uint64_t x = create(1);

	memset(one, 1, sizeof(one));
	memset(two, 2, sizeof(two));
	/* Message 2 is given up with one of its two pages on the way. */
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 2, .length = 4096), one, 4096), -1);
	assert_int_equal(put(BB_CMD_WRITE, x + 4096, MSG(.id = 3, .floor = 3, .length = 4096), two, 4096), BB_ST_OK);
	assert_int_equal(put(BB_CMD_WRITE, x + 4096, MSG(.id = 2, .floor = 2, .nseg = 2, .seg = 1, .length = 4096), one, 4096),
			 BB_ST_STALE);
	assert_int_equal(byte_at(x + 4096), 2);
	/* A duplicate of what is done is acknowledged, not done: message 4, then 5 over it, then 4 again. */
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 4, .floor = 4, .length = 4096), one, 4096), BB_ST_OK);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 5, .floor = 4, .length = 4096), two, 4096), BB_ST_OK);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 4, .floor = 4, .length = 4096), one, 4096), BB_ST_OK);
	assert_int_equal(byte_at(x), 2);
	/* Below the window. */
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 1100, .floor = 600, .length = 4096), two, 4096), BB_ST_OK);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 76, .floor = 4, .length = 4096), one, 4096), BB_ST_STALE);
	assert_int_equal(byte_at(x), 2);
	assert_int_equal(serve.stats.stale, 2);
	assert_int_equal(serve.stats.duplicates, 1);
}

/* To whichever host has room: the answer says which it is. */
static void test_any(void **state)
{
	uint8_t count[4] = { 0, 0, 0, 1 }, page[4096];
	struct bb_gptr from;
	uint64_t x, y;

	memset(page, 9, sizeof(page));
	home_node = BB_NODE_ANY;
	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, &x, 1), 1);
	assert_int_equal(bb_gptr_decode(&last_src, &from), 1);
	assert_int_equal(from.node, HOME);
	assert_int_equal(from.cmd, BB_CMD_CREATE | BB_CMD_REPLY);
	/* Once, however often it is asked. */
	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, &y, 1), 1);
	assert_int_equal(x, y);
	assert_int_equal(put(BB_CMD_ALLOC_WRITE, 0, MSG(.id = 2, .floor = 2, .length = 4096), page, 4096), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, &y, 1), 1);
	/* The tag covers the address as it was sent. */
	assert_int_equal(put_from(ASKER, BB_CMD_CREATE, 0, MSG(.id = 3, .floor = 3, .length = 4), count, 4, true), -1);
	/* Nothing else. */
	assert_int_equal(put(BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_BOUNDS);
	assert_int_equal(put(BB_CMD_DELETE, x, MSG(.id = 4, .floor = 4), NULL, 0), BB_ST_BOUNDS);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 5, .floor = 5, .length = 4096), page, 4096), BB_ST_BOUNDS);
	home_node = HOME;
	assert_int_equal(byte_at(x), 0);
	assert_int_equal(byte_at(y), 9);
	assert_int_equal(put(BB_CMD_DELETE, x, MSG(.id = 6, .floor = 6), NULL, 0), BB_ST_OK);
}

static void test_probe(void **state)
{
	uint8_t data[1024] = { 9 };
	uint64_t x = create(1), got[4];

	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 8, .flags = BB_F_PROBE), NULL, 0), BB_ST_OK);
	assert_int_equal(bb_wire_state_decode(&last, 8, got), 0);
	for (uint16_t seg = 7; seg > 0; seg--)
		assert_int_equal(put(BB_CMD_WRITE, x + seg * 1024, MSG(.id = 2, .floor = 2, .nseg = 8, .seg = seg, .length = 1024),
				     data, 1024), -1);
	assert_int_equal(put(BB_CMD_WRITE, x + 1024, MSG(.id = 2, .floor = 2, .nseg = 8, .seg = 1, .length = 1024), data, 1024), -1);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 8, .flags = BB_F_PROBE), NULL, 0), BB_ST_OK);
	assert_int_equal(bb_wire_state_decode(&last, 8, got), 7);
	assert_int_equal(got[0], 0xfe);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 8, .length = 1024), data, 1024), BB_ST_OK);
	assert_int_equal(bb_wire_state_decode(&last, 8, got), 8);
	/* The same id for something else. */
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 4, .length = 1024), data, 1024), BB_ST_MALFORMED);
	assert_int_equal(put(BB_CMD_DELETE, x, MSG(.id = 2, .floor = 2), NULL, 0), BB_ST_MALFORMED);
}

static void test_refused_once(void **state)
{
	uint8_t data[4096] = { 9 };
	uint64_t x = create(1), bad = x + (1ULL << 40);

	assert_int_equal(put(BB_CMD_WRITE, bad, MSG(.id = 2, .floor = 2, .nseg = 3, .seg = 1, .length = 4096), data, 4096), BB_ST_BOUNDS);
	assert_int_equal(bb_wire_failed_page(&last), 1);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 3, .length = 4096), data, 4096), -1);
	assert_int_equal(byte_at(x), 0);
	assert_int_equal(put(BB_CMD_WRITE, x, MSG(.id = 2, .floor = 2, .nseg = 3, .flags = BB_F_PROBE), NULL, 0), BB_ST_BOUNDS);
	assert_int_equal(bb_wire_failed_page(&last), 1);
}

static void test_create_twice(void **state)
{
	uint8_t count[4] = { 0, 0, 0, 5 };
	uint64_t a[64], b[64], x;
	struct bb_home_stats hs;

	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, a, 64), 5);
	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, b, 64), 5);
	assert_memory_equal(a, b, 40);
	assert_int_equal(put(BB_CMD_DELETE, a[0], MSG(.id = 2, .floor = 2), NULL, 0), BB_ST_OK);
	assert_int_equal(put(BB_CMD_DELETE, a[0], MSG(.id = 2, .floor = 2), NULL, 0), BB_ST_OK);
	assert_int_equal(put(BB_CMD_DELETE, a[0], MSG(.id = 3, .floor = 3), NULL, 0), BB_ST_GENERATION);
	/* Another node, another session of the same numbers: its own window. */
	assert_int_equal(put_from(5, BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4, false), BB_ST_OK);
	assert_int_equal(bb_wire_create_ptrs(&last, b, 64), 5);
	x = b[4];
	assert_int_equal(put(BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_RIGHTS);
	bb_home_stats(w.home, &hs);
	assert_int_equal(hs.extents, 9);
}

static void test_forged(void **state)
{
	uint64_t x = create(1);

	assert_int_equal(put_from(ASKER, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0, true), -1);
	assert_int_equal(put_from(ASKER, BB_CMD_READ, x, MSG(.length = 77), NULL, 0, true), -1);
	assert_int_equal(serve.stats.bad_tag, 2);
	assert_int_equal(put(BB_CMD_READ, x, MSG(.length = 77), NULL, 0), BB_ST_MALFORMED);
	assert_int_equal(put(BB_CMD_INVALIDATE, x, MSG(.length = 0), NULL, 0), BB_ST_COMMAND);
	assert_int_equal(put(BB_CMD_READ | BB_CMD_REPLY, x, MSG(.length = 4096), NULL, 0), -1);
	assert_int_equal(put_from(ASKER, BB_CMD_READ, x, MSG(.version = 2, .id = 5, .length = 4096), NULL, 0, true), BB_ST_VERSION);
	assert_int_equal(last.id, 5);
	assert_int_equal(serve.stats.bad_version, 1);
}

/* The kernel's policies hold here as well; rates are its own. */
static void test_policy(void **state)
{
	struct bb_policy p[BB_POLICY_ENTRIES] = { 0 };
	uint64_t x;

	serve.policy = p;
	x = create(1);
	p[BB_CMD_READ].action = BB_ACT_REFUSE;
	p[BB_CMD_CREATE].action = BB_ACT_DROP;
	p[BB_CMD_DELETE].action = BB_ACT_RATE;
	assert_int_equal(put(BB_CMD_READ, x, MSG(.length = 4096), NULL, 0), BB_ST_COMMAND);
	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 2, .floor = 2, .length = 4), (uint8_t[]){ 0, 0, 0, 1 }, 4), -1);
	assert_int_equal(serve.stats.policy, 2);
	/* Not even a refusal to one who does not know the key. */
	assert_int_equal(put_from(ASKER, BB_CMD_READ, x, MSG(.length = 4096), NULL, 0, true), -1);
	assert_int_equal(put(BB_CMD_DELETE, x, MSG(.id = 2, .floor = 2), NULL, 0), BB_ST_OK);
	assert_int_equal(serve.stats.policy, 2);
}

static void no_wake(void *arg)
{
}

/* More memory is being made: the asker hears BUSY, and its request is new when it comes again. */
static void test_busy(void **state)
{
	const struct bb_home_maker maker = { no_wake, NULL };
	uint8_t count[4] = { 0, 0, 0, 1 };
	uint64_t index;

	bb_home_maps(w.home, &maker);
	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4), BB_ST_BUSY);
	assert_int_equal(put(BB_CMD_CREATE, 0, MSG(.id = 1, .floor = 1, .length = 4), count, 4), BB_ST_BUSY);
	assert_int_equal(serve.stats.duplicates, 0);
	assert_true(bb_home_claim(w.home, &index));
	assert_int_equal(bb_home_give(w.home, index, -ENOMEM), -ENOMEM);
	create(1);
}

/* Sessions end by time, never for room. */
static void test_sessions(void **state)
{
	struct bb_msg m = { .nseg = 1, .id = 1, .floor = 1 };
	struct bb_session_slot *slot;
	struct bb_sessions *s;

	assert_int_equal(bb_sessions_new(&s, NULL), 0);
	for (m.session = 0; m.session < BB_SESSIONS_MAX; m.session++)
		assert_int_equal(bb_sessions_slot(s, 1, 0, BB_CMD_WRITE, &m, SECOND, &slot), BB_ST_OK);
	assert_int_equal(bb_sessions_slot(s, 1, 0, BB_CMD_WRITE, &m, 60 * SECOND, &slot), BB_ST_BUSY);
	m.session = 5;
	assert_int_equal(bb_sessions_slot(s, 1, 0, BB_CMD_WRITE, &m, 60 * SECOND, &slot), BB_ST_OK);
	slot->state = BB_SLOT_DONE;
	m.session = BB_SESSIONS_MAX;
	assert_int_equal(bb_sessions_slot(s, 1, 0, BB_CMD_WRITE, &m, 62 * SECOND, &slot), BB_ST_OK);
	assert_int_equal(bb_sessions_count(s), 2);
	m.session = 5;
	assert_int_equal(bb_sessions_slot(s, 1, 0, BB_CMD_WRITE, &m, 62 * SECOND, &slot), BB_ST_OK);
	assert_int_equal(slot->state, BB_SLOT_DONE);
	bb_sessions_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_compressed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_late_write, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_any, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_probe, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_refused_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_create_twice, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_forged, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_policy, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_busy, set_up, tear_down),
		cmocka_unit_test(test_sessions),
	};

	bb_log_init("test_serve", BB_LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
