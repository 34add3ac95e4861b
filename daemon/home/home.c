/* SPDX-License-Identifier: MIT */
/*
 * The home: who owns which extent of the lent memory, and who may touch it.
 *
 * Theory of operation
 * -------------------
 * An extent has one atomic word {generation:16, state:16, readers:32}. A get
 * takes a reference by a compare-and-swap that at once proves that the extent
 * is LIVE in the generation that the pointer names. As long as a reference is
 * held, owner, tenant and flags cannot change and the memory stays.
 *
 *	FREE --create--> LIVE --delete--> DYING --last reader--> DIRTY --> FREE
 *	        LIVE <--begin, over--> MOVING --commit--> MOVED --release--> DYING
 *
 * delete raises the generation in the same swap that leaves LIVE, so that no
 * get that comes later succeeds. Whoever sees DYING without readers (delete
 * itself after a bounded spin, else the put of the last reader) swaps it to
 * DIRTY: exactly one succeeds, and queues the extent for the scrubber thread,
 * which gives the memory back to the kernel. That takes 0.4 ms in memory and
 * 3 ms on a disk, too long for the thread that serves READs. A create that
 * finds nothing else scrubs an extent itself. Only then is it free for another
 * owner, who reads zeros.
 *
 * Extents and slabs lie in kept memory. Every word there makes sense at every
 * instruction: owner and tenant are written before LIVE, DIRTY stays until the
 * memory has been given back. So after a SIGKILL it is enough to forget the
 * readers, to let what was dying be scrubbed, and to count again (restore()).
 *
 * In slabs that are maps the kernel serves READs by itself, without a reference:
 * each extent's word there (bluebridge/steer.h) is set after LIVE, and cleared
 * before LIVE is left; writers count in each page that they touch. Since LIVE
 * stands for what should be published, a restart does that again from the table.
 *
 * Lock order: one mutex (create, delete's books, the lists), nothing else. It
 * is not held while memory is given back.
 */
#include "home_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "keep/keep.h"
#include "log.h"
#include "rights.h"

#define NONE 0xffffffffu
#define SPIN_ROUNDS 2000
/* After the disk was found full, no room is announced for so long. */
#define FULL_NS 5000000000ULL
/* A create waits at most so long for the extents that are being scrubbed. */
#define SCRUB_WAIT_NS 1000000000L
/*
 * The table has room for that many, 64 TiB, whatever is lent: a bbd that lends
 * more or less than its predecessor finds the same one. It takes memory for
 * extents that were given out only.
 */
#define TABLE_EXTENTS (1u << 25)

#define OWNED_STATES (1u << X_LIVE | 1u << X_MOVING | 1u << X_MOVED)

static uint16_t gen_after(uint16_t gen)
{
	return gen == 0xffff ? 1 : (uint16_t)(gen + 1);
}

uint8_t bb_home_refuse(struct bb_home *h, uint8_t status)
{
	atomic_fetch_add_explicit(&h->refused[status], 1, memory_order_relaxed);
	return status;
}

/* Takes a dirty extent and cleans it. Lock held, but not throughout. Return: whether there was one. */
static bool scrub_one(struct bb_home *h)
{
	const uint32_t i = h->dirty_head;
	struct extent *x;
	uint64_t w;

	if (i == NONE)
		return false;
	x = &h->extents[i];
	h->dirty_head = x->next;
	h->scrubbing++;
	pthread_mutex_unlock(&h->lock);
	bb_slabs_discard(&h->slabs, (uint64_t)i << BB_EXTENT_SHIFT, BB_EXTENT_SIZE);
	pthread_mutex_lock(&h->lock);
	h->scrubbing--;
	w = atomic_load_explicit(&x->word, memory_order_relaxed);
	atomic_store_explicit(&x->word, word_make(word_gen(w), X_FREE, 0), memory_order_release);
	x->next = h->free_head;
	h->free_head = i;
	pthread_cond_broadcast(&h->clean);
	return true;
}

