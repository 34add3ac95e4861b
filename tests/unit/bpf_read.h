/* SPDX-License-Identifier: MIT */
/* What the tests of bb_read share: a home of one slab, requests to it, a writer. */
#pragma GCC diagnostic ignored "-Wunused-function"

#ifndef BB_TEST_BPF_READ_H
#define BB_TEST_BPF_READ_H

#include "bpf_frames.h"
#include "bpf_slab.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bpf/libbpf.h>
#include <cmocka.h>

#include "bb_read.skel.h"
#include "clock.h"
#include "net/sock.h"
#include "tag.h"
#include "wire.h"

#define NODE 2
#define ASKER 1
#define BOOT 0xb007u
#define GEN 7
#define TCX_INGRESS 46
#define PASS (-1)
#define DROPPED 2
#define REDIRECTED 7

static struct bb_read *b;
static struct slab slab;
static struct bb_key key;
static struct bb_steer_cfg cfg;

/* --- the world -------------------------------------------------------------- */

static uint64_t count(uint32_t which)
{
	uint64_t v[256] = { 0 }, sum = 0;

	assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(b->maps.bb_count), &which, v), 0);
	for (int i = 0; i < libbpf_num_possible_cpus(); i++)
		sum += v[i];
	return sum;
}

static void configure(void)
{
	const uint32_t zero = 0;

	assert_int_equal(bpf_map__update_elem(b->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg), BPF_ANY), 0);
}

/* Word n of a page whose content is a stream of its own. */
static void page_fill(unsigned int page, uint64_t seed)
{
	uint64_t *w = (uint64_t *)slab_page(&slab, page);

	for (unsigned int i = 0; i < 512; i++)
		w[i] = seed * 0x9e3779b97f4a7c15ULL + i;
}

static struct bb_read *load(uint32_t careless)
{
	struct bb_read *s = bb_read__open();
	const uint32_t zero = 0;

	if (!s)
		return NULL;
	s->rodata->bb_read_careless = careless;
	if (bb_read__load(s)) {
		bb_read__destroy(s);
		return NULL;
	}
	assert_int_equal(bpf_map__update_elem(s->maps.bb_slabs, &zero, sizeof(zero), &slab.fd, sizeof(slab.fd), BPF_ANY), 0);
	return s;
}

static int set_up_all(void **state)
{
	if (unshare(CLONE_NEWNET) || slab_make(&slab)) {
		print_message("needs root: network namespaces and BPF maps; skipped\n");
		exit(77);
	}
	assert_int_equal(system("ip link set lo up && ip -6 route add local fdbb:0:1::/48 dev lo"), 0);
	memset(key.raw, 0x5a, sizeof(key.raw));
	assert_int_equal(bb_key_derive(&key), 0);
	cfg = (struct bb_steer_cfg){ .version = BB_STEER_VERSION, .flags = BB_SC_KNOWN | BB_SC_SERVE, .node = NODE,
				     .port = BB_UDP_PORT, .boot = BOOT, .k0 = key.k0, .k1 = key.k1 };
	b = load(0);
	assert_non_null(b);
	return 0;
}

static int set_up(void **state)
{
	cfg.flags = BB_SC_KNOWN | BB_SC_SERVE;
	cfg.serial = 0;
	configure();
	memset(slab_page(&slab, BB_SLAB_WORDS), 0, BB_PAGE_SIZE);
	memset(slab_page(&slab, BB_SLAB_SEQS), 0, (BB_SLAB_ENTRIES - BB_SLAB_SEQS) * BB_PAGE_SIZE);
	*slab_word(&slab, 0) = bb_xw(GEN, 0, ASKER, 0);
	*slab_word(&slab, 1) = bb_xw(GEN, 0, 9, 1);
	*slab_word(&slab, 2) = bb_xw(GEN, 0, 9, 0);
	*slab_word(&slab, 4) = bb_xw(GEN, 4, ASKER, 0);
	*slab_word(&slab, 5) = bb_xw(GEN, 0, ASKER, 0) & ~BB_XW_LIVE;
	*slab_word(&slab, 31) = bb_xw(GEN, 0, ASKER, 0);
	page_fill(5, 55);
	page_fill(6, 66);
	return 0;
}

