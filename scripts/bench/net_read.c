/* SPDX-License-Identifier: MIT */
/*
 * READs of another host's pages, by the daemon's own client (daemon/net/net.h):
 * writes known pages there, reads them at random, one or several at a time, and
 * compares every byte. Whether bbd answers over there or its kernel cannot be
 * told from here: the driver asks the other host's counters.
 *
 *	net_read --key FILE --node N --to M [--ops N] [--pages N] [--depth N]
 *		 [--spin US] [--xdp DEV --via ADDR | --bare [--small] [--gro]]
 *
 * N is the host that it runs on, M the one that is asked. It waits as bbd's
 * pager does: it looks, yields its CPU between empty looks, and sleeps after
 * --spin microseconds of them (0: it looks once and sleeps).
 *
 * --xdp: answers come by an AF_XDP socket of that device, whose programs bbload has
 * attached; --via is the next hop to M. It fails where they come otherwise.
 *
 * --bare is the floor of the same: the pages are written as before, but read by
 * a bare socket loop that sends requests that lie ready with their tags, and
 * keeps no window, timer or list. --small: they ask for four segments, which
 * --gro lets the kernel join.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <arpa/inet.h>
#include <endian.h>
#include <getopt.h>
#include <net/if.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "bench.h"
#include "log.h"
#include "net/hello.h"
#include "net/net.h"
#include "net/peers.h"
#include "net/xsk.h"
#include "steer/sockets.h"
#include "steer_names.h"
#include "wire.h"

#define BATCH ((unsigned int)BB_BATCH_PAGES_MAX)
#define PAGES_MAX (BB_CREATE_MAX * BB_EXTENT_PAGES)
#define DEPTH_MAX 64U
#define PIECE 64U
#define INDEX 78U /* in the own address, where bbd has the number of a pager */
#define XDP_INDEX (BB_XSK_MAX - 1) /* the same, where answers are led to a socket */
#define SETUP_NS 20000000000ULL
#define LOST_NS 200000000ULL

const char *const bench_name = "net_read";

static const char *key, *xdp, *via;
static uint64_t ops = 20000, spin_us = 50;
static unsigned int own, to, depth = 1, npages = BATCH, nextents;
static bool table_too, bare, small, gro;

static struct bb_peers *peers;
static struct bb_peers_config cfg = { .port = BB_UDP_PORT };
static struct bb_net *net;
static uint64_t extent[BB_CREATE_MAX], rng = 1, lost;
static uint32_t boot;
static struct samples samples;

static uint64_t page_ptr(unsigned int page)
{
	return extent[page / BB_EXTENT_PAGES] + page % BB_EXTENT_PAGES * PAGE;
}

/* --- by the daemon's client -------------------------------------------------- */

/* Until *n is at least want. */
static void wait_for(const uint64_t *n, uint64_t want)
{
	uint64_t begin = bb_now_ns();

	while (*n < want) {
		struct pollfd p = { .fd = bb_net_fd(net), .events = POLLIN };
		uint64_t now;

		if (bb_net_poll(net)) {
			bb_net_flush(net);
			begin = spin_us ? bb_now_ns() : 0;
			continue;
		}
		now = spin_us ? bb_now_ns() : 0;
		if (spin_us && now - begin < spin_us * 1000) {
			sched_yield();
		} else {
			const uint64_t next = bb_net_next(net);

			now = bb_now_ns();
			if (next > now)
				poll(&p, 1, next - now > 100000000 ? 100 : (int)((next - now) / 1000000) + 1);
		}
	}
}

static uint64_t ndone;

static void setup_done(struct bb_net_req *r)
{
	ndone++;
}

static void ask(struct bb_net_req *r, const char *what)
{
	r->done = setup_done;
	r->deadline = bb_now_ns() + SETUP_NS;
	ndone = 0;
	bb_net_submit(net, r);
	bb_net_flush(net);
	wait_for(&ndone, 1);
	if (r->status)
		fail("%s at host %u: status %u", what, to, r->status);
}

