/* SPDX-License-Identifier: MIT */
/*
 * HELLOs that come in, and packets that fail authentication.
 *
 * A host number belongs to one incarnation (boot) at a time. A HELLO with
 * another boot is a restart where it comes from an address that this host has
 * spoken from, or where the old one is dead; else it is a second host of the
 * same number, which is refused and said. Ids rise within an incarnation and
 * old incarnations are remembered, so that a recorded HELLO has no effect.
 */
#include "net/peers_impl.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <bluebridge/gptr.h>

#include "clock.h"
#include "log.h"
#include "options.h"

static const char *addr_text(const struct in6_addr *a, char buf[INET6_ADDRSTRLEN])
{
	return inet_ntop(AF_INET6, a, buf, INET6_ADDRSTRLEN);
}

static bool known_addr(const struct bb_peer_entry *e, const struct in6_addr *a)
{
	for (unsigned int i = 0; i < e->naddr && i < BB_PEER_ADDRS; i++)
		if (!memcmp(&e->addr[i], a, sizeof(*a)))
			return true;
	return false;
}

static bool old_boot(const struct bb_peer_entry *e, uint32_t boot)
{
	for (unsigned int i = 0; i < e->nold && i < BB_PEER_OLD_BOOTS; i++)
		if (e->old_boot[i] == boot)
			return true;
	return false;
}

/* A HELLO that claims our own number. */
static void own_number(struct bb_peers *p, const struct in6_addr *src, const struct bb_hello *h)
{
	char a[INET6_ADDRSTRLEN];

	if (h->boot == p->cfg.boot || h->boot == p->conflict_boot || (h->flags & BB_HELLO_GOODBYE))
		return;
	p->conflict_boot = h->boot;
	bb_error("%s (%s) says that it is node %u, as this host does; give each host its own number (bbd --node)", h->name,
		 addr_text(src, a), h->node);
}

/*
 * Is this HELLO the next word of the host that the entry stands for? Return: 1
 * yes, 2 yes, after a restart, 0 no.
 */
static int accepts(struct bb_peers *p, struct bb_peer_entry *e, const struct in6_addr *src, const struct bb_hello *h,
		   uint32_t session, uint64_t id)
{
	char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];

	if (e->ghost || !e->pub.boot)
		return 1;
	if (h->boot == e->pub.boot)
		return session == e->session && id > e->last_id;
	if (old_boot(e, h->boot))
		return 0;
	if (!e->pub.alive || known_addr(e, src))
		return 2;
	if (e->refused_boot != h->boot) {
		e->refused_boot = h->boot;
		bb_error("%s (%s) says that it is node %u, which is %s (%s); it is refused; give each host its own number "
			 "(bbd --node)",
			 h->name, addr_text(src, a), h->node, e->pub.name, addr_text(&e->pub.via, b));
	}
	return 0;
}

/*
 * The next hop is the address that HELLOs keep coming from. Where there are
 * several, the one on the link of discovery wins, and no other takes over while
 * it is fresh: else routes would flap between them.
 */
static bool takes_via(const struct bb_peers *p, const struct bb_peer_entry *e, const struct in6_addr *src, uint32_t ifindex,
		      uint64_t now)
{
	const uint32_t dev = bb_announce_ifindex(p->announce);
	struct bb_gptr g;

	if (bb_gptr_decode(src, &g))
		return false;
	if (!e->pub.ifindex)
		return true;
	if (e->pub.ifindex == ifindex && !memcmp(&e->pub.via, src, sizeof(*src)))
		return true;
	if (IN6_IS_ADDR_LINKLOCAL(src) && ifindex == dev &&
	    !(IN6_IS_ADDR_LINKLOCAL(&e->pub.via) && e->pub.ifindex == dev))
		return true;
	return now - e->via_seen > BB_PEER_DEAD_NS - BB_PEER_HELLO_NS;
}

/* Lock held. Return: whether the next hop is another now. */
static bool update(struct bb_peers *p, struct bb_peer_entry *e, const struct in6_addr *src, uint32_t ifindex,
		   const struct bb_hello *h, bool restart, uint64_t now)
{
	bool moved = false;

	if (restart) {
		e->old_boot[e->nold++ % BB_PEER_OLD_BOOTS] = e->pub.boot;
		e->pub.rtt_ns = 0;
	}
	if (e->ghost) {
		e->ghost = false;
		p->nghosts--;
	}
	e->pub.boot = h->boot;
	e->pub.alive = true;
	e->pub.key_differs = false;
	e->pub.rdma = h->flags & BB_HELLO_RDMA;
	e->pub.lz4 = h->flags & BB_HELLO_LZ4;
	e->pub.slow = h->flags & BB_HELLO_SLOW;
	e->pub.lent = h->lent;
	e->pub.free = h->free;
	e->pub.last_hello = now;
	e->charged = 0;
	if (h->mtu)
		e->said_mtu = h->mtu;
	e->pub.mtu = bb_peer_path_mtu(e);
	if (h->echo && h->echo < now && now - h->echo < BB_PEER_DEAD_NS) {
		uint64_t rtt = now - h->echo;

		e->pinged_at = 0;
		e->pub.rtt_ns = e->pub.rtt_ns ? (e->pub.rtt_ns * 7 + rtt) / 8 : rtt;
	}
	memcpy(e->pub.name, h->name, sizeof(e->pub.name));
	if (takes_via(p, e, src, ifindex, now)) {
		moved = e->pub.ifindex != ifindex || memcmp(&e->pub.via, src, sizeof(*src));
		e->pub.via = *src;
		e->pub.ifindex = ifindex;
		e->via_seen = now;
	}
	return moved;
}

