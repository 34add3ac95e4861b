/* SPDX-License-Identifier: MIT */
/*
 * See xsk.h.
 *
 * Theory of operation
 * -------------------
 * Memory shared with the kernel is cut into chunks of a page, which is the most
 * that it allows. A page in one segment takes two, one behind the other, in either
 * direction. To receive, the kernel is given every second chunk only, and the rest
 * of such a packet, some hundred bytes, is copied behind its first part: so that
 * what is handed on is one piece. The headroom is such that the payload begins at a
 * cache line.
 *
 * Four rings: fill (chunks for the kernel), rx, tx, done (what has left). Each has
 * one producer and one consumer, and we are one of them. The chunks of packets
 * that were handed on are free again at the next bb_xsk_recv(), as sock.h has it.
 * The kernel takes chunks in the order given, and 4 MiB of them in turn would be
 * out of the caches each time: it has only as many as answers are expected, and
 * gets those first that were used last. Where it has none left it drops, which is
 * a loss like others.
 *
 * Copy mode: every driver that can redirect can do it, and veth nothing else.
 */
#include "net/xsk.h"

#include <bluebridge/gptr.h>
#include <bluebridge/kernel.h>
#include <bluebridge/wire.h>

#include <endian.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_xdp.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK BB_PAGE_SIZE
#define RX 512U	 /* packets that come in; a power of two */
#define TX 64U	 /* frames on their way out; a power of two */
#define SPARE 32U /* of RX, beyond what is expected */
#define BATCH 32U /* packets handed on at a time */
#define PARTS 2U /* of a packet */
#define KERNEL_ROOM 256U /* XDP_PACKET_HEADROOM */
#define HEADERS (ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct udphdr))
#define ROOM (384 - KERNEL_ROOM - HEADERS - sizeof(struct bb_hdr))
#define FRAME_MAX (HEADERS + sizeof(struct bb_hdr) + BB_SEG_LARGE)

_Static_assert(FRAME_MAX <= PARTS * (CHUNK - KERNEL_ROOM - ROOM), "a page in one segment fits");

struct ring {
	uint32_t *producer, *consumer;
	void *desc;
	uint32_t mask, mine; /* mine: our own count */
	void *map;
	size_t bytes;
};

struct packet {
	uint8_t *frame;
	size_t len;
};

struct bb_xsk {
	int fd;
	unsigned int ifindex;
	uint8_t mac[6];
	uint8_t *umem;
	size_t bytes;
	struct ring fill, done, rx, tx;
	struct packet pkt[BATCH];
	uint64_t back[BATCH * PARTS]; /* chunks of what was handed on */
	uint64_t warm[RX];	      /* those that the kernel does not have, the last used last */
	unsigned int nback, nwarm, npkt, added, nfree, expected;
	uint64_t free_tx[TX];
};

static int map_ring(struct bb_xsk *x, struct ring *r, int opt, uint32_t n, size_t each, uint64_t pgoff,
		    const struct xdp_ring_offset *off)
{
	if (setsockopt(x->fd, SOL_XDP, opt, &n, sizeof(n)))
		return -errno;
	r->bytes = off->desc + n * each;
	r->map = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, x->fd, (off_t)pgoff);
	if (r->map == MAP_FAILED) {
		r->map = NULL;
		return -errno;
	}
	r->producer = (uint32_t *)((uint8_t *)r->map + off->producer);
	r->consumer = (uint32_t *)((uint8_t *)r->map + off->consumer);
	r->desc = (uint8_t *)r->map + off->desc;
	r->mask = n - 1;
	return 0;
}

