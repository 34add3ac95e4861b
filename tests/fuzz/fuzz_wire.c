/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes the decoder of packets and all of the server that lies behind a
 * packet: fuzz_wire [SECONDS [SEED]]. Packets are random bytes, or good ones
 * with a few bytes or fields changed; most carry a right tag, since what is
 * behind the tag is what a broken host of the cluster can reach. The home is a
 * real, small one. Every answer must itself be a good packet, at most as many
 * as the request may have, and the home's books must add up in the end.
 * Exit code 0: nothing found. Build it with SAN=-fsanitize=address,undefined.
 */
#include <netinet/in.h> /* the C library's IPv6 before the kernel's */

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "home/home.h"
#include "log.h"
#include "net/hello.h"
#include "net/peers.h"
#include "net/adopt.h"
#include "net/serve.h"
#include "wire.h"
#include "rnd.h"

#define OWN 2
#define ADOPTED 9 /* another home, of which extents are here */
#define BOOT 0xb007u
#define LEND (32u << 20)
#define KNOWN 64

static uint64_t packets, answers, refused[BB_ST_MAX];
static struct bb_key key;
static struct bb_serve serve;
static struct bb_adopt *adopt;
static struct bb_lz4 *lz4;
static uint64_t known[KNOWN]; /* pointers that the home has given out */
static uint8_t *exact;	      /* the packet, at the end of a block of its own size */
static uint64_t next_id = 1;

static int err = 2;
/* The sanitizers' own, where they are built in. */
void __sanitizer_set_report_fd(void *fd) __attribute__((weak));

/* What bbd would say of thousands of strange hosts is of no use here. */
static void silence(void)
{
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	err = dup(2);
	if (__sanitizer_set_report_fd)
		__sanitizer_set_report_fd((void *)(intptr_t)err);
	dup2(null, 2);
	close(null);
}

static void fail(const char *what)
{
	dprintf(err, "fuzz_wire: %s after %lu packets\n", what, packets);
	abort();
}

/* --- answers -------------------------------------------------------------- */

static int take(void *arg, const struct bb_serve_out *o)
{
	uint8_t whole[40 + BB_SEG_LARGE];
	uint64_t ptrs[BB_CREATE_MAX];
	struct bb_gptr src;
	struct bb_msg m;

	if (!o->nseg || o->nseg > BB_RUN_SEGS_MAX)
		fail("an answer of impossible length");
	if (!bb_gptr_decode(&o->src, &src) || !(src.cmd & BB_CMD_REPLY))
		fail("an answer from no pointer");
	for (unsigned int i = 0; i < o->nseg; i++) {
		const struct iovec *h = &o->iov[2 * i], *p = h + 1;

		if (h->iov_len != 40 || p->iov_len > BB_SEG_LARGE ||
		    (o->uneven ? h->iov_len + p->iov_len > o->size : h->iov_len + p->iov_len != o->size))
			fail("an answer of uneven segments");
		memcpy(whole, h->iov_base, 40);
		memcpy(whole + 40, p->iov_base, p->iov_len);
		if (bb_wire_decode(whole, 40 + p->iov_len, &m) != BB_ST_OK)
			fail("an answer that cannot be decoded");
		if (m.status == BB_ST_OK && bb_wire_reply(src.cmd & BB_CMD_MASK, &m) != BB_ST_OK)
			fail("an answer that cannot be");
		if (m.status >= BB_ST_MAX || m.boot != BOOT)
			fail("an answer with a wrong status or boot");
		if (!bb_wire_verify(&key, &o->src, &o->to.sin6_addr, src.cmd, whole, 40 + p->iov_len))
			fail("an answer with a wrong tag");
		refused[m.status]++;
		answers++;
	}
	if (!m.status && (src.cmd == (BB_CMD_CREATE | BB_CMD_REPLY) || src.cmd == (BB_CMD_ALLOC_WRITE | BB_CMD_REPLY))) {
		uint32_t n = bb_wire_create_ptrs(&m, ptrs, BB_CREATE_MAX);

		for (uint32_t i = 0; i < n; i++)
			known[rnd(KNOWN)] = ptrs[i];
	}
	return rnd(50) ? 0 : -(int)rnd(100) - 1;
}

