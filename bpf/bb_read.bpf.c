/* SPDX-License-Identifier: MIT */
/*
 * tc ingress at a host: READ and READ_RUN are answered from the slabs, and bbd
 * sleeps on.
 *
 * Theory of operation
 * -------------------
 * The request itself becomes the answer: it grows by the page, its addresses
 * change places, and it leaves by the interface that it came in by. All checks
 * of doc/protocol.md come before a byte of it is changed; where one fails the
 * packet goes up as it came, and bbd says what is wrong. Only a wrong tag is
 * dropped here, as bbd would.
 *
 * Torn pages: steer.h says how a page is read without a lock. In one segment it
 * is copied to the packet and summed up, and only then looked at again; where a
 * writer was there meanwhile the packet shrinks to what it was. In four, or
 * where several pages are asked for, each page is copied aside first: what has
 * been sent cannot be taken back. A page that is torn TRIES times is left to
 * bbd, with all of the request: the asker puts together what comes from both.
 *
 * Checksum: a request that comes from this machine (veth) has the sum of its
 * pseudo-header alone, and the kernel adds the rest where it must. Its answer is
 * made in the same way. A request with a whole sum gets one. A program cannot ask
 * which of both it is; where the field could be either, about one in 65,536, the
 * request is left to bbd: asked again it would be the same.
 */
#include "maps.h"
#include "packet.h"

#define NEXT (-1) /* TCX_NEXT, and TC_ACT_UNSPEC */
#define DROP 2
#define TRIES 4
#define HDRS BB_PACKET_BYTES
#define SUM_STEP 512 /* bytes that bpf_csum_diff() takes before Linux 6.13 */

/* For the test of the test. Bit 0: nobody looks for a writer before the copy; 1: nor after it. */
const volatile __u32 bb_read_careless;

struct page_copy {
	__u8 byte[BB_PAGE_SIZE];
};

/* A request that may be answered here. */
struct request {
	struct ethhdr eth; /* as it came */
	struct bb_packet p;
	__u64 k0, k1;
	__u64 offset;	    /* of the page, in what is lent here */
	__u16 gen, asker, tenant;
	__u8 partial;	    /* its checksum is that of the pseudo-header */
	__u8 small;
	__u32 pages;
	__u32 boot;
	__u32 serial;	    /* of the configuration that it was held against */
};

/* What the stack has no room for. */
struct scratch {
	struct request q;
	struct page_copy aside;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} bb_scratch SEC(".maps");

/* Where a page is, and what proves that it stays what it is. */
struct page {
	const __u8 *data;
	const volatile __u64 *word;
	const volatile __u32 *seq;
	const volatile __u32 *serial; /* slabs change only where this does */
	__u64 was;
	__u32 count, serial_was;
};

/* --- pages -------------------------------------------------------------------- */

/* Return: 0, or -1 where bbd has to look at it. */
static __always_inline int page_find(const struct request *q, __u64 offset, struct page *pg)
{
	const __u32 slab = (__u32)(offset >> BB_STEER_SLAB_SHIFT);
	const __u32 n = (__u32)(offset >> BB_PAGE_SHIFT) & (BB_SLAB_PAGES - 1);
	const __u32 words = BB_SLAB_WORDS, seqs = BB_SLAB_SEQS + n / BB_SEQS_A_PAGE, zero = 0;
	const struct bb_steer_cfg *cfg = bpf_map_lookup_elem(&bb_cfg, &zero);
	void *map, *v;

	if (!cfg || offset >> BB_STEER_SLAB_SHIFT >= BB_STEER_SLABS_MAX)
		return -1;
	pg->serial = &cfg->serial;
	pg->serial_was = q->serial;
	map = bpf_map_lookup_elem(&bb_slabs, &slab);
	if (!map)
		return -1;
	v = bpf_map_lookup_elem(map, &words);
	if (!v)
		return -1;
	pg->word = (__u64 *)v + (n >> (BB_EXTENT_SHIFT - BB_PAGE_SHIFT) & (BB_SLAB_EXTENTS - 1));
	v = bpf_map_lookup_elem(map, &seqs);
	if (!v)
		return -1;
	pg->seq = (__u32 *)v + (n & (BB_SEQS_A_PAGE - 1));
	pg->data = bpf_map_lookup_elem(map, &n);
	if (!pg->data)
		return -1;
	pg->was = *pg->word;
	if (!(pg->was & BB_XW_LIVE) || bb_xw_gen(pg->was) != q->gen || bb_xw_tenant(pg->was) != q->tenant ||
	    (bb_xw_owner(pg->was) != q->asker && !(pg->was & BB_XW_SHARED)))
		return -1;
	return 0;
}

