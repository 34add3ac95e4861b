/* SPDX-License-Identifier: MIT */
/* What the tests of bb_host share: a host whose program and maps are loaded, and runs of it. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"

#ifndef BB_TEST_BPF_HOST_H
#define BB_TEST_BPF_HOST_H

#include "bpf_foreign.h"

#include <errno.h>
#include <linux/icmpv6.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include <bluebridge/steer.h>

#include "bb_host.skel.h"
#include "tag.h"
#include "wire.h"

#define NODE 2
#define ASKER 1
#define THIRD 3
#define BOOT 0xb007u

static struct bb_host *b;
static struct bb_key key;
static struct frame in, out;
static struct bb_steer_cfg cfg;
static const uint8_t mac[6] = { 2, 0xbb, 0, 0, 0, 2 }, asker_mac[6] = { 2, 0xbb, 0, 0, 0, 1 };

/* --- the world -------------------------------------------------------------- */

static uint64_t count(uint32_t which)
{
	uint64_t v[256] = { 0 }, sum = 0;

	assert_int_equal(bpf_map_lookup_elem(bpf_map__fd(b->maps.bb_count), &which, v), 0);
	for (int i = 0; i < libbpf_num_possible_cpus(); i++)
		sum += v[i];
	return sum;
}

static uint64_t drops(void)
{
	uint64_t sum = 0;

	for (uint32_t i = BB_CNT_DROP_TAG; i < BB_CNT_MAX; i++)
		sum += count(i);
	return sum;
}

static void set(struct bpf_map *m, const void *k, size_t ks, const void *v, size_t vs)
{
	assert_int_equal(bpf_map__update_elem(m, k, ks, v, vs, BPF_ANY), 0);
}

static void configure(void)
{
	const uint32_t zero = 0;

	set(b->maps.bb_cfg, &zero, sizeof(zero), &cfg, sizeof(cfg));
}

static void policy(uint32_t cmd, struct bb_policy p)
{
	set(b->maps.bb_policy, &cmd, sizeof(cmd), &p, sizeof(p));
}

static struct bb_over_key over_key(uint16_t node, uint64_t ptr, uint32_t bits)
{
	struct bb_over_key k = { .prefixlen = 32 + bits, .node = htobe16(node) };

	ptr = htobe64(ptr);
	memcpy(k.ptr, &ptr, sizeof(ptr));
	return k;
}

static int set_up_all(void **state)
{
	const struct bb_dev dev = { .mac = { 2, 0xbb, 0, 0, 0, 2 }, .mtu = 9000, .ifindex = 1 };
	const uint32_t zero = 0;

	if (geteuid() || unshare(CLONE_NEWNET) || system("ip link set lo up")) {
		print_message("needs root: network namespaces and BPF; skipped\n");
		exit(77);
	}
	memset(key.raw, 0x5a, sizeof(key.raw));
	assert_int_equal(bb_key_derive(&key), 0);
	b = bb_host__open_and_load();
	assert_non_null(b);
	set(b->maps.bb_dev, &zero, sizeof(zero), &dev, sizeof(dev));
	return 0;
}

static int set_up(void **state)
{
	for (uint32_t c = 0; c < BB_POLICY_ENTRIES; c++)
		policy(c, (struct bb_policy){ 0 });
	cfg = (struct bb_steer_cfg){ .version = BB_STEER_VERSION, .flags = BB_SC_KNOWN | BB_SC_SERVE, .node = NODE,
				     .port = BB_UDP_PORT, .boot = BOOT, .k0 = key.k0, .k1 = key.k1 };
	configure();
	return 0;
}

static int run(const struct frame *f)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = f->b, .data_size_in = f->len, .data_out = out.b, .data_size_out = sizeof(out.b));

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(b->progs.bb_host), &o), 0);
	out.len = o.data_size_out;
	return (int)o.retval;
}

static void untouched(const struct frame *f)
{
	const uint64_t ndp = count(BB_CNT_NDP), nacked = count(BB_CNT_NACKED), dropped = drops();

	assert_int_equal(run(f), XDP_PASS);
	assert_int_equal(out.len, f->len);
	assert_memory_equal(out.b, f->b, f->len);
	assert_int_equal(count(BB_CNT_NDP), ndp);
	assert_int_equal(count(BB_CNT_NACKED), nacked);
	assert_int_equal(drops(), dropped);
}

static uint16_t fold(uint64_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* Of what follows IPv6, with its pseudo-header: 0xffff where the checksum is right. */
static uint16_t sum_of(const struct frame *f)
{
	uint64_t s = htobe16(f->b[AT_IP + 6]) + *(const uint16_t *)(f->b + AT_IP + 4);

	for (unsigned int i = AT_IP + 8; i < f->len; i += 2)
		s += (uint16_t)(f->b[i] | f->b[i + 1] << 8);
	return fold(s);
}

#endif
