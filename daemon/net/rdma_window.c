/* SPDX-License-Identifier: MIT */
/*
 * What of the lent memory NICs of other hosts may touch.
 *
 * Theory of operation
 * -------------------
 * A slab is registered once, when the first window in it is wanted, without any
 * right for others. What others get is a window on one extent, of type 2: bound to
 * the queue pair of the host that owns the extent, so that its key is worth nothing
 * in any other. (A device without windows gets a region an extent instead, whose key
 * holds for all queue pairs of this home; they are all of hosts that have the
 * cluster's key.) Who takes an extent away from its owner calls shut(), in whatever
 * thread: it deallocates the windows, which the kernel does before it returns.
 * home/window.c says why none is missed.
 *
 * To bind is a work request; it goes ahead of the answer in the same queue, which
 * is done in order. So it need not be waited for: where it fails, the queue pair does.
 *
 * Slabs that are values of a BPF map are memory of the kernel, mapped; it pins them
 * like others. Files of a --store it does not, and their pages go by UDP.
 */
#include "net/rdma_home_impl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "home/slab.h"
#include "log.h"

static struct bb_rdma_opening **bucket_of(struct bb_rdma_home *h, uint32_t extent)
{
	return &h->bucket[extent % BB_RDMA_BUCKETS];
}

/* --- slabs ----------------------------------------------------------------------- */

static void refused(struct bb_rdma_home *h, uint64_t index, int error)
{
	const char *what = error == ENOMEM ? "; raise the limit of locked memory (ulimit -l, LimitMEMLOCK= of the service)" : "";
	char text[96];

	snprintf(text, sizeof(text), "%s%s", strerrordesc_np(error), error == EOPNOTSUPP ? ": it is a file" : "");
	if (!h->stats.refused)
		bb_warn("rdma: lent memory cannot be registered (%s)%s: its pages go by UDP", text, what);
	pthread_mutex_lock(&h->lock);
	h->stats.refused++;
	memcpy(h->stats.why, text, sizeof(text));
	pthread_mutex_unlock(&h->lock);
	h->slab[index].refused = true;
}

/* Its entry, grown to. NULL: no memory. */
static struct bb_rdma_slab *slab_at(struct bb_rdma_home *h, uint64_t index)
{
	struct bb_rdma_slab *s;

	if (index >= h->nslabs) {
		s = reallocarray(h->slab, index + 1, sizeof(*s));
		if (!s)
			return NULL;
		memset(s + h->nslabs, 0, (index + 1 - h->nslabs) * sizeof(*s));
		h->slab = s;
		h->nslabs = index + 1;
	}
	return &h->slab[index];
}

/* Pins the slab, and registers it where windows are bound to it. Return: NULL where its pages go by UDP. */
static struct bb_rdma_slab *slab_ready(struct bb_rdma_home *h, uint64_t index)
{
	struct bb_rdma_slab *s = slab_at(h, index);
	void *mem;
	int r;