static int open_socket(struct bb_xsk *x, unsigned int ifindex)
{
	struct sockaddr_xdp sa = { .sxdp_family = AF_XDP, .sxdp_ifindex = ifindex };
	struct xdp_umem_reg reg = { .len = x->bytes, .chunk_size = CHUNK, .headroom = ROOM };
	struct xdp_mmap_offsets off;
	socklen_t len = sizeof(off);
	int ret;

	x->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (x->fd < 0)
		return -errno;
	x->umem = mmap(NULL, x->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (x->umem == MAP_FAILED) {
		x->umem = NULL;
		return -errno;
	}
	reg.addr = (uint64_t)(uintptr_t)x->umem;
	if (setsockopt(x->fd, SOL_XDP, XDP_UMEM_REG, &reg, sizeof(reg)) ||
	    getsockopt(x->fd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &len) || len != sizeof(off))
		return -errno;
	ret = map_ring(x, &x->fill, XDP_UMEM_FILL_RING, RX, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING, &off.fr);
	if (!ret)
		ret = map_ring(x, &x->done, XDP_UMEM_COMPLETION_RING, PARTS * TX, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING, &off.cr);
	if (!ret)
		ret = map_ring(x, &x->rx, XDP_RX_RING, RX, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING, &off.rx);
	if (!ret)
		ret = map_ring(x, &x->tx, XDP_TX_RING, PARTS * TX, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING, &off.tx);
	if (ret)
		return ret;
	for (unsigned int i = 0; i < RX; i++)
		x->warm[x->nwarm++] = (uint64_t)(RX - 1 - i) * PARTS * CHUNK;
	bb_xsk_expect(x, 0);
	for (unsigned int i = 0; i < TX; i++)
		x->free_tx[x->nfree++] = (uint64_t)PARTS * (RX + i) * CHUNK;
	sa.sxdp_flags = XDP_COPY | XDP_USE_NEED_WAKEUP | XDP_USE_SG;
	return bind(x->fd, (struct sockaddr *)&sa, sizeof(sa)) ? -errno : 0;
}

int bb_xsk_new(struct bb_xsk **out, unsigned int ifindex, const uint8_t mac[6])
{
	struct bb_xsk *x = calloc(1, sizeof(*x));
	int ret;

	if (!x)
		return -ENOMEM;
	x->fd = -1;
	x->ifindex = ifindex;
	memcpy(x->mac, mac, sizeof(x->mac));
	x->bytes = (size_t)PARTS * (RX + TX) * CHUNK;
	ret = open_socket(x, ifindex);
	if (ret)
		bb_xsk_free(x);
	else
		*out = x;
	return ret;
}

void bb_xsk_free(struct bb_xsk *x)
{
	const struct ring *r[4];

	if (!x)
		return;
	r[0] = &x->fill;
	r[1] = &x->done;
	r[2] = &x->rx;
	r[3] = &x->tx;
	for (unsigned int i = 0; i < 4; i++)
		if (r[i]->map)
			munmap(r[i]->map, r[i]->bytes);
	if (x->fd >= 0)
		close(x->fd);
	if (x->umem)
		munmap(x->umem, x->bytes);
	free(x);
}

int bb_xsk_fd(const struct bb_xsk *x)
{
	return x->fd;
}

unsigned int bb_xsk_ifindex(const struct bb_xsk *x)
{
	return x->ifindex;
}

/* --- checksums ---------------------------------------------------------- */

typedef uint32_t words __attribute__((vector_size(16), aligned(1)));
typedef uint64_t sums __attribute__((vector_size(16)));

/* Sum of n bytes as words in memory, n even; the folding makes it that of 16-bit ones. */
static uint64_t sum(const void *p, size_t n, uint64_t s)
{
	const uint8_t *b = p;
	sums lo = { 0 }, hi = { 0 };
	uint32_t w;
	uint16_t h;

	for (; n >= sizeof(words); b += sizeof(words), n -= sizeof(words)) {
		const sums v = (sums)*(const words *)b;

		lo += v & 0xffffffff;
		hi += v >> 32;
	}
	s += lo[0] + lo[1] + hi[0] + hi[1];
	for (; n >= sizeof(w); b += sizeof(w), n -= sizeof(w)) {
		memcpy(&w, b, sizeof(w));
		s += w;
	}
	if (n >= sizeof(h)) {
		memcpy(&h, b, sizeof(h));
		s += h;
	}
	return s;
}

static uint16_t fold(uint64_t s)
{
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

/* What the sum begins with. */
static uint64_t pseudo(const struct ipv6hdr *ip, const struct udphdr *udp)
{
	return sum(&ip->saddr, 2 * sizeof(ip->saddr), (uint64_t)udp->len + htobe16(IPPROTO_UDP));
}

/* --- receiving ---------------------------------------------------------- */

void bb_xsk_expect(struct bb_xsk *x, unsigned int packets)
{
	const unsigned int want = packets < (RX - SPARE) / PARTS ? packets * PARTS + SPARE : RX;
	uint64_t *fill = x->fill.desc;

	x->expected = packets;
	/* Those that hold packets handed on are not the kernel's either. */
	if (RX - x->nwarm - x->nback >= want)
		return;
	while (RX - x->nwarm - x->nback < want && x->nwarm)
		fill[x->fill.mine++ & x->fill.mask] = x->warm[--x->nwarm];
	__atomic_store_n(x->fill.producer, x->fill.mine, __ATOMIC_RELEASE);
}

static void take_back(struct bb_xsk *x)
{
	while (x->nback)
		x->warm[x->nwarm++] = x->back[--x->nback];
	bb_xsk_expect(x, x->expected);
}

int bb_xsk_recv(struct bb_xsk *x)
{
	const struct xdp_desc *desc = x->rx.desc;
	const uint32_t end = __atomic_load_n(x->rx.producer, __ATOMIC_ACQUIRE);
	uint32_t at = x->rx.mine;
	unsigned int parts = 0;
	bool more;

	if (x->nback)
		take_back(x);
	x->npkt = 0;
	/* The kernel publishes all parts of a packet at once. */
	while (at != end && x->npkt < BATCH && x->nback < BATCH * PARTS) {
		const struct xdp_desc *d = &desc[at++ & x->rx.mask];
		struct packet *p = &x->pkt[x->npkt];

		more = d->options & XDP_PKT_CONTD;
		x->back[x->nback++] = d->addr & ~(uint64_t)(CHUNK - 1);
		if (!parts++) {
			p->frame = x->umem + d->addr;
			p->len = d->len;
		} else if (p->len && p->len + d->len <= FRAME_MAX) {
			memcpy(p->frame + p->len, x->umem + d->addr, d->len);
			p->len += d->len;
		} else {
			p->len = 0; /* none of ours is that long */
		}
		if (more && at != end && x->nback < BATCH * PARTS)
			continue;
		if (more)
			p->len = 0;
		x->npkt++;
		parts = 0;
	}
	x->rx.mine = at;
	__atomic_store_n(x->rx.consumer, at, __ATOMIC_RELEASE);
	return (int)x->npkt;
}

void bb_xsk_packet(struct bb_xsk *x, unsigned int i, uint16_t port, struct bb_sock_packet *out)
{
	const struct packet *p = &x->pkt[i];
	struct ipv6hdr ip;
	struct udphdr udp;
	uint64_t s;
	size_t len;

	*out = (struct bb_sock_packet){ .data = p->frame + HEADERS };
	if (p->len < HEADERS)
		return;
	memcpy(&ip, p->frame + ETH_HLEN, sizeof(ip));
	memcpy(&udp, p->frame + ETH_HLEN + sizeof(ip), sizeof(udp));
	len = be16toh(udp.len);
	if (ip.nexthdr != IPPROTO_UDP || udp.len != ip.payload_len || len < sizeof(udp) ||
	    p->len < HEADERS - sizeof(udp) + len || be16toh(udp.dest) != port)
		return;
	/* Of a packet that never left this machine it may be the beginning only. */
	s = pseudo(&ip, &udp);
	if (udp.check != fold(s) && fold(sum(p->frame + HEADERS - sizeof(udp), len & ~(size_t)1, s) +
					 (len & 1 ? p->frame[HEADERS - sizeof(udp) + len - 1] : 0)) != 0xffff)
		return;
	out->len = len - sizeof(udp);
	out->from.sin6_family = AF_INET6;
	out->from.sin6_port = udp.source;
	memcpy(&out->from.sin6_addr, &ip.saddr, sizeof(ip.saddr));
	memcpy(&out->to, &ip.daddr, sizeof(ip.daddr));
	out->ifindex = x->ifindex;
}

/* --- sending ------------------------------------------------------------ */

static void take_done(struct bb_xsk *x)
{
	const uint64_t *done = x->done.desc;
	const uint32_t end = __atomic_load_n(x->done.producer, __ATOMIC_ACQUIRE);

	while (x->done.mine != end) {
		const uint64_t addr = done[x->done.mine++ & x->done.mask];

		/* All parts of a frame are done at once; the first speaks for it. */
		if (!(addr & CHUNK))
			x->free_tx[x->nfree++] = addr;
	}
	__atomic_store_n(x->done.consumer, x->done.mine, __ATOMIC_RELEASE);
}

static void put(struct bb_xsk *x, uint64_t addr, size_t len, uint32_t options)
{
	struct xdp_desc *d = (struct xdp_desc *)x->tx.desc + (x->tx.mine++ & x->tx.mask);

	*d = (struct xdp_desc){ .addr = addr, .len = (uint32_t)len, .options = options };
}

int bb_xsk_add(struct bb_xsk *x, const uint8_t mac[6], const struct in6_addr *from, uint16_t port,
	       const struct sockaddr_in6 *to, const void *head, size_t hlen, const void *data, size_t len)
{
	struct ipv6hdr ip = { .version = 6, .nexthdr = IPPROTO_UDP, .hop_limit = 64 };
	struct udphdr udp = { .source = htobe16(port), .dest = to->sin6_port };
	struct ethhdr eth = { .h_proto = htobe16(ETH_P_IPV6) };
	const size_t all = HEADERS + hlen + len;
	uint64_t addr;
	uint8_t *f;

	if (x->nfree < TX / 2)
		take_done(x);
	if (!x->nfree)
		return -ENOBUFS;
	if (hlen > sizeof(struct bb_hdr) || len > BB_SEG_LARGE || (hlen | len) & 1)
		return -EMSGSIZE;
	addr = x->free_tx[--x->nfree];
	f = x->umem + addr;
	memcpy(eth.h_dest, mac, sizeof(eth.h_dest));
	memcpy(eth.h_source, x->mac, sizeof(eth.h_source));
	memcpy(&ip.saddr, from, sizeof(ip.saddr));
	memcpy(&ip.daddr, &to->sin6_addr, sizeof(ip.daddr));
	udp.len = ip.payload_len = htobe16((uint16_t)(sizeof(udp) + hlen + len));
	/* Summed is what is sent: the page may change meanwhile, and is then another's to see. */
	memcpy(f + HEADERS, head, hlen);
	if (len)
		memcpy(f + HEADERS + hlen, data, len);
	udp.check = (uint16_t)~fold(sum(f + HEADERS, hlen + len, sum(&udp, sizeof(udp), pseudo(&ip, &udp))));
	if (!udp.check)
		udp.check = 0xffff;
	memcpy(f, &eth, sizeof(eth));
	memcpy(f + sizeof(eth), &ip, sizeof(ip));
	memcpy(f + sizeof(eth) + sizeof(ip), &udp, sizeof(udp));
	put(x, addr, all < CHUNK ? all : CHUNK, all > CHUNK ? XDP_PKT_CONTD : 0);
	if (all > CHUNK)
		put(x, addr + CHUNK, all - CHUNK, 0);
	x->added++;
	return 0;
}

int bb_xsk_kick(struct bb_xsk *x)
{
	int ret = 0;

	if (!x->added)
		return 0;
	__atomic_store_n(x->tx.producer, x->tx.mine, __ATOMIC_RELEASE);
	x->added = 0;
	/* EAGAIN: it takes 32 descriptors at a time; or there is no memory, and what is left goes with the next. */
	for (unsigned int i = 0; i <= PARTS * TX / 32; i++) {
		ret = sendto(x->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0;
		if (ret != -EAGAIN)
			break;
	}
	return ret == -EAGAIN || ret == -EBUSY || ret == -ENOBUFS ? 0 : ret;
}
