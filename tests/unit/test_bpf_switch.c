/* SPDX-License-Identifier: MIT */
/*
 * bb_switch and bb_switch_tc, by BPF_PROG_TEST_RUN and on three ports of a
 * namespace of its own: eK is the host's end of a cable, pK the port. Every path
 * and every reject, at both hooks.
 */
#include "bpf_frames.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include <bluebridge/steer.h>

#include "bb_switch.skel.h"

#define HOSTS 3
#define TCX_INGRESS 46

static struct bb_switch *s;
static bool tc; /* which hook */
static int prog, sock[HOSTS + 1], plug[HOSTS + 1];
static unsigned int port[HOSTS + 1], host[HOSTS + 1]; /* interfaces, from 1 */
static struct frame in, out;

/* --- the world -------------------------------------------------------------- */

static void node_set(uint16_t node, unsigned int at)
{
	const struct bb_node n = { .ifindex = port[at], .mac = { 2, 0xbb, 0, 0, 0, (uint8_t)at },
				   .smac = { 2, 0xcc, 0, 0, 0, (uint8_t)at } };

	assert_int_equal(bpf_map__update_elem(s->maps.bb_nodes, &node, sizeof(node), &n, sizeof(n), BPF_ANY), 0);
}

static void policy(uint32_t cmd, struct bb_policy p)
{
	assert_int_equal(bpf_map__update_elem(s->maps.bb_policy, &cmd, sizeof(cmd), &p, sizeof(p), BPF_ANY), 0);
}

static uint64_t count(uint32_t which)
{
	uint64_t v[256] = { 0 }, sum = 0;
	const int n = libbpf_num_possible_cpus();

	assert_true(n > 0 && n <= 256);
	assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(s->maps.bb_count), &which, v), 0);
	for (int i = 0; i < n; i++)
		sum += v[i];
	return sum;
}

static struct bb_load load_of(uint16_t node)
{
	struct bb_load v[256] = { 0 }, sum = { 0 };

	bpf_map_lookup_elem(bpf_map__fd(s->maps.bb_load), &node, v);
	for (int i = 0; i < libbpf_num_possible_cpus(); i++) {
		sum.packets += v[i].packets;
		sum.bytes += v[i].bytes;
		sum.creates += v[i].creates;
	}
	return sum;
}

static void overrides(uint16_t n)
{
	struct bb_steer_cfg cfg = { .version = BB_STEER_VERSION, .overrides = n };
	const uint32_t zero = 0;

	assert_int_equal(bpf_map__update_elem(s->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg), BPF_ANY), 0);
}

static void override(uint16_t node, uint64_t ptr, uint32_t bits, struct bb_over o)
{
	struct bb_over_key k = { .prefixlen = 32 + bits, .node = htobe16(node) };

	ptr = htobe64(ptr);
	memcpy(k.ptr, &ptr, sizeof(ptr));
	assert_int_equal(bpf_map__update_elem(s->maps.bb_over, &k, sizeof(k), &o, sizeof(o), BPF_ANY), 0);
	overrides(1);
}

static int set_up_all(void **state)
{
	static const struct bpf_insn pass[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = XDP_PASS },
						{ .code = BPF_JMP | BPF_EXIT } };
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .prog_flags = BPF_F_XDP_HAS_FRAGS);
	char cmd[512];
	int fd;

	if (unshare(CLONE_NEWNET)) {
		print_message("needs CAP_NET_ADMIN to make a network namespace (run it as root): skipped\n");
		exit(77);
	}
	fd = bpf_prog_load(BPF_PROG_TYPE_XDP, "pass", "GPL", pass, 2, &opts);
	assert_true(fd >= 0);
	for (unsigned int i = 1; i <= HOSTS; i++) {
		snprintf(cmd, sizeof(cmd),
			 "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; "
			 "ip link add e%u mtu 9000 type veth peer name p%u mtu 9000 && ip link set e%u up && ip link set p%u up",
			 i, i, i, i);
		assert_int_equal(system(cmd), 0);
		snprintf(cmd, sizeof(cmd), "e%u", i);
		host[i] = if_nametoindex(cmd);
		cmd[0] = 'p';
		port[i] = if_nametoindex(cmd);
		assert_int_equal(bpf_xdp_attach((int)host[i], fd, 0, NULL), 0);
	}
	close(fd);
	return 0;
}

/* Fresh maps and programs on the ports. */
static int set_up(void **state)
{
	const int room = 8 << 20;

	s = bb_switch__open_and_load();
	if (!s)
		return 1;
	prog = bpf_program__fd(tc ? s->progs.bb_switch_tc : s->progs.bb_switch);
	for (unsigned int i = 1; i <= HOSTS; i++) {
		const struct bpf_devmap_val v = { .ifindex = port[i] };
		const struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_ALL), .sll_ifindex = (int)host[i] };

		plug[i] = bpf_link_create(prog, (int)port[i], tc ? TCX_INGRESS : BPF_XDP, NULL);
		if (plug[i] == -EINVAL && tc) {
			print_message("tcx is not in this kernel: skipped\n");
			exit(77);
		}
		assert_true(plug[i] >= 0);
		assert_int_equal(bpf_map__update_elem(s->maps.bb_ports, &port[i], 4, &v, sizeof(v), BPF_ANY), 0);
		node_set((uint16_t)i, i);
		sock[i] = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
		assert_int_equal(setsockopt(sock[i], SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)), 0);
		assert_int_equal(bind(sock[i], (const struct sockaddr *)&at, sizeof(at)), 0);
	}
	return 0;
}

