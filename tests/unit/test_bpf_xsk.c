/* SPDX-License-Identifier: MIT */
/*
 * AF_XDP sockets at a veth, with the program that leads answers to them: what
 * comes is whole and checked, what is not led there goes to the stack, what is sent
 * is right to the sum; rings that are full, a device that goes.
 */
#include "bpf_frames.h"

#include <errno.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/if_packet.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cmocka.h>

#include <bluebridge/steer.h>

#include "bb_host.skel.h"
#include "net/sock.h"
#include "net/xsk.h"

#define NODE 7
#define USER 5
#define HOME 9

static const uint8_t mac_a[6] = { 2, 0xbb, 0, 0, 0, 1 }, mac_b[6] = { 2, 0xbb, 0, 0, 0, 2 };
static struct bb_host *b;
static struct bb_xsk *x;
static int wire, udp, attached; /* a packet socket at the other end; whom the stack tells */
static uint16_t port;
static struct frame f;

/* --- frames ------------------------------------------------------------------- */

static uint32_t sum_of(const struct frame *fr, bool all)
{
	const unsigned int len = fr->len - AT_UDP;
	uint32_t s = len + 17;

	for (unsigned int i = 0; i < 32; i += 2)
		s += (uint32_t)fr->b[AT_IP + 8 + i] << 8 | fr->b[AT_IP + 9 + i];
	for (unsigned int i = 0; all && i < len; i += 2)
		s += (uint32_t)fr->b[AT_UDP + i] << 8 | (i + 1 < len ? fr->b[AT_UDP + i + 1] : 0);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s;
}

static void set_sum(struct frame *fr, bool all)
{
	uint32_t s;

	fr->b[AT_UDP + 6] = fr->b[AT_UDP + 7] = 0;
	s = sum_of(fr, all);
	s = all ? ~s & 0xffff : s;
	fr->b[AT_UDP + 6] = (uint8_t)(s >> 8);
	fr->b[AT_UDP + 7] = (uint8_t)s;
}

static void set_port(struct frame *fr, unsigned int at, uint16_t p)
{
	fr->b[AT_UDP + at] = (uint8_t)(p >> 8);
	fr->b[AT_UDP + at + 1] = (uint8_t)p;
}

/* An answer of HOME to a user of a node, with len bytes behind the header. */
static void answer(struct frame *fr, uint16_t node, uint64_t user, unsigned int len)
{
	frame_make(fr, ptr_of(HOME, BB_CMD_READ | BB_CMD_REPLY, 0x5000), ptr_of(node, BB_CMD_READ | BB_CMD_REPLY, user), 1, len);
	memcpy(fr->b, mac_a, 6);
	memcpy(fr->b + 6, mac_b, 6);
	set_port(fr, 0, BB_UDP_PORT);
	set_port(fr, 2, port);
	set_sum(fr, true);
}

static void put(const struct frame *fr)
{
	assert_int_equal(send(wire, fr->b, fr->len, 0), (ssize_t)fr->len);
}

/* Return: packets that came within a while. */
static int come(int ms)
{
	struct pollfd p = { .fd = bb_xsk_fd(x), .events = POLLIN };
	int n = bb_xsk_recv(x);

	if (!n && poll(&p, 1, ms) == 1)
		n = bb_xsk_recv(x);
	return n;
}

/* One came, and it is that frame's. */
static void came(const struct frame *fr)
{
	struct bb_sock_packet p;

	assert_int_equal(come(2000), 1);
	bb_xsk_packet(x, 0, port, &p);
	assert_int_equal(p.len, fr->len - AT_HDR);
	assert_memory_equal(p.data, fr->b + AT_HDR, p.len);
	assert_memory_equal(&p.from.sin6_addr, fr->b + AT_IP + 8, 16);
	assert_memory_equal(&p.to, fr->b + AT_IP + 24, 16);
	assert_int_equal(be16toh(p.from.sin6_port), BB_UDP_PORT);
	assert_int_equal(p.ifindex, if_nametoindex("xa"));
}

