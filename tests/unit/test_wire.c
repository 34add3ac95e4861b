/* SPDX-License-Identifier: MIT */
/* The encoder and decoder of packets: what is taken, what is refused, nothing in between. */
#include <netinet/in.h>

#include "wire.h"

#include <endian.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint8_t buf[40 + 4200];

static size_t packet(const struct bb_msg *m, size_t paylen)
{
	struct bb_hdr h;

	bb_wire_encode(&h, m);
	memcpy(buf, &h, sizeof(h));
	return sizeof(h) + paylen;
}

/* A request of m with paylen bytes of payload to ptr. Return: status. */
static enum bb_status request(uint8_t cmd, uint64_t ptr, struct bb_msg m, size_t paylen)
{
	const struct bb_gptr dst = { .node = 2, .cmd = cmd, .ptr = ptr };
	enum bb_status st;
	struct bb_msg out;

	if (!m.version)
		m.version = BB_WIRE_VERSION;
	if (!m.id) {
		m.id = 9;
		m.floor = 9;
	}
	st = bb_wire_decode(buf, packet(&m, paylen), &out);
	return st ? st : bb_wire_request(&dst, &out);
}

static enum bb_status reply(uint8_t cmd, struct bb_msg m, size_t paylen)
{
	enum bb_status st;
	struct bb_msg out;

	m.version = BB_WIRE_VERSION;
	st = bb_wire_decode(buf, packet(&m, paylen), &out);
	return st ? st : bb_wire_reply(cmd, &out);
}

#define MSG(...) ((struct bb_msg){ __VA_ARGS__ })

static void test_layout(void **state)
{
	const struct bb_msg m = { .version = 1, .flags = 2, .status = 3, .seg = 0x0405, .nseg = 0x0607, .length = 0x08090a0b,
				  .boot = 0x0c0d0e0f, .session = 0x10111213, .floor = 0x14151617, .id = 0x18191a1b1c1d1e1f };
	static const uint8_t want[40] = { 1, 2, 3, 0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
					  23, 24, 25, 26, 27, 28, 29, 30, 31 };
	struct bb_msg out;
	struct bb_hdr h;

	bb_wire_encode(&h, &m);
	assert_memory_equal(&h, want, sizeof(want));
	assert_int_equal(bb_wire_decode(&h, sizeof(h), &out), BB_ST_OK);
	assert_int_equal(out.seg, m.seg);
	assert_int_equal(out.nseg, m.nseg);
	assert_int_equal(out.length, m.length);
	assert_int_equal(out.boot, m.boot);
	assert_int_equal(out.session, m.session);
	assert_int_equal(out.floor, m.floor);
	assert_true(out.id == m.id);
	assert_int_equal(out.paylen, 0);
	for (size_t len = 0; len < 40; len++)
		assert_int_equal(bb_wire_decode(&h, len, &out), BB_ST_MALFORMED);
	h.reserved = 1;
	assert_int_equal(bb_wire_decode(&h, 40, &out), BB_ST_MALFORMED);
	h.reserved = 0;
	h.version = 2;
	assert_int_equal(bb_wire_decode(&h, 40, &out), BB_ST_VERSION);
	h.version = 1;
	h.seg = h.nseg;
	assert_int_equal(bb_wire_decode(&h, 40, &out), BB_ST_MALFORMED);
	h.seg = h.nseg = 0;
	assert_int_equal(bb_wire_decode(&h, 40, &out), BB_ST_MALFORMED);
	memcpy(buf, want, 40);
	assert_int_equal(bb_wire_decode(buf, 40 + 4096, &out), BB_ST_OK);
	assert_int_equal(bb_wire_decode(buf, 40 + 4097, &out), BB_ST_MALFORMED);
}

