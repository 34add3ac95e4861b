/* SPDX-License-Identifier: MIT */
/*
 * bb_switch and bb_switch_tc, by BPF_PROG_TEST_RUN and on the ports of
 * bpf_switch_world.h. Every path and every reject, at both hooks.
 */
#include "bpf_switch_world.h"

/* --- tests --------------------------------------------------------------------- */

static void test_forward(void **state)
{
	for (uint16_t node = 1; node <= HOSTS; node++) {
		request(1, node, BB_CMD_READ, 0x1234000000005000);
		goes_to(node); /* also back out of the port that it came in by */
	}
	frame_make(&in, ptr_of(2, BB_CMD_READ | BB_CMD_REPLY, 0x5000), ptr_of(3, BB_CMD_READ | BB_CMD_REPLY, 1), 9, tc ? 1024 : 4096);
	assert_int_equal(run(), XDP_REDIRECT); /* a frame of fragments */
	went_to(3);
	assert_int_equal(count(BB_CNT_COMMANDS + BB_CMD_READ), HOSTS);
	assert_int_equal(load_of(3).packets, 2);
	assert_int_equal(load_of(3).bytes, AT_HDR + 40 + in.len);
	assert_int_equal(load_of(2).packets, 1);
	/* Ping to a pointer goes the same way. */
	request(1, 2, BB_CMD_NONE, 0x5000);
	in.b[AT_IP + 6] = 58;
	in.b[AT_UDP] = 128;
	goes_to(2);
	/* A host without an entry is the bridge's. */
	request(1, 99, BB_CMD_READ, 0);
	assert_int_equal(run(), XDP_PASS);
	unchanged();
	assert_int_equal(load_of(99).packets, 0);
}

/* A host sends on what is for an extent that has moved: the bridge behind us knows the link address. */
static void test_sent_on(void **state)
{
	request(2, 2, BB_CMD_READ, 0x1234000000005000);
	memcpy(in.b, ((uint8_t[]){ 2, 0xbb, 0, 0, 0, 3, 2, 0xbb, 0, 0, 0, 2 }), 12);
	assert_int_equal(run_at(2), XDP_PASS);
	unchanged();
	/* Of another host behind the same port, or by another port, it is as any other. */
	in.b[11] = 9;
	assert_int_equal(run_at(2), XDP_REDIRECT);
	in.b[11] = 2;
	assert_int_equal(run_at(1), XDP_REDIRECT);
	went_to(2);
}

static void test_others(void **state)
{
	static const struct {
		unsigned int at;
		uint8_t v;
	} changes[] = {
		{ 12, 0x08 },		/* IPv4, or no protocol at all */
		{ 12, 0x81 },		/* VLAN */
		{ AT_IP, 0x40 },	/* version 4 */
		{ AT_IP + 24, 0xff },	/* multicast */
		{ AT_IP + 24, 0x20 },	/* another network */
		{ AT_IP + 25, 0xba },
	};

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		request(1, 2, BB_CMD_READ, 0);
		in.b[changes[i].at] = changes[i].v;
		assert_int_equal(run(), XDP_PASS);
		unchanged();
	}
	/* Neighbour discovery keeps its hop limit. */
	for (uint8_t type = 133; type <= 137; type++) {
		request(1, 2, BB_CMD_NONE, 0);
		in.b[AT_IP + 6] = 58;
		in.b[AT_IP + 7] = 255;
		in.b[AT_UDP] = type;
		assert_int_equal(run(), XDP_PASS);
		unchanged();
	}
	/* Fragments and extension headers have an address too. */
	request(1, 2, BB_CMD_READ, 0);
	in.b[AT_IP + 6] = 44;
	goes_to(2);
	in.b[AT_IP + 6] = 0;
	goes_to(2);
	for (uint32_t i = BB_CNT_DROP_TAG; i < BB_CNT_MAX; i++)
		assert_int_equal(count(i), 0);
}

