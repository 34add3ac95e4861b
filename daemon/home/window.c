/* SPDX-License-Identifier: MIT */
/*
 * Windows through which an owner's NIC reads and writes an extent by itself
 * (RDMA), without a look at the extent's word. So they are what must go before
 * the memory can become another's.
 *
 * Theory of operation
 * -------------------
 * Who opens one holds a reference, notes it where shut() will find it, and looks
 * at the word after that. Who takes an extent out of LIVE swaps the word first,
 * holding a reference too, and calls shut() then. In whichever order the two come:
 * either the one that opens sees that it is LIVE no more, and closes it again, or
 * shut() sees the window. (To shut first and swap then would leave the moment
 * between the two.) Until both references are gone the memory stays; a window that
 * cannot be closed keeps it for ever. A move's BEGIN is answered after shut(), so
 * the mover reads what no WRITE changes any more.
 *
 * The kernel's READs (bluebridge/steer.h) see no one-sided WRITE in a page's
 * count. That tears nothing for others, who may not read such an extent: what is
 * SHARED has no windows. The owner does not read a page while it writes it, and
 * has its hash.
 */
#include "home_impl.h"

void bb_home_windows(struct bb_home *h, const struct bb_home_windows *w)
{
	pthread_mutex_lock(&h->lock);
	h->windows = w ? *w : (struct bb_home_windows){ 0 };
	pthread_mutex_unlock(&h->lock);
}

bool bb_home_shut(struct bb_home *h, uint32_t i)
{
	return !h->windows.shut || h->windows.shut(h->windows.arg, i);
}

uint8_t bb_home_window(struct bb_home *h, struct bb_home_who who, uint64_t ptr, void **mem)
{
	const uint64_t offset = bb_ptr_offset(ptr);
	uint8_t st = BB_ST_OK;
	struct extent *x;
	uint64_t w;

	if (!bb_home_exists(h, offset))
		return bb_home_refuse(h, BB_ST_BOUNDS);
	if (offset & (BB_EXTENT_SIZE - 1))
		return bb_home_refuse(h, BB_ST_MALFORMED);
	x = &h->extents[offset >> BB_EXTENT_SHIFT];
	w = atomic_load_explicit(&x->word, memory_order_acquire);
	do {
		if (word_gen(w) != bb_ptr_gen(ptr))
			return bb_home_refuse(h, BB_ST_GENERATION);
		if (word_state(w) == X_MOVING || word_state(w) == X_MOVED)
			return BB_ST_BUSY;
		if (word_state(w) != X_LIVE)
			return bb_home_refuse(h, BB_ST_GENERATION);
	} while (!atomic_compare_exchange_weak(&x->word, &w, w + 1));
	if (x->tenant != who.tenant)
		st = BB_ST_TENANT;
	else if (x->node != who.node)
		st = BB_ST_RIGHTS;
	else if (x->flags)
		st = BB_ST_COMMAND;
	if (st != BB_ST_OK) {
		bb_home_put(h, ptr, BB_EXTENT_SIZE, false);
		return bb_home_refuse(h, st);
	}
	*mem = h->slabs.base + offset;
	return BB_ST_OK;
}

int bb_home_pin(struct bb_home *h, uint64_t index, void **mem)
{
	*mem = h->slabs.base + (index << BB_SLAB_SHIFT);
	return bb_slabs_pin(&h->slabs, index);
}

void bb_home_unpin(struct bb_home *h, uint64_t index)
{
	bb_slabs_unpin(&h->slabs, index);
}