/* --- packets ---------------------------------------------------------------- */

struct packet {
	struct bb_gptr src, dst;
	struct bb_msg m;
	size_t paylen;
	uint8_t payload[BB_SEG_LARGE + 64];
};

static const uint8_t commands[] = { BB_CMD_CREATE, BB_CMD_ALLOC_WRITE, BB_CMD_READ, BB_CMD_READ_RUN, BB_CMD_WRITE,
				    BB_CMD_WRITE, BB_CMD_WRITE, BB_CMD_WRITE, BB_CMD_DELETE,
				    BB_CMD_UPDATE, BB_CMD_UPDATE };

#define PAST 64
static struct packet past[PAST];

/* One that came before: the same, its next segment, or the question what has arrived. */
static void again(struct packet *p)
{
	*p = past[rnd(PAST)];
	if (!p->m.version || p->m.nseg == 1)
		return;
	switch (rnd(4)) {
	case 0:
		break;
	case 1:
		if (p->dst.cmd != BB_CMD_WRITE)
			break;
		p->m.flags = BB_F_PROBE; /* not LZ4: it has no data */
		p->m.seg = 0;
		p->m.length = 0;
		p->paylen = 0;
		break;
	default:
		p->m.seg = (uint16_t)rnd(p->m.nseg);
		if (bb_wire_plain(&p->m) == BB_SEG_SMALL)
			p->dst.ptr = (p->dst.ptr & ~BB_PAGE_MASK) + p->m.seg % 4 * BB_SEG_SMALL;
	}
}

static void good(struct packet *p)
{
	const bool small = rnd(2);
	const uint32_t seg = small ? BB_SEG_SMALL : BB_SEG_LARGE;
	struct bb_wire_update update;

	memset(p, 0, offsetof(struct packet, payload));
	p->src = (struct bb_gptr){ .node = (uint16_t)(1 + rnd(3)), .ptr = rnd(4) };
	p->dst = (struct bb_gptr){ .node = OWN, .cmd = commands[rnd(sizeof(commands))] };
	p->m = (struct bb_msg){ .version = 1, .nseg = 1, .boot = BOOT, .session = (uint32_t)rnd(3) };
	p->m.id = ++next_id;
	if (!rnd(50))
		p->m.id -= rnd(p->m.id < 1500 ? p->m.id : 1500);
	p->m.floor = (uint32_t)(p->m.id - (p->m.id < 512 ? p->m.id - 1 : rnd(30) ? 511 : rnd(512)));
	p->paylen = 0;
	if (bb_wire_tracked(p->dst.cmd) ? p->dst.cmd == BB_CMD_WRITE || p->dst.cmd == BB_CMD_DELETE || p->dst.cmd == BB_CMD_UPDATE : true)
		p->dst.ptr = known[rnd(KNOWN)] + (p->dst.cmd == BB_CMD_DELETE || p->dst.cmd == BB_CMD_UPDATE ? 0 : rnd(512) * 4096);
	/* Some of what is asked for came from another home. */
	if (p->dst.cmd != BB_CMD_UPDATE && !rnd(4))
		p->dst.node = ADOPTED;
	switch (p->dst.cmd) {
	case BB_CMD_UPDATE:
		update = (struct bb_wire_update){ .op = (uint32_t)(rnd(30) ? 1 + rnd(4) : rnd(0)), .token = (uint32_t)rnd(2) };
		bb_wire_update_request(&update, p->payload);
		p->paylen = BB_UPDATE_BYTES;
		break;
	case BB_CMD_CREATE:
		p->paylen = bb_wire_create_request((uint32_t)(1 + rnd(rnd(20) ? 3 : 64)), p->payload);
		break;
	case BB_CMD_READ:
	case BB_CMD_READ_RUN:
		p->m.length = (uint32_t)((p->dst.cmd == BB_CMD_READ ? 1 : 1 + rnd(15)) * 4096);
		p->m.flags = (uint8_t)((small ? BB_F_SMALL : 0) | (rnd(2) ? BB_F_LZ4 : 0));
		return;
	case BB_CMD_ALLOC_WRITE:
	case BB_CMD_WRITE:
		p->m.nseg = (uint16_t)((p->dst.cmd == BB_CMD_WRITE ? 1 + rnd(rnd(2) ? 2 : 64) : 1) * (small ? 4 : 1));
		if (p->dst.cmd == BB_CMD_WRITE && !rnd(5)) {
			p->m.flags = BB_F_PROBE;
			break;
		}
		p->m.seg = (uint16_t)rnd(p->m.nseg);
		p->dst.ptr += small ? p->m.seg % 4 * seg : 0;
		p->paylen = seg;
		p->payload[rnd(seg)] = (uint8_t)rnd(256);
		/* Some are compressed, some only say so. */
		if (p->dst.cmd == BB_CMD_WRITE && !rnd(3)) {
			uint8_t page[BB_SEG_LARGE] = { [7] = (uint8_t)rnd(256), [900] = (uint8_t)rnd(256) };
			uint32_t n = rnd(4) ? bb_lz4_pack(lz4, page, seg, p->payload) : 1 + (uint32_t)rnd(BB_LZ4_MAX(seg));

			p->m.flags = (uint8_t)(BB_F_LZ4 | (small ? BB_F_SMALL : 0));
			p->paylen = n;
		}
		break;
	default:
		break;
	}
	p->m.length = (uint32_t)p->paylen;
}

