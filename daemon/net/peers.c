/* SPDX-License-Identifier: MIT */
/*
 * The table of hosts.
 *
 * Theory of operation
 * -------------------
 * A host is what its HELLOs say, and alive while they come. The server's
 * thread alone adds and changes entries, so it reads them without the lock;
 * every change, and every look from another thread, takes it. The lock is
 * never held across a system call: messages, routes and packets come after.
 *
 * Lock order: one mutex, nothing inside.
 */
#include "net/peers_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include <bluebridge/gptr.h>

#include "clock.h"

/* --- making and ending -------------------------------------------------- */

static int copy_config(struct bb_peers *p, const struct bb_peers_config *cfg)
{
	const char **list;
	unsigned int n = 0;

	p->cfg = *cfg;
	p->cfg.dev = NULL;
	while (cfg->peers && cfg->peers[n])
		n++;
	p->cfg.peers = list = calloc(n + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (unsigned int i = 0; i < n; i++) {
		list[i] = strdup(cfg->peers[i]);
		if (!list[i])
			return -ENOMEM;
	}
	if (cfg->dev) {
		p->cfg.dev = strdup(cfg->dev);
		if (!p->cfg.dev)
			return -ENOMEM;
	}
	return 0;
}

static void free_config(struct bb_peers_config *c)
{
	for (unsigned int i = 0; c->peers && c->peers[i]; i++)
		free((char *)c->peers[i]);
	free(c->peers);
	free((char *)c->dev);
	explicit_bzero(&c->key, sizeof(c->key));
}

struct bb_peer_entry *bb_peer_add(struct bb_peers *p, uint16_t node)
{
	struct bb_peer_entry *t;

	if (p->n >= BB_PEERS_MAX)
		return NULL;
	t = reallocarray(p->tab, p->n + 1, sizeof(*t));
	if (!t)
		return NULL;
	p->tab = t;
	t += p->n++;
	memset(t, 0, sizeof(*t));
	t->pub.node = node;
	p->index[node] = (uint16_t)p->n;
	return t;
}

uint32_t bb_peer_path_mtu(const struct bb_peer_entry *e)
{
	if (!e->local_mtu || !e->said_mtu)
		return 0;
	return e->local_mtu < e->said_mtu ? e->local_mtu : e->said_mtu;
}

int bb_peers_new(struct bb_peers **out, const struct bb_peers_config *cfg)
{
	struct bb_peers *p;
	struct bb_peer_entry *e;
	int ret;

	if (!cfg->node || cfg->node == BB_NODE_ANY || !cfg->boot || !cfg->port)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	ret = copy_config(p, cfg);
	if (ret)
		goto err;
	ret = bb_announce_new(&p->announce, &p->cfg);
	if (ret)
		goto err;
	ret = -ENOMEM;
	e = bb_peer_add(p, cfg->node);
	if (!e)
		goto err;
	e->pub.self = true;
	e->pub.alive = true;
	e->pub.boot = cfg->boot;
	e->pub.last_hello = p->started = bb_now_ns();
	gethostname(e->pub.name, sizeof(e->pub.name) - 1);
	if (getrandom(&p->rng, sizeof(p->rng), GRND_NONBLOCK) < 0)
		p->rng = cfg->boot;
	p->slow = cfg->compress == BB_COMPRESS_ON; /* auto: the first tick looks */
	/* Without routes peers may still be reached by routes set by hand. */
	if (cfg->routes)
		bb_routes_new(&p->routes, cfg->tenant, cfg->node);
	if (p->routes && cfg->dev)
		bb_routes_any_new(&p->any, cfg->tenant, BB_NODE_ANY, cfg->dev);
	*out = p;
	return 0;
err:
	bb_peers_free(p);
	return ret;
}

void bb_peers_free(struct bb_peers *p)
{
	if (!p)
		return;
	bb_routes_any_free(p->any);
	for (int i = 0; i < BB_PEERS_ADOPT; i++)
		bb_routes_any_free(p->adopt[i].routes);
	bb_routes_free(p->routes);
	bb_announce_free(p->announce);
	free_config(&p->cfg);
	pthread_mutex_destroy(&p->lock);
	free(p->tab);
	free(p);
}

const struct bb_peers_config *bb_peers_config(const struct bb_peers *p)
{
	return &p->cfg;
}

/* --- for every thread --------------------------------------------------- */

int bb_peers_get(struct bb_peers *p, uint16_t node, struct bb_peer *out)
{
	struct bb_peer_entry *e;

	pthread_mutex_lock(&p->lock);
	e = bb_peer_find(p, node);
	if (e)
		*out = e->pub;
	pthread_mutex_unlock(&p->lock);
	return !!e;
}

static int by_node(const void *a, const void *b)
{
	return (int)((const struct bb_peer *)a)->node - (int)((const struct bb_peer *)b)->node;
}

int bb_peers_list(struct bb_peers *p, struct bb_peer *out, int max)
{
	int n;

	pthread_mutex_lock(&p->lock);
	for (n = 0; n < max && n < (int)p->n; n++)
		out[n] = p->tab[n].pub;
	pthread_mutex_unlock(&p->lock);
	qsort(out, (size_t)n, sizeof(*out), by_node);
	return n;
}

static uint64_t room(const struct bb_peer_entry *e)
{
	return e->pub.free > e->charged ? e->pub.free - e->charged : 0;
}

uint16_t bb_peers_place(struct bb_peers *p, uint64_t bytes, const uint16_t *skip, int nskip)
{
	struct bb_peer_entry *best = NULL, *own = NULL;
	uint16_t node = 0;

	pthread_mutex_lock(&p->lock);
	for (unsigned int i = 0; i < p->n; i++) {
		struct bb_peer_entry *e = &p->tab[i];
		bool left_out = !e->pub.alive || e->pub.key_differs || room(e) < bytes || !room(e);

		for (int k = 0; k < nskip && !left_out; k++)
			left_out = skip[k] == e->pub.node;
		if (left_out)
			continue;
		if (e->pub.self)
			own = e;
		else if (!best || room(e) > room(best))
			best = e;
	}
	if (!best)
		best = own;
	if (best) {
		best->charged += bytes;
		node = best->pub.node;
	}
	pthread_mutex_unlock(&p->lock);
	return node;
}

void bb_peers_measure_link(struct bb_peers *p, int sock)
{
	const uint32_t speed = bb_link_speed(sock, p->cfg.dev);

	atomic_store(&p->speed, speed);
	atomic_store(&p->slow, p->cfg.compress == BB_COMPRESS_ON ||
				       (p->cfg.compress == BB_COMPRESS_AUTO && speed && speed <= BB_COMPRESS_MBIT));
}

bool bb_peers_compress(const struct bb_peers *p, const struct bb_peer *to)
{
	return p->cfg.compress != BB_COMPRESS_OFF && to->lz4 && !to->self && (to->slow || atomic_load(&p->slow));
}

uint32_t bb_peers_link_speed(const struct bb_peers *p)
{
	return atomic_load(&p->speed);
}

void bb_peers_rdma(struct bb_peers *p, bool on)
{
	atomic_store(&p->rdma, on);
}

void bb_peers_own(struct bb_peers *p, uint64_t lent, uint64_t free_bytes)
{
	struct bb_peer_entry *e;

	pthread_mutex_lock(&p->lock);
	e = bb_peer_find(p, p->cfg.node);
	e->pub.lent = lent;
	e->pub.free = free_bytes < lent ? free_bytes : lent;
	e->pub.last_hello = bb_now_ns();
	e->charged = 0;
	pthread_mutex_unlock(&p->lock);
}

int bb_peers_link(struct bb_peers *p, uint16_t node, uint8_t mac[6], uint32_t *ifindex)
{
	return p->routes ? bb_routes_link(p->routes, node, mac, ifindex) : -ENOTSUP;
}

void bb_peers_adopt(struct bb_peers *p, const uint16_t *nodes, unsigned int n)
{
	for (int i = 0; i < BB_PEERS_ADOPT; i++) {
		bool wanted = false;

		for (unsigned int k = 0; k < n; k++)
			wanted |= nodes[k] == p->adopt[i].node;
		if (wanted || !p->adopt[i].node)
			continue;
		bb_routes_any_free(p->adopt[i].routes);
		p->adopt[i].routes = NULL;
		p->adopt[i].node = 0;
	}
	for (unsigned int k = 0; p->routes && p->cfg.dev && k < n; k++) {
		int spare = -1, i;

		for (i = 0; i < BB_PEERS_ADOPT && p->adopt[i].node != nodes[k]; i++)
			if (!p->adopt[i].node && spare < 0)
				spare = i;
		if (i < BB_PEERS_ADOPT || spare < 0)
			continue;
		p->adopt[spare].node = nodes[k]; /* tried once */
		bb_routes_any_new(&p->adopt[spare].routes, p->cfg.tenant, nodes[k], p->cfg.dev);
	}
}
