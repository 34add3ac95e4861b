/* SPDX-License-Identifier: MIT */
/*
 * bb_read: every path and every reject by BPF_PROG_TEST_RUN, the answers held
 * against lib/wire.c and lib/tag.c, and a page that is being written.
 */
#include "bpf_read.h"

#include "bpf_foreign.h"

static struct frame in, out;

static int run_of(struct bb_read *of, const struct frame *f)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->b, .data_size_in = f->len, .data_out = out.b, .data_size_out = sizeof(out.b));

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(of->progs.bb_read), &o), 0);
	out.len = o.data_size_out;
	return (int)o.retval;
}

static int run(const struct frame *f)
{
	return run_of(b, f);
}

/* It goes up, to the byte as it came, counted or not. */
static void goes_up(const struct frame *f, unsigned int counted)
{
	const uint64_t up = count(BB_CNT_UP), served = count(BB_CNT_SERVED);

	assert_int_equal(run(f), PASS);
	assert_int_equal(out.len, f->len);
	assert_memory_equal(out.b, f->b, f->len);
	assert_int_equal(count(BB_CNT_UP) - up, counted);
	assert_int_equal(count(BB_CNT_SERVED), served);
}

static void asked_goes_up(const struct ask *a)
{
	make(&in, a);
	goes_up(&in, 1);
}

/* out is an answer to in, as lib/wire.c wants it, sum and all. */
static void check_answer(const struct ask *a, unsigned int page)
{
	const struct ipv6hdr *ip = (const struct ipv6hdr *)(out.b + AT_IP), *was = (const struct ipv6hdr *)(in.b + AT_IP);
	struct in6_addr src = was->daddr, dst = was->saddr;
	struct bb_msg m;

	assert_int_equal(out.len, AT_HDR + 40 + 4096);
	assert_memory_equal(out.b, in.b + 6, 6);
	assert_memory_equal(out.b + 6, in.b, 6);
	src.s6_addr[6] |= BB_CMD_REPLY;
	dst.s6_addr[6] = src.s6_addr[6];
	dst.s6_addr[7] = 0; /* the request's own stays */
	assert_memory_equal(&ip->saddr, &src, 16);
	assert_memory_equal(&ip->daddr, &dst, 16);
	assert_int_equal(ip->version, 6);
	assert_int_equal(ip->hop_limit, 64);
	assert_int_equal(be16toh(ip->payload_len), 8 + 40 + 4096);
	assert_memory_equal(out.b + AT_UDP, in.b + AT_UDP + 2, 2);
	assert_memory_equal(out.b + AT_UDP + 2, in.b + AT_UDP, 2);
	assert_int_equal(bb_wire_decode(out.b + AT_HDR, out.len - AT_HDR, &m), BB_ST_OK);
	assert_int_equal(bb_wire_reply(a->cmd, &m), BB_ST_OK);
	assert_true(bb_wire_verify(&key, &src, &dst, src.s6_addr[6], out.b + AT_HDR, out.len - AT_HDR));
	assert_int_equal(m.status, BB_ST_OK);
	assert_int_equal(m.boot, BOOT);
	assert_int_equal(m.session, 77);
	assert_int_equal(m.id, a->id);
	assert_int_equal(m.floor, 0);
	assert_memory_equal(m.payload, slab_page(&slab, page), 4096);
	if (a->partial) /* the kernel adds the rest */
		assert_int_equal(*(uint16_t *)(out.b + AT_UDP + 6), fold(sum_of(&out, false)));
	else
		assert_int_equal(fold(sum_of(&out, true)), 0xffff);
}

static void is_served(const struct ask *a, unsigned int page)
{
	const uint64_t served = count(BB_CNT_SERVED), segs = count(BB_CNT_SEGMENTS);

	make(&in, a);
	assert_int_equal(run(&in), REDIRECTED);
	check_answer(a, page);
	assert_int_equal(count(BB_CNT_SERVED), served + 1);
	assert_int_equal(count(BB_CNT_SEGMENTS), segs + 1);
}

/* --- tests --------------------------------------------------------------------- */