static void *scrubber(void *arg)
{
	struct bb_home *h = arg;

	prctl(PR_SET_NAME, "bbd-scrubber");
	bb_rights_thread(BB_ROLE_SCRUBBER);
	pthread_mutex_lock(&h->lock);
	while (!h->stop)
		if (!scrub_one(h))
			pthread_cond_wait(&h->dirt, &h->lock);
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

/* Waits until a scrub that is under way ends. Lock held. Return: whether one was. */
static bool wait_for_scrub(struct bb_home *h)
{
	struct timespec t;

	if (!h->scrubbing)
		return false;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += SCRUB_WAIT_NS;
	t.tv_sec += t.tv_nsec / 1000000000L;
	t.tv_nsec %= 1000000000L;
	return !pthread_cond_timedwait(&h->clean, &h->lock, &t);
}

/* Return: 0 or -errno. */
static int map_table(struct bb_home *h, struct bb_keep *keep)
{
	const size_t bytes = TABLE_EXTENTS * sizeof(*h->extents);
	bool found;
	int fd = bb_keep_memory(keep, "home.table", bytes, &found);
	void *at;

	if (fd < 0)
		return fd;
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return -errno;
	madvise(at, bytes, MADV_DONTFORK);
	h->extents = at;
	return 0;
}

static uint16_t random_gen(void)
{
	uint16_t gen;

	/* Random, so that a pointer that outlived a restart is hardly ever good. */
	if (getrandom(&gen, sizeof(gen), GRND_NONBLOCK) != sizeof(gen))
		gen = (uint16_t)(bb_now_ns() >> 4);
	return gen ? gen : 1;
}

static void publish(struct bb_home *h, uint32_t i)
{
	const struct extent *x = &h->extents[i];

	bb_slabs_publish(&h->slabs, (uint64_t)i << BB_EXTENT_SHIFT,
			 bb_xw(word_gen(atomic_load(&x->word)), x->tenant, x->node, x->flags & BB_X_SHARED));
}

void bb_home_unpublish(struct bb_home *h, uint32_t i)
{
	bb_slabs_publish(&h->slabs, (uint64_t)i << BB_EXTENT_SHIFT, 0);
}

/* Makes lists and counts from what a predecessor left. The kernel may be serving it. */
static void restore(struct bb_home *h)
{
	const uint64_t grown = h->slabs.grown >> BB_EXTENT_SHIFT;

	bb_slabs_settle(&h->slabs);
	for (h->next_new = (uint32_t)grown; h->next_new; h->next_new--) {
		if (atomic_load(&h->extents[h->next_new - 1].word))
			break;
		bb_home_unpublish(h, h->next_new - 1);
	}
	for (uint32_t i = h->next_new; i--;) {
		struct extent *x = &h->extents[i];
		uint64_t w = atomic_load(&x->word);

		if (word_state(w) != X_LIVE && word_state(w) != X_MOVING)
			bb_home_unpublish(h, i);
		switch (word_state(w)) {
		case X_MOVED:
			atomic_store(&x->word, word_make(word_gen(w), X_MOVED, 0));
			h->owned[x->node]++;
			h->live++;
			h->taken++;
			break;
		case X_LIVE:
		case X_MOVING: /* who moved it hears of it when it wants to end that */
			publish(h, i);
			atomic_store(&x->word, word_make(word_gen(w), X_LIVE, 0));
			h->owned[x->node]++;
			h->live++;
			h->taken++;
			break;
		case X_FREE:
			if (!w)
				atomic_store(&x->word, word_make(random_gen(), X_FREE, 0));
			x->next = h->free_head;
			h->free_head = i;
			break;
		default: /* the readers have gone with their process */
			atomic_store(&x->word, word_make(word_gen(w), X_DIRTY, 0));
			x->next = h->dirty_head;
			h->dirty_head = i;
		}
	}
	h->bound = h->nextents > h->next_new ? h->nextents : h->next_new;
}

int bb_home_new(struct bb_home **out, const struct bb_home_config *cfg)
{
	const uint64_t n = cfg->lend >> BB_EXTENT_SHIFT;
	struct bb_home *h;
	int ret;

	if (n > TABLE_EXTENTS)
		return -EINVAL;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	ret = bb_slabs_init(&h->slabs, n << BB_EXTENT_SHIFT, cfg->store, cfg->keep);
	if (ret)
		goto err_home;
	ret = map_table(h, cfg->keep);
	if (ret)
		goto err_slabs;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->dirt, NULL);
	pthread_cond_init(&h->clean, NULL);
	h->nextents = (uint32_t)n;
	h->quota = cfg->quota >> BB_EXTENT_SHIFT;
	if (cfg->quota && !h->quota)
		h->quota = 1; /* a quota below an extent: the least that can be had */
	h->free_head = h->dirty_head = NONE;
	restore(h);
	ret = -pthread_create(&h->scrubber, NULL, scrubber, h);
	if (ret)
		goto err_table;
	*out = h;
	return 0;

err_table:
	munmap(h->extents, TABLE_EXTENTS * sizeof(*h->extents));
err_slabs:
	bb_slabs_fini(&h->slabs);
err_home:
	free(h);
	return ret;
}

