/* SPDX-License-Identifier: MIT */
/*
 * Pages that travel compressed: what goes so and what does not, who is asked to
 * and who is not, and payloads that are no lz4.
 */
#include "net_world.h"

#include "net/compress.h"
#include "net/serve.h"

enum { TEXT, HALF, NOISE, KINDS };

static void page(uint8_t *out, int kind, uint64_t seed)
{
	static const char words[] = "a page has one name everywhere and the network takes the packet to whoever owns it ";
	char number[24];

	fill(out, seed);
	if (kind == HALF)
		memset(out + 2048, 0, 2048);
	for (unsigned int i = 0; kind == TEXT && i < 4096; i++)
		out[i] = (uint8_t)words[(i + seed * 13) % (sizeof(words) - 1)];
	snprintf(number, sizeof(number), "%016lx", seed);
	if (kind == TEXT)
		memcpy(out + 100, number, 16);
}

/* --- packing ---------------------------------------------------------------- */

static void test_pack(void **state)
{
	struct bb_lz4 *z = bb_lz4_new();
	uint8_t in[4096], packed[4096], out[4096 + 8];
	uint32_t n;

	assert_non_null(z);
	for (uint32_t len = BB_SEG_SMALL; len <= BB_SEG_LARGE; len += BB_SEG_LARGE - BB_SEG_SMALL) {
		for (int kind = TEXT; kind < KINDS; kind++) {
			page(in, kind, 5);
			if (len == BB_SEG_SMALL && kind == HALF)
				memset(in + 512, 0, 512);
			n = bb_lz4_pack(z, in, len, packed);
			assert_true(kind == NOISE ? !n : n && n <= len - len / 8);
			if (!n)
				continue;
			memset(out, 0x77, sizeof(out));
			assert_true(bb_lz4_unpack(packed, n, out, len));
			assert_memory_equal(out, in, len);
			assert_int_equal(out[len], 0x77);
			/* Another length, either way; a part of it; nothing. */
			assert_false(bb_lz4_unpack(packed, n, out, len == BB_SEG_SMALL ? BB_SEG_LARGE : BB_SEG_SMALL));
			assert_false(bb_lz4_unpack(packed, n - 1, out, len));
			assert_false(bb_lz4_unpack(packed, 0, out, len));
		}
	}
	/* Just not an eighth shorter: 4096 - 512 random bytes need more than that. */
	page(in, NOISE, 6);
	memset(in, 0, 500);
	assert_int_equal(bb_lz4_pack(z, in, 4096, packed), 0);
	memset(in, 0, 600);
	n = bb_lz4_pack(z, in, 4096, packed);
	assert_true(n > 3400 && n <= BB_LZ4_MAX(4096));
	bb_lz4_free(z);
}

static enum bb_status request(uint8_t cmd, struct bb_msg m, uint64_t ptr)
{
	const struct bb_gptr dst = { .node = 2, .cmd = cmd, .ptr = ptr };

	m.version = BB_WIRE_VERSION;
	m.id = 9;
	m.floor = 9;
	m.paylen = cmd == BB_CMD_READ ? 0 : m.length;
	return bb_wire_request(&dst, &m);
}

static enum bb_status reply(struct bb_msg m)
{
	m.paylen = m.length;
	return bb_wire_reply(BB_CMD_READ, &m);
}

#define MSG(...) ((struct bb_msg){ __VA_ARGS__ })

