/* SPDX-License-Identifier: MIT */
/*
 * Fuzzes the host's BPF programs: fuzz_bpf [SECONDS [SEED]]. Frames are random
 * bytes, or good requests and solicitations with a few bytes changed, cut or
 * lengthened; half of the requests carry a right tag for what they have become.
 * Whatever goes in:
 *  - what passes is to the byte what came;
 *  - what is sent is, by lib/wire.c and lib/tag.c, a good answer to a request
 *    whose tag was right, or a good advertisement;
 *  - what is dropped is a request without a payload whose tag is wrong.
 * Exit code 0: nothing found; 77: BPF is not permitted here.
 */
#include "../unit/bpf_frames.h"
#include "../unit/bpf_slab.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <bpf/libbpf.h>

#include "bb_host.skel.h"
#include "bb_read.skel.h"
#include "clock.h"
#include "tag.h"
#include "wire.h"
#include "rnd.h"

#define NODE 2
#define BOOT 0xb007u
#define GEN 7
#define REDIRECTED 7
#define DROPPED 2

static uint64_t frames, sent, segments, dropped;
static struct bb_key key;
static struct slab slab;
static struct frame in, out;

static _Noreturn void found(const char *what)
{
	fprintf(stderr, "fuzz_bpf: frame %lu: %s; in (%u bytes):", frames, what, in.len);
	for (unsigned int i = 0; i < in.len && i < 160; i++)
		fprintf(stderr, "%s%02x", i % 32 ? "" : "\n  ", in.b[i]);
	fprintf(stderr, "\nout (%u bytes):", out.len);
	for (unsigned int i = 0; i < out.len && i < 160; i++)
		fprintf(stderr, "%s%02x", i % 32 ? "" : "\n  ", out.b[i]);
	fprintf(stderr, "\n");
	exit(1);
}