void bb_home_free(struct bb_home *h)
{
	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	h->stop = true;
	pthread_cond_signal(&h->dirt);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->scrubber, NULL);
	bb_slabs_fini(&h->slabs);
	pthread_cond_destroy(&h->dirt);
	pthread_cond_destroy(&h->clean);
	pthread_mutex_destroy(&h->lock);
	munmap(h->extents, TABLE_EXTENTS * sizeof(*h->extents));
	free(h);
}

/*
 * Takes an extent off the free list or out of new slabs. Lock held. Return:
 * index or NONE; *soon: the next slab is being made.
 */
static uint32_t take(struct bb_home *h, bool *soon)
{
	uint32_t i = h->free_head;
	int ret;

	/* Those beyond what is lent now are not given out again. */
	while (i != NONE && i >= h->nextents)
		i = h->free_head = h->extents[i].next;
	if (i != NONE) {
		h->free_head = h->extents[i].next;
		return i;
	}
	if (h->next_new >= h->nextents)
		return NONE;
	if ((uint64_t)h->next_new << BB_EXTENT_SHIFT >= atomic_load(&h->slabs.grown)) {
		ret = bb_slabs_grow(&h->slabs);
		*soon = ret == -EAGAIN;
		if (ret) {
			if (*soon)
				return NONE;
			errno = -ret;
			bb_warn_once("cannot make another slab of memory to lend: %m; CREATE is refused until it can");
			h->full_until = bb_now_ns() + FULL_NS;
			return NONE;
		}
	}
	i = h->next_new++;
	atomic_store(&h->extents[i].word, word_make(random_gen(), X_FREE, 0));
	return i;
}