static void test_truncated(void **state)
{
	request(1, BB_NODE_ANY, BB_CMD_CREATE, 0);
	for (; in.len > (tc ? AT_UDP : 14U); in.len--) { /* the kernel's test wants the addresses there */
		const int act = run();

		/* The frame is enough for its addresses, or for its header. */
		assert_int_equal(act, in.len < AT_UDP ? XDP_PASS : in.len < AT_HDR + 40 ? XDP_DROP : XDP_REDIRECT);
		if (act == XDP_PASS)
			unchanged();
	}
	request(1, 2, BB_CMD_READ, 0);
	for (; in.len > (tc ? AT_UDP : 14U); in.len--)
		assert_int_equal(run(), in.len < AT_UDP ? XDP_PASS : XDP_REDIRECT);
	request(1, 2, BB_CMD_READ, 0);
	in.b[AT_IP + 6] = 58;
	in.len = AT_UDP; /* could be anything */
	assert_int_equal(run(), XDP_PASS);
}

static void test_hops(void **state)
{
	request(1, 2, BB_CMD_READ, 0);
	in.b[AT_IP + 7] = 2;
	goes_to(2);
	in.b[AT_IP + 7] = 1;
	dropped_as(BB_CNT_DROP_HOPS);
	in.b[AT_IP + 7] = 0;
	dropped_as(BB_CNT_DROP_HOPS);
	/* A loop: what has been steered comes in again. */
	in.b[AT_IP + 7] = 64;
	for (int i = 0; i < 63; i++) {
		assert_int_equal(run(), XDP_REDIRECT);
		in = out;
	}
	dropped_as(BB_CNT_DROP_HOPS);
}

static uint64_t boottime(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void test_override(void **state)
{
	const uint64_t extent = 0x0007000000200000;
	const struct bb_over reads = { .cmds = { 1 << BB_CMD_READ }, .node = 3 };
	struct bb_over o = reads;

	override(2, extent, 16 + 27, reads);
	request(1, 2, BB_CMD_READ, extent + 0x1ff000);
	goes_to(3);
	request(1, 2, BB_CMD_READ, extent + 0x200000); /* the next extent */
	goes_to(2);
	request(1, 2, BB_CMD_READ, extent + (1ULL << 48)); /* another generation */
	goes_to(2);
	request(1, 1, BB_CMD_READ, extent); /* another node */
	goes_to(1);
	request(1, 2, BB_CMD_WRITE, extent); /* not of this command */
	goes_to(2);
	frame_make(&in, ptr_of(1, 0, 0), ptr_of(2, BB_CMD_READ | BB_CMD_REPLY, extent), 1, 0);
	goes_to(2); /* replies never */
	assert_int_equal(count(BB_CNT_REDIRECTED), 1);
	/* The longest prefix is the one; commands of the second word. */
	o.cmds[0] = 0;
	o.cmds[1] = 1ULL << (100 - 64);
	o.node = 1;
	override(2, extent + 0x3000, 64 - 12, o);
	request(1, 2, BB_CMD_READ, extent + 0x3000);
	goes_to(2);
	request(1, 2, 100, extent + 0x3000);
	goes_to(1);
	/* Its time is over. */
	o = reads;
	o.until = boottime() + 50000000;
	override(2, extent, 16 + 27, o);
	request(1, 2, BB_CMD_READ, extent);
	goes_to(3);
	usleep(60000);
	goes_to(2);
	/* To nobody. */
	o.until = 0;
	o.node = 99;
	override(2, extent, 16 + 27, o);
	dropped_as(BB_CNT_DROP_NODE);
	overrides(0);
	goes_to(2);
}

static void test_policy(void **state)
{
	request(1, 2, BB_CMD_READ, 0);
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_DROP });
	dropped_as(BB_CNT_DROP_POLICY);
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_REFUSE });
	dropped_as(BB_CNT_DROP_POLICY); /* no key */
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_REDIRECT, .node = 3 });
	goes_to(3);
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_REDIRECT, .node = 99 });
	dropped_as(BB_CNT_DROP_NODE);
	/* What is known to be elsewhere goes there. */
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_REDIRECT, .node = 3 });
	override(2, 0, 16, (struct bb_over){ .cmds = { ~0ULL, ~0ULL }, .node = 1 });
	goes_to(1);
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_MAX });
	goes_to(1);
	overrides(0);
	/* Each of the others is as before; replies know no policy. */
	for (uint32_t c = 0; c < 128; c++)
		policy(c, (struct bb_policy){ .action = BB_ACT_DROP });
	for (uint8_t c = 0; c < 128; c++) {
		policy(c, (struct bb_policy){ 0 });
		for (uint8_t d = 0; d < 128; d += 9) {
			request(1, 2, d, 0);
			assert_int_equal(run(), d == c ? XDP_REDIRECT : XDP_DROP);
		}
		request(1, 2, c | BB_CMD_REPLY, 0);
		goes_to(2);
		policy(c, (struct bb_policy){ .action = BB_ACT_DROP });
	}
}

