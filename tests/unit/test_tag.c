/* SPDX-License-Identifier: MIT */
/* Keys and tags: against libsodium, and the vectors that doc/protocol.md gives. */
#include <netinet/in.h>

#include "tag.h"

#include <bluebridge/gptr.h>
#include <bluebridge/siphash.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* Printed by this test; other implementations can be held against them. */
#define BB_VECTOR_READ 0x4d5405111115868eULL
#define BB_VECTOR_DIGEST 0x44e9aa68a7c03ba5ULL
#define BB_VECTOR_WRITE 0x4f9ad2b9b9a22c08ULL

static char dir[] = "/tmp/bb-test-tag-XXXXXX";

static const char *path(const char *name)
{
	static char buf[128];

	snprintf(buf, sizeof(buf), "%s/%s", dir, name);
	return buf;
}

static void test_siphash(void **state)
{
	for (unsigned int n = 0; n <= 16; n++) {
		uint8_t key[crypto_shorthash_KEYBYTES], out[crypto_shorthash_BYTES], msg[128];
		__u64 k[2], words[16], want;

		for (int round = 0; round < 200; round++) {
			randombytes_buf(key, sizeof(key));
			randombytes_buf(msg, sizeof(msg));
			crypto_shorthash(out, msg, n * 8, key);
			memcpy(k, key, sizeof(k));
			memcpy(words, msg, sizeof(words));
			memcpy(&want, out, sizeof(want));
			for (unsigned int i = 0; i < 16; i++)
				words[i] = le64toh(words[i]);
			assert_true(bb_siphash(le64toh(k[0]), le64toh(k[1]), words, n) == le64toh(want));
		}
	}
}

/* The tag of 80 bytes that are put together by hand, with libsodium alone. */
static uint64_t by_hand(const struct bb_key *k, const uint8_t msg[80])
{
	uint8_t sub[16], out[8];
	uint64_t v;

	crypto_kdf_derive_from_key(sub, sizeof(sub), 1, "bbridge1", k->raw);
	crypto_shorthash(out, msg, 80, sub);
	memcpy(&v, out, sizeof(v));
	return le64toh(v);
}

/* A READ request, a WRITE segment and a READ answer, as in doc/protocol.md. */
static void test_vectors(void **state)
{
	struct bb_key k;
	const struct bb_gptr own = { .tenant = 0, .node = 1, .ptr = 0 };
	struct bb_gptr page = { .tenant = 0, .node = 2, .cmd = BB_CMD_READ, .ptr = bb_ptr(0x1234, 0x5000) };
	struct bb_hdr h = {
		.version = 1,
		.nseg = htobe16(1),
		.length = htobe32(4096),
		.boot = htobe32(0x0a0b0c0d),
		.session = htobe32(0x01020304),
		.id = htobe64(7),
	};
	struct in6_addr src, dst;
	static const uint8_t read_bytes[80] = {
		0xfd, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,		/* source */
		0xfd, 0xbb, 0, 0, 0, 2, 4, 0, 0x12, 0x34, 0, 0, 0, 0, 0x50, 0,	/* destination */
		1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x10, 0, 0x0a, 0x0b, 0x0c, 0x0d,	/* header */
		1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
		0, 0, 0, 0, 0, 0, 0, 0,						/* tag, as zero */
		0, 0, 0, 0, 0, 0, 0, 0,						/* digest */
	};
	uint8_t data[4096];
	uint64_t tag, digest;
	char id[9];

	for (int i = 0; i < BB_KEY_BYTES; i++)
		k.raw[i] = (uint8_t)i;
	assert_int_equal(bb_key_derive(&k), 0);
	bb_key_id(&k, id);
	print_message("key 00..1f: name %s, k0 %016llx, k1 %016llx, secret %02x%02x%02x%02x...\n", id,
		      (unsigned long long)k.k0, (unsigned long long)k.k1, k.secret[0], k.secret[1], k.secret[2], k.secret[3]);
	bb_gptr_encode(&own, &src);
	bb_gptr_encode(&page, &dst);
	tag = bb_tag(&k, &src, &dst, &h, 0);
	print_message("READ request: tag %016llx\n", (unsigned long long)tag);
	assert_true(tag == BB_VECTOR_READ);
	assert_true(tag == by_hand(&k, read_bytes));

	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + 1);
	digest = bb_digest(&k, data, sizeof(data));
	page.cmd = BB_CMD_WRITE;
	bb_gptr_encode(&page, &dst);
	h.floor = htobe32(7);
	tag = bb_tag(&k, &src, &dst, &h, digest);
	print_message("WRITE segment: digest %016llx, tag %016llx\n", (unsigned long long)digest, (unsigned long long)tag);
	assert_true(digest == BB_VECTOR_DIGEST);
	assert_true(tag == BB_VECTOR_WRITE);
	/* The tag field itself is not covered. */
	h.tag = htobe64(tag);
	assert_true(bb_tag(&k, &src, &dst, &h, digest) == tag);
}