uint8_t bb_home_create(struct bb_home *h, struct bb_home_who who, uint8_t flags, uint64_t *ptr)
{
	bool soon = false;
	struct extent *x;
	uint16_t gen;
	uint32_t i;
	int ret;

	if (!who.node || who.node == BB_NODE_ANY)
		return bb_home_refuse(h, BB_ST_MALFORMED);
	pthread_mutex_lock(&h->lock);
	if (h->quota && h->owned[who.node] >= h->quota)
		goto nospace;
again:
	i = take(h, &soon);
	bb_home_look_ahead(h, soon);
	if (i == NONE) {
		if (scrub_one(h) || (!soon && wait_for_scrub(h)))
			goto again;
		if (soon) {
			pthread_mutex_unlock(&h->lock);
			return bb_home_refuse(h, BB_ST_BUSY);
		}
		goto nospace;
	}
	x = &h->extents[i];
	ret = bb_slabs_back(&h->slabs, (uint64_t)i << BB_EXTENT_SHIFT, BB_EXTENT_SIZE);
	if (ret) {
		x->next = h->free_head;
		h->free_head = i;
		/* What was freed a moment ago may make the room. */
		if (scrub_one(h) || wait_for_scrub(h))
			goto again;
		errno = -ret;
		bb_warn_once("the store has no room for another extent: %m; CREATE is refused until it has");
		h->full_until = bb_now_ns() + FULL_NS;
		goto nospace;
	}
	x->tenant = who.tenant;
	x->node = who.node;
	x->boot = who.boot;
	x->flags = (flags & BB_F_SHARED ? BB_X_SHARED : 0) | (flags & BB_HOME_ADOPTED ? BB_X_ADOPTED : 0);
	h->owned[who.node]++;
	h->live++;
	h->taken++;
	h->full_until = 0;
	gen = word_gen(atomic_load_explicit(&x->word, memory_order_relaxed));
	*ptr = bb_ptr(gen, (uint64_t)i << BB_EXTENT_SHIFT);
	atomic_store_explicit(&x->word, word_make(gen, X_LIVE, 0), memory_order_release);
	publish(h, i);
	pthread_mutex_unlock(&h->lock);
	atomic_fetch_add_explicit(&h->creates, 1, memory_order_relaxed);
	return BB_ST_OK;

nospace:
	pthread_mutex_unlock(&h->lock);
	return bb_home_refuse(h, BB_ST_NOSPACE);
}

/*
 * Queues a DYING extent without readers for the scrubber. The lock is not
 * held. Return: whether it is no longer DYING (by us or by another).
 */
static bool try_release(struct bb_home *h, uint32_t i)
{
	struct extent *x = &h->extents[i];
	uint64_t w = atomic_load_explicit(&x->word, memory_order_acquire);

	if (word_state(w) != X_DYING)
		return true;
	if (word_readers(w))
		return false;
	if (!atomic_compare_exchange_strong(&x->word, &w, word_make(word_gen(w), X_DIRTY, 0)))
		return word_state(w) != X_DYING;
	pthread_mutex_lock(&h->lock);
	x->next = h->dirty_head;
	h->dirty_head = i;
	h->taken--;
	pthread_cond_signal(&h->dirt);
	pthread_mutex_unlock(&h->lock);
	return true;
}

bool bb_home_kill(struct bb_home *h, struct extent *x, uint16_t gen, unsigned int states)
{
	uint64_t w = atomic_load_explicit(&x->word, memory_order_acquire);

	if (!(states >> word_state(w) & 1) || word_gen(w) != gen)
		return false;
	/*
	 * Nobody else leaves these states meanwhile, so nothing is withdrawn in vain.
	 * First of all, since from DYING on the bytes may become another's at any time.
	 */
	bb_home_unpublish(h, (uint32_t)(x - h->extents));
	do {
		if (!(states >> word_state(w) & 1) || word_gen(w) != gen)
			return false;
		/* Ours among them, so that the memory stays until the windows on it are closed. */
	} while (!atomic_compare_exchange_weak(&x->word, &w, word_make(gen_after(gen), X_DYING, word_readers(w) + 1)));
	if (bb_home_shut(h, (uint32_t)(x - h->extents)))
		atomic_fetch_sub(&x->word, 1);
	h->owned[x->node]--;
	h->live--;
	atomic_fetch_add_explicit(&h->deletes, 1, memory_order_relaxed);
	return true;
}

void bb_home_release(struct bb_home *h, uint32_t i)
{
	for (int n = 0; n < SPIN_ROUNDS && !try_release(h, i); n++)
		bb_cpu_relax();
}