static void test_rate(void **state)
{
	unsigned int passed = 0;

	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_RATE, .rate = 80 });
	request(1, 2, BB_CMD_READ, 0);
	for (int i = 0; i < 200; i++)
		passed += run() == XDP_REDIRECT;
	/* A burst of an eighth of a second, and what time has brought. */
	assert_in_range(passed, 10, 40);
	assert_int_equal(count(BB_CNT_DROP_RATE), 200 - passed);
	usleep(200000);
	goes_to(2);
	policy(BB_CMD_READ, (struct bb_policy){ .action = BB_ACT_RATE });
	dropped_as(BB_CNT_DROP_RATE);
}

static void full(uint16_t node)
{
	frame_make(&in, ptr_of(node, BB_CMD_CREATE | BB_CMD_REPLY, 0), ptr_of(1, BB_CMD_CREATE | BB_CMD_REPLY, 0), 1, 0);
	in.b[AT_HDR + 2] = BB_ST_NOSPACE;
	goes_to(1);
}

static void test_place(void **state)
{
	unsigned int first, n[HOSTS + 1] = { 0 };

	/* The asker itself is left out; the others have the same number in the end. */
	for (int i = 0; i < 20; i++) {
		request(1, BB_NODE_ANY, i & 1 ? BB_CMD_CREATE : BB_CMD_ALLOC_WRITE, 0);
		assert_int_equal(run(), XDP_REDIRECT);
		n[out.b[5]]++;
		went_to(out.b[5]);
		/* Asked again, and by another port: the same. */
		first = out.b[5];
		assert_int_equal(run_at(2), XDP_REDIRECT);
		went_to(first);
	}
	assert_int_equal(n[1], 0);
	assert_int_equal(n[2], 10);
	assert_int_equal(n[3], 10);
	assert_int_equal(load_of(2).creates, 10);
	assert_int_equal(count(BB_CNT_PLACED), 40);
	/* Another session, or another asker, is another request. */
	for (int i = 0; i < 3; i++) {
		in.b[AT_HDR + 19] = (uint8_t)i; /* session */
		assert_int_equal(run(), XDP_REDIRECT);
	}
	assert_int_equal(load_of(2).creates + load_of(3).creates, 23);
	/* Traffic counts: host 2 is busy, by what it is sent and by what it answers. */
	frame_make(&in, ptr_of(2, BB_CMD_READ | BB_CMD_REPLY, 0), ptr_of(1, BB_CMD_READ | BB_CMD_REPLY, 0), 1, 3000);
	for (int i = 0; i < 4000; i++)
		run();
	for (int i = 0; i < 3; i++) {
		request(1, BB_NODE_ANY, BB_CMD_CREATE, 0);
		goes_to(3);
	}
	/* One that says that it is full is left out for a while. */
	full(3);
	request(1, BB_NODE_ANY, BB_CMD_CREATE, 0);
	goes_to(2);
	full(2);
	request(1, BB_NODE_ANY, BB_CMD_CREATE, 0);
	assert_int_equal(run(), XDP_PASS); /* who gets it by the bridge says NOSPACE */
	unchanged();
	usleep(1200000);
	assert_int_equal(run(), XDP_REDIRECT);
	/* Nothing else goes to any node. */
	request(1, BB_NODE_ANY, BB_CMD_READ, 0);
	dropped_as(BB_CNT_DROP_NODE);
	request(0, BB_NODE_ANY, BB_CMD_CREATE, 0);
	dropped_as(BB_CNT_DROP_MALFORMED);
	request(BB_NODE_ANY, BB_NODE_ANY, BB_CMD_CREATE, 0);
	dropped_as(BB_CNT_DROP_MALFORMED);
	request(1, BB_NODE_ANY, BB_CMD_CREATE, 0);
	in.b[AT_IP + 8] = 0x20;
	dropped_as(BB_CNT_DROP_MALFORMED);
	request(1, BB_NODE_ANY, BB_CMD_CREATE, 0);
	in.b[AT_IP + 6] = 58;
	in.b[AT_UDP] = 128;
	dropped_as(BB_CNT_DROP_MALFORMED);
}

