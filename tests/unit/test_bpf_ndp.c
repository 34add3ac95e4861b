/* SPDX-License-Identifier: MIT */
/* bb_host by BPF_PROG_TEST_RUN: neighbour discovery for the addresses of lent memory, and for no others. */
#include "bpf_host.h"

/* --- neighbour discovery -------------------------------------------------------- */

#define AT_ND AT_UDP

static struct in6_addr ours(uint16_t node)
{
	struct bb_gptr g = { .node = node, .cmd = BB_CMD_READ, .arg = 9, .ptr = 0x123456789abcdef0ULL };
	struct in6_addr a;

	bb_gptr_encode(&g, &a);
	return a;
}

/* options: bytes of them. */
static void solicit(struct frame *f, const struct in6_addr *src, const struct in6_addr *target, const void *options, unsigned int len)
{
	static const uint8_t eth[14] = { 0x33, 0x33, 0xff, 0xbc, 0xde, 0xf0, 2, 0xbb, 0, 0, 0, 1, 0x86, 0xdd };
	struct ipv6hdr ip = { .version = 6, .nexthdr = 58, .hop_limit = 255, .payload_len = htobe16((uint16_t)(24 + len)) };
	uint16_t check;

	ip.saddr = *src;
	ip.daddr = (struct in6_addr){ .s6_addr = { 0xff, 2, [11] = 1, 0xff, target->s6_addr[13], target->s6_addr[14], target->s6_addr[15] } };
	memset(f, 0, sizeof(*f));
	memcpy(f->b, eth, 14);
	memcpy(f->b + AT_IP, &ip, sizeof(ip));
	f->b[AT_ND] = 135;
	memcpy(f->b + AT_ND + 8, target, 16);
	memcpy(f->b + AT_ND + 24, options, len);
	f->len = AT_ND + 24 + len;
	check = (uint16_t)~sum_of(f);
	memcpy(f->b + AT_ND + 2, &check, 2);
}

static const struct in6_addr asker = { .s6_addr = { 0xfe, 0x80, [15] = 1 } }, any;
static const uint8_t sll[8] = { 1, 1, 2, 0xbb, 0, 0, 0, 1 };
static const uint8_t nonce_sll[16] = { 14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0xbb, 0, 0, 0, 1 };