static void write_pages(unsigned int from, unsigned int n)
{
	static uint8_t data[BB_BATCH_PAGES_MAX][PAGE];
	struct bb_net_page pages[BB_BATCH_PAGES_MAX];
	struct bb_net_req w = {
		.cmd = BB_CMD_WRITE, .node = (uint16_t)to, .boot = boot, .npages = n, .pages = pages,
	};

	for (unsigned int i = 0; i < n; i++) {
		words_fill(data[i], WORDS, mix(page_ptr(from + i)));
		pages[i] = (struct bb_net_page){ page_ptr(from + i), data[i] };
	}
	ask(&w, "WRITE");
}

static void setup(void)
{
	const unsigned int want = (npages + BB_EXTENT_PAGES - 1) / BB_EXTENT_PAGES;

	while (nextents < want) {
		struct bb_net_req c = { .cmd = BB_CMD_CREATE, .node = (uint16_t)to, .len = want - nextents };

		ask(&c, "CREATE");
		memcpy(extent + nextents, c.ptrs, c.nptrs * sizeof(*extent));
		nextents += c.nptrs;
		boot = c.new_boot;
	}
	for (unsigned int i = 0; i < npages; i += BATCH)
		write_pages(i, npages - i < BATCH ? npages - i : BATCH);
}

static void cleanup(void)
{
	while (nextents) {
		struct bb_net_req d = {
			.cmd = BB_CMD_DELETE, .node = (uint16_t)to, .boot = boot, .ptr = extent[--nextents],
		};

		ask(&d, "DELETE");
	}
}

static void check(const void *data, unsigned int page)
{
	if (words_differ(data, WORDS, mix(page_ptr(page))) != WORDS)
		fail("page %u of host %u came with other bytes than were written", page, to);
}

struct slot {
	struct bb_net_req req;
	unsigned int page;
	uint64_t begin;
};

static uint64_t submitted, answered;
static struct samples pieces; /* of PIECE pages */

static void read_submit(struct slot *s);

static void read_done(struct bb_net_req *r)
{
	struct slot *s = r->user;
	const uint64_t now = bb_now_ns();

	if (r->status || !r->data)
		fail("READ at host %u: status %u", to, r->status);
	if (answered >= ops / 20) /* the first are warm-up */
		samples_add(&samples, now - s->begin);
	check(r->data, s->page);
	if (!(++answered % PIECE)) {
		static uint64_t last;

		if (last)
			samples_add(&pieces, now - last);
		last = now;
	}
	if (depth > 1 && submitted < ops)
		read_submit(s);
}

static void read_submit(struct slot *s)
{
	submitted++;
	s->page = (unsigned int)random_below(&rng, npages);
	s->begin = bb_now_ns();
	s->req = (struct bb_net_req){
		.cmd = BB_CMD_READ, .node = (uint16_t)to, .boot = boot,
		.ptr = page_ptr(s->page), .len = PAGE, .deadline = s->begin + SETUP_NS, .done = read_done, .user = s,
	};
	bb_net_submit(net, &s->req);
}

static void measure(void)
{
	static struct slot slot[DEPTH_MAX];

	if (depth > 1) {
		for (unsigned int i = 0; i < depth; i++)
			read_submit(&slot[i]);
		bb_net_flush(net);
		wait_for(&answered, ops);
		return;
	}
	while (answered < ops) {
		read_submit(&slot[0]);
		bb_net_flush(net);
		wait_for(&answered, answered + 1);
	}
}

/* --- the four operations ---------------------------------------------------------- */

/* The round trip of each, one at a time, ops times. */
static struct samples op_took[4];
static const char *const op_name[4] = { "create", "update", "read", "delete" };

static void one(unsigned int what, struct bb_net_req *r)
{
	const uint64_t begin = bb_now_ns();

	ask(r, op_name[what]);
	samples_add(&op_took[what], bb_now_ns() - begin);
}

static void read_checked(struct bb_net_req *r)
{
	if (!r->status && r->data)
		check(r->data, (unsigned int)(uintptr_t)r->user);
	ndone += !r->status && r->data;
}