static void test_read(void **state)
{
	const uint8_t R = BB_CMD_READ, RR = BB_CMD_READ_RUN;

	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 4096), 0), BB_ST_OK);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 4096, .flags = BB_F_SMALL), 0), BB_ST_OK);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 4096, .flags = 2), 0), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5001, MSG(.nseg = 1, .length = 4096), 0), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 8192), 0), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 0), 0), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 2, .length = 4096), 0), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 4096), 1), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 4096, .status = 1), 0), BB_ST_MALFORMED);
	assert_int_equal(request(R, 0x5000, MSG(.nseg = 1, .length = 4096, .version = 9), 0), BB_ST_VERSION);
	assert_int_equal(request(RR, 0x5000, MSG(.nseg = 1, .length = 15 * 4096), 0), BB_ST_OK);
	assert_int_equal(request(RR, 0x5000, MSG(.nseg = 1, .length = 16 * 4096), 0), BB_ST_MALFORMED);
	assert_int_equal(request(RR, 0x5000, MSG(.nseg = 1, .length = 4097), 0), BB_ST_MALFORMED);
	assert_int_equal(request(RR, 0x5000, MSG(.nseg = 1, .length = 0xfffff000), 0), BB_ST_MALFORMED);
	assert_int_equal(reply(R, MSG(.nseg = 1, .length = 4096), 4096), BB_ST_OK);
	assert_int_equal(reply(R, MSG(.nseg = 4, .seg = 3, .length = 1024), 1024), BB_ST_OK);
	assert_int_equal(reply(R, MSG(.nseg = 4, .seg = 3, .length = 4096), 4096), BB_ST_MALFORMED);
	assert_int_equal(reply(R, MSG(.nseg = 1, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(reply(R, MSG(.nseg = 1, .length = 4096), 4095), BB_ST_MALFORMED);
	assert_int_equal(reply(R, MSG(.nseg = 8, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(reply(RR, MSG(.nseg = 60, .length = 1024), 1024), BB_ST_OK);
	assert_int_equal(reply(RR, MSG(.nseg = 64, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(reply(RR, MSG(.nseg = 15, .length = 4096), 4096), BB_ST_OK);
	assert_int_equal(reply(RR, MSG(.nseg = 16, .length = 4096), 4096), BB_ST_MALFORMED);
}

static void test_write(void **state)
{
	const uint8_t W = BB_CMD_WRITE;

	assert_int_equal(request(W, 0x5000, MSG(.nseg = 64, .seg = 63, .length = 4096), 4096), BB_ST_OK);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 65, .seg = 0, .length = 4096), 4096), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5c00, MSG(.nseg = 256, .seg = 255, .length = 1024), 1024), BB_ST_OK);
	assert_int_equal(request(W, 0x5800, MSG(.nseg = 256, .seg = 255, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 260, .seg = 0, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 3, .seg = 0, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 1, .length = 4096), 1024), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 1, .length = 100), 100), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 1, .length = 4096, .flags = BB_F_SMALL), 4096), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 256, .flags = BB_F_PROBE), 0), BB_ST_OK);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 257, .flags = BB_F_PROBE), 0), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 4, .seg = 1, .flags = BB_F_PROBE), 0), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0x5000, MSG(.nseg = 4, .length = 4, .flags = BB_F_PROBE), 4), BB_ST_MALFORMED);
	/* The oldest open id is at most half a window behind. */
	assert_int_equal(request(W, 0, MSG(.nseg = 1, .length = 4096, .id = 1000, .floor = 489), 4096), BB_ST_OK);
	assert_int_equal(request(W, 0, MSG(.nseg = 1, .length = 4096, .id = 1000, .floor = 488), 4096), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0, MSG(.nseg = 1, .length = 4096, .id = 1000, .floor = 1001), 4096), BB_ST_MALFORMED);
	assert_int_equal(request(W, 0, MSG(.nseg = 1, .length = 4096, .id = 1ULL << 32, .floor = ~0u), 4096), BB_ST_OK);
	assert_int_equal(request(W, 0, MSG(.nseg = 1, .length = 4096, .id = 1ULL << 32, .floor = 0), 4096), BB_ST_OK);
}

