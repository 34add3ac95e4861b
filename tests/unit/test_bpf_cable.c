/* SPDX-License-Identifier: MIT */
/*
 * bb_read over a cable between two namespaces, where the kernel's own receiver
 * checks the sums: in one packet and in four, with whole sums and with those
 * that the kernel completes, alone and beside a writer.
 */
#include "bpf_read.h"

#include <linux/if_packet.h>

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
	char cmd[900];
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
		 "ip -6 route add fdbb:0:2::/48 via fd00:bb::2 dev ask0 && "
		 /* Until the kernel has seen the carrier it drops what is sent. */
		 "for i in $(seq 500); do ip -br link show dev ask0 | grep -qw UP && exit; sleep 0.01; done; exit 1'",
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

/*
 * A whole sum may happen to be that of the pseudo-header (one in 65,536 is), and
 * the request looks as if the kernel were to complete it. Asked again it is the
 * same bytes: an answer with a wrong sum would be lost for ever.
 */
static void test_cable_sum_alike(void **state)
{
	uint64_t up = count(BB_CNT_UP), served = count(BB_CNT_SERVED);
	static uint8_t got[4096];
	struct frame f;
	uint64_t id;
	int link, fd;

	if (system("type ethtool >/dev/null 2>&1"))
		skip();
	link = cable(9000, "ethtool -K ask0 tx off >/dev/null && ");
	fd = bb_sock_open(4711); /* as in make() */
	assert_true(fd >= 0);
	for (id = 1;; id++) {
		make(&f, ASK(.id = id));
		if (*(uint16_t *)(f.b + AT_UDP + 6) == fold(sum_of(&f, false)))
			break;
	}
	assert_int_equal(ask(fd, ASK(.id = id), got), 0); /* nobody is there to take what goes up */
	assert_int_equal(count(BB_CNT_SERVED), served);
	assert_int_equal(count(BB_CNT_UP), up + 1);
	assert_int_equal(ask(fd, ASK(.id = id + 1), got), 1);
	close(fd);
	cable_away(link);
}

/* --- frames by hand ----------------------------------------------------------------- */

static const uint8_t home_mac[6] = { 2, 0xbb, 0, 0, 0, 2 }, ask_mac[6] = { 2, 0xbb, 0, 0, 0, 1 };