static void check_advert(const struct in6_addr *target, bool probe)
{
	static const uint8_t all[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	static const struct in6_addr all_nodes = { .s6_addr = { 0xff, 2, [15] = 1 } };

	assert_int_equal(out.len, AT_ND + 32);
	assert_memory_equal(out.b, probe ? all : asker_mac, 6);
	assert_memory_equal(out.b + 6, mac, 6);
	assert_int_equal(out.b[AT_IP + 7], 255);
	assert_int_equal(out.b[AT_IP + 5], 32);
	assert_memory_equal(out.b + AT_IP + 8, target, 16);
	assert_memory_equal(out.b + AT_IP + 24, probe ? &all_nodes : &asker, 16);
	assert_int_equal(out.b[AT_ND], 136);
	assert_int_equal(out.b[AT_ND + 1], 0);
	assert_int_equal(out.b[AT_ND + 4], probe ? 0x20 : 0x60);
	assert_memory_equal(out.b + AT_ND + 8, target, 16);
	assert_int_equal(out.b[AT_ND + 24], 2);
	assert_int_equal(out.b[AT_ND + 25], 1);
	assert_memory_equal(out.b + AT_ND + 26, mac, 6);
	assert_int_equal(sum_of(&out), 0xffff);
}

static void test_solicitations(void **state)
{
	const uint64_t ndp = count(BB_CNT_NDP);
	struct in6_addr t = ours(NODE);

	solicit(&in, &asker, &t, sll, 8);
	assert_int_equal(run(&in), XDP_TX);
	check_advert(&t, false);
	/* Asked of the address itself, as when it is about to be forgotten; without the option. */
	solicit(&in, &asker, &t, "", 0);
	assert_int_equal(run(&in), XDP_TX);
	check_advert(&t, false);
	solicit(&in, &asker, &t, nonce_sll, 16);
	assert_int_equal(run(&in), XDP_TX);
	check_advert(&t, false);
	/* Is the address free? RFC 7527 adds a number to that. */
	solicit(&in, &any, &t, "", 0);
	assert_int_equal(run(&in), XDP_TX);
	check_advert(&t, true);
	solicit(&in, &any, &t, nonce_sll, 8);
	assert_int_equal(run(&in), XDP_TX);
	check_advert(&t, true);
	assert_int_equal(count(BB_CNT_NDP), ndp + 5);
}

static void spoil(unsigned int at, uint8_t is, bool sum)
{
	struct in6_addr t = ours(NODE);
	uint16_t check;

	solicit(&in, &asker, &t, sll, 8);
	in.b[at] = is;
	if (sum) {
		memset(in.b + AT_ND + 2, 0, 2);
		check = (uint16_t)~sum_of(&in);
		memcpy(in.b + AT_ND + 2, &check, 2);
	}
	untouched(&in);
}

static void test_solicitations_untouched(void **state)
{
	static const struct in6_addr others[] = {
		{ .s6_addr = { 0xfd, 0xbb, 0, 0, 0, 3, [15] = 1 } },	 /* another node's */
		{ .s6_addr = { 0xfd, 0xbb, 0, 1, 0, NODE, [15] = 1 } }, /* another tenant's */
		{ .s6_addr = { 0xfd, 0xbc, 0, 0, 0, NODE, [15] = 1 } },
		{ .s6_addr = { 0xfe, 0x80, [15] = 2 } },
		{ .s6_addr = { 0xff, 2, [15] = 1 } },
	};
	static const struct in6_addr group = { .s6_addr = { 0xff, 2, [15] = 1 } }, loopback = { .s6_addr = { [15] = 1 } };
	static const uint8_t group_sll[8] = { 1, 1, 0x33, 0x33, 0, 0, 0, 1 };
	struct in6_addr t = ours(NODE);

	for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		solicit(&in, &asker, &others[i], sll, 8);
		untouched(&in);
	}
	spoil(AT_IP + 7, 64, false);	 /* came over a router */
	spoil(AT_ND + 1, 1, true);	 /* code */
	spoil(AT_ND, 136, true);	 /* an advertisement */
	spoil(AT_ND + 2, 0x5a, false);	 /* checksum */
	spoil(AT_ND + 25, 0, true);	 /* an option of no length */
	spoil(AT_ND + 25, 2, true);	 /* one that ends behind the packet */
	spoil(AT_ND + 25, 255, true);
	solicit(&in, &any, &t, sll, 8); /* who has no address has none on the link to give */
	untouched(&in);
	solicit(&in, &any, &t, "", 0);
	in.b[AT_IP + 24 + 11] = 2; /* not the group of the target */
	memset(in.b + AT_ND + 2, 0, 2);
	*(uint16_t *)(in.b + AT_ND + 2) = (uint16_t)~sum_of(&in);
	untouched(&in);
	/* Every length that it can be cut to, with the old length and the right one in its header. */
	solicit(&in, &asker, &t, sll, 8);
	for (unsigned int len = AT_ND; len < in.len; len++) {
		struct frame f = in;

		f.len = len;
		untouched(&f);
		f.b[AT_IP + 5] = (uint8_t)(len - AT_ND);
		untouched(&f);
	}
	in.len += 6; /* the link's padding */
	untouched(&in);
	/* Asked by a group, or to be answered to one: it would reach many. */
	solicit(&in, &group, &t, sll, 8);
	untouched(&in);
	solicit(&in, &loopback, &t, sll, 8);
	untouched(&in);
	solicit(&in, &asker, &t, group_sll, 8);
	untouched(&in);
	solicit(&in, &asker, &t, "", 0);
	in.b[6] |= 1;
	untouched(&in);
	cfg.flags = 0;
	configure();
	solicit(&in, &asker, &t, sll, 8);
	untouched(&in);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_solicitations, set_up),
		cmocka_unit_test_setup(test_solicitations_untouched, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