/* One came, and it is nothing. */
static void is_nothing(const struct frame *fr)
{
	struct bb_sock_packet p;

	put(fr);
	assert_int_equal(come(2000), 1);
	bb_xsk_packet(x, 0, port, &p);
	assert_int_equal(p.len, 0);
}

static void to_the_stack(const struct frame *fr)
{
	struct pollfd p = { .fd = udp, .events = POLLIN };
	uint8_t buf[FRAME_MAX];

	put(fr);
	assert_int_equal(poll(&p, 1, 2000), 1);
	assert_int_equal(recv(udp, buf, sizeof(buf), 0), (ssize_t)fr->len - AT_HDR);
	assert_int_equal(bb_xsk_recv(x), 0);
}

/* --- the world ------------------------------------------------------------------ */

static int make_socket(void)
{
	int ret = -EBUSY;

	/* The one before goes a moment after its end. */
	for (int i = 0; i < 200 && ret == -EBUSY; i++) {
		ret = bb_xsk_new(&x, if_nametoindex("xa"), mac_a);
		if (ret == -EBUSY)
			usleep(10000);
	}
	return ret;
}

static void lead(uint32_t user)
{
	const uint32_t fd = (uint32_t)bb_xsk_fd(x);

	assert_int_equal(bpf_map__update_elem(b->maps.bb_xsk, &user, sizeof(user), &fd, sizeof(fd), BPF_ANY), 0);
}

static void plug(void)
{
	struct sockaddr_ll ll = { .sll_family = AF_PACKET };
	LIBBPF_OPTS(bpf_link_create_opts, o, .flags = 1U << 2 /* native */);
	const int room = 8 << 20;

	assert_int_equal(system("ip link add xa mtu 9000 address 02:bb:00:00:00:01 type veth peer name xb mtu 9000 address "
				"02:bb:00:00:00:02 && ip link set xa up && ip link set xb up"), 0);
	attached = bpf_link_create(bpf_program__fd(b->progs.bb_host), (int)if_nametoindex("xa"), BPF_XDP, &o);
	assert_true(attached >= 0);
	ll.sll_ifindex = (int)if_nametoindex("xb");
	ll.sll_protocol = htobe16(ETH_P_IPV6);
	wire = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htobe16(ETH_P_IPV6));
	assert_true(wire >= 0);
	/* It holds all that is sent before one is looked at. */
	assert_int_equal(setsockopt(wire, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)), 0);
	assert_int_equal(bind(wire, (struct sockaddr *)&ll, sizeof(ll)), 0);
}

static int set_up_all(void **state)
{
	struct bb_steer_cfg cfg = { .version = BB_STEER_VERSION, .flags = BB_SC_KNOWN, .node = NODE, .port = BB_UDP_PORT };
	struct sockaddr_in6 a;
	socklen_t len = sizeof(a);
	const uint32_t zero = 0;

	if (geteuid() || unshare(CLONE_NEWNET) ||
	    system("cd /proc/sys/net/ipv6/conf && for c in all default; do echo 0 >$c/disable_ipv6; echo 0 >$c/accept_dad; done;"
		   "ip link set lo up && ip -6 route add local fdbb::/16 dev lo")) {
		print_message("needs root: network namespaces and BPF; skipped\n");
		exit(77);
	}
	b = bb_host__open_and_load();
	assert_non_null(b);
	assert_int_equal(bpf_map__update_elem(b->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg), BPF_ANY), 0);
	udp = bb_sock_open(0);
	assert_true(udp >= 0);
	assert_int_equal(getsockname(udp, (struct sockaddr *)&a, &len), 0);
	port = be16toh(a.sin6_port);
	plug();
	return 0;
}

static int tear_down_all(void **state)
{
	close(wire);
	close(udp);
	close(attached);
	bb_host__destroy(b);
	return 0;
}

static int set_up(void **state)
{
	const int ret = make_socket();

	if (ret) {
		print_message("no AF_XDP socket: %s\n", strerror(-ret));
		return -1;
	}
	lead(USER);
	return 0;
}