static uint8_t rights(const struct extent *x, struct bb_home_who who, bool change)
{
	if (x->tenant != who.tenant)
		return BB_ST_TENANT;
	if (x->node != who.node && (change || !(x->flags & BB_X_SHARED)))
		return BB_ST_RIGHTS;
	return BB_ST_OK;
}

bool bb_home_exists(const struct bb_home *h, uint64_t offset)
{
	return offset < atomic_load_explicit(&h->slabs.grown, memory_order_acquire) &&
	       offset >> BB_EXTENT_SHIFT < h->bound;
}

uint8_t bb_home_delete(struct bb_home *h, struct bb_home_who who, uint64_t ptr)
{
	const uint64_t offset = bb_ptr_offset(ptr);
	const uint32_t i = (uint32_t)(offset >> BB_EXTENT_SHIFT);
	uint8_t status = BB_ST_OK;
	struct extent *x;
	uint64_t w;

	if (!bb_home_exists(h, offset))
		return bb_home_refuse(h, BB_ST_BOUNDS);
	if (offset & (BB_EXTENT_SIZE - 1))
		return bb_home_refuse(h, BB_ST_MALFORMED);
	x = &h->extents[i];
	bb_home_move_over(h, i);
	pthread_mutex_lock(&h->lock);
	w = atomic_load_explicit(&x->word, memory_order_acquire);
	/* Under the lock nobody else leaves LIVE, so the owner can be read. */
	if (!(OWNED_STATES >> word_state(w) & 1) || word_gen(w) != bb_ptr_gen(ptr))
		status = BB_ST_GENERATION;
	else
		status = rights(x, who, true);
	/* On its way: the new owner will do it, or we, in a moment. */
	if (status == BB_ST_OK && word_state(w) != X_LIVE)
		status = BB_ST_BUSY;
	if (status == BB_ST_OK && !bb_home_kill(h, x, bb_ptr_gen(ptr), 1u << X_LIVE))
		status = BB_ST_GENERATION;
	pthread_mutex_unlock(&h->lock);
	if (status != BB_ST_OK)
		return bb_home_refuse(h, status);
	bb_home_release(h, i);
	return BB_ST_OK;
}

uint8_t bb_home_get(struct bb_home *h, struct bb_home_who who, uint64_t ptr, uint32_t len, bool write, void **data)
{
	const uint64_t offset = bb_ptr_offset(ptr);
	struct extent *x;
	uint8_t status;
	uint64_t w;

	if (!len)
		return bb_home_refuse(h, BB_ST_MALFORMED);
	if (!bb_home_exists(h, offset) || (offset & (BB_EXTENT_SIZE - 1)) + len > BB_EXTENT_SIZE)
		return bb_home_refuse(h, BB_ST_BOUNDS);
	x = &h->extents[offset >> BB_EXTENT_SHIFT];
	w = atomic_load_explicit(&x->word, memory_order_acquire);
	do {
		if (!(OWNED_STATES >> word_state(w) & 1) || word_gen(w) != bb_ptr_gen(ptr))
			return bb_home_refuse(h, BB_ST_GENERATION);
		if (__builtin_expect(word_state(w) == X_LIVE, 1))
			continue;
		if (word_state(w) == X_MOVED)
			return bb_home_refuse(h, BB_ST_BUSY);
		if (write && !bb_home_move_over(h, (uint32_t)(offset >> BB_EXTENT_SHIFT)))
			return bb_home_refuse(h, BB_ST_BUSY);
		if (write)
			w = atomic_load_explicit(&x->word, memory_order_acquire);
		/* A write that finds it MOVING once more is refused by the state that it takes. */
		if (write && word_state(w) != X_LIVE)
			return bb_home_refuse(h, word_gen(w) == bb_ptr_gen(ptr) ? BB_ST_BUSY : BB_ST_GENERATION);
	} while (!atomic_compare_exchange_weak_explicit(&x->word, &w, w + 1, memory_order_acquire,
							memory_order_acquire));
	/* The mover reads what is another's. */
	if (word_state(w) == X_MOVING && !write && who.tenant == x->tenant && who.node == x->to)
		status = BB_ST_OK;
	else
		status = rights(x, who, write);
	if (status != BB_ST_OK) {
		bb_home_put(h, ptr, len, false);
		return bb_home_refuse(h, status);
	}
	atomic_fetch_add_explicit(write ? &h->writes : &h->reads, 1, memory_order_relaxed);
	if (write)
		bb_slabs_seq(&h->slabs, offset, len, BB_SEQ_BEGIN);
	*data = h->slabs.base + offset;
	return BB_ST_OK;
}

