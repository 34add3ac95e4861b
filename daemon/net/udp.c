/* SPDX-License-Identifier: MIT */
/* The UDP transport: peers, queues, timers. Its theory of operation is in udp.h. */
#include "net/udp.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "clock.h"

#define RX_BUFFERS 32
#define RX_BYTES 65536 /* datagrams that the kernel has joined (UDP_GRO) */
#define SEEN_NS 100000000ULL

/* --- requests ----------------------------------------------------------- */

uint32_t bb_udp_charge(const struct bb_net_req *r)
{
	uint32_t n = 0;

	for (unsigned int i = 0; i < 4 && i * 64 < r->t.nsent; i++) {
		unsigned int bits = r->t.nsent - i * 64;
		uint64_t mask = bits >= 64 ? ~0ULL : (1ULL << bits) - 1;

		n += (uint32_t)__builtin_popcountll(mask & ~r->t.got[i]);
	}
	return n;
}

static struct bb_net_req **list_of(struct bb_udp_peer *p, uint8_t where)
{
	return where == BB_UDP_IN_READS ? &p->reads : where == BB_UDP_IN_WRITES ? &p->writes : &p->open;
}

void bb_udp_link(struct bb_udp *u, struct bb_net_req *r, enum bb_udp_where where, bool first)
{
	struct bb_net_req **list = list_of(r->t.peer, where);

	r->t.where = where;
	if (first)
		DL_PREPEND2(*list, r, t.prev, t.next);
	else
		DL_APPEND2(*list, r, t.prev, t.next);
}

static void ring_clear(struct bb_udp *u, struct bb_net_req *r)
{
	struct bb_udp_peer *p = r->t.peer;

	if (!r->t.id)
		return;
	if (!bb_wire_tracked(r->cmd)) {
		u->read_ring[r->t.id % BB_UDP_READS] = NULL;
		u->nreads--;
		return;
	}
	p->ring[r->t.id % BB_SESSION_WINDOW] = NULL;
	while (p->floor < p->next_id && !p->ring[p->floor % BB_SESSION_WINDOW])
		p->floor++;
}

void bb_udp_unlink(struct bb_udp *u, struct bb_net_req *r)
{
	struct bb_udp_peer *p = r->t.peer;
	struct bb_net_req **list = list_of(p, r->t.where);

	DL_DELETE2(*list, r, t.prev, t.next);
	r->t.where = BB_UDP_NOWHERE;
	bb_udp_untried(p, r);
	ring_clear(u, r);
	r->t.id = 0;
	p->inflight -= bb_udp_charge(r);
	if (p->reads || p->writes)
		bb_udp_dirty(u, p);
}

void bb_udp_finish(struct bb_udp *u, struct bb_net_req *r, uint8_t status)
{
	void *buffer = r->t.buf;

	bb_udp_unlink(u, r);
	r->t.buf = NULL;
	bb_req_end(u->sh, r, status);
	if (buffer)
		u->free_buffer[u->nfree++] = buffer;
}

/* --- peers -------------------------------------------------------------- */

static struct bb_udp_peer *peer_add(struct bb_udp *u, uint16_t node)
{
	struct bb_udp_peer **tab = reallocarray(u->peer, u->npeers + 1, sizeof(*tab));
	struct bb_udp_peer *p;

	if (!tab)
		return NULL;
	u->peer = tab;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	/*
	 * A bbd that goes on where another ended has its boot number, hence its
	 * sessions. Its ids begin above all of the other's, and its floor closes
	 * those: a WRITE of the other that was delayed lands on nothing newer.
	 */
	p->session = u->cfg->boot + 0x9e3779b9u * (u->pager + 1);
	/* At one home both sessions may be open, with ids of their own. */
	if (node == BB_NODE_ANY)
		p->session ^= 0x616e7921u;
	p->node = node;
	p->next_id = p->floor = bb_now_ns();
	p->window = BB_WINDOW_FIRST;
	p->ssthresh = BB_WINDOW_MAX;
	p->rto = BB_RTO_FIRST_NS;
	u->peer[u->npeers++] = p;
	u->index[node] = (uint16_t)u->npeers;
	return p;
}

/* NULL: no such node is known. */
static struct bb_udp_peer *peer_get(struct bb_udp *u, uint16_t node, uint64_t now)
{
	struct bb_udp_peer *p = bb_udp_find(u, node);
	struct bb_peer info;

	if (p && p->seen_at && now - p->seen_at < SEEN_NS)
		return p;
	/* Whoever it may be: a route leads there, or none. */
	if (node == BB_NODE_ANY)
		return p ? p : peer_add(u, node);
	if (!bb_peers_get(u->table, node, &info))
		return NULL;
	if (!p)
		p = peer_add(u, node);
	if (p) {
		p->seen_at = now;
		p->lz4 = u->lz4 && now >= p->plain_until && bb_peers_compress(u->table, &info);
	}
	return p;
}

/* --- the transport ------------------------------------------------------ */