int bb_peers_input(struct bb_peers *p, const struct in6_addr *src, uint32_t ifindex, uint16_t sport,
		   const struct bb_hdr *h, const void *payload, size_t len)
{
	const uint32_t session = be32toh(h->session);
	const uint64_t id = be64toh(h->id), now = bb_now_ns();
	char a[INET6_ADDRSTRLEN], text[16];
	bool was_alive, joined, moved;
	struct bb_hello hello;
	struct bb_peer_entry *e;
	int how = 1;

	if (h->status || h->seg || be16toh(h->nseg) != 1 || be32toh(h->length) != len ||
	    bb_hello_decode(&hello, payload, len))
		return -EBADMSG;
	if (hello.tenant != p->cfg.tenant)
		return 0; /* a neighbour's cluster under the same key */
	if (hello.node == p->cfg.node) {
		own_number(p, src, &hello);
		return 0;
	}
	e = bb_peer_find(p, hello.node);
	if (e)
		how = accepts(p, e, src, &hello, session, id);
	if (!how || (!e && (hello.flags & BB_HELLO_GOODBYE)))
		return 0;

	pthread_mutex_lock(&p->lock);
	if (!e)
		e = bb_peer_add(p, hello.node);
	if (!e) {
		pthread_mutex_unlock(&p->lock);
		bb_warn_once("more than %d hosts say HELLO; the others are ignored", BB_PEERS_MAX);
		return 0;
	}
	was_alive = e->pub.alive;
	joined = !was_alive || how == 2;
	moved = update(p, e, src, ifindex, &hello, how == 2, now);
	if (hello.flags & BB_HELLO_GOODBYE)
		e->pub.alive = false;
	pthread_mutex_unlock(&p->lock);

	e->session = session;
	e->last_id = id;
	if (!known_addr(e, src))
		e->addr[e->naddr++ % BB_PEER_ADDRS] = *src;
	if (hello.flags & BB_HELLO_GOODBYE) {
		if (was_alive)
			bb_info("node %u (%s) has left", e->pub.node, e->pub.name);
		if (p->routes)
			bb_routes_peer_lost(p->routes, e->pub.node);
		return 0;
	}
	e->at = (struct sockaddr_in6){
		.sin6_family = AF_INET6,
		.sin6_port = htobe16(hello.port),
		.sin6_addr = *src,
		.sin6_scope_id = IN6_IS_ADDR_LINKLOCAL(src) ? ifindex : 0,
	};
	if (hello.port != p->cfg.port && !e->told_port) {
		e->told_port = true;
		bb_warn("node %u (%s) serves UDP port %u and this host %u; give all hosts the same --port", e->pub.node,
			e->pub.name, hello.port, p->cfg.port);
	}
	if (p->routes && how == 2)
		bb_routes_peer_lost(p->routes, e->pub.node);
	if (p->routes && hello.flags & BB_HELLO_MOVED)
		bb_routes_peer_doubt(p->routes, e->pub.node);
	if (p->routes && (moved || joined))
		bb_routes_peer(p->routes, e->pub.node, &e->pub.via, e->pub.ifindex);
	if (joined)
		bb_info("node %u (%s) at %s %s, lends %s", e->pub.node, e->pub.name, addr_text(src, a),
			how == 2 ? "has restarted" : "is there", bb_size_format(hello.lent, text, sizeof(text)));
	if (hello.flags & BB_HELLO_WANTS_REPLY)
		e->echo = hello.stamp;
	if (!joined && !(hello.flags & BB_HELLO_WANTS_REPLY))
		return 0;
	e->reply_due = true;
	return 1;
}

void bb_peers_key_differs(struct bb_peers *p, const struct in6_addr *src, uint16_t node)
{
	char a[INET6_ADDRSTRLEN], id[9];
	struct bb_peer_entry *e;

	pthread_mutex_lock(&p->lock);
	e = node && node != BB_NODE_ANY && node != p->cfg.node ? bb_peer_find(p, node) : NULL;
	/* Anyone can make such a packet, and some are damaged on their way: a host that is well is not blamed. */
	if (e && e->pub.alive) {
		pthread_mutex_unlock(&p->lock);
		return;
	}
	if (e)
		e->pub.key_differs = true;
	if (!e && node && node != BB_NODE_ANY && node != p->cfg.node && p->nghosts < BB_GHOSTS_MAX) {
		e = bb_peer_add(p, node);
		if (e) {
			p->nghosts++;
			e->ghost = e->pub.key_differs = true;
			e->pub.via = *src;
		}
	}
	pthread_mutex_unlock(&p->lock);
	for (unsigned int i = 0; i < p->nbad && i < BB_BAD_SOURCES_MAX; i++)
		if (!memcmp(&p->bad[i], src, sizeof(*src)))
			return;
	if (p->nbad >= BB_BAD_SOURCES_MAX)
		return;
	p->bad[p->nbad++] = *src;
	bb_key_id(&p->cfg.key, id);
	if (node)
		bb_warn("packets of node %u (%s) fail authentication: its key is not %s, the key of this host; copy one "
			"host's key file to all (bbd --key)",
			node, addr_text(src, a), id);
	else
		bb_warn("packets from %s fail authentication: its key is not %s, the key of this host; copy one host's key "
			"file to all (bbd --key)",
			addr_text(src, a), id);
	if (p->nbad == BB_BAD_SOURCES_MAX)
		bb_warn("%d hosts have failed authentication; no more are named", BB_BAD_SOURCES_MAX);
}
