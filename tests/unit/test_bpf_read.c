/* SPDX-License-Identifier: MIT */
/*
 * bb_read: every path and every reject by BPF_PROG_TEST_RUN, the answers held
 * against lib/wire.c and lib/tag.c, and a page that is being written.
 */
#include "bpf_read.h"

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

/* A whole sum that looks like the one that the kernel completes: the answer has a whole one all the same. */
static void test_sum_by_chance(void **state)
{
	unsigned int n = 0;

	for (uint64_t id = 1; id < 1000000 && n < 3; id++) {
		make(&in, ASK(.id = id));
		if (*(uint16_t *)(in.b + AT_UDP + 6) != fold(sum_of(&in, false)))
			continue;
		is_served(ASK(.id = id), 5);
		n++;
	}
	assert_int_equal(n, 3);
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

/* Return: pages that were torn of those that were answered. */
static unsigned int torn_of(struct bb_read *of, unsigned int *answered)
{
	const uint64_t end = bb_now_ns() + 20000000000ULL;
	unsigned int torn = 0, n = 0;
	const uint32_t zero = 0;
	pthread_t t;

	assert_int_equal(bpf_map__update_elem(of->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg), BPF_ANY), 0);
	make(&in, ASK());
	atomic_store(&stop, false);
	memset(slab_page(&slab, 5), 0, 4096);
	assert_int_equal(pthread_create(&t, NULL, writer, NULL), 0);
	for (unsigned int i = 0; i < 200000 && n < 20000 && (of == b || !torn) && bb_now_ns() < end; i++) {
		const uint64_t *w = (const uint64_t *)(out.b + AT_HDR + 40);
		uint64_t first, other = 0, v;

		if (run_of(of, &in) != REDIRECTED)
			continue;
		n++;
		memcpy(&first, w, 8);
		for (unsigned int k = 1; k < 512; k++) {
			memcpy(&v, w + k, 8);
			other |= v ^ first;
		}
		torn += !!other;
	}
	atomic_store(&stop, true);
	pthread_join(t, NULL);
	*answered = n;
	return torn;
}

static void test_torn(void **state)
{
	struct bb_read *careless = load(true);
	unsigned int n, torn;

	assert_non_null(careless);
	torn = torn_of(b, &n);
	print_message("%u answers beside a writer, %u torn\n", n, torn);
	assert_true(n > 20);
	assert_int_equal(torn, 0);
	/* The test sees it where nobody looks at the counts. */
	torn = torn_of(careless, &n);
	print_message("without the counts: %u answers, %u torn\n", n, torn);
	assert_true(torn > 0);
	bb_read__destroy(careless);
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
		cmocka_unit_test_setup(test_answers, set_up),	   cmocka_unit_test_setup(test_left_to_bbd, set_up),
		cmocka_unit_test_setup(test_sum_by_chance, set_up),
		cmocka_unit_test_setup(test_untouched, set_up),	   cmocka_unit_test_setup(test_tags, set_up),
		cmocka_unit_test_setup(test_adopted, set_up),	   cmocka_unit_test_setup(test_writers, set_up),
		cmocka_unit_test_setup(test_torn, set_up),	   cmocka_unit_test_setup(test_cost, set_up),
	};

	return cmocka_run_group_tests(tests, set_up_all, NULL);
}