/* A request and what is different in this one. */
#pragma GCC diagnostic ignored "-Woverride-init"
#pragma GCC diagnostic ignored "-Woverride-init-side-effects"

/* --- requests ----------------------------------------------------------------- */

struct ask {
	uint8_t cmd, flags, version, status, arg, asker_arg;
	uint16_t seg, nseg, node, asker, tenant, asker_tenant;
	uint32_t length, boot;
	uint64_t ptr, id;
	bool bad_tag, partial;
};

#define ASK(...) (&(struct ask){ .cmd = BB_CMD_READ, .version = 1, .nseg = 1, .node = NODE, .asker = ASKER, .length = 4096, \
				 .boot = BOOT, .ptr = bb_ptr(GEN, 5 << 12), .id = 77, __VA_ARGS__ })

static uint16_t fold(uint64_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* The sum that UDP wants, from what is in the frame (its own field as it is). */
static uint64_t sum_of(const struct frame *f, bool payload)
{
	uint64_t s = htobe16(17) + *(const uint16_t *)(f->b + AT_UDP + 4);

	for (unsigned int i = AT_IP + 8; i < AT_UDP; i += 2)
		s += (uint16_t)(f->b[i] | f->b[i + 1] << 8);
	for (unsigned int i = AT_UDP; payload && i < f->len; i += 2)
		s += (uint16_t)(f->b[i] | f->b[i + 1] << 8);
	return s;
}

static void make(struct frame *f, const struct ask *a)
{
	struct bb_gptr src = { .tenant = a->tenant ^ a->asker_tenant, .node = a->asker, .arg = a->asker_arg, .ptr = 3 };
	struct bb_gptr dst = { .tenant = a->tenant, .node = a->node, .cmd = a->cmd, .arg = a->arg, .ptr = a->ptr };
	struct bb_hdr *h = (struct bb_hdr *)(f->b + AT_HDR);
	struct in6_addr s, d;
	uint16_t *check = (uint16_t *)(f->b + AT_UDP + 6);

	frame_make(f, src, dst, a->id, 0);
	h->version = a->version;
	h->flags = a->flags;
	h->status = a->status;
	h->seg = htobe16(a->seg);
	h->nseg = htobe16(a->nseg);
	h->length = htobe32(a->length);
	h->boot = htobe32(a->boot);
	bb_gptr_encode(&src, &s);
	bb_gptr_encode(&dst, &d);
	h->tag = htobe64(bb_tag(&key, &s, &d, h, 0));
	h->tag ^= a->bad_tag;
	*check = 0;
	*check = a->partial ? fold(sum_of(f, false)) : (uint16_t)~fold(sum_of(f, true));
}

/*
 * Only on two CPUs does one write while the other copies: this thread to the first
 * of those that it may have. one: the second, or the first where there is no other.
 */
static void part(cpu_set_t *was, cpu_set_t *one)
{
	assert_int_equal(sched_getaffinity(0, sizeof(*was), was), 0);
	for (int c = 0, k = 0; c < CPU_SETSIZE && k < 2; c++) {
		if (!CPU_ISSET(c, was))
			continue;
		CPU_ZERO(one);
		CPU_SET(c, one);
		if (!k++)
			assert_int_equal(sched_setaffinity(0, sizeof(*one), one), 0);
	}
}

/* --- a page that is being written ------------------------------------------------ */

static atomic_bool stop;

/* All words of a page are one number. Writes as bbd does; now and then its CPU is taken away in the middle. */
static void *writer(void *arg)
{
	uint64_t *w = (uint64_t *)slab_page(&slab, 5);
	_Atomic uint32_t *seq = slab_seq(&slab, 5);

	for (uint64_t v = 1; !atomic_load(&stop); v++) {
		atomic_fetch_add(seq, BB_SEQ_BEGIN);
		atomic_thread_fence(memory_order_seq_cst);
		for (unsigned int i = 0; i < 512; i++) {
			__atomic_store_n(&w[i], v, __ATOMIC_RELAXED);
			if (i == 255 && !(v & 255))
				usleep(50);
		}
		atomic_thread_fence(memory_order_seq_cst);
		atomic_fetch_add(seq, BB_SEQ_END);
		/* As often as not somebody finds it in peace. */
		for (volatile int i = 0; i < 300; i++)
			;
	}
	return NULL;
}

#endif