/* Return: whether nobody is writing. */
static __always_inline int page_begin(struct page *pg)
{
	pg->count = *pg->seq;
	bb_barrier();
	return bb_read_careless & 1 || !(pg->count & BB_SEQ_WRITERS);
}

/* Return: whether what was read since is one page. */
static __always_inline int page_whole(const struct page *pg)
{
	bb_barrier();
	return bb_read_careless & 2 || (*pg->seq == pg->count && *pg->word == pg->was && *pg->serial == pg->serial_was);
}

/* --- answers ------------------------------------------------------------------- */

/* The sum of the payload, without the folding. */
static __always_inline __u64 payload_sum(const __u8 *data, __u32 len)
{
	__s64 sum = bpf_csum_diff(NULL, 0, (__be32 *)data, len, 0);

	if (sum >= 0)
		return (__u64)sum;
	sum = 0;
	for (__u32 i = 0; i + SUM_STEP <= BB_SEG_LARGE; i += SUM_STEP) {
		if (i >= len)
			break;
		sum = bpf_csum_diff(NULL, 0, (__be32 *)(data + i), SUM_STEP, (__u32)sum);
	}
	return (__u64)(__u32)sum;
}

/* Writes the answer's headers over the packet's. sum: of the payload. Return: 0 or -1. */
static __always_inline int headers(struct __sk_buff *skb, const struct request *q, __u32 seg, __u32 nseg, __u64 sum)
{
	const __u32 len = q->small ? BB_SEG_SMALL : BB_SEG_LARGE;
	struct ethhdr *eth = (void *)(long)skb->data;
	struct bb_packet *p = (void *)(eth + 1);
	__u64 check;

	if ((void *)(p + 1) > (void *)(long)skb->data_end)
		return -1;
	__builtin_memcpy(eth->h_dest, q->eth.h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, q->eth.h_dest, ETH_ALEN);
	p->ip.saddr = q->p.ip.daddr;
	p->ip.saddr.s6_addr[6] |= BB_CMD_REPLY;
	p->ip.daddr = q->p.ip.saddr;
	p->ip.daddr.s6_addr[6] = p->ip.saddr.s6_addr[6];
	p->ip.daddr.s6_addr[7] = 0;
	*(__u32 *)&p->ip = bpf_htonl(0x60000000);
	p->ip.hop_limit = 64;
	p->udp.source = q->p.udp.dest;
	p->udp.dest = q->p.udp.source;
	p->udp.len = p->ip.payload_len = bpf_htons((__u16)(sizeof(p->udp) + sizeof(p->h) + len));
	p->h.flags = q->small ? BB_F_SMALL : 0;
	p->h.seg = bpf_htons((__u16)seg);
	p->h.nseg = bpf_htons((__u16)nseg);
	p->h.length = bpf_htonl(len);
	p->h.boot = bpf_htonl(q->boot);
	p->h.floor = 0;
	p->h.tag = bb_packet_tag(p, q->k0, q->k1);
	check = bb_fold(bb_pseudo(p));
	if (!q->partial) {
		p->udp.check = 0;
		check = bb_fold(bb_sum(&p->udp, sizeof(p->udp) + sizeof(p->h), check + sum));
		check = ~check & 0xffff;
		if (!check)
			check = 0xffff;
	}
	p->udp.check = (__u16)check;
	return 0;
}

/* One page in one segment. Return: what the program returns. */
static __always_inline int answer_large(struct __sk_buff *skb, const struct request *q)
{
	struct page pg;
	__u64 sum = 0;
	int i;

	if (page_find(q, q->offset, &pg) || bpf_skb_change_tail(skb, HDRS + BB_SEG_LARGE, 0))
		goto up;
	for (i = 0; i < TRIES; i++) {
		if (!page_begin(&pg))
			continue;
		if (bpf_skb_store_bytes(skb, HDRS, pg.data, BB_SEG_LARGE, 0))
			break;
		if (!q->partial)
			sum = payload_sum(pg.data, BB_SEG_LARGE);
		if (page_whole(&pg))
			goto send;
	}
	bb_count_one(BB_CNT_TORN);
	if (bpf_skb_change_tail(skb, HDRS, 0))
		return DROP;
up:
	bb_count_one(BB_CNT_UP);
	return NEXT;
send:
	if (headers(skb, q, 0, 1, sum)) {
		bb_count_one(BB_CNT_DROP_SEND);
		return DROP;
	}
	bb_count_one(BB_CNT_SERVED);
	bb_count_one(BB_CNT_SEGMENTS);
	return (int)bpf_redirect(skb->ifindex, 0);
}

