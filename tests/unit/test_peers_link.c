/* SPDX-License-Identifier: MIT */
/*
 * Two hosts on a link: each is a process with a network namespace of its own,
 * joined by a veth pair, and runs a small server loop over the table of
 * hosts. The namespaces have no name and end with their processes, so nothing
 * is left behind, whatever happens. Needs root; skipped without.
 */
#include "net/peers.h"

#include "clock.h"
#include "log.h"
#include "net/hello.h"
#include "net/routes.h"

#include <bluebridge/gptr.h>

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PORT 48059
#define SECOND 1000000000ULL

struct host {
	pid_t pid;
	int ctl;
};

struct order {
	char what;	/* see obey() */
	uint16_t node, other;
	uint32_t boot;
	uint8_t key;
	bool discover;
	char peer[64];
	char command[160];
};

struct answer {
	int found;
	struct bb_peer peer;
	char text[2048];
};

/* --- a host's process --------------------------------------------------- */

static struct bb_peers *peers;
static int sock = -1;
static unsigned long bad_tags;

static void shell(const char *command, char *out, size_t size)
{
	FILE *f = popen(command, "r");
	size_t n = f ? fread(out, 1, size - 1, f) : 0;

	out[n] = '\0';
	if (f)
		pclose(f);
}

static int open_socket(void)
{
	struct sockaddr_in6 any = { .sin6_family = AF_INET6, .sin6_port = htobe16(PORT) };
	int on = 1, fd = socket(AF_INET6, SOCK_DGRAM, 0);

	setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on));
	setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on));
	return bind(fd, (struct sockaddr *)&any, sizeof(any)) ? -1 : fd;
}

/* HELLO goes to the table, everything else back to where it came from. */
static void receive(void)
{
	struct sockaddr_in6 from;
	uint8_t buf[2048], control[256];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1,
			    .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(sock, &m, MSG_DONTWAIT);
	struct in6_pktinfo *pi;
	struct bb_hdr h;
	struct bb_gptr g;
	size_t len;

	if (n < 0 || !CMSG_FIRSTHDR(&m))
		return;
	pi = (struct in6_pktinfo *)CMSG_DATA(CMSG_FIRSTHDR(&m));
	if (bb_gptr_decode(&pi->ipi6_addr, &g)) {
		iov.iov_len = (size_t)n;
		sendmsg(sock, &m, 0); /* its destination, as the source of the answer */
		return;
	}
	if ((size_t)n < sizeof(h))
		return;
	memcpy(&h, buf, sizeof(h));
	len = (size_t)n - sizeof(h);
	{
		const struct bb_peers_config *c = bb_peers_config(peers);
		__be64 tag = h.tag;

		h.tag = 0;
		if (be64toh(tag) != bb_tag(&c->key, &from.sin6_addr, &pi->ipi6_addr, &h,
					   bb_digest(&c->key, buf + sizeof(h), len))) {
			struct bb_hello hello;

			bad_tags++;
			bb_peers_key_differs(peers, &from.sin6_addr,
					     bb_hello_decode(&hello, buf + sizeof(h), len) ? 0 : hello.node);
			return;
		}
	}
	if (bb_peers_input(peers, &from.sin6_addr, pi->ipi6_ifindex, be16toh(from.sin6_port), &h, buf + sizeof(h), len) == 1)
		bb_peers_tick(peers, sock, bb_now_ns());
}

/* A packet to a page of the other host and back, both by pointer addresses. */
static int page_round_trip(uint16_t me, uint16_t other)
{
	struct sockaddr_in6 src = { .sin6_family = AF_INET6 }, dst = { .sin6_family = AF_INET6, .sin6_port = htobe16(PORT) };
	struct bb_gptr g = { .node = me, .cmd = BB_CMD_READ | BB_CMD_REPLY, .ptr = 7 };
	int on = 1, ok = 0, fd = socket(AF_INET6, SOCK_DGRAM, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c = 'q';

	setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on));
	bb_gptr_encode(&g, &src.sin6_addr);
	g = (struct bb_gptr){ .node = other, .cmd = BB_CMD_READ, .ptr = bb_ptr(3, 0x123456000) };
	bb_gptr_encode(&g, &dst.sin6_addr);
	if (!bind(fd, (struct sockaddr *)&src, sizeof(src)) && !connect(fd, (struct sockaddr *)&dst, sizeof(dst)))
		for (int i = 0; i < 20 && !ok; i++)
			ok = send(fd, &c, 1, 0) == 1 && poll(&p, 1, 100) == 1 && recv(fd, &c, 1, 0) == 1;
	close(fd);
	return ok;
}