static void test_lengths(void **state)
{
	const uint8_t W = BB_CMD_WRITE, L = BB_F_LZ4, S = BB_F_LZ4 | BB_F_SMALL;

	assert_int_equal(request(BB_CMD_READ, MSG(.nseg = 1, .length = 4096, .flags = L), 0), BB_ST_OK);
	assert_int_equal(request(BB_CMD_READ, MSG(.nseg = 1, .length = 4096, .flags = S), 0), BB_ST_OK);
	assert_int_equal(request(W, MSG(.nseg = 1, .length = 3584, .flags = L), 0), BB_ST_OK);
	assert_int_equal(request(W, MSG(.nseg = 1, .length = 3585, .flags = L), 0), BB_ST_MALFORMED);
	assert_int_equal(request(W, MSG(.nseg = 1, .length = 0, .flags = L), 0), BB_ST_MALFORMED);
	assert_int_equal(request(W, MSG(.nseg = 64, .length = 9, .flags = L), 0), BB_ST_OK);
	assert_int_equal(request(W, MSG(.nseg = 65, .length = 9, .flags = L), 0), BB_ST_MALFORMED);
	assert_int_equal(request(W, MSG(.nseg = 4, .seg = 2, .length = 896, .flags = S), 0x5800), BB_ST_OK);
	assert_int_equal(request(W, MSG(.nseg = 4, .seg = 2, .length = 896, .flags = S), 0x5400), BB_ST_MALFORMED);
	assert_int_equal(request(W, MSG(.nseg = 4, .seg = 2, .length = 897, .flags = S), 0x5800), BB_ST_MALFORMED);
	assert_int_equal(request(W, MSG(.nseg = 3, .seg = 2, .length = 9, .flags = S), 0x5800), BB_ST_MALFORMED);
	assert_int_equal(request(W, MSG(.nseg = 1, .length = 9, .flags = L | BB_F_PROBE), 0), BB_ST_MALFORMED);
	assert_int_equal(request(BB_CMD_ALLOC_WRITE, MSG(.nseg = 1, .length = 9, .flags = L), 0), BB_ST_MALFORMED);
	assert_int_equal(reply(MSG(.nseg = 1, .length = 3584, .flags = L)), BB_ST_OK);
	assert_int_equal(reply(MSG(.nseg = 1, .length = 3585, .flags = L)), BB_ST_MALFORMED);
	assert_int_equal(reply(MSG(.nseg = 1, .length = 1024, .flags = L)), BB_ST_OK);
	assert_int_equal(reply(MSG(.nseg = 4, .length = 7, .flags = S)), BB_ST_OK);
	assert_int_equal(reply(MSG(.nseg = 1, .length = 7, .flags = S)), BB_ST_MALFORMED);
	assert_int_equal(reply(MSG(.nseg = 1, .length = 0, .flags = L)), BB_ST_MALFORMED);
}

/* What of a READ's answer is compressed is covered by its tag. */
static void test_digest(void **state)
{
	const uint8_t cmd = BB_CMD_READ | BB_CMD_REPLY;
	struct in6_addr a = { .s6_addr = { 1 } }, b = { .s6_addr = { 2 } };
	uint8_t packet[40 + 100] = { 0 };
	struct bb_key key = { .raw = { 1 } };
	struct bb_hdr h = { .version = 1 };

	bb_key_derive(&key);
	for (int lz4 = 0; lz4 < 2; lz4++) {
		h.flags = lz4 ? BB_F_LZ4 : 0;
		bb_wire_seal(&key, &a, &b, cmd, &h, packet + 40, 100);
		memcpy(packet, &h, 40);
		assert_true(bb_wire_verify(&key, &a, &b, cmd, packet, sizeof(packet)));
		packet[77] ^= 1;
		assert_int_equal(bb_wire_verify(&key, &a, &b, cmd, packet, sizeof(packet)), !lz4);
		packet[77] ^= 1;
	}
}

/* --- who is asked to ------------------------------------------------------------ */

static void test_negotiation(void **state)
{
	static const struct {
		enum bb_compress own;
		uint8_t said;
		bool used;
	} all[] = {
		{ BB_COMPRESS_ON, 0, false }, /* of a version that knows nothing of it */
		{ BB_COMPRESS_ON, BB_HELLO_LZ4, true },
		{ BB_COMPRESS_ON, BB_HELLO_LZ4 | BB_HELLO_SLOW, true },
		{ BB_COMPRESS_AUTO, BB_HELLO_LZ4, false }, /* both links are fast, or say nothing */
		{ BB_COMPRESS_AUTO, BB_HELLO_LZ4 | BB_HELLO_SLOW, true },
		{ BB_COMPRESS_AUTO, BB_HELLO_SLOW, false },
		{ BB_COMPRESS_OFF, BB_HELLO_LZ4 | BB_HELLO_SLOW, false },
	};
	struct bb_key key = { .raw = { 1 } };
	struct bb_peer info;

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct bb_peers *p;

		world_compress[ASKER] = all[i].own;
		world_flags = all[i].said;
		p = world_peers(ASKER, 7, 0, &key);
		world_hear(p, HOME, BOOT, 0);
		assert_int_equal(bb_peers_get(p, HOME, &info), 1);
		assert_int_equal(bb_peers_compress(p, &info), all[i].used);
		/* It takes back what it said. */
		world_flags = 0;
		world_hear(p, HOME, BOOT, 0);
		bb_peers_get(p, HOME, &info);
		assert_false(bb_peers_compress(p, &info));
		bb_peers_free(p);
	}
	world_compress[ASKER] = BB_COMPRESS_OFF;
}