/* --- answers of several segments -------------------------------------------------- */

struct many {
	struct __sk_buff *skb;
	__u32 sent, left; /* segments; left: what could not be had or sent */
};

/* Puts a whole page behind the headers. Return: its sum (where one is needed), or -1. */
static __always_inline __s64 large_segment(struct __sk_buff *skb, const struct request *q, struct page *pg)
{
	__u64 sum = 0;

	for (__u32 k = 0; k < TRIES; k++) {
		if (!page_begin(pg))
			continue;
		/* Straight from the slab: to copy it aside first, as for small ones, costs half a microsecond. */
		if (bpf_skb_store_bytes(skb, HDRS, pg->data, BB_SEG_LARGE, 0))
			return -1;
		if (!q->partial)
			sum = payload_sum(pg->data, BB_SEG_LARGE);
		if (page_whole(pg))
			return (__s64)sum;
	}
	bb_count_one(BB_CNT_TORN);
	return -1;
}

static long one_page(__u32 i, struct many *m)
{
	struct __sk_buff *skb = m->skb;
	const __u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&bb_scratch, &zero);
	struct page_copy *aside;
	struct request *q;
	__u32 part, parts, k;
	struct page pg;
	__s64 whole = 0;

	if (!s)
		goto left;
	q = &s->q;
	aside = &s->aside;
	parts = q->small ? BB_PAGE_SIZE / BB_SEG_SMALL : 1;
	if (page_find(q, q->offset + ((__u64)i << BB_PAGE_SHIFT), &pg))
		goto left;
	if (!q->small) {
		whole = large_segment(skb, q, &pg);
		if (whole < 0)
			goto left;
	}
	for (k = 0; q->small && k < TRIES; k++)
		if (page_begin(&pg) && !bpf_probe_read_kernel(aside, sizeof(*aside), pg.data) && page_whole(&pg))
			break;
	if (k == TRIES) {
		bb_count_one(BB_CNT_TORN);
		goto left;
	}
	for (part = 0; part < BB_PAGE_SIZE / BB_SEG_SMALL && part < parts; part++) {
		const __u8 *from = aside->byte + (part & 3) * BB_SEG_SMALL;
		__u64 sum = (__u64)whole;

		if (q->small) {
			if (bpf_skb_store_bytes(skb, HDRS, from, BB_SEG_SMALL, 0))
				goto left;
			if (!q->partial)
				sum = payload_sum(from, BB_SEG_SMALL);
		}
		if (headers(skb, q, i * parts + part, q->pages * parts, sum))
			goto left;
		if (i + 1 == q->pages && part + 1 == parts)
			break; /* the last is the packet itself */
		/* A clone each: what is written next goes to a copy of the headers' buffer. */
		if (bpf_clone_redirect(skb, skb->ifindex, 0))
			goto left;
		m->sent++;
	}
	return 0;
left:
	m->left++;
	return 1;
}

static __always_inline int answer_many(struct __sk_buff *skb, struct request *q)
{
	struct many m = { .skb = skb };

	if (bpf_skb_change_tail(skb, HDRS + (q->small ? BB_SEG_SMALL : BB_SEG_LARGE), 0)) {
		bb_count_one(BB_CNT_UP);
		return NEXT;
	}
	bpf_loop(q->pages, one_page, &m, 0);
	bb_count_some(BB_CNT_SEGMENTS, m.sent + !m.left);
	if (!m.left) {
		bb_count_one(BB_CNT_SERVED);
		return (int)bpf_redirect(skb->ifindex, 0);
	}
	/* bbd answers all of it; what has come already is not taken twice. */
	if (bpf_skb_change_tail(skb, HDRS, 0) || bpf_skb_store_bytes(skb, 0, &q->eth, ETH_HLEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &q->p, sizeof(q->p), 0)) {
		bb_count_one(BB_CNT_DROP_SEND);
		return DROP;
	}
	bb_count_one(BB_CNT_UP);
	return NEXT;
}

/* --- requests ---------------------------------------------------------------------- */

/* A pointer of another node that lives here now. Return: 0 or -1. */
static __always_inline int adopted(struct request *q, const struct bb_gptr *dst)
{
	struct bb_adopted_key key = { .node = dst->node, .extent = dst->ptr & ~(BB_EXTENT_SIZE - 1) };
	const struct bb_adopted *a = bpf_map_lookup_elem(&bb_adopted, &key);

	if (!a)
		return -1;
	q->gen = bb_ptr_gen(a->ptr);
	q->offset = bb_ptr_offset(a->ptr) + (dst->ptr & (BB_EXTENT_SIZE - 1));
	q->boot = a->boot;
	return 0;
}