static void test_answers(void **state)
{
	is_served(ASK(), 5);
	is_served(ASK(.partial = true), 5);
	is_served(ASK(.arg = 3, .asker_arg = 9), 5);
	is_served(ASK(.cmd = BB_CMD_READ_RUN), 5);
	is_served(ASK(.ptr = bb_ptr(GEN, 511 << 12), .id = ~0ULL), 511);
	is_served(ASK(.ptr = bb_ptr(GEN, 512 << 12)), 512); /* another's, shared */
	is_served(ASK(.ptr = bb_ptr(GEN, (BB_SLAB_PAGES - 1) << 12)), BB_SLAB_PAGES - 1);
	/* Sums of all kinds of pages. */
	for (unsigned int i = 0; i < 64; i++) {
		page_fill(5, i * 12345678901ULL);
		is_served(ASK(.id = i + 1), 5);
	}
	memset(slab_page(&slab, 5), 0xff, 4096);
	is_served(ASK(), 5);
	memset(slab_page(&slab, 5), 0, 4096);
	is_served(ASK(), 5);
}

/* Of several segments the last is the packet itself; test_bpf_cable sees the others. */
static void last_segment(const struct ask *a, uint32_t len)
{
	const uint64_t served = count(BB_CNT_SERVED), segs = count(BB_CNT_SEGMENTS);
	const unsigned int nseg = a->length / len;
	struct in6_addr src, dst;
	struct bb_msg m;

	make(&in, a);
	assert_int_equal(run(&in), REDIRECTED);
	assert_int_equal(out.len, AT_HDR + 40 + len);
	memcpy(&src, out.b + AT_IP + 8, 16);
	memcpy(&dst, out.b + AT_IP + 24, 16);
	assert_int_equal(bb_wire_decode(out.b + AT_HDR, out.len - AT_HDR, &m), BB_ST_OK);
	assert_int_equal(bb_wire_reply(a->cmd, &m), BB_ST_OK);
	assert_true(bb_wire_verify(&key, &src, &dst, src.s6_addr[6], out.b + AT_HDR, out.len - AT_HDR));
	assert_int_equal(m.seg, nseg - 1);
	assert_int_equal(m.nseg, nseg);
	assert_int_equal(m.flags, len == BB_SEG_SMALL ? BB_F_SMALL : 0);
	assert_memory_equal(m.payload, slab_page(&slab, 0) + bb_ptr_offset(a->ptr) + a->length - len, len);
	assert_int_equal(fold(sum_of(&out, true)), 0xffff);
	assert_int_equal(count(BB_CNT_SERVED), served + 1);
	assert_int_equal(count(BB_CNT_SEGMENTS), segs + nseg);
}

static void test_segments(void **state)
{
	last_segment(ASK(.flags = BB_F_SMALL), BB_SEG_SMALL);
	for (unsigned int n = 2; n <= 15; n++) {
		last_segment(ASK(.cmd = BB_CMD_READ_RUN, .length = n * 4096, .ptr = bb_ptr(GEN, 0)), BB_SEG_LARGE);
		last_segment(ASK(.cmd = BB_CMD_READ_RUN, .length = n * 4096, .ptr = bb_ptr(GEN, 0), .flags = BB_F_SMALL), BB_SEG_SMALL);
	}
	/* Up to the end of an extent, and of the slab. */
	last_segment(ASK(.cmd = BB_CMD_READ_RUN, .length = 2 * 4096, .ptr = bb_ptr(GEN, 510 << 12)), BB_SEG_LARGE);
	last_segment(ASK(.cmd = BB_CMD_READ_RUN, .length = 15 * 4096, .ptr = bb_ptr(GEN, (BB_SLAB_PAGES - 15) << 12)), BB_SEG_LARGE);
	asked_goes_up(ASK(.cmd = BB_CMD_READ_RUN, .length = 15 * 4096, .ptr = bb_ptr(GEN, (BB_SLAB_PAGES - 14) << 12)));
}

/* What cannot be sent goes up as it came: bbd may have better luck. */
static void test_cannot_send(void **state)
{
	const uint64_t segs = count(BB_CNT_SEGMENTS);

	assert_int_equal(system("ip link set lo down"), 0);
	asked_goes_up(ASK(.flags = BB_F_SMALL));
	asked_goes_up(ASK(.cmd = BB_CMD_READ_RUN, .length = 3 * 4096, .ptr = bb_ptr(GEN, 0)));
	assert_int_equal(count(BB_CNT_SEGMENTS), segs);
	assert_int_equal(system("ip link set lo up && ip -6 route replace local fdbb:0:1::/48 dev lo"), 0);
	last_segment(ASK(.flags = BB_F_SMALL), BB_SEG_SMALL);
}