/* A device that says its speed, and one that does not. */
static void test_speed(void **state)
{
	int fd = socket(AF_INET6, SOCK_DGRAM, 0);

	assert_int_equal(bb_link_speed(fd, "lo"), 0);
	assert_int_equal(bb_link_speed(fd, "nosuch"), 0);
	assert_int_equal(bb_link_speed(fd, "a-name-that-no-interface-can-have"), 0);
	assert_int_equal(bb_link_speed(fd, NULL), 0);
	assert_int_equal(system("ip link add name lzA type veth peer name lzB && ip link set lzA up && ip link set lzB up"), 0);
	assert_int_equal(bb_link_speed(fd, "lzA"), 10000);
	close(fd);
}

/* --- over the wire ---------------------------------------------------------------- */

static void both(enum bb_compress asker, enum bb_compress home, uint8_t said)
{
	world_compress[ASKER] = asker;
	world_compress[HOME] = home;
	world_flags = said;
}

static uint8_t data[60][4096];
static int kinds = KINDS;

static bool corrupts; /* packets come damaged */

/*
 * A READ that tries how long a segment may be is asked plainly, and a plain answer has
 * no digest: the pager holds it against the hash that it has kept, and asks again. So
 * do we. What was asked for compressed has to be right.
 */
static void read_back(uint64_t ptr, uint32_t n, const uint8_t *want)
{
	for (int i = 0; i < 20; i++) {
		struct bb_net_req r = { .cmd = n == 1 ? BB_CMD_READ : BB_CMD_READ_RUN, .node = HOME, .ptr = ptr, .len = n * 4096,
					.boot = BOOT };

		memset(page_read, 0xee, sizeof(page_read));
		assert_int_equal(run_on(w.net, &r), BB_ST_OK);
		if (!corrupts || r.t.lz4 || !memcmp(page_read, want, (size_t)n * 4096))
			break;
	}
	assert_memory_equal(page_read, want, (size_t)n * 4096);
}

/* Pages of all kinds there and back. */
static void roundtrip(uint64_t seed)
{
	struct bb_net_page pages[60];
	struct bb_net_req r = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = pages, .npages = 60 };
	uint64_t x = create_one(w.net);

	for (unsigned int i = 0; i < 60; i++) {
		page(data[i], (int)i % kinds, seed + i);
		pages[i] = (struct bb_net_page){ x + i * 4096, data[i] };
	}
	assert_int_equal(run_on(w.net, &r), BB_ST_OK);
	for (unsigned int i = 0; i < 60; i++)
		read_back(x + i * 4096, 1, data[i]);
	for (unsigned int i = 0; i < 60; i += 15)
		read_back(x + i * 4096, 15, data[i]);
}

static void test_round_trip(void **state)
{
	for (int mtu = 1500; mtu <= 9000; mtu += 7500) {
		struct bb_server_stats ss;
		struct bb_net_stats st;

		world_mtu(mtu);
		both(BB_COMPRESS_ON, BB_COMPRESS_AUTO, BB_HELLO_LZ4);
		world_start(64 << 20, NULL);
		roundtrip(1);
		bb_net_stats(w.net, &st);
		bb_server_stats(w.server, &ss);
		assert_int_equal(st.bad_tag + st.malformed + st.timeouts, 0);
		assert_true(st.lz4_tx >= 40 && st.lz4_rx >= 80 && st.lz4_raw >= 20);
		assert_true(ss.lz4_rx >= 40 && ss.lz4_tx >= 80 && ss.lz4_raw >= 40);
		/* Of 180 pages there and back a third are text and a third are half zeros. */
		assert_true(st.lz4_saved > 60 * 3000 + 60 * 1800);
		assert_true(st.rx_bytes < 120 * 4096 * 3 / 4);
		world_stop();
	}
}