static void measure_table(void)
{
	static uint8_t data[PAGE];

	for (unsigned int i = 0; i < 4; i++)
		samples_init(&op_took[i], ops);
	for (uint64_t i = 0; i < ops; i++) {
		const unsigned int page = (unsigned int)random_below(&rng, npages);
		const struct bb_net_page w = { page_ptr(page), data };
		struct bb_net_req create = { .cmd = BB_CMD_CREATE, .node = (uint16_t)to, .len = 1 };
		struct bb_net_req update = { .cmd = BB_CMD_WRITE, .node = (uint16_t)to, .boot = boot, .npages = 1, .pages = &w };
		struct bb_net_req reads = {
			.cmd = BB_CMD_READ, .node = (uint16_t)to, .boot = boot, .ptr = w.ptr, .len = PAGE,
			.deadline = bb_now_ns() + SETUP_NS, .done = read_checked, .user = (void *)(uintptr_t)page,
		};
		struct bb_net_req delete = { .cmd = BB_CMD_DELETE, .node = (uint16_t)to, .boot = boot };
		uint64_t begin;

		one(0, &create);
		delete.ptr = create.ptrs[0];
		words_fill(data, WORDS, mix(w.ptr));
		one(1, &update);
		ndone = 0;
		begin = bb_now_ns();
		bb_net_submit(net, &reads);
		bb_net_flush(net);
		wait_for(&ndone, 1);
		samples_add(&op_took[2], bb_now_ns() - begin);
		one(3, &delete);
	}
	for (unsigned int i = 0; i < 4; i++) {
		samples_print(op_name[i], &op_took[i]);
		printf(",");
	}
}

/* --- bare --------------------------------------------------------------------- */

struct request {
	struct bb_hdr h;
	struct sockaddr_in6 to;
	struct iovec iov;
	struct msghdr msg;
};

static int bare_socket(void)
{
	const struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
	const int on = 1, pmtu = IPV6_PMTUDISC_DO, bytes = 4 << 20;
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof(on)) ||
	    setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &pmtu, sizeof(pmtu)) ||
	    bind(fd, (const struct sockaddr *)&any, sizeof(any)))
		fail("socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	if (gro && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on)))
		fail("UDP_GRO: %s", strerror(errno));
	return fd;
}

/* An answer comes to another of our addresses than its request left from: bind() cannot say it. */
static _Alignas(struct cmsghdr) uint8_t source[CMSG_SPACE(sizeof(struct in6_pktinfo))];

static void bare_source(const struct in6_addr *self)
{
	const struct in6_pktinfo from = { .ipi6_addr = *self };
	struct cmsghdr *c = (struct cmsghdr *)source;

	c->cmsg_level = IPPROTO_IPV6;
	c->cmsg_type = IPV6_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(from));
	memcpy(CMSG_DATA(c), &from, sizeof(from));
}

static void bare_seal(struct request *r, const struct in6_addr *self, unsigned int page)
{
	const struct bb_gptr g = { .tenant = cfg.tenant, .node = (uint16_t)to, .cmd = BB_CMD_READ, .ptr = page_ptr(page) };
	const struct bb_msg m = {
		.version = BB_WIRE_VERSION, .flags = small ? BB_F_SMALL : 0, .nseg = 1, .length = PAGE, .boot = boot,
		.session = 0xba6e, .id = page + 1,
	};

	r->to = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htobe16(cfg.port) };
	bb_gptr_encode(&g, &r->to.sin6_addr);
	bb_wire_encode(&r->h, &m);
	bb_wire_seal(&cfg.key, self, &r->to.sin6_addr, BB_CMD_READ, &r->h, NULL, 0);
	r->iov = (struct iovec){ &r->h, sizeof(r->h) };
	r->msg = (struct msghdr){
		.msg_name = &r->to, .msg_namelen = sizeof(r->to), .msg_iov = &r->iov, .msg_iovlen = 1,
		.msg_control = source, .msg_controllen = sizeof(source),
	};
}

/* Return: bytes received, or 0 where the answer is lost. */
static size_t bare_receive(int fd, void *buf, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t begin = 0;

	for (;;) {
		ssize_t n = recv(fd, buf, size, MSG_DONTWAIT);
		uint64_t now;

		if (n > 0)
			return (size_t)n;
		if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNREFUSED)
			fail("receive: %s", strerror(errno));
		now = bb_now_ns();
		begin = begin ? begin : now;
		if (now - begin > LOST_NS)
			return 0;
		if (now - begin < spin_us * 1000)
			sched_yield();
		else
			poll(&p, 1, 100);
	}
}