static int tear_down(void **state)
{
	bb_xsk_free(x);
	x = NULL;
	return 0;
}

/* --- receiving ------------------------------------------------------------------ */

static void test_answers_come_whole(void **state)
{
	static const unsigned int sizes[] = { 0, 2, 7, 1024, 3600, 3700, 3712, 3713, 3800, 4095, 4096 };

	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (int whole = 0; whole < 2; whole++) {
			answer(&f, NODE, USER, sizes[i]);
			set_sum(&f, whole);
			put(&f);
			came(&f);
		}
	/* More often than there are chunks. */
	for (unsigned int i = 0; i < 2000; i++) {
		answer(&f, NODE, USER, i % 3 ? 4096 : 1024);
		f.b[AT_HDR + 40 + i % 1024] ^= 0x55;
		set_sum(&f, true);
		put(&f);
		came(&f);
	}
}

static void test_several_at_a_time(void **state)
{
	struct bb_sock_packet p;
	unsigned int seen = 0;

	bb_xsk_expect(x, 100);
	for (unsigned int i = 0; i < 100; i++) {
		answer(&f, NODE, USER, i & 1 ? 4096 : 1024);
		f.b[AT_HDR + 40] = (uint8_t)i;
		set_sum(&f, true);
		put(&f);
	}
	while (seen < 100) {
		int n = come(2000);

		assert_true(n > 0);
		for (int i = 0; i < n; i++, seen++) {
			bb_xsk_packet(x, (unsigned int)i, port, &p);
			assert_int_equal(p.len, 40 + (seen & 1 ? 4096 : 1024));
			assert_int_equal(p.data[40], seen);
			assert_int_equal(p.data[p.len - 1], (uint8_t)((p.len - 41) * 31 + 7));
		}
	}
	assert_int_equal(come(0), 0);
}

static void test_others_go_to_the_stack(void **state)
{
	answer(&f, NODE, USER + 1, 1024); /* nobody's */
	to_the_stack(&f);
	answer(&f, NODE, BB_XSK_MAX + USER, 1024);
	to_the_stack(&f);
	answer(&f, NODE, 1ULL << 32 | USER, 1024);
	to_the_stack(&f);
	answer(&f, NODE + 1, USER, 1024); /* another host's */
	to_the_stack(&f);
	answer(&f, NODE, USER, 1024);
	set_port(&f, 0, BB_UDP_PORT + 1); /* from no home */
	set_sum(&f, true);
	to_the_stack(&f);
	answer(&f, NODE, USER, 1024);
	f.b[AT_IP + 24 + 6] = 0; /* no answer */
	set_sum(&f, true);
	to_the_stack(&f);
	answer(&f, NODE, USER, 1024);
	f.b[AT_IP + 24 + 3] = 1; /* another tenant's */
	set_sum(&f, true);
	to_the_stack(&f);
	answer(&f, NODE, USER, 4096);
	put(&f);
	came(&f);
}

static void test_damaged_ones_are_nothing(void **state)
{
	static const unsigned int places[] = { AT_IP + 9, AT_IP + 31, AT_UDP + 6, AT_HDR + 1, AT_HDR + 40, AT_HDR + 40 + 4095 };

	for (unsigned int i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		answer(&f, NODE, USER, 4096);
		f.b[places[i]] ^= 4;
		if (places[i] == AT_IP + 31) /* whom it is for: else it is another's */
			f.b[places[i]] ^= 4, f.b[AT_IP + 24 + 7] ^= 4;
		is_nothing(&f);
	}
	answer(&f, NODE, USER, 1024);
	set_port(&f, 2, (uint16_t)(port + 1)); /* of the one before us */
	set_sum(&f, true);
	is_nothing(&f);
	answer(&f, NODE, USER, 1024);
	f.b[AT_UDP + 4]++; /* lengths that differ, and lie */
	is_nothing(&f);
	f.b[AT_IP + 4]++;
	is_nothing(&f);
	answer(&f, NODE, USER, 1024);
	f.b[AT_UDP + 4] = f.b[AT_IP + 4] = f.b[AT_UDP + 5] = f.b[AT_IP + 5] = 0;
	is_nothing(&f);
	for (unsigned int len = 4098; len < 8900; len += 1600) {
		answer(&f, NODE, USER, len); /* longer than any of ours */
		is_nothing(&f);
		answer(&f, NODE, USER, 4096);
		put(&f);
		came(&f);
	}
}