/* Whoever does not say that it understands is spoken to plainly, and answers so. */
static void test_plain_peers(void **state)
{
	static const struct {
		enum bb_compress asker, home;
		uint8_t said;
	} all[] = { { BB_COMPRESS_ON, BB_COMPRESS_OFF, 0 }, { BB_COMPRESS_OFF, BB_COMPRESS_ON, BB_HELLO_LZ4 | BB_HELLO_SLOW } };

	world_mtu(9000);
	for (int i = 0; i < 2; i++) {
		struct bb_server_stats ss;
		struct bb_net_stats st;

		both(all[i].asker, all[i].home, all[i].said);
		world_start(64 << 20, NULL);
		roundtrip(2);
		bb_net_stats(w.net, &st);
		bb_server_stats(w.server, &ss);
		assert_int_equal(st.lz4_tx + st.lz4_rx + st.lz4_raw + st.lz4_saved, 0);
		assert_int_equal(ss.lz4_tx + ss.lz4_rx + ss.lz4_raw + ss.lz4_saved, 0);
		world_stop();
	}
	/* Its HELLO of a moment ago said otherwise: it takes what comes, and answers READs plainly. */
	both(BB_COMPRESS_ON, BB_COMPRESS_OFF, BB_HELLO_LZ4);
	world_start(64 << 20, NULL);
	roundtrip(3);
	world_stop();
}

/*
 * Corrupted packets too: of what is compressed the tag sees it. Plain pages are left to
 * the hash that the pager has kept; so there all is text.
 */
static void test_loss(void **state)
{
	static const char *const faults[] = { "drop=10,seed=3", "dup=100,seed=4", "reorder=20,delay=10,drop=5,seed=5", "corrupt=5,seed=6" };

	for (int mtu = 1500; mtu <= 9000; mtu += 7500)
		for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
			world_mtu(mtu);
			both(BB_COMPRESS_ON, BB_COMPRESS_ON, BB_HELLO_LZ4);
			world_start(64 << 20, faults[i]);
			corrupts = i == 3;
			kinds = corrupts ? 1 : KINDS;
			for (uint64_t seed = 100; seed < 104; seed++)
				roundtrip(seed * 1000);
			kinds = KINDS;
			corrupts = false;
			world_stop();
		}
	world_mtu(9000);
}

/* The path becomes narrower: of one WRITE some segments still fit and some do not. */
static void test_narrow(void **state)
{
	world_mtu(9000);
	both(BB_COMPRESS_ON, BB_COMPRESS_ON, BB_HELLO_LZ4);
	world_start(64 << 20, NULL);
	roundtrip(7);
	world_mtu(1500);
	roundtrip(8);
	world_mtu(9000);
	roundtrip(9);
	world_stop();
}

/* --- homes that are not like ours ---------------------------------------------------- */

static int fake = -1;
static unsigned int with_lz4, without;
static bool rubbish;