void bb_home_put(struct bb_home *h, uint64_t ptr, uint32_t len, bool write)
{
	const uint64_t offset = bb_ptr_offset(ptr);
	const uint32_t i = (uint32_t)(offset >> BB_EXTENT_SHIFT);
	uint64_t w;

	if (write)
		bb_slabs_seq(&h->slabs, offset, len, BB_SEQ_END);
	w = atomic_fetch_sub_explicit(&h->extents[i].word, 1, memory_order_acq_rel);
	if (word_state(w) == X_DYING && word_readers(w) == 1)
		try_release(h, i);
}

uint64_t bb_home_reclaim(struct bb_home *h, struct bb_home_who who)
{
	uint64_t bytes = 0;
	bool dead;

	for (uint32_t i = 0;; i++) {
		struct extent *x = &h->extents[i];

		pthread_mutex_lock(&h->lock);
		if (i >= h->next_new || !h->owned[who.node]) {
			pthread_mutex_unlock(&h->lock);
			break;
		}
		dead = x->node == who.node && x->tenant == who.tenant &&
		       (!who.boot || x->boot == who.boot) &&
		       bb_home_kill(h, x, word_gen(atomic_load(&x->word)), OWNED_STATES);
		pthread_mutex_unlock(&h->lock);
		if (!dead)
			continue;
		bytes += BB_EXTENT_SIZE;
		try_release(h, i);
	}
	return bytes;
}

uint64_t bb_home_owned(struct bb_home *h, uint16_t node)
{
	uint64_t n;

	pthread_mutex_lock(&h->lock);
	n = h->owned[node];
	pthread_mutex_unlock(&h->lock);
	return n << BB_EXTENT_SHIFT;
}

uint64_t bb_home_lent_out(struct bb_home *h, uint16_t own)
{
	uint64_t n;

	pthread_mutex_lock(&h->lock);
	n = h->live - h->owned[own];
	pthread_mutex_unlock(&h->lock);
	return n << BB_EXTENT_SHIFT;
}

void bb_home_stats(struct bb_home *h, struct bb_home_stats *out)
{
	pthread_mutex_lock(&h->lock);
	out->lent = (uint64_t)h->nextents << BB_EXTENT_SHIFT;
	out->used = h->taken << BB_EXTENT_SHIFT;
	out->extents = h->live;
	out->grown = atomic_load(&h->slabs.grown);
	out->mapped = 0;
	for (uint64_t i = 0; bb_slabs_next_map(&h->slabs, &i) >= 0; i++)
		out->mapped += BB_SLAB_SIZE;
	/* A full disk: do not announce what cannot be had. */
	if ((h->full_until && bb_now_ns() < h->full_until) || out->lent < out->used)
		out->lent = out->used;
	pthread_mutex_unlock(&h->lock);
	out->reads = atomic_load_explicit(&h->reads, memory_order_relaxed);
	out->writes = atomic_load_explicit(&h->writes, memory_order_relaxed);
	out->creates = atomic_load_explicit(&h->creates, memory_order_relaxed);
	out->deletes = atomic_load_explicit(&h->deletes, memory_order_relaxed);
	for (int i = 0; i < BB_ST_MAX; i++)
		out->refused[i] = atomic_load_explicit(&h->refused[i], memory_order_relaxed);
}