static void change(struct packet *p)
{
	switch (rnd(16)) {
	case 0: p->m.version = (uint8_t)rnd(256); break;
	case 1: p->m.flags = (uint8_t)rnd(256); break;
	case 2: p->m.status = (uint8_t)rnd(20); break;
	case 3: p->m.seg = (uint16_t)rnd(rnd(2) ? 300 : 65536); break;
	case 4: p->m.nseg = (uint16_t)rnd(rnd(2) ? 300 : 65536); break;
	case 5: p->m.length = (uint32_t)rnd(rnd(2) ? 70000 : 0); break;
	case 6: p->m.boot = (uint32_t)rnd(3); break;
	case 7: p->m.session = (uint32_t)rnd(rnd(50) ? 10 : 1000); break;
	case 8: p->m.floor = (uint32_t)rnd(0); break;
	case 9: p->m.id = rnd(rnd(2) ? 5000 : 0); break;
	case 10: p->paylen = rnd(sizeof(p->payload)); break;
	case 11: p->dst.ptr = rnd(rnd(2) ? LEND : 0); break;
	case 12: p->dst.cmd = (uint8_t)rnd(256); break;
	case 13: p->dst.node = (uint16_t)rnd(4); break;
	case 14: p->dst.tenant = (uint16_t)rnd(2); break;
	default: p->src.node = (uint16_t)(rnd(2) ? rnd(3) : 65535 - rnd(2)); break;
	}
}

