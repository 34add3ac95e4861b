/* SPDX-License-Identifier: MIT */
/*
 * bb_read over a cable between two namespaces, where the kernel's own receiver
 * checks the sums: in one packet and in four, with whole sums and with those
 * that the kernel completes, alone and beside a writer.
 */
#include "bpf_read.h"

/* --- over a cable ----------------------------------------------------------------- */

static int here, there; /* namespaces */

static void enter(int ns)
{
	assert_int_equal(setns(ns, CLONE_NEWNET), 0);
}

/* The home's end is in a namespace of its own, and nobody but the program answers there. */
static int cable(int mtu, const char *offload)
{
	LIBBPF_OPTS(bpf_link_create_opts, o);
	char cmd[700];
	int link;

	here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	there = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	snprintf(cmd, sizeof(cmd),
		 "ip link set lo up; ip link add home0 mtu %d type veth peer name ask0 mtu %d netns /proc/%d/fd/%d && "
		 "ip link set home0 address 02:bb:00:00:00:02 up && nsenter --net=/proc/%d/fd/%d sh -c '"
		 "ip link set ask0 address 02:bb:00:00:00:01 up && %s "
		 "ip -6 addr add fd00:bb::1/64 dev ask0 nodad && "
		 "ip -6 neigh add fd00:bb::2 lladdr 02:bb:00:00:00:02 dev ask0 nud permanent && "
		 "ip -6 route add fdbb:0:2::/48 via fd00:bb::2 dev ask0'",
		 mtu, mtu, (int)getpid(), here, (int)getpid(), here, offload);
	assert_int_equal(system(cmd), 0);
	link = bpf_link_create(bpf_program__fd(b->progs.bb_read), (int)if_nametoindex("home0"), TCX_INGRESS, &o);
	if (link < 0) {
		print_message("this kernel has no tcx (6.6): skipped\n");
		enter(here);
		skip();
	}
	enter(here);
	return link;
}

static void cable_away(int link)
{
	close(link);
	assert_int_equal(system("ip link del ask0"), 0);
	close(there);
	close(here);
}

/* Asks, and puts the answer together. Return: segments that came, 0: none within a second. */
static unsigned int ask(int fd, const struct ask *a, uint8_t *page)
{
	struct bb_gptr src = { .node = ASKER, .ptr = 3 }, dst = { .node = a->node, .cmd = a->cmd, .ptr = a->ptr };
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_port = htobe16(BB_UDP_PORT) };
	struct bb_sock_control control;
	struct in6_addr s;
	struct iovec iov;
	struct msghdr m = { .msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &iov, .msg_iovlen = 1 };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct frame f;
	unsigned int n = 0, nseg = 1;

	make(&f, a);
	bb_gptr_encode(&src, &s);
	bb_gptr_encode(&dst, &to.sin6_addr);
	iov = (struct iovec){ f.b + AT_HDR, 40 };
	m.msg_control = &control;
	m.msg_controllen = bb_sock_source(&control, &s, 0);
	assert_int_equal(sendmsg(fd, &m, 0), 40);
	while (n < nseg && poll(&p, 1, 1000) == 1) {
		uint8_t buf[5000];
		struct sockaddr_in6 from;
		socklen_t len = sizeof(from);
		ssize_t got = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);
		struct in6_addr d = s;
		struct bb_msg msg;

		assert_true(got > 40);
		assert_int_equal(bb_wire_decode(buf, (size_t)got, &msg), BB_ST_OK);
		if (msg.id != a->id)
			continue;
		assert_int_equal(bb_wire_reply(a->cmd, &msg), BB_ST_OK);
		d.s6_addr[6] = a->cmd | BB_CMD_REPLY;
		assert_true(bb_wire_verify(&key, &from.sin6_addr, &d, d.s6_addr[6], buf, (size_t)got));
		memcpy(page + (size_t)msg.seg * msg.length, msg.payload, msg.length);
		nseg = msg.nseg;
		n++;
	}
	return n == nseg ? n : 0;
}

static void over_a_cable(int mtu, const char *offload, unsigned int segs)
{
	static uint8_t got[15 * 4096];
	int link = cable(mtu, offload), fd = bb_sock_open(0);
	const uint8_t flags = segs == 1 ? 0 : BB_F_SMALL;
	pthread_t t;

	assert_true(fd >= 0);
	for (unsigned int i = 0; i < 15; i++)
		page_fill(i, i * 1000 + 1);
	for (unsigned int i = 0; i < 200; i++) {
		memset(got, 0xee, sizeof(got));
		assert_int_equal(ask(fd, ASK(.id = i + 1, .flags = flags, .ptr = bb_ptr(GEN, (i % 15) << 12)), got), segs);
		assert_memory_equal(got, slab_page(&slab, i % 15), 4096);
	}
	/* What the home's own link does not carry comes in four, whatever was asked for. */
	assert_int_equal(ask(fd, ASK(.id = 999), got), segs);
	for (unsigned int n = 1; n <= 15; n++) {
		memset(got, 0xee, sizeof(got));
		assert_int_equal(ask(fd, ASK(.cmd = BB_CMD_READ_RUN, .id = 1000 + n, .flags = flags, .length = n * 4096, .ptr = bb_ptr(GEN, 0)), got),
				 n * segs);
		assert_memory_equal(got, slab_page(&slab, 0), n * 4096);
	}
	/* Beside a writer: whole pages, or none (nobody is there to take what goes up). */
	atomic_store(&stop, false);
	memset(slab_page(&slab, 5), 0, 4096);
	assert_int_equal(pthread_create(&t, NULL, writer, NULL), 0);
	for (unsigned int i = 0, alone = 0; i < 2000 && alone < 3; i++) {
		const uint64_t up = count(BB_CNT_UP), *w = (const uint64_t *)got;

		if (!ask(fd, ASK(.id = 5000 + i, .flags = flags), got)) {
			assert_true(count(BB_CNT_UP) > up);
			alone++; /* each costs a second */
			continue;
		}
		for (unsigned int k = 1; k < 512; k++)
			assert_int_equal(w[k], w[0]);
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	close(fd);
	cable_away(link);
}

static void test_cable(void **state)
{
	over_a_cable(9000, "", 1);
	over_a_cable(1500, "", 4);
}

static void test_cable_without_offload(void **state)
{
	if (system("type ethtool >/dev/null 2>&1"))
		skip();
	over_a_cable(9000, "ethtool -K ask0 tx off >/dev/null && ", 1);
	over_a_cable(1500, "ethtool -K ask0 tx off >/dev/null && ", 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_cable, set_up),
		cmocka_unit_test_setup(test_cable_without_offload, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