static void test_too_many(void **state)
{
	struct bb_sock_packet p;
	unsigned int n = 0;
	int got;

	bb_xsk_expect(x, 100000);
	answer(&f, NODE, USER, 4096);
	for (unsigned int i = 0; i < 1500; i++)
		put(&f);
	while ((got = come(200)) > 0)
		for (int i = 0; i < got; i++, n++) {
			bb_xsk_packet(x, (unsigned int)i, port, &p);
			assert_int_equal(p.len, 40 + 4096);
			assert_memory_equal(p.data, f.b + AT_HDR, p.len);
		}
	assert_in_range(n, 256, 1499);
	bb_xsk_expect(x, 0);
	for (unsigned int i = 0; i < 300; i++) {
		put(&f);
		came(&f);
	}
}

/* Answers that are expected have room also while a batch is in hand. */
static void test_more_while_some_are_in_hand(void **state)
{
	unsigned int due = 60;
	int got;

	bb_xsk_expect(x, due);
	answer(&f, NODE, USER, 4096);
	for (unsigned int i = 0; i < due; i++)
		put(&f);
	for (unsigned int round = 0; round < 50; round++) {
		got = come(2000);
		assert_in_range(got, 1, due);
		due = due - (unsigned int)got + 60;
		bb_xsk_expect(x, due);
		for (unsigned int i = 0; i < 60; i++)
			put(&f);
		while (due > 60 && (got = come(2000)) > 0)
			due -= (unsigned int)got;
		assert_true(got > 0);
	}
	while (due && (got = come(2000)) > 0)
		due -= (unsigned int)got;
	assert_int_equal(due, 0);
}

/* --- sending --------------------------------------------------------------------- */

/* A header and len bytes: counting, from n. */
static const uint8_t *bytes_from(unsigned int n, unsigned int len)
{
	static uint8_t msg[40 + 4098];

	for (unsigned int i = 0; i < 40 + len; i++)
		msg[i] = (uint8_t)(n + i);
	return msg;
}

static void expect_sent(const struct in6_addr *from, const struct sockaddr_in6 *to, unsigned int n, unsigned int len)
{
	struct pollfd p = { .fd = wire, .events = POLLIN };
	struct frame got;

	do {
		assert_int_equal(poll(&p, 1, 2000), 1);
		got.len = (unsigned int)recv(wire, got.b, sizeof(got.b), 0);
	} while (got.len < AT_HDR + 40 || got.b[AT_IP + 6] != 17); /* the kernel's own */
	assert_int_equal(got.len, AT_HDR + 40 + len);
	assert_memory_equal(got.b, mac_b, 6);
	assert_memory_equal(got.b + 6, mac_a, 6);
	assert_memory_equal(got.b + AT_IP + 8, from, 16);
	assert_memory_equal(got.b + AT_IP + 24, &to->sin6_addr, 16);
	assert_int_equal(got.b[AT_UDP] << 8 | got.b[AT_UDP + 1], port);
	assert_int_equal(got.b[AT_UDP + 2] << 8 | got.b[AT_UDP + 3], BB_UDP_PORT);
	assert_int_equal(got.b[AT_IP + 4] << 8 | got.b[AT_IP + 5], 48 + len);
	assert_memory_equal(got.b + AT_HDR, bytes_from(n, len), 40 + len);
	assert_int_equal(sum_of(&got, true), 0xffff);
}