/* Frames at the asker's end, as they are on the wire. */
static int raw_open(void)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htobe16(ETH_P_IPV6) };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htobe16(ETH_P_IPV6));

	assert_true(fd >= 0);
	at.sll_ifindex = (int)if_nametoindex("ask0");
	assert_int_equal(bind(fd, (const struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

static void raw_request(struct frame *f, const struct ask *a)
{
	make(f, a);
	memcpy(f->b, home_mac, 6);
	memcpy(f->b + 6, ask_mac, 6);
}

/* Return: bytes of the next frame from the home, 0 where none comes. */
static unsigned int raw_next(int fd, struct frame *f, int ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	while (poll(&p, 1, ms) == 1) {
		ssize_t got = recv(fd, f->b, sizeof(f->b), 0);

		assert_true(got > 0);
		f->len = (unsigned int)got;
		if (f->len > AT_HDR && f->b[AT_IP + 6] == 17 && !memcmp(f->b + 6, home_mac, 6))
			return f->len;
	}
	return 0;
}

/* What segment seg of nseg has to be, by lib/wire.c and lib/tag.c; in: the request. */
static void expect_segment(struct frame *f, const struct frame *in, const struct ask *a, unsigned int seg, unsigned int nseg,
			   uint32_t len)
{
	struct bb_msg m = { .version = 1, .flags = len == BB_SEG_SMALL ? BB_F_SMALL : 0, .seg = (uint16_t)seg, .nseg = (uint16_t)nseg,
			    .length = len, .boot = BOOT, .session = 77, .id = a->id };
	const struct bb_gptr src = { .node = a->node, .cmd = a->cmd | BB_CMD_REPLY, .ptr = a->ptr };
	const struct bb_gptr dst = { .node = a->asker, .cmd = a->cmd | BB_CMD_REPLY, .ptr = 3 };
	const uint8_t *data = slab_page(&slab, 0) + bb_ptr_offset(a->ptr) + (size_t)seg * len;
	struct in6_addr s, d;
	struct bb_hdr h;
	uint16_t check;

	frame_make(f, src, dst, a->id, len);
	memcpy(f->b, in->b + 6, 6);
	memcpy(f->b + 6, in->b, 6);
	memcpy(f->b + AT_UDP, in->b + AT_UDP + 2, 2);
	memcpy(f->b + AT_UDP + 2, in->b + AT_UDP, 2);
	bb_gptr_encode(&src, &s);
	bb_gptr_encode(&dst, &d);
	bb_wire_encode(&h, &m);
	bb_wire_seal(&key, &s, &d, src.cmd, &h, data, len);
	memcpy(f->b + AT_HDR, &h, sizeof(h));
	memcpy(f->b + AT_HDR + sizeof(h), data, len);
	check = (uint16_t)~fold(sum_of(f, true));
	check = check ? check : 0xffff;
	memcpy(f->b + AT_UDP + 6, &check, 2);
}

/* Every byte of every segment, in order. */
static void segments(int fd, const struct ask *a, uint32_t len)
{
	const uint64_t served = count(BB_CNT_SERVED), sent = count(BB_CNT_SEGMENTS);
	const unsigned int nseg = a->length / len;
	static struct frame in, want, got;

	raw_request(&in, a);
	assert_int_equal(send(fd, in.b, in.len, 0), in.len);
	for (unsigned int i = 0; i < nseg; i++) {
		assert_int_equal(raw_next(fd, &got, 2000), AT_HDR + 40 + len);
		expect_segment(&want, &in, a, i, nseg, len);
		assert_memory_equal(got.b, want.b, want.len);
	}
	assert_int_equal(raw_next(fd, &got, 20), 0);
	assert_int_equal(count(BB_CNT_SERVED), served + 1);
	assert_int_equal(count(BB_CNT_SEGMENTS), sent + nseg);
}

static void every_shape(int fd, uint32_t large)
{
	uint64_t id = 1;

	for (unsigned int i = 0; i < 15; i++)
		page_fill(i, i * 99991 + 5);
	segments(fd, ASK(.id = id++), large);
	segments(fd, ASK(.id = id++, .flags = BB_F_SMALL), BB_SEG_SMALL);
	for (unsigned int n = 1; n <= 15; n += 7) {
		segments(fd, ASK(.cmd = BB_CMD_READ_RUN, .id = id++, .length = n * 4096, .ptr = bb_ptr(GEN, 0)), large);
		segments(fd, ASK(.cmd = BB_CMD_READ_RUN, .id = id++, .length = n * 4096, .flags = BB_F_SMALL, .ptr = bb_ptr(GEN, 0)), BB_SEG_SMALL);
	}
}

static void test_cable_bytes(void **state)
{
	int link = cable(9000, ""), fd = raw_open();

	every_shape(fd, BB_SEG_LARGE);
	close(fd);
	cable_away(link);
	link = cable(4184, ""); /* one page just fits */
	fd = raw_open();
	every_shape(fd, BB_SEG_LARGE);
	close(fd);
	cable_away(link);
	link = cable(4183, "");
	fd = raw_open();
	every_shape(fd, BB_SEG_SMALL);
	close(fd);
	cable_away(link);
}

/* A tag of 802.1Q has left the frame where tc sees it: it is another link all the same. */
static void test_cable_vlan(void **state)
{
	static const uint8_t tag[4] = { 0x81, 0x00, 0x00, 0x05 };
	const uint64_t up = count(BB_CNT_UP), served = count(BB_CNT_SERVED);
	int link = cable(9000, ""), fd = raw_open();
	struct frame f, tagged, got;

	raw_request(&f, ASK());
	tagged = f;
	memcpy(tagged.b + 12, tag, 4);
	memcpy(tagged.b + 16, f.b + 12, f.len - 12);
	tagged.len = f.len + 4;
	assert_int_equal(send(fd, tagged.b, tagged.len, 0), tagged.len);
	assert_int_equal(raw_next(fd, &got, 300), 0);
	assert_int_equal(count(BB_CNT_SERVED), served);
	assert_int_equal(count(BB_CNT_UP), up);
	assert_int_equal(send(fd, f.b, f.len, 0), f.len); /* without it, it is answered */
	assert_int_equal(raw_next(fd, &got, 2000), AT_HDR + 40 + 4096);
	close(fd);
	cable_away(link);
}

/* Where there is no tcx, the program hangs on clsact. */
static void test_cable_clsact(void **state)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, o, .prog_fd = bpf_program__fd(b->progs.bb_read));
	int link = cable(9000, ""), fd = raw_open(), ret;
	struct frame f, got;

	close(link); /* of tcx */
	raw_request(&f, ASK());
	assert_int_equal(send(fd, f.b, f.len, 0), f.len);
	assert_int_equal(raw_next(fd, &got, 200), 0); /* nobody answers now */
	enter(there);
	hook.ifindex = (int)if_nametoindex("home0");
	ret = bpf_tc_hook_create(&hook);
	if (!ret)
		ret = bpf_tc_attach(&hook, &o);
	enter(here);
	assert_int_equal(ret, 0);
	every_shape(fd, BB_SEG_LARGE);
	raw_request(&f, ASK(.bad_tag = true));
	assert_int_equal(send(fd, f.b, f.len, 0), f.len);
	assert_int_equal(raw_next(fd, &got, 100), 0);
	close(fd);
	assert_int_equal(system("ip link del ask0"), 0); /* and clsact with it */
	close(there);
	close(here);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_cable, set_up),
		cmocka_unit_test_setup(test_cable_without_offload, set_up),
		cmocka_unit_test_setup(test_cable_sum_alike, set_up),
		cmocka_unit_test_setup(test_cable_bytes, set_up),
		cmocka_unit_test_setup(test_cable_vlan, set_up),
		cmocka_unit_test_setup(test_cable_clsact, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