static uint16_t sum_of(const struct frame *f)
{
	uint64_t s = htobe16(f->b[AT_IP + 6]) + *(const uint16_t *)(f->b + AT_IP + 4);

	for (unsigned int i = AT_IP + 8; i < f->len; i++)
		s += (uint64_t)f->b[i] << (i & 1 ? 8 : 0);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

static void sum(struct frame *f, unsigned int at)
{
	uint16_t check;

	if (f->len < at + 2)
		return;
	memset(f->b + at, 0, 2);
	check = (uint16_t)~sum_of(f);
	memcpy(f->b + at, &check, 2);
}

/* --- what goes in --------------------------------------------------------------- */

static void addresses(const struct frame *f, struct in6_addr *src, struct in6_addr *dst)
{
	memcpy(src, f->b + AT_IP + 8, 16);
	memcpy(dst, f->b + AT_IP + 24, 16);
}

static uint64_t tag_of(const struct frame *f)
{
	struct in6_addr src, dst;
	struct bb_hdr h;

	addresses(f, &src, &dst);
	memcpy(&h, f->b + AT_HDR, sizeof(h));
	return htobe64(bb_tag(&key, &src, &dst, &h, 0));
}

static void good_request(struct frame *f)
{
	static const uint8_t cmds[] = { BB_CMD_READ, BB_CMD_READ, BB_CMD_READ_RUN, BB_CMD_WRITE, BB_CMD_DELETE };
	const uint8_t cmd = rnd(4) ? cmds[rnd(5)] : (uint8_t)rnd(256);
	const uint64_t ptr = bb_ptr(rnd(8) ? GEN : (uint16_t)rnd(0), rnd(8) ? rnd(BB_SLAB_PAGES) << 12 : rnd(0));
	struct bb_hdr h;

	frame_make(f, ptr_of(rnd(8) ? 1 : (uint16_t)rnd(0), 0, rnd(16)), ptr_of(rnd(8) ? NODE : (uint16_t)rnd(8), cmd, ptr),
		   rnd(0), rnd(4) ? 0 : (unsigned int)rnd(1200));
	memcpy(&h, f->b + AT_HDR, sizeof(h));
	h.boot = htobe32(BOOT);
	if (cmd == BB_CMD_READ || cmd == BB_CMD_READ_RUN)
		h.length = htobe32((uint32_t)(cmd == BB_CMD_READ ? 1 : 1 + rnd(15)) << 12);
	h.flags = rnd(4) ? 0 : BB_F_SMALL;
	memcpy(f->b + AT_HDR, &h, sizeof(h));
}

static void good_solicitation(struct frame *f)
{
	static const uint8_t head[] = { 0x33, 0x33, 0xff, 0, 0, 1, 2, 0xbb, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255 };
	static const uint8_t option[] = { 1, 1, 2, 0xbb, 0, 0, 0, 1 };

	memset(f, 0, sizeof(*f));
	memcpy(f->b, head, sizeof(head));
	f->b[AT_IP + 8] = 0xfe;
	f->b[AT_IP + 9] = 0x80;
	f->b[AT_IP + 23] = 1;
	memcpy(f->b + AT_IP + 24, "\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\0\0\x01", 16);
	f->b[AT_UDP] = 135;
	memcpy(f->b + AT_UDP + 8, "\xfd\xbb\0\0\0\x02\0\0\0\0\0\0\0\0\0\x01", 16);
	memcpy(f->b + AT_UDP + 24, option, sizeof(option));
	f->len = AT_UDP + 32;
	sum(f, AT_UDP + 2);
}

static void make(struct frame *f)
{
	unsigned int kind = (unsigned int)rnd(16), n = rnd(3) ? (unsigned int)rnd(5) : 0;

	if (!kind) {
		f->len = 14 + (unsigned int)rnd(300);
		for (unsigned int i = 0; i < f->len; i++)
			f->b[i] = (uint8_t)rnd(256);
		/* The kernel's test run wants a whole header of what the frame says that it is. */
		if (f->len < AT_UDP)
			f->len = AT_UDP;
		return;
	}
	if (kind < 4)
		good_solicitation(f);
	else
		good_request(f);
	for (unsigned int i = 0; i < n; i++) {
		unsigned int at = (unsigned int)rnd(f->len);

		f->b[at] = rnd(2) ? (uint8_t)rnd(256) : f->b[at] ^ (uint8_t)(1 << rnd(8));
	}
	if (!rnd(12))
		f->len = AT_UDP + (unsigned int)rnd(f->len - AT_UDP);
	if (!rnd(12))
		f->len += (unsigned int)rnd(40);
	if (kind >= 4 && rnd(2) && f->len >= AT_HDR + 40) {
		uint64_t tag = tag_of(f);

		memcpy(f->b + AT_HDR + 32, &tag, 8);
	}
	if (rnd(2))
		sum(f, kind < 4 ? AT_UDP + 2 : AT_UDP + 6);
}

/* --- what comes out --------------------------------------------------------------- */

static void passes(void)
{
	if (out.len != in.len || memcmp(out.b, in.b, in.len))
		found("passed, but changed");
}

static void answers(void)
{
	struct in6_addr asked, asker, src, dst;
	struct bb_gptr g;
	struct bb_msg m;
	uint64_t tag = tag_of(&in);

	if (in.len != AT_HDR + 40 || memcmp(&tag, in.b + AT_HDR + 32, 8))
		found("answered, though the tag is wrong");
	addresses(&in, &asker, &asked);
	addresses(&out, &src, &dst);
	asked.s6_addr[6] |= BB_CMD_REPLY;
	asker.s6_addr[6] = asked.s6_addr[6];
	asker.s6_addr[7] = 0;
	if (memcmp(&src, &asked, 16) || memcmp(&dst, &asker, 16) || !bb_gptr_decode(&src, &g))
		found("answered from or to another address");
	if (bb_wire_decode(out.b + AT_HDR, out.len - AT_HDR, &m) != BB_ST_OK)
		found("an answer that cannot be read");
	if (m.status != BB_ST_COMMAND && bb_wire_reply(g.cmd & BB_CMD_MASK, &m) != BB_ST_OK)
		found("an answer that cannot be");
	if (!bb_wire_verify(&key, &src, &dst, g.cmd, out.b + AT_HDR, out.len - AT_HDR))
		found("an answer with a wrong tag");
	if (m.seg + 1 != m.nseg)
		found("the packet itself is not the last segment");
	if (m.status == BB_ST_OK && memcmp(m.payload, slab_page(&slab, 0) + bb_ptr_offset(g.ptr) + (size_t)m.seg * m.length, m.length))
		found("other bytes than the page's");
	segments += m.nseg > 1;
	if (be16toh(*(uint16_t *)(out.b + AT_IP + 4)) != out.len - AT_UDP)
		found("an answer of another length than it says");
}

static void drops(void)
{
	uint64_t tag = tag_of(&in);

	dropped++;
	if (in.len != AT_HDR + 40 || !memcmp(&tag, in.b + AT_HDR + 32, 8))
		found("dropped, though its tag is right or has a payload in it");
}

static void advertises(void)
{
	if (in.b[AT_IP + 6] != 58 || out.len != AT_UDP + 32 || out.b[AT_UDP] != 136 || out.b[AT_IP + 7] != 255 || sum_of(&out) != 0xffff ||
	    sum_of(&in) != 0xffff || memcmp(out.b + AT_UDP + 8, "\xfd\xbb\0\0\0\x02", 6))
		found("a bad advertisement, or one for a bad solicitation");
}

static int run(struct bpf_program *p)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in.b, .data_size_in = in.len, .data_out = out.b, .data_size_out = sizeof(out.b));
	int ret = bpf_prog_test_run_opts(bpf_program__fd(p), &o);

	if (ret == -EINVAL) /* too short for the kernel itself */
		return -2;
	if (ret)
		found("the program cannot be run");
	out.len = o.data_size_out;
	return (int)o.retval;
}