/* Return: 0; NEXT; DROP where nobody wants it. Fills in q. */
static __always_inline int look(struct __sk_buff *skb, struct request *q)
{
	const struct ethhdr *eth = (void *)(long)skb->data;
	const struct bb_packet *p = (void *)(eth + 1);
	struct bb_steer_cfg cfg;
	struct bb_gptr dst, src;
	__u32 len, sum;

	if ((void *)(p + 1) > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, HDRS))
			return NEXT;
		eth = (void *)(long)skb->data;
		p = (void *)(eth + 1);
		if ((void *)(p + 1) > (void *)(long)skb->data_end)
			return NEXT;
	}
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || p->ip.version != 6 || p->ip.nexthdr != IPPROTO_UDP ||
	    !bb_gptr_decode(&p->ip.daddr, &dst) || (dst.cmd != BB_CMD_READ && dst.cmd != BB_CMD_READ_RUN))
		return NEXT;
	if (bb_cfg_read(&cfg, BB_SC_KNOWN | BB_SC_SERVE))
		return NEXT;
	len = bpf_ntohl(p->h.length);
	if (p->udp.dest != bpf_htons(cfg.port) || !p->udp.source ||
	    p->ip.payload_len != bpf_htons(sizeof(p->udp) + sizeof(p->h)) || p->udp.len != p->ip.payload_len ||
	    p->h.version != BB_WIRE_VERSION || (p->h.flags & ~BB_F_SMALL) || p->h.status || p->h.reserved || p->h.seg ||
	    p->h.nseg != bpf_htons(1) || !len || (len & BB_PAGE_MASK) || (dst.ptr & BB_PAGE_MASK) ||
	    len > (dst.cmd == BB_CMD_READ ? BB_PAGE_SIZE : BB_RUN_PAGES_MAX * BB_PAGE_SIZE) ||
	    (dst.ptr & (BB_EXTENT_SIZE - 1)) + len > BB_EXTENT_SIZE || dst.tenant != cfg.tenant ||
	    !bb_gptr_decode(&p->ip.saddr, &src) || src.tenant != cfg.tenant || !src.node || src.node == BB_NODE_ANY)
		goto up;
	if (bb_packet_tag(p, cfg.k0, cfg.k1) != p->h.tag) {
		bb_count_one(BB_CNT_DROP_TAG);
		return DROP;
	}
	q->k0 = cfg.k0;
	q->k1 = cfg.k1;
	q->boot = cfg.boot;
	q->serial = cfg.serial;
	q->gen = bb_ptr_gen(dst.ptr);
	q->offset = bb_ptr_offset(dst.ptr);
	if (dst.node != cfg.node && adopted(q, &dst))
		goto up;
	if (p->h.boot != bpf_htonl(q->boot))
		goto up;
	q->asker = src.node;
	q->tenant = src.tenant;
	q->pages = len >> BB_PAGE_SHIFT;
	q->small = p->h.flags & BB_F_SMALL;
	sum = bb_fold(bb_pseudo(p));
	q->partial = p->udp.check == (__u16)sum;
	if (q->partial && bb_fold(bb_sum(&p->udp, sizeof(p->udp) + sizeof(p->h), sum)) == 0xffff)
		goto up;
	__builtin_memcpy(&q->eth, eth, sizeof(q->eth));
	__builtin_memcpy(&q->p, p, sizeof(q->p));
	return 0;
up:
	bb_count_one(BB_CNT_UP);
	return NEXT;
}

SEC("tc")
int bb_read(struct __sk_buff *skb)
{
	__u32 zero = 0, mtu = 0;
	struct scratch *s;
	struct request *q;
	int act;

	/* What is longer carries something. A tag of 802.1Q has left the frame by now. */
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || skb->len != HDRS || skb->vlan_present)
		return NEXT;
	s = bpf_map_lookup_elem(&bb_scratch, &zero);
	if (!s)
		return NEXT;
	q = &s->q;
	act = look(skb, q);
	if (act)
		return act;
	/* Our own path may be narrower than the asker knows. */
	if (!q->small && bpf_check_mtu(skb, 0, &mtu, BB_SEG_LARGE, 0))
		q->small = 1;
	if (q->pages == 1 && !q->small)
		return answer_large(skb, q);
	return answer_many(skb, q);
}

char _license[] SEC("license") = "Dual MIT/GPL";