/* A second slab, of the last index that there can be, and none in between. */
static void test_slabs(void **state)
{
	const uint32_t last = BB_STEER_SLABS_MAX - 1;
	const uint64_t at = (uint64_t)last << BB_STEER_SLAB_SHIFT;

	asked_goes_up(ASK(.ptr = bb_ptr(GEN, at)));
	assert_int_equal(bpf_map__update_elem(b->maps.bb_slabs, &last, sizeof(last), &slab.fd, sizeof(slab.fd), BPF_ANY), 0);
	is_served(ASK(.ptr = bb_ptr(GEN, at)), 0);
	is_served(ASK(.ptr = bb_ptr(GEN, at + ((BB_SLAB_PAGES - 1ULL) << 12))), BB_SLAB_PAGES - 1);
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, at - 4096)));
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, at + (1ULL << BB_STEER_SLAB_SHIFT))));
	/* The words and counts that lie behind the pages are no pages. */
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, BB_SLAB_WORDS << 12)));
	assert_int_equal(bpf_map__delete_elem(b->maps.bb_slabs, &last, sizeof(last), 0), 0);
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, at)));
}

static void test_left_to_bbd(void **state)
{
	asked_goes_up(ASK(.version = 2));
	asked_goes_up(ASK(.flags = BB_F_PROBE));
	asked_goes_up(ASK(.status = 1));
	asked_goes_up(ASK(.seg = 1));
	asked_goes_up(ASK(.nseg = 2));
	asked_goes_up(ASK(.nseg = 0));
	asked_goes_up(ASK(.length = 0));
	asked_goes_up(ASK(.length = 4095));
	asked_goes_up(ASK(.length = 8192));
	asked_goes_up(ASK(.cmd = BB_CMD_READ_RUN, .length = 16 * 4096));
	asked_goes_up(ASK(.cmd = BB_CMD_READ_RUN, .length = 2 * 4096, .ptr = bb_ptr(GEN, 511 << 12)));
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, (5 << 12) + 8)));
	asked_goes_up(ASK(.tenant = 4));
	asked_goes_up(ASK(.asker_tenant = 4, .ptr = bb_ptr(GEN, 4ULL << 21)));
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, 4ULL << 21))); /* another tenant's */
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, 5ULL << 21))); /* not alive */
	asked_goes_up(ASK(.asker = 0));
	asked_goes_up(ASK(.asker = BB_NODE_ANY));
	asked_goes_up(ASK(.node = 3));
	asked_goes_up(ASK(.boot = BOOT + 1));
	asked_goes_up(ASK(.boot = 0));
	asked_goes_up(ASK(.ptr = bb_ptr(GEN + 1, 5 << 12)));
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, 1024 << 12)));	      /* another's */
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, 1536 << 12)));	      /* nobody's */
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, 1ULL << 26)));	      /* no such slab */
	asked_goes_up(ASK(.ptr = bb_ptr(GEN, BB_PTR_OFFSET_MASK - 4095))); /* nor can there be */
	make(&in, ASK());
	in.b[AT_HDR + 3] = 1; /* reserved */
	goes_up(&in, 1);
	make(&in, ASK());
	in.b[AT_UDP] = in.b[AT_UDP + 1] = 0;
	goes_up(&in, 1);
	make(&in, ASK());
	in.b[AT_UDP + 5]++;
	goes_up(&in, 1);
	make(&in, ASK());
	in.b[AT_IP + 5]++;
	goes_up(&in, 1);
	make(&in, ASK());
	in.b[AT_UDP + 3]++; /* another port */
	goes_up(&in, 1);
	make(&in, ASK());
	in.b[AT_IP + 8] = 0x20; /* asker is no pointer */
	goes_up(&in, 1);
}

static void foreign(const struct frame *f)
{
	goes_up(f, 0);
}