/* Return: the page, whole, or NULL where an answer is lost. */
static const uint8_t *bare_read(int fd, const struct request *r)
{
	const unsigned int nseg = small ? BB_SEGS_SMALL : 1, part = PAGE / nseg;
	static uint8_t buf[65536], page[PAGE];
	unsigned int got = 0;

	if (sendmsg(fd, &r->msg, 0) < 0)
		fail("send: %s", strerror(errno));
	while (got != (1U << nseg) - 1) {
		size_t n = bare_receive(fd, buf, sizeof(buf));
		struct bb_hdr h;

		if (!n)
			return NULL;
		for (size_t at = 0; at + sizeof(h) + part <= n; at += sizeof(h) + part) {
			memcpy(&h, buf + at, sizeof(h));
			if (h.id != r->h.id || h.status || be16toh(h.nseg) != nseg || be16toh(h.seg) >= nseg)
				continue;
			got |= 1U << be16toh(h.seg);
			if (nseg == 1)
				return buf + sizeof(h);
			memcpy(page + be16toh(h.seg) * part, buf + at + sizeof(h), part);
		}
	}
	return page;
}

static void measure_bare(void)
{
	const struct bb_gptr g = { .tenant = cfg.tenant, .node = (uint16_t)own, .ptr = INDEX };
	struct in6_addr self;
	int fd;

	bb_gptr_encode(&g, &self);
	fd = bare_socket();
	bare_source(&self);
	for (uint64_t i = 0; i < ops; i++) {
		const unsigned int page = (unsigned int)random_below(&rng, npages);
		static struct request request;
		const uint8_t *data;
		uint64_t t, took;

		bare_seal(&request, &self, page);
		t = bb_now_ns();
		data = bare_read(fd, &request);
		took = bb_now_ns() - t;

		if (!data) {
			if (++lost > 10)
				fail("host %u stopped answering", to);
			continue;
		}
		if (i >= ops / 20)
			samples_add(&samples, took);
		check(data, page);
	}
	close(fd);
}

/* --- AF_XDP -------------------------------------------------------------------- */

static struct bb_sockets sockets;

/* Makes a socket as bbd's steer thread does, and reads until answers come by it. */
static void xdp_start(void)
{
	static char dir[200];
	const uint64_t end = bb_now_ns() + SETUP_NS;
	struct bb_net_stats st;
	char name[64];
	struct stat ns;

	if (stat("/proc/self/ns/net", &ns) || bb_steer_dir(name, sizeof(name), ns.st_ino, xdp))
		fail("--xdp %s: no such device", xdp);
	snprintf(dir, sizeof(dir), "%s/%s", BB_STEER_FS, name);
	bb_sockets_init(&sockets, xdp, dir);
	do {
		struct bb_net_req r = { .cmd = BB_CMD_READ, .node = (uint16_t)to, .boot = boot, .ptr = extent[0], .len = PAGE };

		ask(&r, "READ");
		bb_sockets_look(&sockets, true);
		usleep(1000);
		bb_net_stats(net, &st);
		if (bb_now_ns() > end)
			fail("no answer comes by AF_XDP at %s: are programs attached, and bbd there?", xdp);
	} while (!st.rx_xdp || !st.tx_xdp);
}

static void xdp_end(const struct bb_net_stats *was)
{
	struct bb_net_stats st;

	bb_net_stats(net, &st);
	if ((st.rx_xdp - was->rx_xdp) * 10 < (st.rx_packets - was->rx_packets) * 9)
		fail("only %lu of %lu answers came by AF_XDP", st.rx_xdp - was->rx_xdp, st.rx_packets - was->rx_packets);
}

/* --- start --------------------------------------------------------------------- */

