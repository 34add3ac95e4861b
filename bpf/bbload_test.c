/* SPDX-License-Identifier: MIT */
/*
 * selftest: each program is loaded, with maps of its own, and run by the kernel
 * (BPF_PROG_TEST_RUN) on a handful of made-up packets. Nothing is attached.
 */
#include "bbload.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"

#define TCX_NEXT 0xffffffffu

struct packet {
	uint8_t b[2048];
	uint32_t len;
};

static const uint8_t our_mac[6] = { 2, 0xbb, 0, 0, 0, 7 }, their_mac[6] = { 2, 0xbb, 0, 0, 0, 9 };

/* --- packets -------------------------------------------------------------------- */

static void put(struct packet *p, const void *data, uint32_t len)
{
	memcpy(p->b + p->len, data, len);
	p->len += len;
}

static void put_zeros(struct packet *p, uint32_t len)
{
	memset(p->b + p->len, 0, len);
	p->len += len;
}

static void eth(struct packet *p, uint16_t proto)
{
	const uint16_t be = htobe16(proto);

	p->len = 0;
	put(p, our_mac, 6);
	put(p, their_mac, 6);
	put(p, &be, 2);
}

/* {scope, tenant 0, node, cmd 0, pointer 5000}. */
static struct in6_addr pointer(uint16_t node, uint8_t cmd)
{
	const struct bb_gptr g = { .node = node, .cmd = cmd, .ptr = 0x5000 };
	struct in6_addr a;

	bb_gptr_encode(&g, &a);
	return a;
}

static void ip6(struct packet *p, uint8_t next, uint16_t payload, uint8_t hops, const struct in6_addr *src, const struct in6_addr *dst)
{
	const uint8_t head[8] = { 0x60, 0, 0, 0, (uint8_t)(payload >> 8), (uint8_t)payload, next, hops };

	eth(p, ETH_P_IPV6);
	put(p, head, 8);
	put(p, src, 16);
	put(p, dst, 16);
}

/* The sum over the pseudo-header and what follows the IPv6 header: 0xffff where it is right. */
static uint32_t sum6(const struct packet *p, uint8_t next)
{
	const uint32_t n = p->len - 54;
	uint32_t s = n + next;

	for (uint32_t i = 22; i < p->len; i++)
		s += i & 1 ? p->b[i] : (uint32_t)p->b[i] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s;
}

static void solicitation(struct packet *p, const struct in6_addr *target)
{
	const struct in6_addr src = { .s6_addr = { 0xfe, 0x80, [15] = 9 } };
	struct in6_addr group = { .s6_addr = { 0xff, 2, [11] = 1, 0xff } };
	const uint8_t head[8] = { 135 }, option[2] = { 1, 1 };
	uint32_t sum;

	memcpy(group.s6_addr + 13, target->s6_addr + 13, 3);
	ip6(p, IPPROTO_ICMPV6, 32, 255, &src, &group);
	put(p, head, 8);
	put(p, target, 16);
	put(p, option, 2);
	put(p, their_mac, 6);
	sum = ~sum6(p, IPPROTO_ICMPV6) & 0xffff;
	p->b[56] = (uint8_t)(sum >> 8);
	p->b[57] = (uint8_t)sum;
}

enum { P_ARP, P_IPV4, P_SHORT, P_TCP6, P_HOPOPTS, P_FRAGMENT, P_OTHER_NS, P_MAX };
static const char *const packet_name[P_MAX] = { "ARP",		 "IPv4",	       "a cut IPv6 header",		 "TCP over IPv6",
						"hop-by-hop options", "a fragment", "a solicitation of another host" };

static void others(struct packet *p, int which)
{
	const struct in6_addr src = { .s6_addr = { 0xfd, 0, [15] = 9 } }, dst = { .s6_addr = { 0xfd, 0, [15] = 7 } };
	const struct in6_addr far = pointer(9, 0);
	static const uint8_t v4[] = { 0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 7 };

	switch (which) {
	case P_ARP:
		eth(p, ETH_P_ARP);
		put_zeros(p, 46);
		break;
	case P_IPV4:
		eth(p, ETH_P_IP);
		put(p, v4, sizeof(v4));
		put_zeros(p, 40);
		break;
	case P_SHORT:
		eth(p, ETH_P_IPV6);
		put(p, "\x60\0\0\0\0\0\x11", 7);
		break;
	case P_TCP6:
		ip6(p, IPPROTO_TCP, 20, 64, &src, &dst);
		put_zeros(p, 20);
		break;
	case P_HOPOPTS:
		ip6(p, 0, 16, 64, &src, &dst);
		put(p, "\x3a\0\1\4\0\0\0\0", 8);
		put_zeros(p, 8);
		break;
	case P_FRAGMENT:
		ip6(p, 44, 16, 64, &src, &dst);
		put(p, "\x11\0\0\1\0\0\0\1", 8);
		put_zeros(p, 8);
		break;
	case P_OTHER_NS:
		solicitation(p, &far);
		break;
	}
}

