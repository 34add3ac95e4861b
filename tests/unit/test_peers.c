/* SPDX-License-Identifier: MIT */
/*
 * The table of hosts: who is accepted, who is refused, where memory is placed.
 * What needs two hosts and a link is in test_peers_link.c.
 */
#include "net/peers.h"

#include "clock.h"
#include "log.h"
#include "net/hello.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GIB (1ULL << 30)

static struct bb_peers *peers_of(uint16_t node)
{
	struct bb_peers_config cfg = { .node = node, .port = 48059, .boot = 77 };
	struct bb_peers *p = NULL;

	assert_int_equal(bb_key_derive(&cfg.key), 0);
	assert_int_equal(bb_peers_new(&p, &cfg), 0);
	return p;
}

static int hear(struct bb_peers *p, uint16_t node, uint32_t boot, uint32_t session, uint64_t id, uint64_t room,
		uint8_t flags, const char *from)
{
	struct bb_hello h = { .flags = flags, .node = node, .port = 48059, .boot = boot, .lent = 100 * GIB,
			      .free = room, .mtu = 9000, .name = "other" };
	struct bb_hdr hdr = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES),
			      .session = htobe32(session), .id = htobe64(id) };
	uint8_t b[BB_HELLO_BYTES];
	struct in6_addr src;

	assert_int_equal(inet_pton(AF_INET6, from ? from : "fe80::2", &src), 1);
	bb_hello_encode(&h, b);
	return bb_peers_input(p, &src, 5, 48059, &hdr, b, sizeof(b));
}

static struct bb_peer look(struct bb_peers *p, uint16_t node)
{
	struct bb_peer e = { 0 };

	bb_peers_get(p, node, &e);
	return e;
}

/* Counts lines that come out of fd 2 during a call. */
static int tap[2], keep;

static void tap_open(void)
{
	assert_int_equal(pipe2(tap, O_NONBLOCK), 0);
	keep = dup(2);
	dup2(tap[1], 2);
}

static int tap_close(const char *must_say)
{
	static char text[65536];
	ssize_t n;
	int lines = 0;

	dup2(keep, 2);
	n = read(tap[0], text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	close(tap[0]);
	close(tap[1]);
	close(keep);
	for (char *c = text; *c; c++)
		lines += *c == '\n';
	if (must_say && !strstr(text, must_say))
		fail_msg("\"%s\" is not said in: %s", must_say, text);
	return lines;
}

static void bad_configurations(void **state)
{
	struct bb_peers_config cfg = { .node = 0, .port = 1, .boot = 1 };
	struct bb_peers *p = NULL;

	assert_int_equal(bb_peers_new(&p, &cfg), -EINVAL);
	cfg.node = 0xffff;
	assert_int_equal(bb_peers_new(&p, &cfg), -EINVAL);
	cfg = (struct bb_peers_config){ .node = 1, .port = 1, .boot = 1, .dev = "no-such-dev" };
	tap_open();
	assert_int_equal(bb_peers_new(&p, &cfg), -ENODEV);
	assert_int_equal(tap_close("no network interface no-such-dev"), 1);
	assert_null(p);
}

static void own_entry(void **state)
{
	struct bb_peers *p = peers_of(1);
	struct bb_peer e = look(p, 1);

	assert_true(e.self && e.alive && e.boot == 77 && *e.name);
	assert_int_equal(bb_peers_get(p, 2, &e), 0);
	bb_peers_own(p, 8 * GIB, 9 * GIB);
	e = look(p, 1);
	assert_int_equal(e.free, 8 * GIB); /* never more free than lent */
	bb_peers_free(p);
}

static void hello_makes_a_peer(void **state)
{
	struct bb_peers *p = peers_of(1);
	struct bb_peer e;

	assert_int_equal(hear(p, 2, 9, 5, 1, 3 * GIB, 0, NULL), 1); /* new: say HELLO back at once */
	e = look(p, 2);
	assert_true(e.alive && !e.self && !e.key_differs);
	assert_int_equal(e.boot, 9);
	assert_int_equal(e.free, 3 * GIB);
	assert_int_equal(e.ifindex, 5);
	assert_string_equal(e.name, "other");
	assert_int_equal(e.via.s6_addr[15], 2);
	bb_peers_free(p);
}

static void malformed_hellos(void **state)
{
	struct bb_hello h = { .node = 2, .port = 1, .boot = 1 };
	struct bb_hdr good = { .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES), .id = htobe64(1) }, bad;
	struct bb_peers *p = peers_of(1);
	struct in6_addr src = { 0 };
	uint8_t b[BB_HELLO_BYTES];

	bb_hello_encode(&h, b);
	for (int i = 0; i < 4; i++) {
		bad = good;
		if (i == 0)
			bad.nseg = htobe16(2);
		if (i == 1)
			bad.seg = htobe16(1);
		if (i == 2)
			bad.length = htobe32(1);
		if (i == 3)
			bad.status = 1;
		assert_int_equal(bb_peers_input(p, &src, 1, 1, &bad, b, sizeof(b)), -EBADMSG);
	}
	assert_int_equal(bb_peers_input(p, &src, 1, 1, &good, b, sizeof(b) - 1), -EBADMSG);
	assert_int_equal(bb_peers_input(p, &src, 1, 1, &good, b, 0), -EBADMSG);
	assert_int_equal(bb_peers_get(p, 2, &(struct bb_peer){ 0 }), 0);
	assert_int_equal(bb_peers_input(p, &src, 1, 1, &good, b, sizeof(b)), 1);
	bb_peers_free(p);
}