/* Every bit of what it covers changes it. */
static void test_covers(void **state)
{
	union {
		struct {
			struct in6_addr src, dst;
			struct bb_hdr h;
			uint64_t digest;
		} m;
		uint8_t raw[80];
	} u;
	struct bb_key k;
	uint64_t tag;

	randombytes_buf(k.raw, sizeof(k.raw));
	bb_key_derive(&k);
	randombytes_buf(&u, sizeof(u));
	tag = bb_tag(&k, &u.m.src, &u.m.dst, &u.m.h, u.m.digest);
	for (unsigned int bit = 0; bit < 640; bit++) {
		bool in_tag = bit / 8 >= 32 + offsetof(struct bb_hdr, tag) && bit / 8 < 72;

		u.raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(bb_tag(&k, &u.m.src, &u.m.dst, &u.m.h, u.m.digest) == tag, in_tag);
		u.raw[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	k.raw[5] ^= 1;
	bb_key_derive(&k);
	assert_true(bb_tag(&k, &u.m.src, &u.m.dst, &u.m.h, u.m.digest) != tag);
	assert_true(bb_digest(&k, "", 0) == 0);
}

static void test_key_file(void **state)
{
	struct bb_key a, b;
	struct stat st;
	char ida[9], idb[9];
	int fd;

	assert_int_equal(bb_key_load(&a, path("key")), 1);
	assert_int_equal(stat(path("key"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(st.st_size, BB_KEY_BYTES);
	assert_int_equal(bb_key_load(&b, path("key")), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	bb_key_id(&a, ida);
	bb_key_id(&b, idb);
	assert_string_equal(ida, idb);
	assert_int_equal(strlen(ida), 8);

	assert_int_equal(chmod(path("key"), 0640), 0);
	assert_int_equal(bb_key_load(&b, path("key")), -EPERM);
	assert_int_equal(chmod(path("key"), 0604), 0);
	assert_int_equal(bb_key_load(&b, path("key")), -EPERM);
	assert_int_equal(chmod(path("key"), 0400), 0);
	assert_int_equal(bb_key_load(&b, path("key")), 0);

	fd = open(path("short"), O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, "0123456789", 10), 10);
	close(fd);
	assert_int_equal(bb_key_load(&b, path("short")), -EINVAL);
	fd = open(path("long"), O_CREAT | O_WRONLY, 0600);
	assert_int_equal(write(fd, &a, 64), 64);
	close(fd);
	assert_int_equal(bb_key_load(&b, path("long")), -EINVAL);
	assert_int_equal(bb_key_load(&b, dir), -EINVAL);
	assert_int_equal(bb_key_load(&b, path("no/such/place")), -ENOENT);
	/* Nothing half made is left behind. */
	assert_int_equal(unlink(path("key")) | unlink(path("short")) | unlink(path("long")), 0);
	assert_int_equal(rmdir(dir), 0);
}

static int set_up(void **state)
{
	return sodium_init() < 0 || !mkdtemp(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_siphash),
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_covers),
		cmocka_unit_test(test_key_file),
	};

	return cmocka_run_group_tests(tests, set_up, NULL);
}