static void test_fan(void **state)
{
	for (int hello = 0; hello < 2; hello++) {
		request(1, BB_NODE_ANY, hello ? BB_CMD_HELLO : BB_CMD_INVALIDATE, 0x5000);
		if (tc) { /* the bridge's to do */
			assert_int_equal(run(), XDP_PASS);
			assert_int_equal(out.b[0], 0xff);
			assert_int_equal(out.b[AT_IP + 7], 63);
			continue;
		}
		put_cable(1);
		for (unsigned int at = 2; at <= HOSTS; at++) {
			assert_true(came(at, 2000));
			assert_int_equal(out.len, in.len);
			assert_int_equal(out.b[0], 0xff);
			assert_int_equal(out.b[AT_IP + 7], 63);
			assert_false(came(at, 50));
		}
		assert_false(came(1, 50));
	}
	assert_int_equal(count(BB_CNT_FANNED), 2);
	/* A frame of fragments is left to the bridge, with the address of all. */
	frame_make(&in, ptr_of(1, 0, 0), ptr_of(BB_NODE_ANY, BB_CMD_INVALIDATE, 0), 1, tc ? 1024 : 4096);
	assert_int_equal(run(), XDP_PASS);
	assert_int_equal(out.b[0], 0xff);
	/* To one node it is a request like others. */
	request(1, 2, BB_CMD_INVALIDATE, 0);
	goes_to(2);
}

/* A HELLO to the group from node, with its link address. */
static void hello(uint16_t node, uint8_t mac)
{
	static const uint8_t group[16] = { 0xff, 0x12, [15] = 0xbb };

	frame_make(&in, ptr_of(node, 0, 0), ptr_of(1, 0, 0), 1, 96);
	memcpy(in.b + AT_IP + 24, group, 16);
	in.b[11] = mac;
	in.b[AT_HDR + 40] = 1;
	in.b[AT_HDR + 42] = (uint8_t)(node >> 8);
	in.b[AT_HDR + 43] = (uint8_t)node;
}

static void node_is(uint16_t node, uint8_t mac)
{
	request(1, node, BB_CMD_READ, 0);
	assert_int_equal(run(), XDP_REDIRECT);
	assert_int_equal(out.b[5], mac);
}

static void test_learn(void **state)
{
	hello(2, 0x77);
	assert_int_equal(run_at(2), XDP_PASS);
	unchanged();
	node_is(2, 0x77);
	/* Not by another's port, of another, or what is no HELLO. */
	hello(2, 0x66);
	run_at(3);
	hello(99, 0x66);
	run_at(2);
	hello(2, 0x66);
	in.b[AT_IP + 39] = 0xbc;
	run_at(2);
	hello(2, 0x66);
	in.b[AT_IP + 6] = 6;
	run_at(2);
	hello(2, 0x66);
	in.b[AT_HDR + 40] = 2;
	run_at(2);
	hello(2, 0x66);
	in.len = AT_HDR + 43;
	assert_int_equal(run_at(2), XDP_PASS);
	node_is(2, 0x77);
}

static void test_live(void **state)
{
	for (unsigned int len = 0; len <= 8192; len += 4096) {
		frame_make(&in, ptr_of(1, 0, 0), ptr_of(2, BB_CMD_WRITE, 0x5000), 1, len);
		put_cable(1);
		assert_true(came(2, 2000));
		went_to(2);
	}
	/* A host that steers to itself by the switch. */
	request(1, 1, BB_CMD_READ, 0);
	put_cable(1);
	assert_true(came(1, 2000));
	went_to(1);
	/* Another program takes over while packets come. */
	for (int i = 0; i < 200; i++) {
		if (i == 100)
			assert_int_equal(bpf_link_update(plug[1], prog, NULL), 0);
		request(1, 3, BB_CMD_READ, 0);
		put_cable(1);
	}
	for (int i = 0; i < 200; i++)
		assert_true(came(3, 2000));
}