static void other_tenants_are_ignored(void **state)
{
	struct bb_hello h = { .node = 2, .port = 1, .boot = 1, .tenant = 3 };
	struct bb_hdr hdr = { .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES), .id = htobe64(1) };
	struct bb_peers *p = peers_of(1);
	struct in6_addr src = { 0 };
	uint8_t b[BB_HELLO_BYTES];

	bb_hello_encode(&h, b);
	assert_int_equal(bb_peers_input(p, &src, 1, 1, &hdr, b, sizeof(b)), 0);
	assert_int_equal(bb_peers_get(p, 2, &(struct bb_peer){ 0 }), 0);
	bb_peers_free(p);
}

static void recorded_hellos_have_no_effect(void **state)
{
	struct bb_peers *p = peers_of(1);

	assert_int_equal(hear(p, 2, 9, 5, 10, 4 * GIB, 0, NULL), 1);
	assert_int_equal(hear(p, 2, 9, 5, 11, 3 * GIB, 0, NULL), 0);
	assert_int_equal(hear(p, 2, 9, 5, 10, 4 * GIB, 0, NULL), 0);
	assert_int_equal(hear(p, 2, 9, 5, 11, 4 * GIB, 0, NULL), 0);
	assert_int_equal(hear(p, 2, 9, 6, 99, 4 * GIB, 0, NULL), 0); /* another session, same boot */
	assert_int_equal(look(p, 2).free, 3 * GIB);
	/* A restart; then a HELLO of the time before is played back. */
	assert_int_equal(hear(p, 2, 10, 7, 1, 2 * GIB, 0, NULL), 1);
	assert_int_equal(hear(p, 2, 9, 5, 12, 4 * GIB, 0, NULL), 0);
	assert_int_equal(hear(p, 2, 9, 5, 13, 0, BB_HELLO_GOODBYE, NULL), 0);
	assert_int_equal(look(p, 2).boot, 10);
	assert_true(look(p, 2).alive);
	bb_peers_free(p);
}

static void goodbye_and_back(void **state)
{
	struct bb_peers *p = peers_of(1);

	assert_int_equal(hear(p, 3, 9, 5, 1, 0, BB_HELLO_GOODBYE, NULL), 0);
	assert_int_equal(bb_peers_get(p, 3, &(struct bb_peer){ 0 }), 0); /* nobody knew it */
	hear(p, 2, 9, 5, 1, GIB, 0, NULL);
	assert_int_equal(hear(p, 2, 9, 5, 2, GIB, BB_HELLO_GOODBYE, NULL), 0);
	assert_false(look(p, 2).alive);
	assert_int_equal(bb_peers_place(p, 1, NULL, 0), 0);
	assert_int_equal(hear(p, 2, 8, 6, 1, GIB, 0, "fe80::77"), 1); /* another machine may follow */
	assert_true(look(p, 2).alive);
	assert_int_equal(look(p, 2).boot, 8);
	bb_peers_free(p);
}