static void send_packet(const struct in6_addr *src, const struct in6_addr *dst, const uint8_t *data, size_t len)
{
	struct bb_sock_packet p = { .len = len, .to = *dst, .ifindex = 1 };
	struct bb_msg m;

	/* A block of exactly this size: reading beyond it is seen. */
	exact = malloc(len ? len : 1);
	if (!exact)
		fail("no memory");
	memcpy(exact, data, len);
	p.data = exact;
	p.from = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htobe16((uint16_t)rnd(65536)), .sin6_addr = *src };
	if (bb_wire_decode(exact, len, &m) != BB_ST_OK && len < 40 && m.payload)
		fail("a payload of a packet that has none");
	for (uint8_t cmd = 0; cmd < 16; cmd++) {
		static struct bb_wire_seen seen[BB_UPDATE_SESSIONS_MAX];
		uint64_t ptrs[BB_CREATE_MAX], got[4];
		struct bb_wire_owner owner;

		bb_wire_reply(cmd, &m);
		bb_wire_create_ptrs(&m, ptrs, BB_CREATE_MAX);
		bb_wire_state_decode(&m, (uint16_t)rnd(300), got);
		bb_wire_failed_page(&m);
		bb_wire_owner_decode(m.payload, m.paylen, &owner);
		if (bb_wire_seen_decode(m.payload, m.paylen, seen) > BB_UPDATE_SESSIONS_MAX)
			fail("more sessions than there can be");
	}
	bb_serve_packet(&serve, &p);
	packets++;
	free(exact);
}

static void one_structured(void)
{
	static struct packet p;
	uint8_t data[40 + sizeof(p.payload)];
	struct in6_addr src, dst;
	struct bb_hdr h;

	if (rnd(2)) {
		again(&p);
	} else {
		good(&p);
		past[rnd(PAST)] = p;
	}
	for (uint64_t n = rnd(3) ? 0 : 1 + rnd(3); n; n--)
		change(&p);
	bb_gptr_encode(&p.src, &src);
	bb_gptr_encode(&p.dst, &dst);
	bb_wire_encode(&h, &p.m);
	if (!rnd(100))
		h.reserved = 1;
	bb_wire_seal(&key, &src, &dst, p.dst.cmd, &h, p.payload, p.paylen);
	memcpy(data, &h, 40);
	memcpy(data + 40, p.payload, p.paylen);
	if (!rnd(20))
		data[rnd(40 + p.paylen)] ^= (uint8_t)(1 << rnd(8));
	send_packet(&src, &dst, data, rnd(50) ? 40 + p.paylen : rnd(40 + p.paylen + 1));
}

static void one_random(void)
{
	uint8_t data[6000];
	struct in6_addr src, dst;
	size_t len = rnd(rnd(2) ? 64 : sizeof(data));

	for (size_t i = 0; i < len; i += 8) {
		uint64_t v = rnd(0);

		memcpy(data + i, &v, len - i < 8 ? len - i : 8);
	}
	for (int i = 0; i < 16; i++) {
		src.s6_addr[i] = (uint8_t)rnd(256);
		dst.s6_addr[i] = (uint8_t)rnd(256);
	}
	if (rnd(2))
		src.s6_addr[0] = dst.s6_addr[0] = 0xfd, src.s6_addr[1] = dst.s6_addr[1] = 0xbb;
	if (len && rnd(2))
		data[0] = 1;
	send_packet(&src, &dst, data, len);
}

static void one_hello(void)
{
	struct bb_hello h = { .node = (uint16_t)(3 + rnd(4)), .port = 1, .boot = 1 + (uint32_t)rnd(2), .lent = 10, .free = 5 };
	struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [15] = (uint8_t)rnd(4) } };
	struct in6_addr dst = { .s6_addr = { 0xff, 0x12, [15] = 0xbb } };
	struct bb_msg m = { .version = 1, .nseg = 1, .length = BB_HELLO_BYTES, .id = next_id };
	uint8_t data[40 + BB_HELLO_BYTES];
	struct bb_hdr hdr;

	bb_hello_encode(&h, data + 40);
	if (rnd(2))
		data[40 + rnd(BB_HELLO_BYTES)] ^= (uint8_t)(1 << rnd(8));
	bb_wire_encode(&hdr, &m);
	bb_wire_seal(&key, &src, &dst, BB_CMD_HELLO, &hdr, data + 40, BB_HELLO_BYTES);
	memcpy(data, &hdr, 40);
	if (!rnd(10))
		data[rnd(sizeof(data))] ^= (uint8_t)(1 << rnd(8));
	send_packet(&src, &dst, data, rnd(10) ? sizeof(data) : rnd(sizeof(data)));
}