static void obey(int ctl, const struct order *o)
{
	const char *list[] = { o->peer, NULL };
	struct bb_peers_config cfg = { .node = o->node, .port = PORT, .boot = o->boot, .dev = "bbt0",
				       .discover = o->discover, .routes = true, .peers = *o->peer ? list : NULL };
	struct answer a = { 0 };

	switch (o->what) {
	case 's': /* start a daemon */
		memset(cfg.key.raw, o->key, sizeof(cfg.key.raw));
		bb_key_derive(&cfg.key);
		sock = open_socket();
		a.found = sock >= 0 && !bb_peers_new(&peers, &cfg);
		if (a.found)
			bb_peers_own(peers, 64 << 20, 32 << 20);
		break;
	case 'g': /* what is known of a node */
		a.found = peers && bb_peers_get(peers, o->other, &a.peer);
		break;
	case 'u':
		a.found = page_round_trip(o->node, o->other);
		break;
	case 'b': /* a daemon's orderly end */
		bb_peers_bye(peers, sock);
		/* fall through */
	case 'f': /* its end without a word */
		bb_peers_free(peers);
		peers = NULL;
		close(sock);
		sock = -1;
		break;
	case 'c':
		shell(o->command, a.text, sizeof(a.text));
		break;
	case 'k': /* killed: nothing is taken back */
		peers = NULL;
		close(sock);
		sock = -1;
		break;
	}
	if (write(ctl, &a, sizeof(a)) != sizeof(a))
		_exit(1);
}

static void host_main(int ctl)
{
	char ready = 1;
	struct order o;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWNET))
		ready = 0;
	if (write(ctl, &ready, 1) != 1)
		_exit(1);
	for (;;) {
		struct pollfd fds[2] = { { .fd = ctl, .events = POLLIN }, { .fd = sock, .events = POLLIN } };
		uint64_t now = bb_now_ns(), next = now + SECOND;

		if (peers)
			next = bb_peers_tick(peers, sock, now);
		if (poll(fds, 2, next > now ? (int)((next - now) / 1000000) : 0) < 0)
			_exit(1);
		if (fds[0].revents) {
			if (read(ctl, &o, sizeof(o)) != sizeof(o))
				_exit(0);
			obey(ctl, &o);
		} else if (fds[1].revents & POLLIN) {
			receive();
		}
	}
}

/* --- the test's process ------------------------------------------------- */

static struct host A, B;

static bool host_start(struct host *h)
{
	int sv[2];
	char ready = 0;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	h->pid = fork();
	assert_true(h->pid >= 0);
	if (!h->pid) {
		close(sv[0]);
		host_main(sv[1]);
	}
	close(sv[1]);
	h->ctl = sv[0];
	return read(h->ctl, &ready, 1) == 1 && ready;
}

static void host_stop(struct host *h)
{
	if (!h->pid)
		return;
	close(h->ctl);
	kill(h->pid, SIGKILL);
	waitpid(h->pid, NULL, 0);
	h->pid = 0;
}

static struct answer ask(struct host *h, struct order o)
{
	struct pollfd p = { .fd = h->ctl, .events = POLLIN };
	struct answer a;

	assert_int_equal(write(h->ctl, &o, sizeof(o)), sizeof(o));
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(recv(h->ctl, &a, sizeof(a), MSG_WAITALL), sizeof(a));
	return a;
}

static void run(struct host *h, const char *command)
{
	struct order o = { .what = 'c' };

	snprintf(o.command, sizeof(o.command), "%s", command);
	ask(h, o);
}

static bool routes_have(struct host *h, const char *text)
{
	struct order o = { .what = 'c', .command = "ip -6 route show table all proto 178; ip -6 neigh show nud permanent" };

	return strstr(ask(h, o).text, text);
}

static struct bb_peer peer(struct host *h, uint16_t node)
{
	return ask(h, (struct order){ .what = 'g', .other = node }).peer;
}