/* Not even counted: others' packets, and what is not READ. */
static void test_untouched(void **state)
{
	static const uint8_t others[] = { 0, BB_CMD_HELLO, BB_CMD_CREATE, BB_CMD_WRITE, BB_CMD_DELETE, 12, 127,
					  BB_CMD_READ | BB_CMD_REPLY };

	for (unsigned int i = 0; i < sizeof(others); i++) {
		make(&in, ASK(.cmd = others[i]));
		goes_up(&in, 0);
	}
	make(&in, ASK());
	for (unsigned int len = in.len - 1; len >= AT_UDP; len--) {
		struct frame f = in;

		f.len = len;
		goes_up(&f, 0);
	}
	for (unsigned int more = 1; more < 64; more += 7) {
		struct frame f = in;

		f.len += more;
		goes_up(&f, 0);
	}
	{
		static const struct { uint8_t at, is; } change[] = {
			{ 12, 0x08 }, { 13, 0x06 }, { 12, 0x81 },	 /* IPv4-like, ARP-like, VLAN */
			{ AT_IP, 0x45 },				 /* no version 6 */
			{ AT_IP + 6, 0 }, { AT_IP + 6, 44 }, { AT_IP + 6, 43 }, { AT_IP + 6, 6 }, { AT_IP + 6, 58 },
			{ AT_IP + 24, 0xfe },				 /* to no pointer */
		};

		for (unsigned int i = 0; i < sizeof(change) / sizeof(change[0]); i++) {
			make(&in, ASK());
			in.b[change[i].at] = change[i].is;
			goes_up(&in, 0);
		}
	}
	make(&in, ASK());
	foreign_frames(&in, 3000, foreign);
	/* Before bbd has said who it is, while it changes that, and where it does not want it. */
	make(&in, ASK());
	cfg.flags = BB_SC_KNOWN;
	configure();
	goes_up(&in, 0);
	cfg.flags = 0;
	configure();
	goes_up(&in, 0);
	cfg.flags = BB_SC_KNOWN | BB_SC_SERVE;
	cfg.serial = 1;
	configure();
	goes_up(&in, 0);
}

static void test_tags(void **state)
{
	const uint64_t was = count(BB_CNT_DROP_TAG);
	unsigned int n = 0;

	make(&in, ASK(.bad_tag = true));
	assert_int_equal(run(&in), DROPPED);
	/* Every bit that the tag covers and no check before it looks at. */
	for (unsigned int at = AT_HDR + 16; at < AT_HDR + 40; at++)
		for (unsigned int bit = 0; bit < 8; bit++, n++) {
			make(&in, ASK());
			in.b[at] ^= (uint8_t)(1 << bit);
			assert_int_equal(run(&in), DROPPED);
		}
	assert_int_equal(count(BB_CNT_DROP_TAG), was + 1 + n);
}

static void test_adopted(void **state)
{
	const struct bb_adopted_key k = { .node = 3, .extent = bb_ptr(99, 8ULL << 21) };
	const struct bb_adopted a = { .ptr = bb_ptr(GEN, 0), .boot = 0xabcd };
	struct bb_msg m;

	make(&in, ASK(.node = 3, .boot = 0xabcd, .ptr = bb_ptr(99, (8ULL << 21) + (6 << 12))));
	goes_up(&in, 1);
	assert_int_equal(bpf_map__update_elem(b->maps.bb_adopted, &k, sizeof(k), &a, sizeof(a), BPF_ANY), 0);
	assert_int_equal(run(&in), REDIRECTED);
	assert_int_equal(bb_wire_decode(out.b + AT_HDR, out.len - AT_HDR, &m), BB_ST_OK);
	assert_int_equal(m.boot, 0xabcd);
	assert_memory_equal(m.payload, slab_page(&slab, 6), 4096);
	/* From the old address. */
	assert_memory_equal(out.b + AT_IP + 8, in.b + AT_IP + 24, 6);
	assert_memory_equal(out.b + AT_IP + 16, in.b + AT_IP + 32, 8);
	asked_goes_up(ASK(.node = 3, .boot = BOOT, .ptr = bb_ptr(99, (8ULL << 21) + (6 << 12))));
	asked_goes_up(ASK(.node = 3, .boot = 0xabcd, .ptr = bb_ptr(98, (8ULL << 21) + (6 << 12))));
	assert_int_equal(bpf_map__delete_elem(b->maps.bb_adopted, &k, sizeof(k), 0), 0);
}

static void test_writers(void **state)
{
	const uint64_t torn = count(BB_CNT_TORN);

	*slab_seq(&slab, 5) += BB_SEQ_BEGIN;
	asked_goes_up(ASK());
	asked_goes_up(ASK(.partial = true));
	assert_int_equal(count(BB_CNT_TORN), torn + 2);
	is_served(ASK(.ptr = bb_ptr(GEN, 6 << 12)), 6);
	*slab_seq(&slab, 5) += BB_SEQ_END;
	is_served(ASK(), 5);
	/* One page of a run. */
	*slab_seq(&slab, 6) += BB_SEQ_BEGIN;
	asked_goes_up(ASK(.cmd = BB_CMD_READ_RUN, .length = 3 * 4096));
	*slab_seq(&slab, 6) += BB_SEQ_END;
}

