/* SPDX-License-Identifier: MIT */
/*
 * bb_host by BPF_PROG_TEST_RUN: neighbour discovery, overrides, policies, tags,
 * typed refusals, and all that passes untouched. Answers are held against
 * lib/wire.c and lib/tag.c.
 */
#include "bpf_frames.h"

#include <errno.h>
#include <linux/icmpv6.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include <bluebridge/steer.h>

#include "bb_host.skel.h"
#include "tag.h"
#include "wire.h"

#define NODE 2
#define ASKER 1
#define THIRD 3
#define BOOT 0xb007u

#pragma GCC diagnostic ignored "-Woverride-init"

static struct bb_host *b;
static struct bb_key key;
static struct frame in, out;
static struct bb_steer_cfg cfg;
static const uint8_t mac[6] = { 2, 0xbb, 0, 0, 0, 2 }, asker_mac[6] = { 2, 0xbb, 0, 0, 0, 1 };

/* --- the world -------------------------------------------------------------- */

static uint64_t count(uint32_t which)
{
	uint64_t v[256] = { 0 }, sum = 0;

	assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(b->maps.bb_count), &which, v), 0);
	for (int i = 0; i < libbpf_num_possible_cpus(); i++)
		sum += v[i];
	return sum;
}

static uint64_t drops(void)
{
	uint64_t sum = 0;

	for (uint32_t i = BB_CNT_DROP_TAG; i < BB_CNT_MAX; i++)
		sum += count(i);
	return sum;
}

static void set(struct bpf_map *m, const void *k, size_t ks, const void *v, size_t vs)
{
	assert_int_equal(bpf_map__update_elem(m, k, ks, v, vs, BPF_ANY), 0);
}

static void configure(void)
{
	const uint32_t zero = 0;

	set(b->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg));
}

static void policy(uint32_t cmd, struct bb_policy p)
{
	set(b->maps.bb_policy, &cmd, sizeof(cmd), &p, sizeof(p));
}

static struct bb_over_key over_key(uint16_t node, uint64_t ptr, uint32_t bits)
{
	struct bb_over_key k = { .prefixlen = 32 + bits, .node = htobe16(node) };

	ptr = htobe64(ptr);
	memcpy(k.ptr, &ptr, sizeof(ptr));
	return k;
}

static int set_up_all(void **state)
{
	const struct bb_dev dev = { .mac = { 2, 0xbb, 0, 0, 0, 2 }, .mtu = 9000, .ifindex = 1 };
	const uint32_t zero = 0;

	if (geteuid() || unshare(CLONE_NEWNET) || system("ip link set lo up")) {
		print_message("needs root: network namespaces and BPF; skipped\n");
		exit(77);
	}
	memset(key.raw, 0x5a, sizeof(key.raw));
	assert_int_equal(bb_key_derive(&key), 0);
	b = bb_host__open_and_load();
	assert_non_null(b);
	set(b->maps.bb_dev, &zero, sizeof(zero), &dev, sizeof(dev));
	return 0;
}

static int set_up(void **state)
{
	for (uint32_t c = 0; c < BB_POLICY_ENTRIES; c++)
		policy(c, (struct bb_policy){ 0 });
	cfg = (struct bb_steer_cfg){ .version = BB_STEER_VERSION, .flags = BB_SC_KNOWN | BB_SC_SERVE, .node = NODE,
				     .port = BB_UDP_PORT, .boot = BOOT, .k0 = key.k0, .k1 = key.k1 };
	configure();
	return 0;
}

static int run(const struct frame *f)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->b, .data_size_in = f->len, .data_out = out.b, .data_size_out = sizeof(out.b));

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(b->progs.bb_host), &o), 0);
	out.len = o.data_size_out;
	return (int)o.retval;
}

static void untouched(const struct frame *f)
{
	const uint64_t ndp = count(BB_CNT_NDP), nacked = count(BB_CNT_NACKED), dropped = drops();

	assert_int_equal(run(f), XDP_PASS);
	assert_int_equal(out.len, f->len);
	assert_memory_equal(out.b, f->b, f->len);
	assert_int_equal(count(BB_CNT_NDP), ndp);
	assert_int_equal(count(BB_CNT_NACKED), nacked);
	assert_int_equal(drops(), dropped);
}