	if (!s || s->refused)
		return NULL;
	if (s->ready)
		return s;
	r = -bb_home_pin(h->home, index, &mem);
	if (!r && h->dev->windows) {
		s->mr = ibv_reg_mr(h->pd, mem, BB_SLAB_SIZE, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
		if (!s->mr) {
			r = errno ? errno : EIO;
			bb_home_unpin(h->home, index);
		}
	}
	if (r) {
		refused(h, index, r);
		return NULL;
	}
	s->ready = true;
	pthread_mutex_lock(&h->lock);
	h->stats.slabs++;
	pthread_mutex_unlock(&h->lock);
	return s;
}

/* --- windows ------------------------------------------------------------------------ */

/* Out of the lists. Lock held. */
static void unlist(struct bb_rdma_home *h, struct bb_rdma_opening *o)
{
	struct bb_rdma_opening **b = bucket_of(h, o->extent);

	DL_DELETE2(*b, o, bprev, bnext);
	if (!o->link)
		return;
	DL_DELETE(o->link->openings, o);
	h->stats.windows--;
}

/*
 * Closes it. Return: false where it may still be used; then it stays in its bucket,
 * of no link, and is tried again when its extent is to go. Lock held.
 */
static bool destroy(struct bb_rdma_home *h, struct bb_rdma_opening *o)
{
	struct bb_rdma_opening **b = bucket_of(h, o->extent);
	const int r = o->mw ? ibv_dealloc_mw(o->mw) : ibv_dereg_mr(o->mr);

	if (r) {
		o->link = NULL;
		DL_APPEND2(*b, o, bprev, bnext);
		return false;
	}
	free(o);
	return true;
}

void bb_rdma_windows_end(struct bb_rdma_home *h, struct bb_rdma_hlink *l)
{
	while (l->openings) {
		struct bb_rdma_opening *o = l->openings;

		unlist(h, o);
		destroy(h, o);
	}
}

bool bb_rdma_windows_shut(void *arg, uint32_t extent)
{
	struct bb_rdma_home *h = arg;
	struct bb_rdma_opening *o, *next, *mine = NULL;
	bool ok = true;

	pthread_mutex_lock(&h->lock);
	DL_FOREACH_SAFE2(*bucket_of(h, extent), o, next, bnext) {
		if (o->extent != extent)
			continue;
		unlist(h, o);
		DL_APPEND2(mine, o, bprev, bnext);
	}
	DL_FOREACH_SAFE2(mine, o, next, bnext) {
		DL_DELETE2(mine, o, bprev, bnext);
		ok &= destroy(h, o);
	}
	pthread_mutex_unlock(&h->lock);
	if (!ok)
		bb_error("rdma: a window on lent memory cannot be closed: these 2 MiB are not lent again");
	return ok;
}

/* When nobody asks for one any more. Return: false where some cannot be closed. */
static bool shut_all(struct bb_rdma_home *h)
{
	struct bb_rdma_opening *o, *next;
	bool ok = true;

	for (unsigned int i = 0; i < BB_RDMA_BUCKETS; i++) {
		DL_FOREACH_SAFE2(h->bucket[i], o, next, bnext) {
			ok &= !(o->mw ? ibv_dealloc_mw(o->mw) : ibv_dereg_mr(o->mr));
			DL_DELETE2(h->bucket[i], o, bprev, bnext);
			free(o);
		}
	}
	return ok;
}

static struct bb_rdma_opening *make(struct bb_rdma_home *h, struct bb_rdma_hlink *l, const struct bb_rdma_slab *s, void *mem,
				    struct ibv_send_wr *bind)
{
	const unsigned int access = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	struct bb_rdma_opening *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->link = l;
	*bind = (struct ibv_send_wr){ .opcode = IBV_WR_SEND };
	if (!h->dev->windows) {
		o->mr = ibv_reg_mr(h->pd, mem, BB_EXTENT_SIZE, IBV_ACCESS_LOCAL_WRITE | access);
		if (!o->mr)
			goto err;
		o->rkey = o->mr->rkey;
		return o;
	}
	o->mw = ibv_alloc_mw(h->pd, IBV_MW_TYPE_2);
	if (!o->mw)
		goto err;
	o->rkey = ibv_inc_rkey(o->mw->rkey);
	bind->opcode = IBV_WR_BIND_MW;
	bind->bind_mw.mw = o->mw;
	bind->bind_mw.rkey = o->rkey;
	bind->bind_mw.bind_info = (struct ibv_mw_bind_info){
		.mr = s->mr, .addr = (uintptr_t)mem, .length = BB_EXTENT_SIZE, .mw_access_flags = access,
	};
	return o;
err:
	bb_warn_once("rdma: no window on lent memory can be had (%m): pages go by UDP");
	free(o);
	return NULL;
}

uint8_t bb_rdma_window_open(struct bb_rdma_home *h, struct bb_rdma_hlink *l, struct bb_rdma_msg *m, struct ibv_send_wr *bind)
{
	const struct bb_home_who who = { .tenant = l->who.tenant, .node = l->who.node, .boot = l->who.boot };
	const uint64_t offset = bb_ptr_offset(m->ptr);
	const struct bb_rdma_slab *s;
	struct bb_rdma_opening *o, *again, **b;
	void *mem;
	uint8_t st = bb_home_window(h->home, who, m->ptr, &mem);
	bool ended;

	if (st != BB_ST_OK)
		return st;
	s = slab_ready(h, offset >> BB_SLAB_SHIFT);
	o = s ? make(h, l, s, mem, bind) : NULL;
	if (!o) {
		bb_home_put(h->home, m->ptr, BB_EXTENT_SIZE, false);
		return BB_ST_COMMAND;
	}
	o->extent = (uint32_t)(offset >> BB_EXTENT_SHIFT);
	m->rkey = o->rkey;
	m->addr = (uintptr_t)mem;
	pthread_mutex_lock(&h->lock);
	b = bucket_of(h, o->extent);
	DL_APPEND(l->openings, o);
	DL_APPEND2(*b, o, bprev, bnext);
	h->stats.windows++;
	ended = l->ended; /* then nobody else closes it; else whoever ends the link does */
	pthread_mutex_unlock(&h->lock);
	if (!ended && bb_home_alive(h->home, m->ptr))
		return BB_ST_OK;
	/* It was taken away meanwhile. Is the window ours to close still? */
	pthread_mutex_lock(&h->lock);
	DL_FOREACH(l->openings, again) {
		if (again == o)
			break;
	}
	if (again) {
		unlist(h, o);
		destroy(h, o);
	}
	pthread_mutex_unlock(&h->lock);
	bb_home_put(h->home, m->ptr, BB_EXTENT_SIZE, false);
	return BB_ST_GENERATION;
}

void bb_rdma_window_given(struct bb_rdma_home *h, const struct bb_rdma_msg *m)
{
	bb_home_put(h->home, m->ptr, BB_EXTENT_SIZE, false);
}

void bb_rdma_slabs_release(struct bb_rdma_home *h)
{
	const bool shut = shut_all(h);

	for (uint64_t i = 0; i < h->nslabs; i++) {
		/* Where it cannot be undone the pages stay as they are. */
		if (h->slab[i].ready && (!h->slab[i].mr || !ibv_dereg_mr(h->slab[i].mr)) && shut)
			bb_home_unpin(h->home, i);
	}
	free(h->slab);
	h->slab = NULL;
	h->nslabs = 0;
}