static void silence_is_death(void **state)
{
	struct bb_peers *p = peers_of(1);
	uint64_t now;

	hear(p, 2, 9, 5, 1, GIB, 0, NULL);
	now = bb_now_ns();
	assert_true(bb_peers_tick(p, -1, now) > now);
	assert_true(look(p, 2).alive);
	tap_open();
	bb_peers_tick(p, -1, now + BB_PEER_DEAD_NS + 1000000);
	assert_int_equal(tap_close("node 2 (other) does not answer"), 1);
	assert_false(look(p, 2).alive);
	assert_true(look(p, 1).alive);
	assert_int_equal(hear(p, 2, 9, 5, 2, GIB, 0, NULL), 1);
	assert_true(look(p, 2).alive);
	bb_peers_free(p);
}

static void two_hosts_of_one_number(void **state)
{
	struct bb_peers *p = peers_of(1);

	hear(p, 2, 9, 5, 1, GIB, 0, NULL);
	tap_open();
	for (uint64_t id = 1; id < 5; id++)
		assert_int_equal(hear(p, 2, 50, 6, id, 9 * GIB, 0, "fe80::99"), 0);
	assert_int_equal(tap_close("says that it is node 2"), 1); /* once */
	assert_int_equal(look(p, 2).boot, 9);
	assert_int_equal(look(p, 2).via.s6_addr[15], 2);

	/* Ours. */
	tap_open();
	for (uint64_t id = 1; id < 5; id++)
		assert_int_equal(hear(p, 1, 50, 6, id, 9 * GIB, 0, "fe80::99"), 0);
	assert_int_equal(tap_close("node 1, as this host does"), 1);
	tap_open();
	assert_int_equal(hear(p, 1, 77, 6, 9, GIB, 0, NULL), 0); /* our own, come back */
	assert_int_equal(tap_close(NULL), 0);
	assert_int_equal(look(p, 1).boot, 77);
	bb_peers_free(p);
}

static void keys_that_differ(void **state)
{
	struct bb_peers *p = peers_of(1);
	struct in6_addr a = { 0 };
	struct bb_peer list[64];
	int n, ghosts = 0;

	a.s6_addr[0] = 0xfe;
	tap_open();
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 1000; i++) {
			a.s6_addr[14] = (uint8_t)(i >> 8);
			a.s6_addr[15] = (uint8_t)i;
			bb_peers_key_differs(p, &a, (uint16_t)(i + 10));
		}
	assert_int_equal(tap_close("copy one host's key file"), 65); /* 64 sources, and that no more follow */
	n = bb_peers_list(p, list, 64);
	for (int i = 0; i < n; i++)
		ghosts += list[i].key_differs && !list[i].alive;
	assert_int_equal(ghosts, 16);
	assert_int_equal(n, 17);
	assert_int_equal(hear(p, 10, 9, 5, 1, GIB, 0, NULL), 1); /* it was given the key */
	assert_true(look(p, 10).alive);
	assert_false(look(p, 10).key_differs);
	bb_peers_key_differs(p, &a, 10); /* anyone can send such a packet */
	bb_peers_key_differs(p, &a, 1);
	assert_false(look(p, 10).key_differs);
	assert_false(look(p, 1).key_differs);
	bb_peers_free(p);
}