/* Waits at most so many seconds for an expression. */
#define WITHIN(seconds, what)                                                                      \
	do {                                                                                       \
		const uint64_t end_ = bb_now_ns() + (seconds) * SECOND;                            \
		while (!(what) && bb_now_ns() < end_)                                              \
			usleep(20000);                                                             \
		assert_true(what);                                                                 \
	} while (0)

static int link_up(void **state)
{
	char command[160], out[256];

	*state = NULL;
	if (geteuid() || !host_start(&A) || !host_start(&B))
		return 0;
	snprintf(command, sizeof(command), "ip link add bbt0 netns %d type veth peer name bbt0 netns %d 2>&1", A.pid, B.pid);
	shell(command, out, sizeof(out));
	if (*out)
		return 0;
	for (struct host *h = &A; h; h = h == &A ? &B : NULL) {
		run(h, "sysctl -qw net.ipv6.conf.bbt0.accept_dad=0");
		run(h, "ip link set lo up");
		run(h, "ip link set bbt0 mtu 9000");
		run(h, "ip link set bbt0 up");
	}
	*state = &A;
	return 0;
}

static int link_down(void **state)
{
	host_stop(&A);
	host_stop(&B);
	return 0;
}

static void start(struct host *h, uint16_t node, uint32_t boot, uint8_t key, bool discover, const char *at)
{
	struct order o = { .what = 's', .node = node, .boot = boot, .key = key, .discover = discover };

	if (at)
		snprintf(o.peer, sizeof(o.peer), "%s", at);
	assert_true(ask(h, o).found);
}

static void end(struct host *h, char how)
{
	ask(h, (struct order){ .what = how });
}

#define NEEDS_LINK()      \
	do {              \
		if (!*state) \
			skip(); \
	} while (0)

static void discovery_routes_goodbye(void **state)
{
	struct bb_peer p;

	NEEDS_LINK();
	start(&A, 1, 11, 1, true, NULL);
	start(&B, 2, 22, 1, true, NULL);
	WITHIN(10, peer(&A, 2).alive && peer(&B, 1).alive);
	p = peer(&A, 2);
	assert_int_equal(p.boot, 22);
	assert_int_equal(p.lent, 64 << 20);
	assert_int_equal(p.free, 32 << 20);
	assert_true(IN6_IS_ADDR_LINKLOCAL(&p.via));
	WITHIN(5, peer(&A, 2).mtu == 9000 && peer(&B, 1).mtu == 9000);
	WITHIN(12, peer(&A, 2).rtt_ns && peer(&B, 1).rtt_ns);
	assert_true(peer(&A, 2).rtt_ns < SECOND);

	assert_true(routes_have(&A, "local fdbb:0:1::/48"));
	assert_true(routes_have(&A, "fdbb:0:2::/48 via fe80"));
	assert_true(ask(&A, (struct order){ .what = 'u', .node = 1, .other = 2 }).found);
	assert_true(ask(&B, (struct order){ .what = 'u', .node = 2, .other = 1 }).found);
	/* The kernel has found the next hop reachable: it is made permanent. */
	WITHIN(15, routes_have(&A, "PERMANENT"));

	/* Routes that a link's outage has taken away come back. */
	run(&A, "ip link set bbt0 down; ip link set bbt0 up");
	WITHIN(15, routes_have(&A, "fdbb:0:2::/48 via fe80"));
	WITHIN(15, ask(&A, (struct order){ .what = 'u', .node = 1, .other = 2 }).found);
	WITHIN(10, peer(&A, 2).alive && peer(&B, 1).alive);

	end(&B, 'b');
	WITHIN(1, !peer(&A, 2).alive); /* at once, not after BB_PEER_DEAD_NS */
	assert_false(routes_have(&B, "fdbb"));
	end(&A, 'b');
	assert_false(routes_have(&A, "fdbb"));
	assert_false(routes_have(&A, "PERMANENT"));
}