static void options(int argc, char **argv)
{
	static const struct option table[] = {
		{ "key", 1, NULL, 'k' },   { "node", 1, NULL, 'n' }, { "to", 1, NULL, 't' },	{ "ops", 1, NULL, 'o' },
		{ "depth", 1, NULL, 'd' }, { "spin", 1, NULL, 's' }, { "bare", 0, NULL, 'b' },	{ "small", 0, NULL, 'm' },
		{ "gro", 0, NULL, 'g' },   { "pages", 1, NULL, 'p' }, { "xdp", 1, NULL, 'x' },
		{ "via", 1, NULL, 'v' },   { "table", 0, NULL, 'T' }, { 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 'k':
			key = optarg;
			break;
		case 'n':
			own = (unsigned int)arg_size("--node", optarg);
			break;
		case 't':
			to = (unsigned int)arg_size("--to", optarg);
			break;
		case 'o':
			ops = arg_size("--ops", optarg);
			break;
		case 'd':
			depth = (unsigned int)arg_size("--depth", optarg);
			break;
		case 's':
			spin_us = arg_size("--spin", optarg);
			break;
		case 'b':
			bare = true;
			break;
		case 'T':
			table_too = true;
			break;
		case 'p':
			npages = (unsigned int)arg_size("--pages", optarg);
			break;
		case 'x':
			xdp = optarg;
			break;
		case 'v':
			via = optarg;
			break;
		case 'm':
			small = true;
			break;
		case 'g':
			gro = true;
			break;
		default:
			exit(2);
		}
	}
	if (optind < argc || !key || !own || !to || own == to || !ops || !npages || npages > PAGES_MAX || !depth || depth > DEPTH_MAX || (bare && (depth > 1 || xdp)) ||
	    !xdp != !via)
		bad_option("an argument", "expected --key FILE --node N --to M, two hosts");
}

/* A host is known by its HELLO: one that it could have said. */
static void know(uint16_t node)
{
	struct bb_hello h = { .node = node, .port = BB_UDP_PORT, .boot = 1, .lent = 1 << 30, .free = 1 << 30, .name = "there" };
	struct bb_hdr hdr = { .version = BB_WIRE_VERSION, .nseg = htobe16(1), .length = htobe32(BB_HELLO_BYTES), .id = htobe64(1) };
	struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [14] = (uint8_t)(node >> 8), [15] = (uint8_t)node } };
	uint8_t b[BB_HELLO_BYTES];

	if (via && inet_pton(AF_INET6, via, &src) != 1)
		bad_option("--via", via);
	bb_hello_encode(&h, b);
	bb_peers_input(peers, &src, xdp ? if_nametoindex(xdp) : 1, BB_UDP_PORT, &hdr, b, sizeof(b));
}

int main(int argc, char **argv)
{
	struct bb_net_stats was = { 0 };
	int ret;

	options(argc, argv);
	if (xdp)
		bb_xsk_enable();
	bb_log_init("net_read", BB_LOG_ERROR);
	cfg.node = (uint16_t)own;
	ret = bb_key_load(&cfg.key, key);
	if (ret < 0)
		fail("key %s: %s", key, strerror(-ret));
	if (getrandom(&cfg.boot, sizeof(cfg.boot), 0) < 0 || bb_peers_new(&peers, &cfg) || bb_net_new(&net, peers, NULL, xdp ? XDP_INDEX : INDEX))
		fail("cannot start: %s", strerror(errno));
	know((uint16_t)to);
	samples_init(&samples, ops);
	samples_init(&pieces, ops);
	setup();
	if (xdp)
		xdp_start();
	bb_net_stats(net, &was);
	if (bare)
		measure_bare();
	else
		measure();
	if (xdp)
		xdp_end(&was);
	printf("{");
	if (table_too)
		measure_table();
	cleanup();
	samples_print("round_trip", &samples);
	printf(",");
	samples_print("piece", &pieces);
	if (pieces.n) /* the median one: where another program had the CPU says nothing */
		printf(",\"pages_per_s\":%.0f", PIECE * 1e9 / pieces.ns[(pieces.n - 1) / 2]);
	printf(",\"lost\":%lu,\"verified\":true}\n", lost);
	bb_net_free(net);
	if (xdp)
		bb_sockets_fini(&sockets);
	bb_peers_free(peers);
	return 0;
}