static uint16_t fold(uint64_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* Of what follows IPv6, with its pseudo-header: 0xffff where the checksum is right. */
static uint16_t sum_of(const struct frame *f)
{
	uint64_t s = htobe16(f->b[AT_IP + 6]) + *(const uint16_t *)(f->b + AT_IP + 4);

	for (unsigned int i = AT_IP + 8; i < f->len; i += 2)
		s += (uint16_t)(f->b[i] | f->b[i + 1] << 8);
	return fold(s);
}

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
	cfg.flags = 0;
	configure();
	solicit(&in, &asker, &t, sll, 8);
	untouched(&in);
}

/* --- requests --------------------------------------------------------------------- */

static void seal(struct frame *f)
{
	struct bb_hdr *h = (struct bb_hdr *)(f->b + AT_HDR);
	struct in6_addr s, d;

	memcpy(&s, f->b + AT_IP + 8, 16);
	memcpy(&d, f->b + AT_IP + 24, 16);
	bb_wire_seal(&key, &s, &d, d.s6_addr[6], h, f->b + AT_HDR + 40, f->len - AT_HDR - 40);
	memset(f->b + AT_UDP + 6, 0, 2);
	*(uint16_t *)(f->b + AT_UDP + 6) = (uint16_t)~sum_of(f);
}

static void request(struct frame *f, uint16_t node, uint8_t cmd, uint64_t ptr, unsigned int payload)
{
	frame_make(f, ptr_of(ASKER, 0, 5), ptr_of(node, cmd, ptr), 42, payload);
	seal(f);
}

/* out refuses in. */
static void check_nack(uint8_t status)
{
	struct in6_addr src, dst;
	struct bb_msg m;

	assert_int_equal(out.len, in.len);
	assert_memory_equal(out.b, in.b + 6, 6);
	assert_memory_equal(out.b + 6, in.b, 6);
	memcpy(&src, out.b + AT_IP + 8, 16);
	memcpy(&dst, out.b + AT_IP + 24, 16);
	in.b[AT_IP + 24 + 6] |= BB_CMD_REPLY;
	in.b[AT_IP + 8 + 6] = in.b[AT_IP + 24 + 6];
	assert_memory_equal(&src, in.b + AT_IP + 24, 16);
	assert_memory_equal(&dst, in.b + AT_IP + 8, 16);
	assert_memory_equal(out.b + AT_UDP, in.b + AT_UDP + 2, 2);
	assert_memory_equal(out.b + AT_UDP + 2, in.b + AT_UDP, 2);
	assert_int_equal(sum_of(&out), 0xffff);
	assert_int_equal(bb_wire_decode(out.b + AT_HDR, 40, &m), BB_ST_OK);
	assert_int_equal(m.status, status);
	assert_int_equal(m.nseg, 1);
	assert_int_equal(m.length, 0);
	assert_int_equal(m.id, 42);
	assert_int_equal(m.session, 77);
	assert_int_equal(m.boot, BOOT);
	assert_true(bb_wire_verify(&key, &src, &dst, src.s6_addr[6], out.b + AT_HDR, 40));
}