static void fake_send(const struct bb_sock_packet *p, const struct bb_msg *q, struct bb_msg m, const void *body)
{
	struct bb_sock_control control;
	struct in6_addr src = p->to, to = p->from.sin6_addr;
	struct sockaddr_in6 at = p->from;
	uint8_t whole[40 + 4096];
	struct iovec iov = { whole, 40 + m.length };
	struct msghdr msg = { .msg_name = &at, .msg_namelen = sizeof(at), .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
	struct bb_hdr h;

	m.version = 1;
	m.nseg = 1;
	m.boot = BOOT;
	m.session = q->session;
	m.id = q->id;
	src.s6_addr[6] |= BB_CMD_REPLY;
	to.s6_addr[6] = src.s6_addr[6];
	at.sin6_addr = to;
	bb_wire_encode(&h, &m);
	bb_wire_seal(&w.key, &src, &to, src.s6_addr[6], &h, body, m.length);
	memcpy(whole, &h, 40);
	memcpy(whole + 40, body, m.length);
	msg.msg_controllen = bb_sock_source(&control, &src, 0);
	assert_true(sendmsg(fake, &msg, 0) > 0);
}

/* One that knows nothing of lz4, or answers with what is none. */
static void fake_home(struct bb_sock_ring *ring)
{
	static uint8_t body[4096] = { 1, 2, 3 };
	const int n = bb_sock_recv(ring, fake);

	for (int i = 0; i < n; i++) {
		struct bb_sock_packet p;
		struct bb_msg q;
		bool lz4;

		bb_sock_packet(ring, (unsigned int)i, &p);
		assert_int_equal(bb_wire_decode(p.data, p.len, &q), BB_ST_OK);
		lz4 = q.flags & BB_F_LZ4;
		with_lz4 += lz4;
		without += !lz4;
		if (lz4 && !rubbish)
			fake_send(&p, &q, MSG(.status = BB_ST_MALFORMED), body);
		else if (p.to.s6_addr[6] == BB_CMD_READ)
			fake_send(&p, &q, MSG(.flags = lz4 ? BB_F_LZ4 : 0, .length = lz4 ? 300 : 4096), body);
		else
			fake_send(&p, &q, MSG(.length = 3), "\0\1\1");
	}
}

static void fake_done(struct bb_net_req *r)
{
	one_done++;
}

static uint8_t ask_fake(struct bb_sock_ring *ring, struct bb_net_req *r)
{
	one_done = with_lz4 = without = 0;
	r->done = fake_done;
	r->deadline = bb_now_ns() + 20 * SECOND;
	bb_net_submit(w.net, r);
	bb_net_flush(w.net);
	while (!one_done) {
		fake_home(ring);
		bb_net_poll(w.net);
	}
	return r->status;
}

static void test_other_homes(void **state)
{
	static uint8_t text[4096];
	const struct bb_net_page one = { 0x5000, text };
	struct bb_net_req rd = { .cmd = BB_CMD_READ, .node = HOME, .boot = BOOT, .ptr = 0x5000, .len = 4096 };
	struct bb_net_req wr = { .cmd = BB_CMD_WRITE, .node = HOME, .boot = BOOT, .pages = &one, .npages = 1 };
	struct bb_sock_ring *ring;
	const int on = 1;

	page(text, TEXT, 1);
	unsetenv("BB_TEST_NET");
	for (int what = 0; what < 3; what++) {
		memset(&w, 0, sizeof(w));
		assert_int_equal(bb_key_derive(&w.key), 0);
		both(BB_COMPRESS_ON, BB_COMPRESS_OFF, BB_HELLO_LZ4);
		w.here = world_peers(ASKER, 0xa11ce, 0, &w.key);
		world_hear(w.here, HOME, BOOT, 0);
		assert_int_equal(bb_net_new(&w.net, w.here, NULL, 0), 0);
		fake = bb_sock_open(PORT);
		assert_true(fake >= 0);
		assert_int_equal(setsockopt(fake, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on)), 0);
		assert_int_equal(bb_sock_ring_new(&ring, 16, 8192), 0);
		rubbish = what == 2;
		assert_int_equal(ask_fake(ring, what == 1 ? &wr : &rd), BB_ST_OK);
		assert_true(with_lz4 >= 1 && without >= 1);
		/* And what comes after it is not tried again at once. */
		if (!rubbish) {
			assert_int_equal(ask_fake(ring, &rd), BB_ST_OK);
			assert_int_equal(with_lz4, 0);
		}
		bb_net_free(w.net);
		bb_peers_free(w.here);
		bb_sock_ring_free(ring);
		close(fake);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pack),	   cmocka_unit_test(test_lengths),     cmocka_unit_test(test_digest),
		cmocka_unit_test(test_negotiation), cmocka_unit_test(test_speed),      cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_plain_peers), cmocka_unit_test(test_loss),       cmocka_unit_test(test_narrow),
		cmocka_unit_test(test_other_homes),
	};

	bb_log_init("test_compress", BB_LOG_ERROR);
	if (world_namespace())
		return 77;
	return cmocka_run_group_tests_name("compress", tests, NULL, NULL);
}
