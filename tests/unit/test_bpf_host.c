/* SPDX-License-Identifier: MIT */
/*
 * bb_host by BPF_PROG_TEST_RUN: overrides, policies, tags, typed refusals, and
 * all that passes untouched. Answers are held against lib/wire.c and lib/tag.c.
 */
#include "bpf_host.h"

#pragma GCC diagnostic ignored "-Woverride-init"

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
		if (c <= BB_CMD_CLOSE) {
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
	uint64_t was = count(BB_CNT_REDIRECTED), forged;

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
	/* Nothing is sent on in the name of one who has not the key. */
	forged = count(BB_CNT_DROP_TAG);
	request(&in, NODE, BB_CMD_READ, ptr, 0);
	in.b[AT_HDR + 39] ^= 1;
	assert_int_equal(run(&in), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_TAG), forged + 1);
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

/* --- where the kernel's own routes lead ------------------------------------------------ */

static int run_at(const struct frame *f, const char *dev)
{
	struct xdp_md ctx = { .data_end = f->len, .ingress_ifindex = if_nametoindex(dev) };
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->b, .data_size_in = f->len, .data_out = out.b, .data_size_out = sizeof(out.b),
		    .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(b->progs.bb_host), &o), 0);
	out.len = o.data_size_out;
	return (int)o.retval;
}

static void no_way(const char *dev)
{
	const uint64_t was = count(BB_CNT_DROP_NODE), redirected = count(BB_CNT_REDIRECTED);

	assert_int_equal(run_at(&in, dev), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_NODE), was + 1);
	assert_int_equal(count(BB_CNT_REDIRECTED), redirected);
}

static void a_way(const char *dev, int verdict, const uint8_t to[6], const uint8_t from[6])
{
	const uint64_t redirected = count(BB_CNT_REDIRECTED);

	assert_int_equal(run_at(&in, dev), verdict);
	assert_int_equal(count(BB_CNT_REDIRECTED), redirected + 1);
	assert_memory_equal(out.b, to, 6);
	assert_memory_equal(out.b + 6, from, 6);
	assert_int_equal(out.b[AT_IP + 7], 63);
	out.b[AT_IP + 7] = 64;
	assert_memory_equal(out.b + 12, in.b + 12, in.len - 12);
}

/* Who is not in bb_nodes is looked for there, if this host forwards at all. */
static void test_routes(void **state)
{
	static const uint8_t third[6] = { 2, 0xbb, 0, 0, 0, 3 }, v0[6] = { 2, 0xbb, 0, 0, 1, 0 }, v1[6] = { 2, 0xbb, 0, 0, 1, 1 };
	struct bb_over o = { .cmds = { 1 << BB_CMD_READ }, .node = THIRD };
	const struct bb_over_key k = over_key(NODE, 7ULL << 48, 64 - 21);
	LIBBPF_OPTS(bpf_link_create_opts, lo);
	int link[2];

	assert_int_equal(system("ip link add bbv0 address 02:bb:00:00:01:00 type veth peer name bbp0 && "
				"ip link add bbv1 address 02:bb:00:00:01:01 type veth peer name bbp1 && "
				"for d in bbv0 bbp0 bbv1 bbp1; do ip link set $d up || exit; done; "
				"ip -6 addr add fd00:1::2/64 dev bbv0 nodad && ip -6 addr add fd00:2::2/64 dev bbv1 nodad"), 0);
	for (int i = 0; i < 2; i++) { /* a queue takes XDP's frames where a program is */
		link[i] = bpf_link_create(bpf_program__fd(b->progs.bb_host), (int)if_nametoindex(i ? "bbv1" : "bbv0"), BPF_XDP, &lo);
		assert_true(link[i] >= 0);
	}
	cfg.overrides = 1;
	configure();
	set(b->maps.bb_over, &k, sizeof(k), &o, sizeof(o));
	request(&in, NODE, BB_CMD_READ, 7ULL << 48 | 0x3000, 0);
	assert_int_equal(system("for d in bbv0 bbv1; do echo 1 >/proc/sys/net/ipv6/conf/$d/forwarding || exit; done"), 0);
	no_way("bbv0"); /* no route */
	assert_int_equal(system("ip -6 route add fdbb:0:3::/48 via fd00:1::3 dev bbv0"), 0);
	no_way("bbv0"); /* the next hop's link address is not known */
	assert_int_equal(system("ip -6 neigh replace fd00:1::3 lladdr 02:bb:00:00:00:03 dev bbv0 nud permanent"), 0);
	a_way("bbv0", XDP_TX, third, v0);
	a_way("bbv1", XDP_REDIRECT, third, v0);
	assert_int_equal(system("ip -6 route replace fdbb:0:3::/48 via fd00:2::3 dev bbv1 && "
				"ip -6 neigh replace fd00:2::3 lladdr 02:bb:00:00:00:03 dev bbv1 nud permanent"), 0);
	a_way("bbv0", XDP_REDIRECT, third, v1);
	a_way("bbv1", XDP_TX, third, v1);
	assert_int_equal(system("ip -6 route replace blackhole fdbb:0:3::/48"), 0);
	no_way("bbv0");
	/* A host that is no router is not asked: bbd writes bb_nodes for its own overrides. */
	assert_int_equal(system("ip -6 route del blackhole fdbb:0:3::/48; ip -6 route replace fdbb:0:3::/48 via fd00:1::3 dev bbv0 && "
				"echo 0 >/proc/sys/net/ipv6/conf/bbv0/forwarding"), 0);
	no_way("bbv0");
	assert_int_equal(bpf_map__delete_elem(b->maps.bb_over, &k, sizeof(k), 0), 0);
	close(link[0]);
	close(link[1]);
	assert_int_equal(system("ip link del bbv0 && ip link del bbv1"), 0);
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
	request(&in, NODE, 99, 0x5000, 0); /* as it is, it would be refused */
	foreign_frames(&in, FRAME_MAX, untouched);
	/* WRITE of a page: jumbo, and cut anywhere. */
	request(&in, NODE, BB_CMD_WRITE, 0x5000, 4096);
	untouched(&in);
	for (unsigned int len = 14; len < in.len; len += len < 200 ? 1 : 61) {
		struct frame f = in;

		f.len = len;
		untouched(&f);
	}
	request(&in, NODE, 99, 0x5000, 0);
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
		cmocka_unit_test_setup(test_commands, set_up),	    cmocka_unit_test_setup(test_tags, set_up),
		cmocka_unit_test_setup(test_policies, set_up),	    cmocka_unit_test_setup(test_overrides, set_up),
		cmocka_unit_test_setup(test_routes, set_up),
		cmocka_unit_test_setup(test_untouched, set_up),	    cmocka_unit_test_setup(test_cost, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