static bool may_move(void *arg, uint16_t to)
{
	return rnd(20);
}

/* Extents of another home, in all states. */
static void adopt_some(struct bb_home *home)
{
	struct bb_home_who who = { .node = (uint16_t)(1 + rnd(3)) };
	struct bb_adopt_entry e = { .ptr = known[rnd(KNOWN)], .boot = BOOT, .node = ADOPTED, .owner = who.node,
				    .state = (uint32_t)(1 + rnd(4)) };

	e.ptr &= ~(BB_EXTENT_SIZE - 1);
	if (bb_adopt_find(adopt, ADOPTED, e.ptr, &e)) {
		bb_home_drop(home, e.local);
		bb_adopt_remove(adopt, ADOPTED, e.ptr);
	} else if (bb_home_create(home, who, BB_HOME_ADOPTED, &e.local) == BB_ST_OK && bb_adopt_add(adopt, &e)) {
		bb_home_drop(home, e.local);
	}
}

int main(int argc, char **argv)
{
	const uint64_t seconds = argc > 1 ? strtoull(argv[1], NULL, 10) : 10;
	const struct bb_home_config hc = { .lend = LEND };
	struct bb_peers_config pc = { .node = OWN, .port = 1, .boot = BOOT, .compress = BB_COMPRESS_ON };
	struct bb_home_stats hs;
	struct bb_peers *peers;
	struct bb_home *home;
	uint64_t end;

	rng = argc > 2 ? strtoull(argv[2], NULL, 0) : bb_now_ns();
	printf("fuzz_wire: %lu s, seed %lu\n", seconds, rng);
	fflush(stdout);
	bb_log_init("fuzz_wire", BB_LOG_ERROR);
	silence();
	lz4 = bb_lz4_new();
	memset(pc.key.raw, 1, sizeof(pc.key.raw));
	if (!lz4 || bb_key_derive(&pc.key) || bb_home_new(&home, &hc) || bb_peers_new(&peers, &pc) ||
	    bb_serve_init(&serve, peers, home, NULL) || bb_adopt_new(&adopt, home, NULL)) {
		dprintf(err, "fuzz_wire: cannot start\n");
		return 2;
	}
	key = pc.key;
	serve.send = take;
	serve.adopt = adopt;
	serve.may_move = may_move;
	end = bb_now_ns() + seconds * 1000000000ULL;
	do {
		for (int i = 0; i < 256; i++) {
			uint64_t what = rnd(100);

			if (what < 80)
				one_structured();
			else if (what < 95)
				one_random();
			else
				one_hello();
		}
		adopt_some(home);
		/* Pointers get lost here: make room again. */
		if (!rnd(20))
			for (uint16_t node = 1; node < 4; node++)
				bb_home_reclaim(home, (struct bb_home_who){ .node = node });
	} while (bb_now_ns() < end);
	bb_home_stats(home, &hs);
	if (hs.used > hs.lent || hs.extents << BB_EXTENT_SHIFT != hs.used)
		fail("the home's books do not add up");
	if (hs.extents + hs.deletes != hs.creates)
		fail("extents were made and not deleted, and are not there");
	printf("fuzz_wire: %lu packets, %lu answers, of these by status", packets, answers);
	for (int i = 0; i < BB_ST_MAX; i++)
		printf(" %lu", refused[i]);
	printf("; %u sessions; nothing found\n", bb_sessions_count(serve.sessions));
	bb_lz4_free(lz4);
	bb_adopt_free(adopt);
	bb_serve_fini(&serve);
	bb_peers_free(peers);
	bb_home_free(home);
	return 0;
}