static void unicast_only_one_side_knows(void **state)
{
	NEEDS_LINK();
	run(&A, "ip addr add 2001:db8::1/64 dev bbt0 nodad");
	run(&B, "ip addr add 2001:db8::2/64 dev bbt0 nodad");
	start(&A, 1, 11, 1, false, "2001:db8::2");
	start(&B, 2, 22, 1, false, NULL);
	WITHIN(10, peer(&A, 2).alive && peer(&B, 1).alive);
	assert_int_equal(peer(&A, 2).via.s6_addr[0], 0x20);
	WITHIN(5, peer(&A, 2).rtt_ns != 0);
	usleep(5000000); /* longer than BB_PEER_DEAD_NS: they keep each other alive */
	assert_true(peer(&A, 2).alive && peer(&B, 1).alive);
	assert_true(ask(&A, (struct order){ .what = 'u', .node = 1, .other = 2 }).found);

	/* Dies without a word; comes back as another incarnation before it was missed. */
	end(&B, 'f');
	start(&B, 2, 23, 1, false, NULL);
	WITHIN(3, peer(&A, 2).boot == 23);
	assert_true(peer(&A, 2).alive);
	end(&B, 'f');
	WITHIN(6, !peer(&A, 2).alive);
	end(&A, 'f');
}

static void link_local_peer_with_interface(void **state)
{
	struct order o = { .what = 'c', .command = "ip -6 -o addr show dev bbt0 scope link" };
	char addr[64], *at;

	NEEDS_LINK();
	at = strstr(ask(&B, o).text, "fe80");
	assert_non_null(at);
	snprintf(addr, sizeof(addr), "%.*s%%bbt0", (int)strcspn(at, "/"), at);
	start(&A, 1, 11, 1, false, addr);
	start(&B, 2, 22, 1, false, NULL);
	WITHIN(10, peer(&A, 2).alive && peer(&B, 1).alive);
	end(&A, 'b');
	end(&B, 'b');
}

static void keys_differ(void **state)
{
	NEEDS_LINK();
	start(&A, 1, 11, 1, true, NULL);
	start(&B, 2, 22, 2, true, NULL);
	WITHIN(10, peer(&A, 2).key_differs && peer(&B, 1).key_differs);
	assert_false(peer(&A, 2).alive);
	assert_false(routes_have(&A, "fdbb:0:2::"));
	end(&B, 'b');
	start(&B, 2, 23, 1, true, NULL);
	WITHIN(10, peer(&A, 2).alive);
	assert_false(peer(&A, 2).key_differs);
	end(&A, 'b');
	end(&B, 'b');
}

static void killed_daemon_and_foreign_routes(void **state)
{
	NEEDS_LINK();
	start(&A, 1, 11, 1, true, NULL);
	start(&B, 2, 22, 1, true, NULL);
	WITHIN(10, routes_have(&A, "fdbb:0:2::/48"));
	end(&A, 'k');
	assert_true(routes_have(&A, "fdbb:0:2::/48"));
	end(&B, 'b');
	start(&A, 1, 12, 1, true, NULL); /* cleans up after the one that was killed */
	assert_false(routes_have(&A, "fdbb:0:2::/48"));
	assert_true(routes_have(&A, "local fdbb:0:1::/48"));
	end(&A, 'b');
	assert_false(routes_have(&A, "fdbb"));

	/* Set by hand: used, and left alone. */
	run(&A, "ip -6 route add local fdbb:0:1::/48 dev lo; ip -6 route add fdbb:0:2::/48 via fe80::1234 dev bbt0");
	start(&A, 1, 13, 1, true, NULL);
	start(&B, 2, 23, 1, true, NULL);
	WITHIN(10, peer(&A, 2).alive);
	end(&A, 'b');
	end(&B, 'b');
	{
		struct order o = { .what = 'c', .command = "ip -6 route show table all | grep fdbb" };
		struct answer a = ask(&A, o);

		assert_non_null(strstr(a.text, "local fdbb:0:1::/48"));
		assert_non_null(strstr(a.text, "fdbb:0:2::/48 via fe80::1234"));
	}
	run(&A, "ip -6 route del local fdbb:0:1::/48 dev lo; ip -6 route del fdbb:0:2::/48");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(discovery_routes_goodbye, link_up, link_down),
		cmocka_unit_test_setup_teardown(unicast_only_one_side_knows, link_up, link_down),
		cmocka_unit_test_setup_teardown(link_local_peer_with_interface, link_up, link_down),
		cmocka_unit_test_setup_teardown(keys_differ, link_up, link_down),
		cmocka_unit_test_setup_teardown(killed_daemon_and_foreign_routes, link_up, link_down),
	};

	bb_log_init("test", getenv("BB_TEST_VERBOSE") ? BB_LOG_DEBUG : BB_LOG_ERROR);
	return cmocka_run_group_tests_name("peers_link", tests, NULL, NULL);
}