static void placement(void **state)
{
	struct bb_peers *p = peers_of(1);
	int got[5] = { 0 };

	assert_int_equal(bb_peers_place(p, 1, NULL, 0), 0); /* nobody lends */
	bb_peers_own(p, 100 * GIB, 100 * GIB);
	assert_int_equal(bb_peers_place(p, GIB, NULL, 0), 1); /* alone: own home */
	hear(p, 2, 9, 5, 1, 4 * GIB, 0, NULL);
	hear(p, 3, 9, 5, 1, 6 * GIB, 0, "fe80::3");
	hear(p, 4, 9, 5, 1, 0, 0, "fe80::4");
	assert_int_equal(bb_peers_place(p, GIB, (uint16_t[]){ 3 }, 1), 2);
	assert_int_equal(bb_peers_place(p, GIB, (uint16_t[]){ 2, 3 }, 2), 1);
	assert_int_equal(bb_peers_place(p, GIB, (uint16_t[]){ 1, 2, 3 }, 3), 0);
	for (int i = 0; i < 9; i++) /* 3 + 6 left: the fuller first, then in turn */
		got[bb_peers_place(p, GIB, NULL, 0)]++;
	assert_int_equal(got[2], 3);
	assert_int_equal(got[3], 6);
	assert_int_equal(bb_peers_place(p, GIB, NULL, 0), 1); /* own home last */
	hear(p, 2, 9, 5, 2, 2 * GIB, 0, NULL); /* its next HELLO tells the truth */
	assert_int_equal(bb_peers_place(p, GIB, NULL, 0), 2);
	assert_int_equal(bb_peers_place(p, 200 * GIB, NULL, 0), 0);
	bb_peers_free(p);
}

static void list_is_sorted(void **state)
{
	struct bb_peers *p = peers_of(7);
	struct bb_peer out[300];

	for (uint16_t n = 200; n > 100; n--)
		hear(p, n, 9, 5, 1, GIB, 0, NULL);
	assert_int_equal(bb_peers_list(p, out, 300), 101);
	for (int i = 1; i < 101; i++)
		assert_true(out[i - 1].node < out[i].node);
	assert_int_equal(bb_peers_list(p, out, 3), 3);
	assert_int_equal(bb_peers_list(p, out, 0), 0);
	bb_peers_free(p);
}

static _Atomic bool stop;

static void *looker(void *arg)
{
	struct bb_peer out[64];

	while (!stop) {
		bb_peers_place(arg, 4096, NULL, 0);
		for (int i = bb_peers_list(arg, out, 64) - 1; i >= 0; i--)
			assert_true(out[i].free <= out[i].lent);
	}
	return NULL;
}

static void many_threads(void **state)
{
	struct bb_peers *p = peers_of(1);
	pthread_t t[2];

	stop = false;
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, looker, p), 0);
	for (uint64_t id = 1; id < 300; id++) {
		for (uint16_t n = 2; n < 40; n++)
			hear(p, n, 9, 5, id, id * GIB / 8, 0, NULL);
		bb_peers_own(p, 2 * GIB, GIB);
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	bb_peers_free(p);
}

static void unresolvable_peer(void **state)
{
	const char *list[] = { "fe80::1%no-such-dev", NULL };
	struct bb_peers_config cfg = { .node = 1, .port = 48059, .boot = 77, .peers = list };
	const uint64_t end = bb_now_ns() + 30000000000ULL;
	uint64_t t = bb_now_ns();
	struct bb_peers *p = NULL;
	struct pollfd fd;

	assert_int_equal(bb_peers_new(&p, &cfg), 0);
	tap_open();
	fd = (struct pollfd){ .fd = tap[0], .events = POLLIN };
	/* A minute of the table's time: tried again, said once, and nobody waits. */
	for (int i = 0; i < 60 || (!poll(&fd, 1, 20) && bb_now_ns() < end); i++, t += 1000000000) {
		uint64_t before = bb_now_ns();

		bb_peers_tick(p, -1, t);
		assert_true(bb_now_ns() - before < 1000000000);
		usleep(5000);
	}
	assert_int_equal(tap_close("cannot find the peer fe80::1%no-such-dev"), 1);
	bb_peers_free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bad_configurations), cmocka_unit_test(own_entry),
		cmocka_unit_test(hello_makes_a_peer), cmocka_unit_test(malformed_hellos),
		cmocka_unit_test(other_tenants_are_ignored), cmocka_unit_test(recorded_hellos_have_no_effect),
		cmocka_unit_test(goodbye_and_back), cmocka_unit_test(silence_is_death),
		cmocka_unit_test(two_hosts_of_one_number), cmocka_unit_test(keys_that_differ),
		cmocka_unit_test(placement), cmocka_unit_test(list_is_sorted),
		cmocka_unit_test(many_threads), cmocka_unit_test(unresolvable_peer),
	};

	bb_log_init("test", BB_LOG_WARN);
	return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
