/* SPDX-License-Identifier: MIT */
/*
 * Slabs that are maps, made ahead of need: the kernel clears all of a map when
 * it is made (15 to 180 ms for 64 MiB), which no CREATE should wait for. One is
 * made at the start, and the next when three quarters of a slab are left: time
 * enough where others take up to 240 MiB a second. It is memory that is really
 * taken, so never more than that.
 */
#include "home_impl.h"

#include <errno.h>

#include "log.h"

#define AHEAD (BB_SLAB_EXTENTS / 4 * 3)

void bb_home_look_ahead(struct bb_home *h, bool now)
{
	const uint64_t grown = atomic_load(&h->slabs.grown) >> BB_EXTENT_SHIFT;
	const uint64_t room = grown < h->nextents ? grown : h->nextents;

	if (h->maker.wake && grown < h->nextents && (now || room <= h->taken + AHEAD) &&
	    bb_slabs_want(&h->slabs))
		h->maker.wake(h->maker.arg);
}

void bb_home_maps(struct bb_home *h, const struct bb_home_maker *maker)
{
	pthread_mutex_lock(&h->lock);
	h->maker = maker ? *maker : (struct bb_home_maker){ 0 };
	bb_slabs_maps(&h->slabs, maker);
	bb_home_look_ahead(h, false);
	pthread_mutex_unlock(&h->lock);
}

bool bb_home_claim(struct bb_home *h, uint64_t *index)
{
	bool got;

	pthread_mutex_lock(&h->lock);
	got = bb_slabs_claim(&h->slabs, index);
	pthread_mutex_unlock(&h->lock);
	return got;
}

int bb_home_give(struct bb_home *h, uint64_t index, int fd)
{
	/* Nobody else uses its place as long as it is being made. */
	int ret = fd < 0 ? fd : bb_slabs_prepare(&h->slabs, index, fd);

	if (ret) {
		errno = -ret;
		bb_warn_once("cannot make a map for memory to lend: %m; pages that come to lie elsewhere are served by bbd, "
			     "not in the kernel");
	}
	pthread_mutex_lock(&h->lock);
	bb_slabs_made(&h->slabs, !ret);
	pthread_mutex_unlock(&h->lock);
	return ret;
}

int bb_home_next_map(struct bb_home *h, uint64_t *index)
{
	int fd;

	pthread_mutex_lock(&h->lock);
	fd = bb_slabs_next_map(&h->slabs, index);
	pthread_mutex_unlock(&h->lock);
	return fd;
}