static void test_commands(void **state)
{
	/* Each is counted; what the protocol has goes up, what it has not is refused. */
	for (uint32_t c = 0; c < 128; c++) {
		const uint64_t n = count(BB_CNT_COMMANDS + c), nacked = count(BB_CNT_NACKED);

		request(&in, NODE, (uint8_t)c, 0x5000, 0);
		if (c <= BB_CMD_READ_RUN) {
			untouched(&in);
			assert_int_equal(count(BB_CNT_NACKED), nacked);
		} else {
			assert_int_equal(run(&in), XDP_TX);
			check_nack(BB_ST_COMMAND);
			assert_int_equal(count(BB_CNT_NACKED), nacked + 1);
		}
		assert_int_equal(count(BB_CNT_COMMANDS + c), n + 1);
	}
	/* What cannot be is bbd's to refuse. */
	for (unsigned int at = 2; at < 5; at++) {
		request(&in, NODE, 99, 0x5000, 0);
		in.b[AT_HDR + at] = 1;
		seal(&in);
		untouched(&in);
	}
	/* With a payload its tag is bbd's to check. */
	request(&in, NODE, 77, 0x5000, 64);
	untouched(&in);
	request(&in, NODE, BB_CMD_WRITE, 0x5000, 1024);
	untouched(&in);
	/* Replies are the pager's. */
	request(&in, NODE, BB_CMD_READ | BB_CMD_REPLY, 0x5000, 0);
	untouched(&in);
}

static void test_tags(void **state)
{
	uint64_t was = count(BB_CNT_DROP_TAG);

	request(&in, NODE, BB_CMD_DELETE, 0x5000, 0);
	in.b[AT_HDR + 39] ^= 1;
	assert_int_equal(run(&in), XDP_DROP);
	request(&in, NODE, 99, 0x5000, 0);
	in.b[AT_HDR + 32] ^= 0x80;
	assert_int_equal(run(&in), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_TAG), was + 2);
	/* READ's is looked at by bb_read, if that serves; else here. */
	request(&in, NODE, BB_CMD_READ, 0x5000, 0);
	in.b[AT_HDR + 39] ^= 1;
	untouched(&in);
	cfg.flags = BB_SC_KNOWN;
	configure();
	assert_int_equal(run(&in), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_TAG), was + 3);
	/* Another version: bbd says so, whatever the tag. */
	request(&in, NODE, 99, 0x5000, 0);
	in.b[AT_HDR] = 2;
	untouched(&in);
}

static void test_policies(void **state)
{
	const struct bb_node n = { .ifindex = 1, .mac = { 2, 0xbb, 0, 0, 0, 3 }, .smac = { 2, 0xbb, 0, 0, 0, 2 } };
	const uint16_t third = THIRD;
	unsigned int passed = 0;
	uint64_t was;

	was = count(BB_CNT_DROP_POLICY);
	policy(BB_CMD_WRITE, (struct bb_policy){ .action = BB_ACT_DROP });
	request(&in, NODE, BB_CMD_WRITE, 0x5000, 1024);
	assert_int_equal(run(&in), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_POLICY), was + 1);
	request(&in, NODE, BB_CMD_DELETE, 0x5000, 0);
	untouched(&in); /* no other command's */

	policy(BB_CMD_DELETE, (struct bb_policy){ .action = BB_ACT_REFUSE });
	assert_int_equal(run(&in), XDP_TX);
	check_nack(BB_ST_COMMAND);
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_REFUSE });
	request(&in, NODE, BB_CMD_READ, 0x5000, 0);
	assert_int_equal(run(&in), XDP_TX);
	check_nack(BB_ST_COMMAND);
	was = count(BB_CNT_DROP_TAG);
	request(&in, NODE, BB_CMD_READ, 0x5000, 0);
	in.b[AT_HDR + 39] ^= 1;
	assert_int_equal(run(&in), XDP_DROP); /* never answered to one who has not the key */
	assert_int_equal(count(BB_CNT_DROP_TAG), was + 1);
	policy(BB_CMD_CREATE, (struct bb_policy){ .action = BB_ACT_REFUSE });
	request(&in, NODE, BB_CMD_CREATE, 0, 4);
	untouched(&in); /* bbd refuses it */

	was = count(BB_CNT_DROP_RATE);
	policy(BB_CMD_UPDATE, (struct bb_policy){ .action = BB_ACT_RATE, .rate = 80 });
	request(&in, NODE, BB_CMD_UPDATE, 0x5000, 0);
	for (int i = 0; i < 100; i++)
		passed += run(&in) == XDP_PASS;
	print_message("80 a second: %u of 100 at once\n", passed);
	assert_in_range(passed, 9, 40); /* a burst of an eighth of a second, and what the test itself takes */
	assert_int_equal(count(BB_CNT_DROP_RATE), was + 100 - passed);
	policy(BB_CMD_UPDATE, (struct bb_policy){ .action = BB_ACT_RATE });
	assert_int_equal(run(&in), XDP_DROP);

	policy(BB_CMD_INVOKE, (struct bb_policy){ .action = BB_ACT_COPY, .node = THIRD }); /* the switch's */
	request(&in, NODE, BB_CMD_INVOKE, 0x5000, 0);
	untouched(&in);
	policy(BB_CMD_INVOKE, (struct bb_policy){ .action = BB_ACT_REDIRECT, .node = THIRD });
	was = count(BB_CNT_DROP_NODE);
	assert_int_equal(run(&in), XDP_DROP); /* it knows no way there */
	assert_int_equal(count(BB_CNT_DROP_NODE), was + 1);
	set(b->maps.bb_nodes, &third, sizeof(third), &n, sizeof(n));
	was = count(BB_CNT_REDIRECTED);
	assert_int_equal(run(&in), XDP_TX);
	assert_int_equal(count(BB_CNT_REDIRECTED), was + 1);
	policy(BB_CMD_INVOKE, (struct bb_policy){ .action = BB_ACT_REDIRECT, .node = NODE });
	untouched(&in);
	assert_int_equal(bpf_map__delete_elem(b->maps.bb_nodes, &third, sizeof(third), 0), 0);
}

