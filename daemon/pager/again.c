/* SPDX-License-Identifier: MIT */
/*
 * Programs that are to come: those that bbd served before it was killed or
 * replaced, and children of a fork on their way here. Until they attach, bbd
 * holds their home memory by what was kept (rx.c), and nothing else of them.
 * Whoever shows the secret that the program was given is that program.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "clock.h"
#include "keep/keep.h"
#include "log.h"
#include "program.h"

#define NAMES_MAX 65536
#define GRACE_NS 10000000000ULL /* beyond the time for which the keeper waits */
#define CHILD_NS 30000000000ULL /* a child attaches before its fork() returns */
#define CHILDREN 64u /* of one program, on their way; each has its tables, and a place at the keeper */
#define HELLO_NS 3000000000ULL

static struct bb_program *absent_new(struct bb_pager *pg, uint32_t id, uint64_t wait_ns)
{
	struct bb_program *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->pager = pg;
	p->id = id;
	p->map = MAP_FAILED;
	p->sock = p->uffd = p->memfd = p->kick = -1;
	p->absent_until = bb_now_ns() + wait_ns;
	return p;
}

static void add(struct bb_pager *pg, struct bb_program *p)
{
	pthread_mutex_lock(&pg->lock);
	p->next = pg->programs;
	pg->programs = p;
	pthread_mutex_unlock(&pg->lock);
}

static uint32_t id_of(const char *name)
{
	return (uint32_t)strtoul(name + sizeof(BB_KEPT_PROGRAMS) - 1, NULL, 10);
}

/* Return: how many names, in *names to be freed. */
static unsigned int kept_names(struct bb_keep *keep, char (**names)[BB_KEEP_NAME])
{
	unsigned int n;

	*names = NULL;
	n = keep ? bb_keep_list(keep, BB_KEPT_PROGRAMS, NULL, 0) : 0;
	if (!n)
		return 0;
	*names = calloc(n, sizeof(**names));
	return *names ? bb_keep_list(keep, BB_KEPT_PROGRAMS, *names, n) : 0;
}

unsigned int bb_pagers_kept(struct bb_keep *keep)
{
	char (*names)[BB_KEEP_NAME];
	unsigned int n = kept_names(keep, &names), most = 0;

	for (unsigned int i = 0; i < n; i++) {
		uint32_t id = id_of(names[i]);

		if (id && (id - 1) % BB_PAGERS_MAX + 1 > most)
			most = (id - 1) % BB_PAGERS_MAX + 1;
	}
	free(names);
	return most;
}

int bb_again_load(struct bb_pager *pg)
{
	char (*names)[BB_KEEP_NAME];
	unsigned int n = kept_names(pg->cfg.keep, &names), found = 0;
	int r = 0;

	for (unsigned int i = 0; i < n; i++) {
		uint32_t id = id_of(names[i]);
		struct bb_program *p;

		if (!id || (id - 1) % BB_PAGERS_MAX != pg->cfg.index)
			continue;
		/* A number that was ever given must not be given again. */
		while (pg->next_id <= id)
			pg->next_id += BB_PAGERS_MAX;
		p = absent_new(pg, id, bb_keep_ms(pg->cfg.keep) * 1000000ULL + GRACE_NS);
		if (!p) {
			r = -ENOMEM;
			break;
		}
		if (bb_rx_init(p) < 0) {
			bb_warn("what was kept for region %u makes no sense: it is given up", id);
			bb_program_free(p, true);
			continue;
		}
		bb_rx_load(p);
		/* It may have ended meanwhile: then nobody comes. */
		if (p->pid && kill((pid_t)p->pid, 0) < 0 && errno == ESRCH)
			p->gone = true;
		add(pg, p);
		found++;
	}
	free(names);
	if (r == 0)
		r = bb_rx_load_shares(pg->programs);
	if (found)
		bb_info("pager %u: goes on for %u programs of the bbd before", pg->cfg.index, found);
	return r;
}

/*
 * Is it time to let p in? Its homes must be known first, or what is there would
 * seem to be lost: HELLO takes a moment after a start.
 */