static void test_state(void **state)
{
	uint64_t got[4], back[4];
	uint8_t out[40 + BB_WRITE_STATE_MAX];

	for (unsigned int nseg = 1; nseg <= 256; nseg++) {
		struct bb_msg m = { .nseg = 1 };
		unsigned int want = 0;

		for (unsigned int i = 0; i < 4; i++)
			got[i] = (uint64_t)random() << 33 ^ (uint64_t)random() << 11 ^ (uint64_t)random();
		m.payload = out + 40;
		m.paylen = m.length = (uint32_t)bb_wire_state(got, (uint16_t)nseg, out + 40);
		assert_true(m.paylen <= BB_WRITE_STATE_MAX);
		assert_int_equal(bb_wire_reply(BB_CMD_WRITE, &m), BB_ST_OK);
		for (unsigned int i = 0; i < 256; i++) {
			if (i >= nseg)
				got[i / 64] &= ~(1ULL << i % 64);
			want += got[i / 64] >> i % 64 & 1;
		}
		assert_int_equal(bb_wire_state_decode(&m, (uint16_t)nseg, back), want);
		assert_memory_equal(got, back, sizeof(got));
		assert_int_equal(bb_wire_state_decode(&m, (uint16_t)(nseg + 8), back), -1);
		out[41] ^= 1; /* the count is not that of the bits */
		assert_int_equal(bb_wire_state_decode(&m, (uint16_t)nseg, back), -1);
		out[41] ^= 1;
		if (nseg % 8) {
			out[40 + m.paylen - 1] |= 0x80; /* a segment that there is not */
			out[41]++;
			assert_int_equal(bb_wire_state_decode(&m, (uint16_t)nseg, back), -1);
		}
	}
}

static void test_create(void **state)
{
	uint64_t ptrs[BB_CREATE_MAX], back[BB_CREATE_MAX];
	const uint8_t C = BB_CMD_CREATE, A = BB_CMD_ALLOC_WRITE;

	bb_wire_create_request(64, buf + 40);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 4), 4), BB_ST_OK);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 4, .flags = BB_F_SHARED), 4), BB_ST_OK);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 4, .flags = BB_F_SMALL), 4), BB_ST_MALFORMED);
	assert_int_equal(request(C, 1, MSG(.nseg = 1, .length = 4), 4), BB_ST_MALFORMED);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 4), 3), BB_ST_MALFORMED);
	bb_wire_create_request(65, buf + 40);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 4), 4), BB_ST_MALFORMED);
	bb_wire_create_request(0, buf + 40);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 4), 4), BB_ST_MALFORMED);

	assert_int_equal(request(A, 0, MSG(.nseg = 1, .length = 4096), 4096), BB_ST_OK);
	assert_int_equal(request(A, 0xc00, MSG(.nseg = 4, .seg = 3, .length = 1024), 1024), BB_ST_OK);
	assert_int_equal(request(A, 0x800, MSG(.nseg = 4, .seg = 3, .length = 1024), 1024), BB_ST_MALFORMED);
	assert_int_equal(request(A, 0x1000, MSG(.nseg = 1, .length = 4096), 4096), BB_ST_MALFORMED);
	assert_int_equal(request(A, 0, MSG(.nseg = 8, .length = 1024), 1024), BB_ST_MALFORMED);

	for (uint32_t n = 1; n <= BB_CREATE_MAX; n++) {
		struct bb_msg m = { .nseg = 1, .payload = buf + 40 };

		for (uint32_t i = 0; i < n; i++)
			ptrs[i] = (uint64_t)random() << 32 | (uint32_t)random();
		m.paylen = m.length = (uint32_t)bb_wire_create_reply(ptrs, n, buf + 40);
		assert_int_equal(bb_wire_reply(C, &m), BB_ST_OK);
		assert_int_equal(bb_wire_create_ptrs(&m, back, BB_CREATE_MAX), n);
		assert_memory_equal(ptrs, back, n * 8);
		assert_int_equal(bb_wire_create_ptrs(&m, back, n - 1), 0);
		m.paylen = m.length = m.paylen - 1;
		assert_int_equal(bb_wire_reply(C, &m), BB_ST_MALFORMED);
		assert_int_equal(bb_wire_create_ptrs(&m, back, BB_CREATE_MAX), 0);
	}
	bb_wire_create_request(0x20000001, buf + 40); /* times 8 plus 4 is 12 again in 32 bits */
	assert_int_equal(reply(C, MSG(.nseg = 1, .length = 12), 12), BB_ST_MALFORMED);
}