static void test_overrides(void **state)
{
	const struct bb_node n = { .ifindex = 1, .mac = { 2, 0xbb, 0, 0, 0, 3 }, .smac = { 2, 0xbb, 0, 0, 0, 2 } };
	struct bb_over o = { .cmds = { 1 << BB_CMD_READ | 1 << BB_CMD_WRITE, 1ULL << 36 }, .node = THIRD };
	const struct bb_over_key k = over_key(NODE, 7ULL << 48 | 5ULL << 21, 64 - 21);
	const uint64_t ptr = 7ULL << 48 | 5ULL << 21 | 0x3000;
	const uint16_t third = THIRD;
	struct timespec ts;
	uint64_t was = count(BB_CNT_REDIRECTED);

	set(b->maps.bb_nodes, &third, sizeof(third), &n, sizeof(n));
	set(b->maps.bb_over, &k, sizeof(k), &o, sizeof(o));
	request(&in, NODE, BB_CMD_READ, ptr, 0);
	untouched(&in); /* nobody has said that there are any */
	cfg.overrides = 1;
	configure();
	assert_int_equal(run(&in), XDP_TX);
	assert_memory_equal(out.b, n.mac, 6);
	assert_memory_equal(out.b + 6, n.smac, 6);
	assert_int_equal(out.b[AT_IP + 7], 63);
	out.b[AT_IP + 7] = 64;
	assert_memory_equal(out.b + 12, in.b + 12, in.len - 12); /* addresses, tag and all */
	request(&in, NODE, BB_CMD_WRITE, ptr + 0x1000, 1024);
	assert_int_equal(run(&in), XDP_TX);
	request(&in, NODE, 100, ptr, 0);
	assert_int_equal(run(&in), XDP_TX);
	assert_int_equal(count(BB_CNT_REDIRECTED), was + 3);
	/* Other commands, generations, extents, nodes; and replies. */
	request(&in, NODE, BB_CMD_DELETE, ptr, 0);
	untouched(&in);
	request(&in, NODE, BB_CMD_READ, ptr + (1ULL << 48), 0);
	untouched(&in);
	request(&in, NODE, BB_CMD_READ, ptr + (1ULL << 21), 0);
	untouched(&in);
	request(&in, NODE + 5, BB_CMD_READ, ptr, 0);
	untouched(&in);
	request(&in, NODE, BB_CMD_READ | BB_CMD_REPLY, ptr, 0);
	untouched(&in);
	/* The new owner speaks to the home itself. */
	frame_make(&in, ptr_of(THIRD, 0, 5), ptr_of(NODE, BB_CMD_READ, ptr), 42, 0);
	seal(&in);
	untouched(&in);
	/* At the end of its way. */
	was = count(BB_CNT_DROP_HOPS);
	request(&in, NODE, BB_CMD_READ, ptr, 0);
	in.b[AT_IP + 7] = 1;
	assert_int_equal(run(&in), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_HOPS), was + 1);
	/* A deadline. */
	in.b[AT_IP + 7] = 64;
	clock_gettime(CLOCK_BOOTTIME, &ts);
	o.until = (uint64_t)ts.tv_sec * 1000000000ULL - 1;
	set(b->maps.bb_over, &k, sizeof(k), &o, sizeof(o));
	untouched(&in);
	o.until += 100000000000ULL;
	set(b->maps.bb_over, &k, sizeof(k), &o, sizeof(o));
	assert_int_equal(run(&in), XDP_TX);
	/* To ourselves: it is here. */
	o.node = NODE;
	set(b->maps.bb_over, &k, sizeof(k), &o, sizeof(o));
	untouched(&in);
	assert_int_equal(bpf_map__delete_elem(b->maps.bb_over, &k, sizeof(k), 0), 0);
	assert_int_equal(bpf_map__delete_elem(b->maps.bb_nodes, &third, sizeof(third), 0), 0);
}