bool bb_again_ready(const struct bb_program *p)
{
	struct bb_pager *pg = p->pager;
	const struct bb_program *q;
	struct bb_peer peer;
	uint16_t last = 0;

	if (!p->again || bb_now_ns() - pg->started > HELLO_NS)
		return true;
	for (q = pg->programs; q && q->id != p->again; q = q->next)
		;
	for (uint32_t i = 1; q && i < q->nrx; i++) {
		const struct bb_rx *x = &q->rx[i];

		if (x->state == BB_RX_FREE || x->state == BB_RX_BAD || x->node == last)
			continue;
		last = x->node;
		if (!bb_peers_get(pg->cfg.peers, last, &peer))
			return false;
	}
	return true;
}

static void move_to(struct bb_program *p, struct bb_program *from)
{
	uint32_t *xrx = p->xrx;

	bb_rx_fini(p, false);
	p->id = from->id;
	p->kept = from->kept;
	p->rx = from->rx;
	p->use = from->use;
	p->nrx = from->nrx;
	p->rx_cap = from->rx_cap;
	p->rx_free = from->rx_free;
	p->xrx = from->xrx;
	p->xtop = from->xtop;
	memcpy(p->spare, from->spare, sizeof(p->spare));
	p->nspare = from->nspare;
	p->given = from->given;
	p->forked = from->forked;
	p->place = from->place;
	p->place_node = from->place_node;
	p->no_prefetch = from->no_prefetch;
	memcpy(p->secret, from->secret, sizeof(p->secret));
	from->kept = NULL;
	from->rx = NULL;
	from->use = NULL;
	from->xrx = xrx;
}

int bb_again_claim(struct bb_program *p)
{
	struct bb_pager *pg = p->pager;
	struct bb_program **at = &pg->programs, *q;
	uint64_t differ;

	for (; (q = *at); at = &q->next)
		if (q->id == p->again && bb_absent(q) && !q->gone)
			break;
	if (!q)
		return -ENOENT;
	differ = (q->secret[0] ^ p->secret[0]) | (q->secret[1] ^ p->secret[1]);
	if (differ || q->npages != p->npages || q->base != p->base || q->nslots != p->nslots)
		return -ENOENT;
	*at = q->next; /* the caller holds the lock */
	move_to(p, q);
	p->kept->pid = p->pid;
	memcpy(p->kept->comm, p->comm, sizeof(p->comm));
	bb_program_free(q, false);
	return 0;
}

struct bb_program *bb_again_child(struct bb_program *q)
{
	struct bb_pager *pg = q->pager;
	struct bb_program *p;
	unsigned int n = 0;

	for (p = pg->programs; p; p = p->next)
		n += bb_absent(p) && !p->gone && p->parent == q->id;
	if (n >= CHILDREN) {
		bb_warn_once("program %u (%s): %u of its fork children have not come yet: no more are let in", q->pid, q->comm, n);
		return NULL;
	}
	pthread_mutex_lock(&pg->lock);
	p = absent_new(pg, pg->next_id, CHILD_NS);
	pg->next_id += BB_PAGERS_MAX;
	pthread_mutex_unlock(&pg->lock);
	if (!p)
		return NULL;
	p->parent = q->id;
	p->base = q->base;
	p->npages = q->npages;
	p->nextents = q->nextents;
	p->nslots = q->nslots;
	p->place = q->place;
	p->place_node = q->place_node;
	p->no_prefetch = q->no_prefetch;
	p->given = q->given;
	memcpy(p->comm, q->comm, sizeof(p->comm));
	p->xrx = calloc(p->nextents, sizeof(*p->xrx));
	if (!p->xrx || bb_rx_init(p) < 0 || bb_rx_share(p, q) < 0 ||
	    getrandom(p->secret, sizeof(p->secret), 0) != sizeof(p->secret)) {
		/* Other readers of the same extents are told by drain. */
		p->gone = true;
		add(pg, p);
		return NULL;
	}
	memcpy(p->kept->secret, p->secret, sizeof(p->secret));
	add(pg, p);
	return p;
}

void bb_again_poll(struct bb_program *p)
{
	if (p->gone || p->pager->now < p->absent_until)
		return;
	bb_warn("program %u (%s): did not come to region %u: what was held for it is given back", p->pid, p->comm, p->id);
	p->gone = true;
}