static void one(struct bb_host *h, struct bb_read *r)
{
	frames++;
	make(&in);
	switch (run(h->progs.bb_host)) {
	case XDP_PASS:
		passes();
		break;
	case XDP_TX:
		sent++;
		if (in.b[AT_IP + 6] == 58)
			advertises();
		else
			answers();
		break;
	case XDP_DROP:
		drops();
		break;
	case -2:
		break;
	default:
		found("bb_host: another verdict");
	}
	switch (run(r->progs.bb_read)) {
	case -1:
		passes();
		break;
	case REDIRECTED:
		sent++;
		answers();
		break;
	case DROPPED:
		drops();
		break;
	case -2:
		break;
	default:
		found("bb_read: another verdict");
	}
}

static int world(struct bb_host **h, struct bb_read **r)
{
	const struct bb_dev dev = { .mac = { 2, 0xbb, 0, 0, 0, 2 }, .mtu = 9000, .ifindex = 1 };
	struct bb_steer_cfg cfg = { .version = BB_STEER_VERSION, .flags = BB_SC_KNOWN | BB_SC_SERVE, .node = NODE,
				    .port = BB_UDP_PORT, .boot = BOOT };
	const uint32_t zero = 0;

	libbpf_set_print(NULL);
	if (slab_make(&slab))
		return -EPERM;
	*h = bb_host__open_and_load();
	*r = bb_read__open_and_load();
	if (!*h || !*r)
		return -EPERM;
	memset(key.raw, 0x5a, sizeof(key.raw));
	bb_key_derive(&key);
	cfg.k0 = key.k0;
	cfg.k1 = key.k1;
	for (unsigned int i = 0; i < BB_SLAB_EXTENTS; i += 2)
		*slab_word(&slab, i) = bb_xw(GEN, 0, 1, 0);
	for (unsigned int i = 0; i < BB_SLAB_PAGES; i += 7)
		memset(slab_page(&slab, i), (int)i, 4096);
	if (bpf_map__update_elem((*h)->maps.bb_cfg, &zero, 4, &cfg, sizeof(cfg), 0) ||
	    bpf_map__update_elem((*r)->maps.bb_cfg, &zero, 4, &cfg, sizeof(cfg), 0) ||
	    bpf_map__update_elem((*h)->maps.bb_dev, &zero, 4, &dev, sizeof(dev), 0) ||
	    bpf_map__update_elem((*r)->maps.bb_slabs, &zero, 4, &slab.fd, 4, 0))
		return -EIO;
	return 0;
}

int main(int argc, char **argv)
{
	const unsigned int seconds = argc > 1 ? (unsigned int)atoi(argv[1]) : 3;
	uint64_t end, seed = argc > 2 ? strtoull(argv[2], NULL, 0) : bb_now_ns();
	struct bb_host *h = NULL;
	struct bb_read *r = NULL;

	/* Clones go out by the loopback of a namespace where nobody has an address to take them. */
	if (geteuid() || unshare(CLONE_NEWNET) || system("ip link set lo up") || world(&h, &r)) {
		printf("BPF programs cannot be loaded here: skipped\n");
		return 77;
	}
	rng = seed;
	end = bb_now_ns() + seconds * 1000000000ULL;
	while (bb_now_ns() < end)
		one(h, r);
	printf("seed %lu: %lu frames, %lu answers, %lu of them of several segments, %lu dropped\n", seed, frames, sent, segments, dropped);
	bb_host__destroy(h);
	bb_read__destroy(r);
	return sent && segments && dropped ? 0 : 1;
}
