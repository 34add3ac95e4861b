/* SPDX-License-Identifier: MIT */
/*
 * HELLOs that go out: a round about once a second to the link's group, to the
 * addresses given by --peer, and to whoever hears us by neither; answers in
 * between. Also finds who has fallen silent.
 */
#include "net/peers_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bluebridge/gptr.h>

#include "clock.h"
#include "log.h"

#define MOVED_ROUNDS 3 /* a HELLO may be lost */
#define SPEED_NS 60000000000ULL /* asking the driver holds the kernel's network lock, and us */
#define PING_ROUNDS 8 /* a HELLO in so many asks for an answer: round trip */

static struct bb_hello own_hello(struct bb_peers *p, uint8_t flags)
{
	const struct bb_peer_entry *e = bb_peer_find(p, p->cfg.node);
	struct bb_hello h = {
		.flags = (uint8_t)(flags | (atomic_load(&p->rdma) ? BB_HELLO_RDMA : 0) | (p->moved ? BB_HELLO_MOVED : 0) |
				   (p->cfg.compress != BB_COMPRESS_OFF ? BB_HELLO_LZ4 : 0) |
				   (atomic_load(&p->slow) ? BB_HELLO_SLOW : 0)),
		.node = p->cfg.node,
		.port = p->cfg.port,
		.tenant = p->cfg.tenant,
		.boot = p->cfg.boot,
		.lent = e->pub.lent,
		.free = e->pub.free,
	};

	memcpy(h.name, e->pub.name, sizeof(h.name));
	return h;
}

static void tell(struct bb_peers *p, int sock, struct bb_peer_entry *e, uint8_t flags, uint64_t now)
{
	struct bb_hello h = own_hello(p, flags);
	int mtu;

	h.echo = e->echo;
	e->echo = 0;
	e->told_at = now;
	if (flags & BB_HELLO_WANTS_REPLY && !e->pinged_at)
		e->pinged_at = now;
	mtu = bb_announce_to(p->announce, sock, &e->at, &h);
	if (mtu > 0 && (uint32_t)mtu != e->local_mtu) {
		pthread_mutex_lock(&p->lock);
		e->local_mtu = (uint32_t)mtu;
		e->pub.mtu = bb_peer_path_mtu(e);
		pthread_mutex_unlock(&p->lock);
	}
}

/* Return: 0, or -errno where the group could not be told. */
static int tell_group(struct bb_peers *p, int sock, uint8_t flags, uint64_t now, bool *other_mtu)
{
	const uint32_t dev = bb_announce_ifindex(p->announce);
	struct bb_hello h = own_hello(p, flags);
	int ret;

	if (!p->cfg.discover || !dev)
		return 0;
	ret = bb_announce_group(p->announce, sock, &h);
	if (ret)
		return ret;
	*other_mtu = h.mtu != p->dev_mtu;
	p->dev_mtu = h.mtu;
	for (unsigned int i = 0; i < p->n; i++)
		if (p->tab[i].pub.ifindex == dev && IN6_IS_ADDR_LINKLOCAL(&p->tab[i].pub.via))
			p->tab[i].told_at = now;
	return 0;
}

static void round_of_hellos(struct bb_peers *p, int sock, uint64_t now)
{
	/* A host that comes up wants to know the others at once. */
	const bool early = p->round < 3;
	const uint64_t spread = BB_PEER_HELLO_NS / 8;
	bool other_mtu = false;
	struct bb_hello h;
	int ret;

	ret = tell_group(p, sock, early ? BB_HELLO_WANTS_REPLY : 0, now, &other_mtu);
	if (ret && !p->group_failed && now - p->started > 5 * BB_PEER_HELLO_NS) {
		p->group_failed = true;
		errno = -ret;
		bb_warn("cannot send HELLO on %s: %m; hosts are not discovered there until that works (has it a link-local "
			"IPv6 address?)",
			p->cfg.dev);
	} else if (!ret) {
		p->group_failed = false;
	}
	h = own_hello(p, BB_HELLO_WANTS_REPLY);
	bb_announce_configured(p->announce, sock, &h);
	/* Whoever hears us by neither way, and now and then all, for the round trip. */
	for (unsigned int i = 0; i < p->n; i++) {
		struct bb_peer_entry *e = &p->tab[i];
		bool ping = other_mtu || (p->round + i) % PING_ROUNDS == 0;

		if (e->pub.self || !e->pub.alive)
			continue;
		/* We hear it, but it does not answer: has its interface another link address? */
		if (e->pinged_at && now - e->pinged_at > BB_PEER_HELLO_NS) {
			e->pinged_at = 0;
			ping = true;
			if (p->routes)
				bb_routes_peer_doubt(p->routes, e->pub.node);
		}
		if (ping || now - e->told_at > BB_PEER_HELLO_NS / 2)
			tell(p, sock, e, ping ? BB_HELLO_WANTS_REPLY : 0, now);
	}
	if (ret == -EADDRNOTAVAIL || ret == -EINVAL) {
		/* The link-local address is not usable yet: soon. */
		p->next_round = now + BB_PEER_HELLO_NS / 5;
		return;
	}
	p->round++;
	p->moved -= !!p->moved;
	p->next_round = now + (early ? BB_PEER_HELLO_NS / 4 :
				       BB_PEER_HELLO_NS - spread + (uint64_t)rand_r(&p->rng) % (2 * spread));
}