static void test_sent_frames_are_right(void **state)
{
	static const unsigned int lens[] = { 0, 4096, 1024, 0, 4096 - 40 - AT_HDR, 4096 - 38 - AT_HDR, 4094 };
	const struct bb_gptr own = { .node = NODE, .ptr = USER }, dst = { .node = HOME, .cmd = BB_CMD_READ, .ptr = 0x77000 };
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htobe16(BB_UDP_PORT) };
	const uint8_t *msg = bytes_from(0, 0);
	struct in6_addr from;

	bb_gptr_encode(&own, &from);
	bb_gptr_encode(&dst, &to.sin6_addr);
	for (unsigned int i = 0; i < 1000; i++) {
		const unsigned int burst = 1 + i % 40;

		for (unsigned int n = i; n < i + burst; n++) {
			bytes_from(n, lens[n % 7]);
			assert_int_equal(bb_xsk_add(x, mac_b, &from, port, &to, msg, 40, msg + 40, lens[n % 7]), 0);
		}
		assert_int_equal(bb_xsk_kick(x), 0);
		for (unsigned int n = i; n < i + burst; n++)
			expect_sent(&from, &to, n, lens[n % 7]);
	}
	/* Nothing is sent before it is said, and there is room for so many. */
	for (unsigned int k = 0; k < 64; k++)
		assert_int_equal(bb_xsk_add(x, mac_b, &from, port, &to, msg, 40, msg + 40, k % 2 ? 4096 : 0), 0);
	assert_int_equal(bb_xsk_add(x, mac_b, &from, port, &to, msg, 40, NULL, 0), -ENOBUFS);
	assert_int_equal(bb_xsk_kick(x), 0);
	assert_int_equal(bb_xsk_add(x, mac_b, &from, port, &to, msg, 40, msg + 40, 4098), -EMSGSIZE);
	assert_int_equal(bb_xsk_add(x, mac_b, &from, port, &to, msg, 40, msg + 40, 41), -EMSGSIZE);
	assert_int_equal(bb_xsk_add(x, mac_b, &from, port, &to, msg, 42, NULL, 0), -EMSGSIZE);
}

/* --- sockets, devices ---------------------------------------------------------------- */

static void test_one_a_queue(void **state)
{
	struct bb_xsk *second = NULL;

	assert_int_equal(bb_xsk_new(&second, if_nametoindex("xa"), mac_a), -EBUSY);
	assert_int_equal(bb_xsk_new(&second, 9999, mac_a), -ENODEV);
	assert_null(second);
}

static void test_the_device_goes(void **state)
{
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htobe16(BB_UDP_PORT) };
	const uint8_t data[40] = { 1 };

	assert_int_equal(system("ip link set xa down"), 0);
	assert_int_equal(bb_xsk_add(x, mac_b, &to.sin6_addr, port, &to, data, sizeof(data), NULL, 0), 0);
	assert_int_equal(bb_xsk_kick(x), -ENETDOWN);
	assert_int_equal(system("ip link set xa up; ip link set xa mtu 1500"), 0);
	assert_int_equal(bb_xsk_add(x, mac_b, &to.sin6_addr, port, &to, data, sizeof(data), NULL, 0), 0);
	assert_int_equal(bb_xsk_kick(x), 0);
	answer(&f, NODE, USER, 1024);
	put(&f);
	came(&f);
	assert_int_equal(system("ip link del xa"), 0);
	assert_int_equal(bb_xsk_add(x, mac_b, &to.sin6_addr, port, &to, data, sizeof(data), NULL, 0), 0);
	assert_true(bb_xsk_kick(x) < 0);
	assert_int_equal(bb_xsk_recv(x), 0);
	close(wire);
	close(attached);
	bb_xsk_free(x);
	plug();
	assert_int_equal(make_socket(), 0);
	lead(USER);
	answer(&f, NODE, USER, 4096);
	put(&f);
	came(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_answers_come_whole, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_several_at_a_time, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_others_go_to_the_stack, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_damaged_ones_are_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_too_many, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_more_while_some_are_in_hand, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_sent_frames_are_right, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_one_a_queue, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_the_device_goes, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