/* The extent dies and is made again, under the next generation; all words of its page are that. Nobody counts. */
static void *undertaker(void *arg)
{
	uint64_t *w = (uint64_t *)slab_page(&slab, 5);

	for (uint16_t gen = GEN; !atomic_load(&stop); gen = (uint16_t)(gen + 1)) {
		atomic_store(slab_word(&slab, 0), 0);
		for (unsigned int i = 0; i < 512; i++)
			__atomic_store_n(&w[i], gen, __ATOMIC_RELAXED);
		atomic_store(slab_word(&slab, 0), bb_xw(gen, 0, ASKER, 0));
		/* Long enough to be asked for. */
		for (volatile unsigned int i = 0; i < gen * 37u % 8000; i++)
			;
	}
	return NULL;
}

/* The page is another's while bbd changes its configuration, and with it whose the slabs are. */
static void *heir(void *arg)
{
	struct bb_steer_cfg *c = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, *(int *)arg, 0);
	uint64_t *w = (uint64_t *)slab_page(&slab, 5);

	while (c != MAP_FAILED && !atomic_load(&stop)) {
		__atomic_store_n(&c->serial, c->serial | 1, __ATOMIC_SEQ_CST);
		for (unsigned int i = 0; i < 1024; i++)
			__atomic_store_n(&w[i & 511], i < 512, __ATOMIC_RELAXED);
		__atomic_store_n(&c->serial, c->serial + 1, __ATOMIC_SEQ_CST);
		for (volatile int i = 0; i < 300; i++)
			;
	}
	munmap(c, 4096);
	return NULL;
}

/* Return: pages that were torn, or another's, of those that were answered beside a thread that runs what. */
static unsigned int torn_of(struct bb_read *of, void *(*what)(void *), unsigned int *answered)
{
	const uint64_t end = bb_now_ns() + (of == b ? 5 : 20) * 1000000000ULL;
	unsigned int torn = 0, n = 0;
	const uint32_t zero = 0;
	cpu_set_t was, one;
	int cfg_fd = bpf_map__fd(of->maps.bb_cfg);
	pthread_t t;

	part(&was, &one);
	assert_int_equal(bpf_map__update_elem(of->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg), BPF_ANY), 0);
	make(&in, ASK());
	atomic_store(&stop, false);
	memset(slab_page(&slab, 5), 0, 4096);
	if (what == undertaker) /* until it has begun there is nothing to read */
		atomic_store(slab_word(&slab, 0), 0);
	assert_int_equal(pthread_create(&t, NULL, what, &cfg_fd), 0);
	assert_int_equal(pthread_setaffinity_np(t, sizeof(one), &one), 0); /* the second, where there is one */
	while ((of == b ? n < 20000 : !torn) && bb_now_ns() < end) {
		const uint64_t *w = (const uint64_t *)(out.b + AT_HDR + 40);
		uint64_t first, other = 0, v, right = 0;

		if (what == undertaker) {
			right = bb_xw_gen(atomic_load(slab_word(&slab, 0)));
			make(&in, ASK(.ptr = bb_ptr((uint16_t)right, 5 << 12)));
		}
		if (run_of(of, &in) != REDIRECTED)
			continue;
		n++;
		memcpy(&first, w, 8);
		for (unsigned int k = 1; k < 512; k++) {
			memcpy(&v, w + k, 8);
			other |= v ^ first;
		}
		torn += other || (what != writer && first != right);
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	assert_int_equal(sched_setaffinity(0, sizeof(was), &was), 0);
	*answered = n;
	return torn;
}

static void test_torn(void **state)
{
	/* The test sees it where either look is left out. */
	static const struct { uint32_t careless; const char *what; } without[] = {
		{ 3, "without both looks" }, { 1, "without the look before" }, { 2, "without the look after" },
	};
	unsigned int n, torn;

	torn = torn_of(b, writer, &n);
	print_message("%u answers beside a writer, %u torn\n", n, torn);
	assert_true(n > 20);
	assert_int_equal(torn, 0);
	for (unsigned int i = 0; i < 3; i++) {
		struct bb_read *careless;

		if (without[i].careless == 2 && sysconf(_SC_NPROCESSORS_ONLN) < 2)
			continue; /* nobody writes while one CPU copies */
		careless = load(without[i].careless);
		assert_non_null(careless);
		torn = torn_of(careless, writer, &n);
		print_message("%s: %u answers, %u torn\n", without[i].what, n, torn);
		assert_true(torn > 0);
		bb_read__destroy(careless);
	}
}