static void test_close(void **state)
{
	const uint8_t C = BB_CMD_CLOSE;
	struct bb_wire_close c = { .number = 0x0102030405060708, .seen = 9 }, back;
	struct bb_msg m = { .payload = buf + 40, .paylen = BB_CLOSE_BYTES };

	bb_wire_close_request(&c, buf + 40);
	bb_wire_close_decode(&m, &back);
	assert_true(back.number == c.number && back.seen == c.seen);
	m.paylen--;
	bb_wire_close_decode(&m, &back);
	assert_true(!back.number && !back.seen);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 16), 16), BB_ST_OK);
	assert_int_equal(request(C, 4096, MSG(.nseg = 1, .length = 16), 16), BB_ST_MALFORMED);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 15), 15), BB_ST_MALFORMED);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .length = 16), 15), BB_ST_MALFORMED);
	assert_int_equal(request(C, 0, MSG(.nseg = 2, .length = 16), 16), BB_ST_MALFORMED);
	assert_int_equal(request(C, 0, MSG(.nseg = 1, .flags = 1, .length = 16), 16), BB_ST_MALFORMED);
	assert_int_equal(reply(C, MSG(.nseg = 1), 0), BB_ST_OK);
	assert_int_equal(reply(C, MSG(.nseg = 1, .length = 2), 2), BB_ST_MALFORMED);
	assert_int_equal(reply(C, MSG(.nseg = 2), 0), BB_ST_MALFORMED);
}

static void test_commands(void **state)
{
	for (unsigned int cmd = 0; cmd < 128; cmd++) {
		bool known = cmd == BB_CMD_READ || cmd == BB_CMD_READ_RUN || cmd == BB_CMD_CLOSE || bb_wire_tracked((uint8_t)cmd);

		assert_int_equal(request((uint8_t)cmd, 0, MSG(.nseg = 1), 0) == BB_ST_COMMAND, !known);
		assert_int_equal(reply((uint8_t)cmd, MSG(.nseg = 1), 0) == BB_ST_COMMAND, !known);
	}
	for (unsigned int st = 1; st < 256; st++) {
		bool wire = st < BB_ST_MAX && st != BB_ST_TIMEOUT && st != BB_ST_UNREACH;

		assert_int_equal(reply(BB_CMD_READ, MSG(.nseg = 1, .status = (uint8_t)st), 0), wire ? BB_ST_OK : BB_ST_MALFORMED);
		assert_int_equal(reply(BB_CMD_WRITE, MSG(.nseg = 1, .status = (uint8_t)st, .length = 2), 2),
				 wire ? BB_ST_OK : BB_ST_MALFORMED);
		assert_int_equal(reply(BB_CMD_READ, MSG(.nseg = 1, .status = (uint8_t)st, .length = 2), 2), BB_ST_MALFORMED);
	}
}

static void test_seal(void **state)
{
	struct in6_addr src = { .s6_addr = { 0xfd, 0xbb } }, dst = { .s6_addr = { 0xfd, 0xbb, [6] = BB_CMD_WRITE } };
	struct bb_msg m = { .version = 1, .nseg = 1, .length = 4096, .id = 5 };
	size_t len = packet(&m, 4096);
	struct bb_key k;
	struct bb_hdr h;

	memset(k.raw, 3, sizeof(k.raw));
	bb_key_derive(&k);
	memset(buf + 40, 0x77, 4096);
	bb_wire_encode(&h, &m);
	bb_wire_seal(&k, &src, &dst, BB_CMD_WRITE, &h, buf + 40, 4096);
	memcpy(buf, &h, 40);
	assert_true(bb_wire_verify(&k, &src, &dst, BB_CMD_WRITE, buf, len));
	for (size_t i = 0; i < len; i += i < 40 ? 1 : 97) {
		buf[i] ^= 0x10;
		assert_false(bb_wire_verify(&k, &src, &dst, BB_CMD_WRITE, buf, len));
		buf[i] ^= 0x10;
	}
	assert_false(bb_wire_verify(&k, &src, &dst, BB_CMD_WRITE, buf, len - 1));
	/* Pages read are not covered, by design: the asker holds their hash. */
	bb_wire_seal(&k, &src, &dst, BB_CMD_READ | BB_CMD_REPLY, &h, buf + 40, 4096);
	memcpy(buf, &h, 40);
	buf[100] ^= 1;
	assert_true(bb_wire_verify(&k, &src, &dst, BB_CMD_READ | BB_CMD_REPLY, buf, len));
	buf[20] ^= 1;
	assert_false(bb_wire_verify(&k, &src, &dst, BB_CMD_READ | BB_CMD_REPLY, buf, len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout), cmocka_unit_test(test_read),   cmocka_unit_test(test_write),
		cmocka_unit_test(test_state),  cmocka_unit_test(test_create), cmocka_unit_test(test_close), cmocka_unit_test(test_commands),
		cmocka_unit_test(test_seal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