static int tear_down(void **state)
{
	for (unsigned int i = 1; i <= HOSTS; i++) {
		close(plug[i]);
		close(sock[i]);
	}
	bb_switch__destroy(s);
	return 0;
}

/* The same at the other hook: its result in the words of XDP. */
static int run_tc(unsigned int at)
{
	struct __sk_buff ctx = { .ifindex = port[at] };
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in.b, .data_size_in = in.len, .data_out = out.b, .data_size_out = FRAME_MAX,
		    .repeat = 1, .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));
	int ret = bpf_prog_test_run_opts(prog, &o);

	if (ret)
		fail_msg("test run: %s", strerror(-ret));
	out.len = o.data_size_out;
	switch ((int)o.retval) {
	case -1:
		return XDP_PASS;
	case 2:
		return XDP_DROP;
	case 7:
		return XDP_REDIRECT;
	default:
		return XDP_ABORTED;
	}
}

/* One run on in, come in by port at: its result, the packet in out. */
static int run_at(unsigned int at)
{
	struct xdp_md ctx = { .data_end = in.len < 4000 ? in.len : 3000, .ingress_ifindex = port[at] };
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in.b, .data_size_in = in.len, .data_out = out.b, .data_size_out = FRAME_MAX,
		    .repeat = 1, .ctx_in = in.len < 4000 ? &ctx : NULL, .ctx_size_in = in.len < 4000 ? sizeof(ctx) : 0);
	int ret;

	if (tc)
		return run_tc(at);
	ret = bpf_prog_test_run_opts(prog, &o);
	if (ret)
		fail_msg("test run: %s", strerror(-ret));
	out.len = o.data_size_out;
	if (out.len == in.len + 16 && !memcmp(out.b, "pcbb", 4)) { /* a note before it */
		out.len -= 16;
		memmove(out.b, out.b + 16, out.len);
	}
	return (int)o.retval;
}

static int run(void)
{
	return run_at(1);
}

static void unchanged(void)
{
	assert_int_equal(out.len, in.len);
	assert_memory_equal(out.b, in.b, in.len);
}

/* Went to host at with nothing but link addresses and hop limit changed. */
static void went_to(unsigned int at)
{
	assert_memory_equal(out.b, ((uint8_t[]){ 2, 0xbb, 0, 0, 0, (uint8_t)at, 2, 0xcc, 0, 0, 0, (uint8_t)at }), 12);
	assert_int_equal(out.b[AT_IP + 7], in.b[AT_IP + 7] - 1);
	out.b[AT_IP + 7]++;
	assert_int_equal(out.len, in.len);
	assert_memory_equal(out.b + 12, in.b + 12, in.len - 12);
}

static void goes_to(unsigned int at)
{
	assert_int_equal(run(), XDP_REDIRECT);
	went_to(at);
}

static void dropped_as(uint32_t why)
{
	const uint64_t before = count(why);

	assert_int_equal(run(), XDP_DROP);
	assert_int_equal(count(why), before + 1);
}

static void request(uint16_t from, uint16_t to, uint8_t cmd, uint64_t ptr)
{
	static uint64_t id;

	frame_make(&in, ptr_of(from, 0, 0), ptr_of(to, cmd, ptr), ++id, cmd == BB_CMD_CREATE ? 4 : 0);
}

static void put_cable(unsigned int at)
{
	assert_int_equal(send(sock[at], in.b, in.len, 0), in.len);
}

/* What has come to host at, within ms. Return: was there something? */
static bool came(unsigned int at, int ms)
{
	struct pollfd p = { .fd = sock[at], .events = POLLIN };
	struct sockaddr_ll from;
	socklen_t len;
	ssize_t n;

	while (poll(&p, 1, ms) > 0) {
		len = sizeof(from);
		n = recvfrom(sock[at], out.b, sizeof(out.b), 0, (struct sockaddr *)&from, &len);
		if (n > 0 && from.sll_pkttype != PACKET_OUTGOING) {
			out.len = (unsigned int)n;
			return true;
		}
	}
	return false;
}

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
	dropped_as(BB_CNT_DROP_NODE);
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
		T(test_rate),	  T(test_place),    T(test_fan),	T(test_live),  T(test_copy),	 T2(test_forward),
		T2(test_others),  T2(test_truncated), T2(test_hops),	T2(test_override), T2(test_policy), T2(test_rate),
		T2(test_place),	  T2(test_fan),	    T2(test_live),	T2(test_copy),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