static struct bb_udp *udp_of(struct bb_transport *t)
{
	return (struct bb_udp *)t; /* its first member */
}

static int submit(struct bb_transport *t, struct bb_net_req *r)
{
	struct bb_udp *u = udp_of(t);
	struct bb_udp_peer *p = peer_get(u, r->node, bb_now_ns());

	if (!p)
		return -EHOSTUNREACH;
	memset(&r->t, 0, sizeof(r->t));
	r->t.peer = p;
	bb_udp_link(u, r, r->cmd == BB_CMD_WRITE ? BB_UDP_IN_WRITES : BB_UDP_IN_READS, false);
	bb_udp_dirty(u, p);
	bb_udp_due(u, r->deadline);
	return 0;
}

/* Starts over as another message. What has arrived of the old id is stale from then on. */
static void begin_again(struct bb_udp *u, struct bb_net_req *r)
{
	bb_udp_unlink(u, r);
	memset(r->t.got, 0, sizeof(r->t.got));
	r->t.ngot = r->t.nsent = 0;
	r->t.resend_at = 0;
	r->t.packed = 0;
	r->t.asked = false;
	r->t.none = 0;
	bb_udp_link(u, r, r->cmd == BB_CMD_WRITE ? BB_UDP_IN_WRITES : BB_UDP_IN_READS, true);
}

/* Large segments do not get through any more: begin again with small ones. */
static void recut_list(struct bb_udp *u, struct bb_net_req *list)
{
	struct bb_net_req *r, *next;

	DL_FOREACH_SAFE2(list, r, next, t.next) {
		if (!r->t.id || (r->cmd != BB_CMD_WRITE && r->cmd != BB_CMD_ALLOC_WRITE) || r->t.nseg != r->npages)
			continue;
		begin_again(u, r);
	}
}

/* All WRITEs up to this id, so that the floor rises above it. */
static void again_list(struct bb_udp *u, struct bb_net_req *list, uint64_t id)
{
	struct bb_net_req *r, *next;

	DL_FOREACH_SAFE2(list, r, next, t.next)
		if (r->t.id && r->t.id <= id && r->cmd == BB_CMD_WRITE)
			begin_again(u, r);
}

void bb_udp_again(struct bb_udp *u, struct bb_net_req *r)
{
	struct bb_udp_peer *p = r->t.peer;
	const uint64_t id = r->t.id;

	if (r->cmd == BB_CMD_DELETE)
		begin_again(u, r);
	again_list(u, p->open, id);
	again_list(u, p->writes, id);
	bb_udp_dirty(u, p);
}

void bb_udp_no_lz4(struct bb_udp *u, struct bb_net_req *r)
{
	struct bb_udp_peer *p = r->t.peer;

	r->t.plain = true;
	p->lz4 = false;
	p->plain_until = u->now + BB_UDP_PLAIN_NS;
}

void bb_udp_plain(struct bb_udp *u, struct bb_net_req *r)
{
	bb_udp_no_lz4(u, r);
	if (bb_wire_tracked(r->cmd))
		bb_udp_again(u, r);
	else
		begin_again(u, r);
	bb_udp_dirty(u, r->t.peer);
}

static void recut(struct bb_udp *u, struct bb_udp_peer *p)
{
	p->narrow = false;
	u->nnarrow--;
	recut_list(u, p->open);
	recut_list(u, p->writes);
	bb_udp_dirty(u, p);
}

static void push_all(struct bb_udp *u, uint64_t now)
{
	do {
		for (unsigned int i = 0; u->ndirty && i < u->npeers; i++) {
			struct bb_udp_peer *p = u->peer[i];

			if (!p->dirty)
				continue;
			p->dirty = false;
			u->ndirty--;
			bb_udp_push(u, p, now);
		}
		bb_udp_tx_flush(u);
		for (unsigned int i = 0; u->nnarrow && i < u->npeers; i++)
			if (u->peer[i]->narrow)
				recut(u, u->peer[i]);
	} while (u->ndirty);
}

static void flush(struct bb_transport *t)
{
	struct bb_udp *u = udp_of(t);

	if (u->ndirty || u->nnarrow)
		push_all(u, bb_now_ns());
}

/* ->done may submit more, at the end of a list; it never takes another request out. */
static void check_list(struct bb_udp *u, struct bb_net_req *list)
{
	struct bb_net_req *r, *next;

	DL_FOREACH_SAFE2(list, r, next, t.next) {
		if (u->now >= r->deadline) {
			bb_udp_finish(u, r, r->status == BB_ST_BUSY ? BB_ST_BUSY : BB_ST_TIMEOUT);
			continue;
		}
		if (r->t.id && u->now >= r->t.resend_at)
			bb_udp_resend(u, r, u->now);
		bb_udp_due(u, r->deadline);
		if (r->t.id)
			bb_udp_due(u, r->t.resend_at);
	}
}

