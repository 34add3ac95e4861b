/* SPDX-License-Identifier: MIT */
/*
 * The table of a program's home extents, and who else reads them: parents and
 * children after a fork. It lies in memory that outlives bbd (keep/), under
 * BB_KEPT_PROGRAMS and the region's number: a head and the entries. What follows
 * from the entries (spares, readers, which extent lies where) is made anew.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "keep/keep.h"
#include "program.h"

#define KEPT_MAGIC 0x62626b70u /* "bbkp" */
#define KEPT_VERSION 1
#define HEAD 4096u

static uint64_t table_size(uint32_t cap)
{
	return (HEAD + cap * sizeof(struct bb_rx) + HEAD - 1) & ~(uint64_t)(HEAD - 1);
}

static void name_of(const struct bb_program *p, char name[BB_KEEP_NAME])
{
	snprintf(name, BB_KEEP_NAME, BB_KEPT_PROGRAMS "%u", p->id);
}

/* The books of the bbd before us. Return: descriptor, its size in *size; -errno. */
static int find(const struct bb_program *p, const char *name, uint64_t *size)
{
	struct stat st;
	int fd = bb_keep_get(p->pager->cfg.keep, name);

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < HEAD + sizeof(struct bb_rx)) {
		close(fd);
		return -EPROTO;
	}
	*size = (uint64_t)st.st_size;
	return fd;
}

static int adopt(struct bb_program *p, uint64_t size)
{
	const struct bb_kept *k = p->kept;

	if (k->magic != KEPT_MAGIC || k->version != KEPT_VERSION || k->region != p->id || !k->npages ||
	    k->npages % BB_EXTENT_PAGES || table_size(p->rx_cap) > size || !k->nrx || k->nrx > p->rx_cap)
		return -EPROTO;
	p->base = k->base;
	p->npages = k->npages;
	p->nextents = k->npages / BB_EXTENT_PAGES;
	p->nslots = k->nslots;
	p->pid = k->pid;
	p->place = k->place;
	p->place_node = k->place_node;
	p->no_prefetch = k->no_prefetch;
	p->nrx = k->nrx;
	memcpy(p->comm, k->comm, sizeof(p->comm));
	memcpy(p->secret, k->secret, sizeof(p->secret));
	p->xrx = calloc(p->nextents, sizeof(*p->xrx));
	return p->xrx ? 0 : -ENOMEM;
}