static void test_untouched(void **state)
{
	static const struct { uint8_t at, is; } change[] = {
		{ 12, 0x08 }, { 13, 0x06 }, { 12, 0x81 }, { AT_IP, 0x45 }, { AT_IP + 6, 0 }, { AT_IP + 6, 44 }, { AT_IP + 6, 43 },
		{ AT_IP + 6, 60 }, { AT_IP + 6, 6 }, { AT_IP + 6, 58 }, { AT_IP + 24, 0xfe }, { AT_IP + 25, 0xbc }, { AT_IP + 27, 9 },
		{ AT_UDP + 3, 53 },
	};

	for (unsigned int i = 0; i < sizeof(change) / sizeof(change[0]); i++) {
		request(&in, NODE, 99, 0x5000, 0);
		in.b[change[i].at] = change[i].is;
		untouched(&in);
	}
	request(&in, NODE, 99, 0x5000, 0);
	for (unsigned int len = 14; len < in.len; len++) {
		struct frame f = in;

		f.len = len;
		untouched(&f);
	}
	in.len += 20; /* longer than it says */
	untouched(&in);
	request(&in, NODE, 99, 0x5000, 0);
	in.b[AT_UDP] = in.b[AT_UDP + 1] = 0;
	untouched(&in);
	request(&in, NODE, BB_CMD_READ, 0x5000, 0);
	in.len = 60;
	untouched(&in);
	request(&in, NODE, 99, 0x5000, 0);
	cfg.serial = 3;
	configure();
	untouched(&in);
	cfg.serial = 4;
	cfg.flags = 0;
	configure();
	untouched(&in);
}

/* What it costs others. */
static void test_cost(void **state)
{
	static const uint8_t first[] = { 0xfd, 0xfe };
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in.b, .data_size_in = 200, .repeat = 1000000);

	for (int i = 0; i < 2; i++) {
		frame_make(&in, ptr_of(1, 0, 0), ptr_of(2, BB_CMD_WRITE, 0), 1, 98);
		in.b[AT_IP + 24] = first[i];
		in.b[AT_IP + 25] = 0;
		assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(b->progs.bb_host), &o), 0);
		print_message("a packet to %02x00::, not ours: %u ns\n", first[i], o.duration);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_solicitations, set_up), cmocka_unit_test_setup(test_solicitations_untouched, set_up),
		cmocka_unit_test_setup(test_commands, set_up),	    cmocka_unit_test_setup(test_tags, set_up),
		cmocka_unit_test_setup(test_policies, set_up),	    cmocka_unit_test_setup(test_overrides, set_up),
		cmocka_unit_test_setup(test_untouched, set_up),	    cmocka_unit_test_setup(test_cost, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
