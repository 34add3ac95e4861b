/* SPDX-License-Identifier: MIT */
/* The bytes of a HELLO, and that no bytes at all upset the decoder. */
#include "net/hello.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct bb_hello sample = {
	.flags = BB_HELLO_WANTS_REPLY,
	.node = 0x1234,
	.port = 48059,
	.tenant = 0xabcd,
	.boot = 0xdeadbeef,
	.mtu = 9000,
	.lent = 1ULL << 40,
	.free = 3ULL << 30,
	.stamp = 0x1122334455667788,
	.echo = 0x99aabbccddeeff00,
	.name = "host-a.example",
};

static void there_and_back(void **state)
{
	uint8_t b[BB_HELLO_BYTES], later[BB_HELLO_BYTES + 40] = { 0 };
	struct bb_hello h;

	bb_hello_encode(&sample, b);
	assert_int_equal(bb_hello_decode(&h, b, sizeof(b)), 0);
	assert_memory_equal(&h, &sample, sizeof(h));
	memcpy(later, b, sizeof(b)); /* a later version may say more */
	assert_int_equal(bb_hello_decode(&h, later, sizeof(later)), 0);
	assert_memory_equal(&h, &sample, sizeof(h));
}

/* Another implementation must find the fields where hello.h says. */
static void places_on_the_wire(void **state)
{
	static const uint8_t start[] = { 1,    2,    0x12, 0x34, 0xde, 0xad, 0xbe, 0xef, 0xbb, 0xbb, 0xab, 0xcd, 0, 0, 0x23,
					 0x28, 0,    0,	   1,	 0,    0,    0,	   0,	 0,    0,    0,	   0,	 0, 0xc0,
					 0,    0,    0,	   0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa };
	uint8_t b[BB_HELLO_BYTES];

	bb_hello_encode(&sample, b);
	assert_memory_equal(b, start, sizeof(start));
	assert_memory_equal(b + 64, "host-a.example\0\0", 16);
}

static void refusals(void **state)
{
	static const struct {
		unsigned int at;
		uint8_t bytes[8];
		unsigned int n;
		int error;
	} t[] = {
		{ 0, { 0 }, 1, -EPROTO },
		{ 0, { 2 }, 1, -EPROTO },
		{ 2, { 0, 0 }, 2, -EBADMSG },		/* no node */
		{ 2, { 0xff, 0xff }, 2, -EBADMSG },	/* whichever node */
		{ 4, { 0, 0, 0, 0 }, 4, -EBADMSG },	/* no incarnation */
		{ 8, { 0, 0 }, 2, -EBADMSG },		/* no port */
		{ 24, { 0xff }, 1, -EBADMSG },		/* more free than lent */
	};
	uint8_t b[BB_HELLO_BYTES];
	struct bb_hello h;

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		bb_hello_encode(&sample, b);
		memcpy(b + t[i].at, t[i].bytes, t[i].n);
		assert_int_equal(bb_hello_decode(&h, b, sizeof(b)), t[i].error);
	}
	bb_hello_encode(&sample, b);
	for (size_t len = 0; len < sizeof(b); len++) {
		uint8_t *exact = malloc(len ? len : 1); /* so that ASan sees a step too far */

		memcpy(exact, b, len);
		assert_int_equal(bb_hello_decode(&h, exact, len), -EBADMSG);
		free(exact);
	}
}

static void names_are_tame(void **state)
{
	struct bb_hello in = sample, out;
	uint8_t b[BB_HELLO_BYTES];

	memset(in.name, 'n', sizeof(in.name)); /* not even terminated */
	bb_hello_encode(&in, b);
	assert_int_equal(bb_hello_decode(&out, b, sizeof(b)), 0);
	assert_int_equal(strlen(out.name), 31);
	memset(b + 64, 0xff, 32);
	memcpy(b + 64, "a\"b\\c\033[2J\n\x7f", 11);
	assert_int_equal(bb_hello_decode(&out, b, sizeof(b)), 0);
	assert_int_equal(strncmp(out.name, "a?b?c?[2J????", 12), 0);
	for (int i = 0; out.name[i]; i++)
		assert_true(out.name[i] > 0x20 && out.name[i] < 0x7f);
}

static void any_bytes(void **state)
{
	unsigned int seed = 1;
	struct bb_hello h, again;
	uint8_t b[BB_HELLO_BYTES];

	for (int round = 0; round < 200000; round++) {
		bb_hello_encode(&sample, b);
		for (int k = rand_r(&seed) % 6; k >= 0; k--)
			b[(unsigned int)rand_r(&seed) % sizeof(b)] = (uint8_t)rand_r(&seed);
		if (bb_hello_decode(&h, b, sizeof(b)))
			continue;
		assert_true(h.node && h.node != 0xffff && h.boot && h.port && h.free <= h.lent);
		assert_true(strlen(h.name) < sizeof(h.name));
		bb_hello_encode(&h, b); /* what was accepted is stable */
		assert_int_equal(bb_hello_decode(&again, b, sizeof(b)), 0);
		assert_memory_equal(&h, &again, sizeof(h));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_and_back), cmocka_unit_test(places_on_the_wire), cmocka_unit_test(refusals),
		cmocka_unit_test(names_are_tame), cmocka_unit_test(any_bytes),
	};

	return cmocka_run_group_tests_name("hello", tests, NULL, NULL);
}