static void test_reused(void **state)
{
	void *(*const others[])(void *) = { undertaker, heir };
	struct bb_read *careless = load(2);
	unsigned int n, torn;

	assert_non_null(careless);
	for (unsigned int i = 0; i < 2; i++) {
		torn = torn_of(b, others[i], &n);
		print_message("%u answers while the page's extent came and went, %u of another's\n", n, torn);
		assert_true(n > 20);
		assert_int_equal(torn, 0);
		if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
			continue;
		torn = torn_of(careless, others[i], &n);
		print_message("without the look after: %u answers, %u of another's\n", n, torn);
		assert_true(torn > 0);
		*slab_word(&slab, 0) = bb_xw(GEN, 0, ASKER, 0);
	}
	bb_read__destroy(careless);
}

/* As bbd does when it comes and goes: the key is there, and is not. */
static void *turncoat(void *arg)
{
	struct bb_steer_cfg *c = arg;

	for (unsigned int n = 0; !atomic_load(&stop); n++) {
		const bool away = n & 1;

		__atomic_store_n(&c->serial, c->serial | 1, __ATOMIC_SEQ_CST);
		__atomic_store_n(&c->k0, away ? 0 : key.k0, __ATOMIC_RELAXED);
		__atomic_store_n(&c->k1, away ? 0 : key.k1, __ATOMIC_RELAXED);
		__atomic_store_n(&c->flags, away ? 0 : BB_SC_KNOWN | BB_SC_SERVE, __ATOMIC_RELEASE);
		__atomic_store_n(&c->serial, c->serial + 1, __ATOMIC_SEQ_CST);
		for (volatile int i = 0; i < 100; i++)
			;
	}
	return NULL;
}

/* Half a configuration is none: a good request is answered or goes up, whatever bbd does meanwhile. */
static void test_half_configured(void **state)
{
	const uint64_t end = bb_now_ns() + 5000000000ULL, dropped = count(BB_CNT_DROP_TAG);
	struct bb_steer_cfg *c = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(b->maps.bb_cfg), 0);
	unsigned int answered = 0, up = 0;
	cpu_set_t was, one;
	pthread_t t;

	assert_true(c != MAP_FAILED);
	part(&was, &one);
	atomic_store(&stop, false);
	assert_int_equal(pthread_create(&t, NULL, turncoat, c), 0);
	assert_int_equal(pthread_setaffinity_np(t, sizeof(one), &one), 0);
	make(&in, ASK());
	for (unsigned int i = 0; i < 300000 && bb_now_ns() < end; i++) {
		int ret = run(&in);

		if (ret == REDIRECTED) {
			answered++;
			check_answer(ASK(), 5);
		} else {
			up += ret == PASS;
		}
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	munmap(c, 4096);
	assert_int_equal(sched_setaffinity(0, sizeof(was), &was), 0);
	print_message("while bbd came and went: %u answered, %u left to it\n", answered, up);
	assert_int_equal(count(BB_CNT_DROP_TAG), dropped);
	assert_true(answered > 20 && up > 20);
}

/* What it costs others. */
static void test_cost(void **state)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = in.b, .data_size_in = 200, .repeat = 1000000);

	frame_make(&in, ptr_of(1, 0, 0), ptr_of(2, BB_CMD_WRITE, 0), 1, 98);
	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(b->progs.bb_read), &o), 0);
	print_message("a packet that is not READ: %u ns\n", o.duration);
	make(&in, ASK());
	o.data_size_in = in.len;
	o.repeat = 1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_segments, set_up),	   cmocka_unit_test_setup(test_cannot_send, set_up),
		cmocka_unit_test_setup(test_slabs, set_up),
		cmocka_unit_test_setup(test_answers, set_up),	   cmocka_unit_test_setup(test_left_to_bbd, set_up),
		cmocka_unit_test_setup(test_untouched, set_up),	   cmocka_unit_test_setup(test_tags, set_up),
		cmocka_unit_test_setup(test_adopted, set_up),	   cmocka_unit_test_setup(test_writers, set_up),
		cmocka_unit_test_setup(test_torn, set_up), cmocka_unit_test_setup(test_reused, set_up),	   cmocka_unit_test_setup(test_half_configured, set_up),
		cmocka_unit_test_setup(test_cost, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