int bb_rx_init(struct bb_program *p)
{
	const bool new = p->npages != 0;
	uint64_t size = 0;
	char name[BB_KEEP_NAME];
	bool found;
	int fd, r;

	name_of(p, name);
	p->nrx = p->rx_free = 1; /* 0 is "none" */
	if (new) {
		p->rx_cap = 2 * p->nextents + 4 * BB_SPARE_MAX;
		size = table_size(p->rx_cap);
		fd = bb_keep_memory(p->pager->cfg.keep, name, size, &found);
	} else {
		fd = find(p, name, &size);
		p->rx_cap = (uint32_t)((size - HEAD) / sizeof(struct bb_rx));
	}
	if (fd < 0)
		return fd;
	/* Sparse: most of it is never touched. */
	p->kept = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	r = -errno;
	close(fd);
	if (p->kept == MAP_FAILED) {
		p->kept = NULL;
		return r;
	}
	p->kept_size = size;
	p->rx = (struct bb_rx *)((uint8_t *)p->kept + HEAD);
	p->use = calloc(p->rx_cap, sizeof(*p->use));
	if (!p->use)
		return -ENOMEM;
	if (!new)
		return adopt(p, size);
	*p->kept = (struct bb_kept){
		.version = KEPT_VERSION,
		.region = p->id,
		.pid = p->pid,
		.secret = { p->secret[0], p->secret[1] },
		.base = p->base,
		.npages = p->npages,
		.nslots = p->nslots,
		.nrx = 1,
		.place = p->place,
		.place_node = p->place_node,
		.no_prefetch = p->no_prefetch,
	};
	memcpy(p->kept->comm, p->comm, sizeof(p->comm));
	__atomic_store_n(&p->kept->magic, KEPT_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

void bb_rx_fini(struct bb_program *p, bool forget)
{
	char name[BB_KEEP_NAME];

	/* A bbd that leaves has drained nobody. */
	for (uint32_t r = 1; p->use && r < p->nrx; r++)
		bb_rx_unshare(p, r);
	free(p->use);
	p->use = NULL;
	if (!p->kept)
		return;
	munmap(p->kept, p->kept_size);
	p->kept = NULL;
	p->rx = NULL;
	if (!forget)
		return;
	name_of(p, name);
	bb_keep_drop(p->pager->cfg.keep, name);
}

/* The state comes last: without it the next bbd sees a free entry. */
static void set(struct bb_program *p, uint32_t rx, const struct bb_rx *what)
{
	struct bb_rx x = *what;

	x.state = BB_RX_FREE;
	p->rx[rx] = x;
	__atomic_store_n(&p->rx[rx].state, what->state, __ATOMIC_RELEASE);
}

/* The table never moves: others look at it while we work. */
uint32_t bb_rx_new(struct bb_program *p, const struct bb_rx *what)
{
	uint32_t i;

	for (i = p->rx_free; i < p->nrx; i++)
		if (p->rx[i].state == BB_RX_FREE)
			goto found;
	if (p->nrx == p->rx_cap)
		return 0;
	i = p->nrx;
	p->rx[i].state = BB_RX_FREE;
	__atomic_store_n(&p->kept->nrx, ++p->nrx, __ATOMIC_RELEASE);
found:
	p->rx_free = i + 1;
	set(p, i, what);
	return i;
}

void bb_rx_put(struct bb_program *p, uint32_t rx)
{
	p->rx[rx].state = BB_RX_FREE;
	p->use[rx].share = NULL;
	if (rx < p->rx_free)
		p->rx_free = rx;
}

bool bb_rx_check(const struct bb_program *p, uint32_t rx, uint32_t page)
{
	return rx && rx < p->nrx && p->rx[rx].state == BB_RX_READY && p->rx[rx].extent == page / BB_EXTENT_PAGES;
}

/* --- sharing --------------------------------------------------------------- */

bool bb_rx_ours(const struct bb_program *p, uint32_t rx)
{
	return !p->use[rx].share || p->use[rx].share->refs == 1;
}

bool bb_rx_unshare(struct bb_program *p, uint32_t rx)
{
	struct bb_rx_share *share = p->use[rx].share;

	p->use[rx].share = NULL;
	if (share && --share->refs)
		return false;
	free(share);
	return true;
}

int bb_rx_share(struct bb_program *p, struct bb_program *q)
{
	if (p->rx_cap < q->nrx || p->nextents != q->nextents)
		return -EINVAL;
	p->kept->nrx = p->nrx = q->nrx;
	for (uint32_t r = 1; r < q->nrx; r++) {
		struct bb_rx *x = &q->rx[r];
		struct bb_rx_use *u = &q->use[r];

		if (x->extent == BB_NO_EXTENT || (x->state != BB_RX_READY && x->state != BB_RX_BAD))
			continue;
		if (!u->share) {
			u->share = malloc(sizeof(*u->share));
			if (!u->share)
				return -ENOMEM;
			u->share->refs = 1;
		}
		u->share->refs++;
		set(p, r, x);
		/* The child has no part in a copy that is being made. Bad ones lead on. */
		if (x->twin && q->rx[x->twin].state != BB_RX_READY && q->rx[x->twin].state != BB_RX_BAD)
			p->rx[r].twin = 0;
		p->use[r].share = u->share;
	}
	p->xtop = q->xtop;
	memcpy(p->xrx, q->xrx, q->xtop * sizeof(*p->xrx));
	p->forked = q->forked = true;
	return 0;
}

/* --- after a restart ------------------------------------------------------- */

void bb_rx_load(struct bb_program *p)
{
	for (uint32_t r = 1; r < p->nrx; r++) {
		struct bb_rx *x = &p->rx[r];

		if (x->state == BB_RX_FREE)
			continue;
		if (x->extent != BB_NO_EXTENT && x->extent >= p->nextents)
			x->state = BB_RX_BAD;
		if (x->state == BB_RX_DELETING) {
			/* Again: the home may have done it, or not. No page is there. */
			if (x->extent == BB_NO_EXTENT)
				x->extent = 0;
			x->old = true;
			x->state = BB_RX_READY;
		}
		if (x->state == BB_RX_SYNCING) {
			/* Half a copy is none: begun again with another. */
			x->old = true;
			if (x->twin && x->twin < p->nrx && p->rx[x->twin].twin == r)
				p->rx[x->twin].twin = 0; /* or it would count as whole */
			x->twin = 0;
			x->state = BB_RX_READY;
		}
		p->forked |= x->old;
		if (x->state != BB_RX_READY || x->old)
			continue;
		if (x->extent == BB_NO_EXTENT) {
			if (p->nspare < BB_SPARE_MAX)
				p->spare[p->nspare++] = r;
			continue;
		}
		p->given++;
		if (!p->xrx[x->extent])
			p->xrx[x->extent] = r;
		if (x->extent >= p->xtop)
			p->xtop = x->extent + 1;
	}
}

struct holder {
	uint64_t ptr;
	uint32_t boot;
	uint16_t node;
	struct bb_program *p;
	uint32_t rx;
};

static int by_place(const void *va, const void *vb)
{
	const struct holder *a = va, *b = vb;

	if (a->node != b->node)
		return a->node < b->node ? -1 : 1;
	if (a->boot != b->boot)
		return a->boot < b->boot ? -1 : 1;
	return a->ptr < b->ptr ? -1 : a->ptr > b->ptr;
}

static int share_all(struct holder *h, size_t n)
{
	for (size_t i = 0, k; i < n; i = k) {
		struct bb_rx_share *share;

		for (k = i + 1; k < n && !by_place(&h[i], &h[k]); k++)
			;
		if (k == i + 1)
			continue;
		share = malloc(sizeof(*share));
		if (!share)
			return -ENOMEM;
		share->refs = (uint32_t)(k - i);
		for (size_t j = i; j < k; j++) {
			h[j].p->use[h[j].rx].share = share;
			h[j].p->forked = true;
		}
	}
	return 0;
}

int bb_rx_load_shares(struct bb_program *list)
{
	struct bb_program *p;
	struct holder *h;
	size_t n = 0, at = 0;
	int r;

	for (p = list; p; p = p->next)
		n += p->nrx;
	h = calloc(n ? n : 1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	for (p = list; p; p = p->next)
		for (uint32_t i = 1; i < p->nrx; i++) {
			const struct bb_rx *x = &p->rx[i];

			if (x->state != BB_RX_FREE && x->extent != BB_NO_EXTENT)
				h[at++] = (struct holder){ x->ptr, x->boot, x->node, p, i };
		}
	qsort(h, at, sizeof(*h), by_place);
	r = share_all(h, at);
	free(h);
	return r;
}
