/* SPDX-License-Identifier: MIT */
/*
 * Three ports of a switch in a namespace of its own: eK is the host's end of a
 * cable, pK the port. And one run of the program on a frame, at either hook.
 */
#pragma GCC diagnostic ignored "-Wunused-function"

#ifndef BB_TEST_BPF_SWITCH_WORLD_H
#define BB_TEST_BPF_SWITCH_WORLD_H

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

#endif