static void timers(struct bb_udp *u)
{
	if (u->now < u->due)
		return;
	u->due = ~0ULL;
	for (unsigned int i = 0; i < u->npeers; i++) {
		check_list(u, u->peer[i]->reads);
		check_list(u, u->peer[i]->writes);
		check_list(u, u->peer[i]->open);
	}
	bb_udp_tx_flush(u);
}

static int poll_udp(struct bb_transport *t)
{
	struct bb_udp *u = udp_of(t);

	u->replies = 0;
	bb_udp_receive(u);
	if (!u->sh->inflight) {
		u->due = ~0ULL;
		return u->replies;
	}
	u->now = bb_now_ns();
	timers(u);
	if (u->ndirty || u->nnarrow)
		push_all(u, u->now);
	return u->replies;
}

static int fd_of(struct bb_transport *t)
{
	struct bb_udp *u = udp_of(t);

	return u->xsk.epoll >= 0 ? u->xsk.epoll : u->fd;
}

static uint64_t next_timer(struct bb_transport *t)
{
	struct bb_udp *u = udp_of(t);
	uint64_t held = u->inject ? bb_inject_next(u->inject) : ~0ULL;

	return held < u->due ? held : u->due;
}

static void end_list(struct bb_udp *u, struct bb_net_req **list)
{
	while (*list)
		bb_udp_finish(u, *list, BB_ST_TIMEOUT);
}

static void udp_free(struct bb_transport *t)
{
	struct bb_udp *u = udp_of(t);

	for (unsigned int i = 0; i < u->npeers; i++) {
		end_list(u, &u->peer[i]->reads);
		end_list(u, &u->peer[i]->writes);
		end_list(u, &u->peer[i]->open);
		free(u->peer[i]);
	}
	free(u->peer);
	if (u->buffers)
		munmap(u->buffers, (size_t)BB_UDP_BUFFERS * BB_UDP_BUFFER_BYTES);
	bb_udp_xsk_close(u);
	bb_inject_free(u->inject);
	bb_sock_ring_free(u->ring);
	bb_lz4_free(u->lz4);
	free(u->packed);
	if (u->probe_fd >= 0)
		close(u->probe_fd);
	if (u->fd >= 0)
		close(u->fd);
	free(u);
}

static int open_sockets(struct bb_udp *u)
{
	const int on = 1;

	u->fd = bb_sock_open(0);
	if (u->fd < 0)
		return u->fd;
	/* Kernels without it give us one datagram at a time, which is as good. */
	setsockopt(u->fd, IPPROTO_UDP, 104 /* UDP_GRO */, &on, sizeof(on));
	u->probe_fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return u->probe_fd < 0 ? -errno : 0;
}

int bb_udp_new(struct bb_transport **out, struct bb_net_shared *sh, struct bb_peers *peers, unsigned int index)
{
	struct bb_udp *u = calloc(1, sizeof(*u));
	struct bb_gptr g;
	int ret;

	if (!u)
		return -ENOMEM;
	u->t = (struct bb_transport){
		.name = "udp",
		.submit = submit,
		.flush = flush,
		.poll = poll_udp,
		.fd = fd_of,
		.next = next_timer,
		.free = udp_free,
	};
	u->sh = sh;
	u->table = peers;
	u->cfg = bb_peers_config(peers);
	u->fd = u->probe_fd = -1;
	bb_udp_xsk_init(u);
	u->due = ~0ULL;
	u->next_read = 1;
	g = (struct bb_gptr){ .tenant = u->cfg->tenant, .node = u->cfg->node, .ptr = index };
	bb_gptr_encode(&g, &u->self);
	u->control_len = bb_sock_source(&u->control, &u->self, 0);
	ret = open_sockets(u);
	if (ret)
		goto err;
	ret = bb_sock_ring_new(&u->ring, RX_BUFFERS, RX_BYTES);
	if (ret)
		goto err;
	u->pager = index;
	ret = bb_udp_xsk_open(u);
	if (ret)
		goto err;
	ret = bb_inject_new(&u->inject, (uint32_t)u->cfg->node << 16 | index);
	if (ret)
		goto err;
	ret = -ENOMEM;
	u->buffers = mmap(NULL, (size_t)BB_UDP_BUFFERS * BB_UDP_BUFFER_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (u->buffers == MAP_FAILED) {
		u->buffers = NULL;
		goto err;
	}
	if (u->cfg->compress != BB_COMPRESS_OFF) {
		u->lz4 = bb_lz4_new();
		u->packed = malloc((size_t)BB_UDP_TX * BB_SEG_LARGE);
		if (!u->lz4 || !u->packed)
			goto err;
	}
	for (unsigned int i = BB_UDP_BUFFERS; i--;)
		u->free_buffer[u->nfree++] = u->buffers + (size_t)i * BB_UDP_BUFFER_BYTES;
	if (getrandom(&u->session, sizeof(u->session), 0) != sizeof(u->session)) {
		ret = -EIO;
		goto err;
	}
	*out = &u->t;
	return 0;
err:
	udp_free(&u->t);
	return ret;
}