static void bury_the_dead(struct bb_peers *p, uint64_t now)
{
	for (unsigned int i = 0; i < p->n; i++) {
		struct bb_peer_entry *e = &p->tab[i];

		if (e->pub.self || !e->pub.alive || now < e->pub.last_hello + BB_PEER_DEAD_NS)
			continue;
		pthread_mutex_lock(&p->lock);
		e->pub.alive = false;
		pthread_mutex_unlock(&p->lock);
		bb_warn("node %u (%s) does not answer any more; its memory cannot be reached", e->pub.node, e->pub.name);
		if (p->routes)
			bb_routes_peer_lost(p->routes, e->pub.node);
	}
}

/*
 * Packets to any node leave for the host with the most free memory. A switch
 * that knows better takes them elsewhere; a bridge brings them there. It changes
 * where that host is gone, or another has twice as much.
 */
static void route_any(struct bb_peers *p)
{
	const struct bb_peer_entry *now = p->any_by ? bb_peer_find(p, p->any_by) : NULL, *best = NULL;

	for (unsigned int i = 0; i < p->n; i++) {
		const struct bb_peer_entry *e = &p->tab[i];

		if (!e->pub.self && e->pub.alive && !e->pub.key_differs && e->pub.ifindex && (!best || e->pub.free > best->pub.free))
			best = e;
	}
	if (now && now->pub.alive && !now->pub.key_differs && best && now->pub.free >= best->pub.free / 2)
		best = now;
	if (best)
		bb_routes_peer(p->routes, BB_NODE_ANY, &best->pub.via, best->pub.ifindex);
	else if (p->any_by)
		bb_routes_peer_lost(p->routes, BB_NODE_ANY);
	p->any_by = best ? best->pub.node : 0;
}

uint64_t bb_peers_tick(struct bb_peers *p, int sock, uint64_t now)
{
	uint64_t next;

	if (now >= p->next_speed) { /* it may have been plugged in elsewhere */
		p->next_speed = now + SPEED_NS;
		bb_peers_measure_link(p, sock);
	}
	bb_announce_join(p->announce, sock);
	if (bb_announce_resolve(p->announce, now))
		p->next_round = now;
	for (unsigned int i = 0; i < p->n; i++) {
		struct bb_peer_entry *e = &p->tab[i];

		if (!e->reply_due)
			continue;
		e->reply_due = false;
		tell(p, sock, e, 0, now);
	}
	if (now >= p->next_round)
		round_of_hellos(p, sock, now);
	bury_the_dead(p, now);
	if (p->routes && now >= p->next_fix) {
		p->next_fix = now + BB_PEER_HELLO_NS / 4;
		route_any(p);
		/* Peers hold our old link address for permanent: they hear it in a second, or would in ten. */
		if (bb_routes_tick(p->routes)) {
			p->moved = MOVED_ROUNDS;
			p->next_round = now;
		}
	}
	next = now + BB_PEER_HELLO_NS / 2; /* the dead, and names that are being looked up */
	return p->next_round < next ? p->next_round : next;
}

void bb_peers_bye(struct bb_peers *p, int sock)
{
	const uint64_t now = bb_now_ns();
	struct bb_hello h = own_hello(p, BB_HELLO_GOODBYE);
	bool other_mtu;

	tell_group(p, sock, BB_HELLO_GOODBYE, now, &other_mtu);
	bb_announce_configured(p->announce, sock, &h);
	for (unsigned int i = 0; i < p->n; i++)
		if (!p->tab[i].pub.self && p->tab[i].pub.alive)
			tell(p, sock, &p->tab[i], BB_HELLO_GOODBYE, now);
}