static void test_copy(void **state)
{
	int copies[HOSTS + 1];

	for (unsigned int i = 1; i <= HOSTS; i++) {
		copies[i] = tc ? -1 : bpf_link_create(bpf_program__fd(s->progs.bb_switch_tc), (int)port[i], TCX_INGRESS, NULL);
		if (!tc && copies[i] < 0) {
			print_message("tcx is not in this kernel: skipped\n");
			skip();
		}
	}
	policy(BB_CMD_WRITE, (struct bb_policy){ .action = BB_ACT_COPY, .node = 3 });
	for (unsigned int len = 0; len <= 4096; len += 1024) {
		frame_make(&in, ptr_of(1, 0, 0), ptr_of(2, BB_CMD_WRITE, 0x5000), 1, len);
		put_cable(1);
		assert_true(came(2, 2000));
		went_to(2);
		assert_true(came(3, 2000));
		went_to(3);
		assert_false(came(2, 20));
		assert_false(came(3, 20));
	}
	assert_int_equal(count(BB_CNT_COPIED), 5);
	assert_int_equal(load_of(3).packets, 5);
	/* To the copy's own node it goes once. */
	frame_make(&in, ptr_of(1, 0, 0), ptr_of(3, BB_CMD_WRITE, 0x5000), 1, 0);
	put_cable(1);
	assert_true(came(3, 2000));
	assert_false(came(3, 20));
	/* The copy's answer comes from the home's address by host 3's port: the asker must not see it. */
	frame_make(&in, ptr_of(2, BB_CMD_WRITE | BB_CMD_REPLY, 0x5000), ptr_of(1, BB_CMD_WRITE | BB_CMD_REPLY, 0), 1, 2);
	in.b[AT_HDR + 2] = BB_ST_BOUNDS;
	assert_int_equal(run_at(3), XDP_DROP);
	assert_int_equal(count(BB_CNT_DROP_ANSWER), 1);
	assert_int_equal(run_at(2), XDP_REDIRECT); /* the home's own */
	went_to(1);
	/* Where the page has moved to host 3, its answer is the one. */
	override(2, 0, 16, (struct bb_over){ .cmds = { ~0ULL, ~0ULL }, .node = 3 });
	assert_int_equal(run_at(3), XDP_REDIRECT);
	went_to(1);
	overrides(0);
	/* Answers to other commands are not its business. */
	frame_make(&in, ptr_of(2, BB_CMD_READ | BB_CMD_REPLY, 0x5000), ptr_of(1, BB_CMD_READ | BB_CMD_REPLY, 0), 1, 0);
	assert_int_equal(run_at(3), XDP_REDIRECT);
	/* A copy to nobody: the packet itself goes on. */
	policy(BB_CMD_WRITE, (struct bb_policy){ .action = BB_ACT_COPY, .node = 99 });
	frame_make(&in, ptr_of(1, 0, 0), ptr_of(2, BB_CMD_WRITE, 0x5000), 1, 4096);
	put_cable(1);
	assert_true(came(2, 2000));
	went_to(2);
	assert_false(came(3, 20));
	/* What bb_switch leaves to the bridge is not looked at again. */
	request(1, 99, BB_CMD_READ, 0);
	put_cable(1);
	usleep(10000);
	assert_int_equal(count(BB_CNT_COMMANDS + BB_CMD_READ), 1);
	for (unsigned int i = 1; i <= HOSTS && !tc; i++)
		close(copies[i]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
#define T2(f) { "tc_" #f, f, set_up_tc, tear_down, NULL }

static int set_up_tc(void **state)
{
	tc = true;
	return set_up(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_forward),  T(test_others),   T(test_truncated),	T(test_hops),  T(test_override), T(test_policy),
		T(test_rate),	  T(test_place),    T(test_fan),	T(test_live),  T(test_copy),	 T(test_learn),
		T2(test_forward), T2(test_learn),   T(test_sent_on),	T2(test_sent_on),
		T2(test_others),  T2(test_truncated), T2(test_hops),	T2(test_override), T2(test_policy), T2(test_rate),
		T2(test_place),	  T2(test_fan),	    T2(test_live),	T2(test_copy),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
