/* SPDX-License-Identifier: MIT */
/* Private data and control messages of RDMA: doc/protocol.md, section 12. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/rdma_wire.h"

#include <bluebridge/gptr.h>

static const struct bb_rdma_open some = { .pager = 3, .tenant = 5, .node = 0x102, .home = 0x304, .boot = 0x11223344,
					  .home_boot = 0x55667788, .number = 0x0102030405060708 };

static void key(struct bb_key *k, uint8_t byte)
{
	memset(k->raw, byte, sizeof(k->raw));
	assert_int_equal(bb_key_derive(k), 0);
}

static void open_request(void **state)
{
	static const uint8_t want[24] = { 1, 3, 0, 5, 1, 2, 3, 4, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 1, 2, 3, 4, 5, 6, 7, 8 };
	uint8_t b[BB_RDMA_OPEN_BYTES + 8] = { 0 };
	struct bb_rdma_open back;
	struct bb_key k, other;

	key(&k, 1);
	key(&other, 2);
	bb_rdma_open_encode(&k, &some, b);
	assert_memory_equal(b, want, sizeof(want));
	assert_int_equal(bb_rdma_open_decode(&k, b, sizeof(b), &back), 0); /* padded, as rdma_cm does */
	assert_int_equal(back.pager, some.pager);
	assert_int_equal(back.tenant, some.tenant);
	assert_int_equal(back.node, some.node);
	assert_int_equal(back.home, some.home);
	assert_int_equal(back.boot, some.boot);
	assert_int_equal(back.home_boot, some.home_boot);
	assert_true(back.number == some.number);
	assert_int_equal(bb_rdma_open_decode(&other, b, sizeof(b), &back), -EKEYREJECTED);
	assert_int_equal(bb_rdma_open_decode(&k, b, BB_RDMA_OPEN_BYTES - 1, &back), -EBADMSG);
	assert_int_equal(bb_rdma_open_decode(&k, b, 0, &back), -EBADMSG);
	assert_int_equal(bb_rdma_open_decode(&k, NULL, 32, &back), -EBADMSG);
	for (unsigned int i = 0; i < BB_RDMA_OPEN_BYTES * 8; i++) {
		b[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(bb_rdma_open_decode(&k, b, BB_RDMA_OPEN_BYTES, &back), i < 8 ? -EPROTO : -EKEYREJECTED);
		b[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

static void nobody_and_any(void **state)
{
	struct bb_rdma_open o = some, back;
	uint8_t b[BB_RDMA_OPEN_BYTES];
	struct bb_key k;

	key(&k, 1);
	o.node = 0;
	bb_rdma_open_encode(&k, &o, b);
	assert_int_equal(bb_rdma_open_decode(&k, b, sizeof(b), &back), -EBADMSG);
	o.node = BB_NODE_ANY;
	bb_rdma_open_encode(&k, &o, b);
	assert_int_equal(bb_rdma_open_decode(&k, b, sizeof(b), &back), -EBADMSG);
	o.node = 1;
	o.number = 0;
	bb_rdma_open_encode(&k, &o, b);
	assert_int_equal(bb_rdma_open_decode(&k, b, sizeof(b), &back), -EBADMSG);
}

static void accepted(void **state)
{
	const struct bb_rdma_accept a = { .boot = 9, .number = 10 };
	struct bb_rdma_open another = some;
	uint8_t b[BB_RDMA_ACCEPT_BYTES];
	struct bb_rdma_accept back;
	struct bb_key k;

	key(&k, 1);
	bb_rdma_accept_encode(&k, &some, &a, b);
	assert_int_equal(bb_rdma_accept_decode(&k, &some, b, sizeof(b), &back), 0);
	assert_int_equal(back.boot, 9);
	assert_true(back.number == 10);
	assert_int_equal(bb_rdma_accept_decode(&k, &some, b, sizeof(b) - 1, &back), -EBADMSG);
	assert_int_equal(bb_rdma_accept_decode(&k, &some, NULL, 0, &back), -EBADMSG);
	another.pager++;
	assert_int_equal(bb_rdma_accept_decode(&k, &another, b, sizeof(b), &back), -EKEYREJECTED);
	for (unsigned int i = 0; i < sizeof(b) * 8; i++) {
		b[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_int_equal(bb_rdma_accept_decode(&k, &some, b, sizeof(b), &back), i < 8 ? -EPROTO : -EKEYREJECTED);
		b[i / 8] ^= (uint8_t)(1 << i % 8);
	}
}

static void messages(void **state)
{
	struct bb_rdma_msg m = { .cmd = BB_RDMA_WINDOW, .reply = true, .id = 0x1122334455667788, .ptr = 0xabcd000000200000,
				 .rkey = 0xdeadbeef, .addr = 0x7f00000000200000 }, back;
	uint8_t b[BB_RDMA_MSG_MAX + 8];
	size_t n = bb_rdma_msg_encode(&m, b);

	assert_int_equal(n, BB_RDMA_MSG_BYTES);
	assert_true(bb_rdma_msg_decode(&back, b, n));
	assert_int_equal(back.cmd, m.cmd);
	assert_true(back.reply && back.id == m.id && back.ptr == m.ptr && back.rkey == m.rkey && back.addr == m.addr);
	assert_false(bb_rdma_msg_decode(&back, b, n - 1));
	assert_false(bb_rdma_msg_decode(&back, b, n + 1));
	b[0] = 2;
	assert_false(bb_rdma_msg_decode(&back, b, n));
	for (uint32_t k = 0; k <= BB_CREATE_MAX; k++) {
		m = (struct bb_rdma_msg){ .cmd = BB_RDMA_CREATE, .reply = true, .id = 1, .count = k };
		for (uint32_t i = 0; i < k; i++)
			m.ptrs[i] = ~0ULL - i;
		n = bb_rdma_msg_encode(&m, b);
		assert_int_equal(n, BB_RDMA_MSG_BYTES + 8 * k);
		assert_true(bb_rdma_msg_decode(&back, b, n));
		assert_memory_equal(back.ptrs, m.ptrs, k * 8);
		assert_false(bb_rdma_msg_decode(&back, b, n - 1));
	}
}

/* Impossible ones. */
static void bad_messages(void **state)
{
	const struct bb_rdma_msg bad[] = {
		{ .cmd = BB_RDMA_WINDOW, .id = 0 },
		{ .cmd = BB_RDMA_WINDOW, .id = 1, .ptr = 4096 },
		{ .cmd = BB_RDMA_DELETE, .id = 1, .ptr = 1 },
		{ .cmd = BB_RDMA_WINDOW, .id = 1, .status = BB_ST_BUSY },
		{ .cmd = BB_RDMA_WINDOW, .id = 1, .reply = true, .status = BB_ST_MAX },
		{ .cmd = BB_RDMA_CREATE, .id = 1, .count = 0 },
		{ .cmd = BB_RDMA_CREATE, .id = 1, .count = BB_CREATE_MAX + 1 },
		{ .cmd = BB_RDMA_CREATE, .id = 1, .count = 0x20000001, .reply = true },
		{ .cmd = BB_RDMA_CREATE, .id = 1, .count = 1, .flags = 0x80 },
		{ .cmd = 0, .id = 1 },
		{ .cmd = 127, .id = 1 },
	};
	uint8_t b[BB_RDMA_MSG_MAX];
	struct bb_rdma_msg back;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		size_t n = bb_rdma_msg_encode(&bad[i], b);

		if (bb_rdma_msg_decode(&back, b, n))
			fail_msg("message %zu was taken", i);
	}
}

/* Whatever comes in: nothing is read beyond its end (the sanitizers tell), and what is taken is itself again. */
static void random_bytes(void **state)
{
	uint64_t seed = 7;
	struct bb_key k;

	key(&k, 1);
	for (unsigned int round = 0; round < 200000; round++) {
		size_t len = round % (BB_RDMA_MSG_MAX + 2);
		uint8_t *b = malloc(len ? len : 1), again[BB_RDMA_MSG_MAX];
		struct bb_rdma_accept a;
		struct bb_rdma_open o;
		struct bb_rdma_msg m;

		for (size_t i = 0; i < len; i++) {
			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			b[i] = (uint8_t)(seed >> 56);
		}
		if (len > 8 && round % 2) {
			static const uint8_t cmds[] = { 1, 2, 7, 0x81, 0x82, 0x87 };

			b[0] = BB_RDMA_VERSION;
			b[1] = cmds[round / 2 % 6];
			b[2] = b[3] = b[4] = b[5] = b[6] = 0;
			if (len >= 32)
				memset(b + 21, 0, 3), memset(b + 28, 0, 4);
		}
		bb_rdma_open_decode(&k, b, len, &o);
		bb_rdma_accept_decode(&k, &some, b, len, &a);
		if (bb_rdma_msg_decode(&m, b, len)) {
			assert_int_equal(bb_rdma_msg_encode(&m, again), len);
			memset(again + 28, 0, 4);
			memset(b + 28, 0, 4);
			assert_memory_equal(again, b, len);
		}
		free(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(open_request), cmocka_unit_test(nobody_and_any), cmocka_unit_test(accepted),
		cmocka_unit_test(messages),	cmocka_unit_test(bad_messages),	  cmocka_unit_test(random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