/* --- running ------------------------------------------------------------------------ */

static int run(int fd, struct packet *p, struct packet *out, uint32_t *ret)
{
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = p->b, .data_size_in = p->len, .data_out = out->b, .data_size_out = sizeof(out->b));

	if (bpf_prog_test_run_opts(fd, &o))
		return -errno;
	out->len = o.data_size_out;
	*ret = o.retval;
	return 0;
}

static bool say(bool ok, const char *prog, const char *what)
{
	printf("%s %s: %s\n", ok ? "ok" : "not ok", prog, what);
	return ok;
}

static bool passes_others(const char *prog, int fd, uint32_t pass)
{
	struct packet p, out;
	bool all = true;

	for (int i = 0; i < P_MAX; i++) {
		char what[80];
		uint32_t ret = 0;
		int err;

		/* tc's test run takes no packet that is shorter than its headers. */
		if (i == P_SHORT && pass == TCX_NEXT)
			continue;
		others(&p, i);
		err = run(fd, &p, &out, &ret);
		snprintf(what, sizeof(what), "lets pass %s, as it is%s%s", packet_name[i], err ? ": " : "", err ? strerror(-err) : "");
		all &= say(!err && ret == pass && out.len == p.len && !memcmp(out.b, p.b, p.len), prog, what);
	}
	return all;
}

static bool answers_solicitation(const struct bpf_object *obj, int fd)
{
	const struct bb_steer_cfg cfg = { .version = BB_STEER_VERSION, .flags = BB_SC_KNOWN, .node = 7, .port = BB_UDP_PORT };
	const int map = bpf_object__find_map_fd_by_name(obj, "bb_cfg");
	const struct place dev = { .ifindex = 1, .mtu = 9000, .mac = { 2, 0xbb, 0, 0, 0, 7 } };
	const struct in6_addr target = pointer(7, BB_CMD_READ);
	struct packet p, out = { .len = 0 };
	const uint32_t zero = 0;
	uint32_t ret = 0;

	solicitation(&p, &target);
	if (map < 0 || bpf_map_update_elem(map, &zero, &cfg, BPF_ANY) ||
	    map_dev_set(bpf_object__find_map_fd_by_name(obj, "bb_dev"), &dev) || run(fd, &p, &out, &ret))
		return say(false, "bb_host", "answers a solicitation of its own memory");
	return say(ret == XDP_TX && out.len >= 86 && out.b[54] == 136 && !memcmp(out.b + 62, &target, 16) && !memcmp(out.b, their_mac, 6) &&
			   !memcmp(out.b + 6, our_mac, 6) && !memcmp(out.b + 80, our_mac, 6) && sum6(&out, IPPROTO_ICMPV6) == 0xffff,
		   "bb_host", "answers a solicitation of its own memory");
}

static bool test_object(const struct object *o)
{
	struct bpf_object *obj;
	struct bpf_program *p;
	bool ok = true;

	if (object_load(o, NULL, true, &obj))
		return say(false, o->name, "is taken by the kernel");
	say(true, o->name, "is taken by the kernel");
	bpf_object__for_each_program(p, obj) {
		const enum hook hook = object_hook(o, p);

		if (hook == HOOK_NONE)
			continue;
		ok &= passes_others(bpf_program__name(p), bpf_program__fd(p), hook == HOOK_XDP ? XDP_PASS : TCX_NEXT);
		if (!strcmp(bpf_program__name(p), "bb_host"))
			ok &= answers_solicitation(obj, bpf_program__fd(p));
	}
	bpf_object__close(obj);
	return ok;
}

int bbload_selftest(struct bbload *b, int argc, char **argv)
{
	bool ok = true;

	if (place_need_rights())
		return BBLOAD_FAILED;
	for (unsigned int i = 0; i < nobjects; i++)
		ok &= test_object(&objects[i]);
	return ok ? BBLOAD_OK : BBLOAD_FAILED;
}
